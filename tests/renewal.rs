//! `serve` is restarted, killed and renewed, and the app behind it runs on.

use std::time::Duration;

use plimsoll_testkit::{Buyers, Sandbox, shop, wait};
use rustix::process::Signal;

use crate::production::{Production, ending, settled, until_step};

fn app_pid(sandbox: &Sandbox) -> Option<u64> {
    let status = sandbox.plimsoll(&["--json", "status"]);
    let status = status.json().pop()?;
    assert_eq!(status["serve"]["trouble"].as_array().map(Vec::len), Some(0), "{status}");
    status["serve"]["pid"].as_u64()
}

#[test]
fn a_renewed_serve_refuses_nobody_and_leaves_the_app_as_it_is() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let (pid, app) = (serve.pid(), app_pid(&sandbox).expect("the app runs"));
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(10);
    for renewal in 1..=3 {
        serve.signal(Signal::USR2);
        wait::until("it has been renewed", Duration::from_secs(20), || {
            serve.log().matches("taken over: app-000001").count() == renewal
        });
        buyers.place(10);
    }
    buyers.stop().unharmed(&sandbox.database());
    assert_eq!((serve.pid(), app_pid(&sandbox)), (pid, Some(app)));
    settled(&sandbox);
    // What comes after is as before: a release is changed, and the old process is ended.
    sandbox.release(r#"{ "page": "two" }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_renewal_that_cannot_be_is_refused_and_nothing_is_interrupted() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let app = app_pid(&sandbox);
    let file = sandbox.root().join("plimsoll.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}\n[frnot]\n")).unwrap();
    serve.signal(Signal::USR2);
    wait::until("it says why not", Duration::from_secs(20), || serve.log().contains("was not renewed"));
    std::fs::write(&file, good).unwrap();
    assert!(serve.log().contains("frnot"), "{}", serve.log());
    assert_eq!(app_pid(&sandbox), app);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_killed_serve_is_followed_by_one_that_takes_the_app_over() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let app = app_pid(&sandbox);
    let before = Production::of(&sandbox);
    serve.kill9();
    let serve = sandbox.serve();
    before.is_still(&Production::of(&sandbox));
    assert_eq!(app_pid(&sandbox), app, "the app was started anew: {}", serve.log());
    settled(&sandbox);
    drop(serve);
}

#[test]
fn an_app_whose_settings_have_changed_is_started_anew() {
    let mut sandbox = Sandbox::new();
    let serve = sandbox.live();
    let app = app_pid(&sandbox);
    serve.kill9();
    sandbox.configure("service.env = { LOG_LEVEL = 'debug' }");
    let serve = sandbox.serve();
    wait::until("it serves", Duration::from_secs(20), || {
        app_pid(&sandbox).is_some_and(|pid| Some(pid) != app)
    });
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_stopped_serve_gives_the_app_its_time_to_start_when_it_goes_on() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "boot_ms": 2000, "page": "two" }"#, &[]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "start");
    serve.signal(Signal::STOP);
    // Longer than start_timeout: the app has all it needs, and nobody looks at it.
    std::thread::sleep(Duration::from_millis(4_500));
    serve.signal(Signal::CONT);
    deploying.wait().exits(0);
    assert_eq!(ending(&sandbox, 2), ("live".into(), 0));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_status_in_the_hold_names_the_release_that_users_have() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "boot_ms": 1500 }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "start");
    assert!(sandbox.current().is_some_and(|current| current.starts_with("000002")));
    let status = sandbox.plimsoll(&["--json", "status"]).json().pop().expect("an object");
    let text = sandbox.plimsoll(&["status"]);
    assert!(status["release"].as_str().is_some_and(|id| id.starts_with("000001")), "{status}");
    assert!(status["unproved_release"].as_str().is_some_and(|id| id.starts_with("000002")), "{status}");
    text.says("000001-").says("not proved yet");
    deploying.wait().exits(0);
    let status = sandbox.plimsoll(&["--json", "status"]).json().pop().expect("an object");
    assert!(status["release"].as_str().is_some_and(|id| id.starts_with("000002")), "{status}");
    assert!(status["unproved_release"].is_null(), "{status}");
    drop(serve);
}

#[test]
fn a_worker_that_does_not_run_is_named_by_status() {
    let mut sandbox = Sandbox::new();
    let on = sandbox.root().join("mailer-on");
    let file = on.display();
    sandbox.configure(&format!(
        "worker = [{{ name = 'mailer', start = ['touch {file}'], stop = ['rm -f {file}'], status = ['test -e {file}'] }}]"
    ));
    let serve = sandbox.live();
    std::fs::write(&on, "").unwrap();
    let status = sandbox.plimsoll(&["status"]);
    assert!(!status.text().contains("mailer"), "{}", status.text());
    std::fs::remove_file(&on).unwrap();
    sandbox.plimsoll(&["status"]).exits(0).says("the worker mailer does not run");
    drop(serve);
}

#[test]
fn a_second_ctrl_c_leaves_the_run_alone_and_says_so() {
    let mut sandbox = Sandbox::new();
    // A build that ends when it is let go, and not before: the second Ctrl-C finds the run going on, however slow all is.
    let go = sandbox.root().parent().unwrap().join("go");
    std::fs::write(&go, "").unwrap();
    let wait = format!("trap \"\" TERM; until [ -e {} ]; do sleep 0.1; done", go.display());
    sandbox.configure(&format!("build.commands = [\"\"\"sh -c '{wait}'\"\"\"]"));
    let serve = sandbox.live();
    std::fs::remove_file(&go).unwrap();
    sandbox.release("{}", &[]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "build");
    deploying.signal(Signal::INT);
    deploying.until_said("asked to stop");
    deploying.signal(Signal::INT);
    deploying.wait().exits(4).says("left before the run ended").says("plimsoll status");
    std::fs::write(&go, "").unwrap();
    crate::production::until_ended(&sandbox, 2);
    assert_eq!(ending(&sandbox, 2), ("unchanged".into(), 1));
    settled(&sandbox);
    drop(serve);
}
