//! Plimsoll: deploys a web application and its database without losing data or requests.

mod adopted;
mod args;
mod audience;
mod commands;
mod config;
mod error;
mod follow;
mod inherited;
mod ledger;
mod notes;
mod pages;
mod past;
mod people;
mod place;
mod post;
mod readiness;
mod rehearsing;
mod renewal;
mod spark;
mod station;
mod survey;
mod ui;
mod watcher;
mod window;
mod wire;
mod wiring;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

fn main() -> ExitCode {
    renewal::hear_early();
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return ui::Ui::new(false, false).clap(&error).into(),
    };
    // Before anything else: it confines itself and becomes another program.
    if let args::Command::Confine(confine) = &args.command {
        return commands::confine(confine);
    }
    let mut ui = ui::Ui::new(args.global.json, args.global.quiet);
    if args.global.json && matches!(args.command, args::Command::Serve) {
        ui = ui.logging();
    }
    let ui = Arc::new(ui);
    let result = commands::run(&args, &ui).and_then(|()| ui.lost_output());
    if let Err(error) = &result {
        ui.error(error);
    }
    error::exit_code(&result).into()
}
