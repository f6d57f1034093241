//! What a command said, as one text in which only what varies from run to run is named by its kind.

use std::path::Path;

use regex::{Captures, Regex};
use serde_json::Value;

/// How a command ended and what it said.
#[derive(Clone, Debug)]
#[must_use = "a command whose output nobody looks at tests nothing"]
pub struct Output {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// As printed.
    pub stdout: String,
    /// As printed.
    pub stderr: String,
    root: String,
    home: String,
}

impl Output {
    pub(crate) fn new(output: &std::process::Output, root: &Path, home: &Path) -> Output {
        Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            root: root.display().to_string(),
            home: home.display().to_string(),
        }
    }

    /// Everything in one text for a snapshot: paths, times, durations, ports, process ids and commits by their kind.
    #[must_use]
    pub fn text(&self) -> String {
        let code = self.code.map_or("killed".to_owned(), |code| code.to_string());
        let mut text = self.normal(&self.stdout);
        if !self.stderr.is_empty() {
            text += "--- stderr\n";
            text += &self.normal(&self.stderr);
        }
        format!("{text}--- exit {code}\n")
    }

    /// Both streams as printed, for messages of assertions and searches.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Fails unless the exit code is `code`.
    ///
    /// # Panics
    /// With all that the command said.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Output {
        assert_eq!(self.code, Some(code), "the exit code is wrong; the command said:\n{}", self.said());
        self
    }

    /// Fails unless `text` was said on either stream.
    ///
    /// # Panics
    /// With all that the command said.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Output {
        assert!(self.said().contains(text), "{text:?} was not said, but:\n{}", self.said());
        self
    }

    /// The objects of `--json`, one a line of stdout.
    ///
    /// # Panics
    /// When a line is none.
    #[must_use]
    pub fn json(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str::<Value>(line)
                .ok()
                .filter(Value::is_object)
                .unwrap_or_else(|| panic!("not one JSON object: {line:?}"))
        };
        self.stdout.lines().map(parse).collect()
    }

    fn normal(&self, text: &str) -> String {
        let sandbox = self.root.strip_suffix("/root").expect("a sandbox's root is called so");
        let text =
            text.replace(&self.root, "[root]").replace(&self.home, "[home]").replace(sandbox, "[sandbox]");
        normal(&text)
    }
}

/// A pattern of what varies, whether a match really is one, and its kind.
type Redaction = (&'static str, fn(&Captures<'_>) -> Option<String>);

/// In this order: what a later one would match inside an earlier one is gone by then. A duration is named without
/// its unit, which changes with it.
const REDACTIONS: [Redaction; 12] = [
    (r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?(?: ?(?:Z|UTC))?", |c| {
        is_time(c).then(|| "[time]".into())
    }),
    (r"\.backup\.\d{8}_\d{6}(?:_\d+)?", |_| Some(".backup.[time]".into())),
    (r"\bdeployment_\d{8}_\d{4}\b", |_| Some("deployment_[time]".into())),
    (r"\b(\d{6})-[0-9a-f]{7}\b", |c| Some(format!("{}-[commit]", &c[1]))),
    (r"\b[0-9a-f]{40}\b", |_| Some("[commit]".into())),
    (r"\b[0-9a-f]{64}\b", |_| Some("[sha256]".into())),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", |_| Some("[boot]".into())),
    (r"127\.0\.0\.1:(\d+)", |c| c[1].parse::<u16>().ok().map(|_| "127.0.0.1:[port]".into())),
    (r#"("(?:pid|port|ms|moment|until|bytes|memory|[a-z_]+_ms|[a-z_]+_bytes)":) ?\d+\b"#, |c| {
        Some(format!("{}[n]", &c[1]))
    }),
    (r"\b((?:pid|port|healthy answer:) )\d+\b", |c| Some(format!("{}[n]", &c[1]))),
    (r"\b\d+(?:\.\d+)? (?:ms|s|min)\b", |_| Some("[took]".into())),
    (r"\b\d+(?:\.\d+)? MiB of memory\b", |_| Some("[size] of memory".into())),
];

fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, name) in REDACTIONS {
        let pattern = Regex::new(pattern).expect("the patterns are constants");
        let replaced =
            pattern.replace_all(&text, |c: &Captures<'_>| name(c).unwrap_or_else(|| c[0].to_owned()));
        text = replaced.into_owned();
    }
    text
}

fn is_time(parts: &Captures<'_>) -> bool {
    let part = |at: usize| parts[at].parse::<u32>().unwrap_or(u32::MAX);
    (2020..2100).contains(&part(1))
        && (1..=12).contains(&part(2))
        && (1..=31).contains(&part(3))
        && part(4) < 24
        && part(5) < 60
        && parts.get(6).is_none_or(|_| part(6) <= 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_is_named_by_its_kind() {
        let said = "2026-03-04T05:06:07.089Z 000012-3fa9c1b on 127.0.0.1:43210 (pid 4711) after 12 ms, 1.5 s; \
                    store.db.backup.20260304_050607_2 of 2026-03-04 05:06 UTC; {\"predicted_hold_ms\":279}";
        assert_eq!(
            normal(said),
            "[time] 000012-[commit] on 127.0.0.1:[port] (pid [n]) after [took], [took]; \
             store.db.backup.[time] of [time]; {\"predicted_hold_ms\":[n]}"
        );
    }

    #[test]
    fn what_only_looks_like_it_stays() {
        for said in
            ["2026-13-04T05:06:07Z", "127.0.0.1:99999", "exit 12", "000012-3fa9c1", "run 2, 14 orders"]
        {
            assert_eq!(normal(said), said);
        }
    }
}
