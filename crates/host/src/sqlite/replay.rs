//! The schema that migrations make when they are replayed on an empty database, and what a good database looks like.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::connection::{ForeignKeys, enforce};
use super::error::message;
use super::fingerprint::count;
use super::history;
use super::migrate::{Error, Wrap, run_script, wrap_of};
use super::migration::Migration;
use super::schema::{self, Column, Object};
use super::{Stop, census};

/// What a database is expected to hold.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Expectation {
    /// The layout of this when it is kept in a file: 1.
    pub format: u32,
    /// Where it comes from, in words.
    pub source: String,
    /// When it was learned; `None` for a replay.
    pub learned_at: Option<Timestamp>,
    /// The tables and their columns; `schema_version` is none of them.
    pub tables: BTreeMap<String, Shape>,
    /// Indexes, triggers and views that have a definition.
    pub objects: Vec<Object>,
    /// Applied versions, as they stand there.
    pub versions: Vec<String>,
    /// Rows whose foreign key points nowhere, by child table.
    pub violations: BTreeMap<String, u64>,
}

/// What a table is expected to look like.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Its columns in their order.
    pub columns: Vec<Column>,
    /// Its rows when it was learned; `None` for a replay.
    pub rows: Option<u64>,
}

impl Expectation {
    /// Reads what a database holds. The caller holds a read transaction.
    ///
    /// # Errors
    /// What SQLite said.
    pub fn of(connection: &Connection, source: String, with_rows: bool) -> rusqlite::Result<Self> {
        let mut tables = BTreeMap::new();
        for (name, table) in schema::tables(connection)? {
            if name == history::TABLE || name == history::SIDE_TABLE {
                continue;
            }
            let rows = if with_rows { Some(count(connection, &name)?) } else { None };
            tables.insert(name, Shape { columns: table.columns, rows });
        }
        let objects = schema::objects(connection)?
            .into_iter()
            .filter(|object| object.sql.is_some() && object.kind != "table")
            .filter(|object| object.table != history::TABLE && object.table != history::SIDE_TABLE)
            .collect();
        Ok(Expectation {
            format: 1,
            source,
            tables,
            objects,
            violations: census::violations(connection)?.unwrap_or_default(),
            ..Expectation::default()
        })
    }
}

/// Replays migrations on an empty database in memory.
///
/// # Errors
/// [`Error::Statement`] when one needs rows or an app's functions: then nothing can be expected from them.
pub fn replay(migrations: &[&Migration]) -> Result<Expectation, Error> {
    let failed = |e: rusqlite::Error| Error::File { path: PathBuf::from(":memory:"), why: message(&e) };
    let connection = Connection::open_in_memory().map_err(failed)?;
    // What a rebuild needs; without rows no cascade is missed.
    enforce(&connection, ForeignKeys::Off).map_err(failed)?;
    for migration in migrations {
        let wrap = wrap_of(&migration.sql);
        if wrap == Wrap::SelfManaged {
            run_script(&connection, migration, wrap, &Stop::new())?;
            continue;
        }
        let transaction = connection.unchecked_transaction().map_err(failed)?;
        run_script(&transaction, migration, wrap, &Stop::new())?;
        transaction.commit().map_err(failed)?;
    }
    let source = match migrations {
        [] => "no migration".to_owned(),
        [.., last] => format!("the replay of {} migrations up to {}", migrations.len(), last.file()),
    };
    Expectation::of(&connection, source, false).map_err(failed)
}
