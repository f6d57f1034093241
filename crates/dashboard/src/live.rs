//! Server-sent events: a page hears that something has changed, and fetches itself anew.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::{mpsc, watch};

use crate::house::House;

/// How often the records are looked at.
const LOOK: Duration = Duration::from_millis(700);
/// After so many looks, figures that always change are fetched too; it also tells a proxy that we are still here.
const TICK: u32 = 7;
/// Pages that may listen at a time.
const LISTENERS: usize = 40;

static LISTENING: AtomicUsize = AtomicUsize::new(0);

/// Counts one listener as long as it lives.
struct Seat;

impl Drop for Seat {
    fn drop(&mut self) {
        LISTENING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What has been sent and not read yet.
struct Events(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The answer that never ends by itself.
pub(crate) fn events(house: Arc<dyn House>, mut stopped: watch::Receiver<bool>) -> Response {
    if LISTENING.fetch_add(1, Ordering::SeqCst) >= LISTENERS {
        LISTENING.fetch_sub(1, Ordering::SeqCst);
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are listening").into_response();
    }
    let seat = Seat;
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(async move {
        let _seat = seat;
        let mut known = None;
        let mut looks = 0_u32;
        loop {
            let looking = Arc::clone(&house);
            let Ok(version) = tokio::task::spawn_blocking(move || looking.version()).await else { return };
            let event = match known {
                Some(before) if before != version => Some("change"),
                _ if looks.is_multiple_of(TICK) => Some("tick"),
                _ => None,
            };
            known = Some(version);
            looks = looks.wrapping_add(1);
            if let Some(event) = event {
                let text = format!("event: {event}\ndata: {version}\n\n");
                if send.send(Bytes::from(text)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = send.closed() => return,
                _ = stopped.changed() => return,
            }
        }
    });
    let headers =
        [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")];
    (headers, Body::new(Events(receive))).into_response()
}
