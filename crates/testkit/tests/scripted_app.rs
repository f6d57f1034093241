//! The scripted app does as it is told, and the buyers see what goes wrong.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use plimsoll_testkit::{Buyers, http, shop, wait};
use tempfile::TempDir;

struct App {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl App {
    fn start(script: &str) -> App {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("app.json"), script).unwrap();
        shop::seed(&folder.path().join("store.db"));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_scripted-app"))
            .current_dir(folder.path())
            .env_clear()
            .env("PORT", port.to_string())
            .env("DATABASE_PATH", folder.path().join("store.db"))
            .env("PLIMSOLL_RELEASE", "000001-abcdef0")
            .stdout(File::create(folder.path().join("out")).unwrap())
            .stderr(File::create(folder.path().join("err")).unwrap())
            .spawn()
            .unwrap();
        App { child, port, folder }
    }

    fn ready(script: &str) -> App {
        let app = App::start(script);
        wait::until("the app listens", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", app.port)).is_ok()
        });
        app
    }

    fn database(&self) -> std::path::PathBuf {
        self.folder.path().join("store.db")
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        wait::within(Duration::from_secs(20), || self.child.try_wait().unwrap()).expect("the app ends")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn dies_with(script: &str, code: i32) {
    assert_eq!(App::start(script).ended().code(), Some(code), "{script}");
}

#[test]
fn a_well_behaved_app_serves_its_pages_and_ends_when_asked() {
    let mut app = App::ready(r#"{ "page": "hello" }"#);
    let health = http::get(app.port, "/healthz").unwrap();
    assert_eq!((health.status(), health.header("x-release")), (Some(200), Some("000001-abcdef0")));
    let first = http::get(app.port, "/").unwrap().text();
    assert!(first.contains("hello") && first.contains("3 products"), "{first}");
    assert_eq!(http::get(app.port, "/orders/count").unwrap().text(), "200");
    assert_eq!(http::get(app.port, "/nothing").unwrap().status(), Some(404));
    app.terminate();
    assert_eq!(app.ended().code(), Some(0));
}

#[test]
fn a_request_in_flight_is_finished_before_the_app_ends() {
    let mut app = App::ready("{}");
    let port = app.port;
    let slow = std::thread::spawn(move || http::get(port, "/slow?ms=400").map(|answer| answer.status()));
    wait::until("the request is in the app", Duration::from_secs(20), || {
        std::fs::read_to_string(app.folder.path().join("out")).unwrap().contains("GET /slow")
    });
    let begun = Instant::now();
    app.terminate();
    assert_eq!(app.ended().code(), Some(0));
    assert_eq!(slow.join().unwrap().unwrap(), Some(200));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_script_makes_it_misbehave() {
    dies_with(r#"{ "exit_at_start": 3 }"#, 3);
    dies_with(r#"{ "helth": "never" }"#, 1);
    let wrong =
        App::ready(r#"{ "health": "wrong-release", "checkout": "broken", "crash_after_requests": 1 }"#);
    let health = http::get(wrong.port, "/healthz").unwrap();
    assert_eq!(health.header("x-release"), Some("000000-0000000"));
    assert_eq!(http::get(wrong.port, "/checkout").unwrap().status(), Some(500));
    assert!(http::get(wrong.port, "/").is_err(), "the second request was to kill it");
    let failing = App::ready(r#"{ "health": "500", "write_at_start": true }"#);
    assert_eq!(http::get(failing.port, "/healthz").unwrap().status(), Some(500));
    assert_eq!(shop::number(&failing.database(), "SELECT count(*) FROM orders"), 201);
}

#[test]
fn an_app_that_migrates_itself_keeps_all_rows() {
    let folder = |app: &App, file: (&str, &str)| {
        std::fs::create_dir_all(app.folder.path().join("migrations")).unwrap();
        std::fs::write(app.folder.path().join(file.0), file.1).unwrap();
    };
    let first = App::ready("{}");
    folder(&first, shop::FIRST);
    folder(&first, shop::REBUILD);
    std::fs::write(first.folder.path().join("app.json"), r#"{ "migrate_at_start": true }"#).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut second = Command::new(env!("CARGO_BIN_EXE_scripted-app"))
        .current_dir(first.folder.path())
        .env_clear()
        .env("PORT", port.to_string())
        .env("DATABASE_PATH", first.database())
        .spawn()
        .unwrap();
    wait::until("the second listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    assert_eq!(shop::number(&first.database(), "SELECT max(version) FROM schema_version"), 2);
    assert_eq!(shop::number(&first.database(), "SELECT count(*) FROM order_items"), 200);
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn buyers_of_a_good_app_lose_nothing() {
    let app = App::ready("{}");
    let buyers = Buyers::start(app.port, 3);
    buyers.place(30);
    let ledger = buyers.stop();
    ledger.unharmed(&app.database());
    assert!(ledger.requests > 40, "{ledger:?}");
}

fn lost_after(sql: &str) -> Vec<String> {
    let app = App::ready("{}");
    let buyers = Buyers::start(app.port, 2);
    buyers.place(10);
    let ledger = buyers.stop();
    assert_eq!(ledger.lost(&app.database()), Vec::<String>::new());
    shop::open(Path::new(&app.database())).execute_batch(sql).unwrap();
    ledger.lost(&app.database())
}

#[test]
fn a_lost_order_a_lost_line_and_a_renumbered_order_are_seen() {
    assert_eq!(lost_after("DELETE FROM orders WHERE id = 205").len(), 1);
    assert_eq!(lost_after("DELETE FROM order_items WHERE order_id = 205").len(), 1);
    let renumber = "PRAGMA foreign_keys = OFF; UPDATE orders SET id = 9000 WHERE id = 205;
                    UPDATE order_items SET order_id = 9000 WHERE order_id = 205;";
    assert_eq!(lost_after(renumber).len(), 1);
}

#[test]
fn an_app_that_dies_is_noticed_by_its_buyers() {
    let mut app = App::ready("{}");
    let buyers = Buyers::start(app.port, 2);
    buyers.place(5);
    app.child.kill().unwrap();
    app.child.wait().unwrap();
    wait::until("a request fails", Duration::from_secs(20), || buyers.failed() > 0);
    let ledger = buyers.stop();
    assert_eq!(ledger.lost(&app.database()), Vec::<String>::new());
    let broken = App::ready(r#"{ "checkout": "broken" }"#);
    let buyers = Buyers::start(broken.port, 2);
    buyers.place(5);
    let ledger = buyers.stop();
    assert!(ledger.failures.iter().any(|f| f.starts_with("GET /checkout: 500")), "{:?}", ledger.failures);
}
