//! Kind `command`: the user's own commands start and stop the app and say how it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::Failure;

use super::managed::{Manager, State, Surroundings, ask_manager, refused};

/// How long a status command may take.
const STATUS_TIME: Duration = Duration::from_secs(10);

/// An app or worker with commands of its own.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// What it is called in messages: "the commands of [service]".
    pub name: String,
    /// Command lines that start it, one after the other. What they leave in the background is the app.
    pub start: Vec<String>,
    /// Command lines that stop it.
    pub stop: Vec<String>,
    /// Command lines that all end with code 0 when it runs, and otherwise do not.
    pub status: Vec<String>,
    /// Added to their environment.
    pub env: BTreeMap<String, String>,
    /// Where they run.
    pub folder: PathBuf,
    /// Takes the output of the start commands and of what they leave running.
    pub log: PathBuf,
}

impl Commands {
    fn all(
        &self,
        what: &str,
        lines: &[String],
        time: Duration,
        around: &Surroundings<'_>,
    ) -> Result<(), Failure> {
        let begun = std::time::Instant::now();
        for line in lines {
            let left = time.saturating_sub(begun.elapsed());
            let (ran, _) = ask_manager(what, line, left, around.clone())?;
            if !ran.end.is_success() {
                return Err(refused(
                    what,
                    line,
                    &ran,
                    &[],
                    "run it by hand to see what is wrong, then deploy again",
                ));
            }
        }
        Ok(())
    }

    fn around(&self) -> Surroundings<'_> {
        Surroundings { env: self.env.clone(), folder: Some(self.folder.clone()), log: None }
    }
}

impl Manager for Commands {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn start(&self, release: Option<&ReleaseId>, time: Duration) -> Result<(), Failure> {
        let mut around = Surroundings { log: Some(&self.log), ..self.around() };
        if let Some(release) = release {
            around.env.insert("PLIMSOLL_RELEASE".to_owned(), release.0.clone());
        }
        self.all(&format!("{} could not start it", self.name), &self.start, time, &around)
    }

    fn stop(&self, time: Duration) -> Result<(), Failure> {
        self.all(&format!("{} could not stop it", self.name), &self.stop, time, &self.around())
    }

    fn state(&self) -> Result<State, Failure> {
        if self.status.is_empty() {
            return Ok(State::Unknown { why: "no status command is configured".to_owned() });
        }
        for line in &self.status {
            let what = format!("{} could not say how it is", self.name);
            let (ran, _) = ask_manager(&what, line, STATUS_TIME, self.around())?;
            match ran.end {
                crate::process::End::Exit(0) => {}
                crate::process::End::Exit(code) => {
                    return Ok(State::Stopped { why: format!("`{line}` ended with code {code}") });
                }
                other => return Ok(State::Unknown { why: format!("`{line}`: {other}") }),
            }
        }
        Ok(State::Running { pid: None })
    }

    fn last_lines(&self) -> Vec<String> {
        let Ok(text) = std::fs::read(&self.log) else { return Vec::new() };
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].iter().map(|l| (*l).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use plimsoll_core::check::Verdict;
    use plimsoll_core::ports::Service;

    use super::super::{Health, ManagedService, Worker, Workers};
    use super::*;
    use crate::process::tests::wait_for_pid;

    /// A service that writes its pid, as `nohup app &` in a shell script does.
    fn commands(root: &Path, start: &str) -> Commands {
        let lines = |script: &str| vec![format!("sh -c {}", shell_words::quote(script))];
        Commands {
            name: "the commands of [service]".into(),
            start: lines(start),
            stop: lines("kill $(cat pid) 2>/dev/null; rm -f pid"),
            status: lines("kill -0 $(cat pid 2>/dev/null || echo none) 2>/dev/null"),
            env: BTreeMap::new(),
            folder: root.to_owned(),
            log: root.join("service.log"),
        }
    }

    fn managed(root: &Path, start: &str, address: Option<SocketAddr>) -> ManagedService {
        let health = Health { path: "/".into(), release_pointer: None, headers: Vec::new() };
        ManagedService {
            manager: Box::new(commands(root, start)),
            health: address.map(|a| (a, health)),
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(10),
            secrets: Vec::new(),
            workers: Workers::new(Vec::new(), Duration::from_secs(10)),
        }
    }

    fn release() -> ReleaseId {
        ReleaseId::new(3, "abcdef0")
    }

    const SLEEPER: &str = "sleep 60 & echo $! > pid; echo started $PLIMSOLL_RELEASE";

    #[test]
    fn it_is_started_looked_at_and_stopped_by_the_users_commands() {
        let root = tempfile::tempdir().unwrap();
        let mut service = managed(root.path(), SLEEPER, None);
        let started = service.start(&release(), None).unwrap();
        assert_eq!(started[0].verdict, Verdict::Pass, "{started:?}");
        let app = wait_for_pid(&root.path().join("pid"));
        assert!(app.is_alive(), "it lives on after the command that started it");
        assert_eq!(
            std::fs::read_to_string(root.path().join("service.log")).unwrap(),
            "started 000003-abcdef0\n"
        );
        service.stop(&release(), None).unwrap();
        assert!(!app.is_alive());
        assert_eq!(service.stop(&release(), None).unwrap()[0].evidence["found"], "not running");
    }

    #[test]
    fn one_that_ends_at_once_is_told_with_its_last_lines() {
        let root = tempfile::tempdir().unwrap();
        let script = "sh -c 'echo no such table: orders >&2' & echo $! > pid; wait";
        let failure = managed(root.path(), script, None).start(&release(), None).unwrap_err();
        assert!(
            failure.why.contains("does not run: `sh -c") && failure.why.contains("no such table"),
            "{failure:?}"
        );
    }

    #[test]
    fn a_start_command_that_fails_is_told_with_its_code() {
        let root = tempfile::tempdir().unwrap();
        let failure =
            managed(root.path(), "echo port taken; exit 3", None).start(&release(), None).unwrap_err();
        assert!(
            failure.why.contains("it ended with code 3") && failure.why.contains("port taken"),
            "{failure:?}"
        );
    }

    #[test]
    fn one_that_ignores_its_stop_command_is_a_failure_and_not_a_pass() {
        let root = tempfile::tempdir().unwrap();
        let mut service = managed(root.path(), SLEEPER, None);
        service.start(&release(), None).unwrap();
        let app = wait_for_pid(&root.path().join("pid"));
        let deaf = Commands { stop: vec!["true".into()], ..commands(root.path(), SLEEPER) };
        service.manager = Box::new(deaf);
        service.stop_timeout = Duration::from_millis(300);
        let failure = service.stop(&release(), None).unwrap_err();
        assert!(failure.why.contains("still runs after 0.3 s"), "{failure:?}");
        app.signal(rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn something_that_still_answers_after_the_stop_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let stays = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut service = managed(root.path(), SLEEPER, Some(stays.local_addr().unwrap()));
        service.stop_timeout = Duration::from_millis(300);
        let failure = service.stop(&release(), None).unwrap_err();
        assert!(failure.why.contains("something still answers on 127.0.0.1:"), "{failure:?}");
    }

    #[test]
    fn without_a_status_command_and_an_address_nothing_is_claimed() {
        let root = tempfile::tempdir().unwrap();
        let mut service = managed(root.path(), SLEEPER, None);
        let blind = Commands { status: Vec::new(), ..commands(root.path(), SLEEPER) };
        service.manager = Box::new(blind);
        assert_eq!(service.start(&release(), None).unwrap()[0].verdict, Verdict::Unknown);
        let app = wait_for_pid(&root.path().join("pid"));
        assert_eq!(service.stop(&release(), None).unwrap()[0].verdict, Verdict::Unknown);
        assert!(!app.is_alive());
    }

    #[test]
    fn workers_are_stopped_before_and_started_after_and_those_that_run_stay() {
        let root = tempfile::tempdir().unwrap();
        let worker = Worker { name: "mailer".into(), manager: Box::new(commands(root.path(), SLEEPER)) };
        let workers = Workers::new(vec![worker], Duration::from_secs(10));
        assert_eq!(workers.stop(None).unwrap()[0].evidence["found"], "stopped already");
        workers.start().unwrap();
        let mailer = wait_for_pid(&root.path().join("pid"));
        assert_eq!(workers.start().unwrap()[0].evidence["found"], "running already");
        assert!(mailer.is_alive());
        assert_eq!(workers.stop(None).unwrap()[0].verdict, Verdict::Pass);
        assert!(!mailer.is_alive());
    }

    #[test]
    fn a_worker_that_does_not_start_does_not_keep_the_others_down() {
        let (bad, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let worker = |root: &Path, start| Worker {
            name: "w".into(),
            manager: Box::new(commands(root, start)) as Box<dyn Manager>,
        };
        let workers = vec![worker(bad.path(), "exit 1"), worker(good.path(), SLEEPER)];
        let workers = Workers::new(workers, Duration::from_secs(10));
        assert!(workers.start().is_err());
        let app = wait_for_pid(&good.path().join("pid"));
        assert!(app.is_alive());
        workers.stop(None).unwrap();
        assert!(!app.is_alive());
    }
}
