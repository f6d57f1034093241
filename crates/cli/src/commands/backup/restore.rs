//! `backup restore`: puts a backup back into the database, or into a new file beside it.

use std::path::Path;

use plimsoll_core::check::Verdict;
use plimsoll_host::sqlite::fingerprint::Depth;
use plimsoll_host::sqlite::manifest::Manifest;
use plimsoll_host::sqlite::restore::{Guard, Method, Options, Restored, into};
use plimsoll_host::sqlite::{self, Control, Fingerprint, Stop};
use serde_json::json;

use super::{find, opened_by, typed};
use crate::args::{BackupRestoreArgs, Global};
use crate::error::{Error, Kind};
use crate::place::{Place, failed, stop_on_signals};
use crate::ui::{Ui, took_words};

/// Differences that are shown one by one before the question.
const SHOWN: usize = 12;

pub(super) fn restore(global: &Global, args: &BackupRestoreArgs, ui: &Ui) -> Result<(), Error> {
    let file = typed(global, &args.place, &args.file)?;
    let stop = stop_on_signals();
    if let Some(to) = &args.to {
        return beside(&file, &global.directory.join(to), stop, ui);
    }
    let place = find(global, &args.place)?;
    let _lock = place.own("backup restore").map_err(|error| with_way_out(error, &file))?;
    let unknown = app_is_stopped(&place)? && !args.app_stopped;
    let now = present(&place, &stop)?;
    if !agreed(&place, &file, now.as_ref(), args.yes, ui)? {
        return Err(Error::new(Kind::Blocked, "not restored").state("the database is as it was"));
    }
    let mut options = Options::new(&place.backups);
    options.app_stopped = !unknown;
    // Whoever writes from here on is noticed, and then nothing is restored.
    let guard = now.as_ref().map_or(Guard::Any, Guard::Equals);
    let step = ui.progress(&format!("Restore {}", place.name()));
    let mut control = Control::new(stop, |at| step.at(at.done, at.total, at.unit));
    let restored = into(&file, &place.database, guard, &options, &mut control)
        .map_err(|error| not_restored(&error, unknown))?;
    drop(control);
    drop(step);
    show(&place.database, &file, &restored, ui);
    ui.say("next: start the app again; it must be a release that fits this schema");
    Ok(())
}

fn not_restored(error: &sqlite::Error, unknown: bool) -> Error {
    if let sqlite::Error::NotReadBack { kept, .. } = error {
        let kept = kept.as_ref().map(|kept| format!("; what was there is kept: {}", kept.display()));
        let state = format!("the database is the backup's now{}", kept.unwrap_or_default());
        return failed("the backup was restored, and not read back", error).state(state);
    }
    let told = failed("the backup was not restored", error).state("the database is as it was");
    match error {
        // The file would have to be replaced, and this user cannot see into every process.
        sqlite::Error::InUse { .. } if unknown => Error { kind: Kind::Blocked, ..told }
            .next("see that the app is stopped, then run this once more with --app-stopped, or as root"),
        _ => told,
    }
}

/// While the app's owner lives, it may start or deploy the app at any moment.
fn with_way_out(error: Error, file: &Path) -> Error {
    if error.kind != Kind::Blocked {
        return error;
    }
    let file = file.display();
    Error { what: format!("{}; a restore under a running app is refused", error.what), ..error }
        .state("the database is as it was")
        .next(format!(
            "to go back to the release before, with its orders: plimsoll rollback\n\
             to look into the backup: plimsoll backup restore {file} --to /tmp/look.db\n\
             to restore all the same: stop `plimsoll serve`, run this once more, start it again"
        ))
}

/// An app that goes on with rows that are gone in its memory is worse than one that is down. `true` when not all
/// processes could be looked into.
fn app_is_stopped(place: &Place) -> Result<bool, Error> {
    let openers = opened_by(place);
    if openers.pids.is_empty() {
        return Ok(!openers.hidden.is_empty());
    }
    let pids: Vec<String> = openers.pids.iter().map(u32::to_string).collect();
    Err(Error::new(Kind::Blocked, "the database is open in another process; a restore under it is refused")
        .why(format!("process {}", pids.join(", ")))
        .state("the database is as it was")
        .next(format!("stop it (see it with: ps -p {}), then run this once more", pids.join(","))))
}

/// What the database holds now; `None` when there is none, or none that can be read.
fn present(place: &Place, stop: &Stop) -> Result<Option<Fingerprint>, Error> {
    let mut control = Control::quiet(stop.clone());
    match Fingerprint::of(&place.database, Depth::Content, &mut control) {
        Ok(now) => Ok(Some(now)),
        Err(
            sqlite::Error::Absent { .. } | sqlite::Error::NotADatabase { .. } | sqlite::Error::Corrupt { .. },
        ) => Ok(None),
        Err(error) => Err(failed("the database that would be replaced cannot be read", &error)
            .state("the database is as it was")),
    }
}

/// Says what would change, and asks.
fn agreed(place: &Place, file: &Path, now: Option<&Fingerprint>, yes: bool, ui: &Ui) -> Result<bool, Error> {
    let manifest =
        Manifest::read(file).map_err(|error| failed("the backup's manifest cannot be used", &error))?;
    match (&manifest, now) {
        (None, _) => ui.warn("the backup has no manifest: only SQLite's own checks are possible"),
        (_, None) => ui.say("there is no database now that could be read; what is there is kept"),
        (Some(manifest), Some(now)) => {
            let changes = now.differences(&manifest.content);
            ui.say(&match changes.len() {
                0 => "the backup holds what the database holds now".to_owned(),
                _ => format!("after it, {} compared with now:", place.name()),
            });
            for change in changes.iter().take(SHOWN) {
                ui.say(&format!("    {change}"));
            }
            if changes.len() > SHOWN {
                ui.say(&format!("    and {} differences more", changes.len() - SHOWN));
            }
        }
    }
    let from = manifest.as_ref().and_then(|manifest| manifest.source.file_name());
    if let Some(other) = from.filter(|name| Some(*name) != place.database.file_name()) {
        ui.warn(&format!("this is a backup of another file: {}", other.to_string_lossy()));
    }
    if yes {
        return Ok(true);
    }
    ui.confirm(&format!("Restore {}?", place.database.display())).ok_or_else(|| {
        Error::new(Kind::Blocked, "a restore replaces the database, and nobody is here to be asked")
            .state("the database is as it was")
            .next("run it on a terminal, or with --yes")
    })
}

/// Into a new file: the database is not touched.
fn beside(file: &Path, to: &Path, stop: Stop, ui: &Ui) -> Result<(), Error> {
    if to.symlink_metadata().is_ok() {
        return Err(Error::usage(format!("{} is there already", to.display()))
            .why("--to writes a new file and replaces none")
            .state("nothing was changed")
            .next("name another file; to restore a database leave --to out"));
    }
    let mut options = Options::new(to.parent().unwrap_or(Path::new(".")));
    options.app_stopped = true;
    let step = ui.progress("Restore into a new file");
    let mut control = Control::new(stop, |at| step.at(at.done, at.total, at.unit));
    let restored = into(file, to, Guard::Any, &options, &mut control).map_err(|error| match &error {
        sqlite::Error::NotReadBack { .. } => not_restored(&error, false)
            .state(format!("{} is the backup's; no other file was changed", to.display())),
        _ => failed("the backup was not restored", &error).state("no new file was made"),
    })?;
    drop(control);
    drop(step);
    show(to, file, &restored, ui);
    Ok(())
}

fn show(target: &Path, file: &Path, restored: &Restored, ui: &Ui) {
    let way = match restored.method {
        Method::Through => "through SQLite into the existing file",
        Method::Renamed => "as a new file",
    };
    if ui.is_json() {
        ui.object(&json!({
            "event": "restored", "file": file, "database": target, "method": match restored.method {
                Method::Through => "through", Method::Renamed => "renamed",
            },
            "kept": restored.kept, "rows": restored.content.total_rows(), "tables": restored.content.tables.len(),
            "locked_ms": restored.locked.as_millis(), "differences": restored.differences,
            "unchecked": restored.unchecked,
        }));
    } else {
        let note = format!(
            "{way}, {} tables, {} rows, locked for {}",
            restored.content.tables.len(),
            restored.content.total_rows(),
            took_words(restored.locked)
        );
        let kept = restored.kept.as_ref().map(|kept| format!("what was there is kept: {}", kept.display()));
        ui.finding(
            Verdict::Pass,
            &format!("{} restored", target.display()),
            &note,
            &kept.unwrap_or_default(),
        );
    }
    for unchecked in &restored.unchecked {
        ui.warn(&format!("not checked: {unchecked}"));
    }
    for difference in &restored.differences {
        ui.warn(&format!("somebody wrote right after it: {difference}"));
    }
}
