//! The boxes of the paper, filled in with what was observed, or with why it was not.

use serde::Serialize;

use super::evidence::utc;
use super::{Report, StepState};
use crate::check::{Check, Verdict};
use crate::checklist::{ITEMS, Phase, Who};
use crate::notify::{Delivery, Told};
use crate::plan::Step;
use crate::record::{Ending, Entry, Event, Kind, Role};

/// The paper promises a rollback within five minutes.
const ROLLBACK_LIMIT_MS: u64 = 300_000;

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
    /// Puts the observations into their boxes and gives every box its answer.
    pub(super) fn fill(&mut self, mut seen: Vec<Observed>, watch: bool) {
        self.derive(&mut seen);
        for item in ITEMS {
            let (checks, rest) = seen.into_iter().partition::<Vec<_>, _>(|o| o.check.id == item.id);
            seen = rest;
            let (answer, reason) = match (checks.is_empty(), self.not_needed(item.id), item.who) {
                // The run is closed by the second signature.
                (false, ..) if item.id == "after.sign" && checks.len() < 2 => {
                    (Answer::Open, Some(self.asks(item.id)))
                }
                (false, ..) => (Answer::Answered, None),
                (_, Some(reason), _) => (Answer::NotNeeded, Some(reason.to_owned())),
                (.., Who::Ask) => (Answer::Open, Some(self.asks(item.id))),
                (.., Who::Auto | Who::Both) => (Answer::NotYet, Some(self.not_looked(item.id, watch))),
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
        let seen_before: Vec<Check> = seen.iter().map(|o| o.check.clone()).collect();
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
        if self.ending.is_some() {
            add(Check::pass("after.archive", "The notes of the deployment are archived")
                .with("file", format!("runs/{:06}/{}", self.run, self.log))
                .with("includes", "backup location, data counts, verification results"));
        }
        if let Some(record) = backup_record(seen_of(&seen_before, "backup.")) {
            add(record);
        }
        if let Some(speed) = speed(&seen_before) {
            add(speed);
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
                let mut check =
                    Check::new("back.verify", "The checks under Verification, taken together", verdict)
                        .with("passed", count(Verdict::Pass))
                        .with("failed", count(Verdict::Fail))
                        .with("unknown", count(Verdict::Unknown));
                check = match verdict {
                    Verdict::Pass => check,
                    Verdict::Fail => check.with("why", "not all of them passed"),
                    Verdict::Unknown => check.with("why", "not all of them could be made"),
                    Verdict::Skipped => check.with("why", "none of them applies here"),
                };
                seen.push(Observed { check, step: None, at });
            }
        }
    }

    /// How a person fills the box in.
    fn asks(&self, id: &str) -> String {
        let run = self.run;
        match id {
            "after.sign" => format!("plimsoll sign {run} --as deployer|verifier --name NAME"),
            "diag.post" => {
                format!("complete runs/{run:06}/postmortem.md, then: plimsoll answer {id} TEXT --by NAME")
            }
            _ => format!("plimsoll answer {id} TEXT --by NAME --run {run}"),
        }
    }

    pub(super) fn began(&self, step: Step) -> bool {
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

    /// Why nothing looked.
    fn not_looked(&self, id: &str, watch: bool) -> String {
        let step = match id {
            "deploy.pull" => Some(Step::Fetch),
            "deploy.install" => Some(Step::Build),
            "backup.create" | "backup.verify" | "backup.counts" | "backup.record" | "backup.second" => {
                Some(Step::Backup)
            }
            "pre.staging" | "pre.rollback" => Some(Step::Rehearse),
            "pre.review" => Some(Step::Fetch),
            "deploy.migrate" => Some(Step::Migrate),
            "deploy.restart" => Some(Step::Start),
            "deploy.stop" => Some(Step::Stop),
            "verify.script" | "verify.counts" | "verify.versions" | "verify.smoke" => Some(Step::Prove),
            "verify.errors" | "verify.logs" | "verify.speed" if !watch => {
                return "this run was not to watch: [watch].errors_for is not set, or --no-watch was given"
                    .to_owned();
            }
            "verify.errors" | "verify.logs" | "verify.speed" => Some(Step::Watch),
            _ => None,
        };
        if let Some(step) = step.filter(|step| !self.began(*step)) {
            return match self.ending {
                Some(_) => format!("the run did not come to \"{}\"", step.title()),
                None => format!("the run has not come to \"{}\"", step.title()),
            };
        }
        let live = self.ending == Some(Ending::Live);
        let words = match id {
            _ if id.starts_with("watch.") && !live => "the release of this run does not serve",
            "watch.hour" | "watch.customers" | "watch.database" => {
                "`plimsoll serve` watches the first hour and adds here what it saw"
            }
            "watch.spots" => "`plimsoll serve` makes the spot checks when they are due and adds them here",
            "watch.apm" => "no check of a monitoring system is configured",
            "pre.notify" | "after.summary" | "back.notify" => {
                "nobody was told: no message of this run is on record"
            }
            "pre.window" => "no window is on record for this run",
            "verify.logs" => "no log is configured: [[log]]",
            "diag.collect" => "collect them with: plimsoll diagnose",
            "deploy.install" => "no build command is configured: [build].commands",
            "verify.smoke" => "no smoke test is configured: [[smoke]]",
            _ if self.ending.is_none() => "the run has not ended",
            _ => "nothing looked at it in this run",
        };
        words.to_owned()
    }
}

/// Where the backup is, as the paper wants it written down.
fn backup_record<'a>(seen: impl Iterator<Item = &'a Check>) -> Option<Check> {
    let seen: Vec<&Check> = seen.collect();
    let of = |id: &str| seen.iter().rev().find(|check| check.id == id);
    if of("backup.record").is_some() {
        return None;
    }
    let primary = of("backup.create")?.evidence.get("file")?.clone();
    let stamp =
        primary.as_str().and_then(|file| file.rsplit_once("backup.")).map(|(_, stamp)| stamp.to_owned());
    let second: Vec<String> = seen
        .iter()
        .filter(|check| check.id == "backup.second")
        .map(|check| match check.verdict {
            Verdict::Pass => {
                check.evidence.get("file").and_then(|f| f.as_str()).unwrap_or(&check.name).to_owned()
            }
            _ => format!("none: {}", check.why()),
        })
        .collect();
    let secondary = if second.is_empty() { "none".to_owned() } else { second.join(", ") };
    Some(
        Check::pass("backup.record", "Recorded in the journal and in the log")
            .with("primary", primary)
            .with("secondary", secondary)
            .with("timestamp", stamp.unwrap_or_default())
            .with("row_counts_recorded", of("backup.counts").is_some()),
    )
}

fn seen_of<'a>(seen: &'a [Check], prefix: &'a str) -> impl Iterator<Item = &'a Check> {
    seen.iter().filter(move |check| check.id.starts_with(prefix))
}

/// How fast the smoke tests were answered, where nothing looked at live traffic.
fn speed(seen: &[Check]) -> Option<Check> {
    if seen.iter().any(|check| check.id == "verify.speed") {
        return None;
    }
    let smoke = seen.iter().filter(|check| check.id == "verify.smoke" && check.verdict == Verdict::Pass);
    let mut times: Vec<(u64, &str)> =
        smoke.filter_map(|check| Some((check.evidence.get("ms")?.as_u64()?, check.name.as_str()))).collect();
    times.sort_unstable();
    let (slowest, name) = *times.last()?;
    Some(
        Check::pass("verify.speed", "Answers to the smoke tests")
            .with("p50_ms", times[times.len() / 2].0)
            .with("slowest_ms", slowest)
            .with("slowest", name)
            .with("slow_queries", "not known: the app logs none that is looked at"),
    )
}

/// Where an observation belongs: what a rollback or an undo stops and starts fills in the boxes of the rollback.
pub(super) fn observed(entries: &[Entry]) -> Vec<Observed> {
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
            Event::Reconciled { reconciliation } => {
                let at = entry.at.clone();
                let checks = reconciliation.checks().into_iter();
                seen.extend(checks.map(|check| Observed { check, step: None, at: at.clone() }));
            }
            Event::Watched { check } | Event::SpotChecked { check, .. } => {
                seen.push(Observed { check: check.clone(), step: None, at: entry.at.clone() });
            }
            Event::Noted { checks } => {
                let at = entry.at.clone();
                seen.extend(checks.iter().map(|check| Observed {
                    check: check.clone(),
                    step: None,
                    at: at.clone(),
                }));
            }
            Event::Told { told } => {
                // From queued to sent it is one message.
                let check = message(told, back);
                let id = check.evidence.get("message");
                seen.retain(|o| id.is_none() || o.check.evidence.get("message") != id);
                seen.push(Observed { check, step: None, at: entry.at.clone() });
            }
            Event::Answered { answer } => {
                let mut check = Check::pass(&answer.item, format!("{} answered", answer.by))
                    .with("answer", answer.text.clone())
                    .with("by", format!("{} ({})", answer.by, answer.account));
                if let Some(run) = answer.run {
                    check = check.with("given_in_run", run);
                }
                seen.push(Observed { check, step: None, at: entry.at.clone() });
            }
            Event::Signed { signature } => {
                let words = match signature.role {
                    Role::Deployer => "Deployed by",
                    Role::Verifier => "Verified by",
                };
                let check = Check::pass("after.sign", format!("{words}: {}", signature.name))
                    .with("signed_at", utc(&entry.at))
                    .with("account", signature.account.clone())
                    .with("note", signature.note.clone().unwrap_or_default());
                seen.push(Observed { check, step: None, at: entry.at.clone() });
            }
            _ => {}
        }
    }
    // What could not be measured is no blank.
    for observed in &mut seen {
        observed.check.evidence.retain(|_, value| !value.is_null());
    }
    seen
}

/// A message that could not be sent is no failure of the deployment: it is unknown whether anybody knows.
fn message(told: &Told, back: bool) -> Check {
    let verdict = match told.delivery {
        Delivery::Sent => Verdict::Pass,
        Delivery::Queued | Delivery::Failed => Verdict::Unknown,
    };
    let name = format!("{} told by {}: {}", told.group, told.way.word(), told.occasion.word());
    let check = Check::new(told.occasion.item(back), name, verdict)
        .with("message", told.id.clone())
        .with("to", told.to.clone())
        .with("delivery", told.delivery.word())
        .with("attempts", told.attempts);
    if told.why.is_empty() { check } else { check.with("why", told.why.clone()) }
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

pub(super) fn phase_word(phase: Phase) -> &'static str {
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
    use super::super::sample;
    use super::*;

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
        let why = "no check of a monitoring system is configured".to_owned();
        assert_eq!(answer(&live, "watch.apm"), (Answer::NotYet, Some(why)));
        let how = "plimsoll answer watch.reports TEXT --by NAME --run 12".to_owned();
        assert_eq!(answer(&live, "watch.reports"), (Answer::Open, Some(how)));
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
}
