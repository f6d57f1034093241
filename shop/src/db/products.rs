//! Products and their categories.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, ToSql};
use serde::Serialize;

use super::Result;

/// A category of the shop.
#[derive(Clone, Debug, Hash, Serialize)]
pub(crate) struct Category {
    pub(crate) id: i64,
    pub(crate) slug: String,
    pub(crate) name: String,
}

/// A product, as stored and with what follows from that.
#[derive(Clone, Debug, Hash, Serialize)]
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
    pub(crate) search_words: String,
    /// Maker, packer or importer.
    pub(crate) maker: String,
    pub(crate) origin: String,
    pub(crate) best_before: String,
    pub(crate) hsn: String,
    pub(crate) gst_basis_points: i64,
    pub(crate) sku: Option<String>,
    /// The name of its first picture.
    pub(crate) image: Option<String>,
    /// Whole percent below the MRP, rounded down.
    pub(crate) percent_off: i64,
    /// What one kilogram, litre or piece costs: what makes two pack sizes comparable.
    pub(crate) unit_price_paise: i64,
    /// `kg`, `litre` or `piece`.
    pub(crate) unit_of: &'static str,
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

const COLUMNS: &str = "p.id, p.category_id, c.slug, c.name, p.name, p.local_name, p.description, p.pack_size,
    p.net_quantity, p.unit, p.mrp_paise, p.price_paise, p.stock, p.is_active, p.is_featured, p.search_words, p.maker,
    p.origin, p.best_before, p.hsn, p.gst_basis_points, p.sku,
    (SELECT i.name FROM product_images AS i WHERE i.product_id = p.id ORDER BY i.position, i.id LIMIT 1)";

const FROM: &str = "FROM products AS p JOIN categories AS c ON c.id = p.category_id";

/// Columns by their place: by name each one would be searched for in every row, and shelves are long.
fn product(row: &Row<'_>) -> rusqlite::Result<Product> {
    let (net_quantity, unit): (i64, String) = (row.get(8)?, row.get(9)?);
    let (mrp_paise, price_paise): (i64, i64) = (row.get(10)?, row.get(11)?);
    let (unit_price_paise, unit_of) = unit_price(price_paise, net_quantity, &unit);
    Ok(Product {
        id: row.get(0)?,
        category_id: row.get(1)?,
        category_slug: row.get(2)?,
        category_name: row.get(3)?,
        name: row.get(4)?,
        local_name: row.get(5)?,
        description: row.get(6)?,
        pack_size: row.get(7)?,
        percent_off: (mrp_paise - price_paise) * 100 / mrp_paise.max(1),
        unit_price_paise,
        unit_of,
        net_quantity,
        unit,
        mrp_paise,
        price_paise,
        stock: row.get(12)?,
        is_active: row.get(13)?,
        is_featured: row.get(14)?,
        search_words: row.get(15)?,
        maker: row.get(16)?,
        origin: row.get(17)?,
        best_before: row.get(18)?,
        hsn: row.get(19)?,
        gst_basis_points: row.get(20)?,
        sku: row.get(21)?,
        image: row.get(22)?,
    })
}

/// The price of one kilogram, litre or piece, rounded to the nearest paisa.
fn unit_price(price_paise: i64, net_quantity: i64, unit: &str) -> (i64, &'static str) {
    let (amount, name) = match unit {
        "g" => (1000, "kg"),
        "ml" => (1000, "litre"),
        _ => (1, "piece"),
    };
    ((price_paise * amount + net_quantity / 2) / net_quantity.max(1), name)
}

pub(super) fn list(connection: &Connection, rest: &str, values: &[&dyn ToSql]) -> Result<Vec<Product>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} {FROM} {rest}"))?;
    let rows = statement.query_map(values, product)?.collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// The categories in shelf order.
pub(crate) fn categories(connection: &Connection) -> Result<Vec<Category>> {
    let mut statement =
        connection.prepare_cached("SELECT id, slug, name FROM categories ORDER BY position, id")?;
    let rows = statement
        .query_map([], |row| Ok(Category { id: row.get(0)?, slug: row.get(1)?, name: row.get(2)? }))?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// What the shop puts on its first page.
pub(crate) fn featured(connection: &Connection) -> Result<Vec<Product>> {
    list(connection, "WHERE p.is_active = 1 AND p.is_featured = 1 ORDER BY c.position, p.id LIMIT 12", &[])
}

/// How many products a page of a list shows.
pub(crate) const PAGE: i64 = 60;

/// Products for sale, of one category or of all: page `page` (from 1), and how many there are on all pages.
pub(crate) fn for_sale(
    connection: &Connection,
    category: Option<i64>,
    sort: Sort,
    page: i64,
) -> Result<(Vec<Product>, i64)> {
    let which = if category.is_some() { "p.category_id = ?1" } else { "?1 IS NULL" };
    let rest = format!("WHERE p.is_active = 1 AND {which} ORDER BY {} LIMIT {PAGE} OFFSET ?2", sort.sql());
    let found = list(connection, &rest, &[&category, &((page - 1) * PAGE)])?;
    let sql = format!("SELECT count(*) FROM products AS p WHERE p.is_active = 1 AND {which}");
    let all = connection.prepare_cached(&sql)?.query_row([category], |row| row.get(0))?;
    Ok((found, all))
}

/// A few products for sale of the same category.
pub(crate) fn beside(connection: &Connection, product: &Product) -> Result<Vec<Product>> {
    // Those that follow on the shelf, so that every product is shown beside some other.
    let rest = "WHERE p.is_active = 1 AND p.category_id = ?1 AND p.id > ?2 ORDER BY p.id LIMIT 4";
    let mut found = list(connection, rest, &[&product.category_id, &product.id])?;
    if found.len() < 4 {
        let rest = "WHERE p.is_active = 1 AND p.category_id = ?1 AND p.id < ?2 ORDER BY p.id LIMIT ?3";
        let more = i64::try_from(4 - found.len()).unwrap_or(0);
        found.extend(list(connection, rest, &[&product.category_id, &product.id, &more])?);
    }
    Ok(found)
}

/// A product by its number, for sale or not.
pub(crate) fn find(connection: &Connection, id: i64) -> Result<Option<Product>> {
    let sql = format!("SELECT {COLUMNS} {FROM} WHERE p.id = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([id], product).optional()?)
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

/// Products for those who run the shop, by part of a name or all: one page, and how many there are.
pub(crate) fn page_of_all(connection: &Connection, part: &str, page: i64) -> Result<(Vec<Product>, i64)> {
    // Nothing is special in what was typed: LIKE's own signs stand for themselves.
    let literal = part.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    let pattern = format!("%{literal}%");
    let which = "WHERE p.name LIKE ?1 ESCAPE '\\' OR coalesce(p.local_name, '') LIKE ?1 ESCAPE '\\'
                 OR coalesce(p.sku, '') LIKE ?1 ESCAPE '\\'";
    let rest = format!("{which} ORDER BY c.position, p.name COLLATE NOCASE, p.id LIMIT {PAGE} OFFSET ?2");
    let found = list(connection, &rest, &[&pattern, &((page - 1) * PAGE)])?;
    let sql = format!("SELECT count(*) FROM products AS p {which}");
    let all = connection.query_row(&sql, [&pattern], |row| row.get(0))?;
    Ok((found, all))
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
    pub(crate) search_words: String,
    pub(crate) maker: String,
    pub(crate) origin: String,
    pub(crate) best_before: String,
    pub(crate) hsn: String,
    pub(crate) gst_basis_points: i64,
    pub(crate) sku: Option<String>,
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
    /// Another product has this article number.
    SkuTaken,
    /// More was sold meanwhile than would be left.
    StockBelowZero,
}

/// Adds a product.
pub(crate) fn add(
    connection: &Connection,
    details: &Details,
    stock: i64,
    reason: &str,
    user_id: Option<i64>,
) -> Result<Saved> {
    if let Some(refused) = taken(connection, details, None)? {
        return Ok(refused);
    }
    connection.execute(
        "INSERT INTO products (category_id, name, local_name, description, pack_size, net_quantity, unit,
             mrp_paise, price_paise, is_active, is_featured, search_words, maker, origin, best_before, hsn,
             gst_basis_points, sku, stock)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
        values(details, stock),
    )?;
    let id = connection.last_insert_rowid();
    super::stock::log_change(connection, id, stock, reason, user_id, "")?;
    Ok(Saved::As(id))
}

fn values(details: &Details, last: i64) -> [Box<dyn ToSql>; 19] {
    [
        Box::new(details.category_id),
        Box::new(details.name.clone()),
        Box::new(details.local_name.clone()),
        Box::new(details.description.clone()),
        Box::new(details.pack_size.clone()),
        Box::new(details.net_quantity),
        Box::new(details.unit.clone()),
        Box::new(details.mrp_paise),
        Box::new(details.price_paise),
        Box::new(details.is_active),
        Box::new(details.is_featured),
        Box::new(details.search_words.clone()),
        Box::new(details.maker.clone()),
        Box::new(details.origin.clone()),
        Box::new(details.best_before.clone()),
        Box::new(details.hsn.clone()),
        Box::new(details.gst_basis_points),
        Box::new(details.sku.clone()),
        Box::new(last),
    ]
}

/// Changes a product.
pub(crate) fn change(connection: &Connection, id: i64, details: &Details) -> Result<Saved> {
    if find(connection, id)?.is_none() {
        return Ok(Saved::Unknown);
    }
    if let Some(refused) = taken(connection, details, Some(id))? {
        return Ok(refused);
    }
    connection.execute(
        "UPDATE products SET category_id = ?1, name = ?2, local_name = ?3, description = ?4, pack_size = ?5,
             net_quantity = ?6, unit = ?7, mrp_paise = ?8, price_paise = ?9, is_active = ?10, is_featured = ?11,
             search_words = ?12, maker = ?13, origin = ?14, best_before = ?15, hsn = ?16, gst_basis_points = ?17,
             sku = ?18, updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?19",
        values(details, id),
    )?;
    Ok(Saved::As(id))
}

/// Changes a stock by `change` and logs it: a sale between the form and its answer is not undone.
pub(crate) fn change_stock(
    connection: &Connection,
    id: i64,
    change: i64,
    reason: &str,
    user_id: Option<i64>,
    note: &str,
) -> Result<Saved> {
    let Some(before) = find(connection, id)? else { return Ok(Saved::Unknown) };
    if before.stock + change < 0 {
        return Ok(Saved::StockBelowZero);
    }
    connection.execute("UPDATE products SET stock = stock + ?2 WHERE id = ?1", (id, change))?;
    super::stock::log_change(connection, id, change, reason, user_id, note)?;
    Ok(Saved::As(id))
}

fn taken(connection: &Connection, details: &Details, but: Option<i64>) -> Result<Option<Saved>> {
    if name_taken(connection, details, but)? {
        return Ok(Some(Saved::NameTaken));
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM products WHERE sku = ?1 AND id IS NOT ?2)";
    let sku: bool = connection.query_row(sql, (&details.sku, but), |row| row.get(0))?;
    Ok(sku.then_some(Saved::SkuTaken))
}

/// The product with this name and pack size.
pub(crate) fn by_name(connection: &Connection, name: &str, pack_size: &str) -> Result<Option<i64>> {
    let sql = "SELECT id FROM products WHERE name = ?1 AND pack_size = ?2";
    Ok(connection.query_row(sql, (name, pack_size), |row| row.get(0)).optional()?)
}

/// The category of this name, made as the last one when there is none.
pub(crate) fn category_named(connection: &Connection, name: &str) -> Result<i64> {
    let sql = "SELECT id FROM categories WHERE name = ?1 COLLATE NOCASE";
    if let Some(id) = connection.query_row(sql, [name], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    let mut slug = String::new();
    for letter in name.to_lowercase().chars() {
        let letter = if letter.is_ascii_alphanumeric() { letter } else { '-' };
        if letter != '-' || !(slug.is_empty() || slug.ends_with('-')) {
            slug.push(letter);
        }
    }
    let slug = format!("{}-{}", slug.trim_matches('-'), super::random_hex::<2>());
    connection.execute(
        "INSERT INTO categories (slug, name, position)
         SELECT ?1, ?2, coalesce(max(position), 0) + 1 FROM categories",
        (slug.trim_start_matches('-'), name),
    )?;
    Ok(connection.last_insert_rowid())
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
        assert_eq!(unit_price(4_500, 500, "g"), (9_000, "kg"));
        assert_eq!(unit_price(16_500, 1000, "ml"), (16_500, "litre"));
        assert_eq!(unit_price(8_400, 12, "piece"), (700, "piece"));
        assert_eq!(unit_price(1_000, 300, "g"), (3_333, "kg"));
    }
}
