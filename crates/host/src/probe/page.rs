//! What an answer says: its text for people, and values captured from it.

use std::sync::LazyLock;

use plimsoll_core::plan::Capture;
use regex::Regex;
use scraper::{Html, Node, Selector};
use serde_json::Value;

use super::http::Answer;

/// The text of an answer as a person reads it: without tags, scripts and styles, entities resolved, one space
/// between words. An answer that is no HTML stays as it is, but for its white space.
pub(crate) fn text(answer: &Answer) -> String {
    let body = answer.text();
    if !is_html(answer, &body) {
        return one_space(&body);
    }
    let mut text = String::new();
    let page = Html::parse_document(&body);
    for node in page.tree.root().descendants() {
        let Node::Text(piece) = node.value() else { continue };
        let hidden = |name: &str| ["script", "style", "template", "noscript"].contains(&name);
        let parent =
            node.parent().and_then(|parent| parent.value().as_element().map(|e| e.name().to_owned()));
        if !parent.is_some_and(|name| hidden(&name)) {
            text.push_str(piece);
            text.push(' ');
        }
    }
    one_space(&text)
}

fn is_html(answer: &Answer, body: &str) -> bool {
    match answer.header("content-type") {
        Some(kind) => kind.to_ascii_lowercase().contains("html"),
        None => body.trim_start().starts_with('<'),
    }
}

/// Every run of white space as one space.
pub(crate) fn one_space(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Takes the value that a capture names from an answer.
///
/// # Errors
/// Why there is none, without showing the answer.
pub(crate) fn capture(what: &Capture, answer: &Answer) -> Result<String, String> {
    match what {
        Capture::Css { css, attr } => {
            let selector = Selector::parse(css).map_err(|_| format!("{css} is not a CSS selector"))?;
            let page = Html::parse_document(&answer.text());
            let element =
                page.select(&selector).next().ok_or_else(|| format!("nothing on the page fits {css}"))?;
            match attr {
                Some(name) => element
                    .value()
                    .attr(name)
                    .map(str::to_owned)
                    .ok_or_else(|| format!("the element that fits {css} has no attribute {name}")),
                None => Ok(one_space(&element.text().collect::<String>())),
            }
        }
        Capture::Json(pointer) => {
            let json: Value =
                serde_json::from_slice(&answer.body).map_err(|_| "the answer is no JSON".to_owned())?;
            match json.pointer(pointer) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(other) => Ok(other.to_string()),
                None => Err(format!("the JSON has nothing at {pointer}")),
            }
        }
        Capture::Header(name) => answer
            .header(&name.to_ascii_lowercase())
            .map(str::to_owned)
            .ok_or_else(|| format!("the answer has no header {name}")),
        Capture::Regex(pattern) => {
            let regex = Regex::new(pattern).map_err(|_| format!("{pattern} is not a regular expression"))?;
            let text = answer.text();
            let found =
                regex.captures(&text).ok_or_else(|| format!("nothing in the answer fits {pattern}"))?;
            let group =
                found.get(1).or_else(|| found.get(0)).ok_or_else(|| format!("{pattern} has no group"))?;
            Ok(group.as_str().to_owned())
        }
    }
}

/// The beginning of an answer's text, for a message: at most `most` characters, and none of `secrets` in it.
pub(crate) fn excerpt<'a>(text: &str, most: usize, secrets: impl Iterator<Item = &'a str>) -> String {
    // What looks like a key or token is a secret too: error pages in debug mode show settings.
    static TOKENS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?i)((?:secret|token|password|passwd|api_?key|authorization|cookie)\w*\W{1,4})[^\s,;]{4,}",
        )
        .expect("a constant pattern")
    });
    let mut text = TOKENS.replace_all(text, "$1***").into_owned();
    for secret in secrets.filter(|secret| secret.len() >= 6) {
        text = text.replace(secret, "***");
    }
    if text.chars().count() > most {
        text = text.chars().take(most).chain("...".chars()).collect();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(kind: &str, body: &str) -> Answer {
        Answer {
            headers: vec![
                ("content-type".to_owned(), kind.to_owned()),
                ("location".to_owned(), "/done".to_owned()),
            ],
            body: body.as_bytes().to_vec(),
            ..Answer::default()
        }
    }

    #[test]
    fn text_is_what_a_person_reads() {
        let html = "<title>Shop</title><style>b{}</style><script>var x='no';</script><p>Tea &amp;\n <b>Rice</b> &#8377;20</p>";
        assert_eq!(text(&page("text/html; charset=utf-8", html)), "Shop Tea & Rice ₹20");
        assert_eq!(text(&page("application/json", "{\"a\":\n  \"<b>\"}")), "{\"a\": \"<b>\"}");
    }

    #[test]
    fn values_are_captured_by_selector_pointer_header_and_pattern() {
        let html = page("text/html", "<form><input name=csrf value='a&amp;b'></form><h1> Order\n 7 </h1>");
        let css =
            |css: &str, attr: Option<&str>| Capture::Css { css: css.into(), attr: attr.map(str::to_owned) };
        assert_eq!(capture(&css("input[name=csrf]", Some("value")), &html), Ok("a&b".to_owned()));
        assert_eq!(capture(&css("h1", None), &html), Ok("Order 7".to_owned()));
        assert!(capture(&css("h2", None), &html).unwrap_err().contains("fits h2"));
        assert!(capture(&css("h1", Some("id")), &html).unwrap_err().contains("no attribute id"));
        assert!(capture(&css("h1[", None), &html).unwrap_err().contains("not a CSS selector"));
        assert_eq!(capture(&Capture::Regex(r"Order\s+(\d+)".into()), &html), Ok("7".to_owned()));
        assert_eq!(capture(&Capture::Header("Location".into()), &html), Ok("/done".to_owned()));
        let json = page("application/json", r#"{"cart":{"id":12,"items":[{"name":"Tea"}]}}"#);
        assert_eq!(capture(&Capture::Json("/cart/id".into()), &json), Ok("12".to_owned()));
        assert_eq!(capture(&Capture::Json("/cart/items/0/name".into()), &json), Ok("Tea".to_owned()));
        assert!(capture(&Capture::Json("/x".into()), &json).is_err());
    }

    #[test]
    fn an_excerpt_is_short_and_holds_no_secret() {
        let text = "Boom: SECRET_KEY = 'abcdef' and session 0123456789 for ₹20";
        let seen = excerpt(text, 300, ["0123456789", "20"].into_iter());
        assert!(!seen.contains("abcdef") && !seen.contains("0123456789") && seen.contains("₹20"), "{seen}");
        assert_eq!(excerpt("ÄÖÜ", 2, std::iter::empty()), "ÄÖ...");
    }
}
