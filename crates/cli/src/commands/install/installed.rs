//! What was written into the system: noted, so that only that is taken away, and only while it is still as it was.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use plimsoll_host::durable;
use serde::{Deserialize, Serialize};

use super::units::UnitFile;
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::follow;
use crate::ui::Ui;

/// Who starts `serve`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Manager {
    /// Its units.
    Systemd,
    /// Those of a user's own systemd.
    #[serde(rename = "systemd-user")]
    SystemdUser,
    /// A program of its own.
    Supervisor,
}

/// What was written, kept in `runs/installed.json`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Installed {
    /// Who starts it.
    pub(super) manager: Manager,
    /// All of them.
    pub(super) files: Vec<UnitFile>,
}

/// Where it is noted what was written.
pub(super) fn record_path(config: &Config) -> PathBuf {
    config.runs().join("installed.json")
}

/// What was written, if anything was.
pub(super) fn record(config: &Config) -> Result<Option<Installed>, Error> {
    let path = record_path(config);
    let unreadable = |why: String| {
        Error::failed(format!("cannot read {}", path.display()))
            .why(why)
            .state("nothing was changed")
            .next("it names the files that were installed; mend it, or remove it and them by hand")
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| unreadable(e.to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(e.to_string())),
    }
}

/// Notes what is written.
pub(super) fn keep(config: &Config, installed: &Installed) -> Result<(), Error> {
    let failed = |e: durable::Error| follow::plain(e.into());
    let text = serde_json::to_string_pretty(installed)
        .map_err(|e| Error::new(Kind::Bug, "what is installed cannot be noted").why(e.to_string()))?;
    if !config.runs().exists() {
        durable::create_dir(&config.runs(), durable::PRIVATE_DIR).map_err(failed)?;
        // Made by root, for a `serve` that runs as the owner of the app's root.
        let given = std::fs::metadata(&config.app.root)
            .and_then(|root| std::os::unix::fs::chown(config.runs(), Some(root.uid()), Some(root.gid())));
        given.map_err(|e| failed(durable::Error::io("change the owner of", &config.runs(), e)))?;
    }
    durable::write(&record_path(config), durable::PRIVATE, text.as_bytes()).map_err(failed)
}

/// Removes files that are still as they were written, and a drop-in folder that is empty then. Returns the others.
pub(super) fn take_away(files: &[UnitFile], ui: &Ui) -> Result<Vec<UnitFile>, Error> {
    let mut left = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file.path) else { continue };
        if text != file.text {
            ui.warn(&format!("{} was changed since; it stays", file.path.display()));
            left.push(file.clone());
            continue;
        }
        durable::remove(&file.path).map_err(|e| unwritten(&e))?;
        if let Some(folder) = file.path.parent().filter(|f| f.extension().is_some_and(|e| e == "d")) {
            // Not empty: other drop-ins are somebody else's.
            let _ = std::fs::remove_dir(folder);
        }
    }
    Ok(left)
}

/// A file of somebody else's is never written over.
pub(super) fn refuse_others(files: &[UnitFile], before: Option<&Installed>) -> Result<(), Error> {
    let mut others = Vec::new();
    for file in files {
        let Ok(there) = std::fs::read_to_string(&file.path) else { continue };
        let written = before.iter().flat_map(|b| &b.files).any(|f| f.path == file.path && f.text == there);
        if !written && there != file.text {
            others.push(file.path.display().to_string());
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::usage(
        "files are in the way that `plimsoll install` did not write, or that were changed since",
    )
    .details(others)
    .state("nothing was written")
    .next("compare them with: plimsoll install --print; then move them away"))
}

/// Whether a file of this path is among them.
pub(super) fn is_in(file: &UnitFile, files: &[UnitFile]) -> bool {
    files.iter().any(|other| other.path == file.path)
}

/// The system refused.
pub(super) fn unwritten(error: &durable::Error) -> Error {
    Error::failed("a file of the system could not be changed")
        .why(error.to_string())
        .state("what was written so far is taken away by: plimsoll uninstall")
        .next(
            "run it as root, take your own systemd with --systemd-user, or show the files with --print and write them \
             yourself",
        )
}
