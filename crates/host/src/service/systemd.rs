//! Kind `systemd`: a unit, through systemctl and journalctl.

use std::time::Duration;

use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::Failure;

use super::managed::{Manager, State, Surroundings, ask_manager, refused};

/// How long a question to systemd may take.
const ASK: Duration = Duration::from_secs(10);

/// A unit of the system's systemd.
#[derive(Clone, Debug)]
pub struct Systemd {
    /// `grocery_app.service`.
    pub unit: String,
}

impl Systemd {
    fn control(
        &self,
        what: &str,
        arguments: &str,
        time: Duration,
    ) -> Result<(crate::process::Ran, Vec<String>), Failure> {
        let line = self.line(arguments);
        ask_manager(&format!("unit {}: {what}", self.unit), &line, time, Surroundings::default())
    }

    fn line(&self, arguments: &str) -> String {
        format!("systemctl --no-pager {arguments} -- {}", shell_words::quote(&self.unit))
    }

    fn must(&self, what: &str, verb: &str, time: Duration) -> Result<(), Failure> {
        let (ran, _) = self.control(what, verb, time)?;
        if ran.end.is_success() {
            return Ok(());
        }
        let next = format!("look at `systemctl status {}`, mend it, then deploy again", self.unit);
        Err(refused(
            &format!("unit {}: {what}", self.unit),
            &self.line(verb),
            &ran,
            &self.last_lines(),
            &next,
        ))
    }
}

impl Manager for Systemd {
    fn name(&self) -> String {
        format!("unit {}", self.unit)
    }

    fn start(&self, _release: Option<&ReleaseId>, time: Duration) -> Result<(), Failure> {
        // Several deployments in a row reach the unit's start limit, which then keeps it down. A unit that has not
        // failed has nothing to reset, and that is no error of ours.
        self.control("its failures could not be reset", "reset-failed", ASK)?;
        self.must("it could not be started", "start", time)
    }

    fn stop(&self, time: Duration) -> Result<(), Failure> {
        self.must("it could not be stopped", "stop", time)
    }

    fn state(&self) -> Result<State, Failure> {
        let properties = "show --property=LoadState,ActiveState,SubState,Result,MainPID,ExecMainStatus";
        let (ran, lines) = self.control("its state could not be asked", properties, ASK)?;
        if !ran.end.is_success() {
            return Ok(State::Unknown { why: format!("systemctl: {}; {}", ran.end, ran.tail.join(" ")) });
        }
        Ok(state(&lines))
    }

    fn last_lines(&self) -> Vec<String> {
        let unit = shell_words::quote(&self.unit);
        let line = format!("journalctl --no-pager --quiet --output=cat --lines=20 --unit={unit}");
        ask_manager("its log could not be read", &line, ASK, Surroundings::default())
            .map(|(_, lines)| lines)
            .unwrap_or_default()
    }
}

fn state(lines: &[String]) -> State {
    let get =
        |name: &str| lines.iter().find_map(|l| l.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    match get("ActiveState") {
        // While it activates, reloads or deactivates its processes may write.
        "active" | "activating" | "reloading" | "refreshing" | "deactivating" => {
            State::Running { pid: get("MainPID").parse().ok().filter(|pid| *pid > 0) }
        }
        _ if get("LoadState") == "not-found" => State::Stopped { why: "there is no such unit".to_owned() },
        "inactive" => State::Stopped { why: "inactive".to_owned() },
        "failed" => {
            State::Stopped { why: format!("failed ({}, status {})", get("Result"), get("ExecMainStatus")) }
        }
        other => State::Unknown { why: format!("systemd says `{other}`") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> State {
        state(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_unit_between_states_counts_as_running() {
        assert_eq!(of("ActiveState=active MainPID=12"), State::Running { pid: Some(12) });
        assert_eq!(of("ActiveState=deactivating MainPID=0"), State::Running { pid: None });
        // Restart= waits before the next try; the unit will run again by itself.
        assert_eq!(
            of("ActiveState=activating SubState=auto-restart MainPID=0"),
            State::Running { pid: None }
        );
    }

    #[test]
    fn why_a_unit_is_down_is_told() {
        let down = of("LoadState=loaded ActiveState=failed Result=exit-code ExecMainStatus=3");
        assert_eq!(down, State::Stopped { why: "failed (exit-code, status 3)".into() });
        let none = of("LoadState=not-found ActiveState=inactive");
        assert_eq!(none, State::Stopped { why: "there is no such unit".into() });
        assert!(matches!(of(""), State::Unknown { .. }));
    }
}
