//! What the way back needs, in the run's folder, and the way back itself.
//!
//! `pre.db`: the database when nobody wrote any more. `post.db`: as the migration left it. `pre.absent`: there was none.
//! `restored`: the way back is done; whatever the database holds now came later and is the users' own.
//! `smoke-wrote`: smoke tests that write were run against it behind the shut door.

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_core::check::Check;
use plimsoll_core::ports::{Failure, FailureKind, Restored};

use super::{failure, io_failure};
use crate::durable;
use crate::sqlite::copy::{Copied, copy};
use crate::sqlite::diff::{self, Diff, Side};
use crate::sqlite::fingerprint::{Depth, Fingerprint};
use crate::sqlite::migrate::{self, Job};
use crate::sqlite::restore::{self, Guard};
use crate::sqlite::{Control, Limits, set_aside};

/// Tables that the migrator writes itself.
const BOOKS: [&str; 2] = ["schema_version", "plimsoll_migrations"];

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

    pub(super) fn take_post(&self, control: &mut Control<'_>) -> Result<Copied, Failure> {
        self.take("post.db", control)
    }

    /// POST as the migrations alone would have left it: they are applied to a copy of PRE.
    pub(super) fn make_post(
        &self,
        jobs: &[Job],
        acknowledged: &[String],
        control: &mut Control<'_>,
    ) -> Result<(), Failure> {
        let (pre, post) = (self.at("pre.db"), self.at("post.db"));
        fs::copy(&pre, &post).map_err(|e| io_failure("the snapshot after the migration", &post, &e))?;
        migrate::apply(&post, jobs, acknowledged, None, control, &mut |_| {})
            .map(|_| ())
            .map_err(|e| super::migration_failure("the snapshot after the migration could not be made", &e))
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

    /// Puts PRE back, unless the database still equals it. `own` says that only Plimsoll's own migrator may have changed
    /// the schema: then what it has not touched was written by others, and stays.
    pub(super) fn restore(
        &self,
        acknowledged: &[String],
        own: bool,
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
            match self.put_back(acknowledged, own, control) {
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
        own: bool,
        control: &mut Control<'_>,
    ) -> Result<Restored, Trouble> {
        let pre = self.at("pre.db");
        let then = Fingerprint::of(&pre, Depth::Content, control)
            .map_err(|e| failure("the snapshot taken in the hold cannot be read", &e))?;
        // The state that is judged is the state that may be replaced; a write in between aborts the restore.
        let now = Fingerprint::of(&self.file, Depth::Content, control);
        let same = now.as_ref().is_ok_and(|now| then.differences(now).is_empty());
        if same {
            let check = Check::pass("back.restore", "The database is as it was before the migration");
            return Ok(Restored { changed: false, checks: vec![check], kept: None });
        }
        let post = self.has("post.db");
        let untouched = |now: &Fingerprint| {
            then.objects == now.objects
                && BOOKS.iter().all(|book| then.tables.get(*book) == now.tables.get(*book))
        };
        if own && !post && now.as_ref().is_ok_and(untouched) {
            let name = "Nothing was migrated; what others wrote meanwhile stays";
            let check = Check::pass("back.restore", name);
            return Ok(Restored { changed: false, checks: vec![check], kept: None });
        }
        let mut checks = Vec::new();
        let mut kept = None;
        if post {
            let since =
                diff::rows(Side::Finished(&self.at("post.db")), Side::Live(&self.file), 0, &control.stop)
                    .map_err(|e| failure("the database cannot be compared", &e))?;
            if let Some((check, words)) = self.set_aside(&since, acknowledged, control)? {
                checks.push(check);
                kept = Some(words);
            }
        }
        let options = restore::Options {
            run: Some(format!("{:06}", self.run)),
            app_stopped: true,
            // The users wait: a plain copy is kept, and rows are counted; both were verified when PRE was taken.
            keep: restore::Keep::Copy,
            read_back: Depth::Counts,
            ..restore::Options::new(&self.folder)
        };
        let guard = match &now {
            Ok(now) => Guard::Equals(now),
            // Unreadable: there is nothing to compare, and the restore keeps the damaged file.
            Err(_) => Guard::Any,
        };
        let restored = restore::into(&pre, &self.file, guard, &options, control).map_err(|e| {
            let changed = matches!(e, crate::sqlite::Error::Changed { .. });
            let failure = failure("the snapshot taken in the hold could not be put back", &e);
            if changed { Trouble::Changed(failure) } else { Trouble::Other(failure) }
        })?;
        let replaced = restored.kept.map(|path| path.display().to_string());
        if !own && let Some(file) = &replaced {
            // The app migrates by itself, so what it wrote and what others wrote meanwhile cannot be told apart.
            kept = Some(format!("what was written to the database during the hold is kept in {file}"));
        }
        checks.insert(
            0,
            Check::pass("back.restore", "The database is as it was before the migration")
                .with("replaced_database_kept", replaced)
                .with("locked_ms", u64::try_from(restored.locked.as_millis()).unwrap_or(u64::MAX)),
        );
        Ok(Restored { changed: true, checks, kept })
    }

    /// Rows that came after the migration, behind the shut door: written to a file, if that is allowed.
    fn set_aside(
        &self,
        since: &Diff,
        acknowledged: &[String],
        control: &mut Control<'_>,
    ) -> Result<Option<(Check, String)>, Failure> {
        let own = self.has("smoke-wrote");
        let tables: Vec<String> = since
            .tables
            .keys()
            .chain(since.only_first.keys())
            .chain(since.only_second.keys())
            .filter(|table| !BOOKS.contains(&table.as_str()))
            .cloned()
            .collect();
        if tables.is_empty() {
            return Ok(None);
        }
        let words: Vec<String> = tables.iter().map(|table| format!("set-aside:{table}")).collect();
        let missing: Vec<&String> = words.iter().filter(|word| !acknowledged.contains(word)).collect();
        if !own && !missing.is_empty() {
            let flags: Vec<String> = missing.iter().map(|word| format!("--acknowledge {word}")).collect();
            return Err(Failure {
                kind: FailureKind::Frozen,
                what: "somebody else wrote to the database during the hold".into(),
                why: format!("rows in {} would be lost by the undo", tables.join(", ")),
                next: format!("to undo and keep those rows in a file: plimsoll rollback {}", flags.join(" ")),
            });
        }
        let path = self.at("set-aside.db");
        for old in [path.clone(), self.at("set-aside.db.sql")] {
            durable::remove(&old)?;
        }
        let why = "undone: these rows came after the migration, behind the shut door";
        let (post, now) = (self.at("post.db"), Side::Live(&self.file));
        set_aside::write(&path, Side::Finished(&post), now, why, &control.stop)
            .map_err(|e| failure("the rows could not be set aside", &e))?;
        let name = if own { "Rows of the smoke tests set aside" } else { "Rows set aside" };
        let file = path.display().to_string();
        let whose =
            if own { "written by the smoke tests, or by others meanwhile," } else { "that others wrote" };
        let words = format!(
            "rows {whose} in {} are no longer in the database and are kept in {file}",
            tables.join(", ")
        );
        let check = Check::pass("back.rows", name).with("tables", tables).with("file", file);
        Ok(Some((check, words)))
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

    /// Removes what only the run needed. What was set aside stays.
    pub(super) fn tidy(&self) -> Result<(), Failure> {
        for name in ["pre.db", "post.db", "pre.absent", "smoke-wrote", "reserve"] {
            durable::remove(&self.at(name))?;
        }
        self.sweep()
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
