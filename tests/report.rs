//! The filled-in checklist of a real run: every box of the paper, none of them empty.

use plimsoll_testkit::{Sandbox, shop};
use serde_json::Value;

/// The ids of the paper's boxes, in its order: the contract, written down a second time on purpose.
const IDS: [&str; 45] = [
    "pre.review",
    "pre.notify",
    "pre.window",
    "pre.staging",
    "pre.rollback",
    "backup.create",
    "backup.verify",
    "backup.second",
    "backup.record",
    "backup.counts",
    "deploy.stop",
    "deploy.pull",
    "deploy.install",
    "deploy.migrate",
    "deploy.restart",
    "verify.script",
    "verify.counts",
    "verify.versions",
    "verify.smoke",
    "verify.logs",
    "verify.errors",
    "verify.speed",
    "watch.hour",
    "watch.customers",
    "watch.database",
    "watch.spots",
    "watch.apm",
    "watch.reports",
    "back.stop",
    "back.restore",
    "back.rows",
    "back.code",
    "back.restart",
    "back.verify",
    "back.notify",
    "back.time",
    "diag.collect",
    "diag.post",
    "after.changelog",
    "after.archive",
    "after.cleanup",
    "after.summary",
    "after.sign",
    "contacts",
    "next",
];

/// Every box has what was seen, or why nothing was; blanks have values.
fn filled(sandbox: &Sandbox, run: u32) -> Value {
    let report: Value = serde_json::from_str(&sandbox.read(&format!("runs/{run:06}/report.json"))).unwrap();
    let (md, html) = (
        sandbox.read(&format!("runs/{run:06}/report.md")),
        sandbox.read(&format!("runs/{run:06}/report.html")),
    );
    let items = report["items"].as_array().unwrap();
    let ids: Vec<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids, IDS);
    for item in items {
        let id = item["id"].as_str().unwrap();
        let checks = item["checks"].as_array().unwrap();
        let reason = item["reason"].as_str().unwrap_or_default();
        assert!(!checks.is_empty() || !reason.is_empty(), "{id} is empty: {item}");
        for check in checks {
            let verdict = check["verdict"].as_str().unwrap();
            let evidence = check["evidence"].as_object();
            let why = check["evidence"]["why"].as_str().unwrap_or_default();
            assert!(verdict == "pass" || !why.is_empty(), "{id} is {verdict} and does not say why: {check}");
            let empty = evidence.into_iter().flatten().find(|(_, value)| value.is_null());
            assert_eq!(empty, None, "{id} has an empty blank: {check}");
        }
        assert!(html.contains(&format!("<li id=\"{id}\">")), "{id} is not on the page");
        let title = item["title"].as_str().unwrap().replace('`', "\\`");
        assert!(md.contains(&title) || md.contains(item["title"].as_str().unwrap()), "{id}: {title}");
    }
    let bare = md.lines().find(|line| line.starts_with("- [ ]") && !line.contains(" — "));
    assert_eq!(bare, None, "a box without a word");
    report
}

#[test]
fn every_box_of_a_run_that_went_well_is_filled_in_three_forms() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("[contacts]\ndevops = \"Asha Rao, +91 98450 00000, always\"\n[watch]\nerrors_for = \"1s\"\nspots = [\"1h\"]");
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    let report = filled(&sandbox, 2);
    let item =
        |id: &str| report["items"].as_array().unwrap().iter().find(|item| item["id"] == id).unwrap().clone();
    for id in [
        "backup.record",
        "after.changelog",
        "after.archive",
        "after.cleanup",
        "contacts",
        "next",
        "verify.speed",
    ] {
        assert_eq!(item(id)["answer"], "answered", "{}", item(id));
    }
    assert!(item("contacts").to_string().contains("+91 98450 00000"));
    assert!(item("next").to_string().contains("1h after the switch"), "{}", item("next"));
    let page = sandbox.read("runs/000002/report.html");
    assert!(page.matches("<svg class=\"chart\"").count() >= 2, "pictures are missing");
    assert!(!page.contains("<script") && !page.contains("src=\"http"), "one file, nothing from outside");
    let changelog = sandbox.read("CHANGELOG.md");
    assert!(changelog.contains("## Run 2: deploy 000002-") && changelog.contains("SUCCESS"), "{changelog}");
    assert!(!sandbox.root().join("runs/000002/postmortem.md").exists());
    drop(serve);
}

#[test]
fn every_box_of_a_failed_run_and_of_a_rollback_is_filled_too_and_the_failed_one_has_its_post_mortem() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    sandbox.deploy().exits(0);
    sandbox.release(r#"{ "checkout": "broken" }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(1);
    filled(&sandbox, 3);
    let post = sandbox.read("runs/000003/postmortem.md");
    assert!(post.contains("## Root cause") && post.contains("Timeline"), "{post}");
    assert!(sandbox.read("CHANGELOG.md").contains("- Result: FAILED"));
    sandbox.plimsoll(&["rollback", "--yes"]).exits(0);
    filled(&sandbox, 4);
    drop(serve);
}
