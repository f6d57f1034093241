//! Opening database files: never creating one, never leaving files beside one, foreign keys always explicit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Error;
use super::error::BUSY_TIMEOUT;

/// How the database keeps its changes safe.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalMode {
    /// A write-ahead log: readers and a writer go on side by side.
    Wal,
    /// A rollback journal (delete, truncate, persist): a reader keeps writers from committing.
    Rollback,
}

/// Whether SQLite enforces foreign keys on a connection. Explicit everywhere: the bundled library has them on by
/// default, a distribution's has them off, and with them on `DROP TABLE` empties the children.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForeignKeys {
    /// Enforced: cascades run.
    On,
    /// Not enforced.
    Off,
}

/// Opens a live database for reading. Changes no row, and leaves no file beside a database at rest.
///
/// # Errors
/// [`Error::Absent`], [`Error::NotADatabase`], [`Error::Unreadable`], [`Error::Busy`], [`Error::Corrupt`].
pub fn open_read(path: &Path) -> Result<Connection, Error> {
    exists(path)?;
    let (wal, shm) = (beside(path, "-wal"), beside(path, "-shm"));
    let wal_left = fs::metadata(&wal).is_ok_and(|found| found.len() > 0);
    let in_use = shm.exists();
    // With a log beside it: read-only, so that closing folds nothing in. Without: a read-only connection to a
    // WAL database would create -wal and -shm and leave them; a writable one removes them when it is the last to
    // close. `query_only` keeps it from changing a row.
    let flags =
        if wal_left && in_use { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
    let connection = open(path, flags, BUSY_TIMEOUT)?;
    let set = || -> rusqlite::Result<()> {
        if wal_left && !in_use {
            // A log without its index: nobody has the file open. Exclusive mode keeps the index in memory instead
            // of leaving a new -shm behind.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
        }
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA foreign_keys = OFF;")?;
        probe(&connection)
    };
    set().map_err(|e| Error::of(path, "opening for reading", &e))?;
    Ok(connection)
}

/// A crash may leave a log without its index, which [`open_read`] then reads with one connection and nobody beside it.
/// This makes the index, so that several can; `None` when there is no such log. Closing it leaves both as they are.
pub(crate) fn index_left_log(path: &Path) -> Result<Option<Connection>, Error> {
    let left = fs::metadata(beside(path, "-wal")).is_ok_and(|found| found.len() > 0);
    if !left || beside(path, "-shm").exists() {
        return Ok(None);
    }
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, BUSY_TIMEOUT)?;
    let set = || -> rusqlite::Result<()> {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA foreign_keys = OFF;")?;
        probe(&connection)
    };
    set().map_err(|e| Error::of(path, "reading its log", &e))?;
    Ok(Some(connection))
}

/// Opens a database that exists for writing. Neither a commit nor closing folds its log in: a checkpoint while an
/// older SQLite has the file open can damage it (fixed in 3.51.3).
///
/// # Errors
/// As [`open_read`].
pub fn open_write(path: &Path, foreign_keys: ForeignKeys) -> Result<Connection, Error> {
    exists(path)?;
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, BUSY_TIMEOUT)?;
    let set = || -> rusqlite::Result<()> {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        enforce(&connection, foreign_keys)?;
        // Rule 4: what is committed is on the disk, whatever the app's own connections are set to.
        connection.execute_batch("PRAGMA synchronous = FULL;")?;
        connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
        probe(&connection)
    };
    set().map_err(|e| Error::of(path, "opening for writing", &e))?;
    if connection.is_readonly("main").map_err(|e| Error::of(path, "opening for writing", &e))? {
        return Err(Error::Unreadable { path: path.to_owned(), why: "the file cannot be written".into() });
    }
    Ok(connection)
}

/// Opens a finished copy that nobody writes. Takes no locks and creates nothing: wrong for a live database.
///
/// # Errors
/// As [`open_read`].
pub fn open_finished(path: &Path) -> Result<Connection, Error> {
    exists(path)?;
    let connection =
        open_uri(path, "?mode=ro&immutable=1", OpenFlags::SQLITE_OPEN_READ_ONLY, Duration::ZERO)?;
    connection
        .execute_batch("PRAGMA foreign_keys = OFF;")
        .and_then(|()| probe(&connection))
        .map_err(|e| Error::of(path, "opening the copy", &e))?;
    Ok(connection)
}

/// Opens a file that this process alone uses and has just made.
pub(crate) fn open_own(path: &Path, foreign_keys: ForeignKeys) -> Result<Connection, Error> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, BUSY_TIMEOUT)?;
    enforce(&connection, foreign_keys).map_err(|e| Error::of(path, "opening", &e))?;
    Ok(connection)
}

/// Sets foreign keys and makes sure that it took: inside a transaction SQLite ignores the setting silently.
pub(crate) fn enforce(connection: &Connection, foreign_keys: ForeignKeys) -> rusqlite::Result<()> {
    let on = foreign_keys == ForeignKeys::On;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, on)?;
    Ok(())
}

/// The database's journal mode.
///
/// # Errors
/// When the database cannot be read.
pub fn journal_mode(connection: &Connection) -> rusqlite::Result<JournalMode> {
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    Ok(if mode.eq_ignore_ascii_case("wal") { JournalMode::Wal } else { JournalMode::Rollback })
}

/// The path of a file that SQLite keeps beside the database (`-wal`, `-shm`, `-journal`).
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A name as an SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes SQLite look at the file: opening alone reads nothing.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// `stat` only: opening a live database as a plain file and closing it would drop this process's locks on it.
fn exists(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(Error::NotADatabase { path: path.to_owned() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::Absent { path: path.to_owned() }),
        Err(e) => Err(Error::Unreadable { path: path.to_owned(), why: e.to_string() }),
    }
}

fn open(path: &Path, flags: OpenFlags, wait: Duration) -> Result<Connection, Error> {
    open_uri(path, "", flags, wait)
}

fn open_uri(path: &Path, query: &str, flags: OpenFlags, wait: Duration) -> Result<Connection, Error> {
    // Only a URI can say `immutable`; everything else in the path is escaped, so that `?`, `#` and `%` in a
    // folder's name stay part of it.
    let absolute = std::path::absolute(path).map_err(|e| Error::io(path, "resolve", e))?;
    let escaped = percent_encoding::percent_encode(
        std::os::unix::ffi::OsStrExt::as_bytes(absolute.as_os_str()),
        &PATH_IN_URI,
    );
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{escaped}{query}"), flags)
        .and_then(|mut connection| match wait {
            Duration::ZERO => connection.busy_timeout(wait).map(|()| connection),
            _ => connection.busy_handler(Some(wait_for_a_gap)).map(|()| connection),
        })
        .map_err(|e| Error::of(path, "opening", &e))
}

/// Waits for a lock, [`BUSY_TIMEOUT`] in all. SQLite's own waiting looks every 100 ms after a while; beside a writer that
/// commits without a pause and keeps readers out nearly all the time (a rollback journal), that took seconds to find
/// the gap of a millisecond that this finds at once.
fn wait_for_a_gap(tries: i32) -> bool {
    const QUICK: i32 = 500;
    let pause = if tries < QUICK { Duration::from_millis(1) } else { Duration::from_millis(5) };
    thread::sleep(pause);
    let left = BUSY_TIMEOUT.saturating_sub(Duration::from_millis(1) * QUICK.unsigned_abs());
    u128::from((tries - QUICK).max(0).unsigned_abs()) * 5 < left.as_millis()
}

const PATH_IN_URI: percent_encoding::AsciiSet =
    percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn database(folder: &Path, mode: &str) -> PathBuf {
        let path = folder.join("store.db");
        let own = Connection::open(&path).unwrap();
        own.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
        own.execute_batch(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, total INT); INSERT INTO orders VALUES (1, 5);",
        )
        .unwrap();
        path
    }

    #[test]
    fn what_cannot_be_opened_is_told_apart_and_nothing_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.db");
        assert!(matches!(open_read(&missing), Err(Error::Absent { .. })));
        assert!(matches!(open_write(&missing, ForeignKeys::On), Err(Error::Absent { .. })));
        let text = dir.path().join("notes.txt");
        fs::write(&text, "not a database, but long enough to have a header of a hundred bytes".repeat(9))
            .unwrap();
        assert!(matches!(open_read(&text), Err(Error::NotADatabase { .. })));
        assert!(matches!(open_read(dir.path()), Err(Error::NotADatabase { .. })));
        assert_eq!(names(dir.path()), ["notes.txt"]);
    }

    #[test]
    fn reading_leaves_no_file_beside_a_database_at_rest() {
        for mode in ["wal", "delete"] {
            let dir = tempfile::tempdir().unwrap();
            let path = database(dir.path(), mode);
            assert_eq!(names(dir.path()), ["store.db"], "at rest in {mode} mode");
            let bytes = fs::read(&path).unwrap();
            let reader = open_read(&path).unwrap();
            assert_eq!(reader.query_row("SELECT total FROM orders", [], |row| row.get(0)), Ok(5));
            assert!(reader.execute("DELETE FROM orders", []).is_err());
            drop(reader);
            assert_eq!(names(dir.path()), ["store.db"], "after reading in {mode} mode");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    /// A crash leaves the log; whoever looks must see what is in it and must not fold it in.
    #[test]
    fn reading_after_a_crash_sees_the_log_and_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "wal");
        let crashed = dir.path().join("crashed");
        fs::create_dir(&crashed).unwrap();
        let writer = open_write(&path, ForeignKeys::On).unwrap();
        writer.execute("INSERT INTO orders VALUES (2, 7)", []).unwrap();
        for (suffix, with_index) in [("a.db", true), ("b.db", false)] {
            let copy = crashed.join(suffix);
            fs::copy(&path, &copy).unwrap();
            fs::copy(beside(&path, "-wal"), beside(&copy, "-wal")).unwrap();
            if with_index {
                fs::copy(beside(&path, "-shm"), beside(&copy, "-shm")).unwrap();
            }
            let before: Vec<_> = names(&crashed);
            let wal = fs::read(beside(&copy, "-wal")).unwrap();
            let reader = open_read(&copy).unwrap();
            assert_eq!(reader.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)), Ok(2));
            drop(reader);
            assert_eq!(names(&crashed), before);
            assert_eq!(fs::read(beside(&copy, "-wal")).unwrap(), wal);
        }
    }

    #[test]
    fn foreign_keys_are_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "wal");
        for (asked, is) in [(ForeignKeys::On, 1), (ForeignKeys::Off, 0)] {
            let writer = open_write(&path, asked).unwrap();
            assert_eq!(writer.query_row("PRAGMA foreign_keys", [], |row| row.get(0)), Ok(is));
            assert_eq!(writer.query_row("PRAGMA synchronous", [], |row| row.get(0)), Ok(2));
        }
    }

    #[test]
    fn a_path_with_signs_that_mean_something_in_a_uri_is_just_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("50% off?#ä b");
        fs::create_dir(&odd).unwrap();
        let path = database(&odd, "delete");
        assert!(open_read(&path).is_ok());
        assert!(open_finished(&path).is_ok());
        assert_eq!(names(dir.path()), ["50% off?#ä b"]);
    }
}
