//! What changes between the live release and the next: files, commits, names of settings.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use plimsoll_core::check::Check;
use regex::Regex;
use serde_json::{Value, json};

use super::error::{ReleaseError, short};
use super::mirror::Mirror;

/// The most files and commits that are listed; all are counted.
const LISTED: usize = 200;

/// The check `pre.review`: the difference between the commit of the live release and the next one.
pub(crate) fn review(mirror: &Mirror, live: Option<&str>, next: &str) -> Result<Check, ReleaseError> {
    let name = "Changes since the live release";
    let Some(live) = live else {
        return Ok(Check::skipped("pre.review", name, "there is no live release to compare with"));
    };
    if !mirror.has(live)? {
        let why =
            format!("the commit of the live release, {}, is not in the repository any more", short(live));
        return Ok(Check::unknown("pre.review", name, why));
    }
    let files = files(mirror, live, next)?;
    let commits = commits(mirror, live, next)?;
    let settings = settings(mirror, live, next, &files)?;
    let sum = |of: fn(&Changed) -> u64| files.iter().map(of).sum::<u64>();
    let shown: Vec<Value> = files
        .iter()
        .take(LISTED)
        .map(|file| json!({ "path": file.path, "insertions": file.insertions, "deletions": file.deletions }))
        .collect();
    let mut check = Check::pass("pre.review", name)
        .with("from", live)
        .with("to", next)
        .with("files_changed", files.len())
        .with("insertions", sum(|file| file.insertions))
        .with("deletions", sum(|file| file.deletions))
        .with("files", shown)
        .with("commits", commits)
        .with("settings_changed", settings);
    if live == next {
        check = check.with("note", "the same commit is live already; it gets a new release number");
    }
    Ok(check)
}

struct Changed {
    path: String,
    insertions: u64,
    deletions: u64,
}

fn files(mirror: &Mirror, live: &str, next: &str) -> Result<Vec<Changed>, ReleaseError> {
    let arguments =
        ["diff", "--numstat", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", live, next, "--"];
    let text = mirror.text("compare two commits", &arguments)?;
    let read = |entry: &str| {
        let mut parts = entry.splitn(3, '\t');
        // Binary files have a dash instead of a number.
        let mut count = || parts.next().map(|n| n.parse().unwrap_or(0));
        let (insertions, deletions) = (count()?, count()?);
        Some(Changed { path: parts.next()?.to_owned(), insertions, deletions })
    };
    Ok(text.split('\0').filter_map(read).collect())
}

fn commits(mirror: &Mirror, live: &str, next: &str) -> Result<Value, ReleaseError> {
    let between = format!("{live}..{next}");
    let count = mirror.text("count commits", &["rev-list", "--count", &between])?;
    let limit = format!("--max-count={LISTED}");
    let text = mirror.text("list commits", &["log", &limit, "--format=%h%x1f%an%x1f%s", &between])?;
    let read = |line: &str| {
        let mut parts = line.splitn(3, '\u{1f}');
        Some(json!({ "commit": parts.next()?, "author": parts.next()?, "subject": parts.next()? }))
    };
    let listed: Vec<Value> = text.lines().filter_map(read).collect();
    Ok(json!({ "count": count.trim().parse().unwrap_or(listed.len() as u64), "newest": listed }))
}

/// Names of settings that were added, removed or given another value. Values are compared and never shown.
fn settings(mirror: &Mirror, live: &str, next: &str, files: &[Changed]) -> Result<Value, ReleaseError> {
    let mut changes = serde_json::Map::new();
    for file in files.iter().filter(|file| holds_settings(&file.path)).take(20) {
        let before = keys(&blob(mirror, live, &file.path)?);
        let after = keys(&blob(mirror, next, &file.path)?);
        let added: Vec<&String> = after.keys().filter(|key| !before.contains_key(*key)).collect();
        let removed: Vec<&String> = before.keys().filter(|key| !after.contains_key(*key)).collect();
        let changed: Vec<&String> = after
            .iter()
            .filter(|(key, value)| before.get(*key).is_some_and(|was| was != *value))
            .map(|(k, _)| k)
            .collect();
        changes.insert(file.path.clone(), json!({ "added": added, "removed": removed, "changed": changed }));
    }
    Ok(Value::Object(changes))
}

/// The file's text in that commit; empty when it is not in it.
fn blob(mirror: &Mirror, commit: &str, path: &str) -> Result<String, ReleaseError> {
    // Asked for a file that is not there, git complains, and a person would read that.
    if mirror
        .text("look for a file", &["ls-tree", "--name-only", "--full-tree", commit, "--", path])?
        .is_empty()
    {
        return Ok(String::new());
    }
    let call = mirror.command().args(["cat-file", "blob", &format!("{commit}:{path}")]);
    let (_, out) = mirror.git.run("read a file", &call, &[0])?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Whether a file's name says that it holds settings.
fn holds_settings(path: &str) -> bool {
    static NAMES: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)^(\.env.*|.*\.env|env\.(example|sample|template|dist)|plimsoll\.toml|(config|settings)\.(toml|ini|cfg|conf|py|ya?ml))$")
            .expect("a constant pattern")
    });
    NAMES.is_match(path.rsplit('/').next().unwrap_or(path))
}

/// Keys with their values, as a reader of lines sees them: `KEY=value`, `key = value` below `[section]`,
/// `key: value`. Lines that are no key belong to the value before them.
fn keys(text: &str) -> BTreeMap<String, String> {
    static KEY: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"^\s*(?:export\s+)?["']?([A-Za-z_][A-Za-z0-9_.-]*)["']?\s*[=:](.*)$"#)
            .expect("a constant pattern")
    });
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut section = String::new();
    let mut last: Option<String> = None;
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        let trimmed = line.trim();
        if let (true, Some(name)) =
            (trimmed.starts_with('['), trimmed.trim_start_matches('[').split(']').next())
        {
            section = format!("{}.", name.trim());
            last = None;
        } else if let Some(parts) = KEY.captures(line) {
            let key = format!("{section}{}", &parts[1]);
            found.entry(key.clone()).or_default().push_str(parts[2].trim());
            last = Some(key);
        } else if let Some(value) = last.as_ref().and_then(|key| found.get_mut(key)) {
            value.push_str(trimmed);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_env_toml_and_yaml() {
        let env = keys("# NOT=1\nexport A=1\nB = two # x\n\nC:3\n");
        assert_eq!(env.keys().collect::<Vec<_>>(), ["A", "B", "C"]);
        let toml =
            keys("[build]\ncommands = [\n  \"one\",\n]\n[[smoke]]\nname = \"x\"\n[[smoke]]\nname = \"y\"\n");
        assert_eq!(toml.keys().collect::<Vec<_>>(), ["build.commands", "smoke.name"]);
        assert_eq!(toml["build.commands"], "[\"one\",]");
    }

    #[test]
    fn only_files_named_for_settings_are_read() {
        for path in
            [".env.example", "deploy/.env", "app/config.toml", "plimsoll.toml", "x/prod.env", "settings.py"]
        {
            assert!(holds_settings(path), "{path}");
        }
        for path in ["src/environment.rs", "config/routes.rb", "README.md", "env"] {
            assert!(!holds_settings(path), "{path}");
        }
    }
}
