//! The smoke tests of the shipped `plimsoll.toml`, done by hand: each must pass on a good shop.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::browser::{Browser, Page};
use crate::sandbox::Sandbox;

/// Does one step and answers whether it went as it should.
fn step(browser: &mut Browser, step: &Table, captured: &mut BTreeMap<String, String>) -> Result<(), String> {
    let text = |key: &str| step.get(key).and_then(Value::as_str).map(str::to_owned);
    let fill = |value: &str| {
        captured
            .iter()
            .fold(value.to_owned(), |text, (name, found)| text.replace(&format!("{{{name}}}"), found))
    };
    let page: Page = match (text("get"), text("post")) {
        (Some(path), None) => browser.get(&path),
        (None, Some(path)) => {
            let fields: Vec<(String, String)> = step["form"]
                .as_table()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.clone(), fill(value.as_str().unwrap())))
                .collect();
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            browser.send(&path, &fields)
        }
        other => panic!("a step gets or posts, not {other:?}"),
    };
    let status = step.get("status").and_then(Value::as_integer);
    if status.is_some_and(|status| status != i64::from(page.status)) {
        return Err(format!("status {} and not {status:?}", page.status));
    }
    if let Some(wanted) = text("contains")
        && !page.body.contains(&wanted)
    {
        return Err(format!("no {wanted:?}"));
    }
    for (name, what) in step.get("capture").and_then(Value::as_table).into_iter().flatten() {
        let css = what["css"].as_str().unwrap();
        let field = css.strip_prefix("input[name=").and_then(|rest| rest.strip_suffix(']')).unwrap();
        captured.insert(name.clone(), page.field(field));
    }
    Ok(())
}

/// The names of the smoke tests that fail, and of those that changed the database.
fn run(shop: &Sandbox) -> (Vec<String>, Vec<String>) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/plimsoll.toml");
    let configuration: Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let server = shop.serve();
    let (mut failed, mut wrote) = (Vec::new(), Vec::new());
    for test in configuration["smoke"].as_array().unwrap() {
        let test = test.as_table().unwrap();
        let name = test["name"].as_str().unwrap().to_owned();
        let alone = vec![Value::Table(test.clone())];
        let steps = test.get("steps").and_then(Value::as_array).unwrap_or(&alone);
        let (mut browser, mut captured) = (server.browser(), BTreeMap::new());
        let before = shop.dump();
        let result =
            steps.iter().try_for_each(|one| step(&mut browser, one.as_table().unwrap(), &mut captured));
        if result.is_err() {
            failed.push(name.clone());
        }
        if shop.dump() != before {
            assert_eq!(test.get("writes"), Some(&Value::Boolean(true)), "{name} writes and does not say so");
            wrote.push(name);
        }
    }
    (failed, wrote)
}

#[test]
fn every_smoke_test_passes_and_only_the_last_writes() {
    let shop = Sandbox::seeded();
    assert_eq!(run(&shop), (Vec::new(), vec!["An order can be placed".to_owned()]));
}

#[test]
fn they_pass_on_release_2_and_see_what_is_wrong_with_release_4() {
    let mut shop = Sandbox::seeded();
    shop.use_release(&["release-2"]);
    assert!(shop.run(&["migrate"]).status.success());
    assert_eq!(run(&shop).0, Vec::<String>::new());
    shop.use_release(&["release-2", "release-3", "release-4"]);
    assert!(shop.run(&["migrate"]).status.success());
    assert_eq!(run(&shop).0, ["Checkout process works", "An order can be placed"]);
}
