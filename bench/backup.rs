//! `plimsoll backup` beside its peers, in one run: each as a whole process, in turn, while a writer commits. For each
//! its time, its peak memory, and what the writer felt of it.
//!
//! A backup of Plimsoll's is read back, compared with what was read and checked in every page; the others only copy, restic
//! and Litestream into a form of their own. Settings: `PLIMSOLL_BENCH_MIB` (64), `PLIMSOLL_BENCH_ROUNDS` (5),
//! `PLIMSOLL_BENCH_FOLDER` (the temporary folder), `PLIMSOLL_BENCH_PEERS` (all; names of peers, with commas),
//! `PLIMSOLL_BENCH_LIMIT` (seconds for one run; a minute and a second for each 4 MiB).

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// Commits per second, as a shop at its busiest.
const PACE: Duration = Duration::from_micros(3_333);

/// A peer: its name, and how it is run on a database with a fresh folder of its own.
type Peer = (&'static str, Box<dyn Fn(&Path, &Path) -> Command>);

/// One run of a peer.
struct Run {
    took: Duration,
    /// Of all cores together: what it cost, however busy the machine is with others.
    cpu: Duration,
    /// Bytes.
    memory: u64,
    waits: Vec<Duration>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mebibytes, rounds) = (setting("PLIMSOLL_BENCH_MIB", 64)?, setting("PLIMSOLL_BENCH_ROUNDS", 5)?);
    let limit = Duration::from_secs(setting("PLIMSOLL_BENCH_LIMIT", 60 + mebibytes / 4)?);
    let folder = std::env::var_os("PLIMSOLL_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("plimsoll-bench-").tempdir_in(folder)?;
    let database = dir.path().join("store.db");
    fill(&database, mebibytes << 20)?;
    let size = std::fs::metadata(&database)?.len() >> 20;
    println!(
        "a database of {size} MiB in WAL mode, a writer that commits 300 times a second; {rounds} runs each, in turn"
    );
    let wanted = std::env::var("PLIMSOLL_BENCH_PEERS").ok();
    let wanted =
        |name: &str| wanted.as_ref().is_none_or(|list| list.split(',').any(|one| one.trim() == name));
    let peers: Vec<Peer> = peers().into_iter().filter(|(name, _)| wanted(name)).collect();
    let mut runs: Vec<Vec<Run>> = peers.iter().map(|_| Vec::new()).collect();
    let mut quiet = Vec::new();
    for round in 0..rounds {
        let alone = Writer::start(&database)?;
        thread::sleep(Duration::from_secs(2));
        quiet.extend(alone.stop()?);
        for (place, (name, command)) in peers.iter().enumerate() {
            let own = dir.path().join(format!("run-{round}-{place}"));
            std::fs::create_dir(&own)?;
            let writer = Writer::start(&database)?;
            let done = watch(command(&database, &own), limit);
            let waits = writer.stop()?;
            match done {
                Some((took, cpu, memory)) => runs[place].push(Run { took, cpu, memory, waits }),
                None if round == 0 => {
                    println!("{name:<16} SKIPPED: not installed here, failed, or not done in {limit:?}")
                }
                None => {}
            }
            // Only one at a time needs its room, and nobody is measured while another one's pages are written out.
            std::fs::remove_dir_all(&own)?;
            Command::new("sync").status()?;
        }
    }
    show(&peers, &runs, &quiet);
    Ok(())
}

fn setting(name: &str, usual: u64) -> Result<u64, std::num::ParseIntError> {
    std::env::var(name).map_or(Ok(usual), |text| text.parse())
}

fn peers() -> Vec<Peer> {
    // Built into the same folder by `make bench`.
    let plimsoll = std::env::current_exe().map(|path| path.with_file_name("plimsoll")).unwrap_or_default();
    let tools = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let private = tools.join(".cache/plimsoll/tools-venv/bin/litestream");
    let litestream = if private.exists() { private } else { PathBuf::from("litestream") };
    let shell = |script: &'static str| {
        move |db: &Path, own: &Path| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("DB", db).env("OWN", own);
            command
        }
    };
    let backup = move |compress: bool| {
        let plimsoll = plimsoll.clone();
        move |db: &Path, own: &Path| {
            let mut command = Command::new(&plimsoll);
            command.args(["backup", "-q", "--db"]).arg(db).arg("--dir").arg(own);
            command.args(compress.then_some("--compress"));
            command
        }
    };
    vec![
        ("cp", Box::new(shell("exec cp \"$DB\" \"$OWN/copy\""))),
        ("cp and sync", Box::new(shell("cp \"$DB\" \"$OWN/copy\" && exec sync \"$OWN/copy\""))),
        (
            "sqlite3 .backup",
            Box::new(shell("exec sqlite3 -cmd '.timeout 60000' \"$DB\" \".backup '$OWN/copy'\"")),
        ),
        (
            "VACUUM INTO",
            Box::new(shell("exec sqlite3 -cmd '.timeout 60000' \"$DB\" \"VACUUM INTO '$OWN/copy'\"")),
        ),
        ("plimsoll", Box::new(backup.clone()(false))),
        ("plimsoll zstd", Box::new(backup(true))),
        (
            "restic",
            Box::new(shell(
                "export RESTIC_PASSWORD=bench; restic --no-cache -q -r \"$OWN/r\" init && exec restic --no-cache -q -r \"$OWN/r\" backup \"$DB\"",
            )),
        ),
        (
            // The last: it puts tables of its own into the database.
            "litestream",
            Box::new(move |db, own| {
                let mut command = Command::new(&litestream);
                command.args(["replicate", "-once", "-force-snapshot"]).arg(db);
                command.arg(format!("file://{}", own.join("replica").display()));
                command
            }),
        ),
    ]
}

fn show(peers: &[Peer], runs: &[Vec<Run>], quiet: &[Duration]) {
    let of = |name: &str| {
        let place = peers.iter().position(|(peer, _)| *peer == name)?;
        median(runs[place].iter().map(|run| run.took))
    };
    let (cp, synced) = (of("cp"), of("cp and sync"));
    let alone = at(quiet, 99);
    println!("the writer alone: p99 {:.2} ms, worst {:.2} ms", ms(alone), ms(at(quiet, 100)));
    println!(
        "{:<16} {:>9} {:>7} {:>9} {:>9} {:>9}   the writer's {:>9} {:>7} {:>9}",
        "", "seconds", "x cp", "x cp+sync", "cpu s", "peak MiB", "p99 ms", "x alone", "worst ms"
    );
    for ((name, _), runs) in peers.iter().zip(runs) {
        let Some(took) = median(runs.iter().map(|run| run.took)) else { continue };
        let waits: Vec<Duration> = runs.iter().flat_map(|run| run.waits.iter().copied()).collect();
        let ratio = |to: Option<Duration>| to.map_or(f64::NAN, |to| took.as_secs_f64() / to.as_secs_f64());
        let memory = runs.iter().map(|run| run.memory).max().unwrap_or(0) >> 20;
        let cpu = median(runs.iter().map(|run| run.cpu)).unwrap_or_default();
        let p99 = at(&waits, 99);
        println!(
            "{name:<16} {:>9.3} {:>7.1} {:>9.1} {:>9.2} {memory:>9}                {:>9.2} {:>7.2} {:>9.2}",
            took.as_secs_f64(),
            ratio(cp),
            ratio(synced),
            cpu.as_secs_f64(),
            ms(p99),
            p99.as_secs_f64() / alone.as_secs_f64(),
            ms(at(&waits, 100)),
        );
    }
}

/// Orders with lines, as a shop has them, until the file has about so many bytes.
fn fill(path: &Path, bytes: u64) -> rusqlite::Result<()> {
    let db = Connection::open(path)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;
         CREATE TABLE orders(id INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE, address TEXT NOT NULL);
         CREATE TABLE order_items(id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders(id), paise INTEGER);",
    )?;
    // In pieces, so that the log stays small.
    let orders = i64::try_from(bytes / 186).unwrap_or(i64::MAX);
    let mut first = 1;
    while first <= orders {
        let last = orders.min(first + 499_999);
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
             INSERT INTO orders SELECT i, printf('order-%012d', i), hex(randomblob(60)) FROM n",
            [first, last],
        )?;
        db.execute(
            "INSERT INTO order_items(order_id, paise) SELECT id, id % 99900 FROM orders WHERE id BETWEEN ?1 AND ?2",
            [first, last],
        )?;
        first = last + 1;
    }
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// A shop's writer: places orders at a fixed pace and notes how long each took.
struct Writer {
    done: Arc<AtomicBool>,
    thread: thread::JoinHandle<rusqlite::Result<Vec<Duration>>>,
}

impl Writer {
    fn start(path: &Path) -> rusqlite::Result<Writer> {
        let own = Connection::open(path)?;
        own.busy_timeout(Duration::from_secs(60))?;
        own.execute_batch("PRAGMA synchronous = NORMAL")?;
        let done = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&done);
        let thread = thread::spawn(move || {
            let mut waits = Vec::new();
            let began = Instant::now();
            for turn in 1_u32.. {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let before = Instant::now();
                own.execute_batch(
                    "BEGIN IMMEDIATE;
                     INSERT INTO orders(reference, address) VALUES ('late-' || hex(randomblob(8)), 'here');
                     INSERT INTO order_items(order_id, paise) VALUES (last_insert_rowid(), 100); COMMIT",
                )?;
                waits.push(before.elapsed());
                thread::sleep((PACE * turn).saturating_sub(began.elapsed()));
            }
            Ok(waits)
        });
        Ok(Writer { done, thread })
    }

    /// How long each commit took; an error when one failed.
    fn stop(self) -> rusqlite::Result<Vec<Duration>> {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Runs it to its end; how long it took, what it cost, and the most memory that it had at a look.
/// `None` when it fails, or goes on for longer than `limit`.
fn watch(mut command: Command, limit: Duration) -> Option<(Duration, Duration, u64)> {
    let (begun, before) = (Instant::now(), cost());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let mut memory = 0;
    loop {
        // `sqlite3 .backup` begins again after every commit of another process, and may never end.
        if begun.elapsed() > limit {
            child.kill().and_then(|()| child.wait()).ok()?;
            return None;
        }
        // It forgets it when it ends, so it is asked often.
        memory = memory.max(high_water(child.id()));
        if let Some(status) = child.try_wait().ok()? {
            return status.success().then(|| (begun.elapsed(), cost().saturating_sub(before), memory));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn high_water(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// What all programs that were started here and have ended have used of the processors, to a hundredth of a second.
fn cost() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, which may hold anything, ends with the last bracket; the children's times are the fourteenth and fifteenth
    // field after it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(13).take(2);
    Duration::from_millis(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

fn median(times: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied()
}

/// The wait that so many of a hundred are below.
fn at(waits: &[Duration], percent: usize) -> Duration {
    let mut waits = waits.to_vec();
    waits.sort();
    let place = (waits.len() * percent / 100).min(waits.len().saturating_sub(1));
    waits.get(place).copied().unwrap_or_default()
}

fn ms(wait: Duration) -> f64 {
    wait.as_secs_f64() * 1e3
}
