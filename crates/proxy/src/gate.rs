//! The gate: open, held until one deadline, or shut. It decides for each request under one lock, together
//! with the claim on the backend behind it. It never opens by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::page::Page;
use crate::target::{Backend, Claim, Target};
use crate::traffic::Traffic;

/// So many released requests are at the app at once, each answer making room for the next. All at once would overrun its
/// listen backlog, and an app that does one thing at a time (SQLite has one writer) would do them in any order: those
/// that have waited longest would wait longest yet.
const RELEASE_WINDOW: usize = 16;
/// When no answer has come for so long, the app is slow and not full, so more are let go.
const RELEASE_EVERY: Duration = Duration::from_millis(10);
/// So many more.
const RELEASE_MORE: usize = 32;

/// What the gate does with a new request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateState {
    /// 503 with this page, at once.
    Shut(Page),
    /// It waits; past the deadline it is answered 503.
    Held {
        /// The end of the hold. The gate stays closed beyond it.
        deadline: Instant,
    },
    /// It goes to the target.
    Open,
}

/// The gate of a [`FrontDoor`](crate::FrontDoor). Cheap to clone; any thread may use it.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    app: String,
    max_parked: usize,
    max_parked_bytes: usize,
    traffic: Arc<Traffic>,
    runtime: Handle,
    state: Mutex<State>,
    /// The hold's deadline has changed.
    deadline: Notify,
}

struct State {
    gate: GateState,
    target: Option<Backend>,
    /// In order of arrival.
    parked: BTreeMap<u64, Parked>,
    parked_bytes: usize,
    arrivals: u64,
    releasing: bool,
    /// Released requests whose answers have begun.
    answered: u64,
}

struct Parked {
    verdict: oneshot::Sender<Verdict>,
    bytes: usize,
}

/// What becomes of a request.
pub(crate) enum Verdict {
    Go(Claim),
    Refused(Page),
}

pub(crate) enum Admission {
    Decided(Verdict),
    Wait(Waiting),
}

/// A request's place in the queue; dropped, it gives the place up.
pub(crate) struct Waiting {
    gate: Gate,
    arrival: u64,
    since: Instant,
    decided: bool,
    verdict: oneshot::Receiver<Verdict>,
}

impl Gate {
    pub(crate) fn new(
        app: &str,
        max_parked: usize,
        max_parked_bytes: usize,
        traffic: Arc<Traffic>,
        runtime: Handle,
    ) -> Gate {
        let gate = Gate(Arc::new(Inner {
            app: app.to_owned(),
            max_parked,
            max_parked_bytes,
            traffic,
            runtime,
            state: Mutex::new(State {
                gate: GateState::Shut(Page::no_release(app)),
                target: None,
                parked: BTreeMap::new(),
                parked_bytes: 0,
                arrivals: 0,
                releasing: false,
                answered: 0,
            }),
            deadline: Notify::new(),
        }));
        gate.0.runtime.spawn(keep_deadline(gate.clone()));
        gate
    }

    /// From now on every request is answered 503 with `page`; those that wait too.
    pub fn shut(&self, page: Page) {
        let mut state = self.state();
        state.gate = GateState::Shut(page.clone());
        let parked = state.take_parked();
        drop(state);
        refuse(parked, &page);
    }

    /// From now on requests wait at the door. At `deadline` they are answered 503, and new ones too, until
    /// [`open`](Gate::open) or [`shut`](Gate::shut). A second call moves the deadline. Pooled connections to the target are dropped.
    pub fn hold(&self, deadline: Instant) {
        let mut state = self.state();
        if !matches!(state.gate, GateState::Held { .. }) {
            self.0.traffic.hold_began();
        }
        state.gate = GateState::Held { deadline };
        let target = state.target.clone();
        drop(state);
        self.0.deadline.notify_one();
        if let Some(target) = target {
            target.forget_connections();
        }
    }

    /// Requests go to the current target; those that wait first, in the order in which they came.
    pub fn open(&self) {
        let mut state = self.state();
        state.gate = GateState::Open;
        let start = !state.releasing && !state.parked.is_empty();
        state.releasing |= start;
        drop(state);
        self.release(RELEASE_WINDOW);
        if start {
            self.0.runtime.spawn(release_rest(self.clone()));
        }
    }

    /// What happens to a request that comes now.
    pub fn current(&self) -> GateState {
        self.state().gate.clone()
    }

    /// Requests that wait.
    pub fn parked(&self) -> usize {
        self.state().parked.len()
    }

    pub(crate) fn set_target(&self, target: Option<Target>) -> Option<Backend> {
        let new = target.map(|target| Backend::new(target, Arc::clone(&self.0.traffic)));
        let old = std::mem::replace(&mut self.state().target, new);
        if let Some(old) = &old {
            old.forget_connections();
        }
        old
    }

    pub(crate) fn target(&self) -> Option<Backend> {
        self.state().target.clone()
    }

    /// Decides about a request whose head takes `bytes`.
    pub(crate) fn admit(&self, bytes: usize) -> Admission {
        let mut state = self.state();
        let overtakes = !state.parked.is_empty();
        match &state.gate {
            GateState::Shut(page) => Admission::Decided(Verdict::Refused(page.clone())),
            GateState::Held { deadline } if *deadline <= Instant::now() => {
                Admission::Decided(Verdict::Refused(Page::held_too_long(&self.0.app)))
            }
            GateState::Open if !overtakes => Admission::Decided(self.claim(&state, false)),
            GateState::Held { .. } | GateState::Open => {
                if self.0.max_parked == 0 || bytes > self.0.max_parked_bytes {
                    return Admission::Decided(Verdict::Refused(Page::crowded(&self.0.app)));
                }
                // The oldest makes room: it has waited longest, so its client is the next to give up.
                let mut shed = BTreeMap::new();
                while state.parked.len() >= self.0.max_parked
                    || state.parked_bytes + bytes > self.0.max_parked_bytes
                {
                    let Some((arrival, oldest)) = state.parked.pop_first() else { break };
                    state.parked_bytes -= oldest.bytes;
                    shed.insert(arrival, oldest);
                }
                let (sender, verdict) = oneshot::channel();
                let arrival = state.arrivals;
                state.arrivals += 1;
                state.parked_bytes += bytes;
                state.parked.insert(arrival, Parked { verdict: sender, bytes });
                self.0.traffic.parked();
                drop(state);
                refuse(shed, &Page::crowded(&self.0.app));
                let waiting =
                    Waiting { gate: self.clone(), arrival, since: Instant::now(), decided: false, verdict };
                Admission::Wait(waiting)
            }
        }
    }

    /// A request that had waited is answered: the next one may go.
    pub(crate) fn answered(&self) {
        self.state().answered += 1;
        self.release(1);
    }

    /// Lets up to `count` waiting requests go, if the gate is open.
    fn release(&self, count: usize) {
        let mut going = Vec::new();
        let mut state = self.state();
        if state.gate == GateState::Open {
            for _ in 0..count {
                let Some((_, parked)) = state.parked.pop_first() else { break };
                state.parked_bytes -= parked.bytes;
                let verdict = self.claim(&state, true);
                going.push((parked, verdict));
            }
        }
        drop(state);
        for (parked, verdict) in going {
            // Its client has just left: the claim goes back with the returned verdict.
            let _ = parked.verdict.send(verdict);
        }
    }

    fn claim(&self, state: &State, waited: bool) -> Verdict {
        match &state.target {
            None => Verdict::Refused(Page::no_release(&self.0.app)),
            Some(target) => match target.claim(waited) {
                Some(claim) => Verdict::Go(claim),
                None => Verdict::Refused(Page::app_down(&self.0.app)),
            },
        }
    }

    /// Refuses all that wait, if the hold's deadline has passed; returns when to look again.
    fn expire(&self) -> Option<Instant> {
        let mut state = self.state();
        let GateState::Held { deadline } = state.gate else { return None };
        if Instant::now() < deadline {
            return Some(deadline);
        }
        let parked = state.take_parked();
        drop(state);
        refuse(parked, &Page::held_too_long(&self.0.app));
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_parked(&mut self) -> BTreeMap<u64, Parked> {
        self.parked_bytes = 0;
        std::mem::take(&mut self.parked)
    }
}

impl Waiting {
    /// The decision; 503 after `limit` when the caller has less time than the hold.
    pub(crate) async fn verdict(&mut self, limit: Option<Duration>) -> Verdict {
        let refused = || Verdict::Refused(Page::held_too_long(&self.gate.0.app));
        let answer = match limit {
            None => (&mut self.verdict).await.ok(),
            Some(limit) => {
                let left = limit.saturating_sub(self.since.elapsed());
                match tokio::time::timeout(left, &mut self.verdict).await {
                    Ok(answer) => answer.ok(),
                    // Decided in the same moment: then that holds.
                    Err(_) => self.verdict.try_recv().ok(),
                }
            }
        };
        let verdict = answer.unwrap_or_else(refused);
        self.decided = true;
        verdict
    }

    /// Whether nobody has decided, and the request's client is what ended the wait.
    fn abandoned(&self) -> bool {
        !self.decided
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if let Some(parked) = state.parked.remove(&self.arrival) {
            state.parked_bytes -= parked.bytes;
        }
        drop(state);
        self.gate.0.traffic.unparked(self.since.elapsed());
        if self.abandoned() {
            self.gate.0.traffic.held_left();
        }
    }
}

fn refuse(parked: BTreeMap<u64, Parked>, page: &Page) {
    for parked in parked.into_values() {
        let _ = parked.verdict.send(Verdict::Refused(page.clone()));
    }
}

/// Ends the wait of all when the hold's deadline comes.
async fn keep_deadline(gate: Gate) {
    loop {
        let changed = gate.0.deadline.notified();
        match gate.expire() {
            None => changed.await,
            Some(deadline) => {
                let _ = tokio::time::timeout_at(deadline.into(), changed).await;
            }
        }
    }
}

async fn release_rest(gate: Gate) {
    let mut answered = gate.state().answered;
    loop {
        tokio::time::sleep(RELEASE_EVERY).await;
        let now = gate.state().answered;
        if now == answered {
            gate.release(RELEASE_MORE);
        }
        answered = now;
        let mut state = gate.state();
        if state.parked.is_empty() || state.gate != GateState::Open {
            state.releasing = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::thread;

    use super::*;
    use crate::app::{App, ask, door, door_to, get, load, open, post, receive, reply, send, until};
    use crate::{FrontDoor, Options};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(15)
    }

    fn parked(door: &FrontDoor, count: usize) {
        until(&format!("{count} wait"), || door.gate().parked() == count);
    }

    #[test]
    fn starts_shut() {
        let app = App::saying("hello", Duration::ZERO);
        let door = door(Options { app_name: "Grocery".to_owned(), ..Options::default() });
        door.set_target(Some(app.target("1")));
        let answer = get(door.local_addr(), "/").unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), Some("30"));
        assert!(answer.text().contains("Grocery has not been deployed here yet"), "{}", answer.text());
        assert_eq!(app.count(), 0);
        door.gate().open();
        assert_eq!(get(door.local_addr(), "/").unwrap().text(), "hello");
        assert_eq!(door.traffic().refused_here, 1);
    }

    #[test]
    fn open_without_a_target_is_503() {
        let door = door(Options::default());
        door.gate().open();
        assert_eq!(get(door.local_addr(), "/").unwrap().status, 503);
    }

    #[test]
    fn a_hold_under_load_loses_nothing() {
        let app = App::saying("ok", Duration::from_millis(5));
        let door = door_to(&app);
        let hold = Duration::from_secs(1);
        let mark = door.traffic();
        let answers = thread::scope(|scope| {
            scope.spawn(|| {
                until("the load runs", || app.count() > 50);
                door.gate().hold(soon());
                assert!(door.drain_current(Duration::from_secs(5)).is_some_and(|drained| drained.ended == 0));
                let before = app.count();
                thread::sleep(hold);
                assert_eq!(app.count(), before, "a request passed the held gate");
                door.set_target(Some(app.target("2")));
                door.gate().open();
            });
            load(door.local_addr(), 200, Duration::from_secs(2), |addr, number| {
                if number % 2 == 0 { get(addr, "/") } else { post(addr, "/buy", "item=1") }
            })
        });
        assert_eq!(answers.len(), 400);
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        let slowest = answers.iter().map(|(_, took)| *took).max().unwrap();
        assert!(slowest < hold + Duration::from_millis(600), "the slowest took {slowest:?}");
        assert_eq!(app.count(), 400, "each ran once");
        let counts = door.traffic().since(&mark);
        assert_eq!((counts.requests, counts.answered(), counts.success), (400, 400, 400));
        assert!(counts.held >= 150, "{} were held", counts.held);
        assert!(counts.longest_held >= Duration::from_millis(900), "{:?}", counts.longest_held);
        assert_eq!(counts.latency.count(), 400);
    }

    #[test]
    fn held_requests_go_in_the_order_of_arrival_and_nobody_overtakes() {
        // Never driven: no timer of the gate's own runs in this test.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let gate = Gate::new("shop", 1_000, 1_000_000, Arc::new(Traffic::new()), runtime.handle().clone());
        let target = Target { addr: "127.0.0.1:1".parse().unwrap(), release: "1".to_owned() };
        gate.set_target(Some(target));
        gate.hold(soon());
        let wait = || match gate.admit(100) {
            Admission::Wait(waiting) => waiting,
            Admission::Decided(_) => panic!("it was let through"),
        };
        let mut waiting: Vec<Waiting> = (0..RELEASE_WINDOW + 3).map(|_| wait()).collect();
        gate.open();
        waiting.push(wait());
        // The second leaves just before its turn would come: the place goes to the next.
        waiting.remove(RELEASE_WINDOW + 1);
        let decided = |waiting: &mut Waiting| matches!(waiting.verdict.try_recv(), Ok(Verdict::Go(_)));
        for (at, waiting) in waiting[..RELEASE_WINDOW].iter_mut().enumerate() {
            assert!(decided(waiting), "{at} still waits");
        }
        for waiting in &mut waiting[RELEASE_WINDOW..] {
            assert!(!decided(waiting), "{} is out of turn", waiting.arrival);
            gate.answered();
            assert!(decided(waiting), "it was the turn of {}", waiting.arrival);
        }
        assert!(matches!(gate.admit(100), Admission::Decided(Verdict::Go(_))), "nobody waits any more");
    }

    /// How many requests are at the app at most, and how long 300 that waited take from the opening on, when each
    /// takes `each` and the app does them one at a time, or all at once.
    fn wave(one_at_a_time: bool, each: Duration) -> (usize, Duration) {
        let (inside, most, turn) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Mutex::new(()));
        let (now, highest) = (Arc::clone(&inside), Arc::clone(&most));
        let app = App::start(move |_, stream| {
            highest.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            let turn = one_at_a_time.then(|| turn.lock().unwrap());
            thread::sleep(each);
            drop(turn);
            now.fetch_sub(1, SeqCst);
            reply(stream, "ok")
        });
        let door = door_to(&app);
        door.gate().hold(soon());
        let mut streams: Vec<_> = (0..300).map(|_| open(door.local_addr())).collect();
        for stream in &mut streams {
            send(stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx");
        }
        parked(&door, 300);
        let opened = Instant::now();
        door.gate().open();
        for stream in &mut streams {
            assert_eq!(receive(stream).unwrap().status, 200);
        }
        (most.load(SeqCst), opened.elapsed())
    }

    #[test]
    fn those_who_waited_longest_were_done_last_by_an_app_that_does_one_thing_at_a_time() {
        let (at_once, _) = wave(true, Duration::from_millis(2));
        // A pause of the machine lets a few more in; all of them came in before.
        assert!(at_once < 200, "{at_once} of 300 were at the app at once, and it does them in any order");
    }

    #[test]
    fn slow_answers_do_not_keep_the_others_waiting() {
        let (_, took) = wave(false, Duration::from_millis(400));
        assert!(took < Duration::from_millis(4_000), "one window after the other would take 7.5 s: {took:?}");
    }

    #[test]
    fn a_held_body_arrives_whole() {
        let app = App::saying("ok", Duration::ZERO);
        let door = door_to(&app);
        door.gate().hold(soon());
        let body: Vec<u8> = (0..5 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = open(door.local_addr());
                send(
                    &mut stream,
                    &format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len()),
                );
                stream.get_mut().write_all(&body).unwrap();
                assert_eq!(receive(&mut stream).unwrap().status, 200);
            });
            scope.spawn(|| assert_eq!(post(door.local_addr(), "/small", "a=1").unwrap().status, 200));
            parked(&door, 2);
            assert_eq!(app.count(), 0);
            door.gate().open();
        });
        let asked = app.asked.lock().unwrap();
        let find = |path: &str| asked.iter().find(|asked| asked.path() == path).unwrap();
        assert!(find("/").body == body, "5 MB were changed on the way");
        assert_eq!(find("/small").body, b"a=1");
    }

    /// Each way in which a client can leave, and each kind of request that hyper would not notice it for.
    #[test]
    fn a_client_that_leaves_while_held_never_runs() {
        let requests = [
            ("get", "GET /left HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("body", "POST /left HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\na=1"),
            ("part of a body", "POST /left HTTP/1.1\r\nhost: a\r\ncontent-length: 300\r\n\r\na=1"),
            (
                "chunked",
                "POST /left HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\na=1\r\n0\r\n\r\n",
            ),
            (
                "expecting",
                "POST /left HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
            ),
            (
                "pipelined",
                "GET /left HTTP/1.1\r\nhost: a\r\n\r\nPOST /left HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx",
            ),
            ("http 1.0", "GET /left HTTP/1.0\r\n\r\n"),
        ];
        let app = App::saying("ok", Duration::ZERO);
        let door = door_to(&app);
        let mut left = 0;
        for (kind, request) in requests {
            for way in ["close", "half-close", "reset"] {
                door.gate().hold(soon());
                let mut stream = open(door.local_addr());
                send(&mut stream, request);
                parked(&door, 1);
                match way {
                    "close" => drop(stream),
                    "half-close" => {
                        stream.get_ref().shutdown(Shutdown::Write).unwrap();
                        until(&format!("{kind}, {way} is noticed"), || door.gate().parked() == 0);
                    }
                    _ => {
                        rustix::net::sockopt::set_socket_linger(stream.get_ref(), Some(Duration::ZERO))
                            .unwrap();
                        drop(stream);
                    }
                }
                until(&format!("{kind}, {way} is noticed"), || door.gate().parked() == 0);
                left += 1;
                door.gate().open();
                assert_eq!(get(door.local_addr(), "/stayed").unwrap().status, 200);
            }
        }
        let ran: Vec<String> =
            app.asked.lock().unwrap().iter().map(|asked| asked.path().to_owned()).collect();
        assert!(!ran.contains(&"/left".to_owned()), "{ran:?}");
        let counts = door.traffic();
        assert_eq!((counts.held, counts.held_left, counts.left), (left, left, left));
        assert_eq!(counts.requests, counts.answered() + counts.left);
    }

    #[test]
    fn a_client_that_leaves_as_the_gate_opens_is_not_run_either() {
        let app = App::saying("ok", Duration::ZERO);
        let door = door_to(&app);
        door.gate().hold(soon());
        let streams: Vec<_> = (0..40)
            .map(|_| {
                let mut stream = open(door.local_addr());
                send(&mut stream, "POST /left HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx");
                stream
            })
            .collect();
        parked(&door, 40);
        drop(streams);
        until("all are gone", || door.gate().parked() == 0);
        door.gate().open();
        assert_eq!(get(door.local_addr(), "/stayed").unwrap().status, 200);
        assert_eq!(app.count(), 1);
    }

    #[test]
    fn the_deadline_answers_503_and_the_gate_stays_closed() {
        let app = App::saying("ok", Duration::ZERO);
        let door = door_to(&app);
        let began = Instant::now();
        door.gate().hold(began + Duration::from_millis(300));
        let answer = post(door.local_addr(), "/", "a=1").unwrap();
        assert!(began.elapsed() >= Duration::from_millis(300));
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
        let began = Instant::now();
        assert_eq!(get(door.local_addr(), "/").unwrap().status, 503);
        assert!(began.elapsed() < Duration::from_millis(250), "a new request waited past the deadline");
        assert_eq!(app.count(), 0);
        door.gate().open();
        assert_eq!(get(door.local_addr(), "/").unwrap().status, 200);
    }

    #[test]
    fn the_deadline_can_be_moved_both_ways() {
        let door = door(Options::default());
        for (first, second) in [(200, 600), (9_000, 300)] {
            let began = Instant::now();
            door.gate().hold(began + Duration::from_millis(first));
            thread::scope(|scope| {
                let asking = scope.spawn(|| get(door.local_addr(), "/").unwrap());
                parked(&door, 1);
                door.gate().hold(began + Duration::from_millis(second));
                assert_eq!(asking.join().unwrap().status, 503);
            });
            assert!(began.elapsed() >= Duration::from_millis(second));
            assert!(began.elapsed() < Duration::from_millis(second + 2_000));
        }
    }

    #[test]
    fn a_refused_upload_still_gets_its_answer() {
        let door = door(Options::default());
        door.gate().shut(Page::maintenance("Grocery", Duration::from_secs(60)));
        let mut stream = open(door.local_addr());
        send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000000\r\n\r\n");
        // Closing on unread data would reset the connection, and the answer with it.
        stream.get_mut().write_all(&vec![0; 5_000_000]).unwrap();
        assert_eq!(receive(&mut stream).unwrap().status, 503);
    }

    #[test]
    fn callers_that_give_up_are_answered_first() {
        let app = App::saying("ok", Duration::ZERO);
        let after = Duration::from_millis(200);
        let options = Options { answer_after: vec![("/webhook".to_owned(), after)], ..Options::default() };
        let door = door(options);
        door.set_target(Some(app.target("1")));
        door.gate().hold(soon());
        thread::scope(|scope| {
            let other = scope.spawn(|| post(door.local_addr(), "/webhooks", "a").unwrap().status);
            for path in ["/webhook", "/webhook?x=1", "/webhook/2"] {
                let began = Instant::now();
                let answer = post(door.local_addr(), path, "a").unwrap();
                assert_eq!(answer.status, 503, "{path}");
                assert!(answer.header("retry-after").is_some());
                assert!(began.elapsed() >= after, "{path}");
            }
            parked(&door, 1);
            door.gate().open();
            assert_eq!(other.join().unwrap(), 200);
        });
        assert_eq!(app.count(), 1, "only the patient one ran");
    }

    #[test]
    fn when_the_door_is_full_the_oldest_makes_room() {
        let app = App::saying("ok", Duration::ZERO);
        let door = door(Options { max_parked_requests: 3, max_parked_bytes: 1_000, ..Options::default() });
        door.set_target(Some(app.target("1")));
        door.gate().hold(soon());
        thread::scope(|scope| {
            let big = format!("GET / HTTP/1.1\r\nhost: a\r\ncookie: {}\r\n\r\n", "c".repeat(2_000));
            assert_eq!(ask(door.local_addr(), &big).unwrap().status, 503);
            let oldest = scope.spawn(|| get(door.local_addr(), "/oldest").unwrap());
            parked(&door, 1);
            for _ in 0..2 {
                scope.spawn(|| assert_eq!(get(door.local_addr(), "/").unwrap().status, 200));
            }
            parked(&door, 3);
            scope.spawn(|| assert_eq!(get(door.local_addr(), "/newest").unwrap().status, 200));
            let shed = oldest.join().unwrap();
            assert_eq!((shed.status, shed.header("retry-after")), (503, Some("5")));
            parked(&door, 3);
            door.gate().open();
        });
        let asked = app.asked.lock().unwrap();
        assert_eq!(asked.len(), 3);
        assert!(asked.iter().all(|asked| asked.path() != "/oldest"), "a request that was refused has run");
    }

    #[test]
    fn the_oldest_make_room_when_the_bytes_do_not_suffice() {
        let app = App::saying("ok", Duration::ZERO);
        let door = door(Options { max_parked_bytes: 3_000, ..Options::default() });
        door.set_target(Some(app.target("1")));
        door.gate().hold(soon());
        let addr = door.local_addr();
        thread::scope(|scope| {
            let small: Vec<_> = (0..2)
                .map(|number| {
                    let asking = scope.spawn(move || get(addr, "/small").unwrap().status);
                    parked(&door, number + 1);
                    asking
                })
                .collect();
            let big = format!("GET / HTTP/1.1\r\nhost: a\r\ncookie: {}\r\n\r\n", "c".repeat(2_975));
            scope.spawn(move || assert_eq!(ask(addr, &big).unwrap().status, 200));
            for asking in small {
                assert_eq!(asking.join().unwrap(), 503);
            }
            parked(&door, 1);
            door.gate().open();
        });
    }

    #[test]
    fn shut_answers_those_that_wait() {
        let door = door(Options::default());
        door.gate().hold(soon());
        thread::scope(|scope| {
            let asking = scope.spawn(|| get(door.local_addr(), "/").unwrap());
            parked(&door, 1);
            door.gate().shut(Page::state_unreadable("Grocery"));
            let answer = asking.join().unwrap();
            assert_eq!(answer.status, 503);
            assert!(answer.text().contains("stopped until its operator"));
        });
    }

    /// Runs [`two_thousand_wait`] in a process of its own, so that its memory is its own.
    #[test]
    fn two_thousand_waiting_requests_take_little_memory() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gate::tests::two_thousand_wait", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        assert!(String::from_utf8_lossy(&status.stdout).contains("1 passed"));
    }

    #[test]
    #[ignore = "run by two_thousand_waiting_requests_take_little_memory"]
    fn two_thousand_wait() {
        fn resident() -> usize {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
        }
        let app = App::start(|_, stream| reply(stream, "ok"));
        let door = door_to(&app);
        door.gate().hold(Instant::now() + Duration::from_secs(60));
        let before = resident();
        let mut streams: Vec<_> = (0..2_000)
            .map(|_| {
                let mut stream = std::net::TcpStream::connect(door.local_addr()).unwrap();
                stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\na=12").unwrap();
                stream
            })
            .collect();
        parked(&door, 2_000);
        let each = (resident() - before) / 2_000;
        println!("{each} bytes for each waiting request");
        assert!(each < 20_000, "{each} bytes for each waiting request");
        door.gate().open();
        for stream in streams.drain(..) {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert_eq!(receive(&mut std::io::BufReader::new(stream)).unwrap().status, 200);
        }
        assert_eq!(app.count(), 2_000);
    }
}
