//! The result in words: what a person wants to know first.

use super::evidence::{duration_ms, one_line, text, utc};
use super::{Answer, ItemReport, Report};
use crate::check::Verdict;
use crate::plan::Step;
use crate::record::{Ending, Kind};

/// How a result or a box is coloured; the words say the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tone {
    Good,
    Careful,
    Bad,
    Quiet,
}

/// At most eight short lines for the terminal at the end of a run.
#[must_use]
pub fn summary(report: &Report) -> Vec<String> {
    let mut lines = vec![one_line(&report.message)];
    if let Some(trouble) = report.undo_failure.as_ref().or(report.failure.as_ref()) {
        let why = if trouble.why.is_empty() { String::new() } else { format!(": {}", trouble.why) };
        lines.push(format!("Why: {}", one_line(&format!("{}{why}", trouble.what))));
        if !trouble.next.is_empty() {
            lines.push(format!("Next: {}", one_line(&trouble.next)));
        }
    }
    lines.push(format!("Data: {}", data(report)));
    lines.push(format!("Time: {}", time(report)));
    lines.push(format!("Checks: {}", tally(report)));
    if let Some(first) = report.warnings.first() {
        let more = report.warnings.len() - 1;
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        lines.push(format!("Warning: {}{more}", one_line(first)));
    }
    lines
}

/// The result in a word or two.
pub(super) fn result(report: &Report) -> (Tone, &'static str) {
    match (report.ending, report.exit, report.kind) {
        (Some(Ending::Live), Some(0), _) => (Tone::Good, "LIVE"),
        (Some(Ending::Live), ..) => (Tone::Careful, "LIVE, BUT A LATER STEP FAILED"),
        (Some(Ending::RolledBack), Some(0), Kind::Rollback) => (Tone::Good, "ROLLED BACK"),
        (Some(Ending::RolledBack), _, Kind::Rollback) => {
            (Tone::Careful, "ROLLED BACK, BUT A LATER STEP FAILED")
        }
        (Some(Ending::RolledBack), ..) => (Tone::Bad, "NOT LIVE: ROLLED BACK"),
        (Some(Ending::Undone), _, Kind::Deploy) => (Tone::Bad, "NOT LIVE: UNDONE"),
        (Some(Ending::Undone), _, Kind::Rollback) => (Tone::Bad, "NOT ROLLED BACK: UNDONE"),
        (Some(Ending::Unchanged), _, Kind::Deploy) => (Tone::Careful, "NOT LIVE: NOTHING CHANGED"),
        (Some(Ending::Unchanged), Some(0), Kind::Rehearse) => (Tone::Good, "REHEARSED: NOTHING CHANGED"),
        (Some(_), _, Kind::Rehearse) => (Tone::Careful, "REHEARSED, AND NOT READY: NOTHING CHANGED"),
        (Some(Ending::Unchanged), _, Kind::Rollback) => (Tone::Careful, "NOT ROLLED BACK: NOTHING CHANGED"),
        (None, ..) if report.undo_failure.is_some() => (Tone::Bad, "NOT RESOLVED: A PERSON IS NEEDED"),
        (None, ..) => (Tone::Careful, "NOT ENDED"),
    }
}

/// The message without the words that [`result`] says already.
pub(super) fn message(report: &Report) -> String {
    let said = [
        "Live. ",
        "Live, but a later step failed. ",
        "Undone: ",
        "Rolled back. ",
        "Not resolved: ",
        "Not ended: ",
    ];
    let words = one_line(&report.message);
    let rest = said.iter().find_map(|said| words.strip_prefix(said)).unwrap_or(&words);
    let mut letters = rest.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Whether the data is safe, as far as this run looked.
pub(super) fn data(report: &Report) -> String {
    let verdict = |id| report.item(id).and_then(|item| item.verdict);
    let migrate = report.steps.iter().find(|s| s.step == Step::Migrate);
    let mut words = match (report.ending, migrate, verdict("verify.counts")) {
        (Some(Ending::Unchanged), ..) => "the database was not touched; ",
        (_, Some(step), _) if step.undo.is_some() => "the database was put back as it was; ",
        (Some(Ending::Undone), None, _) => "the database was not changed; ",
        (None, None, _) => "the database had not been changed when last recorded; ",
        (None, ..) if report.undo_failure.is_some() => "the database was NOT put back; ",
        (.., Some(Verdict::Pass)) => "row counts were compared and are as they should be; ",
        (.., Some(Verdict::Fail)) => "row counts are NOT as they should be; ",
        (.., Some(Verdict::Unknown | Verdict::Skipped)) => "row counts could not be compared; ",
        (.., None) => "row counts were not compared in this run; ",
    }
    .to_owned();
    words += &match (backup(report), verdict("backup.verify")) {
        (Some(file), Some(Verdict::Pass)) => format!("verified backup: {file}"),
        (Some(file), _) => format!("backup, NOT verified: {file}"),
        (None, _) => "no backup was made in this run".to_owned(),
    };
    words
}

/// The backup's file, as the step that made it saw it.
pub(super) fn backup(report: &Report) -> Option<String> {
    let of = |id, name| report.item(id)?.checks.iter().rev().find_map(|o| o.check.evidence.get(name));
    let file = of("backup.create", "file").or_else(|| of("backup.record", "file"));
    file.or_else(|| of("backup.record", "primary")).map(|file| text("file", file))
}

fn time(report: &Report) -> String {
    format!("{}; users {}", duration_ms(report.ms), waited(report))
}

fn waited(report: &Report) -> String {
    let predicted = match report.predicted_hold_ms {
        Some(ms) if ms > 0 => format!(" (predicted {})", duration_ms(ms)),
        _ => String::new(),
    };
    match report.hold_ms {
        0 => "did not have to wait".to_owned(),
        ms if report.hold.is_some() && report.ending.is_none() => {
            format!("had been waiting for {} when last recorded{predicted}", duration_ms(ms))
        }
        ms => format!("waited up to {}{predicted}", duration_ms(ms)),
    }
}

/// "41 passed, 1 FAILED, 2 unknown, 3 skipped".
pub(super) fn tally(report: &Report) -> String {
    let all = || report.items.iter().flat_map(|item| &item.checks).chain(&report.other);
    let count = |verdict| all().filter(|o| o.check.verdict == verdict).count();
    let mut words = vec![format!("{} passed", count(Verdict::Pass))];
    let others =
        [(Verdict::Fail, "FAILED"), (Verdict::Unknown, "unknown"), (Verdict::Skipped, "not applicable")];
    words.extend(
        others
            .map(|(verdict, word)| (count(verdict), word))
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, word)| format!("{n} {word}")),
    );
    words.join(", ")
}

/// The words before the name of whoever asked.
pub(super) fn signer(report: &Report) -> &'static str {
    match report.kind {
        Kind::Deploy => "Deployed by",
        Kind::Rollback => "Rolled back by",
        Kind::Rehearse => "Rehearsed by",
    }
}

/// The key facts, as label and value.
pub(super) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Run", format!("{} ({} of {})", report.run, report.kind.word(), one_line(&report.app))),
        (signer(report), one_line(&report.by)),
    ];
    if let Some(asked) = &report.asked {
        facts.push(("Asked for", one_line(asked)));
    }
    if let Some(release) = &report.release {
        facts.push(("Release", release.id.to_string()));
        facts.push(("Commit", format!("{} on {}", one_line(&release.commit), one_line(&release.branch))));
        let author =
            if release.author.is_empty() { String::new() } else { format!(", by {}", release.author) };
        if !release.subject.is_empty() {
            facts.push(("Changes", one_line(&format!("{}{author}", release.subject))));
        }
    }
    facts.push(("Live before", report.from.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)));
    facts.push(("Started", utc(&report.started_at)));
    let ended = report.ended_at.as_ref().map_or_else(|| "not ended".to_owned(), |at| utc(at));
    facts.push(("Ended", format!("{ended}, after {}", duration_ms(report.ms))));
    facts.push(("Users", waited(report)));
    let reasons = report.reasons.iter().map(|r| one_line(r)).collect::<Vec<_>>().join("; ");
    if let Some(strategy) = report.strategy {
        facts.push(("Strategy", format!("{}, because {reasons}", strategy.word())));
    }
    if let Some(rehearsal) = &report.rehearsal {
        let pending = serde_json::to_value(&rehearsal.pending).unwrap_or_default();
        facts.push((
            "Migrations",
            if rehearsal.migrates_itself {
                "the app migrates by itself".to_owned()
            } else {
                text("pending", &pending)
            },
        ));
    }
    if !report.acknowledged.is_empty() {
        facts.push(("Acknowledged", one_line(&report.acknowledged.join(", "))));
    }
    facts.push(("Checks", tally(report)));
    if let Some(exit) = report.exit {
        facts.push(("Exit code", exit.to_string()));
    }
    facts
}

/// How a box stands: tone, the word that marks it (empty for a plain pass), and what more there is to say.
pub(super) fn standing(item: &ItemReport) -> (Tone, &'static str, String) {
    let reason = |words: &str| match &item.reason {
        Some(reason) => format!("{words}: {}", one_line(reason)),
        None => words.to_owned(),
    };
    let why = || {
        let worst = item.checks.iter().filter(|o| Some(o.check.verdict) == item.verdict);
        let whys: Vec<String> = worst.map(|o| one_line(o.check.why())).filter(|w| !w.is_empty()).collect();
        whys.join("; ")
    };
    match (item.answer, item.verdict) {
        (Answer::Open, _) => (Tone::Careful, "open", reason("only a person can know")),
        (Answer::NotNeeded, _) => (Tone::Quiet, "", reason("not needed")),
        (Answer::NotYet, _) => (Tone::Quiet, "", reason("not looked at in this run")),
        (Answer::Answered, Some(Verdict::Fail)) => (Tone::Bad, "FAILED", why()),
        (Answer::Answered, Some(Verdict::Unknown)) => (Tone::Careful, "UNKNOWN", why()),
        (Answer::Answered, Some(Verdict::Skipped)) => (Tone::Quiet, "not applicable", why()),
        (Answer::Answered, _) => (Tone::Good, "", String::new()),
    }
}

/// The word for a check's verdict; the bad ones in capitals, so that they are seen without colour too.
pub(super) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAILED",
        Verdict::Unknown => "UNKNOWN",
        Verdict::Skipped => "not applicable",
    }
}

/// The tone of a verdict.
pub(super) fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Pass => Tone::Good,
        Verdict::Fail => Tone::Bad,
        Verdict::Unknown => Tone::Careful,
        Verdict::Skipped => Tone::Quiet,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_last_lines_on_the_terminal() {
        let shown = |entries: Vec<_>| summary(&Report::of(&entries)).join("\n");
        insta::assert_snapshot!(shown(sample::live()), @r#"
        Live. Release 000012-3fa9c1b serves. Requests waited up to 900 ms.
        Data: row counts were compared and are as they should be; verified backup: backups/store.db.backup.20261123_034815
        Time: 1 min 21 s; users waited up to 900 ms (predicted 650 ms)
        Checks: 21 passed, 1 unknown, 1 not applicable
        Warning: the old release's log could not be compressed
        "#);
        insta::assert_snapshot!(shown(sample::undone()), @r#"
        Undone: production is as it was, no data was lost. Release 000011-77b0e02 serves. Requests waited up to 1479 ms.
        Why: Checkout process works failed: the answer was 500 instead of 303
        Next: mend it and deploy again; `plimsoll show` has the evidence of "Prove the new release"
        Data: the database was put back as it was; verified backup: backups/store.db.backup.20261123_034815
        Time: 21.8 s; users waited up to 1.5 s (predicted 650 ms)
        Checks: 24 passed, 1 FAILED, 1 not applicable
        "#);
        insta::assert_snapshot!(shown(sample::frozen()), @r#"
        Not resolved: the undo stopped at "Migrate the database" (the restore would lose 1 row of orders: somebody else wrote to the database in the hold). Nothing was overwritten. The door stays shut. The snapshot taken in the hold is kept. Go on with `plimsoll resume`.
        Why: the restore would lose 1 row of orders: somebody else wrote to the database in the hold
        Next: plimsoll rollback --acknowledge set-aside:orders
        Data: the database was NOT put back; verified backup: backups/store.db.backup.20261123_034815
        Time: 21.2 s; users had been waiting for 948 ms when last recorded (predicted 650 ms)
        Checks: 18 passed, 1 FAILED, 1 not applicable
        "#);
    }

    #[test]
    fn live_and_finished_are_different_words() {
        let mut report = Report::of(&sample::live());
        assert_eq!(result(&report), (Tone::Good, "LIVE"));
        report.exit = Some(crate::record::exit::LIVE_BUT);
        assert_eq!(result(&report), (Tone::Careful, "LIVE, BUT A LATER STEP FAILED"));
        assert_eq!(result(&Report::of(&sample::frozen())).1, "NOT RESOLVED: A PERSON IS NEEDED");
        let counts = report.items.iter_mut().find(|i| i.id == "verify.counts").unwrap();
        counts.verdict = None;
        assert!(data(&report).starts_with("row counts were not compared in this run; "));
    }
}
