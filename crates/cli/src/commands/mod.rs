//! One file a command.

use crate::args::{Args, Command};
use crate::error::Error;
use crate::ui::Ui;

/// Does what was asked for.
pub(crate) fn run(args: &Args, _ui: &Ui) -> Result<(), Error> {
    match &args.command {
        Command::Check => {
            let file = crate::config::Config::locate(&args.global.directory, args.global.config.as_deref());
            crate::config::Config::load(&file)?;
            Ok(())
        }
        _ => Err(Error::usage("not built yet")),
    }
}
