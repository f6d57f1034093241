//! The app's own output: `logs/app.log`, kept to a size, readable from a moment on.
//!
//! The app writes into a pipe that is read here, not into the file itself. A full disk then costs lines, which are
//! counted, and never blocks the app or makes its writes fail; rotation loses nothing, because nobody but this
//! writes the file. The price of a pipe is what happens when its reader dies: a plain one would end the app with
//! SIGPIPE at its next line. So the app's end is opened for reading too: its pipe always has a reader, and it
//! holds 1 MiB, which a fresh `plimsoll serve` has time to end the app in.

use std::collections::VecDeque;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::durable;

/// The size at which a new file is begun.
pub const MAX_BYTES: u64 = 10_000_000;
/// How many files are kept, the current one included.
pub const FILES: usize = 5;
/// How much of the end of a file is looked at for its last lines.
const TAIL_BYTES: u64 = 256 << 10;
/// How many last lines of one process are kept for messages.
const LAST_LINES: usize = 20;
/// A line that is longer is written in parts.
const LONGEST_LINE: usize = 64 << 10;
/// What a user without privileges may ask a pipe to hold.
const PIPE_BYTES: usize = 1 << 20;

/// A log file with those before it: `app.log`, `app.log.1` ...
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    files: usize,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    /// Whether the file ends in the middle of a line, which a full disk cut off.
    torn: bool,
    /// Lines lost since the last that could be written; the next one tells of them.
    untold: u64,
    dropped: u64,
}

/// A place in the log; lines written later follow it. It stays right when the file is rotated, and in another
/// process.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct LogMark {
    inode: u64,
    /// When the file was created, nanoseconds: the number of a removed file's inode is soon used again.
    born: u64,
    offset: u64,
}

impl LogFile {
    /// Opens the log at `path` to go on at its end; its folder is created.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: &Path, max_bytes: u64, files: usize) -> Result<Arc<LogFile>, durable::Error> {
        if let Some(folder) = path.parent() {
            durable::create_dir(folder, durable::PRIVATE_DIR)?;
        }
        let failed = |e| durable::Error::io("open", path, e);
        let file = create(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let torn = size > 0 && last_byte(path).map_err(failed)? != b'\n';
        let open = Mutex::new(Open { file, size, torn, untold: 0, dropped: 0 });
        Ok(Arc::new(LogFile { path: path.to_owned(), max_bytes, files: files.max(1), open }))
    }

    /// The current file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines that could not be written, since this was opened.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Writes whole lines. Those that the disk has no room for are dropped and counted; the count is written to the
    /// log when there is room again.
    pub fn write(&self, lines: &[u8]) {
        let mut open = self.lock();
        if open.size > 0 && open.size + lines.len() as u64 > self.max_bytes {
            self.rotate(&mut open);
        }
        if open.untold > 0 {
            let note = format!("plimsoll: {} lines could not be written here\n", open.untold);
            if open.put(note.as_bytes()) {
                open.untold = 0;
            }
        }
        if open.untold > 0 || !open.put(lines) {
            let lost = lines.iter().filter(|b| **b == b'\n').count().max(1) as u64;
            open.untold += lost;
            open.dropped += lost;
        }
    }

    /// Begins a new file. When that cannot be done the old one grows on and it is tried again at the next line.
    fn rotate(&self, open: &mut Open) {
        for n in (1..self.files).rev() {
            let _ = std::fs::rename(self.file(n - 1), self.file(n));
        }
        if self.files == 1 {
            let _ = std::fs::remove_file(&self.path);
        }
        if let Ok(file) = create(&self.path) {
            open.size = file.metadata().map_or(0, |m| m.len());
            open.torn = false;
            open.file = file;
        }
    }

    /// The `n`th file before the current one.
    fn file(&self, n: usize) -> PathBuf {
        if n == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    }

    /// The last `n` lines, from the current file and the one before it.
    #[must_use]
    pub fn tail(&self, n: usize) -> Vec<String> {
        let _open = self.lock();
        let mut lines = last_lines(&self.path, n);
        if lines.len() < n {
            let mut before = last_lines(&self.file(1), n - lines.len());
            before.append(&mut lines);
            lines = before;
        }
        lines
    }

    /// This moment.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn mark(&self) -> Result<LogMark, durable::Error> {
        let open = self.lock();
        let meta = open.file.metadata().map_err(|e| durable::Error::io("look at", &self.path, e))?;
        Ok(LogMark { inode: meta.ino(), born: born(&meta), offset: meta.len() })
    }

    /// Shows every line written since the mark, oldest first. `false` when some of them have been rotated away.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn since(&self, mark: LogMark, show: &mut dyn FnMut(&str)) -> Result<bool, durable::Error> {
        // Opened under the lock, so that no rotation comes between two of them; read without it.
        let mut newest_first = Vec::new();
        let mut from = None;
        {
            let _open = self.lock();
            for n in 0..self.files {
                let path = self.file(n);
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                    Err(e) => return Err(durable::Error::io("read", &path, e)),
                };
                let meta = file.metadata().map_err(|e| durable::Error::io("look at", &path, e))?;
                newest_first.push(file);
                if meta.ino() == mark.inode && born(&meta) == mark.born && meta.len() >= mark.offset {
                    from = Some(mark.offset);
                    break;
                }
            }
        }
        for (n, mut file) in newest_first.into_iter().rev().enumerate() {
            let read = |e| durable::Error::io("read", &self.path, e);
            if let (0, Some(offset)) = (n, from) {
                file.seek(SeekFrom::Start(offset)).map_err(read)?;
            }
            each_line(file, show).map_err(read)?;
        }
        Ok(from.is_some())
    }

    /// A pipe into this log, for one child.
    ///
    /// # Errors
    /// When there are no more descriptors or threads.
    pub fn pipe(self: &Arc<Self>) -> io::Result<LogPipe> {
        let (reader, writer) = io::pipe()?;
        // Too many pipes of one user make this fail; then it holds 64 KiB, which is enough while it is read.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES);
        let held_open = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let both = OpenOptions::new().read(true).write(true).open(held_open)?;
        let (last, pump) = self.read_on(reader)?;
        Ok(LogPipe { end: Some(both), last, pump: Some(pump) })
    }

    /// The pipe that a child of an earlier owner writes to: opened anew for reading, what waits in it included.
    ///
    /// # Errors
    /// The process is gone, or its output goes elsewhere by now.
    pub fn pipe_of(self: &Arc<Self>, pid: i32) -> io::Result<LogPipe> {
        let opened = [1, 2].into_iter().find_map(|number| {
            let path = format!("/proc/{pid}/fd/{number}");
            let is_pipe = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_fifo());
            is_pipe.then(|| File::open(&path))
        });
        let reader = opened.ok_or_else(|| io::Error::other("its output goes to no pipe"))??;
        let (last, pump) = self.read_on(reader)?;
        Ok(LogPipe { end: None, last, pump: Some(pump) })
    }

    fn read_on(
        self: &Arc<Self>,
        reader: impl Read + Send + 'static,
    ) -> io::Result<(LastLines, JoinHandle<()>)> {
        let last = LastLines::default();
        let pump = std::thread::Builder::new().name("app log".into()).spawn({
            let (log, last) = (Arc::clone(self), Arc::clone(&last));
            move || pump(reader, &log, &last)
        })?;
        Ok((last, pump))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // A panic while it was held leaves at worst a wrong count.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Writes all of `bytes` or says that it could not; what was written of them stays, as a torn line.
    fn put(&mut self, bytes: &[u8]) -> bool {
        if self.torn && self.file.write_all(b"\n").is_err() {
            return false;
        }
        self.size += u64::from(self.torn);
        self.torn = false;
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(n) if n > 0 => {
                    self.size += n as u64;
                    self.torn = rest[n - 1] != b'\n';
                    rest = &rest[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(durable::PRIVATE).open(path)
}

fn last_byte(path: &Path) -> io::Result<u8> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut byte = [0];
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn born(meta: &Metadata) -> u64 {
    // File systems without birth times: the inode alone has to do.
    let since = meta.created().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(0))
}

fn each_line(file: File, show: &mut dyn FnMut(&str)) -> io::Result<()> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        show(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
    Ok(())
}

/// For messages: what cannot be read has no last lines.
fn last_lines(path: &Path, n: usize) -> Vec<String> {
    let read = || {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut lines = Vec::new();
        each_line(file, &mut |line| lines.push(line.to_owned()))?;
        Ok::<_, io::Error>(lines)
    };
    let mut lines = read().unwrap_or_default();
    lines.split_off(lines.len().saturating_sub(n))
}

type LastLines = Arc<Mutex<VecDeque<String>>>;

/// The way of one child's output into the log.
#[derive(Debug)]
pub struct LogPipe {
    end: Option<File>,
    last: LastLines,
    pump: Option<JoinHandle<()>>,
}

impl LogPipe {
    /// The child's stdout and stderr. To be called once, right before it is started: from then on the pipe is open
    /// as long as the child and those that it started hold it.
    ///
    /// # Errors
    /// When there are no more descriptors, or it was called before.
    pub fn ends(&mut self) -> io::Result<(Stdio, Stdio)> {
        let end = self.end.take().ok_or_else(|| io::Error::other("the pipe has been given away"))?;
        Ok((end.try_clone()?.into(), end.into()))
    }

    /// The last lines that came through this pipe.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits, for a moment, until all that an ended child wrote has arrived.
    pub fn settle(&mut self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_millis(300);
        while self.pump.as_ref().is_some_and(|p| !p.is_finished()) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

/// Carries whole lines, so that two releases that run at once do not write into each other's.
fn pump(mut from: impl Read, log: &LogFile, last: &Mutex<VecDeque<String>>) {
    let mut buffer = vec![0; LONGEST_LINE];
    let mut kept = Vec::new();
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => kept.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        let whole = kept.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let whole = if whole == 0 && kept.len() >= LONGEST_LINE { kept.len() } else { whole };
        if whole > 0 {
            carry(&kept[..whole], log, last);
            kept.drain(..whole);
        }
    }
    if !kept.is_empty() {
        kept.push(b'\n');
        carry(&kept, log, last);
    }
}

fn carry(lines: &[u8], log: &LogFile, last: &Mutex<VecDeque<String>>) {
    log.write(lines);
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    for line in String::from_utf8_lossy(lines).lines() {
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::process::{spawn, tests::shell};

    fn log(max_bytes: u64, files: usize) -> (tempfile::TempDir, Arc<LogFile>) {
        let root = tempfile::tempdir().unwrap();
        let log = LogFile::open(&root.path().join("logs/app.log"), max_bytes, files).unwrap();
        (root, log)
    }

    fn since(log: &LogFile, mark: LogMark) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        let complete = log.since(mark, &mut |l| lines.push(l.to_owned())).unwrap();
        (lines, complete)
    }

    fn numbered(from: u32, to: u32) -> Vec<String> {
        (from..to).map(|n| format!("line {n:04}")).collect()
    }

    fn write(log: &LogFile, from: u32, to: u32) {
        for line in numbered(from, to) {
            log.write(format!("{line}\n").as_bytes());
        }
    }

    #[test]
    fn lines_since_a_mark_are_read_across_rotations() {
        let (_root, log) = log(100, 5);
        write(&log, 0, 5);
        let mark = log.mark().unwrap();
        assert_eq!(since(&log, mark), (vec![], true));
        write(&log, 5, 30);
        assert_eq!(since(&log, mark), (numbered(5, 30), true));
        assert!(log.file(2).exists() && std::fs::metadata(log.path()).unwrap().len() <= 100);
    }

    #[test]
    fn a_mark_that_was_rotated_away_is_told() {
        let (_root, log) = log(100, 3);
        write(&log, 0, 5);
        let mark = log.mark().unwrap();
        write(&log, 5, 100);
        let (lines, complete) = since(&log, mark);
        assert!(!complete);
        assert_eq!(lines.last().unwrap(), "line 0099");
        assert!(!log.file(3).exists(), "no more files than were asked for");
    }

    #[test]
    fn a_mark_at_the_very_beginning_and_one_from_another_process_hold() {
        let (root, log) = log(1_000, 3);
        let mark = log.mark().unwrap();
        write(&log, 0, 3);
        let text = serde_json::to_string(&mark).unwrap();
        drop(log);
        let log = LogFile::open(&root.path().join("logs/app.log"), 1_000, 3).unwrap();
        write(&log, 3, 4);
        assert_eq!(since(&log, serde_json::from_str(&text).unwrap()), (numbered(0, 4), true));
    }

    #[test]
    fn the_last_lines_reach_back_into_the_file_before() {
        let (_root, log) = log(100, 3);
        write(&log, 0, 12);
        assert_eq!(log.tail(5), numbered(7, 12));
        assert_eq!(log.tail(1), numbered(11, 12));
    }

    #[test]
    fn a_full_disk_costs_lines_that_are_counted_and_nothing_else() {
        let (_root, log) = log(10_000, 2);
        write(&log, 0, 1);
        let good = std::mem::replace(
            &mut log.lock().file,
            OpenOptions::new().append(true).open("/dev/full").unwrap(),
        );
        log.write(b"lost 1\nlost 2\n");
        log.write(b"lost 3\n");
        assert_eq!(log.dropped(), 3);
        log.lock().file = good;
        write(&log, 1, 2);
        assert_eq!(log.tail(3), ["line 0000", "plimsoll: 3 lines could not be written here", "line 0001"]);
    }

    #[test]
    fn a_line_cut_off_by_a_crash_is_not_continued_by_the_next() {
        let (root, log) = log(10_000, 2);
        log.write(b"half a li");
        drop(log);
        let log = LogFile::open(&root.path().join("logs/app.log"), 10_000, 2).unwrap();
        log.write(b"next\n");
        assert_eq!(log.tail(2), ["half a li", "next"]);
    }

    #[test]
    fn both_outputs_of_a_child_arrive_as_it_wrote_them() {
        let (root, log) = log(MAX_BYTES, FILES);
        let mut pipe = log.pipe().unwrap();
        let (out, err) = pipe.ends().unwrap();
        let mut child = spawn(&shell(root.path(), "echo one; echo two >&2; printf three"), out, err).unwrap();
        while child.ended().is_none() {
            std::thread::yield_now();
        }
        child.end(Duration::ZERO).unwrap();
        pipe.settle();
        assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(pipe.last_lines(), ["one", "two", "three"]);
    }

    #[test]
    fn what_an_app_wrote_while_nobody_read_is_read_by_the_next_owner() {
        let (root, log) = log(MAX_BYTES, FILES);
        let (reader, writer) = io::pipe().unwrap();
        let both = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
            .unwrap();
        let script = "echo one; echo two; touch written; while [ ! -e go ]; do sleep 0.01; done; echo three";
        let mut child = spawn(&shell(root.path(), script), both.into(), Stdio::null()).unwrap();
        drop((reader, writer));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !root.path().join("written").exists() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut pipe = log.pipe_of(child.identity().pid).unwrap();
        std::fs::write(root.path().join("go"), "").unwrap();
        while child.ended().is_none() {
            std::thread::yield_now();
        }
        child.end(Duration::ZERO).unwrap();
        pipe.settle();
        assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn an_app_whose_reader_died_goes_on_writing() {
        // What the app gets, without anybody who reads it: a plain pipe would end it with SIGPIPE.
        let folder = tempfile::tempdir().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let both = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
            .unwrap();
        drop((reader, writer));
        let script = "echo one && echo two && touch survived";
        let child = spawn(&shell(folder.path(), script), both.into(), Stdio::null()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while child.ended().is_none() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(folder.path().join("survived").exists());
    }
}
