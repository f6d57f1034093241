//! A consistent copy of a live database, page by page, by SQLite's own means.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_128;

use super::Error;
use super::connection::{JournalMode, beside, journal_mode, open_read};
use super::control::{Control, Phase, Stop};
use super::error::message;
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
    let copied = copy_to(source, &partial, limits, control)?;
    match partial.publish(dest)? {
        Ok(()) => Ok(copied),
        Err(_) => Err(Error::io(dest, "create", std::io::ErrorKind::AlreadyExists.into())),
    }
}

/// Copies a live database into a file in the making.
pub(crate) fn copy_to(
    source: &Path,
    partial: &Partial,
    limits: &Limits,
    control: &mut Control<'_>,
) -> Result<Copied, Error> {
    try_often(source, partial, limits, control, false).map(|(copied, _)| copied)
}

/// Copies a live database into a file in the making, and reads every block of that back: it has the same hash as what was
/// read from the source. Returns the SHA-256 of the file too.
pub(crate) fn copy_and_read_back(
    source: &Path,
    partial: &Partial,
    limits: &Limits,
    control: &mut Control<'_>,
) -> Result<(Copied, String), Error> {
    try_often(source, partial, limits, control, true)
}

fn try_often(
    source: &Path,
    partial: &Partial,
    limits: &Limits,
    control: &mut Control<'_>,
    read_back: bool,
) -> Result<(Copied, String), Error> {
    let mut attempt = 1;
    loop {
        let hold = Hold::begin(source, *limits, &control.stop);
        let failure = match copy_once(source, partial, attempt, &hold, control, read_back) {
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

fn copy_once(
    source: &Path,
    partial: &Partial,
    attempt: u32,
    hold: &Hold,
    control: &mut Control<'_>,
    read_back: bool,
) -> Result<(Copied, String), Error> {
    let failed = |doing: &'static str| move |e: rusqlite::Error| Error::of(source, doing, &e);
    let mut from = open_read(source)?;
    hold.interrupts(&mut from);
    let mode = journal_mode(&from).map_err(failed("reading the journal mode"))?;
    // One read transaction from the first page to the last: all of it is one moment. With a rollback journal it keeps
    // writers from committing, so there is no pause between the pages.
    from.execute_batch("BEGIN").map_err(failed("beginning to read"))?;
    let number = |sql: &str| -> Result<u64, Error> {
        from.query_row(sql, [], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
            .map_err(failed("beginning to read"))
    };
    number("SELECT count(*) FROM sqlite_schema")?;
    let (pages, page_size) = (number("PRAGMA page_count")?, number("PRAGMA page_size")?);
    let folder = partial.path().parent().unwrap_or(Path::new("."));
    partial.empty()?;
    room(folder, pages * page_size + (1 << 20))?;
    let file = partial.writer()?;
    let stop = control.stop.clone();
    let (held, sha256) = thread::scope(|scope| {
        let (to_reader, blocks) = channel();
        let (to_disk, steps) = channel();
        let reader = read_back.then(|| scope.spawn(|| read_again(source, partial.path(), blocks, &stop)));
        let disk = scope.spawn(|| write_out(&file, steps));
        let copied =
            copy_pages(&from, source, partial.path(), &file, pages, hold, control, &to_reader, &to_disk);
        let held = hold.held();
        // The app's log can be reset again from here on.
        let ended = from.execute_batch("ROLLBACK").map_err(failed("ending to read"));
        drop((to_reader, to_disk));
        let written = disk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let sha256 = match reader {
            Some(reader) => reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Ok(String::new()),
        };
        copied?;
        ended?;
        written.map_err(|e| Error::io(partial.path(), "sync", e))?;
        Ok::<_, Error>((held, sha256?))
    })?;
    Ok((Copied { pages, page_size, mode, attempts: attempt, held }, sha256))
}

/// How much is hashed, written and read back at once.
const BLOCK: usize = 1 << 20;
/// How much is written before the disk is told to begin with it. A backup that leaves all of it to the end makes the app
/// wait for the disk then.
const STEP: u64 = 32 << 20;

/// A part of the file and the hash of what was read from the source for it.
struct Block {
    at: u64,
    length: usize,
    hash: u128,
}

/// Copies all pages through SQLite's own table of them, in their order.
#[allow(clippy::too_many_arguments, reason = "both ends and who is told")]
fn copy_pages(
    from: &Connection,
    source: &Path,
    dest: &Path,
    mut file: &File,
    pages: u64,
    hold: &Hold,
    control: &mut Control<'_>,
    reader: &Sender<Block>,
    disk: &Sender<()>,
) -> Result<(), Error> {
    let failed = |e: rusqlite::Error| match message(&e).contains("sqlite_dbpage") {
        true => Error::Sqlite {
            path: source.to_owned(),
            doing: "copying".into(),
            why: "this program was built without SQLite's table of pages; build it within its source, whose \
                  .cargo/config.toml sets LIBSQLITE3_FLAGS to -DSQLITE_ENABLE_DBPAGE_VTAB"
                .into(),
        },
        false => Error::of(source, "copying", &e),
    };
    let mut statement = from.prepare("SELECT data FROM sqlite_dbpage").map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut block = Vec::with_capacity(BLOCK);
    let (mut done, mut written, mut told) = (0, 0, 0);
    loop {
        let page = rows.next().map_err(failed)?;
        if let Some(page) = page {
            let page = page.get_ref(0).and_then(|page| Ok(page.as_blob()?)).map_err(failed)?;
            block.extend_from_slice(page);
            done += 1;
        }
        if page.is_some() && block.len() < BLOCK {
            continue;
        }
        if hold.must_end() {
            return Err(Error::Stopped { doing: "copying".into() });
        }
        if written == 0 {
            without_log(&mut block);
        }
        file.write_all(&block).map_err(|e| match Error::io(dest, "write", e) {
            Error::Full { path, .. } => Error::Full { path, doing: "copying".into() },
            other => other,
        })?;
        let (at, length, hash) = (written, block.len(), XxHash3_128::oneshot(&block));
        written += block.len() as u64;
        block.clear();
        // They fail only when nobody reads back, or when the other end has failed, which it says itself.
        let _ = reader.send(Block { at, length, hash });
        if written - told >= STEP {
            told = written;
            let _ = disk.send(());
        }
        control.tell(Phase::Copying, done, pages, "pages");
        if page.is_none() {
            break;
        }
    }
    if done == pages {
        return Ok(());
    }
    let why = format!("{done} of {pages} pages could be read");
    Err(Error::Sqlite { path: source.to_owned(), doing: "copying".into(), why })
}

/// The copy is a plain file without a log, whatever its source has: opened in WAL mode only to be checked, it would leave
/// -wal and -shm beside itself. These bytes of the header are all that `PRAGMA journal_mode = DELETE` changes.
fn without_log(first: &mut [u8]) {
    for byte in first.iter_mut().skip(18).take(2).filter(|byte| **byte == 2) {
        *byte = 1;
    }
}

/// Reads back what was written, in the same order, a little behind. Returns the SHA-256 of all of it.
fn read_again(source: &Path, copy: &Path, blocks: Receiver<Block>, stop: &Stop) -> Result<String, Error> {
    let failed = |e| Error::io(copy, "read", e);
    let file = File::open(copy).map_err(failed)?;
    let (mut hasher, mut bytes) = (Sha256::new(), Vec::with_capacity(BLOCK));
    for block in blocks {
        stop.check("reading the copy")?;
        bytes.resize(block.length, 0);
        file.read_exact_at(&mut bytes, block.at).map_err(failed)?;
        if XxHash3_128::oneshot(&bytes) != block.hash {
            let differences = vec![format!("other bytes were read back from byte {} on", block.at)];
            return Err(Error::CopyDiffers { path: source.to_owned(), differences });
        }
        hasher.update(&bytes);
    }
    Ok(hex::encode(hasher.finalize()))
}

/// Brings to the disk what has been written, each time that it is told so.
fn write_out(file: &File, steps: Receiver<()>) -> std::io::Result<()> {
    steps.iter().try_for_each(|()| {
        // What was asked for meanwhile is done with it.
        while steps.try_recv().is_ok() {}
        file.sync_data()
    })
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

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::backup::Backup;

    use super::*;

    /// Backups fail where SQLite was built without it.
    #[test]
    fn this_build_has_sqlites_table_of_pages() {
        let own = Connection::open_in_memory().unwrap();
        own.query_row("SELECT count(*) FROM sqlite_dbpage", [], |_| Ok(()))
            .expect("LIBSQLITE3_FLAGS of .cargo/config.toml did not reach the build of SQLite");
    }

    /// What is not copied is missed only when it is needed: the log, the pointer map, free pages, the header.
    #[test]
    fn every_byte_is_what_the_backup_api_copies() {
        for prepare in [
            "PRAGMA journal_mode = WAL",
            "PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = WAL",
            "PRAGMA page_size = 65536; PRAGMA auto_vacuum = INCREMENTAL",
            "PRAGMA encoding = 'UTF-16be'; PRAGMA user_version = 9; PRAGMA application_id = 8",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let [source, ours, theirs] =
                ["store.db", "ours.db", "theirs.db"].map(|name| dir.path().join(name));
            let own = Connection::open(&source).unwrap();
            own.execute_batch(prepare).unwrap();
            own.execute_batch(
                "CREATE TABLE t (a, b); CREATE INDEX i ON t (b);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
                 INSERT INTO t SELECT i, randomblob(i % 900) FROM n; DELETE FROM t WHERE a % 5 = 0;",
            )
            .unwrap();
            copy(&source, &ours, &Limits::default(), &mut Control::default()).unwrap();
            let mut to = Connection::open(&theirs).unwrap();
            // Of its own: what a connection has freed is in its memory otherwise than in the file.
            let fresh = Connection::open(&source).unwrap();
            Backup::new(&fresh, &mut to).unwrap().step(-1).unwrap();
            drop(to);
            settle(&theirs).unwrap();
            let (mut ours, mut theirs) = (fs::read(&ours).unwrap(), fs::read(&theirs).unwrap());
            for file in [&mut ours, &mut theirs] {
                assert_eq!(file[18..20], [1, 1], "{prepare}: it has no log");
                // Numbers of changes and of the library: every transaction of the other way adds to them.
                for part in [24..28, 40..44, 92..100] {
                    file[part].fill(0);
                }
            }
            assert_eq!(ours.len(), theirs.len(), "{prepare}");
            assert!(ours == theirs, "{prepare}");
        }
    }

    #[test]
    fn a_block_that_is_read_back_otherwise_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.db");
        fs::write(&copy, b"0123456789").unwrap();
        for (written, same) in [(b"56789", true), (b"56780", false)] {
            let (sender, blocks) = channel();
            sender.send(Block { at: 5, length: 5, hash: XxHash3_128::oneshot(written) }).unwrap();
            drop(sender);
            let found = read_again(Path::new("store.db"), &copy, blocks, &Stop::new());
            assert_eq!(found.is_ok(), same);
            assert!(same || matches!(found, Err(Error::CopyDiffers { .. })), "{found:?}");
        }
    }
}
