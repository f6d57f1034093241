//! Ctrl-C, SIGTERM, a terminal that goes away, a killed `serve`: the run ends as one thing or the other.

use std::time::Duration;

use plimsoll_testkit::{Buyers, Sandbox, shop, wait};
use rustix::process::Signal;

use crate::production::{Production, ending, resume, settled, until_ended, until_step};

#[test]
fn ctrl_c_and_sigterm_to_the_command_undo_the_run() {
    for (signal, name) in [(Signal::INT, "Ctrl-C"), (Signal::TERM, "SIGTERM")] {
        let mut sandbox = Sandbox::new();
        sandbox.configure("build.commands = ['sleep 0.7']");
        let serve = sandbox.live();
        let before = Production::of(&sandbox);
        sandbox.release(r#"{ "boot_ms": 700 }"#, &[shop::REBUILD]);
        for (run, step) in [(2, "build"), (3, "start")] {
            let deploying = sandbox.start(&["deploy", "--yes"]);
            until_step(&sandbox, run, step);
            deploying.signal(signal);
            let output = deploying.wait();
            output.exits(1).says("stopped").says(if step == "build" {
                "Production was not touched"
            } else {
                "production is as it was"
            });
            before.is_still(&Production::of(&sandbox));
            settled(&sandbox);
            let wanted = if step == "build" { "unchanged" } else { "undone" };
            assert_eq!(ending(&sandbox, run), (wanted.into(), 1), "{name} at {step}");
        }
        sandbox.deploy().exits(0);
        drop(serve);
    }
}

#[test]
fn a_terminal_that_goes_away_does_not_stop_the_run() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "boot_ms": 500 }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "hold");
    deploying.signal(Signal::KILL);
    assert_eq!(deploying.wait().code, None);
    until_ended(&sandbox, 2);
    assert_eq!(ending(&sandbox, 2), ("live".into(), 0));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_hangup_of_the_command_does_not_harm_the_run() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    sandbox.release(r#"{ "boot_ms": 500, "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "hold");
    deploying.signal(Signal::HUP);
    let _ = deploying.wait();
    until_ended(&sandbox, 2);
    assert_eq!(ending(&sandbox, 2), ("undone".into(), 1));
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn serve_asked_to_end_in_the_middle_of_a_run_undoes_it_first() {
    for (step, ended) in [("build", "unchanged"), ("start", "undone")] {
        let mut sandbox = Sandbox::new();
        sandbox.configure("build.commands = ['sleep 0.7']");
        let serve = sandbox.live();
        let before = Production::of(&sandbox);
        sandbox.release(r#"{ "boot_ms": 700 }"#, &[shop::REBUILD]);
        let deploying = sandbox.start(&["deploy", "--yes"]);
        until_step(&sandbox, 2, step);
        let output = serve.stop();
        output.exits(0);
        deploying.wait().exits(1);
        assert_eq!(ending(&sandbox, 2), (ended.into(), 1), "serve ended at {step}: {}", output.said());
        assert_eq!(sandbox.apps(), Vec::<String>::new());
        let serve = sandbox.serve();
        before.is_still(&Production::of(&sandbox));
        settled(&sandbox);
        drop(serve);
    }
}

#[test]
fn a_stopped_serve_starts_again_with_the_same_release() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    let _ = serve.stop();
    assert_eq!(sandbox.apps(), Vec::<String>::new());
    let serve = sandbox.serve();
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_killed_serve_is_followed_by_one_that_ends_its_children_first() {
    let sandbox = Sandbox::new();
    sandbox.release(r#"{ "ignore_sigterm": true }"#, &[]);
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    serve.kill9();
    let serve = sandbox.serve();
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_release_that_dies_is_started_again() {
    let sandbox = Sandbox::new();
    sandbox.release(r#"{ "crash_after_requests": 12, "rehearses_well": true }"#, &[]);
    let serve = sandbox.live();
    let died = wait::within(Duration::from_secs(20), || {
        (plimsoll_testkit::http::get(sandbox.port, "/").ok()?.status() != Some(200)).then_some(())
    });
    assert!(died.is_some(), "the app did not die as scripted");
    wait::until("the release serves again", Duration::from_secs(20), || {
        plimsoll_testkit::http::get(sandbox.port, "/").is_ok_and(|answer| answer.status() == Some(200))
    });
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_killed_serve_in_the_hold_loses_no_order() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(10);
    let before = Production::while_buying(&sandbox);
    sandbox.release(r#"{ "boot_ms": 1500 }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "start");
    serve.kill9();
    // What waited at the door is cut off, and that is the only thing that a user may notice.
    let ledger = buyers.stop();
    deploying.wait().exits(4).says("plimsoll status");
    assert!(sandbox.root().join("runs/HELD").exists(), "HELD is gone though the hold has not ended");
    let serve = sandbox.serve();
    until_ended(&sandbox, 2);
    assert_eq!(ending(&sandbox, 2), ("undone".into(), 1));
    before.is_still(&Production::while_buying(&sandbox));
    assert_eq!(ledger.lost(&sandbox.database()), Vec::<String>::new());
    settled(&sandbox);
    resume(&sandbox, 0);
    drop(serve);
}
