//! What is on the shelves: first page, list, search, one product.

use std::hash::Hash;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;
use rusqlite::Connection;
use serde::Deserialize;

use super::Shop;
use super::cards::{Sheet, made_of, make, put_together};
use super::error::PageError;
use super::form::CheckedForm;
use super::visit::{Visit, is_pincode};
use crate::db::delivery::{self, DELIVERY_PAISE, FREE_FROM_PAISE};
use crate::db::products::{self, Sort};
use crate::db::{images, search};
use crate::texts::Say;

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

/// A page of the catalogue. `address` names it among the kept ones, `here` is the way back to it; `read` reads what it
/// is made of, `show` says what of that the template is to show.
fn page<T: Hash>(
    visit: &Visit,
    address: &str,
    here: &str,
    template: &str,
    read: impl FnOnce(&Connection) -> Result<T, PageError>,
    show: impl FnOnce(T) -> Sheet,
) -> Result<Response, PageError> {
    let shop = &visit.shop;
    let address = format!("{} {address}", visit.language);
    // Asked for before anything is read: should something change meanwhile, the page is too old already.
    let version = shop.store.version();
    let known = version.and_then(|_| shop.kept.page(&address));
    let page = match (version, known) {
        (Some(version), Some(page)) if page.is_of(version) => page,
        (version, known) => {
            let found = shop.store.read_here(read)?;
            let made_of = made_of(visit, &found);
            match (version, known.filter(|page| page.made_of == made_of)) {
                (Some(version), Some(page)) => {
                    page.is_still_right(version);
                    page
                }
                (version, _) => make(visit, &address, version, made_of, template, show(found))?,
            }
        }
    };
    let html = put_together(visit, &page, here)?;
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
    visit.introduce(&mut response);
    Ok(response)
}

/// An address of a page that also depends on where the visitor lives.
fn with_pincode(visit: &Visit, address: &str) -> String {
    format!("{} {address}", visit.pincode.as_deref().unwrap_or_default())
}

async fn home(visit: Visit) -> Result<Response, PageError> {
    let read = |connection: &Connection| {
        let featured = products::featured(connection)?;
        Ok((featured, products::categories(connection)?, delivery::served(connection)?))
    };
    page(&visit, &with_pincode(&visit, "/"), "/", "home.html", read, |(featured, categories, regions)| {
        Sheet {
            shelf: featured,
            product: None,
            values: context! {
                categories => Serde(categories),
                regions => Serde(regions),
                free_delivery_from => FREE_FROM_PAISE,
                delivery => DELIVERY_PAISE,
                here => "/",
            },
        }
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
    let Query(wanted) = query.map_err(|_| PageError::refused("refusal.address-unreadable"))?;
    let sort = Sort::named(&wanted.sort).ok_or(PageError::refused("refusal.sort"))?;
    let number = page_number(&wanted.page)?;
    if !wanted.category.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(PageError::NotFound);
    }
    let list = format!("/products?category={}&sort={}", wanted.category, wanted.sort);
    let address = format!("{list}&page={number}");
    let here = if number > 1 { &address } else { &list };
    let read = |connection: &Connection| {
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
        Ok((found, all, category, categories))
    };
    page(&visit, &address, here, "products.html", read, |(found, all, category, categories)| Sheet {
        shelf: found,
        product: None,
        values: context! {
            categories => Serde(categories),
            category => Serde(category),
            sort => Serde(sort),
            all => all,
            page => number,
            pages => (all + products::PAGE - 1) / products::PAGE,
            here => here.as_str(),
            list => list.as_str(),
        },
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
    let Query(Search { q }) = query.map_err(|_| PageError::refused("refusal.search-unreadable"))?;
    let query: String = q.trim().chars().take(LONGEST_SEARCH).collect();
    let encoded = percent_encoding::utf8_percent_encode(&query, percent_encoding::NON_ALPHANUMERIC);
    let here = format!("/search?q={encoded}");
    let read = |connection: &Connection| {
        let found = search::find(connection, &query)?;
        Ok((found.products, found.instead, products::categories(connection)?))
    };
    page(&visit, &here, &here, "search.html", read, |(found, instead, categories)| Sheet {
        values: context! {
            found => found.len(),
            instead,
            categories => Serde(categories),
            here => here.as_str(),
            query => query.as_str(),
        },
        shelf: found,
        product: None,
    })
}

async fn one(visit: Visit, Path(id): Path<String>) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let here = format!("/product/{id}");
    let read = |connection: &Connection| {
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
        Ok((product, beside, images::of(connection, id)?, region, sold_there))
    };
    let address = with_pincode(&visit, &here);
    page(&visit, &address, &here, "product.html", read, |(product, beside, pictures, region, sold_there)| {
        Sheet {
            shelf: beside,
            product: Some(product),
            values: context! {
                pictures => Serde(pictures),
                region => Serde(region),
                sold_there,
                free_delivery_from => FREE_FROM_PAISE,
                here => here.as_str(),
            },
        }
    })
}

/// Where the visitor wants things delivered.
async fn pincode(form: CheckedForm) -> Result<Response, PageError> {
    let pincode = form.text("pincode").replace(' ', "");
    if !is_pincode(&pincode) {
        return Err(PageError::Invalid(Say::new("refusal.pincode").into()));
    }
    let wanted = pincode.clone();
    let served = form.visit.shop.store.read_here(|connection| delivery::serving(connection, &wanted))?;
    if served.is_none() {
        return Err(PageError::Invalid(Say::new("refusal.not-served").with("pincode", pincode).into()));
    }
    let back = super::cart::own_path(form.text("back")).unwrap_or("/");
    let mut response = form.visit.go_to(back);
    form.visit.keep_pincode(&mut response, &pincode);
    Ok(response)
}
