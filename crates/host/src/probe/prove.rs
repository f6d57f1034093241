//! The engine's [`Probe`]: proves a release behind the shut door, and looks at errors once users are let in.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::plan::{ReleaseId, Smoke, Strategy};
use plimsoll_core::ports::{Failure, FailureKind, Moment, Probe};

use super::opened::{self, Opening};
use super::smoke::{self, Target};
use crate::clock::SystemClock;
use crate::database::Keep;
use crate::service::{self, Answer, Health};

/// How often the watch looks.
const LOOK: Duration = Duration::from_millis(500);
/// Fewer requests than this say nothing about a release.
const ENOUGH_REQUESTS: u64 = 20;
/// Fewer errors than this are chance.
const ENOUGH_ERRORS: u64 = 3;
/// A release with a larger share of errors than this is bad, unless the one before was as bad.
const BAD_SHARE: f64 = 0.05;
/// So many failed health questions in a row mean that the release is down.
const DOWN_AFTER: u32 = 6;

/// Requests and answers with 5xx so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Requests answered.
    pub requests: u64,
    /// Of those, with 5xx.
    pub errors: u64,
}

/// Where a running release listens; `None` when it does not run.
pub type AddressOf = Arc<dyn Fn(&ReleaseId) -> Option<SocketAddr> + Send + Sync>;
/// The processes of a release.
pub type PidsOf = Arc<dyn Fn(&ReleaseId) -> Vec<u32> + Send + Sync>;
/// What the front door has counted.
pub type Traffic = Arc<dyn Fn() -> Seen + Send + Sync>;
/// Whether somebody asked the run to stop.
pub type StopAsked = Arc<dyn Fn() -> bool + Send + Sync>;

/// What the probes of a run depend on.
pub struct Settings {
    /// `[[smoke]]`.
    pub tests: Vec<Smoke>,
    /// `[front].public_url`.
    pub public_url: Option<String>,
    /// The live database, if it is a file.
    pub database: Option<PathBuf>,
    /// The run's own files, to note that tests wrote.
    pub keep: Option<Keep>,
    /// Where the releases listen.
    pub address_of: AddressOf,
    /// Their processes.
    pub pids_of: PidsOf,
    /// How the app tells that it is well.
    pub health: Health,
    /// What the front door counts; `None` without one.
    pub traffic: Option<Traffic>,
    /// How long to look at errors.
    pub errors_for: Duration,
    /// Whether somebody asked the run to stop.
    pub stop: StopAsked,
}

/// The probes of one run.
pub struct AppProbe {
    settings: Settings,
    /// Traffic of the release before, up to the switch.
    before: Seen,
}

impl AppProbe {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let before = settings.traffic.as_ref().map_or_else(Seen::default, |traffic| traffic());
        AppProbe { settings, before }
    }

    fn address(&self, release: &ReleaseId) -> Result<SocketAddr, Failure> {
        (self.settings.address_of)(release).ok_or_else(|| Failure {
            kind: FailureKind::Failed,
            what: format!("release {release} cannot be asked"),
            why: "it does not run any more".into(),
            next: "see its last lines in logs/app.log".into(),
        })
    }

    /// Whether the release has the configured database open, and no other in its place.
    fn opened(&self, release: &ReleaseId, opening: Option<Opening>, mut seen: opened::Seen) -> Option<Check> {
        let name = "The new release opened the configured database";
        let database = self.settings.database.as_ref()?;
        let unknown = |why: String| Check::unknown("verify.script", name, why);
        let alone = opening.is_some();
        let seen_open = match opening.map(|mut opening| opening.seen()) {
            Some(Ok(seen)) => seen,
            Some(Err(error)) => return Some(unknown(error.to_string())),
            None => false,
        };
        match opened::opened(database, &(self.settings.pids_of)(release)) {
            Ok(now) => seen.add(now),
            Err(error) => return Some(unknown(error.to_string())),
        }
        Some(match seen.verdict(seen_open) {
            opened::Verdict::Opened => Check::pass("verify.script", name),
            opened::Verdict::Other(others) => {
                let others: Vec<String> = others.iter().map(|path| path.display().to_string()).collect();
                let why = format!(
                    "it has {} open, and not {}: let it open the file that DATABASE_PATH names",
                    others.join(", "),
                    database.display()
                );
                Check::fail("verify.script", name, why)
            }
            opened::Verdict::NotSeen if !alone => {
                let why = "it opens the database only for moments, and the old release beside it does too";
                Check::skipped("verify.script", name, why)
            }
            opened::Verdict::NotSeen => {
                unknown("no smoke test made it open a database; add one that reads from it".into())
            }
            opened::Verdict::Unknown => unknown("its processes could not be looked into".into()),
        })
    }
}

impl Probe for AppProbe {
    fn prove(
        &mut self,
        release: &ReleaseId,
        strategy: Strategy,
        until: Option<Moment>,
    ) -> Result<Vec<Check>, Failure> {
        let address = self.address(release)?;
        if self.settings.tests.iter().any(|test| test.writes && test.production)
            && let Some(keep) = &self.settings.keep
        {
            keep.note_smoke_writes()?;
        }
        // Beside the old release nobody can tell who opened it; then only what is open now counts.
        let opening = match (&self.settings.database, strategy) {
            (Some(database), Strategy::Hold | Strategy::Maintenance) => Opening::watch(database).ok(),
            _ => None,
        };
        let target = Target {
            address,
            public_url: self.settings.public_url.clone(),
            token: Some(token()?),
            production: true,
        };
        let limit = until.map(|until| SystemClock.until(until));
        let stop = Arc::clone(&self.settings.stop);
        let pids = (self.settings.pids_of)(release);
        let (outcomes, seen) = match &self.settings.database {
            Some(database) => opened::while_doing(database, &pids, || {
                smoke::run(&self.settings.tests, &target, limit, &*stop)
            }),
            None => (smoke::run(&self.settings.tests, &target, limit, &*stop), opened::Seen::default()),
        };
        let mut times: Vec<u64> =
            outcomes.iter().filter(|o| o.check.verdict == Verdict::Pass).map(|o| o.ms).collect();
        let mut checks: Vec<Check> = outcomes.into_iter().map(|outcome| outcome.check).collect();
        if self.settings.tests.is_empty() {
            let why = "plimsoll.toml has no [[smoke]] test; only the health path was asked";
            checks.push(Check::unknown("verify.smoke", "Smoke tests", why));
        }
        times.sort_unstable();
        if let (Some(median), Some(slowest)) = (times.get(times.len() / 2), times.last()) {
            checks.push(
                Check::pass("verify.speed", "Smoke tests' answers")
                    .with("p50_ms", *median)
                    .with("slowest_ms", *slowest),
            );
        }
        // A time limit that left a test out is not a pass: behind the shut door it is a failure.
        for check in &mut checks {
            let left_out = check.id == "verify.smoke" && check.verdict == Verdict::Unknown;
            if left_out && !self.settings.tests.is_empty() {
                check.verdict = Verdict::Fail;
            }
        }
        checks.extend(self.opened(release, opening, seen));
        Ok(checks)
    }

    fn watch(&mut self, release: &ReleaseId) -> Result<Vec<Check>, Failure> {
        let name = "Errors after the switch";
        let begun = Instant::now();
        let start = self.settings.traffic.as_ref().map_or_else(Seen::default, |traffic| traffic());
        let now = || self.settings.traffic.as_ref().map_or_else(Seen::default, |traffic| traffic());
        let mut down = 0;
        loop {
            let watched_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let since = Seen {
                requests: now().requests.saturating_sub(start.requests),
                errors: now().errors.saturating_sub(start.errors),
            };
            let with = |check: Check| {
                check
                    .with("requests", since.requests)
                    .with("errors", since.errors)
                    .with("rate", share(since))
                    .with("rate_before", share(self.before))
                    .with("watched_ms", watched_ms)
            };
            if is_bad(since, self.before) {
                let why = format!("{} of {} answers were 5xx", since.errors, since.requests);
                return Ok(vec![with(Check::fail("verify.errors", name, why))]);
            }
            if let Some(address) = (self.settings.address_of)(release) {
                let answer = service::ask(address, &self.settings.health, release, Duration::from_secs(2));
                down = if matches!(answer, Answer::Well { .. }) { 0 } else { down + 1 };
            } else {
                down += 1;
            }
            if down >= DOWN_AFTER {
                let why = format!("its health path has not answered well {down} times in a row");
                return Ok(vec![with(Check::fail("verify.errors", name, why))]);
            }
            if (self.settings.stop)() {
                let why = "the watch was ended early, as asked; the release stays live";
                return Ok(vec![with(Check::unknown("verify.errors", name, why))]);
            }
            if begun.elapsed() >= self.settings.errors_for {
                let check = if self.settings.traffic.is_none() {
                    Check::unknown("verify.errors", name, "without a front door requests cannot be counted")
                } else if since.requests < ENOUGH_REQUESTS {
                    let why = format!("not enough traffic: {} requests", since.requests);
                    Check::unknown("verify.errors", name, why)
                } else {
                    Check::pass("verify.errors", name)
                };
                return Ok(vec![with(check)]);
            }
            std::thread::sleep(LOOK.min(self.settings.errors_for));
        }
    }
}

fn share(seen: Seen) -> f64 {
    if seen.requests == 0 {
        return 0.0;
    }
    let share = seen.errors as f64 / seen.requests as f64;
    (share * 10_000.0).round() / 10_000.0
}

fn is_bad(since: Seen, before: Seen) -> bool {
    since.errors >= ENOUGH_ERRORS && share(since) > BAD_SHARE && share(since) > 3.0 * share(before)
}

/// 128 random bits in hex: nobody outside can guess the header that marks a smoke test.
fn token() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).map_err(|error| {
        Failure::failed(
            "no random token could be made",
            error.to_string(),
            "see whether /dev/urandom is there",
        )
    })?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_errors_or_the_errors_of_before_are_not_the_release() {
        let seen = |requests, errors| Seen { requests, errors };
        assert!(is_bad(seen(10, 3), seen(1_000, 0)));
        assert!(!is_bad(seen(10, 2), seen(1_000, 0)), "two errors are chance");
        assert!(!is_bad(seen(1_000, 30), seen(1_000, 20)), "the release before was as bad");
        assert!(!is_bad(seen(1_000, 3), seen(1_000, 0)), "three in a thousand");
        assert!(!is_bad(seen(0, 0), seen(0, 0)));
    }

    #[test]
    fn no_two_tokens_are_alike() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
