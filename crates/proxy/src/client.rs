//! A client's connection: what hyper reads and writes, and what it cannot tell: that the client has left while
//! the request waits.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

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
    /// How long it may take to read or write the next piece.
    pub(crate) stall_timeout: Duration,
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
            stall_timeout,
        })
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
                    return Poll::Ready(result);
                }
            }
        }
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
