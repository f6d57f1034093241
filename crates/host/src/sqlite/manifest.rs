//! What is known about a backup, kept beside it. A backup without a manifest does not count.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::connection::beside;
use super::{Error, Fingerprint, JournalMode};
use crate::durable;

/// How far a backup has come. It is made as a partial file without a manifest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Read back and compared with its source.
    Verified,
    /// Also in a second place, read back there.
    Copied,
    /// Also restored once, in a drill.
    Drilled,
}

/// What is known about a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout of this file: 1.
    pub format: u32,
    /// How far the backup has come.
    pub state: State,
    /// The backup's file name.
    pub file: String,
    /// The database that it is a copy of.
    pub source: PathBuf,
    /// When its moment was, UTC.
    pub created_at: Timestamp,
    /// Why it was made: `manual`, `before-deploy`, `before-restore`...
    pub reason: String,
    /// The run that it belongs to.
    pub run: Option<String>,
    /// The size of the file.
    pub bytes: u64,
    /// The SHA-256 of the file.
    pub sha256: String,
    /// For a compressed file, size and SHA-256 of the database inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// In a bucket, the object that holds the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Bytes per page.
    pub page_size: u64,
    /// The source's journal mode, which a restore brings back.
    pub journal_mode: JournalMode,
    /// The SQLite that made it.
    pub sqlite: String,
    /// The version of this program.
    pub tool: String,
    /// The hash over the definitions of all objects.
    pub schema_sha256: String,
    /// What it holds.
    pub content: Fingerprint,
    /// How it was compared with its source: `content` (every value) or `counts`.
    pub compared: String,
    /// What could not be checked, and why. Empty for most databases.
    pub unchecked: Vec<String>,
    /// How long it took, verification included.
    pub took_ms: u64,
}

/// The database inside a compressed backup.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Inside {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

impl Manifest {
    /// The manifest's path for a backup.
    #[must_use]
    pub fn path_for(backup: &Path) -> PathBuf {
        beside(backup, ".json")
    }

    /// Reads the manifest of a backup; `None` when it has none.
    ///
    /// # Errors
    /// [`Error::Manifest`] when there is one that cannot be used.
    pub fn read(backup: &Path) -> Result<Option<Self>, Error> {
        let path = Manifest::path_for(backup);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::Manifest { path, why: e.to_string() }),
        };
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|e| Error::Manifest { path: path.clone(), why: e.to_string() })?;
        if manifest.format != 1 {
            let why = format!("it has format {}, and this version knows 1", manifest.format);
            return Err(Error::Manifest { path, why });
        }
        Ok(Some(manifest))
    }

    /// Writes the manifest of a backup, whole and synced, or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, backup: &Path) -> Result<(), Error> {
        let path = Manifest::path_for(backup);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Manifest { path: path.clone(), why: e.to_string() })?;
        durable::write(&path, durable::PRIVATE, format!("{text}\n").as_bytes())?;
        Ok(())
    }
}
