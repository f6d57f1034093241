//! Kind `process`: the app runs inside `plimsoll serve`, on a private port behind the front door.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use plimsoll_core::check::Check;
use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::{Failure, Moment, Service};

use super::app::{App, Instance, Launch};
use super::children::Children;
use super::workers::Workers;
use super::{limit, ms};
use crate::logfile::LogFile;
use crate::process::{Usage, reap_orphans};

/// How often the live release is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// At every how many looks orphans are reaped, which reads all of `/proc`.
const REAP_EVERY: u32 = 25;
/// The longest wait before a restart.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a release must have run for its earlier exits to be forgotten.
const STEADY: Duration = Duration::from_secs(60);

/// Told the new address of the live release after it was restarted.
pub type Restarted = dyn Fn(&ReleaseId, SocketAddr) + Send + Sync;

/// The app as children of this process. Clones are handles to the same app. A process that ends calls
/// [`ProcessService::close`] first: what still runs then is left to the next `serve`.
#[derive(Clone)]
pub struct ProcessService {
    shared: Arc<Shared>,
}

struct Shared {
    app: App,
    workers: Workers,
    log: Arc<LogFile>,
    children: Children,
    state: Mutex<State>,
    /// Held while something is started or stopped; `state` only for a moment.
    act: Mutex<()>,
}

#[derive(Default)]
struct State {
    instances: BTreeMap<ReleaseId, Instance>,
    supervised: Option<Supervised>,
}

struct Supervised {
    release: ReleaseId,
    told: Arc<Restarted>,
    /// Set when it is no longer wanted: ends a restart that is going on.
    dropped: Arc<AtomicBool>,
    restarts: u32,
    /// Exits and failed restarts since it last ran steadily.
    failures: u32,
    /// When to try again, once it has ended.
    again: Option<Instant>,
    trouble: Option<String>,
}

/// A release that runs, for status pages.
#[derive(Clone, Debug)]
pub struct RunningApp {
    /// The release.
    pub release: ReleaseId,
    /// Its first process.
    pub pid: i32,
    /// Where it listens.
    pub address: SocketAddr,
    /// How long it has run.
    pub age: Duration,
    /// Whether it is restarted when it ends by itself.
    pub supervised: bool,
    /// How often it was restarted since it went live.
    pub restarts: u32,
    /// What it and all that it started use of the machine.
    pub usage: Usage,
}

impl ProcessService {
    /// The app, not running; its output goes to `log`. [`super::end_leftovers`] comes first.
    #[must_use]
    pub fn new(app: App, workers: Workers, log: Arc<LogFile>) -> ProcessService {
        let children = Children::of(&app.root);
        let shared =
            Arc::new(Shared { app, workers, log, children, state: Mutex::default(), act: Mutex::default() });
        let watched = Arc::downgrade(&shared);
        // It ends with the last handle. Without it an app that ends stays down until the next deployment.
        std::thread::spawn(move || supervise(&watched));
        ProcessService { shared }
    }

    /// Takes over the copy of `release` that an earlier owner of the app has left running, if there is one and it is
    /// provably what would be started now. Returns its role, for [`super::end_leftovers`].
    #[must_use]
    pub fn adopt(&self, release: &ReleaseId) -> Option<String> {
        let _act = self.shared.act.lock().unwrap_or_else(PoisonError::into_inner);
        let launch = self.shared.of(release);
        let child = self.shared.children.alive().into_iter().find(|child| child.role == launch.role)?;
        let instance = launch.adopt(child)?;
        let role = launch.role.clone();
        self.shared.state().instances.insert(release.clone(), instance);
        Some(role)
    }

    /// Where a release listens; `None` when it does not run.
    #[must_use]
    pub fn address_of(&self, release: &ReleaseId) -> Option<SocketAddr> {
        let state = self.shared.state();
        let instance = state.instances.get(release)?;
        instance.ended().is_none().then(|| instance.address())
    }

    /// Restarts this release whenever it ends by itself, and no other; `told` gets its new address each time.
    pub fn supervise(&self, release: &ReleaseId, told: Arc<Restarted>) {
        let mut state = self.shared.state();
        state.unsupervise(|_| true);
        state.supervised = Some(Supervised {
            release: release.clone(),
            told,
            dropped: Arc::default(),
            restarts: 0,
            failures: 0,
            again: None,
            trouble: None,
        });
    }

    /// Restarts nothing any more; what runs goes on running. Stopping a release does this for it.
    pub fn unsupervise(&self) {
        self.shared.state().unsupervise(|_| true);
    }

    /// Everything that runs.
    #[must_use]
    pub fn running(&self) -> Vec<RunningApp> {
        let state = self.shared.state();
        let State { instances, supervised } = &*state;
        let alive = instances.values().filter(|i| i.ended().is_none());
        let show = |instance: &Instance| {
            let supervised = supervised.as_ref().filter(|s| s.release == *instance.release());
            RunningApp {
                release: instance.release().clone(),
                pid: instance.process().pid,
                address: instance.address(),
                age: instance.age(),
                supervised: supervised.is_some(),
                restarts: supervised.map_or(0, |s| s.restarts),
                usage: instance.usage(),
            }
        };
        alive.map(show).collect()
    }

    /// Why the live release is down, when it is and a restart failed.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.state().supervised.as_ref().and_then(|s| s.trouble.clone())
    }

    /// Stops everything, for the end of `serve`.
    ///
    /// # Errors
    /// The first release that is left running; the others have been stopped.
    pub fn close(&self) -> Result<(), Failure> {
        self.unsupervise();
        let releases: Vec<_> = self.shared.state().instances.keys().cloned().collect();
        let results: Vec<_> = releases.iter().map(|release| self.shared.stop(release, None)).collect();
        results.into_iter().try_for_each(|r| r.map(|_| ()))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic interrupted is a child that is still in the map or was ended with its instance.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch(
        &self,
        release: &ReleaseId,
        time: Duration,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Instance, Failure> {
        self.of(release).start(time, cancel)
    }

    fn of<'a>(&'a self, release: &'a ReleaseId) -> Launch<'a> {
        Launch {
            app: &self.app,
            release,
            folder: self.app.root.join("releases").join(&release.0),
            role: format!("app-{release}"),
            env: BTreeMap::new(),
            log: &self.log,
            children: &self.children,
        }
    }

    fn start(&self, release: &ReleaseId, until: Option<Moment>) -> Result<Check, Failure> {
        let _act = self.act.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = {
            let mut state = self.state();
            match state.instances.get(release) {
                Some(instance) if instance.ended().is_none() => {
                    return Ok(restarted(instance).with("found", "running already"));
                }
                Some(_) => state.instances.remove(release),
                None => None,
            }
        };
        // What it left behind goes before the next one comes.
        if let Some(mut ended) = ended {
            ended.stop(self.app.stop_timeout)?;
        }
        let instance = self.launch(release, limit(self.app.start_timeout, until), &|| false)?;
        let check = restarted(&instance);
        self.state().instances.insert(release.clone(), instance);
        Ok(check)
    }

    fn stop(&self, release: &ReleaseId, until: Option<Moment>) -> Result<Check, Failure> {
        // Before waiting for the turn: a restart that is going on gives way.
        self.state().unsupervise(|s| s.release == *release);
        let _act = self.act.lock().unwrap_or_else(PoisonError::into_inner);
        let check = Check::pass("deploy.stop", "Stop the application").with("release", release.0.as_str());
        let Some(mut instance) = self.state().instances.remove(release) else {
            return Ok(check.with("found", "not running"));
        };
        let pid = instance.process().pid;
        match instance.stop(limit(self.app.stop_timeout, until)) {
            Ok(stopped) => Ok(check
                .with("pid", pid)
                .with("ms", ms(stopped.took))
                .with("processes", stopped.processes)
                .with("killed", stopped.killed)),
            Err(failure) => {
                self.state().instances.insert(release.clone(), instance);
                Err(failure)
            }
        }
    }
}

fn restarted(instance: &Instance) -> Check {
    let mut check = Check::pass("deploy.restart", "Restart the application")
        .with("release", instance.release().0.as_str())
        .with("pid", instance.process().pid)
        .with("port", instance.address().port())
        .with("startup_ms", ms(instance.startup))
        .with("named_its_release", instance.named);
    if let Some(why) = &instance.unseen_listener {
        check = check.with("listener", format!("unknown: {why}"));
    }
    check
}

impl State {
    fn unsupervise(&mut self, which: impl Fn(&Supervised) -> bool) {
        if let Some(supervised) = self.supervised.take_if(|s| which(s)) {
            supervised.dropped.store(true, Ordering::SeqCst);
        }
    }

    /// The supervised release when it is down and its time has come.
    fn due(&mut self) -> Option<(ReleaseId, Arc<AtomicBool>)> {
        let supervised = self.supervised.as_mut()?;
        let alive = self.instances.get(&supervised.release).filter(|i| i.ended().is_none());
        if let Some(instance) = alive {
            supervised.again = None;
            if instance.age() >= STEADY {
                supervised.failures = 0;
            }
            return None;
        }
        let again = *supervised.again.get_or_insert_with(|| {
            supervised.failures += 1;
            Instant::now() + wait(supervised.failures)
        });
        (Instant::now() >= again).then(|| (supervised.release.clone(), Arc::clone(&supervised.dropped)))
    }

    fn put_off(&mut self, release: &ReleaseId, trouble: String) {
        if let Some(supervised) = self.supervised.as_mut().filter(|s| s.release == *release) {
            supervised.failures += 1;
            supervised.again = Some(Instant::now() + wait(supervised.failures));
            supervised.trouble = Some(trouble);
        }
    }
}

/// How long to wait after the `failures`th exit in a row.
fn wait(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(5)).min(LONGEST_WAIT)
}

fn supervise(watched: &Weak<Shared>) {
    for look in 0_u32.. {
        std::thread::sleep(LOOK);
        let Some(shared) = watched.upgrade() else { return };
        if look.is_multiple_of(REAP_EVERY) {
            // Nothing depends on it: a zombie holds only its pid.
            let _ = reap_orphans();
        }
        shared.restart_what_is_due();
    }
}

impl Shared {
    fn restart_what_is_due(&self) {
        let Some((release, dropped)) = self.state().due() else { return };
        let _act = self.act.lock().unwrap_or_else(PoisonError::into_inner);
        // A run may have stopped it while this waited for its turn.
        let ended = {
            let mut state = self.state();
            if dropped.load(Ordering::SeqCst) || state.due().is_none() {
                return;
            }
            state.instances.remove(&release)
        };
        if let Some(mut ended) = ended {
            let end = ended.ended();
            if let Err(failure) = ended.stop(self.app.stop_timeout) {
                let mut state = self.state();
                state.instances.insert(release.clone(), ended);
                state.put_off(&release, failure.to_string());
                return;
            }
            if let Some(end) = end {
                let note =
                    format!("plimsoll: release {release} stopped by itself: {end}; it is started again\n");
                self.log.write(note.as_bytes());
            }
        }
        let started = self.launch(&release, self.app.start_timeout, &|| dropped.load(Ordering::SeqCst));
        let mut state = self.state();
        match started {
            Ok(instance) => {
                let address = instance.address();
                state.instances.insert(release.clone(), instance);
                let Some(supervised) = state.supervised.as_mut().filter(|s| s.release == release) else {
                    return;
                };
                supervised.restarts += 1;
                supervised.again = None;
                supervised.trouble = None;
                let told = Arc::clone(&supervised.told);
                // Without the lock: whoever is told may ask for the address again.
                drop(state);
                told(&release, address);
            }
            Err(failure) => {
                state.put_off(&release, failure.to_string());
            }
        }
    }
}

impl Service for ProcessService {
    fn stop(&mut self, release: &ReleaseId, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        Ok(vec![self.shared.stop(release, until)?])
    }

    fn start(&mut self, release: &ReleaseId, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        Ok(vec![self.shared.start(release, until)?])
    }

    fn stop_workers(&mut self, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        self.shared.workers.stop(until)
    }

    fn start_workers(&mut self) -> Result<Vec<Check>, Failure> {
        self.shared.workers.start()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;
    use std::path::Path;
    use std::sync::mpsc::channel;

    use super::super::app::tests::{app, log, release};
    use super::*;
    use crate::process::marked;

    /// Closed at the end of a test, as `serve` does: the last handle may be the supervising thread's, which ends
    /// with the process before it drops it.
    struct Closing(ProcessService);

    impl Drop for Closing {
        fn drop(&mut self) {
            let closed = self.0.close();
            assert!(closed.is_ok() || std::thread::panicking(), "{closed:?}");
        }
    }

    impl std::ops::Deref for Closing {
        type Target = ProcessService;

        fn deref(&self) -> &ProcessService {
            &self.0
        }
    }

    impl std::ops::DerefMut for Closing {
        fn deref_mut(&mut self) -> &mut ProcessService {
            &mut self.0
        }
    }

    fn service(root: &Path, env: &[(&str, &str)]) -> Closing {
        let (one, two) = (release(1), release(2));
        let app = app(root, env, &[&one, &two]);
        Closing(ProcessService::new(app, Workers::new(Vec::new(), Duration::from_secs(1)), log(root)))
    }

    fn die(address: SocketAddr) {
        TcpStream::connect(address).unwrap().write_all(b"GET /die HTTP/1.1\r\n\r\n").unwrap();
    }

    fn until(what: &str, mut seen: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !seen() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn two_releases_run_at_once_and_each_stops_alone() {
        let root = tempfile::tempdir().unwrap();
        let mut service = service(root.path(), &[]);
        let (old, new) = (release(1), release(2));
        let started = service.start(&old, None).unwrap();
        assert_eq!(started[0].id, "deploy.restart");
        assert!(
            started[0].evidence["startup_ms"].as_u64().is_some()
                && started[0].evidence["pid"].as_i64().is_some()
        );
        service.start(&new, None).unwrap();
        assert_ne!(service.address_of(&old).unwrap(), service.address_of(&new).unwrap());
        assert_eq!(service.start(&new, None).unwrap()[0].evidence["found"], "running already");
        assert_eq!(service.running().len(), 2);
        let stopped = service.stop(&old, None).unwrap();
        assert_eq!((stopped[0].id.as_str(), &stopped[0].evidence["killed"]), ("deploy.stop", &false.into()));
        assert_eq!(service.address_of(&old), None);
        assert!(service.address_of(&new).is_some());
        assert_eq!(service.stop(&old, None).unwrap()[0].evidence["found"], "not running");
        service.close().unwrap();
        assert_eq!(marked(root.path()).unwrap(), []);
    }

    #[test]
    fn the_live_release_is_restarted_and_its_new_address_told() {
        let root = tempfile::tempdir().unwrap();
        let mut service = service(root.path(), &[]);
        let live = release(1);
        service.start(&live, None).unwrap();
        let (tell, told) = channel();
        service.supervise(
            &live,
            Arc::new(move |release: &ReleaseId, at| tell.send((release.clone(), at)).unwrap()),
        );
        let before = service.address_of(&live).unwrap();
        die(before);
        until("it is seen to be down", || service.address_of(&live).is_none_or(|at| at != before));
        let (release, address) = told.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((&release, Some(address)), (&live, service.address_of(&live)));
        let running = service.running();
        assert_eq!((running[0].restarts, running[0].supervised), (1, true));
        let said = log(root.path()).tail(50).join("\n");
        assert!(
            said.contains("release 000001-abcdef0 stopped by itself: it was ended by signal 6"),
            "{said}"
        );
    }

    #[test]
    fn a_release_that_a_run_has_stopped_is_not_restarted() {
        let root = tempfile::tempdir().unwrap();
        let mut service = service(root.path(), &[]);
        let live = release(1);
        service.start(&live, None).unwrap();
        let (tell, told) = channel();
        service.supervise(&live, Arc::new(move |_: &ReleaseId, _| tell.send(()).unwrap()));
        // Down by itself and due in a second; the run comes first.
        die(service.address_of(&live).unwrap());
        until("it is down", || service.address_of(&live).is_none());
        service.stop(&live, None).unwrap();
        assert!(told.recv_timeout(Duration::from_millis(1_800)).is_err());
        assert_eq!(service.running().len(), 0);
    }

    #[test]
    fn a_restart_that_is_going_on_gives_way_to_a_run_that_stops_the_release() {
        let root = tempfile::tempdir().unwrap();
        let deaf = root.path().join("deaf");
        let mut service = service(root.path(), &[("APP_DEAF_IF", deaf.to_str().unwrap())]);
        let live = release(1);
        service.start(&live, None).unwrap();
        service.supervise(&live, Arc::new(|_: &ReleaseId, _| panic!("it never answers again")));
        let first = service.running()[0].pid;
        std::fs::write(&deaf, "").unwrap();
        die(service.address_of(&live).unwrap());
        // Restarted and not yet well: it is a marked process that the service does not show as running.
        until("it is being restarted", || {
            marked(root.path()).unwrap().iter().any(|(p, _)| p.pid != first) && service.running().is_empty()
        });
        let begun = Instant::now();
        service.stop(&live, None).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(marked(root.path()).unwrap(), []);
        assert_eq!(service.trouble(), None);
    }

    #[test]
    fn a_restart_that_fails_is_tried_again_and_its_trouble_told() {
        let root = tempfile::tempdir().unwrap();
        let crash = root.path().join("crash");
        let mut service = service(root.path(), &[("APP_CRASH_IF", crash.to_str().unwrap())]);
        let live = release(1);
        service.start(&live, None).unwrap();
        service.supervise(&live, Arc::new(|_: &ReleaseId, _| {}));
        std::fs::write(&crash, "").unwrap();
        die(service.address_of(&live).unwrap());
        until("the restart has failed", || service.trouble().is_some());
        assert!(service.trouble().unwrap().contains("ended by signal 6"));
        std::fs::remove_file(&crash).unwrap();
        until("it is back", || service.address_of(&live).is_some());
        assert_eq!(service.trouble(), None);
    }

    #[test]
    fn an_unsupervised_release_that_ends_stays_down_and_can_be_started_again() {
        let root = tempfile::tempdir().unwrap();
        let mut service = service(root.path(), &[]);
        let new = release(2);
        service.start(&new, None).unwrap();
        die(service.address_of(&new).unwrap());
        until("it is down", || service.address_of(&new).is_none());
        let check = service.start(&new, None).unwrap();
        assert!(!check[0].evidence.contains_key("found"), "{check:?}");
        assert!(service.address_of(&new).is_some());
    }

    #[test]
    fn a_deadline_that_has_passed_starts_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut service = service(root.path(), &[]);
        let failure = service.start(&release(1), Some(Moment(0))).unwrap_err();
        assert!(failure.why.contains("not well within 0.0 s"), "{failure:?}");
        assert_eq!(marked(root.path()).unwrap(), []);
    }

    #[test]
    fn the_wait_before_a_restart_grows_to_its_limit() {
        let waits: Vec<_> = (1..8).map(|n| wait(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    #[ignore = "the owner that the test below lets die"]
    fn own_an_app_until_killed() {
        let Some(root) = std::env::var_os("OWNER_TEST_ROOT") else { return };
        let mut service = service(Path::new(&root), &[]);
        service.start(&release(1), None).unwrap();
        std::fs::write(Path::new(&root).join("owned"), "yes\n").unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }

    /// A folder in which an owner has died and left its app running.
    fn orphaned() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service::process::tests::own_an_app_until_killed", "--ignored"])
            .env("OWNER_TEST_ROOT", root.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        until("the app runs", || root.path().join("owned").exists());
        owner.kill().unwrap();
        owner.wait().unwrap();
        assert_eq!(marked(root.path()).unwrap().len(), 1, "the app lives on without its owner");
        root
    }

    #[test]
    fn the_app_of_a_killed_serve_is_taken_over_with_its_output_and_kept_running() {
        let root = orphaned();
        let pid = marked(root.path()).unwrap()[0].0.pid;
        let mut next = service(root.path(), &[]);
        assert_eq!(next.adopt(&release(2)), None, "another release is not taken for it");
        assert_eq!(next.adopt(&release(1)).as_deref(), Some("app-000001-abcdef0"));
        assert_eq!(
            super::super::end_leftovers(root.path(), Some("app-000001-abcdef0")).unwrap(),
            Vec::<String>::new()
        );
        let checks = next.start(&release(1), None).unwrap();
        assert_eq!(checks[0].evidence["found"], "running already");
        assert_eq!(next.running()[0].pid, pid);
        let address = next.address_of(&release(1)).unwrap();
        let (tell, told) = channel();
        next.supervise(&release(1), Arc::new(move |_, address| tell.send(address).unwrap()));
        let before = log(root.path()).tail(100).len();
        TcpStream::connect(address).unwrap().write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        until("its output is read on", || log(root.path()).tail(100).len() > before);
        // It is restarted like one of our own.
        die(address);
        assert_ne!(told.recv_timeout(Duration::from_secs(30)).unwrap().port(), 0);
        assert_ne!(next.running()[0].pid, pid);
        next.stop(&release(1), None).unwrap();
        assert_eq!(marked(root.path()).unwrap(), []);
    }

    #[test]
    fn an_app_that_would_be_started_in_another_way_now_is_not_taken_over() {
        let root = orphaned();
        let changed = service(root.path(), &[("NEW_SETTING", "1")]);
        assert_eq!(changed.adopt(&release(1)), None);
        let told = super::super::end_leftovers(root.path(), None).unwrap();
        assert_eq!((told.len(), marked(root.path()).unwrap()), (1, Vec::new()));
    }

    #[test]
    fn the_app_of_a_killed_serve_is_ended_when_nobody_takes_it_over() {
        let root = orphaned();
        let told = super::super::end_leftovers(root.path(), None).unwrap();
        assert!(told.len() == 1 && told[0].contains("app-000001-abcdef0"), "{told:?}");
        assert_eq!(marked(root.path()).unwrap(), []);
        service(root.path(), &[]).start(&release(1), None).unwrap();
    }
}
