//! What changed in a live database since some moment, page by page, without reading all of it again.
//!
//! In WAL mode every commit appends the pages that it changed to the log. While a read transaction is held the log cannot
//! begin anew more than once, and nothing that was appended since goes away: so the pages in the log are at least those
//! that changed since the transaction began.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::connection::{JournalMode, beside, journal_mode, open_read};
use super::hold::Hold;
use super::page_set::{self, PageSet};
use super::{Error, Limits, Stop};

/// A read transaction held on a live database; it is given up for the app's sake.
#[derive(Debug)]
pub struct Since {
    path: PathBuf,
    /// Beside the file itself: the database may be reached by a symbolic link.
    log: PathBuf,
    page_size: usize,
    held: Arc<AtomicBool>,
    /// Dropped to end it.
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Since {
    /// Begins now. `None` with a rollback journal, where nothing tells which pages changed, and when SQLite cannot show
    /// single pages.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn begin(path: &Path, limits: Limits, stop: &Stop) -> Result<Option<Since>, Error> {
        let failed = |e: rusqlite::Error| Error::of(path, "beginning to read", &e);
        let connection = open_read(path)?;
        if journal_mode(&connection).map_err(failed)? != JournalMode::Wal || !shows_pages(&connection) {
            return Ok(None);
        }
        connection.execute_batch("BEGIN").map_err(failed)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed)?;
        let size: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(failed)?;
        // As SQLite itself names it, links resolved.
        let Some(log) = connection.path().map(|file| beside(Path::new(file), "-wal")) else {
            return Ok(None);
        };
        let hold = Hold::begin(path, limits, stop);
        let held = Arc::new(AtomicBool::new(true));
        let (end, ended) = mpsc::channel::<()>();
        let flag = Arc::clone(&held);
        let thread = thread::Builder::new()
            .name("since".into())
            .spawn(move || {
                while ended.recv_timeout(Duration::from_millis(25)) == Err(mpsc::RecvTimeoutError::Timeout) {
                    if hold.must_end() {
                        break;
                    }
                }
                flag.store(false, Ordering::SeqCst);
                drop(connection);
            })
            .map_err(|e| Error::io(path, "watch", e))?;
        let page_size = usize::try_from(size).unwrap_or(0);
        Ok(Some(Since { log, path: path.to_owned(), page_size, held, end: Some(end), thread: Some(thread) }))
    }

    /// The pages that may have changed up to a moment before this is called; `None` when the transaction was given up.
    fn changed(&self) -> Result<Option<PageSet>, Error> {
        let found =
            page_set::logged(&self.log, self.page_size).map_err(|e| Error::io(&self.log, "read", e))?;
        // Asked afterwards: while it is held, nothing of the log goes away.
        Ok(found.filter(|_| self.held.load(Ordering::SeqCst)))
    }

    /// Makes `copy`, a finished copy of the database that was begun after this, one of the present moment, and syncs it.
    /// Returns the pages that were written anew, and no other differs from before; `None` when all must be copied: then
    /// `copy` is as it was.
    ///
    /// # Errors
    /// When one of them cannot be read or written.
    pub fn bring_up(&self, copy: &Path) -> Result<Option<PageSet>, Error> {
        let failed = |e: rusqlite::Error| Error::of(&self.path, "reading pages", &e);
        let reader = open_read(&self.path)?;
        reader.execute_batch("BEGIN").map_err(failed)?;
        let count: i64 = reader.query_row("PRAGMA page_count", [], |row| row.get(0)).map_err(failed)?;
        reader.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed)?;
        // The moment is fixed; whatever was committed before it is in the log by now.
        let Some(mut changed) = self.changed()? else { return Ok(None) };
        let write = |e| Error::io(copy, "write", e);
        let file = OpenOptions::new().read(true).write(true).open(copy).map_err(write)?;
        let had = file.metadata().map_err(write)?.len() / self.page_size.max(1) as u64;
        if page_set::page_size(&file).map_err(write)? != Some(self.page_size) {
            return Ok(None);
        }
        let mut page =
            reader.prepare("SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1").map_err(failed)?;
        for number in changed.iter().filter(|number| i64::from(*number) <= count) {
            let mut data: Vec<u8> = page.query_row([number], |row| row.get(0)).map_err(failed)?;
            if number == 1 {
                // A finished copy is in no log's mode.
                data[18] = 1;
                data[19] = 1;
            }
            file.write_all_at(&data, (u64::from(number) - 1) * self.page_size as u64).map_err(write)?;
        }
        let count = count.unsigned_abs();
        file.set_len(count * self.page_size as u64).map_err(write)?;
        file.sync_all().map_err(write)?;
        for gone in count + 1..=had {
            changed.insert(u32::try_from(gone).unwrap_or(u32::MAX));
        }
        Ok(Some(changed))
    }
}

impl Drop for Since {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It only waits for the sender.
            let _ = thread.join();
        }
    }
}

/// Whether this SQLite was built with the table that shows pages.
pub(super) fn shows_pages(connection: &rusqlite::Connection) -> bool {
    connection.prepare("SELECT data FROM sqlite_dbpage('main') WHERE pgno = 1").is_ok()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::copy::copy;
    use super::super::fingerprint::{Depth, Fingerprint};
    use super::super::{Control, page_set};
    use super::*;

    fn content(path: &Path) -> Fingerprint {
        Fingerprint::of(path, Depth::Content, &mut Control::default()).unwrap()
    }

    /// Whatever the app does after the copy, a checkpoint and a log that begins anew included, the copy follows.
    #[test]
    fn a_copy_follows_the_database_by_its_log_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, at) = (dir.path().join("shared.db"), dir.path().join("copy.db"));
        let app = Connection::open(&file).unwrap();
        // Where the release has it: the log is beside the file that the link points to.
        let live = dir.path().join("release").join("store.db");
        std::fs::create_dir(live.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&file, &live).unwrap();
        app.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO t (v) SELECT hex(zeroblob(40)) FROM n";
        app.execute_batch(&format!(
            "CREATE TABLE t (k INTEGER PRIMARY KEY, v); CREATE INDEX ti ON t (v); {fill};"
        ))
        .unwrap();
        app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        let since = Since::begin(&live, Limits::default(), &Stop::new()).unwrap().unwrap();
        copy(&live, &at, &Limits::default(), &mut Control::default()).unwrap();
        for round in 0..40 {
            app.execute_batch(&format!(
                "INSERT INTO t (v) VALUES (hex(randomblob(3000))); UPDATE t SET v = '{round}' WHERE k = {round} * 100; DELETE FROM t WHERE k = {round} * 7;"
            )).unwrap();
            app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        }
        app.execute_batch("DROP INDEX ti; CREATE TABLE later (x); INSERT INTO later VALUES (1);").unwrap();
        let before = dir.path().join("before.db");
        std::fs::copy(&at, &before).unwrap();
        let changed = since.bring_up(&at).unwrap().unwrap();
        assert_eq!(content(&at), content(&live));
        let differ = page_set::unlike(&before, &at, &Stop::new()).unwrap().unwrap();
        assert!(
            !differ.is_empty() && differ.iter().all(|page| changed.contains(page)),
            "{differ:?} {changed:?}"
        );
        // Again, from there: it stays right.
        app.execute_batch("DELETE FROM t WHERE k > 100; INSERT INTO later VALUES (2);").unwrap();
        since.bring_up(&at).unwrap().unwrap();
        assert_eq!(content(&at), content(&live));
    }

    /// A transaction that was given up says nothing about what changed since.
    #[test]
    fn after_it_was_given_up_and_with_a_rollback_journal_everything_counts_as_changed() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live.db");
        let app = Connection::open(&live).unwrap();
        app.execute_batch("CREATE TABLE t (k);").unwrap();
        assert!(Since::begin(&live, Limits::default(), &Stop::new()).unwrap().is_none());
        app.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        let stop = Stop::new();
        let since = Since::begin(&live, Limits::default(), &stop).unwrap().unwrap();
        let at = dir.path().join("copy.db");
        copy(&live, &at, &Limits::default(), &mut Control::default()).unwrap();
        let then = std::fs::read(&at).unwrap();
        stop.ask();
        while since.held.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        app.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(since.bring_up(&at).unwrap(), None);
        assert_eq!(std::fs::read(&at).unwrap(), then, "left alone");
    }
}
