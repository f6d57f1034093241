use std::sync::Barrier;

use crate::browser::key;
use crate::sandbox::Sandbox;

const TOMATO: i64 = 1;
const ONION: i64 = 2;

#[test]
fn a_guest_buys_and_sees_the_order() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(TOMATO, 2);
    guest.add(ONION, 1);
    let cart = guest.get("/cart");
    assert!(cart.body.contains("3 items"), "{}", cart.body);

    let form = guest.get("/checkout");
    assert_eq!(form.status, 200);
    assert!(form.body.contains("Place the order, ₹127"), "{}", form.body);
    let seen = form.field("seen_total_paise");
    let placed = guest.checkout(&form.field("idempotency_key"), &[("seen_total_paise", &seen)]);
    assert_eq!(placed.status, 303, "{}", placed.body);
    let address = placed.header("location").to_owned();
    let order = guest.get(&address);
    assert_eq!(order.status, 200);
    assert!(order.body.contains(r#"<strong id="order-number">1</strong>"#), "{}", order.body);
    assert!(order.body.contains("2 × Tomato, Hybrid") && order.body.contains("Bengaluru Urban"));
    assert_eq!(order.header("cache-control"), "no-store");
    assert!(guest.get("/cart").body.contains("It is empty"));

    // 2 × ₹24 and ₹39, ₹40 for bringing it.
    assert_eq!(shop.number("SELECT total_paise FROM orders"), 12_700);
    assert_eq!(shop.number("SELECT sum(quantity * unit_price_paise) FROM order_items"), 8_700);
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 1"), 78);
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 2"), 119);
    assert_eq!(
        shop.sql().query_row("SELECT phone FROM orders", [], |row| row.get::<_, String>(0)).unwrap(),
        "9845012345"
    );

    let token = address.rsplit('/').next().unwrap();
    assert!(token.len() == 32, "128 random bits in {address}");
    assert_eq!(guest.get("/order/1").status, 404, "an order's number is no key to it");
}

#[test]
fn delivery_is_free_from_499_rupees() {
    let shop = Sandbox::seeded();
    shop.execute("UPDATE products SET price_paise = 49900, mrp_paise = 49900 WHERE id = 1");
    let server = shop.serve();
    assert_eq!(server.browser().buy(TOMATO, 1, &key(1))["total_paise"], 49_900);
    shop.execute("UPDATE products SET price_paise = 49899 WHERE id = 1");
    assert_eq!(server.browser().buy(TOMATO, 1, &key(2))["total_paise"], 53_899);
}

#[test]
fn the_same_form_twice_is_one_order() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(TOMATO, 2);
    let before = guest.clone();
    let first = guest.checkout(&key(1), &[]);
    assert_eq!(first.status, 303);
    // Once with the basket that the first answer emptied, once as if that answer had never arrived.
    for mut again in [guest, before] {
        let second = again.checkout(&key(1), &[]);
        assert_eq!((second.status, second.header("location")), (303, first.header("location")));
        again.headers.push(("accept", "application/json".to_owned()));
        let third = again.checkout(&key(1), &[]);
        assert_eq!((third.status, third.json()["order"].as_i64()), (200, Some(1)));
    }
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 1);
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 1"), 78);
}

#[test]
fn the_same_form_eight_times_at_once_is_one_order() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(TOMATO, 1);
    let start = Barrier::new(8);
    let locations: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (mut guest, start) = (guest.clone(), &start);
                scope.spawn(move || {
                    start.wait();
                    guest.checkout(&key(1), &[]).header("location").to_owned()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(
        locations[0].starts_with("/order/") && locations.iter().all(|one| *one == locations[0]),
        "{locations:?}"
    );
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 1);
}

#[test]
fn an_old_form_with_a_new_basket_is_not_a_repetition() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.buy(TOMATO, 1, &key(1));
    guest.add(ONION, 3);
    let refused = guest.checkout(&key(1), &[]);
    assert_eq!(refused.status, 409, "{}", refused.body);
    let fresh = refused.field("idempotency_key");
    assert_ne!(fresh, key(1));
    assert!(guest.get("/cart").body.contains("3 items"), "the new basket is kept");
    assert_eq!(guest.checkout(&fresh, &[]).status, 303);
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 2);
}

#[test]
fn one_of_fifty_buyers_gets_the_last_piece() {
    let shop = Sandbox::seeded();
    shop.execute("UPDATE products SET stock = 1 WHERE id = 1");
    let server = shop.serve();
    let start = Barrier::new(50);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|number| {
                let (mut guest, start) = (server.browser(), &start);
                scope.spawn(move || {
                    guest.add(TOMATO, 1);
                    start.wait();
                    guest.checkout(&key(number), &[]).status
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|one| **one == status).count();
    assert_eq!((count(303), count(409)), (1, 49), "{statuses:?}");
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 1);
    assert_eq!(shop.number("SELECT count(*) FROM order_items"), 1);
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 1"), 0);
}

#[test]
fn what_is_short_keeps_the_rest_of_the_order_from_being_taken() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(TOMATO, 5);
    guest.add(ONION, 5);
    shop.execute("UPDATE products SET stock = 3 WHERE id = 2");
    let refused = guest.checkout(&key(1), &[]);
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("only 3 left"), "{}", refused.body);
    let cart = guest.get("/cart");
    assert!(cart.body.contains("Only 3 left: please take less."), "{}", cart.body);
    assert!(!cart.body.contains(r#"href="/checkout""#), "no way on with what cannot be delivered");
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 1"), 80);
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 0);
}

#[test]
fn prices_in_the_form_are_ignored() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    let forged = [("product_id", "1"), ("price", "1"), ("price_paise", "1"), ("unit_price_paise", "1")];
    assert_eq!(guest.post("/cart/add", &forged).status, 303);
    let forged = [
        ("total", "1"),
        ("total_paise", "1"),
        ("price", "1"),
        ("delivery_paise", "0"),
        ("subtotal_paise", "1"),
    ];
    assert_eq!(guest.checkout(&key(1), &forged).status, 303);
    assert_eq!(shop.number("SELECT total_paise FROM orders"), 6_400);
}

#[test]
fn a_changed_price_is_shown_before_it_is_charged() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(TOMATO, 1);
    let seen = guest.get("/checkout").field("seen_total_paise");
    shop.execute("UPDATE products SET price_paise = 2900 WHERE id = 1");
    let refused = guest.checkout(&key(1), &[("seen_total_paise", &seen)]);
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("₹69") && refused.body.contains("Prices have changed"), "{}", refused.body);
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 1"), 80);
    let seen = refused.field("seen_total_paise");
    assert_eq!(guest.checkout(&key(1), &[("seen_total_paise", &seen)]).status, 303);
}

#[test]
fn impossible_quantities_are_refused() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    for path in ["/cart/add", "/cart/update"] {
        for quantity in
            ["0", "-1", "21", "99999", "abc", "1.5", "9223372036854775807", "9223372036854775808", "１"]
        {
            let page = guest.post(path, &[("product_id", "1"), ("quantity", quantity)]);
            assert!((400..500).contains(&page.status), "{path} {quantity}: {}", page.status);
        }
        for product in ["0", "-1", "abc", "", "9223372036854775807", "9223372036854775808"] {
            let page = guest.post(path, &[("product_id", product), ("quantity", "1")]);
            assert!((400..500).contains(&page.status), "{path} product {product}: {}", page.status);
        }
    }
    let sold_out = shop.number("SELECT id FROM products WHERE stock = 0");
    assert_eq!(guest.post("/cart/add", &[("product_id", &sold_out.to_string())]).status, 409);
    assert!(guest.get("/cart").body.contains("It is empty"));
}

#[test]
fn wrong_addresses_are_refused_field_by_field() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(TOMATO, 1);
    let wrong = [
        ("name", "x"),
        ("name", "Asha\r\nBcc: all@example.in"),
        ("phone", "12345"),
        ("email", "a@b.in\nBcc: c@d.in"),
        ("address", "here"),
        ("city", ""),
        ("pincode", "5600"),
        ("pincode", "' OR 1=1--"),
        ("idempotency_key", "short"),
    ];
    for (field, value) in wrong {
        let page = guest.checkout(&key(1), &[(field, value)]);
        assert_eq!(page.status, 422, "{field} {value:?}");
    }
    let far = guest.checkout(&key(1), &[("pincode", "110001"), ("name", "Farida Khan")]);
    assert_eq!(far.status, 422);
    assert!(far.body.contains("We do not deliver to 110001 yet."));
    assert!(far.body.contains(r#"value="Farida Khan""#), "what was typed is kept");
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 0);
    assert_eq!(guest.checkout(&key(1), &[]).status, 303);
    assert_eq!(guest.checkout(&key(2), &[]).status, 409, "nothing is left in the basket");
}

#[test]
fn the_longest_prefix_decides_the_region() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    for (number, (pincode, region)) in
        (1u32..).zip([("571234", "Kodagu"), ("571401", "Mandya"), ("571301", "Mysuru")])
    {
        let mut guest = server.browser();
        guest.add(TOMATO, 1);
        assert_eq!(guest.checkout(&key(number), &[("pincode", pincode)]).status, 303);
        let found: String = shop
            .sql()
            .query_row(
                "SELECT r.name FROM orders AS o JOIN regions AS r ON r.id = o.region_id WHERE o.pincode = ?1",
                [pincode],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(found, region);
    }
}
