//! Faults made with the real thing: a disk that is really full.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own. Dropped, it is taken away.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk of `kib` KiB at `folder`, or says why this machine lets nobody do so.
    ///
    /// # Errors
    /// Needs root and the right to mount; the reason is for [`skipped`].
    pub fn mount(folder: &Path, kib: u64) -> Result<SmallDisk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a small disk can be mounted by root only".to_owned());
        }
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k,mode=755"), "tmpfs"])
            .arg(folder)
            .output()
            .map_err(|error| format!("mount cannot be run: {error}"))?;
        if !mounted.status.success() {
            return Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned());
        }
        Ok(SmallDisk { folder: folder.to_owned() })
    }

    /// Fills the disk up to the last block but `leave_kib`. Returns the file that does it, to be removed or kept.
    ///
    /// # Panics
    /// When the disk has less than that to begin with.
    #[must_use]
    pub fn fill(&self, leave_kib: u64) -> PathBuf {
        let ballast = self.folder.join("ballast");
        let free = self.free_kib();
        assert!(free >= leave_kib, "only {free} KiB are free, {leave_kib} were to be left");
        let mut file = std::fs::File::create(&ballast).expect("a file can be made before the disk is full");
        for _ in 0..free - leave_kib {
            if file.write_all(&[0; 1024]).is_err() {
                break;
            }
        }
        ballast
    }

    /// What is free, in KiB.
    ///
    /// # Panics
    /// When the disk is gone.
    #[must_use]
    pub fn free_kib(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.folder).expect("the disk is mounted");
        stat.f_bavail * stat.f_frsize / 1024
    }

    /// Makes the disk larger or smaller while it is used.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn resize(&self, kib: u64) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,size={kib}k")])
            .arg(&self.folder)
            .status()
            .expect("mount was run before");
        assert!(done.success(), "the disk at {} cannot be made {kib} KiB", self.folder.display());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left behind must not keep the mount in the system.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

/// Says loudly that a test was not made here, past the capture of test output, so that a skipped test is never taken
/// for a passed one; `scripts/test` gathers what is in the file that `PLIMSOLL_SKIPPED` names.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
    let Some(list) = std::env::var_os("PLIMSOLL_SKIPPED") else { return };
    let list = std::fs::OpenOptions::new().append(true).create(true).open(list);
    let written = list.and_then(|mut list| list.write_all(format!("{test}: {why}\n").as_bytes()));
    assert!(written.is_ok(), "that {test} was skipped cannot be noted: {written:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_refuses_writes_and_a_larger_one_takes_them_again() {
        let folder = tempfile::tempdir().unwrap();
        let disk = match SmallDisk::mount(&folder.path().join("disk"), 512) {
            Ok(disk) => disk,
            Err(why) => return skipped("a full disk refuses writes", &why),
        };
        let ballast = disk.fill(0);
        let more = folder.path().join("disk/more");
        let error = std::fs::write(&more, [1; 4096]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        disk.resize(1024);
        std::fs::write(&more, [1; 4096]).unwrap();
        assert!(ballast.exists());
    }
}
