//! `/v1`: orders, payments, captures and refunds, behind the key and its secret.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::World;
use crate::faults::ApiFault;
use crate::refusal::Refusal;
use crate::request;

pub(crate) fn routes(world: &Arc<World>) -> Router<Arc<World>> {
    Router::new()
        .route("/v1/orders", get(list_orders).post(create_order))
        .route("/v1/orders/{id}", get(show_order))
        .route("/v1/orders/{id}/payments", get(payments_of_order))
        .route("/v1/payments", get(list_payments))
        .route("/v1/payments/{id}", get(show_payment))
        .route("/v1/payments/{id}/capture", post(capture))
        .route("/v1/payments/{id}/refund", post(create_refund))
        .route("/v1/payments/{id}/refunds", get(refunds_of_payment))
        .route("/v1/refunds", get(list_refunds))
        .route("/v1/refunds/{id}", get(show_refund))
        .route_layer(middleware::from_fn_with_state(world.clone(), every_call))
}

/// The key is asked for first; then the call has the fault that waits for it.
async fn every_call(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    if !may_call(&world, request.headers()) {
        return Refusal::unauthorised().into_response();
    }
    let latency = world.faults().latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let fault = world.faults().next_for(request.method());
    match fault {
        None => next.run(request).await,
        Some(ApiFault::Status(status)) => Refusal::of_status(status).into_response(),
        Some(ApiFault::Hang) => std::future::pending().await,
        // It is done, and nobody is told: the worst that a network can do.
        Some(ApiFault::LoseAnswer) => {
            next.run(request).await;
            std::future::pending().await
        }
    }
}

/// `Basic`, in exactly this spelling.
fn may_call(world: &World, headers: &HeaderMap) -> bool {
    let account = world.account();
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let decoded = given.and_then(|text| STANDARD.decode(text.strip_prefix("Basic ")?).ok());
    decoded.is_some_and(|pair| pair == format!("{}:{}", account.key_id, account.key_secret).into_bytes())
}

/// Which part of a list is wanted.
#[derive(Debug, Deserialize)]
struct Page {
    from: Option<i64>,
    to: Option<i64>,
    count: Option<usize>,
    skip: Option<usize>,
    receipt: Option<String>,
}

type Wanted = Result<Query<Page>, axum::extract::rejection::QueryRejection>;

/// A list as Razorpay writes it: ten entries, a hundred at most.
fn collection<T: Serialize>(
    wanted: Wanted,
    all: impl Iterator<Item = T>,
    created: impl Fn(&T) -> i64,
    receipt: impl Fn(&T) -> Option<String>,
) -> Result<Response, Refusal> {
    let Query(page) = wanted.map_err(|_| Refusal::bad("The query could not be read."))?;
    let count = page.count.unwrap_or(10);
    if count == 0 || count > 100 {
        return Err(Refusal::field("count", "The count must be between 1 and 100."));
    }
    let fits = |one: &T| {
        page.from.is_none_or(|from| created(one) >= from)
            && page.to.is_none_or(|to| created(one) <= to)
            && (page.receipt.is_none() || page.receipt == receipt(one))
    };
    let items: Vec<T> = all.filter(fits).skip(page.skip.unwrap_or(0)).take(count).collect();
    answer(&json!({ "entity": "collection", "count": items.len(), "items": items }))
}

fn answer(value: &impl Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_string(value).map_err(|_| Refusal::of_status(500))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

async fn create_order(State(world): State<Arc<World>>, body: Bytes) -> Result<Response, Refusal> {
    let fields = request::object(&body)?;
    answer(&world.with_ledger(|ledger, now| ledger.create_order(&fields, now))?)
}

async fn list_orders(State(world): State<Arc<World>>, wanted: Wanted) -> Result<Response, Refusal> {
    world.with_ledger(|ledger, _| {
        collection(wanted, ledger.orders(), |order| order.created_at, |order| order.receipt.clone())
    })
}

async fn show_order(State(world): State<Arc<World>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    world.with_ledger(|ledger, _| answer(ledger.order(&id)?))
}

async fn payments_of_order(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    wanted: Wanted,
) -> Result<Response, Refusal> {
    world.with_ledger(|ledger, _| {
        ledger.order(&id)?;
        let payments = ledger.payments().filter(|payment| payment.order_id == id);
        collection(wanted, payments, |payment| payment.created_at, |_| None)
    })
}

async fn list_payments(State(world): State<Arc<World>>, wanted: Wanted) -> Result<Response, Refusal> {
    world.with_ledger(|ledger, _| {
        collection(wanted, ledger.payments(), |payment| payment.created_at, |_| None)
    })
}

async fn show_payment(State(world): State<Arc<World>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    world.with_ledger(|ledger, _| answer(ledger.payment(&id)?))
}

async fn capture(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let fields = request::object(&body)?;
    answer(&world.with_ledger(|ledger, now| ledger.capture(&id, &fields, now))?)
}

async fn create_refund(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let key = headers.get("x-refund-idempotency").map(|value| value.to_str().unwrap_or_default());
    if key.is_some() && world.faults().refund_in_progress() {
        return Err(Refusal::in_progress());
    }
    answer(&world.with_ledger(|ledger, now| ledger.create_refund(&id, &body, key, now))?)
}

async fn refunds_of_payment(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    wanted: Wanted,
) -> Result<Response, Refusal> {
    world.with_ledger(|ledger, _| {
        ledger.payment(&id)?;
        let refunds = ledger.refunds().filter(|refund| refund.payment_id == id);
        collection(wanted, refunds, |refund| refund.created_at, |refund| refund.receipt.clone())
    })
}

async fn list_refunds(State(world): State<Arc<World>>, wanted: Wanted) -> Result<Response, Refusal> {
    world.with_ledger(|ledger, _| {
        collection(wanted, ledger.refunds(), |refund| refund.created_at, |refund| refund.receipt.clone())
    })
}

async fn show_refund(State(world): State<Arc<World>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    world.with_ledger(|ledger, _| answer(ledger.refund(&id)?))
}
