//! The goods and regions that a new shop starts with.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;
use crate::money::parse_rupees;

const CATEGORIES: [(&str, &str); 7] = [
    ("vegetables", "Vegetables"),
    ("fruit", "Fruit"),
    ("rice-and-flour", "Rice & Flour"),
    ("dals-and-pulses", "Dals & Pulses"),
    ("spices", "Spices & Masalas"),
    ("oil-and-dairy", "Oil, Ghee & Dairy"),
    ("snacks-and-drinks", "Snacks, Tea & Coffee"),
];

const PRODUCTS: &str = include_str!("../../seed/products.txt");
const REGIONS: &str = include_str!("../../seed/regions.txt");

/// What was put into the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seeded {
    /// Products now for sale.
    pub products: i64,
    /// Regions now served.
    pub regions: i64,
}

/// Why the shop was not filled; nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// There are products already.
    #[error("there are {0} products already: seed fills an empty shop only; nothing was changed")]
    NotEmpty(i64),
    /// A line of the list is wrong.
    #[error("the list of goods has a line that cannot be read: {0}")]
    Line(String),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for SeedError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Store(source.into())
    }
}

/// Fills an empty shop, in one transaction.
///
/// # Errors
/// [`SeedError::NotEmpty`] when there are products: what a grocer entered is never mixed with samples.
pub fn fill(connection: &mut Connection) -> Result<Seeded, SeedError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let count = |table: &str| -> Result<i64, rusqlite::Error> {
        transaction.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
    };
    let before = count("products")?;
    if before > 0 {
        return Err(SeedError::NotEmpty(before));
    }
    for (position, (slug, name)) in (1i64..).zip(CATEGORIES) {
        transaction.execute(
            "INSERT INTO categories (slug, name, position) VALUES (?1, ?2, ?3)",
            (slug, name, position),
        )?;
    }
    for line in lines(PRODUCTS) {
        let wrong = || SeedError::Line(line.to_owned());
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [category, name, local_name, pack_size, net, unit, mrp, price, stock, featured, description] =
            fields.as_slice()
        else {
            return Err(wrong());
        };
        let added = transaction.execute(
            "INSERT INTO products (category_id, name, local_name, pack_size, net_quantity, unit, mrp_paise,
                 price_paise, stock, is_featured, description)
             SELECT id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 FROM categories WHERE slug = ?1",
            (
                category,
                name,
                local_name,
                pack_size,
                net.parse::<i64>().map_err(|_| wrong())?,
                unit,
                parse_rupees(mrp).ok_or_else(wrong)?,
                parse_rupees(price).ok_or_else(wrong)?,
                stock.parse::<i64>().map_err(|_| wrong())?,
                *featured == "yes",
                description,
            ),
        )?;
        if added != 1 {
            return Err(wrong());
        }
    }
    for line in lines(REGIONS) {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, state, prefixes] = fields.as_slice() else {
            return Err(SeedError::Line(line.to_owned()));
        };
        transaction.execute("INSERT INTO regions (name, state) VALUES (?1, ?2)", (name, state))?;
        let region = transaction.last_insert_rowid();
        for prefix in prefixes.split_whitespace() {
            transaction.execute(
                "INSERT INTO region_pincodes (prefix, region_id) VALUES (?1, ?2)",
                (prefix, region),
            )?;
        }
    }
    let seeded = Seeded { products: count("products")?, regions: count("regions")? };
    transaction.commit()?;
    Ok(seeded)
}

fn lines(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}
