//! Money that comes: once, late, twice, forged, or not at all.

use std::time::{Duration, Instant};

use razorpay_simulator::{ApiFault, Outcome, signature};
use serde_json::{Value, json};

use crate::browser::key;
use crate::counter::{Counter, KEY_SECRET, ONLINE, TOMATO, WEBHOOK_SECRET, eventually, upi};
use crate::sandbox::Sandbox;

#[test]
fn whoever_pays_is_brought_back_to_a_placed_order() {
    let counter = Counter::open();
    counter.simulator.faults(|faults| faults.hold_webhooks = true);
    let stock = counter.shop.number("SELECT stock FROM products WHERE id = 1");
    let (token, order) = counter.order(1);
    assert_eq!(counter.state(&token), ("awaiting-payment".to_owned(), "pending".to_owned()));
    assert_eq!(
        counter.shop.number("SELECT stock FROM products WHERE id = 1"),
        stock - 1,
        "held while one pays"
    );
    let remote = &counter.simulator.orders()[0];
    assert_eq!(remote["amount"], counter.shop.number("SELECT total_paise FROM orders"));

    let paid = counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    let back =
        counter.come_back(&token, &order, &paid.razorpay_payment_id, &paid.razorpay_signature.unwrap());
    assert_eq!(
        (back.status, back.header("location")),
        (303, format!("/order/{token}").as_str()),
        "{}",
        back.body
    );
    counter.assert_paid_once(&token);

    counter.simulator.release_webhooks(false);
    eventually("all webhooks are taken", || match counter.simulator.undelivered() {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    });
    counter.assert_paid_once(&token);
    let pay = counter.browser().get(&format!("/pay/{token}"));
    assert_eq!((pay.status, pay.header("location")), (303, format!("/order/{token}").as_str()));
}

#[test]
fn forged_proofs_of_payment_have_no_effect() {
    let counter = Counter::open();
    counter.simulator.faults(|faults| faults.drop_webhooks = 100);
    let (token, order) = counter.order(1);
    // Somebody pays one order and brings its proof, which is genuine, for another.
    let (cheap, cheap_order) = counter.order(2);
    let paid = counter.simulator.pay(&cheap_order, &upi(), Outcome::Success).unwrap();
    let (payment, genuine) = (paid.razorpay_payment_id, paid.razorpay_signature.unwrap());
    let flipped = genuine.replacen(&genuine[..1], if genuine.starts_with('0') { "1" } else { "0" }, 1);
    let with_webhook_secret = signature::of_payment(&order, &payment, WEBHOOK_SECRET);
    let before = counter.shop.dump();
    for (order_id, payment_id, signature) in [
        (order.as_str(), payment.as_str(), ""),
        (&order, &payment, "ünïcode"),
        (&order, &payment, "0000"),
        (&order, &payment, &genuine),
        (&cheap_order, &payment, &genuine),
        (&order, &payment, &flipped),
        (&order, &payment, &with_webhook_secret),
        (&order, "", &genuine),
        ("", "", ""),
    ] {
        let back = counter.come_back(&token, order_id, payment_id, signature);
        assert_eq!(back.status, 400, "{order_id} {payment_id} {signature}");
    }
    assert_eq!(counter.shop.dump(), before, "nothing was written");
    assert_eq!(counter.state(&token).0, "awaiting-payment");

    // Signed with the right key and still untrue: the payment is another order's. The gateway itself is asked.
    let stolen_key = signature::of_payment(&order, &payment, KEY_SECRET);
    assert_eq!(counter.come_back(&token, &order, &payment, &stolen_key).status, 400);
    let invented = signature::of_payment(&order, "pay_00000000000000", KEY_SECRET);
    let back = counter.come_back(&token, &order, "pay_00000000000000", &invented);
    assert_eq!(back.header("location"), format!("/pay/{token}?after=sent"));
    assert_eq!(counter.state(&token).0, "awaiting-payment");

    assert_eq!(counter.come_back(&cheap, &cheap_order, &payment, &genuine).status, 303);
    counter.assert_paid_once(&cheap);
}

#[test]
fn a_proof_and_its_webhooks_brought_many_times_in_any_order_have_one_effect() {
    let counter = Counter::open();
    counter.simulator.faults(|faults| (faults.hold_webhooks, faults.duplicate_webhooks) = (true, 2));
    let (token, order) = counter.order(1);
    counter.simulator.pay(&order, &upi(), Outcome::Failure).unwrap();
    let paid = counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    // `order.paid` comes first and `payment.failed` of the first attempt last, each of them three times.
    counter.simulator.release_webhooks(true);
    let proof = paid.razorpay_signature.unwrap();
    for _ in 0..3 {
        let back = counter.come_back(&token, &order, &paid.razorpay_payment_id, &proof);
        assert_eq!(back.header("location"), format!("/order/{token}"));
    }
    eventually("all webhooks are taken", || match counter.simulator.undelivered() {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    });
    counter.assert_paid_once(&token);
    assert_eq!(counter.simulator.deliveries().len(), 12);
    assert!(counter.simulator.deliveries().iter().all(|one| one.status == Some(204)));
    assert_eq!(counter.shop.number("SELECT count(*) FROM webhook_events"), 4);
    let kept: (String, String) = counter
        .shop
        .sql()
        .query_row("SELECT status, payment_id FROM payments", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(kept, ("captured".to_owned(), paid.razorpay_payment_id), "the late failure lowered nothing");
}

#[test]
fn a_browser_that_never_comes_back_is_made_good_by_the_webhook() {
    let counter = Counter::open();
    let (token, order) = counter.order(1);
    counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    counter.wait_for(&token, "placed", "paid");
    counter.assert_paid_once(&token);
}

#[test]
fn lost_callbacks_and_lost_webhooks_are_made_good_by_the_reconciler() {
    let counter = Counter::open();
    counter.simulator.faults(|faults| faults.drop_webhooks = 100);
    let (token, order) = counter.order(1);
    counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    counter.reconcile_now();
    counter.wait_for(&token, "placed", "paid");
    counter.assert_paid_once(&token);
    assert_eq!(counter.shop.number("SELECT count(*) FROM payments WHERE next_check_at IS NOT NULL"), 0);
}

/// Seen: what had been refunded at the gateway still counted as paid, and the goods would have gone out for nothing.
#[test]
fn an_order_whose_money_had_gone_back_was_placed_as_paid() {
    let counter = Counter::open();
    counter.simulator.faults(|faults| faults.drop_webhooks = 100);
    let (token, order) = counter.order(1);
    let paid = counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    counter.refund_at_the_gateway(&paid.razorpay_payment_id, "{}");
    assert_eq!(counter.simulator.payments()[0]["status"], "refunded");
    counter.reconcile_now();
    eventually("the reconciler has looked", || {
        match counter.shop.number("SELECT count(*) FROM payments WHERE status = 'attempted'") {
            1 => Ok(()),
            _ => Err(format!("{:?}", counter.state(&token))),
        }
    });
    assert_eq!(counter.state(&token), ("awaiting-payment".to_owned(), "pending".to_owned()));
    counter.expire(&token);
}

fn captured(order: &str, payment: &str, amount: i64, currency: &str) -> Value {
    json!({ "entity": "event", "event": "payment.captured", "contains": ["payment"], "payload": { "payment": {
        "entity": { "id": payment, "entity": "payment", "amount": amount, "currency": currency,
            "status": "captured", "captured": true, "order_id": order, "error_code": "", "notes": [] } } } })
}

#[test]
fn webhooks_that_are_not_the_gateways_own_are_refused() {
    let counter = Counter::open_with(&[("RAZORPAY_WEBHOOK_SECRET_OLD", "the secret before this one")]);
    let (token, order) = counter.order(1);
    let total = counter.shop.number("SELECT total_paise FROM orders");
    let body = captured(&order, "pay_AAAAAAAAAAAAAA", total, "INR");
    let sign = |secret| signature::of_webhook(body.to_string().as_bytes(), secret);
    let before = counter.shop.dump();
    for wrong in
        ["", "ünïcode", "00", &sign("wrong"), &sign(KEY_SECRET), &sign(WEBHOOK_SECRET).to_uppercase()[..62]]
    {
        assert_eq!(counter.tell("evt_1", &body, wrong), 400, "{wrong}");
    }
    let other = captured(&order, "pay_AAAAAAAAAAAAAA", total + 1, "INR");
    assert_eq!(counter.tell("evt_1", &other, &sign(WEBHOOK_SECRET)), 400, "signed, and then changed");
    assert_eq!(
        counter.tell("", &body, &sign(WEBHOOK_SECRET)),
        400,
        "no event id: it could be told any number of times"
    );
    assert_eq!(counter.shop.dump(), before);

    // While the secret is changed, what was signed with the old one still counts.
    assert_eq!(counter.tell("evt_1", &body, &sign("the secret before this one")), 204);
    counter.assert_paid_once(&token);
    assert_eq!(counter.tell("evt_2", &body, &sign(WEBHOOK_SECRET)), 204, "the same payment as another event");
    counter.assert_paid_once(&token);
}

#[test]
fn another_amount_currency_or_order_pays_nothing() {
    let counter = Counter::open();
    let (token, order) = counter.order(1);
    let total = counter.shop.number("SELECT total_paise FROM orders");
    for (number, body) in [
        captured(&order, "pay_AAAAAAAAAAAAA1", 1, "INR"),
        captured(&order, "pay_AAAAAAAAAAAAA2", total - 1, "INR"),
        captured(&order, "pay_AAAAAAAAAAAAA3", total, "USD"),
        captured("order_of_another_shop", "pay_AAAAAAAAAAAAA4", total, "INR"),
        json!({ "event": "payment.captured", "payload": {} }),
        json!({ "event": "settlement.processed", "payload": { "settlement": {} } }),
    ]
    .iter()
    .enumerate()
    {
        let signature = signature::of_webhook(body.to_string().as_bytes(), WEBHOOK_SECRET);
        // Taken all the same: telling it again would not make it true.
        assert_eq!(counter.tell(&format!("evt_{number}"), body, &signature), 204);
        assert_eq!(counter.state(&token), ("awaiting-payment".to_owned(), "pending".to_owned()), "{body}");
    }
    let outcomes: Vec<String> = {
        let sql = counter.shop.sql();
        let mut statement = sql.prepare("SELECT outcome FROM webhook_events ORDER BY event_id").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let wrong = "wrong amount";
    assert_eq!(outcomes, [wrong, wrong, wrong, "unknown order", "not understood", "of no concern"]);
    counter.server.terminate();
    let (_, log) = counter.server.ended(Duration::from_secs(10));
    assert_eq!(log.matches("ALERT").count(), 4, "{log}");
}

#[test]
fn a_bank_that_comes_round_after_the_goods_went_back_gets_them_again() {
    let counter = Counter::open();
    let stock = counter.shop.number("SELECT stock FROM products WHERE id = 1");
    let (token, order) = counter.order(1);
    let silent = counter.simulator.pay(&order, &upi(), Outcome::Silence).unwrap();
    counter.simulator.advance(11 * 60);
    counter.expire(&token);
    assert_eq!(counter.shop.number("SELECT stock FROM products WHERE id = 1"), stock, "back on the shelf");
    let page = counter.browser().get(&format!("/pay/{token}"));
    assert!(
        page.body.contains("The time to pay is over") && !page.body.contains("data-order"),
        "{}",
        page.body
    );

    counter.simulator.authorise_late(&silent.razorpay_payment_id).unwrap();
    counter.wait_for(&token, "placed", "paid");
    counter.assert_paid_once(&token);
    assert_eq!(counter.shop.number("SELECT stock FROM products WHERE id = 1"), stock - 1);
}

#[test]
fn a_late_payment_of_what_is_sold_out_goes_back_once() {
    let counter = Counter::open();
    let (token, order) = counter.order(1);
    let silent = counter.simulator.pay(&order, &upi(), Outcome::Silence).unwrap();
    counter.expire(&token);
    counter.shop.execute("UPDATE products SET stock = 0 WHERE id = 1");
    // The answer to the refund is lost: it is asked for again, under the same key.
    counter.simulator.faults(|faults| {
        faults.duplicate_webhooks = 1;
        faults.api = [ApiFault::LoseAnswer].into();
    });
    counter.simulator.authorise_late(&silent.razorpay_payment_id).unwrap();
    counter.wait_for(&token, "cancelled", "refunded");
    eventually("the refund was asked for", || match counter.simulator.refunds().len() {
        1 => Ok(()),
        many => Err(format!("{many} refunds")),
    });
    eventually("the refund is known to be done", || {
        counter.reconcile_now();
        match counter.shop.number("SELECT count(*) FROM refunds WHERE status = 'processed'") {
            1 => Ok(()),
            none => Err(format!("{none} are processed")),
        }
    });
    assert_eq!(counter.simulator.refunds().len(), 1, "once");
    let total = counter.shop.number("SELECT total_paise FROM orders");
    assert_eq!(counter.simulator.refunds()[0]["amount"], total);
    assert_eq!(counter.shop.number("SELECT stock FROM products WHERE id = 1"), 0, "never below nothing");
}

#[test]
fn what_is_only_authorised_is_captured_for_an_order_that_waits() {
    let counter = Counter::open();
    let (token, order) = counter.order(1);
    let silent = counter.simulator.pay(&order, &upi(), Outcome::Silence).unwrap();
    counter.simulator.advance(4 * 24 * 60 * 60);
    counter.simulator.authorise_late(&silent.razorpay_payment_id).unwrap();
    eventually("the bank's yes is heard", || match counter.simulator.undelivered() {
        0 => Ok(()),
        left => Err(format!("{left} webhooks are left")),
    });
    assert_eq!(counter.simulator.payments()[0]["status"], "authorized", "too late to be captured by itself");
    assert_eq!(counter.state(&token).0, "awaiting-payment");
    counter.reconcile_now();
    counter.wait_for(&token, "placed", "paid");
    assert_eq!(counter.simulator.payments()[0]["status"], "captured");
}

#[test]
fn money_for_a_cancelled_order_is_not_kept() {
    let counter = Counter::open();
    let (token, order) = counter.order(1);
    counter.shop.execute(
        "UPDATE orders SET state = 'cancelled'; UPDATE stock_holds SET status = 'released';
         UPDATE products SET stock = stock + 1 WHERE id = 1",
    );
    counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    counter.wait_for(&token, "cancelled", "refunded");
    eventually("the money is back", || match counter.simulator.payments()[0]["status"].as_str() {
        Some("refunded") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn an_order_whose_answer_was_lost_is_found_and_not_made_twice() {
    let counter = Counter::open();
    counter.simulator.faults(|faults| faults.api = [ApiFault::LoseAnswer].into());
    let (token, order) = counter.order(1);
    assert_eq!(counter.simulator.orders().len(), 1);
    assert_eq!(counter.simulator.orders()[0]["id"], order);
    let receipt = counter.simulator.orders()[0]["receipt"].as_str().unwrap().to_owned();
    assert!(receipt.len() <= 40 && receipt.starts_with("gg-"), "{receipt}");
    counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    counter.wait_for(&token, "placed", "paid");
}

#[test]
fn a_gateway_that_hangs_slows_nobody_else_and_the_order_can_be_paid_later() {
    let counter = Counter::open();
    counter.simulator.faults(|faults| {
        faults.api = [ApiFault::Hang].into();
        faults.api_reads = [ApiFault::Hang].into();
    });
    let token = std::thread::scope(|scope| {
        let buying = scope.spawn(|| counter.place(&mut counter.browser(), 1, 1));
        eventually("the order is committed before the gateway is called", || {
            match counter.shop.number("SELECT count(*) FROM orders") {
                1 => Ok(()),
                none => Err(format!("{none} orders")),
            }
        });
        assert!(!buying.is_finished(), "the customer waits for the gateway");
        let begun = Instant::now();
        let mut other = counter.browser();
        assert_eq!(other.get("/").status, 200);
        other.buy(2, 1, &key(2));
        assert!(begun.elapsed() < Duration::from_secs(4), "another customer bought in {:?}", begun.elapsed());
        assert!(!buying.is_finished(), "all this happened while the first still waited");
        buying.join().unwrap()
    });
    assert_eq!(counter.razorpay_order(&token), None);
    let mut guest = counter.browser();
    let page = guest.get(&format!("/pay/{token}"));
    assert!(page.body.contains(r#"id="unopened""#) && !page.body.contains("data-order"), "{}", page.body);
    let again = guest.post(&format!("/pay/{token}"), &[]);
    assert_eq!(again.status, 303);
    let order = counter.razorpay_order(&token).unwrap();
    assert!(guest.get(&format!("/pay/{token}")).body.contains(&format!(r#"data-order="{order}""#)));
    assert_eq!(counter.simulator.orders().len(), 1);
}

#[test]
fn an_order_survives_a_power_cut_while_the_gateway_is_asked() {
    let counter = Counter::open();
    counter.simulator.faults(|faults| faults.api = [ApiFault::LoseAnswer].into());
    counter.simulator.faults(|faults| faults.api_reads = vec![ApiFault::Hang; 3].into());
    let counter = std::thread::scope(|scope| {
        let mut guest = counter.browser();
        let address = counter.server.address.clone();
        scope.spawn(move || {
            guest.add(TOMATO, 1);
            // The connection breaks with the shop.
            let _ =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| guest.checkout(&key(1), &ONLINE)));
            drop(address);
        });
        eventually("the gateway has made the order", || match counter.simulator.orders().len() {
            1 => Ok(()),
            none => Err(format!("{none} orders")),
        });
        counter.restart()
    });
    counter.simulator.faults(|faults| faults.api_reads.clear());
    counter.reconcile_now();
    let token: String =
        counter.shop.sql().query_row("SELECT token FROM orders", [], |row| row.get(0)).unwrap();
    let order = eventually("the gateway's order is found again", || {
        counter.razorpay_order(&token).ok_or_else(|| "not known".to_owned())
    });
    assert_eq!(counter.shop.number("SELECT count(*) FROM order_items"), 1, "no order without its lines");
    counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    counter.wait_for(&token, "placed", "paid");
    assert_eq!(counter.simulator.orders().len(), 1);
}

#[test]
fn a_gateway_that_hangs_when_one_comes_back_only_delays_the_good_news() {
    let counter = Counter::open();
    counter
        .simulator
        .faults(|faults| (faults.drop_webhooks, faults.api_reads) = (100, [ApiFault::Hang].into()));
    let (token, order) = counter.order(1);
    let paid = counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    let back =
        counter.come_back(&token, &order, &paid.razorpay_payment_id, &paid.razorpay_signature.unwrap());
    assert_eq!(back.header("location"), format!("/pay/{token}?after=sent"));
    counter.wait_for(&token, "placed", "paid");
    counter.assert_paid_once(&token);
}

#[test]
fn only_the_page_that_opens_the_checkout_allows_its_script() {
    let counter = Counter::open();
    let (token, order) = counter.order(1);
    let before = counter.shop.dump();
    let mut guest = counter.browser();
    let page = guest.get(&format!("/pay/{token}"));
    assert_eq!(page.status, 200);
    assert!(page.body.contains(&format!(r#"data-order="{order}""#)), "{}", page.body);
    let base = format!("http://{}", counter.simulator.address());
    let policy = page.header("content-security-policy");
    assert!(policy.contains(&format!("script-src 'self' {base};")), "{policy}");
    assert!(policy.contains(&format!("frame-src {base};")) && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("cache-control"), "no-store");
    for path in ["/", "/cart", "/checkout", "/admin/login", "/nothing", &format!("/order/{token}")] {
        let page = guest.get(path);
        let policy = page.header("content-security-policy");
        assert!(!policy.contains("script-src") && !policy.contains("frame-src"), "{path}: {policy}");
        assert!(!page.body.contains("<script"), "{path} needs no script");
    }
    for after in ["closed", "failed", "sent", "nonsense", "%22%3E%3Cscript%3E"] {
        let page = guest.get(&format!("/pay/{token}?after={after}"));
        assert_eq!(page.status, 200);
        assert!(!page.body.contains("\"><script>"));
    }
    assert_eq!(counter.shop.dump(), before, "looking writes nothing");
}

#[test]
fn what_customers_type_stays_data_on_the_page_that_pays() {
    const EVIL: &str = r#"\', email: '</script><img src=x onerror=alert(1)>"#;
    let counter = Counter::open();
    let mut guest = counter.browser();
    guest.add(TOMATO, 1);
    let placed = guest.checkout(&key(1), &[("name", EVIL), ONLINE[0], ONLINE[1]]);
    assert_eq!(placed.status, 303, "{}", placed.body);
    let page = guest.get(placed.header("location"));
    assert!(page.body.contains("data-name"), "{}", page.body);
    assert!(!page.body.contains("<img src=x") && !page.body.contains("</script><img"), "{}", page.body);
    // Every script is a file: nothing of the shop's or the customer's is text inside one.
    assert_eq!(page.body.matches("<script").count(), page.body.matches("<script src=").count());
}

#[test]
fn nobody_pays_at_an_address_that_is_not_an_order_to_be_paid() {
    let counter = Counter::open();
    let mut guest = counter.browser();
    let at_the_door = guest.buy(TOMATO, 1, &key(1))["token"].as_str().unwrap().to_owned();
    for path in [format!("/pay/{at_the_door}"), "/pay/1".to_owned(), format!("/pay/{}", "0".repeat(32))] {
        assert_eq!(guest.get(&path).status, 404, "{path}");
        assert_eq!(guest.post(&path, &[]).status, 404, "{path}");
    }
    assert_eq!(counter.come_back(&at_the_door, "order_x", "pay_x", "00").status, 404);
    // Without a token of one of the shop's pages nobody has the gateway asked.
    let (token, _) = counter.order(2);
    assert_eq!(guest.send(&format!("/pay/{token}"), &[]).status, 403);
    assert!(counter.simulator.orders().len() == 1);
}

#[test]
fn without_keys_all_is_paid_at_the_door() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(TOMATO, 1);
    assert!(!guest.get("/checkout").body.contains(r#"value="online""#));
    assert_eq!(guest.checkout(&key(1), &ONLINE).status, 422);
    assert_eq!(shop.number("SELECT count(*) FROM orders"), 0);
    assert_eq!(guest.checkout(&key(1), &[]).status, 303);
    assert_eq!(guest.send("/razorpay/webhook", &[]).status, 404);
    assert_eq!(guest.get("/healthz").json()["payment_mode"], "on-delivery");
}

#[test]
fn the_shop_does_not_open_with_payments_that_are_not_real() {
    let shop = Sandbox::seeded();
    let live: &[(&str, &str)] = &[
        ("GREENGROCER_ENV", "production"),
        ("RAZORPAY_KEY_ID", "rzp_live_00000000000000"),
        ("RAZORPAY_KEY_SECRET", "a live key's secret"),
        ("RAZORPAY_WEBHOOK_SECRET", "a webhook's secret"),
    ];
    let cases: [(&str, &[(&str, &str)]); 7] = [
        ("there are no Razorpay keys", &[("RAZORPAY_KEY_ID", "")]),
        ("is a test key", &[("RAZORPAY_KEY_ID", "rzp_test_00000000000000")]),
        ("neither rzp_live_ nor rzp_test_", &[("RAZORPAY_KEY_ID", "key")]),
        ("name a simulator", &[("RAZORPAY_API_BASE", "http://127.0.0.1:8790")]),
        (
            "name a simulator",
            &[("RAZORPAY_CHECKOUT_JS", "http://127.0.0.1:8790/v1/checkout.js"), ("GREENGROCER_ENV", "")],
        ),
        ("RAZORPAY_WEBHOOK_SECRET is not", &[("RAZORPAY_WEBHOOK_SECRET", "")]),
        ("must be another secret", &[("RAZORPAY_WEBHOOK_SECRET", "a live key's secret")]),
    ];
    for (why, change) in cases {
        let output = shop
            .command(&["serve"])
            .envs(live.iter().copied())
            .envs(change.iter().copied())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{change:?}: {said}");
        assert!(!said.contains("secret of") && !said.contains("a live key's"), "a secret is told: {said}");
    }
}
