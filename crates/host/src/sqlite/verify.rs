//! Whether a backup or a database is sound, as a list of observations.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use plimsoll_core::check::Verdict;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::compressed;
use super::connection::{open_finished, open_read, quoted};
use super::control::{Control, Phase};
use super::error::{app_defined, message};
use super::fingerprint::{Hashing, Known, Reading, interrupted};
use super::inspection::{Left, Seen, inspect};
use super::manifest::Manifest;
use super::partial::Partial;
use super::{Error, Fingerprint, Stop};

/// One observation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: `readable`, `hash`, `integrity`, `foreign keys`, `schema`, `content`.
    pub name: String,
    /// What was seen.
    pub verdict: Verdict,
    /// In words.
    pub detail: String,
}

/// All observations of one file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which they were made.
    pub findings: Vec<Finding>,
    /// What the database holds, when it could be read.
    pub content: Option<Fingerprint>,
}

impl Report {
    /// Whether nothing failed. Things that could not be checked are no failures: see [`Report::unchecked`].
    #[must_use]
    pub fn sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Fail)
    }

    /// What failed, in words.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.with(Verdict::Fail)
    }

    /// What could not be checked, in words.
    #[must_use]
    pub fn unchecked(&self) -> Vec<String> {
        self.with(Verdict::Unknown)
    }

    fn with(&self, verdict: Verdict) -> Vec<String> {
        let wanted = self.findings.iter().filter(|finding| finding.verdict == verdict);
        wanted.map(|finding| format!("{}: {}", finding.name, finding.detail)).collect()
    }

    fn add(&mut self, name: &str, verdict: Verdict, detail: impl Into<String>) {
        self.findings.push(Finding { name: name.into(), verdict, detail: detail.into() });
    }

    fn new() -> Self {
        Report { findings: Vec::new(), content: None }
    }
}

/// Verifies a backup against its manifest; without one, says what SQLite itself can tell.
///
/// # Errors
/// [`Error::Absent`], [`Error::Manifest`], [`Error::Io`], [`Error::Stopped`], [`Error::Deadline`]. A damaged backup
/// is no error but a report that says so.
pub fn backup(path: &Path, control: &mut Control<'_>) -> Result<Report, Error> {
    let manifest = Manifest::read(path)?;
    let mut report = Report::new();
    let (bytes, sha256) = hash_file(path, &control.stop)?;
    match &manifest {
        None => report.add("hash", Verdict::Unknown, "there is no manifest to compare with"),
        Some(m) if m.bytes != bytes => {
            report.add("hash", Verdict::Fail, format!("{bytes} bytes instead of {}", m.bytes));
        }
        Some(m) if m.sha256 != sha256 => {
            report.add("hash", Verdict::Fail, format!("SHA-256 {sha256} instead of {}", m.sha256));
        }
        Some(_) => report.add("hash", Verdict::Pass, format!("SHA-256 {sha256}")),
    }
    let plain = if compressed::is(path) {
        let bytes = manifest.as_ref().and_then(|m| m.inside.as_ref()).map(|inside| inside.bytes);
        match compressed::unpack(path, bytes, &control.stop) {
            Ok(plain) => Some(plain),
            Err(Error::Corrupt { why, .. }) => {
                report.add("readable", Verdict::Fail, why);
                return Ok(report);
            }
            Err(other) => return Err(other),
        }
    } else {
        None
    };
    let file = plain.as_ref().map_or(path, Partial::path);
    let hashing = manifest.as_ref().map_or(Hashing::Fast, |manifest| manifest.content.hashing());
    examine(open_finished(file), file, true, hashing, &mut report, control)?;
    if let (Some(manifest), Some(content)) = (&manifest, &report.content) {
        let found = manifest.content.differences(content);
        let verdict = if found.is_empty() { Verdict::Pass } else { Verdict::Fail };
        let words: Vec<String> = found.iter().map(ToString::to_string).collect();
        let detail =
            if found.is_empty() { "as recorded in the manifest".to_owned() } else { words.join("; ") };
        report.add("content", verdict, detail);
    }
    Ok(report)
}

/// The health of a database, live or not. Reads only; leaves no file beside one at rest.
///
/// # Errors
/// [`Error::Absent`], [`Error::Unreadable`], [`Error::Busy`], [`Error::Stopped`], [`Error::Deadline`]. Damage is no
/// error but a report that says so.
pub fn database(path: &Path, control: &mut Control<'_>) -> Result<Report, Error> {
    let mut report = Report::new();
    examine(open_read(path), path, false, Hashing::Fast, &mut report, control)?;
    Ok(report)
}

/// What SQLite can tell about a file.
fn examine(
    opened: Result<Connection, Error>,
    path: &Path,
    finished: bool,
    hashing: Hashing,
    report: &mut Report,
    control: &mut Control<'_>,
) -> Result<(), Error> {
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(e @ (Error::NotADatabase { .. } | Error::Corrupt { .. } | Error::Sqlite { .. })) => {
            report.add("readable", Verdict::Fail, e.to_string());
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    control.stop.interrupts(&mut connection);
    control.tell(Phase::Checking, 0, 0, "pages");
    let failed = |e: rusqlite::Error| interrupted(path, &e, &control.stop);
    // One moment for all of it, also while an app writes.
    let transaction = connection.unchecked_transaction().map_err(failed)?;
    report.add("readable", Verdict::Pass, "opened read-only");
    // Only a finished file may be read past SQLite.
    let seen = if finished { inspect(path, &transaction, hashing, control)? } else { None };
    let failed = |e: rusqlite::Error| interrupted(path, &e, &control.stop);
    let (verdict, detail) = match integrity_of_rest(&transaction, seen.as_ref()) {
        Ok(Known::Is(problems)) if problems.is_empty() => (Verdict::Pass, "ok".to_owned()),
        Ok(Known::Is(problems)) => (Verdict::Fail, problems.join("; ")),
        Ok(Known::Unknown(why)) => (Verdict::Unknown, format!("could not be checked, app-defined: {why}")),
        Err(e) => match failed(e) {
            Error::Corrupt { why, .. } | Error::Sqlite { why, .. } => (Verdict::Fail, why),
            other => return Err(other),
        },
    };
    report.add("integrity", verdict, detail);
    let reading = Reading { rows: Some(hashing), foreign_keys: true };
    match Fingerprint::read_rest(&transaction, reading, seen.as_ref(), control) {
        Ok(content) => {
            match &content.fk_violations {
                Known::Is(0) => report.add("foreign keys", Verdict::Pass, "no violations"),
                // Not wrong in itself: many databases have had some for years. Against a manifest they are compared.
                Known::Is(n) => report.add("foreign keys", Verdict::Skipped, format!("{n} violations")),
                Known::Unknown(why) => report.add("foreign keys", Verdict::Unknown, why.clone()),
            }
            report.content = Some(content);
        }
        Err(e) => match interrupted(path, &e, &control.stop) {
            // Damage may also show as a type that cannot be there.
            Error::Corrupt { why, .. } | Error::Sqlite { why, .. } => {
                report.add("content", Verdict::Fail, why);
            }
            Error::AppDefined { why, .. } => report.add("content", Verdict::Unknown, why),
            other => return Err(other),
        },
    }
    Ok(())
}

/// What SQLite complains about in that which was not seen to be sound already.
pub(crate) fn integrity_of_rest(
    connection: &Connection,
    seen: Option<&Seen>,
) -> rusqlite::Result<Known<Vec<String>>> {
    let Some(seen) = seen else { return integrity(connection) };
    let (mut all, mut unknown) = (Vec::new(), None);
    for (table, left) in &seen.left {
        let pragma = if *left == Left::Indexes { "integrity_check" } else { "quick_check" };
        match integrity_by(connection, &format!("PRAGMA {pragma}({})", quoted(table)))? {
            Known::Is(problems) => all.extend(problems),
            Known::Unknown(why) => unknown = Some(why),
        }
    }
    Ok(unknown.filter(|_| all.is_empty()).map_or(Known::Is(all), Known::Unknown))
}

/// What `integrity_check` complains about; empty when it is content.
///
/// # Errors
/// What SQLite said, except when it cannot judge for want of an app-defined collation or function.
pub fn integrity(connection: &Connection) -> rusqlite::Result<Known<Vec<String>>> {
    integrity_by(connection, "PRAGMA integrity_check(20)")
}

fn integrity_by(connection: &Connection, pragma: &str) -> rusqlite::Result<Known<Vec<String>>> {
    let check = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(pragma)?;
        let lines = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    };
    match check() {
        Ok(problems) => match problems.iter().find(|problem| app_defined(problem)) {
            Some(why) => Ok(Known::Unknown(why.clone())),
            None => Ok(Known::Is(problems)),
        },
        Err(e) if app_defined(&message(&e)) => Ok(Known::Unknown(message(&e))),
        Err(e) => Err(e),
    }
}

/// Size and SHA-256 of a finished file. Never for a live database.
pub(crate) fn hash_file(path: &Path, stop: &Stop) -> Result<(u64, String), Error> {
    let mut file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Absent { path: path.to_owned() },
        _ => Error::io(path, "read", e),
    })?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        stop.check("hashing the file")?;
        let read = file.read(&mut buffer).map_err(|e| Error::io(path, "read", e))?;
        if read == 0 {
            return Ok((bytes, hex::encode(hasher.finalize())));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sqlite::backup::{Request, create};

    fn database(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("store.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, price INT);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
                 INSERT INTO products SELECT i, 'product ' || i, i * 7 FROM n;",
            )
            .unwrap();
        path
    }

    #[test]
    fn a_sound_database_passes_and_no_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let report = super::database(&path, &mut Control::default()).unwrap();
        assert!(report.sound(), "{report:?}");
        assert_eq!(report.content.unwrap().tables["products"].rows, 200);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_database_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        assert!(matches!(super::database(&path, &mut Control::default()), Err(Error::Absent { .. })));
        assert!(!path.exists());
    }

    /// `integrity_check` alone finds 88 % of these: a changed total in a row is valid to SQLite.
    #[test]
    fn every_flipped_bit_is_found() {
        flipped(plimsoll_testkit::soak::rounds(400, 1_000));
    }

    fn flipped(times: usize) {
        let dir = tempfile::tempdir().unwrap();
        let source = database(dir.path());
        let made = create(&Request::new(&source, dir.path(), "test"), &mut Control::default()).unwrap();
        let good = fs::read(&made.path).unwrap();
        let bits = good.len() * 8;
        // A walk over the whole file in steps without a common factor with it, so that every region is met.
        for place in (0..times).map(|n| n * (bits / times) + n % 8) {
            let mut bad = good.clone();
            bad[place / 8] ^= 1 << (place % 8);
            fs::write(&made.path, &bad).unwrap();
            let report = backup(&made.path, &mut Control::default()).unwrap();
            assert!(!report.sound(), "bit {place} was not found");
        }
        fs::write(&made.path, &good).unwrap();
        assert!(backup(&made.path, &mut Control::default()).unwrap().sound());
    }

    #[test]
    fn a_truncated_or_exchanged_backup_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let source = database(dir.path());
        let made = create(&Request::new(&source, dir.path(), "test"), &mut Control::default()).unwrap();
        let good = fs::read(&made.path).unwrap();
        fs::write(&made.path, &good[..good.len() / 2]).unwrap();
        assert!(!backup(&made.path, &mut Control::default()).unwrap().sound());
        fs::write(&made.path, b"").unwrap();
        assert!(!backup(&made.path, &mut Control::default()).unwrap().sound());
        // Another sound database under this name.
        fs::remove_file(&made.path).unwrap();
        Connection::open(&made.path).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
        let report = backup(&made.path, &mut Control::default()).unwrap();
        assert!(report.failures().iter().any(|f| f.contains("products")), "{report:?}");
    }

    #[test]
    fn without_a_manifest_the_hash_is_unknown_and_the_rest_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let source = database(dir.path());
        let made = create(&Request::new(&source, dir.path(), "test"), &mut Control::default()).unwrap();
        fs::remove_file(Manifest::path_for(&made.path)).unwrap();
        let report = backup(&made.path, &mut Control::default()).unwrap();
        assert!(report.sound());
        assert_eq!(report.unchecked(), ["hash: there is no manifest to compare with"]);
    }
}
