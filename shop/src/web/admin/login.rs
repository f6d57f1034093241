//! Signing in and out.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use minijinja::context;

use crate::db::{StoreError, sessions, users};
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::form::{AdminForm, CheckedForm};
use crate::web::visit::Visit;
use crate::{log, password};

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/admin/login", get(show).post(sign_in)).route("/admin/logout", post(sign_out))
}

async fn show(visit: Visit) -> Result<Response, PageError> {
    page(&visit, StatusCode::OK, "")
}

fn page(visit: &Visit, status: StatusCode, notice: &str) -> Result<Response, PageError> {
    visit.page(status, "admin/login.html", context! { notice => notice })
}

async fn sign_in(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    form: CheckedForm,
) -> Result<Response, PageError> {
    let shop = form.visit.shop.clone();
    let email = form.text("email").to_owned();
    let client = client(&form.headers, peer);
    if !shop.throttle.allows(&client, &email) {
        log::info(format_args!("admin login refused for 15 minutes: too many failures from {client}"));
        let notice = "Too many failed attempts. Please wait fifteen minutes.";
        return page(&form.visit, StatusCode::TOO_MANY_REQUESTS, notice);
    }
    let wanted = email.clone();
    let user = shop.store.read(move |connection| users::by_email(connection, &wanted)).await?;
    let user = user.filter(|user| user.role == "admin");
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let typed = form.text("password").to_owned();
    let permit = shop.hashing.acquire().await.ok();
    let right = tokio::task::spawn_blocking(move || password::verify(&typed, hash.as_deref())).await;
    drop(permit);
    let right = right.map_err(StoreError::from)?;
    let Some(user) = user.filter(|_| right) else {
        shop.throttle.failed(&client, &email);
        log::info(format_args!("admin login failed from {client}"));
        return page(&form.visit, StatusCode::UNAUTHORIZED, "E-mail or password is wrong.");
    };
    let session = shop.store.write(move |transaction| sessions::open(transaction, user.id)).await?;
    log::info(format_args!("admin {} signed in", user.id));
    let mut response = form.visit.go_to("/admin");
    form.visit.sign_in(&mut response, &session);
    Ok(response)
}

async fn sign_out(AdminForm { form, .. }: AdminForm) -> Result<Response, PageError> {
    let visit = &form.visit;
    if let Some(session) = visit.session().map(str::to_owned) {
        visit.shop.store.write(move |transaction| sessions::end(transaction, &session)).await?;
    }
    let mut response = visit.go_to("/admin/login");
    visit.sign_out(&mut response);
    Ok(response)
}

/// Where a request came from: what the proxy on this machine says, else the peer itself.
fn client(headers: &HeaderMap, peer: SocketAddr) -> String {
    let forwarded =
        headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok());
    match forwarded {
        // The last entry is the one that our own proxy added.
        Some(list) if peer.ip().is_loopback() => list.rsplit(',').next().unwrap_or(list).trim().to_owned(),
        _ => peer.ip().to_string(),
    }
}
