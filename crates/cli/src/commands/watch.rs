//! `plimsoll watch`: how the live release does, from what the run's journal and samples say. It only reads.

use std::time::Duration;

use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::record::{Entry, Event, State};
use plimsoll_core::watch::Sample;
use plimsoll_host::journal::Runs;
use plimsoll_host::release::Releases;
use plimsoll_host::watch as samples;
use serde_json::json;

use crate::args::WatchArgs;
use crate::config::{Config, show_duration};
use crate::error::Error;
use crate::follow;
use crate::ui::Ui;
use crate::watcher::{self, Subject};

/// How often it is shown anew.
const AGAIN: Duration = Duration::from_secs(1);
/// Columns of a chart.
const COLUMNS: usize = 60;

/// See the module.
pub(crate) fn watch(config: &Config, args: &WatchArgs, ui: &Ui) -> Result<(), Error> {
    let runs = Runs::of(&config.app.root);
    let unreadable = |failure: plimsoll_core::ports::Failure| follow::plain(failure);
    let live = !args.once && !ui.is_json() && ui.is_terminal();
    let mut last = String::new();
    loop {
        let run = match args.run {
            Some(run) => run,
            None => {
                let current = Releases::new(&config.app.root).current().map_err(|e| unreadable(e.into()))?;
                let subject = current.and_then(|current| watcher::subject(&runs, &current));
                subject.map(|subject| subject.run).ok_or_else(|| {
                    Error::usage("no release is live that a run has brought")
                        .next("bring one live with: plimsoll deploy")
                })?
            }
        };
        let entries = runs.entries(run).map_err(|e| unreadable(e.into()))?;
        let found = samples::samples(&runs.folder(run));
        if ui.is_json() {
            show_json(ui, run, &entries, &found);
            return Ok(());
        }
        let text = words(config, run, &entries, &found);
        if text != last {
            if live && !last.is_empty() {
                ui.clear();
            }
            ui.data(&text);
            last = text;
        }
        if !live {
            return Ok(());
        }
        std::thread::sleep(AGAIN);
    }
}

fn show_json(ui: &Ui, run: u32, entries: &[Entry], found: &[Sample]) {
    for sample in found {
        let mut value = json!(sample);
        value["event"] = "sample".into();
        value["run"] = run.into();
        ui.object(&value);
    }
    for entry in entries {
        if matches!(entry.event, Event::Watched { .. } | Event::SpotChecked { .. } | Event::Told { .. }) {
            ui.object(entry);
        }
    }
}

fn words(config: &Config, run: u32, entries: &[Entry], found: &[Sample]) -> String {
    let state = State::fold(entries);
    let release = state.release.as_ref().map_or("no release", |release| release.id.0.as_str());
    let mut lines = vec![format!("{release}, run {run}")];
    if let Some(subject) = Subject::of(run, entries) {
        let since = Duration::from_secs(subject.elapsed().as_secs());
        lines.push(format!("live for {}", long(since)));
    }
    if let Some(why) = &state.locked {
        lines.push(format!("LOCKED: {why}"));
    }
    if let Some((by, _)) = &state.taken_back {
        lines.push(format!("rolled back by run {by}"));
    }
    let chart = |of: &dyn Fn(&Sample) -> Option<f64>| chart(found, of);
    let mut row = |label: &str, chart: Option<(String, f64)>, unit: &dyn Fn(f64) -> String| {
        if let Some((line, newest)) = chart {
            lines.push(format!("{label:<10} {line} {}", unit(newest)));
        }
    };
    let plain = |unit: &'static str| move |n: f64| format!("{n:.1}{unit}");
    let per_second = |n: Option<u64>, span: u64| Some(n? as f64 * 1_000.0 / span.max(1) as f64);
    row("requests", chart(&|s| per_second(s.requests, s.span_ms)), &plain("/s"));
    row("errors", chart(&|s| per_second(s.errors, s.span_ms)), &plain("/s"));
    row("p50", chart(&|s| s.p50_us.map(|us| us as f64 / 1_000.0)), &plain(" ms"));
    row("p99", chart(&|s| s.p99_us.map(|us| us as f64 / 1_000.0)), &plain(" ms"));
    row("processor", chart(&|s| s.cpu), &plain(""));
    row("memory", chart(&|s| s.rss_bytes.map(|n| n as f64)), &samples::mib);
    row("disk left", chart(&|s| s.disk_free_bytes.map(|n| n as f64)), &samples::mib);
    row("log (WAL)", chart(&|s| s.wal_bytes.map(|n| n as f64)), &samples::mib);
    row("lock wait", chart(&|s| s.lock_ms.map(|n| n as f64)), &plain(" ms"));
    if found.iter().any(|s| s.after_ms < 0) && found.iter().any(|s| s.after_ms >= 0) {
        lines.push(format!("{:<10} | is the switch", ""));
    }
    for entry in entries {
        match &entry.event {
            Event::Watched { check } => lines.push(observed(check)),
            Event::SpotChecked { check, .. } => lines.push(observed(check)),
            _ => {}
        }
    }
    for spot in &config.watch.spots {
        let ms = u64::try_from(spot.as_millis()).unwrap_or(u64::MAX);
        if !state.spots.contains(&ms) {
            lines.push(format!("· spot check after {} is to come", show_duration(*spot)));
        }
    }
    lines.join("\n")
}

fn observed(check: &Check) -> String {
    let mark = match check.verdict {
        Verdict::Pass => '✓',
        Verdict::Fail => '✗',
        Verdict::Unknown => '?',
        Verdict::Skipped => '-',
    };
    let said = check.evidence.get("said").and_then(|said| said.as_str()).unwrap_or_default();
    let why = if check.why().is_empty() { said } else { check.why() };
    if why.is_empty() { format!("{mark} {}", check.name) } else { format!("{mark} {}: {why}", check.name) }
}

/// A line of blocks for the samples, the switch marked, and the newest figure.
fn chart(found: &[Sample], of: &dyn Fn(&Sample) -> Option<f64>) -> Option<(String, f64)> {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let points: Vec<(i64, f64)> = found.iter().filter_map(|s| Some((s.after_ms, of(s)?))).collect();
    let newest = points.last()?.1;
    let most = points.iter().map(|(_, n)| *n).fold(0.0, f64::max);
    let part = points.len().div_ceil(COLUMNS).max(1);
    let mut line = String::new();
    let mut before = true;
    for part in points.chunks(part) {
        let mean = part.iter().map(|(_, n)| *n).sum::<f64>() / part.len() as f64;
        if before && part.first().is_some_and(|(at, _)| *at >= 0) {
            if !line.is_empty() {
                line.push('|');
            }
            before = false;
        }
        let height = if most > 0.0 { (mean / most * 7.0).round() as usize } else { 0 };
        line.push(BLOCKS[height.min(7)]);
    }
    Some((line, newest))
}

fn long(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..120 => format!("{s} seconds"),
        120..7_200 => format!("{} minutes", s / 60),
        _ => format!("{} hours {} minutes", s / 3_600, s % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_marks_the_switch_and_is_never_wider_than_a_terminal() {
        let sample = |at: i64, n: u64| Sample { after_ms: at, requests: Some(n), ..Sample::default() };
        let few: Vec<Sample> = [(-2, 8), (-1, 8), (1, 0), (2, 4)].map(|(at, n)| sample(at, n)).into();
        let of = |s: &Sample| s.requests.map(|n| n as f64);
        assert_eq!(chart(&few, &of).unwrap(), ("██|▁▅".to_owned(), 4.0));
        let many: Vec<Sample> = (0..5_000).map(|at| sample(at, 1)).collect();
        assert!(chart(&many, &of).unwrap().0.chars().count() <= COLUMNS + 1);
        assert_eq!(chart(&[], &of), None);
    }
}
