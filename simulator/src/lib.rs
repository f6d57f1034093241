//! A local stand-in for Razorpay, for development and tests: the REST API, the checkout with its test bank, signed
//! webhooks with retries, a clock that can be put forward, and faults on request. See the README for its limits.

mod api;
mod checkout;
mod clock;
mod entity;
mod failure;
mod faults;
mod ledger;
mod refusal;
mod request;
pub mod signature;
mod webhooks;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use tokio::net::TcpListener;

pub use entity::Method;
pub use faults::{ApiFault, Faults, Outcome, Paid};
pub use ledger::RefundCourse;
pub use webhooks::Delivery;

use clock::Clock;
use ledger::Ledger;
use webhooks::Queue;

/// What a merchant's account at Razorpay holds.
#[derive(Clone, Debug)]
pub struct Account {
    /// `rzp_test_…`.
    pub key_id: String,
    /// Signs what browsers bring back, and is the password of the API.
    pub key_secret: String,
    /// Where webhooks are sent, if anywhere.
    pub webhook_url: Option<String>,
    /// Signs webhooks.
    pub webhook_secret: String,
}

/// The state behind all routes.
#[derive(Debug)]
struct World {
    account: Mutex<Account>,
    clock: Clock,
    ledger: Mutex<Ledger>,
    faults: Mutex<Faults>,
    queue: Queue,
}

impl World {
    fn new(account: Account) -> Self {
        Self {
            account: Mutex::new(account),
            clock: Clock::default(),
            ledger: Mutex::default(),
            faults: Mutex::default(),
            queue: Queue::default(),
        }
    }

    fn account(&self) -> Account {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the books at the present time, and sends what came of it.
    fn with_ledger<T>(&self, work: impl FnOnce(&mut Ledger, i64) -> T) -> T {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        ledger.refund_course = self.faults().refunds;
        ledger.pass_time(now);
        let result = work(&mut ledger, now);
        let events = ledger.take_events();
        self.queue.put(events, now, &mut self.faults(), &self.account());
        result
    }
}

/// A running simulator with books of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    world: Arc<World>,
    // Dropping it ends its tasks without waiting for them.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Simulator {
    /// Starts one on `address`; port 0 lets the system choose.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(address: SocketAddr, account: Account) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let world = Arc::new(World::new(account));
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        runtime.spawn(webhooks::deliver(world.clone()));
        let app = router(world.clone());
        runtime.spawn(async move { axum::serve(listener, app).await });
        Ok(Self { address, world, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where webhooks go from now on. A shop on a port of the system's choosing is known only once it runs.
    pub fn send_webhooks_to(&self, url: &str) {
        let mut account = self.world.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.webhook_url = Some(url.to_owned());
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.world.faults());
    }

    /// Pays as the checkout does, without a browser, and answers what the browser would bring to the shop.
    ///
    /// # Errors
    /// Why the checkout refused, in Razorpay's words.
    pub fn pay(&self, order_id: &str, method: &Method, outcome: Outcome) -> Result<Paid, String> {
        faults::pay(&self.world, order_id, method, outcome).map_err(|refusal| refusal.description)
    }

    /// The bank says yes after all.
    ///
    /// # Errors
    /// The payment is already authorised, or there is none.
    pub fn authorise_late(&self, payment_id: &str) -> Result<(), String> {
        let late = self.world.with_ledger(|ledger, now| ledger.authorise(payment_id, now));
        late.map(|_| ()).map_err(|refusal| refusal.description)
    }

    /// Ends a pending refund.
    ///
    /// # Errors
    /// It is not pending, or there is none.
    pub fn settle_refund(&self, refund_id: &str, good: bool) -> Result<(), String> {
        let settled = self.world.with_ledger(|ledger, now| ledger.settle_refund(refund_id, good, now));
        settled.map(|_| ()).map_err(|refusal| refusal.description)
    }

    /// Puts the clock forward, with everything that time alone does.
    pub fn advance(&self, seconds: u32) {
        self.world.clock.advance(seconds);
        self.world.with_ledger(|_, _| ());
        self.world.queue.wake();
    }

    /// Lets held webhooks go, last first if `reversed`.
    pub fn release_webhooks(&self, reversed: bool) {
        self.world.faults().hold_webhooks = false;
        self.world.queue.release(reversed);
    }

    /// Every attempt to deliver a webhook so far.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.world.queue.attempts()
    }

    /// Webhooks that are not yet delivered, held ones included.
    pub fn undelivered(&self) -> usize {
        self.world.queue.waiting()
    }

    /// The orders as the API shows them, newest first.
    pub fn orders(&self) -> Vec<serde_json::Value> {
        self.world.with_ledger(|ledger, _| ledger.orders().map(|order| serde_json::json!(order)).collect())
    }

    /// The payments as the API shows them, newest first.
    pub fn payments(&self) -> Vec<serde_json::Value> {
        let all = |ledger: &mut Ledger, _| ledger.payments().map(|one| serde_json::json!(one)).collect();
        self.world.with_ledger(all)
    }

    /// The refunds as the API shows them, newest first.
    pub fn refunds(&self) -> Vec<serde_json::Value> {
        let all = |ledger: &mut Ledger, _| ledger.refunds().map(|one| serde_json::json!(one)).collect();
        self.world.with_ledger(all)
    }

    /// Runs until the process is ended.
    pub fn wait(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(std::future::pending::<()>());
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn router(world: Arc<World>) -> Router {
    Router::new()
        .merge(api::routes(&world))
        .merge(checkout::routes())
        .merge(faults::routes())
        .fallback(async || refusal::Refusal::bad("The requested URL was not found on the server."))
        .with_state(world)
}
