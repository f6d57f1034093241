//! `make demo`: greengrocer, a shop with customers in it, is deployed four times. The second release rebuilds the
//! table of the orders while orders come in; the third has a checkout that is broken in production only, and is undone
//! behind the shut door; the fourth is broken on the copy too, and the rehearsal refuses it. At the end the customers' own ledger is compared with the database.

mod customers;
mod journal;
mod ledger;
mod programs;
mod stage;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::customers::Customers;
use crate::ledger::Ledger;
use crate::programs::{Interrupt, Programs, Serve};
use crate::stage::Stage;

const USAGE: &str = "\
Shows Plimsoll at work on a shop with customers in it.

Usage: demo [--keep]

  --keep    keep the folder with everything in it, and say where it is";

/// How many customers are in the shop.
const CUSTOMERS: usize = 8;
/// How many orders are placed before, between and after the deployments.
const ORDERS_BETWEEN: usize = 40;

/// Why the demonstration ended early.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{program} cannot be started: {source}")]
    Start { program: String, source: io::Error },
    #[error("`{command}` ended with {got}, and should have ended with exit code {wanted}")]
    Ended { command: String, got: String, wanted: i32 },
    #[error("`plimsoll serve` {how}; it said:\n{said}")]
    Serve { how: &'static str, said: String },
    #[error("{0}")]
    Customers(String),
    #[error("{what}: {source}")]
    Database { what: &'static str, source: rusqlite::Error },
    #[error("{}: {what}", file.display())]
    Journal { file: PathBuf, what: String },
    #[error("output cannot be written: {0}")]
    Output(#[from] io::Error),
    #[error("interrupted")]
    Interrupted,
}

impl Trouble {
    /// For `map_err`: an I/O error with what was tried and its path.
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Trouble {
        let path = path.to_owned();
        move |source| Trouble::File { what, path, source }
    }
}

fn main() -> ExitCode {
    let mut keep = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            "--help" | "-h" => {
                let _ = writeln!(io::stdout(), "{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => {
                let _ = writeln!(io::stderr(), "demo: {other:?} is not known\n\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match perform(keep) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => {
            let _ = writeln!(io::stderr(), "demo: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a line of its own, distinct from what the commands print.
fn tell(text: &str) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n# {text}")?;
    out.flush()?;
    Ok(())
}

/// Whether no request failed and no order was lost.
fn perform(keep: bool) -> Result<bool, Trouble> {
    let interrupt = Interrupt::listen()?;
    let programs = Programs::beside_this_one(&interrupt)?;
    let mut stage = Stage::build(&programs, keep)?;
    let outcome = play(&stage, &programs);
    if outcome.is_err() && !matches!(outcome, Err(Trouble::Interrupted)) {
        stage.keep();
    }
    if let Some(folder) = stage.kept() {
        tell(&format!("everything is still in {}", folder.display()))?;
    }
    // What it left behind is taken away before the last line is written.
    drop(stage);
    let (ledger, undone_ms) = outcome?;
    let (failed, lost) = (ledger.failures().len(), ledger.lost().len());
    let seconds = |ms: u64| format!("{:.2}", Duration::from_millis(ms).as_secs_f64());
    for what in ledger.failures().iter().chain(ledger.lost()).take(20) {
        writeln!(io::stdout(), "  {what}")?;
    }
    writeln!(
        io::stdout(),
        "demo: {} requests, {failed} failed, {lost} orders lost, slowest {} s, bad release undone in {} s",
        ledger.requests(),
        seconds(ledger.slowest_ms()),
        seconds(undone_ms),
    )?;
    Ok(failed == 0 && lost == 0)
}

/// The four deployments. Returns what the customers met, and how long the undo took, in milliseconds.
fn play(stage: &Stage, programs: &Programs<'_>) -> Result<(Ledger, u64), Trouble> {
    let root = stage.root();
    tell(&format!(
        "The shop's server: the front door on http://127.0.0.1:{}, and behind it the shop, once there is a release.",
        stage.port()
    ))?;
    let serve = Serve::start(programs, root, &stage.log())?;
    tell("Release 1: the shop as it is. Its database has been there for years.")?;
    programs.plimsoll(root, &["deploy", "--yes", "--approved-by", "Asha Rao"], 0)?;

    tell(&format!(
        "{CUSTOMERS} customers come in. They browse, fill baskets and order, from now to the end."
    ))?;
    let customers = Customers::enter(stage.port(), CUSTOMERS);
    customers.order(ORDERS_BETWEEN, programs)?;

    tell("Release 2: a note for the person who delivers. Its migration rebuilds the table of the orders.")?;
    stage.commit_release(2)?;
    programs.plimsoll(root, &["deploy", "--yes", "--approved-by", "Asha Rao"], 0)?;
    customers.order(ORDERS_BETWEEN, programs)?;

    tell("Release 3: all is well on a copy. In production every page answers but the checkout.")?;
    stage.commit_release(3)?;
    programs.plimsoll(root, &["deploy", "--yes", "--approved-by", "Asha Rao"], 1)?;
    customers.order(ORDERS_BETWEEN, programs)?;

    tell("Release 4: its checkout is broken on the copy too. No customer waits for it.")?;
    stage.commit_release(4)?;
    programs.plimsoll(root, &["deploy", "--yes", "--approved-by", "Asha Rao"], 1)?;
    customers.order(ORDERS_BETWEEN, programs)?;

    tell("The customers go home.")?;
    let ledger = customers.leave().compared_with(&stage.database())?;
    tell("What was done, and the record of the second deployment as the checklist of the house.")?;
    programs.plimsoll(root, &["history"], 0)?;
    programs.plimsoll(root, &["status"], 0)?;
    programs.plimsoll(root, &["show", "2"], 0)?;
    let undone_ms = journal::undo_ms(&root.join("runs/000003/journal.jsonl"))?;
    serve.stop()?;

    tell(&format!(
        "Of {} orders that customers were promised, {} are in the database with what was bought.",
        ledger.promised(),
        ledger.promised() - ledger.lost().len(),
    ))?;
    Ok((ledger, undone_ms))
}
