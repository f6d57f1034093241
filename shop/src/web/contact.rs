//! Who sells, on which terms, and how to reach them.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use minijinja::context;
use minijinja::value::Serde;

use super::Shop;
use super::error::PageError;
use super::form::CheckedForm;
use super::visit::Visit;
use crate::db::delivery::{self, DELIVERY_PAISE, FREE_FROM_PAISE};
use crate::db::messages::{self, NewMessage};
use crate::password;
use crate::texts::Say;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/contact", get(show).post(write))
        .route("/terms", get(terms))
        .route("/robots.txt", get(robots))
        .route("/favicon.ico", get(favicon))
}

async fn show(visit: Visit) -> Result<Response, PageError> {
    visit.page(StatusCode::OK, "contact.html", context! { ticket => "" })
}

async fn terms(visit: Visit) -> Result<Response, PageError> {
    let read = visit.shop.store.read(|connection| Ok::<_, PageError>(delivery::served(connection)?));
    let regions = read.await?;
    let values = context! {
        regions => Serde(regions),
        delivery => DELIVERY_PAISE,
        free_delivery_from => FREE_FROM_PAISE,
    };
    visit.page(StatusCode::OK, "terms.html", values)
}

async fn write(form: CheckedForm) -> Result<Response, PageError> {
    if !form.visit.shop.pace.allows("message", &form.client) {
        return Err(PageError::TooOften);
    }
    let email = password::checked_email(form.text("email"))
        .map_err(|_| PageError::Invalid(Say::new("wrong.answer-to").into()))?;
    let order_id = match form.text("order") {
        "" => None,
        _ => Some(form.number("order", 1..=i64::MAX)?),
    };
    let new = NewMessage {
        name: form.line("name", 2..=80, Say::new("wrong.name"))?,
        email,
        phone: form.line("phone", 0..=20, Say::new("wrong.telephone"))?,
        order_id,
        language: form.visit.language().code.clone(),
        body: form.lines("body", 5..=4000, Say::new("wrong.message"))?,
    };
    // An inbox is not to be filled by strangers: the message is kept, and its ticket is on the page.
    let confirm = form.visit.shop.pace.allows_mail_to(&new.email);
    let write = move |transaction: &rusqlite::Transaction<'_>| messages::add(transaction, &new, confirm);
    let ticket = form.visit.shop.store.write(write).await?;
    form.visit.page(StatusCode::OK, "contact.html", context! { ticket => ticket })
}

async fn robots() -> &'static str {
    "User-agent: *\nDisallow: /cart\nDisallow: /checkout\nDisallow: /order/\nDisallow: /account\nDisallow: /admin\n"
}

async fn favicon(visit: Visit) -> Response {
    visit.go_to("/static/icons/leaf.svg")
}
