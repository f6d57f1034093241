//! What a rehearsal finds out before anything of production is touched.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use plimsoll_testkit::{Buyers, Sandbox, binary, fault, shop};

use crate::production::{Production, ending, settled, steps, strategy};

/// Deploys what the rehearsal must refuse, while buyers buy; production is as it was and nobody waited.
#[track_caller]
fn refused(sandbox: &Sandbox, run: u32) -> plimsoll_testkit::Output {
    let before = Production::while_buying(sandbox);
    let buyers = Buyers::start(sandbox.port, 2);
    buyers.place(4);
    let output = sandbox.deploy();
    buyers.place(4);
    buyers.stop().unharmed(&sandbox.database());
    before.is_still(&Production::while_buying(sandbox));
    assert_eq!(ending(sandbox, run), ("unchanged".into(), 1), "{}", output.said());
    assert!(!steps(sandbox, run).contains(&"rehearse".to_owned()), "{}", output.said());
    assert!(!sandbox.root().join(format!("runs/{run:06}/rehearsal")).exists(), "its folder is left");
    settled(sandbox);
    output
}

/// Whether releases can be tried at all on this machine.
fn confined(sandbox: &Sandbox, run: u32) -> bool {
    let journal = sandbox.journal(run);
    let name = "The new release on a copy of the database";
    let tried = journal.iter().find(|entry| entry["check"]["name"] == name);
    let tried = tried.expect("the rehearsal says what it did");
    if tried["check"]["verdict"] == "unknown" {
        fault::skipped("rehearsal", &tried["check"]["evidence"]["why"].to_string());
        return false;
    }
    true
}

#[test]
fn an_app_that_ignores_database_path_is_found_out() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    sandbox.release(r#"{ "hard_coded_database": "fresh.db" }"#, &[]);
    let output = refused(&sandbox, 2);
    output.says("fresh.db").says("DATABASE_PATH").says("Production was not touched");
    drop(serve);
}

#[test]
fn an_app_with_productions_path_in_its_code_is_found_out() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    let database = sandbox.database();
    let orders = shop::number(&database, "SELECT count(*) FROM orders");
    let script = format!(r#"{{ "hard_coded_database": "{}", "write_at_start": true }}"#, database.display());
    sandbox.release(&script, &[]);
    let output = sandbox.deploy();
    output.exits(1).says(&database.display().to_string()).says("app.json").says("DATABASE_PATH");
    assert_eq!(shop::number(&database, "SELECT count(*) FROM orders"), orders, "it wrote to production");
    assert_eq!(ending(&sandbox, 2), ("unchanged".into(), 1));
    settled(&sandbox);
    drop(serve);
}

#[test]
fn an_app_that_opens_no_database_is_found_out_and_told_what_to_do() {
    let mut sandbox = Sandbox::new();
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    drop(serve);
    sandbox.configure("smoke = [{ name = 'The checkout works', get = '/checkout' }]");
    let serve = sandbox.serve();
    sandbox.release(r#"{ "opens_late": true }"#, &[]);
    refused(&sandbox, 2).says("opened no database at all").says("[[smoke]]");
    drop(serve);
    sandbox.configure("smoke = [{ name = 'The first page loads', get = '/' }]");
    let serve = sandbox.serve();
    sandbox.deploy().exits(0);
    drop(serve);
}

/// A mail server that counts who comes.
fn mail_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mails = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&mails);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || answer(stream));
        }
    });
    (address, mails)
}

fn answer(mut stream: TcpStream) {
    let Ok(reading) = stream.try_clone() else { return };
    let _ = stream.write_all(b"220 mail.example\r\n");
    let mut in_data = false;
    for line in BufReader::new(reading).lines().map_while(Result::ok) {
        if in_data && line != "." {
            continue;
        }
        in_data = line == "DATA";
        let said: &[u8] = if in_data { b"354 go on\r\n" } else { b"250 well\r\n" };
        if stream.write_all(said).is_err() {
            return;
        }
    }
}

#[test]
fn an_app_that_sends_mail_at_its_start_reaches_no_mail_server_from_a_copy() {
    let mut sandbox = Sandbox::new();
    let (address, mails) = mail_server();
    sandbox.configure(&format!("service.env = {{ SMTP_ADDRESS = '{address}' }}"));
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    sandbox.release(r#"{ "mail_at_start": true }"#, &[]);
    refused(&sandbox, 2).says(&format!("mail server {address}")).says("[rehearsal].env");
    assert_eq!(mails.load(Ordering::SeqCst), 0, "a copy sent a mail");
    drop(serve);
    sandbox.configure("rehearsal.env = { SMTP_ADDRESS = '' }");
    let serve = sandbox.serve();
    sandbox.deploy().exits(0);
    assert_eq!(mails.load(Ordering::SeqCst), 1, "production sends its own, once");
    drop(serve);
}

#[test]
fn a_checkout_that_is_broken_on_a_copy_never_makes_anybody_wait() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    sandbox.release(r#"{ "checkout": "broken" }"#, &[shop::REBUILD]);
    refused(&sandbox, 2).says("The checkout works").says("status 500").says("rehearsal.log");
    assert_eq!(shop::number(&sandbox.database(), "SELECT max(version) FROM schema_version"), 1);
    drop(serve);
}

#[test]
fn an_app_that_changes_its_schema_when_it_starts_is_never_run_beside_the_old_one() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    // The migration is a file that Plimsoll does not know of: the app applies it.
    sandbox.release("{}", &[]);
    sandbox.deploy().exits(0);
    assert_eq!(strategy(&sandbox, 2), "overlap");
    drop(serve);
    let mut sandbox = sandbox;
    sandbox.unset("database", Some("migrations"));
    let serve = sandbox.serve();
    sandbox.release("{}", &[]);
    sandbox.deploy().exits(0);
    assert_eq!(strategy(&sandbox, 3), "overlap", "it was seen to change nothing");
    sandbox.release(r#"{ "migrate_at_start": true }"#, &[shop::REBUILD]);
    sandbox.deploy().exits(0);
    assert_eq!(strategy(&sandbox, 4), "hold");
    drop(serve);
}

#[test]
fn what_a_migration_that_the_app_makes_itself_loses_must_be_acknowledged() {
    let mut sandbox = Sandbox::new();
    sandbox.unset("database", Some("migrations"));
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    let loses = ("migrations/0002_drop.sql", "DROP TABLE order_items; DELETE FROM orders;");
    let buyers = Buyers::start(sandbox.port, 1);
    buyers.place(3);
    buyers.stop().unharmed(&sandbox.database());
    let before = Production::of(&sandbox);
    sandbox.release(r#"{ "migrate_at_start": true }"#, &[loses]);
    let output = sandbox.deploy();
    output.exits(3).says("--acknowledge drop:order_items").says("--acknowledge rows:orders");
    before.is_still(&Production::of(&sandbox));
    let rehearsed = sandbox.journal(2).into_iter().find(|entry| entry["event"] == "rehearsed").unwrap();
    let words: Vec<&str> = rehearsed["rehearsal"]["losses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|loss| loss["word"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["drop:order_items", "rows:orders"]);
    drop(serve);
}

/// Files and folders below the root that a rehearsal may not leave, and processes.
#[track_caller]
fn nothing_is_left(sandbox: &Sandbox, before: &Production, backups: usize) {
    before.is_still(&Production::of(sandbox));
    assert_eq!(kept_backups(sandbox), backups, "a backup was left");
    let runs = std::fs::read_dir(sandbox.root().join("runs")).unwrap().flatten();
    let last = runs.map(|run| run.path()).filter(|path| path.is_dir()).max().unwrap();
    let files = std::fs::read_dir(&last).unwrap().flatten();
    let mut names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let known = [
        "deployment_",
        "journal.jsonl",
        "postmortem.md",
        "rehearsal.log",
        "report.html",
        "report.json",
        "report.md",
    ];
    assert!(names.iter().all(|name| known.iter().any(|known| name.starts_with(known))), "{names:?}");
    assert!(!sandbox.root().join("runs/HELD").exists());
    assert_eq!(sandbox.apps().len(), 1, "{:?}", sandbox.apps());
}

fn kept_backups(sandbox: &Sandbox) -> usize {
    std::fs::read_dir(sandbox.root().join("backups")).map_or(0, Iterator::count)
}

#[test]
fn a_plan_says_what_would_be_done_and_does_none_of_it() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let (before, backups) = (Production::of(&sandbox), kept_backups(&sandbox));
    let commit = sandbox.release(r#"{ "page": "two" }"#, &[shop::REBUILD, (".env.example", "SMS_KEY=x\n")]);
    let output = sandbox.plimsoll(&["plan", &commit]);
    output.exits(0);
    for said in [
        "ready to be deployed",
        "hold: requests wait at the shut door",
        "of the budget",
        "undo, about",
        "code-only",
        "0002 order state: rebuild",
        "touches orders",
        "+SMS_KEY (.env.example)",
        "MiB are free",
        "plimsoll deploy",
    ] {
        assert!(output.stdout.contains(said), "{said}\n{}", output.stdout);
    }
    // The settings file is new: git was not asked for the one of before.
    assert!(!output.stderr.contains("does not exist"), "{}", output.stderr);
    assert!(output.stdout.lines().count() <= 40, "more than a screen:\n{}", output.stdout);
    nothing_is_left(&sandbox, &before, backups);
    let output = sandbox.plimsoll(&["plan", "--format", "md"]);
    assert!(output.exits(0).stdout.starts_with("### Plan for shop"), "{}", output.stdout);
    let output = sandbox.plimsoll(&["plan", "--json"]);
    let plan = output.exits(0).json().pop().unwrap();
    assert_eq!((&plan["state"], &plan["strategy"]), (&"ready".into(), &"hold".into()));
    assert_eq!(plan["migrations"][0]["work"], "rebuild");
    nothing_is_left(&sandbox, &before, backups);
    assert_eq!(ending(&sandbox, 4), ("unchanged".into(), 0));
    // And then it is done as it was said.
    sandbox.deploy().exits(0);
    assert_eq!(strategy(&sandbox, 5), "hold");
    sandbox.plimsoll(&["history"]).exits(0).says("rehearse");
    drop(serve);
}

#[test]
fn a_plan_that_needs_words_says_them_and_they_are_enough() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let (before, backups) = (Production::of(&sandbox), kept_backups(&sandbox));
    sandbox.release("{}", &[("migrations/0002_tidy.sql", "DELETE FROM users; DROP TABLE regions;")]);
    let output = sandbox.plimsoll(&["plan"]);
    output.exits(3);
    let typed =
        output.stdout.lines().find_map(|line| line.strip_prefix("type next")).unwrap().trim().to_owned();
    assert_eq!(typed, "plimsoll deploy --acknowledge drop:regions --acknowledge rows:users");
    nothing_is_left(&sandbox, &before, backups);
    let mut words: Vec<&str> = typed.split(' ').skip(1).collect();
    words.push("--yes");
    sandbox.plimsoll(&words[..3]).exits(3);
    sandbox.plimsoll(&words).exits(0);
    let rehearsed = sandbox.journal(4).into_iter().find(|entry| entry["event"] == "rehearsed").unwrap();
    for loss in rehearsed["rehearsal"]["losses"].as_array().unwrap() {
        assert_eq!(loss["version"], 2, "{loss}");
        assert!(loss["acknowledged_by"].as_str().is_some_and(|by| !by.is_empty()), "{loss}");
    }
    drop(serve);
}

#[test]
fn what_a_dropped_column_held_is_acknowledged_by_its_own_name() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[("migrations/0002_no_name.sql", "ALTER TABLE regions DROP COLUMN name;\n")]);
    let plan = sandbox.plimsoll(&["plan"]);
    plan.exits(3);
    assert!(plan.stdout.contains("plimsoll deploy --acknowledge drop:regions.name"), "{}", plan.stdout);
    let before = Production::of(&sandbox);
    for words in [&[][..], &["--acknowledge", "drop:regions"], &["--acknowledge", "drop:regions.id"]] {
        sandbox.plimsoll(&[&["deploy", "--yes"], words].concat()).exits(3).says("drop:regions.name");
        before.is_still(&Production::of(&sandbox));
    }
    sandbox.plimsoll(&["deploy", "--yes", "--acknowledge", "drop:regions.name"]).exits(0);
    let left = "SELECT count(*) FROM pragma_table_info('regions') WHERE name = 'name'";
    assert_eq!(shop::number(&sandbox.database(), left), 0);
    drop(serve);
}

#[test]
fn without_serve_a_plan_says_what_to_start_and_touches_nothing() {
    let sandbox = Sandbox::new();
    drop(sandbox.live());
    sandbox.release("{}", &[shop::REBUILD]);
    let before = Production::of(&sandbox);
    for command in ["plan", "rehearse"] {
        let output = sandbox.plimsoll(&[command]);
        output.exits(2).says("`plimsoll serve` is not running").says("nothing was changed");
        assert!(output.stdout.is_empty(), "no half of a plan: {}", output.stdout);
        before.is_still(&Production::of(&sandbox));
    }
    assert!(!sandbox.root().join("runs/000002").exists(), "a run was begun");
}

#[test]
fn a_copy_is_started_by_the_rehearsals_own_command_where_there_is_one() {
    let mut sandbox = Sandbox::new();
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    drop(serve);
    sandbox.configure("rehearsal.command = \"sh -c 'echo no copy today >&2; exit 9'\"");
    let serve = sandbox.serve();
    sandbox.release(r#"{ "page": "two" }"#, &[shop::REBUILD]);
    refused(&sandbox, 2).says("no copy today");
    drop(serve);
    let app = binary("scripted-app");
    sandbox.configure(&format!(
        "rehearsal.command = \"sh -c 'echo a copy of $DATABASE_PATH >&2; exec {}'\"",
        app.display()
    ));
    let serve = sandbox.serve();
    sandbox.deploy().exits(0);
    let log = sandbox.read("runs/000003/rehearsal.log");
    assert!(log.contains("a copy of /"), "{log}");
    assert!(!log.contains(&format!("a copy of {}", sandbox.database().display())), "{log}");
    assert!(sandbox.get("/").text().contains("two"));
    drop(serve);
}

#[test]
fn a_rehearsal_that_fails_says_so_with_its_own_code() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    if !confined(&sandbox, 1) {
        return;
    }
    let (before, backups) = (Production::of(&sandbox), kept_backups(&sandbox));
    sandbox.release(r#"{ "checkout": "broken" }"#, &[]);
    let output = sandbox.plimsoll(&["rehearse"]);
    output.exits(1);
    assert!(output.stdout.contains("On a copy: The checkout works"), "{}", output.stdout);
    nothing_is_left(&sandbox, &before, backups);
    let plan = sandbox.plimsoll(&["plan"]);
    plan.exits(1);
    assert!(plan.stdout.contains("NOT READY"), "{}", plan.stdout);
    nothing_is_left(&sandbox, &before, backups);
    sandbox.release("{}", &[]);
    sandbox.plimsoll(&["rehearse"]).exits(0).says("The old release on the migrated copy");
    nothing_is_left(&sandbox, &before, backups);
    drop(serve);
}
