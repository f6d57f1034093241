//! Rows that could not stay where they were, in a file of their own: a SQLite database to query, and the SQL that
//! would enter them again, to read. They hold customers' data: mode 0600.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::Value;

use super::connection::{ForeignKeys, beside, open_own, quoted};
use super::diff::{self, Change, RowChange, Side};
use super::partial::Partial;
use super::{Error, Stop};

/// What was set aside.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SetAside {
    /// The database: one line per value in the table `set_aside`.
    pub database: PathBuf,
    /// The SQL that would enter the rows again.
    pub sql: PathBuf,
    /// Rows per table.
    pub tables: BTreeMap<String, u64>,
}

impl SetAside {
    /// All rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.values().sum()
    }
}

/// Writes every row in which `second` differs from `first` to `path` and, as SQL, to `path` + `.sql`. `None`, and no
/// file, when there is none. Neither file may exist.
///
/// # Errors
/// When one of the databases cannot be read or a file cannot be written; then neither file is there.
pub fn write(
    path: &Path,
    first: Side<'_>,
    second: Side<'_>,
    why: &str,
    stop: &Stop,
) -> Result<Option<SetAside>, Error> {
    let mut writer = Writer::begin(path, why)?;
    diff::each(first, second, stop, &mut |table, row| writer.add(table, &row, None))?;
    writer.end()
}

/// Both files in the making.
pub(crate) struct Writer {
    path: PathBuf,
    tables: BTreeMap<String, u64>,
    sheet: Sheet,
    text: Text,
    // Last: what writes to a file is closed before the file is removed or named.
    database: Partial,
    sql: Partial,
}

impl Writer {
    pub(crate) fn begin(path: &Path, why: &str) -> Result<Self, Error> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (database, sql) = (Partial::new(folder, &name)?, Partial::new(folder, &format!("{name}.sql"))?);
        let sheet = Sheet::begin(database.path())?;
        let text = Text::begin(sql.path(), why)?;
        Ok(Writer { path: path.to_owned(), tables: BTreeMap::new(), sheet, text, database, sql })
    }

    /// `reason` says why this one is set aside. A row that has one may stand elsewhere with other values than those
    /// before, so its SQL does not ask for them.
    pub(crate) fn add(&mut self, table: &str, row: &RowChange, reason: Option<&str>) -> Result<(), Error> {
        *self.tables.entry(table.to_owned()).or_default() += 1;
        self.sheet.add(table, row, reason)?;
        self.text.add(table, row, reason)
    }

    /// Gives both files their names; `None`, and no file, when nothing was added.
    pub(crate) fn end(self) -> Result<Option<SetAside>, Error> {
        let Writer { path, tables, sheet, text, database, sql } = self;
        if tables.is_empty() {
            return Ok(None);
        }
        sheet.end()?;
        text.end()?;
        let sql_path = beside(&path, ".sql");
        let taken = |path: &Path| Error::io(path, "create", std::io::ErrorKind::AlreadyExists.into());
        sql.publish(&sql_path)?.map_err(|_| taken(&sql_path))?;
        // The database last: whoever finds it finds the text too.
        database.publish(&path)?.map_err(|_| taken(&path))?;
        Ok(Some(SetAside { database: path, sql: sql_path, tables }))
    }
}

/// The database: values keep their types.
struct Sheet {
    connection: Connection,
    path: PathBuf,
    row: i64,
}

impl Sheet {
    fn begin(path: &Path) -> Result<Self, Error> {
        let connection = open_own(path, ForeignKeys::Off)?;
        connection
            .execute_batch(
                "PRAGMA synchronous = OFF; BEGIN;
                 CREATE TABLE set_aside (
                     row INTEGER NOT NULL, table_name TEXT NOT NULL, what TEXT NOT NULL,
                     is_key INTEGER NOT NULL, column_name TEXT NOT NULL, old_value, new_value, reason TEXT
                 );",
            )
            .map_err(|e| Error::of(path, "setting rows aside", &e))?;
        Ok(Sheet { connection, path: path.to_owned(), row: 0 })
    }

    fn add(&mut self, table: &str, row: &RowChange, reason: Option<&str>) -> Result<(), Error> {
        self.row += 1;
        let number = self.row;
        let put = |what: &str, key: bool, column: &str, old: Option<&Value>, new: Option<&Value>| {
            self.connection.execute(
                "INSERT INTO set_aside VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                rusqlite::params![number, table, what, key, column, old, new, reason],
            )
        };
        let put_all = || -> rusqlite::Result<()> {
            let is_key = |column: &String| row.key.iter().any(|(name, _)| name == column);
            match &row.change {
                Change::Inserted(values) => {
                    for (column, value) in values {
                        put("inserted", is_key(column), column, None, Some(value))?;
                    }
                }
                Change::Deleted(values) => {
                    for (column, value) in values {
                        put("deleted", is_key(column), column, Some(value), None)?;
                    }
                }
                Change::Changed(values) => {
                    for (column, value) in &row.key {
                        // The key itself may have changed: 'a' to 'A', or 1 to 1.0.
                        let new = values
                            .iter()
                            .find(|(name, _, _)| name == column)
                            .map_or(value, |(_, _, new)| new);
                        put("changed", true, column, Some(value), Some(new))?;
                    }
                    for (column, old, new) in values.iter().filter(|(column, _, _)| !is_key(column)) {
                        put("changed", false, column, Some(old), Some(new))?;
                    }
                }
            }
            Ok(())
        };
        put_all().map_err(|e| Error::of(&self.path, "setting rows aside", &e))
    }

    fn end(self) -> Result<(), Error> {
        self.connection.execute_batch("COMMIT").map_err(|e| Error::of(&self.path, "setting rows aside", &e))
    }
}

/// The SQL.
struct Text {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Text {
    fn begin(path: &Path, why: &str) -> Result<Self, Error> {
        let file = File::options().write(true).open(path).map_err(|e| Error::io(path, "open", e))?;
        let mut text = Text { file: BufWriter::new(file), path: path.to_owned() };
        let why = why.replace(['\n', '\r'], " ");
        text.line(&format!(
            "-- Set aside: {why}\n-- Read each line before you enter it; keys may be taken by now.\n"
        ))?;
        Ok(text)
    }

    fn add(&mut self, table: &str, row: &RowChange, reason: Option<&str>) -> Result<(), Error> {
        let statement = statement(table, row, reason.is_none());
        match reason {
            Some(reason) => self.line(&format!("{statement} -- {reason}")),
            None => self.line(&statement),
        }
    }

    fn line(&mut self, line: &str) -> Result<(), Error> {
        writeln!(self.file, "{line}").map_err(|e| Error::io(&self.path, "write", e))
    }

    fn end(mut self) -> Result<(), Error> {
        self.file.flush().map_err(|e| Error::io(&self.path, "write", e))
    }
}

/// The statement that would make the change again.
fn statement(table: &str, row: &RowChange, guarded: bool) -> String {
    let table = quoted(table);
    let list = |values: &[(String, Value)], joint: &str, sign: &dyn Fn(&Value) -> &'static str| {
        let parts = values
            .iter()
            .map(|(column, value)| format!("{} {} {}", quoted(column), sign(value), literal(value)));
        parts.collect::<Vec<_>>().join(joint)
    };
    // IS, because a key may be NULL.
    let given = |values: &[(String, Value)]| list(values, " AND ", &|_| "IS");
    match &row.change {
        Change::Inserted(values) => {
            let columns = values.iter().map(|(column, _)| quoted(column)).collect::<Vec<_>>().join(", ");
            let values = values.iter().map(|(_, value)| literal(value)).collect::<Vec<_>>().join(", ");
            format!("INSERT INTO {table} ({columns}) VALUES ({values});")
        }
        Change::Deleted(values) if row.key.is_empty() => {
            // One of possibly several equal rows.
            format!(
                "DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table} WHERE {});",
                given(values)
            )
        }
        Change::Deleted(values) => {
            format!(
                "DELETE FROM {table} WHERE {}; -- it was: {}",
                given(&row.key),
                list(values, ", ", &|_| "=")
            )
        }
        Change::Changed(values) => {
            let set: Vec<(String, Value)> =
                values.iter().map(|(column, _, new)| (column.clone(), new.clone())).collect();
            let old: Vec<(String, Value)> =
                values.iter().map(|(column, old, _)| (column.clone(), old.clone())).collect();
            let (set, key) = (list(&set, ", ", &|_| "="), given(&row.key));
            if guarded {
                format!("UPDATE {table} SET {set} WHERE {key} AND {};", given(&old))
            } else {
                format!("UPDATE {table} SET {set} WHERE {key}; -- before: {}", list(&old, ", ", &|_| "="))
            }
        }
    }
    .replace(['\n', '\r'], " ")
}

/// A value as SQL on one line.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) if number.is_infinite() => {
            if *number > 0.0 {
                "9e999".into()
            } else {
                "-9e999".into()
            }
        }
        // `{:?}` keeps the point and every digit that matters.
        Value::Real(number) => format!("{number:?}"),
        // A line break or NUL would end the line or the text.
        Value::Text(text) if text.contains(['\n', '\r', '\0']) => {
            format!("CAST({} AS TEXT)", blob(text.as_bytes()))
        }
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Blob(bytes) => blob(bytes),
    }
}

fn blob(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + 3);
    text.push_str("x'");
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SCHEMA: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT, price REAL, raw BLOB);
         CREATE TABLE log (line TEXT); CREATE TABLE stock (item TEXT PRIMARY KEY, n INT) WITHOUT ROWID;";
    const BEFORE: &str = "INSERT INTO orders VALUES (1, 'a', 1.5, NULL), (2, 'b', 2.0, x'00ff');
         INSERT INTO log VALUES ('twice'), ('twice'), ('once'); INSERT INTO stock VALUES ('dal', 4), ('rice', 5);";
    const WRITES: &str = "INSERT INTO orders VALUES (3, 'it''s' || char(10) || 'two lines', 0.1, x'dead');
         UPDATE orders SET note = NULL, price = 1e300 WHERE id = 1; DELETE FROM orders WHERE id = 2;
         DELETE FROM log WHERE rowid = 1; INSERT INTO log VALUES ('new');
         UPDATE stock SET n = 3 WHERE item = 'dal'; CREATE TABLE late (a); INSERT INTO late VALUES (9);";

    #[test]
    fn what_is_set_aside_can_be_queried_and_entered_again() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("before.db"), dir.path().join("after.db"));
        for (path, more) in [(&before, ""), (&after, WRITES)] {
            Connection::open(path).unwrap().execute_batch(&format!("{SCHEMA}{BEFORE}{more}")).unwrap();
        }
        let (first, second) = (Side::Finished(&before), Side::Finished(&after));
        let path = dir.path().join("aside.db");
        let aside = write(&path, first, second, "an undo", &Stop::new()).unwrap().unwrap();
        let expected = [("late", 1), ("log", 2), ("orders", 3), ("stock", 1)];
        assert_eq!(aside.tables, expected.map(|(name, n)| (name.to_owned(), n)).into());
        for file in [&aside.database, &aside.sql] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let lost: f64 = Connection::open(&path)
            .unwrap()
            .query_row(
                "SELECT old_value FROM set_aside WHERE what = 'deleted' AND column_name = 'price'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert!((lost - 2.0).abs() < f64::EPSILON);
        // Entered again, the two are equal.
        let sql = fs::read_to_string(&aside.sql).unwrap();
        let own = Connection::open(&before).unwrap();
        own.execute_batch(&format!("CREATE TABLE late (a); {sql}")).unwrap();
        drop(own);
        assert!(diff::rows(first, second, 9, &Stop::new()).unwrap().is_empty(), "{sql}");
        assert_eq!(write(&dir.path().join("none.db"), first, second, "x", &Stop::new()).unwrap(), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing else is left");
    }
}
