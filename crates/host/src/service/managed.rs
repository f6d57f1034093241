//! An app that something else runs: systemd, supervisor, or commands of the user's own.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plimsoll_core::check::Check;
use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::{Failure, Moment, Service};

use super::health::{Answer, Health, ask};
use super::workers::{Workers, until_state};
use super::{command_words, limit, ms, quoted};
use crate::process::{Command, Limits, Ran, Sink, base_env, run};

/// What something that runs apps says about one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// It runs.
    Running {
        /// Its first process, when that is told.
        pid: Option<i32>,
    },
    /// It does not, and why as far as that is told.
    Stopped {
        /// "inactive", "exit-code 3"...
        why: String,
    },
    /// It cannot be told.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Something that runs an app or a worker.
pub trait Manager: Send + Sync {
    /// As a person calls it: "unit grocery.service".
    fn name(&self) -> String;
    /// Starts it; may return before it runs.
    ///
    /// # Errors
    /// When it refuses, with its last log lines.
    fn start(&self, release: Option<&ReleaseId>, time: Duration) -> Result<(), Failure>;
    /// Stops it; may return before it has stopped.
    ///
    /// # Errors
    /// When it refuses or takes longer than `time`.
    fn stop(&self, time: Duration) -> Result<(), Failure>;
    /// How it is.
    ///
    /// # Errors
    /// When the program that knows cannot be run.
    fn state(&self) -> Result<State, Failure>;
    /// The last lines of its log; empty when they cannot be had.
    fn last_lines(&self) -> Vec<String>;
}

/// The app, run by a [`Manager`] from the folder `current`.
pub struct ManagedService {
    /// What runs it.
    pub manager: Box<dyn Manager>,
    /// Where it listens and how it tells that it is well; without it only the manager's word counts.
    pub health: Option<(SocketAddr, Health)>,
    /// How long it may take to be well.
    pub start_timeout: Duration,
    /// How long it may take to stop.
    pub stop_timeout: Duration,
    /// Values that must not be quoted from its log.
    pub secrets: Vec<String>,
    /// The other writers.
    pub workers: Workers,
}

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How many good answers in a row make it well.
const GOOD_ANSWERS: u32 = 2;
/// How long it must have run when there is nothing to ask.
const STAYS_UP: Duration = Duration::from_secs(1);

impl ManagedService {
    fn listens(&self) -> bool {
        let address = self.health.as_ref().map(|(address, _)| *address);
        address.is_some_and(|a| TcpStream::connect_timeout(&a, Duration::from_millis(500)).is_ok())
    }

    /// Waits until it is well and it was this release that said so.
    fn until_well(&self, release: &ReleaseId, time: Duration, begun: Instant) -> Result<Check, Failure> {
        let mut good = 0;
        let mut last = String::from("it was not asked");
        loop {
            let state = self.manager.state()?;
            if let State::Stopped { why } = &state
                && begun.elapsed() >= STAYS_UP.min(time)
            {
                return Err(self.not_well(release, format!("{} does not run: {why}", self.manager.name())));
            }
            let left = time.saturating_sub(begun.elapsed());
            match &self.health {
                Some((address, health)) => {
                    match ask(*address, health, release, left.min(Duration::from_secs(2))) {
                        Answer::Well { named } => {
                            good += 1;
                            if good >= GOOD_ANSWERS {
                                return Ok(self
                                    .well(release, &state, begun)
                                    .with("named_its_release", named));
                            }
                        }
                        other => {
                            good = 0;
                            last = format!("http://{address}{}: {other}", health.path);
                        }
                    }
                }
                None if begun.elapsed() >= STAYS_UP => match &state {
                    State::Running { .. } => return Ok(self.well(release, &state, begun)),
                    State::Unknown { why } => {
                        let why = format!("{why}, and no address is configured to ask");
                        return Ok(Check::unknown("deploy.restart", "Restart the application", why));
                    }
                    State::Stopped { .. } => {}
                },
                None => {}
            }
            if left.is_zero() {
                let why = format!("it was not well within {:.1} s; last: {last}", time.as_secs_f64());
                return Err(self.not_well(release, why));
            }
            std::thread::sleep(POLL.min(left));
        }
    }

    fn well(&self, release: &ReleaseId, state: &State, begun: Instant) -> Check {
        let check = Check::pass("deploy.restart", "Restart the application")
            .with("release", release.0.as_str())
            .with("run_by", self.manager.name())
            .with("startup_ms", ms(begun.elapsed()));
        match state {
            State::Running { pid: Some(pid) } => check.with("pid", *pid),
            _ => check,
        }
    }

    fn not_well(&self, release: &ReleaseId, why: String) -> Failure {
        let lines = quoted(&self.manager.last_lines(), &self.secrets);
        Failure::failed(
            format!("release {release} did not start"),
            format!("{why}. {lines}"),
            format!("mend what its log says ({}), then deploy again", self.manager.name()),
        )
    }
}

impl Service for ManagedService {
    fn stop(&mut self, release: &ReleaseId, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        let time = limit(self.stop_timeout, until);
        let begun = Instant::now();
        let check = Check::pass("deploy.stop", "Stop the application")
            .with("release", release.0.as_str())
            .with("run_by", self.manager.name());
        if matches!(self.manager.state()?, State::Stopped { .. }) && !self.listens() {
            return Ok(vec![check.with("found", "not running")]);
        }
        self.manager.stop(time)?;
        let stays = |why: String| {
            let next = "stop it by hand, then deploy again";
            Err(Failure::failed(format!("release {release} could not be stopped"), why, next))
        };
        let left = time.saturating_sub(begun.elapsed());
        let state = until_state(self.manager.as_ref(), left, |s| !matches!(s, State::Running { .. }))?;
        if matches!(state, State::Running { .. }) {
            return stays(format!("{} still runs after {:.1} s", self.manager.name(), time.as_secs_f64()));
        }
        while self.listens() {
            if begun.elapsed() >= time {
                let address = self.health.as_ref().map(|(a, _)| a.to_string()).unwrap_or_default();
                return stays(format!(
                    "{} has stopped, but something still answers on {address}",
                    self.manager.name()
                ));
            }
            std::thread::sleep(POLL);
        }
        if let (State::Unknown { why }, None) = (state, &self.health) {
            let why = format!("{why}, and no address is configured to ask");
            return Ok(vec![Check::unknown("deploy.stop", "Stop the application", why)]);
        }
        Ok(vec![check.with("ms", ms(begun.elapsed()))])
    }

    fn start(&mut self, release: &ReleaseId, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        let time = limit(self.start_timeout, until);
        if matches!(self.manager.state()?, State::Running { .. })
            && let Some((address, health)) = &self.health
        {
            match ask(*address, health, release, Duration::from_secs(2)) {
                Answer::Well { named: true } => {
                    let check = Check::pass("deploy.restart", "Restart the application");
                    return Ok(vec![
                        check.with("release", release.0.as_str()).with("found", "running already"),
                    ]);
                }
                // Started by somebody else since it was stopped, from whatever `current` was then.
                _ => {
                    self.stop(release, until)?;
                }
            }
        }
        let begun = Instant::now();
        self.manager.start(Some(release), time)?;
        match self.until_well(release, time, begun) {
            Ok(check) => Ok(vec![check]),
            Err(mut failure) => {
                // A unit with Restart= would go on trying, with users' requests, on a database that is being undone.
                if let Err(stays) = self.manager.stop(self.stop_timeout) {
                    failure.why = format!("{}\nAnd it could not be stopped: {stays}", failure.why);
                }
                Err(failure)
            }
        }
    }

    fn stop_workers(&mut self, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        self.workers.stop(until)
    }

    fn start_workers(&mut self) -> Result<Vec<Check>, Failure> {
        self.workers.start()
    }
}

/// Where a manager's own commands run.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings<'a> {
    /// Goes over the base environment.
    pub(super) env: BTreeMap<String, String>,
    /// The folder; `/` when it does not matter.
    pub(super) folder: Option<PathBuf>,
    /// Takes the output, and what the command leaves in the background lives on.
    pub(super) log: Option<&'a Path>,
}

/// Runs one command line of a manager; `what` is what could not be done when it cannot be run.
pub(super) fn ask_manager(
    what: &str,
    line: &str,
    time: Duration,
    around: Surroundings<'_>,
) -> Result<(Ran, Vec<String>), Failure> {
    let mut env = base_env();
    env.extend(around.env);
    let words = command_words(line, &env)?;
    let folder = around.folder.unwrap_or_else(|| PathBuf::from("/"));
    let command = Command { words, env, folder, mark: None };
    let mut lines = Vec::new();
    let mut take = |line: &str| lines.push(line.to_owned());
    let (keep_background, sink) = match around.log {
        Some(path) => (true, Sink::File(path)),
        None => (false, Sink::Lines(&mut take)),
    };
    let limits = Limits { time: Some(time), keep_background, ..Limits::default() };
    let ran = run(&command, limits, sink).map_err(|e| {
        Failure::failed(
            format!("{what}: `{line}` could not be run"),
            e.to_string(),
            "mend it in plimsoll.toml",
        )
    })?;
    Ok((ran, lines))
}

/// The failure of a manager's command that ran and did not do what it was to do.
pub(super) fn refused(what: &str, line: &str, ran: &Ran, log: &[String], next: &str) -> Failure {
    let mut lines = ran.tail.clone();
    lines.extend_from_slice(log);
    Failure::failed(what, format!("`{line}`: {}. {}", ran.end, quoted(&lines, &[])), next)
}
