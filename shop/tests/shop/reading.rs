//! Every page as those use it who do not see it or have no mouse, and on a narrow phone.

use serde_json::Value;

use crate::browser::key;
use crate::browser::totp_now;
use crate::chromium::{Chromium, on_a_phone};
use crate::counter::{Counter, ONLINE};
use crate::sandbox::PASSWORD;

/// What is wrong with the page, in words; asked of the browser's own tree and not of the text.
const LOOK: &str = include_str!("look.js");

fn look(tab: &Chromium, path: &str, found: &mut Vec<String>) {
    let wrong = tab.run(LOOK);
    for line in wrong.as_array().into_iter().flatten().filter_map(Value::as_str) {
        found.push(format!("{path}: {line}"));
    }
}

#[test]
fn every_page_is_read_aloud_in_order_and_fits_a_phone() {
    let Some(tab) = on_a_phone("every_page_is_read_aloud_in_order_and_fits_a_phone") else { return };
    let counter = Counter::open();
    counter.shop.make_admin();
    let mut guest = counter.browser();
    let order = guest.buy(1, 2, &key(1))["token"].as_str().unwrap().to_owned();
    guest.add(2, 1);
    let waiting = guest.checkout(&key(2), &ONLINE).header("location").to_owned();
    let address = |path: &str| format!("http://{}{path}", counter.server.address);
    let mut found = Vec::new();
    let order = format!("/order/{order}");
    let closed = format!("{waiting}?after=closed");
    let sent = format!("{waiting}?after=sent");
    // With something in the basket the header is at its fullest.
    tab.open(&address("/product/1"));
    tab.click("article form.add button");
    tab.text(".basket .count");
    let paths = [
        "/",
        "/products",
        "/product/1",
        "/search?q=rice",
        "/search?q=zzzz",
        "/cart",
        "/checkout",
        "/account/login",
        "/account/register",
        "/account/forgot",
        "/contact",
        "/terms",
        "/admin/login",
        "/nothing",
        &order,
        &closed,
        &sent,
    ];
    for path in paths {
        tab.open(&address(path));
        look(&tab, path, &mut found);
    }
    tab.open(&address("/admin/login"));
    tab.fill("#email", "asha@example.in");
    tab.fill("#password", PASSWORD);
    tab.fill("#code", &totp_now());
    tab.click("main form button[type=submit]");
    tab.wait_text("h1", "Today");
    for path in [
        "/admin",
        "/admin/orders",
        "/admin/orders/1",
        "/admin/pick",
        "/admin/products",
        "/admin/products/1",
        "/admin/products/new",
        "/admin/regions",
        "/admin/regions/1",
        "/admin/slots",
        "/admin/products/1/stock",
        "/admin/messages",
        "/admin/log",
    ] {
        tab.open(&address(path));
        look(&tab, path, &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn one_buys_with_the_keyboard_alone() {
    const TAB: &str = "\u{e004}";
    const ENTER: &str = "\u{e007}";
    const SPACE: &str = "\u{e00d}";
    let Some(tab) = on_a_phone("one_buys_with_the_keyboard_alone") else { return };
    let counter = Counter::open();
    let address = |path: &str| format!("http://{}{path}", counter.server.address);
    /// Goes on with the tabulator until the focus is on this.
    fn go(tab: &Chromium, css: &str) {
        for _ in 0..120 {
            tab.press(TAB);
            let script = format!("return document.activeElement.matches({css:?})");
            if tab.run(&script) == Value::Bool(true) {
                return;
            }
        }
        panic!("the tabulator does not lead to {css}");
    }
    tab.open(&address("/product/1"));
    go(&tab, "a.skip");
    let shown = "return document.activeElement.getBoundingClientRect().left >= 0";
    assert_eq!(tab.run(shown), Value::Bool(true), "the way past the header shows itself");
    tab.press(ENTER);
    go(&tab, "article form.add button");
    let outlined = "return getComputedStyle(document.activeElement).outlineStyle !== 'none'";
    assert_eq!(tab.run(outlined), Value::Bool(true), "one sees where one is");
    tab.press(ENTER);
    tab.text("a[href='/cart'] .count");
    tab.open(&address("/checkout"));
    for (css, text) in [
        ("#name", "Lakshmi Rao"),
        ("#phone", "9845012345"),
        ("#email", "lakshmi@example.in"),
        ("#address", "14, Gandhi Bazaar"),
        ("#city", "Bengaluru"),
        ("#pincode", "560004"),
    ] {
        go(&tab, css);
        tab.press(text);
    }
    go(&tab, "input[name=payment]");
    tab.press(SPACE);
    go(&tab, "main form.two button[type=submit]");
    tab.press(ENTER);
    tab.enter_frame();
    tab.text("#amount");
    assert_eq!(counter.shop.number("SELECT count(*) FROM orders WHERE state = 'awaiting-payment'"), 1);
}
