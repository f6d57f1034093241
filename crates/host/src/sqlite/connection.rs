//! Opening database files: never creating one, never leaving files beside one, foreign keys always explicit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
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
    let absolute = std::path::absolute(path).map_err(|e| Error::io(path, "resolving", e))?;
    let escaped = percent_encoding::percent_encode(
        std::os::unix::ffi::OsStrExt::as_bytes(absolute.as_os_str()),
        &PATH_IN_URI,
    );
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{escaped}{query}"), flags)
        .and_then(|connection| connection.busy_timeout(wait).map(|()| connection))
        .map_err(|e| Error::of(path, "opening", &e))
}

const PATH_IN_URI: percent_encoding::AsciiSet =
    percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');
