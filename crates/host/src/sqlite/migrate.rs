//! Applying migrations so that a failure, a loss or a crash leaves the database as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde::{Deserialize, Serialize};

use super::census::{Census, Class, Loss};
use super::connection::{ForeignKeys, open_write};
use super::control::{Control, Phase};
use super::copy::copy;
use super::error::message;
use super::history::{self, Record};
use super::migration::{Direction, Migration, Migrations};
use super::partial::remove_with_sides;
use super::restore::{self, Guard};
use super::script::{Named, statements};
use super::{Limits, Stop, Watcher};

/// What can go wrong with migrations. The database is as it was before the migration that failed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder of migrations cannot be used.
    #[error("{}: {why}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Two files have one number.
    #[error("version {version} stands on two files: {} and {}", first.display(), second.display())]
    Duplicate {
        /// The number.
        version: u64,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The database has tables and no record of migrations.
    #[error("{} has tables ({}) and no schema_version, so it is unknown which migrations it has had", path.display(), tables.join(", "))]
    NotBaselined {
        /// The database.
        path: PathBuf,
        /// Its tables.
        tables: Vec<String>,
    },
    /// There is a `schema_version` that is not a list of versions.
    #[error("schema_version in {} has no column `version`", path.display())]
    ForeignHistory {
        /// The database.
        path: PathBuf,
    },
    /// A statement failed.
    #[error("{file}, line {line}: {why}")]
    Statement {
        /// The migration's file.
        file: String,
        /// The line on which the statement begins.
        line: usize,
        /// SQLite's message.
        why: String,
        /// The statement's first line.
        statement: String,
    },
    /// The migration works in no mode.
    #[error("{file} fails in every mode: {}", tried.join("; "))]
    NoMode {
        /// The migration's file.
        file: String,
        /// Each mode and what happened, with file and line.
        tried: Vec<String>,
    },
    /// Something would be gone that nobody acknowledged. Rolled back.
    #[error("{file} would lose {}", losses.iter().map(|l| format!("{} ({}: {})", l.word, l.quantity, l.detail)).collect::<Vec<_>>().join(", "))]
    Loss {
        /// The migration's file.
        file: String,
        /// What, beyond what was acknowledged.
        losses: Vec<Loss>,
    },
    /// Somebody else applied it, or took it back, between the trial and the lock.
    #[error("schema_version says that {file} has been dealt with by somebody else in the meantime")]
    Raced {
        /// The migration's file.
        file: String,
    },
    /// A migration that manages its own transactions failed half-way and could not be taken back.
    #[error("{file} failed half-way ({why}) and could not be taken back: {undo}; the database before it is kept in {}", kept.display())]
    HalfApplied {
        /// The migration's file.
        file: String,
        /// Why it failed.
        why: String,
        /// Why taking it back failed.
        undo: String,
        /// The database as it was before.
        kept: PathBuf,
    },
    /// The database itself.
    #[error(transparent)]
    Database(#[from] super::Error),
}

impl Error {
    /// What to do next, in one sentence.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Error::File { .. } => "Name migrations NNNN_description.sql, in UTF-8, readable.",
            Error::Duplicate { .. } => "Give one of the two the next free number.",
            Error::NotBaselined { .. } => {
                "Say which it has had, 0 for none of them: `plimsoll migrate baseline N --dir MIGRATIONS`."
            }
            Error::ForeignHistory { .. } => {
                "The table belongs to something else: let the app migrate itself."
            }
            Error::Statement { .. } | Error::NoMode { .. } => "Correct the file; the database is as it was.",
            Error::Loss { .. } => "Correct the file, or acknowledge each by its word: `--acknowledge WORD`.",
            Error::Raced { .. } => "Look at `plimsoll migrate status` and run it again.",
            Error::HalfApplied { .. } => "Restore the kept file: `plimsoll backup restore FILE`.",
            Error::Database(error) => error.hint(),
        }
    }
}

/// How a migration is put into a transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrap {
    /// As it stands, inside one transaction.
    Whole,
    /// Its own BEGIN, COMMIT and `PRAGMA foreign_keys` are passed over: all of it is one transaction.
    Rewrapped,
    /// It needs to run outside of one (VACUUM, `PRAGMA journal_mode`, ROLLBACK); a copy is kept meanwhile.
    SelfManaged,
}

/// The way in which a migration is applied.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Mode {
    /// Whether foreign keys are enforced meanwhile.
    pub foreign_keys: ForeignKeys,
    /// How it is put into a transaction.
    pub wrap: Wrap,
}

impl Mode {
    /// In words, as kept beside `schema_version`.
    #[must_use]
    pub fn words(self) -> String {
        let keys = if self.foreign_keys == ForeignKeys::On { "on" } else { "off" };
        let wrap = match self.wrap {
            Wrap::Whole => "one transaction",
            Wrap::Rewrapped => "one transaction around its own",
            Wrap::SelfManaged => "its own transactions",
        };
        format!("foreign keys {keys}, {wrap}")
    }
}

/// A migration and the mode that its trial found.
#[derive(Clone, Debug)]
pub struct Job {
    /// The migration.
    pub migration: Migration,
    /// The mode.
    pub mode: Mode,
}

/// A migration that was applied.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Its version.
    pub version: u64,
    /// Its file.
    pub file: String,
    /// How long it took, checks included.
    pub took: Duration,
    /// What it did.
    pub class: Class,
    /// What was lost, all of it acknowledged.
    pub losses: Vec<Loss>,
}

/// Applies migrations, each in a transaction of its own together with its line in `schema_version`. Before each COMMIT
/// the tables are counted again: what is gone beyond `acknowledged` rolls back. On the disk when it returns.
///
/// # Errors
/// The migration named in the error is rolled back; those before it are applied, and `on_applied` has told them.
pub fn apply(
    database: &Path,
    jobs: &[Job],
    acknowledged: &[String],
    run: Option<&str>,
    control: &mut Control<'_>,
    on_applied: &mut dyn FnMut(&Applied),
) -> Result<Vec<Applied>, Error> {
    apply_all(database, jobs, acknowledged, run, None, control, on_applied)
}

/// As [`apply`], and refuses when anybody else has written since `watcher` was last accepted; that is looked at once
/// more under the write lock of each migration, so nothing slips in between. The migrations' own commits are accepted:
/// afterwards the watcher says whether anybody else has written since it was handed in.
///
/// # Errors
/// As [`apply`]; [`super::Error::Changed`].
pub fn apply_watched(
    database: &Path,
    jobs: &[Job],
    acknowledged: &[String],
    run: Option<&str>,
    watcher: &mut Watcher,
    control: &mut Control<'_>,
    on_applied: &mut dyn FnMut(&Applied),
) -> Result<Vec<Applied>, Error> {
    apply_all(database, jobs, acknowledged, run, Some(watcher), control, on_applied)
}

fn apply_all(
    database: &Path,
    jobs: &[Job],
    acknowledged: &[String],
    run: Option<&str>,
    mut watcher: Option<&mut Watcher>,
    control: &mut Control<'_>,
    on_applied: &mut dyn FnMut(&Applied),
) -> Result<Vec<Applied>, Error> {
    let mut done = Vec::new();
    for (place, job) in jobs.iter().enumerate() {
        control.tell(Phase::Migrating, place as u64, jobs.len() as u64, "migrations");
        control.stop.check("migrating")?;
        let watcher = watcher.as_deref_mut();
        let applied = match job.mode.wrap {
            Wrap::SelfManaged => apply_self_managed(database, job, acknowledged, run, watcher, control)?,
            _ => apply_wrapped(database, job, acknowledged, run, watcher, &control.stop)?,
        };
        on_applied(&applied);
        done.push(applied);
    }
    control.tell(Phase::Migrating, jobs.len() as u64, jobs.len() as u64, "migrations");
    Ok(done)
}

/// An error when somebody has written since the watcher was accepted.
fn nobody_wrote(watcher: Option<&Watcher>) -> Result<(), Error> {
    match watcher {
        Some(watcher) if watcher.changed()? => {
            let why = "a commit since the snapshot before the migration".to_owned();
            Err(super::Error::Changed { path: watcher.path().to_owned(), why }.into())
        }
        _ => Ok(()),
    }
}

/// Lets the watcher accept our own commit and nothing else. On one connection `data_version` stays the same through its
/// own commits; while the lock is held again nobody can add one. When somebody has, or it cannot be known, the watcher
/// is left as it is and goes on saying that there was a write.
fn accept_own(connection: &Connection, version: i64, watcher: Option<&mut Watcher>) {
    let Some(watcher) = watcher else { return };
    let behavior = rusqlite::TransactionBehavior::Immediate;
    let Ok(locked) = rusqlite::Transaction::new_unchecked(connection, behavior) else { return };
    if data_version(&locked).is_ok_and(|now| now == version) {
        let _ = watcher.accept();
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0))
}

fn open(database: &Path, mode: Mode, stop: &Stop) -> Result<Connection, Error> {
    let mut connection = open_write(database, mode.foreign_keys)?;
    // The last to close folds its log in. SQLite does so only when nobody else has it open.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .map_err(|e| super::Error::of(database, "opening for migration", &e))?;
    stop.interrupts(&mut connection);
    Ok(connection)
}

fn apply_wrapped(
    database: &Path,
    job: &Job,
    acknowledged: &[String],
    run: Option<&str>,
    watcher: Option<&mut Watcher>,
    stop: &Stop,
) -> Result<Applied, Error> {
    let failed = |doing: &'static str| move |e: rusqlite::Error| database_error(database, doing, &e, stop);
    let connection = open(database, job.mode, stop)?;
    let started = Instant::now();
    // Dropping it on the way out rolls back.
    let transaction =
        rusqlite::Transaction::new_unchecked(&connection, rusqlite::TransactionBehavior::Immediate)
            .map_err(failed("taking the write lock"))?;
    nobody_wrote(watcher.as_deref())?;
    let version = data_version(&transaction).map_err(failed("looking for other writers"))?;
    still_pending(&transaction, database, &job.migration)?;
    let before = Census::take(&transaction).map_err(failed("counting"))?;
    run_script(&transaction, &job.migration, job.mode.wrap, stop)?;
    let after = Census::take(&transaction).map_err(failed("counting again"))?;
    let applied = judge(job, &before, &after, acknowledged, started)?;
    write_down(&transaction, job, &applied, run).map_err(failed("writing schema_version"))?;
    stop.check("committing").map_err(Error::from)?;
    transaction.commit().map_err(|e| Error::Statement {
        file: job.migration.file(),
        line: 1 + job.migration.sql.trim_end().matches('\n').count(),
        why: message(&e),
        statement: "COMMIT".into(),
    })?;
    accept_own(&connection, version, watcher);
    Ok(applied)
}

/// A file that needs to run outside of a transaction: taken back from a copy when anything goes wrong.
fn apply_self_managed(
    database: &Path,
    job: &Job,
    acknowledged: &[String],
    run: Option<&str>,
    watcher: Option<&mut Watcher>,
    control: &mut Control<'_>,
) -> Result<Applied, Error> {
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    let folder = database.with_file_name(format!("{name}.before-{}", job.migration.version));
    fs::create_dir_all(&folder).map_err(|e| super::Error::io(&folder, "create", e))?;
    let kept = folder.join(&*name);
    remove_with_sides(&kept);
    copy(database, &kept, &Limits::default(), control)?;
    nobody_wrote(watcher.as_deref())?;
    let outcome = run_self_managed(database, job, acknowledged, run, watcher, &control.stop);
    if let Err(failure) = outcome {
        let mut options = restore::Options::new(&folder);
        options.app_stopped = true;
        // Taking back is not subject to the deadline that may have caused it.
        let back = restore::into(&kept, database, Guard::Any, &options, &mut Control::default());
        if let Err(undo) = back {
            let file = job.migration.file();
            return Err(Error::HalfApplied { file, why: failure.to_string(), undo: undo.to_string(), kept });
        }
        let _ = fs::remove_dir_all(&folder);
        return Err(failure);
    }
    let _ = fs::remove_dir_all(&folder);
    outcome
}

fn run_self_managed(
    database: &Path,
    job: &Job,
    acknowledged: &[String],
    run: Option<&str>,
    watcher: Option<&mut Watcher>,
    stop: &Stop,
) -> Result<Applied, Error> {
    let failed = |doing: &'static str| move |e: rusqlite::Error| database_error(database, doing, &e, stop);
    let connection = open(database, job.mode, stop)?;
    let started = Instant::now();
    still_pending(&connection, database, &job.migration)?;
    let before = Census::take(&connection).map_err(failed("counting"))?;
    run_script(&connection, &job.migration, job.mode.wrap, stop)?;
    let after = Census::take(&connection).map_err(failed("counting again"))?;
    let applied = judge(job, &before, &after, acknowledged, started)?;
    let transaction =
        rusqlite::Transaction::new_unchecked(&connection, rusqlite::TransactionBehavior::Immediate)
            .map_err(failed("writing schema_version"))?;
    write_down(&transaction, job, &applied, run).map_err(failed("writing schema_version"))?;
    // Without one transaction around the file nobody can say who wrote before this lock.
    let version = data_version(&transaction).map_err(failed("looking for other writers"))?;
    transaction.commit().map_err(failed("writing schema_version"))?;
    accept_own(&connection, version, watcher);
    Ok(applied)
}

fn database_error(database: &Path, doing: &str, e: &rusqlite::Error, stop: &Stop) -> Error {
    match super::Error::of(database, doing, e) {
        super::Error::Stopped { doing } => {
            stop.check(&doing).err().unwrap_or(super::Error::Stopped { doing })
        }
        other => other,
    }
    .into()
}

/// Looks again now that nobody else can write.
fn still_pending(connection: &Connection, database: &Path, migration: &Migration) -> Result<(), Error> {
    let only = Migrations { all: vec![migration.clone()], gaps: Vec::new() };
    let up = migration.direction == Direction::Up;
    match history::read(connection, database, &only) {
        Ok(status) if status.pending.is_empty() == up => Err(Error::Raced { file: migration.file() }),
        // Whether an unrecorded database may be migrated was decided with `status`; a first migration may make it.
        Ok(_) => Ok(()),
        Err(Error::NotBaselined { .. }) if up => Ok(()),
        Err(Error::NotBaselined { .. }) => Err(Error::Raced { file: migration.file() }),
        Err(other) => Err(other),
    }
}

fn judge(
    job: &Job,
    before: &Census,
    after: &Census,
    acknowledged: &[String],
    started: Instant,
) -> Result<Applied, Error> {
    let changes = before.changes(after, &Named::in_script(&job.migration.sql));
    let file = job.migration.file();
    let unknown: Vec<Loss> =
        changes.losses.iter().filter(|loss| !acknowledged.contains(&loss.word)).cloned().collect();
    if !unknown.is_empty() {
        return Err(Error::Loss { file, losses: unknown });
    }
    Ok(Applied {
        version: job.migration.version,
        file,
        took: started.elapsed(),
        class: changes.class,
        losses: changes.losses,
    })
}

fn write_down(
    connection: &Connection,
    job: &Job,
    applied: &Applied,
    run: Option<&str>,
) -> rusqlite::Result<()> {
    let mode = job.mode.words();
    let duration_ms = u64::try_from(applied.took.as_millis()).unwrap_or(u64::MAX);
    history::record(connection, &Record { migration: &job.migration, mode: &mode, duration_ms, run })
}

/// The way in which a script can be put into a transaction.
pub(crate) fn wrap_of(sql: &str) -> Wrap {
    let mut wrap = Wrap::Whole;
    for statement in statements(sql) {
        let outside = statement.begins(&["VACUUM"])
            || (statement.begins(&["ROLLBACK"]) && statement.is_transaction())
            || statement.pragma().is_some_and(|name| {
                ["journal_mode", "page_size", "auto_vacuum", "encoding", "synchronous", "locking_mode"]
                    .contains(&name.as_str())
            });
        if outside {
            return Wrap::SelfManaged;
        }
        if passed_over(&statement) {
            wrap = Wrap::Rewrapped;
        }
    }
    wrap
}

/// Statements that have no say inside our transaction: the trial decides about foreign keys, and inside a transaction
/// SQLite would ignore the pragma silently.
fn passed_over(statement: &super::script::Statement<'_>) -> bool {
    statement.is_transaction() || statement.pragma().is_some_and(|name| name == "foreign_keys")
}

/// Runs a script statement by statement, so that a failure has a line.
pub(crate) fn run_script(
    connection: &Connection,
    migration: &Migration,
    wrap: Wrap,
    stop: &Stop,
) -> Result<(), Error> {
    for statement in statements(&migration.sql) {
        if wrap == Wrap::Rewrapped && passed_over(&statement) {
            continue;
        }
        let failed = |why: String| Error::Statement {
            file: migration.file(),
            line: statement.line,
            why,
            statement: statement.text.lines().next().unwrap_or_default().to_owned(),
        };
        // Other files are no part of this database: a trial would change the real ones.
        let reaches_out = statement.begins(&["ATTACH"]) || statement.begins(&["VACUUM", "INTO"]);
        if reaches_out || statement.begins(&["VACUUM", "MAIN", "INTO"]) {
            return Err(failed("a migration may not write to other files".into()));
        }
        let run = || -> rusqlite::Result<()> {
            let mut prepared = connection.prepare(statement.text)?;
            let mut rows = prepared.raw_query();
            while rows.next()?.is_some() {}
            Ok(())
        };
        if let Err(e) = run() {
            stop.check("migrating").map_err(Error::from)?;
            return Err(match super::Error::of(&migration.path, "migrating", &e) {
                super::Error::Full { doing, .. } => {
                    let path = PathBuf::from(connection.path().unwrap_or_default());
                    super::Error::Full { path, doing }.into()
                }
                _ => failed(message(&e)),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::fingerprint::Depth;
    use crate::sqlite::{Fingerprint, connection::open_read};

    const SHOP: &str = "PRAGMA journal_mode = WAL; CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT);
         CREATE TABLE lines (id INTEGER PRIMARY KEY, order_id INT REFERENCES orders (id) ON DELETE CASCADE);
         INSERT INTO orders VALUES (1, 'a'), (2, 'b'); INSERT INTO lines VALUES (1, 1), (2, 2);";

    fn database() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Connection::open(&path).unwrap().execute_batch(SHOP).unwrap();
        (dir, path)
    }

    fn job(version: u64, sql: &str, foreign_keys: ForeignKeys) -> Job {
        let migration = Migration {
            version,
            description: "test".into(),
            path: PathBuf::from(format!("{version:04}_test.sql")),
            sql: sql.to_owned(),
            checksum: "sum".into(),
            down: None,
            direction: Direction::Up,
        };
        Job { mode: Mode { foreign_keys, wrap: wrap_of(sql) }, migration }
    }

    fn apply_to(path: &Path, jobs: &[Job], acknowledged: &[&str]) -> Result<Vec<Applied>, Error> {
        let acknowledged: Vec<String> = acknowledged.iter().map(ToString::to_string).collect();
        apply(path, jobs, &acknowledged, Some("000001"), &mut Control::default(), &mut |_| {})
    }

    fn print(path: &Path) -> Fingerprint {
        Fingerprint::of(path, Depth::Content, &mut Control::default()).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_applied_migration_is_written_down_and_on_the_disk() {
        let (dir, path) = database();
        let done = apply_to(&path, &[job(7, "CREATE TABLE tags (t)", ForeignKeys::On)], &[]).unwrap();
        assert_eq!((done[0].version, done[0].class), (7, Class::Additive));
        let reader = open_read(&path).unwrap();
        let line: String = reader
            .query_row(
                "SELECT version || '|' || description || '|' || status FROM schema_version",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(line, "7|test|success");
        let side: String = reader
            .query_row("SELECT checksum || '|' || mode || '|' || run FROM plimsoll_migrations", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(side, "sum|foreign keys on, one transaction|000001");
        drop(reader);
        assert_eq!(names(dir.path()), ["store.db"], "the log is folded in when nobody else has it open");
    }

    #[test]
    fn a_failing_statement_leaves_the_database_as_it_was_and_names_its_line() {
        for wrap in ["", "BEGIN;", "PRAGMA synchronous = FULL;"] {
            let (dir, path) = database();
            let before = print(&path);
            let sql = format!(
                "{wrap}\nUPDATE orders SET note = 'x';\nCREATE TABLE t (a);\nINSERT INTO nowhere VALUES (1);"
            );
            let error = apply_to(&path, &[job(1, &sql, ForeignKeys::On)], &[]).unwrap_err();
            assert!(
                matches!(&error, Error::Statement { line: 4, why, .. } if why.contains("nowhere")),
                "{wrap}: {error}"
            );
            assert_eq!(before.differences(&print(&path)), vec![], "{wrap}");
            assert_eq!(names(dir.path()), ["store.db"], "{wrap}");
        }
    }

    #[test]
    fn what_was_applied_before_a_failure_stays_and_is_told() {
        let (_dir, path) = database();
        let jobs = [job(1, "CREATE TABLE a (b)", ForeignKeys::On), job(2, "NONSENSE", ForeignKeys::On)];
        let mut told = Vec::new();
        let outcome =
            apply(&path, &jobs, &[], None, &mut Control::default(), &mut |done| told.push(done.version));
        assert!(outcome.is_err());
        assert_eq!(told, [1]);
        let applied: i64 = open_read(&path)
            .unwrap()
            .query_row("SELECT max(version) FROM schema_version", [], |row| row.get(0))
            .unwrap();
        assert_eq!(applied, 1);
    }

    /// Row counts are what catches it: foreign keys and integrity are fine afterwards.
    #[test]
    fn losses_that_nobody_acknowledged_roll_back() {
        let rebuild =
            "CREATE TABLE n (id INTEGER PRIMARY KEY, note TEXT); INSERT INTO n SELECT * FROM orders;
             DROP TABLE orders; ALTER TABLE n RENAME TO orders;";
        let (_dir, path) = database();
        let before = print(&path);
        let error = apply_to(&path, &[job(1, rebuild, ForeignKeys::On)], &["rows:orders"]).unwrap_err();
        let Error::Loss { losses, .. } = &error else { panic!("{error}") };
        assert_eq!(
            losses.iter().map(|l| (l.word.as_str(), l.quantity)).collect::<Vec<_>>(),
            [("rows:lines", 2)]
        );
        assert_eq!(before.differences(&print(&path)), vec![]);
        let done = apply_to(&path, &[job(1, rebuild, ForeignKeys::On)], &["rows:lines"]).unwrap();
        assert_eq!(done[0].losses.len(), 1);
        let (_dir, path) = database();
        assert!(apply_to(&path, &[job(1, rebuild, ForeignKeys::Off)], &[]).unwrap()[0].losses.is_empty());
    }

    #[test]
    fn a_self_managed_file_that_loses_or_fails_is_taken_back() {
        for (sql, word) in [
            ("VACUUM; DELETE FROM lines;", "rows:lines"),
            ("VACUUM; DELETE FROM lines; NONSENSE;", "NONSENSE"),
        ] {
            let (dir, path) = database();
            let before = print(&path);
            let error = apply_to(&path, &[job(1, sql, ForeignKeys::On)], &[]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert_eq!(before.differences(&print(&path)), vec![]);
            assert_eq!(names(dir.path()), ["store.db"]);
        }
    }

    #[test]
    fn a_deadline_rolls_back() {
        let (_dir, path) = database();
        let before = print(&path);
        let endless = "UPDATE orders SET note = 'x';
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;";
        let stop = Stop::new().by(Instant::now() + Duration::from_millis(100));
        let jobs = [job(1, endless, ForeignKeys::On)];
        let error = apply(&path, &jobs, &[], None, &mut Control::quiet(stop), &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Database(super::super::Error::Deadline { .. })), "{error}");
        assert_eq!(before.differences(&print(&path)), vec![]);
    }

    #[test]
    fn one_that_somebody_else_applied_meanwhile_is_not_applied_again() {
        let (_dir, path) = database();
        let jobs = [job(1, "UPDATE orders SET note = note || '!'", ForeignKeys::On)];
        apply_to(&path, &jobs, &[]).unwrap();
        assert!(matches!(apply_to(&path, &jobs, &[]), Err(Error::Raced { .. })));
        let note: String = open_read(&path)
            .unwrap()
            .query_row("SELECT note FROM orders WHERE id = 1", [], |row| row.get(0))
            .unwrap();
        assert_eq!(note, "a!");
    }

    #[test]
    fn a_write_of_somebody_else_stops_it_and_its_own_commits_do_not() {
        for mode in ["WAL", "DELETE"] {
            let (_dir, path) = database();
            let app = Connection::open(&path).unwrap();
            app.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
            let mut watcher = Watcher::open(&path).unwrap();
            let jobs: Vec<Job> =
                (1..4).map(|n| job(n, &format!("CREATE TABLE t{n} (a)"), ForeignKeys::Off)).collect();
            let run = |jobs: &[Job], watcher: &mut Watcher, write: bool| {
                apply_watched(&path, jobs, &[], None, watcher, &mut Control::default(), &mut |_| {
                    if write {
                        app.execute("INSERT INTO orders VALUES (77, 'in between')", []).unwrap();
                    }
                })
            };
            run(&jobs[..2], &mut watcher, false).unwrap();
            assert!(!watcher.changed().unwrap(), "{mode}: only its own commits");
            // Written after the last migration: the watcher still knows.
            run(&jobs[2..], &mut watcher, true).unwrap();
            assert!(watcher.changed().unwrap(), "{mode}");
            let late = [job(9, "CREATE TABLE t9 (a)", ForeignKeys::Off)];
            let error = run(&late, &mut watcher, false).unwrap_err();
            assert!(matches!(error, Error::Database(super::super::Error::Changed { .. })), "{mode}: {error}");
            let made = open_read(&path).unwrap().prepare("SELECT 1 FROM t9").is_ok();
            assert!(!made, "{mode}");
        }
    }

    #[test]
    fn taking_back_removes_the_line_and_counts_what_is_lost_like_any_other() {
        let (_dir, path) = database();
        let mut up = job(7, "CREATE TABLE tags (t); INSERT INTO tags VALUES ('new');", ForeignKeys::On);
        up.migration.down = Some(super::super::migration::Down {
            path: PathBuf::from("0007_test.down.sql"),
            sql: "DROP TABLE tags".into(),
        });
        let down = up.migration.reversed().unwrap();
        let down = Job { mode: up.mode, migration: down };
        assert!(
            matches!(apply_to(&path, std::slice::from_ref(&down), &[]), Err(Error::Raced { .. })),
            "not applied yet"
        );
        let before = print(&path);
        apply_to(&path, &[up], &[]).unwrap();
        let error = apply_to(&path, std::slice::from_ref(&down), &[]).unwrap_err();
        assert!(matches!(&error, Error::Loss { losses, .. } if losses[0].word == "drop:tags"), "{error}");
        apply_to(&path, &[down], &["drop:tags"]).unwrap();
        let left: i64 = open_read(&path)
            .unwrap()
            .query_row("SELECT count(*) FROM schema_version", [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, 0);
        let after = print(&path);
        assert_eq!(
            (before.tables["orders"].clone(), after.tables.contains_key("tags")),
            (after.tables["orders"].clone(), false)
        );
    }

    #[test]
    fn a_file_that_writes_its_own_line_is_left_to_it() {
        let (_dir, path) = database();
        let sql = "CREATE TABLE schema_version (id INTEGER PRIMARY KEY, version INT UNIQUE, description, applied_at, status);
             INSERT INTO schema_version (version, description, status) VALUES (1, 'by itself', 'done');";
        apply_to(&path, &[job(1, sql, ForeignKeys::On)], &[]).unwrap();
        let line: String = open_read(&path)
            .unwrap()
            .query_row("SELECT group_concat(description) FROM schema_version", [], |row| row.get(0))
            .unwrap();
        assert_eq!(line, "by itself");
    }

    #[test]
    fn the_way_to_wrap_is_seen_in_the_statements() {
        for (sql, wrap) in [
            ("CREATE TABLE a (b); -- BEGIN; VACUUM;", Wrap::Whole),
            ("BEGIN TRANSACTION; SELECT 1; COMMIT;", Wrap::Rewrapped),
            ("PRAGMA foreign_keys=off; SELECT 1;", Wrap::Rewrapped),
            ("PRAGMA main.foreign_keys = 0", Wrap::Rewrapped),
            ("INSERT INTO a VALUES ('VACUUM'); VACUUM;", Wrap::SelfManaged),
            ("PRAGMA journal_mode = WAL", Wrap::SelfManaged),
            ("BEGIN; SELECT 1; ROLLBACK;", Wrap::SelfManaged),
            ("SAVEPOINT a; ROLLBACK TO a; RELEASE a;", Wrap::Whole),
            ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END;", Wrap::Whole),
        ] {
            assert_eq!(wrap_of(sql), wrap, "{sql}");
        }
    }
}
