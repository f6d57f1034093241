//! `plimsoll install` under a real systemd: what it writes works, and `uninstall` takes exactly that away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plimsoll_testkit::{Buyers, Sandbox, SystemdBox, fault, http, shop, wait};

const SERVICE: &str = "/etc/systemd/system/plimsoll-shop.service";
const SOCKET: &str = "/etc/systemd/system/plimsoll-shop.socket";

/// A sandbox whose front door systemd holds open, with a release live.
fn live(name: &str) -> Option<(Sandbox, SystemdBox)> {
    let sandbox = Sandbox::new();
    let inside = match SystemdBox::start(&sandbox) {
        Ok(inside) => inside,
        Err(why) => {
            fault::skipped(name, &why);
            return None;
        }
    };
    inside.plimsoll(&["install", "--yes", "--start"]).exits(0);
    inside.plimsoll(&["deploy", "--yes"]).exits(0).says("Live.");
    Some((sandbox, inside))
}

#[test]
fn what_is_installed_is_shown_first_and_taken_away_again() {
    let sandbox = Sandbox::new();
    let inside = match SystemdBox::start(&sandbox) {
        Ok(inside) => inside,
        Err(why) => return fault::skipped("install", &why),
    };
    inside.plimsoll(&["install", "--print"]).exits(0).says(SOCKET).says("KillMode=mixed");
    inside.plimsoll(&["install"]).exits(3).says("nobody agreed");
    assert_eq!(inside.read(SERVICE), None, "it was written though nobody agreed");
    inside.plimsoll(&["uninstall", "--yes"]).exits(2).says("nothing was installed");

    inside.plimsoll(&["install", "--yes"]).exits(0).says("systemctl enable --now");
    assert_eq!(inside.is_active("plimsoll-shop.service"), "inactive", "it was started though nobody asked");
    inside.plimsoll(&["install", "--yes", "--start"]).exits(0);
    for unit in ["plimsoll-shop.service", "plimsoll-shop.socket"] {
        assert_eq!(inside.is_active(unit), "active");
        assert_eq!(inside.run(&["systemctl", "is-enabled", unit]).stdout.trim(), "enabled");
    }
    let said = inside.run(&["systemd-analyze", "verify", SERVICE, SOCKET]);
    assert_eq!(
        said.said().lines().filter(|line| line.contains("plimsoll-shop")).count(),
        0,
        "{}",
        said.said()
    );
    let status = inside.run(&["systemctl", "show", "--property=StatusText", "plimsoll-shop.service"]);
    assert_ne!(status.stdout.trim(), "StatusText=", "systemd was not told how it is");
    inside.plimsoll(&["deploy", "--yes"]).exits(0);
    assert_eq!(sandbox.get("/").status(), Some(200));

    inside.plimsoll(&["uninstall", "--print"]).exits(0).says(SERVICE);
    inside.plimsoll(&["uninstall"]).exits(3);
    assert_eq!(inside.is_active("plimsoll-shop.service"), "active", "it was stopped though nobody agreed");
    inside.plimsoll(&["uninstall", "--yes"]).exits(0);
    assert_eq!((inside.read(SERVICE), inside.read(SOCKET)), (None, None));
    assert_eq!(sandbox.apps(), Vec::<String>::new(), "the app still runs");
    assert!(http::get(sandbox.port, "/").is_err(), "somebody still listens");
    let links = inside.run(&["find", "/etc/systemd/system", "-name", "*plimsoll*"]);
    assert_eq!(links.stdout, "", "something of it is left");
    assert!(sandbox.current().is_some() && sandbox.database().exists());
}

#[test]
fn a_file_that_somebody_else_wrote_or_changed_is_left_alone() {
    let sandbox = Sandbox::new();
    let inside = match SystemdBox::start(&sandbox) {
        Ok(inside) => inside,
        Err(why) => return fault::skipped("install beside other files", &why),
    };
    inside.write(SERVICE, "[Service]\nExecStart=/bin/true\n");
    inside.plimsoll(&["install", "--yes"]).exits(2).says(SERVICE);
    assert_eq!(inside.read(SOCKET), None, "half of it was written");
    inside.run(&["rm", SERVICE]).exits(0);
    inside.plimsoll(&["install", "--yes"]).exits(0);
    let changed = inside.read(SERVICE).unwrap().replace("RestartSec=1s", "RestartSec=9s");
    inside.write(SERVICE, &changed);
    inside.plimsoll(&["install", "--yes"]).exits(2).says("changed since");
    inside.plimsoll(&["uninstall", "--yes"]).exits(1).says(SERVICE);
    assert_eq!(inside.read(SERVICE), Some(changed));
    assert_eq!(inside.read(SOCKET), None);
}

#[test]
fn what_root_installs_leaves_the_app_to_its_own_user() {
    let sandbox = Sandbox::new();
    let inside = match SystemdBox::start(&sandbox) {
        Ok(inside) => inside,
        Err(why) => return fault::skipped("install for another user", &why),
    };
    inside.run(&["chown", "-R", "nobody:nogroup", "."]).exits(0);
    inside.plimsoll(&["install", "--yes"]).exits(0);
    assert!(inside.read(SERVICE).unwrap().lines().any(|line| line == "User=nobody"));
    let owner = inside.run(&["stat", "--format=%U:%G:%a", "runs"]);
    assert_eq!(owner.stdout.trim(), "nobody:nogroup:700", "serve could not write there");
}

#[test]
fn a_restart_of_serve_under_its_socket_loses_no_request() {
    let Some((sandbox, inside)) = live("a restart under the socket unit") else { return };
    let port = sandbox.port;
    let enough = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    while !(enough.load(Ordering::Relaxed) && answers.len() >= 50) {
                        // A connection each: those are what a restart could lose.
                        answers.push(
                            http::get(port, "/").map(|answer| answer.status()).map_err(|e| e.to_string()),
                        );
                        thread::sleep(Duration::from_millis(10));
                    }
                    answers
                })
            })
            .collect();
        for _ in 0..2 {
            inside.run(&["systemctl", "restart", "plimsoll-shop.service"]).exits(0);
            let back = wait::within(Duration::from_secs(20), || sandbox.serving());
            assert_eq!(back, sandbox.current());
        }
        enough.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(answers.len() >= 200, "only {} requests were made", answers.len());
    let lost: Vec<_> = answers.iter().filter(|answer| **answer != Ok(Some(200))).collect();
    assert!(lost.is_empty(), "{} of {} were lost: {lost:?}", lost.len(), answers.len());
}

#[test]
fn a_reload_of_the_unit_keeps_every_connection_and_the_app() {
    let Some((sandbox, inside)) = live("a reload of the unit") else { return };
    let apps = sandbox.apps();
    let buyers = Buyers::start(sandbox.port, 4);
    for renewal in 1..=3 {
        buyers.place(10);
        inside.run(&["systemctl", "reload", "plimsoll-shop.service"]).exits(0);
        wait::until("it has been renewed", Duration::from_secs(20), || {
            let log =
                inside.run(&["journalctl", "--no-pager", "--output=cat", "--unit=plimsoll-shop.service"]);
            log.stdout.matches("taken over: app-000001").count() == renewal
        });
    }
    buyers.place(10);
    buyers.stop().unharmed(&sandbox.database());
    assert_eq!(sandbox.apps(), apps, "the app was started anew");
    assert_eq!(inside.is_active("plimsoll-shop.service"), "active");
}

#[test]
fn serve_that_is_killed_comes_back_by_itself_with_its_app() {
    let Some((sandbox, inside)) = live("serve killed under systemd") else { return };
    let main = inside.run(&["systemctl", "show", "--property=MainPID", "--value", "plimsoll-shop.service"]);
    inside.run(&["kill", "-KILL", main.stdout.trim()]).exits(0);
    let back = wait::within(Duration::from_secs(10), || {
        let again =
            inside.run(&["systemctl", "show", "--property=MainPID", "--value", "plimsoll-shop.service"]);
        (again.stdout != main.stdout && again.stdout.trim() != "0").then(|| sandbox.serving())
    });
    assert_eq!(back.flatten(), sandbox.current(), "no service within 10 s");
    let one = wait::within(Duration::from_secs(8), || (sandbox.apps().len() == 1).then_some(()));
    assert!(one.is_some(), "not exactly one app runs: {:?}", sandbox.apps());
    sandbox.release("{}", &[shop::REBUILD]);
    inside.plimsoll(&["deploy", "--yes"]).exits(0);
}
