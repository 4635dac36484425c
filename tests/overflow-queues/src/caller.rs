//! Callers that retry as SDKs do.

use harness::Envoy;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Returns a call with one event, whose property `id` is its message id.
#[must_use]
pub fn track(id: &str) -> String {
    json!({"event": "overflow", "userId": "u", "messageId": id, "properties": {"id": id}})
        .to_string()
}

/// Posts a call. Returns the status of the response.
///
/// # Panics
/// Panics if there is no response.
pub async fn post(envoy: &Envoy, body: String) -> u16 {
    let request = reqwest::Client::new().post(envoy.url("/v1/track"));
    let request = request.basic_auth("writeKey", Some("")).body(body);
    request.send().await.unwrap_or_else(|error| panic!("{error}")).status().as_u16()
}

/// Callers that post one call after the other, and retry each until the response is 200.
#[derive(Debug, Default)]
pub struct Callers {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Observations of callers.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Ids of the events of calls that were answered 200.
    pub acknowledged: Vec<String>,
    /// Number of responses by status. 0: no response.
    pub statuses: BTreeMap<u16, u64>,
    /// The longest time to a response.
    pub longest: Duration,
}

impl Callers {
    /// Starts `count` callers, which pause for `pause` after each response.
    #[must_use]
    pub fn start(addr: SocketAddr, count: usize, pause: Duration) -> Self {
        let mut callers = Self::default();
        for number in 0..count {
            let (stop, seen) = (callers.stop.clone(), callers.seen.clone());
            callers.tasks.push(tokio::spawn(run(number, addr, pause, stop, seen)));
        }
        callers
    }

    /// Returns the observations so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }

    /// Stops the callers after their current calls. Returns their observations.
    ///
    /// # Panics
    /// Panics if a call never gets the response 200.
    pub async fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
            ended.unwrap_or_else(|_| panic!("no 200")).unwrap_or_else(|error| panic!("{error}"));
        }
        self.seen()
    }
}

async fn run(
    number: usize,
    addr: SocketAddr,
    pause: Duration,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
) {
    let mut client = reqwest::Client::new();
    for count in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let id = format!("{number}-{count}");
        loop {
            let request = client.post(format!("http://{addr}/v1/track"));
            let request = request.basic_auth("writeKey", Some("")).body(track(&id));
            let began = Instant::now();
            let reply = request.timeout(Duration::from_secs(20)).send().await;
            let status = reply.map_or(0, |reply| reply.status().as_u16());
            if let Ok(mut seen) = seen.lock() {
                *seen.statuses.entry(status).or_default() += 1;
                if status != 0 {
                    seen.longest = seen.longest.max(began.elapsed());
                }
                if status == 200 {
                    seen.acknowledged.push(id);
                    break;
                }
            }
            if status == 0 {
                client = reqwest::Client::new();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(pause).await;
    }
}
