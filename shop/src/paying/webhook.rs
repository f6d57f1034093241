//! What the gateway tells by itself: at least once, in any order, and perhaps days late.

use rusqlite::Transaction;
use serde::Deserialize;
use serde_json::Value;

use super::{Cashier, captured, note_refund, note_unpaid, tell};
use crate::db::orders::{self, Paid};
use crate::db::{Store, StoreError, payments};
use crate::log;
use crate::razorpay::{RemotePayment, RemoteRefund};

impl Cashier {
    /// Takes note of a webhook: its event and its effect in one transaction, once.
    ///
    /// The body has been verified. An answer of `Err` has it sent again.
    pub(crate) async fn hear(
        &self,
        store: &Store,
        event_id: String,
        told: Told,
    ) -> Result<&'static str, StoreError> {
        let outcome = store
            .write::<_, StoreError, _>(move |transaction| {
                if !payments::hear(transaction, &event_id, &told.event)? {
                    return Ok("heard before");
                }
                let (payment_id, order_id, outcome) = effect(transaction, &told)?;
                payments::heard(transaction, &event_id, payment_id.as_deref(), order_id, outcome)?;
                Ok(outcome)
            })
            .await?;
        self.woken.notify_one();
        Ok(outcome)
    }
}

/// A webhook's body, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) event: String,
    #[serde(default)]
    payload: Value,
}

impl Told {
    fn entity<T: serde::de::DeserializeOwned>(&self, kind: &str) -> Option<T> {
        serde_json::from_value(self.payload.get(kind)?.get("entity")?.clone()).ok()
    }
}

type Effect = (Option<String>, Option<i64>, &'static str);

fn effect(transaction: &Transaction<'_>, told: &Told) -> Result<Effect, StoreError> {
    match told.event.as_str() {
        "payment.authorized" | "payment.captured" | "payment.failed" | "order.paid" => {
            // `payment.captured` holds the payment alone; its order is a field of it.
            match told.entity::<RemotePayment>("payment") {
                Some(remote) => effect_of_payment(transaction, &told.event, &remote),
                None => Ok((None, None, "not understood")),
            }
        }
        "refund.created" | "refund.processed" | "refund.failed" | "refund.speed_changed" => {
            match told.entity::<RemoteRefund>("refund") {
                Some(remote) => effect_of_refund(transaction, &remote),
                None => Ok((None, None, "not understood")),
            }
        }
        _ => Ok((None, None, "of no concern")),
    }
}

fn effect_of_payment(
    transaction: &Transaction<'_>,
    event: &str,
    remote: &RemotePayment,
) -> Result<Effect, StoreError> {
    let payment = match remote.order_id.as_deref() {
        Some(order) => payments::by_razorpay_order(transaction, order)?,
        None => None,
    };
    let Some(payment) = payment else {
        log::info(format_args!("ALERT {event} of {} belongs to no order of this shop", remote.id));
        return Ok((Some(remote.id.clone()), None, "unknown order"));
    };
    let outcome = if remote.is_captured() && event != "payment.authorized" {
        let paid = orders::mark_paid(transaction, payment.order_id, &captured(remote))?;
        tell(payment.order_id, paid);
        match paid {
            Paid::Placed => "placed",
            Paid::Already => "already",
            Paid::PlacedLate => "placed late",
            Paid::RefundDue(_) => "refund due",
            Paid::WrongAmount => "wrong amount",
            Paid::Unknown => "unknown order",
        }
    } else {
        note_unpaid(transaction, payment.id, remote)?;
        // Authorised and not yet captured: whether that needs a hand is seen in a minute.
        payments::check_in(transaction, payment.id, Some(60))?;
        "noted"
    };
    Ok((Some(remote.id.clone()), Some(payment.order_id), outcome))
}

fn effect_of_refund(transaction: &Transaction<'_>, remote: &RemoteRefund) -> Result<Effect, StoreError> {
    let receipt = remote.receipt.as_deref();
    let payment_id = Some(remote.payment_id.clone());
    let known = payments::refund_spoken_of(transaction, &remote.id, &remote.payment_id, receipt)?;
    let id = match known {
        Some(id) => id,
        // In the gateway's dashboard, by a person: the order says so from now on, and asks only for what is left.
        None => {
            match orders::refund_made_elsewhere(transaction, &remote.payment_id, &remote.id, remote.amount)? {
                Some(id) => {
                    log::info(format_args!(
                        "ALERT refund {} was not made by this shop, it is noted as {id}",
                        remote.id
                    ));
                    id
                }
                None => {
                    log::info(format_args!(
                        "ALERT refund {} is of no payment of this shop, look into it",
                        remote.id
                    ));
                    return Ok((payment_id, None, "unknown refund"));
                }
            }
        }
    };
    note_refund(transaction, id, remote)?;
    Ok((payment_id, None, "noted"))
}
