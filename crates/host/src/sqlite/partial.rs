//! A file in the making: visible under a telling name, removed unless published, never mistaken for a finished one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, FlockOperation, RenameFlags};

use super::Error;
use super::connection::beside;

/// What stands in the name of every file in the making.
pub(crate) const MARK: &str = ".partial-";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A new empty file with mode 0600, locked (`flock`) for as long as it is in the making: the lock dies with its owner,
/// so that leftovers can be told from somebody's work.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    /// Keeps the lock. Closed last: closing drops this process's POSIX locks on the file.
    lock: File,
    published: bool,
}

impl Partial {
    /// Begins a file in `folder` that is to become some `name`.
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self, Error> {
        loop {
            let id = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            let path = folder.join(format!("{name}{MARK}{id}"));
            let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let lock = match opened {
                Ok(file) => file,
                // Left by an earlier process with the same number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io(&path, "create", e)),
            };
            // Before it is locked, somebody who clears up may take it for a leftover; then another one is begun.
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_still(&path, &lock) => return Ok(Partial { path, lock, published: false }),
                Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(e) => return Err(Error::io(&path, "lock", e.into())),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For writing to it from its beginning, past SQLite. Closing it drops this process's POSIX locks on the file, so no
    /// connection may be open to it that uses them.
    pub(crate) fn writer(&self) -> Result<File, Error> {
        OpenOptions::new().write(true).open(&self.path).map_err(|e| Error::io(&self.path, "write", e))
    }

    /// Empties the file for another attempt.
    pub(crate) fn empty(&self) -> Result<(), Error> {
        let _ = fs::remove_file(beside(&self.path, "-journal"));
        self.lock.set_len(0).map_err(|e| Error::io(&self.path, "empty", e))
    }

    /// Syncs the file and gives it its name, unless something has that name already: then `Ok(Err(self))`.
    pub(crate) fn publish(mut self, dest: &Path) -> Result<Result<(), Self>, Error> {
        sync_file(&self.path)?;
        match rename_new(&self.path, dest) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Err(self)),
            Err(e) => return Err(Error::io(dest, "name", e)),
        }
        self.published = true;
        sync_folder_of(dest)?;
        Ok(Ok(()))
    }

    /// Syncs the file and puts it in the place of `dest`, which may exist.
    pub(crate) fn replace(mut self, dest: &Path) -> Result<(), Error> {
        sync_file(&self.path)?;
        fs::rename(&self.path, dest).map_err(|e| Error::io(dest, "replace", e))?;
        self.published = true;
        sync_folder_of(dest)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            remove_with_sides(&self.path);
        }
    }
}

/// Removes a file and what SQLite may have left beside it: a full disk leaves a hot journal too.
pub(crate) fn remove_with_sides(path: &Path) {
    for suffix in ["-journal", "-wal", "-shm", ""] {
        // Best effort: what cannot be removed is still recognisable by its name.
        let _ = fs::remove_file(beside(path, suffix));
    }
}

fn is_still(path: &Path, file: &File) -> bool {
    let of = |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    let here = of(file.metadata());
    here.is_some() && of(fs::metadata(path)) == here
}

/// A file in the making whose owner is gone. It is locked as long as this lives, so that nobody begins to use it while
/// it is removed.
#[derive(Debug)]
pub struct Leftover {
    path: PathBuf,
    _lock: File,
}

impl std::ops::Deref for Leftover {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// Files in the making whose owner is gone.
///
/// # Errors
/// When the folder cannot be read.
pub fn leftovers(folder: &Path, name: &str) -> Result<Vec<Leftover>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder, "list", e)),
    };
    let start = format!("{name}{MARK}");
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, "list", e))?;
        let file_name = entry.file_name();
        if !file_name.to_string_lossy().starts_with(&start)
            || !entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            continue;
        }
        // A file being made in this process is locked by another description of it, so this says "held" too.
        let Ok(lock) = OpenOptions::new().read(true).write(true).open(entry.path()) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            found.push(Leftover { path: entry.path(), _lock: lock });
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do it: a hard link refuses an existing name too.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => other.map_err(Into::into),
    }
}

pub(crate) fn sync_file(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::io(path, "sync", e))
}

pub(crate) fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    sync_file(folder)
}

/// An error when the folder's file system has less than `need` bytes free for us.
pub(crate) fn room(folder: &Path, need: u64) -> Result<(), Error> {
    let found =
        rustix::fs::statvfs(folder).map_err(|e| Error::io(folder, "ask for free room in", e.into()))?;
    let have = found.f_bavail.saturating_mul(found.f_frsize);
    if have < need { Err(Error::NoRoom { folder: folder.to_owned(), need, have }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two backups at once: one took the other's file, which was made and not yet locked, for a leftover.
    #[test]
    fn what_is_being_begun_is_never_cleared_away_as_a_leftover() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        for left in leftovers(folder.path(), "shop.db").unwrap() {
                            remove_with_sides(&left);
                        }
                        let begun = Partial::new(folder.path(), "shop.db").unwrap();
                        assert!(begun.path().exists(), "{} was taken away", begun.path().display());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_owner_left_is_found_and_what_somebody_makes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let begun = Partial::new(folder.path(), "shop.db").unwrap();
        fs::write(folder.path().join("shop.db.partial-1-1"), "x").unwrap();
        fs::write(folder.path().join("shop.db.backup.20260101_000000"), "x").unwrap();
        let found = leftovers(folder.path(), "shop.db").unwrap();
        assert_eq!(
            found.iter().map(|left| left.path.clone()).collect::<Vec<_>>(),
            [folder.path().join("shop.db.partial-1-1")]
        );
        drop(begun);
    }
}
