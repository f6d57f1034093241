//! A connection to the app, as hyper reads and writes it. A POST has a new one each time, so this saves the kernel and the
//! runtime what a connection on the loopback does not need: waiting until it is there, and until it can be written.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

pub(crate) struct AppStream {
    stream: TcpStream,
    written: Written,
    tunnel: Arc<AtomicBool>,
}

/// What was written so far.
#[derive(Clone, Copy, PartialEq)]
enum Written {
    Nothing,
    /// One piece, often all of the request.
    Once,
    /// Small pieces may follow, and go out at once.
    More,
}

impl AppStream {
    /// A new connection; an app that does not answer at all is given up after `patience`.
    pub(crate) async fn connect(addr: SocketAddr, patience: Duration) -> io::Result<AppStream> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &addr) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        // On the loopback it is there at once, unless the app's backlog is full.
        let there = rustix::net::getpeername(&socket).is_ok();
        let stream = TcpStream::from_std(socket.into())?;
        if !there {
            tokio::time::timeout(patience, stream.writable())
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        Ok(AppStream { stream, written: Written::Nothing, tunnel: Arc::default() })
    }

    /// To be set when the connection becomes a tunnel: then the end of one side is told to the other.
    pub(crate) fn tunnel(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.tunnel)
    }

    /// Tries first and waits then: a new connection has room.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        match self.written {
            Written::Nothing => self.written = Written::Once,
            Written::Once => {
                // Else the kernel keeps a small piece back until the one before has been acknowledged.
                self.stream.set_nodelay(true)?;
                self.written = Written::More;
            }
            Written::More => {}
        }
        let stream = &self.stream;
        loop {
            match write(stream.as_fd()) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return Poll::Ready(result.map_err(io::Error::from)),
            }
            ready!(stream.poll_write_ready(cx))?;
            // A readiness that is not true any more is taken back here.
            match stream.try_io(Interest::WRITABLE, || write(stream.as_fd()).map_err(io::Error::from)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncRead for AppStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for AppStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| rustix::io::write(stream, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| rustix::io::writev(stream, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// hyper shuts down what it closes in the next moment anyhow; only a tunnel is shut down for itself.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tunnel.load(Relaxed) {
            return Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};

    use super::*;

    /// Why a POST is not sent again on the strength of an error alone: a broken pipe looks like "the app had closed before it
    /// read anything", and here the app has read the beginning, and done what it says. See docs/design/0007.
    #[test]
    fn a_broken_pipe_does_not_prove_that_nothing_was_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut app, _) = listener.accept().unwrap();
        // The app ends its side as our request is on its way, and goes on reading: many do, to close politely.
        app.shutdown(Shutdown::Write).unwrap();
        client.write_all(&[b'x'; 300]).unwrap();
        let mut head = [0; 200];
        app.read_exact(&mut head).unwrap();
        drop(app);
        let error = loop {
            if let Some(error) = client.take_error().unwrap() {
                break error;
            }
            std::thread::yield_now();
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    }
}
