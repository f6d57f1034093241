use crate::browser::key;
use crate::sandbox::{PASSWORD, Sandbox};

#[test]
fn a_customer_calls_an_order_off_until_it_is_packed() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let mut guest = server.browser();
    let mut place = |number: u32| guest.buy(1, 2, &key(number))["token"].as_str().unwrap().to_owned();
    let (first, second) = (place(1), place(2));
    assert!(guest.get(&format!("/order/{first}")).body.contains("Cancel this order"));
    let cancel = format!("/order/{first}/cancel");
    assert_eq!(guest.post(&cancel, &[]).status, 303);
    assert_eq!(guest.post(&cancel, &[]).status, 303, "twice is once");
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 1"), 78);
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    admin.post("/admin/orders/2/state", &[("state", "packed")]);
    assert_eq!(guest.post(&format!("/order/{second}/cancel"), &[]).status, 409);
    assert!(!guest.get(&format!("/order/{second}")).body.contains("Cancel this order"));
    // Each change of the stock is in the log and adds up.
    let sql =
        "SELECT count(*) FROM products AS p WHERE p.stock <> (SELECT m.stock_after FROM stock_movements AS m
               WHERE m.product_id = p.id ORDER BY m.id DESC LIMIT 1)";
    assert_eq!(shop.number(sql), 0);
    assert_eq!(
        shop.number("SELECT sum(change) FROM stock_movements WHERE product_id = 1 AND order_id IS NOT NULL"),
        -2
    );
    assert_eq!(shop.number("SELECT count(*) FROM order_history"), 4);
}

#[test]
fn money_goes_back_once_and_never_more_than_was_paid() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(1, 2);
    let placed = guest.checkout(&key(1), &[("email", "lakshmi@example.in")]);
    let link = placed.header("location").to_owned();
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    let mut refund = |amount: &str, key: &str| {
        let fields = [("amount", amount), ("reason", "one tomato was soft"), ("key", key)];
        admin.post("/admin/orders/1/refund", &fields).status
    };
    assert_eq!(refund("10", "refund-aaaaaaaaaa"), 409, "nothing is paid yet");
    assert_eq!(guest.post(&format!("{link}/refund"), &[("wish", "please, please")]).status, 409);
    for state in ["packed", "out", "delivered"] {
        let mut admin = server.browser();
        shop.execute("UPDATE second_factors SET last_step = 0");
        admin.sign_in("asha@example.in", PASSWORD);
        assert_eq!(admin.post("/admin/orders/1/state", &[("state", state)]).status, 303);
    }
    assert!(guest.get(&link).body.contains("ask for money back"));
    assert_eq!(guest.post(&format!("{link}/refund"), &[("wish", "one tomato was soft")]).status, 303);
    assert_eq!(guest.post(&format!("{link}/refund"), &[("wish", "and another one")]).status, 409, "one wish");
    let paid = shop.number("SELECT total_paise FROM orders");
    assert_eq!(paid, 8_800);
    for wrong in ["88.01", "0", "-1", "nan", ""] {
        assert!((400..500).contains(&refund(wrong, "refund-bbbbbbbbbb")), "{wrong}");
    }
    assert_eq!(refund("24", "refund-cccccccccc"), 303);
    assert_eq!(refund("24", "refund-cccccccccc"), 303, "the same form twice");
    assert_eq!(shop.number("SELECT count(*) FROM refunds"), 1);
    assert_eq!(
        shop.number("SELECT refunded_paise FROM orders WHERE payment_status = 'part-refunded'"),
        2_400
    );
    assert_eq!(refund("64.01", "refund-dddddddddd"), 409, "more than is left");
    assert_eq!(refund("64", "refund-eeeeeeeeee"), 303);
    assert_eq!(shop.number("SELECT count(*) FROM orders WHERE payment_status = 'refunded'"), 1);
    assert_eq!(refund("1", "refund-ffffffffff"), 409);
    let kinds: Vec<String> = shop
        .sql()
        .prepare("SELECT kind FROM outbox ORDER BY id")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(kinds, ["order-placed", "order-packed", "order-out", "order-delivered", "refund", "refund"]);
    assert!(shop.number("SELECT count(*) FROM audit_log WHERE act = 'refund'") == 2);
}

#[test]
fn a_region_decides_what_is_sold_and_on_which_terms() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    shop.execute(
        "UPDATE regions SET delivery_paise = 9000, free_from_paise = 100000, minimum_paise = 10000 WHERE name = 'Kodagu';
         UPDATE regions SET is_active = 0 WHERE name = 'Mandya';
         INSERT INTO product_regions SELECT 2, id FROM regions WHERE name = 'Bengaluru Urban';",
    );
    let mut guest = server.browser();
    assert_eq!(guest.post("/pincode", &[("pincode", "571401")]).status, 422, "Mandya is not served now");
    assert_eq!(guest.post("/pincode", &[("pincode", "110001")]).status, 422);
    assert_eq!(
        guest.post("/pincode", &[("pincode", "571234"), ("back", "/cart")]).header("location"),
        "/cart"
    );
    guest.add(1, 1);
    guest.add(2, 1);
    let cart = guest.get("/cart").body;
    assert!(cart.contains("We do not bring this to Kodagu") && cart.contains("₹90"), "{cart}");
    assert!(!cart.contains(r#"href="/checkout""#));
    assert_eq!(guest.checkout(&key(1), &[("pincode", "571234")]).status, 409, "not only hidden");
    guest.post("/cart/remove", &[("product_id", "2")]);
    let small = guest.checkout(&key(2), &[("pincode", "571234")]);
    assert_eq!(small.status, 422, "{}", small.body);
    assert!(small.body.contains("₹100 and more"));
    guest.post("/cart/update", &[("product_id", "1"), ("quantity", "5")]);
    assert_eq!(guest.checkout(&key(3), &[("pincode", "571401")]).status, 422, "Mandya is closed");
    assert_eq!(guest.checkout(&key(4), &[("pincode", "571234")]).status, 303);
    assert_eq!(shop.number("SELECT total_paise FROM orders"), 12_000 + 9_000);
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 1);
}

#[test]
fn the_last_place_of_a_delivery_time_is_given_once() {
    let shop = Sandbox::seeded();
    shop.execute("UPDATE delivery_slots SET capacity = 1, cutoff_minutes = 0");
    let server = shop.serve();
    let mut first = server.browser();
    first.add(1, 1);
    let form = first.get("/checkout").body;
    let slots = regex::Regex::new(r#"name="slot" value="([0-9-]+/[0-9]+)""#).unwrap();
    let all: Vec<String> = slots.captures_iter(&form).map(|found| found[1].to_owned()).collect();
    // Today's may have passed; tomorrow's and the next day's are there.
    assert!(all.len() >= 4, "{all:?}");
    let slot = all.last().unwrap();
    assert_eq!(first.checkout(&key(1), &[("slot", slot)]).status, 303);
    let mut second = server.browser();
    second.add(1, 1);
    assert!(!second.get("/checkout").body.contains(slot.as_str()));
    let refused = second.checkout(&key(2), &[("slot", slot)]);
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("booked out"), "{}", refused.body);
    for wrong in ["2020-01-01/1", "tomorrow", "/", "2026-03-01/x"] {
        let status = second.checkout(&key(3), &[("slot", wrong)]).status;
        assert!(status == 409 || status == 422, "{wrong}: {status}");
    }
    let order = first.checkout(&key(1), &[]).header("location").to_owned();
    first.post(&format!("{order}/cancel"), &[]);
    assert_eq!(second.checkout(&key(4), &[("slot", slot)]).status, 303, "a cancelled order frees its place");
}
