//! The release tried on a copy of production's database, walled off from production: the new release on the migrated
//! copy, then the old one on the same.
//!
//! The copy of a release lies in the run's scratch folder, with its own `shared/`. What runs there can read neither
//! production's folders nor write anywhere else ([`confine`]), and its network is its own where that is allowed.

mod bench;
pub mod confine;
mod copy;
mod course;
mod culprit;
mod findings;
mod network;
mod old_code;
mod patience;
mod tryout;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::plan::{ReleaseId, Smoke};

use crate::service::App;
use crate::sqlite::Stop;
use bench::{Bench, Scratch};
use course::Course;
pub use findings::{Confinement, Findings, Proof, Times};
pub use old_code::by_position;
pub(crate) use old_code::with_remarks;

/// The two checks that every rehearsal gives.
const NEW: &str = "The new release on a copy of the database";
const OLD: &str = "The old release on the migrated copy";

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
    /// How production runs the app, with the secrets of `env` below among its own; `command` is `[rehearsal].command` where others supervise it. `database` is
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
    let bench = match Bench::set_up(spec, &scratch, own_network, sockets) {
        Ok(bench) => bench,
        Err(failure) => return Findings::not_tried(&failure.to_string()),
    };
    Course::new(spec, bench).run()
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use plimsoll_core::check::Verdict;
    use plimsoll_core::plan::SmokeStep;
    use plimsoll_core::ports::{Failure, FailureKind};
    use rusqlite::Connection;

    use super::*;
    use crate::process::marked;
    use crate::service::Health;
    use crate::sqlite::Control;
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
        if let (Some(kept), Some(_)) = (&kept, first("impatient")) {
            kept.busy_timeout(Duration::ZERO).unwrap();
        }
        let _worker = first("worker").map(|_| {
            let script = "exec 9<\"$DATABASE_PATH\"; echo open; exec sleep 600";
            let piped = std::process::Stdio::piped();
            let mut worker =
                std::process::Command::new("sh").args(["-c", script]).stdout(piped).spawn().unwrap();
            BufReader::new(worker.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
            worker
        });
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
                "/checkout" => {
                    let usual = "INSERT INTO orders (total) VALUES (7) RETURNING id".to_owned();
                    query(&first("insert").unwrap_or(usual))
                }
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
                secrets: vec!["sk_live_1234567".to_owned()],
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
            patience::NAME,
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
        if findings.confinement.filesystem != "full" {
            return skipped(&format!("rehearsal walls: {}", findings.confinement.filesystem));
        }
        if findings.confinement.sockets.starts_with("reachable") {
            skipped(&format!("rehearsal sockets: {}", findings.confinement.sockets));
            let spy = findings.checks.iter().find(|check| check.name == "On a copy: Spy").unwrap();
            assert_eq!(spy.evidence["came"], format!("socket {}", root.join("neighbour.sock").display()));
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

    fn remarks(findings: &Findings) -> Vec<String> {
        let lists = findings.checks.iter().filter_map(|check| check.evidence.get("remarks")?.as_array());
        lists.flatten().map(|remark| remark.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn writes_of_the_old_release_that_a_new_rule_refuses_are_named() {
        let new = "insert=INSERT INTO orders (total, note) VALUES (7, 'x') RETURNING id\n";
        let shop = Shop::new(new, "");
        let copy = Connection::open(&shop.spec.copy).unwrap();
        copy.execute_batch(
            "DROP TABLE orders; CREATE TABLE orders (id INTEGER PRIMARY KEY, total INT, note TEXT NOT NULL)",
        )
        .unwrap();
        drop(copy);
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
        let said = remarks(&findings);
        let told = said.iter().any(|text| {
            text.starts_with("000001-aaaaaaa old-writes-refused: NOT NULL constraint failed: orders.note;")
        });
        assert!(told, "{said:?}");
    }

    #[test]
    fn rows_that_the_old_release_puts_in_by_position_are_named_by_line_and_by_what_came_of_it() {
        let by_name = "insert=INSERT INTO orders (total) VALUES (7) RETURNING id\n";
        let shop =
            Shop::new(by_name, "# the shop\ninsert=INSERT INTO orders VALUES (NULL, 7, NULL) RETURNING id\n");
        let copy = Connection::open(&shop.spec.copy).unwrap();
        copy.execute_batch("ALTER TABLE orders ADD COLUMN state TEXT").unwrap();
        drop(copy);
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
        let said = remarks(&findings);
        for begins in [
            "app.conf:2 by-position: a row goes into orders;",
            "000001-aaaaaaa by-position: table orders has 4 columns but 3 values were supplied;",
        ] {
            assert!(said.iter().any(|text| text.starts_with(begins)), "{begins}: {said:?}");
        }
    }

    #[test]
    fn an_app_that_waits_for_no_lock_is_told_and_one_that_waits_is_not() {
        let shop = Shop::new("", "impatient=yes\n");
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!(findings.old_on_new, Proof::Proven, "what it does without a lock counts: {}", shop.log());
        let told = findings.checks.iter().find(|check| check.name == patience::NAME).unwrap();
        assert_eq!(told.verdict, Verdict::Unknown, "{told:?}");
        assert!(told.why().contains("`Checkout`"), "{told:?}");
        assert!(remarks(&findings)[0].contains("waits-for-no-lock"), "{:?}", remarks(&findings));
        // The first release of all is tried by itself.
        let mut shop = Shop::new("", "");
        shop.spec.old = None;
        let Some(findings) = shop.rehearse() else { return };
        let told = findings.checks.iter().find(|check| check.name == patience::NAME).unwrap();
        assert_eq!(told.verdict, Verdict::Pass, "{told:?}");
    }

    #[test]
    fn several_processes_of_a_release_that_migrates_at_its_start_are_told() {
        for (conf, told) in [
            ("worker=yes\nmigrate=CREATE TABLE coupons (code TEXT)\n", true),
            ("worker=yes\n", false),
            ("migrate=CREATE TABLE coupons (code TEXT)\n", false),
        ] {
            let shop = Shop::new(conf, "");
            let Some(findings) = shop.rehearse() else { return };
            assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
            let said = remarks(&findings);
            assert_eq!(
                said.iter().any(|text| text.contains("several-migrate: 2 processes")),
                told,
                "{said:?}"
            );
        }
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
        let Some((findings, _)) = migrate("CREATE TABLE coupons (code TEXT; nonsense sk_live_1234567") else {
            return;
        };
        let failure = failed(&findings);
        assert!(failure.what.contains("the migrate command `sh -c exec"), "{failure:?}");
        assert!(failure.why.contains("***") && !failure.why.contains("sk_live"), "{failure:?}");
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

    #[test]
    fn what_runs_into_the_walls_is_told_what_they_are() {
        let mut shop = Shop::new("", "");
        shop.spec.app.command = "sh -c 'echo x > /var/tmp/plimsoll-rehearsal-test'".to_owned();
        let Some(findings) = shop.rehearse() else { return };
        assert!(failed(&findings).next.contains("nowhere else"), "{findings:?}");
        assert!(!Path::new("/var/tmp/plimsoll-rehearsal-test").exists());
        let mut shop = Shop::new("", "");
        shop.spec.app.command = "sh -c 'echo redis: Connection refused; exit 1'".to_owned();
        let Some(findings) = shop.rehearse() else { return };
        assert!(failed(&findings).next.contains("PLIMSOLL_REHEARSAL"), "{findings:?}");
        let mut shop = Shop::new("# not ROOT/shared/store.db\n", "");
        shop.spec.app.command = "sh -c 'echo ImportError: stripe; exit 1'".to_owned();
        let Some(findings) = shop.rehearse() else { return };
        assert!(
            !failed(&findings).why.contains("production's own"),
            "a path in a remark is no proof: {findings:?}"
        );
    }

    #[test]
    fn what_lies_in_the_log_of_an_app_that_was_ended_is_seen() {
        // It closes nothing at its end, so that its last commits lie in the write-ahead log.
        let shop = Shop::new("migrate=PRAGMA journal_mode = WAL; CREATE TABLE coupons (code TEXT)\n", "");
        let Some(findings) = shop.rehearse() else { return };
        assert_eq!(findings.new, Proof::Proven, "{}", shop.log());
        assert_eq!(findings.schema_changed_at_start, ["new table coupons"]);
        assert_eq!(findings.old_on_new, Proof::Proven, "{}", shop.log());
    }

    #[test]
    fn a_later_owner_finds_and_ends_what_a_dead_one_was_rehearsing() {
        if let Err(why) = confine::supported() {
            return skipped(&format!("rehearsal: {why}"));
        }
        let mut shop = Shop::new("", "");
        shop.spec.app.command = "sh -c 'setsid sleep 600 & sleep 600; :'".to_owned();
        std::thread::scope(|scope| {
            let rehearsing = scope.spawn(|| rehearse(&shop.spec));
            let deadline = Instant::now() + Duration::from_secs(30);
            // The shell and both of its children, behind the walls.
            while marked(shop.root()).unwrap().len() < 3 {
                assert!(Instant::now() < deadline, "{:?}", marked(shop.root()));
                std::thread::sleep(Duration::from_millis(10));
            }
            let told = crate::service::end_leftovers(shop.root(), None).unwrap();
            assert!(told.iter().any(|line| line.contains("rehearsal-000002-bbbbbbb")), "{told:?}");
            let findings = rehearsing.join().unwrap();
            assert!(failed(&findings).why.contains("ended by signal"), "{findings:?}");
        });
        shop.untouched();
    }
}
