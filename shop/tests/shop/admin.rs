use crate::browser::key;
use crate::sandbox::{PASSWORD, Sandbox, Server};

#[test]
fn pages_for_running_the_shop_need_a_login() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    server.browser().buy(1, 1, &key(1));
    let before = shop.dump();
    let mut stranger = server.browser();
    stranger.cookies.insert("admin".to_owned(), "0".repeat(64));
    for path in [
        "/admin",
        "/admin/products",
        "/admin/products/1",
        "/admin/products/new",
        "/admin/orders",
        "/admin/orders/1",
    ] {
        let page = stranger.get(path);
        assert_eq!((page.status, page.header("location")), (303, "/admin/login"), "{path}");
        assert!(page.body.is_empty(), "{path} shows nothing");
    }
    for path in ["/admin/products/new", "/admin/products/1", "/admin/orders/1/state", "/admin/logout"] {
        let page = stranger.post(path, &[("state", "packed"), ("name", "x")]);
        assert_eq!((page.status, page.header("location")), (303, "/admin/login"), "{path}");
    }
    assert_eq!(shop.dump(), before);
}

#[test]
fn a_session_ends_with_the_logout_and_not_only_in_the_browser() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let mut admin = server.browser();
    admin.get("/");
    let visitor = admin.cookies["visitor"].clone();
    assert_eq!(admin.sign_in("Asha@Example.in", PASSWORD).status, 303);
    assert_ne!(admin.cookies["visitor"], visitor, "a new id at login");
    assert!(admin.get("/admin").body.contains("asha@example.in"));
    let stored: String = shop.sql().query_row("SELECT id_hash FROM sessions", [], |row| row.get(0)).unwrap();
    assert_ne!(stored, admin.cookies["admin"], "the database holds no usable cookie");
    let mut copy = admin.clone();
    let csrf = admin.get("/admin").field("csrf");
    assert_eq!(admin.send("/admin/logout", &[("csrf", &csrf)]).status, 303);
    assert_eq!(copy.get("/admin").status, 303);
    assert_eq!(shop.number("SELECT count(*) FROM sessions"), 0);
}

#[test]
fn a_session_runs_out_and_a_new_password_ends_it() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let (mut first, mut second) = (server.browser(), server.browser());
    first.sign_in("asha@example.in", PASSWORD);
    assert_eq!(first.get("/admin").status, 200);
    shop.execute("UPDATE sessions SET expires_at = '2020-01-01T00:00:00Z'");
    assert_eq!(first.get("/admin").status, 303);
    second.sign_in("asha@example.in", PASSWORD);
    assert_eq!(second.get("/admin").status, 200);
    shop.make_admin();
    assert_eq!(second.get("/admin").status, 303);
}

#[test]
fn guessing_passwords_is_stopped_and_others_are_let_in() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let mut thief = server.browser();
    thief.headers.push(("x-forwarded-for", "203.0.113.9".to_owned()));
    let known = thief.sign_in("asha@example.in", "wrong password");
    let unknown = thief.sign_in("nobody@example.in", "wrong password");
    assert_eq!((known.status, unknown.status), (401, 401));
    let notice = "E-mail, password or code is wrong.";
    assert!(known.body.contains(notice) && unknown.body.contains(notice));
    for _ in 0..8 {
        assert_eq!(thief.sign_in("asha@example.in", "wrong password").status, 401);
    }
    assert_eq!(thief.sign_in("asha@example.in", PASSWORD).status, 429);
    let mut admin = server.browser();
    admin.headers.push(("x-forwarded-for", "198.51.100.7".to_owned()));
    assert_eq!(admin.sign_in("asha@example.in", PASSWORD).status, 303);
}

/// Hashing takes its time: guesses sent at once were all let through before the first had failed.
#[test]
fn guesses_that_come_all_at_once_are_counted_too() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    for (page, from) in [("/admin/login", "203.0.113.9"), ("/account/login", "203.0.113.10")] {
        let answers: Vec<u16> = std::thread::scope(|scope| {
            let guess = || {
                let mut thief = server.browser();
                thief.headers.push(("x-forwarded-for", from.to_owned()));
                thief.post(page, &[("email", "asha@example.in"), ("password", "wrong"), ("code", "1")]).status
            };
            let guesses: Vec<_> = (0..25).map(|_| scope.spawn(guess)).collect();
            guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
        });
        let judged = answers.iter().filter(|status| **status == 401).count();
        let refused = answers.iter().filter(|status| **status == 429).count();
        assert_eq!((judged, refused), (10, 15), "{page}: {answers:?}");
    }
}

#[test]
fn goods_are_added_and_changed() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    let details = [
        ("name", "Jackfruit"),
        ("local_name", "ಹಲಸು"),
        ("category_id", "2"),
        ("pack_size", "1 piece"),
        ("net_quantity", "1"),
        ("unit", "piece"),
        ("mrp", "250"),
        ("price", "219.50"),
        ("stock", "4"),
        ("stock_seen", "0"),
        ("is_active", "yes"),
    ];
    let page = admin.post("/admin/products/new", &details);
    assert_eq!(page.status, 303, "{}", page.body);
    assert!(admin.get("/search?q=jackfruit").body.contains("₹219.50"));
    assert_eq!(admin.post("/admin/products/new", &details).status, 409, "the same name and size again");

    for (field, value) in [
        ("price", "250.01"),
        ("price", "nan"),
        ("price", "-1"),
        ("stock", "-1"),
        ("stock", "9e9"),
        ("unit", "kg"),
        ("category_id", "99"),
        ("name", ""),
    ] {
        let wrong: Vec<_> = std::iter::once((field, value)).chain(details).collect();
        let page = admin.post("/admin/products/new", &wrong);
        assert_eq!(page.status, 422, "{field} {value}");
    }

    // A sale between opening the form and saving it is not undone by saving.
    let form = admin.get("/admin/products/62");
    assert_eq!(form.field("stock_seen"), "4");
    server.browser().buy(62, 1, &key(1));
    let more: Vec<_> =
        [("stock", "10"), ("stock_seen", "4"), ("price", "199")].into_iter().chain(details).collect();
    assert_eq!(admin.post("/admin/products/62", &more).status, 303);
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 62"), 9);
    assert_eq!(shop.number("SELECT price_paise FROM products WHERE id = 62"), 19_900);
    let less: Vec<_> = [("stock", "0"), ("stock_seen", "10")].into_iter().chain(details).collect();
    assert_eq!(admin.post("/admin/products/62", &less).status, 409);
    assert_eq!(admin.post("/admin/products/999", &less).status, 404);
    let gone: Vec<_> = details.into_iter().filter(|(name, _)| *name != "is_active").collect();
    assert_eq!(admin.post("/admin/products/62", &gone).status, 303);
    assert_eq!(admin.get("/product/62").status, 404);
}

#[test]
fn an_order_for_any_time_was_on_no_day_s_pick_list() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    server.browser().buy(1, 2, &key(1));
    assert_eq!(shop.number("SELECT count(*) FROM orders WHERE delivery_day IS NULL"), 1);
    let name: String =
        shop.sql().query_row("SELECT name FROM products WHERE id = 1", [], |row| row.get(0)).unwrap();
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    for path in ["/admin/pick", "/admin/pick?day=2030-01-07"] {
        let page = admin.get(path);
        assert!(page.body.contains(&name) && page.body.contains("/admin/orders/1"), "{path}: {}", page.body);
    }
    admin.post("/admin/orders/1/state", &[("state", "packed")]);
    assert!(!admin.get("/admin/pick?day=2030-01-07").body.contains(&name), "packed");
}

#[test]
fn an_order_goes_its_way_and_never_back() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    server.browser().buy(1, 2, &key(1));
    server.browser().buy(1, 3, &key(2));
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    let today = admin.get("/admin");
    assert!(
        today.body.contains("<dt>Orders</dt><dd>2</dd>") && today.body.contains("₹200"),
        "{}",
        today.body
    );

    let mut set =
        |id: i64, state: &str| admin.post(&format!("/admin/orders/{id}/state"), &[("state", state)]).status;
    assert_eq!(set(1, "delivered"), 409, "not before it is on its way");
    assert_eq!([set(1, "packed"), set(1, "out"), set(1, "delivered")], [303; 3]);
    assert_eq!(set(1, "cancelled"), 409);
    assert_eq!(set(1, "nonsense"), 422);
    assert_eq!(set(9, "packed"), 404);
    assert_eq!(shop.number("SELECT count(*) FROM orders WHERE id = 1 AND payment_status = 'paid'"), 1);
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 1"), 75);
    assert_eq!(set(2, "cancelled"), 303);
    assert_eq!(set(2, "cancelled"), 409, "the goods go back once");
    assert_eq!(shop.number("SELECT stock FROM products WHERE id = 1"), 78);
    assert!(admin.get("/admin").body.contains("<dt>Orders</dt><dd>1</dd>"));
    assert!(admin.get("/admin/orders?state=cancelled").body.contains("/admin/orders/2"));
}

#[test]
fn there_is_no_admin_that_nobody_made() {
    let shop = Sandbox::seeded();
    assert_eq!(shop.number("SELECT count(*) FROM users"), 0);
    let create = |password: &str| {
        let arguments = ["admin", "create", "--email", "asha@example.in"];
        shop.command(&arguments).env("GREENGROCER_ADMIN_PASSWORD", password).output().unwrap()
    };
    let refused = create("short");
    assert_eq!(refused.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&refused.stderr).contains("\"short\""));
    assert!(create(PASSWORD).status.success());
    let hash: String = shop.sql().query_row("SELECT password_hash FROM users", [], |row| row.get(0)).unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
}

#[test]
fn every_act_of_the_grocer_s_is_in_the_log_with_who_did_it() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    server.browser().buy(1, 2, &key(1));
    let mut guest = server.browser();
    guest.post("/contact", &[("name", "Anita"), ("email", "a@b.in"), ("body", "Where is my order?")]);
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    let form = |name: &'static str, price: &'static str| {
        [
            ("name", name),
            ("category_id", "2"),
            ("pack_size", "1 piece"),
            ("net_quantity", "1"),
            ("unit", "piece"),
            ("mrp", "250"),
            ("price", price),
            ("stock", "4"),
            ("stock_seen", "0"),
            ("is_active", "yes"),
        ]
    };
    let mut done = |path: &str, fields: &[(&str, &str)]| {
        let page = admin.post(path, fields);
        assert_eq!(page.status, 303, "{path}: {}", page.body);
    };
    done("/admin/products/new", &form("Jackfruit", "219.50"));
    let made = shop.number("SELECT max(id) FROM products");
    let mut changed = form("Jackfruit", "199.00").to_vec();
    changed.retain(|(name, _)| *name != "stock_seen");
    changed.push(("stock_seen", "4"));
    done(&format!("/admin/products/{made}"), &changed);
    done(&format!("/admin/products/{made}/stock"), &[("pieces", "3"), ("reason", "delivery"), ("note", "")]);
    done("/admin/messages/1", &[("answer", "On its way.")]);
    done("/admin/orders/1/state", &[("state", "packed")]);
    let log: Vec<(String, String)> = shop
        .sql()
        .prepare("SELECT email, act || ', ' || object FROM audit_log ORDER BY id")
        .and_then(|mut all| all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .unwrap();
    let objects =
        ["admin", &format!("product {made}"), &format!("product {made}"), &format!("product {made}")];
    let objects = [&objects[..], &["message 1", "order 1"]].concat();
    assert_eq!(log.len(), objects.len(), "{log:?}");
    let page = admin.get("/admin/log");
    for ((email, act), object) in log.iter().zip(objects) {
        assert!(email == "asha@example.in" && act.ends_with(object), "{act} is not of {object}");
        assert!(page.body.contains(act), "{act}: {}", page.body);
    }
}

#[test]
fn the_lists_that_a_grocer_works_from_say_what_they_are_for() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    shop.execute("UPDATE products SET stock = 50; UPDATE products SET stock = 4 WHERE id = 3;");
    let server = shop.serve();
    server.browser().buy(1, 2, &key(1));
    server.browser().buy(1, 1, &key(2));
    let (name, price): (String, i64) = shop
        .sql()
        .query_row("SELECT name, price_paise FROM products WHERE id = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let total = shop.number("SELECT total_paise FROM orders WHERE id = 1");
    assert!(total >= 2 * price);
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);

    let pick = admin.get("/admin/pick").body;
    let line = pick.split("<tr").find(|row| row.contains(&name)).unwrap_or_else(|| panic!("{pick}"));
    assert!(line.contains(">3<") && line.contains("1 × 2") && line.contains('2'), "{line}");

    let table = admin.get("/admin/orders.csv").body;
    let mut lines = table.lines();
    assert_eq!(
        lines.next().unwrap().trim_start_matches('\u{feff}'),
        "order,placed,state,payment,paid,total,refunded,delivery day,slot,name,phone,email,address,city,pincode,region,pieces"
    );
    let first = lines.find(|line| line.starts_with("1,")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(total % 100, 0, "whole rupees");
    assert!(
        first.contains(&format!(",pending,{},0,", total / 100)) && first.contains(",Lakshmi Rao,"),
        "{first}"
    );
    assert!(first.ends_with(",2"), "{first}");

    let today = admin.get("/admin").body;
    let low = today.split("Running out").nth(1).unwrap();
    assert!(low.contains("/admin/products/3\"") && low.contains("4 left"), "{low}");
    assert!(!low.contains("/admin/products/2\""), "50 are many");
}

#[test]
fn whose_shop_it_is_stands_where_the_law_wants_it() {
    let shop = Sandbox::seeded();
    let mut command = shop.command(&["serve"]);
    let said = [
        ("SHOP_LEGAL_NAME", "Rao Provisions LLP"),
        ("SHOP_ADDRESS", "14, Gandhi Bazaar, Bengaluru 560004"),
        ("SHOP_PHONE", "+91 80 2222 3333"),
        ("SHOP_EMAIL", "care@rao.example"),
        ("SHOP_FSSAI", "11223344556677"),
        ("SHOP_GSTIN", "29ABCDE1234F1Z5"),
        ("SHOP_GRIEVANCE_OFFICER", "Meera Rao"),
    ];
    let server = Server::start({
        command.envs(said);
        command
    });
    let mut guest = server.browser();
    let terms = guest.get("/terms").body;
    for (name, value) in said {
        assert!(terms.contains(value), "{name} is not in the terms");
    }
    for path in ["/", "/product/1", "/cart"] {
        let page = guest.get(path).body;
        assert!(page.contains("Rao Provisions LLP") && page.contains("11223344556677"), "{path}");
    }
    let product = guest.get("/product/1").body;
    assert!(product.contains("+91 80 2222 3333") && product.contains("care@rao.example"), "whom to ask");
}
