//! A steady load through deployments in a row, each with a migration; half of the requests place an order.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_testkit::http::Connection;
use plimsoll_testkit::{Sandbox, shop, soak};

use crate::kills::note;
use crate::production::{ended, ending, settled, strategy};

const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Default)]
struct Book {
    promised: Mutex<BTreeMap<String, i64>>,
    failures: Mutex<Vec<String>>,
    slowest_us: AtomicU64,
    answered: AtomicU64,
}

/// Sends each request at its time, whatever became of those before it: open loop. Returns when told to, and when every
/// answer is there.
fn load(port: u16, per_second: u32, enough: &AtomicBool, book: &Book) {
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0_u32.. {
            let at = begun + Duration::from_secs(1) * number / per_second;
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if enough.load(Ordering::SeqCst) {
                return;
            }
            let ask = move || one(port, number, at, book);
            thread::Builder::new()
                .stack_size(128 << 10)
                .spawn_scoped(scope, ask)
                .expect("a thread can be made");
        }
    });
}

fn one(port: u16, number: u32, at: Instant, book: &Book) {
    let reference = format!("load-{number}");
    let form = format!("item=1&qty=1&reference={reference}");
    let buying = number.is_multiple_of(2);
    let answer = Connection::open(port, PATIENCE).and_then(|mut connection| {
        if buying {
            connection.send("POST", "/orders", Some(&form))
        } else {
            connection.send("GET", "/", None)
        }
    });
    // From the moment at which it was to be sent: a late start is no excuse.
    let took = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
    book.slowest_us.fetch_max(took, Ordering::SeqCst);
    book.answered.fetch_add(1, Ordering::SeqCst);
    match answer {
        Ok(answer) if answer.status() == Some(201) => {
            let id = serde_json::from_slice::<serde_json::Value>(&answer.body)
                .ok()
                .and_then(|body| body["id"].as_i64());
            book.promised.lock().unwrap().insert(reference, id.unwrap_or(-1));
        }
        Ok(answer) if answer.status() == Some(200) && !buying => {}
        Ok(answer) => {
            book.failures.lock().unwrap().push(format!("{number}: {} {}", answer.start, answer.text()))
        }
        Err(error) => book.failures.lock().unwrap().push(format!("{number}: {error}")),
    }
}

#[test]
fn a_steady_load_meets_no_failure_and_no_double_through_deployments_in_a_row() {
    let (deployments, per_second) = (soak::rounds(2, 20), u32::try_from(soak::rounds(60, 400)).unwrap());
    let mut sandbox = Sandbox::new();
    // A busy machine makes requests slow; what is measured is that they are answered.
    sandbox.configure("front = { hold_budget = '40s', drain = '15s' }");
    let serve = sandbox.live();
    let (enough, book) = (AtomicBool::new(false), Book::default());
    let last = u32::try_from(deployments).unwrap() + 1;
    thread::scope(|scope| {
        let loading = scope.spawn(|| load(sandbox.port, per_second, &enough, &book));
        // A request takes as long as the app is slow, here 3 s; it is finished by whoever began it.
        let slow = scope.spawn(|| {
            let mut answers = Vec::new();
            while !enough.load(Ordering::SeqCst) {
                let asked = Connection::open(sandbox.port, PATIENCE);
                answers.push(
                    asked.and_then(|mut it| it.send("GET", "/slow?ms=3000", None)).map(|it| it.status()),
                );
            }
            answers
        });
        for version in 2..=last {
            let name = format!("migrations/{version:04}_more.sql");
            let sql = format!(
                "CREATE TABLE more_{version} (id INTEGER PRIMARY KEY);\nUPDATE products SET paise = paise + 1;\n"
            );
            sandbox.release(&format!(r#"{{ "page": "{version}" }}"#), &[(&name, &sql)]);
            let output = sandbox.deploy();
            if output.code != Some(0) {
                enough.store(true, Ordering::SeqCst);
                panic!("deployment {version}: {}", output.said());
            }
        }
        enough.store(true, Ordering::SeqCst);
        loading.join().unwrap();
        let slow = slow.join().unwrap();
        assert!(slow.iter().all(|answer| matches!(answer, Ok(Some(200)))), "slow requests: {slow:?}");
    });
    let failures = book.failures.into_inner().unwrap();
    let answered = book.answered.load(Ordering::SeqCst);
    assert!(
        failures.is_empty(),
        "{} of {answered} failed: {:#?}",
        failures.len(),
        &failures[..failures.len().min(20)]
    );
    let connection = shop::open(&sandbox.database());
    let promised = book.promised.into_inner().unwrap();
    for (reference, id) in &promised {
        let found: Vec<i64> = connection
            .prepare("SELECT id FROM orders WHERE reference = ?1")
            .and_then(|mut all| all.query_map([reference], |row| row.get(0))?.collect())
            .unwrap();
        assert_eq!(found, [*id], "order {reference}");
    }
    let orders =
        shop::number(&sandbox.database(), "SELECT count(*) FROM orders WHERE reference LIKE 'load-%'");
    assert_eq!(
        usize::try_from(orders).unwrap(),
        promised.len(),
        "orders that nobody was promised, or double ones"
    );
    let mut longest_hold = 0;
    for run in 2..=last {
        assert_eq!((ending(&sandbox, run), strategy(&sandbox, run)), (("live".into(), 0), "hold".into()));
        longest_hold = longest_hold.max(ended(&sandbox, run)["hold_ms"].as_u64().unwrap());
    }
    let slowest = book.slowest_us.load(Ordering::SeqCst) / 1_000;
    note(&format!(
        "{per_second} requests/s, {deployments} deployments with a migration each: {answered} answered, 0 failed, \
         {} orders, 0 lost, 0 double; longest hold {longest_hold} ms, slowest request {slowest} ms ({} ms over it)",
        promised.len(),
        slowest.saturating_sub(longest_hold)
    ));
    settled(&sandbox);
    drop(serve);
}
