//! The head of a request: checked, then made the app's.

use hyper::body::{Body, Incoming};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode, Uri, Version};

use crate::Shared;
use crate::body::RequestBody;
use crate::client::Client;
use crate::page::Page;

/// Marks Plimsoll's own requests behind the shut door; never accepted from outside.
const SMOKE: &str = "x-plimsoll-smoke";

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What a waiting request is counted for.
pub(crate) fn head_size(request: &Request<Incoming>) -> usize {
    let uri = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + uri
}

/// What the client asked to upgrade to, and its half of the tunnel.
pub(crate) type Upgrade = Option<OnUpgrade>;

/// Checks a request and makes it the app's: framing that two servers could read differently is refused, headers
/// for this connection only are taken out, what the client says about itself is replaced by what is known.
pub(crate) fn prepare(
    mut request: Request<Incoming>,
    client: &Client,
    door: &Shared,
) -> Result<(Request<RequestBody>, Upgrade), (StatusCode, Page)> {
    let bad = |status, text: &str| Err((status, Page::refused(text)));
    if request.method() == Method::CONNECT {
        return bad(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here.");
    }
    let upgrade = upgrade_wanted(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let headers = &mut parts.headers;

    // hyper accepts any coding list that ends in "chunked"; passed on as plain chunks the inner coding would be lost.
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return bad(StatusCode::NOT_IMPLEMENTED, "This transfer coding is not understood here.");
    }
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && parts.version == Version::HTTP_11) {
        return bad(StatusCode::BAD_REQUEST, "The request needs one Host header.");
    }

    let trailers = headers.get_all(TE).iter().any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let upgrade_to = if upgrade.is_some() { headers.get(UPGRADE).cloned() } else { None };
    remove_hop_by_hop(headers);
    headers.remove(EXPECT);
    if let Some(to) = upgrade_to {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, to);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let trusted = door.options.trust_loopback && client.loopback;
    remove_reserved(headers, trusted);
    set_target_form(&mut parts, door)?;
    set_forwarded(&mut parts.headers, client);

    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let body = RequestBody::new((!body.is_end_stream()).then_some(body), client.stall_timeout);
    Ok((Request::from_parts(parts, body), upgrade))
}

/// An upgrade that is passed on. Not `h2c`: an app that took it would be spoken to past the door's checks.
fn upgrade_wanted(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|to| !to.as_bytes().to_ascii_lowercase().starts_with(b"h2"))
        && has_token(headers, &CONNECTION, "upgrade")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

/// Removes what belongs to one connection. `Transfer-Encoding` stays when the length is unknown: hyper needs it
/// to send a body with every method, and the request's has been checked to be plain `chunked`.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter(|token| !token.eq_ignore_ascii_case("close") && !token.eq_ignore_ascii_case("keep-alive"))
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            // Naming one of these is an attack: without them the app would see another request.
            .filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in
        ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "upgrade"]
    {
        headers.remove(name);
    }
}

/// Removes what only Plimsoll or a trusted proxy may say. Apps on WSGI and CGI read `_` in a name as `-`.
pub(crate) fn remove_reserved(headers: &mut HeaderMap, trusted: bool) {
    let reserved: Vec<HeaderName> =
        headers.keys().filter(|name| is_reserved(name.as_str(), trusted)).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}

fn is_reserved(name: &str, trusted: bool) -> bool {
    let begins = |with: &str| {
        name.len() >= with.len()
            && name.bytes().zip(with.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
    };
    match name.as_bytes().first() {
        Some(b'x') => {
            (begins(SMOKE) && name.len() == SMOKE.len())
                || ((begins("x-forwarded-") || begins("x-real-ip")) && (!trusted || name.contains('_')))
        }
        Some(b'f') => name == FORWARDED.as_str() && !trusted,
        _ => false,
    }
}

/// `GET http://host/path` becomes `GET /path` with that host.
fn set_target_form(parts: &mut Parts, door: &Shared) -> Result<(), (StatusCode, Page)> {
    let bad = || (StatusCode::BAD_REQUEST, Page::refused("The request's address is not understood."));
    if let Some(authority) = parts.uri.authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(|_| bad())?;
        parts.headers.insert(HOST, host);
        let path = parts.uri.path_and_query().cloned().ok_or_else(bad)?;
        parts.uri = Uri::from(path);
    } else if !parts.headers.contains_key(HOST) {
        // An HTTP/1.0 client: the app is asked in HTTP/1.1, which wants one.
        parts.headers.insert(HOST, door.host.clone());
    }
    Ok(())
}

fn set_forwarded(headers: &mut HeaderMap, client: &Client) {
    // What is here now was said by a trusted proxy.
    let chain: Vec<HeaderValue> = headers.get_all(&X_FORWARDED_FOR).iter().cloned().collect();
    let forwarded_for = if chain.is_empty() {
        client.ip.clone()
    } else {
        let mut text = Vec::new();
        for value in chain.iter().chain([&client.ip]) {
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(value.as_bytes());
        }
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| client.ip.clone())
    };
    headers.insert(&X_FORWARDED_FOR, forwarded_for);
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(&X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(&X_FORWARDED_HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::Options;
    use crate::app::{App, Then, ask, door, door_to, open, receive, send};

    fn hello() -> App {
        App::saying("hello", Duration::ZERO)
    }

    #[test]
    fn a_request_and_its_answer_pass_as_they_are() {
        let app = App::start(|_, stream| {
            let answer = "HTTP/1.1 201 Created\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-release: 000012-3fa9c1b\r\nconnection: x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 2\r\n\r\nok";
            stream.get_mut().write_all(answer.as_bytes()).map(|()| Then::Keep)
        });
        let door = door_to(&app);
        let request = "PUT /a%20b?x=1&y=%2f HTTP/1.1\r\nHost: Shop.test:81\r\nCookie: c=1\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nContent-Length: 3\r\n\r\nabc";
        let answer = ask(door.local_addr(), request).unwrap();
        let mut headers: Vec<String> =
            answer.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        headers.sort();
        assert_eq!(
            headers,
            ["content-length: 2", "set-cookie: a=1", "set-cookie: b=2", "x-release: 000012-3fa9c1b"]
        );
        assert_eq!((answer.status, answer.text().as_str()), (201, "ok"));
        let asked = app.last();
        assert_eq!(asked.line, "PUT /a%20b?x=1&y=%2f HTTP/1.1");
        assert_eq!(asked.body, b"abc");
        let mut headers: Vec<String> =
            asked.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        headers.sort();
        let expected = [
            "connection: close",
            "content-length: 3",
            "cookie: c=1",
            "host: Shop.test:81",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: Shop.test:81",
            "x-forwarded-proto: http",
        ];
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_clients_say_about_themselves_is_replaced() {
        let app = hello();
        let request = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\nX_Forwarded_For: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-forwarded-host: evil\r\nx-forwarded-port: 1\r\nx-real-ip: 1.1.1.1\r\nforwarded: for=1.2.3.4\r\n\r\n";
        let stranger = door_to(&app);
        ask(stranger.local_addr(), request).unwrap();
        let asked = app.last();
        assert_eq!(asked.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(asked.header("x-forwarded-proto"), Some("http"));
        assert_eq!(asked.header("x-forwarded-host"), Some("a"));
        for gone in ["x_forwarded_for", "x-forwarded-port", "x-real-ip", "forwarded"] {
            assert_eq!(asked.header(gone), None, "{gone}");
        }
        let trusting = door(Options { trust_loopback: true, ..Options::default() });
        trusting.set_target(Some(app.target("1")));
        trusting.gate().open();
        ask(trusting.local_addr(), request).unwrap();
        let asked = app.last();
        assert_eq!(asked.header("x-forwarded-for"), Some("1.2.3.4, 5.6.7.8, 127.0.0.1"));
        assert_eq!(asked.header("x-forwarded-proto"), Some("https"));
        assert_eq!(asked.header("forwarded"), Some("for=1.2.3.4"));
        assert_eq!(asked.header("x_forwarded_for"), None, "WSGI would read it as the real one");
    }

    #[test]
    fn the_smoke_header_never_comes_from_outside() {
        let app = hello();
        let door = door_to(&app);
        let request = "POST / HTTP/1.1\r\nhost: a\r\nX-Plimsoll-Smoke: t\r\nx_plimsoll_smoke: t\r\nX-Plimsoll_Smoke: t\r\ntransfer-encoding: chunked\r\ntrailer: x-plimsoll-smoke, x-sum\r\n\r\n1\r\na\r\n0\r\nx-plimsoll-smoke: t\r\nx-sum: 7\r\n\r\n";
        assert_eq!(ask(door.local_addr(), request).unwrap().status, 200);
        let asked = app.last();
        let names: Vec<&str> = asked.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(!names.iter().any(|name| name.replace('_', "-").eq_ignore_ascii_case(SMOKE)), "{names:?}");
        assert_eq!(String::from_utf8(asked.body).unwrap(), "ax-sum: 7\r\n", "the other trailer passes");
    }

    /// What two servers in a row could read differently. The door answers, and `/smuggled` never reaches the app.
    #[test]
    fn smuggled_requests_do_not_pass() {
        const INNER: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        let app = hello();
        let door = door_to(&app);
        let refused = [
            (
                "two lengths",
                format!(
                    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 38\r\n\r\n{INNER}"
                ),
            ),
            (
                "a list of lengths",
                format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 38\r\n\r\n{INNER}"),
            ),
            ("a signed length", format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx{INNER}")),
            (
                "an unknown coding",
                format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n{INNER}"),
            ),
            (
                "two codings",
                format!(
                    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n{INNER}"
                ),
            ),
            (
                "two coding lines",
                format!(
                    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{INNER}"
                ),
            ),
            (
                "chunked not last",
                format!(
                    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{INNER}"
                ),
            ),
            (
                "chunked in 1.0",
                format!("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{INNER}"),
            ),
            (
                "space before the colon",
                format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n{INNER}"),
            ),
            (
                "a folded line",
                format!(
                    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n{INNER}"
                ),
            ),
            ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned()),
            ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
            ("connect", "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
            ("no http", "hello\r\n\r\n".to_owned()),
        ];
        for (case, request) in refused {
            let mut stream = open(door.local_addr());
            send(&mut stream, &request);
            let answer = receive(&mut stream).unwrap();
            assert!(matches!(answer.status, 400 | 405 | 501), "{case}: {}", answer.status);
            assert!(receive(&mut stream).is_err(), "{case}: what follows was read as a request");
        }
        assert_eq!(app.count(), 0);

        // Length and coding: the coding counts, the length goes, and nothing more is read from this connection.
        for heads in [
            "content-length: 5\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 5",
        ] {
            let mut stream = open(door.local_addr());
            send(&mut stream, &format!("POST /both HTTP/1.1\r\nhost: a\r\n{heads}\r\n\r\n0\r\n\r\n{INNER}"));
            assert_eq!(receive(&mut stream).unwrap().status, 200);
            assert_eq!(app.last().header("content-length"), None);
            assert!(receive(&mut stream).is_err(), "the connection was kept");
        }

        // Broken chunks: the app may see the request begin, never end, nor what follows.
        for body in [
            "zz\r\nabc\r\n0\r\n\r\n",
            "3\r\nabcdef\r\n0\r\n\r\n",
            "ffffffffffffffffff\r\nabc",
            "-1\r\nabc\r\n0\r\n\r\n",
        ] {
            let request = format!(
                "POST /chunks HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}{INNER}"
            );
            let status = ask(door.local_addr(), &request).map_or(0, |answer| answer.status);
            assert_ne!(status, 200, "{body}");
        }
        let asked = app.asked.lock().unwrap();
        assert!(asked.iter().all(|asked| asked.path() == "/both"), "{asked:?}");
    }

    #[test]
    fn naming_the_length_as_hop_by_hop_does_not_remove_it() {
        let app = hello();
        let door = door_to(&app);
        let request = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close, content-length, host\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(ask(door.local_addr(), request).unwrap().status, 200);
        let asked = app.last();
        assert_eq!((asked.body.as_slice(), asked.header("host")), (b"abc".as_slice(), Some("a")));
    }

    #[test]
    fn an_absolute_address_names_the_host() {
        let app = hello();
        let door = door_to(&app);
        ask(door.local_addr(), "GET http://u:p@shop.test:1/x?y HTTP/1.1\r\nhost: other\r\n\r\n").unwrap();
        assert_eq!(
            (app.last().line.as_str(), app.last().header("host")),
            ("GET /x?y HTTP/1.1", Some("shop.test:1"))
        );
        assert_eq!(ask(door.local_addr(), "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").unwrap().status, 200);
        assert_eq!(app.last().line, "OPTIONS * HTTP/1.1");
    }
}
