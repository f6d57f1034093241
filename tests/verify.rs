//! `verify` from outside: the seven checks on any database, read-only.

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_testkit::{Output, Sandbox, shop};
use serde_json::Value;

fn alone(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.root().join("elsewhere");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("shop.db");
    shop::seed(&file);
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn verify(sandbox: &Sandbox, db: &Path, more: &[&str]) -> Output {
    sandbox.plimsoll(&[&["verify", "--db", text(db)], more].concat())
}

fn check(output: &Output, name: &str) -> (String, String) {
    let report = &output.json()[0];
    let check = &report["checks"][name];
    assert!(check.is_object(), "no check {name} in {report}");
    (check["verdict"].as_str().unwrap().into(), check["message"].as_str().unwrap().into())
}

#[track_caller]
fn fails(output: &Output, name: &str, with: &str) {
    output.exits(1);
    let (verdict, message) = check(output, name);
    assert!(verdict == "fail" && message.contains(with), "{name} is {verdict}: {message}");
}

#[test]
fn any_database_is_checked_without_configuration_and_nothing_is_left_beside_it() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    for mode in ["WAL", "DELETE"] {
        shop::open(&db).query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
        let before = fs::read(&db).unwrap();
        let output = verify(&sandbox, &db, &[]);
        output.exits(0).says("✓ integrity").says("orders: 200").says("overall status: PASS");
        assert_eq!(fs::read(&db).unwrap(), before, "{mode}");
        let files = fs::read_dir(db.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "{mode}: something was left beside the database");
    }
    let quiet = verify(&sandbox, &db, &["--quiet"]);
    assert_eq!(quiet.exits(0).stdout.lines().count(), 1);
    quiet.says("PASS shop.db");
    assert_eq!(quiet.stderr, "");
}

#[test]
fn what_the_configuration_expects_of_the_database_is_checked() {
    let mut sandbox = Sandbox::new();
    let verify = |sandbox: &Sandbox| sandbox.plimsoll(&["verify", "--json"]);
    sandbox.configure(
        "[database.expect]\ncolumns = { orders = [\"id\"], Users = [\"ID\"] }\nat_least = { orders = 1 }\nversions = [1]\n",
    );
    verify(&sandbox).exits(0);
    sandbox.configure("[database.expect]\ncolumns = { orders = [\"coupon\"] }\nat_least = { products = 9999 }\nversions = [7]\n");
    let output = verify(&sandbox);
    fails(&output, "columns", "orders.coupon is missing");
    fails(&output, "data_counts", "at least 9999 are expected");
    fails(&output, "schema_versions", "7 is missing");
    sandbox.configure("[database.expect]\nat_least = { coupons = 1 }\n");
    fails(&verify(&sandbox), "tables", "coupons is missing (expected from the configuration)");
}

#[test]
fn a_report_has_the_shape_that_scripts_read() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    verify(&sandbox, &db, &["--report", "issue_report.json"]).exits(0);
    let report: Value = serde_json::from_str(&sandbox.read("issue_report.json")).unwrap();
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["timestamp", "database", "checks", "data_counts", "schema_versions", "summary"]);
    let checks: Vec<&str> = report["checks"].as_object().unwrap().keys().map(String::as_str).collect();
    let seven =
        ["file_exists", "integrity", "tables", "columns", "data_integrity", "schema_versions", "data_counts"];
    assert!(checks.starts_with(&seven), "{checks:?}");
    assert_eq!(report["data_counts"]["orders"], 200);
    assert_eq!(report["schema_versions"][0]["version"], 1);
    assert_eq!(report["summary"]["status"], "PASS");
}

#[test]
fn a_missing_database_is_a_failed_check_and_is_not_created() {
    let sandbox = Sandbox::new();
    let none = sandbox.root().join("none.db");
    let output = verify(&sandbox, &none, &["--json", "--report", "report.json"]);
    fails(&output, "file_exists", "none.db");
    assert!(!none.exists());
    assert!(sandbox.read("report.json").contains("\"FAIL\""));
}

#[test]
fn damage_in_the_file_is_found() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let mut bytes = fs::read(&db).unwrap();
    let page = bytes.len() / 2 / 4096 * 4096;
    bytes[page..page + 200].fill(0xff);
    fs::write(&db, bytes).unwrap();
    fails(&verify(&sandbox, &db, &["--json"]), "integrity", "");
    fs::write(&db, "a text that only has the name of a database ".repeat(30)).unwrap();
    fails(&verify(&sandbox, &db, &["--json"]), "integrity", "not a SQLite database");
}

#[test]
fn orphans_fail_until_they_are_learned_and_more_of_them_fail_again() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let orphan = "PRAGMA foreign_keys = OFF; INSERT INTO order_items (order_id, product_id, quantity) VALUES (9999, 1, 1)";
    shop::open(&db).execute_batch(orphan).unwrap();
    let output = verify(&sandbox, &db, &["--json"]);
    fails(&output, "data_integrity", "order_items has 1 rows whose parent is gone");
    let _ = verify(&sandbox, &db, &["--learn"]);
    verify(&sandbox, &db, &[]).exits(0).says("1 orphans that were there");
    shop::open(&db).execute_batch(orphan).unwrap();
    fails(&verify(&sandbox, &db, &["--json"]), "data_integrity", "2 rows whose parent is gone instead of 1");
}

#[test]
fn what_was_learned_is_missed_when_it_is_gone() {
    for (sql, name, said) in [
        ("DROP TABLE regions", "tables", "regions is missing"),
        ("ALTER TABLE users RENAME COLUMN email TO mail", "columns", "users.email is missing"),
        ("DROP INDEX order_items_by_order", "objects", "order_items_by_order"),
        ("DELETE FROM regions", "data_counts", "regions is empty and had 3 rows"),
        ("DELETE FROM schema_version", "schema_versions", "1 is missing"),
    ] {
        let sandbox = Sandbox::new();
        let db = alone(&sandbox);
        verify(&sandbox, &db, &["--learn"]).exits(0);
        verify(&sandbox, &db, &[]).exits(0);
        shop::open(&db).execute_batch(sql).unwrap();
        fails(&verify(&sandbox, &db, &["--json"]), name, said);
    }
}

#[test]
fn a_configured_database_is_compared_with_the_replay_of_the_releases_migrations() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.plimsoll(&["verify"]).exits(0).says("orders: 200").says("columns as expected");
    let after = sandbox.plimsoll(&["verify", "--json"]);
    assert_eq!(check(&after, "schema_versions").0, "pass");
    drop(serve);
    let rename = "ALTER TABLE users RENAME COLUMN email TO mail";
    shop::open(&sandbox.database()).execute_batch(rename).unwrap();
    fails(&sandbox.plimsoll(&["verify", "--json"]), "columns", "users.email is missing");
}

#[test]
fn a_folder_of_migrations_tells_what_is_not_applied_and_what_was_edited() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let folder = sandbox.root().join("migrations");
    fs::create_dir(&folder).unwrap();
    for (name, sql) in [shop::FIRST, shop::ADD_COLUMN] {
        fs::write(sandbox.root().join(name), sql).unwrap();
    }
    let output = verify(&sandbox, &db, &["--dir", "migrations", "--json"]);
    fails(&output, "schema_versions", "not applied yet: 2");
    assert_eq!(check(&output, "columns").0, "pass", "what is not applied is not expected");
}

#[test]
fn compared_with_a_backup_what_is_gone_fails_and_what_came_does_not() {
    for compress in [&[][..], &["--compress"]] {
        let sandbox = Sandbox::new();
        let db = alone(&sandbox);
        sandbox.plimsoll(&[&["backup", "--db", text(&db)], compress].concat()).exits(0);
        let compare = ["--compare", "elsewhere/backups/shop.db.backup.LATEST"];
        verify(&sandbox, &db, &compare).exits(0).says("tables, schema and rows are those of");
        let new = "INSERT INTO regions (name) VALUES ('Hebbal'); UPDATE users SET email = 'new' || id;";
        shop::open(&db).execute_batch(new).unwrap();
        verify(&sandbox, &db, &compare).exits(0).says("1 rows new, 0 changed").says("0 rows new, 2 changed");
        shop::open(&db).execute_batch("DELETE FROM orders WHERE id > 150").unwrap();
        let output = verify(&sandbox, &db, &[&compare[..], &["--json"]].concat());
        fails(&output, "compare orders", "50 gone");
    }
}
