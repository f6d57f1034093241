//! The security rows that are the shop's own, by their number. Rows 1, 3, 6, 9, 11, 12 and 13 are tests of
//! `guarding` and `buying`, row 21 is `access`; 7, 22 and 23 belong to paying.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::browser::{Browser, key};
use crate::sandbox::{PASSWORD, Sandbox};

/// 2: no data inside script text. There is none but the payment page's file.
#[test]
fn row_02_no_template_has_a_script_with_something_in_it() {
    let mut waiting = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates")];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for script in text.split("<script").skip(1) {
                let (_, rest) = script.split_once('>').unwrap();
                assert!(rest.starts_with("</script>"), "{}", path.display());
            }
            for forbidden in ["|safe", "autoescape", " style=", " onclick=", " onsubmit=", "javascript:"] {
                assert!(!text.contains(forbidden), "{forbidden} in {}", path.display());
            }
        }
    }
}

/// 4: what is typed makes no second recipient and no second header.
#[test]
fn row_04_no_mail_header_is_forged() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(1, 1);
    for evil in ["a@b.in\r\nBcc: c@d.in", "a@b.in,c@d.in", "\"x\" <a@b.in>", "a@b.in\n", "a b@c.in"] {
        let order = guest.checkout(&key(1), &[("email", evil)]);
        let trimmed = evil.trim_end() == "a@b.in";
        assert!(order.status == 422 || trimmed, "{evil:?}");
        let fields = [("name", "Asha"), ("email", evil), ("body", "Hello there")];
        assert!(guest.post("/contact", &fields).status == 422 || trimmed, "{evil:?}");
    }
    let name = [("name", "Asha\r\nBcc: c@d.in"), ("email", "a@b.in"), ("body", "Hello there")];
    assert_eq!(guest.post("/contact", &name).status, 422);
    assert_eq!(shop.number("SELECT count(*) FROM outbox WHERE recipient <> 'a@b.in'"), 0);
}

/// 5: numbers out of every range are refused, never an error of the shop's.
#[test]
fn row_05_impossible_numbers_are_refused_by_the_admin_s_forms_too() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    server.browser().buy(1, 1, &key(1));
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    let before = shop.number("SELECT count(*) FROM audit_log");
    let long = "9".repeat(40);
    for wrong in ["0", "-1", "99999999", "abc", "9223372036854775808", "nan", "1e9", "१०", &long] {
        let fields = [("pieces", wrong), ("reason", "delivery"), ("starts", "07:00"), ("ends", "08:00")];
        assert_eq!(admin.post("/admin/products/1/stock", &fields).status, 422, "{wrong}");
        let slot = [("capacity", wrong), ("cutoff_minutes", wrong), ("starts", "07:00"), ("ends", "08:00")];
        let page = admin.post("/admin/slots", &slot);
        assert!(page.status == 422 || wrong == "0", "{wrong}");
        let refund = [("amount", wrong), ("reason", "soft"), ("key", "refund-aaaaaaaaaa")];
        assert!((400..500).contains(&admin.post("/admin/orders/1/refund", &refund).status), "{wrong}");
        for path in ["/admin/orders", "/admin/products", "/products"] {
            let page = admin.get(&format!("{path}?page={}", wrong.replace('१', "x")));
            assert!(page.status == 404 || page.status == 200, "{path} {wrong}: {}", page.status);
        }
    }
    assert!(shop.number("SELECT count(*) FROM audit_log") <= before + 1);
    assert_eq!(admin.get("/admin/orders?day=2026-02-30").status, 404);
    assert_eq!(admin.get("/admin/pick?day=';--").status, 404);
}

/// 8: killed at any moment of a checkout, an order is there with all its lines or not at all.
#[test]
fn row_08_a_kill_in_the_middle_loses_no_stock_and_leaves_no_half_order() {
    let shop = Sandbox::seeded();
    let all =
        "SELECT (SELECT sum(stock) FROM products) + (SELECT coalesce(sum(quantity), 0) FROM order_items)";
    let before = shop.number(all);
    for round in 0..6u32 {
        let server = shop.serve();
        let mut guests: Vec<Browser> = (0..4).map(|_| server.browser()).collect();
        for guest in &mut guests {
            guest.add(1, 1);
            guest.add(2, 2);
        }
        let forms: Vec<(String, String)> = guests
            .iter_mut()
            .zip(0u32..)
            .map(|(guest, number)| {
                let form = format!(
                    "csrf={}&idempotency_key={}&name=Lakshmi&phone=9845012345&address=14+Gandhi+Bazaar&city=Bengaluru&pincode=560004",
                    guest.csrf(),
                    key(round * 10 + number)
                );
                let cookies: Vec<String> = guest.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
                (form, cookies.join("; "))
            })
            .collect();
        let mut streams = Vec::new();
        for (form, cookies) in forms {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            write!(
                stream,
                "POST /checkout HTTP/1.1\r\nhost: {}\r\ncookie: {cookies}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
                 content-length: {}\r\n\r\n{form}",
                server.address,
                form.len()
            )
            .unwrap();
            streams.push(stream);
        }
        std::thread::sleep(Duration::from_micros(u64::from(round) * 700));
        server.kill();
        for mut stream in streams {
            let mut answer = Vec::new();
            // Reset or answered: both are seen in the database below.
            let _ = stream.read_to_end(&mut answer);
        }
    }
    assert_eq!(shop.number(all), before, "no piece is lost or made");
    let torn =
        "SELECT count(*) FROM orders AS o WHERE 2 <> (SELECT count(*) FROM order_items WHERE order_id = o.id)
                OR 1 <> (SELECT count(*) FROM order_history WHERE order_id = o.id)
                OR 2 <> (SELECT count(*) FROM stock_movements WHERE order_id = o.id)";
    assert_eq!(shop.number(torn), 0);
}

/// 10: who does too much is slowed down, others are not.
#[test]
fn row_10_orders_messages_and_links_are_paced_by_client() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let from = |address: &str| {
        let mut browser = server.browser();
        browser.headers.push(("x-forwarded-for", address.to_owned()));
        browser
    };
    let (mut many, mut other) = (from("203.0.113.9"), from("198.51.100.7"));
    let csrf = many.csrf();
    let mut orders = Vec::new();
    let mut messages = Vec::new();
    for number in 0..100u32 {
        orders.push(many.send("/checkout", &[("csrf", &csrf), ("idempotency_key", &key(number))]).status);
        let fields =
            [("csrf", csrf.as_str()), ("name", "Asha"), ("email", "a@b.in"), ("body", "Hello there")];
        messages.push(many.send("/contact", &fields).status);
    }
    for statuses in [&orders, &messages] {
        assert!(statuses[0] != 429 && statuses[99] == 429, "{statuses:?}");
    }
    assert!(shop.number("SELECT count(*) FROM messages") <= 30);
    let statuses: Vec<u16> = (0..40)
        .map(|_| many.post("/account/forgot", &[("what", "forgot"), ("email", "a@b.in")]).status)
        .collect();
    assert!(statuses[0] == 200 && statuses[39] == 429, "{statuses:?}");
    other.add(1, 1);
    assert_eq!(other.checkout(&key(999), &[]).status, 303);
}

fn upload(browser: &mut Browser, product: i64, bytes: &[u8], file_name: &str) -> u16 {
    let csrf = browser.csrf();
    let mut body =
        format!("--gap\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\n{csrf}\r\n--gap\r\n")
            .into_bytes();
    body.extend_from_slice(
        format!("Content-Disposition: form-data; name=\"picture\"; filename=\"{file_name}\"\r\nContent-Type: image/png\r\n\r\n")
            .as_bytes(),
    );
    body.extend_from_slice(bytes);
    body.extend_from_slice(b"\r\n--gap--\r\n");
    browser
        .send_body(&format!("/admin/products/{product}/images"), "multipart/form-data; boundary=gap", &body)
        .status
}

/// 15: pictures are looked at before they are unpacked, and nothing of the sender's is kept but the dots.
#[test]
fn row_15_only_pictures_of_a_sane_size_are_taken() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    let png = |width: u32, height: u32| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::DynamicImage::new_luma8(width, height).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let huge = png(12_000, 12_000);
    assert!(huge.len() < 1_000_000, "a small file: {}", huge.len());
    assert_eq!(upload(&mut admin, 1, &huge, "huge.png"), 422);
    assert!(server.peak_memory() < 200 * 1024 * 1024, "{} bytes", server.peak_memory());
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>";
    assert_eq!(upload(&mut admin, 1, svg, "a.png"), 422);
    assert_eq!(upload(&mut admin, 1, b"GIF89a", "a.png"), 422);
    assert_eq!(upload(&mut admin, 1, b"", "a.png"), 422);
    assert_eq!(upload(&mut admin, 1, &vec![0; 9 * 1024 * 1024], "a.png"), 413);
    assert_eq!(shop.number("SELECT count(*) FROM product_images"), 0);
    let mut polyglot = png(640, 480);
    polyglot.extend_from_slice(b"<script>alert(1)</script>");
    assert_eq!(upload(&mut admin, 1, &polyglot, "../../etc/x.html"), 303);
    assert_eq!(upload(&mut admin, 999, &png(640, 480), "a.png"), 404);
    let name: String = shop.sql().query_row("SELECT name FROM product_images", [], |row| row.get(0)).unwrap();
    assert_eq!(name.len(), 32);
    let mut guest = server.browser();
    assert!(guest.get("/product/1").body.contains(&format!("/image/{name}/960.jpg")));
    let picture = guest.get_bytes(&format!("/image/{name}/320.jpg"));
    assert!(!picture.windows(7).any(|part| part == b"<script"));
    assert_eq!(image::load_from_memory(&picture).unwrap().width(), 320);
    for wrong in
        ["/image/x/320.jpg", &format!("/image/{name}/321.jpg"), &format!("/image/{name}/..%2f320.jpg")]
    {
        assert_eq!(guest.get(wrong).status, 404, "{wrong}");
    }
    for _ in 0..5 {
        assert_eq!(upload(&mut admin, 1, &png(400, 300), "a.png"), 303);
    }
    assert_eq!(upload(&mut admin, 1, &png(400, 300), "a.png"), 409, "six are enough");
}

/// 17: no secret is made up, and none that everybody knows is taken; and payments are never play money by accident.
#[test]
fn row_17_production_refuses_what_is_not_safe_and_prints_no_secret() {
    let shop = Sandbox::seeded();
    let start = |settings: &[(&str, &str)]| {
        let mut command = shop.command(&["serve"]);
        command.env("GREENGROCER_ENV", "production").envs(settings.iter().copied());
        let output = command.output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{settings:?}: {complaint}");
        for (_, value) in settings {
            assert!(value.len() < 20 || !complaint.contains(value), "{complaint}");
        }
        complaint
    };
    let sample = "change-this-secret-key-change-this-secret-key";
    assert!(start(&[("GREENGROCER_SECRET", sample)]).contains("example"));
    assert!(start(&[("GREENGROCER_SECRET", &"a".repeat(40))]).contains("example"));
    assert!(start(&[]).contains("no Razorpay keys"));
    let live = [
        ("RAZORPAY_KEY_ID", "rzp_live_0123456789abcd"),
        ("RAZORPAY_KEY_SECRET", "a key secret of the tests"),
        ("RAZORPAY_WEBHOOK_SECRET", "a webhook secret of the tests"),
    ];
    let with = |more: &[(&'static str, &'static str)]| start(&[&live[..], more].concat());
    assert!(with(&[("RAZORPAY_API_BASE", "http://127.0.0.1:9")]).contains("simulator"));
    assert!(with(&[("RAZORPAY_CHECKOUT_JS", "http://127.0.0.1:9/x.js")]).contains("simulator"));
    assert!(with(&[("RAZORPAY_KEY_ID", "rzp_test_0123456789abcd")]).contains("play"));
    assert!(with(&[("RAZORPAY_KEY_ID", "sk_0123456789abcd")]).contains("rzp_live_"));
    assert!(with(&[("RAZORPAY_WEBHOOK_SECRET", "")]).contains("RAZORPAY_WEBHOOK_SECRET"));
    assert!(with(&[("RAZORPAY_WEBHOOK_SECRET", "a key secret of the tests")]).contains("another secret"));
    // A live key is not told to a simulator in development either.
    let mut command = shop.command(&["serve"]);
    command.envs(live).env("RAZORPAY_API_BASE", "http://127.0.0.1:9");
    assert_eq!(command.output().unwrap().status.code(), Some(1));
}

/// 18: the password alone gives no admin page, and a code counts once.
#[test]
fn row_18_the_second_factor_is_asked_for() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let mut admin = server.browser();
    let login = |admin: &mut Browser, code: &str| {
        admin
            .post("/admin/login", &[("email", "asha@example.in"), ("password", PASSWORD), ("code", code)])
            .status
    };
    for wrong in ["", "000000", "abcdef", "12345678901234567890"] {
        assert_eq!(login(&mut admin, wrong), 401, "{wrong}");
        assert_eq!(admin.get("/admin").status, 303);
    }
    let now = jiff::Timestamp::now().as_second() / 30;
    let code = crate::browser::totp(now);
    assert_eq!(login(&mut admin, &code), 303);
    assert_eq!(login(&mut server.browser(), &code), 401, "a code counts once");
    assert_eq!(login(&mut server.browser(), &crate::browser::totp(now - 1)), 401, "nor an older one");
    // An admin of before, without a second factor, gets in only after `admin create`.
    shop.execute("DELETE FROM second_factors");
    assert_eq!(login(&mut server.browser(), &crate::browser::totp(now + 1)), 401);
}

/// 19: known and unknown addresses take about the same time.
#[test]
fn row_19_the_time_of_a_login_tells_nothing() {
    let shop = Sandbox::seeded();
    shop.make_member("anita@example.in");
    let server = shop.serve();
    let mut guest = server.browser();
    let csrf = guest.csrf();
    let mut time = |email: &str| {
        let mut times: Vec<Duration> = (0..3)
            .map(|_| {
                let start = Instant::now();
                let fields = [("csrf", csrf.as_str()), ("email", email), ("password", "wrong password 1")];
                assert_eq!(guest.send("/account/login", &fields).status, 401);
                start.elapsed()
            })
            .collect();
        times.sort();
        times[0]
    };
    let (known, unknown) = (time("anita@example.in"), time("nobody@example.in"));
    // An unknown one answered at once would be a hundred times faster.
    assert!(unknown * 5 > known && known * 5 > unknown, "{known:?} {unknown:?}");
}

/// 24: no page tells about the inside.
#[test]
fn row_24_there_are_no_debug_pages() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    for path in [
        "/admin/diagnose",
        "/debug",
        "/console",
        "/.env",
        "/store.db",
        "/static/../store.db",
        "/server-status",
    ] {
        let page = guest.get(path);
        assert_eq!(page.status, 404, "{path}");
    }
    guest.headers.push(("x-forwarded-for", "203.0.113.9".to_owned()));
    assert_eq!(guest.get("/metrics").status, 404, "not through a proxy");
}

/// 25: the log says what happened, and nothing that must stay private.
#[test]
fn row_25_the_log_holds_events_and_no_secrets() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let password = shop.make_member("anita@example.in");
    let mut command = shop.command(&["serve"]);
    command.env("GREENGROCER_LOG", "json");
    let server = crate::sandbox::Server::start(command);
    let mut guest = server.browser();
    guest.sign_in_member("anita@example.in", &password);
    let order = guest.buy(1, 1, &key(1));
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", "not the password at all");
    admin.sign_in("asha@example.in", PASSWORD);
    admin.post("/admin/orders/1/state", &[("state", "packed")]);
    shop.execute("ALTER TABLE products RENAME TO hidden");
    assert_eq!(guest.get("/?x=1").status, 500);
    assert_eq!(guest.get("/account").header("cache-control"), "no-store");
    let secrets = [
        PASSWORD.to_owned(),
        password,
        "not the password at all".to_owned(),
        "a secret of the tests".to_owned(),
        order["token"].as_str().unwrap().to_owned(),
        admin.cookies["admin"].clone(),
        guest.cookies["member"].clone(),
        "Gandhi Bazaar".to_owned(),
        "9845012345".to_owned(),
        "anita@example.in".to_owned(),
        "Lakshmi".to_owned(),
    ];
    server.terminate();
    let (_, log) = server.ended(Duration::from_secs(10));
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} in {log}");
    }
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |text: &str| events.iter().any(|event| event["message"].as_str().unwrap().contains(text));
    for event in ["order 1 placed", "admin login failed", "an admin signed in", "order 1 is packed", "GET /"]
    {
        assert!(said(event), "{event} is not in {log}");
    }
}

/// One address got as many mails as strangers liked, from as many places as they had.
#[test]
fn row_10_nobody_s_inbox_is_filled_by_strangers() {
    let shop = Sandbox::seeded();
    shop.make_member("anita@example.in");
    let server = shop.serve();
    let mut answers = Vec::new();
    for number in 0..9 {
        let mut stranger = server.browser();
        stranger.headers.push(("x-forwarded-for", format!("203.0.113.{number}")));
        let page = stranger.post("/account/forgot", &[("what", "forgot"), ("email", "anita@example.in")]);
        answers.push((page.status, page.body.contains("Look into your mail")));
    }
    assert!(answers.iter().all(|answer| *answer == (200, true)), "{answers:?}");
    assert_eq!(shop.number("SELECT count(*) FROM outbox WHERE kind = 'account-password'"), 5);
}

/// Seen: the limit was on links for accounts alone.
#[test]
fn row_10_an_inbox_was_filled_by_strangers_through_the_form_for_messages() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    for number in 0..9 {
        let mut stranger = server.browser();
        stranger.headers.push(("x-forwarded-for", format!("203.0.113.{number}")));
        let fields = [("name", "Asha"), ("email", "anita@example.in"), ("body", "Buy my watches")];
        let page = stranger.post("/contact", &fields);
        assert!(page.status == 200 && page.body.contains("T-"), "the ticket is on the page: {}", page.body);
    }
    assert_eq!(shop.number("SELECT count(*) FROM messages"), 9);
    assert_eq!(shop.number("SELECT count(*) FROM outbox WHERE kind = 'message'"), 5);
}
