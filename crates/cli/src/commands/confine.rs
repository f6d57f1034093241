//! `__confine`: this program once more, on its way to become a release that is rehearsed.

use std::process::ExitCode;

use plimsoll_host::rehearsal::confine::exec;

use crate::args::ConfineArgs;
use crate::error::Error;
use crate::ui::Ui;

/// As a shell says that a command could not be started.
const NOT_STARTED: u8 = 127;

/// `plimsoll __confine WALLS -- PROGRAM...`; returns only when the program could not be confined or started.
pub(crate) fn confine(args: &ConfineArgs) -> ExitCode {
    let refused = exec(&args.walls, &args.words);
    Ui::new(false, false).error(&Error::failed(refused.to_string()));
    ExitCode::from(NOT_STARTED)
}
