//! Razorpay's signatures: HMAC-SHA-256, as lower-case hexadecimal.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a browser brings back from the checkout: over the order, a bar and the payment, with the key's secret.
pub fn of_payment(order_id: &str, payment_id: &str, key_secret: &str) -> String {
    sign(format!("{order_id}|{payment_id}").as_bytes(), key_secret)
}

/// What a webhook bears in `X-Razorpay-Signature`: over the raw body, with the webhook's own secret.
pub fn of_webhook(body: &[u8], webhook_secret: &str) -> String {
    sign(body, webhook_secret)
}

fn sign(bytes: &[u8], secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of every length");
    mac.update(bytes);
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four vectors of Razorpay's documentation and client libraries, the same that the shop is held to.
    #[test]
    fn the_official_vectors_match() {
        let payment = of_payment("order_IEIaMR65cu6nz3", "pay_IH4NVgf4Dreq1l", "EnLs21M47BllR3X8PSFtjtbd");
        assert_eq!(payment, "0d4e745a1838664ad6c9c9902212a32d627d68e917290b0ad5f08ff4561bc50f");
        let payment = of_payment("fake_order_id", "fake_payment_id", "key_secret");
        assert_eq!(payment, "b2335e3b0801106b84a7faff035df56ecffde06918c9ddd1f0fafbb37a51cc89");
        let webhook = of_webhook(br#"{"a":1,"b":2,"c":{"d":3}}"#, "123456");
        assert_eq!(webhook, "2fe04e22977002e6c7cb553adab8b460cb9e2a4970d5953cb27a8472752e3bbc");
        // 971 bytes with the final newline: one byte less and it is another signature.
        let body = include_bytes!("../tests/payment-authorized-webhook.json");
        assert_eq!(body.len(), 971);
        let webhook = of_webhook(body, "key_secret");
        assert_eq!(webhook, "d60e67fd884556c045e9be7dad57903e33efc7172c17c6e3ef77db42d2b366e9");
        assert_ne!(of_webhook(body.trim_ascii_end(), "key_secret"), webhook);
    }
}
