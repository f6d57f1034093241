//! From a commit to a release folder that can be started: links to what is shared, then the build commands.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use plimsoll_core::check::Check;
use plimsoll_core::plan::ReleaseId;
use serde_json::{Value, json};

use super::error::ReleaseError;
use super::git::without_credentials;
use crate::process::{Command, End, Limits, Mark, Sink, run};

/// Variables that build tools need from the user; the rest of the environment stays out, so that a build gives the
/// same whoever starts it.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "SSH_AUTH_SOCK",
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

/// How long a command has to stop before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// Links `names` in the app's folder to the same names in `shared`, which outlives releases. A folder that is missing
/// in `shared` is created when its name looks like a folder (no dot, or a slash at the end, or a folder in the
/// repository); a missing file is refused, unless it is `may_be_missing` (a database before its first start).
///
/// Gives a note for everything that was created or covered.
///
/// # Errors
/// [`ReleaseError::MissingShared`], [`ReleaseError::LinkBlocked`], or the system's refusal.
pub fn link_shared(
    app_dir: &Path,
    shared: &Path,
    names: &[PathBuf],
    may_be_missing: Option<&Path>,
) -> Result<Vec<String>, ReleaseError> {
    let mut notes = Vec::new();
    for name in names {
        let target = shared.join(name);
        let link = app_dir.join(name.components().collect::<PathBuf>());
        let in_tree = fs::symlink_metadata(&link).ok();
        if fs::metadata(&target).is_err() && may_be_missing != Some(target.as_path()) {
            let slash = name.as_os_str().as_encoded_bytes().ends_with(b"/");
            let dotless = !name.file_name().is_some_and(|last| last.as_encoded_bytes().contains(&b'.'));
            let folder = slash || in_tree.as_ref().map_or(dotless, fs::Metadata::is_dir);
            if !folder {
                return Err(ReleaseError::MissingShared { path: target });
            }
            create_like(&target, shared)?;
            notes.push(format!("created the empty folder shared/{}", name.display()));
        }
        make_parents(app_dir, name)?;
        if let Some(covered) = in_tree {
            let remove = if covered.is_dir() { fs::remove_dir_all(&link) } else { fs::remove_file(&link) };
            remove.map_err(ReleaseError::io("remove", &link))?;
            notes.push(format!("{} of the repository is covered by shared/{0}", name.display()));
        }
        symlink(&target, &link).map_err(ReleaseError::io("create", &link))?;
    }
    Ok(notes)
}

/// Creates a folder that belongs to whom `shared` belongs: the app may run as another user than we do.
fn create_like(folder: &Path, shared: &Path) -> Result<(), ReleaseError> {
    fs::create_dir_all(folder).map_err(ReleaseError::io("create", folder))?;
    let owner = fs::metadata(shared).map_err(ReleaseError::io("read", shared))?;
    let made = fs::metadata(folder).map_err(ReleaseError::io("read", folder))?;
    if (owner.uid(), owner.gid()) != (made.uid(), made.gid()) {
        chown(folder, Some(owner.uid()), Some(owner.gid())).map_err(ReleaseError::io("give away", folder))?;
    }
    Ok(())
}

/// Makes the folders above `app_dir/name`. A symlink among them could lead out of the release: refused.
fn make_parents(app_dir: &Path, name: &Path) -> Result<(), ReleaseError> {
    let mut at = app_dir.to_owned();
    let above = name.parent().unwrap_or(Path::new(""));
    for part in above.components() {
        let Component::Normal(part) = part else { continue };
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(there) if there.is_dir() => {}
            Ok(_) => return Err(ReleaseError::LinkBlocked { path: at }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir(&at).map_err(ReleaseError::io("create", &at))?;
            }
            Err(error) => return Err(ReleaseError::io("read", &at)(error)),
        }
    }
    Ok(())
}

/// The build commands of one release.
pub(crate) struct Build<'a> {
    pub(crate) release: &'a ReleaseId,
    pub(crate) app_dir: &'a Path,
    pub(crate) commands: &'a [String],
    /// For all commands together.
    pub(crate) limit: Duration,
    /// Where [`KEPT`] variables come from.
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// The app's own settings.
    pub(crate) extra: &'a BTreeMap<String, String>,
    pub(crate) root: &'a Path,
    pub(crate) on_line: &'a dyn Fn(&str),
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl Build<'_> {
    /// Runs the commands one by one; the check `deploy.install` tells about each.
    pub(crate) fn run(&self) -> Result<Check, ReleaseError> {
        let name = "Build commands";
        if self.commands.is_empty() {
            return Ok(Check::skipped("deploy.install", name, "[build].commands is empty"));
        }
        let begun = Instant::now();
        let mut done: Vec<Value> = Vec::new();
        for (n, command) in self.commands.iter().enumerate() {
            (self.on_line)(&format!("$ {}", without_credentials(command)));
            done.push(self.run_one(n + 1, command, self.limit.saturating_sub(begun.elapsed()))?);
        }
        Ok(Check::pass("deploy.install", name).with("commands", done).with("ms", ms(begun)))
    }

    fn run_one(&self, nth: usize, command: &str, limit: Duration) -> Result<Value, ReleaseError> {
        let default =
            [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")];
        let mut env: BTreeMap<String, String> = default.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let kept = self.environment.iter().filter(|(name, _)| KEPT.contains(&name.as_str()));
        env.extend(kept.chain(self.extra).map(|(name, value)| (name.clone(), value.clone())));
        env.insert("PLIMSOLL_RELEASE".to_owned(), self.release.0.clone());
        let shell = Command {
            // A shell, because people write build commands as they type them: `NODE_ENV=production npm ci && npm
            // run build`.
            words: vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()],
            env,
            folder: self.app_dir.to_owned(),
            mark: Some(Mark { root: self.root.to_owned(), role: format!("build-{}", self.release) }),
        };
        let limits = Limits { time: Some(limit), grace: GRACE, cancel: self.stop, keep_background: false };
        let mut show = |line: &str| {
            // Progress bars write over their own line; its last state is shown.
            (self.on_line)(&without_credentials(line.rsplit('\r').next().unwrap_or(line)));
        };
        let ran =
            run(&shell, limits, Sink::Lines(&mut show)).map_err(|error| ReleaseError::CommandFailed {
                nth,
                of: self.commands.len(),
                command: without_credentials(command),
                end: error.to_string(),
                ms: 0,
                tail: Vec::new(),
            })?;
        let took = u64::try_from(ran.took.as_millis()).unwrap_or(u64::MAX);
        let tail: Vec<String> = ran.tail.iter().map(|line| without_credentials(line)).collect();
        let end = match ran.end {
            End::Exit(0) => {
                let command = without_credentials(command);
                return Ok(json!({ "command": command, "exit": 0, "ms": took, "last_lines": tail }));
            }
            End::Cancelled { .. } => {
                return Err(ReleaseError::Stopped { doing: format!("build command {nth}") });
            }
            End::TimedOut { .. } => {
                format!(
                    "[build].timeout ({} s for all commands) was over, it was ended",
                    self.limit.as_secs()
                )
            }
            other => other.to_string(),
        };
        let (of, command) = (self.commands.len(), without_credentials(command));
        Err(ReleaseError::CommandFailed { nth, of, command, end, ms: took, tail })
    }
}

fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
