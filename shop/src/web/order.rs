//! A customer's order, under an address that nobody can guess: see it, call it off, ask for money back.

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
use super::form::CheckedForm;
use super::visit::Visit;
use crate::db::orders::{self, Actor, Moved, State};
use crate::log;
use crate::texts::Say;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/order/{token}", get(show))
        .route("/order/{token}/cancel", post(cancel))
        .route("/order/{token}/refund", post(wish))
        .route("/order/{token}/again", post(again))
}

async fn show(visit: Visit, Path(token): Path<String>) -> Result<Response, PageError> {
    let read = visit.shop.store.read(move |connection| {
        let order = orders::by_token(connection, &token)?.ok_or(PageError::NotFound)?;
        let items = orders::items(connection, order.id)?;
        let history = orders::history(connection, order.id)?;
        let refunds = orders::refunds(connection, order.id)?;
        Ok::<_, PageError>((order, items, history, refunds))
    });
    let (order, items, history, refunds) = read.await?;
    let can_cancel = State::named(&order.state)
        .is_some_and(|state| state.next(Actor::Customer).contains(&State::Cancelled));
    let can_wish = order.refund_wish.is_none()
        && matches!(order.state.as_str(), "delivered" | "cancelled")
        && matches!(order.payment_status.as_str(), "paid" | "part-refunded");
    let values = context! {
        order => Serde(order),
        items => Serde(items),
        history => Serde(history),
        refunds => Serde(refunds),
        can_cancel => can_cancel,
        can_wish => can_wish,
    };
    visit.page(StatusCode::OK, "order.html", values)
}

async fn cancel(Path(token): Path<String>, form: CheckedForm) -> Result<Response, PageError> {
    let link = format!("/order/{token}");
    let write = form.visit.shop.store.write(move |transaction| {
        let order = orders::by_token(transaction, &token)?.ok_or(PageError::NotFound)?;
        let moved = orders::move_to(transaction, order.id, State::Cancelled, Actor::Customer, "")?;
        match moved {
            Moved::Done => {}
            Moved::Unknown => return Err(PageError::NotFound),
            Moved::NotFrom(State::Cancelled) => return Ok(order.id),
            Moved::NotFrom(_) => {
                return Err(PageError::Conflict(Say::new("refusal.packed").into()));
            }
        }
        // What was paid online goes back at once; nobody has to ask for it.
        if order.payment_method == "razorpay"
            && matches!(order.payment_status.as_str(), "paid" | "part-refunded")
        {
            let rest = order.total_paise - order.refunded_paise;
            let key = format!("refund-cancelled-{}", order.id);
            let refund =
                orders::refund(transaction, order.id, rest, "cancelled by you", Actor::Customer, &key)?;
            refund.map_err(|refused| PageError::Conflict(Say::new(refused.text()).into()))?;
        }
        Ok(order.id)
    });
    let id = write.await?;
    log::info(format_args!("order {id} cancelled by its customer"));
    Ok(form.visit.go_to(&link))
}

async fn wish(Path(token): Path<String>, form: CheckedForm) -> Result<Response, PageError> {
    let link = format!("/order/{token}");
    let text = form.lines("wish", 5..=500, Say::new("wrong.wish"))?;
    let write = form.visit.shop.store.write(move |transaction| {
        let order = orders::by_token(transaction, &token)?.ok_or(PageError::NotFound)?;
        if orders::wish_refund(transaction, order.id, &text)? {
            Ok(())
        } else {
            Err(PageError::Conflict(Say::new("refusal.nothing-paid").into()))
        }
    });
    write.await?;
    Ok(form.visit.go_to(&link))
}

/// The same goods again, as far as they are sold: into the basket, beside what is in it.
async fn again(Path(token): Path<String>, form: CheckedForm) -> Result<Response, PageError> {
    let read = form.visit.shop.store.read(move |connection| {
        let order = orders::by_token(connection, &token)?.ok_or(PageError::NotFound)?;
        Ok::<_, PageError>(orders::buyable_again(connection, order.id)?)
    });
    let mut cart = form.visit.cart.clone();
    for (id, quantity) in read.await? {
        // A full basket takes what fits.
        let _ = cart.set(id, quantity.max(cart.quantity(id)));
    }
    super::cart::keep_for_member(&form.visit, &cart).await?;
    let mut response = form.visit.go_to("/cart");
    form.visit.keep_cart(&mut response, &cart);
    Ok(response)
}
