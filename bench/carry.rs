//! The carry-over of 1,000 changed rows from a small and from a large database, and the ratio of the two times: how far the
//! cost follows the change and not the database. `cargo bench -p plimsoll-host --bench carry -- [MEGABYTES]...`
//!
//! What is done before the hold of a rollback and what is done in it are told apart: in the hold users wait. The live
//! database is in WAL mode; a quarter of the changes come after the copy that is made before the hold.
//! `PLIMSOLL_BENCH_BEDS=FOLDER` keeps the databases there for the next time.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plimsoll_host::sqlite::carry::{self, Carried, Options};
use plimsoll_host::sqlite::copy::copy;
use plimsoll_host::sqlite::diff::Side;
use plimsoll_host::sqlite::fingerprint::Depth;
use plimsoll_host::sqlite::restore::{self, Guard};
use plimsoll_host::sqlite::since::Since;
use plimsoll_host::sqlite::{Control, Limits, Stop, Watcher};
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
    let own = tempfile::tempdir_in(std::env::current_exe()?.parent().unwrap_or(Path::new(".")))?;
    let folder = std::env::var_os("PLIMSOLL_BENCH_BEDS").map_or_else(|| own.path().to_owned(), PathBuf::from);
    let mut beds = Vec::new();
    for megabytes in &sizes {
        beds.push((Bed::make(&folder.join(megabytes.to_string()), *megabytes)?, Vec::new()));
    }
    if std::env::var_os("PLIMSOLL_BENCH_ONLY_MAKE").is_some() {
        return Ok(());
    }
    for run in 0..RUNS {
        for ((bed, times), megabytes) in beds.iter_mut().zip(&sizes) {
            if run == 0 || *megabytes <= ONCE_ABOVE {
                times.push(bed.roll_back()?);
            }
        }
    }
    let mut first: Option<Vec<f64>> = None;
    for ((bed, times), megabytes) in beds.iter_mut().zip(&sizes) {
        let size = fs::metadata(bed.at("post"))?.len() >> 20;
        println!("1,000 changed rows, {size} MiB ({megabytes} MB asked), {} run(s), medians:", times.len());
        let medians: Vec<f64> = (0..STAGES.len())
            .map(|stage| {
                let mut of: Vec<Duration> = times.iter().map(|times| times[stage]).collect();
                of.sort();
                of[of.len() / 2].as_secs_f64()
            })
            .collect();
        let first = first.get_or_insert_with(|| medians.clone());
        for ((name, median), first) in STAGES.iter().zip(&medians).zip(first.iter()) {
            println!("  {name:<62} {median:>8.3} s, {:>5.1} x the first", median / first);
        }
    }
    Ok(())
}

/// What is timed of a rollback, in order.
const STAGES: [&str; 7] = [
    "before the hold: a copy of the database",
    "before the hold: copy and check PRE, compare pages",
    "in the hold: bring the copy up to date",
    "in the hold: carry over",
    "in the hold: put it in place",
    "in the hold, these three",
    "all of it at once, in the hold (rollback journal)",
];

/// PRE, POST after a rename and two new columns, and the live database after 750 of 1,000 changes.
struct Bed {
    folder: PathBuf,
    orders: i64,
}

impl Bed {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.db"))
    }

    fn make(folder: &Path, megabytes: u64) -> Result<Bed, Failure> {
        let orders = i64::try_from((megabytes << 20) / 240)?;
        let bed = Bed { folder: folder.to_owned(), orders };
        if bed.at("post").exists() {
            return Ok(bed);
        }
        fs::create_dir_all(folder)?;
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
        let making = folder.join("making.db");
        fs::copy(bed.at("pre"), &making)?;
        let post = Connection::open(&making)?;
        post.execute_batch(
            "ALTER TABLE orders ADD COLUMN channel TEXT; ALTER TABLE orders RENAME COLUMN address TO shipping;
             ALTER TABLE order_items ADD COLUMN note TEXT;",
        )?;
        drop(post);
        fs::rename(&making, bed.at("post"))?;
        Ok(bed)
    }

    /// 250 changes of each kind, those with a number in `of`.
    fn change(&self, live: &Connection, of: std::ops::Range<i64>) -> Result<(), Failure> {
        live.execute_batch("BEGIN")?;
        for number in of {
            let old = 1 + number * (self.orders / 250);
            live.execute("UPDATE orders SET shipping = 'moved' WHERE id = ?1", [old])?;
            live.execute("DELETE FROM order_items WHERE id = ?1", [old + 1])?;
            live.execute(
                "INSERT INTO orders (reference, shipping) VALUES (?1, 'new')",
                [format!("late-{number}")],
            )?;
            live.execute(
                "INSERT INTO order_items (order_id, paise) VALUES (?1, 5)",
                [live.last_insert_rowid()],
            )?;
        }
        live.execute_batch("COMMIT")?;
        Ok(())
    }

    fn options<'a>(&self, files: &'a [PathBuf; 5]) -> Options<'a> {
        let [pre, post, now, out, aside] = files;
        Options {
            pre,
            post,
            now: Side::Finished(now),
            out,
            aside,
            renames: &[],
            skip: &[],
            hash_now: false,
            limits: Limits::default(),
        }
    }

    /// A whole rollback of the data, as a run makes it.
    fn roll_back(&self) -> Result<Vec<Duration>, Failure> {
        let live = self.at("live");
        fs::copy(self.at("post"), &live)?;
        let app = Connection::open(&live)?;
        app.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        self.change(&app, 0..187)?;
        // The copy of the bed itself must not reach the disk while something is timed.
        on_the_disk(&live)?;
        let files = ["pre", "post", "now", "out", "aside"].map(|name| self.at(name));
        let (mut control, mut times) = (Control::default(), Vec::new());
        let mut began = Instant::now();
        let mut lap = |times: &mut Vec<Duration>| {
            times.push(began.elapsed());
            began = Instant::now();
        };
        let since = Since::begin(&live, Limits::default(), &Stop::new())?.ok_or("pages cannot be told")?;
        copy(&live, &files[2], &Limits::default(), &mut control)?;
        lap(&mut times);
        let staged = carry::stage(&self.options(&files), &mut control)?;
        lap(&mut times);
        self.change(&app, 187..250)?;
        drop(app);
        lap(&mut Vec::new());
        let watcher = Watcher::open(&live)?;
        let changed = since.bring_up(&files[2])?.ok_or("the copy could not follow")?;
        drop(since);
        lap(&mut times);
        let carried = carry::prepare_staged(&self.options(&files), staged, &changed, &mut control)?;
        lap(&mut times);
        complete(&carried)?;
        self.put(&carried, &live, &watcher, &files[2])?;
        lap(&mut times);
        drop(watcher);
        times.push(times[2..5].iter().sum());
        fs::remove_file(&files[3])?;
        fs::remove_file(&live)?;
        // The long way, from the same databases.
        lap(&mut Vec::new());
        let carried = carry::prepare(&self.options(&files), &mut control)?;
        lap(&mut times);
        complete(&carried)?;
        fs::remove_file(&files[3])?;
        fs::remove_file(&files[2])?;
        Ok(times)
    }

    fn put(&self, carried: &Carried, live: &Path, watcher: &Watcher, now: &Path) -> Result<(), Failure> {
        let options = restore::Options {
            app_stopped: true,
            keep: restore::Keep::Is(now.to_owned()),
            read_back: Depth::Counts,
            checked: true,
            only: carried.differ.clone(),
            ..restore::Options::new(&self.folder)
        };
        let guard = Guard::Watched(watcher);
        let restored = restore::into(&carried.out, live, guard, &options, &mut Control::default())?;
        if restored.differences.is_empty() { Ok(()) } else { Err(restored.differences.join("; ").into()) }
    }
}

fn complete(carried: &Carried) -> Result<(), Failure> {
    let applied: u64 = carried.tables.values().map(|tally| tally.applied).sum();
    if applied != 1_000 {
        return Err(format!("{applied} differences were carried over instead of 1,000").into());
    }
    Ok(())
}

fn on_the_disk(path: &Path) -> Result<(), Failure> {
    Ok(fs::File::open(path)?.sync_all()?)
}
