//! Placing an order: the one transaction in which goods change hands.

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::Serialize;

use super::orders::{Actor, State, note_step};
use super::orders::{items, takes_delivery_note};
use super::{StoreError, delivery, members, outbox, products, random_hex, stock};
use crate::bill::Bill;

/// How long goods are held for a payment; the payment page closes before.
pub(crate) const HOLD_MINUTES: i64 = 20;

/// What a customer sends to buy. Prices are not part of it.
#[derive(Clone, Debug)]
pub(crate) struct NewOrder {
    /// Made by the form: the same form twice is one order.
    pub(crate) idempotency_key: String,
    pub(crate) customer_name: String,
    pub(crate) phone: String,
    pub(crate) email: Option<String>,
    pub(crate) address: String,
    pub(crate) city: String,
    pub(crate) pincode: String,
    /// Whether it is paid now; else at the door.
    pub(crate) pays_online: bool,
    /// The account of whoever is signed in.
    pub(crate) user_id: Option<i64>,
    /// Kept when the orders have a column for it.
    pub(crate) delivery_note: Option<String>,
    /// Day and number of a slot; `None` is any time.
    pub(crate) slot: Option<(String, i64)>,
    /// What to do about what turns out to be missing: `call`, `similar` or `none`.
    pub(crate) substitution: &'static str,
    /// Product and quantity.
    pub(crate) lines: Vec<(i64, i64)>,
    /// In which the customer is written to.
    pub(crate) language: String,
    /// The total that the customer saw; a different one is not charged without being shown.
    pub(crate) seen_total_paise: Option<i64>,
}

/// An order that is in the database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Placed {
    pub(crate) id: i64,
    pub(crate) token: String,
    pub(crate) total_paise: i64,
    /// It waits for its payment.
    pub(crate) pays_online: bool,
    /// The form had been sent before: this is the order it made then.
    pub(crate) replayed: bool,
}

/// A line that cannot be delivered as ordered.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Shortage {
    pub(crate) product_id: i64,
    pub(crate) name: String,
    pub(crate) wanted: i64,
    /// 0 when it is sold out or no longer sold.
    pub(crate) left: i64,
    /// `false`: not in this region.
    pub(crate) sold_there: bool,
}

/// Why an order was not placed. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the basket is empty")]
    Empty,
    #[error("the form was used for another order")]
    KeyUsed,
    #[error("we do not deliver to {0} yet")]
    NotServed(String),
    #[error("some of it is not in stock any more")]
    Short(Vec<Shortage>),
    #[error("orders below a minimum are not taken")]
    BelowMinimum(i64),
    #[error("that time is booked out or too near")]
    SlotGone,
    #[error("prices changed")]
    PriceChanged,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for Refusal {
    fn from(source: rusqlite::Error) -> Self {
        Self::Store(source.into())
    }
}

/// Places an order: prices from the database, stock taken, order and lines written, all or nothing.
pub(crate) fn place(transaction: &Transaction<'_>, order: &NewOrder) -> std::result::Result<Placed, Refusal> {
    if let Some(placed) = replay(transaction, order)? {
        return Ok(placed);
    }
    if order.lines.is_empty() {
        return Err(Refusal::Empty);
    }
    let Some(region) = delivery::serving(transaction, &order.pincode)? else {
        return Err(Refusal::NotServed(order.pincode.clone()));
    };
    let ids: Vec<i64> = order.lines.iter().map(|(id, _)| *id).collect();
    let not_sold = delivery::not_sold_in(transaction, region.id, &ids)?;
    let bill = Bill::of(&order.lines, &products::find_all(transaction, &ids)?, &region.terms, &not_sold);
    let mut short = bill.shortages();
    for line in &bill.lines {
        let taken = stock::take(transaction, line.product.id, line.quantity)?;
        if !taken && !short.iter().any(|shortage| shortage.product_id == line.product.id) {
            short.push(line.shortage());
        }
    }
    if !short.is_empty() {
        return Err(Refusal::Short(short));
    }
    if bill.to_minimum_paise > 0 {
        return Err(Refusal::BelowMinimum(region.terms.minimum_paise));
    }
    // Counted under the write lock: the last place of a slot is given once.
    if let Some((day, id)) = &order.slot
        && !delivery::open_slots(transaction)?.iter().any(|slot| slot.day == *day && slot.id == *id)
    {
        return Err(Refusal::SlotGone);
    }
    if order.seen_total_paise.is_some_and(|seen| seen != bill.total_paise) {
        return Err(Refusal::PriceChanged);
    }
    let token = random_hex::<16>();
    let state = if order.pays_online { State::AwaitingPayment } else { State::Placed };
    transaction.execute(
        "INSERT INTO orders (token, idempotency_key, customer_name, phone, email, address, city, pincode,
             region_id, subtotal_paise, delivery_paise, total_paise, user_id, payment_method, state, delivery_day,
             slot_id, substitution)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        rusqlite::params![
            &token,
            &order.idempotency_key,
            &order.customer_name,
            &order.phone,
            &order.email,
            &order.address,
            &order.city,
            &order.pincode,
            region.id,
            bill.subtotal_paise,
            bill.delivery_paise,
            bill.total_paise,
            order.user_id,
            if order.pays_online { "razorpay" } else { "on-delivery" },
            state.name(),
            order.slot.as_ref().map(|(day, _)| day),
            order.slot.as_ref().map(|(_, id)| id),
            order.substitution,
        ],
    )?;
    let id = transaction.last_insert_rowid();
    for line in &bill.lines {
        transaction.execute(
            "INSERT INTO order_items (order_id, product_id, product_name, pack_size, quantity, unit_price_paise)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (
                id,
                line.product.id,
                &line.product.name,
                &line.product.pack_size,
                line.quantity,
                line.product.price_paise,
            ),
        )?;
    }
    if let Some(note) = &order.delivery_note
        && takes_delivery_note(transaction)?
    {
        transaction.execute("UPDATE orders SET delivery_note = ?2 WHERE id = ?1", (id, note))?;
    }
    transaction
        .execute("INSERT INTO order_languages (order_id, language) VALUES (?1, ?2)", (id, &order.language))?;
    stock::log_order(transaction, id)?;
    if let Some(user) = order.user_id {
        members::keep_address(transaction, user, id)?;
    }
    if order.pays_online {
        transaction.execute(
            "INSERT INTO stock_holds (order_id, expires_at)
             VALUES (?1, strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+' || ?2 || ' minutes'))",
            (id, HOLD_MINUTES),
        )?;
        // The receipt finds the gateway's order again when its answer was lost.
        transaction.execute(
            "INSERT INTO payments (order_id, receipt, amount_paise, next_check_at)
             VALUES (?1, ?2, ?3, strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+1 minutes'))",
            (id, format!("gg-{id}-{}", &token[..12]), bill.total_paise),
        )?;
    }
    note_step(transaction, id, None, state, Actor::Customer, "")?;
    outbox::tell_of_order(transaction, id, state.name())?;
    Ok(Placed { id, token, total_paise: bill.total_paise, pays_online: order.pays_online, replayed: false })
}

fn replay(connection: &Connection, order: &NewOrder) -> std::result::Result<Option<Placed>, Refusal> {
    let sql =
        "SELECT id, token, total_paise, state = 'awaiting-payment' FROM orders WHERE idempotency_key = ?1";
    let placed = connection
        .query_row(sql, [&order.idempotency_key], |row| {
            Ok(Placed {
                id: row.get(0)?,
                token: row.get(1)?,
                total_paise: row.get(2)?,
                pays_online: row.get(3)?,
                replayed: true,
            })
        })
        .optional()?;
    let Some(placed) = placed else { return Ok(None) };
    // An old page may be sent again with a new basket: that is a new purchase, not a repetition.
    if !order.lines.is_empty() {
        let mut wanted = order.lines.clone();
        wanted.sort_unstable();
        let bought: Vec<(i64, i64)> =
            items(connection, placed.id)?.iter().map(|item| (item.product_id, item.quantity)).collect();
        if wanted != bought {
            return Err(Refusal::KeyUsed);
        }
    }
    Ok(Some(placed))
}
