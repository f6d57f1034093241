//! Goods out of a spreadsheet: the columns of WooCommerce's product export.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;
use super::products::{self, Details, Saved};
use crate::csv;
use crate::money::parse_rupees;

/// The most that is taken of one product.
const MAX_STOCK: i64 = 100_000;

/// What was imported.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Imported {
    /// Products that were new.
    pub added: usize,
    /// Products that were known, by article number or by name and pack size.
    pub changed: usize,
    /// Rows that are no products of their own, such as variable parents without a price.
    pub skipped: usize,
}

/// Why nothing was imported. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is no table.
    #[error("line {line}: {what}; nothing was imported")]
    Line {
        /// Counted from 1, the heading.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A column is missing.
    #[error("there is no column {0:?}; nothing was imported")]
    Column(&'static str),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ImportError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Store(source.into())
    }
}

/// Imports a product export of WooCommerce: Name, Regular price, and if there are, SKU, Published, Is featured?,
/// Short description, Description, Stock, Sale price, Categories, Weight (kg), Meta: local_name and
/// Meta: pack_size. All rows or none.
///
/// # Errors
/// The first line that cannot be a product, by its number.
pub fn woocommerce(connection: &mut Connection, text: &str) -> Result<Imported, ImportError> {
    let rows = csv::read(text)
        .map_err(|line| ImportError::Line { line, what: "a quotation mark is never closed".to_owned() })?;
    let mut rows = rows.into_iter();
    let Some((_, heading)) = rows.next() else { return Err(ImportError::Column("Name")) };
    let heading: Vec<String> = heading.iter().map(|name| name.trim().to_lowercase()).collect();
    let place = |name: &str| heading.iter().position(|known| known == &name.to_lowercase());
    for needed in ["Name", "Regular price"] {
        if place(needed).is_none() {
            return Err(ImportError::Column(needed));
        }
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut done = Imported::default();
    for (line, row) in rows {
        let of = |name: &str| {
            let field = place(name).and_then(|place| row.get(place));
            field.map(|text| text.trim()).unwrap_or_default()
        };
        if of("Regular price").is_empty() && ["variable", "grouped", "external"].contains(&of("Type")) {
            done.skipped += 1;
            continue;
        }
        let wrong = |what: &str| ImportError::Line { line, what: what.to_owned() };
        let (details, stock) = details(&of).map_err(|what| wrong(&what))?;
        let category = of("Categories").split([',', '>']).next().unwrap_or_default().trim();
        let category = if category.is_empty() { "Groceries" } else { category };
        let category_id = products::category_named(&transaction, category)?;
        let details = Details { category_id, ..details };
        let known = match &details.sku {
            Some(sku) => by_sku(&transaction, sku)?,
            None => None,
        };
        let known = match known {
            None => products::by_name(&transaction, &details.name, &details.pack_size)?,
            known => known,
        };
        let saved = match known {
            None => products::add(&transaction, &details, stock.unwrap_or(0), "import", None)?,
            Some(id) => {
                let saved = products::change(&transaction, id, &details)?;
                let before = products::find(&transaction, id)?.map_or(0, |product| product.stock);
                let change = stock.unwrap_or(before) - before;
                products::change_stock(&transaction, id, change, "import", None, "")?;
                saved
            }
        };
        match (saved, known) {
            (Saved::As(_), None) => done.added += 1,
            (Saved::As(_), Some(_)) => done.changed += 1,
            _ => return Err(wrong("another product has this name and pack size, or this SKU")),
        }
    }
    transaction.commit()?;
    Ok(done)
}

fn by_sku(connection: &Connection, sku: &str) -> Result<Option<i64>, ImportError> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT id FROM products WHERE sku = ?1";
    Ok(connection.query_row(sql, [sku], |row| row.get(0)).optional()?)
}

fn details<'a>(of: &impl Fn(&str) -> &'a str) -> Result<(Details, Option<i64>), String> {
    let name = of("Name");
    if name.is_empty() || name.chars().count() > 120 || name.chars().any(char::is_control) {
        return Err("a name has 1 to 120 letters".to_owned());
    }
    let price = |column: &str| {
        parse_rupees(of(column))
            .ok_or_else(|| format!("{column} {:?} is not an amount such as 49.50", of(column)))
    };
    let mrp_paise = price("Regular price")?;
    let price_paise = if of("Sale price").is_empty() { mrp_paise } else { price("Sale price")? };
    if price_paise > mrp_paise {
        return Err("the sale price is above the regular price".to_owned());
    }
    let grams = match of("Weight (kg)") {
        "" => None,
        text => Some(thousandths(text).filter(|grams| *grams > 0).ok_or("the weight is not a number of kg")?),
    };
    let pack_size = match (of("Meta: pack_size"), grams) {
        ("", None) => "1 piece".to_owned(),
        ("", Some(grams)) if grams % 1000 == 0 => format!("{} kg", grams / 1000),
        ("", Some(grams)) => format!("{grams} g"),
        (text, _) => text.chars().take(40).collect(),
    };
    let stock = match of("Stock") {
        "" => None,
        text => {
            let stock = text.parse::<i64>().ok().filter(|stock| (0..=MAX_STOCK).contains(stock));
            Some(stock.ok_or("the stock is not a whole number from 0 to 100000")?)
        }
    };
    let description =
        if of("Short description").is_empty() { of("Description") } else { of("Short description") };
    let local_name = of("Meta: local_name");
    let details = Details {
        category_id: 0,
        name: name.to_owned(),
        local_name: (!local_name.is_empty()).then(|| local_name.chars().take(120).collect()),
        description: plain(description).chars().take(2000).collect(),
        pack_size,
        net_quantity: grams.unwrap_or(1),
        unit: if grams.is_some() { "g" } else { "piece" }.to_owned(),
        mrp_paise,
        price_paise,
        is_active: of("Published") != "0" && of("Published") != "-1",
        is_featured: of("Is featured?") == "1",
        search_words: of("Tags").replace(',', " ").chars().take(200).collect(),
        maker: of("Brands").chars().take(120).collect(),
        origin: "India".to_owned(),
        best_before: String::new(),
        hsn: String::new(),
        gst_basis_points: 0,
        sku: (!of("SKU").is_empty()).then(|| of("SKU").to_owned()),
    };
    Ok((details, stock))
}

/// A decimal number in thousandths, exactly.
fn thousandths(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() > 4 || fraction.len() > 3 || !digits(whole) || !digits(fraction) || text == "." {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    Some(whole * 1000 + format!("{fraction:0<3}").parse::<i64>().ok()?)
}

/// Text without the tags of a page: descriptions are shown as plain text.
fn plain(html: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for letter in html.replace("\\n", " ").chars() {
        match letter {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            _ if inside => {}
            _ => text.push(letter),
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_exactly_and_tags_are_taken_out() {
        assert_eq!(thousandths("0.5"), Some(500));
        assert_eq!(thousandths("25"), Some(25_000));
        assert_eq!(thousandths(".25"), Some(250));
        assert_eq!(thousandths("1.0005"), None);
        assert_eq!(thousandths("-1"), None);
        assert_eq!(plain("<p>Firm &amp; <b>red</b></p>\\nGood"), "Firm &amp; red Good");
    }
}
