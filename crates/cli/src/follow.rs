//! A run as a person sees it: one line a step, what was observed, how it ended.

use std::time::Duration;

use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::plan::Step;
use plimsoll_core::ports::{Failure, FailureKind};
use plimsoll_core::record::{Ending, Entry, Event, exit};
use serde_json::{Value, json};

use crate::error::{Error, Kind};
use crate::ui::{Progress, Ui};
use crate::wire::Reply;

/// Shows the replies of a run as they come.
pub(crate) struct Follow<'a> {
    ui: &'a Ui,
    step: Option<Progress<'a>>,
    /// What the step observed so far, the worst first.
    checks: Vec<Check>,
    /// Everything, when somebody wants it afterwards; then no JSON is written meanwhile.
    kept: Option<Vec<Entry>>,
}

impl<'a> Follow<'a> {
    /// Nothing has come yet.
    pub(crate) fn new(ui: &'a Ui) -> Self {
        Follow { ui, step: None, checks: Vec::new(), kept: None }
    }

    /// The same, and the run's events are kept for [`Follow::kept`].
    pub(crate) fn keeping(ui: &'a Ui) -> Self {
        Follow { kept: Some(Vec::new()), ..Follow::new(ui) }
    }

    /// The events that have come.
    pub(crate) fn kept(self) -> Vec<Entry> {
        self.kept.unwrap_or_default()
    }

    /// Shows one reply. Returns the outcome when it is the last one.
    pub(crate) fn reply(&mut self, reply: Reply) -> Option<Result<(), Error>> {
        match reply {
            Reply::Entry { entry } => self.entry(&entry),
            Reply::Line { text } => self.ui.aside(&text),
            Reply::Progress { done, total, unit } => {
                if let Some(step) = &self.step {
                    step.at(done, total, &unit);
                }
            }
            Reply::Outcome { run, ending, exit, message, failure } => {
                self.step = None;
                return Some(self.outcome(run, ending, exit, &message, failure));
            }
            Reply::Ask { .. } | Reply::Status { .. } => {}
        }
        None
    }

    fn entry(&mut self, entry: &Entry) {
        match &mut self.kept {
            Some(kept) => kept.push(entry.clone()),
            None if self.ui.is_json() => self.ui.object(entry),
            None => {}
        }
        match &entry.event {
            Event::Started { order } => {
                self.ui.say(&format!("{} {} of {}", order.kind.word(), order.run, order.app));
            }
            Event::Numbered { release } => {
                self.ui.aside(&format!("{}: {} ({})", release.id, release.subject, release.author));
            }
            Event::Planned { decision, .. } => {
                let strategy = decision.strategy.word();
                self.ui.say(&format!("strategy {strategy}: {}", decision.reasons.join("; ")));
            }
            Event::StepStarted { step } => self.begin(step.title().to_owned()),
            Event::Checked { check, .. } => self.checks.push(check.clone()),
            Event::StepDone { step, ms } => self.done(*step, Verdict::Pass, *ms, None),
            Event::StepFailed { step, failure, ms } => self.done(*step, Verdict::Fail, *ms, Some(failure)),
            // A rehearsal touches nothing: taking away what it built is no undo to be told of.
            Event::UndoStarted { .. } | Event::UndoingStep { .. } if self.kept.is_some() => {}
            Event::UndoStarted { failure } => {
                self.ui.say(&format!("undoing, because {failure}"));
            }
            Event::UndoingStep { step } => {
                if let Some(title) = step.undo_title() {
                    self.begin(format!("Undo: {title}"));
                }
            }
            Event::UndoneStep { step, ms } => self.done(*step, Verdict::Pass, *ms, None),
            Event::UndoFailed { step, failure } => self.done(*step, Verdict::Fail, 0, Some(failure)),
            Event::TakenOver { ended, .. } => {
                self.ui.say("taking over an interrupted run");
                for what in ended {
                    self.ui.aside(what);
                }
            }
            Event::Warned { what } => self.ui.warn(what),
            Event::Locked { why } => self.ui.warn(&format!("the app is locked: {why}")),
            Event::Told { .. }
            | Event::Watched { .. }
            | Event::SpotChecked { .. }
            | Event::TakenBack { .. }
            | Event::Committed { .. }
            | Event::Held { .. }
            | Event::Rehearsed { .. }
            | Event::Acknowledged { .. }
            | Event::Reconciled { .. }
            | Event::Answered { .. }
            | Event::Noted { .. }
            | Event::Charted { .. }
            | Event::Signed { .. }
            | Event::Ended { .. } => {}
        }
    }

    fn begin(&mut self, title: String) {
        self.checks.clear();
        self.step = Some(self.ui.progress(&title));
    }

    fn done(&mut self, step: Step, verdict: Verdict, ms: u64, failure: Option<&Failure>) {
        let Some(line) = self.step.take() else { return };
        let note = match failure {
            Some(failure) => failure.what.clone(),
            None => note(step, &self.checks),
        };
        line.done_after(verdict, Duration::from_millis(ms), &note);
        for check in self.checks.drain(..) {
            // What passed is in the report; a person at the terminal needs what did not.
            if matches!(check.verdict, Verdict::Fail | Verdict::Unknown) {
                self.ui.observed(check.verdict, &check.name, check.why());
            }
        }
    }

    fn outcome(
        &self,
        run: Option<u32>,
        ending: Option<Ending>,
        exit: u8,
        message: &str,
        failure: Option<Failure>,
    ) -> Result<(), Error> {
        if self.ui.is_json() && self.kept.is_none() {
            let ending = ending.map(Ending::word);
            self.ui.object(&json!({
                "event": "outcome", "run": run, "ending": ending, "exit": exit, "message": message,
                "failure": failure,
            }));
        }
        match failure {
            None => {
                self.ui.say(message);
                Ok(())
            }
            Some(failure) => Err(error(exit, message, failure)),
        }
    }
}

/// The error that a run's failure is for the command that asked for it.
pub(crate) fn error(exit: u8, message: &str, failure: Failure) -> Error {
    let kind = match exit {
        exit::FAILED => Kind::Failed,
        exit::USAGE => Kind::Usage,
        exit::BLOCKED => Kind::Blocked,
        exit::UNRESOLVED => Kind::Unresolved,
        exit::LIVE_BUT => Kind::Unfinished,
        exit::ROLLED_BACK => Kind::RolledBack,
        _ => Kind::Bug,
    };
    Error::new(kind, failure.what).why(failure.why).state(message).next(failure.next)
}

/// A failure outside a run, as an error; production is as it was.
pub(crate) fn plain(failure: Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::Usage => Kind::Usage,
        FailureKind::Blocked => Kind::Blocked,
        FailureKind::Frozen => Kind::Unresolved,
        FailureKind::Bug => Kind::Bug,
        FailureKind::Failed | FailureKind::Interrupted => Kind::Failed,
    };
    Error::new(kind, failure.what).why(failure.why).next(failure.next)
}

/// The few words beside a finished step.
fn note(step: Step, checks: &[Check]) -> String {
    let text = |name: &str| -> Option<String> {
        checks.iter().find_map(|check| match check.evidence.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        })
    };
    let joined = |names: &[(&str, &str)]| {
        let parts = names.iter().filter_map(|(name, label)| Some(format!("{label}{}", text(name)?)));
        parts.collect::<Vec<_>>().join(", ")
    };
    match step {
        Step::Fetch => joined(&[("branch", ""), ("commit", "")]),
        Step::Backup => joined(&[("file", "")]),
        Step::Hold => joined(&[("in_flight", "in flight: ")]),
        Step::Start => match (text("startup_ms"), text("pid")) {
            (Some(ms), Some(pid)) => format!("healthy after {ms} ms, pid {pid}"),
            _ => joined(&[("pid", "pid ")]),
        },
        Step::Rehearse => {
            let new =
                checks.iter().any(|c| c.verdict == Verdict::Pass && c.evidence.contains_key("startup_ms"));
            match (new, text("code_only").as_deref()) {
                (true, Some("proven")) => "both releases work on it".to_owned(),
                (true, Some("refuted")) => "the new release works on it, the old one does not".to_owned(),
                (true, _) => "the new release works on it".to_owned(),
                (false, _) => String::new(),
            }
        }
        Step::Open => joined(&[("waited", "requests that waited: "), ("turned_away", "turned away: ")]),
        Step::Prove => {
            let passed = checks.iter().filter(|c| c.verdict == Verdict::Pass).count();
            let skipped = checks.iter().filter(|c| c.verdict == Verdict::Skipped).count();
            match skipped {
                0 => format!("{passed} checks passed"),
                _ => format!("{passed} checks passed, {skipped} do not apply"),
            }
        }
        _ => String::new(),
    }
}
