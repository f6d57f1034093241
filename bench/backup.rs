//! `plimsoll backup` beside `cp` and `sqlite3 .backup`, in one run: each as a whole process, in turn, as a ratio.
//!
//! A backup of Plimsoll's is copied, read back and compared value by value; the others only copy. `bench [MEGABYTES]`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

const RUNS: usize = 5;

/// Makes the command for the run of this number.
type Make = Box<dyn Fn(usize) -> Command>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let megabytes: u64 = std::env::args().nth(1).map_or(Ok(100), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let database = dir.path().join("store.db");
    fill(&database, megabytes << 20)?;
    let size = std::fs::metadata(&database)?.len();
    println!("a database of {} MiB; {RUNS} runs each, in turn; median", size >> 20);

    let backups = dir.path().join("backups");
    // Built into the same folder by `make bench`.
    let plimsoll = std::env::current_exe()?.with_file_name("plimsoll");
    let peers: [(&str, Make); 3] = [
        ("cp", {
            let (database, dir) = (database.clone(), dir.path().to_owned());
            Box::new(move |n| with("cp", &[database.clone(), dir.join(format!("cp-{n}"))]))
        }),
        ("sqlite3 .backup", {
            let (database, dir) = (database.clone(), dir.path().to_owned());
            Box::new(move |n| {
                let mut command = Command::new("sqlite3");
                command.arg(&database).arg(format!(".backup '{}'", dir.join(format!("b-{n}")).display()));
                command
            })
        }),
        ("plimsoll backup", {
            let (database, backups) = (database.clone(), backups.clone());
            Box::new(move |_| {
                let mut command = Command::new(&plimsoll);
                command.args(["backup", "-q", "--db"]).arg(&database).arg("--dir").arg(&backups);
                command
            })
        }),
    ];
    let mut took: Vec<Vec<Duration>> = vec![Vec::new(); peers.len()];
    for run in 0..RUNS {
        for (place, (_, command)) in peers.iter().enumerate() {
            if let Some(time) = time(command(run)) {
                took[place].push(time);
            }
        }
    }
    let cp = median(&took[0]).ok_or("cp could not be run")?;
    for ((name, _), times) in peers.iter().zip(&took) {
        match median(times) {
            Some(time) => {
                let ratio = time.as_secs_f64() / cp.as_secs_f64();
                println!("{name:<16} {:>8.3} s   {ratio:>6.1} x cp", time.as_secs_f64());
            }
            None => println!("{name:<16} SKIPPED: it is not installed here, or it failed"),
        }
    }
    Ok(())
}

/// Orders with lines, as a shop has them, until the file has about so many bytes.
fn fill(path: &Path, bytes: u64) -> rusqlite::Result<()> {
    let db = Connection::open(path)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
         CREATE TABLE orders(id INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE, address TEXT NOT NULL);
         CREATE TABLE order_items(id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders(id), paise INTEGER);",
    )?;
    let orders = i64::try_from(bytes / 240).unwrap_or(i64::MAX);
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO orders SELECT i, 'order-' || i, hex(randomblob(60)) FROM n",
        [orders],
    )?;
    db.execute_batch(
        "INSERT INTO order_items(order_id, paise) SELECT id, id % 99900 FROM orders;
         PRAGMA wal_checkpoint(TRUNCATE);",
    )
}

fn with(program: &str, arguments: &[PathBuf]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn time(mut command: Command) -> Option<Duration> {
    let begun = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    status.success().then(|| begun.elapsed())
}

fn median(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied()
}
