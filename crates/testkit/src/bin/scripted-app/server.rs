//! The routes, on a thread for each connection.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use plimsoll_testkit::http::Message;
use plimsoll_testkit::websocket::WebSocket;

use crate::script::{Checkout, Health, Script};
use crate::store::{Failure, Store};

/// How often a connection without a request looks whether the app is stopping.
const GLANCE: Duration = Duration::from_millis(20);

/// The listening app.
pub(crate) struct Server {
    shared: Arc<Shared>,
    port: u16,
    accepting: thread::JoinHandle<()>,
}

struct Shared {
    script: Script,
    store: Store,
    release: String,
    stopping: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    leaked: Mutex<Vec<Vec<u8>>>,
}

impl Server {
    /// Listens on `PORT`.
    pub(crate) fn start(script: Script, store: Store) -> Result<Server, Failure> {
        let port: u16 = std::env::var("PORT").map_err(|_| "PORT is not set")?.parse()?;
        let release = std::env::var("PLIMSOLL_RELEASE").unwrap_or_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let shared = Arc::new(Shared {
            script,
            store,
            release,
            stopping: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            leaked: Mutex::default(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &shared))
        };
        Ok(Server { shared, port, accepting })
    }

    /// Finishes the requests that are running and accepts no others.
    pub(crate) fn finish(self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        let _ = self.accepting.join();
        while self.shared.connections.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let _ = serve(stream, &shared);
            shared.connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        if !reader.buffer().is_empty() || wait_for_bytes(reader.get_ref(), shared)? {
            let Some(request) = Message::read_request(&mut reader)? else { return Ok(()) };
            if let Some(socket) = WebSocket::accept(&request, reader.get_ref())? {
                return live(socket, reader.get_ref(), shared);
            }
            let closing = request.is_last();
            let last = shared.stopping.load(Ordering::SeqCst) || closing;
            writer.write_all(&answer(&request, shared, last))?;
            if last {
                return Ok(());
            }
        } else {
            return Ok(());
        }
    }
}

/// Each message is the reference of an order, and is answered with its number once it is on the disk.
fn live(mut socket: WebSocket, stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    while wait_for_bytes(stream, shared)? {
        let Some(reference) = socket.receive()? else { return Ok(()) };
        let number = shared.store.order("1", "1", &reference).map_err(io::Error::other)?;
        socket.send(&number.to_string())?;
    }
    Ok(())
}

/// Whether a request begins; `false` when the connection ended or the app stops.
fn wait_for_bytes(stream: &TcpStream, shared: &Shared) -> io::Result<bool> {
    stream.set_read_timeout(Some(GLANCE))?;
    loop {
        match stream.peek(&mut [0]) {
            Ok(0) => return Ok(false),
            Ok(_) => break,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if shared.stopping.load(Ordering::SeqCst) {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error),
        }
    }
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(true)
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
    release: Option<String>,
}

fn page(status: &'static str, body: impl Into<String>) -> Answer {
    Answer { status, kind: "text/html; charset=utf-8", body: body.into(), release: None }
}

fn answer(request: &Message, shared: &Shared, last: bool) -> Vec<u8> {
    let Answer { status, kind, body, release } = route(request, shared).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "error: {}: {error}", request.start);
        page("500 Internal Server Error", format!("<h1>Something went wrong</h1><p>{error}</p>"))
    });
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n", body.len());
    if let Some(release) = release {
        head += &format!("x-release: {release}\r\n");
    }
    if last {
        head += "connection: close\r\n";
    }
    format!("{head}\r\n{body}").into_bytes()
}

fn route(request: &Message, shared: &Shared) -> Result<Answer, Failure> {
    let mut words = request.start.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let script = &shared.script;
    if path == "/healthz" {
        return Ok(health(shared));
    }
    let served = shared.requests.fetch_add(1, Ordering::SeqCst);
    if script.crash_after_requests.is_some_and(|limit| served >= limit) {
        std::process::abort();
    }
    if script.leak_kib > 0 {
        // Written to, so that the memory is really taken.
        let kept = vec![1; usize::try_from(script.leak_kib)? * 1024];
        shared.leaked.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }
    if script.log_errors {
        writeln!(io::stderr(), "ERROR: cart {served} could not be priced")?;
    }
    let fails = script.fail_after_requests.is_some_and(|from| {
        served >= from && script.fail_for_requests.is_none_or(|count| served < from + count)
    });
    if fails {
        return Ok(page("500 Internal Server Error", "<h1>It fails, as scripted</h1>"));
    }
    thread::sleep(Duration::from_millis(script.slow_ms));
    match (method, path) {
        ("GET", "/") => {
            let products = shared.store.count("products")?;
            let (text, release) = (&script.page, &shared.release);
            Ok(page(
                "200 OK",
                format!("<h1>Shop</h1><p>{text}</p><p>{products} products</p><p>{release}</p>"),
            ))
        }
        ("GET", "/checkout") if script.checkout == Checkout::Broken => {
            Ok(page("500 Internal Server Error", "<h1>The checkout is broken</h1>"))
        }
        ("GET", "/checkout") => Ok(page("200 OK", "<h1>Checkout</h1>")),
        ("POST", "/orders") if script.forget_orders => Ok(page("200 OK", "<h1>Thank you</h1>")),
        ("POST", "/orders") => {
            let form = fields(&request.text());
            let field = |name: &str| form.get(name).map(String::as_str);
            let reference = field("reference")
                .map_or_else(|| format!("anonymous-{}-{served}", std::process::id()), str::to_owned);
            let (item, quantity) = (field("item").ok_or("no item")?, field("qty").unwrap_or("1"));
            let id = shared.store.order(item, quantity, &reference)?;
            let body = serde_json::json!({ "id": id }).to_string();
            Ok(Answer { status: "201 Created", kind: "application/json", body, release: None })
        }
        ("GET", "/orders/count") => Ok(page("200 OK", shared.store.count("orders")?.to_string())),
        ("GET", "/slow") => {
            let ms = fields(query).get("ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
            let _ = writeln!(io::stdout(), "{}", request.start);
            thread::sleep(Duration::from_millis(ms));
            Ok(page("200 OK", "slow"))
        }
        _ => Ok(page("404 Not Found", "<h1>No such page</h1>")),
    }
}

fn health(shared: &Shared) -> Answer {
    let with = |release: &str| Answer { release: Some(release.to_owned()), ..page("200 OK", "ok") };
    match shared.script.health {
        Health::Ok => with(&shared.release),
        Health::WrongRelease => with("000000-0000000"),
        Health::Failing => page("500 Internal Server Error", "not well"),
        Health::Never => {
            while !shared.stopping.load(Ordering::SeqCst) {
                thread::sleep(GLANCE);
            }
            page("503 Service Unavailable", "stopping")
        }
    }
}

/// The fields of a form or a query; the tests' values need no decoding.
fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
