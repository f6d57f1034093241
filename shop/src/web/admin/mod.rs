//! Running the shop.

mod dashboard;
mod delivery;
mod log;
mod login;
mod messages;
mod orders;
mod products;

use std::sync::Arc;

use axum::Router;

use super::Shop;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .merge(login::routes())
        .merge(dashboard::routes())
        .merge(products::routes())
        .merge(orders::routes())
        .merge(delivery::routes())
        .merge(messages::routes())
        .merge(log::routes())
}
