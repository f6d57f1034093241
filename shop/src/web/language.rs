//! The language in which the shop speaks to a visitor: what the visitor chose, kept in the browser.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::Response;
use axum::routing::post;

use super::Shop;
use super::cart::own_path;
use super::error::PageError;
use super::form::CheckedForm;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/language", post(choose))
}

async fn choose(form: CheckedForm) -> Result<Response, PageError> {
    let code = form.text("language");
    let known = form.visit.shop.pages.languages.iter().find(|language| language.code == code);
    let known = known.ok_or(PageError::refused("refusal.language"))?;
    // The page where the button was. Of what the browser says only the path is taken: it stays in this shop.
    let from = form.headers.get(header::REFERER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let back = from.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    let mut response = form.visit.go_to(back.and_then(own_path).unwrap_or("/"));
    form.visit.keep_language(&mut response, &known.code);
    Ok(response)
}
