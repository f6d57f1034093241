//! How customers pay, and what must never be: a shop in production that takes play money, or a live key that is
//! told to a simulator.

use super::{Secret, SettingsError, secret_text, text};

const API: &str = "https://api.razorpay.com";
const CHECKOUT_JS: &str = "https://checkout.razorpay.com/v1/checkout.js";

/// What is at the other end when a customer pays online.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PaymentMode {
    /// Nobody: all is paid at the door.
    OnDelivery,
    /// Razorpay, real money.
    Live,
    /// Razorpay's test mode.
    Test,
    /// A stand-in on this machine.
    Simulator,
}

impl PaymentMode {
    /// The word in `/healthz` and in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OnDelivery => "on-delivery",
            Self::Live => "live",
            Self::Test => "test",
            Self::Simulator => "simulator",
        }
    }
}

/// The gateway and the keys to it.
#[allow(dead_code, reason = "read by what talks to the gateway")]
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    /// `RAZORPAY_KEY_ID`: public, it is in the payment page.
    pub(crate) key_id: String,
    /// `RAZORPAY_KEY_SECRET`.
    pub(crate) key_secret: Secret,
    /// `RAZORPAY_WEBHOOK_SECRET`, and `RAZORPAY_WEBHOOK_SECRET_OLD` while it is being changed: retries of older
    /// events are still signed with the old one.
    pub(crate) webhook_secrets: Vec<Secret>,
    /// `RAZORPAY_API_BASE`, without `/v1` and without a slash at the end.
    pub(crate) api_base: String,
    /// `RAZORPAY_CHECKOUT_JS`.
    pub(crate) checkout_js: String,
}

/// How customers can pay.
#[derive(Clone, Debug)]
pub(crate) struct Payments {
    pub(crate) mode: PaymentMode,
    /// `None`: at the door only.
    pub(crate) gateway: Option<Gateway>,
}

impl Payments {
    pub(super) fn from_env(production: bool, rehearsal: bool) -> Result<Self, SettingsError> {
        let refuse = |why: &str| Err(SettingsError::Payments(why.to_owned()));
        let none = Self { mode: PaymentMode::OnDelivery, gateway: None };
        let wanted = text("GREENGROCER_PAYMENTS");
        if let Some(word) = &wanted
            && !["on-delivery", "razorpay", "razorpay-test"].contains(&word.as_str())
        {
            let wanted = "`on-delivery`, `razorpay` or `razorpay-test`";
            return Err(SettingsError::Value { name: "GREENGROCER_PAYMENTS", value: word.clone(), wanted });
        }
        let wanted = wanted.as_deref();
        // A copy that is tried out asks nobody for money, whatever its settings say.
        if rehearsal || wanted == Some("on-delivery") {
            return Ok(none);
        }
        let Some(key_id) = text("RAZORPAY_KEY_ID") else {
            return match (production, wanted) {
                (true, _) | (_, Some(_)) => refuse(
                    "there are no Razorpay keys: set RAZORPAY_KEY_ID, RAZORPAY_KEY_SECRET and \
                     RAZORPAY_WEBHOOK_SECRET, or GREENGROCER_PAYMENTS=on-delivery for a shop that is paid at the \
                     door only",
                ),
                (false, None) => Ok(none),
            };
        };
        let (Some(key_secret), Some(webhook_secret)) =
            (secret_text("RAZORPAY_KEY_SECRET")?, secret_text("RAZORPAY_WEBHOOK_SECRET")?)
        else {
            return refuse("RAZORPAY_KEY_ID is set, RAZORPAY_KEY_SECRET or RAZORPAY_WEBHOOK_SECRET is not");
        };
        let live = key_id.starts_with("rzp_live_");
        if !live && !key_id.starts_with("rzp_test_") {
            return refuse("RAZORPAY_KEY_ID begins with neither rzp_live_ nor rzp_test_");
        }
        if webhook_secret.0 == key_secret.0 {
            return refuse("RAZORPAY_WEBHOOK_SECRET must be another secret than RAZORPAY_KEY_SECRET");
        }
        let base = text("RAZORPAY_API_BASE").unwrap_or_else(|| API.to_owned());
        let api_base = base.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let checkout_js = text("RAZORPAY_CHECKOUT_JS").unwrap_or_else(|| CHECKOUT_JS.to_owned());
        let simulated = api_base != API || checkout_js != CHECKOUT_JS;
        if simulated && (live || production) {
            return refuse(
                "RAZORPAY_API_BASE or RAZORPAY_CHECKOUT_JS name a simulator, and the key is a live one or \
                 GREENGROCER_ENV is production: remove them",
            );
        }
        if production && !live && wanted != Some("razorpay-test") {
            return refuse(
                "GREENGROCER_ENV is production and RAZORPAY_KEY_ID is a test key: customers would pay with play \
                 money. Set the live keys, or GREENGROCER_PAYMENTS=razorpay-test if that is meant",
            );
        }
        let mut webhook_secrets = vec![webhook_secret];
        webhook_secrets.extend(secret_text("RAZORPAY_WEBHOOK_SECRET_OLD")?);
        let mode = match (simulated, live) {
            (true, _) => PaymentMode::Simulator,
            (false, true) => PaymentMode::Live,
            (false, false) => PaymentMode::Test,
        };
        let gateway = Gateway { key_id, key_secret, webhook_secrets, api_base, checkout_js };
        Ok(Self { mode, gateway: Some(gateway) })
    }
}
