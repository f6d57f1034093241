//! Going back after the commit point, and going on with what was interrupted.

use plimsoll_testkit::{Buyers, Sandbox, shop};

use crate::production::{Production, ending, settled, until_step};

#[test]
fn without_a_migration_between_only_the_code_goes_back() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    sandbox.deploy().exits(0);
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(6);
    sandbox.plimsoll(&["rollback", "--yes"]).exits(0).says("Rolled back.");
    buyers.place(6);
    buyers.stop().unharmed(&sandbox.database());
    assert!(sandbox.current().is_some_and(|current| current.starts_with("000001")));
    assert!(sandbox.get("/").text().contains("one"));
    assert_eq!(ending(&sandbox, 3), ("rolled-back".into(), 0));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn with_a_migration_between_nothing_is_done_and_the_reason_is_said() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    let before = Production::of(&sandbox);
    let output = sandbox.plimsoll(&["rollback", "--yes"]);
    output.exits(3).says("000001-");
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_named_release_is_brought_back() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let first = sandbox.current().unwrap();
    for page in ["two", "three"] {
        sandbox.release(&format!(r#"{{ "page": "{page}" }}"#), &[]);
        sandbox.deploy().exits(0);
    }
    let before = Production::of(&sandbox);
    sandbox.plimsoll(&["rollback", "--dry-run", "--to", &first]).exits(0).says(&first);
    before.is_still(&Production::of(&sandbox));
    sandbox.plimsoll(&["rollback", "--yes", "--to", "000042-abcdef0"]).exits(2).says("000042-abcdef0");
    before.is_still(&Production::of(&sandbox));
    sandbox.plimsoll(&["rollback", "--yes", "--to", &first]).exits(0);
    assert_eq!(sandbox.current(), Some(first));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn an_earlier_release_that_no_longer_starts_is_not_rolled_back_to() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let first = sandbox.current().unwrap();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    sandbox.deploy().exits(0);
    let before = Production::of(&sandbox);
    std::fs::write(sandbox.root().join("releases").join(first).join("app.json"), r#"{"exit_at_start": 9}"#)
        .unwrap();
    sandbox.plimsoll(&["rollback", "--yes"]).exits(1);
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn there_is_nothing_to_roll_back_before_the_first_release() {
    let sandbox = Sandbox::new();
    let serve = sandbox.serve();
    sandbox.plimsoll(&["rollback", "--yes"]).exits(2).says("nothing to roll back");
    drop(serve);
}

#[test]
fn there_is_nothing_to_resume_when_every_run_has_ended() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    sandbox.plimsoll(&["resume"]).exits(0).says("nothing to resume");
    before.is_still(&Production::of(&sandbox));
    drop(serve);
}

#[test]
fn a_rollback_during_a_run_stops_it_before_its_commit_point() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("build.commands = ['sleep 1.5']");
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    sandbox.release("{}", &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "build");
    sandbox.plimsoll(&["rollback", "--yes"]).exits(0);
    deploying.wait().exits(1);
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}
