//! Proves that no journal was changed after it was written, and that the reports say what the journals say.
//!
//! Each line holds the hash of the line before it, and a run's first line the hash of a line of the run before. A line that
//! is changed, taken out or put in breaks the chain at the next one; a journal that lost its last lines no longer makes
//! the report that lies beside it. Who may write to `runs/` can forge all of it: keep the hash of the last line elsewhere.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use plimsoll_core::record::{Entry, Event};
use plimsoll_core::report;

use crate::durable;
use crate::journal::{self, Error, Link, Runs};

/// What was found of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Audited {
    /// The run's number.
    pub run: u32,
    /// Lines of its journal.
    pub lines: usize,
    /// Those that hold the hash of the line before. Journals of older versions have none.
    pub chained: usize,
    /// The hash of the last line: kept elsewhere, it proves the whole journal.
    pub head: Option<String>,
    /// The first bad line, from 1, and what is wrong with it.
    pub bad: Option<(usize, String)>,
    /// Reports that are not what the journal makes, and why.
    pub reports: Vec<String>,
    /// Why the reports could not be compared, where they could not.
    pub not_compared: Option<String>,
}

impl Audited {
    /// Whether nothing was found changed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.bad.is_none() && self.reports.is_empty()
    }
}

/// Looks at every run. `tool` is the version of this program: another one may word its reports differently.
///
/// # Errors
/// When `runs/` cannot be read; a journal that cannot is a finding.
pub fn audit(runs: &Runs, tool: &str) -> Result<Vec<Audited>, Error> {
    let mut before: Option<(u32, BTreeSet<String>)> = None;
    let mut all = Vec::new();
    for run in runs.list()? {
        let path = runs.journal(run);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let why = format!("the journal cannot be read: {error}");
                all.push(Audited { run, bad: Some((1, why)), ..nothing(run) });
                continue;
            }
        };
        let (mut audited, entries, hashes) = lines(run, &bytes, before.as_ref());
        if audited.bad.is_none() {
            compare(runs, &entries, tool, &mut audited);
        }
        all.push(audited);
        before = Some((run, hashes));
    }
    Ok(all)
}

fn nothing(run: u32) -> Audited {
    Audited { run, lines: 0, chained: 0, head: None, bad: None, reports: Vec::new(), not_compared: None }
}

type Seen = (Audited, Vec<Entry>, BTreeSet<String>);

fn lines(run: u32, bytes: &[u8], before: Option<&(u32, BTreeSet<String>)>) -> Seen {
    let mut audited = nothing(run);
    let mut entries = Vec::new();
    let mut hashes = BTreeSet::new();
    for (at, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        if !line.ends_with(b"\n") {
            // Torn by a crash, never acknowledged: no part of the journal.
            break;
        }
        audited.lines += 1;
        let parsed =
            serde_json::from_slice::<Entry>(line).ok().zip(serde_json::from_slice::<Link>(line).ok());
        let Some((entry, link)) = parsed else {
            audited.bad.get_or_insert((at + 1, "it is no event".to_owned()));
            continue;
        };
        let why = if entry.seq != at as u64 {
            Some(format!("its number is {} where {at} is due: a line is missing or was put in", entry.seq))
        } else {
            wrong_link(at, link.prev.as_deref(), &audited, before)
        };
        if let Some(why) = why {
            audited.bad.get_or_insert((at + 1, why));
        }
        audited.chained += usize::from(link.prev.is_some());
        let hash = journal::hash(line);
        audited.head = Some(hash.clone());
        hashes.insert(hash);
        entries.push(entry);
    }
    (audited, entries, hashes)
}

/// What is wrong with the hash that a line holds. A wrong one says that the line before was changed.
fn wrong_link(
    at: usize,
    prev: Option<&str>,
    so_far: &Audited,
    before: Option<&(u32, BTreeSet<String>)>,
) -> Option<String> {
    match (prev, at) {
        (None, _) if so_far.chained > 0 => Some("it does not hold the hash of the line before".to_owned()),
        // The very first line of all has none before it; journals of older versions hold none at all.
        (None, _) => None,
        (Some(prev), 0) => match before {
            Some((_, hashes)) if hashes.contains(prev) => None,
            Some((run, _)) => Some(format!(
                "it does not follow run {run}: that journal was changed, or a run between is gone"
            )),
            None => Some("it follows a run that is gone".to_owned()),
        },
        (Some(prev), at) if so_far.head.as_deref() != Some(prev) => Some(format!(
            "it does not follow line {at}: that line was changed after it was written, or this one"
        )),
        _ => None,
    }
}

fn compare(runs: &Runs, entries: &[Entry], tool: &str, audited: &mut Audited) {
    if !entries.iter().any(|entry| matches!(entry.event, Event::Ended { .. })) {
        audited.not_compared = Some("the run has not ended".to_owned());
        return;
    }
    let folder = runs.folder(audited.run);
    let written = std::fs::read_to_string(folder.join("report.json")).unwrap_or_default();
    let by = serde_json::from_str::<serde_json::Value>(&written).ok();
    let by = by.and_then(|json| json.get("tool")?.as_str().map(str::to_owned));
    if let Some(by) = by.filter(|by| by != tool) {
        audited.not_compared = Some(format!("the reports were written by version {by}, this is {tool}"));
        return;
    }
    for (name, text) in report::files(entries) {
        match std::fs::read_to_string(folder.join(&name)) {
            Ok(there) if there == text => {}
            Ok(_) => audited.reports.push(format!("{name} is not what the journal says")),
            Err(error) => audited.reports.push(format!("{name} cannot be read: {error}")),
        }
    }
}

/// Writes the reports of a run.
///
/// # Errors
/// When one is not safely on the disk.
pub fn write_reports(runs: &Runs, run: u32) -> Result<(), Error> {
    // Whoever writes last has read last.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let entries = runs.entries(run)?;
    let folder = runs.folder(run);
    for (name, text) in report::files(&entries) {
        write(&folder.join(name), &text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    Ok(durable::write(path, durable::PRIVATE, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use plimsoll_core::plan::Step;
    use plimsoll_core::ports::{Journal, Moment};
    use plimsoll_core::record::Ending;

    use super::*;

    /// These runs do not say which version carried them out.
    const TOOL: &str = "";

    fn entry(seq: u64, event: Event) -> Entry {
        Entry { seq, at: "2026-03-01T00:00:00.000Z".into(), moment: Moment(seq), event }
    }

    fn ended(seq: u64) -> Entry {
        let (ending, message) = (Ending::Live, "Live.".to_owned());
        entry(seq, Event::Ended { ending, exit: 0, message, hold_ms: 0, ms: 1 })
    }

    /// Two finished runs of four lines each, with their reports.
    fn two() -> (tempfile::TempDir, Runs) {
        let root = tempfile::tempdir().unwrap();
        let runs = Runs::of(root.path());
        for run in [1, 2] {
            let mut journal = runs.create(run).unwrap();
            for seq in 0..3 {
                journal.append(&entry(seq, Event::StepDone { step: Step::Fetch, ms: seq })).unwrap();
            }
            journal.append(&ended(3)).unwrap();
            write_reports(&runs, run).unwrap();
        }
        (root, runs)
    }

    fn change(runs: &Runs, run: u32, change: impl Fn(Vec<&str>) -> Vec<String>) {
        let path = runs.journal(run);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, change(text.lines().collect()).join("\n") + "\n").unwrap();
    }

    #[test]
    fn two_runs_that_nobody_touched_are_good() {
        let (_root, runs) = two();
        let found = audit(&runs, TOOL).unwrap();
        assert!(found.iter().all(Audited::is_good), "{found:#?}");
        // The very first line has none before it.
        assert_eq!((found[0].chained, found[1].chained, found[1].lines), (3, 4, 4));
        assert_eq!(found[1].head.as_ref().map(String::len), Some(64));
    }

    #[test]
    fn each_changed_line_is_found_wherever_it_is() {
        for line in 0..3 {
            let (_root, runs) = two();
            change(&runs, 1, |lines| {
                lines
                    .iter()
                    .enumerate()
                    .map(
                        |(at, l)| if at == line { l.replace("\"ms\":", "\"ms\":9") } else { (*l).to_owned() },
                    )
                    .collect()
            });
            let found = audit(&runs, TOOL).unwrap();
            assert_eq!(found[0].bad.as_ref().map(|(at, _)| *at), Some(line + 2), "{found:#?}");
        }
        // The last line of a run is held by the first of the next.
        let (_root, runs) = two();
        change(&runs, 1, |lines| lines.iter().map(|l| l.replace("Live.", "Fine.")).collect());
        let found = audit(&runs, TOOL).unwrap();
        assert_eq!(found[1].bad.as_ref().map(|(at, _)| *at), Some(1), "{found:#?}");
        assert!(!found[0].reports.is_empty());
    }

    #[test]
    fn a_line_taken_out_cut_off_or_put_in_is_found() {
        let (_root, runs) = two();
        change(&runs, 2, |lines| {
            [&lines[..1], &lines[2..]].concat().iter().map(ToString::to_string).collect()
        });
        let found = audit(&runs, TOOL).unwrap();
        assert_eq!(found[1].bad.as_ref().map(|(at, _)| *at), Some(2), "{found:#?}");

        let (_root, runs) = two();
        runs.add(2, Event::Warned { what: "late".into() }).unwrap();
        write_reports(&runs, 2).unwrap();
        change(&runs, 2, |lines| lines[..4].iter().map(ToString::to_string).collect());
        let found = audit(&runs, TOOL).unwrap();
        assert_eq!(found[1].bad, None, "the chain itself cannot know what came after");
        assert!(!found[1].reports.is_empty(), "{found:#?}");

        let (_root, runs) = two();
        std::fs::remove_dir_all(runs.folder(1)).unwrap();
        assert!(audit(&runs, TOOL).unwrap()[0].bad.as_ref().unwrap().1.contains("a run that is gone"));
    }

    #[test]
    fn a_report_that_somebody_edited_is_named() {
        let (_root, runs) = two();
        let path = runs.folder(2).join("report.md");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("Live", "Fine")).unwrap();
        let found = audit(&runs, TOOL).unwrap();
        assert_eq!(found[1].reports, ["report.md is not what the journal says"]);
    }

    #[test]
    fn a_journal_of_an_older_version_still_reads_and_is_said_to_have_no_chain() {
        let (_root, runs) = two();
        for run in [1, 2] {
            change(&runs, run, |lines| {
                let bare = |line: &&str| {
                    let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
                    value.as_object_mut().unwrap().shift_remove("prev");
                    value.to_string()
                };
                lines.iter().map(bare).collect()
            });
        }
        let found = audit(&runs, TOOL).unwrap();
        assert!(found.iter().all(Audited::is_good), "{found:#?}");
        assert_eq!((found[1].chained, found[1].lines), (0, 4));
        // What this version adds is chained to it.
        runs.add(2, Event::Warned { what: "late".into() }).unwrap();
        write_reports(&runs, 2).unwrap();
        let found = audit(&runs, TOOL).unwrap();
        assert!(found.iter().all(Audited::is_good) && found[1].chained == 1, "{found:#?}");
    }
}
