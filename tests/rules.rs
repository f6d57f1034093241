//! The safety rules of the design, by number, as far as they can be seen from outside. What only the inside can show
//! stands in unit tests of the crate that keeps the rule; it is named here.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_testkit::{Buyers, Sandbox, shop, wait};
use serde_json::Value;

use crate::production::{ORDERS, Production, ending, resume, settled, until_ended, until_step};
use crate::sources;

fn backups(sandbox: &Sandbox) -> Vec<PathBuf> {
    let is_backup = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let stamp = name.strip_prefix("store.db.backup.").unwrap_or_default().to_owned();
        // Two within a second are told apart by what follows the time.
        let (stamp, _) = stamp.split_at_checked(15).unwrap_or_default();
        stamp.len() == 15
            && !name.ends_with(".json")
            && stamp.bytes().all(|b| b.is_ascii_digit() || b == b'_')
    };
    let mut found: Vec<_> =
        sources::files(&sandbox.root().join("backups"), "").into_iter().filter(is_backup).collect();
    found.sort();
    found
}

/// The events of a run, each with the step that it is about.
fn events(sandbox: &Sandbox, run: u32) -> Vec<(String, String)> {
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    sandbox.journal(run).iter().map(|entry| (text(entry, "event"), text(entry, "step"))).collect()
}

/// `restore::tests` of the host crate: what is replaced is kept, and proved beside first.
#[test]
fn rule_01_prove_before_destroying() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = shop::dump(&sandbox.database(), &[]);
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    let last = backups(&sandbox).pop().expect("a backup was made before the migration");
    assert_eq!(shop::dump(&last, &[]), before, "the backup is not the database as it was");
    let releases = sources::files(&sandbox.root().join("releases"), "app.json");
    assert_eq!(releases.len(), 2, "the release that was replaced is gone: {releases:?}");
    drop(serve);
}

/// `restore::tests` of the host crate: kills, a changed `data_version`, other page sizes.
#[test]
fn rule_02_a_restore_goes_into_the_existing_file() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let inode = fs::metadata(sandbox.database()).unwrap().ino();
    // Somebody's shell, open all the time.
    let onlooker = shop::open(&sandbox.database());
    let columns = || -> i64 {
        let sql = "SELECT count(*) FROM pragma_table_info('orders')";
        onlooker.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let before = columns();
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(1);
    assert_eq!(
        fs::metadata(sandbox.database()).unwrap().ino(),
        inode,
        "the file was replaced under its readers"
    );
    assert_eq!(columns(), before);
    drop(serve);
}

#[test]
fn rule_02_rows_that_another_wrote_in_the_hold_are_never_restored_over_silently() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(
        r#"{ "write_at_start": true, "checkout": "broken", "rehearses_well": true }"#,
        &[shop::REBUILD],
    );
    // The undo restores the schema of before and carries over what is not Plimsoll's own. What cannot be carried over
    // stops it: `strangers::`.
    sandbox.deploy().exits(1).says("2 changes that others made meanwhile carried over");
    let written = "SELECT count(*) FROM orders WHERE reference LIKE 'at-start-%'";
    assert_eq!(shop::number(&sandbox.database(), written), 1, "the row is gone though nobody allowed it");
    assert_eq!(shop::number(&sandbox.database(), "SELECT max(version) FROM schema_version"), 1);
    resume(&sandbox, 0);
    settled(&sandbox);
    drop(serve);
}

/// `backup::tests`, `verify::tests` of the host crate: live writers, torn files, pages that change.
#[test]
fn rule_03_a_backup_is_whole_though_orders_come_in_and_counts_once_verified() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(10);
    sandbox.release("{}", &[]);
    sandbox.deploy().exits(0);
    buyers.stop().unharmed(&sandbox.database());
    let last = backups(&sandbox).pop().unwrap();
    let text = |sql: &str| -> String { shop::open(&last).query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(text("PRAGMA integrity_check"), "ok");
    assert_eq!(shop::number(&last, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    let lines = "SELECT count(*) FROM orders WHERE id NOT IN (SELECT order_id FROM order_items)";
    assert_eq!(shop::number(&last, lines), 0, "the backup holds half an order");
    let manifest: Value =
        serde_json::from_str(&fs::read_to_string(format!("{}.json", last.display())).unwrap()).unwrap();
    let orders = manifest["content"]["tables"]["orders"]["rows"].as_i64();
    assert_eq!(orders, Some(shop::number(&last, "SELECT count(*) FROM orders")));
    let latest = fs::canonicalize(sandbox.root().join("backups/store.db.backup.LATEST")).unwrap();
    assert_eq!(latest, fs::canonicalize(&last).unwrap());
    drop(serve);
}

/// `durable::tests`, `journal::tests` of the host crate: synced before the act; `crash.rs` here: after each event.
#[test]
fn rule_04_intent_is_journaled_before_an_act_and_its_outcome_after() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(1);
    let events = events(&sandbox, 2);
    let at = |event: &str, step: &str| {
        let found = events.iter().position(|(e, s)| e == event && s == step);
        found.unwrap_or_else(|| panic!("no {event} {step} in {events:#?}"))
    };
    for step in
        ["fetch", "build", "backup", "rehearse", "hold", "stop", "snapshot", "migrate", "switch", "start"]
    {
        assert!(at("step-started", step) < at("step-done", step), "{step}");
    }
    for step in ["start", "switch", "migrate", "stop", "hold"] {
        assert!(at("undoing-step", step) < at("undone-step", step), "{step}");
        assert!(at("step-failed", "prove") < at("undoing-step", step), "{step}");
    }
    assert!(at("step-started", "hold") < at("held", "") && at("held", "") < at("step-done", "hold"));
    drop(serve);
}

/// `lock::tests` of the host crate: the lock itself.
#[test]
fn rule_05_the_lock_dies_with_its_owner() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let pid = serve.pid();
    let second = sandbox.serve_with(&[]).wait();
    assert_ne!(second.code, Some(0));
    second.says(&pid.to_string());
    serve.kill9();
    let serve = sandbox.serve();
    settled(&sandbox);
    assert!(serve.pid() != pid);
    drop(serve);
}

#[test]
fn rule_06_users_are_let_in_only_behind_the_commit_point() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    for files in [&[][..], &[shop::REBUILD][..]] {
        sandbox.release(&format!(r#"{{ "page": "{}", "boot_ms": 300 }}"#, files.len()), files);
        let deploying = sandbox.start(&["deploy", "--yes"]);
        let held = sandbox.root().join("runs/HELD");
        // A look of its own: a request would wait at the door for as long as it is held.
        let (was_held, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let until = Instant::now() + Duration::from_secs(30);
        let output = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) && Instant::now() < until {
                    was_held.fetch_or(held.exists(), Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let output = deploying.wait();
            over.store(true, Ordering::SeqCst);
            output
        });
        output.exits(0);
        let was_held = was_held.into_inner();
        assert_eq!(was_held, !files.is_empty(), "runs/HELD stands for as long as the door is held");
        assert!(!held.exists());
    }
    for run in [2, 3] {
        let events = events(&sandbox, run);
        let at = |event: &str, step: &str| events.iter().position(|(e, s)| e == event && s == step).unwrap();
        assert!(at("step-done", "prove") < at("committed", ""), "run {run}");
        assert!(at("committed", "") < at("step-started", "open"), "run {run}");
    }
    drop(serve);
}

#[test]
fn rule_06_a_journal_that_cannot_be_read_keeps_the_door_shut_and_is_named() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "boot_ms": 3000 }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    let journal = sandbox.root().join("runs/000002/journal.jsonl");
    until_step(&sandbox, 2, "start");
    serve.kill9();
    deploying.wait().exits(4);
    let whole = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, whole.replacen("\"event\"", "\"evnt\"", 3)).unwrap();
    let serve = sandbox.serve();
    assert_eq!(sandbox.get("/").status(), Some(503), "users were let in to an unknown state");
    assert!(serve.log().contains("000002"), "the journal is not named: {}", serve.log());
    assert!(sandbox.root().join("runs/HELD").exists());
    sandbox.deploy().says("2");
    // Mended by hand, the run can go on.
    let _ = serve.stop();
    fs::write(&journal, whole).unwrap();
    let serve = sandbox.serve();
    until_ended(&sandbox, 2);
    assert_eq!(ending(&sandbox, 2), ("undone".into(), 1));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn rule_07_live_and_finished_are_different_words_with_different_codes() {
    let mut sandbox = Sandbox::new();
    // Longer than a slow machine needs for enough requests to judge by; bad news end it early.
    sandbox.configure("watch.errors_for = '15s'\nwatch.rollback = false\nsmoke = [{ name = 'The first page loads', get = '/' }]");
    let serve = sandbox.serve();
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0).says("Live.");
    let buyers = Buyers::start(sandbox.port, 2);
    buyers.place(3);
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[]);
    let output = sandbox.deploy();
    output.exits(5).says("Live, but a later step failed");
    let ledger = buyers.stop();
    assert_eq!(ledger.lost(&sandbox.database()), Vec::<String>::new());
    assert_eq!(ending(&sandbox, 2), ("live".into(), 5));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn rule_08_the_right_to_roll_back_stays_armed_while_errors_are_watched_for() {
    let mut sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = sandbox.current();
    drop(serve);
    sandbox.configure("watch.errors_for = '10m'");
    let serve = sandbox.serve();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "watch");
    let begun = Instant::now();
    // The first may end the watch and say that it takes another; no more than that.
    if sandbox.plimsoll(&["rollback", "--yes"]).code != Some(0) {
        sandbox.plimsoll(&["rollback", "--yes"]).exits(0);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(sandbox.current(), before);
    let _ = deploying.wait();
    settled(&sandbox);
    drop(serve);
}

/// `backups::tests` of the host crate: retention, and that the last good one stays.
#[test]
fn rule_09_the_newest_backup_is_known_by_its_name_and_not_by_its_mtime() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    let first = backups(&sandbox).pop().unwrap();
    wait::until("the clock shows another second", Duration::from_secs(5), || {
        fs::metadata(&first).unwrap().modified().unwrap().elapsed().unwrap() > Duration::from_millis(1100)
    });
    sandbox.deploy().exits(0);
    let all = backups(&sandbox);
    let last = all.last().unwrap();
    assert!(*last != first);
    // As a copy tool that preserves times, or a restored disk, would leave them.
    let future = std::time::SystemTime::now() + Duration::from_secs(86_400);
    fs::File::options().write(true).open(&first).unwrap().set_modified(future).unwrap();
    let latest = || fs::canonicalize(sandbox.root().join("backups/store.db.backup.LATEST")).unwrap();
    assert_eq!(latest(), fs::canonicalize(last).unwrap());
    let listed = sandbox.plimsoll(&["backup", "list", "--json"]);
    listed.exits(0);
    let newest = listed.json().first().expect("backups are listed").to_string();
    let name = last.file_name().unwrap().to_string_lossy().into_owned();
    assert!(newest.contains(&name), "{newest} is listed first instead of {name}");
    drop(serve);
}

const SECRET: &str = "raga-bhairavi-42";

#[test]
fn rule_10_secrets_reach_no_file_no_output_and_no_argument_list() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("service.env = { PAYMENT_KEY = 'env:SHOP_KEY', LOG_LEVEL = 'info' }");
    let serve = sandbox.serve_with(&[("SHOP_KEY", SECRET)]);
    serve.until_it_answers();
    let mut said = sandbox.deploy().exits(0).said();
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    said += &sandbox.deploy().exits(1).said();
    sandbox.release(r#"{ "exit_at_start": 1, "rehearses_well": true }"#, &[]);
    said += &sandbox.deploy().exits(1).said();
    for command in [&["status"][..], &["history"], &["show"], &["show", "--format", "html"], &["check"]] {
        said += &sandbox.plimsoll(command).said();
    }
    said += &serve.log();
    assert!(!said.contains(SECRET), "{said}");
    let app = sandbox.apps().join("\n");
    assert!(!app.contains(SECRET), "{app}");
    let arguments = fs::read(format!("/proc/{}/cmdline", serve.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(SECRET));
    for file in sources::files(sandbox.root(), "") {
        let bytes = fs::read(&file).unwrap_or_default();
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "the secret is in {}", file.display());
    }
    drop(serve);
}

#[test]
fn rule_10_state_files_are_their_owners_alone() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    let open = |folder: &Path| {
        let files = sources::files(folder, "").into_iter().filter(|file| !file.is_symlink());
        files.filter(|file| fs::metadata(file).unwrap().permissions().mode() & 0o077 != 0).collect::<Vec<_>>()
    };
    for folder in ["runs", "backups"] {
        let open = open(&sandbox.root().join(folder));
        assert!(open.is_empty(), "others may read {open:?}");
    }
    drop(serve);
}

/// `connection::tests` of the host crate: both ways, on every connection.
#[test]
fn rule_11_foreign_keys_do_not_empty_a_child_table_in_a_rebuild() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let children = |table: &str| shop::number(&sandbox.database(), &format!("SELECT count(*) FROM {table}"));
    let before = ORDERS.map(children);
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    assert_eq!(ORDERS.map(children), before);
    drop(serve);
}

#[test]
fn rule_11_a_migration_that_counts_on_cascades_gets_them() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let cascade = ("migrations/0002_old_orders.sql", "DELETE FROM orders WHERE id <= 5;\n");
    sandbox.release("{}", &[cascade]);
    let words = ["--acknowledge", "rows:orders", "--acknowledge", "rows:order_items"];
    let before = Production::of(&sandbox);
    sandbox.deploy().exits(3).says("rows:orders");
    before.is_still(&Production::of(&sandbox));
    sandbox.plimsoll(&[&["deploy", "--yes"][..], &words].concat()).exits(0);
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM order_items"), 195);
    drop(serve);
}
