//! Products and their categories.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, ToSql};
use serde::Serialize;

use super::Result;
use crate::money::Rupees;

/// A category of the shop.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Category {
    pub(crate) id: i64,
    pub(crate) slug: String,
    pub(crate) name: String,
    /// How many products of it are for sale.
    pub(crate) products: i64,
}

/// A product, as stored and with what follows from that.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Product {
    pub(crate) id: i64,
    pub(crate) category_id: i64,
    pub(crate) category_slug: String,
    pub(crate) category_name: String,
    pub(crate) name: String,
    pub(crate) local_name: Option<String>,
    pub(crate) description: String,
    pub(crate) pack_size: String,
    pub(crate) net_quantity: i64,
    pub(crate) unit: String,
    pub(crate) mrp_paise: i64,
    pub(crate) price_paise: i64,
    pub(crate) stock: i64,
    pub(crate) is_active: bool,
    pub(crate) is_featured: bool,
    /// Whole percent below the MRP, rounded down.
    pub(crate) percent_off: i64,
    /// `₹120 per kg`: what makes two pack sizes comparable.
    pub(crate) unit_price: String,
}

/// How a list of products is ordered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sort {
    /// As the shop arranges its shelves.
    #[default]
    Shelf,
    /// By name.
    Name,
    /// Cheapest first.
    PriceLow,
    /// Dearest first.
    PriceHigh,
    /// Largest saving first.
    Discount,
}

impl Sort {
    /// The order as named in an address; `None` for an unknown name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "" | "shelf" => Self::Shelf,
            "name" => Self::Name,
            "price-low" => Self::PriceLow,
            "price-high" => Self::PriceHigh,
            "discount" => Self::Discount,
            _ => return None,
        })
    }

    fn sql(self) -> &'static str {
        match self {
            Self::Shelf => "c.position, p.id",
            Self::Name => "p.name COLLATE NOCASE, p.id",
            Self::PriceLow => "p.price_paise, p.id",
            Self::PriceHigh => "p.price_paise DESC, p.id",
            Self::Discount => "(p.mrp_paise - p.price_paise) * 100 / p.mrp_paise DESC, p.id",
        }
    }
}

const COLUMNS: &str = "p.id, p.category_id, c.slug AS category_slug, c.name AS category_name, p.name,
    p.local_name, p.description, p.pack_size, p.net_quantity, p.unit, p.mrp_paise, p.price_paise, p.stock,
    p.is_active, p.is_featured";

const FROM: &str = "FROM products AS p JOIN categories AS c ON c.id = p.category_id";

fn product(row: &Row<'_>) -> rusqlite::Result<Product> {
    let (mrp_paise, price_paise): (i64, i64) = (row.get("mrp_paise")?, row.get("price_paise")?);
    let (net_quantity, unit): (i64, String) = (row.get("net_quantity")?, row.get("unit")?);
    Ok(Product {
        id: row.get("id")?,
        category_id: row.get("category_id")?,
        category_slug: row.get("category_slug")?,
        category_name: row.get("category_name")?,
        name: row.get("name")?,
        local_name: row.get("local_name")?,
        description: row.get("description")?,
        pack_size: row.get("pack_size")?,
        stock: row.get("stock")?,
        is_active: row.get("is_active")?,
        is_featured: row.get("is_featured")?,
        percent_off: (mrp_paise - price_paise) * 100 / mrp_paise.max(1),
        unit_price: unit_price(price_paise, net_quantity, &unit),
        net_quantity,
        unit,
        mrp_paise,
        price_paise,
    })
}

/// The price of one kilogram, litre or piece, rounded to the nearest paisa.
fn unit_price(price_paise: i64, net_quantity: i64, unit: &str) -> String {
    let (amount, name) = match unit {
        "g" => (1000, "kg"),
        "ml" => (1000, "litre"),
        _ => (1, "piece"),
    };
    let paise = (price_paise * amount + net_quantity / 2) / net_quantity.max(1);
    format!("{} per {name}", Rupees(paise))
}

fn list(connection: &Connection, rest: &str, values: &[&dyn ToSql]) -> Result<Vec<Product>> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} {FROM} {rest}"))?;
    let rows = statement.query_map(values, product)?.collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// The categories in shelf order.
pub(crate) fn categories(connection: &Connection) -> Result<Vec<Category>> {
    let mut statement = connection.prepare(
        "SELECT c.id, c.slug, c.name, count(p.id) AS products FROM categories AS c
         LEFT JOIN products AS p ON p.category_id = c.id AND p.is_active = 1
         GROUP BY c.id ORDER BY c.position, c.id",
    )?;
    let rows = statement
        .query_map([], |row| {
            Ok(Category {
                id: row.get("id")?,
                slug: row.get("slug")?,
                name: row.get("name")?,
                products: row.get("products")?,
            })
        })?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// What the shop puts on its first page.
pub(crate) fn featured(connection: &Connection) -> Result<Vec<Product>> {
    list(connection, "WHERE p.is_active = 1 AND p.is_featured = 1 ORDER BY c.position, p.id LIMIT 12", &[])
}

/// Products for sale, of one category or of all.
pub(crate) fn for_sale(connection: &Connection, category: Option<i64>, sort: Sort) -> Result<Vec<Product>> {
    let rest =
        format!("WHERE p.is_active = 1 AND (?1 IS NULL OR p.category_id = ?1) ORDER BY {}", sort.sql());
    list(connection, &rest, &[&category])
}

/// Products for sale whose name, local name, description or category contains every word of `query`.
pub(crate) fn search(connection: &Connection, query: &str) -> Result<Vec<Product>> {
    let patterns: Vec<String> = query
        .split_whitespace()
        .take(8)
        .map(|word| {
            // LIKE's own signs stand for themselves: a search for 100% must not find everything.
            let literal = word.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            format!("%{literal}%")
        })
        .collect();
    if patterns.is_empty() {
        return Ok(Vec::new());
    }
    let mut conditions = String::from("WHERE p.is_active = 1");
    for number in 1..=patterns.len() {
        conditions.push_str(&format!(
            " AND (p.name || ' ' || coalesce(p.local_name, '') || ' ' || p.description || ' ' || c.name)
               LIKE ?{number} ESCAPE '\\'"
        ));
    }
    // A word in the name counts for more than one in the description.
    conditions.push_str(" ORDER BY p.name LIKE ?1 ESCAPE '\\' DESC, c.position, p.id");
    let values: Vec<&dyn ToSql> = patterns.iter().map(|pattern| pattern as &dyn ToSql).collect();
    list(connection, &conditions, &values)
}

/// A product by its number, for sale or not.
pub(crate) fn find(connection: &Connection, id: i64) -> Result<Option<Product>> {
    let sql = format!("SELECT {COLUMNS} {FROM} WHERE p.id = ?1");
    Ok(connection.query_row(&sql, [id], product).optional()?)
}

/// The products with these numbers, for sale or not.
pub(crate) fn find_all(connection: &Connection, ids: &[i64]) -> Result<BTreeMap<i64, Product>> {
    let mut found = BTreeMap::new();
    for id in ids {
        if let Some(product) = find(connection, *id)? {
            found.insert(*id, product);
        }
    }
    Ok(found)
}

/// Every product, for those who run the shop.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Product>> {
    list(connection, "ORDER BY c.position, p.name COLLATE NOCASE, p.id", &[])
}

/// Products for sale of which fewer than `limit` are left.
pub(crate) fn low_in_stock(connection: &Connection, limit: i64) -> Result<Vec<Product>> {
    list(connection, "WHERE p.is_active = 1 AND p.stock < ?1 ORDER BY p.stock, p.name LIMIT 20", &[&limit])
}

/// What an admin may set of a product. Money in paise.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Details {
    pub(crate) category_id: i64,
    pub(crate) name: String,
    pub(crate) local_name: Option<String>,
    pub(crate) description: String,
    pub(crate) pack_size: String,
    pub(crate) net_quantity: i64,
    pub(crate) unit: String,
    pub(crate) mrp_paise: i64,
    pub(crate) price_paise: i64,
    pub(crate) is_active: bool,
    pub(crate) is_featured: bool,
}

/// What came of saving a product.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Saved {
    /// Saved under this number.
    As(i64),
    /// There is no such product.
    Unknown,
    /// Another product has this name and pack size.
    NameTaken,
    /// More was sold meanwhile than would be left.
    StockBelowZero,
}

/// Adds a product.
pub(crate) fn add(connection: &Connection, details: &Details, stock: i64) -> Result<Saved> {
    if name_taken(connection, details, None)? {
        return Ok(Saved::NameTaken);
    }
    connection.execute(
        "INSERT INTO products (category_id, name, local_name, description, pack_size, net_quantity, unit,
             mrp_paise, price_paise, is_active, is_featured, stock)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        (
            details.category_id,
            &details.name,
            &details.local_name,
            &details.description,
            &details.pack_size,
            details.net_quantity,
            &details.unit,
            details.mrp_paise,
            details.price_paise,
            details.is_active,
            details.is_featured,
            stock,
        ),
    )?;
    Ok(Saved::As(connection.last_insert_rowid()))
}

/// Changes a product, and its stock by `stock_change`: a sale between the form and its answer is not undone.
pub(crate) fn change(
    connection: &Connection,
    id: i64,
    details: &Details,
    stock_change: i64,
) -> Result<Saved> {
    let Some(before) = find(connection, id)? else { return Ok(Saved::Unknown) };
    if name_taken(connection, details, Some(id))? {
        return Ok(Saved::NameTaken);
    }
    if before.stock + stock_change < 0 {
        return Ok(Saved::StockBelowZero);
    }
    connection.execute(
        "UPDATE products SET category_id = ?2, name = ?3, local_name = ?4, description = ?5, pack_size = ?6,
             net_quantity = ?7, unit = ?8, mrp_paise = ?9, price_paise = ?10, is_active = ?11,
             is_featured = ?12, stock = stock + ?13, updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?1",
        (
            id,
            details.category_id,
            &details.name,
            &details.local_name,
            &details.description,
            &details.pack_size,
            details.net_quantity,
            &details.unit,
            details.mrp_paise,
            details.price_paise,
            details.is_active,
            details.is_featured,
            stock_change,
        ),
    )?;
    Ok(Saved::As(id))
}

fn name_taken(connection: &Connection, details: &Details, but: Option<i64>) -> Result<bool> {
    let sql = "SELECT count(*) FROM products WHERE name = ?1 AND pack_size = ?2 AND id IS NOT ?3";
    let others: i64 =
        connection.query_row(sql, (&details.name, &details.pack_size, but), |row| row.get(0))?;
    Ok(others > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_prices_are_per_kilogram_litre_or_piece() {
        assert_eq!(unit_price(4_500, 500, "g"), "₹90 per kg");
        assert_eq!(unit_price(16_500, 1000, "ml"), "₹165 per litre");
        assert_eq!(unit_price(8_400, 12, "piece"), "₹7 per piece");
        assert_eq!(unit_price(1_000, 300, "g"), "₹33.33 per kg");
    }
}
