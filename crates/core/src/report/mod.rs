//! A record as the filled-in checklist: as a value (and so as JSON), Markdown, HTML, a plain log, a few lines.
//!
//! [`Report::of`] folds the events; all but the log show only a [`Report`]. What no step observed is said to
//! be unobserved: a box is ticked by a check or by a journaled outcome, never by assumption.

mod after;
mod boxes;
pub mod chart;
mod evidence;
mod html;
mod log;
mod markdown;
mod plan;
#[cfg(test)]
mod sample;
mod summary;
mod timeline;

use serde::Serialize;

use crate::checklist::Phase;
use crate::plan::{Rehearsal, Release, ReleaseId, Step, Strategy};
use crate::ports::{Failure, FailureKind};
use crate::reconcile::Reconciliation;
use crate::record::{Ending, Entry, Event, Kind, Role, Signed, State};
use crate::watch::Sample;

pub use after::{POST_MORTEM, changelog, post_mortem, wants_post_mortem};
pub use boxes::{Answer, ItemReport, Observed};
pub use html::html;
pub use log::{log, log_name};
pub use markdown::markdown;
pub use plan::{Plan, plan_markdown, plan_text};
pub use summary::summary;
pub use timeline::{Span, StepReport, StepState};

use boxes::{observed, phase_word};
use timeline::{Clock, hold, steps};

/// A run as the filled-in checklist. Its JSON is a contract: fields may be added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The run's number.
    pub run: u32,
    /// The app's name.
    pub app: String,
    /// `deploy`, `rollback` or `rehearse`.
    pub kind: Kind,
    /// Who asked, as the system knows them.
    pub by: String,
    /// The revision or release that was asked for.
    pub asked: Option<String>,
    /// What was to be brought live, once it had a number.
    pub release: Option<Release>,
    /// The release that was live before.
    pub from: Option<ReleaseId>,
    /// The strategy, once chosen.
    pub strategy: Option<Strategy>,
    /// Why it was chosen, each a sentence.
    pub reasons: Vec<String>,
    /// How long requests were expected to wait, milliseconds.
    pub predicted_hold_ms: Option<u64>,
    /// How production is; `None` while the run is open.
    pub ending: Option<Ending>,
    /// The exit code; `None` while the run is open.
    pub exit: Option<u8>,
    /// What serves now and whether the data is safe.
    pub message: String,
    /// What stopped the run, if anything did.
    pub failure: Option<Trouble>,
    /// What stopped the undo, if anything did; the run is then open.
    pub undo_failure: Option<Trouble>,
    /// Wall clock, RFC 3339 UTC.
    pub started_at: String,
    /// Wall clock, RFC 3339 UTC; `None` while the run is open.
    pub ended_at: Option<String>,
    /// Milliseconds of the whole run; up to the last event while it is open.
    pub ms: u64,
    /// Milliseconds in which no user could be served or had to wait.
    pub hold_ms: u64,
    /// When that was.
    pub hold: Option<Span>,
    /// The steps, in the order in which they began.
    pub steps: Vec<StepReport>,
    /// Every box of the paper, in its order.
    pub items: Vec<ItemReport>,
    /// Observations that belong to no box of the paper.
    pub other: Vec<Observed>,
    /// Requests, rows and numbers, reckoned up at the end; `None` before, and when production was not touched.
    pub reconciliation: Option<Reconciliation>,
    /// Things that went wrong without changing the outcome.
    pub warnings: Vec<String>,
    /// Acknowledgements, as typed.
    pub acknowledged: Vec<String>,
    /// What was measured on the copy, once it was.
    pub rehearsal: Option<Rehearsal>,
    /// The name of the plain log beside the report.
    pub log: String,
    /// The version of the program that carried the run out.
    pub tool: String,
    /// When the commit point was, milliseconds from the start of the run; `None` when the run did not come to it.
    pub commit_ms: Option<u64>,
    /// Who signed.
    pub signatures: Vec<Signature>,
    /// Whether deployer and verifier have signed.
    pub closed: bool,
    /// Traffic around the switch.
    pub samples: Vec<Sample>,
}

/// A signature, and when it was given.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Signature {
    /// Who, as what.
    #[serde(flatten)]
    pub signed: Signed,
    /// When, RFC 3339 UTC.
    pub at: String,
}

/// What stopped the run or its undo.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trouble {
    /// The step; `None` when the run stopped between steps.
    pub step: Option<Step>,
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to type or mend next.
    pub next: String,
}

impl Trouble {
    fn of(step: Step, failure: &Failure) -> Self {
        let Failure { what, why, next, .. } = failure.clone();
        Trouble { step: Some(step), what, why, next }
    }
}

impl Report {
    /// Reads a run's events; any prefix of them is fine.
    #[must_use]
    pub fn of(entries: &[Entry]) -> Report {
        let state = State::fold(entries);
        let clock = Clock::of(entries);
        let order = state.order.as_ref();
        let decision = state.decision.as_ref();
        let steps = steps(entries, &clock);
        let hold = hold(entries, &clock, state.strategy());
        let (mut ms, mut hold_ms, mut ended_at) = (clock.last, hold.map_or(0, |h| h.ms), None);
        for entry in entries {
            if let Event::Ended { hold_ms: held, ms: took, .. } = entry.event {
                // After a take-over the last owner's figures begin at the take-over; the events know the whole.
                (ms, hold_ms) = if clock.taken_over { (clock.last, hold_ms.max(held)) } else { (took, held) };
                ended_at = Some(entry.at.clone());
            }
        }
        let mut report = Report {
            run: order.map_or(0, |o| o.run),
            app: order.map_or_else(String::new, |o| o.app.clone()),
            kind: order.map_or(Kind::Deploy, |o| o.kind),
            by: order.map_or_else(String::new, |o| o.by.clone()),
            asked: order.and_then(|o| o.asked.clone()),
            release: state.release.clone(),
            from: order.and_then(|o| o.from.clone()),
            strategy: state.strategy(),
            reasons: decision.map_or_else(Vec::new, |d| d.reasons.clone()),
            predicted_hold_ms: decision.map(|d| d.predicted_hold_ms),
            ending: state.ended.as_ref().map(|(ending, ..)| *ending),
            exit: state.ended.as_ref().map(|(_, exit, _)| *exit),
            message: state.ended.as_ref().map_or_else(|| open_message(&state), |(.., m)| m.clone()),
            failure: failure(entries),
            undo_failure: state.undo_failure.as_ref().map(|(step, f)| Trouble::of(*step, f)),
            started_at: entries.first().map_or_else(String::new, |e| e.at.clone()),
            ended_at,
            ms,
            hold_ms,
            hold,
            steps,
            items: Vec::new(),
            other: Vec::new(),
            reconciliation: state.reconciliation.clone(),
            warnings: state.warnings.clone(),
            acknowledged: state.acknowledged.clone(),
            rehearsal: state.rehearsal.clone(),
            log: log_name(entries),
            tool: order.map_or_else(String::new, |o| o.tool.clone()),
            commit_ms: entries
                .iter()
                .find(|e| matches!(e.event, Event::Committed { .. }))
                .map(|entry| clock.at(entry)),
            signatures: state
                .signatures
                .iter()
                .map(|(at, signed)| Signature { signed: signed.clone(), at: at.clone() })
                .collect(),
            closed: state.is_closed(),
            samples: charted(entries),
        };
        report.fill(observed(entries), order.is_none_or(|o| o.watch));
        report
    }

    /// The boxes of one part of the paper.
    pub(crate) fn phase(&self, phase: Phase) -> impl Iterator<Item = &ItemReport> {
        self.items.iter().filter(move |item| item.phase == phase_word(phase))
    }

    /// Who signed as this.
    #[must_use]
    pub fn signed(&self, role: Role) -> Option<&Signature> {
        self.signatures.iter().find(|signature| signature.signed.role == role)
    }

    /// The box with this id.
    #[must_use]
    pub fn item(&self, id: &str) -> Option<&ItemReport> {
        self.items.iter().find(|item| item.id == id)
    }
}

fn charted(entries: &[Entry]) -> Vec<Sample> {
    let newest = entries.iter().rev().find_map(|entry| match &entry.event {
        Event::Charted { samples } => Some(samples.clone()),
        _ => None,
    });
    newest.unwrap_or_default()
}

/// The files beside a run's journal, with their texts: all that they say stands in the journal.
#[must_use]
pub fn files(entries: &[Entry]) -> Vec<(String, String)> {
    let report = Report::of(entries);
    let json = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    vec![
        ("report.md".to_owned(), markdown(&report)),
        ("report.html".to_owned(), html(&report)),
        ("report.json".to_owned(), json),
        (log_name(entries), log(entries)),
    ]
}

/// The first failure; those of later steps stand with their steps.
fn failure(entries: &[Entry]) -> Option<Trouble> {
    let of_step = entries.iter().find_map(|entry| match &entry.event {
        Event::StepFailed { step, failure, .. } => Some(Trouble::of(*step, failure)),
        _ => None,
    });
    // A run that is refused or stopped between two steps has journaled only why it turned back.
    of_step.or_else(|| {
        entries.iter().find_map(|entry| match &entry.event {
            Event::UndoStarted { failure } => Some(Trouble {
                step: None,
                what: failure.what.clone(),
                why: failure.why.clone(),
                next: failure.next.clone(),
            }),
            _ => None,
        })
    })
}

/// What can be said of a run that has not ended.
fn open_message(state: &State) -> String {
    let release =
        state.release.as_ref().map_or_else(|| "the release".to_owned(), |r| format!("release {}", r.id));
    if let Some((step, failure)) = &state.undo_failure {
        let mut words = format!("Not resolved: the undo stopped at \"{}\" ({failure}). ", step.title());
        if failure.kind == FailureKind::Frozen {
            words += "Nothing was overwritten. ";
        }
        if state.held.is_some() && !state.undone.contains(&Step::Hold) {
            words += "The door stays shut. ";
        }
        if state.done.contains(&Step::Snapshot) {
            words += "The snapshot taken in the hold is kept. ";
        }
        return words + "Go on with `plimsoll resume`.";
    }
    let at = state.started.last().map_or("the beginning", |s| s.title());
    if state.undoing.is_some() {
        return format!(
            "Not ended: the undo is under way. If nothing runs any more: `plimsoll resume`. {at} was last."
        );
    }
    if state.committed {
        return format!(
            "Not ended: past the commit point, {release} may already take writes; last at \"{at}\". If nothing runs \
             any more: `plimsoll resume`."
        );
    }
    if state.touched() {
        return format!(
            "Not ended: production is being changed, last at \"{at}\", before the commit point. If nothing runs any \
             more: `plimsoll resume`."
        );
    }
    format!("Not ended: production has not been touched; last at \"{at}\".")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::checklist::ITEMS;

    fn all() -> Vec<(&'static str, Vec<Entry>)> {
        vec![
            ("live", sample::live()),
            ("undone", sample::undone()),
            ("refused", sample::refused()),
            ("frozen", sample::frozen()),
            ("rolled back", sample::rolled_back()),
            ("rebooted", sample::rebooted()),
            ("nothing", Vec::new()),
        ]
    }

    #[test]
    fn every_box_stands_in_every_form_of_every_run_and_of_every_prefix_of_it() {
        for (name, entries) in all() {
            for upto in 0..=entries.len() {
                let report = Report::of(&entries[..upto]);
                let (md, page) = (markdown(&report), html(&report));
                let json = serde_json::to_value(&report).unwrap();
                for (n, item) in ITEMS.iter().enumerate() {
                    assert_eq!(json["items"][n]["id"], item.id, "{name} {upto}");
                    assert!(page.contains(&format!("<li id=\"{}\">", item.id)), "{name} {upto}: {}", item.id);
                }
                assert_eq!(md.matches("\n- [").count(), ITEMS.len(), "{name} {upto}");
                assert!(summary(&report).len() <= 8 && !log(&entries[..upto]).is_empty(), "{name} {upto}");
            }
        }
    }

    #[test]
    fn what_a_committer_wrote_is_text_in_every_form() {
        let mut entries = sample::live();
        for entry in &mut entries {
            if let Event::Numbered { release } = &mut entry.event {
                release.branch = "a</style><img src=x>\u{1b}[2J\nnext".into();
            }
        }
        let report = Report::of(&entries);
        let page = html(&report);
        assert!(!page.contains("<script") && !page.contains("<img"), "markup in the page");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; *bold* | as text"));
        let md = markdown(&report);
        assert!(md.contains(r"\<script>alert('x')\</script> & \*bold\* \| as text"), "{md}");
        for text in [page, md, log(&entries), summary(&report).join("\n")] {
            assert!(!text.contains('\u{1b}') && !text.contains("\nnext"), "{text}");
        }
    }

    #[test]
    fn a_refused_run_says_why_and_that_the_database_was_not_touched() {
        let report = Report::of(&sample::refused());
        let failure = report.failure.clone().unwrap();
        assert_eq!(
            (failure.step, failure.why.as_str()),
            (None, "on a copy of the database they lost: rows:orders")
        );
        assert!(summary(&report)[3].starts_with("Data: the database was not touched; verified backup: "));
        assert_eq!(
            report.item("back.restore").unwrap().reason.as_deref(),
            Some("production was not touched")
        );
        assert!(markdown(&report).contains("**NOT LIVE: NOTHING CHANGED.** Production was not touched."));
    }

    #[test]
    fn a_frozen_run_is_open_and_says_what_to_type() {
        let report = Report::of(&sample::frozen());
        assert_eq!((report.ending, report.exit, &report.ended_at), (None, None, &None));
        assert_eq!(
            report.undo_failure.as_ref().unwrap().next,
            "plimsoll rollback --acknowledge set-aside:orders"
        );
        assert_eq!(report.failure.as_ref().unwrap().what, "Checkout process works failed");
        assert!(report.message.starts_with("Not resolved: the undo stopped at \"Migrate the database\""));
    }

    /// The names and their order, and one of each kind of thing in full.
    #[test]
    fn the_shape_of_the_json() {
        let json = serde_json::to_value(Report::of(&sample::undone())).unwrap();
        let mut shown = json.clone();
        let item =
            |id: &str| json["items"].as_array().unwrap().iter().find(|i| i["id"] == id).cloned().unwrap();
        shown["items"] = Value::Array(vec![item("backup.create"), item("verify.errors"), item("diag.post")]);
        let steps = json["steps"].as_array().unwrap();
        shown["steps"] = Value::Array(vec![steps[7].clone(), steps[steps.len() - 1].clone()]);
        insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap(), @r#"
        {
          "run": 12,
          "app": "grocery",
          "kind": "deploy",
          "by": "asha",
          "asked": "main",
          "release": {
            "id": "000012-3fa9c1b",
            "commit": "3fa9c1b07d5e4c1a9b8e6f2d1c0a9b8e7f6d5c4b",
            "branch": "main",
            "author": "Ravi Kumar",
            "subject": "Cart: keep <script>alert('x')</script> & *bold* | as text"
          },
          "from": "000011-77b0e02",
          "strategy": "hold",
          "reasons": [
            "1 pending migration(s) took 45 ms on a copy of the database"
          ],
          "predicted_hold_ms": 650,
          "ending": "undone",
          "exit": 1,
          "message": "Undone: production is as it was, no data was lost. Release 000011-77b0e02 serves. Requests waited up to 1479 ms.",
          "failure": {
            "step": "prove",
            "what": "Checkout process works failed",
            "why": "the answer was 500 instead of 303",
            "next": "mend it and deploy again; `plimsoll show` has the evidence of \"Prove the new release\""
          },
          "undo_failure": null,
          "started_at": "2026-11-23T03:48:00.000Z",
          "ended_at": "2026-11-23T03:48:21.775Z",
          "ms": 21775,
          "hold_ms": 1479,
          "hold": {
            "at_ms": 20290,
            "ms": 1477
          },
          "steps": [
            {
              "step": "snapshot",
              "title": "Take the final snapshot",
              "state": "done",
              "ms": 61,
              "at_ms": 20435,
              "undo": null,
              "why": null
            },
            {
              "step": "prove",
              "title": "Prove the new release",
              "state": "failed",
              "ms": 198,
              "at_ms": 20942,
              "undo": null,
              "why": "Checkout process works failed: the answer was 500 instead of 303"
            }
          ],
          "items": [
            {
              "id": "backup.create",
              "phase": "backup",
              "title": "Full backup: file, size, verified",
              "who": "auto",
              "answer": "answered",
              "verdict": "pass",
              "reason": null,
              "checks": [
                {
                  "id": "backup.create",
                  "name": "Full backup of shared/store.db",
                  "verdict": "pass",
                  "evidence": {
                    "bytes": 12402688,
                    "file": "backups/store.db.backup.20261123_034815",
                    "ms": 845
                  },
                  "step": "backup",
                  "at": "2026-11-23T03:48:17.190Z"
                }
              ]
            },
            {
              "id": "verify.errors",
              "phase": "verify",
              "title": "Error rate for 10 minutes; new errors",
              "who": "auto",
              "answer": "not-yet",
              "verdict": null,
              "reason": "the run did not come to \"Watch for errors\"",
              "checks": []
            },
            {
              "id": "diag.post",
              "phase": "rollback",
              "title": "Post-mortem: what, root cause, prevention",
              "who": "ask",
              "answer": "open",
              "verdict": null,
              "reason": "complete runs/000012/postmortem.md, then: plimsoll answer diag.post TEXT --by NAME",
              "checks": []
            }
          ],
          "other": [],
          "reconciliation": null,
          "warnings": [],
          "acknowledged": [
            "drop:sso_nonce"
          ],
          "rehearsal": {
            "pending": [
              {
                "version": 7,
                "description": "split_address",
                "class": "rebuild",
                "ms": 45,
                "mode": "foreign keys off",
                "work": "rebuild",
                "touched": [
                  "orders"
                ]
              }
            ],
            "migrates_itself": false,
            "migrate_ms": 45,
            "snapshot_ms": 60,
            "restore_ms": 310,
            "unacknowledged": [],
            "losses": [],
            "restart_ms": null,
            "restart_old_ms": null,
            "code_only": null,
            "disk": null
          },
          "log": "deployment_20261123_0348.log",
          "tool": "0.1.0",
          "commit_ms": null,
          "signatures": [],
          "closed": false,
          "samples": []
        }
        "#);
    }
}
