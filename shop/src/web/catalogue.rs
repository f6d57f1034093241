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
use serde::Deserialize;

use super::Shop;
use super::cards::{Shelved, shelf};
use super::error::PageError;
use super::form::CheckedForm;
use super::visit::{Visit, is_pincode};
use crate::db::delivery::{self, DELIVERY_PAISE, FREE_FROM_PAISE};
use crate::db::products::{self, Sort};
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

/// A page of the catalogue: a kept one if nothing in the database has changed since it was made.
fn page(
    visit: &Visit,
    address: &str,
    template: &str,
    values: impl FnOnce(&Visit, Option<i64>, &Connection) -> Result<Value, PageError>,
) -> Result<Response, PageError> {
    let shop = &visit.shop;
    // Read before the page is made: should something change meanwhile, the page is too old already.
    let version = shop.store.version();
    let Some(version) = version.filter(|_| visit.is_like_any_other()) else {
        let values = shop.store.read_here(|connection| values(visit, version, connection))?;
        return visit.page(StatusCode::OK, template, values);
    };
    let html = match shop.kept.find(address, version, || visit.csrf()) {
        Some(html) => html,
        None => {
            let many = visit.of_many();
            let values = shop.store.read_here(|connection| values(&many, Some(version), connection))?;
            let html = many.text_of_page(template, values)?;
            shop.kept.keep(address, version, &html, || visit.csrf())
        }
    };
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
    visit.introduce(&mut response);
    Ok(response)
}

async fn home(visit: Visit) -> Result<Response, PageError> {
    page(&visit, "/", "home.html", |visit, version, connection| {
        Ok(context! {
            shelf => shelf(visit, version, "/", products::featured(connection)?)?,
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
    let Query(wanted) = query.map_err(|_| PageError::BadRequest("the address could not be read"))?;
    let sort =
        Sort::named(&wanted.sort).ok_or(PageError::BadRequest("products cannot be sorted that way"))?;
    let number = page_number(&wanted.page)?;
    if !wanted.category.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(PageError::NotFound);
    }
    let list = format!("/products?category={}&sort={}", wanted.category, wanted.sort);
    let address = format!("{list}&page={number}");
    let here = if number > 1 { &address } else { &list };
    page(&visit, &address, "products.html", |visit, version, connection| {
        let categories = products::categories(connection)?;
        let category = categories.iter().find(|category| category.slug == wanted.category).cloned();
        if category.is_none() && !wanted.category.is_empty() {
            return Err(PageError::NotFound);
        }
        let id = category.as_ref().map(|category| category.id);
        let (found, all) = products::for_sale(connection, id, sort, number)?;
        if found.is_empty() && number > 1 {
            return Err(PageError::NotFound);
        }
        Ok(context! {
            shelf => shelf(visit, version, here, found)?,
            categories => Serde(categories),
            category => Serde(category),
            sort => Serde(sort),
            all => all,
            page => number,
            pages => (all + products::PAGE - 1) / products::PAGE,
            here => here.as_str(),
            list => list.as_str(),
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
    page(&visit, &here, "search.html", |visit, version, connection| {
        let found = search::find(connection, &query)?;
        Ok(context! {
            found => found.products.len(),
            shelf => shelf(visit, version, &here, found.products)?,
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
    page(&visit, &here, "product.html", |visit, version, connection| {
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
            shelf => shelf(visit, version, &here, beside)?,
            product => Value::from_object(Shelved::of(visit, product)),
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
