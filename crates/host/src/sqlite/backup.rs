//! Making a backup that can be trusted: copied, read back, compared, named, and only then counted.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

use super::connection::open_finished;
use super::control::{Control, Phase};
use super::copy::copy_and;
use super::fingerprint::{Depth, Known, interrupted};
use super::manifest::{Manifest, State};
use super::partial::{MARK, Partial, leftovers, remove_with_sides, sync_folder_of};
use super::verify::{hash_file, integrity};
use super::{Error, Fingerprint, JournalMode, Limits};
use crate::backups::Name;

/// What to back up, where to, and why.
#[derive(Clone, Debug)]
pub struct Request {
    /// The live database.
    pub database: PathBuf,
    /// The folder for backups; made when it is missing.
    pub folder: PathBuf,
    /// Why: `manual`, `before-deploy`, `before-restore`...
    pub reason: String,
    /// The run that it belongs to.
    pub run: Option<String>,
    /// How far reading may go at the app's expense.
    pub limits: Limits,
}

impl Request {
    /// A backup with the usual limits.
    #[must_use]
    pub fn new(database: impl Into<PathBuf>, folder: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Request {
            database: database.into(),
            folder: folder.into(),
            reason: reason.into(),
            run: None,
            limits: Limits::default(),
        }
    }
}

/// A verified backup.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The file.
    pub path: PathBuf,
    /// What is known about it.
    pub manifest: Manifest,
}

/// Backs up a live database: a consistent copy, read back and compared with what the source held in the same
/// transaction, named by its moment, its manifest written last, `LATEST` pointed at it.
///
/// # Errors
/// As [`super::copy::copy`]; [`Error::Corrupt`] when the source is damaged; [`Error::CopyDiffers`]. There is then no
/// new backup, and the others are as they were.
pub fn create(request: &Request, control: &mut Control<'_>) -> Result<Backup, Error> {
    let started = Instant::now();
    let created_at = Timestamp::now();
    let source = &request.database;
    let database = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&request.folder)
        .map_err(|e| Error::io(&request.folder, "creating", e))?;
    for left in leftovers(&request.folder, &database)? {
        remove_with_sides(&left);
    }
    let partial = Partial::new(&request.folder, &database)?;
    let (copied, seen) =
        copy_and(source, &partial, &request.limits, control, &mut |from, mode, attempt, control| {
            // Reading every row keeps the transaction open longer. With a rollback journal that keeps writers from
            // committing, and after two attempts given up for the writers' sake counting must do.
            let depth = if mode == JournalMode::Wal && attempt <= 2 { Depth::Content } else { Depth::Counts };
            Ok((Fingerprint::read(from, depth, control)?, depth))
        })?;
    let (seen, depth) = seen;
    let (bytes, sha256) = hash_file(partial.path(), &control.stop)?;
    let (content, unchecked) = read_back(source, partial.path(), control)?;
    let differences = seen.differences(&content);
    if !differences.is_empty() {
        let differences = differences.iter().map(ToString::to_string).collect();
        return Err(Error::CopyDiffers { path: source.clone(), differences });
    }
    let (name, path) = publish(partial, &request.folder, &database, created_at)?;
    let manifest = Manifest {
        format: 1,
        state: State::Verified,
        file: name.clone(),
        source: std::path::absolute(source).unwrap_or_else(|_| source.clone()),
        created_at,
        reason: request.reason.clone(),
        run: request.run.clone(),
        bytes,
        sha256,
        inside: None,
        page_size: copied.page_size,
        journal_mode: copied.mode,
        sqlite: rusqlite::version().to_owned(),
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        schema_sha256: content.schema_hash(),
        content,
        compared: if depth == Depth::Content { "content" } else { "counts" }.to_owned(),
        unchecked,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    if let Err(e) = manifest.write(&path) {
        // A backup without a manifest would look like one that somebody else put there.
        remove_with_sides(&path);
        return Err(e);
    }
    point_latest(&request.folder, &database, &name)?;
    Ok(Backup { path, manifest })
}

/// Reads the finished copy as a stranger would.
fn read_back(
    source: &Path,
    copy: &Path,
    control: &mut Control<'_>,
) -> Result<(Fingerprint, Vec<String>), Error> {
    let mut connection = open_finished(copy)?;
    control.stop.interrupts(&mut connection);
    control.tell(Phase::Checking, 0, 0, "pages");
    let mut unchecked = Vec::new();
    match integrity(&connection).map_err(|e| interrupted(source, &e, &control.stop))? {
        Known::Is(problems) if problems.is_empty() => {}
        Known::Is(problems) => {
            return Err(Error::Corrupt { path: source.to_owned(), why: problems.join("; ") });
        }
        Known::Unknown(why) => unchecked.push(format!("integrity: could not be checked, app-defined: {why}")),
    }
    let content = Fingerprint::read(&connection, Depth::Content, control)
        .map_err(|e| interrupted(source, &e, &control.stop))?;
    if let Known::Unknown(why) = &content.fk_violations {
        unchecked.push(format!("foreign keys: {why}"));
    }
    Ok((content, unchecked))
}

/// Gives the file the first free name of its second.
fn publish(
    mut partial: Partial,
    folder: &Path,
    database: &str,
    at: Timestamp,
) -> Result<(String, PathBuf), Error> {
    let mut name = Name::new(database, at);
    loop {
        let text = name.to_string();
        let path = folder.join(&text);
        match partial.publish(&path)? {
            Ok(()) => return Ok((text, path)),
            Err(again) => {
                partial = again;
                name = name.next();
            }
        }
    }
}

/// Points `<database>.backup.LATEST` at a backup, atomically.
fn point_latest(folder: &Path, database: &str, name: &str) -> Result<(), Error> {
    let latest = folder.join(format!("{database}.backup.LATEST"));
    let beside = folder.join(format!("{database}.backup.LATEST{MARK}{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    symlink(name, &beside)
        .and_then(|()| fs::rename(&beside, &latest))
        .map_err(|e| Error::io(&latest, "pointing", e))?;
    sync_folder_of(&latest)
}
