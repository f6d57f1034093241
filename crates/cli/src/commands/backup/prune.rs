//! `backup prune`: what becomes of each backup, and why.

use jiff::Timestamp;
use plimsoll_core::check::Verdict;
use plimsoll_host::backups::{self, Fate, Retention};
use plimsoll_host::journal::Runs;
use serde_json::json;

use super::entries;
use crate::args::BackupPruneArgs;
use crate::error::Error;
use crate::place::{Place, failed};
use crate::ui::Ui;

/// Backups made before the last so many runs stay: going back needs them.
const RUNS: usize = 3;
/// When neither the command nor a configuration says how many.
const DAYS: u32 = 14;

pub(super) fn prune(place: &Place, args: &BackupPruneArgs, ui: &Ui) -> Result<(), Error> {
    let configured = place.config.as_ref().map(|config| config.backup.keep_days);
    let retention = Retention {
        days: args.days.or(configured).unwrap_or(DAYS),
        last: args.last,
        daily: args.daily,
        weekly: args.weekly,
        monthly: args.monthly,
    };
    let fates = decide(place, &retention)?;
    if fates.is_empty() {
        ui.say(&format!("there are no backups of {} in {}", place.name(), place.backups.display()));
        return Ok(());
    }
    if !args.dry_run {
        remove(place, &fates)?;
    }
    for fate in &fates {
        tell(fate, !args.dry_run, ui);
    }
    let gone = fates.iter().filter(|fate| !fate.keep).count();
    let done = if args.dry_run { "would be removed; nothing was, for this is a dry run" } else { "removed" };
    ui.say(&format!("{} kept, {gone} {done}", fates.len() - gone));
    Ok(())
}

/// After a backup: only what goes is told. The backup counts already, so a failure here is a warning.
pub(super) fn after_backup(place: &Place, days: u32, ui: &Ui) {
    let retention = Retention { days, ..Retention::default() };
    let pruned = decide(place, &retention).and_then(|fates| remove(place, &fates).map(|()| fates));
    match pruned {
        Ok(fates) => fates.iter().filter(|fate| !fate.keep).for_each(|fate| tell(fate, true, ui)),
        Err(error) => ui.warn(&format!("old backups were not pruned: {}", error.why)),
    }
}

fn decide(place: &Place, retention: &Retention) -> Result<Vec<Fate>, Error> {
    Ok(backups::fates(&entries(place)?, retention, &needed_runs(place)?, Timestamp::now()))
}

fn remove(place: &Place, fates: &[Fate]) -> Result<(), Error> {
    backups::prune(&place.backups, &place.name(), fates).map(drop).map_err(|error| {
        failed("not all old backups could be removed", &error)
            .state("those that are to be kept are all there")
    })
}

/// The last runs, and one that is not resolved.
fn needed_runs(place: &Place) -> Result<Vec<String>, Error> {
    let Some(config) = &place.config else { return Ok(Vec::new()) };
    let runs = Runs::of(&config.app.root);
    let unknown = |error: &dyn std::fmt::Display| {
        Error::failed("it is unknown which backups a run still needs")
            .why(error.to_string())
            .state("no backup was removed")
            .next("plimsoll status")
    };
    let all = runs.list().map_err(|error| unknown(&error))?;
    let open = runs.unfinished().map_err(|error| unknown(&error))?;
    let last = all.iter().rev().take(RUNS).copied();
    Ok(last.chain(open).map(|run| format!("{run:06}")).collect())
}

fn tell(fate: &Fate, done: bool, ui: &Ui) {
    if ui.is_json() {
        ui.object(&json!({
            "event": "fate", "file": fate.path, "keep": fate.keep, "removed": done && !fate.keep,
            "reason": fate.reason,
        }));
        return;
    }
    let name = fate.path.file_name().unwrap_or_default().to_string_lossy();
    let reason = match (fate.keep, done) {
        (true, _) => fate.reason.clone(),
        (false, true) => format!("removed: {}", fate.reason),
        (false, false) => format!("would be removed: {}", fate.reason),
    };
    ui.finding(if fate.keep { Verdict::Pass } else { Verdict::Skipped }, &name, &reason, "");
}
