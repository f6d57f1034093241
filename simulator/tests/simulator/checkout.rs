use std::time::Duration;

use razorpay_simulator::{Simulator, signature};
use serde_json::Value;
use ureq::Agent;

use crate::caller::{KEY_ID, KEY_SECRET, agent, order, start};

fn page(simulator: &Simulator, query: &str) -> String {
    let url = format!("http://{}/v1/checkout/page?{query}", simulator.address());
    agent().get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

fn submit(simulator: &Simulator, path: &str, fields: &[(&str, &str)]) -> String {
    let url = format!("http://{}{path}", simulator.address());
    let agent: Agent = Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into();
    agent.post(url).send_form(fields.iter().copied()).unwrap().body_mut().read_to_string().unwrap()
}

fn data(html: &str, name: &str) -> Value {
    let from = html.split_once(&format!("data-{name}=\"")).unwrap().1;
    let text = from.split_once('"').unwrap().0.replace("&quot;", "\"").replace("&#x27;", "'");
    serde_json::from_str(&text).unwrap()
}

fn field<'a>(html: &'a str, name: &str) -> &'a str {
    html.split_once(&format!("name=\"{name}\" value=\"")).unwrap().1.split_once('"').unwrap().0
}

#[test]
fn the_page_takes_only_this_key_and_a_known_order() {
    let simulator = start();
    let id = order(&simulator, 12_700);
    assert!(
        page(&simulator, &format!("key={KEY_ID}&order_id={id}&amount=1")).contains("₹127.00"),
        "the order's amount"
    );
    assert!(
        page(&simulator, &format!("key=rzp_test_other&order_id={id}"))
            .contains("The api key provided is invalid")
    );
    let unknown = page(&simulator, &format!("key={KEY_ID}&order_id=order_unknown"));
    assert!(unknown.contains("The id provided does not exist"));
    let evil = page(&simulator, &format!("key={KEY_ID}&order_id={id}&name=%22%3E%3Cscript%3Ex"));
    assert!(!evil.contains("<script>x") && evil.contains("&lt;script&gt;x"));
}

#[test]
fn upi_pays_and_fails_at_once_and_the_bank_is_asked_for_cards() {
    let simulator = start();
    let id = order(&simulator, 12_700);
    let base =
        [("key", KEY_ID), ("order_id", id.as_str()), ("parent", "http://shop.localhost"), ("retry", "yes")];
    let with = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();

    let failed =
        submit(&simulator, "/v1/checkout/pay", &with(&[("method", "upi"), ("vpa", "failure@razorpay")]));
    assert!(failed.contains("declined by the bank") && failed.contains("id=\"again\""));
    assert_eq!(data(&failed, "failed")["metadata"]["order_id"], id.as_str());
    let poor =
        submit(&simulator, "/v1/checkout/pay", &with(&[("method", "card"), ("card", "4100 2800 0008 0001")]));
    assert_eq!(data(&poor, "failed")["reason"], "insufficient_funds");
    let no_card =
        submit(&simulator, "/v1/checkout/pay", &with(&[("method", "card"), ("card", "4242 4242 4242 4242")]));
    assert!(no_card.contains("only the test cards"));

    let bank =
        submit(&simulator, "/v1/checkout/pay", &with(&[("method", "card"), ("card", "4100 2800 0000 1007")]));
    let payment = field(&bank, "payment_id").to_owned();
    let answer = [&base[..], &[("payment_id", payment.as_str()), ("answer", "success")]].concat();
    let paid = data(&submit(&simulator, "/v1/checkout/bank", &answer), "paid");
    let fields: Vec<&String> = paid.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["razorpay_payment_id", "razorpay_order_id", "razorpay_signature"]);
    assert_eq!(paid["razorpay_signature"], signature::of_payment(&id, &payment, KEY_SECRET).as_str());
    assert_eq!(simulator.orders()[0]["attempts"], 3);

    let again =
        submit(&simulator, "/v1/checkout/pay", &with(&[("method", "upi"), ("vpa", "success@razorpay")]));
    assert!(again.contains("already paid"));
}

#[test]
fn with_redirect_the_shop_gets_a_form_of_three_fields() {
    let simulator = start();
    let id = order(&simulator, 12_700);
    let fields = [
        ("key", KEY_ID),
        ("order_id", id.as_str()),
        ("redirect", "yes"),
        ("callback_url", "http://shop.localhost/razorpay/callback"),
        ("method", "upi"),
        ("vpa", "success@razorpay"),
    ];
    let onward = submit(&simulator, "/v1/checkout/pay", &fields);
    assert!(
        onward.contains(
            r#"action="http:&#x2f;&#x2f;shop.localhost&#x2f;razorpay&#x2f;callback" target="_top""#
        ),
        "{onward}"
    );
    assert_eq!(field(&onward, "razorpay_order_id"), id);
    assert_eq!(onward.matches("type=\"hidden\"").count(), 3);
}
