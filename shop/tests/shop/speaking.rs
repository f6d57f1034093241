//! The texts of the shop stand in one place, and so it can speak another language. A language of brackets shows what
//! would be left in English.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::browser::{Browser, key};
use crate::counter::{Counter, ONLINE, simulator};
use crate::sandbox::{PASSWORD, Sandbox};

fn source(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(part)
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The texts of a language by name.
fn texts(code: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(source(&format!("templates/texts/{code}.txt"))).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(" = ")).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// What a template prints itself, without its tags, statements and what it asks for by name.
fn own_words(template: &str) -> Vec<String> {
    let left = Regex::new(r"(?s)\{%.*?%\}|\{\{.*?\}\}").unwrap().replace_all(template, "§").into_owned();
    let left = Regex::new(r"§/\S*").unwrap().replace_all(&left, " ").into_owned();
    let read_aloud = Regex::new(r#"(?s)\b(?:placeholder|alt|title|aria-label)="([^"]*)""#).unwrap();
    let mut shown: Vec<String> = read_aloud.captures_iter(&left).map(|found| found[1].to_owned()).collect();
    shown.push(Regex::new(r"(?s)<[^>]*>").unwrap().replace_all(&left, " ").into_owned());
    let word = Regex::new(r"\p{L}{2,}").unwrap();
    shown.iter().flat_map(|text| word.find_iter(text)).map(|word| word.as_str().to_owned()).collect()
}

#[test]
fn no_text_for_shoppers_stands_in_a_template() {
    assert_eq!(
        own_words(r#"<p title="Hello">{{ say("a.b") }} {% if x %}there{% endif %}</p>"#),
        ["Hello", "there"]
    );
    let mut all = Vec::new();
    files(&source("templates"), &mut all);
    let mut looked_at = 0;
    let statement = Regex::new(r"(?s)\{[{%](.*?)[}%]\}").unwrap();
    let quoted = Regex::new(r#""([^"]*)""#).unwrap();
    for path in all {
        let name = path.strip_prefix(source("templates")).unwrap().to_string_lossy().into_owned();
        if name.starts_with("admin/") || name.starts_with("texts/") {
            continue;
        }
        looked_at += 1;
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(own_words(&text), Vec::<String>::new(), "{name}");
        // Nor in an expression: `{{ "item" if n == 1 else "items" }}`.
        for expression in statement.captures_iter(&text) {
            for literal in quoted.captures_iter(&expression[1]) {
                let sentence = literal[1].trim_matches(|sign: char| !sign.is_alphabetic()).contains(' ')
                    || literal[1].starts_with(char::is_uppercase);
                assert!(!sentence, "{name}: {:?}", &literal[1]);
            }
        }
    }
    assert!(looked_at >= 35, "{looked_at}");
}

/// A text that is refused in English is one for those who run the shop.
#[test]
fn no_text_for_shoppers_stands_in_the_program() {
    let mut all = Vec::new();
    files(&source("src/web"), &mut all);
    let answers = Regex::new(r#"(?s)(?:PageError::(?:BadRequest|Forbidden|Conflict|Invalid)|\.lines?|notice|wrong\.insert)\b[^;]*?"([A-Za-z][^"]* [^"]*)""#).unwrap();
    let logged = Regex::new(r"(?s)log::\w+\([^;]*;").unwrap();
    for path in all.iter().filter(|path| !path.to_string_lossy().contains("/admin/")) {
        let text = fs::read_to_string(path).unwrap();
        let text = logged.replace_all(text.split("#[cfg(test)]").next().unwrap(), "");
        assert!(!text.contains("Words::english"), "{}", path.display());
        if let Some(found) = answers.captures(&text) {
            panic!("{}: {:?}", path.display(), &found[1]);
        }
    }
    let script = fs::read_to_string(source("static/pay.js")).unwrap();
    let sentence = Regex::new(r#""[A-Z][a-z]+[ "]"#).unwrap();
    for line in script.lines().filter(|line| !line.trim().starts_with("//")) {
        assert!(!sentence.is_match(line), "pay.js: {line}");
    }
    let style = fs::read_to_string(source("static/shop.css")).unwrap();
    let printed = Regex::new(r#"content:\s*"[^"]*\p{L}{2}"#).unwrap();
    assert!(!printed.is_match(&style));
}

#[test]
fn every_text_that_is_asked_for_is_there_and_none_is_left_over() {
    let (english, mut asked) = (texts("en"), BTreeSet::new());
    let (mut all, name) = (Vec::new(), Regex::new(r#""([a-z]+(?:\.[a-z_][a-z_0-9-]*)?)(")"#).unwrap());
    files(&source("templates"), &mut all);
    files(&source("src"), &mut all);
    let said = Regex::new(r#"say\("([a-z.-]+)"[,)]"#).unwrap();
    for path in all.iter().filter(|path| !path.to_string_lossy().contains("/texts/")) {
        let Ok(text) = fs::read_to_string(path) else { continue };
        for found in name.captures_iter(&text) {
            asked.insert(found[1].to_owned());
        }
        for found in said.captures_iter(&text) {
            let there =
                english.contains_key(&found[1]) || english.contains_key(&format!("{}.one", &found[1]));
            assert!(there, "{} asks for {}", path.display(), &found[1]);
        }
    }
    // Made of two parts: the second one is a value of the database or a number.
    let made = [
        "unit.",
        "net.",
        "state.",
        "order.heading-",
        "account.state-",
        "reason.",
        "named.",
        "weekday.",
        "month",
    ];
    for text in english.keys() {
        let bare = text.strip_suffix(".one").or_else(|| text.strip_suffix(".other")).unwrap_or(text);
        let used = asked.contains(bare) || made.iter().any(|start| bare.starts_with(start));
        assert!(used, "nobody asks for {text}");
    }
}

/// A shop that speaks brackets: each text of the English file in a pair of its own.
fn shop_of_brackets() -> Sandbox {
    let mut shop = Sandbox::seeded();
    shop.use_release(&[]);
    let lines: Vec<String> = texts("en")
        .into_iter()
        .map(|(name, text)| {
            if name.starts_with("language.") {
                format!("{name} = xx")
            } else {
                format!("{name} = ⟦{text}⟧")
            }
        })
        .collect();
    fs::write(shop.home().join("templates/texts/xx.txt"), lines.join("\n")).unwrap();
    shop
}

/// What the grocer has written: goods, categories, regions.
fn written(shop: &Sandbox) -> String {
    let sql = "SELECT concat_ws(' ', p.name, p.local_name, p.description, p.pack_size, p.unit, p.maker, p.origin, p.best_before, c.name)
               FROM products AS p JOIN categories AS c ON c.id = p.category_id
               UNION ALL SELECT name || ' ' || state FROM regions";
    let connection = shop.sql();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(Result::unwrap).collect::<Vec<_>>().join(" ")
}

/// The words of a page, read or seen, that stand in no bracket.
fn left_over(html: &str) -> Vec<String> {
    let aloud =
        Regex::new(r#"\b(?:placeholder|alt|aria-label|data-shop|data-description)="([^"]*)""#).unwrap();
    let mut text: String = aloud.captures_iter(html).map(|found| format!("{} ", &found[1])).collect();
    let unseen = Regex::new(r"(?s)<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>").unwrap();
    text.push_str(&unseen.replace_all(html, " "));
    let (mut depth, mut outside) = (0, String::new());
    for sign in text.chars() {
        match sign {
            '⟦' => depth += 1,
            '⟧' => depth -= 1,
            _ if depth == 0 => outside.push(sign),
            _ => {}
        }
    }
    assert_eq!(depth, 0, "{text}");
    let outside =
        outside.replace("&#x2f;", "/").replace("&#x27;", "'").replace("&amp;", "&").replace("&nbsp;", " ");
    Regex::new(r"\p{L}[\p{L}\p{M}]+")
        .unwrap()
        .find_iter(&outside)
        .map(|word| word.as_str().to_owned())
        .collect()
}

#[test]
fn a_language_of_brackets_leaves_nothing_in_english() {
    assert_eq!(left_over(r#"<p alt="Dal">⟦One ⟦two⟧⟧ three &amp; <b>⟦f⟧</b></p>"#), ["Dal", "three"]);
    let shop = shop_of_brackets();
    shop.make_admin();
    let password = shop.make_member("anita@example.in");
    let server = shop.serve();
    let mut guest = server.browser();
    guest.post("/language", &[("language", "xx")]);
    guest.headers.push(("accept-language", "en".to_owned()));
    // What the grocer and the customer wrote is theirs, in whatever language; so is the name of the other languages.
    let data = format!(
        "{} English हिन्दी ಕನ್ನಡ xx lakshmi rao gandhi bazaar cross rd bengaluru farida anita example tomatto zzzz no such",
        written(&shop)
    )
    .to_lowercase();
    let check = |what: &str, html: &str| {
        assert!(html.contains('⟦'), "{what} is not in that language: {html}");
        let english: Vec<String> =
            left_over(html).into_iter().filter(|word| !data.contains(&word.to_lowercase())).collect();
        assert!(english.is_empty(), "{what}: {english:?}");
    };
    let see = |guest: &mut Browser, path: &str| {
        let page = guest.get(path);
        check(path, &page.body);
    };
    for path in [
        "/",
        "/products",
        "/product/1",
        "/search?q=rice",
        "/search?q=tomatto",
        "/search?q=zzzz",
        "/search?q=",
        "/cart",
        "/contact",
        "/terms",
        "/account/login",
        "/account/register",
        "/account/forgot",
        "/account/link/nothing",
        "/nothing",
        "/products?sort=no",
    ] {
        see(&mut guest, path);
    }
    for refused in [
        ("/cart/add", vec![("product_id", "1"), ("quantity", "99")]),
        ("/cart/add", vec![("product_id", "x")]),
        ("/pincode", vec![("pincode", "1")]),
        ("/pincode", vec![("pincode", "110001")]),
        ("/language", vec![("language", "zz")]),
        ("/checkout", vec![]),
        ("/contact", vec![("email", "x")]),
        ("/account/login", vec![("email", "a@b.in")]),
    ] {
        let page = guest.post(refused.0, &refused.1);
        assert!(page.status >= 400, "{refused:?}");
        check(&format!("{refused:?}"), &page.body);
    }
    check("stale form", &guest.send("/cart/add", &[("csrf", "old")]).body);
    guest.add(1, 2);
    guest.post("/pincode", &[("pincode", "560004")]);
    for path in ["/", "/cart", "/checkout", "/product/1", "/products"] {
        see(&mut guest, path);
    }
    for wrong in [
        ("name", ""),
        ("phone", "1"),
        ("address", ""),
        ("city", ""),
        ("pincode", "1"),
        ("pincode", "110001"),
        ("email", "x"),
        ("payment", "gold"),
        ("slot", "x"),
    ] {
        let page = guest.checkout(&key(1), &[wrong]);
        assert!(page.status >= 400, "{wrong:?}");
        check(&format!("{wrong:?}"), &page.body);
    }
    let order = guest.buy(1, 1, &key(2))["token"].as_str().unwrap().to_owned();
    see(&mut guest, &format!("/order/{order}"));
    shop.execute("UPDATE products SET stock = 1 WHERE id = 2");
    guest.add(2, 1);
    shop.execute("UPDATE products SET stock = 0 WHERE id = 2");
    check("sold out", &guest.checkout(&key(3), &[]).body);
    see(&mut guest, "/cart");
    assert_eq!(guest.post(&format!("/order/{order}/cancel"), &[]).status, 303);
    see(&mut guest, &format!("/order/{order}"));
    check("refund", &guest.post(&format!("/order/{order}/refund"), &[("wish", "the fruit was soft")]).body);
    let mut member = server.browser();
    member.post("/language", &[("language", "xx")]);
    member.sign_in_member("anita@example.in", &password);
    member.buy(3, 1, &key(4));
    see(&mut member, "/account");
    // JSON for programs too.
    guest.headers.push(("accept", "application/json".to_owned()));
    let refused = guest.post("/cart/add", &[("product_id", "1"), ("quantity", "99")]).json();
    assert!(refused["error"].as_str().unwrap().starts_with('⟦'), "{refused}");
}

#[test]
fn paying_leaves_nothing_in_english_either() {
    let shop = shop_of_brackets();
    let data =
        format!("{} English हिन्दी ಕನ್ನಡ xx lakshmi rao gandhi bazaar cross bengaluru example", written(&shop))
            .to_lowercase();
    let counter = Counter::open_at(shop, simulator(), &[]);
    let mut guest = counter.browser();
    guest.post("/language", &[("language", "xx")]);
    guest.add(1, 1);
    let pay = guest.checkout(&key(1), &ONLINE).header("location").to_owned();
    let token = pay.trim_start_matches("/pay/").to_owned();
    let mut check = |path: &str| {
        let html = guest.get(path).body;
        assert!(html.contains('⟦'), "{path}: {html}");
        let left: Vec<String> =
            left_over(&html).into_iter().filter(|word| !data.contains(&word.to_lowercase())).collect();
        assert!(left.is_empty(), "{path}: {left:?}");
    };
    let order = format!("/order/{token}");
    for path in [
        pay.clone(),
        format!("{pay}?after=closed"),
        format!("{pay}?after=failed"),
        format!("{pay}?after=sent"),
        order.clone(),
    ] {
        check(&path);
    }
    counter.shop.execute("UPDATE payments SET razorpay_order_id = NULL");
    check(&pay);
    counter.expire(&token);
    counter.wait_for(&token, "expired", "pending");
    check(&pay);
    check(&order);
}

#[test]
fn mails_are_in_the_language_of_the_customer_also_when_the_shop_sends_them_later() {
    let shop = shop_of_brackets();
    shop.make_admin();
    let (port, told) = crate::operations::mail_server();
    let mut command = shop.command(&["serve"]);
    command
        .env("SMTP_HOST", "127.0.0.1")
        .env("SMTP_PORT", port.to_string())
        .env("SMTP_FROM", "shop@example.in");
    let server = crate::sandbox::Server::start(command);
    let mut guest = server.browser();
    guest.post("/language", &[("language", "xx")]);
    guest.add(1, 1);
    let placed = guest.checkout(&key(1), &[("email", "lakshmi@example.in")]);
    assert_eq!(placed.status, 303, "{}", placed.body);
    guest
        .post("/account/register", &[("what", "register"), ("name", "Anita"), ("email", "anita@example.in")]);
    guest.post("/contact", &[("name", "Anita"), ("email", "anita@example.in"), ("body", "hello there")]);
    // The admin reads English; the customer's language goes with the order and the message.
    let mut admin = server.browser();
    admin.sign_in("asha@example.in", PASSWORD);
    for state in ["packed", "out", "delivered"] {
        assert_eq!(admin.post("/admin/orders/1/state", &[("state", state)]).status, 303, "{state}");
    }
    assert_eq!(admin.post("/admin/messages/1", &[("answer", "it comes tomorrow")]).status, 303);
    for _ in 0..7 {
        let mail = told.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        let text = crate::operations::mail_text(&mail);
        assert!(text.contains('⟦'), "{text}");
        let data = "lakshmi@example.in lakshmi rao gandhi bazaar cross rd bengaluru greengrocer tomato hybrid anita hello there it comes tomorrow http order account link";
        let words: Vec<String> = left_over(&text)
            .into_iter()
            .filter(|word| !data.contains(&word.to_lowercase()) && word.len() > 2)
            .collect();
        assert!(
            words.iter().all(|word| word.chars().all(|sign| sign.is_ascii_hexdigit() || sign == 'T')),
            "{words:?} in {text}"
        );
    }
}

#[test]
fn the_language_is_the_visitor_s_own_and_choosing_it_leads_nowhere_else() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let (mut hindi, mut english) = (server.browser(), server.browser());
    let before = shop.dump();
    for (referer, back) in [
        ("http://shop.example/search?q=dal", "/search?q=dal"),
        ("https://evil.example//evil.example/x", "/"),
        ("javascript:alert(1)", "/"),
        ("http://shop.example", "/"),
        ("", "/"),
    ] {
        hindi.headers = vec![("referer", referer.to_owned())];
        let chosen = hindi.post("/language", &[("language", "hi")]);
        assert_eq!((chosen.status, chosen.header("location")), (303, back), "{referer}");
    }
    for path in ["/", "/products", "/product/1", "/search?q=dal", "/cart"] {
        let (hindi, english) = (hindi.get(path).body, english.get(path).body);
        assert!(hindi.contains("lang=\"hi-IN\"") && hindi.contains("टोकरी"), "{path}");
        assert!(english.contains("lang=\"en-IN\"") && !english.contains("टोकरी"), "{path}");
    }
    for code in ["xx", "../en", ""] {
        hindi.cookies.insert("language".to_owned(), code.to_owned());
        assert!(hindi.get("/").body.contains("Shop by category"), "{code}");
    }
    assert_eq!(before, shop.dump());
}

#[test]
fn each_language_says_who_has_read_it_and_fits_the_english_file() {
    for code in ["hi", "kn"] {
        let text = fs::read_to_string(source(&format!("templates/texts/{code}.txt"))).unwrap();
        assert!(text.lines().next().unwrap().contains("without a native speaker"), "{code}");
        assert!(texts(code).len() > 60, "{code}");
    }
}
