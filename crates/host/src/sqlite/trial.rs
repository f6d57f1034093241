//! Trying migrations on a copy of the real database, with foreign keys on and off, to find the way that loses nothing.
//!
//! With foreign keys on, `DROP TABLE` in a rebuild deletes the children through ON DELETE CASCADE, and every check
//! that SQLite has is content afterwards. With them off, a file that relies on the cascade leaves orphans. No fixed
//! setting is right; running both ways on real rows and counting is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ForeignKeys;
use super::aftermath::{self, Seen};
use super::census::{Census, Changes, Class, Loss, Work};
use super::connection::{beside, open_own};
use super::control::{Control, Phase};
use super::diff::{self, Side, TableDiff};
use super::history::{self, Record};
use super::migrate::{Error, Mode, Wrap, run_script, wrap_of};
use super::migration::Migration;
use super::partial::remove_with_sides;
use super::schema;
use super::script::Named;

/// What the trial of one migration found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its version.
    pub version: u64,
    /// Its file.
    pub file: String,
    /// The mode that loses least.
    pub mode: Mode,
    /// How long the migration itself took.
    pub took: Duration,
    /// What it does.
    pub class: Class,
    /// What its time grows with.
    pub work: Work,
    /// What it loses even so; each needs its acknowledgement.
    pub losses: Vec<Loss>,
    /// The tables that it changes.
    pub touched: Vec<String>,
    /// What the other mode did, in words.
    pub other: Option<String>,
    /// What else was seen.
    #[serde(default)]
    pub seen: Vec<Seen>,
    /// The tables that got a column.
    #[serde(default)]
    pub widened: Vec<String>,
}

impl Outcome {
    /// What it loses beyond what was acknowledged.
    #[must_use]
    pub fn unacknowledged(&self, acknowledged: &[String]) -> Vec<&Loss> {
        self.losses.iter().filter(|loss| !acknowledged.contains(&loss.word)).collect()
    }
}

/// Tries migrations in their order on `copy`, a finished copy of the real database that is nobody else's. Afterwards
/// the copy is what the real database would be. Needs room for three more of it beside it.
///
/// # Errors
/// [`Error::NoMode`] with SQLite's message, file and line; [`Error::Database`]. The copy is then of no more use.
pub fn run(copy: &Path, pending: &[Migration], control: &mut Control<'_>) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = Vec::new();
    for (place, migration) in pending.iter().enumerate() {
        control.tell(Phase::Trying, place as u64, pending.len() as u64, "migrations");
        control.stop.check("trying migrations")?;
        let scratch = [beside(copy, ".keys-off"), beside(copy, ".keys-on")];
        let outcome = one(copy, &scratch, migration, control);
        for path in &scratch {
            remove_with_sides(path);
        }
        outcomes.push(outcome?);
    }
    control.tell(Phase::Trying, pending.len() as u64, pending.len() as u64, "migrations");
    Ok(outcomes)
}

/// One migration in one mode.
struct Attempt {
    mode: Mode,
    path: PathBuf,
    took: Duration,
    changes: Changes,
    seen: Vec<Seen>,
    widened: Vec<String>,
}

fn one(
    copy: &Path,
    scratch: &[PathBuf; 2],
    migration: &Migration,
    control: &mut Control<'_>,
) -> Result<Outcome, Error> {
    let wrap = wrap_of(&migration.sql);
    let mut good: Vec<Attempt> = Vec::new();
    let mut bad: Vec<String> = Vec::new();
    let modes = [ForeignKeys::Off, ForeignKeys::On].map(|foreign_keys| Mode { foreign_keys, wrap });
    for (mode, path) in modes.into_iter().zip(scratch) {
        match attempt(copy, path, migration, mode, control) {
            Ok((attempt, has_keys)) => {
                good.push(attempt);
                if !has_keys {
                    // Without a single foreign key both ways are the same.
                    break;
                }
            }
            Err(e @ (Error::Statement { .. } | Error::Loss { .. })) => {
                bad.push(format!("{}: {e}", mode.words()))
            }
            Err(other) => return Err(other),
        }
    }
    let tried: Vec<String> = good
        .iter()
        .map(|a| format!("{}: {}", a.mode.words(), in_words(&a.changes)))
        .chain(bad.clone())
        .collect();
    let Some(best) = choose(good) else {
        return Err(Error::NoMode { file: migration.file(), tried: bad });
    };
    let words = best.mode.words();
    let other = tried.into_iter().find(|line| !line.starts_with(&words));
    record(&best, migration, control)?;
    fs::rename(&best.path, copy).map_err(|e| super::Error::io(copy, "replace", e))?;
    Ok(Outcome {
        version: migration.version,
        file: migration.file(),
        mode: best.mode,
        took: best.took,
        class: best.changes.class,
        work: best.changes.work,
        losses: best.changes.losses,
        touched: best.changes.touched.into_iter().collect(),
        other,
        seen: best.seen,
        widened: best.widened,
    })
}

/// The fewest things lost, then the fewest rows; of two equals, foreign keys off when a table was rebuilt.
fn choose(good: Vec<Attempt>) -> Option<Attempt> {
    let rebuilt = good.iter().any(|attempt| attempt.changes.rebuilt);
    good.into_iter().min_by_key(|attempt| {
        let losses = &attempt.changes.losses;
        let off = attempt.mode.foreign_keys == ForeignKeys::Off;
        (losses.len(), losses.iter().map(|loss| loss.quantity).sum::<u64>(), off != rebuilt)
    })
}

fn in_words(changes: &Changes) -> String {
    if changes.losses.is_empty() {
        return "loses nothing".into();
    }
    let losses = changes.losses.iter().map(|loss| format!("{} ({})", loss.word, loss.quantity));
    format!("loses {}", losses.collect::<Vec<_>>().join(", "))
}

fn attempt(
    copy: &Path,
    path: &Path,
    migration: &Migration,
    mode: Mode,
    control: &mut Control<'_>,
) -> Result<(Attempt, bool), Error> {
    let stop = control.stop.clone();
    remove_with_sides(path);
    fs::copy(copy, path).map_err(|e| super::Error::io(path, "copy", e))?;
    let failed =
        |doing: &'static str| move |e: rusqlite::Error| Error::from(super::Error::of(path, doing, &e));
    let mut connection = open_own(path, mode.foreign_keys)?;
    stop.interrupts(&mut connection);
    connection.execute_batch("PRAGMA synchronous = OFF").map_err(failed("preparing"))?;
    let before = Census::take(&connection).map_err(failed("counting"))?;
    let tables = schema::tables(&connection).map_err(failed("counting"))?;
    let started = Instant::now();
    if mode.wrap == Wrap::SelfManaged {
        run_script(&connection, migration, mode.wrap, &stop)?;
    } else {
        let transaction =
            rusqlite::Transaction::new_unchecked(&connection, rusqlite::TransactionBehavior::Immediate)
                .map_err(failed("beginning"))?;
        run_script(&transaction, migration, mode.wrap, &stop)?;
        // Deferred foreign keys are judged here.
        transaction.commit().map_err(|e| Error::Statement {
            file: migration.file(),
            line: 1 + migration.sql.trim_end().matches('\n').count(),
            why: super::error::message(&e),
            statement: "COMMIT".into(),
        })?;
    }
    let took = started.elapsed();
    let after = Census::take(&connection).map_err(failed("counting again"))?;
    let has_keys = before.foreign_keys || after.foreign_keys;
    let now = schema::tables(&connection).map_err(failed("counting again"))?;
    let widened = schema::widened(&tables, &now);
    drop(connection);
    let named = Named::in_script(&migration.sql);
    let mut changes = before.changes(&after, &named);
    let found = diff::rows(Side::Finished(copy), Side::Finished(path), 0, &stop)?;
    for (table, diff) in &found.tables {
        if after.tables.contains_key(table) {
            judge_rows(table, diff, &named, &mut changes);
        }
    }
    let seen = aftermath::look(copy, path, &found, &stop)?;
    Ok((Attempt { mode, path: path.to_owned(), took, changes, seen, widened }, has_keys))
}

/// What counting cannot see: rows replaced by others, and values that changed without a word about it.
fn judge_rows(table: &str, diff: &TableDiff, named: &Named, changes: &mut Changes) {
    changes.mark(table, Class::Data);
    let said = named.updated.contains(&table.to_lowercase());
    if !said {
        for (column, quantity) in &diff.changed_columns {
            let detail = "values that changed although the file has no UPDATE of the table";
            changes.lose(format!("values:{table}.{column}"), *quantity, detail);
        }
        if diff.keyed {
            changes.lose(format!("rows:{table}"), diff.deleted, "rows that are gone");
        } else {
            // Without a key a changed row is one deleted and one inserted.
            let replaced = diff.deleted.min(diff.inserted);
            changes.lose(
                format!("values:{table}"),
                replaced,
                "rows replaced by others, in a table without a key",
            );
        }
    }
}

/// Leaves the copy as the real database would be: with its line in `schema_version`.
fn record(best: &Attempt, migration: &Migration, control: &mut Control<'_>) -> Result<(), Error> {
    control.stop.check("trying migrations")?;
    let connection = open_own(&best.path, ForeignKeys::Off)?;
    let mode = best.mode.words();
    let duration_ms = u64::try_from(best.took.as_millis()).unwrap_or(u64::MAX);
    history::record(&connection, &Record { migration, mode: &mode, duration_ms, run: None })
        .map_err(|e| super::Error::of(&best.path, "writing schema_version", &e))?;
    drop(connection);
    super::copy::settle(&best.path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::migrate::{Job, apply};
    use crate::sqlite::{Fingerprint, Stop, fingerprint::Depth};

    const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, total INT, note TEXT);
         CREATE TABLE lines (id INTEGER PRIMARY KEY, order_id INT REFERENCES orders (id) ON DELETE CASCADE, item TEXT);
         CREATE TABLE sso_nonce (nonce TEXT); CREATE TABLE empty_one (a);
         CREATE INDEX by_total ON orders (total);
         INSERT INTO orders VALUES (1, 10, 'a'), (2, 20, NULL), (5, 50, '007');
         INSERT INTO lines VALUES (1, 1, 'dal'), (2, 2, 'rice'), (3, 5, 'tea');
         INSERT INTO sso_nonce VALUES ('x'), ('y');";

    fn database(sql: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let own = Connection::open(&path).unwrap();
        own.execute_batch("PRAGMA foreign_keys = OFF;").unwrap();
        own.execute_batch(sql).unwrap();
        (dir, path)
    }

    fn migration(version: u64, sql: &str) -> Migration {
        Migration {
            version,
            description: "test".into(),
            path: PathBuf::from(format!("{version:04}_test.sql")),
            sql: sql.to_owned(),
            checksum: String::new(),
            down: None,
            direction: super::super::migration::Direction::Up,
        }
    }

    fn try_on(shop: &str, sql: &str) -> Result<Outcome, Error> {
        let (dir, path) = database(shop);
        let outcome = run(&path, &[migration(1, sql)], &mut Control::default()).map(|mut all| all.remove(0));
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["store.db"], "nothing is left beside the copy");
        outcome
    }

    fn words(outcome: &Outcome) -> Vec<&str> {
        outcome.losses.iter().map(|loss| loss.word.as_str()).collect()
    }

    const REBUILD: &str =
        "CREATE TABLE orders_new (id INTEGER PRIMARY KEY AUTOINCREMENT, total INT NOT NULL, note TEXT);
         INSERT INTO orders_new SELECT id, total, note FROM orders;
         DROP TABLE orders;
         ALTER TABLE orders_new RENAME TO orders;
         CREATE INDEX by_total ON orders (total);";

    /// The classic: with foreign keys on it loses every line of every order, and all checks are content.
    #[test]
    fn a_rebuild_of_a_parent_with_cascading_children_loses_nothing() {
        let outcome = try_on(SHOP, REBUILD).unwrap();
        assert_eq!(words(&outcome), Vec::<&str>::new());
        assert_eq!(outcome.mode.foreign_keys, ForeignKeys::Off);
        assert_eq!(outcome.class, Class::Rebuild);
        let other = outcome.other.unwrap();
        assert!(other.contains("rows:lines (3)"), "{other}");
    }

    #[test]
    fn a_rebuild_with_its_own_pragmas_and_transaction_is_made_one_transaction() {
        let sql =
            format!("PRAGMA foreign_keys = OFF;\nBEGIN;\n{REBUILD}\nCOMMIT;\nPRAGMA foreign_keys = ON;");
        let outcome = try_on(SHOP, &sql).unwrap();
        assert_eq!(words(&outcome), Vec::<&str>::new());
        assert_eq!(outcome.mode, Mode { foreign_keys: ForeignKeys::Off, wrap: Wrap::Rewrapped });
    }

    fn rules(outcome: &Outcome, budget: Duration) -> Vec<&'static str> {
        super::super::lint::tried(outcome, budget).into_iter().map(|remark| remark.rule).collect()
    }

    #[test]
    fn a_column_that_every_insert_must_give_is_told_and_one_with_a_default_is_not() {
        let rebuilt = |column: &str| {
            format!(
                "CREATE TABLE o (id INTEGER PRIMARY KEY, total INT, note TEXT, state {column}); DROP INDEX by_total;
                 INSERT INTO o SELECT id, total, note, 'placed' FROM orders; DROP TABLE orders;
                 ALTER TABLE o RENAME TO orders; CREATE INDEX by_total ON orders (total);"
            )
        };
        let outcome = try_on(SHOP, &rebuilt("TEXT NOT NULL")).unwrap();
        let column = "orders.state".to_owned();
        assert!(outcome.seen.contains(&Seen::Required { column }), "{:?}", outcome.seen);
        assert_eq!(outcome.widened, ["orders"]);
        for harmless in ["TEXT NOT NULL DEFAULT 'placed'", "TEXT"] {
            let outcome = try_on(SHOP, &rebuilt(harmless)).unwrap();
            assert!(!rules(&outcome, Duration::MAX).contains(&"required-column"), "{harmless}");
        }
    }

    #[test]
    fn what_takes_longer_than_the_hold_may_last_is_told() {
        let outcome = try_on(SHOP, "UPDATE orders SET note = 'x'").unwrap();
        assert!(rules(&outcome, Duration::ZERO).contains(&"long-transaction"));
        assert!(!rules(&outcome, Duration::from_secs(600)).contains(&"long-transaction"));
    }

    /// Fails with foreign keys off: the children that the cascade removes are in the way.
    #[test]
    fn a_file_that_relies_on_the_cascade_runs_with_foreign_keys_on() {
        let shop = "CREATE TABLE files (id INTEGER PRIMARY KEY, name TEXT);
             CREATE TABLE captions (file_id INT UNIQUE REFERENCES files (id) ON DELETE CASCADE, text TEXT);
             INSERT INTO files VALUES (1, 'a'), (2, 'b'); INSERT INTO captions VALUES (1, 'one'), (2, 'two');";
        let sql = "CREATE TEMP TABLE f AS SELECT * FROM files; CREATE TEMP TABLE c AS SELECT * FROM captions;
             DELETE FROM files; INSERT INTO files SELECT * FROM f; INSERT INTO captions SELECT * FROM c;
             DROP TABLE f; DROP TABLE c;";
        let outcome = try_on(shop, sql).unwrap();
        assert_eq!(outcome.mode.foreign_keys, ForeignKeys::On);
        assert_eq!(words(&outcome), Vec::<&str>::new());
        assert!(outcome.other.unwrap().contains("UNIQUE"), "the other way is named");
    }

    #[test]
    fn orphans_are_worse_than_a_cascade() {
        let outcome = try_on(SHOP, "DELETE FROM orders WHERE id = 5;").unwrap();
        // Both lose the order; without foreign keys its line would be left without a parent as well.
        assert_eq!(words(&outcome), ["rows:lines", "rows:orders"]);
        assert_eq!(outcome.mode.foreign_keys, ForeignKeys::On);
    }

    #[test]
    fn every_loss_has_its_word() {
        for (sql, expected, class) in [
            ("DROP TABLE sso_nonce", &["drop:sso_nonce"][..], Class::Destructive),
            ("DROP TABLE empty_one", &[], Class::Destructive),
            ("ALTER TABLE orders DROP COLUMN note", &["drop:orders.note"], Class::Destructive),
            ("DELETE FROM lines WHERE id = 1", &["rows:lines"], Class::Destructive),
            ("UPDATE orders SET note = NULL", &["values:orders.note"], Class::Data),
            ("UPDATE orders SET note = upper(note)", &[], Class::Data),
            (
                "DELETE FROM sso_nonce; INSERT INTO sso_nonce VALUES ('p'), ('q')",
                &["values:sso_nonce"],
                Class::Data,
            ),
            ("DELETE FROM sqlite_sequence", &["sequence:orders"], Class::NoOp),
            ("INSERT INTO lines VALUES (9, 77, 'orphan')", &["foreign-keys:lines"], Class::Data),
            ("SELECT 1", &[], Class::NoOp),
        ] {
            let shop = SHOP.replace("REFERENCES orders (id) ON DELETE CASCADE", "REFERENCES orders (id)");
            // Where foreign keys refuse it, the other way is taken and judged.
            let outcome = try_on(&shop, sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            assert_eq!(words(&outcome), expected, "{sql}");
            assert_eq!(outcome.class, class, "{sql}");
        }
    }

    /// '007' becomes 7 when the new column is a number; counts and checks see nothing.
    #[test]
    fn values_that_a_rebuild_changes_are_a_loss() {
        let sql = REBUILD.replace("note TEXT", "note NUMERIC");
        assert_eq!(words(&try_on(SHOP, &sql).unwrap()), ["values:orders.note"]);
        let swapped = REBUILD.replace("SELECT id, total, note", "SELECT id, id, note");
        assert_eq!(words(&try_on(SHOP, &swapped).unwrap()), ["values:orders.total"]);
    }

    #[test]
    fn an_index_that_a_rebuild_forgets_is_a_loss_and_one_that_is_dropped_by_name_is_not() {
        let sql = REBUILD.replace("CREATE INDEX by_total ON orders (total);", "");
        assert_eq!(words(&try_on(SHOP, &sql).unwrap()), ["drop:by_total"]);
        assert_eq!(words(&try_on(SHOP, "DROP INDEX by_total").unwrap()), Vec::<&str>::new());
    }

    /// The next order number would be one that a customer was shown already.
    #[test]
    fn a_sequence_that_falls_back_is_a_loss() {
        let shop = format!("{SHOP} DELETE FROM lines WHERE order_id = 5; DELETE FROM orders WHERE id = 5;");
        let outcome = try_on(&shop, REBUILD).unwrap();
        assert_eq!(words(&outcome), ["sequence:orders"]);
        assert!(outcome.losses[0].detail.contains("the next number was 6 and would be 3"));
    }

    #[test]
    fn classes_say_what_happened() {
        for (sql, class) in [
            ("ALTER TABLE orders ADD COLUMN channel TEXT", Class::Additive),
            ("CREATE TABLE coupons (code)", Class::Additive),
            ("CREATE INDEX by_note ON orders (note)", Class::Additive),
            ("CREATE UNIQUE INDEX by_note ON orders (note)", Class::Tightening),
            ("ALTER TABLE orders RENAME COLUMN note TO remark", Class::Rename),
            ("ALTER TABLE orders RENAME TO purchases", Class::Rename),
            ("INSERT INTO sso_nonce VALUES ('z')", Class::Data),
            ("CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM sso_nonce; END", Class::Tightening),
        ] {
            let outcome = try_on(SHOP, sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            assert_eq!((outcome.class, words(&outcome)), (class, vec![]), "{sql}");
        }
    }

    #[test]
    fn a_file_that_works_in_no_mode_is_named_with_its_line() {
        let sql = "CREATE TABLE a (b);\n\n-- the culprit\nALTER TABLE orders ADD COLUMN c NOT NULL;\n";
        let error = try_on(SHOP, sql).unwrap_err().to_string();
        assert!(error.contains("0001_test.sql, line 4") && error.contains("NOT NULL"), "{error}");
    }

    #[test]
    fn a_file_may_not_write_to_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other.db");
        for sql in
            [format!("ATTACH '{}' AS o", other.display()), format!("VACUUM INTO '{}'", other.display())]
        {
            assert!(try_on(SHOP, &sql).is_err());
        }
        assert!(!other.exists());
    }

    #[test]
    fn several_are_tried_one_after_another_and_the_copy_is_what_production_will_be() {
        let (_dir, path) = database(SHOP);
        let (_other, real) = database(SHOP);
        let all = [
            migration(1, "ALTER TABLE orders ADD COLUMN channel TEXT DEFAULT 'web'"),
            migration(
                2,
                &REBUILD
                    .replace("note TEXT", "note TEXT, channel TEXT")
                    .replace("total, note FROM", "total, note, channel FROM"),
            ),
            migration(3, "PRAGMA journal_mode = DELETE; VACUUM; CREATE TABLE tags (t);"),
        ];
        let outcomes = run(&path, &all, &mut Control::default()).unwrap();
        assert_eq!(
            outcomes.iter().map(|o| o.mode.wrap).collect::<Vec<_>>(),
            [Wrap::Whole, Wrap::Whole, Wrap::SelfManaged]
        );
        let jobs: Vec<Job> = all
            .iter()
            .zip(&outcomes)
            .map(|(migration, outcome)| Job { migration: migration.clone(), mode: outcome.mode })
            .collect();
        apply(&real, &jobs, &[], None, &mut Control::default(), &mut |_| {}).unwrap();
        let print = |path: &Path| {
            let mut print = Fingerprint::of(path, Depth::Content, &mut Control::default()).unwrap();
            // Moments and durations differ.
            for table in [history::TABLE, history::SIDE_TABLE] {
                print.tables.get_mut(table).unwrap().hash = None;
            }
            print
        };
        assert_eq!(print(&path).differences(&print(&real)), vec![]);
    }

    #[test]
    fn a_migration_that_never_ends_is_stopped() {
        let (_dir, path) = database(SHOP);
        let endless =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;";
        let stop = Stop::new().by(Instant::now() + Duration::from_millis(100));
        let error = run(&path, &[migration(1, endless)], &mut Control::quiet(stop)).unwrap_err();
        assert!(matches!(error, Error::Database(super::super::Error::Deadline { .. })), "{error}");
    }
}
