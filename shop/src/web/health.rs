//! Whether the shop can sell: asked by whoever deploys it and watches over it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::{Shop, guard};
use crate::log;

/// A database that is locked for longer than this is not healthy.
const PATIENCE: Duration = Duration::from_secs(3);

/// `GET /healthz`: a real read and a write lock on the database; 503 when one fails.
pub(crate) async fn show(State(shop): State<Arc<Shop>>) -> Response {
    let probe = tokio::time::timeout(PATIENCE, shop.store.probe()).await;
    let (status, database, version) = match probe {
        Ok(Ok(version)) => ("ok", "ok", Some(version)),
        Ok(Err(error)) => {
            log::error("health", &error);
            ("failing", "failing", None)
        }
        Err(_) => ("failing", "locked", None),
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answer = json!({
        "status": status,
        "release": shop.settings.release,
        "schema_version": version,
        "payment_mode": shop.settings.payments.mode.name(),
        "database": database,
    });
    guard::json(code, &answer)
}
