//! Buying: address in, order out.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use minijinja::context;
use minijinja::value::Serde;
use serde_json::json;

use super::error::PageError;
use super::form::CheckedForm;
use super::pay;
use super::visit::{Visit, is_pincode};
use super::{Shop, cart, guard};
use crate::cart::Cart;
use crate::db::delivery;
use crate::db::members;
use crate::db::orders::takes_delivery_note;
use crate::db::placing::{self, NewOrder, Placed, Refusal};
use crate::db::random_hex;
use crate::money::Rupees;
use crate::texts::Say;
use crate::{log, password};

/// The fields that a customer fills in.
const FIELDS: [&str; 10] = [
    "name",
    "phone",
    "email",
    "address",
    "city",
    "pincode",
    "delivery_note",
    "slot",
    "substitution",
    "payment",
];

pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new().route("/checkout", get(show).post(place))
}

async fn show(visit: Visit) -> Result<Response, PageError> {
    if visit.cart.is_empty() {
        return Ok(visit.go_to("/cart"));
    }
    let mut fresh = Sheet { key: random_hex::<16>(), ..Sheet::default() };
    if let Some(member) = visit.member().await? {
        let id = member.id;
        let read =
            visit.shop.store.read(move |connection| Ok::<_, PageError>(members::addresses(connection, id)?));
        fresh.typed.insert("email", member.email);
        fresh.typed.insert("name", member.name);
        // The address used last, unless things are to go to another pincode now.
        let addresses = read.await?;
        let fits =
            |address: &&members::Address| visit.pincode.as_ref().is_none_or(|code| *code == address.pincode);
        if let Some(known) = addresses.into_iter().find(|address| fits(&address)) {
            let fields = [
                ("name", known.name),
                ("phone", known.phone),
                ("address", known.address),
                ("city", known.city),
                ("pincode", known.pincode),
            ];
            fresh.typed.extend(fields);
        }
    }
    if let Some(pincode) = &visit.pincode {
        fresh.typed.insert("pincode", pincode.clone());
    }
    page(&visit, StatusCode::OK, fresh).await
}

/// What the form shows: what was typed, what is wrong with it, and the key that makes it one order.
#[derive(Default)]
struct Sheet {
    key: String,
    typed: BTreeMap<&'static str, String>,
    wrong: BTreeMap<&'static str, String>,
    notice: String,
}

async fn page(visit: &Visit, status: StatusCode, sheet: Sheet) -> Result<Response, PageError> {
    let pincode =
        sheet.typed.get("pincode").map(|text| text.replace(' ', "")).filter(|text| is_pincode(text));
    let (bill, region) = cart::bill(visit, pincode.or_else(|| visit.pincode.clone())).await?;
    let read = visit.shop.store.read(|connection| {
        Ok::<_, PageError>((takes_delivery_note(connection)?, delivery::open_slots(connection)?))
    });
    let (takes_note, slots) = read.await?;
    let typed: BTreeMap<_, _> =
        FIELDS.iter().map(|name| (*name, sheet.typed.get(name).cloned().unwrap_or_default())).collect();
    let wrong: BTreeMap<_, _> =
        FIELDS.iter().map(|name| (*name, sheet.wrong.get(name).cloned().unwrap_or_default())).collect();
    let values = context! {
        bill => Serde(bill),
        idempotency_key => sheet.key,
        typed => Serde(typed),
        wrong => Serde(wrong),
        notice => sheet.notice,
        takes_delivery_note => takes_note,
        region => Serde(region),
        slots => Serde(slots),
    };
    visit.page(status, "checkout.html", values)
}

async fn place(form: CheckedForm) -> Result<Response, PageError> {
    let typed: BTreeMap<_, _> = FIELDS.iter().map(|name| (*name, form.text(name).to_owned())).collect();
    let key = form.text("idempotency_key").to_owned();
    if key.len() != 32 || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(PageError::Invalid(Say::new("refusal.key").into()));
    }
    if !form.visit.shop.pace.allows("order", &form.client) {
        return Err(PageError::TooOften);
    }
    let member = form.visit.member().await?;
    let order = match read(&form, &key, member.as_ref().map(|member| member.id)) {
        Ok(order) => order,
        Err(wrong) => {
            let notice = form.visit.say(&Say::new("refusal.fields"));
            let sheet = Sheet { key, typed, wrong, notice };
            return refuse(&form, StatusCode::UNPROCESSABLE_ENTITY, sheet).await;
        }
    };
    let placed = form.visit.shop.store.write(move |transaction| placing::place(transaction, &order)).await;
    let mut sheet = Sheet { key, typed, ..Sheet::default() };
    match placed {
        Ok(placed) => thank(&form, &placed, member.is_some()).await,
        Err(Refusal::Store(error)) => Err(error.into()),
        Err(Refusal::Empty) => Err(PageError::Conflict(Say::new("refusal.empty").into())),
        Err(Refusal::NotServed(pincode)) => {
            sheet.notice = form.visit.say(&Say::new("refusal.not-served").with("pincode", pincode));
            sheet.wrong.insert("pincode", sheet.notice.clone());
            refuse(&form, StatusCode::UNPROCESSABLE_ENTITY, sheet).await
        }
        Err(Refusal::BelowMinimum(paise)) => {
            sheet.notice = form.visit.say(&Say::new("refusal.minimum").with("amount", Rupees(paise)));
            refuse(&form, StatusCode::UNPROCESSABLE_ENTITY, sheet).await
        }
        Err(Refusal::SlotGone) => {
            sheet.notice = form.visit.say(&Say::new("refusal.slot-gone"));
            sheet.wrong.insert("slot", sheet.notice.clone());
            refuse(&form, StatusCode::CONFLICT, sheet).await
        }
        Err(Refusal::PriceChanged) => {
            sheet.notice = form.visit.say(&Say::new("refusal.price-changed"));
            refuse(&form, StatusCode::CONFLICT, sheet).await
        }
        Err(Refusal::KeyUsed) => {
            sheet.key = random_hex::<16>();
            sheet.notice = form.visit.say(&Say::new("refusal.key-used"));
            refuse(&form, StatusCode::CONFLICT, sheet).await
        }
        Err(Refusal::Short(mut short)) => {
            for one in short.iter_mut().filter(|one| one.name.is_empty()) {
                one.name = form.visit.say(&Say::new("cart.gone"));
            }
            if guard::wants_json(&form.headers) {
                let answer = json!({ "error": form.visit.say(&Say::new("refusal.short")), "short": short });
                return Ok(guard::json(StatusCode::CONFLICT, &answer));
            }
            form.visit.page(StatusCode::CONFLICT, "out_of_stock.html", context! { short => Serde(short) })
        }
    }
}

/// The form again, or for a program what is wrong with it.
async fn refuse(form: &CheckedForm, status: StatusCode, sheet: Sheet) -> Result<Response, PageError> {
    if guard::wants_json(&form.headers) {
        return Ok(guard::json(status, &json!({ "error": sheet.notice, "fields": sheet.wrong })));
    }
    page(&form.visit, status, sheet).await
}

async fn thank(form: &CheckedForm, placed: &Placed, member: bool) -> Result<Response, PageError> {
    if !placed.replayed {
        form.visit.shop.numbers.order_placed();
        log::info(format_args!("order {} placed, {} paise", placed.id, placed.total_paise));
    }
    let address = if placed.pays_online {
        pay::open(&form.visit.shop, placed).await;
        pay::address(&placed.token)
    } else {
        format!("/order/{}", placed.token)
    };
    let mut response = if guard::wants_json(&form.headers) {
        let answer = json!({
            "order": placed.id,
            "token": placed.token,
            "total_paise": placed.total_paise,
            "replayed": placed.replayed,
            "pay": placed.pays_online.then_some(&address),
        });
        guard::json(if placed.replayed { StatusCode::OK } else { StatusCode::CREATED }, &answer)
    } else {
        form.visit.go_to(&address)
    };
    form.visit.keep_cart(&mut response, &Cart::default());
    if member {
        cart::keep_for_member(&form.visit, &Cart::default()).await?;
    }
    Ok(response)
}

/// The order as typed, or what is wrong with each field.
fn read(
    form: &CheckedForm,
    key: &str,
    user_id: Option<i64>,
) -> Result<NewOrder, BTreeMap<&'static str, String>> {
    let mut wrong = BTreeMap::new();
    let say = |name: &'static str| form.visit.say(&Say::new(name));
    let mut line = |name: &'static str, range: std::ops::RangeInclusive<usize>, what: &'static str| {
        let text = form.text(name);
        let length = text.chars().count();
        if !range.contains(&length) || text.chars().any(|c| c.is_control() && !"\r\n".contains(c)) {
            wrong.insert(name, say(what));
        }
        text.to_owned()
    };
    let customer_name = line("name", 2..=80, "wrong.name");
    let address = line("address", 8..=300, "wrong.address");
    let city = line("city", 2..=60, "wrong.city");
    let note = line("delivery_note", 0..=200, "wrong.note");
    for (name, value) in [("name", &customer_name), ("city", &city)] {
        if value.contains(['\r', '\n']) {
            wrong.insert(name, say("wrong.one-line"));
        }
    }
    let phone = mobile(form.text("phone"));
    if phone.is_none() {
        wrong.insert("phone", say("wrong.mobile"));
    }
    let pincode = form.text("pincode").replace(' ', "");
    if !is_pincode(&pincode) {
        wrong.insert("pincode", say("wrong.pincode"));
    }
    let email = match form.text("email") {
        "" => None,
        text => password::checked_email(text)
            .inspect_err(|_| {
                wrong.insert("email", say("wrong.email"));
            })
            .ok(),
    };
    let substitution = match form.text("substitution") {
        "" | "call" => "call",
        "similar" => "similar",
        "none" => "none",
        _ => {
            wrong.insert("substitution", say("wrong.choice"));
            "call"
        }
    };
    // `2026-03-01/2`, or nothing: any time.
    let slot = match form.text("slot") {
        "" => None,
        text => {
            let slot = text.split_once('/').and_then(|(day, id)| Some((day.to_owned(), id.parse().ok()?)));
            if slot.is_none() {
                wrong.insert("slot", say("wrong.time"));
            }
            slot
        }
    };
    let online = form.visit.shop.settings.payments.gateway.is_some();
    let pays_online = match form.text("payment") {
        "" | "on-delivery" => false,
        "online" if online => true,
        _ => {
            wrong.insert("payment", say("wrong.payment"));
            false
        }
    };
    if pays_online && email.is_none() && !wrong.contains_key("email") {
        wrong.insert("email", say("wrong.email-online"));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(NewOrder {
        idempotency_key: key.to_owned(),
        customer_name,
        phone: phone.unwrap_or_default(),
        email,
        address,
        city,
        pincode,
        delivery_note: (!note.is_empty()).then_some(note),
        pays_online,
        user_id,
        slot,
        substitution,
        lines: form.visit.cart.lines(),
        language: form.visit.language().code.clone(),
        seen_total_paise: form.text("seen_total_paise").parse().ok(),
    })
}

/// The ten digits of an Indian mobile number, however it was written.
fn mobile(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !" -()+".contains(*c)).collect();
    let digits = match digits.len() {
        12 => digits.strip_prefix("91")?,
        11 => digits.strip_prefix('0')?,
        _ => &digits,
    };
    let fits = digits.len() == 10
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && digits.starts_with(['6', '7', '8', '9']);
    fits.then(|| digits.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mobile_numbers_are_read_as_people_write_them() {
        for text in ["9845012345", "+91 98450 12345", "098450-12345", "(+91) 9845012345"] {
            assert_eq!(mobile(text).as_deref(), Some("9845012345"), "{text}");
        }
        for text in ["", "12345", "5845012345", "98450123456", "98450१२३४५", "9845o12345"] {
            assert_eq!(mobile(text), None, "{text}");
        }
    }
}
