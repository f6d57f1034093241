//! Every field of the documented samples is there, with the same type. Types of values that may be null are not
//! compared.

use razorpay_simulator::{Method, Outcome, RefundCourse};
use serde_json::{Value, json};

use crate::caller::{Receiver, get, order, send, start};

fn same_shape(at: &str, documented: &Value, ours: &Value) {
    match (documented, ours) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(fields), Value::Object(there)) => {
            for (name, value) in fields {
                let found = there.get(name).unwrap_or_else(|| panic!("{at}.{name} is missing in {ours}"));
                same_shape(&format!("{at}.{name}"), value, found);
            }
        }
        (Value::Array(_), Value::Array(_)) => {}
        // Notes are an object, or a list when there are none.
        (Value::Object(_), Value::Array(_)) | (Value::Array(_), Value::Object(_))
            if at.ends_with("notes") => {}
        _ => assert_eq!(
            std::mem::discriminant(documented),
            std::mem::discriminant(ours),
            "{at}: {documented} is documented, {ours} is answered"
        ),
    }
}

fn order_sample() -> Value {
    json!({ "id": "", "entity": "order", "amount": 1, "amount_paid": 0, "amount_due": 1, "currency": "INR",
        "receipt": "r", "offer_id": null, "status": "created", "attempts": 0, "notes": [], "created_at": 1 })
}

fn payment_sample(more: &Value) -> Value {
    let mut sample = json!({ "id": "", "entity": "payment", "amount": 1, "currency": "INR", "status": "",
        "order_id": "", "invoice_id": null, "international": false, "method": "", "amount_refunded": 0,
        "refund_status": null, "captured": false, "description": null, "card_id": null, "bank": null,
        "wallet": null, "vpa": null, "email": "", "contact": "", "notes": [], "fee": 1, "tax": 0,
        "error_code": null, "error_description": null, "error_source": null, "error_step": null,
        "error_reason": null, "acquirer_data": {}, "created_at": 1 });
    for (name, value) in more.as_object().unwrap() {
        sample[name] = value.clone();
    }
    sample
}

fn refund_sample() -> Value {
    json!({ "id": "", "entity": "refund", "amount": 1, "currency": "INR", "payment_id": "", "notes": [],
        "receipt": null, "acquirer_data": { "arn": null }, "created_at": 1, "batch_id": null,
        "status": "processed", "speed_processed": "normal", "speed_requested": "normal" })
}

fn event_sample(event: &str, entities: &[(&str, Value)]) -> Value {
    let mut payload = json!({});
    for (kind, entity) in entities {
        payload[*kind] = json!({ "entity": entity });
    }
    json!({ "entity": "event", "account_id": "", "event": event, "contains": [], "payload": payload, "created_at": 1 })
}

#[test]
fn entities_have_every_documented_field() {
    let simulator = start();
    let card = json!({ "card_id": "", "card": { "id": "", "entity": "card", "name": "", "last4": "", "network": "",
        "type": "", "issuer": null, "international": false, "emi": false, "sub_type": "", "token_iin": null },
        "acquirer_data": { "auth_code": "" } });
    for (method, more) in [
        (Method::Upi("success@razorpay".into()), json!({ "vpa": "", "acquirer_data": { "rrn": "" } })),
        (Method::Card("4100280000001007".into()), card),
        (
            Method::Netbanking("HDFC".into()),
            json!({ "bank": "", "acquirer_data": { "bank_transaction_id": "" } }),
        ),
    ] {
        let paid = simulator.pay(&order(&simulator, 10_000), &method, Outcome::Success).unwrap();
        let (_, payment) = get(&simulator, &format!("/v1/payments/{}", paid.razorpay_payment_id));
        same_shape("payment", &payment_sample(&more), &payment);
        let (_, refund) =
            send(&simulator, &format!("/v1/payments/{}/refund", paid.razorpay_payment_id), &json!({}));
        same_shape("refund", &refund_sample(), &refund);
        same_shape(
            "order",
            &order_sample(),
            &get(&simulator, &format!("/v1/orders/{}", paid.razorpay_order_id)).1,
        );
    }
    let (_, list) = get(&simulator, "/v1/orders");
    same_shape("list", &json!({ "entity": "collection", "count": 3, "items": [] }), &list);
    let (_, error) = get(&simulator, "/v1/payments/pay_unknown");
    let documented = json!({ "error": { "code": "", "description": "", "field": null, "source": "", "step": "",
        "reason": "", "metadata": {} } });
    same_shape("error", &documented, &error);
}

#[test]
fn webhooks_have_every_documented_field() {
    let (simulator, receiver) = (start(), Receiver::start(|_| 200));
    simulator.send_webhooks_to(&receiver.url());
    simulator.faults(|faults| faults.refunds = RefundCourse::Pending);
    let bank = Method::Netbanking("HDFC".into());
    let id = order(&simulator, 10_000);
    simulator.pay(&id, &bank, Outcome::Failure).unwrap();
    let paid = simulator.pay(&id, &bank, Outcome::Success).unwrap();
    let refund = |amount: i64| {
        let path = format!("/v1/payments/{}/refund", paid.razorpay_payment_id);
        send(&simulator, &path, &json!({ "amount": amount })).1["id"].as_str().unwrap().to_owned()
    };
    simulator.settle_refund(&refund(5000), true).unwrap();
    simulator.settle_refund(&refund(5000), false).unwrap();

    let payment = || {
        ("payment", payment_sample(&json!({ "bank": "", "acquirer_data": { "bank_transaction_id": "" } })))
    };
    let order = || ("order", order_sample());
    let refund = || ("refund", refund_sample());
    let documented = [
        ("payment.failed", vec![payment()]),
        ("payment.authorized", vec![payment()]),
        ("payment.captured", vec![payment()]),
        ("order.paid", vec![payment(), order()]),
        ("refund.created", vec![refund(), payment()]),
        ("refund.processed", vec![refund(), payment()]),
        ("refund.created", vec![refund(), payment()]),
        ("refund.failed", vec![refund(), payment()]),
    ];
    let taken = receiver.wait(documented.len());
    for ((name, entities), one) in documented.iter().zip(&taken) {
        let ours = one.json();
        assert_eq!(ours["event"], **name);
        let kinds: Vec<&str> = entities.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(ours["contains"], json!(kinds), "{name}");
        assert_eq!(ours["payload"].as_object().unwrap().len(), kinds.len(), "{name} holds nothing else");
        same_shape(name, &event_sample(name, entities), &ours);
    }
}
