//! The only place that starts other programs.
//!
//! Every child leads a process group of its own, reads nothing, gets the environment that it is given and nothing
//! else, and is ended with all that it started. [`run`] waits for a command, [`spawn`] gives a long-lived one;
//! [`Identity`] is a process that cannot be mistaken for another, [`end_group`] ends one that somebody else
//! started.

mod ending;
mod identity;
mod run;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

pub(crate) use ending::family;
pub use ending::{Ended, Mark, Survivors, become_subreaper, end_group, end_marked, marked, reap_orphans};
pub use identity::Identity;
pub use run::{Limits, Ran, Sink, run};
pub use usage::Usage;

/// A program to start: no shell is between.
#[derive(Clone, Default)]
pub struct Command {
    /// The program and its arguments. A name without a slash is looked for in `PATH` of `env`; a relative path is
    /// within `folder`.
    pub words: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// What lets its descendants be found again, whatever becomes of this process.
    pub mark: Option<Mark>,
}

impl fmt::Debug for Command {
    /// Names of variables only: their values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.keys().collect();
        f.debug_struct("Command").field("words", &self.words).field("env", &names).finish_non_exhaustive()
    }
}

/// The part of this process's own environment that children get unless they are given something else.
#[must_use]
pub fn base_env() -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = ["PATH", "HOME", "LANG", "TZ", "USER"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect();
    env.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
    env
}

/// Why a program could not be started. Nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no program to start.
    #[error("the command is empty")]
    Empty,
    /// The folder that it was to run in.
    #[error("the folder {} is not there", folder.display())]
    FolderMissing {
        /// The folder.
        folder: PathBuf,
    },
    /// No such program.
    #[error("there is no program {program}{}", if path.is_empty() { String::new() } else { format!(" in {path}") })]
    NotFound {
        /// As it was given.
        program: String,
        /// The folders it was looked for in, when it was given without one.
        path: String,
    },
    /// The file is there and may not be executed.
    #[error("{program} may not be executed: check its mode and its owner")]
    NotExecutable {
        /// As it was given.
        program: String,
    },
    /// A script whose first line names a program that is not there; a copied virtual environment has many.
    #[error("{program} is there, but the interpreter named in its first line is not")]
    NoInterpreter {
        /// As it was given.
        program: String,
    },
    /// Not a program for this machine, or a script without a first line that says how to run it.
    #[error("{program} is neither a program for this machine nor a script that begins with #!")]
    NotAProgram {
        /// As it was given.
        program: String,
    },
    /// Anything else.
    #[error("{program} could not be started: {cause}")]
    System {
        /// As it was given.
        program: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// By itself, with this code.
    Exit(i32),
    /// By this signal, which it was not sent from here.
    Signal(i32),
    /// It took longer than it was given and was ended.
    TimedOut {
        /// What it was given.
        limit: Duration,
        /// Its code, when it then ended by itself: what it was to do may well be done.
        exit: Option<i32>,
    },
    /// It ended, and how was not seen: another process had started it.
    Unseen,
    /// Somebody asked to stop and it was ended.
    Cancelled {
        /// Its code, when it then ended by itself: what it was to do may well be done.
        exit: Option<i32>,
    },
}

impl End {
    /// Whether it did what it was to do.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == End::Exit(0)
    }

    fn of(status: ExitStatus) -> End {
        match status.code() {
            Some(code) => End::Exit(code),
            None => End::Signal(status.signal().unwrap_or(0)),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = |exit: Option<i32>| match exit {
            Some(code) => format!(" and ended with code {code}"),
            None => String::new(),
        };
        match *self {
            End::Exit(code) => write!(f, "it ended with code {code}"),
            End::Signal(signal) => write!(f, "it was ended by signal {signal}{}", signal_name(signal)),
            End::TimedOut { limit, exit } => {
                write!(f, "it took longer than {:.1} s, was told to stop{}", limit.as_secs_f64(), then(exit))
            }
            End::Unseen => {
                f.write_str("it ended; how was not seen, because an earlier `plimsoll serve` had started it")
            }
            End::Cancelled { exit } => write!(f, "it was told to stop{}", then(exit)),
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (HUP)",
        2 => " (INT)",
        4 => " (ILL)",
        6 => " (ABRT)",
        7 => " (BUS)",
        8 => " (FPE)",
        9 => " (KILL; out of memory, perhaps)",
        11 => " (SEGV)",
        13 => " (PIPE)",
        15 => " (TERM)",
        31 => " (SYS)",
        _ => "",
    }
}

/// The pids of children that this process has started and not reaped, so that nobody takes them for orphans.
static CHILDREN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn children() -> MutexGuard<'static, BTreeSet<i32>> {
    // A set of numbers is whole between any two statements.
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that runs on. Dropping it ends it and all that it started, at once.
#[derive(Debug)]
pub struct Running {
    /// `None` when an earlier owner of the app started it.
    child: Option<Child>,
    identity: Identity,
    mark: Option<Mark>,
    reaped: Option<End>,
}

/// Starts a program that writes to `out` and `err`.
///
/// # Errors
/// Nothing runs.
pub fn spawn(command: &Command, out: Stdio, err: Stdio) -> Result<Running, StartError> {
    let (program, arguments) = command.words.split_first().ok_or(StartError::Empty)?;
    let mut start = std::process::Command::new(located(program, &command.folder));
    start
        .args(arguments)
        .env_clear()
        .envs(&command.env)
        .envs(command.mark.iter().map(|mark| (Mark::VARIABLE, mark.value())))
        .current_dir(&command.folder)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0);
    let mut children = children();
    let mut child = start.spawn().map_err(|e| why_not(e, program, command))?;
    let identity = i32::try_from(child.id()).ok().and_then(Identity::of);
    let Some(identity) = identity else {
        // Without /proc nothing here can be done safely.
        let _ = child.kill();
        let _ = child.wait();
        let cause = io::Error::other("/proc does not show it; is /proc mounted?");
        return Err(StartError::System { program: program.clone(), cause });
    };
    children.insert(identity.pid);
    drop(children);
    Ok(Running { child: Some(child), identity, mark: command.mark.clone(), reaped: None })
}

/// A relative path with a slash is taken from the folder that the program runs in, not from ours.
fn located(program: &str, folder: &Path) -> PathBuf {
    if program.contains('/') { folder.join(program) } else { PathBuf::from(program) }
}

fn why_not(cause: io::Error, program: &str, command: &Command) -> StartError {
    let program = program.to_owned();
    if !command.folder.is_dir() {
        return StartError::FolderMissing { folder: command.folder.clone() };
    }
    let path = command.env.get("PATH").cloned().unwrap_or_default();
    let there = if program.contains('/') {
        located(&program, &command.folder).exists()
    } else {
        std::env::split_paths(&path).any(|folder| folder.join(&program).is_file())
    };
    match cause.kind() {
        io::ErrorKind::NotFound if there => StartError::NoInterpreter { program },
        io::ErrorKind::NotFound => {
            let path = if program.contains('/') { String::new() } else { path };
            StartError::NotFound { program, path }
        }
        io::ErrorKind::PermissionDenied => StartError::NotExecutable { program },
        _ if cause.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            StartError::NotAProgram { program }
        }
        _ => StartError::System { program, cause },
    }
}

impl Running {
    /// Takes over a process that an earlier owner of the app started: before this one was loaded into the same process,
    /// or in a process that died. The caller has proved whose it is.
    #[must_use]
    pub fn adopt(identity: Identity, mark: Mark) -> Running {
        children().insert(identity.pid);
        Running { child: None, identity, mark: Some(mark), reaped: None }
    }

    /// Which process it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How it ended, when it has. What it started may live on until [`Running::end`].
    ///
    /// It is looked at and not reaped: as long as its zombie is there, its pid and group are nobody else's.
    pub fn ended(&self) -> Option<End> {
        if self.reaped.is_some() {
            return self.reaped;
        }
        let pid = Pid::from_raw(self.identity.pid)?;
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), look) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(End::Exit(code)),
                (None, Some(signal)) => Some(End::Signal(signal)),
                (None, None) => None,
            },
            // Not our child: whether it is there is all that can be seen.
            Err(rustix::io::Errno::CHILD) if self.child.is_none() => {
                (!self.identity.is_alive()).then_some(End::Unseen)
            }
            Ok(None) | Err(_) => None,
        }
    }

    /// Ends it and all that it started: TERM, and KILL for what is left after `grace`. Returns how it ended itself,
    /// and what had to be done.
    ///
    /// # Errors
    /// The processes that could not be ended.
    pub fn end(&mut self, grace: Duration) -> Result<(End, Ended), Survivors> {
        self.end_while(grace, &mut || {})
    }

    pub(crate) fn end_while(
        &mut self,
        grace: Duration,
        idle: &mut dyn FnMut(),
    ) -> Result<(End, Ended), Survivors> {
        let ended = ending::end_tree(Some(&self.identity), self.mark.as_ref(), grace, idle)?;
        Ok((self.reap(), ended))
    }

    fn reap(&mut self) -> End {
        if let Some(end) = self.reaped {
            return end;
        }
        let end = match &mut self.child {
            Some(child) => child.wait().map_or(End::Signal(0), End::of),
            None => {
                let seen = self.ended().unwrap_or(End::Unseen);
                if let Some(pid) = Pid::from_raw(self.identity.pid) {
                    // When it is our child after all: started by what ran in this process before.
                    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
                }
                seen
            }
        };
        self.reaped = Some(end);
        children().remove(&self.identity.pid);
        end
    }

    /// Everything alive that belongs to it.
    pub(crate) fn family(&self) -> Vec<Identity> {
        family(&self.identity, self.mark.as_ref())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped.is_none() {
            // Nobody is left to hear of what would not end; the next owner of the app finds it by its mark.
            let _ = self.end(Duration::ZERO);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A shell script as a command, in a folder of its own.
    pub(crate) fn shell(folder: &Path, script: &str) -> Command {
        Command {
            words: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: base_env(),
            folder: folder.to_owned(),
            mark: None,
        }
    }

    fn cannot(words: &[&str], folder: &Path) -> StartError {
        let command = Command {
            words: words.iter().map(|w| (*w).to_owned()).collect(),
            env: base_env(),
            folder: folder.to_owned(),
            mark: None,
        };
        spawn(&command, Stdio::null(), Stdio::null()).unwrap_err()
    }

    #[test]
    fn every_reason_not_to_start_has_a_name() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        file("plain", "#!/bin/sh\n", 0o644);
        file("lost", "#!/nowhere/python3\n", 0o755);
        file("text", "\u{1}\u{2}hello", 0o755);
        let here = folder.path();
        assert!(matches!(cannot(&[], here), StartError::Empty));
        assert!(matches!(cannot(&["./absent"], here), StartError::NotFound { .. }));
        assert!(matches!(cannot(&["no-such-program-at-all"], here), StartError::NotFound { .. }));
        assert!(matches!(cannot(&["./plain"], here), StartError::NotExecutable { .. }));
        assert!(matches!(cannot(&["./lost"], here), StartError::NoInterpreter { .. }));
        assert!(matches!(cannot(&["./text"], here), StartError::NotAProgram { .. }));
        assert!(matches!(cannot(&["true"], &here.join("gone")), StartError::FolderMissing { .. }));
    }

    #[test]
    fn a_child_sees_only_the_environment_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = shell(folder.path(), "env > seen; pwd >> seen; readlink /proc/self/fd/0 >> seen");
        command.env = BTreeMap::from([("GIVEN".to_owned(), "yes".to_owned())]);
        command.env.insert("PATH".to_owned(), "/usr/bin:/bin".to_owned());
        let ran = run(&command, Limits::default(), Sink::Lines(&mut |_| {})).unwrap();
        assert!(ran.end.is_success(), "{ran:?}");
        let seen = std::fs::read_to_string(folder.path().join("seen")).unwrap();
        assert!(seen.contains("GIVEN=yes") && seen.contains("/dev/null"), "{seen}");
        assert!(seen.contains(&*folder.path().canonicalize().unwrap().to_string_lossy()));
        assert!(!seen.contains("CARGO") && !seen.contains("HOME"), "{seen}");
    }

    #[test]
    fn a_command_never_shows_the_values_of_its_environment() {
        let mut command = Command::default();
        command.env.insert("RAZORPAY_KEY".to_owned(), "hunter2".to_owned());
        let shown = format!("{command:?}");
        assert!(shown.contains("RAZORPAY_KEY") && !shown.contains("hunter2"));
    }

    #[test]
    fn a_child_that_ended_is_seen_and_its_pid_stays_its_own_until_it_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = spawn(&shell(folder.path(), "exit 7"), Stdio::null(), Stdio::null()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while child.ended().is_none() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(child.ended(), Some(End::Exit(7)));
        assert!(child.identity().stat().is_some() && !child.identity().is_alive());
        let (end, ended) = child.end(Duration::ZERO).unwrap();
        assert_eq!((end, ended.signalled.len()), (End::Exit(7), 0));
        assert!(child.identity().stat().is_none());
    }

    #[test]
    fn a_child_that_is_dropped_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sleep 60 & echo $! > inner; wait";
        let child = spawn(&shell(folder.path(), script), Stdio::null(), Stdio::null()).unwrap();
        let leader = child.identity().clone();
        let inner = wait_for_pid(&folder.path().join("inner"));
        assert!(inner.is_alive());
        drop(child);
        assert!(!inner.is_alive() && !leader.is_alive());
    }

    #[test]
    fn a_process_of_an_earlier_owner_is_watched_and_ended_like_an_own_one() {
        let folder = tempfile::tempdir().unwrap();
        // Started by a shell that dies: nobody here is its parent.
        let script = "PLIMSOLL_CHILD=/nowhere:app setsid sleep 60 & echo $! > pid";
        let mut shell = spawn(&shell(folder.path(), script), Stdio::null(), Stdio::null()).unwrap();
        let orphan = wait_for_pid(&folder.path().join("pid"));
        while shell.ended().is_none() {
            std::thread::yield_now();
        }
        let mark = Mark { root: "/nowhere".into(), role: "app".into() };
        let mut adopted = Running::adopt(orphan.clone(), mark);
        assert_eq!(adopted.ended(), None);
        let (_, ended) = adopted.end(Duration::from_secs(5)).unwrap();
        assert!(!orphan.is_alive() && ended.signalled.contains(&orphan), "{ended:?}");
        assert!(adopted.ended().is_some());
        shell.end(Duration::ZERO).unwrap();
    }

    /// The process whose pid a script writes to a file.
    pub(crate) fn wait_for_pid(path: &Path) -> Identity {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(text) = std::fs::read_to_string(path)
                && text.ends_with('\n')
                && let Some(identity) = text.trim().parse().ok().and_then(Identity::of)
            {
                return identity;
            }
            assert!(std::time::Instant::now() < deadline, "{} was not written", path.display());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
