//! The running app and its declared workers, behind [`plimsoll_core::ports::Service`].
//!
//! [`ProcessService`] runs the app itself, inside `plimsoll serve`. [`ManagedService`] asks whatever runs it:
//! systemd, supervisor, or commands of the user's own.

mod app;
mod children;
mod command;
mod downtime;
mod health;
mod listener;
mod managed;
mod process;
mod supervisor;
mod systemd;
mod workers;

pub use app::{App, Instance, Launch, Stopped};
pub use children::{Children, end_leftovers};
pub use command::Commands;
pub use downtime::Downtime;
pub use health::{Answer, Health, ask};
pub use listener::listening_ports;
pub use managed::{ManagedService, Manager, State};
pub use process::{ProcessService, Restarted, RunningApp};
pub use supervisor::Supervisor;
pub use systemd::Systemd;
pub use workers::{Worker, Workers};

use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll_core::ports::{Failure, FailureKind, Moment};

use crate::clock::SystemClock;

/// Splits a command line as a shell splits words and replaces `$NAME` and `${NAME}`, except within single quotes, by
/// the environment that the command will see. There is no shell, so nothing else is special.
///
/// # Errors
/// [`FailureKind::Usage`] when a quote is not closed or a name is not set.
pub fn command_words(line: &str, env: &BTreeMap<String, String>) -> Result<Vec<String>, Failure> {
    let wrong = |why: String| {
        let what = format!("the command `{line}` cannot be used");
        Failure::failed(what, why, "mend it in plimsoll.toml").of_kind(FailureKind::Usage)
    };
    let words = shell_words::split(&protected(line)).map_err(|e| wrong(e.to_string()))?;
    let expanded = words.iter().map(|word| expand(word, env).map_err(wrong));
    expanded.map(|word| Ok(word?.replace(LITERAL_DOLLAR, "$"))).collect()
}

/// Stands for a dollar that is not to be replaced, while words are split: a character that no text has.
const LITERAL_DOLLAR: char = '\u{f8ff}';

/// The line with its quoted dollars (`'$'` and `\$`) protected.
fn protected(line: &str) -> String {
    let (mut single, mut double, mut escaped) = (false, false, false);
    let protect = |c: char| {
        let literal = c == '$' && (single || escaped);
        match c {
            _ if escaped => escaped = false,
            '\\' if !single => escaped = true,
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            _ => {}
        }
        if literal { LITERAL_DOLLAR } else { c }
    };
    line.chars().map(protect).collect()
}

fn expand(word: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, then) = if let Some(braced) = after.strip_prefix('{') {
            braced.split_once('}').ok_or_else(|| format!("${{ is not closed in `{word}`"))?
        } else {
            after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len()))
        };
        if name.is_empty() {
            // A dollar that names nothing stands for itself.
            out.push('$');
        } else {
            out.push_str(env.get(name).ok_or_else(|| format!("${name} is not set for this command"))?);
        }
        rest = then;
    }
    out.push_str(rest);
    Ok(out)
}

/// The time that an act has: what is configured, or less when the run's deadline comes first.
fn limit(configured: Duration, until: Option<Moment>) -> Duration {
    until.map_or(configured, |until| configured.min(SystemClock.until(until)))
}

/// Lines of an app's output as part of a message, without secrets.
pub(crate) fn quoted(lines: &[String], secrets: &[String]) -> String {
    if lines.is_empty() {
        return "It wrote nothing.".to_owned();
    }
    let mut text = String::from("Its last lines:");
    for line in lines {
        let mut line = line.clone();
        // Shorter values are words of every day; hiding those would make the message unreadable.
        for secret in secrets.iter().filter(|s| s.len() >= 6) {
            line = line.replace(secret.as_str(), "***");
        }
        text.push_str("\n    ");
        text.push_str(&line);
    }
    text
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_and_names_are_replaced_without_a_shell() {
        let env =
            BTreeMap::from([("PORT".to_owned(), "80 80".to_owned()), ("A".to_owned(), "$B".to_owned())]);
        let words = command_words("run 'a b' --port=$PORT ${PORT}x $A 5$ ;rm", &env).unwrap();
        assert_eq!(words, ["run", "a b", "--port=80 80", "80 80x", "$B", "5$", ";rm"]);
    }

    #[test]
    fn a_quoted_dollar_is_left_to_a_shell_that_the_line_starts() {
        let env = BTreeMap::from([("PORT".to_owned(), "8080".to_owned())]);
        let words =
            command_words(r#"sh -c 'for f in *; do echo "$f"; done' "$PORT" "it's $PORT" \$PORT"#, &env)
                .unwrap();
        assert_eq!(words, ["sh", "-c", "for f in *; do echo \"$f\"; done", "8080", "it's 8080", "$PORT"]);
    }

    #[test]
    fn a_name_that_is_not_set_is_refused() {
        for line in ["run $NOPE", "run ${PORT", "run 'open"] {
            let failure = command_words(line, &BTreeMap::new()).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage, "{line}");
            assert!(failure.to_string().contains(line));
        }
    }

    #[test]
    fn quoted_lines_hold_no_secret() {
        let lines = ["login with hunter2hunter2 failed".to_owned(), "at x".to_owned()];
        let text = quoted(&lines, &["hunter2hunter2".to_owned(), "x".to_owned()]);
        assert_eq!(text, "Its last lines:\n    login with *** failed\n    at x");
    }
}
