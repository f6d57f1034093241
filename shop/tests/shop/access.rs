//! Guest, member A, member B and admin on every route: who is let in, and that nobody else changes anything.

use std::collections::BTreeSet;
use std::path::Path;

use crate::browser::{Browser, key};
use crate::sandbox::{PASSWORD, Sandbox};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum May {
    Everybody,
    Members,
    Admins,
}

use May::{Admins, Everybody, Members};

/// Every route with who may use it. `{token}` is an order of member A, whose link he has given to nobody.
const ROUTES: [(&str, &str, May); 59] = [
    ("GET", "/", Everybody),
    ("GET", "/products", Everybody),
    ("GET", "/product/{id}", Everybody),
    ("GET", "/search", Everybody),
    ("POST", "/pincode", Everybody),
    ("POST", "/language", Everybody),
    ("GET", "/cart", Everybody),
    ("POST", "/cart/add", Everybody),
    ("POST", "/cart/update", Everybody),
    ("POST", "/cart/remove", Everybody),
    ("GET", "/checkout", Everybody),
    ("POST", "/checkout", Everybody),
    ("GET", "/order/{token}", Everybody),
    ("POST", "/order/{token}/cancel", Everybody),
    ("POST", "/order/{token}/refund", Everybody),
    ("POST", "/order/{token}/again", Everybody),
    ("GET", "/contact", Everybody),
    ("POST", "/contact", Everybody),
    ("GET", "/terms", Everybody),
    ("GET", "/robots.txt", Everybody),
    ("GET", "/favicon.ico", Everybody),
    ("GET", "/account", Members),
    ("GET", "/account/login", Everybody),
    ("POST", "/account/login", Everybody),
    ("POST", "/account/logout", Everybody),
    ("GET", "/account/register", Everybody),
    ("POST", "/account/register", Everybody),
    ("GET", "/account/forgot", Everybody),
    ("POST", "/account/forgot", Everybody),
    ("GET", "/account/link/{token}", Everybody),
    ("POST", "/account/link/{token}", Everybody),
    ("POST", "/account/addresses/{id}/forget", Members),
    ("GET", "/healthz", Everybody),
    ("GET", "/metrics", Everybody),
    ("GET", "/static/{*path}", Everybody),
    ("GET", "/image/{name}/{file}", Everybody),
    ("GET", "/admin/login", Everybody),
    ("POST", "/admin/login", Everybody),
    ("GET", "/admin", Admins),
    ("GET", "/admin/products", Admins),
    ("GET", "/admin/products/new", Admins),
    ("POST", "/admin/products/new", Admins),
    ("GET", "/admin/products/{id}", Admins),
    ("POST", "/admin/products/{id}", Admins),
    ("POST", "/admin/products/{id}/stock", Admins),
    ("POST", "/admin/products/{id}/images", Admins),
    ("POST", "/admin/products/{id}/images/{image}/remove", Admins),
    ("GET", "/admin/orders", Admins),
    ("GET", "/admin/orders.csv", Admins),
    ("GET", "/admin/orders/{id}", Admins),
    ("POST", "/admin/orders/{id}/state", Admins),
    ("POST", "/admin/orders/{id}/refund", Admins),
    ("GET", "/admin/pick", Admins),
    ("GET", "/admin/regions", Admins),
    ("GET", "/admin/regions/{id}", Admins),
    ("POST", "/admin/slots", Admins),
    ("GET", "/admin/messages", Admins),
    ("POST", "/admin/messages/{id}", Admins),
    ("GET", "/admin/log", Admins),
];

/// Those that take the same guard as a neighbour in the same file, or have a test there.
const NEIGHBOURS: [&str; 2] = ["/admin/regions/new", "/admin/logout"];

#[test]
fn every_route_of_the_source_is_in_the_matrix() {
    let known: BTreeSet<&str> = ROUTES.iter().map(|(_, path, _)| *path).chain(NEIGHBOURS).collect();
    let pattern = regex::Regex::new(r#"\.route\(\s*"([^"]+)""#).unwrap();
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web")];
    let mut found = 0;
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            for route in pattern.captures_iter(&std::fs::read_to_string(&path).unwrap()) {
                found += 1;
                let route = &route[1];
                // Paying has tests of its own.
                let paying = route.starts_with("/pay") || route.starts_with("/razorpay");
                assert!(
                    paying || known.contains(route),
                    "{route} in {} is not in the matrix",
                    path.display()
                );
            }
        }
    }
    assert!(found >= 45, "{found} routes were found");
}

#[test]
fn each_route_lets_in_who_may_and_nobody_else() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let (a, b) = (shop.make_member("anita@example.in"), shop.make_member("bala@example.in"));
    let server = shop.serve();
    let mut guest = server.browser();
    let (mut member_a, mut member_b, mut admin) = (server.browser(), server.browser(), server.browser());
    assert_eq!(member_a.sign_in_member("anita@example.in", &a).status, 303);
    assert_eq!(member_b.sign_in_member("bala@example.in", &b).status, 303);
    assert_eq!(admin.sign_in("asha@example.in", PASSWORD).status, 303);
    let order = member_a.buy(1, 1, &key(1));
    let token = order["token"].as_str().unwrap();

    for (method, route, may) in ROUTES {
        let path = route
            .replace("{token}", token)
            .replace("{*path}", "shop.css")
            .replace("{id}", "1")
            .replace("{image}", "1")
            .replace("{name}", "0")
            .replace("{file}", "320.jpg");
        let visitors =
            [("guest", &mut guest), ("A", &mut member_a), ("B", &mut member_b), ("admin", &mut admin)];
        for (who, browser) in visitors {
            let allowed = match may {
                Everybody => true,
                Members => who == "A" || who == "B",
                Admins => who == "admin",
            };
            let before = shop.dump();
            // Signing out in the middle would end the test of what comes after.
            if path.ends_with("/logout") || path.ends_with("/link/1") {
                continue;
            }
            let page = if method == "GET" { browser.get(&path) } else { post(browser, &path) };
            let name = format!("{method} {path} by {who}: {} {}", page.status, page.header("location"));
            assert!(page.status < 500, "{name}");
            let to_login = page.status == 303 && page.header("location").ends_with("/login");
            assert_eq!(!to_login && page.status != 403, allowed, "{name}");
            if !allowed {
                assert!(page.body.is_empty(), "{name} shows something");
                assert_eq!(shop.dump(), before, "{name} changed something");
            }
            if method == "GET" {
                assert_eq!(shop.dump(), before, "{name} changed something");
            }
        }
    }
}

fn post(browser: &mut Browser, path: &str) -> crate::browser::Page {
    // Fields of other forms are ignored; these make some of the forms complete.
    browser.post(path, &[("state", "nothing"), ("product_id", "1"), ("quantity", "1")])
}

#[test]
fn a_member_sees_the_own_orders_and_addresses_and_no_others() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let (a, b) = (shop.make_member("anita@example.in"), shop.make_member("bala@example.in"));
    let server = shop.serve();
    let (mut member_a, mut member_b, mut guest) = (server.browser(), server.browser(), server.browser());
    member_a.sign_in_member("anita@example.in", &a);
    member_b.sign_in_member("bala@example.in", &b);
    let order = member_a.buy(1, 1, &key(1));
    let token = order["token"].as_str().unwrap().to_owned();
    // A guest who types A's address gets no hold of A's orders, nor A of the guest's.
    guest.add(2, 1);
    let placed = guest.checkout(&key(2), &[("email", "anita@example.in"), ("name", "Somebody Else")]);
    assert_eq!(placed.status, 303);
    let account = member_a.get("/account");
    assert!(account.body.contains(&token) && account.body.contains("Gandhi Bazaar"), "{}", account.body);
    assert_eq!(account.body.matches("Order again").count(), 1, "only orders of the signed-in member");
    assert!(!member_b.get("/account").body.contains(&token));
    let address = shop.number("SELECT id FROM addresses");
    let forget = format!("/account/addresses/{address}/forget");
    assert_eq!(member_b.post(&forget, &[]).status, 404, "not B's address");
    assert_eq!(shop.number("SELECT count(*) FROM addresses"), 1);
    assert_eq!(member_a.post(&forget, &[]).status, 303);
    assert_eq!(shop.number("SELECT count(*) FROM addresses"), 0);
    for wrong in ["1", &"0".repeat(32), &token[1..], &token.to_uppercase()] {
        assert_eq!(guest.get(&format!("/order/{wrong}")).status, 404, "{wrong}");
        assert_eq!(guest.post(&format!("/order/{wrong}/cancel"), &[]).status, 404, "{wrong}");
    }
    // A member's session opens no door of the admin's, whatever the cookie is called.
    let session = member_a.cookies["member"].clone();
    guest.cookies.insert("admin".to_owned(), session);
    assert_eq!(guest.get("/admin").status, 303);
}
