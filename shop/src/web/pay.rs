//! Paying online: the page that opens the checkout, the way back from it, and what the gateway tells by itself.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Form, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;
use serde::Deserialize;

use super::Shop;
use super::error::PageError;
use super::form::CheckedForm;
use super::visit::Visit;
use crate::db::orders::{self, Order};
use crate::db::payments::{self, Payment};
use crate::db::placing::Placed;
use crate::log;
use crate::paying::{Cashier, Proof, Proved, Told};
use crate::razorpay::signature;
use crate::settings::{Gateway, PaymentMode};

/// The checkout closes so many seconds before the goods go back to the shelf, and after a quarter of an hour.
const MARGIN: i64 = 120;
const LONGEST: i64 = 15 * 60;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/pay/{token}", get(show).post(try_again))
        .route("/pay/{token}/proof", post(came_back))
        .route("/razorpay/webhook", post(webhook))
}

/// Where a customer is sent to pay an order.
pub(crate) fn address(token: &str) -> String {
    format!("/pay/{token}")
}

/// Asks the gateway for an order. The shop's own is committed: whatever comes of this, it can be paid later.
pub(crate) async fn open(shop: &Shop, placed: &Placed) {
    let Some(cashier) = &shop.cashier else { return };
    let id = placed.id;
    let read = shop.store.read(move |connection| payments::of_order(connection, id)).await;
    let opened = match read {
        Ok(Some(payment)) => cashier.open(&shop.store, &payment, !placed.replayed).await.map(|_| ()),
        Ok(None) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = opened {
        log::error(format_args!("payment of order {id} cannot be opened"), &error);
    }
}

struct Sale {
    order: Order,
    payment: Payment,
    cashier: Arc<Cashier>,
}

/// An order that is or was to be paid online. Any other address here leads nowhere.
async fn sale(shop: &Shop, token: String) -> Result<Sale, PageError> {
    let cashier = shop.cashier.clone().ok_or(PageError::NotFound)?;
    let read = shop.store.read(move |connection| {
        let order = orders::by_token(connection, &token)?.ok_or(PageError::NotFound)?;
        let payment = payments::of_order(connection, order.id)?.ok_or(PageError::NotFound)?;
        Ok::<_, PageError>((order, payment))
    });
    let (order, payment) = read.await?;
    Ok(Sale { order, payment, cashier })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct After {
    /// `closed`, `failed`, `sent`: how the checkout was left.
    after: String,
}

/// The page from which one pays. It writes nothing, however often it is loaded.
async fn show(
    visit: Visit,
    Path(token): Path<String>,
    query: Result<Query<After>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, PageError> {
    let Query(After { after }) = query.unwrap_or_default();
    let Sale { order, payment, cashier } = sale(&visit.shop, token).await?;
    let view = match order.state.as_str() {
        "awaiting-payment" if payment.status == "authorized" || after == "sent" => "waiting",
        "awaiting-payment" if payment.held_seconds <= MARGIN => "over",
        "awaiting-payment" if payment.razorpay_order_id.is_none() => "unopened",
        "awaiting-payment" => "ready",
        "expired" => "over",
        _ => return Ok(visit.go_to(&format!("/order/{}", order.token))),
    };
    let opens = view == "ready" && after.is_empty();
    let seconds = (payment.held_seconds - MARGIN).clamp(0, LONGEST);
    let values = context! {
        view => view,
        after => after,
        // Once by itself; who comes back from the checkout decides.
        opens => opens,
        seconds => seconds,
        held_until => payment.held_until,
        last_error => payment.last_error.filter(|_| payment.status == "failed"),
        razorpay_order_id => payment.razorpay_order_id,
        key_id => cashier.gateway.key_id.as_str(),
        checkout_js => cashier.gateway.checkout_js.as_str(),
        simulated => visit.shop.settings.payments.mode == PaymentMode::Simulator,
        test => visit.shop.settings.payments.mode == PaymentMode::Test,
        order => Serde(order),
    };
    let mut response = visit.page(StatusCode::OK, "pay.html", values)?;
    let headers = response.headers_mut();
    if view == "waiting" {
        headers.insert(HeaderName::from_static("refresh"), HeaderValue::from_static("4"));
    }
    if let Ok(policy) = HeaderValue::from_str(&policy(&cashier.gateway)) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    // Banks open in windows of the checkout, which must be able to answer it.
    let opener = HeaderValue::from_static("same-origin-allow-popups");
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), opener);
    Ok(response)
}

/// The shop's policy, and what the checkout's script needs beside: its own host, its frame, and for the real one
/// the hosts that it loads from and reports to.
fn policy(gateway: &Gateway) -> String {
    let script = origin(&gateway.checkout_js);
    let (more, frame, reports) = if script == "https://checkout.razorpay.com" {
        let reports = "https://lumberjack.razorpay.com https://lumberjack-metrics.razorpay.com";
        (" https://cdn.razorpay.com", "https://api.razorpay.com", reports)
    } else {
        ("", script, "'none'")
    };
    format!(
        "default-src 'none'; style-src 'self'; img-src 'self'{more}; script-src 'self' {script}{more}; \
         frame-src {frame}; connect-src {reports}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// Scheme, host and port of an address.
fn origin(address: &str) -> &str {
    let after = address.find("://").map_or(0, |at| at + 3);
    let end = address[after..].find('/').map_or(address.len(), |at| after + at);
    &address[..end]
}

/// Asks the gateway once more for an order that it did not give before.
async fn try_again(Path(token): Path<String>, form: CheckedForm) -> Result<Response, PageError> {
    let shop = form.visit.shop.clone();
    let Sale { order, payment, cashier } = sale(&shop, token).await?;
    if order.state == "awaiting-payment"
        && let Err(error) = cashier.open(&shop.store, &payment, false).await
    {
        log::error(format_args!("payment of order {} cannot be opened", order.id), &error);
    }
    Ok(form.visit.go_to(&address(&order.token)))
}

/// The three fields that the checkout gives, and those that it gives when it failed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CameBack {
    razorpay_order_id: String,
    razorpay_payment_id: String,
    razorpay_signature: String,
    #[serde(rename = "error[code]")]
    error: String,
}

/// The customer is back from the checkout. What is sent here may come from the gateway's own page, so there is no
/// form token: the signature is the proof, over the order id that is stored with this order.
async fn came_back(
    visit: Visit,
    Path(token): Path<String>,
    fields: Result<Form<CameBack>, axum::extract::rejection::FormRejection>,
) -> Result<Response, PageError> {
    let Form(fields) = fields.map_err(|_| PageError::refused("refusal.form-unreadable"))?;
    let shop = visit.shop.clone();
    let Sale { order, payment, cashier } = sale(&shop, token).await?;
    let page = address(&order.token);
    if !fields.error.is_empty() {
        return Ok(visit.go_to(&format!("{page}?after=failed")));
    }
    let proof = Proof {
        order_id: fields.razorpay_order_id,
        payment_id: fields.razorpay_payment_id,
        signature: fields.razorpay_signature,
    };
    match cashier.prove(&shop.store, &payment, &proof).await {
        Ok(Proved::Paid) => Ok(visit.go_to(&format!("/order/{}", order.token))),
        Ok(Proved::Waiting) => Ok(visit.go_to(&format!("{page}?after=sent"))),
        Ok(Proved::Forged) => {
            log::info(format_args!("order {}: a payment was claimed without proof", order.id));
            Err(PageError::refused("refusal.no-proof"))
        }
        Err(error) => {
            log::error(format_args!("payment of order {}: it is looked at again", order.id), &error);
            Ok(visit.go_to(&format!("{page}?after=sent")))
        }
    }
}

/// The gateway tells of something. 2xx: never tell again; 4xx: not from the gateway; 5xx: tell again later.
async fn webhook(
    State(shop): State<Arc<Shop>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, PageError> {
    let cashier = shop.cashier.clone().ok_or(PageError::NotFound)?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Over the bytes as they came: read and written again, they would be other bytes.
    if !signature::of_webhook(&body, text("x-razorpay-signature"), cashier.webhook_secrets()) {
        return Err(PageError::refused("refusal.signature"));
    }
    let event_id = text("x-razorpay-event-id");
    if event_id.is_empty() || event_id.len() > 100 {
        return Err(PageError::refused("refusal.event-id"));
    }
    let Ok(told) = serde_json::from_slice::<Told>(&body) else {
        return Err(PageError::refused("refusal.event"));
    };
    let event = told.event.clone();
    let outcome = cashier.hear(&shop.store, event_id.to_owned(), told).await?;
    log::info(format_args!("webhook {event}: {outcome}"));
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://checkout.razorpay.com/v1/checkout.js"), "https://checkout.razorpay.com");
        assert_eq!(origin("http://127.0.0.1:8790"), "http://127.0.0.1:8790");
    }

    #[test]
    fn the_real_checkout_may_load_what_it_is_known_to_load_and_nothing_else() {
        let gateway = Gateway {
            key_id: "rzp_live_00000000000000".to_owned(),
            key_secret: Secret(Vec::new()),
            webhook_secrets: Vec::new(),
            api_base: "https://api.razorpay.com".to_owned(),
            checkout_js: "https://checkout.razorpay.com/v1/checkout.js".to_owned(),
        };
        assert_eq!(
            policy(&gateway),
            "default-src 'none'; style-src 'self'; img-src 'self' https://cdn.razorpay.com; script-src 'self' \
             https://checkout.razorpay.com https://cdn.razorpay.com; frame-src https://api.razorpay.com; connect-src \
             https://lumberjack.razorpay.com https://lumberjack-metrics.razorpay.com; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'"
        );
    }
}
