//! What a page answers when it cannot do what was asked. The cause is logged and never shown.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};

use crate::db::StoreError;
use crate::texts::{Language, Say, Words};

/// Why a request was refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("there is no such page")]
    NotFound,
    #[error("this address does not take that method")]
    Method,
    #[error("{0}")]
    BadRequest(Words),
    #[error("{0}")]
    Forbidden(Words),
    /// The request is understood and cannot be done now.
    #[error("{0}")]
    Conflict(Words),
    /// A field has a value that it cannot have.
    #[error("{0}")]
    Invalid(Words),
    /// A field that takes a whole number has something else.
    #[error("{field} is not a whole number from {from} to {to}")]
    NoNumber { field: String, from: i64, to: i64 },
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
    #[error("a password could not be hashed")]
    Unhashed,
    #[error("template {name} failed")]
    Template { name: String, source: minijinja::Error },
}

impl From<rusqlite::Error> for PageError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Store(source.into())
    }
}

impl PageError {
    /// A request that makes no sense, with the name of the text that says why.
    pub(crate) fn refused(name: &'static str) -> Self {
        Self::BadRequest(Say::new(name).into())
    }

    /// What the visitor is told, in the visitor's language.
    pub(crate) fn told(&self, language: &Language) -> String {
        let name = match self {
            Self::BadRequest(words)
            | Self::Forbidden(words)
            | Self::Conflict(words)
            | Self::Invalid(words) => {
                return language.words(words);
            }
            Self::NoNumber { field, from, to } => {
                let named = language.text(&format!("named.{field}"), None);
                // Fields of the shop's own forms have no name in other languages.
                let named = named.map_or_else(|| field.replace('_', " "), str::to_owned);
                let say = Say::new("refusal.number").with("field", named).with("from", from).with("to", to);
                return language.say(&say);
            }
            Self::NotFound => "error.text-404",
            Self::Method => "refusal.method",
            Self::TooLarge => "refusal.too-large",
            Self::SignInFirst => "refusal.sign-in",
            Self::MembersOnly => "refusal.members",
            Self::TooOften => "refusal.too-often",
            Self::TimedOut => "refusal.timed-out",
            Self::Store(_) | Self::Unhashed | Self::Template { .. } => "error.text-500",
        };
        language.plain(name)
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Invalid(_) | Self::NoNumber { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SignInFirst | Self::MembersOnly => StatusCode::SEE_OTHER,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(_) | Self::Unhashed | Self::Template { .. } => StatusCode::INTERNAL_SERVER_ERROR,
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
