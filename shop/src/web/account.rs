//! Customers with an account: getting in, orders, addresses. An address is proved by a link in a mail, and no page
//! tells whether somebody has an account.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;

use super::Shop;
use super::error::PageError;
use super::form::{CheckedForm, MemberForm};
use super::visit::{MemberVisit, Visit};
use crate::cart::Cart;
use crate::db::{StoreError, members, orders, sessions, users};
use crate::log;
use crate::password::{self, AccountError, Whose};
use crate::texts::Say;

/// How many orders the account shows.
const SHOWN: i64 = 50;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/account", get(show))
        .route("/account/login", get(login).post(sign_in))
        .route("/account/logout", post(sign_out))
        .route("/account/register", get(register).post(send_link))
        .route("/account/forgot", get(forgot).post(send_link))
        .route("/account/link/{token}", get(choose).post(set_password))
        .route("/account/addresses/{id}/forget", post(forget))
}

async fn show(who: MemberVisit) -> Result<Response, PageError> {
    let id = who.member.id;
    let read = who.visit.shop.store.read(move |connection| {
        Ok::<_, PageError>((orders::of_member(connection, id, SHOWN)?, members::addresses(connection, id)?))
    });
    let (orders, addresses) = read.await?;
    let values = context! {
        orders => Serde(orders),
        addresses => Serde(addresses),
        email => who.member.email.as_str(),
        name => who.member.name.as_str(),
    };
    who.visit.page(StatusCode::OK, "account/show.html", values)
}

async fn login(visit: Visit) -> Result<Response, PageError> {
    login_page(&visit, StatusCode::OK, None)
}

fn login_page(
    visit: &Visit,
    status: StatusCode,
    notice: Option<&'static str>,
) -> Result<Response, PageError> {
    let notice = notice.map(|name| visit.say(&Say::new(name)));
    visit.page(status, "account/login.html", context! { notice => notice })
}

async fn sign_in(form: CheckedForm) -> Result<Response, PageError> {
    let shop = form.visit.shop.clone();
    let email = form.text("email").to_owned();
    if !shop.throttle.begins(&form.client, &email) {
        return login_page(&form.visit, StatusCode::TOO_MANY_REQUESTS, Some("refusal.login-often"));
    }
    let wanted = email.clone();
    let read = shop.store.read(move |connection| Ok::<_, PageError>(users::by_email(connection, &wanted)?));
    // An admin's password opens the admin's door only, and with the second factor.
    let user = read.await?.filter(|user| user.role == "member");
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let right = shop.password_is_right(form.text("password"), hash).await?;
    let Some(user) = user.filter(|_| right) else {
        return login_page(&form.visit, StatusCode::UNAUTHORIZED, Some("refusal.login"));
    };
    shop.throttle.succeeded(&form.client, &email);
    let guest = form.visit.cart.clone();
    let id = user.id;
    let write = shop.store.write(move |transaction| {
        let kept = members::cart(transaction, id)?;
        let mut cart = kept.as_deref().and_then(Cart::from_lines).unwrap_or_default();
        cart.join(&guest);
        members::keep_cart(transaction, id, &cart.to_lines())?;
        Ok::<_, StoreError>((sessions::open(transaction, id)?, cart))
    });
    let (session, cart) = write.await?;
    let mut response = form.visit.go_to("/account");
    form.visit.sign_member_in(&mut response, &session);
    form.visit.keep_cart(&mut response, &cart);
    Ok(response)
}

async fn sign_out(form: CheckedForm) -> Result<Response, PageError> {
    if let Some(session) = form.visit.member_session().map(str::to_owned) {
        form.visit.shop.store.write(move |transaction| sessions::end(transaction, &session)).await?;
    }
    let mut response = form.visit.go_to("/");
    form.visit.sign_member_out(&mut response);
    Ok(response)
}

async fn register(visit: Visit) -> Result<Response, PageError> {
    visit.page(StatusCode::OK, "account/link.html", context! { what => "register", sent => false })
}

async fn forgot(visit: Visit) -> Result<Response, PageError> {
    visit.page(StatusCode::OK, "account/link.html", context! { what => "forgot", sent => false })
}

/// Sends a link, or does not: the page is the same.
async fn send_link(form: CheckedForm) -> Result<Response, PageError> {
    if !form.visit.shop.pace.allows("link", &form.client) {
        return Err(PageError::TooOften);
    }
    let email = password::checked_email(form.text("email"))
        .map_err(|_| PageError::Invalid(Say::new("wrong.email").into()))?;
    // The form of new customers has a name, that of forgotten passwords has none.
    let name = match form.text("what") {
        "register" => Some(form.line("name", 2..=80, Say::new("wrong.name"))?),
        _ => None,
    };
    let language = form.visit.language().code.clone();
    // An inbox is not to be filled by strangers. The page is the same: it does not tell who has an account.
    let may = form.visit.shop.pace.allows_mail_to(&email);
    if may {
        let send = move |transaction: &rusqlite::Transaction<'_>| {
            members::send_link(transaction, &email, name.as_deref(), &language)
        };
        form.visit.shop.store.write(send).await?;
    }
    let what = form.text("what").to_owned();
    form.visit.page(StatusCode::OK, "account/link.html", context! { what => what, sent => true })
}

async fn choose(visit: Visit, Path(token): Path<String>) -> Result<Response, PageError> {
    let asked = token.clone();
    let read =
        visit.shop.store.read(move |connection| Ok::<_, PageError>(members::link_works(connection, &asked)?));
    let works = read.await?;
    let status = if works { StatusCode::OK } else { StatusCode::GONE };
    visit.page(status, "account/password.html", context! { token => token, works => works, notice => "" })
}

fn refused_password(error: &AccountError) -> Result<Say, PageError> {
    Ok(match error {
        AccountError::Short(length, least) => {
            Say::new("refusal.password-short").with("length", length).with("least", least)
        }
        AccountError::Common => Say::new("refusal.password-common"),
        AccountError::Long => Say::new("refusal.password-long"),
        AccountError::Email(_) | AccountError::Hash(_) => {
            log::error("a password could not be hashed", error);
            return Err(PageError::Unhashed);
        }
    })
}

async fn set_password(Path(token): Path<String>, form: CheckedForm) -> Result<Response, PageError> {
    let shop = form.visit.shop.clone();
    let typed = form.text("password").to_owned();
    let hashed = shop.hash_password(typed, Whose::Member).await?;
    let hash = match hashed {
        Ok(hash) => hash,
        Err(refused) => {
            let values = context! { token => token, works => true, notice => form.visit.say(&refused_password(&refused)?) };
            return form.visit.page(StatusCode::UNPROCESSABLE_ENTITY, "account/password.html", values);
        }
    };
    let used = token.clone();
    let user = shop.store.write(move |transaction| members::use_link(transaction, &used, &hash)).await?;
    if user.is_none() {
        let values = context! { token => token, works => false, notice => "" };
        return form.visit.page(StatusCode::GONE, "account/password.html", values);
    }
    login_page(&form.visit, StatusCode::OK, Some("password.is-set"))
}

async fn forget(Path(id): Path<String>, MemberForm { form, who }: MemberForm) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let user = who.member.id;
    let write =
        form.visit.shop.store.write(move |transaction| members::forget_address(transaction, user, id));
    if write.await? { Ok(form.visit.go_to("/account")) } else { Err(PageError::NotFound) }
}
