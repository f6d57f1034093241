//! The programs that a deployment starts or asks: git and its repository, commands, units.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_host::process::{self, Command, End, Limits, Sink};
use rustix::fs::{Access, access};

use super::Finding;
use crate::config::{Config, LogSource, Migrations, ServiceKind, WorkerKind};

/// How long git, systemctl and supervisorctl may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a program answered: its end, and the last lines.
struct Answer {
    good: bool,
    lines: String,
}

/// Asks a program something that changes nothing. `None` when there is no such program.
fn ask(words: &[&str]) -> Option<Answer> {
    program(Path::new("/"), words.first()?)?;
    let mut env = process::base_env();
    for name in ["SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"] {
        env.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    env.insert("LC_ALL".into(), "C".into());
    // Nobody is there to type a password.
    env.insert("GIT_TERMINAL_PROMPT".into(), "0".into());
    env.entry("GIT_SSH_COMMAND".into()).or_insert_with(|| "ssh -oBatchMode=yes".into());
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let command = Command { words, env, folder: PathBuf::from("/"), mark: None };
    let limits = Limits { time: Some(PATIENCE), ..Limits::default() };
    Some(match process::run(&command, limits, Sink::Lines(&mut |_| ())) {
        Ok(ran) => {
            let good = ran.end == End::Exit(0);
            let lines = if ran.tail.is_empty() { ran.end.to_string() } else { ran.tail.join("\n") };
            Answer { good, lines }
        }
        Err(error) => Answer { good: false, lines: error.to_string() },
    })
}

/// git is there, the repository answers, and it has the branch.
pub(super) fn repository(config: &Config) -> Vec<Finding> {
    let Some(version) = ask(&["git", "--version"]) else {
        return vec![Finding::fail("git", "not found on PATH", "install it: apt-get install git")];
    };
    let mut findings = vec![Finding::pass("git", version.lines)];
    let (url, branch) = (&config.source.git, &config.source.branch);
    let name = format!("branch {branch} of {url}");
    let full = format!("refs/heads/{branch}");
    let Some(answer) = ask(&["git", "ls-remote", "--", url, "refs/heads/*"]) else { return findings };
    if !answer.good {
        let hint = format!("see for yourself: git ls-remote {url}");
        findings.push(Finding::fail(name, reason(&answer.lines), hint));
        return findings;
    }
    let refs = answer.lines.lines().filter_map(|line| line.split_once('\t'));
    // Only the last lines are kept: a repository with many branches is asked for this one alone.
    let commit = refs.clone().find(|(_, name)| *name == full).map(|(commit, _)| commit.to_owned());
    let commit = commit.or_else(|| {
        let one = ask(&["git", "ls-remote", "--", url, &full])?;
        one.lines.split_once('\t').map(|(commit, _)| commit.to_owned())
    });
    findings.push(match commit {
        Some(commit) => Finding::pass(name, format!("at {}", commit.get(..7).unwrap_or(&commit))),
        None => {
            let known: Vec<&str> = refs.filter_map(|(_, name)| name.strip_prefix("refs/heads/")).collect();
            let note = if known.is_empty() {
                "the repository has no branch yet".to_owned()
            } else {
                "no such branch".to_owned()
            };
            let hint = match known.is_empty() {
                true => "commit something first".to_owned(),
                false => format!("set [source].branch to one of: {}", known.join(", ")),
            };
            Finding::fail(name, note, hint)
        }
    });
    findings
}

/// What a program gave as its reason: git's first `fatal:`, or else the last line.
fn reason(text: &str) -> String {
    let said = text.lines().find(|line| line.starts_with("fatal:") || line.starts_with("ERROR:"));
    let last = || text.lines().rev().find(|line| !line.trim().is_empty());
    said.or_else(last).unwrap_or_default().trim().to_owned()
}

/// The programs of commands are on this machine.
pub(super) fn commands(config: &Config) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (section, line) in command_lines(config) {
        let Some(word) = first_word(line) else { continue };
        if seen.insert((section, word.clone())) {
            findings.push(command(config, section, &word));
        }
    }
    findings
}

/// Every command line in the file, with its section.
fn command_lines(config: &Config) -> Vec<(&'static str, &str)> {
    let mut lines: Vec<(&'static str, &str)> = Vec::new();
    lines.extend(config.build.commands.iter().map(|line| ("[build]", line.as_str())));
    if let Migrations::Commands(list) = &config.database.migrations {
        lines.extend(list.iter().map(|line| ("[database].migrate", line.as_str())));
    }
    match &config.service.kind {
        ServiceKind::Process { command } => lines.push(("[service].command", command)),
        ServiceKind::Command(list) => lines.extend(list.all().map(|line| ("[service]", line))),
        ServiceKind::Systemd { .. } | ServiceKind::Supervisor { .. } => {}
    }
    lines.extend(config.rehearsal.command.iter().map(|line| ("[rehearsal].command", line.as_str())));
    for worker in &config.workers {
        if let WorkerKind::Command(list) = &worker.kind {
            lines.extend(list.all().map(|line| ("[[worker]]", line)));
        }
    }
    lines
}

/// The program of a command line: its first word that is not `NAME=value`.
fn first_word(line: &str) -> Option<String> {
    let words = shell_words::split(line).ok()?;
    let is_setting = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    };
    words.into_iter().find(|word| !is_setting(word))
}

fn command(config: &Config, section: &str, word: &str) -> Finding {
    let name = format!("{section}: {word}");
    if section == "[build]" && BUILTINS.contains(&word) || word.starts_with('$') {
        return Finding::skipped(name, "the shell knows it");
    }
    if word.contains('/') && !word.starts_with('/') {
        return match program(&config.current().join(&config.source.directory), word) {
            Some(_) => Finding::pass(name, "in the live release"),
            None => Finding::skipped(name, "comes with the release"),
        };
    }
    match program(Path::new("/"), word) {
        Some(path) => Finding::pass(name, path.display().to_string()),
        None => {
            let hint = format!("install it, or write its full path; PATH is {}", process::base_env()["PATH"]);
            Finding::fail(name, "not found, or not executable", hint)
        }
    }
}

/// Words that a shell does itself.
const BUILTINS: [&str; 18] = [
    ".", ":", "[", "(", "{", "cd", "echo", "eval", "exec", "export", "for", "if", "set", "test", "trap",
    "umask", "unset", "while",
];

/// Where the program is: on PATH, or below `folder` when its name has a slash.
fn program(folder: &Path, word: &str) -> Option<PathBuf> {
    let executable = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if word.contains('/') {
        return Some(folder.join(word)).filter(executable);
    }
    let path = process::base_env().remove("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(word)).find(executable)
}

/// Units and programs that others run are known to them.
pub(super) fn units(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut units: Vec<&str> = Vec::new();
    match &config.service.kind {
        ServiceKind::Systemd { unit } => units.push(unit),
        ServiceKind::Supervisor { program } => findings.push(supervised(program)),
        ServiceKind::Process { .. } | ServiceKind::Command(_) => {}
    }
    for worker in &config.workers {
        if let WorkerKind::Systemd { unit } = &worker.kind {
            units.push(unit);
        }
    }
    units.extend(config.logs.iter().filter_map(|log| match &log.source {
        LogSource::Unit(unit) => Some(unit.as_str()),
        LogSource::File(_) => None,
    }));
    let distinct: BTreeSet<&str> = units.into_iter().collect();
    findings.extend(distinct.into_iter().map(systemd));
    findings
}

fn systemd(unit: &str) -> Finding {
    let name = format!("unit {unit}");
    match ask(&["systemctl", "cat", "--no-pager", "--", unit]) {
        None => Finding::fail(
            name,
            "there is no systemctl here",
            "systemd must run this machine, or choose another kind",
        ),
        Some(answer) if answer.good => Finding::pass(name, "known to systemd"),
        Some(answer) => {
            let hint = match answer.lines.contains("connect to bus") {
                true => "systemd does not run this machine, or cannot be reached: choose another kind",
                false => "install the unit, then: systemctl daemon-reload",
            };
            Finding::fail(name, reason(&answer.lines), hint)
        }
    }
}

fn supervised(program: &str) -> Finding {
    let name = format!("program {program}");
    match ask(&["supervisorctl", "status", program]) {
        None => Finding::fail(
            name,
            "there is no supervisorctl here",
            "install supervisor, or choose another kind",
        ),
        // `status` ends with 3 for a program that is known and stopped.
        Some(answer) if !answer.lines.contains("no such") && answer.lines.contains(program) => {
            Finding::pass(name, reason(&answer.lines))
        }
        Some(answer) => {
            let hint = "add it to /etc/supervisor/conf.d, then: supervisorctl update";
            Finding::fail(name, reason(&answer.lines), hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_core::check::Verdict::{self, Fail, Pass, Skipped};

    use super::super::app::tests::{Sample, verdicts};
    use super::*;

    #[test]
    fn the_repository_must_answer_and_have_the_branch() {
        let sample = Sample::new();
        let config = sample.config("");
        let none = repository(&config);
        assert_eq!(verdicts(&none), [Pass, Fail]);
        assert!(none[1].note.starts_with("fatal: "), "{}", none[1].note);
        let git = |args: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-C"])
                .arg(sample.path("repository"))
                .args(args);
            for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
                git.env_remove(name);
            }
            assert!(git.output().unwrap().status.success(), "git {args:?}");
        };
        std::fs::create_dir(sample.path("repository")).unwrap();
        git(&["init", "-q", "-b", "trunk"]);
        let empty = repository(&config);
        assert!(empty[1].note.contains("no branch yet"), "{}", empty[1].note);
        git(&["commit", "-q", "--allow-empty", "-m", "x"]);
        let other = repository(&config);
        assert_eq!(
            (other[1].verdict, other[1].hint.as_str()),
            (Fail, "set [source].branch to one of: trunk")
        );
        git(&["branch", "main"]);
        assert_eq!(verdicts(&repository(&config)), [Pass, Pass]);
    }

    #[test]
    fn programs_are_looked_for_where_they_will_be() {
        let sample = Sample::new();
        let config = sample.config(
            "migrate = ['plimsoll-no-such-program up']\n[build]\ncommands = ['NODE_ENV=production sh -c x', 'cd web && make', '.venv/bin/pip install', '/no/such/program', 'sh again']\n",
        );
        let found: Vec<(String, Verdict)> =
            commands(&config).into_iter().map(|f| (f.name, f.verdict)).collect();
        let expected = [
            ("[build]: sh", Pass),
            ("[build]: cd", Skipped),
            ("[build]: .venv/bin/pip", Skipped),
            ("[build]: /no/such/program", Fail),
            ("[database].migrate: plimsoll-no-such-program", Fail),
            ("[service].command: sh", Pass),
        ];
        assert_eq!(found, expected.map(|(name, verdict)| (name.to_owned(), verdict)));
    }

    #[test]
    fn a_unit_or_program_that_nobody_knows_fails() {
        let sample = Sample::new();
        let config = sample.config("[[worker]]\nname = 'm'\nunit = 'plimsoll-no-such-unit'\n");
        assert_eq!(verdicts(&units(&config)), [Fail]);
        assert_eq!(supervised("plimsoll-no-such-program").verdict, Fail);
    }
}
