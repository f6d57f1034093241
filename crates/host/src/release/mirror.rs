//! A bare copy of the app's repository, which keeps every release's commit.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{ReleaseError, short};
use super::git::{Call, Git};
use super::origin::Origin;

/// The bare repository `<root>/mirror.git`.
pub(crate) struct Mirror {
    pub(crate) git: Git,
    pub(crate) dir: PathBuf,
    pub(crate) origin: Origin,
}

impl Mirror {
    /// git on the mirror.
    pub(crate) fn command(&self) -> Call {
        self.git.call().args(["--git-dir"]).path(&self.dir)
    }

    /// Standard output of git on the mirror, as text.
    pub(crate) fn text(&self, doing: &str, arguments: &[&str]) -> Result<String, ReleaseError> {
        let (_, out) = self.git.run(doing, &self.command().args(arguments), &[0])?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// Brings every branch and tag here, and forgets those that are gone; commits of releases stay.
    pub(crate) fn update(&self, branch: &str) -> Result<(), ReleaseError> {
        if !self.dir.exists() {
            // Made beside and renamed: a crash on the way leaves nothing that looks like a repository.
            let fresh = self.dir.with_extension("git-new");
            if fresh.exists() {
                fs::remove_dir_all(&fresh).map_err(ReleaseError::io("remove", &fresh))?;
            }
            let call = self.git.call().args(["init", "--quiet", "--bare", "--template=", "--"]).path(&fresh);
            self.git.run("make the mirror of the repository", &call, &[0])?;
            fs::rename(&fresh, &self.dir).map_err(ReleaseError::io("create", &self.dir))?;
        }
        remove_locks(&self.dir)?;
        self.text("name the default branch", &["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")])?;
        self.fetch(&["--prune", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"])
    }

    pub(crate) fn fetch(&self, what: &[&str]) -> Result<(), ReleaseError> {
        let call = self
            .origin
            .name_in(self.command())
            .args(["fetch", "--quiet", "--force", "--no-tags", "--update-shallow", "--no-write-fetch-head"])
            .args(["--no-recurse-submodules", "plimsoll"])
            .args(what);
        self.git.run(&format!("fetch the code from {}", self.origin.url), &call, &[0]).map(|_| ())
    }

    /// Whether `new` contains `old`; `false` as well when `old` is not here.
    pub(crate) fn descends(&self, new: &str, old: &str) -> Result<bool, ReleaseError> {
        let call = self.command().args(["merge-base", "--is-ancestor", old, new]);
        Ok(self.git.run("compare two commits", &call, &[0, 1, 128])?.0 == 0)
    }

    /// Whether the object is here.
    pub(crate) fn has(&self, commit: &str) -> Result<bool, ReleaseError> {
        let call = self.command().args(["cat-file", "-e", &format!("{commit}^{{commit}}")]);
        Ok(self.git.run("look up a commit", &call, &[0, 1, 128])?.0 == 0)
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
        let call = self.command().args([
            "grep",
            "-l",
            "-z",
            "-E",
            "^[^#]*filter=lfs",
            commit,
            "--",
            ":(glob)**/.gitattributes",
        ]);
        let (_, out) = self.git.run("look for Git LFS", &call, &[0, 1])?;
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
        let call = self.git.call().args(["-C"]).path(path).args(["rev-parse", "--is-inside-work-tree"]);
        let (code, out) = self.git.run("look at the checkout", &call, &[0, 128])?;
        if code != 0 || out.trim_ascii() != b"true" {
            return Ok(None);
        }
        let call = self.git.call().args(["-C"]).path(path).args([
            "status",
            "--porcelain=v1",
            "-z",
            "--no-renames",
            "--untracked-files=all",
        ]);
        let (_, out) = self.git.run("look for uncommitted changes", &call, &[0])?;
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
        let call = self
            .command()
            .args(["--work-tree"])
            .path(into)
            .env("GIT_INDEX_FILE", &index.to_string_lossy())
            .args(["read-tree", "--reset", "-u", commit]);
        let written = self.git.run("write the files of the release", &call, &[0]);
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
