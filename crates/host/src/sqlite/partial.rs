//! A file in the making: visible under a telling name, removed unless published, never mistaken for a finished one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
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
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
                .map_err(|e| Error::io(&path, "lock", e.into()))?;
            return Ok(Partial { path, lock, published: false });
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
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

/// Files in the making whose owner is gone.
///
/// # Errors
/// When the folder cannot be read.
pub fn leftovers(folder: &Path, name: &str) -> Result<Vec<PathBuf>, Error> {
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
        let abandoned = File::open(entry.path())
            .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok());
        if abandoned {
            found.push(entry.path());
        }
    }
    found.sort();
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
