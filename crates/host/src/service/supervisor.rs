//! Kind `supervisor`: a program, through supervisorctl.

use std::time::Duration;

use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::Failure;

use super::managed::{Manager, State, Surroundings, ask_manager, refused};

/// How long a question to supervisor may take; each starts a Python.
const ASK: Duration = Duration::from_secs(15);

/// A program or group of a supervisor.
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// `grocery_app`, or `group:*`.
    pub program: String,
    /// The supervisor's configuration, when it is not where supervisorctl looks by itself.
    pub config: Option<std::path::PathBuf>,
}

impl Supervisor {
    fn line(&self, verb: &str) -> String {
        let config = match &self.config {
            Some(path) => format!("-c {} ", shell_words::quote(&path.to_string_lossy())),
            None => String::new(),
        };
        format!("supervisorctl {config}{verb} {}", shell_words::quote(&self.program))
    }

    fn must(&self, what: &str, verb: &str, time: Duration) -> Result<(), Failure> {
        let (what, line) = (format!("program {}: {what}", self.program), self.line(verb));
        let (ran, _) = ask_manager(&what, &line, time, Surroundings::default())?;
        if ran.end.is_success() {
            return Ok(());
        }
        let next = format!("look at `{}`, mend it, then deploy again", self.line("status"));
        Err(refused(&what, &line, &ran, &self.last_lines(), &next))
    }
}

impl Manager for Supervisor {
    fn name(&self) -> String {
        format!("program {}", self.program)
    }

    fn start(&self, _release: Option<&ReleaseId>, time: Duration) -> Result<(), Failure> {
        self.must("it could not be started", "start", time)
    }

    fn stop(&self, time: Duration) -> Result<(), Failure> {
        self.must("it could not be stopped", "stop", time)
    }

    fn state(&self) -> Result<State, Failure> {
        // The exit code is 3 as soon as any program is down, and 4 when there is none such: the words say it better.
        let what = format!("program {}: its state could not be asked", self.program);
        let (_, lines) = ask_manager(&what, &self.line("status"), ASK, Surroundings::default())?;
        Ok(state(&lines))
    }

    fn last_lines(&self) -> Vec<String> {
        let read = |stream: &str| {
            let line = format!("{} {stream}", self.line("tail -4000"));
            let ran = ask_manager("its log could not be read", &line, ASK, Surroundings::default());
            ran.ok().filter(|(ran, _)| ran.end.is_success()).map(|(_, lines)| lines).unwrap_or_default()
        };
        let mut lines = read("stdout");
        lines.extend(read("stderr"));
        lines.split_off(lines.len().saturating_sub(20))
    }
}

/// A line for each process: name, state, then its pid or why.
fn state(lines: &[String]) -> State {
    let mut pid = None;
    let mut down = Vec::new();
    for line in lines.iter().filter(|l| !l.trim().is_empty()) {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        match words.get(1).copied() {
            // Between states its processes may write.
            Some("RUNNING" | "STARTING" | "STOPPING" | "BACKOFF") => {
                let told = words.iter().position(|w| *w == "pid").and_then(|at| words.get(at + 1));
                pid = pid.or(told.and_then(|p| p.trim_end_matches(',').parse().ok()));
            }
            Some("STOPPED" | "EXITED" | "FATAL") => down.push(words[1..].join(" ")),
            _ => return State::Unknown { why: format!("supervisorctl says `{line}`") },
        }
    }
    let all = lines.iter().filter(|l| !l.trim().is_empty()).count();
    if all == 0 {
        return State::Unknown { why: "supervisorctl says nothing".to_owned() };
    }
    if down.len() == all { State::Stopped { why: down.join("; ") } } else { State::Running { pid } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> State {
        state(&lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_state_is_read_from_the_words() {
        let running = of(&["grocery_app                      RUNNING   pid 4711, uptime 0:00:07"]);
        assert_eq!(running, State::Running { pid: Some(4711) });
        let fatal = of(&[
            "grocery_app                      FATAL     Exited too quickly (process log may have details)",
        ]);
        let State::Stopped { why } = fatal else { panic!("{fatal:?}") };
        assert!(why.starts_with("FATAL Exited too quickly"), "{why}");
        assert!(matches!(of(&["grocery_app: ERROR (no such process)"]), State::Unknown { .. }));
        assert!(matches!(of(&["unix:///run/s.sock refused connection"]), State::Unknown { .. }));
    }

    #[test]
    fn a_group_runs_as_long_as_one_of_it_does() {
        let mixed = of(&["g:a STOPPED   Nov 23 04:00 AM", "g:b RUNNING pid 7, uptime 0:00:01"]);
        assert_eq!(mixed, State::Running { pid: Some(7) });
    }
}
