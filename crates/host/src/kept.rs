//! What finished runs have kept of the database: PRE and POST, by which a rollback goes back with the data, and the
//! databases that were replaced. The newest stay; what is set aside stays always, for nobody else has it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::journal::{self, Runs};

/// So many runs with something kept stay as they are. Each takes up to three times the database's room.
pub const RUNS: usize = 2;

/// One file, and what becomes of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fate {
    /// The run that it belongs to.
    pub run: u32,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reason: String,
}

/// What becomes of each kept file, oldest run first: those of the newest [`RUNS`] runs that have any stay, and so do
/// those of a run that has not ended.
///
/// # Errors
/// When the runs cannot be listed, or it is unknown whether one is open.
pub fn fates(runs: &Runs) -> Result<Vec<Fate>, journal::Error> {
    let open = runs.unfinished()?;
    let mut found = Vec::new();
    let mut with_any = 0;
    for run in runs.list()?.into_iter().rev() {
        let files = files(&runs.folder(run))?;
        if files.is_empty() {
            continue;
        }
        with_any += 1;
        let (keep, reason) = if open == Some(run) {
            (true, format!("run {run} has not ended"))
        } else if with_any <= RUNS {
            (true, format!("going back over run {run} needs it; one of the newest {RUNS}"))
        } else {
            (false, format!("{RUNS} newer runs have theirs; going back over run {run} ends"))
        };
        found.extend(files.into_iter().map(|(path, bytes)| Fate {
            run,
            path,
            bytes,
            keep,
            reason: reason.clone(),
        }));
    }
    found.reverse();
    Ok(found)
}

/// Removes what does not stay. Returns what is gone.
///
/// # Errors
/// When a file cannot be removed; those that stay are all there.
pub fn prune(fates: &[Fate]) -> Result<Vec<PathBuf>, durable::Error> {
    let mut gone = Vec::new();
    for fate in fates.iter().filter(|fate| !fate.keep) {
        durable::remove(&fate.path)?;
        gone.push(fate.path.clone());
    }
    Ok(gone)
}

fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>, durable::Error> {
    let failed = |e| durable::Error::io("read the folder", folder, e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let data = matches!(name.as_str(), "pre.db" | "post.db")
            || name.contains(".replaced.")
            || name.contains(".damaged.")
            || name.starts_with("undone.db");
        if data && let Ok(found_file) = entry.metadata() {
            found.push((entry.path(), found_file.len()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use plimsoll_core::ports::{Journal, Moment};
    use plimsoll_core::record::{Ending, Entry, Event};

    use super::*;

    fn ended(runs: &Runs, run: u32, files: &[&str]) {
        let mut journal = runs.create(run).unwrap();
        let event = Event::Ended { ending: Ending::Live, exit: 0, message: String::new(), hold_ms: 0, ms: 1 };
        journal.append(&Entry { seq: 0, at: String::new(), moment: Moment(0), event }).unwrap();
        for file in files {
            fs::write(runs.folder(run).join(file), b"12345").unwrap();
        }
    }

    #[test]
    fn the_newest_runs_keep_theirs_and_what_is_set_aside_stays() {
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::of(folder.path());
        ended(&runs, 1, &["pre.db", "post.db", "store.db.replaced.20260101_000000", "set-aside.db"]);
        ended(&runs, 2, &["pre.db", "post.db"]);
        ended(&runs, 3, &[]);
        ended(&runs, 4, &["pre.db", "post.db", "set-aside.db.sql"]);
        let fates = fates(&runs).unwrap();
        let kept: Vec<(u32, bool)> = fates.iter().map(|fate| (fate.run, fate.keep)).collect();
        assert_eq!(kept, [(1, false), (1, false), (1, false), (2, true), (2, true), (4, true), (4, true)]);
        assert_eq!(prune(&fates).unwrap().len(), 3);
        assert!(runs.folder(1).join("set-aside.db").exists() && runs.folder(2).join("pre.db").exists());
        assert!(!runs.folder(1).join("pre.db").exists());
    }

    #[test]
    fn what_an_open_run_has_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::of(folder.path());
        for run in 1..=3 {
            ended(&runs, run, &["pre.db", "post.db"]);
        }
        let mut journal = runs.create(4).unwrap();
        let event = Event::Warned { what: "open".into() };
        journal.append(&Entry { seq: 0, at: String::new(), moment: Moment(0), event }).unwrap();
        fs::write(runs.folder(4).join("pre.db"), b"1").unwrap();
        let fates = fates(&runs).unwrap();
        assert!(fates.iter().filter(|fate| fate.run == 4).all(|fate| fate.keep));
        assert!(fates.iter().filter(|fate| fate.run == 1).all(|fate| !fate.keep));
    }
}
