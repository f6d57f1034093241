//! An app that is stopped and started with no front door before it: nothing else may start it meanwhile, and what its
//! users met is measured from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use plimsoll_core::check::Check;
use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::{Failure, Moment, Service};

use super::health::{Answer, Health, ask};
use super::ms;
use crate::journal::Runs;

/// How often the app is asked.
const EVERY: Duration = Duration::from_millis(50);
/// An answer that takes longer is none to a user either; short, so that it does not blur when the gap ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// The service of one run, with what belongs to its downtime.
pub struct Downtime<'a> {
    service: &'a mut dyn Service,
    runs: &'a Runs,
    run: u32,
    asked: Option<(SocketAddr, Health)>,
    gap: Option<Gap>,
}

impl<'a> Downtime<'a> {
    /// For `run`; `asked` is where users' requests reach the app, and how it is asked.
    #[must_use]
    pub fn new(
        service: &'a mut dyn Service,
        runs: &'a Runs,
        run: u32,
        asked: Option<(SocketAddr, Health)>,
    ) -> Downtime<'a> {
        Downtime { service, runs, run, asked, gap: None }
    }

    /// From now on installed units do not start by themselves, a reboot included.
    fn begin(&mut self) -> Result<(), Failure> {
        self.runs.set_held(self.run)?;
        if self.gap.is_none()
            && let Some((address, health)) = self.asked.clone()
        {
            self.gap = Some(Gap::watch(address, health));
        }
        Ok(())
    }
}

impl Service for Downtime<'_> {
    fn stop(&mut self, release: &ReleaseId, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        self.begin()?;
        self.service.stop(release, until)
    }

    fn start(&mut self, release: &ReleaseId, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        // Not before it runs: a release that does not start must stay down until its undo.
        let mut checks = self.service.start(release, until)?;
        self.runs.clear_held()?;
        checks.extend(self.gap.take().map(Gap::seen));
        Ok(checks)
    }

    fn stop_workers(&mut self, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        self.begin()?;
        self.service.stop_workers(until)
    }

    fn start_workers(&mut self) -> Result<Vec<Check>, Failure> {
        let checks = self.service.start_workers();
        // The last that is started, on the way back too, when there was no release to start again.
        self.runs.clear_held()?;
        checks
    }
}

/// The time in which users got no answer.
struct Gap {
    enough: Arc<AtomicBool>,
    asking: JoinHandle<Asked>,
}

/// What was seen by asking.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    probes: u64,
    failed: u64,
    gap: Duration,
    /// Whether the first probe was answered: without that there was nothing to be interrupted.
    was_up: bool,
}

impl Gap {
    fn watch(address: SocketAddr, health: Health) -> Gap {
        let enough = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&enough);
        let asking = thread::spawn(move || {
            let mut asked = Asked::default();
            let mut down_since: Option<Instant> = None;
            loop {
                let begun = Instant::now();
                let last = ended.load(Ordering::Relaxed);
                let up = answers(address, &health);
                asked.probes += 1;
                asked.was_up |= up && asked.probes == 1;
                if up {
                    asked.gap += down_since.take().map_or(Duration::ZERO, |since| since.elapsed());
                } else {
                    asked.failed += 1;
                    down_since.get_or_insert(begun);
                }
                // What is still down at the end counts up to here.
                if last {
                    asked.gap += down_since.map_or(Duration::ZERO, |since| since.elapsed());
                    return asked;
                }
                thread::sleep(EVERY.saturating_sub(begun.elapsed()));
            }
        });
        Gap { enough, asking }
    }

    fn seen(self) -> Check {
        let name = "Gap seen from outside";
        self.enough.store(true, Ordering::Relaxed);
        let Ok(asked) = self.asking.join() else {
            return Check::unknown("deploy.stop", name, "the probe of the app's address failed");
        };
        if !asked.was_up {
            let why = "nothing answered on the app's address before, so nothing was interrupted";
            return Check::skipped("deploy.stop", name, why);
        }
        Check::pass("deploy.stop", name)
            .with("gap_ms", ms(asked.gap))
            .with("probes", asked.probes)
            .with("failed", asked.failed)
            .with("every_ms", ms(EVERY))
    }
}

/// Whether a user would get an answer of the app, be it to say no.
fn answers(address: SocketAddr, health: &Health) -> bool {
    let nobody = ReleaseId(String::new());
    match ask(address, health, &nobody, PATIENCE) {
        Answer::Well { .. } | Answer::OtherRelease { .. } => true,
        Answer::Status(status) => status < 500,
        Answer::Refused | Answer::Silent | Answer::Broken(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use plimsoll_core::check::Verdict;

    use super::*;

    fn health() -> Health {
        Health { path: "/".into(), release_pointer: None, headers: Vec::new() }
    }

    /// Answers until the listener is shut from outside.
    fn app(listener: &TcpListener) -> JoinHandle<()> {
        let listener = listener.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 204 No\r\nconnection: close\r\n\r\n");
            }
        })
    }

    fn end(listener: TcpListener, app: JoinHandle<()>) {
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        app.join().unwrap();
    }

    /// An app's stand-in that leaves the marker to see.
    struct Seen<'a> {
        runs: &'a Runs,
        held: Vec<bool>,
        starts: bool,
    }

    impl Service for Seen<'_> {
        fn stop(&mut self, _: &ReleaseId, _: Option<Moment>) -> Result<Vec<Check>, Failure> {
            self.held.push(self.runs.is_held());
            Ok(Vec::new())
        }

        fn start(&mut self, _: &ReleaseId, _: Option<Moment>) -> Result<Vec<Check>, Failure> {
            self.held.push(self.runs.is_held());
            self.starts.then(Vec::new).ok_or_else(|| Failure::failed("it did not start", "", ""))
        }

        fn stop_workers(&mut self, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
            self.stop(&ReleaseId(String::new()), until)
        }

        fn start_workers(&mut self) -> Result<Vec<Check>, Failure> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn nothing_else_may_start_the_app_until_a_release_runs_again() {
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::of(folder.path());
        let release = ReleaseId::new(1, "3fa9c1b");
        let mut app = Seen { runs: &runs, held: Vec::new(), starts: false };
        let mut downtime = Downtime::new(&mut app, &runs, 7, None);
        downtime.stop_workers(None).unwrap();
        downtime.stop(&release, None).unwrap();
        downtime.start(&release, None).unwrap_err();
        assert!(runs.is_held(), "a release that does not start could be started by others");
        assert_eq!(app.held, [true, true, true]);
        app.starts = true;
        Downtime::new(&mut app, &runs, 7, None).start(&release, None).unwrap();
        assert!(!runs.is_held());
        // The first release failed: there is none to start again.
        Downtime::new(&mut app, &runs, 7, None).stop(&release, None).unwrap();
        Downtime::new(&mut app, &runs, 7, None).start_workers().unwrap();
        assert!(!runs.is_held());
    }

    #[test]
    fn the_gap_is_as_long_as_nobody_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let before = app(&listener);
        let gap = Gap::watch(address, health());
        thread::sleep(Duration::from_millis(200));
        let down = Instant::now();
        end(listener, before);
        thread::sleep(Duration::from_millis(400));
        let listener = TcpListener::bind(address).unwrap();
        let after = app(&listener);
        let down = ms(down.elapsed());
        thread::sleep(Duration::from_millis(200));
        let check = gap.seen();
        end(listener, after);
        let number = |name: &str| check.evidence[name].as_u64().unwrap();
        assert_eq!(check.verdict, Verdict::Pass);
        let seen = number("gap_ms");
        assert!(seen + 100 >= down && seen <= down + 1_000, "{seen} ms were seen of {down} ms");
        assert!(number("failed") >= 2 && number("failed") < number("probes"), "{check:?}");
    }

    #[test]
    fn where_nothing_answered_before_there_is_no_gap() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(Gap::watch(free, health()).seen().verdict, Verdict::Skipped);
    }
}
