//! The migration files of a release.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::migrate::Error;
use super::script::canonical;

/// One migration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Migration {
    /// Its number, from the file's name.
    pub version: u64,
    /// Its description, from the file's name, with spaces for underscores.
    pub description: String,
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub sql: String,
    /// The SHA-256 of its text without comments and layout.
    pub checksum: String,
    /// The file that takes it back, when there is one.
    pub down: Option<Down>,
    /// Whether `sql` applies it or takes it back.
    pub direction: Direction,
}

/// Whether a migration is applied or taken back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// Its line is added to `schema_version`.
    Up,
    /// Its line is removed.
    Down,
}

/// How a migration is taken back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Down {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub sql: String,
}

/// The migrations of a folder.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Migrations {
    /// In the order of their numbers.
    pub all: Vec<Migration>,
    /// Versions that are missing between the first and the last: allowed, and named.
    pub gaps: Vec<u64>,
}

impl Migration {
    /// The migration that takes this one back: tried and applied like any other. `None` without a `.down.sql`.
    #[must_use]
    pub fn reversed(&self) -> Option<Migration> {
        let down = self.down.as_ref()?;
        Some(Migration {
            path: down.path.clone(),
            sql: down.sql.clone(),
            down: None,
            direction: Direction::Down,
            ..self.clone()
        })
    }

    /// The name of its file, for messages.
    #[must_use]
    pub fn file(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Reads the migrations of a folder: `NNNN_description.sql`, optionally `NNNN_description.down.sql`. Other files than
/// `.sql` are none of ours.
///
/// # Errors
/// A folder or file that cannot be read, a name that says no number, a number used twice, a `.down.sql` that belongs
/// to nothing; each names the file.
pub fn load(folder: &Path) -> Result<Migrations, Error> {
    let unreadable = |path: &Path, e: io::Error| Error::File { path: path.to_owned(), why: e.to_string() };
    let mut paths = fs::read_dir(folder)
        .map_err(|e| unreadable(folder, e))?
        .map(|entry| entry.map(|found| found.path()).map_err(|e| unreadable(folder, e)))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    let mut found: BTreeMap<u64, Migration> = BTreeMap::new();
    let mut downs = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hidden = name.starts_with('.');
        let Some(stem) = name.strip_suffix(".sql").filter(|_| !hidden && path.is_file()) else { continue };
        let (stem, is_down) = stem.strip_suffix(".down").map_or((stem, false), |stem| (stem, true));
        let (version, description) = parts(stem).ok_or_else(|| Error::File {
            path: path.clone(),
            why: "its name is not NNNN_description.sql".into(),
        })?;
        let bytes = fs::read(&path).map_err(|e| unreadable(&path, e))?;
        let sql = String::from_utf8(bytes)
            .map_err(|e| Error::File { path: path.clone(), why: format!("it is not UTF-8: {e}") })?;
        let sql = sql.strip_prefix('\u{feff}').map_or(sql.clone(), str::to_owned);
        if is_down {
            downs.push((version, Down { path, sql }));
            continue;
        }
        let checksum = hex::encode(Sha256::digest(canonical(&sql)));
        let migration =
            Migration { version, description, path, sql, checksum, down: None, direction: Direction::Up };
        if let Some(other) = found.get(&version) {
            return Err(Error::Duplicate { version, first: other.path.clone(), second: migration.path });
        }
        found.insert(version, migration);
    }
    for (version, down) in downs {
        let Some(migration) = found.get_mut(&version) else {
            return Err(Error::File { path: down.path, why: format!("there is no migration {version}") });
        };
        if migration.down.is_some() {
            let first = migration.path.clone();
            return Err(Error::Duplicate { version, first, second: down.path });
        }
        migration.down = Some(down);
    }
    let all: Vec<Migration> = found.into_values().collect();
    // A number that looks like a date has no neighbours: only small steps are gaps.
    let gaps = all
        .windows(2)
        .filter(|pair| pair[1].version - pair[0].version <= 100)
        .flat_map(|pair| pair[0].version + 1..pair[1].version)
        .collect();
    Ok(Migrations { all, gaps })
}

fn parts(stem: &str) -> Option<(u64, String)> {
    let (number, description) = stem.split_once(['_', '-'])?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    // schema_version holds SQLite integers.
    let version = number.parse::<u64>().ok().filter(|v| digits && i64::try_from(*v).is_ok())?;
    (!description.is_empty()).then(|| (version, description.replace('_', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn files_come_in_the_order_of_their_numbers_and_gaps_are_named() {
        let dir = folder(&[
            ("0010_ten.sql", "SELECT 10"),
            ("0002_add_note.sql", "SELECT 2"),
            ("0002_add_note.down.sql", "SELECT -2"),
            ("1_first.sql", "SELECT 1"),
            ("README.md", "not a migration"),
        ]);
        let loaded = load(dir.path()).unwrap();
        assert_eq!(loaded.all.iter().map(|m| m.version).collect::<Vec<_>>(), [1, 2, 10]);
        assert_eq!(loaded.all[1].description, "add note");
        assert_eq!(loaded.all[1].down.as_ref().unwrap().sql, "SELECT -2");
        assert_eq!(loaded.gaps, [3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_name_without_a_number_a_number_twice_and_a_lone_down_file_are_errors_that_name_the_file() {
        for (files, word) in [
            (vec![("add_note.sql", "")], "add_note.sql"),
            (vec![("0001_a.sql", ""), ("1_b.sql", "")], "1_b.sql"),
            (vec![("0003_a.down.sql", "")], "0003_a.down.sql"),
        ] {
            let dir = folder(&files);
            let error = load(dir.path()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_checksum_ignores_byte_order_mark_line_endings_and_comments() {
        let one = folder(&[("0001_a.sql", "\u{feff}CREATE TABLE a (b); -- hm\r\n")]);
        let two = folder(&[("0001_a.sql", "CREATE TABLE a (b);\n")]);
        let three = folder(&[("0001_a.sql", "CREATE TABLE a (c);\n")]);
        let sum = |dir: &tempfile::TempDir| load(dir.path()).unwrap().all[0].checksum.clone();
        assert_eq!(sum(&one), sum(&two));
        assert_ne!(sum(&one), sum(&three));
    }
}
