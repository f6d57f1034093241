//! One running copy of the app: started, waited for until it is well, stopped.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::{Failure, FailureKind};
use sha2::{Digest, Sha256};

use super::children::{Child, Children, Launched};
use super::health::{Answer, Health, ask};
use super::listener::{self, Owner};
use super::{command_words, ms, quoted};
use crate::logfile::{LogFile, LogPipe};
use crate::process::{Command, End, Identity, Mark, Running, Usage, base_env, family, spawn};

/// How often an app that starts is asked.
const POLL: Duration = Duration::from_millis(50);
/// How many good answers in a row make it well: some servers answer once and then fail while they warm up.
const GOOD_ANSWERS: u32 = 2;
/// How long one answer may take.
const ONE_ANSWER: Duration = Duration::from_secs(2);
/// One look and the pause after it, with room to spare.
const LONGEST_LOOK: Duration = Duration::from_secs(3);
/// How long an app that did not start has to stop. It serves nobody, and a hold may be waiting for the undo.
const FAILED_GRACE: Duration = Duration::from_millis(300);

/// How the app is run: `[service]` of kind `process`, resolved.
#[derive(Clone)]
pub struct App {
    /// The app's root, absolute.
    pub root: PathBuf,
    /// The app's folder within a release.
    pub directory: PathBuf,
    /// The command line; `$NAME` and `${NAME}` stand for the environment below.
    pub command: String,
    /// `[service].env`, secrets resolved.
    pub env: BTreeMap<String, String>,
    /// Values that must not be quoted from its output.
    pub secrets: Vec<String>,
    /// The database, told to it as `DATABASE_PATH`.
    pub database: Option<PathBuf>,
    /// Where it listens, when it does not listen on the `PORT` that it is given.
    pub address: Option<SocketAddr>,
    /// How it tells that it is well.
    pub health: Health,
    /// How long it may take to be well.
    pub start_timeout: Duration,
    /// How long it may take to stop before it is killed.
    pub stop_timeout: Duration,
}

/// A copy of the app to start.
pub struct Launch<'a> {
    /// The app.
    pub app: &'a App,
    /// The release that it must say it is.
    pub release: &'a ReleaseId,
    /// The release's folder.
    pub folder: PathBuf,
    /// What it is for, without a colon: `app-000012-3fa9c1b`.
    pub role: String,
    /// Goes over everything else in its environment.
    pub env: BTreeMap<String, String>,
    /// Where its output goes.
    pub log: &'a Arc<LogFile>,
    /// Where it is written down.
    pub children: &'a Children,
}

/// A copy of the app that runs and has been well. Dropping it ends it at once.
#[derive(Debug)]
pub struct Instance {
    release: ReleaseId,
    role: String,
    address: SocketAddr,
    running: Running,
    pipe: LogPipe,
    children: Children,
    begun: Instant,
    /// From its start to its first good answer.
    pub startup: Duration,
    /// Whether it named its release.
    pub named: bool,
    /// Why it could not be seen whose listener answered; `None` when it was seen to be its own.
    pub unseen_listener: Option<String>,
}

/// How a copy of the app stopped.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// How its first process ended.
    pub end: End,
    /// How many processes were told to stop.
    pub processes: usize,
    /// Whether any had to be killed.
    pub killed: bool,
    /// How long it took.
    pub took: Duration,
}

impl Launch<'_> {
    /// Starts it and waits until it is well, for at most `limit` and as long as `cancel` says no.
    ///
    /// # Errors
    /// What was started has been ended; why it is not well is told with its last lines.
    pub fn start(&self, limit: Duration, cancel: &dyn Fn() -> bool) -> Result<Instance, Failure> {
        let address = match self.app.address {
            Some(address) => address,
            None => free_address().map_err(|e| self.failed(format!("no port is free: {e}"), ""))?,
        };
        let command = self.command(address)?;
        let listed = |e: crate::durable::Error| self.failed(e.to_string(), "mend runs/, then deploy again");
        let launched = Launched { address, fingerprint: fingerprint(&command) };
        self.children.intend(&self.role, Some(launched)).map_err(listed)?;
        let instance = self.spawn(&command, address).and_then(|mut instance| {
            let recorded = self.children.started(&self.role, &instance.running.identity().clone());
            match recorded.map_err(listed).and_then(|()| self.until_well(&mut instance, limit, cancel)) {
                Ok(()) => Ok(instance),
                Err(mut failure) => {
                    let grace = FAILED_GRACE.min(self.app.stop_timeout);
                    if let Err(stays) = instance.stop(grace) {
                        failure.why = format!("{}\nAnd it could not be ended: {stays}", failure.why);
                    }
                    Err(failure)
                }
            }
        });
        if instance.is_err() {
            // The failure that matters is the one above; a stale line in the list ends nothing.
            let _ = self.children.gone(&self.role);
        }
        instance
    }

    /// Takes over what an earlier owner has started, when that is provably the same: the same process, started in the
    /// way in which it would be started now, and it is the one that answers, as this release. `None` when it is not.
    pub(crate) fn adopt(&self, child: Child) -> Option<Instance> {
        let (process, launched) = (child.process.clone()?, child.launched.clone()?);
        let address = launched.address;
        if child.role != self.role || self.app.address.is_some_and(|fixed| fixed != address) {
            return None;
        }
        let mark = self.children.mark(&self.role);
        if Mark::of(process.pid).as_ref() != Some(&mark)
            || fingerprint(&self.command(address).ok()?) != launched.fingerprint
        {
            return None;
        }
        let family = family(&process, Some(&mark));
        if !matches!(listener::owner(address.port(), &family), Owner::Ours) {
            return None;
        }
        let answer = ask(address, &self.app.health, self.release, ONE_ANSWER);
        let Answer::Well { named } = answer else { return None };
        let pipe = self.log.pipe_of(process.pid).ok()?;
        self.children.adopt(child);
        Some(Instance {
            release: self.release.clone(),
            role: self.role.clone(),
            address,
            running: Running::adopt(process, mark),
            pipe,
            children: self.children.clone(),
            begun: Instant::now(),
            startup: Duration::ZERO,
            named,
            unseen_listener: None,
        })
    }

    fn spawn(&self, command: &Command, address: SocketAddr) -> Result<Instance, Failure> {
        let no_pipe = |e: std::io::Error| self.failed(format!("its output cannot be read: {e}"), "");
        let mut pipe = self.log.pipe().map_err(no_pipe)?;
        let (out, err) = pipe.ends().map_err(no_pipe)?;
        let running = spawn(command, out, err).map_err(|e| {
            self.failed(e.to_string(), "mend [service].command or the build, then deploy again")
        })?;
        Ok(Instance {
            release: self.release.clone(),
            role: self.role.clone(),
            address,
            running,
            pipe,
            children: self.children.clone(),
            begun: Instant::now(),
            startup: Duration::ZERO,
            named: false,
            unseen_listener: None,
        })
    }

    fn command(&self, address: SocketAddr) -> Result<Command, Failure> {
        let mut env = base_env();
        env.extend(self.app.env.clone());
        env.insert("PORT".to_owned(), address.port().to_string());
        env.insert("PLIMSOLL_RELEASE".to_owned(), self.release.0.clone());
        if let Some(database) = &self.app.database {
            env.insert("DATABASE_PATH".to_owned(), database.to_string_lossy().into_owned());
        }
        env.extend(self.env.clone());
        let words = command_words(&self.app.command, &env)?;
        let folder = self.folder.join(&self.app.directory);
        Ok(Command { words, env, folder, mark: Some(self.children.mark(&self.role)) })
    }

    fn until_well(
        &self,
        instance: &mut Instance,
        limit: Duration,
        cancel: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let mut good = 0;
        let mut last: Option<String> = None;
        // Only time in which it was looked at counts: after SIGSTOP, or on a machine that slept, the app has had none.
        let (mut waited, mut looked) = (Duration::ZERO, Instant::now());
        loop {
            waited += looked.elapsed().min(LONGEST_LOOK);
            looked = Instant::now();
            if let Some(end) = instance.running.ended() {
                return Err(self.ended_early(instance, end));
            }
            if cancel() {
                let why = "it was asked to stop while it started";
                return Err(self
                    .failed(why, "start it again when you are ready")
                    .of_kind(FailureKind::Interrupted));
            }
            let left = limit.saturating_sub(waited);
            if left.is_zero() {
                return Err(self.not_well(instance, limit, last.as_deref()));
            }
            match self.look(instance, left) {
                Ok(Some(answer)) => {
                    good = 0;
                    // A last look that the deadline cuts short says less than the one before it.
                    let cut_short = left < ONE_ANSWER && answer == Answer::Silent.to_string();
                    if last.is_none() || !cut_short {
                        last = Some(answer);
                    }
                }
                Ok(None) => {
                    good += 1;
                    if good == 1 {
                        instance.startup = instance.begun.elapsed();
                    }
                    if good == GOOD_ANSWERS {
                        return Ok(());
                    }
                }
                Err(failure) => return Err(failure),
            }
            std::thread::sleep(POLL.min(left));
        }
    }

    /// Asks once. `None` when it is well and it was the app that answered; else what was seen.
    fn look(&self, instance: &mut Instance, left: Duration) -> Result<Option<String>, Failure> {
        let answer = ask(instance.address, &self.app.health, self.release, ONE_ANSWER.min(left));
        let Answer::Well { named } = answer else { return Ok(Some(answer.to_string())) };
        instance.named = named;
        match listener::owner(instance.address.port(), &instance.running.family()) {
            Owner::Ours => instance.unseen_listener = None,
            Owner::Unknown(why) => instance.unseen_listener = Some(why),
            Owner::Nobody => return Ok(Some("it answered and then closed its port".to_owned())),
            Owner::Other => {
                return Ok(Some(format!("another program answers on port {}", instance.address.port())));
            }
        }
        Ok(None)
    }

    fn ended_early(&self, instance: &mut Instance, end: End) -> Failure {
        instance.pipe.settle();
        let after = ms(instance.begun.elapsed());
        let lines = quoted(&instance.pipe.last_lines(), &self.app.secrets);
        let next = if end == End::Exit(0) {
            "[service].command must stay in the foreground: look for an option like --no-daemon"
        } else {
            "mend the release and deploy again; all it wrote is in logs/app.log"
        };
        self.failed(format!("{end} after {after} ms. {lines}"), next)
    }

    fn not_well(&self, instance: &mut Instance, limit: Duration, last: Option<&str>) -> Failure {
        let (path, address) = (&self.app.health.path, instance.address);
        let last = last.unwrap_or("it was not asked: there was no time left");
        let lines = quoted(&instance.pipe.last_lines(), &self.app.secrets);
        let why = format!(
            "it was not well within {:.1} s. The last answer of http://{address}{path}: {last}. {lines}",
            limit.as_secs_f64()
        );
        let next = if last.contains("says that it is release") {
            "let the app answer the value of the variable PLIMSOLL_RELEASE in the header x-release, or leave that header \
             out, then deploy again"
        } else if last == Answer::Refused.to_string() && self.app.address.is_none() {
            "see that the app listens on 127.0.0.1 and the port in the variable PORT, then deploy again"
        } else {
            ""
        };
        self.failed(why, next)
    }

    fn failed(&self, why: impl Into<String>, next: &str) -> Failure {
        let log = self.log.path().display();
        let next = match next {
            "" => format!("mend what its output says (all of it is in {log}), then deploy again"),
            next => format!("{next} (its output is in {log})"),
        };
        Failure::failed(format!("release {} did not start", self.release), why, next)
    }
}

/// What the command, its environment and its folder come to: the same for what would be started in the same way.
fn fingerprint(command: &Command) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &[u8]| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    command.words.iter().for_each(|word| add(word.as_bytes()));
    command.env.iter().for_each(|(name, value)| add(format!("{name}={value}").as_bytes()));
    add(command.folder.as_os_str().as_encoded_bytes());
    hex::encode(hash.finalize())
}

/// A port that nobody listens on. Outside the range from which the kernel takes the ports of outgoing connections
/// (32768 and up), so that none of those comes between this look and the app's own.
fn free_address() -> std::io::Result<SocketAddr> {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let start = start.subsec_nanos() % u32::from(PORTS.end - PORTS.start);
    for n in 0..200 {
        let port = PORTS.start + u16::try_from((start + n) % u32::from(PORTS.end - PORTS.start)).unwrap_or(0);
        if let Ok(free) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return free.local_addr();
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

impl Instance {
    /// The release.
    #[must_use]
    pub fn release(&self) -> &ReleaseId {
        &self.release
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its first process.
    #[must_use]
    pub fn process(&self) -> &Identity {
        self.running.identity()
    }

    /// What it and all that it started use of the machine.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(&self.running.family())
    }

    /// How long it has been there.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How it ended by itself, when it has.
    pub fn ended(&self) -> Option<End> {
        self.running.ended()
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        self.pipe.last_lines()
    }

    /// Ends it and all that it started: TERM, and KILL for what is left after `grace`.
    ///
    /// # Errors
    /// What is still there, by pid; call it again.
    pub fn stop(&mut self, grace: Duration) -> Result<Stopped, Failure> {
        let (end, ended) = self.running.end(grace).map_err(|stays| {
            let what = format!("release {} could not be stopped", self.release);
            Failure::failed(what, stays.to_string(), "end these processes by hand, then `plimsoll resume`")
        })?;
        self.pipe.settle();
        // A stale line in the list is told by the next `serve` and ends nothing.
        let _ = self.children.gone(&self.role);
        Ok(Stopped { end, processes: ended.signalled.len(), killed: ended.killed, took: ended.took })
    }
}

/// A real app for the tests here and in `process`: this test program, run once more as an HTTP server that behaves
/// as its variables say.
#[cfg(test)]
pub(super) mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;

    use super::*;
    use crate::process::marked;

    /// Not a test: the app.
    #[test]
    #[ignore = "the app that the tests start"]
    fn serve_as_an_app() {
        let Ok(port) = std::env::var("PORT") else { return };
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        println!("starting as {} on {port} with {}", var("PLIMSOLL_RELEASE"), var("DATABASE_PATH"));
        let asked = |name: &str| !var(name).is_empty() && Path::new(&var(name)).exists();
        let mode = match var("APP_MODE").as_str() {
            _ if asked("APP_DEAF_IF") => "deaf".to_owned(),
            _ if asked("APP_CRASH_IF") => "crash".to_owned(),
            mode => mode.to_owned(),
        };
        match mode.as_str() {
            "crash" => {
                eprintln!("ImportError: no module named stripe, key {}", var("STRIPE_KEY"));
                std::process::abort();
            }
            "deaf" => std::thread::sleep(Duration::from_secs(60)),
            _ => {}
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
        let said = if mode == "other" { "000001-0000000".to_owned() } else { var("PLIMSOLL_RELEASE") };
        let status = if mode == "sick" { "500 No" } else { "200 OK" };
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let _ = reader.read_line(&mut line);
            if line.starts_with("GET /die") {
                std::process::abort();
            }
            println!("{}", line.trim());
            let _ = write!(stream, "HTTP/1.1 {status}\r\nx-release: {said}\r\ncontent-length: 0\r\n\r\n");
        }
    }

    /// The app with these variables, under `root`, with a folder for each release.
    pub(crate) fn app(root: &Path, env: &[(&str, &str)], releases: &[&ReleaseId]) -> App {
        for release in releases {
            std::fs::create_dir_all(root.join("releases").join(&release.0)).unwrap();
        }
        let own = std::env::current_exe().unwrap();
        let mut all = BTreeMap::from([("APP".to_owned(), own.to_string_lossy().into_owned())]);
        all.extend(env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        App {
            root: root.to_owned(),
            directory: PathBuf::new(),
            command: "$APP --exact service::app::tests::serve_as_an_app --ignored --nocapture".into(),
            env: all,
            secrets: vec!["sk_live_1234567".into()],
            database: Some(root.join("shared/store.db")),
            address: None,
            health: Health { path: "/healthz".into(), release_pointer: None, headers: Vec::new() },
            start_timeout: Duration::from_secs(20),
            stop_timeout: Duration::from_secs(10),
        }
    }

    pub(crate) fn release(number: u32) -> ReleaseId {
        ReleaseId::new(number, "abcdef0")
    }

    pub(crate) fn log(root: &Path) -> Arc<LogFile> {
        LogFile::open(&root.join("logs/app.log"), crate::logfile::MAX_BYTES, crate::logfile::FILES).unwrap()
    }

    fn start(root: &Path, app: &App, limit: Duration) -> Result<Instance, Failure> {
        let (log, children, release) = (log(root), Children::of(root), release(7));
        let folder = root.join("releases").join(&release.0);
        let role = format!("app-{release}");
        let launch = Launch {
            app,
            release: &release,
            folder,
            role,
            env: BTreeMap::new(),
            log: &log,
            children: &children,
        };
        launch.start(limit, &|| false)
    }

    /// What it says when it does not start within a moment, and that nothing of it is left.
    fn why_not(env: &[(&str, &str)], limit: Duration) -> Failure {
        let root = tempfile::tempdir().unwrap();
        let failure = start(root.path(), &app(root.path(), env, &[&release(7)]), limit).unwrap_err();
        assert_eq!(marked(root.path()).unwrap(), [], "nothing is left running");
        let list = std::fs::read_to_string(root.path().join("runs/children.json")).unwrap();
        assert_eq!(list, "[]");
        assert_eq!(failure.what, "release 000007-abcdef0 did not start");
        failure
    }

    #[test]
    fn a_copy_starts_is_well_and_stops() {
        let root = tempfile::tempdir().unwrap();
        let mut instance =
            start(root.path(), &app(root.path(), &[], &[&release(7)]), Duration::from_secs(20)).unwrap();
        assert!(instance.named && instance.startup > Duration::ZERO);
        assert_eq!(instance.unseen_listener, None);
        let listed = std::fs::read_to_string(root.path().join("runs/children.json")).unwrap();
        assert!(listed.contains(&format!("\"pid\": {}", instance.process().pid)), "{listed}");
        let stopped = instance.stop(Duration::from_secs(10)).unwrap();
        assert_eq!((stopped.end, stopped.killed), (End::Signal(15), false));
        let said = log(root.path()).tail(20).join("\n");
        let database = root.path().join("shared/store.db");
        let words = format!(
            "starting as 000007-abcdef0 on {} with {}",
            instance.address().port(),
            database.display()
        );
        assert!(said.contains(&words) && said.contains("GET /healthz"), "{said}");
        assert_eq!(std::fs::read_to_string(root.path().join("runs/children.json")).unwrap(), "[]");
    }

    #[test]
    fn an_app_that_ends_early_is_told_with_its_last_lines_and_without_secrets() {
        let env = [("APP_MODE", "crash"), ("STRIPE_KEY", "sk_live_1234567")];
        let failure = why_not(&env, Duration::from_secs(20));
        assert!(failure.why.contains("ended by signal 6 (ABRT) after"), "{failure:?}");
        assert!(failure.why.contains("ImportError: no module named stripe, key ***"), "{failure:?}");
        assert!(failure.next.contains("logs/app.log"), "{failure:?}");
    }

    #[test]
    fn an_app_that_does_not_listen_is_told_about_its_port() {
        let failure = why_not(&[("APP_MODE", "deaf")], Duration::from_millis(400));
        assert!(
            failure.why.contains("not well within 0.4 s") && failure.why.contains("nobody listens"),
            "{failure:?}"
        );
        assert!(failure.next.contains("the variable PORT"), "{failure:?}");
    }

    #[test]
    fn an_app_that_answers_wrongly_is_told_with_its_last_answer() {
        let failure = why_not(&[("APP_MODE", "sick")], Duration::from_secs(2));
        assert!(failure.why.contains("/healthz: status 500"), "{failure:?}");
        let failure = why_not(&[("APP_MODE", "other")], Duration::from_secs(2));
        assert!(failure.why.contains("says that it is release 000001-0000000"), "{failure:?}");
        assert!(
            failure.next.contains("the variable PLIMSOLL_RELEASE in the header x-release"),
            "{failure:?}"
        );
    }

    #[test]
    fn another_program_on_the_port_is_not_taken_for_the_app() {
        let root = tempfile::tempdir().unwrap();
        let mut app = app(root.path(), &[("APP_MODE", "deaf")], &[&release(7)]);
        // It is well, answers on the configured address and is not the app.
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = stranger.local_addr().unwrap();
        app.address = Some(address);
        std::thread::spawn(move || {
            for stream in stranger.incoming() {
                let mut stream = stream.unwrap();
                let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new());
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        });
        let failure = start(root.path(), &app, Duration::from_millis(800)).unwrap_err();
        let words = format!("another program answers on port {}", address.port());
        assert!(failure.why.contains(&words), "{failure:?}");
    }

    #[test]
    fn a_command_that_cannot_be_started_is_told_before_any_waiting() {
        let root = tempfile::tempdir().unwrap();
        let mut app = app(root.path(), &[], &[&release(7)]);
        app.command = "./no-such-app".into();
        let failure = start(root.path(), &app, Duration::from_secs(20)).unwrap_err();
        assert!(failure.why.contains("there is no program ./no-such-app"), "{failure:?}");
        app.command = "sh -c 'exit 0'".into();
        let failure = start(root.path(), &app, Duration::from_secs(20)).unwrap_err();
        assert!(failure.next.contains("stay in the foreground"), "{failure:?}");
    }
}
