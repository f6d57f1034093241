//! Passwords, as Argon2id hashes.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, PasswordHash};

/// The shortest password of an admin, in characters.
const SHORTEST: usize = 12;

/// Why an account was not made.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The password is too short.
    #[error("the password has {0} characters, {SHORTEST} are the least; nothing was changed")]
    Short(usize),
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
/// [`AccountError::Short`] for one that is too easily guessed.
pub fn hash_new(password: &str) -> Result<String, AccountError> {
    let length = password.chars().count();
    if length < SHORTEST {
        return Err(AccountError::Short(length));
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
        let hash = hash_new("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(verify("correct horse", Some(&hash)));
        assert!(!verify("correct horsf", Some(&hash)));
        assert!(!verify("correct horse", None));
        assert!(matches!(hash_new("eleven char"), Err(AccountError::Short(11))));
    }

    #[test]
    fn an_unknown_name_costs_as_much_as_a_known_one() {
        let hash = hash_new("correct horse").unwrap();
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
