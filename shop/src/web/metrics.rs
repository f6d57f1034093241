//! Numbers for Prometheus. Read on this machine, or with the token: they tell how much the shop sells.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Shop;
use super::error::PageError;
use crate::db::figures;
use crate::settings::Secret;

/// Upper bounds of the buckets, milliseconds.
const BOUNDS: [u64; 9] = [1, 2, 5, 10, 25, 50, 100, 500, 2500];

/// What this process has done since it started.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Answers by the hundreds of their status: 1xx to 5xx.
    statuses: [AtomicU64; 5],
    buckets: [AtomicU64; BOUNDS.len()],
    answers: AtomicU64,
    micros: AtomicU64,
    orders: AtomicU64,
}

impl Numbers {
    /// Counts an answer.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        if let Some(counter) = self.statuses.get(usize::from(status / 100).saturating_sub(1)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            if micros <= bound * 1000 {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts an order.
    pub(crate) fn order_placed(&self) {
        self.orders.fetch_add(1, Ordering::Relaxed);
    }
}

/// `GET /metrics`.
pub(crate) async fn show(
    State(shop): State<Arc<Shop>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    // What comes through a proxy on this machine comes from loopback too: its header gives it away.
    let here = peer.ip().is_loopback() && !headers.contains_key("x-forwarded-for");
    if !here && !knows_token(&headers, shop.settings.metrics_token.as_ref()) {
        return Err(PageError::NotFound);
    }
    let counts = shop.store.read(|connection| Ok::<_, PageError>(figures::counts(connection)?)).await?;
    let numbers = &shop.numbers;
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, rows: &[(String, String)]| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP greengrocer_{name} {help}\n# TYPE greengrocer_{name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(text, "greengrocer_{name}{labels} {value}");
        }
    };
    let one = |value: i64| vec![(String::new(), value.to_string())];
    let info = format!(
        "{{release=\"{}\",payment_mode=\"{}\"}}",
        shop.settings.release.replace(['\\', '"', '\n'], "_"),
        shop.settings.payments.mode.name()
    );
    metric("info", "gauge", "What runs here.", &[(info, "1".to_owned())]);
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
    let statuses: Vec<_> = numbers
        .statuses
        .iter()
        .zip(1..)
        .map(|(counter, hundred)| (format!("{{status=\"{hundred}xx\"}}"), load(counter)))
        .collect();
    metric("http_responses_total", "counter", "Answers by status.", &statuses);
    let mut buckets: Vec<_> = BOUNDS
        .iter()
        .zip(&numbers.buckets)
        .map(|(bound, bucket)| (format!("_bucket{{le=\"{}\"}}", *bound as f64 / 1000.0), load(bucket)))
        .collect();
    buckets.push(("_bucket{le=\"+Inf\"}".to_owned(), load(&numbers.answers)));
    let seconds = numbers.micros.load(Ordering::Relaxed) as f64 / 1e6;
    buckets.push(("_sum".to_owned(), format!("{seconds:.6}")));
    buckets.push(("_count".to_owned(), load(&numbers.answers)));
    metric("http_response_seconds", "histogram", "Time to answer.", &buckets);
    let placed = vec![(String::new(), load(&numbers.orders))];
    metric("orders_placed_total", "counter", "Orders placed by this process.", &placed);
    let orders: Vec<_> = counts
        .orders
        .iter()
        .map(|(state, count)| (format!("{{state=\"{state}\"}}"), count.to_string()))
        .collect();
    metric("orders", "gauge", "Orders in the database by state.", &orders);
    metric("products_for_sale", "gauge", "Products for sale.", &one(counts.products_for_sale));
    metric("mails_waiting", "gauge", "Mails that wait to be sent.", &one(counts.mails_waiting));
    metric("mails_given_up", "gauge", "Mails that could not be sent.", &one(counts.mails_given_up));
    let oldest = one(counts.oldest_mail_seconds);
    metric("oldest_mail_seconds", "gauge", "How long the oldest waiting mail has waited.", &oldest);
    metric("refunds_due", "gauge", "Refunds that are on their way.", &one(counts.refunds_due));
    metric("refunds_failed", "gauge", "Refunds that a person has to look at.", &one(counts.refunds_failed));
    metric("stock_holds", "gauge", "Orders that wait for their payment.", &one(counts.holds));
    metric("messages_waiting", "gauge", "Messages without an answer.", &one(counts.messages_waiting));
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// `Authorization: Bearer TOKEN`, compared so that the time tells nothing.
fn knows_token(headers: &HeaderMap, token: Option<&Secret>) -> bool {
    let Some(token) = token else { return false };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(given) = given.strip_prefix("Bearer ") else { return false };
    let hash = |text: &[u8]| Hmac::<Sha256>::new_from_slice(text).map(|mac| mac.chain_update(b"metrics"));
    match (hash(given.as_bytes()), hash(&token.0)) {
        (Ok(given), Ok(token)) => given.verify(&token.finalize().into_bytes()).is_ok(),
        _ => false,
    }
}
