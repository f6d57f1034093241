//! Where and when the shop delivers.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use minijinja::context;
use minijinja::value::Serde;

use crate::db::audit;
use crate::db::delivery::{self, RegionDetails, RegionSaved, SlotRule};
use crate::money::{parse_rupees, plain_rupees};
use crate::texts::Words;
use crate::web::Shop;
use crate::web::error::PageError;
use crate::web::form::{AdminForm, CheckedForm};
use crate::web::visit::AdminVisit;

/// The most prefixes of one region.
const MOST_PREFIXES: usize = 400;

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/admin/regions", get(list))
        .route("/admin/regions/new", get(blank).post(add))
        .route("/admin/regions/{id}", get(edit).post(change))
        .route("/admin/slots", post(slot))
}

async fn list(who: AdminVisit) -> Result<Response, PageError> {
    let read = who.visit.shop.store.read(|connection| {
        let regions = delivery::all(connection)?;
        let mut prefixes = Vec::new();
        for region in &regions {
            prefixes.push(delivery::prefixes(connection, region.id)?.join(" "));
        }
        Ok::<_, PageError>((
            regions,
            prefixes,
            delivery::slot_rules(connection)?,
            delivery::open_slots(connection)?,
        ))
    });
    let (regions, prefixes, slots, open) = read.await?;
    let values = context! {
        regions => Serde(regions.into_iter().zip(prefixes).collect::<Vec<_>>()),
        slots => Serde(slots),
        open => Serde(open),
    };
    who.page(StatusCode::OK, "admin/regions.html", values)
}

async fn blank(who: AdminVisit) -> Result<Response, PageError> {
    let values = context! {
        id => (), name => "", state => "Karnataka", is_active => true, delivery => "", free_from => "",
        minimum => "", prefixes => "",
    };
    who.page(StatusCode::OK, "admin/region.html", values)
}

async fn edit(who: AdminVisit, Path(id): Path<String>) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    let read = who.visit.shop.store.read(move |connection| {
        let region = delivery::find(connection, id)?.ok_or(PageError::NotFound)?;
        Ok::<_, PageError>((region, delivery::prefixes(connection, id)?.join(" ")))
    });
    let (region, prefixes) = read.await?;
    let typed = |paise: Option<i64>| paise.map(plain_rupees).unwrap_or_default();
    let values = context! {
        id => id,
        name => region.name,
        state => region.state,
        is_active => region.is_active,
        delivery => typed(region.own_delivery_paise),
        free_from => typed(region.own_free_from_paise),
        minimum => typed(region.own_minimum_paise),
        prefixes => prefixes,
    };
    who.page(StatusCode::OK, "admin/region.html", values)
}

async fn add(AdminForm { form, who }: AdminForm) -> Result<Response, PageError> {
    save(&form, &who, None).await
}

async fn change(Path(id): Path<String>, AdminForm { form, who }: AdminForm) -> Result<Response, PageError> {
    let id: i64 = id.parse().map_err(|_| PageError::NotFound)?;
    save(&form, &who, Some(id)).await
}

async fn save(form: &CheckedForm, who: &AdminVisit, id: Option<i64>) -> Result<Response, PageError> {
    let invalid = |text: String| PageError::Invalid(Words::english(text));
    let amount = |name: &str| match form.text(name) {
        "" => Ok(None),
        "0" | "0.00" => Ok(Some(0)),
        text => parse_rupees(text).map(Some).ok_or_else(|| {
            invalid(format!("{} must be an amount such as 49 or 49.50, or nothing", name.replace('_', " ")))
        }),
    };
    let mut prefixes: Vec<String> = form.text("prefixes").split_whitespace().map(str::to_owned).collect();
    prefixes.sort();
    prefixes.dedup();
    let fits = |prefix: &String| {
        (3..=6).contains(&prefix.len())
            && prefix.bytes().all(|byte| byte.is_ascii_digit())
            && !prefix.starts_with('0')
    };
    if let Some(wrong) = prefixes.iter().find(|prefix| !fits(prefix)) {
        return Err(invalid(format!("{wrong} is no beginning of a pincode: three to six digits, please")));
    }
    if prefixes.len() > MOST_PREFIXES {
        return Err(invalid(format!("a region has at most {MOST_PREFIXES} pincodes")));
    }
    let details = RegionDetails {
        name: form.line("name", 2..=80, Words::english("a region needs a name"))?,
        state: form.line("state", 2..=80, Words::english("a region is in a state"))?,
        is_active: form.ticked("is_active"),
        delivery_paise: amount("delivery")?,
        free_from_paise: amount("free_from")?,
        minimum_paise: amount("minimum")?,
        prefixes,
    };
    let admin = who.admin.clone();
    let write = who.visit.shop.store.write(move |transaction| {
        let saved = delivery::save(transaction, id, &details)?;
        match saved {
            RegionSaved::As(id) => {
                let state = if details.is_active { "served" } else { "not served" };
                let detail = format!("{}, {state}, {} pincodes", details.name, details.prefixes.len());
                audit::note(transaction, &admin, "save", &format!("region {id}"), &detail)?;
                Ok(())
            }
            RegionSaved::Unknown => Err(PageError::NotFound),
            RegionSaved::NameTaken => {
                Err(PageError::Conflict(Words::english("another region has this name")))
            }
            RegionSaved::PrefixTaken(prefix, name) => Err(PageError::Conflict(Words::english(format!(
                "pincodes that begin with {prefix} belong to {name}"
            )))),
        }
    });
    write.await?;
    Ok(who.visit.go_to("/admin/regions"))
}

async fn slot(AdminForm { form, who }: AdminForm) -> Result<Response, PageError> {
    let time = |name: &str| {
        let text = form.text(name);
        let valid = text.len() == 5
            && text.split_once(':').is_some_and(|(hour, minute)| {
                let below =
                    |part: &str, limit: u8| part.len() == 2 && part.parse::<u8>().is_ok_and(|n| n < limit);
                below(hour, 24) && below(minute, 60)
            });
        valid
            .then(|| text.to_owned())
            .ok_or_else(|| PageError::Invalid(Words::english("times are such as 07:30")))
    };
    let rule = SlotRule {
        id: 0,
        starts: time("starts")?,
        ends: time("ends")?,
        capacity: form.number("capacity", 0..=10_000)?,
        cutoff_minutes: form.number("cutoff_minutes", 0..=2880)?,
        is_active: form.ticked("is_active"),
    };
    if rule.ends <= rule.starts {
        return Err(PageError::Invalid(Words::english("a time of delivery ends after it begins")));
    }
    let admin = who.admin.clone();
    let write = who.visit.shop.store.write(move |transaction| {
        delivery::save_slot(transaction, &rule)?;
        let object = format!("slot {}-{}", rule.starts, rule.ends);
        let detail = format!("{} orders, {}", rule.capacity, if rule.is_active { "open" } else { "closed" });
        Ok::<_, PageError>(audit::note(transaction, &admin, "save", &object, &detail)?)
    });
    write.await?;
    Ok(who.visit.go_to("/admin/regions"))
}
