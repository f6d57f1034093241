//! Orders: what they are, and what may happen to them. How one comes about is in `placing`.
//!
//! All of these take the transaction of [`super::Store::write`]; what one call does is kept or lost as a whole.
//!
//! - [`State`], [`Actor`]: the states, and who may move an order where ([`State::next`]).
//! - [`move_to`]: an admin packs, sends, delivers or cancels; a customer cancels.
//! - [`mark_paid`]: a captured payment, from wherever it was heard of (callback, webhook, reconciler), in any
//!   order, late or twice: [`Paid`] says what came of it. Amount and currency are compared here.
//! - [`expire_holds`]: orders whose payment did not come in time; the goods go back to the shelf.
//! - [`refund`]: writes a row of `refunds` (`due` for the gateway's worker, `processed` when given by hand);
//!   [`refund_pending`], [`refund_processed`] and [`refund_failed`] tell how it went.
//!
//! Fulfilment (`orders.state`) and payment (`orders.payment_status`) are separate: money never moves goods by
//! accident, and a failed attempt never lowers a paid order.

#[allow(dead_code, reason = "called by what talks to the gateway")]
mod payment;
mod states;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;

use super::Result;
#[allow(unused_imports, reason = "the payment pages use them")]
pub(crate) use payment::{
    Captured, Paid, RefundRefused, expire_holds, holds_are_due, mark_paid, new_refund_key, refund,
    refund_failed, refund_made_elsewhere, refund_pending, refund_processed,
};
pub(super) use states::note_step;
pub(crate) use states::{Actor, Moved, State, move_to};

/// Whether this schema's orders have a note for the person who delivers.
pub(crate) fn takes_delivery_note(connection: &Connection) -> Result<bool> {
    let sql = "SELECT count(*) FROM pragma_table_info('orders') WHERE name = 'delivery_note'";
    Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))? > 0)
}

/// An order as shown to its customer and to the shop.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Order {
    pub(crate) id: i64,
    pub(crate) token: String,
    pub(crate) customer_name: String,
    pub(crate) phone: String,
    pub(crate) email: Option<String>,
    pub(crate) address: String,
    pub(crate) city: String,
    pub(crate) pincode: String,
    pub(crate) region: String,
    pub(crate) delivery_note: Option<String>,
    pub(crate) subtotal_paise: i64,
    pub(crate) delivery_paise: i64,
    pub(crate) total_paise: i64,
    pub(crate) payment_method: String,
    pub(crate) payment_status: String,
    pub(crate) refunded_paise: i64,
    pub(crate) refund_wish: Option<String>,
    pub(crate) state: String,
    pub(crate) user_id: Option<i64>,
    /// `2026-03-01`, in India.
    pub(crate) delivery_day: Option<String>,
    /// `07:00`.
    pub(crate) slot_starts: Option<String>,
    pub(crate) slot_ends: Option<String>,
    pub(crate) substitution: String,
    pub(crate) created_at: String,
    /// Pieces in it, over all lines.
    pub(crate) pieces: i64,
}

/// A line of an order.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Item {
    pub(crate) product_id: i64,
    pub(crate) product_name: String,
    pub(crate) pack_size: String,
    pub(crate) quantity: i64,
    pub(crate) unit_price_paise: i64,
    pub(crate) line_paise: i64,
}

const COLUMNS: &str = "o.id, o.token, o.customer_name, o.phone, o.email, o.address, o.city, o.pincode,
    r.name AS region, o.subtotal_paise, o.delivery_paise, o.total_paise, o.payment_method, o.payment_status,
    o.refunded_paise, o.refund_wish, o.state, o.user_id, o.delivery_day, s.starts AS slot_starts,
    s.ends AS slot_ends, o.substitution, o.created_at, (SELECT coalesce(sum(quantity), 0) FROM order_items WHERE order_id = o.id) AS pieces";

fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get("id")?,
        token: row.get("token")?,
        customer_name: row.get("customer_name")?,
        phone: row.get("phone")?,
        email: row.get("email")?,
        address: row.get("address")?,
        city: row.get("city")?,
        pincode: row.get("pincode")?,
        region: row.get("region")?,
        delivery_note: row.get("delivery_note")?,
        subtotal_paise: row.get("subtotal_paise")?,
        delivery_paise: row.get("delivery_paise")?,
        total_paise: row.get("total_paise")?,
        payment_method: row.get("payment_method")?,
        payment_status: row.get("payment_status")?,
        refunded_paise: row.get("refunded_paise")?,
        refund_wish: row.get("refund_wish")?,
        state: row.get("state")?,
        user_id: row.get("user_id")?,
        delivery_day: row.get("delivery_day")?,
        slot_starts: row.get("slot_starts")?,
        slot_ends: row.get("slot_ends")?,
        substitution: row.get("substitution")?,
        created_at: row.get("created_at")?,
        pieces: row.get("pieces")?,
    })
}

fn select(connection: &Connection, rest: &str) -> Result<String> {
    let note = if takes_delivery_note(connection)? { "o.delivery_note" } else { "NULL AS delivery_note" };
    Ok(format!(
        "SELECT {COLUMNS}, {note} FROM orders AS o JOIN regions AS r ON r.id = o.region_id
         LEFT JOIN delivery_slots AS s ON s.id = o.slot_id {rest}"
    ))
}

/// The order that a customer's private address shows.
pub(crate) fn by_token(connection: &Connection, token: &str) -> Result<Option<Order>> {
    let sql = select(connection, "WHERE o.token = ?1")?;
    Ok(connection.query_row(&sql, [token], order).optional()?)
}

/// An order by its number.
pub(crate) fn by_id(connection: &Connection, id: i64) -> Result<Option<Order>> {
    let sql = select(connection, "WHERE o.id = ?1")?;
    Ok(connection.query_row(&sql, [id], order).optional()?)
}

/// The newest orders, of one state or of all.
pub(crate) fn newest(connection: &Connection, state: Option<State>, limit: i64) -> Result<Vec<Order>> {
    let sql = select(connection, "WHERE ?1 IS NULL OR o.state = ?1 ORDER BY o.id DESC LIMIT ?2")?;
    let mut statement = connection.prepare(&sql)?;
    let rows = statement
        .query_map((state.map(State::name), limit), order)?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// The lines of an order, by product.
pub(crate) fn items(connection: &Connection, order_id: i64) -> Result<Vec<Item>> {
    let mut statement = connection.prepare(
        "SELECT product_id, product_name, pack_size, quantity, unit_price_paise FROM order_items
         WHERE order_id = ?1 ORDER BY product_id",
    )?;
    let rows = statement
        .query_map([order_id], |row| {
            let (quantity, unit_price_paise): (i64, i64) =
                (row.get("quantity")?, row.get("unit_price_paise")?);
            Ok(Item {
                product_id: row.get("product_id")?,
                product_name: row.get("product_name")?,
                pack_size: row.get("pack_size")?,
                quantity,
                unit_price_paise,
                line_paise: quantity * unit_price_paise,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// One step in an order's life.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) to_state: String,
    pub(crate) actor: String,
    pub(crate) note: String,
    /// When the note is that of a refund.
    pub(crate) refund: Option<RefundNote>,
    pub(crate) at: String,
}

/// What was given back, in an order's history.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct RefundNote {
    /// `₹45`.
    pub(crate) amount: String,
    pub(crate) reason: String,
}

impl RefundNote {
    fn of(note: &str) -> Option<Self> {
        let (amount, reason) = note.strip_prefix(payment::REFUND_OF)?.split_once(": ")?;
        Some(Self { amount: amount.to_owned(), reason: reason.to_owned() })
    }
}

/// An order's life so far, oldest first.
pub(crate) fn history(connection: &Connection, order_id: i64) -> Result<Vec<Step>> {
    let mut statement = connection.prepare_cached(
        "SELECT to_state, actor, note, at FROM order_history WHERE order_id = ?1 ORDER BY id",
    )?;
    let rows = statement
        .query_map([order_id], |row| {
            let note: String = row.get("note")?;
            Ok(Step {
                refund: RefundNote::of(&note),
                to_state: row.get("to_state")?,
                actor: row.get("actor")?,
                note,
                at: row.get("at")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// Money that went or goes back.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Refund {
    pub(crate) id: i64,
    pub(crate) amount_paise: i64,
    pub(crate) method: String,
    pub(crate) reason: String,
    pub(crate) status: String,
    pub(crate) last_error: Option<String>,
    pub(crate) created_at: String,
}

/// The refunds of an order, oldest first.
pub(crate) fn refunds(connection: &Connection, order_id: i64) -> Result<Vec<Refund>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, amount_paise, method, reason, status, last_error, created_at FROM refunds
         WHERE order_id = ?1 ORDER BY id",
    )?;
    let rows = statement
        .query_map([order_id], |row| {
            Ok(Refund {
                id: row.get("id")?,
                amount_paise: row.get("amount_paise")?,
                method: row.get("method")?,
                reason: row.get("reason")?,
                status: row.get("status")?,
                last_error: row.get("last_error")?,
                created_at: row.get("created_at")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// Notes that a customer asks for money back; `false` when nothing is paid, or the wish is known.
pub(crate) fn wish_refund(connection: &Connection, order_id: i64, text: &str) -> Result<bool> {
    let noted = connection.execute(
        "UPDATE orders SET refund_wish = ?2, updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?1 AND refund_wish IS NULL AND payment_status IN ('paid', 'part-refunded')
           AND state IN ('delivered', 'cancelled')",
        (order_id, text),
    )?;
    Ok(noted == 1)
}

/// What of an order can be bought again now: product and quantity.
pub(crate) fn buyable_again(connection: &Connection, order_id: i64) -> Result<Vec<(i64, i64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT i.product_id, min(i.quantity, p.stock) FROM order_items AS i JOIN products AS p ON p.id = i.product_id
         WHERE i.order_id = ?1 AND p.is_active = 1 AND p.stock > 0 ORDER BY i.product_id",
    )?;
    let rows = statement
        .query_map([order_id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// The orders of a member, newest first.
pub(crate) fn of_member(connection: &Connection, user_id: i64, limit: i64) -> Result<Vec<Order>> {
    let sql = select(connection, "WHERE o.user_id = ?1 ORDER BY o.id DESC LIMIT ?2")?;
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map((user_id, limit), order)?.collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// Which orders a list shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) state: Option<State>,
    /// A day of delivery.
    pub(crate) day: Option<String>,
    /// Only those whose customers ask for money back.
    pub(crate) wishes: bool,
}

/// A page of the newest orders that a filter lets through.
pub(crate) fn filtered(
    connection: &Connection,
    filter: &Filter,
    limit: i64,
    skip: i64,
) -> Result<Vec<Order>> {
    let mut rest = String::from("WHERE 1 = 1");
    // Each condition only where it is wanted, so that each has its index.
    rest.push_str(if filter.state.is_some() { " AND o.state = ?1" } else { " AND ?1 IS NULL" });
    rest.push_str(if filter.day.is_some() { " AND o.delivery_day = ?2" } else { " AND ?2 IS NULL" });
    if filter.wishes {
        rest.push_str(" AND o.refund_wish IS NOT NULL AND o.payment_status <> 'refunded'");
    }
    rest.push_str(" ORDER BY o.id DESC LIMIT ?3 OFFSET ?4");
    let mut statement = connection.prepare(&select(connection, &rest)?)?;
    let rows = statement
        .query_map((filter.state.map(State::name), &filter.day, limit, skip), order)?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// One line of the pick list: a product, and how much of it the orders that are to be packed need.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pick {
    pub(crate) category: String,
    pub(crate) product_name: String,
    pub(crate) pack_size: String,
    pub(crate) quantity: i64,
    /// The orders, `12 × 2, 15`.
    pub(crate) orders: String,
}

/// What to take from the shelves for all orders that are placed and not packed, of a day or of all. Those that may come
/// any time are for every day: nobody else would pack them.
pub(crate) fn pick_list(connection: &Connection, day: Option<&str>) -> Result<Vec<Pick>> {
    let mut statement = connection.prepare_cached(
        "SELECT c.name AS category, i.product_name, i.pack_size, sum(i.quantity) AS quantity,
                group_concat(o.id || CASE WHEN i.quantity > 1 THEN ' × ' || i.quantity ELSE '' END, ', ') AS orders
         FROM orders AS o JOIN order_items AS i ON i.order_id = o.id
         JOIN products AS p ON p.id = i.product_id JOIN categories AS c ON c.id = p.category_id
         WHERE o.state = 'placed' AND (?1 IS NULL OR o.delivery_day = ?1 OR o.delivery_day IS NULL)
         GROUP BY i.product_id, i.product_name, i.pack_size ORDER BY c.position, i.product_name",
    )?;
    let rows = statement
        .query_map([day], |row| {
            Ok(Pick {
                category: row.get("category")?,
                product_name: row.get("product_name")?,
                pack_size: row.get("pack_size")?,
                quantity: row.get("quantity")?,
                orders: row.get("orders")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}
