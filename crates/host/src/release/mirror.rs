//! A bare copy of the app's repository, and git as a program on it.
//!
//! The user's own git settings stay in force (ssh keys, credential helpers, proxies), so the environment is thinned
//! and not emptied. Credentials written into the URL reach neither the mirror's configuration nor an argument list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use regex::Regex;

use super::error::{ReleaseError, short};
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

/// A git credential helper that answers from the environment, where other users cannot read it.
const HELPER: &str = r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$PLIMSOLL_GIT_USER" "$PLIMSOLL_GIT_PASSWORD"; }; f"#;

/// How long git has to stop before it is killed.
const GRACE: Duration = Duration::from_secs(3);

static CREDENTIALS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)\b(https?|ftps?)://[^/@\s]*@").expect("a constant pattern"));

/// A line without the credentials of any URL in it.
pub(crate) fn without_credentials(line: &str) -> String {
    CREDENTIALS.replace_all(line, "$1://").into_owned()
}

/// Where the code comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The URL or absolute path, without credentials.
    pub(crate) url: String,
    /// The folder, when it is on this machine.
    pub(crate) local: Option<PathBuf>,
    login: Option<(String, String)>,
}

impl Origin {
    /// Reads `[source].git`: a URL, `user@host:path`, or a path, relative to `root`.
    pub(crate) fn parse(git: &str, root: &Path) -> Self {
        let remote = |url: &str, login| Origin { url: url.to_owned(), local: None, login };
        let on_disk = |path: PathBuf| Origin {
            url: path.to_string_lossy().into_owned(),
            local: Some(path),
            login: None,
        };
        if let Some((scheme, rest)) = git.split_once("://") {
            if scheme == "file" {
                return on_disk(PathBuf::from(rest));
            }
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if let (Some((user, host)), true) = (authority.rsplit_once('@'), scheme.starts_with("http")) {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                let plain = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
                return remote(&format!("{scheme}://{host}{path}"), Some((plain(name), plain(password))));
            }
            return remote(git, None);
        }
        // As git reads it: a colon before the first slash means another machine.
        match git.split_once(':') {
            Some((host, _)) if !host.contains('/') => remote(git, None),
            _ => on_disk(root.join(git)),
        }
    }
}

/// What a revision turned out to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Found {
    /// The full commit.
    pub(crate) commit: String,
    /// The branch, when one was asked for.
    pub(crate) branch: Option<String>,
    pub(crate) author: String,
    pub(crate) subject: String,
    /// When it was committed, RFC 3339.
    pub(crate) committed_at: String,
}

/// A call of git.
pub(crate) struct Git(Command);

impl Git {
    pub(crate) fn args<'a>(
        mut self,
        arguments: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>,
    ) -> Self {
        self.0.words.extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// An absolute path; the root was seen to be UTF-8.
    fn path(mut self, path: &Path) -> Self {
        self.0.words.push(path.to_string_lossy().into_owned());
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
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

/// The bare repository `<root>/mirror.git`.
pub(crate) struct Mirror {
    pub(crate) dir: PathBuf,
    pub(crate) origin: Origin,
    /// The longest that one call of git may take.
    pub(crate) limit: Duration,
    pub(crate) environment: BTreeMap<String, String>,
    /// Marks every git that is started, so that none outlives a crash unseen.
    pub(crate) mark: Mark,
    pub(crate) on_line: OnLine,
    pub(crate) stop: StopAsked,
}

impl Mirror {
    /// git with its settings, in a clean environment.
    fn git(&self) -> Git {
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
        Git(Command { words, env, folder: PathBuf::from("/"), mark: Some(self.mark.clone()) })
    }

    /// The same, on the mirror.
    pub(crate) fn command(&self) -> Git {
        self.git().args(["--git-dir"]).path(&self.dir)
    }

    /// Runs git; its standard output, or an error with its last words when the status is not in `fine`.
    pub(crate) fn run(&self, doing: &str, git: Git, fine: &[i32]) -> Result<(i32, Vec<u8>), ReleaseError> {
        let no_git = |cause: io::Error| ReleaseError::NoGit(cause.to_string());
        // Memory instead of pipes: nothing has to be read while it runs, and nobody else can hold an end open.
        let (mut out, mut err) = (memory().map_err(no_git)?, memory().map_err(no_git)?);
        let pass = |file: &File| Ok(Stdio::from(file.try_clone()?));
        let mut running = spawn(&git.0, pass(&out).map_err(no_git)?, pass(&err).map_err(no_git)?)
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

    /// Standard output of git on the mirror, as text.
    pub(crate) fn text(&self, doing: &str, arguments: &[&str]) -> Result<String, ReleaseError> {
        let (_, out) = self.run(doing, self.command().args(arguments), &[0])?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// Brings every branch and tag here, and forgets those that are gone; commits of releases stay.
    pub(crate) fn update(&self, branch: &str) -> Result<(), ReleaseError> {
        if !self.dir.join("HEAD").exists() {
            // What a crash during the first fetch left is no repository yet.
            if self.dir.exists() {
                fs::remove_dir_all(&self.dir).map_err(ReleaseError::io("remove", &self.dir))?;
            }
            let git = self.git().args(["init", "--quiet", "--bare", "--template=", "--"]).path(&self.dir);
            self.run("make the mirror of the repository", git, &[0])?;
        }
        remove_locks(&self.dir)?;
        self.text("name the default branch", &["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")])?;
        self.fetch(&["--prune", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"])
    }

    fn fetch(&self, what: &[&str]) -> Result<(), ReleaseError> {
        let mut settings = vec![("remote.plimsoll.url", self.origin.url.as_str())];
        if self.origin.local.is_some() {
            // git clears our settings for the other side of a local fetch, which then refuses a repository that
            // belongs to another user. The administrator named this one.
            settings.push(("remote.plimsoll.uploadpack", "git -c safe.directory=* upload-pack"));
        }
        if self.origin.login.is_some() {
            settings.push(("credential.helper", ""));
            settings.push(("credential.helper", HELPER));
        }
        let mut git = self.command().env("GIT_CONFIG_COUNT", &settings.len().to_string());
        for (n, (key, value)) in settings.iter().enumerate() {
            git = git.env(&format!("GIT_CONFIG_KEY_{n}"), key).env(&format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        if let Some((user, password)) = &self.origin.login {
            git = git.env("PLIMSOLL_GIT_USER", user).env("PLIMSOLL_GIT_PASSWORD", password);
        }
        let git = git
            .args(["fetch", "--quiet", "--force", "--no-tags", "--update-shallow", "--no-write-fetch-head"])
            .args(["--no-recurse-submodules", "plimsoll"])
            .args(what);
        self.run(&format!("fetch the code from {}", self.origin.url), git, &[0]).map(|_| ())
    }

    /// Finds the one commit that `asked` means: a branch, a tag, a commit (from four digits), or `main~2`.
    pub(crate) fn resolve(&self, asked: &str) -> Result<Found, ReleaseError> {
        let refs = self.refs()?;
        let named: Vec<&(String, String)> = refs
            .iter()
            .filter(|(name, _)| {
                name == asked
                    || name.strip_prefix("refs/heads/") == Some(asked)
                    || name.strip_prefix("refs/tags/") == Some(asked)
            })
            .collect();
        let hex = asked.len() >= 4 && asked.len() <= 64 && asked.bytes().all(|b| b.is_ascii_hexdigit());
        let mut commits = BTreeSet::new();
        // A branch may be named 2024; only a prefix as long as people write commits competes with a name.
        if hex && (named.is_empty() || asked.len() >= 7) {
            commits = self.commits_beginning_with(asked)?;
        }
        let meant: BTreeSet<&str> = named
            .iter()
            .map(|(_, commit)| commit.as_str())
            .chain(commits.iter().map(String::as_str))
            .collect();
        if meant.len() > 1 {
            let names = named.iter().map(|(name, _)| name.clone());
            let mut candidates: Vec<String> = names.chain(commits.iter().cloned()).collect();
            candidates.truncate(10);
            return Err(ReleaseError::Ambiguous { asked: asked.to_owned(), candidates });
        }
        let branch = named.iter().find_map(|(name, _)| name.strip_prefix("refs/heads/")).map(str::to_owned);
        let commit = match meant.first() {
            Some(commit) => Some((*commit).to_owned()),
            // A server may give out a commit that no branch or tag holds (any more) when it is named in full.
            None if hex && asked.len() >= 40 => match self.fetch(&[asked]) {
                Ok(()) => self.commits_beginning_with(asked)?.pop_first(),
                Err(ReleaseError::Git { .. }) => None,
                Err(other) => return Err(other),
            },
            None if asked.contains(['~', '^']) => self.expression(asked)?,
            None => None,
        };
        match commit {
            Some(commit) => self.describe(commit, branch),
            None => Err(ReleaseError::NoSuchRevision { asked: asked.to_owned(), near: near(asked, &refs) }),
        }
    }

    /// Every branch and tag with its commit.
    fn refs(&self) -> Result<Vec<(String, String)>, ReleaseError> {
        let format = "--format=%(refname) %(objecttype) %(objectname) %(*objecttype) %(*objectname)";
        let text =
            self.text("list branches and tags", &["for-each-ref", format, "refs/heads", "refs/tags"])?;
        let commit = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let of_commit = words.windows(2).find(|pair| pair[0] == "commit")?;
            Some((words[0].to_owned(), of_commit[1].to_owned()))
        };
        Ok(text.lines().filter_map(commit).collect())
    }

    fn commits_beginning_with(&self, hex: &str) -> Result<BTreeSet<String>, ReleaseError> {
        let flag = format!("--disambiguate={hex}");
        let mut commits = BTreeSet::new();
        for object in self.text("look up a commit", &["rev-parse", &flag])?.lines() {
            if self.text("look up an object", &["cat-file", "-t", object])?.trim() == "commit" {
                commits.insert(object.to_owned());
            }
        }
        Ok(commits)
    }

    fn expression(&self, asked: &str) -> Result<Option<String>, ReleaseError> {
        let commit = format!("{asked}^{{commit}}");
        let git = self.command().args(["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]);
        let (code, out) = self.run("read the revision", git, &[0, 1, 128])?;
        Ok((code == 0).then(|| String::from_utf8_lossy(&out).trim().to_owned()))
    }

    fn describe(&self, commit: String, branch: Option<String>) -> Result<Found, ReleaseError> {
        let text = self.text("read the commit", &["log", "-1", "--format=%an <%ae>%n%cI%n%s", &commit])?;
        let mut lines = text.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap_or_default();
        Ok(Found { commit, branch, author: next(), committed_at: next(), subject: next() })
    }

    /// Whether `new` contains `old`; `false` as well when `old` is not here.
    pub(crate) fn descends(&self, new: &str, old: &str) -> Result<bool, ReleaseError> {
        let git = self.command().args(["merge-base", "--is-ancestor", old, new]);
        Ok(self.run("compare two commits", git, &[0, 1, 128])?.0 == 0)
    }

    /// Whether the object is here.
    pub(crate) fn has(&self, commit: &str) -> Result<bool, ReleaseError> {
        let git = self.command().args(["cat-file", "-e", &format!("{commit}^{{commit}}")]);
        Ok(self.run("look up a commit", git, &[0, 1, 128])?.0 == 0)
    }

    /// Refuses a commit whose tree would not be complete in a release folder.
    pub(crate) fn refuse_incomplete(&self, commit: &str, directory: &Path) -> Result<(), ReleaseError> {
        let tree = self.text("list the files", &["ls-tree", "-r", "-z", commit])?;
        let modules: Vec<String> = tree
            .split('\0')
            .filter(|entry| entry.starts_with("160000 "))
            .filter_map(|entry| entry.split_once('\t'))
            .map(|(_, path)| path.to_owned())
            .take(10)
            .collect();
        let commit_short = short(commit).to_owned();
        if !modules.is_empty() {
            return Err(ReleaseError::Unsupported {
                commit: commit_short,
                what: "git submodules",
                paths: modules,
            });
        }
        let git = self.command().args([
            "grep",
            "-l",
            "-z",
            "-E",
            "^[^#]*filter=lfs",
            commit,
            "--",
            ":(glob)**/.gitattributes",
        ]);
        let (_, out) = self.run("look for Git LFS", git, &[0, 1])?;
        let files = String::from_utf8_lossy(&out);
        let prefix = format!("{commit}:");
        let paths: Vec<String> = files
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(|path| path.trim_start_matches(&prefix).to_owned())
            .collect();
        if !paths.is_empty() {
            return Err(ReleaseError::Unsupported { commit: commit_short, what: "Git LFS", paths });
        }
        let folder = directory.to_string_lossy();
        let inside = format!("{}/", folder.trim_end_matches('/'));
        if folder != "." && !folder.is_empty() {
            let there = tree.split('\0').filter_map(|entry| entry.split_once('\t'));
            if !there.into_iter().any(|(_, path)| path.starts_with(&inside)) {
                return Err(ReleaseError::NoDirectory {
                    commit: commit_short,
                    directory: directory.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Changes in the checkout that the code comes from, that nobody committed; `None` when it is no checkout here.
    /// Paths below `but` are left out.
    pub(crate) fn uncommitted(&self, but: &[PathBuf]) -> Result<Option<Vec<String>>, ReleaseError> {
        let Some(path) = &self.origin.local else { return Ok(None) };
        let git = self.git().args(["-C"]).path(path).args(["rev-parse", "--is-inside-work-tree"]);
        let (code, out) = self.run("look at the checkout", git, &[0, 128])?;
        if code != 0 || out.trim_ascii() != b"true" {
            return Ok(None);
        }
        let git = self.git().args(["-C"]).path(path).args([
            "status",
            "--porcelain=v1",
            "-z",
            "--no-renames",
            "--untracked-files=all",
        ]);
        let (_, out) = self.run("look for uncommitted changes", git, &[0])?;
        let text = String::from_utf8_lossy(&out);
        let files = text.split('\0').filter_map(|entry| entry.get(3..));
        let files = files.filter(|file| !but.iter().any(|shared| Path::new(file).starts_with(shared)));
        Ok(Some(files.map(str::to_owned).collect()))
    }

    /// Keeps a release's commit reachable for ever, whatever happens to the branches.
    pub(crate) fn keep(&self, release: &str, commit: &str) -> Result<(), ReleaseError> {
        let name = format!("refs/plimsoll/releases/{release}");
        self.text("note the release", &["update-ref", "--", &name, commit]).map(|_| ())
    }

    /// The names of all releases whose commits are kept.
    pub(crate) fn kept(&self) -> Result<Vec<String>, ReleaseError> {
        let prefix = "refs/plimsoll/releases/";
        let text = self.text("list the releases", &["for-each-ref", "--format=%(refname)", prefix])?;
        Ok(text.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect())
    }

    /// Writes the commit's files into the empty folder `into`, with modes and symlinks, without a `.git`.
    pub(crate) fn write_tree(&self, commit: &str, into: &Path) -> Result<(), ReleaseError> {
        let index = self.dir.join("plimsoll-index");
        let _ = fs::remove_file(&index);
        let _ = fs::remove_file(self.dir.join("plimsoll-index.lock"));
        let git =
            self.command().args(["--work-tree"]).path(into).env("GIT_INDEX_FILE", &index.to_string_lossy());
        let git = git.args(["read-tree", "--reset", "-u", commit]);
        let written = self.run("write the files of the release", git, &[0]);
        let _ = fs::remove_file(&index);
        written.map(|_| ())
    }
}

/// Removes lock files that a killed git left. Only one run at a time works on the mirror.
fn remove_locks(dir: &Path) -> Result<(), ReleaseError> {
    let mut folders = vec![dir.join("refs")];
    let mut files: Vec<PathBuf> = ["HEAD.lock", "config.lock", "packed-refs.lock", "shallow.lock"]
        .iter()
        .map(|name| dir.join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(ReleaseError::io("read", &folder))? {
            let entry = entry.map_err(ReleaseError::io("read", &folder))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "lock") {
                files.push(path);
            }
        }
    }
    for file in files {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ReleaseError::Io { doing: "remove", path: file, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Names close to what was asked for, best first.
fn near(asked: &str, refs: &[(String, String)]) -> Vec<String> {
    let names = refs
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/")));
    let mut scored: Vec<(f64, &str)> = names.map(|name| (strsim::jaro_winkler(asked, name), name)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let few = scored.len() <= 5;
    let mut near: Vec<String> = scored
        .into_iter()
        .filter(|(score, _)| few || *score > 0.6)
        .map(|(_, name)| name.to_owned())
        .collect();
    near.dedup();
    near.truncate(5);
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_url_another_machine_or_a_path() {
        let parse = |git: &str| Origin::parse(git, Path::new("/srv/app"));
        assert_eq!(parse("git@host:shop.git").local, None);
        assert_eq!(parse("ssh://git@host/shop.git").url, "ssh://git@host/shop.git");
        assert_eq!(parse("/srv/git/a:b.git").local, Some(PathBuf::from("/srv/git/a:b.git")));
        assert_eq!(parse("../a.git").url, "/srv/app/../a.git");
        assert_eq!(parse("file:///srv/x").local, Some(PathBuf::from("/srv/x")));
        let token = parse("https://t%40ken@host:8443/shop.git");
        assert_eq!(token.url, "https://host:8443/shop.git");
        assert_eq!(token.login, Some(("t@ken".to_owned(), String::new())));
    }

    #[test]
    fn credentials_are_taken_out_of_lines() {
        let line = "fatal: unable to access 'https://me:pw@host/x' and http://tok@h/";
        assert_eq!(without_credentials(line), "fatal: unable to access 'https://host/x' and http://h/");
    }
}
