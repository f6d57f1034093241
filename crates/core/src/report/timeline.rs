//! When each step began, how long it took, and what users waited for.

use serde::Serialize;

use crate::plan::{Step, Strategy};
use crate::record::{Entry, Event};

/// A stretch of time within the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Span {
    /// Milliseconds from the start of the run.
    pub at_ms: u64,
    /// How long, milliseconds.
    pub ms: u64,
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

/// The steps, in the order in which they began.
pub(super) fn steps(entries: &[Entry], clock: &Clock) -> Vec<StepReport> {
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
pub(super) fn leaves_something(step: Step) -> bool {
    use Step::{Build, Hold, Migrate, Start, Stop, StopWorkers, Switch};
    matches!(step, Build | Hold | StopWorkers | Stop | Migrate | Switch | Start)
}

/// When users had to wait: from the shut door to the open one, or without a door from stop to start.
pub(super) fn hold(entries: &[Entry], clock: &Clock, strategy: Option<Strategy>) -> Option<Span> {
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

/// Milliseconds from the start of the run. The steady clock, unless the machine was booted in between.
pub(super) struct Clock {
    first: Option<(String, u64)>,
    steady: bool,
    /// Whether another owner went on with the run.
    pub(super) taken_over: bool,
    /// The end of the run, or of what is recorded of it.
    pub(super) last: u64,
}

impl Clock {
    pub(super) fn of(entries: &[Entry]) -> Clock {
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

    pub(super) fn at(&self, entry: &Entry) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::super::{Report, sample, summary};
    use super::*;

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
}
