//! A customer's order, under an address that nobody can guess.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use minijinja::context;
use minijinja::value::Serde;

use super::Shop;
use super::error::PageError;
use super::visit::Visit;
use crate::db::orders;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/order/{token}", get(show))
}

async fn show(visit: Visit, Path(token): Path<String>) -> Result<Response, PageError> {
    let read = visit.shop.store.read(move |connection| {
        let order = orders::by_token(connection, &token)?.ok_or(PageError::NotFound)?;
        let items = orders::items(connection, order.id)?;
        Ok::<_, PageError>((order, items))
    });
    let (order, items) = read.await?;
    visit.page(StatusCode::OK, "order.html", context! { order => Serde(order), items => Serde(items) })
}
