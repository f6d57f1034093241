//! A real systemd for one test: the first process of namespaces of its own, over a throw-away overlay of this
//! machine's files. Up in about half a second; nothing outside changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::output::Output;
use crate::sandbox::{Sandbox, binary};
use crate::{processes, wait};

/// How long it may take until it is up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Becomes the systemd inside.
const BUILD: &str = include_str!("systemd_box.sh");

/// A machine in the machine. Dropped, it is switched off as by a power cut.
#[derive(Debug)]
pub struct SystemdBox {
    /// `unshare`, which waits for the inner first process.
    outer: Child,
    /// The inner first process, as it is numbered outside.
    pid: u32,
    group: PathBuf,
    root: PathBuf,
    folder: TempDir,
}

impl SystemdBox {
    /// Starts one that sees the sandbox's folder and the programs of this workspace where they are.
    ///
    /// # Errors
    /// It cannot be had here; the reason is for [`crate::fault::skipped`].
    ///
    /// # Panics
    /// When all that it needs is there and it does not come up.
    pub fn start(sandbox: &Sandbox) -> Result<SystemdBox, String> {
        let groups = possible()?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("plimsoll-box-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let group = groups.join(name);
        fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
        let folder =
            tempfile::Builder::new().prefix("plimsoll-box-").tempdir().expect("a folder can be made");
        for name in ["inside", "units"] {
            fs::create_dir(folder.path().join(name)).expect("a fresh folder is empty");
        }
        let outer = boot(folder.path(), &group, sandbox.root())?;
        let mut it = SystemdBox { outer, pid: 0, group, root: sandbox.root().to_owned(), folder };
        it.until_it_is_up();
        Ok(it)
    }

    fn until_it_is_up(&mut self) {
        let up = wait::within(PATIENCE, || self.look());
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert_eq!(up, Some(true), "no systemd came up; it said:\n{}", log());
    }

    /// A power cut, and the machine comes up again: no process is left, the boot has another id, and of the files
    /// those that are shared are there, and systemd's units.
    ///
    /// # Panics
    /// When it does not come up again.
    pub fn reboot(&mut self) {
        let units = format!("/proc/{}/root/etc/systemd/system/.", self.pid);
        let copied =
            Command::new("cp").args(["--archive", &units]).arg(self.folder.path().join("units")).status();
        assert!(copied.is_ok_and(|status| status.success()), "the units cannot be kept");
        processes::signal(self.pid, Signal::KILL);
        let ended = wait::within(PATIENCE, || self.outer.try_wait().ok().flatten());
        assert!(ended.is_some(), "the box does not go off");
        self.pid = 0;
        self.outer = boot(self.folder.path(), &self.group, &self.root).expect("it could be started before");
        self.until_it_is_up();
    }

    /// Whether it is up; `Some(false)` when it never will be.
    fn look(&mut self) -> Option<bool> {
        if !matches!(self.outer.try_wait(), Ok(None)) {
            return Some(false);
        }
        let outer = self.outer.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        let pid: u32 = children.split_ascii_whitespace().next()?.parse().ok()?;
        if fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() != "systemd" {
            return None;
        }
        self.pid = pid;
        let state = self.command(&["systemctl", "is-system-running"]).output().ok()?;
        let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
        matches!(state.as_str(), "running" | "degraded").then_some(true)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.pid.to_string()]);
        // Not nsenter's own --wd: that is the folder outside.
        command.args(["--", "env", "-C"]).arg(&self.root).args(words);
        command.env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", &self.root).env("LANG", "C.UTF-8").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
    }

    /// Runs a command inside, in the sandbox's root, and waits until it ends.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn run(&self, words: &[&str]) -> Output {
        let output = self.command(words).output().unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Output::new(&output, &self.root, &self.root)
    }

    /// Starts a command inside, in the sandbox's root; what it says is thrown away.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Runs `plimsoll` inside.
    pub fn plimsoll(&self, arguments: &[&str]) -> Output {
        let program = binary("plimsoll").display().to_string();
        let words: Vec<&str> = std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
        self.run(&words)
    }

    /// Writes a file inside, and the folders above it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) {
        // Through the inside's own root folder, as the kernel shows it to root.
        let path = PathBuf::from(format!("/proc/{}/root{path}", self.pid));
        let folder = path.parent().expect("a file is in a folder");
        fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// A file inside; `None` when it is not there.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/root{path}", self.pid)).ok()
    }

    /// What `systemctl is-active` says of a unit.
    #[must_use]
    pub fn is_active(&self, unit: &str) -> String {
        self.run(&["systemctl", "is-active", unit]).stdout.trim().to_owned()
    }
}

impl Drop for SystemdBox {
    fn drop(&mut self) {
        if std::thread::panicking() && self.pid > 1 {
            use std::io::Write;
            let log = self.run(&["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=60"]);
            let _ = writeln!(std::io::stderr(), "the journal of the box ends with:\n{}", log.stdout);
        }
        if self.pid > 1 {
            // With the first process of a namespace all others of it die.
            processes::signal(self.pid, Signal::KILL);
        }
        let _ = wait::within(Duration::from_secs(10), || self.outer.try_wait().ok().flatten());
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        let gone = wait::within(Duration::from_secs(10), || remove_groups(&self.group).ok());
        if !std::thread::panicking() {
            assert!(gone.is_some(), "the cgroup {} is left", self.group.display());
        }
    }
}

/// Starts the box that has its things in `folder`; gives the process that waits for it.
fn boot(folder: &Path, group: &Path, root: &Path) -> Result<Child, String> {
    let log = fs::File::create(folder.join("log")).expect("a fresh folder is writable");
    let shared = [root.parent().expect("a root is in a folder").to_owned(), programs()];
    // The shell puts itself into the group first, so that nothing is ever started outside of it.
    let enter = "echo $$ >\"$1/cgroup.procs\" && grep -qx \"0::.*/${1##*/}\" /proc/self/cgroup && shift && exec \"$@\"";
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "bash", "-c", enter, "bash"]).arg(group);
    command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup"]);
    command.args(["--propagation", "private", "bash", "-c", BUILD, "bash"]);
    command.args([folder.join("inside"), folder.join("units")]).args(&shared);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
    command.spawn().map_err(|error| format!("setpriv cannot be run: {error}"))
}

/// Cgroups are removed from the innermost outwards; one with processes refuses.
fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_groups(&path)?;
        }
    }
    fs::remove_dir(group)
}

/// Where the programs of this workspace are.
fn programs() -> PathBuf {
    binary("plimsoll").parent().expect("a program is in a folder").to_owned()
}

/// The root of the cgroups, when this machine lets a box be made.
fn possible() -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("a systemd of its own can be started by root only".to_owned());
    }
    for program in ["/lib/systemd/systemd", "/usr/bin/unshare", "/usr/bin/nsenter", "/usr/bin/setpriv"] {
        if !Path::new(program).exists() {
            return Err(format!("{program} is not there"));
        }
    }
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let root = roots
        .into_iter()
        .find(|root| root.join("cgroup.procs").exists() && root.join("cgroup.controllers").exists());
    root.ok_or_else(|| "cgroup v2 is not mounted".to_owned())
}
