//! `backup copy` and `backup drill`: second copies in other places, and the proof that they can be restored.

use std::path::Path;
use std::time::Duration;

use plimsoll_core::check::Verdict;
use plimsoll_host::copies::{self, Copied, Drilled};
use plimsoll_host::sqlite::{self, Control};
use serde_json::json;

use super::{find, typed};
use crate::args::{BackupCopyArgs, Global};
use crate::config::{Destination, S3};
use crate::error::{Error, Kind};
use crate::place::{Place, stop_on_signals};
use crate::ui::{Ui, size_words, took_words};

pub(super) fn copy(global: &Global, args: &BackupCopyArgs, ui: &Ui) -> Result<(), Error> {
    let s3 = || find(global, &args.place).ok().and_then(|place| place.config).map(|config| config.backup.s3);
    if let Some(from) = args.file.to_str().filter(|text| text.starts_with("s3://")) {
        return fetch(global, from, args, &s3().unwrap_or_default(), ui);
    }
    let file = typed(global, &args.place, &args.file)?;
    let dest = destination(global, &args.dest.to_string_lossy())?;
    // Only a bucket needs what the configuration says.
    let place = match &dest {
        Destination::Folder(_) => S3::default().place(&dest),
        Destination::S3 { .. } => s3().unwrap_or_default().place(&dest),
    };
    let copied = to(&file, &place, args.new_disk, ui).map_err(|error| {
        let what = match &error {
            copies::Error::NotNoted(_) => "was copied, and `plimsoll status` does not know of it",
            _ => "was not copied",
        };
        told(&format!("{} {what}", file.display()), &error)
    })?;
    show(&place, &copied, ui);
    Ok(())
}

/// A folder is known by its full path, however it is typed.
fn destination(global: &Global, text: &str) -> Result<Destination, Error> {
    let directory = std::path::absolute(&global.directory).unwrap_or_else(|_| global.directory.clone());
    Destination::typed(text, &directory)
        .map_err(|(what, help)| Error::usage(what).state("nothing was copied").next(help))
}

/// Brings a backup back from a bucket: what is needed when the machine is a new one.
fn fetch(global: &Global, from: &str, args: &BackupCopyArgs, s3: &S3, ui: &Ui) -> Result<(), Error> {
    let usage = |what: String| {
        Error::usage(what)
            .state("nothing was copied")
            .next("plimsoll backup copy s3://BUCKET/PREFIX/shop.db.backup.LATEST FOLDER")
    };
    let no_name = || usage(format!("{from} names no backup"));
    let (bucket, name) = from.rsplit_once('/').filter(|(bucket, _)| *bucket != "s3:/").ok_or_else(no_name)?;
    let (database, moment) = name.split_once(".backup.").ok_or_else(no_name)?;
    let there = destination(global, bucket)?;
    let Destination::Folder(folder) = destination(global, &args.dest.to_string_lossy())? else {
        return Err(usage("a backup comes from a bucket into a folder, not into another bucket".to_owned()));
    };
    if !folder.is_dir() {
        return Err(usage(format!("there is no folder {}", folder.display())));
    }
    let copies::Place::Bucket(bucket) = s3.place(&there) else { return Err(no_name()) };
    let file = (moment != "LATEST").then_some(name);
    let step = ui.progress(&format!("Copy from {}", bucket.place()));
    let mut control = Control::quiet(stop_on_signals());
    let fetched = copies::fetch(&bucket, database, file, &folder, &mut control)
        .map_err(|error| told(&format!("{from} was not copied"), &error))?;
    drop(step);
    let Some(path) = fetched else {
        return Err(usage(format!("there is no backup {name} in {}", bucket.place())));
    };
    if ui.is_json() {
        ui.object(&json!({ "event": "fetched", "file": path, "from": bucket.place() }));
    } else {
        ui.finding(Verdict::Pass, &path.display().to_string(), "its hash is that of its manifest", "");
    }
    Ok(())
}

fn to(file: &Path, place: &copies::Place, new_disk: bool, ui: &Ui) -> Result<Copied, copies::Error> {
    let _step = ui.progress(&format!("Copy to {}", place.key()));
    copies::copy(file, place, new_disk, &mut Control::quiet(stop_on_signals()))
}

fn told(what: &str, error: &copies::Error) -> Error {
    let kind = match error {
        copies::Error::NoFolder { .. } | copies::Error::Database(sqlite::Error::Absent { .. }) => Kind::Usage,
        copies::Error::NotMounted { .. } => Kind::Blocked,
        _ => Kind::Failed,
    };
    Error::new(kind, what).why(error.to_string()).state("the local backup is as it was").next(error.hint())
}

fn show(place: &copies::Place, copied: &Copied, ui: &Ui) {
    if ui.is_json() {
        return ui.object(&json!({
            "event": "copied", "file": copied.file, "destination": place.key(), "bytes": copied.bytes,
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
    ui.finding(Verdict::Pass, &copied.file, &note, "");
}

/// Copies a fresh backup to the configured places. The local one counts whatever becomes of them. `reached` gets those
/// that have it.
pub(super) fn after_backup(
    place: &Place,
    file: &Path,
    reached: &mut Vec<copies::Place>,
    ui: &Ui,
) -> Result<(), Error> {
    let mut failed = Vec::new();
    for there in place.config.iter().flat_map(|config| config.backup.places()) {
        match to(file, &there, false, ui) {
            Ok(copied) => {
                show(&there, &copied, ui);
                reached.push(there);
            }
            Err(error) => failed.push(format!("{}: {error}. {}", there.key(), error.hint())),
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

/// The places that second copies go to, those included that were typed once.
fn places(place: &Place) -> Vec<copies::Place> {
    let s3 = place.config.as_ref().map(|config| config.backup.s3.clone()).unwrap_or_default();
    let mut places: Vec<_> = place.config.iter().flat_map(|config| config.backup.places()).collect();
    for key in copies::states(&place.backups).unwrap_or_default().into_keys() {
        let known = places.iter().any(|place| place.key() == key);
        if !known && (key.starts_with('/') || key.starts_with("s3://")) {
            let typed = Destination::typed(&key, Path::new("/"));
            places.extend(typed.ok().map(|destination| s3.place(&destination)));
        }
    }
    places
}

pub(super) fn drill(place: &Place, ui: &Ui) -> Result<(), Error> {
    let others = places(place);
    let places = std::iter::once(None).chain(others.iter().map(Some));
    let scratch = place.backups.join(format!(".drill-{}", std::process::id()));
    if !place.backups.is_dir() {
        return Err(Error::failed(format!("there are no backups of {}", place.name()))
            .next("make one: plimsoll backup"));
    }
    std::fs::create_dir(&scratch).map_err(|error| {
        Error::failed(format!("no scratch folder could be made at {}", scratch.display()))
            .why(error.to_string())
            .state("the database and the backups are as they were")
            .next("free some room, or see who may write there")
    })?;
    let mut failed = Vec::new();
    let stop = stop_on_signals();
    for there in places {
        let name = there.map_or_else(|| place.backups.display().to_string(), copies::Place::key);
        let step = ui.progress(&format!("Restore the newest of {name}"));
        let mut control = Control::new(stop.clone(), |at| step.at(at.done, at.total, at.unit));
        let result = copies::drill(&place.backups, &place.name(), there, &scratch, &mut control);
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
            "event": "drilled", "place": name, "file": drilled.file, "made_at": drilled.made_at,
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
    ui.finding(Verdict::Pass, &drilled.file, &note, "");
}
