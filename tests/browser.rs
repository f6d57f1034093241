//! A browser walks through the dashboard: watches a run, answers, signs; on a phone at night and on a desk.

use std::path::PathBuf;

use plimsoll_testkit::fault::skipped;
use plimsoll_testkit::{Browser, Sandbox, shop};

use crate::dashboard::Pages;

/// Where pictures go, for a look at them: `PLIMSOLL_PICTURES=folder`.
fn pictures() -> Option<PathBuf> {
    std::env::var_os("PLIMSOLL_PICTURES").map(PathBuf::from)
}

fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = pictures() {
        browser.picture(&folder.join(format!("{name}.png")));
    }
}

fn start(sandbox: &Sandbox, test: &str) -> Option<Browser> {
    match Browser::start(sandbox.spare_port()) {
        Ok(browser) => Some(browser),
        Err(why) => {
            skipped(test, &why);
            None
        }
    }
}

/// Nothing hangs over the edge of the screen.
#[track_caller]
fn fits(browser: &Browser, page: &str) {
    let wide = browser.script("return document.documentElement.scrollWidth - window.innerWidth");
    assert!(wide.as_i64().unwrap_or(0) <= 0, "{page} is {wide} px too wide for the screen");
}

#[test]
fn somebody_watches_a_run_answers_and_signs_on_a_phone_at_night() {
    let pages = Pages::new();
    let Some(browser) = start(&pages.sandbox, "somebody_watches_a_run_answers_and_signs_on_a_phone_at_night")
    else {
        return;
    };
    let serve = pages.sandbox.live();
    for _ in 0..30 {
        assert_eq!(pages.sandbox.get("/").status(), Some(200));
    }
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", pages.port);
    browser.look(390, 844, true);
    browser.go(&url("/"));
    browser.type_into("#token", "asha-t0ken");
    picture(&browser, "phone-login");
    browser.click("main button");
    browser.until_says("Serving");
    fits(&browser, "now");
    picture(&browser, "phone-now");

    // The page changes by itself while a run goes on.
    pages.sandbox.release(r#"{ "page": "two", "boot_ms": 1500 }"#, &[shop::REBUILD]);
    let deploying = pages.sandbox.start(&["deploy", "--yes"]);
    browser.until_says("Run 2 is going on");
    picture(&browser, "phone-going");
    deploying.wait().exits(0);
    browser.until_says("Serving");

    browser.go(&url("/runs/2"));
    fits(&browser, "a run");
    picture(&browser, "phone-run");
    browser.type_into("#ask textarea", "nobody complained");
    browser.click("#ask form button");
    browser.until_says("nobody complained");
    browser.go(&url("/runs/2"));
    browser.type_into("#note", "all well");
    browser.click("#sign button[value=deployer]");
    browser.until_says("Deployed by: asha");
    picture(&browser, "phone-signed");
    browser.click("#sign button[value=verifier]");
    browser.until_says("deployer and verifier are two people");
    browser.click("header nav form button");
    browser.until("#token");
    browser.type_into("#token", "meena-t0ken");
    browser.click("main button");
    browser.until_says("Serving");
    browser.go(&url("/runs/2"));
    browser.click("#sign button[value=verifier]");
    browser.until_says("The run is closed");

    for (width, name) in [(390, "phone"), (1280, "desk")] {
        browser.look(width, 900, width < 600);
        for path in ["/", "/runs", "/runs/2", "/backups", "/runs/2/report"] {
            browser.go(&url(path));
            fits(&browser, path);
            picture(&browser, &format!("{name}{}", path.replace('/', "-")));
        }
    }
    let report = pages.sandbox.read("runs/000002/report.md");
    assert!(report.contains("Verified by: meena") && report.contains("nobody complained"), "{report}");
    drop(browser);
    drop(serve);
}

#[test]
fn everything_but_liveness_works_without_scripts() {
    let pages = Pages::new();
    let Some(browser) = start(&pages.sandbox, "everything_but_liveness_works_without_scripts") else {
        return;
    };
    let serve = pages.sandbox.live();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", pages.port);
    browser.scripts(false);
    browser.go(&url("/"));
    browser.type_into("#token", "asha-t0ken");
    browser.click("main button");
    browser.until_says("Serving");
    browser.go(&url("/runs/1"));
    browser.type_into("#ask textarea", "none");
    browser.click("#ask form button");
    browser.until_says("asha,");
    browser.click("#sign button[value=deployer]");
    browser.until_says("Deployed by: asha");
    drop(browser);
    drop(serve);
}
