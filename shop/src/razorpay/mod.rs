//! Razorpay's API as far as a shop needs it: blocking calls with a deadline, and answers read strictly.
//!
//! Nothing here touches the database. No call is made while a transaction is open: a gateway that hangs must not
//! lock the shop.

pub(crate) mod signature;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;

use crate::settings::Gateway;

/// How long one call may take. Customers wait in front of it.
const DEADLINE: Duration = Duration::from_secs(6);

/// The longest answer that is read, in bytes.
const MOST_BYTES: u64 = 1024 * 1024;

/// A call that did not end as wished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Razorpay says no: asking the same again brings the same answer.
    #[error("Razorpay refused with {status}: {description}")]
    Refused { status: u16, description: String },
    /// No usable answer. It may have been done all the same: look before asking again.
    #[error("Razorpay gave no usable answer ({what})")]
    Unknown { what: String },
}

impl CallError {
    fn unknown(what: impl ToString) -> Self {
        Self::Unknown { what: what.to_string() }
    }
}

impl CallError {
    /// Whether asking again would be answered the same. Who we are (401, 403) and how often we ask (408, 429) says nothing
    /// about what was asked for.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, CallError::Refused { status, .. } if !matches!(status, 401 | 403 | 408 | 429))
    }
}

/// An order at Razorpay.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RemoteOrder {
    pub(crate) id: String,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) receipt: Option<String>,
}

/// A payment at Razorpay.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RemotePayment {
    pub(crate) id: String,
    pub(crate) order_id: Option<String>,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    /// `created`, `authorized`, `captured`, `refunded`, `failed`.
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) error_description: Option<String>,
}

impl RemotePayment {
    /// Whether the money is the shop's. All of a `refunded` payment has gone back: it pays for nothing.
    pub(crate) fn is_captured(&self) -> bool {
        self.status == "captured"
    }
}

/// A refund at Razorpay.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RemoteRefund {
    pub(crate) id: String,
    pub(crate) payment_id: String,
    #[serde(default)]
    pub(crate) amount: i64,
    pub(crate) receipt: Option<String>,
    /// `pending`, `processed`, `failed`.
    pub(crate) status: String,
}

#[derive(Deserialize)]
struct Collection<T> {
    items: Vec<T>,
}

/// Calls Razorpay. Its methods block for up to [`DEADLINE`].
#[derive(Clone, Debug)]
pub(crate) struct Client {
    agent: Agent,
    gateway: Gateway,
}

impl Client {
    pub(crate) fn new(gateway: Gateway) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(3)))
            .timeout_global(Some(DEADLINE))
            .build();
        Self { agent: config.into(), gateway }
    }

    /// Makes an order. Razorpay documents no idempotency for this: after [`CallError::Unknown`] look it up with
    /// [`Client::order_by_receipt`] first.
    pub(crate) fn create_order(
        &self,
        amount_paise: i64,
        currency: &str,
        receipt: &str,
    ) -> Result<RemoteOrder, CallError> {
        let body = json!({ "amount": amount_paise, "currency": currency, "receipt": receipt });
        self.post("/v1/orders", &body, &[])
    }

    /// The order with this receipt, if there is one.
    pub(crate) fn order_by_receipt(&self, receipt: &str) -> Result<Option<RemoteOrder>, CallError> {
        let found: Collection<RemoteOrder> = self.get(&format!("/v1/orders?receipt={receipt}&count=10"))?;
        // Whatever else the list may hold: only this receipt is this order.
        Ok(found.items.into_iter().find(|order| order.receipt.as_deref() == Some(receipt)))
    }

    /// Every attempt to pay an order.
    pub(crate) fn payments_of(&self, order_id: &str) -> Result<Vec<RemotePayment>, CallError> {
        let found: Collection<RemotePayment> =
            self.get(&format!("/v1/orders/{}/payments?count=100", id(order_id)?))?;
        Ok(found.items)
    }

    pub(crate) fn payment(&self, payment_id: &str) -> Result<RemotePayment, CallError> {
        self.get(&format!("/v1/payments/{}", id(payment_id)?))
    }

    /// Takes the money of an authorised payment: exactly what was authorised.
    pub(crate) fn capture(&self, payment: &RemotePayment) -> Result<RemotePayment, CallError> {
        let body = json!({ "amount": payment.amount, "currency": payment.currency });
        self.post(&format!("/v1/payments/{}/capture", id(&payment.id)?), &body, &[])
    }

    /// Sends money back. The same `key` with the same values is one refund, however often it is called.
    pub(crate) fn refund(
        &self,
        payment_id: &str,
        amount_paise: i64,
        receipt: &str,
        key: &str,
    ) -> Result<RemoteRefund, CallError> {
        let body = json!({ "amount": amount_paise, "speed": "normal", "receipt": receipt });
        self.post(
            &format!("/v1/payments/{}/refund", id(payment_id)?),
            &body,
            &[("X-Refund-Idempotency", key)],
        )
    }

    pub(crate) fn fetch_refund(&self, refund_id: &str) -> Result<RemoteRefund, CallError> {
        self.get(&format!("/v1/refunds/{}", id(refund_id)?))
    }

    /// Made for each call and kept nowhere: what is not kept is not logged.
    fn authorization(&self) -> String {
        let pair = [self.gateway.key_id.as_bytes(), b":", &self.gateway.key_secret.0].concat();
        format!("Basic {}", STANDARD.encode(pair))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.gateway.api_base)
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let request = self.agent.get(self.url(path)).header("authorization", self.authorization());
        read(request.call().map_err(CallError::unknown)?)
    }

    fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Result<T, CallError> {
        let mut request = self
            .agent
            .post(self.url(path))
            .header("authorization", self.authorization())
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.send(body.to_string()).map_err(CallError::unknown)?)
    }
}

/// An id that may be part of a path: what a browser brings is not believed to be one.
fn id(text: &str) -> Result<&str, CallError> {
    let plain =
        !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain {
        Ok(text)
    } else {
        Err(CallError::Refused { status: 400, description: "that is no id of Razorpay's".to_owned() })
    }
}

fn read<T: serde::de::DeserializeOwned>(response: ureq::http::Response<ureq::Body>) -> Result<T, CallError> {
    let (parts, body) = response.into_parts();
    let status = parts.status.as_u16();
    let text = body.into_with_config().limit(MOST_BYTES).read_to_string().map_err(CallError::unknown)?;
    match status {
        200..=299 => serde_json::from_str(&text).map_err(CallError::unknown),
        // Somebody is at it already, too many at once, or it is their trouble: later it may go.
        409 | 429 | 500.. => Err(CallError::unknown(format!("status {status}"))),
        _ => {
            let said: Value = serde_json::from_str(&text).unwrap_or_default();
            let description =
                said["error"]["description"].as_str().unwrap_or("no reason was given").to_owned();
            Err(CallError::Refused { status, description })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_brings_does_not_wander_in_the_paths() {
        for wrong in ["", "../orders", "pay_1/capture", "pay_1?x=1", "päy", &"p".repeat(65)] {
            assert!(id(wrong).is_err(), "{wrong:?}");
        }
        assert!(id("pay_IH4NVgf4Dreq1l").is_ok());
    }
}
