//! From a commit to a release folder that can be started: links to what is shared, then the build commands.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use plimsoll_core::check::Check;
use plimsoll_core::plan::ReleaseId;
use serde_json::{Value, json};

use super::child::{self, End, Lines};
use super::error::ReleaseError;
use super::mirror::without_credentials;

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

/// How many of a command's last lines are kept as evidence.
const TAIL: usize = 30;

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
    pub(crate) environment: &'a [(OsString, OsString)],
    /// The app's own settings.
    pub(crate) extra: &'a [(String, String)],
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
        // A shell, because people write build commands as they type them: `NODE_ENV=production npm ci && npm run build`.
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).current_dir(self.app_dir).env_clear();
        shell
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8");
        let kept = self.environment.iter().filter(|(name, _)| KEPT.iter().any(|kept| name == kept));
        shell.envs(kept.cloned()).envs(self.extra.iter().cloned()).env("PLIMSOLL_RELEASE", &self.release.0);
        let begun = Instant::now();
        let mut tail: VecDeque<String> = VecDeque::new();
        let mut lines = [Lines::default(), Lines::default()];
        let mut keep = |line: &str| {
            let line = without_credentials(line);
            (self.on_line)(&line);
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line);
        };
        let end = child::run(shell, limit, self.stop, &mut |stream, piece| {
            lines[stream as usize].push(piece, &mut keep);
        })
        .map_err(ReleaseError::io("run", Path::new("/bin/sh")))?;
        lines.iter_mut().for_each(|lines| lines.finish(&mut keep));
        let failed = |end: String, tail: VecDeque<String>| ReleaseError::CommandFailed {
            nth,
            of: self.commands.len(),
            command: without_credentials(command),
            end,
            ms: ms(begun),
            tail: tail.into(),
        };
        match end {
            End::Exited(status) if status.success() => Ok(json!({
                "command": without_credentials(command),
                "exit": 0,
                "ms": ms(begun),
                "last_lines": tail,
            })),
            End::Exited(status) => Err(failed(status.to_string(), tail)),
            End::TimedOut => {
                let limit = self.limit.as_secs();
                Err(failed(
                    format!("ended because [build].timeout ({limit} s for all commands) was over"),
                    tail,
                ))
            }
            End::Stopped => Err(ReleaseError::Stopped { doing: format!("build command {nth}") }),
        }
    }
}

fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
