//! The paper form, filled in.

use std::fmt::Write as _;

use super::evidence::{Blank, blanks, duration_ms, one_line, text, utc};
use super::summary::{data, facts, message, result, standing, verdict_word};
use super::{Answer, ItemReport, Observed, Report, StepReport, Trouble};
use crate::check::{Check, Verdict};
use crate::checklist::Phase;
use crate::record::Role;

/// The report as Markdown (GitHub's tables and boxes).
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    let release = report.release.as_ref().map_or_else(String::new, |r| format!(" {}", r.id));
    heading(&mut out, 1, &format!("{} of {}{release}", title(report), report.app));
    line(
        &mut out,
        &format!("**{}.** {} Data: {}.", result(report).1, escape(&message(report)), escape(&data(report))),
    );
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
    line(&mut out, &format!("- Begun by: {} ({})", escape(&report.by), utc(&report.started_at)));
    signatures(&mut out, report);
    out
}

pub(super) fn title(report: &Report) -> &'static str {
    match report.kind {
        crate::record::Kind::Deploy => "Deployment",
        crate::record::Kind::Rollback => "Rollback",
        crate::record::Kind::Rehearse => "Rehearsal",
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
    for (role, words) in SIGNATURES {
        let Some(signature) = report.signed(role) else {
            line(out, &format!("- {words}: ____________ Date: ____________ Time: ____________"));
            continue;
        };
        line(out, &format!("- {words}: {} ({})", escape(&signature.signed.name), utc(&signature.at)));
    }
    let (issues, resolution) = issues(report);
    line(out, &format!("- Issues encountered: {}", escape(&issues)));
    line(out, &format!("- Resolution: {}", escape(&resolution)));
    line(
        out,
        &format!("- Closed: {}", if report.closed { "yes" } else { "not yet: two signatures close the run" }),
    );
    line(out, &format!("- Log: {}", escape(&report.log)));
}

/// Who signs, in the words of the paper.
pub(super) const SIGNATURES: [(Role, &str); 2] =
    [(Role::Deployer, "Deployed by"), (Role::Verifier, "Verified by")];

/// The issues of the run, and how they were resolved as the signers wrote.
pub(super) fn issues(report: &Report) -> (String, String) {
    let trouble = report.undo_failure.iter().chain(&report.failure).map(|t| t.what.clone());
    let issues: Vec<String> = trouble.chain(report.warnings.iter().cloned()).collect();
    let notes: Vec<String> = report.signatures.iter().filter_map(|s| s.signed.note.clone()).collect();
    let shown =
        |list: Vec<String>, none: &str| if list.is_empty() { none.to_owned() } else { list.join("; ") };
    let resolution = if issues.is_empty() { "not needed" } else { "not written down yet" };
    (shown(issues, "none recorded"), shown(notes, resolution))
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

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_deployment_that_went_well() {
        insta::assert_snapshot!(markdown(&Report::of(&sample::live())), @r#"
        # Deployment of grocery 000012-3fa9c1b

        **LIVE.** Release 000012-3fa9c1b serves. Requests waited up to 900 ms. Data: row counts were compared and are as they should be; verified backup: backups/store.db.backup.20261123_034815.

        | | |
        |---|---|
        | Run | 12 (deploy of grocery) |
        | Deployed by | asha |
        | Asked for | main |
        | Release | 000012-3fa9c1b |
        | Commit | 3fa9c1b07d5e4c1a9b8e6f2d1c0a9b8e7f6d5c4b on main |
        | Changes | Cart: keep \<script>alert('x')\</script> & \*bold\* \| as text, by Ravi Kumar |
        | Live before | 000011-77b0e02 |
        | Started | 2026-11-23 03:48:00 UTC |
        | Ended | 2026-11-23 03:49:21 UTC, after 1 min 21 s |
        | Users | waited up to 900 ms (predicted 650 ms) |
        | Strategy | hold, because 1 pending migration(s) took 45 ms on a copy of the database |
        | Migrations | v7: split_address (rebuild, 45 ms, foreign keys off, rebuild, touched orders) |
        | Acknowledged | drop:sso_nonce |
        | Checks | 21 passed, 1 unknown, 1 not applicable |
        | Exit code | 0 |

        ## Before the deployment

        - [x] **Review changes: files, schema, configuration** — Changes since 000011-77b0e02
          - Files changed: app.py, migrations/0007_split_address.sql, templates/cart.html
          - Lines added: 182
          - Lines removed: 40
          - Commits: 3
          - Configuration changes (names): none
        - [ ] **Notify development, DevOps, business; window** — not looked at in this run: nobody was told: no message of this run is on record
        - [ ] **Schedule a low-traffic window and a back-up slot, UTC/IST** — not looked at in this run: no window is on record for this run
        - [x] **Test on staging**
          - pass: Migrations on a copy — Pending migrations: v7: split_address (rebuild, 45 ms, foreign keys off, rebuild, touched orders); Took: 45 ms
          - pass: Old release on the migrated copy — Took: 912 ms
        - [x] **Prepare the rollback plan: backup, steps, minutes** — The restore was rehearsed
          - Estimated rollback time: 310 ms
          - Rollback mode: undo

        ## Backup

        - [x] **Full backup: file, size, verified** — Full backup of shared/store.db
          - Backup file created: backups/store.db.backup.20261123_034815
          - File size: 12.4 MB
          - Took: 845 ms
        - [x] **Verify backup integrity** — Read back and verified
          - Integrity check: ok
          - Foreign keys: yes
          - SHA-256: 9f2c1d
          - Took: 1.3 s
        - [ ] **not applicable: Second copy on a drive/NAS or in S3** — Second copy: no destination is configured
        - [x] **Record primary, secondary, timestamp, counts** — Recorded in the journal and in the log
          - Primary backup: backups/store.db.backup.20261123_034815
          - Secondary backup: none: no destination is configured
          - Backup timestamp: 20261123_034815
          - Row counts recorded: yes
        - [x] **Row counts before: products, orders, users, regions** — Rows before the deployment
          - Products: 60
          - Orders: 1,204
          - Users: 311
          - Regions: 8

        ## Deployment

        - [x] **Stop the application (only if needed): status, time** — 000011-77b0e02 stopped
          - Time stopped: 2026-11-23 03:48:20 UTC
          - Strategy: hold
          - Requests that waited: 3
          - Requests under way: 1
          - Drained in: 28 ms
          - Stopped in: 110 ms
        - [x] **Pull the code: branch, commit, conflicts** — Branch main pulled, no conflicts
          - Branch pulled: main
          - Commit hash: 3fa9c1b07d5e4c1a9b8e6f2d1c0a9b8e7f6d5c4b
          - Author: Ravi Kumar
          - Subject: Cart: keep \<script>alert('x')\</script> & \*bold\* \| as text
          - Release: 000012-3fa9c1b
        - [x] **Install dependencies: all installed, messages** — All build commands ended with 0
          - Commands: python3 -m venv .venv, .venv/bin/pip install -r requirements.txt
          - Took: 14.2 s
          - Output:

            ```
            Collecting flask
            Successfully installed flask-3.1.0
            ```

        - [x] **Run migrations: applied, log** — Migrations applied
          - Migrations applied: v7: split_address (48 ms)
          - Took: 52 ms
          - Class: rebuild
          - Mode: foreign keys off
        - [x] **Restart: started, startup time** — The new release answers with its own id
          - Startup time: 388 ms
          - Release: 000012-3fa9c1b
          - Process id: 41377
          - Port: 40123

        ## Verification

        - [ ] **UNKNOWN: Verification script: overall, failed checks** — plimsoll verify: no learned schema to compare with yet
        - [x] **Counts match the ones before** — Rows before and after
          - Products: 60 (was 60)
          - Orders: 1,204 (was 1,204)
          - Users: 311 (was 311)
          - Regions: 8 (was 8)
        - [x] **Expected migration versions applied** — schema_version
          - Expected versions: 1, 2, 3, 4, 5, 6, 7
          - Versions: 1, 2, 3, 4, 5, 6, 7
        - [x] **Homepage, listing, search, cart, checkout, admin login, products, orders**

          | Test | Verdict | Status | Took | Seen |
          |---|---|---|---|---|
          | Homepage loads without errors | pass | 200 | 12 ms |  |
          | Product listing shows all items | pass | 200 | 45 ms |  |
          | Admin login works | pass | 200 | 130 ms |  |

        - [ ] **No errors in the logs** — not looked at in this run: no log is configured: \[\[log\]\]
        - [x] **Error rate for 10 minutes; new errors** — Errors since the switch
          - Requests: 18,240
          - Errors: 2
          - Error rate: 0.01 %
        - [x] **Query time, page load, API response; slow queries** — Live traffic
          - Half of the answers within: 11 ms
          - 99 of 100 answers within: 84 ms

        ## Monitoring

        - [ ] **First hour: logs, CPU, memory, disk** — not looked at in this run: \`plimsoll serve\` watches the first hour and adds here what it saw
        - [ ] **Orders placed, processed, payments, notifications** — not looked at in this run: \`plimsoll serve\` watches the first hour and adds here what it saw
        - [ ] **Responds quickly, no locks, backup size normal** — not looked at in this run: \`plimsoll serve\` watches the first hour and adds here what it saw
        - [ ] **Spot checks at 1, 4, 8, 24 hours** — not looked at in this run: \`plimsoll serve\` makes the spot checks when they are due and adds them here
        - [ ] **Error rate, response times, database normal (APM)** — not looked at in this run: no check of a monitoring system is configured
        - [ ] **open: Customers' reports** — only a person can know: plimsoll answer watch.reports TEXT --by NAME --run 12

        ## Rollback and diagnosis

        - [ ] **Rollback: stop** — not needed: the deployment went well
        - [ ] **Restore primary or secondary backup; verified** — not needed: the deployment went well
        - [ ] **Orders placed since the backup** — not needed: the deployment went well
        - [ ] **Revert the code** — not needed: the deployment went well
        - [ ] **Restart** — not needed: the deployment went well
        - [ ] **Verify the rollback** — not needed: the deployment went well
        - [ ] **Notify stakeholders, reason** — not needed: the deployment went well
        - [ ] **Under 5 minutes** — not needed: the deployment went well
        - [ ] **Logs, database report, system information** — not needed: the deployment went well
        - [ ] **Post-mortem: what, root cause, prevention** — not needed: the deployment went well

        ## After the deployment

        - [ ] **Update CHANGELOG: version, time, changes, result** — not looked at in this run: nothing looked at it in this run
        - [x] **Archive notes: \`deployment_YYYYMMDD_HHMM.log\`** — The notes of the deployment are archived
          - File: runs/000012/deployment_20261123_0348.log
          - Includes: backup location, data counts, verification results
        - [ ] **Clean up old backups after 7 stable days** — not looked at in this run: nothing looked at it in this run
        - [ ] **Send the summary: changes, results, issues** — not looked at in this run: nobody was told: no message of this run is on record
        - [ ] **open: Sign-off: deployed by, verified by, issues, resolution** — only a person can know: plimsoll sign 12 --as deployer\|verifier --name NAME
        - [ ] **Support contacts by role** — not looked at in this run: nothing looked at it in this run
        - [ ] **Last deployment, next scheduled check, status** — not looked at in this run: nothing looked at it in this run

        ## Steps

        | Step | Result | Began after | Took |
        |---|---|---|---|
        | Fetch the code | done | 0 ms | 640 ms |
        | Build the release | done | 640 ms | 14.2 s |
        | Back up the database | done | 14.9 s | 2.3 s |
        | Rehearse on a copy | done | 17.2 s | 3.1 s |
        | Hold requests at the door | done | 20.3 s | 30 ms |
        | Stop the workers | done | 20.3 s | 5 ms |
        | Stop the old release | done | 20.3 s | 110 ms |
        | Take the final snapshot | done | 20.4 s | 61 ms |
        | Migrate the database | done | 20.5 s | 52 ms |
        | Make the release current | done | 20.5 s | 4 ms |
        | Start the new release | done | 20.6 s | 390 ms |
        | Prove the new release | done | 20.9 s | 240 ms |
        | Commit point | done | 21.2 s | 0 ms |
        | Open the door | done | 21.2 s | 8 ms |
        | Start the workers | done | 21.2 s | 20 ms |
        | Watch for errors | done | 21.2 s | 1 min |

        Users had to wait from 20.3 s on, for 900 ms.

        ## Warnings

        - the old release's log could not be compressed

        ## Sign-off

        - Begun by: asha (2026-11-23 03:48:00 UTC)
        - Deployed by: ____________ Date: ____________ Time: ____________
        - Verified by: ____________ Date: ____________ Time: ____________
        - Issues encountered: the old release's log could not be compressed
        - Resolution: not written down yet
        - Closed: not yet: two signatures close the run
        - Log: deployment_20261123_0348.log
        "#);
    }

    #[test]
    fn a_deployment_that_was_undone() {
        insta::assert_snapshot!(markdown(&Report::of(&sample::undone())), @r#"
        # Deployment of grocery 000012-3fa9c1b

        **NOT LIVE: UNDONE.** Production is as it was, no data was lost. Release 000011-77b0e02 serves. Requests waited up to 1479 ms. Data: the database was put back as it was; verified backup: backups/store.db.backup.20261123_034815.

        > **FAILED at "Prove the new release":** Checkout process works failed
        >
        > **Why:** the answer was 500 instead of 303
        >
        > **Next:** mend it and deploy again; \`plimsoll show\` has the evidence of "Prove the new release"

        | | |
        |---|---|
        | Run | 12 (deploy of grocery) |
        | Deployed by | asha |
        | Asked for | main |
        | Release | 000012-3fa9c1b |
        | Commit | 3fa9c1b07d5e4c1a9b8e6f2d1c0a9b8e7f6d5c4b on main |
        | Changes | Cart: keep \<script>alert('x')\</script> & \*bold\* \| as text, by Ravi Kumar |
        | Live before | 000011-77b0e02 |
        | Started | 2026-11-23 03:48:00 UTC |
        | Ended | 2026-11-23 03:48:21 UTC, after 21.8 s |
        | Users | waited up to 1.5 s (predicted 650 ms) |
        | Strategy | hold, because 1 pending migration(s) took 45 ms on a copy of the database |
        | Migrations | v7: split_address (rebuild, 45 ms, foreign keys off, rebuild, touched orders) |
        | Acknowledged | drop:sso_nonce |
        | Checks | 24 passed, 1 FAILED, 1 not applicable |
        | Exit code | 1 |

        ## Before the deployment

        - [x] **Review changes: files, schema, configuration** — Changes since 000011-77b0e02
          - Files changed: app.py, migrations/0007_split_address.sql, templates/cart.html
          - Lines added: 182
          - Lines removed: 40
          - Commits: 3
          - Configuration changes (names): none
        - [ ] **Notify development, DevOps, business; window** — not looked at in this run: nobody was told: no message of this run is on record
        - [ ] **Schedule a low-traffic window and a back-up slot, UTC/IST** — not looked at in this run: no window is on record for this run
        - [x] **Test on staging**
          - pass: Migrations on a copy — Pending migrations: v7: split_address (rebuild, 45 ms, foreign keys off, rebuild, touched orders); Took: 45 ms
          - pass: Old release on the migrated copy — Took: 912 ms
        - [x] **Prepare the rollback plan: backup, steps, minutes** — The restore was rehearsed
          - Estimated rollback time: 310 ms
          - Rollback mode: undo

        ## Backup

        - [x] **Full backup: file, size, verified** — Full backup of shared/store.db
          - Backup file created: backups/store.db.backup.20261123_034815
          - File size: 12.4 MB
          - Took: 845 ms
        - [x] **Verify backup integrity** — Read back and verified
          - Integrity check: ok
          - Foreign keys: yes
          - SHA-256: 9f2c1d
          - Took: 1.3 s
        - [ ] **not applicable: Second copy on a drive/NAS or in S3** — Second copy: no destination is configured
        - [x] **Record primary, secondary, timestamp, counts** — Recorded in the journal and in the log
          - Primary backup: backups/store.db.backup.20261123_034815
          - Secondary backup: none: no destination is configured
          - Backup timestamp: 20261123_034815
          - Row counts recorded: yes
        - [x] **Row counts before: products, orders, users, regions** — Rows before the deployment
          - Products: 60
          - Orders: 1,204
          - Users: 311
          - Regions: 8

        ## Deployment

        - [x] **Stop the application (only if needed): status, time** — 000011-77b0e02 stopped
          - Time stopped: 2026-11-23 03:48:20 UTC
          - Strategy: hold
          - Requests that waited: 3
          - Requests under way: 1
          - Drained in: 28 ms
          - Stopped in: 110 ms
        - [x] **Pull the code: branch, commit, conflicts** — Branch main pulled, no conflicts
          - Branch pulled: main
          - Commit hash: 3fa9c1b07d5e4c1a9b8e6f2d1c0a9b8e7f6d5c4b
          - Author: Ravi Kumar
          - Subject: Cart: keep \<script>alert('x')\</script> & \*bold\* \| as text
          - Release: 000012-3fa9c1b
        - [x] **Install dependencies: all installed, messages** — All build commands ended with 0
          - Commands: python3 -m venv .venv, .venv/bin/pip install -r requirements.txt
          - Took: 14.2 s
          - Output:

            ```
            Collecting flask
            Successfully installed flask-3.1.0
            ```

        - [x] **Run migrations: applied, log** — Migrations applied
          - Migrations applied: v7: split_address (48 ms)
          - Took: 52 ms
          - Class: rebuild
          - Mode: foreign keys off
        - [x] **Restart: started, startup time** — The new release answers with its own id
          - Startup time: 388 ms
          - Release: 000012-3fa9c1b
          - Process id: 41377
          - Port: 40123

        ## Verification

        - [ ] **Verification script: overall, failed checks** — not looked at in this run: nothing looked at it in this run
        - [ ] **Counts match the ones before** — not looked at in this run: nothing looked at it in this run
        - [ ] **Expected migration versions applied** — not looked at in this run: nothing looked at it in this run
        - [ ] **FAILED: Homepage, listing, search, cart, checkout, admin login, products, orders** — the answer was 500 instead of 303

          | Test | Verdict | Status | Took | Seen |
          |---|---|---|---|---|
          | Homepage loads without errors | pass | 200 | 12 ms |  |
          | Product listing shows all items | pass | 200 | 45 ms |  |
          | Admin login works | pass | 200 | 130 ms |  |
          | Checkout process works | FAILED | 500 | 71 ms | the answer was 500 instead of 303; expected 303; got 500: no such column: street |

        - [ ] **No errors in the logs** — not looked at in this run: the run did not come to "Watch for errors"
        - [ ] **Error rate for 10 minutes; new errors** — not looked at in this run: the run did not come to "Watch for errors"
        - [x] **Query time, page load, API response; slow queries** — Answers to the smoke tests
          - Half of the answers within: 45 ms
          - Slow queries: not known: the app logs none that is looked at
          - Slowest: Admin login works
          - Slowest: 130 ms

        ## Monitoring

        - [ ] **First hour: logs, CPU, memory, disk** — not looked at in this run: the release of this run does not serve
        - [ ] **Orders placed, processed, payments, notifications** — not looked at in this run: the release of this run does not serve
        - [ ] **Responds quickly, no locks, backup size normal** — not looked at in this run: the release of this run does not serve
        - [ ] **Spot checks at 1, 4, 8, 24 hours** — not looked at in this run: the release of this run does not serve
        - [ ] **Error rate, response times, database normal (APM)** — not looked at in this run: the release of this run does not serve
        - [ ] **open: Customers' reports** — only a person can know: plimsoll answer watch.reports TEXT --by NAME --run 12

        ## Rollback and diagnosis

        - [x] **Rollback: stop** — 000012-3fa9c1b stopped
          - Time stopped: 2026-11-23 03:48:21 UTC
          - Stopped in: 95 ms
        - [x] **Restore primary or secondary backup; verified** — PRE put back and verified
          - Backup restored: runs/000012/pre.db
          - Integrity: ok
        - [x] **Orders placed since the backup** — Nobody else wrote in the hold
          - Set aside rows: 0
        - [x] **Revert the code** — The earlier release is current again
          - Code reverted to: 000011-77b0e02
        - [x] **Restart** — The old release answers
          - Startup time: 402 ms
          - Process id: 41400
        - [ ] **Verify the rollback** — not looked at in this run: nothing looked at it in this run
        - [ ] **Notify stakeholders, reason** — not looked at in this run: nobody was told: no message of this run is on record
        - [x] **Under 5 minutes** — Back within 5 minutes
          - Took: 635 ms
          - Unavailable for: 1.5 s
        - [ ] **Logs, database report, system information** — not looked at in this run: collect them with: plimsoll diagnose
        - [ ] **open: Post-mortem: what, root cause, prevention** — only a person can know: complete runs/000012/postmortem.md, then: plimsoll answer diag.post TEXT --by NAME

        ## After the deployment

        - [ ] **Update CHANGELOG: version, time, changes, result** — not looked at in this run: nothing looked at it in this run
        - [x] **Archive notes: \`deployment_YYYYMMDD_HHMM.log\`** — The notes of the deployment are archived
          - File: runs/000012/deployment_20261123_0348.log
          - Includes: backup location, data counts, verification results
        - [ ] **Clean up old backups after 7 stable days** — not looked at in this run: nothing looked at it in this run
        - [ ] **Send the summary: changes, results, issues** — not looked at in this run: nobody was told: no message of this run is on record
        - [ ] **open: Sign-off: deployed by, verified by, issues, resolution** — only a person can know: plimsoll sign 12 --as deployer\|verifier --name NAME
        - [ ] **Support contacts by role** — not looked at in this run: nothing looked at it in this run
        - [ ] **Last deployment, next scheduled check, status** — not looked at in this run: nothing looked at it in this run

        ## Steps

        | Step | Result | Began after | Took |
        |---|---|---|---|
        | Fetch the code | done | 0 ms | 640 ms |
        | Build the release | done, undone in 2 ms | 640 ms | 14.2 s |
        | Back up the database | done | 14.9 s | 2.3 s |
        | Rehearse on a copy | done | 17.2 s | 3.1 s |
        | Hold requests at the door | done, undone in 2 ms | 20.3 s | 30 ms |
        | Stop the workers | done, undone in 2 ms | 20.3 s | 5 ms |
        | Stop the old release | done, undone in 405 ms | 20.3 s | 110 ms |
        | Take the final snapshot | done | 20.4 s | 61 ms |
        | Migrate the database | done, undone in 120 ms | 20.5 s | 52 ms |
        | Make the release current | done, undone in 3 ms | 20.5 s | 4 ms |
        | Start the new release | done, undone in 95 ms | 20.6 s | 390 ms |
        | Prove the new release | FAILED | 20.9 s | 198 ms |

        Users had to wait from 20.3 s on, for 1.5 s.

        ## Warnings

        None.

        ## Sign-off

        - Begun by: asha (2026-11-23 03:48:00 UTC)
        - Deployed by: ____________ Date: ____________ Time: ____________
        - Verified by: ____________ Date: ____________ Time: ____________
        - Issues encountered: Checkout process works failed
        - Resolution: not written down yet
        - Closed: not yet: two signatures close the run
        - Log: deployment_20261123_0348.log
        "#);
    }

    #[test]
    fn a_rollback_fills_in_its_own_part_of_the_paper() {
        let md = markdown(&Report::of(&sample::rolled_back()));
        let from = md.find("## Rollback and diagnosis").unwrap();
        let to = md.find("## After the deployment").unwrap();
        insta::assert_snapshot!(&md[from..to], @r#"
        ## Rollback and diagnosis

        - [x] **Rollback: stop** — 000012-3fa9c1b stopped
          - Time stopped: 2026-11-23 03:48:03 UTC
          - Stopped in: 60 ms
        - [ ] **Restore primary or secondary backup; verified** — not needed: the earlier release took the database as it is
        - [ ] **Orders placed since the backup** — not needed: the earlier release took the database as it is
        - [x] **Revert the code** — The earlier release is current again
          - Code reverted to: 000011-77b0e02
        - [x] **Restart** — The earlier release answers
          - Startup time: 402 ms
        - [x] **Verify the rollback** — The checks under Verification, taken together
          - Passed: 4
          - Failed: 0
          - Unknown: 0
        - [ ] **Notify stakeholders, reason** — not looked at in this run: nobody was told: no message of this run is on record
        - [x] **Under 5 minutes** — Back within 5 minutes
          - Took: 3.7 s
          - Unavailable for: 0 ms
        - [ ] **Logs, database report, system information** — not needed: the rollback went well; diagnose the deployment that it took back
        - [ ] **Post-mortem: what, root cause, prevention** — not needed: the rollback went well; diagnose the deployment that it took back
        "#);
    }

    #[test]
    fn output_with_a_fence_in_it_stays_in_its_own() {
        let mut out = String::new();
        let value = "a\n```\n# not a heading\n".to_owned();
        blank(&mut out, "", &Blank { label: "Output".into(), value, block: true });
        assert_eq!(out, "- Output:\n\n  ````\n  a\n  ```\n  # not a heading\n  ````\n\n");
    }

    #[test]
    fn names_stay_readable_and_markup_does_not_work() {
        assert_eq!(
            escape("backups/store.db.backup.20261123_034815"),
            "backups/store.db.backup.20261123_034815"
        );
        assert_eq!(escape("_x_ __y__ [a](b) &lt; R&D"), r"\_x\_ \_\_y\_\_ \[a\](b) \&lt; R\&D");
    }
}
