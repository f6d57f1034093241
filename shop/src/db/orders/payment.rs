//! What money does to an order: paid, paid too late, paid twice, given back.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::super::{Result, outbox, random_hex, stock};
use super::states::{Actor, Moved, State, move_to, note_step};

/// How the note of a refund in an order's history begins; amount and reason follow.
pub(super) const REFUND_OF: &str = "refund of ";

/// A payment that the gateway says is captured.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// The gateway's number of it.
    pub(crate) payment_id: String,
    /// What it says was paid.
    pub(crate) amount_paise: i64,
    /// What it says it was paid in.
    pub(crate) currency: String,
}

/// What came of a captured payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Paid {
    /// The order is placed now.
    Placed,
    /// This payment had been taken note of before: nothing changed.
    Already,
    /// It came after the order had expired; the goods were still there, the order is placed now.
    PlacedLate,
    /// The order cannot be delivered any more (cancelled, or sold out meanwhile), or had been paid by another
    /// payment: a refund of this number is due.
    RefundDue(i64),
    /// Amount or currency are not those of the order: nothing changed, a person has to look.
    WrongAmount,
    /// No order waits for this payment.
    Unknown,
}

/// Takes note of a captured payment of `order_id`. Whoever calls has verified that the payment belongs to the
/// order at the gateway.
pub(crate) fn mark_paid(transaction: &Transaction<'_>, order_id: i64, captured: &Captured) -> Result<Paid> {
    let sql = "SELECT p.id, p.amount_paise, p.currency, p.payment_id, p.status, o.state FROM payments AS p
               JOIN orders AS o ON o.id = p.order_id WHERE p.order_id = ?1 ORDER BY p.id DESC LIMIT 1";
    type Found = (i64, i64, String, Option<String>, String, String);
    let found: Option<Found> = transaction
        .query_row(sql, [order_id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })
        .optional()?;
    let Some((row, amount, currency, known, status, state)) = found else { return Ok(Paid::Unknown) };
    let Some(state) = State::named(&state) else { return Ok(Paid::Unknown) };
    if captured.amount_paise != amount || captured.currency != currency {
        return Ok(Paid::WrongAmount);
    }
    let key = format!("refund-{}", captured.payment_id);
    if matches!(status.as_str(), "captured" | "refunded") {
        if known.as_deref() == Some(captured.payment_id.as_str()) {
            return Ok(Paid::Already);
        }
        // A second payment of a paid order: all of it goes back, once, and the order is left as it is.
        let refund = due(transaction, order_id, &captured.payment_id, &key, amount, "paid twice")?;
        return Ok(refund.map_or(Paid::Already, Paid::RefundDue));
    }
    transaction.execute(
        "UPDATE payments SET status = 'captured', payment_id = ?2, next_check_at = NULL, last_error = NULL,
             updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE id = ?1",
        (row, &captured.payment_id),
    )?;
    transaction.execute(
        "UPDATE orders SET payment_status = 'paid', updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?1 AND payment_status = 'pending'",
        [order_id],
    )?;
    if state == State::AwaitingPayment {
        move_to(transaction, order_id, State::Placed, Actor::Payment, "paid")?;
        return Ok(Paid::Placed);
    }
    if state == State::Expired && stock::take_again(transaction, order_id)? {
        let moved = move_to(transaction, order_id, State::Placed, Actor::Payment, "paid late")?;
        debug_assert_eq!(moved, Moved::Done);
        return Ok(Paid::PlacedLate);
    }
    if state == State::Expired {
        move_to(transaction, order_id, State::Cancelled, Actor::Payment, "paid late, sold out meanwhile")?;
    }
    let reason = "paid after the order had ended";
    match refund(transaction, order_id, amount, reason, Actor::Payment, &key)? {
        Ok(number) => Ok(Paid::RefundDue(number)),
        Err(_) => Ok(Paid::Already),
    }
}

/// Lets the orders expire whose payment has not come in time, at most `most` at once, and answers their numbers.
pub(crate) fn expire_holds(transaction: &Transaction<'_>, most: i64) -> Result<Vec<i64>> {
    let mut statement = transaction.prepare_cached(
        "SELECT order_id FROM stock_holds
         WHERE status = 'held' AND expires_at <= strftime('%Y-%m-%dT%H:%M:%SZ', 'now') ORDER BY expires_at LIMIT ?1",
    )?;
    let due: Vec<i64> =
        statement.query_map([most], |row| row.get(0))?.collect::<std::result::Result<_, _>>()?;
    let mut expired = Vec::new();
    for id in due {
        if move_to(transaction, id, State::Expired, Actor::Clock, "not paid in time")? == Moved::Done {
            expired.push(id);
        }
    }
    Ok(expired)
}

/// Whether a hold is due: asked before taking the write lock, so that a quiet shop does not write.
pub(crate) fn holds_are_due(connection: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM stock_holds
               WHERE status = 'held' AND expires_at <= strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

/// Why nothing is given back. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum RefundRefused {
    #[error("there is no such order")]
    Unknown,
    #[error("the order has not been paid")]
    NotPaid,
    #[error("that is more than was paid and not yet given back")]
    TooMuch,
    #[error("this refund had been asked for before")]
    Twice,
}

impl RefundRefused {
    /// The name of the text that tells a customer.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Unknown => "refusal.refund-unknown",
            Self::NotPaid => "refusal.refund-unpaid",
            Self::TooMuch => "refusal.refund-too-much",
            Self::Twice => "refusal.refund-twice",
        }
    }
}

/// Gives money back: notes it, and for an online payment leaves a row that is `due` at the gateway. `key` makes
/// it happen once; the same key is the gateway's idempotency key.
pub(crate) fn refund(
    transaction: &Transaction<'_>,
    order_id: i64,
    amount_paise: i64,
    reason: &str,
    actor: Actor,
    key: &str,
) -> Result<std::result::Result<i64, RefundRefused>> {
    let sql = "SELECT total_paise - refunded_paise, payment_status, payment_method, state FROM orders WHERE id = ?1";
    type Found = (i64, String, String, String);
    let found: Option<Found> = transaction
        .query_row(sql, [order_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((left, status, method, state)) = found else { return Ok(Err(RefundRefused::Unknown)) };
    let known = "SELECT EXISTS (SELECT 1 FROM refunds WHERE idempotency_key = ?1)";
    if transaction.query_row(known, [key], |row| row.get(0))? {
        return Ok(Err(RefundRefused::Twice));
    }
    if !matches!(status.as_str(), "paid" | "part-refunded") {
        return Ok(Err(RefundRefused::NotPaid));
    }
    if amount_paise <= 0 || amount_paise > left {
        return Ok(Err(RefundRefused::TooMuch));
    }
    let paid_by: Option<String> = transaction
        .query_row(
            "SELECT payment_id FROM payments WHERE order_id = ?1 AND status = 'captured' ORDER BY id DESC LIMIT 1",
            [order_id],
            |row| row.get(0),
        )
        .optional()?
        .flatten();
    let online = method == "razorpay" && paid_by.is_some();
    transaction.execute(
        "INSERT INTO refunds (order_id, payment_id, idempotency_key, amount_paise, method, reason, status, next_try_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7,
                 CASE WHEN ?7 = 'due' THEN strftime('%Y-%m-%dT%H:%M:%SZ', 'now') END)",
        (
            order_id,
            paid_by,
            key,
            amount_paise,
            if online { "razorpay" } else { "by-hand" },
            reason,
            if online { "due" } else { "processed" },
        ),
    )?;
    let number = transaction.last_insert_rowid();
    count_refunds(transaction, order_id)?;
    if let Some(state) = State::named(&state) {
        let note = format!("{REFUND_OF}{}: {reason}", crate::money::Rupees(amount_paise));
        note_step(transaction, order_id, Some(state), state, actor, &note)?;
    }
    outbox::tell_of_refund(transaction, order_id, number, amount_paise)?;
    Ok(Ok(number))
}

/// A key for a refund that a person asks for, when the form brings none.
pub(crate) fn new_refund_key() -> String {
    format!("refund-{}", random_hex::<12>())
}

/// A refund of a payment that is not the order's own: it does not lower what the order was paid.
fn due(
    transaction: &Transaction<'_>,
    order_id: i64,
    payment_id: &str,
    key: &str,
    amount_paise: i64,
    reason: &str,
) -> Result<Option<i64>> {
    let added = transaction.execute(
        "INSERT INTO refunds (order_id, payment_id, idempotency_key, amount_paise, method, reason, status, next_try_at)
         VALUES (?1, ?2, ?3, ?4, 'razorpay', ?5, 'due', strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
         ON CONFLICT (idempotency_key) DO NOTHING",
        (order_id, payment_id, key, amount_paise, reason),
    )?;
    Ok((added == 1).then(|| transaction.last_insert_rowid()))
}

/// Notes a refund that was made at the gateway and not here, of an order's own payment. `None`: it is of no payment that
/// an order has.
pub(crate) fn refund_made_elsewhere(
    transaction: &Transaction<'_>,
    payment_id: &str,
    razorpay_id: &str,
    amount_paise: i64,
) -> Result<Option<i64>> {
    if amount_paise <= 0 {
        return Ok(None);
    }
    let added: Option<(i64, i64)> = transaction
        .query_row(
            "INSERT INTO refunds (order_id, payment_id, idempotency_key, amount_paise, method, reason, status,
                 razorpay_refund_id)
             SELECT order_id, payment_id, 'elsewhere-' || ?2, ?3, 'razorpay', 'made at the gateway', 'pending', ?2
             FROM payments WHERE payment_id = ?1 AND status IN ('captured', 'refunded') RETURNING id, order_id",
            (payment_id, razorpay_id, amount_paise),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((id, order)) = added else { return Ok(None) };
    count_refunds(transaction, order)?;
    Ok(Some(id))
}

/// The gateway has taken the refund and works on it.
pub(crate) fn refund_pending(transaction: &Transaction<'_>, refund_id: i64, razorpay_id: &str) -> Result<()> {
    transaction.execute(
        "UPDATE refunds SET status = 'pending', razorpay_refund_id = ?2, attempts = attempts + 1,
             last_error = NULL, updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?1 AND status = 'due'",
        (refund_id, razorpay_id),
    )?;
    Ok(())
}

/// The money is back. A refund that is processed stays so.
pub(crate) fn refund_processed(
    transaction: &Transaction<'_>,
    refund_id: i64,
    razorpay_id: &str,
) -> Result<()> {
    let order: Option<i64> = transaction
        .query_row(
            "UPDATE refunds SET status = 'processed', razorpay_refund_id = ?2, next_try_at = NULL,
                 last_error = NULL, updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
             WHERE id = ?1 AND status <> 'processed' RETURNING order_id",
            (refund_id, razorpay_id),
            |row| row.get(0),
        )
        .optional()?;
    order.map_or(Ok(()), |order| count_refunds(transaction, order))
}

/// The gateway could not give the money back: it is owed again, and a person has to look.
pub(crate) fn refund_failed(transaction: &Transaction<'_>, refund_id: i64, error: &str) -> Result<()> {
    let order: Option<i64> = transaction
        .query_row(
            "UPDATE refunds SET status = 'failed', next_try_at = NULL, last_error = ?2,
                 updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
             WHERE id = ?1 AND status IN ('due', 'pending') RETURNING order_id",
            (refund_id, error),
            |row| row.get(0),
        )
        .optional()?;
    order.map_or(Ok(()), |order| count_refunds(transaction, order))
}

/// Has the order say what went back: refunds of its own payment that have not failed.
fn count_refunds(transaction: &Transaction<'_>, order_id: i64) -> Result<()> {
    transaction.execute(
        "UPDATE orders SET refunded_paise = min(back.paise, total_paise),
             payment_status = CASE WHEN payment_status = 'pending' THEN 'pending' WHEN back.paise = 0 THEN 'paid'
                 WHEN back.paise >= total_paise THEN 'refunded' ELSE 'part-refunded' END,
             updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         FROM (SELECT coalesce(sum(r.amount_paise), 0) AS paise FROM refunds AS r
               WHERE r.order_id = ?1 AND r.status <> 'failed' AND r.reason <> 'paid twice') AS back
         WHERE orders.id = ?1",
        [order_id],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::db::placing::{self, NewOrder};
    use crate::db::{migrations, open_or_create, seed};

    /// A seeded database with one order of two pieces of product 1 that waits for ₹88.
    fn waiting() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = open_or_create(&folder.path().join("store.db")).unwrap();
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        migrations::apply(&mut connection, &migrations::in_folder(&home.join("migrations")).unwrap())
            .unwrap();
        seed::fill(&mut connection).unwrap();
        let order = NewOrder {
            idempotency_key: "0".repeat(32),
            customer_name: "Lakshmi Rao".to_owned(),
            phone: "9845012345".to_owned(),
            email: Some("lakshmi@example.in".to_owned()),
            address: "14, 3rd Cross".to_owned(),
            city: "Bengaluru".to_owned(),
            pincode: "560004".to_owned(),
            pays_online: true,
            user_id: None,
            delivery_note: None,
            slot: None,
            substitution: "call",
            lines: vec![(1, 2)],
            seen_total_paise: None,
            language: "en".to_owned(),
        };
        write(&mut connection, |transaction| placing::place(transaction, &order).unwrap());
        (folder, connection)
    }

    fn write<T>(connection: &mut Connection, work: impl FnOnce(&Transaction<'_>) -> T) -> T {
        let transaction = connection.transaction().unwrap();
        let result = work(&transaction);
        transaction.commit().unwrap();
        result
    }

    fn number(connection: &Connection, sql: &str) -> i64 {
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn text(connection: &Connection, sql: &str) -> String {
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn pay(connection: &mut Connection, payment: &str) -> Paid {
        let captured =
            Captured { payment_id: payment.to_owned(), amount_paise: 8_800, currency: "INR".to_owned() };
        write(connection, |transaction| mark_paid(transaction, 1, &captured).unwrap())
    }

    const STATE: &str = "SELECT state || ' ' || payment_status FROM orders";
    const STOCK: &str = "SELECT stock FROM products WHERE id = 1";

    fn expire(connection: &mut Connection) -> Vec<i64> {
        connection.execute("UPDATE stock_holds SET expires_at = '2020-01-01T00:00:00Z'", []).unwrap();
        write(connection, |transaction| expire_holds(transaction, 10).unwrap())
    }

    #[test]
    fn a_payment_places_the_order_however_often_it_is_heard_of() {
        let (_folder, mut connection) = waiting();
        assert_eq!(text(&connection, STATE), "awaiting-payment pending");
        assert_eq!(number(&connection, STOCK), 78, "held");
        assert_eq!(number(&connection, "SELECT count(*) FROM outbox"), 0);
        assert_eq!(pay(&mut connection, "pay_1"), Paid::Placed);
        for _ in 0..3 {
            assert_eq!(pay(&mut connection, "pay_1"), Paid::Already);
        }
        assert_eq!(text(&connection, STATE), "placed paid");
        assert!(!holds_are_due(&connection).unwrap());
        assert_eq!(expire(&mut connection), [] as [i64; 0], "what is paid does not expire");
        assert_eq!(number(&connection, STOCK), 78);
        assert_eq!(text(&connection, "SELECT group_concat(kind) FROM outbox"), "order-placed");
    }

    #[test]
    fn a_wrong_amount_or_currency_changes_nothing() {
        let (_folder, mut connection) = waiting();
        for (amount_paise, currency) in
            [(8_799, "INR"), (8_801, "INR"), (1, "INR"), (8_800, "USD"), (-8_800, "INR")]
        {
            let captured =
                Captured { payment_id: "pay_1".to_owned(), amount_paise, currency: currency.to_owned() };
            let paid = write(&mut connection, |transaction| mark_paid(transaction, 1, &captured).unwrap());
            assert_eq!(paid, Paid::WrongAmount);
        }
        assert_eq!(text(&connection, STATE), "awaiting-payment pending");
        let captured =
            Captured { payment_id: "pay_1".to_owned(), amount_paise: 8_800, currency: "INR".to_owned() };
        let paid = write(&mut connection, |transaction| mark_paid(transaction, 2, &captured).unwrap());
        assert_eq!(paid, Paid::Unknown);
    }

    #[test]
    fn an_unpaid_order_expires_and_a_late_payment_revives_it_while_there_are_goods() {
        let (_folder, mut connection) = waiting();
        assert!(!holds_are_due(&connection).unwrap());
        assert_eq!(expire(&mut connection), [1]);
        assert_eq!(expire(&mut connection), [] as [i64; 0]);
        assert_eq!((text(&connection, STATE).as_str(), number(&connection, STOCK)), ("expired pending", 80));
        assert_eq!(pay(&mut connection, "pay_1"), Paid::PlacedLate);
        assert_eq!((text(&connection, STATE).as_str(), number(&connection, STOCK)), ("placed paid", 78));
    }

    #[test]
    fn a_late_payment_for_goods_that_are_gone_goes_back_once() {
        let (_folder, mut connection) = waiting();
        expire(&mut connection);
        connection.execute("UPDATE products SET stock = 1 WHERE id = 1", []).unwrap();
        let Paid::RefundDue(refund) = pay(&mut connection, "pay_1") else { panic!("no refund") };
        assert_eq!(pay(&mut connection, "pay_1"), Paid::Already);
        assert_eq!(
            (text(&connection, STATE).as_str(), number(&connection, STOCK)),
            ("cancelled refunded", 1)
        );
        let due = "SELECT status || ' ' || amount_paise || ' ' || idempotency_key || ' ' || payment_id FROM refunds";
        assert_eq!(text(&connection, due), "due 8800 refund-pay_1 pay_1");
        write(&mut connection, |transaction| {
            refund_pending(transaction, refund, "rfnd_1").unwrap();
            refund_processed(transaction, refund, "rfnd_1").unwrap();
            refund_failed(transaction, refund, "heard of late").unwrap();
        });
        assert_eq!(
            text(&connection, "SELECT status FROM refunds"),
            "processed",
            "money that is back stays back"
        );
    }

    #[test]
    fn a_second_payment_goes_back_and_leaves_the_order_alone() {
        let (_folder, mut connection) = waiting();
        assert_eq!(pay(&mut connection, "pay_1"), Paid::Placed);
        assert!(matches!(pay(&mut connection, "pay_2"), Paid::RefundDue(_)));
        assert_eq!(pay(&mut connection, "pay_2"), Paid::Already);
        assert_eq!(number(&connection, "SELECT count(*) FROM refunds"), 1);
        assert_eq!(text(&connection, STATE), "placed paid");
        assert_eq!(number(&connection, "SELECT refunded_paise FROM orders"), 0);
        assert_eq!(text(&connection, "SELECT payment_id FROM payments"), "pay_1");
    }

    #[test]
    fn a_payment_of_a_cancelled_order_goes_back() {
        let (_folder, mut connection) = waiting();
        write(&mut connection, |transaction| {
            move_to(transaction, 1, State::Cancelled, Actor::Customer, "").unwrap()
        });
        assert_eq!(number(&connection, STOCK), 80);
        assert!(matches!(pay(&mut connection, "pay_1"), Paid::RefundDue(_)));
        assert_eq!(
            (text(&connection, STATE).as_str(), number(&connection, STOCK)),
            ("cancelled refunded", 80)
        );
    }

    #[test]
    fn a_refund_that_fails_is_owed_again() {
        let (_folder, mut connection) = waiting();
        pay(&mut connection, "pay_1");
        let ask = |connection: &mut Connection, paise, key: &str| {
            write(connection, |transaction| refund(transaction, 1, paise, "soft", Actor::Admin, key).unwrap())
        };
        let first = ask(&mut connection, 8_000, "refund-aaaaaaaaaa").unwrap();
        assert_eq!(ask(&mut connection, 801, "refund-bbbbbbbbbb"), Err(RefundRefused::TooMuch));
        assert_eq!(ask(&mut connection, 8_000, "refund-aaaaaaaaaa"), Err(RefundRefused::Twice));
        assert_eq!(text(&connection, STATE), "placed part-refunded");
        write(&mut connection, |transaction| refund_failed(transaction, first, "no balance").unwrap());
        assert_eq!(text(&connection, STATE), "placed paid");
        assert!(ask(&mut connection, 8_800, "refund-cccccccccc").is_ok());
        assert_eq!(text(&connection, STATE), "placed refunded");
    }
}
