//! `checkout.js`, and the pages that it opens in a frame: ways to pay, the test bank, and how it ended.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::entity::{Method, Payer, Payment};
use crate::failure::Failure;
use crate::refusal::Refusal;
use crate::{World, signature};

pub(crate) fn routes() -> Router<Arc<World>> {
    let script = |text: &'static str| get(async move || ([(header::CONTENT_TYPE, "text/javascript")], text));
    Router::new()
        .route("/v1/checkout.js", script(include_str!("../pages/checkout.js")))
        .route("/v1/checkout/inside.js", script(include_str!("../pages/inside.js")))
        .route("/v1/checkout/page", get(choose))
        .route("/v1/checkout/pay", post(pay))
        .route("/v1/checkout/bank", post(bank))
}

/// What the shop's page asked for; it is carried from page to page.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Wanted {
    key: String,
    order_id: String,
    /// The origin of the shop's page: nobody else is told anything.
    parent: String,
    name: String,
    description: String,
    email: String,
    contact: String,
    callback_url: String,
    /// Not empty: the shop is told by a form to `callback_url` and not by its page's script.
    redirect: String,
    /// Not empty: after a failure one may try again here.
    retry: String,
    payment_id: String,
}

/// A form of the pages: the carried fields and the choice. Flat, because `serde(flatten)` cannot read forms' texts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    method: String,
    vpa: String,
    card: String,
    answer: String,
}

fn page(view: &str, wanted: &Wanted, values: Value) -> Response {
    let mut pages = Environment::new();
    pages.set_auto_escape_callback(|_| AutoEscape::Html);
    let template = include_str!("../pages/frame.html");
    let context = json!(wanted);
    let every = context! {
        view => view,
        context => Serde(context),
        parent => wanted.parent.as_str(),
        name => wanted.name.as_str(),
        description => wanted.description.as_str(),
        retry => !wanted.retry.is_empty(),
        callback_url => wanted.callback_url.as_str(),
    };
    match pages.render_str(template, context! { ..values, ..every }) {
        Ok(html) => Html(html).into_response(),
        Err(error) => Refusal::bad(error.to_string()).into_response(),
    }
}

fn rupees(paise: i64) -> String {
    format!("₹{}.{:02}", paise / 100, paise % 100)
}

/// Whether this key may have this order paid, and how much that is: the page's own amount is never asked.
fn amount(world: &World, wanted: &Wanted) -> Result<i64, Refusal> {
    if wanted.key != world.account().key_id {
        return Err(Refusal::unauthorised());
    }
    world.with_ledger(|ledger, _| ledger.order(&wanted.order_id).map(|order| order.amount))
}

fn impossible(wanted: &Wanted, refusal: &Refusal) -> Response {
    page("impossible", wanted, context! { error => refusal.description.as_str() })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Prefilled {
    vpa: String,
}

async fn choose(
    State(world): State<Arc<World>>,
    Query(wanted): Query<Wanted>,
    Query(prefilled): Query<Prefilled>,
) -> Response {
    match amount(&world, &wanted) {
        Ok(amount) => {
            let values = context! { amount => rupees(amount), vpa => prefilled.vpa, error => "" };
            page("choose", &wanted, values)
        }
        Err(refusal) => impossible(&wanted, &refusal),
    }
}

/// What the test cards and UPI addresses do.
enum Course {
    AtOnce(Result<(), Failure>),
    AskTheBank,
}

fn course(choice: &Choice) -> Result<(Method, Course), &'static str> {
    match choice.method.as_str() {
        "upi" => {
            let vpa = choice.vpa.trim().to_owned();
            match vpa.as_str() {
                "success@razorpay" => Ok((Method::Upi(vpa), Course::AtOnce(Ok(())))),
                "failure@razorpay" => Ok((Method::Upi(vpa), Course::AtOnce(Err(Failure::DECLINED)))),
                _ => Err("In test mode the UPI addresses are success@razorpay and failure@razorpay."),
            }
        }
        "card" => {
            let digits: String = choice.card.chars().filter(char::is_ascii_digit).collect();
            let course = match digits.as_str() {
                "4100280000001007" | "5500670000001002" | "6527658900001005" => Course::AskTheBank,
                "4100280000080001" => Course::AtOnce(Err(Failure::NO_FUNDS)),
                "4100280000090000" => Course::AtOnce(Err(Failure::TIMED_OUT)),
                _ => return Err("In test mode only the test cards are taken."),
            };
            Ok((Method::Card(digits), course))
        }
        "netbanking" => Ok((Method::Netbanking("HDFC".to_owned()), Course::AskTheBank)),
        _ => Err("There is no such way to pay."),
    }
}

/// The carried fields and the choice of one form.
fn both(fields: &[(String, String)]) -> (Wanted, Choice) {
    let object: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let object = serde_json::Value::Object(object);
    // Every field is a text with a default: reading them cannot fail.
    let wanted = serde_json::from_value(object.clone()).unwrap_or_default();
    (wanted, serde_json::from_value(object).unwrap_or_default())
}

async fn pay(State(world): State<Arc<World>>, Form(fields): Form<Vec<(String, String)>>) -> Response {
    let (mut wanted, choice) = both(&fields);
    let amount = match amount(&world, &wanted) {
        Ok(amount) => amount,
        Err(refusal) => return impossible(&wanted, &refusal),
    };
    let (method, course) = match course(&choice) {
        Ok(known) => known,
        Err(error) => {
            let values = context! { amount => rupees(amount), vpa => choice.vpa, error => error };
            return page("choose", &wanted, values);
        }
    };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let who = Payer {
        email: some(&wanted.email),
        contact: some(&wanted.contact),
        description: some(&wanted.description),
    };
    let begun = world.with_ledger(|ledger, now| {
        let payment = ledger.begin_payment(&wanted.order_id, &method, &who, now)?;
        match &course {
            Course::AtOnce(Ok(())) => ledger.authorise(&payment.id, now),
            Course::AtOnce(Err(failure)) => ledger.fail(&payment.id, failure, now),
            Course::AskTheBank => Ok(payment),
        }
    });
    match (begun, course) {
        (Err(refusal), _) => impossible(&wanted, &refusal),
        (Ok(payment), Course::AtOnce(Ok(()))) => succeeded(&world, &wanted, &payment),
        (Ok(payment), Course::AtOnce(Err(failure))) => failed(&wanted, &payment, &failure),
        (Ok(payment), Course::AskTheBank) => {
            wanted.payment_id = payment.id;
            page("bank", &wanted, context! { amount => rupees(amount) })
        }
    }
}

async fn bank(State(world): State<Arc<World>>, Form(fields): Form<Vec<(String, String)>>) -> Response {
    let (wanted, choice) = both(&fields);
    let id = wanted.payment_id.clone();
    let failure = match choice.answer.as_str() {
        "success" => None,
        "failure" => Some(Failure::DECLINED),
        "cancel" => Some(Failure::CANCELLED),
        _ => return page("silent", &wanted, context! {}),
    };
    let answered = world.with_ledger(|ledger, now| match &failure {
        None => ledger.authorise(&id, now),
        Some(failure) => ledger.fail(&id, failure, now),
    });
    match (answered, failure) {
        (Err(refusal), _) => impossible(&wanted, &refusal),
        (Ok(payment), None) => succeeded(&world, &wanted, &payment),
        (Ok(payment), Some(failure)) => failed(&wanted, &payment, &failure),
    }
}

/// The three fields that the shop is brought, and nothing else.
fn succeeded(world: &World, wanted: &Wanted, payment: &Payment) -> Response {
    let fields = json!({
        "razorpay_payment_id": payment.id,
        "razorpay_order_id": payment.order_id,
        "razorpay_signature":
            signature::of_payment(&payment.order_id, &payment.id, &world.account().key_secret),
    });
    if wanted.redirect.is_empty() {
        page("paid", wanted, context! { paid => fields.to_string() })
    } else {
        page("onward", wanted, context! { fields => Serde(fields) })
    }
}

fn failed(wanted: &Wanted, payment: &Payment, failure: &Failure) -> Response {
    let error = failure.for_page(payment);
    page("failed", wanted, context! { error => failure.description, failed => error.to_string() })
}
