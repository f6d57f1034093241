//! Second copies of backups in other folders: another disk, a NAS. Each destination has a state of its own, and a
//! failed one never costs the local backup.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use plimsoll_core::check::Check;
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backups::{self, Entry};
use crate::durable;
use crate::sqlite::fingerprint::Depth;
use crate::sqlite::manifest::{Manifest, State};
use crate::sqlite::partial::{Partial, leftovers, remove_with_sides, room};
use crate::sqlite::restore::{Guard, Options, into};
use crate::sqlite::verify::{self, hash_file};
use crate::sqlite::{Control, Error as Database};

/// Lies in every destination. A disk that is not mounted leaves an empty folder behind, and this is not in it.
const MARKER: &str = ".plimsoll-copies";
/// In the folder of the backups: what is known about each destination.
const STATES: &str = "destinations.json";
/// The key under which drills of the local backups are kept.
const LOCAL: &str = "local";

/// Why a copy was not made. The local backup is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The destination is no folder.
    #[error("there is no folder {}", folder.display())]
    NoFolder {
        /// The destination.
        folder: PathBuf,
    },
    /// It is not the place that copies went to before.
    #[error("{} is not the disk that copies went to before: {why}", folder.display())]
    NotMounted {
        /// The destination.
        folder: PathBuf,
        /// What tells.
        why: String,
    },
    /// Another file has the backup's name there. It was left alone.
    #[error("{} is there already and is something else", path.display())]
    Other {
        /// The file.
        path: PathBuf,
    },
    /// The backup does not count, so it was not copied.
    #[error("{} does not count: {why}", path.display())]
    NotVerified {
        /// The backup.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Reading, writing or comparing failed; nothing partial is left.
    #[error(transparent)]
    Database(#[from] Database),
}

impl Error {
    /// What to do next, in one sentence.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Error::NoFolder { .. } => "Mount the disk, or make the folder; Plimsoll makes none for copies.",
            Error::NotMounted { .. } => {
                "Mount the disk; if this is a new one: `plimsoll backup copy FILE DEST --new-disk`."
            }
            Error::Other { .. } => "Look at that file, and move it away.",
            Error::NotVerified { .. } => "Take another one: `plimsoll backup list` shows those that count.",
            Error::Database(error) => error.hint(),
        }
    }
}

impl From<durable::Error> for Error {
    fn from(error: durable::Error) -> Self {
        Error::Database(error.into())
    }
}

/// What is known about one destination.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Destination {
    /// What its marker must say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The last copy that was read back.
    pub copied: Option<Done>,
    /// The last drill that succeeded.
    pub drilled: Option<Done>,
    /// What went wrong last, when that was later than the last success.
    pub trouble: Option<Trouble>,
}

/// Something that was done with a backup.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The backup's file name.
    pub file: String,
    /// When, UTC.
    pub at: Timestamp,
    /// How long it took.
    pub took_ms: u64,
}

/// Something that went wrong.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// When, UTC.
    pub at: Timestamp,
    /// What.
    pub why: String,
}

/// What is known about all destinations of a folder of backups, by their paths; `local` is the folder itself.
///
/// # Errors
/// When there is a file that cannot be used.
pub fn states(backups: &Path) -> Result<BTreeMap<String, Destination>, Error> {
    let path = backups.join(STATES);
    let unusable = |why: String| Error::Database(Database::Manifest { path: path.clone(), why });
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| unusable(e.to_string())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(unusable(e.to_string())),
    }
}

fn note(backups: &Path, key: &str, change: impl FnOnce(&mut Destination)) -> Result<(), Error> {
    let mut all = states(backups)?;
    change(all.entry(key.to_owned()).or_default());
    let text = serde_json::to_string_pretty(&all)
        .map_err(|e| Database::Manifest { path: backups.join(STATES), why: e.to_string() })?;
    durable::write(&backups.join(STATES), durable::PRIVATE, format!("{text}\n").as_bytes())?;
    Ok(())
}

/// What became of a copy.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The copy.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whether it was there already, as it should be.
    pub was_there: bool,
    /// How long copying and reading back took.
    pub took_ms: u64,
}

/// Copies a verified backup to a folder, reads it back from there and compares; its manifest last. `new_disk` accepts a
/// folder that has not the marker it had. The outcome, good or bad, is noted beside the local backups.
///
/// # Errors
/// See [`Error`]; nothing partial is left, and no other file is touched.
pub fn copy(
    backup: &Path,
    folder: &Path,
    new_disk: bool,
    control: &mut Control<'_>,
) -> Result<Copied, Error> {
    let local = backup.parent().unwrap_or(Path::new("."));
    let key = folder.display().to_string();
    let started = Instant::now();
    match copy_to(backup, folder, new_disk, control) {
        Ok(mut copied) => {
            copied.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let file = backup.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let done = Done { file, at: Timestamp::now(), took_ms: copied.took_ms };
            note(local, &key, |state| (state.copied, state.trouble) = (Some(done), None))?;
            raise(backup, State::Copied)?;
            Ok(copied)
        }
        Err(error) => {
            let trouble = Trouble { at: Timestamp::now(), why: error.to_string() };
            // The copy's own error is the one to tell.
            let _ = note(local, &key, |state| state.trouble = Some(trouble));
            Err(error)
        }
    }
}

fn copy_to(backup: &Path, folder: &Path, new_disk: bool, control: &mut Control<'_>) -> Result<Copied, Error> {
    let not_verified = |why: &str| Error::NotVerified { path: backup.to_owned(), why: why.into() };
    let manifest = Manifest::read(backup)?.ok_or_else(|| not_verified("it has no manifest"))?;
    let local = backup.parent().unwrap_or(Path::new("."));
    same_disk(local, folder, new_disk)?;
    let to = folder.join(&manifest.file);
    if to.symlink_metadata().is_ok() {
        let there = hash_file(&to, &control.stop)?;
        if there != (manifest.bytes, manifest.sha256.clone()) {
            return Err(Error::Other { path: to });
        }
        write_manifest(&manifest, &to)?;
        return Ok(Copied { path: to, bytes: manifest.bytes, was_there: true, took_ms: 0 });
    }
    for left in leftovers(folder, &manifest.file)? {
        remove_with_sides(&left);
    }
    room(folder, manifest.bytes + (1 << 20))?;
    let partial = Partial::new(folder, &manifest.file)?;
    if pour(backup, partial.path(), control)? != manifest.sha256 {
        return Err(not_verified("its hash is not that of its manifest"));
    }
    read_back(partial.path(), &manifest, control)?;
    match partial.publish(&to)? {
        Ok(()) => {}
        Err(_) => return Err(Error::Other { path: to }),
    }
    write_manifest(&manifest, &to)?;
    Ok(Copied { path: to, bytes: manifest.bytes, was_there: false, took_ms: 0 })
}

/// A mount that has gone away leaves a folder on the wrong disk; filling that would be no second copy at all.
fn same_disk(local: &Path, folder: &Path, new_disk: bool) -> Result<(), Error> {
    if !folder.is_dir() {
        return Err(Error::NoFolder { folder: folder.to_owned() });
    }
    let key = folder.display().to_string();
    let known = states(local)?.get(&key).map(|state| state.id.clone()).unwrap_or_default();
    let marker = folder.join(MARKER);
    let found = match fs::read_to_string(&marker) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(Database::io(&marker, "read", e).into()),
    };
    let not_it = |why: String| Error::NotMounted { folder: folder.to_owned(), why };
    match (known.as_str(), found) {
        (known, Some(found)) if known == found => Ok(()),
        // Several databases may share one destination: the first of them has marked it.
        (known, Some(found)) if known.is_empty() || new_disk => note(local, &key, |state| state.id = found),
        (_, Some(_)) => Err(not_it("its marker is another one".into())),
        (known, None) if known.is_empty() || new_disk => {
            let seed = format!("{} {} {}", Timestamp::now(), std::process::id(), folder.display());
            let id = hex::encode(&Sha256::digest(seed)[..16]);
            durable::write(&marker, durable::PRIVATE, format!("{id}\n").as_bytes())?;
            note(local, &key, |state| state.id = id)
        }
        (_, None) => Err(not_it(format!("{MARKER} is not in it"))),
    }
}

/// Copies and returns the SHA-256 of what was read.
fn pour(from: &Path, to: &Path, control: &Control<'_>) -> Result<String, Error> {
    let mut source = File::open(from).map_err(|e| Database::io(from, "read", e))?;
    let mut target = File::options().write(true).open(to).map_err(|e| Database::io(to, "write", e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        if control.stop.wanted() {
            return Err(Database::Stopped { doing: "copying the backup".into() }.into());
        }
        let read = source.read(&mut buffer).map_err(|e| Database::io(from, "read", e))?;
        if read == 0 {
            target.sync_all().map_err(|e| Database::io(to, "sync", e))?;
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        target.write_all(&buffer[..read]).map_err(|e| Database::io(to, "write", e))?;
    }
}

/// From the disk and not from memory, as far as the kernel lets go of it.
fn read_back(copy: &Path, manifest: &Manifest, control: &Control<'_>) -> Result<(), Error> {
    if let Ok(file) = File::open(copy) {
        // It is only advice: without it the reading proves less, and nothing is wrong.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
    let (bytes, sha256) = hash_file(copy, &control.stop)?;
    if (bytes, &sha256) == (manifest.bytes, &manifest.sha256) {
        return Ok(());
    }
    let differences = vec![format!("read back, it has SHA-256 {sha256} instead of {}", manifest.sha256)];
    Err(Database::CopyDiffers { path: copy.to_owned(), differences }.into())
}

fn write_manifest(manifest: &Manifest, to: &Path) -> Result<(), Error> {
    Ok(Manifest { state: manifest.state.max(State::Copied), ..manifest.clone() }.write(to)?)
}

/// How far a local backup has come; never back.
fn raise(backup: &Path, state: State) -> Result<(), Error> {
    if let Some(manifest) = Manifest::read(backup)?
        && manifest.state < state
    {
        Manifest { state, ..manifest }.write(backup)?;
    }
    Ok(())
}

/// Copies a backup to each folder, as lines for a run's report. A copy that failed is unknown, never a failed run.
pub fn second(backup: &Path, folders: &[PathBuf], control: &mut Control<'_>) -> Vec<Check> {
    let mut one = |folder: &PathBuf| {
        let name = format!("Second copy in {}", folder.display());
        match copy(backup, folder, false, control) {
            Ok(copied) => Check::pass("backup.second", name)
                .with("file", copied.path.display().to_string())
                .with("bytes", copied.bytes)
                .with("ms", copied.took_ms),
            Err(error) => Check::unknown("backup.second", name, format!("{error}. {}", error.hint())),
        }
    };
    folders.iter().map(&mut one).collect()
}

/// What a drill has shown.
#[derive(Clone, Debug)]
pub struct Drilled {
    /// The backup that was restored.
    pub path: PathBuf,
    /// When it was made.
    pub made_at: Timestamp,
    /// Rows that were read from the restored database.
    pub rows: u64,
    /// How long restoring took, without the checks.
    pub restore_ms: u64,
    /// How long all of it took.
    pub took_ms: u64,
}

/// Restores the newest backup that counts of a destination (`None`: the local folder) into `scratch`, checks what came
/// out of it, and notes it. `Ok(None)` when there is none.
///
/// # Errors
/// The backup cannot be restored, or what comes out is not what went in: both are noted.
pub fn drill(
    local: &Path,
    database: &str,
    destination: Option<&Path>,
    scratch: &Path,
    control: &mut Control<'_>,
) -> Result<Option<Drilled>, Error> {
    let folder = destination.unwrap_or(local);
    let key = destination.map_or_else(|| LOCAL.to_owned(), |folder| folder.display().to_string());
    let result = (|| {
        if let Some(folder) = destination {
            same_disk(local, folder, false)?;
        }
        let entries = backups::list(folder, database)?;
        let Some(entry) = backups::newest_verified(&entries) else { return Ok(None) };
        restore_aside(entry, scratch, control).map(Some)
    })();
    match &result {
        Ok(Some(drilled)) => {
            let file = drilled.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let done = Done { file, at: Timestamp::now(), took_ms: drilled.took_ms };
            note(local, &key, |state| (state.drilled, state.trouble) = (Some(done), None))?;
            raise(&drilled.path, State::Drilled)?;
        }
        Ok(None) => {}
        Err(error) => {
            let trouble = Trouble { at: Timestamp::now(), why: error.to_string() };
            // The drill's own error is the one to tell.
            let _ = note(local, &key, |state| state.trouble = Some(trouble));
        }
    }
    result
}

fn restore_aside(entry: &Entry, scratch: &Path, control: &mut Control<'_>) -> Result<Drilled, Error> {
    let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let started = Instant::now();
    let target = scratch.join("drill.db");
    remove_with_sides(&target);
    let mut options = Options::new(scratch);
    options.app_stopped = true;
    options.read_back = Depth::Content;
    let restored = into(&entry.path, &target, Guard::Any, &options, control)?;
    let restore_ms = ms(started);
    let report = verify::database(&target, control)?;
    remove_with_sides(&target);
    let failures = [restored.differences, report.failures()].concat();
    if !failures.is_empty() {
        return Err(Database::BadBackup { path: entry.path.clone(), failures }.into());
    }
    Ok(Drilled {
        path: entry.path.clone(),
        made_at: entry.at(),
        rows: restored.content.total_rows(),
        restore_ms,
        took_ms: ms(started),
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::backup::{Request, create};

    struct Sample {
        dir: tempfile::TempDir,
        backup: PathBuf,
        usb: PathBuf,
    }

    fn sample() -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("store.db");
        Connection::open(&db).unwrap().execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        let request = Request::new(&db, dir.path().join("backups"), "test");
        let backup = create(&request, &mut Control::default()).unwrap().path;
        let usb = dir.path().join("usb");
        fs::create_dir(&usb).unwrap();
        Sample { dir, backup, usb }
    }

    fn to(sample: &Sample) -> Result<Copied, Error> {
        copy(&sample.backup, &sample.usb, false, &mut Control::default())
    }

    #[test]
    fn a_copy_is_the_backup_has_its_manifest_and_twice_is_fine() {
        let sample = sample();
        let copied = to(&sample).unwrap();
        assert_eq!(fs::read(&copied.path).unwrap(), fs::read(&sample.backup).unwrap());
        assert!(verify::backup(&copied.path, &mut Control::default()).unwrap().sound());
        assert_eq!(Manifest::read(&sample.backup).unwrap().unwrap().state, State::Copied);
        assert!(to(&sample).unwrap().was_there);
    }

    #[test]
    fn a_disk_that_is_not_mounted_is_noticed_and_not_filled() {
        let sample = sample();
        to(&sample).unwrap();
        // What is left of a mount point when the disk is gone: an empty folder.
        fs::remove_dir_all(&sample.usb).unwrap();
        assert!(matches!(to(&sample), Err(Error::NoFolder { .. })));
        fs::create_dir(&sample.usb).unwrap();
        assert!(matches!(to(&sample), Err(Error::NotMounted { .. })));
        assert_eq!(fs::read_dir(&sample.usb).unwrap().count(), 0, "it was filled");
        let state = states(sample.backup.parent().unwrap()).unwrap();
        assert!(state[&sample.usb.display().to_string()].trouble.is_some());
        copy(&sample.backup, &sample.usb, true, &mut Control::default()).unwrap();
        to(&sample).unwrap();
    }

    #[test]
    fn another_file_of_that_name_is_never_replaced_and_a_damaged_backup_never_copied() {
        let sample = sample();
        let name = sample.backup.file_name().unwrap();
        fs::write(sample.usb.join(name), "something else").unwrap();
        assert!(matches!(to(&sample), Err(Error::Other { .. })));
        assert_eq!(fs::read(sample.usb.join(name)).unwrap(), b"something else");
        fs::remove_file(sample.usb.join(name)).unwrap();
        let mut bytes = fs::read(&sample.backup).unwrap();
        bytes[5000] ^= 1;
        fs::write(&sample.backup, bytes).unwrap();
        assert!(matches!(to(&sample), Err(Error::NotVerified { .. })));
        let left: Vec<_> = fs::read_dir(&sample.usb).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [MARKER], "only the marker is there");
    }

    #[test]
    fn a_failed_copy_is_unknown_in_a_report_and_a_good_one_passes() {
        let sample = sample();
        let gone = sample.dir.path().join("nas");
        let checks = second(&sample.backup, &[sample.usb.clone(), gone], &mut Control::default());
        let verdicts: Vec<&str> = checks.iter().map(|check| check.verdict.word()).collect();
        assert_eq!(verdicts, ["pass", "unknown"]);
    }

    #[test]
    fn a_drill_restores_the_newest_one_of_each_place_and_notes_it() {
        let sample = sample();
        to(&sample).unwrap();
        let local = sample.backup.parent().unwrap();
        let scratch = sample.dir.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        let drill = |place: Option<&Path>| drill(local, "store.db", place, &scratch, &mut Control::default());
        for place in [None, Some(sample.usb.as_path())] {
            assert_eq!(drill(place).unwrap().unwrap().rows, 1);
        }
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
        assert_eq!(Manifest::read(&sample.backup).unwrap().unwrap().state, State::Drilled);
        // Of the same size, so that only reading finds it.
        let copy = sample.usb.join(sample.backup.file_name().unwrap());
        let mut bytes = fs::read(&copy).unwrap();
        bytes[5000] ^= 1;
        fs::write(&copy, bytes).unwrap();
        assert!(drill(Some(&sample.usb)).is_err());
        let states = states(local).unwrap();
        assert!(states[LOCAL].drilled.is_some() && states[LOCAL].trouble.is_none());
        assert!(states[&sample.usb.display().to_string()].trouble.is_some());
    }
}
