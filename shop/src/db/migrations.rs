//! The schema's history: plain SQL files `NNNN_description.sql`, applied in order and noted in `schema_version`.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::StoreError;

/// One file of the migrations folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Migration {
    /// The number in front of the file's name.
    pub version: i64,
    /// The rest of the name, its underscores as spaces.
    pub description: String,
    /// The file.
    pub path: PathBuf,
}

/// Why migrations could not be read or applied. Files applied before the failing one stay applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The folder or a file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file's name is not `NNNN_description.sql`.
    #[error("{} is not named NNNN_description.sql: rename it", .0.display())]
    Name(PathBuf),
    /// Two files bear the same number.
    #[error("{} and {} both have version {version}: renumber one", first.display(), second.display())]
    Twice {
        /// The number.
        version: i64,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// SQLite refused the file; its transaction was rolled back.
    #[error("migration {} failed and was rolled back", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The file ended the transaction that it runs in.
    #[error("migration {} contains COMMIT, ROLLBACK or END: remove it, each file runs in a transaction; \
             what it did up to there may be kept, restore a backup", .0.display())]
    EndsTransaction(PathBuf),
    /// Rows point to rows that are not there any more.
    #[error("migration {} leaves rows of `{table}` pointing nowhere; it was rolled back", path.display())]
    Dangling {
        /// The file.
        path: PathBuf,
        /// The table whose rows lost what they point to.
        table: String,
    },
    /// The bookkeeping failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for MigrateError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Store(source.into())
    }
}

/// The migrations in a folder, lowest version first. `.down.sql` files are left out.
///
/// # Errors
/// An unreadable folder, a name that does not fit, or one version twice.
pub fn in_folder(folder: &Path) -> Result<Vec<Migration>, MigrateError> {
    let read = |source| MigrateError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".sql").filter(|stem| !stem.ends_with(".down")) else { continue };
        let (number, description) = stem.split_once('_').ok_or_else(|| MigrateError::Name(path.clone()))?;
        let version = number.parse().map_err(|_| MigrateError::Name(path.clone()))?;
        found.push(Migration { version, description: description.replace('_', " "), path });
    }
    found.sort_by_key(|migration| migration.version);
    for pair in found.windows(2) {
        if let [first, second] = pair
            && first.version == second.version
        {
            return Err(MigrateError::Twice {
                version: first.version,
                first: first.path.clone(),
                second: second.path.clone(),
            });
        }
    }
    Ok(found)
}

/// Those of `migrations` that the database has not had yet.
///
/// # Errors
/// The database cannot be read.
pub fn pending(connection: &Connection, migrations: &[Migration]) -> Result<Vec<Migration>, StoreError> {
    if !has_schema_version(connection)? {
        return Ok(migrations.to_vec());
    }
    let mut statement = connection.prepare("SELECT version FROM schema_version WHERE status = 'applied'")?;
    let applied = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    Ok(migrations.iter().filter(|migration| !applied.contains(&migration.version)).cloned().collect())
}

/// The highest version applied; 0 for none.
pub(crate) fn current_version(connection: &Connection) -> super::Result<i64> {
    if !has_schema_version(connection)? {
        return Ok(0);
    }
    let sql = "SELECT coalesce(max(version), 0) FROM schema_version WHERE status = 'applied'";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

/// Applies what is pending, each file in a transaction of its own, and answers what was applied.
///
/// # Errors
/// The first file that fails stops it; that file's changes are rolled back, those before it stay.
pub fn apply(connection: &mut Connection, migrations: &[Migration]) -> Result<Vec<Migration>, MigrateError> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_version (
             id INTEGER PRIMARY KEY,
             version INTEGER UNIQUE,
             description TEXT,
             applied_at TEXT,
             status TEXT DEFAULT 'applied'
         )",
    )?;
    // A table is rebuilt by dropping it: with foreign keys on, DROP TABLE first deletes its rows, which fails
    // or cascades. They are off for the files, and checked before each COMMIT instead.
    connection.pragma_update(None, "foreign_keys", false)?;
    let mut done = Vec::new();
    let result = (|| {
        for migration in pending(connection, migrations)? {
            if apply_one(connection, &migration)? {
                done.push(migration);
            }
        }
        Ok(())
    })();
    connection.pragma_update(None, "foreign_keys", true)?;
    result.map(|()| done)
}

fn apply_one(connection: &mut Connection, migration: &Migration) -> Result<bool, MigrateError> {
    let path = || migration.path.clone();
    let sql = std::fs::read_to_string(&migration.path)
        .map_err(|source| MigrateError::Read { path: path(), source })?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Somebody else may have applied it while this one waited for the lock.
    if pending(&transaction, std::slice::from_ref(migration))?.is_empty() {
        return Ok(false);
    }
    transaction.execute_batch(&sql).map_err(|source| MigrateError::Refused { path: path(), source })?;
    if transaction.is_autocommit() {
        return Err(MigrateError::EndsTransaction(path()));
    }
    let dangling = transaction
        .query_row("SELECT \"table\" FROM pragma_foreign_key_check LIMIT 1", [], |row| row.get(0))
        .optional()?;
    if let Some(table) = dangling {
        return Err(MigrateError::Dangling { path: path(), table });
    }
    transaction.execute(
        "INSERT INTO schema_version (version, description, applied_at)
         VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
        (migration.version, &migration.description),
    )?;
    transaction.commit()?;
    Ok(true)
}

fn has_schema_version(connection: &Connection) -> super::Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_version'";
    Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, sql) in files {
            std::fs::write(folder.path().join(name), sql).unwrap();
        }
        folder
    }

    fn run(connection: &mut Connection, folder: &Path) -> Result<Vec<i64>, MigrateError> {
        let applied = apply(connection, &in_folder(folder)?)?;
        Ok(applied.into_iter().map(|migration| migration.version).collect())
    }

    #[test]
    fn each_migration_is_applied_once_and_noted() {
        let folder = folder(&[
            ("0002_add_y.sql", "ALTER TABLE t ADD COLUMN y INTEGER;"),
            ("0001_make_t.sql", "CREATE TABLE t (x INTEGER);"),
            ("0002_add_y.down.sql", "ALTER TABLE t DROP COLUMN y;"),
        ]);
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(run(&mut connection, folder.path()).unwrap(), [1, 2]);
        assert_eq!(run(&mut connection, folder.path()).unwrap(), [] as [i64; 0]);
        assert_eq!(current_version(&connection).unwrap(), 2);
        let row: (String, String) = connection
            .query_row("SELECT description, status FROM schema_version WHERE version = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(row, ("make t".to_owned(), "applied".to_owned()));
    }

    #[test]
    fn a_failing_migration_is_rolled_back_whole() {
        let folder = folder(&[
            ("0001_make_t.sql", "CREATE TABLE t (x INTEGER);"),
            ("0002_half.sql", "CREATE TABLE u (x INTEGER); INSERT INTO nowhere VALUES (1);"),
        ]);
        let mut connection = Connection::open_in_memory().unwrap();
        let error = run(&mut connection, folder.path()).unwrap_err();
        assert!(matches!(error, MigrateError::Refused { .. }), "{error:?}");
        assert_eq!(current_version(&connection).unwrap(), 1);
        assert!(connection.execute("INSERT INTO u VALUES (1)", []).is_err());
    }

    #[test]
    fn rows_left_pointing_nowhere_are_refused() {
        let folder = folder(&[
            (
                "0001_make.sql",
                "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);
              CREATE TABLE c (p INTEGER REFERENCES p (id)); INSERT INTO c VALUES (1);",
            ),
            ("0002_lose.sql", "DELETE FROM p;"),
        ]);
        let mut connection = Connection::open_in_memory().unwrap();
        let error = run(&mut connection, folder.path()).unwrap_err();
        assert!(matches!(error, MigrateError::Dangling { ref table, .. } if table == "c"), "{error:?}");
        let rows: i64 = connection.query_row("SELECT count(*) FROM p", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
    }

    #[test]
    fn a_migration_that_commits_for_itself_is_named() {
        let folder = folder(&[("0001_own.sql", "CREATE TABLE t (x INTEGER); COMMIT;")]);
        let mut connection = Connection::open_in_memory().unwrap();
        let error = run(&mut connection, folder.path()).unwrap_err();
        assert!(matches!(error, MigrateError::EndsTransaction(_)), "{error:?}");
    }

    #[test]
    fn wrong_names_and_double_numbers_are_refused() {
        let double = folder(&[("0001_a.sql", ""), ("001_b.sql", "")]);
        assert!(matches!(in_folder(double.path()), Err(MigrateError::Twice { version: 1, .. })));
        let unnumbered = folder(&[("first.sql", "")]);
        assert!(matches!(in_folder(unnumbered.path()), Err(MigrateError::Name(_))));
    }
}
