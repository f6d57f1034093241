//! The HTTP client under `object_store`: hyper and rustls, which the program has anyway.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a request may take until its answer begins: a part of 8 MiB at 70 KB a second.
const ANSWER: Duration = Duration::from_secs(120);

/// Makes the client.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let unusable = |e: io::Error| object_store::Error::Generic { store: "S3", source: Box::new(e) };
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        let https = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(unusable)?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client =
            Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(20)).build(https);
        Ok(HttpClient::new(Requests(client)))
    }
}

struct Requests(Client<HttpsConnector<Tcp>, HttpRequestBody>);

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Requests")
    }
}

impl HttpService for Requests {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = match tokio::time::timeout(ANSWER, self.0.request(request)).await {
                Err(late) => return Err(HttpError::new(HttpErrorKind::Timeout, late)),
                Ok(Err(error)) => return Err(told(error)),
                Ok(Ok(answer)) => answer,
            };
            let (parts, body) = answer.into_parts();
            let body = body.map_err(|e| HttpError::new(kind_of(&e).unwrap_or(HttpErrorKind::Interrupted), e));
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
        })
    }
}

fn told(error: ClientError) -> HttpError {
    let kind = if error.is_connect() { Some(HttpErrorKind::Connect) } else { kind_of(&error) };
    HttpError::new(kind.unwrap_or(HttpErrorKind::Unknown), error)
}

/// What kind of mishap it was, which says whether the request may be made again.
fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<HttpErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
            if hyper.is_timeout() {
                return Some(HttpErrorKind::Timeout);
            }
            if hyper.is_closed() || hyper.is_incomplete_message() || hyper.is_body_write_aborted() {
                return Some(HttpErrorKind::Request);
            }
        }
        if let Some(system) = error.downcast_ref::<io::Error>() {
            return match system.kind() {
                io::ErrorKind::TimedOut => Some(HttpErrorKind::Timeout),
                io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => Some(HttpErrorKind::Interrupted),
                _ => None,
            };
        }
        next = error.source();
    }
    None
}
