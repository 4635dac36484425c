//! What stands between a client and Envoy.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of the first POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is answered here, and never reaches Envoy.
    Response {
        /// The status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// Envoy has answered it; the connection breaks before the client hears of it.
    LostReply,
}

/// A listener that passes on to Envoy.
pub struct TcpProxy {
    addr: SocketAddr,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

struct Seen {
    envoy: SocketAddr,
    from: Ipv4Addr,
    trouble: Mutex<Option<Trouble>>,
    posts: Mutex<usize>,
}

impl TcpProxy {
    /// Passes bytes on as they are, or requests where there is trouble to make. `from`: the loopback address that it
    /// calls Envoy from, by which Envoy's log tells whose request it was.
    ///
    /// # Errors
    /// There is no port.
    pub async fn open(
        envoy: SocketAddr,
        from: Ipv4Addr,
        trouble: Option<Trouble>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let seen = Arc::new(Seen { envoy, from, trouble: trouble.into(), posts: Mutex::default() });
        let shared = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let seen = Arc::clone(&shared);
                // What a client breaks off is its own affair: its report tells.
                tokio::spawn(async move { pass(client, seen, trouble.is_some()).await });
            }
        });
        Ok(Self { addr, seen, accepting })
    }

    /// Where clients send to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The POSTs that came, those included that Envoy never saw. Counted only where there is trouble to make.
    #[must_use]
    pub fn posts(&self) -> usize {
        *lock(&self.seen.posts)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass(mut client: TcpStream, seen: Arc<Seen>, as_requests: bool) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((seen.from, 0)))?;
    let mut envoy = socket.connect(seen.envoy).await?;
    if !as_requests {
        tokio::io::copy_bidirectional(&mut client, &mut envoy).await?;
        return Ok(());
    }
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(envoy))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(|request| {
        let (seen, sender) = (Arc::clone(&seen), Arc::clone(&sender));
        async move { pass_request(request, &seen, &mut *sender.lock().await).await }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(client), service)
        .await
        .map_err(io::Error::other)
}

/// An error closes the connection to the client.
async fn pass_request(
    request: Request<Incoming>,
    seen: &Seen,
    envoy: &mut SendRequest<Full<Bytes>>,
) -> io::Result<Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut trouble = None;
    if head.method == Method::POST {
        *lock(&seen.posts) += 1;
        trouble = lock(&seen.trouble).take();
    }
    if let Some(Trouble::Response { status, retry_after }) = trouble {
        return Ok(answer(&head.headers, status, retry_after));
    }
    // It goes on in one piece.
    head.headers.remove(header::TRANSFER_ENCODING);
    let reply = envoy
        .send_request(Request::from_parts(head, Full::new(body)))
        .await
        .map_err(io::Error::other)?;
    let (head, body) = reply.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    match trouble {
        Some(_) => Err(io::Error::other("the reply is lost, as ordered")),
        None => Ok(Response::from_parts(head, Full::new(body))),
    }
}

fn answer(
    request: &header::HeaderMap,
    status: u16,
    retry_after: Option<u32>,
) -> Response<Full<Bytes>> {
    let body = r#"{"success": false, "message": "ordered", "code": "ordered"}"#;
    let mut reply = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *reply.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(origin) = request.get(header::ORIGIN) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            header::HeaderValue::from_static("Retry-After"),
        );
    }
    reply
}
