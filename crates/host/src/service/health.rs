//! Asks an app whether it is well, and which release it is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use plimsoll_core::plan::ReleaseId;
use serde_json::Value;

/// Where an app tells that it is well.
#[derive(Clone, Debug)]
pub struct Health {
    /// The path, with a slash.
    pub path: String,
    /// The JSON pointer to the release id in the answer, for apps that do not tell it in the header `x-release`.
    pub release_pointer: Option<String>,
    /// Headers of the question, `Host` among them: an app may refuse strangers, or send them to https.
    pub headers: Vec<(String, String)>,
}

/// What an app said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It is well; whether it named its release too.
    Well {
        /// `false` when it said nothing about its release.
        named: bool,
    },
    /// Nobody listens there.
    Refused,
    /// Any status but 2xx.
    Status(u16),
    /// It is well, and another release.
    OtherRelease {
        /// What it said.
        said: String,
    },
    /// No answer in time.
    Silent,
    /// No HTTP, a connection that breaks...
    Broken(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Well { .. } => f.write_str("it is well"),
            Answer::Refused => f.write_str("nobody listens there"),
            Answer::Status(status) => write!(f, "status {status}"),
            Answer::OtherRelease { said } => write!(f, "it is well, but says that it is release {said}"),
            Answer::Silent => f.write_str("no answer in time"),
            Answer::Broken(why) => write!(f, "no usable answer ({why})"),
        }
    }
}

/// What is read of an answer's body.
const LONGEST_BODY: u64 = 64 << 10;

/// Asks once, on a connection of its own.
#[must_use]
pub fn ask(address: SocketAddr, health: &Health, release: &ReleaseId, time: Duration) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // A redirect is not an answer of this app.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .proxy(None)
        .timeout_global(Some(time.max(Duration::from_millis(1))))
        .user_agent("plimsoll-health")
        .build()
        .into();
    let mut request = agent.get(format!("http://{address}{}", health.path)).header("connection", "close");
    for (name, value) in &health.headers {
        request = request.header(name, value);
    }
    let mut response = match request.call() {
        Ok(response) => response,
        Err(error) => return broken(error),
    };
    if !response.status().is_success() {
        return Answer::Status(response.status().as_u16());
    }
    let mut named = false;
    if let Some(said) = response.headers().get("x-release") {
        let said = String::from_utf8_lossy(said.as_bytes()).into_owned();
        if said != release.0 {
            return Answer::OtherRelease { said };
        }
        named = true;
    }
    if let Some(pointer) = &health.release_pointer {
        let body = match response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec() {
            Ok(body) => body,
            Err(error) => return broken(error),
        };
        let Ok(json) = serde_json::from_slice::<Value>(&body) else {
            return Answer::Broken("its body is not JSON, and health_release points into JSON".to_owned());
        };
        match json.pointer(pointer) {
            Some(Value::String(said)) if *said == release.0 => named = true,
            Some(said) => return Answer::OtherRelease { said: said.to_string() },
            // The header has named it already, perhaps.
            None if named => {}
            None => return Answer::Broken(format!("its body has nothing at {pointer}")),
        }
    }
    Answer::Well { named }
}

fn broken(error: ureq::Error) -> Answer {
    match error {
        ureq::Error::Timeout(_) => Answer::Silent,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => Answer::Refused,
        ureq::Error::Io(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            Answer::Silent
        }
        other => Answer::Broken(other.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with these bytes and gives back what it was asked.
    fn once(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut asked).unwrap() > 2 {}
            stream.write_all(answer.as_bytes()).unwrap();
            asked
        });
        (address, asked)
    }

    fn health() -> Health {
        Health {
            path: "/healthz".into(),
            release_pointer: None,
            headers: vec![("Host".into(), "shop.in".into())],
        }
    }

    fn release() -> ReleaseId {
        ReleaseId::new(12, "3fa9c1b")
    }

    fn said(answer: &'static str, health: &Health) -> Answer {
        let (address, asked) = once(answer);
        let said = ask(address, health, &release(), Duration::from_secs(10));
        let asked = asked.join().unwrap().to_lowercase();
        assert!(asked.starts_with("get /healthz http/1.1") && asked.contains("host: shop.in\r\n"), "{asked}");
        assert_eq!(asked.matches("host:").count(), 1);
        said
    }

    #[test]
    fn an_answer_counts_when_it_is_2xx_and_names_no_other_release() {
        let plain = health();
        assert_eq!(
            said("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", &plain),
            Answer::Well { named: false }
        );
        let named = "HTTP/1.1 204 No Content\r\nx-release: 000012-3fa9c1b\r\n\r\n";
        assert_eq!(said(named, &plain), Answer::Well { named: true });
        let other = said("HTTP/1.1 200 OK\r\nx-release: 000011-0000000\r\ncontent-length: 0\r\n\r\n", &plain);
        assert_eq!(other, Answer::OtherRelease { said: "000011-0000000".into() });
        let status = |text, code| assert_eq!(said(text, &plain), Answer::Status(code));
        status("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", 500);
        status("HTTP/1.1 301 Moved\r\nlocation: https://shop.in/healthz\r\ncontent-length: 0\r\n\r\n", 301);
    }

    #[test]
    fn the_release_may_stand_in_the_json_body() {
        let pointed = Health { release_pointer: Some("/app/release".into()), ..health() };
        let right =
            "HTTP/1.1 200 OK\r\ncontent-length: 37\r\n\r\n{\"app\":{\"release\":\"000012-3fa9c1b\"}}\n";
        assert_eq!(said(right, &pointed), Answer::Well { named: true });
        let other = "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{\"app\":{\"release\":\"x\"}}\n";
        assert!(matches!(said(other, &pointed), Answer::OtherRelease { .. }));
        let none = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}\n";
        assert!(matches!(said(none, &pointed), Answer::Broken(_)));
    }

    #[test]
    fn no_answer_has_a_reason() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(free, &health(), &release(), Duration::from_secs(5)), Answer::Refused);
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = mute.local_addr().unwrap();
        assert_eq!(ask(address, &health(), &release(), Duration::from_millis(100)), Answer::Silent);
        assert!(matches!(said("hello\r\n\r\n", &health()), Answer::Broken(_)));
    }
}
