//! One request on its way through the door: checked, admitted, sent, answered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;

use crate::Shared;
use crate::client::Client;
use crate::gate::{Admission, Verdict};
use crate::page::Page;
use crate::target::{Claim, Connection};
use crate::traffic::{By, Ticket, Traffic};

/// Between two attempts to reach an app that does not listen.
const RETRY_EVERY: Duration = Duration::from_millis(25);
/// Marks Plimsoll's own requests behind the shut door; never accepted from outside.
const SMOKE: &str = "x-plimsoll-smoke";

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client has gone: there is nobody to answer, so its connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the client has left")]
pub(crate) struct ClientLeft;

/// A request's body on its way to the app.
pub(crate) struct RequestBody(Option<Incoming>);

/// An answer's body on its way to the client.
pub(crate) enum ResponseBody {
    Page(Option<Bytes>),
    App(AppBody),
}

/// The app's answer, with what must live as long as it flows. Dropped half-way, its connection is closed.
pub(crate) struct AppBody {
    body: Incoming,
    /// Taken when the body has been read to its end.
    using: Option<(Connection, Claim)>,
    traffic: Arc<Traffic>,
}

/// How an attempt to send a request ended.
enum Sent {
    Answered(Box<Response<Incoming>>, Connection),
    /// It has certainly not been sent and may be sent elsewhere.
    Unsent(Request<RequestBody>),
    Failed(StatusCode, Page),
}

pub(crate) async fn serve(
    door: Arc<Shared>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ClientLeft> {
    let mut ticket = door.traffic.accept();
    // Only a page needs it, and what it needs is one header.
    let accept = request.headers().get(hyper::header::ACCEPT).cloned();
    let unread = !request.body().is_end_stream();
    let refuse = |ticket: Ticket, status: StatusCode, page: &Page, unread: bool| {
        if unread {
            client.leave_body_unread();
        }
        ticket.answered(status, By::Door);
        let mut headers = HeaderMap::new();
        if let Some(accept) = &accept {
            headers.insert(hyper::header::ACCEPT, accept.clone());
        }
        let mut response = page.render(status, &headers).map(|text| ResponseBody::Page(Some(text)));
        if status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED {
            // What follows such a request on its connection is not to be trusted.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    };

    let bytes = head_size(&request);
    let limit = door.options.answer_after_for(request.uri().path());
    let (mut request, upgrade) = match prepare(request, &client, &door) {
        Ok(prepared) => prepared,
        Err((status, page)) => return refuse(ticket, status, &page, unread),
    };

    let mut app_down_since = None;
    loop {
        let verdict = match door.gate.admit(bytes) {
            Admission::Decided(verdict) => verdict,
            Admission::Wait(mut waiting) => {
                ticket.held();
                tokio::select! {
                    biased;
                    () = client.gone() => return Err(ClientLeft),
                    verdict = waiting.verdict(limit) => verdict,
                }
            }
        };
        let claim = match verdict {
            Verdict::Go(claim) => claim,
            Verdict::Refused(page) => {
                return refuse(ticket, StatusCode::SERVICE_UNAVAILABLE, &page, unread);
            }
        };
        let began = Instant::now();
        let sent = send(&door, &claim, request, &mut app_down_since).await;
        if claim.waited {
            door.gate.release(1);
        }
        match sent {
            Sent::Unsent(back) => request = back,
            Sent::Failed(status, page) => return refuse(ticket, status, &page, unread),
            Sent::Answered(response, connection) => {
                door.traffic.app_answered(began.elapsed());
                ticket.answered(response.status(), By::App);
                return Ok(answer(&door, *response, connection, claim, upgrade));
            }
        }
    }
}

/// Sends a request once. It is sent again only where nothing can have been carried out, or where that does no harm.
async fn send(
    door: &Shared,
    claim: &Claim,
    mut request: Request<RequestBody>,
    app_down_since: &mut Option<Instant>,
) -> Sent {
    let replayable = request.body().0.is_none()
        && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);

    // A kept connection may be closed by the app just as a request goes out on it. What must not be sent twice
    // has a connection of its own instead.
    if !replayable && !request.headers().contains_key(CONNECTION) {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if replayable && let Some(mut connection) = claim.idle_connection() {
        let copy = copy_of(&request);
        match connection.send(request).await {
            Ok(response) => return Sent::Answered(Box::new(response), connection),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None if claim.ended() || error.error().is_parse() => return lost(door, claim),
                None => request = copy,
            },
        }
    }
    loop {
        // Nothing was carried out: with a drain begun it goes back to the gate, and waits there if that is held.
        if claim.draining() {
            return Sent::Unsent(request);
        }
        let error = match claim.connect().await {
            Ok(mut connection) => match connection.send(request).await {
                Ok(response) => return Sent::Answered(Box::new(response), connection),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => {
                        request = unsent;
                        io::Error::other("the connection was closed before the request was sent")
                    }
                    None => return lost(door, claim),
                },
            },
            Err(error) => error,
        };
        let since = *app_down_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= door.options.app_down_wait || error.kind() == io::ErrorKind::TimedOut {
            return Sent::Failed(StatusCode::BAD_GATEWAY, Page::app_down(&door.options.app_name));
        }
        claim.pause(RETRY_EVERY).await;
    }
}

fn lost(door: &Shared, claim: &Claim) -> Sent {
    let status = if claim.ended() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
    Sent::Failed(status, Page::answer_lost(&door.options.app_name))
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody(None));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn head_size(request: &Request<Incoming>) -> usize {
    let uri = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + uri
}

/// What the client asked to upgrade to, and its half of the tunnel.
type Upgrade = Option<OnUpgrade>;

/// Checks a request and makes it the app's: framing that two servers could read differently is refused, headers
/// for this connection only are taken out, what the client says about itself is replaced by what is known.
fn prepare(
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
    let body = RequestBody((!body.is_end_stream()).then_some(body));
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
fn remove_hop_by_hop(headers: &mut HeaderMap) {
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
fn remove_reserved(headers: &mut HeaderMap, trusted: bool) {
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

/// Makes the app's answer the client's.
fn answer(
    door: &Shared,
    mut response: Response<Incoming>,
    connection: Connection,
    claim: Claim,
    upgrade: Upgrade,
) -> Response<ResponseBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(door, response, claim, upgrade);
    }
    let headers = response.headers_mut();
    let chunked = headers.remove(TRANSFER_ENCODING).is_some();
    remove_hop_by_hop(headers);
    if chunked {
        headers.remove(CONTENT_LENGTH);
    }
    let events =
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if events {
        claim.mark_stream(&connection);
    }
    response.map(|body| {
        let mut body = AppBody { body, using: Some((connection, claim)), traffic: Arc::clone(&door.traffic) };
        if body.body.is_end_stream() {
            body.finish();
        }
        ResponseBody::App(body)
    })
}

/// Joins client and app; what flows then is theirs alone.
fn switch(
    door: &Shared,
    mut response: Response<Incoming>,
    claim: Claim,
    upgrade: Upgrade,
) -> Response<ResponseBody> {
    let Some(from_client) = upgrade else {
        // The app switches though nobody asked: there is no way to answer that.
        let page = Page::answer_lost(&door.options.app_name);
        return page
            .render(StatusCode::BAD_GATEWAY, &HeaderMap::new())
            .map(|text| ResponseBody::Page(Some(text)));
    };
    let from_app = hyper::upgrade::on(&mut response);
    claim.spawn_tunnel(async move {
        let (Ok(client), Ok(app)) = tokio::join!(from_client, from_app) else { return };
        let (mut client, mut app) = (TokioIo::new(client), TokioIo::new(app));
        // An error is an end like any other.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut app).await;
    });
    response.map(|_| ResponseBody::Page(None))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let mut frame = ready!(Pin::new(body).poll_frame(cx));
        // Some servers read trailers as headers.
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            remove_reserved(trailers, false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl AppBody {
    fn finish(&mut self) {
        if let Some((connection, claim)) = self.using.take() {
            claim.give_back(connection);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            ResponseBody::Page(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            ResponseBody::App(app) => {
                let frame = ready!(Pin::new(&mut app.body).poll_frame(cx));
                match &frame {
                    None => app.finish(),
                    Some(Ok(frame)) if frame.is_trailers() || app.body.is_end_stream() => app.finish(),
                    Some(Ok(_)) => {}
                    Some(Err(_)) => {
                        app.traffic.broke();
                        app.using = None;
                    }
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Page(text) => text.is_none(),
            ResponseBody::App(app) => app.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Page(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            ResponseBody::App(app) => app.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::Options;
    use crate::app::{App, Then, ask, door, door_to, get, open, post, receive, reply, send, until};

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

    #[test]
    fn slow_and_huge_heads_are_given_up() {
        let app = hello();
        let door = door(Options { header_timeout: Duration::from_millis(300), ..Options::default() });
        door.set_target(Some(app.target("1")));
        door.gate().open();
        let mut stream = open(door.local_addr());
        let began = Instant::now();
        send(&mut stream, "GET / HTTP/1.1\r\nhost:");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(250) && began.elapsed() < Duration::from_secs(5));
        let huge = format!("GET / HTTP/1.1\r\nhost: a\r\ncookie: {}\r\n\r\n", "c".repeat(40_000));
        assert_eq!(ask(door.local_addr(), &huge).unwrap().status, 431);
        let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(200));
        assert_eq!(ask(door.local_addr(), &many).unwrap().status, 431);
        assert_eq!(app.count(), 0);
    }

    #[test]
    fn a_body_that_waits_for_100_is_asked_for_when_it_is_wanted() {
        let app = hello();
        let door = door_to(&app);
        door.gate().hold(Instant::now() + Duration::from_secs(20));
        let mut stream = open(door.local_addr());
        send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
        until("it waits", || door.gate().parked() == 1);
        stream.get_ref().set_nonblocking(true).unwrap();
        assert_eq!(
            stream.fill_buf().unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "100 was sent into the hold"
        );
        stream.get_ref().set_nonblocking(false).unwrap();
        door.gate().open();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
        stream.read_line(&mut line).unwrap();
        send(&mut stream, "abc");
        assert_eq!(receive(&mut stream).unwrap().status, 200);
        assert_eq!((app.last().body.as_slice(), app.last().header("expect")), (b"abc".as_slice(), None));
    }

    #[test]
    fn chunks_flow_both_ways_as_they_come() {
        let app = App::start(|_, stream| {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n";
            stream.get_mut().write_all(head.as_bytes())?;
            stream.get_mut().write_all(b"2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n").map(|()| Then::Keep)
        });
        let door = door_to(&app);
        let request = "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n";
        let answer = ask(door.local_addr(), request).unwrap();
        assert_eq!(answer.text(), "abcdex-sum: 5\r\n");
        assert_eq!(app.last().body, b"xyz", "a GET's body passes too");
        // A client of HTTP/1.0 knows no chunks: the answer ends with the connection.
        let mut stream = open(door.local_addr());
        send(&mut stream, "GET / HTTP/1.0\r\n\r\n");
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\nabcde"), "{text}");
        assert!(app.last().header("host").is_some());
    }

    #[test]
    fn events_are_not_buffered() {
        let (next, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let app = App::start(move |_, stream| {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
            stream.get_mut().write_all(head.as_bytes())?;
            for number in 0..3 {
                stream.get_mut().write_all(format!("data: {number}\n\n").as_bytes())?;
                let _ = wait.lock().unwrap().recv();
            }
            Ok(Then::Close)
        });
        let door = door_to(&app);
        let mut stream = open(door.local_addr());
        send(&mut stream, "GET /events HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut text = String::new();
        for number in 0..3 {
            // The app writes the next event only after this one has been read.
            while !text.contains(&format!("data: {number}\n")) {
                assert_ne!(stream.read_line(&mut text).unwrap(), 0, "{text}");
            }
            assert_eq!(door.traffic().in_flight, 1);
            next.send(()).unwrap();
        }
        until("it is over", || door.traffic().in_flight == 0);
    }

    fn echo() -> App {
        App::start(|asked, stream| {
            if asked.header("upgrade") != Some("websocket") {
                return reply(stream, "no upgrade");
            }
            stream.get_mut().write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: k\r\n\r\nwelcome")?;
            let mut piece = [0; 1024];
            loop {
                match stream.read(&mut piece)? {
                    0 => return Ok(Then::Close),
                    size => stream.get_mut().write_all(&piece[..size])?,
                }
            }
        })
    }

    const UPGRADE_TO_WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";

    #[test]
    fn a_websocket_is_a_tunnel_until_a_drain() {
        let app = echo();
        let door = door_to(&app);
        let mut stream = open(door.local_addr());
        send(&mut stream, UPGRADE_TO_WEBSOCKET);
        let answer = receive(&mut stream).unwrap();
        assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
        assert_eq!(answer.header("sec-websocket-accept"), Some("k"));
        let mut welcome = [0; 7];
        stream.read_exact(&mut welcome).unwrap();
        for round in 0..20_u8 {
            let sent = vec![round; 1_000];
            stream.get_mut().write_all(&sent).unwrap();
            let mut back = vec![0; 1_000];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(sent, back);
        }
        assert_eq!(door.traffic().in_flight, 1);
        let drained = door.drain_current(Duration::from_secs(5)).unwrap();
        assert_eq!((drained.ended, drained.streams), (0, 1));
        assert!(drained.waited < Duration::from_secs(2), "a tunnel used up the drain: {drained:?}");
        assert!(matches!(stream.read(&mut welcome), Ok(0) | Err(_)), "the tunnel is still open");
    }

    #[test]
    fn h2c_is_not_passed_on() {
        let app = echo();
        let door = door_to(&app);
        let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n";
        assert_eq!(ask(door.local_addr(), request).unwrap().text(), "no upgrade");
        for gone in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(app.last().header(gone), None, "{gone}");
        }
    }

    #[test]
    fn answers_without_a_body_keep_their_headers() {
        let app = App::start(|asked, stream| {
            let answer = match asked.path() {
                "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\n\r\n",
                _ => "HTTP/1.1 204 No Content\r\n\r\n",
            };
            stream.get_mut().write_all(answer.as_bytes()).map(|()| Then::Keep)
        });
        let door = door_to(&app);
        let mut stream = open(door.local_addr());
        send(
            &mut stream,
            "HEAD /head HTTP/1.1\r\nhost: a\r\n\r\nGET /304 HTTP/1.1\r\nhost: a\r\n\r\nGET /204 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        );
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status: Vec<&str> = text.lines().filter(|line| line.starts_with("HTTP")).collect();
        assert_eq!(
            status,
            ["HTTP/1.1 200 OK", "HTTP/1.1 304 Not Modified", "HTTP/1.1 204 No Content"],
            "{text}"
        );
        assert!(text.contains("content-length: 999") && text.contains("etag: \"e\""), "{text}");
        until("the connections are back", || door.traffic().in_flight == 0);
        assert_eq!(app.last().connection, 0, "one connection to the app served all three");
    }

    #[test]
    fn a_download_of_any_size_passes() {
        let app = App::start(|_, stream| {
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 33554432\r\n\r\n")?;
            for _ in 0..32 {
                stream.get_mut().write_all(&vec![b'x'; 1024 * 1024])?;
            }
            Ok(Then::Keep)
        });
        let door = door_to(&app);
        let answer = get(door.local_addr(), "/").unwrap();
        assert_eq!(answer.body.len(), 32 * 1024 * 1024);
        assert!(answer.body.iter().all(|byte| *byte == b'x'));
    }

    #[test]
    fn an_answer_may_come_before_the_upload_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let app = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut piece = [0; 1024];
            let _ = stream.read(&mut piece).unwrap();
            stream.write_all(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 7\r\n\r\ntoo big").unwrap();
            while stream.read(&mut piece).is_ok_and(|size| size > 0) {}
        });
        let door = door(Options::default());
        door.set_target(Some(crate::Target { addr, release: "1".to_owned() }));
        door.gate().open();
        let mut stream = open(door.local_addr());
        send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\nbegin");
        let answer = receive(&mut stream).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (413, "too big"));
        drop(stream);
        app.join().unwrap();
        until("it is over", || door.traffic().in_flight == 0);
    }

    #[test]
    fn an_app_that_is_down_gives_502_after_a_short_wait() {
        let mut app = hello();
        let target = app.target("1");
        app.stop();
        let wait = Duration::from_millis(400);
        let door =
            door(Options { app_down_wait: wait, app_name: "Grocery".to_owned(), ..Options::default() });
        door.set_target(Some(target));
        door.gate().open();
        let began = Instant::now();
        let answer = get(door.local_addr(), "/").unwrap();
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("Grocery does not answer"));
        assert!(began.elapsed() >= wait);
        assert_eq!(door.traffic().failed_here, 1);
        assert_eq!(door.recent(Duration::from_secs(60)).iter().map(|second| second.errors).sum::<u32>(), 1);
    }

    #[test]
    fn an_app_that_is_restarted_is_waited_for() {
        let mut app = hello();
        let door = door_to(&app);
        let addr = app.addr;
        assert_eq!(get(door.local_addr(), "/").unwrap().status, 200);
        app.stop();
        thread::scope(|scope| {
            let asking = scope.spawn(|| post(door.local_addr(), "/", "a=1").unwrap().status);
            until("it waits for the app", || door.traffic().in_flight == 1);
            let again = App::start_at(addr, |_, stream| reply(stream, "again"));
            assert_eq!(asking.join().unwrap(), 200);
            assert_eq!(again.count(), 1);
        });
    }

    /// The app closes a kept connection at the very moment the next request comes.
    #[test]
    fn a_stale_connection_is_replaced_for_get_and_not_used_for_post() {
        let app = App::start(|asked, stream| {
            // The second request on any connection is read and dropped, as by a process that is being ended.
            static SEEN: std::sync::Mutex<Vec<usize>> = std::sync::Mutex::new(Vec::new());
            let mut seen = SEEN.lock().unwrap();
            if seen.contains(&asked.connection) {
                return Ok(Then::Close);
            }
            seen.push(asked.connection);
            reply(stream, "ok")
        });
        let door = door_to(&app);
        for round in 0..10 {
            assert_eq!(get(door.local_addr(), "/").unwrap().status, 200, "round {round}");
            assert_eq!(post(door.local_addr(), "/", "a=1").unwrap().status, 200, "round {round}");
        }
        assert!(app.count() > 20, "no stale connection was met");
    }

    #[test]
    fn a_post_that_may_have_run_is_not_repeated() {
        let app = App::start(|_, _| Ok(Then::Close));
        let door = door_to(&app);
        let answer = post(door.local_addr(), "/buy", "a=1").unwrap();
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("Look whether your request was carried out"), "{}", answer.text());
        assert_eq!(app.count(), 1);
    }

    #[test]
    fn a_client_that_leaves_ends_its_request_at_the_app() {
        let (gone, noticed) = mpsc::channel();
        let app = App::start(move |_, stream| {
            let mut byte = [0];
            gone.send(stream.read(&mut byte).map_or(0, |size| size)).unwrap();
            Ok(Then::Close)
        });
        let door = door_to(&app);
        let mut stream = open(door.local_addr());
        send(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        until("it is at the app", || app.count() == 1);
        drop(stream);
        assert_eq!(noticed.recv_timeout(Duration::from_secs(10)), Ok(0));
        until("it is counted", || door.traffic().left == 1 && door.traffic().in_flight == 0);
    }

    #[test]
    fn a_broken_answer_is_not_made_whole() {
        let app = App::start(|_, stream| {
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")?;
            Ok(Then::Close)
        });
        let door = door_to(&app);
        assert!(get(door.local_addr(), "/").is_err(), "the client was told that all is well");
        until("it is counted", || door.traffic().broken == 1);
    }
}
