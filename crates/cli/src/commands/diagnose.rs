//! `diagnose`: logs, reports, system, schema, plan and versions in one archive, without secrets and personal data.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use plimsoll_core::record::State;
use plimsoll_host::archive;
use plimsoll_host::durable;
use plimsoll_host::journal::Runs;
use plimsoll_host::redact::{Redactor, is_telling};
use plimsoll_host::release::Releases;
use plimsoll_host::sqlite::{connection, outline};

use crate::args::DiagnoseArgs;
use crate::config::{Config, LogSource, Secret, Setting};
use crate::error::Error;
use crate::ui::{Ui, size_words};
use crate::wiring;

/// Runs whose records are taken along.
const RUNS: usize = 10;
/// Of each log, its end.
const LOG_BYTES: u64 = 512 << 10;

/// `plimsoll diagnose`
pub(crate) fn diagnose(config: &Config, args: &DiagnoseArgs, folder: &Path, ui: &Ui) -> Result<(), Error> {
    let now = Timestamp::now();
    let stamp = now.strftime("%Y%m%d_%H%M%S");
    let path = match &args.output {
        Some(path) => folder.join(path),
        None => folder.join(format!("plimsoll-diagnose-{}-{stamp}.tar.gz", config.app.name)),
    };
    let redactor = Redactor::new().knowing(secrets(config));
    let mut gathered = Gathered { files: Vec::new(), missing: Vec::new(), redactor };
    gathered.add("versions.txt", &versions());
    gathered.add("system.txt", &system(config));
    gathered.add("environment.txt", &environment());
    gathered.configuration(config);
    gathered.add("schema.sql", &schema(config));
    gathered.runs(config);
    gathered.logs(config);
    let missing = std::mem::take(&mut gathered.missing);
    let missing = if missing.is_empty() { "nothing\n".to_owned() } else { missing.join("\n") + "\n" };
    gathered.add("missing.txt", &missing);
    let base = format!("diagnose-{}-{stamp}", config.app.name);
    let files: Vec<(String, String)> =
        gathered.files.iter().map(|(name, text)| (format!("{base}/{name}"), text.clone())).collect();
    let failed = |why: String| {
        Error::failed("the archive could not be written")
            .why(why)
            .state("nothing was changed")
            .next("name another place: plimsoll diagnose --output FILE.tar.gz")
    };
    let at = u64::try_from(now.as_second()).unwrap_or(0);
    let bytes = archive::pack(&files, at).map_err(|error| failed(error.to_string()))?;
    durable::write(&path, durable::PRIVATE, &bytes).map_err(|error| failed(error.to_string()))?;
    if ui.is_json() {
        let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
        ui.object(&serde_json::json!({ "file": path, "bytes": bytes.len(), "holds": names }));
    } else {
        ui.data(&path.display().to_string());
        let size = size_words(bytes.len() as u64);
        ui.say(&format!(
            "{} files, {size}; secrets and personal data are taken out by rule: look before you send it",
            files.len()
        ));
    }
    Ok(())
}

struct Gathered {
    files: Vec<(String, String)>,
    /// What could not be had, and why.
    missing: Vec<String>,
    redactor: Redactor,
}

impl Gathered {
    fn add(&mut self, name: &str, text: &str) {
        self.files.push((name.to_owned(), self.redactor.clean(text)));
    }

    fn take(&mut self, name: &str, path: &Path) {
        match tail(path) {
            Ok(text) => self.add(name, &text),
            Err(error) => self.missing.push(format!("{name}: {}: {error}", path.display())),
        }
    }

    /// As it stands, with the values of every environment taken out.
    fn configuration(&mut self, config: &Config) {
        match std::fs::read_to_string(&config.file) {
            Ok(text) => self.add("plimsoll.toml", &without_values(&text)),
            Err(error) => self.missing.push(format!("plimsoll.toml: {error}")),
        }
    }

    fn runs(&mut self, config: &Config) {
        let runs = Runs::of(&config.app.root);
        let numbers = runs.list().unwrap_or_default();
        for run in numbers.iter().rev().take(RUNS) {
            let folder = runs.folder(*run);
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            names.sort();
            for path in names {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                // What was set aside are rows of the database: they stay here.
                let wanted =
                    ["jsonl", "log", "md", "json"].iter().any(|end| name.ends_with(&format!(".{end}")));
                if wanted && !name.contains("aside") && path.is_file() {
                    self.take(&format!("runs/{run:06}/{name}"), &path);
                }
            }
        }
        let plan = numbers.iter().rev().find_map(|run| {
            let state = State::fold(&runs.entries(*run).ok()?);
            Some((run, state.rehearsal?, state.decision))
        });
        match plan {
            Some((run, rehearsal, decision)) => {
                let text = serde_json::json!({ "run": run, "rehearsal": rehearsal, "decision": decision });
                self.add("plan.json", &format!("{text:#}\n"));
            }
            None => self.missing.push("plan.json: nothing has been planned yet".to_owned()),
        }
    }

    fn logs(&mut self, config: &Config) {
        self.take("logs/app.log", &wiring::log_file(config));
        for (at, log) in config.logs.iter().enumerate() {
            match &log.source {
                LogSource::File(path) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    self.take(&format!("logs/{}-{name}", at + 1), path);
                }
                LogSource::Unit(unit) => {
                    let name = format!("logs/{}-{unit}.txt", at + 1);
                    let arguments = ["--no-pager", "-n", "2000", "-u", unit.as_str()];
                    match output("journalctl", &arguments) {
                        Ok(text) => self.add(&name, &text),
                        Err(why) => self.missing.push(format!("{name}: {why}")),
                    }
                }
            }
        }
    }
}

/// Everything that is known to be secret here: what the configuration refers to, what `.env` files and the environment
/// hold under a telling name.
fn secrets(config: &Config) -> Vec<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut reveal = |secret: &Secret| found.extend(secret.reveal().ok());
    for setting in config.service.env.values().chain(config.rehearsal.env.values()) {
        if let Setting::Secret(secret) = setting {
            reveal(secret);
        }
    }
    for group in config.notify.values() {
        if let Some(Setting::Secret(secret)) = &group.webhook {
            reveal(secret);
        }
    }
    config.database.password.iter().for_each(&mut reveal);
    if let Some(dashboard) = &config.dashboard {
        dashboard.people.values().filter_map(|visitor| visitor.token.as_ref()).for_each(&mut reveal);
        dashboard.header_secret.iter().for_each(&mut reveal);
    }
    for (name, setting) in config.service.env.iter().chain(&config.rehearsal.env) {
        if let Setting::Plain(value) = setting
            && is_telling(name)
        {
            found.insert(value.clone());
        }
    }
    for group in config.notify.values() {
        if let Some(Setting::Plain(url)) = &group.webhook {
            found.insert(url.clone());
        }
    }
    found.extend(std::env::vars().filter(|(name, _)| is_telling(name)).map(|(_, value)| value));
    // The app and `serve` may have been started with an environment that this command does not have.
    for environment in environments(config) {
        found.extend(environment.into_iter().filter(|(name, _)| is_telling(name)).map(|(_, value)| value));
    }
    for file in std::fs::read_dir(config.shared()).into_iter().flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with(".env") || name.ends_with(".env") {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let pairs = text.lines().filter_map(|line| line.trim_start_matches("export ").split_once('='));
            let telling = pairs.filter(|(name, _)| is_telling(name));
            found.extend(telling.map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned()));
        }
    }
    found.into_iter().collect()
}

/// The environments of the processes that run in the app's root.
fn environments(config: &Config) -> Vec<Vec<(String, String)>> {
    let root = config.app.root.as_path();
    let mut all = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let within = std::fs::read_link(path.join("cwd")).is_ok_and(|folder| folder.starts_with(root));
        if !within {
            continue;
        }
        let bytes = std::fs::read(path.join("environ")).unwrap_or_default();
        let pairs = bytes.split(|byte| *byte == 0).filter_map(|pair| {
            let text = String::from_utf8_lossy(pair);
            text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        });
        all.push(pairs.collect());
    }
    all
}

/// A configuration without the values of environments: `env = { A = "b" }` and the lines below `[service.env]`.
fn without_values(text: &str) -> String {
    let mut out = String::new();
    let mut within = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            within = trimmed.trim_matches(['[', ']']).ends_with("env");
        }
        let inline = trimmed
            .split_once('=')
            .is_some_and(|(key, value)| key.trim().ends_with("env") && value.contains('{'));
        let shown = match trimmed.split_once('=') {
            Some((key, value)) if within && !trimmed.starts_with('#') => {
                format!("{} = {}", key.trim(), hidden(value))
            }
            Some((key, value)) if inline => {
                let pairs: Vec<String> = value
                    .trim()
                    .trim_matches(['{', '}', ' '])
                    .split(',')
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(name, value)| format!("{} = {}", name.trim(), hidden(value)))
                    .collect();
                format!("{} = {{ {} }}", key.trim(), pairs.join(", "))
            }
            _ => line.to_owned(),
        };
        out.push_str(&shown);
        out.push('\n');
    }
    out
}

fn hidden(value: &str) -> String {
    let value = value.trim().trim_matches(['"', '\'']);
    if value.starts_with("env:") || value.starts_with("file:") {
        return format!("\"{value}\"");
    }
    format!("\"[{} characters]\"", value.chars().count())
}

fn versions() -> String {
    let mut out = format!("plimsoll {}\nsqlite {}\n", env!("CARGO_PKG_VERSION"), outline::library());
    for (program, arguments) in
        [("git", ["--version"]), ("systemctl", ["--version"]), ("python3", ["--version"])]
    {
        let text = output(program, &arguments).unwrap_or_else(|why| why);
        let _ = writeln!(out, "{program}: {}", text.lines().next().unwrap_or_default());
    }
    for file in ["/proc/version", "/etc/os-release"] {
        let _ = writeln!(out, "\n{file}:\n{}", std::fs::read_to_string(file).unwrap_or_default());
    }
    out
}

fn system(config: &Config) -> String {
    let mut out = String::new();
    for file in
        ["/proc/loadavg", "/proc/uptime", "/proc/meminfo", "/proc/pressure/io", "/proc/pressure/memory"]
    {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| error.to_string());
        let _ = writeln!(out, "{file}:\n{}", text.lines().take(12).collect::<Vec<_>>().join("\n"));
    }
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let _ = writeln!(out, "processors: {processors}");
    let root = &config.app.root;
    let free = durable::free_space(root).map_or_else(|error| error.to_string(), size_words);
    let _ = writeln!(out, "free at the app's root: {free}");
    let size = |path: &Path| {
        std::fs::metadata(path).map_or_else(|error| error.to_string(), |file| size_words(file.len()))
    };
    if let Some(file) = config.database_file() {
        let _ = writeln!(out, "database: {}, log {}", size(file), size(&connection::beside(file, "-wal")));
    }
    let current = Releases::new(root).current().ok().flatten();
    let _ =
        writeln!(out, "current release: {}", current.map_or_else(|| "none".to_owned(), |id| id.to_string()));
    out
}

/// Names alone.
fn environment() -> String {
    let names: BTreeSet<String> =
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.into_iter().map(|name| name + "\n").collect()
}

/// Tables, indexes and triggers as they were made, and how many rows; never a row.
fn schema(config: &Config) -> String {
    let Some(file) = config.database_file() else { return "the database is no file\n".to_owned() };
    outline::outline(file).unwrap_or_else(|error| format!("the schema cannot be read: {error}\n"))
}

/// The end of a file, from a line's beginning.
fn tail(path: &Path) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if skipped == 0 {
        return Ok(text);
    }
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    Ok(format!("({skipped} bytes before this)\n{rest}"))
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        std::process::Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_environments_do_not_leave_and_places_of_secrets_do() {
        let text = "[service]\nkind = \"process\"\nenv = { LOG = \"in-fo\", PAY = \"env:PAY\" }\n[rehearsal.env]\nSMTP = \"10.0.0.9\"\n# a note = 1\n[front]\nlisten = \"127.0.0.1:80\"\n";
        assert_eq!(
            without_values(text),
            "[service]\nkind = \"process\"\nenv = { LOG = \"[5 characters]\", PAY = \"env:PAY\" }\n[rehearsal.env]\nSMTP = \"[8 characters]\"\n# a note = 1\n[front]\nlisten = \"127.0.0.1:80\"\n"
        );
    }

    #[test]
    fn of_a_long_log_the_end_is_taken_from_a_lines_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines: String = (0..60_000).map(|n| format!("line {n:06}\n")).collect();
        std::fs::write(&path, &lines).unwrap();
        let text = tail(&path).unwrap();
        assert!(text.starts_with('(') && text.ends_with("line 059999\n"), "{}", &text[..80]);
        assert!(text.lines().nth(1).unwrap().starts_with("line "), "{}", &text[..80]);
    }
}
