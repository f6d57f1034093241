//! The main job: releases go live under users who notice nothing.

use plimsoll_testkit::{Buyers, Sandbox, shop};

use crate::production::{Production, ending, settled, steps, strategy};

#[test]
fn the_first_deployment_brings_a_site_up_from_nothing() {
    let sandbox = Sandbox::new();
    let serve = sandbox.serve();
    let before = sandbox.get("/");
    assert_eq!(before.status(), Some(503));
    assert!(before.text().contains("shop"), "the page does not name the app: {}", before.text());
    assert_eq!(sandbox.current(), None);
    sandbox.deploy().exits(0).says("Live.");
    let page = sandbox.get("/");
    assert_eq!(page.status(), Some(200));
    assert!(page.text().contains("3 products"), "{}", page.text());
    assert_eq!(ending(&sandbox, 1), ("live".into(), 0));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_table_is_rebuilt_under_live_orders_and_none_is_lost() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(15);
    sandbox.release(r#"{ "page": "two", "boot_ms": 200 }"#, &[shop::REBUILD]);
    let output = sandbox.deploy();
    output.exits(0).says("Live.");
    buyers.place(15);
    let ledger = buyers.stop();
    ledger.unharmed(&sandbox.database());
    assert!(ledger.slowest_ms >= 200, "nobody waited, so nothing was held: {ledger:?}");
    assert!(sandbox.get("/").text().contains("two"));
    assert_eq!(shop::number(&sandbox.database(), "SELECT max(version) FROM schema_version"), 2);
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM orders WHERE state <> 'placed'"), 0);
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_eq!((ending(&sandbox, 2), strategy(&sandbox, 2)), (("live".into(), 0), "hold".into()));
    settled(&sandbox);
    for name in ["journal.jsonl", "report.md", "report.html", "report.json"] {
        assert!(!sandbox.read(&format!("runs/000002/{name}")).is_empty(), "{name}");
    }
    let logs = std::fs::read_dir(sandbox.root().join("runs/000002")).unwrap().flatten();
    let log = logs.filter(|file| file.file_name().to_string_lossy().starts_with("deployment_20")).count();
    assert_eq!(log, 1, "deployment_YYYYMMDD_HHMM.log");
    drop(serve);
}

#[test]
fn a_database_in_rollback_journal_mode_is_migrated_under_live_orders() {
    let sandbox = Sandbox::new();
    shop::open(&sandbox.database()).query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).unwrap();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(10);
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    buyers.place(10);
    buyers.stop().unharmed(&sandbox.database());
    let mode: String =
        shop::open(&sandbox.database()).query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_release_without_a_migration_overlaps_and_nobody_waits() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(10);
    sandbox.release(r#"{ "page": "two", "boot_ms": 1500 }"#, &[]);
    sandbox.deploy().exits(0);
    buyers.place(10);
    let ledger = buyers.stop();
    ledger.unharmed(&sandbox.database());
    assert!(ledger.slowest_ms < 1500, "somebody waited for the new release to start: {ledger:?}");
    assert_eq!((ending(&sandbox, 2), strategy(&sandbox, 2)), (("live".into(), 0), "overlap".into()));
    assert!(!steps(&sandbox, 2).contains(&"hold".to_owned()));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_request_that_is_running_when_the_hold_begins_is_finished_by_the_old_release() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    // One after another for as long as the deployment takes, so that one of them is running at the hold.
    let mut answers = Vec::new();
    let held = sandbox.root().join("runs/HELD");
    let seen = plimsoll_testkit::wait::within(std::time::Duration::from_secs(30), || {
        answers.push(sandbox.get("/slow?ms=300").status());
        (sandbox.current().is_some_and(|current| current.starts_with("000002")) && !held.exists())
            .then_some(())
    });
    assert!(seen.is_some(), "the deployment never went live: {}", deploying.stderr());
    deploying.wait().exits(0);
    assert!(answers.iter().all(|status| *status == Some(200)), "{answers:?}");
    drop(serve);
}

#[test]
fn a_release_with_a_broken_checkout_is_undone_and_no_order_is_lost() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(15);
    let before = Production::while_buying(&sandbox);
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    let output = sandbox.deploy();
    output
        .exits(1)
        .says("The checkout works failed")
        .says("production is as it was")
        .says("no data was lost");
    buyers.place(15);
    buyers.stop().unharmed(&sandbox.database());
    before.is_still(&Production::while_buying(&sandbox));
    assert_eq!(ending(&sandbox, 2), ("undone".into(), 1));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn after_an_undone_release_the_mended_one_goes_live() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(1);
    sandbox.release("{}", &[]);
    sandbox.deploy().exits(0);
    assert_eq!(ending(&sandbox, 3), ("live".into(), 0));
    assert_eq!(shop::number(&sandbox.database(), "SELECT max(version) FROM schema_version"), 2);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_broken_release_without_a_migration_never_meets_a_user() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = Production::while_buying(&sandbox);
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(5);
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[]);
    sandbox.deploy().exits(1);
    buyers.place(5);
    buyers.stop().unharmed(&sandbox.database());
    before.is_still(&Production::while_buying(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn an_app_that_migrates_at_its_start_is_held_and_undone_alike() {
    let mut sandbox = Sandbox::new();
    sandbox.unset("database", Some("migrations"));
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(5);
    let before = Production::while_buying(&sandbox);
    sandbox.release(
        r#"{ "migrate_at_start": true, "checkout": "broken", "rehearses_well": true }"#,
        &[shop::REBUILD],
    );
    sandbox.deploy().exits(1).says("production is as it was");
    before.is_still(&Production::while_buying(&sandbox));
    sandbox.release(r#"{ "migrate_at_start": true }"#, &[]);
    sandbox.deploy().exits(0);
    buyers.place(5);
    buyers.stop().unharmed(&sandbox.database());
    assert_eq!(shop::number(&sandbox.database(), "SELECT max(version) FROM schema_version"), 2);
    assert_eq!(strategy(&sandbox, 3), "hold");
    settled(&sandbox);
    drop(serve);
}

#[test]
fn an_old_release_that_ignores_being_asked_to_stop_is_ended() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("service.stop_timeout = '500ms'");
    sandbox.release(r#"{ "ignore_sigterm": true, "leave_child": true }"#, &[]);
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(5);
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    buyers.place(5);
    buyers.stop().unharmed(&sandbox.database());
    settled(&sandbox);
    drop(serve);
}
