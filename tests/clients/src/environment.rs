//! The mock of Keen and Envoy, for the runs of one group of SDKs.

use crate::certificate::Certificate;
use crate::sdk_process::{ProcessOutput, Report, SdkProcess};
use crate::site::Site;
use crate::tcp_proxy::{NetworkFault, TcpProxy};
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options, Project};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Number of sources in one environment. Each run uses one.
const SOURCES: usize = 120;
const TIMEOUT: Duration = Duration::from_secs(20);

/// How a client reaches Envoy, and which faults occur on the way to Keen.
#[derive(Clone, Debug, Default)]
pub struct ClientPath {
    /// Whether the client uses TLS.
    pub tls: bool,
    /// A fault between the client and Envoy.
    pub network_fault: Option<NetworkFault>,
    /// A fault between Envoy and Keen.
    pub keen_fault: Option<Fault>,
}

/// The result of one run of a process.
#[derive(Debug)]
pub struct Run {
    /// The SDK's report of its calls.
    pub report: Report,
    /// The SDK's log.
    pub log: String,
    /// The requests that reached Envoy: method, path and status.
    pub requests: Vec<(String, String, u16)>,
    /// The POSTs that the process made, including those that never reached Envoy. 0 without a
    /// network fault.
    pub posts: usize,
    /// Collections and events in Keen, sorted.
    pub events: Vec<(String, Value)>,
}

impl Run {
    /// Returns the statuses of the POSTs that carried messages, in the order of Envoy's log.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        let carries_messages = |method: &str, path: &str| method == "POST" && !path.ends_with("/m");
        let requests = self.requests.iter();
        requests
            .filter(|(method, path, _)| carries_messages(method, path))
            .map(|request| request.2)
            .collect()
    }

    /// Returns the paths of the requests with this method.
    #[must_use]
    pub fn paths(&self, method: &str) -> Vec<&str> {
        let requests = self.requests.iter().filter(|request| request.0 == method);
        requests.map(|request| request.1.as_str()).collect()
    }
}

/// A mock of Keen and an Envoy with two listeners: one plain, one with TLS. Each run has its own
/// source and its own Keen project.
pub struct TestEnvironment {
    keen: MockKeen,
    envoy: Envoy,
    tls: SocketAddr,
    authority: PathBuf,
    runs: AtomicUsize,
}

fn project(run: usize) -> String {
    format!("5181bcd23843312d87{run:06}")
}

/// Returns the write key of a run. It is as long as Segment's keys, because some SDKs reject
/// shorter ones.
fn write_key(run: usize) -> String {
    format!("writeKeyOfRun{run:06}")
}

/// Returns the loopback address of a run's connections to Envoy. A port would not identify a run,
/// because the system reuses ports.
fn client_address(run: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, u8::try_from(run + 1).unwrap_or(u8::MAX))
}

impl TestEnvironment {
    /// Starts the mock and Envoy. `change` may change the filter's configuration.
    ///
    /// # Panics
    /// Panics if one of them does not start.
    pub async fn start(change: impl FnOnce(&mut Value)) -> Self {
        Self::start_patched(change, |_| {}).await
    }

    /// Like [`TestEnvironment::start`]. Envoy also serves the pages of a site under `/site/`.
    ///
    /// # Panics
    /// Panics like [`TestEnvironment::start`].
    pub async fn start_with_site(change: impl FnOnce(&mut Value), site: &Site) -> Self {
        let addr = site.addr();
        Self::start_patched(change, move |bootstrap| add_site(bootstrap, addr)).await
    }

    /// Like [`TestEnvironment::start`], with a variant of `envoy.yaml`. Its scripts come from the
    /// directory `scripts` in place of `/etc/envoy/analytics-next`. Without `sdk_api_host` its
    /// `settings` are left out.
    ///
    /// # Panics
    /// Panics like [`TestEnvironment::start`], or if the variant cannot be read.
    pub async fn start_variant(variant: &Path, scripts: &Path, sdk_api_host: bool) -> Self {
        let text = std::fs::read_to_string(variant)
            .unwrap_or_else(|error| panic!("{}: {error}", variant.display()));
        let text = text.replace("/etc/envoy/analytics-next", &scripts.display().to_string());
        let mut variant = harness::yaml(&text);
        let plugin = harness::keen_edge(&mut variant);
        let settings = plugin["configuration"]["value"]["settings"].clone();
        let change = |config: &mut Value| {
            if sdk_api_host {
                config["settings"] = settings;
            }
        };
        Self::start_patched(change, move |bootstrap| use_variant(bootstrap, variant)).await
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
            config["sources"][write_key(run)] = json!({
                "projectId": project(run), "writeKey": mock_keen::WRITE_KEY, "name": format!("run{run}"),
            });
        }
        change(&mut config);
        let certificate = Certificate::generate();
        let tls = harness::downstream_tls(&certificate.chain, &certificate.key);
        let envoy = Envoy::builder()
            .keen(keen.addr())
            .config(config)
            .patch(patch)
            .patch(log_every_request)
            .patch(move |bootstrap| add_tls_listener(bootstrap, tls))
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let tls = envoy
            .listener(TLS_LISTENER)
            .await
            .unwrap_or_else(|| panic!("no listener {TLS_LISTENER}"));
        Self { keen, envoy, tls, authority: certificate.authority, runs: AtomicUsize::new(0) }
    }

    /// Runs a process to its end.
    ///
    /// # Panics
    /// Panics if the process fails or the filter panics.
    pub async fn run(&self, process: &SdkProcess, path: &ClientPath) -> Run {
        self.run_as(self.next_run(), process, path).await
    }

    async fn run_as(&self, run: usize, process: &SdkProcess, path: &ClientPath) -> Run {
        if let Some(fault) = &path.keen_fault {
            self.keen.fault(fault.clone().project(&project(run)));
        }
        let from = client_address(run);
        let listener = if path.tls { self.tls } else { self.envoy.addr() };
        let proxy = TcpProxy::open(listener, from, path.network_fault)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let scheme = if path.tls { "https" } else { "http" };
        let output = self.run_process(process, scheme, proxy.addr(), run).await;
        let requests = self.requests(from).await;
        let mut events: Vec<(String, Value)> = self
            .keen
            .events_in(&project(run))
            .into_iter()
            .map(|stored| (stored.collection, stored.event))
            .collect();
        events.sort_by(|one, other| one.0.cmp(&other.0));
        self.envoy.no_panic_in_log();
        let report = output.report(&process.name);
        Run { report, log: output.stderr, requests, posts: proxy.posts(), events }
    }

    /// Runs a process that may fail. Returns its exit status and its log.
    ///
    /// # Panics
    /// Panics if the process does not end.
    pub async fn run_to_exit(
        &self,
        process: &SdkProcess,
        network_fault: NetworkFault,
    ) -> (ExitStatus, String) {
        let run = self.next_run();
        let proxy = TcpProxy::open(self.envoy.addr(), client_address(run), Some(network_fault))
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let output = self.run_process(process, "http", proxy.addr(), run).await;
        (output.status, output.stderr)
    }

    /// Like [`TestEnvironment::run_to_exit`], but nothing listens at Envoy's address.
    ///
    /// # Panics
    /// Panics if the process does not end.
    pub async fn run_without_envoy(&self, process: &SdkProcess) -> (ExitStatus, String) {
        let run = self.next_run();
        // The port is free again after the drop, so connections to it are refused.
        let addr = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let addr = addr.unwrap_or_else(|error| panic!("{error}"));
        let output = self.run_process(process, "http", addr, run).await;
        (output.status, output.stderr)
    }

    /// Runs a process while the filter's queue is full. An event of `bytes` from another client of
    /// the same source fills it, and Keen does not answer. The fault ends when the process has
    /// received a 429.
    ///
    /// # Panics
    /// Panics if the process receives no 429, or like [`TestEnvironment::run`].
    pub async fn run_while_full(&self, process: &SdkProcess, bytes: usize) -> Run {
        let run = self.next_run();
        self.keen.fault(Fault::hang().project(&project(run)));
        // Keen rejects strings of 10,000 characters.
        let texts = vec!["x".repeat(1000); bytes.div_ceil(1000)];
        let event = json!({
            "event": OCCUPANT, "userId": "u", "writeKey": write_key(run), "properties": {"texts": texts},
        });
        let addr = self.envoy.addr();
        let post = tokio::spawn(async move { post(addr, "/v1/track", &event.to_string()).await });
        self.wait_until("the fault is active", || self.keen.faults().is_empty()).await;
        let count = || self.envoy.log().matches(TOO_MANY_REQUESTS).count();
        let before = count();
        let end_fault = async {
            self.wait_until("the process has received a 429", || count() > before).await;
            self.keen.clear_faults();
        };
        let path = ClientPath::default();
        let (mut result, ()) = tokio::join!(self.run_as(run, process, &path), end_fault);
        let _ = post.await;
        result.events.retain(|(collection, _)| collection != OCCUPANT);
        result
    }

    fn next_run(&self) -> usize {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        assert!(run < SOURCES, "an environment has sources for {SOURCES} runs");
        run
    }

    async fn run_process(
        &self,
        process: &SdkProcess,
        scheme: &str,
        addr: SocketAddr,
        run: usize,
    ) -> ProcessOutput {
        let edge = format!("{scheme}://localhost:{}", addr.port());
        let events = format!("http://{}/_mock/events?project={}", self.keen.addr(), project(run));
        let more = [self.trust(), vec![("KEEN_EVENTS".to_owned(), events)]].concat();
        process.run(&edge, &write_key(run), &more).await
    }

    async fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(
                start.elapsed() < TIMEOUT,
                "not within {TIMEOUT:?}: {what}\n{}",
                self.envoy.log_tail(5)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the requests from this address. Waits until Envoy has written its log up to now.
    async fn requests(&self, from: Ipv4Addr) -> Vec<(String, String, u16)> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let marker = format!("/marker/{}/", COUNT.fetch_add(1, Ordering::Relaxed));
        get(self.envoy.addr(), &marker).await;
        self.wait_until(&format!("Envoy has logged GET {marker}"), || {
            self.envoy.log().contains(&marker)
        })
        .await;
        self.envoy.log().lines().filter_map(|line| parse_log_line(line, from)).collect()
    }

    /// Returns environment variables that make each runtime trust the test's certificate authority.
    fn trust(&self) -> Vec<(String, String)> {
        let authority = self.authority.to_string_lossy();
        ["NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]
            .map(|name| (name.to_owned(), authority.clone().into_owned()))
            .to_vec()
    }

    /// Returns the status and the body of `GET path` at Envoy.
    pub async fn fetch(&self, path: &str) -> (u16, Vec<u8>) {
        let response = get(self.envoy.addr(), path).await;
        let end = response.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = response.split_at(end.map_or(0, |end| end + 4));
        let status = String::from_utf8_lossy(head).split(' ').nth(1).map(str::parse);
        (status.and_then(Result::ok).unwrap_or_default(), body.to_vec())
    }

    /// Asserts that Keen rejected no event and no request.
    ///
    /// # Panics
    /// Panics with what Keen rejected.
    pub fn assert_nothing_rejected(&self) {
        assert!(self.keen.refusals().is_empty(), "{:?}", self.keen.refusals());
    }
}

/// The name of the event that fills the queue.
const OCCUPANT: &str = "Occupant";
/// The end of the log line of a request that was answered 429.
const TOO_MANY_REQUESTS: &str = " 429\n";
const TLS_LISTENER: &str = "segment-tls";
const LISTENER: &str = "/static_resources/listeners/0";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// Replaces the bootstrap with a variant of `envoy.yaml`, except for the addresses, the clusters,
/// the module and the filter's configuration.
fn use_variant(bootstrap: &mut Value, mut variant: Value) {
    let address = format!("{LISTENER}/address");
    for pointer in ["/admin", &address, "/static_resources/clusters"] {
        let value = bootstrap.pointer(pointer).cloned().unwrap_or_default();
        match variant.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => panic!("the variant has no {pointer}"),
        }
    }
    *harness::keen_edge(&mut variant) = harness::keen_edge(bootstrap).clone();
    *bootstrap = variant;
}

/// Adds the route of a site, before the last route.
fn add_site(bootstrap: &mut Value, site: SocketAddr) {
    let endpoint = json!({
        "address": {"socket_address": {"address": site.ip().to_string(), "port_value": site.port()}},
    });
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
        routes.insert(0, json!({"match": {"prefix": "/site/"}, "route": {"cluster": "site"}}));
    }
}

/// Adds a line for each request to Envoy's log, with the address of the client.
fn log_every_request(bootstrap: &mut Value) {
    let line =
        "client %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%\n";
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

/// Adds a copy of the first listener with TLS. The other changes come first.
fn add_tls_listener(bootstrap: &mut Value, transport_socket: Value) {
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

fn parse_log_line(line: &str, from: Ipv4Addr) -> Option<(String, String, u16)> {
    let mut words = line.strip_prefix("client ")?.split(' ');
    if words.next()?.rsplit_once(':')?.0 != from.to_string() {
        return None;
    }
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some((method, path, words.next()?.parse().ok()?))
}

async fn get(addr: SocketAddr, path: &str) -> Vec<u8> {
    send(addr, &format!("GET {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n")).await
}

async fn post(addr: SocketAddr, path: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    send(addr, &[head.as_str(), body].concat()).await;
}

/// Returns the whole response; empty without one.
async fn send(addr: SocketAddr, request: &str) -> Vec<u8> {
    let mut response = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(addr).await {
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut response).await;
    }
    response
}
