//! What a database is made of: its objects, and each table's columns and key.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::connection::quoted;

/// One line of `sqlite_schema`.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
pub struct Object {
    /// `table`, `index`, `trigger` or `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table it belongs to.
    pub table: String,
    /// Its definition; `None` for the indexes that SQLite makes for UNIQUE and PRIMARY KEY.
    pub sql: Option<String>,
}

/// One column that holds data of its own.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its declared type, as written.
    pub declared: String,
    /// Whether it refuses NULL.
    pub not_null: bool,
}

/// A table that holds rows of its own (no view, no virtual table; shadow tables are tables).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The page where it begins: a rebuild moves it.
    pub root_page: i64,
    /// Its definition.
    pub sql: String,
    /// The columns that hold data; generated ones are derived and left out.
    pub columns: Vec<Column>,
    /// The declared primary key in its order; empty when there is none.
    pub key: Vec<String>,
}

impl Table {
    /// Whether it has the column, in any case.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|c| c.name.eq_ignore_ascii_case(column))
    }

    /// Its columns as a list for SELECT.
    pub(crate) fn column_list(&self) -> String {
        self.columns.iter().map(|c| quoted(&c.name)).collect::<Vec<_>>().join(", ")
    }
}

/// All objects, in the order of kind and name. SQLite's own statistics tables are left out: an app's
/// `PRAGMA optimize` at closing rewrites them.
///
/// # Errors
/// When the schema cannot be read.
pub fn objects(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    let mut statement = connection.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    })?;
    rows.collect()
}

/// All tables that hold rows, by name. `sqlite_sequence` and the statistics are not among them.
///
/// # Errors
/// When the schema cannot be read.
pub fn tables(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Table>> {
    // rootpage 0: views and virtual tables, which keep their rows elsewhere or nowhere.
    let mut statement = connection.prepare(
        "SELECT name, rootpage, sql FROM sqlite_schema
         WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )?;
    let found = statement
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, Option<String>>(2)?.unwrap_or_default(),
            ))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    found
        .into_iter()
        .map(|(name, root_page, sql)| {
            let (columns, key) = columns(connection, &name)?;
            Ok((name.clone(), Table { name, root_page, sql, columns, key }))
        })
        .collect()
}

/// The tables that are in both and have a column in the second that the first has not.
#[must_use]
pub fn widened(before: &BTreeMap<String, Table>, after: &BTreeMap<String, Table>) -> Vec<String> {
    let more = |table: &&Table| {
        let then = before.get(&table.name);
        then.is_some_and(|then| table.columns.iter().any(|column| !then.has(&column.name)))
    };
    after.values().filter(more).map(|table| table.name.clone()).collect()
}

/// Every AUTOINCREMENT counter with the largest number that is there.
///
/// # Errors
/// As [`open_read`](super::connection::open_read), and when a table cannot be read.
pub fn numbers(path: &Path) -> Result<BTreeMap<String, (i64, i64)>, super::Error> {
    let connection = super::connection::open_read(path)?;
    let read = || {
        // Counter and row of one moment: the app goes on writing.
        let _moment = connection.unchecked_transaction()?;
        let mut found = BTreeMap::new();
        for (table, counter) in sequences(&connection)? {
            let sql = format!("SELECT coalesce(max(rowid), 0) FROM {}", quoted(&table));
            found.insert(table, (counter, connection.query_row(&sql, [], |row| row.get(0))?));
        }
        Ok(found)
    };
    read().map_err(|e| super::Error::of(path, "reading its numbers", &e))
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<(Vec<Column>, Vec<String>)> {
    // hidden: 1 = hidden column of a virtual table, 2 = virtual generated, 3 = stored generated.
    let mut statement = connection.prepare(
        "SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid",
    )?;
    let mut key = Vec::new();
    let mut columns = Vec::new();
    let mut rows = statement.query([table])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let place: i64 = row.get(3)?;
        if place > 0 {
            key.push((place, name.clone()));
        }
        columns.push(Column { name, declared: row.get(1)?, not_null: row.get(2)? });
    }
    key.sort();
    Ok((columns, key.into_iter().map(|(_, name)| name).collect()))
}

/// The AUTOINCREMENT counters.
///
/// # Errors
/// When they cannot be read.
pub fn sequences(connection: &Connection) -> rusqlite::Result<BTreeMap<String, i64>> {
    let kept: bool = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'",
        [],
        |row| row.get(0),
    )?;
    if !kept {
        return Ok(BTreeMap::new());
    }
    // A counter may be NULL or text in a file that somebody edited by hand.
    let mut statement = connection.prepare(
        "SELECT name, CAST(seq AS INTEGER) FROM sqlite_sequence WHERE name IS NOT NULL ORDER BY name, 2",
    )?;
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(0))))?;
    rows.collect()
}
