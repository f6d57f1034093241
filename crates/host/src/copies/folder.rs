//! Second copies in a folder: another disk, a NAS.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use super::{Copied, Error, note, states};
use crate::durable;
use crate::sqlite::manifest::{Manifest, State};
use crate::sqlite::partial::{Partial, leftovers, remove_with_sides, room};
use crate::sqlite::verify::hash_file;
use crate::sqlite::{Control, Error as Database};

/// Lies in every destination. A disk that is not mounted leaves an empty folder behind, and this is not in it.
pub(super) const MARKER: &str = ".plimsoll-copies";

/// Copies a verified backup to a folder, reads it back from there and compares; its manifest last.
pub(super) fn copy(
    backup: &Path,
    manifest: &Manifest,
    folder: &Path,
    new_disk: bool,
    control: &mut Control<'_>,
) -> Result<Copied, Error> {
    let not_verified = |why: &str| Error::NotVerified { path: backup.to_owned(), why: why.into() };
    let local = backup.parent().unwrap_or(Path::new("."));
    same_disk(local, folder, new_disk)?;
    let to = folder.join(&manifest.file);
    if to.symlink_metadata().is_ok() {
        let there = hash_file(&to, &control.stop)?;
        if there != (manifest.bytes, manifest.sha256.clone()) {
            return Err(Error::Other { path: to });
        }
        write_manifest(manifest, &to)?;
        return Ok(Copied {
            file: to.display().to_string(),
            bytes: manifest.bytes,
            was_there: true,
            took_ms: 0,
        });
    }
    for left in leftovers(folder, &manifest.file)? {
        remove_with_sides(&left);
    }
    room(folder, manifest.bytes + (1 << 20))?;
    let partial = Partial::new(folder, &manifest.file)?;
    if pour(backup, partial.path(), control)? != manifest.sha256 {
        return Err(not_verified("its hash is not that of its manifest"));
    }
    read_back(partial.path(), manifest, control)?;
    match partial.publish(&to)? {
        Ok(()) => {}
        Err(_) => return Err(Error::Other { path: to }),
    }
    // Without a manifest it counts for nothing and takes up room.
    write_manifest(manifest, &to).inspect_err(|_| remove_with_sides(&to))?;
    Ok(Copied { file: to.display().to_string(), bytes: manifest.bytes, was_there: false, took_ms: 0 })
}

/// A mount that has gone away leaves a folder on the wrong disk; filling that would be no second copy at all.
pub(super) fn same_disk(local: &Path, folder: &Path, new_disk: bool) -> Result<(), Error> {
    if !folder.is_dir() {
        return Err(Error::NoFolder { folder: folder.to_owned() });
    }
    let key = folder.display().to_string();
    let known = states(local)?.get(&key).map(|state| state.id.clone()).unwrap_or_default();
    let marker = folder.join(MARKER);
    let found = match fs::read_to_string(&marker) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(Database::io(&marker, "read", e).into()),
    };
    let not_it = |why: String| Error::NotMounted { folder: folder.to_owned(), why };
    match (known.as_str(), found) {
        (known, Some(found)) if known == found => Ok(()),
        // Several databases may share one destination: the first of them has marked it.
        (known, Some(found)) if known.is_empty() || new_disk => note(local, &key, |state| state.id = found),
        (_, Some(_)) => Err(not_it("its marker is another one".into())),
        (known, None) if known.is_empty() || new_disk => {
            let seed = format!("{} {} {}", Timestamp::now(), std::process::id(), folder.display());
            let id = hex::encode(&Sha256::digest(seed)[..16]);
            durable::write(&marker, durable::PRIVATE, format!("{id}\n").as_bytes())?;
            note(local, &key, |state| state.id = id)
        }
        (_, None) => Err(not_it(format!("{MARKER} is not in it"))),
    }
}

/// Copies and returns the SHA-256 of what was read.
fn pour(from: &Path, to: &Path, control: &Control<'_>) -> Result<String, Error> {
    let mut source = File::open(from).map_err(|e| Database::io(from, "read", e))?;
    let mut target = File::options().write(true).open(to).map_err(|e| Database::io(to, "write", e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        if control.stop.wanted() {
            return Err(Database::Stopped { doing: "copying the backup".into() }.into());
        }
        let read = source.read(&mut buffer).map_err(|e| Database::io(from, "read", e))?;
        if read == 0 {
            target.sync_all().map_err(|e| Database::io(to, "sync", e))?;
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        target.write_all(&buffer[..read]).map_err(|e| Database::io(to, "write", e))?;
    }
}

/// From the disk and not from memory, as far as the kernel lets go of it.
fn read_back(copy: &Path, manifest: &Manifest, control: &Control<'_>) -> Result<(), Error> {
    if let Ok(file) = File::open(copy) {
        // It is only advice: without it the reading proves less, and nothing is wrong.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
    let (bytes, sha256) = hash_file(copy, &control.stop)?;
    if (bytes, &sha256) == (manifest.bytes, &manifest.sha256) {
        return Ok(());
    }
    let differences = vec![format!("read back, it has SHA-256 {sha256} instead of {}", manifest.sha256)];
    Err(Database::CopyDiffers { path: copy.to_owned(), differences }.into())
}

fn write_manifest(manifest: &Manifest, to: &Path) -> Result<(), Error> {
    Ok(Manifest { state: manifest.state.max(State::Copied), ..manifest.clone() }.write(to)?)
}
