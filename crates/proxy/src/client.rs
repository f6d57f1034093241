//! A client's connection: what hyper reads and writes, and what it cannot tell: that the client has left while
//! the request waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long a connection is read on, after an answer that left the request's body unread.
const LINGER: Duration = Duration::from_secs(2);

pub(crate) struct Client {
    stream: TcpStream,
    /// For `X-Forwarded-For`.
    pub(crate) ip: HeaderValue,
    /// The client is on this machine and may speak for others.
    pub(crate) loopback: bool,
    unread_body: AtomicBool,
    /// A request has been made of what came.
    asked: AtomicBool,
    /// Requests that were begun and whose answers are not yet written.
    inside: AtomicUsize,
    /// Written, and not yet taken by the client's side.
    unsent: AtomicBool,
    /// The connection goes on in another process: it is not to be shut down.
    leaving: AtomicBool,
    /// What an earlier process has read of it and not used, to be read first.
    read_before: Mutex<Bytes>,
    has_read_before: AtomicBool,
    /// How long it may take to read or write the next piece.
    pub(crate) stall_timeout: Duration,
}

/// A client's connection on which nothing is asked, for the next process.
#[derive(Debug)]
pub struct Kept {
    /// The connection.
    pub socket: OwnedFd,
    /// What was read from it and not used: the beginning of a request.
    pub read: Vec<u8>,
}

/// One request, until its answer is written.
pub(crate) struct Inside(Arc<Client>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Relaxed);
    }
}

/// The half that hyper owns.
pub(crate) struct Io {
    client: Arc<Client>,
    linger: Option<Pin<Box<Sleep>>>,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Client {
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr, stall_timeout: Duration) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        let ip = peer.ip().to_canonical();
        let text = HeaderValue::from_str(&ip.to_string()).map_err(io::Error::other)?;
        Ok(Client {
            stream,
            ip: text,
            loopback: ip.is_loopback(),
            unread_body: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            unsent: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            read_before: Mutex::default(),
            has_read_before: AtomicBool::new(false),
            stall_timeout,
        })
    }

    /// The same, of which an earlier process has read this.
    pub(crate) fn having_sent(mut self, read: Vec<u8>) -> Client {
        self.has_read_before = AtomicBool::new(!read.is_empty());
        self.read_before = Mutex::new(read.into());
        self
    }

    /// A request is begun.
    pub(crate) fn asks(self: &Arc<Client>) -> Inside {
        // The body of the one before has been read to its end, else this would not be one.
        self.unread_body.store(false, Relaxed);
        self.asked.store(true, Relaxed);
        self.inside.fetch_add(1, Relaxed);
        Inside(Arc::clone(self))
    }

    /// Whether it has asked anything of this process.
    pub(crate) fn has_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Whether a request is going on.
    pub(crate) fn is_inside(&self) -> bool {
        self.inside.load(Relaxed) > 0
    }

    /// Whether all that it asked is answered, and what comes next on it is a request.
    pub(crate) fn is_between_requests(&self) -> bool {
        !self.is_inside() && !self.unsent.load(Relaxed) && !self.unread_body.load(Relaxed)
    }

    /// From now on the connection is left open when hyper is done with it, or, taken back, closed as ever.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }

    /// The connection once more, for another process, with what was `read` from it and not used.
    pub(crate) fn hand_over(&self, read: &[u8]) -> Option<Kept> {
        let mut read = read.to_vec();
        read.extend_from_slice(&self.read_before.lock().unwrap_or_else(PoisonError::into_inner));
        let socket = self.stream.as_fd().try_clone_to_owned().ok()?;
        Some(Kept { socket, read })
    }

    /// Of what an earlier process has read, as much as there is room for; whether that was anything.
    fn read_before(&self, buf: &mut ReadBuf<'_>) -> bool {
        if !self.has_read_before.load(Relaxed) {
            return false;
        }
        let mut before = self.read_before.lock().unwrap_or_else(PoisonError::into_inner);
        let size = before.len().min(buf.remaining());
        let some = before.split_to(size);
        buf.put_slice(&some);
        self.has_read_before.store(!before.is_empty(), Relaxed);
        true
    }

    pub(crate) fn io(self: &Arc<Client>) -> Io {
        Io { client: Arc::clone(self), linger: None, stalled: None }
    }

    /// Returns once the client has closed its side or reset the connection. hyper sees that only when it reads,
    /// and it does not read on while a body or a pipelined request lies unread.
    pub(crate) async fn gone(&self) {
        // PRIORITY because it waits for the same "read side closed" as READABLE, but not for data.
        while let Ok(ready) = self.stream.ready(Interest::PRIORITY).await {
            if ready.is_read_closed() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The answer is sent though the request's body was not read.
    pub(crate) fn leave_body_unread(&self) {
        self.unread_body.store(true, Relaxed);
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &self.client.stream;
        if self.client.read_before(buf) {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match read_some(stream, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

/// Reads what is there. When that does not fill the buffer, no more is there: the readiness is taken back, which saves
/// asking the kernel a second time after each request.
fn read_some(stream: &TcpStream, buf: &mut ReadBuf<'_>) -> io::Result<()> {
    let room = buf.remaining();
    let mut result = Ok(0);
    let emptied = stream.try_io(Interest::READABLE, || {
        result = stream.try_read_buf(buf);
        match result {
            Ok(size) if size > 0 && size < room => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    match (result, emptied) {
        // It was not ready after all, so nothing was tried.
        (Ok(0), Err(error)) => Err(error),
        (result, _) => result.map(drop),
    }
}

impl Io {
    /// Writes once, or gives the client up that takes nothing for too long.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        while let Poll::Ready(ready) = self.client.stream.poll_write_ready(cx) {
            ready?;
            match write(&self.client.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.stalled = None;
                    self.client.unsent.store(false, Relaxed);
                    return Poll::Ready(result);
                }
            }
        }
        self.client.unsent.store(true, Relaxed);
        let patience = self.client.stall_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closing a socket with unread data resets it, and a reset can overtake the answer. So the rest of the body is
    /// read and thrown away for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let stream = &me.client.stream;
        if me.client.leaving.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        if me.linger.is_none() {
            rustix::net::shutdown(stream, Shutdown::Write)?;
            if !me.client.unread_body.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = me.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut waste = [0; 16 * 1024];
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(&mut waste) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
