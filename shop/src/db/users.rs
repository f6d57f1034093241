//! People who sign in.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::Result;

/// Somebody with an account.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) password_hash: String,
    pub(crate) role: String,
    /// The secret of the second factor, Base32.
    pub(crate) second_factor: Option<String>,
}

/// The account with this e-mail address.
pub(crate) fn by_email(connection: &Connection, email: &str) -> Result<Option<User>> {
    let sql = "SELECT u.id, u.password_hash, u.role, f.secret FROM users AS u
               LEFT JOIN second_factors AS f ON f.user_id = u.id WHERE u.email = ?1";
    let user = |row: &rusqlite::Row<'_>| {
        Ok(User {
            id: row.get("id")?,
            password_hash: row.get("password_hash")?,
            role: row.get("role")?,
            second_factor: row.get("secret")?,
        })
    };
    Ok(connection.query_row(sql, [email], user).optional()?)
}

/// Makes an admin with a second factor, or gives the one of this address a new password and second factor and
/// ends its sessions. Answers whether the account is new.
pub fn set_admin(
    connection: &mut Connection,
    email: &str,
    password_hash: &str,
    second_factor: &str,
) -> Result<bool> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let known = by_email(&transaction, email)?;
    transaction.execute(
        "INSERT INTO users (email, password_hash, role) VALUES (?1, ?2, 'admin')
         ON CONFLICT (email) DO UPDATE SET password_hash = excluded.password_hash, role = 'admin',
             updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')",
        (email, password_hash),
    )?;
    if let Some(user) = &known {
        transaction.execute("DELETE FROM sessions WHERE user_id = ?1", [user.id])?;
    }
    transaction.execute(
        "INSERT INTO second_factors (user_id, secret) SELECT id, ?2 FROM users WHERE email = ?1
         ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret, confirmed_at = NULL, last_step = 0",
        (email, second_factor),
    )?;
    transaction.commit()?;
    Ok(known.is_none())
}

/// Uses up the code of a time step; `false` when that step or a later one was used before.
pub(crate) fn use_step(transaction: &Transaction<'_>, user_id: i64, step: i64) -> Result<bool> {
    let used = transaction.execute(
        "UPDATE second_factors SET last_step = ?2,
             confirmed_at = coalesce(confirmed_at, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
         WHERE user_id = ?1 AND last_step < ?2",
        (user_id, step),
    )?;
    Ok(used == 1)
}
