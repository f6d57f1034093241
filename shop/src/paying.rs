//! Online payments, end to end. The database is written before and after a call to the gateway, never around it.
//!
//! There are four ways to hear of a payment: the customer's browser, webhooks, the reconciler, and an answer to a
//! call. Each ends in [`orders::mark_paid`], which has one effect however often and in whichever order they come.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};

use crate::db::orders::{self, Captured, Paid};
use crate::db::payments::{self, Payment, Refund};
use crate::db::{Store, StoreError};
use crate::log;
use crate::razorpay::{CallError, Client, RemotePayment, RemoteRefund, signature};
use crate::settings::{Gateway, Secret};

/// Calls to the gateway at the same time. One that hangs takes a thread; the database needs some too.
const CALLS_AT_ONCE: usize = 8;
/// How long a customer waits for a free place among them.
const QUEUE: Duration = Duration::from_secs(4);
/// What the reconciler takes on in one round.
const ROUND: i64 = 20;
/// How often it looks whether anything is due.
const TICK: Duration = Duration::from_secs(1);
/// For so long a silent bank may still come round.
const LATE_MINUTES: i64 = 5 * 24 * 60;

/// The gateway as the shop uses it.
#[derive(Debug)]
pub(crate) struct Cashier {
    pub(crate) gateway: Gateway,
    client: Client,
    calls: Arc<Semaphore>,
    /// Has the reconciler look now.
    woken: Notify,
}

/// Why a payment did not move on. What is in the database is consistent, and is looked at again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayError {
    #[error("the payment gateway could not be asked")]
    Gateway(#[from] CallError),
    #[error("too many calls to the payment gateway are waiting")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a browser brought back from the checkout.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) order_id: String,
    pub(crate) payment_id: String,
    pub(crate) signature: String,
}

/// What a proof came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Proved {
    /// The order is paid.
    Paid,
    /// The proof is right and the money is not there yet, or the gateway could not be asked: it is looked at again.
    Waiting,
    /// It is no proof of a payment of this order.
    Forged,
}

impl Cashier {
    pub(crate) fn new(gateway: Gateway) -> Self {
        let client = Client::new(gateway.clone());
        Self { gateway, client, calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)), woken: Notify::new() }
    }

    /// Calls the gateway from a thread that may block.
    async fn call<T, F>(&self, work: F) -> Result<T, PayError>
    where
        F: FnOnce(&Client) -> Result<T, CallError> + Send + 'static,
        T: Send + 'static,
    {
        let place = tokio::time::timeout(QUEUE, self.calls.clone().acquire_owned()).await;
        let place = place.map_err(|_| PayError::Busy)?.map_err(|_| PayError::Busy)?;
        let client = self.client.clone();
        let called = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&client)
        });
        Ok(called.await.map_err(StoreError::from)??)
    }

    /// Has an order at the gateway for this payment, and answers its id.
    ///
    /// The payment's row was committed before. Unless it is `new`, an earlier call may have made the order without
    /// anybody hearing of it: then it is found by its receipt and not made again.
    pub(crate) async fn open(&self, store: &Store, payment: &Payment, new: bool) -> Result<String, PayError> {
        if let Some(known) = &payment.razorpay_order_id {
            return Ok(known.clone());
        }
        let (id, wanted) = (payment.id, payment.clone());
        match self.call(move |client| open(client, &wanted, new)).await {
            Ok(order_id) => {
                let kept = order_id.clone();
                store.write(move |transaction| payments::keep_razorpay_order(transaction, id, &kept)).await?;
                // Another request may have been quicker: the first id that was kept is the one to pay.
                let order = payment.order_id;
                let row = store.read(move |connection| payments::of_order(connection, order)).await?;
                Ok(row.and_then(|row| row.razorpay_order_id).unwrap_or(order_id))
            }
            Err(error) => {
                let text = error.to_string();
                let written = store.write::<_, StoreError, _>(move |transaction| {
                    payments::note_error(transaction, id, &text)
                });
                written.await?;
                Err(error)
            }
        }
    }

    /// Judges what a browser brought: the signature over the stored order id, then what the gateway itself says.
    pub(crate) async fn prove(
        &self,
        store: &Store,
        payment: &Payment,
        proof: &Proof,
    ) -> Result<Proved, PayError> {
        let Some(stored) = payment.razorpay_order_id.clone() else { return Ok(Proved::Forged) };
        let genuine =
            signature::of_payment(&stored, &proof.payment_id, &proof.signature, &self.gateway.key_secret);
        if !genuine || proof.order_id != stored {
            return Ok(Proved::Forged);
        }
        let payment_id = proof.payment_id.clone();
        let asked = self.call(move |client| client.payment(&payment_id)).await;
        let remote = match asked {
            Ok(remote) => remote,
            Err(error) => {
                log::error(
                    format_args!("payment of order {}: it is looked at again", payment.order_id),
                    &error,
                );
                self.look_soon(store, payment.id).await?;
                return Ok(Proved::Waiting);
            }
        };
        if remote.order_id.as_deref() != Some(stored.as_str()) {
            return Ok(Proved::Forged);
        }
        if self.settle(store, payment, &remote).await?.is_some_and(is_settled) {
            return Ok(Proved::Paid);
        }
        self.look_soon(store, payment.id).await?;
        Ok(Proved::Waiting)
    }

    async fn look_soon(&self, store: &Store, id: i64) -> Result<(), StoreError> {
        store.write(move |transaction| payments::check_in(transaction, id, Some(2))).await?;
        self.woken.notify_one();
        Ok(())
    }

    /// Has the database say what the gateway says about one attempt. `None`: it has brought no money.
    async fn settle(
        &self,
        store: &Store,
        payment: &Payment,
        remote: &RemotePayment,
    ) -> Result<Option<Paid>, PayError> {
        let mut remote = remote.clone();
        // A bank that came round too late for the automatic capture. Of an order that nobody wants any more it is
        // not taken: uncaptured money goes back by itself.
        let wanted = matches!(payment.order_state.as_str(), "awaiting-payment" | "expired");
        let exact = remote.amount == payment.amount_paise && remote.currency == payment.currency;
        if remote.status == "authorized" && wanted && exact {
            let authorised = remote.clone();
            match self.call(move |client| client.capture(&authorised)).await {
                Ok(captured) => remote = captured,
                // Somebody else may have captured it a moment ago: the next look tells.
                Err(error) => log::error(format_args!("capture for order {}", payment.order_id), &error),
            }
        }
        let (row, order_id) = (payment.id, payment.order_id);
        let paid = store
            .write::<_, StoreError, _>(move |transaction| {
                if remote.is_captured() {
                    return Ok(Some(orders::mark_paid(transaction, order_id, &captured(&remote))?));
                }
                note_unpaid(transaction, row, &remote)?;
                Ok(None)
            })
            .await?;
        if let Some(paid) = paid {
            tell(order_id, paid);
            self.woken.notify_one();
        }
        Ok(paid)
    }

    /// Looks at one payment that nobody has told about, and says when to look again.
    async fn reconcile(&self, store: &Store, payment: &Payment) -> Result<(), PayError> {
        let id = payment.id;
        let Some(order_id) = payment.razorpay_order_id.clone() else {
            return self.reconcile_unopened(store, payment).await;
        };
        let remote = self.call(move |client| client.payments_of(&order_id)).await?;
        let captured = remote.iter().find(|one| one.is_captured());
        let authorised = remote.iter().find(|one| one.status == "authorized");
        let paid = match captured.or(authorised).or(remote.first()) {
            Some(best) => self.settle(store, payment, best).await?,
            None => None,
        };
        // Money that does not fit has been told to a person: asking again would tell the same again.
        let again = paid.is_none() && payment.age_minutes < LATE_MINUTES;
        let next = again.then(|| wait_by_age(payment.age_minutes));
        store.write(move |transaction| payments::check_in(transaction, id, next)).await?;
        Ok(())
    }

    /// The call that should have made the order may have been done without an answer. No browser has seen its id,
    /// so nobody can have paid; but the customer may come back to pay.
    async fn reconcile_unopened(&self, store: &Store, payment: &Payment) -> Result<(), PayError> {
        let id = payment.id;
        let receipt = payment.receipt.clone();
        let found = self.call(move |client| client.order_by_receipt(&receipt)).await?;
        let awaiting = payment.order_state == "awaiting-payment";
        store
            .write::<_, StoreError, _>(move |transaction| {
                if let Some(order) = &found {
                    payments::keep_razorpay_order(transaction, id, &order.id)?;
                }
                payments::check_in(transaction, id, awaiting.then_some(60))
            })
            .await?;
        Ok(())
    }

    /// Sends one refund, or asks how a pending one goes.
    async fn work_on(&self, store: &Store, refund: &Refund) -> Result<(), PayError> {
        let wanted = refund.clone();
        let asked = self.call(move |client| match (&wanted.razorpay_refund_id, wanted.status.as_str()) {
            (Some(id), "pending") => client.fetch_refund(id),
            _ => {
                let receipt = wanted.receipt();
                client.refund(&wanted.payment_id, wanted.amount_paise, &receipt, &wanted.idempotency_key)
            }
        });
        let (id, order_id, attempts) = (refund.id, refund.order_id, refund.attempts);
        match asked.await {
            Ok(remote) => {
                log::info(format_args!("refund {id} of order {order_id} is {}", remote.status));
                store.write(move |transaction| note_refund(transaction, id, &remote)).await?;
            }
            Err(PayError::Gateway(error @ CallError::Refused { .. })) => {
                log::error(format_args!("refund {id} of order {order_id} needs a person"), &error);
                let text = error.to_string();
                store.write(move |transaction| orders::refund_failed(transaction, id, &text)).await?;
            }
            // The key makes asking again safe.
            Err(error) => {
                let text = error.to_string();
                let wait = 30 << attempts.clamp(0, 9);
                let written = store.write::<_, StoreError, _>(move |transaction| {
                    payments::try_refund_in(transaction, id, wait, Some(&text))
                });
                written.await?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// One round: payments nobody has told about, refunds that are due.
    async fn round(&self, store: &Store) -> Result<(), StoreError> {
        for payment in store.read(|connection| payments::to_check(connection, ROUND)).await? {
            if let Err(error) = self.reconcile(store, &payment).await {
                log::error(format_args!("reconciling order {}", payment.order_id), &error);
                let (id, wait) = (payment.id, wait_by_age(payment.age_minutes));
                store
                    .write::<_, StoreError, _>(move |transaction| {
                        payments::check_in(transaction, id, Some(wait))
                    })
                    .await?;
            }
        }
        for refund in store.read(|connection| payments::refunds_to_work_on(connection, ROUND)).await? {
            if let Err(error) = self.work_on(store, &refund).await {
                log::error(format_args!("refund {} of order {}", refund.id, refund.order_id), &error);
            }
        }
        Ok(())
    }

    /// Works for as long as the shop is open. Whatever callback or webhook is lost is found here.
    pub(crate) async fn reconcile_forever(&self, store: &Store) {
        loop {
            if let Err(error) = self.round(store).await {
                log::error("reconciling payments", &error);
            }
            let _ = tokio::time::timeout(TICK, self.woken.notified()).await;
        }
    }

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

    /// The secrets that webhooks may be signed with.
    pub(crate) fn webhook_secrets(&self) -> &[Secret] {
        &self.gateway.webhook_secrets
    }
}

/// One order at the gateway for this payment: the one that is there, or a new one.
fn open(client: &Client, payment: &Payment, new: bool) -> Result<String, CallError> {
    let found = if new { None } else { client.order_by_receipt(&payment.receipt)? };
    let order = match found {
        Some(order) => order,
        None => match client.create_order(payment.amount_paise, &payment.currency, &payment.receipt) {
            Ok(order) => order,
            Err(error @ CallError::Refused { .. }) => return Err(error),
            // It may have been done, and only the answer was lost.
            Err(error) => client.order_by_receipt(&payment.receipt)?.ok_or(error)?,
        },
    };
    if order.amount != payment.amount_paise || order.currency != payment.currency {
        let description = format!("its order {} is over another amount", order.id);
        return Err(CallError::Refused { status: 200, description });
    }
    Ok(order.id)
}

/// Whether the order is paid now, or the money is on its way back: nothing is left to wait for.
fn is_settled(paid: Paid) -> bool {
    matches!(paid, Paid::Placed | Paid::PlacedLate | Paid::Already | Paid::RefundDue(_))
}

/// Often while the customer may be waiting, then ever more seldom.
fn wait_by_age(minutes: i64) -> i64 {
    match minutes {
        ..30 => 60,
        30..1440 => 15 * 60,
        _ => 6 * 60 * 60,
    }
}

fn captured(remote: &RemotePayment) -> Captured {
    Captured { payment_id: remote.id.clone(), amount_paise: remote.amount, currency: remote.currency.clone() }
}

fn note_unpaid(
    transaction: &rusqlite::Transaction<'_>,
    row: i64,
    remote: &RemotePayment,
) -> Result<(), StoreError> {
    let status = match remote.status.as_str() {
        "authorized" => "authorized",
        "failed" => "failed",
        _ => "attempted",
    };
    let error = remote.error_description.as_deref().filter(|text| !text.is_empty());
    payments::note_attempt(transaction, row, status, &remote.id, error)
}

fn note_refund(
    transaction: &rusqlite::Transaction<'_>,
    id: i64,
    remote: &RemoteRefund,
) -> Result<(), StoreError> {
    match remote.status.as_str() {
        "processed" => orders::refund_processed(transaction, id, &remote.id),
        "failed" => orders::refund_failed(transaction, id, "the bank did not take it"),
        _ => {
            orders::refund_pending(transaction, id, &remote.id)?;
            // A webhook usually tells of its end; this is for the one that is lost.
            payments::try_refund_in(transaction, id, 60 * 60, None)
        }
    }
}

/// What the people who run the shop must know about a payment.
fn tell(order_id: i64, paid: Paid) {
    match paid {
        Paid::Placed | Paid::PlacedLate => log::info(format_args!("order {order_id} is paid")),
        Paid::Already => {}
        Paid::RefundDue(refund) => {
            log::info(format_args!(
                "order {order_id}: a payment came that it cannot use, refund {refund} is due"
            ));
        }
        Paid::WrongAmount => {
            log::info(format_args!(
                "ALERT order {order_id}: a payment over another amount came, look into it"
            ));
        }
        Paid::Unknown => {
            log::info(format_args!("ALERT order {order_id}: a payment came for no known payment"))
        }
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

fn effect(transaction: &rusqlite::Transaction<'_>, told: &Told) -> Result<Effect, StoreError> {
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
    transaction: &rusqlite::Transaction<'_>,
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

fn effect_of_refund(
    transaction: &rusqlite::Transaction<'_>,
    remote: &RemoteRefund,
) -> Result<Effect, StoreError> {
    let receipt = remote.receipt.as_deref();
    let payment_id = Some(remote.payment_id.clone());
    let Some(id) = payments::refund_spoken_of(transaction, &remote.id, &remote.payment_id, receipt)? else {
        log::info(format_args!("ALERT refund {} was not made by this shop, look into it", remote.id));
        return Ok((payment_id, None, "unknown refund"));
    };
    note_refund(transaction, id, remote)?;
    Ok((payment_id, None, "noted"))
}
