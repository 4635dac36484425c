//! An Envoy with the overflow queue, ElasticMQ and moto as queues, and a proxy that makes a queue
//! fail.
//!
//! ElasticMQ stores messages in a file. moto checks signatures. `scripts/queues.sh` installs both.

mod caller;
mod elasticmq;
mod fault_proxy;
mod moto;

pub use caller::{Callers, Seen, post, track};
pub use elasticmq::{ElasticMq, Queue};
pub use fault_proxy::{FaultProxy, QueueFault};
pub use moto::Moto;

use harness::{Builder, Envoy};
use mock_keen::{MockKeen, Options};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The project of `envoy.yaml`.
pub const PROJECT: &str = "5181bcd23843312d87000000";

/// Returns the configuration of `envoy.yaml` with this `overflow`.
#[must_use]
pub fn config(queue_url: &str) -> Value {
    let mut config = harness::default_config();
    config["overflow"] = json!({"cluster": "sqs", "queueUrl": queue_url, "afterMs": 500});
    config
}

/// Returns the cluster of `deploy/envoy-sqs.yaml`, with this address and without TLS.
///
/// # Panics
/// Panics if the file has another form.
/// The file is not as it should be.
#[must_use]
pub fn sqs_cluster(queue: SocketAddr) -> Value {
    let path = harness::root().join("deploy/envoy-sqs.yaml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}"));
    let mut cluster = harness::yaml(&text)["static_resources"]["clusters"][0].take();
    let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    let address = cluster.pointer_mut(address).unwrap_or_else(|| panic!("no {address}"));
    *address = json!({"address": queue.ip().to_string(), "port_value": queue.port()});
    let socket = cluster.as_object_mut().and_then(|cluster| cluster.remove("transport_socket"));
    assert!(socket.is_some(), "no TLS to the queue");
    cluster
}

/// Returns a builder of an Envoy with two workers and a queue at this address.
pub fn builder(keen: SocketAddr, queue: SocketAddr, config: Value) -> Builder {
    // ElasticMQ accepts any credentials. Without credentials Envoy would look for others, and fail.
    let builder = with_credentials(Envoy::builder(), "unused", "unused");
    builder.keen(keen).config(config).concurrency(2).patch(move |yaml| {
        if let Some(clusters) = yaml["static_resources"]["clusters"].as_array_mut() {
            clusters.push(sqs_cluster(queue));
        }
    })
}

/// Credentials in Envoy's environment.
pub fn with_credentials(builder: Builder, access_key: &str, secret_key: &str) -> Builder {
    builder.env("AWS_ACCESS_KEY_ID", access_key).env("AWS_SECRET_ACCESS_KEY", secret_key)
}

/// Starts an Envoy. Repeats that while its port is not free yet.
///
/// # Panics
/// Panics if Envoy does not start.
pub async fn start(builder: impl Fn() -> Builder) -> Envoy {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        match builder().start().await {
            Ok(envoy) => return envoy,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
    }
}

/// Starts a Keen that keeps every event.
///
/// # Panics
/// Panics if it does not start.
pub async fn keen() -> MockKeen {
    let mut options = Options::default();
    options.limits.events = 10_000_000;
    options.limits.tokens = 10_000_000;
    options.limits.event_bytes = 1 << 30;
    MockKeen::start(options).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the property `id` of each event in Keen, in the order of arrival.
#[must_use]
pub fn ids_in(keen: &MockKeen) -> Vec<String> {
    keen.events()
        .iter()
        .map(|kept| kept.event["id"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Waits until the condition is true.
///
/// # Panics
/// Panics if it is not true within `limit`.
#[track_caller]
pub fn until<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    holds: impl Fn() -> F,
) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < limit, "{place}: not within {limit:?}: {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Installs a queue, and returns its directory.
fn install(name: &str) -> PathBuf {
    let script = harness::root().join("scripts/queues.sh");
    let output = Command::new(&script).arg(name).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(text.trim())
}

/// A process that is ended when this value is dropped.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns an empty directory of this process in `target/tmp`.
fn temporary(name: &str) -> PathBuf {
    let path = harness::root().join(format!("target/tmp/{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}
