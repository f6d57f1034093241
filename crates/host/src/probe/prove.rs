//! The engine's [`Probe`]: proves a release behind the shut door, and looks at errors once users are let in.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::plan::{ReleaseId, Smoke, Strategy};
use plimsoll_core::ports::{Failure, FailureKind, Moment, Probe};

use super::opened::{self, Opening};
use super::smoke::{self, Target};
use crate::clock::SystemClock;
use crate::database::Keep;
use crate::watch::{self, Watch};

/// Where a running release listens; `None` when it does not run.
pub type AddressOf = Arc<dyn Fn(&ReleaseId) -> Option<SocketAddr> + Send + Sync>;
/// The processes of a release.
pub type PidsOf = Arc<dyn Fn(&ReleaseId) -> Vec<u32> + Send + Sync>;
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
    /// The watch over the release once users are let in.
    pub watch: watch::Settings,
    /// Whether somebody asked the run to stop.
    pub stop: StopAsked,
}

/// The probes of one run.
pub struct AppProbe {
    settings: Settings,
    watch: Watch,
}

impl AppProbe {
    /// Asks nothing yet; notes how things are before.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let watch = Watch::begin(settings.watch.clone());
        AppProbe { settings, watch }
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
        // What is counted from here on is the new release's.
        self.watch.switched();
        Ok(checks)
    }

    fn watch(&mut self, release: &ReleaseId) -> Result<Vec<Check>, Failure> {
        Ok(self.watch.run(release))
    }
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
    fn no_two_tokens_are_alike() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
