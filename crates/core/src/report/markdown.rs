//! The paper form, filled in.

use std::fmt::Write as _;

use super::evidence::{Blank, blanks, duration_ms, one_line, text, utc};
use super::summary::{facts, result, standing, verdict_word};
use super::{Answer, ItemReport, Observed, Report, StepReport, Trouble};
use crate::check::{Check, Verdict};
use crate::checklist::Phase;

/// The report as Markdown (GitHub's tables and boxes).
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    let release = report.release.as_ref().map_or_else(String::new, |r| format!(" {}", r.id));
    heading(&mut out, 1, &format!("{} of {}{release}", title(report), report.app));
    line(&mut out, &format!("**{}.** {}", result(report).1, escape(&report.message)));
    for trouble in report.undo_failure.iter().chain(&report.failure) {
        out.push('\n');
        failure(&mut out, trouble);
    }
    line(&mut out, "\n| | |\n|---|---|");
    for (label, value) in facts(report) {
        line(&mut out, &format!("| {label} | {} |", escape(&value)));
    }
    for phase in Phase::ALL {
        heading(&mut out, 2, phase.title());
        for item in report.phase(phase) {
            form(&mut out, item);
        }
    }
    if !report.other.is_empty() {
        heading(&mut out, 2, "Other observations");
        for seen in &report.other {
            observation(&mut out, "", &seen.check);
        }
    }
    heading(&mut out, 2, "Steps");
    line(&mut out, "| Step | Result | Began after | Took |\n|---|---|---|---|");
    for step in &report.steps {
        let took = step.ms.map_or_else(|| "not ended".to_owned(), duration_ms);
        let began = duration_ms(step.at_ms);
        line(&mut out, &format!("| {} | {} | {began} | {took} |", step.title, escape(&step_words(step))));
    }
    if let Some(hold) = report.hold {
        let (from, long) = (duration_ms(hold.at_ms), duration_ms(hold.ms));
        line(&mut out, &format!("\nUsers had to wait from {from} on, for {long}."));
    }
    heading(&mut out, 2, "Warnings");
    if report.warnings.is_empty() {
        line(&mut out, "None.");
    }
    for warning in &report.warnings {
        line(&mut out, &format!("- {}", escape(warning)));
    }
    heading(&mut out, 2, "Sign-off");
    line(&mut out, &format!("- Deployed by: {} ({})", escape(&report.by), utc(&report.started_at)));
    signatures(&mut out, report);
    out
}

pub(super) fn title(report: &Report) -> &'static str {
    match report.kind {
        crate::record::Kind::Deploy => "Deployment",
        crate::record::Kind::Rollback => "Rollback",
    }
}

/// A step's result in words: "done", "FAILED (why), undone in 12 ms".
pub(super) fn step_words(step: &StepReport) -> String {
    let mut words = match step.state {
        super::StepState::Failed => "FAILED".to_owned(),
        super::StepState::Undone => "done".to_owned(),
        state => state.word().to_owned(),
    };
    if let Some(undo) = step.undo {
        let _ = write!(words, ", undone in {}", duration_ms(undo.ms));
    } else if step.state == super::StepState::Undone {
        "interrupted".clone_into(&mut words);
    }
    words
}

fn failure(out: &mut String, trouble: &Trouble) {
    let step = trouble.step.map_or_else(String::new, |s| format!(" at \"{}\"", s.title()));
    line(out, &format!("> **FAILED{step}:** {}", escape(&trouble.what)));
    for (label, words) in [("Why", &trouble.why), ("Next", &trouble.next)] {
        if !words.is_empty() {
            line(out, &format!(">\n> **{label}:** {}", escape(words)));
        }
    }
}

/// One box with its blanks.
fn form(out: &mut String, item: &ItemReport) {
    let (_, mark, words) = standing(item);
    let ticked = item.answer == Answer::Answered && matches!(item.verdict, Some(Verdict::Pass));
    let tick = if ticked { 'x' } else { ' ' };
    let mark = if mark.is_empty() { String::new() } else { format!("{mark}: ") };
    let one = match item.checks.as_slice() {
        [one] => Some(&one.check),
        _ => None,
    };
    let mut after = vec![one.map(|c| escape(&c.name)).unwrap_or_default(), escape(&words)];
    after.retain(|w| !w.is_empty());
    let after = if after.is_empty() { String::new() } else { format!(" — {}", after.join(": ")) };
    line(out, &format!("- [{tick}] **{mark}{}**{after}", escape(item.title)));
    if item.id == "verify.smoke" && !item.checks.is_empty() {
        smoke(out, &item.checks);
        return;
    }
    match one {
        Some(check) => {
            if let Some(time) = stopped_at(&item.checks[0]) {
                line(out, &format!("  - {time}"));
            }
            blanks(check).iter().for_each(|b| blank(out, "  ", b));
        }
        None => item.checks.iter().for_each(|seen| observation(out, "  ", &seen.check)),
    }
}

/// The paper asks when the app was stopped.
pub(super) fn stopped_at(seen: &Observed) -> Option<String> {
    let stopped = matches!(seen.check.id.as_str(), "deploy.stop" | "back.stop");
    (stopped && seen.check.verdict == Verdict::Pass).then(|| format!("Time stopped: {}", utc(&seen.at)))
}

/// A check among others: on one line, output of programs below.
fn observation(out: &mut String, indent: &str, check: &Check) {
    let blanks = blanks(check);
    let mut words: Vec<String> = vec![escape(check.why())];
    words.extend(
        blanks.iter().filter(|b| !b.block).map(|b| format!("{}: {}", escape(&b.label), escape(&b.value))),
    );
    words.retain(|w| !w.is_empty());
    let after = if words.is_empty() { String::new() } else { format!(" — {}", words.join("; ")) };
    line(out, &format!("{indent}- {}: {}{after}", verdict_word(check.verdict), escape(&check.name)));
    blanks.iter().filter(|b| b.block).for_each(|b| blank(out, &format!("{indent}  "), b));
}

fn blank(out: &mut String, indent: &str, blank: &Blank) {
    if !blank.block {
        return line(out, &format!("{indent}- {}: {}", escape(&blank.label), escape(&blank.value)));
    }
    line(out, &format!("{indent}- {}:\n", escape(&blank.label)));
    // A fence longer than any in the text cannot be closed by it.
    let longest = blank.value.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    for text in std::iter::once(fence.as_str()).chain(blank.value.lines()).chain([fence.as_str()]) {
        line(out, &format!("{indent}  {text}"));
    }
    out.push('\n');
}

fn smoke(out: &mut String, checks: &[Observed]) {
    line(out, "\n  | Test | Verdict | Status | Took | Seen |\n  |---|---|---|---|---|");
    for Observed { check, .. } in checks {
        let cells = smoke_cells(check);
        line(out, &format!("  | {} |", cells.map(|cell| escape(&cell)).join(" | ")));
    }
    out.push('\n');
}

/// Name, verdict, status, time, and what was seen instead of what was expected.
pub(super) fn smoke_cells(check: &Check) -> [String; 5] {
    let shown = |name: &str| check.evidence.get(name).map(|v| text(name, v)).unwrap_or_default();
    let seen = if check.verdict == Verdict::Pass {
        String::new()
    } else {
        let mut seen = vec![one_line(check.why())];
        let pairs = [("expected", "expected "), ("got", "got ")];
        seen.extend(pairs.map(|(name, words)| match shown(name) {
            value if value.is_empty() => value,
            value => format!("{words}{value}"),
        }));
        seen.retain(|w| !w.is_empty());
        seen.join("; ")
    };
    let verdict = verdict_word(check.verdict).to_owned();
    [one_line(&check.name), verdict, shown("status"), shown("ms"), seen]
}

fn signatures(out: &mut String, report: &Report) {
    let signed = report.item("after.sign").map_or(&[][..], |item| &item.checks);
    if signed.is_empty() {
        line(out, "- Verified by: ____________ Date: ____________ Time: ____________");
    }
    for seen in signed {
        observation(out, "", &seen.check);
    }
    let trouble = report.failure.as_ref();
    let issues = trouble.map_or_else(|| "none recorded".to_owned(), |t| escape(&t.what));
    line(out, &format!("- Issues encountered: {issues}"));
    line(out, &format!("- Log: {}", escape(&report.log)));
}

fn heading(out: &mut String, level: usize, words: &str) {
    let gap = if level == 1 { "" } else { "\n" };
    line(out, &format!("{gap}{} {}\n", "#".repeat(level), escape(words)));
}

fn line(out: &mut String, words: &str) {
    out.push_str(words);
    out.push('\n');
}

/// The text as text: nothing in it becomes markup, and names with underscores stay readable.
fn escape(words: &str) -> String {
    let words = one_line(words);
    let mut out = String::with_capacity(words.len());
    let mut before = ' ';
    let mut letters = words.chars().peekable();
    while let Some(c) = letters.next() {
        let inside = before.is_alphanumeric() && letters.peek().is_some_and(|next| next.is_alphanumeric());
        let special = match c {
            '_' => !inside,
            '&' => letters.peek().is_some_and(|next| next.is_alphanumeric() || *next == '#'),
            c => matches!(c, '\\' | '`' | '*' | '[' | ']' | '<' | '|' | '~'),
        };
        if special {
            out.push('\\');
        }
        out.push(c);
        before = c;
    }
    out
}
