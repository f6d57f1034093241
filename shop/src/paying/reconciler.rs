//! Finds what neither browser nor webhook has told: payments whose news was lost, refunds that are due.

use std::time::Duration;

use super::{Cashier, PayError, note_refund};
use crate::db::orders;
use crate::db::payments::{self, Payment, Refund};
use crate::db::{Store, StoreError};
use crate::log;

/// What is taken on in one round.
const ROUND: i64 = 20;
/// How often it is looked whether anything is due.
const TICK: Duration = Duration::from_secs(1);
/// For so long a silent bank may still come round.
const LATE_MINUTES: i64 = 5 * 24 * 60;

impl Cashier {
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
            Err(PayError::Gateway(error)) if error.is_final() => {
                log::error(format_args!("refund {id} of order {order_id} needs a person"), &error);
                let text = error.to_string();
                store.write(move |transaction| orders::refund_failed(transaction, id, &text)).await?;
            }
            // The key makes asking again safe; keys that are being changed are no word about the refund.
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
}

/// Often while the customer may be waiting, then ever more seldom.
fn wait_by_age(minutes: i64) -> i64 {
    match minutes {
        ..30 => 60,
        30..1440 => 15 * 60,
        _ => 6 * 60 * 60,
    }
}
