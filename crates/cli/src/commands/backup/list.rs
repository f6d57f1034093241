//! `backup list`: the backups, the newest first, and whether each counts.

use jiff::Timestamp;
use plimsoll_host::backups::Entry;
use plimsoll_host::sqlite::manifest::State;
use serde_json::json;

use super::{entries, object};
use crate::error::Error;
use crate::place::Place;
use crate::ui::{Ui, age_words, size_words};

pub(super) fn list(place: &Place, ui: &Ui) -> Result<(), Error> {
    let entries = entries(place)?;
    if ui.is_json() {
        for entry in entries.iter().rev() {
            match &entry.manifest {
                Ok(manifest) => {
                    let mut line = object("listed", &entry.path, manifest);
                    line["counts"] = entry.verified().into();
                    ui.object(&line);
                }
                Err(why) => ui.object(&json!({
                    "event": "listed", "file": entry.path, "created_at": entry.at(), "bytes": entry.bytes,
                    "counts": false, "why": why,
                })),
            }
        }
        return Ok(());
    }
    if entries.is_empty() {
        ui.say(&format!("there are no backups of {} in {}", place.name(), place.backups.display()));
        return Ok(());
    }
    let width = entries.iter().map(|entry| entry.name.to_string().len()).max().unwrap_or(0);
    ui.data(&format!(
        "{:<width$}  {:>9}  {:>10}  {:>10}  {:<9}  why",
        "backup", "age", "size", "rows", "state"
    ));
    let now = Timestamp::now();
    for entry in entries.iter().rev() {
        ui.data(&line(entry, now, width));
    }
    let total = entries.iter().map(|entry| entry.bytes).sum();
    ui.say(&format!("{} backups, {}, in {}", entries.len(), size_words(total), place.backups.display()));
    Ok(())
}

fn line(entry: &Entry, now: Timestamp, width: usize) -> String {
    let age = age_words(now.duration_since(entry.at()));
    let (rows, state, why) = match &entry.manifest {
        Ok(manifest) => {
            let run = manifest.run.as_ref().map(|run| format!(", run {}", run.trim_start_matches('0')));
            let why = format!("{}{}", manifest.reason, run.unwrap_or_default());
            let state = match manifest.state {
                _ if !entry.verified() => "DAMAGED",
                State::Verified => "verified",
                State::Copied => "copied",
                State::Drilled => "drilled",
            };
            (manifest.content.total_rows().to_string(), state, why)
        }
        Err(why) => ("?".to_owned(), "unknown", why.clone()),
    };
    let name = entry.name.to_string();
    format!("{name:<width$}  {age:>9}  {:>10}  {rows:>10}  {state:<9}  {why}", size_words(entry.bytes))
}
