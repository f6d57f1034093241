//! Who did what.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use minijinja::context;
use minijinja::value::Serde;

use crate::db::audit;
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::visit::AdminVisit;

const SHOWN: i64 = 300;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/admin/log", get(show))
}

async fn show(who: AdminVisit) -> Result<Response, PageError> {
    let acts = who.visit.shop.store.read(|connection| Ok::<_, PageError>(audit::newest(connection, SHOWN)?));
    who.page(StatusCode::OK, "admin/log.html", context! { acts => Serde(acts.await?) })
}
