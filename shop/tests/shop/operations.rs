use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use crate::browser::key;
use crate::sandbox::{PASSWORD, Sandbox, Server};

/// A mail server that takes everything and hands over what it took: the commands and the text of each mail.
pub(crate) fn mail_server() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut say = move |text: &str| stream.write_all(format!("{text}\r\n").as_bytes());
            let (mut mail, mut line, mut in_text) = (String::new(), String::new(), false);
            let _ = say("220 mail.example.in");
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                mail.push_str(&line);
                let answer = if in_text {
                    if line != ".\r\n" {
                        line.clear();
                        continue;
                    }
                    in_text = false;
                    if tell.send(std::mem::take(&mut mail)).is_err() {
                        return;
                    }
                    "250 taken"
                } else if line.starts_with("DATA") {
                    in_text = true;
                    "354 go on"
                } else if line.starts_with("QUIT") {
                    let _ = say("221 bye");
                    break;
                } else {
                    "250 mail.example.in"
                };
                line.clear();
                if say(answer).is_err() {
                    break;
                }
            }
        }
    });
    (port, told)
}

#[test]
fn each_state_of_an_order_is_told_by_mail_once() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let (port, told) = mail_server();
    let with_mail = || {
        let mut command = shop.command(&["serve"]);
        command
            .env("SMTP_HOST", "127.0.0.1")
            .env("SMTP_PORT", port.to_string())
            .env("SMTP_FROM", "shop@example.in")
            .env("GREENGROCER_URL", "https://shop.example.in/");
        Server::start(command)
    };
    let server = with_mail();
    let mut guest = server.browser();
    guest.add(1, 2);
    let link = guest.checkout(&key(1), &[("email", "lakshmi@example.in")]).header("location").to_owned();
    let next = || told.recv_timeout(Duration::from_secs(20)).expect("a mail");
    let mail = next();
    assert!(
        mail.contains("RCPT TO:<lakshmi@example.in>") && mail.contains("Subject: Order 1 is confirmed"),
        "{mail}"
    );
    // Long lines are folded by the encoding; the link is looked for without the folds.
    let text = mail.replace("=\r\n", "");
    assert!(text.contains(&format!("https://shop.example.in{link}")), "{mail}");
    assert_eq!(mail.matches("RCPT TO").count(), 1);
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    for (state, subject) in [
        ("packed", "Order 1 is packed"),
        ("out", "Order 1 is on its way"),
        ("delivered", "Order 1 was delivered"),
    ] {
        assert_eq!(admin.post("/admin/orders/1/state", &[("state", state)]).status, 303);
        let mail = next();
        assert!(mail.contains(subject), "{mail}");
    }
    guest.post("/contact", &[("name", "Asha"), ("email", "a@b.in"), ("body", "Where is my order?")]);
    assert!(next().contains("Subject: We have your message, ticket T-"));
    admin.post("/admin/messages/1", &[("answer", "On its way.")]);
    assert!(next().contains("On its way."));
    guest
        .post("/account/register", &[("what", "register"), ("name", "Anita"), ("email", "anita@example.in")]);
    assert!(next().contains("/account/link/"));
    // A mail that was taken and not noted yet would rightly be sent once more.
    let noted = std::time::Instant::now() + Duration::from_secs(10);
    while shop.number("SELECT count(*) FROM outbox WHERE status = 'waiting'") > 0 {
        assert!(std::time::Instant::now() < noted, "what was taken is noted");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A new process sends none of them again.
    drop(server);
    let server = with_mail();
    let deadline = std::time::Instant::now() + Duration::from_secs(3);
    while std::time::Instant::now() < deadline {
        assert!(told.try_recv().is_err(), "a mail was sent twice");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(server);
    assert_eq!(shop.number("SELECT count(*) FROM outbox WHERE status = 'sent' AND facts = '{}'"), 7);
    assert_eq!(shop.number("SELECT count(*) FROM outbox WHERE status <> 'sent'"), 0);
}

#[test]
fn mail_waits_for_a_server_that_is_away_and_a_rehearsal_sends_none() {
    let shop = Sandbox::seeded();
    let server = {
        let mut command = shop.command(&["serve"]);
        // Nobody listens on port 9 of loopback.
        command.env("SMTP_HOST", "127.0.0.1").env("SMTP_PORT", "9");
        Server::start(command)
    };
    let mut guest = server.browser();
    guest.add(1, 1);
    guest.checkout(&key(1), &[("email", "lakshmi@example.in")]);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while shop.number("SELECT attempts FROM outbox") == 0 {
        assert!(std::time::Instant::now() < deadline, "it was never tried");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(
        shop.number("SELECT count(*) FROM outbox WHERE status = 'waiting' AND last_error IS NOT NULL"),
        1
    );
    assert!(guest.get("/metrics").body.contains("greengrocer_mails_waiting 1\n"));
    drop(server);
    shop.execute("UPDATE outbox SET next_at = '2020-01-01T00:00:00Z', attempts = 0");
    let (port, told) = mail_server();
    let mut command = shop.command(&["serve"]);
    command.env("SMTP_HOST", "127.0.0.1").env("SMTP_PORT", port.to_string()).env("PLIMSOLL_REHEARSAL", "1");
    let server = Server::start(command);
    assert_eq!(server.browser().get("/healthz").json()["payment_mode"], "on-delivery");
    assert!(told.recv_timeout(Duration::from_secs(4)).is_err(), "a rehearsal sent mail");
}

#[test]
fn numbers_for_prometheus_count_what_happened() {
    let shop = Sandbox::seeded();
    let mut command = shop.command(&["serve"]);
    command.env("GREENGROCER_METRICS_TOKEN", "a token of the tests");
    let server = Server::start(command);
    let mut guest = server.browser();
    guest.buy(1, 1, &key(1));
    guest.get("/nothing");
    let text = guest.get("/metrics").body;
    for line in [
        "greengrocer_info{release=\"000007-abcdef0\",payment_mode=\"on-delivery\"} 1",
        "greengrocer_orders_placed_total 1",
        "greengrocer_orders{state=\"placed\"} 1",
        "greengrocer_products_for_sale 61",
        "greengrocer_http_responses_total{status=\"4xx\"} 1",
        "greengrocer_http_responses_total{status=\"5xx\"} 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(text.contains("greengrocer_http_response_seconds_bucket{le=\"+Inf\"}"));
    guest.headers.push(("x-forwarded-for", "203.0.113.9".to_owned()));
    guest.headers.push(("authorization", "Bearer wrong".to_owned()));
    assert_eq!(guest.get("/metrics").status, 404);
    guest.headers.pop();
    guest.headers.push(("authorization", "Bearer a token of the tests".to_owned()));
    assert_eq!(guest.get("/metrics").status, 200);
}

#[test]
fn goods_are_taken_over_from_woocommerce_all_or_none() {
    let shop = Sandbox::seeded();
    let table = "ID,Type,SKU,Name,Published,Is featured?,Short description,Description,Stock,Weight (kg),Sale price,\
                 Regular price,Categories,Meta: local_name\n\
                 7,simple,RICE-1,\"Rice, Ponni\",1,0,\"<p>Aged <b>one</b> year</p>\",,12,5,420,450.50,Rice & Flour,ಅಕ್ಕಿ\n\
                 8,variable,,Mangoes,1,0,,,,,,,Fruit,\n\
                 9,simple,,Wooden Spoon,0,0,,,,,,99,Kitchen > Tools,\n";
    let file = shop.database().with_extension("csv");
    let import = |text: &str| {
        std::fs::write(&file, text).unwrap();
        shop.run(&["import-csv", file.to_str().unwrap()])
    };
    let before = shop.dump();
    let broken = import(&format!("{table}10,simple,,Honey,1,0,,,3,0.5,,abc,Oil,\n"));
    assert_eq!(broken.status.code(), Some(1));
    let complaint = String::from_utf8(broken.stderr).unwrap();
    assert!(complaint.contains("line 5") && complaint.contains("Regular price"), "{complaint}");
    assert_eq!(shop.dump(), before, "none when not all");
    let done = String::from_utf8(import(table).stdout).unwrap();
    assert!(done.contains("2 products added, 0 changed, 1 rows skipped"), "{done}");
    let row = "SELECT count(*) FROM products WHERE name = 'Rice, Ponni' AND pack_size = '5 kg' AND net_quantity = 5000
               AND mrp_paise = 45050 AND price_paise = 42000 AND stock = 12 AND description = 'Aged one year'
               AND category_id = (SELECT id FROM categories WHERE slug = 'rice-and-flour')";
    assert_eq!(shop.number(row), 1);
    assert_eq!(shop.number("SELECT count(*) FROM products WHERE name = 'Wooden Spoon' AND is_active = 0"), 1);
    let again = String::from_utf8(import(&table.replace(",12,5,", ",10,5,")).stdout).unwrap();
    assert!(again.contains("0 products added, 2 changed"), "{again}");
    assert_eq!(shop.number("SELECT stock FROM products WHERE sku = 'RICE-1'"), 10);
    assert_eq!(shop.number("SELECT sum(change) FROM stock_movements WHERE reason = 'import'"), 10);
    assert_eq!(import("Name,Price\nx,1\n").status.code(), Some(1), "no column Regular price");
    let server = shop.serve();
    assert_eq!(server.browser().get("/search?q=ponni").body.matches(r#"<li class="card""#).count(), 1);
    assert_eq!(server.browser().get("/").status, 200, "a category without a picture of its own");
}

#[test]
fn typing_mistakes_are_forgiven_and_indian_words_are_found() {
    let shop = Sandbox::seeded();
    shop.execute("UPDATE products SET search_words = 'टमाटर tamatar' WHERE id = 1");
    let server = shop.serve();
    let mut guest = server.browser();
    let mut first = |query: &str| {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let body = guest.get(&format!("/search?q={encoded}")).body;
        let name = body.split(r#"<span class="name">"#).nth(1).and_then(|rest| rest.split('<').next());
        name.unwrap_or("nothing").to_owned()
    };
    for query in ["tomato", "tomatto", "tomto", "TOMATO", "toma", "टमाटर", "ಟೊಮೆಟೊ", "tamatar", "hybird tomato"]
    {
        assert_eq!(first(query), "Tomato, Hybrid", "{query}");
    }
    assert_eq!(first("काबुली"), "Kabuli Chana", "a word of an Indian script is one word");
    assert_eq!(first("zzzzzzzz"), "nothing");
    assert!(guest.get("/search?q=tomatto").body.contains("These fit <strong>tomato</strong>"));
    // What is changed is found at once, what is no longer sold is not.
    shop.execute("UPDATE products SET name = 'Love Apple' WHERE id = 1");
    assert!(guest.get("/search?q=love").body.contains("Love Apple"));
    shop.execute("UPDATE products SET is_active = 0 WHERE id = 1");
    assert!(!guest.get("/search?q=love").body.contains("Love Apple"));
}

#[test]
fn a_kept_page_is_never_an_old_one_nor_somebody_else_s() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let (mut one, mut other) = (server.browser(), server.browser());
    for path in ["/", "/products", "/product/1", "/search?q=tomato"] {
        one.get(path);
        let (a, b) = (one.get(path).field("csrf"), other.get(path).field("csrf"));
        assert_ne!(a, b, "{path}");
        assert_eq!(one.send("/cart/add", &[("csrf", &a), ("product_id", "2")]).status, 303, "{path}");
        assert_eq!(other.send("/cart/add", &[("csrf", &a), ("product_id", "2")]).status, 403, "{path}");
        one.cookies.remove("cart");
        // Somebody else, even another process, changes a price or buys the last piece.
        shop.execute("UPDATE products SET price_paise = price_paise - 100, stock = 3 WHERE id = 1");
        let price = shop.number("SELECT price_paise / 100 FROM products WHERE id = 1");
        assert!(one.get(path).body.contains(&format!("₹{price}")), "{path}");
        assert!(server.browser().get(path).header("set-cookie").contains("visitor="), "{path}");
    }
    server.browser().buy(1, 3, &key(1));
    assert!(one.get("/product/1").body.contains("Sold out"));
}

/// The cards of goods are kept too, for visitors with a basket as well.
#[test]
fn a_kept_card_is_never_an_old_one() {
    let shop = Sandbox::seeded();
    shop.make_admin();
    let server = shop.serve();
    let (mut new, mut basket) = (server.browser(), server.browser());
    basket.add(2, 1);
    let paths = ["/products", "/search?q=tomato", "/product/2"];
    // Product 1 stands on the shelf below product 2 when nothing follows it.
    shop.execute("UPDATE products SET is_active = 0 WHERE category_id = 1 AND id > 3");
    let card = |page: &str| {
        let card = page.split("<li class=\"card\" id=\"p1\">").nth(1).unwrap_or_else(|| panic!("{page}"));
        card.split("</li>").next().unwrap().to_owned()
    };
    let mut all_show = |what: &str| {
        for path in paths {
            for browser in [&mut new, &mut basket] {
                let first = card(&browser.get(path).body);
                let again = card(&browser.get(path).body);
                assert!(first.contains(what) && again.contains(what), "{path}: no {what} in {first} {again}");
            }
        }
    };
    all_show("₹24");
    // Another process, as a migration does.
    shop.execute("UPDATE products SET price_paise = 2300 WHERE id = 1");
    all_show("₹23");
    shop.execute(
        "ALTER TABLE products ADD COLUMN note TEXT; UPDATE products SET pack_size = 'half a sack' WHERE id = 1",
    );
    all_show("half a sack");
    // This process: an order that takes the last ones.
    shop.execute("UPDATE products SET stock = 3 WHERE id = 1");
    all_show("Add<span");
    server.browser().buy(1, 3, &key(1));
    all_show("Sold out");
    shop.execute(
        "UPDATE categories SET slug = 'greens' WHERE id = (SELECT category_id FROM products WHERE id = 1)",
    );
    all_show("picture greens");
}

#[test]
fn a_kept_card_has_nothing_of_the_visitor_it_was_made_for() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    for path in ["/", "/products", "/product/3", "/search?q=tomato", "/search?q=%3Cb%3E+tomato"] {
        let (mut basket, mut other, mut new) = (server.browser(), server.browser(), server.browser());
        basket.add(1, 3);
        basket.post("/pincode", &[("pincode", "560004")]);
        other.add(2, 1);
        let mine = basket.get(path);
        let others = other.get(path);
        let news = new.get(path);
        let token = |page: &crate::browser::Page| page.field("csrf");
        assert!(token(&mine) != token(&others) && token(&others) != token(&news), "{path}");
        for (page, whose) in [(&mine, "mine"), (&others, "the other's"), (&news, "a new one's")] {
            // One token on the whole page: the visitor's own.
            let own = token(page);
            assert!(
                page.body.split("name=\"csrf\" value=\"").skip(1).all(|rest| rest.starts_with(&own)),
                "{path} {whose}"
            );
        }
        let in_basket = |page: &str| page.matches("class=\"in-cart\"").count();
        let shows = |page: &str, id: u32| page.contains(&format!("id=\"p{id}\""));
        assert_eq!(in_basket(&mine.body), usize::from(shows(&mine.body, 1)), "{path}");
        assert_eq!(in_basket(&others.body), usize::from(shows(&others.body, 2)), "{path}");
        assert_eq!(in_basket(&news.body), 0, "{path}");
        assert!(!others.body.contains("560004") && !news.body.contains("560004"), "{path}");
    }
}

#[test]
fn a_kept_card_leads_back_to_the_page_it_is_on() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    guest.add(30, 1);
    for path in ["/", "/products?category=&sort=name", "/search?q=tomato%20hybrid"] {
        let page = guest.get(path).body;
        let cards: Vec<_> = page.split("<li class=\"card\" id=\"p").skip(1).collect();
        assert!(!cards.is_empty(), "{path}");
        for card in cards {
            let id = card.split('"').next().unwrap();
            let Some(back) = card.split("name=\"back\" value=\"").nth(1) else {
                assert!(card.contains("Sold out"), "{path}: {card}");
                continue;
            };
            let back = back.split('"').next().unwrap();
            let back = back.replace("&#x2f;", "/").replace("&amp;", "&");
            assert_eq!(back, format!("{path}#p{id}"));
        }
    }
}

/// What a mail says, with its encoding taken off: quoted-printable, base64, or none.
pub(crate) fn mail_text(mail: &str) -> String {
    let (head, body) = mail.split_once("\r\n\r\n").unwrap();
    let decoded = if head.contains("quoted-printable") {
        let body = body.replace("=\r\n", "");
        let mut bytes = Vec::new();
        let mut parts = body.split('=');
        bytes.extend_from_slice(parts.next().unwrap().as_bytes());
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        bytes
    } else if head.contains("base64") {
        use base64::Engine as _;
        let text: String = body.chars().filter(|sign| !sign.is_whitespace()).collect();
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    } else {
        body.as_bytes().to_vec()
    };
    String::from_utf8(decoded).unwrap()
}
