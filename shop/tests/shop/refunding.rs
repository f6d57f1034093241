//! Money that goes back: once, all of it that is owed, and known to be back.

use std::time::Duration;

use razorpay_simulator::{ApiFault, Outcome, RefundCourse};

use crate::browser::Browser;
use crate::counter::{Counter, KEY_SECRET, WEBHOOK_SECRET, eventually, upi};
use crate::sandbox::{PASSWORD, Sandbox};

/// An order that is paid, and the grocer signed in.
fn paid() -> (Counter, Browser, String) {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let counter = Counter::open_at(shop, crate::counter::simulator(), &[]);
    let (token, order) = counter.order(1);
    counter.simulator.pay(&order, &upi(), Outcome::Success).unwrap();
    counter.wait_for(&token, "placed", "paid");
    let mut grocer = counter.browser();
    assert_eq!(grocer.sign_in("asha@example.in", PASSWORD).status, 303);
    (counter, grocer, token)
}

fn give_back(grocer: &mut Browser, amount: &str) -> String {
    let key = grocer.get("/admin/orders/1").field("key");
    send(grocer, amount, &key);
    key
}

fn send(grocer: &mut Browser, amount: &str, key: &str) -> u16 {
    let csrf = grocer.get("/admin/orders/1").field("csrf");
    let fields = [("csrf", csrf.as_str()), ("amount", amount), ("reason", "a soft tomato"), ("key", key)];
    grocer.send("/admin/orders/1/refund", &fields).status
}

fn wait_for_refund(counter: &Counter, status: &str) {
    eventually(&format!("the refund is {status}"), || {
        let sql = "SELECT group_concat(status) FROM refunds";
        let now: Option<String> = counter.shop.sql().query_row(sql, [], |row| row.get(0)).unwrap();
        if now.as_deref() == Some(status) { Ok(()) } else { Err(format!("{now:?}")) }
    });
}

#[test]
fn a_refund_that_is_asked_for_twice_is_made_once() {
    let (counter, mut grocer, token) = paid();
    let key = give_back(&mut grocer, "12");
    let again = send(&mut grocer, "12", &key);
    assert!(again == 303 || again == 409, "{again}");
    wait_for_refund(&counter, "processed");
    counter.wait_for(&token, "placed", "part-refunded");
    assert_eq!(counter.simulator.refunds().len(), 1);
    assert_eq!(counter.simulator.payments()[0]["amount_refunded"], 1200);
    for too_much in ["52.01", "0", "-1", "abc", "1e3", "NaN"] {
        let status = send(&mut grocer, too_much, &format!("refund-too-much-{}", too_much.len()));
        assert!((400..500).contains(&status), "{too_much}: {status}");
    }
    assert_eq!(counter.shop.number("SELECT count(*) FROM refunds"), 1);
}

/// Seen: one line in the log, and the order went on as paid; calling it off asked for all of the money again, in vain.
#[test]
fn a_refund_in_the_gateway_s_dashboard_went_unnoticed() {
    let (counter, mut grocer, token) = paid();
    let payment = counter.simulator.payments()[0].clone();
    counter.refund_at_the_gateway(payment["id"].as_str().unwrap(), r#"{"amount":1200}"#);
    counter.wait_for(&token, "placed", "part-refunded");
    assert_eq!(counter.shop.number("SELECT refunded_paise FROM orders"), 1200);
    let id = counter.shop.number("SELECT id FROM orders");
    let page = grocer.post(&format!("/admin/orders/{id}/state"), &[("state", "cancelled")]);
    assert_eq!(page.status, 303, "{}", page.body);
    counter.reconcile_now();
    counter.wait_for(&token, "cancelled", "refunded");
    eventually("the rest has gone back", || {
        let now = &counter.simulator.payments()[0]["amount_refunded"];
        if *now == payment["amount"] { Ok(()) } else { Err(now.to_string()) }
    });
    assert_eq!(counter.simulator.refunds().len(), 2);
    assert_eq!(counter.shop.number("SELECT count(*) FROM refunds WHERE status = 'failed'"), 0);
}

/// Seen: one answer of 401, as while keys are being changed, and the refund had failed for good.
#[test]
fn a_refund_was_given_up_when_the_keys_were_refused_once() {
    let (counter, mut grocer, token) = paid();
    counter.simulator.faults(|faults| faults.api = [ApiFault::Status(401)].into());
    give_back(&mut grocer, "64");
    eventually("it was asked for in vain once and then done", || {
        counter.reconcile_now();
        let sql = "SELECT attempts || ' ' || status FROM refunds";
        let now: String = counter.shop.sql().query_row(sql, [], |row| row.get(0)).unwrap();
        if now == "1 processed" { Ok(()) } else { Err(now) }
    });
    counter.wait_for(&token, "placed", "refunded");
    assert_eq!(counter.simulator.refunds().len(), 1);
}

#[test]
fn a_refund_without_an_answer_is_asked_for_again_under_the_same_key() {
    let (counter, mut grocer, token) = paid();
    counter.simulator.faults(|faults| {
        faults.refunds_in_progress = 1;
        faults.api = [ApiFault::Status(500)].into();
        // Nobody tells of it: the shop has to ask again by itself.
        faults.drop_webhooks = 100;
    });
    give_back(&mut grocer, "64");
    eventually("it was asked for in vain twice and then done", || {
        counter.reconcile_now();
        let sql = "SELECT attempts || ' ' || status FROM refunds";
        let now: String = counter.shop.sql().query_row(sql, [], |row| row.get(0)).unwrap();
        if now == "2 processed" { Ok(()) } else { Err(now) }
    });
    counter.wait_for(&token, "placed", "refunded");
    assert_eq!(counter.simulator.refunds().len(), 1);
    assert_eq!(counter.simulator.payments()[0]["status"], "refunded");
}

#[test]
fn a_refund_that_the_bank_does_not_take_is_owed_again() {
    let (counter, mut grocer, token) = paid();
    counter.simulator.faults(|faults| faults.refunds = RefundCourse::Pending);
    give_back(&mut grocer, "64");
    wait_for_refund(&counter, "pending");
    counter.wait_for(&token, "placed", "refunded");
    let id = counter.simulator.refunds()[0]["id"].as_str().unwrap().to_owned();
    counter.simulator.settle_refund(&id, false).unwrap();
    wait_for_refund(&counter, "failed");
    counter.wait_for(&token, "placed", "paid");
    assert_eq!(counter.shop.number("SELECT refunded_paise FROM orders"), 0);
    assert!(grocer.get("/admin/orders/1").body.contains("failed"), "the grocer sees it");
}

#[test]
fn the_end_of_a_refund_is_learnt_without_its_webhook() {
    let (counter, mut grocer, _) = paid();
    counter.simulator.faults(|faults| (faults.refunds, faults.drop_webhooks) = (RefundCourse::Pending, 100));
    give_back(&mut grocer, "64");
    wait_for_refund(&counter, "pending");
    let id = counter.simulator.refunds()[0]["id"].as_str().unwrap().to_owned();
    counter.simulator.settle_refund(&id, true).unwrap();
    counter.reconcile_now();
    wait_for_refund(&counter, "processed");
}

#[test]
fn what_was_paid_for_a_cancelled_order_goes_back_by_itself() {
    let (counter, _, token) = paid();
    let mut guest = counter.browser();
    assert_eq!(guest.post(&format!("/order/{token}/cancel"), &[]).status, 303);
    guest.post(&format!("/order/{token}/cancel"), &[]);
    wait_for_refund(&counter, "processed");
    counter.wait_for(&token, "cancelled", "refunded");
    assert_eq!(counter.simulator.refunds().len(), 1);
    assert_eq!(counter.simulator.payments()[0]["status"], "refunded");
}

#[test]
fn the_log_of_a_payment_holds_no_secret_and_no_customer() {
    let (counter, mut grocer, token) = paid();
    give_back(&mut grocer, "12");
    wait_for_refund(&counter, "processed");
    counter.come_back(&token, "order_x", "pay_x", "0123456789abcdef");
    counter.server.terminate();
    let (_, log) = counter.server.ended(Duration::from_secs(15));
    assert!(log.contains("order 1 is paid") && log.contains("refund 1 of order 1 is processed"), "{log}");
    for secret in [
        KEY_SECRET,
        WEBHOOK_SECRET,
        "a secret of the tests",
        "Basic ",
        PASSWORD,
        token.as_str(),
        "lakshmi@example.in",
        "asha@example.in",
        "9845012345",
        "Lakshmi",
        "Gandhi Bazaar",
        "0123456789abcdef",
    ] {
        assert!(!log.contains(secret), "{secret:?} is in the log: {log}");
    }
}
