//! A site that the edge serves beside Segment's paths: a page, and the SDKs that it loads.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running site.
pub struct Site {
    addr: SocketAddr,
    serving: JoinHandle<()>,
}

impl Site {
    /// Serves folders, each by the first part of the path below `/site/`; the first folder has the files without one.
    ///
    /// # Errors
    /// There is no port.
    pub async fn open(folders: Vec<(String, PathBuf)>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let folders = Arc::new(folders);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let folders = Arc::clone(&folders);
                let service = service_fn(move |request: Request<Incoming>| {
                    let reply = file(&folders, request.uri().path());
                    async move { Ok::<_, Infallible>(reply) }
                });
                // A browser may break off.
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(Self { addr, serving })
    }

    /// Where Envoy finds it.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn file(folders: &[(String, PathBuf)], path: &str) -> Response<Full<Bytes>> {
    let (folder, name) = match path.strip_prefix("/site/") {
        Some(rest) => rest.split_once('/').unwrap_or(("", rest)),
        // What Segment's snippet asks a CDN for, with the write key in its path.
        None => ("snippet", "standalone.js"),
    };
    let found = folders.iter().find(|(at, _)| at == folder).filter(|_| !name.contains(['/', '\\']));
    let bytes = found.and_then(|(_, folder)| std::fs::read(folder.join(name)).ok());
    let kind = if name.ends_with(".js") { "text/javascript" } else { "text/html; charset=utf-8" };
    let mut reply = Response::new(Full::new(Bytes::from(bytes.clone().unwrap_or_default())));
    if bytes.is_none() {
        *reply.status_mut() = StatusCode::NOT_FOUND;
    }
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}
