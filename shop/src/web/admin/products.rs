//! The goods: list, add, change.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;
use serde::Deserialize;

use crate::db::products::{self, Details, Product, Saved};
use crate::db::{StoreError, audit, delivery, images, stock};
use crate::money::{Rupees, parse_rupees, plain_rupees};
use crate::picture;
use crate::texts::Words;
use crate::web::Shop;
use crate::web::catalogue::page_number;
use crate::web::error::PageError;
use crate::web::form::{AdminForm, CheckedForm};
use crate::web::visit::AdminVisit;

/// The most of one product on the shelf.
const MAX_STOCK: i64 = 100_000;

/// How many changes of a stock its page shows.
const MOVEMENTS: i64 = 30;

const FIELDS: [&str; 18] = [
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
    "search_words",
    "maker",
    "origin",
    "best_before",
    "hsn",
    "gst",
    "sku",
];

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/admin/products", get(list))
        .route("/admin/products/new", get(blank).post(add))
        .route("/admin/products/{id}", get(edit).post(change))
        .route("/admin/products/{id}/stock", post(move_stock))
        .route("/admin/products/{id}/images", post(add_image))
        .route("/admin/products/{id}/images/{image}/remove", post(remove_image))
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    q: String,
    #[serde(default)]
    page: String,
}

async fn list(
    who: AdminVisit,
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, PageError> {
    let Query(asked) = query.map_err(|_| PageError::refused("refusal.address-unreadable"))?;
    let page = page_number(&asked.page)?;
    let part = asked.q.clone();
    let read = who
        .visit
        .shop
        .store
        .read(move |connection| Ok::<_, PageError>(products::page_of_all(connection, &part, page)?));
    let (found, all) = read.await?;
    let values = context! {
        products => Serde(found),
        all => all,
        part => asked.q,
        page => page,
        pages => (all + products::PAGE - 1) / products::PAGE,
    };
    who.page(StatusCode::OK, "admin/products.html", values)
}

async fn blank(who: AdminVisit) -> Result<Response, PageError> {
    let typed = BTreeMap::from([
        ("unit", "g".to_owned()),
        ("origin", "India".to_owned()),
        ("gst", "0".to_owned()),
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
    let ticked = |on: bool| if on { "yes".to_owned() } else { String::new() };
    BTreeMap::from([
        ("name", product.name.clone()),
        ("local_name", product.local_name.clone().unwrap_or_default()),
        ("description", product.description.clone()),
        ("category_id", product.category_id.to_string()),
        ("pack_size", product.pack_size.clone()),
        ("net_quantity", product.net_quantity.to_string()),
        ("unit", product.unit.clone()),
        ("mrp", plain_rupees(product.mrp_paise)),
        ("price", plain_rupees(product.price_paise)),
        ("stock", product.stock.to_string()),
        ("stock_seen", product.stock.to_string()),
        ("search_words", product.search_words.clone()),
        ("maker", product.maker.clone()),
        ("origin", product.origin.clone()),
        ("best_before", product.best_before.clone()),
        ("hsn", product.hsn.clone()),
        ("gst", plain_rupees(product.gst_basis_points)),
        ("sku", product.sku.clone().unwrap_or_default()),
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
    let read = who.visit.shop.store.read(move |connection| {
        let categories = products::categories(connection)?;
        let regions = delivery::all(connection)?;
        let Some(id) = id else { return Ok((categories, regions, Vec::new(), Vec::new(), Vec::new())) };
        let (limits, images) = (delivery::limits(connection, id)?, images::of(connection, id)?);
        Ok::<_, PageError>((
            categories,
            regions,
            limits,
            images,
            stock::movements(connection, id, MOVEMENTS)?,
        ))
    });
    let (categories, regions, limits, images, movements) = read.await?;
    let values = context! {
        regions => Serde(regions),
        limits => Serde(limits),
        images => Serde(images),
        movements => Serde(movements),
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

/// Why a product was not saved; the transaction is rolled back.
enum NotSaved {
    Refused(Saved),
    Page(PageError),
}

impl From<StoreError> for NotSaved {
    fn from(error: StoreError) -> Self {
        Self::Page(error.into())
    }
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
    let mut limits = Vec::new();
    for region in form.all("region") {
        let id = region
            .parse::<i64>()
            .map_err(|_| PageError::Invalid(Words::english("there is no such region")))?;
        limits.push(id);
    }
    let admin = who.admin.clone();
    let write = who.visit.shop.store.write(move |transaction| {
        if !products::categories(transaction)?.iter().any(|category| category.id == details.category_id) {
            return Err(NotSaved::Page(PageError::Invalid(Words::english("there is no such category"))));
        }
        let before = match id {
            Some(id) => products::find(transaction, id)?,
            None => None,
        };
        let mut saved = match id {
            None => products::add(transaction, &details, stock, "start", Some(admin.id))?,
            Some(id) => products::change(transaction, id, &details)?,
        };
        if let (Saved::As(_), Some(id)) = (saved, id) {
            saved = products::change_stock(transaction, id, stock - seen, "count", Some(admin.id), "")?;
        }
        let Saved::As(number) = saved else { return Err(NotSaved::Refused(saved)) };
        delivery::limit_to(transaction, number, &limits)?;
        let price = Rupees(details.price_paise);
        let detail = match before {
            Some(before) if before.price_paise != details.price_paise => {
                format!("{}, {price}, was {}", details.name, Rupees(before.price_paise))
            }
            _ => format!("{}, {price}", details.name),
        };
        let act = if id.is_some() { "change" } else { "add" };
        audit::note(transaction, &admin, act, &format!("product {number}"), &detail)?;
        Ok(number)
    });
    match write.await {
        Err(NotSaved::Page(error)) => Err(error),
        Ok(_) if id.is_some() => Ok(who.visit.go_to("/admin/products")),
        Ok(number) => Ok(who.visit.go_to(&format!("/admin/products/{number}"))),
        Err(NotSaved::Refused(Saved::As(_) | Saved::Unknown)) => Err(PageError::NotFound),
        Err(NotSaved::Refused(Saved::SkuTaken)) => {
            page(who, StatusCode::CONFLICT, id, typed(), "Another product has this article number.").await
        }
        Err(NotSaved::Refused(Saved::NameTaken)) => {
            let notice = "Another product has this name and pack size.";
            page(who, StatusCode::CONFLICT, id, typed(), notice).await
        }
        Err(NotSaved::Refused(Saved::StockBelowZero)) => {
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
        search_words: text("search_words", 0..=300, "Those are too many other names.")?,
        maker: text("maker", 0..=200, "The maker's name is too long.")?,
        origin: text("origin", 0..=60, "The country's name is too long.")?,
        best_before: text("best_before", 0..=60, "That is too long for a time.")?,
        hsn: text("hsn", 0..=8, "An HSN code has up to 8 digits.")?,
        gst_basis_points: 0,
        sku: Some(text("sku", 0..=60, "The article number is too long.")?).filter(|sku| !sku.is_empty()),
    };
    let gst = form.text("gst");
    let gst_basis_points = if gst.is_empty() || gst == "0" { Some(0) } else { parse_rupees(gst) };
    let gst_basis_points =
        gst_basis_points.filter(|points| *points <= 2800).ok_or("GST is a percentage up to 28.")?;
    let details = Details { gst_basis_points, ..details };
    if !["g", "ml", "piece"].contains(&details.unit.as_str()) {
        return Err("The unit must be g, ml or piece.".to_owned());
    }
    if details.price_paise > details.mrp_paise {
        return Err("The price may not be above the MRP.".to_owned());
    }
    Ok((details, number("stock", 0..=MAX_STOCK)?, number("stock_seen", 0..=MAX_STOCK)?))
}

/// Goods that came, went bad or were counted.
async fn move_stock(
    Path(id): Path<String>,
    AdminForm { form, who }: AdminForm,
) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let pieces = form.number("pieces", 1..=MAX_STOCK)?;
    let (reason, change) = match form.text("reason") {
        "delivery" => ("delivery", pieces),
        "spoiled" => ("spoiled", -pieces),
        _ => return Err(PageError::Invalid(Words::english("choose what happened"))),
    };
    let note = form.line("note", 0..=200, Words::english("the note is too long"))?;
    let admin = who.admin.clone();
    let write = who.visit.shop.store.write(move |transaction| {
        let saved = products::change_stock(transaction, id, change, reason, Some(admin.id), &note)?;
        if let Saved::As(_) = saved {
            let detail = format!("{change:+}, {reason}");
            audit::note(transaction, &admin, "stock", &format!("product {id}"), &detail)?;
        }
        Ok::<_, PageError>(saved)
    });
    match write.await? {
        Saved::As(_) => Ok(who.visit.go_to(&format!("/admin/products/{id}"))),
        Saved::StockBelowZero => {
            Err(PageError::Conflict(Words::english("there are not so many on the shelf")))
        }
        _ => Err(PageError::NotFound),
    }
}

async fn add_image(
    Path(id): Path<String>,
    AdminForm { form, who }: AdminForm,
) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let shop = who.visit.shop.clone();
    let file =
        form.file("picture").ok_or_else(|| PageError::Invalid(Words::english("choose a picture first")))?;
    let bytes = file.bytes.clone();
    // One at a time: a large picture takes a hundred megabytes while it is unpacked.
    let permit = shop.unpacking.acquire().await.ok();
    let cut = tokio::task::spawn_blocking(move || picture::cut(&bytes)).await.map_err(StoreError::from)?;
    drop(permit);
    let sizes = cut.map_err(|error| PageError::Invalid(Words::english(error.to_string())))?;
    let admin = who.admin.clone();
    let write = shop.store.write(move |transaction| {
        products::find(transaction, id)?.ok_or(PageError::NotFound)?;
        let Some(name) = images::add(transaction, id, &sizes)? else {
            return Err(PageError::Conflict(Words::english(format!(
                "a product has at most {} pictures",
                images::MOST
            ))));
        };
        Ok(audit::note(transaction, &admin, "add picture", &format!("product {id}"), &name)?)
    });
    write.await?;
    Ok(who.visit.go_to(&format!("/admin/products/{id}")))
}

async fn remove_image(
    Path((id, image)): Path<(String, String)>,
    AdminForm { who, .. }: AdminForm,
) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let image: i64 = image.parse().map_err(|_| PageError::NotFound)?;
    let admin = who.admin.clone();
    let write = who.visit.shop.store.write(move |transaction| {
        if !images::remove(transaction, id, image)? {
            return Err(PageError::NotFound);
        }
        Ok(audit::note(transaction, &admin, "remove picture", &format!("product {id}"), "")?)
    });
    write.await?;
    Ok(who.visit.go_to(&format!("/admin/products/{id}")))
}
