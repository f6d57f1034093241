//! The basket. It lives in the browser; nothing here writes to the database.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;

use super::Shop;
use super::error::PageError;
use super::form::CheckedForm;
use super::visit::Visit;
use crate::bill::Bill;
use crate::cart::{Cart, CartFull, MAX_LINES, MAX_QUANTITY};
use crate::db::{delivery, members, products};
use crate::texts::Say;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/cart", get(show))
        .route("/cart/add", post(add))
        .route("/cart/update", post(update))
        .route("/cart/remove", post(remove))
}

/// The visitor's basket at today's prices, on the terms of where it goes; and that region, if it is known.
pub(crate) async fn bill(
    visit: &Visit,
    pincode: Option<String>,
) -> Result<(Bill, Option<delivery::Region>), PageError> {
    let lines = visit.cart.lines();
    visit
        .shop
        .store
        .read(move |connection| {
            let ids: Vec<i64> = lines.iter().map(|(id, _)| *id).collect();
            let region = match pincode {
                Some(pincode) => delivery::serving(connection, &pincode)?,
                None => None,
            };
            let (terms, not_sold) = match &region {
                Some(region) => (region.terms, delivery::not_sold_in(connection, region.id, &ids)?),
                None => (delivery::Terms::default(), Vec::new()),
            };
            Ok((Bill::of(&lines, &products::find_all(connection, &ids)?, &terms, &not_sold), region))
        })
        .await
}

async fn show(visit: Visit) -> Result<Response, PageError> {
    let (bill, region) = bill(&visit, visit.pincode.clone()).await?;
    visit.page(
        StatusCode::OK,
        "cart.html",
        context! { bill => Serde(bill), region => Serde(region), max_quantity => MAX_QUANTITY, here => "/cart" },
    )
}

async fn add(form: CheckedForm) -> Result<Response, PageError> {
    let id = form.number("product_id", 1..=i64::MAX)?;
    let more = if form.text("quantity").is_empty() { 1 } else { form.number("quantity", 1..=MAX_QUANTITY)? };
    set(&form, id, form.visit.cart.quantity(id) + more).await
}

async fn update(form: CheckedForm) -> Result<Response, PageError> {
    let id = form.number("product_id", 1..=i64::MAX)?;
    let quantity = form.number("quantity", 1..=MAX_QUANTITY)?;
    set(&form, id, quantity).await
}

async fn set(form: &CheckedForm, id: i64, quantity: i64) -> Result<Response, PageError> {
    let read = form.visit.shop.store.read(move |connection| products::find(connection, id)).await;
    let product = read?.filter(|product| product.is_active).ok_or(PageError::NotFound)?;
    if quantity > product.stock {
        let left = product.stock;
        let name = if left == 0 { "refusal.sold-out" } else { "refusal.only-left" };
        let say = Say::new(name).with("product", &product.name).with("left", left);
        return Err(PageError::Conflict(say.into()));
    }
    let mut cart = form.visit.cart.clone();
    cart.set(id, quantity).map_err(|full| {
        let say = match full {
            CartFull::Quantity => Say::new("refusal.most-of-one").with("most", MAX_QUANTITY),
            CartFull::Lines => Say::new("refusal.most-lines").with("most", MAX_LINES),
        };
        PageError::Invalid(say.into())
    })?;
    back(form, &cart).await
}

async fn remove(form: CheckedForm) -> Result<Response, PageError> {
    let mut cart = form.visit.cart.clone();
    cart.remove(form.number("product_id", 1..=i64::MAX)?);
    back(&form, &cart).await
}

/// To the page where the button was, with the changed basket.
async fn back(form: &CheckedForm, cart: &Cart) -> Result<Response, PageError> {
    keep_for_member(&form.visit, cart).await?;
    let mut response = form.visit.go_to(own_path(form.text("back")).unwrap_or("/cart"));
    form.visit.keep_cart(&mut response, cart);
    Ok(response)
}

/// A member's basket is there on the next device too. A guest's is in the browser only: nothing is written.
pub(crate) async fn keep_for_member(visit: &Visit, cart: &Cart) -> Result<(), PageError> {
    let Some(member) = visit.member().await? else { return Ok(()) };
    let lines = cart.to_lines();
    let write = visit
        .shop
        .store
        .write(move |transaction| Ok::<_, PageError>(members::keep_cart(transaction, member.id, &lines)?));
    write.await
}

/// A path of this shop. Browsers read `//host` and `/\host` as other sites, and drop tabs before they look.
pub(crate) fn own_path(path: &str) -> Option<&str> {
    let own = path.starts_with('/')
        && !path.starts_with("//")
        && path.len() <= 500
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    own.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_never_leaves_the_shop() {
        assert_eq!(own_path("/products?sort=name#p3"), Some("/products?sort=name#p3"));
        for away in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/\t/evil",
            "/a\r\nX: y",
            "evil",
        ] {
            assert_eq!(own_path(away), None, "{away:?}");
        }
    }
}
