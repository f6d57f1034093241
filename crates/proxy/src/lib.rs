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
mod target;
mod traffic;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

pub use crate::gate::{Gate, GateState};
pub use crate::page::Page;
pub use crate::target::{Backend, Drained, Target};
pub use crate::traffic::{Counts, Latency, Second};

use crate::client::Client;
use crate::traffic::Traffic;

/// Larger heads are answered 431.
const MAX_HEAD: usize = 32 * 1024;
/// Also the size of the pieces in which bodies flow.
const MAX_BUFFER: usize = 64 * 1024;
/// Connections not yet accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Threads. Each has connections of its own, to clients and to the app, so that a request never wakes another thread.
const MAX_WORKERS: usize = 16;
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
    stop: watch::Sender<bool>,
    end: watch::Sender<bool>,
}

/// What all connections share.
pub(crate) struct Shared {
    options: Options,
    gate: Gate,
    traffic: Arc<Traffic>,
    /// The `Host` for clients that send none.
    host: HeaderValue,
    connections: Mutex<usize>,
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
            empty: Condvar::new(),
        });
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let front = FrontDoor { door: Arc::clone(&door), addr, workers: Mutex::default(), stop, end };
        for (number, runtime) in runtimes.into_iter().enumerate() {
            let listener = {
                let _inside = runtime.enter();
                tokio::net::TcpListener::from_std(listener.try_clone()?)?
            };
            runtime.spawn(listen(Arc::clone(&door), listener, stopped.clone()));
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
        let until = Instant::now() + grace;
        self.stop.send_replace(true);
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

/// One connection in the count.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(door: &Arc<Shared>) -> Counted {
        *door.connections.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Counted(Arc::clone(door))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut connections = self.0.connections.lock().unwrap_or_else(PoisonError::into_inner);
        *connections -= 1;
        if *connections == 0 {
            self.0.empty.notify_all();
        }
    }
}

async fn listen(door: Arc<Shared>, listener: tokio::net::TcpListener, mut stopped: watch::Receiver<bool>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(door.options.header_timeout)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_BUFFER)
        // The app's answers pass as they are; nothing is added.
        .auto_date_header(false);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // An error here means that the client has left already.
                if let Ok(client) = Client::new(stream, peer, door.options.stall_timeout) {
                    tokio::spawn(attend(Arc::clone(&door), http.clone(), client, stopped.clone()));
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// Serves one connection until it ends, or until the door stops and its request has been answered.
async fn attend(door: Arc<Shared>, http: http1::Builder, client: Client, mut stopped: watch::Receiver<bool>) {
    let _counted = Counted::new(&door);
    let client = Arc::new(client);
    let io = TokioIo::new(client.io());
    let first = Arc::new(Notify::new());
    let asked = Arc::clone(&first);
    let service = service_fn(move |request| {
        asked.notify_one();
        forward::serve(Arc::clone(&door), Arc::clone(&client), request)
    });
    let mut connection = std::pin::pin!(http.serve_connection(io, service).with_upgrades());
    // A connection's errors are its client's; what they mean for a request is counted with it.
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stop| *stop) => {}
        _ = connection.as_mut() => return,
    }
    // hyper closes a connection that has not asked yet, and with it a request that is on its way.
    tokio::select! {
        biased;
        () = first.notified() => {}
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
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
            until("it stops", || *door.stop.borrow());
            send(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(receive(&mut client).unwrap().status, 200);
            assert!(stopping.join().unwrap());
        });
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
