//! Programs that an adoption runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_host::process::{self, Command, End, Limits, Sink};

use super::plan::Plan;
use crate::error::Error;

/// A build may take its time; what manages services waits for them to end.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Runs a program to its end.
pub(super) fn run(words: &[&str]) -> Result<(), Error> {
    with_lines(words, |_| ())
}

/// What a program says when it ends well.
pub(super) fn said(words: &[&str]) -> Result<String, Error> {
    let mut text = String::new();
    with_lines(words, |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    Ok(text)
}

fn with_lines(words: &[&str], mut take: impl FnMut(&str)) -> Result<(), Error> {
    let line = words.join(" ");
    let failed = |why: String| Error::failed(format!("`{line}` failed")).why(why);
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let command = Command { words, env: process::base_env(), folder: PathBuf::from("/"), mark: None };
    let limits = Limits { time: Some(PATIENCE), ..Limits::default() };
    let ran = process::run(&command, limits, Sink::Lines(&mut take)).map_err(|e| failed(e.to_string()))?;
    match ran.end {
        End::Exit(0) => Ok(()),
        end => Err(failed(format!("{end}; {}", ran.tail.join("\n")))),
    }
}

/// This very program on the new root, as the app's user when there is one.
pub(super) fn plimsoll(
    plan: &Plan,
    user: Option<&str>,
    words: &[&str],
    take: impl FnMut(&str),
) -> Result<(), Error> {
    let program = std::env::current_exe()
        .map_err(|e| Error::failed("the path of this program cannot be told").why(e.to_string()))?;
    let program = program.display().to_string();
    let config = plan.config_file().display().to_string();
    let mut all: Vec<&str> = Vec::new();
    if let Some(user) = user.filter(|_| rustix::process::geteuid().is_root()) {
        // Its own rights and its own home: a build writes caches there.
        all.extend([
            "setpriv",
            "--reuid",
            user,
            "--regid",
            plan.group.as_deref().unwrap_or(user),
            "--init-groups",
        ]);
        all.push("--reset-env");
        all.push("--");
    }
    all.extend([program.as_str(), "--config", &config]);
    all.extend(words);
    with_lines(&all, take)
}

/// `plimsoll serve` of its own, where nothing starts it with the machine.
pub(super) fn serve_detached(plan: &Plan) -> Result<(), Error> {
    let program = std::env::current_exe()
        .map_err(|e| Error::failed("the path of this program cannot be told").why(e.to_string()))?;
    let log = plan.root.join("logs/serve.log");
    let line = format!(
        "mkdir -p {folder} && exec setsid --fork {program} --config {config} serve >>{log} 2>&1 </dev/null",
        folder = quoted(&plan.root.join("logs")),
        program = quoted(&program),
        config = quoted(&plan.config_file()),
        log = quoted(&log),
    );
    let words = vec!["sh".to_owned(), "-c".to_owned(), line];
    let command = Command { words, env: process::base_env(), folder: plan.root.clone(), mark: None };
    let limits = Limits { time: Some(Duration::from_secs(10)), keep_background: true, ..Limits::default() };
    let failed = |why: String| Error::failed("`plimsoll serve` could not be started").why(why);
    let ran = process::run(&command, limits, Sink::File(&plan.root.join("adopt.log")))
        .map_err(|e| failed(e.to_string()))?;
    match ran.end {
        End::Exit(0) => Ok(()),
        end => Err(failed(format!("{end}; {}", ran.tail.join("\n")))),
    }
}

fn quoted(path: &Path) -> String {
    shell_words::quote(&path.display().to_string()).into_owned()
}

/// Whether systemd runs this machine.
pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// The end of a log, for a message.
pub(super) fn last_lines(file: &Path) -> Vec<String> {
    let text =
        std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    telling(&text)
}

/// The last lines, and before them the last few that name an error: a server that ends because its worker could not be
/// started has much to say about itself after the worker's own reason.
fn telling(text: &str) -> Vec<String> {
    const LAST: usize = 10;
    const ERRORS: usize = 3;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let (before, last) = lines.split_at(lines.len().saturating_sub(LAST));
    let names_an_error = |line: &&&str| {
        let word = line.split([':', ' ']).next().unwrap_or_default();
        word.ends_with("Error") || word.ends_with("Exception")
    };
    let mut told: Vec<&str> = Vec::new();
    for line in before.iter().rev().filter(names_an_error) {
        if told.len() < ERRORS && !told.contains(line) {
            told.push(line);
        }
    }
    told.reverse();
    told.iter().chain(last).map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen: gunicorn's own traceback, twenty lines of it, stood after the reason and hid it.
    #[test]
    fn the_reason_was_cut_off_by_what_the_server_said_of_itself() {
        let mut log =
            "Traceback (most recent call last):\n  File \"app.py\", line 2, in <module>\n".to_owned();
        log.push_str("ModuleNotFoundError: No module named 'settings_local'\n");
        for line in 0..30 {
            log.push_str(&format!("  File \"arbiter.py\", line {line}, in halt\n\n"));
        }
        log.push_str("gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>\n");
        let told = telling(&log);
        assert_eq!(told[0], "ModuleNotFoundError: No module named 'settings_local'");
        assert_eq!(told.len(), 11);
        assert!(told[10].contains("HaltServer"));
        assert_eq!(telling("started\n"), ["started"]);
        assert_eq!(telling(""), Vec::<String>::new());
    }
}
