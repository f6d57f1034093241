//! `plimsoll serve`: the one long-lived process. It owns the lock, the journal, the gate and the app.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_core::ports::{Failure, Service};
use plimsoll_dashboard::Dashboard;
use plimsoll_host::journal::Runs;
use plimsoll_host::logfile::LogFile;
use plimsoll_host::process::{become_subreaper, reap_orphans};
use plimsoll_host::release::Releases;
use plimsoll_host::service::{ProcessService, end_leftovers};
use plimsoll_proxy::control::{Control, ControlError, Session};
use plimsoll_proxy::{FrontDoor, GateState, Kept, Options, Page};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::audience::{Ask, Onlooker, Said, Show, StopWish};
use crate::config::{Config, ServiceKind};
use crate::error::Error;
use crate::follow;
use crate::inherited::{self, Way};
use crate::pages::{self, Pages};
use crate::past;
use crate::people::Person;
use crate::post;
use crate::readiness;
use crate::renewal::{self, Renewal};
use crate::station::{self, Handles, Pending, Station};
use crate::ui::Ui;
use crate::watcher;
use crate::wire::{Reply, Request, Status, Word};
use crate::wiring;

/// The app's log is begun anew at this size; so many old ones are kept.
const LOG_BYTES: u64 = 10 << 20;
const LOG_FILES: usize = 5;
/// How long a client may take to say what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// How long a person has to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(600);
/// The longest wait before the current release is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How often it is looked whether a run has ended, or a stop is wished.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a client may take to hear how its run ended.
const LISTENS: Duration = Duration::from_secs(3);
/// What ends `serve`.
const STOPS: [i32; 2] = [SIGINT, SIGTERM];

/// What the threads of `serve` share.
struct Served {
    station: Station,
    front: Option<Arc<FrontDoor>>,
    /// The app, when it is our child.
    app: Option<ProcessService>,
    /// Until the current release has been tried for the first time: those who wait at the door wait for that.
    booting: AtomicBool,
    /// Clients who are owed an answer.
    talking: AtomicUsize,
    /// What keeps users out, each a sentence.
    trouble: Mutex<Vec<String>>,
}

/// `plimsoll serve`
pub(crate) fn run(config: &Config, ui: &Arc<Ui>) -> Result<(), Error> {
    let failed = |failure: Failure| follow::plain(failure);
    let lock = station::own(config, "serve")?;
    // Grandchildren whose parent dies come to us, so that none is lost.
    become_subreaper().map_err(|e| Error::failed("plimsoll serve cannot start").why(e.to_string()))?;
    let (front, listener) = front(config)?.unzip();
    let front = front.map(Arc::new);
    let log = LogFile::open(&wiring::log_file(config), LOG_BYTES, LOG_FILES).map_err(|e| failed(e.into()))?;
    let (service, app, handles): (Box<dyn Service + Send>, _, _) = match &config.service.kind {
        ServiceKind::Process { command } => {
            let (service, handles) =
                wiring::own_service(config, command, &log, front.as_ref()).map_err(failed)?;
            (Box::new(service.clone()), Some(service), handles)
        }
        _ => {
            let (service, handles) = wiring::others_service(config)?;
            (service, None, handles)
        }
    };
    let adopted = app.as_ref().and_then(|app| adopt(config, app));
    if let Some(role) = &adopted {
        ui.say(&format!("still running from before, and taken over: {role}"));
    }
    let ended = end_leftovers(&config.app.root, adopted.as_deref()).map_err(failed)?;
    for what in &ended {
        ui.say(&format!("left over from before: {what}"));
    }
    let past = front.as_ref().map(|front| past::keep(front, config.watch.errors_for));
    let handles = Handles { past, ..handles };
    let station = Station::new(config, lock, front.clone(), service, handles);
    let served = Arc::new(Served {
        station,
        front,
        app,
        booting: AtomicBool::new(true),
        talking: AtomicUsize::new(0),
        trouble: Mutex::default(),
    });
    let control = Control::bind(&station::socket(config)).map_err(control_error)?;
    let renewal = Renewal::new(config);
    let mut signals =
        renewal::signals().map_err(|e| Error::failed("signals cannot be caught").why(e.to_string()))?;

    let dashboard = dashboard(&served)?;
    let (booting, said) = (Arc::clone(&served), Arc::clone(ui));
    thread::spawn(move || {
        booting.boot(ended, &said);
        booting.booting.store(false, Ordering::SeqCst);
    });
    let accepting = Arc::clone(&served);
    thread::spawn(move || {
        while let Ok(session) = control.accept() {
            let served = Arc::clone(&accepting);
            thread::spawn(move || converse(&served, session));
        }
    });
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_secs(1));
            let _ = reap_orphans();
        }
    });
    let (sending, watching) = (Arc::clone(&served), Arc::clone(&served));
    let (quiet, shown) = (Onlooker::nobody(), Arc::clone(ui));
    thread::spawn(move || post::send_forever(&sending.station, &quiet));
    thread::spawn(move || watcher::watch_forever(&watching.station, &shown));
    let where_to = match &served.front {
        Some(front) => format!("{}: front door on {}", config.app.name, front.local_addr()),
        None => format!("{}: no front door", config.app.name),
    };
    ui.say(&where_to);
    if let Some(dashboard) = &dashboard {
        ui.say(&format!("dashboard on http://{}", dashboard.address()));
    }
    readiness::ready(&where_to);
    loop {
        // SIGHUP is none of these: a terminal that goes away takes nothing with it.
        let heard: Vec<i32> = signals.wait().collect();
        if heard.iter().any(|signal| STOPS.contains(signal)) {
            break;
        }
        if heard.contains(&SIGUSR2) {
            match renewal.possible() {
                Ok(()) => match renew(&served, &renewal, listener.as_ref(), &mut signals, ui) {
                    Some(error) => return Err(error),
                    None => break,
                },
                Err(error) => ui.error(&error),
            }
        }
    }
    readiness::stopping();
    ui.say("stopping: no new requests; what is running is finished first");
    drop(dashboard);
    let result = served.close(config);
    let _ = std::fs::remove_file(station::socket(config));
    result.map_err(failed)
}

/// Becomes the program of now. Returns why it could not; nothing when it was asked to stop meanwhile, which the new
/// program would know nothing of.
fn renew(
    served: &Served,
    renewal: &Renewal,
    listener: Option<&TcpListener>,
    signals: &mut Signals,
    ui: &Ui,
) -> Option<Error> {
    ui.say("renewing: requests and a run that are going on are finished first; the app runs on");
    let mut stopped = || signals.pending().any(|signal| STOPS.contains(&signal));
    let _alone = loop {
        if stopped() {
            return None;
        }
        if !served.booting.load(Ordering::SeqCst)
            && let Some(alone) = served.station.unless_running()
        {
            break alone;
        }
        thread::sleep(GLANCE);
    };
    served.until_told();
    let clients = served.leave();
    if stopped() { None } else { Some(renewal.begin(listener, &clients)) }
}

/// The pages, when they are configured.
fn dashboard(served: &Arc<Served>) -> Result<Option<Dashboard>, Error> {
    let config = served.station.config();
    let Some(settings) = &config.dashboard else { return Ok(None) };
    let listener = TcpListener::bind(settings.listen).map_err(|error| {
        Error::usage(format!("the dashboard cannot listen on {}", settings.listen))
            .why(error.to_string())
            .state("nothing was started")
            .next("choose another [dashboard].listen")
    })?;
    let (asked, answering, hearing) = (Arc::clone(served), Arc::clone(served), Arc::clone(served));
    let pages = Pages {
        config: config.clone(),
        hear: Box::new(move |run, what| hearing.station.hear(Some(run), what)),
        front: served.front.clone(),
        status: Box::new(move || asked.status()),
        go_ahead: Box::new(move |yes, by| answering.station.go_ahead(yes, by)),
    };
    let dashboard = Dashboard::start(listener, pages::login(settings)?, Arc::new(pages))
        .map_err(|error| Error::failed("the dashboard cannot be started").why(error.to_string()))?;
    Ok(Some(dashboard))
}

/// The app that still runs from before, when nothing else is open: then it is what would be started now.
fn adopt(config: &Config, app: &ProcessService) -> Option<String> {
    let runs = Runs::of(&config.app.root);
    let settled = matches!(runs.unfinished(), Ok(None)) && !config.runs().join("HELD").exists();
    let current = Releases::new(&config.app.root).current().ok().flatten().filter(|_| settled)?;
    app.adopt(&current)
}

/// The front door, and its listener once more: what waits at it waits on when the door is gone.
fn front(config: &Config) -> Result<Option<(FrontDoor, TcpListener)>, Error> {
    let Some(settings) = &config.front else { return Ok(None) };
    let (listener, clients) = match renewal::handed_over(&settings.listen) {
        Some(sockets) => sockets,
        None => match inherited::choose(inherited::listeners()?, &settings.listen)? {
            Way::Passed(listener) => (listener, Vec::new()),
            Way::Bind(address) => (bind(address)?, Vec::new()),
        },
    };
    let options = Options {
        app_name: config.app.name.clone(),
        answer_after: settings.answer_after.iter().map(|(path, after)| (path.clone(), *after)).collect(),
        // Whoever waits already waits on, until the current release runs.
        hold_first: Some(first_hold(config)),
        // A door on the loopback is reached through another proxy on this machine, which speaks TLS to the users.
        trust_loopback: settings.listen.is_loopback(),
        ..Options::default()
    };
    let failed = |e: std::io::Error| Error::failed("the front door cannot be started").why(e.to_string());
    let kept = listener.try_clone().map_err(failed)?;
    let front = FrontDoor::start(listener, options).map_err(failed)?;
    front.attend_to(clients);
    Ok(Some((front, kept)))
}

/// How long requests wait for the app when `serve` starts.
fn first_hold(config: &Config) -> Duration {
    let budget = config.front.as_ref().map_or(Duration::ZERO, |front| front.hold_budget);
    config.service.start_timeout.max(budget)
}

fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).map_err(|error| {
        Error::usage(format!("the front door cannot listen on {address}"))
            .why(error.to_string())
            .state("nothing was started")
            .next(format!(
                "see who has it: ss -ltnp 'sport = :{}'; or choose another [front].listen",
                address.port()
            ))
    })
}

fn control_error(error: ControlError) -> Error {
    Error::usage("plimsoll serve cannot take commands")
        .why(error.to_string())
        .next("see whether another `plimsoll serve` runs for this app")
}

impl Served {
    fn set_trouble(&self, trouble: Vec<String>) {
        readiness::status(trouble.first().map_or("users are let in", String::as_str));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Resolves what a predecessor left, then lets users in. They wait at the door meanwhile.
    fn boot(&self, ended: Vec<String>, ui: &Arc<Ui>) {
        let config = self.station.config();
        if let Some(front) = &self.front {
            front.gate().hold(Instant::now() + first_hold(config));
        }
        let shown = Arc::clone(ui);
        let show: Show = Arc::new(move |reply| told(&shown, reply));
        let onlooker = Onlooker::new(show, None, StopWish::default());
        if let Err(failure) = self.station.settle(ended, &onlooker) {
            ui.error(&follow::plain(failure.clone()).state("the door stays shut; the data is untouched"));
            self.set_trouble(vec![failure.to_string()]);
            if let Some(front) = &self.front {
                front.gate().shut(Page::state_unreadable(&config.app.name));
            }
            return;
        }
        let mut wait = Duration::from_secs(1);
        loop {
            match self.station.open_current() {
                Ok(true) => {
                    self.set_trouble(Vec::new());
                    return;
                }
                Ok(false) => {
                    if let Some(front) = &self.front {
                        front.gate().shut(Page::no_release(&config.app.name));
                    }
                    readiness::status("there is no release yet");
                    ui.say("there is no release yet; bring one live with: plimsoll deploy");
                    return;
                }
                Err(failure) => {
                    ui.error(
                        &follow::plain(failure.clone())
                            .state("the current release does not run; it is tried again"),
                    );
                    self.set_trouble(vec![failure.to_string()]);
                    if let Some(front) = &self.front {
                        front.gate().shut(Page::down(&config.app.name));
                    }
                }
            }
            self.booting.store(false, Ordering::SeqCst);
            thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn status(&self) -> Status {
        let mut status = Status {
            door: "none".to_owned(),
            running: self.station.going(),
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            question: self.station.question(),
            ..Status::default()
        };
        if let Some(front) = &self.front {
            let counts = front.traffic();
            status.door = match front.gate().current() {
                GateState::Open => "open",
                GateState::Held { .. } => "held",
                GateState::Shut(_) => "shut",
            }
            .to_owned();
            status.serving = front.target().map(|target| target.target().release.clone());
            (status.requests, status.errors) = (counts.answered(), counts.server_error);
            status.waiting = counts.parked;
            let ms = |share| counts.latency.quantile(share).map(|took| took.as_secs_f64() * 1_000.0);
            (status.p50_ms, status.p99_ms) = (ms(0.5), ms(0.99));
            if counts.requests > 0 {
                status.recent = pages::recent(front);
            }
        }
        if let Some(app) = &self.app {
            status.trouble.extend(app.trouble());
            if let Some(running) = app.running().into_iter().find(|running| running.supervised) {
                status.serving = Some(running.release.0);
                status.pid = u32::try_from(running.pid).ok();
                status.port = Some(running.address.port());
                status.restarts = u64::from(running.restarts);
                status.memory = running.usage.memory;
                status.cpu_ms = u64::try_from(running.usage.cpu.as_millis()).unwrap_or(u64::MAX);
            }
        }
        status
    }

    /// Waits until every client has heard how its run ended; one that does not listen is not waited for.
    fn until_told(&self) {
        let until = Instant::now() + LISTENS;
        while self.talking.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            thread::sleep(GLANCE);
        }
    }

    /// Requests are finished; the app is left as it is, and so are connections on which nothing is asked: they are given.
    fn leave(&self) -> Vec<Kept> {
        let grace = self.station.config().front.as_ref().map_or(Duration::from_secs(5), |front| front.drain);
        let clients = self.front.as_ref().map_or_else(Vec::new, |front| front.hand_over(grace));
        if let Some(app) = &self.app {
            app.unsupervise();
        }
        clients
    }

    /// The run that is going on ends first: undone, or finished when it is past its commit point.
    fn close(&self, config: &Config) -> Result<(), Failure> {
        self.station.stop_run("`plimsoll serve` is stopping");
        let _alone = self.station.after_runs();
        self.until_told();
        if let Some(front) = &self.front {
            let grace = config.front.as_ref().map_or(Duration::from_secs(5), |front| front.drain);
            front.shutdown(grace);
        }
        self.app.as_ref().map_or(Ok(()), ProcessService::close)
    }
}

/// What a run without a client says, in the log of `serve`.
fn told(ui: &Ui, reply: &Reply) {
    match reply {
        Reply::Line { text } => ui.aside(text),
        Reply::Outcome { message, .. } => ui.say(message),
        Reply::Entry { entry } => {
            use plimsoll_core::record::Event;
            match &entry.event {
                Event::TakenOver { .. } => ui.say("an interrupted run is resolved before anybody is let in"),
                Event::UndoStarted { failure } => ui.say(&format!("undoing, because {failure}")),
                Event::Warned { what } => ui.warn(what),
                Event::Ended { message, .. } => ui.say(message),
                _ => {}
            }
        }
        Reply::Progress { .. } | Reply::Ask { .. } | Reply::Status { .. } => {}
    }
}

/// One client: its request, what it says meanwhile, and the replies. A client that goes away changes nothing.
fn converse(served: &Served, mut session: Session) {
    let Ok(value) = session.request(REQUEST_PATIENCE) else { return };
    let Ok(mut writer) = session.writer() else { return };
    let request: Request = match serde_json::from_value(value) {
        Ok(request) => request,
        Err(error) => {
            let failure = Failure::failed(
                "the command could not be understood",
                error.to_string(),
                "use the same version for `plimsoll serve` and for commands: plimsoll --version",
            );
            let _ = send(&mut writer, &Reply::refused(plimsoll_core::record::exit::USAGE, failure));
            return;
        }
    };
    if request == Request::Status {
        let _ = send(&mut writer, &Reply::Status { status: served.status() });
        return;
    }
    let said = match request {
        Request::Say { run, what } => Err(served.station.hear(run, what)),
        Request::GoAhead { yes, by } => Err(served.station.go_ahead(yes, by)),
        run => Ok(run),
    };
    let request = match said {
        Ok(request) => request,
        Err(reply) => {
            let _ = send(&mut writer, &reply);
            return;
        }
    };
    served.talking.fetch_add(1, Ordering::SeqCst);
    // A client that reads slowly, or is stopped, must not hold up a run: a thread of its own writes to it.
    let (replies, queue) = mpsc::channel::<Reply>();
    let writing = thread::spawn(move || {
        for reply in queue {
            if send(&mut writer, &reply).is_err() {
                break;
            }
        }
    });
    let stop = StopWish::default();
    let (answer, answers) = mpsc::channel::<Said>();
    let person = Person { name: asking_person(&request), account: asking_person(&request) };
    listen(session, stop.clone(), answer.clone(), person);
    let show = showing(replies);
    let asking = Arc::clone(&show);
    let answers = Mutex::new(answers);
    let (pending, answer) = (served.station.pending(), Mutex::new(answer));
    let ask: Ask = Arc::new(move |question| {
        let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let put = |what| *pending.lock().unwrap_or_else(PoisonError::into_inner) = what;
        put(Some(Pending { text: question.to_owned(), answer }));
        asking(&Reply::Ask { question: question.to_owned() });
        let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        let said = answers.recv_timeout(ANSWER_PATIENCE).ok();
        put(None);
        said
    });
    let asked = station::asks(&request).then_some(ask);
    let outcome = served.station.carry_out(request, Onlooker::new(Arc::clone(&show), asked, stop));
    if matches!(&outcome, Reply::Outcome { ending: Some(_), .. }) {
        served.set_trouble(Vec::new());
    }
    show(&outcome);
    drop(show);
    let _ = writing.join();
    served.talking.fetch_sub(1, Ordering::SeqCst);
}

fn showing(replies: Sender<Reply>) -> Show {
    let replies = Mutex::new(replies);
    Arc::new(move |reply| {
        let replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = replies.send(reply.clone());
    })
}

/// Who is at the command.
fn asking_person(request: &Request) -> String {
    match request {
        Request::Deploy { by, .. }
        | Request::Rehearse { by, .. }
        | Request::Rollback { by, .. }
        | Request::Resume { by } => by.clone(),
        Request::Say { .. } | Request::GoAhead { .. } | Request::Status => String::new(),
    }
}

/// Hears what the client says after its request.
fn listen(mut session: Session, stop: StopWish, answer: Sender<Said>, person: Person) {
    thread::spawn(move || {
        while let Some(value) = session.next_word() {
            match serde_json::from_value::<Word>(value) {
                Ok(Word::Stop { why }) => stop.ask(&why),
                Ok(Word::Answer { yes }) => {
                    let _ = answer.send(Said { yes, by: person.clone() });
                }
                Err(_) => {}
            }
        }
    });
}

fn send(writer: &mut plimsoll_proxy::control::Writer, reply: &Reply) -> Result<(), ControlError> {
    let value = serde_json::to_value(reply).unwrap_or_default();
    writer.send(&value)
}
