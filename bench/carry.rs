//! The carry-over of 1,000 changed rows from a small and from a large database, and the ratio of the two times: how far the
//! cost follows the change and not the database. `cargo bench -p plimsoll-host --bench carry -- [MEGABYTES]...`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plimsoll_host::sqlite::carry::{self, Options};
use plimsoll_host::sqlite::diff::Side;
use plimsoll_host::sqlite::{Control, Limits};
use rusqlite::Connection;

/// Runs of each size, in turn; larger ones than this many megabytes run once.
const RUNS: usize = 3;
const ONCE_ABOVE: u64 = 2_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let given = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let mut sizes: Vec<u64> = given.map(|word| word.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes = vec![100, 1_000];
    }
    // Beside the build: the folder for temporary files may be in memory.
    let folder = tempfile::tempdir_in(std::env::current_exe()?.parent().unwrap_or(Path::new(".")))?;
    let mut beds = Vec::new();
    for megabytes in &sizes {
        beds.push((Bed::make(&folder.path().join(megabytes.to_string()), *megabytes)?, Vec::new()));
    }
    for run in 0..RUNS {
        for ((bed, times), megabytes) in beds.iter_mut().zip(&sizes) {
            if run == 0 || *megabytes <= ONCE_ABOVE {
                times.push(bed.carry()?);
            }
        }
    }
    let mut first = None;
    for ((bed, times), megabytes) in beds.iter_mut().zip(&sizes) {
        times.sort();
        let median = times[times.len() / 2].as_secs_f64();
        let ratio = median / *first.get_or_insert(median);
        let size = fs::metadata(bed.at("now"))?.len() >> 20;
        println!(
            "carry-over of 1,000 changed rows from {size:>6} MiB ({megabytes} MB asked): {median:>8.3} s, {ratio:>5.1} x the first"
        );
    }
    Ok(())
}

/// PRE, POST after a rename and two new columns, and NOW after 1,000 changes.
struct Bed {
    folder: PathBuf,
}

impl Bed {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.db"))
    }

    fn make(folder: &Path, megabytes: u64) -> Result<Bed, Failure> {
        fs::create_dir_all(folder)?;
        let bed = Bed { folder: folder.to_owned() };
        let orders = i64::try_from((megabytes << 20) / 240)?;
        let pre = Connection::open(bed.at("pre"))?;
        pre.execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
             CREATE TABLE orders(id INTEGER PRIMARY KEY AUTOINCREMENT, reference TEXT NOT NULL UNIQUE, address TEXT NOT NULL);
             CREATE TABLE order_items(id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders(id), paise INTEGER);
             BEGIN;",
        )?;
        pre.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO orders SELECT i, printf('order-%012d', i), hex(randomblob(60)) FROM n",
            [orders],
        )?;
        pre.execute_batch(
            "INSERT INTO order_items(order_id, paise) SELECT id, id % 99900 FROM orders; COMMIT;",
        )?;
        drop(pre);
        fs::copy(bed.at("pre"), bed.at("post"))?;
        let post = Connection::open(bed.at("post"))?;
        post.execute_batch(
            "ALTER TABLE orders ADD COLUMN channel TEXT; ALTER TABLE orders RENAME COLUMN address TO shipping;
             ALTER TABLE order_items ADD COLUMN note TEXT;",
        )?;
        drop(post);
        fs::copy(bed.at("post"), bed.at("now"))?;
        let now = Connection::open(bed.at("now"))?;
        now.execute_batch("PRAGMA synchronous = OFF; BEGIN;")?;
        for number in 0..250 {
            let old = 1 + number * (orders / 250);
            now.execute("UPDATE orders SET shipping = 'moved' WHERE id = ?1", [old])?;
            now.execute("DELETE FROM order_items WHERE id = ?1", [old + 1])?;
            now.execute(
                "INSERT INTO orders (reference, shipping) VALUES (?1, 'new')",
                [format!("late-{number}")],
            )?;
            now.execute(
                "INSERT INTO order_items (order_id, paise) VALUES (?1, 5)",
                [now.last_insert_rowid()],
            )?;
        }
        now.execute_batch("COMMIT")?;
        Ok(bed)
    }

    fn carry(&self) -> Result<Duration, Failure> {
        let (pre, post, now, out, aside) =
            (self.at("pre"), self.at("post"), self.at("now"), self.at("out"), self.at("aside"));
        let options = Options {
            pre: &pre,
            post: &post,
            now: Side::Finished(&now),
            out: &out,
            aside: &aside,
            renames: &[],
            skip: &[],
            hash_now: false,
            limits: Limits::default(),
        };
        let began = Instant::now();
        let carried = carry::prepare(&options, &mut Control::default())?;
        let took = began.elapsed();
        let applied: u64 = carried.tables.values().map(carry::Tally::total).sum();
        if applied != 1_000 {
            return Err(format!("{applied} differences were found instead of 1,000").into());
        }
        fs::remove_file(&out)?;
        Ok(took)
    }
}
