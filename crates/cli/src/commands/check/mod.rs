//! `check`: whether the configuration is right and this machine can do what it asks. Changes nothing.

mod app;
mod machine;
mod programs;
mod watch;

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
const LOOKS: [fn(&Config) -> Vec<Finding>; 16] = [
    programs::repository,
    machine::folders,
    app::database,
    machine::disk,
    app::shared,
    programs::commands,
    programs::units,
    machine::listener,
    app::secrets,
    app::meaning,
    app::logs,
    app::copies,
    watch::watch,
    watch::notify,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ui::tests::kept;

    /// Runs the command on a folder with this file; gives its error, what it wrote to stdout, and to stderr.
    fn run(text: &str, json: bool) -> (Option<Error>, String, String) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plimsoll.toml"), text).unwrap();
        let global = Global { directory: folder.path().to_owned(), config: None, json, quiet: false };
        let (ui, out, err) = kept(json);
        (check(&global, &ui).err(), out.seen(), err.seen())
    }

    const NO_REPOSITORY: &str = "[app]\nname='a'\n[source]\ngit='nowhere'\n[service]\nkind='process'\ncommand='sh a'\naddress='127.0.0.1:1'\n[database]\nurl='sqlite:shared/a.db'\n";

    #[test]
    fn mistakes_in_the_file_are_usage_and_nothing_else_is_looked_at() {
        let (error, out, _) = run(&format!("{NO_REPOSITORY}tabels=[]\n"), false);
        assert_eq!(error.map(|e| (e.kind, e.details.len())), Some((Kind::Usage, 1)));
        assert_eq!(out, "");
    }

    #[test]
    fn a_machine_that_cannot_is_a_failed_check_with_its_name() {
        let (error, out, _) = run(NO_REPOSITORY, false);
        let error = error.unwrap();
        assert_eq!(error.kind, Kind::Failed);
        assert!(error.why.starts_with("1 of ") && error.why.contains("branch main of "), "{}", error.why);
        assert!(
            out.contains("✗ branch main of ") && out.contains("\n    see for yourself: git ls-remote "),
            "{out}"
        );
    }

    #[test]
    fn with_json_every_line_is_an_object_with_the_same_keys() {
        let (_, out, err) = run(NO_REPOSITORY, true);
        for line in out.lines() {
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            let keys: Vec<&str> = object.keys().map(String::as_str).collect();
            assert_eq!(keys, ["event", "name", "verdict", "note", "hint"], "{line}");
        }
        assert!(out.lines().count() > 10 && err.is_empty());
    }
}
