//! What a rehearsal found.

use plimsoll_core::check::Check;
use plimsoll_core::ports::Failure;

use super::{NEW, OLD};
use crate::sqlite::census::Class;

/// Whether something was shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// It was seen to work.
    Proven,
    /// It was seen not to work, or the rehearsal was interrupted.
    Failed(Failure),
    /// It could not be seen, and why. Never counts as proven.
    NotTried(String),
}

impl Proof {
    /// Whether it was seen to work.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        matches!(self, Proof::Proven)
    }
}

/// What kept the copy from production.
#[derive(Clone, Debug, PartialEq)]
pub struct Confinement {
    /// `full`, or what is missing; `none: WHY`.
    pub filesystem: String,
    /// `namespace`; `landlock-ports: WHY` when only TCP connections are refused; `none: WHY`.
    pub network: String,
    /// Sockets in the file system (mail, databases, system services): `refused`, `covered`, `reachable: WHY`.
    pub sockets: String,
}

/// Measured times, milliseconds; `None` where it was not come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// Copying the release.
    pub copy_ms: Option<u64>,
    /// The migrate commands.
    pub migrate_ms: Option<u64>,
    /// The new release from its start to its first good answer, its own migrations included.
    pub startup_ms: Option<u64>,
    /// The new release until it had stopped.
    pub stop_ms: Option<u64>,
    /// All smoke tests of the new release.
    pub smoke_ms: Option<u64>,
    /// The old release from its start to its first good answer.
    pub old_startup_ms: Option<u64>,
    /// The backup restored over the migrated copy, read back.
    pub restore_ms: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// For the report. A failed one stands for `new` alone; what the old release cannot do is unknown.
    pub checks: Vec<Check>,
    /// The new release on the migrated copy, smoke tests that write included.
    pub new: Proof,
    /// The old release on the database as the new one left it: whether code alone can be rolled back.
    pub old_on_new: Proof,
    /// Whether the migrate commands changed anything in the copy, schema or rows.
    pub changed_by_commands: bool,
    /// Objects of the schema that the new release changed when it started.
    pub schema_changed_at_start: Vec<String>,
    /// What the migrate commands, or a start that changed the schema, lost: as typed after `--acknowledge`.
    pub losses: Vec<String>,
    /// The worst of what these did, in the words of a migration's class: `no-op`, `additive`, `rebuild`...
    pub class: Option<Class>,
    /// What kept the copy from production.
    pub confinement: Confinement,
    /// Times.
    pub times: Times,
}

impl Findings {
    /// Nothing was run, and why.
    #[must_use]
    pub fn not_tried(why: &str) -> Findings {
        let none = format!("none: {why}");
        Findings {
            checks: vec![
                Check::unknown("pre.staging", NEW, why),
                Check::skipped("pre.rollback", OLD, why).with("code_only", "not proven"),
            ],
            new: Proof::NotTried(why.to_owned()),
            old_on_new: Proof::NotTried(why.to_owned()),
            changed_by_commands: false,
            schema_changed_at_start: Vec::new(),
            losses: Vec::new(),
            class: None,
            confinement: Confinement { filesystem: none.clone(), network: none.clone(), sockets: none },
            times: Times::default(),
        }
    }
}
