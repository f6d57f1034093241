//! Who is signed in. The cookie holds a random number; here lies only its hash.

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::{Result, random_hex};

/// How long a session lasts at most; it is not lengthened, because that would write on every page.
const HOURS: i64 = 12;

/// A signed-in admin.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) email: String,
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
         VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?3))",
        (hash(&cookie), user_id, format!("+{HOURS} hours")),
    )?;
    Ok(cookie)
}

/// The admin whose session this is.
pub(crate) fn admin(connection: &Connection, cookie: &str) -> Result<Option<Admin>> {
    let sql = "SELECT u.email FROM sessions AS s JOIN users AS u ON u.id = s.user_id
               WHERE s.id_hash = ?1 AND u.role = 'admin'
                 AND s.expires_at > strftime('%Y-%m-%dT%H:%M:%SZ', 'now')";
    Ok(connection.query_row(sql, [hash(cookie)], |row| Ok(Admin { email: row.get("email")? })).optional()?)
}

/// Ends a session, whether or not there is one.
pub(crate) fn end(connection: &Connection, cookie: &str) -> Result<()> {
    connection.execute("DELETE FROM sessions WHERE id_hash = ?1", [hash(cookie)])?;
    Ok(())
}
