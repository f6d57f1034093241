//! The programs of this workspace, run as a person runs them. Whatever happens, they are ended by their process id.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Trouble;

/// `plimsoll serve` answers within this time, or something is wrong.
const START: Duration = Duration::from_secs(20);
/// What is asked to end does so within this time: longer than a hold and the stop of the app.
const END: Duration = Duration::from_secs(40);
const GLANCE: Duration = Duration::from_millis(10);

/// Whether somebody wants the demonstration to end: Ctrl-C, SIGTERM, a terminal that went away.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn listen() -> Result<Interrupt, Trouble> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Interrupt(flag))
    }

    fn came(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Where the programs are.
pub(crate) struct Programs<'a> {
    folder: PathBuf,
    interrupt: &'a Interrupt,
}

impl<'a> Programs<'a> {
    /// In the folder of the program that runs.
    pub(crate) fn beside_this_one(interrupt: &'a Interrupt) -> Result<Programs<'a>, Trouble> {
        let this = std::env::current_exe()?;
        let folder = this.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Programs { folder, interrupt })
    }

    pub(crate) fn greengrocer(&self) -> PathBuf {
        self.folder.join("greengrocer")
    }

    /// Fails when somebody wants it to end.
    pub(crate) fn go_on(&self) -> Result<(), Trouble> {
        if self.interrupt.came() { Err(Trouble::Interrupted) } else { Ok(()) }
    }

    /// Runs the shop's own command for its database; `home` has the release's files.
    pub(crate) fn run_greengrocer(&self, what: &str, home: &Path, database: &Path) -> Result<(), Trouble> {
        let mut command = Command::new(self.greengrocer());
        command.arg(what).current_dir(home).env("GREENGROCER_HOME", home).env("DATABASE_PATH", database);
        self.run(command, &format!("greengrocer {what}"), 0)
    }

    /// Runs `plimsoll` in `root` and shows the command and what it prints. It must end with that exit code.
    pub(crate) fn plimsoll(&self, root: &Path, arguments: &[&str], wanted: i32) -> Result<(), Trouble> {
        let mut command = Command::new(self.folder.join("plimsoll"));
        command.args(arguments).current_dir(root);
        self.run(command, &typed(arguments), wanted)
    }

    fn run(&self, mut command: Command, typed: &str, wanted: i32) -> Result<(), Trouble> {
        self.go_on()?;
        let mut out = io::stdout().lock();
        writeln!(out, "$ {typed}")?;
        out.flush()?;
        drop(out);
        let status = Started::new(&mut command, typed)?.finish(self.interrupt)?;
        // Killed by a signal of ours when the demonstration was interrupted.
        self.go_on()?;
        if status.code() == Some(wanted) {
            return Ok(());
        }
        Err(Trouble::Ended { command: typed.to_owned(), got: status.to_string(), wanted })
    }
}

/// The command line, as one would type it.
fn typed(arguments: &[&str]) -> String {
    let quoted = arguments.iter().map(|argument| match argument.contains(' ') {
        true => format!("\"{argument}\""),
        false => (*argument).to_owned(),
    });
    std::iter::once("plimsoll".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// A child of this program. Dropped, it is asked to end and waited for.
struct Started {
    child: Child,
}

impl Started {
    /// In a process group of its own: Ctrl-C in the terminal is for the demonstration, which ends its children in
    /// the right order.
    fn new(command: &mut Command, typed: &str) -> Result<Started, Trouble> {
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        let child = child.map_err(|source| Trouble::Start { program: typed.to_owned(), source })?;
        Ok(Started { child })
    }

    fn has_ended(&mut self) -> Result<Option<ExitStatus>, Trouble> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it ends; once interrupted, asks it to.
    fn finish(mut self, interrupt: &Interrupt) -> Result<ExitStatus, Trouble> {
        loop {
            if let Some(status) = self.has_ended()? {
                return Ok(status);
            }
            if interrupt.came() {
                return self.end();
            }
            thread::sleep(GLANCE);
        }
    }

    /// SIGTERM, and SIGKILL for one that does not end.
    fn end(&mut self) -> Result<ExitStatus, Trouble> {
        let asked = Instant::now();
        if self.has_ended()?.is_none()
            && let Ok(Some(pid)) = i32::try_from(self.child.id()).map(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        while asked.elapsed() < END {
            if let Some(status) = self.has_ended()? {
                return Ok(status);
            }
            thread::sleep(GLANCE);
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// `plimsoll serve` while it runs. Dropped, it is ended, and the shop with it.
pub(crate) struct Serve {
    started: Started,
    log: PathBuf,
}

impl Serve {
    /// Starts it and waits until commands can reach it.
    pub(crate) fn start(programs: &Programs<'_>, root: &Path, log: &Path) -> Result<Serve, Trouble> {
        let mut out = io::stdout().lock();
        writeln!(out, "$ plimsoll serve &")?;
        out.flush()?;
        drop(out);
        let file = || {
            File::options().create(true).append(true).open(log).map_err(Trouble::file("cannot write", log))
        };
        let mut command = Command::new(programs.folder.join("plimsoll"));
        command.arg("serve").current_dir(root).stdout(file()?).stderr(file()?);
        let started = Started::new(&mut command, "plimsoll serve")?;
        let mut serve = Serve { started, log: log.to_owned() };
        let socket = root.join("runs/serve.sock");
        let answered = wait::within(START, || {
            if programs.interrupt.came() || !matches!(serve.started.has_ended(), Ok(None)) {
                return Some(false);
            }
            let is_there = fs::metadata(&socket).is_ok_and(|file| file.file_type().is_socket());
            (is_there && UnixStream::connect(&socket).is_ok()).then_some(true)
        });
        programs.go_on()?;
        match answered {
            Some(true) => Ok(serve),
            Some(false) => Err(Trouble::Serve { how: "ended at once", said: serve.said() }),
            None => Err(Trouble::Serve { how: "does not answer", said: serve.said() }),
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end.
    pub(crate) fn stop(mut self) -> Result<(), Trouble> {
        if self.started.end()?.success() {
            return Ok(());
        }
        Err(Trouble::Serve { how: "ended badly", said: self.said() })
    }
}
