//! The pictures of the goods, in a few sizes.

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::Serialize;

use super::{Result, random_hex};

/// The most pictures of one product.
pub(crate) const MOST: i64 = 6;

/// A picture, by its name: `/image/NAME/WIDTH.jpg`.
#[derive(Clone, Debug, Hash, Serialize)]
pub(crate) struct Image {
    pub(crate) id: i64,
    pub(crate) name: String,
}

/// One size of a picture.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) jpeg: Vec<u8>,
}

/// The pictures of a product, the first one first.
pub(crate) fn of(connection: &Connection, product_id: i64) -> Result<Vec<Image>> {
    let mut statement = connection
        .prepare_cached("SELECT id, name FROM product_images WHERE product_id = ?1 ORDER BY position, id")?;
    let rows = statement
        .query_map([product_id], |row| Ok(Image { id: row.get("id")?, name: row.get("name")? }))?
        .collect::<std::result::Result<_, _>>()?;
    Ok(rows)
}

/// The file of one size.
pub(crate) fn file(connection: &Connection, name: &str, width: u32) -> Result<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached(
        "SELECT s.jpeg FROM product_image_sizes AS s JOIN product_images AS i ON i.id = s.image_id
         WHERE i.name = ?1 AND s.width = ?2",
    )?;
    Ok(statement.query_row((name, width), |row| row.get(0)).optional()?)
}

/// Adds a picture as the last one; `None` when there are enough, or there is no such product.
pub(crate) fn add(transaction: &Transaction<'_>, product_id: i64, sizes: &[Size]) -> Result<Option<String>> {
    let name = random_hex::<16>();
    let added = transaction.execute(
        "INSERT INTO product_images (product_id, name, position)
         SELECT p.id, ?2, (SELECT coalesce(max(position) + 1, 0) FROM product_images WHERE product_id = p.id)
         FROM products AS p WHERE p.id = ?1
           AND (SELECT count(*) FROM product_images WHERE product_id = ?1) < ?3",
        (product_id, &name, MOST),
    )?;
    if added == 0 {
        return Ok(None);
    }
    let image = transaction.last_insert_rowid();
    for size in sizes {
        transaction.execute(
            "INSERT INTO product_image_sizes (image_id, width, height, jpeg) VALUES (?1, ?2, ?3, ?4)",
            (image, size.width, size.height, &size.jpeg),
        )?;
    }
    Ok(Some(name))
}

/// Removes a picture of a product; `false` when it has no such one.
pub(crate) fn remove(connection: &Connection, product_id: i64, image_id: i64) -> Result<bool> {
    let gone = connection
        .execute("DELETE FROM product_images WHERE id = ?2 AND product_id = ?1", (product_id, image_id))?;
    Ok(gone == 1)
}
