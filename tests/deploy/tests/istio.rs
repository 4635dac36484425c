//! `deploy/istio`, checked with istioctl. Istio's own code applies its patches, and a real Envoy
//! runs the result.

use deploy::document::commands;
use deploy::envoy::{Envoy, with_local_addresses};
use deploy::generated::{self, read};
use deploy::{fresh_dir, run, tool};
use mock_keen::{MockKeen, Options};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

const FILE: &str = "deploy/istio/envoyfilter.yaml";

/// Returns the output of `istioctl validate`, and whether it succeeds.
fn validate(file: &Path) -> (bool, String) {
    let result = run(Command::new(tool("istioctl")).args(["validate", "-f"]).arg(file));
    (result.succeeded(), result.all_output())
}

/// Runs the command of docs/deploying.md.
#[test]
fn envoyfilter_is_valid_for_istioctl_and_has_no_unknown_field() {
    let commands = commands("docs/deploying.md", "## Istio");
    let command = commands.lines().find(|line| line.starts_with("istioctl validate")).unwrap();
    let istioctl = tool("istioctl").to_string_lossy().into_owned();
    let mut bash = Command::new("bash");
    bash.args(["-c", &command.replacen("istioctl", &istioctl, 1)]).current_dir(harness::root());
    let output = run(&mut bash);
    let text = output.all_output();
    assert!(output.succeeded(), "{text}");
    // For every EnvoyFilter istioctl warns that it depends on Istio's internals. There is no other
    // warning.
    let findings: Vec<_> = text.lines().filter(|line| line.trim().starts_with('*')).collect();
    let [finding] = findings[..] else { panic!("{text}") };
    assert!(finding.contains("exposes internal implementation details"), "{text}");
    let mut analyze = Command::new(istioctl);
    analyze.args(["analyze", "--use-kube=false", "--namespace", "istio-system"]);
    let output = run(analyze.arg(harness::root().join(FILE)));
    assert!(output.succeeded(), "{}", output.all_output());
}

/// The patch mounts the module in a Deployment like the gateway's. It needs image volumes.
#[test]
fn gateway_volume_is_a_valid_part_of_a_deployment() {
    let mut deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "istio-ingressgateway"},
        "spec": {
            "selector": {"matchLabels": {"istio": "ingressgateway"}},
            "template": {
                "metadata": {"labels": {"istio": "ingressgateway"}},
                "spec": {"containers": [{"image": "auto"}]},
            },
        },
    });
    let patch = harness::yaml(&read("deploy/istio/gateway-volume.yaml"));
    let container = patch["spec"]["template"]["spec"]["containers"][0].clone();
    let containers = deployment.pointer_mut("/spec/template/spec/containers/0").unwrap();
    merge(containers, &container);
    let spec = deployment.pointer_mut("/spec/template/spec").unwrap();
    spec["volumes"] = patch["spec"]["template"]["spec"]["volumes"].clone();
    let file = fresh_dir("istio-volume").join("deployment.yaml");
    fs::write(&file, deployment.to_string()).unwrap();
    let mut validate = Command::new(tool("kubernetes-validate"));
    validate.args(["--strict", "--kubernetes-version", "1.37.0"]).arg(file);
    let _ = run(&mut validate).expect_success();
    let directory = Path::new(generated::WASM_PATH_IN_VOLUME).parent().unwrap();
    assert_eq!(container["volumeMounts"][0]["mountPath"], directory.to_str().unwrap());
}

/// istioctl only warns about a mistake in Envoy's own configuration, so the test above looks for
/// the warning.
#[test]
fn envoyfilter_with_a_misspelt_field_is_reported_by_istioctl() {
    let file = fresh_dir("istio").join("wrong.yaml");
    let wrong = read(FILE).replace("allow_on_headers_stop_iteration", "allow_on_header_stop");
    fs::write(&file, wrong).unwrap();
    let (_, output) = validate(&file);
    assert!(output.contains("unknown field \"allow_on_header_stop\""), "{output}");
}

/// A WasmPlugin has no field for what the filter needs, as docs/deploying.md says.
#[test]
fn wasm_plugin_cannot_let_the_filter_pause_at_the_headers() {
    let file = fresh_dir("istio-wasm-plugin").join("plugin.yaml");
    let plugin = |extra: &str| {
        format!(
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: keen-edge}}\nspec:\n  \
             url: oci://registry.example.com/keen-edge-filter:0.1.0\n{extra}"
        )
    };
    fs::write(&file, plugin("")).unwrap();
    let (succeeded, output) = validate(&file);
    assert!(succeeded, "{output}");
    for field in ["allowOnHeadersStopIteration: true", "capabilityRestrictionConfig: {}"] {
        fs::write(&file, plugin(&format!("  {field}\n"))).unwrap();
        let (succeeded, output) = validate(&file);
        assert!(!succeeded && output.contains("unknown field"), "{field}: {output}");
    }
}

/// Merges a patch into an object, as kubectl does except for lists.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// A gateway to which the patches apply. All paths except those of Segment's API get 404.
const GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: ingress, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
    - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: not-found, namespace: istio-system}
spec:
  hosts: ["*"]
  gateways: [ingress]
  http:
    - directResponse: {status: 404, body: {string: "Not found\n"}}
"#;

/// Returns what Istio's control plane sends to the gateway's Envoy with the EnvoyFilter.
fn xds_of_istio(dir: &Path) -> Value {
    let gateway = dir.join("gateway.yaml");
    fs::write(&gateway, GATEWAY).unwrap();
    let mut istio = Command::new(tool("istio-config"));
    let output = run(istio.arg(gateway).arg(harness::root().join(FILE))).expect_success();
    // Istio writes its log before it.
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}

/// Returns a bootstrap with these resources, which Envoy can run without a control plane.
fn bootstrap(mut xds: Value, keen: SocketAddr) -> Value {
    let listener = xds["listeners"][0].take();
    let mut listeners = json!([listener]);
    let address = listeners.pointer_mut("/0/address/socket_address").unwrap();
    *address = json!({"address": "127.0.0.1", "port_value": 0});
    let manager = "/0/filter_chains/0/filters/0/typed_config";
    let manager = listeners.pointer_mut(manager).unwrap().as_object_mut().unwrap();
    assert_eq!(manager["rds"]["route_config_name"], xds["routes"][0]["name"]);
    manager.remove("rds");
    manager.insert("route_config".to_owned(), xds["routes"][0].take());
    // Only Istio's own build of Envoy has these.
    let of_istio = |filter: &Value| filter["name"].as_str().unwrap().starts_with("istio.");
    manager["http_filters"].as_array_mut().unwrap().retain(|filter| !of_istio(filter));

    let clusters = xds["clusters"].as_array_mut().unwrap();
    let cluster = clusters.iter_mut().find(|cluster| cluster["name"] == "keen").unwrap();
    let socket = cluster.as_object_mut().unwrap().remove("transport_socket").unwrap();
    assert_eq!(socket["typed_config"]["sni"], "api.keen.io");
    let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    let address = cluster.pointer_mut(address).unwrap();
    assert_eq!(*address, json!({"address": "api.keen.io", "port_value": 443}));
    *address = json!({"address": "127.0.0.1", "port_value": keen.port()});
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": listeners, "clusters": xds["clusters"]},
    })
}

#[tokio::test]
async fn envoyfilter_applied_by_istio_makes_an_envoy_that_delivers_an_event() {
    let dir = fresh_dir("istio-envoy");
    let xds = xds_of_istio(&dir);
    let listener = &xds["listeners"][0];
    assert_eq!(listener["per_connection_buffer_limit_bytes"], 1_048_576);
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(
        (&manager["use_remote_address"], &manager["stream_idle_timeout"]),
        (&json!(true), &json!("15s"))
    );
    let filters = manager["http_filters"].as_array().unwrap();
    let names: Vec<_> = filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
    assert!(names.ends_with(&["keen_edge", "envoy.filters.http.router"]), "{names:?}");

    let keen = MockKeen::start(Options::default()).await.unwrap();
    let text = with_local_addresses(&bootstrap(xds, keen.addr()).to_string(), keen.addr());
    let envoy = Envoy::start(&dir, &text).await;
    envoy.ready().await;
    let addr = envoy.listener("0.0.0.0_8080").await;
    // Larger than Envoy Gateway's default buffer, and within limits.bodyBytes.
    let name = "x".repeat(300_000);
    let body =
        format!(r#"{{"userId": "u", "event": "Istio", "properties": {{"name": "{name}"}}}}"#);
    let client = reqwest::Client::new();
    let call = client.post(format!("http://{addr}/v1/track")).basic_auth("writeKey", Some(""));
    assert_eq!(call.body(body).send().await.unwrap().status(), 200);
    let other = client.get(format!("http://{addr}/other")).send().await.unwrap();
    assert_eq!(other.status(), 404);
    let events = keen.events();
    assert_eq!((events.len(), &*events[0].collection), (1, "Istio"));
    envoy.assert_filter_is_well();
}
