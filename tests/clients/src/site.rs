//! A site that the same Envoy serves: a page, and the scripts that it loads.

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
    accept_task: JoinHandle<()>,
}

impl Site {
    /// Serves directories under `/site/`. The first directory holds the files of `/site/` itself;
    /// each other one is served under its name.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn open(directories: Vec<(String, PathBuf)>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let directories = Arc::new(directories);
        let accept_task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let directories = Arc::clone(&directories);
                let service = service_fn(move |request: Request<Incoming>| {
                    let response = file(&directories, request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                // A browser may close the connection at any time.
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(Self { addr, accept_task })
    }

    /// The address for Envoy's cluster.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

fn file(directories: &[(String, PathBuf)], path: &str) -> Response<Full<Bytes>> {
    let path = path.strip_prefix("/site/").unwrap_or_default();
    let (directory, name) = path.split_once('/').unwrap_or(("", path));
    let found = directories.iter().find(|(prefix, _)| prefix == directory);
    let found = found.filter(|_| !name.contains(['/', '\\']));
    let bytes = found.and_then(|(_, directory)| std::fs::read(directory.join(name)).ok());
    let status = if bytes.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let kind = if name.ends_with(".js") { "text/javascript" } else { "text/html; charset=utf-8" };
    let mut response = Response::new(Full::new(Bytes::from(bytes.unwrap_or_default())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
