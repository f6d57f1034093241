//! What the journal of a run says (`docs/record-format.md`).

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Trouble;

/// From the moment the undo began to the moment the door was open again, in milliseconds.
pub(crate) fn undo_ms(journal: &Path) -> Result<u64, Trouble> {
    let text = fs::read_to_string(journal).map_err(Trouble::file("cannot read", journal))?;
    between(&text).ok_or_else(|| Trouble::Journal {
        file: journal.to_owned(),
        what: "it does not tell of an undo in the hold".to_owned(),
    })
}

fn between(text: &str) -> Option<u64> {
    let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let moment = |event: &str, step: Option<&str>| {
        let entry = events
            .iter()
            .find(|entry| entry["event"] == event && step.is_none_or(|step| entry["step"] == step))?;
        entry["moment"].as_u64()
    };
    moment("undone-step", Some("hold"))?.checked_sub(moment("undo-started", None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_first_undo_to_the_open_door() {
        let journal = r#"{"moment": 100, "event": "held"}
{"moment": 150, "event": "undo-started"}
{"moment": 170, "event": "undone-step", "step": "migrate"}
{"moment": 190, "event": "undone-step", "step": "hold"}
{"moment": 999, "event": "undone-step", "step": "fetch"}"#;
        assert_eq!(between(journal), Some(40));
    }

    #[test]
    fn a_run_that_was_not_undone_in_the_hold_has_no_such_time() {
        assert_eq!(between(r#"{"moment": 150, "event": "undo-started"}"#), None);
        assert_eq!(between(r#"{"moment": 150, "event": "undone-step", "step": "hold"}"#), None);
    }
}
