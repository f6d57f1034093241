//! The deployment notes that the paper wants archived: one line an event, then backup, counts and verification.

use std::fmt::Write as _;

use super::evidence::{blanks, duration_ms, one_line, text};
use super::summary::{backup, message, result, standing, tally, verdict_word};
use super::timeline::leaves_something;
use super::{Report, evidence};
use crate::check::Check;
use crate::record::{Entry, Event};

/// The run as plain text: one line an event with its time in UTC, at the end what the paper asks for.
#[must_use]
pub fn log(entries: &[Entry]) -> String {
    let mut out = String::new();
    for entry in entries {
        let indent = if matches!(entry.event, Event::Checked { .. }) { "  " } else { "" };
        let _ = writeln!(out, "{}  {indent}{}", one_line(&entry.at), one_line(&event(&entry.event)));
    }
    let report = Report::of(entries);
    let _ = writeln!(out, "\nResult: {}. {}", result(&report).1, message(&report));
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
    let _ = writeln!(out, "\nVerification results:");
    for item in report.items.iter().filter(|item| item.phase == "verify" || item.id == "back.verify") {
        let (_, mark, words) = standing(item);
        let _ = writeln!(out, "  {}: {}", item.title, state(mark, &words));
        for seen in &item.checks {
            let _ = writeln!(out, "    {}", check(&seen.check));
        }
    }
    let _ = writeln!(out, "\nAll checks of the run: {}", tally(&report));
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

pub(super) fn event(event: &Event) -> String {
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
        Event::Rehearsed { rehearsal } => {
            let pending = serde_json::to_value(&rehearsal.pending).unwrap_or_default();
            format!("rehearsed: pending migrations: {}", text("pending", &pending))
        }
        Event::Planned { decision } => format!(
            "planned: {}, predicted hold {}; {}",
            decision.strategy.word(),
            duration_ms(decision.predicted_hold_ms),
            decision.reasons.join("; ")
        ),
        Event::StepStarted { step } => format!("{}: started", step.title()),
        Event::Held { .. } => "the door is being shut: requests wait".to_owned(),
        Event::Checked { check: seen, .. } => check(seen),
        Event::StepDone { step, ms } => format!("{}: done in {}", step.title(), duration_ms(*ms)),
        Event::StepFailed { step, failure, ms } => {
            let next = if failure.next.is_empty() { "" } else { "; next: " };
            format!("{}: FAILED after {}: {failure}{next}{}", step.title(), duration_ms(*ms), failure.next)
        }
        Event::Committed { release } => format!("COMMIT POINT: {release} may take writes from here"),
        Event::UndoStarted { failure } => format!("UNDO started: {failure}"),
        // The undo passes every step; "undone" at the backup would make a person fear for it.
        Event::UndoneStep { step, .. } if !leaves_something(*step) => {
            format!("{}: nothing to undo", step.title())
        }
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
        Event::Reconciled { reconciliation } => {
            let checks = reconciliation.checks();
            let lines = checks.iter().map(|check| {
                let seen = check.evidence.iter().map(|(name, value)| match value.as_str() {
                    Some(text) => format!("{name}: {text}"),
                    None => format!("{name}: {value}"),
                });
                format!("{} ({})", check.name, seen.collect::<Vec<_>>().join(", "))
            });
            one_line(&lines.collect::<Vec<_>>().join("; "))
        }
        Event::Told { told } => {
            let (group, to, way) = (&told.group, &told.to, told.way.word());
            let why = if told.why.is_empty() { String::new() } else { format!(": {}", one_line(&told.why)) };
            format!(
                "message \"{}\" to {group} ({to}) by {way}: {}{why}",
                told.occasion.word(),
                told.delivery.word()
            )
        }
        Event::Watched { check: seen } => format!("watch: {}", check(seen)),
        Event::SpotChecked { check: seen, .. } => format!("spot check: {}", check(seen)),
        Event::Noted { checks } => {
            let checks: Vec<String> = checks.iter().map(check).collect();
            format!("noted: {}", checks.join("; "))
        }
        Event::Charted { samples } => format!("charted: {} samples of the traffic", samples.len()),
        Event::Locked { why } => format!("LOCKED: {}", one_line(why)),
        Event::TakenBack { run, why } => format!("ROLLED BACK by run {run}: {}", one_line(why)),
        Event::Answered { answer } => {
            let run = answer.run.map_or_else(String::new, |run| format!(", in run {run}"));
            format!("answered by {} ({}){run}: [{}] {}", answer.by, answer.account, answer.item, answer.text)
        }
        Event::Signed { signature } => {
            let note = signature.note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
            format!("SIGNED as {} by {} ({}){note}", signature.role.word(), signature.name, signature.account)
        }
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

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_log_of_an_undone_run() {
        insta::assert_snapshot!(log(&sample::undone()), @r#"
        2026-11-23T03:48:00.000Z  run 12 started: deploy of main for grocery, asked by asha; live: 000011-77b0e02; plimsoll 0.1.0
        2026-11-23T03:48:00.000Z  Fetch the code: started
        2026-11-23T03:48:00.640Z  release 000012-3fa9c1b: commit 3fa9c1b07d5e4c1a9b8e6f2d1c0a9b8e7f6d5c4b on main: Cart: keep <script>alert('x')</script> & *bold* | as text, by Ravi Kumar
        2026-11-23T03:48:00.640Z    pass [deploy.pull] Branch main pulled, no conflicts (Branch pulled: main; Commit hash: 3fa9c1b07d5e4c1a9b8e6f2d1c0a9b8e7f6d5c4b; Author: Ravi Kumar; Subject: Cart: keep <script>alert('x')</script> & *bold* | as text; Release: 000012-3fa9c1b)
        2026-11-23T03:48:00.640Z    pass [pre.review] Changes since 000011-77b0e02 (Files changed: app.py, migrations/0007_split_address.sql, templates/cart.html; Lines added: 182; Lines removed: 40; Commits: 3; Configuration changes (names): none)
        2026-11-23T03:48:00.640Z  Fetch the code: done in 640 ms
        2026-11-23T03:48:00.640Z  Build the release: started
        2026-11-23T03:48:14.890Z    pass [deploy.install] All build commands ended with 0 (Commands: python3 -m venv .venv, .venv/bin/pip install -r requirements.txt; Took: 14.2 s; Output: Collecting flask / Successfully installed flask-3.1.0)
        2026-11-23T03:48:14.890Z  Build the release: done in 14.2 s
        2026-11-23T03:48:14.890Z  Back up the database: started
        2026-11-23T03:48:17.190Z    pass [backup.create] Full backup of shared/store.db (Backup file created: backups/store.db.backup.20261123_034815; File size: 12.4 MB; Took: 845 ms)
        2026-11-23T03:48:17.190Z    pass [backup.verify] Read back and verified (Integrity check: ok; Foreign keys: yes; SHA-256: 9f2c1d; Took: 1.3 s)
        2026-11-23T03:48:17.190Z    pass [backup.counts] Rows before the deployment (Products: 60; Orders: 1,204; Users: 311; Regions: 8)
        2026-11-23T03:48:17.190Z    not applicable [backup.second] Second copy (no destination is configured)
        2026-11-23T03:48:17.190Z  Back up the database: done in 2.3 s
        2026-11-23T03:48:17.190Z  Rehearse on a copy: started
        2026-11-23T03:48:20.290Z    pass [pre.staging] Migrations on a copy (Pending migrations: v7: split_address (rebuild, 45 ms, foreign keys off, rebuild, touched orders); Took: 45 ms)
        2026-11-23T03:48:20.290Z    pass [pre.staging] Old release on the migrated copy (Took: 912 ms)
        2026-11-23T03:48:20.290Z    pass [pre.rollback] The restore was rehearsed (Estimated rollback time: 310 ms; Rollback mode: undo)
        2026-11-23T03:48:20.290Z  Rehearse on a copy: done in 3.1 s
        2026-11-23T03:48:20.290Z  rehearsed: pending migrations: v7: split_address (rebuild, 45 ms, foreign keys off, rebuild, touched orders)
        2026-11-23T03:48:20.290Z  planned: hold, predicted hold 650 ms; 1 pending migration(s) took 45 ms on a copy of the database
        2026-11-23T03:48:20.290Z  Hold requests at the door: started
        2026-11-23T03:48:20.290Z  the door is being shut: requests wait
        2026-11-23T03:48:20.320Z  Hold requests at the door: done in 30 ms
        2026-11-23T03:48:20.320Z  Stop the workers: started
        2026-11-23T03:48:20.325Z  Stop the workers: done in 5 ms
        2026-11-23T03:48:20.325Z  Stop the old release: started
        2026-11-23T03:48:20.435Z    pass [deploy.stop] 000011-77b0e02 stopped (Strategy: hold; Requests that waited: 3; Requests under way: 1; Drained in: 28 ms; Stopped in: 110 ms)
        2026-11-23T03:48:20.435Z  Stop the old release: done in 110 ms
        2026-11-23T03:48:20.435Z  Take the final snapshot: started
        2026-11-23T03:48:20.496Z  Take the final snapshot: done in 61 ms
        2026-11-23T03:48:20.496Z  Migrate the database: started
        2026-11-23T03:48:20.548Z    pass [deploy.migrate] Migrations applied (Migrations applied: v7: split_address (48 ms); Took: 52 ms; Class: rebuild; Mode: foreign keys off)
        2026-11-23T03:48:20.548Z  Migrate the database: done in 52 ms
        2026-11-23T03:48:20.548Z  Make the release current: started
        2026-11-23T03:48:20.552Z  Make the release current: done in 4 ms
        2026-11-23T03:48:20.552Z  Start the new release: started
        2026-11-23T03:48:20.942Z    pass [deploy.restart] The new release answers with its own id (Startup time: 388 ms; Release: 000012-3fa9c1b; Process id: 41377; Port: 40123)
        2026-11-23T03:48:20.942Z  Start the new release: done in 390 ms
        2026-11-23T03:48:20.942Z  Prove the new release: started
        2026-11-23T03:48:21.140Z    pass [verify.smoke] Homepage loads without errors (Took: 12 ms; Status: 200; Steps: 1)
        2026-11-23T03:48:21.140Z    pass [verify.smoke] Product listing shows all items (Took: 45 ms; Status: 200; Steps: 1)
        2026-11-23T03:48:21.140Z    pass [verify.smoke] Admin login works (Took: 130 ms; Status: 200; Steps: 1)
        2026-11-23T03:48:21.140Z    FAILED [verify.smoke] Checkout process works (the answer was 500 instead of 303; Expected: 303; Got: 500: no such column: street; Took: 71 ms; Status: 500)
        2026-11-23T03:48:21.140Z  Prove the new release: FAILED after 198 ms: Checkout process works failed: the answer was 500 instead of 303; next: mend it and deploy again; `plimsoll show` has the evidence of "Prove the new release"
        2026-11-23T03:48:21.140Z  UNDO started: Checkout process works failed: the answer was 500 instead of 303
        2026-11-23T03:48:21.140Z  Prove the new release: undoing
        2026-11-23T03:48:21.140Z  Prove the new release: nothing to undo
        2026-11-23T03:48:21.140Z  Start the new release: undoing
        2026-11-23T03:48:21.235Z    pass [deploy.stop] 000012-3fa9c1b stopped (Stopped in: 95 ms)
        2026-11-23T03:48:21.235Z  Start the new release: undone in 95 ms
        2026-11-23T03:48:21.235Z  Make the release current: undoing
        2026-11-23T03:48:21.238Z  Make the release current: undone in 3 ms
        2026-11-23T03:48:21.238Z  Migrate the database: undoing
        2026-11-23T03:48:21.358Z    pass [back.restore] PRE put back and verified (Backup restored: runs/000012/pre.db; Integrity: ok)
        2026-11-23T03:48:21.358Z    pass [back.rows] Nobody else wrote in the hold (Set aside rows: 0)
        2026-11-23T03:48:21.358Z  Migrate the database: undone in 120 ms
        2026-11-23T03:48:21.358Z  Take the final snapshot: undoing
        2026-11-23T03:48:21.358Z  Take the final snapshot: nothing to undo
        2026-11-23T03:48:21.358Z  Stop the old release: undoing
        2026-11-23T03:48:21.763Z    pass [deploy.restart] The old release answers (Startup time: 402 ms; Process id: 41400)
        2026-11-23T03:48:21.763Z  Stop the old release: undone in 405 ms
        2026-11-23T03:48:21.763Z  Stop the workers: undoing
        2026-11-23T03:48:21.765Z  Stop the workers: undone in 2 ms
        2026-11-23T03:48:21.765Z  Hold requests at the door: undoing
        2026-11-23T03:48:21.767Z  Hold requests at the door: undone in 2 ms
        2026-11-23T03:48:21.767Z  Rehearse on a copy: undoing
        2026-11-23T03:48:21.769Z  Rehearse on a copy: nothing to undo
        2026-11-23T03:48:21.769Z  Back up the database: undoing
        2026-11-23T03:48:21.771Z  Back up the database: nothing to undo
        2026-11-23T03:48:21.771Z  Build the release: undoing
        2026-11-23T03:48:21.773Z  Build the release: undone in 2 ms
        2026-11-23T03:48:21.773Z  Fetch the code: undoing
        2026-11-23T03:48:21.775Z  Fetch the code: nothing to undo
        2026-11-23T03:48:21.775Z  ended: undone, exit 1, after 21.8 s, users waited 1.5 s: Undone: production is as it was, no data was lost. Release 000011-77b0e02 serves. Requests waited up to 1479 ms.

        Result: NOT LIVE: UNDONE. Production is as it was, no data was lost. Release 000011-77b0e02 serves. Requests waited up to 1479 ms.
        Backup location: backups/store.db.backup.20261123_034815

        Backup:
          Verify backup integrity: pass
            Integrity check: ok
            Foreign keys: yes
            SHA-256: 9f2c1d
            Took: 1.3 s
          Second copy on a drive/NAS or in S3: not applicable: no destination is configured
          Record primary, secondary, timestamp, counts: pass
            Primary backup: backups/store.db.backup.20261123_034815
            Secondary backup: none: no destination is configured
            Backup timestamp: 20261123_034815
            Row counts recorded: yes

        Data counts:
          Row counts before: products, orders, users, regions: pass
            Products: 60
            Orders: 1,204
            Users: 311
            Regions: 8
          Counts match the ones before: not looked at in this run: nothing looked at it in this run

        Verification results:
          Verification script: overall, failed checks: not looked at in this run: nothing looked at it in this run
          Counts match the ones before: not looked at in this run: nothing looked at it in this run
          Expected migration versions applied: not looked at in this run: nothing looked at it in this run
          Homepage, listing, search, cart, checkout, admin login, products, orders: FAILED: the answer was 500 instead of 303
            pass [verify.smoke] Homepage loads without errors (Took: 12 ms; Status: 200; Steps: 1)
            pass [verify.smoke] Product listing shows all items (Took: 45 ms; Status: 200; Steps: 1)
            pass [verify.smoke] Admin login works (Took: 130 ms; Status: 200; Steps: 1)
            FAILED [verify.smoke] Checkout process works (the answer was 500 instead of 303; Expected: 303; Got: 500: no such column: street; Took: 71 ms; Status: 500)
          No errors in the logs: not looked at in this run: the run did not come to "Watch for errors"
          Error rate for 10 minutes; new errors: not looked at in this run: the run did not come to "Watch for errors"
          Query time, page load, API response; slow queries: pass
            pass [verify.speed] Answers to the smoke tests (Half of the answers within: 45 ms; Slow queries: not known: the app logs none that is looked at; Slowest: Admin login works; Slowest: 130 ms)
          Verify the rollback: not looked at in this run: nothing looked at it in this run

        All checks of the run: 24 passed, 1 FAILED, 1 not applicable
        "#);
    }

    #[test]
    fn the_name_comes_from_the_first_event() {
        assert_eq!(log_name(&sample::live()), "deployment_20261123_0348.log");
        assert_eq!(log_name(&[]), "deployment_00000000_0000.log");
    }
}
