//! `serve` dies right after each event that it journals, one after another; the next one ends live or as before.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use plimsoll_testkit::{Buyers, Sandbox, shop, soak};

use crate::production::{Production, ended, resume, settled, until_ended};

/// How the run ended after a crash behind its `event`; `None` when it had no such event.
fn crash_after(event: u64, migrates: bool) -> Option<String> {
    let sandbox = Sandbox::new();
    drop(sandbox.live());
    sandbox.release(r#"{ "page": "two" }"#, if migrates { &[shop::REBUILD] } else { &[] });
    let serve = sandbox.serve_with(&[("PLIMSOLL_CRASH_AFTER_EVENT", &event.to_string())]);
    serve.until_it_answers();
    let buyers = Buyers::start(sandbox.port, 2);
    buyers.place(4);
    let before = Production::while_buying(&sandbox);
    let output = sandbox.deploy();
    if output.code == Some(0) {
        buyers.stop().unharmed(&sandbox.database());
        drop(serve);
        return None;
    }
    let case = format!("after event {event}, migration: {migrates}");
    assert_eq!(serve.wait().code, None, "{case}: serve did not abort: {}", output.said());
    assert_eq!(output.code, Some(4), "{case}: {}", output.said());
    let ledger = buyers.stop();
    let serve = sandbox.serve();
    until_ended(&sandbox, 2);
    let last = ended(&sandbox, 2);
    let ending = last["ending"].as_str().unwrap_or_default().to_owned();
    let now = Production::while_buying(&sandbox);
    if ending == "live" {
        assert!(sandbox.current().is_some_and(|current| current.starts_with("000002")), "{case}");
        let version = shop::number(&sandbox.database(), "SELECT max(version) FROM schema_version");
        assert_eq!(version, if migrates { 2 } else { 1 }, "{case}");
    } else {
        assert!(["undone", "unchanged"].contains(&ending.as_str()), "{case}: {ending}");
        before.is_still(&now);
    }
    settled(&sandbox);
    assert_eq!(ledger.lost(&sandbox.database()), Vec::<String>::new(), "{case}");
    let again = Buyers::start(sandbox.port, 2);
    again.place(4);
    again.stop().unharmed(&sandbox.database());
    resume(&sandbox, 0);
    assert!(sandbox.root().join("runs/000002/report.json").exists(), "{case}: the run has no report");
    drop(serve);
    Some(ending)
}

fn crash_everywhere(migrates: bool) -> Vec<String> {
    everywhere(|event| crash_after(event, migrates))
}

/// Crashes behind every event (a soak; else behind every third), several at a time; returns how the runs ended, in the order of the events.
fn everywhere(crash_after: impl Fn(u64) -> Option<String> + Sync) -> Vec<String> {
    let every = soak::rounds(3, 1) as u64;
    let next = AtomicU64::new(1);
    let mut endings = thread::scope(|scope| {
        let worker = || {
            let mut endings = Vec::new();
            loop {
                let event = next.fetch_add(every, Ordering::SeqCst);
                match crash_after(event) {
                    Some(ending) => endings.push((event, ending)),
                    None => return endings,
                }
            }
        };
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("the crash is survived"))
            .collect::<Vec<_>>()
    });
    endings.sort();
    let events: BTreeSet<u64> = endings.iter().map(|(event, _)| *event).collect();
    assert!(events.len() > 12, "only {events:?} were crashed after");
    endings.into_iter().map(|(_, ending)| ending).collect()
}

#[test]
fn after_a_crash_behind_any_event_of_a_held_run_production_is_old_or_new() {
    let mut endings = crash_everywhere(true);
    endings.dedup();
    assert_eq!(endings, ["unchanged", "undone", "live"], "the endings turn once each, in this order");
}

#[test]
fn after_a_crash_behind_any_event_of_an_overlapping_run_production_is_old_or_new() {
    let mut endings = crash_everywhere(false);
    endings.dedup();
    assert_eq!(endings, ["unchanged", "undone", "live"], "the endings turn once each, in this order");
}

/// A rollback with its data, `serve` dying behind its `event`; how the run ended, `None` when it had no such event.
fn rollback_crash_after(event: u64) -> Option<String> {
    let sandbox = Sandbox::new();
    let first = sandbox.live();
    sandbox.release(r#"{ "page": "two" }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    drop(first);
    let serve = sandbox.serve_with(&[("PLIMSOLL_CRASH_AFTER_EVENT", &event.to_string())]);
    serve.until_it_answers();
    let buyers = Buyers::start(sandbox.port, 2);
    buyers.place(4);
    let before = Production::while_buying(&sandbox);
    let output = sandbox.plimsoll(&["rollback", "--data", "--yes"]);
    if output.code == Some(0) {
        buyers.stop().unharmed(&sandbox.database());
        drop(serve);
        return None;
    }
    let case = format!("rollback, after event {event}");
    assert_eq!(serve.wait().code, None, "{case}: serve did not abort: {}", output.said());
    assert_eq!(output.code, Some(4), "{case}: {}", output.said());
    let ledger = buyers.stop();
    let serve = sandbox.serve();
    until_ended(&sandbox, 3);
    let last = ended(&sandbox, 3);
    let ending = last["ending"].as_str().unwrap_or_default().to_owned();
    if ending == "rolled-back" {
        assert!(sandbox.current().is_some_and(|current| current.starts_with("000001")), "{case}");
        assert_eq!(shop::number(&sandbox.database(), "SELECT max(version) FROM schema_version"), 1, "{case}");
    } else {
        assert!(["undone", "unchanged"].contains(&ending.as_str()), "{case}: {ending}");
        before.is_still(&Production::while_buying(&sandbox));
    }
    settled(&sandbox);
    assert_eq!(ledger.lost(&sandbox.database()), Vec::<String>::new(), "{case}");
    let again = Buyers::start(sandbox.port, 2);
    again.place(4);
    again.stop().unharmed(&sandbox.database());
    resume(&sandbox, 0);
    drop(serve);
    Some(ending)
}

#[test]
fn after_a_crash_behind_any_event_of_a_rollback_every_order_is_there() {
    let mut endings = everywhere(rollback_crash_after);
    endings.dedup();
    assert_eq!(endings, ["unchanged", "undone", "rolled-back"], "the endings turn once each, in this order");
}
