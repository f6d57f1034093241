//! `audit`: proves that the journals were not changed, and that the reports say what they say.

use plimsoll_host::audit::{self, Audited};
use plimsoll_host::journal::Runs;
use serde_json::json;

use crate::config::Config;
use crate::error::Error;
use crate::follow;
use crate::ui::Ui;
use plimsoll_core::check::Verdict;

/// `plimsoll audit`
pub(crate) fn audit(config: &Config, ui: &Ui) -> Result<(), Error> {
    let runs = Runs::of(&config.app.root);
    let found =
        audit::audit(&runs, env!("CARGO_PKG_VERSION")).map_err(|error| follow::plain(error.into()))?;
    for one in &found {
        if ui.is_json() {
            ui.object(&json!({
                "run": one.run, "good": one.is_good(), "lines": one.lines, "chained": one.chained,
                "head": one.head, "reports": one.reports, "not_compared": one.not_compared,
                "bad": one.bad.as_ref().map(|(line, why)| json!({"line": line, "why": why})),
            }));
        } else {
            show(one, ui);
        }
    }
    let bad: Vec<&Audited> = found.iter().filter(|one| !one.is_good()).collect();
    if bad.is_empty() {
        let lines: usize = found.iter().map(|one| one.lines).sum();
        ui.say(&format!("{} runs, {lines} lines: nothing was changed", found.len()));
        return Ok(());
    }
    let named = bad.iter().map(|one| match &one.bad {
        Some((line, why)) => {
            format!("run {}: line {line} of {}: {why}", one.run, runs.journal(one.run).display())
        }
        None => format!("run {}: {}", one.run, one.reports.join("; ")),
    });
    Err(Error::failed(format!("{} of {} runs are not as they were written", bad.len(), found.len()))
        .details(named)
        .state("nothing was changed by this command; what serves is not concerned")
        .next("compare the files with a copy of them, and find out who wrote to runs/"))
}

fn show(one: &Audited, ui: &Ui) {
    let head = one.head.as_deref().and_then(|head| head.get(..16)).unwrap_or("-");
    let (verdict, note, hint) = match (&one.bad, one.reports.as_slice(), &one.not_compared) {
        (Some((line, why)), ..) => (Verdict::Fail, format!("line {line}: {why}"), String::new()),
        (None, [_, ..], _) => (Verdict::Fail, one.reports.join("; "), String::new()),
        (None, [], Some(why)) => (Verdict::Pass, format!("{} lines, head {head}", one.lines), why.clone()),
        (None, [], None) => {
            (Verdict::Pass, format!("{} lines, head {head}; reports match", one.lines), String::new())
        }
    };
    let unchained = one.bad.is_none() && one.lines > 1 && one.chained == 0;
    let (verdict, hint) = if unchained && verdict == Verdict::Pass {
        (
            Verdict::Unknown,
            "written by a version that did not chain its lines: whether one was changed is not known"
                .to_owned(),
        )
    } else {
        (verdict, hint)
    };
    ui.finding(verdict, &format!("run {}", one.run), &note, &hint);
}
