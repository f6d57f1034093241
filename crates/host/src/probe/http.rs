//! One HTTP request to an app on this machine.

use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::Request;

/// The most of an answer's body that is read, bytes.
pub const LONGEST_BODY: u64 = 5 << 20;

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header names, in lower case, and values, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body, or its first [`LONGEST_BODY`] bytes.
    pub body: Vec<u8>,
    /// Whether there was more of it.
    pub truncated: bool,
    /// From before the connection until the whole body was there, milliseconds.
    pub ms: u64,
}

impl Answer {
    /// The first header of that name (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as text; what is no UTF-8 becomes replacement characters.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens there.
    #[error("nobody listens on {0}")]
    Refused(SocketAddr),
    /// Nothing came, or not all of it.
    #[error("no whole answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The connection was cut, or what came is not HTTP.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// The request cannot be sent as it is.
    #[error("the request is not valid HTTP: {0}")]
    Request(String),
}

/// Gets a path. Redirects are not followed; every status is an answer.
///
/// # Errors
/// When there is no answer within `limit`.
pub fn get(to: SocketAddr, path: &str, host: Option<&str>, limit: Duration) -> Result<Answer, NoAnswer> {
    let headers: Vec<(&str, &str)> = host.map(|host| ("host", host)).into_iter().collect();
    send(to, "GET", path, &headers, None, limit)
}

/// Sends one request on a connection of its own. `path` begins with a slash and may have a query.
///
/// # Errors
/// When there is no answer within `limit`, body included.
pub fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Vec<u8>>,
    limit: Duration,
) -> Result<Answer, NoAnswer> {
    let begun = Instant::now();
    let agent = agent(limit);
    let mut request = Request::builder().method(method).uri(format!("http://{to}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let invalid = |error: ureq::http::Error| NoAnswer::Request(error.to_string());
    let sent = match body {
        Some(body) => agent.run(request.body(body).map_err(invalid)?),
        None => agent.run(request.body(()).map_err(invalid)?),
    };
    let mut response = sent.map_err(|error| no_answer(error, to, limit))?;
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let read = response.body_mut().as_reader().take(LONGEST_BODY + 1).read_to_end(&mut body);
    read.map_err(|error| no_answer(ureq::Error::from(error), to, limit))?;
    let truncated = body.len() as u64 > LONGEST_BODY;
    body.truncate(usize::try_from(LONGEST_BODY).unwrap_or(usize::MAX));
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Answer { status, headers, body, truncated, ms })
}

fn agent(limit: Duration) -> Agent {
    Agent::config_builder()
        .timeout_global(Some(limit))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .allow_non_standard_methods(true)
        // Whatever the environment says: the app is on this machine.
        .proxy(None)
        // A connection that the app closes between two requests would look like a failure of the second.
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .user_agent(concat!("plimsoll/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

fn no_answer(error: ureq::Error, to: SocketAddr, limit: Duration) -> NoAnswer {
    match error {
        ureq::Error::Timeout(_) => NoAnswer::Late(limit),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            NoAnswer::Refused(to)
        }
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => NoAnswer::Late(limit),
        ureq::Error::ConnectionFailed => NoAnswer::Refused(to),
        ureq::Error::Http(error) => NoAnswer::Request(error.to_string()),
        ureq::Error::BadUri(error) => NoAnswer::Request(error),
        other => NoAnswer::Broken(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers one connection with these bytes and keeps it open until the other side closes.
    fn answer_once(bytes: Vec<u8>) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut buffer = [0; 1024];
                let n = socket.read(&mut buffer).unwrap();
                head.extend_from_slice(&buffer[..n]);
            }
            let _ = socket.write_all(&bytes);
            let _ = socket.read(&mut [0; 1]);
            String::from_utf8(head).unwrap()
        });
        (to, server)
    }

    #[test]
    fn a_redirect_and_an_error_are_answers() {
        for status in ["302 Found", "404 Not Found", "503 Busy"] {
            let text = format!("HTTP/1.1 {status}\r\nLocation: /x\r\nContent-Length: 2\r\n\r\nhi");
            let (to, server) = answer_once(text.into_bytes());
            let answer = get(to, "/a?b=c", Some("shop.example.com"), Duration::from_secs(20)).unwrap();
            assert_eq!(answer.status.to_string(), status[..3]);
            assert_eq!((answer.text().as_str(), answer.header("location")), ("hi", Some("/x")));
            let head = server.join().unwrap();
            assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
            assert_eq!(head.to_lowercase().matches("host: ").count(), 1);
            assert!(head.to_lowercase().contains("host: shop.example.com\r\n"), "{head}");
        }
    }

    #[test]
    fn a_body_without_an_end_is_late() {
        let (to, _server) = answer_once(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi".to_vec());
        let error = get(to, "/", None, Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, NoAnswer::Late(_)), "{error:?}");
    }

    #[test]
    fn a_huge_body_is_cut() {
        let size = usize::try_from(LONGEST_BODY).unwrap() + 10;
        let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + size, b'x');
        let (to, _server) = answer_once(bytes);
        let answer = get(to, "/", None, Duration::from_secs(20)).unwrap();
        assert!(answer.truncated && answer.body.len() as u64 == LONGEST_BODY);
    }

    #[test]
    fn nobody_there_nonsense_and_a_bad_request_are_told_apart() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(get(free, "/", None, Duration::from_secs(5)), Err(NoAnswer::Refused(_))));
        let (to, _server) = answer_once(b"SSH-2.0-OpenSSH\r\n".to_vec());
        assert!(matches!(get(to, "/", None, Duration::from_secs(5)), Err(NoAnswer::Broken(_))));
        let bad = send(free, "GET", "/", &[("x", "a\nb")], None, Duration::from_secs(5));
        assert!(matches!(bad, Err(NoAnswer::Request(_))));
        assert!(matches!(get(free, "/a b", None, Duration::from_secs(5)), Err(NoAnswer::Request(_))));
    }
}
