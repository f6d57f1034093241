//! A browser buys, pays in every way that ends well or badly, and the grocer ships and gives money back.

use razorpay_simulator::ApiFault;

use crate::browser::totp_now;
use crate::chromium::{Chromium, on_a_desk, on_a_phone};
use crate::counter::{Counter, eventually, simulator};
use crate::sandbox::{PASSWORD, Sandbox};

/// The shop and the gateway as two sites, as they are in the world: cookies and policies of one are not the other's.
fn open() -> Counter {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let gateway = simulator();
    let script = format!("http://rzp.localhost:{}/v1/checkout.js", gateway.address().port());
    Counter::open_at(shop, gateway, &[("RAZORPAY_CHECKOUT_JS", &script)])
}

fn at(counter: &Counter, path: &str) -> String {
    format!("http://shop.localhost:{}{path}", counter.server.address.rsplit(':').next().unwrap())
}

/// From the shelf to the page that pays, with the checkout open.
fn go_to_pay(tab: &Chromium, counter: &Counter, name: &str) {
    tab.open(&at(counter, "/product/1"));
    tab.click("article form.add button");
    // Who leaves the page before the form is sent has nothing in the basket.
    tab.text(".basket .count");
    tab.open(&at(counter, "/checkout"));
    tab.fill("#name", name);
    tab.fill("#phone", "98450 12345");
    tab.fill("#email", "lakshmi@example.in");
    tab.fill("#address", "14, 3rd Cross, Gandhi Bazaar");
    tab.fill("#city", "Bengaluru");
    tab.fill("#pincode", "560004");
    tab.click("input[name=payment][value=online]");
    tab.picture("checkout");
    tab.click("main form button[type=submit]");
    tab.enter_frame();
}

fn token(counter: &Counter) -> String {
    let sql = "SELECT token FROM orders ORDER BY id DESC LIMIT 1";
    counter.shop.sql().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn assert_thanked(tab: &Chromium, counter: &Counter, name: &str) {
    tab.leave_frame();
    tab.wait_text("h1", &format!("Thank you, {name}"));
    assert_eq!(tab.path(), format!("/order/{}", token(counter)));
    counter.assert_paid_once(&token(counter));
}

fn assert_no_complaints(tab: &Chromium) {
    let complaints = tab.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn a_guest_fails_closes_tries_again_and_pays_on_a_phone() {
    let Some(tab) = on_a_phone("a_guest_fails_closes_tries_again_and_pays_on_a_phone") else { return };
    let counter = open();
    go_to_pay(&tab, &counter, "Lakshmi Rao");
    tab.wait_text("#amount", "₹");
    tab.picture("checkout-window");

    // The bank says no; the window offers another try and is closed.
    tab.fill("#vpa", "failure@razorpay");
    tab.click("#pay-upi");
    tab.wait_text("#error", "declined by the bank");
    tab.picture("declined");
    tab.click("#close");
    tab.leave_frame();
    tab.wait_text("#failed", "declined by the bank");
    tab.picture("pay-after-failure");

    // Opened once more, and closed with the keyboard.
    tab.click("#pay");
    tab.enter_frame();
    tab.text("#amount");
    tab.press("\u{e00c}");
    tab.leave_frame();
    tab.wait_text("#closed", "was not finished");
    tab.picture("pay-after-closing");
    assert_eq!(counter.state(&token(&counter)).0, "awaiting-payment");
    assert!(!tab.is_there("iframe"), "whoever comes back decides when it opens again");

    tab.click("#pay");
    tab.enter_frame();
    tab.fill("#vpa", "success@razorpay");
    tab.click("#pay-upi");
    assert_thanked(&tab, &counter, "Lakshmi Rao");
    tab.picture("order-paid");
    assert_no_complaints(&tab);
}

#[test]
fn a_payment_whose_webhook_is_late_is_waited_for_and_the_page_sees_it() {
    let Some(tab) = on_a_desk("a_payment_whose_webhook_is_late_is_waited_for_and_the_page_sees_it") else {
        return;
    };
    let counter = open();
    go_to_pay(&tab, &counter, "Ravi Gowda");
    tab.fill("#card", "4100 2800 0000 1007");
    tab.click("#pay-card");
    tab.text("#bank-success");
    tab.picture("test-bank");
    // The browser comes back, the gateway does not answer just then, and its webhook is held up.
    counter.simulator.faults(|faults| {
        faults.hold_webhooks = true;
        faults.api_reads = vec![ApiFault::Status(503); 4].into();
    });
    tab.click("#bank-success");
    tab.leave_frame();
    tab.wait_text("#waiting", "being confirmed");
    tab.picture("waiting");
    assert_eq!(counter.state(&token(&counter)).0, "awaiting-payment");
    counter.simulator.release_webhooks(true);
    assert_thanked(&tab, &counter, "Ravi Gowda");
    assert_no_complaints(&tab);
}

#[test]
fn a_silent_bank_that_comes_round_late_still_pays() {
    let Some(tab) = on_a_phone("a_silent_bank_that_comes_round_late_still_pays") else { return };
    let counter = open();
    go_to_pay(&tab, &counter, "Meera Nair");
    tab.click("#pay-bank");
    tab.click("#bank-silence");
    tab.click("#close");
    tab.leave_frame();
    tab.text("#closed");
    let payment = counter.simulator.payments()[0]["id"].as_str().unwrap().to_owned();
    counter.simulator.advance(11 * 60);
    counter.expire(&token(&counter));
    tab.reload();
    tab.text("#over");
    tab.picture("time-over");
    counter.simulator.authorise_late(&payment).unwrap();
    counter.wait_for(&token(&counter), "placed", "paid");
    tab.open(&at(&counter, &format!("/order/{}", token(&counter))));
    assert_thanked(&tab, &counter, "Meera Nair");
}

#[test]
fn a_member_buys_and_the_grocer_ships_and_gives_money_back() {
    let Some(tab) = on_a_desk("a_member_buys_and_the_grocer_ships_and_gives_money_back") else { return };
    let counter = open();
    tab.open(&at(&counter, "/account/register"));
    tab.fill("#name", "Kavya Shetty");
    tab.fill("main #email", "kavya@example.in");
    tab.click("main form button[type=submit]");
    tab.wait_text("[role=status]", "Look into your mail");
    let sql = "SELECT facts ->> 'token' FROM outbox WHERE recipient = 'kavya@example.in'";
    let link: String = counter.shop.sql().query_row(sql, [], |row| row.get(0)).unwrap();
    tab.open(&at(&counter, &format!("/account/link/{link}")));
    tab.fill("#password", "jackfruit in june");
    tab.click("main form button[type=submit]");
    tab.wait_text("[role=alert]", "Your password is set");
    tab.fill("main #email", "kavya@example.in");
    tab.fill("#password", "jackfruit in june");
    tab.click("main form button[type=submit]");
    tab.wait_text("h1", "Hello, Kavya Shetty");

    go_to_pay(&tab, &counter, "Kavya Shetty");
    tab.fill("#vpa", "success@razorpay");
    tab.click("#pay-upi");
    assert_thanked(&tab, &counter, "Kavya Shetty");
    tab.open(&at(&counter, "/account"));
    tab.wait_text("ul.orders", "Order 1");
    tab.picture("account");

    tab.open(&at(&counter, "/admin/login"));
    tab.fill("#email", "asha@example.in");
    tab.fill("#password", PASSWORD);
    tab.fill("#code", &totp_now());
    tab.click("main form button[type=submit]");
    eventually("the grocer is in", || match tab.path().as_str() {
        "/admin" => Ok(()),
        other => Err(other.to_owned()),
    });
    tab.picture("dashboard");
    for state in ["packed", "out"] {
        tab.open(&at(&counter, "/admin/orders/1"));
        tab.click(&format!("form:has(input[value={state}]) button"));
        tab.wait_text("h1 .state", state);
    }
    tab.picture("admin-order");
    // One tomato was soft: half of the money goes back.
    tab.click("summary");
    tab.fill("#amount", "12.00");
    tab.fill("#reason", "a soft tomato");
    tab.click("form[action$=refund] button");
    eventually("the gateway has sent it back", || match counter.simulator.refunds().as_slice() {
        [one] if one["amount"] == 1200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    counter.wait_for(&token(&counter), "out", "part-refunded");
    eventually("the shop knows that it is done", || {
        match counter.shop.number("SELECT count(*) FROM refunds WHERE status = 'processed'") {
            1 => Ok(()),
            none => Err(format!("{none} are processed")),
        }
    });
    tab.open(&at(&counter, &format!("/order/{}", token(&counter))));
    tab.wait_text(".bill", "a soft tomato");
    tab.picture("order-refunded");
    assert_no_complaints(&tab);
}
