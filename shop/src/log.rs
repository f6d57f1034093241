//! What the people who run the shop must know, one line each on standard error: text, or JSON when asked for.
//! Never customers' data or secrets.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static JSON: AtomicBool = AtomicBool::new(false);

/// From now on one JSON object per line.
pub(crate) fn use_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Something worth knowing.
pub(crate) fn info(text: impl Display) {
    write("INFO", &text);
}

/// Something that failed, with all its causes.
pub(crate) fn error(what: impl Display, error: &dyn Error) {
    let mut text = format!("{what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    write("ERROR", &text);
}

fn write(level: &str, text: &dyn Display) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let line = if JSON.load(Ordering::Relaxed) {
        serde_json::json!({ "time": now, "level": level, "message": text.to_string() }).to_string()
    } else {
        format!("{now} {level} {text}").replace(['\r', '\n'], " ")
    };
    // A log that cannot be written must not stop the shop.
    let _ = writeln!(io::stderr(), "{line}");
}
