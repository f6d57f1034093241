//! A consistent copy of a live database, page by page, by SQLite's own means.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::Error;
use super::connection::{ForeignKeys, JournalMode, beside, journal_mode, open_own, open_read};
use super::control::{Control, Phase, Stop};
use super::hold::{Hold, Limits};
use super::partial::{Partial, room};

/// What a copy was made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copied {
    /// Pages copied.
    pub pages: u64,
    /// Bytes per page.
    pub page_size: u64,
    /// The source's journal mode; the copy itself is always a plain file without a log.
    pub mode: JournalMode,
    /// How often it was tried.
    pub attempts: u32,
    /// How long the last attempt held its read transaction.
    pub held: Duration,
}

impl Copied {
    /// The size of the copy.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_size
    }
}

/// Copies a live database to a new file with mode 0600. The copy appears under its name when it is complete and
/// synced; nothing partial stays behind.
///
/// # Errors
/// As [`open_read`]; [`Error::NoRoom`] before anything is written; [`Error::GivenUp`] when the limits were
/// reached in every attempt; [`Error::Io`] when `dest` exists.
pub fn copy(source: &Path, dest: &Path, limits: &Limits, control: &mut Control<'_>) -> Result<Copied, Error> {
    let folder = dest.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = dest.file_name().unwrap_or_default().to_string_lossy();
    let partial = Partial::new(folder, &name)?;
    let (copied, ()) = copy_and(source, &partial, limits, control, &|_, _, _, _| Ok(()))?;
    match partial.publish(dest)? {
        Ok(()) => Ok(copied),
        Err(_) => Err(Error::io(dest, "create", std::io::ErrorKind::AlreadyExists.into())),
    }
}

/// What is read from the source at the same moment as its pages: gets a connection with a read transaction, the journal
/// mode, the number of the attempt, from 1, and when to stop. It may run on another thread, beside the copying.
pub(crate) type Inspect<'a, T> =
    &'a (dyn Fn(&Connection, JournalMode, u32, &Stop) -> rusqlite::Result<T> + Sync);

pub(crate) fn copy_and<T: Send>(
    source: &Path,
    partial: &Partial,
    limits: &Limits,
    control: &mut Control<'_>,
    inspect: Inspect<'_, T>,
) -> Result<(Copied, T), Error> {
    let mut attempt = 1;
    loop {
        let hold = Hold::begin(source, *limits, &control.stop);
        let failure = match copy_once(source, partial, attempt, &hold, control, inspect) {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let why = match (hold.given_up(), failure) {
            (Some(why), Error::Stopped { .. }) => why,
            (None, Error::Busy { doing, .. }) => format!("locked while {doing}"),
            (None, Error::Stopped { doing }) => {
                hold.check(&doing)?;
                return Err(Error::Stopped { doing });
            }
            (_, failure) => return Err(failure),
        };
        if attempt >= limits.attempts {
            return Err(Error::GivenUp { path: source.to_owned(), attempts: attempt, why });
        }
        // Long enough for the app's checkpoint to get through before the next attempt.
        for _ in 0..attempt * 10 {
            control.stop.check("waiting to copy again")?;
            thread::sleep(Duration::from_millis(20));
        }
        attempt += 1;
    }
}

fn copy_once<T: Send>(
    source: &Path,
    partial: &Partial,
    attempt: u32,
    hold: &Hold,
    control: &mut Control<'_>,
    inspect: Inspect<'_, T>,
) -> Result<(Copied, T), Error> {
    let failed = |doing: &'static str| move |e: rusqlite::Error| Error::of(source, doing, &e);
    let mut from = open_read(source)?;
    hold.interrupts(&mut from);
    let mode = journal_mode(&from).map_err(failed("reading the journal mode"))?;
    // One read transaction from the first page to the last. Without it SQLite starts the copy again after every
    // commit of another process, and never ends under a busy writer. With a rollback journal it keeps writers from
    // committing, so there is no pause between the steps.
    let alone: String = from
        .query_row("PRAGMA locking_mode", [], |row| row.get(0))
        .map_err(failed("reading its locking mode"))?;
    // A log that a crash has left without its index is read by one connection only.
    let two = mode == JournalMode::Wal && alone != "exclusive";
    let reader = two.then(|| same_moment(source, &from)).transpose()?.flatten();
    if reader.is_none() {
        begin(&from).map_err(failed("beginning to read"))?;
    }
    let number = |sql: &str| -> Result<u64, Error> {
        from.query_row(sql, [], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
            .map_err(failed("reading its size"))
    };
    let (pages, page_size) = (number("PRAGMA page_count")?, number("PRAGMA page_size")?);
    let folder = partial.path().parent().unwrap_or(Path::new("."));
    partial.empty()?;
    room(folder, pages * page_size + (1 << 20))?;
    let stop = control.stop.clone();
    let seen = match reader {
        None => {
            copy_pages(&from, source, partial.path(), hold, control)?;
            inspect(&from, mode, attempt, &stop).map_err(failed("reading its rows"))?
        }
        Some(mut reader) => {
            // In vain when the copying fails.
            let in_vain = Arc::new(AtomicBool::new(false));
            let (flag, watch) = (Arc::clone(&in_vain), hold.clone());
            // It fails only on a closed connection.
            let _ = reader
                .progress_handler(4_000, Some(move || flag.load(Ordering::Relaxed) || watch.must_end()));
            thread::scope(|scope| {
                let stop = &stop;
                let beside = scope.spawn(move || inspect(&reader, mode, attempt, stop));
                let copied = copy_pages(&from, source, partial.path(), hold, control);
                in_vain.store(copied.is_err(), Ordering::Relaxed);
                let seen = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                copied?;
                seen.map_err(failed("reading its rows"))
            })?
        }
    };
    let held = hold.held();
    drop(from);
    settle(partial.path())?;
    Ok((Copied { pages, page_size, mode, attempts: attempt, held }, seen))
}

/// Begins a read transaction and makes it see something: from then on everything that is read is one moment.
fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN")?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// A second connection whose read transaction sees the same moment as the one that is begun on `from`, so that rows can
/// be read on another core while the pages are copied. `None` when somebody commits in between every time.
fn same_moment(source: &Path, from: &Connection) -> Result<Option<Connection>, Error> {
    let failed = |e: rusqlite::Error| Error::of(source, "beginning to read", &e);
    let reader = open_read(source)?;
    let version = || reader.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0));
    for _ in 0..20 {
        // The number changes with every commit of others that this connection comes to see. The same before the one
        // transaction begins and within the other: nobody committed in between.
        let before = version().map_err(failed)?;
        begin(from).map_err(failed)?;
        begin(&reader).map_err(failed)?;
        if version().map_err(failed)? == before {
            return Ok(Some(reader));
        }
        for connection in [from, &reader] {
            connection.execute_batch("ROLLBACK").map_err(failed)?;
        }
    }
    Ok(None)
}

/// Pages per step: 4 MiB at the usual page size; a stop is noticed within milliseconds.
const STEP: i32 = 1024;

fn copy_pages(
    from: &Connection,
    source: &Path,
    dest: &Path,
    hold: &Hold,
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let mut to = open_own(dest, ForeignKeys::Off)?;
    // Synced once at the end; until then the name says that it is partial.
    to.query_row("PRAGMA journal_mode = OFF", [], |_| Ok(()))
        .and_then(|()| to.execute_batch("PRAGMA synchronous = OFF"))
        .map_err(|e| Error::of(dest, "preparing the copy", &e))?;
    let failed = |e: rusqlite::Error| match Error::of(dest, "copying", &e) {
        // Damage and missing rights are the source's; only a full disk and I/O errors are the copy's.
        Error::Corrupt { why, .. } => Error::Corrupt { path: source.to_owned(), why },
        Error::NotADatabase { .. } => Error::NotADatabase { path: source.to_owned() },
        other => other,
    };
    let backup = Backup::new(from, &mut to).map_err(failed)?;
    loop {
        if hold.must_end() {
            return Err(Error::Stopped { doing: "copying".into() });
        }
        let result = backup.step(STEP).map_err(failed)?;
        let progress = backup.progress();
        let total = u64::try_from(progress.pagecount).unwrap_or(0);
        let left = u64::try_from(progress.remaining).unwrap_or(0);
        control.tell(Phase::Copying, total - left.min(total), total, "pages");
        match result {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Turns a copy into a plain file without a log: opened in WAL mode only to be checked, it would leave -wal and
/// -shm beside itself.
pub(crate) fn settle(copy: &Path) -> Result<(), Error> {
    let set = || -> rusqlite::Result<String> {
        let own = Connection::open_with_flags(copy, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        own.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
        own.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))
    };
    let mode = set().map_err(|e| Error::of(copy, "taking the copy out of WAL mode", &e))?;
    if mode != "delete" || beside(copy, "-wal").exists() || beside(copy, "-journal").exists() {
        let why = format!("it stayed in journal mode {mode}");
        return Err(Error::Sqlite { path: copy.to_owned(), doing: "finishing the copy".into(), why });
    }
    Ok(())
}
