//! What a deployment would do, on one screen: enough to decide from, and what must be typed.

use serde::Serialize;
use serde_json::Value;

use super::evidence::{duration_ms, one_line};
use crate::check::{Check, Verdict};
use crate::checklist::{ITEMS, Phase, Who};
use crate::plan::{Decision, Loss, Pending, Rehearsal, Release, ReleaseId, Step, Strategy};
use crate::ports::{Failure, FailureKind};
use crate::record::{Entry, State};

/// So many commits, files and names are listed; the others are counted.
const LISTED: usize = 5;

/// What a deployment of a revision would do, from the record of its rehearsal. Its JSON is a contract: fields may be
/// added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The app's name.
    pub app: String,
    /// The run that rehearsed.
    pub run: u32,
    /// Who asked.
    pub by: String,
    /// The release that would go live; `None` when it could not even be fetched.
    pub release: Option<Release>,
    /// The revision that was asked for.
    pub asked: Option<String>,
    /// The release that is live.
    pub live: Option<ReleaseId>,
    /// `ready`, `blocked` (a person must do something first) or `failed`.
    pub state: &'static str,
    /// Why it is not ready, and what to do.
    pub failure: Option<Failure>,
    /// `overlap`, `hold` or `restart`; `blocked` when none may be taken.
    pub strategy: &'static str,
    /// The strategy once everything is acknowledged; `None` when there is none.
    pub then: Option<Strategy>,
    /// Why, each a sentence.
    pub reasons: Vec<String>,
    /// How long requests would wait, milliseconds.
    pub predicted_hold_ms: u64,
    /// The same with an undo, milliseconds.
    pub with_undo_ms: u64,
    /// What the budget leaves after that, milliseconds.
    pub margin_ms: u64,
    /// How the release can be taken back.
    pub rollback: Rollback,
    /// What must be acknowledged, and by whom it was.
    pub losses: Vec<Loss>,
    /// What to type to deploy it, acknowledgements included.
    pub command: String,
    /// The migrations that are pending.
    pub migrations: Vec<Pending>,
    /// What the app, or its own command, changed in the schema of the copy.
    pub changed_by_itself: Vec<String>,
    /// Objects of the schema that are new, changed or gone afterwards.
    pub schema: Vec<String>,
    /// Commits since the live release: how many, and the newest.
    pub commits: (u64, Vec<String>),
    /// Files that changed: how many, and the first.
    pub files: (u64, Vec<String>),
    /// Names of settings that were added, removed or changed; never values.
    pub settings: Vec<String>,
    /// What the run needs on the disk and what is free, bytes.
    pub disk: Option<(u64, u64)>,
    /// What stands out in the migrations and in how old and new code meet them: each with why and what to do instead.
    pub remarks: Vec<String>,
    /// What the rehearsal saw, a line each: verdict, name and why.
    pub checks: Vec<Seen>,
    /// What only a person can answer.
    pub questions: Vec<&'static str>,
}

/// How a release can be taken back.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rollback {
    /// `undo`: before the commit point.
    pub before: &'static str,
    /// How long that takes, milliseconds.
    pub undo_ms: u64,
    /// `code-only`, `restore+carry` or `unknown`: after it.
    pub after: &'static str,
    /// How long that takes, milliseconds, where it was measured.
    pub after_ms: Option<u64>,
}

/// One thing that the rehearsal saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// Pass, fail, unknown or skipped.
    pub verdict: Verdict,
    /// What was looked at.
    pub name: String,
    /// Why it is no pass.
    pub why: String,
    /// How long it took, milliseconds.
    pub ms: Option<u64>,
}

impl Plan {
    /// From the events of a rehearsal.
    #[must_use]
    pub fn of(entries: &[Entry]) -> Plan {
        let state = State::fold(entries);
        let order = state.order.as_ref();
        let failure = state.undoing.clone().or_else(|| state.failure.clone().map(|(_, failure)| failure));
        let rehearsal = state.rehearsal.clone().unwrap_or_default();
        let decision = state.decision.as_ref();
        let review = find(&state, "pre.review", "files_changed");
        let losses = rehearsal.losses.clone();
        let asked = order.and_then(|order| order.asked.clone());
        Plan {
            app: order.map(|order| order.app.clone()).unwrap_or_default(),
            run: order.map_or(0, |order| order.run),
            by: order.map(|order| order.by.clone()).unwrap_or_default(),
            release: state.release.clone(),
            live: order.and_then(|order| order.from.clone()),
            state: match &failure {
                None => "ready",
                Some(failure) if failure.kind == FailureKind::Blocked => "blocked",
                Some(_) => "failed",
            },
            strategy: decision
                .filter(|_| failure.is_none())
                .map_or("blocked", |decision| decision.strategy.word()),
            then: decision.map(|decision| decision.strategy),
            reasons: decision.map(|decision| decision.reasons.clone()).unwrap_or_default(),
            predicted_hold_ms: decision.map_or(0, |decision| decision.predicted_hold_ms),
            with_undo_ms: decision.map_or(0, |decision| decision.with_undo_ms),
            margin_ms: decision
                .map_or(0, |decision| decision.budget_ms.saturating_sub(decision.with_undo_ms)),
            rollback: rollback(&rehearsal, decision),
            command: command(asked.as_deref(), &losses),
            asked,
            losses,
            migrations: rehearsal.pending.clone(),
            changed_by_itself: find(&state, "pre.staging", "schema_changed_at_start")
                .map(|check| texts(check, "schema_changed_at_start"))
                .unwrap_or_default(),
            schema: find(&state, "pre.review", "schema")
                .map(|check| texts(check, "schema"))
                .unwrap_or_default(),
            commits: review.map(commits).unwrap_or_default(),
            files: review.map(files).unwrap_or_default(),
            settings: review.map(settings).unwrap_or_default(),
            disk: rehearsal.disk,
            remarks: state.checks.iter().flat_map(|(_, check)| texts(check, "remarks")).collect(),
            checks: state
                .checks
                .iter()
                .filter(|(step, _)| *step == Step::Rehearse)
                .map(|(_, c)| seen(c))
                .collect(),
            questions: ITEMS
                .iter()
                .filter(|item| item.who != Who::Auto && item.phase != Phase::Rollback)
                .map(|item| item.title)
                .collect(),
            failure,
        }
    }
}

fn find<'a>(state: &'a State, id: &str, evidence: &str) -> Option<&'a Check> {
    let mut checks = state.checks.iter().map(|(_, check)| check);
    checks.find(|check| check.id == id && check.evidence.contains_key(evidence))
}

fn rollback(rehearsal: &Rehearsal, decision: Option<&Decision>) -> Rollback {
    let migrates = !rehearsal.pending.is_empty() || rehearsal.migrates_itself;
    let (after, after_ms) = match rehearsal.code_only {
        Some(true) => ("code-only", rehearsal.restart_old_ms),
        Some(false) => {
            ("restore+carry", rehearsal.restart_old_ms.or(Some(0)).map(|ms| ms + rehearsal.restore_ms))
        }
        None if !migrates => ("code-only", rehearsal.restart_old_ms),
        None => ("unknown", None),
    };
    let before =
        if decision.is_some_and(|decision| decision.strategy == Strategy::Restart) { "none" } else { "undo" };
    let undo_ms = match decision {
        Some(decision) if decision.with_undo_ms > 0 => decision.with_undo_ms - decision.predicted_hold_ms,
        _ => rehearsal.restart_old_ms.unwrap_or(0),
    };
    Rollback { before, undo_ms, after, after_ms }
}

fn command(asked: Option<&str>, losses: &[Loss]) -> String {
    let mut words = vec!["plimsoll deploy".to_owned()];
    words.extend(asked.map(str::to_owned));
    words.extend(losses.iter().map(|loss| format!("--acknowledge {}", loss.word)));
    words.dedup();
    words.join(" ")
}

fn texts(check: &Check, name: &str) -> Vec<String> {
    let list = check.evidence.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn commits(check: &Check) -> (u64, Vec<String>) {
    let Some(commits) = check.evidence.get("commits") else { return Default::default() };
    let line = |commit: &Value| {
        let text = |name: &str| commit[name].as_str().map(one_line).unwrap_or_default();
        format!("{} {} ({})", text("commit"), text("subject"), text("author"))
    };
    let newest = commits["newest"].as_array().into_iter().flatten().map(line).collect();
    (commits["count"].as_u64().unwrap_or(0), newest)
}

fn files(check: &Check) -> (u64, Vec<String>) {
    let line = |file: &Value| {
        let path = file["path"].as_str().map(one_line).unwrap_or_default();
        format!("{path} +{} -{}", file["insertions"], file["deletions"])
    };
    let listed = check.evidence.get("files").and_then(Value::as_array);
    let count = check.evidence.get("files_changed").and_then(Value::as_u64).unwrap_or(0);
    (count, listed.into_iter().flatten().map(line).collect())
}

fn settings(check: &Check) -> Vec<String> {
    let Some(Value::Object(by_file)) = check.evidence.get("settings_changed") else { return Vec::new() };
    let mut names = Vec::new();
    for (file, changes) in by_file {
        for (sign, what) in [("+", "added"), ("-", "removed"), ("~", "changed")] {
            let list = changes[what].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.extend(list.map(|name| format!("{sign}{} ({})", one_line(name), one_line(file))));
        }
    }
    names
}

fn seen(check: &Check) -> Seen {
    let number = |name: &str| check.evidence.get(name).and_then(Value::as_u64);
    Seen {
        verdict: check.verdict,
        name: check.name.clone(),
        why: one_line(check.why()),
        ms: number("ms").or_else(|| number("startup_ms")),
    }
}

/// The lines of the plan: label and text; a label stands once for several lines.
fn lines(plan: &Plan) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let mut add = |label, texts: Vec<String>| {
        let mut label = label;
        for text in texts {
            lines.push((label, text));
            label = "";
        }
    };
    let release = plan.release.as_ref();
    let what = release.map_or("nothing was fetched".to_owned(), |release| {
        format!("{} {} ({})", release.id, one_line(&release.subject), one_line(&release.author))
    });
    add("release", vec![what]);
    add("live now", vec![plan.live.as_ref().map_or("none".to_owned(), ToString::to_string)]);
    let verdict = match (plan.state, &plan.failure) {
        ("ready", _) => vec!["ready to be deployed".to_owned()],
        ("blocked", Some(failure)) => vec![format!("blocked: {}", failure.what)],
        (_, Some(failure)) => vec![format!("NOT READY: {}", failure.what), one_line(&failure.why)],
        (state, None) => vec![state.to_owned()],
    };
    add("verdict", verdict);
    add("strategy", std::iter::once(strategy(plan)).chain(plan.reasons.clone()).collect());
    add("users", vec![waits(plan)]);
    add("rollback", back(plan));
    add("migrations", migrations(plan));
    add("loses", plan.losses.iter().map(loses).collect());
    add("commits", some(plan.commits.0, &plan.commits.1));
    add("files", some(plan.files.0, &plan.files.1));
    add("settings", plan.settings.clone());
    if let Some((need, free)) = plan.disk {
        add("disk", vec![format!("needs {} MiB, {} MiB are free", need >> 20, free >> 20)]);
    }
    add("look at", plan.remarks.clone());
    let open = plan.checks.iter().filter(|seen| matches!(seen.verdict, Verdict::Unknown | Verdict::Fail));
    add("not seen", open.map(|seen| format!("{}: {}", seen.name, seen.why)).collect());
    add("to answer", plan.questions.iter().map(|question| (*question).to_owned()).collect());
    let next = match (&plan.failure, plan.state) {
        (None, _) => plan.command.clone(),
        (Some(_), "blocked") if !plan.losses.is_empty() => plan.command.clone(),
        (Some(failure), _) => failure.next.clone(),
    };
    add("type next", vec![next]);
    lines
}

fn strategy(plan: &Plan) -> String {
    let then = match plan.then {
        Some(Strategy::Overlap) => "overlap: both releases run for a moment, nobody notices",
        Some(Strategy::Hold) => "hold: requests wait at the shut door",
        Some(Strategy::Maintenance) => "maintenance: users read a page that says so, in the agreed window",
        Some(Strategy::Restart) => "restart: there is no front door, users see the gap",
        None => return "blocked: production stays as it is".to_owned(),
    };
    if plan.strategy == "blocked" { format!("blocked; once acknowledged, {then}") } else { then.to_owned() }
}

fn waits(plan: &Plan) -> String {
    match plan.then {
        Some(Strategy::Hold) => format!(
            "wait about {}, {} if it has to be undone; that leaves {} of the budget",
            duration_ms(plan.predicted_hold_ms),
            duration_ms(plan.with_undo_ms),
            duration_ms(plan.margin_ms)
        ),
        Some(Strategy::Maintenance) => format!(
            "are away for about {}, {} if it has to be undone; that leaves {} of the window",
            duration_ms(plan.predicted_hold_ms),
            duration_ms(plan.with_undo_ms),
            duration_ms(plan.margin_ms)
        ),
        Some(Strategy::Overlap) => "do not wait".to_owned(),
        Some(Strategy::Restart) => "meet a gap while it restarts".to_owned(),
        None => "notice nothing".to_owned(),
    }
}

/// Whether the rehearsal ended before it could say anything.
fn cut_short(plan: &Plan) -> bool {
    plan.state == "failed" && plan.then.is_none()
}

fn back(plan: &Plan) -> Vec<String> {
    if cut_short(plan) {
        return vec!["unknown, and not needed: nothing of it is deployed".to_owned()];
    }
    let before = match plan.rollback.before {
        "undo" => format!("before users are let in: undo, about {}", duration_ms(plan.rollback.undo_ms)),
        _ => "before its first start only: there is no front door".to_owned(),
    };
    let after = match (plan.rollback.after, plan.rollback.after_ms) {
        ("unknown", _) => "afterwards: not proven, the old release was not tried on the copy".to_owned(),
        (mode, Some(ms)) => format!("afterwards: {mode}, about {}", duration_ms(ms)),
        (mode, None) => format!("afterwards: {mode}"),
    };
    vec![before, after]
}

fn migrations(plan: &Plan) -> Vec<String> {
    let line = |one: &Pending| {
        let touched = if one.touched.is_empty() {
            String::new()
        } else {
            format!(", touches {}", one.touched.join(", "))
        };
        let work = if one.work.is_empty() { &one.class } else { &one.work };
        format!("{:04} {}: {work}, {}{touched}", one.version, one.description, duration_ms(one.ms))
    };
    let mut lines: Vec<String> = plan.migrations.iter().map(line).collect();
    if !plan.changed_by_itself.is_empty() {
        lines.push(format!("by the app itself: {}", plan.changed_by_itself.join(", ")));
    }
    match lines.is_empty() {
        true if cut_short(plan) => vec!["unknown: the rehearsal did not get through".to_owned()],
        true => vec!["none".to_owned()],
        false => lines,
    }
}

fn loses(loss: &Loss) -> String {
    let by = match (&loss.acknowledged_by, loss.version) {
        (Some(by), _) => format!("acknowledged by {by}"),
        (None, Some(version)) => format!("by migration {version:04}; needs --acknowledge {}", loss.word),
        (None, None) => format!("needs --acknowledge {}", loss.word),
    };
    let quantity = if loss.quantity > 0 { format!("{} ", loss.quantity) } else { String::new() };
    format!("{}: {quantity}{}, {by}", loss.word, loss.detail)
}

fn some(count: u64, listed: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = listed.iter().take(LISTED).cloned().collect();
    let more = count.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    if lines.is_empty() { vec!["none".to_owned()] } else { lines }
}

/// For a terminal: one screen.
#[must_use]
pub fn plan_text(plan: &Plan) -> String {
    let line =
        |(label, text): (&str, String)| format!("{label:<11} {}", one_line(&text)).trim_end().to_owned();
    lines(plan).into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// For a pull request.
#[must_use]
pub fn plan_markdown(plan: &Plan) -> String {
    let escaped = |text: &str| {
        let mut out = String::new();
        for letter in one_line(text).chars() {
            if "\\`*_[]<>|#".contains(letter) {
                out.push('\\');
            }
            out.push(letter);
        }
        out
    };
    let mut out = format!("### Plan for {}\n\n| | |\n|---|---|\n", escaped(&plan.app));
    for (label, text) in lines(plan) {
        let text =
            if label == "type next" { format!("`{}`", text.replace('`', "'")) } else { escaped(&text) };
        out.push_str(&format!("| {label} | {text} |\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Limits, decide};
    use crate::ports::Moment;
    use crate::record::{Event, FORMAT, Kind, Order};

    fn tape(rehearsal: &Rehearsal, failure: Option<Failure>) -> Vec<Entry> {
        let order = Order {
            kind: Kind::Rehearse,
            app: "shop".into(),
            run: 7,
            by: "asha".into(),
            asked: Some("v2".into()),
            from: Some(ReleaseId("000001-aaaaaaa".into())),
            to: None,
            acknowledged: Vec::new(),
            unlock: None,
            watch: false,
            tool: "0".into(),
            format: FORMAT,
            boot: "b".into(),
        };
        let release = Release {
            id: ReleaseId("000002-bbbbbbb".into()),
            commit: "b".repeat(40),
            branch: "main".into(),
            author: "Ravi".into(),
            subject: "Split | the address".into(),
        };
        let review = Check::pass("pre.review", "Changes since the live release")
            .with("files_changed", 7)
            .with("files", serde_json::json!([{ "path": "app.py", "insertions": 3, "deletions": 1 }]))
            .with(
                "commits",
                serde_json::json!({ "count": 2, "newest": [{ "commit": "bbb", "author": "Ravi", "subject": "Split" }] }),
            )
            .with("settings_changed", serde_json::json!({ ".env.example": { "added": ["SMS_KEY"] } }));
        let limits = Limits { front: true, side_by_side: true, hold_budget_ms: 10_000, restart_ms: 900 };
        let mut events = vec![
            Event::Started { order },
            Event::Numbered { release },
            Event::Checked { step: Step::Fetch, check: review },
        ];
        if let Some(failure) = failure {
            let check = Check::fail("pre.staging", "The new release on a copy", "status 500");
            events.push(Event::Checked { step: Step::Rehearse, check });
            events.push(Event::UndoStarted { failure });
        } else {
            events.push(Event::Rehearsed { rehearsal: rehearsal.clone() });
            let accepted = Rehearsal { unacknowledged: Vec::new(), ..rehearsal.clone() };
            events.push(Event::Planned { decision: decide(&accepted, limits).unwrap() });
            match decide(rehearsal, limits) {
                Ok(_) => {}
                Err(_) => events.push(Event::UndoStarted {
                    failure: Failure::failed("data would be lost", "rows:orders", "acknowledge it")
                        .of_kind(FailureKind::Blocked),
                }),
            }
        }
        let entry = |(seq, event)| Entry { seq, at: String::new(), moment: Moment(0), event };
        (0..).zip(events).map(entry).collect()
    }

    fn rehearsal() -> Rehearsal {
        Rehearsal {
            pending: vec![Pending {
                version: 3,
                description: "split address".into(),
                class: "rebuild".into(),
                work: "rebuild".into(),
                ms: 40,
                touched: vec!["orders".into()],
                ..Pending::default()
            }],
            migrate_ms: 40,
            snapshot_ms: 30,
            restore_ms: 300,
            restart_ms: Some(500),
            restart_old_ms: Some(250),
            code_only: Some(true),
            disk: Some((80 << 20, 900 << 20)),
            ..Rehearsal::default()
        }
    }

    #[test]
    fn one_screen_says_all_that_there_is_to_decide() {
        let text = plan_text(&Plan::of(&tape(&rehearsal(), None)));
        for said in [
            "000002-bbbbbbb Split | the address",
            "ready to be deployed",
            "hold: requests wait",
            "wait about 810 ms, 1.4 s if it has to be undone; that leaves 8.6 s of the budget",
            "before users are let in: undo, about 550 ms",
            "afterwards: code-only, about 250 ms",
            "0003 split address: rebuild, 40 ms, touches orders",
            "and 1 more",
            "app.py +3 -1",
            "and 6 more",
            "+SMS_KEY (.env.example)",
            "needs 80 MiB, 900 MiB are free",
            "type next   plimsoll deploy v2",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        assert!(text.lines().count() <= 30, "{text}");
    }

    #[test]
    fn what_stands_out_is_shown_with_why_and_what_to_do() {
        let mut entries = tape(&Rehearsal::default(), None);
        let said = "000001-aaaaaaa by-position: a row goes into orders; why; instead: name the columns";
        let check = Check::pass("pre.review", "Schema before and after").with("remarks", vec![said]);
        let event = Event::Checked { step: Step::Rehearse, check };
        entries.push(Entry { seq: 90, at: String::new(), moment: Moment(0), event });
        let plan = Plan::of(&entries);
        assert_eq!(plan.remarks, [said]);
        assert!(plan_text(&plan).contains(&format!("look at     {said}")), "{}", plan_text(&plan));
    }

    #[test]
    fn what_would_be_lost_is_said_with_the_words_to_type() {
        let loss = |word: &str, by: Option<&str>| Loss {
            word: word.into(),
            version: Some(3),
            quantity: 12,
            detail: "rows that are gone".into(),
            acknowledged_by: by.map(str::to_owned),
        };
        let lossy = Rehearsal {
            losses: vec![loss("rows:orders", None), loss("drop:sso_nonce", Some("asha"))],
            unacknowledged: vec!["rows:orders".into()],
            ..rehearsal()
        };
        let plan = Plan::of(&tape(&lossy, None));
        assert_eq!((plan.state, plan.strategy), ("blocked", "blocked"));
        let text = plan_text(&plan);
        assert!(text.contains(
            "rows:orders: 12 rows that are gone, by migration 0003; needs --acknowledge rows:orders"
        ));
        assert!(text.contains("blocked; once acknowledged, hold"), "{text}");
        assert!(text.contains("drop:sso_nonce: 12 rows that are gone, acknowledged by asha"), "{text}");
        let typed = "plimsoll deploy v2 --acknowledge rows:orders --acknowledge drop:sso_nonce";
        assert!(text.ends_with(typed), "{text}");
    }

    #[test]
    fn a_failed_rehearsal_says_what_to_mend() {
        let failure = Failure::failed("the smoke test `Checkout` failed", "status 500", "mend it");
        let text = plan_text(&Plan::of(&tape(&rehearsal(), Some(failure))));
        assert!(text.contains("NOT READY: the smoke test `Checkout` failed"), "{text}");
        assert!(text.contains("status 500") && text.ends_with("mend it"), "{text}");
    }

    #[test]
    fn markdown_is_one_table_in_which_nothing_of_a_commit_breaks_out() {
        let text = plan_markdown(&Plan::of(&tape(&rehearsal(), None)));
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(rows.iter().all(|row| row.replace("\\|", "").matches('|').count() == 3), "{text}");
        assert!(text.contains("Split \\| the address") && text.contains("`plimsoll deploy v2`"), "{text}");
    }

    /// A UNIQUE that two customers break: the plan said "none" of the migrations, and that going back would be quick.
    #[test]
    fn a_plan_whose_migration_failed_does_not_say_that_there_is_none() {
        let why = "0002_unique.sql, line 1: UNIQUE constraint failed: people.email";
        let failure =
            Failure::failed("the migrations fail on a copy of the database", why, "Correct the file");
        let text = plan_text(&Plan::of(&tape(&Rehearsal::default(), Some(failure))));
        for line in ["NOT READY: the migrations fail", why, "migrations  unknown", "rollback    unknown"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("code-only"), "{text}");
    }

    #[test]
    fn a_record_cut_off_anywhere_still_makes_a_plan() {
        let entries = tape(&rehearsal(), None);
        for end in 0..=entries.len() {
            assert!(!plan_text(&Plan::of(&entries[..end])).is_empty());
        }
    }
}
