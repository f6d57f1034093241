//! What a database looks like without a row of it: for whoever looks for a mistake from elsewhere.

use std::fmt::Write as _;
use std::path::Path;

use super::connection;

/// The version of the library in this program.
#[must_use]
pub fn library() -> &'static str {
    rusqlite::version()
}

/// Tables, indexes and triggers as they were made, how many rows each table has, and the settings. Never a row.
///
/// # Errors
/// Why it cannot be read.
pub fn outline(file: &Path) -> Result<String, super::Error> {
    let failed = |error: rusqlite::Error| super::Error::of(file, "read the schema", &error);
    let open = connection::open_read(file)?;
    let mut out = String::new();
    let mut tables = Vec::new();
    let sql = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid";
    let mut statement = open.prepare(sql).map_err(failed)?;
    let objects = statement
        .query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })
        .map_err(failed)?;
    for object in objects {
        let (kind, name, sql) = object.map_err(failed)?;
        let _ = writeln!(out, "{sql};");
        if kind == "table" {
            tables.push(name);
        }
    }
    for table in tables {
        let quoted = table.replace('"', "\"\"");
        let sql = format!("SELECT count(*) FROM \"{quoted}\"");
        let count = open.query_row(&sql, [], |row| row.get::<_, i64>(0));
        let count = count.map_or_else(|error| error.to_string(), |count| count.to_string());
        let _ = writeln!(out, "-- {table}: {count} rows");
    }
    for pragma in ["user_version", "journal_mode", "page_size", "page_count", "freelist_count", "encoding"] {
        let value =
            open.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, rusqlite::types::Value>(0));
        if let Ok(value) = value {
            let _ = writeln!(out, "-- {pragma}: {value:?}");
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_and_counts_are_told_and_no_row_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        let open = rusqlite::Connection::open(&file).unwrap();
        open.execute_batch("CREATE TABLE users(name, hash); CREATE INDEX i ON users(name); INSERT INTO users VALUES('Asha', 'planted')")
            .unwrap();
        let text = outline(&file).unwrap();
        assert!(
            text.contains("CREATE TABLE users(name, hash);") && text.contains("-- users: 1 rows"),
            "{text}"
        );
        assert!(!text.contains("planted") && !text.contains("Asha"), "{text}");
        assert!(outline(&folder.path().join("none.db")).is_err());
    }
}
