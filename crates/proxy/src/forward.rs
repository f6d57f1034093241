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

use crate::Door;
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
    door: Arc<Door>,
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
        Ok(page.render(status, &headers).map(|text| ResponseBody::Page(Some(text))))
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
    door: &Door,
    claim: &Claim,
    mut request: Request<RequestBody>,
    app_down_since: &mut Option<Instant>,
) -> Sent {
    let replayable = request.body().0.is_none()
        && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);

    if let Some(mut connection) = claim.idle_connection(replayable) {
        let copy = replayable.then(|| copy_of(&request));
        match connection.sender.try_send_request(request).await {
            Ok(response) => return Sent::Answered(Box::new(response), connection),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None if claim.ended() || error.error().is_parse() => return lost(door, claim),
                None => match copy {
                    Some(copy) => request = copy,
                    None => return lost(door, claim),
                },
            },
        }
    }
    loop {
        // Nothing was carried out: with a drain begun it goes back to the gate, and waits there if that is held.
        if claim.draining() {
            return Sent::Unsent(request);
        }
        let error = match claim.connect().await {
            Ok(mut connection) => match connection.sender.try_send_request(request).await {
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

fn lost(door: &Door, claim: &Claim) -> Sent {
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
    door: &Door,
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
fn set_target_form(parts: &mut Parts, door: &Door) -> Result<(), (StatusCode, Page)> {
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
    door: &Door,
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
    door: &Door,
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
