//! A git repository whose commits are releases.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository with a work tree, on branch `main`.
#[derive(Debug)]
pub struct Repo {
    folder: PathBuf,
    home: PathBuf,
}

impl Repo {
    /// Makes an empty one.
    ///
    /// # Panics
    /// When git cannot.
    #[must_use]
    pub fn create(folder: &Path, home: &Path) -> Repo {
        std::fs::create_dir_all(folder).expect("a folder can be made in the sandbox");
        let repo = Repo { folder: folder.to_owned(), home: home.to_owned() };
        repo.git(&["init", "--quiet", "--initial-branch=main"]);
        repo
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Commits the files (name and content) on top of what is there; an empty content removes the file. Returns
    /// the commit id in full.
    ///
    /// # Panics
    /// When git cannot.
    pub fn commit(&self, subject: &str, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            let path = self.folder.join(name);
            if content.is_empty() {
                std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                continue;
            }
            let parent = path.parent().expect("a file in the repository has a folder");
            std::fs::create_dir_all(parent)
                .and_then(|()| std::fs::write(&path, content))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", subject]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Runs git here and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(&self.folder)
            .env_clear()
            .envs(environment(&self.home))
            .output()
            .expect("git is installed");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// An environment in which nothing of the real user's is seen, and in which every commit has the same id again.
pub(crate) fn environment(home: &Path) -> BTreeMap<String, String> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
    let home = home.display().to_string();
    let mut all =
        BTreeMap::from([("PATH", path.as_str()), ("HOME", &home), ("LANG", "C.UTF-8"), ("TZ", "UTC")]);
    for name in ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"] {
        all.insert(name, "Asha Rao");
    }
    for name in ["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"] {
        all.insert(name, "asha@example.com");
    }
    for name in ["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"] {
        all.insert(name, "2026-01-01T12:00:00Z");
    }
    all.insert("GIT_CONFIG_NOSYSTEM", "1");
    all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_commit() {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<String> = ["a", "b"]
            .map(|name| {
                let repo = Repo::create(&folder.path().join(name), folder.path());
                repo.commit("first", &[("app.json", "{}"), ("migrations/0001_x.sql", "SELECT 1;")])
            })
            .into();
        assert_eq!(ids[0], ids[1]);
        assert_eq!(ids[0].len(), 40);
    }
}
