//! Today at a glance.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use minijinja::context;
use minijinja::value::Serde;

use crate::db::{orders, products};
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::visit::AdminVisit;

/// Fewer than this many left is worth a look.
const LOW: i64 = 10;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/admin", get(show))
}

async fn show(who: AdminVisit) -> Result<Response, PageError> {
    let midnight = start_of_day(jiff::Timestamp::now());
    let read = who.visit.shop.store.read(move |connection| {
        Ok::<_, PageError>((
            orders::taken_since(connection, &midnight)?,
            orders::newest(connection, Some(orders::State::Placed), 10)?,
            products::low_in_stock(connection, LOW)?,
        ))
    });
    let ((count, revenue), waiting, low) = read.await?;
    let values = context! {
        orders_today => count,
        revenue_today => revenue,
        waiting => Serde(waiting),
        low => Serde(low),
    };
    who.page(StatusCode::OK, "admin/dashboard.html", values)
}

/// The last midnight in India, as times are stored.
fn start_of_day(now: jiff::Timestamp) -> String {
    const INDIA: i64 = 5 * 3600 + 30 * 60;
    const DAY: i64 = 24 * 3600;
    let local = now.as_second() + INDIA;
    let midnight = local - local.rem_euclid(DAY) - INDIA;
    let midnight = jiff::Timestamp::from_second(midnight).unwrap_or(now);
    midnight.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_begins_at_midnight_in_india() {
        let at = |text: &str| start_of_day(text.parse().unwrap());
        assert_eq!(at("2026-03-01T18:29:59Z"), "2026-02-28T18:30:00Z");
        assert_eq!(at("2026-03-01T18:30:00Z"), "2026-03-01T18:30:00Z");
    }
}
