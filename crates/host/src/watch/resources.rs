//! What the app and its machine use: processor, memory, disk, the database's log and its write lock.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::durable;
use crate::sqlite::connection::beside;

/// The longest that the write lock is waited for; an app whose writers wait longer has a problem of its own.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Linux counts processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is used at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Processor time of the processes so far, seconds; `None` when there is none of them.
    pub cpu_s: Option<f64>,
    /// Their memory, bytes.
    pub rss_bytes: Option<u64>,
    /// Memory that the machine has left, bytes.
    pub memory_free_bytes: Option<u64>,
    /// Room left on the disk of the database, bytes.
    pub disk_free_bytes: Option<u64>,
    /// Size of the database's write-ahead log, bytes.
    pub wal_bytes: Option<u64>,
    /// How long the write lock was waited for, milliseconds; `None` when it could not be asked for.
    pub lock_ms: Option<u64>,
}

/// Looks at the processes with all their descendants, and at the database.
#[must_use]
pub fn used(pids: &[u32], database: Option<&Path>, disk: &Path) -> Used {
    let (cpu_s, rss_bytes) = match family(pids) {
        Some((cpu, rss)) => (Some(cpu), Some(rss)),
        None => (None, None),
    };
    let wal = database.map(|file| fs::metadata(beside(file, "-wal")).map_or(0, |found| found.len()));
    Used {
        cpu_s,
        rss_bytes,
        memory_free_bytes: memory_free(),
        disk_free_bytes: durable::free_space(disk).ok(),
        wal_bytes: wal,
        lock_ms: database.and_then(lock_wait),
    }
}

/// Processor seconds and memory of the processes and their descendants.
fn family(pids: &[u32]) -> Option<(f64, u64)> {
    if pids.is_empty() {
        return None;
    }
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(stat) = stat(pid) {
            stats.insert(pid, stat);
        }
    }
    let mut ours: Vec<u32> = pids.iter().copied().filter(|pid| stats.contains_key(pid)).collect();
    let mut next = 0;
    while next < ours.len() {
        let parent = ours[next];
        let children = stats.iter().filter(|(pid, stat)| stat.parent == parent && !ours.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        ours.extend(children);
        next += 1;
    }
    let ticks: u64 = ours.iter().filter_map(|pid| stats.get(pid)).map(|stat| stat.ticks).sum();
    let rss = ours.iter().filter_map(|pid| resident(*pid)).sum();
    (!ours.is_empty()).then_some((ticks as f64 / TICKS_PER_SECOND, rss))
}

struct Stat {
    parent: u32,
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in brackets and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)? })
}

/// Memory of a process, bytes.
fn resident(pid: u32) -> Option<u64> {
    kib(&format!("/proc/{pid}/status"), "VmRSS:")
}

fn memory_free() -> Option<u64> {
    kib("/proc/meminfo", "MemAvailable:")
}

/// The bytes that a line of a file in `/proc` gives as `NAME NUMBER kB`.
fn kib(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Takes the write lock and gives it back at once; nothing is written. How long that took, milliseconds.
fn lock_wait(database: &Path) -> Option<u64> {
    // Never made when it is not there.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).ok()?;
    connection.busy_timeout(LOCK_PATIENCE).ok()?;
    // The last to close must not fold the log in.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok()?;
    let begun = Instant::now();
    let taken = connection.execute_batch("BEGIN IMMEDIATE");
    let waited = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    match taken {
        Ok(()) => connection.execute_batch("ROLLBACK").ok().map(|()| waited),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Some(waited),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_children_are_seen() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let own = family(&[std::process::id()]).unwrap();
        let alone = resident(std::process::id()).unwrap();
        assert!(own.1 > alone / 2, "{own:?}, alone {alone}");
        assert!(family(&[child.id()]).unwrap().1 > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(family(&[]), None);
        assert_eq!(family(&[u32::MAX]), None);
        assert!(memory_free().unwrap() > 0);
    }

    #[test]
    fn a_writer_that_keeps_the_lock_is_noticed_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        assert_eq!(lock_wait(&path), None);
        assert!(!path.exists());
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(a); INSERT INTO t VALUES (1);").unwrap();
        assert!(lock_wait(&path).unwrap() < 500);
        std::thread::scope(|scope| {
            app.execute_batch("BEGIN IMMEDIATE").unwrap();
            let waiting = scope.spawn(|| lock_wait(&path));
            std::thread::sleep(Duration::from_millis(300));
            app.execute_batch("COMMIT").unwrap();
            assert!(waiting.join().unwrap().unwrap() >= 100);
        });
        let used = used(&[std::process::id()], Some(&path), folder.path());
        assert!(used.wal_bytes.unwrap() > 0 && used.disk_free_bytes.unwrap() > 0);
    }
}
