//! Signatures over what browsers keep for the shop: HMAC-SHA-256, one purpose never standing in for another.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::settings::Secret;

/// Signs and checks with the shop's secret.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    secret: Secret,
}

impl Signer {
    pub(crate) fn new(secret: Secret) -> Self {
        Self { secret }
    }

    /// The signature of `parts` for `purpose`, as hexadecimal.
    pub(crate) fn sign(&self, purpose: &str, parts: &[&str]) -> String {
        hex::encode(self.mac(purpose, parts).finalize().into_bytes())
    }

    /// Whether `signature` is that of `parts`; takes the same time wherever they differ.
    pub(crate) fn verify(&self, purpose: &str, parts: &[&str], signature: &str) -> bool {
        hex::decode(signature).is_ok_and(|bytes| self.mac(purpose, parts).verify_slice(&bytes).is_ok())
    }

    fn mac(&self, purpose: &str, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret.0).expect("HMAC takes keys of every length");
        for part in [purpose].iter().chain(parts) {
            // The length in front keeps ("ab", "c") and ("a", "bc") apart.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_parts_for_the_same_purpose_verify() {
        let signer = Signer::new(Secret(vec![7; 32]));
        let signature = signer.sign("csrf", &["ab", "c"]);
        assert!(signer.verify("csrf", &["ab", "c"], &signature));
        assert!(!signer.verify("csrf", &["a", "bc"], &signature));
        assert!(!signer.verify("cart", &["ab", "c"], &signature));
        assert!(!Signer::new(Secret(vec![8; 32])).verify("csrf", &["ab", "c"], &signature));
        for wrong in ["", "zz", "é", &signature[2..], &signature.replace(&signature[..2], "00")] {
            assert!(!signer.verify("csrf", &["ab", "c"], wrong) || wrong == signature, "{wrong}");
        }
    }
}
