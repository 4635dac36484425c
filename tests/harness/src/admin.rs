//! A client for Envoy's admin interface: one connection per request.

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::{error::Error, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

const REQUEST_LIMIT: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Sends `method path` and returns the status and the body.
pub(crate) async fn request(
    admin: SocketAddr,
    method: Method,
    path: &str,
) -> Result<(u16, String)> {
    timeout(REQUEST_LIMIT, exchange(admin, method, path)).await?
}

async fn exchange(admin: SocketAddr, method: Method, path: &str) -> Result<(u16, String)> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, admin.to_string())
        .header(header::CONNECTION, "close")
        .body(Full::<Bytes>::default())?;
    // The connection makes progress only while it is polled.
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (result, _) = tokio::join!(exchange, connection);
    result
}
