//! Takes secrets and personal data out of texts that leave the machine: by what is known to be secret here, and by rule.
//!
//! A rule takes out too much rather than too little. What is taken out is named by kind, so that a reader sees that
//! something stood there.

use std::collections::BTreeSet;

use regex::{Captures, Regex};

/// Shorter values are words that stand everywhere.
const SHORTEST: usize = 6;

/// The rules, with what is known to be secret.
pub struct Redactor {
    /// The longest first: one may begin with another.
    known: Vec<String>,
    rules: Vec<(Regex, Replacement)>,
}

enum Replacement {
    Text(&'static str),
    With(fn(&Captures<'_>) -> String),
}

/// Whether a name says that its value is nobody's business: `API_KEY`, `db.password`.
#[must_use]
pub fn is_telling(name: &str) -> bool {
    let name = name.to_lowercase();
    let words = [
        "pass",
        "secret",
        "token",
        "key",
        "credential",
        "auth",
        "cookie",
        "session",
        "dsn",
        "private",
        "salt",
        "signature",
        "webhook",
        "pwd",
    ];
    words.iter().any(|word| name.contains(word))
}

impl Redactor {
    /// With nothing known: by rule alone.
    #[must_use]
    pub fn new() -> Redactor {
        let rule = |pattern: &str| {
            #[allow(clippy::expect_used, reason = "the patterns are here, and each is used by a test")]
            Regex::new(pattern).expect("a pattern that compiles")
        };
        use Replacement::{Text, With};
        let rules = vec![
            (
                rule(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)"),
                Text("[private key]"),
            ),
            // user:password@ in any URL.
            (
                rule(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s:@]*:[^/\s@]+@"),
                With(|c| format!("{}[removed]@", &c[1])),
            ),
            (
                rule(r"(?i)\b(authorization|proxy-authorization|cookie|set-cookie)(\s*[:=]\s*)[^\r\n]+"),
                With(|c| format!("{}{}[removed]", &c[1], &c[2])),
            ),
            (rule(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"), With(|c| format!("{} [removed]", &c[1]))),
            (rule(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?"), Text("[token]")),
            (
                rule(
                    r"\b(sk|pk|rk|rzp|ghp|gho|ghs|github_pat|glpat|xox[abprs]|whsec|AKIA|ASIA)[_-]?[A-Za-z0-9_-]{10,}",
                ),
                Text("[token]"),
            ),
            (
                rule(
                    r"https://hooks\.slack\.com/\S+|https://\S*discord(app)?\.com/api/webhooks/\S+|https://\S+\.webhook\.office\.com/\S+",
                ),
                Text("[webhook]"),
            ),
            // A telling name with its value: KEY=..., "key": "...", key = '...'.
            (
                rule(
                    r#"(?i)(\\?["']?[a-z0-9_.-]*(?:pass(?:word|wd|phrase)?|secret|token|api_?key|access_?key|private_?key|credential|session_?id|dsn|salt|signature|pwd)[a-z0-9_.-]*\\?["']?\s*[:=]\s*)(\\?"(?:[^"\\]|\\[^"])*\\?"|'[^']*'|[^\s,;&"'})\]]+)"#,
                ),
                With(named),
            ),
            (rule(r"(?i)\b[a-z0-9._%+-]+@[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}\b"), Text("[email]")),
            (rule(r"\$(argon2(id|i|d)|2[aby]|scrypt|pbkdf2[a-z0-9-]*)\$\S{8,}"), Text("[password hash]")),
            (rule(r"\b(?:\d[ -]?){12,18}\d\b"), With(card)),
            (rule(r"\+\d[\d ()-]{7,16}\d"), Text("[phone]")),
            (rule(r"\b[6-9]\d{4}[ -]?\d{5}\b"), Text("[phone]")),
            (rule(r"\b(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\b"), With(address)),
        ];
        Redactor { known: Vec::new(), rules }
    }

    /// The same, with values that are known to be secret wherever they stand.
    #[must_use]
    pub fn knowing(mut self, secrets: impl IntoIterator<Item = String>) -> Redactor {
        let mut known: BTreeSet<String> = secrets.into_iter().collect();
        known.extend(std::mem::take(&mut self.known));
        for secret in known {
            for one in secret.lines().map(str::trim).chain([secret.trim()]) {
                if one.len() >= SHORTEST && !self.known.iter().any(|known| known == one) {
                    self.known.push(one.to_owned());
                }
            }
        }
        self.known.sort_by_key(|known| std::cmp::Reverse(known.len()));
        self
    }

    /// The text without what must not leave the machine.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            // As it stands, and as it stands within JSON.
            let escaped = serde_json::to_string(secret).unwrap_or_default();
            let escaped = escaped.trim_matches('"');
            if escaped != secret.as_str() {
                text = text.replace(escaped, "[secret]");
            }
            text = text.replace(secret.as_str(), "[secret]");
        }
        for (rule, replacement) in &self.rules {
            text = match replacement {
                Replacement::Text(words) => rule.replace_all(&text, regex::NoExpand(words)).into_owned(),
                Replacement::With(make) => rule.replace_all(&text, make).into_owned(),
            };
        }
        text
    }
}

impl Default for Redactor {
    fn default() -> Self {
        Redactor::new()
    }
}

/// Where a secret is, is no secret: `env:NAME`, `file:/path`; numbers and yes or no are none either.
fn named(found: &Captures<'_>) -> String {
    let value = found[2].trim_matches(['"', '\'', '\\']);
    let place = value.starts_with("env:") || value.starts_with("file:");
    let plain = value.is_empty()
        || ["true", "false", "null", "none", "yes", "no"].contains(&value.to_lowercase().as_str());
    // Hashes that prove a backup are told by their name; counts and times are short numbers.
    let number = value.len() < SHORTEST && value.bytes().all(|b| b.is_ascii_digit());
    if place || plain || number || found[1].to_lowercase().contains("foreign_key") {
        return found[0].to_owned();
    }
    let quote = if found[2].starts_with("\\\"") {
        "\\\""
    } else if found[2].starts_with('"') {
        "\""
    } else {
        ""
    };
    format!("{}{quote}[removed]{quote}", &found[1])
}

/// A number of a card passes Luhn's sum; an order number seldom does.
fn card(found: &Captures<'_>) -> String {
    let digits: Vec<u32> = found[0].chars().filter_map(|c| c.to_digit(10)).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => *digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    if sum.is_multiple_of(10) { "[card]".to_owned() } else { found[0].to_owned() }
}

/// Addresses of people's machines; those of this one and of private networks say nothing about anybody.
fn address(found: &Captures<'_>) -> String {
    let parts: Vec<Option<u8>> = (1..=4).map(|at| found[at].parse().ok()).collect();
    match parts.as_slice() {
        [Some(127 | 10 | 0), ..] | [Some(192), Some(168), ..] | [Some(172), Some(16..=31), ..] => {
            found[0].to_owned()
        }
        [Some(_), Some(_), Some(_), Some(_)] => "[address]".to_owned(),
        _ => found[0].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_know_is_taken_out_and_said_to_be() {
        let cases = [
            ("postgres://shop:hunter2@db/shop", "postgres://[removed]@db/shop"),
            ("Authorization: Bearer abcdef123456", "Authorization: [removed]"),
            ("RAZORPAY_KEY_SECRET=abc123def", "RAZORPAY_KEY_SECRET=[removed]"),
            (r#"{"password": "hunter2", "n": 3}"#, r#"{"password": "[removed]", "n": 3}"#),
            (r#"{"line":"{\"api_key\":\"abc\"}"}"#, r#"{"line":"{\"api_key\":\"[removed]\"}"}"#),
            ("order of asha.rao@example.co.in failed", "order of [email] failed"),
            ("call +91 98450 12345 now", "call [phone] now"),
            ("phone 9845012345", "phone [phone]"),
            ("card 4111 1111 1111 1111", "card [card]"),
            ("rzp_live_abcdefghij1234", "[token]"),
            ("from 203.0.113.9 to 127.0.0.1", "from [address] to 127.0.0.1"),
            ("hash $argon2id$v=19$m=1,t=1$abc$def", "hash [password hash]"),
            ("post to https://hooks.slack.com/services/T0/B0/xyz", "post to [webhook]"),
        ];
        let redactor = Redactor::new();
        for (text, wanted) in cases {
            assert_eq!(redactor.clean(text), wanted);
        }
        let key = "x\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\ny";
        assert_eq!(redactor.clean(key), "x\n[private key]\ny");
    }

    #[test]
    fn what_helps_to_find_the_mistake_stays() {
        let redactor = Redactor::new();
        for text in [
            "token = \"env:DASHBOARD_TOKEN\"",
            "password = \"file:/etc/shop/db\"",
            "\"foreign_keys\":true",
            "release 000012-3fa9c1b, order 1234567890123",
            "2026-11-23T03:48:17.190Z done in 2.3 s, pid 41377",
            "PRIMARY KEY(id), FOREIGN KEY(order_id)",
            "127.0.0.1:8080",
        ] {
            assert_eq!(redactor.clean(text), text);
        }
    }

    #[test]
    fn a_known_secret_is_found_wherever_it_stands_and_one_within_another_leaves_nothing() {
        let redactor = Redactor::new().knowing([
            "s3cr\"et-value".to_owned(),
            "s3cr\"et-value-long".to_owned(),
            "ab".to_owned(),
        ]);
        let text = r#"a s3cr"et-value-long b {"x":"s3cr\"et-value"} ab"#;
        assert_eq!(redactor.clean(text), r#"a [secret] b {"x":"[secret]"} ab"#);
    }

    #[test]
    fn names_that_tell_are_known() {
        for name in ["RAZORPAY_KEY_SECRET", "db.password", "SESSION_ID", "Authorization"] {
            assert!(is_telling(name), "{name}");
        }
        assert!(!is_telling("LOG_LEVEL") && !is_telling("PORT"));
    }
}
