//! What the pages show and what people do on them: the way to the rest of the program.

use plimsoll_core::record::{Entry, Role};
use serde::Serialize;

/// How things are, all of it seen at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Now {
    /// The app's name.
    pub app: String,
    /// The release that is current; `None` before the first.
    pub release: Option<String>,
    /// `open`, `held`, `shut`; `none` without a front door.
    pub door: String,
    /// The run that is going on.
    pub running: Option<u32>,
    /// The question with which it waits.
    pub question: Option<String>,
    /// What is wrong, each a sentence.
    pub trouble: Vec<String>,
    /// Why no deployment may begin until somebody unlocks it.
    pub locked: Option<String>,
    /// What went through the front door; `None` without one.
    pub traffic: Option<Traffic>,
    /// What the app and the machine use.
    pub machine: Machine,
    /// The newest verified backup: its file, and its age in words.
    pub backup: Option<(String, String)>,
    /// Its age in seconds.
    pub backup_age_s: Option<i64>,
    /// When one was last restored in a drill, in words.
    pub drill: Option<String>,
    /// Its age in seconds.
    pub drill_age_s: Option<i64>,
    /// The next spot check, in words.
    pub next_spot: Option<String>,
    /// The last run.
    pub last: Option<RunRow>,
}

/// What went through the front door since `serve` started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Requests accepted.
    pub requests: u64,
    /// Answers by class: 1xx to 5xx.
    pub classes: [u64; 5],
    /// Requests whose client left before an answer.
    pub left: u64,
    /// Requests that waited at the door.
    pub held: u64,
    /// Waiting now.
    pub waiting: u64,
    /// At the app now.
    pub in_flight: u64,
    /// 502 and 504 written by the door.
    pub failed_here: u64,
    /// 503 written by the door.
    pub refused_here: u64,
    /// Half of the app's answers came within, milliseconds.
    pub p50_ms: Option<f64>,
    /// 99 of 100 did.
    pub p99_ms: Option<f64>,
    /// Of the last minutes, oldest first: answers and errors in each ten seconds.
    pub recent: Vec<(u32, u32)>,
}

/// What the app and the machine use.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// The app's process.
    pub pid: Option<u32>,
    /// How often it was restarted because it ended by itself.
    pub restarts: u64,
    /// Seconds of processor time that it has used.
    pub cpu_s: Option<f64>,
    /// Its memory, bytes.
    pub memory_bytes: Option<u64>,
    /// Free on the disk of the app's root, bytes.
    pub disk_free_bytes: Option<u64>,
    /// The database's file, bytes.
    pub database_bytes: Option<u64>,
    /// Its write-ahead log, bytes.
    pub wal_bytes: Option<u64>,
    /// Runnable processes of the last minute.
    pub load: Option<f64>,
}

/// A run in one line.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunRow {
    /// Its number.
    pub run: u32,
    /// When it began, RFC 3339 UTC.
    pub began: String,
    /// `deploy` or `rollback`.
    pub kind: String,
    /// What it brought live, or was to.
    pub release: Option<String>,
    /// Who asked.
    pub by: String,
    /// `live`, `undone`, `unchanged`, `rolled-back`; `None` while it is open.
    pub ending: Option<String>,
    /// The exit code.
    pub exit: Option<u8>,
    /// How long users waited, milliseconds.
    pub hold_ms: u64,
    /// How long it took, milliseconds.
    pub ms: u64,
    /// Who signed: `deployer Asha`.
    pub signed: Vec<String>,
}

/// A backup in one line.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BackupRow {
    /// The file's name.
    pub name: String,
    /// When it was made, RFC 3339 UTC.
    pub at: String,
    /// How old it is, in words.
    pub age: String,
    /// Its size, in words.
    pub size: String,
    /// Whether it was read back and found good.
    pub verified: bool,
}

/// A question that is open.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Question {
    /// The box's id.
    pub item: String,
    /// What is asked.
    pub title: String,
    /// Whether something waits for it.
    pub required: bool,
}

/// Who does something on a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Visitor {
    /// The name.
    pub name: String,
    /// How they came in.
    pub way: String,
}

/// Why what somebody did on a page was not done.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize)]
#[error("{what}: {why}")]
pub struct Refused {
    /// What was refused.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do next.
    pub next: String,
}

/// The rest of the program. Every method may be called from any thread, and answers within moments.
pub trait House: Send + Sync + 'static {
    /// How things are.
    fn now(&self) -> Now;
    /// All runs, the newest first.
    fn runs(&self) -> Vec<RunRow>;
    /// What is recorded of a run; `None` when there is none or it cannot be read.
    fn entries(&self, run: u32) -> Option<Vec<Entry>>;
    /// What is asked about a run and not answered.
    fn questions(&self, run: u32) -> Vec<Question>;
    /// The backups, the newest first.
    fn backups(&self) -> Vec<BackupRow>;
    /// A number that changes whenever something in the records does.
    fn version(&self) -> u64;
    /// Answers a question about a run.
    ///
    /// # Errors
    /// Why it was not recorded.
    fn answer(&self, run: u32, item: &str, text: &str, by: Visitor) -> Result<String, Refused>;
    /// Signs a run.
    ///
    /// # Errors
    /// Why it was not recorded.
    fn sign(&self, run: u32, role: Role, note: Option<String>, by: Visitor) -> Result<String, Refused>;
    /// Answers the question whether to go on.
    ///
    /// # Errors
    /// When none waits.
    fn go_ahead(&self, yes: bool, by: Visitor) -> Result<String, Refused>;
}
