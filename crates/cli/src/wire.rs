//! What a command and `plimsoll serve` say to each other over the control socket: JSON, one object a line.

use plimsoll_core::engine::Outcome;
use plimsoll_core::ports::Failure;
use plimsoll_core::record::{Ending, Entry};
use serde::{Deserialize, Serialize};

use crate::people::{Person, Say};

/// The first line of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Bring a revision live.
    Deploy {
        /// Branch, tag or commit; the configured branch when absent.
        revision: Option<String>,
        /// Whether a person is there to be asked.
        ask: bool,
        /// Acknowledgements, as typed.
        acknowledge: Vec<String>,
        /// Whether to watch for errors after the switch.
        watch: bool,
        /// Why a locked app may be deployed again.
        #[serde(default)]
        unlock: Option<String>,
        /// Who asks.
        by: String,
        /// Who approved it, as the command was told.
        #[serde(default)]
        approved_by: Option<String>,
    },
    /// Try a revision on a copy and say what a deployment would do.
    Rehearse {
        /// Branch, tag or commit; the configured branch when absent.
        revision: Option<String>,
        /// Who asks.
        by: String,
    },
    /// Stop a run before its commit point, or bring an earlier release live again.
    Rollback {
        /// The release to bring back; the one before the live one when absent.
        to: Option<String>,
        /// Only say what it would do.
        dry_run: bool,
        /// Whether the data must go back too, though the code alone would do.
        #[serde(default)]
        data: bool,
        /// Whether a person is there to be asked.
        ask: bool,
        /// Acknowledgements, as typed.
        acknowledge: Vec<String>,
        /// Who asks.
        by: String,
    },
    /// Go on with a run that stopped half-way.
    Resume {
        /// Who asks.
        by: String,
    },
    /// Say something to a run: an answer, a signature.
    Say {
        /// The run; the one that is going on, else the last, when absent.
        run: Option<u32>,
        /// What.
        what: Say,
    },
    /// Answer the question whether to go on, which somebody else's command asked.
    GoAhead {
        /// Yes or no.
        yes: bool,
        /// Who.
        by: Person,
    },
    /// How things are.
    Status,
}

/// What a command may say later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum Word {
    /// Stop the run, if it is not past its commit point.
    Stop {
        /// Why: "Ctrl-C".
        why: String,
    },
    /// The answer to a question.
    Answer {
        /// Yes or no.
        yes: bool,
    },
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant, reason = "replies are written as soon as they are made")]
pub(crate) enum Reply {
    /// An event was journaled.
    Entry {
        /// The event.
        entry: Entry,
    },
    /// A child's output or a remark.
    Line {
        /// Without its newline.
        text: String,
    },
    /// How far a long step is.
    Progress {
        /// Done so far.
        done: u64,
        /// All there is; 0 when unknown.
        total: u64,
        /// `bytes`, `pages`...
        unit: String,
    },
    /// A question to the person at the command.
    Ask {
        /// The question, several lines.
        question: String,
    },
    /// The last line of a run.
    Outcome {
        /// The run's number; `None` when none was begun.
        run: Option<u32>,
        /// How production is; `None` when the run is still open.
        ending: Option<Ending>,
        /// The exit code of the contract.
        exit: u8,
        /// One sentence.
        message: String,
        /// What went wrong, if anything did.
        failure: Option<Failure>,
    },
    /// How things are.
    Status {
        /// See [`Status`].
        status: Status,
    },
}

impl Reply {
    /// The last line for a run that ended so.
    pub(crate) fn outcome(run: u32, outcome: Outcome) -> Reply {
        let Outcome { ending, exit, failure, message } = outcome;
        Reply::Outcome { run: Some(run), ending, exit, message, failure }
    }

    /// The last line when no run was begun.
    pub(crate) fn refused(exit: u8, failure: Failure) -> Reply {
        let message = "Nothing was begun; production was not touched.".to_owned();
        Reply::Outcome { run: None, ending: Some(Ending::Unchanged), exit, message, failure: Some(failure) }
    }
}

/// How things are, as `serve` sees them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// `open`, `held` or `shut`; `none` without a front door.
    pub(crate) door: String,
    /// The release behind the door.
    pub(crate) serving: Option<String>,
    /// Process id of the app.
    pub(crate) pid: Option<u32>,
    /// Its private port.
    pub(crate) port: Option<u16>,
    /// Its memory, bytes, all its processes together.
    #[serde(default)]
    pub(crate) memory: u64,
    /// Processor time since it started, milliseconds.
    #[serde(default)]
    pub(crate) cpu_ms: u64,
    /// How often it was restarted because it ended by itself.
    pub(crate) restarts: u64,
    /// The run that is going on.
    pub(crate) running: Option<u32>,
    /// Requests since `serve` started.
    pub(crate) requests: u64,
    /// Answers with 5xx since `serve` started.
    pub(crate) errors: u64,
    /// Requests that wait at the door.
    pub(crate) waiting: u64,
    /// Answers and errors in each ten seconds of the last twenty minutes, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) recent: Vec<(u32, u32)>,
    /// Half of the app's answers came within, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p50_ms: Option<f64>,
    /// 99 of 100 did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p99_ms: Option<f64>,
    /// The question whether to go on, while a run waits for its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) question: Option<String>,
    /// What is wrong, each a sentence.
    pub(crate) trouble: Vec<String>,
}
