//! HTTP/1, server and client: the only file that knows the library behind it.
//!
//! The server answers GET and HEAD. Bounded in every direction: [`MAX_CONNECTIONS`] at once, one request each, headers
//! of [`MAX_HEADER_BYTES`], and [`LIMIT`] for all of it. A body is never read.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// A scraper, a dashboard and a person or two; at most this many times [`MAX_HEADER_BYTES`] are buffered.
const MAX_CONNECTIONS: usize = 32;
/// The library's smallest.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// For the headers of a request: a few hundred bytes. Short, so that clients that say nothing do not keep others out.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// From accept to the end of the answer, and from connect to its end on the client's side.
const LIMIT: Duration = Duration::from_secs(15);
/// Largest answer that the client takes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A request, in our words.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// What follows the `?`; empty if nothing.
    pub(crate) query: String,
    pub(crate) peer: SocketAddr,
}

/// An answer, in our words.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

/// Whoever answers.
pub(crate) trait Handler: Send + Sync + 'static {
    fn answer(&self, request: Request) -> impl Future<Output = Answer> + Send;
}

/// Answers requests until `stop` turns true.
pub(crate) async fn serve<H: Handler>(listener: TcpListener, handler: Arc<H>, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Both are safe to cancel: a permit is given back, and an unaccepted connection stays in the backlog.
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match (permit, accepted) {
            (Ok(permit), Ok((stream, peer))) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    connection(stream, peer, handler).await;
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "cannot accept an http connection");
                // Usually out of file descriptors: without a pause this loop would take a core.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            (Err(_), _) => return,
        }
    }
}

async fn connection<H: Handler>(stream: TcpStream, peer: SocketAddr, handler: Arc<H>) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(respond(&request, peer, &*handler).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "http connection failed"),
        Err(_) => tracing::debug!(%peer, "http connection took too long"),
    }
}

async fn respond<H: Handler>(
    request: &hyper::Request<Incoming>,
    peer: SocketAddr,
    handler: &H,
) -> hyper::Response<Full<Bytes>> {
    let answer = match *request.method() {
        Method::GET | Method::HEAD => {
            let uri = request.uri();
            let query = uri.query().unwrap_or_default().to_owned();
            handler.answer(Request { path: uri.path().to_owned(), query, peer }).await
        }
        _ => Answer { code: 405, content_type: "text/plain; charset=utf-8", body: b"only GET and HEAD\n".to_vec() },
    };
    let mut response = hyper::Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    if answer.code == 405 {
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// Asks for a page: its code and body.
///
/// # Errors
/// A sentence that says what did not work.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>), String> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|e| format!("cannot connect to {address}: {e}"))?;
        let broken = |e: hyper::Error| format!("{address} does not answer as it should: {e}");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let request = hyper::Request::get(path)
            .header(HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|e| format!("{path} cannot be asked for: {e}"))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|e| format!("{address} broke off its answer: {e}"))?.to_bytes().to_vec();
        connection.abort();
        Ok((code, body))
    };
    tokio::time::timeout(LIMIT, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("{address} did not answer in {} s", LIMIT.as_secs())))
}
