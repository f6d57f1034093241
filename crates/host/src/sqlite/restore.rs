//! Putting a backup in the place of a database: through SQLite into the existing file, so that whoever has it open
//! sees the old or the new, whole; by renaming only where that is impossible.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;

use super::backup::{Request, create};
use super::compressed;
use super::connection::{
    ForeignKeys, JournalMode, beside, index_left_log, journal_mode, open_finished, open_read, open_write,
};
use super::control::{Control, Phase};
use super::copy::copy;
use super::fingerprint::{Depth, interrupted};
use super::manifest::Manifest;
use super::page_set::PageSet;
use super::partial::{Partial, remove_with_sides, room, sync_file, sync_folder_of};
use super::since::shows_pages;
use super::verify::{self, hash_file};
use super::{Error, Fingerprint, Limits, Watcher, openers};
use crate::backups::Name;
use crate::durable;

/// What the caller knows about the database that is to be replaced. Whatever it is, a write by somebody else after
/// the restore has begun aborts it.
#[derive(Clone, Copy, Debug)]
pub enum Guard<'a> {
    /// Whatever it holds may be replaced.
    Any,
    /// Nobody has written since the watcher was opened or last accepted.
    Watched(&'a Watcher),
    /// It holds exactly this.
    Equals(&'a Fingerprint),
}

/// How what is replaced is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Keep {
    /// As a verified backup.
    Backup,
    /// As a plain copy, `<database>.replaced.YYYYMMDD_HHMMSS`: an eighth of the time, for a hold with a deadline.
    Copy,
    /// The caller has a copy of just what the [`Guard`] demands.
    Is(PathBuf),
}

/// How to restore.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder for the backup of what is replaced.
    pub folder: PathBuf,
    /// The run that it belongs to.
    pub run: Option<String>,
    /// Whether the caller has made sure that nobody has the database open.
    pub app_stopped: bool,
    /// How what is replaced is kept.
    pub keep: Keep,
    /// How much to read back afterwards.
    pub read_back: Depth,
    /// Whether the caller has just made the backup and checked it: it is not checked again while users wait.
    pub checked: bool,
    /// The only pages in which the backup and the database can differ, when the caller knows them: the others are not
    /// written. With a guard that nobody wrote since.
    pub only: Option<PageSet>,
    /// How long to wait for the write lock.
    pub lock_wait: Duration,
    /// How far reading the present database may go at the app's expense.
    pub limits: Limits,
}

impl Options {
    /// For a database that may be open elsewhere.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Options {
            folder: folder.into(),
            run: None,
            app_stopped: false,
            keep: Keep::Backup,
            read_back: Depth::Content,
            checked: false,
            only: None,
            lock_wait: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// How the backup was put in place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// Through SQLite into the existing file.
    Through,
    /// As a new file, renamed.
    Renamed,
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct Restored {
    /// How.
    pub method: Method,
    /// What was there before: a verified backup, or the damaged files as they were. `None` when there was nothing.
    pub kept: Option<PathBuf>,
    /// What the database holds now.
    pub content: Fingerprint,
    /// In what that differs from the backup. Not empty only when somebody wrote right after.
    pub differences: Vec<String>,
    /// What could not be checked about the backup.
    pub unchecked: Vec<String>,
    /// How long the write lock was held.
    pub locked: Duration,
}

/// Restores `backup` into `target`. The backup is verified first, and what is replaced is kept.
///
/// # Errors
/// The target is untouched in every case but [`Error::NotReadBack`], where it is the backup. [`Error::BadBackup`]; [`Error::Changed`] when `guard` does not hold or somebody
/// wrote meanwhile; [`Error::Busy`]; [`Error::InUse`] when the file would have to be renamed over; [`Error::NoRoom`];
/// [`Error::Stopped`] and [`Error::Deadline`].
pub fn into(
    backup: &Path,
    target: &Path,
    guard: Guard<'_>,
    options: &Options,
    control: &mut Control<'_>,
) -> Result<Restored, Error> {
    let proven = if options.checked {
        let content = Fingerprint::of(backup, Depth::Counts, control)?;
        Proven { backup, unpacked: None, content, unchecked: Vec::new(), wal: false }
    } else {
        proven(backup, control)?
    };
    let source = open_finished(proven.file())?;
    // The present rows are read and replaced through several connections. What is wrong with the target is told below.
    let index = index_left_log(target).ok().flatten();
    let opened = open_read(target);
    drop(index);
    let mut restored = match opened {
        Ok(reader) if page_size(&reader, target)? == page_size(&source, backup)? => {
            match through(&proven, &source, reader, target, guard, options, control) {
                // Readable at its first page only: it cannot be copied aside page by page.
                Err(Error::Corrupt { .. } | Error::NotADatabase { .. }) => {
                    replace(&proven, target, false, options, control)?
                }
                other => other?,
            }
        }
        Ok(reader) => {
            holds(guard, &reader, target, control)?;
            drop(reader);
            replace(&proven, target, true, options, control)?
        }
        Err(Error::Absent { .. } | Error::NotADatabase { .. } | Error::Corrupt { .. }) => {
            replace(&proven, target, false, options, control)?
        }
        Err(other) => return Err(other),
    };
    let differences = proven.content.differences(&restored.content);
    restored.differences = differences.iter().map(ToString::to_string).collect();
    restored.unchecked = proven.unchecked;
    Ok(restored)
}

/// A backup that is what it was when it was made.
struct Proven<'a> {
    backup: &'a Path,
    /// The database inside a compressed one.
    unpacked: Option<Partial>,
    content: Fingerprint,
    unchecked: Vec<String>,
    /// Whether its source was in WAL mode.
    wal: bool,
}

impl Proven<'_> {
    fn file(&self) -> &Path {
        self.unpacked.as_ref().map_or(self.backup, Partial::path)
    }
}

/// The hash of a manifest proves the file to be, bit for bit, the one that was checked when it was made; only without
/// one SQLite's own checks are made again.
fn proven<'a>(backup: &'a Path, control: &mut Control<'_>) -> Result<Proven<'a>, Error> {
    let bad = |failures| Error::BadBackup { path: backup.to_owned(), failures };
    let unpack = |bytes: Option<u64>, control: &Control<'_>| {
        compressed::is(backup).then(|| compressed::unpack(backup, bytes, &control.stop)).transpose()
    };
    if let Some(manifest) = Manifest::read(backup)? {
        let (bytes, sha256) = hash_file(backup, &control.stop)?;
        if (bytes, &sha256) != (manifest.bytes, &manifest.sha256) {
            return Err(bad(vec![format!("hash: SHA-256 {sha256} instead of {}", manifest.sha256)]));
        }
        return Ok(Proven {
            backup,
            unpacked: unpack(manifest.inside.map(|inside| inside.bytes), control)?,
            content: manifest.content,
            unchecked: manifest.unchecked,
            wal: manifest.journal_mode == JournalMode::Wal,
        });
    }
    let verified = verify::backup(backup, control)?;
    let (failures, unchecked) = (verified.failures(), verified.unchecked());
    match verified.content {
        Some(content) if failures.is_empty() => {
            Ok(Proven { backup, unpacked: unpack(None, control)?, content, unchecked, wal: false })
        }
        _ => Err(bad([failures, unchecked].concat())),
    }
}

/// An error when the database is not what the caller judged.
fn holds(
    guard: Guard<'_>,
    reader: &Connection,
    target: &Path,
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let why = match guard {
        Guard::Any => return Ok(()),
        Guard::Watched(watcher) if !watcher.changed()? => return Ok(()),
        Guard::Watched(_) => "a commit since it was watched".to_owned(),
        Guard::Equals(expected) => {
            let transaction =
                reader.unchecked_transaction().map_err(|e| Error::of(target, "reading its rows", &e))?;
            let found = expected
                .read_like(&transaction, Depth::Content, control)
                .map_err(|e| interrupted(target, &e, &control.stop))?;
            let differences = expected.differences(&found);
            if differences.is_empty() {
                return Ok(());
            }
            differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        }
    };
    Err(Error::Changed { path: target.to_owned(), why })
}

fn page_size(connection: &Connection, path: &Path) -> Result<i64, Error> {
    connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(|e| Error::of(path, "reading", &e))
}

fn through(
    proven: &Proven<'_>,
    source: &Connection,
    reader: Connection,
    target: &Path,
    guard: Guard<'_>,
    options: &Options,
    control: &mut Control<'_>,
) -> Result<Restored, Error> {
    let failed = |doing: &'static str| move |e: rusqlite::Error| Error::of(target, doing, &e);
    let mode = journal_mode(&reader).map_err(failed("reading the journal mode"))?;
    // From here on every commit of somebody else is noticed.
    let witness = Witness::begin(reader, target, mode)?;
    holds(guard, &witness.reader, target, control)?;
    let kept = keep(target, options, control)?;
    witness.unchanged(target)?;
    let pages: i64 =
        source.query_row("PRAGMA page_count", [], |row| row.get(0)).map_err(failed("reading"))?;
    let bytes = pages.unsigned_abs() * page_size(source, target)?.unsigned_abs();
    let some = match &options.only {
        Some(only) if shows_pages(source) => Some(only),
        _ => None,
    };
    // The pages go into the log or, those that are replaced, into the journal first.
    let written =
        some.map_or(bytes, |some| some.len() as u64 * page_size(source, target).unwrap_or(0).unsigned_abs());
    room(target.parent().unwrap_or(Path::new(".")), written + written / 8 + (1 << 20))?;
    let mut writer = open_write(target, ForeignKeys::Off)?;
    if options.app_stopped {
        // The last to close folds the log in; SQLite does so only when nobody else has it open.
        writer
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .map_err(failed("opening for writing"))?;
    }
    let locked = match some {
        Some(some) => write_some(source, &writer, &witness, target, (some, &kept), control)?,
        None => write_pages(source, &mut writer, &witness, target, options, control)?,
    };
    let content = read_back(proven, &witness.reader, target, options, control)
        .map_err(|error| not_read_back(target, Some(&kept), &error))?;
    // In this order: the writer is the last to close, and the descriptor below the connections is closed at the end.
    let Witness { reader, header, .. } = witness;
    drop(reader);
    drop(writer);
    drop(header);
    Ok(Restored {
        method: Method::Through,
        kept: Some(kept),
        content,
        differences: Vec::new(),
        unchecked: Vec::new(),
        locked,
    })
}

/// Takes the write lock, makes sure that nobody wrote before it, and copies all pages in one transaction.
fn write_pages(
    source: &Connection,
    writer: &mut Connection,
    witness: &Witness,
    target: &Path,
    options: &Options,
    control: &mut Control<'_>,
) -> Result<Duration, Error> {
    let failed = |e: rusqlite::Error| Error::of(target, "restoring", &e);
    let began = Instant::now();
    let backup = Backup::new(source, writer).map_err(failed)?;
    // No page is copied yet, but the first step takes the write lock and keeps it.
    while !matches!(backup.step(0).map_err(failed)?, StepResult::More | StepResult::Done) {
        control.stop.check("waiting for the write lock")?;
        if began.elapsed() > options.lock_wait {
            return Err(Error::Busy { path: target.to_owned(), doing: "waiting for the write lock".into() });
        }
        thread::sleep(Duration::from_millis(5));
    }
    witness.unchanged_under_lock(target)?;
    let locked = Instant::now();
    loop {
        control.stop.check("restoring")?;
        let result = backup.step(1024).map_err(failed)?;
        let progress = backup.progress();
        let total = u64::try_from(progress.pagecount).unwrap_or(0);
        let left = u64::try_from(progress.remaining).unwrap_or(0);
        control.tell(Phase::Restoring, total - left.min(total), total, "pages");
        match result {
            StepResult::Done => return Ok(locked.elapsed()),
            StepResult::More => {}
            // The commit waits for readers (only with a rollback journal).
            _ if locked.elapsed() > options.lock_wait => {
                return Err(Error::Busy { path: target.to_owned(), doing: "waiting for readers".into() });
            }
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn not_read_back(target: &Path, kept: Option<&Path>, error: &Error) -> Error {
    let why = error.to_string();
    Error::NotReadBack { path: target.to_owned(), kept: kept.map(Path::to_owned), why }
}

/// As [`write_pages`], but only the pages that can differ; those that do not are passed over.
fn write_some(
    source: &Connection,
    writer: &Connection,
    witness: &Witness,
    target: &Path,
    (some, kept): (&PageSet, &Path),
    control: &mut Control<'_>,
) -> Result<Duration, Error> {
    let failed = |e: rusqlite::Error| Error::of(target, "restoring", &e);
    let count =
        |of: &Connection| of.query_row("PRAGMA page_count", [], |row| row.get::<_, u32>(0)).map_err(failed);
    writer.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    witness.unchanged_under_lock(target)?;
    let locked = Instant::now();
    let (wanted, there) = (count(source)?, count(writer)?);
    const PAGE: &str = "SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1";
    let page = |statement: &mut rusqlite::Statement<'_>, number: u32| -> Result<Vec<u8>, Error> {
        statement.query_row([number], |row| row.get(0)).map_err(failed)
    };
    let mut new = source.prepare(PAGE).map_err(failed)?;
    let mut old = writer.prepare(PAGE).map_err(failed)?;
    let mut put = writer
        .prepare("INSERT INTO sqlite_dbpage(pgno, data, schema) VALUES (?1, ?2, 'main')")
        .map_err(failed)?;
    let mut numbers = some.clone();
    (there + 1..=wanted).for_each(|number| numbers.insert(number));
    let total = numbers.len() as u64;
    let mut changed = PageSet::default();
    for (done, number) in numbers.iter().filter(|number| (2..=wanted).contains(number)).enumerate() {
        control.stop.check("restoring")?;
        let data = page(&mut new, number)?;
        if number > there || data != page(&mut old, number)? {
            put.execute(rusqlite::params![number, data]).map_err(failed)?;
            changed.insert(number);
        }
        control.tell(Phase::Restoring, done as u64, total, "pages");
    }
    // With the schema's number as it was, or this connection would read the schema anew, in pages of which it does not
    // know yet that they are there.
    let (mut first, before) = (page(&mut new, 1)?, page(&mut old, 1)?);
    let next = own_header(&mut first, &before);
    put.execute(rusqlite::params![1, first]).map_err(failed)?;
    if wanted < there {
        // Nothing may be put in after it: that would take it back.
        let sql = "INSERT INTO sqlite_dbpage(pgno, data, schema) VALUES (?1, NULL, 'main')";
        writer.execute(sql, [wanted + 1]).map_err(failed)?;
    }
    writer.execute_batch(&format!("PRAGMA main.schema_version = {next}")).map_err(failed)?;
    drop((old, put));
    writer.execute_batch("COMMIT").map_err(failed)?;
    control.tell(Phase::Restoring, total, total, "pages");
    let locked = locked.elapsed();
    let mut there = witness.reader.prepare(PAGE).map_err(failed)?;
    let mut read_back = || -> Result<(), Error> {
        for number in changed.iter() {
            if page(&mut there, number)? != page(&mut new, number)? {
                let why = format!("page {number} is not what was written");
                return Err(Error::Sqlite { path: target.to_owned(), doing: "reading back".into(), why });
            }
        }
        Ok(())
    };
    read_back().map_err(|error| not_read_back(target, Some(kept), &error))?;
    Ok(locked)
}

/// The first page keeps what is the file's own: the journal mode, the counters by which others notice a change, and for
/// the time being the schema's number. Returns the one that it must get, so that nobody goes on with a schema from before.
fn own_header(data: &mut [u8], before: &[u8]) -> i32 {
    let number = |page: &[u8]| i32::from_be_bytes([page[40], page[41], page[42], page[43]]);
    let next = number(data).max(number(before)).wrapping_add(1);
    for kept in [18..20, 24..28, 40..44, 92..96] {
        data[kept.clone()].copy_from_slice(&before[kept]);
    }
    next
}

fn read_back(
    proven: &Proven<'_>,
    reader: &Connection,
    target: &Path,
    options: &Options,
    control: &mut Control<'_>,
) -> Result<Fingerprint, Error> {
    let transaction = reader.unchecked_transaction().map_err(|e| Error::of(target, "reading back", &e))?;
    // The restore is done: from here on stopping would only hide how it went.
    proven
        .content
        .read_like(&transaction, options.read_back, control)
        .map_err(|e| Error::of(target, "reading back", &e))
}

/// Notices writes of others, also while our own write lock is held.
struct Witness {
    reader: Connection,
    version: i64,
    /// With a rollback journal nobody can read through SQLite while the lock is held; the change counter in the
    /// header, which every commit raises, is read from a plain descriptor instead. It is closed after all
    /// connections of this act, because closing it drops the process's locks on the file.
    header: Option<(File, [u8; 4])>,
}

impl Witness {
    fn begin(reader: Connection, target: &Path, mode: JournalMode) -> Result<Self, Error> {
        let version = data_version(&reader, target)?;
        let header = match mode {
            JournalMode::Wal => None,
            JournalMode::Rollback => {
                let file = File::open(target).map_err(|e| Error::io(target, "open", e))?;
                let counter = change_counter(&file, target)?;
                Some((file, counter))
            }
        };
        Ok(Witness { reader, version, header })
    }

    fn unchanged(&self, target: &Path) -> Result<(), Error> {
        if data_version(&self.reader, target)? == self.version { Ok(()) } else { Err(changed(target)) }
    }

    fn unchanged_under_lock(&self, target: &Path) -> Result<(), Error> {
        match &self.header {
            None => self.unchanged(target),
            Some((file, counter)) if change_counter(file, target)? == *counter => Ok(()),
            Some(_) => Err(changed(target)),
        }
    }
}

fn changed(target: &Path) -> Error {
    Error::Changed { path: target.to_owned(), why: "a commit during the restore".into() }
}

fn data_version(reader: &Connection, target: &Path) -> Result<i64, Error> {
    reader
        .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        .and_then(|()| reader.query_row("PRAGMA data_version", [], |row| row.get(0)))
        .map_err(|e| Error::of(target, "reading", &e))
}

fn change_counter(file: &File, target: &Path) -> Result<[u8; 4], Error> {
    let mut counter = [0; 4];
    match file.read_exact_at(&mut counter, 24) {
        // An empty file is an empty database.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok([0; 4]),
        other => other.map(|()| counter).map_err(|e| Error::io(target, "read", e)),
    }
}

/// Keeps what is there, as the options say; a damaged database as its pages are.
fn keep(target: &Path, options: &Options, control: &mut Control<'_>) -> Result<PathBuf, Error> {
    let plain = |word: &str, control: &mut Control<'_>| {
        durable::create_dir(&options.folder, durable::PRIVATE_DIR)?;
        let aside = aside(target, word, options);
        copy(target, &aside, &options.limits, control).map(|_| aside)
    };
    match &options.keep {
        Keep::Is(copy) => return Ok(copy.clone()),
        Keep::Copy => return plain("replaced", control),
        Keep::Backup => {}
    }
    let mut request = Request::new(target, &options.folder, "before-restore");
    request.run.clone_from(&options.run);
    request.limits = options.limits;
    match create(&request, control) {
        Ok(kept) => Ok(kept.path),
        Err(Error::Corrupt { .. }) => plain("damaged", control),
        Err(other) => Err(other),
    }
}

/// Copies a database to where a restore would keep it: `<database>.replaced.YYYYMMDD_HHMMSS` in `folder`.
///
/// # Errors
/// As [`copy`](super::copy::copy); nothing is there then.
pub fn copy_aside(target: &Path, folder: &Path, control: &mut Control<'_>) -> Result<PathBuf, Error> {
    let options = Options::new(folder);
    durable::create_dir(folder, durable::PRIVATE_DIR)?;
    let aside = aside(target, "replaced", &options);
    copy(target, &aside, &options.limits, control).map(|_| aside)
}

/// The first free name for what is kept. `word` stands in the place of "backup": nobody takes it for one.
fn aside(target: &Path, word: &str, options: &Options) -> PathBuf {
    let database = target.file_name().unwrap_or_default().to_string_lossy();
    let mut name = Name::new(&database, Timestamp::now());
    loop {
        let path = options.folder.join(name.to_string().replacen(".backup.", &format!(".{word}."), 1));
        if !path.exists() {
            return path;
        }
        name = name.next();
    }
}

/// Puts a new file in the place of one that is missing, damaged or laid out in other pages (`healthy`).
fn replace(
    backup: &Proven<'_>,
    target: &Path,
    healthy: bool,
    options: &Options,
    control: &mut Control<'_>,
) -> Result<Restored, Error> {
    let exists = target.exists();
    nobody_has_it(target, options)?;
    let mut folded = None;
    let kept = if !exists {
        None
    } else if healthy {
        folded = Some(Folded::of(target)?);
        Some(keep(target, options, control)?)
    } else {
        Some(keep_damaged(target, options)?)
    };
    let built = build(backup, target, control);
    let partial = built.and_then(|partial| nobody_has_it(target, options).map(|()| partial));
    // The damaged one stays where it is: a second one would only take up room.
    let again = kept.as_deref().filter(|_| partial.is_err() && !healthy);
    if let Some(again) = again {
        remove_with_sides(again);
    }
    let partial = partial?;
    let locked = Instant::now();
    // A log or journal left beside the new file would be replayed into it.
    for suffix in ["-wal", "-shm", "-journal"] {
        match fs::remove_file(beside(target, suffix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(&beside(target, suffix), "remove", e));
            }
            _ => {}
        }
    }
    sync_folder_of(target)?;
    partial.replace(target)?;
    if let Some(folded) = folded {
        folded.replaced();
    }
    let locked = locked.elapsed();
    let content = open_read(target)
        .and_then(|reader| read_back(backup, &reader, target, options, control))
        .map_err(|error| not_read_back(target, kept.as_deref(), &error))?;
    Ok(Restored {
        method: Method::Renamed,
        kept,
        content,
        differences: Vec::new(),
        unchecked: Vec::new(),
        locked,
    })
}

fn nobody_has_it(target: &Path, options: &Options) -> Result<(), Error> {
    let found = openers::of(target).map_err(|e| Error::io(Path::new("/proc"), "look through", e))?;
    let list = |pids: &[u32]| pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let why = if !found.pids.is_empty() {
        format!("open in process {}", list(&found.pids))
    } else if !found.hidden.is_empty() && !options.app_stopped {
        format!("whether it is open is unknown: process {} could not be looked into", list(&found.hidden))
    } else {
        return Ok(());
    };
    Err(Error::InUse { path: target.to_owned(), why })
}

/// A database whose log is folded into its file. Unless it is replaced, it goes back to WAL mode.
struct Folded<'a> {
    target: &'a Path,
    was_wal: bool,
}

impl<'a> Folded<'a> {
    /// SQLite leaves WAL mode only for the sole connection, which proves it too.
    fn of(target: &'a Path) -> Result<Self, Error> {
        let failed = |e: rusqlite::Error| Error::of(target, "folding the log in", &e);
        let writer = open_write(target, ForeignKeys::Off)?;
        let was_wal = journal_mode(&writer).map_err(failed)? == JournalMode::Wal;
        let mode: String =
            writer.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).map_err(failed)?;
        if mode == "delete" {
            Ok(Folded { target, was_wal })
        } else {
            Err(Error::InUse { path: target.to_owned(), why: "its log could not be folded in".into() })
        }
    }

    fn replaced(mut self) {
        self.was_wal = false;
    }
}

impl Drop for Folded<'_> {
    fn drop(&mut self) {
        if self.was_wal {
            // Best effort: every row is there in either mode, and an app sets the mode that it wants.
            let _ = open_write(self.target, ForeignKeys::Off)
                .map(|writer| writer.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())));
        }
    }
}

/// Copies a damaged database and what lies beside it as plain files: nobody has it open, this process neither.
fn keep_damaged(target: &Path, options: &Options) -> Result<PathBuf, Error> {
    durable::create_dir(&options.folder, durable::PRIVATE_DIR)?;
    let files = ["", "-wal", "-journal"].map(|suffix| beside(target, suffix));
    let bytes: u64 = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|found| found.len()).sum();
    room(&options.folder, bytes + (1 << 20))?;
    let aside = aside(target, "damaged", options);
    copy_plainly(target, &aside).inspect_err(|_| remove_with_sides(&aside))?;
    Ok(aside)
}

fn copy_plainly(target: &Path, aside: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-journal"] {
        let (from, to) = (beside(target, suffix), beside(aside, suffix));
        match fs::copy(&from, &to) {
            Ok(_) => {
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600))
                    .map_err(|e| Error::io(&to, "protect", e))?;
                sync_file(&to)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
            Err(e) => return Err(Error::io(&from, "keep", e)),
        }
    }
    sync_folder_of(aside)
}

/// Builds the new file beside the target, with the target's owner and mode, and proves that it is the backup.
fn build(backup: &Proven<'_>, target: &Path, control: &mut Control<'_>) -> Result<Partial, Error> {
    let folder = target.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (bytes, sha256) = hash_file(backup.file(), &control.stop)?;
    room(folder, bytes + (1 << 20))?;
    let partial = Partial::new(folder, &target.file_name().unwrap_or_default().to_string_lossy())?;
    fs::copy(backup.file(), partial.path()).map_err(|e| Error::io(partial.path(), "write", e))?;
    let (_, copied) = hash_file(partial.path(), &control.stop)?;
    if copied != sha256 {
        let differences = vec!["its hash".to_owned()];
        return Err(Error::CopyDiffers { path: backup.backup.to_owned(), differences });
    }
    if backup.wal {
        let own = super::connection::open_own(partial.path(), ForeignKeys::Off)?;
        own.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
            .map_err(|e| Error::of(partial.path(), "setting WAL mode", &e))?;
    }
    let (mode, owner) = match fs::metadata(target) {
        Ok(old) => (old.permissions().mode() & 0o7777, old),
        Err(_) => (0o600, fs::metadata(folder).map_err(|e| Error::io(folder, "look at", e))?),
    };
    let made = fs::metadata(partial.path()).map_err(|e| Error::io(partial.path(), "look at", e))?;
    if (made.uid(), made.gid()) != (owner.uid(), owner.gid()) {
        // Only root may; anybody else restores a file of their own.
        chown(partial.path(), Some(owner.uid()), Some(owner.gid()))
            .map_err(|e| Error::io(partial.path(), "set the owner of", e))?;
    }
    fs::set_permissions(partial.path(), fs::Permissions::from_mode(mode))
        .map_err(|e| Error::io(partial.path(), "protect", e))?;
    Ok(partial)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::sqlite::Stop;

    fn database(path: &Path, prepare: &str, rows: u32, note: &str) {
        let own = Connection::open(path).unwrap();
        own.execute_batch(prepare).unwrap();
        own.execute_batch(&format!(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT); CREATE INDEX by_note ON orders (note);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO orders SELECT i, '{note} ' || printf('%.*c', 80, 'x') || i FROM n;",
        ))
        .unwrap();
    }

    fn back_up(path: &Path, folder: &Path) -> super::super::backup::Backup {
        create(&Request::new(path, folder, "test"), &mut Control::default()).unwrap()
    }

    fn restore(backup: &Path, target: &Path, guard: Guard<'_>, folder: &Path) -> Result<Restored, Error> {
        into(backup, target, guard, &Options::new(folder), &mut Control::default())
    }

    fn notes(path: &Path, like: &str) -> i64 {
        let reader = open_read(path).unwrap();
        reader.query_row("SELECT count(*) FROM orders WHERE note LIKE ?1", [like], |row| row.get(0)).unwrap()
    }

    /// The result is the backup, whatever it has more or less, and what the app has prepared goes on with it.
    #[test]
    fn only_pages_that_differ_are_written_whatever_grows_shrinks_or_changes_its_schema() {
        let grow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO later SELECT i, 'note ' || i FROM n;";
        let table =
            "CREATE TABLE later (k INTEGER PRIMARY KEY, note TEXT); CREATE INDEX by_later ON later (note);";
        let many: String = (0..60).map(|i| format!("CREATE TABLE many{i} (a, b, c, d, e);")).collect();
        let changes = [
            "UPDATE orders SET note = 'x' WHERE id = 7".to_owned(),
            format!("{table} {grow} {many}"),
            format!("{table} {grow} DELETE FROM orders WHERE id > 10; VACUUM;"),
            "DROP TABLE orders; VACUUM; CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT);".to_owned(),
        ];
        for (number, (mode, change)) in ["WAL", "DELETE"]
            .iter()
            .flat_map(|mode| changes.iter().map(move |change| (mode, change)))
            .enumerate()
        {
            for back in [false, true] {
                let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
                let (one, two) = (dir.path().join("one.db"), dir.path().join("two.db"));
                database(&one, "PRAGMA synchronous = OFF;", 2000, "first");
                fs::copy(&one, &two).unwrap();
                Connection::open(&two).unwrap().execute_batch(change).unwrap();
                let (backup, live) = if back { (one, two) } else { (two, one) };
                let only = super::super::page_set::unlike(&backup, &live, &Stop::new()).unwrap();
                let app = Connection::open(&live).unwrap();
                app.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
                app.query_row("SELECT count(*) FROM orders", [], |_| Ok(())).unwrap();
                let options =
                    Options { only, checked: true, keep: Keep::Is(live.clone()), ..Options::new(dir.path()) };
                let restored = into(&backup, &live, Guard::Any, &options, &mut Control::default());
                let restored = restored.unwrap_or_else(|e| panic!("{e}: {number} {mode} {back}"));
                assert_eq!((restored.method, restored.differences), (Method::Through, vec![]), "{change}");
                let wanted = Fingerprint::of(&backup, Depth::Content, &mut Control::default()).unwrap();
                let found = Fingerprint::of(&live, Depth::Content, &mut Control::default()).unwrap();
                assert_eq!(wanted.differences(&found), [], "{mode} {back} {change}");
                let pages = |of: &Connection| {
                    of.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0)).unwrap()
                };
                assert_eq!(pages(&app), pages(&open_finished(&backup).unwrap()));
                app.execute("INSERT INTO orders VALUES (90000, 'after')", []).unwrap();
                let sound: String = app.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
                assert_eq!(sound, "ok", "{mode} {back} {change}");
            }
        }
    }

    #[test]
    fn a_live_database_is_restored_under_a_connection_that_stays_open() {
        for (mode, name) in [("WAL", "wal"), ("DELETE", "delete")] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store.db");
            database(&path, &format!("PRAGMA journal_mode = {mode}"), 300, "old");
            let made = back_up(&path, dir.path());
            let app = Connection::open(&path).unwrap();
            app.execute_batch("UPDATE orders SET note = 'new'; INSERT INTO orders VALUES (999, 'new');")
                .unwrap();
            let restored = restore(&made.path, &path, Guard::Any, dir.path()).unwrap();
            assert_eq!(restored.method, Method::Through);
            assert_eq!(restored.differences, Vec::<String>::new());
            // The app goes on with the same file, and what it writes now arrives.
            app.execute("INSERT INTO orders VALUES (1000, 'after')", []).unwrap();
            assert_eq!((notes(&path, "old%"), notes(&path, "new"), notes(&path, "after")), (300, 0, 1));
            let is: String = app.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
            assert_eq!(is, name);
            // What was replaced is a verified backup.
            let kept = restored.kept.unwrap();
            assert_eq!(notes(&kept, "new"), 301);
            assert_eq!(Manifest::read(&kept).unwrap().unwrap().reason, "before-restore");
        }
    }

    #[test]
    fn in_a_hurry_what_is_replaced_is_kept_as_a_plain_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path, "PRAGMA journal_mode = WAL", 30, "old");
        let made = back_up(&path, dir.path());
        for round in ["new", "newer"] {
            Connection::open(&path).unwrap().execute("UPDATE orders SET note = ?1", [round]).unwrap();
            let mut options = Options::new(dir.path());
            (options.keep, options.read_back) = (Keep::Copy, Depth::Counts);
            let restored = into(&made.path, &path, Guard::Any, &options, &mut Control::default()).unwrap();
            let kept = restored.kept.unwrap();
            assert!(kept.to_string_lossy().contains("store.db.replaced."), "{kept:?}");
            assert_eq!((notes(&kept, round), notes(&path, "old%")), (30, 30));
            assert_eq!(restored.differences, Vec::<String>::new());
        }
    }

    #[test]
    fn a_bad_backup_is_never_restored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path, "", 300, "old");
        let made = back_up(&path, dir.path());
        let mut bytes = fs::read(&made.path).unwrap();
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        fs::write(&made.path, bytes).unwrap();
        let before = fs::read(&path).unwrap();
        let error = restore(&made.path, &path, Guard::Any, dir.path()).unwrap_err();
        assert!(matches!(error, Error::BadBackup { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_write_that_the_caller_did_not_know_of_aborts_it() {
        for mode in ["WAL", "DELETE"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store.db");
            database(&path, &format!("PRAGMA journal_mode = {mode}"), 50, "old");
            let made = back_up(&path, dir.path());
            let judged = Fingerprint::of(&path, Depth::Content, &mut Control::default()).unwrap();
            let watcher = Watcher::open(&path).unwrap();
            assert!(restore(&made.path, &path, Guard::Equals(&judged), dir.path()).is_ok());
            // That restore was a write too.
            assert!(watcher.changed().unwrap());
            let mut watcher = watcher;
            watcher.accept().unwrap();
            let app = Connection::open(&path).unwrap();
            app.execute("INSERT INTO orders VALUES (51, 'order at the last moment')", []).unwrap();
            for guard in [Guard::Equals(&judged), Guard::Watched(&watcher)] {
                let error = restore(&made.path, &path, guard, dir.path()).unwrap_err();
                assert!(matches!(error, Error::Changed { .. }), "{mode}: {error}");
            }
            assert_eq!(notes(&path, "order at%"), 1);
        }
    }

    /// The window that no look beforehand can close: between the last look and the write lock.
    #[test]
    fn a_write_just_before_the_lock_aborts_it() {
        for (name, mode) in [("WAL", JournalMode::Wal), ("DELETE", JournalMode::Rollback)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store.db");
            database(&path, &format!("PRAGMA journal_mode = {name}"), 50, "old");
            let made = back_up(&path, dir.path());
            let source = open_finished(&made.path).unwrap();
            let witness = Witness::begin(open_read(&path).unwrap(), &path, mode).unwrap();
            let mut writer = open_write(&path, ForeignKeys::Off).unwrap();
            let options = Options::new(dir.path());
            let app = Connection::open(&path).unwrap();
            app.execute("INSERT INTO orders VALUES (51, 'late')", []).unwrap();
            let error = write_pages(&source, &mut writer, &witness, &path, &options, &mut Control::default())
                .unwrap_err();
            assert!(matches!(error, Error::Changed { .. }), "{name}: {error}");
            assert_eq!(notes(&path, "late"), 1);
        }
    }

    #[test]
    fn a_writer_that_does_not_let_go_makes_it_busy_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path, "PRAGMA journal_mode = WAL", 50, "old");
        let made = back_up(&path, dir.path());
        let app = Connection::open(&path).unwrap();
        app.execute_batch("BEGIN IMMEDIATE; INSERT INTO orders VALUES (51, 'in flight')").unwrap();
        let mut options = Options::new(dir.path());
        options.lock_wait = Duration::from_millis(50);
        let stop = Stop::new().by(Instant::now() + Duration::from_secs(20));
        let error = into(&made.path, &path, Guard::Any, &options, &mut Control::quiet(stop)).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        app.execute_batch("COMMIT").unwrap();
        assert_eq!(notes(&path, "in flight"), 1);
    }

    #[test]
    fn a_stop_in_the_midst_leaves_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path, "PRAGMA page_size = 512; PRAGMA journal_mode = WAL", 9_000, "old");
        let made = back_up(&path, dir.path());
        Connection::open(&path).unwrap().execute("UPDATE orders SET note = 'new'", []).unwrap();
        let stop = Stop::new();
        let asked = stop.clone();
        let mut control = Control::new(stop, move |progress| {
            if progress.phase == Phase::Restoring {
                asked.ask();
            }
        });
        let error = into(&made.path, &path, Guard::Any, &Options::new(dir.path()), &mut control).unwrap_err();
        assert!(matches!(error, Error::Stopped { .. }), "{error}");
        assert_eq!(notes(&path, "new"), 9_000);
    }

    #[test]
    fn a_missing_a_damaged_and_a_differently_paged_file_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path, "PRAGMA journal_mode = WAL", 300, "old");
        let made = back_up(&path, dir.path());
        let replaced = |why: &str| {
            let mut options = Options::new(dir.path());
            // There may be processes here that cannot be looked into; that nobody has it open is certain.
            options.app_stopped = true;
            let restored = into(&made.path, &path, Guard::Any, &options, &mut Control::default()).unwrap();
            assert_eq!(restored.method, Method::Renamed, "{why}");
            assert_eq!((notes(&path, "old%"), restored.differences), (300, vec![]), "{why}");
            let mode = journal_mode(&open_read(&path).unwrap()).unwrap();
            assert_eq!(mode, JournalMode::Wal, "{why}");
            restored.kept
        };
        fs::remove_file(&path).unwrap();
        assert_eq!(replaced("missing"), None);

        fs::write(&path, "scribble".repeat(4096)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(beside(&path, "-wal"), "an old log").unwrap();
        let kept = replaced("damaged").unwrap();
        assert_eq!(fs::read(&kept).unwrap(), "scribble".repeat(4096).as_bytes());
        assert_eq!(fs::read(beside(&kept, "-wal")).unwrap(), b"an old log");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);

        fs::remove_file(&path).unwrap();
        database(&path, "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL", 20, "other");
        let kept = replaced("other page size").unwrap();
        assert_eq!(notes(&kept, "other%"), 20);
    }

    /// Measured: a file renamed under a live process loses every later order without an error.
    #[test]
    fn a_file_that_somebody_has_open_is_not_renamed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path, "PRAGMA journal_mode = WAL", 30, "old");
        let made = back_up(&path, dir.path());
        fs::remove_file(&path).unwrap();
        database(&path, "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL", 20, "other");
        let app = Connection::open(&path).unwrap();
        app.query_row("SELECT count(*) FROM orders", [], |_| Ok(())).unwrap();
        let error = restore(&made.path, &path, Guard::Any, dir.path()).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        app.execute("INSERT INTO orders VALUES (21, 'other still')", []).unwrap();
        assert_eq!(notes(&path, "other%"), 21);
    }

    /// Measured on paper's `cp`: a log left beside brought the bad rows back and `integrity_check` said ok.
    #[test]
    fn the_log_of_the_replaced_database_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path, "PRAGMA journal_mode = WAL", 30, "old");
        let made = back_up(&path, dir.path());
        let app = open_write(&path, ForeignKeys::On).unwrap();
        app.execute("UPDATE orders SET note = 'bad'", []).unwrap();
        drop(app);
        assert!(beside(&path, "-wal").exists());
        restore(&made.path, &path, Guard::Any, dir.path()).unwrap();
        assert_eq!((notes(&path, "old%"), notes(&path, "bad")), (30, 0));
    }

    const CHILD: &str = "PLIMSOLL_TEST_RESTORES_IN";

    /// Not a test of its own: what [`killed_at_any_moment_it_leaves_the_old_or_the_new_whole`] kills.
    #[test]
    fn child_that_restores_for_ever() {
        let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
        let path = folder.join("store.db");
        let backups = ["one", "two"].map(|name| folder.join(name));
        for round in 0_u32.. {
            for backup in &backups {
                let kept = folder.join("kept");
                into(backup, &path, Guard::Any, &Options::new(&kept), &mut Control::default()).unwrap();
                let _ = fs::remove_dir_all(&kept);
            }
            fs::write(folder.join("rounds"), round.to_string()).unwrap();
        }
    }

    fn killed(mode: &str, moments: u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path, &format!("PRAGMA journal_mode = {mode}"), 2_000, "two");
        let prints: Vec<Fingerprint> = ["one", "two"]
            .iter()
            .map(|name| {
                let other = dir.path().join(format!("{name}.db"));
                database(&other, "", 2_000 + u32::try_from(name.len()).unwrap(), name);
                copy(&other, &dir.path().join(name), &Limits::default(), &mut Control::default()).unwrap();
                Fingerprint::of(&dir.path().join(name), Depth::Content, &mut Control::default()).unwrap()
            })
            .collect();
        let mut seen = [0; 2];
        for moment in 0..moments {
            let rounds = dir.path().join("rounds");
            let _ = fs::remove_file(&rounds);
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "sqlite::restore::tests::child_that_restores_for_ever", "--test-threads=1"])
                .env(CHILD, dir.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let began = Instant::now();
            let deadline = began + Duration::from_secs(30);
            while !rounds.exists() {
                let lives = child.try_wait().unwrap().is_none();
                assert!(lives && Instant::now() < deadline, "the child restores");
                thread::sleep(Duration::from_millis(1));
            }
            // Spread over a round, however fast this machine is now; the exact moment is up to the scheduler.
            let round = began.elapsed().as_micros();
            let part = u128::from(moment * 61 % 100);
            thread::sleep(Duration::from_micros(u64::try_from(round * part / 100).unwrap()));
            child.kill().unwrap();
            child.wait().unwrap();
            let report = verify::database(&path, &mut Control::default()).unwrap();
            assert!(report.sound(), "{report:?}");
            let found = report.content.unwrap();
            let which = prints.iter().position(|print| print.differences(&found).is_empty());
            seen[which
                .unwrap_or_else(|| panic!("killed at moment {moment}: neither the old nor the new"))] += 1;
            // What the next act does first: it opens the database for writing and folds nothing in.
            drop(open_write(&path, ForeignKeys::On).unwrap());
        }
        assert!(seen.iter().all(|times| *times > 0), "both were met: {seen:?}");
    }

    #[test]
    fn killed_at_any_moment_it_leaves_the_old_or_the_new_whole() {
        let rounds = plimsoll_testkit::soak::rounds;
        killed("WAL", rounds(20, 130) as u64);
        killed("DELETE", rounds(10, 70) as u64);
    }
}
