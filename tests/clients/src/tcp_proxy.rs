//! The proxy between a client and Envoy.

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

/// What happens to the requests of a client before they reach Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFault {
    /// The proxy answers the first POST itself. Envoy never sees that POST.
    Response {
        /// The status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// Envoy answers the first POST. The connection closes before the client can read the response.
    ResponseLost,
    /// The proxy answers each request for project settings with 404.
    NoProjectSettings,
}

/// A listener that forwards to Envoy.
pub struct TcpProxy {
    addr: SocketAddr,
    state: Arc<ProxyState>,
    accept_task: JoinHandle<()>,
}

struct ProxyState {
    envoy: SocketAddr,
    from: Ipv4Addr,
    fault: Mutex<Option<NetworkFault>>,
    requests: Mutex<Vec<String>>,
}

impl TcpProxy {
    /// Forwards bytes unchanged without a fault, and whole requests with one. `from` is the
    /// loopback address that the proxy connects to Envoy from; it identifies the client in Envoy's
    /// log.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn open(
        envoy: SocketAddr,
        from: Ipv4Addr,
        fault: Option<NetworkFault>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let requests = Mutex::default();
        let state = Arc::new(ProxyState { envoy, from, fault: fault.into(), requests });
        let shared = Arc::clone(&state);
        let accept_task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                // An error is visible to the client, which reports it.
                tokio::spawn(async move { forward(client, state, fault.is_some()).await });
            }
        });
        Ok(Self { addr, state, accept_task })
    }

    /// The address that clients send to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The POSTs that arrived, including those that Envoy never saw. Always 0 without a fault.
    #[must_use]
    pub fn posts(&self) -> usize {
        lock(&self.state.requests).iter().filter(|request| request.starts_with("POST ")).count()
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn forward(
    mut client: TcpStream,
    state: Arc<ProxyState>,
    by_request: bool,
) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((state.from, 0)))?;
    let mut envoy = socket.connect(state.envoy).await?;
    if !by_request {
        tokio::io::copy_bidirectional(&mut client, &mut envoy).await?;
        return Ok(());
    }
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(envoy))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(|request| {
        let (state, sender) = (Arc::clone(&state), Arc::clone(&sender));
        async move { forward_request(request, &state, &mut *sender.lock().await).await }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(client), service)
        .await
        .map_err(io::Error::other)
}

/// An error closes the connection to the client.
async fn forward_request(
    request: Request<Incoming>,
    state: &ProxyState,
    envoy: &mut SendRequest<Full<Bytes>>,
) -> io::Result<Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    lock(&state.requests).push(format!("{} {}", head.method, head.uri.path()));
    let is_settings = head.method == Method::GET && head.uri.path().ends_with("/settings");
    let fault = {
        let mut fault = lock(&state.fault);
        match *fault {
            Some(NetworkFault::NoProjectSettings) => fault.filter(|_| is_settings),
            _ if head.method == Method::POST => fault.take(),
            _ => None,
        }
    };
    match fault {
        Some(NetworkFault::Response { status, retry_after }) => {
            return Ok(injected_response(&head.headers, status, retry_after));
        }
        Some(NetworkFault::NoProjectSettings) => {
            return Ok(injected_response(&head.headers, 404, None));
        }
        Some(NetworkFault::ResponseLost) | None => {}
    }
    // The body is sent with a content length.
    head.headers.remove(header::TRANSFER_ENCODING);
    let reply = envoy
        .send_request(Request::from_parts(head, Full::new(body)))
        .await
        .map_err(io::Error::other)?;
    let (head, body) = reply.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if fault.is_some() {
        return Err(io::Error::other("injected fault: the response is lost"));
    }
    Ok(Response::from_parts(head, Full::new(body)))
}

fn injected_response(
    request: &header::HeaderMap,
    status: u16,
    retry_after: Option<u32>,
) -> Response<Full<Bytes>> {
    let body = r#"{"success": false, "message": "injected fault", "code": "invalid_request"}"#;
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
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
    response
}
