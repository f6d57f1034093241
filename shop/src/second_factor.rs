//! Codes of six digits that change every 30 seconds (TOTP, RFC 6238, with SHA-1 as every app on a phone reads it).

use hmac::{Hmac, KeyInit, Mac};
use qrcode::QrCode;
use sha1::Sha1;

const STEP_SECONDS: i64 = 30;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A new secret: 160 random bits in Base32.
#[must_use]
pub fn new_secret() -> String {
    let mut bytes = [0u8; 20];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers on every Linux that runs this");
    let mut text = String::new();
    for five in bytes.chunks(5) {
        let number = five.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        for place in (0..8).rev() {
            text.push(char::from(ALPHABET[usize::try_from(number >> (place * 5) & 31).unwrap_or(0)]));
        }
    }
    text
}

/// Whether a text is a secret of at least 80 bits.
#[must_use]
pub fn is_secret(text: &str) -> bool {
    decode(text).is_some_and(|bytes| bytes.len() >= 10)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut held, mut bytes) = (0u64, 0, Vec::new());
    for sign in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == sign)?;
        bits = bits << 5 | value as u64;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

fn code(secret: &str, step: i64) -> Option<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(&decode(secret)?).ok()?;
    mac.update(&step.to_be_bytes());
    let hash = mac.finalize().into_bytes();
    let at = usize::from(hash.last()? & 15);
    let four: [u8; 4] = hash.get(at..at + 4)?.try_into().ok()?;
    Some(format!("{:06}", (u32::from_be_bytes(four) & 0x7fff_ffff) % 1_000_000))
}

/// The step whose code was typed: this one, the one before or the next, because clocks differ.
pub(crate) fn step_of(secret: &str, typed: &str, now: i64) -> Option<i64> {
    let typed: String = typed.chars().filter(|c| !c.is_whitespace()).collect();
    let this = now / STEP_SECONDS;
    [this, this - 1, this + 1].into_iter().find(|step| {
        // Six public digits that are used up at once: the time of comparing tells nothing worth knowing.
        code(secret, *step).is_some_and(|code| code == typed)
    })
}

/// The address that an app on a phone takes the secret from.
#[must_use]
pub fn address(email: &str, secret: &str) -> String {
    let email = percent_encoding::utf8_percent_encode(email, percent_encoding::NON_ALPHANUMERIC);
    format!("otpauth://totp/Greengrocer:{email}?secret={secret}&issuer=Greengrocer")
}

/// The same as a picture for a terminal.
#[must_use]
pub fn picture(address: &str) -> Option<String> {
    let code = QrCode::new(address.as_bytes()).ok()?;
    Some(code.render::<qrcode::render::unicode::Dense1x2>().build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B: "12345678901234567890", the last six of eight digits.
        let secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        for (time, wanted) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(code(secret, time / STEP_SECONDS).unwrap(), wanted);
            assert_eq!(step_of(secret, wanted, time), Some(time / STEP_SECONDS));
        }
        assert_eq!(step_of(secret, "287 082", 59), Some(1));
        assert_eq!(step_of(secret, "287082", 59 + 60), None, "an old code");
        assert_eq!(step_of(secret, "", 59), None);
    }

    #[test]
    fn new_secrets_are_read_back_and_differ() {
        let (one, other) = (new_secret(), new_secret());
        assert!(is_secret(&one) && one.len() == 32);
        assert_ne!(one, other);
        assert!(!is_secret("short") && !is_secret("GEZDGNBVGY3TQOJQ1"));
        assert!(picture(&address("asha@example.in", &one)).unwrap().contains('█'));
    }
}
