//! A disk that is really full, at several steps.

use plimsoll_testkit::{Buyers, Sandbox, fault, shop};

use crate::production::{Production, ending, settled, until_step};

/// Enough for a deployment with all that it reserves.
const ROOMY_KIB: u64 = 96 * 1024;

fn sandbox(test: &str) -> Option<Sandbox> {
    Sandbox::on_small_disk(ROOMY_KIB).map_err(|why| fault::skipped(test, &why)).ok()
}

#[test]
fn a_deployment_does_not_begin_what_it_has_no_room_to_undo() {
    let Some(sandbox) = sandbox("a deployment without room") else { return };
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    sandbox.release("{}", &[shop::REBUILD]);
    for leave_kib in [8 * 1024, 512, 64, 0] {
        let ballast = sandbox.disk().unwrap().fill(leave_kib);
        let output = sandbox.deploy();
        assert!(matches!(output.code, Some(1)), "with {leave_kib} KiB: {}", output.said());
        std::fs::remove_file(ballast).unwrap();
        before.is_still(&Production::of(&sandbox));
        settled(&sandbox);
    }
    sandbox.deploy().exits(0);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_disk_that_fills_up_in_the_hold_does_not_stop_the_way_back() {
    let Some(sandbox) = sandbox("a disk that fills up in the hold") else { return };
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 2);
    buyers.place(5);
    let before = Production::while_buying(&sandbox);
    sandbox.release(r#"{ "boot_ms": 1200, "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "start");
    let ballast = sandbox.disk().unwrap().fill(0);
    let output = deploying.wait();
    output.exits(1).says("production is as it was");
    std::fs::remove_file(ballast).unwrap();
    buyers.place(3);
    let ledger = buyers.stop();
    assert_eq!(ledger.lost(&sandbox.database()), Vec::<String>::new());
    before.is_still(&Production::while_buying(&sandbox));
    assert_eq!(ending(&sandbox, 2), ("undone".into(), 1));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_disk_that_is_full_at_the_first_deployment_leaves_nothing_behind() {
    let Some(sandbox) = sandbox("a full disk at the first deployment") else { return };
    let serve = sandbox.serve();
    let ballast = sandbox.disk().unwrap().fill(16);
    let output = sandbox.deploy();
    assert!(matches!(output.code, Some(1)), "{}", output.said());
    assert_eq!(sandbox.current(), None);
    std::fs::remove_file(ballast).unwrap();
    sandbox.deploy().exits(0);
    settled(&sandbox);
    drop(serve);
}
