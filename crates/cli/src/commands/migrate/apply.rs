//! `migrate up` and `migrate down`: tried on a copy both ways first, then applied as a deployment does.

use std::path::{Path, PathBuf};
use std::{fs, io};

use plimsoll_core::check::Verdict;
use plimsoll_host::sqlite::backup::{Request, create};
use plimsoll_host::sqlite::history::Status;
use plimsoll_host::sqlite::migrate::{Applied, Job, apply_watched};
use plimsoll_host::sqlite::migration::Migration;
use plimsoll_host::sqlite::trial::{self, Outcome};
use plimsoll_host::sqlite::{Control, Limits, Stop, Watcher, copy};
use serde_json::json;

use super::{Subject, told, words_to_type};
use crate::error::{Error, Kind};
use crate::place::{Place, failed, stop_on_signals};
use crate::ui::{Ui, took_words};

pub(super) fn up(subject: &Subject, to: Option<u64>, words: &[String], ui: &Ui) -> Result<(), Error> {
    let _lock = own(subject, "migrate up")?;
    let status = subject.status()?;
    fits(&status)?;
    let wanted = |m: &&Migration| status.pending.contains(&m.version) && to.is_none_or(|to| m.version <= to);
    let pending: Vec<Migration> = subject.migrations.all.iter().filter(wanted).cloned().collect();
    if let Some(to) = to.filter(|to| !subject.migrations.all.iter().any(|m| m.version == *to)) {
        return Err(Error::usage(format!("there is no migration {to}")).next("plimsoll migrate status"));
    }
    if !status.out_of_order.is_empty() {
        let late = status.out_of_order.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        ui.warn(&format!("applied after a later one: {late}"));
    }
    carry_out(subject, &pending, words, "nothing is pending", ui)
}

pub(super) fn down(subject: &Subject, to: Option<u64>, words: &[String], ui: &Ui) -> Result<(), Error> {
    let _lock = own(subject, "migrate down")?;
    let status = subject.status()?;
    let mut applied: Vec<u64> = status.applied.iter().filter_map(|line| line.version).collect();
    applied.sort_unstable_by(|a, b| b.cmp(a));
    // Without a target, the last one.
    let back: Vec<u64> = match to {
        Some(to) => applied.into_iter().take_while(|version| *version > to).collect(),
        None => applied.into_iter().take(1).collect(),
    };
    let reversed = |version: &u64| {
        let migration = subject.migrations.all.iter().find(|m| m.version == *version);
        migration.and_then(Migration::reversed).ok_or_else(|| {
            let name = migration.map_or_else(|| version.to_string(), Migration::file);
            Error::failed(format!("{name} cannot be taken back"))
                .why("it has no .down.sql")
                .state("the database is as it was")
                .next("write one; or go back to a backup: plimsoll backup list")
        })
    };
    let jobs = back.iter().map(reversed).collect::<Result<Vec<_>, _>>()?;
    carry_out(subject, &jobs, words, "nothing is to be taken back", ui)
}

fn own(subject: &Subject, what: &str) -> Result<crate::place::Owned, Error> {
    subject.place.own(what).map_err(|error| match (error.kind, subject.place.config.is_some()) {
        (Kind::Blocked, true) => error.state("the database is as it was").next(
            "let a deployment migrate, with the app held meanwhile: plimsoll deploy\n\
             or stop `plimsoll serve`, run this once more, and start it again",
        ),
        _ => error,
    })
}

/// As a deployment: the database must not know others under these numbers.
fn fits(status: &Status) -> Result<(), Error> {
    let refuse = |what: &str, list: Vec<String>, next: &str| {
        Err(Error::new(Kind::Blocked, what)
            .why(list.join(", "))
            .state("the database is as it was")
            .next(next))
    };
    if !status.missing_files.is_empty() {
        let list = status.missing_files.iter().map(|line| line.written.clone()).collect();
        return refuse(
            "the database has had migrations that are not here",
            list,
            "bring their files back, or see that this is the right database",
        );
    }
    if !status.edited.is_empty() {
        let list = status.edited.iter().map(u64::to_string).collect();
        return refuse(
            "migrations that were applied have been edited since",
            list,
            "put them back; or see what it changes and accept it: plimsoll migrate accept N",
        );
    }
    if !status.failed.is_empty() {
        return refuse(
            "schema_version says that a migration failed before",
            status.failed.clone(),
            "mend the database, then set the row's status to 'applied' or delete it",
        );
    }
    Ok(())
}

/// Tries on a copy, refuses what nobody acknowledged, and applies while nobody else has written since the copy.
fn carry_out(
    subject: &Subject,
    jobs: &[Migration],
    words: &[String],
    nothing: &str,
    ui: &Ui,
) -> Result<(), Error> {
    if jobs.is_empty() {
        ui.say(nothing);
        return Ok(());
    }
    let database = subject.database();
    let before = "the database is as it was";
    let stop = stop_on_signals();
    let mut watcher = Watcher::open(database)
        .map_err(|error| failed("the database cannot be watched", &error).state(before))?;
    let step = ui.progress("Back up and try on a copy");
    let mut control = Control::new(stop.clone(), |at| step.at(at.done, at.total, at.unit));
    let backup = create(&Request::new(database, &subject.place.backups, "before-migrate"), &mut control)
        .map_err(|error| failed("the database was not backed up", &error).state(before))?;
    let outcomes = try_on_copy(&subject.place, jobs, &mut control)?;
    drop(control);
    drop(step);
    for outcome in &outcomes {
        show_tried(outcome, ui);
    }
    let losses: Vec<_> = outcomes.iter().flat_map(|outcome| outcome.unacknowledged(words)).collect();
    if !losses.is_empty() {
        let details = losses.iter().map(|loss| format!("{}: {} {}", loss.word, loss.quantity, loss.detail));
        return Err(Error::new(Kind::Blocked, "data would be lost that nobody acknowledged")
            .details(details)
            .state(before)
            .next(words_to_type(losses.iter().map(|loss| loss.word.as_str()))));
    }
    let jobs: Vec<Job> = jobs
        .iter()
        .cloned()
        .zip(&outcomes)
        .map(|(migration, outcome)| Job { migration, mode: outcome.mode })
        .collect();
    let step = ui.progress("Apply");
    let mut control = Control::new(stop, |at| step.at(at.done, at.total, at.unit));
    let mut done: Vec<Applied> = Vec::new();
    let result = apply_watched(database, &jobs, words, None, &mut watcher, &mut control, &mut |applied| {
        done.push(applied.clone());
    });
    drop(control);
    drop(step);
    for applied in &done {
        show_applied(applied, ui);
    }
    let kept = backup.path.display().to_string();
    match result {
        Ok(_) => {
            ui.say(&format!("the database before it is kept: {kept}"));
            Ok(())
        }
        Err(error) => {
            let told = told("not everything was applied", &error);
            let files: Vec<&str> = done.iter().map(|applied| applied.file.as_str()).collect();
            let state = match files.as_slice() {
                [] => format!("nothing was applied; a backup of it is {kept}"),
                files => format!("applied and kept: {}; before it: {kept}", files.join(", ")),
            };
            Err(told.state(state))
        }
    }
}

/// On a copy beside the backups; gone when it has been tried.
pub(super) fn try_on_copy(
    place: &Place,
    jobs: &[Migration],
    control: &mut Control<'_>,
) -> Result<Vec<Outcome>, Error> {
    let scratch = Scratch::make(place)?;
    let trial = scratch.0.join("trial.db");
    copy::copy(&place.database, &trial, &Limits::default(), control).map_err(|error| {
        failed("the database could not be copied", &error).state("the database is as it was")
    })?;
    trial::run(&trial, jobs, control).map_err(|error| told("it fails on a copy of the database", &error))
}

/// A folder for the trial.
struct Scratch(PathBuf);

impl Scratch {
    fn make(place: &Place) -> Result<Scratch, Error> {
        // Beside the backups there is room for databases; `/tmp` is memory on many machines.
        let folder = if place.backups.is_dir() { place.backups.clone() } else { std::env::temp_dir() };
        let start = format!(".{}.trial-", place.name());
        clear(&folder, &start);
        let path = folder.join(format!("{start}{}", std::process::id()));
        let made = remove(&path).and_then(|()| private(&path));
        made.map_err(|e| {
            Error::failed(format!("no scratch folder could be made at {}", path.display()))
                .why(e.to_string())
                .state("the database is as it was")
        })?;
        Ok(Scratch(path))
    }
}

/// Removes what a crash left, best effort: of owners that do not live any more.
fn clear(folder: &Path, start: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(start).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = remove(&entry.path());
        }
    }
}

fn private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in a folder for what may go.
        let _ = remove(&self.0);
    }
}

fn show_tried(outcome: &Outcome, ui: &Ui) {
    let note = format!("{}, {}", took_words(outcome.took), outcome.mode.words());
    ui.observed(Verdict::Pass, &format!("{} works on a copy", outcome.file), &note);
    if let Some(other) = &outcome.other {
        ui.aside(&format!("the other way: {other}"));
    }
}

fn show_applied(applied: &Applied, ui: &Ui) {
    let class = json!(applied.class);
    if ui.is_json() {
        return ui.object(&json!({
            "event": "applied", "version": applied.version, "file": applied.file, "class": class,
            "ms": applied.took.as_millis(), "losses": applied.losses,
        }));
    }
    let note = format!("{}, {}", class.as_str().unwrap_or_default(), took_words(applied.took));
    ui.finding(Verdict::Pass, &applied.file, &note, "");
}

/// For a command that only reads.
pub(super) fn quiet() -> Control<'static> {
    Control::quiet(Stop::new())
}
