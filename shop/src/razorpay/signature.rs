//! Razorpay's two signatures, checked in constant time.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::settings::Secret;

/// Whether a browser brings proof that `payment_id` paid `order_id`. The order's id must be the stored one: one
/// that the browser brings could belong to a cheaper order.
pub(crate) fn of_payment(order_id: &str, payment_id: &str, signature: &str, key_secret: &Secret) -> bool {
    fits(format!("{order_id}|{payment_id}").as_bytes(), signature, key_secret)
}

/// Whether these are the bytes that Razorpay sent. While the secret is being changed there are two that count.
pub(crate) fn of_webhook(body: &[u8], signature: &str, secrets: &[Secret]) -> bool {
    secrets.iter().any(|secret| fits(body, signature, secret))
}

fn fits(bytes: &[u8], signature: &str, secret: &Secret) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes keys of every length");
    mac.update(bytes);
    hex::decode(signature).is_ok_and(|signature| mac.verify_slice(&signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret(text.as_bytes().to_vec())
    }

    const DOCUMENTED: (&str, &str, &str, &str) = (
        "order_IEIaMR65cu6nz3",
        "pay_IH4NVgf4Dreq1l",
        "0d4e745a1838664ad6c9c9902212a32d627d68e917290b0ad5f08ff4561bc50f",
        "EnLs21M47BllR3X8PSFtjtbd",
    );

    #[test]
    fn the_official_payment_vectors_match() {
        let (order, payment, signature, key) = DOCUMENTED;
        assert!(of_payment(order, payment, signature, &secret(key)));
        let signature = "b2335e3b0801106b84a7faff035df56ecffde06918c9ddd1f0fafbb37a51cc89";
        assert!(of_payment("fake_order_id", "fake_payment_id", signature, &secret("key_secret")));
    }

    #[test]
    fn the_official_webhook_vectors_match_the_raw_bytes_only() {
        let signature = "2fe04e22977002e6c7cb553adab8b460cb9e2a4970d5953cb27a8472752e3bbc";
        let secrets = [secret("123456")];
        assert!(of_webhook(br#"{"a":1,"b":2,"c":{"d":3}}"#, signature, &secrets));
        assert!(
            !of_webhook(br#"{"a":1,"b":2,"c":{"d":3} }"#, signature, &secrets),
            "the same JSON, other bytes"
        );
        // The official body ends with a newline: who trims it loses the signature.
        let body = include_bytes!("../../tests/payment-authorized-webhook.json");
        let signature = "d60e67fd884556c045e9be7dad57903e33efc7172c17c6e3ef77db42d2b366e9";
        assert!(of_webhook(body, signature, &[secret("another"), secret("key_secret")]), "either secret");
        assert!(!of_webhook(body.trim_ascii_end(), signature, &[secret("key_secret")]));
        assert!(!of_webhook(body, signature, &[]));
    }

    #[test]
    fn whatever_is_not_the_signature_is_refused() {
        let (order, payment, signature, key) = DOCUMENTED;
        let flipped = format!("{}e{}", &signature[..10], &signature[11..]);
        assert_ne!(flipped, signature);
        let longer = format!("{signature}00");
        for wrong in ["", &signature[..62], &longer, &flipped, "ünïcode", "zz", &format!(" {signature}")] {
            assert!(!of_payment(order, payment, wrong, &secret(key)), "{wrong:?}");
        }
        assert!(!of_payment(order, payment, signature, &secret("another")));
        assert!(!of_payment(payment, order, signature, &secret(key)));
        // The same bytes on the two sides of the bar are another pair.
        assert!(!of_payment("order_IEIaMR65cu6nz", "3|pay_IH4NVgf4Dreq1l", signature, &secret(key)));
    }
}
