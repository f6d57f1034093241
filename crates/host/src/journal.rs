//! The journals of runs: `runs/NNNNNN/journal.jsonl`, one event a line, on the disk before the next act.
//!
//! Each line holds the hash of the line before it, the first one that of the last line of the run before: [`crate::audit`] proves that none was changed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_core::ports::{Clock, Failure, FailureKind, Journal};
use plimsoll_core::record::{Entry, Event};

use crate::clock::SystemClock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable::{self, Reserved};

/// What the events of a run and its undo take, with room to spare: a few hundred lines of a few hundred bytes.
const REST_OF_A_RUN: u64 = 1 << 20;
/// What the small files written on the way take: the marker, the list of children, the links.
const SMALL_FILES: u64 = 4 << 20;

/// A journal that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] durable::Error),
    /// A line is not an event, or not the next one. Only the last line may be torn, by a crash while it was written.
    #[error("line {line} of {} is damaged: {why}", path.display())]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// An earlier write to this journal failed in a way that leaves unknown what is on the disk.
    #[error("{} cannot be written any more: {why}", path.display())]
    Broken {
        /// The journal.
        path: PathBuf,
        /// The error of that time.
        why: String,
    },
    /// Only its own engine writes to it until the run has ended.
    #[error("{} is of a run that has not ended", path.display())]
    NotEnded {
        /// The journal.
        path: PathBuf,
    },
    /// The entry does not follow the one before it.
    #[error("entry {got} was to be written to {} where entry {expected} is due", path.display())]
    OutOfOrder {
        /// The journal.
        path: PathBuf,
        /// The number that is due.
        expected: u64,
        /// The number of the entry.
        got: u64,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let (kind, next) = match &error {
            Error::Io(e) if e.is_disk_full() => {
                (FailureKind::Failed, "free disk space, then `plimsoll resume`")
            }
            Error::Io(_) => (FailureKind::Failed, "mend the disk or its permissions, then `plimsoll resume`"),
            Error::Damaged { .. } => (
                FailureKind::Failed,
                "compare the file with a copy of it; when it is from a finished run, move its folder out of runs/",
            ),
            Error::Broken { .. } => {
                (FailureKind::Failed, "mend the disk, start `plimsoll serve` again, then `plimsoll resume`")
            }
            Error::NotEnded { .. } => (FailureKind::Blocked, "wait for the run: plimsoll status"),
            Error::OutOfOrder { .. } => {
                (FailureKind::Bug, "start `plimsoll serve` again, then `plimsoll resume`")
            }
        };
        Failure::failed("the journal could not be used", error.to_string(), next).of_kind(kind)
    }
}

/// The journal of one run, open for its next events. The app's lock is held by whoever has one.
#[derive(Debug)]
pub struct FileJournal {
    file: File,
    path: PathBuf,
    len: u64,
    next_seq: u64,
    /// The hash of the last line, here or in the run before; `None` in the very first line of all.
    head: Option<String>,
    broken: Option<String>,
}

/// A line as it is written: the event, and the hash of the line before.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev: Option<&'a str>,
}

/// What a line says of the one before.
#[derive(Deserialize)]
pub(crate) struct Link {
    pub(crate) prev: Option<String>,
}

/// The hash of a line, with or without its line end.
pub(crate) fn hash(line: &[u8]) -> String {
    hex::encode(Sha256::digest(line.strip_suffix(b"\n").unwrap_or(line)))
}

impl FileJournal {
    /// Opens the journal at `path` and gives what is in it. A torn last line is cut off, durably.
    fn open(path: &Path) -> Result<(FileJournal, Vec<Entry>), Error> {
        let Whole { entries, len, torn, head } = read(path)?;
        let file =
            OpenOptions::new().append(true).open(path).map_err(|e| durable::Error::io("open", path, e))?;
        if torn {
            cut(&file, path, len)?;
        }
        let next_seq = entries.len() as u64;
        Ok((FileJournal { file, path: path.to_owned(), len, next_seq, head, broken: None }, entries))
    }

    fn create(path: &Path, head: Option<String>) -> Result<FileJournal, Error> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(durable::PRIVATE)
            .open(path)
            .map_err(|e| durable::Error::io("create", path, e))?;
        file.sync_all().map_err(|e| durable::Error::io("sync", path, e))?;
        if let Some(folder) = path.parent() {
            durable::sync_dir(folder)?;
        }
        Ok(FileJournal { file, path: path.to_owned(), len: 0, next_seq: 0, head, broken: None })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps room for the next `bytes` of events, so that a run that has begun to hold users cannot be stopped by a
    /// full disk at its next event.
    ///
    /// # Errors
    /// There is not that much room: do not begin to hold.
    pub fn reserve_bytes(&mut self, bytes: u64) -> Result<Reserved, Error> {
        Ok(durable::reserve(&self.file, &self.path, self.len, bytes)?)
    }

    fn write(&mut self, entry: &Entry) -> Result<(), Error> {
        if let Some(why) = &self.broken {
            return Err(Error::Broken { path: self.path.clone(), why: why.clone() });
        }
        if entry.seq != self.next_seq {
            let (expected, got) = (self.next_seq, entry.seq);
            return Err(Error::OutOfOrder { path: self.path.clone(), expected, got });
        }
        let mut line = serde_json::to_vec(&Line { entry, prev: self.head.as_deref() })
            .map_err(|e| durable::Error::io("write an event to", &self.path, std::io::Error::from(e)))?;
        line.push(b'\n');
        if let Err(error) = durable::append(&mut self.file, &self.path, &line) {
            // A write that found the disk full is cut off, and the journal is good again once there is room. After
            // a failed sync the kernel may call pages clean that never reached the disk: no further use.
            if !error.is_disk_full() {
                self.broken = Some(error.to_string());
            } else if let Err(again) = cut(&self.file, &self.path, self.len) {
                self.broken = Some(again.to_string());
            }
            return Err(error.into());
        }
        self.len += line.len() as u64;
        self.next_seq += 1;
        self.head = Some(hash(&line));
        #[cfg(debug_assertions)]
        crash_after_event();
        Ok(())
    }
}

impl Journal for FileJournal {
    fn append(&mut self, entry: &Entry) -> Result<(), Failure> {
        Ok(self.write(entry)?)
    }

    fn reserve(&mut self) -> Result<(), Failure> {
        let reserved = self.reserve_bytes(REST_OF_A_RUN);
        let free = durable::free_space(&self.path).map_err(Error::from);
        match reserved.and(free) {
            Ok(free) if free >= SMALL_FILES => Ok(()),
            Ok(free) => Err(no_room(format!("only {free} bytes are free beside it"))),
            Err(Error::Io(e)) if e.is_disk_full() => Err(no_room(e.to_string())),
            Err(e) => Err(e.into()),
        }
    }
}

fn no_room(why: String) -> Failure {
    let what = "there is no room to keep the record of the rest of the run";
    Failure::failed(what, why, "free at least 10 MB on the disk of runs/, then deploy again")
}

/// The journal of a run that others write to while the engine does: what people answer meanwhile.
#[derive(Clone, Debug)]
pub struct SharedJournal(Arc<Mutex<FileJournal>>);

impl SharedJournal {
    /// Shares a journal.
    #[must_use]
    pub fn new(journal: FileJournal) -> Self {
        SharedJournal(Arc::new(Mutex::new(journal)))
    }

    /// Writes the event that `make` makes for the number that is due.
    ///
    /// # Errors
    /// When it is not safely on the disk.
    pub fn add(&self, make: impl FnOnce(u64) -> Entry) -> Result<Entry, Error> {
        let mut journal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = make(journal.next_seq);
        journal.write(&entry)?;
        Ok(entry)
    }
}

impl Journal for SharedJournal {
    fn append(&mut self, entry: &Entry) -> Result<(), Failure> {
        // Between the question for the number and this write somebody else may have written.
        self.add(|seq| Entry { seq, ..entry.clone() })?;
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reserve()
    }

    fn next_seq(&self) -> Option<u64> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner).next_seq)
    }
}

/// The fault point for crash tests: with `PLIMSOLL_CRASH_AFTER_EVENT=N` the process ends like a crashed one right
/// after the N-th event that it wrote is on the disk.
#[cfg(debug_assertions)]
fn crash_after_event() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let written = WRITTEN.fetch_add(1, Ordering::SeqCst) + 1;
    let wanted = std::env::var("PLIMSOLL_CRASH_AFTER_EVENT").ok().and_then(|n| n.parse::<u64>().ok());
    if wanted == Some(written) {
        std::process::abort();
    }
}

fn cut(file: &File, path: &Path, len: u64) -> Result<(), durable::Error> {
    file.set_len(len).map_err(|e| durable::Error::io("cut off the torn end of", path, e))?;
    file.sync_all().map_err(|e| durable::Error::io("sync", path, e))
}

/// What a journal holds.
struct Whole {
    entries: Vec<Entry>,
    /// Bytes of the whole lines.
    len: u64,
    /// Whether a torn line follows them.
    torn: bool,
    /// The hash of the last whole line.
    head: Option<String>,
}

fn read(path: &Path) -> Result<Whole, Error> {
    let bytes = std::fs::read(path).map_err(|e| durable::Error::io("read", path, e))?;
    let mut whole = Whole { entries: Vec::new(), len: 0, torn: false, head: None };
    for (at, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let last = whole.len + line.len() as u64 == bytes.len() as u64;
        // Without its line end it was never acknowledged, whatever is in it: nothing was done after it. A block
        // that the crash kept from the disk reads as zeros.
        if last && (!line.ends_with(b"\n") || line.contains(&0)) {
            whole.torn = true;
            break;
        }
        let damaged = |why: String| Error::Damaged { path: path.to_owned(), line: at + 1, why };
        let entry: Entry = serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?;
        if entry.seq != at as u64 {
            return Err(damaged(format!("its number is {} where {at} is due", entry.seq)));
        }
        whole.len += line.len() as u64;
        whole.entries.push(entry);
        if last {
            whole.head = Some(hash(line));
        }
    }
    if whole.torn {
        let end = usize::try_from(whole.len).unwrap_or(0);
        whole.head = bytes[..end].split_inclusive(|b| *b == b'\n').next_back().map(hash);
    }
    Ok(whole)
}

/// One at a time changes journals of runs that are over.
static ALONE: Mutex<()> = Mutex::new(());

/// Whether the run is over; later events may follow its end.
fn has_ended(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(entry.event, Event::Ended { .. }))
}

/// The folder `runs/` of an app.
#[derive(Clone, Debug)]
pub struct Runs {
    folder: PathBuf,
}

impl Runs {
    /// The runs of the app at `root`.
    #[must_use]
    pub fn of(root: &Path) -> Runs {
        Runs { folder: root.join("runs") }
    }

    /// The folder of a run.
    #[must_use]
    pub fn folder(&self, run: u32) -> PathBuf {
        self.folder.join(format!("{run:06}"))
    }

    /// The journal of a run.
    #[must_use]
    pub fn journal(&self, run: u32) -> PathBuf {
        self.folder(run).join("journal.jsonl")
    }

    /// The numbers of all runs, in order.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    pub fn list(&self) -> Result<Vec<u32>, Error> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(durable::Error::io("read the folder", &self.folder, e).into()),
        };
        let mut runs = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| durable::Error::io("read the folder", &self.folder, e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|n| n.len() >= 6 && n.bytes().all(|b| b.is_ascii_digit()))
            else {
                continue;
            };
            runs.extend(name.parse::<u32>().ok());
        }
        runs.sort_unstable();
        Ok(runs)
    }

    /// The number of the last run.
    ///
    /// # Errors
    /// As [`Runs::list`].
    pub fn latest(&self) -> Result<Option<u32>, Error> {
        Ok(self.list()?.last().copied())
    }

    /// The number that the next run gets.
    ///
    /// # Errors
    /// As [`Runs::list`].
    pub fn next(&self) -> Result<u32, Error> {
        Ok(self.latest()?.unwrap_or(0) + 1)
    }

    /// Creates the folder and the empty journal of a run.
    ///
    /// # Errors
    /// When they cannot be made durable, or the run has a journal already.
    pub fn create(&self, run: u32) -> Result<FileJournal, Error> {
        let head = self.last_hash(run);
        durable::create_dir(&self.folder(run), durable::PRIVATE_DIR)?;
        FileJournal::create(&self.journal(run), head)
    }

    /// The hash of the last line of the runs before this one. A run before that cannot be read is no reason to refuse
    /// a new one: `audit` names it.
    fn last_hash(&self, run: u32) -> Option<String> {
        let earlier = self.list().ok()?.into_iter().rev().filter(|earlier| *earlier < run);
        earlier.filter_map(|earlier| read(&self.journal(earlier)).ok()).find_map(|whole| whole.head)
    }

    /// Opens the journal of a run to go on with it, and gives what it holds.
    ///
    /// # Errors
    /// When it is absent or damaged, or a torn end cannot be cut off.
    pub fn open(&self, run: u32) -> Result<(FileJournal, Vec<Entry>), Error> {
        FileJournal::open(&self.journal(run))
    }

    /// What the journal of a run holds; nothing is changed. A torn last line is left out.
    ///
    /// # Errors
    /// When it is absent or damaged.
    pub fn entries(&self, run: u32) -> Result<Vec<Entry>, Error> {
        Ok(read(&self.journal(run))?.entries)
    }

    /// Adds what is learnt of a run after its end: a spot check, a message, a signature. Only for the app's owner.
    ///
    /// # Errors
    /// The run has not ended, and its own engine writes its journal; or it cannot be written.
    pub fn add(&self, run: u32, event: Event) -> Result<Entry, Error> {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.journal(run);
        if !has_ended(&read(&path)?.entries) {
            return Err(Error::NotEnded { path });
        }
        let (mut journal, entries) = FileJournal::open(&path)?;
        let (at, moment) = (SystemClock.wall(), SystemClock.now());
        let entry = Entry { seq: entries.len() as u64, at, moment, event };
        journal.write(&entry)?;
        drop(journal);
        // The event stands. Reports that are behind it are written anew with the next one, and `audit` names them.
        let _ = crate::audit::write_reports(self, run);
        Ok(entry)
    }

    /// The last run that began, when it has not ended. One begins only when there is none, so no other can be open.
    ///
    /// # Errors
    /// When its journal is damaged: whether production is in between cannot be known.
    pub fn unfinished(&self) -> Result<Option<u32>, Error> {
        for run in self.list()?.into_iter().rev() {
            let entries = match self.entries(run) {
                Ok(entries) => entries,
                // A crash between the folder and the journal's first event: nothing was done.
                Err(Error::Io(e)) if e.is_absent() => continue,
                Err(e) => return Err(e),
            };
            match entries.is_empty() {
                true => {}
                false if has_ended(&entries) => return Ok(None),
                false => return Ok(Some(run)),
            }
        }
        Ok(None)
    }

    /// Gives back the room that was kept for the rest of a run's journal.
    ///
    /// # Errors
    /// When the journal cannot be opened; the room stays taken.
    pub fn release_room(&self, run: u32) -> Result<(), Error> {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.journal(run);
        let freed = OpenOptions::new().write(true).open(&path).and_then(|file| {
            let len = file.metadata()?.len();
            // Cutting a file to its own length frees what was allocated beyond it.
            file.set_len(len)
        });
        freed.map_err(|e| durable::Error::io("free the room of", &path, e).into())
    }

    /// The marker that keeps everything from starting the app while a run holds it.
    #[must_use]
    pub fn held_marker(&self) -> PathBuf {
        self.folder.join("HELD")
    }

    /// Sets the marker for a run, durably.
    ///
    /// # Errors
    /// It is not set for certain: do not begin to hold.
    pub fn set_held(&self, run: u32) -> Result<(), Error> {
        durable::create_dir(&self.folder, durable::PRIVATE_DIR)?;
        Ok(durable::write(&self.held_marker(), durable::PRIVATE, format!("run {run:06}\n").as_bytes())?)
    }

    /// Removes the marker, durably. Does nothing when there is none.
    ///
    /// # Errors
    /// It is still there, or may come back after a power cut.
    pub fn clear_held(&self) -> Result<(), Error> {
        Ok(durable::remove(&self.held_marker())?)
    }

    /// Whether the marker is set. When it cannot be looked at, it counts as set.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held_marker().try_exists().unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::ExitStatusExt;

    use plimsoll_core::plan::Step;
    use plimsoll_core::ports::Moment;
    use plimsoll_core::record::Ending;

    use super::*;

    fn entry(seq: u64) -> Entry {
        let event = Event::StepDone { step: Step::Fetch, ms: seq };
        Entry { seq, at: "2026-03-01T00:00:00.000Z".into(), moment: Moment(seq), event }
    }

    fn ended(seq: u64) -> Entry {
        let event = Event::Ended { ending: Ending::Live, exit: 0, message: String::new(), hold_ms: 0, ms: 1 };
        Entry { event, ..entry(seq) }
    }

    fn runs() -> (tempfile::TempDir, Runs) {
        let root = tempfile::tempdir().unwrap();
        let runs = Runs::of(root.path());
        (root, runs)
    }

    fn tear(runs: &Runs, run: u32, bytes: &[u8]) {
        OpenOptions::new().append(true).open(runs.journal(run)).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn what_is_written_reads_back_and_is_private() {
        let (_root, runs) = runs();
        assert_eq!(
            (runs.next().unwrap(), runs.latest().unwrap(), runs.unfinished().unwrap()),
            (1, None, None)
        );
        let mut journal = runs.create(1).unwrap();
        journal.append(&entry(0)).unwrap();
        journal.append(&ended(1)).unwrap();
        assert_eq!(runs.entries(1).unwrap(), [entry(0), ended(1)]);
        assert_eq!(std::fs::metadata(journal.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!((runs.next().unwrap(), runs.list().unwrap()), (2, vec![1]));
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_cut_off_before_the_next() {
        let whole = serde_json::to_vec(&entry(1)).unwrap();
        // Half a line; a whole line without its end; a line whose last block never reached the disk.
        let zeros = [&whole[..20], &[0; 30], b"\n"].concat();
        for torn in [&whole[..10], &whole[..], &zeros[..], &[0; 4096][..]] {
            let (_root, runs) = runs();
            runs.create(1).unwrap().append(&entry(0)).unwrap();
            tear(&runs, 1, torn);
            assert_eq!(runs.entries(1).unwrap(), [entry(0)]);
            let (mut journal, entries) = runs.open(1).unwrap();
            assert_eq!(entries, [entry(0)]);
            journal.append(&ended(1)).unwrap();
            assert_eq!(runs.entries(1).unwrap(), [entry(0), ended(1)]);
        }
    }

    #[test]
    fn what_is_learnt_later_follows_the_end_and_opens_no_run_again() {
        let (_root, runs) = runs();
        let mut journal = runs.create(1).unwrap();
        journal.append(&entry(0)).unwrap();
        let later = || Event::Warned { what: "later".into() };
        assert!(matches!(runs.add(1, later()), Err(Error::NotEnded { .. })), "its engine still writes");
        journal.append(&ended(1)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| runs.add(1, later()).unwrap());
            }
        });
        assert_eq!(runs.entries(1).unwrap().len(), 10, "numbered without gaps");
        assert_eq!(runs.unfinished().unwrap(), None);
    }

    #[test]
    fn the_engine_and_a_person_write_to_one_journal_without_a_gap() {
        let (_root, runs) = runs();
        let mut shared = SharedJournal::new(runs.create(1).unwrap());
        shared.append(&entry(0)).unwrap();
        assert_eq!(shared.next_seq(), Some(1));
        shared.add(entry).unwrap();
        // The engine took its number before the person wrote.
        shared.append(&entry(1)).unwrap();
        let numbers: Vec<u64> = runs.entries(1).unwrap().iter().map(|entry| entry.seq).collect();
        assert_eq!(numbers, [0, 1, 2]);
    }

    #[test]
    fn any_other_damage_names_line_and_file() {
        for (bytes, words) in [
            (&b"{\"seq\":1}\n"[..], "line 2"),
            (b"garbage\n", "line 2"),
            (
                b"{\"seq\":9,\"at\":\"\",\"moment\":1,\"event\":\"step-done\",\"step\":\"fetch\",\"ms\":1}\n",
                "number is 9",
            ),
        ] {
            let (_root, runs) = runs();
            runs.create(1).unwrap().append(&entry(0)).unwrap();
            tear(&runs, 1, bytes);
            let error = runs.entries(1).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("000001/journal.jsonl"), "{error}");
            assert!(runs.open(1).is_err() && runs.unfinished().is_err());
        }
    }

    #[test]
    fn a_torn_line_in_the_middle_is_damage() {
        let (_root, runs) = runs();
        runs.create(1).unwrap().append(&entry(0)).unwrap();
        tear(&runs, 1, b"{\"seq\":1,\n");
        tear(&runs, 1, &[&serde_json::to_vec(&entry(2)).unwrap()[..], b"\n"].concat());
        assert!(matches!(runs.entries(1).unwrap_err(), Error::Damaged { line: 2, .. }));
    }

    #[test]
    fn an_entry_out_of_order_is_refused_as_a_bug() {
        let (_root, runs) = runs();
        let mut journal = runs.create(1).unwrap();
        assert_eq!(journal.append(&entry(1)).unwrap_err().kind, FailureKind::Bug);
        journal.append(&entry(0)).unwrap();
        assert_eq!(runs.entries(1).unwrap(), [entry(0)]);
    }

    #[test]
    fn the_unfinished_run_is_the_last_that_began() {
        let (_root, runs) = runs();
        let mut first = runs.create(1).unwrap();
        first.append(&entry(0)).unwrap();
        assert_eq!(runs.unfinished().unwrap(), Some(1));
        drop(runs.create(2).unwrap());
        std::fs::create_dir(runs.folder(3)).unwrap();
        assert_eq!(runs.unfinished().unwrap(), Some(1), "2 and 3 never began");
        first.append(&ended(1)).unwrap();
        assert_eq!(runs.unfinished().unwrap(), None);
        assert_eq!(runs.next().unwrap(), 4);
    }

    #[test]
    fn a_second_journal_for_a_run_is_refused() {
        let (_root, runs) = runs();
        runs.create(1).unwrap().append(&entry(0)).unwrap();
        assert!(runs.create(1).is_err());
        assert_eq!(runs.entries(1).unwrap(), [entry(0)]);
    }

    #[test]
    fn room_reserved_for_events_does_not_show_in_the_file() {
        let (_root, runs) = runs();
        let mut journal = runs.create(1).unwrap();
        journal.append(&entry(0)).unwrap();
        journal.reserve_bytes(256 << 10).unwrap();
        journal.reserve().unwrap();
        journal.append(&ended(1)).unwrap();
        assert_eq!(runs.entries(1).unwrap(), [entry(0), ended(1)]);
        assert!(journal.reserve_bytes(1 << 50).is_err());
    }

    #[test]
    fn the_marker_is_set_and_cleared() {
        let (_root, runs) = runs();
        assert!(!runs.is_held());
        runs.set_held(7).unwrap();
        assert!(runs.is_held());
        assert_eq!(std::fs::read_to_string(runs.held_marker()).unwrap(), "run 000007\n");
        runs.clear_held().unwrap();
        runs.clear_held().unwrap();
        assert!(!runs.is_held());
    }

    #[test]
    #[ignore = "the process that the test below lets crash"]
    fn write_three_events_to_the_root_named_in_the_environment() {
        let Some(root) = std::env::var_os("JOURNAL_TEST_ROOT") else { return };
        let mut journal = Runs::of(Path::new(&root)).create(1).unwrap();
        for seq in 0..3 {
            journal.append(&entry(seq)).unwrap();
        }
    }

    #[test]
    fn the_fault_point_ends_the_process_right_after_that_event() {
        for after in [1_usize, 2] {
            let (root, runs) = runs();
            let test = "journal::tests::write_three_events_to_the_root_named_in_the_environment";
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--ignored"])
                .env("JOURNAL_TEST_ROOT", root.path())
                .env("PLIMSOLL_CRASH_AFTER_EVENT", after.to_string())
                .current_dir(root.path())
                .output()
                .unwrap();
            assert_eq!(output.status.signal(), Some(6), "{output:?}");
            assert_eq!(runs.entries(1).unwrap().len(), after);
            assert_eq!(runs.unfinished().unwrap(), Some(1));
        }
    }

    #[test]
    #[ignore = "needs root: it mounts a file system of 8 MB, in a mount namespace of its own"]
    fn a_full_disk_stops_no_event_that_has_its_room_and_tears_no_line() {
        const TEST: &str = "journal::tests::a_full_disk_stops_no_event_that_has_its_room_and_tears_no_line";
        let Some(root) = std::env::var_os("JOURNAL_TEST_FULL") else {
            let root = tempfile::tempdir().unwrap();
            let script = "mount -t tmpfs -o size=8m tmpfs \"$JOURNAL_TEST_FULL\" && exec \"$0\" --exact \"$1\" --ignored";
            let status = std::process::Command::new("unshare")
                .args(["--mount", "sh", "-c", script])
                .arg(std::env::current_exe().unwrap())
                .arg(TEST)
                .env("JOURNAL_TEST_FULL", root.path())
                .status();
            assert!(status.unwrap().success());
            return;
        };
        let runs = Runs::of(Path::new(&root));
        let mut with_room = runs.create(1).unwrap();
        with_room.append(&entry(0)).unwrap();
        with_room.reserve().unwrap();
        let mut without = runs.create(2).unwrap();
        without.append(&entry(0)).unwrap();

        let filler = Path::new(&root).join("filler");
        let mut fill = File::create(&filler).unwrap();
        while fill.write_all(&[1; 4096]).is_ok() {}
        assert!(with_room.reserve_bytes(2 << 20).is_err());
        for seq in 1..2_000 {
            with_room.append(&entry(seq)).unwrap();
        }
        let mut written = 1;
        let failure = loop {
            match without.append(&entry(written)) {
                Ok(()) => written += 1,
                Err(failure) => break failure,
            }
        };
        assert!(failure.next.contains("free disk space"), "{failure:?}");
        assert_eq!(runs.entries(2).unwrap().len() as u64, written, "no half line is left");
        assert!(runs.create(3).unwrap().reserve().is_err());

        drop(fill);
        std::fs::remove_file(&filler).unwrap();
        without.append(&entry(written)).unwrap();
        assert_eq!(runs.entries(1).unwrap().len(), 2_000);
        assert_eq!(runs.entries(2).unwrap().len() as u64, written + 1);
    }
}
