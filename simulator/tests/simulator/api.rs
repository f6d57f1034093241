use razorpay_simulator::{ApiFault, Method, Outcome, signature};
use serde_json::json;

use crate::caller::{BASIC, KEY_SECRET, agent, get, order, post_as, send, start};

fn upi() -> Method {
    Method::Upi("success@razorpay".to_owned())
}

#[test]
fn orders_are_made_and_found_by_receipt() {
    let simulator = start();
    let asked =
        json!({ "amount": 50000, "currency": "INR", "receipt": "greengrocer-1", "notes": { "a": "b" } });
    let (status, made) = send(&simulator, "/v1/orders", &asked);
    assert_eq!(status, 200);
    assert_eq!(
        (&made["status"], &made["amount_due"], &made["attempts"]),
        (&json!("created"), &json!(50000), &json!(0))
    );
    let id = made["id"].as_str().unwrap();
    assert!(id.len() == "order_".len() + 14 && id.starts_with("order_"), "{id}");
    order(&simulator, 700);

    assert_eq!(get(&simulator, &format!("/v1/orders/{id}")).1, made);
    let (_, found) = get(&simulator, "/v1/orders?receipt=greengrocer-1");
    assert_eq!(found["items"], json!([made]));
    assert_eq!(get(&simulator, "/v1/orders?receipt=another").1["count"], 0);
    let (_, all) = get(&simulator, "/v1/orders?count=1");
    assert_eq!((&all["count"], &all["items"][0]["amount"]), (&json!(1), &json!(700)), "the newest first");
}

#[test]
fn wrong_orders_are_refused_in_the_documented_words() {
    let simulator = start();
    let long = "x".repeat(41);
    let many: serde_json::Map<_, _> = (0..16).map(|n| (n.to_string(), json!("v"))).collect();
    for (body, field, description) in [
        (json!({ "amount": 99, "currency": "INR" }), json!("amount"), "The amount must be at least INR 1.00"),
        (json!({ "amount": 100.5, "currency": "INR" }), json!("amount"), "The amount must be an integer."),
        (json!({ "currency": "INR" }), json!("amount"), "The amount field is required."),
        (json!({ "amount": 100 }), json!("currency"), "The currency field is required."),
        (json!({ "amount": 100, "currency": "XYZ" }), json!("currency"), "Currency is not supported"),
        (
            json!({ "amount": 100, "currency": "INR", "receipt": long }),
            json!("receipt"),
            "The receipt may not be greater than 40 characters.",
        ),
        (
            json!({ "amount": 100, "currency": "INR", "notes": many }),
            json!("notes"),
            "Number of fields in notes should be less than or equal to 15",
        ),
        (
            json!({ "amount": 100, "currency": "INR", "recipt": "1" }),
            json!(null),
            "recipt is/are not required and should not be sent",
        ),
    ] {
        let (status, answer) = send(&simulator, "/v1/orders", &body);
        assert_eq!(status, 400, "{body}");
        assert_eq!(answer["error"]["code"], "BAD_REQUEST_ERROR");
        assert_eq!(
            (&answer["error"]["field"], &answer["error"]["description"]),
            (&field, &json!(description))
        );
    }
    assert!(simulator.orders().is_empty());
}

#[test]
fn nobody_calls_without_the_key() {
    let simulator = start();
    let body = json!({ "amount": 100, "currency": "INR" });
    let wrong =
        ["", "basic x", &BASIC.to_lowercase(), &BASIC.replace("Basic", "basic"), "Bearer x", "Basic x"];
    for given in wrong {
        let (status, answer) = post_as(&simulator, "/v1/orders", &body, &[("authorization", given)]);
        assert_eq!(
            (status, &answer["error"]["description"]),
            (401, &json!("The api key provided is invalid"))
        );
    }
    assert_eq!(get(&simulator, "/v1/orders/order_00000000000000").0, 400);
    assert!(simulator.orders().is_empty());
}

#[test]
fn an_order_is_paid_once() {
    let simulator = start();
    let id = order(&simulator, 12_700);
    simulator.pay(&id, &upi(), Outcome::Failure).unwrap();
    let (_, attempted) = get(&simulator, &format!("/v1/orders/{id}"));
    assert_eq!((&attempted["status"], &attempted["attempts"]), (&json!("attempted"), &json!(1)));

    let paid = simulator.pay(&id, &upi(), Outcome::Success).unwrap();
    let right = signature::of_payment(&id, &paid.razorpay_payment_id, KEY_SECRET);
    assert_eq!(paid.razorpay_signature, Some(right));
    let (_, order) = get(&simulator, &format!("/v1/orders/{id}"));
    assert_eq!(
        (&order["status"], &order["amount_paid"], &order["attempts"]),
        (&json!("paid"), &json!(12_700), &json!(2))
    );
    let (_, payments) = get(&simulator, &format!("/v1/orders/{id}/payments"));
    let states: Vec<_> =
        payments["items"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(states, ["captured", "failed"]);
    let (_, payment) = get(&simulator, &format!("/v1/payments/{}", paid.razorpay_payment_id));
    assert_eq!(
        (&payment["fee"], &payment["tax"], &payment["captured"]),
        (&json!(299), &json!(45), &json!(true))
    );

    let again = simulator.pay(&id, &upi(), Outcome::Success).unwrap_err();
    assert!(again.contains("already paid"), "{again}");
}

#[test]
fn a_capture_is_exactly_what_was_authorised() {
    let simulator = start();
    let asked = json!({ "amount": 5000, "currency": "INR", "payment": { "capture": "manual" } });
    let (_, order) = send(&simulator, "/v1/orders", &asked);
    let paid = simulator.pay(order["id"].as_str().unwrap(), &upi(), Outcome::Success).unwrap();
    let path = format!("/v1/payments/{}/capture", paid.razorpay_payment_id);
    let refund = format!("/v1/payments/{}/refund", paid.razorpay_payment_id);
    assert_eq!(send(&simulator, &refund, &json!({})).0, 400, "only what is captured goes back");
    let (status, wrong) = send(&simulator, &path, &json!({ "amount": 4999, "currency": "INR" }));
    assert_eq!(status, 400);
    assert_eq!(wrong["error"]["description"], "Capture amount must be equal to the amount authorized.");
    let right = json!({ "amount": 5000, "currency": "INR" });
    assert_eq!(send(&simulator, &path, &right).1["status"], "captured");
    let (status, twice) = send(&simulator, &path, &right);
    assert_eq!(
        (status, &twice["error"]["description"]),
        (400, &json!("This payment has already been captured"))
    );
}

#[test]
fn money_goes_back_once_per_key_and_never_more_than_came() {
    let simulator = start();
    let paid = simulator.pay(&order(&simulator, 10_000), &upi(), Outcome::Success).unwrap();
    let path = format!("/v1/payments/{}/refund", paid.razorpay_payment_id);
    let keyed = |body: &serde_json::Value, key: &str| {
        post_as(&simulator, &path, body, &[("authorization", BASIC), ("x-refund-idempotency", key)])
    };
    let some = json!({ "amount": 4000 });
    let (_, first) = keyed(&some, "refund-000001");
    assert_eq!((&first["status"], &first["amount"]), (&json!("processed"), &json!(4000)));
    assert_eq!(keyed(&some, "refund-000001").1["id"], first["id"], "the same refund");
    let (status, differs) = keyed(&json!({ "amount": 4001 }), "refund-000001");
    assert_eq!(status, 400);
    assert!(differs["error"]["description"].as_str().unwrap().starts_with("Different request"));
    assert_eq!(keyed(&some, "short").0, 400);
    simulator.faults(|faults| faults.refunds_in_progress = 1);
    assert_eq!(keyed(&some, "refund-000002").0, 409);

    assert_eq!(simulator.payments()[0]["refund_status"], "partial");
    assert_eq!(send(&simulator, &path, &json!({ "amount": 6001 })).0, 400, "more than is left");
    assert_eq!(send(&simulator, &path, &json!({})).1["amount"], 6000, "without an amount all that is left");
    let payment = &simulator.payments()[0];
    assert_eq!((&payment["status"], &payment["refund_status"]), (&json!("refunded"), &json!("full")));
    assert_eq!(simulator.orders()[0]["status"], "paid", "an order stays paid");
    assert_eq!(send(&simulator, &path, &json!({})).0, 400);
    assert_eq!(get(&simulator, &format!("/v1/payments/{}/refunds", paid.razorpay_payment_id)).1["count"], 2);
}

#[test]
fn faults_have_the_effect_that_they_claim() {
    let simulator = start();
    simulator.faults(|faults| {
        faults.api = [ApiFault::Status(500), ApiFault::Status(429), ApiFault::LoseAnswer].into()
    });
    let body = json!({ "amount": 100, "currency": "INR", "receipt": "lost" });
    let (status, answer) = send(&simulator, "/v1/orders", &body);
    assert_eq!((status, &answer["error"]["code"]), (500, &json!("SERVER_ERROR")));
    assert_eq!(send(&simulator, "/v1/orders", &body).0, 429);
    assert!(simulator.orders().is_empty(), "neither was done");
    let impatient: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(std::time::Duration::from_millis(300)))
        .build()
        .into();
    let url = format!("http://{}/v1/orders", simulator.address());
    assert!(impatient.post(url).header("authorization", BASIC).send(body.to_string()).is_err());
    assert_eq!(get(&simulator, "/v1/orders?receipt=lost").1["count"], 1, "done, and the answer lost");

    // The same over HTTP, as somebody does who tries the shop by hand.
    let unknown = agent().post(format!("http://{}/__sim/faults", simulator.address())).send(r#"{"apy":[]}"#);
    assert_eq!(unknown.unwrap().status(), 400);
    let (status, _) = send(&simulator, "/__sim/faults", &json!({ "api": [{ "status": 503 }] }));
    assert_eq!(status, 200);
    assert_eq!(send(&simulator, "/v1/orders", &body).1["error"]["code"], "GATEWAY_ERROR");
}
