//! What the pages of the dashboard show, seen from inside `plimsoll serve`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use plimsoll_core::record::{Ending, Entry, Event, Role, State};
use plimsoll_dashboard::{
    BackupRow, House, Login, Machine, Now, Question, Refused, RunRow, Traffic, Visitor,
};
use plimsoll_host::journal::Runs;
use plimsoll_host::release::Releases;
use plimsoll_host::sqlite::connection;
use plimsoll_host::{backups, copies, durable};
use plimsoll_proxy::FrontDoor;

use crate::config::{Config, Dashboard, show_duration};
use crate::error::Error;
use crate::people::{Person, Say, open_questions};
use crate::ui::{age_words, size_words};
use crate::wire::{Reply, Status};

/// One bar of the picture stands for so many seconds.
const BAR_S: u64 = 10;
/// Twenty minutes.
const BARS: usize = 120;
/// So many runs are looked at for what has changed.
const LOOKED_AT: usize = 20;

/// The parts of `serve` that the pages need.
pub(crate) struct Pages {
    pub(crate) config: Config,
    /// Hears what somebody says to a run.
    pub(crate) hear: Box<dyn Fn(u32, Say) -> Reply + Send + Sync>,
    pub(crate) front: Option<Arc<FrontDoor>>,
    /// How things are, as a command would be told.
    pub(crate) status: Box<dyn Fn() -> Status + Send + Sync>,
    /// Answers the question whether to go on.
    pub(crate) go_ahead: Box<dyn Fn(bool, Person) -> Reply + Send + Sync>,
}

/// Who may come in, with their tokens as they are now.
pub(crate) fn login(settings: &Dashboard) -> Result<Login, Error> {
    let unseen = |error: &dyn std::fmt::Display| {
        Error::usage("the dashboard cannot let anybody in").why(error.to_string())
    };
    let mut login = Login::new().map_err(|error| unseen(&error))?;
    for (name, visitor) in &settings.people {
        let token = visitor.token.as_ref().map(|secret| secret.reveal()).transpose()?;
        login = login.person(name, visitor.operator, token.as_deref());
    }
    if let (Some(header), Some(secret)) = (&settings.header, &settings.header_secret) {
        login = login.proxy(header, &secret.reveal()?);
    }
    Ok(login)
}

impl Pages {
    fn store(&self) -> Runs {
        Runs::of(&self.config.app.root)
    }

    fn row(&self, run: u32) -> Option<RunRow> {
        let entries = self.store().entries(run).ok()?;
        row(run, &entries)
    }

    fn traffic(&self) -> Option<Traffic> {
        let front = self.front.as_ref()?;
        let counts = front.traffic();
        let ms = |share| counts.latency.quantile(share).map(|d| d.as_secs_f64() * 1_000.0);
        let recent = recent(front);
        Some(Traffic {
            requests: counts.requests,
            classes: [
                counts.informational,
                counts.success,
                counts.redirect,
                counts.client_error,
                counts.server_error,
            ],
            left: counts.left,
            held: counts.held,
            waiting: counts.parked,
            in_flight: counts.in_flight,
            failed_here: counts.failed_here,
            refused_here: counts.refused_here,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            recent,
        })
    }

    fn machine(&self, status: &Status) -> Machine {
        let size = |path: &Path| std::fs::metadata(path).ok().map(|file| file.len());
        let database = self.config.database_file();
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        Machine {
            pid: status.pid,
            restarts: status.restarts,
            cpu_s: status.pid.and_then(cpu_seconds),
            memory_bytes: status.pid.and_then(memory_bytes),
            disk_free_bytes: durable::free_space(&self.config.app.root).ok(),
            database_bytes: database.and_then(size),
            wal_bytes: database.and_then(|file| size(&connection::beside(file, "-wal"))),
            load: load.and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }

    /// The next spot check of the release that is live.
    fn next_spot(&self, entries: &[Entry]) -> Option<String> {
        let state = State::fold(entries);
        if !matches!(state.ended, Some((Ending::Live, ..))) {
            return None;
        }
        let committed = entries.iter().find(|entry| matches!(entry.event, Event::Committed { .. }))?;
        let at: Timestamp = committed.at.parse().ok()?;
        let done = |ms: u64| state.spots.contains(&ms);
        let spot = self
            .config
            .watch
            .spots
            .iter()
            .find(|spot| !done(u64::try_from(spot.as_millis()).unwrap_or(0)))?;
        let due = at.checked_add(*spot).ok()?;
        let left = due.duration_since(Timestamp::now());
        let when = if left.is_negative() { "due now".to_owned() } else { format!("in {}", age_words(left)) };
        Some(format!("{} spot, {when}", show_duration(*spot)))
    }

    fn locked(&self, runs: &[u32]) -> Option<String> {
        for run in runs.iter().rev().take(LOOKED_AT) {
            let Ok(entries) = self.store().entries(*run) else { continue };
            let state = State::fold(&entries);
            if state.locked.is_some() {
                return state.locked;
            }
            if state.order.is_some_and(|order| order.unlock.is_some()) {
                return None;
            }
        }
        None
    }
}

impl House for Pages {
    fn now(&self) -> Now {
        let status = (self.status)();
        let numbers = self.store().list().unwrap_or_default();
        let last =
            numbers.iter().rev().find_map(|run| self.store().entries(*run).ok().filter(|e| !e.is_empty()));
        let age = |at: Timestamp| Timestamp::now().duration_since(at);
        let newest = self.config.database_file().and_then(Path::file_name).and_then(|file| {
            let entries = backups::list(&self.config.backups(), &file.to_string_lossy()).ok()?;
            let newest = backups::newest_verified(&entries, Timestamp::now())?;
            Some((newest.path.file_name()?.to_string_lossy().into_owned(), newest.at()))
        });
        let states = copies::states(&self.config.backups()).unwrap_or_default();
        let drilled = states.values().filter_map(|state| state.drilled.as_ref()).map(|done| done.at).max();
        Now {
            app: self.config.app.name.clone(),
            release: Releases::new(&self.config.app.root).current().ok().flatten().map(|id| id.0),
            door: status.door.clone(),
            running: status.running,
            question: status.question.clone(),
            trouble: status.trouble.clone(),
            locked: self.locked(&numbers),
            traffic: self.traffic(),
            machine: self.machine(&status),
            backup: newest.as_ref().map(|(name, at)| (name.clone(), age_words(age(*at)))),
            backup_age_s: newest.as_ref().map(|(_, at)| age(*at).as_secs()),
            drill: drilled.map(|at| format!("last drilled {} ago", age_words(age(at)))),
            drill_age_s: drilled.map(|at| age(at).as_secs()),
            next_spot: last.as_ref().and_then(|entries| self.next_spot(entries)),
            last: last.as_ref().and_then(|entries| {
                let run = State::fold(entries).order.as_ref().map(|order| order.run)?;
                row(run, entries)
            }),
        }
    }

    fn runs(&self) -> Vec<RunRow> {
        let numbers = self.store().list().unwrap_or_default();
        numbers.into_iter().rev().filter_map(|run| self.row(run)).collect()
    }

    fn entries(&self, run: u32) -> Option<Vec<Entry>> {
        self.store().entries(run).ok().filter(|entries| !entries.is_empty())
    }

    fn questions(&self, run: u32) -> Vec<Question> {
        let Some(entries) = self.entries(run) else { return Vec::new() };
        let open = open_questions(&State::fold(&entries), &self.config.people);
        let question = |q: crate::people::Question| Question {
            item: q.item.to_owned(),
            title: q.title.to_owned(),
            required: q.required,
        };
        open.into_iter().map(question).collect()
    }

    fn backups(&self) -> Vec<BackupRow> {
        let Some(file) = self.config.database_file().and_then(Path::file_name) else { return Vec::new() };
        let mut entries = backups::list(&self.config.backups(), &file.to_string_lossy()).unwrap_or_default();
        entries.sort_by_key(backups::Entry::at);
        let row = |entry: &backups::Entry| BackupRow {
            name: entry.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            at: entry.at().to_string(),
            age: age_words(Timestamp::now().duration_since(entry.at())),
            size: size_words(entry.bytes),
            verified: entry.verified(),
        };
        entries.iter().rev().map(row).collect()
    }

    fn version(&self) -> u64 {
        let numbers = self.store().list().unwrap_or_default();
        let length = |run: &u32| std::fs::metadata(self.store().journal(*run)).map_or(0, |file| file.len());
        let journals: u64 = numbers.iter().rev().take(LOOKED_AT).map(length).sum();
        let status = (self.status)();
        let asked = u64::from(status.question.is_some()) + 2 * u64::from(status.running.unwrap_or(0));
        let door = status.door.bytes().chain(status.trouble.iter().flat_map(|t| t.bytes()));
        let door = door.fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        journals ^ (asked << 40) ^ ((numbers.len() as u64) << 52) ^ (door << 17)
    }

    fn answer(&self, run: u32, item: &str, text: &str, by: Visitor) -> Result<String, Refused> {
        let what = Say::Answer { item: item.to_owned(), text: text.to_owned(), by: person(by) };
        told((self.hear)(run, what))
    }

    fn sign(&self, run: u32, role: Role, note: Option<String>, by: Visitor) -> Result<String, Refused> {
        told((self.hear)(run, Say::Sign { role, note, by: person(by) }))
    }

    fn go_ahead(&self, yes: bool, by: Visitor) -> Result<String, Refused> {
        told((self.go_ahead)(yes, person(by)))
    }
}

/// Answers and errors in each ten seconds of the last twenty minutes, oldest first.
pub(crate) fn recent(front: &FrontDoor) -> Vec<(u32, u32)> {
    let mut recent = vec![(0, 0); BARS];
    let seconds = front.recent(Duration::from_secs(BARS as u64 * BAR_S));
    // Seconds without an answer are left out; the last one here may be a while ago, and then stands at the end.
    let last = seconds.last().map_or(0, |second| second.second);
    for second in &seconds {
        let back = usize::try_from((last - second.second) / BAR_S).unwrap_or(BARS);
        if let Some(bar) = BARS.checked_sub(back + 1).and_then(|at| recent.get_mut(at)) {
            *bar = (bar.0 + second.answered, bar.1 + second.errors);
        }
    }
    recent
}

fn person(by: Visitor) -> Person {
    Person { name: by.name, account: by.way }
}

fn told(reply: Reply) -> Result<String, Refused> {
    match reply {
        Reply::Outcome { failure: None, message, .. } => Ok(message),
        Reply::Outcome { failure: Some(failure), .. } => {
            Err(Refused { what: failure.what, why: failure.why, next: failure.next })
        }
        _ => Err(Refused { what: "nothing was recorded".into(), why: String::new(), next: String::new() }),
    }
}

fn row(run: u32, entries: &[Entry]) -> Option<RunRow> {
    let state = State::fold(entries);
    let began = entries.first()?.at.clone();
    let times = entries.iter().rev().find_map(|entry| match entry.event {
        Event::Ended { hold_ms, ms, .. } => Some((hold_ms, ms)),
        _ => None,
    });
    let (hold_ms, ms) = times.unwrap_or_default();
    let signed = |(_, signature): &(String, plimsoll_core::record::Signed)| {
        format!("{} {}", signature.role.word(), signature.name)
    };
    Some(RunRow {
        run,
        began,
        kind: state.order.as_ref().map(|order| order.kind.word().to_owned())?,
        release: state.release.as_ref().map(|release| release.id.0.clone()),
        by: state.order.as_ref().map(|order| order.by.clone()).unwrap_or_default(),
        ending: state.ended.as_ref().map(|(ending, ..)| ending.word().to_owned()),
        exit: state.ended.as_ref().map(|(_, exit, _)| *exit),
        hold_ms,
        ms,
        signed: state.signatures.iter().map(signed).collect(),
    })
}

/// Processor time of a process, from its line in `/proc`; its name may hold spaces and brackets.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    // The kernel tells all programs of 100 ticks a second.
    Some(ticks / 100.0)
}

fn memory_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_one_that_is_gone_none() {
        assert!(memory_bytes(std::process::id()).unwrap() > 1_000_000);
        assert!(cpu_seconds(std::process::id()).is_some());
        assert_eq!((memory_bytes(u32::MAX), cpu_seconds(u32::MAX)), (None, None));
    }
}
