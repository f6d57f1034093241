use crate::browser::key;
use crate::sandbox::Sandbox;

fn link(shop: &Sandbox) -> String {
    let sql = "SELECT json_extract(facts, '$.token') FROM outbox WHERE kind LIKE 'account-%' ORDER BY id DESC LIMIT 1";
    let token: String = shop.sql().query_row(sql, [], |row| row.get(0)).unwrap();
    format!("/account/link/{token}")
}

#[test]
fn an_account_is_opened_by_mail_and_the_link_works_once() {
    let shop = Sandbox::seeded();
    let server = shop.serve();
    let mut guest = server.browser();
    let fields = [("what", "register"), ("name", "Anita Rao"), ("email", "anita@example.in")];
    assert_eq!(guest.post("/account/register", &fields).status, 200);
    assert_eq!(guest.sign_in_member("anita@example.in", "").status, 401, "no password opens it yet");
    let link = link(&shop);
    assert_eq!(guest.get(&link).status, 200);
    let before = shop.dump();
    assert_eq!(guest.post(&link, &[("password", "password1")]).status, 422, "too easily guessed");
    assert_eq!(shop.dump(), before);
    assert_eq!(guest.post(&link, &[("password", "seven green mangoes")]).status, 200);
    assert_eq!(guest.post(&link, &[("password", "another password 9")]).status, 410, "once");
    assert_eq!(guest.get(&link).status, 410);
    assert_eq!(guest.sign_in_member("anita@example.in", "seven green mangoes").status, 303);
    assert!(guest.get("/account").body.contains("Hello, Anita Rao"));
}

#[test]
fn nobody_learns_who_has_an_account() {
    let shop = Sandbox::seeded();
    shop.make_member("anita@example.in");
    shop.make_admin();
    let server = shop.serve();
    let mut guest = server.browser();
    let mut answers = Vec::new();
    for email in ["anita@example.in", "nobody@example.in", "asha@example.in"] {
        for what in ["register", "forgot"] {
            let page = guest
                .post(&format!("/account/{what}"), &[("what", what), ("name", "Somebody"), ("email", email)]);
            answers.push((what, page.status, page.body.split("<main").nth(1).unwrap().to_owned()));
        }
        let page = guest.sign_in_member(email, "wrong password 1");
        answers.push((
            "login",
            page.status,
            page.body.split("<h1>").nth(1).unwrap().replace(&guest.csrf(), ""),
        ));
    }
    for kind in ["register", "forgot", "login"] {
        let of: Vec<_> = answers.iter().filter(|(what, ..)| *what == kind).collect();
        assert!(of.iter().all(|one| *one == of[0]), "{kind}: {of:#?}");
    }
    // The admin's address gets no link that would open it without the second factor.
    assert_eq!(shop.number("SELECT count(*) FROM outbox WHERE recipient = 'asha@example.in'"), 0);
    assert_eq!(shop.number("SELECT count(*) FROM users WHERE role = 'admin'"), 1);
}

#[test]
fn a_new_password_ends_sessions_and_other_links_and_links_run_out() {
    let shop = Sandbox::seeded();
    let password = shop.make_member("anita@example.in");
    let server = shop.serve();
    let mut member = server.browser();
    member.get("/");
    let visitor = member.cookies["visitor"].clone();
    assert_eq!(member.sign_in_member("anita@example.in", &password).status, 303);
    assert_ne!(member.cookies["visitor"], visitor, "a new id at login");
    assert_eq!(member.get("/account").status, 200);
    let mut guest = server.browser();
    let ask = |guest: &mut crate::browser::Browser| {
        guest.post("/account/forgot", &[("what", "forgot"), ("email", "anita@example.in")]);
        link(&shop)
    };
    let (first, second) = (ask(&mut guest), ask(&mut guest));
    assert_ne!(first, second);
    assert_eq!(guest.post(&second, &[("password", "eight yellow lemons")]).status, 200);
    assert_eq!(guest.get(&first).status, 410, "older links end, too");
    assert_eq!(member.get("/account").status, 303, "the old session is over");
    let third = ask(&mut guest);
    shop.execute("UPDATE password_resets SET expires_at = '2020-01-01T00:00:00Z'");
    assert_eq!(guest.get(&third).status, 410);
    assert_eq!(guest.post(&third, &[("password", "nine red radishes")]).status, 410);
    assert_eq!(member.sign_in_member("anita@example.in", "eight yellow lemons").status, 303);
    let copy = member.clone();
    assert_eq!(member.post("/account/logout", &[]).status, 303);
    let mut copy = copy;
    assert_eq!(copy.get("/account").status, 303, "signed out everywhere, not only in this browser");
}

#[test]
fn a_basket_and_an_address_are_there_on_the_next_device() {
    let shop = Sandbox::seeded();
    let password = shop.make_member("anita@example.in");
    let server = shop.serve();
    let mut desk = server.browser();
    desk.sign_in_member("anita@example.in", &password);
    desk.buy(1, 2, &key(1));
    desk.add(2, 3);
    let mut phone = server.browser();
    phone.add(2, 1);
    phone.add(3, 1);
    phone.sign_in_member("anita@example.in", &password);
    assert!(phone.get("/cart").body.contains("4 items"), "the larger quantity of what is in both");
    let form = phone.get("/checkout").body;
    assert!(form.contains("14, 3rd Cross, Gandhi Bazaar") && form.contains(r#"value="560004""#), "{form}");
    let account = phone.get("/account");
    let again = regex::Regex::new(r#"action="(/order/[0-9a-f]{32}/again)""#).unwrap();
    let path = again.captures(&account.body).unwrap()[1].to_owned();
    shop.execute("UPDATE products SET stock = 1 WHERE id = 1");
    assert_eq!(phone.post(&path, &[]).header("location"), "/cart");
    assert!(phone.get("/cart").body.contains("5 items"), "as much of it as there is");
}
