//! The database of one run, as the engine's [`Database`]: backup, rehearsal, PRE, migration, POST, and the way back.
//!
//! What an undo needs lies in the run's folder and survives a crash; see [`keep`].

mod ahead;
pub mod back;
mod carried;
mod keep;
#[cfg(test)]
mod tests;
mod tried;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::check::Check;
use plimsoll_core::plan::{Pending, Rehearsal, Release, ReleaseId};
use plimsoll_core::ports::{Clock, Database, Failure, FailureKind, Moment, Restored};
use plimsoll_core::reconcile::{Reconciliation, Rows, Sequence};
use plimsoll_core::record::Kind;
use serde_json::{Map, Value};

use crate::copies;
use crate::durable;
use crate::process;
use crate::sqlite::backup::{self, Backup};
use crate::sqlite::connection::{ForeignKeys, open_own};
use crate::sqlite::fingerprint::{Depth, Fingerprint, Known};
use crate::sqlite::migrate::{self, Job};
use crate::sqlite::migration::{self, Migrations as Files};
use crate::sqlite::since::Since;
use crate::sqlite::{self, Control, Progress, Stop, Watcher, history, trial, verify};

use ahead::{Ahead, Ready};
pub use carried::Sums;
pub use keep::Keep;
use keep::Way;
pub use tried::Trying;

/// Who changes the schema.
#[derive(Clone, Debug)]
pub enum Migrations {
    /// Plimsoll applies the files of this folder, relative to the app's folder in the release.
    Folder(PathBuf),
    /// These commands do, one after another, in the app's folder.
    Commands(Vec<Vec<String>>),
    /// The app does when it starts.
    App,
}

/// Shows how far a long operation is.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;
/// Shows a line of a command's output.
pub type OnLine = Arc<dyn Fn(&str) + Send + Sync>;
/// Whether somebody asked the run to stop.
pub type StopAsked = Arc<dyn Fn() -> bool + Send + Sync>;
/// The app's folder in a release.
pub type AppFolder = Arc<dyn Fn(&ReleaseId) -> PathBuf + Send + Sync>;

/// What a run's database work depends on.
pub struct Settings {
    /// The live database.
    pub file: PathBuf,
    /// The folder for backups.
    pub backups: PathBuf,
    /// Places for second copies of the backup before the deployment.
    pub copies: Vec<copies::Place>,
    /// The run's own folder.
    pub run_folder: PathBuf,
    /// The run's number.
    pub run: u32,
    /// Counted first and named in the report.
    pub tables: Vec<String>,
    /// Who changes the schema.
    pub migrations: Migrations,
    /// Whether no release has been live yet; only then may the database be absent.
    pub first: bool,
    /// The app's folder in a release.
    pub app_folder: AppFolder,
    /// The environment of migrate commands, `DATABASE_PATH` included.
    pub env: BTreeMap<String, String>,
    /// For a rollback: the schema that the earlier release last ran with, if a run recorded it.
    pub earlier_schema: Option<String>,
    /// For a rollback: how the data goes back too, the newest run first; empty when only the code does.
    pub legs: Vec<back::Leg>,
    /// Whether users are kept out, by a front door, until the release is proved.
    pub front: bool,
    /// Acknowledgements, as typed.
    pub acknowledged: Vec<String>,
    /// Who gave them.
    pub by: String,
    /// Whether the run only rehearses: then its backup is a snapshot that goes with it.
    pub only_rehearsed: bool,
    /// How releases are tried on a copy, or why they cannot be.
    pub trying: Result<Trying, String>,
    /// Time.
    pub clock: Arc<dyn Clock + Send + Sync>,
    /// Asks long operations to stop. Only heard on the way forward.
    pub stop: Stop,
    /// Whether somebody asked the run to stop, for migrate commands.
    pub stop_asked: StopAsked,
    /// Shows how far a long operation is.
    pub on_progress: OnProgress,
    /// Shows the output of migrate commands.
    pub on_line: OnLine,
}

/// The database of one run.
pub struct RunDatabase {
    settings: Settings,
    keep: Keep,
    backup: Option<Backup>,
    jobs: Vec<Job>,
    /// Since PRE; notices writes of others in the hold.
    watcher: Option<Watcher>,
    /// For a rollback with its data: since before the backup, what was done before the hold, and what is left of it.
    since: Option<Since>,
    ahead: Option<Ahead>,
    ready: Option<Ready>,
}

impl RunDatabase {
    /// Touches nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let keep = Keep::new(&settings.run_folder, &settings.file, settings.run);
        RunDatabase {
            settings,
            keep,
            backup: None,
            jobs: Vec::new(),
            watcher: None,
            since: None,
            ahead: None,
            ready: None,
        }
    }

    fn exists(&self) -> Result<bool, Failure> {
        match fs::metadata(&self.settings.file) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Failure::failed(
                format!("the database {} cannot be looked at", self.settings.file.display()),
                error.to_string(),
                "run as the user who owns the database, or as root",
            )),
        }
    }

    /// The database must be there, except before the first release, which makes it.
    fn must_exist(&self) -> Result<bool, Failure> {
        let file = self.settings.file.display();
        if self.exists()? {
            // A file of no bytes is what is left of a database after `> store.db`, and SQLite would call it sound.
            let empty = fs::metadata(&self.settings.file).is_ok_and(|found| found.len() == 0);
            if empty && !self.settings.first {
                return Err(Failure::failed(
                    format!("the database {file} is empty"),
                    "a release is live, so it cannot be: the file has 0 bytes",
                    "find out who emptied it; restore the newest backup: plimsoll backup restore LATEST",
                ));
            }
            return Ok(true);
        }
        if !self.settings.first {
            return Err(Failure::failed(
                format!("the database {file} is gone"),
                "a release is live, so there must be one; an empty one in its place would be an empty shop",
                "find out who moved it; restore it from backups/ if it is lost; or correct [database].url",
            ));
        }
        let folder = self.settings.file.parent().unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            return Err(Failure {
                kind: FailureKind::Usage,
                what: format!("there is no database at {file}"),
                why: format!("and the folder {} is not there either", folder.display()),
                next: "correct [database].url, or make the folder".into(),
            });
        }
        if let Some(other) = other_database(&self.settings.file) {
            return Err(Failure {
                kind: FailureKind::Usage,
                what: format!("there is no database at {file}"),
                why: format!("but there is one at {}", other.display()),
                next: "correct [database].url, or move the file to where it points".into(),
            });
        }
        Ok(false)
    }

    fn stop_by(&self, until: Moment) -> Stop {
        let left = Duration::from_millis(until.since_ms(self.settings.clock.now()));
        self.settings.stop.by(Instant::now() + left)
    }

    fn control(&self, stop: Stop) -> Control<'static> {
        let on_progress = Arc::clone(&self.settings.on_progress);
        Control::new(stop, move |progress| on_progress(progress))
    }

    fn files(&self, release: &Release, folder: &Path) -> Result<Files, Failure> {
        let path = (self.settings.app_folder)(&release.id).join(folder);
        migration::load(&path).map_err(|e| migration_failure("the release's migrations cannot be used", &e))
    }

    fn run_name(&self) -> String {
        format!("{:06}", self.settings.run)
    }

    /// Runs the pending migrations on a copy, both ways.
    fn try_on_copy(
        &mut self,
        release: &Release,
        folder: &Path,
        exists: bool,
    ) -> Result<(Rehearsal, Vec<Check>), Failure> {
        let files = self.files(release, folder)?;
        let begun = Instant::now();
        let copy = self.copy_to_try(exists)?;
        let copy_ms = ms(begun.elapsed());
        let failed = |e: &migrate::Error| {
            migration_failure("the release does not fit the database, seen on a copy", e)
        };
        let status = history::status(&copy, &files).map_err(|e| failed(&e))?;
        fits(&status)?;
        let pending: Vec<_> = files.all.into_iter().filter(|m| status.pending.contains(&m.version)).collect();
        let mut control = self.control(self.settings.stop.clone());
        let outcomes = trial::run(&copy, &pending, &mut control)
            .map_err(|e| migration_failure("the migrations fail on a copy of the database", &e))?;
        let losses = outcomes.iter().flat_map(|outcome| self.losses(outcome)).collect();
        let mut checks = Vec::new();
        for outcome in &outcomes {
            let losses: Vec<String> =
                outcome.losses.iter().map(|l| format!("{} ({}: {})", l.word, l.quantity, l.detail)).collect();
            checks.push(
                Check::pass("pre.staging", format!("{} on a copy", outcome.file))
                    .with("ms", ms(outcome.took))
                    .with("class", word(&outcome.class))
                    .with("work", word(&outcome.work))
                    .with("mode", outcome.mode.words())
                    .with("touched", outcome.touched.clone())
                    .with("losses", losses)
                    .with("other_mode", outcome.other.clone()),
            );
        }
        checks.extend(tried::remarked(&pending, &outcomes));
        let migrate_ms = outcomes.iter().map(|outcome| ms(outcome.took)).sum();
        let described = |version: u64| {
            pending.iter().find(|m| m.version == version).map(|m| m.description.clone()).unwrap_or_default()
        };
        let rehearsal = Rehearsal {
            pending: outcomes
                .iter()
                .map(|outcome| Pending {
                    version: i64::try_from(outcome.version).unwrap_or(i64::MAX),
                    description: described(outcome.version),
                    class: word(&outcome.class),
                    ms: ms(outcome.took),
                    mode: outcome.mode.words(),
                    work: word(&outcome.work),
                    touched: outcome.touched.clone(),
                })
                .collect(),
            migrates_itself: false,
            migrate_ms,
            snapshot_ms: 2 * copy_ms,
            restore_ms: self.restore_ms(),
            losses,
            ..Rehearsal::default()
        };
        self.jobs = pending
            .into_iter()
            .zip(outcomes)
            .map(|(migration, outcome)| Job { migration, mode: outcome.mode })
            .collect();
        if self.jobs.is_empty() {
            checks.push(Check::pass("pre.staging", "No migration is pending").with("ms", copy_ms));
        }
        Ok((rehearsal, checks))
    }

    /// An undo verifies PRE, keeps what it replaces as a backup, and restores: about twice what the backup took.
    fn restore_ms(&self) -> u64 {
        self.backup.as_ref().map_or(0, |backup| 2 * backup.manifest.took_ms)
    }

    /// What a run needs on the disk and what is free: PRE, copies and WAL at the same time.
    fn disk(&self) -> Result<(u64, u64), Failure> {
        let bytes = self.backup.as_ref().map_or(0, |backup| backup.manifest.bytes);
        Ok((5 * bytes + (16 << 20), durable::free_space(&self.settings.run_folder)?))
    }

    /// Refused before anything is stopped.
    fn room(&self) -> Result<(), Failure> {
        let (need, have) = self.disk()?;
        if have >= need {
            return Ok(());
        }
        Err(Failure::failed(
            "there is not enough room on the disk for a deployment that can be undone",
            format!("{} MiB are needed, {} MiB are free", need >> 20, have >> 20),
            "free some room, then deploy again",
        ))
    }

    fn migrate_by_commands(
        &self,
        commands: &[Vec<String>],
        release: &Release,
        until: Moment,
    ) -> Result<Vec<Check>, Failure> {
        let mut checks = Vec::new();
        for words in commands {
            let command = process::Command {
                words: words.clone(),
                env: self.settings.env.clone(),
                folder: (self.settings.app_folder)(&release.id),
                mark: None,
            };
            let left = Duration::from_millis(until.since_ms(self.settings.clock.now()));
            let limits = process::Limits {
                time: Some(left),
                cancel: &*self.settings.stop_asked,
                ..process::Limits::default()
            };
            let text = words.join(" ");
            let ran = process::run(
                &command,
                limits,
                process::Sink::Lines(&mut |line| (self.settings.on_line)(line)),
            );
            let what = format!("the migrate command `{text}` failed");
            let ran = ran.map_err(|e| Failure::failed(&what, e.to_string(), "correct [database].migrate"))?;
            if !ran.end.is_success() {
                let why = format!("{}; its last lines: {}", ran.end, ran.tail.join(" | "));
                return Err(Failure::failed(what, why, "correct the migration and deploy again"));
            }
            checks.push(
                Check::pass("deploy.migrate", format!("`{text}`"))
                    .with("ms", ms(ran.took))
                    .with("last_lines", ran.tail),
            );
        }
        self.nothing_lost()?;
        Ok(checks)
    }

    /// Applies the pending migrations. A writer that nobody declared may have come since PRE: then PRE is taken again,
    /// so that an undo brings back what it wrote too.
    fn apply(&mut self, until: Moment, stop: &Stop) -> Result<Vec<migrate::Applied>, Failure> {
        let run = self.run_name();
        let mut again = 0;
        self.keep.note_jobs(&self.jobs)?;
        loop {
            let mut control = self.control(stop.clone());
            let (file, jobs, words) = (&self.settings.file, &self.jobs, &self.settings.acknowledged);
            let applied = match &mut self.watcher {
                Some(watcher) => {
                    migrate::apply_watched(file, jobs, words, Some(&run), watcher, &mut control, &mut |_| {})
                }
                None => migrate::apply(file, jobs, words, Some(&run), &mut control, &mut |_| {}),
            };
            match applied {
                Err(migrate::Error::Database(sqlite::Error::Changed { .. })) if again < 3 => {
                    again += 1;
                    let done = self.applied_jobs()?;
                    if !done.is_empty() {
                        // Between two migrations: PRE cannot be taken again. POST without the stranger's rows is
                        // made, so that the undo sees them.
                        let mut control = self.control(stop.clone());
                        self.keep.make_post(&done, &self.settings.acknowledged, &mut control)?;
                        return Err(Failure::failed(
                            "somebody else wrote to the database between two migrations",
                            "a cron job, a shell or another instance, which [[worker]] does not name",
                            "find out who it was, name it as a [[worker]], then deploy again",
                        ));
                    }
                    self.watcher = None;
                    self.snapshot(until)?;
                }
                Err(error) => {
                    // Others may have written since PRE; POST as it would be without them lets the undo see it.
                    let done = self.applied_jobs()?;
                    if !done.is_empty() && self.written_by_others()? {
                        let mut control = self.control(Stop::new());
                        self.keep.make_post(&done, &self.settings.acknowledged, &mut control)?;
                    }
                    return Err(migration_failure("a migration failed", &error));
                }
                Ok(applied) => return Ok(applied),
            }
        }
    }

    fn applied_jobs(&self) -> Result<Vec<Job>, Failure> {
        self.applied_of(&self.jobs)
    }

    fn applied_of(&self, jobs: &[Job]) -> Result<Vec<Job>, Failure> {
        let all = jobs.iter().map(|job| job.migration.clone()).collect();
        let status = history::status(&self.settings.file, &Files { all, gaps: Vec::new() })
            .map_err(|e| migration_failure("the applied migrations cannot be read", &e))?;
        let done = jobs.iter().filter(|job| !status.pending.contains(&job.migration.version));
        Ok(done.cloned().collect())
    }

    /// The owner may have died between two migrations, before POST: it is made from PRE by those that are applied, so
    /// that the undo sees what others wrote.
    fn post_of_the_dead(&self, control: &mut Control<'_>) -> Result<(), Failure> {
        if !self.keep.lacks_post() || !self.exists()? {
            return Ok(());
        }
        let done = self.applied_of(&self.keep.jobs()?)?;
        if done.is_empty() {
            return Ok(());
        }
        self.keep.make_post(&done, &self.settings.acknowledged, control)
    }

    fn written_by_others(&self) -> Result<bool, Failure> {
        let Some(watcher) = &self.watcher else { return Ok(false) };
        watcher.changed().map_err(|e| failure("the database cannot be watched", &e))
    }

    /// Whether a command that migrates has removed rows or tables that nobody acknowledged.
    fn nothing_lost(&self) -> Result<(), Failure> {
        let (Some(before), true) = (self.keep.pre_counts()?, self.exists()?) else { return Ok(()) };
        let after = self.counts()?;
        let mut words = Vec::new();
        for (table, content) in &before.tables {
            match after.tables.get(table) {
                None if content.rows > 0 => words.push(format!("drop:{table}")),
                Some(now) if now.rows < content.rows => words.push(format!("rows:{table}")),
                _ => {}
            }
        }
        words.retain(|word| !self.settings.acknowledged.contains(word));
        if words.is_empty() {
            return Ok(());
        }
        let flags: Vec<String> = words.iter().map(|word| format!("--acknowledge {word}")).collect();
        Err(Failure {
            kind: FailureKind::Blocked,
            what: "the migration lost data that nobody acknowledged".into(),
            why: words.join(", "),
            next: format!("if that is meant, deploy again with {}", flags.join(" ")),
        })
    }

    fn counts(&self) -> Result<Fingerprint, Failure> {
        let mut control = Control::quiet(Stop::new());
        Fingerprint::of(&self.settings.file, Depth::Counts, &mut control)
            .map_err(|e| failure("the database cannot be counted", &e))
    }

    /// Counts as evidence: the configured tables first, then the others.
    fn as_evidence(&self, counts: &Fingerprint) -> Value {
        let mut map = Map::new();
        let first = self.settings.tables.iter().filter(|name| counts.tables.contains_key(*name));
        for name in first.chain(counts.tables.keys()) {
            if let Some(content) = counts.tables.get(name) {
                map.entry(name.clone()).or_insert_with(|| content.rows.into());
            }
        }
        Value::Object(map)
    }
}

impl Database for RunDatabase {
    fn backup(&mut self) -> Result<Vec<Check>, Failure> {
        if !self.must_exist()? {
            let why = "the first release makes the database";
            let none = |id, name| Check::skipped(id, name, why);
            return Ok(vec![none("backup.create", "Full backup"), none("backup.verify", "Backup verified")]);
        }
        if self.settings.only_rehearsed {
            return self.snapshot_to_rehearse();
        }
        if self.settings.legs.len() == 1 {
            let (file, stop) = (&self.settings.file, &self.settings.stop);
            // Without it all is copied in the hold; what is wrong with the database, the backup says.
            self.since = Since::begin(file, sqlite::Limits::default(), stop).ok().flatten();
        }
        let request = backup::Request {
            run: Some(self.run_name()),
            ..backup::Request::new(&self.settings.file, &self.settings.backups, "before-deploy")
        };
        let mut control = self.control(self.settings.stop.clone());
        let made = backup::create(&request, &mut control)
            .map_err(|e| failure("the database could not be backed up", &e))?;
        let manifest = &made.manifest;
        let file = made.path.display().to_string();
        let unchecked = manifest.unchecked.clone();
        let verified = if unchecked.is_empty() {
            Check::pass("backup.verify", "Backup database integrity verified")
        } else {
            Check::unknown("backup.verify", "Backup verified", unchecked.join("; "))
        };
        let fk = match &manifest.content.fk_violations {
            Known::Is(n) => Value::from(*n),
            Known::Unknown(why) => Value::from(why.as_str()),
        };
        let counts = self.as_evidence(&manifest.content);
        let mut second = copies::second(&made.path, &self.settings.copies, &mut control);
        let mut checks = vec![
            Check::pass("backup.create", "Full backup")
                .with("file", file.as_str())
                .with("bytes", manifest.bytes)
                .with("ms", manifest.took_ms),
            verified.with("compared", manifest.compared.as_str()).with("foreign_key_violations", fk),
            Check::pass("backup.counts", "Rows before").with("counts", counts.clone()),
            Check::pass("backup.record", "Backup recorded")
                .with("primary", file)
                .with("timestamp", manifest.created_at.to_string())
                .with("counts", counts),
        ];
        checks.append(&mut second);
        self.backup = Some(made);
        Ok(checks)
    }

    fn rehearse(&mut self, release: &Release, kind: Kind) -> Result<(Rehearsal, Vec<Check>), Failure> {
        self.room()?;
        let exists = self.must_exist()?;
        if kind == Kind::Rollback && self.settings.legs.is_empty() {
            return self.fits_earlier(release);
        }
        if kind == Kind::Rollback {
            return self.rehearse_back();
        }
        let (mut rehearsal, mut checks) = match self.settings.migrations.clone() {
            Migrations::Folder(folder) => self.try_on_copy(release, &folder, exists)?,
            Migrations::Commands(_) | Migrations::App => {
                let begun = Instant::now();
                self.copy_to_try(exists)?;
                let snapshot_ms = 2 * ms(begun.elapsed());
                let restore_ms = self.restore_ms();
                (Rehearsal { snapshot_ms, restore_ms, ..Rehearsal::default() }, Vec::new())
            }
        };
        self.try_release(release, &mut rehearsal, &mut checks)?;
        self.acknowledge(&mut rehearsal, &mut checks);
        // The copies that were tried on make room for it.
        self.keep.sweep()?;
        self.keep.reserve(self.backup.as_ref().map_or(0, |backup| backup.manifest.bytes))?;
        rehearsal.disk = Some(self.disk()?);
        checks.push(
            Check::pass("pre.rollback", "Rollback prepared")
                .with("mode", tried::mode(&rehearsal))
                .with("restore_ms", rehearsal.restore_ms),
        );
        Ok((rehearsal, checks))
    }

    fn snapshot(&mut self, until: Moment) -> Result<Vec<Check>, Failure> {
        if !self.must_exist()? {
            self.keep.note_absent()?;
            return Ok(vec![Check::skipped("backup.record", "Final snapshot", "there is no database yet")]);
        }
        let watcher =
            Watcher::open(&self.settings.file).map_err(|e| failure("the database cannot be watched", &e))?;
        let begun = Instant::now();
        let check = Check::pass("backup.record", "Final snapshot, nobody writing");
        self.ready = None;
        if let Some(ahead) = self.ahead.take() {
            self.ready = self.keep.take_pre_of(ahead)?;
        }
        let check = match &self.ready {
            Some(ready) => check.with("pages_since_the_backup", ready.changed.len()),
            None => {
                let mut control = self.control(self.stop_by(until));
                check.with("bytes", self.keep.take_pre(&mut control)?.bytes())
            }
        };
        self.watcher = Some(watcher);
        Ok(vec![check.with("ms", ms(begun.elapsed()))])
    }

    fn migrate(&mut self, release: &Release, until: Moment) -> Result<Vec<Check>, Failure> {
        let stop = self.stop_by(until);
        if !self.settings.legs.is_empty() {
            return self.go_back(&stop);
        }
        let mut checks = match self.settings.migrations.clone() {
            Migrations::Folder(_) => {
                if !self.exists()? {
                    make_empty(&self.settings.file)?;
                }
                let applied = self.apply(until, &stop)?;
                applied
                    .iter()
                    .map(|one| {
                        Check::pass("deploy.migrate", one.file.as_str())
                            .with("version", one.version)
                            .with("ms", ms(one.took))
                            .with("class", word(&one.class))
                            .with("lost", one.losses.iter().map(|l| l.word.clone()).collect::<Vec<_>>())
                    })
                    .collect()
            }
            Migrations::Commands(commands) => self.migrate_by_commands(&commands, release, until)?,
            Migrations::App => {
                let why = "the app migrates itself when it starts";
                return Ok(vec![Check::skipped("deploy.migrate", "Migrations", why)]);
            }
        };
        let migrated = !checks.is_empty();
        if !migrated {
            checks.push(Check::skipped("deploy.migrate", "Migrations", "none is pending"));
        }
        let mut control = self.control(stop);
        self.keep.take_post(&mut control)?;
        if migrated {
            self.keep.note_migrated()?;
        }
        // A write of somebody else that came before POST was taken is in POST, where an undo would not see it.
        // POST is then made from PRE, by the same migrations.
        if self.written_by_others()? && matches!(self.settings.migrations, Migrations::Folder(_)) {
            self.keep.make_post(&self.jobs, &self.settings.acknowledged, &mut control)?;
        }
        Ok(checks)
    }

    fn verify(&mut self, release: &Release) -> Result<Vec<Check>, Failure> {
        if !self.exists()? {
            let why = format!("{} does not exist, and the new release runs", self.settings.file.display());
            return Ok(vec![
                Check::fail("verify.script", "The database is there", why)
                    .with("next", "let the app open the file named by DATABASE_PATH"),
            ]);
        }
        // An app that migrates at its start has done so by now, and nobody has been let in to it.
        if matches!(self.settings.migrations, Migrations::App)
            && self.settings.front
            && self.keep.lacks_post()
        {
            let mut control = Control::quiet(self.settings.stop.clone());
            self.keep.take_post(&mut control)?;
            self.keep.note_migrated()?;
        }
        let now = self.counts()?;
        let schema = now.schema_hash();
        let mut checks = Vec::new();
        if let Some(before) =
            self.keep.pre_counts()?.or_else(|| self.backup.as_ref().map(|b| b.manifest.content.clone()))
        {
            let (before, after) = (self.as_evidence(&before), self.as_evidence(&now));
            checks.push(
                Check::pass("verify.counts", "Rows before and after")
                    .with("before", before)
                    .with("after", after),
            );
        }
        let mut versions = match self.settings.migrations.clone() {
            Migrations::Folder(folder) => {
                let files = self.files(release, &folder)?;
                let status = history::status(&self.settings.file, &files)
                    .map_err(|e| migration_failure("the applied migrations cannot be read", &e))?;
                let expected: Vec<u64> = files.all.iter().map(|m| m.version).collect();
                let applied: Vec<u64> = status.applied.iter().filter_map(|a| a.version).collect();
                let check = if status.pending.is_empty() {
                    Check::pass("verify.versions", "Expected migration versions applied")
                } else {
                    let why = format!("not applied: {:?}", status.pending);
                    Check::fail("verify.versions", "Expected migration versions applied", why)
                };
                check.with("expected", expected).with("applied", applied)
            }
            Migrations::Commands(_) | Migrations::App => {
                Check::skipped("verify.versions", "Migration versions", "the app keeps them itself")
            }
        };
        versions = versions.with("schema", schema);
        checks.push(versions);
        let mut control = Control::quiet(Stop::new());
        let report = verify::database(&self.settings.file, &mut control)
            .map_err(|e| failure("the database cannot be verified", &e))?;
        let script = if report.sound() {
            Check::pass("verify.script", "Database verified")
        } else {
            Check::fail("verify.script", "Database verified", report.failures().join("; "))
        };
        checks.push(script.with("unchecked", report.unchecked()));
        Ok(checks)
    }

    fn restore(&mut self, acknowledged: &[String]) -> Result<Restored, Failure> {
        // They must not stand in the way of the restore.
        self.watcher = None;
        (self.since, self.ahead, self.ready) = (None, None, None);
        let mut control = Control::quiet(Stop::new());
        let way = match self.settings.migrations {
            Migrations::Folder(_) => Way::Own,
            _ if !self.settings.legs.is_empty() => Way::RolledBack,
            _ => Way::Others,
        };
        if !self.settings.legs.is_empty() {
            self.keep.forget_plan()?;
        } else if way == Way::Own
            && let Err(failure) = self.post_of_the_dead(&mut control)
        {
            // Without it the way back still works, and says that it could not see what others wrote.
            (self.settings.on_line)(&failure.to_string());
        }
        self.keep.restore(acknowledged, way, &mut control)
    }

    fn unharmed(&mut self) -> Result<Vec<Check>, Failure> {
        let name = "The database beside the release that served";
        let Some(backup) = &self.backup else { return Ok(Vec::new()) };
        let (before, now) = (&backup.manifest.content, self.counts()?);
        let mut harm = Vec::new();
        if before.schema_hash() != now.schema_hash() {
            harm.push("the release that was undone had changed the schema".to_owned());
        }
        for (table, content) in &before.tables {
            let rows = now.tables.get(table).map_or(0, |now| now.rows);
            if rows < content.rows {
                harm.push(format!("{table} has {} rows fewer than before", content.rows - rows));
            }
        }
        if harm.is_empty() {
            return Ok(vec![Check::pass("back.verify", name).with("schema", "unchanged")]);
        }
        harm.push(format!("the backup from before is {}", backup.path.display()));
        Ok(vec![Check::fail("back.verify", name, harm.join("; "))])
    }

    fn reconcile(&mut self) -> Result<Option<Reconciliation>, Failure> {
        if !self.exists()? {
            return Ok(None);
        }
        let before = match self.keep.pre_counts()? {
            Some(before) => Some(before),
            None => self.backup.as_ref().map(|backup| backup.manifest.content.clone()),
        };
        let migrated = self.keep.post_counts()?;
        let now = self.counts()?;
        let rows = |of: &Option<Fingerprint>, table: &String| {
            of.as_ref().map(|of| of.tables.get(table).map_or(0, |content| content.rows))
        };
        let tables = now.tables.keys().chain(before.iter().flat_map(|before| before.tables.keys()));
        let tables = tables.map(|table| {
            let count = now.tables.get(table).map_or(0, |content| content.rows);
            (table.clone(), Rows::of(rows(&before, table), rows(&migrated, table), count))
        });
        let sequences = sqlite::schema::numbers(&self.settings.file)
            .map_err(|e| failure("the numbers of the rows cannot be read", &e))?
            .into_iter()
            .map(|(table, (counter, largest))| (table, Sequence { counter, largest }));
        Ok(Some(Reconciliation { requests: None, tables: tables.collect(), sequences: sequences.collect() }))
    }

    fn tidy(&mut self) -> Result<(), Failure> {
        self.watcher = None;
        (self.since, self.ahead, self.ready) = (None, None, None);
        self.forget_rehearsal()?;
        self.keep.tidy()
    }
}

impl RunDatabase {
    fn fits_earlier(&self, release: &Release) -> Result<(Rehearsal, Vec<Check>), Failure> {
        let now = schema_of(&self.settings.file)?;
        fits_earlier(&release.id, self.settings.earlier_schema.as_deref(), &now)?;
        let check = Check::pass("pre.rollback", "The earlier release fits the database")
            .with("mode", "code-only")
            .with("schema", now);
        Ok((Rehearsal::default(), vec![check]))
    }
}

/// The hash of a database's schema.
///
/// # Errors
/// When the database cannot be read.
pub fn schema_of(file: &Path) -> Result<String, Failure> {
    let mut control = Control::quiet(Stop::new());
    Fingerprint::of(file, Depth::Counts, &mut control)
        .map(|content| content.schema_hash())
        .map_err(|e| failure("the database cannot be read", &e))
}

/// A rollback of code alone is safe when the database still has the schema that the earlier release ran with.
///
/// # Errors
/// [`FailureKind::Blocked`] when it has another one, or when no run recorded it.
pub fn fits_earlier(release: &ReleaseId, earlier: Option<&str>, now: &str) -> Result<(), Failure> {
    let why = match earlier {
        Some(earlier) if earlier == now => return Ok(()),
        Some(_) => "the schema has changed since that release was live: a migration lies between",
        None => "no run has recorded the schema that it ran with",
    };
    Err(Failure {
        kind: FailureKind::Blocked,
        what: format!("going back to {release} would need the data to go back too"),
        why: why.into(),
        next: "deploy a commit that reverts the code and keeps the schema (git revert), or mend it forward"
            .into(),
    })
}

/// The database must not know migrations that the release does not, nor others under the same number.
fn fits(status: &history::Status) -> Result<(), Failure> {
    if !status.missing_files.is_empty() {
        let versions: Vec<&str> = status.missing_files.iter().map(|a| a.written.as_str()).collect();
        return Err(Failure::failed(
            "the database is newer than this release, or belongs to another app",
            format!("it has had migrations that the release has no file for: {}", versions.join(", ")),
            "deploy a commit that has those migrations, or correct [database].url",
        ));
    }
    if !status.edited.is_empty() {
        return Err(Failure::failed(
            "migrations that were applied have been edited since",
            format!("the files of these versions differ from what was applied: {:?}", status.edited),
            "put the files back as they were, and make the change in a new migration",
        ));
    }
    if !status.failed.is_empty() {
        return Err(Failure::failed(
            "schema_version says that a migration failed before",
            format!("not applied: {}", status.failed.join(", ")),
            "mend the database, then set the row's status to 'applied' or delete it",
        ));
    }
    Ok(())
}

/// An empty database that SQLite has written its header to.
fn make_empty(path: &Path) -> Result<(), Failure> {
    durable::write(path, durable::PRIVATE, b"")?;
    let made = open_own(path, ForeignKeys::Off).and_then(|connection| {
        connection
            .execute_batch(
                "BEGIN IMMEDIATE; CREATE TABLE plimsoll_empty(x); DROP TABLE plimsoll_empty; COMMIT;",
            )
            .map_err(|e| sqlite::Error::of(path, "creating", &e))
    });
    made.map_err(|e| failure("an empty database could not be made", &e))
}

/// Another SQLite file beside the place where the database should be: the path is probably mistyped.
fn other_database(file: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(file.parent()?).ok()?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file() && path != file)
        .filter(|path| {
            let mut magic = [0; 16];
            let read = fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut magic));
            read.is_ok() && &magic == b"SQLite format 3\0"
        })
        .collect();
    found.sort();
    found.into_iter().next()
}

/// A sqlite error as a failure.
pub(crate) fn failure(what: &str, error: &sqlite::Error) -> Failure {
    let kind = match error {
        sqlite::Error::Stopped { .. } => FailureKind::Interrupted,
        _ => FailureKind::Failed,
    };
    Failure::failed(what, error.to_string(), error.hint()).of_kind(kind)
}

fn migration_failure(what: &str, error: &migrate::Error) -> Failure {
    let kind = match error {
        migrate::Error::Loss { .. } => FailureKind::Blocked,
        migrate::Error::Database(sqlite::Error::Stopped { .. }) => FailureKind::Interrupted,
        _ => FailureKind::Failed,
    };
    Failure::failed(what, error.to_string(), error.hint()).of_kind(kind)
}

pub(crate) fn io_failure(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(
        format!("{what} could not be written"),
        format!("{}: {error}", path.display()),
        "see that the disk has room and the folder may be written to",
    )
}

/// The serialized word of an enum.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
