//! What must be true of production before and after, whatever is tried on it.

use std::collections::BTreeSet;
use std::time::Duration;

use plimsoll_testkit::{Sandbox, http, shop, wait};
use serde_json::Value;

/// Where buyers write while a test runs; their ledger is what guards these.
pub(crate) const ORDERS: [&str; 2] = ["orders", "order_items"];

/// Production as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Production {
    current: Option<String>,
    /// The release that answers, or what came instead.
    serving: String,
    releases: BTreeSet<String>,
    data: String,
}

impl Production {
    /// All of it; the orders too, so nobody may be buying.
    pub(crate) fn of(sandbox: &Sandbox) -> Production {
        Production::except(sandbox, &[])
    }

    /// All but the orders, for when somebody is buying.
    pub(crate) fn while_buying(sandbox: &Sandbox) -> Production {
        Production::except(sandbox, &ORDERS)
    }

    fn except(sandbox: &Sandbox, tables: &[&str]) -> Production {
        let releases = std::fs::read_dir(sandbox.root().join("releases")).into_iter().flatten().flatten();
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let database = sandbox.database();
        let there = database.exists().then(|| shop::dump(&database, tables));
        Production {
            current: sandbox.current(),
            serving: serving(sandbox),
            releases: releases.map(name).filter(|name| !name.starts_with('.')).collect(),
            data: there.unwrap_or_else(|| "no database".into()),
        }
    }

    /// Fails unless `after` is the same.
    #[track_caller]
    pub(crate) fn is_still(&self, after: &Production) {
        assert_eq!(self.current, after.current, "`current` points elsewhere");
        assert_eq!(self.serving, after.serving, "another release serves");
        assert_eq!(self.releases, after.releases, "other release folders are there");
        let (before, now): (BTreeSet<&str>, BTreeSet<&str>) =
            (self.data.lines().collect(), after.data.lines().collect());
        let gone: Vec<_> = before.difference(&now).collect();
        let new: Vec<_> = now.difference(&before).collect();
        assert!(self.data == after.data, "the data is not the same; gone: {gone:#?}; new: {new:#?}");
    }
}

fn serving(sandbox: &Sandbox) -> String {
    match http::get(sandbox.port, "/healthz") {
        Ok(answer) => answer
            .header("x-release")
            .map_or_else(|| format!("{} {}", answer.start, answer.text()), str::to_owned),
        Err(error) => format!("nobody: {error}"),
    }
}

/// Fails unless exactly one app runs, it is the current release, users reach it, and nothing of a hold is left.
#[track_caller]
pub(crate) fn settled(sandbox: &Sandbox) {
    let held = sandbox.root().join("runs/HELD");
    assert!(!held.exists(), "runs/HELD is left");
    let current = sandbox.current().expect("a release is live");
    assert_eq!(serving(sandbox), current, "users do not reach the current release");
    // A retired release may take until its stop timeout.
    let one = wait::within(Duration::from_secs(8), || (sandbox.apps().len() == 1).then_some(()));
    assert!(one.is_some(), "not exactly one app runs: {:#?}", sandbox.apps());
}

/// How a run ended; people and watchers may have added to it since.
#[track_caller]
pub(crate) fn ending(sandbox: &Sandbox, run: u32) -> (String, u64) {
    let journal = sandbox.journal(run);
    let last = ended(sandbox, run);
    let sequence: Vec<u64> = journal.iter().filter_map(|entry| entry["seq"].as_u64()).collect();
    assert_eq!(sequence, (0..journal.len() as u64).collect::<Vec<_>>(), "the journal of run {run} has gaps");
    (last["ending"].as_str().unwrap_or_default().to_owned(), last["exit"].as_u64().unwrap_or(999))
}

/// The event that ends a run: there is one. What is noted afterwards, of messages and the watch, comes behind it.
#[track_caller]
pub(crate) fn ended(sandbox: &Sandbox, run: u32) -> Value {
    let mut ends: Vec<Value> =
        sandbox.journal(run).into_iter().filter(|entry| entry["event"] == "ended").collect();
    assert_eq!(ends.len(), 1, "run {run} has these ends: {ends:?}; its journal: {:?}", sandbox.journal(run));
    ends.remove(0)
}

/// The strategy of a run.
pub(crate) fn strategy(sandbox: &Sandbox, run: u32) -> String {
    let journal = sandbox.journal(run);
    let planned = journal.iter().find(|entry| entry["event"] == "planned").expect("the run was planned");
    planned["decision"]["strategy"].as_str().unwrap_or_default().to_owned()
}

/// The steps of a run that are done, in order.
pub(crate) fn steps(sandbox: &Sandbox, run: u32) -> Vec<String> {
    let journal = sandbox.journal(run);
    let done = journal.iter().filter(|entry| entry["event"] == "step-done");
    done.map(|entry| entry["step"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until a run has ended, whoever carries it out.
#[track_caller]
pub(crate) fn until_ended(sandbox: &Sandbox, run: u32) {
    let path = sandbox.root().join(format!("runs/{run:06}/journal.jsonl"));
    wait::until(&format!("run {run} has ended"), Duration::from_secs(40), || {
        std::fs::read_to_string(&path).is_ok_and(|journal| journal.contains(r#""event":"ended""#))
    });
}

/// Waits until a run's journal says that a step has begun.
#[track_caller]
pub(crate) fn until_step(sandbox: &Sandbox, run: u32, step: &str) {
    let path = sandbox.root().join(format!("runs/{run:06}/journal.jsonl"));
    let begun = format!(r#""event":"step-started","step":"{step}""#);
    wait::until(&format!("run {run} is at {step}"), Duration::from_secs(40), || {
        std::fs::read_to_string(&path).is_ok_and(|journal| journal.contains(&begun))
    });
}

/// Runs `plimsoll resume` when nothing is going on any more: a run that has ended still writes its reports.
#[track_caller]
pub(crate) fn resume(sandbox: &Sandbox, exit: i32) {
    let output = wait::within(Duration::from_secs(20), || {
        let output = sandbox.plimsoll(&["resume"]);
        (!output.said().contains("is going on")).then_some(output)
    });
    output.expect("a run goes on for ever").exits(exit);
}
