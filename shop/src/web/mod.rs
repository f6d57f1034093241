//! The pages, one file per group.

mod account;
mod admin;
mod cards;
mod cart;
mod catalogue;
mod checkout;
mod contact;
mod error;
mod form;
mod guard;
mod health;
pub(crate) mod kept;
mod language;
mod metrics;
mod multipart;
mod order;
pub(crate) mod page;
mod pay;
mod pieces;
mod visit;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::get;

use crate::db::{Store, StoreError};
use crate::password::{self, AccountError, Whose};
use crate::paying::Cashier;
use crate::settings::{Secret, Settings};
use crate::sign::Signer;
use crate::throttle::{Pace, Throttle};
use error::PageError;
use page::{Pages, PagesError};

/// The largest form that is taken, in bytes.
const FORM_BYTES: usize = 64 * 1024;

/// The largest picture that is taken, in bytes.
const UPLOAD_BYTES: usize = 8 * 1024 * 1024;

/// What every page needs.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) store: Store,
    pub(crate) pages: Pages,
    pub(crate) signer: Signer,
    pub(crate) settings: Settings,
    /// Who takes online payments; `None` where all is paid at the door.
    pub(crate) cashier: Option<Arc<Cashier>>,
    pub(crate) throttle: Throttle,
    /// Checkouts and messages of one client.
    pub(crate) pace: Pace,
    /// Pages that are the same for many visitors.
    pub(crate) kept: kept::Kept,
    /// Who sells, as pages show it.
    pub(crate) seller: minijinja::Value,
    pub(crate) numbers: metrics::Numbers,
    /// Each password hash takes 19 MiB: this many at once.
    pub(crate) hashing: tokio::sync::Semaphore,
    /// Pictures that are being unpacked.
    pub(crate) unpacking: tokio::sync::Semaphore,
}

impl Shop {
    /// Reads templates and static files.
    pub(crate) fn new(store: Store, settings: Settings, secret: Secret) -> Result<Self, PagesError> {
        let cashier = settings.payments.gateway.clone().map(|gateway| Arc::new(Cashier::new(gateway)));
        Ok(Self {
            store,
            cashier,
            pages: Pages::read(&settings.home)?,
            signer: Signer::new(secret),
            throttle: Throttle::default(),
            pace: Pace::default(),
            kept: kept::Kept::default(),
            seller: minijinja::Value::from(minijinja::value::Serde(&settings.seller)),
            numbers: metrics::Numbers::default(),
            settings,
            hashing: tokio::sync::Semaphore::new(2),
            unpacking: tokio::sync::Semaphore::new(1),
        })
    }
}

impl Shop {
    /// Whether a password is the one that was hashed. Also without a hash, in the same time.
    pub(crate) async fn password_is_right(
        &self,
        typed: &str,
        hash: Option<String>,
    ) -> Result<bool, PageError> {
        let typed = typed.to_owned();
        let permit = self.hashing.acquire().await.ok();
        let right = tokio::task::spawn_blocking(move || password::verify(&typed, hash.as_deref())).await;
        drop(permit);
        Ok(right.map_err(StoreError::from)?)
    }

    /// Hashes a new password.
    pub(crate) async fn hash_password(
        &self,
        typed: String,
        whose: Whose,
    ) -> Result<Result<String, AccountError>, PageError> {
        let permit = self.hashing.acquire().await.ok();
        let hash = tokio::task::spawn_blocking(move || password::hash_new(&typed, whose)).await;
        drop(permit);
        Ok(hash.map_err(StoreError::from)?)
    }
}

/// All routes, behind what guards every answer.
pub(crate) fn router(shop: Arc<Shop>) -> Router {
    Router::new()
        .merge(catalogue::routes())
        .merge(cart::routes())
        .merge(checkout::routes())
        .merge(order::routes())
        .merge(pay::routes())
        .merge(account::routes())
        .merge(contact::routes())
        .merge(language::routes())
        .merge(admin::routes())
        .route("/healthz", get(health::show))
        .route("/metrics", get(metrics::show))
        .route("/image/{name}/{file}", get(page::picture))
        .route("/static/{*path}", get(page::asset))
        .fallback(async || PageError::NotFound)
        .method_not_allowed_fallback(async || PageError::Method)
        .layer(middleware::from_fn_with_state(shop.clone(), guard::every_answer))
        .with_state(shop)
}
