//! Scenarios: each starts one server that accepts Segment's requests.

use crate::baselines::Nginx;
use crate::load;
use harness::{Envoy, keen_edge};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

/// The core that servers are pinned to. Everything else runs on the other one.
pub(crate) const SERVER_CORE: u32 = 0;

const FILTERS: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
const ROUTES: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";

/// A running server and its row in the table.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) about: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) pids: Vec<u32>,
    /// Whether a 200 means that Keen has stored the events.
    pub(crate) confirmed: bool,
    pub(crate) _server: Server,
}

#[allow(dead_code, reason = "kept alive until the row is dropped")]
pub(crate) enum Server {
    Envoy(Box<Envoy>),
    Nginx(Nginx),
}

impl Row {
    pub(crate) async fn envoy(
        name: &str,
        about: &'static str,
        upstream: SocketAddr,
        confirmed: bool,
        patch: impl FnOnce(&mut Value) + Send + 'static,
    ) -> Result<Self, String> {
        let builder = Envoy::builder().keen(upstream).log_level("warn").patch(patch);
        let envoy = builder.start().await.map_err(|error| format!("{name}: {error}"))?;
        load::pin(envoy.pid(), SERVER_CORE)?;
        Ok(Self {
            name: name.to_owned(),
            about,
            address: envoy.addr(),
            pids: vec![envoy.pid()],
            confirmed,
            _server: Server::Envoy(Box::new(envoy)),
        })
    }
}

/// Replaces the HTTP filters in front of Envoy's router.
pub(crate) fn filters(bootstrap: &mut Value, filters: Vec<Value>) {
    if let Some(Value::Array(all)) = bootstrap.pointer_mut(FILTERS) {
        let router = all.pop();
        *all = filters.into_iter().chain(router).collect();
    }
}

fn to_upstream(bootstrap: &mut Value) {
    if let Some(routes) = bootstrap.pointer_mut(ROUTES) {
        *routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "keen"}}]);
    }
}

/// Envoy reads the body and answers itself: the lower bound for any filter.
pub(crate) async fn floor(upstream: SocketAddr) -> Result<Row, String> {
    Row::envoy("floor", "Envoy reads the body and answers by itself", upstream, false, |bootstrap| {
        let buffer = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";
        let buffer = json!({"@type": buffer, "max_request_bytes": 1_048_576});
        filters(bootstrap, vec![json!({"name": "buffer", "typed_config": buffer})]);
        if let Some(routes) = bootstrap.pointer_mut(ROUTES) {
            let body = json!({"inline_string": "{\"success\":true}"});
            *routes = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": body}}]);
        }
    })
    .await
}

/// Envoy proxies the request unchanged.
pub(crate) async fn proxy(upstream: SocketAddr) -> Result<Row, String> {
    Row::envoy("proxy", "Envoy proxies the call as it is", upstream, true, |bootstrap| {
        filters(bootstrap, Vec::new());
        to_upstream(bootstrap);
    })
    .await
}

/// The minimal wasm filter: it reads the body and replies.
pub(crate) async fn minimal_filter(upstream: SocketAddr) -> Result<Row, String> {
    minimal_filter_row(
        "wasm-reply",
        "a wasm filter that reads the body and replies",
        upstream,
        false,
    )
    .await
}

/// The minimal wasm filter with a callout per request.
pub(crate) async fn minimal_filter_call(upstream: SocketAddr) -> Result<Row, String> {
    minimal_filter_row(
        "wasm-call",
        "a wasm filter that makes a call for each request, and maps nothing",
        upstream,
        true,
    )
    .await
}

/// With `calls`, the configuration names the cluster to call.
async fn minimal_filter_row(
    name: &str,
    about: &'static str,
    upstream: SocketAddr,
    calls: bool,
) -> Result<Row, String> {
    let wasm = harness::root().join("target/minimal_filter.wasm");
    Row::envoy(name, about, upstream, calls, move |bootstrap| {
        let config = keen_edge(bootstrap);
        config["vm_config"] = json!({"vm_id": "minimal_filter", "runtime": "envoy.wasm.runtime.v8", "code": local(&wasm)});
        let text = if calls { "keen" } else { "" };
        config["configuration"] = json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text});
    })
    .await
}

fn local(wasm: &Path) -> Value {
    json!({"local": {"filename": wasm}})
}

/// keen-edge with the repository's `envoy.yaml`.
pub(crate) async fn keen_edge_row(upstream: SocketAddr) -> Result<Row, String> {
    Row::envoy("keen-edge", "keen-edge, answered after Keen has confirmed", upstream, true, |_| {})
        .await
}

/// Scenarios that stop early. The difference between two of them is the cost of the step between.
pub(crate) const STEPS: [&str; 2] = ["keen-edge-drop", "keen-edge-early"];

/// One of [`STEPS`].
pub(crate) async fn step(name: &str, upstream: SocketAddr) -> Result<Row, String> {
    let drops = name == STEPS[0];
    let about = if drops {
        "keen-edge, unknown write key: the request is parsed and answered, no event"
    } else {
        "keen-edge with delivery.ack: accepted"
    };
    Row::envoy(name, about, upstream, false, move |bootstrap| {
        let Some(config) = keen_edge(bootstrap).pointer_mut("/configuration/value") else { return };
        if drops {
            let source = config["sources"]["writeKey"].take();
            config["sources"] = json!({"anotherKey": source});
        } else {
            config["delivery"]["ack"] = json!("accepted");
        }
    })
    .await
}

/// Another build of the filter: `name=path/to.wasm`.
pub(crate) async fn another_build(upstream: SocketAddr, build: &str) -> Result<Row, String> {
    let (name, path) = build
        .split_once('=')
        .ok_or_else(|| format!("--builds expects name=path, found {build}"))?;
    let wasm = std::path::absolute(path).map_err(|error| format!("{path}: {error}"))?;
    Row::envoy(name, "another build of keen-edge", upstream, true, move |bootstrap| {
        let vm = &mut keen_edge(bootstrap)["vm_config"];
        vm["code"] = local(&wasm);
        // Builds without the SDK read single headers.
        let allowed = &mut vm["capability_restriction_config"]["allowed_capabilities"];
        allowed["proxy_get_header_map_value"] = json!({});
    })
    .await
}

/// keen-edge with changed settings and any number of workers.
pub(crate) async fn keen_edge_with(
    upstream: SocketAddr,
    workers: u32,
    change: impl FnOnce(&mut Value),
) -> Result<Row, String> {
    let mut config = harness::default_config();
    change(&mut config);
    let builder =
        Envoy::builder().keen(upstream).log_level("warn").config(config).concurrency(workers);
    let envoy = builder.start().await.map_err(|error| error.to_string())?;
    // Several workers need several cores.
    if workers == 1 {
        load::pin(envoy.pid(), SERVER_CORE)?;
    } else {
        load::pin_to(envoy.pid(), "0,1")?;
    }
    let (address, pids) = (envoy.addr(), vec![envoy.pid()]);
    let server = Server::Envoy(Box::new(envoy));
    Ok(Row {
        name: "keen-edge".to_owned(),
        about: "",
        address,
        pids,
        confirmed: true,
        _server: server,
    })
}

/// Users stored before the first request: the default maximum.
const USERS: usize = 10_000;

/// keen-edge with `rememberUsers`, and the user of every request in its store.
pub(crate) async fn remembering(upstream: SocketAddr) -> Result<Row, String> {
    let about = "keen-edge with rememberUsers and 10,000 stored users";
    let row = Row::envoy("keen-edge-users", about, upstream, true, |bootstrap| {
        if let Some(source) =
            keen_edge(bootstrap).pointer_mut("/configuration/value/sources/writeKey")
        {
            source["rememberUsers"] = json!(true);
        }
    })
    .await?;
    let data = harness::root().join("benches/data");
    let mut users = Vec::new();
    for case in ["track.json", "batch.json"] {
        let text =
            std::fs::read_to_string(data.join(case)).map_err(|error| format!("{case}: {error}"))?;
        let body: Value =
            serde_json::from_str(&text).map_err(|error| format!("{case}: {error}"))?;
        let messages = body["batch"].as_array().cloned().unwrap_or_else(|| vec![body]);
        users.extend(messages.into_iter().map(|message| message["userId"].clone()));
    }
    let others = USERS.saturating_sub(users.len());
    users.extend((0..others).map(|other| json!(format!("other-{other}"))));
    let client = reqwest::Client::new();
    for users in users.chunks(500) {
        let traits = json!({
            "email": "jane.doe@example.com", "name": "Jane Doe", "plan": "enterprise", "createdAt": "2024-05-06T07:08:09.000Z",
            "address": {"city": "Berlin", "country": "DE"}, "company": {"id": "c-1042", "employees": 420},
        });
        let identify = |user: &Value| json!({"type": "identify", "userId": user, "traits": traits});
        let batch = json!({"batch": users.iter().map(identify).collect::<Vec<_>>()});
        let call = client
            .post(format!("http://{}/v1/batch", row.address))
            .basic_auth("writeKey", Some(""));
        let reply = call.body(batch.to_string()).send().await.map_err(|error| error.to_string())?;
        if !reply.status().is_success() {
            return Err(format!("keen-edge-users: an identify is answered {}", reply.status()));
        }
    }
    Ok(row)
}
