//! What is noted when a run has ended: the boxes of the paper that belong to none of its steps, the traffic around the
//! switch, the post-mortem's template, the operations changelog.

use std::path::Path;

use jiff::Timestamp;
use plimsoll_core::check::Check;
use plimsoll_core::record::{Ending, Entry, Event, State};
use plimsoll_core::report::{self, Report};
use plimsoll_core::watch::{SAMPLES, Sample};
use plimsoll_host::backups;
use plimsoll_host::durable;
use plimsoll_host::journal::Runs;

use crate::config::{Config, show_duration};
use crate::station;

/// The operations changelog in the app's root.
pub(crate) const CHANGELOG: &str = "CHANGELOG.md";
/// Backups of so many last runs are kept whatever their age.
const RUNS: usize = 7;
/// Points of a picture.
const POINTS: usize = 240;
/// How far around the switch it goes.
const AROUND_MS: i64 = 10 * 60_000;

/// What nobody has seen yet of a run that has ended, and is known here.
pub(crate) fn noted(config: &Config, runs: &Runs, entries: &[Entry]) -> Vec<Check> {
    let state = State::fold(entries);
    let report = Report::of(entries);
    let seen = |id: &str| report.item(id).is_some_and(|item| !item.checks.is_empty());
    let live = matches!(state.ended, Some((Ending::Live, ..)));
    let mut checks = Vec::new();
    let mut add = |check: Check| {
        if !seen(&check.id) {
            checks.push(check);
        }
    };
    for id in ["pre.notify", "after.summary"] {
        if config.notify.is_empty() {
            add(Check::skipped(id, "Messages", "no group is configured: [notify.NAME]"));
        }
    }
    if let Some(order) = state.order.as_ref().filter(|order| station::by_itself(order)) {
        let why =
            format!("one message tells of the bad release and of this: it is with its run ({})", order.by);
        for id in ["back.notify", "after.summary"] {
            add(Check::skipped(id, "Messages", why.clone()));
        }
    }
    add(window(config, entries));
    if config.logs.is_empty() {
        add(Check::skipped("verify.logs", "Logs", "no log is configured: [[log]]"));
    }
    if live {
        if config.watch.spots.is_empty() {
            add(Check::skipped("watch.spots", "Spot checks", "none is configured: [watch].spots"));
        }
        if config.watch.counts.is_empty() {
            let why = "no count is configured: [watch.counts]";
            add(Check::skipped("watch.customers", "Customers' activity", why));
        }
        let why = "no check of a monitoring system is configured";
        add(Check::skipped("watch.apm", "Monitoring system", why));
        add(clean_up(config, runs));
    } else {
        add(Check::skipped(
            "after.cleanup",
            "Old backups",
            "they are pruned after a deployment that went well",
        ));
    }
    add(contacts(config));
    add(Check::pass("after.changelog", "The operations changelog")
        .with("file", CHANGELOG)
        .with("version", state.release.as_ref().map_or("none", |release| release.id.0.as_str()))
        .with("changes", state.release.as_ref().map_or("none", |release| release.subject.as_str()))
        .with("result", if report.exit == Some(0) { "SUCCESS" } else { "FAILED" }));
    add(next(config, &state, entries));
    checks
}

/// The window that is agreed, and whether the run began in it.
fn window(config: &Config, entries: &[Entry]) -> Check {
    let name = "Window of the deployment";
    let Some(window) = &config.window else {
        return Check::skipped("pre.window", name, "any time will do: [window] is not configured");
    };
    let time = |time: jiff::civil::Time| time.strftime("%H:%M").to_string();
    let zone = window.zone.iana_name().unwrap_or("UTC").to_owned();
    let agreed = format!("{} to {}", time(window.from), time(window.to));
    let began = entries.first().and_then(|entry| entry.at.parse::<Timestamp>().ok());
    let Some(began) = began.map(|at| at.to_zoned(window.zone.clone())) else {
        return Check::unknown("pre.window", name, "when the run began is not known");
    };
    let at = began.time();
    let over_midnight = window.to < window.from;
    let within =
        if over_midnight { at >= window.from || at < window.to } else { at >= window.from && at < window.to };
    // After midnight the window is that of the day before.
    let day =
        if over_midnight && at < window.to { began.date().yesterday().ok() } else { Some(began.date()) };
    let within = within && day.is_some_and(|day| window.days.contains(&day.weekday()));
    let check = if within {
        Check::pass("pre.window", name)
    } else {
        Check::unknown("pre.window", name, "the run began outside of it")
    };
    check.with("window", agreed).with("zone", zone).with("began", began.strftime("%a %H:%M").to_string())
}

/// Prunes old backups as configured. What could not be removed is said, and never the run's failure.
fn clean_up(config: &Config, runs: &Runs) -> Check {
    let name = "Old backups";
    let Some(file) = config.database_file().and_then(Path::file_name) else {
        return Check::skipped("after.cleanup", name, "the database is no file");
    };
    let (folder, file) = (config.backups(), file.to_string_lossy().into_owned());
    let retention = config.backup.keep;
    let pruned = || -> Result<(usize, usize), String> {
        let entries = backups::list(&folder, &file).map_err(|error| error.to_string())?;
        let all = runs.list().map_err(|error| error.to_string())?;
        let last: Vec<String> = all.iter().rev().take(RUNS).map(|run| format!("{run:06}")).collect();
        let fates = backups::fates(&entries, &retention, &last, Timestamp::now());
        let removed = backups::prune(&folder, &file, &fates).map_err(|error| error.to_string())?;
        let gone = removed.len();
        Ok((fates.iter().filter(|fate| fate.keep).count(), gone))
    };
    match pruned() {
        Ok((kept, removed)) => Check::pass("after.cleanup", name)
            .with("kept", kept)
            .with("removed", removed)
            .with("keep_days", config.backup.keep.days),
        Err(why) => Check::unknown("after.cleanup", name, why),
    }
}

fn contacts(config: &Config) -> Check {
    if config.contacts.is_empty() {
        return Check::skipped("contacts", "Contacts", "none is configured: [contacts]");
    }
    let check = Check::pass("contacts", "Contacts");
    config.contacts.iter().fold(check, |check, (role, who)| check.with(role, who.as_str()))
}

fn next(config: &Config, state: &State, entries: &[Entry]) -> Check {
    let began = entries.first().map(|entry| entry.at.clone()).unwrap_or_default();
    let live = matches!(state.ended, Some((Ending::Live, ..)));
    let spot = config.watch.spots.first().filter(|_| live);
    let check =
        spot.map_or_else(|| "none".to_owned(), |spot| format!("{} after the switch", show_duration(*spot)));
    let status = state.ended.as_ref().map_or("not ended", |(ending, ..)| ending.word());
    Check::pass("next", "What is next")
        .with("last_deployment", began)
        .with("next_check", check)
        .with("status", status)
}

/// The traffic around the switch, as it was sampled; `None` when it was not.
pub(crate) fn charted(runs: &Runs, run: u32) -> Option<Event> {
    let text = std::fs::read_to_string(runs.folder(run).join(SAMPLES)).ok()?;
    let samples: Vec<Sample> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let around = samples.into_iter().filter(|s| s.after_ms.abs() <= AROUND_MS && s.requests.is_some());
    let samples = thinned(&around.collect::<Vec<_>>());
    (!samples.is_empty()).then_some(Event::Charted { samples })
}

/// So few that a picture can show them: neighbours are taken together, counts added, latencies the worst of them.
fn thinned(samples: &[Sample]) -> Vec<Sample> {
    let together = samples.len().div_ceil(POINTS).max(1);
    let add = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or(0) + other.unwrap_or(0)),
    };
    let mut thin: Vec<Sample> = Vec::new();
    for chunk in samples.chunks(together) {
        let mut sum = Sample::default();
        for sample in chunk {
            (sum.at, sum.after_ms) = (sample.at.clone(), sample.after_ms);
            sum.span_ms += sample.span_ms;
            sum.requests = add(sum.requests, sample.requests);
            sum.errors = add(sum.errors, sample.errors);
            sum.p50_us = sum.p50_us.max(sample.p50_us);
            sum.p99_us = sum.p99_us.max(sample.p99_us);
        }
        thin.push(sum);
    }
    thin
}

/// Writes the post-mortem's template of a failed run, and the operations changelog anew. A template that is there stays:
/// somebody may have written in it.
pub(crate) fn write_beside(config: &Config, runs: &Runs, run: u32) -> Result<(), String> {
    let entries = runs.entries(run).map_err(|error| error.to_string())?;
    let report = Report::of(&entries);
    let path = runs.folder(run).join(report::POST_MORTEM);
    if report::wants_post_mortem(&report) && !path.exists() {
        let text = report::post_mortem(&report, &entries);
        durable::write(&path, durable::PRIVATE, text.as_bytes()).map_err(|error| error.to_string())?;
    }
    write_changelog(config, runs)
}

/// Writes the operations changelog anew from all runs.
pub(crate) fn write_changelog(config: &Config, runs: &Runs) -> Result<(), String> {
    let numbers = runs.list().map_err(|error| error.to_string())?;
    let reports: Vec<Report> = numbers
        .iter()
        .filter_map(|run| runs.entries(*run).ok())
        .map(|entries| Report::of(&entries))
        .collect();
    let path = config.app.root.join(CHANGELOG);
    if let Ok(there) = std::fs::read_to_string(&path)
        && !there.contains("Written by Plimsoll after each run")
    {
        return Err(format!("{} is there and not Plimsoll's: it was left as it is", path.display()));
    }
    let text = report::changelog(&config.app.name, &reports);
    durable::write(&path, 0o644, text.as_bytes()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_keeps_every_request_and_the_worst_time() {
        let sample = |n: u64| Sample {
            after_ms: i64::try_from(n).unwrap() * 1_000,
            span_ms: 1_000,
            requests: Some(2),
            errors: Some(u64::from(n == 700)),
            p99_us: Some(n),
            ..Sample::default()
        };
        let samples: Vec<Sample> = (1..=1_000).map(sample).collect();
        let thin = thinned(&samples);
        assert!(thin.len() <= POINTS, "{}", thin.len());
        assert_eq!(thin.iter().filter_map(|s| s.requests).sum::<u64>(), 2_000);
        assert_eq!(thin.iter().filter_map(|s| s.errors).sum::<u64>(), 1);
        assert_eq!(thin.iter().map(|s| s.span_ms).sum::<u64>(), 1_000_000);
        assert_eq!(thin.last().unwrap().p99_us, Some(1_000));
    }
}
