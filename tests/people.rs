//! What people say: answers, approvals, signatures; and that nobody can change afterwards what was recorded.

use std::fs;

use plimsoll_testkit::{Sandbox, wait};
use serde_json::Value;

use crate::production::{ending, settled};

fn answered<'a>(journal: &'a [Value], item: &str) -> Vec<&'a Value> {
    journal.iter().filter(|entry| entry["event"] == "answered" && entry["item"] == item).collect()
}

#[test]
fn a_run_is_answered_for_signed_by_two_people_and_closed() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.plimsoll(&["answer"]).exits(0).says("watch.reports");
    sandbox.plimsoll(&["answer", "watch.reports", "none until 18:00", "--by", "Asha Rao"]).exits(0);
    sandbox.plimsoll(&["answer", "backup.create", "yes", "--by", "Asha"]).exits(2);
    sandbox
        .plimsoll(&["answer", "watch.reports", "x", "--by", "Asha", "--run", "7"])
        .exits(2)
        .says("no run 7");
    sandbox.plimsoll(&["sign", "--as", "deployer", "--name", "Asha Rao"]).exits(0);
    sandbox
        .plimsoll(&["sign", "--as", "verifier", "--name", "asha rao"])
        .exits(3)
        .says("deployer and verifier are two people");
    drop(serve);
    // Without `serve` the command writes itself.
    let note = ["sign", "1", "--as", "verifier", "--name", "Ravi", "--note", "one slow page, mended"];
    sandbox.plimsoll(&note).exits(0).says("closed");
    sandbox.plimsoll(&["answer", "diag.post", "x", "--by", "Asha"]).exits(2).says("run 1 is closed");
    for name in ["report.md", "report.html", "report.json"] {
        let text = sandbox.read(&format!("runs/000001/{name}"));
        for words in ["Asha Rao", "Ravi", "none until 18:00", "one slow page, mended"] {
            assert!(text.contains(words), "{name} does not say {words:?}: {text}");
        }
    }
    assert_eq!(ending(&sandbox, 1), ("live".into(), 0));
    sandbox.plimsoll(&["audit"]).exits(0);
    // The record of a closed run stays that of a finished one.
    let serve = sandbox.serve();
    sandbox.release("{}", &[]);
    sandbox.deploy().exits(0);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_required_review_blocks_until_somebody_answers_and_holds_for_the_same_commit_only() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("[people]\nrequired = [\"pre.review\"]");
    let serve = sandbox.serve();
    sandbox.deploy().exits(3).says("pre.review").says("plimsoll answer pre.review");
    assert_eq!(sandbox.current(), None);
    sandbox.plimsoll(&["answer", "pre.review", "read the diff", "--by", "Ravi"]).exits(0);
    sandbox.deploy().exits(0);
    let journal = sandbox.journal(2);
    let given = answered(&journal, "pre.review");
    assert_eq!((given.len(), &given[0]["by"], &given[0]["run"]), (1, &Value::from("Ravi"), &Value::from(1)));
    // Another commit was not reviewed.
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    sandbox.deploy().exits(3);
    sandbox.plimsoll(&["deploy", "--yes", "--approved-by", "Meena"]).exits(0);
    assert_eq!(answered(&sandbox.journal(4), "pre.review")[0]["by"], "Meena");
    settled(&sandbox);
    drop(serve);
}

#[test]
fn what_is_answered_while_the_run_goes_on_stands_in_its_journal_without_a_gap() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "boot_ms": 1500 }"#, &[]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    let going = wait::within(std::time::Duration::from_secs(20), || {
        let status = sandbox.plimsoll(&["status", "--json"]);
        status.said().contains("\"running\":2").then_some(())
    });
    assert!(going.is_some(), "{}", deploying.stderr());
    sandbox.plimsoll(&["answer", "pre.review", "fine", "--by", "Ravi"]).exits(0);
    deploying.wait().exits(0);
    assert_eq!(answered(&sandbox.journal(2), "pre.review").len(), 1);
    assert_eq!(ending(&sandbox, 2), ("live".into(), 0));
    sandbox.plimsoll(&["audit"]).exits(0);
    drop(serve);
}

#[test]
fn a_changed_journal_and_an_edited_report_are_found_by_line_and_by_name() {
    let sandbox = Sandbox::new();
    drop(sandbox.live());
    sandbox.plimsoll(&["audit"]).exits(0).says("nothing was changed");
    let path = sandbox.root().join("runs/000001/journal.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().position(|line| line.contains("\"verify.smoke\"")).unwrap();
    let changed: Vec<String> = text
        .lines()
        .enumerate()
        .map(|(at, l)| if at == line { l.replace("\"pass\"", "\"fail\"") } else { l.to_owned() })
        .collect();
    fs::write(&path, changed.join("\n") + "\n").unwrap();
    sandbox.plimsoll(&["audit"]).exits(1).says(&format!("line {}", line + 2));
    fs::write(&path, &text).unwrap();
    sandbox.plimsoll(&["audit"]).exits(0);
    let report = sandbox.root().join("runs/000001/report.html");
    let page = fs::read_to_string(&report).unwrap();
    fs::write(&report, page.replace("LIVE", "FINE")).unwrap();
    sandbox.plimsoll(&["audit"]).exits(1).says("report.html is not what the journal says");
}

#[test]
fn a_deployment_that_waits_at_a_terminal_goes_on_when_somebody_else_says_yes() {
    let name = "a_deployment_that_waits_at_a_terminal_goes_on_when_somebody_else_says_yes";
    if !std::path::Path::new("/usr/bin/script").exists() {
        return plimsoll_testkit::fault::skipped(name, "there is no `script` to make a terminal with");
    }
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    let mut terminal = deploying_on_a_terminal(&sandbox);
    let asked = wait::within(std::time::Duration::from_secs(60), || {
        let status = sandbox.plimsoll(&["status", "--json"]);
        status.said().contains("\"question\":\"Bring 000002-").then_some(())
    });
    assert!(asked.is_some(), "nobody was asked: {}", serve.log());
    sandbox.plimsoll(&["answer", "go-ahead", "perhaps", "--by", "Ravi"]).exits(2);
    sandbox.plimsoll(&["answer", "go-ahead", "yes", "--by", "Ravi"]).exits(0);
    let ended = wait::within(std::time::Duration::from_secs(60), || terminal.try_wait().unwrap());
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    assert_eq!(answered(&sandbox.journal(2), "pre.review")[0]["by"], "Ravi");
    assert_eq!(ending(&sandbox, 2), ("live".into(), 0));
    sandbox.plimsoll(&["answer", "go-ahead", "yes", "--by", "Ravi"]).exits(2).says("no run waits");
    drop(serve);
}

/// `plimsoll deploy` on a terminal at which nobody types anything: it asks, and waits.
pub(crate) fn deploying_on_a_terminal(sandbox: &Sandbox) -> std::process::Child {
    let typed =
        format!("{} -C {} deploy", plimsoll_testkit::binary("plimsoll").display(), sandbox.root().display());
    std::process::Command::new("/usr/bin/script")
        .args(["-qec", &typed, "/dev/null"])
        .env("TERM", "xterm")
        // Open as long as the terminal is.
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}
