//! How Razorpay says no.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An error answer: the status and the documented envelope.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    pub(crate) description: String,
    field: Option<&'static str>,
}

impl Refusal {
    /// The request is at fault: 400.
    pub(crate) fn bad(description: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::BAD_REQUEST, "BAD_REQUEST_ERROR");
        Self { status, code, description: description.into(), field: None }
    }

    /// A field of the request is at fault: 400, with the field's name.
    pub(crate) fn field(field: &'static str, description: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::bad(description) }
    }

    /// No such entity. Razorpay answers 400 and not 404.
    pub(crate) fn unknown_id() -> Self {
        Self::bad("The id provided does not exist")
    }

    /// The key or its secret is wrong: 401.
    pub(crate) fn unauthorised() -> Self {
        Self { status: StatusCode::UNAUTHORIZED, ..Self::bad("The api key provided is invalid") }
    }

    /// The same request is still being worked on: 409.
    pub(crate) fn in_progress() -> Self {
        let text = "Another request with the same idempotency key is in progress.";
        Self { status: StatusCode::CONFLICT, ..Self::bad(text) }
    }

    /// What the simulator was told to answer.
    pub(crate) fn of_status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (code, description) = match status.as_u16() {
            429 => ("BAD_REQUEST_ERROR", "Request failed. Please try after sometime."),
            502..=504 => ("GATEWAY_ERROR", "The gateway did not answer. Please try after sometime."),
            500.. => ("SERVER_ERROR", "We are facing some trouble completing your request at the moment."),
            _ => ("BAD_REQUEST_ERROR", "The request was refused."),
        };
        Self { status, code, description: description.to_owned(), field: None }
    }

    /// The documented envelope.
    pub(crate) fn body(&self) -> Value {
        let (source, step, reason) = match self.field {
            Some(_) => ("business", "payment_initiation", "input_validation_failed"),
            None => ("NA", "NA", "NA"),
        };
        json!({ "error": {
            "code": self.code,
            "description": self.description,
            "source": source,
            "step": step,
            "reason": reason,
            "metadata": {},
            "field": self.field,
        }})
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (self.status, kind, self.body().to_string()).into_response()
    }
}
