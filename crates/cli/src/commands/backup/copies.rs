//! `backup copy` and `backup drill`: second copies in other places, and the proof that they can be restored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_core::check::Verdict;
use plimsoll_host::copies::{self, Copied, Drilled};
use plimsoll_host::sqlite::{self, Control};
use serde_json::json;

use super::typed;
use crate::args::{BackupCopyArgs, Global};
use crate::config::Destination;
use crate::error::{Error, Kind};
use crate::place::{Place, stop_on_signals};
use crate::ui::{Ui, size_words, took_words};

pub(super) fn copy(global: &Global, args: &BackupCopyArgs, ui: &Ui) -> Result<(), Error> {
    if args.dest.to_string_lossy().contains("://") {
        return Err(Error::usage("copies go to folders in this version")
            .why(format!("{} is none", args.dest.display()))
            .next("mount it as a folder, or copy it with that service's own tool"));
    }
    let file = typed(global, &args.place, &args.file)?;
    // The folder is known by its full path, however it is typed.
    let dest = global.directory.join(&args.dest);
    let dest = std::path::absolute(&dest).unwrap_or(dest);
    let copied = to(&file, &dest, args.new_disk, ui)
        .map_err(|error| told(&format!("{} was not copied", file.display()), &error))?;
    show(&dest, &copied, ui);
    Ok(())
}

fn to(file: &Path, dest: &Path, new_disk: bool, ui: &Ui) -> Result<Copied, copies::Error> {
    let _step = ui.progress(&format!("Copy to {}", dest.display()));
    copies::copy(file, dest, new_disk, &mut Control::quiet(stop_on_signals()))
}

fn told(what: &str, error: &copies::Error) -> Error {
    let kind = match error {
        copies::Error::NoFolder { .. } | copies::Error::Database(sqlite::Error::Absent { .. }) => Kind::Usage,
        copies::Error::NotMounted { .. } => Kind::Blocked,
        _ => Kind::Failed,
    };
    Error::new(kind, what).why(error.to_string()).state("the local backup is as it was").next(error.hint())
}

fn show(dest: &Path, copied: &Copied, ui: &Ui) {
    if ui.is_json() {
        return ui.object(&json!({
            "event": "copied", "file": copied.path, "destination": dest, "bytes": copied.bytes,
            "was_there": copied.was_there, "took_ms": copied.took_ms,
        }));
    }
    let note = match copied.was_there {
        true => "was there already, read back and compared".to_owned(),
        false => format!(
            "{}, {}, read back and compared",
            size_words(copied.bytes),
            took_words(Duration::from_millis(copied.took_ms))
        ),
    };
    ui.finding(Verdict::Pass, &copied.path.display().to_string(), &note, "");
}

/// Copies a fresh backup to the configured places. The local one counts whatever becomes of them.
pub(super) fn after_backup(place: &Place, file: &Path, ui: &Ui) -> Result<(), Error> {
    let mut failed = Vec::new();
    for destination in place.config.iter().flat_map(|config| &config.backup.copies) {
        match destination {
            Destination::Folder(folder) => match to(file, folder, false, ui) {
                Ok(copied) => show(folder, &copied, ui),
                Err(error) => failed.push(format!("{}: {error}. {}", folder.display(), error.hint())),
            },
            Destination::S3 { bucket, prefix } => {
                failed.push(format!("s3://{bucket}/{prefix}: this version copies to folders only"));
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::failed("the backup is made and verified, and not every second copy is")
        .details(failed)
        .state(format!("{} is there and counts", file.display()))
        .next("mend the place, then: plimsoll backup copy FILE DEST"))
}

/// The folders that second copies go to.
fn folders(place: &Place) -> Vec<PathBuf> {
    let configured = place.config.iter().flat_map(|config| config.backup.folders());
    let mut folders: Vec<PathBuf> = configured.cloned().collect();
    // Also those that were typed once.
    let noted = copies::states(&place.backups).unwrap_or_default();
    for key in noted.into_keys().filter(|key| key.starts_with('/')).map(PathBuf::from) {
        if !folders.contains(&key) {
            folders.push(key);
        }
    }
    folders
}

pub(super) fn drill(place: &Place, ui: &Ui) -> Result<(), Error> {
    let folders = folders(place);
    let places = std::iter::once(None).chain(folders.iter().map(|folder| Some(folder.as_path())));
    let scratch = place.backups.join(format!(".drill-{}", std::process::id()));
    if !place.backups.is_dir() {
        return Err(Error::failed(format!("there are no backups of {}", place.name()))
            .next("make one: plimsoll backup"));
    }
    std::fs::create_dir(&scratch).map_err(|error| {
        Error::failed(format!("no scratch folder could be made at {}", scratch.display()))
            .why(error.to_string())
    })?;
    let mut failed = Vec::new();
    let stop = stop_on_signals();
    for folder in places {
        let name = folder.map_or_else(|| place.backups.display().to_string(), |f| f.display().to_string());
        let step = ui.progress(&format!("Restore the newest of {name}"));
        let mut control = Control::new(stop.clone(), |at| step.at(at.done, at.total, at.unit));
        let result = copies::drill(&place.backups, &place.name(), folder, &scratch, &mut control);
        drop(control);
        drop(step);
        match result {
            Ok(Some(drilled)) => told_drill(&name, &drilled, ui),
            Ok(None) => failed.push(format!("{name}: there is no backup that counts")),
            Err(error) => failed.push(format!("{name}: {error}. {}", error.hint())),
        }
    }
    // Everything in it is ours, and is removed by the drill itself unless it failed.
    let _ = std::fs::remove_dir_all(&scratch);
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::failed("not every place holds a backup that can be restored")
        .details(failed)
        .state("the database and the backups are as they were")
        .next("make a new one and copy it: plimsoll backup"))
}

fn told_drill(name: &str, drilled: &Drilled, ui: &Ui) {
    if ui.is_json() {
        return ui.object(&json!({
            "event": "drilled", "place": name, "file": drilled.path, "made_at": drilled.made_at,
            "rows": drilled.rows, "restore_ms": drilled.restore_ms, "took_ms": drilled.took_ms,
        }));
    }
    let words = |ms| took_words(Duration::from_millis(ms));
    let note = format!(
        "restored in {}, {} rows read and compared, {} in all",
        words(drilled.restore_ms),
        drilled.rows,
        words(drilled.took_ms)
    );
    ui.finding(Verdict::Pass, &drilled.path.display().to_string(), &note, "");
}
