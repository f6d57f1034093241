//! Units of a user's own systemd: `systemctl --user`, without root.

use std::time::Duration;

use plimsoll_testkit::{Output, Sandbox, SystemdBox, binary, fault, http, shop, wait};

use crate::managed::Managed;
use crate::production::ending;

const HOME: &str = "/home/shop";
const RUNTIME: &str = "/run/user/4711";

/// Runs a command as the user, who is logged in as cron is: nothing is set but HOME.
fn as_user(inside: &SystemdBox, words: &[&str]) -> Output {
    let who = ["setpriv", "--reuid=shop", "--regid=shop", "--init-groups", "env", "HOME=/home/shop"];
    inside.run(&who.iter().chain(words).copied().collect::<Vec<_>>())
}

fn plimsoll(inside: &SystemdBox, arguments: &[&str]) -> Output {
    let program = binary("plimsoll").display().to_string();
    as_user(inside, &std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect::<Vec<_>>())
}

fn systemctl(inside: &SystemdBox, arguments: &[&str]) -> Output {
    let words = ["env", "XDG_RUNTIME_DIR=/run/user/4711", "systemctl", "--user"];
    as_user(inside, &words.iter().chain(arguments).copied().collect::<Vec<_>>())
}

/// A user who has all of the sandbox, and a systemd of his own.
fn with_a_systemd_of_his_own(inside: &SystemdBox) {
    inside.run(&["useradd", "--create-home", "--uid=4711", "shop"]).exits(0);
    inside.run(&["chown", "-R", "shop:shop", ".."]).exits(0);
    let runtime = format!("--setenv=XDG_RUNTIME_DIR={RUNTIME}");
    let home = format!("--setenv=HOME={HOME}");
    inside
        .run(&[
            "systemd-run",
            "--quiet",
            "--unit=manager-of-shop",
            "--uid=shop",
            "--property=Delegate=yes",
            "--property=RuntimeDirectory=user/4711",
            &runtime,
            &home,
            "/lib/systemd/systemd",
            "--user",
        ])
        .exits(0);
    wait::until("the user's systemd is up", Duration::from_secs(30), || {
        let state = systemctl(inside, &["is-system-running"]).stdout.trim().to_owned();
        ["running", "degraded"].contains(&state.as_str())
    });
}

/// git refuses a repository that belongs to somebody else: to the test's user it is given for that moment.
fn release(managed: &Managed, script: &str, files: &[(&str, &str)]) {
    managed.inside.run(&["chown", "-R", "root:root", "../repo"]).exits(0);
    managed.sandbox.release(script, files);
    managed.inside.run(&["chown", "-R", "shop:shop", "../repo"]).exits(0);
}

#[test]
fn a_unit_of_the_users_own_is_deployed_without_root_and_taken_back() {
    let test = "a unit of the user's own systemd";
    let Some(managed) = Managed::start(test, "service.kind = 'systemd'\nservice.unit = 'shop'\n") else {
        return;
    };
    let unit = format!(
        "[Service]\nWorkingDirectory={}\nExecStart={}\nRestart=on-failure\nRestartSec=100ms\n",
        managed.folder(),
        managed.script(),
    );
    managed.inside.write(&format!("{HOME}/.config/systemd/user/shop.service"), &unit);
    with_a_systemd_of_his_own(&managed.inside);
    plimsoll(&managed.inside, &["deploy", "--yes"]).exits(0).says("Live.");
    assert_eq!(systemctl(&managed.inside, &["is-active", "shop.service"]).stdout.trim(), "active");
    managed.is_settled();
    release(&managed, r#"{ "page": "two" }"#, &[shop::REBUILD]);
    plimsoll(&managed.inside, &["deploy", "--yes"]).exits(0).says("Live.");
    managed.is_settled();
    assert!(managed.sandbox.get("/").text().contains("two"));
    release(&managed, r#"{ "exit_at_start": 3 }"#, &[]);
    plimsoll(&managed.inside, &["deploy", "--yes"])
        .exits(6)
        .says("Rolled back")
        .says("shop.service: Main process exited");
    managed.is_settled();
    assert_eq!(ending(&managed.sandbox, 3), ("rolled-back".into(), 6));
}

#[test]
fn what_is_installed_for_the_users_own_systemd_serves_and_is_taken_away_again() {
    let sandbox = Sandbox::new();
    let inside = match SystemdBox::start(&sandbox) {
        Ok(inside) => inside,
        Err(why) => return fault::skipped("install for the user's own systemd", &why),
    };
    inside.plimsoll(&["install", "--systemd-user", "--yes"]).exits(2).says("root's units");
    with_a_systemd_of_his_own(&inside);
    let files = ["service", "socket"].map(|end| format!("{HOME}/.config/systemd/user/plimsoll-shop.{end}"));
    plimsoll(&inside, &["install", "--yes"]).exits(1).says("--systemd-user");
    let _ = plimsoll(&inside, &["uninstall", "--yes"]);
    plimsoll(&inside, &["install", "--systemd-user", "--yes", "--start"]).exits(0).says("enable-linger");
    assert!(files.iter().all(|file| inside.read(file).is_some()));
    for unit in ["plimsoll-shop.service", "plimsoll-shop.socket"] {
        assert_eq!(systemctl(&inside, &["is-active", unit]).stdout.trim(), "active");
        assert_eq!(systemctl(&inside, &["is-enabled", unit]).stdout.trim(), "enabled");
    }
    plimsoll(&inside, &["deploy", "--yes"]).exits(0).says("Live.");
    assert_eq!(sandbox.get("/").status(), Some(200));
    let apps = sandbox.apps();
    systemctl(&inside, &["restart", "plimsoll-shop.service"]).exits(0);
    let back = wait::within(Duration::from_secs(20), || sandbox.serving());
    assert_eq!(back, sandbox.current());
    assert_ne!(sandbox.apps(), Vec::<String>::new(), "{apps:?}");
    plimsoll(&inside, &["uninstall", "--yes"]).exits(0);
    assert!(files.iter().all(|file| inside.read(file).is_none()));
    assert_eq!(sandbox.apps(), Vec::<String>::new(), "the app still runs");
    assert!(http::get(sandbox.port, "/").is_err(), "somebody still listens");
}
