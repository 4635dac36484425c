//! A Prometheus scrapes real Envoys under load and failure. The test runs every query of the
//! dashboard on it, and it evaluates every alert rule.

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use harness::Envoy;
use mock_keen::{Fault, MockKeen, Options, Project};
use observability::{Labels, Prometheus};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Duration of the failures. Rates need a few scrapes.
const FAILURE: Duration = Duration::from_secs(25);
/// Longer than the 30 s between polls of an empty queue.
const PATIENCE: Duration = Duration::from_secs(90);

const SHOP: &str = "5181bcd23843312d87000000";
/// Keen answers 402.
const UNPAID: &str = "5181bcd23843312d87000402";
/// Keen answers 503.
const BUSY: &str = "5181bcd23843312d87000503";
/// The port of its cluster is closed.
const CLOSED: &str = "5181bcd23843312d87000000";

// === Envoys ===

/// An Envoy and its Keen.
struct Edge {
    envoy: Envoy,
    keen: MockKeen,
    client: reqwest::Client,
    /// Number of calls by status.
    statuses: Mutex<BTreeMap<u16, u64>>,
}

impl Edge {
    async fn start(
        config: Value,
        wasm: &str,
        patch: impl FnOnce(&mut Value) + Send + 'static,
    ) -> Arc<Self> {
        let key = "F".repeat(64);
        let mut options = Options::default();
        options.projects.extend([UNPAID, BUSY].map(|id| Project::new(id, &key)));
        let keen = MockKeen::start(options).await.unwrap();
        let mut builder = Envoy::builder().keen(keen.addr()).config(config).patch(patch);
        if !wasm.is_empty() {
            let path = harness::root().join("target").join(wasm);
            assert!(path.is_file(), "no {}: see scripts/build.sh", path.display());
            builder = builder.wasm(path);
        }
        let envoy = builder.start().await.unwrap_or_else(|error| panic!("{error}"));
        let client = reqwest::Client::new();
        Arc::new(Self { envoy, keen, client, statuses: Mutex::default() })
    }

    async fn send(&self, key: &str, path: &str, body: String) -> u16 {
        let call = self.client.post(self.envoy.url(path)).basic_auth(key, Some("")).body(body);
        let status = call.send().await.unwrap().status().as_u16();
        *self.statuses.lock().unwrap().entry(status).or_default() += 1;
        status
    }

    async fn track(&self, event: &str) -> u16 {
        self.send("writeKey", "/v1/track", track(event)).await
    }

    /// Sends a call without waiting for the answer.
    fn spawn(self: &Arc<Self>, key: &'static str, path: &'static str, body: String) {
        let edge = Arc::clone(self);
        tokio::spawn(async move { edge.send(key, path, body).await });
    }
}

fn track(event: &str) -> String {
    json!({"userId": "u", "event": event, "properties": {"text": "x".repeat(700)}}).to_string()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Starts an Envoy as shipped, with more sources.
async fn shop() -> Arc<Edge> {
    let mut config = harness::default_config();
    let source = config["sources"]["writeKey"].clone();
    for (key, project, cluster) in
        [("unpaid", UNPAID, "keen"), ("busy", BUSY, "keen"), ("closed", CLOSED, "keen-closed")]
    {
        let mut source = source.clone();
        source["name"] = json!(key);
        source["projectId"] = json!(project);
        source["writeKey"] = json!("F".repeat(64));
        source["cluster"] = json!(cluster);
        config["sources"][key] = source;
    }
    config["sources"]["writeKey"]["rememberUsers"] = json!(true);
    config["sources"]["writeKey"]["mode"] = json!("device");
    config["users"] = json!({"max": 1});
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Edge::start(config, "", move |bootstrap| {
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
        let mut cluster = clusters[0].clone();
        cluster["name"] = json!("keen-closed");
        cluster["load_assignment"] = endpoint("keen-closed", closed);
        clusters.push(cluster);
    })
    .await
}

fn endpoint(cluster: &str, addr: SocketAddr) -> Value {
    let address = json!({"address": addr.ip().to_string(), "port_value": addr.port()});
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": address}}}
    ]}]})
}

/// Starts an Envoy with room for three events.
async fn small(intercept: &str) -> Arc<Edge> {
    let mut config = harness::default_config();
    config["intercept"] = json!(intercept);
    config["keen"]["timeoutMs"] = json!(1000);
    config["delivery"]["holdMs"] = json!(3000);
    config["delivery"]["maxPendingBytes"] = json!(3000);
    Edge::start(config, "", |_| {}).await
}

/// Makes Keen answer after 6 s.
async fn slow() -> Arc<Edge> {
    let mut config = harness::default_config();
    config["keen"]["timeoutMs"] = json!(12_000);
    config["delivery"]["holdMs"] = json!(14_000);
    Edge::start(config, "", |_| {}).await
}

async fn with_overflow(queue: SocketAddr) -> Arc<Edge> {
    let mut config = harness::default_config();
    config["overflow"] = json!({
        "cluster": "sqs", "queueUrl": format!("http://{queue}/1/keen-edge"), "afterMs": 500,
    });
    Edge::start(config, "", move |bootstrap| {
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
        let assignment = endpoint("sqs", queue);
        clusters.push(json!({
            "name": "sqs", "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment,
        }));
    })
    .await
}

/// A queue that speaks Amazon SQS's JSON protocol, as far as the filter uses it.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<QueueState>>);

#[derive(Default)]
struct QueueState {
    messages: BTreeMap<u64, Value>,
    received: BTreeSet<u64>,
    last: u64,
    is_down: bool,
}

impl Queue {
    async fn start() -> (Self, SocketAddr) {
        let (queue, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let addr = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(queue.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (queue, addr)
    }

    fn set_down(&self, is_down: bool) {
        self.0.lock().unwrap().is_down = is_down;
    }
}

async fn answer(
    State(queue): State<Queue>,
    headers: HeaderMap,
    body: String,
) -> (axum::http::StatusCode, String) {
    let body: Value = serde_json::from_str(&body).unwrap();
    let action = headers["x-amz-target"].to_str().unwrap();
    if action == "AmazonSQS.ReceiveMessage" {
        sleep(Duration::from_millis(200)).await;
    }
    let mut state = queue.0.lock().unwrap();
    if state.is_down {
        let error = json!({"__type": "com.amazonaws.sqs#InternalError"});
        return (axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    }
    let reply = match action {
        "AmazonSQS.SendMessage" => {
            state.last += 1;
            let handle = state.last;
            state.messages.insert(handle, body["MessageBody"].clone());
            json!({"MessageId": handle.to_string()})
        }
        "AmazonSQS.ReceiveMessage" => {
            let handle = state.messages.keys().find(|key| !state.received.contains(key)).copied();
            let message = handle.map(|handle| {
                let id = handle.to_string();
                json!({"MessageId": id, "ReceiptHandle": id, "Body": state.messages[&handle]})
            });
            state.received.extend(handle);
            json!({"Messages": message.into_iter().collect::<Vec<_>>()})
        }
        "AmazonSQS.DeleteMessage" => {
            state.messages.remove(&body["ReceiptHandle"].as_str().unwrap().parse().unwrap());
            json!({})
        }
        other => panic!("{other}"),
    };
    (axum::http::StatusCode::OK, reply.to_string())
}

// === load and failure ===

/// Sends each kind of call twice a second.
async fn drive_shop(edge: Arc<Edge>) {
    edge.keen.fault(Fault::refuse_collection("bad", "InvalidEventError").forever());
    edge.keen.fault(Fault::status(402).project(UNPAID).forever());
    edge.keen.fault(Fault::status(503).project(BUSY).forever());
    let end = Instant::now() + FAILURE;
    for round in 0.. {
        if Instant::now() > end {
            return;
        }
        let sanitized = json!({"userId": "u", "event": "good", "properties": {"a.b": round}});
        edge.spawn("writeKey", "/v1/track", sanitized.to_string());
        edge.spawn("writeKey", "/v1/track", track("bad"));
        edge.spawn(
            "writeKey",
            "/v1/batch",
            json!({"batch": [{"type": "track"}, {"type": "page"}]}).to_string(),
        );
        let user = json!({"userId": format!("u{round}"), "traits": {"plan": "gold"}});
        edge.spawn("writeKey", "/v1/identify", user.to_string());
        let user = json!({"userId": "x".repeat(600), "traits": {"plan": "gold"}});
        edge.spawn("writeKey", "/v1/identify", user.to_string());
        edge.spawn("writeKey", "/v1/track", "{".to_owned());
        edge.spawn("another", "/v1/track", track("unknown"));
        for key in ["unpaid", "busy", "closed"] {
            edge.spawn(key, "/v1/track", track(key));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn drive_small(edge: Arc<Edge>) {
    edge.keen.fault(Fault::hang().forever());
    let end = Instant::now() + FAILURE;
    while Instant::now() < end {
        edge.spawn("writeKey", "/v1/track", track("hangs"));
        sleep(Duration::from_millis(200)).await;
    }
}

async fn drive_slow(edge: Arc<Edge>) {
    edge.keen.fault(Fault::delay(6_000).forever());
    let end = Instant::now() + FAILURE;
    while Instant::now() < end {
        edge.spawn("writeKey", "/v1/track", track("slow"));
        sleep(Duration::from_millis(1_000)).await;
    }
}

/// Makes the filter fail twice while an event is pending. The counter of restarts must change
/// between scrapes.
async fn drive_failing(edge: Arc<Edge>) {
    for _ in 0..2 {
        edge.keen.fault(Fault::hang().forever());
        edge.spawn("writeKey", "/v1/track", track("pending"));
        until("it is pending", async || edge.envoy.total("pending_bytes").await > 0).await;
        sleep(Duration::from_secs(1)).await;
        let call = edge.client.post(edge.envoy.url("/v1/track"));
        let call = call.header("x-keen-edge-panic", "now").body("{}").send().await.unwrap();
        assert_eq!(call.status(), 503);
        edge.keen.clear_faults();
        until("a new VM serves", async || {
            let user = json!({"userId": "u"}).to_string();
            edge.send("writeKey", "/v1/identify", user).await == 200
        })
        .await;
        sleep(Duration::from_secs(3)).await;
    }
}

/// Keen fails, recovers, then fails together with the queue.
async fn drive_overflow(edge: Arc<Edge>, queue: Queue) {
    edge.keen.fault(Fault::status(503).forever());
    for round in 0..20 {
        let event = if round % 2 == 0 { "bad" } else { "good" };
        assert_eq!(edge.track(event).await, 200);
    }
    sleep(Duration::from_secs(3)).await;
    // This message is left to the redrive policy.
    queue.0.lock().unwrap().messages.insert(0, json!("not written by keen-edge"));
    edge.keen.clear_faults();
    edge.keen.fault(Fault::refuse_collection("bad", "InvalidEventError").forever());
    until("the queue is drained", async || queue.0.lock().unwrap().messages.len() == 1).await;
    edge.keen.clear_faults();
    queue.set_down(true);
    edge.keen.fault(Fault::status(503).forever());
    // After a failure the filter tries the queue every 5 s.
    for _ in 0..12 {
        edge.spawn("writeKey", "/v1/track", track("not stored"));
        sleep(Duration::from_secs(1)).await;
    }
}

// === queries ===

/// A query of the dashboard.
struct Query {
    /// The title of its panel, and its legend.
    name: String,
    expr: String,
    /// The labels in the legend.
    labels: BTreeSet<String>,
}

fn queries() -> Vec<Query> {
    let path = harness::root().join("deploy/grafana/keen-edge.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|p| p["type"] != "row");
    let queries = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        targets.iter().map(|target| {
            let legend = target["legendFormat"].as_str().unwrap();
            let labels = legend.split("{{").skip(1).map(|part| part.split("}}").next().unwrap());
            let expr = target["expr"].as_str().unwrap();
            Query {
                name: format!("{}/{legend}", panel["title"].as_str().unwrap()),
                // Grafana replaces these variables in the same way.
                expr: expr
                    .replace("$__rate_interval", "1m")
                    .replace("$__range", "5m")
                    .replace("$instance", ".*"),
                labels: labels.map(str::to_owned).collect(),
            }
        })
    });
    queries.collect()
}

/// The expected series of a query, by the values of its labels in the order of their names. `...`
/// at the end allows others.
const SERIES: &[(&str, &[&str])] = &[
    ("Responses by status/{{code}}", &["200", "400", "429", "503"]),
    ("Messages by source/{{source}}", &["busy", "closed", "example", "unknown", "unpaid"]),
    ("Events by source/{{source}}", &["busy", "closed", "example", "unpaid"]),
    ("Events delivered/{{project}}", &[SHOP, "..."]),
    ("Callouts and retries/{{project}}", &[SHOP, UNPAID, BUSY]),
    ("Callouts and retries/{{project}} retried", &[SHOP, BUSY, "..."]),
    ("Events not delivered/{{project}} unconfirmed", &[SHOP, UNPAID, BUSY]),
    (
        "Events not delivered/{{project}} dropped: {{reason}}",
        &["5181bcd23843312d87000000 no_capacity"],
    ),
    (
        "Calls not answered 200/{{reason}}",
        &["destination_rejected", "malformed_json", "queue_full", "unconfirmed"],
    ),
    (
        "Messages that became no event/{{source}}: {{reason}}",
        &[
            "no_effect example",
            "no_event_name example",
            "no_page_setting example",
            "unknown_write_key unknown",
        ],
    ),
    (
        "Events that Keen rejected/{{project}}: {{error}}",
        &["InvalidEventError 5181bcd23843312d87000000"],
    ),
    ("Pending bytes/{{instance}}", INSTANCES),
    ("Pending bytes/{{instance}} limit", INSTANCES),
    ("Queue fill/{{instance}}", INSTANCES),
    ("Destination/{{project}}", &[SHOP, UNPAID, BUSY]),
    (
        "Keen's replies/{{envoy_cluster_name}} {{envoy_response_code}}",
        &["keen 200", "keen 402", "keen 503", "keen 504", "keen-closed 503"],
    ),
    ("Connections to Keen/{{envoy_cluster_name}} connect failed", &["keen", "keen-closed"]),
    ("Connections to Keen/{{envoy_cluster_name}} timeout", &["keen", "keen-closed"]),
    ("Connections to Keen/{{envoy_cluster_name}} circuit breaker", &["keen", "keen-closed"]),
    ("Overflow queue/{{instance}}", &["overflow"]),
    (
        "Events to and from the queue/drained {{project}}, rejected: {{error}}",
        &["InvalidEventError 5181bcd23843312d87000000"],
    ),
    ("Version/{{version}}", &[env!("CARGO_PKG_VERSION")]),
    ("Memory of Envoy/{{instance}} allocated", INSTANCES),
    ("Memory of Envoy/{{instance}} resident", INSTANCES),
];

const INSTANCES: &[&str] = &["failing", "mirror", "overflow", "shop", "slow", "small"];

/// Queries whose sum is 0 in this test. All others must be above 0.
const ZERO: &[&str] = &[
    "Connections to Keen/{{envoy_cluster_name}} circuit breaker",
    "Events without their user's traits/events",
    "Failed VMs/not restarted",
    "Overflow queue/{{instance}}",
];

/// Returns what is wrong with the answer to a query.
fn check(query: &Query, series: &[(Labels, f64)]) -> Result<(), String> {
    let Query { name, expr, labels } = query;
    if series.is_empty() {
        return Err(format!("{name}: no series for {expr}"));
    }
    for (found, value) in series {
        if found.keys().cloned().collect::<BTreeSet<_>>() != *labels {
            return Err(format!("{name}: {found:?}, the legend has {labels:?}"));
        }
        if !value.is_finite() && !name.contains("/p") {
            return Err(format!("{name}: {value} for {found:?}"));
        }
    }
    let found: BTreeSet<String> = series
        .iter()
        .map(|(labels, _)| labels.values().cloned().collect::<Vec<_>>().join(" "))
        .collect();
    let wanted = SERIES.iter().find(|(wanted, _)| wanted == name).map(|(_, series)| *series);
    let wanted = wanted.unwrap_or(&[""]);
    let missing: Vec<_> = wanted.iter().filter(|w| **w != "..." && !found.contains(**w)).collect();
    let is_open = wanted.contains(&"...");
    if !missing.is_empty() || (!is_open && found.len() != wanted.len()) {
        return Err(format!("{name}: {found:?} instead of {wanted:?}"));
    }
    let sum: f64 = series.iter().map(|(_, value)| value).sum();
    if (sum == 0.0) != ZERO.contains(&name.as_str()) || sum.is_nan() {
        return Err(format!("{name}: the sum is {sum}"));
    }
    Ok(())
}

/// Returns the shipped rules, with shorter times for which a condition has to hold.
fn rules() -> String {
    let text = fs::read_to_string(harness::root().join("deploy/prometheus/alerts.yaml")).unwrap();
    let lines = text.lines().map(|line| match line.trim_start().starts_with("for: ") {
        true => "        for: 1s".to_owned(),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn alert_names(rules: &str) -> BTreeSet<String> {
    let lines = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    lines.map(str::to_owned).collect()
}

/// Returns the alerts that have fired until now.
async fn fired(prometheus: &Prometheus) -> BTreeSet<String> {
    let query = "count by (alertname) (max_over_time(ALERTS{alertstate=\"firing\"}[10m]))";
    let series = prometheus.query(query).await.into_iter();
    series.map(|(mut labels, _)| labels.remove("alertname").unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_and_alerts_under_load_and_failure_have_expected_results() {
    let (queue, queue_addr) = Queue::start().await;
    let (shop, small, mirror, slow) =
        (shop().await, small("respond").await, small("forward").await, slow().await);
    let overflow = with_overflow(queue_addr).await;
    let failing = Edge::start(harness::default_config(), "keen_edge_panic_switch.wasm", |plugin| {
        harness::keen_edge(plugin)["reload_config"]["backoff"]["base_interval"] = json!("0.2s");
    })
    .await;
    let edges = [
        ("shop", &shop),
        ("small", &small),
        ("mirror", &mirror),
        ("slow", &slow),
        ("overflow", &overflow),
        ("failing", &failing),
    ];
    let targets = edges.map(|(name, edge)| (name, edge.envoy.admin_addr()));
    let rules = rules();
    let prometheus = Prometheus::start(&targets, &rules).await;

    // Under healthy traffic no alert fires.
    for round in 0..10 {
        for (name, edge) in edges {
            let wanted = if name == "mirror" { 404 } else { 200 };
            assert_eq!(edge.track(&format!("healthy {round}")).await, wanted, "{name}");
        }
        sleep(Duration::from_millis(500)).await;
    }
    until("all are scraped", async || prometheus.value("count(up == 1)").await == 6.0).await;
    assert_eq!(fired(&prometheus).await, BTreeSet::new());

    // The values of the dashboard's variable.
    let series = prometheus.query("count by (instance) (keen_edge_requests)").await;
    let found: BTreeSet<_> = series.iter().map(|(labels, _)| labels["instance"].as_str()).collect();
    assert_eq!(found, INSTANCES.iter().copied().collect());

    // Each query about failures runs right after the failure, because rates fall to 0 again.
    let asked = queries();
    let (is_overflow, others): (Vec<_>, Vec<_>) = asked.into_iter().partition(|query| {
        ["Overflow queue", "Events to and from the queue", "Trouble with the queue"]
            .iter()
            .any(|at| query.name.starts_with(at))
    });
    // Repeats the query for some seconds, because a scrape may fail on a busy machine.
    let ask = async |queries: Vec<Query>| {
        let mut errors = Vec::new();
        for _ in 0..10 {
            errors.clear();
            for query in &queries {
                errors.extend(check(query, &prometheus.query(&query.expr).await).err());
            }
            if errors.is_empty() {
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        errors
    };
    let (mut errors, more) = tokio::join!(
        async {
            tokio::join!(
                drive_shop(Arc::clone(&shop)),
                drive_small(Arc::clone(&small)),
                drive_small(Arc::clone(&mirror)),
                drive_slow(Arc::clone(&slow)),
                drive_failing(Arc::clone(&failing)),
            );
            ask(others).await
        },
        async {
            drive_overflow(Arc::clone(&overflow), queue).await;
            ask(is_overflow).await
        },
    );
    errors.extend(more);

    // A restart that fails cannot be provoked here. The unit test of the rule covers it.
    let mut wanted = alert_names(&rules);
    assert!(wanted.remove("KeenEdgeFilterFailed"));
    let fired = fired(&prometheus).await;
    if fired != wanted {
        errors.push(format!("alerts: {:?} differ", fired.symmetric_difference(&wanted)));
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));

    // The counters equal those of the clients and of Keen.
    for (_, edge) in edges {
        edge.keen.clear_faults();
    }
    for (name, edge) in [("shop", &shop), ("small", &small), ("slow", &slow)] {
        until("no call waits", async || {
            edge.envoy.stat("http.segment.downstream_rq_active").await == 0
        })
        .await;
        until("each response is counted under its status", async || {
            let by_code = format!("keen_edge_responses{{instance=\"{name}\"}}");
            let series = prometheus.query(&by_code).await.into_iter();
            let counted: BTreeMap<u16, u64> =
                series.map(|(labels, n)| (labels["code"].parse().unwrap(), n as u64)).collect();
            counted == *edge.statuses.lock().unwrap()
        })
        .await;
        if name != "small" {
            let delivered = format!("sum(keen_edge_events_delivered{{instance=\"{name}\"}})");
            until("Keen has what is counted as delivered", async || {
                prometheus.value(&delivered).await == edge.keen.events().len() as f64
            })
            .await;
        }
        edge.envoy.no_panic_in_log();
    }
    // The alert ends when its cause has ended.
    assert_eq!(shop.send("unpaid", "/v1/track", track("paid")).await, 200);
    until("the destination is up", async || {
        let firing = "ALERTS{alertname=\"KeenEdgeDestinationDown\",alertstate=\"firing\"}";
        let projects = prometheus.query(firing).await.into_iter();
        projects.filter(|(labels, _)| labels["project"] == UNPAID).count() == 0
    })
    .await;
}
