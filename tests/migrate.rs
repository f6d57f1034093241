//! `migrate` from outside: tried on a copy, applied whole or not at all, and nothing lost without a word.

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_testkit::{Output, Sandbox, shop};

/// A database at version 1 with a folder of migrations beside it, and no configuration.
struct Alone {
    sandbox: Sandbox,
    db: PathBuf,
}

impl Alone {
    fn new(files: &[(&str, &str)]) -> Alone {
        let sandbox = Sandbox::new();
        let folder = sandbox.root().join("alone");
        fs::create_dir_all(folder.join("migrations")).unwrap();
        let db = folder.join("shop.db");
        shop::seed(&db);
        let alone = Alone { sandbox, db };
        alone.write(&[shop::FIRST]);
        alone.write(files);
        alone
    }

    fn write(&self, files: &[(&str, &str)]) {
        for (name, sql) in files {
            fs::write(self.folder().join(name), sql).unwrap();
        }
    }

    fn folder(&self) -> &Path {
        self.db.parent().unwrap()
    }

    fn migrate(&self, words: &[&str]) -> Output {
        let folder = self.folder().join("migrations");
        let place = ["--db", self.db.to_str().unwrap(), "--dir", folder.to_str().unwrap()];
        self.sandbox.plimsoll(&[&["migrate"], words, &place].concat())
    }

    fn number(&self, sql: &str) -> i64 {
        shop::number(&self.db, sql)
    }

    fn dump(&self) -> String {
        shop::dump(&self.db, &[])
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

const DROP: (&str, &str) = ("migrations/0002_drop.sql", "DROP TABLE regions;\n");
const BACK: (&str, &str) = ("migrations/0002_nickname.down.sql", "ALTER TABLE users DROP COLUMN nickname;\n");

#[test]
fn a_rebuild_that_empties_children_under_other_runners_loses_no_row() {
    let alone = Alone::new(&[shop::REBUILD]);
    alone.migrate(&["status"]).exits(0).says("pending").says("1 pending");
    let output = alone.migrate(&["up"]);
    output.exits(0).says("the other way: ").says("0002_order_state.sql");
    assert_eq!(alone.number("SELECT count(*) FROM order_items"), 200);
    assert_eq!(alone.number("SELECT count(*) FROM orders WHERE state = 'placed'"), 200);
    assert_eq!(alone.number("SELECT max(version) FROM schema_version"), 2);
    alone.migrate(&["up"]).exits(0).says("nothing is pending");
    assert_eq!(alone.files(), ["backups", "migrations", "shop.db"], "no lock, log or scratch is left");
    let backups = fs::read_dir(alone.folder().join("backups")).unwrap().flatten();
    let scratch = backups.filter(|file| file.file_name().to_string_lossy().contains("trial")).count();
    assert_eq!(scratch, 0);
}

#[test]
fn what_would_be_lost_is_refused_with_the_words_to_type() {
    let alone = Alone::new(&[DROP]);
    let before = alone.dump();
    alone.migrate(&["up"]).exits(3).says("--acknowledge drop:regions").says("3 rows");
    assert_eq!(alone.dump(), before);
    alone.migrate(&["up", "--acknowledge", "drop:orders"]).exits(3);
    assert_eq!(alone.dump(), before);
    alone.migrate(&["up", "--acknowledge", "drop:regions"]).exits(0);
    assert_eq!(alone.number("SELECT count(*) FROM sqlite_schema WHERE name = 'regions'"), 0);
}

#[test]
fn a_file_that_fails_is_named_with_its_line_and_leaves_nothing_behind() {
    let alone = Alone::new(&[shop::ADD_COLUMN, shop::FAILS_HALF_WAY]);
    let before = alone.dump();
    let output = alone.migrate(&["up"]);
    output.exits(1).says("0003_half_way.sql, line 2").says("the database is as it was");
    assert_eq!(alone.dump(), before, "the one before it was not applied either: the trial comes first");
    alone.migrate(&["up", "--to", "2"]).exits(0);
    assert_eq!(alone.number("SELECT max(version) FROM schema_version"), 2);
    alone.migrate(&["up", "--to", "99"]).exits(2);
}

#[test]
fn going_down_needs_a_file_for_it_and_is_tried_first() {
    let alone = Alone::new(&[shop::ADD_COLUMN]);
    let before = shop::dump(&alone.db, &["schema_version", "plimsoll_migrations", "sqlite_sequence"]);
    alone.migrate(&["up"]).exits(0);
    alone.migrate(&["down"]).exits(1).says("it has no .down.sql");
    alone.write(&[BACK]);
    shop::open(&alone.db).execute("UPDATE users SET nickname = 'Ash' WHERE id = 1", []).unwrap();
    alone.migrate(&["down"]).exits(3).says("--acknowledge drop:users.nickname");
    alone.migrate(&["down", "--to", "1", "--acknowledge", "drop:users.nickname"]).exits(0);
    let after = shop::dump(&alone.db, &["schema_version", "plimsoll_migrations", "sqlite_sequence"]);
    assert_eq!(after.replace(['\n', ' '], ""), before.replace(['\n', ' '], ""));
    alone.migrate(&["status"]).exits(0).says("pending");
}

#[test]
fn an_existing_database_is_baselined_when_it_is_what_the_files_make() {
    let alone = Alone::new(&[shop::ADD_COLUMN]);
    shop::open(&alone.db).execute("DROP TABLE schema_version", []).unwrap();
    alone.migrate(&["up"]).exits(3).says("migrate baseline N");
    let before = alone.dump();
    alone.migrate(&["baseline", "2"]).exits(3).says("users.nickname is missing").says("baseline:2");
    assert_eq!(alone.dump(), before);
    alone.migrate(&["baseline", "1"]).exits(0);
    alone.migrate(&["up"]).exits(0);
    assert_eq!(alone.number("SELECT count(*) FROM schema_version"), 2);
    alone.migrate(&["baseline", "9"]).exits(2);
}

#[test]
fn a_database_that_has_had_none_of_the_files_is_baselined_with_0() {
    let alone = Alone::new(&[shop::ADD_COLUMN]);
    shop::open(&alone.db).execute("DROP TABLE schema_version", []).unwrap();
    alone.migrate(&["baseline", "0"]).exits(0).says("none was applied");
    assert_eq!(alone.number("SELECT count(*) FROM schema_version"), 0);
    alone.migrate(&["status"]).exits(0).says("pending");
}

#[test]
fn a_baseline_beside_serve_needs_nobody_to_be_stopped() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    shop::open(&sandbox.database()).execute("DELETE FROM schema_version", []).unwrap();
    sandbox.plimsoll(&["migrate", "baseline", "1"]).exits(0).says("noted as applied");
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM schema_version"), 1);
    drop(serve);
}

#[test]
fn an_edited_file_is_refused_until_it_is_accepted_and_a_comment_is_no_edit() {
    let alone = Alone::new(&[shop::ADD_COLUMN]);
    alone.migrate(&["up"]).exits(0);
    let (name, sql) = shop::ADD_COLUMN;
    alone.write(&[(name, &format!("-- why: users asked for it\r\n{sql}"))]);
    alone.migrate(&["up"]).exits(0);
    alone.migrate(&["accept", "2"]).exits(2);
    // Another text with the same outcome.
    let cosmetic = "ALTER TABLE \"users\" ADD COLUMN nickname TEXT;";
    alone.write(&[(name, cosmetic), ("migrations/0003_city.sql", "ALTER TABLE users ADD COLUMN city TEXT;")]);
    alone.migrate(&["up"]).exits(3).says("edited since");
    alone.migrate(&["status"]).exits(0).says("applied, edited since");
    alone.migrate(&["accept", "2"]).exits(0).says("the resulting schema is the same");
    alone.migrate(&["up"]).exits(0);
    alone.write(&[(name, "ALTER TABLE users ADD COLUMN nickname INTEGER;")]);
    alone.migrate(&["accept", "2"]).exits(3).says("users.nickname is TEXT instead of INTEGER");
    alone.migrate(&["accept", "2", "--acknowledge", "edited:2"]).exits(0);
    alone.migrate(&["up"]).exits(0).says("nothing is pending");
}

#[test]
fn lint_says_why_and_what_to_write_instead_and_touches_nothing() {
    let alone = Alone::new(&[
        ("migrations/0002_a.sql", "PRAGMA defer_foreign_keys = ON;\nDELETE FROM regions WHERE id = 1;\n"),
        (
            "migrations/0004_b.sql",
            "CREATE TABLE copies AS SELECT * FROM users;\nINSERT INTO copies SELECT * FROM users;\n",
        ),
    ]);
    let before = fs::read(&alone.db).unwrap();
    let output = alone.migrate(&["lint"]);
    output.exits(1).says("0002_a.sql:1 defer-foreign-keys").says("rows:regions").says("instead: ");
    output.says("0004_b.sql:2 select-star").says("gap");
    assert_eq!(fs::read(&alone.db).unwrap(), before);
    assert_eq!(alone.files(), ["migrations", "shop.db"]);
    let clean = Alone::new(&[shop::ADD_COLUMN, BACK]);
    clean.migrate(&["lint"]).exits(0);
    // Works on an empty database, and on no other.
    clean.write(&[("migrations/0003_c.sql", "ALTER TABLE users ADD COLUMN city TEXT NOT NULL;")]);
    let output = clean.migrate(&["lint", "--json"]);
    let rules: Vec<String> =
        output.exits(1).json().iter().map(|line| line["remark"]["rule"].to_string()).collect();
    assert!(rules.contains(&"\"fails-on-data\"".to_owned()), "{rules:?}");
}

#[test]
fn somebody_else_who_holds_the_write_lock_is_no_reason_to_apply_half() {
    let alone = Alone::new(&[shop::ADD_COLUMN]);
    let app = shop::open(&alone.db);
    app.execute_batch("BEGIN IMMEDIATE; INSERT INTO regions (name) VALUES ('Hebbal');").unwrap();
    let running = alone.sandbox.start(&[
        "migrate",
        "up",
        "--db",
        alone.db.to_str().unwrap(),
        "--dir",
        alone.folder().join("migrations").to_str().unwrap(),
    ]);
    let output = running.wait();
    output.exits(1).says("locked");
    app.execute_batch("COMMIT").unwrap();
    assert_eq!(alone.number("SELECT count(*) FROM regions"), 4);
    assert_eq!(alone.number("SELECT max(version) FROM schema_version"), 1);
    alone.migrate(&["up"]).exits(0);
}

#[test]
fn of_two_that_migrate_at_once_one_does_and_the_other_says_why_it_did_not() {
    let slow = "CREATE TABLE numbers AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000)
                SELECT i FROM n;";
    let alone = Alone::new(&[("migrations/0002_numbers.sql", slow)]);
    let folder = alone.folder().join("migrations");
    let place = ["--db", alone.db.to_str().unwrap(), "--dir", folder.to_str().unwrap()];
    let up = || alone.sandbox.start(&[&["migrate", "up"], &place[..]].concat());
    let both = [up(), up()].map(plimsoll_testkit::Running::wait);
    assert!(both.iter().any(|output| output.said().contains("0002_numbers.sql")), "{both:?}");
    for output in &both {
        match output.code {
            Some(0) => {}
            _ => drop(output.exits(3).says("another command is changing this database")),
        }
    }
    assert_eq!(alone.number("SELECT count(*) FROM schema_version WHERE version = 2"), 1);
    assert_eq!(alone.number("SELECT count(*) FROM numbers"), 400_000);
    alone.migrate(&["up"]).exits(0).says("nothing is pending");
}

/// The code that runs is known by its release; a plan shows the same.
#[test]
fn code_that_puts_rows_in_by_position_is_named_before_a_column_makes_it_fail() {
    let sandbox = Sandbox::new();
    let by_position = ("reports.py", "import db\ndb.execute(\"INSERT INTO users VALUES (NULL, ?)\")\n");
    sandbox.release("{}", &[by_position]);
    let serve = sandbox.live();
    fs::create_dir(sandbox.root().join("more")).unwrap();
    fs::write(sandbox.root().join("more/0001_shop.sql"), shop::FIRST.1).unwrap();
    fs::write(sandbox.root().join("more/0002_nickname.sql"), shop::ADD_COLUMN.1).unwrap();
    let lint = sandbox.plimsoll(&["migrate", "lint", "--dir", "more"]);
    lint.exits(0).says("reports.py:2 by-position").says("instead: name the columns");
    let alone = sandbox.plimsoll(&["migrate", "lint", "--dir", "more", "--db", "shared/store.db"]);
    alone.exits(0).says("by-position");
    sandbox.release("{}", &[shop::ADD_COLUMN]);
    sandbox
        .plimsoll(&["plan"])
        .exits(0)
        .says("look at")
        .says("reports.py:2 by-position: a row goes into users");
    drop(serve);
}

#[test]
fn the_configured_database_is_left_to_deployments_while_serve_runs() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.plimsoll(&["migrate", "status"]).exits(0).says("nothing is pending");
    let folder = sandbox.root().join("more");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("0001_shop.sql"), shop::FIRST.1).unwrap();
    fs::write(folder.join("0002_more.sql"), "ALTER TABLE users ADD COLUMN city TEXT;").unwrap();
    let before = shop::dump(&sandbox.database(), &[]);
    for place in [&["--dir", "more"][..], &["--dir", "more", "--db", "shared/store.db"]] {
        for command in [&["migrate", "up"][..], &["migrate", "down"]] {
            sandbox.plimsoll(&[command, place].concat()).exits(3).says("plimsoll deploy");
        }
    }
    assert_eq!(shop::dump(&sandbox.database(), &[]), before);
    drop(serve);
    sandbox.plimsoll(&["migrate", "up", "--dir", "more"]).exits(0);
    assert_eq!(shop::number(&sandbox.database(), "SELECT max(version) FROM schema_version"), 2);
}
