//! The watch over a release that users are let in to: what is bad is noticed with the right words and taken back, what is
//! not is left alone.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_testkit::soak::rounds;
use plimsoll_testkit::{Buyers, Sandbox, Serve, SystemdBox, fault, http, shop, wait};

use crate::people::deploying_on_a_terminal;
use crate::production::{ending, settled, until_step};

const COUNTS: &str = "watch.counts.orders = 'SELECT count(*) FROM orders WHERE created_at >= :since_iso'";

/// A shop with one release and a watch of `span`.
fn watched(span: &str) -> (Sandbox, Serve) {
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "watch.errors_for = '{span}'\nwatch.every = '300ms'\n{COUNTS}\nlog = [{{ file = 'logs/app.log' }}]"
    ));
    let serve = sandbox.serve();
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    (sandbox, serve)
}

/// A release of that behaviour goes live under buyers, is noticed with `words`, and is taken back without a lost order.
fn noticed_and_taken_back(first: &str, script: &str, words: &str) {
    let (sandbox, serve) = watched("25s");
    if !first.is_empty() {
        sandbox.release(first, &[]);
        sandbox.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    }
    let good = sandbox.current().unwrap();
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(80);
    sandbox.release(script, &[]);
    let output = sandbox.deploy();
    output.exits(6).says(words).says("has been rolled back").says("--unlock");
    assert_eq!(sandbox.current().as_ref(), Some(&good));
    buyers.place(5);
    let ledger = buyers.stop();
    assert!(ledger.lost(&sandbox.database()).is_empty(), "{:?}", ledger.lost(&sandbox.database()));
    let run = if first.is_empty() { 2 } else { 3 };
    assert_eq!(ending(&sandbox, run + 1), ("rolled-back".into(), 0));
    let last = sandbox.journal(run).pop().unwrap();
    assert!(sandbox.journal(run).iter().any(|e| e["event"] == "taken-back" && e["run"] == run + 1), "{last}");
    sandbox.plimsoll(&["history", "--json"]).says("\"exit\":6");
    // Nobody deploys over it by mistake.
    sandbox.deploy().exits(3).says("the app is locked").says(words);
    sandbox.plimsoll(&["status"]).says("locked");
    sandbox.release(if first.is_empty() { "{}" } else { first }, &[]);
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch", "--unlock", "mended"]).exits(0);
    sandbox.release(if first.is_empty() { r#"{"page":"x"}"# } else { first }, &[]);
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_release_that_starts_failing_after_sixty_requests_is_taken_back() {
    noticed_and_taken_back("", r#"{ "fail_after_requests": 60 }"#, "requests failed");
}

#[test]
fn a_release_that_leaks_memory_is_taken_back() {
    noticed_and_taken_back("", r#"{ "leak_kib": 256 }"#, "memory grew steadily");
}

#[test]
fn a_release_that_is_ten_times_slower_is_taken_back() {
    noticed_and_taken_back(r#"{ "slow_ms": 20 }"#, r#"{ "slow_ms": 200 }"#, "before it were");
}

#[test]
fn a_release_that_logs_errors_and_answers_200_is_taken_back() {
    noticed_and_taken_back("", r#"{ "log_errors": true }"#, "new errors in the log");
}

#[test]
fn errors_in_the_journal_of_a_unit_are_noticed_too() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("watch.errors_for = '25s'\nwatch.every = '300ms'\nlog = [{ unit = 'till.service' }]");
    let inside = match SystemdBox::start(&sandbox) {
        Ok(inside) => inside,
        Err(why) => return fault::skipped("errors in the journal of a unit", &why),
    };
    inside.plimsoll(&["install", "--yes", "--start"]).exits(0);
    inside.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    let good = sandbox.current();
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(40);
    sandbox.release("{}", &[]);
    let program = plimsoll_testkit::binary("plimsoll").display().to_string();
    let mut deploying = inside.spawn(&[&program, "deploy", "--yes"]);
    until_step(&sandbox, 2, "watch");
    let till = "while :; do echo 'ERROR: the till is stuck'; sleep 0.1; done";
    inside.run(&["systemd-run", "--unit=till", "sh", "-c", till]).exits(0);
    assert_eq!(deploying.wait().unwrap().code(), Some(6));
    assert_eq!(sandbox.current(), good);
    inside.plimsoll(&["show", "2"]).exits(0).says("the till is stuck");
    buyers.stop().unharmed(&sandbox.database());
}

#[test]
fn a_release_that_silently_stops_orders_is_taken_back() {
    noticed_and_taken_back("", r#"{ "forget_orders": true }"#, "were to be expected from before");
}

/// A program that answers as Prometheus does, with the figure as it is now; ends with the test.
fn prometheus(figure: &Arc<Mutex<&'static str>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, figure) = (listener.local_addr().unwrap().port(), Arc::clone(figure));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let figure = *figure.lock().unwrap();
            let body = format!(
                r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1,"{figure}"]}}]}}}}"#
            );
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}", body.len());
            let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes());
        }
    });
    port
}

#[test]
fn a_release_whose_figure_in_another_program_turns_bad_is_taken_back() {
    let figure = Arc::new(Mutex::new("0.01"));
    let port = prometheus(&figure);
    let (mut sandbox, serve) = watched("20s");
    drop(serve);
    let url = format!("http://127.0.0.1:{port}/api/v1/query?query=share");
    sandbox.configure(&format!("query = [{{ name = 'Share of 5xx', url = '{url}', at_most = 0.05 }}]"));
    let serve = sandbox.serve();
    let good = sandbox.current().unwrap();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "watch");
    *figure.lock().unwrap() = "0.4";
    deploying.wait().exits(6).says("Share of 5xx").says("it is 0.4, and may be 0.05 at most");
    assert_eq!(sandbox.current(), Some(good));
    // One that answers nothing of use is no alarm.
    *figure.lock().unwrap() = "NaN";
    sandbox.configure("watch.errors_for = '2s'");
    drop(serve);
    let serve = sandbox.serve();
    sandbox.release(r#"{ "page": "three" }"#, &[]);
    sandbox.plimsoll(&["deploy", "--yes", "--unlock", "mended"]).exits(0);
    let report = sandbox.read("runs/000004/report.md");
    assert!(report.contains("Share of 5xx"), "{report}");
    drop(serve);
}

#[test]
fn with_three_requests_the_same_five_are_not_enough_and_no_alarm() {
    let (sandbox, serve) = watched("3s");
    for script in [
        r#"{ "fail_after_requests": 60 }"#,
        r#"{ "leak_kib": 256 }"#,
        r#"{ "slow_ms": 200 }"#,
        r#"{ "log_errors": true }"#,
        r#"{ "forget_orders": true }"#,
    ] {
        sandbox.release(script, &[]);
        let deploying = sandbox.start(&["deploy", "--yes"]);
        let commit = sandbox.repo_head();
        let live = wait::within(Duration::from_secs(40), || {
            sandbox.current().is_some_and(|current| current.ends_with(&commit)).then_some(())
        });
        assert!(live.is_some(), "{}", deploying.stderr());
        for path in ["/", "/orders/count", "/checkout"] {
            let _ = sandbox.get(path);
        }
        deploying.wait().exits(0).says("not enough traffic");
    }
    drop(serve);
}

#[test]
fn a_burst_of_errors_that_is_over_takes_nothing_back() {
    let (sandbox, serve) = watched("6s");
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(60);
    sandbox.release(r#"{ "fail_after_requests": 60, "fail_for_requests": 40 }"#, &[]);
    let output = sandbox.deploy();
    output.exits(0).says("Live.");
    buyers.place(5);
    let ledger = buyers.stop();
    assert!(!ledger.failures.is_empty(), "nobody met the burst: the test shows nothing");
    assert!(ledger.lost(&sandbox.database()).is_empty());
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_bad_first_release_goes_on_serving_and_locks_the_app() {
    let mut sandbox = Sandbox::new();
    sandbox.configure(
        "watch.errors_for = '20s'\nwatch.every = '300ms'\nsmoke = [{ name = 'Checkout', get = '/checkout' }]",
    );
    sandbox.release(r#"{ "fail_after_requests": 3 }"#, &[]);
    let serve = sandbox.serve();
    sandbox.deploy().exits(5).says("goes on serving").says("first release");
    sandbox.plimsoll(&["status"]).says("locked");
    sandbox.release("{}", &[]);
    sandbox.deploy().exits(3).says("--unlock");
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch", "--unlock", "mended"]).exits(0);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn good_deployments_raise_no_alarm() {
    let (sandbox, serve) = watched("2s");
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(30);
    for round in 0..rounds(3, 200) {
        sandbox.release(&format!(r#"{{ "page": "{round}" }}"#), &[]);
        sandbox.deploy().exits(0);
    }
    buyers.stop().unharmed(&sandbox.database());
    drop(serve);
}

/// The events of a run that have a name.
fn events(sandbox: &Sandbox, run: u32, name: &str) -> Vec<serde_json::Value> {
    sandbox.journal(run).into_iter().filter(|entry| entry["event"] == name).collect()
}

fn until(what: &str, serve: &Serve, mut done: impl FnMut() -> bool) {
    let seen = wait::within(Duration::from_secs(40), || done().then_some(()));
    assert!(seen.is_some(), "{what}: {}", serve.log());
}

#[test]
fn spot_checks_and_the_first_hour_survive_a_reboot() {
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "{COUNTS}\nwatch.errors_for = '1s'\nwatch.every = '200ms'\nwatch.closely_for = '3s'\nwatch.spots = ['1s', '6s', '9s', '30m']"
    ));
    let serve = sandbox.serve_with(&[("PLIMSOLL_BOOT_ID", "first-boot")]);
    serve.until_it_answers();
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    until("the first spot check", &serve, || events(&sandbox, 1, "spot-checked").len() == 1);
    // All processes are gone at once, and the clocks of the next boot are others.
    serve.kill9();
    for pid in sandbox.app_pids() {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    let away = std::time::Instant::now();
    let samples = sandbox.read("runs/000001/watch.jsonl").lines().count();
    assert!(samples >= 2, "{samples}");
    while away.elapsed() < Duration::from_secs(9) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let serve = sandbox.serve_with(&[("PLIMSOLL_BOOT_ID", "second-boot")]);
    until("the missed spot checks", &serve, || events(&sandbox, 1, "spot-checked").len() == 3);
    let spots = events(&sandbox, 1, "spot-checked");
    let due: Vec<u64> = spots.iter().map(|spot| spot["spot_ms"].as_u64().unwrap()).collect();
    assert_eq!(due, [1_000, 6_000, 9_000], "each once, the 30 minutes not yet");
    assert!(spots[1]["late_ms"].as_u64().unwrap() >= 1_000, "{}", spots[1]);
    assert_eq!(spots[1]["check"]["verdict"], "pass", "{}", spots[1]);
    until("the first hour", &serve, || {
        events(&sandbox, 1, "watched").iter().any(|e| e["check"]["id"] == "watch.hour")
    });
    let hours = events(&sandbox, 1, "watched").iter().filter(|e| e["check"]["id"] == "watch.hour").count();
    assert_eq!(hours, 1, "noted once");
    sandbox.plimsoll(&["watch"]).exits(0).says("Spot check after 6s").says("spot check after 30m is to come");
    sandbox.plimsoll(&["watch", "1", "--json"]).exits(0).says("spot-checked");
    let report = sandbox.read("runs/000001/report.md");
    assert!(report.contains("Spot check after 9s"), "{report}");
    drop(serve);
}

#[test]
fn a_machine_that_rebooted_goes_on_with_the_spot_checks() {
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "{COUNTS}\nwatch.errors_for = '1s'\nwatch.every = '200ms'\nwatch.closely_for = '3s'\nwatch.spots = ['1s', '6s', '30m']"
    ));
    let mut inside = match SystemdBox::start(&sandbox) {
        Ok(inside) => inside,
        Err(why) => return fault::skipped("spot checks after a reboot", &why),
    };
    inside.plimsoll(&["install", "--yes", "--start"]).exits(0);
    inside.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    let spots = || events(&sandbox, 1, "spot-checked");
    wait::until("the first spot check", Duration::from_secs(40), || spots().len() == 1);
    inside.reboot();
    // The socket is open; whoever comes first starts what is behind it.
    wait::until("it serves again", Duration::from_secs(40), || {
        http::get(sandbox.port, "/").is_ok_and(|answer| answer.status() == Some(200))
    });
    wait::until("the next spot check", Duration::from_secs(40), || spots().len() == 2);
    let due: Vec<u64> = spots().iter().map(|spot| spot["spot_ms"].as_u64().unwrap()).collect();
    assert_eq!(due, [1_000, 6_000], "each once, the 30 minutes not yet");
    assert_eq!(spots()[1]["check"]["verdict"], "pass", "{}", spots()[1]);
    inside.plimsoll(&["watch"]).exits(0).says("spot check after 30m is to come");
    settled(&sandbox);
}

#[test]
fn the_live_release_is_watched_while_a_later_deployment_waits_for_a_yes() {
    if !std::path::Path::new("/usr/bin/script").exists() {
        let name = "watch::the_live_release_is_watched_while_a_later_deployment_waits_for_a_yes";
        return plimsoll_testkit::fault::skipped(name, "there is no `script` to make a terminal with");
    }
    let mut sandbox = Sandbox::new();
    sandbox.configure(
        "watch.errors_for = '1s'\nwatch.every = '200ms'\nwatch.spots = ['30m']\nwatch.closely_for = '1h'\n\
         notify.team = { mail = ['a@example.com'], on = ['failed'] }\nsmtp.port = 1",
    );
    sandbox.release(r#"{ "fail_after_requests": 60 }"#, &[]);
    let serve = sandbox.serve();
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    let mut deploying = deploying_on_a_terminal(&sandbox);
    until("the question", &serve, || {
        sandbox.plimsoll(&["status", "--json"]).said().contains("\"question\":\"Bring 000002-")
    });
    assert!(events(&sandbox, 1, "watched").is_empty());
    for _ in 0..300 {
        let _ = sandbox.get("/");
    }
    until("what turned bad is seen", &serve, || {
        events(&sandbox, 1, "watched").iter().any(|e| e["check"]["verdict"] == "fail")
    });
    until("somebody is told", &serve, || {
        events(&sandbox, 1, "told").iter().any(|e| e["told"]["occasion"] == "alarm")
    });
    sandbox.plimsoll(&["answer", "go-ahead", "yes", "--by", "Ravi"]).exits(0);
    let ended = wait::within(Duration::from_secs(60), || deploying.try_wait().unwrap());
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_disk_that_will_be_full_is_said_in_time() {
    let Ok(mut sandbox) = Sandbox::on_small_disk(131_072) else {
        plimsoll_testkit::fault::skipped(
            "watch::a_disk_that_will_be_full_is_said_in_time",
            "no disk may be mounted",
        );
        return;
    };
    sandbox.configure("watch.errors_for = '1s'\nwatch.every = '100ms'\nwatch.spots = ['1h']\nnotify.team = { mail = ['a@example.com'], on = ['failed'] }\nsmtp.port = 1");
    let serve = sandbox.serve();
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    let file = sandbox.root().join("shared/filling");
    let mut filling = std::fs::File::create(&file).unwrap();
    until("the disk fills", &serve, || {
        filling.write_all(&[7; 65_536]).unwrap();
        events(&sandbox, 1, "watched").iter().any(|e| e["check"]["name"] == "Room on the disk")
    });
    let said = events(&sandbox, 1, "watched")[0].to_string();
    assert!(said.contains("the disk will be full in"), "{said}");
    until("somebody is told", &serve, || !events(&sandbox, 1, "told").is_empty());
    assert_eq!(events(&sandbox, 1, "told")[0]["told"]["occasion"], "alarm");
    assert!(shop::number(&sandbox.database(), "SELECT count(*) FROM products") == 3);
    drop(serve);
}
