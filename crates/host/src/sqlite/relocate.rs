//! A database file that gets another place while nobody uses it. Its old name leads there from then on, so that a cron
//! job or an admin's shell that still uses it writes into the same database and never into a new, empty one.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::Error;
use super::connection::{self, beside};
use super::openers;
use crate::durable;

/// How long others may still hold the database.
const PATIENCE: Duration = Duration::from_secs(3);

/// Moves the database `from` to `to`, on the same file system, and leaves a link behind. The app that used it has been
/// stopped.
///
/// # Errors
/// The database is where it was, whole: it is in use, `to` exists, or is on another file system.
pub fn relocate(from: &Path, to: &Path) -> Result<(), Error> {
    quietly(from, || {
        // Both names, for a moment in which nobody else gets in; there is no instant without the old one.
        fs::hard_link(from, to).map_err(|e| durable::Error::io("give another name to", from, e))?;
        let linked = durable::link(from, to);
        if linked.is_err() {
            // The error that matters is the first one; both names mean the same file still.
            let _ = fs::remove_file(to);
        }
        linked
    })
}

/// The way back: `to` becomes a file again where `from`, a link to it, is now.
///
/// # Errors
/// The database is in `to` as before.
pub fn bring_back(from: &Path, to: &Path) -> Result<(), Error> {
    quietly(to, || {
        let temporary = beside(from, ".coming-back");
        durable::remove(&temporary)?;
        fs::hard_link(to, &temporary).map_err(|e| durable::Error::io("give another name to", to, e))?;
        fs::rename(&temporary, from).map_err(|e| durable::Error::io("rename to", from, e))?;
        durable::remove(to)?;
        from.parent().map_or(Ok(()), durable::sync_dir)
    })
}

/// Does it while the database is folded into one file and nobody else can open it.
fn quietly(path: &Path, act: impl FnOnce() -> Result<(), durable::Error>) -> Result<(), Error> {
    let trouble = |e: &rusqlite::Error| Error::of(path, "getting the database to ourselves", e);
    // Sees that it is one.
    drop(connection::open_read(path)?);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let alone = Connection::open_with_flags(path, flags).map_err(|e| trouble(&e))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match take(&alone) {
            Ok(()) => break,
            Err(error) if Instant::now() >= deadline => return Err(trouble(&error)),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    let done = nobody_else(path).and_then(|()| Ok(act()?));
    // Closing takes away -wal and -shm, by the old name; they hold nothing.
    drop(alone);
    for suffix in ["-wal", "-shm", "-journal"] {
        let left = beside(path, suffix);
        if fs::metadata(&left).is_ok_and(|found| found.len() == 0 || suffix == "-shm") {
            let _ = fs::remove_file(&left);
        }
    }
    done
}

/// Someone who has it open and is idle holds no lock, and names its journal by the old path at its next write. Processes
/// that cannot be looked into count as strangers to it: the caller has stopped the app.
fn nobody_else(path: &Path) -> Result<(), Error> {
    let found = openers::of(path).map_err(|e| durable::Error::io("look through", Path::new("/proc"), e))?;
    let others: Vec<String> =
        found.pids.iter().filter(|pid| **pid != std::process::id()).map(u32::to_string).collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::InUse { path: path.to_owned(), why: format!("process {} has it open", others.join(", ")) })
}

/// Everything is in the one file and the lock is ours.
fn take(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(500))?;
    connection.pragma_update(None, "foreign_keys", false)?;
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode.eq_ignore_ascii_case("wal") {
        // Exclusive before the first access: then nobody shares the log with us.
        let (busy, left): (i64, i64) =
            connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if busy != 0 || left > 0 {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                None,
            ));
        }
    }
    connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT;")
}

/// Whether `from` is a link to `to`.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_relocated(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::read_link(from) {
        Ok(target) => Ok(target == to),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(wal: bool) -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("store.db"), folder.path().join("shared/store.db"));
        fs::create_dir(folder.path().join("shared")).unwrap();
        let connection = Connection::open(&from).unwrap();
        if wal {
            connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        }
        connection
            .execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY); INSERT INTO orders VALUES (1);")
            .unwrap();
        (folder, from, to)
    }

    fn add(path: &Path) -> rusqlite::Result<usize> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::ZERO)?;
        connection.execute("INSERT INTO orders DEFAULT VALUES", [])
    }

    fn rows(path: &Path) -> i64 {
        let connection = Connection::open(path).unwrap();
        connection.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn whoever_uses_the_old_name_writes_into_the_same_database() {
        for wal in [false, true] {
            let (_folder, from, to) = database(wal);
            relocate(&from, &to).unwrap();
            assert!(is_relocated(&from, &to).unwrap());
            add(&from).unwrap();
            add(&to).unwrap();
            assert_eq!((rows(&from), rows(&to)), (3, 3), "wal: {wal}");
            bring_back(&from, &to).unwrap();
            assert!(!to.exists() && !fs::symlink_metadata(&from).unwrap().is_symlink());
            assert_eq!(rows(&from), 3);
        }
    }

    #[test]
    fn what_is_only_in_the_log_comes_along() {
        let (_folder, from, to) = database(true);
        // Killed: its log stays and nobody has folded it in.
        let script = "import os,sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\nc.execute('insert into orders values (7)')\nc.commit()\nos.kill(os.getpid(),9)";
        let killed = std::process::Command::new("python3").args(["-c", script]).arg(&from).status().unwrap();
        assert!(!killed.success() && fs::metadata(beside(&from, "-wal")).unwrap().len() > 0);
        relocate(&from, &to).unwrap();
        assert_eq!(rows(&to), 2);
        assert!(!beside(&from, "-wal").exists());
    }

    #[test]
    fn a_database_in_the_middle_of_a_write_is_left_where_it_is() {
        for wal in [false, true] {
            let (_folder, from, to) = database(wal);
            let other = Connection::open(&from).unwrap();
            other.execute_batch("BEGIN IMMEDIATE; INSERT INTO orders VALUES (9);").unwrap();
            let error = relocate(&from, &to).unwrap_err();
            assert!(matches!(error, Error::Busy { .. }), "{error:?}");
            other.execute_batch("COMMIT").unwrap();
            assert!(!to.exists());
            assert_eq!(rows(&from), 2);
        }
    }

    #[test]
    fn a_database_that_somebody_has_open_and_does_not_use_is_left_where_it_is() {
        let (_folder, from, to) = database(false);
        let script = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\nc.execute('select 1 from orders')\nprint('open',flush=True)\nsys.stdin.read()";
        let mut idle = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&from)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(idle.stdout.take().unwrap()), &mut line).unwrap();
        let error = relocate(&from, &to).unwrap_err();
        assert!(
            matches!(&error, Error::InUse { why, .. } if why.contains(&idle.id().to_string())),
            "{error:?}"
        );
        drop(idle.stdin.take());
        idle.wait().unwrap();
        assert!(!to.exists());
        relocate(&from, &to).unwrap();
    }

    #[test]
    fn a_file_that_is_there_is_not_replaced() {
        let (_folder, from, to) = database(false);
        fs::write(&to, "mine").unwrap();
        relocate(&from, &to).unwrap_err();
        assert_eq!(fs::read(&to).unwrap(), b"mine");
        assert_eq!(rows(&from), 1);
    }
}
