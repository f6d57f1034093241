//! `migrate lint`: what is dangerous in migrations, why, and what to write instead.

use std::path::PathBuf;
use std::time::Duration;

use plimsoll_core::check::Verdict;
use plimsoll_host::rehearsal::by_position;
use plimsoll_host::sqlite::lint::{Remark, Severity, fails, folder, text, tried};
use plimsoll_host::sqlite::migration::Migration;
use serde_json::json;

use super::Subject;
use super::apply::try_on_copy;
use crate::config::HOLD_BUDGET;
use crate::error::Error;
use crate::place::stop_on_signals;
use crate::ui::Ui;

pub(super) fn lint(subject: &Subject, ui: &Ui) -> Result<(), Error> {
    let status = subject.status().ok();
    let pending: Vec<Migration> = match &status {
        Some(status) => {
            subject.migrations.all.iter().filter(|m| status.pending.contains(&m.version)).cloned().collect()
        }
        // Nobody knows which are applied; their texts can be read all the same.
        None => subject.migrations.all.clone(),
    };
    let mut remarks: Vec<Remark> = folder(&subject.migrations, status.as_ref());
    remarks.extend(pending.iter().flat_map(text));
    if status.is_some() && !pending.is_empty() {
        let step = ui.progress("Try on a copy");
        let mut control = plimsoll_host::sqlite::Control::new(stop_on_signals(), |at| {
            step.at(at.done, at.total, at.unit);
        });
        match try_on_copy(&subject.place, &pending, &mut control) {
            Ok(outcomes) => {
                let budget = hold_budget(subject);
                remarks.extend(outcomes.iter().flat_map(|outcome| tried(outcome, budget)));
                if let Some(code) = running_code(subject) {
                    let widened: Vec<String> = outcomes.into_iter().flat_map(|o| o.widened).collect();
                    remarks.extend(by_position(&code, &widened));
                }
            }
            Err(error) => {
                let why = error.details.first().unwrap_or(&error.why);
                remarks.push(fails("the pending migrations", why));
            }
        }
    } else if status.is_none() {
        ui.warn("which migrations are applied is unknown, so none was tried: plimsoll migrate baseline N");
    }
    remarks.sort_by(|a, b| (a.severity, &a.file, a.line).cmp(&(b.severity, &b.file, b.line)));
    for remark in &remarks {
        show(remark, ui);
    }
    let dangers = remarks.iter().filter(|remark| remark.severity == Severity::Danger).count();
    ui.say(&format!(
        "{} files looked at, {} tried on a copy, {} remarks, {dangers} of danger",
        subject.migrations.all.len(),
        if status.is_some() { pending.len() } else { 0 },
        remarks.len()
    ));
    if dangers == 0 {
        return Ok(());
    }
    Err(Error::failed(format!("{dangers} dangers in the migrations"))
        .state("the database is as it was")
        .next("mend what is marked ✗; each says what to write instead"))
}

/// How long requests may wait for a migration: as configured, else as long as a hold may last by default.
fn hold_budget(subject: &Subject) -> Duration {
    let front = subject.place.config.as_ref().and_then(|config| config.front.as_ref());
    front.map_or(HOLD_BUDGET, |front| front.hold_budget)
}

/// The code that runs now and would meet the migrated database, where a configuration says which that is.
fn running_code(subject: &Subject) -> Option<PathBuf> {
    let config = subject.place.config.as_ref()?;
    std::fs::canonicalize(config.current()).ok()
}

fn show(remark: &Remark, ui: &Ui) {
    if ui.is_json() {
        return ui.object(&json!({ "event": "remark", "remark": remark }));
    }
    let verdict = match remark.severity {
        Severity::Danger => Verdict::Fail,
        Severity::Warning => Verdict::Unknown,
        Severity::Note => Verdict::Skipped,
    };
    let line = remark.line.map_or(String::new(), |line| format!(":{line}"));
    let hint = format!("why: {}\n    instead: {}", remark.why, remark.instead);
    ui.finding(verdict, &format!("{}{line} {}", remark.file, remark.rule), &remark.what, &hint);
}
