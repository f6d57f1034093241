//! Orders as they are, and what happens to them. How one comes about is in `placing`.

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::Serialize;

use super::Result;

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
    pub(crate) state: String,
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
    o.state, o.created_at, (SELECT coalesce(sum(quantity), 0) FROM order_items WHERE order_id = o.id) AS pieces";

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
        state: row.get("state")?,
        created_at: row.get("created_at")?,
        pieces: row.get("pieces")?,
    })
}

fn select(connection: &Connection, rest: &str) -> Result<String> {
    let note = if takes_delivery_note(connection)? { "o.delivery_note" } else { "NULL AS delivery_note" };
    Ok(format!("SELECT {COLUMNS}, {note} FROM orders AS o JOIN regions AS r ON r.id = o.region_id {rest}"))
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

/// Orders and revenue since a moment (`YYYY-MM-DDTHH:MM:SSZ`), cancelled ones left out.
pub(crate) fn taken_since(connection: &Connection, since: &str) -> Result<(i64, i64)> {
    let sql = "SELECT count(*), coalesce(sum(total_paise), 0) FROM orders
               WHERE created_at >= ?1 AND state <> 'cancelled'";
    Ok(connection.query_row(sql, [since], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// How far an order has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Placed,
    Packed,
    Out,
    Delivered,
    Cancelled,
}

impl State {
    /// Every state, in the order in which they come.
    pub(crate) const ALL: [Self; 5] =
        [Self::Placed, Self::Packed, Self::Out, Self::Delivered, Self::Cancelled];

    /// The name in the database, in forms and in addresses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Packed => "packed",
            Self::Out => "out",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Where an order may go from here. Delivered and cancelled are the end.
    pub(crate) fn next(self) -> &'static [Self] {
        match self {
            Self::Placed => &[Self::Packed, Self::Cancelled],
            Self::Packed => &[Self::Out, Self::Cancelled],
            Self::Out => &[Self::Delivered, Self::Cancelled],
            Self::Delivered | Self::Cancelled => &[],
        }
    }
}

/// What came of moving an order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Moved {
    Done,
    Unknown,
    /// It is not in a state from which it may go there.
    NotFrom(State),
}

/// Moves an order on. Delivery marks it paid; cancelling puts its goods back on the shelf.
pub(crate) fn move_to(transaction: &Transaction<'_>, id: i64, to: State) -> Result<Moved> {
    let name: Option<String> =
        transaction.query_row("SELECT state FROM orders WHERE id = ?1", [id], |row| row.get(0)).optional()?;
    let Some(from) = name.as_deref().and_then(State::named) else { return Ok(Moved::Unknown) };
    if !from.next().contains(&to) {
        return Ok(Moved::NotFrom(from));
    }
    transaction.execute(
        "UPDATE orders SET state = ?2,
             payment_status = CASE WHEN ?2 = 'delivered' THEN 'paid' ELSE payment_status END,
             updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?1",
        (id, to.name()),
    )?;
    if to == State::Cancelled {
        transaction.execute(
            "UPDATE products SET stock = stock + i.quantity FROM order_items AS i
             WHERE i.order_id = ?1 AND i.product_id = products.id",
            [id],
        )?;
    }
    Ok(Moved::Done)
}
