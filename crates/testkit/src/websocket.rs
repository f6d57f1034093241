//! As much of WebSockets as a client that orders and a scripted app need: the handshake, and text in one frame.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::http::Message;

/// The key of the RFC's example and the answer to it: nothing here depends on another.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Larger messages are not read.
const MOST: usize = 125;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// One end of a WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    stream: BufReader<TcpStream>,
    client: bool,
}

impl WebSocket {
    /// Connects as a client, and waits for the answer for at most `patience`.
    ///
    /// # Errors
    /// Nobody answers, or no WebSocket is given; then with what was said.
    pub fn connect(port: u16, path: &str, patience: Duration) -> io::Result<WebSocket> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        write!(
            stream.get_mut(),
            "GET {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
        )?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT) {
            return Ok(WebSocket { stream, client: true });
        }
        Err(io::Error::other(head))
    }

    /// Answers a request for one, as an app does; `None` when it is no such request.
    ///
    /// # Errors
    /// The connection broke.
    pub fn accept(request: &Message, stream: &TcpStream) -> io::Result<Option<WebSocket>> {
        if request.header("sec-websocket-key") != Some(KEY) {
            return Ok(None);
        }
        let mut stream = BufReader::new(stream.try_clone()?);
        write!(
            stream.get_mut(),
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {ACCEPT}\r\n\r\n"
        )?;
        Ok(Some(WebSocket { stream, client: false }))
    }

    /// Sends a text of at most 125 bytes.
    ///
    /// # Errors
    /// The connection broke, or the text is longer.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        let length = u8::try_from(text.len()).ok().filter(|length| usize::from(*length) <= MOST);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        let mut frame = vec![TEXT, length];
        if self.client {
            // A mask is needed; zeros are one.
            frame[1] |= 0x80;
            frame.extend_from_slice(&[0; 4]);
        }
        frame.extend_from_slice(text.as_bytes());
        self.stream.get_mut().write_all(&frame)
    }

    /// The next text; `None` when the other end has closed.
    ///
    /// # Errors
    /// The connection broke, or what came is no short text.
    pub fn receive(&mut self) -> io::Result<Option<String>> {
        if self.stream.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let length = usize::from(head[1] & 0x7f);
        if length > MOST || ![TEXT, CLOSE].contains(&head[0]) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut mask = [0; 4];
        if head[1] & 0x80 != 0 {
            self.stream.read_exact(&mut mask)?;
        }
        let mut text = vec![0; length];
        self.stream.read_exact(&mut text)?;
        for (byte, mask) in text.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        if head[0] == CLOSE {
            return Ok(None);
        }
        String::from_utf8(text).map(Some).map_err(io::Error::other)
    }
}
