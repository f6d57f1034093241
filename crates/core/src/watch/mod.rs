//! Watching a live release: the three verdicts, the tests that give them ([`judge`]), and the samples that are kept.

pub mod chance;
pub mod judge;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Verdict};

/// What a comparison with before says. "Not enough" is an answer of its own: it is neither a pass nor an alarm.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// Enough was seen, and it is as before.
    Good,
    /// Enough was seen, and it is worse than chance explains.
    Bad,
    /// Too little was seen to say either.
    NotEnough,
}

impl Judgement {
    /// The word used in reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Judgement::Good => "good",
            Judgement::Bad => "bad",
            Judgement::NotEnough => "not enough",
        }
    }

    /// The judgement as an observation: good is a pass, bad a failure, not enough is unknown. `why` is a sentence.
    #[must_use]
    pub fn check(self, id: &str, name: &str, why: impl Into<String>) -> Check {
        let verdict = match self {
            Judgement::Good => Verdict::Pass,
            Judgement::Bad => Verdict::Fail,
            Judgement::NotEnough => Verdict::Unknown,
        };
        let check = Check::new(id, name, verdict).with("judgement", self.word());
        let why = why.into();
        if why.is_empty() { check } else { check.with("why", why) }
    }
}

/// One line of `runs/NNNNNN/watch.jsonl`: how the app and its machine were around and after the switch. What could not
/// be measured is left out. Counts are those of the interval since the sample before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Wall clock, RFC 3339 UTC.
    pub at: String,
    /// Milliseconds since the commit point; negative before it.
    pub after_ms: i64,
    /// How long the interval is that the counts are of, milliseconds.
    #[serde(default)]
    pub span_ms: u64,
    /// Requests answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Those answered with 5xx by the app, or with 502 or 504 by the door.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
    /// Half of the answers came within this, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    /// 99 of 100 answers came within this, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
    /// Log lines that matched `[[log]] error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_errors: Option<u64>,
    /// Processors that the app used: 1.0 is one of them, all the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Memory of the app's processes, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Memory that the machine has left, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_free_bytes: Option<u64>,
    /// Room left on the disk of the database, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// Size of the database's write-ahead log, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_bytes: Option<u64>,
    /// How long the database's write lock was waited for, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_ms: Option<u64>,
    /// How long the health path took, milliseconds; left out when it was not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_ms: Option<u64>,
}

/// The name of the file beside the journal.
pub const SAMPLES: &str = "watch.jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_enough_is_neither_a_pass_nor_a_failure() {
        let check = Judgement::NotEnough.check("verify.errors", "Errors", "not enough traffic: 3 requests");
        assert_eq!((check.verdict, check.why()), (Verdict::Unknown, "not enough traffic: 3 requests"));
        assert_eq!(Judgement::Good.check("verify.errors", "Errors", "").verdict, Verdict::Pass);
        assert_eq!(Judgement::Bad.check("verify.errors", "Errors", "x").verdict, Verdict::Fail);
    }

    #[test]
    fn a_sample_leaves_out_what_was_not_measured() {
        let sample = Sample { at: "t".into(), after_ms: -5, requests: Some(2), ..Sample::default() };
        let text = serde_json::to_string(&sample).unwrap();
        assert_eq!(text, r#"{"at":"t","after_ms":-5,"span_ms":0,"requests":2}"#);
        assert_eq!(serde_json::from_str::<Sample>(&text).unwrap(), sample);
    }
}
