//! What is on the shelves: first page, list, search, one product.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use minijinja::value::Serde;
use minijinja::{Value, context};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::Shop;
use super::error::PageError;
use super::form::CheckedForm;
use super::visit::{Visit, is_pincode};
use crate::cart::{Cart, MAX_QUANTITY};
use crate::db::delivery::{self, DELIVERY_PAISE, FREE_FROM_PAISE};
use crate::db::products::{self, Product, Sort};
use crate::db::{images, search};

/// The longest search that is looked for, in characters.
const LONGEST_SEARCH: usize = 80;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/", get(home))
        .route("/products", get(list))
        .route("/product/{id}", get(one))
        .route("/search", get(search))
        .route("/pincode", post(pincode))
}

/// A product on a shelf, with how much of it is in the visitor's basket.
#[derive(Serialize)]
struct Shelved {
    #[serde(flatten)]
    product: Product,
    in_cart: i64,
    /// One more could be added.
    can_add: bool,
}

fn shelve(cart: &Cart, products: Vec<Product>) -> Serde<Vec<Shelved>> {
    let shelved = products.into_iter().map(|product| {
        let in_cart = cart.quantity(product.id);
        Shelved { can_add: in_cart < product.stock.min(MAX_QUANTITY), in_cart, product }
    });
    Serde(shelved.collect())
}

/// A page of the catalogue: a kept one if nothing in the database has changed since it was made.
fn page(
    visit: &Visit,
    address: &str,
    template: &str,
    values: impl FnOnce(&Visit, &Connection) -> Result<Value, PageError>,
) -> Result<Response, PageError> {
    let shop = &visit.shop;
    // Read before the page is made: should something change meanwhile, the page is too old already.
    let version = if visit.is_like_any_other() { shop.store.version() } else { None };
    let Some(version) = version else {
        let values = shop.store.read_here(|connection| values(visit, connection))?;
        return visit.page(StatusCode::OK, template, values);
    };
    let html = match shop.kept.find(address, version, || visit.csrf()) {
        Some(html) => html,
        None => {
            let many = visit.of_many();
            let values = shop.store.read_here(|connection| values(&many, connection))?;
            let html = many.text_of_page(template, values)?;
            shop.kept.keep(address, version, &html, || visit.csrf())
        }
    };
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
    visit.introduce(&mut response);
    Ok(response)
}

async fn home(visit: Visit) -> Result<Response, PageError> {
    page(&visit, "/", "home.html", |visit, connection| {
        Ok(context! {
            products => shelve(&visit.cart, products::featured(connection)?),
            categories => Serde(products::categories(connection)?),
            regions => Serde(delivery::served(connection)?),
            free_delivery_from => FREE_FROM_PAISE,
            delivery => DELIVERY_PAISE,
            here => "/",
        })
    })
}

#[derive(Deserialize)]
struct Shelf {
    #[serde(default)]
    category: String,
    #[serde(default)]
    sort: String,
    #[serde(default)]
    page: String,
}

async fn list(
    visit: Visit,
    query: Result<Query<Shelf>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, PageError> {
    let Query(shelf) = query.map_err(|_| PageError::BadRequest("the address could not be read"))?;
    let sort = Sort::named(&shelf.sort).ok_or(PageError::BadRequest("products cannot be sorted that way"))?;
    let number = page_number(&shelf.page)?;
    if !shelf.category.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(PageError::NotFound);
    }
    let here = format!("/products?category={}&sort={}", shelf.category, shelf.sort);
    let address = format!("{here}&page={number}");
    page(&visit, &address, "products.html", |visit, connection| {
        let categories = products::categories(connection)?;
        let category = categories.iter().find(|category| category.slug == shelf.category).cloned();
        if category.is_none() && !shelf.category.is_empty() {
            return Err(PageError::NotFound);
        }
        let id = category.as_ref().map(|category| category.id);
        let (found, all) = products::for_sale(connection, id, sort, number)?;
        if found.is_empty() && number > 1 {
            return Err(PageError::NotFound);
        }
        Ok(context! {
            products => shelve(&visit.cart, found),
            categories => Serde(categories),
            category => Serde(category),
            sort => Serde(sort),
            all => all,
            page => number,
            pages => (all + products::PAGE - 1) / products::PAGE,
            here => if number > 1 { address.clone() } else { here.clone() },
            list => here.clone(),
        })
    })
}

/// The number of a list's page, from 1.
pub(crate) fn page_number(text: &str) -> Result<i64, PageError> {
    let number = if text.is_empty() { Some(1) } else { text.parse().ok() };
    number.filter(|number| (1..=100_000).contains(number)).ok_or(PageError::NotFound)
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
}

async fn search(
    visit: Visit,
    query: Result<Query<Search>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, PageError> {
    let Query(Search { q }) = query.map_err(|_| PageError::BadRequest("the search could not be read"))?;
    let query: String = q.trim().chars().take(LONGEST_SEARCH).collect();
    let encoded = percent_encoding::utf8_percent_encode(&query, percent_encoding::NON_ALPHANUMERIC);
    let here = format!("/search?q={encoded}");
    page(&visit, &here, "search.html", |visit, connection| {
        let found = search::find(connection, &query)?;
        Ok(context! {
            products => shelve(&visit.cart, found.products),
            instead => found.instead,
            categories => Serde(products::categories(connection)?),
            here => here.clone(),
            query => query.clone(),
        })
    })
}

async fn one(visit: Visit, Path(id): Path<String>) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let here = format!("/product/{id}");
    page(&visit, &here, "product.html", |visit, connection| {
        let product = products::find(connection, id)?.filter(|product| product.is_active);
        let product = product.ok_or(PageError::NotFound)?;
        let beside = products::beside(connection, &product)?;
        let region = match &visit.pincode {
            Some(pincode) => delivery::serving(connection, pincode)?,
            None => None,
        };
        let sold_there = match &region {
            Some(region) => delivery::not_sold_in(connection, region.id, &[id])?.is_empty(),
            None => true,
        };
        Ok(context! {
            pictures => Serde(images::of(connection, id)?),
            product => Serde(shelve(&visit.cart, vec![product]).0.pop()),
            products => shelve(&visit.cart, beside),
            region => Serde(region),
            sold_there => sold_there,
            free_delivery_from => FREE_FROM_PAISE,
            here => here.clone(),
        })
    })
}

/// Where the visitor wants things delivered.
async fn pincode(form: CheckedForm) -> Result<Response, PageError> {
    let pincode = form.text("pincode").replace(' ', "");
    if !is_pincode(&pincode) {
        return Err(PageError::Invalid("a pincode has six digits, such as 560004".to_owned()));
    }
    let wanted = pincode.clone();
    let served = form.visit.shop.store.read_here(|connection| delivery::serving(connection, &wanted))?;
    if served.is_none() {
        return Err(PageError::Invalid(format!("we do not deliver to {pincode} yet")));
    }
    let back = super::cart::own_path(form.text("back")).unwrap_or("/");
    let mut response = form.visit.go_to(back);
    form.visit.keep_pincode(&mut response, &pincode);
    Ok(response)
}
