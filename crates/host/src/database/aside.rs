//! Rows that an undo would have lost, written to a file and never dropped: a SQLite file for programs, and the same
//! as text for people.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use serde_json::{Map, json};

use super::io_failure;
use crate::durable;
use crate::sqlite::connection::{ForeignKeys, open_own};
use crate::sqlite::diff::{self, Change, RowChange, Side};
use crate::sqlite::{self, Stop};
use plimsoll_core::ports::Failure;

/// Writes every row that differs between `before` and `now` beside `stem`: `STEM.db` and `STEM.txt`, both 0600, whole
/// and on the disk when it returns. Returns the SQLite file.
pub(super) fn write(stem: &Path, before: Side<'_>, now: Side<'_>, stop: &Stop) -> Result<PathBuf, Failure> {
    let file = stem.with_extension("db");
    let part = stem.with_extension("db.part");
    durable::remove(&file)?;
    durable::write(&part, durable::PRIVATE, b"")?;
    let mut text = String::from("Rows that were in the database and are not after the undo.\n");
    let failed = |e: &sqlite::Error| super::failure("the rows could not be set aside", e);
    {
        let out = open_own(&part, ForeignKeys::Off).map_err(|e| failed(&e))?;
        let sql = |e: rusqlite::Error| sqlite::Error::of(&part, "writing rows set aside", &e);
        out.execute_batch(
            "BEGIN; CREATE TABLE set_aside(table_name TEXT, operation TEXT, key TEXT, before TEXT, after TEXT);",
        )
        .map_err(|e| failed(&sql(e)))?;
        let mut insert =
            out.prepare("INSERT INTO set_aside VALUES (?1, ?2, ?3, ?4, ?5)").map_err(|e| failed(&sql(e)))?;
        let found = diff::each(before, now, stop, &mut |table, row| {
            let (operation, key, old, new) = parts(&row);
            insert
                .execute(rusqlite::params![table, operation, key, old, new])
                .map_err(|e| sqlite::Error::of(&part, "writing rows set aside", &e))?;
            let _ = writeln!(text, "{table}: {operation} {key}\n    before {old}\n    after  {new}");
            Ok(())
        })
        .map_err(|e| failed(&e))?;
        for (table, rows) in found.only_first.iter().chain(&found.only_second) {
            let _ = writeln!(text, "{table}: the whole table came or went, with {rows} row(s)");
        }
        drop(insert);
        out.execute_batch("COMMIT; PRAGMA journal_mode = DELETE;").map_err(|e| failed(&sql(e)))?;
    }
    let synced = fs::File::open(&part).and_then(|file| file.sync_all());
    synced.map_err(|e| io_failure("the rows set aside", &part, &e))?;
    fs::rename(&part, &file).map_err(|e| io_failure("the rows set aside", &file, &e))?;
    if let Some(folder) = file.parent() {
        durable::sync_dir(folder)?;
    }
    durable::write(&stem.with_extension("txt"), durable::PRIVATE, text.as_bytes())?;
    Ok(file)
}

fn parts(row: &RowChange) -> (&'static str, String, String, String) {
    let none = || "null".to_owned();
    let key = object(row.key.iter().map(|(name, value)| (name, value)));
    match &row.change {
        Change::Inserted(values) => ("inserted", key, none(), object(values.iter().map(|(n, v)| (n, v)))),
        Change::Deleted(values) => ("deleted", key, object(values.iter().map(|(n, v)| (n, v))), none()),
        Change::Changed(values) => {
            let old = object(values.iter().map(|(name, old, _)| (name, old)));
            let new = object(values.iter().map(|(name, _, new)| (name, new)));
            ("changed", key, old, new)
        }
    }
}

fn object<'a>(values: impl Iterator<Item = (&'a String, &'a Value)>) -> String {
    let map: Map<String, serde_json::Value> = values
        .map(|(name, value)| {
            let value = match value {
                Value::Null => serde_json::Value::Null,
                Value::Integer(n) => json!(n),
                Value::Real(n) => json!(n),
                Value::Text(text) => json!(text),
                Value::Blob(bytes) => json!({ "blob": hex::encode(bytes) }),
            };
            (name.clone(), value)
        })
        .collect();
    serde_json::Value::Object(map).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_that_came_is_in_the_file_and_in_the_text() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, sql: &str| {
            let path = dir.path().join(name);
            let db = rusqlite::Connection::open(&path).unwrap();
            db.execute_batch("CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT, photo BLOB)").unwrap();
            db.execute_batch(sql).unwrap();
            path
        };
        let post = make("post.db", "INSERT INTO orders VALUES (1, 'rice', NULL), (2, 'dal', NULL)");
        let now = make("now.db", "INSERT INTO orders VALUES (1, 'rice', x'00ff'), (3, 'ghee', NULL)");
        let file =
            write(&dir.path().join("set-aside"), Side::Finished(&post), Side::Live(&now), &Stop::new())
                .unwrap();
        let db = rusqlite::Connection::open(&file).unwrap();
        let rows: Vec<String> = db
            .prepare("SELECT operation || ' ' || key || ' ' || after FROM set_aside ORDER BY key")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let wanted = [
            r#"changed {"id":1} {"photo":{"blob":"00ff"}}"#,
            r#"deleted {"id":2} null"#,
            r#"inserted {"id":3} {"id":3,"item":"ghee","photo":null}"#,
        ];
        assert_eq!(rows, wanted);
        let text = fs::read_to_string(dir.path().join("set-aside.txt")).unwrap();
        assert!(text.contains("ghee") && text.contains("dal"), "{text}");
    }
}
