//! A merchant's server: calls the API, and takes webhooks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use razorpay_simulator::{Account, Simulator};
use serde_json::{Value, json};
use ureq::Agent;

pub(crate) const KEY_ID: &str = "rzp_test_simulator0001";
pub(crate) const KEY_SECRET: &str = "simulator-key-secret";
pub(crate) const WEBHOOK_SECRET: &str = "simulator-webhook-secret";

pub(crate) fn start() -> Simulator {
    let account = Account {
        key_id: KEY_ID.to_owned(),
        key_secret: KEY_SECRET.to_owned(),
        webhook_url: None,
        webhook_secret: WEBHOOK_SECRET.to_owned(),
    };
    Simulator::start("127.0.0.1:0".parse().unwrap(), account).unwrap()
}

pub(crate) fn agent() -> Agent {
    let config =
        Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(10)));
    config.build().into()
}

/// `key_id:key_secret` of the tests in base64.
pub(crate) const BASIC: &str = "Basic cnpwX3Rlc3Rfc2ltdWxhdG9yMDAwMTpzaW11bGF0b3Ita2V5LXNlY3JldA==";

pub(crate) fn get(simulator: &Simulator, path: &str) -> (u16, Value) {
    let request = agent().get(format!("http://{}{path}", simulator.address())).header("authorization", BASIC);
    let mut response = request.call().unwrap();
    (
        response.status().as_u16(),
        serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap(),
    )
}

pub(crate) fn post_as(
    simulator: &Simulator,
    path: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> (u16, Value) {
    let mut request = agent().post(format!("http://{}{path}", simulator.address()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.send(body.to_string()).unwrap();
    (
        response.status().as_u16(),
        serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap(),
    )
}

pub(crate) fn send(simulator: &Simulator, path: &str, body: &Value) -> (u16, Value) {
    post_as(simulator, path, body, &[("authorization", BASIC)])
}

/// A new order, and its id.
pub(crate) fn order(simulator: &Simulator, amount: i64) -> String {
    let (status, order) = send(simulator, "/v1/orders", &json!({ "amount": amount, "currency": "INR" }));
    assert_eq!(status, 200, "{order}");
    order["id"].as_str().unwrap().to_owned()
}

/// Waits until `seen` answers something, however long the machine takes within reason.
pub(crate) fn wait_for<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = seen() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One webhook as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) event_id: String,
    pub(crate) signature: String,
    pub(crate) body: Vec<u8>,
}

impl Taken {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn event(&self) -> String {
        self.json()["event"].as_str().unwrap().to_owned()
    }
}

/// Takes webhooks, and answers the first few as told.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Receiver {
    pub(crate) fn start(answers: impl Fn(usize) -> u16 + Clone + Send + Sync + 'static) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let taken: Arc<Mutex<Vec<Taken>>> = Arc::default();
        let kept = taken.clone();
        let take = post(async move |headers: HeaderMap, body: Bytes| {
            let header = |name: &str| headers[name].to_str().unwrap().to_owned();
            let mut kept = kept.lock().unwrap();
            kept.push(Taken {
                event_id: header("x-razorpay-event-id"),
                signature: header("x-razorpay-signature"),
                body: body.to_vec(),
            });
            StatusCode::from_u16(answers(kept.len())).unwrap()
        });
        let app = axum::Router::new().route("/hook", take);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, taken, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    /// The first `count` webhooks.
    pub(crate) fn wait(&self, count: usize) -> Vec<Taken> {
        wait_for(&format!("{count} webhooks"), || {
            let taken = self.taken();
            (taken.len() >= count).then_some(taken)
        })
    }
}
