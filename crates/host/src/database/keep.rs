//! What the way back needs, in the run's folder, and the way back itself.
//!
//! `pre.db`: the database when nobody wrote any more. `post.db`: as the migration left it. `pre.absent`: there was none.
//! `jobs.json`: the migrations that are being applied. `migrated`: they are; PRE and POST stay for a rollback.
//! `restored`: the way back is done; whatever the database holds now came later and is the users' own.
//! `carried.db`: PRE with what others wrote. `smoke-wrote`: smoke tests that write were run against it behind the shut door.

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_core::check::Check;
use plimsoll_core::ports::{Failure, FailureKind, Restored};

use super::ahead::{Ahead, Ready};
use super::carried::{self, BOOKS};
use super::{failure, io_failure};
use crate::durable;
use crate::sqlite::carry::{self, Carried};
use crate::sqlite::copy::{Copied, copy, settle};
use crate::sqlite::diff::{self, Side};
use crate::sqlite::fingerprint::{Depth, Fingerprint};
use crate::sqlite::migrate::{self, Job, Mode};
use crate::sqlite::partial::remove_with_sides;
use crate::sqlite::restore::{self, Guard};
use crate::sqlite::{Control, Limits, migration, set_aside};

/// Who changed the database between PRE and POST.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// Only Plimsoll's own migrator, which keeps books: what it has not touched was written by others, and stays.
    Own,
    /// The app, or a command of it: what others wrote meanwhile cannot be told from that.
    Others,
    /// A rollback: POST is what it was going to put in place.
    RolledBack,
}

/// What was written since POST.
enum Since {
    /// Nothing.
    Nothing,
    /// All of it is in a file: the evidence, and the end of a sentence.
    Aside(Check, String),
    /// It is carried over; the copy of the database that is going to be replaced.
    Carried(Box<Carried>, PathBuf),
}

/// Why PRE could not be put back.
enum Trouble {
    /// Somebody wrote between the look and the lock; nothing was changed.
    Changed(Failure),
    /// Anything else.
    Other(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Other(failure)
    }
}

/// The run's own files.
pub struct Keep {
    folder: PathBuf,
    file: PathBuf,
    run: u32,
}

impl Keep {
    /// Touches nothing.
    #[must_use]
    pub fn new(folder: &Path, file: &Path, run: u32) -> Self {
        Keep { folder: folder.to_owned(), file: file.to_owned(), run }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn has(&self, name: &str) -> bool {
        self.at(name).exists()
    }

    fn note(&self, name: &str) -> Result<(), Failure> {
        Ok(durable::write(&self.at(name), durable::PRIVATE, b"")?)
    }

    /// A fresh place for a scratch file.
    pub(super) fn scratch(&self, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.at("scratch");
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|e| io_failure("the scratch folder", &folder, &e))?;
        }
        durable::create_dir(&folder, durable::PRIVATE_DIR)?;
        Ok(folder.join(name))
    }

    /// Keeps the room on the disk that the way back needs: what it replaces is kept as a backup, and a log as large as
    /// the database may be written.
    pub(super) fn reserve(&self, database_bytes: u64) -> Result<(), Failure> {
        let path = self.at("reserve");
        let bytes = 3 * database_bytes + (8 << 20);
        let failed = |e: std::io::Error| io_failure("the room that an undo needs", &path, &e);
        let file = fs::File::create(&path).map_err(failed)?;
        match durable::reserve(&file, &path, 0, bytes) {
            Ok(_) => Ok(()),
            Err(error) => {
                durable::remove(&path)?;
                Err(error.into())
            }
        }
    }

    /// There was no database; the way back is that there is none again.
    pub(super) fn note_absent(&self) -> Result<(), Failure> {
        self.note("pre.absent")
    }

    /// Says that smoke tests are going to write to production behind the shut door.
    ///
    /// # Errors
    /// When it is not on the disk; the tests must not run.
    pub fn note_smoke_writes(&self) -> Result<(), Failure> {
        self.note("smoke-wrote")
    }

    pub(super) fn take_pre(&self, control: &mut Control<'_>) -> Result<Copied, Failure> {
        self.take("pre.db", control)
    }

    /// PRE of what was copied before the hold; `None` when it must be copied now.
    pub(super) fn take_pre_of(&self, ahead: Ahead) -> Result<Option<Ready>, Failure> {
        let pre = self.at("pre.db");
        durable::remove(&pre)?;
        ahead.take_pre(&pre)
    }

    pub(super) fn take_post(&self, control: &mut Control<'_>) -> Result<Copied, Failure> {
        self.take("post.db", control)
    }

    /// POST as the migrations alone would have left it: they are applied to a copy of PRE. It has its name only when it
    /// is whole.
    pub(super) fn make_post(
        &self,
        jobs: &[Job],
        acknowledged: &[String],
        control: &mut Control<'_>,
    ) -> Result<(), Failure> {
        let making = self.at("post.making.db");
        let failed = |e: std::io::Error| io_failure("the snapshot after the migration", &making, &e);
        remove_with_sides(&making);
        fs::copy(self.at("pre.db"), &making).map_err(failed)?;
        migrate::apply(&making, jobs, acknowledged, None, control, &mut |_| {}).map_err(|e| {
            super::migration_failure("the snapshot after the migration could not be made", &e)
        })?;
        settle(&making).map_err(|e| failure("the snapshot after the migration", &e))?;
        fs::File::open(&making).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&making, self.at("post.db")).map_err(failed)?;
        Ok(durable::sync_dir(&self.folder)?)
    }

    /// Notes what is going to be applied, so that whoever takes over can make POST.
    pub(super) fn note_jobs(&self, jobs: &[Job]) -> Result<(), Failure> {
        let list: Vec<(&Path, Mode)> =
            jobs.iter().map(|job| (job.migration.path.as_path(), job.mode)).collect();
        let text = serde_json::to_vec(&list)
            .map_err(|e| io_failure("the list of migrations", &self.at("jobs.json"), &e.into()))?;
        Ok(durable::write(&self.at("jobs.json"), durable::PRIVATE, &text)?)
    }

    /// What was noted; nothing when no migration was begun.
    pub(super) fn jobs(&self) -> Result<Vec<Job>, Failure> {
        let path = self.at("jobs.json");
        let failed = |e: std::io::Error| io_failure("the list of migrations", &path, &e);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let list: Vec<(PathBuf, Mode)> = serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
        let Some(folder) = list.first().and_then(|(path, _)| path.parent().map(Path::to_owned)) else {
            return Ok(Vec::new());
        };
        let files = migration::load(&folder)
            .map_err(|e| super::migration_failure("the release's migrations cannot be read", &e))?;
        let job = |(path, mode): (PathBuf, Mode)| {
            let migration = files.all.iter().find(|migration| migration.path == path)?.clone();
            Some(Job { migration, mode })
        };
        Ok(list.into_iter().filter_map(job).collect())
    }

    /// Forgets what a rollback was going to put in place: it is undone, so nothing was set aside by it.
    pub(super) fn forget_plan(&self) -> Result<(), Failure> {
        if self.has("restored") {
            return Ok(());
        }
        let failed = |e: std::io::Error| io_failure("the run's folder", &self.folder, &e);
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("set-aside") || name.starts_with("post-") {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Whether POST is missing though PRE is there and the way back is not done.
    pub(super) fn lacks_post(&self) -> bool {
        self.has("pre.db") && !self.has("post.db") && !self.has("restored")
    }

    /// The migration is done: PRE and POST stay when the run ends well.
    pub(super) fn note_migrated(&self) -> Result<(), Failure> {
        self.note("migrated")
    }

    fn take(&self, name: &str, control: &mut Control<'_>) -> Result<Copied, Failure> {
        let dest = self.at(name);
        durable::remove(&dest)?;
        copy(&self.file, &dest, &Limits::default(), control)
            .map_err(|e| failure("the final snapshot could not be taken", &e))
    }

    /// The counts of PRE; `None` before it was taken.
    pub(super) fn pre_counts(&self) -> Result<Option<Fingerprint>, Failure> {
        let pre = self.at("pre.db");
        if !pre.exists() {
            return Ok(None);
        }
        let mut control = Control::quiet(crate::sqlite::Stop::new());
        Fingerprint::of(&pre, Depth::Counts, &mut control)
            .map(Some)
            .map_err(|e| failure("the final snapshot cannot be counted", &e))
    }

    /// The counts of POST; `None` when none was taken, or the way back is done.
    pub(super) fn post_counts(&self) -> Result<Option<Fingerprint>, Failure> {
        let post = self.at("post.db");
        if !post.exists() || self.has("restored") {
            return Ok(None);
        }
        let mut control = Control::quiet(crate::sqlite::Stop::new());
        Fingerprint::of(&post, Depth::Counts, &mut control)
            .map(Some)
            .map_err(|e| failure("the snapshot after the migration cannot be counted", &e))
    }

    /// Puts PRE back, unless the database still equals it; what others wrote since POST is carried over.
    pub(super) fn restore(
        &self,
        acknowledged: &[String],
        way: Way,
        control: &mut Control<'_>,
    ) -> Result<Restored, Failure> {
        // Now is when it is needed.
        durable::remove(&self.at("reserve"))?;
        if self.has("restored") {
            return Ok(Restored { changed: false, checks: Vec::new(), kept: None });
        }
        if self.has("pre.absent") {
            let moved = self.set_whole_file_aside()?;
            self.note("restored")?;
            return Ok(Restored {
                changed: moved.is_some(),
                checks: moved.into_iter().collect(),
                kept: None,
            });
        }
        if !self.has("pre.db") {
            // The snapshot was not even taken, so nothing was migrated.
            return Ok(Restored { changed: false, checks: Vec::new(), kept: None });
        }
        let mut again = 0;
        loop {
            match self.put_back(acknowledged, way, control) {
                // Somebody wrote between the look and the lock: the look is taken anew.
                Err(Trouble::Changed(_)) if again < 3 => again += 1,
                Err(Trouble::Changed(failure) | Trouble::Other(failure)) => return Err(failure),
                Ok(restored) => {
                    self.note("restored")?;
                    return Ok(restored);
                }
            }
        }
    }

    fn put_back(
        &self,
        acknowledged: &[String],
        way: Way,
        control: &mut Control<'_>,
    ) -> Result<Restored, Trouble> {
        let pre = self.at("pre.db");
        let then = Fingerprint::of(&pre, Depth::Content, control)
            .map_err(|e| failure("the snapshot taken in the hold cannot be read", &e))?;
        // The state that is judged is the state that may be replaced; a write in between aborts the restore.
        let now = Fingerprint::of(&self.file, Depth::Content, control);
        let as_before = |name: &str| {
            let check = Check::pass("back.restore", name);
            Ok(Restored { changed: false, checks: vec![check], kept: None })
        };
        if now.as_ref().is_ok_and(|now| then.differences(now).is_empty()) {
            return as_before("The database is as it was before the migration");
        }
        if way == Way::RolledBack && !self.has("post.db") {
            return as_before("Nothing was put back yet; what others wrote meanwhile stays");
        }
        if let Ok(now) = &now
            && self.is_back(&then, now, way, control)?
        {
            return as_before("The schema is the one from before; what others wrote meanwhile stays");
        }
        let mut checks = Vec::new();
        let mut kept = None;
        let mut carried = None;
        if self.has("post.db") && now.is_ok() {
            match self.since_post(acknowledged, control)? {
                Since::Nothing => {}
                Since::Aside(check, words) => {
                    checks.push(check);
                    kept = Some(words);
                }
                Since::Carried(one, replaced) => {
                    checks.push(carried::evidence(std::slice::from_ref(&*one)));
                    kept = carried::words(std::slice::from_ref(&*one), "that others made meanwhile");
                    carried = Some((one, replaced));
                }
            }
        }
        let options = restore::Options {
            run: Some(format!("{:06}", self.run)),
            app_stopped: true,
            // The users wait: a plain copy is kept, and rows are counted; both were verified when they were made.
            keep: match &carried {
                Some((_, replaced)) => restore::Keep::Is(replaced.clone()),
                None => restore::Keep::Copy,
            },
            read_back: Depth::Counts,
            checked: carried.is_some(),
            ..restore::Options::new(&self.folder)
        };
        let (source, guard) = match (&carried, &now) {
            (Some((one, _)), Ok(now)) => (&one.out, Guard::Equals(one.now.as_ref().unwrap_or(now))),
            (None, Ok(now)) => (&pre, Guard::Equals(now)),
            // Unreadable: there is nothing to compare, and the restore keeps the damaged file.
            (_, Err(_)) => (&pre, Guard::Any),
        };
        let restored = restore::into(source, &self.file, guard, &options, control).map_err(|e| {
            let changed = matches!(e, crate::sqlite::Error::Changed { .. });
            let failure = failure("the snapshot taken in the hold could not be put back", &e);
            if changed { Trouble::Changed(failure) } else { Trouble::Other(failure) }
        })?;
        let replaced = restored.kept.map(|path| path.display().to_string());
        if way == Way::Others
            && let Some(file) = &replaced
        {
            // The app changes its schema by itself: what others wrote while it did cannot be told from its own work.
            let during = format!("what others wrote to the database while it was migrated is kept in {file}");
            kept = Some(kept.map_or(during.clone(), |words| format!("{words}; {during}")));
        } else if !self.has("post.db")
            && let Some(file) = &replaced
        {
            let unknown = format!(
                "the database as it was when the undo began is kept in {file}: whether others wrote to it could not be seen"
            );
            kept = Some(unknown);
        }
        checks.insert(
            0,
            Check::pass("back.restore", "The database is as it was before the migration")
                .with("replaced_database_kept", replaced)
                .with("locked_ms", u64::try_from(restored.locked.as_millis()).unwrap_or(u64::MAX)),
        );
        Ok(Restored { changed: true, checks, kept })
    }

    /// Whether the database is back already, or was never migrated, but for what others wrote: the schema is that of PRE,
    /// and so are the migrator's books; where it keeps none, POST shows that the schema had been another one. Without
    /// either it is put back once more: doing that twice is harmless, because what is there already counts as equal.
    fn is_back(
        &self,
        then: &Fingerprint,
        now: &Fingerprint,
        way: Way,
        control: &mut Control<'_>,
    ) -> Result<bool, Failure> {
        if then.objects != now.objects {
            return Ok(false);
        }
        if way == Way::Own {
            return Ok(BOOKS.iter().all(|book| then.tables.get(*book) == now.tables.get(*book)));
        }
        let post = self.at("post.db");
        if !post.exists() {
            return Ok(false);
        }
        let post = Fingerprint::of(&post, Depth::Counts, control)
            .map_err(|e| failure("the snapshot after the migration cannot be read", &e))?;
        Ok(post.objects != then.objects)
    }

    /// What was written since the migration, behind the shut door: carried over to a copy of PRE, or written to a file.
    fn since_post(&self, acknowledged: &[String], control: &mut Control<'_>) -> Result<Since, Trouble> {
        let (pre, post) = (self.at("pre.db"), self.at("post.db"));
        let (out, aside) = (self.at("carried.db"), self.at("set-aside.db"));
        // Of an attempt before this one.
        durable::remove(&out).map_err(Failure::from)?;
        carried::remove_aside(&aside)?;
        let since = diff::rows(Side::Finished(&post), Side::Live(&self.file), 0, &control.stop)
            .map_err(|e| failure("the database cannot be compared", &e))?;
        let tables: Vec<String> = since
            .tables
            .keys()
            .chain(since.only_first.keys())
            .chain(since.only_second.keys())
            .filter(|table| !BOOKS.contains(&table.as_str()))
            .cloned()
            .collect();
        if tables.is_empty() {
            return Ok(Since::Nothing);
        }
        if self.has("smoke-wrote") {
            // Orders of a test must not become somebody's: all of it goes to the file.
            let whose = "written by the smoke tests, or by others meanwhile,";
            return Ok(self.all_aside(&tables, whose, "Rows of the smoke tests set aside", control)?);
        }
        let replaced = restore::copy_aside(&self.file, &self.folder, control)
            .map_err(|e| failure("the database could not be copied", &e))?;
        let options = carry::Options {
            pre: &pre,
            post: &post,
            now: Side::Finished(&replaced),
            out: &out,
            aside: &aside,
            renames: &[],
            skip: &BOOKS,
            hash_now: true,
            limits: Limits::default(),
        };
        let prepared = carry::prepare(&options, control);
        let not_allowed = match &prepared {
            Ok(one) => one.unacknowledged(acknowledged),
            Err(_) => {
                let words = tables.iter().map(|table| format!("set-aside:{table}"));
                words.filter(|word| !acknowledged.contains(word)).collect()
            }
        };
        match prepared {
            Ok(one) if not_allowed.is_empty() => Ok(Since::Carried(Box::new(one), replaced)),
            Ok(one) => {
                carried::discard(&[one])?;
                durable::remove(&replaced).map_err(Failure::from)?;
                let why = "some of it has no place in the database from before the migration";
                Err(frozen(why, &not_allowed).into())
            }
            Err(carry::Error::Gate { failures }) => {
                durable::remove(&replaced).map_err(Failure::from)?;
                if !not_allowed.is_empty() {
                    let why = format!("it could not be carried over ({})", failures.join("; "));
                    return Err(frozen(&why, &not_allowed).into());
                }
                Ok(self.all_aside(&tables, "that others wrote", "Rows set aside", control)?)
            }
            Err(error) => {
                durable::remove(&replaced).map_err(Failure::from)?;
                Err(carried::failed(&error).into())
            }
        }
    }

    /// Every row that differs from POST, to the file.
    fn all_aside(
        &self,
        tables: &[String],
        whose: &str,
        name: &str,
        control: &mut Control<'_>,
    ) -> Result<Since, Failure> {
        let path = self.at("set-aside.db");
        let why = "undone: these rows came after the migration, behind the shut door";
        let (post, now) = (self.at("post.db"), Side::Live(&self.file));
        let aside = set_aside::write(&path, Side::Finished(&post), now, why, &control.stop)
            .map_err(|e| failure("the rows could not be set aside", &e))?;
        let file = path.display().to_string();
        let list = tables.join(", ");
        let words = format!("rows {whose} in {list} are no longer in the database and are kept in {file}");
        let rows = aside.map_or(0, |aside| aside.rows());
        let check = Check::pass("back.rows", name)
            .with("tables", tables.to_vec())
            .with("set_aside", rows)
            .with("file", file);
        Ok(Since::Aside(check, words))
    }

    /// The first release made the database; it goes into the run's folder, with its log.
    fn set_whole_file_aside(&self) -> Result<Option<Check>, Failure> {
        let mut moved = Vec::new();
        for suffix in ["-wal", "-shm", "-journal", ""] {
            let from = crate::sqlite::connection::beside(&self.file, suffix);
            if !from.exists() {
                continue;
            }
            let to = self.at(&format!("undone.db{suffix}"));
            fs::rename(&from, &to)
                .map_err(|e| io_failure("the database that the release made", &from, &e))?;
            moved.push(to.display().to_string());
        }
        if moved.is_empty() {
            return Ok(None);
        }
        if let Some(folder) = self.file.parent() {
            durable::sync_dir(folder)?;
        }
        durable::sync_dir(&self.folder)?;
        Ok(Some(
            Check::pass("back.restore", "There is no database again, as before the first release")
                .with("replaced_database_kept", moved),
        ))
    }

    /// Removes what only the run needed. What was set aside stays, and so do PRE and POST of a migration that went live:
    /// a rollback needs them (see [`crate::kept`]).
    pub(super) fn tidy(&self) -> Result<(), Failure> {
        if !self.stays() {
            for name in ["migrated", "pre.db", "post.db"] {
                durable::remove(&self.at(name))?;
            }
        }
        for name in ["pre.absent", "smoke-wrote", "reserve", "jobs.json", "carried.db"] {
            durable::remove(&self.at(name))?;
        }
        remove_with_sides(&self.at("post.making.db"));
        self.sweep()
    }

    fn stays(&self) -> bool {
        self.has("migrated") && !self.has("restored")
    }

    /// Removes what was tried on.
    pub(super) fn sweep(&self) -> Result<(), Failure> {
        let scratch = self.at("scratch");
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(|e| io_failure("the scratch folder", &scratch, &e))?;
        }
        Ok(())
    }
}

/// Only a person may let it go.
fn frozen(why: &str, words: &[String]) -> Failure {
    let flags: Vec<String> = words.iter().map(|word| format!("--acknowledge {word}")).collect();
    Failure {
        kind: FailureKind::Frozen,
        what: "somebody else wrote to the database during the hold".into(),
        why: why.into(),
        next: format!("to undo and keep those values in a file: plimsoll rollback {}", flags.join(" ")),
    }
}
