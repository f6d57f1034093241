//! `migrate status`, `baseline` and `accept`: what `schema_version` says, and putting it right.

use plimsoll_core::check::Verdict;
use plimsoll_host::sqlite::history;
use plimsoll_host::sqlite::migration::Migration;
use plimsoll_host::sqlite::replay::replay;
use plimsoll_host::sqlite::verification::{Wanted, examine};
use serde_json::json;

use super::apply::quiet;
use super::{Subject, told, words_to_type};
use crate::error::{Error, Kind};
use crate::place::failed;
use crate::ui::Ui;

pub(super) fn show(subject: &Subject, ui: &Ui) -> Result<(), Error> {
    let status = subject.status()?;
    let mut lines: Vec<(Option<u64>, String, String, &str, String)> = Vec::new();
    for line in &status.applied {
        let file = line.version.and_then(|v| subject.migrations.all.iter().find(|m| m.version == v));
        let state = match file {
            None => "applied, no file",
            Some(m) if status.edited.contains(&m.version) => "applied, edited since",
            Some(_) => "applied",
        };
        lines.push((
            line.version,
            line.written.clone(),
            line.description.clone(),
            state,
            line.applied_at.clone(),
        ));
    }
    for migration in subject.migrations.all.iter().filter(|m| status.pending.contains(&m.version)) {
        let version = migration.version;
        let failed = status.failed.iter().any(|f| f.trim_start_matches('0') == version.to_string());
        let state = match status.out_of_order.contains(&version) {
            _ if failed => "failed before",
            true => "pending, out of order",
            false => "pending",
        };
        lines.push((Some(version), version.to_string(), migration.description.clone(), state, String::new()));
    }
    lines.sort();
    if !ui.is_json() {
        ui.data(&format!("{:>8}  {:<22}  {:<20}  description", "version", "state", "applied at"));
    }
    for (version, written, description, state, at) in &lines {
        if ui.is_json() {
            ui.object(&json!({
                "event": "migration", "version": version, "written": written, "description": description,
                "state": state, "applied_at": at,
            }));
        } else {
            ui.data(&format!("{written:>8}  {state:<22}  {at:<20}  {description}"));
        }
    }
    for gap in &subject.migrations.gaps {
        ui.warn(&format!("there is no migration {gap}"));
    }
    ui.say(&match status.pending.len() {
        0 => "nothing is pending".to_owned(),
        n => format!("{n} pending: plimsoll migrate up"),
    });
    Ok(())
}

pub(super) fn baseline(subject: &Subject, version: u64, words: &[String], ui: &Ui) -> Result<(), Error> {
    let _lock = subject.place.own_or_beside_serve("migrate baseline")?;
    let files: Vec<&Migration> = subject.migrations.all.iter().filter(|m| m.version <= version).collect();
    // 0: it has had none, and its tables are from before the first.
    if version != 0 && !files.iter().any(|m| m.version == version) {
        return Err(Error::usage(format!("there is no migration {version}"))
            .state("the database is as it was")
            .next("plimsoll migrate status"));
    }
    let differences = if version == 0 { Vec::new() } else { differences(subject, &files)? };
    let word = format!("baseline:{version}");
    refuse_unless(
        words,
        &word,
        &differences,
        &format!("the database is not what migrations up to {version} make"),
    )?;
    let written = history::baseline(subject.database(), &subject.migrations, version)
        .map_err(|error| told("the baseline was not written", &error))?;
    if ui.is_json() {
        ui.object(&json!({ "event": "baseline", "versions": written, "differences": differences }));
    } else {
        let list = written.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let (note, list) = match version {
            0 => ("noted that none was applied", "all of them are pending".to_owned()),
            _ => ("noted as applied, none was run", format!("versions: {list}")),
        };
        ui.finding(Verdict::Pass, &format!("baseline {version}"), note, &list);
    }
    Ok(())
}

pub(super) fn accept(subject: &Subject, version: u64, words: &[String], ui: &Ui) -> Result<(), Error> {
    let _lock = subject.place.own_or_beside_serve("migrate accept")?;
    let status = subject.status()?;
    let migration = subject.migrations.all.iter().find(|m| m.version == version);
    let Some(migration) = migration.filter(|_| status.edited.contains(&version)) else {
        return Err(Error::usage(format!("there is nothing to accept about {version}"))
            .why("its file is what was applied, or it is not applied, or there is none")
            .next("plimsoll migrate status"));
    };
    let applied: Vec<&Migration> =
        subject.migrations.all.iter().filter(|m| !status.pending.contains(&m.version)).collect();
    let differences = differences(subject, &applied)?;
    let word = format!("edited:{version}");
    let what = format!("{} as it is now makes another schema than the database has", migration.file());
    refuse_unless(words, &word, &differences, &what)?;
    history::accept(subject.database(), migration).map_err(|error| told("it was not accepted", &error))?;
    if ui.is_json() {
        ui.object(&json!({ "event": "accepted", "version": version, "differences": differences }));
    } else {
        let note = if differences.is_empty() { "the resulting schema is the same" } else { "acknowledged" };
        ui.finding(Verdict::Pass, &format!("{} accepted", migration.file()), note, "");
    }
    Ok(())
}

fn refuse_unless(words: &[String], word: &str, differences: &[String], what: &str) -> Result<(), Error> {
    if differences.is_empty() || words.iter().any(|typed| typed == word) {
        return Ok(());
    }
    Err(Error::new(Kind::Blocked, what)
        .details(differences.iter().cloned())
        .state("the database is as it was")
        .next(words_to_type(std::iter::once(word))))
}

/// In what the database's schema differs from what these migrations make on an empty one.
fn differences(subject: &Subject, files: &[&Migration]) -> Result<Vec<String>, Error> {
    let learned = match replay(files) {
        Ok(expectation) => Some(expectation),
        Err(error) => {
            return Ok(vec![format!("the migrations cannot be replayed on an empty database: {error}")]);
        }
    };
    let wanted = Wanted { learned, ..Wanted::default() };
    let found = examine(subject.database(), &wanted, &mut quiet())
        .map_err(|error| failed("the database could not be looked at", &error))?;
    let about = ["tables", "columns", "objects"];
    let wrong =
        found.checks.iter().filter(|c| c.verdict == Verdict::Fail && about.contains(&c.name.as_str()));
    Ok(wrong.map(|check| check.detail.clone()).collect())
}
