//! What goes wrong on request, and what otherwise only time or a bank does: `/__sim/…`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method as HttpMethod, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::entity::{Method, Payer};
use crate::failure::Failure;
use crate::ledger::RefundCourse;
use crate::refusal::Refusal;
use crate::{World, signature};

/// What happens to one call of the API.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ApiFault {
    /// This status instead of an answer; nothing is done.
    Status(u16),
    /// No answer, and nothing is done.
    Hang,
    /// It is done, and the answer is lost.
    LoseAnswer,
}

/// What goes wrong. All of it is off at the start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// One for each of the next calls that change something, in this order.
    pub api: VecDeque<ApiFault>,
    /// The same for the next calls that only look.
    pub api_reads: VecDeque<ApiFault>,
    /// Milliseconds before every answer of the API.
    pub latency_ms: u64,
    /// How often each webhook is sent besides the first time.
    pub duplicate_webhooks: u32,
    /// Webhooks wait until they are released.
    pub hold_webhooks: bool,
    /// So many of the next webhooks are never sent.
    pub drop_webhooks: u32,
    /// Webhooks say another amount than was signed.
    pub tamper_webhooks: bool,
    /// Webhooks are signed with this instead: the secret from before a rotation, or a wrong one.
    pub sign_with: Option<String>,
    /// How refunds go.
    pub refunds: RefundCourse,
    /// So many of the next refunds are answered with 409.
    pub refunds_in_progress: u32,
}

impl Faults {
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_ms)
    }

    pub(crate) fn next_for(&mut self, method: &HttpMethod) -> Option<ApiFault> {
        if *method == HttpMethod::POST { self.api.pop_front() } else { self.api_reads.pop_front() }
    }

    pub(crate) fn refund_in_progress(&mut self) -> bool {
        let busy = self.refunds_in_progress > 0;
        self.refunds_in_progress = self.refunds_in_progress.saturating_sub(1);
        busy
    }
}

/// How a payment ends that is made without a browser.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Authorised, and captured if the order says so.
    Success,
    /// Declined.
    Failure,
    /// The bank says nothing: `created`, for now.
    Silence,
}

/// What a browser brings back to the shop.
#[derive(Clone, Debug, Serialize)]
pub struct Paid {
    /// The order that was paid.
    pub razorpay_order_id: String,
    /// The payment.
    pub razorpay_payment_id: String,
    /// Over both, for a payment that was authorised.
    pub razorpay_signature: Option<String>,
}

pub(crate) fn pay(world: &World, order_id: &str, method: &Method, outcome: Outcome) -> Result<Paid, Refusal> {
    let payment = world.with_ledger(|ledger, now| {
        let payment = ledger.begin_payment(order_id, method, &Payer::default(), now)?;
        match outcome {
            Outcome::Success => ledger.authorise(&payment.id, now),
            Outcome::Failure => ledger.fail(&payment.id, &Failure::DECLINED, now),
            Outcome::Silence => Ok(payment),
        }
    })?;
    let signed = outcome == Outcome::Success;
    let secret = world.account().key_secret;
    Ok(Paid {
        razorpay_signature: signed.then(|| signature::of_payment(order_id, &payment.id, &secret)),
        razorpay_order_id: order_id.to_owned(),
        razorpay_payment_id: payment.id,
    })
}

pub(crate) fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/__sim/faults", post(set))
        .route("/__sim/advance", post(advance))
        .route("/__sim/release", post(release))
        .route("/__sim/deliveries", get(deliveries))
        .route("/__sim/pay", post(pay_now))
        .route("/__sim/payments/{id}/authorise", post(authorise))
        .route("/__sim/refunds/{id}/{end}", post(settle))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Refusal::bad(error.to_string()))
}

fn answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}

async fn set(State(world): State<Arc<World>>, body: Bytes) -> Result<Response, Refusal> {
    *world.faults() = read(&body)?;
    Ok(answer(&json!({ "set": true })))
}

async fn advance(State(world): State<Arc<World>>, body: Bytes) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    struct Wanted {
        seconds: u32,
    }
    world.clock.advance(read::<Wanted>(&body)?.seconds);
    let now = world.with_ledger(|_, now| now);
    world.queue.wake();
    Ok(answer(&json!({ "now": now })))
}

async fn release(State(world): State<Arc<World>>, body: Bytes) -> Result<Response, Refusal> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wanted {
        reversed: bool,
    }
    let wanted: Wanted = read(&body)?;
    world.faults().hold_webhooks = false;
    world.queue.release(wanted.reversed);
    Ok(answer(&json!({ "released": true })))
}

async fn deliveries(State(world): State<Arc<World>>) -> Response {
    let off = world.queue.is_switched_off();
    answer(&json!({ "attempts": world.queue.attempts(), "undelivered": world.queue.waiting(), "off": off }))
}

async fn pay_now(State(world): State<Arc<World>>, body: Bytes) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    struct Wanted {
        order_id: String,
        method: Method,
        outcome: Outcome,
    }
    let wanted: Wanted = read(&body)?;
    Ok(answer(&json!(pay(&world, &wanted.order_id, &wanted.method, wanted.outcome)?)))
}

async fn authorise(State(world): State<Arc<World>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    Ok(answer(&json!(world.with_ledger(|ledger, now| ledger.authorise(&id, now))?)))
}

async fn settle(
    State(world): State<Arc<World>>,
    Path((id, end)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let good = match end.as_str() {
        "processed" => true,
        "failed" => false,
        _ => return Err(Refusal::bad("A refund ends as processed or failed.")),
    };
    Ok(answer(&json!(world.with_ledger(|ledger, now| ledger.settle_refund(&id, good, now))?)))
}
