//! Service kind `supervisor` under Debian's supervisor, in a box of its own.

use std::path::Path;
use std::time::Duration;

use plimsoll_testkit::{fault, wait};

use crate::managed::Managed;

fn managed(test: &str) -> Option<Managed> {
    if !Path::new("/usr/bin/supervisord").exists() {
        fault::skipped(test, "supervisor is not installed; scripts/tools does it as root");
        return None;
    }
    let managed = Managed::start(test, "service.kind = 'supervisor'\nservice.program = 'shop'\n")?;
    let program = format!(
        "[program:shop]\ndirectory={}\ncommand={}\nautostart=false\nstartsecs=1\nstartretries=1\n",
        managed.folder(),
        managed.script(),
    );
    managed.inside.write("/etc/supervisor/conf.d/shop.conf", &program);
    managed.inside.run(&["systemctl", "start", "supervisor.service"]).exits(0);
    Some(managed)
}

#[test]
fn a_program_is_deployed_by_the_command_alone_and_its_gap_is_measured() {
    let Some(managed) = managed("a program is deployed") else { return };
    managed.goes_live();
}

#[test]
fn a_program_that_does_not_start_with_the_new_release_is_taken_back() {
    let Some(managed) = managed("a program that does not start") else { return };
    managed.takes_back_what_does_not_start();
}

#[test]
fn many_deployments_in_a_row_are_fine_with_supervisor() {
    let Some(managed) = managed("many deployments with supervisor") else { return };
    managed.may_be_deployed_often();
}

#[test]
fn serve_is_installed_as_a_program_and_taken_away_again() {
    let Some(managed) = managed("install for supervisor") else { return };
    let file = "/etc/supervisor/conf.d/plimsoll-shop.conf";
    managed.inside.plimsoll(&["deploy", "--yes"]).exits(0);
    managed.inside.plimsoll(&["install", "--print"]).exits(0).says(file);
    managed.inside.plimsoll(&["install", "--yes", "--start"]).exits(0);
    wait::until("serve runs", Duration::from_secs(20), || {
        managed.inside.run(&["supervisorctl", "status", "plimsoll-shop"]).stdout.contains("RUNNING")
    });
    managed.inside.plimsoll(&["status"]).exits(0);
    managed.inside.plimsoll(&["uninstall", "--yes"]).exits(0);
    assert_eq!(managed.inside.read(file), None);
    let gone = managed.inside.run(&["supervisorctl", "status", "plimsoll-shop"]);
    assert!(gone.said().contains("no such process"), "{}", gone.said());
    // The app is another program, and goes on.
    managed.is_settled();
}
