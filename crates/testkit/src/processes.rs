//! The processes that belong to a sandbox, found by what the kernel says about them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A process that works in, was started from or was told of a folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

/// The processes of a folder, except this one. A process that is dead and only waits to be reaped is none.
pub(crate) fn of(folder: &Path) -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id()).filter_map(|pid| belongs(pid, folder)).collect()
}

/// Whether a process is there and not dead.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn belongs(pid: u32, folder: &Path) -> Option<Process> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if !is_running(pid) {
        return None;
    }
    let command = fs::read(proc.join("cmdline")).ok()?;
    let needle = folder.to_str().expect("sandboxes have plain names").as_bytes();
    let told = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let works_in = fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
    let environment = fs::read(proc.join("environ")).unwrap_or_default();
    if works_in || told(&command) || told(&environment) {
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        return Some(Process { pid, command: command.trim().to_owned() });
    }
    None
}

/// Sends a signal; a process that is gone already is fine.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills all processes of a folder and waits until they are gone. Returns those that were there.
pub(crate) fn kill_all(folder: &Path) -> Vec<Process> {
    let first = of(folder);
    wait::until("the sandbox's processes are gone", Duration::from_secs(20), || {
        let left = of(folder);
        left.iter().for_each(|process| signal(process.pid, Signal::KILL));
        left.is_empty()
    });
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_found_by_where_it_works_and_by_what_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut inside = Command::new("sleep").arg("600").current_dir(folder.path()).spawn().unwrap();
        let mut told = Command::new("sleep").arg("600").env("DATABASE", folder.path()).spawn().unwrap();
        let mut found: Vec<u32> = Vec::new();
        wait::until("both are found", Duration::from_secs(20), || {
            found = of(folder.path()).into_iter().map(|p| p.pid).collect();
            found.contains(&inside.id()) && found.contains(&told.id())
        });
        assert_eq!(kill_all(folder.path()).len(), 2);
        assert!(of(folder.path()).is_empty());
        inside.wait().unwrap();
        told.wait().unwrap();
    }
}
