//! Customers with an account: their addresses, orders, basket, and how they get in.

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Result, outbox, random_hex};

/// How long a link to choose a password works.
const LINK_MINUTES: i64 = 60;

/// The most addresses that are kept for one member.
const MOST_ADDRESSES: i64 = 8;

/// An address that a member has had something delivered to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Address {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) phone: String,
    pub(crate) address: String,
    pub(crate) city: String,
    pub(crate) pincode: String,
}

/// A member's addresses, the latest first.
pub(crate) fn addresses(connection: &Connection, user_id: i64) -> Result<Vec<Address>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, name, phone, address, city, pincode FROM addresses WHERE user_id = ?1 ORDER BY id DESC",
    )?;
    let rows = statement
        .query_map([user_id], |row| {
            Ok(Address {
                id: row.get("id")?,
                name: row.get("name")?,
                phone: row.get("phone")?,
                address: row.get("address")?,
                city: row.get("city")?,
                pincode: row.get("pincode")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// Remembers where an order of a member went; the oldest beyond a few are forgotten.
pub(super) fn keep_address(transaction: &Transaction<'_>, user_id: i64, order_id: i64) -> Result<()> {
    transaction.execute(
        "INSERT INTO addresses (user_id, name, phone, address, city, pincode)
         SELECT ?1, customer_name, phone, address, city, pincode FROM orders WHERE id = ?2
         ON CONFLICT (user_id, name, address, pincode) DO NOTHING",
        (user_id, order_id),
    )?;
    transaction.execute(
        "DELETE FROM addresses WHERE user_id = ?1 AND id NOT IN
             (SELECT id FROM addresses WHERE user_id = ?1 ORDER BY id DESC LIMIT ?2)",
        (user_id, MOST_ADDRESSES),
    )?;
    Ok(())
}

/// Forgets one of a member's own addresses; `false` when it is not one of them.
pub(crate) fn forget_address(connection: &Connection, user_id: i64, id: i64) -> Result<bool> {
    let gone = connection.execute("DELETE FROM addresses WHERE id = ?2 AND user_id = ?1", (user_id, id))?;
    Ok(gone == 1)
}

/// The basket that a member left, as it is in the cookie.
pub(crate) fn cart(connection: &Connection, user_id: i64) -> Result<Option<String>> {
    let sql = "SELECT lines FROM member_carts WHERE user_id = ?1";
    Ok(connection.query_row(sql, [user_id], |row| row.get(0)).optional()?)
}

/// Keeps a member's basket.
pub(crate) fn keep_cart(connection: &Connection, user_id: i64, lines: &str) -> Result<()> {
    connection.execute(
        "INSERT INTO member_carts (user_id, lines) VALUES (?1, ?2)
         ON CONFLICT (user_id) DO UPDATE SET lines = excluded.lines,
             updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')",
        (user_id, lines),
    )?;
    Ok(())
}

fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// Sends the owner of an address a link to choose a password. With a `name`, an account is made for an address
/// that has none; without, nothing happens for such an address. The caller's answer must not tell which it was.
pub(crate) fn send_link(
    transaction: &Transaction<'_>,
    email: &str,
    name: Option<&str>,
    language: &str,
) -> Result<()> {
    let sql = "SELECT id, email FROM users WHERE email = ?1 AND role = 'member'";
    let find = || transaction.query_row(sql, [email], |row| Ok((row.get(0)?, row.get(1)?))).optional();
    let known: Option<(i64, String)> = find()?;
    let kind = match (&known, name) {
        (Some(_), _) => "account-password",
        (None, None) => return Ok(()),
        (None, Some(name)) => {
            // No hash fits the empty text: nobody signs in before the link was used. An admin's address stays his.
            transaction.execute(
                "INSERT INTO users (email, password_hash, full_name) VALUES (?1, '', ?2)
                 ON CONFLICT (email) DO NOTHING",
                (email, name),
            )?;
            "account-new"
        }
    };
    let Some((user, email)) = (if known.is_some() { known } else { find()? }) else { return Ok(()) };
    transaction.execute(
        "DELETE FROM password_resets WHERE expires_at < strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-1 days')",
        [],
    )?;
    let token = random_hex::<32>();
    transaction.execute(
        "INSERT INTO password_resets (token_hash, user_id, expires_at)
         VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+' || ?3 || ' minutes'))",
        (hash(&token), user, LINK_MINUTES),
    )?;
    let facts = serde_json::json!({ "token": token, "minutes": LINK_MINUTES, "language": language });
    outbox::queue(transaction, &format!("link/{}", &hash(&token)[..24]), kind, None, &email, &facts)
}

/// Whether a link still works.
pub(crate) fn link_works(connection: &Connection, token: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM password_resets WHERE token_hash = ?1 AND used_at IS NULL
               AND expires_at > strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))";
    Ok(connection.query_row(sql, [hash(token)], |row| row.get(0))?)
}

/// Uses a link once: sets the password, ends all sessions, and answers whose it was.
pub(crate) fn use_link(
    transaction: &Transaction<'_>,
    token: &str,
    password_hash: &str,
) -> Result<Option<i64>> {
    let user: Option<i64> = transaction
        .query_row(
            "UPDATE password_resets SET used_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
             WHERE token_hash = ?1 AND used_at IS NULL AND expires_at > strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
             RETURNING user_id",
            [hash(token)],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(user) = user {
        set_password(transaction, user, password_hash)?;
    }
    Ok(user)
}

/// Sets a password, and ends every session and every other link of that account.
pub(crate) fn set_password(transaction: &Transaction<'_>, user_id: i64, password_hash: &str) -> Result<()> {
    transaction.execute(
        "UPDATE users SET password_hash = ?2, updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE id = ?1",
        (user_id, password_hash),
    )?;
    transaction.execute("DELETE FROM sessions WHERE user_id = ?1", [user_id])?;
    transaction.execute(
        "UPDATE password_resets SET used_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE user_id = ?1 AND used_at IS NULL",
        [user_id],
    )?;
    Ok(())
}
