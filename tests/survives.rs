//! What nobody plans for: a reboot in the middle of a run, a migration that is killed, a clock that jumps.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_testkit::{Buyers, Sandbox, SystemdBox, fault, http, shop, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::production::{Production, ending, settled, until_ended, until_step};

#[test]
fn a_reboot_in_the_middle_of_a_run_is_undone_before_anybody_is_let_in() {
    let sandbox = Sandbox::new();
    let mut inside = match SystemdBox::start(&sandbox) {
        Ok(inside) => inside,
        Err(why) => return fault::skipped("a reboot in the middle of a run", &why),
    };
    inside.plimsoll(&["install", "--yes", "--start"]).exits(0);
    inside.plimsoll(&["deploy", "--yes"]).exits(0);
    let before = Production::while_buying(&sandbox);
    for (run, step) in [(2, "migrate"), (3, "start")] {
        let buyers = Buyers::start(sandbox.port, 3);
        buyers.place(10);
        sandbox.release(r#"{ "boot_ms": 1500, "page": "two" }"#, &[shop::REBUILD]);
        let program = plimsoll_testkit::binary("plimsoll").display().to_string();
        let mut deploying = inside.spawn(&[&program, "deploy", "--yes"]);
        until_step(&sandbox, run, step);
        inside.reboot();
        let ledger = buyers.stop();
        deploying.wait().unwrap();
        // Nobody types anything: the socket is open from the start, and the first request is answered by the release of before.
        let page = wait::within(Duration::from_secs(30), || {
            http::get(sandbox.port, "/").ok().filter(|answer| answer.status() == Some(200))
        });
        assert!(page.is_some_and(|page| !page.text().contains("two")), "nobody answers after {step}");
        until_ended(&sandbox, run);
        assert_eq!(ending(&sandbox, run), ("undone".into(), 1), "after {step}");
        before.is_still(&Production::while_buying(&sandbox));
        assert!(ledger.promised() >= 10);
        assert_eq!(ledger.lost(&sandbox.database()), Vec::<String>::new());
        settled(&sandbox);
    }
}

/// Migrates in two transactions, and leaves time between them.
const BY_ITSELF: (&str, &str) = (
    "migrate.sh",
    "sqlite3 \"$DATABASE_PATH\" 'CREATE TABLE IF NOT EXISTS half (id INTEGER PRIMARY KEY)' || exit 1
sleep 3
sqlite3 \"$DATABASE_PATH\" 'CREATE TABLE IF NOT EXISTS whole (id INTEGER PRIMARY KEY)'\n",
);

#[test]
fn a_migration_whose_process_is_killed_is_undone_whole() {
    const TEST: &str = "a migration's own process killed";
    if !Path::new("/usr/bin/sqlite3").exists() {
        return fault::skipped(TEST, "there is no sqlite3; scripts/tools installs it as root");
    }
    let mut sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.unset("database", Some("migrations"));
    sandbox.configure("database.migrate = ['sh migrate.sh']");
    drop(serve);
    let serve = sandbox.serve();
    let buyers = Buyers::start(sandbox.port, 3);
    buyers.place(10);
    let before = Production::while_buying(&sandbox);
    sandbox.release(r#"{ "page": "two" }"#, &[BY_ITSELF]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    // Not the one of the rehearsal: users wait for this one.
    until_step(&sandbox, 2, "migrate");
    let shell = wait::within(Duration::from_secs(20), || {
        let all = sandbox.processes();
        all.into_iter().find(|(_, line)| line.contains("migrate.sh")).map(|(pid, _)| pid)
    });
    let database = sandbox.database();
    wait::until("half of it is done", Duration::from_secs(20), || {
        let said = std::process::Command::new("sqlite3").arg(&database).arg(".tables").output().unwrap();
        String::from_utf8_lossy(&said.stdout).contains("half")
    });
    let pid = Pid::from_raw(shell.expect("it migrates").cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    deploying.wait().exits(1).says("production is as it was");
    buyers.stop().unharmed(&sandbox.database());
    before.is_still(&Production::while_buying(&sandbox));
    settled(&sandbox);
    drop(serve);
}

/// Debian's, of any machine type.
fn faketime() -> Option<PathBuf> {
    let all = std::fs::read_dir("/usr/lib").ok()?.flatten();
    all.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

#[test]
fn a_clock_that_jumps_moves_no_deadline() {
    let Some(library) = faketime() else {
        return fault::skipped(
            "a clock that jumps",
            "there is no libfaketime; scripts/tools installs it as root",
        );
    };
    let sandbox = Sandbox::new();
    let clock = sandbox.root().parent().unwrap().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let (library, file) = (library.display().to_string(), clock.display().to_string());
    let env = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        // What a jump is: the time since boot goes on as ever.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let serve = sandbox.serve_with(&env);
    wait::until("it serves", Duration::from_secs(20), || serve.log().contains("front door on"));
    sandbox.deploy().exits(0);
    let buyers = Buyers::start(sandbox.port, 3);
    for (run, jump) in [(2, "+2d"), (3, "-3d")] {
        buyers.place(10);
        let page = format!(r#"{{ "boot_ms": 1000, "page": "{run}" }}"#);
        let migration = format!("CREATE TABLE more_{run} (id INTEGER PRIMARY KEY);\n");
        sandbox.release(&page, &[(&format!("migrations/{run:04}_more.sql"), &migration)]);
        let deploying = sandbox.start(&["deploy", "--yes"]);
        until_step(&sandbox, run, "start");
        std::fs::write(&clock, jump).unwrap();
        deploying.wait().exits(0).says("Live.");
        assert_eq!(ending(&sandbox, run), ("live".into(), 0));
        let told: Vec<String> = sandbox
            .journal(run)
            .iter()
            .map(|entry| entry["at"].as_str().unwrap_or_default()[..10].to_owned())
            .collect();
        assert_ne!(told.first(), told.last(), "the clock did not jump");
    }
    buyers.place(10);
    buyers.stop().unharmed(&sandbox.database());
    sandbox.plimsoll(&["status"]).exits(0);
    sandbox.plimsoll(&["audit"]).exits(0);
    settled(&sandbox);
    drop(serve);
}
