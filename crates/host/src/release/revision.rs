//! Which commit somebody means.

use std::collections::BTreeSet;

use super::error::ReleaseError;
use super::mirror::Mirror;

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

impl Mirror {
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
        let call = self.command().args(["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]);
        let (code, out) = self.git.run("read the revision", &call, &[0, 1, 128])?;
        Ok((code == 0).then(|| String::from_utf8_lossy(&out).trim().to_owned()))
    }

    fn describe(&self, commit: String, branch: Option<String>) -> Result<Found, ReleaseError> {
        let text = self.text("read the commit", &["log", "-1", "--format=%an <%ae>%n%cI%n%s", &commit])?;
        let mut lines = text.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap_or_default();
        Ok(Found { commit, branch, author: next(), committed_at: next(), subject: next() })
    }
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
