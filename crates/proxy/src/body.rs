//! Bodies on their way to the app and back: passed on piece by piece, never gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::head::remove_reserved;
use crate::target::{Claim, Connection};
use crate::traffic::Traffic;

/// A request's body on its way to the app.
pub(crate) struct RequestBody(pub(crate) Option<Incoming>);

/// An answer's body on its way to the client.
pub(crate) enum ResponseBody {
    Page(Option<Bytes>),
    App(AppBody),
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
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let mut frame = ready!(Pin::new(body).poll_frame(cx));
        // Some servers read trailers as headers.
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            remove_reserved(trailers, false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
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
