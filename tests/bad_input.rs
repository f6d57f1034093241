//! What is wrong is said, and production stays as it was.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use plimsoll_testkit::{Output, Sandbox, shop};

use crate::production::{Production, ended, ending, settled};

/// Deploys a second release that must be refused or undone, and returns what was said.
#[track_caller]
fn stays_as_it_was(sandbox: &Sandbox, exit: i32) -> Output {
    let before = Production::of(sandbox);
    let output = sandbox.deploy();
    output.exits(exit);
    before.is_still(&Production::of(sandbox));
    settled(sandbox);
    output
}

#[test]
fn a_health_path_that_never_answers_is_given_up_at_the_start_timeout() {
    for files in [&[][..], &[shop::REBUILD][..]] {
        let mut sandbox = Sandbox::new();
        sandbox.configure("service.start_timeout = '1s'");
        let serve = sandbox.live();
        sandbox.release(r#"{ "health": "never", "rehearses_well": true }"#, files);
        let begun = Instant::now();
        stays_as_it_was(&sandbox, 1).says("/healthz");
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        assert_eq!(ending(&sandbox, 2), ("undone".into(), 1));
        drop(serve);
    }
}

#[test]
fn an_app_that_exits_at_once_is_reported_with_its_last_words() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "exit_at_start": 3, "rehearses_well": true }"#, &[shop::REBUILD]);
    let begun = Instant::now();
    stays_as_it_was(&sandbox, 1).says("exiting at once, as scripted");
    assert!(begun.elapsed() < Duration::from_secs(10), "the exit was not noticed: {:?}", begun.elapsed());
    drop(serve);
}

#[test]
fn a_first_release_that_exits_at_once_leaves_the_page_that_says_so() {
    let sandbox = Sandbox::new();
    sandbox.release(r#"{ "exit_at_start": 3, "rehearses_well": true }"#, &[]);
    let serve = sandbox.serve();
    let before = Production::of(&sandbox);
    sandbox.deploy().exits(1).says("no release");
    before.is_still(&Production::of(&sandbox));
    assert_eq!(sandbox.get("/").status(), Some(503));
    assert_eq!(sandbox.apps(), Vec::<String>::new());
    drop(serve);
}

#[test]
fn an_app_that_answers_with_another_release_is_not_let_in() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "health": "wrong-release", "rehearses_well": true }"#, &[]);
    stays_as_it_was(&sandbox, 1).says("000000-0000000");
    drop(serve);
}

#[test]
fn an_app_whose_health_path_fails_is_not_let_in() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("service.start_timeout = '1s'");
    let serve = sandbox.live();
    sandbox.release(r#"{ "health": "500", "rehearses_well": true }"#, &[shop::REBUILD]);
    stays_as_it_was(&sandbox, 1).says("500");
    drop(serve);
}

#[test]
fn an_app_that_opens_another_database_is_not_let_in() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let other = sandbox.root().join("shared/other.db");
    shop::seed(&other);
    sandbox.release(
        &format!(r#"{{ "hard_coded_database": "{}", "rehearses_well": true }}"#, other.display()),
        &[],
    );
    stays_as_it_was(&sandbox, 1).says("other.db");
    drop(serve);
}

#[test]
fn the_second_of_two_migrations_fails_and_the_first_is_undone_too() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::REBUILD, shop::FAILS_HALF_WAY]);
    let output = stays_as_it_was(&sandbox, 1);
    output.says("0003_half_way").says("UNIQUE constraint failed: products.id");
    drop(serve);
}

#[test]
fn a_migration_that_fails_only_at_the_apps_start_is_undone() {
    let mut sandbox = Sandbox::new();
    sandbox.unset("database", Some("migrations"));
    let serve = sandbox.live();
    // The app itself applies the first and dies of the second.
    sandbox.release(r#"{ "migrate_at_start": true }"#, &[shop::REBUILD, shop::FAILS_HALF_WAY]);
    stays_as_it_was(&sandbox, 1).says("UNIQUE constraint failed");
    drop(serve);
}

#[test]
fn a_migration_that_loses_rows_waits_for_the_words_to_be_typed() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release("{}", &[shop::LOSES_ROWS]);
    let output = stays_as_it_was(&sandbox, 3);
    output.says("--acknowledge rows:regions");
    sandbox.plimsoll(&["deploy", "--yes", "--acknowledge", "rows:orders"]).exits(3);
    sandbox.plimsoll(&["deploy", "--yes", "--acknowledge", "rows:regions"]).exits(0);
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM regions"), 1);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_database_newer_than_the_release_is_refused() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    shop::open(&sandbox.database())
        .execute("INSERT INTO schema_version (version, description) VALUES (7, 'from elsewhere')", [])
        .unwrap();
    sandbox.release("{}", &[shop::REBUILD]);
    stays_as_it_was(&sandbox, 1).says("7");
    drop(serve);
}

#[test]
fn a_database_that_vanished_is_not_replaced_by_an_empty_one() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let (database, aside) = (sandbox.database(), sandbox.root().join("elsewhere.db"));
    for ending in ["", "-wal", "-shm"] {
        let from = format!("{}{ending}", database.display());
        if std::fs::exists(&from).unwrap() {
            std::fs::rename(from, format!("{}{ending}", aside.display())).unwrap();
        }
    }
    sandbox.release("{}", &[shop::REBUILD]);
    sandbox.deploy().exits(1).says("store.db is gone");
    assert!(!database.exists(), "an empty database was made");
    assert_eq!(shop::number(&aside, "SELECT count(*) FROM orders"), 200);
    drop(serve);
}

#[test]
fn a_first_release_on_an_absent_database_makes_it_or_leaves_none() {
    let sandbox = Sandbox::new();
    std::fs::remove_file(sandbox.database()).unwrap();
    for left in ["store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(sandbox.root().join("shared").join(left));
    }
    let serve = sandbox.serve();
    // An empty shop has no 3 products, so the smoke test fails.
    sandbox.deploy().exits(1).says("The first page loads");
    let left: Vec<_> = std::fs::read_dir(sandbox.root().join("shared")).unwrap().flatten().collect();
    let live = left.iter().find(|file| file.file_name() == "store.db");
    assert!(live.is_none(), "{left:?}");
    let with_rows = format!(
        "{} INSERT INTO products VALUES (1, 'Rice', 1), (2, 'Dal', 1), (3, 'Ghee', 1);",
        shop::FIRST.1
    );
    sandbox.release("{}", &[(shop::FIRST.0, &with_rows)]);
    sandbox.deploy().exits(0);
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM products"), 3);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_misspelt_database_beside_the_real_one_is_not_made() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("database.url = 'sqlite:shared/stor.db'");
    let serve = sandbox.serve();
    sandbox.deploy().exits(2).says("store.db").says("stor.db");
    assert!(!sandbox.root().join("shared/stor.db").exists());
    drop(serve);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let sandbox = Sandbox::new();
    let text = "this is a shopping list, not a database\n".repeat(300);
    for left in ["store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(sandbox.root().join("shared").join(left));
    }
    std::fs::write(sandbox.database(), &text).unwrap();
    let serve = sandbox.serve();
    sandbox.deploy().exits(1).says("store.db").says("is not a SQLite database");
    assert_eq!(sandbox.read("shared/store.db"), text);
    assert_eq!(sandbox.current(), None);
    drop(serve);
}

#[test]
fn a_database_of_somebody_else_is_refused_and_left_alone() {
    let sandbox = Sandbox::new();
    let database = sandbox.database();
    shop::open(&database)
        .execute_batch(
            "DROP TABLE order_items; DROP TABLE orders; DROP TABLE products; DROP TABLE users; DROP TABLE regions;
             DROP TABLE schema_version; CREATE TABLE orders (id INTEGER PRIMARY KEY, song TEXT);
             INSERT INTO orders (song) VALUES ('Raga Yaman');",
        )
        .unwrap();
    let serve = sandbox.serve();
    let before = Production::of(&sandbox);
    let output = sandbox.deploy();
    assert!(matches!(output.code, Some(1 | 3)), "{}", output.said());
    output.says("orders");
    before.is_still(&Production::of(&sandbox));
    drop(serve);
}

#[test]
fn a_damaged_database_is_not_deployed_upon() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let page: i64 = shop::number(
        &sandbox.database(),
        "SELECT rootpage FROM sqlite_schema WHERE name = 'order_items_by_order'",
    );
    shop::open(&sandbox.database()).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let mut bytes = std::fs::read(sandbox.database()).unwrap();
    let from = usize::try_from((page - 1) * 4096 + 100).unwrap();
    bytes[from..from + 3000].fill(0xA5);
    std::fs::write(sandbox.database(), &bytes).unwrap();
    sandbox.release("{}", &[shop::REBUILD]);
    let output = sandbox.deploy();
    output.exits(1).says("is damaged").says("Production was not touched");
    assert_eq!(std::fs::read(sandbox.database()).unwrap(), bytes, "the damaged file was changed");
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_started() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind(("127.0.0.1", sandbox.port)).unwrap();
    let output = sandbox.serve_with(&[]).wait();
    assert!(matches!(output.code, Some(1 | 2)), "{}", output.said());
    output.says(&format!("127.0.0.1:{}", sandbox.port)).says("in use");
    assert_eq!(sandbox.apps(), Vec::<String>::new());
    drop(taken);
}

#[test]
fn a_second_serve_does_not_disturb_the_first() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    let second = sandbox.serve_with(&[]).wait();
    assert!(matches!(second.code, Some(1..=3)), "{}", second.said());
    second.says(&serve.pid().to_string());
    before.is_still(&Production::of(&sandbox));
    settled(&sandbox);
    sandbox.plimsoll(&["status"]).exits(0);
    drop(serve);
}

#[test]
fn a_second_deployment_at_the_same_time_is_refused() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "boot_ms": 1500 }"#, &[]);
    let first = sandbox.start(&["deploy", "--yes"]);
    let started = plimsoll_testkit::wait::within(Duration::from_secs(20), || {
        sandbox.root().join("runs/000002/journal.jsonl").exists().then_some(())
    });
    assert!(started.is_some(), "{}", first.stderr());
    sandbox.deploy().exits(3).says("run 2 is going on");
    first.wait().exits(0);
    assert!(!sandbox.root().join("runs/000003").exists(), "the refused deployment made a run");
    settled(&sandbox);
    drop(serve);
}

#[test]
fn a_deployment_asked_for_while_serve_still_starts_the_app_is_carried_out() {
    let sandbox = Sandbox::new();
    sandbox.release(r#"{ "boot_ms": 1000 }"#, &[]);
    let serve = sandbox.live();
    drop(serve);
    sandbox.release("{}", &[shop::REBUILD]);
    let serve = sandbox.serve_with(&[]);
    serve.until_it_answers();
    sandbox.deploy().exits(0);
    settled(&sandbox);
    drop(serve);
}

#[test]
fn without_serve_a_deployment_says_what_to_start() {
    let sandbox = Sandbox::new();
    let before = Production::of(&sandbox);
    sandbox.deploy().exits(2).says("plimsoll").says("serve");
    before.is_still(&Production::of(&sandbox));
    assert!(!sandbox.root().join("runs/000001").exists());
}

#[test]
fn a_missing_revision_is_named_with_what_is_near() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.repo.git(&["branch", "winter"]);
    let before = Production::of(&sandbox);
    sandbox.plimsoll(&["deploy", "--yes", "wintre"]).exits(2).says("wintre").says("winter");
    before.is_still(&Production::of(&sandbox));
    drop(serve);
}

#[test]
fn a_rewritten_branch_is_refused_with_what_to_do() {
    let sandbox = Sandbox::new();
    sandbox.release(r#"{ "page": "kept" }"#, &[]);
    let serve = sandbox.live();
    sandbox.repo.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    sandbox.release(r#"{ "page": "rewritten" }"#, &[]);
    let before = Production::of(&sandbox);
    let output = sandbox.deploy();
    output.says("does not contain the commit of the live release");
    assert!(matches!(output.code, Some(1 | 3)), "{}", output.said());
    before.is_still(&Production::of(&sandbox));
    drop(serve);
}

#[test]
fn a_checkout_with_changes_that_nobody_committed_is_refused() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    sandbox.release(r#"{ "page": "two" }"#, &[]);
    std::fs::write(sandbox.repo.path().join("app.json"), "{}").unwrap();
    let before = Production::of(&sandbox);
    let output = sandbox.deploy();
    output.says("app.json");
    assert!(matches!(output.code, Some(1 | 3)), "{}", output.said());
    before.is_still(&Production::of(&sandbox));
    drop(serve);
}

#[test]
fn a_repository_that_is_gone_changes_nothing() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let before = Production::of(&sandbox);
    std::fs::rename(sandbox.repo.path(), sandbox.repo.path().with_extension("gone")).unwrap();
    sandbox.deploy().exits(1).says("repo");
    before.is_still(&Production::of(&sandbox));
    drop(serve);
}

#[test]
fn a_build_command_that_fails_or_takes_too_long_changes_nothing() {
    let mut sandbox = Sandbox::new();
    let serve = sandbox.live();
    drop(serve);
    sandbox.configure("build.commands = ['echo one', 'ls no-such-file']");
    let serve = sandbox.serve();
    sandbox.release("{}", &[]);
    stays_as_it_was(&sandbox, 1).says("no-such-file");
    drop(serve);
    sandbox.configure("build.commands = ['sleep 300']\nbuild.timeout = '1s'");
    let serve = sandbox.serve();
    let begun = Instant::now();
    stays_as_it_was(&sandbox, 1).says("sleep 300");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    drop(serve);
}

#[test]
fn a_hold_over_its_budget_is_refused_or_undone() {
    let mut sandbox = Sandbox::new();
    let serve = sandbox.live();
    drop(serve);
    sandbox.configure("front.hold_budget = '3s'\nfront.drain = '500ms'\nservice.start_timeout = '30s'");
    let serve = sandbox.serve();
    sandbox.release(r#"{ "boot_ms": 20000, "rehearses_well": true }"#, &[shop::REBUILD]);
    let begun = Instant::now();
    let output = stays_as_it_was(&sandbox, 1);
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}: {}", begun.elapsed(), output.said());
    let held = ended(&sandbox, 2)["hold_ms"].as_u64().unwrap();
    assert!((500..=4_000).contains(&held), "held for {held} ms with a budget of 3 s");
    drop(serve);
}

#[test]
fn a_configuration_with_a_mistake_is_refused_with_its_line() {
    let mut sandbox = Sandbox::new();
    sandbox.configure("front.lissten = '127.0.0.1:1'");
    for command in [&["serve"][..], &["deploy", "--yes"], &["status"]] {
        sandbox.plimsoll(command).exits(2).says("lissten").says("listen");
    }
    assert!(!sandbox.root().join("runs").exists(), "a command that was refused left files behind");
}

#[test]
fn folders_that_cannot_be_written_change_nothing() {
    if !rustix_is_root() {
        let sandbox = Sandbox::new();
        let serve = sandbox.live();
        let releases = sandbox.root().join("releases");
        std::fs::set_permissions(&releases, std::fs::Permissions::from_mode(0o500)).unwrap();
        sandbox.release("{}", &[]);
        sandbox.deploy().exits(1);
        std::fs::set_permissions(&releases, std::fs::Permissions::from_mode(0o700)).unwrap();
        settled(&sandbox);
        drop(serve);
    } else {
        plimsoll_testkit::fault::skipped("folders that cannot be written", "root may write everywhere");
    }
}

fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}
