//! A change that takes longer than requests can wait: a maintenance page, in the window that was agreed and at no other
//! time.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use plimsoll_testkit::{Buyers, Sandbox, Serve, shop, wait};

use crate::production::{Production, ending, settled, strategy};

/// `[window]` in UTC, from so many minutes away to so many.
fn window(from: i64, to: i64) -> String {
    let time = |minutes| {
        let at = Timestamp::now() + SignedDuration::from_mins(minutes);
        at.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string()
    };
    format!("window = {{ from = '{}', to = '{}' }}", time(from), time(to))
}

/// A live shop whose next release cannot be held: the budget is next to nothing.
fn live(window: &str) -> (Sandbox, Serve) {
    let mut sandbox = Sandbox::new();
    drop(sandbox.live());
    sandbox.configure("front = { hold_budget = '300ms', drain = '100ms' }");
    sandbox.configure(window);
    let serve = sandbox.serve();
    (sandbox, serve)
}

#[test]
fn in_the_open_window_users_read_a_maintenance_page_and_no_order_is_lost() {
    let (sandbox, serve) = live(&window(-30, 180));
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(5);
    sandbox.release(r#"{ "page": "two", "boot_ms": 900 }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    let page = wait::within(Duration::from_secs(30), || {
        let page = plimsoll_testkit::http::get(sandbox.port, "/").ok()?;
        (page.status() == Some(503)).then_some(page)
    });
    let page = page.expect("nobody ever saw a maintenance page");
    assert!(page.text().contains("Maintenance"), "{}", page.text());
    let retry: u64 = page.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((5..=120).contains(&retry), "{retry}");
    let status = sandbox.plimsoll(&["status"]);
    status.exits(0).says("shut");
    let output = deploying.wait();
    output
        .exits(0)
        .says("strategy maintenance")
        .says("the agreed window is open until")
        .says("maintenance page for");
    assert_eq!((ending(&sandbox, 2), strategy(&sandbox, 2)), (("live".into(), 0), "maintenance".into()));
    buyers.place(5);
    let ledger = buyers.stop();
    assert_eq!(ledger.lost(&sandbox.database()), Vec::<String>::new());
    let other: Vec<_> =
        ledger.failures.iter().filter(|failure| !failure.contains("503 Maintenance")).collect();
    assert!(other.is_empty(), "users met something else than the page: {other:#?}");
    assert!(sandbox.get("/").text().contains("two"));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn outside_the_window_nothing_is_begun_and_it_is_said_when_it_opens() {
    let (sandbox, serve) = live(&window(120, 180));
    let before = Production::of(&sandbox);
    sandbox.release(r#"{ "boot_ms": 900 }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(3).says("not the time for maintenance").says("when the window opens").says("UTC");
    assert_eq!(ending(&sandbox, 2), ("unchanged".into(), 3));
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_bad_release_in_the_window_is_undone_behind_the_page() {
    let (sandbox, serve) = live(&window(-30, 180));
    let before = Production::of(&sandbox);
    sandbox.release(r#"{ "boot_ms": 900, "checkout": "broken", "rehearses_well": true }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(1).says("production is as it was");
    before.is_still(&Production::of(&sandbox));
    assert_eq!(strategy(&sandbox, 2), "maintenance");
    settled(&sandbox);
    drop(serve);
}
