//! Customers: they browse, fill a basket and order, one purchase after the other, through the front door.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use regex::Regex;
use ureq::Agent;

use crate::Trouble;
use crate::ledger::{Ledger, Promise};
use crate::programs::Programs;

/// A request that takes longer has failed; longer than any hold.
const PATIENCE: Duration = Duration::from_secs(40);
/// What a customer thinks about between two pages.
const PAUSE: Duration = Duration::from_millis(15);
/// Orders come in faster than that, or nobody is buying any more.
const NEXT_ORDERS: Duration = Duration::from_secs(60);

/// The shop's customers. Dropped, they go home.
pub(crate) struct Customers {
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
    threads: Vec<JoinHandle<()>>,
}

impl Customers {
    /// Lets `count` of them in by the front door at `port`.
    pub(crate) fn enter(port: u16, count: usize) -> Customers {
        let stop = Arc::new(AtomicBool::new(false));
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let threads = (0..count).map(|number| {
            let customer = Customer {
                shop: format!("http://127.0.0.1:{port}"),
                number,
                stop: Arc::clone(&stop),
                ledger: Arc::clone(&ledger),
                agent: agent(),
                cookies: BTreeMap::new(),
            };
            thread::spawn(move || customer.shop_until_told())
        });
        let threads = threads.collect();
        Customers { stop, ledger, threads }
    }

    /// Waits until another `count` orders have been promised.
    pub(crate) fn order(&self, count: usize, programs: &Programs<'_>) -> Result<(), Trouble> {
        let begun = Instant::now();
        let goal = locked(&self.ledger).promised() + count;
        loop {
            programs.go_on()?;
            let (promised, failure) = {
                let ledger = locked(&self.ledger);
                (ledger.promised(), ledger.failures().last().cloned())
            };
            if promised >= goal {
                return Ok(());
            }
            if begun.elapsed() > NEXT_ORDERS {
                let why = failure.unwrap_or_else(|| "nothing failed, it is only slow".to_owned());
                let what = format!("only {promised} of {goal} orders came in within {NEXT_ORDERS:?}: {why}");
                return Err(Trouble::Customers(what));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets them finish the page they are at, and go home.
    pub(crate) fn leave(mut self) -> Ledger {
        self.go();
        std::mem::take(&mut *locked(&self.ledger))
    }

    fn go(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                locked(&self.ledger).failed("a customer gave up: a bug of the demonstration".to_owned());
            }
        }
    }
}

impl Drop for Customers {
    fn drop(&mut self) {
        self.go();
    }
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(PATIENCE))
        .build();
    config.into()
}

struct Customer {
    shop: String,
    number: usize,
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
    agent: Agent,
    cookies: BTreeMap<String, String>,
}

impl Customer {
    fn shop_until_told(mut self) {
        for turn in 0_u64.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // Half of them keep their connections, the others come anew for each purchase.
            if self.number.is_multiple_of(2) {
                self.agent = agent();
            }
            self.cookies.clear();
            // A purchase that breaks off has noted why; the customer begins another.
            let _ = self.buy(turn);
        }
    }

    /// One purchase; `None` when it broke off or it is time to go home.
    fn buy(&mut self, turn: u64) -> Option<()> {
        let number = u64::try_from(self.number).unwrap_or_default();
        let product = 1 + i64::try_from((turn * 7 + number * 13) % 60).unwrap_or_default();
        let quantity = 1 + i64::try_from(turn % 3).unwrap_or_default();
        self.ask("/", None, 200)?;
        let page = self.ask(&format!("/product/{product}"), None, 200)?;
        let csrf = self.field(&page, "csrf")?;
        let (id, count) = (product.to_string(), quantity.to_string());
        let form = [("csrf", csrf.as_str()), ("product_id", &id), ("quantity", &count)];
        self.ask("/cart/add", Some(&form), 303)?;
        self.ask("/cart", None, 200)?;
        let page = self.ask("/checkout", None, 200)?;
        let (csrf, key) = (self.field(&page, "csrf")?, self.field(&page, "idempotency_key")?);
        let form = [
            ("csrf", csrf.as_str()),
            ("idempotency_key", &key),
            ("name", "Lakshmi Rao"),
            ("phone", "9845012345"),
            ("address", "14, 3rd Cross, Gandhi Bazaar"),
            ("city", "Bengaluru"),
            ("pincode", "560004"),
        ];
        let answer = self.ask("/checkout", Some(&form), 201)?;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        let (Some(order), Some(token)) = (answer["order"].as_i64(), answer["token"].as_str()) else {
            locked(&self.ledger).failed(format!("an order was answered without its number: {answer}"));
            return None;
        };
        let promise = Promise { order, token: token.to_owned(), product, quantity };
        locked(&self.ledger).promise(promise);
        self.ask(&format!("/order/{token}"), None, 200)?;
        Some(())
    }

    /// One request; notes how it went and returns the page, when it is of the status that it should have.
    fn ask(&mut self, path: &str, form: Option<&[(&str, &str)]>, wanted: u16) -> Option<String> {
        thread::sleep(PAUSE);
        if self.stop.load(Ordering::SeqCst) {
            return None;
        }
        let url = format!("{}{path}", self.shop);
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = pairs.join("; ");
        let begun = Instant::now();
        let response = match form {
            None => self.agent.get(url).header("cookie", cookies).call(),
            // A person's browser is sent on to the order's page; a program is told the number of the order.
            Some(form) => {
                let accept = if path == "/checkout" { "application/json" } else { "text/html" };
                let request = self.agent.post(url).header("cookie", cookies).header("accept", accept);
                request.send_form(form.iter().copied())
            }
        };
        let page = response.and_then(|response| {
            let (parts, mut body) = response.into_parts();
            Ok((parts, body.read_to_string()?))
        });
        let mut ledger = locked(&self.ledger);
        ledger.asked(begun.elapsed());
        let method = if form.is_some() { "POST" } else { "GET" };
        let (parts, body) = match page {
            Ok(page) => page,
            Err(error) => {
                ledger.failed(format!("{method} {path} after {} ms: {error}", begun.elapsed().as_millis()));
                return None;
            }
        };
        if parts.status.as_u16() != wanted {
            let text: String = body.chars().take(200).collect();
            ledger.failed(format!("{method} {path}: {} and not {wanted}: {text}", parts.status));
            return None;
        }
        drop(ledger);
        for cookie in parts.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok()) {
            if let Some((name, value)) = cookie.split(';').next().and_then(|pair| pair.split_once('=')) {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Some(body)
    }

    /// The value of a page's hidden field.
    fn field(&self, page: &str, name: &str) -> Option<String> {
        let pattern =
            Regex::new(&format!(r#"name="{name}" value="([^"]*)""#)).expect("names are plain words");
        let found = pattern.captures(page).map(|found| found[1].to_owned());
        if found.is_none() {
            locked(&self.ledger).failed(format!("a page came without its field {name}"));
        }
        found
    }
}
