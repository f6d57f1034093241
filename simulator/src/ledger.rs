//! The books: what may happen to orders, payments and refunds, and the events that tell of it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::entity::{Method, Order, Payer, Payment, Refund, new_id};
use crate::failure::Failure;
use crate::refusal::Refusal;
use crate::request;

/// A payment that its bank says nothing about is failed after this, in seconds.
const SILENCE: i64 = 10 * 60;

/// Something that happened, as a webhook tells it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) name: &'static str,
    /// The exact bytes that are signed and sent, again with every retry.
    pub(crate) body: String,
}

/// How a refund goes, from the next one on.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum RefundCourse {
    /// At once.
    #[default]
    Processed,
    /// It waits until it is settled by hand.
    Pending,
}

/// What Razorpay knows.
#[derive(Debug)]
pub(crate) struct Ledger {
    account: String,
    orders: Vec<Order>,
    payments: Vec<Payment>,
    refunds: Vec<Refund>,
    idempotency: HashMap<String, (String, String)>,
    events: Vec<Event>,
    pub(crate) refund_course: RefundCourse,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            account: new_id("acc"),
            orders: Vec::new(),
            payments: Vec::new(),
            refunds: Vec::new(),
            idempotency: HashMap::new(),
            events: Vec::new(),
            refund_course: RefundCourse::default(),
        }
    }
}

impl Ledger {
    /// The events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn tell(&mut self, name: &'static str, entities: &[(&str, Value)], now: i64) {
        let payload: Map<String, Value> =
            entities.iter().map(|(kind, entity)| ((*kind).to_owned(), json!({ "entity": entity }))).collect();
        let contains: Vec<&str> = entities.iter().map(|(kind, _)| *kind).collect();
        let body = json!({
            "entity": "event",
            "account_id": self.account,
            "event": name,
            "contains": contains,
            "payload": payload,
            "created_at": now,
        });
        self.events.push(Event { id: new_id("evt"), name, body: body.to_string() });
    }

    pub(crate) fn create_order(&mut self, fields: &Map<String, Value>, now: i64) -> Result<Order, Refusal> {
        const KNOWN: [&str; 6] = ["amount", "currency", "receipt", "notes", "partial_payment", "payment"];
        request::only(fields, &KNOWN)?;
        let amount = request::amount(fields)?
            .ok_or_else(|| Refusal::field("amount", "The amount field is required."))?;
        let (currency, receipt) = (request::currency(fields)?, request::receipt(fields)?);
        let mut order = Order::new(amount, &currency, receipt, request::notes(fields)?, now);
        order.capture = request::capture(fields)?;
        self.orders.push(order.clone());
        Ok(order)
    }

    pub(crate) fn order(&self, id: &str) -> Result<&Order, Refusal> {
        self.orders.iter().find(|order| order.id == id).ok_or_else(Refusal::unknown_id)
    }

    pub(crate) fn payment(&self, id: &str) -> Result<&Payment, Refusal> {
        self.payments.iter().find(|payment| payment.id == id).ok_or_else(Refusal::unknown_id)
    }

    pub(crate) fn refund(&self, id: &str) -> Result<&Refund, Refusal> {
        self.refunds.iter().find(|refund| refund.id == id).ok_or_else(Refusal::unknown_id)
    }

    fn order_mut(&mut self, id: &str) -> Result<&mut Order, Refusal> {
        self.orders.iter_mut().find(|order| order.id == id).ok_or_else(Refusal::unknown_id)
    }

    fn payment_mut(&mut self, id: &str) -> Result<&mut Payment, Refusal> {
        self.payments.iter_mut().find(|payment| payment.id == id).ok_or_else(Refusal::unknown_id)
    }

    /// The newest first, as Razorpay lists them.
    pub(crate) fn orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.iter().rev()
    }

    pub(crate) fn payments(&self) -> impl Iterator<Item = &Payment> {
        self.payments.iter().rev()
    }

    pub(crate) fn refunds(&self) -> impl Iterator<Item = &Refund> {
        self.refunds.iter().rev()
    }

    /// Somebody begins to pay. The amount is the order's, whatever the page said.
    pub(crate) fn begin_payment(
        &mut self,
        order_id: &str,
        method: &Method,
        who: &Payer,
        now: i64,
    ) -> Result<Payment, Refusal> {
        let order = self.order(order_id)?;
        let taken = self
            .payments
            .iter()
            .any(|payment| payment.order_id == order_id && payment.status == "authorized");
        if order.status == "paid" || taken {
            return Err(Refusal::bad(
                "Your payment has been declined as the order is already paid. Please initiate the payment \
                 with a new order.",
            ));
        }
        let payment = Payment::new(order, method, who, now);
        let order = self.order_mut(order_id)?;
        order.attempts += 1;
        order.status = "attempted";
        self.payments.push(payment.clone());
        Ok(payment)
    }

    /// The bank says yes, now or much later: a failed payment may still be authorised.
    pub(crate) fn authorise(&mut self, id: &str, now: i64) -> Result<Payment, Refusal> {
        let payment = self.payment(id)?.clone();
        if !matches!(payment.status, "created" | "failed") {
            return Err(Refusal::bad(format!("The payment is {} and cannot be authorised.", payment.status)));
        }
        let order = self.order(&payment.order_id)?;
        let waited = (now - payment.created_at) / 60;
        let captured = order.status != "paid" && order.capture.automatic.is_some_and(|most| waited <= most);
        let changed = self.payment_mut(id)?;
        changed.status = "authorized";
        changed.error_code = None;
        changed.error_description = None;
        changed.error_source = None;
        changed.error_step = None;
        changed.error_reason = None;
        let mut told = json!(changed);
        // As documented: an authorised card payment that is captured in the same breath is told as `authorized`
        // with `captured: true` and empty texts where others have null.
        if captured && payment.method == "card" {
            told["captured"] = json!(true);
            told["error_code"] = json!("");
            told["error_description"] = json!("");
        }
        self.tell("payment.authorized", &[("payment", told)], now);
        if captured {
            self.capture_now(id, now)?;
        }
        Ok(self.payment(id)?.clone())
    }

    /// The bank says no, or nobody answers.
    pub(crate) fn fail(&mut self, id: &str, why: &Failure, now: i64) -> Result<Payment, Refusal> {
        let payment = self.payment_mut(id)?;
        if payment.status != "created" {
            return Err(Refusal::bad(format!("The payment is {} and cannot fail.", payment.status)));
        }
        payment.status = "failed";
        payment.error_code = Some(why.code);
        payment.error_description = Some(why.description.to_owned());
        payment.error_source = Some(why.source);
        payment.error_step = Some(why.step);
        payment.error_reason = Some(why.reason);
        let payment = payment.clone();
        self.tell("payment.failed", &[("payment", json!(payment))], now);
        Ok(payment)
    }

    /// Captures when asked: exactly what was authorised.
    pub(crate) fn capture(
        &mut self,
        id: &str,
        fields: &Map<String, Value>,
        now: i64,
    ) -> Result<Payment, Refusal> {
        request::only(fields, &["amount", "currency"])?;
        let amount = request::amount(fields)?
            .ok_or_else(|| Refusal::field("amount", "The amount field is required."))?;
        let currency = request::currency(fields)?;
        let payment = self.payment(id)?;
        match payment.status {
            "authorized" => {}
            "captured" | "refunded" => return Err(Refusal::bad("This payment has already been captured")),
            _ => return Err(Refusal::bad("Only payments which have been authorized can be captured")),
        }
        if self.order(&payment.order_id)?.status == "paid" {
            return Err(Refusal::bad(
                "Your payment has been declined as the order is already paid. Please initiate the payment \
                 with a new order.",
            ));
        }
        if amount != payment.amount || currency != payment.currency {
            return Err(Refusal::bad("Capture amount must be equal to the amount authorized."));
        }
        self.capture_now(id, now)
    }

    fn capture_now(&mut self, id: &str, now: i64) -> Result<Payment, Refusal> {
        let payment = self.payment_mut(id)?;
        payment.status = "captured";
        payment.captured = true;
        // Two in a hundred for Razorpay and eighteen in a hundred of that for the state.
        let fee = payment.amount * 2 / 100;
        let tax = fee * 18 / 100;
        payment.fee = Some(fee + tax);
        payment.tax = Some(tax);
        let payment = payment.clone();
        let order = self.order_mut(&payment.order_id)?;
        order.status = "paid";
        order.amount_paid = order.amount;
        order.amount_due = 0;
        let order = order.clone();
        self.tell("payment.captured", &[("payment", json!(payment))], now);
        self.tell("order.paid", &[("payment", json!(payment)), ("order", json!(order))], now);
        Ok(payment)
    }

    /// Sends money back. The same key with the same body is the same refund.
    pub(crate) fn create_refund(
        &mut self,
        payment_id: &str,
        body: &[u8],
        key: Option<&str>,
        now: i64,
    ) -> Result<Refund, Refusal> {
        let fields = request::object(body)?;
        request::only(&fields, &["amount", "speed", "notes", "receipt"])?;
        let asked = request::amount(&fields)?;
        let hash = hex::encode(Sha256::digest([payment_id.as_bytes(), b"\n", body].concat()));
        if let Some(key) = key {
            let fits =
                key.len() >= 10 && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            if !fits {
                return Err(Refusal::bad("The idempotency key must have at least 10 characters."));
            }
            if let Some((first, refund)) = self.idempotency.get(key) {
                if *first != hash {
                    return Err(Refusal::bad(
                        "Different request with the same idempotency key has already been processed.",
                    ));
                }
                return self.refund(refund).cloned();
            }
        }
        let payment = self.payment(payment_id)?;
        match payment.status {
            "captured" => {}
            "refunded" => return Err(Refusal::bad("The payment has been fully refunded already")),
            _ => return Err(Refusal::bad("The payment status should be captured for action to be taken")),
        }
        let left = payment.amount - payment.amount_refunded;
        let amount = asked.unwrap_or(left);
        if amount > left {
            return Err(Refusal::field(
                "amount",
                "The refund amount provided is greater than amount captured",
            ));
        }
        let speed = fields.get("speed").and_then(Value::as_str).unwrap_or("normal").to_owned();
        if !matches!(speed.as_str(), "normal" | "optimum") {
            return Err(Refusal::field("speed", "The speed must be normal or optimum."));
        }
        let (receipt, notes) = (request::receipt(&fields)?, request::notes(&fields)?);
        let refund = Refund::new(payment, amount, speed, receipt, notes, now);
        self.refunds.push(refund.clone());
        if let Some(key) = key {
            self.idempotency.insert(key.to_owned(), (hash, refund.id.clone()));
        }
        self.count_refund(payment_id, amount)?;
        let payment = self.payment(payment_id)?.clone();
        self.tell("refund.created", &[("refund", json!(refund)), ("payment", json!(payment))], now);
        match self.refund_course {
            RefundCourse::Processed => self.settle_refund(&refund.id, true, now),
            RefundCourse::Pending => Ok(refund),
        }
    }

    fn count_refund(&mut self, payment_id: &str, more: i64) -> Result<(), Refusal> {
        let payment = self.payment_mut(payment_id)?;
        payment.amount_refunded += more;
        let (refunded, amount) = (payment.amount_refunded, payment.amount);
        payment.refund_status = match refunded {
            0 => None,
            some if some == amount => Some("full"),
            _ => Some("partial"),
        };
        payment.status = if refunded == amount { "refunded" } else { "captured" };
        Ok(())
    }

    /// Ends a pending refund. A failed one has not left the account.
    pub(crate) fn settle_refund(&mut self, id: &str, good: bool, now: i64) -> Result<Refund, Refusal> {
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id);
        let refund = refund.ok_or_else(Refusal::unknown_id)?;
        if refund.status != "pending" {
            return Err(Refusal::bad(format!("The refund is {} already.", refund.status)));
        }
        refund.status = if good { "processed" } else { "failed" };
        let refund = refund.clone();
        if !good {
            self.count_refund(&refund.payment_id, -refund.amount)?;
        }
        let payment = self.payment(&refund.payment_id)?.clone();
        let name = if good { "refund.processed" } else { "refund.failed" };
        self.tell(name, &[("refund", json!(refund)), ("payment", json!(payment))], now);
        Ok(refund)
    }

    /// What time alone does: silent payments fail, and what nobody captures goes back.
    pub(crate) fn pass_time(&mut self, now: i64) {
        let silent: Vec<String> = self
            .payments
            .iter()
            .filter(|payment| payment.status == "created" && now - payment.created_at >= SILENCE)
            .map(|payment| payment.id.clone())
            .collect();
        for id in silent {
            // It is in the books and `created`: this cannot be refused.
            let _ = self.fail(&id, &Failure::TIMED_OUT, now);
        }
        let manual: HashMap<&str, i64> =
            self.orders.iter().map(|order| (order.id.as_str(), order.capture.manual)).collect();
        let late = |payment: &&mut Payment| {
            let most = manual.get(payment.order_id.as_str()).copied().unwrap_or(i64::MAX / 60);
            payment.status == "authorized" && now - payment.created_at >= most * 60
        };
        for payment in self.payments.iter_mut().filter(late) {
            payment.status = "refunded";
            payment.refund_status = Some("full");
            payment.amount_refunded = payment.amount;
        }
    }
}
