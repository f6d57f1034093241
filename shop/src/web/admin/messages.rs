//! What customers write, and answers to it.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;

use crate::db::{audit, messages};
use crate::texts::Words;
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::form::AdminForm;
use crate::web::visit::AdminVisit;

const SHOWN: i64 = 100;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/admin/messages", get(show)).route("/admin/messages/{id}", post(answer))
}

async fn show(who: AdminVisit) -> Result<Response, PageError> {
    let read =
        who.visit.shop.store.read(|connection| Ok::<_, PageError>(messages::newest(connection, SHOWN)?));
    who.page(StatusCode::OK, "admin/messages.html", context! { messages => Serde(read.await?) })
}

async fn answer(Path(id): Path<String>, AdminForm { form, who }: AdminForm) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let text = form.lines("answer", 0..=4000, Words::english("an answer has at most 4000 letters"))?;
    let admin = who.admin.clone();
    let write = who.visit.shop.store.write(move |transaction| {
        let act = if text.is_empty() { "close" } else { "answer" };
        audit::note(transaction, &admin, act, &format!("message {id}"), "")?;
        if messages::answer(transaction, id, &text)? { Ok(()) } else { Err(PageError::NotFound) }
    });
    write.await?;
    Ok(who.visit.go_to("/admin/messages"))
}
