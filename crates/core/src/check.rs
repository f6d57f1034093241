//! One observation about the app, the machine or the data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an observation means for the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Seen, and as it should be.
    Pass,
    /// Seen, and not as it should be: the run stops or is undone.
    Fail,
    /// Could not be seen. Never counted as a pass.
    Unknown,
    /// Does not apply here, with the reason in the evidence.
    Skipped,
}

impl Verdict {
    /// The word used in reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Unknown => "unknown",
            Verdict::Skipped => "skipped",
        }
    }
}

/// What was seen: names to values, in the order of the names. Numbers carry their unit in the name
/// (`ms`, `bytes`, `rows`). Never holds a secret.
pub type Evidence = BTreeMap<String, Value>;

/// One observation, tied to a box of the paper checklist.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The id of the box in [`crate::checklist`] that this fills in.
    pub id: String,
    /// What was looked at, in a person's words.
    pub name: String,
    /// What it means.
    pub verdict: Verdict,
    /// What was seen.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: Evidence,
}

impl Check {
    /// A check with the given verdict and no evidence yet.
    #[must_use]
    pub fn new(id: &str, name: impl Into<String>, verdict: Verdict) -> Self {
        Check { id: id.to_owned(), name: name.into(), verdict, evidence: Evidence::new() }
    }

    /// A check that passed.
    #[must_use]
    pub fn pass(id: &str, name: impl Into<String>) -> Self {
        Check::new(id, name, Verdict::Pass)
    }

    /// A check that failed; `why` says what was seen instead of what was expected.
    #[must_use]
    pub fn fail(id: &str, name: impl Into<String>, why: impl Into<String>) -> Self {
        Check::new(id, name, Verdict::Fail).with("why", why.into())
    }

    /// A check that could not be made, and why.
    #[must_use]
    pub fn unknown(id: &str, name: impl Into<String>, why: impl Into<String>) -> Self {
        Check::new(id, name, Verdict::Unknown).with("why", why.into())
    }

    /// A check that does not apply, and why.
    #[must_use]
    pub fn skipped(id: &str, name: impl Into<String>, why: impl Into<String>) -> Self {
        Check::new(id, name, Verdict::Skipped).with("why", why.into())
    }

    /// Adds one piece of evidence.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(name.to_owned(), value.into());
        self
    }

    /// Why it failed, is unknown or was skipped; empty for a pass.
    #[must_use]
    pub fn why(&self) -> &str {
        self.evidence.get("why").and_then(Value::as_str).unwrap_or_default()
    }
}
