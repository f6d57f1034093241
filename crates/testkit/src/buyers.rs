//! Buyers: clients that place real orders through the front door and keep a ledger of what they were promised.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{Connection, Message};
use crate::shop;

/// A request that takes longer counts as failed; longer than any hold.
const PATIENCE: Duration = Duration::from_secs(40);
/// What a buyer thinks about between two requests.
const PAUSE: Duration = Duration::from_millis(8);

/// Buyers at work. Those with an even number keep their connection, the others make a new one for each request.
#[derive(Debug)]
pub struct Buyers {
    stop: Arc<AtomicBool>,
    book: Arc<Book>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Book {
    requests: AtomicU64,
    slowest_ms: AtomicU64,
    failures: Mutex<Vec<String>>,
    /// What was promised: the order's number by its reference.
    ledger: Mutex<BTreeMap<String, i64>>,
}

/// What the buyers met.
#[derive(Clone, Debug)]
#[must_use = "a ledger that nobody checks tests nothing"]
pub struct Ledger {
    /// Requests that were answered or failed.
    pub requests: u64,
    /// Each answer that was neither 2xx nor 3xx, and each connection that broke, in words.
    pub failures: Vec<String>,
    /// The slowest answer, milliseconds.
    pub slowest_ms: u64,
    promised: BTreeMap<String, i64>,
}

impl Buyers {
    /// Lets `count` buyers loose on the front door at `port`.
    #[must_use]
    pub fn start(port: u16, count: usize) -> Buyers {
        static ROUND: AtomicU64 = AtomicU64::new(0);
        let round = ROUND.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let book = Arc::new(Book::default());
        let threads = (0..count)
            .map(|number| {
                let (stop, book) = (Arc::clone(&stop), Arc::clone(&book));
                thread::spawn(move || buy(port, round, number, &stop, &book))
            })
            .collect();
        Buyers { stop, book, threads }
    }

    /// How many orders have been promised so far.
    #[must_use]
    pub fn promised(&self) -> usize {
        locked(&self.book.ledger).len()
    }

    /// How many requests have failed so far.
    #[must_use]
    pub fn failed(&self) -> usize {
        locked(&self.book.failures).len()
    }

    /// Waits until another `count` orders have been promised.
    ///
    /// # Panics
    /// When that takes longer than 40 seconds.
    pub fn place(&self, count: usize) {
        let goal = self.promised() + count;
        let placed = crate::wait::within(PATIENCE, || (self.promised() >= goal).then_some(()));
        let failures = locked(&self.book.failures).clone();
        assert!(
            placed.is_some(),
            "{} of {goal} orders were placed; failures: {failures:#?}",
            self.promised()
        );
    }

    /// Lets them finish what they are at, and go home.
    ///
    /// # Panics
    /// When a buyer did.
    pub fn stop(mut self) -> Ledger {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("buyers note their troubles and do not panic");
        }
        Ledger {
            requests: self.book.requests.load(Ordering::SeqCst),
            failures: locked(&self.book.failures).clone(),
            slowest_ms: self.book.slowest_ms.load(Ordering::SeqCst),
            promised: locked(&self.book.ledger).clone(),
        }
    }
}

impl Drop for Buyers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Ledger {
    /// Every promise that the database does not hold exactly once under its number, in words.
    ///
    /// # Panics
    /// When the database cannot be read.
    #[must_use]
    pub fn lost(&self, database: &Path) -> Vec<String> {
        let connection = shop::open(database);
        let mut found = connection
            .prepare(
                "SELECT o.id, (SELECT count(*) FROM order_items i WHERE i.order_id = o.id) FROM orders o
                 WHERE o.reference = ?1",
            )
            .expect("the database is a shop's");
        let check = |(reference, id): (&String, &i64)| {
            let rows = found.query_map([reference], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
            let rows = rows.and_then(Iterator::collect::<Result<Vec<_>, _>>).expect("orders can be read");
            match rows.as_slice() {
                [(found, 1)] if found == id => None,
                other => Some(format!("order {id} ({reference}): in the database are {other:?}")),
            }
        };
        self.promised.iter().filter_map(check).collect()
    }

    /// How many orders were promised.
    #[must_use]
    pub fn promised(&self) -> usize {
        self.promised.len()
    }

    /// Fails unless no request failed and no order was lost, and unless there were any.
    ///
    /// # Panics
    /// With all failures and losses.
    #[track_caller]
    pub fn unharmed(&self, database: &Path) {
        assert!(self.promised() > 0, "nobody ordered anything: the test shows nothing");
        let lost = self.lost(database);
        let first: Vec<&String> = self.failures.iter().take(20).collect();
        let (failed, requests) = (self.failures.len(), self.requests);
        assert!(self.failures.is_empty(), "{failed} of {requests} requests failed: {first:#?}");
        assert!(lost.is_empty(), "{} of {} orders lost: {lost:#?}", lost.len(), self.promised());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn buy(port: u16, round: u64, number: usize, stop: &AtomicBool, book: &Book) {
    let keeps = number.is_multiple_of(2);
    let mut kept: Option<Connection> = None;
    for turn in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let reference = format!("r{round}-b{number}-t{turn}");
        let form = format!("item={}&qty={}&reference={reference}", 1 + turn % 3, 1 + turn % 4);
        let (method, path, form) = match turn % 4 {
            0 => ("GET", "/", None),
            1 => ("GET", "/checkout", None),
            _ => ("POST", "/orders", Some(form.as_str())),
        };
        let begun = Instant::now();
        let connection = kept.take().filter(Connection::is_open);
        let answer = ask(connection, port, method, path, form);
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        book.requests.fetch_add(1, Ordering::SeqCst);
        book.slowest_ms.fetch_max(ms, Ordering::SeqCst);
        match answer {
            Ok((connection, answer)) => {
                note(book, &answer, method, path, form.is_some().then_some(reference));
                kept = keeps.then_some(connection);
            }
            Err(error) => {
                let how = if keeps { "kept" } else { "fresh" };
                locked(&book.failures).push(format!("{method} {path} after {ms} ms ({how}): {error}"));
            }
        }
        thread::sleep(PAUSE);
    }
}

fn ask(
    kept: Option<Connection>,
    port: u16,
    method: &str,
    path: &str,
    form: Option<&str>,
) -> io::Result<(Connection, Message)> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(port, PATIENCE)?,
    };
    let answer = connection.send(method, path, form)?;
    Ok((connection, answer))
}

fn note(book: &Book, answer: &Message, method: &str, path: &str, reference: Option<String>) {
    let status = answer.status().unwrap_or(0);
    if !(200..400).contains(&status) {
        let text: String = answer.text().chars().take(200).collect();
        locked(&book.failures).push(format!("{method} {path}: {status} {text}"));
        return;
    }
    let Some(reference) = reference else { return };
    let id = serde_json::from_slice::<Value>(&answer.body).ok().and_then(|body| body.get("id")?.as_i64());
    match id {
        Some(id) => drop(locked(&book.ledger).insert(reference, id)),
        None => locked(&book.failures)
            .push(format!("an order was answered without its number: {}", answer.text())),
    }
}
