//! git as a program.
//!
//! The user's own settings stay in force (ssh keys, credential helpers, proxies), so the environment is thinned and
//! not emptied.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;

use super::error::ReleaseError;
use super::{OnLine, StopAsked};
use crate::process::{Command, End, Mark, spawn};

/// Variables that git and ssh need from the user; everything else, `GIT_DIR` above all, stays out.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "SSH_AUTH_SOCK",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_SSL_CAINFO",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Settings that must not depend on the user: no hooks or helpers that run by themselves, files exactly as committed,
/// nothing left running, fetched objects synced.
const SETTINGS: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.autocrlf=false",
    "core.symlinks=true",
    "core.fileMode=true",
    "core.quotePath=false",
    "core.fsync=committed,loose-object",
    "core.fsyncMethod=batch",
    "gc.autoDetach=false",
    "maintenance.autoDetach=false",
    "log.showSignature=false",
    "color.ui=false",
    "protocol.ext.allow=never",
    "safe.directory=*",
];

/// How long git has to stop before it is killed.
const GRACE: Duration = Duration::from_secs(3);

static CREDENTIALS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)\b(https?|ftps?)://[^/@\s]*@").expect("a constant pattern"));

/// A line without the credentials of any URL in it.
pub(crate) fn without_credentials(line: &str) -> String {
    CREDENTIALS.replace_all(line, "$1://").into_owned()
}

/// A call of git.
pub(crate) struct Call(Command);

impl Call {
    pub(crate) fn args<'a>(
        mut self,
        arguments: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>,
    ) -> Self {
        self.0.words.extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// An absolute path; the root was seen to be UTF-8.
    pub(crate) fn path(mut self, path: &Path) -> Self {
        self.0.words.push(path.to_string_lossy().into_owned());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A file in memory.
fn memory() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("git", rustix::fs::MemfdFlags::CLOEXEC)?))
}

fn content(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs git.
pub(crate) struct Git {
    /// The longest that one call may take.
    pub(crate) limit: Duration,
    pub(crate) environment: BTreeMap<String, String>,
    /// Marks every git that is started, so that none outlives a crash unseen.
    pub(crate) mark: Mark,
    pub(crate) on_line: OnLine,
    pub(crate) stop: StopAsked,
}

impl Git {
    /// git with its settings, in a clean environment.
    pub(crate) fn call(&self) -> Call {
        let kept = self.environment.iter().filter(|(name, _)| KEPT.contains(&name.as_str()));
        let mut env: BTreeMap<String, String> =
            kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        // Nobody is there to answer: a question must fail instead of waiting for ever.
        let fixed = [
            ("LC_ALL", "C"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "false"),
            ("SSH_ASKPASS", "false"),
            ("SSH_ASKPASS_REQUIRE", "force"),
        ];
        env.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let settings = SETTINGS.iter().flat_map(|setting| ["-c", setting]);
        let words = ["git"].into_iter().chain(settings).map(str::to_owned).collect();
        Call(Command { words, env, folder: PathBuf::from("/"), mark: Some(self.mark.clone()) })
    }

    /// Runs git; its standard output, or an error with its last words when the status is not in `fine`.
    pub(crate) fn run(&self, doing: &str, call: &Call, fine: &[i32]) -> Result<(i32, Vec<u8>), ReleaseError> {
        let no_git = |cause: io::Error| ReleaseError::NoGit(cause.to_string());
        // Memory instead of pipes: nothing has to be read while it runs, and nobody else can hold an end open.
        let (mut out, mut err) = (memory().map_err(no_git)?, memory().map_err(no_git)?);
        let pass = |file: &File| Ok(Stdio::from(file.try_clone()?));
        let mut running = spawn(&call.0, pass(&out).map_err(no_git)?, pass(&err).map_err(no_git)?)
            .map_err(|error| ReleaseError::NoGit(error.to_string()))?;
        let begun = Instant::now();
        let mut look = Duration::from_millis(1);
        let stopped = loop {
            if running.ended().is_some() {
                break None;
            }
            if (self.stop)() {
                break Some(ReleaseError::Stopped { doing: format!("git: {doing}") });
            }
            if begun.elapsed() >= self.limit {
                let seconds = self.limit.as_secs();
                break Some(ReleaseError::TimedOut { doing: format!("git: {doing}"), seconds });
            }
            thread::sleep(look);
            look = (look * 2).min(Duration::from_millis(20));
        };
        let ended = running.end(GRACE);
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        let failed = |why: String| ReleaseError::Git { doing: doing.to_owned(), why };
        let (end, _) = ended.map_err(|survivors| failed(survivors.to_string()))?;
        let mut words: Vec<String> =
            without_credentials(&String::from_utf8_lossy(&content(&mut err).map_err(no_git)?))
                .lines()
                .filter(|line| !line.trim().is_empty() && !line.starts_with("hint:"))
                .map(|line| line.trim_end().to_owned())
                .collect();
        words.iter().for_each(|line| (self.on_line)(line));
        match end {
            End::Exit(code) if fine.contains(&code) => Ok((code, content(&mut out).map_err(no_git)?)),
            other => {
                let last = words.split_off(words.len().saturating_sub(6)).join("; ");
                Err(failed(if last.is_empty() { other.to_string() } else { last }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_lines() {
        let line = "fatal: unable to access 'https://me:pw@host/x' and http://tok@h/";
        assert_eq!(without_credentials(line), "fatal: unable to access 'https://host/x' and http://h/");
    }
}
