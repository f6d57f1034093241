//! The pages the door writes itself: plain, without anything about the inside.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// What users read when the app does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// One line, e.g. `Back in a moment`.
    pub title: String,
    /// One or two plain sentences.
    pub text: String,
    /// When a client may try again; whole seconds are sent, at least one.
    pub retry_after: Duration,
}

impl Page {
    /// Nothing has been deployed yet.
    pub fn no_release(app: &str) -> Page {
        Page::new("No release yet", &format!("{app} has not been deployed here yet."), 30)
    }

    /// A change that was announced and takes longer than requests can wait: about so long.
    pub fn maintenance(app: &str, about: Duration) -> Page {
        let page = Page::new(
            "Maintenance",
            &format!("{app} is being updated. Nothing is lost; please come back soon."),
            0,
        );
        // A prediction may be wrong either way, so nobody is sent away for long.
        Page { retry_after: about.clamp(Duration::from_secs(5), Duration::from_secs(120)), ..page }
    }

    /// The app does not start. It is tried again and again.
    pub fn down(app: &str) -> Page {
        Page::new("Not available", &format!("{app} is not available at the moment. Please try again."), 30)
    }

    /// The door does not know whether it may open, so it stays shut.
    pub fn state_unreadable(app: &str) -> Page {
        Page::new(
            "Not available",
            &format!("{app} is stopped until its operator has looked at it. Nothing was changed."),
            60,
        )
    }

    /// The door's own process is going away.
    pub(crate) fn stopping(app: &str) -> Page {
        Page::new("Restarting", &format!("{app} is restarting. Please try again."), 2)
    }

    /// The hold's deadline has passed, or a caller's own time has.
    pub(crate) fn held_too_long(app: &str) -> Page {
        Page::new(
            "Back in a moment",
            &format!("{app} is being updated. Your request was not carried out; please try again."),
            5,
        )
    }

    /// More wait than the door has room for.
    pub(crate) fn crowded(app: &str) -> Page {
        Page::new(
            "Too many are waiting",
            &format!(
                "{app} is being updated and many are waiting. Your request was not carried out; please try again."
            ),
            5,
        )
    }

    /// The app does not answer.
    pub(crate) fn app_down(app: &str) -> Page {
        Page::new("Not available", &format!("{app} does not answer at the moment."), 5)
    }

    /// The app was asked and its answer did not come: the request may have been carried out.
    pub(crate) fn answer_lost(app: &str) -> Page {
        Page::new(
            "No answer",
            &format!(
                "{app} was asked, but its answer was lost. Look whether your request was carried out before you repeat it."
            ),
            5,
        )
    }

    /// The request itself cannot be served.
    pub(crate) fn refused(text: &str) -> Page {
        Page::new("Request refused", text, 1)
    }

    fn new(title: &str, text: &str, seconds: u64) -> Page {
        Page { title: title.to_owned(), text: text.to_owned(), retry_after: Duration::from_secs(seconds) }
    }

    /// HTML when the client asks for it, else plain text.
    pub(crate) fn render(&self, status: StatusCode, request: &HeaderMap) -> Response<Bytes> {
        let html = request
            .get_all(ACCEPT)
            .iter()
            .any(|value| value.as_bytes().windows(9).any(|window| window.eq_ignore_ascii_case(b"text/html")));
        let (kind, text) = if html {
            ("text/html; charset=utf-8", self.html())
        } else {
            ("text/plain; charset=utf-8", format!("{}\n{}\n", self.title, self.text))
        };
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(self.retry_after.as_secs().max(1)));
        }
        response
    }

    fn html(&self) -> String {
        let (title, text) = (escape(&self.title), escape(&self.text));
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
             <style>body{{font:1.1em/1.5 system-ui,sans-serif;max-width:32em;margin:20vh auto;padding:0 1em}}</style>\
             </head><body><h1>{title}</h1><p>{text}</p></body></html>\n"
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_only_for_those_who_read_it_and_names_are_escaped() {
        let page = Page::maintenance("<Fruit & Veg>", Duration::from_secs(60));
        let mut headers = HeaderMap::new();
        let plain = page.render(StatusCode::SERVICE_UNAVAILABLE, &headers);
        assert_eq!(plain.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(plain.headers()[RETRY_AFTER], "60");
        assert!(plain.body().starts_with(b"Maintenance\n<Fruit & Veg> is"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/HTML,application/xhtml+xml"));
        let html = page.render(StatusCode::SERVICE_UNAVAILABLE, &headers);
        let text = String::from_utf8(html.body().to_vec()).unwrap();
        assert!(text.contains("<h1>Maintenance</h1>") && text.contains("&lt;Fruit &amp; Veg&gt;"), "{text}");
        assert!(!page.render(StatusCode::BAD_GATEWAY, &headers).headers().contains_key(RETRY_AFTER));
    }
}
