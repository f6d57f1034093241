//! Which migrations a database has had: `schema_version`, kept in the form in which users have it, and a side table
//! for what else is known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::connection::{open_read, quoted};
use super::migrate::Error;
use super::migration::{Direction, Migration, Migrations};
use super::schema;

/// A line of `schema_version`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Applied {
    /// The version, as a number; `None` when what stands there is not one.
    pub version: Option<u64>,
    /// The version, as it stands there.
    pub written: String,
    /// Its description, when there is one.
    pub description: String,
    /// When, as it stands there.
    pub applied_at: String,
}

/// How a database stands to the migrations of a release.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// What `schema_version` says was applied.
    pub applied: Vec<Applied>,
    /// Versions that the release has and the database has not, in order.
    pub pending: Vec<u64>,
    /// What was applied and has no file in the release: the database is newer, or another one.
    pub missing_files: Vec<Applied>,
    /// Applied versions whose file says something else now.
    pub edited: Vec<u64>,
    /// Pending versions below the highest applied one.
    pub out_of_order: Vec<u64>,
    /// Versions that stand there as failed or taken back; they count as pending when the release has them.
    pub failed: Vec<String>,
}

/// The table that users have.
pub(crate) const TABLE: &str = "schema_version";
/// The table for what else is known. Tools that insert into `schema_version` without naming columns go on working.
pub(crate) const SIDE_TABLE: &str = "plimsoll_migrations";

/// How a database stands to the migrations of a release. A database without any table is simply empty.
///
/// # Errors
/// [`Error::NotBaselined`] when it has tables, the release has migrations, and nothing says which of them it has had;
/// [`Error::Database`] when it cannot be read.
pub fn status(database: &Path, migrations: &Migrations) -> Result<Status, Error> {
    let connection = open_read(database)?;
    read(&connection, database, migrations)
}

pub(crate) fn read(
    connection: &Connection,
    database: &Path,
    migrations: &Migrations,
) -> Result<Status, Error> {
    let failed = |e: rusqlite::Error| super::Error::of(database, "reading schema_version", &e);
    let tables = schema::tables(connection).map_err(failed)?;
    let Some(table) = tables.get(TABLE) else {
        let others: Vec<String> = tables.into_keys().filter(|name| name != SIDE_TABLE).collect();
        if !others.is_empty() && !migrations.all.is_empty() {
            return Err(Error::NotBaselined { path: database.to_owned(), tables: others });
        }
        let pending = migrations.all.iter().map(|m| m.version).collect();
        return Ok(Status { pending, ..Status::default() });
    };
    if !table.has("version") {
        return Err(Error::ForeignHistory { path: database.to_owned() });
    }
    let (applied, lines_failed) = lines(connection, table).map_err(failed)?;
    let checksums = checksums(connection, tables.contains_key(SIDE_TABLE)).map_err(failed)?;
    let have: BTreeSet<u64> = applied.iter().filter_map(|line| line.version).collect();
    let files: BTreeMap<u64, &Migration> = migrations.all.iter().map(|m| (m.version, m)).collect();
    let pending: Vec<u64> = files.keys().copied().filter(|version| !have.contains(version)).collect();
    let highest = have.iter().filter(|version| files.contains_key(version)).max().copied();
    let has_file = |line: &&Applied| line.version.is_some_and(|version| files.contains_key(&version));
    Ok(Status {
        missing_files: applied.iter().filter(|line| !has_file(line)).cloned().collect(),
        edited: files
            .values()
            .filter(|m| have.contains(&m.version))
            .filter(|m| checksums.get(&m.version).is_some_and(|was| *was != m.checksum))
            .map(|m| m.version)
            .collect(),
        out_of_order: pending
            .iter()
            .copied()
            .filter(|v| highest.is_some_and(|highest| *v < highest))
            .collect(),
        pending,
        applied,
        failed: lines_failed,
    })
}

/// The lines of `schema_version`: those that count, and the versions of those that failed.
fn lines(connection: &Connection, table: &schema::Table) -> rusqlite::Result<(Vec<Applied>, Vec<String>)> {
    let column = |name: &str| if table.has(name) { quoted(name) } else { "NULL".to_owned() };
    let sql = format!(
        "SELECT CAST(version AS TEXT), CAST({} AS TEXT), CAST({} AS TEXT), CAST({} AS TEXT) FROM {TABLE}",
        column("description"),
        column("applied_at"),
        column("status"),
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let (mut applied, mut failed) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let text = |place: usize| row.get::<_, Option<String>>(place).map(Option::unwrap_or_default);
        let written = text(0)?;
        if is_failure(&text(3)?) {
            failed.push(written);
            continue;
        }
        let version = number(&written);
        applied.push(Applied { version, written, description: text(1)?, applied_at: text(2)? });
    }
    // In numeric order whatever the column's type: as text, 10 comes before 9.
    applied.sort_by(|a, b| (a.version, &a.written).cmp(&(b.version, &b.written)));
    Ok((applied, failed))
}

/// `7`, `0007`, `v7`, `0007_add_note`: the number that a version begins with.
fn number(written: &str) -> Option<u64> {
    let rest = written.trim().trim_start_matches(['v', 'V']);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}

fn is_failure(status: &str) -> bool {
    let status = status.to_ascii_lowercase();
    ["fail", "error", "pending", "rolled", "revert", "undone", "running"]
        .iter()
        .any(|sign| status.starts_with(sign))
}

fn checksums(connection: &Connection, kept: bool) -> rusqlite::Result<BTreeMap<u64, String>> {
    if !kept {
        return Ok(BTreeMap::new());
    }
    let mut statement = connection.prepare(&format!("SELECT version, checksum FROM {SIDE_TABLE}"))?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)))?;
    rows.collect()
}

/// What is kept about a migration beside `schema_version`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) migration: &'a Migration,
    pub(crate) mode: &'a str,
    pub(crate) duration_ms: u64,
    pub(crate) run: Option<&'a str>,
}

/// Writes down that a migration was applied or taken back. Runs inside the migration's own transaction.
pub(crate) fn record(connection: &Connection, record: &Record<'_>) -> rusqlite::Result<()> {
    if record.migration.direction == Direction::Down {
        return strike_out(connection, record.migration);
    }
    make_tables(connection)?;
    insert_line(connection, record.migration)?;
    connection.execute(
        &format!("INSERT OR REPLACE INTO {SIDE_TABLE} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
        rusqlite::params![
            version(record.migration),
            record.migration.description,
            record.migration.checksum,
            record.mode,
            i64::try_from(record.duration_ms).unwrap_or(i64::MAX),
            env!("CARGO_PKG_VERSION"),
            record.run,
            Timestamp::now().to_string(),
        ],
    )?;
    Ok(())
}

fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {TABLE} (
             id INTEGER PRIMARY KEY AUTOINCREMENT,
             version INTEGER NOT NULL UNIQUE,
             description TEXT NOT NULL,
             applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
             status TEXT NOT NULL DEFAULT 'success'
         );
         CREATE TABLE IF NOT EXISTS {SIDE_TABLE} (
             version INTEGER PRIMARY KEY,
             description TEXT NOT NULL,
             checksum TEXT NOT NULL,
             mode TEXT NOT NULL,
             duration_ms INTEGER NOT NULL,
             tool TEXT NOT NULL,
             run TEXT,
             applied_at TEXT NOT NULL
         );"
    ))
}

/// Removes the line of a migration that was taken back.
fn strike_out(connection: &Connection, migration: &Migration) -> rusqlite::Result<()> {
    let tables = schema::tables(connection)?;
    let Some(table) = tables.get(TABLE) else { return Ok(()) };
    let (applied, _) = lines(connection, table)?;
    for line in applied.iter().filter(|line| line.version == Some(migration.version)) {
        let sql = format!("DELETE FROM {TABLE} WHERE CAST(version AS TEXT) = ?1");
        connection.execute(&sql, [&line.written])?;
    }
    if tables.contains_key(SIDE_TABLE) {
        connection.execute(&format!("DELETE FROM {SIDE_TABLE} WHERE version = ?1"), [version(migration)])?;
    }
    Ok(())
}

/// Versions fit: [`super::migration::load`] takes no larger ones.
fn version(migration: &Migration) -> i64 {
    i64::try_from(migration.version).unwrap_or(i64::MAX)
}

/// Adds the line of a migration in the form that the lines before it have.
fn insert_line(connection: &Connection, migration: &Migration) -> rusqlite::Result<()> {
    let tables = schema::tables(connection)?;
    let Some(table) = tables.get(TABLE) else { return Ok(()) };
    let (applied, failed) = lines(connection, table)?;
    if applied.iter().any(|line| line.version == Some(migration.version)) {
        // The file itself has written it down.
        return Ok(());
    }
    if let Some(written) = failed.iter().find(|written| number(written) == Some(migration.version)) {
        connection.execute(&format!("DELETE FROM {TABLE} WHERE CAST(version AS TEXT) = ?1"), [written])?;
    }
    let declared = |name: &str| {
        let column = table.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name));
        column.map(|c| c.declared.to_ascii_uppercase()).unwrap_or_default()
    };
    let as_text = ["CHAR", "TEXT", "CLOB"].iter().any(|kind| declared("version").contains(kind))
        || applied.iter().any(|line| line.written.starts_with('0') && line.written.len() > 1);
    let width = applied.iter().map(|line| line.written.len()).max();
    let padded = applied.is_empty() || applied.iter().any(|line| line.written.starts_with('0'));
    let version = if as_text && padded {
        Value::Text(format!("{:0width$}", migration.version, width = width.unwrap_or(4)))
    } else if as_text {
        Value::Text(migration.version.to_string())
    } else {
        Value::Integer(version(migration))
    };
    let now = Timestamp::now();
    let numeric_time = declared("applied_at").contains("INT")
        || applied
            .last()
            .is_some_and(|line| !line.applied_at.is_empty() && line.applied_at.parse::<f64>().is_ok());
    let at = if numeric_time {
        Value::Integer(now.as_second())
    } else {
        // As CURRENT_TIMESTAMP writes it.
        Value::Text(now.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string())
    };
    let word = status_word(connection, table)?;
    let values = [
        ("version", version),
        ("description", Value::Text(migration.description.clone())),
        ("applied_at", at),
        ("status", Value::Text(word)),
    ];
    let present: Vec<_> = values.into_iter().filter(|(name, _)| table.has(name)).collect();
    let names = present.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(", ");
    let marks = vec!["?"; present.len()].join(", ");
    let values = present.into_iter().map(|(_, value)| value);
    connection.execute(
        &format!("INSERT INTO {TABLE} ({names}) VALUES ({marks})"),
        rusqlite::params_from_iter(values),
    )?;
    Ok(())
}

/// The word that the newest good line uses, `success` otherwise.
fn status_word(connection: &Connection, table: &schema::Table) -> rusqlite::Result<String> {
    let mut word = "success".to_owned();
    if table.has("status") {
        let mut statement =
            connection.prepare(&format!("SELECT status FROM {TABLE} WHERE typeof(status) = 'text'"))?;
        for found in statement.query_map([], |row| row.get::<_, String>(0))? {
            let found = found?;
            if !is_failure(&found) {
                word = found;
            }
        }
    }
    Ok(word)
}

/// Writes down that an existing database has had every migration up to `version`, without running any; with 0, that it
/// has had none of them.
///
/// # Errors
/// When the database cannot be written; nothing is written down then.
pub fn baseline(database: &Path, migrations: &Migrations, version: u64) -> Result<Vec<u64>, Error> {
    let failed = |e: rusqlite::Error| Error::from(super::Error::of(database, "writing the baseline", &e));
    let mut connection = super::connection::open_write(database, super::ForeignKeys::Off)?;
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    make_tables(&transaction).map_err(failed)?;
    let mut written = Vec::new();
    for migration in migrations.all.iter().filter(|m| m.version <= version) {
        let line = Record { migration, mode: "baseline", duration_ms: 0, run: None };
        record(&transaction, &line).map_err(failed)?;
        written.push(migration.version);
    }
    transaction.commit().map_err(failed)?;
    Ok(written)
}

/// Accepts that the file of an applied migration has been edited: from now on its present text counts.
///
/// # Errors
/// When the database cannot be written; nothing has changed then.
pub fn accept(database: &Path, migration: &Migration) -> Result<(), Error> {
    let failed = |e: rusqlite::Error| Error::from(super::Error::of(database, "accepting an edited file", &e));
    let connection = super::connection::open_write(database, super::ForeignKeys::Off)?;
    let sql = format!("UPDATE {SIDE_TABLE} SET checksum = ?2 WHERE version = ?1");
    connection.execute(&sql, rusqlite::params![version(migration), migration.checksum]).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn migrations(versions: &[u64]) -> Migrations {
        let one = |version: &u64| Migration {
            version: *version,
            description: format!("step {version}"),
            path: PathBuf::from(format!("{version:04}_step.sql")),
            sql: "SELECT 1".into(),
            checksum: format!("sum {version}"),
            down: None,
            direction: Direction::Up,
        };
        Migrations { all: versions.iter().map(one).collect(), gaps: Vec::new() }
    }

    fn database(sql: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        (dir, path)
    }

    #[test]
    fn an_empty_database_has_everything_pending() {
        let (_dir, path) = database("");
        assert_eq!(status(&path, &migrations(&[1, 2])).unwrap().pending, [1, 2]);
    }

    #[test]
    fn tables_without_a_history_are_not_guessed_at() {
        let (_dir, path) = database("CREATE TABLE orders (id)");
        let error = status(&path, &migrations(&[1])).unwrap_err();
        assert!(matches!(&error, Error::NotBaselined { tables, .. } if tables == &["orders"]), "{error}");
        assert!(
            status(&path, &Migrations::default()).unwrap().pending.is_empty(),
            "nothing to know without files"
        );
        baseline(&path, &migrations(&[1, 2, 3]), 0).unwrap();
        assert_eq!(status(&path, &migrations(&[1, 2, 3])).unwrap().pending, [1, 2, 3], "it has had none");
        baseline(&path, &migrations(&[1, 2, 3]), 2).unwrap();
        assert_eq!(status(&path, &migrations(&[1, 2, 3])).unwrap().pending, [3]);
    }

    #[test]
    fn versions_are_read_in_every_form_in_which_users_have_them() {
        for (declared, lines) in [
            ("version INTEGER UNIQUE", "(1), (2), (10)"),
            ("version TEXT UNIQUE", "('1'), ('2'), ('10')"),
            ("version TEXT PRIMARY KEY", "('0001'), ('0002'), ('0010')"),
            ("version VARCHAR(20)", "('v1'), ('v2'), ('v10')"),
            ("version TEXT", "('0001_first'), ('0002_second'), ('0010_tenth')"),
        ] {
            let (_dir, path) = database(&format!(
                "CREATE TABLE schema_version ({declared}); INSERT INTO schema_version VALUES {lines};"
            ));
            let found = status(&path, &migrations(&[1, 2, 3, 10, 11])).unwrap();
            assert_eq!(found.pending, [3, 11], "{declared}");
            assert_eq!(found.out_of_order, [3], "{declared}");
            let versions: Vec<_> = found.applied.iter().filter_map(|line| line.version).collect();
            assert_eq!(versions, [1, 2, 10], "{declared}");
        }
    }

    #[test]
    fn what_is_newer_foreign_failed_or_edited_is_named() {
        let (_dir, path) = database(
            "CREATE TABLE schema_version (version INT UNIQUE, description, status);
             INSERT INTO schema_version VALUES (1, 'a', 'applied'), (2, 'b', 'failed'), (9, 'newer', 'applied');
             CREATE TABLE plimsoll_migrations (version INTEGER PRIMARY KEY, checksum);
             INSERT INTO plimsoll_migrations VALUES (1, 'another sum');",
        );
        let found = status(&path, &migrations(&[1, 2])).unwrap();
        assert_eq!(found.pending, [2]);
        assert_eq!(found.failed, ["2"]);
        assert_eq!(found.edited, [1]);
        accept(&path, &migrations(&[1]).all[0]).unwrap();
        assert_eq!(status(&path, &migrations(&[1, 2])).unwrap().edited, Vec::<u64>::new());
        assert_eq!(found.missing_files.iter().map(|l| l.description.as_str()).collect::<Vec<_>>(), ["newer"]);
    }

    #[test]
    fn a_table_of_that_name_that_is_something_else_is_refused() {
        let (_dir, path) = database("CREATE TABLE schema_version (what)");
        assert!(matches!(status(&path, &migrations(&[1])), Err(Error::ForeignHistory { .. })));
    }

    #[test]
    fn a_new_line_has_the_form_of_the_lines_before_it() {
        let cases = [
            ("", "integer|3|success|text"),
            (
                "CREATE TABLE schema_version (id INTEGER PRIMARY KEY, version TEXT UNIQUE, description, applied_at TIMESTAMP, status);
                 INSERT INTO schema_version VALUES (1, '002', 'b', '2025-01-01 10:00:00', 'completed');",
                "text|003|completed|text",
            ),
            (
                "CREATE TABLE schema_version (applied_at INTEGER, status, version INTEGER UNIQUE, description);
                 INSERT INTO schema_version VALUES (1700000000, 'ok', 2, 'b');",
                "integer|3|ok|integer",
            ),
            ("CREATE TABLE schema_version (version VARCHAR PRIMARY KEY)", "text|0003|none|none"),
        ];
        for (sql, expected) in cases {
            let (_dir, path) = database(sql);
            let connection = Connection::open(&path).unwrap();
            let all = migrations(&[3]);
            record(&connection, &Record { migration: &all.all[0], mode: "m", duration_ms: 1, run: None })
                .unwrap();
            let table = &schema::tables(&connection).unwrap()[TABLE];
            let column =
                |name: &str, sql: &str| if table.has(name) { sql.to_owned() } else { "'none'".to_owned() };
            let found: String = connection
                .query_row(
                    &format!(
                        "SELECT typeof(version) || '|' || version || '|' || {} || '|' || {} FROM schema_version
                         WHERE CAST(version AS INTEGER) = 3",
                        column("status", "status"),
                        column("applied_at", "typeof(applied_at)")
                    ),
                    [],
                    |row| row.get(0),
                )
                .unwrap();
            assert_eq!(found, expected, "{sql}");
            assert!(status(&path, &all).unwrap().pending.is_empty(), "{sql}");
        }
    }
}
