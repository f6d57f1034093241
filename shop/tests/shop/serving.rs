use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::browser::key;
use crate::sandbox::{Sandbox, Server};

#[test]
fn a_missing_database_is_refused_and_not_made() {
    let shop = Sandbox::empty();
    let output = shop.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("greengrocer migrate"), "{complaint}");
    assert!(!shop.database().exists());
}

#[test]
fn a_schema_older_than_the_release_is_refused_and_a_newer_one_is_not() {
    let shop = Sandbox::seeded();
    shop.execute("DELETE FROM schema_version WHERE version = 3");
    let output = shop.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("0003 (people)") && complaint.contains("greengrocer migrate"), "{complaint}");

    shop.execute(
        "INSERT INTO schema_version (version, description) VALUES (3, 'people'), (900, 'of tomorrow')",
    );
    shop.execute(
        "ALTER TABLE products ADD COLUMN allergens TEXT; ALTER TABLE orders ADD COLUMN bag TEXT DEFAULT 'any'",
    );
    let server = shop.serve();
    assert_eq!(server.browser().get("/healthz").json()["schema_version"], 900);
    server.browser().buy(1, 1, &key(1));
}

#[test]
fn migrating_and_filling_again_changes_nothing() {
    let shop = Sandbox::seeded();
    let before = shop.dump();
    assert!(shop.run(&["migrate"]).status.success());
    assert_eq!(shop.run(&["seed"]).status.code(), Some(1), "a filled shop is not filled again");
    assert_eq!(shop.dump(), before);
    let columns: Vec<(String, String, Option<String>)> = shop
        .sql()
        .prepare("SELECT name, type, dflt_value FROM pragma_table_info('schema_version')")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let plain = |name: &str, kind: &str| (name.to_owned(), kind.to_owned(), None);
    assert_eq!(
        columns,
        [
            plain("id", "INTEGER"),
            plain("version", "INTEGER"),
            plain("description", "TEXT"),
            plain("applied_at", "TEXT"),
            ("status".to_owned(), "TEXT".to_owned(), Some("'applied'".to_owned())),
        ]
    );
}

#[test]
fn production_needs_a_real_secret() {
    let shop = Sandbox::seeded();
    let start = |secret: Option<&str>| {
        let mut command = shop.command(&["serve"]);
        command.env("GREENGROCER_ENV", "production").env_remove("GREENGROCER_SECRET");
        if let Some(secret) = secret {
            command.env("GREENGROCER_SECRET", secret);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(start(None).contains("GREENGROCER_SECRET"));
    let complaint = start(Some("change-me"));
    assert!(complaint.contains("9 bytes") && !complaint.contains("change-me"), "{complaint}");
}

#[test]
fn health_tells_the_release_and_fails_while_nobody_can_write() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut probe = server.browser();
    let page = probe.get("/healthz");
    assert_eq!((page.status, page.header("content-type")), (200, "application/json"));
    let wanted = serde_json::json!({
        "status": "ok", "release": "000007-abcdef0", "schema_version": 11, "payment_mode": "on-delivery", "database": "ok",
    });
    assert_eq!(page.json(), wanted);
    let lock = shop.sql();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let page = probe.get("/healthz");
    assert_eq!((page.status, page.json()["status"].as_str()), (503, Some("failing")));
    assert_eq!(probe.get("/products").status, 200, "reading goes on");
    lock.execute_batch("ROLLBACK").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while probe.get("/healthz").status != 200 {
        assert!(Instant::now() < deadline, "healthy again once the lock is gone");
    }
}

/// Seen: it took the write lock and gave it back, and a full disk lets one do that.
#[test]
fn health_was_well_while_no_order_could_be_written() {
    let shop = Sandbox::seeded();
    let inner = shop.command(&["serve"]);
    let mut command = Command::new("/bin/sh");
    // No file may grow beyond 40 KiB: a disk that is full for orders, and has room for the index of the log.
    command.args(["-c", "trap '' XFSZ; ulimit -f 80; exec \"$0\" \"$@\""]).arg(inner.get_program());
    command.args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::start(command);
    let mut probe = server.browser();
    let page = probe.get("/healthz");
    assert_eq!((page.status, page.json()["database"].as_str()), (503, Some("failing")), "{}", page.body);
    assert_eq!(probe.get("/products").status, 200, "reading goes on");
    let left = std::fs::read_dir(shop.database().parent().unwrap()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.ends_with(".room")), "{left:?}");
}

#[test]
fn a_request_in_flight_is_finished_after_sigterm() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(1, 1);
    let form = format!(
        "csrf={}&idempotency_key={}&name=Lakshmi+Rao&phone=9845012345&address=14+Gandhi+Bazaar&city=Bengaluru&pincode=560004",
        guest.csrf(),
        key(1)
    );
    let cookies: Vec<String> = guest.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        stream,
        "POST /checkout HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\nexpect: 100-continue\r\n\r\n",
        server.address,
        cookies.join("; "),
        form.len()
    )
    .unwrap();
    // The server asks for the body once it works on the request: from here it is in flight.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&asked));
    server.terminate();
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(&server.address).is_ok() {
        assert!(Instant::now() < deadline, "no new visitors are let in");
        std::thread::sleep(Duration::from_millis(10));
    }
    stream.write_all(form.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    let (status, log) = server.ended(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 1);
}

#[test]
fn a_form_refused_unread_does_not_break_the_connection() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    for path in ["/admin/products/1", "/cart/add", "/nothing"] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let host = &server.address;
        let fields = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 3";
        write!(stream, "POST {path} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\nexpect: 100-continue\r\n\r\n")
            .unwrap();
        let mut asked = [0; 25];
        stream.read_exact(&mut asked).unwrap();
        assert!(asked.starts_with(b"HTTP/1.1 100"), "{path}: {}", String::from_utf8_lossy(&asked));
        write!(stream, "a=bGET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        assert!(answers.contains("\"schema_version\":11"), "{path}: {answers}");
    }
}

#[test]
fn idle_visitors_do_not_keep_the_shop_from_closing() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let _silent = TcpStream::connect(&server.address).unwrap();
    let mut browsing = server.browser();
    browsing.get("/");
    let start = Instant::now();
    server.terminate();
    let (status, log) = server.ended(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}: {log}", start.elapsed());
}

#[test]
fn an_answered_order_survives_a_kill() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let order = server.browser().buy(1, 1, &key(1));
    server.kill();
    let server = shop.serve();
    let path = format!("/order/{}", order["token"].as_str().unwrap());
    assert_eq!(server.browser().get(&path).status, 200);
}

#[test]
fn a_basket_survives_a_new_process_with_the_same_secret() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(1, 2);
    let csrf = guest.csrf();
    drop(server);
    let server = shop.serve();
    guest.address = server.address.clone();
    assert!(guest.get("/cart").body.contains("2 items"));
    assert_eq!(guest.send("/cart/add", &[("csrf", &csrf), ("product_id", "1")]).status, 303);
}
