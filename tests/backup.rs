//! Backups from outside: made on a live database, verified, restored, pruned; with a configuration and without.

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_testkit::{Buyers, Sandbox, fault, shop};

/// A database on its own, at rest, beside nothing else.
fn alone(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.root().join("elsewhere");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("shop.db");
    shop::seed(&file);
    file
}

fn made(sandbox: &Sandbox, db: &Path) -> PathBuf {
    let output = sandbox.plimsoll(&["backup", "--db", text(db), "--json"]);
    let line = &output.exits(0).json()[0];
    line["file"].as_str().unwrap().into()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn orders(db: &Path) -> i64 {
    shop::number(db, "SELECT count(*) FROM orders")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Gives a backup another time, as the manifest and the name say it.
fn age(backup: &Path, stamp: &str, time: &str) -> PathBuf {
    let old = text(backup).rsplit_once(".backup.").unwrap().0;
    let new = PathBuf::from(format!("{old}.backup.{stamp}"));
    let manifest = fs::read_to_string(format!("{}.json", backup.display())).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    manifest["created_at"] = time.into();
    manifest["file"] = new.file_name().unwrap().to_str().unwrap().into();
    fs::copy(backup, &new).unwrap();
    fs::write(format!("{}.json", new.display()), manifest.to_string()).unwrap();
    new
}

#[test]
fn a_backup_while_orders_come_in_is_whole_and_verified_with_the_papers_words() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(20);
    let output = sandbox.plimsoll(&["backup"]);
    output.exits(0).says("✓ Backup database integrity verified").says("orders: ");
    let latest = fs::canonicalize(sandbox.root().join("backups/store.db.backup.LATEST")).unwrap();
    buyers.place(20);
    let ledger = buyers.stop();
    assert_eq!(ledger.lost(&sandbox.database()), Vec::<String>::new());
    assert_eq!(shop::number(&latest, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert!(orders(&latest) > 200, "the orders that were there are in it");
    let verified = sandbox.plimsoll(&["backup", "verify", text(&latest)]);
    verified.exits(0).says("✓ Backup database integrity verified");
    let by_name = sandbox.plimsoll(&["backup", "verify", "store.db.backup.LATEST", "--json"]);
    assert_eq!(by_name.exits(0).json()[0]["sound"], true);
    drop(serve);
}

#[test]
fn without_a_configuration_a_database_is_enough_and_nothing_is_pruned_unasked() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let folder = db.parent().unwrap();
    let before = fs::read(&db).unwrap();
    let first = made(&sandbox, &db);
    assert_eq!(first.parent(), Some(folder.join("backups").as_path()));
    assert_eq!(fs::read(&db).unwrap(), before);
    assert_eq!(names(folder), ["backups", "shop.db"], "no lock and no log is left");
    let old = age(&first, "20200101_000000", "2020-01-01T00:00:00Z");
    made(&sandbox, &db);
    assert!(old.exists());
    let output = sandbox.plimsoll(&["backup", "--db", text(&db), "--days", "30"]);
    output.exits(0).says("removed: older than 30 days");
    assert!(!old.exists());
    let listed = sandbox.plimsoll(&["backup", "list", "--db", text(&db)]);
    listed.exits(0).says("verified").says("manual");
}

#[test]
fn a_missing_database_is_not_created_and_nor_is_a_folder_for_its_backups() {
    let sandbox = Sandbox::new();
    for command in [&["backup"][..], &["backup", "list"], &["backup", "prune"]] {
        let output = sandbox.plimsoll(&[command, &["--db", "nowhere/none.db"]].concat());
        assert!(matches!(output.code, Some(0 | 2)), "{}", output.said());
    }
    sandbox.plimsoll(&["backup", "--db", "none.db"]).exits(2).says("there is no database at");
    assert!(!sandbox.root().join("none.db").exists() && !sandbox.root().join("backups").exists());
    fs::write(sandbox.root().join("notes.db"), "no database at all, only some words ".repeat(40)).unwrap();
    sandbox.plimsoll(&["backup", "--db", "notes.db"]).exits(2).says("not a SQLite database");
}

#[test]
fn a_flipped_bit_is_found_also_in_a_compressed_backup_and_is_never_restored() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    for compress in [&[][..], &["--compress"]] {
        let output = sandbox.plimsoll(&[&["backup", "--db", text(&db), "--json"], compress].concat());
        let backup = PathBuf::from(output.exits(0).json()[0]["file"].as_str().unwrap());
        assert_eq!(backup.extension().is_some_and(|end| end == "zst"), !compress.is_empty());
        sandbox.plimsoll(&["backup", "verify", text(&backup)]).exits(0);
        let mut bytes = fs::read(&backup).unwrap();
        let place = bytes.len() / 2;
        bytes[place] ^= 4;
        fs::write(&backup, bytes).unwrap();
        let output = sandbox.plimsoll(&["backup", "verify", text(&backup)]);
        output.exits(1).says("SHA-256");
        assert!(!output.said().contains("✓ Backup database integrity verified"), "{}", output.said());
        let before = shop::dump(&db, &[]);
        let output = sandbox.plimsoll(&["backup", "restore", text(&backup), "--db", text(&db), "--yes"]);
        output.exits(1).says("not sound").says("the database is as it was");
        assert_eq!(shop::dump(&db, &[]), before);
    }
}

#[test]
fn a_restore_brings_the_rows_back_and_keeps_what_it_replaced() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    for compress in [&[][..], &["--compress"]] {
        let before = shop::dump(&db, &[]);
        let output = sandbox.plimsoll(&[&["backup", "--db", text(&db), "--json"], compress].concat());
        let backup = PathBuf::from(output.exits(0).json()[0]["file"].as_str().unwrap());
        shop::open(&db).execute_batch("DELETE FROM order_items; DELETE FROM orders WHERE id > 3").unwrap();
        let wrong = shop::dump(&db, &[]);
        // Nobody is there to be asked.
        let output = sandbox.plimsoll(&["backup", "restore", text(&backup), "--db", text(&db)]);
        output.exits(3).says("orders has 200 rows instead of 3").says("--yes");
        assert_eq!(shop::dump(&db, &[]), wrong);
        let output =
            sandbox.plimsoll(&["backup", "restore", text(&backup), "--db", text(&db), "--yes", "--json"]);
        let line = &output.exits(0).json()[0];
        assert_eq!(line["method"], "through");
        assert_eq!(shop::dump(&db, &[]), before);
        let kept = PathBuf::from(line["kept"].as_str().unwrap());
        assert_eq!(shop::dump(&kept, &[]), wrong, "what was replaced is kept, whole");
        let folder = db.parent().unwrap();
        assert_eq!(names(folder), ["backups", "shop.db"], "no lock and no log is left");
        fs::remove_dir_all(folder.join("backups")).unwrap();
    }
}

#[test]
fn a_database_that_is_gone_or_damaged_is_restored_and_the_damaged_one_is_kept() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let before = shop::dump(&db, &[]);
    let backup = made(&sandbox, &db);
    let restore = ["backup", "restore", text(&backup), "--db", text(&db), "--yes"];
    fs::remove_file(&db).unwrap();
    sandbox.plimsoll(&restore).exits(0).says("as a new file");
    assert_eq!(shop::dump(&db, &[]), before);
    fs::write(&db, b"this was a shop once").unwrap();
    // The test may run where some process cannot be looked into; then somebody must vouch for it.
    let first = sandbox.plimsoll(&restore);
    let output = match first.code {
        Some(3) => {
            first.says("--app-stopped");
            assert_eq!(fs::read(&db).unwrap(), b"this was a shop once");
            sandbox.plimsoll(&[&restore[..], &["--app-stopped"]].concat())
        }
        _ => first,
    };
    output.exits(0).says(".damaged.");
    assert_eq!(shop::dump(&db, &[]), before);
    let folder = db.parent().unwrap().join("backups");
    let damaged = names(&folder).into_iter().find(|name| name.contains(".damaged.")).unwrap();
    assert_eq!(fs::read(folder.join(damaged)).unwrap(), b"this was a shop once");
}

/// After a crash, or where only two of three files were copied. Two connections of one backup kept each other out.
#[test]
fn a_log_that_was_left_without_its_index_is_backed_up_restored_over_and_migrated() {
    let sandbox = Sandbox::new();
    let seeded = alone(&sandbox);
    let (db, folder) = (sandbox.root().join("left/shop.db"), sandbox.root().join("left"));
    fs::create_dir(&folder).unwrap();
    let leave = || {
        let app = shop::open(&seeded);
        app.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(())).unwrap();
        app.execute_batch("INSERT INTO orders (reference, created_at) VALUES (hex(randomblob(8)), 'now')")
            .unwrap();
        let rows = app.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, i64>(0)).unwrap();
        for suffix in ["", "-wal"] {
            let from = format!("{}{suffix}", seeded.display());
            fs::copy(from, format!("{}{suffix}", db.display())).unwrap();
        }
        let _ = fs::remove_file(format!("{}-shm", db.display()));
        rows
    };
    let rows = leave();
    let at_rest = names(&folder);
    sandbox.plimsoll(&["verify", "--db", text(&db), "--quiet"]).exits(0);
    let backup = made(&sandbox, &db);
    assert_eq!(orders(&backup), rows, "what is in the log is in the backup");
    assert_eq!(names(&folder), [&["backups".to_owned()], &at_rest[..]].concat(), "nothing is left beside it");
    leave();
    sandbox.plimsoll(&["backup", "restore", "--db", text(&db), text(&backup), "--yes"]).exits(0);
    assert_eq!(orders(&db), rows);
    let rows = leave();
    fs::create_dir(folder.join("migrations")).unwrap();
    fs::write(folder.join("migrations/0001_shop.sql"), shop::FIRST.1).unwrap();
    fs::write(folder.join(shop::ADD_COLUMN.0), shop::ADD_COLUMN.1).unwrap();
    let migrations = folder.join("migrations");
    sandbox.plimsoll(&["migrate", "up", "--db", text(&db), "--dir", text(&migrations)]).exits(0);
    assert_eq!(orders(&db), rows);
    assert_eq!(shop::number(&db, "SELECT max(version) FROM schema_version"), 2);
}

/// One took the other's file, just begun, for the leftover of a dead owner.
#[test]
fn backups_at_the_same_time_are_all_made_and_all_of_them_count() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let usb = sandbox.root().join("usb");
    fs::create_dir(&usb).unwrap();
    let start = || sandbox.start(&["backup", "--db", text(&db), "--json"]);
    let made: Vec<_> = [start(), start(), start(), start()].map(plimsoll_testkit::Running::wait).into();
    let files: std::collections::BTreeSet<String> =
        made.iter().map(|o| o.exits(0).json()[0]["file"].as_str().unwrap().to_owned()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    let copies = files.iter().map(|file| sandbox.start(&["backup", "copy", file, text(&usb)]));
    for output in copies.collect::<Vec<_>>().into_iter().map(plimsoll_testkit::Running::wait) {
        output.exits(0);
    }
    for file in &files {
        sandbox.plimsoll(&["backup", "verify", file]).exits(0);
        assert!(usb.join(Path::new(file).file_name().unwrap()).exists(), "{file}");
    }
}

#[test]
fn a_folder_in_the_place_of_the_database_is_told_as_one() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.root().join("shop.db")).unwrap();
    let output = sandbox.plimsoll(&["verify", "--db", "shop.db"]);
    output.exits(1).says("✗ file exists").says("is a folder");
    sandbox.plimsoll(&["backup", "--db", "shop.db"]).exits(2);
}

#[test]
fn a_restore_into_a_new_file_touches_no_database_and_replaces_none() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let backup = made(&sandbox, &db);
    let before = fs::read(&db).unwrap();
    let restore = ["backup", "restore", text(&backup), "--to", "look.db"];
    sandbox.plimsoll(&restore).exits(0);
    let look = sandbox.root().join("look.db");
    assert_eq!(shop::dump(&look, &[]), shop::dump(&db, &[]));
    assert_eq!(fs::read(&db).unwrap(), before);
    sandbox.plimsoll(&restore).exits(2).says("is there already");
}

#[test]
fn under_a_running_app_a_restore_is_refused_with_ways_out() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.plimsoll(&["backup"]).exits(0);
    let before = shop::dump(&sandbox.database(), &[]);
    let latest = "backups/store.db.backup.LATEST";
    let output = sandbox.plimsoll(&["backup", "restore", latest, "--yes"]);
    output.exits(3).says("plimsoll rollback").says("--to /tmp/look.db");
    // Naming the file does not go round the app's lock.
    let by_file = ["backup", "restore", latest, "--db", "shared/store.db", "--yes"];
    sandbox.plimsoll(&by_file).exits(3).says("plimsoll rollback");
    assert_eq!(shop::dump(&sandbox.database(), &[]), before);
    drop(serve);
    shop::open(&sandbox.database()).execute("DELETE FROM regions", []).unwrap();
    sandbox.plimsoll(&["backup", "restore", latest, "--yes"]).exits(0).says("start the app again");
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM regions"), 3);
}

#[test]
fn a_database_that_some_process_has_open_is_not_restored_under_it() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let backup = made(&sandbox, &db);
    let open = shop::open(&db);
    open.execute("DELETE FROM regions", []).unwrap();
    let restore = ["backup", "restore", text(&backup), "--db", text(&db), "--yes"];
    let output = sandbox.plimsoll(&restore);
    output.exits(3).says(&format!("process {}", std::process::id()));
    assert_eq!(shop::number(&db, "SELECT count(*) FROM regions"), 0);
    drop(open);
    sandbox.plimsoll(&restore).exits(0);
    assert_eq!(shop::number(&db, "SELECT count(*) FROM regions"), 3);
}

#[test]
fn pruning_says_of_each_why_and_a_dry_run_removes_nothing() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let newest = made(&sandbox, &db);
    let old = [
        ("20200105_100000", "2020-01-05"),
        ("20200210_100000", "2020-02-10"),
        ("20200211_100000", "2020-02-11"),
    ]
    .map(|(stamp, day)| age(&newest, stamp, &format!("{day}T10:00:00Z")));
    // Its manifest is gone: whose it is and whether it is good is unknown.
    let unknown = PathBuf::from(text(&newest).rsplit_once('.').unwrap().0.to_owned() + ".20190101_000000");
    fs::copy(&newest, &unknown).unwrap();
    let prune = ["backup", "prune", "--db", text(&db), "--days", "2", "--monthly", "3"];
    let dry = sandbox.plimsoll(&[&prune[..], &["--dry-run"]].concat());
    dry.exits(0).says("would be removed").says("monthly rule").says("the newest verified backup");
    assert!(old.iter().all(|path| path.exists()), "a dry run has removed something");
    let output = sandbox.plimsoll(&[&prune[..], &["--json"]].concat());
    let fates = output.exits(0).json();
    assert_eq!(fates.len(), 5);
    assert!(fates.iter().all(|fate| !fate["reason"].as_str().unwrap().is_empty()));
    let there = old.each_ref().map(|path| path.exists());
    assert_eq!(there, [true, false, true], "the last of each month stays");
    assert!(newest.exists() && unknown.exists());
    assert!(!PathBuf::from(format!("{}.json", old[1].display())).exists(), "its manifest goes with it");
}

#[test]
fn what_the_last_runs_need_is_never_pruned() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before_deploy = fs::canonicalize(sandbox.root().join("backups/store.db.backup.LATEST")).unwrap();
    let old = age(&before_deploy, "20200101_000000", "2020-01-01T00:00:00Z");
    sandbox.plimsoll(&["backup"]).exits(0);
    let output = sandbox.plimsoll(&["backup", "prune", "--days", "1"]);
    output.exits(0).says("run 000001 may need it");
    assert!(old.exists());
    drop(serve);
}

#[test]
fn a_disk_that_fills_up_leaves_no_partial_backup_and_the_old_one() {
    let sandbox = match Sandbox::on_small_disk(8 * 1024) {
        Ok(sandbox) => sandbox,
        Err(why) => return fault::skipped("a backup on a full disk", &why),
    };
    let db = sandbox.database();
    shop::open(&db)
        .execute_batch(
            "CREATE TABLE pictures (bytes BLOB); INSERT INTO pictures VALUES (randomblob(1500000));",
        )
        .unwrap();
    sandbox.plimsoll(&["backup"]).exits(0);
    let backups = sandbox.root().join("backups");
    let before = names(&backups);
    for leave_kib in [1_000, 1_600, 64, 0] {
        let ballast = sandbox.disk().unwrap().fill(leave_kib);
        let output = sandbox.plimsoll(&["backup"]);
        output.exits(1).says("room").says("there is no new backup");
        fs::remove_file(ballast).unwrap();
        assert_eq!(names(&backups), before, "with {leave_kib} KiB");
    }
    sandbox.plimsoll(&["backup", "verify", "store.db.backup.LATEST"]).exits(0);
}

#[test]
fn second_copies_go_to_the_configured_folders_and_a_missing_disk_costs_only_its_copy() {
    let mut sandbox = Sandbox::new();
    let usb = sandbox.root().join("usb");
    fs::create_dir(&usb).unwrap();
    sandbox.configure("backup.copies = ['usb']");
    sandbox.plimsoll(&["backup"]).exits(0).says("read back and compared");
    let copy = names(&usb).into_iter().find(|name| name.starts_with("store.db.backup.2")).unwrap();
    sandbox.plimsoll(&["backup", "verify", &format!("usb/{}", copy.trim_end_matches(".json"))]).exits(0);
    sandbox.plimsoll(&["backup", "list"]).exits(0).says("copied");
    // The disk is not mounted: what is left is the empty mount point.
    fs::remove_dir_all(&usb).unwrap();
    fs::create_dir(&usb).unwrap();
    let output = sandbox.plimsoll(&["backup"]);
    output.exits(1).says("is there and counts").says("not the disk that copies went to before");
    assert_eq!(names(&usb), Vec::<String>::new(), "the mount point was filled");
    sandbox.plimsoll(&["backup", "verify", "store.db.backup.LATEST"]).exits(0);
    let again = ["backup", "copy", "store.db.backup.LATEST", "usb"];
    sandbox.plimsoll(&again).exits(3).says("--new-disk");
    sandbox.plimsoll(&[&again[..], &["--new-disk"]].concat()).exits(0);
    sandbox.plimsoll(&again).exits(0).says("was there already");
}

#[test]
fn a_drill_restores_the_newest_backup_of_each_place_and_finds_one_that_cannot_be() {
    let sandbox = Sandbox::new();
    let db = alone(&sandbox);
    let nas = sandbox.root().join("nas");
    fs::create_dir(&nas).unwrap();
    sandbox.plimsoll(&["backup", "drill", "--db", text(&db)]).exits(1).says("there are no backups");
    let before = fs::read(&db).unwrap();
    let backup = made(&sandbox, &db);
    sandbox.plimsoll(&["backup", "copy", text(&backup), "nas"]).exits(0);
    let output = sandbox.plimsoll(&["backup", "drill", "--db", text(&db), "--json"]);
    let drilled = output.exits(0).json();
    assert_eq!(drilled.len(), 2);
    assert!(drilled.iter().all(|line| line["rows"].as_u64() > Some(400)), "{drilled:?}");
    sandbox.plimsoll(&["backup", "list", "--db", text(&db)]).exits(0).says("drilled");
    let copy = nas.join(backup.file_name().unwrap());
    let mut bytes = fs::read(&copy).unwrap();
    bytes[9000] ^= 1;
    fs::write(&copy, bytes).unwrap();
    let output = sandbox.plimsoll(&["backup", "drill", "--db", text(&db)]);
    output.exits(1).says("nas: ").says("not sound");
    assert_eq!(fs::read(&db).unwrap(), before);
    let left: Vec<_> =
        names(backup.parent().unwrap()).into_iter().filter(|name| name.contains("drill")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_deployment_copies_its_backup_and_a_missing_disk_does_not_stop_it() {
    let mut sandbox = Sandbox::new();
    let usb = sandbox.root().join("usb");
    fs::create_dir(&usb).unwrap();
    sandbox.configure("backup.copies = ['usb', 'nas']");
    let serve = sandbox.live();
    let copied = names(&usb).into_iter().find(|name| name.starts_with("store.db.backup.2")).unwrap();
    let report = sandbox.read("runs/000001/report.json");
    assert!(report.contains(copied.trim_end_matches(".json")) && report.contains("backup.second"));
    assert!(report.contains("there is no folder"), "the missing one is told: {report}");
    sandbox.plimsoll(&["status"]).exits(0).says("none drilled yet").says("nas: there is no folder");
    sandbox.plimsoll(&["backup", "drill"]).exits(1).says("nas: ");
    sandbox.plimsoll(&["status"]).exits(0).says("last drilled ");
    drop(serve);
}
