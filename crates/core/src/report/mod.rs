//! A record as the filled-in checklist: as a value (and so as JSON), Markdown, HTML, a plain log, a few lines.
//!
//! [`Report::of`] is the only reader of the events; the others show a [`Report`]. What no step observed is said to
//! be unobserved: a box is ticked by a check or by a journaled outcome, never by assumption.

mod evidence;
mod html;
mod log;
mod markdown;
#[cfg(test)]
mod sample;
mod summary;

use serde::Serialize;

use crate::check::{Check, Verdict};
use crate::checklist::{ITEMS, Phase, Who};
use crate::plan::{Rehearsal, Release, ReleaseId, Step, Strategy};
use crate::ports::{Failure, FailureKind};
use crate::record::{Ending, Entry, Event, Kind, State};

pub use html::html;
pub use log::{log, log_name};
pub use markdown::markdown;
pub use summary::summary;

/// The paper promises a rollback within five minutes.
const ROLLBACK_LIMIT_MS: u64 = 300_000;

/// A run as the filled-in checklist. Its JSON is a contract: fields may be added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The run's number.
    pub run: u32,
    /// The app's name.
    pub app: String,
    /// `deploy` or `rollback`.
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
    /// Things that went wrong without changing the outcome.
    pub warnings: Vec<String>,
    /// Acknowledgements, as typed.
    pub acknowledged: Vec<String>,
    /// What was measured on the copy, once it was.
    pub rehearsal: Option<Rehearsal>,
    /// The name of the plain log beside the report.
    pub log: String,
}

/// A stretch of time within the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Span {
    /// Milliseconds from the start of the run.
    pub at_ms: u64,
    /// How long, milliseconds.
    pub ms: u64,
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

/// How a step stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// It was done.
    Done,
    /// It failed; `undo_ms` says whether what it had done was undone.
    Failed,
    /// It was done and then undone.
    Undone,
    /// It began, and nothing is recorded of its end.
    Running,
}

impl StepState {
    /// The word used in reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            StepState::Done => "done",
            StepState::Failed => "failed",
            StepState::Undone => "undone",
            StepState::Running => "running",
        }
    }
}

/// One step of the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The step.
    pub step: Step,
    /// What a person reads.
    pub title: &'static str,
    /// How it stands.
    pub state: StepState,
    /// How long it took, milliseconds; `None` while it runs.
    pub ms: Option<u64>,
    /// When it began, milliseconds from the start of the run.
    pub at_ms: u64,
    /// When it was undone and how long that took; only for steps that leave something to undo.
    pub undo: Option<Span>,
    /// Why it failed.
    pub why: Option<String>,
}

/// Whether a box is filled in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// There are observations.
    Answered,
    /// Only a person can know, and nobody has answered.
    Open,
    /// Nothing looked in this run.
    NotYet,
    /// It does not apply to this run, with the reason.
    NotNeeded,
}

/// One box of the paper, filled in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemReport {
    /// The id in [`crate::checklist`].
    pub id: &'static str,
    /// `pre`, `backup`, `deploy`, `verify`, `watch`, `rollback` or `after`.
    pub phase: &'static str,
    /// The words of the box.
    pub title: &'static str,
    /// `auto`, `ask` or `both`.
    pub who: &'static str,
    /// Whether it is filled in.
    pub answer: Answer,
    /// All its checks taken together; `None` without any.
    pub verdict: Option<Verdict>,
    /// Why it is not filled in, where that is known.
    pub reason: Option<String>,
    /// What was seen.
    pub checks: Vec<Observed>,
}

/// A check, and where in the run it was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Observed {
    /// What was seen.
    #[serde(flatten)]
    pub check: Check,
    /// The step that looked; `None` when it follows from the run's events.
    pub step: Option<Step>,
    /// When it was recorded, RFC 3339 UTC.
    pub at: String,
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
            warnings: state.warnings.clone(),
            acknowledged: state.acknowledged.clone(),
            rehearsal: state.rehearsal.clone(),
            log: log_name(entries),
        };
        report.fill(observed(entries), order.is_none_or(|o| o.watch));
        report
    }

    /// The boxes of one part of the paper.
    pub(crate) fn phase(&self, phase: Phase) -> impl Iterator<Item = &ItemReport> {
        self.items.iter().filter(move |item| item.phase == phase_word(phase))
    }

    /// The box with this id.
    #[must_use]
    pub fn item(&self, id: &str) -> Option<&ItemReport> {
        self.items.iter().find(|item| item.id == id)
    }

    /// Puts the observations into their boxes and gives every box its answer.
    fn fill(&mut self, mut seen: Vec<Observed>, watch: bool) {
        self.derive(&mut seen);
        for item in ITEMS {
            let (checks, rest) = seen.into_iter().partition::<Vec<_>, _>(|o| o.check.id == item.id);
            seen = rest;
            let (answer, reason) = match (checks.is_empty(), self.not_needed(item.id), item.who) {
                (false, ..) => (Answer::Answered, None),
                (_, Some(reason), _) => (Answer::NotNeeded, Some(reason.to_owned())),
                (.., Who::Ask) => (Answer::Open, None),
                (.., Who::Auto | Who::Both) => (Answer::NotYet, self.not_looked(item.id, watch)),
            };
            self.items.push(ItemReport {
                id: item.id,
                phase: phase_word(item.phase),
                title: item.title,
                who: who_word(item.who),
                answer,
                verdict: combined(checks.iter().map(|o| o.check.verdict)),
                reason,
                checks,
            });
        }
        self.other = seen;
    }

    /// What the events themselves observed: outcomes that were journaled, and the clock.
    fn derive(&self, seen: &mut Vec<Observed>) {
        let at = self.ended_at.clone().unwrap_or_default();
        let mut add = |check| seen.push(Observed { check, step: None, at: at.clone() });
        let switch = self.steps.iter().find(|s| s.step == Step::Switch);
        let back_to = match (self.kind, switch) {
            (Kind::Rollback, Some(s)) if s.state == StepState::Done => self.release.as_ref().map(|r| &r.id),
            (Kind::Deploy, Some(s)) if s.undo.is_some() => self.from.as_ref(),
            _ => None,
        };
        if let Some(id) = back_to {
            add(Check::pass("back.code", "The earlier release is current again")
                .with("release", id.0.clone()));
        }
        let first_undo = self.steps.iter().filter_map(|s| s.undo).map(|u| u.at_ms).min();
        let took = match (self.ending, self.kind, first_undo) {
            (Some(Ending::RolledBack), Kind::Rollback, _) => Some(self.ms),
            (Some(Ending::Undone | Ending::RolledBack), Kind::Deploy, Some(at)) => {
                Some(self.ms.saturating_sub(at))
            }
            _ => None,
        };
        if let Some(ms) = took {
            let verdict = if ms < ROLLBACK_LIMIT_MS { Verdict::Pass } else { Verdict::Fail };
            let mut check = Check::new("back.time", "Back within 5 minutes", verdict)
                .with("ms", ms)
                .with("unavailable_ms", self.hold_ms);
            if verdict == Verdict::Fail {
                check = check.with("why", "it took 5 minutes or longer");
            }
            add(check);
        }
        if self.kind == Kind::Rollback {
            let verdicts: Vec<Verdict> =
                seen.iter().filter(|o| o.check.id.starts_with("verify.")).map(|o| o.check.verdict).collect();
            if let Some(verdict) = combined(verdicts.iter().copied()) {
                let count = |wanted| verdicts.iter().filter(|v| **v == wanted).count();
                let check =
                    Check::new("back.verify", "The checks under Verification, taken together", verdict)
                        .with("passed", count(Verdict::Pass))
                        .with("failed", count(Verdict::Fail))
                        .with("unknown", count(Verdict::Unknown));
                seen.push(Observed { check, step: None, at });
            }
        }
    }

    fn began(&self, step: Step) -> bool {
        self.steps.iter().any(|s| s.step == step)
    }

    /// Why a box without observations need not be filled in in this run.
    fn not_needed(&self, id: &str) -> Option<&'static str> {
        let well = self.exit == Some(0);
        match (self.ending?, self.kind) {
            (_, Kind::Rollback) if id.starts_with("deploy.") => {
                Some("this run is a rollback: see \"Rollback and diagnosis\"")
            }
            (Ending::Live, _) if well && (id.starts_with("back.") || id.starts_with("diag.")) => {
                Some("the deployment went well")
            }
            (Ending::RolledBack, Kind::Rollback)
                if matches!(id, "back.restore" | "back.rows") && !self.began(Step::Migrate) =>
            {
                Some("the earlier release took the database as it is")
            }
            (Ending::RolledBack, Kind::Rollback) if well && id.starts_with("diag.") => {
                Some("the rollback went well; diagnose the deployment that it took back")
            }
            (Ending::Unchanged, _) if id.starts_with("back.") => Some("production was not touched"),
            (Ending::Undone, _) => match id {
                "back.stop" if !self.began(Step::Start) => Some("the new release had not been started"),
                "back.restore" | "back.rows" if !self.began(Step::Migrate) => {
                    Some("the database had not been changed")
                }
                "back.code" if !self.began(Step::Switch) => Some("the code had not been switched"),
                _ => None,
            },
            (Ending::Live, _) if id == "deploy.migrate" && self.no_migration() => {
                Some("no migration was pending")
            }
            _ => None,
        }
    }

    fn no_migration(&self) -> bool {
        !self.began(Step::Migrate)
            && self.rehearsal.as_ref().is_some_and(|r| r.pending.is_empty() && !r.migrates_itself)
    }

    /// Why nothing looked, where that is known.
    fn not_looked(&self, id: &str, watch: bool) -> Option<String> {
        if id == "after.archive" {
            return Some(format!("the log's name is {}", self.log));
        }
        let step = match id {
            "deploy.pull" => Step::Fetch,
            "deploy.install" => Step::Build,
            "backup.create" | "backup.verify" | "backup.counts" | "backup.record" => Step::Backup,
            "pre.staging" | "pre.rollback" => Step::Rehearse,
            "deploy.migrate" => Step::Migrate,
            "deploy.restart" => Step::Start,
            "verify.script" | "verify.counts" | "verify.versions" | "verify.smoke" => Step::Prove,
            "verify.errors" if !watch => return Some("--no-watch was asked for".to_owned()),
            "verify.errors" => Step::Watch,
            _ => return None,
        };
        (!self.began(step)).then(|| match self.ending {
            Some(_) => format!("the run did not come to \"{}\"", step.title()),
            None => format!("the run has not come to \"{}\"", step.title()),
        })
    }
}

/// Where an observation belongs: what a rollback or an undo stops and starts fills in the boxes of the rollback.
fn observed(entries: &[Entry]) -> Vec<Observed> {
    let mut back = false;
    let mut seen = Vec::new();
    for entry in entries {
        match &entry.event {
            Event::Started { order } => back = order.kind == Kind::Rollback,
            Event::UndoStarted { .. } => back = true,
            Event::Checked { step, check } => {
                let mut check = check.clone();
                if back && matches!(check.id.as_str(), "deploy.stop" | "deploy.restart") {
                    check.id = check.id.replace("deploy.", "back.");
                }
                seen.push(Observed { check, step: Some(*step), at: entry.at.clone() });
            }
            _ => {}
        }
    }
    seen
}

/// Fail before unknown before pass before skipped; `None` of nothing.
fn combined(verdicts: impl Iterator<Item = Verdict>) -> Option<Verdict> {
    verdicts.max_by_key(|v| match v {
        Verdict::Fail => 3,
        Verdict::Unknown => 2,
        Verdict::Pass => 1,
        Verdict::Skipped => 0,
    })
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
            Event::UndoStarted { why } => {
                let (what, why) = why.split_once(": ").unwrap_or((why, ""));
                Some(Trouble { step: None, what: what.into(), why: why.into(), next: String::new() })
            }
            _ => None,
        })
    })
}

fn steps(entries: &[Entry], clock: &Clock) -> Vec<StepReport> {
    let mut steps: Vec<StepReport> = Vec::new();
    let mut undoing = 0;
    for entry in entries {
        let now = clock.at(entry);
        let mut with = |step: Step, change: &dyn Fn(&mut StepReport)| {
            steps.iter_mut().filter(|s| s.step == step).for_each(change);
        };
        match &entry.event {
            Event::StepStarted { step } => {
                // The next owner of the run may begin a step again.
                steps.retain(|s| s.step != *step);
                steps.push(StepReport {
                    step: *step,
                    title: step.title(),
                    state: StepState::Running,
                    ms: None,
                    at_ms: now,
                    undo: None,
                    why: None,
                });
            }
            Event::StepDone { step, ms } => {
                with(*step, &|s| (s.state, s.ms) = (StepState::Done, Some(*ms)));
            }
            Event::StepFailed { step, failure, ms } => with(*step, &|s| {
                (s.state, s.ms, s.why) = (StepState::Failed, Some(*ms), Some(failure.to_string()));
            }),
            Event::UndoingStep { .. } => undoing = now,
            Event::UndoneStep { step, ms } if leaves_something(*step) => with(*step, &|s| {
                s.undo = Some(Span { at_ms: undoing, ms: *ms });
                if s.state != StepState::Failed {
                    s.state = StepState::Undone;
                }
            }),
            Event::UndoneStep { step, .. } => with(*step, &|s| {
                if s.state == StepState::Running {
                    s.state = StepState::Undone;
                }
            }),
            _ => {}
        }
    }
    steps
}

/// Whether undoing the step changes anything. The undo passes every step; one that reads "undone" at "Back up the
/// database" would make a person fear for the backup.
fn leaves_something(step: Step) -> bool {
    use Step::{Build, Hold, Migrate, Start, Stop, StopWorkers, Switch};
    matches!(step, Build | Hold | StopWorkers | Stop | Migrate | Switch | Start)
}

/// When users had to wait: from the shut door to the open one, or without a door from stop to start.
fn hold(entries: &[Entry], clock: &Clock, strategy: Option<Strategy>) -> Option<Span> {
    let restart = strategy == Some(Strategy::Restart);
    let mut begun = None;
    for entry in entries {
        let now = clock.at(entry);
        match &entry.event {
            Event::Held { .. } => begun = begun.or(Some(now)),
            Event::StepStarted { step: Step::Stop } if restart => begun = begun.or(Some(now)),
            Event::StepDone { step, .. } if *step == if restart { Step::Start } else { Step::Open } => {
                return begun.map(|at_ms| Span { at_ms, ms: now - at_ms });
            }
            Event::UndoneStep { step, .. } if *step == if restart { Step::Stop } else { Step::Hold } => {
                return begun.map(|at_ms| Span { at_ms, ms: now - at_ms });
            }
            _ => {}
        }
    }
    begun.map(|at_ms| Span { at_ms, ms: clock.last - at_ms })
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

/// Milliseconds from the start of the run. The steady clock, unless the machine was booted in between.
struct Clock {
    first: Option<(String, u64)>,
    steady: bool,
    taken_over: bool,
    last: u64,
}

impl Clock {
    fn of(entries: &[Entry]) -> Clock {
        let mut boots: Vec<&str> = Vec::new();
        let mut taken_over = false;
        for entry in entries {
            match &entry.event {
                Event::Started { order } => boots.push(&order.boot),
                Event::TakenOver { boot, .. } => {
                    boots.push(boot);
                    taken_over = true;
                }
                _ => {}
            }
        }
        let steady = boots.windows(2).all(|pair| pair[0] == pair[1]);
        let first = entries.first().map(|e| (e.at.clone(), e.moment.0));
        let mut clock = Clock { first, steady, taken_over, last: 0 };
        // The end of the run, not what a person did to its record later.
        let end = entries.iter().find(|e| matches!(e.event, Event::Ended { .. })).or(entries.last());
        clock.last = end.map_or(0, |e| clock.at(e));
        clock
    }

    fn at(&self, entry: &Entry) -> u64 {
        let Some((wall, moment)) = &self.first else { return 0 };
        if self.steady {
            return entry.moment.0.saturating_sub(*moment);
        }
        match (wall_ms(&entry.at), wall_ms(wall)) {
            (Some(now), Some(first)) => u64::try_from(now - first).unwrap_or(0),
            _ => 0,
        }
    }
}

/// Milliseconds since 1970 of an RFC 3339 time in UTC; `None` when it is not one.
fn wall_ms(at: &str) -> Option<i64> {
    let number = |from: usize, to: usize| at.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let fraction: String = at.get(20..)?.chars().take_while(char::is_ascii_digit).take(3).collect();
    let ms = format!("{fraction:0<3}").parse::<i64>().ok()?;
    // Days of the Gregorian calendar, with years that begin in March so that the leap day comes last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + ms)
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Pre => "pre",
        Phase::Backup => "backup",
        Phase::Deploy => "deploy",
        Phase::Verify => "verify",
        Phase::Watch => "watch",
        Phase::Rollback => "rollback",
        Phase::After => "after",
    }
}

fn who_word(who: Who) -> &'static str {
    match who {
        Who::Auto => "auto",
        Who::Ask => "ask",
        Who::Both => "both",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

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
    fn a_failed_check_is_never_hidden_by_one_that_passed() {
        use Verdict::{Fail, Pass, Skipped, Unknown};
        let of = |verdicts: &[Verdict]| combined(verdicts.iter().copied());
        assert_eq!(of(&[Pass, Fail, Unknown, Pass]), Some(Fail));
        assert_eq!(of(&[Pass, Unknown, Pass]), Some(Unknown));
        assert_eq!(of(&[Skipped, Pass, Skipped]), Some(Pass));
        assert_eq!((of(&[Skipped]), of(&[])), (Some(Skipped), None));
        let report = Report::of(&sample::undone());
        assert_eq!(report.item("verify.smoke").unwrap().verdict, Some(Fail));
    }

    #[test]
    fn a_box_nobody_looked_at_says_so_and_one_that_does_not_apply_says_why() {
        let live = Report::of(&sample::live());
        let answer = |report: &Report, id| report.item(id).map(|i| (i.answer, i.reason.clone())).unwrap();
        let needless = |why: &str| (Answer::NotNeeded, Some(why.to_owned()));
        assert_eq!(answer(&live, "watch.apm"), (Answer::NotYet, None));
        assert_eq!(answer(&live, "watch.reports"), (Answer::Open, None));
        assert_eq!(answer(&live, "back.restore"), needless("the deployment went well"));
        assert_eq!(answer(&live, "diag.post"), needless("the deployment went well"));
        let undone = Report::of(&sample::undone());
        assert_eq!(answer(&undone, "diag.post").0, Answer::Open);
        let why = "the run did not come to \"Watch for errors\"".to_owned();
        assert_eq!(answer(&undone, "verify.errors"), (Answer::NotYet, Some(why)));
        let back = Report::of(&sample::rolled_back());
        assert_eq!(answer(&back, "deploy.pull").0, Answer::NotNeeded);
        let entries = sample::live();
        let early = entries.iter().position(|e| matches!(e.event, Event::Planned { .. })).unwrap();
        let open = Report::of(&entries[..early]);
        assert_eq!((open.ending, answer(&open, "back.restore").0), (None, Answer::NotYet));
    }

    #[test]
    fn the_start_of_the_old_release_in_an_undo_does_not_tick_the_start_of_the_new_one() {
        let report = Report::of(&sample::undone());
        let names =
            |id| report.item(id).unwrap().checks.iter().map(|o| o.check.name.clone()).collect::<Vec<_>>();
        assert_eq!(names("deploy.restart"), ["The new release answers with its own id"]);
        assert_eq!(names("back.restart"), ["The old release answers"]);
        assert_eq!(names("back.stop"), ["000012-3fa9c1b stopped"]);
        assert_eq!(names("back.code"), ["The earlier release is current again"]);
        assert_eq!(report.item("back.time").unwrap().verdict, Some(Verdict::Pass));
    }

    #[test]
    fn an_undo_does_not_say_that_the_backup_was_undone() {
        let report = Report::of(&sample::undone());
        let state =
            |step| report.steps.iter().find(|s| s.step == step).map(|s| (s.state, s.undo.is_some())).unwrap();
        assert_eq!(state(Step::Backup), (StepState::Done, false));
        assert_eq!(state(Step::Migrate), (StepState::Undone, true));
        assert_eq!(state(Step::Prove), (StepState::Failed, false));
        assert!(summary(&report)[3].contains("verified backup: backups/store.db.backup.20261123_034815"));
    }

    #[test]
    fn a_refused_run_says_why_and_that_the_database_was_not_touched() {
        let report = Report::of(&sample::refused());
        let failure = report.failure.clone().unwrap();
        assert_eq!(
            (failure.step, failure.why.as_str()),
            (None, "on a copy of the database they lost: rows:orders")
        );
        assert!(summary(&report)[2].starts_with("Data: the database was not touched; verified backup: "));
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
            "plimsoll resume --acknowledge set-aside:orders"
        );
        assert_eq!(report.failure.as_ref().unwrap().what, "Checkout process works failed");
        assert!(report.message.starts_with("Not resolved: the undo stopped at \"Migrate the database\""));
    }

    #[test]
    fn after_a_reboot_the_time_is_that_of_the_whole_run_and_of_the_whole_hold() {
        let report = Report::of(&sample::rebooted());
        assert_eq!(report.ms, 61_642);
        // From the shut door before the crash to the open one after it.
        assert_eq!(report.hold, Some(Span { at_ms: 20_290, ms: 41_352 }));
        assert_eq!(report.hold_ms, 41_352);
        assert_eq!(report.failure.unwrap().what, "the run was interrupted");
    }

    #[test]
    fn a_wall_clock_is_read_to_the_millisecond() {
        assert_eq!(wall_ms("1970-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(wall_ms("2024-02-29T23:59:59.5Z"), Some(1_709_251_199_500));
        assert_eq!(wall_ms("2026-11-23T03:48:00Z"), Some(1_795_405_680_000));
        assert_eq!(wall_ms("yesterday"), None);
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
              "reason": null,
              "checks": []
            }
          ],
          "other": [],
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
                "mode": "foreign keys off"
              }
            ],
            "migrates_itself": false,
            "migrate_ms": 45,
            "snapshot_ms": 60,
            "restore_ms": 310,
            "unacknowledged": []
          },
          "log": "deployment_20261123_0348.log"
        }
        "#);
    }
}
