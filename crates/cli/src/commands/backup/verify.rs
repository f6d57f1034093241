//! `backup verify`: reads a backup back and compares it with its manifest.

use plimsoll_core::check::Verdict;
use plimsoll_host::sqlite::{Control, verify};
use serde_json::json;

use super::{VERIFIED, typed};
use crate::args::{BackupVerifyArgs, Global};
use crate::error::Error;
use crate::place::{failed, stop_on_signals};
use crate::ui::Ui;

pub(super) fn verify(global: &Global, args: &BackupVerifyArgs, ui: &Ui) -> Result<(), Error> {
    let file = typed(global, &args.place, &args.file)?;
    let step = ui.progress("Verify the backup");
    let mut control = Control::new(stop_on_signals(), |at| step.at(at.done, at.total, at.unit));
    let report = verify::backup(&file, &mut control).map_err(|error| {
        failed(format!("{} could not be verified", file.display()), &error)
            .state("nothing was changed; whether it is sound is unknown")
    })?;
    drop(control);
    drop(step);
    let sound = report.sound();
    let verdict_of = |name: &str| report.findings.iter().find(|f| f.name == name).map(|f| f.verdict);
    // With an app-defined collation SQLite cannot judge; the hash then says that it is what was made.
    let proven = verdict_of("hash") == Some(Verdict::Pass) || verdict_of("integrity") == Some(Verdict::Pass);
    if ui.is_json() {
        ui.object(&json!({
            "event": "verified", "file": file, "sound": sound, "findings": report.findings,
            "rows": report.content.as_ref().map(plimsoll_host::sqlite::Fingerprint::total_rows),
        }));
    } else {
        for finding in &report.findings {
            ui.observed(finding.verdict, &finding.name, &finding.detail);
        }
        match (sound, proven) {
            (true, true) => ui.finding(Verdict::Pass, VERIFIED, "", ""),
            (true, false) => ui.finding(Verdict::Unknown, "Backup could only be checked in part", "", ""),
            (false, _) => {}
        }
    }
    if sound {
        return Ok(());
    }
    Err(Error::failed(format!("the backup {} is not what it should be", file.display()))
        .details(report.failures())
        .state("nothing was changed; a damaged backup is never restored")
        .next("take another one: plimsoll backup list; and make a new one: plimsoll backup"))
}
