//! Faults made with the real thing: a disk that is really full.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::mount::{MountFlags, mount_remount};

/// A small file system of its own. Dropped, it is taken away.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
    kib: u64,
}

/// A watch over what is written to a small disk, which may make it full in the middle. Dropped, the disk is as large as
/// it was.
#[derive(Debug)]
pub struct Filling {
    folder: PathBuf,
    kib: u64,
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    watch: Option<JoinHandle<bool>>,
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
        Ok(SmallDisk { folder: folder.to_owned(), kib })
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
        let done = resized(&self.folder, kib);
        assert!(done.is_ok(), "the disk at {} cannot be made {kib} KiB: {done:?}", self.folder.display());
    }

    /// Watches how much is written. Once that is `after_kib` KiB, or at once for 0, the disk is made so small that
    /// nothing is left of it, as when somebody else fills it; `None` only watches.
    #[must_use]
    pub fn full_after(&self, after_kib: Option<u64>) -> Filling {
        let (most, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let begun = used_kib(&self.folder);
        let full = after_kib == Some(0) && resized(&self.folder, begun).is_ok();
        let (folder, seen, end) = (self.folder.clone(), Arc::clone(&most), Arc::clone(&over));
        let watch = std::thread::spawn(move || {
            let mut full = full;
            while !end.load(Ordering::Relaxed) {
                let used = used_kib(&folder);
                seen.fetch_max(used.saturating_sub(begun), Ordering::Relaxed);
                if !full && after_kib.is_some_and(|after| used >= begun + after) {
                    // More may have been written since it was asked: then it is asked again.
                    full = resized(&folder, used).is_ok();
                } else {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            full
        });
        Filling { folder: self.folder.clone(), kib: self.kib, most, over, watch: Some(watch) }
    }
}

impl Filling {
    /// Makes room again. Whether the disk was made full, and how many KiB more than at the beginning were used at most.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn end(mut self) -> (bool, u64) {
        let full = self.stop();
        (full, self.most.load(Ordering::Relaxed))
    }

    fn stop(&mut self) -> bool {
        self.over.store(true, Ordering::Relaxed);
        let full = self.watch.take().is_some_and(|watch| watch.join().unwrap_or(false));
        if full {
            let done = resized(&self.folder, self.kib);
            assert!(done.is_ok() || std::thread::panicking(), "no room can be made: {done:?}");
        }
        full
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.stop();
    }
}

fn used_kib(folder: &Path) -> u64 {
    let stat = rustix::fs::statvfs(folder).expect("the disk is mounted");
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize / 1024
}

fn resized(folder: &Path, kib: u64) -> rustix::io::Result<()> {
    let size = std::ffi::CString::new(format!("size={}k", kib.max(4))).expect("digits have no zero byte");
    mount_remount(folder, MountFlags::empty(), size.as_c_str())
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
