//! One request's view of its visitor: basket, form token, and whether an admin is signed in.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use cookie::{Cookie, SameSite, time::Duration};
use minijinja::{Value, context};

use super::Shop;
use super::error::PageError;
use crate::cart::Cart;
use crate::db::{random_hex, sessions};
use crate::texts::{Language, Say};

/// Baskets and visitors are remembered for this long.
const REMEMBERED: Duration = Duration::days(30);

const VISITOR: &str = "visitor";
const CART: &str = "cart";
const ADMIN: &str = "admin";
const MEMBER: &str = "member";
const PINCODE: &str = "pincode";
const LANGUAGE: &str = "language";

/// Whether the visitor came over https. Told by the proxy in front, which must set or remove this header.
pub(crate) fn came_by_https(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// Who visits.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    pub(crate) shop: Arc<Shop>,
    pub(crate) cart: Cart,
    /// A random id that form tokens belong to.
    visitor: String,
    is_new: bool,
    https: bool,
    /// The admin cookie as sent; not yet looked up.
    admin_cookie: Option<String>,
    /// The same of a customer with an account.
    member_cookie: Option<String>,
    /// Where the visitor wants things delivered, six digits.
    pub(crate) pincode: Option<String>,
    /// The number of the language that the visitor reads.
    pub(crate) language: usize,
}

impl Visit {
    /// Reads the cookies.
    pub(crate) fn of(shop: &Arc<Shop>, headers: &HeaderMap) -> Self {
        let https = came_by_https(headers);
        let value = |name| cookie_value(headers, &cookie_name(name, https));
        let visitor = value(VISITOR).filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
        Self {
            shop: shop.clone(),
            cart: Cart::from_cookie(&shop.signer, value(CART).as_deref()),
            is_new: visitor.is_none(),
            visitor: visitor.unwrap_or_else(random_hex::<16>),
            https,
            admin_cookie: value(ADMIN),
            member_cookie: value(MEMBER),
            pincode: value(PINCODE).filter(|pincode| is_pincode(pincode)),
            language: value(LANGUAGE).and_then(|code| shop.pages.language(&code)).unwrap_or(0),
        }
    }

    fn token_parts(&self) -> [&str; 3] {
        // The session is part of it: a token from before the login is of no use after it.
        [
            &self.visitor,
            self.admin_cookie.as_deref().unwrap_or_default(),
            self.member_cookie.as_deref().unwrap_or_default(),
        ]
    }

    /// A text in the visitor's language.
    pub(crate) fn say(&self, say: &Say) -> String {
        self.language().say(say)
    }

    /// The language that the visitor reads.
    pub(crate) fn language(&self) -> &Language {
        let languages = &self.shop.pages.languages;
        languages.get(self.language).unwrap_or(&languages[0])
    }

    /// Has the browser remember a language.
    pub(crate) fn keep_language(&self, response: &mut Response, code: &str) {
        self.put_cookie(response, LANGUAGE, code, Some(Duration::days(365)));
    }

    /// Gives a browser that is new its id.
    pub(crate) fn introduce(&self, response: &mut Response) {
        if self.is_new {
            self.put_cookie(response, VISITOR, &self.visitor, Some(REMEMBERED));
        }
    }

    /// The customer who is signed in, if one is.
    pub(crate) async fn member(&self) -> Result<Option<sessions::Member>, PageError> {
        let Some(cookie) = self.member_cookie.clone() else { return Ok(None) };
        self.shop.store.read(move |connection| Ok(sessions::member(connection, &cookie)?)).await
    }

    /// The cookie of a customer's session, if the browser sent one.
    pub(crate) fn member_session(&self) -> Option<&str> {
        self.member_cookie.as_deref()
    }

    /// Signs a customer in, under a new visitor id.
    pub(crate) fn sign_member_in(&self, response: &mut Response, session: &str) {
        self.put_cookie(response, MEMBER, session, Some(Duration::days(14)));
        self.put_cookie(response, VISITOR, &random_hex::<16>(), Some(REMEMBERED));
    }

    /// Takes a customer's session and basket out of the browser.
    pub(crate) fn sign_member_out(&self, response: &mut Response) {
        self.put_cookie(response, MEMBER, "", Some(Duration::ZERO));
        self.put_cookie(response, CART, "", Some(Duration::ZERO));
        self.put_cookie(response, VISITOR, &random_hex::<16>(), Some(REMEMBERED));
    }

    /// Has the browser remember where the visitor lives.
    pub(crate) fn keep_pincode(&self, response: &mut Response, pincode: &str) {
        self.put_cookie(response, PINCODE, pincode, Some(REMEMBERED));
    }

    /// The hidden field of every form on this visitor's pages.
    pub(crate) fn csrf(&self) -> String {
        self.shop.signer.sign("csrf", &self.token_parts())
    }

    /// Whether a form came from one of this visitor's pages.
    pub(crate) fn owns(&self, csrf: &str) -> bool {
        !self.is_new && self.shop.signer.verify("csrf", &self.token_parts(), csrf)
    }

    /// A page in the shop's look. `values` are added to what every page has.
    pub(crate) fn page(
        &self,
        status: StatusCode,
        template: &str,
        values: Value,
    ) -> Result<Response, PageError> {
        let own = context! {
            csrf => self.csrf(),
            basket_count => Value::from_safe_string(self.basket_count()?),
        };
        let html = self.text_of_page(template, context! { ..values, ..own })?;
        let mut response = (status, Html(html)).into_response();
        self.introduce(&mut response);
        Ok(response)
    }

    /// How full the basket is, as the header shows it.
    pub(crate) fn basket_count(&self) -> Result<String, PageError> {
        match self.cart.pieces() {
            0 => Ok(String::new()),
            pieces => {
                let values = context! { cart_pieces => pieces };
                self.shop.pages.render(self.language, "partials/basket_count.html", values)
            }
        }
    }

    /// The text of a page, with the visitor's language and pincode; what else is the visitor's own is in `values`.
    pub(crate) fn text_of_page(&self, template: &str, values: Value) -> Result<String, PageError> {
        let every = context! {
            release => self.shop.settings.release.as_str(),
            query => "",
            pincode => self.pincode.as_deref().unwrap_or_default(),
            seller => self.shop.seller.clone(),
            pays_online => self.shop.settings.payments.gateway.is_some(),
        };
        self.shop.pages.render(self.language, template, context! { ..values, ..every })
    }

    /// Sends the browser to another page of the shop, which it fetches with GET.
    pub(crate) fn go_to(&self, path: &str) -> Response {
        axum::response::Redirect::to(path).into_response()
    }

    /// Has the browser keep this basket.
    pub(crate) fn keep_cart(&self, response: &mut Response, cart: &Cart) {
        let value = cart.to_cookie(&self.shop.signer);
        self.put_cookie(response, CART, &value, Some(REMEMBERED));
    }

    /// Signs the browser in, under a new visitor id.
    pub(crate) fn sign_in(&self, response: &mut Response, session: &str) {
        self.put_cookie(response, ADMIN, session, None);
        self.put_cookie(response, VISITOR, &random_hex::<16>(), Some(REMEMBERED));
    }

    /// Takes the session out of the browser.
    pub(crate) fn sign_out(&self, response: &mut Response) {
        self.put_cookie(response, ADMIN, "", Some(Duration::ZERO));
        self.put_cookie(response, VISITOR, &random_hex::<16>(), Some(REMEMBERED));
    }

    /// The cookie of the session, if the browser sent one.
    pub(crate) fn session(&self) -> Option<&str> {
        self.admin_cookie.as_deref()
    }

    fn put_cookie(
        &self,
        response: &mut Response,
        name: &'static str,
        value: &str,
        max_age: Option<Duration>,
    ) {
        let mut cookie = Cookie::build((cookie_name(name, self.https), value.to_owned()))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(self.https);
        if let Some(max_age) = max_age {
            cookie = cookie.max_age(max_age);
        }
        // Names and values are made of hexadecimal digits, letters and `-_.`, which a header can hold.
        if let Ok(header) = HeaderValue::from_str(&cookie.build().to_string()) {
            response.headers_mut().append(header::SET_COOKIE, header);
        }
    }
}

impl FromRequestParts<Arc<Shop>> for Visit {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Self::Rejection> {
        Ok(Self::of(shop, &parts.headers))
    }
}

/// Six digits, the first of them not 0.
pub(crate) fn is_pincode(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0')
}

/// A visit of a customer who is signed in; anybody else is sent to the login.
#[derive(Clone, Debug)]
pub(crate) struct MemberVisit {
    pub(crate) visit: Visit,
    pub(crate) member: sessions::Member,
}

impl MemberVisit {
    /// Looks the session up.
    pub(crate) async fn of(visit: Visit) -> Result<Self, PageError> {
        let member = visit.member().await?.ok_or(PageError::MembersOnly)?;
        Ok(Self { visit, member })
    }
}

impl FromRequestParts<Arc<Shop>> for MemberVisit {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Self::Rejection> {
        Self::of(Visit::of(shop, &parts.headers)).await
    }
}

/// A visit of somebody who is signed in as admin; anybody else is sent to the login.
#[derive(Clone, Debug)]
pub(crate) struct AdminVisit {
    pub(crate) visit: Visit,
    pub(crate) admin: sessions::Admin,
}

impl AdminVisit {
    /// Looks the session up.
    pub(crate) async fn of(visit: Visit) -> Result<Self, PageError> {
        let cookie = visit.admin_cookie.clone().ok_or(PageError::SignInFirst)?;
        let admin = visit
            .shop
            .store
            .read(move |connection| Ok::<_, PageError>(sessions::admin(connection, &cookie)?))
            .await;
        let admin = admin?.ok_or(PageError::SignInFirst)?;
        Ok(Self { visit, admin })
    }

    /// A page with what every admin page has.
    pub(crate) fn page(
        &self,
        status: StatusCode,
        template: &str,
        values: Value,
    ) -> Result<Response, PageError> {
        let every = context! { admin_email => self.admin.email.as_str() };
        self.visit.page(status, template, context! { ..values, ..every })
    }
}

impl FromRequestParts<Arc<Shop>> for AdminVisit {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Self::Rejection> {
        Self::of(Visit::of(shop, &parts.headers)).await
    }
}

/// Over https the name itself makes browsers insist on Secure, this host and the whole path.
fn cookie_name(name: &str, https: bool) -> String {
    if https { format!("__Host-{name}") } else { name.to_owned() }
}

fn cookie_value(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}
