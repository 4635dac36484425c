//! Keen and Envoy for the runs of one group of SDKs.

use crate::certificate::Certificate;
use crate::sdk_process::{Program, Report};
use crate::site::Site;
use crate::tcp_proxy::{TcpProxy, Trouble};
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options, Project};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Runs that one environment has sources for.
const SOURCES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(20);

/// How a client reaches Envoy, and what it meets.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// By TLS.
    pub tls: bool,
    /// What happens between client and Envoy.
    pub trouble: Option<Trouble>,
    /// What Envoy meets at Keen.
    pub fault: Option<Fault>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Run {
    /// The SDK's own view.
    pub report: Report,
    /// What the SDK logged.
    pub log: String,
    /// The statuses of Envoy's answers to its POSTs, in Envoy's view.
    pub statuses: Vec<u16>,
    /// The POSTs it made, with those that never reached Envoy; 0 without trouble.
    pub posts: usize,
    /// Collections and events in Keen, sorted.
    pub events: Vec<(String, Value)>,
}

/// A mock of Keen, and an Envoy before it that listens twice: plain, and by TLS. Each run has a source and a Keen
/// project of its own.
pub struct TestEnvironment {
    keen: MockKeen,
    envoy: Envoy,
    tls: SocketAddr,
    authority: PathBuf,
    used: AtomicUsize,
}

fn project(run: usize) -> String {
    format!("5181bcd23843312d87{run:06}")
}

/// The write key of a run: long enough for every SDK.
fn write_key(run: usize) -> String {
    format!("writeKeyOfRun{run:06}")
}

/// The address of a run's connections to Envoy. A port would not do: the system gives it again.
fn address(run: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, u8::try_from(run + 1).unwrap_or(u8::MAX))
}

impl TestEnvironment {
    /// Starts them. `change` may change the filter's configuration.
    ///
    /// # Panics
    /// With what kept them from starting.
    pub async fn start(change: impl FnOnce(&mut Value)) -> Self {
        Self::start_patched(change, |_| {}).await
    }

    /// The same, with a site whose pages Envoy serves under `/site/`, and the snippet's script under `/analytics.js/`.
    ///
    /// # Panics
    /// As [`TestEnvironment::start`].
    pub async fn start_with_site(change: impl FnOnce(&mut Value), site: &Site) -> Self {
        let addr = site.addr();
        Self::start_patched(change, move |bootstrap| serve_site(bootstrap, addr)).await
    }

    async fn start_patched(
        change: impl FnOnce(&mut Value),
        patch: impl FnOnce(&mut Value) + Send + 'static,
    ) -> Self {
        let keen = MockKeen::start(Options::default())
            .await
            .unwrap_or_else(|error| panic!("the mock of Keen: {error}"));
        let mut config = harness::default_config();
        config["sources"] = json!({});
        for run in 0..SOURCES {
            keen.add_project(Project::new(&project(run), mock_keen::WRITE_KEY));
            config["sources"][write_key(run)] = json!({"projectId": project(run), "writeKey": mock_keen::WRITE_KEY, "name": format!("run{run}")});
        }
        change(&mut config);
        let certificate = Certificate::new();
        let tls = harness::downstream_tls(&certificate.chain, &certificate.key);
        let envoy = Envoy::builder().keen(keen.addr()).config(config);
        let envoy = envoy
            .patch(patch)
            .patch(log_every_request)
            .patch(move |bootstrap| listen_by_tls(bootstrap, tls));
        let envoy = envoy.start().await.unwrap_or_else(|error| panic!("{error}"));
        let tls = envoy
            .listener(TLS_LISTENER)
            .await
            .unwrap_or_else(|| panic!("no listener {TLS_LISTENER}"));
        Self { keen, envoy, tls, authority: certificate.authority, used: AtomicUsize::new(0) }
    }

    /// Lets a sdk_process send its calls.
    ///
    /// # Panics
    /// The sdk_process could not run, or the filter failed.
    pub async fn run(&self, sdk_process: &Program, way: &Way) -> Run {
        let run = self.used.fetch_add(1, Ordering::Relaxed);
        assert!(run < SOURCES, "a environment has sources for {SOURCES} runs");
        if let Some(fault) = &way.fault {
            self.keen.fault(fault.clone().project(&project(run)));
        }
        let from = address(run);
        let listener = if way.tls { self.tls } else { self.envoy.addr() };
        let tcp_proxy = TcpProxy::open(listener, from, way.trouble)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let scheme = if way.tls { "https" } else { "http" };
        let edge = format!("{scheme}://localhost:{}", tcp_proxy.addr().port());
        let keen = format!("http://{}/_mock/events?project={}", self.keen.addr(), project(run));
        let told = [self.trust(), vec![("KEEN_EVENTS".to_owned(), keen)]].concat();
        let ended = sdk_process.run(&edge, &write_key(run), &told).await;
        let statuses = self.statuses(from).await;
        let mut events: Vec<(String, Value)> = self
            .keen
            .events_in(&project(run))
            .into_iter()
            .map(|stored| (stored.collection, stored.event))
            .collect();
        events.sort_by(|one, other| one.0.cmp(&other.0));
        self.envoy.no_panic_in_log();
        Run { report: ended.report, log: ended.log, statuses, posts: tcp_proxy.posts(), events }
    }

    /// Lets a sdk_process send its calls while another caller's event of `bytes`, which Keen holds up, fills the filter's
    /// queue. It is let go when the sdk_process has got a 429.
    ///
    /// # Panics
    /// The sdk_process got none, or as [`TestEnvironment::run`].
    pub async fn run_while_full(&self, sdk_process: &Program, bytes: usize) -> Run {
        let occupant = self.used.fetch_add(1, Ordering::Relaxed);
        self.keen.fault(Fault::hang().project(&project(occupant)));
        // Keen takes no string of 10,000 characters.
        let texts = vec!["x".repeat(1000); bytes.div_ceil(1000)];
        let event = json!({"event": "occupant", "userId": "u", "writeKey": write_key(occupant), "properties": {"texts": texts}});
        let addr = self.envoy.addr();
        let posting =
            tokio::spawn(async move { post(addr, "/v1/track", &event.to_string()).await });
        self.until("Keen has met the fault", || self.keen.faults().is_empty()).await;
        let before = self.envoy.log().matches(FULL).count();
        let letting_go = async {
            self.until("the sdk_process has got a 429", || {
                self.envoy.log().matches(FULL).count() > before
            })
            .await;
            self.keen.clear_faults();
        };
        let way = Way::default();
        let (run, ()) = tokio::join!(self.run(sdk_process, &way), letting_go);
        let _ = posting.await;
        run
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(
                began.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {what}\n{}",
                self.envoy.log_tail(5)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The statuses of the POSTs from this address, once Envoy has written what it knew before.
    async fn statuses(&self, from: Ipv4Addr) -> Vec<u16> {
        static MARKS: AtomicUsize = AtomicUsize::new(0);
        let mark = format!("/mark/{}/", MARKS.fetch_add(1, Ordering::Relaxed));
        get(self.envoy.addr(), &mark).await;
        self.until(&format!("Envoy has logged GET {mark}"), || self.envoy.log().contains(&mark))
            .await;
        self.envoy.log().lines().filter_map(|line| status(line, from)).collect()
    }

    /// What makes each runtime trust the test's certificate, without a change in the sdk_process.
    fn trust(&self) -> Vec<(String, String)> {
        let authority = self.authority.to_string_lossy();
        ["NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]
            .map(|name| (name.to_owned(), authority.clone().into_owned()))
            .to_vec()
    }

    /// Asserts that Keen refused nothing.
    ///
    /// # Panics
    /// With what it refused.
    pub fn nothing_refused(&self) {
        assert!(self.keen.refusals().is_empty(), "{:?}", self.keen.refusals());
    }
}

/// The end of the log line of a POST that found the filter's queue full.
const FULL: &str = " 429\n";
const TLS_LISTENER: &str = "segment-tls";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// A route of the customer's own, before the last.
fn serve_site(bootstrap: &mut Value, site: SocketAddr) {
    let endpoint = json!({"address": {"socket_address": {"address": site.ip().to_string(), "port_value": site.port()}}});
    let cluster = json!({
        "name": "site", "type": "STATIC",
        "load_assignment": {"cluster_name": "site", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    });
    if let Some(clusters) =
        bootstrap.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut)
    {
        clusters.push(cluster);
    }
    if let Some(routes) = harness::routes(bootstrap).as_array_mut() {
        for prefix in ["/site/", "/analytics.js/"] {
            routes.insert(0, json!({"match": {"prefix": prefix}, "route": {"cluster": "site"}}));
        }
    }
}

/// Adds a line for each request to Envoy's log, with the address it came from.
fn log_every_request(bootstrap: &mut Value) {
    let line = "tcp_proxy %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%\n";
    let log = json!({
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"text_format_source": {"inline_string": line}},
        },
    });
    if let Some(logs) =
        bootstrap.pointer_mut(&format!("{MANAGER}/access_log")).and_then(Value::as_array_mut)
    {
        logs.push(log);
    }
}

/// A second listener like the first, by TLS. It comes after the change above.
fn listen_by_tls(bootstrap: &mut Value, transport_socket: Value) {
    let Some(listeners) =
        bootstrap.pointer_mut("/static_resources/listeners").and_then(Value::as_array_mut)
    else {
        return;
    };
    let mut listener = listeners.first().cloned().unwrap_or_default();
    listener["name"] = json!(TLS_LISTENER);
    listener["filter_chains"][0]["transport_socket"] = transport_socket;
    listeners.push(listener);
}

fn status(line: &str, from: Ipv4Addr) -> Option<u16> {
    let mut words = line.strip_prefix("tcp_proxy ")?.split(' ');
    let ours = words.next()?.rsplit_once(':')?.0 == from.to_string();
    let post = words.next()? == "POST";
    let status = words.nth(1)?.parse().ok()?;
    (post && ours).then_some(status)
}

async fn get(addr: SocketAddr, path: &str) {
    send(addr, &format!("GET {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n")).await;
}

async fn post(addr: SocketAddr, path: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    send(addr, &[head.as_str(), body].concat()).await;
}

async fn send(addr: SocketAddr, request: &str) {
    if let Ok(mut stream) = TcpStream::connect(addr).await {
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}
