//! Razorpay's own Python client takes the simulator for Razorpay.

use std::path::PathBuf;
use std::process::Command;

use razorpay_simulator::{Method, Outcome};
use serde_json::json;

use crate::caller::{KEY_ID, KEY_SECRET, WEBHOOK_SECRET, send, start};

/// The interpreter that `scripts/tools` set up beside the client.
fn interpreter() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let python = cache.ok_or("there is no home folder")?.join("plimsoll/razorpay-client/bin/python");
    if python.exists() { Ok(python) } else { Err(format!("no {}: run scripts/tools", python.display())) }
}

/// Says loudly, and where `scripts/test` looks, that a test could not run.
fn skipped(test: &str, why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
    let Some(list) = std::env::var_os("PLIMSOLL_SKIPPED") else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(list);
    let _ = file.and_then(|mut file| writeln!(file, "{test}: {why}"));
}

#[test]
fn the_python_client_works_against_the_simulator() {
    let python = match interpreter() {
        Ok(python) => python,
        Err(why) => return skipped("the_python_client_works_against_the_simulator", &why),
    };
    let simulator = start();
    let asked = json!({ "amount": 5000, "currency": "INR", "payment": { "capture": "manual" } });
    let (_, order) = send(&simulator, "/v1/orders", &asked);
    let upi = Method::Upi("success@razorpay".into());
    let paid = simulator.pay(order["id"].as_str().unwrap(), &upi, Outcome::Success).unwrap();
    let webhook = simulator.deliveries();
    assert!(webhook.is_empty(), "no address was given");
    let output = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client.py"))
        .env("BASE_URL", format!("http://{}", simulator.address()))
        .env("KEY_ID", KEY_ID)
        .env("KEY_SECRET", KEY_SECRET)
        .env("WEBHOOK_SECRET", WEBHOOK_SECRET)
        .env("PAID", json!(paid).to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
    // A suite that found no tests would succeed as well.
    assert!(said.contains("Ran 8 tests"), "{said}");
    assert_eq!(simulator.refunds().len(), 2);
}
