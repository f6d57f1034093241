//! A backend that answers requests, its claims in flight, and its connections.
//!
//! Every request that is sent to a backend holds a [`Claim`]. A claim is given out under the gate's lock and
//! refused once the drain has begun, so a request can never land on a backend that is being drained.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use crate::body::RequestBody;
use crate::stream::AppStream;
use crate::traffic::Traffic;

/// Idle connections kept for each backend. Too few, and each wave of requests opens new ones.
const MAX_IDLE: usize = 512;
/// New connections that wait for their first answer. The app accepts them one by one, and when its listen backlog
/// is full (128 in many servers) the kernel drops the next and repeats it after a second.
const MAX_OPENING: usize = 32;
/// After this a new connection counts as accepted, though its answer takes longer.
const OPENING: Duration = Duration::from_millis(20);
/// An idle connection older than this is not used again.
const MAX_IDLE_TIME: Duration = Duration::from_secs(15);
/// A listener whose backlog is full drops the first packet, and the kernel repeats it after 1 s, then 2 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After ending requests, how long their futures may take to let go.
const END_GRACE: Duration = Duration::from_millis(500);

/// Where one release of the app listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The app's address, usually on the loopback.
    pub addr: SocketAddr,
    /// The release that answers there, e.g. `000012-3fa9c1b`.
    pub release: String,
}

/// What a drain came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How long it took.
    pub waited: Duration,
    /// Requests that were still running at the timeout and were ended: 504, or a cut connection when the head was out.
    pub ended: usize,
    /// WebSocket tunnels and event streams closed at the beginning: they never end by themselves, and their clients reconnect.
    pub streams: usize,
}

/// A target that was put behind the door. Clones are handles to the same one.
#[derive(Clone)]
pub struct Backend(Arc<Inner>);

struct Inner {
    target: Target,
    state: Mutex<State>,
    /// Notified when the last claim is let go.
    idle: Condvar,
    /// Wakes requests that wait for the app to listen, when a drain begins.
    draining: Notify,
    /// Places for new connections; closed by a drain.
    places: Arc<Semaphore>,
    /// Those that wait for their first answer, with when they were made and their places, the oldest first.
    opened: Mutex<VecDeque<(u64, Instant, OwnedSemaphorePermit)>>,
    traffic: Arc<Traffic>,
}

#[derive(Default)]
struct State {
    in_flight: usize,
    draining: bool,
    ended: bool,
    /// Raised when pooled connections are dropped: one that is out at that moment does not come back.
    generation: u64,
    /// For each worker its own, the longest idle first.
    pools: Vec<VecDeque<Connection>>,
    next_id: u64,
    /// The tasks that drive connections and tunnels.
    tasks: HashMap<u64, Option<AbortHandle>>,
    /// Those of them that carry a tunnel or an event stream.
    streams: HashSet<u64>,
}

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Says which of the door's threads this is: it keeps its connections to the app for itself.
pub(crate) fn set_worker(number: usize) {
    WORKER.set(number);
}

/// A connection to the app, while it serves one request or is idle.
pub(crate) struct Connection {
    sender: SendRequest<RequestBody>,
    /// Until its first answer.
    opening: Option<Opening>,
    tunnel: Arc<AtomicBool>,
    id: u64,
    generation: u64,
    used: Instant,
}

/// The right of one request to be at one backend.
pub(crate) struct Claim {
    backend: Backend,
    /// The request had waited at the door: when its answer comes, the next one may go.
    pub(crate) waited: bool,
}

/// A place among the new connections. Dropped, it is given to the next.
struct Opening {
    backend: Backend,
    id: u64,
}

/// Takes a connection's task off the list, however it ends.
struct TaskEntry {
    backend: Backend,
    id: u64,
}

impl Backend {
    pub(crate) fn new(target: Target, traffic: Arc<Traffic>) -> Backend {
        Backend(Arc::new(Inner {
            target,
            state: Mutex::default(),
            idle: Condvar::new(),
            draining: Notify::new(),
            places: Arc::new(Semaphore::new(MAX_OPENING)),
            opened: Mutex::default(),
            traffic,
        }))
    }

    /// The address and release.
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    /// Requests at this backend now.
    pub fn in_flight(&self) -> usize {
        self.state().in_flight
    }

    /// Waits until no request is at this backend, for at most `timeout`; the rest are then ended. From the
    /// call on no request is sent here. Tunnels and event streams are closed at once.
    pub fn drain(&self, timeout: Duration) -> Drained {
        let began = Instant::now();
        let mut state = self.state();
        state.draining = true;
        let pools = std::mem::take(&mut state.pools);
        let streams: Vec<AbortHandle> =
            state.streams.iter().filter_map(|id| state.tasks.get(id).cloned().flatten()).collect();
        drop(state);
        drop(pools);
        self.0.places.close();
        self.0.draining.notify_waiters();
        for stream in &streams {
            stream.abort();
        }
        let mut state = self.wait_idle(began + timeout);
        let ended = state.in_flight;
        if ended > 0 {
            state.ended = true;
            let tasks: Vec<AbortHandle> = state.tasks.values().flatten().cloned().collect();
            drop(state);
            for task in tasks {
                task.abort();
            }
            drop(self.wait_idle(Instant::now() + END_GRACE));
        }
        Drained { waited: began.elapsed(), ended, streams: streams.len() }
    }

    fn wait_idle(&self, until: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while state.in_flight > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.0.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// A claim, unless a drain has begun.
    pub(crate) fn claim(&self, waited: bool) -> Option<Claim> {
        let mut state = self.state();
        if state.draining {
            return None;
        }
        state.in_flight += 1;
        drop(state);
        self.0.traffic.claimed();
        Some(Claim { backend: self.clone(), waited })
    }

    /// Drops idle connections, and those in use when they come back.
    pub(crate) fn forget_connections(&self) {
        let mut state = self.state();
        state.generation += 1;
        let pools = std::mem::take(&mut state.pools);
        drop(state);
        drop(pools);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task that drives a connection or a tunnel, where a drain can end it; too late, and it ends now.
    fn spawn(&self, id: u64, stream: bool, task: impl Future<Output = ()> + Send + 'static) {
        let entry = TaskEntry { backend: self.clone(), id };
        let mut state = self.state();
        // The place comes first: a task that is over at once takes it away again. (Not spawned under the lock: a
        // runtime that is shutting down drops the task at once, and its claim needs the lock.)
        state.tasks.insert(id, None);
        if stream {
            state.streams.insert(id);
        }
        drop(state);
        let task = tokio::spawn(async move {
            let _entry = entry;
            task.await;
        })
        .abort_handle();
        let mut state = self.state();
        let too_late = state.ended || (stream && state.draining);
        if let Some(place) = state.tasks.get_mut(&id) {
            *place = Some(task.clone());
        }
        drop(state);
        if too_late {
            task.abort();
        }
    }

    fn next_id(&self) -> u64 {
        let mut state = self.state();
        state.next_id += 1;
        state.next_id
    }

    /// Waits for a place among the new connections, in order of arrival. Only who has to wait needs a timer.
    async fn opening(&self) -> io::Result<Opening> {
        let place = match Arc::clone(&self.0.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let mut place = std::pin::pin!(Arc::clone(&self.0.places).acquire_owned());
                loop {
                    tokio::select! {
                        biased;
                        place = &mut place => {
                            break place.map_err(|_| io::Error::other("the target is being drained"))?;
                        }
                        () = tokio::time::sleep_until(self.oldest_is_accepted().into()) => {}
                    }
                }
            }
        };
        let id = self.next_id();
        self.opened().push_back((id, Instant::now(), place));
        Ok(Opening { backend: self.clone(), id })
    }

    /// Gives the places of connections that wait for their answers for long to others: the app has accepted those. Returns
    /// when the next will be so.
    fn oldest_is_accepted(&self) -> Instant {
        let (mut opened, now) = (self.opened(), Instant::now());
        while opened.front().is_some_and(|(_, since, _)| *since + OPENING <= now) {
            opened.pop_front();
        }
        opened.front().map_or(now, |(_, since, _)| *since) + OPENING
    }

    fn opened(&self) -> MutexGuard<'_, VecDeque<(u64, Instant, OwnedSemaphorePermit)>> {
        self.0.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn own_pool(&mut self) -> &mut VecDeque<Connection> {
        let worker = WORKER.get();
        if self.pools.len() <= worker {
            self.pools.resize_with(worker + 1, VecDeque::new);
        }
        &mut self.pools[worker]
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.0.target).finish()
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Backend) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Connection {
    /// Sends a request and waits for the head of its answer. An error may give the request back: then nothing was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let answer = self.sender.try_send_request(request).await;
        self.opening = None;
        answer
    }

    /// To be said before it does.
    pub(crate) fn becomes_a_tunnel(&self) {
        self.tunnel.store(true, Relaxed);
    }
}

impl Claim {
    pub(crate) fn draining(&self) -> bool {
        self.backend.state().draining
    }

    /// The drain's timeout has passed: the request is being ended.
    pub(crate) fn ended(&self) -> bool {
        self.backend.state().ended
    }

    /// An idle connection that has not been closed by the app, the latest used first.
    pub(crate) fn idle_connection(&self) -> Option<Connection> {
        let mut stale = Vec::new();
        let mut state = self.backend.state();
        let mut found = None;
        let pool = state.own_pool();
        let mut at = pool.len();
        while at > 0 && found.is_none() {
            at -= 1;
            let connection = &pool[at];
            if connection.sender.is_closed() || connection.used.elapsed() > MAX_IDLE_TIME {
                stale.extend(pool.remove(at));
            } else if connection.sender.is_ready() {
                found = pool.remove(at);
            }
        }
        drop(state);
        found
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let opening = self.backend.opening().await?;
        let stream = AppStream::connect(self.backend.0.target.addr, CONNECT_TIMEOUT).await?;
        let tunnel = stream.tunnel();
        let (sender, driver) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let id = opening.id;
        let generation = self.backend.state().generation;
        self.backend.spawn(id, false, async move {
            // Its errors reach the request that is on the connection.
            let _ = driver.with_upgrades().await;
        });
        Ok(Connection { sender, opening: Some(opening), tunnel, id, generation, used: Instant::now() })
    }

    /// Waits for `time`, or less when a drain begins.
    pub(crate) async fn pause(&self, time: Duration) {
        let draining = self.backend.0.draining.notified();
        if !self.draining() {
            let _ = tokio::time::timeout(time, draining).await;
        }
    }

    /// Says that the answer on this connection is an event stream: a drain closes it at once.
    pub(crate) fn mark_stream(&self, connection: &Connection) {
        let mut state = self.backend.state();
        let task = state.tasks.get(&connection.id).cloned().flatten();
        if let Some(task) = task {
            state.streams.insert(connection.id);
            let draining = state.draining;
            drop(state);
            if draining {
                task.abort();
            }
        }
    }

    /// Runs a tunnel that keeps this claim; a drain closes it at once.
    pub(crate) fn spawn_tunnel(self, tunnel: impl Future<Output = ()> + Send + 'static) {
        let backend = self.backend.clone();
        backend.spawn(backend.next_id(), true, async move {
            let _claim = self;
            tunnel.await;
        });
    }

    /// Takes a connection back once its answer has been read to the end.
    pub(crate) fn give_back(&self, mut connection: Connection) {
        let mut state = self.backend.state();
        let keep = !state.draining
            && connection.generation == state.generation
            && state.own_pool().len() < MAX_IDLE
            && !connection.sender.is_closed();
        let pool = state.own_pool();
        if keep {
            connection.used = Instant::now();
            pool.push_back(connection);
        }
        // After a wave most are not used again; each may cost the app a thread.
        while pool.front().is_some_and(|oldest| oldest.used.elapsed() > MAX_IDLE_TIME) {
            pool.pop_front();
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // First the count: who waits for the last claim reads it next.
        self.backend.0.traffic.unclaimed();
        let mut state = self.backend.state();
        state.in_flight -= 1;
        let last = state.in_flight == 0;
        drop(state);
        if last {
            self.backend.0.idle.notify_all();
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut opened = self.backend.opened();
        let at = opened.iter().position(|(id, ..)| *id == self.id);
        let place = at.and_then(|at| opened.remove(at));
        drop(opened);
        // Given to the next outside of the lock.
        drop(place);
    }
}

impl Drop for TaskEntry {
    fn drop(&mut self) {
        let mut state = self.backend.state();
        state.tasks.remove(&self.id);
        state.streams.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::app::{App, Then, door_to, get, load, open, post, receive, reply, send, until};

    #[test]
    fn a_swap_under_load_loses_nothing() {
        let old = App::saying("old", Duration::from_millis(20));
        let new = App::saying("new", Duration::from_millis(20));
        let door = door_to(&old);
        let answers = thread::scope(|scope| {
            scope.spawn(|| {
                until("the load runs", || old.count() > 50);
                let retired = door.set_target(Some(new.target("2"))).unwrap();
                assert_eq!(retired.target(), &old.target("1"));
                let drained = retired.drain(Duration::from_secs(5));
                assert_eq!(drained.ended, 0);
                let before = old.count();
                until("the new one is used", || new.count() > 20);
                assert_eq!(old.count(), before, "a request landed on the drained target");
            });
            load(door.local_addr(), 200, Duration::from_secs(1), |addr, number| {
                if number % 2 == 0 { get(addr, "/") } else { post(addr, "/", "a=1") }
            })
        });
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        assert_eq!(old.count() + new.count(), 200);
    }

    /// A full backlog costs its victims a second: seen as drains of 0.9 s and held requests as late.
    #[test]
    fn a_wave_of_requests_does_not_overrun_the_apps_backlog() {
        let app = App::saying("ok", Duration::ZERO);
        let door = door_to(&app);
        let mut streams: Vec<_> = (0..600).map(|_| open(door.local_addr())).collect();
        for stream in &mut streams {
            send(stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx");
        }
        for stream in &mut streams {
            assert_eq!(receive(stream).unwrap().status, 200);
        }
        let counts = door.traffic();
        assert_eq!(counts.success, 600);
        let slowest = counts.latency.quantile(1.0).unwrap();
        assert!(slowest < Duration::from_millis(900), "a connection was dropped and repeated: {slowest:?}");
    }

    /// Seen: the place that became free went to whoever came just then, and some waited for 0.3 s.
    #[test]
    fn new_connections_are_made_in_the_order_in_which_they_were_wanted() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let target = Target { addr: "127.0.0.1:1".parse().unwrap(), release: "1".to_owned() };
            let backend = Backend::new(target, Arc::new(Traffic::new()));
            let mut first = Vec::new();
            for _ in 0..MAX_OPENING {
                first.push(backend.opening().await.unwrap());
            }
            let mut waits = std::pin::pin!(backend.opening());
            let look = std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_ready()));
            assert!(!look.await, "there are more places than there should be");
            first.pop();
            let mut late = std::pin::pin!(backend.opening());
            let look = std::future::poll_fn(|cx| std::task::Poll::Ready(late.as_mut().poll(cx).is_ready()));
            assert!(!look.await, "the one that came later has overtaken");
            let _second = waits.await.unwrap();
            // Those that got no answer for a while count as accepted.
            let begun = Instant::now();
            let _third = late.await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(5));
        });
    }

    #[test]
    fn a_drain_waits_for_the_slow_request() {
        let app = App::saying("slow", Duration::from_millis(400));
        let door = door_to(&app);
        thread::scope(|scope| {
            let asking = scope.spawn(|| post(door.local_addr(), "/", "a=1").unwrap().status);
            until("it is at the app", || app.count() == 1);
            door.gate().hold(Instant::now() + Duration::from_secs(20));
            let drained = door.drain_current(Duration::from_secs(10)).unwrap();
            assert!(drained.waited >= Duration::from_millis(200) && drained.waited < Duration::from_secs(5));
            assert_eq!((drained.ended, door.traffic().in_flight), (0, 0));
            assert_eq!(asking.join().unwrap(), 200);
        });
    }

    #[test]
    fn at_the_timeout_a_drain_ends_the_rest() {
        let (finish, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let app = App::start(move |asked, stream| {
            if asked.path() == "/begun" {
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")?;
                let mut byte = [0];
                let _ = io::Read::read(stream, &mut byte);
            } else {
                let _ = wait.lock().unwrap().recv();
            }
            Ok(Then::Close)
        });
        let door = door_to(&app);
        thread::scope(|scope| {
            let silent = scope.spawn(|| post(door.local_addr(), "/", "a=1"));
            let begun = scope.spawn(|| get(door.local_addr(), "/begun"));
            until("both are at the app", || app.count() == 2 && door.traffic().success == 1);
            door.gate().hold(Instant::now() + Duration::from_secs(20));
            let drained = door.drain_current(Duration::from_millis(200)).unwrap();
            assert_eq!(drained.ended, 2);
            assert!(drained.waited < Duration::from_secs(3), "{drained:?}");
            assert_eq!(silent.join().unwrap().unwrap().status, 504);
            assert!(begun.join().unwrap().is_err(), "an answer that was cut looked whole");
            finish.send(()).unwrap();
        });
        assert_eq!(door.traffic().failed_here, 1);
    }

    #[test]
    fn event_streams_do_not_use_up_a_drain() {
        let app = App::start(|_, stream| {
            stream
                .get_mut()
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")?;
            let mut byte = [0];
            let _ = io::Read::read(stream, &mut byte);
            Ok(Then::Close)
        });
        let door = door_to(&app);
        let mut stream = open(door.local_addr());
        send(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        until("it flows", || door.traffic().success == 1);
        let drained = door.drain_current(Duration::from_secs(10)).unwrap();
        assert_eq!((drained.ended, drained.streams), (0, 1));
        assert!(drained.waited < Duration::from_secs(5), "{drained:?}");
        let mut rest = Vec::new();
        let _ = io::Read::read_to_end(&mut stream, &mut rest);
    }

    /// The same port, another process: a kept connection to the old one must not be used for the new one's first POST.
    #[test]
    fn no_stale_connection_answers_after_a_hold() {
        let mut app = App::saying("old", Duration::ZERO);
        let door = door_to(&app);
        let addr = app.addr;
        for round in 0..5 {
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| assert_eq!(get(door.local_addr(), "/").unwrap().status, 200));
                }
            });
            door.gate().hold(Instant::now() + Duration::from_secs(20));
            assert_eq!(door.drain_current(Duration::from_secs(5)).map(|drained| drained.ended), Some(0));
            let statuses = thread::scope(|scope| {
                let asking: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| post(door.local_addr(), "/", "a=1").unwrap().status))
                    .collect();
                until("they wait", || door.gate().parked() == 8);
                app.stop();
                app = App::start_at(addr, |_, stream| reply(stream, "new"));
                door.set_target(Some(app.target("2")));
                door.gate().open();
                asking.into_iter().map(|asking| asking.join().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(statuses, [200; 8], "round {round}");
        }
    }

    /// The app died by itself just before the hold: who waits for it joins those at the door.
    #[test]
    fn a_request_that_waits_for_a_dead_app_is_held_with_the_others() {
        let mut app = App::saying("old", Duration::ZERO);
        let door = door_to(&app);
        app.stop();
        thread::scope(|scope| {
            let asking = scope.spawn(|| post(door.local_addr(), "/", "a=1").unwrap().text());
            until("it waits for the app", || door.traffic().in_flight == 1);
            door.gate().hold(Instant::now() + Duration::from_secs(20));
            let drained = door.drain_current(Duration::from_secs(5)).unwrap();
            assert_eq!(drained.ended, 0);
            assert!(drained.waited < Duration::from_secs(1), "{drained:?}");
            until("it waits at the door", || door.gate().parked() == 1);
            let new = App::saying("new", Duration::ZERO);
            door.set_target(Some(new.target("2")));
            door.gate().open();
            assert_eq!(asking.join().unwrap(), "new");
        });
    }

    #[test]
    fn nothing_reaches_a_target_that_drains() {
        let app = App::saying("ok", Duration::ZERO);
        let door = door_to(&app);
        assert_eq!(get(door.local_addr(), "/").unwrap().status, 200);
        door.drain_current(Duration::from_secs(1)).unwrap();
        assert_eq!(get(door.local_addr(), "/").unwrap().status, 503, "the gate is open, the target is not");
        // A connection that was kept by a client is no way in either.
        assert_eq!(app.count(), 1);
        door.set_target(Some(app.target("1")));
        let mut stream = open(door.local_addr());
        for _ in 0..2 {
            send(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(receive(&mut stream).unwrap().status, 200);
        }
    }
}
