//! `adopt`: an app that runs from a checkout becomes release 1 behind the front door. Everything is shown first, each act
//! is noted before it is done, and all of it can be taken back.

mod acts;
mod machine;
mod plan;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::Source;
use plimsoll_host::durable;
use plimsoll_host::release::Releases;
use plimsoll_host::service::{Answer, Health, ask};
use serde_json::json;

use crate::args::{AdoptArgs, Global};
use crate::audience::{Onlooker, Show, StopWish};
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::follow;
use crate::survey::{self, Places};
use crate::ui::Ui;
use crate::wire::Reply;
use crate::wiring;
use acts::Record;
use machine::plimsoll;
use plan::Plan;

/// How long the new front door has until it answers well.
const PATIENCE: Duration = Duration::from_secs(90);

/// `plimsoll adopt`
pub(crate) fn adopt(global: &Global, args: &AdoptArgs, ui: &Arc<Ui>) -> Result<(), Error> {
    if let Some(commit) = &args.prepare {
        return prepare(global, commit, ui);
    }
    let folder = std::fs::canonicalize(&global.directory).map_err(|error| {
        Error::usage(format!("cannot look into {}", global.directory.display()))
            .why(error.to_string())
            .next("name the app's folder: plimsoll -C DIR adopt")
    })?;
    if args.undo {
        return take_back(&folder, args, ui);
    }
    let root = args.root.clone().unwrap_or_else(|| plan::usual_root(&folder));
    if let Some(before) = Record::read(&root)? {
        return Err(before.in_the_way(&root));
    }
    let plan = Plan::of(&survey::look(&Places::of(folder.clone())), &folder, args)?;
    show(&plan, ui);
    if args.print {
        return Ok(());
    }
    agreed(args.yes, &format!("Take {} over now?", plan.name), ui)?;
    let release = made_ready(&plan, ui)?;
    switch(&plan, &release, ui)
}

/// Root, configuration and release, while the app runs on untouched.
fn made_ready(plan: &Plan, ui: &Ui) -> Result<ReleaseId, Error> {
    let started = Instant::now();
    let gone_wrong = |error: Error| {
        error.state(format!(
            "the app runs as before and was not touched; {} can be removed",
            plan.root.display()
        ))
    };
    plan.lay_out().map_err(&gone_wrong)?;
    plan.give_away().map_err(&gone_wrong)?;
    ui.say("building release 1 while the app runs on");
    let words = ["adopt", "--prepare", plan.commit.as_str()];
    plimsoll(plan, plan.user.as_deref(), &words, |line| ui.aside(line)).map_err(|error| {
        gone_wrong(error).next(format!(
            "mend it (what releases are built with is in {}), remove the folder, and adopt again",
            plan.config_file().display()
        ))
    })?;
    let built = Releases::new(&plan.root).list().map_err(|e| follow::plain(e.into()))?;
    let Some(release) = built.last().cloned() else {
        return Err(gone_wrong(Error::new(Kind::Bug, "the build ended well and left no release")));
    };
    ui.say(&format!("release {release} is built, after {:.1} s", started.elapsed().as_secs_f64()));
    Ok(release)
}

/// From here on users notice: they meet nobody until the front door is there.
fn switch(plan: &Plan, release: &ReleaseId, ui: &Ui) -> Result<(), Error> {
    let mut record = Record::begin(plan, release)?;
    let begun = Instant::now();
    let done = (|| {
        for act in plan.acts(release) {
            ui.aside(&act.to_string());
            record.perform(plan, act)?;
        }
        Ok(())
    })();
    let answered = done.and_then(|()| answers(plan, release));
    if let Err(error) = answered {
        ui.warn(&format!("it did not work out ({}): everything is taken back", error.what));
        return Err(match record.undo(plan, ui) {
            Ok(()) => error.state("the app runs as before, from its checkout, with all its data"),
            Err(worse) => Error::new(Kind::Unresolved, "the adoption failed, and taking it back failed too")
                .why(format!("{}; then: {}", error.what, worse.what))
                .details(error.details.into_vec().into_iter().chain([error.why, worse.why]))
                .state(format!(
                    "what was done is noted in {}; the data is whole",
                    Record::path(&plan.root).display()
                ))
                .next(format!("plimsoll -C {} adopt --undo", plan.root.display())),
        });
    }
    let gap = begun.elapsed();
    for act in plan.last_acts() {
        ui.aside(&act.to_string());
        if let Err(error) = record.perform(plan, act) {
            ui.warn(&format!("{}: {}", error.what, error.why));
        }
    }
    record.finish(plan).map_err(|error| {
        error
            .state(format!(
                "{release} is live at {} with all its data; only the note of the adoption is incomplete",
                plan.listen
            ))
            .next(format!(
                "plimsoll -C {root} status; to take it back: plimsoll -C {root} adopt --undo",
                root = plan.root.display()
            ))
    })?;
    if ui.is_json() {
        ui.object(&json!({
            "event": "adopted", "release": release.0, "root": plan.root, "gap_ms": gap.as_millis() as u64,
        }));
    }
    ui.say(&format!(
        "adopted: {release} is live at {}, users met nobody for {:.1} s",
        plan.listen,
        gap.as_secs_f64()
    ));
    for hint in &plan.hints {
        ui.warn(hint);
    }
    ui.say(&format!(
        "next: plimsoll -C {root} deploy   (to take it back: plimsoll -C {root} adopt --undo)",
        root = plan.root.display()
    ));
    Ok(())
}

/// Waits until the release answers at the address that the app had.
fn answers(plan: &Plan, release: &ReleaseId) -> Result<(), Error> {
    let config = Config::load(&plan.config_file())?;
    let health = Health {
        path: config.service.health.clone(),
        release_pointer: config.service.health_release.clone(),
        headers: Vec::new(),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask(plan.local(), &health, release, Duration::from_secs(5));
        if matches!(answer, Answer::Well { .. }) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::failed(format!("release {release} does not answer at {}", plan.listen))
                .why(format!("{}: {answer}", config.service.health))
                .details(machine::last_lines(&plan.root.join("logs/app.log"))));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn take_back(folder: &Path, args: &AdoptArgs, ui: &Ui) -> Result<(), Error> {
    let root = args.root.clone().unwrap_or_else(|| plan::usual_root(folder));
    let candidates = [folder.to_owned(), root];
    let mut found = None;
    for root in candidates {
        if let Some(record) = Record::read(&root)? {
            found = Some((root, record));
            break;
        }
    }
    let Some((root, mut record)) = found else {
        return Err(Error::usage("nothing was adopted here")
            .why(format!("there is no {}", Record::path(folder).display()))
            .next("name the root: plimsoll -C ROOT adopt --undo"));
    };
    record.may_be_undone(&root)?;
    let plan = record.plan(&root)?;
    for act in record.shown() {
        ui.say(&format!("back: {act}"));
    }
    agreed(args.yes, "Take the adoption back? Users meet nobody for some seconds.", ui)?;
    record.undo(&plan, ui).map_err(|error| {
        error
            .state("the data is whole; what is left to undo is noted")
            .next(format!("plimsoll -C {} adopt --undo, once more", root.display()))
    })?;
    ui.say(&format!(
        "taken back: the app runs from {} again; {} can be removed",
        plan.folder.display(),
        root.display()
    ));
    Ok(())
}

/// The part that runs as the app's user: from a commit to a built release.
fn prepare(global: &Global, commit: &str, ui: &Arc<Ui>) -> Result<(), Error> {
    let config = Config::load(&Config::locate(&global.directory, global.config.as_deref()))?;
    let lines = Arc::clone(ui);
    let show: Show = Arc::new(move |reply: &Reply| {
        if let Reply::Line { text } = reply {
            lines.aside(text);
        }
    });
    let onlooker = Onlooker::new(show, None, StopWish::default());
    let mut source = wiring::source(&config, &onlooker).map_err(follow::plain)?;
    let (release, _) = source.fetch(Some(commit)).map_err(follow::plain)?;
    source.build(&release).map_err(follow::plain)?;
    ui.data(&release.id.0);
    Ok(())
}

fn show(plan: &Plan, ui: &Ui) {
    let lines = plan.shown();
    if ui.is_json() {
        ui.object(&json!({ "event": "adopt", "root": plan.root, "acts": lines, "config": plan.config, "hints": plan.hints }));
        return;
    }
    ui.data(&format!("--- {}\n{}", plan.config_file().display(), plan.config));
    for line in lines {
        ui.data(&line);
    }
    for hint in &plan.hints {
        ui.warn(hint);
    }
}

fn agreed(yes: bool, question: &str, ui: &Ui) -> Result<(), Error> {
    if yes || ui.confirm(question) == Some(true) {
        return Ok(());
    }
    Err(Error::new(Kind::Blocked, "nobody agreed")
        .state("nothing was changed")
        .next("answer y, or pass --yes once you have read it"))
}

fn unwritten(error: durable::Error) -> Error {
    follow::plain(error.into())
}
