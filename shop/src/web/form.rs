//! Forms. [`CheckedForm`] is the only way to read one, so that none is read unchecked.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Form, FromRequest, Request};
use axum::http::{HeaderMap, header};

use super::Shop;
use super::error::PageError;
use super::multipart::{self, File};
use super::visit::{AdminVisit, MemberVisit, Visit};
use crate::texts::{Say, Words};

/// The fields of a form that came from one of the visitor's own pages.
#[derive(Debug)]
pub(crate) struct CheckedForm {
    pub(crate) visit: Visit,
    pub(crate) headers: HeaderMap,
    /// Where it came from: an address, for throttling.
    pub(crate) client: String,
    fields: Vec<(String, String)>,
    files: Vec<File>,
}

impl CheckedForm {
    /// A field without the blanks around it; empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        let field = self.fields.iter().find(|(key, _)| key == name);
        field.map(|(_, value)| value.trim()).unwrap_or_default()
    }

    /// Every value of a field that may be there several times.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.trim()).collect()
    }

    /// A text on one line, of a length in characters; the message is for the person who typed it.
    pub(crate) fn line(
        &self,
        name: &str,
        length: std::ops::RangeInclusive<usize>,
        what: impl Into<Words>,
    ) -> Result<String, PageError> {
        let text = self.text(name);
        let fits = length.contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if fits { Ok(text.to_owned()) } else { Err(PageError::Invalid(what.into())) }
    }

    /// The same on several lines.
    pub(crate) fn lines(
        &self,
        name: &str,
        length: std::ops::RangeInclusive<usize>,
        what: impl Into<Words>,
    ) -> Result<String, PageError> {
        let text = self.text(name).replace("\r\n", "\n");
        let fits =
            length.contains(&text.chars().count()) && !text.chars().any(|c| c.is_control() && c != '\n');
        if fits { Ok(text) } else { Err(PageError::Invalid(what.into())) }
    }

    /// An uploaded file; `None` when none was chosen.
    pub(crate) fn file(&self, name: &str) -> Option<&File> {
        self.files.iter().find(|file| file.field == name && !file.bytes.is_empty())
    }

    /// Whether a box is ticked.
    pub(crate) fn ticked(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }

    /// A whole number within a range.
    pub(crate) fn number(&self, name: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, PageError> {
        let number = self.text(name).parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| PageError::NoNumber {
            field: name.to_owned(),
            from: *range.start(),
            to: *range.end(),
        })
    }
}

impl FromRequest<Arc<Shop>> for CheckedForm {
    type Rejection = PageError;

    async fn from_request(request: Request, shop: &Arc<Shop>) -> Result<Self, Self::Rejection> {
        let headers = request.headers().clone();
        if !from_this_site(&headers) {
            return Err(PageError::Forbidden(Say::new("refusal.other-site").into()));
        }
        let visit = Visit::of(shop, &headers);
        let client = client(&request);
        let unreadable = PageError::refused("refusal.form-unreadable");
        let (fields, files) = if let Some(boundary) = multipart::boundary(&headers) {
            // The guard has read the body already, within its limit.
            let body = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            let read = body.ok().and_then(|body| multipart::read(&body, &boundary));
            read.ok_or(unreadable)?
        } else {
            let form = Form::<Vec<(String, String)>>::from_request(request, shop).await;
            (form.map_err(|_| unreadable)?.0, Vec::new())
        };
        let form = Self { visit, headers, client, fields, files };
        if !form.visit.owns(form.text("csrf")) {
            return Err(PageError::Forbidden(Say::new("refusal.stale").into()));
        }
        Ok(form)
    }
}

/// Where a request came from: what the proxy on this machine says, else the peer itself.
fn client(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let forwarded = request.headers().get_all("x-forwarded-for").iter().next_back();
    match (forwarded.and_then(|value| value.to_str().ok()), peer) {
        // The last entry is the one that our own proxy added.
        (Some(list), Some(peer)) if peer.is_loopback() => {
            list.rsplit(',').next().unwrap_or(list).trim().to_owned()
        }
        (_, Some(peer)) => peer.to_string(),
        (_, None) => "unknown".to_owned(),
    }
}

/// A form sent by somebody who is signed in as admin.
#[derive(Debug)]
pub(crate) struct AdminForm {
    pub(crate) form: CheckedForm,
    pub(crate) who: AdminVisit,
}

impl FromRequest<Arc<Shop>> for AdminForm {
    type Rejection = PageError;

    async fn from_request(request: Request, shop: &Arc<Shop>) -> Result<Self, Self::Rejection> {
        // First the session: a stranger is sent to the login and not told about forms.
        let who = AdminVisit::of(Visit::of(shop, request.headers())).await?;
        Ok(Self { form: CheckedForm::from_request(request, shop).await?, who })
    }
}

/// A form sent by a customer who is signed in.
#[derive(Debug)]
pub(crate) struct MemberForm {
    pub(crate) form: CheckedForm,
    pub(crate) who: MemberVisit,
}

impl FromRequest<Arc<Shop>> for MemberForm {
    type Rejection = PageError;

    async fn from_request(request: Request, shop: &Arc<Shop>) -> Result<Self, Self::Rejection> {
        let who = MemberVisit::of(Visit::of(shop, request.headers())).await?;
        Ok(Self { form: CheckedForm::from_request(request, shop).await?, who })
    }
}

/// What browsers say about where a request comes from. Programs that say nothing are left to the form's token.
fn from_this_site(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let fetched = text("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    let host = text(header::HOST.as_str()).unwrap_or_default();
    let origin = text(header::ORIGIN.as_str()).is_none_or(|origin| {
        origin.split_once("://").is_some_and(|(scheme, from)| {
            matches!(scheme, "http" | "https") && !host.is_empty() && from.eq_ignore_ascii_case(host)
        })
    });
    fetched && origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        from_this_site(&headers)
    }

    #[test]
    fn forms_of_other_sites_are_recognised() {
        let host = ("host", "shop.example:8443");
        assert!(says(&[host]));
        assert!(says(&[host, ("origin", "https://shop.example:8443"), ("sec-fetch-site", "same-origin")]));
        for origin in ["https://evil.example", "null", "https://shop.example", "file://shop.example:8443", ""]
        {
            assert!(!says(&[host, ("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(!says(&[host, ("sec-fetch-site", site)]), "{site}");
        }
    }
}
