//! A `plimsoll` command that is running.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::output::Output;
use crate::{processes, wait};

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that has been started.
#[derive(Debug)]
#[must_use = "a command that nobody waits for is killed"]
pub struct Running {
    child: Child,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
    root: PathBuf,
    home: PathBuf,
}

impl Running {
    /// Starts it; what it says goes to files below `logs`.
    pub(crate) fn start(mut command: Command, logs: &Path, root: &Path, home: &Path) -> Running {
        let (stdout, stderr) = (logs.join("stdout"), logs.join("stderr"));
        let file =
            |path: &Path| File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        command.stdin(Stdio::null()).stdout(file(&stdout)).stderr(file(&stderr));
        let what = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
        let child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        Running { child, what, stdout, stderr, root: root.to_owned(), home: home.to_owned() }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&self) -> bool {
        processes::is_running(self.pid())
    }

    /// Sends it a signal: `TERM`, `INT`, `HUP`, `KILL`.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// What it has said on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until it has said `text` on stderr.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn until_said(&self, text: &str) {
        let said = wait::within(PATIENCE, || self.stderr().contains(text).then_some(()));
        assert!(said.is_some(), "{} never said {text:?}, but:\n{}", self.what, self.stderr());
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn wait(mut self) -> Output {
        let ended = wait::within(PATIENCE, || self.child.try_wait().expect("a child can be waited for"));
        let Some(status) = ended else {
            panic!("{} hangs; it said:\n{}", self.what, self.stderr());
        };
        let read = |path: &Path| std::fs::read(path).expect("a file that was just written can be read");
        let output = std::process::Output { status, stdout: read(&self.stdout), stderr: read(&self.stderr) };
        Output::new(&output, &self.root, &self.home)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
