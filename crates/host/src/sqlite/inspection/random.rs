//! The inspection beside SQLite itself, on random schemas with random rows, and on random damage to them.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{Seen, Trouble, look};
use crate::sqlite::Error;
use crate::sqlite::connection::open_finished;
use crate::sqlite::control::Control;
use crate::sqlite::fingerprint::{Depth, Fingerprint, Hashing, Known};
use crate::sqlite::verify::{integrity, integrity_of_rest};

/// Numbers that are the same in every run with the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }

    fn value(&mut self) -> String {
        match self.roll(17) {
            0 | 1 => "NULL".into(),
            2 => self.roll(4).to_string(),
            3 => format!("-{}", self.roll(70_000)),
            4 => (self.roll(u64::MAX) >> self.roll(60)).min(i64::MAX.unsigned_abs()).to_string(),
            5 => format!("{}.0", self.roll(9)),
            6 => format!("{}.{}e{}", self.roll(9), self.roll(99), self.roll(40)),
            7 => self.one(&["-0.0", "1e308", "9007199254740993", "9223372036854775807.0", "-9e18"]).into(),
            8 => format!("'{}'", self.one(&["a", "A", "b ", "b", "B  ", "", " ", "é", "É", "ab", "aB"])),
            9 => format!("'{}'", self.one(&["12", " 7", "1e3", "x1", "-", "+5", ".5", "12abc", "0x10"])),
            10 => format!("x'{:x}'", self.roll(200) + 0x10),
            11 => format!("printf('%.*c', {}, 'y') || {}", self.roll(3_000), self.roll(9)),
            12 => format!("randomblob({})", self.roll(5_000)),
            13 => "'a' || char(0) || 'b'".into(),
            _ => format!("'word-{}'", self.roll(200)),
        }
    }
}

const TYPES: [&str; 12] = [
    "INT",
    "INTEGER",
    "TEXT",
    "REAL",
    "BLOB",
    "",
    "NUMERIC",
    "VARCHAR(20)",
    "DOUBLE",
    "DATETIME",
    "FLOATING POINT",
    "ANY",
];
const STRICT: [&str; 6] = ["INT", "INTEGER", "TEXT", "REAL", "BLOB", "ANY"];

/// Statements that make a database; some of them may fail, as an app's do.
fn statements(dice: &mut Dice) -> Vec<String> {
    let size = 512 << dice.roll(8);
    let mut all = vec![
        format!("PRAGMA page_size = {size}"),
        format!("PRAGMA auto_vacuum = {}", if dice.once_in(3) { dice.roll(3) } else { 0 }),
    ];
    if dice.once_in(10) {
        all.push(format!("PRAGMA encoding = '{}'", dice.one(&["UTF-16le", "UTF-16be"])));
    }
    let mut tables = Vec::new();
    for table in 0..=dice.roll(3) {
        let strict = dice.once_in(4);
        let keyless = dice.once_in(3);
        let mut columns = Vec::new();
        let key = dice.roll(5);
        match (key, keyless) {
            (0..=2, false) => columns.push("c0 INTEGER PRIMARY KEY".to_owned()),
            (3, false) => columns.push("c0 INTEGER PRIMARY KEY AUTOINCREMENT".to_owned()),
            (0, true) => columns.push(format!("c0 {} PRIMARY KEY", dice.one(&["TEXT", "INT", "REAL"]))),
            _ => columns.push("c0 INT".to_owned()),
        }
        let count = 1 + dice.roll(5);
        for column in 1..=count {
            let kind = if strict { dice.one(&STRICT) } else { dice.one(&TYPES) };
            let more = match dice.roll(16) {
                0 => " NOT NULL".into(),
                1 => " UNIQUE".into(),
                2 => " COLLATE NOCASE".into(),
                3 => " COLLATE RTRIM UNIQUE".into(),
                4 => format!(" CHECK (c{column} IS NOT 77)"),
                5 => format!(" REFERENCES t{}", dice.roll(table + 1)),
                6 => format!(" REFERENCES t{} (c0)", dice.roll(table + 1)),
                7 if column > 1 => " AS (c0 || 'v') VIRTUAL".into(),
                8 if column > 1 => " AS (c0) STORED".into(),
                9 => " NOT NULL DEFAULT 5".into(),
                _ => String::new(),
            };
            columns.push(format!("c{column} {kind}{more}"));
        }
        let more = match (key, keyless) {
            (0, true) | (_, false) => String::new(),
            (1, true) => ", PRIMARY KEY (c1, c0 DESC)".into(),
            (2, true) => ", PRIMARY KEY (c1 COLLATE NOCASE, c0, c1)".into(),
            _ => ", PRIMARY KEY (c0 DESC)".into(),
        };
        let end = match (strict, keyless) {
            (true, true) => "STRICT, WITHOUT ROWID",
            (true, false) => "STRICT",
            (false, true) => "WITHOUT ROWID",
            _ => "",
        };
        let kind = if strict { columns.join(", ").replace("INT,", "INTEGER,") } else { columns.join(", ") };
        all.push(format!("CREATE TABLE t{table} ({kind}{more}) {end}"));
        tables.push((format!("t{table}"), count));
        for index in 0..dice.roll(4) {
            let unique = if dice.once_in(4) { "UNIQUE" } else { "" };
            let parts: Vec<String> = (0..=dice.roll(3))
                .map(|_| {
                    let order = dice.one(&["", "", "", " DESC", " COLLATE NOCASE", " COLLATE RTRIM DESC"]);
                    match dice.once_in(20) {
                        true => format!("lower(c{})", dice.roll(count + 1)),
                        false => format!("c{}{order}", dice.roll(count + 1)),
                    }
                })
                .collect();
            let only = if dice.once_in(12) { "WHERE c1 IS NOT NULL" } else { "" };
            all.push(format!(
                "CREATE {unique} INDEX i{table}_{index} ON t{table} ({}) {only}",
                parts.join(", ")
            ));
        }
    }
    if dice.once_in(12) {
        all.push("CREATE VIRTUAL TABLE f USING fts5(body)".into());
        all.push("INSERT INTO f VALUES ('fresh mangoes'), ('old rice')".into());
    }
    let rows = 1 << dice.roll(8);
    for round in 0..2 {
        for _ in 0..rows {
            let (table, count) = tables[usize::try_from(dice.roll(tables.len() as u64)).unwrap()].clone();
            // Plain values for most, so that they pass the rules of most tables.
            let easy = dice.once_in(2);
            let values: Vec<String> = (0..=count)
                .map(|column| match (column, easy) {
                    (0, _) => {
                        if dice.once_in(9) {
                            dice.value()
                        } else {
                            dice.roll(500).to_string()
                        }
                    }
                    (_, true) => dice.one(&["NULL", "7", "300", "'7x'", "'word'", "'Word '"]).to_owned(),
                    _ => dice.value(),
                })
                .collect();
            let names: Vec<String> = (0..=count).map(|column| format!("c{column}")).collect();
            all.push(format!(
                "INSERT OR REPLACE INTO {table} ({}) VALUES ({})",
                names.join(", "),
                values.join(", ")
            ));
            if dice.once_in(3) {
                all.push(format!("INSERT OR IGNORE INTO {table} (c0) VALUES ({})", dice.roll(700)));
            }
        }
        let (table, count) = tables[usize::try_from(dice.roll(tables.len() as u64)).unwrap()].clone();
        match dice.roll(8) {
            0 => all.push(format!("DELETE FROM {table} WHERE rowid % 3 = 0")),
            1 => all.push(format!("DELETE FROM {table} WHERE c0 < 200")),
            2 => all.push(format!(
                "ALTER TABLE {table} ADD COLUMN a{round} INT DEFAULT {}",
                dice.one(&["5", "'9'", "'x'", "-3.0", "NULL", "x'00'"])
            )),
            3 => all.push(format!(
                "ALTER TABLE {table} ADD COLUMN a{round} TEXT NOT NULL DEFAULT {}",
                dice.one(&["5", "'9'", "''", "1.50"])
            )),
            4 => all.push(format!(
                "ALTER TABLE {table} ADD COLUMN a{round} REAL DEFAULT {}",
                dice.one(&["5", "'9'", "2.5"])
            )),
            5 => all.push(format!("DROP TABLE {table}")),
            6 => all.push("ANALYZE".into()),
            _ => {
                all.push(format!("CREATE INDEX late{round} ON {table} (c{}, c0 DESC)", dice.roll(count + 1)))
            }
        }
    }
    if dice.once_in(6) {
        all.push("VACUUM".into());
    }
    all
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn make(folder: &Path, seed: u64) -> (PathBuf, Vec<String>) {
    let path = folder.join("random.db");
    let _ = fs::remove_file(&path);
    let all = statements(&mut Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
    let own = Connection::open(&path).unwrap();
    own.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY")
        .unwrap();
    let mut open = false;
    for sql in &all {
        if sql.starts_with("CREATE TABLE") && !open {
            open = own.execute_batch("BEGIN").is_ok();
        }
        if sql == "VACUUM" && open {
            own.execute_batch("COMMIT").unwrap();
            open = false;
        }
        let _ = own.execute_batch(sql);
    }
    if open {
        own.execute_batch("COMMIT").unwrap();
    }
    (path, all)
}

fn looked(path: &Path, connection: &Connection) -> Result<Option<Seen>, Trouble> {
    look(path, connection, Hashing::Fast, &mut Control::default())
}

/// What both say of a database that SQLite has just made.
#[test]
fn a_sound_database_is_never_found_odd_and_holds_what_sqlite_reads() {
    let (dir, mut seen_tables, mut all_tables, mut left) = (folder(), 0, 0, 0);
    for seed in 1..=plimsoll_testkit::soak::rounds(150, 10_000) {
        let (path, sql) = make(dir.path(), seed as u64);
        let connection = open_finished(&path).unwrap();
        let Known::Is(problems) = integrity(&connection).unwrap() else {
            panic!("seed {seed}: nothing is app-defined")
        };
        let all = Fingerprint::read(&connection, Depth::Content, &mut Control::default()).unwrap();
        let seen = match looked(&path, &connection) {
            Ok(seen) => seen,
            // SQLite itself puts text that looks like a number beside a column's default into such columns.
            Err(Trouble::Odd(_)) if !problems.is_empty() => continue,
            other => panic!("seed {seed}: {other:?}\n{}", sql.join(";\n")),
        };
        let Some(seen) = seen else {
            assert!(sql.iter().any(|sql| sql.contains("UTF-16")) || fs::metadata(&path).unwrap().len() == 0);
            continue;
        };
        let rest = integrity_of_rest(&connection, Some(&seen)).unwrap();
        assert_eq!(
            matches!(&rest, Known::Is(found) if found.is_empty()),
            problems.is_empty(),
            "seed {seed}: {rest:?} {problems:?}"
        );
        let found =
            Fingerprint::read_rest(&connection, Depth::Content.into(), Some(&seen), &mut Control::default())
                .unwrap();
        assert_eq!(found, all, "seed {seed}: {}", sql.join(";\n"));
        seen_tables += seen.tables.keys().filter(|name| all.tables.contains_key(*name)).count();
        all_tables += all.tables.len();
        left += seen.left.len();
    }
    assert!(seen_tables * 10 > all_tables * 9, "{seen_tables} of {all_tables} tables, {left} left to SQLite");
    assert!(left * 4 < all_tables * 3, "{left} of {all_tables} tables are left to SQLite");
}

/// SQLite's verdict on a file: `None` when it cannot judge.
fn verdict(found: rusqlite::Result<Known<Vec<String>>>) -> Option<bool> {
    match found {
        Ok(Known::Is(problems)) => Some(problems.is_empty()),
        Ok(Known::Unknown(_)) => None,
        Err(_) => Some(false),
    }
}

/// Damage of every kind: flipped bits, other bytes, whole pages exchanged, and values changed where a record has them.
fn damage(dice: &mut Dice, good: &[u8]) -> Vec<u8> {
    let mut bad = good.to_vec();
    let size = match u16::from_be_bytes([good[16], good[17]]) {
        1 => 65_536,
        size => usize::from(size),
    };
    let length = good.len() as u64;
    let place = |dice: &mut Dice| {
        let any = usize::try_from(dice.roll(length)).unwrap();
        // Headers and pointers are a small part of a page, and most of what can go wrong.
        match dice.roll(3) {
            0 => any / size * size + (any % 32).min(size - 1),
            1 => any % 112,
            _ => any,
        }
        .min(good.len() - 1)
    };
    for _ in 0..=dice.roll(2) {
        let at = place(dice);
        match dice.roll(6) {
            0 | 1 => bad[at] ^= 1 << dice.roll(8),
            2 => bad[at] = bad[at].wrapping_add(1),
            3 => bad[at] = u8::try_from(dice.roll(256)).unwrap(),
            4 => {
                let (one, two) = (at / size * size, place(dice) / size * size);
                for byte in 0..size.min(bad.len() - one.max(two)) {
                    bad.swap(one + byte, two + byte);
                }
            }
            _ => {
                let end = (at + 4).min(bad.len());
                bad[at..end].rotate_left(1);
            }
        }
    }
    bad
}

#[test]
fn random_damage_gets_the_verdict_that_sqlite_gives() {
    let (dir, mut refused, mut passed) = (folder(), 0, 0);
    let file = dir.path().join("bad.db");
    for seed in 1..=plimsoll_testkit::soak::rounds(25, 500) as u64 {
        let (path, _) = make(dir.path(), seed);
        let good = fs::read(&path).unwrap();
        if good.is_empty() || good.len() > 3 << 20 {
            continue;
        }
        let mut dice = Dice(seed | 1 << 40);
        for round in 0..40 {
            fs::write(&file, damage(&mut dice, &good)).unwrap();
            let connection = match open_finished(&file) {
                Ok(connection) => connection,
                // It is not even looked at.
                Err(Error::Absent { .. } | Error::Io { .. }) => panic!("seed {seed}"),
                Err(_) => continue,
            };
            let Some(theirs) = verdict(integrity(&connection)) else { continue };
            let seen = match looked(&file, &connection) {
                Ok(seen) => seen,
                Err(Trouble::Odd(_) | Trouble::Sql(_)) => None,
                other => panic!("seed {seed}, round {round}: {other:?}"),
            };
            let ours = verdict(integrity_of_rest(&connection, seen.as_ref()));
            assert!(
                ours == Some(theirs) || ours.is_none(),
                "seed {seed}, round {round}: SQLite says {:?}, we say {ours:?} having seen {seen:?}",
                integrity(&connection)
            );
            *if theirs { &mut passed } else { &mut refused } += 1;
            if let (true, Some(seen)) = (theirs, &seen) {
                let quiet = &mut Control::default();
                let all = Fingerprint::read(&connection, Depth::Content, quiet);
                let found = Fingerprint::read_rest(&connection, Depth::Content.into(), Some(seen), quiet);
                match (all, found) {
                    (Ok(all), Ok(found)) => assert_eq!(found, all, "seed {seed}, round {round}"),
                    (Err(_), Err(_)) => {}
                    (all, found) => panic!("seed {seed}, round {round}: {all:?} {found:?}"),
                }
            }
        }
    }
    assert!(refused > 100 && passed > 100, "{refused} refused, {passed} passed");
}
