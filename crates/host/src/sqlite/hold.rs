//! The read transaction held on a live database, and when it must be given up for the app's sake.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::beside;
use super::{Error, Stop};

/// How far reading a live database may go at its app's expense.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long one read transaction may be held: while it is, the log cannot be reset.
    pub hold: Duration,
    /// By how many bytes the log may grow meanwhile.
    pub log_growth: u64,
    /// How long the app's own checkpoint may wait for us while it keeps writers out.
    pub writer_wait: Duration,
    /// How often to try.
    pub attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            hold: Duration::from_secs(600),
            log_growth: 1 << 30,
            writer_wait: Duration::from_millis(500),
            attempts: 5,
        }
    }
}

/// Watches a held read transaction. Clones share what was seen.
#[derive(Clone)]
pub(crate) struct Hold(Arc<Mutex<Watch>>);

struct Watch {
    stop: Stop,
    limits: Limits,
    since: Instant,
    looked: Option<Instant>,
    log: PathBuf,
    log_at_start: u64,
    shm: PathBuf,
    kept_out_since: Option<Instant>,
    given_up: Option<String>,
}

impl Hold {
    pub(crate) fn begin(path: &Path, limits: Limits, stop: &Stop) -> Self {
        let log = beside(path, "-wal");
        Hold(Arc::new(Mutex::new(Watch {
            stop: stop.clone(),
            limits,
            since: Instant::now(),
            looked: None,
            log_at_start: size(&log),
            log,
            shm: beside(path, "-shm"),
            kept_out_since: None,
            given_up: None,
        })))
    }

    /// Lets SQLite look at this in the midst of a long statement.
    pub(crate) fn interrupts(&self, connection: &mut Connection) {
        let hold = self.clone();
        // It fails only on a closed connection.
        let _ = connection.progress_handler(4_000, Some(move || hold.must_end()));
    }

    /// Whether the read transaction must end now. Cheap: it looks at most every 20 ms.
    pub(crate) fn must_end(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).look()
    }

    /// Why it was given up; `None` when it was not, or when somebody asked to stop.
    pub(crate) fn given_up(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).given_up.clone()
    }

    /// How long it has been held.
    pub(crate) fn held(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).since.elapsed()
    }

    /// An error when somebody asked to stop.
    pub(crate) fn check(&self, doing: &str) -> Result<(), Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stop.check(doing)
    }
}

impl Watch {
    fn look(&mut self) -> bool {
        if self.given_up.is_some() || self.stop.wanted() {
            return true;
        }
        let now = Instant::now();
        if self.looked.is_some_and(|then| now - then < Duration::from_millis(20)) {
            return false;
        }
        self.looked = Some(now);
        let grown = size(&self.log).saturating_sub(self.log_at_start);
        if now - self.since > self.limits.hold {
            self.given_up = Some(format!("reading took longer than {} s", self.limits.hold.as_secs()));
        } else if grown > self.limits.log_growth {
            self.given_up = Some(format!("the log grew by {grown} bytes"));
        } else if writers_kept_out(&self.shm) {
            let since = *self.kept_out_since.get_or_insert(now);
            if now - since >= self.limits.writer_wait {
                let ms = self.limits.writer_wait.as_millis();
                self.given_up = Some(format!("the app's checkpoint kept its writers waiting for {ms} ms"));
            }
        } else {
            self.kept_out_since = None;
        }
        self.given_up.is_some()
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// The bytes of the `-shm` file that SQLite locks for writing and for a checkpoint.
const WRITE_LOCK: u64 = 120;
const CHECKPOINT_LOCK: u64 = 121;

/// Whether a checkpoint holds the write lock at this moment: RESTART, FULL and TRUNCATE checkpoints keep it while they
/// wait for readers, us among them. Read from the kernel's list of locks, because a probe that takes the write lock
/// makes writes fail in apps without a busy timeout, and opening the `-shm` file drops our own locks on it. A long
/// write transaction holds the write lock alone; we do not stand in its way.
fn writers_kept_out(shm: &Path) -> bool {
    let Ok(found) = fs::metadata(shm) else { return false };
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return false };
    let inode = found.ino().to_string();
    let held = |byte: u64| {
        locks.lines().any(|line| {
            // 1: POSIX  ADVISORY  WRITE 3548 08:01:2097547 120 120
            let field: Vec<&str> = line.split_whitespace().collect();
            let [_, "POSIX", _, "WRITE", _, place, from, to] = field[..] else { return false };
            let (Ok(from), Ok(to)) = (from.parse::<u64>(), to.parse::<u64>()) else { return false };
            // The device is left out: some file systems show another one here than in `stat`.
            place.rsplit(':').next() == Some(&inode) && (from..=to).contains(&byte)
        })
    };
    held(WRITE_LOCK) && held(CHECKPOINT_LOCK)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The app's checkpoint waits for our read transaction and keeps its writers out meanwhile.
    #[test]
    fn a_checkpoint_that_waits_for_us_makes_us_give_up_and_a_long_write_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let app = Connection::open(&path).unwrap();
        app.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        app.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1);").unwrap();
        let reader = super::super::connection::open_read(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM t;").unwrap();
        let limits = Limits { writer_wait: Duration::from_millis(100), ..Limits::default() };

        let hold = Hold::begin(&path, limits, &Stop::new());
        app.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2);").unwrap();
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            assert!(!hold.must_end(), "a long write transaction is not our doing");
            thread::sleep(Duration::from_millis(5));
        }
        app.execute_batch("COMMIT").unwrap();

        let hold = Hold::begin(&path, limits, &Stop::new());
        app.busy_timeout(Duration::from_secs(30)).unwrap();
        let checkpoint = thread::spawn(move || {
            app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while !hold.must_end() {
            assert!(Instant::now() < deadline, "it is noticed");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(hold.given_up().unwrap().contains("checkpoint"), "{:?}", hold.given_up());
        drop(reader);
        assert_eq!(checkpoint.join().unwrap(), Ok(0), "the checkpoint goes through once we have let go");
    }

    #[test]
    fn time_and_growth_of_the_log_are_limited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let hold = Hold::begin(&path, Limits { log_growth: 10, ..Limits::default() }, &Stop::new());
        assert!(!hold.must_end());
        fs::write(beside(&path, "-wal"), [0; 100]).unwrap();
        thread::sleep(Duration::from_millis(25));
        assert!(hold.must_end());
        assert!(hold.given_up().unwrap().contains("100 bytes"));
        let hold = Hold::begin(&path, Limits { hold: Duration::ZERO, ..Limits::default() }, &Stop::new());
        assert!(hold.must_end());
    }
}
