//! `serve` renews itself: on SIGUSR2 it becomes the program that now lies where it was started from, in the same
//! process. The listener is handed over, so that connections wait instead of being refused, and the app runs on.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::config::{Config, Listen};
use crate::error::Error;
use crate::inherited;

/// Says to the new program that its standard input is the front door's listener.
const HANDED_OVER: &str = "PLIMSOLL_LISTENER_ON_STDIN";
/// What systemd's own hand-over leaves behind; the descriptor it speaks of is closed by then.
const PASSED: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How this program was started.
pub(crate) struct Renewal {
    /// Looked up at the start: later the kernel calls it `(deleted)` when it was replaced.
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    config: PathBuf,
}

impl Renewal {
    /// To be made before the program's file can have been replaced.
    pub(crate) fn new(config: &Config) -> Renewal {
        Renewal {
            program: std::env::current_exe().ok(),
            arguments: std::env::args_os().skip(1).collect(),
            config: config.file.clone(),
        }
    }

    /// Whether what would be started can be, with the configuration as it is now.
    ///
    /// # Errors
    /// Why not; then everything goes on as it is.
    pub(crate) fn possible(&self) -> Result<(), Error> {
        let refused = |why: String| {
            Error::failed("`plimsoll serve` was not renewed")
                .why(why)
                .state("it goes on as it is; nothing was interrupted")
                .next("mend it, then renew again: kill -USR2, or systemctl reload")
        };
        Config::load(&self.config).map_err(|error| {
            Error::from(error)
                .state("`plimsoll serve` was not renewed; it goes on as it is, and nothing was interrupted")
        })?;
        let program = self.program.as_ref().ok_or_else(|| refused("its own path is not known".to_owned()))?;
        let tried = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        match tried {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(refused(format!("{} --version: {}", program.display(), output.status))),
            Err(error) => Err(refused(format!("{}: {error}", program.display()))),
        }
    }

    /// Becomes the new program. Returns only when that fails.
    pub(crate) fn begin(&self, listener: Option<&TcpListener>) -> Error {
        let failed = |why: String| {
            Error::failed("`plimsoll serve` could not be renewed and ends").why(why).next("plimsoll serve")
        };
        let Some(program) = &self.program else { return failed("its own path is not known".to_owned()) };
        let mut command = Command::new(program);
        command.args(&self.arguments);
        for name in PASSED {
            command.env_remove(name);
        }
        match listener.map(|listener| listener.as_fd().try_clone_to_owned()) {
            Some(Ok(listener)) => {
                command.stdin(Stdio::from(listener)).env(HANDED_OVER, "1");
            }
            Some(Err(error)) => return failed(error.to_string()),
            None => {}
        }
        failed(command.exec().to_string())
    }
}

/// The listener that was handed over to this program, if one was and it is the one that is wanted.
pub(crate) fn handed_over(listen: &Listen) -> Option<TcpListener> {
    std::env::var_os(HANDED_OVER)?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned().ok();
    if let Ok(nothing) = File::open("/dev/null") {
        // Else the address would stay open after the door has gone.
        let _ = rustix::stdio::dup2_stdin(nothing);
    }
    let listener = inherited::usable(socket?).ok()?;
    let address = listener.local_addr().ok()?;
    match listen {
        Listen::Address(wanted) if *wanted != address => None,
        Listen::Address(_) | Listen::Systemd => Some(listener),
    }
}
