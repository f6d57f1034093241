//! What is on the shelf, and the log of every change of it.

use rusqlite::{Connection, Transaction};
use serde::Serialize;

use super::Result;

/// Takes the goods of a new order off the shelf; `false` when there are not enough of them.
pub(super) fn take(transaction: &Transaction<'_>, product_id: i64, quantity: i64) -> Result<bool> {
    let taken = transaction
        .prepare_cached(
            "UPDATE products SET stock = stock - ?2 WHERE id = ?1 AND is_active = 1 AND stock >= ?2",
        )?
        .execute((product_id, quantity))?;
    Ok(taken == 1)
}

/// Logs that an order took its goods.
pub(super) fn log_order(transaction: &Transaction<'_>, order_id: i64) -> Result<()> {
    log_lines(transaction, order_id, -1, "order")
}

/// Puts an order's goods back on the shelf.
pub(super) fn give_back(transaction: &Transaction<'_>, order_id: i64, reason: &str) -> Result<()> {
    transaction.execute(
        "UPDATE products SET stock = stock + i.quantity FROM order_items AS i
         WHERE i.order_id = ?1 AND i.product_id = products.id",
        [order_id],
    )?;
    log_lines(transaction, order_id, 1, reason)
}

/// Takes the goods of an expired order once more: all of them or none.
#[allow(dead_code, reason = "for late payments")]
pub(super) fn take_again(transaction: &Transaction<'_>, order_id: i64) -> Result<bool> {
    let missing: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM order_items AS i JOIN products AS p ON p.id = i.product_id
                        WHERE i.order_id = ?1 AND p.stock < i.quantity)",
        [order_id],
        |row| row.get(0),
    )?;
    if missing {
        return Ok(false);
    }
    transaction.execute(
        "UPDATE products SET stock = stock - i.quantity FROM order_items AS i
         WHERE i.order_id = ?1 AND i.product_id = products.id",
        [order_id],
    )?;
    log_lines(transaction, order_id, -1, "order")?;
    Ok(true)
}

fn log_lines(transaction: &Transaction<'_>, order_id: i64, sign: i64, reason: &str) -> Result<()> {
    transaction.execute(
        "INSERT INTO stock_movements (product_id, change, stock_after, reason, order_id)
         SELECT p.id, ?2 * i.quantity, p.stock, ?3, i.order_id FROM order_items AS i
         JOIN products AS p ON p.id = i.product_id WHERE i.order_id = ?1",
        (order_id, sign, reason),
    )?;
    Ok(())
}

/// Logs what a person changed; the stock has been set already.
pub(super) fn log_change(
    transaction: &Connection,
    product_id: i64,
    change: i64,
    reason: &str,
    user_id: Option<i64>,
    note: &str,
) -> Result<()> {
    if change != 0 {
        transaction.execute(
            "INSERT INTO stock_movements (product_id, change, stock_after, reason, user_id, note)
             SELECT id, ?2, stock, ?3, ?4, ?5 FROM products WHERE id = ?1",
            (product_id, change, reason, user_id, note),
        )?;
    }
    Ok(())
}

/// One change of a stock.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Movement {
    pub(crate) change: i64,
    pub(crate) stock_after: i64,
    pub(crate) reason: String,
    pub(crate) order_id: Option<i64>,
    pub(crate) who: Option<String>,
    pub(crate) note: String,
    pub(crate) at: String,
}

/// The newest changes of a product's stock.
pub(crate) fn movements(connection: &Connection, product_id: i64, limit: i64) -> Result<Vec<Movement>> {
    let mut statement = connection.prepare_cached(
        "SELECT m.change, m.stock_after, m.reason, m.order_id, u.email AS who, m.note, m.at
         FROM stock_movements AS m LEFT JOIN users AS u ON u.id = m.user_id
         WHERE m.product_id = ?1 ORDER BY m.id DESC LIMIT ?2",
    )?;
    let rows = statement
        .query_map((product_id, limit), |row| {
            Ok(Movement {
                change: row.get("change")?,
                stock_after: row.get("stock_after")?,
                reason: row.get("reason")?,
                order_id: row.get("order_id")?,
                who: row.get("who")?,
                note: row.get("note")?,
                at: row.get("at")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}
