//! `backup prune`: what becomes of each backup, and why.

use jiff::Timestamp;
use plimsoll_core::check::Verdict;
use plimsoll_host::backups::{self, Entry, Fate, Retention};
use plimsoll_host::copies;
use plimsoll_host::journal::Runs;
use plimsoll_host::kept;
use plimsoll_host::sqlite::Control;
use serde_json::json;

use super::entries;
use crate::args::BackupPruneArgs;
use crate::config::KEEP_DAYS;
use crate::error::Error;
use crate::place::{Place, failed, stop_on_signals};
use crate::ui::Ui;

/// Backups made before the last so many runs stay: going back needs them.
const RUNS: usize = 3;

/// What the configuration says, and what was typed instead.
fn retention(place: &Place, args: &BackupPruneArgs) -> Retention {
    let usual = Retention { days: KEEP_DAYS, ..Retention::default() };
    let keep = place.config.as_ref().map_or(usual, |config| config.backup.keep);
    Retention {
        days: args.days.unwrap_or(keep.days),
        last: args.last.unwrap_or(keep.last),
        daily: args.daily.unwrap_or(keep.daily),
        weekly: args.weekly.unwrap_or(keep.weekly),
        monthly: args.monthly.unwrap_or(keep.monthly),
    }
}

pub(super) fn prune(place: &Place, args: &BackupPruneArgs, ui: &Ui) -> Result<(), Error> {
    let retention = retention(place, args);
    let fates = decide(place, &retention)?;
    let snapshots = snapshots(place)?;
    if fates.is_empty() && snapshots.is_empty() {
        ui.say(&format!("there are no backups of {} in {}", place.name(), place.backups.display()));
        return Ok(());
    }
    if !args.dry_run {
        remove(place, &fates)?;
        kept::prune(&snapshots).map_err(|error| {
            Error::failed("not all snapshots of older runs could be removed")
                .why(error.to_string())
                .state("those that are to be kept are all there")
                .next("remove them by hand, or see who owns them")
        })?;
    }
    let snapshots = snapshots.into_iter().map(|fate| Fate {
        reason: format!("{} ({})", fate.reason, size(fate.bytes)),
        path: fate.path,
        keep: fate.keep,
    });
    let fates: Vec<Fate> = fates.into_iter().chain(snapshots).collect();
    for fate in &fates {
        tell(fate, !args.dry_run, ui);
    }
    count(&fates, args.dry_run, ui);
    let mut failed = Vec::new();
    for there in places(place) {
        match prune_there(place, &there, &retention, args.dry_run, ui) {
            Ok(fates) => {
                ui.say(&format!("in {}:", there.key()));
                fates.iter().for_each(|fate| tell(fate, !args.dry_run, ui));
                count(&fates, args.dry_run, ui);
            }
            Err(why) => failed.push(why),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::failed("not every place for second copies was pruned")
        .details(failed)
        .state("nothing that is to be kept was removed anywhere")
        .next("mend the place, then: plimsoll backup prune"))
}

fn count(fates: &[Fate], dry_run: bool, ui: &Ui) {
    let gone = fates.iter().filter(|fate| !fate.keep).count();
    let done = if dry_run { "would be removed; nothing was, for this is a dry run" } else { "removed" };
    ui.say(&format!("{} kept, {gone} {done}", fates.len() - gone));
}

/// After a backup, here and in the places that have it too: only what goes is told. The backup counts already, so a
/// failure is a warning.
pub(super) fn after_backup(place: &Place, days: Option<u32>, reached: &[copies::Place], ui: &Ui) {
    let retention = retention(place, &BackupPruneArgs { days, ..BackupPruneArgs::default() });
    let pruned = decide(place, &retention).and_then(|fates| remove(place, &fates).map(|()| fates));
    let told =
        |fates: Vec<Fate>| fates.iter().filter(|fate| !fate.keep).for_each(|fate| tell(fate, true, ui));
    match pruned {
        Ok(fates) => told(fates),
        Err(error) => ui.warn(&format!("old backups were not pruned: {}", error.why)),
    }
    for there in reached {
        match prune_there(place, there, &retention, false, ui) {
            Ok(fates) => told(fates),
            Err(why) => ui.warn(&format!("old copies were not pruned: {why}")),
        }
    }
}

fn places(place: &Place) -> Vec<copies::Place> {
    place.config.as_ref().map(|config| config.backup.places()).unwrap_or_default()
}

/// By the same rules: each place keeps by what is there, so that one that was away for a month loses nothing by it.
fn prune_there(
    place: &Place,
    there: &copies::Place,
    retention: &Retention,
    dry_run: bool,
    ui: &Ui,
) -> Result<Vec<Fate>, String> {
    let runs = needed_runs(place).map_err(|error| error.why)?;
    let decide = |entries: &[Entry]| backups::fates(entries, retention, &runs, Timestamp::now());
    let _step = ui.progress(&format!("Look through {}", there.key()));
    let mut control = Control::quiet(stop_on_signals());
    copies::prune(&place.backups, there, &place.name(), &decide, dry_run, &mut control)
        .map_err(|error| format!("{}: {error}. {}", there.key(), error.hint()))
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

/// What runs have kept of the database beside the backups: for going back, and what was replaced.
fn snapshots(place: &Place) -> Result<Vec<kept::Fate>, Error> {
    let Some(config) = &place.config else { return Ok(Vec::new()) };
    kept::fates(&Runs::of(&config.app.root)).map_err(|error| {
        Error::failed("it is unknown which snapshots a run still needs")
            .why(error.to_string())
            .state("none was removed")
            .next("plimsoll status")
    })
}

fn size(bytes: u64) -> String {
    if bytes < 10 << 20 { format!("{} KiB", bytes.div_ceil(1 << 10)) } else { format!("{} MiB", bytes >> 20) }
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
    // The runs' own files have the same names in every run.
    let run = fate.path.parent().and_then(|folder| folder.file_name()).map(|name| name.to_string_lossy());
    let name = match run {
        Some(run) if run.len() >= 6 && run.bytes().all(|b| b.is_ascii_digit()) => {
            format!("runs/{run}/{name}")
        }
        _ => name.into_owned(),
    };
    let reason = match (fate.keep, done) {
        (true, _) => fate.reason.clone(),
        (false, true) => format!("removed: {}", fate.reason),
        (false, false) => format!("would be removed: {}", fate.reason),
    };
    ui.finding(if fate.keep { Verdict::Pass } else { Verdict::Skipped }, &name, &reason, "");
}
