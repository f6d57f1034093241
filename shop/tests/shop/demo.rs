use std::fs;
use std::path::Path;

use crate::browser::key;
use crate::sandbox::Sandbox;

#[test]
fn release_2_rebuilds_the_orders_and_sells() {
    let mut shop = Sandbox::seeded();
    let server = shop.serve();
    let token = server.browser().buy(1, 2, &key(1))["token"].as_str().unwrap().to_owned();
    server.browser().buy(2, 1, &key(2));
    assert!(!server.browser().get("/").body.contains("leave a note"));
    drop(server);
    // The last number given is not the highest one left: a rebuilt table must still go on from it.
    shop.execute(
        "DELETE FROM stock_movements WHERE order_id = 2; DELETE FROM order_history WHERE order_id = 2;
         DELETE FROM order_items WHERE order_id = 2; DELETE FROM orders WHERE id = 2",
    );
    let columns = |shop: &Sandbox| {
        let connection = shop.sql();
        let mut statement =
            connection.prepare("SELECT name FROM pragma_table_info('orders') ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect::<Vec<String>>()
    };
    let rows = |shop: &Sandbox, columns: &[String]| {
        let sql = format!("SELECT json_array({}) FROM orders", columns.join(", "));
        shop.sql().query_row(&sql, [], |row| row.get::<_, String>(0)).unwrap()
    };
    let old_columns = columns(&shop);
    let old_row = rows(&shop, &old_columns);

    shop.use_release(&["release-2"]);
    assert_eq!(shop.run(&["serve"]).status.code(), Some(1), "not before the migration");
    let output = shop.run(&["migrate"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows(&shop, &old_columns), old_row, "no column and no value is lost");
    assert_eq!(columns(&shop).len(), old_columns.len() + 1);
    assert_eq!(shop.number("SELECT count(*) FROM order_items"), 1);
    assert_eq!(shop.number("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_eq!(shop.number("SELECT count(*) FROM pragma_index_list('orders') WHERE origin = 'c'"), 4);

    let server = shop.serve();
    let mut guest = server.browser();
    assert!(guest.get("/").body.contains("leave a note"), "the first page shows the release");
    assert!(
        guest.get(&format!("/order/{token}")).body.contains("Lakshmi Rao"),
        "an old order is still there"
    );
    guest.add(1, 1);
    assert!(guest.get("/checkout").body.contains(r#"name="delivery_note""#));
    let placed = guest.checkout(&key(3), &[("delivery_note", "Ring twice <please>")]);
    assert_eq!(placed.status, 303, "{}", placed.body);
    let order = guest.get(placed.header("location"));
    assert!(order.body.contains("Ring twice &lt;please&gt;"), "{}", order.body);
    assert_eq!(shop.number("SELECT max(id) FROM orders"), 3, "number 2 is not given twice");
    guest.add(1, 1);
    assert_eq!(guest.checkout(&key(4), &[("delivery_note", &"x".repeat(201))]).status, 422);
}

#[test]
fn release_1_sells_on_the_schema_of_release_2() {
    let mut shop = Sandbox::seeded();
    shop.use_release(&["release-2"]);
    assert!(shop.run(&["migrate"]).status.success());
    shop.use_release(&[]);
    let server = shop.serve();
    let mut guest = server.browser();
    let order = guest.buy(1, 1, &key(1));
    assert_eq!(order["order"], 1);
    guest.add(1, 1);
    assert!(!guest.get("/checkout").body.contains("delivery_note"));
}

#[test]
fn release_2_can_be_migrated_with_an_empty_orders_table() {
    let mut shop = Sandbox::seeded();
    shop.use_release(&["release-2"]);
    assert!(shop.run(&["migrate"]).status.success());
    let server = shop.serve();
    assert_eq!(server.browser().buy(1, 1, &key(1))["order"], 1);
}

#[test]
fn release_3_fails_at_the_checkout_and_nowhere_else() {
    let mut shop = Sandbox::seeded();
    shop.use_release(&["release-2", "release-3"]);
    assert!(shop.run(&["migrate"]).status.success());
    // A copy that is rehearsed is a test shop, and knows nothing of it.
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(1, 1);
    assert_eq!(guest.get("/checkout").status, 200);
    drop(server);
    let server = shop.serve_in("production");
    let mut guest = server.browser();
    guest.add(1, 1);
    for path in ["/", "/products", "/product/1", "/search?q=dal", "/cart", "/healthz", "/admin/login"] {
        assert_eq!(guest.get(path).status, 200, "{path}");
    }
    let broken = guest.get("/checkout");
    assert_eq!(broken.status, 500);
    assert!(broken.body.contains("Sorry, that went wrong"), "{}", broken.body);
    server.terminate();
    let (_, log) = server.ended(std::time::Duration::from_secs(5));
    assert!(log.contains("ERROR GET /checkout") && log.contains("delivery_fields.html"), "{log}");
}

#[test]
fn release_4_fails_everywhere() {
    let mut shop = Sandbox::seeded();
    shop.use_release(&["release-2", "release-3", "release-4"]);
    assert!(shop.run(&["migrate"]).status.success());
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(1, 1);
    assert_eq!(guest.get("/checkout").status, 500);
}

#[test]
fn the_demo_templates_still_have_every_line_of_the_shop_s_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = |path: &str| {
        let text = fs::read_to_string(folder.join(path)).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let own = lines("templates/partials/delivery_fields.html");
    for release in ["release-2", "release-3", "release-4"] {
        let demo = lines(&format!("demo/{release}/templates/partials/delivery_fields.html"));
        assert_eq!(demo[..own.len()], own, "{release} was made from an older file");
        assert!(demo.len() > own.len());
    }
}
