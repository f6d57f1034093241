//! The front door: an HTTP/1.1 reverse proxy that can hold requests while the release behind it is changed,
//! and loses none.
//!
//! The interface is synchronous and safe to use from any thread; the door runs its own small runtime.

#[cfg(test)]
mod app;
mod body;
mod client;
pub mod control;
pub mod door;
mod forward;
mod gate;
mod head;
mod page;
mod stream;
mod target;
mod traffic;

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, watch};

pub use crate::client::Kept;
pub use crate::gate::{Gate, GateState};
pub use crate::page::Page;
pub use crate::target::{Backend, Drained, Target};
pub use crate::traffic::{Counts, Latency, Second};

use crate::body::Answer;
use crate::client::{Client, Io};
use crate::forward::ClientLeft;
use crate::traffic::Traffic;

/// Larger heads are answered 431.
const MAX_HEAD: usize = 32 * 1024;
/// Also the size of the pieces in which bodies flow.
const MAX_BUFFER: usize = 64 * 1024;
/// Connections not yet accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Threads. Each has connections of its own, to clients and to the app, so that a request never wakes another thread.
const MAX_WORKERS: usize = 16;
/// A thread that has so many connections more than another lets that one have the next.
const SPREAD: usize = 2;
/// After an `accept` that failed for want of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// How long a connection that was accepted just before a shutdown has for its request.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How a front door behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The app's name on the door's own pages.
    pub app_name: String,
    /// How many requests may wait at the door; when more come, the oldest are answered 503.
    pub max_parked_requests: usize,
    /// How many bytes their heads may take. Bodies are not read while a request waits.
    pub max_parked_bytes: usize,
    /// How long a client may take for a request's head, and a connection may be idle.
    pub header_timeout: Duration,
    /// How long a client may take for the next piece of its request's body, or of the answer that it reads. A slow one
    /// would keep the app busy, and a drain waiting.
    pub stall_timeout: Duration,
    /// Callers that give up early: a path (and what lies below it), and after which wait its requests are answered 503.
    pub answer_after: Vec<(String, Duration)>,
    /// How long a request waits for an app that does not listen while the gate is open.
    pub app_down_wait: Duration,
    /// How long requests wait from the first one on; without it the gate is shut until told otherwise.
    pub hold_first: Option<Duration>,
    /// Believe the `X-Forwarded-*` and `Forwarded` of clients on the loopback: a TLS proxy on this machine.
    pub trust_loopback: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            app_name: "The site".to_owned(),
            max_parked_requests: 10_000,
            max_parked_bytes: 64 * 1024 * 1024,
            header_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            answer_after: Vec::new(),
            app_down_wait: Duration::from_secs(2),
            hold_first: None,
            trust_loopback: false,
        }
    }
}

impl Options {
    fn answer_after_for(&self, path: &str) -> Option<Duration> {
        self.answer_after
            .iter()
            .filter(|(prefix, _)| {
                path.strip_prefix(prefix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
            })
            .map(|(_, after)| *after)
            .min()
    }
}

/// A listening front door. Dropped, it stops at once.
pub struct FrontDoor {
    door: Arc<Shared>,
    addr: SocketAddr,
    workers: Mutex<Vec<JoinHandle<()>>>,
    stop: watch::Sender<Stop>,
    end: watch::Sender<bool>,
}

/// What becomes of the connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stop {
    /// Nothing: the door is in use.
    Not,
    /// Closed, after the answer to what is asked.
    Close,
    /// Kept for the next process, after that answer.
    HandOver,
}

/// What all connections share.
pub(crate) struct Shared {
    options: Options,
    gate: Gate,
    traffic: Arc<Traffic>,
    /// The `Host` for clients that send none.
    host: HeaderValue,
    connections: Mutex<usize>,
    /// For each thread, how many of them it has.
    shares: Vec<AtomicUsize>,
    threads: Vec<Handle>,
    /// Connections between two requests, for the next process.
    kept: Mutex<Vec<Kept>>,
    /// Notified when the last connection ends.
    empty: Condvar,
}

impl FrontDoor {
    /// Starts to accept on `listener`. The gate is shut until told otherwise, or held with [`Options::hold_first`]:
    /// an inherited listener may have clients waiting, who are let in at once.
    ///
    /// The process's soft limit of open files is raised to its hard limit: each waiting request needs a descriptor.
    ///
    /// # Errors
    /// The listener is no usable TCP listener, or no threads can be started.
    pub fn start(listener: TcpListener, options: Options) -> io::Result<FrontDoor> {
        raise_open_files();
        // Rust's library asks for a backlog of 128; when it is full, a client's first packet is dropped and repeated after 1 s.
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let count = thread::available_parallelism().map_or(2, usize::from).min(MAX_WORKERS);
        let runtimes: Vec<Runtime> = (0..count)
            .map(|_| tokio::runtime::Builder::new_current_thread().enable_all().build())
            .collect::<io::Result<_>>()?;
        let traffic = Arc::new(Traffic::new());
        let gate = Gate::new(
            &options.app_name,
            options.max_parked_requests,
            options.max_parked_bytes,
            Arc::clone(&traffic),
            runtimes[0].handle().clone(),
        );
        if let Some(first) = options.hold_first {
            gate.hold(Instant::now() + first);
        }
        let host = HeaderValue::from_str(&addr.to_string()).map_err(io::Error::other)?;
        let door = Arc::new(Shared {
            options,
            gate,
            traffic,
            host,
            connections: Mutex::new(0),
            shares: runtimes.iter().map(|_| AtomicUsize::new(0)).collect(),
            threads: runtimes.iter().map(|runtime| runtime.handle().clone()).collect(),
            kept: Mutex::default(),
            empty: Condvar::new(),
        });
        let (stop, stopped) = watch::channel(Stop::Not);
        let (end, ended) = watch::channel(false);
        let front = FrontDoor { door: Arc::clone(&door), addr, workers: Mutex::default(), stop, end };
        for (number, runtime) in runtimes.into_iter().enumerate() {
            let listener = {
                let _inside = runtime.enter();
                tokio::net::TcpListener::from_std(listener.try_clone()?)?
            };
            runtime.spawn(listen(Arc::clone(&door), number, listener, stopped.clone()));
            let mut ended = ended.clone();
            let work = move || {
                target::set_worker(number);
                // Ends when the door is dropped, too.
                let _ = runtime.block_on(ended.wait_for(|end| *end));
            };
            let worker = thread::Builder::new().name("front-door".to_owned()).spawn(work)?;
            front.workers.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
        Ok(front)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The gate.
    pub fn gate(&self) -> &Gate {
        &self.door.gate
    }

    /// Puts another target behind the door, in one moment, and returns what was there, to be drained.
    pub fn set_target(&self, target: Option<Target>) -> Option<Backend> {
        self.door.gate.set_target(target)
    }

    /// What is behind the door.
    pub fn target(&self) -> Option<Backend> {
        self.door.gate.target()
    }

    /// Drains what is behind the door (see [`Backend::drain`]); to answer again it must be set anew.
    pub fn drain_current(&self, timeout: Duration) -> Option<Drained> {
        self.target().map(|backend| backend.drain(timeout))
    }

    /// The counters as they are now; keep one as a mark for [`Counts::since`].
    pub fn traffic(&self) -> Counts {
        self.door.traffic.counts()
    }

    /// The last `span` second by second, at most twenty minutes; seconds without an answer are left out.
    pub fn recent(&self, span: Duration) -> Vec<Second> {
        self.door.traffic.recent(span)
    }

    /// Stops: no new connections, 503 for what waits, up to `grace` for requests in flight, and for those of clients
    /// that were accepted a moment ago. Returns whether all ended in time.
    pub fn shutdown(&self, grace: Duration) -> bool {
        self.leave(grace, Stop::Close)
    }

    /// Stops like [`FrontDoor::shutdown`], but closes no connection on which nothing is asked: the client may be about to,
    /// and would meet a closed door. They are given back, for [`FrontDoor::attend_to`] in the next process.
    pub fn hand_over(&self, grace: Duration) -> Vec<Kept> {
        self.leave(grace, Stop::HandOver);
        std::mem::take(&mut *self.door.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves connections of clients that an earlier process accepted. One that cannot be used is closed.
    pub fn attend_to(&self, clients: Vec<Kept>) {
        let http = http(&self.door);
        for client in clients {
            let stream = TcpStream::from(client.socket);
            if let Ok(peer) = stream.set_nonblocking(true).and_then(|()| stream.peer_addr()) {
                let thread = self.door.idlest();
                self.door.attend_on(thread, &http, stream, peer, client.read, self.stop.subscribe());
            }
        }
    }

    fn leave(&self, grace: Duration, how: Stop) -> bool {
        let until = Instant::now() + grace;
        self.stop.send_replace(how);
        let stopping = Page::stopping(&self.door.options.app_name);
        if self.door.gate.current() != GateState::Open {
            self.door.gate.shut(stopping.clone());
        }
        let mut connections = self.door.connections.lock().unwrap_or_else(PoisonError::into_inner);
        while *connections > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            connections =
                self.door.empty.wait_timeout(connections, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let all = *connections == 0;
        drop(connections);
        self.door.gate.shut(stopping);
        self.end();
        all
    }

    fn end(&self) {
        self.end.send_replace(true);
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            // One that panicked has ended as well.
            let _ = worker.join();
        }
    }
}

impl Drop for FrontDoor {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// The thread with the fewest connections.
    fn idlest(&self) -> usize {
        let shares = self.shares.iter().map(|share| share.load(Relaxed)).enumerate();
        shares.min_by_key(|(_, share)| *share).map_or(0, |(thread, _)| thread)
    }

    /// Serves a connection on that thread. One that cannot be used is closed.
    fn attend_on(
        self: &Arc<Shared>,
        thread: usize,
        http: &http1::Builder,
        stream: TcpStream,
        peer: SocketAddr,
        read: Vec<u8>,
        stopped: watch::Receiver<Stop>,
    ) {
        let (door, http) = (Arc::clone(self), http.clone());
        // Counted at once: the next is told where to go before this one is there.
        let counted = Counted::new(&door, thread);
        self.threads[thread].spawn(async move {
            let client = tokio::net::TcpStream::from_std(stream)
                .and_then(|stream| Client::new(stream, peer, door.options.stall_timeout));
            if let Ok(client) = client {
                attend(door, http, client.having_sent(read), stopped, counted).await;
            }
        });
    }
}

/// One connection in the counts.
struct Counted {
    door: Arc<Shared>,
    thread: usize,
}

impl Counted {
    fn new(door: &Arc<Shared>, thread: usize) -> Counted {
        *door.connections.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        door.shares[thread].fetch_add(1, Relaxed);
        Counted { door: Arc::clone(door), thread }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.door.shares[self.thread].fetch_sub(1, Relaxed);
        let mut connections = self.door.connections.lock().unwrap_or_else(PoisonError::into_inner);
        *connections -= 1;
        if *connections == 0 {
            self.door.empty.notify_all();
        }
    }
}

fn http(door: &Shared) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(door.options.header_timeout)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_BUFFER)
        // The app's answers pass as they are; nothing is added.
        .auto_date_header(false);
    http
}

async fn listen(
    door: Arc<Shared>,
    thread: usize,
    listener: tokio::net::TcpListener,
    mut stopped: watch::Receiver<Stop>,
) {
    let http = http(&door);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop != Stop::Not) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Many that come at once are accepted by the thread that woke first, and would all be its own.
                let idlest = door.idlest();
                let share = |thread: usize| door.shares[thread].load(Relaxed);
                if share(thread) > share(idlest) + SPREAD {
                    if let Ok(stream) = stream.into_std() {
                        door.attend_on(idlest, &http, stream, peer, Vec::new(), stopped.clone());
                    }
                    continue;
                }
                // An error here means that the client has left already.
                let counted = Counted::new(&door, thread);
                if let Ok(client) = Client::new(stream, peer, door.options.stall_timeout) {
                    tokio::spawn(attend(Arc::clone(&door), http.clone(), client, stopped.clone(), counted));
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// Serves one connection until it ends, or until the door stops and its request has been answered.
async fn attend(
    door: Arc<Shared>,
    http: http1::Builder,
    client: Client,
    mut stopped: watch::Receiver<Stop>,
    _counted: Counted,
) {
    let client = Arc::new(client);
    let io = TokioIo::new(client.io());
    let first = Arc::new(Notify::new());
    let asked = Arc::clone(&first);
    let (inner, asking) = (Arc::clone(&door), Arc::clone(&client));
    let service = service_fn(move |request| {
        asked.notify_one();
        forward::serve(Arc::clone(&inner), Arc::clone(&asking), request)
    });
    let mut connection = http.serve_connection(io, service).with_upgrades();
    // A connection's errors are its client's; what they mean for a request is counted with it.
    let stop = tokio::select! {
        biased;
        stop = stopped.wait_for(|stop| *stop != Stop::Not) => stop.map_or(Stop::Close, |stop| *stop),
        _ = &mut connection => return,
    };
    // Boxed: what is seldom needed takes no room in each connection that waits.
    if stop == Stop::HandOver {
        return Box::pin(hand_over(&door, &client, connection)).await;
    }
    // hyper closes a connection that has not asked yet, and with it a request that is on its way.
    tokio::select! {
        biased;
        () = first.notified() => {}
        _ = &mut connection => return,
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    Pin::new(&mut connection).graceful_shutdown();
    let _ = connection.await;
}

/// Keeps the connection for the next process as soon as nothing is asked on it. It is not closed after an answer: that
/// has promised that more may be asked.
async fn hand_over<S>(door: &Shared, client: &Client, mut connection: UpgradeableConnection<TokioIo<Io>, S>)
where
    S: HttpService<Incoming, ResBody = Answer, Error = ClientLeft> + Unpin,
{
    let between = poll_fn(|cx| {
        if Pin::new(&mut connection).poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        if client.is_between_requests() { Poll::Ready(true) } else { Poll::Pending }
    });
    if !between.await {
        return;
    }
    // hyper ends at once when nothing is going on, and reads nothing before: what comes now stays in the kernel. What it
    // has read of the next request's head is handed over, too. (The beginning of a first head it would wait for.)
    if client.has_asked() {
        client.set_leaving(true);
        Pin::new(&mut connection).graceful_shutdown();
        let ended = poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx))).await;
        if ended.is_pending() {
            client.set_leaving(false);
            let _ = connection.await;
            return;
        }
    }
    if let Some(parts) = connection.into_parts()
        && let Some(kept) = client.hand_over(&parts.read_buf)
    {
        door.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }
}

fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Without the right to, the door works with fewer clients.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::app::{App, door, door_to, get, open, post, receive, send, until};

    #[test]
    fn shutdown_ends_what_runs_and_refuses_what_waits() {
        let app = App::saying("slow", Duration::from_millis(400));
        let door = door_to(&app);
        let addr = door.local_addr();
        // Idle connections do not keep it up.
        let mut idle = open(addr);
        thread::scope(|scope| {
            let running = scope.spawn(move || post(addr, "/", "a=1").unwrap().status);
            until("it is at the app", || app.count() == 1);
            door.gate().hold(Instant::now() + Duration::from_secs(20));
            let waiting = scope.spawn(move || get(addr, "/").unwrap());
            until("one waits", || door.gate().parked() == 1);
            let began = Instant::now();
            assert!(door.shutdown(Duration::from_secs(10)));
            assert!(began.elapsed() < Duration::from_secs(5));
            assert_eq!(running.join().unwrap(), 200);
            let waiting = waiting.join().unwrap();
            assert_eq!((waiting.status, waiting.header("retry-after")), (503, Some("2")));
        });
        send(&mut idle, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(receive(&mut idle).is_err());
        assert!(std::net::TcpStream::connect(addr).is_err(), "it still listens");
        assert!(door.shutdown(Duration::ZERO), "a second time does nothing");
    }

    #[test]
    fn a_client_that_was_accepted_before_a_shutdown_gets_its_answer() {
        let app = App::saying("here", Duration::ZERO);
        let door = door_to(&app);
        let mut client = open(door.local_addr());
        until("it is accepted", || *door.door.connections.lock().unwrap() == 1);
        thread::scope(|scope| {
            let stopping = scope.spawn(|| door.shutdown(Duration::from_secs(20)));
            until("it stops", || *door.stop.borrow() != Stop::Not);
            send(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(receive(&mut client).unwrap().status, 200);
            assert!(stopping.join().unwrap());
        });
    }

    #[test]
    fn a_kept_connection_was_closed_by_a_renewal_while_its_client_asked_again() {
        let app = App::saying("here", Duration::from_millis(300));
        let old = door_to(&app);
        let (mut idle, mut busy, mut silent) =
            (open(old.local_addr()), open(old.local_addr()), open(old.local_addr()));
        let ask = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        send(&mut idle, ask);
        assert_eq!(receive(&mut idle).unwrap().status, 200);
        send(&mut busy, ask);
        until("it is at the app", || app.count() == 2);
        until("all are accepted", || *old.door.connections.lock().unwrap() == 3);
        let kept = old.hand_over(Duration::from_secs(20));
        assert_eq!(kept.len(), 3);
        let answer = receive(&mut busy).unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        drop(old);
        // What is asked while nobody is there waits in the kernel.
        send(&mut busy, ask);
        let new = door_to(&app);
        new.attend_to(kept);
        send(&mut idle, ask);
        send(&mut silent, ask);
        for client in [&mut idle, &mut busy, &mut silent] {
            assert_eq!(receive(client).unwrap().status, 200);
        }
        assert_eq!(new.traffic().requests, 3);
    }

    /// Seen: half a head was given up after half a second, and after a pipelined request at once.
    #[test]
    fn a_client_in_the_middle_of_a_head_was_cut_off_by_a_renewal() {
        let app = App::saying("here", Duration::ZERO);
        let old = door_to(&app);
        let (mut first, mut pipelined) = (open(old.local_addr()), open(old.local_addr()));
        send(&mut first, "GET /first HTTP/1.1\r\nho");
        send(&mut pipelined, "GET / HTTP/1.1\r\nhost: a\r\n\r\nPOST /second HTTP/1.1\r\nhost: a\r\ncont");
        assert_eq!(receive(&mut pipelined).unwrap().status, 200);
        // Through several hands, so that what was handed over is handed over again.
        let mut doors = vec![old];
        for _ in 0..3 {
            let old = doors.last().unwrap();
            until("both are accepted", || *old.door.connections.lock().unwrap() == 2);
            // Nothing tells that the halves have been read; when they have not, they pass unread, which is right too.
            thread::sleep(Duration::from_millis(50));
            let kept = old.hand_over(Duration::from_secs(20));
            assert_eq!(kept.len(), 2);
            let new = door_to(&app);
            new.attend_to(kept);
            doors.push(new);
        }
        send(&mut first, "st: a\r\n\r\n");
        send(&mut pipelined, "ent-length: 3\r\n\r\nabc");
        for client in [&mut first, &mut pipelined] {
            assert_eq!(receive(client).unwrap().status, 200);
        }
        let mut paths: Vec<String> =
            app.asked.lock().unwrap().iter().map(|asked| asked.path().to_owned()).collect();
        paths.sort();
        assert_eq!(paths, ["/", "/first", "/second"]);
    }

    #[test]
    fn what_is_not_http_is_handed_over_and_refused_by_whoever_has_it_then() {
        let app = App::saying("here", Duration::ZERO);
        let old = door_to(&app);
        let mut client = open(old.local_addr());
        send(&mut client, "EHLO");
        until("it is accepted", || *old.door.connections.lock().unwrap() == 1);
        let kept = old.hand_over(Duration::from_secs(20));
        let new = door_to(&app);
        new.attend_to(kept);
        send(&mut client, " shop.test\r\n\u{16}\u{3}\u{1}\r\n\r\n");
        assert!(receive(&mut client).map_or(true, |answer| answer.status == 400));
        assert_eq!(get(new.local_addr(), "/").unwrap().status, 200);
        assert_eq!(app.count(), 1);
    }

    #[test]
    fn the_rest_of_a_body_is_not_handed_over_as_a_request() {
        let app = App::saying("here", Duration::ZERO);
        let old = door(Options::default());
        old.gate().shut(Page::no_release("shop"));
        let mut client = open(old.local_addr());
        send(&mut client, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000000\r\n\r\n");
        assert_eq!(receive(&mut client).unwrap().status, 503);
        let kept = old.hand_over(Duration::from_secs(20));
        assert!(kept.is_empty(), "{kept:?}");
        assert_eq!(app.count(), 0);
    }

    #[test]
    fn who_waits_at_an_inherited_listener_is_not_turned_away() {
        let app = App::saying("here", Duration::ZERO);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(move || get(addr, "/").unwrap().status);
            let options = Options { hold_first: Some(Duration::from_secs(20)), ..Options::default() };
            let door = FrontDoor::start(listener, options).unwrap();
            until("it waits", || door.gate().parked() == 1);
            door.set_target(Some(app.target("r")));
            door.gate().open();
            assert_eq!(waiting.join().unwrap(), 200);
        });
    }

    #[test]
    fn shutdown_does_not_wait_beyond_its_grace() {
        let app = App::saying("slow", Duration::from_secs(3));
        let door = door_to(&app);
        let addr = door.local_addr();
        thread::scope(|scope| {
            scope.spawn(move || assert!(get(addr, "/").is_err()));
            until("it is at the app", || app.count() == 1);
            let began = Instant::now();
            assert!(!door.shutdown(Duration::from_millis(200)));
            assert!(began.elapsed() < Duration::from_secs(2));
        });
    }

    #[test]
    fn answer_after_matches_whole_segments() {
        let options = Options {
            answer_after: vec![
                ("/hook".into(), Duration::from_secs(4)),
                ("/api/".into(), Duration::from_secs(2)),
            ],
            ..Options::default()
        };
        for (path, after) in [
            ("/hook", Some(4)),
            ("/hook/x", Some(4)),
            ("/hooks", None),
            ("/api/x", Some(2)),
            ("/api", None),
            ("/", None),
        ] {
            assert_eq!(options.answer_after_for(path).map(|after| after.as_secs()), after, "{path}");
        }
    }

    #[test]
    fn many_doors_can_come_and_go() {
        for _ in 0..20 {
            let door = door(Options::default());
            assert_eq!(get(door.local_addr(), "/").unwrap().status, 503);
        }
    }
}
