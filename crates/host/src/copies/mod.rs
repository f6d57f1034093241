//! Second copies of backups in other places: another disk, a NAS, a bucket. Each destination has a state of its own, and
//! a failed one never costs the local backup.

mod access;
mod bucket;
mod folder;
mod http;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use plimsoll_core::check::Check;
use serde::{Deserialize, Serialize};

pub use access::{Access, Encryption, Keys};
pub use bucket::Bucket;

use crate::backups::{self, Entry, Fate};
use crate::durable;
use crate::sqlite::fingerprint::Depth;
use crate::sqlite::manifest::{Manifest, State};
use crate::sqlite::partial::remove_with_sides;
use crate::sqlite::restore::{Guard, Options, into};
use crate::sqlite::{Control, Error as Database, verify};

/// Where second copies go.
#[derive(Clone, Debug)]
pub enum Place {
    /// A folder, by its full path: another disk, a NAS.
    Folder(PathBuf),
    /// A bucket of S3, or of what speaks like it.
    Bucket(Box<Bucket>),
}

impl Place {
    /// The name under which its state is kept: the folder's path, or `s3://bucket/prefix`.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Place::Folder(folder) => folder.display().to_string(),
            Place::Bucket(bucket) => bucket.place(),
        }
    }
}

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
    /// A bucket did not do what it was asked.
    #[error("cannot {doing} {place}: {why}")]
    Bucket {
        /// `s3://bucket/prefix`
        place: String,
        /// What was being done.
        doing: &'static str,
        /// What the server or the network said, without keys.
        why: String,
        /// What to do next.
        hint: &'static str,
    },
    /// The backup does not count, so it was not copied.
    #[error("{} does not count: {why}", path.display())]
    NotVerified {
        /// The backup.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It is done, and only that it is could not be written down: `status` does not know of it.
    #[error("it is done, and that could not be noted: {0}")]
    NotNoted(Database),
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
            Error::Bucket { hint, .. } => hint,
            Error::NotVerified { .. } => "Take another one: `plimsoll backup list` shows those that count.",
            Error::NotNoted(error) | Error::Database(error) => error.hint(),
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
    // Two commands at once must not take back what the other one noted.
    let folder = fs::File::open(backups).map_err(|e| Database::io(backups, "open", e))?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| Database::io(backups, "lock", e.into()))?;
    let mut all = states(backups)?;
    change(all.entry(key.to_owned()).or_default());
    let text = serde_json::to_string_pretty(&all)
        .map_err(|e| Database::Manifest { path: backups.join(STATES), why: e.to_string() })?;
    durable::write(&backups.join(STATES), durable::PRIVATE, format!("{text}\n").as_bytes())?;
    Ok(())
}

fn not_noted(error: Error) -> Error {
    match error {
        Error::Database(error) => Error::NotNoted(error),
        other => other,
    }
}

/// What became of a copy.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The copy: a path, or `s3://bucket/prefix/name`.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it was there already, as it should be.
    pub was_there: bool,
    /// How long copying and reading back took.
    pub took_ms: u64,
}

/// Copies a verified backup to another place, reads it back from there and compares; its manifest last. `new_disk`
/// accepts a folder that has not the marker it had. The outcome, good or bad, is noted beside the local backups.
///
/// # Errors
/// See [`Error`]; nothing partial counts, and no other file is touched.
pub fn copy(
    backup: &Path,
    place: &Place,
    new_disk: bool,
    control: &mut Control<'_>,
) -> Result<Copied, Error> {
    let local = backup.parent().unwrap_or(Path::new("."));
    let key = place.key();
    let started = Instant::now();
    match copy_to(backup, place, new_disk, control) {
        Ok(mut copied) => {
            copied.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let file = backup.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let done = Done { file, at: Timestamp::now(), took_ms: copied.took_ms };
            note(local, &key, |state| (state.copied, state.trouble) = (Some(done), None))
                .and_then(|()| raise(backup, State::Copied))
                .map_err(not_noted)?;
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

fn copy_to(backup: &Path, place: &Place, new_disk: bool, control: &mut Control<'_>) -> Result<Copied, Error> {
    let not_verified = |why: &str| Error::NotVerified { path: backup.to_owned(), why: why.into() };
    let manifest = Manifest::read(backup)?.ok_or_else(|| not_verified("it has no manifest"))?;
    match place {
        Place::Folder(to) => folder::copy(backup, &manifest, to, new_disk, control),
        Place::Bucket(bucket) => bucket.copy(backup, &manifest, &control.stop),
    }
}

/// Brings a backup back from a bucket into a folder, its manifest beside it; the newest that counts when `file` is
/// `None`. Returns where it is.
///
/// # Errors
/// See [`Error`]; nothing partial is left. `Ok(None)` when there is no such backup.
pub fn fetch(
    bucket: &Bucket,
    database: &str,
    file: Option<&str>,
    folder: &Path,
    control: &mut Control<'_>,
) -> Result<Option<PathBuf>, Error> {
    bucket.fetch(database, file, folder, &control.stop)
}

/// Decides what becomes of the backups in a place and, unless `dry_run`, removes what need not stay there.
///
/// # Errors
/// The place cannot be looked at: nothing is removed. Or something cannot be removed: what stays is whole.
pub fn prune(
    local: &Path,
    place: &Place,
    database: &str,
    decide: &dyn Fn(&[Entry]) -> Vec<Fate>,
    dry_run: bool,
    control: &mut Control<'_>,
) -> Result<Vec<Fate>, Error> {
    match place {
        Place::Folder(folder) => {
            folder::same_disk(local, folder, false)?;
            let fates = decide(&backups::list(folder, database)?);
            if !dry_run {
                backups::prune(folder, database, &fates)?;
            }
            Ok(fates)
        }
        Place::Bucket(bucket) => {
            let entries = bucket.entries(database, &control.stop)?;
            let fates = decide(&entries);
            if !dry_run {
                bucket.remove(&entries, &fates, &control.stop)?;
            }
            Ok(fates)
        }
    }
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

/// Copies a backup to each place, as lines for a run's report. A copy that failed is unknown, never a failed run.
pub fn second(backup: &Path, places: &[Place], control: &mut Control<'_>) -> Vec<Check> {
    let mut one = |place: &Place| {
        let name = format!("Second copy in {}", place.key());
        match copy(backup, place, false, control) {
            Ok(copied) => Check::pass("backup.second", name)
                .with("file", copied.file)
                .with("bytes", copied.bytes)
                .with("ms", copied.took_ms),
            Err(error) => Check::unknown("backup.second", name, format!("{error}. {}", error.hint())),
        }
    };
    places.iter().map(&mut one).collect()
}

/// What a drill has shown.
#[derive(Clone, Debug)]
pub struct Drilled {
    /// The backup that was restored, where it is kept.
    pub file: String,
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
    destination: Option<&Place>,
    scratch: &Path,
    control: &mut Control<'_>,
) -> Result<Option<Drilled>, Error> {
    let key = destination.map_or_else(|| LOCAL.to_owned(), Place::key);
    let result = newest(local, database, destination, scratch, control).and_then(|found| {
        let Some((path, shown)) = found else { return Ok(None) };
        let drilled = restore_aside(&path, shown, scratch, control);
        match (&drilled, destination) {
            (_, Some(Place::Bucket(_))) => {
                // It was brought here for this alone.
                remove_with_sides(&path);
                durable::remove(&Manifest::path_for(&path))?;
            }
            (Ok(_), _) => raise(&path, State::Drilled).map_err(not_noted)?,
            (Err(_), _) => {}
        }
        drilled.map(Some)
    });
    match &result {
        Ok(Some(drilled)) => {
            let file = drilled.file.rsplit('/').next().unwrap_or_default().to_owned();
            let done = Done { file, at: Timestamp::now(), took_ms: drilled.took_ms };
            note(local, &key, |state| (state.drilled, state.trouble) = (Some(done), None))
                .map_err(not_noted)?;
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

/// The newest backup that counts in a place, as a file here, and what it is called there.
fn newest(
    local: &Path,
    database: &str,
    destination: Option<&Place>,
    scratch: &Path,
    control: &mut Control<'_>,
) -> Result<Option<(PathBuf, String)>, Error> {
    let folder = match destination {
        None => local,
        Some(Place::Folder(folder)) => {
            folder::same_disk(local, folder, false)?;
            folder
        }
        Some(Place::Bucket(bucket)) => {
            let fetched = bucket.fetch(database, None, scratch, &control.stop)?;
            return Ok(fetched.map(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (path, format!("{}/{name}", bucket.place()))
            }));
        }
    };
    let entries = backups::list(folder, database)?;
    let newest = backups::newest_verified(&entries, Timestamp::now());
    Ok(newest.map(|entry| (entry.path.clone(), entry.path.display().to_string())))
}

fn restore_aside(
    backup: &Path,
    file: String,
    scratch: &Path,
    control: &mut Control<'_>,
) -> Result<Drilled, Error> {
    let manifest = Manifest::read(backup)?;
    let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let started = Instant::now();
    let target = scratch.join("drill.db");
    remove_with_sides(&target);
    let mut options = Options::new(scratch);
    options.app_stopped = true;
    options.read_back = Depth::Content;
    let restored = into(backup, &target, Guard::Any, &options, control)?;
    let restore_ms = ms(started);
    let report = verify::database(&target, control)?;
    remove_with_sides(&target);
    let failures = [restored.differences, report.failures()].concat();
    if !failures.is_empty() {
        return Err(Database::BadBackup { path: PathBuf::from(file), failures }.into());
    }
    Ok(Drilled {
        file,
        made_at: manifest.map_or_else(Timestamp::now, |manifest| manifest.created_at),
        rows: restored.content.total_rows(),
        restore_ms,
        took_ms: ms(started),
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::folder::MARKER;
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
        copy(&sample.backup, &Place::Folder(sample.usb.clone()), false, &mut Control::default())
    }

    #[test]
    fn a_copy_is_the_backup_has_its_manifest_and_twice_is_fine() {
        let sample = sample();
        let copied = to(&sample).unwrap();
        assert_eq!(fs::read(&copied.file).unwrap(), fs::read(&sample.backup).unwrap());
        assert!(verify::backup(Path::new(&copied.file), &mut Control::default()).unwrap().sound());
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
        copy(&sample.backup, &Place::Folder(sample.usb.clone()), true, &mut Control::default()).unwrap();
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
        let places = [sample.usb.clone(), gone].map(Place::Folder);
        let checks = second(&sample.backup, &places, &mut Control::default());
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
        let drill =
            |place: Option<&Place>| drill(local, "store.db", place, &scratch, &mut Control::default());
        let usb = Place::Folder(sample.usb.clone());
        for place in [None, Some(&usb)] {
            assert_eq!(drill(place).unwrap().unwrap().rows, 1);
        }
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
        assert_eq!(Manifest::read(&sample.backup).unwrap().unwrap().state, State::Drilled);
        // Of the same size, so that only reading finds it.
        let copy = sample.usb.join(sample.backup.file_name().unwrap());
        let mut bytes = fs::read(&copy).unwrap();
        bytes[5000] ^= 1;
        fs::write(&copy, bytes).unwrap();
        assert!(drill(Some(&usb)).is_err());
        let states = states(local).unwrap();
        assert!(states[LOCAL].drilled.is_some() && states[LOCAL].trouble.is_none());
        assert!(states[&sample.usb.display().to_string()].trouble.is_some());
    }
}
