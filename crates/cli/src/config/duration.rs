//! Durations as the file writes them: a whole number and a unit.

use std::time::Duration;

use super::mistake::Unfit;

/// Reads `500ms`, `10s`, `5m` or `24h`.
pub(super) fn parse(text: &str) -> Result<Duration, Unfit> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(unfit(text)),
    };
    let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(millis_per_unit));
    // Ten years: far above any use, and far below where adding to a clock overflows.
    match millis {
        _ if number.is_empty() => Err(unfit(text)),
        Some(millis) if millis <= 87_600 * 3_600_000 => Ok(Duration::from_millis(millis)),
        _ => Err(Unfit::new(format!("`{text}` is too long"), "at most \"87600h\"")),
    }
}

/// Like [`parse`], but not nothing: for time limits.
pub(super) fn positive(text: &str) -> Result<Duration, Unfit> {
    match parse(text)? {
        Duration::ZERO => Err(Unfit::new("a time limit of nothing", "more than \"0s\"")),
        duration => Ok(duration),
    }
}

fn unfit(text: &str) -> Unfit {
    let squeezed: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
    let digits: String = squeezed.chars().take_while(char::is_ascii_digit).collect();
    let unit = &squeezed[digits.len()..];
    let meant = match (digits.as_str(), unit) {
        ("", _) => None,
        (n, "" | "sec" | "secs" | "second" | "seconds" | "s") => Some(format!("{n}s")),
        (n, "min" | "mins" | "minute" | "minutes" | "m") => Some(format!("{n}m")),
        (n, "hr" | "hrs" | "hour" | "hours" | "h") => Some(format!("{n}h")),
        (n, "ms" | "msec" | "millis" | "milliseconds") => Some(format!("{n}ms")),
        (n, "d" | "day" | "days") => n.parse::<u32>().ok().map(|days| format!("{}h", u64::from(days) * 24)),
        _ => None,
    };
    let forms = "a whole number and a unit: \"500ms\", \"10s\", \"5m\", \"24h\"";
    let help = match meant {
        Some(meant) => format!("did you mean \"{meant}\"? A duration is {forms}"),
        None => format!("a duration is {forms}"),
    };
    Unfit::new(format!("`{text}` is not a duration"), help)
}

/// A duration as a person reads it, in the forms of the file.
pub(crate) fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_forms_are_read_and_shown_back() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)]
        {
            let duration = parse(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(show(duration), text);
        }
        assert_eq!(show(Duration::from_millis(1_500)), "1500ms");
    }

    #[test]
    fn everything_else_is_refused_with_what_was_meant() {
        for (text, meant) in [
            ("10 s", Some("\"10s\"")),
            ("10", Some("\"10s\"")),
            ("5min", Some("\"5m\"")),
            ("1d", Some("\"24h\"")),
            ("10S", Some("\"10s\"")),
            ("1.5s", None),
            ("-1s", None),
            ("", None),
            ("s", None),
            ("fast", None),
            ("99999999999999999999s", None),
            ("10s ", Some("\"10s\"")),
            ("٣s", None),
        ] {
            let unfit = parse(text).expect_err(text);
            match meant {
                Some(meant) => {
                    assert!(unfit.help.starts_with(&format!("did you mean {meant}?")), "{text}: {unfit:?}")
                }
                None => assert!(!unfit.help.starts_with("did you mean"), "{text}: {unfit:?}"),
            }
        }
        assert!(parse("87601h").is_err());
        assert!(positive("0ms").is_err());
    }
}
