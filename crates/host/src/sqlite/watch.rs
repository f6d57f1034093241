//! Whether anybody else has written to a database since some moment.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::Error;
use super::connection::open_read;
use super::error::BUSY_TIMEOUT;

/// A connection held open that notices commits of every other connection, in this process or another.
///
/// `PRAGMA data_version` on one and the same connection is the only cheap test that is sound in both journal modes:
/// the change counter in the file's header stays the same in WAL mode, and times and sizes of the files change too
/// late or for other reasons. It cannot outlive the process; across a restart compare fingerprints.
///
/// While it lives, keep away from the database's files except through SQLite (see the notes of [`super`]), and drop
/// it before the file is replaced.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    connection: Connection,
    version: i64,
    file: (u64, u64),
}

impl Watcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// As [`open_read`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Checks the file first; dropped again, because it may hold an exclusive lock (see there).
        drop(open_read(path)?);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .and_then(|c| c.busy_timeout(BUSY_TIMEOUT).map(|()| c))
            .and_then(|c| c.execute_batch("PRAGMA query_only = ON; PRAGMA foreign_keys = OFF;").map(|()| c))
            .map_err(|e| Error::of(path, "watching", &e))?;
        let mut watcher = Watcher { path: path.to_owned(), connection, version: 0, file: (0, 0) };
        watcher.accept()?;
        Ok(watcher)
    }

    /// Whether anybody else has committed since the last [`Watcher::accept`], or put another file in its place.
    ///
    /// # Errors
    /// When the database cannot be read: then nothing is known.
    pub fn changed(&self) -> Result<bool, Error> {
        Ok(self.version()? != self.version || self.file()? != self.file)
    }

    /// Takes the present state as the one to compare with: after a write of one's own.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn accept(&mut self) -> Result<(), Error> {
        self.version = self.version()?;
        self.file = self.file()?;
        Ok(())
    }

    /// The database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn version(&self) -> Result<i64, Error> {
        // A read of the file comes first: the pragma alone is answered from what the connection has seen already.
        self.connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
            .and_then(|()| self.connection.query_row("PRAGMA data_version", [], |row| row.get(0)))
            .map_err(|e| Error::of(&self.path, "watching", &e))
    }

    fn file(&self) -> Result<(u64, u64), Error> {
        let found = fs::metadata(&self.path).map_err(|e| Error::io(&self.path, "look at", e))?;
        Ok((found.dev(), found.ino()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_of_anybody_else_is_noticed_in_both_modes_and_reading_is_not() {
        for mode in ["WAL", "DELETE"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store.db");
            let app = Connection::open(&path).unwrap();
            app.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
            app.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1);").unwrap();
            let mut watcher = Watcher::open(&path).unwrap();
            app.query_row("SELECT a FROM t", [], |_| Ok(())).unwrap();
            app.execute_batch("BEGIN; INSERT INTO t VALUES (2); ROLLBACK;").unwrap();
            assert!(!watcher.changed().unwrap(), "{mode}");
            app.execute_batch("UPDATE t SET a = 7").unwrap();
            assert!(watcher.changed().unwrap(), "{mode}");
            assert!(watcher.changed().unwrap(), "{mode}: asking does not forget");
            watcher.accept().unwrap();
            assert!(!watcher.changed().unwrap(), "{mode}");
            drop(app);
            let again = Connection::open(&path).unwrap();
            again.execute("INSERT INTO t VALUES (3)", []).unwrap();
            assert!(watcher.changed().unwrap(), "{mode}: by a connection opened later");
        }
    }

    #[test]
    fn a_file_put_in_its_place_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("store.db"), dir.path().join("other.db"));
        for file in [&path, &other] {
            Connection::open(file).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        }
        let watcher = Watcher::open(&path).unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(watcher.changed().unwrap());
    }
}
