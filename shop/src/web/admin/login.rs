//! Signing in and out.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use minijinja::context;

use crate::db::{StoreError, audit, sessions, users};
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::form::{AdminForm, CheckedForm};
use crate::web::visit::Visit;
use crate::{log, second_factor};

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/admin/login", get(show).post(sign_in)).route("/admin/logout", post(sign_out))
}

async fn show(visit: Visit) -> Result<Response, PageError> {
    page(&visit, StatusCode::OK, "")
}

fn page(visit: &Visit, status: StatusCode, notice: &str) -> Result<Response, PageError> {
    visit.page(status, "admin/login.html", context! { notice => notice })
}

async fn sign_in(form: CheckedForm) -> Result<Response, PageError> {
    let shop = form.visit.shop.clone();
    let email = form.text("email").to_owned();
    let client = form.client.clone();
    if !shop.throttle.begins(&client, &email) {
        log::info(format_args!("admin login refused for 15 minutes: too many failures from {client}"));
        let notice = "Too many failed attempts. Please wait fifteen minutes.";
        return page(&form.visit, StatusCode::TOO_MANY_REQUESTS, notice);
    }
    let wanted = email.clone();
    let user = shop.store.read(move |connection| users::by_email(connection, &wanted)).await?;
    let user = user.filter(|user| user.role == "admin");
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let right = shop.password_is_right(form.text("password"), hash).await?;
    let now = jiff::Timestamp::now().as_second();
    // Password and code are judged together: a stranger learns of neither alone.
    let step = user
        .as_ref()
        .and_then(|user| user.second_factor.as_deref())
        .and_then(|secret| second_factor::step_of(secret, form.text("code"), now));
    let session = match (user, step) {
        (Some(user), Some(step)) if right => {
            let write = shop.store.write(move |transaction| {
                if !users::use_step(transaction, user.id, step)? {
                    return Ok(None);
                }
                let session = sessions::open(transaction, user.id)?;
                if let Some(admin) = sessions::admin(transaction, &session)? {
                    audit::note(transaction, &admin, "sign in", "admin", "")?;
                }
                Ok::<_, StoreError>(Some(session))
            });
            write.await?
        }
        _ => None,
    };
    let Some(session) = session else {
        log::info(format_args!("admin login failed from {client}"));
        return page(&form.visit, StatusCode::UNAUTHORIZED, "E-mail, password or code is wrong.");
    };
    shop.throttle.succeeded(&client, &email);
    log::info("an admin signed in");
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
