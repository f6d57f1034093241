//! `serve` renews itself: on SIGUSR2 it becomes the program that now lies where it was started from, in the same
//! process. The listener is handed over, so that connections wait instead of being refused, and with it the connections on
//! which clients may ask again. The app runs on.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::config::{Config, Listen};
use crate::error::Error;
use crate::inherited;

/// Says to the new program that the front door's sockets are to be had from its standard input.
const HANDED_OVER: &str = "PLIMSOLL_SOCKETS_ON_STDIN";
/// So many descriptors go into one message; the kernel takes 253 (`SCM_MAX_FD`).
const AT_ONCE: usize = 250;
/// What systemd's own hand-over leaves behind; the descriptor it speaks of is closed by then.
const PASSED: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How this program was started.
pub(crate) struct Renewal {
    /// Looked up at the start: later the kernel calls it `(deleted)` when it was replaced.
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    config: PathBuf,
}

impl Renewal {
    /// To be made before the program's file can have been replaced.
    pub(crate) fn new(config: &Config) -> Renewal {
        Renewal {
            program: std::env::current_exe().ok(),
            arguments: std::env::args_os().skip(1).collect(),
            config: config.file.clone(),
        }
    }

    /// Whether what would be started can be, with the configuration as it is now.
    ///
    /// # Errors
    /// Why not; then everything goes on as it is.
    pub(crate) fn possible(&self) -> Result<(), Error> {
        let refused = |why: String| {
            Error::failed("`plimsoll serve` was not renewed")
                .why(why)
                .state("it goes on as it is; nothing was interrupted")
                .next("mend it, then renew again: kill -USR2, or systemctl reload")
        };
        Config::load(&self.config).map_err(|error| {
            Error::from(error)
                .state("`plimsoll serve` was not renewed; it goes on as it is, and nothing was interrupted")
        })?;
        let program = self.program.as_ref().ok_or_else(|| refused("its own path is not known".to_owned()))?;
        let tried = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        match tried {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(refused(format!("{} --version: {}", program.display(), output.status))),
            Err(error) => Err(refused(format!("{}: {error}", program.display()))),
        }
    }

    /// Becomes the new program, which gets the listener and the connections. Returns only when that fails.
    pub(crate) fn begin(&self, listener: Option<&TcpListener>, clients: &[OwnedFd]) -> Error {
        let failed = |why: String| {
            Error::failed("`plimsoll serve` could not be renewed and ends")
                .why(why)
                .state("the data is untouched and the app runs on, but nobody reaches it until `plimsoll serve` runs again")
                .next("plimsoll serve; under systemd it is started by itself, see: systemctl status")
        };
        let Some(program) = &self.program else { return failed("its own path is not known".to_owned()) };
        let mut command = Command::new(program);
        command.args(&self.arguments);
        for name in PASSED {
            command.env_remove(name);
        }
        if let Some(listener) = listener {
            match pack(listener, clients) {
                Ok(sockets) => {
                    command.stdin(Stdio::from(OwnedFd::from(sockets))).env(HANDED_OVER, "1");
                }
                Err(error) => return failed(error.to_string()),
            }
        }
        failed(command.exec().to_string())
    }
}

/// What was handed over to this program: a listener, if it is the one that is wanted, and connections of clients.
pub(crate) fn handed_over(listen: &Listen) -> Option<(TcpListener, Vec<OwnedFd>)> {
    std::env::var_os(HANDED_OVER)?;
    let sockets = io::stdin().as_fd().try_clone_to_owned().ok();
    if let Ok(nothing) = File::open("/dev/null") {
        // Else the sockets that wait in it would stay open after the door has gone.
        let _ = rustix::stdio::dup2_stdin(nothing);
    }
    let mut sockets = unpack(sockets?.into()).into_iter();
    let listener = inherited::usable(sockets.next()?).ok()?;
    let address = listener.local_addr().ok()?;
    match listen {
        Listen::Address(wanted) if *wanted != address => None,
        Listen::Address(_) | Listen::Systemd => Some((listener, sockets.collect())),
    }
}

/// A socket from which the listener and the connections can be had, in this order. In it they pass an exec that closes
/// all else, and no program that is started meanwhile gets them. Connections that find no room in it are left out.
fn pack(listener: &TcpListener, clients: &[OwnedFd]) -> io::Result<UnixStream> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    send(&near, &[listener.as_fd()])?;
    for some in clients.chunks(AT_ONCE) {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        if send(&near, &some).is_err() {
            break;
        }
    }
    Ok(far)
}

fn send(to: &UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut extra = SendAncillaryBuffer::new(&mut room);
    if !extra.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Descriptors travel only beside data.
    rustix::net::sendmsg(to, &[IoSlice::new(b"s")], &mut extra, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn unpack(from: UnixStream) -> Vec<OwnedFd> {
    let mut sockets = Vec::new();
    loop {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut extra = RecvAncillaryBuffer::new(&mut room);
        let mut data = [0];
        let mut data = [IoSliceMut::new(&mut data)];
        match rustix::net::recvmsg(&from, &mut data, &mut extra, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) if message.bytes > 0 => {}
            // The other end has gone with the program of before.
            _ => return sockets,
        }
        for message in extra.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                sockets.extend(some);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_listener_and_a_thousand_connections_pass() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let clients: Vec<OwnedFd> =
            (0..1_001).map(|_| client.as_fd().try_clone_to_owned().unwrap()).collect();
        let sockets = unpack(pack(&listener, &clients).unwrap());
        assert_eq!(sockets.len(), 1_002);
        for socket in &sockets {
            assert_eq!(rustix::io::fcntl_getfd(socket).unwrap(), rustix::io::FdFlags::CLOEXEC);
        }
        let mut sockets = sockets.into_iter();
        let passed = inherited::usable(sockets.next().unwrap()).unwrap();
        assert_eq!(passed.local_addr().unwrap(), listener.local_addr().unwrap());
        let last = TcpStream::from(sockets.last().unwrap());
        assert_eq!(last.local_addr().unwrap(), client.local_addr().unwrap());
    }
}
