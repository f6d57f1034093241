//! What is kept of the catalogue's pages is never shown when it is no longer so, to whomever.

use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use crate::browser::Browser;
use crate::sandbox::{PASSWORD, Sandbox, Server};

const PAGES: [&str; 4] = ["/", "/products", "/search?q=tomato", "/product/1"];

/// Every kind of visitor, each with pages of the own kind kept already.
struct Visitors(Vec<(&'static str, Browser)>);

impl Visitors {
    fn of(server: &Server) -> Self {
        let mut visitors = Vec::new();
        for who in ["new", "basket", "the same in the basket", "pincode", "Hindi"] {
            let mut browser = server.browser();
            match who {
                "basket" => browser.add(2, 1),
                "the same in the basket" => browser.add(1, 2),
                "pincode" => drop(browser.post("/pincode", &[("pincode", "560004")])),
                "Hindi" => drop(browser.post("/language", &[("language", "hi")])),
                _ => {}
            }
            visitors.push((who, browser));
        }
        Self(visitors)
    }

    fn all_see(&mut self, what: &str, instead_of: &str) {
        for path in PAGES {
            for (who, browser) in &mut self.0 {
                for time in ["first", "again"] {
                    let body = browser.get(path).body;
                    assert!(body.contains(what), "{path}, {who}, {time}: no {what} in {body}");
                    assert!(!body.contains(instead_of), "{path}, {who}, {time}: still {instead_of}");
                }
            }
        }
    }
}

#[test]
fn a_price_that_the_admin_s_form_changes_shows_at_once_to_everybody() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    // Only of this one product may the pages show the price.
    shop.execute("UPDATE products SET price_paise = 2311, mrp_paise = 9000, is_featured = 1 WHERE id = 1");
    let server = shop.serve();
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    let mut visitors = Visitors::of(&server);
    visitors.all_see("₹23.11", "₹23.22");
    let mut price = ("₹23.11".to_owned(), 2311);
    for next in [2322, 2333] {
        let stored = |column: &str| {
            let sql = format!("SELECT CAST({column} AS TEXT) FROM products WHERE id = 1");
            shop.sql().query_row(&sql, [], |row| row.get::<_, String>(0)).unwrap()
        };
        let typed = format!("{}.{:02}", next / 100, next % 100);
        let (name, pack, net, stock) =
            (stored("name"), stored("pack_size"), stored("net_quantity"), stored("stock"));
        let details = [
            ("name", name.as_str()),
            ("category_id", "1"),
            ("pack_size", pack.as_str()),
            ("net_quantity", net.as_str()),
            ("unit", "g"),
            ("mrp", "90"),
            ("price", typed.as_str()),
            ("stock", stock.as_str()),
            ("stock_seen", stock.as_str()),
            ("is_active", "yes"),
            ("is_featured", "yes"),
        ];
        let saved = admin.post("/admin/products/1", &details);
        assert_eq!(saved.status, 303, "{}", saved.body);
        let new = format!("₹{typed}");
        visitors.all_see(&new, &price.0);
        price = (new, next);
    }
    assert_eq!(shop.number("SELECT price_paise FROM products WHERE id = 1"), price.1);
}

#[test]
fn a_restored_database_shows_at_once_although_the_shop_never_stopped() {
    let shop = Sandbox::seeded();
    shop.execute("UPDATE products SET price_paise = 2311, mrp_paise = 9000, is_featured = 1 WHERE id = 1");
    let server = shop.serve();
    let kept = shop.database().with_extension("kept");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let from = Connection::open(from).unwrap();
        let mut to = Connection::open(to).unwrap();
        to.busy_timeout(Duration::from_secs(5)).unwrap();
        Backup::new(&from, &mut to).unwrap().run_to_completion(1000, Duration::ZERO, None).unwrap();
    };
    copy(&shop.database(), &kept);
    let mut visitors = Visitors::of(&server);
    visitors.all_see("₹23.11", "₹23.22");
    shop.execute("UPDATE products SET price_paise = 2322 WHERE id = 1");
    visitors.all_see("₹23.22", "₹23.11");
    copy(&kept, &shop.database());
    visitors.all_see("₹23.11", "₹23.22");
}

#[test]
fn a_region_that_closes_or_changes_its_terms_shows_at_once() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut visitor = server.browser();
    visitor.post("/pincode", &[("pincode", "560004")]);
    assert!(visitor.get("/product/1").body.contains("Delivered in Bengaluru"));
    shop.execute("UPDATE regions SET free_from_paise = 77700");
    assert!(visitor.get("/product/1").body.contains("free from ₹777"));
    shop.execute(
        "INSERT INTO product_regions (product_id, region_id) SELECT 1, id FROM regions WHERE name NOT LIKE 'Bengaluru%' LIMIT 1",
    );
    assert!(visitor.get("/product/1").body.contains("We do not bring this to Bengaluru"));
    assert!(!server.browser().get("/product/1").body.contains("Bengaluru Urban</p>"));
    shop.execute("UPDATE regions SET is_active = 0");
    assert!(!visitor.get("/product/1").body.contains("Bengaluru"));
}
