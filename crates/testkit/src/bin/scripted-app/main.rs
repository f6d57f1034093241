//! A small shop whose behaviour is scripted by `app.json` in its working directory, so that a release is a commit
//! which changes that file.

mod mail;
mod script;
mod server;
mod store;

use std::io::Write;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::script::Script;
use crate::server::Server;
use crate::store::{Failure, Store};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "scripted-app: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Failure> {
    let script = Script::read()?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", script.log.as_deref().unwrap_or("starting"))?;
    // Asked for before anything takes time: a signal during a slow boot is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    if let Some(code) = script.exit_at_start {
        writeln!(std::io::stderr(), "exiting at once, as scripted")?;
        return Ok(ExitCode::from(code));
    }
    if script.leave_child {
        // Deliberately not waited for: whoever ends the app must end this too.
        drop(Command::new("sleep").arg("600").spawn()?);
    }
    if script.mail_at_start {
        mail::send()?;
    }
    let store = Store::new(script.hard_coded_database.clone())?;
    if !script.opens_late {
        store.count("sqlite_schema")?;
    }
    if script.migrate_at_start {
        store.migrate()?;
    }
    if script.write_at_start {
        store.order("1", "1", &format!("at-start-{}", std::process::id()))?;
    }
    thread::sleep(Duration::from_millis(script.boot_ms));
    let ignores = script.ignore_sigterm;
    let server = Server::start(script, store)?;
    for signal in signals.forever() {
        writeln!(out, "signal {signal}")?;
        if !(ignores && signal == SIGTERM) {
            break;
        }
    }
    server.finish();
    Ok(ExitCode::SUCCESS)
}
