//! What the app is told to do.

use std::path::PathBuf;

use serde::Deserialize;

use crate::store::Failure;

/// `app.json`. A key that is missing means the well-behaved app; an unknown one is a mistake of the test.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Script {
    /// How long it takes before it listens.
    pub(crate) boot_ms: u64,
    /// Ends at once with this code.
    pub(crate) exit_at_start: Option<u8>,
    /// How the health path answers.
    pub(crate) health: Health,
    /// Whether the checkout works.
    pub(crate) checkout: Checkout,
    /// What the first page says.
    pub(crate) page: String,
    /// How long every page but the health path takes.
    pub(crate) slow_ms: u64,
    /// Goes on when it is asked to stop.
    pub(crate) ignore_sigterm: bool,
    /// Places an order of its own before it listens.
    pub(crate) write_at_start: bool,
    /// Applies `migrations/*.sql` by itself before it listens.
    pub(crate) migrate_at_start: bool,
    /// Opens this file, whatever `DATABASE_PATH` says.
    pub(crate) hard_coded_database: Option<PathBuf>,
    /// Dies, as if killed, instead of answering the request after so many; the health path is not counted.
    pub(crate) crash_after_requests: Option<u64>,
    /// Answers with an error from this request on; the health path is not counted and stays well.
    pub(crate) fail_after_requests: Option<u64>,
    /// Answers with errors only for this many requests then, and is well again.
    pub(crate) fail_for_requests: Option<u64>,
    /// Keeps so much memory with every request, KiB.
    pub(crate) leak_kib: u64,
    /// Writes an error to its log with every request, and answers as if nothing were wrong.
    pub(crate) log_errors: bool,
    /// Thanks for orders and writes none of them down.
    pub(crate) forget_orders: bool,
    /// Starts a child that outlives it.
    pub(crate) leave_child: bool,
    /// What it prints at its start.
    pub(crate) log: Option<String>,
    /// Sends a mail to the server at `SMTP_ADDRESS` before it listens, and ends when it cannot.
    pub(crate) mail_at_start: bool,
    /// Opens its database with the first request that needs it.
    pub(crate) opens_late: bool,
    /// Behaves well when it is rehearsed, whatever the rest says: what is broken shows in production only.
    pub(crate) rehearses_well: bool,
    /// With that: does not even migrate when it is rehearsed.
    pub(crate) hides_migration: bool,
}

/// How the health path answers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Health {
    /// With its release.
    #[default]
    Ok,
    /// Accepts the request and never answers.
    Never,
    /// With an error.
    #[serde(rename = "500")]
    Failing,
    /// With another release's id.
    WrongRelease,
}

/// Whether the checkout works.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Checkout {
    /// It does.
    #[default]
    Ok,
    /// It answers 500.
    Broken,
}

impl Script {
    /// Reads the script of the release in whose folder the app runs.
    pub(crate) fn read() -> Result<Script, Failure> {
        let text = std::fs::read_to_string("app.json").map_err(|error| format!("app.json: {error}"))?;
        let script: Script = serde_json::from_str(&text).map_err(|error| format!("app.json: {error}"))?;
        let rehearsed = std::env::var_os("PLIMSOLL_REHEARSAL").is_some();
        Ok(if rehearsed && script.rehearses_well { script.well_behaved() } else { script })
    }

    /// The same page and schema, and no mischief.
    fn well_behaved(self) -> Script {
        let Script { page, slow_ms, log, .. } = self;
        let migrate_at_start = self.migrate_at_start && !self.hides_migration;
        Script { page, slow_ms, migrate_at_start, log, ..Script::default() }
    }
}
