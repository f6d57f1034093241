//! `check`: whether the configuration is right and this machine can do what it asks. Changes nothing.

mod app;
mod later;
mod machine;

use plimsoll_core::check::Verdict;
use serde_json::json;

use crate::args::Global;
use crate::config::Config;
use crate::error::Error;
use crate::ui::Ui;

/// One thing that was looked at.
struct Finding {
    /// What.
    name: String,
    /// `Unknown` is for what a person should look at: it keeps nobody from deploying.
    verdict: Verdict,
    /// What was seen.
    note: String,
    /// What to type or mend; empty for a pass.
    hint: String,
}

impl Finding {
    fn new(
        verdict: Verdict,
        name: impl Into<String>,
        note: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Finding { name: name.into(), verdict, note: note.into(), hint: hint.into() }
    }

    fn pass(name: impl Into<String>, note: impl Into<String>) -> Self {
        Finding::new(Verdict::Pass, name, note, "")
    }

    fn fail(name: impl Into<String>, note: impl Into<String>, hint: impl Into<String>) -> Self {
        Finding::new(Verdict::Fail, name, note, hint)
    }

    fn unknown(name: impl Into<String>, note: impl Into<String>, hint: impl Into<String>) -> Self {
        Finding::new(Verdict::Unknown, name, note, hint)
    }

    fn skipped(name: impl Into<String>, note: impl Into<String>) -> Self {
        Finding::new(Verdict::Skipped, name, note, "")
    }
}

/// `plimsoll check`
pub(crate) fn check(global: &Global, ui: &Ui) -> Result<(), Error> {
    let config = Config::load(&Config::locate(&global.directory, global.config.as_deref()))?;
    let mut failed = Vec::new();
    let mut looked = 0;
    show(ui, &Finding::pass("configuration", config.file.display().to_string()));
    for look in LOOKS {
        for finding in look(&config) {
            looked += 1;
            show(ui, &finding);
            if finding.verdict == Verdict::Fail {
                failed.push(finding.name);
            }
        }
    }
    if failed.is_empty() {
        ui.say(&format!("{looked} checks, none failed"));
        return Ok(());
    }
    Err(Error::failed("this machine cannot do what the configuration asks")
        .why(format!("{} of {looked} checks failed: {}", failed.len(), failed.join(", ")))
        .state("nothing was started or changed")
        .next("mend what is marked ✗, then once more: plimsoll check"))
}

/// What is looked at, in this order; each is shown as soon as it is known.
const LOOKS: [fn(&Config) -> Vec<Finding>; 15] = [
    app::repository,
    machine::folders,
    app::database,
    machine::disk,
    app::shared,
    app::commands,
    app::units,
    machine::listener,
    app::secrets,
    app::meaning,
    app::logs,
    app::copies,
    later::later,
    machine::clock,
    machine::kernel,
];

fn show(ui: &Ui, finding: &Finding) {
    if ui.is_json() {
        let Finding { name, verdict, note, hint } = finding;
        ui.object(&json!({
            "event": "check", "name": name, "verdict": verdict.word(), "note": note, "hint": hint,
        }));
    } else {
        ui.finding(finding.verdict, &finding.name, &finding.note, &finding.hint);
    }
}
