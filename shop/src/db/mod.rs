//! The database: every SQL statement of the shop lives in this module tree, as one plain function per use.
//!
//! Statements name their columns, so that a later schema with more columns, or a rebuilt table, is read and
//! written just as well by this binary.

pub(crate) mod audit;
pub(crate) mod delivery;
pub(crate) mod figures;
pub(crate) mod images;
pub mod import;
pub(crate) mod members;
pub(crate) mod messages;
pub mod migrations;
pub(crate) mod orders;
pub(crate) mod outbox;
pub(crate) mod payments;
pub(crate) mod placing;
pub(crate) mod products;
pub(crate) mod search;
pub mod seed;
pub(crate) mod sessions;
pub(crate) mod stock;
pub(crate) mod users;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::Semaphore;

/// How many pages may read at the same time; WAL readers do not wait for the writer.
const READERS: usize = 4;

/// How long a statement waits for another process's lock (a backup, a migration) before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the database answered instead of a result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is not there; a shop never makes an empty one by serving.
    #[error("no database at {}: run `greengrocer migrate` to create it, or set DATABASE_PATH", .0.display())]
    Missing(PathBuf),
    /// The file is there and could not be opened as a database.
    #[error("cannot open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A statement failed; its transaction was rolled back.
    #[error("the database refused a statement; nothing of its transaction was kept")]
    Statement(#[from] rusqlite::Error),
    /// An order would find no room on the disk.
    #[error("there is no room beside the database, so no order could be written")]
    Room(#[source] std::io::Error),
    /// The thread that worked on the database ended early; its transaction was rolled back.
    #[error("work on the database was cut off; nothing of its transaction was kept")]
    CutOff(#[from] tokio::task::JoinError),
}

/// The result of a use of the database.
pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// One writer and a few readers on one SQLite file, used from blocking threads.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    writer: Arc<tokio::sync::Mutex<Connection>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    reader_permits: Arc<Semaphore>,
    /// Sees when anybody, this process or another, has committed something.
    watcher: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens an existing database.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let writer = open_existing(path)?;
        let watcher = open_reader(path)?;
        // Asked for on every page: it would rather not know than wait.
        watcher.busy_timeout(Duration::ZERO)?;
        Ok(Self {
            path: path.to_owned(),
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            readers: Arc::default(),
            reader_permits: Arc::new(Semaphore::new(READERS)),
            watcher: Arc::new(Mutex::new(watcher)),
        })
    }

    /// A number that changes whenever something was committed; `None` when that cannot be told just now.
    pub(crate) fn version(&self) -> Option<i64> {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        watcher.prepare_cached("PRAGMA data_version").ok()?.query_row([], |row| row.get(0)).ok()
    }

    /// Runs `work`, which takes well under a millisecond, on a connection that cannot write: on this thread,
    /// because handing it to another one costs more. Readers do not wait for writers.
    pub(crate) fn read_here<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Connection) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open_reader(&self.path)?,
        };
        let result = work(&connection);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < 2 * READERS {
            readers.push(connection);
        }
        result
    }

    /// Runs `work` on a connection that cannot write.
    pub(crate) async fn read<T, E, F>(&self, work: F) -> std::result::Result<T, E>
    where
        F: FnOnce(&Connection) -> std::result::Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        // The semaphore is never closed; without a permit there would only be one connection more.
        let permit = self.reader_permits.clone().acquire_owned().await.ok();
        let (path, readers) = (self.path.clone(), self.readers.clone());
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let idle = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open_reader(&path)?,
            };
            let result = work(&connection);
            readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        })
        .await
        .map_err(StoreError::from)?
    }

    /// Runs `work` in one `BEGIN IMMEDIATE` transaction: kept when it answers `Ok`, rolled back otherwise.
    ///
    /// It is carried through even when the caller stops waiting for it.
    pub(crate) async fn write<T, E, F>(&self, work: F) -> std::result::Result<T, E>
    where
        F: FnOnce(&Transaction<'_>) -> std::result::Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        // Waiting here and not in the blocking thread: a queue of writers must not use up the threads.
        let mut writer = self.writer.clone().lock_owned().await;
        tokio::task::spawn_blocking(move || {
            // Immediate: a deferred transaction that turns into a writer fails at once, busy_timeout or not.
            let transaction =
                writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
            let result = work(&transaction)?;
            transaction.commit().map_err(StoreError::from)?;
            Ok(result)
        })
        .await
        .map_err(StoreError::from)?
    }

    /// A real read, a write lock taken and given back, and room beside the database: a full disk takes the lock and no
    /// order. The database itself is not changed. Answers the schema's version.
    pub(crate) async fn probe(&self) -> Result<i64> {
        let version = self
            .read(|connection| {
                connection.query_row("SELECT count(*) FROM products", [], |row| row.get::<_, i64>(0))?;
                migrations::current_version(connection)
            })
            .await?;
        let writer = self.writer.clone().lock_owned().await;
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            writer.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(StoreError::from)?;
            room(&path).map_err(StoreError::Room)
        })
        .await
        .map_err(StoreError::from)??;
        Ok(version)
    }
}

/// As much as an order may add to the database's log.
const ROOM: usize = 64 << 10;

/// An error when there is no room for an order beside the database.
fn room(database: &Path) -> std::io::Result<()> {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(".room");
    let probe = database.with_file_name(name);
    let written = std::fs::write(&probe, vec![0; ROOM]);
    // Also when only a part of it could be written. Another release beside this one may have removed it first.
    match std::fs::remove_file(&probe) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => written.and(Err(error)),
        _ => written,
    }
}

/// Opens a database that is there, for reading and writing.
///
/// # Errors
/// [`StoreError::Missing`] when there is no file: none is made.
pub fn open_existing(path: &Path) -> Result<Connection> {
    if !path.is_file() {
        return Err(StoreError::Missing(path.to_owned()));
    }
    open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Opens a database, making an empty one when there is none.
///
/// # Errors
/// [`StoreError::Open`] when the file or its folder cannot be used.
pub fn open_or_create(path: &Path) -> Result<Connection> {
    open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
}

fn open_with(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let open = || {
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An order that was answered must survive a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    open().map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

fn open_reader(path: &Path) -> Result<Connection> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.set_prepared_statement_cache_capacity(64);
        // Without it SQLite, built with STAT4, plans a kept statement anew for each value that is bound to it: 38 %
        // of a product page's time.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // GET pages use these connections only: a page that tries to write fails instead of writing.
        search::open_terms(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    open().map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

/// Random bytes as lower-case hexadecimal.
pub(crate) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers on every Linux that runs this");
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        open_or_create(&path).unwrap().execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        let store = Store::open(&path).unwrap();
        let refused: Result<()> = store
            .write(|transaction| {
                transaction.execute("INSERT INTO t VALUES (1)", [])?;
                transaction.execute("INSERT INTO nowhere VALUES (1)", [])?;
                Ok(())
            })
            .await;
        assert!(refused.is_err());
        let rows: Result<i64> = store
            .read(|connection| Ok(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?))
            .await;
        assert_eq!(rows.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_reader_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        open_or_create(&path).unwrap().execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        let store = Store::open(&path).unwrap();
        let refused: Result<usize> =
            store.read(|connection| Ok(connection.execute("INSERT INTO t VALUES (1)", [])?)).await;
        assert!(matches!(refused, Err(StoreError::Statement(_))), "{refused:?}");
    }

    /// Two releases run beside each other for a moment, and each is asked how it is.
    #[test]
    fn of_two_that_look_for_room_at_once_one_was_told_that_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("store.db");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| room(&database).unwrap()));
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
        assert!(room(&folder.path().join("nowhere/store.db")).is_err());
    }

    #[test]
    fn a_missing_database_is_refused_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        assert!(matches!(open_existing(&path), Err(StoreError::Missing(_))));
        assert!(!path.exists());
    }
}
