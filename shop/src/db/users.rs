//! People who sign in.

use rusqlite::{Connection, OptionalExtension};

use super::Result;

/// Somebody with an account.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) password_hash: String,
    pub(crate) role: String,
}

/// The account with this e-mail address.
pub(crate) fn by_email(connection: &Connection, email: &str) -> Result<Option<User>> {
    let sql = "SELECT id, password_hash, role FROM users WHERE email = ?1";
    let user = |row: &rusqlite::Row<'_>| {
        Ok(User { id: row.get("id")?, password_hash: row.get("password_hash")?, role: row.get("role")? })
    };
    Ok(connection.query_row(sql, [email], user).optional()?)
}

/// Makes an admin, or gives the one of this address a new password and ends its sessions. Answers whether the
/// account is new.
pub fn set_admin(connection: &mut Connection, email: &str, password_hash: &str) -> Result<bool> {
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
    transaction.commit()?;
    Ok(known.is_none())
}
