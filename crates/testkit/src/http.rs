//! As much HTTP/1.1 as buyers and scripted apps need, on plain sockets.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A request or an answer.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Message {
    /// Reads a request; `None` when the connection ended before its first byte.
    ///
    /// # Errors
    /// The connection broke, or what came is no HTTP.
    pub fn read_request(from: &mut impl BufRead) -> io::Result<Option<Message>> {
        Message::read(from, false)
    }

    pub(crate) fn read(from: &mut impl BufRead, answer: bool) -> io::Result<Option<Message>> {
        let Some(start) = line(from)? else { return Ok(None) };
        let mut message = Message { start, ..Message::default() };
        loop {
            let line = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
            message.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        if message.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            message.body = chunks(from)?;
        } else if let Some(length) = message.header("content-length") {
            let length = length.parse::<usize>().map_err(|_| bad("a content-length that is no number"))?;
            message.body = vec![0; length];
            from.read_exact(&mut message.body)?;
        } else if answer && !matches!(message.status(), Some(204 | 304)) {
            from.read_to_end(&mut message.body)?;
        }
        Ok(Some(message))
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// An answer's status.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the other side closes the connection after this message.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    if from.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map(Some).map_err(|_| bad("a head that is not UTF-8"))
}

fn chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|_| bad("a chunk size that is no number"))?;
        let mut piece = vec![0; size];
        from.read_exact(&mut piece)?;
        body.extend(piece);
        while !line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?.is_empty() {}
        if size == 0 {
            return Ok(body);
        }
    }
}

/// A client's connection, kept alive from request to request.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    last: bool,
}

impl Connection {
    /// Connects to a port of this machine.
    ///
    /// # Errors
    /// Nobody listens there, or the time was up.
    pub fn open(port: u16, timeout: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), last: false })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The connection broke, or the answer did not come in time.
    pub fn send(&mut self, method: &str, path: &str, form: Option<&str>) -> io::Result<Message> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: shop.test\r\n");
        if let Some(form) = form {
            let length = form.len();
            request += "content-type: application/x-www-form-urlencoded\r\n";
            request += &format!("content-length: {length}\r\n\r\n{form}");
        } else {
            request += "\r\n";
        }
        self.stream.get_mut().write_all(request.as_bytes())?;
        let answer = Message::read(&mut self.stream, true)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.last = answer.is_last();
        Ok(answer)
    }

    /// Whether another request may be sent: the server has not said or shown that it closes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let stream = self.stream.get_ref();
        if self.last || stream.set_nonblocking(true).is_err() {
            return false;
        }
        let seen = stream.peek(&mut [0]);
        let blocking = stream.set_nonblocking(false).is_ok();
        blocking && matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Gets a path on a connection of its own.
///
/// # Errors
/// Nobody listens, the connection broke, or 30 seconds went by.
pub fn get(port: u16, path: &str) -> io::Result<Message> {
    Connection::open(port, Duration::from_secs(30))?.send("GET", path, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Message {
        Message::read(&mut text.as_bytes(), true).unwrap().unwrap()
    }

    #[test]
    fn bodies_of_every_framing_are_read_whole() {
        let counted = answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef");
        assert_eq!((counted.status(), counted.text().as_str()), (Some(200), "abc"));
        let chunked =
            answer("HTTP/1.1 201 Made\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n");
        assert_eq!((chunked.status(), chunked.text().as_str()), (Some(201), "abc"));
        let closed = answer("HTTP/1.0 503 No\r\nConnection: close\r\n\r\nabc");
        assert_eq!((closed.status(), closed.text().as_str(), closed.is_last()), (Some(503), "abc", true));
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        for text in ["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "HTTP/1.1 200 OK\r\ncontent-"] {
            assert!(Message::read(&mut text.as_bytes(), true).is_err(), "{text:?}");
        }
    }
}
