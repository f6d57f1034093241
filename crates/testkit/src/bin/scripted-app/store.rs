//! The shop's database, one connection held open for as long as the app lives.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

/// Any failure, in words.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The database.
pub(crate) struct Store {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Store {
    /// Of what `DATABASE_PATH` names, or what is hard-coded; opens nothing yet.
    pub(crate) fn new(hard_coded: Option<PathBuf>) -> Result<Store, Failure> {
        let told = std::env::var_os("DATABASE_PATH").ok_or("DATABASE_PATH is not set")?;
        Ok(Store { path: hard_coded.unwrap_or(PathBuf::from(told)), connection: Mutex::default() })
    }

    /// Like many apps, creates what is not there.
    fn open(&self) -> Result<Connection, Failure> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL;")?;
        // The file is opened by the first statement that reads it.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match connection.take() {
            Some(open) => open,
            None => self.open()?,
        };
        act(connection.insert(open))
    }

    /// Applies the files of `migrations/` that are newer than the database, as an app does that owns its schema.
    pub(crate) fn migrate(&self) -> Result<(), Failure> {
        let mut files: Vec<_> = std::fs::read_dir("migrations")?.collect::<Result<_, _>>()?;
        files.sort_by_key(std::fs::DirEntry::file_name);
        self.with(|connection| {
            connection.execute_batch("PRAGMA foreign_keys = OFF")?;
            for file in files {
                let name = file.file_name().to_string_lossy().into_owned();
                let version: i64 = name.split('_').next().unwrap_or_default().parse()?;
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let applied = transaction
                    .query_row("SELECT 1 FROM schema_version WHERE version = ?1", [version], |_| Ok(()))
                    .optional()?;
                if applied.is_none() {
                    transaction.execute_batch(&std::fs::read_to_string(file.path())?)?;
                    let note = "INSERT INTO schema_version (version, description) VALUES (?1, ?2)";
                    transaction.execute(note, (version, &name))?;
                }
                transaction.commit()?;
            }
            connection.execute_batch("PRAGMA foreign_keys = ON")?;
            Ok(())
        })
    }

    /// How many rows a table has.
    pub(crate) fn count(&self, table: &str) -> Result<i64, Failure> {
        self.with(|connection| {
            Ok(connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?)
        })
    }

    /// Places an order; its number is given only once it is on the disk.
    pub(crate) fn order(&self, item: &str, quantity: &str, reference: &str) -> Result<i64, Failure> {
        let (item, quantity): (i64, i64) = (item.parse()?, quantity.parse()?);
        self.with(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute(
                "INSERT INTO orders (reference, created_at) VALUES (?1, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
                [reference],
            )?;
            let id = transaction.last_insert_rowid();
            transaction.execute(
                "INSERT INTO order_items (order_id, product_id, quantity) VALUES (?1, ?2, ?3)",
                [id, item, quantity],
            )?;
            transaction.commit()?;
            Ok(id)
        })
    }
}
