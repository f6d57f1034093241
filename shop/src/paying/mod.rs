//! Online payments, end to end. The database is written before and after a call to the gateway, never around it.
//!
//! There are four ways to hear of a payment: the customer's browser, webhooks, the reconciler, and an answer to a
//! call. Each ends in [`orders::mark_paid`], which has one effect however often and in whichever order they come.

mod reconciler;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::db::orders::{self, Captured, Paid};
use crate::db::payments::{self, Payment};
use crate::db::{Store, StoreError};
use crate::log;
use crate::razorpay::{CallError, Client, RemotePayment, RemoteRefund, signature};
use crate::settings::{Gateway, Secret};
pub(crate) use webhook::Told;

/// Calls to the gateway at the same time. One that hangs takes a thread; the database needs some too.
const CALLS_AT_ONCE: usize = 8;
/// How long a customer waits for a free place among them.
const QUEUE: Duration = Duration::from_secs(4);

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
