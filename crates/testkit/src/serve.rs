//! A running `plimsoll serve`.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::command::Running;
use crate::output::Output;
use crate::{processes, wait};

/// How long it may take to answer or to end: longer than an undo.
const PATIENCE: Duration = Duration::from_secs(40);

/// `plimsoll serve`. Dropped, it is asked to end, and must leave no process behind.
#[derive(Debug)]
pub struct Serve {
    running: Option<Running>,
    folder: PathBuf,
    root: PathBuf,
}

impl Serve {
    pub(crate) fn new(running: Running, folder: &Path, root: &Path) -> Serve {
        Serve { running: Some(running), folder: folder.to_owned(), root: root.to_owned() }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("only ending takes it")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running().is_running()
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.running().stderr()
    }

    /// Waits until a command can reach it.
    ///
    /// # Panics
    /// When it ends or does not answer; with what it said.
    pub fn until_it_answers(&self) {
        let answers = wait::within(PATIENCE, || {
            let running = self.running().is_running();
            match self.answers() {
                true => Some(true),
                false => (!running).then_some(false),
            }
        });
        assert_eq!(answers, Some(true), "plimsoll serve does not answer; it said:\n{}", self.log());
    }

    fn answers(&self) -> bool {
        let folders = [self.root.clone(), self.root.join("runs")];
        let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let mut sockets = files.filter(|file| file.file_type().is_ok_and(|kind| kind.is_socket()));
        sockets.any(|socket| UnixStream::connect(socket.path()).is_ok())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn wait(mut self) -> Output {
        self.running.take().expect("only ending takes it").wait()
    }

    /// Asks it to end and waits.
    pub fn stop(self) -> Output {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Kills it as a crash does: it alone, at once. What it had started is left to the next one, or to the sandbox.
    pub fn kill9(self) {
        self.signal(Signal::KILL);
        let _ = self.wait();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let log = running.stderr();
        if std::thread::panicking() {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "plimsoll serve said:\n{log}");
            running.signal(Signal::KILL);
            let _ = running.wait();
            let _ = processes::kill_all(&self.folder);
            return;
        }
        running.signal(Signal::TERM);
        let output = running.wait();
        let left = processes::of(&self.folder);
        let _ = processes::kill_all(&self.folder);
        assert!(left.is_empty(), "plimsoll serve ended and left behind: {left:#?}; it said:\n{log}");
        assert_eq!(output.code, Some(0), "plimsoll serve ended badly on SIGTERM:\n{}", output.said());
    }
}
