//! Kind `systemd`: a unit, through systemctl and journalctl. The machine's, or one of the user's own systemd
//! (`systemctl --user`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::Failure;

use super::managed::{Manager, State, Surroundings, ask_manager, refused};
use crate::durable;

/// What it says of a unit that it does not know.
const UNKNOWN: &str = "LoadState=not-found";
/// How long a question to systemd may take.
const ASK: Duration = Duration::from_secs(10);

/// A unit.
#[derive(Clone, Debug)]
pub struct Systemd {
    unit: String,
    held: Option<PathBuf>,
    whose: OnceLock<Whose>,
}

/// Which systemd has it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    Machine,
    User,
}

impl Systemd {
    /// A unit, `grocery_app.service`, and the marker that it refuses to start beside when it was installed so
    /// (`ConditionPathExists=!`). For anybody but root it is a unit of his own systemd when the machine's knows none of
    /// this name.
    #[must_use]
    pub fn new(unit: &str, held: Option<PathBuf>) -> Systemd {
        Systemd { unit: unit.to_owned(), held, whose: OnceLock::new() }
    }

    fn whose(&self) -> Whose {
        let knows = |whose| {
            let line = self.line_of(whose, "show --property=LoadState");
            let asked = ask_manager("it could not be asked for", &line, ASK, around());
            asked.is_ok_and(|(ran, lines)| {
                ran.end.is_success() && lines.iter().any(|l| l.starts_with("LoadState=") && l != UNKNOWN)
            })
        };
        *self.whose.get_or_init(|| {
            let own = !rustix::process::geteuid().is_root() && !knows(Whose::Machine) && knows(Whose::User);
            if own { Whose::User } else { Whose::Machine }
        })
    }

    fn control(
        &self,
        what: &str,
        arguments: &str,
        time: Duration,
    ) -> Result<(crate::process::Ran, Vec<String>), Failure> {
        let line = self.line(arguments);
        ask_manager(&format!("unit {}: {what}", self.unit), &line, time, around())
    }

    fn line(&self, arguments: &str) -> String {
        self.line_of(self.whose(), arguments)
    }

    fn line_of(&self, whose: Whose, arguments: &str) -> String {
        let user = if whose == Whose::User { "--user " } else { "" };
        format!("systemctl {user}--no-pager {arguments} -- {}", shell_words::quote(&self.unit))
    }

    /// Takes the marker of a run away while this run itself starts the unit. systemd looks at the condition within
    /// the start, and answers `done` without a word when it is not met.
    fn unheld<T>(&self, start: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let Some(marker) = &self.held else { return start() };
        let text = match std::fs::read(marker) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return start(),
            Err(error) => return Err(durable::Error::io("read", marker, error).into()),
        };
        durable::remove(marker)?;
        let started = start();
        durable::write(marker, durable::PRIVATE, &text)?;
        started
    }

    fn must(&self, what: &str, verb: &str, time: Duration) -> Result<(), Failure> {
        let (ran, _) = self.control(what, verb, time)?;
        if ran.end.is_success() {
            return Ok(());
        }
        let user = if self.whose() == Whose::User { "--user " } else { "" };
        let next = format!("look at `systemctl {user}status {}`, mend it, then deploy again", self.unit);
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
        self.unheld(|| self.must("it could not be started", "start", time))
    }

    fn stop(&self, time: Duration) -> Result<(), Failure> {
        self.must("it could not be stopped", "stop", time)
    }

    fn state(&self) -> Result<State, Failure> {
        let properties = "show --property=LoadState,ActiveState,SubState,Result,MainPID,ExecMainStatus,\
                          ConditionResult,ConditionTimestampMonotonic";
        let (ran, lines) = self.control("its state could not be asked", properties, ASK)?;
        if !ran.end.is_success() {
            return Ok(State::Unknown { why: format!("systemctl: {}; {}", ran.end, ran.tail.join(" ")) });
        }
        Ok(state(&lines))
    }

    fn last_lines(&self) -> Vec<String> {
        let unit = shell_words::quote(&self.unit);
        let of = if self.whose() == Whose::User { "--user-unit" } else { "--unit" };
        let line = format!("journalctl --no-pager --quiet --output=cat --lines=20 {of}={unit}");
        ask_manager("its log could not be read", &line, ASK, around())
            .map(|(_, lines)| lines)
            .unwrap_or_default()
    }
}

/// What `systemctl --user` needs to find the user's systemd; a login sets it, cron and a service do not.
fn around() -> Surroundings<'static> {
    let folder = std::env::var("XDG_RUNTIME_DIR")
        .unwrap_or_else(|_| format!("/run/user/{}", rustix::process::geteuid().as_raw()));
    Surroundings { env: BTreeMap::from([("XDG_RUNTIME_DIR".to_owned(), folder)]), ..Surroundings::default() }
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
        "inactive" if get("ConditionResult") == "no" && get("ConditionTimestampMonotonic") != "0" => {
            State::Stopped { why: "inactive: a Condition…= of the unit was not met".to_owned() }
        }
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
        let kept =
            of("LoadState=loaded ActiveState=inactive ConditionResult=no ConditionTimestampMonotonic=9");
        let State::Stopped { why } = kept else { panic!("{kept:?}") };
        assert!(why.contains("Condition"), "{why}");
        let never =
            of("LoadState=loaded ActiveState=inactive ConditionResult=no ConditionTimestampMonotonic=0");
        assert_eq!(never, State::Stopped { why: "inactive".into() });
        let none = of("LoadState=not-found ActiveState=inactive");
        assert_eq!(none, State::Stopped { why: "there is no such unit".into() });
        assert!(matches!(of(""), State::Unknown { .. }));
    }

    /// A real unit of a real systemd, written to where its configuration is volatile.
    fn unit(name: &str, service: &str) -> Systemd {
        let text = format!("[Service]\n{service}\n");
        std::fs::write(format!("/run/systemd/system/{name}"), text).unwrap();
        let reload = ["systemctl", "daemon-reload"];
        assert!(std::process::Command::new(reload[0]).arg(reload[1]).status().unwrap().success());
        Systemd::new(name, None)
    }

    #[test]
    #[ignore = "needs a systemd that it may add units to: run it inside a box of its own"]
    fn a_real_unit_starts_stops_and_tells_why_it_failed() {
        if std::env::var_os("PLIMSOLL_TEST_SYSTEMD").is_none() {
            return;
        }
        let time = Duration::from_secs(20);
        let good = unit("plimsoll-good.service", "ExecStart=/bin/sleep 60");
        assert_eq!(good.state().unwrap(), State::Stopped { why: "inactive".into() });
        good.start(None, time).unwrap();
        let State::Running { pid: Some(pid) } = good.state().unwrap() else { panic!() };
        assert!(crate::process::Identity::of(pid).unwrap().command().contains("sleep 60"));
        good.stop(time).unwrap();
        assert!(matches!(good.state().unwrap(), State::Stopped { .. }));

        let deaf = unit(
            "plimsoll-deaf.service",
            "ExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'\nTimeoutStopSec=1s",
        );
        deaf.start(None, time).unwrap();
        deaf.stop(time).unwrap();
        let State::Stopped { why } = deaf.state().unwrap() else { panic!() };
        assert_eq!(why, "failed (timeout, status 9)");

        let bad =
            unit("plimsoll-bad.service", "Type=notify\nExecStart=/bin/sh -c 'echo no such table; exit 3'");
        // More often than the unit's start limit allows.
        for _ in 0..8 {
            let failure = bad.start(None, time).unwrap_err();
            assert!(failure.what.contains("plimsoll-bad.service: it could not be started"), "{failure:?}");
            assert!(
                !failure.why.contains("too quickly") && !failure.why.contains("too often"),
                "{failure:?}"
            );
        }
        assert_eq!(bad.state().unwrap(), State::Stopped { why: "failed (exit-code, status 3)".into() });
        let lines = bad.last_lines();
        assert!(lines.is_empty() || lines.iter().any(|l| l.contains("no such table")), "{lines:?}");

        let none = Systemd::new("plimsoll-none.service", None);
        assert_eq!(none.state().unwrap(), State::Stopped { why: "there is no such unit".into() });
        assert!(none.start(None, time).unwrap_err().why.contains("not found"));
    }
}
