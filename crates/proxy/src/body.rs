//! Bodies on their way to the app and back: passed on piece by piece, never gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::client::Inside;
use crate::head::remove_reserved;
use crate::target::{Claim, Connection};
use crate::traffic::Traffic;

/// A request's body on its way to the app.
pub(crate) struct RequestBody {
    body: Option<Incoming>,
    stall_timeout: Duration,
    /// Runs while the client sends nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Why a request's body did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Client(#[from] hyper::Error),
    #[error("the client sent nothing for too long")]
    Stalled,
}

impl RequestBody {
    /// Nothing, or what the client sends; it may take `stall_timeout` for each piece.
    pub(crate) fn new(body: Option<Incoming>, stall_timeout: Duration) -> RequestBody {
        RequestBody { body, stall_timeout, stalled: None }
    }

    /// Whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        self.body.is_none()
    }
}

/// An answer's body on its way to the client.
pub(crate) enum ResponseBody {
    Page(Option<Bytes>),
    App(AppBody),
}

/// An answer's body that tells the client's connection when it is written.
pub(crate) struct Answer {
    body: ResponseBody,
    /// hyper drops a body when its end is written.
    _inside: Inside,
}

impl Answer {
    pub(crate) fn new(body: ResponseBody, inside: Inside) -> Answer {
        Answer { body, _inside: inside }
    }
}

/// The app's answer, with what must live as long as it flows. Dropped half-way, its connection is closed.
pub(crate) struct AppBody {
    body: Incoming,
    /// Taken when the body has been read to its end.
    using: Option<(Connection, Claim)>,
    traffic: Arc<Traffic>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let me = &mut *self;
        let Some(body) = &mut me.body else { return Poll::Ready(None) };
        let Poll::Ready(mut frame) = Pin::new(body).poll_frame(cx) else {
            let patience = me.stall_timeout;
            let stalled = me.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            ready!(stalled.as_mut().poll(cx));
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        };
        me.stalled = None;
        // Some servers read trailers as headers.
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            remove_reserved(trailers, false);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AppBody {
    pub(crate) fn new(
        body: Incoming,
        connection: Connection,
        claim: Claim,
        traffic: Arc<Traffic>,
    ) -> AppBody {
        let mut body = AppBody { body, using: Some((connection, claim)), traffic };
        if body.body.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some((connection, claim)) = self.using.take() {
            claim.give_back(connection);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            ResponseBody::Page(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            ResponseBody::App(app) => {
                let frame = ready!(Pin::new(&mut app.body).poll_frame(cx));
                match &frame {
                    None => app.finish(),
                    Some(Ok(frame)) if frame.is_trailers() || app.body.is_end_stream() => app.finish(),
                    Some(Ok(_)) => {}
                    Some(Err(_)) => {
                        app.traffic.broke();
                        app.using = None;
                    }
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Page(text) => text.is_none(),
            ResponseBody::App(app) => app.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Page(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            ResponseBody::App(app) => app.body.size_hint(),
        }
    }
}
