//! The database of a run whose owner dies, and others who write meanwhile.

use std::os::unix::fs::PermissionsExt;

use plimsoll_core::plan::CarryPlan;
use rusqlite::Connection;

use super::*;
use crate::clock::SystemClock;

/// A database with three users, two migrations to come, and the run that applies them.
struct Bed {
    folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        let bed = Bed { folder: tempfile::tempdir().unwrap() };
        for name in ["run", "backups", "release/migrations"] {
            fs::create_dir_all(bed.at(name)).unwrap();
        }
        let files = [
            (
                "0001_users.sql",
                "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT UNIQUE);",
            ),
            ("0002_nickname.sql", "ALTER TABLE users ADD COLUMN nickname TEXT;"),
            ("0003_lower.sql", "UPDATE users SET email = lower(email);"),
        ];
        for (name, sql) in files {
            fs::write(bed.at("release/migrations").join(name), sql).unwrap();
        }
        bed.execute(&format!(
            "PRAGMA journal_mode = WAL; {} INSERT INTO users (email) VALUES ('Asha@x'), ('ravi@x'), ('mina@x');
             CREATE TABLE schema_version (id INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL UNIQUE,
                 description TEXT NOT NULL, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, status TEXT DEFAULT 'applied');
             INSERT INTO schema_version (version, description) VALUES (1, 'users');",
            files[0].1
        ));
        bed
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn execute(&self, sql: &str) {
        Connection::open(self.at("store.db")).unwrap().execute_batch(sql).unwrap();
    }

    fn number(&self, sql: &str) -> i64 {
        Connection::open(self.at("store.db")).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn database(&self, legs: Vec<back::Leg>, run_folder: &str) -> RunDatabase {
        let app = self.at("release");
        RunDatabase::new(Settings {
            file: self.at("store.db"),
            backups: self.at("backups"),
            copies: Vec::new(),
            run_folder: self.at(run_folder),
            run: 2,
            tables: Vec::new(),
            migrations: Migrations::Folder("migrations".into()),
            first: false,
            app_folder: Arc::new(move |_| app.clone()),
            env: BTreeMap::new(),
            earlier_schema: None,
            legs,
            front: true,
            acknowledged: Vec::new(),
            by: "test".into(),
            only_rehearsed: false,
            trying: Err("there is no release to try".into()),
            clock: Arc::new(SystemClock),
            stop: Stop::new(),
            stop_asked: Arc::new(|| false),
            on_progress: Arc::new(|_| {}),
            on_line: Arc::new(|_| {}),
        })
    }

    fn release() -> Release {
        Release {
            id: ReleaseId::new(2, "bbbbbbbbbb"),
            commit: "bbbbbbbbbb".into(),
            branch: "main".into(),
            author: String::new(),
            subject: String::new(),
        }
    }

    /// A run up to its snapshot.
    fn prepared(&self) -> RunDatabase {
        let mut database = self.database(Vec::new(), "run");
        database.backup().unwrap();
        database.rehearse(&Bed::release(), Kind::Deploy).unwrap();
        database.snapshot(self.soon()).unwrap();
        database
    }

    fn migrated(&self) -> RunDatabase {
        let mut database = self.prepared();
        database.migrate(&Bed::release(), self.soon()).unwrap();
        database
    }

    fn soon(&self) -> Moment {
        SystemClock.now().plus_ms(60_000)
    }

    fn nickname(&self) -> bool {
        self.number("SELECT count(*) FROM pragma_table_info('users') WHERE name = 'nickname'") > 0
    }
}

#[test]
fn a_row_written_between_two_migrations_survives_the_death_of_the_owner() {
    let bed = Bed::new();
    let database = bed.prepared();
    let (first, mut control) = (database.jobs[..1].to_vec(), Control::quiet(Stop::new()));
    database.keep.note_jobs(&database.jobs).unwrap();
    migrate::apply(&bed.at("store.db"), &first, &[], Some("000002"), &mut control, &mut |_| {}).unwrap();
    drop(database);
    bed.execute("INSERT INTO users (email) VALUES ('stranger@x')");
    let restored = bed.database(Vec::new(), "run").restore(&[]).unwrap();
    let kept = restored.kept.unwrap_or_default();
    assert!(kept.contains("1 change that others made meanwhile carried over"), "{kept}");
    assert!(!bed.nickname());
    assert_eq!(bed.number("SELECT count(*) FROM users WHERE email = 'stranger@x'"), 1);
    assert_eq!(bed.number("SELECT max(version) FROM schema_version"), 1);
}

#[test]
fn what_others_write_after_the_migration_is_carried_and_what_has_no_place_needs_a_person() {
    let bed = Bed::new();
    let mut database = bed.migrated();
    bed.execute(
        "INSERT INTO users (email, nickname) VALUES ('stranger@x', 'S'); DELETE FROM users WHERE id = 2;",
    );
    let frozen = database.restore(&[]).unwrap_err();
    assert_eq!(frozen.kind, FailureKind::Frozen);
    assert!(frozen.next.contains("--acknowledge set-aside:users"), "{frozen:?}");
    assert!(bed.nickname(), "nothing is touched before a person says so");
    let restored = database.restore(&["set-aside:users".to_owned()]).unwrap();
    let kept = restored.kept.unwrap_or_default();
    assert!(kept.contains("2 changes") && kept.contains("set-aside.db.sql"), "{kept}");
    assert_eq!(bed.number("SELECT count(*) FROM users WHERE email IN ('stranger@x', 'Asha@x', 'mina@x')"), 3);
    assert_eq!(bed.number("SELECT count(*) FROM users"), 3);
    assert!(!bed.nickname());
    let aside = bed.at("run/set-aside.db");
    assert_eq!(fs::metadata(aside).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_restore_that_was_not_noted_is_not_made_again_over_newer_rows() {
    let bed = Bed::new();
    let mut database = bed.migrated();
    bed.execute("INSERT INTO users (email) VALUES ('first@x')");
    database.restore(&[]).unwrap();
    fs::remove_file(bed.at("run/restored")).unwrap();
    bed.execute("INSERT INTO users (email) VALUES ('second@x')");
    let restored = bed.database(Vec::new(), "run").restore(&[]).unwrap();
    assert!(!restored.changed);
    assert_eq!(bed.number("SELECT count(*) FROM users WHERE email IN ('first@x', 'second@x')"), 2);
}

#[test]
fn a_rollback_puts_the_earlier_database_back_with_what_users_wrote_and_can_be_undone() {
    let bed = Bed::new();
    let mut deployed = bed.migrated();
    deployed.tidy().unwrap();
    bed.execute("INSERT INTO users (email) VALUES ('buyer@x'); UPDATE users SET email = 'r@x' WHERE id = 2;");
    let legs = vec![back::Leg::of(2, &bed.at("run")).expect("PRE and POST stay after a run that went live")];
    fs::create_dir(bed.at("back")).unwrap();
    let mut database = bed.database(legs, "back");
    database.backup().unwrap();
    let (rehearsal, _) = database.rehearse(&Bed::release(), Kind::Rollback).unwrap();
    assert_eq!(rehearsal.carry, Some(CarryPlan { applied: 2, equal: 0, set_aside: 0 }));
    assert!(bed.nickname(), "a rehearsal changes nothing");
    database.snapshot(bed.soon()).unwrap();
    let checks = database.migrate(&Bed::release(), bed.soon()).unwrap();
    assert!(checks.iter().any(|check| check.id == "back.rows"), "{checks:?}");
    let emails = "SELECT count(*) FROM users WHERE email IN ('Asha@x', 'r@x', 'mina@x', 'buyer@x')";
    assert_eq!((bed.nickname(), bed.number(emails)), (false, 4));
    // The earlier release does not start: forward again, with what a stranger wrote meanwhile.
    bed.execute("INSERT INTO users (email) VALUES ('stranger@x')");
    database.restore(&[]).unwrap();
    assert!(bed.nickname());
    let emails =
        "SELECT count(*) FROM users WHERE email IN ('asha@x', 'r@x', 'mina@x', 'buyer@x', 'stranger@x')";
    assert_eq!(bed.number(emails), 5);
}

/// In WAL mode what goes through the whole database is done before the hold; whatever users write until then is not lost
/// by that, and with a rollback journal all is done in the hold, as before.
#[test]
fn an_order_between_the_copy_ahead_of_the_hold_and_the_hold_goes_back_too() {
    for (mode, ahead) in [("WAL", true), ("DELETE", false)] {
        let bed = Bed::new();
        bed.migrated().tidy().unwrap();
        bed.execute(&format!("PRAGMA journal_mode = {mode}; INSERT INTO users (email) VALUES ('buyer@x');"));
        let legs = vec![back::Leg::of(2, &bed.at("run")).unwrap()];
        fs::create_dir(bed.at("back")).unwrap();
        let mut database = bed.database(legs, "back");
        database.backup().unwrap();
        bed.execute(
            "INSERT INTO users (email) VALUES ('during@x'); UPDATE users SET email = 'm@x' WHERE id = 3;",
        );
        database.rehearse(&Bed::release(), Kind::Rollback).unwrap();
        bed.execute(
            "INSERT INTO users (email) VALUES ('late@x'); DELETE FROM users WHERE email = 'during@x';",
        );
        let checks = database.snapshot(bed.soon()).unwrap();
        assert_eq!(checks[0].evidence.contains_key("pages_since_the_backup"), ahead, "{mode}: {checks:?}");
        database.migrate(&Bed::release(), bed.soon()).unwrap();
        let emails = "SELECT count(*) FROM users WHERE email IN ('Asha@x', 'm@x', 'buyer@x', 'late@x')";
        assert_eq!((bed.nickname(), bed.number(emails)), (false, 4), "{mode}");
        assert_eq!(
            bed.number("SELECT seq FROM sqlite_sequence WHERE name = 'users'"),
            6,
            "{mode}: no number twice"
        );
        database.tidy().unwrap();
        let mut left: Vec<_> =
            fs::read_dir(bed.at("back")).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["migrated", "post.db", "pre.db"], "{mode}");
    }
}
