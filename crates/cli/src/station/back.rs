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

/// How a release is brought back.
#[derive(Debug)]
pub(super) enum Way {
    /// The code alone. The database must have this schema, where one is known.
    Code {
        /// Its hash.
        schema: Option<String>,
        /// Why that is enough, as the end of a sentence.
        why: &'static str,
    },
    /// The data too, over these runs, the newest first.
    Data(Vec<Leg>),
}

impl Way {
    pub(super) fn legs(&self) -> &[Leg] {
        match self {
            Way::Code { .. } => &[],
            Way::Data(legs) => legs,
        }
    }
}

/// The runs between two releases that changed the data.
#[derive(Debug, Default)]
struct Between {
    /// What they have kept, newest first.
    legs: Vec<Leg>,
    /// Those whose snapshots are no longer there.
    missing: Vec<u32>,
    /// Whether the runs lead all the way.
    whole: bool,
    /// Whether each of them saw the release before it work on the changed data.
    proven: bool,
}

impl Station {
    /// How `to` is brought back after `from`, as the runs before `run` have kept it: with the code alone when that is
    /// proven, unless `data` says that the data must go back too.
    ///
    /// # Errors
    /// [`FailureKind::Blocked`] when users' rows would be lost whichever way: then the release goes on serving.
    pub(super) fn way_back(
        &self,
        from: &ReleaseId,
        to: &ReleaseId,
        run: u32,
        data: bool,
    ) -> Result<Way, Failure> {
        let between = self.between(from, to, run)?;
        if between.legs.is_empty() && between.missing.is_empty() {
            let schema = self.schema_of(to);
            self.code_alone(to, schema.as_deref())?;
            return Ok(Way::Code { schema, why: "the database has the schema that it ran with" });
        }
        if between.proven && !data {
            let schema = self.schema_of(from);
            self.code_alone(to, schema.as_deref())?;
            let why = "it was seen to work on the migrated data when that was rehearsed";
            return Ok(Way::Code { schema, why });
        }
        let why = if !between.missing.is_empty() {
            let runs: Vec<String> = between.missing.iter().map(u32::to_string).collect();
            format!("the snapshots of run {}, which changed the data, are no longer kept", runs.join(", "))
        } else if !between.whole {
            format!("the runs that are kept do not lead back to {to}")
        } else {
            return Ok(Way::Data(between.legs));
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

    /// The way of a run that is taken over, as it was chosen.
    pub(super) fn way_of(&self, state: &State) -> Way {
        let order = state.order.as_ref();
        let ends = order.and_then(|order| Some((order.run, order.from.as_ref()?, &order.to.as_ref()?.id)));
        let data = state.rehearsal.as_ref().is_some_and(|rehearsal| rehearsal.carry.is_some());
        let between = ends.filter(|_| data).and_then(|(run, from, to)| self.between(from, to, run).ok());
        match between {
            Some(between) => Way::Data(between.legs),
            None => Way::Code { schema: None, why: "" },
        }
    }

    fn between(&self, from: &ReleaseId, to: &ReleaseId, run: u32) -> Result<Between, Failure> {
        let mut between = Between { proven: true, ..Between::default() };
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
                let rehearsal = state.rehearsal.as_ref();
                between.proven &= rehearsal.is_some_and(|rehearsal| rehearsal.code_only == Some(true));
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
        between.proven &= between.whole;
        Ok(between)
    }

    /// Going back with the code alone is safe only while the database has the schema that the release is known to work
    /// with. Seen before a run is begun; the run looks again.
    fn code_alone(&self, target: &ReleaseId, schema: Option<&str>) -> Result<(), Failure> {
        let file = wiring::database_file(&self.config)?;
        let now = database::schema_of(&file)?;
        database::fits_earlier(target, schema, &now)
    }

    /// What a rollback would do, before anything is stopped: seen on copies, nothing is changed.
    pub(super) fn dry_run(
        &self,
        from: &ReleaseId,
        target: &Release,
        way: &Way,
        acknowledged: &[String],
        onlooker: &Onlooker,
    ) -> Result<Reply, Failure> {
        let legs = match way {
            Way::Code { why, .. } => {
                let message = format!(
                    "This would bring {} live again instead of {from}, the code alone: {why}. The database stays as it is.",
                    target.id
                );
                return Ok(unchanged(message, exit::DONE, None));
            }
            Way::Data(legs) => legs,
        };
        let would = format!("This would bring {} live again instead of {from}", target.id);
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

fn unchanged(message: String, exit: u8, failure: Option<Failure>) -> Reply {
    Reply::Outcome { run: None, ending: Some(Ending::Unchanged), exit, message, failure }
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
