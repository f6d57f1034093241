//! Where the shop delivers.

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::Result;

/// A region that is served.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Region {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) state: String,
}

/// The region that a pincode belongs to: the one with the longest matching prefix. `None`: not served.
pub(crate) fn serving(connection: &Connection, pincode: &str) -> Result<Option<Region>> {
    let sql = "SELECT r.id, r.name, r.state FROM region_pincodes AS p JOIN regions AS r ON r.id = p.region_id
               WHERE substr(?1, 1, length(p.prefix)) = p.prefix
               ORDER BY length(p.prefix) DESC LIMIT 1";
    Ok(connection.query_row(sql, [pincode], region).optional()?)
}

/// All regions by name.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Region>> {
    let mut statement = connection.prepare("SELECT id, name, state FROM regions ORDER BY name")?;
    let rows = statement.query_map([], region)?.collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

fn region(row: &rusqlite::Row<'_>) -> rusqlite::Result<Region> {
    Ok(Region { id: row.get("id")?, name: row.get("name")?, state: row.get("state")? })
}
