//! Which way back there is from one release to an earlier one: the code alone, or the data too, or none that loses
//! nothing.

use plimsoll_core::check::Verdict;
use plimsoll_core::plan::{Release, ReleaseId, Step};
use plimsoll_core::ports::{Failure, FailureKind};
use plimsoll_core::record::{Ending, Kind, State, exit};
use plimsoll_host::database::back::{self, Leg, Preview};
use plimsoll_host::database::{self};
use serde_json::Value;

use super::Station;
use crate::audience::Onlooker;
use crate::wire::Reply;
use crate::wiring;

/// The runs between two releases that changed the data.
#[derive(Debug, Default)]
struct Between {
    /// What they have kept, newest first.
    legs: Vec<Leg>,
    /// Those whose snapshots are no longer there.
    missing: Vec<u32>,
    /// Whether the runs lead all the way.
    whole: bool,
}

impl Station {
    /// How the data goes back from `from` to `to`, as runs before `run` have kept it; empty when only the code does.
    ///
    /// # Errors
    /// [`FailureKind::Blocked`] when users' rows would be lost whichever way: then the release goes on serving.
    pub(super) fn way_back(&self, from: &ReleaseId, to: &ReleaseId, run: u32) -> Result<Vec<Leg>, Failure> {
        let between = self.between(from, to, run)?;
        if between.legs.is_empty() && between.missing.is_empty() {
            self.code_alone(to)?;
            return Ok(Vec::new());
        }
        let why = if !between.missing.is_empty() {
            let runs: Vec<String> = between.missing.iter().map(u32::to_string).collect();
            format!("the snapshots of run {}, which changed the data, are no longer kept", runs.join(", "))
        } else if !between.whole {
            format!("the runs that are kept do not lead back to {to}")
        } else {
            return Ok(between.legs);
        };
        Err(Failure {
            kind: FailureKind::Blocked,
            what: format!("going back to {to} would lose what users wrote"),
            why,
            next:
                "deploy a commit that reverts the code and keeps the schema (git revert), or mend it forward"
                    .into(),
        })
    }

    fn between(&self, from: &ReleaseId, to: &ReleaseId, run: u32) -> Result<Between, Failure> {
        let mut between = Between::default();
        let mut at = from.clone();
        for earlier in self.runs.list()?.into_iter().rev().filter(|earlier| *earlier < run) {
            let state = State::fold(&self.runs.entries(earlier)?);
            let Some(order) = &state.order else { continue };
            let moved = match state.ended {
                Some((Ending::Live, ..)) => true,
                // A deployment that another run took back was live before that.
                Some((Ending::RolledBack, ..)) => order.kind == Kind::Rollback || state.taken_back.is_some(),
                _ => false,
            };
            if !moved {
                continue;
            }
            if state.release.as_ref().map(|release| &release.id) != Some(&at) {
                break;
            }
            if changed_data(&state) {
                match Leg::of(earlier, &self.runs.folder(earlier)) {
                    Some(leg) => between.legs.push(leg),
                    None => between.missing.push(earlier),
                }
            }
            match &order.from {
                Some(before) if before == to => {
                    between.whole = true;
                    break;
                }
                Some(before) => at = before.clone(),
                None => break,
            }
        }
        Ok(between)
    }

    /// Going back with the code alone is safe only while the database has the schema that the release ran with. Seen
    /// before a run is begun; the run looks again.
    fn code_alone(&self, target: &ReleaseId) -> Result<(), Failure> {
        let file = wiring::database_file(&self.config)?;
        let now = database::schema_of(&file)?;
        database::fits_earlier(target, self.schema_of(target).as_deref(), &now)
    }

    /// What a rollback would do, before anything is stopped: seen on copies, nothing is changed.
    pub(super) fn dry_run(
        &self,
        from: &ReleaseId,
        target: &Release,
        legs: &[Leg],
        acknowledged: &[String],
        onlooker: &Onlooker,
    ) -> Result<Reply, Failure> {
        let unchanged = |message: String, exit: u8, failure: Option<Failure>| Reply::Outcome {
            run: None,
            ending: Some(Ending::Unchanged),
            exit,
            message,
            failure,
        };
        let would = format!("This would bring {} live again instead of {from}", target.id);
        if legs.is_empty() {
            let message =
                format!("{would}; the database has the schema that it ran with, and stays as it is.");
            return Ok(unchanged(message, exit::DONE, None));
        }
        let file = wiring::database_file(&self.config)?;
        let folder = self.runs.folder(0).with_file_name("dry-run");
        let preview = back::preview(&file, legs, &folder, acknowledged)?;
        if let Some(earlier) = self.schema_of(&target.id)
            && earlier != preview.schema
        {
            return Err(Failure {
                kind: FailureKind::Blocked,
                what: "the earlier release does not fit the database from before".into(),
                why: "the schema is not the one that it ran with: somebody changed it besides the migrations"
                    .into(),
                next: "deploy a commit that reverts the code and keeps the schema (git revert)".into(),
            });
        }
        for line in lines(&preview, legs) {
            onlooker.line(&line);
        }
        let sums = preview.sums;
        let message = format!(
            "{would}, and the data with it: {} changes of users carried over, {} set aside. Nothing was changed.",
            sums.applied + sums.equal,
            sums.set_aside
        );
        if preview.missing.is_empty() {
            return Ok(unchanged(message, exit::DONE, None));
        }
        let flags: Vec<String> = preview.missing.iter().map(|word| format!("--acknowledge {word}")).collect();
        let failure = Failure {
            kind: FailureKind::Blocked,
            what: "values that users wrote have no place in the earlier database".into(),
            why: format!("nobody has acknowledged {}", preview.missing.join(", ")),
            next: format!(
                "to go back and keep those values in a file: plimsoll rollback {}",
                flags.join(" ")
            ),
        };
        Ok(unchanged(message, exit::BLOCKED, Some(failure)))
    }
}

/// Whether a run that ended well left other data than it found.
fn changed_data(state: &State) -> bool {
    if !state.done.contains(&Step::Migrate) {
        return false;
    }
    let by_itself = state.rehearsal.as_ref().is_some_and(|rehearsal| rehearsal.migrates_itself);
    by_itself
        || state.checks.iter().any(|(step, check)| {
            let did = matches!(check.id.as_str(), "deploy.migrate" | "back.restore");
            *step == Step::Migrate && did && check.verdict == Verdict::Pass
        })
}

/// What was seen on the copies, table by table.
fn lines(preview: &Preview, legs: &[Leg]) -> Vec<String> {
    let runs: Vec<String> = legs.iter().map(|leg| leg.run.to_string()).collect();
    let mut lines = vec![format!(
        "mode restore+carry over run {}, tried on copies in {} ms",
        runs.join(", "),
        preview.ms
    )];
    let evidence = &preview.check.evidence;
    let per_table = [
        ("carried_per_table", "carried over"),
        ("already_there_per_table", "there already"),
        ("set_aside_per_table", "set aside"),
    ];
    for (name, words) in per_table {
        for (table, count) in evidence.get(name).and_then(Value::as_object).into_iter().flatten() {
            lines.push(format!("{table}: {count} {words}"));
        }
    }
    let lists = [
        ("reasons", "set aside because"),
        ("renames", "renamed by the migration"),
        ("meaning_may_differ", "rewritten by the migration, so new values there may mean something else"),
        ("numbers_that_could_come_again", "numbers that the next rows could get again"),
        ("unchecked", "could not be checked"),
    ];
    for (name, words) in lists {
        let list: Vec<&str> = evidence
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !list.is_empty() {
            lines.push(format!("{words}: {}", list.join("; ")));
        }
    }
    lines
}
