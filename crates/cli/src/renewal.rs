//! `serve` renews itself: on SIGUSR2 it becomes the program that now lies where it was started from, in the same
//! process. The listener is handed over, so that connections wait instead of being refused, and with it the connections on
//! which clients may ask again. The app runs on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use plimsoll_host::process::{self, End, Limits, Sink};
use plimsoll_proxy::Kept;
use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use plimsoll_core::record::exit;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::config::{Config, Listen};
use crate::error::Error;
use crate::inherited;

/// Says to the new program that the front door's sockets are to be had from its standard input.
const HANDED_OVER: &str = "PLIMSOLL_SOCKETS_ON_STDIN";
/// So many descriptors go into one message; the kernel takes 253 (`SCM_MAX_FD`).
const AT_ONCE: usize = 250;
/// How long the new program may take to show that it can be used.
const TRIAL: Duration = Duration::from_secs(20);
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
        let program = program.to_string_lossy().into_owned();
        let ask = |arguments: &[&str]| {
            let words = std::iter::once(program.as_str()).chain(arguments.iter().copied());
            let words: Vec<String> = words.map(str::to_owned).collect();
            let line = words.join(" ");
            let command = process::Command { words, env: own_env(), folder: own_folder(), mark: None };
            let mut said = Vec::new();
            let mut take = |text: &str| said.push(text.to_owned());
            let limits = Limits { time: Some(TRIAL), ..Limits::default() };
            process::run(&command, limits, Sink::Lines(&mut take))
                .map(|ran| (ran.end, said.join("; ")))
                .map_err(|error| refused(format!("{line}: {error}")))
        };
        let (end, said) = ask(&["--version"])?;
        if end != End::Exit(0) || !said.starts_with("plimsoll ") {
            return Err(refused(format!("{program} --version: {end}; it says: {said}")));
        }
        // The new program reads the configuration, which it may understand differently, and speaks with this `serve`.
        let file = self.config.to_string_lossy();
        match ask(&["--config", &file, "--json", "status"])? {
            (End::Exit(code), _) if ![exit::USAGE, exit::BUG].map(i32::from).contains(&code) => Ok(()),
            (end, said) => Err(refused(format!("{program} --config {file} status: {end}; it says: {said}"))),
        }
    }

    /// Becomes the new program, which gets the listener and the connections. Returns only when that fails.
    pub(crate) fn begin(&self, listener: Option<&TcpListener>, clients: &[Kept]) -> Error {
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
        // An exec takes the handlers away, and a second renewal that is asked for before the new program has its own would
        // end it. Kept back, the signal waits there. (One to stop would be kept back by a program that lets none through.)
        match again().thread_block() {
            Ok(()) => failed(command.exec().to_string()),
            Err(error) => failed(error.to_string()),
        }
    }
}

/// The signal for a renewal.
fn again() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR2);
    signals
}

/// Without what was said to this process alone.
fn own_env() -> BTreeMap<String, String> {
    let ours = |name: &str| name != HANDED_OVER && name != "NOTIFY_SOCKET" && !PASSED.contains(&name);
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| ours(name))
        .collect()
}

/// Where this process is, for paths that are meant from there.
fn own_folder() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
}

/// Heard before all else was done.
static HEARD: Mutex<Option<Signals>> = Mutex::new(None);

/// To be called first of all: what was kept back for a renewed program comes as soon as it hears it.
pub(crate) fn hear_early() {
    if std::env::var_os(HANDED_OVER).is_some() {
        // An error comes again when `serve` asks for them.
        *HEARD.lock().unwrap_or_else(PoisonError::into_inner) = hear().ok();
        // It fails for signals that there are not.
        let _ = again().thread_unblock();
    }
}

/// The signals that `serve` hears.
///
/// # Errors
/// They cannot be caught.
pub(crate) fn signals() -> io::Result<Signals> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner).take().map_or_else(hear, Ok)
}

fn hear() -> io::Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR2])
}

/// What was handed over to this program: a listener, if it is the one that is wanted, and connections of clients.
pub(crate) fn handed_over(listen: &Listen) -> Option<(TcpListener, Vec<Kept>)> {
    std::env::var_os(HANDED_OVER)?;
    let sockets = io::stdin().as_fd().try_clone_to_owned().ok();
    if let Ok(nothing) = File::open("/dev/null") {
        // Else the sockets that wait in it would stay open after the door has gone.
        let _ = rustix::stdio::dup2_stdin(nothing);
    }
    let (listener, clients) = unpack(sockets?.into())?;
    let address = listener.local_addr().ok()?;
    match listen {
        Listen::Address(wanted) if *wanted != address => None,
        Listen::Address(_) | Listen::Systemd => Some((listener, clients)),
    }
}

/// A socket from which the listener and the connections can be had. In it they pass an exec that closes all else, and no
/// program that is started meanwhile gets them. Connections that find no room in it are left out.
fn pack(listener: &TcpListener, clients: &[Kept]) -> io::Result<UnixStream> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    let read = write_read(clients)?;
    send(&near, &[listener.as_fd(), read.as_fd()])?;
    for some in clients.chunks(AT_ONCE) {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(|client| client.socket.as_fd()).collect();
        if send(&near, &some).is_err() {
            break;
        }
    }
    Ok(far)
}

/// What was read from each connection and not used, in their order, each with its length before it. In a file, because a
/// socket has no room for what thousands have begun to ask.
fn write_read(clients: &[Kept]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("plimsoll-read", MemfdFlags::CLOEXEC)?);
    let mut all = Vec::new();
    for client in clients {
        all.extend_from_slice(&u32::try_from(client.read.len()).map_err(io::Error::other)?.to_le_bytes());
        all.extend_from_slice(&client.read);
    }
    file.write_all(&all)?;
    Ok(file)
}

/// What [`write_read`] wrote for the next connection.
fn read_next(all: &mut &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = all.split_first_chunk::<4>()?;
    let (read, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    *all = rest;
    Some(read.to_vec())
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

fn unpack(from: UnixStream) -> Option<(TcpListener, Vec<Kept>)> {
    let mut sockets = receive(&from).into_iter();
    let listener = inherited::usable(sockets.next()?).ok()?;
    let mut all = Vec::new();
    let mut file = File::from(sockets.next()?);
    file.rewind().and_then(|()| file.read_to_end(&mut all)).ok()?;
    let mut all = all.as_slice();
    let clients = sockets.map_while(|socket| Some(Kept { socket, read: read_next(&mut all)? })).collect();
    Some((listener, clients))
}

fn receive(from: &UnixStream) -> Vec<OwnedFd> {
    let mut sockets = Vec::new();
    loop {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut extra = RecvAncillaryBuffer::new(&mut room);
        let mut data = [0];
        let mut data = [IoSliceMut::new(&mut data)];
        match rustix::net::recvmsg(from, &mut data, &mut extra, RecvFlags::CMSG_CLOEXEC) {
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
    fn a_listener_and_five_thousand_connections_pass_with_what_they_had_begun_to_ask() {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let clients: Vec<Kept> = (0..5_001_usize)
            .map(|number| Kept {
                socket: client.as_fd().try_clone_to_owned().unwrap(),
                read: vec![b'x'; number % 1_000],
            })
            .collect();
        let (passed, got) = unpack(pack(&listener, &clients).unwrap()).unwrap();
        assert_eq!(passed.local_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(got.len(), clients.len());
        for (got, sent) in got.iter().zip(&clients) {
            assert_eq!(rustix::io::fcntl_getfd(&got.socket).unwrap(), rustix::io::FdFlags::CLOEXEC);
            assert_eq!(got.read, sent.read);
        }
        let last = TcpStream::from(got.into_iter().next_back().unwrap().socket);
        assert_eq!(last.local_addr().unwrap(), client.local_addr().unwrap());
    }
}
