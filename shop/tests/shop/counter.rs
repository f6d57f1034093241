//! A shop with the simulator beside it, as one test needs them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use razorpay_simulator::{Account, Method, Simulator};
use serde_json::Value;

use crate::browser::{Browser, Page, key};
use crate::sandbox::{Sandbox, Server};

pub(crate) const KEY_ID: &str = "rzp_test_simulator0001";
pub(crate) const KEY_SECRET: &str = "simulator-key-secret";
pub(crate) const WEBHOOK_SECRET: &str = "simulator-webhook-secret";

/// Goods of the seed: ₹24 the kilogram, and ₹39.
pub(crate) const TOMATO: i64 = 1;

/// What the checkout form says of whoever pays now.
pub(crate) const ONLINE: [(&str, &str); 2] = [("payment", "online"), ("email", "lakshmi@example.in")];

pub(crate) struct Counter {
    // Dropped first: a shop without a gateway complains, a gateway without a shop does not.
    pub(crate) server: Server,
    pub(crate) simulator: Simulator,
    pub(crate) shop: Sandbox,
}

/// A simulator on a port of its own.
pub(crate) fn simulator() -> Simulator {
    let account = Account {
        key_id: KEY_ID.to_owned(),
        key_secret: KEY_SECRET.to_owned(),
        webhook_url: None,
        webhook_secret: WEBHOOK_SECRET.to_owned(),
    };
    Simulator::start(SocketAddr::from(([127, 0, 0, 1], 0)), account).unwrap()
}

impl Counter {
    pub(crate) fn open() -> Self {
        Self::open_with(&[])
    }

    pub(crate) fn open_with(more: &[(&str, &str)]) -> Self {
        Self::open_at(Sandbox::seeded(), simulator(), more)
    }

    pub(crate) fn open_at(shop: Sandbox, simulator: Simulator, more: &[(&str, &str)]) -> Self {
        let server = serve(&shop, &simulator, more);
        Self { server, simulator, shop }
    }

    /// Kills the shop as a power cut would, and opens it again.
    pub(crate) fn restart(self) -> Self {
        let Self { server, simulator, shop } = self;
        server.kill();
        let server = serve(&shop, &simulator, &[]);
        Self { server, simulator, shop }
    }

    pub(crate) fn browser(&self) -> Browser {
        self.server.browser()
    }

    /// Orders one kilogram of tomatoes to be paid online, and answers the order's token and its id at Razorpay.
    pub(crate) fn order(&self, number: u32) -> (String, String) {
        let mut guest = self.browser();
        let token = self.place(&mut guest, number, 1);
        let id = self.razorpay_order(&token).expect("the gateway was asked when the order was placed");
        (token, id)
    }

    pub(crate) fn place(&self, guest: &mut Browser, number: u32, quantity: i64) -> String {
        guest.add(TOMATO, quantity);
        let placed = guest.checkout(&key(number), &ONLINE);
        assert_eq!(placed.status, 303, "{}", placed.body);
        let address = placed.header("location").to_owned();
        let token = address.strip_prefix("/pay/");
        token.unwrap_or_else(|| panic!("{address} is no page to pay")).to_owned()
    }

    pub(crate) fn razorpay_order(&self, token: &str) -> Option<String> {
        let sql =
            "SELECT razorpay_order_id FROM payments JOIN orders ON orders.id = order_id WHERE token = ?1";
        self.shop.sql().query_row(sql, [token], |row| row.get(0)).unwrap()
    }

    /// Sends what a browser brings back from the checkout.
    pub(crate) fn come_back(&self, token: &str, order_id: &str, payment_id: &str, signature: &str) -> Page {
        // Without a form token, as from the gateway's own page.
        let mut browser = self.browser();
        browser.headers.push(("origin", format!("http://{}", self.simulator.address())));
        browser.headers.push(("sec-fetch-site", "cross-site".to_owned()));
        browser.send(
            &format!("/pay/{token}/proof"),
            &[
                ("razorpay_order_id", order_id),
                ("razorpay_payment_id", payment_id),
                ("razorpay_signature", signature),
            ],
        )
    }

    /// The order's state and its payment's.
    pub(crate) fn state(&self, token: &str) -> (String, String) {
        let sql = "SELECT state, payment_status FROM orders WHERE token = ?1";
        self.shop.sql().query_row(sql, [token], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    }

    /// Waits until the order is in this state and says so.
    pub(crate) fn wait_for(&self, token: &str, state: &str, payment: &str) {
        eventually(&format!("order is {state} and {payment}"), || {
            let now = self.state(token);
            if now == (state.to_owned(), payment.to_owned()) { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }

    /// Has the reconciler look at everything now.
    pub(crate) fn reconcile_now(&self) {
        self.shop.execute(
            "UPDATE payments SET next_check_at = '2000-01-01T00:00:00Z' WHERE next_check_at IS NOT NULL;
             UPDATE refunds SET next_try_at = '2000-01-01T00:00:00Z' WHERE next_try_at IS NOT NULL;",
        );
    }

    /// Lets the time for paying be over.
    pub(crate) fn expire(&self, token: &str) {
        self.shop.execute("UPDATE stock_holds SET expires_at = '2000-01-01T00:00:00Z' WHERE status = 'held'");
        self.wait_for(token, "expired", "pending");
    }

    /// What one effect is, in numbers: placed once, stock taken once, one mail, no refund.
    pub(crate) fn assert_paid_once(&self, token: &str) {
        assert_eq!(self.state(token), ("placed".to_owned(), "paid".to_owned()));
        let of_order =
            |sql: &str| self.shop.sql().query_row(sql, [token], |row| row.get::<_, i64>(0)).unwrap();
        let placed = "SELECT count(*) FROM order_history JOIN orders ON orders.id = order_id
                      WHERE token = ?1 AND to_state = 'placed'";
        assert_eq!(of_order(placed), 1, "placed once");
        let taken = "SELECT coalesce(sum(change), 0) FROM stock_movements JOIN orders ON orders.id = order_id
                     WHERE token = ?1";
        assert_eq!(of_order(taken), -1, "one piece off the shelf");
        let refunds = "SELECT count(*) FROM refunds JOIN orders ON orders.id = order_id WHERE token = ?1";
        assert_eq!(of_order(refunds), 0, "nothing goes back");
        assert!(self.simulator.refunds().is_empty());
    }

    /// Gives money back as a person does it in the gateway's dashboard: the shop has not asked for it.
    pub(crate) fn refund_at_the_gateway(&self, payment_id: &str, body: &str) {
        let url = format!("http://{}/v1/payments/{payment_id}/refund", self.simulator.address());
        let basic = format!("Basic {}", STANDARD.encode(format!("{KEY_ID}:{KEY_SECRET}")));
        let request =
            ureq::post(url).header("authorization", basic).header("content-type", "application/json");
        assert_eq!(request.send(body).unwrap().status().as_u16(), 200);
    }

    /// Posts a webhook of the test's own making.
    pub(crate) fn tell(&self, event_id: &str, body: &Value, signature: &str) -> u16 {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = agent.post(format!("http://{}/razorpay/webhook", self.server.address));
        if !event_id.is_empty() {
            request = request.header("x-razorpay-event-id", event_id);
        }
        // As bytes: a header may hold what is no ASCII.
        let signature = ureq::http::HeaderValue::from_bytes(signature.as_bytes()).unwrap();
        let request = request.header("x-razorpay-signature", signature);
        request.send(body.to_string()).unwrap().status().as_u16()
    }
}

fn serve(shop: &Sandbox, simulator: &Simulator, more: &[(&str, &str)]) -> Server {
    let base = format!("http://{}", simulator.address());
    let mut command = shop.command(&["serve"]);
    command
        .env("RAZORPAY_KEY_ID", KEY_ID)
        .env("RAZORPAY_KEY_SECRET", KEY_SECRET)
        .env("RAZORPAY_WEBHOOK_SECRET", WEBHOOK_SECRET)
        .env("RAZORPAY_API_BASE", &base)
        .env("RAZORPAY_CHECKOUT_JS", format!("{base}/v1/checkout.js"))
        .envs(more.iter().copied());
    let server = Server::start(command);
    simulator.send_webhooks_to(&format!("http://{}/razorpay/webhook", server.address));
    server
}

pub(crate) fn upi() -> Method {
    Method::Upi("success@razorpay".to_owned())
}

/// Tries again until it is so, however long the machine takes within reason.
pub(crate) fn eventually<T>(what: &str, mut seen: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let now = match seen() {
            Ok(found) => return found,
            Err(now) => now,
        };
        assert!(Instant::now() < deadline, "{what}: not within 40 s; it is {now}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
