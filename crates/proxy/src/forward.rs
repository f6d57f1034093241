//! One request on its way through the door: checked, admitted, sent, answered.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use crate::Shared;
use crate::body::{Answer, AppBody, BodyError, RequestBody, ResponseBody};
use crate::client::{Client, Inside};
use crate::gate::{Admission, Verdict};
use crate::head::{Upgrade, head_size, prepare, remove_hop_by_hop};
use crate::page::Page;
use crate::target::{Claim, Connection};
use crate::traffic::{By, Ticket};

/// Between two attempts to reach an app that does not listen.
const RETRY_EVERY: Duration = Duration::from_millis(25);

/// The client has gone: there is nobody to answer, so its connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the client has left")]
pub(crate) struct ClientLeft;

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
) -> Result<Response<Answer>, ClientLeft> {
    let inside = client.asks();
    let mut ticket = door.traffic.accept();
    // Only a page needs it, and what it needs is one header.
    let accept = request.headers().get(hyper::header::ACCEPT).cloned();
    let unread = !request.body().is_end_stream();
    let refuse = |inside: Inside, ticket: Ticket, status: StatusCode, page: &Page, unread: bool| {
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
        Ok(response.map(|body| Answer::new(body, inside)))
    };

    let bytes = head_size(&request);
    let limit = door.options.answer_after_for(request.uri().path());
    let (mut request, upgrade) = match prepare(request, &client, &door) {
        Ok(prepared) => prepared,
        Err((status, page)) => return refuse(inside, ticket, status, &page, unread),
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
                return refuse(inside, ticket, StatusCode::SERVICE_UNAVAILABLE, &page, unread);
            }
        };
        let began = Instant::now();
        let sent = send(&door, &claim, request, &mut app_down_since).await;
        if claim.waited {
            door.gate.answered();
        }
        match sent {
            Sent::Unsent(back) => request = back,
            Sent::Failed(status, page) => return refuse(inside, ticket, status, &page, unread),
            Sent::Answered(response, connection) => {
                door.traffic.app_answered(began.elapsed());
                ticket.answered(response.status(), By::App);
                let response = answer(&door, *response, connection, claim, upgrade);
                return Ok(response.map(|body| Answer::new(body, inside)));
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
    let replayable =
        request.body().is_none() && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);

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
                    None if stalled(error.error()) => {
                        let page = Page::refused("The rest of the request did not come in time.");
                        return Sent::Failed(StatusCode::REQUEST_TIMEOUT, page);
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

/// Whether the client sent nothing of its request's body for too long.
fn stalled(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<BodyError>());
    matches!(cause, Some(BodyError::Stalled))
}

fn lost(door: &Shared, claim: &Claim) -> Sent {
    let status = if claim.ended() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
    Sent::Failed(status, Page::answer_lost(&door.options.app_name))
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::new(None, Duration::ZERO));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
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
        connection.becomes_a_tunnel();
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
    response.map(|body| ResponseBody::App(AppBody::new(body, connection, claim, Arc::clone(&door.traffic))))
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
    fn a_client_that_stops_sending_its_body_is_answered_408_and_its_request_ended() {
        let app = App::start(|_, stream| reply(stream, "never"));
        let door = door(Options { stall_timeout: Duration::from_millis(200), ..Options::default() });
        door.set_target(Some(app.target("1")));
        door.gate().open();
        let mut stream = open(door.local_addr());
        let began = Instant::now();
        send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nab");
        // Each piece has its time: whoever goes on sending, however slowly, is not slow.
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(120));
            send(&mut stream, "c");
        }
        let answer = receive(&mut stream).unwrap();
        assert_eq!(answer.status, 408, "{}", answer.text());
        assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
        until("the app is rid of it", || door.traffic().in_flight == 0);
        assert_eq!(app.count(), 0, "half a request has run");
    }

    #[test]
    fn a_client_that_stops_reading_is_given_up_and_the_app_is_free_again() {
        let app = App::start(|_, stream| {
            let size = 64 << 20;
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n")?;
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..64 {
                stream.get_mut().write_all(&piece)?;
            }
            Ok(Then::Keep)
        });
        let door = door(Options { stall_timeout: Duration::from_millis(300), ..Options::default() });
        door.set_target(Some(app.target("1")));
        door.gate().open();
        let mut stream = open(door.local_addr());
        send(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        until("it is at the app", || door.traffic().in_flight == 1);
        until("it is given up", || door.traffic().in_flight == 0);
        // One that reads slowly, and reads, gets it whole.
        let mut stream = open(door.local_addr());
        send(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let (mut size, mut piece) = (0, vec![0; 8 << 20]);
        loop {
            thread::sleep(Duration::from_millis(20));
            match stream.read(&mut piece).unwrap() {
                0 => break,
                read => size += read,
            }
        }
        assert!(size > 64 << 20, "{size}");
    }

    #[test]
    fn an_upload_of_any_size_flows_through() {
        let app = hello();
        let door = door_to(&app);
        let mut stream = open(door.local_addr());
        send(&mut stream, "PUT /file HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        let piece = vec![b'u'; 1 << 20];
        for _ in 0..48 {
            send(&mut stream, &format!("{:x}\r\n", piece.len()));
            stream.get_mut().write_all(&piece).unwrap();
            send(&mut stream, "\r\n");
        }
        send(&mut stream, "0\r\n\r\n");
        assert_eq!(receive(&mut stream).unwrap().status, 200);
        assert_eq!(app.last().body.len(), 48 << 20);
    }

    #[test]
    fn a_health_path_has_the_status_that_is_true() {
        let app = App::start(|_, stream| {
            let answer = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\n\r\nno db\n";
            stream.get_mut().write_all(answer.as_bytes()).map(|()| Then::Keep)
        });
        let door = door_to(&app);
        let addr = door.local_addr();
        assert_eq!(get(addr, "/healthz").unwrap().status, 500, "the app's own");
        door.gate().hold(Instant::now() + Duration::from_millis(200));
        assert_eq!(get(addr, "/healthz").unwrap().status, 503, "held for too long");
        door.gate().shut(Page::maintenance("shop", Duration::from_secs(9)));
        let shut = get(addr, "/healthz").unwrap();
        assert_eq!((shut.status, shut.header("retry-after")), (503, Some("9")));
        door.gate().hold(Instant::now() + Duration::from_secs(20));
        thread::scope(|scope| {
            let asking = scope.spawn(move || get(addr, "/healthz").unwrap().status);
            until("it waits", || door.gate().parked() == 1);
            let well = hello();
            door.set_target(Some(well.target("2")));
            door.gate().open();
            assert_eq!(asking.join().unwrap(), 200, "the new release's own");
        });
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
