//! Connections: accepting, closing early, and the errors of the nginx in front of Keen.

use crate::replies::nginx_page;
use crate::{Shared, control};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use bytes::Bytes;
use futures_core::Stream;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tower_service::Service as _;

/// Marks a response that is not sent: the connection is closed instead.
#[derive(Clone, Copy)]
pub(crate) struct Cut;

/// Closes a connection in the middle of a reply.
#[derive(Debug)]
pub(crate) struct CutError;

impl std::fmt::Display for CutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed by a test fault")
    }
}

impl std::error::Error for CutError {}

/// Serves until the mock is stopped, then closes the listener and every connection.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, life: u64) {
    let router = control::router(shared.clone());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stopped(life) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone()));
                }
                // Most likely there are no file descriptors left. Retry when others are closed.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, router: Router) {
    // A failure costs only speed.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut router = router.clone();
        async move {
            let Ok(mut response) = router.call(request.map(Body::new)).await;
            match response.extensions().get::<Cut>() {
                Some(Cut) => Err(CutError),
                None => {
                    response
                        .headers_mut()
                        .entry(header::SERVER)
                        .or_insert(HeaderValue::from_static("mock-keen"));
                    Ok(response)
                }
            }
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(NginxErrors::new(stream)), service);
    // An error means that we or the caller closed the connection.
    let _ = connection.await;
}

/// A response that makes hyper close the connection.
pub(crate) fn cut() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Cut);
    response
}

/// A part of a body, or an early end.
pub(crate) type Chunk = Result<Bytes, CutError>;

/// A body written by its own task, which ends when the caller disconnects.
pub(crate) fn streamed<F>(write: impl FnOnce(mpsc::Sender<Chunk>) -> F) -> Body
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(write(sender));
    Body::from_stream(Chunks(receiver))
}

struct Chunks(mpsc::Receiver<Chunk>);

impl Stream for Chunks {
    type Item = Chunk;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.0.poll_recv(context)
    }
}

/// A stream that replaces hyper's empty 400, its reply to a request it cannot parse, with nginx's
/// page. Our own replies have a `server` header, hyper's does not.
struct NginxErrors<S> {
    stream: S,
    page: Vec<u8>,
    written: usize,
}

impl<S> NginxErrors<S> {
    fn new(stream: S) -> Self {
        Self { stream, page: Vec::new(), written: 0 }
    }
}

fn is_bare_400(reply: &[u8]) -> bool {
    const SERVER: &[u8] = b"\r\nserver:";
    reply.starts_with(b"HTTP/1.1 400 ") && !reply.windows(SERVER.len()).any(|part| part == SERVER)
}

fn page_400() -> Vec<u8> {
    let page = nginx_page(400);
    format!(
        "HTTP/1.1 400 Bad Request\r\nserver: nginx\r\ncontent-type: text/html\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    )
    .into_bytes()
}

impl<S: AsyncRead + Unpin> AsyncRead for NginxErrors<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NginxErrors<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.page.is_empty() && !is_bare_400(buf) {
            return Pin::new(&mut this.stream).poll_write(context, buf);
        }
        if this.page.is_empty() {
            this.page = page_400();
        }
        while this.written < this.page.len() {
            let rest = &this.page[this.written..];
            match ready!(Pin::new(&mut this.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => this.written += written,
            }
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
