//! Today at a glance.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;

use crate::db::figures::Day;
use crate::db::{figures, messages, orders, products};
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::visit::AdminVisit;

/// Fewer than this many left is worth a look.
const LOW: i64 = 10;

/// How many days the picture shows.
const DAYS: i64 = 14;

/// The picture's height and the width of a day in it, in its own units.
const HEIGHT: i64 = 140;
const STEP: i64 = 40;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/admin", get(show))
}

/// A day as a bar of the picture.
#[derive(Serialize)]
struct Bar {
    day: Day,
    /// `1 Mar`.
    label: String,
    x: i64,
    y: i64,
    height: i64,
}

fn bars(days: Vec<Day>) -> Vec<Bar> {
    let most = days.iter().map(|day| day.paise).max().unwrap_or(0).max(1);
    let bar = |(place, day): (i64, Day)| {
        // A day with any revenue is seen.
        let height = (day.paise * HEIGHT / most).max(i64::from(day.paise > 0) * 2);
        let date = day.day.parse::<jiff::civil::Date>();
        Bar {
            label: date.map(|date| date.strftime("%-d %b").to_string()).unwrap_or_default(),
            x: place * STEP,
            y: HEIGHT - height,
            height,
            day,
        }
    };
    (0..).zip(days).map(bar).collect()
}

async fn show(who: AdminVisit) -> Result<Response, PageError> {
    let read = who.visit.shop.store.read(move |connection| {
        Ok::<_, PageError>((
            figures::days(connection, DAYS)?,
            orders::newest(connection, Some(orders::State::Placed), 10)?,
            products::low_in_stock(connection, LOW)?,
            messages::waiting(connection)?,
            figures::counts(connection)?,
        ))
    });
    let (days, waiting, low, messages, counts) = read.await?;
    let today = days.last().cloned();
    let count =
        |state: &str| counts.orders.iter().find(|(name, _)| name == state).map_or(0, |(_, count)| *count);
    let values = context! {
        orders_today => today.as_ref().map_or(0, |day| day.orders),
        revenue_today => today.as_ref().map_or(0, |day| day.paise),
        to_pack => count("placed"),
        bars => Serde(bars(days)),
        width => STEP * DAYS,
        height => HEIGHT,
        waiting => Serde(waiting),
        low => Serde(low),
        messages => messages,
        refunds_failed => counts.refunds_failed,
        mails_given_up => counts.mails_given_up,
    };
    who.page(StatusCode::OK, "admin/dashboard.html", values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_day_fills_the_picture_and_a_small_one_is_seen() {
        let day = |day: &str, paise| Day { day: day.to_owned(), orders: 1, paise };
        let bars = bars(vec![day("2026-02-28", 0), day("2026-03-01", 100), day("2026-03-02", 1_000_000)]);
        let heights: Vec<_> = bars.iter().map(|bar| bar.height).collect();
        assert_eq!(heights, [0, 2, HEIGHT]);
        assert!(bars.iter().all(|bar| bar.y + bar.height == HEIGHT));
        assert_eq!(bars[1].label, "1 Mar");
    }
}
