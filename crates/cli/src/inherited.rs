//! Sockets that whoever started us holds open: they outlive a restart of ours, and the kernel keeps those who come
//! meanwhile.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::io::FdFlags;
use rustix::net::sockopt::socket_acceptconn;

use crate::config::Listen;
use crate::error::Error;

/// The listening sockets that were passed to this process (`LISTEN_FDS`), in their order. May be called once.
///
/// # Errors
/// What was passed is not a listening TCP socket.
pub(crate) fn listeners() -> Result<Vec<TcpListener>, Error> {
    let wrong = |why: String| {
        Error::usage("what was passed to `plimsoll serve` in LISTEN_FDS cannot be used")
            .why(why)
            .state("nothing was started")
            .next("pass one socket unit with ListenStream=ADDRESS:PORT; plimsoll install writes such a one")
    };
    let passed = sd_listen_fds::get().map_err(|error| wrong(error.to_string()))?;
    passed.into_iter().map(|(_, fd)| usable(fd.into_std()).map_err(wrong)).collect()
}

/// A listening TCP socket that none of our children gets.
///
/// # Errors
/// Why it is none.
pub(crate) fn usable(socket: OwnedFd) -> Result<TcpListener, String> {
    // systemd leaves it open for our children too; one that outlives us would keep the address and take requests
    // that nobody answers.
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(|error| error.to_string())?;
    if !socket_acceptconn(&socket).unwrap_or(false) {
        return Err("it is not a socket that listens".to_owned());
    }
    let listener = TcpListener::from(socket);
    listener.local_addr().map_err(|error| format!("it is no TCP socket: {error}"))?;
    Ok(listener)
}

/// How the front door comes to its socket.
#[derive(Debug)]
pub(crate) enum Way {
    /// It was passed.
    Passed(TcpListener),
    /// It is ours to open.
    Bind(SocketAddr),
}

/// The socket for `listen` among those passed.
///
/// # Errors
/// Another address was passed than is configured, or none where one must be.
pub(crate) fn choose(passed: Vec<TcpListener>, listen: &Listen) -> Result<Way, Error> {
    let mut found: Vec<(SocketAddr, TcpListener)> = Vec::new();
    for listener in passed {
        if let Ok(address) = listener.local_addr() {
            found.push((address, listener));
        }
    }
    let addresses = found.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(", ");
    let refused = |what: String, why: String, next: &str| {
        Err(Error::usage(what).why(why).state("nothing was started").next(next))
    };
    match listen {
        Listen::Address(wanted) if found.is_empty() => Ok(Way::Bind(*wanted)),
        Listen::Address(wanted) => match found.into_iter().find(|(address, _)| address == wanted) {
            Some((_, listener)) => Ok(Way::Passed(listener)),
            None => refused(
                format!("[front].listen says {wanted}, and another address was passed"),
                format!("systemd has opened {addresses}; nobody would answer there"),
                "make them agree: change [front].listen, or write the units anew: plimsoll install",
            ),
        },
        Listen::Systemd => match (found.pop(), found.is_empty()) {
            (Some((_, listener)), true) => Ok(Way::Passed(listener)),
            (None, _) => refused(
                "[front].listen is \"systemd\", and no socket was passed".to_owned(),
                "LISTEN_FDS is not set for this process".to_owned(),
                "let systemd start it (plimsoll install --listen ADDRESS --start), or write an address: \
                 listen = \"127.0.0.1:8080\"",
            ),
            (Some(_), false) => refused(
                "[front].listen is \"systemd\", and several sockets were passed".to_owned(),
                format!("systemd has opened {addresses}"),
                "leave one ListenStream= in the socket unit, or name it: listen = \"ADDRESS\"",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    #[test]
    fn only_a_listening_tcp_socket_can_be_used_and_children_do_not_get_it() {
        let (address, listener) = listening();
        let socket = OwnedFd::from(listener);
        rustix::io::fcntl_setfd(&socket, FdFlags::empty()).unwrap();
        let listener = usable(socket).unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        assert_eq!(rustix::io::fcntl_getfd(&listener).unwrap(), FdFlags::CLOEXEC);
        let connected = std::net::TcpStream::connect(address).unwrap();
        assert!(usable(connected.into()).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let unix = std::os::unix::net::UnixListener::bind(path).unwrap();
        assert!(usable(unix.into()).unwrap_err().contains("no TCP socket"));
        assert!(usable(tempfile::tempfile().unwrap().into()).is_err());
    }

    #[test]
    fn the_socket_and_the_configuration_must_agree() {
        let (address, listener) = listening();
        let wanted = Listen::Address(address);
        assert!(matches!(choose(Vec::new(), &wanted), Ok(Way::Bind(a)) if a == address));
        let other = choose(vec![listening().1], &wanted).unwrap_err();
        assert!(other.what.contains(&address.to_string()), "{other:?}");
        assert!(matches!(choose(vec![listening().1, listener], &wanted), Ok(Way::Passed(_))));
        assert!(matches!(choose(vec![listening().1], &Listen::Systemd), Ok(Way::Passed(_))));
        assert!(choose(Vec::new(), &Listen::Systemd).is_err());
        assert!(choose(vec![listening().1, listening().1], &Listen::Systemd).is_err());
    }
}
