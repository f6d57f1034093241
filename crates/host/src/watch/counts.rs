//! `[watch].counts`: what customers do, counted by the app's own database.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;

use crate::sqlite::connection::open_read;

/// A count that takes longer than this is given up: it would slow the app down.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many there are since `since`, as the SQL says. It may name `:since` (`2026-01-31 23:59:59`, as SQLite's
/// `CURRENT_TIMESTAMP` writes it, UTC), `:since_iso` (`2026-01-31T23:59:59Z`) and `:since_unix` (seconds).
///
/// # Errors
/// Why it could not be counted, in words.
pub fn since(connection: &Connection, sql: &str, since: Timestamp) -> Result<u64, String> {
    let shown = |e: rusqlite::Error| e.to_string();
    let mut statement = connection.prepare(sql).map_err(shown)?;
    let utc = since.to_zoned(jiff::tz::TimeZone::UTC);
    let text = utc.strftime("%Y-%m-%d %H:%M:%S").to_string();
    let iso = utc.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for (name, value) in [
        (":since", rusqlite::types::Value::Text(text)),
        (":since_iso", rusqlite::types::Value::Text(iso)),
        (":since_unix", rusqlite::types::Value::Integer(since.as_second())),
    ] {
        if let Some(at) = statement.parameter_index(name).map_err(shown)? {
            statement.raw_bind_parameter(at, value).map_err(shown)?;
        }
    }
    let mut rows = statement.raw_query();
    let row = rows.next().map_err(shown)?.ok_or("it gives no row")?;
    let number: Option<i64> = row.get(0).map_err(shown)?;
    Ok(number.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
}

/// How many there were from `from` and before `to`.
///
/// # Errors
/// As [`since`].
pub fn between(connection: &Connection, sql: &str, from: Timestamp, to: Timestamp) -> Result<u64, String> {
    Ok(since(connection, sql, from)?.saturating_sub(since(connection, sql, to)?))
}

/// Opens the database to count; what takes long is broken off.
///
/// # Errors
/// Why it cannot be read, in words.
pub fn open(database: &Path) -> Result<Connection, String> {
    let mut connection = open_read(database).map_err(|e| e.to_string())?;
    let until = std::time::Instant::now() + PATIENCE;
    let over = move || std::time::Instant::now() > until;
    connection.progress_handler(10_000, Some(over)).map_err(|e| e.to_string())?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_time_counts_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch(
            "CREATE TABLE o(a TEXT, b TEXT, c INTEGER);
             INSERT INTO o VALUES ('2026-01-01 10:00:00', '2026-01-01T10:00:00Z', 1767261600),
                                  ('2026-01-01 11:00:00', '2026-01-01T11:00:00Z', 1767265200);",
        )
        .unwrap();
        let connection = open(&path).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for sql in [
            "SELECT count(*) FROM o WHERE a >= :since",
            "SELECT count(*) FROM o WHERE b >= :since_iso",
            "SELECT count(*) FROM o WHERE c >= :since_unix",
        ] {
            assert_eq!(since(&connection, sql, at("2026-01-01T10:30:00Z")), Ok(1), "{sql}");
            let both = between(&connection, sql, at("2026-01-01T10:00:00Z"), at("2026-01-01T11:00:00Z"));
            assert_eq!(both, Ok(1), "{sql}");
        }
        assert!(since(&connection, "SELECT count(*) FROM ordres", at("2026-01-01T10:30:00Z")).is_err());
        assert!(since(&connection, "DELETE FROM o RETURNING 1", at("2026-01-01T10:30:00Z")).is_err());
    }

    #[test]
    fn a_count_that_takes_too_long_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE o(a)").unwrap();
        let connection = open(&path).unwrap();
        let endless =
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
        let begun = std::time::Instant::now();
        assert!(since(&connection, endless, Timestamp::now()).unwrap_err().contains("interrupt"));
        assert!(begun.elapsed() < PATIENCE * 10);
    }
}
