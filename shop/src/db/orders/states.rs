//! The states of an order, who may move it where, and what a move does beside.

use rusqlite::{OptionalExtension, Transaction};

use super::super::{Result, outbox, stock};

/// How far an order has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// To be paid online; its goods are held for it.
    AwaitingPayment,
    /// The payment did not come in time; its goods are back on the shelf. A late payment can still revive it.
    Expired,
    /// The shop has to deliver it.
    Placed,
    /// Ready to go.
    Packed,
    /// On its way.
    Out,
    /// At the customer's door.
    Delivered,
    /// Called off.
    Cancelled,
}

/// Who moves an order.
#[allow(dead_code, reason = "payments are told by what talks to the gateway")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Actor {
    /// Whoever has the order's private link.
    Customer,
    /// Somebody who runs the shop.
    Admin,
    /// A payment that came.
    Payment,
    /// Time that has passed.
    Clock,
}

impl Actor {
    /// The name in the history.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Admin => "admin",
            Self::Payment => "payment",
            Self::Clock => "clock",
        }
    }
}

impl State {
    /// Every state, in the order in which they come.
    pub(crate) const ALL: [Self; 7] = [
        Self::AwaitingPayment,
        Self::Placed,
        Self::Packed,
        Self::Out,
        Self::Delivered,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The name in the database, in forms and in addresses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AwaitingPayment => "awaiting-payment",
            Self::Expired => "expired",
            Self::Placed => "placed",
            Self::Packed => "packed",
            Self::Out => "out",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Where `actor` may move an order from here. Delivered and cancelled are the end for everybody.
    pub(crate) fn next(self, actor: Actor) -> &'static [Self] {
        match (self, actor) {
            (Self::AwaitingPayment, Actor::Payment) | (Self::Expired, Actor::Payment) => {
                &[Self::Placed, Self::Cancelled]
            }
            (Self::AwaitingPayment, Actor::Clock) => &[Self::Expired],
            (Self::AwaitingPayment, Actor::Customer | Actor::Admin) => &[Self::Cancelled],
            (Self::Placed, Actor::Customer) => &[Self::Cancelled],
            (Self::Placed, Actor::Admin) => &[Self::Packed, Self::Cancelled],
            (Self::Packed, Actor::Admin) => &[Self::Out, Self::Cancelled],
            (Self::Out, Actor::Admin) => &[Self::Delivered, Self::Cancelled],
            _ => &[],
        }
    }

    /// Its goods are off the shelf.
    pub(super) fn has_goods(self) -> bool {
        matches!(self, Self::AwaitingPayment | Self::Placed | Self::Packed | Self::Out)
    }
}

/// What came of moving an order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Moved {
    /// It is there now.
    Done,
    /// There is no such order.
    Unknown,
    /// It is not in a state from which this actor may move it there.
    NotFrom(State),
}

/// Moves an order on, notes it in the history and queues the mail about it.
///
/// Delivery marks an order paid that is paid at the door; cancelling and expiring put the goods back on the shelf.
/// Whether money is owed back is the caller's business: see [`super::refund`].
pub(crate) fn move_to(
    transaction: &Transaction<'_>,
    id: i64,
    to: State,
    actor: Actor,
    note: &str,
) -> Result<Moved> {
    let Some(from) = state_of(transaction, id)? else { return Ok(Moved::Unknown) };
    if !from.next(actor).contains(&to) {
        return Ok(Moved::NotFrom(from));
    }
    transaction.execute(
        "UPDATE orders SET state = ?2,
             payment_status = CASE WHEN ?2 = 'delivered' AND payment_method = 'on-delivery'
                 AND payment_status = 'pending' THEN 'paid' ELSE payment_status END,
             updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE id = ?1",
        (id, to.name()),
    )?;
    if from.has_goods() && matches!(to, State::Cancelled | State::Expired) {
        let reason = if to == State::Expired { "expired" } else { "cancelled" };
        stock::give_back(transaction, id, reason)?;
    }
    let hold = match to {
        State::Placed => "kept",
        _ => "released",
    };
    if from == State::AwaitingPayment {
        transaction.execute(
            "UPDATE stock_holds SET status = ?2, updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
             WHERE order_id = ?1 AND status = 'held'",
            (id, hold),
        )?;
    }
    note_step(transaction, id, Some(from), to, actor, note)?;
    outbox::tell_of_order(transaction, id, to.name())?;
    Ok(Moved::Done)
}

/// The state of an order, `None` when there is none.
pub(super) fn state_of(transaction: &Transaction<'_>, id: i64) -> Result<Option<State>> {
    let sql = "SELECT state FROM orders WHERE id = ?1";
    let name: Option<String> = transaction.query_row(sql, [id], |row| row.get(0)).optional()?;
    Ok(name.as_deref().and_then(State::named))
}

/// Writes one line of an order's history.
pub(in crate::db) fn note_step(
    transaction: &Transaction<'_>,
    id: i64,
    from: Option<State>,
    to: State,
    actor: Actor,
    note: &str,
) -> Result<()> {
    transaction.execute(
        "INSERT INTO order_history (order_id, from_state, to_state, actor, note) VALUES (?1, ?2, ?3, ?4, ?5)",
        (id, from.map(State::name), to.name(), actor.name(), note),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for state in State::ALL {
            assert_eq!(State::named(state.name()), Some(state));
        }
        assert_eq!(State::named("paid"), None);
    }

    #[test]
    fn nobody_moves_what_has_ended_and_customers_only_cancel_what_is_not_packed() {
        let actors = [Actor::Customer, Actor::Admin, Actor::Payment, Actor::Clock];
        for actor in actors {
            assert!(State::Delivered.next(actor).is_empty() && State::Cancelled.next(actor).is_empty());
        }
        for state in State::ALL {
            let may = state.next(Actor::Customer);
            let early = matches!(state, State::Placed | State::AwaitingPayment);
            assert_eq!(may, if early { &[State::Cancelled][..] } else { &[] }, "{state:?}");
            assert!(!state.next(Actor::Admin).contains(&State::Placed), "only payments place: {state:?}");
        }
    }
}
