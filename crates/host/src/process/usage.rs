//! What processes use of the machine, as `/proc` tells.

use std::time::Duration;

use super::Identity;

/// In one second, as the kernel counts for users (`USER_HZ`): the same on every machine that Rust's Linux targets name.
const TICKS: u64 = 100;

/// What some processes use together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// How many there are.
    pub processes: usize,
    /// Memory that is resident, bytes; what they share is counted for each.
    pub memory: u64,
    /// Processor time since they started.
    pub cpu: Duration,
}

impl Usage {
    /// Of these processes; one that has ended meanwhile counts for nothing.
    pub(crate) fn of(processes: &[Identity]) -> Usage {
        let mut usage = Usage::default();
        for process in processes.iter().filter(|process| process.is_alive()) {
            let text = |name: &str| {
                std::fs::read_to_string(format!("/proc/{}/{name}", process.pid)).unwrap_or_default()
            };
            usage.processes += 1;
            usage.memory += resident(&text("status"));
            usage.cpu += cpu(&text("stat"));
        }
        usage
    }
}

fn resident(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Fields 14 and 15; the name before them may hold spaces and brackets.
fn cpu(stat: &str) -> Duration {
    let fields =
        stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_ascii_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::super::{spawn, tests::shell};
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_to_use_processor_and_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut busy =
            spawn(&shell(folder.path(), "while :; do :; done"), Stdio::null(), Stdio::null()).unwrap();
        let idle = spawn(&shell(folder.path(), "exec sleep 60"), Stdio::null(), Stdio::null()).unwrap();
        let processes = [busy.identity().clone(), idle.identity().clone()];
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while Usage::of(&processes).cpu < Duration::from_millis(30) {
            assert!(std::time::Instant::now() < deadline, "{:?}", Usage::of(&processes));
            std::thread::sleep(Duration::from_millis(5));
        }
        let both = Usage::of(&processes);
        assert!(both.processes == 2 && both.memory > 200_000, "{both:?}");
        assert!(Usage::of(&processes[1..]).cpu < Duration::from_millis(30), "an idle one works");
        busy.end(Duration::ZERO).unwrap();
        assert_eq!(Usage::of(&processes).processes, 1);
    }
}
