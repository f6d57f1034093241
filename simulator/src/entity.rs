//! Orders, payments and refunds as Razorpay documents them, field by field.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Pairs of the caller's own. Razorpay writes no pairs as an empty list and not as an empty object.
pub(crate) type Notes = Map<String, Value>;

fn notes_as_razorpay_writes<S: serde::Serializer>(notes: &Notes, out: S) -> Result<S::Ok, S::Error> {
    if notes.is_empty() { out.collect_seq([(); 0]) } else { notes.serialize(out) }
}

/// A new identifier: the kind and fourteen letters and digits.
pub(crate) fn new_id(kind: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = [0u8; 14];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers on every Linux that runs this");
    let tail: String = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % 62])).collect();
    format!("{kind}_{tail}")
}

/// What is to be paid.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    entity: &'static str,
    pub(crate) amount: i64,
    pub(crate) amount_paid: i64,
    pub(crate) amount_due: i64,
    pub(crate) currency: String,
    pub(crate) receipt: Option<String>,
    offer_id: Option<String>,
    /// `created`, `attempted`, `paid`.
    pub(crate) status: &'static str,
    pub(crate) attempts: i64,
    #[serde(serialize_with = "notes_as_razorpay_writes")]
    notes: Notes,
    pub(crate) created_at: i64,
    #[serde(skip)]
    pub(crate) capture: Capture,
}

/// What happens to an authorised payment of an order. Minutes since the payment began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capture {
    /// Authorised within this, it is captured without being asked. `None`: only when asked.
    pub(crate) automatic: Option<i64>,
    /// Not captured within this, it goes back to the customer.
    pub(crate) manual: i64,
}

impl Default for Capture {
    /// An account's setting from the start: everything authorised within three days is captured.
    fn default() -> Self {
        Self { automatic: Some(3 * 24 * 60), manual: 5 * 24 * 60 }
    }
}

impl Order {
    pub(crate) fn new(amount: i64, currency: &str, receipt: Option<String>, notes: Notes, now: i64) -> Self {
        Self {
            id: new_id("order"),
            entity: "order",
            amount,
            amount_paid: 0,
            amount_due: amount,
            currency: currency.to_owned(),
            receipt,
            offer_id: None,
            status: "created",
            attempts: 0,
            notes,
            created_at: now,
            capture: Capture::default(),
        }
    }
}

/// How somebody pays.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// With the address of a UPI account.
    Upi(String),
    /// With a card of this number.
    Card(String),
    /// At the bank of this code.
    Netbanking(String),
}

/// An attempt to pay an order.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Payment {
    pub(crate) id: String,
    entity: &'static str,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    /// `created`, `authorized`, `captured`, `refunded`, `failed`.
    pub(crate) status: &'static str,
    pub(crate) order_id: String,
    invoice_id: Option<String>,
    international: bool,
    pub(crate) method: &'static str,
    pub(crate) amount_refunded: i64,
    pub(crate) refund_status: Option<&'static str>,
    pub(crate) captured: bool,
    description: Option<String>,
    card_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<Value>,
    bank: Option<String>,
    wallet: Option<String>,
    vpa: Option<String>,
    email: String,
    contact: String,
    #[serde(serialize_with = "notes_as_razorpay_writes")]
    notes: Notes,
    pub(crate) fee: Option<i64>,
    pub(crate) tax: Option<i64>,
    pub(crate) error_code: Option<&'static str>,
    pub(crate) error_description: Option<String>,
    pub(crate) error_source: Option<&'static str>,
    pub(crate) error_step: Option<&'static str>,
    pub(crate) error_reason: Option<&'static str>,
    acquirer_data: Value,
    pub(crate) created_at: i64,
}

impl Payment {
    pub(crate) fn new(order: &Order, method: &Method, who: &Payer, now: i64) -> Self {
        let mut payment = Self {
            id: new_id("pay"),
            entity: "payment",
            amount: order.amount,
            currency: order.currency.clone(),
            status: "created",
            order_id: order.id.clone(),
            invoice_id: None,
            international: false,
            method: "",
            amount_refunded: 0,
            refund_status: None,
            captured: false,
            description: who.description.clone(),
            card_id: None,
            card: None,
            bank: None,
            wallet: None,
            vpa: None,
            email: who.email.clone().unwrap_or_else(|| "void@razorpay.com".to_owned()),
            contact: who.contact.clone().unwrap_or_else(|| "+919999999999".to_owned()),
            notes: Notes::new(),
            fee: None,
            tax: None,
            error_code: None,
            error_description: None,
            error_source: None,
            error_step: None,
            error_reason: None,
            acquirer_data: json!({}),
            created_at: now,
        };
        match method {
            Method::Upi(vpa) => {
                payment.method = "upi";
                payment.vpa = Some(vpa.clone());
                payment.acquirer_data = json!({ "rrn": "012583617712" });
            }
            Method::Card(number) => {
                payment.method = "card";
                let id = new_id("card");
                payment.card = Some(json!({
                    "id": id, "entity": "card", "name": "", "last4": &number[number.len().saturating_sub(4)..],
                    "network": network(number), "type": "debit", "issuer": null, "international": false,
                    "emi": false, "sub_type": "consumer", "token_iin": null,
                }));
                payment.card_id = Some(id);
                payment.acquirer_data = json!({ "auth_code": "828553" });
            }
            Method::Netbanking(bank) => {
                payment.method = "netbanking";
                payment.bank = Some(bank.clone());
                payment.acquirer_data = json!({ "bank_transaction_id": "0125836177" });
            }
        }
        payment
    }
}

fn network(number: &str) -> &'static str {
    match number.as_bytes().first() {
        Some(b'4') => "Visa",
        Some(b'5') => "MasterCard",
        Some(b'6') => "RuPay",
        _ => "Unknown",
    }
}

/// What the shop's page said about the person who pays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Payer {
    pub(crate) email: Option<String>,
    pub(crate) contact: Option<String>,
    pub(crate) description: Option<String>,
}

/// Money going back.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Refund {
    pub(crate) id: String,
    entity: &'static str,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) payment_id: String,
    #[serde(serialize_with = "notes_as_razorpay_writes")]
    notes: Notes,
    pub(crate) receipt: Option<String>,
    acquirer_data: Value,
    pub(crate) created_at: i64,
    batch_id: Option<String>,
    /// `pending`, `processed`, `failed`.
    pub(crate) status: &'static str,
    speed_processed: &'static str,
    speed_requested: String,
}

impl Refund {
    pub(crate) fn new(
        payment: &Payment,
        amount: i64,
        speed: String,
        receipt: Option<String>,
        notes: Notes,
        now: i64,
    ) -> Self {
        Self {
            id: new_id("rfnd"),
            entity: "refund",
            amount,
            currency: payment.currency.clone(),
            payment_id: payment.id.clone(),
            notes,
            receipt,
            acquirer_data: json!({ "arn": null }),
            created_at: now,
            batch_id: None,
            status: "pending",
            speed_processed: "normal",
            speed_requested: speed,
        }
    }
}
