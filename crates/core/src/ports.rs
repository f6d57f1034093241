//! The few ways to the world. The engine knows only these; the host, proxy and cli crates stand behind them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::notify::{Occasion, Told};
use crate::plan::{Agreed, Decision, Rehearsal, Release, ReleaseId, Strategy};
use crate::reconcile::{Reconciliation, Requests};
use crate::record::{Answered, Entry, Event, Kind, State};

/// Why a step could not be done. Always says what failed, why, and what a person types next; the engine adds
/// what state production is in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What it means for the run.
    pub kind: FailureKind,
    /// What failed: "migration 0007_split_address failed".
    pub what: String,
    /// Why: the cause as the system gave it, without secrets.
    pub why: String,
    /// What to type or mend next.
    pub next: String,
}

/// What a failure means for the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// A check or a step failed; the run stops and is undone.
    Failed,
    /// Only a person's acknowledgement, answer or window lets it go on.
    Blocked,
    /// Configuration or usage.
    Usage,
    /// Somebody asked the run to stop.
    Interrupted,
    /// The database holds writes that an undo would lose; production is frozen and a person must decide.
    Frozen,
    /// Plimsoll's own mistake.
    Bug,
}

impl Failure {
    /// A step that failed.
    #[must_use]
    pub fn failed(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Failure { kind: FailureKind::Failed, what: what.into(), why: why.into(), next: next.into() }
    }

    /// The same failure as another kind.
    #[must_use]
    pub fn of_kind(mut self, kind: FailureKind) -> Self {
        self.kind = kind;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// A moment on the clock that runs through suspension and never jumps (CLOCK_BOOTTIME), in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `ms` later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Moment(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 when it is later.
    #[must_use]
    pub fn since_ms(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Time.
pub trait Clock {
    /// The wall clock, RFC 3339 in UTC with milliseconds: for people, never for deadlines.
    fn wall(&self) -> String;
    /// The steady clock: for deadlines and durations.
    fn now(&self) -> Moment;
    /// The kernel's id of this boot; a [`Moment`] means nothing after another one.
    fn boot_id(&self) -> String;
    /// What was agreed about maintenance, judged against the wall clock now.
    fn agreed(&self) -> Agreed {
        Agreed::Nothing
    }
}

/// Where the events of a run are kept.
pub trait Journal {
    /// Writes the entry and syncs it to the disk before returning.
    ///
    /// # Errors
    /// When it is not safely on the disk; the caller must not go on.
    fn append(&mut self, entry: &Entry) -> Result<(), Failure>;
    /// Reserves the space that the rest of the run needs, so that a full disk cannot stop an undo.
    ///
    /// # Errors
    /// When there is not enough; no hold may begin.
    fn reserve(&mut self) -> Result<(), Failure>;
    /// The number that is due, where others than the engine write to the journal too: what people answer meanwhile.
    fn next_seq(&self) -> Option<u64> {
        None
    }
}

/// Who looks on, and may ask to stop.
pub trait Audience {
    /// Shows an event or passing progress. Never fails, never blocks the run.
    fn show(&self, news: News<'_>);
    /// Who asked the run to stop, if anybody did.
    fn stop_asked(&self) -> Option<String>;
    /// Whether production may be touched as decided: asks a person where one is there to be asked.
    fn go_ahead(&self, release: &Release, rehearsal: &Rehearsal, decision: &Decision) -> bool;
    /// What people have said to this release before production is touched; asked after [`Audience::go_ahead`].
    ///
    /// # Errors
    /// [`FailureKind::Blocked`] while an answer that must be there is not.
    fn answers(&self, release: &Release) -> Result<Vec<Answered>, Failure> {
        let _ = release;
        Ok(Vec::new())
    }
}

/// Something to show to whoever looks on.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A journaled event.
    Entry(&'a Entry),
    /// A line of a child's output, or a remark; not journaled.
    Line(&'a str),
    /// How far a long step is: done and total in a unit of its own.
    Progress {
        /// Done so far.
        done: u64,
        /// All there is; 0 when unknown.
        total: u64,
        /// `bytes`, `pages`...
        unit: &'a str,
    },
}

/// Code: git and release folders.
pub trait Source {
    /// Brings the revision (the configured branch when `None`) here and gives it the next number.
    ///
    /// # Errors
    /// Missing, diverged or unreachable: nothing has changed.
    fn fetch(&mut self, revision: Option<&str>) -> Result<(Release, Vec<Check>), Failure>;
    /// Writes the release folder, links what is shared, runs the build commands.
    ///
    /// # Errors
    /// When a command fails or takes too long; the folder is left for [`Source::discard`].
    fn build(&mut self, release: &Release) -> Result<Vec<Check>, Failure>;
    /// Removes the folder of a release that never went live. Does nothing when there is none.
    ///
    /// # Errors
    /// When the folder cannot be removed: a warning.
    fn discard(&mut self, release: &ReleaseId) -> Result<(), Failure>;
    /// Makes `current` point at the release, atomically; with `None` removes it (there was none before).
    ///
    /// # Errors
    /// `current` points where it did before.
    fn switch(&mut self, to: Option<&ReleaseId>) -> Result<Vec<Check>, Failure>;
}

/// What an undo did to the database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// Whether anything had to be put back.
    pub changed: bool,
    /// What was seen.
    pub checks: Vec<Check>,
    /// What is no longer in the database and where it is kept, as the end of a sentence: "3 rows ... are in FILE".
    pub kept: Option<String>,
}

/// The data.
pub trait Database {
    /// Backs up the live database and verifies the copy.
    ///
    /// # Errors
    /// There is no new verified backup; production is untouched.
    fn backup(&mut self) -> Result<Vec<Check>, Failure>;
    /// Tries the release's migrations on a copy of the live database. For a rollback: says whether the earlier
    /// release's code fits the database as it is.
    ///
    /// # Errors
    /// A migration cannot be applied, or the database is not the one the release is for.
    fn rehearse(&mut self, release: &Release, kind: Kind) -> Result<(Rehearsal, Vec<Check>), Failure>;
    /// Copies the database now that nobody writes: PRE. Reserves what an undo needs.
    ///
    /// # Errors
    /// The live database is untouched.
    fn snapshot(&mut self, until: Moment) -> Result<Vec<Check>, Failure>;
    /// Applies the pending migrations and notes the database as they left it: POST. On the disk before it returns.
    ///
    /// # Errors
    /// The failing migration has been rolled back; earlier ones may be applied ([`Database::restore`] undoes them).
    fn migrate(&mut self, release: &Release, until: Moment) -> Result<Vec<Check>, Failure>;
    /// Compares counts and versions with what they must be now.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn verify(&mut self, release: &Release) -> Result<Vec<Check>, Failure>;
    /// Puts PRE back, unless the database still equals it. Safe to call again after a crash at any moment, and
    /// does nothing once it has succeeded.
    ///
    /// # Errors
    /// [`FailureKind::Frozen`] when somebody else's writes would be lost and `acknowledged` does not name them.
    fn restore(&mut self, acknowledged: &[String]) -> Result<Restored, Failure>;
    /// Beside a release that served all along: whether the one that is undone has changed the schema or removed rows.
    /// A failed check says what, and which backup has it.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn unharmed(&mut self) -> Result<Vec<Check>, Failure>;
    /// Every table's rows before the run, after its migration and now, and the AUTOINCREMENT counters; asked at the end,
    /// when nobody waits. `None` where that is not known.
    ///
    /// # Errors
    /// A warning.
    fn reconcile(&mut self) -> Result<Option<Reconciliation>, Failure> {
        Ok(None)
    }
    /// Forgets copies that only the run needed. Never touches backups or production.
    ///
    /// # Errors
    /// A warning.
    fn tidy(&mut self) -> Result<(), Failure>;
}

/// The running app and its declared workers.
pub trait Service {
    /// Stops the release (nothing when it does not run), ends what does not stop in time.
    ///
    /// # Errors
    /// When something is left running.
    fn stop(&mut self, release: &ReleaseId, until: Option<Moment>) -> Result<Vec<Check>, Failure>;
    /// Starts the release, unless it runs already, and waits until it answers with its own id.
    ///
    /// # Errors
    /// It does not run: what was started has been ended; the last lines of its log are in `why`.
    fn start(&mut self, release: &ReleaseId, until: Option<Moment>) -> Result<Vec<Check>, Failure>;
    /// Stops the workers.
    ///
    /// # Errors
    /// When one is left running.
    fn stop_workers(&mut self, until: Option<Moment>) -> Result<Vec<Check>, Failure>;
    /// Starts the workers; those that run already stay.
    ///
    /// # Errors
    /// When one does not start.
    fn start_workers(&mut self) -> Result<Vec<Check>, Failure>;
}

/// The front door. Without one, every method answers with a skipped check.
pub trait Gate {
    /// From now on requests wait; drains what is running; at `until` those that wait are sent away, not let in.
    ///
    /// # Errors
    /// The door is as it was.
    fn hold(&mut self, until: Moment) -> Result<Vec<Check>, Failure>;
    /// From now on users read a maintenance page that asks them to come back after about `about_ms`; drains what is
    /// running.
    ///
    /// # Errors
    /// The door is as it was.
    fn maintain(&mut self, until: Moment, about_ms: u64) -> Result<Vec<Check>, Failure>;
    /// Lets users in to the release; those that waited first. The door may be open to another release already.
    ///
    /// # Errors
    /// When the release does not run.
    fn open(&mut self, release: &ReleaseId) -> Result<Vec<Check>, Failure>;
    /// What went through the door since it was told of the run.
    fn requests(&self) -> Option<Requests> {
        None
    }
    /// Nobody is let in; every answer is a page that says `why`.
    ///
    /// # Errors
    /// None known; the door stays shut then too.
    fn shut(&mut self, why: &str) -> Result<(), Failure>;
}

/// Observations of the app from outside.
pub trait Probe {
    /// Runs the smoke tests against the release on its private address and sees that it opened the configured
    /// database.
    ///
    /// # Errors
    /// When there is nothing to ask; a failed test is a failed [`Check`].
    fn prove(
        &mut self,
        release: &ReleaseId,
        strategy: Strategy,
        until: Option<Moment>,
    ) -> Result<Vec<Check>, Failure>;
    /// Looks at errors for the configured time.
    ///
    /// # Errors
    /// When it cannot look; errors that it saw are failed checks.
    fn watch(&mut self, release: &ReleaseId) -> Result<Vec<Check>, Failure>;
}

/// Messages to people.
pub trait Notifier {
    /// Puts a message about the run for everybody who wants to be told of this on the disk, and returns at once: it is
    /// sent beside the run, which never waits for it and never fails because of it.
    fn tell(&mut self, occasion: Occasion, run: &State) -> Vec<Told>;
}

/// Nobody is told.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Notifier for Silent {
    fn tell(&mut self, _: Occasion, _: &State) -> Vec<Told> {
        Vec::new()
    }
}

/// All of the world that a run needs.
pub struct Ports<'a> {
    /// Code.
    pub source: &'a mut dyn Source,
    /// Data.
    pub database: &'a mut dyn Database,
    /// The running app.
    pub service: &'a mut dyn Service,
    /// The front door.
    pub gate: &'a mut dyn Gate,
    /// Observations from outside.
    pub probe: &'a mut dyn Probe,
    /// Messages to people.
    pub notifier: &'a mut dyn Notifier,
    /// Where events are kept.
    pub journal: &'a mut dyn Journal,
    /// Who looks on.
    pub audience: &'a dyn Audience,
    /// Time.
    pub clock: &'a dyn Clock,
}

impl Ports<'_> {
    /// Journals an event and shows it. The one place where an [`Entry`] is made.
    ///
    /// # Errors
    /// When the event is not safely on the disk.
    pub fn record(&mut self, seq: &mut u64, event: Event) -> Result<Entry, Failure> {
        *seq = self.journal.next_seq().unwrap_or(*seq);
        let entry = Entry { seq: *seq, at: self.clock.wall(), moment: self.clock.now(), event };
        self.journal.append(&entry)?;
        *seq += 1;
        self.audience.show(News::Entry(&entry));
        Ok(entry)
    }
}
