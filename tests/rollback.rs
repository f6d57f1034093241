//! Going back after the commit point, and going on with what was interrupted.

use plimsoll_testkit::{Buyers, Sandbox, shop};

use crate::production::{Production, ending, settled, until_step};

#[test]
fn without_a_migration_between_only_the_code_goes_back() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    sandbox.deploy().exits(0);
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(6);
    sandbox.plimsoll(&["rollback", "--yes"]).exits(0).says("Rolled back.");
    buyers.place(6);
    buyers.stop().unharmed(&sandbox.database());
    assert!(sandbox.current().is_some_and(|current| current.starts_with("000001")));
    assert!(sandbox.get("/").text().contains("one"));
    assert_eq!(ending(&sandbox, 3), ("rolled-back".into(), 0));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn where_the_earlier_release_was_seen_to_work_on_the_migrated_data_only_the_code_goes_back() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(6);
    sandbox.plimsoll(&["rollback", "--dry-run"]).exits(0).says("the code alone").says("rehearsed");
    sandbox.plimsoll(&["rollback", "--yes"]).exits(0).says("Rolled back.");
    buyers.place(6);
    buyers.stop().unharmed(&sandbox.database());
    assert!(sandbox.current().is_some_and(|current| current.starts_with("000001")));
    let state = "SELECT count(*) FROM pragma_table_info('orders') WHERE name = 'state'";
    assert_eq!(shop::number(&sandbox.database(), state), 1, "the data stays");
    settled(&sandbox);
    drop(serve);
}

/// Renames a column and rebuilds a table that others hang on.
const RENAME: (&str, &str) =
    ("migrations/0003_title.sql", "ALTER TABLE regions RENAME COLUMN name TO title;\n");

fn sequence(sandbox: &Sandbox) -> i64 {
    shop::number(&sandbox.database(), "SELECT seq FROM sqlite_sequence WHERE name = 'orders'")
}

#[test]
fn with_a_rename_and_a_rebuild_between_every_order_goes_back_too_and_no_request_fails() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(6);
    sandbox.release("{}", &[shop::REBUILD, RENAME]);
    sandbox.deploy().exits(0);
    buyers.place(20);
    shop::open(&sandbox.database())
        .execute_batch(
            "UPDATE regions SET title = 'Koramangala' WHERE id = 2; DELETE FROM users WHERE id = 2;",
        )
        .unwrap();
    sandbox
        .plimsoll(&["rollback", "--data", "--dry-run"])
        .exits(0)
        .says("restore+carry")
        .says("carried over");
    let before = sequence(&sandbox);
    let output = sandbox.plimsoll(&["rollback", "--data", "--yes"]);
    output.exits(0).says("Rolled back").says("carried over");
    buyers.place(12);
    let ledger = buyers.stop();
    ledger.unharmed(&sandbox.database());
    assert!(sandbox.current().is_some_and(|current| current.starts_with("000001")));
    let db = sandbox.database();
    assert_eq!(shop::number(&db, "SELECT count(*) FROM pragma_table_info('orders') WHERE name = 'state'"), 0);
    assert_eq!(shop::number(&db, "SELECT count(*) FROM regions WHERE name = 'Koramangala'"), 1);
    assert_eq!(shop::number(&db, "SELECT count(*) FROM users WHERE id = 2"), 0);
    assert_eq!(shop::number(&db, "SELECT max(version) FROM schema_version"), 1);
    assert!(sequence(&sandbox) > before, "order numbers went back");
    assert_eq!(ending(&sandbox, 3), ("rolled-back".into(), 0));
    for run in [2, 3] {
        let report: serde_json::Value =
            serde_json::from_str(&sandbox.read(&format!("runs/{run:06}/report.json"))).unwrap();
        let accounts = &report["reconciliation"];
        let requests = &accounts["requests"];
        let count = |name: &str| requests[name].as_u64().unwrap();
        assert!(count("accepted") > 0, "{accounts}");
        assert_eq!(count("accepted"), count("answered") + count("left") + count("inside"), "{accounts}");
        let orders = &accounts["tables"]["orders"];
        let number = |name: &str| orders[name].as_i64().unwrap();
        assert_eq!(number("before") + number("by_migration") + number("by_users"), number("now"), "{orders}");
        let numbers = &accounts["sequences"]["orders"];
        assert!(numbers["counter"].as_i64() >= numbers["largest"].as_i64(), "{numbers}");
        assert!(sandbox.read(&format!("runs/{run:06}/report.md")).contains("Requests during the run"));
    }
    for kept in ["runs/000002/pre.db", "runs/000002/post.db", "runs/000003/pre.db"] {
        assert!(sandbox.root().join(kept).exists(), "{kept} is gone");
    }
    settled(&sandbox);
    drop(serve);
}

#[test]
fn what_has_no_place_in_the_earlier_database_is_acknowledged_first_and_comes_back_on_the_way_forward() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::ADD_COLUMN]);
    sandbox.deploy().exits(0);
    let second = sandbox.current().unwrap();
    let db = sandbox.database();
    shop::open(&db)
        .execute_batch("UPDATE users SET nickname = 'Ash', email = 'ash@example.com' WHERE id = 1")
        .unwrap();
    let before = Production::of(&sandbox);
    sandbox.plimsoll(&["rollback", "--data", "--dry-run"]).exits(3).says("set-aside:users").says("NO_COLUMN");
    sandbox.plimsoll(&["rollback", "--data", "--yes"]).exits(3).says("--acknowledge set-aside:users");
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    let output = sandbox.plimsoll(&["rollback", "--data", "--yes", "--acknowledge", "set-aside:users"]);
    output.exits(6).says("set-aside.db.sql");
    let text = sandbox.read("runs/000004/set-aside.db.sql");
    assert!(text.contains("\"nickname\" = 'Ash'"), "{text}");
    assert_eq!(shop::number(&db, "SELECT count(*) FROM users WHERE email = 'ash@example.com'"), 1);
    assert_eq!(ending(&sandbox, 4), ("rolled-back".into(), 6));
    shop::open(&db).execute_batch("INSERT INTO users (email) VALUES ('later@example.com')").unwrap();
    settled(&sandbox);
    // Forward again: what was set aside is there, and what came later too.
    sandbox.plimsoll(&["rollback", "--data", "--yes", "--to", &second]).exits(0);
    assert_eq!(sandbox.current(), Some(second));
    let there = "SELECT count(*) FROM users WHERE nickname = 'Ash' AND email = 'ash@example.com' OR email = 'later@example.com'";
    assert_eq!(shop::number(&db, there), 2);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn an_app_that_migrates_at_its_start_goes_back_with_its_data() {
    let mut sandbox = Sandbox::new();
    sandbox.unset("database", Some("migrations"));
    let serve = sandbox.live();
    sandbox.release(r#"{ "migrate_at_start": true }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    let buyers = Buyers::start(sandbox.port, 2);
    buyers.place(8);
    sandbox.plimsoll(&["rollback", "--data", "--yes"]).exits(0).says("carried over");
    buyers.place(4);
    buyers.stop().unharmed(&sandbox.database());
    let state = "SELECT count(*) FROM pragma_table_info('orders') WHERE name = 'state'";
    assert_eq!(shop::number(&sandbox.database(), state), 0);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_rollback_whose_earlier_release_does_not_start_loses_nothing_and_is_undone() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let first = sandbox.current().unwrap();
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    let buyers = Buyers::start(sandbox.port, 2);
    buyers.place(6);
    let before = Production::while_buying(&sandbox);
    std::fs::write(sandbox.root().join("releases").join(first).join("app.json"), r#"{"exit_at_start": 9}"#)
        .unwrap();
    sandbox.plimsoll(&["rollback", "--data", "--yes"]).exits(1).says("as it was");
    buyers.place(4);
    buyers.stop().unharmed(&sandbox.database());
    before.is_still(&Production::while_buying(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn without_the_snapshots_of_the_migration_the_release_goes_on_serving() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    std::fs::remove_file(sandbox.root().join("runs/000002/post.db")).unwrap();
    let before = Production::of(&sandbox);
    sandbox.plimsoll(&["rollback", "--data", "--yes"]).exits(3).says("no longer kept");
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_named_release_is_brought_back() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let first = sandbox.current().unwrap();
    for page in ["two", "three"] {
        sandbox.release(&format!(r#"{{ "page": "{page}" }}"#), &[]);
        sandbox.deploy().exits(0);
    }
    let before = Production::of(&sandbox);
    sandbox.plimsoll(&["rollback", "--dry-run", "--to", &first]).exits(0).says(&first);
    before.is_still(&Production::of(&sandbox));
    sandbox.plimsoll(&["rollback", "--yes", "--to", "000042-abcdef0"]).exits(2).says("000042-abcdef0");
    before.is_still(&Production::of(&sandbox));
    sandbox.plimsoll(&["rollback", "--yes", "--to", &first]).exits(0);
    assert_eq!(sandbox.current(), Some(first));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn an_earlier_release_that_no_longer_starts_is_not_rolled_back_to() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let first = sandbox.current().unwrap();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    sandbox.deploy().exits(0);
    let before = Production::of(&sandbox);
    std::fs::write(sandbox.root().join("releases").join(first).join("app.json"), r#"{"exit_at_start": 9}"#)
        .unwrap();
    sandbox.plimsoll(&["rollback", "--yes"]).exits(1);
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn there_is_nothing_to_roll_back_before_the_first_release() {
    let sandbox = Sandbox::new();
    let serve = sandbox.serve();
    sandbox.plimsoll(&["rollback", "--yes"]).exits(2).says("nothing to roll back");
    drop(serve);
}

#[test]
fn there_is_nothing_to_resume_when_every_run_has_ended() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    sandbox.plimsoll(&["resume"]).exits(0).says("nothing to resume");
    before.is_still(&Production::of(&sandbox));
    drop(serve);
}

#[test]
fn a_rollback_during_a_run_stops_it_before_its_commit_point() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("build.commands = ['sleep 1.5']");
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    sandbox.release("{}", &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "build");
    sandbox.plimsoll(&["rollback", "--yes"]).exits(0);
    deploying.wait().exits(1);
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}
