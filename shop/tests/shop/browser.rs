//! What a visitor's browser does: keeps cookies, follows nothing by itself, sends forms with the page's token.

use std::collections::BTreeMap;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use regex::Regex;
use sha1::Sha1;
use ureq::Agent;

use crate::sandbox::PASSWORD;

#[derive(Clone)]
pub(crate) struct Browser {
    agent: Agent,
    pub(crate) address: String,
    pub(crate) cookies: BTreeMap<String, String>,
    /// Sent with every request.
    pub(crate) headers: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// The value of the first field of this name.
    pub(crate) fn field(&self, name: &str) -> String {
        let pattern = Regex::new(&format!(r#"name="{name}" value="([^"]*)""#)).unwrap();
        let found = pattern.captures(&self.body);
        found.unwrap_or_else(|| panic!("no field {name} in {}", self.body))[1].to_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Browser {
    pub(crate) fn new(address: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Self {
            agent: config.into(),
            address: address.to_owned(),
            cookies: BTreeMap::new(),
            headers: Vec::new(),
        }
    }

    fn cookie_header(&self) -> String {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    fn keep(&mut self, response: ureq::http::Response<ureq::Body>) -> Page {
        let (parts, mut body) = response.into_parts();
        let headers: Vec<(String, String)> = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        for (_, value) in headers.iter().filter(|(name, _)| name == "set-cookie") {
            let (name, value) = value.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        Page { status: parts.status.as_u16(), headers, body: body.read_to_string().unwrap() }
    }

    pub(crate) fn get(&mut self, path: &str) -> Page {
        let mut request = self.agent.get(format!("http://{}{path}", self.address));
        request = request.header("cookie", self.cookie_header());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = request.call().unwrap();
        self.keep(response)
    }

    /// Sends a form as given, without adding the token.
    pub(crate) fn send(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let mut request = self.agent.post(format!("http://{}{path}", self.address));
        request = request.header("cookie", self.cookie_header());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = request.send_form(fields.iter().copied()).unwrap();
        self.keep(response)
    }

    /// A token of one of the shop's pages.
    pub(crate) fn csrf(&mut self) -> String {
        self.get("/admin/login").field("csrf")
    }

    /// Sends a form as from one of the shop's pages.
    pub(crate) fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let csrf = self.csrf();
        let mut all = vec![("csrf", csrf.as_str())];
        all.extend_from_slice(fields);
        self.send(path, &all)
    }

    pub(crate) fn add(&mut self, product: i64, quantity: i64) {
        let (product, quantity) = (product.to_string(), quantity.to_string());
        let page = self.post("/cart/add", &[("product_id", &product), ("quantity", &quantity)]);
        assert_eq!(page.status, 303, "{}", page.body);
    }

    /// Sends the checkout form with a usual address; `fields` come first and so replace it.
    pub(crate) fn checkout(&mut self, key: &str, fields: &[(&str, &str)]) -> Page {
        let usual = [
            ("idempotency_key", key),
            ("name", "Lakshmi Rao"),
            ("phone", "98450 12345"),
            ("address", "14, 3rd Cross, Gandhi Bazaar"),
            ("city", "Bengaluru"),
            ("pincode", "560004"),
        ];
        let all: Vec<_> = fields.iter().copied().chain(usual).collect();
        self.post("/checkout", &all)
    }

    /// Buys as a program does and answers the order.
    pub(crate) fn buy(&mut self, product: i64, quantity: i64, key: &str) -> serde_json::Value {
        self.add(product, quantity);
        self.headers.push(("accept", "application/json".to_owned()));
        let page = self.checkout(key, &[]);
        self.headers.pop();
        assert_eq!(page.status, 201, "{}", page.body);
        page.json()
    }

    pub(crate) fn sign_in_member(&mut self, email: &str, password: &str) -> Page {
        self.post("/account/login", &[("email", email), ("password", password)])
    }

    /// Sends a body of any kind.
    pub(crate) fn send_body(&mut self, path: &str, kind: &str, body: &[u8]) -> Page {
        let request = self.agent.post(format!("http://{}{path}", self.address));
        let request = request.header("cookie", self.cookie_header()).header("content-type", kind);
        let response = request.send(body).unwrap();
        self.keep(response)
    }

    /// A file that is no text.
    pub(crate) fn get_bytes(&mut self, path: &str) -> Vec<u8> {
        let request = self.agent.get(format!("http://{}{path}", self.address));
        request.call().unwrap().body_mut().read_to_vec().unwrap()
    }

    pub(crate) fn sign_in(&mut self, email: &str, password: &str) -> Page {
        // A code counts once: who signs in again within a minute takes the next one.
        let now = jiff::Timestamp::now().as_second() / 30;
        let codes: Vec<String> = (now - 1..=now + 1).map(totp).collect();
        let mut page = None;
        for code in &codes {
            let answer =
                self.post("/admin/login", &[("email", email), ("password", password), ("code", code)]);
            let done = answer.status != 401 || password != PASSWORD;
            page = Some(answer);
            if done {
                break;
            }
        }
        page.unwrap()
    }
}

/// The code that an app on a phone shows now.
pub(crate) fn totp_now() -> String {
    totp(jiff::Timestamp::now().as_second() / 30)
}

/// The code of a step of 30 seconds, worked out here a second time so that the shop is not its own judge.
pub(crate) fn totp(step: i64) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(b"12345678901234567890").unwrap();
    mac.update(&step.to_be_bytes());
    let hash = mac.finalize().into_bytes();
    let at = usize::from(hash[19] & 15);
    let number = u32::from_be_bytes(hash[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

/// A key as the checkout form makes them, different for each number.
pub(crate) fn key(number: u32) -> String {
    format!("{number:032x}")
}
