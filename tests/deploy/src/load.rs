//! Clients that send calls to Segment's API without a pause.

use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// Half of the clients reuse their connections; the others open one for each call.
const CLIENTS: usize = 8;

/// Clients that run until they are stopped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    stopped: AtomicBool,
    calls: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts track calls with the key `writeKey` to this address.
    #[must_use]
    pub fn start(addr: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            url: format!("http://{addr}/v1/track"),
            stopped: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            failures: Mutex::default(),
        });
        let clients = (0..CLIENTS).map(|client| {
            let shared = shared.clone();
            tokio::spawn(async move {
                let mut http = reqwest::Client::new();
                while !shared.stopped.load(Ordering::Relaxed) {
                    if client % 2 == 0 {
                        http = reqwest::Client::new();
                    }
                    shared.call(&http).await;
                }
            })
        });
        let clients = clients.collect();
        Self { shared, clients }
    }

    /// Returns the number of calls that have ended.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Waits until this many further calls have ended.
    ///
    /// # Panics
    /// Panics after a minute.
    pub async fn further(&self, calls: u64) {
        let enough = self.calls() + calls;
        let start = Instant::now();
        while self.calls() < enough {
            assert!(start.elapsed() < Duration::from_secs(60), "the calls do not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the last calls, and returns the number of all calls.
    ///
    /// # Panics
    /// Panics if a call has failed.
    pub async fn stop(self) -> u64 {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap_or_else(|error| panic!("{error}"));
        }
        let failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = self.shared.calls.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {calls} calls failed: {failures:#?}", failures.len());
        calls
    }
}

impl Shared {
    async fn call(&self, http: &reqwest::Client) {
        let body = json!({"userId": "u", "event": "Loaded", "properties": {"n": 1}}).to_string();
        let call = http.post(&self.url).basic_auth("writeKey", Some("")).body(body).send().await;
        let failure = match call {
            Ok(response) if response.status() == 200 => {
                response.bytes().await.err().map(|error| format!("{error:?}"))
            }
            Ok(response) => Some(format!("{}", response.status())),
            Err(error) => Some(format!("{error:?}")),
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(failure) = failure {
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
