//! What customers write to the shop, each under a ticket that they can quote.

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::Serialize;
use serde_json::json;

use super::{Result, outbox, random_hex};

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Message {
    pub(crate) id: i64,
    pub(crate) ticket: String,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) phone: String,
    pub(crate) order_id: Option<i64>,
    pub(crate) body: String,
    pub(crate) state: String,
    pub(crate) answer: Option<String>,
    pub(crate) created_at: String,
}

/// A message as typed.
#[derive(Clone, Debug)]
pub(crate) struct NewMessage {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) phone: String,
    pub(crate) order_id: Option<i64>,
    pub(crate) body: String,
    /// In which it is answered.
    pub(crate) language: String,
}

fn message(row: &rusqlite::Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        id: row.get("id")?,
        ticket: row.get("ticket")?,
        name: row.get("name")?,
        email: row.get("email")?,
        phone: row.get("phone")?,
        order_id: row.get("order_id")?,
        body: row.get("body")?,
        state: row.get("state")?,
        answer: row.get("answer")?,
        created_at: row.get("created_at")?,
    })
}

const COLUMNS: &str = "id, ticket, name, email, phone, order_id, body, state, answer, created_at";

/// Keeps a message, has its receipt confirmed by mail if that is wanted, and answers the ticket. The order's number is
/// kept only when there is such an order.
pub(crate) fn add(transaction: &Transaction<'_>, new: &NewMessage, confirm: bool) -> Result<String> {
    let ticket = format!("T-{}", random_hex::<4>().to_uppercase());
    transaction.execute(
        "INSERT INTO messages (ticket, name, email, phone, order_id, body, language)
         VALUES (?1, ?2, ?3, ?4, (SELECT id FROM orders WHERE id = ?5), ?6, ?7)",
        (&ticket, &new.name, &new.email, &new.phone, new.order_id, &new.body, &new.language),
    )?;
    if confirm {
        let facts = json!({ "ticket": ticket, "name": new.name, "language": new.language });
        outbox::queue(transaction, &format!("message/{ticket}"), "message", None, &new.email, &facts)?;
    }
    Ok(ticket)
}

/// The newest messages, unanswered ones first.
pub(crate) fn newest(connection: &Connection, limit: i64) -> Result<Vec<Message>> {
    let sql = format!("SELECT {COLUMNS} FROM messages ORDER BY state = 'new' DESC, id DESC LIMIT ?1");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([limit], message)?.collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// How many wait for an answer.
pub(crate) fn waiting(connection: &Connection) -> Result<i64> {
    let sql = "SELECT count(*) FROM messages WHERE state = 'new'";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

/// Answers a message by mail, or closes it without words. `false`: there is no such message.
pub(crate) fn answer(transaction: &Transaction<'_>, id: i64, text: &str) -> Result<bool> {
    let found = transaction
        .query_row(&format!("SELECT {COLUMNS} FROM messages WHERE id = ?1"), [id], message)
        .optional()?;
    let Some(found) = found else { return Ok(false) };
    let closed = text.is_empty();
    transaction.execute(
        "UPDATE messages SET state = ?2, answer = CASE WHEN ?3 = '' THEN answer ELSE ?3 END,
             answered_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE id = ?1",
        (id, if closed { "closed" } else { "answered" }, text),
    )?;
    if !closed {
        let language: String =
            transaction.query_row("SELECT language FROM messages WHERE id = ?1", [id], |row| row.get(0))?;
        let facts = json!({ "ticket": found.ticket, "name": found.name, "answer": text, "question": found.body,
            "language": language });
        let key = format!("answer/{}/{}", found.ticket, random_hex::<4>());
        outbox::queue(transaction, &key, "message-answer", None, &found.email, &facts)?;
    }
    Ok(true)
}
