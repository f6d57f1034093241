use razorpay_simulator::{Method, Outcome, RefundCourse};
use serde_json::json;

use crate::caller::{order, send, start};

const MINUTE: u32 = 60;
const DAY: u32 = 24 * 60 * MINUTE;

fn bank() -> Method {
    Method::Netbanking("HDFC".to_owned())
}

#[test]
fn a_silent_payment_fails_and_may_still_be_authorised() {
    let simulator = start();
    let id = order(&simulator, 5000);
    let paid = simulator.pay(&id, &bank(), Outcome::Silence).unwrap();
    assert_eq!(paid.razorpay_signature, None);
    simulator.advance(10 * MINUTE - 5);
    assert_eq!(simulator.payments()[0]["status"], "created");
    simulator.advance(10);
    assert_eq!(simulator.payments()[0]["status"], "failed");
    assert_eq!(simulator.payments()[0]["error_reason"], "payment_timed_out");

    simulator.advance(2 * DAY);
    simulator.authorise_late(&paid.razorpay_payment_id).unwrap();
    assert_eq!(simulator.payments()[0]["status"], "captured", "within three days it is captured by itself");
    assert_eq!(simulator.payments()[0]["error_code"], json!(null));
    assert_eq!(simulator.orders()[0]["status"], "paid");
    assert!(simulator.authorise_late(&paid.razorpay_payment_id).is_err());
}

#[test]
fn what_nobody_captures_goes_back() {
    let simulator = start();
    let asked = json!({ "amount": 5000, "currency": "INR", "payment": { "capture": "automatic",
        "capture_options": { "automatic_expiry_period": 12, "manual_expiry_period": 7200 } } });
    let (_, order) = send(&simulator, "/v1/orders", &asked);
    let paid = simulator.pay(order["id"].as_str().unwrap(), &bank(), Outcome::Silence).unwrap();
    simulator.advance(13 * MINUTE);
    simulator.authorise_late(&paid.razorpay_payment_id).unwrap();
    assert_eq!(simulator.payments()[0]["status"], "authorized", "too late to be captured by itself");
    let second = simulator.pay(order["id"].as_str().unwrap(), &bank(), Outcome::Success);
    assert!(second.is_err(), "no second payment while one is authorised");
    simulator.advance(5 * DAY);
    assert_eq!(simulator.payments()[0]["status"], "refunded");
    assert_eq!(simulator.orders()[0]["amount_paid"], 0);
}

#[test]
fn a_pending_refund_ends_well_or_not() {
    let simulator = start();
    simulator.faults(|faults| faults.refunds = RefundCourse::Pending);
    let paid = simulator.pay(&order(&simulator, 5000), &bank(), Outcome::Success).unwrap();
    let path = format!("/v1/payments/{}/refund", paid.razorpay_payment_id);
    let (_, refund) = send(&simulator, &path, &json!({}));
    assert_eq!(
        (&refund["status"], &simulator.payments()[0]["status"]),
        (&json!("pending"), &json!("refunded"))
    );
    simulator.settle_refund(refund["id"].as_str().unwrap(), false).unwrap();
    let payment = &simulator.payments()[0];
    assert_eq!((&payment["status"], &payment["amount_refunded"]), (&json!("captured"), &json!(0)));
    let (_, refund) = send(&simulator, &path, &json!({}));
    simulator.settle_refund(refund["id"].as_str().unwrap(), true).unwrap();
    assert_eq!(simulator.refunds()[0]["status"], "processed");
    assert!(simulator.settle_refund(refund["id"].as_str().unwrap(), false).is_err());
}
