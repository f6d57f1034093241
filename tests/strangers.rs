//! Writers that nobody declared, and releases that touch more than they should: nothing is lost without a word.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plimsoll_testkit::{Sandbox, shop};

use crate::production::settled;

/// A cron job or a shell: inserts a user every few milliseconds straight into the database, until told to stop. Returns
/// the addresses that it was told are safe.
fn stranger(sandbox: &Sandbox, stop: &Arc<AtomicBool>) -> thread::JoinHandle<Vec<String>> {
    let (database, stop) = (sandbox.database(), Arc::clone(stop));
    thread::spawn(move || {
        let mut safe = Vec::new();
        let mut number = 0;
        while !stop.load(Ordering::SeqCst) {
            number += 1;
            let address = format!("stranger-{number}@example.com");
            let db = shop::open(&database);
            if db.execute("INSERT INTO users(email) VALUES (?1)", [&address]).is_ok() {
                safe.push(address);
            }
            thread::sleep(Duration::from_millis(15));
        }
        safe
    })
}

fn in_database(sandbox: &Sandbox, address: &str) -> bool {
    shop::number(&sandbox.database(), &format!("SELECT count(*) FROM users WHERE email = '{address}'")) == 1
}

#[test]
fn what_a_cron_job_writes_while_a_deployment_goes_on_stays_in_the_database() {
    for release in ["{}", r#"{ "checkout": "broken", "rehearses_well": true }"#] {
        let sandbox = Sandbox::new();
        let serve = sandbox.live();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = stranger(&sandbox, &stop);
        sandbox.release(release, &[shop::REBUILD]);
        let output = sandbox.deploy();
        stop.store(true, Ordering::SeqCst);
        let safe = writer.join().expect("the stranger writes to its end");
        assert!(safe.len() > 5, "only {} rows were written", safe.len());
        if output.code == Some(4) {
            // It wrote faster than the undo could look: nothing is gone, and the undo ends once it leaves off.
            assert!(safe.iter().all(|address| in_database(&sandbox, address)), "{}", output.said());
            sandbox.plimsoll(&["resume"]).exits(1);
        }
        // Carried over: in the database, whatever became of the release.
        let gone: Vec<_> = safe.iter().filter(|address| !in_database(&sandbox, address)).collect();
        assert!(gone.is_empty(), "{gone:?} are not in the database: {}", output.said());
        settled(&sandbox);
        drop(serve);
    }
}

#[test]
fn a_release_that_changes_the_schema_beside_the_old_one_is_not_called_undone_without_loss() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    // Nothing is pending for Plimsoll, so the releases overlap; the app changes the schema by itself.
    let own = ("migrations/0002_own.sql", "ALTER TABLE orders ADD COLUMN own TEXT;");
    let mut sandbox = {
        drop(serve);
        sandbox
    };
    sandbox.configure("database.migrations = 'other'");
    let serve = sandbox.serve();
    let first = fs::read_to_string(
        sandbox.root().join("current/migrations").join(shop::FIRST.0.trim_start_matches("migrations/")),
    )
    .unwrap();
    sandbox.release(
        r#"{ "migrate_at_start": true, "checkout": "broken", "rehearses_well": true, "hides_migration": true }"#,
        &[own, ("other/0001_first.sql", &first)],
    );
    let output = sandbox.deploy();
    output.says("NOT as it was").says("changed the schema");
    assert_eq!(output.code, Some(5), "{}", output.said());
    drop(serve);
}

#[test]
fn a_release_that_opens_another_database_does_not_go_live() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let other = sandbox.root().join("other.db");
    shop::seed(&other);
    let script = format!(r#"{{ "hard_coded_database": "{}", "rehearses_well": true }}"#, other.display());
    for files in [&[][..], &[shop::REBUILD][..]] {
        sandbox.release(&script, files);
        let output = sandbox.deploy();
        output.exits(1).says("other.db").says("DATABASE_PATH");
        settled(&sandbox);
    }
    drop(serve);
}

#[test]
fn a_database_that_somebody_emptied_is_not_taken_for_a_new_shop() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    drop(serve);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(sandbox.root().join(format!("shared/store.db{suffix}")));
    }
    fs::write(sandbox.database(), b"").unwrap();
    let serve = sandbox.serve();
    sandbox.release("{}", &[]);
    sandbox.deploy().exits(1).says("is empty").says("restore");
    drop(serve);
}
