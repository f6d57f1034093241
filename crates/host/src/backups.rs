//! The catalogue of backups: their names, which of them count, and how long they are kept.
//!
//! Times come from manifests and names, never from the file system: copies keep or reset them.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::sqlite::Error;
use crate::sqlite::manifest::Manifest;
use crate::sqlite::{leftovers, partial::remove_with_sides};

/// The name of a backup: `<database>.backup.YYYYMMDD_HHMMSS`, UTC; `_2`, `_3`... for more in one second; `.zst` when
/// compressed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name {
    database: String,
    at: DateTime,
    nth: u32,
    compressed: bool,
}

const STAMP: &str = "%Y%m%d_%H%M%S";

impl Name {
    /// The first name of a moment.
    #[must_use]
    pub fn new(database: &str, at: Timestamp) -> Self {
        Name {
            database: database.to_owned(),
            at: at.to_zoned(TimeZone::UTC).datetime(),
            nth: 1,
            compressed: false,
        }
    }

    /// The next name of the same second.
    #[must_use]
    pub fn next(mut self) -> Self {
        self.nth += 1;
        self
    }

    /// The name of the compressed form.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.compressed = true;
        self
    }

    /// Reads the name of a backup of `database`; `None` for every other file.
    #[must_use]
    pub fn parse(file: &str, database: &str) -> Option<Self> {
        let rest = file.strip_prefix(database)?.strip_prefix(".backup.")?;
        let (rest, compressed) = rest.strip_suffix(".zst").map_or((rest, false), |rest| (rest, true));
        let (stamp, nth) = match rest.get(15..16) {
            None => (rest, 1),
            Some("_") => (rest.get(..15)?, rest[16..].parse().ok().filter(|nth| *nth >= 2)?),
            Some(_) => return None,
        };
        let at = DateTime::strptime(STAMP, stamp).ok()?;
        let name = Name { database: database.to_owned(), at, nth, compressed };
        // Only what would be written so is one: `strptime` is lenient.
        (name.to_string() == file).then_some(name)
    }

    /// The moment in the name.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        // UTC has neither gaps nor overlaps.
        self.at.to_zoned(TimeZone::UTC).map_or(Timestamp::MIN, |zoned| zoned.timestamp())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.backup.{}", self.database, self.at.strftime(STAMP))?;
        if self.nth > 1 {
            write!(f, "_{}", self.nth)?;
        }
        if self.compressed { f.write_str(".zst") } else { Ok(()) }
    }
}

/// One file of the catalogue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// Its name, which says when it was made.
    pub name: Name,
    /// Its size.
    pub bytes: u64,
    /// Its manifest; an error text when it has none or one that cannot be used.
    pub manifest: Result<Manifest, String>,
}

impl Entry {
    /// When it was made, UTC.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.manifest.as_ref().map_or_else(|_| self.name.at(), |manifest| manifest.created_at)
    }

    /// Whether it was verified when it was made and has the size of then. Proof is [`crate::sqlite::verify::backup`].
    #[must_use]
    pub fn verified(&self) -> bool {
        self.manifest.as_ref().is_ok_and(|manifest| manifest.bytes == self.bytes)
    }
}

/// All backups of `database` (a file name) in `folder`, oldest first. A missing folder holds none.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(folder: &Path, database: &str) -> Result<Vec<Entry>, Error> {
    let files = match fs::read_dir(folder) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder, "listing", e)),
    };
    let mut entries = Vec::new();
    for file in files {
        let file = file.map_err(|e| Error::io(folder, "listing", e))?;
        let Some(name) = file.file_name().to_str().and_then(|text| Name::parse(text, database)) else {
            continue;
        };
        let path = file.path();
        let found = fs::symlink_metadata(&path).map_err(|e| Error::io(&path, "looking at", e))?;
        if !found.is_file() {
            continue;
        }
        let manifest = match Manifest::read(&path) {
            Ok(Some(manifest)) => Ok(manifest),
            Ok(None) => Err("it has no manifest".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        entries.push(Entry { path, name, bytes: found.len(), manifest });
    }
    entries.sort_by(|a, b| (a.at(), a.name.nth).cmp(&(b.at(), b.name.nth)));
    Ok(entries)
}

/// The newest entry that counts.
#[must_use]
pub fn newest_verified(entries: &[Entry]) -> Option<&Entry> {
    entries.iter().rev().find(|entry| entry.verified())
}

/// How long backups are kept. What any rule keeps is kept.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Retention {
    /// Those of the last so many days.
    pub days: u32,
    /// The last so many.
    pub last: u32,
    /// The last one of each of so many days.
    pub daily: u32,
    /// The last one of each of so many ISO weeks.
    pub weekly: u32,
    /// The last one of each of so many months.
    pub monthly: u32,
}

/// What becomes of a backup, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fate {
    /// The file.
    pub path: PathBuf,
    /// Whether it stays.
    pub keep: bool,
    /// Why, in words.
    pub reason: String,
}

/// Decides the fate of each backup. `protected` are runs whose backups stay. Changes nothing.
#[must_use]
pub fn fates(entries: &[Entry], retention: &Retention, protected: &[String], now: Timestamp) -> Vec<Fate> {
    let newest = newest_verified(entries).map(|entry| entry.path.clone());
    let rules = Calendar::of(entries, retention);
    let decide = |place: usize, entry: &Entry| -> (bool, String) {
        let Ok(manifest) = &entry.manifest else {
            let why = entry.manifest.as_ref().err().map_or("", String::as_str);
            return (true, format!("kept: {why}, so it is not ours to judge"));
        };
        if newest.as_ref() == Some(&entry.path) {
            return (true, "kept: the newest verified backup".into());
        }
        if newest.is_none() {
            return (true, "kept: no backup is verified".into());
        }
        if let Some(run) = manifest.run.as_ref().filter(|run| protected.contains(run)) {
            return (true, format!("kept: run {run} may need it"));
        }
        if entry.at() > now {
            return (true, "kept: its time is in the future".into());
        }
        let age = now.duration_since(entry.at());
        if age < SignedDuration::from_hours(24 * i64::from(retention.days)) {
            return (true, format!("kept: younger than {} days", retention.days));
        }
        match &rules.0[place] {
            Some(reason) => (true, format!("kept: {reason}")),
            None => (false, format!("older than {} days, and no rule keeps it", retention.days)),
        }
    };
    entries
        .iter()
        .enumerate()
        .map(|(place, entry)| {
            let (keep, reason) = decide(place, entry);
            Fate { path: entry.path.clone(), keep, reason }
        })
        .collect()
}

/// What the counting rules keep, by place in the list.
struct Calendar(Vec<Option<String>>);

impl Calendar {
    fn of(entries: &[Entry], retention: &Retention) -> Self {
        let mut kept = Calendar(vec![None; entries.len()]);
        let day = |at: DateTime| at.strftime("%Y-%m-%d").to_string();
        kept.apply(entries, retention.last, "last", |_, place| place.to_string());
        kept.apply(entries, retention.daily, "daily", |at, _| day(at));
        kept.apply(entries, retention.weekly, "weekly", |at, _| at.strftime("%G-W%V").to_string());
        kept.apply(entries, retention.monthly, "monthly", |at, _| at.strftime("%Y-%m").to_string());
        kept
    }

    /// Keeps the last verified backup of each of the newest `count` periods that have one.
    fn apply(
        &mut self,
        entries: &[Entry],
        count: u32,
        rule: &str,
        period: impl Fn(DateTime, usize) -> String,
    ) {
        let mut seen: Vec<String> = Vec::new();
        for (place, entry) in entries.iter().enumerate().rev() {
            if !entry.verified() {
                continue;
            }
            let this = period(entry.at().to_zoned(TimeZone::UTC).datetime(), place);
            if seen.len() >= count as usize {
                return;
            }
            if !seen.contains(&this) {
                self.0[place].get_or_insert_with(|| format!("{rule} rule, {} of {count}", seen.len() + 1));
                seen.push(this);
            }
        }
    }
}

/// Removes what its fate does not keep, the manifest first so that a half removed backup does not count, and files in
/// the making whose owner is gone. Returns what was removed.
///
/// # Errors
/// When a file cannot be removed; those before it are gone.
pub fn prune(folder: &Path, database: &str, fates: &[Fate]) -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    for fate in fates.iter().filter(|fate| !fate.keep) {
        for path in [Manifest::path_for(&fate.path), fate.path.clone()] {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(&path, "removing", e)),
            }
        }
        removed.push(fate.path.clone());
    }
    for left in leftovers(folder, database)? {
        remove_with_sides(&left);
        removed.push(left);
    }
    Ok(removed)
}
