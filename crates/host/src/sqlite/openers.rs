//! Which processes have a file open.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Who has a file open, as far as it can be seen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Openers {
    /// The processes that have it open, this one included.
    pub pids: Vec<u32>,
    /// The processes that could not be looked into. Any means: unknown, not free.
    pub hidden: Vec<u32>,
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
        match look_into(pid, file) {
            Some(true) => openers.pids.push(pid),
            Some(false) => {}
            None => openers.hidden.push(pid),
        }
    }
    Ok(openers)
}

/// `None` when it cannot be known.
fn look_into(pid: u32, file: (u64, u64)) -> Option<bool> {
    for _ in 0..20 {
        if let Ok(found) = has_open(pid, file) {
            return Some(found);
        }
        // While it ends, a process refuses to be looked into; once ended, even before its parent has taken note, it
        // has nothing open any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Some(false) };
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        if matches!(state, Some('Z' | 'X')) {
            return Some(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_seen_open_under_any_name_and_not_once_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let file = fs::File::create(&path).unwrap();
        let me = std::process::id();
        assert!(of(&path).unwrap().pids.contains(&me));
        let moved = dir.path().join("moved.db");
        fs::rename(&path, &moved).unwrap();
        assert!(of(&moved).unwrap().pids.contains(&me));
        assert_eq!(of(&path).unwrap(), Openers::default());
        drop(file);
        assert!(!of(&moved).unwrap().pids.contains(&me));
    }
}
