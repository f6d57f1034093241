//! Where, when and on which terms the shop delivers.

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::Result;

/// From this subtotal on delivery is free, unless the region says otherwise.
pub(crate) const FREE_FROM_PAISE: i64 = 49_900;

/// What delivery costs below that.
pub(crate) const DELIVERY_PAISE: i64 = 4_000;

/// On how many days ahead a slot can be chosen, today included.
const DAYS_AHEAD: i64 = 3;

/// The terms of delivery of a region.
#[derive(Clone, Copy, Debug, Hash, Eq, PartialEq, Serialize)]
pub(crate) struct Terms {
    pub(crate) delivery_paise: i64,
    pub(crate) free_from_paise: i64,
    /// Orders below this are not taken.
    pub(crate) minimum_paise: i64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { delivery_paise: DELIVERY_PAISE, free_from_paise: FREE_FROM_PAISE, minimum_paise: 0 }
    }
}

/// A region that is served.
#[derive(Clone, Debug, Hash, Serialize)]
pub(crate) struct Region {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) is_active: bool,
    pub(crate) terms: Terms,
    /// As typed by the admin; `None` follows the general terms.
    pub(crate) own_delivery_paise: Option<i64>,
    pub(crate) own_free_from_paise: Option<i64>,
    pub(crate) own_minimum_paise: Option<i64>,
}

const COLUMNS: &str =
    "r.id, r.name, r.state, r.is_active, r.delivery_paise, r.free_from_paise, r.minimum_paise";

fn region(row: &rusqlite::Row<'_>) -> rusqlite::Result<Region> {
    let general = Terms::default();
    let (delivery, free, minimum): (Option<i64>, Option<i64>, Option<i64>) =
        (row.get("delivery_paise")?, row.get("free_from_paise")?, row.get("minimum_paise")?);
    Ok(Region {
        id: row.get("id")?,
        name: row.get("name")?,
        state: row.get("state")?,
        is_active: row.get("is_active")?,
        terms: Terms {
            delivery_paise: delivery.unwrap_or(general.delivery_paise),
            free_from_paise: free.unwrap_or(general.free_from_paise),
            minimum_paise: minimum.unwrap_or(general.minimum_paise),
        },
        own_delivery_paise: delivery,
        own_free_from_paise: free,
        own_minimum_paise: minimum,
    })
}

/// The region that a pincode belongs to: the one with the longest matching prefix. `None`: not served.
pub(crate) fn serving(connection: &Connection, pincode: &str) -> Result<Option<Region>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM region_pincodes AS p JOIN regions AS r ON r.id = p.region_id
         WHERE p.prefix IN (?1, substr(?1, 1, 5), substr(?1, 1, 4), substr(?1, 1, 3))
         ORDER BY length(p.prefix) DESC LIMIT 1"
    );
    let found = connection.prepare_cached(&sql)?.query_row([pincode], region).optional()?;
    // A region that is closed is not replaced by the one around it.
    Ok(found.filter(|region| region.is_active))
}

/// The regions that are served, by name.
pub(crate) fn served(connection: &Connection) -> Result<Vec<Region>> {
    list(connection, "WHERE r.is_active = 1 ORDER BY r.name")
}

/// All regions by name, for those who run the shop.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Region>> {
    list(connection, "ORDER BY r.name")
}

fn list(connection: &Connection, rest: &str) -> Result<Vec<Region>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM regions AS r {rest}"))?;
    let rows = statement.query_map([], region)?.collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// A region by its number.
pub(crate) fn find(connection: &Connection, id: i64) -> Result<Option<Region>> {
    let sql = format!("SELECT {COLUMNS} FROM regions AS r WHERE r.id = ?1");
    Ok(connection.query_row(&sql, [id], region).optional()?)
}

/// The pincode prefixes of a region.
pub(crate) fn prefixes(connection: &Connection, region_id: i64) -> Result<Vec<String>> {
    let mut statement = connection
        .prepare_cached("SELECT prefix FROM region_pincodes WHERE region_id = ?1 ORDER BY prefix")?;
    let rows = statement.query_map([region_id], |row| row.get(0))?.collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// What an admin may set of a region.
#[derive(Clone, Debug)]
pub(crate) struct RegionDetails {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) is_active: bool,
    pub(crate) delivery_paise: Option<i64>,
    pub(crate) free_from_paise: Option<i64>,
    pub(crate) minimum_paise: Option<i64>,
    pub(crate) prefixes: Vec<String>,
}

/// What came of saving a region.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum RegionSaved {
    As(i64),
    Unknown,
    NameTaken,
    /// The prefix belongs to the region of this name.
    PrefixTaken(String, String),
}

/// Adds a region or changes one, with its pincodes.
pub(crate) fn save(connection: &Connection, id: Option<i64>, details: &RegionDetails) -> Result<RegionSaved> {
    let taken: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM regions WHERE name = ?1 AND id IS NOT ?2)",
        (&details.name, id),
        |row| row.get(0),
    )?;
    if taken {
        return Ok(RegionSaved::NameTaken);
    }
    for prefix in &details.prefixes {
        let sql = "SELECT r.name FROM region_pincodes AS p JOIN regions AS r ON r.id = p.region_id
                   WHERE p.prefix = ?1 AND p.region_id IS NOT ?2";
        let other: Option<String> = connection.query_row(sql, (prefix, id), |row| row.get(0)).optional()?;
        if let Some(other) = other {
            return Ok(RegionSaved::PrefixTaken(prefix.clone(), other));
        }
    }
    let values = (
        &details.name,
        &details.state,
        details.is_active,
        details.delivery_paise,
        details.free_from_paise,
        details.minimum_paise,
        id,
    );
    let id = match id {
        None => {
            connection.execute(
                "INSERT INTO regions (name, state, is_active, delivery_paise, free_from_paise, minimum_paise, id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                values,
            )?;
            connection.last_insert_rowid()
        }
        Some(known) => {
            let changed = connection.execute(
                "UPDATE regions SET name = ?1, state = ?2, is_active = ?3, delivery_paise = ?4,
                     free_from_paise = ?5, minimum_paise = ?6 WHERE id = ?7",
                values,
            )?;
            if changed == 0 {
                return Ok(RegionSaved::Unknown);
            }
            known
        }
    };
    connection.execute("DELETE FROM region_pincodes WHERE region_id = ?1", [id])?;
    for prefix in &details.prefixes {
        connection
            .execute("INSERT INTO region_pincodes (prefix, region_id) VALUES (?1, ?2)", (prefix, id))?;
    }
    Ok(RegionSaved::As(id))
}

/// Those of `products` that are not sold in a region.
pub(crate) fn not_sold_in(connection: &Connection, region_id: i64, products: &[i64]) -> Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM product_regions WHERE product_id = ?1)
            AND NOT EXISTS (SELECT 1 FROM product_regions WHERE product_id = ?1 AND region_id = ?2)",
    )?;
    let mut refused = Vec::new();
    for id in products {
        if statement.query_row((id, region_id), |row| row.get::<_, bool>(0))? {
            refused.push(*id);
        }
    }
    Ok(refused)
}

/// The regions that a product is limited to; none: it is sold everywhere.
pub(crate) fn limits(connection: &Connection, product_id: i64) -> Result<Vec<i64>> {
    let mut statement =
        connection.prepare_cached("SELECT region_id FROM product_regions WHERE product_id = ?1")?;
    let rows = statement.query_map([product_id], |row| row.get(0))?.collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// Limits a product to regions; to none in particular with an empty list.
pub(crate) fn limit_to(connection: &Connection, product_id: i64, regions: &[i64]) -> Result<()> {
    connection.execute("DELETE FROM product_regions WHERE product_id = ?1", [product_id])?;
    for region in regions {
        connection.execute(
            "INSERT INTO product_regions (product_id, region_id) SELECT ?1, id FROM regions WHERE id = ?2",
            (product_id, region),
        )?;
    }
    Ok(())
}

/// A time at which an order can be brought.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Slot {
    pub(crate) id: i64,
    /// `2026-03-01`.
    pub(crate) day: String,
    pub(crate) starts: String,
    pub(crate) ends: String,
    /// How many more orders it takes.
    pub(crate) left: i64,
}

/// The slots that can be chosen now, soonest first; full ones and those past their cut-off are left out.
pub(crate) fn open_slots(connection: &Connection) -> Result<Vec<Slot>> {
    // Times of day are India's, the clock is UTC: both are compared as minutes in India.
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE days (day, n) AS (
             SELECT date('now', '+330 minutes'), 1
             UNION ALL SELECT date(day, '+1 day'), n + 1 FROM days WHERE n < ?1)
         SELECT s.id, d.day, s.starts, s.ends, s.capacity - (
                SELECT count(*) FROM orders AS o WHERE o.delivery_day = d.day AND o.slot_id = s.id
                AND o.state NOT IN ('cancelled', 'expired')) AS remaining
         FROM days AS d CROSS JOIN delivery_slots AS s
         WHERE s.is_active = 1 AND remaining > 0
           AND unixepoch(d.day || ' ' || s.starts) - s.cutoff_minutes * 60 > unixepoch('now', '+330 minutes')
         ORDER BY d.day, s.starts",
    )?;
    let rows = statement
        .query_map([DAYS_AHEAD], |row| {
            Ok(Slot {
                id: row.get("id")?,
                day: row.get("day")?,
                starts: row.get("starts")?,
                ends: row.get("ends")?,
                left: row.get("remaining")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// A slot as the admin sets it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SlotRule {
    pub(crate) id: i64,
    pub(crate) starts: String,
    pub(crate) ends: String,
    pub(crate) capacity: i64,
    pub(crate) cutoff_minutes: i64,
    pub(crate) is_active: bool,
}

/// All slots, by time of day.
pub(crate) fn slot_rules(connection: &Connection) -> Result<Vec<SlotRule>> {
    let mut statement = connection.prepare(
        "SELECT id, starts, ends, capacity, cutoff_minutes, is_active FROM delivery_slots ORDER BY starts, ends",
    )?;
    let rows = statement
        .query_map([], |row| {
            Ok(SlotRule {
                id: row.get("id")?,
                starts: row.get("starts")?,
                ends: row.get("ends")?,
                capacity: row.get("capacity")?,
                cutoff_minutes: row.get("cutoff_minutes")?,
                is_active: row.get("is_active")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// Adds a slot, or changes the one with these hours.
pub(crate) fn save_slot(connection: &Connection, rule: &SlotRule) -> Result<()> {
    connection.execute(
        "INSERT INTO delivery_slots (starts, ends, capacity, cutoff_minutes, is_active) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (starts, ends) DO UPDATE SET capacity = excluded.capacity,
             cutoff_minutes = excluded.cutoff_minutes, is_active = excluded.is_active",
        (&rule.starts, &rule.ends, rule.capacity, rule.cutoff_minutes, rule.is_active),
    )?;
    Ok(())
}
