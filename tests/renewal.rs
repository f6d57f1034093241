//! `serve` is restarted, killed and renewed, and the app behind it runs on.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use plimsoll_testkit::http::Connection;
use plimsoll_testkit::{Buyers, Sandbox, Serve, binary, http, shop, soak, wait};
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

fn until_renewed(serve: &Serve, times: usize) {
    wait::until("it has been renewed", Duration::from_secs(30), || {
        serve.log().matches("taken over: app-").count() >= times
    });
}

#[test]
fn a_renewal_in_a_hold_waits_for_the_run_and_its_client_hears_how_it_ended() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(5);
    sandbox.release(r#"{ "boot_ms": 1500, "page": "two" }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "start");
    serve.signal(Signal::USR2);
    deploying.wait().exits(0).says("Live.");
    until_renewed(&serve, 1);
    buyers.place(5);
    buyers.stop().unharmed(&sandbox.database());
    assert_eq!(ending(&sandbox, 2), ("live".into(), 0));
    settled(&sandbox);
    drop(serve);
}

/// Seen: until it had got as far as hearing signals, the renewed program was ended by the next one.
#[test]
fn serve_was_ended_by_a_second_renewal_while_the_first_went_on() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let app = app_pid(&sandbox);
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(5);
    let mut renewals = 0;
    for pause in [0, 5, 20, 50, 100, 200, 300, 400, 600] {
        serve.signal(Signal::USR2);
        thread::sleep(Duration::from_millis(pause));
        serve.signal(Signal::USR2);
        renewals += 1;
        until_renewed(&serve, renewals);
        // The second one may have been a renewal of its own.
        buyers.place(5);
        renewals = serve.log().matches("taken over: app-").count();
        assert!(serve.is_running(), "{}", serve.log());
    }
    buyers.stop().unharmed(&sandbox.database());
    // A command that asks in the very moment of a renewal is told that it was not answered.
    wait::until("it serves, and the app is the same", Duration::from_secs(20), || {
        let status = sandbox.plimsoll(&["--json", "status"]).json().pop();
        status.is_some_and(|status| status["serve"]["pid"].as_u64() == app)
    });
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_stop_that_was_asked_for_during_a_renewal_was_forgotten() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let port = sandbox.port;
    let slow = thread::spawn(move || http::get(port, "/slow?ms=2000").map(|answer| answer.status()));
    wait::until("it is at the app", Duration::from_secs(20), || {
        sandbox.read("logs/app.log").contains("/slow?ms=2000")
    });
    serve.signal(Signal::USR2);
    wait::until("it renews", Duration::from_secs(20), || serve.log().contains("renewing"));
    serve.signal(Signal::TERM);
    serve.wait().exits(0).says("stopping");
    assert_eq!(slow.join().unwrap().unwrap(), Some(200), "what was running was not finished");
    assert_eq!(sandbox.apps(), Vec::<String>::new());
}

/// A program that says its version and then does not understand the configuration, or hangs.
#[test]
fn a_program_that_cannot_serve_is_not_renewed_to() {
    let sandbox = Sandbox::new();
    drop(sandbox.live());
    let program = sandbox.root().parent().unwrap().join("plimsoll");
    let good = std::fs::read(binary("plimsoll")).unwrap();
    std::fs::write(&program, &good).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let log = sandbox.root().parent().unwrap().join("serve.log");
    let mut serve = Command::new(&program)
        .arg("--config")
        .arg(sandbox.root().join("plimsoll.toml"))
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    wait::until("it serves", Duration::from_secs(30), || sandbox.serving() == sandbox.current());
    let renew = |pid: u32| {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
            Signal::USR2,
        )
        .unwrap();
    };
    let broken = "#!/bin/sh\n[ \"$1\" = --version ] && echo plimsoll 9.9.9 && exit 0\necho it is not for this; exit 2\n";
    let another = "#!/bin/sh\necho busybox\n";
    for (number, text) in [broken, another, ""].into_iter().enumerate() {
        // Replaced as a package does it: a new file under the name.
        let new = program.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(&new, &program).unwrap();
        renew(serve.id());
        wait::until("it says why not", Duration::from_secs(30), || {
            said().matches("was not renewed").count() > number
        });
        assert_eq!(sandbox.serving(), sandbox.current());
    }
    assert!(said().contains("it is not for this"), "{}", said());
    assert!(serve.try_wait().unwrap().is_none());
    rustix::process::kill_process(rustix::process::Pid::from_child(&serve), Signal::TERM).unwrap();
    serve.wait().unwrap();
}

#[test]
fn thousands_of_kept_connections_pass_a_renewal() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let count = soak::rounds(500, 5_000);
    let mut clients: Vec<Connection> =
        (0..count).map(|_| Connection::open(sandbox.port, Duration::from_secs(60)).unwrap()).collect();
    for renewal in 1..=2 {
        for client in &mut clients {
            assert_eq!(client.send("GET", "/checkout", None).unwrap().status(), Some(200));
        }
        serve.signal(Signal::USR2);
        until_renewed(&serve, renewal);
    }
    for client in &mut clients {
        assert_eq!(client.send("GET", "/checkout", None).unwrap().status(), Some(200));
    }
    drop(clients);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_serve_that_is_killed_in_a_renewal_loses_no_order() {
    let sandbox = Sandbox::new();
    let mut serve = sandbox.live();
    for after in [0, 30, 80, 150, 250, 400] {
        let buyers = Buyers::start(sandbox.port, 3);
        buyers.place(5);
        serve.signal(Signal::USR2);
        thread::sleep(Duration::from_millis(after));
        serve.kill9();
        // Requests of theirs broke off; what was promised is there.
        let lost = buyers.stop().lost(&sandbox.database());
        assert_eq!(lost, Vec::<String>::new(), "killed after {after} ms");
        serve = sandbox.serve();
        settled(&sandbox);
    }
    drop(serve);
}

#[test]
fn a_client_in_the_middle_of_a_request_goes_on_after_a_renewal() {
    use std::io::Write;
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let mut client = std::net::TcpStream::connect(("127.0.0.1", sandbox.port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.write_all(b"GET /checkout HTTP/1.1\r\nhost: a\r\n\r\nGET /checkout HTTP/1.1\r\nho").unwrap();
    let mut piece = [0; 4096];
    assert!(client.read(&mut piece).unwrap() > 0);
    for renewal in 1..=2 {
        serve.signal(Signal::USR2);
        until_renewed(&serve, renewal);
    }
    client.write_all(b"st: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK"), "{rest}");
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
