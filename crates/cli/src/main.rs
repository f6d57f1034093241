//! Plimsoll: deploys a web application and its database without losing data or requests.

mod args;
mod commands;
mod config;
mod error;
mod ui;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return ui::Ui::new(false, false).clap(&error).into(),
    };
    let ui = ui::Ui::new(args.global.json, args.global.quiet);
    let result = commands::run(&args, &ui).and_then(|()| ui.lost_output());
    if let Err(error) = &result {
        ui.error(error);
    }
    error::exit_code(&result).into()
}
