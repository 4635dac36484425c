//! The upstream of every scenario. It answers Keen's bulk endpoint with one result per event, and
//! any other request as Segment would. It is minimal because it shares a core with the load
//! generator; its own cost is not measured.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// Number of requests and events received.
#[derive(Debug, Default)]
pub(crate) struct Received {
    calls: AtomicU64,
    events: AtomicU64,
}

impl Received {
    /// Requests and events so far.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.events.load(Ordering::Relaxed))
    }
}

/// Serves from its own thread until the program ends. Each response is delayed by `delay`.
pub(crate) fn start(delay: Duration) -> io::Result<(SocketAddr, Arc<Received>)> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let seen = Arc::new(Received::default());
    let counted = Arc::clone(&seen);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            let result = runtime.block_on(serve(listener, counted, delay));
            eprintln!("the upstream ended: {result:?}");
        }
    });
    Ok((address, seen))
}

async fn serve(
    listener: std::net::TcpListener,
    seen: Arc<Received>,
    delay: Duration,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &seen, delay));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // An error here is a closed connection.
            let _ = connection.await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: &Received,
    delay: Duration,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let bulk = request.uri().path().ends_with("/events");
    let reply = match request.into_body().collect().await {
        Ok(body) if bulk => recorded(&body.to_bytes(), seen),
        Ok(_) => {
            seen.calls.fetch_add(1, Ordering::Relaxed);
            Some(r#"{"success":true}"#.to_owned())
        }
        Err(_) => None,
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let status = if reply.is_some() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let mut response = Response::new(Full::new(Bytes::from(reply.unwrap_or_default())));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    Ok(response)
}

fn recorded(body: &[u8], seen: &Received) -> Option<String> {
    let events: BTreeMap<String, Vec<IgnoredAny>> = serde_json::from_slice(body).ok()?;
    seen.calls.fetch_add(1, Ordering::Relaxed);
    let mut reply = String::from("{");
    for (collection, events) in &events {
        seen.events.fetch_add(u64::try_from(events.len()).unwrap_or(0), Ordering::Relaxed);
        if reply.len() > 1 {
            reply.push_str(", ");
        }
        reply.push_str(&serde_json::to_string(collection).ok()?);
        reply.push_str(": [");
        reply.push_str(&vec![r#"{"success": true}"#; events.len()].join(", "));
        reply.push(']');
    }
    reply.push('}');
    Some(reply)
}
