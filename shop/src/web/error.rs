//! What a page answers when it cannot do what was asked. The cause is logged and never shown.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};

use crate::db::StoreError;

/// Why a request was refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("there is no such page")]
    NotFound,
    #[error("this address does not take that method")]
    Method,
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("{0}")]
    Forbidden(&'static str),
    /// The request is understood and cannot be done now.
    #[error("{0}")]
    Conflict(String),
    /// A field has a value that it cannot have.
    #[error("{0}")]
    Invalid(String),
    #[error("the form is too large")]
    TooLarge,
    #[error("the page is for those who run the shop")]
    SignInFirst,
    #[error("the page is for customers with an account")]
    MembersOnly,
    #[error("that was too often; please wait a few minutes")]
    TooOften,
    #[error("the page took too long")]
    TimedOut,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("template {name} failed")]
    Template { name: String, source: minijinja::Error },
}

impl From<rusqlite::Error> for PageError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Store(source.into())
    }
}

impl PageError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SignInFirst | Self::MembersOnly => StatusCode::SEE_OTHER,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(_) | Self::Template { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for PageError {
    /// The bare status with the error beside it: `guard` turns it into a page in the shop's look, because only
    /// there the request is known.
    fn into_response(self) -> Response {
        if matches!(self, Self::SignInFirst) {
            return Redirect::to("/admin/login").into_response();
        }
        if matches!(self, Self::MembersOnly) {
            return Redirect::to("/account/login").into_response();
        }
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}
