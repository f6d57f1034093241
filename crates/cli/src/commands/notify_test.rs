//! `plimsoll notify-test`: whether messages arrive, before one matters.

use plimsoll_core::check::Verdict;
use plimsoll_core::notify::Delivery;
use serde_json::json;

use crate::config::Config;
use crate::error::Error;
use crate::post;
use crate::ui::Ui;

/// See the module. Tries each way once.
pub(crate) fn notify_test(config: &Config, ui: &Ui) -> Result<(), Error> {
    if config.notify.is_empty() {
        return Err(Error::usage("nobody is to be told")
            .why(format!("{} has no [notify.NAME]", config.file.display()))
            .next("add one, for example: [notify.team] with mail = [\"team@example.com\"]"));
    }
    let mut post = post::post(config);
    // An outbox of its own: a running `plimsoll serve` would send the same messages too.
    let folder = config.runs().join(format!("outbox/test-{}", std::process::id()));
    post.runs = folder.clone();
    let put = post.test();
    let unwritten = put.into_iter().filter(|told| told.delivery == Delivery::Failed);
    let told: Vec<_> = unwritten.chain(post.send_due().into_iter().map(|(_, told)| told)).collect();
    let _ = std::fs::remove_dir_all(&folder);
    let mut failed = Vec::new();
    for told in &told {
        let sent = told.delivery == Delivery::Sent;
        let name = format!("{} by {} to {}", told.group, told.way.word(), told.to);
        if ui.is_json() {
            ui.object(&json!({
                "event": "told", "group": told.group, "way": told.way.word(), "to": told.to, "sent": sent, "why": told.why,
            }));
        } else {
            let verdict = if sent { Verdict::Pass } else { Verdict::Fail };
            let hint = if sent { "" } else { "mend it, then once more: plimsoll notify-test" };
            ui.finding(verdict, &name, if sent { "taken" } else { &told.why }, hint);
        }
        if !sent {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::failed("a message was not taken")
        .why(failed.join(", "))
        .state("a deployment would go on all the same, with a warning in its report")
        .next("plimsoll notify-test, when it is mended"))
}
