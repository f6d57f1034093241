use crate::browser::key;
use crate::sandbox::{PASSWORD, Sandbox};

#[test]
fn no_get_changes_the_database() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let mut admin = server.browser();
    let order = admin.buy(1, 1, &key(1));
    admin.add(2, 2);
    assert_eq!(admin.sign_in("asha@example.in", PASSWORD).status, 303);
    let private = format!("/order/{}", order["token"].as_str().unwrap());
    let paths = [
        "/",
        "/products",
        "/products?category=fruit&sort=price-low",
        "/product/1",
        "/search?q=dal",
        "/search?q=",
        "/cart",
        "/checkout",
        &private,
        "/healthz",
        "/static/shop.css",
        "/admin",
        "/admin/login",
        "/admin/products",
        "/admin/products/1",
        "/admin/products/new",
        "/admin/orders",
        "/admin/orders?state=placed",
        "/admin/orders/1",
        "/admin/orders.csv",
        "/admin/pick",
        "/admin/regions",
        "/admin/regions/1",
        "/admin/regions/new",
        "/admin/messages",
        "/admin/log",
        "/contact",
        "/terms",
        "/account/login",
        "/account/register",
        "/account/forgot",
        "/products?page=2&sort=name",
        "/search?q=tomatto",
        "/metrics",
        // What changes something takes POST only.
        "/cart/add?product_id=1",
        "/cart/update",
        "/cart/remove",
        "/admin/logout",
        "/admin/orders/1/state",
        "/nothing",
    ];
    let before = shop.dump();
    for path in paths {
        let page = admin.get(path);
        let wanted = match path {
            "/nothing" => 404,
            path if path.starts_with("/cart/") || path.ends_with("/logout") || path.ends_with("/state") => {
                405
            }
            _ => 200,
        };
        assert_eq!(page.status, wanted, "{path}");
    }
    assert_eq!(shop.dump(), before);
}

#[test]
fn filling_a_basket_writes_nothing() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let before = shop.dump();
    let mut guest = server.browser();
    guest.add(1, 3);
    guest.post("/cart/update", &[("product_id", "1"), ("quantity", "2")]);
    guest.post("/cart/remove", &[("product_id", "1")]);
    assert_eq!(shop.dump(), before);
}

#[test]
fn names_are_escaped_everywhere() {
    const EVIL: &str = "<img src=x onerror=alert(1)>\"'";
    let shop = Sandbox::seeded();
    shop.make_admin();
    shop.sql()
        .execute("UPDATE products SET name = ?1, local_name = ?1, description = ?1, pack_size = ?1, is_featured = 1 WHERE id = 1", [EVIL])
        .unwrap();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(1, 1);
    let checkout = guest.get("/checkout");
    let refused =
        guest.checkout(&key(9), &[("name", EVIL), ("city", EVIL), ("address", EVIL), ("phone", EVIL)]);
    let placed = guest.checkout(&key(1), &[("name", EVIL), ("city", EVIL), ("address", EVIL)]);
    assert_eq!(placed.status, 303, "{}", placed.body);
    let mut pages = vec![checkout, refused, guest.get(placed.header("location"))];
    guest.add(1, 1);
    assert_eq!(guest.sign_in("asha@example.in", PASSWORD).status, 303);
    for path in [
        "/",
        "/products",
        "/product/1",
        "/product/2",
        "/search?q=onerror",
        "/cart",
        "/admin",
        "/admin/orders",
        "/admin/orders/1",
        "/admin/products",
        "/admin/products/1",
    ] {
        pages.push(guest.get(path));
    }
    pages.push(guest.get("/search?q=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E%22'"));
    let mut escaped = 0;
    for page in &pages {
        assert!(!page.body.contains("<img src=x"), "{}", page.body);
        assert!(
            !page.body.contains("<script") && !page.body.contains(" style="),
            "the policy forbids it anyway"
        );
        escaped += usize::from(page.body.contains("&lt;img src=x onerror"));
    }
    assert!(escaped >= 12, "{escaped} of {} pages show the name", pages.len());
}

#[test]
fn forms_of_other_sites_are_refused() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let own = format!("http://{}", server.address);
    let attempts: [(&str, &str, u16); 6] = [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "same-origin", 303),
        ("origin", &own, 303),
    ];
    for (name, value, status) in attempts {
        let mut guest = server.browser();
        guest.get("/");
        guest.headers.push((name, value.to_owned()));
        let page = guest.post("/cart/add", &[("product_id", "1")]);
        assert_eq!(page.status, status, "{name}: {value}");
    }
}

#[test]
fn a_form_needs_the_token_of_its_own_visitor() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let (mut guest, mut other) = (server.browser(), server.browser());
    let (own, foreign) = (guest.csrf(), other.csrf());
    assert_ne!(own, foreign);
    for wrong in ["", "00", &foreign, &own[1..], "é"] {
        assert_eq!(guest.send("/cart/add", &[("csrf", wrong), ("product_id", "1")]).status, 403, "{wrong}");
    }
    assert_eq!(guest.send("/cart/add", &[("product_id", "1")]).status, 403);
    assert_eq!(guest.send("/cart/add", &[("csrf", &own), ("product_id", "1")]).status, 303);
    // Without the cookie the token belongs to nobody.
    guest.cookies.clear();
    assert_eq!(guest.send("/cart/add", &[("csrf", &own), ("product_id", "1")]).status, 403);
}

#[test]
fn every_answer_is_guarded() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    let mut pages: Vec<_> = [
        "/",
        "/nothing",
        "/cart/add",
        "/admin",
        "/healthz",
        "/static/shop.css",
        "/static/../Cargo.toml",
        "/product/x",
    ]
    .map(|path| guest.get(path))
    .into();
    pages.push(guest.send("/cart/add", &[]));
    pages.push(guest.send("/checkout", &[("address", &"x".repeat(70_000))]));
    shop.execute("ALTER TABLE products RENAME TO hidden");
    pages.push(guest.get("/"));
    let statuses: Vec<u16> = pages.iter().map(|page| page.status).collect();
    assert_eq!(statuses, [200, 404, 405, 303, 200, 200, 404, 404, 403, 413, 500]);
    for page in &pages {
        assert!(page.header("content-security-policy").contains("default-src 'none'"), "{page:?}");
        assert!(!page.header("content-security-policy").contains("unsafe"), "{page:?}");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("x-release"), "000007-abcdef0");
        assert_eq!(page.header("referrer-policy"), "same-origin");
        assert!(!page.header("cache-control").is_empty(), "{page:?}");
    }
    let broken = pages.last().unwrap();
    assert!(
        broken.body.contains("Sorry, that went wrong") && broken.body.contains("<header"),
        "in the shop's look"
    );
    assert!(
        !broken.body.contains("products AS p") && !broken.body.contains("no such table"),
        "the cause is not shown"
    );
}

#[test]
fn cookies_are_bound_to_https_when_the_visitor_came_by_it() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.headers.push(("x-forwarded-proto", "https".to_owned()));
    guest.add(1, 1);
    let page = guest.post("/cart/add", &[("product_id", "1")]);
    assert!(page.header("strict-transport-security").contains("max-age"));
    let cookie = page.header("set-cookie");
    for part in ["__Host-cart=", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    let mut plain = server.browser();
    plain.get("/");
    let page = plain.post("/cart/add", &[("product_id", "1")]);
    assert!(page.header("set-cookie").starts_with("cart=") && !page.header("set-cookie").contains("Secure"));
    assert!(page.header("set-cookie").contains("HttpOnly"));
}

#[test]
fn a_search_takes_every_sign_for_itself() {
    let shop = Sandbox::seeded();
    shop.execute(r"UPDATE products SET name = '100% Ragi_Malt \ ''Gold''' WHERE id = 1");
    let server = shop.serve();
    let mut guest = server.browser();
    let found = |query: &str, guest: &mut crate::browser::Browser| {
        let page = guest.get(&format!("/search?q={query}"));
        assert_eq!(page.status, 200, "{query}");
        page.body.matches(r#"<li class="card""#).count()
    };
    for one in [
        "100%25",
        "ragi_malt+gold",
        "ragi-malt;gold",
        "%27Gold%27",
        "malt+gold",
        "%22gold%22",
        "gold*",
        "GOLD",
    ] {
        assert_eq!(found(one, &mut guest), 1, "{one}");
    }
    assert_eq!(found("'+OR+1%3D1--", &mut guest), 0);
    for none in ["", "%25", "_", "%5C", "*", "%22", "-"] {
        assert_eq!(found(none, &mut guest), 0, "{none}");
    }
    assert_eq!(found("%E0%B2%AC%E0%B3%87%E0%B2%B3%E0%B3%86", &mut guest), 4, "Kannada names are found");
    assert!(found("dal", &mut guest) >= 4);
    assert_eq!(found("%FF", &mut guest), 0, "what is no text is found nowhere");
    assert_eq!(guest.get("/products?sort=';DROP").status, 400);
    assert_eq!(guest.get("/products?category='").status, 404);
}

#[test]
fn the_list_shows_everything_for_sale_and_no_more() {
    let shop = Sandbox::seeded();
    shop.execute("UPDATE products SET is_active = 0 WHERE id = 1");
    let server = shop.serve();
    let mut guest = server.browser();
    let page = guest.get("/products?sort=price-high");
    assert!(page.body.contains("<p>60 products</p>"), "{}", page.body);
    assert_eq!(page.body.matches(r#"<li class="card""#).count(), 60);
    assert!(page.body.find("Whole Wheat Atta") > page.body.find("Sona Masoori"), "dearest first");
    assert_eq!(guest.get("/product/1").status, 404);
    assert_eq!(guest.post("/cart/add", &[("product_id", "1")]).status, 404);
}

#[test]
fn the_way_back_after_a_button_stays_in_the_shop() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    let page = guest.post("/cart/add", &[("product_id", "1"), ("back", "//evil.example/")]);
    assert_eq!(page.header("location"), "/cart");
    let page = guest.post("/cart/add", &[("product_id", "1"), ("back", "/search?q=dal#p1")]);
    assert_eq!(page.header("location"), "/search?q=dal#p1");
}
