//! Going back past the commit point with the data: what users wrote since a migration is carried over to the database
//! from before it.
//!
//! Each run that changed the database has kept PRE and POST. Going back over several of them is one carry-over after the
//! other, the newest first: the result of one is the present database of the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use plimsoll_core::check::Check;
use plimsoll_core::plan::{CarryPlan, Rehearsal};
use plimsoll_core::ports::{Failure, FailureKind};

use super::ahead::{Ahead, Ready};
use super::carried::{self, BOOKS, Sums};
use super::{RunDatabase, failure, io_failure, ms};
use crate::durable;
use crate::sqlite::carry::{self, Carried};
use crate::sqlite::connection::beside;
use crate::sqlite::diff::Side;
use crate::sqlite::fingerprint::{Depth, Fingerprint};
use crate::sqlite::restore::{self, Guard};
use crate::sqlite::{Control, Limits, Stop};

/// What one run has kept of the database that it changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leg {
    /// The run.
    pub run: u32,
    /// The database before it.
    pub pre: PathBuf,
    /// The database as it left it, before users were let in.
    pub post: PathBuf,
}

impl Leg {
    /// What the run with this folder has kept; `None` when it is not, or no longer, there.
    #[must_use]
    pub fn of(run: u32, folder: &Path) -> Option<Leg> {
        let leg = Leg { run, pre: folder.join("pre.db"), post: folder.join("post.db") };
        (leg.pre.exists() && leg.post.exists()).then_some(leg)
    }
}

/// What going back would do, tried on copies; nothing of it is left.
#[derive(Clone, Debug)]
pub struct Preview {
    /// All differences.
    pub sums: Sums,
    /// What was seen: per table what is carried over, was there already, or has no place.
    pub check: Check,
    /// What a person must acknowledge first: `set-aside:TABLE`.
    pub missing: Vec<String>,
    /// How long it took.
    pub ms: u64,
    /// The hash of the schema that the result has.
    pub schema: String,
}

/// Tries on copies in `folder`, which must be on the database's disk and is emptied again, what going back would do.
///
/// # Errors
/// When it cannot be done; the live database is only read.
pub fn preview(file: &Path, legs: &[Leg], folder: &Path, given: &[String]) -> Result<Preview, Failure> {
    empty(folder)?;
    let mut control = Control::quiet(Stop::new());
    let began = Instant::now();
    let tried = over(legs, Side::Live(file), folder, "preview", &mut control).and_then(|carried| {
        let schema = schema(&carried, &mut control)?;
        Ok(Preview {
            sums: Sums::of(&carried),
            check: carried::evidence(&carried),
            missing: carried::unacknowledged(&carried, given),
            ms: ms(began.elapsed()),
            schema,
        })
    });
    let emptied = fs::remove_dir_all(folder).map_err(|e| io_failure("the scratch folder", folder, &e));
    let preview = tried?;
    emptied?;
    Ok(preview)
}

fn empty(folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| io_failure("the scratch folder", folder, &e))?;
    }
    Ok(durable::create_dir(folder, durable::PRIVATE_DIR)?)
}

fn schema(carried: &[Carried], control: &mut Control<'_>) -> Result<String, Failure> {
    let Some(last) = carried.last() else { return Ok(String::new()) };
    Fingerprint::of(&last.out, Depth::Counts, control)
        .map(|content| content.schema_hash())
        .map_err(|e| failure("the carried database cannot be read", &e))
}

/// How one leg is carried over from a finished copy of the database.
pub(super) fn options_of<'a>(
    leg: &'a Leg,
    now: &'a Path,
    out: &'a Path,
    aside: &'a Path,
) -> carry::Options<'a> {
    carry::Options {
        pre: &leg.pre,
        post: &leg.post,
        now: Side::Finished(now),
        out,
        aside,
        renames: &[],
        skip: &BOOKS,
        // The watcher of the run, or nobody at all, judges whether somebody wrote meanwhile.
        hash_now: false,
        limits: Limits::default(),
    }
}

/// Carries over leg after leg. The last result is `NAME.db` in `folder`; what is set aside lies beside it.
fn over(
    legs: &[Leg],
    now: Side<'_>,
    folder: &Path,
    name: &str,
    control: &mut Control<'_>,
) -> Result<Vec<Carried>, Failure> {
    let mut all: Vec<Carried> = Vec::new();
    for (number, leg) in legs.iter().enumerate() {
        let last = number + 1 == legs.len();
        let at = |start: &str| {
            let number = if last { String::new() } else { format!("-{:06}", leg.run) };
            folder.join(format!("{start}{number}.db"))
        };
        let before = all.last().map(|one| one.out.clone());
        let (out, aside) = (at(name), at("set-aside"));
        durable::remove(&out)?;
        carried::remove_aside(&aside)?;
        let now = before.as_deref().map_or(now, Side::Finished);
        let options = carry::Options { now, ..options_of(leg, &out, &out, &aside) };
        let one = carry::prepare(&options, control).map_err(|e| carried::failed(&e))?;
        if let Some(before) = before {
            durable::remove(&before)?;
        }
        all.push(one);
    }
    Ok(all)
}

impl RunDatabase {
    /// Tries going back on the backup just made, before anything is stopped.
    pub(super) fn rehearse_back(&mut self) -> Result<(Rehearsal, Vec<Check>), Failure> {
        let Some(backup) = &self.backup else {
            return Err(Failure::failed(
                "going back could not be tried",
                "there is no backup to try it on",
                "plimsoll rollback, again",
            ));
        };
        let (path, bytes, snapshot_ms) =
            (backup.path.clone(), backup.manifest.bytes, backup.manifest.took_ms);
        let folder = self.keep.scratch("back")?;
        empty(&folder)?;
        let mut control = self.control(self.settings.stop.clone());
        let mut ahead = None;
        if let (Some(since), [leg]) = (self.since.take(), &self.settings.legs[..]) {
            ahead = Ahead::prepare(since, leg, &path, &folder, &mut control)?;
        }
        let (carried, snapshot_ms, took) = match &ahead {
            Some((ahead, carried)) => (vec![carried.clone()], ahead.snapshot_ms, ahead.carry_ms),
            None => {
                let began = Instant::now();
                let carried =
                    over(&self.settings.legs, Side::Finished(&path), &folder, "back", &mut control)?;
                (carried, snapshot_ms, ms(began.elapsed()))
            }
        };
        self.ahead = ahead.map(|(ahead, _)| ahead);
        self.fits(&schema(&carried, &mut control)?)?;
        let unacknowledged = carried::unacknowledged(&carried, &self.settings.acknowledged);
        let sums = Sums::of(&carried);
        let seen = carried::evidence(&carried);
        carried::discard(&carried)?;
        if self.ahead.is_none() {
            self.keep.sweep()?;
        }
        self.keep.reserve(bytes)?;
        let mut tried = Check { id: "pre.staging".into(), name: "Going back, on a copy".into(), ..seen };
        // The files were those of the copy.
        tried.evidence.remove("files");
        let restore_ms = self.restore_ms();
        let rehearsal = Rehearsal {
            snapshot_ms,
            migrate_ms: took,
            restore_ms,
            unacknowledged,
            carry: Some(CarryPlan { applied: sums.applied, equal: sums.equal, set_aside: sums.set_aside }),
            ..Rehearsal::default()
        };
        let runs: Vec<u32> = self.settings.legs.iter().map(|leg| leg.run).collect();
        let prepared = Check::pass("pre.rollback", "Going back with the data")
            .with("mode", "restore+carry")
            .with("runs", runs)
            .with("restore_ms", took + restore_ms);
        Ok((rehearsal, vec![tried.with("ms", took), prepared]))
    }

    /// Puts the database from before in place, with what users wrote since. PRE of this run is what it was.
    pub(super) fn go_back(&mut self, stop: &Stop) -> Result<Vec<Check>, Failure> {
        let mut control = self.control(stop.clone());
        let folder = self.settings.run_folder.clone();
        let pre = folder.join("pre.db");
        let began = Instant::now();
        // POST is what is going to be put in place: an undo must know it before that happens.
        let carried = match (self.ready.take(), &self.settings.legs[..]) {
            (Some(ready), [leg]) => vec![self.carry_staged(ready, leg, &pre, &mut control)?],
            _ => over(&self.settings.legs, Side::Finished(&pre), &folder, "post", &mut control)?,
        };
        let missing = carried::unacknowledged(&carried, &self.settings.acknowledged);
        if !missing.is_empty() {
            carried::discard(&carried)?;
            return Err(not_acknowledged(&missing));
        }
        let Some(last) = carried.last() else {
            return Err(Failure::failed("there is nothing to go back over", "no run", "plimsoll status"));
        };
        if let Err(failure) = self.fits(&schema(&carried, &mut control)?) {
            carried::discard(&carried)?;
            return Err(failure);
        }
        let took = ms(began.elapsed());
        let options = restore::Options {
            run: Some(self.run_name()),
            app_stopped: true,
            keep: restore::Keep::Is(pre.clone()),
            read_back: Depth::Counts,
            checked: true,
            only: if carried.len() == 1 { last.differ.clone() } else { None },
            ..restore::Options::new(&folder)
        };
        // It has watched since before the snapshot, and is gone when the file is put in place.
        let Some(watcher) = self.watcher.take() else {
            carried::discard(&carried)?;
            return Err(Failure::failed(
                "it is unknown whether somebody wrote meanwhile",
                "the database was not watched since its snapshot",
                "plimsoll rollback, again",
            ));
        };
        let guard = Guard::Watched(&watcher);
        let restored = restore::into(&last.out, &self.settings.file, guard, &options, &mut control)
            .map_err(|e| failure("the database from before could not be put in place", &e))?;
        drop(watcher);
        self.keep.note_migrated()?;
        for suffix in ["-wal", "-shm", "-journal"] {
            durable::remove(&beside(&last.out, suffix))?;
        }
        let file = last.out.display().to_string();
        let put_back = Check::pass("back.restore", "The database from before, with what users wrote since")
            .with("file", file)
            .with("replaced_database_kept", pre.display().to_string())
            .with("ms", took)
            .with("locked_ms", ms(restored.locked))
            .with("differences", restored.differences);
        let mut rows = carried::evidence(&carried);
        if let Some(words) = carried::words(&carried, "of users are") {
            rows = rows.with("in_words", words);
        }
        Ok(vec![put_back, rows])
    }

    /// What is left to do of what was done ahead.
    fn carry_staged(
        &self,
        ready: Ready,
        leg: &Leg,
        pre: &Path,
        control: &mut Control<'_>,
    ) -> Result<Carried, Failure> {
        let folder = &self.settings.run_folder;
        let (out, aside) = (folder.join("post.db"), folder.join("set-aside.db"));
        durable::remove(&out)?;
        carried::remove_aside(&aside)?;
        let options = options_of(leg, pre, &out, &aside);
        carry::prepare_staged(&options, ready.staged, &ready.changed, control)
            .map_err(|e| carried::failed(&e))
    }

    /// The result must have the schema that the earlier release ran with, where a run has recorded it.
    fn fits(&self, schema: &str) -> Result<(), Failure> {
        match self.settings.earlier_schema.as_deref() {
            Some(earlier) if earlier != schema => Err(Failure {
                kind: FailureKind::Blocked,
                what: "the earlier release does not fit the database from before".into(),
                why: "the schema is not the one that it ran with: somebody changed it besides the migrations"
                    .into(),
                next: "deploy a commit that reverts the code and keeps the schema (git revert), or mend it forward"
                    .into(),
            }),
            _ => Ok(()),
        }
    }
}

/// More would be set aside than a person has allowed.
fn not_acknowledged(missing: &[String]) -> Failure {
    let flags: Vec<String> = missing.iter().map(|word| format!("--acknowledge {word}")).collect();
    Failure {
        kind: FailureKind::Blocked,
        what: "values that users wrote have no place in the earlier database".into(),
        why: format!("nobody has acknowledged {}", missing.join(", ")),
        next: format!("to go back and keep those values in a file: plimsoll rollback {}", flags.join(" ")),
    }
}
