//! `deploy`, `plan`, `rehearse`, `rollback`, `resume`: clients of `plimsoll serve`; where nothing needs `serve`, they
//! run the engine themselves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use plimsoll_core::report::{self, Plan};
use plimsoll_proxy::control::{self, Client, ControlError, Writer};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::{DeployArgs, PlanArgs, PlanFormat, RehearseArgs, RollbackArgs};
use crate::audience::{Ask, Onlooker, Said, Show, StopWish};
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::follow::Follow;
use crate::people::Person;
use crate::post;
use crate::station::{self, Station, needs_serve};
use crate::ui::{Ui, took_words};
use crate::wire::{Reply, Request, Word};

/// How long a command that ends with its run goes on sending messages.
const SENDING: Duration = Duration::from_secs(10);

/// `plimsoll deploy`
pub(crate) fn deploy(config: &Config, args: &DeployArgs, ui: &Arc<Ui>) -> Result<(), Error> {
    let approved = args.approved_by.as_ref().map(|name| format!(", approved by {name}"));
    let request = Request::Deploy {
        revision: args.revision.clone(),
        ask: !args.yes && ui.can_ask(),
        acknowledge: args.acknowledge.clone(),
        watch: !args.no_watch,
        unlock: args.unlock.clone(),
        by: format!("{}{}", station::person(), approved.unwrap_or_default()),
        approved_by: args.approved_by.clone(),
    };
    carry_out(config, &request, ui)
}

/// `plimsoll rollback`
pub(crate) fn rollback(config: &Config, args: &RollbackArgs, ui: &Arc<Ui>) -> Result<(), Error> {
    let request = Request::Rollback {
        to: args.to.clone(),
        dry_run: args.dry_run,
        data: args.data,
        ask: !args.yes && ui.can_ask(),
        acknowledge: args.acknowledge.clone(),
        by: station::person(),
    };
    carry_out(config, &request, ui)
}

/// `plimsoll resume`
pub(crate) fn resume(config: &Config, ui: &Arc<Ui>) -> Result<(), Error> {
    carry_out(config, &Request::Resume { by: station::person() }, ui)
}

fn carry_out(config: &Config, request: &Request, ui: &Arc<Ui>) -> Result<(), Error> {
    followed(config, request, ui, &mut Follow::new(ui))
}

/// `plimsoll plan`
pub(crate) fn plan(config: &Config, args: &PlanArgs, ui: &Arc<Ui>) -> Result<(), Error> {
    let (plan, result) = rehearsed(config, args.revision.as_ref(), ui);
    if plan.run == 0 {
        return result;
    }
    match (args.format, ui.is_json()) {
        (_, true) => ui.object(&plan),
        (Some(PlanFormat::Md), _) => ui.data(&report::plan_markdown(&plan)),
        (None, _) => ui.data(&report::plan_text(&plan)),
    }
    result
}

/// `plimsoll rehearse`
pub(crate) fn rehearse(config: &Config, args: &RehearseArgs, ui: &Arc<Ui>) -> Result<(), Error> {
    let (plan, result) = rehearsed(config, args.revision.as_ref(), ui);
    if plan.run == 0 {
        return result;
    }
    if ui.is_json() {
        ui.object(&plan);
        return result;
    }
    for seen in &plan.checks {
        let took = seen.ms.map(|ms| took_words(Duration::from_millis(ms))).unwrap_or_default();
        let note = if seen.why.is_empty() { &took } else { &seen.why };
        ui.finding(seen.verdict, &seen.name, note, "");
    }
    result
}

/// Rehearses. A run that was never begun, because it is refused or nobody can carry it out, has an empty plan.
fn rehearsed(config: &Config, revision: Option<&String>, ui: &Arc<Ui>) -> (Plan, Result<(), Error>) {
    let request = Request::Rehearse { revision: revision.cloned(), by: station::person() };
    let mut follow = Follow::keeping(ui);
    let result = followed(config, &request, ui, &mut follow);
    (Plan::of(&follow.kept()), result)
}

fn followed(config: &Config, request: &Request, ui: &Arc<Ui>, follow: &mut Follow<'_>) -> Result<(), Error> {
    match control::connect(&station::socket(config)) {
        Ok(client) => remote(client, request, ui, follow),
        Err(ControlError::NoServer { .. }) if needs_serve(config) => {
            let file = config.file.display();
            Err(Error::usage("`plimsoll serve` is not running")
                .why("it owns the front door and the app's process, so only it can deploy")
                .state("nothing was changed by this command")
                .next(format!("start it and leave it running: plimsoll --config {file} serve")))
        }
        Err(ControlError::NoServer { .. }) => local(config, request.clone(), ui, follow),
        Err(error) => Err(Error::usage("`plimsoll serve` could not be asked")
            .why(error.to_string())
            .state("nothing was changed by this command")
            .next("run it as the user who runs `plimsoll serve`, or as root")),
    }
}

/// What a command waits for.
enum Heard<T> {
    /// A line of the run.
    Line(T),
    /// A signal, the first: the run is asked to stop.
    Stopping,
    /// A signal, the second: whoever sits here has enough.
    Leaving,
}

/// The first Ctrl-C or SIGTERM asks the run to stop; the second ends this command, and that is said. While the returned
/// flag is set, the first ends it as if nobody caught it: a person is asked, and nothing is touched yet.
fn on_signal<T: Send + 'static>(
    heard: mpsc::Sender<Heard<T>>,
    ask_to_stop: impl Fn(&str) + Send + 'static,
) -> Result<Arc<AtomicBool>, Error> {
    let failed = |error: std::io::Error| Error::failed("signals cannot be caught").why(error.to_string());
    let asking = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&asking)).map_err(failed)?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    thread::spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            let sent = if asked {
                heard.send(Heard::Leaving)
            } else {
                ask_to_stop(if signal == SIGINT { "Ctrl-C" } else { "SIGTERM" });
                heard.send(Heard::Stopping)
            };
            asked = true;
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(asking)
}

/// The answer of the person at this command.
fn answer(ui: &Ui, question: &str, asking: &AtomicBool) -> bool {
    asking.store(true, Ordering::SeqCst);
    let yes = ui.confirm(question).unwrap_or(false);
    asking.store(false, Ordering::SeqCst);
    yes
}

/// Tells that whoever sends replies has ended, however that came about.
struct Ended(mpsc::Sender<Heard<Option<Reply>>>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.send(Heard::Line(None));
    }
}

const STOPPING: &str = "asked to stop: before the commit point the run is undone, which takes a moment; once more leaves it alone";

fn remote(mut client: Client, request: &Request, ui: &Arc<Ui>, follow: &mut Follow<'_>) -> Result<(), Error> {
    let lost = |why: String| {
        Error::new(Kind::Unresolved, "`plimsoll serve` went away in the middle of it")
            .why(why)
            .state("not known here; whoever starts `plimsoll serve` next finishes the run or undoes it first")
            .next("start `plimsoll serve`, then: plimsoll status")
    };
    let text = |value: &Request| serde_json::to_value(value).map_err(|e| lost(e.to_string()));
    client.send(&text(request)?).map_err(|e| lost(e.to_string()))?;
    let writer = client.writer().map_err(|e| lost(e.to_string()))?;
    let writer = Arc::new(Mutex::new(writer));
    let (hear, heard) = mpsc::channel();
    let stopping = Arc::clone(&writer);
    // Sent before it is said, and before a second signal can end this command.
    let asking = on_signal(hear.clone(), move |why| {
        let _ = say(&stopping, &Word::Stop { why: why.to_owned() });
    })?;
    thread::spawn(move || {
        for line in client {
            if hear.send(Heard::Line(Some(line))).is_err() {
                return;
            }
        }
        let _ = hear.send(Heard::Line(None));
    });
    let left = || {
        Error::new(Kind::Unresolved, "this command was left before the run ended")
            .why("it was told to end a second time")
            .state(
                "the run goes on in `plimsoll serve`: undone, or finished when it is past its commit point",
            )
            .next("plimsoll status")
    };
    while let Some(line) = next(&heard, ui, left)? {
        let value = line.map_err(|e| lost(e.to_string()))?;
        let reply: Reply = serde_json::from_value(value)
            .map_err(|e| lost(format!("it answered something unknown ({e}); is it of another version?")))?;
        if let Reply::Ask { question } = &reply {
            // In a thread of its own: somebody may answer on the page meanwhile, and the run goes on.
            let (ui, question, writer) = (Arc::clone(ui), question.clone(), Arc::clone(&writer));
            let asking = Arc::clone(&asking);
            thread::spawn(move || {
                let yes = answer(&ui, &question, &asking);
                let _ = say(&writer, &Word::Answer { yes });
            });
        } else {
            // Whoever was asked has answered, or somebody else has.
            asking.store(false, Ordering::SeqCst);
        }
        if let Some(result) = follow.reply(reply) {
            return result;
        }
    }
    Err(lost("the connection ended before the run did".to_owned()))
}

/// Says a word to `serve`.
fn say(writer: &Mutex<Writer>, word: &Word) -> Result<(), String> {
    let value = serde_json::to_value(word).map_err(|e| e.to_string())?;
    writer.lock().unwrap_or_else(PoisonError::into_inner).send(&value).map_err(|e| e.to_string())
}

/// The next line of the run; `None` when there are no more. The first wish to stop is confirmed, the second ends this with `left`.
fn next<T>(
    heard: &mpsc::Receiver<Heard<Option<T>>>,
    ui: &Ui,
    left: impl Fn() -> Error,
) -> Result<Option<T>, Error> {
    for next in heard {
        match next {
            Heard::Line(line) => return Ok(line),
            Heard::Stopping => ui.warn(STOPPING),
            Heard::Leaving => return Err(left()),
        }
    }
    Ok(None)
}

/// The engine in this process: nothing here needs a front door or a supervisor.
fn local(config: &Config, request: Request, ui: &Ui, follow: &mut Follow<'_>) -> Result<(), Error> {
    let stop = StopWish::default();
    let wish = stop.clone();
    let (send, replies) = mpsc::channel::<Heard<Option<Reply>>>();
    let at_prompt = on_signal(send.clone(), move |why| wish.ask(why))?;
    let (answer, answers) = mpsc::channel::<bool>();
    let ended = Ended(send.clone());
    let sender = Mutex::new(send);
    let show: Show = Arc::new(move |reply| {
        if let Ok(sender) = sender.lock() {
            let _ = sender.send(Heard::Line(Some(reply.clone())));
        }
    });
    let asking = Arc::clone(&show);
    let answers = Mutex::new(answers);
    let ask: Ask = Arc::new(move |question| {
        asking(&Reply::Ask { question: question.to_owned() });
        let yes = answers.lock().ok().and_then(|answers| answers.recv().ok())?;
        Some(Said { yes, by: Person { name: station::person(), account: station::person() } })
    });
    let station = Station::alone(config)?;
    thread::spawn(move || {
        let _ended = ended;
        let asked = station::asks(&request).then_some(ask);
        let onlooker = Onlooker::new(Arc::clone(&show), asked, stop);
        let outcome = station.carry_out(request, onlooker.clone());
        post::send_for(&station, SENDING, &onlooker);
        show(&outcome);
    });
    let left = || {
        Error::new(Kind::Unresolved, "this command was left before the run ended")
            .why("it was told to end a second time, and it carries out the run itself")
            .state("the run stopped where it was")
            .next("plimsoll resume, which undoes it, or finishes it when it is past its commit point")
    };
    while let Some(reply) = next(&replies, ui, left)? {
        if let Reply::Ask { question } = &reply {
            let _ = answer.send(self::answer(ui, question, &at_prompt));
        }
        if let Some(result) = follow.reply(reply) {
            return result;
        }
    }
    Err(Error::new(Kind::Bug, "the engine ended without an outcome")
        .state("not known here")
        .next("plimsoll resume"))
}
