//! Which database an app really has open: one that ignores its settings would be deployed with an empty shop.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::io::Errno;

/// The first bytes of every SQLite database that is not empty.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What the processes of an app have open.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// The processes that have the configured database open now.
    pub by: Vec<u32>,
    /// Other SQLite databases that they have open, as they name them.
    pub others: Vec<PathBuf>,
    /// Processes that could not be looked into: what they have open is unknown.
    pub hidden: Vec<u32>,
}

/// What that means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The configured database is, or was, open.
    Opened,
    /// Not every process could be looked into.
    Unknown,
    /// Another database is open and the configured one is not.
    Other(Vec<PathBuf>),
    /// No database was seen open.
    NotSeen,
}

impl Seen {
    /// Judges it, together with whether an [`Opening`] has seen the configured database opened meanwhile.
    #[must_use]
    pub fn verdict(&self, opened_meanwhile: bool) -> Verdict {
        if opened_meanwhile || !self.by.is_empty() {
            Verdict::Opened
        } else if !self.hidden.is_empty() {
            Verdict::Unknown
        } else if !self.others.is_empty() {
            Verdict::Other(self.others.clone())
        } else {
            Verdict::NotSeen
        }
    }
}

impl Seen {
    /// Adds another look.
    pub fn add(&mut self, other: Seen) {
        self.by.extend(other.by);
        for path in other.others {
            if !self.others.contains(&path) {
                self.others.push(path);
            }
        }
        self.hidden.extend(other.hidden);
    }
}

/// Looks again and again while `act` goes on, for apps that open their database for each request only. What cannot
/// be looked at is left out; a last look afterwards says so.
pub fn while_doing<T>(database: &Path, pids: &[u32], act: impl FnOnce() -> T) -> (T, Seen) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut seen = Seen::default();
            while !done.load(Ordering::SeqCst) && seen.by.is_empty() {
                if let Ok(now) = opened(database, pids) {
                    seen.add(Seen { hidden: Vec::new(), ..now });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        let result = act();
        done.store(true, Ordering::SeqCst);
        (result, looking.join().unwrap_or_default())
    })
}

/// Looks at what `pids` and all their descendants have open. `database` is never opened here: closing it would
/// drop the locks that this process holds on it.
///
/// # Errors
/// When `/proc` cannot be listed, or the database is there and cannot be asked for its identity.
pub fn opened(database: &Path, pids: &[u32]) -> io::Result<Seen> {
    let configured = match fs::metadata(database) {
        Ok(found) => Some((found.dev(), found.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut seen = Seen::default();
    let mut others = BTreeMap::new();
    for pid in with_descendants(pids)? {
        match open_files(pid) {
            Ok(files) => {
                if files.keys().any(|id| Some(*id) == configured) {
                    seen.by.push(pid);
                }
                others.extend(files.into_iter().filter(|(id, _)| Some(*id) != configured));
            }
            // It has ended, and its descriptors with it.
            Err(error) if is_gone(&error) => {}
            Err(_) => seen.hidden.push(pid),
        }
    }
    let ours: BTreeSet<(u64, u64)> = own_files();
    let foreign = others.into_iter().filter(|(id, _)| !ours.contains(id));
    seen.others = foreign.filter(|(_, file)| is_sqlite(&file.link)).map(|(_, file)| file.name).collect();
    seen.others.sort();
    Ok(seen)
}

/// The processes and all that descend from them.
fn with_descendants(pids: &[u32]) -> io::Result<BTreeSet<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name in parentheses may hold anything, parentheses too.
        let parent =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut all: BTreeSet<u32> = pids.iter().copied().collect();
    loop {
        let before = all.len();
        for (pid, parent) in &parents {
            if all.contains(parent) {
                all.insert(*pid);
            }
        }
        if all.len() == before {
            return Ok(all);
        }
    }
}

struct Open {
    /// The entry in `/proc`, which leads to the open file itself, also when its name is gone or somebody else's.
    link: PathBuf,
    /// The name that it was opened by.
    name: PathBuf,
}

/// The regular files that a process has open, by device and inode.
fn open_files(pid: u32) -> io::Result<BTreeMap<(u64, u64), Open>> {
    let mut files = BTreeMap::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let link = descriptor?.path();
        let (Ok(found), Ok(name)) = (fs::metadata(&link), fs::read_link(&link)) else { continue };
        if found.is_file() {
            files.insert((found.dev(), found.ino()), Open { link, name });
        }
    }
    Ok(files)
}

/// The files that this process has open itself: none of them may be opened and closed here.
fn own_files() -> BTreeSet<(u64, u64)> {
    open_files(std::process::id()).map(|files| files.into_keys().collect()).unwrap_or_default()
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Whether the file begins as a SQLite database does. One that cannot be read is not counted.
fn is_sqlite(path: &Path) -> bool {
    let mut begin = [0; 16];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin == *MAGIC
}

/// Tells whether anybody has opened a file since the watch began: an app that opens its database for each request
/// has it open only for moments.
///
/// Whoever opens it counts, this process too: the caller does not open it meanwhile.
pub struct Opening {
    inotify: OwnedFd,
    /// The watch of the folder, and the file's name in it.
    folder: i32,
    name: OsString,
}

impl Opening {
    /// Begins to watch the file, which need not be there yet. Its folder is watched as well, for a file that
    /// appears or takes its place.
    ///
    /// # Errors
    /// When the folder is missing or the kernel has no watch left.
    pub fn watch(path: &Path) -> io::Result<Self> {
        let real = match fs::canonicalize(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => std::path::absolute(path)?,
            other => other?,
        };
        let (Some(folder), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("{} is no file", path.display())));
        };
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let watch =
            inotify::add_watch(&fd, folder, inotify::WatchFlags::OPEN | inotify::WatchFlags::ONLYDIR)?;
        // Whoever opens it by another name (a hard link) is seen by the file's own watch only.
        match inotify::add_watch(&fd, &real, inotify::WatchFlags::OPEN) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Opening { inotify: fd, folder: watch, name: name.to_owned() })
    }

    /// Whether it has been opened since the watch began, or since this was last asked.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn seen(&mut self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut seen = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let named = event.file_name().is_some_and(|name| name.to_bytes() == self.name.as_bytes());
                    let opened = event.events().contains(inotify::ReadFlags::OPEN);
                    seen |= opened && (event.wd() != self.folder || named);
                    // The kernel dropped events: somebody may have opened it.
                    if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                        return Err(io::Error::other(
                            "too much happened in the database's folder to follow it",
                        ));
                    }
                }
                Err(Errno::AGAIN) => return Ok(seen),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use rusqlite::Connection;

    use super::*;
    use crate::process::{Command, Running, base_env, spawn};

    fn database(path: &Path) {
        Connection::open(path).unwrap().execute_batch("CREATE TABLE IF NOT EXISTS t(a)").unwrap();
    }

    /// Runs a script that writes the file `ready` once its files are open.
    fn app(folder: &Path, script: &str) -> Running {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let command = Command { words, env: base_env(), folder: folder.to_owned(), mark: None };
        let child = spawn(&command, Stdio::null(), Stdio::null()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !folder.join("ready").exists() {
            assert!(Instant::now() < deadline, "the app did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    fn look(folder: &Path, child: &Running) -> Seen {
        let pid = u32::try_from(child.identity().pid).unwrap();
        opened(&folder.join("store.db"), &[pid]).unwrap()
    }

    #[test]
    fn a_grandchild_that_has_the_database_open_is_found() {
        let dir = tempfile::tempdir().unwrap();
        database(&dir.path().join("store.db"));
        fs::hard_link(dir.path().join("store.db"), dir.path().join("linked.db")).unwrap();
        let child = app(dir.path(), "(exec 3<linked.db; touch ready; sleep 600; :) & wait");
        let seen = look(dir.path(), &child);
        assert!(!seen.by.is_empty() && seen.others.is_empty(), "{seen:?}");
        assert_eq!(seen.verdict(false), Verdict::Opened);
    }

    #[test]
    fn an_app_that_opens_another_database_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["store.db", "other.db", "gone.db"] {
            database(&dir.path().join(name));
        }
        fs::write(dir.path().join("notes.txt"), "SQLite format 4 is none").unwrap();
        let child =
            app(dir.path(), "exec 3<other.db 4<gone.db 5<notes.txt; rm gone.db; touch ready; sleep 600; :");
        let seen = look(dir.path(), &child);
        assert!(seen.by.is_empty(), "{seen:?}");
        let names: Vec<_> = seen.others.iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["gone.db (deleted)", "other.db"]);
        assert_eq!(seen.verdict(false), Verdict::Other(seen.others.clone()));
        assert_eq!(seen.verdict(true), Verdict::Opened);
    }

    #[test]
    fn nothing_open_is_not_seen_and_our_own_descriptors_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        database(&dir.path().join("store.db"));
        let _ours = fs::File::open(dir.path().join("store.db")).unwrap();
        let child = app(dir.path(), "touch ready; sleep 600; :");
        let seen = look(dir.path(), &child);
        assert_eq!((seen.verdict(false), seen.by.len()), (Verdict::NotSeen, 0));
        // One that has ended has nothing open.
        assert_eq!(opened(&dir.path().join("store.db"), &[4_000_000]).unwrap(), Seen::default());
    }

    #[test]
    fn looking_drops_no_lock_of_this_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        database(&path);
        let ours = Connection::open(&path).unwrap();
        ours.execute_batch("PRAGMA journal_mode=DELETE; BEGIN IMMEDIATE").unwrap();
        let child = app(dir.path(), "exec 3<store.db; touch ready; sleep 600; :");
        assert!(!look(dir.path(), &child).by.is_empty());
        // Asked from another database's side, ours is a foreign one: it is left alone as well.
        let pid = u32::try_from(child.identity().pid).unwrap();
        let seen = opened(&dir.path().join("none.db"), &[pid]).unwrap();
        assert_eq!(seen, Seen::default());
        // A second process must still meet the lock.
        let script = "import sqlite3,sys\ntry: sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')\n\
            except sqlite3.OperationalError: sys.exit(9)";
        let tried = std::process::Command::new("python3").args(["-c", script]).arg(&path).status();
        match tried {
            Ok(status) => assert_eq!(status.code(), Some(9), "our lock was gone"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        }
    }

    #[test]
    fn a_database_opened_for_a_moment_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        for there in [false, true] {
            let mut opening = Opening::watch(&path).unwrap();
            fs::write(dir.path().join("other.db"), "x").unwrap();
            assert_eq!(fs::metadata(&path).is_ok(), there);
            assert!(!opening.seen().unwrap(), "a look at its neighbours is no opening");
            database(&path);
            assert!(opening.seen().unwrap());
            assert!(!opening.seen().unwrap());
            // Also when another file takes its place.
            fs::write(dir.path().join("fresh"), "").unwrap();
            fs::rename(dir.path().join("fresh"), &path).unwrap();
            assert!(!opening.seen().unwrap());
            database(&path);
            assert!(opening.seen().unwrap());
        }
        assert!(Opening::watch(&dir.path().join("none/store.db")).is_err());
    }
}
