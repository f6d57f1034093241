//! The scripted app's database: its migrations, what is sold, and how two databases are compared.

use std::fmt::Write as _;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// The schema that every sandbox's database starts with: version 1.
pub const FIRST: (&str, &str) = (
    "migrations/0001_shop.sql",
    "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, paise INTEGER NOT NULL);
CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE);
CREATE TABLE regions (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    reference  TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL
);
CREATE TABLE order_items (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id   INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
    product_id INTEGER NOT NULL REFERENCES products (id),
    quantity   INTEGER NOT NULL CHECK (quantity > 0)
);
CREATE INDEX order_items_by_order ON order_items (order_id);
",
);

/// Rebuilds `orders`, whose lines hang on it by `ON DELETE CASCADE`: with foreign keys on, the `DROP TABLE`
/// empties `order_items`.
pub const REBUILD: (&str, &str) = (
    "migrations/0002_order_state.sql",
    "CREATE TABLE orders_new (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    reference  TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    state      TEXT NOT NULL DEFAULT 'placed' CHECK (state IN ('placed', 'packed', 'delivered'))
);
INSERT INTO orders_new (id, reference, created_at) SELECT id, reference, created_at FROM orders;
DROP TABLE orders;
ALTER TABLE orders_new RENAME TO orders;
CREATE INDEX orders_by_state ON orders (state, id);
",
);

/// Adds a column and loses nothing.
pub const ADD_COLUMN: (&str, &str) =
    ("migrations/0002_nickname.sql", "ALTER TABLE users ADD COLUMN nickname TEXT;\n");

/// The second of two: fails after it has changed something.
pub const FAILS_HALF_WAY: (&str, &str) = (
    "migrations/0003_half_way.sql",
    "UPDATE products SET paise = paise * 2;
INSERT INTO products (id, name, paise) VALUES (1, 'the same key again', 1);
",
);

/// Throws rows away.
pub const LOSES_ROWS: (&str, &str) =
    ("migrations/0002_fewer_regions.sql", "DELETE FROM regions WHERE id > 1;\n");

/// Writes the database that a shop has before its first deployment: [`FIRST`], some rows of everything, and what
/// `schema_version` says about it.
///
/// # Panics
/// When the file cannot be written.
pub fn seed(database: &Path) {
    let connection = Connection::open(database).expect("a test's database can be made");
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE schema_version (
                 id INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL UNIQUE, description TEXT NOT NULL,
                 applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, status TEXT DEFAULT 'applied');",
        )
        .and_then(|()| connection.execute_batch(FIRST.1))
        .and_then(|()| {
            connection.execute_batch(
                "INSERT INTO schema_version (version, description) VALUES (1, 'shop');
                 INSERT INTO products (id, name, paise) VALUES (1, 'Basmati', 12000), (2, 'Toor dal', 9000),
                     (3, 'Ghee', 45000);
                 INSERT INTO users (email) VALUES ('asha@example.com'), ('ravi@example.com');
                 INSERT INTO regions (name) VALUES ('Indiranagar'), ('Jayanagar'), ('Malleswaram');
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
                     INSERT INTO orders (reference, created_at)
                     SELECT 'seed-' || i, '2026-01-01T00:00:00Z' FROM n;
                 INSERT INTO order_items (order_id, product_id, quantity) SELECT id, 1 + id % 3, 2 FROM orders;",
            )
        })
        .expect("the schema and its rows are valid");
}

/// Opens a database to look at it; a missing one is not created.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn open(database: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", database.display()));
    connection.busy_timeout(std::time::Duration::from_secs(20)).expect("a timeout can be set");
    connection
}

/// The one number that a query answers.
///
/// # Panics
/// When it is no such query.
#[must_use]
pub fn number(database: &Path, sql: &str) -> i64 {
    open(database)
        .query_row(sql, [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{sql} on {}: {error}", database.display()))
}

/// Schema and rows of every table but those in `except`, as text to compare.
///
/// # Panics
/// When the database cannot be read.
#[must_use]
pub fn dump(database: &Path, except: &[&str]) -> String {
    let connection = open(database);
    write_dump(&connection, except).unwrap_or_else(|error| panic!("{}: {error}", database.display()))
}

fn write_dump(connection: &Connection, except: &[&str]) -> rusqlite::Result<String> {
    let mut text = String::new();
    let mut tables = Vec::new();
    let mut schema = connection.prepare(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name COLLATE BINARY",
    )?;
    let mut rows = schema.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name, table, sql): (String, String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        if except.contains(&table.as_str()) {
            continue;
        }
        let _ = writeln!(text, "{kind} {name}: {sql}");
        if kind == "table" {
            tables.push(name);
        }
    }
    for table in tables {
        let _ = writeln!(text, "-- {table}");
        let mut all = connection.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY 1, 2"))?;
        let columns = all.column_count();
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            if table == "sqlite_sequence" && except.contains(&row.get::<_, String>(0)?.as_str()) {
                continue;
            }
            for column in 0..columns {
                let _ = match row.get_ref(column)? {
                    ValueRef::Null => write!(text, "null|"),
                    ValueRef::Integer(value) => write!(text, "{value}|"),
                    ValueRef::Real(value) => write!(text, "{value:?}|"),
                    ValueRef::Text(value) => write!(text, "'{}'|", String::from_utf8_lossy(value)),
                    ValueRef::Blob(value) => write!(text, "x{value:?}|"),
                };
            }
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_sees_rows_and_schema_and_leaves_out_what_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        seed(&file);
        let before = dump(&file, &["orders"]);
        open(&file).execute("INSERT INTO orders (reference, created_at) VALUES ('x', 'now')", []).unwrap();
        assert_eq!(dump(&file, &["orders"]), before);
        assert_ne!(dump(&file, &[]), before);
        open(&file).execute("UPDATE products SET paise = 1 WHERE id = 2", []).unwrap();
        assert_ne!(dump(&file, &["orders"]), before);
    }

    #[test]
    fn the_rebuild_empties_order_items_when_foreign_keys_are_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        seed(&file);
        let lines = || number(&file, "SELECT count(*) FROM order_items");
        assert_eq!(lines(), 200);
        open(&file).execute_batch(&format!("PRAGMA foreign_keys = ON; {}", REBUILD.1)).unwrap();
        assert_eq!(lines(), 0, "the migration no longer is the trap that the tests need");
    }
}
