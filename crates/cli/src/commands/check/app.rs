//! What the app needs: its repository, data, programs, units, secrets; and what in the file looks like a slip.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_core::plan::Smoke;
use plimsoll_host::process::{self, Command, End, Limits, Sink};
use plimsoll_host::sqlite::{Error as SqliteError, JournalMode, connection, schema};
use rustix::fs::{Access, access};

use super::{Finding, machine};
use crate::config::{
    Config, DatabaseUrl, Destination, LogSource, Migrations, ServiceKind, Setting, Settings, WorkerKind,
};
use crate::ui::size_words;

/// How long git, systemctl and supervisorctl may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A larger database is not read through here; every backup of it is.
const QUICKLY_READ: u64 = 1 << 30;

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

/// The data is there, is SQLite, is sound, and has the named tables.
pub(super) fn database(config: &Config) -> Vec<Finding> {
    let file = match &config.database.url {
        DatabaseUrl::Sqlite(file) => file,
        DatabaseUrl::Postgres(postgres) => {
            let name = format!("database {}", postgres.name);
            return vec![Finding::fail(
                name,
                "PostgreSQL is not supported yet",
                "this version deploys SQLite only",
            )];
        }
    };
    let name = format!("database {}", file.display());
    let open = match connection::open_read(file) {
        Ok(open) => open,
        Err(SqliteError::Absent { .. }) if config.current().symlink_metadata().is_err() => {
            let note = "not there yet, and nothing has been deployed yet";
            return vec![Finding::unknown(
                name,
                note,
                "put the data there now, or let the first release create it",
            )];
        }
        Err(SqliteError::Absent { .. }) => {
            return vec![Finding::fail(name, "not there", "put it back, or mend [database].url")];
        }
        Err(error) => {
            let hint = "mend [database].url, or restore a backup: plimsoll backup list";
            return vec![Finding::fail(name, error.to_string(), hint)];
        }
    };
    let bytes = fs::metadata(file).map_or(0, |found| found.len());
    let mode = match connection::journal_mode(&open) {
        Ok(JournalMode::Wal) => "WAL",
        Ok(JournalMode::Rollback) => "rollback journal",
        Err(error) => return vec![Finding::fail(name, error.to_string(), "see: plimsoll backup list")],
    };
    let mut findings = vec![Finding::pass(&name, format!("{}, {mode}", size_words(bytes)))];
    if access(file, Access::WRITE_OK).is_err() {
        findings.push(Finding::fail(
            "database writable",
            "only readable",
            "give Plimsoll's user the right to write it",
        ));
    }
    findings.push(if bytes > QUICKLY_READ {
        Finding::skipped("database integrity", "too large to read here; every backup of it is verified")
    } else {
        let quick: Result<String, _> = open.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match quick {
            Ok(said) if said == "ok" => Finding::pass("database integrity", "quick check: ok"),
            Ok(said) => Finding::fail(
                "database integrity",
                said,
                "restore the last good backup: plimsoll backup list",
            ),
            Err(error) => {
                Finding::unknown("database integrity", error.to_string(), "try again when it is less busy")
            }
        }
    });
    if let Ok(tables) = schema::tables(&open) {
        for named in config.database.tables.iter().filter(|named| !tables.contains_key(*named)) {
            let known = tables.keys().cloned().collect::<Vec<_>>().join(", ");
            let hint = format!("mend [database].tables; there are: {known}");
            findings.push(Finding::unknown(format!("table {named}"), "not in the database", hint));
        }
    }
    findings
}

/// What is linked into every release is there.
pub(super) fn shared(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for link in &config.build.link {
        let target = config.shared().join(link);
        let name = format!("shared/{}", link.display());
        let is_database = config.database_file() == Some(target.as_path());
        let dotless = !link.file_name().is_some_and(|last| last.as_encoded_bytes().contains(&b'.'));
        let folder = dotless || link.as_os_str().as_encoded_bytes().ends_with(b"/");
        findings.push(match target.metadata() {
            Ok(_) => Finding::pass(name, "there"),
            Err(_) if is_database => continue,
            Err(_) if folder => Finding::pass(name, "will be made, empty"),
            Err(_) => {
                let hint = format!("put it at {}, or take it out of [build].link", target.display());
                Finding::fail(name, "not there", hint)
            }
        });
    }
    findings
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

/// Every secret can be had; its name is shown, never itself.
pub(super) fn secrets(config: &Config) -> Vec<Finding> {
    let mut settings: Vec<&Setting> =
        config.service.env.values().chain(config.rehearsal.env.values()).collect();
    settings.extend(config.notify.values().filter_map(|group| group.webhook.as_ref()));
    let mut secrets: Vec<_> = settings
        .into_iter()
        .filter_map(|setting| match setting {
            Setting::Secret(secret) => Some(secret),
            Setting::Plain(_) => None,
        })
        .chain(config.database.password.as_ref())
        .collect();
    secrets.sort_by_key(ToString::to_string);
    secrets.dedup();
    secrets
        .into_iter()
        .map(|secret| match secret.reveal() {
            Ok(_) => Finding::pass(format!("secret {secret}"), "there"),
            Err(error) => {
                let hint = "set it where `plimsoll serve` and `plimsoll deploy` are started";
                Finding::fail(format!("secret {secret}"), error.to_string(), hint)
            }
        })
        .collect()
}

/// What is allowed and yet looks like a slip.
pub(super) fn meaning(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.smoke.is_empty() {
        let hint = "add [[smoke]]: what must work before users are let in";
        findings.push(Finding::unknown("smoke tests", "there are none: only the health path is asked", hint));
    }
    for test in config.smoke.iter().filter(|test| !test.writes && sends_a_body(test)) {
        let note = "sends more than GET, and runs against production too";
        let hint = "say writes = true when it changes data: then it runs on a copy only";
        findings.push(Finding::unknown(format!("smoke test \"{}\"", test.name), note, hint));
    }
    for (section, settings) in [("[service]", &config.service.env), ("[rehearsal]", &config.rehearsal.env)] {
        findings.extend(plain_secrets(section, settings));
    }
    findings
}

fn sends_a_body(test: &Smoke) -> bool {
    test.steps.iter().any(|step| !["GET", "HEAD"].contains(&step.method.as_str()))
}

fn plain_secrets<'a>(section: &'a str, settings: &'a Settings) -> impl Iterator<Item = Finding> + 'a {
    let telling = ["SECRET", "PASSWORD", "PASSWD", "TOKEN", "PRIVATE_KEY", "API_KEY"];
    settings
        .iter()
        .filter(move |(name, value)| {
            let name = name.to_uppercase();
            matches!(value, Setting::Plain(text) if !text.is_empty())
                && telling.iter().any(|t| name.contains(t))
        })
        .map(move |(name, _)| {
            let hint = format!("write {name} = \"env:{name}\" and set it in Plimsoll's environment");
            Finding::unknown(format!("{section} env {name}"), "looks like a secret in the file itself", hint)
        })
}

/// Log files can be read.
pub(super) fn logs(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for log in &config.logs {
        let LogSource::File(file) = &log.source else { continue };
        let name = format!("log {}", file.display());
        findings.push(match access(file, Access::READ_OK) {
            Ok(()) if file.is_file() => Finding::pass(name, format!("errors are lines like {}", log.error)),
            Ok(()) => Finding::fail(name, "not a file", "mend [[log]].file"),
            Err(rustix::io::Errno::NOENT) => {
                Finding::unknown(name, "not there yet", "fine when the app creates it")
            }
            Err(error) => Finding::fail(name, error.to_string(), "give Plimsoll's user the right to read it"),
        });
    }
    findings
}

/// Folders for second copies are there: a missing one is most likely a disk that is not mounted.
pub(super) fn copies(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for copy in &config.backup.copies {
        match copy {
            Destination::Folder(folder) if folder.is_dir() => {
                findings.push(machine::writable("for second copies", folder));
            }
            Destination::Folder(folder) => {
                let name = format!("folder {}", folder.display());
                findings.push(Finding::fail(name, "not there", "is the disk mounted? Or create the folder"));
            }
            Destination::S3 { bucket, prefix } => {
                let name = format!("s3://{bucket}/{prefix}");
                findings.push(Finding::skipped(name, "not asked by this check"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use plimsoll_core::check::Verdict::{self, Fail, Pass, Skipped, Unknown};

    use super::*;

    struct Sample {
        folder: tempfile::TempDir,
    }

    impl Sample {
        fn new() -> Self {
            Sample { folder: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn sqlite(&self, name: &str, sql: &str) -> PathBuf {
            let path = self.path(name);
            rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
            path
        }

        /// The least that loads, with `more` below `[database]`.
        fn config(&self, more: &str) -> Config {
            let text = format!(
                "[app]\nname = 'shop'\n[source]\ngit = 'repository'\n[service]\nkind = 'process'\ncommand = 'sh app'\naddress = '127.0.0.1:8000'\n[database]\nurl = 'sqlite:shared/a.db'\n{more}"
            );
            let file = self.folder.path().join("plimsoll.toml");
            Config::from_text(&file, &text).unwrap_or_else(|error| panic!("{error:?}"))
        }
    }

    fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
        findings.iter().map(|finding| finding.verdict).collect()
    }

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
        fs::create_dir(sample.path("repository")).unwrap();
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
    fn a_database_that_is_not_there_fails_once_something_was_deployed() {
        let sample = Sample::new();
        let config = sample.config("");
        assert_eq!(verdicts(&database(&config)), [Unknown]);
        std::os::unix::fs::symlink("releases/000001-abcdefa", sample.path("current")).unwrap();
        assert_eq!(verdicts(&database(&config)), [Fail]);
        assert!(!config.shared().exists(), "check creates no database");
    }

    #[test]
    fn a_foreign_file_is_no_database_and_a_damaged_one_is_found() {
        let sample = Sample::new();
        let config = sample.config("");
        fs::write(sample.path("shared/a.db"), "these are not the bytes you are looking for\n".repeat(99))
            .unwrap();
        assert_eq!(verdicts(&database(&config)), [Fail]);
        fs::remove_file(sample.path("shared/a.db")).unwrap();
        let rows = "CREATE TABLE t(a); CREATE INDEX i ON t(a); WITH n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO t SELECT 'row '||i FROM n;";
        let file = sample.sqlite("shared/a.db", rows);
        assert_eq!(verdicts(&database(&config)), [Pass, Pass]);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 2_000].fill(0x5a);
        fs::write(&file, bytes).unwrap();
        let findings = database(&config);
        assert!(findings.iter().any(|f| f.name == "database integrity" && f.verdict != Pass));
    }

    #[test]
    fn a_wal_database_is_looked_at_and_nothing_is_left_beside_it() {
        let sample = Sample::new();
        let config = sample.config("tables = ['orders', 'ordres']\n");
        sample.sqlite("shared/a.db", "PRAGMA journal_mode = WAL; CREATE TABLE orders(id);");
        let findings = database(&config);
        assert_eq!(verdicts(&findings), [Pass, Pass, Unknown]);
        assert!(findings[0].note.ends_with("WAL"), "{}", findings[0].note);
        assert_eq!(findings[2].name, "table ordres");
        assert_eq!(fs::read_dir(config.shared()).unwrap().count(), 1);
    }

    #[test]
    fn postgres_says_that_it_is_not_supported_yet() {
        let sample = Sample::new();
        let mut config = sample.config("");
        let url = "[app]\nname='a'\n[source]\ngit='a'\n[service]\nkind='process'\ncommand='a'\naddress='127.0.0.1:1'\n[database]\nurl='postgres://u@h/db'";
        config.database = Config::from_text(&config.file, url).unwrap().database;
        assert!(database(&config)[0].note.contains("not supported yet"));
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
    fn what_is_linked_must_be_there_unless_it_can_be_made() {
        let sample = Sample::new();
        let config = sample.config("[build]\nlink = ['.env', 'uploads', 'conf.d/', 'a.db']\n");
        assert_eq!(verdicts(&shared(&config)), [Fail, Pass, Pass], "the database is looked at elsewhere");
        fs::write(sample.path("shared/.env"), "").unwrap();
        assert_eq!(verdicts(&shared(&config)), [Pass, Pass, Pass]);
    }

    #[test]
    fn a_unit_or_program_that_nobody_knows_fails() {
        let sample = Sample::new();
        let config = sample.config("[[worker]]\nname = 'm'\nunit = 'plimsoll-no-such-unit'\n");
        assert_eq!(verdicts(&units(&config)), [Fail]);
        assert_eq!(supervised("plimsoll-no-such-program").verdict, Fail);
    }

    #[test]
    fn secrets_are_named_and_never_shown() {
        let sample = Sample::new();
        fs::write(sample.path("pw"), "hunter2\n").unwrap();
        let there = sample.path("pw").display().to_string();
        let config = sample.config(&format!(
            "[rehearsal]\nenv = {{ A = 'file:{there}', B = 'env:PLIMSOLL_NO_SUCH_NAME', C = 'env:PLIMSOLL_NO_SUCH_NAME' }}\n"
        ));
        let findings = secrets(&config);
        assert_eq!(verdicts(&findings), [Fail, Pass]);
        let shown: String = findings.iter().map(|f| format!("{} {} {}", f.name, f.note, f.hint)).collect();
        assert!(shown.contains("PLIMSOLL_NO_SUCH_NAME") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_looks_like_a_slip_is_pointed_out() {
        let sample = Sample::new();
        assert_eq!(verdicts(&meaning(&sample.config(""))), [Unknown], "no smoke test");
        let config = sample.config(
            "[[smoke]]\nname = 'a'\npost = '/order'\n[[smoke]]\nname = 'b'\nwrites = true\npost = '/order'\n[rehearsal]\nenv = { API_TOKEN = 'x', EMPTY_SECRET = '', HOST = 'h' }\n",
        );
        let names: Vec<String> = meaning(&config).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["smoke test \"a\"", "[rehearsal] env API_TOKEN"]);
    }

    #[test]
    fn a_disk_that_is_not_mounted_fails_and_a_log_that_is_not_written_yet_does_not() {
        let sample = Sample::new();
        fs::create_dir(sample.path("nas")).unwrap();
        let config = sample.config("[backup]\ncopies = ['nas', 'usb', 's3://b/c']\n[[log]]\nfile = 'app.log'\n[[log]]\nfile = 'nas'\n");
        assert_eq!(verdicts(&copies(&config)), [Pass, Fail, Skipped]);
        assert_eq!(verdicts(&logs(&config)), [Unknown, Fail]);
    }
}
