//! An app's station: the one place where its runs are carried out, in `plimsoll serve` or in a command that runs
//! the engine itself. It owns the lock; there is one at a time for an app.

mod back;

use self::back::Way;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use plimsoll_core::engine::{Engine, Outcome};
use plimsoll_core::notify::Occasion;
use plimsoll_core::plan::{Limits, Release, ReleaseId, Step};
use plimsoll_core::ports::{
    Audience, Clock, Failure, FailureKind, Journal, Notifier, Ports, Service, Silent,
};
use plimsoll_core::record::{Ending, Entry, Event, FORMAT, Kind, Order, State, exit};
use plimsoll_host::audit;
use plimsoll_host::clock::SystemClock;
use plimsoll_host::durable;
use plimsoll_host::journal::{Runs, SharedJournal};
use plimsoll_host::kept;
use plimsoll_host::lock::{self, Lock};
use plimsoll_host::probe::prove::PidsOf;
use plimsoll_host::release::Releases;
use plimsoll_host::service::Downtime;
use plimsoll_proxy::FrontDoor;
use plimsoll_proxy::door::{AddressOf, Opened};

use crate::adopted;
use crate::audience::{Onlooker, Said, StopWish};
use crate::config::{Config, ServiceKind};
use crate::error::Error;
use crate::follow;
use crate::ledger::Ledger;
use crate::notes;
use crate::people::{Person, Say};
use crate::post;
use crate::window::AgreedClock;
use crate::wire::{Reply, Request};
use crate::wiring;

/// Release folders kept besides the current one and the one before.
const KEEP_RELEASES: usize = 5;
/// How long the app takes to stop and start, when no run has measured it yet.
const RESTART_GUESS_MS: u64 = 1_000;
/// How long draining, stopping and proving take, when only the start has been measured.
const STOP_GUESS_MS: u64 = 500;

/// Who asks for a rollback that nobody asked for.
const BY_ITSELF: &str = "plimsoll, by itself";

/// Where `serve` listens for commands.
pub(crate) fn socket(config: &Config) -> PathBuf {
    config.runs().join("serve.sock")
}

/// Whether only `plimsoll serve` can carry out runs: it owns the front door and the app's process.
pub(crate) fn needs_serve(config: &Config) -> bool {
    config.front.is_some() || matches!(config.service.kind, ServiceKind::Process { .. })
}

/// Who runs this command, as the system knows them.
pub(crate) fn person() -> String {
    let named = ["SUDO_USER", "LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("uid {}", rustix::process::getuid()))
}

/// Whether the request wants a person to be asked.
pub(crate) fn asks(request: &Request) -> bool {
    matches!(request, Request::Deploy { ask: true, .. } | Request::Rollback { ask: true, .. })
}

/// A run that is going on.
struct Going {
    run: u32,
    stop: StopWish,
}

/// The question whether to go on, and where its answer is waited for.
pub(crate) struct Pending {
    /// The question.
    pub(crate) text: String,
    /// Whoever is first answers.
    pub(crate) answer: std::sync::mpsc::Sender<Said>,
}

/// Ways to the running app that need no waiting for a run.
#[derive(Clone)]
pub(crate) struct Handles {
    /// Where a release listens.
    pub(crate) address_of: AddressOf,
    /// Its processes.
    pub(crate) pids_of: PidsOf,
    /// Told which release users are let in to.
    pub(crate) opened: Opened,
    /// What the front door counted lately.
    pub(crate) past: Option<plimsoll_host::watch::Past>,
}

/// See the module.
pub(crate) struct Station {
    config: Arc<Config>,
    runs: Runs,
    clock: Arc<SystemClock>,
    /// Held until the end of the process; the kernel lets it go with us.
    _lock: Lock,
    front: Option<Arc<FrontDoor>>,
    service: Mutex<Box<dyn Service + Send>>,
    handles: Handles,
    /// One run at a time.
    engine: Mutex<()>,
    going: Mutex<Option<Going>>,
    /// Whether a command is carried out, up to the end of its run. Otherwise whoever has the engine starts the current
    /// release or writes a report.
    busy: AtomicBool,
    ledger: Arc<Ledger>,
    pending: Arc<Mutex<Option<Pending>>>,
    /// Held while a message is put down and noted, so that it cannot be noted as sent before.
    telling: Mutex<()>,
}

impl Station {
    /// The station of a command that runs the engine itself.
    pub(crate) fn alone(config: &Config) -> Result<Station, Error> {
        let lock = own(config, "deploy")?;
        let (service, handles) = wiring::others_service(config)?;
        Ok(Station::new(config, lock, None, service, handles))
    }

    /// The station of `plimsoll serve`.
    pub(crate) fn new(
        config: &Config,
        lock: Lock,
        front: Option<Arc<FrontDoor>>,
        service: Box<dyn Service + Send>,
        handles: Handles,
    ) -> Station {
        Station {
            config: Arc::new(config.clone()),
            runs: Runs::of(&config.app.root),
            clock: Arc::new(SystemClock),
            _lock: lock,
            front,
            service: Mutex::new(service),
            handles,
            engine: Mutex::new(()),
            going: Mutex::new(None),
            busy: AtomicBool::new(false),
            ledger: Arc::new(Ledger::new(config)),
            pending: Arc::default(),
            telling: Mutex::default(),
        }
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The records.
    pub(crate) fn runs(&self) -> &Runs {
        &self.runs
    }

    /// The front door.
    pub(crate) fn front(&self) -> Option<&Arc<FrontDoor>> {
        self.front.as_ref()
    }

    /// Ways to the running app.
    pub(crate) fn handles(&self) -> &Handles {
        &self.handles
    }

    /// The release folders.
    pub(crate) fn releases(&self) -> Releases {
        Releases::new(&self.config.app.root)
    }

    /// The number of the run that is going on.
    pub(crate) fn going(&self) -> Option<u32> {
        self.lock_going().as_ref().map(|going| going.run)
    }

    /// Whether a run is going on, or what follows from it: the rollback of a release that was bad.
    pub(crate) fn is_at_work(&self) -> bool {
        self.going().is_some() || matches!(self.engine.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Asks the run that is going on to stop; it does, if it is not past its commit point.
    pub(crate) fn stop_run(&self, by: &str) {
        if let Some(going) = self.lock_going().as_ref() {
            going.stop.ask(by);
        }
    }

    /// Waits until no run is going on, and keeps others from beginning as long as the guard lives.
    pub(crate) fn after_runs(&self) -> MutexGuard<'_, ()> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, when no run is going on now.
    pub(crate) fn unless_running(&self) -> Option<MutexGuard<'_, ()>> {
        match self.engine.try_lock() {
            Ok(alone) => Some(alone),
            Err(TryLockError::Poisoned(alone)) => Some(alone.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The first thing that a fresh owner does, before anybody is let in: resolves a run that its predecessor left
    /// open; `ended` is what was still running and has been ended.
    ///
    /// # Errors
    /// The run cannot be resolved, or its journal not be read: the door must stay shut.
    pub(crate) fn settle(&self, ended: Vec<String>, onlooker: &Onlooker) -> Result<(), Failure> {
        let _alone = self.after_runs();
        let Some(run) = self.runs.unfinished()? else {
            self.write_missing_reports(onlooker);
            self.finish_taking_back(onlooker);
            return Ok(());
        };
        match self.take_over(run, ended, Vec::new(), onlooker)? {
            Reply::Outcome { ending: None, failure: Some(failure), .. } => Err(failure),
            _ => {
                self.finish_taking_back(onlooker);
                Ok(())
            }
        }
    }

    /// Starts the current release and lets users in to it. `false` when there is none yet.
    ///
    /// # Errors
    /// It does not start; the door is as it was.
    pub(crate) fn open_current(&self) -> Result<bool, Failure> {
        let _alone = self.after_runs();
        if self.runs.unfinished()?.is_some() {
            // Somebody else began a run meanwhile, and it did not end well; it decides who is let in.
            return Ok(true);
        }
        let Some(current) = self.releases().current()? else { return Ok(false) };
        self.service.lock().unwrap_or_else(PoisonError::into_inner).start(&current, None)?;
        self.gate(0).open(&current)?;
        Ok(true)
    }

    /// A crash right after the last event of a run leaves it without its report.
    fn write_missing_reports(&self, onlooker: &Onlooker) {
        let Ok(Some(run)) = self.runs.latest() else { return };
        if self.runs.folder(run).join("report.json").exists() {
            return;
        }
        self.note(run, onlooker);
    }

    fn gate(&self, run: u32) -> Box<dyn plimsoll_core::ports::Gate> {
        wiring::gate(&self.config, run, &self.runs, self.front.as_ref(), &self.handles, &self.clock)
    }

    /// Carries out what a command asked for; the reply is the last line for it.
    pub(crate) fn carry_out(&self, request: Request, onlooker: Onlooker) -> Reply {
        let engine = match self.engine.try_lock() {
            Ok(engine) => engine,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Starting the current release, or writing the report of a run that has ended, is no run: it is waited for.
            Err(TryLockError::WouldBlock) if !self.busy.load(Ordering::SeqCst) => self.after_runs(),
            Err(TryLockError::WouldBlock) => return self.while_going(&request),
        };
        self.busy.store(true, Ordering::SeqCst);
        let reply = match request {
            Request::Deploy { revision, acknowledge, watch, unlock, by, approved_by, .. } => {
                let onlooker = onlooker.hearing(self.ledger.heard(approved_by, &by));
                let order = self.deployment(revision, acknowledge, watch, unlock, by);
                order
                    .and_then(|order| self.run(order, &Way::Code { schema: None, why: "" }, &onlooker))
                    .map(|reply| self.back_if_bad(reply, &onlooker))
            }
            Request::Rehearse { revision, by } => self.rehearse(revision, by, &onlooker),
            Request::Rollback { to, dry_run, data, acknowledge, by, .. } => {
                self.rollback(to.as_deref(), (dry_run, data), acknowledge, by, &onlooker)
            }
            Request::Resume { .. } => self.resume(Vec::new(), &onlooker),
            Request::Status | Request::Say { .. } | Request::GoAhead { .. } => Err(bug("this is not a run")),
        };
        self.busy.store(false, Ordering::SeqCst);
        drop(engine);
        reply.unwrap_or_else(|failure| Reply::refused(refusal_exit(&failure), failure))
    }

    fn while_going(&self, request: &Request) -> Reply {
        let run = self.going();
        let name = run.map_or_else(|| "a run".to_owned(), |run| format!("run {run}"));
        if let Request::Rollback { by, .. } = request {
            self.stop_run(&format!("rollback by {by}"));
            // The run ends as undone, or goes on when it is past its commit point; both are its own outcome.
            drop(self.after_runs());
            return self.stopped(run);
        }
        let failure = Failure {
            kind: FailureKind::Blocked,
            what: format!("{name} is going on"),
            why: "one run at a time touches production".into(),
            next: "wait for it (plimsoll status), or stop it before its commit point: plimsoll rollback"
                .into(),
        };
        Reply::refused(exit::BLOCKED, failure)
    }

    fn stopped(&self, run: Option<u32>) -> Reply {
        let entries = run.and_then(|run| self.runs.entries(run).ok()).unwrap_or_default();
        let state = State::fold(&entries);
        match state.ended {
            Some((ending @ (Ending::Undone | Ending::Unchanged), _, message)) => {
                Reply::Outcome { run, ending: Some(ending), exit: exit::DONE, message, failure: None }
            }
            ended => {
                let message = ended.map(|(.., message)| message).unwrap_or_default();
                let failure = Failure {
                    kind: FailureKind::Blocked,
                    what: "the run could not be stopped any more".into(),
                    why: "it was past its commit point".into(),
                    next: "plimsoll rollback, once more: it now goes back to the release before".into(),
                };
                let exit = exit::BLOCKED;
                Reply::Outcome { run, ending: None, exit, message, failure: Some(failure) }
            }
        }
    }

    fn deployment(
        &self,
        revision: Option<String>,
        acknowledged: Vec<String>,
        watch: bool,
        unlock: Option<String>,
        by: String,
    ) -> Result<Order, Failure> {
        self.nothing_open()?;
        if unlock.is_none()
            && let Some((run, why)) = self.locked()
        {
            return Err(Failure {
                kind: FailureKind::Blocked,
                what: "the app is locked".into(),
                why: format!("since run {run}: {why}"),
                next: "when the cause is mended: plimsoll deploy --unlock \"WHY\"".into(),
            });
        }
        Ok(Order {
            kind: Kind::Deploy,
            asked: revision,
            to: None,
            acknowledged,
            watch: watch && !self.config.watch.errors_for.is_zero(),
            unlock,
            ..self.order(by)?
        })
    }

    /// The run since which the app is locked, and why.
    pub(crate) fn locked(&self) -> Option<(u32, String)> {
        locked(&self.runs)
    }

    /// A release that the watch found bad is taken back by itself, where that loses nothing. Either way no other is
    /// deployed until somebody says why.
    fn back_if_bad(&self, reply: Reply, onlooker: &Onlooker) -> Reply {
        match &reply {
            Reply::Outcome { run: Some(run), ending: Some(Ending::Live), failure: Some(_), .. } => {
                self.bad(*run, onlooker).unwrap_or(reply)
            }
            _ => reply,
        }
    }

    /// Locks the app and takes the release of `run` back, when its watch found it bad and nobody has done so yet.
    fn bad(&self, run: u32, onlooker: &Onlooker) -> Option<Reply> {
        let state = State::fold(&self.runs.entries(run).ok()?);
        let (Some((Step::Watch, failure)), None, Some(order)) =
            (state.failure.clone(), &state.taken_back, state.order.clone())
        else {
            return None;
        };
        let why = failure.to_string();
        if state.locked.is_none() {
            self.learn(run, Event::Locked { why: why.clone() }, onlooker);
        }
        let back = match order.from {
            _ if !self.config.watch.rollback => Err("[watch].rollback is false".to_owned()),
            None => Err("it is the first release: there is none to go back to".to_owned()),
            Some(from) => {
                self.busy.store(true, Ordering::SeqCst);
                let by = format!("{BY_ITSELF}: run {run} was bad");
                self.rollback(Some(&from.0), (false, false), Vec::new(), by, &onlooker.deaf())
                    .map_err(|f| f.to_string())
            }
        };
        let reply = match back {
            Ok(Reply::Outcome { run: Some(back), ending: Some(Ending::RolledBack), message, .. }) => {
                self.learn(run, Event::TakenBack { run: back, why: why.clone() }, onlooker);
                let failure = Failure::failed(
                    "the release was bad after the switch and has been rolled back",
                    why,
                    format!(
                        "plimsoll show {run} has the evidence; mend it, then: plimsoll deploy --unlock \"WHY\""
                    ),
                );
                let message = format!("{message} The app is locked.");
                let (run, ending, exit) = (Some(run), Some(Ending::RolledBack), exit::ROLLED_BACK);
                Reply::Outcome { run, ending, exit, message, failure: Some(failure) }
            }
            other => {
                let kept = match other {
                    Err(why) => why,
                    Ok(Reply::Outcome { message, .. }) => message,
                    Ok(_) => "the rollback gave no outcome".to_owned(),
                };
                let what = format!("not rolled back by itself: {kept}");
                self.learn(run, Event::Warned { what: what.clone() }, onlooker);
                let failure = Failure::failed(
                    "the release is bad and goes on serving",
                    format!("{why}; {what}"),
                    "look at it now: plimsoll watch; go back with: plimsoll rollback",
                );
                let (_, _, message) = state.ended?;
                let message = format!("{message} The app is locked.");
                let (run, ending, exit) = (Some(run), Some(Ending::Live), exit::LIVE_BUT);
                Reply::Outcome { run, ending, exit, message, failure: Some(failure) }
            }
        };
        self.report_again(run, onlooker);
        self.tell_end(run, onlooker);
        Some(reply)
    }

    /// A crash between the end of a bad run and its rollback, or before the rollback was noted.
    fn finish_taking_back(&self, onlooker: &Onlooker) {
        let Ok(runs) = self.runs.list() else { return };
        let Some(last) = runs.last() else { return };
        let state = |run: &u32| self.runs.entries(*run).map(|entries| State::fold(&entries)).ok();
        let Some(newest) = state(last) else { return };
        if newest.locked.is_some() {
            if newest.release.map(|r| r.id) == self.releases().current().ok().flatten() {
                self.bad(*last, onlooker);
            }
            return;
        }
        let by_itself = is_by_itself(&newest);
        let told_of = |state: &State| state.told.iter().any(|told| told.occasion == Occasion::RolledBack);
        let told_there = told_of(&newest);
        let Some((earlier, order)) = runs.iter().rev().nth(1).zip(newest.order) else { return };
        let Some(bad) = state(earlier) else { return };
        let told = told_there || told_of(&bad);
        let went_back = order.kind == Kind::Rollback && order.from == bad.release.map(|r| r.id);
        if let (true, Some(why), Some((Ending::RolledBack, ..))) = (went_back, bad.locked, newest.ended) {
            if bad.taken_back.is_none() {
                self.learn(*earlier, Event::TakenBack { run: *last, why }, onlooker);
            }
            if by_itself && !told {
                self.tell_end(*earlier, onlooker);
            }
            let _ = self.write_reports(*earlier);
        }
    }

    /// Notes what is learnt of a run after its end. Whether that could be done.
    pub(crate) fn learn(&self, run: u32, event: Event, onlooker: &Onlooker) -> bool {
        match self.runs.add(run, event) {
            Ok(entry) => onlooker.show(plimsoll_core::ports::News::Entry(&entry)),
            Err(error) => {
                onlooker.line(&format!("not noted in run {run}: {error}"));
                return false;
            }
        }
        true
    }

    /// Keeps others from putting messages down, and from noting what became of them, as long as the guard lives.
    pub(crate) fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rehearse(&self, revision: Option<String>, by: String, onlooker: &Onlooker) -> Result<Reply, Failure> {
        self.nothing_open()?;
        let order = Order { kind: Kind::Rehearse, asked: revision, ..self.order(by)? };
        self.run(order, &Way::Code { schema: None, why: "" }, onlooker)
    }

    fn rollback(
        &self,
        to: Option<&str>,
        (dry_run, data): (bool, bool),
        acknowledged: Vec<String>,
        by: String,
        onlooker: &Onlooker,
    ) -> Result<Reply, Failure> {
        if self.runs.unfinished()?.is_some() {
            let aside = !acknowledged.is_empty();
            return Ok(as_rollback(self.resume(acknowledged, onlooker)?, aside));
        }
        let order = self.order(by)?;
        let Some(from) = order.from.clone() else {
            return Err(usage("there is nothing to roll back", "no release is live", "plimsoll deploy"));
        };
        let target = self.target(&from, to)?;
        let way = self.way_back(&from, &target.id, order.run, data)?;
        if dry_run {
            return self.dry_run(&from, &target, &way, &acknowledged, onlooker);
        }
        let asked = to.map(str::to_owned);
        let order =
            Order { kind: Kind::Rollback, asked, to: Some(target), acknowledged, watch: false, ..order };
        self.run(order, &way, onlooker)
    }

    /// Goes on with a run that is still open.
    pub(crate) fn resume(&self, acknowledged: Vec<String>, onlooker: &Onlooker) -> Result<Reply, Failure> {
        let Some(run) = self.runs.unfinished()? else {
            let message = "There is nothing to resume: every run has ended.".to_owned();
            return Ok(Reply::Outcome { run: None, ending: None, exit: exit::DONE, message, failure: None });
        };
        self.take_over(run, Vec::new(), acknowledged, onlooker)
    }

    /// Finishes or undoes a run whose owner died or that stopped half-way.
    pub(crate) fn take_over(
        &self,
        run: u32,
        ended: Vec<String>,
        acknowledged: Vec<String>,
        onlooker: &Onlooker,
    ) -> Result<Reply, Failure> {
        let (mut journal, entries) = self.runs.open(run)?;
        let state = State::fold(&entries);
        let way = self.way_of(&state);
        let Some(order) = state.order else {
            return Err(bug(&format!("run {run} does not begin with what was asked for")));
        };
        // Nobody may stop the way back.
        let deaf = onlooker.deaf();
        let outcome = self.with_ports(&order, &way, &mut journal, &deaf, |ports, limits| {
            Engine::recover(&entries, limits, ports, ended, acknowledged)
        })?;
        self.after(run, &outcome, onlooker);
        let state = State::fold(&self.runs.entries(run)?);
        if is_by_itself(&state) {
            match &state.ended {
                Some((Ending::RolledBack, ..)) => self.finish_taking_back(onlooker),
                // Whoever began it died with the word for people.
                _ => self.tell(run, Occasion::Failed, &state, onlooker),
            }
        }
        Ok(Reply::outcome(run, outcome))
    }

    fn run(&self, order: Order, way: &Way, onlooker: &Onlooker) -> Result<Reply, Failure> {
        let run = order.run;
        let mut journal = SharedJournal::new(self.runs.create(run)?);
        self.ledger.begin(run, &journal);
        *self.lock_going() = Some(Going { run, stop: onlooker.stop().clone() });
        let outcome = self.with_ports(&order, way, &mut journal, onlooker, |ports, limits| {
            Engine::run(order.clone(), limits, ports)
        });
        *self.lock_going() = None;
        self.ledger.end();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(failure) => {
                // Nothing was begun, not even the journal's first event.
                let folder = self.runs.folder(run);
                std::fs::remove_dir_all(&folder).map_err(|e| durable::Error::io("remove", &folder, e))?;
                return Err(failure);
            }
        };
        self.after(run, &outcome, onlooker);
        Ok(Reply::outcome(run, outcome))
    }

    fn with_ports<T>(
        &self,
        order: &Order,
        way: &Way,
        journal: &mut dyn Journal,
        onlooker: &Onlooker,
        act: impl FnOnce(Ports<'_>, Limits) -> T,
    ) -> Result<T, Failure> {
        let mut source = wiring::source(&self.config, onlooker)?;
        let back = wiring::Back {
            earlier_schema: match way {
                Way::Code { schema, .. } => schema.clone(),
                Way::Data(_) => order.to.as_ref().and_then(|release| self.schema_of(&release.id)),
            },
            legs: way.legs().to_vec(),
        };
        let mut database = wiring::database(&self.config, order, back, &self.runs, &self.clock, onlooker)?;
        let mut gate = self.gate(order.run);
        let front = self.front.as_ref();
        let mut probe = wiring::probe(&self.config, order, &self.runs, front, &self.handles, onlooker);
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        let mut downtime;
        let service: &mut dyn Service = if self.front.is_some() {
            service.as_mut()
        } else {
            let asked = wiring::asked_from_outside(&self.config);
            downtime = Downtime::new(service.as_mut(), &self.runs, order.run, asked);
            &mut downtime
        };
        // What a release that turned bad leads to is told once, at its end.
        let mut notifier: Box<dyn Notifier> =
            if by_itself(order) { Box::new(Silent) } else { Box::new(post::post(&self.config)) };
        let ports = Ports {
            source: &mut source,
            database: &mut database,
            service,
            gate: gate.as_mut(),
            probe: &mut probe,
            notifier: &mut *notifier,
            journal,
            audience: onlooker,
            clock: &AgreedClock::of(&self.config),
        };
        Ok(act(ports, self.limits()))
    }

    /// Reports and what may be tidied; nothing here changes how the run ended.
    fn after(&self, run: u32, outcome: &Outcome, onlooker: &Onlooker) {
        self.busy.store(false, Ordering::SeqCst);
        let over = self.ledger.alone();
        if let Err(error) = self.runs.release_room(run) {
            onlooker.line(&format!("room kept for the journal could not be freed: {error}"));
        }
        self.note(run, onlooker);
        drop(over);
        self.tell_end(run, onlooker);
        if matches!(outcome.ending, Some(Ending::Live | Ending::RolledBack)) {
            let pruned = kept::fates(&self.runs)
                .map_err(|e| e.to_string())
                .and_then(|fates| kept::prune(&fates).map_err(|e| e.to_string()));
            if let Err(error) = pruned {
                onlooker.line(&format!("snapshots of older runs could not be removed: {error}"));
            }
        }
        if outcome.ending == Some(Ending::Live) {
            let mut keep = Vec::new();
            if let Ok(entries) = self.runs.entries(run) {
                keep.extend(State::fold(&entries).order.and_then(|order| order.from));
            }
            if let Err(error) = self.releases().prune(KEEP_RELEASES, &keep) {
                onlooker.line(&format!("old releases could not be removed: {error}"));
            }
        }
    }

    /// Tells how a run ended. One that the watch found bad is told of when it is known what becomes of it.
    fn tell_end(&self, run: u32, onlooker: &Onlooker) {
        let Ok(entries) = self.runs.entries(run) else { return };
        let state = State::fold(&entries);
        let bad = matches!(state.failure, Some((Step::Watch, _))) && state.locked.is_none();
        if is_by_itself(&state) {
            // One message tells of a bad release and its rollback: that of the bad one's run.
            return;
        }
        let occasion = match &state.ended {
            Some((Ending::Live, exit::DONE, _)) => Occasion::Done,
            Some((Ending::Live, ..)) if bad => return,
            Some((Ending::RolledBack, ..)) => Occasion::RolledBack,
            _ => Occasion::Failed,
        };
        self.tell(run, occasion, &state, onlooker);
    }

    /// Puts a message about a run that has ended into the outbox.
    pub(crate) fn tell(&self, run: u32, occasion: Occasion, state: &State, onlooker: &Onlooker) {
        let post = post::post(&self.config);
        let _alone = self.telling();
        let back = state.taken_back.as_ref().filter(|_| occasion == Occasion::RolledBack);
        let back = back.and_then(|(back, _)| self.runs.entries(*back).ok());
        let all = match back {
            Some(back) => post.tell_taken_back(state, &State::fold(&back)),
            None => post.tell(occasion, state),
        };
        for told in all {
            self.learn(run, Event::Told { told }, onlooker);
        }
    }

    /// What somebody says to a run; a signature is told.
    pub(crate) fn hear(&self, run: Option<u32>, what: Say) -> Reply {
        let signs = matches!(what, Say::Sign { .. });
        let reply = self.ledger.hear(run, what);
        if let (true, Reply::Outcome { run: Some(run), failure: None, .. }) = (signs, &reply)
            && let Ok(entries) = self.runs.entries(*run)
        {
            self.tell(*run, Occasion::Signed, &State::fold(&entries), &Onlooker::nobody());
        }
        reply
    }

    /// Writes the reports of a run anew, with what has been learnt since.
    pub(crate) fn report_again(&self, run: u32, onlooker: &Onlooker) {
        if let Err(failure) = self.write_reports(run) {
            onlooker.line(&format!("the report of run {run} could not be written: {failure}"));
        }
    }

    fn write_reports(&self, run: u32) -> Result<(), Failure> {
        Ok(audit::write_reports(&self.runs, run)?)
    }

    /// What is noted at the end of a run, and its reports. Nothing here changes how it ended.
    fn note(&self, run: u32, onlooker: &Onlooker) {
        let entries = self.runs.entries(run).unwrap_or_default();
        let over = State::fold(&entries).is_over();
        let mut events = Vec::new();
        if over {
            events.push(Event::Noted { checks: notes::noted(&self.config, &self.runs, &entries) });
            events.extend(notes::charted(&self.runs, run));
        }
        for event in events {
            if let Err(error) = self.runs.add(run, event) {
                onlooker.line(&format!("run {run} could not be noted: {error}"));
            }
        }
        if let Err(error) = audit::write_reports(&self.runs, run) {
            onlooker.line(&format!("the report of run {run} could not be written: {error}"));
        }
        if over && let Err(why) = notes::write_beside(&self.config, &self.runs, run) {
            onlooker.line(&format!("the operations changelog could not be written: {why}"));
        }
    }

    /// Where a question whether to go on waits, and its answer comes from.
    pub(crate) fn pending(&self) -> Arc<Mutex<Option<Pending>>> {
        Arc::clone(&self.pending)
    }

    /// The question that a run waits with.
    pub(crate) fn question(&self) -> Option<String> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.as_ref().map(|pending| pending.text.clone())
    }

    /// Answers the question whether to go on.
    pub(crate) fn go_ahead(&self, yes: bool, by: Person) -> Reply {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        let name = by.name.clone();
        let heard = pending.is_some_and(|pending| pending.answer.send(Said { yes, by }).is_ok());
        if heard {
            let word = if yes { "yes" } else { "no" };
            let message = format!("{name} has answered {word}.");
            return Reply::Outcome {
                run: self.going(),
                ending: None,
                exit: exit::DONE,
                message,
                failure: None,
            };
        }
        let failure = usage(
            "no run waits for an answer",
            "it was given already, or none was asked for",
            "plimsoll status",
        );
        Reply::Outcome {
            run: None,
            ending: None,
            exit: exit::USAGE,
            message: String::new(),
            failure: Some(failure),
        }
    }

    fn limits(&self) -> Limits {
        let front = self.config.front.as_ref();
        let hold_budget_ms = front
            .map_or(u64::MAX / 4, |front| u64::try_from(front.hold_budget.as_millis()).unwrap_or(u64::MAX));
        let restart_ms = self
            .last_restart_ms()
            .or_else(|| self.last_startup_ms().map(|ms| ms + STOP_GUESS_MS))
            .unwrap_or(RESTART_GUESS_MS);
        // What others run listens on the one address that it was given.
        let side_by_side = matches!(self.config.service.kind, ServiceKind::Process { .. });
        Limits { front: front.is_some(), side_by_side, hold_budget_ms, restart_ms }
    }

    /// How long the app took to drain, stop, start and be proved when that was last measured.
    fn last_restart_ms(&self) -> Option<u64> {
        let counted = [Step::Hold, Step::Stop, Step::Switch, Step::Start, Step::Prove];
        self.newest(|entries| {
            let took = |wanted: Step| {
                entries.iter().find_map(|entry| match entry.event {
                    Event::StepDone { step, ms } if step == wanted => Some(ms),
                    _ => None,
                })
            };
            // A run that did not stop the old release says nothing of a hold.
            (took(Step::Stop)? > 0).then(|| counted.into_iter().filter_map(took).sum())
        })
    }

    /// How long the app took to be healthy when it was last started by a run.
    fn last_startup_ms(&self) -> Option<u64> {
        self.newest(|entries| {
            entries.iter().rev().find_map(|entry| match &entry.event {
                Event::Checked { check, .. } => check.evidence.get("startup_ms")?.as_u64(),
                _ => None,
            })
        })
    }

    /// The schema that a release last ran with.
    fn schema_of(&self, release: &ReleaseId) -> Option<String> {
        self.newest(|entries| {
            let state = State::fold(entries);
            let served = matches!(state.ended, Some((Ending::Live | Ending::RolledBack, ..)));
            if !served || state.release.as_ref().map(|r| &r.id) != Some(release) {
                return None;
            }
            state
                .checks
                .iter()
                .rev()
                .find_map(|(_, check)| check.evidence.get("schema")?.as_str().map(str::to_owned))
        })
        .or_else(|| adopted::schema_of(&self.config.app.root, release))
    }

    /// The newest run of which `look` makes something.
    fn newest<T>(&self, look: impl Fn(&[Entry]) -> Option<T>) -> Option<T> {
        let runs = self.runs.list().ok()?;
        runs.iter().rev().filter_map(|run| self.runs.entries(*run).ok()).find_map(|entries| look(&entries))
    }

    /// The release to go back to: the one named, or the one that was live before.
    fn target(&self, from: &ReleaseId, to: Option<&str>) -> Result<Release, Failure> {
        let releases = self.releases();
        let kept = releases.list()?;
        let names: Vec<&str> = kept.iter().filter(|id| *id != from).map(|id| id.0.as_str()).collect();
        let next = match names.as_slice() {
            [] => "there is none; bring another commit live with: plimsoll deploy REV".to_owned(),
            names => format!("choose one of: {}", names.join(", ")),
        };
        let id = match to {
            Some(to) => {
                let number = to.parse::<u32>().ok();
                let fits = |id: &&ReleaseId| {
                    id.0 == to || number == Some(id.number()) || id.0.split('-').nth(1) == to.get(..7)
                };
                kept.iter().find(fits).cloned().ok_or_else(|| {
                    usage(&format!("there is no release {to}"), "its folder is not in releases/", &next)
                })?
            }
            None => self.newest(|entries| before(entries, from)).ok_or_else(|| {
                usage("there is no release to go back to", &format!("{from} is the first"), &next)
            })?,
        };
        if id == *from {
            return Err(usage(&format!("{id} is live already"), "it is the current release", &next));
        }
        releases.info(&id).map(|info| info.release).ok_or_else(|| {
            let what = format!("{id} cannot be brought live again");
            Failure::failed(what, "its folder is gone or was never finished", next)
        })
    }

    fn order(&self, by: String) -> Result<Order, Failure> {
        Ok(Order {
            kind: Kind::Deploy,
            app: self.config.app.name.clone(),
            run: self.runs.next()?,
            by,
            asked: None,
            from: self.releases().current()?,
            to: None,
            acknowledged: Vec::new(),
            watch: false,
            unlock: None,
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            format: FORMAT,
            boot: self.clock.boot_id(),
        })
    }

    fn nothing_open(&self) -> Result<(), Failure> {
        let Some(run) = self.runs.unfinished()? else { return Ok(()) };
        Err(Failure {
            kind: FailureKind::Frozen,
            what: format!("run {run} is not resolved"),
            why: "it was interrupted, and its undo needs a person".into(),
            next: "plimsoll status says what to do next".into(),
        })
    }

    fn lock_going(&self) -> MutexGuard<'_, Option<Going>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a run is the rollback of a release that turned bad, which nobody asked for.
pub(crate) fn by_itself(order: &Order) -> bool {
    order.kind == Kind::Rollback && order.by.starts_with(BY_ITSELF)
}

fn is_by_itself(state: &State) -> bool {
    state.order.as_ref().is_some_and(by_itself)
}

/// The outcome of a run that a rollback has undone, for whoever asked for the rollback.
fn as_rollback(reply: Reply, aside: bool) -> Reply {
    match reply {
        Reply::Outcome {
            run, ending: ending @ Some(Ending::Undone | Ending::Unchanged), message, ..
        } if !aside => Reply::Outcome { run, ending, exit: exit::DONE, message, failure: None },
        Reply::Outcome {
            run, ending: ending @ Some(Ending::Undone | Ending::Unchanged), message, ..
        } => {
            let failure = Failure::failed(
                "the run is undone, with values set aside",
                "as acknowledged",
                "look at the file, and enter again what is needed (the .sql beside it helps)",
            );
            Reply::Outcome { run, ending, exit: exit::ROLLED_BACK, message, failure: Some(failure) }
        }
        other => other,
    }
}

/// The run since which an app is locked, and why: the newest run that says anything about it decides.
pub(crate) fn locked(runs: &Runs) -> Option<(u32, String)> {
    for run in runs.list().ok()?.into_iter().rev() {
        let Ok(entries) = runs.entries(run) else { continue };
        let state = State::fold(&entries);
        if let Some(why) = state.locked {
            return Some((run, why));
        }
        if state.order.is_some_and(|order| order.unlock.is_some()) {
            return None;
        }
    }
    None
}

/// Takes the app's lock.
pub(crate) fn own(config: &Config, what: &str) -> Result<Lock, Error> {
    for folder in [config.runs(), config.shared()] {
        durable::create_dir(&folder, durable::PRIVATE_DIR).map_err(|e| follow::plain(e.into()))?;
    }
    lock::try_lock(&config.runs().join("LOCK"), what).map_err(|error| match error {
        lock::Error::Held { .. } => Error::usage("this app is already taken care of by another process")
            .why(error.to_string())
            .state("nothing was changed by this command")
            .next("plimsoll status"),
        // A full disk, for one: nobody else is to blame.
        error => Error::failed("the app's lock cannot be taken")
            .why(error.to_string())
            .state("nothing was changed by this command")
            .next("free some room, or run it as the user who owns runs/"),
    })
}

/// The release that was live before `from` was deployed, according to the run that did it. A rollback's own run says
/// nothing here: going back twice goes back two releases, not forth again.
fn before(entries: &[Entry], from: &ReleaseId) -> Option<ReleaseId> {
    let state = State::fold(entries);
    let order = state.order.filter(|order| order.kind == Kind::Deploy)?;
    let brought = state.release.as_ref().map(|release| &release.id) == Some(from);
    let served = matches!(state.ended, Some((Ending::Live, ..))) || state.taken_back.is_some();
    (brought && served).then_some(order.from).flatten()
}

fn refusal_exit(failure: &Failure) -> u8 {
    match failure.kind {
        FailureKind::Blocked => exit::BLOCKED,
        FailureKind::Usage => exit::USAGE,
        FailureKind::Frozen => exit::UNRESOLVED,
        FailureKind::Bug => exit::BUG,
        FailureKind::Failed | FailureKind::Interrupted => exit::FAILED,
    }
}

fn usage(what: &str, why: &str, next: &str) -> Failure {
    Failure { kind: FailureKind::Usage, what: what.into(), why: why.into(), next: next.into() }
}

fn bug(why: &str) -> Failure {
    Failure {
        kind: FailureKind::Bug,
        what: "Plimsoll made a mistake".into(),
        why: why.into(),
        next: "report it".into(),
    }
}
