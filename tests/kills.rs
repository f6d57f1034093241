//! Processes are killed and stopped at random moments, while one release after another is deployed and people buy.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_testkit::{Buyers, Sandbox, http, shop, soak, wait};
use rustix::process::Signal;

use crate::production::settled;

/// In this time the service must be back, without a person.
const BACK: Duration = Duration::from_secs(10);

/// The same sequence for the same seed; a failure names it.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What is done to the processes.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Serve,
    App,
    Command,
    All,
    Stopped,
}

const BLOWS: [Blow; 5] = [Blow::Serve, Blow::App, Blow::Command, Blow::All, Blow::Stopped];

impl Blow {
    fn strike(self, sandbox: &Sandbox, random: &mut Random) {
        let all = sandbox.processes();
        let of = |word: &str| {
            all.iter().filter(|(_, command)| command.contains(word)).map(|(pid, _)| *pid).collect()
        };
        let (victims, signal): (Vec<u32>, _) = match self {
            Blow::Serve => (of("plimsoll serve"), Signal::KILL),
            Blow::App => (of("scripted-app"), Signal::KILL),
            Blow::Command => (of("plimsoll deploy"), Signal::KILL),
            Blow::All => (all.iter().map(|(pid, _)| *pid).collect(), Signal::KILL),
            Blow::Stopped => (of("plimsoll serve"), Signal::STOP),
        };
        victims.iter().for_each(|pid| sandbox.signal(*pid, signal));
        if let Blow::Stopped = self {
            thread::sleep(Duration::from_millis(100 + random.below(900)));
            victims.iter().for_each(|pid| sandbox.signal(*pid, Signal::CONT));
        }
    }
}

/// Starts `serve` again whenever it has died, as systemd does; ends it in order at the end.
fn keep_serving(sandbox: &Sandbox, enough: &AtomicBool) {
    while !enough.load(Ordering::SeqCst) {
        let serve = sandbox.serve_with(&[]);
        while serve.is_running() && !enough.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(20));
        }
        if serve.is_running() {
            serve.stop().exits(0);
        } else {
            assert_eq!(serve.wait().code, None, "serve ended by itself");
        }
    }
}

/// Deploys one release after another, each with a migration, and goes on with the next when one was killed.
fn keep_deploying(sandbox: &Sandbox, enough: &AtomicBool) -> usize {
    let (mut version, mut live) = (1, 0);
    while !enough.load(Ordering::SeqCst) {
        version += 1;
        let name = format!("migrations/{version:04}_more.sql");
        let sql = format!(
            "CREATE TABLE more_{version} (id INTEGER PRIMARY KEY, note TEXT);\nUPDATE products SET paise = paise + 1;\n"
        );
        sandbox.release(&format!(r#"{{ "page": "{version}", "boot_ms": 150 }}"#), &[(&name, &sql)]);
        while !enough.load(Ordering::SeqCst) {
            let output = sandbox.deploy();
            match output.code {
                Some(0) => {
                    live += 1;
                    break;
                }
                // Killed, undone, serve away, another run going on or not resolved yet.
                None | Some(1..=4) => thread::sleep(Duration::from_millis(100)),
                other => panic!("deploy ended with {other:?}: {}", output.said()),
            }
        }
    }
    live
}

/// What one user saw, one page after another.
#[derive(Debug, Default)]
struct Seen {
    pages: usize,
    releases: Vec<String>,
    wrong: Vec<String>,
}

fn look(sandbox: &Sandbox, enough: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !enough.load(Ordering::SeqCst) {
        let Ok(page) = http::get(sandbox.port, "/") else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        seen.pages += 1;
        match page.status() {
            Some(200) => {
                let text = page.text();
                let release =
                    text.rsplit("<p>").next().and_then(|rest| rest.split('<').next()).unwrap_or_default();
                match seen.releases.last() {
                    Some(last) if last == release => {}
                    Some(last) if last.as_str() > release => {
                        seen.wrong.push(format!("{release} answered after {last}"));
                    }
                    _ => seen.releases.push(release.to_owned()),
                }
            }
            Some(502..=504) => {}
            other => seen.wrong.push(format!("status {other:?}: {}", page.text())),
        }
        thread::sleep(Duration::from_millis(15));
    }
    seen
}

#[test]
fn whatever_is_killed_no_order_is_lost_and_the_service_comes_back_by_itself() {
    let seed = std::env::var("PLIMSOLL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
    let blows = soak::rounds(6, 200);
    let mut random = Random(seed);
    let sandbox = Sandbox::new();
    drop(sandbox.live());
    let enough = AtomicBool::new(false);
    let struck: Mutex<Vec<(Blow, Duration)>> = Mutex::default();
    let (ledger, live, seen) = thread::scope(|scope| {
        // However this ends, the others must.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let deploying_ends = AtomicBool::new(false);
        let deploying_ends: &'static AtomicBool = Box::leak(Box::new(deploying_ends));
        let end = End(&enough);
        let end_deploying = End(deploying_ends);
        let serving = scope.spawn(|| keep_serving(&sandbox, &enough));
        wait::until("it serves", BACK * 3, || sandbox.serving().is_some());
        let buyers = Buyers::start(sandbox.port, 3);
        let deploying = scope.spawn(|| keep_deploying(&sandbox, deploying_ends));
        let looking = scope.spawn(|| look(&sandbox, deploying_ends));
        for number in 0..blows {
            thread::sleep(Duration::from_millis(random.below(1_500)));
            let blow = BLOWS[usize::try_from(random.below(BLOWS.len() as u64)).unwrap()];
            let begun = Instant::now();
            blow.strike(&sandbox, &mut random);
            let back = wait::within(BACK, || {
                (http::get(sandbox.port, "/").ok()?.status() == Some(200)).then_some(begun.elapsed())
            });
            let back = back.unwrap_or_else(|| panic!("seed {seed}: not back after blow {number}, {blow:?}"));
            assert!(back < BACK, "seed {seed}: back only {back:?} after blow {number}, {blow:?}");
            struck.lock().unwrap().push((blow, back));
        }
        drop(end_deploying);
        let (live, seen) = (deploying.join().unwrap(), looking.join().unwrap());
        let ledger = buyers.stop();
        // The last run is resolved before the end.
        wait::until("no run is open", Duration::from_secs(40), || {
            sandbox.plimsoll(&["status"]).code == Some(0) && sandbox.serving().is_some()
        });
        settled(&sandbox);
        drop(end);
        serving.join().unwrap();
        (ledger, live, seen)
    });
    let lost = ledger.lost(&sandbox.database());
    assert!(lost.is_empty(), "seed {seed}: {} of {} orders lost: {lost:#?}", lost.len(), ledger.promised());
    let not_found: Vec<_> = ledger.failures.iter().filter(|failure| failure.contains(": 404")).collect();
    assert!(not_found.is_empty(), "seed {seed}: {not_found:#?}");
    assert!(seen.wrong.is_empty(), "seed {seed}: {:#?}", seen.wrong);
    let doubled = "SELECT count(*) FROM (SELECT 1 FROM orders GROUP BY reference HAVING count(*) > 1)";
    assert_eq!(shop::number(&sandbox.database(), doubled), 0);
    // Whoever was seen by users had been committed.
    for release in &seen.releases {
        let committed = (1..).map_while(|run| {
            let file = sandbox.root().join(format!("runs/{run:06}/journal.jsonl"));
            std::fs::read_to_string(file).ok()
        });
        let committed = committed
            .filter(|text| text.contains(r#""event":"committed""#) && text.contains(release))
            .count();
        assert!(committed > 0, "seed {seed}: {release} answered users and was never committed");
    }
    let struck = struck.into_inner().unwrap();
    let slowest = struck.iter().map(|(_, back)| back.as_millis()).max().unwrap_or(0);
    let (pages, promised, failed) = (seen.pages, ledger.promised(), ledger.failures.len());
    note(&format!(
        "{blows} blows: {promised} orders promised, 0 lost; {live} releases live; back after {slowest} ms at most; \
         {pages} pages looked at, none from a wrong release; {failed} requests of buyers broke off"
    ));
}

/// A measured line, past the capture of test output.
pub(crate) fn note(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "measured: {text}");
}
