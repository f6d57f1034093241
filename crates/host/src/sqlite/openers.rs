//! Which processes have a file open.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Who has a file open, as far as it can be seen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Openers {
    /// The processes that have it open, this one included.
    pub pids: Vec<u32>,
    /// How many processes could not be looked into. More than 0 means: unknown, not free.
    pub hidden: usize,
}

/// Looks through `/proc` for processes that have the file open. A missing file is open nowhere.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn of(path: &Path) -> io::Result<Openers> {
    let file = match fs::metadata(path) {
        Ok(found) => (found.dev(), found.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Openers::default()),
        Err(e) => return Err(e),
    };
    let mut openers = Openers::default();
    for process in fs::read_dir("/proc")? {
        let Some(pid) = process?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        match has_open(pid, file) {
            Ok(true) => openers.pids.push(pid),
            // It has ended in the meantime: the descriptors went with it.
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(3) => {}
            Ok(false) => {}
            Err(_) => openers.hidden += 1,
        }
    }
    Ok(openers)
}

fn has_open(pid: u32, file: (u64, u64)) -> io::Result<bool> {
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // `stat` follows the link to the open file itself, also when it has another name or none by now.
        match fs::metadata(descriptor?.path()) {
            Ok(found) if (found.dev(), found.ino()) == file => return Ok(true),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}
