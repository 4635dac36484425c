//! Envoy, a mock Keen and an HTTP client for a test.

use harness::Envoy;
use mock_keen::{MockKeen, Options};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(15);

pub struct TestEnv {
    pub envoy: Envoy,
    pub keen: MockKeen,
    pub client: reqwest::Client,
}

impl TestEnv {
    pub async fn new() -> Self {
        Self::with(harness::default_config()).await
    }

    pub async fn with(config: Value) -> Self {
        Self::patched(config, |_| {}).await
    }

    pub async fn patched(config: Value, patch: impl FnOnce(&mut Value) + Send + 'static) -> Self {
        let keen = MockKeen::start(Options::default()).await.unwrap();
        let envoy = Envoy::builder().keen(keen.addr()).config(config).patch(patch).start().await;
        let envoy = envoy.unwrap_or_else(|e| panic!("{e:?}"));
        Self { envoy, keen, client: reqwest::Client::new() }
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.post_with(path, body, &[]).await
    }

    pub async fn post_with(
        &self,
        path: &str,
        body: impl Into<reqwest::Body>,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut request =
            self.client.post(self.envoy.url(path)).basic_auth("writeKey", Some("")).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = request.send().await.unwrap();
        let status = reply.status().as_u16();
        (status, serde_json::from_str(&reply.text().await.unwrap()).unwrap_or(Value::Null))
    }

    /// Waits until the condition is true. Panics after [`PATIENCE`].
    #[track_caller]
    pub fn until<F: Future<Output = bool>>(
        &self,
        what: &str,
        holds: impl Fn() -> F,
    ) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let start = Instant::now();
            while !holds().await {
                assert!(
                    start.elapsed() < PATIENCE,
                    "{place}: not within {PATIENCE:?}: {what}\n{}",
                    self.envoy.log_tail(5)
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Asserts that each admitted event is counted in exactly one end. Waits until nothing is
    /// pending.
    #[track_caller]
    pub fn assert_events_accounted(&self) -> impl Future<Output = ()> {
        self.until("each admitted event has ended in exactly one way", || async {
            let pending = self.envoy.stat("wasmcustom.keen_edge_pending_bytes").await;
            let totals = self.envoy.event_totals().await;
            pending == 0 && totals.admitted > 0 && totals.ended() == totals.admitted
        })
    }

    /// Returns the collections of the stored events, sorted.
    pub fn collections(&self) -> Vec<String> {
        let mut names: Vec<String> = self.keen.events().into_iter().map(|e| e.collection).collect();
        names.sort();
        names
    }
}

pub fn ok() -> (u16, Value) {
    (200, json!({"success": true}))
}

pub fn refused(message: &str) -> (u16, Value) {
    (400, json!({"success": false, "message": message, "code": "invalid_request"}))
}

pub fn track(event: &str) -> String {
    json!({"userId": "u", "event": event, "messageId": format!("m-{event}"), "properties": {"n": 1}}).to_string()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Sends raw bytes and returns everything that is received.
pub async fn raw(addr: SocketAddr, bytes: Vec<u8>) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Envoy may answer and close before it has read everything.
        let _ = stream.write_all(&bytes);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        String::from_utf8_lossy(&reply).into_owned()
    })
    .await
    .unwrap()
}
