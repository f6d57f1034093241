//! Predictions of the rehearsal over a corpus of migrations, each deployed for real: the class of its work, and how long
//! requests wait. `bench-rehearse [ROWS]`; what was predicted wrongly is counted at the end.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use plimsoll_testkit::{Sandbox, shop};

/// What happens to a database that has been sold from for years; each file comes after those before it.
/// Name, what its time grows with, what has to be acknowledged, SQL.
const CORPUS: &[(&str, &str, &[&str], &str)] = &[
    ("add_column", "instant", &[], "ALTER TABLE customers ADD COLUMN nick TEXT"),
    ("add_column_default", "instant", &[], "ALTER TABLE customers ADD COLUMN tier TEXT NOT NULL DEFAULT 'plain'"),
    ("add_column_references", "instant", &[], "ALTER TABLE customers ADD COLUMN area INT REFERENCES regions (id)"),
    ("add_virtual_column", "instant", &[], "ALTER TABLE customers ADD COLUMN label TEXT AS (name || ', ' || city)"),
    (
        "add_virtual_not_null",
        "scan",
        &[],
        "ALTER TABLE customers ADD COLUMN key2 TEXT NOT NULL AS (coalesce(email, 'none'))",
    ),
    ("add_column_check", "scan", &[], "ALTER TABLE customers ADD COLUMN age INT CHECK (age IS NULL OR age > 0)"),
    ("rename_column", "instant", &[], "ALTER TABLE customers RENAME COLUMN nick TO nickname"),
    ("rename_table", "instant", &[], "ALTER TABLE visits RENAME TO calls"),
    ("set_not_null", "scan", &[], "ALTER TABLE customers ALTER COLUMN city SET NOT NULL"),
    ("drop_not_null", "instant", &[], "ALTER TABLE customers ALTER COLUMN city DROP NOT NULL"),
    ("add_constraint", "scan", &[], "ALTER TABLE customers ADD CONSTRAINT has_points CHECK (points >= 0)"),
    ("drop_constraint", "instant", &[], "ALTER TABLE customers DROP CONSTRAINT has_points"),
    ("drop_virtual_column", "instant", &[], "ALTER TABLE customers DROP COLUMN label"),
    ("create_index", "scan", &[], "CREATE INDEX customers_city ON customers (city)"),
    ("create_unique_index", "scan", &[], "CREATE UNIQUE INDEX customers_email ON customers (email)"),
    ("create_partial_index", "scan", &[], "CREATE INDEX customers_vip ON customers (id) WHERE points > 900"),
    ("create_expression_index", "scan", &[], "CREATE INDEX customers_lower ON customers (lower(name))"),
    ("drop_index", "instant", &[], "DROP INDEX customers_city"),
    ("create_table", "instant", &[], "CREATE TABLE vouchers (id INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE)"),
    (
        "create_table_as",
        "scan",
        &[],
        "CREATE TABLE cities AS SELECT city, count(*) AS people FROM customers GROUP BY city",
    ),
    ("create_view", "instant", &[], "CREATE VIEW good AS SELECT id, name FROM customers WHERE points > 500"),
    ("drop_view", "instant", &[], "DROP VIEW good"),
    (
        "create_trigger",
        "instant",
        &[],
        "CREATE TRIGGER seen AFTER INSERT ON calls BEGIN UPDATE customers SET points = points + 1 WHERE id = new.customer_id; END",
    ),
    ("seed_rows", "scan", &[], "INSERT INTO vouchers (code) VALUES ('DIWALI'), ('ONAM'), ('PONGAL')"),
    ("update_one", "scan", &[], "UPDATE customers SET notes = 'moved' WHERE id = 7"),
    ("update_all", "scan", &[], "UPDATE customers SET email = lower(email), points = points + 1"),
    (
        "split_column",
        "scan",
        &[],
        "ALTER TABLE customers ADD COLUMN first TEXT; UPDATE customers SET first = substr(name, 1, 8)",
    ),
    (
        "normalise",
        "scan",
        &[],
        "CREATE TABLE towns (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
         INSERT INTO towns (name) SELECT DISTINCT city FROM customers;
         ALTER TABLE customers ADD COLUMN town_id INT REFERENCES towns (id);
         UPDATE customers SET town_id = (SELECT id FROM towns WHERE towns.name = customers.city)",
    ),
    ("fts", "instant", &[], "CREATE VIRTUAL TABLE search USING fts5 (name, notes)"),
    ("fts_fill", "scan", &[], "INSERT INTO search (rowid, name, notes) SELECT id, name, notes FROM customers"),
    ("nothing", "instant", &[], "SELECT count(*) FROM regions"),
    ("analyze", "scan", &[], "ANALYZE"),
    (
        "rebuild_child",
        "rebuild",
        &[],
        "CREATE TABLE calls_new (id INTEGER PRIMARY KEY, customer_id INT NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
             at TEXT NOT NULL, minutes INT NOT NULL DEFAULT 1);
         INSERT INTO calls_new (id, customer_id, at) SELECT id, customer_id, at FROM calls;
         DROP TABLE calls; ALTER TABLE calls_new RENAME TO calls;
         CREATE TRIGGER seen AFTER INSERT ON calls BEGIN UPDATE customers SET points = points + 1 WHERE id = new.customer_id; END",
    ),
    (
        "rebuild_parent_own_transaction",
        "rebuild",
        &[],
        "PRAGMA foreign_keys = OFF; BEGIN;
         CREATE TABLE orders_new (id INTEGER PRIMARY KEY AUTOINCREMENT, reference TEXT NOT NULL UNIQUE,
             created_at TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'placed');
         INSERT INTO orders_new (id, reference, created_at) SELECT id, reference, created_at FROM orders;
         DROP TABLE orders; ALTER TABLE orders_new RENAME TO orders;
         COMMIT; PRAGMA foreign_keys = ON",
    ),
    (
        "rebuild_strict",
        "rebuild",
        &[],
        "CREATE TABLE towns_new (id INTEGER PRIMARY KEY, name TEXT UNIQUE) STRICT;
         INSERT INTO towns_new SELECT id, name FROM towns; DROP TABLE towns; ALTER TABLE towns_new RENAME TO towns",
    ),
    (
        "rebuild_without_rowid",
        "rebuild",
        &[],
        "CREATE TABLE cities_new (city TEXT PRIMARY KEY, people INT) WITHOUT ROWID;
         INSERT INTO cities_new SELECT city, people FROM cities; DROP TABLE cities; ALTER TABLE cities_new RENAME TO cities",
    ),
    ("vacuum", "rebuild", &[], "VACUUM"),
    ("drop_empty_table", "destructive", &[], "DROP TABLE coupons"),
    ("drop_table", "destructive", &["drop:sso_nonce"], "DROP TABLE sso_nonce"),
    ("drop_column", "destructive", &["drop:customers.phone"], "ALTER TABLE customers DROP COLUMN phone"),
    ("forget_notes", "destructive", &["values:customers.notes"], "UPDATE customers SET notes = NULL"),
    ("delete_old", "destructive", &["rows:calls"], "DELETE FROM calls WHERE id % 10 = 0"),
];

struct Outcome {
    class_right: bool,
    hold_right: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows: u64 = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let mut sandbox = Sandbox::new();
    sandbox.configure("service.start_timeout = '60s'\nfront.hold_budget = '120s'");
    fill(&sandbox, rows)?;
    let serve = sandbox.live();
    // A first hold, whose restart is measured in production.
    println!("{} migrations, each deployed; tables of {rows} rows", CORPUS.len());
    println!(
        "{:<32} {:<12} {:<12} {:>9} {:>9} {:>6}",
        "migration", "is", "predicted", "hold ms", "predicted", "ratio"
    );
    let mut outcomes = Vec::new();
    for (place, migration) in CORPUS.iter().enumerate() {
        outcomes.push(deploy(&sandbox, place, migration));
    }
    drop(serve);
    let wrong = |of: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| !of(outcome)).count();
    println!(
        "wrong predictions: class {} of {}, hold beyond 2x {} of {}",
        wrong(|outcome| outcome.class_right),
        outcomes.len(),
        wrong(|outcome| outcome.hold_right),
        outcomes.len()
    );
    Ok(())
}

fn deploy(sandbox: &Sandbox, place: usize, migration: &(&str, &str, &[&str], &str)) -> Outcome {
    let (name, class, losses, sql) = migration;
    let file = format!("migrations/{:04}_{name}.sql", place + 2);
    sandbox.release("{}", &[(&file, &format!("{sql};\n"))]);
    let mut words = vec!["deploy", "--yes"];
    for loss in *losses {
        words.extend(["--acknowledge", loss]);
    }
    let output = sandbox.plimsoll(&words);
    let run = u32::try_from(place + 2).unwrap_or(0);
    if output.code != Some(0) {
        println!(
            "{name:<32} NOT DEPLOYED: {}",
            output.stderr.lines().rev().take(4).collect::<Vec<_>>().join(" | ")
        );
        return Outcome { class_right: false, hold_right: false };
    }
    let journal = sandbox.journal(run);
    let event = |wanted: &str| journal.iter().find(|entry| entry["event"] == wanted);
    let seen = event("rehearsed").map_or("", |e| e["rehearsal"]["pending"][0]["work"].as_str().unwrap_or(""));
    let predicted = event("planned").and_then(|e| e["decision"]["predicted_hold_ms"].as_f64()).unwrap_or(0.0);
    let held = event("ended").and_then(|e| e["hold_ms"].as_f64()).unwrap_or(0.0);
    let ratio = predicted / held.max(1.0);
    println!("{name:<32} {class:<12} {seen:<12} {held:>9} {predicted:>9} {ratio:>6.2}");
    Outcome { class_right: seen == *class, hold_right: (0.5..=2.0).contains(&ratio) }
}

fn fill(sandbox: &Sandbox, rows: u64) -> Result<(), Box<dyn std::error::Error>> {
    let connection = shop::open(&sandbox.database());
    connection.execute_batch(&format!(
        "BEGIN;
         CREATE TABLE customers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, email TEXT, phone TEXT,
             city TEXT, notes TEXT, points INT NOT NULL DEFAULT 0);
         CREATE TABLE visits (id INTEGER PRIMARY KEY, customer_id INT NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
             at TEXT NOT NULL);
         CREATE TABLE sso_nonce (nonce TEXT);
         CREATE TABLE coupons (code TEXT);
         INSERT INTO sso_nonce VALUES ('a'), ('b');
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO customers (name, email, phone, city, notes, points)
             SELECT 'Customer number ' || i, 'C' || i || '@example.com', '98450' || (10000 + i), 'City ' || (i % 40),
                 'rings the bell twice, house ' || i, i % 1000 FROM n;
         INSERT INTO visits (customer_id, at) SELECT id, '2026-01-01T00:00:00Z' FROM customers;
         COMMIT;"
    ))?;
    Ok(())
}
