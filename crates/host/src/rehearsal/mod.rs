//! The release tried on a copy of production's database, walled off from production: the new release on the migrated
//! copy, then the old one on the same.
//!
//! The copy of a release lies in the run's scratch folder, with its own `shared/`. What runs there can read neither
//! production's folders nor write anywhere else ([`confine`]), and its network is its own where that is allowed.

pub mod confine;
mod copy;
mod culprit;
mod findings;
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
use crate::sqlite::census::Census;
use crate::sqlite::connection::{ForeignKeys, open_own, open_read};
use crate::sqlite::restore::{self, Guard};
use crate::sqlite::schema::{self, Object};
use crate::sqlite::script::Named;
use crate::sqlite::{self, Control, Stop};
use copy::Places;
pub use findings::{Confinement, Findings, Proof, Times};
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
    network::within(|own_network| rehearse_in(own_network, spec, sockets))
}

fn rehearse_in(own_network: Result<(), String>, spec: &Spec, sockets: Vec<PathBuf>) -> Findings {
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
    found.sort();
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
    use std::ffi::OsString;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use plimsoll_core::plan::SmokeStep;
    use rusqlite::Connection;

    use super::*;
    use crate::process::marked;
    use crate::service::Health;
    use crate::sqlite::backup;
    use crate::sqlite::census::Class;

    /// Says loudly that a test was not made here; `scripts/test` gathers what is in the file of the variable.
    pub(crate) fn skipped(why: &str) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
        let Some(list) = std::env::var_os("PLIMSOLL_SKIPPED") else { return };
        let mut list = fs::OpenOptions::new().append(true).create(true).open(list).unwrap();
        list.write_all(format!("{why}\n").as_bytes()).unwrap();
    }

    /// Not a test: the helper that confines itself and becomes the app.
    #[test]
    #[ignore = "the helper that the tests start"]
    fn confine_as_the_helper() {
        let words: Vec<OsString> = std::env::args_os().collect();
        let Some(at) = words.iter().position(|word| word == "--") else { return };
        panic!("{}", confine::exec(Path::new(&words[at - 1]), &words[at + 1..]));
    }

    /// Not a test: a migrate command.
    #[test]
    #[ignore = "the command that the tests start"]
    fn migrate_as_a_command() {
        let Ok(database) = std::env::var("DATABASE_PATH") else { return };
        let sql = std::env::var("MIGRATE_SQL").unwrap();
        Connection::open(database).unwrap().execute_batch(&sql).unwrap();
    }

    /// What is written in the release's file `app.conf`, one `name=value` a line.
    fn conf(name: &str) -> Vec<String> {
        let text = fs::read_to_string("app.conf").unwrap_or_default();
        let of = |line: &str| Some(line.split_once('=').filter(|(n, _)| *n == name)?.1.to_owned());
        text.lines().filter_map(of).collect()
    }

    fn first(name: &str) -> Option<String> {
        conf(name).into_iter().next()
    }

    /// Not a test: a shop over HTTP and SQLite that does what its `app.conf` says.
    #[test]
    #[ignore = "the app that the tests start"]
    fn serve_as_an_app() {
        let Ok(port) = std::env::var("PORT") else { return };
        let database = first("db").unwrap_or_else(|| std::env::var("DATABASE_PATH").unwrap());
        let open = || Connection::open(&database).and_then(|c| c.execute_batch(SCHEMA).map(|()| c));
        for mail in conf("mail") {
            let sent = TcpStream::connect(&mail).and_then(|mut s| s.write_all(b"HELO shop\r\n"));
            println!("mail to {mail}: {sent:?}");
        }
        for socket in conf("socket") {
            println!("socket: {:?}", std::os::unix::net::UnixStream::connect(socket));
        }
        let kept = if first("open").is_some() { None } else { Some(open().unwrap()) };
        for sql in conf("migrate") {
            kept.as_ref().unwrap().execute_batch(&sql).unwrap();
        }
        let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let _ = reader.read_line(&mut line);
            let query = |sql: &str| -> Result<String, String> {
                let own = if kept.is_none() { Some(open().map_err(|e| e.to_string())?) } else { None };
                let connection = own.as_ref().or(kept.as_ref()).unwrap();
                connection
                    .query_row(sql, [], |row| row.get::<_, i64>(0))
                    .map(|n| n.to_string())
                    .map_err(|e| e.to_string())
            };
            let said = match line.split(' ').nth(1).unwrap_or_default() {
                "/healthz" => Ok("well".to_owned()),
                "/checkout" if first("broken").is_some() => Err("KeyError: cart".to_owned()),
                "/checkout" => query("INSERT INTO orders (total) VALUES (7) RETURNING id"),
                "/spy" => Ok(spy()),
                "/die" => std::process::abort(),
                _ => query(&first("query").unwrap_or("SELECT count(*) FROM orders".to_owned())),
            };
            let (status, body) = match said {
                Ok(body) => ("200 OK", body),
                Err(why) => {
                    println!("error: {why}");
                    ("500 No", why)
                }
            };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
    }

    const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, total INT, note TEXT);";

    /// Everything that could harm production or be seen of it; names what was possible.
    fn spy() -> String {
        let mut done = Vec::new();
        let mut note = |what: &str, path: &str, worked: bool| {
            if worked {
                done.push(format!("{what} {path}"));
            }
        };
        for path in conf("spy") {
            note("read", &path, fs::read(&path).is_ok());
            note("wrote", &path, fs::OpenOptions::new().write(true).open(&path).is_ok());
            note("cut", &path, fs::File::options().write(true).truncate(true).open(&path).is_ok());
            note("removed", &path, fs::remove_file(&path).is_ok());
            let folder = Path::new(&path).parent().unwrap().to_owned();
            note("listed", &path, fs::read_dir(&folder).is_ok());
            note("created beside", &path, fs::write(folder.join("new"), "x").is_ok());
            note("linked", &path, fs::hard_link(&path, "stolen").is_ok());
        }
        for pid in conf("kill") {
            let killed =
                std::process::Command::new("kill").arg(&pid).stderr(std::process::Stdio::null()).status();
            note("killed", &pid, killed.unwrap().success());
            note("environment of", &pid, fs::read(format!("/proc/{pid}/environ")).is_ok());
        }
        for socket in conf("socket") {
            note("socket", &socket, std::os::unix::net::UnixStream::connect(&socket).is_ok());
        }
        note("scratch", "TMPDIR", fs::write(std::env::temp_dir().join("x"), "x").is_err());
        note("own", "folder", fs::write("x", "x").is_err());
        if done.is_empty() { "nothing was possible".to_owned() } else { done.join("; ") }
    }

    fn visit(name: &str, path: &str, contains: &str, writes: bool) -> Smoke {
        let contains = if contains.is_empty() { Vec::new() } else { vec![contains.to_owned()] };
        let step = SmokeStep { path: path.to_owned(), contains, ..SmokeStep::default() };
        Smoke { name: name.to_owned(), steps: vec![step], writes, production: false }
    }

    /// An app in production: a root with a database of three orders, a live release and a new one.
    struct Shop {
        dir: tempfile::TempDir,
        spec: Spec,
        before: Vec<u8>,
    }

    const OLD_ID: &str = "000001-aaaaaaa";
    const NEW_ID: &str = "000002-bbbbbbb";

    impl Shop {
        fn new(new: &str, old: &str) -> Shop {
            let dir = tempfile::tempdir().unwrap();
            let root = fs::canonicalize(dir.path()).unwrap().join("srv");
            let run = root.join("runs/000002");
            for folder in ["shared", "backups", "runs/000002"] {
                fs::create_dir_all(root.join(folder)).unwrap();
            }
            for (id, conf) in [(OLD_ID, old), (NEW_ID, new)] {
                let folder = root.join("releases").join(id);
                fs::create_dir_all(&folder).unwrap();
                let conf = conf.replace("ROOT", root.to_str().unwrap());
                fs::write(folder.join("app.conf"), conf).unwrap();
                std::os::unix::fs::symlink(root.join("shared/store.db"), folder.join("store.db")).unwrap();
            }
            let database = root.join("shared/store.db");
            let live = Connection::open(&database).unwrap();
            live.execute_batch(SCHEMA).unwrap();
            live.execute_batch("INSERT INTO orders (total) VALUES (1), (2), (3)").unwrap();
            drop(live);
            fs::copy(&database, run.join("trial.db")).unwrap();
            let own = std::env::current_exe().unwrap().display().to_string();
            let helper = ["--exact", "rehearsal::tests::confine_as_the_helper", "--ignored", "--nocapture"];
            let candidate =
                |id: &str| Candidate { id: ReleaseId(id.to_owned()), folder: root.join("releases").join(id) };
            let app = App {
                root: root.clone(),
                directory: PathBuf::from("."),
                // In one word, so that the helper does not take it for its own.
                command:
                    "sh -c 'exec \"$APP\" --exact rehearsal::tests::serve_as_an_app --ignored --nocapture'"
                        .into(),
                env: BTreeMap::from([("APP".to_owned(), own.clone())]),
                secrets: Vec::new(),
                database: Some(database.clone()),
                address: None,
                health: Health { path: "/healthz".into(), release_pointer: None, headers: Vec::new() },
                start_timeout: Duration::from_secs(30),
                stop_timeout: Duration::from_secs(5),
            };
            let spec = Spec {
                app,
                env: BTreeMap::new(),
                new: candidate(NEW_ID),
                old: Some(candidate(OLD_ID)),
                copy: run.join("trial.db"),
                migrate: Vec::new(),
                backup: None,
                smoke: vec![visit("Homepage", "/", "", false), visit("Checkout", "/checkout", "", true)],
                public_url: None,
                refused: Vec::new(),
                launcher: [own.as_str()].into_iter().chain(helper).map(str::to_owned).collect(),
                scratch: run.join("rehearsal"),
                log: run.join("rehearsal.log"),
                limit: Duration::from_secs(120),
                stop: Stop::new(),
                on_line: Arc::new(|_| {}),
            };
            let before = fs::read(&database).unwrap();
            Shop { dir, spec, before }
        }

        fn root(&self) -> &Path {
            &self.spec.app.root
        }

        fn conf(&self, line: &str) {
            let path = self.spec.new.folder.join("app.conf");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, format!("{text}{line}\n")).unwrap();
        }

        fn log(&self) -> String {
            fs::read_to_string(&self.spec.log).unwrap_or_default()
        }

        /// Sees besides that production is as it was and that nothing is left; `None` where nothing can be confined.
        fn rehearse(&self) -> Option<Findings> {
            let findings = rehearse(&self.spec);
            self.untouched();
            if let (Proof::NotTried(why), Err(_)) = (&findings.new, confine::supported()) {
                skipped(&format!("rehearsal: {why}"));
                return None;
            }
            Some(findings)
        }

        fn untouched(&self) {
            assert_eq!(fs::read(self.root().join("shared/store.db")).unwrap(), self.before);
            assert!(!self.root().join("shared/store.db-wal").exists());
            assert_eq!(marked(self.root()).unwrap(), [], "nothing is left running");
            assert!(!self.spec.scratch.exists());
            assert!(!self.root().join("runs/children.json").exists(), "serve's list is not written over");
            assert!(self.dir.path().exists());
        }
    }

    fn failed(findings: &Findings) -> &Failure {
        match &findings.new {
            Proof::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    fn verdicts(findings: &Findings, verdict: Verdict) -> Vec<&str> {
        findings.checks.iter().filter(|c| c.verdict == verdict).map(|c| c.name.as_str()).collect()
    }

    #[test]
    fn both_releases_are_proven_with_tests_that_write_and_the_restore_is_timed() {
        let mut shop = Shop::new("", "");
        let request =
            backup::Request::new(shop.root().join("shared/store.db"), shop.root().join("backups"), "test");
        shop.spec.backup = Some(backup::create(&request, &mut Control::quiet(Stop::new())).unwrap().path);
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!((&findings.new, &findings.old_on_new), (&Proof::Proven, &Proof::Proven), "{}", shop.log());
        let passed = [
            NEW,
            "Schema before and after",
            "On a copy: Homepage",
            "On a copy: Checkout",
            "The copy opened the database that it was given",
            OLD,
            "The backup restored over the migrated copy",
        ];
        assert_eq!(verdicts(&findings, Verdict::Pass), passed);
        let times = &findings.times;
        assert!(times.startup_ms > Some(0) && times.old_startup_ms > Some(0) && times.restore_ms.is_some());
        assert_eq!(findings.schema_changed_at_start, Vec::<String>::new());
    }

    #[test]
    fn nothing_of_production_can_be_read_changed_or_ended_from_inside() {
        let mut shop = Shop::new("", "");
        let root = shop.root().to_owned();
        let neighbour = UnixListener::bind(root.join("neighbour.sock")).unwrap();
        let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let marks =
            ["shared/.env", "backups/b.db", "runs/000002/journal.jsonl", "releases/000001-aaaaaaa/secret"];
        for mark in marks {
            fs::write(root.join(mark), "secret").unwrap();
            shop.conf(&format!("spy={}", root.join(mark).display()));
        }
        shop.conf(&format!("spy={}", root.join("shared/store.db").display()));
        shop.conf(&format!("kill={}", process.id()));
        shop.conf(&format!("socket={}", root.join("neighbour.sock").display()));
        shop.spec.smoke = vec![visit("Spy", "/spy", "nothing was possible", false)];
        let findings = shop.rehearse();
        let alive = process.try_wait().unwrap().is_none();
        process.kill().unwrap();
        process.wait().unwrap();
        drop(neighbour);
        let Some(findings) = findings else { return };
        for mark in marks {
            assert_eq!(fs::read_to_string(root.join(mark)).unwrap(), "secret", "{mark}");
        }
        assert!(alive);
        let confinement = &findings.confinement;
        let full = confinement.filesystem == "full" && !confinement.sockets.starts_with("reachable");
        if !full {
            skipped(&format!("rehearsal walls in full: {confinement:?}"));
            return;
        }
        assert_eq!(findings.new, Proof::Proven, "{:#?}", findings.checks);
    }

    /// A mail server on this machine's loopback; counts who comes.
    fn mail_server() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let came = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&came);
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        (address, came)
    }

    #[test]
    fn an_app_that_sends_mail_at_its_start_reaches_no_mail_server() {
        let shop = Shop::new("", "");
        let (address, came) = mail_server();
        shop.conf(&format!("mail={address}"));
        let Some(findings) = shop.rehearse() else { return };
        if findings.confinement.network.starts_with("none") {
            return skipped(&format!("rehearsal network: {}", findings.confinement.network));
        }
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
        assert!(shop.log().contains(&format!("mail to {address}: Err")), "{}", shop.log());
        assert_eq!(came.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn without_a_network_of_its_own_it_reaches_only_its_own_port() {
        let shop = Shop::new("", "");
        let (address, came) = mail_server();
        shop.conf(&format!("mail={address}"));
        let findings = rehearse_in(Err("refused by this test".to_owned()), &shop.spec, Vec::new());
        shop.untouched();
        let network = &findings.confinement.network;
        if !network.starts_with("landlock-ports: refused by this test") {
            return skipped(&format!("rehearsal ports: {network}"));
        }
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
        assert_eq!(came.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn an_app_on_the_port_of_production_is_not_tried_without_a_network_of_its_own() {
        let mut shop = Shop::new("", "");
        shop.spec.app.address = Some("127.0.0.1:8000".parse().unwrap());
        let findings = rehearse_in(Err("refused by this test".to_owned()), &shop.spec, Vec::new());
        assert!(
            matches!(&findings.new, Proof::NotTried(why) if why.contains("127.0.0.1:8000")),
            "{findings:?}"
        );
        assert_eq!(verdicts(&findings, Verdict::Fail), Vec::<&str>::new());
    }

    #[test]
    fn an_app_with_a_relative_path_is_rehearsed_unchanged() {
        let shop = Shop::new("db=store.db\n", "db=store.db\n");
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!((&findings.new, &findings.old_on_new), (&Proof::Proven, &Proof::Proven), "{}", shop.log());
    }

    #[test]
    fn a_setting_with_the_path_of_production_leads_to_the_copy() {
        let mut shop = Shop::new("", "");
        let database = shop.root().join("shared/store.db");
        shop.spec.app.env.insert("DB".to_owned(), database.display().to_string());
        shop.spec.env.insert("OVER".to_owned(), "$DATABASE_PATH".to_owned());
        let inner = shop.spec.app.command.replace("exec ", "test \"$DB\" = \"$OVER\" && exec ");
        shop.spec.app.command = inner;
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
    }

    #[test]
    fn an_app_with_productions_path_in_its_code_is_found_out() {
        for lazily in ["", "open=each\n"] {
            let shop = Shop::new(&format!("# the shop\ndb=ROOT/shared/store.db\n{lazily}"), "");
            let Some(findings) = shop.rehearse() else { return };
            let failure = failed(&findings);
            let path = shop.root().join("shared/store.db").display().to_string();
            assert!(
                failure.why.contains("app.conf:2 names it") && failure.why.contains(&path),
                "{failure:?}"
            );
            assert!(failure.next.contains("DATABASE_PATH"), "{failure:?}");
            assert!(matches!(findings.old_on_new, Proof::NotTried(_)));
        }
    }

    #[test]
    fn an_app_that_makes_a_database_of_its_own_is_found_out() {
        for lazily in ["", "open=each\n"] {
            let shop = Shop::new(&format!("db=fresh.db\n{lazily}"), "");
            let Some(findings) = shop.rehearse() else { return };
            let failure = failed(&findings);
            assert!(failure.why.contains("it opened fresh.db instead"), "{failure:?}");
        }
    }

    #[test]
    fn a_broken_checkout_fails_the_rehearsal() {
        let shop = Shop::new("broken=yes\n", "");
        let Some(findings) = shop.rehearse() else { return };
        let failure = failed(&findings);
        assert!(failure.what.contains("`Checkout`"), "{failure:?}");
        assert!(failure.why.contains("GET /checkout: status 500: KeyError: cart"), "{failure:?}");
        assert_eq!(verdicts(&findings, Verdict::Fail), [NEW, "On a copy: Checkout"]);
    }

    #[test]
    fn an_old_release_that_fails_on_the_new_schema_is_told_and_fails_nothing() {
        let shop = Shop::new("", "query=SELECT count(gone) FROM orders\n");
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
        let Proof::Failed(failure) = &findings.old_on_new else { panic!("{findings:?}") };
        assert!(failure.why.contains("no such column"), "{failure:?}");
        assert_eq!(verdicts(&findings, Verdict::Fail), Vec::<&str>::new());
        let old = findings.checks.iter().find(|check| check.name == OLD).unwrap();
        assert_eq!((old.verdict, &old.evidence["code_only"]), (Verdict::Unknown, &"refuted".into()));
    }

    #[test]
    fn an_app_that_changes_its_schema_at_its_start_is_found_out_with_what_it_loses() {
        let shop = Shop::new(
            "migrate=CREATE TABLE coupons (code TEXT)\nmigrate=ALTER TABLE orders DROP COLUMN note\n",
            "",
        );
        let live = Connection::open(&shop.spec.copy).unwrap();
        live.execute_batch("UPDATE orders SET note = 'leave it at the door'").unwrap();
        drop(live);
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
        assert_eq!(findings.schema_changed_at_start, ["changed table orders", "new table coupons"]);
        assert_eq!(findings.losses, ["drop:orders.note"]);
        assert_eq!(findings.class, Some(Class::Destructive));
        let review = findings.checks.iter().find(|check| check.id == "pre.review").unwrap();
        assert_eq!(
            review.evidence["schema"],
            serde_json::json!(["changed table orders", "new table coupons"])
        );
    }

    #[test]
    fn migrate_commands_run_on_the_copy_within_the_walls() {
        let migrate = |sql: &str| {
            let mut shop = Shop::new("query=SELECT count(*) FROM coupons\n", "");
            let script = "exec \"$APP\" --exact rehearsal::tests::migrate_as_a_command --ignored --nocapture";
            shop.spec.migrate = vec![["sh", "-c", script].map(str::to_owned).to_vec()];
            shop.spec.env.insert("MIGRATE_SQL".to_owned(), sql.to_owned());
            let findings = shop.rehearse()?;
            Some((findings, shop))
        };
        let Some((findings, shop)) = migrate("CREATE TABLE coupons (code TEXT); DELETE FROM orders") else {
            return;
        };
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
        assert!(findings.times.migrate_ms.is_some() && findings.confinement.filesystem != "none");
        assert_eq!(findings.losses, ["rows:orders"]);
        assert_eq!(findings.schema_changed_at_start, Vec::<String>::new());
        let Some((findings, _)) = migrate("CREATE TABLE coupons (code TEXT; nonsense") else { return };
        assert!(failed(&findings).what.contains("the migrate command `sh -c exec"), "{findings:?}");
    }

    #[test]
    fn a_rehearsal_ends_when_it_is_asked_to_and_when_its_time_is_over() {
        let mut shop = Shop::new("", "");
        shop.spec.stop.ask();
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!(failed(&findings).kind, FailureKind::Interrupted);
        assert_eq!(verdicts(&findings, Verdict::Fail), Vec::<&str>::new(), "nobody is to blame");
        shop = Shop::new("", "");
        shop.spec.limit = Duration::from_millis(300);
        shop.spec.app.command = "sh -c 'sleep 600; :'".to_owned();
        let begun = Instant::now();
        let Some(findings) = shop.rehearse() else { return };
        assert!(failed(&findings).what.contains("took too long"), "{findings:?}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn an_app_that_dies_on_a_request_fails_and_one_that_is_not_there_is_named() {
        let mut shop = Shop::new("", "");
        shop.spec.smoke = vec![visit("Homepage", "/", "", false), visit("Die", "/die", "", false)];
        let Some(findings) = shop.rehearse() else { return };
        assert!(failed(&findings).what.contains("`Die`"), "{findings:?}");
        let mut shop = Shop::new("", "");
        shop.spec.app.command = "./no-such-app".to_owned();
        let Some(findings) = shop.rehearse() else { return };
        assert!(failed(&findings).why.contains("./no-such-app could not be started"), "{findings:?}");
    }
}
