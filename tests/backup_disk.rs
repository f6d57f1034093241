//! A disk of 64 MiB that fills at every step of everything that is done with backups and migrations: the database is
//! the old or the new one, whole; the error says which, and what to type; nothing partial takes up room; and with room
//! the same command does what it is for.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use plimsoll_testkit::s3::{BUCKET, S3Server};
use plimsoll_testkit::{Output, Sandbox, fault, shop, soak};
use rusqlite::{Connection, OpenFlags};

use crate::backup_s3::point_at;
use crate::kills::note;

const DISK_KIB: u64 = 64 * 1024;
/// What a failed command may take of the disk: states, reports, and blocks that are begun.
const SLACK_KIB: u64 = 256;

/// An app's root on the small disk, and how it is set up again before each try.
struct Disk {
    sandbox: Sandbox,
    /// The root as it was when it was kept, off the disk.
    kept: tempfile::TempDir,
    /// Backups that count: plain, and compressed.
    good: String,
    packed: String,
}

impl Disk {
    /// `None` after it was said why not.
    fn new(test: &str) -> Option<Disk> {
        let sandbox = match Sandbox::on_small_disk(DISK_KIB) {
            Ok(sandbox) => sandbox,
            Err(why) => {
                fault::skipped(test, &why);
                return None;
            }
        };
        let own = Connection::open(sandbox.database()).unwrap();
        own.execute_batch(
            "CREATE TABLE photos (id INTEGER PRIMARY KEY, jpeg BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO photos (jpeg) SELECT randomblob(10000) FROM n;",
        )
        .unwrap();
        drop(own);
        let file = |output: Output| output.exits(0).json()[0]["file"].as_str().unwrap().to_owned();
        let good = file(sandbox.plimsoll(&["backup", "--json"]));
        let packed = file(sandbox.plimsoll(&["backup", "--json", "--compress"]));
        let own = Connection::open(sandbox.database()).unwrap();
        own.execute_batch("DELETE FROM orders WHERE id > 100; UPDATE photos SET jpeg = randomblob(9000)")
            .unwrap();
        drop(own);
        for folder in ["usb", "home", "migrations"] {
            fs::create_dir(sandbox.root().join(folder)).unwrap();
        }
        let migrations = sandbox.root().join("migrations");
        fs::write(migrations.join("0001_shop.sql"), shop::FIRST.1).unwrap();
        fs::write(
            migrations.join("0002_photos.sql"),
            "CREATE TABLE p (id INTEGER PRIMARY KEY, jpeg BLOB, note TEXT);
             INSERT INTO p (id, jpeg) SELECT id, jpeg FROM photos; DROP TABLE photos;
             ALTER TABLE p RENAME TO photos;",
        )
        .unwrap();
        let down = "ALTER TABLE photos DROP COLUMN note";
        fs::write(migrations.join("0002_photos.down.sql"), down).unwrap();
        let disk = Disk { sandbox, kept: tempfile::tempdir().unwrap(), good, packed };
        disk.keep();
        Some(disk)
    }

    fn path(&self, name: &str) -> String {
        self.sandbox.root().join(name).to_str().unwrap().to_owned()
    }

    /// From now on every try begins with what is there now.
    fn keep(&self) {
        copy_all(self.sandbox.root(), self.kept.path());
    }

    fn reset(&self) {
        copy_all(self.kept.path(), self.sandbox.root());
    }

    /// Runs a command with room, and then on a disk that fills up after it has written more and more.
    fn fills_at_every_step(&self, command: &[&str]) {
        let (sandbox, db) = (&self.sandbox, self.sandbox.database());
        self.reset();
        let before = digest(&db);
        self.reset();
        let watched = sandbox.disk().unwrap().full_after(None);
        let output = sandbox.plimsoll(command);
        let (_, most) = watched.end();
        assert!(output.code == Some(0), "{command:?} with room: {}", output.said());
        let after = digest(&db);
        let steps = soak::rounds(4, 60) as u64;
        let (mut done, mut refused) = (0, 0);
        for step in 0..steps {
            self.reset();
            let (files, used) = (listing(sandbox.root()), used_kib(sandbox));
            let at = most * step / steps;
            let filling = sandbox.disk().unwrap().full_after(Some(at));
            let output = sandbox.plimsoll(command);
            let (full, _) = filling.end();
            let told = format!("{command:?}, full after {at} of {most} KiB: {}", output.said());
            if output.code == Some(1) {
                self.nothing_partial(&files, used, &told);
            }
            let found = digest(&db);
            match output.code {
                Some(0) => {
                    done += 1;
                    assert_eq!(found, after, "{told}");
                }
                Some(1) => {
                    refused += 1;
                    assert!(full, "it failed with room; {told}");
                    assert!(found == before || found == after, "neither the old nor the new; {told}");
                    let why = ["not enough room", "became full", "No space left"];
                    assert!(why.iter().any(|word| output.said().contains(word)), "why? {told}");
                    let state = output.said().split("state: ").nth(1).map(str::to_owned);
                    let state = state.unwrap_or_else(|| panic!("in what state? {told}"));
                    if before != after && found == after {
                        assert!(!state.contains("the database is as it was"), "{told}");
                    }
                    assert!(output.said().contains("next: "), "what next? {told}");
                }
                other => panic!("{other:?}: {told}"),
            }
            if output.code == Some(1) {
                sandbox.plimsoll(command).exits(0);
                assert_eq!(digest(&db), after, "with room again; {told}");
            }
        }
        note(&format!("{command:?}: {most} KiB at most; {done} done, {refused} refused"));
        assert!(refused > 0 || most < 4, "it was never met by a full disk: {command:?}, {most} KiB");
    }

    /// Only whole backups may be new, and what is new takes the room of those.
    fn nothing_partial(&self, before: &BTreeMap<PathBuf, u64>, used: u64, told: &str) {
        let mut room = SLACK_KIB;
        for (path, bytes) in listing(self.sandbox.root()) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            // Locks and states; they are small, and stay.
            let known = ["destinations.json", ".plimsoll-copies", "LOCK", "store.db-wal", "store.db-shm"];
            // Whole, or it would not have this name.
            let whole = ["report.json", "store.db.plimsoll-expect.json"].contains(&&*name)
                && serde_json::from_slice::<serde_json::Value>(&fs::read(&path).unwrap()).is_ok();
            if before.contains_key(&path) || known.contains(&&*name) || whole {
                continue;
            }
            let backup = PathBuf::from(path.to_str().unwrap().trim_end_matches(".json"));
            let manifest = PathBuf::from(format!("{}.json", backup.display()));
            let whole = name.contains(".backup.") && backup.exists() && manifest.exists();
            assert!(whole, "{} was left; {told}", path.display());
            room += bytes / 1024;
        }
        let now = used_kib(&self.sandbox);
        assert!(now <= used + room, "{used} KiB were used before and {now} after; {told}");
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(to).unwrap().map(|entry| entry.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true => fs::remove_dir_all(entry.path()).unwrap(),
            false => fs::remove_file(entry.path()).unwrap(),
        }
    }
    let done = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(done.success());
}

fn used_kib(sandbox: &Sandbox) -> u64 {
    DISK_KIB - sandbox.disk().unwrap().free_kib()
}

/// Every file and its blocks.
fn listing(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(listing(&entry.path())),
            false => drop(found.insert(entry.path(), entry.metadata().unwrap().blocks() * 512)),
        }
    }
    found
}

/// What tells one database from another, and that it is whole; a missing or foreign file is one of its own.
fn digest(db: &Path) -> String {
    let open = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let read = |own: &Connection| -> rusqlite::Result<String> {
        let text = |sql| own.query_row(sql, [], |row| row.get::<_, String>(0));
        let sound = text("PRAGMA integrity_check")?;
        let rows = text(
            "SELECT (SELECT count(*) FROM orders) || ' ' || (SELECT sum(length(jpeg)) FROM photos) || ' '
               || (SELECT count(*) FROM pragma_table_info('photos')) || ' ' || (SELECT max(version) FROM schema_version)",
        )?;
        Ok(format!("{rows}: {sound}"))
    };
    let found = open.and_then(|own| read(&own)).unwrap_or_else(|error| format!("unreadable: {error}"));
    assert!(found.ends_with(": ok") || found.starts_with("unreadable"), "{found}");
    found
}

#[test]
fn a_disk_that_fills_at_any_step_of_a_backup_leaves_the_others_good_and_nothing_partial() {
    let Some(disk) = Disk::new("a disk that fills during a backup") else { return };
    disk.fills_at_every_step(&["backup"]);
    disk.fills_at_every_step(&["backup", "--compress"]);
    disk.fills_at_every_step(&["backup", "verify", &disk.packed]);
    disk.fills_at_every_step(&["backup", "drill"]);
    disk.fills_at_every_step(&["backup", "copy", &disk.good, &disk.path("usb")]);
}

#[test]
fn a_disk_that_fills_at_any_step_of_a_restore_leaves_the_old_or_the_new_database_whole() {
    let Some(disk) = Disk::new("a disk that fills during a restore") else { return };
    disk.fills_at_every_step(&["backup", "restore", &disk.good, "--yes"]);
    disk.fills_at_every_step(&["backup", "restore", &disk.packed, "--yes"]);
    disk.fills_at_every_step(&["backup", "restore", &disk.good, "--to", &disk.path("new.db")]);
    // Those that are renamed over: another page size, damaged, missing.
    disk.reset();
    let db = disk.sandbox.database();
    let own = shop::open(&db);
    own.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM").unwrap();
    drop(own);
    disk.keep();
    disk.fills_at_every_step(&["backup", "restore", &disk.good, "--yes", "--app-stopped"]);
    fs::write(&db, [7; 100_000]).unwrap();
    disk.keep();
    disk.fills_at_every_step(&["backup", "restore", &disk.packed, "--yes", "--app-stopped"]);
    fs::remove_file(&db).unwrap();
    disk.keep();
    disk.fills_at_every_step(&["backup", "restore", &disk.good, "--yes", "--app-stopped"]);
}

#[test]
fn a_disk_that_fills_at_any_step_of_a_migration_leaves_the_database_as_it_was_or_migrated() {
    let Some(disk) = Disk::new("a disk that fills during a migration") else { return };
    disk.fills_at_every_step(&["migrate", "lint", "--dir", "migrations"]);
    disk.fills_at_every_step(&["migrate", "up", "--dir", "migrations"]);
    disk.reset();
    disk.sandbox.plimsoll(&["migrate", "up", "--dir", "migrations"]).exits(0);
    disk.keep();
    disk.fills_at_every_step(&["migrate", "down", "--dir", "migrations"]);
}

#[test]
fn a_disk_that_fills_at_any_step_of_a_look_at_the_database_costs_only_the_look() {
    let Some(disk) = Disk::new("a disk that fills while a database is verified") else { return };
    let report = disk.path("report.json");
    disk.fills_at_every_step(&["verify", "--learn", "--report", &report]);
    // Opening it needs no room then, so that the report is what does not fit.
    disk.reset();
    let own = shop::open(&disk.sandbox.database());
    own.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    drop(own);
    disk.keep();
    disk.fills_at_every_step(&["verify", "--learn", "--report", &report]);
    let made = disk.sandbox.plimsoll(&["backup", "--json", "--compress"]);
    let same = made.exits(0).json()[0]["file"].as_str().unwrap().to_owned();
    disk.keep();
    disk.fills_at_every_step(&["verify", "--compare", &same]);
    disk.fills_at_every_step(&["backup", "prune", "--days", "1"]);
}

#[test]
fn a_disk_that_fills_while_a_backup_comes_home_from_a_bucket_leaves_nothing_of_it() {
    let test = "a disk that fills during a copy from S3";
    let Some(mut disk) = Disk::new(test) else { return };
    let server = match S3Server::start() {
        Ok(server) => server,
        Err(why) => return fault::skipped(test, &why),
    };
    point_at(&mut disk.sandbox, &server.endpoint(), "");
    let place = format!("s3://{BUCKET}/shop");
    disk.sandbox.plimsoll(&["backup", "copy", &disk.good, &place]).exits(0);
    disk.keep();
    let from = format!("{place}/store.db.backup.LATEST");
    disk.fills_at_every_step(&["backup", "copy", &from, "home"]);
    disk.fills_at_every_step(&["backup", "copy", &disk.packed, &place]);
    disk.fills_at_every_step(&["backup", "drill"]);
}
