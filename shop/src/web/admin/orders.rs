//! The orders: list, one of them, and moving it on.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;
use serde::Deserialize;

use crate::db::orders::{self, Moved, State};
use crate::log;
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::form::AdminForm;
use crate::web::visit::AdminVisit;

/// How many orders the list shows.
const SHOWN: i64 = 200;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/admin/orders", get(list))
        .route("/admin/orders/{id}", get(one))
        .route("/admin/orders/{id}/state", post(set_state))
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default)]
    state: String,
}

async fn list(
    who: AdminVisit,
    query: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, PageError> {
    let Query(filter) = query.map_err(|_| PageError::BadRequest("the address could not be read"))?;
    let state = State::named(&filter.state);
    let orders =
        who.visit.shop.store.read(move |connection| orders::newest(connection, state, SHOWN)).await?;
    let values = context! {
        orders => Serde(orders),
        states => Serde(State::ALL.map(State::name)),
        state => state.map(State::name).unwrap_or_default(),
    };
    who.page(StatusCode::OK, "admin/orders.html", values)
}

async fn one(who: AdminVisit, Path(id): Path<String>) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let read = who.visit.shop.store.read(move |connection| {
        let order = orders::by_id(connection, id)?.ok_or(PageError::NotFound)?;
        let items = orders::items(connection, id)?;
        Ok::<_, PageError>((order, items))
    });
    let (order, items) = read.await?;
    let next: Vec<&str> = State::named(&order.state)
        .map(|state| state.next().iter().map(|next| next.name()).collect())
        .unwrap_or_default();
    let values = context! { order => Serde(order), items => Serde(items), next => Serde(next) };
    who.page(StatusCode::OK, "admin/order.html", values)
}

async fn set_state(
    Path(id): Path<String>,
    AdminForm { form, who }: AdminForm,
) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let to = State::named(form.text("state"))
        .ok_or_else(|| PageError::Invalid("there is no such state of an order".to_owned()))?;
    match who.visit.shop.store.write(move |transaction| orders::move_to(transaction, id, to)).await? {
        Moved::Done => {
            log::info(format_args!("order {id} is {}", to.name()));
            Ok(who.visit.go_to(&format!("/admin/orders/{id}")))
        }
        Moved::Unknown => Err(PageError::NotFound),
        Moved::NotFrom(from) => {
            let text = format!("the order is {} by now and cannot become {}", from.name(), to.name());
            Err(PageError::Conflict(text))
        }
    }
}
