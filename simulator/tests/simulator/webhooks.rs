use std::collections::BTreeSet;

use razorpay_simulator::{Method, Outcome, signature};

use crate::caller::{Receiver, WEBHOOK_SECRET, order, start, wait_for};

fn card() -> Method {
    Method::Card("4100280000001007".to_owned())
}

#[test]
fn a_payment_is_told_in_three_signed_events() {
    let (simulator, receiver) = (start(), Receiver::start(|_| 200));
    simulator.send_webhooks_to(&receiver.url());
    simulator.pay(&order(&simulator, 5000), &card(), Outcome::Success).unwrap();
    let taken = receiver.wait(3);
    let events: Vec<String> = taken.iter().map(|one| one.event()).collect();
    assert_eq!(events, ["payment.authorized", "payment.captured", "order.paid"]);
    for one in &taken {
        assert_eq!(one.signature, signature::of_webhook(&one.body, WEBHOOK_SECRET));
    }
    let ids: BTreeSet<&str> = taken.iter().map(|one| one.event_id.as_str()).collect();
    assert_eq!(ids.len(), 3);
    // A documented quirk: authorised and captured in one breath.
    let authorised = &taken[0].json()["payload"]["payment"]["entity"];
    assert_eq!(
        (authorised["status"].as_str(), authorised["captured"].as_bool()),
        (Some("authorized"), Some(true))
    );
    // `payment.captured` holds the payment alone: who looks for the order there finds nothing.
    assert!(taken[1].json()["payload"].get("order").is_none());
}

#[test]
fn what_is_not_taken_is_sent_again_with_the_same_id_and_bytes() {
    let (simulator, receiver) = (start(), Receiver::start(|number| if number < 3 { 500 } else { 200 }));
    simulator.send_webhooks_to(&receiver.url());
    simulator.pay(&order(&simulator, 5000), &card(), Outcome::Failure).unwrap();
    receiver.wait(1);
    for attempt in 2..=3 {
        wait_for("the attempt is over", || (simulator.deliveries().len() == attempt - 1).then_some(()));
        simulator.advance(30 << (attempt - 2));
        receiver.wait(attempt);
    }
    wait_for("it is taken", || (simulator.undelivered() == 0).then_some(()));
    let taken = receiver.taken();
    assert_eq!(taken.len(), 3, "and then no more");
    assert!(taken.iter().all(|one| one.event_id == taken[0].event_id && one.body == taken[0].body));
    let statuses: Vec<_> = simulator.deliveries().iter().map(|one| one.status).collect();
    assert_eq!(statuses, [Some(500), Some(500), Some(200)]);
}

#[test]
fn after_a_day_of_refusals_the_hook_is_switched_off() {
    let (simulator, receiver) = (start(), Receiver::start(|_| 500));
    simulator.send_webhooks_to(&receiver.url());
    simulator.pay(&order(&simulator, 5000), &card(), Outcome::Failure).unwrap();
    receiver.wait(1);
    wait_for("the first attempt is over", || (simulator.deliveries().len() == 1).then_some(()));
    simulator.advance(24 * 60 * 60);
    receiver.wait(2);
    wait_for("the last attempt is over", || (simulator.deliveries().len() == 2).then_some(()));
    simulator.advance(24 * 60 * 60);
    simulator.pay(&order(&simulator, 5000), &card(), Outcome::Success).unwrap();
    assert_eq!(simulator.undelivered(), 4);
    let address = simulator.address();
    let text = crate::caller::agent().get(format!("http://{address}/__sim/deliveries")).call().unwrap();
    assert!(text.into_body().read_to_string().unwrap().contains(r#""off":true"#));
    assert_eq!(receiver.taken().len(), 2);
}

#[test]
fn webhooks_are_doubled_turned_round_lost_and_tampered_with() {
    let (simulator, receiver) = (start(), Receiver::start(|_| 200));
    simulator.send_webhooks_to(&receiver.url());
    simulator.faults(|faults| (faults.hold_webhooks, faults.duplicate_webhooks) = (true, 1));
    simulator.pay(&order(&simulator, 5000), &card(), Outcome::Success).unwrap();
    assert_eq!(simulator.undelivered(), 6);
    simulator.release_webhooks(true);
    let events: Vec<String> = receiver.wait(6).iter().map(|one| one.event()).collect();
    assert_eq!(events[0], "order.paid");
    assert_eq!(events[5], "payment.authorized");

    simulator.faults(|faults| (faults.duplicate_webhooks, faults.drop_webhooks) = (0, 2));
    simulator.pay(&order(&simulator, 5000), &card(), Outcome::Success).unwrap();
    assert_eq!(receiver.wait(7)[6].event(), "order.paid");

    simulator.faults(|faults| faults.tamper_webhooks = true);
    simulator.pay(&order(&simulator, 5000), &card(), Outcome::Failure).unwrap();
    let forged = receiver.wait(8)[7].clone();
    assert_eq!(forged.json()["payload"]["payment"]["entity"]["amount"], 15_000);
    assert_ne!(forged.signature, signature::of_webhook(&forged.body, WEBHOOK_SECRET));

    simulator.faults(|faults| {
        faults.tamper_webhooks = false;
        faults.sign_with = Some("the secret before".to_owned());
    });
    simulator.pay(&order(&simulator, 5000), &card(), Outcome::Failure).unwrap();
    let old = receiver.wait(9)[8].clone();
    assert_eq!(old.signature, signature::of_webhook(&old.body, "the secret before"));
}
