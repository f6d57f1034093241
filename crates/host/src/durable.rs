//! Writes that are on the disk when they return, and that a crash leaves either undone or done.
//!
//! The order is always the same: a temporary file beside the target, write, sync, verify, rename, sync the
//! folder. Nothing else in Plimsoll writes state.

use plimsoll_core::ports::Failure;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// The mode of state files: they may hold what only their owner may read.
pub const PRIVATE: u32 = 0o600;
/// The mode of state folders.
pub const PRIVATE_DIR: u32 = 0o700;

/// A write that did not happen. Unless it says otherwise, the target is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {doing} {}: {cause}", path.display())]
    Io {
        /// What was being done: `write`, `sync`, `rename`...
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// What was written did not pass its check; the target is untouched.
    #[error("what was written for {} is not right: {why}", path.display())]
    Rejected {
        /// The target.
        path: PathBuf,
        /// What the check said.
        why: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let next = if error.is_disk_full() {
            "free disk space, then try again"
        } else {
            "see that the disk is well and the folder may be written to, then try again"
        };
        Failure::failed("a file that must be safe on the disk could not be written", error.to_string(), next)
    }
}

impl Error {
    /// An error of the system while `doing` something to `path`.
    pub fn io(doing: &'static str, path: &Path, cause: impl Into<io::Error>) -> Self {
        Error::Io { doing, path: path.to_owned(), cause: cause.into() }
    }

    /// Whether the disk, or the owner's share of it, is full: freeing space helps, nothing else does.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let Error::Io { cause, .. } = self else { return false };
        matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the file or folder was not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Error::Io { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }
}

/// Replaces the file at `path` by `contents`, or creates it.
///
/// # Errors
/// The file is as it was before.
pub fn write(path: &Path, mode: u32, contents: &[u8]) -> Result<(), Error> {
    replace(path, mode, |file| file.write_all(contents), |_| Ok(()))
}

/// Replaces the file at `path` by what `fill` writes, once `verify` has looked at the written and synced file.
/// A symbolic link at `path` is replaced, not followed.
///
/// # Errors
/// The file is as it was before; the temporary file has been removed.
pub fn replace(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
    verify: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), Error> {
    let (mut file, temp) = create_beside(path, mode)?;
    let written = (|| {
        fill(&mut file).map_err(|e| Error::io("write", path, e))?;
        // The umask may have taken bits from the mode given at creation.
        file.set_permissions(PermissionsExt::from_mode(mode))
            .map_err(|e| Error::io("set the mode of", path, e))?;
        file.sync_all().map_err(|e| Error::io("sync", path, e))?;
        verify(&temp).map_err(|why| Error::Rejected { path: path.to_owned(), why })?;
        std::fs::rename(&temp, path).map_err(|e| Error::io("rename the new file to", path, e))
    })();
    if let Err(error) = written {
        // The error that matters is the first one; a temporary file left behind is only untidy.
        let _ = std::fs::remove_file(&temp);
        return Err(error);
    }
    sync_folder_of(path)
}

/// Writes `bytes` at the end of `file` (opened to append) and syncs them. After an error the end of the file is
/// unknown: the caller cuts it off or stops using the file.
///
/// # Errors
/// The bytes may be there, in part or not at all.
pub fn append(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    file.write_all(bytes).map_err(|e| Error::io("append to", path, e))?;
    file.sync_data().map_err(|e| Error::io("sync", path, e))
}

/// Creates the folder and those above it that are missing. Does nothing when it is there already.
///
/// # Errors
/// Folders above it may have been created.
pub fn create_dir(path: &Path, mode: u32) -> Result<(), Error> {
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => sync_folder_of(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let Some(above) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
                return Err(Error::io("create the folder", path, e));
            };
            create_dir(above, mode)?;
            create_dir(path, mode)
        }
        Err(e) => Err(Error::io("create the folder", path, e)),
    }
}

/// Makes `path` a symbolic link to `target`, replacing a link or file that is there. Readers see the old or the
/// new one, never none.
///
/// # Errors
/// The link is as it was before.
pub fn link(path: &Path, target: &Path) -> Result<(), Error> {
    let temp = loop {
        let temp = temp_beside(path);
        match std::os::unix::fs::symlink(target, &temp) {
            Ok(()) => break temp,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create the link", path, e)),
        }
    };
    if let Err(e) = std::fs::rename(&temp, path) {
        let _ = std::fs::remove_file(&temp);
        return Err(Error::io("rename the new link to", path, e));
    }
    sync_folder_of(path)
}

/// Removes a file or a symbolic link. Does nothing when there is none.
///
/// # Errors
/// The file is still there, or may come back after a power cut.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

/// What a reservation is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reserved {
    /// The blocks belong to the file: a write within them cannot find the disk full.
    Kept,
    /// The file system cannot keep blocks for a file; the room was there when it was looked at.
    Seen,
}

/// Reserves room for the next `bytes` after the first `len` of an open file, without changing its length.
/// Cutting the file off gives the room back, so it is reserved again after that.
///
/// # Errors
/// There is not that much room (see [`Error::is_disk_full`]).
pub fn reserve(file: &File, path: &Path, len: u64, bytes: u64) -> Result<Reserved, Error> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, len, bytes) {
        Ok(()) => {
            file.sync_all().map_err(|e| Error::io("sync", path, e))?;
            Ok(Reserved::Kept)
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let free = free_space(path)?;
            if free < bytes {
                return Err(Error::io("reserve room for", path, Errno::NOSPC));
            }
            Ok(Reserved::Seen)
        }
        Err(e) => Err(Error::io("reserve room for", path, e)),
    }
}

/// Bytes that this process may still write to the file system of `path`.
///
/// # Errors
/// When the file system cannot be asked.
pub fn free_space(path: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(path).map_err(|e| Error::io("ask for the free space of", path, e))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Syncs a folder: what was created, renamed or removed in it stays so.
///
/// # Errors
/// When the system cannot promise that.
pub fn sync_dir(folder: &Path) -> Result<(), Error> {
    let open = File::open(folder).map_err(|e| Error::io("open the folder", folder, e))?;
    open.sync_all().map_err(|e| Error::io("sync the folder", folder, e))
}

fn sync_folder_of(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync_dir(folder),
        Some(_) => sync_dir(Path::new(".")),
        None => Ok(()),
    }
}

fn create_beside(path: &Path, mode: u32) -> Result<(File, PathBuf), Error> {
    loop {
        let temp = temp_beside(path);
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp) {
            Ok(file) => return Ok((file, temp)),
            // Left by a process that had this pid and died half-way: take the next name.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create a file beside", path, e)),
        }
    }
}

/// A name for a temporary file: hidden, in the same folder so that the rename stays within one file system.
fn temp_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_the_file_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write(&path, PRIVATE, b"a long first state").unwrap();
        write(&path, PRIVATE, b"short").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(names(folder.path()), ["state.json"]);
    }

    #[test]
    fn a_file_that_fails_its_check_never_takes_the_place_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write(&path, PRIVATE, b"good").unwrap();
        let error = replace(
            &path,
            PRIVATE,
            |f| f.write_all(b"bad"),
            |temp| {
                assert_eq!(std::fs::read(temp).unwrap(), b"bad", "the check sees what was written");
                Err("the hash differs".into())
            },
        )
        .unwrap_err();
        assert!(error.to_string().contains("the hash differs"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"good");
        assert_eq!(names(folder.path()), ["state.json"], "no temporary file stays");
    }

    #[test]
    fn an_error_carries_what_was_done_to_which_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent/state.json");
        let error = write(&path, PRIVATE, b"x").unwrap_err();
        assert!(error.is_absent());
        assert!(error.to_string().contains("absent/state.json"), "{error}");
    }

    #[test]
    fn a_full_disk_is_recognised_and_leaves_the_old_file() {
        // Every write to /dev/full fails with ENOSPC: the one full disk that is always at hand.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write(&path, PRIVATE, b"good").unwrap();
        let full = |_: &mut File| OpenOptions::new().write(true).open("/dev/full")?.write_all(b"x");
        let error = replace(&path, PRIVATE, full, |_| Ok(())).unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"good");
    }

    #[test]
    fn a_link_is_replaced_without_a_moment_in_which_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("current");
        link(&path, Path::new("releases/1")).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    std::fs::read_link(&path).expect("there is always a link");
                    seen += 1;
                }
                seen
            });
            for n in 0..100 {
                link(&path, Path::new(&format!("releases/{n}"))).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("releases/99"));
        assert_eq!(names(folder.path()), ["current"]);
    }

    #[test]
    fn a_temporary_file_left_by_a_dead_process_with_our_pid_is_not_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for ahead in 1..50 {
            let next = temp_beside(&path);
            let count: u64 = next.to_str().unwrap().rsplit(['-', '.']).nth(1).unwrap().parse().unwrap();
            let name = format!(".state.json.{}-{}.tmp", std::process::id(), count + ahead);
            std::fs::write(path.with_file_name(name), b"left").unwrap();
        }
        write(&path, PRIVATE, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn reserved_room_belongs_to_the_file_and_its_length_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, b"line\n").unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        let reserved = reserve(&file, &path, 5, 1 << 20).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 5);
        if reserved == Reserved::Kept {
            assert!(meta.blocks() * 512 >= 1 << 20, "{} blocks", meta.blocks());
        }
    }

    #[test]
    fn more_room_than_there_is_cannot_be_reserved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let file = File::create(&path).unwrap();
        let error = reserve(&file, &path, 0, 1 << 50).unwrap_err();
        assert!(error.is_disk_full() || error.to_string().contains("large"), "{error}");
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn folders_are_created_with_those_above_them_and_twice_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/000001");
        create_dir(&path, PRIVATE_DIR).unwrap();
        create_dir(&path, PRIVATE_DIR).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(create_dir(&file, PRIVATE_DIR).is_err(), "a file in the way is not a folder");
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("HELD");
        remove(&path).unwrap();
        write(&path, PRIVATE, b"").unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }
}
