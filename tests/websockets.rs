//! Open WebSockets across changes of release: the client that reconnects waits at the door, and what was acknowledged stays.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_testkit::websocket::WebSocket;
use plimsoll_testkit::{Sandbox, shop, wait};

use crate::kills::note;
use crate::production::{settled, strategy};

const PATIENCE: Duration = Duration::from_secs(40);
const CLIENTS: usize = 4;

#[derive(Default)]
struct Book {
    acknowledged: Vec<(String, i64)>,
    /// How often a connection was closed and made again.
    again: usize,
    /// The longest time from one answer to the next.
    gap: Duration,
    refused: Vec<String>,
}

/// Orders one after the other on a connection that is kept, and made again when it is closed.
fn order(port: u16, client: usize, enough: &AtomicBool, book: &Mutex<Book>) {
    let (mut number, mut last) = (0, Instant::now());
    while !enough.load(Ordering::SeqCst) {
        let mut socket = match WebSocket::connect(port, "/live", PATIENCE) {
            Ok(socket) => socket,
            Err(error) => return book.lock().unwrap().refused.push(error.to_string()),
        };
        while !enough.load(Ordering::SeqCst) {
            number += 1;
            let reference = format!("live-{client}-{number}");
            // What was sent and not acknowledged may have been carried out or not, and is not repeated.
            let Ok(Some(id)) = socket.send(&reference).and_then(|()| socket.receive()) else {
                book.lock().unwrap().again += 1;
                break;
            };
            let mut book = book.lock().unwrap();
            book.gap = book.gap.max(last.elapsed());
            last = Instant::now();
            book.acknowledged.push((reference, id.parse().unwrap()));
            drop(book);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn open_websockets_are_closed_at_a_switch_and_wait_at_the_door_when_they_come_again() {
    let sandbox = Sandbox::new();
    let serve = sandbox.live();
    let port = sandbox.port;
    let (enough, book) = (AtomicBool::new(false), Mutex::<Book>::default());
    let orders = || book.lock().unwrap().acknowledged.len();
    let more = || {
        let before = orders();
        wait::until("they order", PATIENCE, || {
            orders() >= before + 10 * CLIENTS || !book.lock().unwrap().refused.is_empty()
        });
    };
    let longest = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (enough, book) = (&enough, &book);
            scope.spawn(move || order(port, client, enough, book));
        }
        more();
        sandbox.release(r#"{ "page": "two" }"#, &[]);
        let overlapped = sandbox.deploy();
        more();
        let gap = std::mem::take(&mut book.lock().unwrap().gap);
        sandbox.release(r#"{ "page": "three" }"#, &[shop::REBUILD]);
        let held = sandbox.deploy();
        more();
        enough.store(true, Ordering::SeqCst);
        overlapped.exits(0);
        held.exits(0);
        gap
    });
    let book = book.into_inner().unwrap();
    assert_eq!(book.refused, Vec::<String>::new());
    assert_eq!(book.again, 2 * CLIENTS, "each was closed once at each switch");
    assert_eq!((strategy(&sandbox, 2), strategy(&sandbox, 3)), ("overlap".into(), "hold".into()));
    let connection = shop::open(&sandbox.database());
    for (reference, id) in &book.acknowledged {
        let found: Vec<i64> = connection
            .prepare("SELECT id FROM orders WHERE reference = ?1")
            .and_then(|mut all| all.query_map([reference], |row| row.get(0))?.collect())
            .unwrap();
        assert_eq!(found, [*id], "order {reference}");
    }
    note(&format!(
        "{CLIENTS} WebSockets, {} orders acknowledged, 0 lost; longest time from one answer to the next: {} ms at an \
         overlap, {} ms at a hold",
        book.acknowledged.len(),
        longest.as_millis(),
        book.gap.as_millis()
    ));
    settled(&sandbox);
    drop(serve);
}
