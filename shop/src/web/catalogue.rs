//! What is on the shelves: first page, list, search, one product.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use minijinja::context;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

use super::Shop;
use super::error::PageError;
use super::visit::Visit;
use crate::bill::{DELIVERY_PAISE, FREE_DELIVERY_FROM_PAISE};
use crate::cart::{Cart, MAX_QUANTITY};
use crate::db::products::{self, Product, Sort};
use crate::db::regions;

/// The longest search that is looked for, in characters.
const LONGEST_SEARCH: usize = 80;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/", get(home))
        .route("/products", get(list))
        .route("/product/{id}", get(one))
        .route("/search", get(search))
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

async fn home(visit: Visit) -> Result<Response, PageError> {
    let read = visit.shop.store.read(|connection| {
        Ok::<_, PageError>((
            products::featured(connection)?,
            products::categories(connection)?,
            regions::all(connection)?,
        ))
    });
    let (featured, categories, regions) = read.await?;
    let values = context! {
        products => shelve(&visit.cart, featured),
        categories => Serde(categories),
        regions => Serde(regions),
        free_delivery_from => FREE_DELIVERY_FROM_PAISE,
        delivery => DELIVERY_PAISE,
        here => "/",
    };
    visit.page(StatusCode::OK, "home.html", values)
}

#[derive(Deserialize)]
struct Shelf {
    #[serde(default)]
    category: String,
    #[serde(default)]
    sort: String,
}

async fn list(
    visit: Visit,
    query: Result<Query<Shelf>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, PageError> {
    let Query(shelf) = query.map_err(|_| PageError::BadRequest("the address could not be read"))?;
    let sort = Sort::named(&shelf.sort).ok_or(PageError::BadRequest("products cannot be sorted that way"))?;
    let slug = shelf.category.clone();
    let read = visit.shop.store.read(move |connection| {
        let categories = products::categories(connection)?;
        let category = categories.iter().find(|category| category.slug == slug).cloned();
        if category.is_none() && !slug.is_empty() {
            return Err(PageError::NotFound);
        }
        let products = products::for_sale(connection, category.as_ref().map(|category| category.id), sort)?;
        Ok((categories, category, products))
    });
    let (categories, category, products) = read.await?;
    let here = format!("/products?category={}&sort={}", shelf.category, shelf.sort);
    let values = context! {
        products => shelve(&visit.cart, products),
        categories => Serde(categories),
        category => Serde(category),
        sort => Serde(sort),
        here => here,
    };
    visit.page(StatusCode::OK, "products.html", values)
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
    let words = query.clone();
    let read = visit.shop.store.read(move |connection| {
        Ok::<_, PageError>((products::search(connection, &words)?, products::categories(connection)?))
    });
    let (products, categories) = read.await?;
    let encoded = percent_encoding::utf8_percent_encode(&query, percent_encoding::NON_ALPHANUMERIC);
    let values = context! {
        products => shelve(&visit.cart, products),
        categories => Serde(categories),
        here => format!("/search?q={encoded}"),
        query => query,
    };
    visit.page(StatusCode::OK, "search.html", values)
}

async fn one(visit: Visit, Path(id): Path<String>) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let read = visit.shop.store.read(move |connection| {
        let product = products::find(connection, id)?.filter(|product| product.is_active);
        let product = product.ok_or(PageError::NotFound)?;
        let mut beside = products::for_sale(connection, Some(product.category_id), Sort::Shelf)?;
        beside.retain(|other| other.id != id);
        beside.truncate(4);
        Ok::<_, PageError>((product, beside))
    });
    let (product, beside) = read.await?;
    let values = context! {
        product => Serde(shelve(&visit.cart, vec![product]).0.pop()),
        products => shelve(&visit.cart, beside),
        free_delivery_from => FREE_DELIVERY_FROM_PAISE,
        here => format!("/product/{id}"),
    };
    visit.page(StatusCode::OK, "product.html", values)
}
