//! Mail that waits to be sent. It is queued in the transaction of what it tells about, so that neither happens alone.

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde_json::{Value, json};

use super::Result;

/// How often sending is tried before it is given up: over about a day.
const MOST_ATTEMPTS: i64 = 12;

/// A mail to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) id: i64,
    pub(crate) kind: String,
    pub(crate) order_id: Option<i64>,
    pub(crate) recipient: String,
    pub(crate) facts: Value,
    /// Code of the language in which it is written.
    pub(crate) language: String,
}

/// Queues a mail; the same `dedupe_key` is queued once.
pub(crate) fn queue(
    connection: &Connection,
    dedupe_key: &str,
    kind: &str,
    order_id: Option<i64>,
    recipient: &str,
    facts: &Value,
) -> Result<()> {
    connection.execute(
        "INSERT INTO outbox (dedupe_key, kind, order_id, recipient, facts) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (dedupe_key) DO NOTHING",
        (dedupe_key, kind, order_id, recipient, facts.to_string()),
    )?;
    Ok(())
}

/// Queues what is told to the customer when an order reaches a state, if there is an address to tell it to.
pub(crate) fn tell_of_order(transaction: &Transaction<'_>, order_id: i64, state: &str) -> Result<()> {
    // While a payment is awaited the customer sits in front of it.
    if state == "awaiting-payment" {
        return Ok(());
    }
    if let Some(email) = address_of(transaction, order_id)? {
        let key = format!("order/{order_id}/{state}");
        queue(transaction, &key, &format!("order-{state}"), Some(order_id), &email, &json!({}))?;
    }
    Ok(())
}

/// Queues what is told about money that goes back.
pub(crate) fn tell_of_refund(
    transaction: &Transaction<'_>,
    order_id: i64,
    refund_id: i64,
    amount_paise: i64,
) -> Result<()> {
    if let Some(email) = address_of(transaction, order_id)? {
        let key = format!("refund/{refund_id}");
        queue(transaction, &key, "refund", Some(order_id), &email, &json!({ "amount_paise": amount_paise }))?;
    }
    Ok(())
}

fn address_of(connection: &Connection, order_id: i64) -> Result<Option<String>> {
    let sql = "SELECT email FROM orders WHERE id = ?1";
    Ok(connection.query_row(sql, [order_id], |row| row.get(0)).optional()?.flatten())
}

/// What is to be sent now, oldest first.
pub(crate) fn due(connection: &Connection, limit: i64) -> Result<Vec<Mail>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, kind, order_id, recipient, facts, coalesce(facts ->> '$.language',
             (SELECT l.language FROM order_languages AS l WHERE l.order_id = outbox.order_id), 'en') AS language
         FROM outbox
         WHERE status = 'waiting' AND next_at <= strftime('%Y-%m-%dT%H:%M:%SZ', 'now') ORDER BY id LIMIT ?1",
    )?;
    let rows = statement
        .query_map([limit], |row| {
            let facts: String = row.get("facts")?;
            Ok(Mail {
                id: row.get("id")?,
                kind: row.get("kind")?,
                order_id: row.get("order_id")?,
                recipient: row.get("recipient")?,
                language: row.get("language")?,
                facts: serde_json::from_str(&facts).unwrap_or_default(),
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// A mail has been taken by the mail server.
pub(crate) fn sent(connection: &Connection, id: i64) -> Result<()> {
    connection.execute(
        "UPDATE outbox SET status = 'sent', facts = '{}', attempts = attempts + 1, last_error = NULL,
             sent_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE id = ?1",
        [id],
    )?;
    Ok(())
}

/// It was not taken: it is tried again after one, two, four... minutes, three hours at most, then given up.
pub(crate) fn failed(connection: &Connection, id: i64, error: &str, for_good: bool) -> Result<()> {
    connection.execute(
        "UPDATE outbox SET attempts = attempts + 1, last_error = ?2,
             status = CASE WHEN ?3 OR attempts + 1 >= ?4 THEN 'given-up' ELSE 'waiting' END,
             next_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+' || min(1 << attempts, 180) || ' minutes')
         WHERE id = ?1",
        (id, error, for_good, MOST_ATTEMPTS),
    )?;
    Ok(())
}

/// How many mails wait, and how many were given up.
pub(crate) fn counts(connection: &Connection) -> Result<(i64, i64)> {
    let sql = "SELECT count(*) FILTER (WHERE status = 'waiting'), count(*) FILTER (WHERE status = 'given-up')
               FROM outbox WHERE status IN ('waiting', 'given-up')";
    Ok(connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}
