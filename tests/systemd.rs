//! Service kind `systemd` under a real systemd, the engine inside the command.

use std::thread;

use plimsoll_testkit::{Buyers, shop};

use crate::managed::Managed;
use crate::production::{Production, ending, strategy, until_step};

/// A unit that gives up at its third start within a minute, as careful people write them.
fn unit(managed: &Managed) -> String {
    format!(
        "[Unit]\nStartLimitIntervalSec=60\nStartLimitBurst=2\n\
         [Service]\nWorkingDirectory={}\nExecStart={}\nRestart=on-failure\nRestartSec=100ms\n",
        managed.folder(),
        managed.script(),
    )
}

const KIND: &str = "service.kind = 'systemd'\nservice.unit = 'shop'\n";

fn managed(test: &str, more: &str) -> Option<Managed> {
    with_unit(Managed::start(test, &format!("{KIND}{more}"))?)
}

fn with_unit(managed: Managed) -> Option<Managed> {
    managed.inside.write("/etc/systemd/system/shop.service", &unit(&managed));
    managed.inside.run(&["systemctl", "daemon-reload"]).exits(0);
    Some(managed)
}

#[test]
fn a_unit_is_deployed_by_the_command_alone_and_its_gap_is_measured() {
    let Some(managed) = managed("a unit is deployed", "") else { return };
    managed.goes_live();
}

#[test]
fn a_unit_that_does_not_start_with_the_new_release_is_taken_back() {
    let Some(managed) = managed("a unit that does not start", "") else { return };
    managed.takes_back_what_does_not_start();
    assert_eq!(managed.inside.is_active("shop.service"), "active");
}

#[test]
fn a_unit_behind_the_front_door_is_held_and_no_order_is_lost() {
    let managed = Managed::behind_the_front_door("a unit behind the front door", KIND);
    let Some(managed) = managed.and_then(with_unit) else { return };
    managed.inside.plimsoll(&["install", "--yes", "--start"]).exits(0);
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(0);
    let buyers = Buyers::start(managed.sandbox.port, 3);
    buyers.place(10);
    // With and without a migration: there is one address, so both are held. The unit starts though HELD is there.
    managed.sandbox.release(r#"{ "page": "two" }"#, &[]);
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(0);
    managed.is_settled();
    managed.sandbox.release(r#"{ "page": "three" }"#, &[shop::REBUILD]);
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(0);
    managed.is_settled();
    managed.sandbox.release(r#"{ "checkout": "broken" }"#, &[]);
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(1).says("production is as it was");
    managed.is_settled();
    buyers.place(10);
    buyers.stop().unharmed(&managed.sandbox.database());
    let strategies: Vec<String> = (2..=4).map(|run| strategy(&managed.sandbox, run)).collect();
    assert_eq!(strategies, ["hold", "hold", "hold"]);
    assert!(managed.sandbox.get("/").text().contains("three"));
}

#[test]
fn many_deployments_do_not_reach_the_start_limit_of_the_unit() {
    let Some(managed) = managed("the start limit", "") else { return };
    managed.may_be_deployed_often();
}

#[test]
fn a_worker_stands_still_while_the_data_is_changed() {
    let more = "[[worker]]\nname = 'mailer'\nunit = 'mailer'\n";
    let Some(managed) = managed("a worker", more) else { return };
    let (root, log) = (managed.sandbox.root().display().to_string(), "/var/log/mailer");
    let noted = |word: &str| format!("/bin/sh -c 'echo {word} $(readlink {root}/current) >>{log}'");
    let unit = format!(
        "[Service]\nExecStart=/bin/sleep infinity\nExecStartPost={}\nExecStopPost={}\n",
        noted("up"),
        noted("down")
    );
    managed.inside.write("/etc/systemd/system/mailer.service", &unit);
    managed.inside.plimsoll(&["install", "--yes"]).exits(0);
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(0);
    let first = managed.sandbox.current().unwrap();
    managed.sandbox.release("{}", &[shop::REBUILD]);
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(0);
    let second = managed.sandbox.current().unwrap();
    let seen = managed.inside.read(log).unwrap();
    let wanted =
        [format!("up releases/{first}"), format!("down releases/{first}"), format!("up releases/{second}")];
    assert_eq!(seen.lines().collect::<Vec<_>>(), wanted);
    assert_eq!(managed.order(2), ["stop-workers", "stop", "snapshot", "migrate", "start", "start-workers"]);
    assert_eq!(managed.inside.is_active("mailer.service"), "active");
    managed.is_settled();
}

/// Takes a second or two, on a copy too.
const SLOW: (&str, &str) = (
    "migrations/0002_slow.sql",
    "CREATE TABLE numbers (n INTEGER PRIMARY KEY);
INSERT INTO numbers WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3000000)
    SELECT x FROM c;\n",
);

#[test]
fn rule_06_after_a_crash_in_a_run_nothing_starts_the_unit_until_the_run_is_resolved() {
    let Some(managed) = managed("rule 6 with units", "") else { return };
    managed.inside.plimsoll(&["install", "--yes"]).exits(0);
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(0);
    let before = Production::of(&managed.sandbox);
    managed.sandbox.release("{}", &[SLOW]);
    let program = plimsoll_testkit::binary("plimsoll").display().to_string();
    let root = managed.sandbox.root().display().to_string();
    let line = format!("echo $$ >{root}/deploy.pid; exec {program} deploy --yes");
    thread::scope(|scope| {
        let deploying = scope.spawn(|| managed.inside.run(&["sh", "-c", &line]));
        until_step(&managed.sandbox, 2, "migrate");
        managed.inside.run(&["kill", "-KILL", managed.sandbox.read("deploy.pid").trim()]).exits(0);
        assert_eq!(deploying.join().unwrap().code, None, "it was not killed in the middle of its run");
    });
    std::fs::remove_file(managed.sandbox.root().join("deploy.pid")).unwrap();
    // What a reboot, a timer or a colleague would do.
    let _ = managed.inside.run(&["systemctl", "start", "shop.service"]);
    assert_eq!(managed.inside.is_active("shop.service"), "inactive", "it was started on half-migrated data");
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(4);
    managed.inside.plimsoll(&["resume"]).exits(1).says("production is as it was");
    managed.until_it_answers();
    managed.is_settled();
    before.is_still(&Production::of(&managed.sandbox));
    assert_eq!(ending(&managed.sandbox, 2), ("undone".into(), 1));
    managed.inside.run(&["systemctl", "restart", "shop.service"]).exits(0);
    assert_eq!(
        managed.inside.is_active("shop.service"),
        "active",
        "the marker is gone, and so is what it kept"
    );
}
