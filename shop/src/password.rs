//! Passwords, as Argon2id hashes.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, PasswordHash};

/// Whose password it is: those of admins are longer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whose {
    /// Somebody who runs the shop.
    Admin,
    /// A customer with an account.
    Member,
}

impl Whose {
    /// The shortest password, in characters.
    fn shortest(self) -> usize {
        match self {
            Self::Admin => 15,
            Self::Member => 8,
        }
    }
}

/// What is tried first by those who guess. Compared without capitals, digits at the end and signs.
const COMMON: [&str; 40] = [
    "password",
    "passw0rd",
    "qwerty",
    "qwertyuiop",
    "asdfghjkl",
    "iloveyou",
    "welcome",
    "letmein",
    "admin",
    "administrator",
    "monkey",
    "dragon",
    "football",
    "baseball",
    "superman",
    "princess",
    "sunshine",
    "whatever",
    "trustno",
    "starwars",
    "computer",
    "internet",
    "michelle",
    "jennifer",
    "samsung",
    "india",
    "bharat",
    "krishna",
    "ganesha",
    "hanuman",
    "saibaba",
    "jaimatadi",
    "omnamahshivaya",
    "bangalore",
    "bengaluru",
    "karnataka",
    "greengrocer",
    "vegetables",
    "changeme",
    "secret",
];

/// The longest password, in bytes: hashing takes longer the longer it is.
const LONGEST: usize = 200;

/// Why an account was not made.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The password is too short.
    #[error("The password has {0} characters, {1} are the least. Nothing was changed.")]
    Short(usize, usize),
    /// The password is one of the first that are tried.
    #[error("That password is among the first that are guessed. Nothing was changed.")]
    Common,
    /// The password is too long.
    #[error("The password is too long. Nothing was changed.")]
    Long,
    /// The address is none.
    #[error("{0:?} is not an e-mail address; nothing was changed")]
    Email(String),
    /// Hashing failed.
    #[error("the password could not be hashed: {0}; nothing was changed")]
    Hash(argon2::password_hash::Error),
}

/// Hashes a new password, salt made inside.
///
/// # Errors
/// [`AccountError::Short`] or [`AccountError::Common`] for one that is too easily guessed.
pub fn hash_new(password: &str, whose: Whose) -> Result<String, AccountError> {
    let length = password.chars().count();
    if length < whose.shortest() {
        return Err(AccountError::Short(length, whose.shortest()));
    }
    if password.len() > LONGEST {
        return Err(AccountError::Long);
    }
    let bare: String = password.to_lowercase().chars().filter(|c| c.is_alphabetic()).collect();
    let first = password.chars().next();
    let one_sign = password.chars().all(|sign| Some(sign) == first);
    let in_a_row = "01234567890123456789".contains(password) || "98765432109876543210".contains(password);
    let twice = COMMON.iter().any(|common| bare == common.repeat(2));
    if one_sign || in_a_row || twice || COMMON.contains(&bare.as_str()) {
        return Err(AccountError::Common);
    }
    let hash = Argon2::default().hash_password(password.as_bytes()).map_err(AccountError::Hash)?;
    Ok(hash.to_string())
}

/// Whether `password` is the one that was hashed.
///
/// Without a hash, which is when nobody has that name, the same work is done in vain: the time it takes tells
/// nobody which names exist.
pub(crate) fn verify(password: &str, hash: Option<&str>) -> bool {
    const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LWhhcy10aGlz$\
                          ODxH3Dpo6SImzPBP0eTPhkuwiKgXBPhVbWLTqPBBNpU";
    // An account that was never opened has the empty text for a hash: that costs as much, too.
    let hash = hash.filter(|hash| !hash.is_empty());
    let Ok(parsed) = PasswordHash::new(hash.unwrap_or(NOBODY)) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok() && hash.is_some()
}

/// An e-mail address that can be stored and written to, trimmed.
///
/// # Errors
/// [`AccountError::Email`]; among others for line breaks, which would forge mail headers.
pub fn checked_email(text: &str) -> Result<String, AccountError> {
    let email = text.trim();
    let fits = email.len() <= 254
        && !email.chars().any(|c| c.is_control() || c.is_whitespace() || "<>,;\"()".contains(c))
        && email.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty()
                && !host.contains('@')
                && host.contains('.')
                && !host.starts_with('.')
                && !host.ends_with('.')
        });
    if fits { Ok(email.to_owned()) } else { Err(AccountError::Email(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_verifies() {
        let hash = hash_new("correct horse", Whose::Member).unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(verify("correct horse", Some(&hash)));
        assert!(!verify("correct horsf", Some(&hash)));
        assert!(!verify("correct horse", None));
    }

    #[test]
    fn what_is_easily_guessed_is_refused() {
        let refused = |password: &str, whose| hash_new(password, whose).unwrap_err().to_string();
        assert!(refused("seven c", Whose::Member).contains("8 are the least"));
        assert!(refused("fourteen chars", Whose::Admin).contains("15 are the least"));
        for common in
            ["password123", "Pass-word!", "12345678", "aaaaaaaa", "QwertyUiop1", "98765432", "IndiaIndia12"]
        {
            assert!(refused(common, Whose::Member).contains("guessed"), "{common}");
        }
        assert!(refused(&"long ".repeat(50), Whose::Member).contains("too long"));
    }

    #[test]
    fn an_unknown_name_costs_as_much_as_a_known_one() {
        let hash = hash_new("correct horse", Whose::Member).unwrap();
        let time = |hash: Option<&str>| {
            let start = std::time::Instant::now();
            assert!(!verify("wrong password", hash));
            start.elapsed()
        };
        // An unreadable stand-in hash would answer in microseconds.
        assert!(time(None) * 10 > time(Some(&hash)));
    }

    #[test]
    fn addresses_that_would_forge_a_header_are_refused() {
        assert_eq!(checked_email(" asha@example.in ").unwrap(), "asha@example.in");
        for wrong in ["", "asha", "a@b", "a@b.in\r\nBcc: x@y.in", "a b@c.in", "a@b@c.in", "@b.in", "a@.in"] {
            assert!(checked_email(wrong).is_err(), "{wrong:?}");
        }
    }
}
