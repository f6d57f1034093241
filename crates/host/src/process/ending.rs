//! Ends processes together with all that they started.
//!
//! A process is found by what it cannot easily shed: its group, its parents, and the mark in its environment. Each
//! is signalled as an [`Identity`], never as a number, so a pid that is somebody else's by now is left alone.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, set_child_subreaper, waitpid};

use super::identity::{Identity, Stat, all};

/// How long killed processes have to disappear. The kernel ends them at once unless a disk or network file system
/// holds them.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// What every child and its descendants carry in their environment: `PLIMSOLL_CHILD=<app root>:<role>`. It lets a
/// later process find them even when this one died before it had written down that it started them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mark {
    /// The app's root, absolute.
    pub root: PathBuf,
    /// What the child is for, without a colon: `app-000012-3fa9c1b`.
    pub role: String,
}

impl Mark {
    /// The variable.
    pub const VARIABLE: &'static str = "PLIMSOLL_CHILD";

    pub(crate) fn value(&self) -> std::ffi::OsString {
        let mut value = self.root.clone().into_os_string();
        value.push(":");
        value.push(&self.role);
        value
    }

    /// The mark of a process, when it has one that is readable to us.
    pub(crate) fn of(pid: i32) -> Option<Mark> {
        let environ = environ(pid)?;
        let prefix = format!("{}=", Mark::VARIABLE);
        let value = environ.split(|b| *b == 0).find_map(|v| v.strip_prefix(prefix.as_bytes()))?;
        let colon = value.iter().rposition(|b| *b == b':')?;
        let root = PathBuf::from(std::ffi::OsStr::from_bytes(&value[..colon]));
        Some(Mark { root, role: String::from_utf8_lossy(&value[colon + 1..]).into_owned() })
    }
}

/// The environment of a process; `None` when it cannot be read.
fn environ(pid: i32) -> Option<Vec<u8>> {
    const LOOKS: usize = 5;
    for _ in 0..LOOKS {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        // In the middle of an exec a process shows none for a moment. What has no program file, a thread of the kernel,
        // never has one.
        if !environ.is_empty() || std::fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return Some(environ);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(Vec::new())
}

/// Whether the folder that a process's mark names is the one that is `root` here. Its path may be another one, through
/// a link; and the same path is another folder in a container that has an app there.
fn same_root(pid: i32, marked: &Path, root: &Path) -> bool {
    let Ok(below) = marked.strip_prefix("/") else { return false };
    let there = std::fs::metadata(Path::new(&format!("/proc/{pid}/root")).join(below));
    match (std::fs::metadata(root), there) {
        (Ok(ours), Ok(there)) => ours.dev() == there.dev() && ours.ino() == there.ino(),
        _ => false,
    }
}

/// What was ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ended {
    /// Every process that was told to stop.
    pub signalled: BTreeSet<Identity>,
    /// Whether any had to be killed.
    pub killed: bool,
    /// How long it took.
    pub took: Duration,
}

/// Processes that could not be ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Survivors(pub Vec<Identity>);

impl fmt::Display for Survivors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("still running, even after KILL: ")?;
        for (n, process) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{process} ({})", process.command())?;
        }
        Ok(())
    }
}

impl std::error::Error for Survivors {}

/// Ends the group that `leader` leads or led, its descendants, and whatever carries its `mark`: TERM, KILL for what
/// is left after `grace`, and a last look that nothing is there. A zombie counts as ended.
///
/// # Errors
/// What is still there.
pub fn end_group(leader: &Identity, mark: Option<&Mark>, grace: Duration) -> Result<Ended, Survivors> {
    end_tree(Some(leader), mark, grace, &mut || {})
}

/// Ends whatever carries the mark, as [`end_group`] does.
///
/// # Errors
/// What is still there.
pub fn end_marked(mark: &Mark, grace: Duration) -> Result<Ended, Survivors> {
    end_tree(None, Some(mark), grace, &mut || {})
}

pub(super) fn end_tree(
    leader: Option<&Identity>,
    mark: Option<&Mark>,
    grace: Duration,
    idle: &mut dyn FnMut(),
) -> Result<Ended, Survivors> {
    let begun = Instant::now();
    let mut ended = Ended::default();
    // Kept over the rounds: one whose parent ends on the way is nobody's descendant in the next.
    let mut known: BTreeSet<Identity> = leader.cloned().into_iter().collect();
    loop {
        let killing = begun.elapsed() >= grace;
        let mut alive: Vec<Identity> = known.iter().filter(|p| p.is_alive()).cloned().collect();
        // The whole of /proc is read at first, at the end to be sure, and while killing, against those who fork.
        if alive.is_empty() || killing || ended.signalled.is_empty() {
            alive = find(leader, mark, &known);
            known.extend(alive.iter().cloned());
        }
        if alive.is_empty() {
            ended.took = begun.elapsed();
            return Ok(ended);
        }
        if killing && begun.elapsed() >= grace + KILLED_WITHIN {
            return Err(Survivors(alive));
        }
        for process in &alive {
            // A refusal shows in that the process stays.
            if killing {
                ended.killed |= process.signal(Signal::KILL).unwrap_or(false);
                ended.signalled.insert(process.clone());
            } else if ended.signalled.insert(process.clone()) {
                let _ = process.signal(Signal::TERM);
                // A stopped process gets its TERM only when it goes on.
                let _ = process.signal(Signal::CONT);
            }
        }
        idle();
        std::thread::sleep(Duration::from_millis(if begun.elapsed().as_millis() < 100 { 2 } else { 10 }));
    }
}

/// Everything alive that belongs to a child: its group, its descendants and what carries its mark.
pub(crate) fn family(leader: &Identity, mark: Option<&Mark>) -> Vec<Identity> {
    find(Some(leader), mark, &BTreeSet::from([leader.clone()]))
}

/// Everything alive that belongs to `leader`, to `mark` or to those `known` already; never this process or those
/// above it.
fn find(leader: Option<&Identity>, mark: Option<&Mark>, known: &BTreeSet<Identity>) -> Vec<Identity> {
    // Without /proc nothing can be found; the known ones are still looked at by their own files.
    let Ok(processes) = all() else { return known.iter().filter(|p| p.is_alive()).cloned().collect() };
    let above = above_us(&processes);
    let mut pids: BTreeSet<i32> =
        processes.iter().filter(|p| known.contains(&p.identity())).map(|p| p.pid).collect();
    // The number of a group is not given to another one while its leader is there, a zombie included. Once the
    // leader is reaped it may be, so then only parents and marks count.
    if let Some(leader) = leader.filter(|l| pids.contains(&l.pid)) {
        pids.extend(processes.iter().filter(|p| p.group == leader.pid).map(|p| p.pid));
    }
    if let Some(mark) = mark {
        let carries =
            |pid| Mark::of(pid).is_some_and(|m| m.role == mark.role && same_root(pid, &m.root, &mark.root));
        pids.extend(processes.iter().map(|p| p.pid).filter(|pid| carries(*pid)));
    }
    pids.retain(|pid| !above.contains(pid));
    loop {
        let before = pids.len();
        let below = processes.iter().filter(|p| pids.contains(&p.parent) && !above.contains(&p.pid));
        pids.extend(below.map(|p| p.pid).collect::<Vec<_>>());
        if pids.len() == before {
            break;
        }
    }
    let alive = processes.iter().filter(|p| pids.contains(&p.pid) && !p.is_zombie());
    alive.map(Stat::identity).collect()
}

/// This process, its parents up to the first one, and that one.
fn above_us(processes: &[Stat]) -> BTreeSet<i32> {
    let mut above = BTreeSet::from([0, 1]);
    let mut pid = getpid().as_raw_pid();
    while above.insert(pid) {
        match processes.iter().find(|p| p.pid == pid) {
            Some(process) => pid = process.parent,
            None => break,
        }
    }
    above
}

/// Every process that carries a mark of the app at `root`, with its role; this process and those above it left out.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn marked(root: &Path) -> io::Result<Vec<(Identity, Mark)>> {
    let processes = all()?;
    let above = above_us(&processes);
    let candidates = processes.iter().filter(|p| !p.is_zombie() && !above.contains(&p.pid));
    let marked = candidates.filter_map(|p| Some((p.identity(), Mark::of(p.pid)?)));
    Ok(marked.filter(|(p, mark)| same_root(p.pid, &mark.root, root)).collect())
}

/// Makes orphans among this process's descendants its own children, so that [`reap_orphans`] can reap them and a
/// descendant can always be traced to it.
///
/// # Errors
/// When the kernel refuses.
pub fn become_subreaper() -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    ADOPTING.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether orphans come to this process: only then does it have children that it did not start.
static ADOPTING: AtomicBool = AtomicBool::new(false);

/// Reaps children that this process did not start itself: orphans that became its own by [`become_subreaper`].
/// Returns how many.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn reap_orphans() -> io::Result<usize> {
    if !ADOPTING.load(Ordering::Relaxed) {
        return Ok(0);
    }
    let own = getpid().as_raw_pid();
    // Held while looking, so that no child is taken for an orphan between its start and its entry.
    let children = super::children();
    let mut reaped = 0;
    for orphan in all()?.iter().filter(|p| p.parent == own && p.is_zombie() && !children.contains(&p.pid)) {
        if let Some(pid) = Pid::from_raw(orphan.pid)
            && waitpid(Some(pid), WaitOptions::NOHANG).is_ok_and(|w| w.is_some())
        {
            reaped += 1;
        }
    }
    Ok(reaped)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::super::tests::{shell, wait_for_pid};
    use super::super::{End, spawn};
    use super::*;

    fn mark(root: &Path) -> Mark {
        Mark { root: root.to_owned(), role: "app-000001-abcdef0".into() }
    }

    #[test]
    fn a_descendant_that_left_the_group_is_ended_too() {
        let folder = tempfile::tempdir().unwrap();
        let script = "setsid sh -c 'echo $$ > inner; exec sleep 60' & wait";
        let mut child = spawn(&shell(folder.path(), script), Stdio::null(), Stdio::null()).unwrap();
        let inner = wait_for_pid(&folder.path().join("inner"));
        assert_ne!(inner.stat().unwrap().group, child.identity().pid);
        let (end, ended) = child.end(Duration::from_secs(10)).unwrap();
        assert_eq!(end, End::Signal(15));
        assert!(ended.signalled.contains(&inner) && !ended.killed, "{ended:?}");
        assert!(!inner.is_alive());
    }

    #[test]
    fn a_process_that_is_just_becoming_another_program_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..40 {
            let mut command = shell(folder.path(), "exec sleep 60");
            command.mark = Some(mark(folder.path()));
            let mut child = spawn(&command, Stdio::null(), Stdio::null()).unwrap();
            let found = marked(folder.path()).unwrap();
            child.end(Duration::from_secs(10)).unwrap();
            assert_eq!(found.len(), 1, "in round {round}");
        }
    }

    #[test]
    fn an_orphan_that_left_the_group_is_found_by_its_mark() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = shell(folder.path(), "setsid sh -c 'echo $$ > inner; exec sleep 60' & exit 0");
        command.mark = Some(mark(folder.path()));
        let mut child = spawn(&command, Stdio::null(), Stdio::null()).unwrap();
        let inner = wait_for_pid(&folder.path().join("inner"));
        while child.ended().is_none() {
            std::thread::yield_now();
        }
        let found = marked(folder.path()).unwrap();
        assert_eq!(found, [(inner.clone(), mark(folder.path()))]);
        child.end(Duration::from_secs(10)).unwrap();
        assert!(!inner.is_alive());
        assert_eq!(marked(folder.path()).unwrap(), []);
    }

    #[test]
    fn a_mark_of_another_app_or_role_is_left_alone() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = shell(folder.path(), "exec sleep 60");
        command.mark = Some(mark(folder.path()));
        let child = spawn(&command, Stdio::null(), Stdio::null()).unwrap();
        let role = Mark { role: "app-000002-abcdef0".into(), ..mark(folder.path()) };
        for not_it in [role, mark(other.path())] {
            assert_eq!(end_marked(&not_it, Duration::ZERO).unwrap().signalled.len(), 0);
        }
        assert_eq!(child.ended(), None);
        assert_eq!(end_marked(&mark(folder.path()), Duration::ZERO).unwrap().signalled.len(), 1);
        assert!(child.ended().is_some());
    }

    #[test]
    fn a_mark_is_found_by_another_path_to_the_same_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("real");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&root, folder.path().join("link")).unwrap();
        let mut command = shell(&root, "exec sleep 60");
        command.mark = Some(mark(&folder.path().join("link")));
        let child = spawn(&command, Stdio::null(), Stdio::null()).unwrap();
        assert_eq!(marked(&root).unwrap().len(), 1);
        assert_eq!(end_marked(&mark(&root), Duration::ZERO).unwrap().signalled.len(), 1);
        assert!(child.ended().is_some());
    }

    #[test]
    fn a_leader_whose_pid_is_somebody_elses_now_ends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(&shell(folder.path(), "exec sleep 60"), Stdio::null(), Stdio::null()).unwrap();
        let identity = child.identity().clone();
        let before = Identity { start: identity.start - 1, ..identity };
        assert_eq!(end_group(&before, None, Duration::ZERO).unwrap().signalled.len(), 0);
        assert_eq!(child.ended(), None);
    }

    #[test]
    fn a_group_whose_leader_has_ended_is_ended_as_long_as_the_leader_is_not_reaped() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sh -c 'trap \"\" TERM; echo $$ > inner; while :; do sleep 0.01; done' & exit 0";
        let mut child = spawn(&shell(folder.path(), script), Stdio::null(), Stdio::null()).unwrap();
        let inner = wait_for_pid(&folder.path().join("inner"));
        while child.ended().is_none() {
            std::thread::yield_now();
        }
        assert!(inner.is_alive());
        let (end, ended) = child.end(Duration::from_millis(100)).unwrap();
        assert_eq!(end, End::Exit(0));
        assert!(ended.killed && !inner.is_alive());
    }

    #[test]
    fn a_stopped_process_is_ended_within_the_grace() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = spawn(&shell(folder.path(), "exec sleep 60"), Stdio::null(), Stdio::null()).unwrap();
        child.identity().signal(Signal::STOP).unwrap();
        let (_, ended) = child.end(Duration::from_secs(10)).unwrap();
        assert!(!ended.killed, "{ended:?}");
    }

    #[test]
    #[ignore = "the process of the test below: becoming a subreaper is for a whole process"]
    fn adopt_and_reap_in_a_process_of_its_own() {
        become_subreaper().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut child = spawn(
            &shell(folder.path(), "setsid sh -c 'echo $$ > inner; sleep 0.05' & exit 0"),
            Stdio::null(),
            Stdio::null(),
        )
        .unwrap();
        let orphan = wait_for_pid(&folder.path().join("inner"));
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut reaped = 0;
        while reaped == 0 {
            assert!(Instant::now() < deadline, "no orphan was reaped");
            reaped += reap_orphans().unwrap();
        }
        assert!(orphan.stat().is_none());
        // The child that was started here is still to be asked how it ended.
        assert_eq!(child.ended(), Some(End::Exit(0)));
        assert_eq!(child.end(Duration::ZERO).unwrap().0, End::Exit(0));
    }

    #[test]
    fn orphans_are_reaped_and_own_children_are_not() {
        let test = "process::ending::tests::adopt_and_reap_in_a_process_of_its_own";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}
