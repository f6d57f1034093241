//! What holds for every answer: security headers, the release, and errors in the shop's look.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use minijinja::context;

use super::error::PageError;
use super::visit::{Visit, came_by_https};
use super::{FORM_BYTES, Shop, UPLOAD_BYTES};
use crate::log;

/// A request that takes longer than this is answered with 503.
const LONGEST: Duration = Duration::from_secs(30);

/// No script, no style but the shop's own files, no frame, forms only to the shop itself.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// Runs a request and completes its answer.
pub(crate) async fn every_answer(State(shop): State<Arc<Shop>>, request: Request, next: Next) -> Response {
    let began = std::time::Instant::now();
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let path = request.uri().path().to_owned();
    let limit = if path.ends_with("/images") { UPLOAD_BYTES } else { FORM_BYTES };
    let answer = async {
        match whole(request, limit).await {
            Ok(request) => next.run(request).await,
            Err(error) => error.into_response(),
        }
    };
    let mut response = match tokio::time::timeout(LONGEST, answer).await {
        Ok(response) => response,
        Err(_) => PageError::TimedOut.into_response(),
    };
    if let Some(error) = response.extensions_mut().remove::<Arc<PageError>>() {
        if response.status().is_server_error() {
            log::error(format_args!("{method} {path}"), error.as_ref());
        }
        response = explain(&shop, &headers, &error);
    }
    let release =
        HeaderValue::from_str(&shop.settings.release).unwrap_or(HeaderValue::from_static("unprintable"));
    let out = response.headers_mut();
    out.insert(HeaderName::from_static("x-release"), release);
    // The payment page has a policy of its own, with the gateway in it.
    if !out.contains_key(header::CONTENT_SECURITY_POLICY) {
        set(out, header::CONTENT_SECURITY_POLICY, POLICY);
    }
    set(out, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(out, header::X_FRAME_OPTIONS, "DENY");
    // Not `no-referrer`: browsers would then send `Origin: null` with the shop's own forms.
    set(out, header::REFERRER_POLICY, "same-origin");
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    if !out.contains_key(&opener) {
        set(out, opener, "same-origin");
    }
    set(out, HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()");
    if came_by_https(&headers) {
        set(out, header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    // Pages show the visitor's own basket; those that show more say no-store for themselves.
    if !out.contains_key(header::CACHE_CONTROL) {
        let private = method != Method::GET || is_private(&path) || response.status().is_server_error();
        let rule = if private { "no-store" } else { "private, no-cache" };
        set(response.headers_mut(), header::CACHE_CONTROL, rule);
    }
    shop.numbers.answered(response.status().as_u16(), began.elapsed());
    response
}

/// The request with its body read. A page that refuses a form unread has the connection closed under a client
/// that is still sending, or that has already sent its next request.
async fn whole(request: Request, limit: usize) -> Result<Request, PageError> {
    let (parts, mut body) = request.into_parts();
    let (mut bytes, mut read) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let broken = |_| PageError::refused("refusal.form-broke-off");
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        read += data.len();
        // What is too large is read on for a while, so that its sender gets to see the answer.
        if read > 4 * limit {
            return Err(PageError::TooLarge);
        }
        if read <= limit {
            bytes.extend_from_slice(&data);
        }
    }
    if read > limit {
        return Err(PageError::TooLarge);
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

fn is_private(path: &str) -> bool {
    ["/cart", "/checkout", "/order", "/pay", "/account", "/contact", "/admin", "/healthz", "/metrics"]
        .iter()
        .any(|private| path.starts_with(private))
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// The page for an error. Should that fail too, a line of plain text.
fn explain(shop: &Arc<Shop>, headers: &HeaderMap, error: &PageError) -> Response {
    let status = error.status();
    let visit = Visit::of(shop, headers);
    let text = error.told(visit.language());
    if wants_json(headers) {
        return json(status, &serde_json::json!({ "error": text }));
    }
    let page = context! { status => status.as_u16(), text => text.as_str() };
    // A page's own bug is an error answer; a bug in the error's page must still be one.
    match visit.page(status, "error.html", page) {
        Ok(response) => response,
        Err(error) => {
            log::error("error page", &error);
            (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{text}\n"))
                .into_response()
        }
    }
}

/// Whether a program asks, which reads JSON and no pages.
pub(crate) fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Who takes pages too is shown pages: browsers, and smoke tests that walk like one.
    accept.contains("application/json") && !accept.contains("text/html")
}

/// A JSON answer.
pub(crate) fn json(status: axum::http::StatusCode, value: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}
