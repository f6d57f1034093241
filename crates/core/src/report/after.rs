//! What is written beside the reports: the template of a post-mortem with the timeline, and the operations changelog.

use std::fmt::Write as _;

use super::evidence::{duration_ms, one_line, utc};
use super::summary::{message, result};
use super::{Report, Trouble};
use crate::record::{Ending, Entry};

/// The name of the template beside the reports.
pub const POST_MORTEM: &str = "postmortem.md";

/// Whether somebody should write down what went wrong.
#[must_use]
pub fn wants_post_mortem(report: &Report) -> bool {
    report.ending.is_some() && (report.exit != Some(0) || report.ending == Some(Ending::RolledBack))
}

/// The template: what happened when, and room for what only people know.
#[must_use]
pub fn post_mortem(report: &Report, entries: &[Entry]) -> String {
    let mut out = format!(
        "# Post-mortem of run {} of {}\n\n**{}.** {}\n\n",
        report.run,
        one_line(&report.app),
        result(report).1,
        message(report)
    );
    let _ = writeln!(out, "Complete this file, then note its end result in the record:");
    let _ = writeln!(
        out,
        "`plimsoll answer diag.post \"what, root cause, prevention\" --by NAME --run {}`\n",
        report.run
    );
    out += "## What went wrong\n\n";
    for Trouble { step, what, why, next } in report.failure.iter().chain(&report.undo_failure) {
        let at = step.map_or_else(String::new, |step| format!(" (at \"{}\")", step.title()));
        let _ = writeln!(
            out,
            "- {}{at}: {}\n- Plimsoll's advice: {}",
            one_line(what),
            one_line(why),
            one_line(next)
        );
    }
    let _ = writeln!(out, "- Users waited: {}\n- What users saw: \n", duration_ms(report.hold_ms));
    out += "## Root cause\n\n- \n\n## How to prevent it\n\n- [ ] \n\n## Timeline (UTC)\n\n| Time | Event |\n|---|---|\n";
    for entry in entries {
        let words = super::log::event(&entry.event);
        let important =
            !matches!(entry.event, crate::record::Event::Checked { .. }) || words.contains("FAILED");
        if important {
            let _ = writeln!(out, "| {} | {} |", utc(&entry.at), one_line(&words).replace('|', "\\|"));
        }
    }
    out
}

/// The operations changelog: what was deployed when and with what result, the newest first.
#[must_use]
pub fn changelog(app: &str, reports: &[Report]) -> String {
    let mut out = format!(
        "# Deployments of {}\n\nWritten by Plimsoll after each run, from the records in runs/: what is added by hand is lost.\n",
        one_line(app)
    );
    let mut reports: Vec<&Report> = reports.iter().filter(|report| !report.started_at.is_empty()).collect();
    reports.sort_by_key(|report| std::cmp::Reverse(report.run));
    for report in reports {
        let release = report.release.as_ref().map_or_else(|| "no release".to_owned(), |r| r.id.to_string());
        let _ = writeln!(
            out,
            "\n## Run {}: {} {release}, {}\n",
            report.run,
            report.kind.word(),
            utc(&report.started_at)
        );
        let outcome = match report.ending {
            Some(Ending::Live) => "SUCCESS",
            Some(Ending::RolledBack) if report.kind == crate::record::Kind::Rollback => "SUCCESS",
            Some(_) => "FAILED",
            None => "NOT ENDED",
        };
        let _ = writeln!(out, "- Result: {outcome}. {}", one_line(&report.message));
        if let Some(release) = &report.release {
            let _ = writeln!(
                out,
                "- Version: {} ({} on {})",
                release.id,
                release.commit,
                one_line(&release.branch)
            );
            let _ =
                writeln!(out, "- Changes: {} ({})", one_line(&release.subject), one_line(&release.author));
        }
        for commit in commits(report) {
            let _ = writeln!(out, "  - {}", one_line(&commit));
        }
        if let Some(trouble) = &report.failure {
            let _ = writeln!(out, "- Why: {}: {}", one_line(&trouble.what), one_line(&trouble.why));
        }
        let signed: Vec<String> = report
            .signatures
            .iter()
            .map(|s| format!("{} {}", s.signed.role.word(), one_line(&s.signed.name)))
            .collect();
        let signed = if signed.is_empty() { "nobody yet".to_owned() } else { signed.join(", ") };
        let _ = writeln!(out, "- By: {}; signed: {signed}", one_line(&report.by));
    }
    out
}

/// The subjects of the commits in the release, where they were seen.
fn commits(report: &Report) -> Vec<String> {
    let seen = report.item("pre.review").into_iter().flat_map(|item| &item.checks);
    let subjects = seen.filter_map(|seen| seen.check.evidence.get("subjects")?.as_array());
    subjects.flatten().filter_map(|subject| subject.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_failed_run_gets_a_post_mortem_with_its_timeline_and_a_good_one_none() {
        let entries = sample::undone();
        let report = Report::of(&entries);
        assert!(wants_post_mortem(&report) && !wants_post_mortem(&Report::of(&sample::live())));
        let text = post_mortem(&report, &entries);
        for words in [
            "## What went wrong",
            "## Root cause",
            "## How to prevent it",
            "UNDO started",
            "FAILED [verify.smoke]",
        ] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
        assert!(!text.contains("pass [deploy.pull]"), "what went well fills pages");
    }

    #[test]
    fn the_changelog_has_each_run_with_version_time_changes_and_result() {
        let live = Report::of(&sample::live());
        let undone = Report { run: 13, ..Report::of(&sample::undone()) };
        let text = changelog("grocery", &[live, undone]);
        let (newest, oldest) = (text.find("## Run 13").unwrap(), text.find("## Run 12").unwrap());
        assert!(newest < oldest, "{text}");
        for words in [
            "SUCCESS. Live.",
            "FAILED. Undone",
            "2026-11-23 03:48:00 UTC",
            "Cart: keep",
            "signed: nobody yet",
        ] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
    }
}
