//! Which process is meant: a pid alone is given to somebody else sooner or later.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::clock::boot_id;

/// One process, for ever: no other process has the same pid, start time and boot.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start: u64,
    /// The kernel's id of the boot.
    pub boot: String,
}

impl Identity {
    /// The process that has this pid now; `None` when there is none.
    #[must_use]
    pub fn of(pid: i32) -> Option<Identity> {
        Some(Stat::read(pid)?.identity())
    }

    /// This process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn own() -> io::Result<Identity> {
        Identity::of(getpid().as_raw_pid())
            .ok_or_else(|| io::Error::other("/proc does not show this process"))
    }

    /// Whether it still runs. A zombie has ended: it holds no file, lock or port.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.stat().is_some_and(|stat| !stat.is_zombie())
    }

    /// What `/proc` says about it, a zombie included; `None` when it is gone or the pid is somebody else's.
    pub(crate) fn stat(&self) -> Option<Stat> {
        if self.boot != boot_id() {
            return None;
        }
        Stat::read(self.pid).filter(|stat| stat.start == self.start)
    }

    /// Sends a signal to this process and to no other. `false` when it has ended.
    ///
    /// # Errors
    /// When the system refuses, for example because the process belongs to another user.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid).filter(|p| !p.is_init()) else { return Ok(false) };
        let sent = match pidfd_open(pid, PidfdFlags::empty()) {
            // The descriptor holds on to whoever has the pid now; who that is, is asked after it is held.
            Ok(held) => {
                if !self.is_alive() {
                    return Ok(false);
                }
                pidfd_send_signal(held, signal)
            }
            // A kernel older than 5.3.
            Err(Errno::NOSYS) => {
                if !self.is_alive() {
                    return Ok(false);
                }
                kill_process(pid, signal)
            }
            Err(e) => Err(e),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The command line, for messages: shortened, never for decisions. Empty when it cannot be read.
    #[must_use]
    pub fn command(&self) -> String {
        let Ok(raw) = std::fs::read(format!("/proc/{}/cmdline", self.pid)) else { return String::new() };
        let words = String::from_utf8_lossy(&raw).trim_end_matches('\0').replace('\0', " ");
        words.chars().take(80).collect()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)
    }
}

/// The few fields of `/proc/PID/stat` that are needed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) name: String,
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) start: u64,
}

impl Stat {
    pub(crate) fn read(pid: i32) -> Option<Stat> {
        let raw = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        Stat::parse(&String::from_utf8_lossy(&raw))
    }

    /// The name stands in brackets and may hold spaces and brackets itself, so the fields are counted from the
    /// last closing one.
    fn parse(line: &str) -> Option<Stat> {
        let (pid, rest) = line.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Stat {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity { pid: self.pid, start: self.start, boot: boot_id().to_owned() }
    }
}

/// All processes that `/proc` shows, in no order.
///
/// # Errors
/// When `/proc` is not mounted.
pub(crate) fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(Path::new("/proc"))? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) {
            // One that ended since the folder was read is simply not there.
            found.extend(Stat::read(pid));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let line = "12 (a) S (b) R 3 4 5 0 -1 1 0 0 0 0 0 0 0 0 20 0 1 0 987 0 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.pid, stat.state, stat.parent, stat.group, stat.start), (12, 'R', 3, 4, 987));
        assert_eq!(stat.name, "a) S (b");
    }

    #[test]
    fn a_process_is_not_the_one_that_had_its_pid_before() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        let before = Identity { start: own.start - 1, ..own.clone() };
        assert!(!before.is_alive());
        let other_boot = Identity { boot: "another".into(), ..own };
        assert!(!other_boot.is_alive());
    }

    #[test]
    fn a_signal_to_a_pid_that_is_somebody_elses_now_is_not_sent() {
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(other.id().try_into().unwrap()).unwrap();
        let before = Identity { start: identity.start - 1, ..identity.clone() };
        assert!(!before.signal(Signal::KILL).unwrap());
        assert!(identity.is_alive());
        assert!(identity.signal(Signal::KILL).unwrap());
        other.wait().unwrap();
        assert!(!identity.signal(Signal::KILL).unwrap());
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = Identity::of(child.id().try_into().unwrap()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while identity.is_alive() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(identity.stat().is_some(), "it is still there, unreaped");
        child.wait().unwrap();
        assert!(identity.stat().is_none());
    }
}
