//! A mail at the start: "the shop is up", as some apps tell their owners.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::store::Failure;

/// Sends it to the server at `SMTP_ADDRESS`; to nobody when that is empty.
pub(crate) fn send() -> Result<(), Failure> {
    let address = std::env::var("SMTP_ADDRESS").unwrap_or_default();
    if address.is_empty() {
        return Ok(());
    }
    deliver(&address).map_err(|error| format!("mail server {address}: {error}").into())
}

fn deliver(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    for line in [
        "HELO shop.example",
        "MAIL FROM:<shop@shop.example>",
        "RCPT TO:<owner@shop.example>",
        "DATA",
        "Subject: the shop is up\r\n\r\nIt is.\r\n.",
        "QUIT",
    ] {
        write!(stream, "{line}\r\n")?;
        answer.clear();
        answers.read_line(&mut answer)?;
    }
    Ok(())
}
