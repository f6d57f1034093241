//! How a long operation is watched and stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::Connection;

use super::Error;

/// Asks long operations to end: a flag that anybody may raise and an optional deadline. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Stop {
    /// Never asks, until [`Stop::ask`].
    #[must_use]
    pub fn new() -> Self {
        Stop::default()
    }

    /// Uses a flag that exists already (a signal handler's).
    #[must_use]
    pub fn on(flag: Arc<AtomicBool>) -> Self {
        Stop { asked: flag, deadline: None }
    }

    /// The same flag with a deadline; an earlier one stays.
    #[must_use]
    pub fn by(&self, deadline: Instant) -> Self {
        let earlier = self.deadline.map_or(deadline, |before| before.min(deadline));
        Stop { asked: Arc::clone(&self.asked), deadline: Some(earlier) }
    }

    /// Asks every holder of a clone to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether to stop now.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.deadline.is_some_and(|at| Instant::now() >= at)
    }

    /// An error when it is time to stop.
    pub(crate) fn check(&self, doing: &str) -> Result<(), Error> {
        if self.asked.load(Ordering::Relaxed) {
            return Err(Error::Stopped { doing: doing.to_owned() });
        }
        if self.deadline.is_some_and(|at| Instant::now() >= at) {
            return Err(Error::Deadline { doing: doing.to_owned() });
        }
        Ok(())
    }

    /// Lets SQLite itself look at this while a statement runs.
    pub(crate) fn interrupts(&self, connection: &mut Connection) {
        let stop = self.clone();
        // Every few thousand instructions: well under a millisecond, and not measurable in a scan.
        // It fails only on a closed connection.
        let _ = connection.progress_handler(4_000, Some(move || stop.wanted()));
    }
}

/// What a long operation is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Copying pages.
    Copying,
    /// Reading the source's rows for comparison.
    Reading,
    /// Checking the finished copy.
    Checking,
    /// Putting a backup in place.
    Restoring,
    /// Trying migrations on a copy.
    Trying,
    /// Applying migrations.
    Migrating,
}

impl Phase {
    /// The word shown to people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Phase::Copying => "copying",
            Phase::Reading => "reading",
            Phase::Checking => "checking",
            Phase::Restoring => "restoring",
            Phase::Trying => "trying",
            Phase::Migrating => "migrating",
        }
    }
}

/// How far a long operation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Done so far, in `unit`.
    pub done: u64,
    /// All there is, in `unit`; 0 when unknown.
    pub total: u64,
    /// `pages`, `tables`, `migrations`.
    pub unit: &'static str,
}

/// What a caller gives to a long operation: when to stop, and whom to tell.
pub struct Control<'a> {
    /// When to stop.
    pub stop: Stop,
    report: Box<dyn FnMut(Progress) + 'a>,
}

impl<'a> Control<'a> {
    /// Stops when `stop` says so and tells `report`.
    pub fn new(stop: Stop, report: impl FnMut(Progress) + 'a) -> Self {
        Control { stop, report: Box::new(report) }
    }

    /// Tells nobody.
    #[must_use]
    pub fn quiet(stop: Stop) -> Self {
        Control::new(stop, |_| {})
    }

    pub(crate) fn tell(&mut self, phase: Phase, done: u64, total: u64, unit: &'static str) {
        (self.report)(Progress { phase, done, total, unit });
    }
}

impl Default for Control<'_> {
    fn default() -> Self {
        Control::quiet(Stop::new())
    }
}
