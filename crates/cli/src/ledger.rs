//! The journals of an app's runs, for what is added beside the engine: what people say while a run is going on, and what
//! people and watchers say when it is over. Whoever has the app's lock has one of these.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_core::ports::{Clock, Failure, FailureKind};
use plimsoll_core::record::{Answered, Entry, Event, State, exit};
use plimsoll_host::clock::SystemClock;
use plimsoll_host::journal::{Runs, SharedJournal};

use crate::audience::Heard;
use crate::config::Config;
use crate::notes;
use crate::people::{self, Say};
use crate::wire::Reply;

/// See the module.
pub(crate) struct Ledger {
    runs: Runs,
    config: Config,
    clock: SystemClock,
    /// The run that is going on.
    going: Mutex<Option<(u32, SharedJournal)>>,
    /// One at a time adds to the journal of a run that is over and writes its reports anew.
    over: Mutex<()>,
}

impl Ledger {
    /// Of this app.
    pub(crate) fn new(config: &Config) -> Ledger {
        Ledger {
            runs: Runs::of(&config.app.root),
            config: config.clone(),
            clock: SystemClock,
            going: Mutex::default(),
            over: Mutex::default(),
        }
    }

    /// A run begins, with this journal.
    pub(crate) fn begin(&self, run: u32, journal: &SharedJournal) {
        *self.lock_going() = Some((run, journal.clone()));
    }

    /// The engine writes no more.
    pub(crate) fn end(&self) {
        *self.lock_going() = None;
    }

    /// Keeps others from adding to runs that are over, as long as the guard lives.
    pub(crate) fn alone(&self) -> MutexGuard<'_, ()> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_going(&self) -> MutexGuard<'_, Option<(u32, SharedJournal)>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the journal of a run (`None`: the one that is going on, else the last) what `make` makes of it. A run that
    /// is over gets its reports written anew.
    ///
    /// # Errors
    /// Those of `make`; when there is no such run, or it is neither going on nor over; when the event is not safely on
    /// the disk.
    pub(crate) fn add(
        &self,
        run: Option<u32>,
        make: impl FnOnce(u32, &State) -> Result<Event, Failure>,
    ) -> Result<(u32, Entry), Failure> {
        let going = self.lock_going();
        let run = match run.or(going.as_ref().map(|(run, _)| *run)) {
            Some(run) => run,
            None => self.runs.latest()?.ok_or_else(|| {
                refused("there are no runs yet", "nothing has been deployed", "plimsoll deploy")
            })?,
        };
        if !self.runs.list()?.contains(&run) {
            let next = "list them with: plimsoll history";
            return Err(refused(&format!("there is no run {run}"), "its folder is not in runs/", next));
        }
        let entry = |seq, event| Entry { seq, at: self.clock.wall(), moment: self.clock.now(), event };
        if let Some((_, journal)) = going.as_ref().filter(|(number, _)| *number == run) {
            let event = make(run, &State::fold(&self.runs.entries(run)?))?;
            return Ok((run, journal.add(|seq| entry(seq, event))?));
        }
        drop(going);
        let _alone = self.alone();
        let state = State::fold(&self.runs.entries(run)?);
        if !state.is_over() {
            let next = "plimsoll resume, then say it again";
            let why = "it was interrupted, and is neither finished nor undone";
            return Err(
                Failure::failed(format!("run {run} is not resolved"), why, next).of_kind(FailureKind::Frozen)
            );
        }
        let event = make(run, &state)?;
        let added = self.runs.add(run, event)?;
        // The changelog says who signed; the next run writes it anew when it could not be written now.
        let _ = notes::write_changelog(&self.config, &self.runs);
        Ok((run, added))
    }

    /// What somebody says to a run; the reply for them.
    pub(crate) fn hear(&self, run: Option<u32>, say: Say) -> Reply {
        match self.add(run, |run, state| people::event(run, state, &self.config.people, say)) {
            Ok((run, entry)) => {
                let message = self.heard_words(run, entry.event);
                Reply::Outcome { run: Some(run), ending: None, exit: exit::DONE, message, failure: None }
            }
            Err(failure) => Reply::Outcome {
                run,
                ending: None,
                exit: match failure.kind {
                    FailureKind::Blocked => exit::BLOCKED,
                    FailureKind::Usage => exit::USAGE,
                    FailureKind::Frozen => exit::UNRESOLVED,
                    FailureKind::Bug => exit::BUG,
                    FailureKind::Failed | FailureKind::Interrupted => exit::FAILED,
                },
                message: "Nothing was recorded; production was not touched.".to_owned(),
                failure: Some(failure),
            },
        }
    }

    fn heard_words(&self, run: u32, event: Event) -> String {
        match event {
            Event::Signed { signature } => {
                let closed = self.runs.entries(run).is_ok_and(|entries| State::fold(&entries).is_closed());
                let closed = if closed { "; the run is closed" } else { "" };
                format!("Run {run} is signed by {} as {}{closed}.", signature.name, signature.role.word())
            }
            Event::Answered { answer } => {
                format!("Run {run}: {} is answered by {}.", answer.item, answer.by)
            }
            _ => String::new(),
        }
    }

    /// What people have said to the commit of a release: the one who approved it now, and those who answered in an
    /// earlier run of the same commit.
    pub(crate) fn heard(&self, approved_by: Option<String>, account: &str) -> Heard {
        let (runs, rules, account) = (self.runs.clone(), self.config.people.clone(), account.to_owned());
        Arc::new(move |release, approved| {
            let accepted = match (&approved_by, approved) {
                (Some(name), _) => Some((name.clone(), account.clone())),
                (None, Some(person)) => Some((person.name.clone(), person.account.clone())),
                (None, None) => None,
            };
            let review = |(by, account)| {
                let (item, text) = ("pre.review".to_owned(), "accepted: go ahead".to_owned());
                Answered { item, text, by, account, run: None }
            };
            let mut new: Vec<Answered> = accepted.map(review).into_iter().collect();
            let mut known = new.clone();
            for run in runs.list()?.into_iter().rev() {
                let Ok(entries) = runs.entries(run) else { continue };
                let state = State::fold(&entries);
                if state.release.as_ref().is_none_or(|earlier| earlier.commit != release.commit) {
                    continue;
                }
                // What was said while this run went on stands in its journal already.
                let this = !state.is_over();
                for (_, answer) in state.answers.iter().filter(|(_, answer)| answer.item.starts_with("pre."))
                {
                    if known.iter().any(|one| one.item == answer.item) {
                        continue;
                    }
                    known.push(answer.clone());
                    if !this {
                        new.push(Answered { run: answer.run.or(Some(run)), ..answer.clone() });
                    }
                }
            }
            let missing = people::missing_before(&rules, &known);
            if missing.is_empty() {
                return Ok(new);
            }
            let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
            Err(people::missing_answers(&missing, None))
        })
    }
}

fn refused(what: &str, why: &str, next: &str) -> Failure {
    Failure::failed(what, why, next).of_kind(FailureKind::Usage)
}
