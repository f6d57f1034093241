//! The declared other writers of the database: stopped before the snapshot, started after the commit point.

use std::time::Duration;

use plimsoll_core::check::Check;
use plimsoll_core::ports::{Failure, Moment};

use super::managed::{Manager, State};
use super::{limit, ms};

/// One `[[worker]]`.
pub struct Worker {
    /// Its name, for messages.
    pub name: String,
    /// What runs it.
    pub manager: Box<dyn Manager>,
}

/// All workers of an app.
pub struct Workers {
    workers: Vec<Worker>,
    timeout: Duration,
}

impl Workers {
    /// These workers; each has `timeout` to stop and to start.
    #[must_use]
    pub fn new(workers: Vec<Worker>, timeout: Duration) -> Workers {
        Workers { workers, timeout }
    }

    /// Stops every worker that runs and sees that it has stopped.
    ///
    /// # Errors
    /// The first that is left running; the ones before it are stopped.
    pub fn stop(&self, until: Option<Moment>) -> Result<Vec<Check>, Failure> {
        let stop = |worker: &Worker| {
            let begun = std::time::Instant::now();
            let title = format!("Stop the worker {}", worker.name);
            if matches!(worker.manager.state()?, State::Stopped { .. }) {
                return Ok(Check::pass("deploy.stop", title).with("found", "stopped already"));
            }
            let time = limit(self.timeout, until);
            worker.manager.stop(time)?;
            match until_state(worker.manager.as_ref(), time, |s| !matches!(s, State::Running { .. }))? {
                State::Running { .. } => Err(Failure::failed(
                    format!("the worker {} could not be stopped", worker.name),
                    format!(
                        "{} still runs {:.1} s after it was told to stop",
                        worker.manager.name(),
                        time.as_secs_f64()
                    ),
                    "stop it by hand, then deploy again",
                )),
                State::Unknown { why } => Ok(Check::unknown("deploy.stop", title, why)),
                State::Stopped { .. } => {
                    Ok(Check::pass("deploy.stop", title).with("ms", ms(begun.elapsed())))
                }
            }
        };
        self.workers.iter().map(stop).collect()
    }

    /// Those that do not run, each with why. A state that cannot be told is no reason to worry a person.
    #[must_use]
    pub fn down(&self) -> Vec<String> {
        let down = |worker: &Worker| match worker.manager.state() {
            Ok(State::Stopped { why }) => {
                Some(format!("the worker {} does not run: {} is {why}", worker.name, worker.manager.name()))
            }
            Ok(State::Running { .. } | State::Unknown { .. }) | Err(_) => None,
        };
        self.workers.iter().filter_map(down).collect()
    }

    /// Starts every worker that does not run.
    ///
    /// # Errors
    /// The first that does not start; the others have been started all the same.
    pub fn start(&self) -> Result<Vec<Check>, Failure> {
        let start = |worker: &Worker| {
            let title = format!("Start the worker {}", worker.name);
            if matches!(worker.manager.state()?, State::Running { .. }) {
                return Ok(Check::pass("deploy.restart", title).with("found", "running already"));
            }
            let begun = std::time::Instant::now();
            worker.manager.start(None, self.timeout)?;
            match until_state(worker.manager.as_ref(), self.timeout, |s| !matches!(s, State::Stopped { .. }))?
            {
                State::Stopped { why } => Err(Failure::failed(
                    format!("the worker {} did not start", worker.name),
                    why,
                    format!("mend it, then start it by hand ({})", worker.manager.name()),
                )),
                State::Unknown { why } => Ok(Check::unknown("deploy.restart", title, why)),
                State::Running { .. } => {
                    Ok(Check::pass("deploy.restart", title).with("ms", ms(begun.elapsed())))
                }
            }
        };
        // Each is tried: one that fails must not keep the others down.
        let results: Vec<_> = self.workers.iter().map(start).collect();
        results.into_iter().collect()
    }
}

/// Asks again until `done` likes the state or the time is up; gives the last state.
pub(super) fn until_state(
    manager: &dyn Manager,
    time: Duration,
    done: impl Fn(&State) -> bool,
) -> Result<State, Failure> {
    let begun = std::time::Instant::now();
    loop {
        let state = manager.state()?;
        if done(&state) || begun.elapsed() >= time {
            return Ok(state);
        }
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
}
