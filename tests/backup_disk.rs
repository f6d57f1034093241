//! A disk of 64 MiB that fills at every step of a backup, a copy, a drill, a restore and a migration: each is either
//! done or not begun, the database is whole, the good backup stays good, and nothing partial is left.

use std::fs;
use std::path::Path;

use plimsoll_testkit::{Sandbox, fault, shop, soak};

const DISK_KIB: u64 = 64 * 1024;
/// A step of the filling: a little less than what a page of room makes of a difference.
const MOST_KIB: u64 = 40 * 1024;

fn digest(db: &Path) -> (i64, i64, String) {
    let number = |sql| shop::number(db, sql);
    let own = rusqlite::Connection::open_with_flags(db, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sound = own.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    (
        number("SELECT count(*) FROM orders"),
        number("SELECT coalesce(sum(length(jpeg)), 0) FROM photos"),
        sound,
    )
}

fn partials(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".partial-") || name.contains(".drill-")).collect()
}

#[test]
fn a_disk_that_fills_at_any_step_leaves_the_database_whole_and_the_good_backup_good() {
    let sandbox = match Sandbox::on_small_disk(DISK_KIB) {
        Ok(sandbox) => sandbox,
        Err(why) => return fault::skipped("a disk of 64 MiB that fills", &why),
    };
    let db = sandbox.database();
    let own = rusqlite::Connection::open(&db).unwrap();
    own.execute_batch("CREATE TABLE photos (id INTEGER PRIMARY KEY, jpeg BLOB)").unwrap();
    own.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800)
         INSERT INTO photos (jpeg) SELECT randomblob(10000) FROM n",
    )
    .unwrap();
    drop(own);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let made = sandbox.plimsoll(&["backup", "--json"]);
    let good = made.exits(0).json()[0]["file"].as_str().unwrap().to_owned();
    fs::create_dir(sandbox.root().join("usb")).unwrap();
    fs::create_dir(sandbox.root().join("migrations")).unwrap();
    fs::write(
        sandbox.root().join("migrations/0001_photos.sql"),
        "CREATE TABLE p (id INTEGER PRIMARY KEY, jpeg BLOB, note TEXT);
         INSERT INTO p (id, jpeg) SELECT id, jpeg FROM photos; DROP TABLE photos; ALTER TABLE p RENAME TO photos;",
    )
    .unwrap();
    let before = digest(&db);
    let usb = text(&sandbox.root().join("usb"));
    let new = text(&sandbox.root().join("new.db"));
    let commands: [&[&str]; 7] = [
        &["backup"],
        &["backup", "--compress"],
        &["backup", "copy", &good, &usb],
        &["backup", "drill"],
        &["backup", "restore", &good, "--yes"],
        &["backup", "restore", &good, "--to", &new],
        &["migrate", "lint", "--dir", "migrations"],
    ];
    let steps = soak::rounds(5, 60) as u64;
    let (mut done, mut refused) = (0, 0);
    for step in 0..steps {
        let leave = MOST_KIB * step * step / (steps * steps);
        let ballast = sandbox.disk().unwrap().fill(leave);
        for command in commands {
            let output = sandbox.plimsoll(command);
            match output.code {
                Some(0) => done += 1,
                // Refused for want of room; a lint that has remarks of danger ends like that too.
                Some(1) => {
                    refused += 1;
                    let said = output.said();
                    let why = ["room", "full", "dangers", "No space", "there is no backup that counts"]
                        .iter()
                        .any(|word| said.contains(word));
                    assert!(why, "{command:?} with {leave} KiB: {said}");
                }
                other => panic!("{command:?} with {leave} KiB ended with {other:?}: {}", output.said()),
            }
            assert_eq!(digest(&db), before, "{command:?} with {leave} KiB");
            for folder in ["backups", "usb", "shared", "."] {
                assert_eq!(
                    partials(&sandbox.root().join(folder)),
                    Vec::<String>::new(),
                    "{command:?}, {leave} KiB"
                );
            }
            // Room for the next one: only the good one stays.
            for folder in ["backups", "usb", "."] {
                for entry in fs::read_dir(sandbox.root().join(folder)).unwrap() {
                    let path = entry.unwrap().path();
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    let ours = [".backup.2", ".damaged.2"].iter().any(|part| name.contains(part))
                        || name == "new.db";
                    let kept = folder == "backups" && text(&path).starts_with(&good);
                    if ours && !kept {
                        fs::remove_file(&path).unwrap();
                    }
                }
            }
        }
        fs::remove_file(ballast).unwrap();
        sandbox.plimsoll(&["backup", "verify", &good]).exits(0);
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused: both were met");
}
