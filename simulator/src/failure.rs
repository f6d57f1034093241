//! Why a payment failed.

use serde_json::{Value, json};

use crate::entity::Payment;

/// Why a payment failed, in the five fields of its entity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) code: &'static str,
    pub(crate) description: &'static str,
    pub(crate) source: &'static str,
    pub(crate) step: &'static str,
    pub(crate) reason: &'static str,
}

impl Failure {
    const AT_BANK: Self = Self {
        code: "BAD_REQUEST_ERROR",
        description: "Your payment didn't go through as it was declined by the bank. Try another payment method \
                      or contact your bank.",
        source: "bank",
        step: "payment_authorization",
        reason: "payment_failed",
    };
    /// The bank page's button.
    pub(crate) const DECLINED: Self = Self::AT_BANK;
    /// The test card for it.
    pub(crate) const NO_FUNDS: Self = Self {
        description: "Your payment could not be completed due to insufficient account balance. Try again with \
                      another card or payment method.",
        source: "customer",
        reason: "insufficient_funds",
        ..Self::AT_BANK
    };
    /// The customer left the bank's page.
    pub(crate) const CANCELLED: Self = Self {
        description: "Your payment has been cancelled. Try again or complete the payment later.",
        source: "customer",
        step: "payment_authentication",
        reason: "payment_cancelled",
        ..Self::AT_BANK
    };
    /// The bank said nothing for ten minutes.
    pub(crate) const TIMED_OUT: Self = Self {
        description: "Your payment was not completed on time. Please try again later.",
        source: "customer",
        step: "payment_authentication",
        reason: "payment_timed_out",
        ..Self::AT_BANK
    };

    /// The error as the checkout hands it to the page.
    pub(crate) fn for_page(&self, payment: &Payment) -> Value {
        json!({
            "code": self.code,
            "description": self.description,
            "source": self.source,
            "step": self.step,
            "reason": self.reason,
            "metadata": { "order_id": payment.order_id, "payment_id": payment.id },
        })
    }
}
