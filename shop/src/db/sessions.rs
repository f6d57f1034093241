//! Who is signed in. The cookie holds a random number; here lies only its hash.

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::{Result, random_hex};

/// How long a session lasts at most; it is not lengthened, because that would write on every page.
const ADMIN_HOURS: i64 = 12;
const MEMBER_HOURS: i64 = 24 * 14;

/// A signed-in admin.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) id: i64,
    pub(crate) email: String,
}

/// A signed-in customer.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: i64,
    pub(crate) email: String,
    pub(crate) name: String,
}

fn hash(cookie: &str) -> String {
    hex::encode(Sha256::digest(cookie.as_bytes()))
}

/// Opens a session and answers the cookie's value. Sessions that have run out are removed.
pub(crate) fn open(connection: &Connection, user_id: i64) -> Result<String> {
    let cookie = random_hex::<32>();
    connection
        .execute("DELETE FROM sessions WHERE expires_at <= strftime('%Y-%m-%dT%H:%M:%SZ', 'now')", [])?;
    connection.execute(
        "INSERT INTO sessions (id_hash, user_id, expires_at)
         SELECT ?1, id, strftime('%Y-%m-%dT%H:%M:%SZ', 'now',
             '+' || CASE role WHEN 'admin' THEN ?3 ELSE ?4 END || ' hours') FROM users WHERE id = ?2",
        (hash(&cookie), user_id, ADMIN_HOURS, MEMBER_HOURS),
    )?;
    Ok(cookie)
}

/// The admin whose session this is.
pub(crate) fn admin(connection: &Connection, cookie: &str) -> Result<Option<Admin>> {
    let found = user(connection, cookie, "admin")?;
    Ok(found.map(|member| Admin { id: member.id, email: member.email }))
}

/// The customer whose session this is.
pub(crate) fn member(connection: &Connection, cookie: &str) -> Result<Option<Member>> {
    user(connection, cookie, "member")
}

fn user(connection: &Connection, cookie: &str, role: &str) -> Result<Option<Member>> {
    let mut statement = connection.prepare_cached(
        "SELECT u.id, u.email, u.full_name FROM sessions AS s JOIN users AS u ON u.id = s.user_id
         WHERE s.id_hash = ?1 AND u.role = ?2 AND s.expires_at > strftime('%Y-%m-%dT%H:%M:%SZ', 'now')",
    )?;
    let member = |row: &rusqlite::Row<'_>| {
        Ok(Member { id: row.get("id")?, email: row.get("email")?, name: row.get("full_name")? })
    };
    Ok(statement.query_row((hash(cookie), role), member).optional()?)
}

/// Ends a session, whether or not there is one.
pub(crate) fn end(connection: &Connection, cookie: &str) -> Result<()> {
    connection.execute("DELETE FROM sessions WHERE id_hash = ?1", [hash(cookie)])?;
    Ok(())
}
