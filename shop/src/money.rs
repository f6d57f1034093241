//! Money as whole paise: never a fraction, never a float.

use std::fmt;

/// The most that one price may be: one lakh rupees.
pub(crate) const MAX_PRICE_PAISE: i64 = 10_000_000;

/// An amount in paise, written as rupees with Indian grouping: `₹1,23,456.50`; whole rupees without paise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rupees(pub(crate) i64);

impl fmt::Display for Rupees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paise = self.0.unsigned_abs();
        let (rupees, rest) = (paise / 100, paise % 100);
        let digits = rupees.to_string();
        // The last three digits stand together, those before them in pairs.
        let mut grouped = String::new();
        for (place, digit) in digits.chars().enumerate() {
            let left = digits.len() - place;
            if place > 0 && (left == 3 || (left > 3 && left % 2 == 1)) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}₹{grouped}")?;
        if rest > 0 { write!(f, ".{rest:02}") } else { Ok(()) }
    }
}

/// An amount as it is typed into a form: `1299.50`.
pub(crate) fn plain_rupees(paise: i64) -> String {
    Rupees(paise).to_string().replace(['₹', ','], "")
}

/// Reads a price as typed in rupees, `49` or `49.5` or `1,299.00`, as paise. `None` unless it is a positive
/// amount of at most [`MAX_PRICE_PAISE`].
pub(crate) fn parse_rupees(text: &str) -> Option<i64> {
    let text = text.trim().trim_start_matches('₹').trim().replace(',', "");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 7 || fraction.len() > 2 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let paise = whole.parse::<i64>().ok()? * 100 + format!("{fraction:0<2}").parse::<i64>().ok()?;
    (1..=MAX_PRICE_PAISE).contains(&paise).then_some(paise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_grouped_as_in_india() {
        let written =
            [(0, "₹0"), (1999, "₹19.99"), (5, "₹0.05"), (100_000, "₹1,000"), (12_345_650, "₹1,23,456.50")];
        for (paise, text) in written {
            assert_eq!(Rupees(paise).to_string(), text);
        }
        assert_eq!(Rupees(1_000_000_000).to_string(), "₹1,00,00,000");
        assert_eq!(Rupees(-1_250).to_string(), "-₹12.50");
    }

    #[test]
    fn every_two_decimal_price_is_read_exactly() {
        for paise in 1..=20_000 {
            assert_eq!(parse_rupees(&format!("{}.{:02}", paise / 100, paise % 100)), Some(paise));
        }
        assert_eq!(parse_rupees("₹1,299.5"), Some(129_950));
    }

    #[test]
    fn what_is_not_a_price_is_refused() {
        for text in ["", "0", "-1", "nan", "1e3", "1.999", "99999999", "१२", "1.2.3", "inf", "."] {
            assert_eq!(parse_rupees(text), None, "{text}");
        }
    }
}
