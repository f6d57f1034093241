//! The deployment notes that the paper wants archived: one line an event, then backup, counts and verification.

use std::fmt::Write as _;

use super::evidence::{blanks, duration_ms, one_line, text};
use super::summary::{backup, result, standing, tally, verdict_word};
use super::{Report, evidence};
use crate::check::Check;
use crate::record::{Entry, Event};

/// The run as plain text: one line an event with its time in UTC, at the end what the paper asks for.
#[must_use]
pub fn log(entries: &[Entry]) -> String {
    let mut out = String::new();
    for entry in entries {
        let _ = writeln!(out, "{}  {}", one_line(&entry.at), one_line(&event(&entry.event)));
    }
    let report = Report::of(entries);
    let _ = writeln!(out, "\nResult: {}. {}", result(&report).1, one_line(&report.message));
    let location = backup(&report).unwrap_or_else(|| "no backup was made in this run".to_owned());
    let _ = writeln!(out, "Backup location: {location}");
    for (heading, ids) in [
        ("Backup", ["backup.verify", "backup.second", "backup.record"].as_slice()),
        ("Data counts", &["backup.counts", "verify.counts"]),
    ] {
        let _ = writeln!(out, "\n{heading}:");
        for item in ids.iter().filter_map(|id| report.item(id)) {
            let (_, mark, words) = standing(item);
            let _ = writeln!(out, "  {}: {}", item.title, state(mark, &words));
            for blank in item.checks.iter().flat_map(|o| blanks(&o.check)).filter(|b| !b.block) {
                let _ = writeln!(out, "    {}: {}", blank.label, blank.value);
            }
        }
    }
    let _ = writeln!(out, "\nVerification results: {}", tally(&report));
    for item in report.items.iter().filter(|item| item.phase == "verify" || item.id == "back.verify") {
        let (_, mark, words) = standing(item);
        let _ = writeln!(out, "  {}: {}", item.title, state(mark, &words));
        for seen in &item.checks {
            let _ = writeln!(out, "    {}", check(&seen.check));
        }
    }
    out
}

fn state(mark: &str, words: &str) -> String {
    match (mark, words) {
        ("", "") => "pass".to_owned(),
        (one, "") | ("", one) => one.to_owned(),
        (mark, words) => format!("{mark}: {words}"),
    }
}

/// `deployment_YYYYMMDD_HHMM.log`, from the time of the run's first event.
#[must_use]
pub fn log_name(entries: &[Entry]) -> String {
    let at = entries.first().map_or("", |e| e.at.as_str());
    let digits: String = at.get(..16).unwrap_or("").chars().filter(char::is_ascii_digit).collect();
    match (digits.get(..8), digits.get(8..)) {
        (Some(date), Some(time)) if time.len() == 4 => format!("deployment_{date}_{time}.log"),
        _ => "deployment_00000000_0000.log".to_owned(),
    }
}

fn event(event: &Event) -> String {
    match event {
        Event::Started { order } => {
            let asked = order.asked.as_ref().map_or_else(String::new, |a| format!(" of {a}"));
            let from = order.from.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            format!(
                "run {} started: {}{asked} for {}, asked by {}; live: {from}; plimsoll {}",
                order.run,
                order.kind.word(),
                order.app,
                order.by,
                order.tool
            )
        }
        Event::Numbered { release } => {
            let written = if release.author.is_empty() { "" } else { ", by " };
            format!(
                "release {}: commit {} on {}: {}{written}{}",
                release.id, release.commit, release.branch, release.subject, release.author
            )
        }
        Event::Planned { rehearsal, decision } => {
            let pending = serde_json::to_value(&rehearsal.pending).unwrap_or_default();
            format!(
                "planned: {}, predicted hold {}; {}; pending migrations: {}",
                decision.strategy.word(),
                duration_ms(decision.predicted_hold_ms),
                decision.reasons.join("; "),
                text("pending", &pending)
            )
        }
        Event::StepStarted { step } => format!("{}: started", step.title()),
        Event::Held { .. } => "the door is being shut: requests wait".to_owned(),
        Event::Checked { check: seen, .. } => format!("  {}", check(seen)),
        Event::StepDone { step, ms } => format!("{}: done in {}", step.title(), duration_ms(*ms)),
        Event::StepFailed { step, failure, ms } => {
            let next = if failure.next.is_empty() { "" } else { "; next: " };
            format!("{}: FAILED after {}: {failure}{next}{}", step.title(), duration_ms(*ms), failure.next)
        }
        Event::Committed { release } => format!("COMMIT POINT: {release} may take writes from here"),
        Event::UndoStarted { why } => format!("UNDO started: {why}"),
        Event::UndoingStep { step } => format!("{}: undoing", step.title()),
        Event::UndoneStep { step, ms } => format!("{}: undone in {}", step.title(), duration_ms(*ms)),
        Event::UndoFailed { step, failure } => {
            let next = if failure.next.is_empty() { "" } else { "; next: " };
            format!("{}: the undo FAILED: {failure}{next}{}", step.title(), failure.next)
        }
        Event::Acknowledged { what, by } => format!("acknowledged by {by}: {}", what.join(", ")),
        Event::TakenOver { ended, .. } if ended.is_empty() => "taken over by another process".to_owned(),
        Event::TakenOver { ended, .. } => {
            format!("taken over by another process; ended first: {}", ended.join(", "))
        }
        Event::Warned { what } => format!("WARNING: {what}"),
        Event::Ended { ending, exit, message, hold_ms, ms } => format!(
            "ended: {}, exit {exit}, after {}, users waited {}: {message}",
            ending.word(),
            duration_ms(*ms),
            duration_ms(*hold_ms)
        ),
    }
}

fn check(check: &Check) -> String {
    let mut words: Vec<String> = vec![one_line(check.why())];
    words.extend(blanks(check).iter().map(|b| match b.block {
        true => format!("{}: {}", b.label, evidence::one_line(&b.value.replace('\n', " / "))),
        false => format!("{}: {}", b.label, b.value),
    }));
    words.retain(|w| !w.is_empty());
    let after = if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) };
    format!("{} [{}] {}{after}", verdict_word(check.verdict), check.id, one_line(&check.name))
}
