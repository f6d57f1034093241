//! The goods: list, add, change.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use minijinja::context;
use minijinja::value::Serde;

use crate::db::products::{self, Details, Product, Saved};
use crate::money::{Rupees, parse_rupees};
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::form::{AdminForm, CheckedForm};
use crate::web::visit::AdminVisit;

/// The most of one product on the shelf.
const MAX_STOCK: i64 = 100_000;

const FIELDS: [&str; 11] = [
    "name",
    "local_name",
    "description",
    "category_id",
    "pack_size",
    "net_quantity",
    "unit",
    "mrp",
    "price",
    "stock",
    "stock_seen",
];

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/admin/products", get(list))
        .route("/admin/products/new", get(blank).post(add))
        .route("/admin/products/{id}", get(edit).post(change))
}

async fn list(who: AdminVisit) -> Result<Response, PageError> {
    let all = who.visit.shop.store.read(products::all).await?;
    who.page(StatusCode::OK, "admin/products.html", context! { products => Serde(all) })
}

async fn blank(who: AdminVisit) -> Result<Response, PageError> {
    let typed = BTreeMap::from([
        ("unit", "g".to_owned()),
        ("stock", "0".to_owned()),
        ("stock_seen", "0".to_owned()),
        ("is_active", "yes".to_owned()),
    ]);
    page(&who, StatusCode::OK, None, typed, "").await
}

async fn edit(who: AdminVisit, Path(id): Path<String>) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let product = who.visit.shop.store.read(move |connection| products::find(connection, id)).await?;
    let product = product.ok_or(PageError::NotFound)?;
    page(&who, StatusCode::OK, Some(id), as_typed(&product), "").await
}

fn as_typed(product: &Product) -> BTreeMap<&'static str, String> {
    let rupees = |paise| Rupees(paise).to_string().replace(['₹', ','], "");
    let ticked = |on: bool| if on { "yes".to_owned() } else { String::new() };
    BTreeMap::from([
        ("name", product.name.clone()),
        ("local_name", product.local_name.clone().unwrap_or_default()),
        ("description", product.description.clone()),
        ("category_id", product.category_id.to_string()),
        ("pack_size", product.pack_size.clone()),
        ("net_quantity", product.net_quantity.to_string()),
        ("unit", product.unit.clone()),
        ("mrp", rupees(product.mrp_paise)),
        ("price", rupees(product.price_paise)),
        ("stock", product.stock.to_string()),
        ("stock_seen", product.stock.to_string()),
        ("is_active", ticked(product.is_active)),
        ("is_featured", ticked(product.is_featured)),
    ])
}

async fn page(
    who: &AdminVisit,
    status: StatusCode,
    id: Option<i64>,
    mut typed: BTreeMap<&'static str, String>,
    notice: &str,
) -> Result<Response, PageError> {
    for name in FIELDS.into_iter().chain(["is_active", "is_featured"]) {
        typed.entry(name).or_default();
    }
    let categories = who.visit.shop.store.read(products::categories).await?;
    let values = context! {
        id => id,
        typed => Serde(typed),
        categories => Serde(categories),
        notice => notice,
    };
    who.page(status, "admin/product.html", values)
}

async fn add(AdminForm { form, who }: AdminForm) -> Result<Response, PageError> {
    save(&form, &who, None).await
}

async fn change(Path(id): Path<String>, AdminForm { form, who }: AdminForm) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    save(&form, &who, Some(id)).await
}

async fn save(form: &CheckedForm, who: &AdminVisit, id: Option<i64>) -> Result<Response, PageError> {
    let typed = || {
        let mut typed: BTreeMap<_, _> =
            FIELDS.iter().map(|name| (*name, form.text(name).to_owned())).collect();
        for name in ["is_active", "is_featured"] {
            typed.insert(name, form.text(name).to_owned());
        }
        typed
    };
    let (details, stock, seen) = match read(form) {
        Ok(read) => read,
        Err(wrong) => return page(who, StatusCode::UNPROCESSABLE_ENTITY, id, typed(), &wrong).await,
    };
    let write = who.visit.shop.store.write(move |transaction| {
        if !products::categories(transaction)?.iter().any(|category| category.id == details.category_id) {
            return Err(PageError::Invalid("there is no such category".to_owned()));
        }
        Ok(match id {
            None => products::add(transaction, &details, stock)?,
            Some(id) => products::change(transaction, id, &details, stock - seen)?,
        })
    });
    match write.await? {
        Saved::As(_) => Ok(who.visit.go_to("/admin/products")),
        Saved::Unknown => Err(PageError::NotFound),
        Saved::NameTaken => {
            let notice = "Another product has this name and pack size.";
            page(who, StatusCode::CONFLICT, id, typed(), notice).await
        }
        Saved::StockBelowZero => {
            let notice =
                "More was sold meanwhile than would be left. Open the product again to see the stock.";
            page(who, StatusCode::CONFLICT, id, typed(), notice).await
        }
    }
}

/// What was typed: the details, the stock wanted and the stock that the form had shown.
fn read(form: &CheckedForm) -> Result<(Details, i64, i64), String> {
    let text = |name: &str, range: std::ops::RangeInclusive<usize>, what: &str| {
        let text = form.text(name);
        let fits = range.contains(&text.chars().count())
            && !text.chars().any(|c| c.is_control() && !"\r\n".contains(c));
        if fits { Ok(text.to_owned()) } else { Err(what.to_owned()) }
    };
    let number = |name, range| form.number(name, range).map_err(|error| error.to_string());
    let price = |name: &str| {
        parse_rupees(form.text(name))
            .ok_or_else(|| format!("The {name} must be an amount such as 49 or 49.50."))
    };
    let local_name = text("local_name", 0..=120, "The local name is too long.")?;
    let details = Details {
        name: text("name", 1..=120, "A product needs a name of at most 120 letters.")?,
        local_name: (!local_name.is_empty()).then_some(local_name),
        description: text("description", 0..=2000, "The description is too long.")?,
        category_id: number("category_id", 1..=i64::MAX)?,
        pack_size: text("pack_size", 1..=40, "A product needs a pack size, such as 500 g.")?,
        net_quantity: number("net_quantity", 1..=1_000_000)?,
        unit: text("unit", 1..=5, "Choose a unit.")?,
        mrp_paise: price("mrp")?,
        price_paise: price("price")?,
        is_active: form.ticked("is_active"),
        is_featured: form.ticked("is_featured"),
    };
    if !["g", "ml", "piece"].contains(&details.unit.as_str()) {
        return Err("The unit must be g, ml or piece.".to_owned());
    }
    if details.price_paise > details.mrp_paise {
        return Err("The price may not be above the MRP.".to_owned());
    }
    Ok((details, number("stock", 0..=MAX_STOCK)?, number("stock_seen", 0..=MAX_STOCK)?))
}
