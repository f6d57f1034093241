//! The orders: list, one of them, moving it on, giving money back, what to take from the shelves.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;
use serde::Deserialize;

use crate::db::audit;
use crate::db::orders::{self, Actor, Filter, Moved, State};
use crate::money::{Rupees, parse_rupees, plain_rupees};
use crate::texts::Words;
use crate::web::Shop;
use crate::web::catalogue::page_number;
use crate::web::error::PageError;
use crate::web::form::AdminForm;
use crate::web::visit::AdminVisit;
use crate::{csv, log};

/// How many orders a page of the list shows.
const SHOWN: i64 = 100;

/// How many orders a table holds at most.
const EXPORTED: i64 = 100_000;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/admin/orders", get(list))
        .route("/admin/orders.csv", get(export))
        .route("/admin/orders/{id}", get(one))
        .route("/admin/orders/{id}/state", post(set_state))
        .route("/admin/orders/{id}/refund", post(refund))
        .route("/admin/pick", get(pick))
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    state: String,
    #[serde(default)]
    day: String,
    #[serde(default)]
    page: String,
}

impl Asked {
    fn filter(&self) -> Result<Filter, PageError> {
        let day = match self.day.as_str() {
            "" => None,
            text => Some(text.parse::<jiff::civil::Date>().map_err(|_| PageError::NotFound)?.to_string()),
        };
        Ok(Filter { state: State::named(&self.state), day, wishes: self.state == "refund-wishes" })
    }
}

type AskedQuery = Result<Query<Asked>, axum::extract::rejection::QueryRejection>;

fn asked(query: AskedQuery) -> Result<Asked, PageError> {
    query.map(|Query(asked)| asked).map_err(|_| PageError::refused("refusal.address-unreadable"))
}

async fn list(who: AdminVisit, query: AskedQuery) -> Result<Response, PageError> {
    let asked = asked(query)?;
    let (filter, page) = (asked.filter()?, page_number(&asked.page)?);
    let wanted = filter.clone();
    let read = who.visit.shop.store.read(move |connection| {
        Ok::<_, PageError>(orders::filtered(connection, &wanted, SHOWN + 1, (page - 1) * SHOWN)?)
    });
    let mut orders = read.await?;
    let more = orders.len() > usize::try_from(SHOWN).unwrap_or(usize::MAX);
    orders.truncate(usize::try_from(SHOWN).unwrap_or(usize::MAX));
    let state =
        if filter.wishes { "refund-wishes" } else { filter.state.map(State::name).unwrap_or_default() };
    let values = context! {
        orders => Serde(orders),
        states => Serde(State::ALL.map(State::name)),
        state => state,
        day => asked.day,
        page => page,
        more => more,
    };
    who.page(StatusCode::OK, "admin/orders.html", values)
}

async fn export(who: AdminVisit, query: AskedQuery) -> Result<Response, PageError> {
    let filter = asked(query)?.filter()?;
    let read = who
        .visit
        .shop
        .store
        .read(move |connection| Ok::<_, PageError>(orders::filtered(connection, &filter, EXPORTED, 0)?));
    let orders = read.await?;
    let mut table = String::new();
    let heading = [
        "order",
        "placed",
        "state",
        "payment",
        "paid",
        "total",
        "refunded",
        "delivery day",
        "slot",
        "name",
        "phone",
        "email",
        "address",
        "city",
        "pincode",
        "region",
        "pieces",
    ];
    csv::push_row(&mut table, &heading);
    for order in orders {
        let slot = order.slot_starts.iter().chain(&order.slot_ends).cloned().collect::<Vec<_>>().join("-");
        let row = [
            &order.id.to_string(),
            &order.created_at,
            &order.state,
            &order.payment_method,
            &order.payment_status,
            &plain_rupees(order.total_paise),
            &plain_rupees(order.refunded_paise),
            order.delivery_day.as_deref().unwrap_or_default(),
            &slot,
            &order.customer_name,
            &order.phone,
            order.email.as_deref().unwrap_or_default(),
            &order.address,
            &order.city,
            &order.pincode,
            &order.region,
            &order.pieces.to_string(),
        ];
        csv::push_row(&mut table, &row);
    }
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"orders.csv\""),
    ];
    Ok((headers, table).into_response())
}

async fn pick(who: AdminVisit, query: AskedQuery) -> Result<Response, PageError> {
    let filter = asked(query)?.filter()?;
    let day = filter.day.clone();
    let read = who.visit.shop.store.read(move |connection| {
        let day = filter.day.clone();
        let picks = orders::pick_list(connection, day.as_deref())?;
        let waiting = Filter { state: Some(State::Placed), day: None, ..filter };
        let mut waiting = orders::filtered(connection, &waiting, 500, 0)?;
        waiting.retain(|order| day.is_none() || order.delivery_day.is_none() || order.delivery_day == day);
        Ok::<_, PageError>((picks, waiting))
    });
    let (picks, orders) = read.await?;
    let values = context! { picks => Serde(picks), orders => Serde(orders), day => day.unwrap_or_default() };
    who.page(StatusCode::OK, "admin/pick.html", values)
}

async fn one(who: AdminVisit, Path(id): Path<String>) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let read = who.visit.shop.store.read(move |connection| {
        let order = orders::by_id(connection, id)?.ok_or(PageError::NotFound)?;
        let items = orders::items(connection, id)?;
        Ok::<_, PageError>((order, items, orders::history(connection, id)?, orders::refunds(connection, id)?))
    });
    let (order, items, history, refunds) = read.await?;
    let next: Vec<&str> = State::named(&order.state)
        .map(|state| state.next(Actor::Admin).iter().map(|next| next.name()).collect())
        .unwrap_or_default();
    let refundable = if matches!(order.payment_status.as_str(), "paid" | "part-refunded") {
        order.total_paise - order.refunded_paise
    } else {
        0
    };
    let values = context! {
        order => Serde(order),
        items => Serde(items),
        history => Serde(history),
        refunds => Serde(refunds),
        next => Serde(next),
        refundable => refundable,
        refundable_typed => plain_rupees(refundable),
        refund_key => orders::new_refund_key(),
    };
    who.page(StatusCode::OK, "admin/order.html", values)
}

async fn set_state(
    Path(id): Path<String>,
    AdminForm { form, who }: AdminForm,
) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let to = State::named(form.text("state"))
        .ok_or_else(|| PageError::Invalid(Words::english("there is no such state of an order")))?;
    let admin = who.admin.clone();
    let write = who.visit.shop.store.write(move |transaction| {
        match orders::move_to(transaction, id, to, Actor::Admin, "")? {
            Moved::Done => {}
            Moved::Unknown => return Err(PageError::NotFound),
            Moved::NotFrom(from) => {
                let text = format!("the order is {} by now and cannot become {}", from.name(), to.name());
                return Err(PageError::Conflict(Words::english(text)));
            }
        }
        audit::note(transaction, &admin, to.name(), &format!("order {id}"), "")?;
        let order = orders::by_id(transaction, id)?.ok_or(PageError::NotFound)?;
        if to == State::Cancelled
            && order.payment_method == "razorpay"
            && matches!(order.payment_status.as_str(), "paid" | "part-refunded")
        {
            let rest = order.total_paise - order.refunded_paise;
            let key = format!("refund-cancelled-{id}");
            let refund = orders::refund(transaction, id, rest, "cancelled by the shop", Actor::Admin, &key)?;
            refund.map_err(|refused| PageError::Conflict(Words::english(refused.to_string())))?;
        }
        Ok(())
    });
    write.await?;
    log::info(format_args!("order {id} is {}", to.name()));
    Ok(who.visit.go_to(&format!("/admin/orders/{id}")))
}

async fn refund(Path(id): Path<String>, AdminForm { form, who }: AdminForm) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let amount = parse_rupees(form.text("amount"))
        .ok_or_else(|| PageError::Invalid(Words::english("the amount must be one such as 49 or 49.50")))?;
    let reason = form.line("reason", 3..=200, Words::english("please say what it is for"))?;
    let key = form.text("key").to_owned();
    let fits = (10..=60).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !fits || reason == "paid twice" {
        return Err(PageError::Invalid(Words::english("the form is not complete; reload the page")));
    }
    let admin = who.admin.clone();
    let write = who.visit.shop.store.write(move |transaction| {
        match orders::refund(transaction, id, amount, &reason, Actor::Admin, &key)? {
            Ok(_) => {
                let detail = format!("{}: {reason}", Rupees(amount));
                Ok(audit::note(transaction, &admin, "refund", &format!("order {id}"), &detail)?)
            }
            // The same form twice is one refund.
            Err(orders::RefundRefused::Twice) => Ok(()),
            Err(orders::RefundRefused::Unknown) => Err(PageError::NotFound),
            Err(refused) => Err(PageError::Conflict(Words::english(refused.to_string()))),
        }
    });
    write.await?;
    Ok(who.visit.go_to(&format!("/admin/orders/{id}")))
}
