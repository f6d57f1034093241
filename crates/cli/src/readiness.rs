//! Tells whoever started us how we are: systemd's notification protocol, a datagram for each word.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Commands and users get answers from here on.
pub(crate) fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={}", one_line(status)));
}

/// One line for `systemctl status`.
pub(crate) fn status(status: &str) {
    tell(&format!("STATUS={}", one_line(status)));
}

/// It ends, because it was asked to.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

/// Nobody listens when systemd did not start us, and nothing of ours depends on being heard.
fn tell(words: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        let _ = send(&socket, words);
    }
}

fn send(socket: &OsStr, words: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(|_| ())
}

/// A line end would begin another word of the protocol.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_hears_each_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("plimsoll-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (listener, socket) in [(&by_path, path.into_os_string()), (&by_name, format!("@{name}").into())] {
            listener.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            send(&socket, "READY=1").unwrap();
            let mut heard = [0; 64];
            let length = listener.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1").is_err());
        assert_eq!(one_line("a\nMAINPID=1"), "a MAINPID=1");
    }
}
