//! What is known about payments at the gateway, which webhooks have been heard, and what has to be looked at again.
//!
//! What a payment does to its order is in `orders`; here is how the shop finds out.

use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::Result;

/// One order at the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Payment {
    pub(crate) id: i64,
    pub(crate) order_id: i64,
    pub(crate) receipt: String,
    /// `None` until the gateway has answered.
    pub(crate) razorpay_order_id: Option<String>,
    pub(crate) amount_paise: i64,
    pub(crate) currency: String,
    /// See the table.
    pub(crate) status: String,
    pub(crate) last_error: Option<String>,
    /// The state of the shop's order.
    pub(crate) order_state: String,
    /// Minutes since it was written.
    pub(crate) age_minutes: i64,
    /// When the goods go back to the shelf, as stored; `None` when they are held no more.
    pub(crate) held_until: Option<String>,
    /// Seconds until then; 0 when that has passed.
    pub(crate) held_seconds: i64,
}

const COLUMNS: &str = "p.id, p.order_id, p.receipt, p.razorpay_order_id, p.amount_paise, p.currency, p.status,
    p.last_error, o.state AS order_state,
    (unixepoch('now') - unixepoch(p.created_at)) / 60 AS age_minutes,
    h.expires_at AS held_until, max(0, coalesce(unixepoch(h.expires_at) - unixepoch('now'), 0)) AS held_seconds
    FROM payments AS p JOIN orders AS o ON o.id = p.order_id
    LEFT JOIN stock_holds AS h ON h.order_id = o.id AND h.status = 'held'";

fn payment(row: &Row<'_>) -> rusqlite::Result<Payment> {
    Ok(Payment {
        id: row.get("id")?,
        order_id: row.get("order_id")?,
        receipt: row.get("receipt")?,
        razorpay_order_id: row.get("razorpay_order_id")?,
        amount_paise: row.get("amount_paise")?,
        currency: row.get("currency")?,
        status: row.get("status")?,
        last_error: row.get("last_error")?,
        order_state: row.get("order_state")?,
        age_minutes: row.get("age_minutes")?,
        held_until: row.get("held_until")?,
        held_seconds: row.get("held_seconds")?,
    })
}

/// The payment of an order that is or was to be paid online.
pub(crate) fn of_order(connection: &Connection, order_id: i64) -> Result<Option<Payment>> {
    let sql = format!("SELECT {COLUMNS} WHERE p.order_id = ?1 ORDER BY p.id DESC LIMIT 1");
    Ok(connection.query_row(&sql, [order_id], payment).optional()?)
}

/// The payment whose order at the gateway has this id.
pub(crate) fn by_razorpay_order(connection: &Connection, razorpay_order_id: &str) -> Result<Option<Payment>> {
    let sql = format!("SELECT {COLUMNS} WHERE p.razorpay_order_id = ?1");
    Ok(connection.query_row(&sql, [razorpay_order_id], payment).optional()?)
}

/// Keeps the id that the gateway gave. The first one stays: a customer may be paying it.
pub(crate) fn keep_razorpay_order(
    transaction: &Transaction<'_>,
    id: i64,
    razorpay_order_id: &str,
) -> Result<()> {
    transaction.execute(
        "UPDATE payments SET razorpay_order_id = ?2, last_error = NULL,
             updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?1 AND razorpay_order_id IS NULL",
        (id, razorpay_order_id),
    )?;
    Ok(())
}

/// Notes an attempt that has brought no money. What is captured or given back is never lowered.
pub(crate) fn note_attempt(
    transaction: &Transaction<'_>,
    id: i64,
    status: &str,
    payment_id: &str,
    error: Option<&str>,
) -> Result<()> {
    transaction.execute(
        "UPDATE payments SET status = ?2, last_error = coalesce(?4, last_error),
             attempts = attempts + (payment_id IS NOT ?3), payment_id = ?3,
             updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?1 AND status NOT IN ('captured', 'refunded') AND NOT (status = 'authorized' AND ?2 = 'failed')",
        (id, status, payment_id, error),
    )?;
    Ok(())
}

/// Notes why the gateway could not be asked, for the customer's page and the shop's.
pub(crate) fn note_error(transaction: &Transaction<'_>, id: i64, error: &str) -> Result<()> {
    transaction.execute("UPDATE payments SET last_error = ?2 WHERE id = ?1", (id, error))?;
    Ok(())
}

/// When it is looked at again, in seconds from now; `None` is never.
pub(crate) fn check_in(transaction: &Transaction<'_>, id: i64, seconds: Option<i64>) -> Result<()> {
    transaction.execute(
        "UPDATE payments SET next_check_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?2 || ' seconds')
         WHERE id = ?1 AND status NOT IN ('captured', 'refunded')",
        (id, seconds),
    )?;
    Ok(())
}

/// The payments that are to be looked at now, the most overdue first.
pub(crate) fn to_check(connection: &Connection, most: i64) -> Result<Vec<Payment>> {
    let sql = format!(
        "SELECT {COLUMNS} WHERE p.next_check_at <= strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         ORDER BY p.next_check_at LIMIT ?1"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_map([most], payment)?.collect::<std::result::Result<_, _>>()?)
}

/// Money that has to go back through the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Refund {
    pub(crate) id: i64,
    pub(crate) order_id: i64,
    pub(crate) payment_id: String,
    pub(crate) idempotency_key: String,
    pub(crate) amount_paise: i64,
    /// `due` or `pending`.
    pub(crate) status: String,
    pub(crate) razorpay_refund_id: Option<String>,
    pub(crate) attempts: i64,
}

impl Refund {
    /// What finds it again at the gateway.
    pub(crate) fn receipt(&self) -> String {
        format!("gg-refund-{}", self.id)
    }
}

/// The refunds to be sent or asked about now.
pub(crate) fn refunds_to_work_on(connection: &Connection, most: i64) -> Result<Vec<Refund>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, order_id, payment_id, idempotency_key, amount_paise, status, razorpay_refund_id, attempts
         FROM refunds WHERE status IN ('due', 'pending') AND method = 'razorpay' AND payment_id IS NOT NULL
             AND next_try_at <= strftime('%Y-%m-%dT%H:%M:%SZ', 'now') ORDER BY next_try_at LIMIT ?1",
    )?;
    let rows = statement.query_map([most], |row| {
        Ok(Refund {
            id: row.get("id")?,
            order_id: row.get("order_id")?,
            payment_id: row.get("payment_id")?,
            idempotency_key: row.get("idempotency_key")?,
            amount_paise: row.get("amount_paise")?,
            status: row.get("status")?,
            razorpay_refund_id: row.get("razorpay_refund_id")?,
            attempts: row.get("attempts")?,
        })
    })?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}

/// When a refund is worked on again, in seconds from now, and why it was not done this time.
pub(crate) fn try_refund_in(
    transaction: &Transaction<'_>,
    id: i64,
    seconds: i64,
    error: Option<&str>,
) -> Result<()> {
    transaction.execute(
        "UPDATE refunds SET next_try_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?2 || ' seconds'),
             attempts = attempts + (?3 IS NOT NULL), last_error = ?3
         WHERE id = ?1 AND status IN ('due', 'pending')",
        (id, seconds, error),
    )?;
    Ok(())
}

/// The refund that the gateway speaks of. The receipt finds it when its answer was lost before the id was kept.
pub(crate) fn refund_spoken_of(
    connection: &Connection,
    razorpay_refund_id: &str,
    payment_id: &str,
    receipt: Option<&str>,
) -> Result<Option<i64>> {
    let sql = "SELECT id FROM refunds WHERE razorpay_refund_id = ?1
                   OR (razorpay_refund_id IS NULL AND payment_id = ?2 AND 'gg-refund-' || id = ?3)";
    Ok(connection.query_row(sql, (razorpay_refund_id, payment_id, receipt), |row| row.get(0)).optional()?)
}

/// Takes note of a webhook; `false` when it had been heard before and must have no effect.
pub(crate) fn hear(transaction: &Transaction<'_>, event_id: &str, event: &str) -> Result<bool> {
    let added = transaction.execute(
        "INSERT INTO webhook_events (event_id, event, outcome) VALUES (?1, ?2, 'heard')
         ON CONFLICT (event_id) DO NOTHING",
        (event_id, event),
    )?;
    Ok(added == 1)
}

/// What a webhook came to, for whoever looks into it later.
pub(crate) fn heard(
    transaction: &Transaction<'_>,
    event_id: &str,
    payment_id: Option<&str>,
    order_id: Option<i64>,
    outcome: &str,
) -> Result<()> {
    transaction.execute(
        "UPDATE webhook_events SET payment_id = ?2, order_id = ?3, outcome = ?4 WHERE event_id = ?1",
        (event_id, payment_id, order_id, outcome),
    )?;
    Ok(())
}
