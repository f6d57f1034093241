//! The lock on an app: held by the kernel for a process, so it ends with that process and nobody can forget it.
//!
//! There is no way to break it. Whoever holds it is alive; ending that process is what frees it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use plimsoll_core::ports::Clock;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::clock::SystemClock;
use crate::durable;
use crate::process::Identity;

/// Who holds a lock and what for, as written into its file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    #[serde(flatten)]
    pub process: Identity,
    /// What it does: `serve`, `backup`...
    pub what: String,
    /// Since when, RFC 3339 UTC.
    pub since: String,
}

/// Why a lock was not taken. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds it.
    #[error("{} is locked by {}", path.display(), told(by.as_ref()))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who; `None` in the moment between locking and writing down who it is.
        by: Option<Holder>,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    Io(#[from] durable::Error),
}

fn told(by: Option<&Holder>) -> String {
    match by {
        Some(h) => format!("`plimsoll {}` ({}, since {})", h.what, h.process, h.since),
        None => "another process that has just started".to_owned(),
    }
}

/// A lock that is held until it is dropped or the process ends. Children do not inherit it: the descriptor is
/// closed when they start their program.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// Takes the lock on `path` without waiting; `what` is told to those who find it taken.
///
/// # Errors
/// [`Error::Held`] when another process, or another part of this one, holds it.
pub fn try_lock(path: &Path, what: &str) -> Result<Lock, Error> {
    let at = |doing: &'static str| move |e: std::io::Error| durable::Error::io(doing, path, e);
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(durable::PRIVATE)
            .open(path)
            .map_err(at("open the lock file"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Held { path: path.to_owned(), by: holder(&mut file) });
            }
            Err(e) => return Err(durable::Error::io("lock", path, e).into()),
        }
        // Its last holder may have removed the file between the opening and the locking.
        let ours = file.metadata().map_err(at("look at"))?;
        match std::fs::metadata(path) {
            Ok(there) if there.ino() == ours.ino() && there.dev() == ours.dev() => {}
            _ => continue,
        }
        let process = Identity::own().map_err(at("say who holds"))?;
        let holder = Holder { process, what: what.to_owned(), since: SystemClock.wall() };
        let text = serde_json::to_vec(&holder).map_err(|e| at("write")(e.into()))?;
        // In place, not renamed: the lock belongs to this inode. A reader that finds it half written knows no name.
        file.set_len(0).map_err(at("write"))?;
        file.write_all(&text).map_err(at("write"))?;
        return Ok(Lock { file, path: path.to_owned() });
    }
}

/// Who holds the lock on `path` now, if anybody does.
///
/// # Errors
/// When the file is there and cannot be opened.
pub fn held_by(path: &Path) -> Result<Option<Holder>, durable::Error> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(durable::Error::io("open the lock file", path, e)),
    };
    let Some(holder) = holder(&mut file) else { return Ok(None) };
    // A shared lock for an instant would make a `try_lock` at that instant fail, so the holder is asked after instead.
    Ok(holder.process.is_alive().then_some(holder))
}

fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

impl Lock {
    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Frees the lock and removes its file, for locks beside a file that Plimsoll does not own.
    ///
    /// # Errors
    /// The lock is free, its file is still there.
    pub fn remove(self) -> Result<(), durable::Error> {
        // While it is held, so that nobody else's file is removed.
        durable::remove(&self.path)?;
        drop(self.file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Another process that takes the lock, and a child of its own: this test's own program, run once more.
    fn another_holder(path: &Path) -> (Child, Identity, impl BufRead) {
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "lock::tests::hold_the_lock_named_in_the_environment",
                "--nocapture",
                "--ignored",
            ])
            .env("LOCK_TEST_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(other.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("locked") {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "the other process did not take the lock");
        }
        let child = line.split("locked ").nth(1).unwrap().trim().parse().unwrap();
        (other, Identity::of(child).unwrap(), out)
    }

    #[test]
    #[ignore = "the other process of the tests below"]
    fn hold_the_lock_named_in_the_environment() {
        let Some(path) = std::env::var_os("LOCK_TEST_PATH") else { return };
        let _lock = try_lock(Path::new(&path), "serve").unwrap();
        // A child that outlives us must not keep the lock.
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        println!("locked {}", child.id());
        let mut wait = String::new();
        std::io::stdin().read_line(&mut wait).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_one_who_finds_it_taken_is_told_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (mut other, _, _out) = another_holder(&path);
        let error = try_lock(&path, "backup").unwrap_err();
        let Error::Held { by: Some(by), .. } = &error else { panic!("{error}") };
        assert_eq!(by.process.pid, i32::try_from(other.id()).unwrap());
        assert_eq!(held_by(&path).unwrap().as_ref(), Some(by));
        assert!(error.to_string().contains("`plimsoll serve` (pid "), "{error}");
        drop(other.stdin.take());
        other.wait().unwrap();
        assert_eq!(held_by(&path).unwrap(), None);
        try_lock(&path, "backup").unwrap();
    }

    #[test]
    fn it_dies_with_its_owner_even_when_a_child_of_the_owner_lives_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (mut other, orphan, _out) = another_holder(&path);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(orphan.is_alive(), "the owner's child lives on");
        let lock = try_lock(&path, "serve");
        orphan.signal(rustix::process::Signal::KILL).unwrap();
        lock.unwrap();
    }

    #[test]
    fn dropping_it_frees_it_and_removing_it_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db.plimsoll-lock");
        let lock = try_lock(&path, "backup").unwrap();
        assert!(matches!(try_lock(&path, "restore"), Err(Error::Held { .. })));
        drop(lock);
        try_lock(&path, "restore").unwrap().remove().unwrap();
        assert!(!path.exists());
        try_lock(&path, "verify").unwrap();
    }
}
