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
        // The name knows seconds.
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at).to_zoned(TimeZone::UTC).datetime();
        Name { database: database.to_owned(), at, nth: 1, compressed: false }
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
        Err(e) => return Err(Error::io(folder, "list", e)),
    };
    let mut entries = Vec::new();
    for file in files {
        let file = file.map_err(|e| Error::io(folder, "list", e))?;
        let Some(name) = file.file_name().to_str().and_then(|text| Name::parse(text, database)) else {
            continue;
        };
        let path = file.path();
        let found = fs::symlink_metadata(&path).map_err(|e| Error::io(&path, "look at", e))?;
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
    entries.sort_by_key(|entry| (entry.at(), entry.name.nth));
    Ok(entries)
}

/// How far two clocks may be apart before a backup's time is wrong.
const CLOCKS: SignedDuration = SignedDuration::from_hours(24);

/// Whether it says that it was made on a day that has not come: the clock was wrong then, or is now.
fn is_ahead(entry: &Entry, now: Timestamp) -> bool {
    entry.at().duration_since(now) > CLOCKS
}

/// The newest entry that counts. One of a day that has not come would stand in front of every later one, for years;
/// it is the newest only when there is no other.
#[must_use]
pub fn newest_verified(entries: &[Entry], now: Timestamp) -> Option<&Entry> {
    let verified = || entries.iter().rev().filter(|entry| entry.verified());
    verified().find(|entry| !is_ahead(entry, now)).or_else(|| verified().next())
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
    let newest = newest_verified(entries, now).map(|entry| entry.path.clone());
    let rules = Calendar::of(entries, retention, now);
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
    fn of(entries: &[Entry], retention: &Retention, now: Timestamp) -> Self {
        let mut kept = Calendar(vec![None; entries.len()]);
        let day = |at: DateTime| at.strftime("%Y-%m-%d").to_string();
        // What is of a day that has not come is kept anyway, and takes the place of no other.
        let come = &entries[..entries.partition_point(|entry| !is_ahead(entry, now))];
        kept.apply(come, retention.last, "last", |_, place| place.to_string());
        kept.apply(come, retention.daily, "daily", |at, _| day(at));
        kept.apply(come, retention.weekly, "weekly", |at, _| at.strftime("%G-W%V").to_string());
        kept.apply(come, retention.monthly, "monthly", |at, _| at.strftime("%Y-%m").to_string());
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
                Err(e) => return Err(Error::io(&path, "remove", e)),
            }
        }
        removed.push(fate.path.clone());
    }
    for left in leftovers(folder, database)? {
        remove_with_sides(&left);
        removed.push(left.to_path_buf());
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::Control;
    use crate::sqlite::backup::{Request, create};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let first = Name::new("store.db", at("2026-03-09T07:05:09.7Z"));
        assert_eq!(first.to_string(), "store.db.backup.20260309_070509");
        for name in [first.clone(), first.clone().next(), first.clone().next().next().compressed()] {
            assert_eq!(Name::parse(&name.to_string(), "store.db"), Some(name));
        }
        assert_eq!(first.at(), at("2026-03-09T07:05:09Z"));
        for other in [
            "store.db.backup.LATEST",
            "store.db.backup.20260309_070509.json",
            "store.db.backup.20260309_070509_1",
            "store.db.backup.20260309_070509_02",
            "store.db.backup.20261309_070509",
            "store.db.backup.2026309_070509",
            "store.db.backup.20260309_070509_",
            "other.db.backup.20260309_070509",
            "store.db.backup.20260309_070509ä",
        ] {
            assert_eq!(Name::parse(other, "store.db"), None, "{other}");
        }
    }

    /// A folder with one real backup, given other times: what counts is the manifest and nothing of the file system.
    fn catalogue(times: &[&str]) -> (tempfile::TempDir, Vec<Entry>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1);")
            .unwrap();
        let folder = dir.path().join("backups");
        let made = create(&Request::new(&path, &folder, "test"), &mut Control::default()).unwrap();
        for time in times {
            let name = Name::new("store.db", at(time)).to_string();
            fs::copy(&made.path, folder.join(&name)).unwrap();
            let mut manifest = made.manifest.clone();
            (manifest.created_at, manifest.file, manifest.run) =
                (at(time), name.clone(), Some((*time).to_owned()));
            manifest.write(&folder.join(&name)).unwrap();
        }
        fs::remove_file(&made.path).unwrap();
        fs::remove_file(Manifest::path_for(&made.path)).unwrap();
        let entries = list(&folder, "store.db").unwrap();
        (dir, entries)
    }

    fn kept(fates: &[Fate]) -> Vec<String> {
        let stamp = |fate: &Fate| fate.path.to_string_lossy().rsplit('.').next().unwrap().to_owned();
        fates.iter().filter(|fate| fate.keep).map(stamp).collect()
    }

    const DAYS: [&str; 6] = [
        "2026-01-05T10:00:00Z",
        "2026-01-31T10:00:00Z",
        "2026-02-10T08:00:00Z",
        "2026-02-10T20:00:00Z",
        "2026-02-11T10:00:00Z",
        "2026-02-12T10:00:00Z",
    ];

    #[test]
    fn the_order_is_that_of_the_recorded_times() {
        let mut shuffled = DAYS;
        shuffled.reverse();
        let (_dir, entries) = catalogue(&shuffled);
        assert_eq!(entries.iter().map(Entry::at).collect::<Vec<_>>(), DAYS.map(at));
        assert_eq!(newest_verified(&entries, at("2026-02-13T00:00:00Z")).unwrap().at(), at(DAYS[5]));
    }

    #[test]
    fn old_ones_go_and_each_fate_has_its_reason() {
        let (_dir, entries) = catalogue(&DAYS);
        let now = at("2026-02-13T00:00:00Z");
        let days = Retention { days: 2, ..Retention::default() };
        let decided = fates(&entries, &days, &[DAYS[0].to_owned()], now);
        assert_eq!(kept(&decided), ["20260105_100000", "20260211_100000", "20260212_100000"]);
        assert!(decided[0].reason.contains("run 2026-01-05"), "{decided:?}");
        assert!(decided.iter().all(|fate| !fate.reason.is_empty()));
        let calendar = Retention { days: 0, last: 2, daily: 3, weekly: 0, monthly: 2 };
        let decided = fates(&entries, &calendar, &[], now);
        assert_eq!(
            kept(&decided),
            ["20260131_100000", "20260210_200000", "20260211_100000", "20260212_100000"]
        );
    }

    #[test]
    fn the_newest_verified_one_is_never_pruned_and_nothing_is_when_none_is_verified() {
        let (dir, entries) = catalogue(&DAYS[..3]);
        let now = at("2030-01-01T00:00:00Z");
        let none = Retention::default();
        assert_eq!(kept(&fates(&entries, &none, &[], now)), ["20260210_080000"]);
        // The newest is cut off: it does not count, and the one before it stays in its place.
        fs::write(&entries[2].path, "short").unwrap();
        let folder = dir.path().join("backups");
        let again = list(&folder, "store.db").unwrap();
        assert_eq!(kept(&fates(&again, &none, &[], now)), ["20260131_100000"]);
        for entry in &again {
            fs::remove_file(Manifest::path_for(&entry.path)).unwrap();
        }
        let bare = list(&folder, "store.db").unwrap();
        assert_eq!(kept(&fates(&bare, &none, &[], now)).len(), 3);
    }

    #[test]
    fn pruning_removes_the_backup_with_its_manifest_and_nothing_else() {
        let (dir, entries) = catalogue(&DAYS);
        let folder = dir.path().join("backups");
        fs::write(folder.join("store.db.partial-1-1"), "left").unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        let decided = fates(&entries, &Retention::default(), &[], at("2030-01-01T00:00:00Z"));
        assert_eq!(prune(&folder, "store.db", &decided).unwrap().len(), 6);
        let mut left: Vec<String> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let newest = "store.db.backup.20260212_100000";
        assert_eq!(left, ["notes.txt", newest, &format!("{newest}.json"), "store.db.backup.LATEST"]);
    }

    /// A clock that ran ahead for a day: its backup was "the newest" for years, and the real newest one could be pruned.
    #[test]
    fn a_backup_of_a_day_that_has_not_come_stands_in_front_of_no_other() {
        let (_dir, entries) =
            catalogue(&["2026-01-05T10:00:00Z", "2026-01-06T10:00:00Z", "2031-01-05T10:00:00Z"]);
        let now = at("2026-03-01T00:00:00Z");
        assert_eq!(newest_verified(&entries, now).unwrap().at(), at("2026-01-06T10:00:00Z"));
        let last = Retention { last: 2, ..Retention::default() };
        assert_eq!(kept(&fates(&entries, &last, &[], now)).len(), 3);
        let none = Retention::default();
        assert_eq!(kept(&fates(&entries, &none, &[], now)), ["20260106_100000", "20310105_100000"]);
        assert_eq!(newest_verified(&entries[2..], now).unwrap().at(), at("2031-01-05T10:00:00Z"));
        // The clocks of two machines are never the same.
        let almost = at("2026-01-06T09:00:00Z");
        assert_eq!(newest_verified(&entries[..2], almost).unwrap().at(), at("2026-01-06T10:00:00Z"));
    }

    #[test]
    fn a_backup_from_the_future_and_one_with_a_foreign_manifest_are_kept() {
        let (dir, _) = catalogue(&["2026-01-05T10:00:00Z", "2031-01-05T10:00:00Z", "2026-01-06T10:00:00Z"]);
        let folder = dir.path().join("backups");
        fs::write(folder.join("store.db.backup.20260106_100000.json"), "{\"format\": 2}").unwrap();
        let entries = list(&folder, "store.db").unwrap();
        let decided = fates(&entries, &Retention::default(), &[], at("2030-01-01T00:00:00Z"));
        assert_eq!(kept(&decided), ["20260105_100000", "20260106_100000", "20310105_100000"]);
    }
}
