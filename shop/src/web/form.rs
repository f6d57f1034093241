//! Forms. [`CheckedForm`] is the only way to read one, so that none is read unchecked.

use std::sync::Arc;

use axum::extract::{Form, FromRequest, Request};
use axum::http::{HeaderMap, header};

use super::Shop;
use super::error::PageError;
use super::visit::{AdminVisit, Visit};

/// The fields of a form that came from one of the visitor's own pages.
#[derive(Debug)]
pub(crate) struct CheckedForm {
    pub(crate) visit: Visit,
    pub(crate) headers: HeaderMap,
    fields: Vec<(String, String)>,
}

impl CheckedForm {
    /// A field without the blanks around it; empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        let field = self.fields.iter().find(|(key, _)| key == name);
        field.map(|(_, value)| value.trim()).unwrap_or_default()
    }

    /// Whether a box is ticked.
    pub(crate) fn ticked(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }

    /// A whole number within a range.
    pub(crate) fn number(&self, name: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, PageError> {
        let number = self.text(name).parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let label = name.replace('_', " ");
            PageError::Invalid(format!(
                "{label} must be a whole number from {} to {}",
                range.start(),
                range.end()
            ))
        })
    }
}

impl FromRequest<Arc<Shop>> for CheckedForm {
    type Rejection = PageError;

    async fn from_request(request: Request, shop: &Arc<Shop>) -> Result<Self, Self::Rejection> {
        let headers = request.headers().clone();
        if !from_this_site(&headers) {
            return Err(PageError::Forbidden(
                "this form was sent from another site; open the page here and try again",
            ));
        }
        let visit = Visit::of(shop, &headers);
        let Form(fields) = Form::<Vec<(String, String)>>::from_request(request, shop)
            .await
            .map_err(|_| PageError::BadRequest("the form could not be read"))?;
        let form = Self { visit, headers, fields };
        if !form.visit.owns(form.text("csrf")) {
            return Err(PageError::Forbidden(
                "this page was open for too long or cookies are switched off; go back, reload it and try again",
            ));
        }
        Ok(form)
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
