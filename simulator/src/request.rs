//! What the API's callers send, checked as Razorpay checks it.

use serde_json::{Map, Value};

use crate::entity::{Capture, Notes};
use crate::refusal::Refusal;

/// The smallest amount that is taken, in paise.
pub(crate) const LEAST: i64 = 100;

/// A request's body: an object, or nothing at all.
pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Refusal::bad("The request body is not a valid JSON object.")),
    }
}

/// Refuses fields that the call does not know, as Razorpay does: a misspelt name is no option.
pub(crate) fn only(fields: &Map<String, Value>, known: &[&str]) -> Result<(), Refusal> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Refusal::bad(format!("{name} is/are not required and should not be sent"))),
        None => Ok(()),
    }
}

/// An amount in paise. A number in quotes counts, one with a point does not.
pub(crate) fn amount(fields: &Map<String, Value>) -> Result<Option<i64>, Refusal> {
    let whole = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    match fields.get("amount") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match whole(value) {
            Some(amount) if amount >= LEAST => Ok(Some(amount)),
            Some(_) => Err(Refusal::field("amount", "The amount must be at least INR 1.00")),
            None => Err(Refusal::field("amount", "The amount must be an integer.")),
        },
    }
}

pub(crate) fn currency(fields: &Map<String, Value>) -> Result<String, Refusal> {
    match fields.get("currency") {
        None => Err(Refusal::field("currency", "The currency field is required.")),
        Some(Value::String(code)) if code == "INR" => Ok(code.clone()),
        Some(_) => Err(Refusal::field("currency", "Currency is not supported")),
    }
}

pub(crate) fn receipt(fields: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    match fields.get("receipt") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(receipt)) if receipt.chars().count() <= 40 => Ok(Some(receipt.clone())),
        Some(Value::String(_)) => {
            Err(Refusal::field("receipt", "The receipt may not be greater than 40 characters."))
        }
        Some(_) => Err(Refusal::field("receipt", "The receipt must be a string.")),
    }
}

pub(crate) fn notes(fields: &Map<String, Value>) -> Result<Notes, Refusal> {
    let notes = match fields.get("notes") {
        None | Some(Value::Null) => return Ok(Notes::new()),
        Some(Value::Array(none)) if none.is_empty() => return Ok(Notes::new()),
        Some(Value::Object(notes)) => notes.clone(),
        Some(_) => return Err(Refusal::field("notes", "The notes must be an array.")),
    };
    if notes.len() > 15 {
        return Err(Refusal::field("notes", "Number of fields in notes should be less than or equal to 15"));
    }
    let long = |value: &Value| value.as_str().is_some_and(|text| text.chars().count() > 256);
    match notes.values().any(long) {
        true => Err(Refusal::field("notes", "notes value cannot be greater than 256 characters")),
        false => Ok(notes),
    }
}

/// `payment: {capture, capture_options}` of an order.
pub(crate) fn capture(fields: &Map<String, Value>) -> Result<Capture, Refusal> {
    let usual = Capture::default();
    let Some(payment) = fields.get("payment") else { return Ok(usual) };
    let minutes = |name: &str| payment["capture_options"][name].as_i64();
    let automatic = minutes("automatic_expiry_period");
    if automatic.is_some_and(|minutes| minutes < 12) {
        return Err(Refusal::bad("The automatic_expiry_period must be at least 12."));
    }
    let manual = minutes("manual_expiry_period").unwrap_or(usual.manual);
    match payment["capture"].as_str() {
        Some("automatic") => Ok(Capture { automatic: automatic.or(usual.automatic), manual }),
        Some("manual") => Ok(Capture { automatic: None, manual }),
        _ => Err(Refusal::bad("The capture must be automatic or manual.")),
    }
}
