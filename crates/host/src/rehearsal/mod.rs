//! The release tried on a copy of production's database, walled off from production: the new release on the migrated
//! copy, then the old one on the same.
//!
//! The copy of a release lies in the run's scratch folder, with its own `shared/`. What runs there can read neither
//! production's folders nor write anywhere else ([`confine`]), and its network is its own where that is allowed.

pub mod confine;
mod copy;
mod culprit;
mod network;
mod tryout;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::plan::{ReleaseId, Smoke};
use plimsoll_core::ports::{Failure, FailureKind};

use crate::durable;
use crate::logfile::LogFile;
use crate::service::{App, Children};
use crate::sqlite::census::{Census, Class};
use crate::sqlite::connection::{ForeignKeys, open_own, open_read};
use crate::sqlite::restore::{self, Guard};
use crate::sqlite::schema::{self, Object};
use crate::sqlite::script::Named;
use crate::sqlite::{self, Control, Stop};
use copy::Places;
use tryout::{Bench, Tried};

/// A release to try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its id.
    pub id: ReleaseId,
    /// Its folder, built and linked.
    pub folder: PathBuf,
}

/// What to rehearse.
pub struct Spec {
    /// How production runs the app; `command` is `[rehearsal].command` where others supervise it. `database` is
    /// production's, which is only read, and only its schema.
    pub app: App,
    /// `[rehearsal].env`: goes over the app's own. `$DATABASE_PATH` in a value stands for the copied database.
    pub env: BTreeMap<String, String>,
    /// The release that is to go live.
    pub new: Candidate,
    /// The live one; `None` before the first.
    pub old: Option<Candidate>,
    /// A copy of the database with Plimsoll's own migrations applied. It is used up.
    pub copy: PathBuf,
    /// `[database].migrate`: run on the copy first.
    pub migrate: Vec<Vec<String>>,
    /// The backup of this run, whose restore is timed.
    pub backup: Option<PathBuf>,
    /// `[[smoke]]`.
    pub smoke: Vec<Smoke>,
    /// `[front].public_url`.
    pub public_url: Option<String>,
    /// Folders of production beside those in the app's root: where the backups are, second copies.
    pub refused: Vec<PathBuf>,
    /// How this program is started to confine itself and become another: the words before the walls' file, such as
    /// `/usr/bin/plimsoll __confine`. See [`confine::exec`].
    pub launcher: Vec<String>,
    /// A folder for everything; it is made anew, and removed at the end.
    pub scratch: PathBuf,
    /// Where the output of what runs goes.
    pub log: PathBuf,
    /// For all of it.
    pub limit: Duration,
    /// Asks it to end.
    pub stop: Stop,
    /// Shown what is being done.
    pub on_line: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Whether something was shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// It was seen to work.
    Proven,
    /// It was seen not to work, or the rehearsal was interrupted.
    Failed(Failure),
    /// It could not be seen, and why. Never counts as proven.
    NotTried(String),
}

impl Proof {
    /// Whether it was seen to work.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        matches!(self, Proof::Proven)
    }
}

/// What kept the copy from production.
#[derive(Clone, Debug, PartialEq)]
pub struct Confinement {
    /// `full`, or what is missing; `none: WHY`.
    pub filesystem: String,
    /// `namespace`; `landlock-ports: WHY` when only TCP connections are refused; `none: WHY`.
    pub network: String,
    /// Sockets in the file system (mail, databases, system services): `refused`, `covered`, `reachable: WHY`.
    pub sockets: String,
}

/// Measured times, milliseconds; `None` where it was not come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// Copying the release.
    pub copy_ms: Option<u64>,
    /// The migrate commands.
    pub migrate_ms: Option<u64>,
    /// The new release from its start to its first good answer, its own migrations included.
    pub startup_ms: Option<u64>,
    /// The new release until it had stopped.
    pub stop_ms: Option<u64>,
    /// All smoke tests of the new release.
    pub smoke_ms: Option<u64>,
    /// The old release from its start to its first good answer.
    pub old_startup_ms: Option<u64>,
    /// The backup restored over the migrated copy, read back.
    pub restore_ms: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// For the report. A failed one stands for `new` alone; what the old release cannot do is unknown.
    pub checks: Vec<Check>,
    /// The new release on the migrated copy, smoke tests that write included.
    pub new: Proof,
    /// The old release on the database as the new one left it: whether code alone can be rolled back.
    pub old_on_new: Proof,
    /// Objects of the schema that the new release changed when it started.
    pub schema_changed_at_start: Vec<String>,
    /// What the migrate commands, or a start that changed the schema, lost: as typed after `--acknowledge`.
    pub losses: Vec<String>,
    /// The worst of what these did, in the words of a migration's class: `no-op`, `additive`, `rebuild`...
    pub class: Option<Class>,
    /// What kept the copy from production.
    pub confinement: Confinement,
    /// Times.
    pub times: Times,
}

impl Findings {
    /// Nothing was run, and why.
    #[must_use]
    pub fn not_tried(why: &str) -> Findings {
        let none = format!("none: {why}");
        Findings {
            checks: vec![
                Check::unknown("pre.staging", NEW, why),
                Check::unknown("pre.rollback", OLD, why).with("code_only", "not proven"),
            ],
            new: Proof::NotTried(why.to_owned()),
            old_on_new: Proof::NotTried(why.to_owned()),
            schema_changed_at_start: Vec::new(),
            losses: Vec::new(),
            class: None,
            confinement: Confinement { filesystem: none.clone(), network: none.clone(), sockets: none },
            times: Times::default(),
        }
    }
}

const NEW: &str = "The new release on a copy of the database";
const OLD: &str = "The old release on the migrated copy";

/// Rehearses. Production is not touched, whatever the releases do; nothing that was started is left running.
#[must_use]
pub fn rehearse(spec: &Spec) -> Findings {
    if let Err(why) = confine::supported() {
        return Findings::not_tried(&format!("{why}, so a copy could touch production: nothing was run"));
    }
    // Those of this machine, before the thread below leaves its network.
    let sockets = confine::listening_sockets();
    network::within(|own_network| {
        if let (Err(why), Some(address)) = (&own_network, spec.app.address) {
            let why = format!("the app listens on {address} only, as production does, and {why}");
            return Findings::not_tried(&why);
        }
        let scratch = match Scratch::make(&spec.scratch) {
            Ok(scratch) => scratch,
            Err(failure) => return Findings::not_tried(&failure.to_string()),
        };
        let bench = match bench(spec, &scratch, own_network, sockets) {
            Ok(bench) => bench,
            Err(failure) => return Findings::not_tried(&failure.to_string()),
        };
        Rehearsal { spec, bench, findings: Findings::not_tried("it was not come to") }.run()
    })
}

/// The folder of a rehearsal; it is gone with this.
struct Scratch(PathBuf);

impl Scratch {
    fn make(path: &Path) -> Result<Scratch, durable::Error> {
        remove(path).map_err(|e| durable::Error::io("remove", path, e))?;
        let scratch = Scratch(path.to_owned());
        for folder in ["inside/shared", "inside/database", "inside/releases", "inside/tmp"] {
            durable::create_dir(&path.join(folder), durable::PRIVATE_DIR)?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is removed with the run's scratch, and by the next rehearsal.
        let _ = remove(&self.0);
    }
}

/// Removes a folder, also when folders in it are read-only.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn open_up(folder: &Path) -> std::io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(durable::PRIVATE_DIR))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

fn bench(
    spec: &Spec,
    scratch: &Scratch,
    own_network: Result<(), String>,
    sockets: Vec<PathBuf>,
) -> Result<Bench, Failure> {
    let inside = scratch.0.join("inside");
    let app = &spec.app;
    let places = Places::new(&app.root, &inside, app.database.as_deref());
    if let Some(database) = places.database() {
        if let Some(folder) = database.parent() {
            durable::create_dir(folder, durable::PRIVATE_DIR)?;
        }
        let moved = fs::rename(&spec.copy, database).or_else(|_| fs::copy(&spec.copy, database).map(|_| ()));
        moved.map_err(|e| durable::Error::io("create", database, e))?;
    }
    let mut refused = spec.refused.clone();
    refused.extend(["releases", "shared", "backups", "runs", "logs", "mirror.git"].map(|n| app.root.join(n)));
    refused.extend(app.database.as_deref().map(database_refused).unwrap_or_default());
    let log = LogFile::open(&spec.log, crate::logfile::MAX_BYTES, crate::logfile::FILES)?;
    let deadline = Instant::now() + spec.limit;
    Ok(Bench {
        deadline,
        stop: spec.stop.by(deadline),
        readable: confine::all_but(&refused),
        sockets,
        own_network,
        inside,
        walls: scratch.0.join("walls.json"),
        places,
        log,
        children: Children::unlisted(&app.root),
        confined: None,
    })
}

/// The database's folder; or, when that is home to more than the database, the files of the database itself.
fn database_refused(database: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
    let Some(folder) = real.parent() else { return vec![real] };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let shared_by_many =
        folder.components().count() <= 2 || home.is_some_and(|home| home.starts_with(folder));
    if !shared_by_many {
        return vec![folder.to_owned()];
    }
    let name = real.file_name().unwrap_or_default().as_encoded_bytes();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of_it =
        |path: &PathBuf| path.file_name().is_some_and(|found| found.as_encoded_bytes().starts_with(name));
    entries.map(|entry| entry.path()).filter(of_it).chain([real.clone()]).collect()
}

struct Rehearsal<'a> {
    spec: &'a Spec,
    bench: Bench,
    findings: Findings,
}

impl Rehearsal<'_> {
    fn run(mut self) -> Findings {
        self.findings.checks.clear();
        let (spec, say) = (self.spec, Arc::clone(&self.spec.on_line));
        say(&format!("trying {} on a copy of the database", spec.new.id));
        self.findings.new = match self.new_release() {
            Ok(()) => Proof::Proven,
            Err(failure) => Proof::Failed(failure),
        };
        self.findings.confinement = self.bench.confinement();
        let new = self.new_check();
        self.findings.checks.insert(0, new);
        self.findings.old_on_new = match (&spec.old, &self.findings.new) {
            (None, _) => Proof::NotTried("there is no release before".to_owned()),
            (Some(_), Proof::Proven) => {
                say(&format!("trying {} on the migrated copy", self.old_id()));
                self.old_release()
            }
            (Some(_), _) => Proof::NotTried("the new release failed".to_owned()),
        };
        let old = self.old_check();
        self.findings.checks.push(old);
        if self.findings.new.is_proven() && spec.backup.is_some() {
            say("restoring the backup on a copy");
            let restored = self.restore();
            self.findings.checks.push(restored);
        }
        self.findings
    }

    fn old_id(&self) -> String {
        self.spec.old.as_ref().map(|old| old.id.0.clone()).unwrap_or_default()
    }

    /// Migrates, starts and asks the new release.
    fn new_release(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let (folder, copied) = self.bench.copy(&self.spec.new)?;
        self.findings.times.copy_ms = Some(ms(begun.elapsed()));
        let mut census = self.census()?;
        if !self.spec.migrate.is_empty() {
            let begun = Instant::now();
            self.bench.migrate(self.spec, &folder)?;
            self.findings.times.migrate_ms = Some(ms(begun.elapsed()));
            let after = self.census()?;
            self.judge(&census, &after);
            census = after;
        }
        let objects = self.objects()?;
        let tried = self.bench.try_release(self.spec, &self.spec.new, &folder)?;
        self.findings.times.startup_ms = Some(tried.startup_ms);
        self.findings.times.stop_ms = Some(tried.stop_ms);
        self.findings.times.smoke_ms = Some(tried.smoke_ms);
        let after = self.objects()?;
        self.findings.schema_changed_at_start = differences(&objects, &after);
        if !self.findings.schema_changed_at_start.is_empty() {
            let now = self.census()?;
            self.judge(&census, &now);
        }
        self.review(&after);
        let verdict = tried.verdict(self.spec, &self.bench);
        self.take_smoke("On a copy: ", &tried);
        self.findings.checks.push(tried.opened.clone());
        if !copied.notes.is_empty() {
            let notes = Check::pass("pre.staging", "The copy of the release").with("notes", copied.notes);
            self.findings.checks.push(notes.with("files", copied.files).with("bytes", copied.bytes));
        }
        verdict
    }

    fn take_smoke(&mut self, prefix: &str, tried: &Tried) {
        for check in &tried.smoke {
            let mut check = check.clone();
            check.id = "pre.staging".to_owned();
            check.name = format!("{prefix}{}", check.name);
            self.findings.checks.push(check);
        }
    }

    fn new_check(&self) -> Check {
        let (findings, confinement) = (&self.findings, &self.findings.confinement);
        let check = match &findings.new {
            Proof::Proven => Check::pass("pre.staging", NEW),
            Proof::Failed(failure) if failure.kind == FailureKind::Interrupted => {
                Check::unknown("pre.staging", NEW, failure.to_string())
            }
            Proof::Failed(failure) => {
                Check::fail("pre.staging", NEW, failure.to_string()).with("next", failure.next.as_str())
            }
            Proof::NotTried(why) => Check::unknown("pre.staging", NEW, why.as_str()),
        };
        check
            .with("release", self.spec.new.id.0.as_str())
            .with("filesystem", confinement.filesystem.as_str())
            .with("network", confinement.network.as_str())
            .with("sockets", confinement.sockets.as_str())
            .with("startup_ms", findings.times.startup_ms)
            .with("smoke_ms", findings.times.smoke_ms)
            .with("migrate_ms", findings.times.migrate_ms)
            .with("schema_changed_at_start", findings.schema_changed_at_start.clone())
            .with("losses", findings.losses.clone())
    }

    /// The old release: whatever comes of it, the deployment goes on.
    fn old_release(&mut self) -> Proof {
        let Some(old) = &self.spec.old else { return Proof::NotTried(String::new()) };
        let tried =
            self.bench.copy(old).and_then(|(folder, _)| self.bench.try_release(self.spec, old, &folder));
        match tried {
            Ok(tried) => {
                self.findings.times.old_startup_ms = Some(tried.startup_ms);
                match tried.verdict(self.spec, &self.bench) {
                    Ok(()) => Proof::Proven,
                    Err(failure) => Proof::Failed(failure),
                }
            }
            Err(failure) => Proof::Failed(failure),
        }
    }

    fn old_check(&self) -> Check {
        let proven = |check: Check, word: &str| {
            check.with("code_only", word).with("startup_ms", self.findings.times.old_startup_ms)
        };
        match &self.findings.old_on_new {
            Proof::Proven => proven(Check::pass("pre.rollback", OLD), "proven"),
            Proof::Failed(failure) => {
                proven(Check::unknown("pre.rollback", OLD, failure.to_string()), "refuted")
            }
            Proof::NotTried(why) => proven(Check::skipped("pre.rollback", OLD, why.as_str()), "not proven"),
        }
        .with("release", self.old_id())
    }

    /// An undo's restore: the backup into the migrated database, through SQLite.
    fn restore(&mut self) -> Check {
        let name = "The backup restored over the migrated copy";
        let (Some(backup), Some(database)) = (&self.spec.backup, self.bench.places.database()) else {
            return Check::skipped("pre.rollback", name, "there is no backup");
        };
        let begun = Instant::now();
        let options = restore::Options {
            app_stopped: true,
            keep: restore::Keep::Copy,
            ..restore::Options::new(self.bench.inside.join("tmp"))
        };
        let mut control = Control::quiet(self.bench.stop.clone());
        match restore::into(backup, database, Guard::Any, &options, &mut control) {
            Ok(restored) if restored.differences.is_empty() => {
                let took = ms(begun.elapsed());
                self.findings.times.restore_ms = Some(took);
                Check::pass("pre.rollback", name).with("ms", took)
            }
            Ok(restored) => Check::unknown("pre.rollback", name, restored.differences.join("; ")),
            Err(error) => Check::unknown("pre.rollback", name, error.to_string()),
        }
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(database) = self.bench.places.database() else { return Ok(None) };
        // Through a connection that may write: a copy that was killed leaves a log to be folded in.
        let mut connection = open_own(database, ForeignKeys::Off).map_err(|e| unreadable(&e))?;
        self.bench.stop.interrupts(&mut connection);
        read(&connection).map(Some).map_err(|e| {
            self.bench.over().unwrap_or_else(|| unreadable(&sqlite::Error::of(database, "reading", &e)))
        })
    }

    fn objects(&self) -> Result<Vec<Object>, Failure> {
        Ok(self.read(schema::objects)?.unwrap_or_default())
    }

    fn census(&self) -> Result<Option<Census>, Failure> {
        self.read(Census::take)
    }

    fn judge(&mut self, before: &Option<Census>, after: &Option<Census>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let changes = before.changes(after, &Named::in_script(""));
        self.findings.class = self.findings.class.max(Some(changes.class));
        self.findings.losses.extend(changes.losses.into_iter().map(|loss| loss.word));
        self.findings.losses.sort();
        self.findings.losses.dedup();
    }

    /// What becomes of production's schema.
    fn review(&mut self, after: &[Object]) {
        let name = "Schema before and after";
        let Some(live) = &self.spec.app.database else { return };
        let before = match open_read(live) {
            Ok(connection) => schema::objects(&connection).map_err(|e| e.to_string()),
            Err(sqlite::Error::Absent { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        };
        self.findings.checks.push(match before {
            Ok(before) => Check::pass("pre.review", name).with("schema", differences(&before, after)),
            Err(why) => Check::unknown("pre.review", name, why),
        });
    }
}

fn unreadable(error: &sqlite::Error) -> Failure {
    Failure::failed("the rehearsal's copy of the database cannot be read", error.to_string(), error.hint())
}

/// In what the second differs from the first: `new table coupons`, `changed table orders`, `gone index by_total`.
fn differences(before: &[Object], after: &[Object]) -> Vec<String> {
    let find = |list: &[Object], object: &Object| -> Option<Object> {
        list.iter().find(|o| o.kind == object.kind && o.name == object.name).cloned()
    };
    let mut found: Vec<String> = after
        .iter()
        .filter_map(|now| match find(before, now) {
            None => Some(format!("new {} {}", now.kind, now.name)),
            Some(was) if was.sql != now.sql => Some(format!("changed {} {}", now.kind, now.name)),
            Some(_) => None,
        })
        .collect();
    let gone = before.iter().filter(|was| find(after, was).is_none());
    found.extend(gone.map(|was| format!("gone {} {}", was.kind, was.name)));
    found
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether every smoke test passed, and the first that did not.
fn first_bad(smoke: &[Check]) -> Option<&Check> {
    smoke.iter().find(|check| matches!(check.verdict, Verdict::Fail | Verdict::Unknown))
}

#[cfg(test)]
pub(crate) mod tests {
    /// Says loudly that a test was not made here; `scripts/test` gathers what is in the file of the variable.
    pub(crate) fn skipped(why: &str) {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
        let Some(list) = std::env::var_os("PLIMSOLL_SKIPPED") else { return };
        let mut list = std::fs::OpenOptions::new().append(true).create(true).open(list).unwrap();
        list.write_all(format!("{why}\n").as_bytes()).unwrap();
    }
}
