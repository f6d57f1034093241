//! What was done: events, and the state that is folded from them. The state is never stored beside the events.

use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::notify::{Delivery, Told};
use crate::plan::{Decision, Rehearsal, Release, ReleaseId, Step, Strategy};
use crate::ports::{Failure, FailureKind, Moment};
use crate::reconcile::Reconciliation;
use crate::watch::Sample;

/// The version of the record format written by this program; see `docs/record-format.md`.
pub const FORMAT: u32 = 1;

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// From 0, without gaps.
    pub seq: u64,
    /// Wall clock, RFC 3339 UTC.
    pub at: String,
    /// Steady clock, milliseconds; comparable within one boot.
    pub moment: Moment,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What kind of run it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Brings a new release live.
    Deploy,
    /// Brings an earlier release live again.
    Rollback,
    /// Tries a release on a copy and says what a deployment would do; touches nothing of production.
    Rehearse,
}

impl Kind {
    /// The word used in reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Deploy => "deploy",
            Kind::Rollback => "rollback",
            Kind::Rehearse => "rehearse",
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Deploy or rollback.
    pub kind: Kind,
    /// The app's name.
    pub app: String,
    /// The run's number.
    pub run: u32,
    /// Who asked, as the system knows them.
    pub by: String,
    /// The revision or release that was asked for.
    pub asked: Option<String>,
    /// The release that is live now; `None` before the first.
    pub from: Option<ReleaseId>,
    /// For a rollback: the release to bring back.
    pub to: Option<Release>,
    /// Acknowledgements, as typed.
    #[serde(default)]
    pub acknowledged: Vec<String>,
    /// Whether to look at errors after the switch.
    pub watch: bool,
    /// Why the app may be deployed again although it was locked; `None` when nobody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlock: Option<String>,
    /// Version of the program.
    pub tool: String,
    /// The record format, [`FORMAT`].
    pub format: u32,
    /// Boot id; a [`Moment`] of another boot means nothing.
    pub boot: String,
}

/// Exactly one of these ends a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Production was never touched.
    Unchanged,
    /// Production was touched and is as it was before.
    Undone,
    /// The new release serves.
    Live,
    /// The earlier release serves again.
    RolledBack,
}

impl Ending {
    /// The word used in reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Ending::Unchanged => "unchanged",
            Ending::Undone => "undone",
            Ending::Live => "live",
            Ending::RolledBack => "rolled-back",
        }
    }
}

/// What a person answered to a question of the checklist.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The id of the box, one of [`crate::checklist`] that a person fills in.
    pub item: String,
    /// The answer.
    pub text: String,
    /// The name that the person gave.
    pub by: String,
    /// Who that was for the system: an account, or how they came in.
    pub account: String,
    /// The run in which it was given, when it was brought along from an earlier run of the same commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u32>,
}

/// As what a person signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever deployed.
    Deployer,
    /// Whoever verified that it went well.
    Verifier,
}

impl Role {
    /// The word used in commands, reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Deployer => "deployer",
            Role::Verifier => "verifier",
        }
    }
}

/// A signature below a run's report.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Signed {
    /// As what.
    pub role: Role,
    /// The name that the person gave.
    pub name: String,
    /// Issues and their resolution, as they were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who that was for the system: an account, or how they came in.
    pub account: String,
}

/// Something that happened in a run. Intent is journaled and synced before an act, the outcome after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant, reason = "events are made one at a time and written at once")]
pub enum Event {
    /// The first event of every run.
    Started {
        /// What was asked for.
        order: Order,
    },
    /// The release has a number.
    Numbered {
        /// The release.
        release: Release,
    },
    /// What the rehearsal measured.
    Rehearsed {
        /// Its figures.
        rehearsal: Rehearsal,
    },
    /// The strategy chosen from the rehearsal.
    Planned {
        /// What was chosen and why.
        decision: Decision,
    },
    /// A step begins: the intent.
    StepStarted {
        /// The step.
        step: Step,
    },
    /// Requests wait from here to the deadline, undo included.
    Held {
        /// When the hold ends at the latest.
        until: Moment,
        /// The boot that the moment belongs to.
        boot: String,
    },
    /// One observation.
    Checked {
        /// The step that looked.
        step: Step,
        /// What was seen.
        check: Check,
    },
    /// A step is done.
    StepDone {
        /// The step.
        step: Step,
        /// How long it took, milliseconds.
        ms: u64,
    },
    /// A step failed; what comes next depends on the commit point.
    StepFailed {
        /// The step.
        step: Step,
        /// Why.
        failure: Failure,
        /// How long it took, milliseconds.
        ms: u64,
    },
    /// The commit point: from here the release may take writes, and there is no undo, only a rollback.
    Committed {
        /// The release.
        release: ReleaseId,
    },
    /// The undo begins.
    UndoStarted {
        /// Why.
        failure: Failure,
    },
    /// A step is being undone: the intent.
    UndoingStep {
        /// The step.
        step: Step,
    },
    /// A step is undone.
    UndoneStep {
        /// The step.
        step: Step,
        /// How long it took, milliseconds.
        ms: u64,
    },
    /// Undoing a step failed; the run stays open until `plimsoll resume`.
    UndoFailed {
        /// The step.
        step: Step,
        /// Why.
        failure: Failure,
    },
    /// A person allowed what the run was waiting for.
    Acknowledged {
        /// The words, as typed.
        what: Vec<String>,
        /// Who.
        by: String,
    },
    /// Another process took over a run whose owner had died.
    TakenOver {
        /// Its boot id.
        boot: String,
        /// What it found and ended first.
        ended: Vec<String>,
    },
    /// The accounts of the run, at its end.
    Reconciled {
        /// Requests, rows and numbers.
        reconciliation: Reconciliation,
    },
    /// Something went wrong that does not change the outcome.
    Warned {
        /// What.
        what: String,
    },
    /// Somebody was told of the run, or could not be. May follow the end.
    Told {
        /// The message and what became of it.
        told: Told,
    },
    /// What `serve` saw of the live release after the run had ended: the first hour, a trend, something bad.
    Watched {
        /// What was seen.
        check: Check,
    },
    /// A spot check, after the run had ended.
    SpotChecked {
        /// When it was due, milliseconds after the commit point.
        spot_ms: u64,
        /// How much later it was made, milliseconds: a machine that was off makes it when it is back.
        late_ms: u64,
        /// The box of the paper: all of it taken together.
        check: Check,
        /// Every check that was made.
        checks: Vec<Check>,
    },
    /// What was seen around the run and belongs to none of its steps: contacts, clean-up, what is due next. Follows the end.
    Noted {
        /// What was seen.
        checks: Vec<Check>,
    },
    /// What went through the door around the switch, thinned out for a picture; the newest counts. Follows the end.
    Charted {
        /// In the order of time.
        samples: Vec<Sample>,
    },
    /// The app is locked: no deployment until somebody says why with `--unlock`. Follows the end.
    Locked {
        /// Why.
        why: String,
    },
    /// The release was taken back after the commit point by another run, which has ended well. Follows the end.
    TakenBack {
        /// The run that brought the earlier release back.
        run: u32,
        /// Why.
        why: String,
    },
    /// A person answered a question of the checklist. May come after the end of the run.
    Answered {
        /// See [`Answered`].
        #[serde(flatten)]
        answer: Answered,
    },
    /// A person signed the run. May come after the end of the run.
    Signed {
        /// See [`Signed`].
        #[serde(flatten)]
        signature: Signed,
    },
    /// The last event of the run itself; what is learnt of it later follows.
    Ended {
        /// How production is now.
        ending: Ending,
        /// The exit code of the command that asked.
        exit: u8,
        /// One sentence for a person.
        message: String,
        /// Milliseconds in which no user could be served or had to wait.
        hold_ms: u64,
        /// Milliseconds of the whole run.
        ms: u64,
    },
}

/// The exit codes of the contract.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// A check failed or the run was interrupted and undone; production is as it was.
    pub const FAILED: u8 = 1;
    /// Usage, configuration, or `serve` is not there.
    pub const USAGE: u8 = 2;
    /// Blocked until a person does something; nothing changed.
    pub const BLOCKED: u8 = 3;
    /// Interrupted and not yet resolved.
    pub const UNRESOLVED: u8 = 4;
    /// Live, but a later step failed.
    pub const LIVE_BUT: u8 = 5;
    /// Rolled back after the commit point, or a rollback with values set aside.
    pub const ROLLED_BACK: u8 = 6;
    /// A bug.
    pub const BUG: u8 = 70;
}

/// The exit code for a run that ended so, because of `failure` if there was one. The only place that decides it
/// for runs.
#[must_use]
pub fn exit_code(kind: Kind, ending: Ending, failure: Option<&Failure>) -> u8 {
    let Some(failure) = failure else { return exit::DONE };
    match (ending, failure.kind) {
        (Ending::RolledBack, _) if kind == Kind::Deploy => exit::ROLLED_BACK,
        (Ending::Live | Ending::RolledBack, _) => exit::LIVE_BUT,
        (_, FailureKind::Blocked) => exit::BLOCKED,
        (_, FailureKind::Usage) => exit::USAGE,
        (_, FailureKind::Frozen) => exit::UNRESOLVED,
        (_, FailureKind::Bug) => exit::BUG,
        (_, FailureKind::Failed | FailureKind::Interrupted) => exit::FAILED,
    }
}

/// What the events of a run say about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// What was asked for.
    pub order: Option<Order>,
    /// The release, once it has a number.
    pub release: Option<Release>,
    /// The rehearsal, once it was made.
    pub rehearsal: Option<Rehearsal>,
    /// The strategy, once chosen.
    pub decision: Option<Decision>,
    /// Steps that began, in order.
    pub started: Vec<Step>,
    /// Steps that are done.
    pub done: Vec<Step>,
    /// The failure that stopped the run forward.
    pub failure: Option<(Step, Failure)>,
    /// Why an undo began.
    pub undoing: Option<Failure>,
    /// Steps that are undone.
    pub undone: Vec<Step>,
    /// The undo that failed last, if none succeeded since.
    pub undo_failure: Option<(Step, Failure)>,
    /// Whether the commit point is passed.
    pub committed: bool,
    /// When the run began.
    pub began: Option<(Moment, String)>,
    /// When the hold began and ends at the latest.
    pub held: Option<(Moment, Moment)>,
    /// How the run ended.
    pub ended: Option<(Ending, u8, String)>,
    /// Every observation, in order.
    pub checks: Vec<(Step, Check)>,
    /// Acknowledgements, as typed, those given later included.
    pub acknowledged: Vec<String>,
    /// The accounts of the run.
    pub reconciliation: Option<Reconciliation>,
    /// Things that went wrong without changing the outcome.
    pub warnings: Vec<String>,
    /// Messages, each as it stands now.
    pub told: Vec<Told>,
    /// What was seen after the end, in order.
    pub watched: Vec<Check>,
    /// Spots that were checked, milliseconds after the commit point.
    pub spots: Vec<u64>,
    /// Why the app is locked since this run.
    pub locked: Option<String>,
    /// The run that took this one back, and why.
    pub taken_back: Option<(u32, String)>,
    /// What people answered, in order, with the time (RFC 3339 UTC).
    pub answers: Vec<(String, Answered)>,
    /// Who signed, in order, with the time (RFC 3339 UTC).
    pub signatures: Vec<(String, Signed)>,
    /// The next sequence number.
    pub next_seq: u64,
}

impl State {
    /// Folds events into a state. Any prefix of a run's events is fine.
    pub fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> State {
        let mut state = State::default();
        for entry in entries {
            state.apply(entry);
        }
        state
    }

    /// Folds one more event in.
    pub fn apply(&mut self, entry: &Entry) {
        self.next_seq = entry.seq + 1;
        match &entry.event {
            Event::Started { order } => {
                self.acknowledged.clone_from(&order.acknowledged);
                self.release.clone_from(&order.to);
                self.began = Some((entry.moment, order.boot.clone()));
                self.order = Some(order.clone());
            }
            Event::Numbered { release } => self.release = Some(release.clone()),
            Event::Rehearsed { rehearsal } => self.rehearsal = Some(rehearsal.clone()),
            Event::Planned { decision } => self.decision = Some(decision.clone()),
            Event::StepStarted { step } => self.started.push(*step),
            Event::Held { until, .. } => self.held = Some((entry.moment, *until)),
            Event::Checked { step, check } => self.checks.push((*step, check.clone())),
            Event::StepDone { step, .. } => self.done.push(*step),
            Event::StepFailed { step, failure, .. } => self.failure = Some((*step, failure.clone())),
            Event::Committed { .. } => self.committed = true,
            Event::UndoStarted { failure } => self.undoing = Some(failure.clone()),
            Event::UndoneStep { step, .. } => {
                self.undone.push(*step);
                self.undo_failure = None;
            }
            Event::UndoFailed { step, failure } => self.undo_failure = Some((*step, failure.clone())),
            Event::Acknowledged { what, .. } => self.acknowledged.extend(what.iter().cloned()),
            Event::Reconciled { reconciliation } => self.reconciliation = Some(reconciliation.clone()),
            Event::Warned { what } => self.warnings.push(what.clone()),
            Event::Told { told } => {
                self.told.retain(|earlier| earlier.id != told.id);
                self.told.push(told.clone());
                if told.delivery == Delivery::Failed {
                    let (group, way, why) = (&told.group, told.way.word(), &told.why);
                    self.warnings.push(format!("{group} could not be told by {way}: {why}"));
                }
            }
            Event::Watched { check } => self.watched.push(check.clone()),
            Event::SpotChecked { spot_ms, .. } => self.spots.push(*spot_ms),
            Event::Locked { why } => self.locked = Some(why.clone()),
            Event::TakenBack { run, why } => {
                let message = format!("Rolled back by run {run}: {why}");
                self.ended = Some((Ending::RolledBack, exit::ROLLED_BACK, message));
                self.taken_back = Some((*run, why.clone()));
            }
            Event::Answered { answer } => self.answers.push((entry.at.clone(), answer.clone())),
            Event::Signed { signature } => self.signatures.push((entry.at.clone(), signature.clone())),
            Event::Ended { ending, exit, message, .. } => {
                self.ended = Some((*ending, *exit, message.clone()));
            }
            Event::UndoingStep { .. } | Event::TakenOver { .. } => {}
            Event::Noted { .. } | Event::Charted { .. } => {}
        }
    }

    /// Whether the run is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// Who signed as this, with the time.
    #[must_use]
    pub fn signed(&self, role: Role) -> Option<&(String, Signed)> {
        self.signatures.iter().find(|(_, signature)| signature.role == role)
    }

    /// Whether deployer and verifier have signed: nothing is added to the record any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.signed(Role::Deployer).is_some() && self.signed(Role::Verifier).is_some()
    }

    /// The last answer to a question, with the time.
    #[must_use]
    pub fn answer(&self, item: &str) -> Option<&(String, Answered)> {
        self.answers.iter().rev().find(|(_, answer)| answer.item == item)
    }

    /// The strategy, once chosen.
    #[must_use]
    pub fn strategy(&self) -> Option<Strategy> {
        self.decision.as_ref().map(|d| d.strategy)
    }

    /// Whether a step that touches production has begun.
    #[must_use]
    pub fn touched(&self) -> bool {
        self.started.iter().any(|s| !Step::PREPARATION.contains(s))
    }

    /// How many values a rollback could not carry over and has written to a file.
    #[must_use]
    pub fn set_aside(&self) -> u64 {
        let rows =
            self.checks.iter().filter(|(step, check)| *step == Step::Migrate && check.id == "back.rows");
        rows.filter_map(|(_, check)| check.evidence.get("set_aside")?.as_u64()).sum()
    }

    /// What a rollback did with the data, in one clause.
    #[must_use]
    pub fn carried(&self) -> Option<String> {
        let rows =
            self.checks.iter().filter(|(step, check)| *step == Step::Migrate && check.id == "back.rows");
        rows.filter_map(|(_, check)| check.evidence.get("in_words")?.as_str().map(str::to_owned)).next_back()
    }

    /// The steps to undo, last first: begun, not undone yet.
    #[must_use]
    pub fn to_undo(&self) -> Vec<Step> {
        self.started.iter().rev().copied().filter(|s| !self.undone.contains(s)).collect()
    }

    /// After the commit point: the steps still to do, in order.
    #[must_use]
    pub fn to_finish(&self) -> Vec<Step> {
        let Some(strategy) = self.strategy() else { return Vec::new() };
        let steps = strategy.steps();
        let after = steps.iter().position(|s| *s == Step::Commit).map_or(0, |at| at + 1);
        steps[after..].iter().copied().filter(|s| !self.done.contains(s)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, event: Event) -> Entry {
        Entry { seq, at: "2026-01-01T00:00:00.000Z".into(), moment: Moment(seq), event }
    }

    #[test]
    fn what_follows_the_end_changes_what_became_of_the_run_and_not_that_it_is_over() {
        let ended = Event::Ended {
            ending: Ending::Live,
            exit: exit::LIVE_BUT,
            message: "Live, but".into(),
            hold_ms: 0,
            ms: 9,
        };
        let told = |delivery, why: &str| Event::Told {
            told: Told {
                id: "12-done-team-mail".into(),
                group: "team".into(),
                way: crate::notify::Way::Mail,
                to: "a@example.com".into(),
                occasion: crate::notify::Occasion::Done,
                delivery,
                attempts: 1,
                why: why.into(),
            },
        };
        let mut entries = vec![entry(0, ended), entry(1, told(Delivery::Queued, "not yet"))];
        assert!(State::fold(&entries).warnings.is_empty(), "what is queued may still arrive");
        entries.push(entry(2, told(Delivery::Failed, "refused")));
        entries.push(entry(3, Event::Locked { why: "errors".into() }));
        entries.push(entry(4, Event::TakenBack { run: 13, why: "errors".into() }));
        let state = State::fold(&entries);
        assert!(state.is_over());
        assert_eq!((state.told.len(), state.warnings.len(), state.next_seq), (1, 1, 5));
        assert_eq!(state.locked.as_deref(), Some("errors"));
        let (ending, exit, message) = state.ended.unwrap();
        assert_eq!((ending, exit), (Ending::RolledBack, exit::ROLLED_BACK));
        assert_eq!(message, "Rolled back by run 13: errors");
    }
}
