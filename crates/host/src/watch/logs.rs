//! New lines of the app's logs that tell of errors, grouped by shape: in files, across rotation, and in systemd's journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use regex::Regex;

use crate::process::{self, Limits, Sink, base_env};

/// So much of the end of a log is read to learn which shapes are old.
const TAIL: u64 = 1 << 20;
/// The most that is read at one look; a log that grows faster is read on at the next.
const MOST: u64 = 4 << 20;
/// Shapes beyond this number are counted together.
const MOST_SHAPES: usize = 200;
const OTHER: &str = "other lines";
/// The longest shape that is kept, characters.
const LONGEST_SHAPE: usize = 160;
/// How long systemd's journal may take to answer.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(5);

/// Where log lines come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A file; it may not exist yet.
    File(PathBuf),
    /// The journal of a systemd unit.
    Unit(String),
}

/// `[[log]]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the lines come from.
    pub source: Source,
    /// Matches a line that tells of an error.
    pub error: Regex,
    /// Matches a line that tells of a slow query, if the app logs those.
    pub slow: Option<Regex>,
}

/// How often each shape came.
pub type Shapes = BTreeMap<String, u64>;

/// What was found at one look.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Lines that tell of errors.
    pub errors: Shapes,
    /// Lines that tell of slow queries.
    pub slow: u64,
}

impl Found {
    /// Adds another look's.
    pub fn add(&mut self, other: Found) {
        for (shape, n) in other.errors {
            let known = self.errors.len() < MOST_SHAPES || self.errors.contains_key(&shape);
            *self.errors.entry(if known { shape } else { OTHER.to_owned() }).or_default() += n;
        }
        self.slow += other.slow;
    }

    /// All lines that tell of errors.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Follows all configured logs from where they end now.
pub struct Logs {
    followed: Vec<Followed>,
    secrets: Vec<String>,
    /// Shapes that the logs had before they were followed.
    pub old: BTreeSet<String>,
}

struct Followed {
    settings: Settings,
    at: Place,
    /// The beginning of a line that is not whole yet.
    rest: Vec<u8>,
    trouble: Option<String>,
}

enum Place {
    File(Option<(File, u64)>),
    Journal(Option<String>),
}

impl Logs {
    /// Begins at the end of every log. `secrets` are never shown.
    #[must_use]
    pub fn follow(settings: &[Settings], secrets: Vec<String>) -> Logs {
        let mut logs = Logs { followed: Vec::new(), secrets, old: BTreeSet::new() };
        for settings in settings {
            let mut followed = Followed {
                settings: settings.clone(),
                at: match settings.source {
                    Source::File(_) => Place::File(None),
                    Source::Unit(_) => Place::Journal(None),
                },
                rest: Vec::new(),
                trouble: None,
            };
            match followed.begin() {
                Ok(before) => {
                    let found = sift(&before, &followed.settings, &logs.secrets);
                    logs.old.extend(found.errors.into_keys());
                }
                Err(why) => followed.trouble = Some(why),
            }
            logs.followed.push(followed);
        }
        logs
    }

    /// Whether any log is followed.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.followed.is_empty()
    }

    /// The lines written since the last look.
    pub fn look(&mut self) -> Found {
        self.look_at(|_| true)
    }

    /// The same for some of the logs: systemd's journal takes longer to answer than a file.
    pub fn look_at(&mut self, wanted: impl Fn(&Source) -> bool) -> Found {
        let mut all = Found::default();
        for followed in self.followed.iter_mut().filter(|followed| wanted(&followed.settings.source)) {
            match followed.read_on() {
                Ok(lines) => {
                    followed.trouble = None;
                    all.add(sift(&lines, &followed.settings, &self.secrets));
                }
                Err(why) => followed.trouble = Some(why),
            }
        }
        all
    }

    /// What could not be read, in words.
    #[must_use]
    pub fn trouble(&self) -> Vec<String> {
        self.followed.iter().filter_map(|followed| followed.trouble.clone()).collect()
    }
}

impl Followed {
    /// Goes to the end; gives the lines before it.
    fn begin(&mut self) -> Result<Vec<String>, String> {
        match &self.settings.source {
            Source::File(path) => {
                let shown = |e: io::Error| format!("{}: {e}", path.display());
                let mut file = match File::open(path) {
                    Ok(file) => file,
                    // Begun at its first line, once it is there.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                    Err(e) => return Err(shown(e)),
                };
                let end = file.metadata().map_err(shown)?.len();
                file.seek(SeekFrom::Start(end.saturating_sub(TAIL))).map_err(shown)?;
                let mut text = Vec::new();
                (&mut file).take(TAIL.min(end)).read_to_end(&mut text).map_err(shown)?;
                self.at = Place::File(Some((file, end)));
                Ok(lines(&text))
            }
            Source::Unit(unit) => {
                let (lines, cursor) = journal(unit, &["--lines=2000".to_owned()])?;
                self.at = Place::Journal(cursor);
                Ok(lines)
            }
        }
    }

    fn read_on(&mut self) -> Result<Vec<String>, String> {
        match (&self.settings.source, &mut self.at) {
            (Source::File(path), Place::File(open)) => {
                let shown = |e: io::Error| format!("{}: {e}", path.display());
                let mut text = std::mem::take(&mut self.rest);
                if let Some((file, offset)) = open {
                    // Emptied in its place, as logrotate's copytruncate does.
                    if file.metadata().map_err(shown)?.len() < *offset {
                        *offset = 0;
                    }
                    *offset += read_from(file, *offset, &mut text).map_err(shown)?;
                }
                let there = std::fs::metadata(path).ok();
                let ours = open.as_ref().and_then(|(file, _)| file.metadata().ok());
                let same =
                    |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
                let moved = match (&there, &ours) {
                    (Some(there), Some(ours)) => !same(there, ours),
                    (Some(_), None) => true,
                    (None, _) => false,
                };
                if moved {
                    // The old one has been read to its end above; what follows is in the new one.
                    let mut file = File::open(path).map_err(shown)?;
                    let read = read_from(&mut file, 0, &mut text).map_err(shown)?;
                    *open = Some((file, read));
                }
                let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
                self.rest = text.split_off(whole);
                // A line without an end is cut in pieces.
                if self.rest.len() as u64 > MOST {
                    text.append(&mut self.rest);
                }
                Ok(lines(&text))
            }
            (Source::Unit(unit), Place::Journal(cursor)) => {
                let after = match cursor {
                    Some(cursor) => vec![format!("--after-cursor={cursor}")],
                    None => vec!["--lines=2000".to_owned()],
                };
                let (lines, next) = journal(unit, &after)?;
                if next.is_some() {
                    *cursor = next;
                }
                Ok(lines)
            }
            _ => Ok(Vec::new()),
        }
    }
}

fn read_from(file: &mut File, offset: u64, into: &mut Vec<u8>) -> io::Result<u64> {
    file.seek(SeekFrom::Start(offset))?;
    Ok(file.take(MOST).read_to_end(into)? as u64)
}

fn lines(text: &[u8]) -> Vec<String> {
    text.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}

/// Asks systemd's journal; gives the lines and where it ends.
fn journal(unit: &str, more: &[String]) -> Result<(Vec<String>, Option<String>), String> {
    let mut words: Vec<String> =
        ["journalctl", "--no-pager", "--quiet", "--output=cat", "--show-cursor"].map(str::to_owned).into();
    words.push(format!("--unit={unit}"));
    words.extend(more.iter().cloned());
    let command = process::Command { words, env: base_env(), folder: PathBuf::from("/"), mark: None };
    let limits = Limits { time: Some(JOURNAL_PATIENCE), ..Limits::default() };
    let (mut lines, mut cursor) = (Vec::new(), None);
    let mut take = |line: &str| match line.strip_prefix("-- cursor: ") {
        Some(at) => cursor = Some(at.trim().to_owned()),
        None => lines.push(line.to_owned()),
    };
    let ran = process::run(&command, limits, Sink::Lines(&mut take))
        .map_err(|e| format!("the journal of {unit} cannot be read: {e}"))?;
    if !ran.end.is_success() {
        return Err(format!("the journal of {unit} cannot be read: {}", ran.tail.join(" ")));
    }
    Ok((lines, cursor))
}

fn sift(lines: &[String], settings: &Settings, secrets: &[String]) -> Found {
    let mut found = Found::default();
    for line in lines {
        if settings.slow.as_ref().is_some_and(|slow| slow.is_match(line)) {
            found.slow += 1;
        }
        if settings.error.is_match(line) {
            let mut one = Found::default();
            one.errors.insert(shape(line, secrets), 1);
            found.add(one);
        }
    }
    found
}

/// What is the same in all lines of a kind: numbers, names in quotation marks, addresses and long words left out, and with
/// them what may be a secret or a customer's.
#[must_use]
pub fn shape(line: &str, secrets: &[String]) -> String {
    static PARTS: OnceLock<Vec<(Regex, &str)>> = OnceLock::new();
    let parts = PARTS.get_or_init(|| {
        let rules = [
            (r"\x1b\[[0-9;]*m", ""),
            (r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+", "ADDRESS"),
            (r#""[^"]*""#, "\"…\""),
            (r"'[^']*'", "'…'"),
            // Dates, identifiers, keys, tokens: words with a digit, and words longer than any word.
            (r"\b[\w-]*\d[\w:.-]*", "N"),
            (r"\b[A-Za-z0-9_/+=-]{40,}", "WORD"),
            (r"\bN(?:[ ,:/+-]+N\b)+", "N"),
            (r"\s+", " "),
        ];
        rules.into_iter().filter_map(|(rule, by)| Some((Regex::new(rule).ok()?, by))).collect()
    });
    let mut text = line.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        text = text.replace(secret.as_str(), "SECRET");
    }
    for (rule, by) in parts {
        text = rule.replace_all(&text, *by).into_owned();
    }
    text.trim().chars().take(LONGEST_SHAPE).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn settings(path: &std::path::Path) -> Settings {
        let error = Regex::new("(?i)error|traceback").unwrap();
        let slow = Some(Regex::new("slow query").unwrap());
        Settings { source: Source::File(path.to_owned()), error, slow }
    }

    fn write(path: &std::path::Path, text: &str) {
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    #[test]
    fn only_new_lines_count_and_old_shapes_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        write(&path, "2026-01-01 10:00:00 ERROR order 17 failed\nwell\n");
        let mut logs = Logs::follow(&[settings(&path)], Vec::new());
        assert_eq!(logs.look(), Found::default());
        write(
            &path,
            "2026-01-02 11:30:01 ERROR order 18 failed\nall is well\nTraceback of 'x'\nslow query: 900 ms\nERR",
        );
        let found = logs.look();
        assert_eq!((found.lines(), found.slow, found.errors.len()), (2, 1, 2));
        let new: Vec<&String> = found.errors.keys().filter(|shape| !logs.old.contains(*shape)).collect();
        assert_eq!(new, ["Traceback of '…'"]);
        write(&path, "OR at last\n");
        assert_eq!(
            logs.look().errors.keys().next().unwrap(),
            "ERROR at last",
            "a line that came in two pieces"
        );
    }

    #[test]
    fn a_rotated_log_loses_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        write(&path, "old\n");
        let mut logs = Logs::follow(&[settings(&path)], Vec::new());
        write(&path, "error before the rotation\n");
        std::fs::rename(&path, folder.path().join("error.log.1")).unwrap();
        write(&path, "error after the rotation\n");
        assert_eq!(logs.look().lines(), 2);
        write(&path, "error once more\n");
        assert_eq!(logs.look().lines(), 1);
        // Emptied in its place.
        std::fs::write(&path, "error x\n").unwrap();
        assert_eq!(logs.look().lines(), 1);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(logs.look().lines(), 0);
    }

    #[test]
    fn a_log_that_comes_later_is_read_from_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let mut logs = Logs::follow(&[settings(&path)], Vec::new());
        assert!(logs.trouble().is_empty());
        write(&path, "error one\n");
        assert_eq!(logs.look().lines(), 1);
    }

    #[test]
    fn a_shape_is_the_same_for_all_lines_of_a_kind_and_holds_no_secret() {
        let shape = |line: &str| shape(line, &["hunter2".to_owned()]);
        let one = shape(
            "2026-01-01T10:00:00.123Z [pid 71] ERROR order 17 of asha@example.com: no such table \"ordres\"",
        );
        let two = shape(
            "2026-12-31T23:59:59.999Z [pid 4242] ERROR order 9 of ravi@example.org: no such table \"x\"",
        );
        assert_eq!(one, two);
        assert_eq!(one, "N [pid N] ERROR order N of ADDRESS: no such table \"…\"");
        let secret = shape("error: login with hunter2 and rzp_live_4Kd9aSecretKey failed");
        assert!(!secret.contains("hunter2") && !secret.contains("4Kd9a"), "{secret}");
        assert!(shape(&"error x".repeat(1_000)).chars().count() <= LONGEST_SHAPE);
    }
}
