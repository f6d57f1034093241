//! What those who run the shop did, and when.

use rusqlite::Connection;
use serde::Serialize;

use super::Result;
use super::sessions::Admin;

/// One act.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Act {
    pub(crate) at: String,
    pub(crate) email: String,
    pub(crate) act: String,
    pub(crate) object: String,
    pub(crate) detail: String,
}

/// Notes an act, in the transaction of the act itself.
pub(crate) fn note(
    connection: &Connection,
    who: &Admin,
    act: &str,
    object: &str,
    detail: &str,
) -> Result<()> {
    connection.execute(
        "INSERT INTO audit_log (user_id, email, act, object, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        (who.id, &who.email, act, object, detail),
    )?;
    Ok(())
}

/// The newest acts.
pub(crate) fn newest(connection: &Connection, limit: i64) -> Result<Vec<Act>> {
    let mut statement = connection
        .prepare("SELECT at, email, act, object, detail FROM audit_log ORDER BY id DESC LIMIT ?1")?;
    let rows = statement
        .query_map([limit], |row| {
            Ok(Act {
                at: row.get("at")?,
                email: row.get("email")?,
                act: row.get("act")?,
                object: row.get("object")?,
                detail: row.get("detail")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}
