//! What the commands say, whole: a change of words is seen here first.

use insta::assert_snapshot;
use plimsoll_testkit::{Sandbox, shop};
use serde_json::Value;

#[test]
fn without_serve_and_before_the_first_release() {
    let sandbox = Sandbox::new();
    assert_snapshot!(sandbox.plimsoll(&["status"]).text(), @r#"
    app       shop
    release   none yet: plimsoll deploy
    serve     not running: plimsoll serve
    backup    none yet
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["deploy"]).text(), @r#"
    --- stderr
    error: `plimsoll serve` is not running
      why: it owns the front door and the app's process, so only it can deploy
      state: nothing was changed by this command
      next: start it and leave it running: plimsoll --config [root]/plimsoll.toml serve
    --- exit 2
    "#);
    let serve = sandbox.serve();
    assert_snapshot!(sandbox.plimsoll(&["status"]).text(), @r#"
    app       shop
    release   none yet: plimsoll deploy
    door      shut
    backup    none yet
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["status", "--json"]).text(), @r#"
    {"app":"shop","release":null,"unproved_release":null,"workers_down":[],"serve":{"door":"shut","serving":null,"pid":null,"port":null,"memory":[n],"cpu_ms":[n],"restarts":0,"running":null,"requests":0,"errors":0,"waiting":0,"trouble":[]},"unresolved_run":null,"last_run":null,"locked":null,"backup":null,"backup_at":null,"drilled_at":null}
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["history"]).text(), @r#"
    --- stderr
    there are no runs yet
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["history", "--json"]).text(), @r#"--- exit 0"#);
    assert_snapshot!(sandbox.plimsoll(&["show"]).text(), @r#"
    --- stderr
    error: there are no runs yet
      next: bring a release live with: plimsoll deploy
    --- exit 2
    "#);
    drop(serve);
}

#[test]
fn a_release_that_goes_live_one_that_is_undone_and_a_rollback() {
    let sandbox = Sandbox::new();
    let serve = sandbox.serve();
    assert_snapshot!(sandbox.deploy().text(), @r#"
    --- stderr
    deploy 1 of shop
        000001-[commit]: First release (Asha Rao <asha@example.com>)
    ✓ Fetch the code  [took]  main, [commit]
    ✓ Build the release  [took]
    ✓ Back up the database  [took]  [root]/backups/store.db.backup.[time]
        trying 000001-[commit] on a copy of the database
        restoring the backup on a copy
    ✓ Rehearse on a copy  [took]  the new release works on it
    strategy overlap: no migration is pending
    ✓ Start the new release  [took]  healthy after [took], pid [n]
    ✓ Prove the new release  [took]  7 checks passed
    ✓ Commit point  [took]
    ✓ Make the release current  [took]
    ✓ Open the door  [took]
    ✓ Retire the old release  [took]
    Live. Release 000001-[commit] serves.
    --- exit 0
    "#);
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    assert_snapshot!(sandbox.deploy().text(), @r#"
    --- stderr
    deploy 2 of shop
        000002-[commit]: Next release (Asha Rao <asha@example.com>)
    ✓ Fetch the code  [took]  main, [commit]
    ✓ Build the release  [took]
    ✓ Back up the database  [took]  [root]/backups/store.db.backup.[time]
        trying 000002-[commit] on a copy of the database
        trying 000001-[commit] on the migrated copy
        restoring the backup on a copy
    ✓ Rehearse on a copy  [took]  both releases work on it
    strategy hold: 1 pending migration took [took] on a copy of the database; predicted hold [took], [took] with an undo, within the budget of [took]
    ✓ Hold requests at the door  [took]  in flight: 0
    ✓ Stop the workers  [took]
    ✓ Stop the old release  [took]
    ✓ Take the final snapshot  [took]
    ✓ Migrate the database  [took]
    ✓ Make the release current  [took]
    ✓ Start the new release  [took]  healthy after [took], pid [n]
    ✗ Prove the new release  [took]  The checkout works failed
    ✗ The checkout works  GET /checkout: status 500
    undoing, because The checkout works failed: GET /checkout: status 500
    ✓ Undo: Stop the new release  [took]  pid [n]
    ✓ Undo: Make the old release current again  [took]
    ✓ Undo: Put the database back  [took]
    ✓ Undo: Start the old release again  [took]
    ✓ Undo: Start the workers again  [took]
    ✓ Undo: Open the door to the old release  [took]
    ✓ Undo: Remove the release that did not make it  [took]
    error: The checkout works failed
      why: GET /checkout: status 500
      state: Undone: production is as it was, no data was lost. Release 000001-[commit] serves. Requests waited up to [took].
      next: mend it and deploy again; `plimsoll show` has the evidence of "Prove the new release"
    --- exit 1
    "#);
    sandbox.release("{ }", &[]);
    assert_snapshot!(sandbox.deploy().text(), @r#"
    --- stderr
    deploy 3 of shop
        000003-[commit]: Next release (Asha Rao <asha@example.com>)
    ✓ Fetch the code  [took]  main, [commit]
    ✓ Build the release  [took]
    ✓ Back up the database  [took]  [root]/backups/store.db.backup.[time]
        trying 000003-[commit] on a copy of the database
        trying 000001-[commit] on the migrated copy
        restoring the backup on a copy
    ✓ Rehearse on a copy  [took]  both releases work on it
    strategy hold: 1 pending migration took [took] on a copy of the database; predicted hold [took], [took] with an undo, within the budget of [took]
    ✓ Hold requests at the door  [took]  in flight: 0
    ✓ Stop the workers  [took]
    ✓ Stop the old release  [took]
    ✓ Take the final snapshot  [took]
    ✓ Migrate the database  [took]
    ✓ Make the release current  [took]
    ✓ Start the new release  [took]  healthy after [took], pid [n]
    ✓ Prove the new release  [took]  7 checks passed
    ✓ Commit point  [took]
    ✓ Open the door  [took]  requests that waited: 0, turned away: 0
    ✓ Start the workers  [took]
    Live. Release 000003-[commit] serves. Requests waited up to [took].
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["rollback", "--yes"]).text(), @r#"
    --- stderr
    rollback 4 of shop
    ✓ Back up the database  [took]  [root]/backups/store.db.backup.[time]
    ✓ Rehearse on a copy  [took]
    strategy overlap: no migration is pending
    ✓ Start the new release  [took]  healthy after [took], pid [n]
    ✓ Prove the new release  [took]  7 checks passed
    ✓ Commit point  [took]
    ✓ Make the release current  [took]
    ✓ Open the door  [took]
    ✓ Retire the old release  [took]
    Rolled back. Release 000001-[commit] serves.
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["status"]).text(), @r#"
    app       shop
    release   000001-[commit]
    door      open
    process   pid [n], port [n], [size] of memory, [took] of processor time
    last run  rollback 4, [time] by uid 0: rolled-back
    backup    store.db.backup.[time], verified, [took] old; none drilled yet: plimsoll backup drill
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["status", "--json"]).text(), @r#"
    {"app":"shop","release":"000001-[commit]","unproved_release":null,"workers_down":[],"serve":{"door":"open","serving":"000001-[commit]","pid":[n],"port":[n],"memory":[n],"cpu_ms":[n],"restarts":0,"running":null,"requests":0,"errors":0,"waiting":0,"trouble":[]},"unresolved_run":null,"last_run":{"run":4,"began":"[time]","kind":"rollback","release":"000001-[commit]","by":"uid 0","ending":"rolled-back","exit":0,"message":"Rolled back. Release 000001-[commit] serves.","hold_ms":[n],"ms":[n]},"locked":null,"backup":"store.db.backup.[time], verified","backup_at":"[time]","drilled_at":null}
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["history"]).text(), @r#"
      run  began (UTC)           what      release         ending       took
        4  [time]   rollback  000001-[commit]  rolled-back  [took]
        3  [time]   deploy    000003-[commit]  live         [took], hold [took]
        2  [time]   deploy    000002-[commit]  undone       [took], hold [took]
        1  [time]   deploy    000001-[commit]  live         [took]
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["history", "--json"]).text(), @r#"
    {"run":4,"began":"[time]","kind":"rollback","release":"000001-[commit]","by":"uid 0","ending":"rolled-back","exit":0,"message":"Rolled back. Release 000001-[commit] serves.","hold_ms":[n],"ms":[n]}
    {"run":3,"began":"[time]","kind":"deploy","release":"000003-[commit]","by":"uid 0","ending":"live","exit":0,"message":"Live. Release 000003-[commit] serves. Requests waited up to [took].","hold_ms":[n],"ms":[n]}
    {"run":2,"began":"[time]","kind":"deploy","release":"000002-[commit]","by":"uid 0","ending":"undone","exit":1,"message":"Undone: production is as it was, no data was lost. Release 000001-[commit] serves. Requests waited up to [took].","hold_ms":[n],"ms":[n]}
    {"run":1,"began":"[time]","kind":"deploy","release":"000001-[commit]","by":"uid 0","ending":"live","exit":0,"message":"Live. Release 000001-[commit] serves.","hold_ms":[n],"ms":[n]}
    --- exit 0
    "#);
    assert_snapshot!(sandbox.plimsoll(&["show", "7"]).text(), @r#"
    --- stderr
    error: there is no run 7
      next: list them with: plimsoll history
    --- exit 2
    "#);
    assert_snapshot!(sandbox.plimsoll(&["resume"]).text(), @r#"
    --- stderr
    There is nothing to resume: every run has ended.
    --- exit 0
    "#);
    drop(serve);
}

#[test]
fn json_of_a_deployment_is_its_journal_and_then_its_outcome() {
    let sandbox = Sandbox::new();
    let serve = sandbox.serve();
    let output = sandbox.plimsoll(&["deploy", "--yes", "--json"]);
    output.exits(0);
    let mut said = output.json();
    let outcome = said.pop().unwrap();
    // What is noted after the end, and the hash of the line before, stand in the journal alone.
    let mut journal = sandbox.journal(1);
    let end = journal.iter().position(|entry| entry["event"] == "ended").unwrap();
    journal.truncate(end + 1);
    for entry in &mut journal {
        entry.as_object_mut().unwrap().remove("prev");
    }
    assert_eq!(said, journal);
    assert_eq!(
        (&outcome["event"], &outcome["run"], &outcome["ending"], &outcome["exit"]),
        (&Value::from("outcome"), &Value::from(1), &Value::from("live"), &Value::from(0),)
    );
    sandbox.release(r#"{ "exit_at_start": 1, "rehearses_well": true }"#, &[]);
    let output = sandbox.plimsoll(&["deploy", "--yes", "--json", "-q"]);
    output.exits(1);
    let outcome = output.json().into_iter().find(|line| line["event"] == "outcome").unwrap();
    assert_eq!((&outcome["ending"], &outcome["exit"]), (&Value::from("undone"), &Value::from(1)));
    assert!(
        outcome["failure"]["why"].as_str().is_some_and(|why| why.contains("exiting at once")),
        "{outcome}"
    );
    drop(serve);
}

#[test]
fn show_is_the_report_that_the_run_left() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(1);
    let trimmed = |text: &str| text.trim_end().to_owned();
    for (format, file) in [("md", "report.md"), ("html", "report.html")] {
        let shown = sandbox.plimsoll(&["show", "2", "--format", format]);
        shown.exits(0);
        assert_eq!(
            trimmed(&shown.stdout),
            trimmed(&sandbox.read(&format!("runs/000002/{file}"))),
            "{format}"
        );
    }
    let report: Value = serde_json::from_str(&sandbox.read("runs/000002/report.json")).unwrap();
    for command in [&["show", "--json"][..], &["show", "2", "--format", "json"]] {
        assert_eq!(sandbox.plimsoll(command).json(), std::slice::from_ref(&report));
    }
    let paper = sandbox.plimsoll(&["show", "2"]);
    paper
        .says("**NOT LIVE: UNDONE.**")
        .says("FAILED at \"Prove the new release\"")
        .says("GET /checkout: status 500");
    assert!(!paper.said().contains("--no-watch was asked for"), "nobody asked for that: {}", paper.said());
    sandbox.plimsoll(&["show", "1"]).exits(0).says("LIVE");
    drop(serve);
}
