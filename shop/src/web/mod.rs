//! The pages, one file per group.

mod admin;
mod cart;
mod catalogue;
mod checkout;
mod error;
mod form;
mod guard;
mod health;
mod order;
pub(crate) mod page;
mod visit;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::get;

use crate::db::Store;
use crate::settings::Secret;
use crate::sign::Signer;
use crate::throttle::Throttle;
use error::PageError;
use page::{Pages, PagesError};

/// The largest form that is taken, in bytes.
const FORM_BYTES: usize = 64 * 1024;

/// What every page needs.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) store: Store,
    pub(crate) pages: Pages,
    pub(crate) signer: Signer,
    pub(crate) release: String,
    pub(crate) throttle: Throttle,
    /// Each password hash takes 19 MiB: this many at once.
    pub(crate) hashing: tokio::sync::Semaphore,
}

impl Shop {
    /// Reads templates and static files from `home`.
    pub(crate) fn new(store: Store, home: &Path, release: &str, secret: Secret) -> Result<Self, PagesError> {
        Ok(Self {
            store,
            pages: Pages::read(home)?,
            signer: Signer::new(secret),
            release: release.to_owned(),
            throttle: Throttle::default(),
            hashing: tokio::sync::Semaphore::new(2),
        })
    }
}

/// All routes, behind what guards every answer.
pub(crate) fn router(shop: Arc<Shop>) -> Router {
    Router::new()
        .merge(catalogue::routes())
        .merge(cart::routes())
        .merge(checkout::routes())
        .merge(order::routes())
        .merge(admin::routes())
        .route("/healthz", get(health::show))
        .route("/static/{*path}", get(page::asset))
        .fallback(async || PageError::NotFound)
        .method_not_allowed_fallback(async || PageError::Method)
        .layer(middleware::from_fn_with_state(shop.clone(), guard::every_answer))
        .with_state(shop)
}
