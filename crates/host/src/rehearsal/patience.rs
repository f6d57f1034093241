//! Whether a release waits for a lock that somebody else holds for a moment, or fails its users at once.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::plan::Smoke;

use super::bench::Bench;
use super::{Spec, old_code};
use crate::probe::smoke::{self, Target};
use crate::sqlite::connection::{ForeignKeys, open_own};

pub(super) const NAME: &str = "It waits for a database that is locked for a moment";

/// As long as a backup may make writers wait: see [`Limits`](crate::sqlite::Limits).
const HELD: Duration = Duration::from_millis(500);

impl Bench {
    /// Repeats the tests that write while the write lock of the copy is held by this process. One that fails then, and
    /// neither before nor after, shows an app that does not wait. Only for the last release that is tried: these writes
    /// stay in the copy.
    pub(super) fn patience(&self, spec: &Spec, release: &str, target: &Target) -> Check {
        let unknown = |why: String| Check::unknown("pre.staging", NAME, why);
        let tests: Vec<Smoke> = spec.smoke.iter().filter(|test| test.writes).cloned().collect();
        let (Some(database), false) = (self.places.database(), tests.is_empty()) else {
            let why = "no smoke test says that it writes: writes = true";
            return Check::skipped("pre.staging", NAME, why);
        };
        let ask = || smoke::run(&tests, target, Some(self.left()), &|| self.stop.wanted());
        let failed = |outcomes: &[smoke::Outcome]| {
            let bad = outcomes.iter().find(|outcome| outcome.check.verdict != Verdict::Pass);
            bad.map(|outcome| format!("`{}`: {}", outcome.check.name, outcome.check.why()))
        };
        let holder = match open_own(database, ForeignKeys::Off) {
            Ok(holder) => holder,
            Err(error) => return unknown(error.to_string()),
        };
        if let Err(error) = holder.execute_batch("BEGIN IMMEDIATE") {
            return unknown(format!("the copy could not be locked: {error}"));
        }
        let begun = Instant::now();
        let (done, waits) = channel::<()>();
        let outcomes = std::thread::scope(|scope| {
            scope.spawn(move || {
                // Until the tests are done, or no longer than anybody should have to wait.
                let _ = waits.recv_timeout(HELD);
                // Closing it would give the lock back too.
                let _ = holder.execute_batch("ROLLBACK");
            });
            let outcomes = ask();
            drop(done);
            outcomes
        });
        let ms = super::ms(begun.elapsed());
        let Some(why) = failed(&outcomes) else {
            return Check::pass("pre.staging", NAME).with("ms", ms);
        };
        if let Some(again) = failed(&ask()) {
            return unknown(format!("the tests that write cannot be repeated: {again}"));
        }
        let what = format!("with the write lock held by somebody else, it failed after {ms} ms: {why}");
        let remark = old_code::impatient(release, &what);
        old_code::with_remarks(unknown(what), &[remark])
    }
}
