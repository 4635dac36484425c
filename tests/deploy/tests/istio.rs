//! `deploy/istio` with istioctl, and its patches in a real Envoy.

use deploy::document::commands;
use deploy::envoy::{Envoy, with_local_addresses};
use deploy::generated::{self, read};
use deploy::{fresh_dir, run, tool};
use mock_keen::{MockKeen, Options};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

const FILE: &str = "deploy/istio/envoyfilter.yaml";

/// What `istioctl validate` prints, and whether it succeeds.
fn validate(file: &Path) -> (bool, String) {
    let result = run(Command::new(tool("istioctl")).args(["validate", "-f"]).arg(file));
    (result.succeeded(), result.all_output())
}

/// The command of docs/deploying.md.
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
    // istioctl says of every EnvoyFilter that it depends on Istio's internals, and nothing else of this one.
    let findings: Vec<_> = text.lines().filter(|line| line.trim().starts_with('*')).collect();
    let [finding] = findings[..] else { panic!("{text}") };
    assert!(finding.contains("exposes internal implementation details"), "{text}");
    let mut analyze = Command::new(istioctl);
    analyze.args(["analyze", "--use-kube=false", "--namespace", "istio-system"]);
    let output = run(analyze.arg(harness::root().join(FILE)));
    assert!(output.succeeded(), "{}", output.all_output());
}

/// The patch that mounts the module, in a Deployment such as the gateway's. It needs image volumes.
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

/// istioctl only warns of a mistake inside Envoy's own configuration, so the test above looks for the warning.
#[test]
fn envoyfilter_with_a_misspelt_field_is_reported_by_istioctl() {
    let file = fresh_dir("istio").join("wrong.yaml");
    let wrong = read(FILE).replace("allow_on_headers_stop_iteration", "allow_on_header_stop");
    fs::write(&file, wrong).unwrap();
    let (_, output) = validate(&file);
    assert!(output.contains("unknown field \"allow_on_header_stop\""), "{output}");
}

/// The limits that docs/deploying.md states: a WasmPlugin has no field for what the filter needs.
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

/// Merges as Istio's MERGE does for the fields that the file has: messages are merged, other values replaced.
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

/// A listener as a gateway has it, without the filter, with the patches of the file.
fn patched() -> Value {
    let mut bootstrap = harness::yaml(&generated::envoy_yaml());
    let listener = bootstrap.pointer_mut("/static_resources/listeners/0").unwrap();
    listener.as_object_mut().unwrap().remove("per_connection_buffer_limit_bytes");
    let manager = listener.pointer_mut("/filter_chains/0/filters/0").unwrap();
    let settings = manager["typed_config"].as_object_mut().unwrap();
    for set_by_the_patch in [
        "request_headers_timeout",
        "request_timeout",
        "stream_idle_timeout",
        "http_protocol_options",
        "common_http_protocol_options",
    ] {
        settings.remove(set_by_the_patch);
    }
    settings["http_filters"].as_array_mut().unwrap().remove(0);
    *bootstrap.pointer_mut("/static_resources/clusters").unwrap() = Value::Array(Vec::new());

    let file = harness::yaml(&read(FILE));
    for patch in file["spec"]["configPatches"].as_array().unwrap() {
        let value = &patch["patch"]["value"];
        let operation = patch["patch"]["operation"].as_str().unwrap();
        let listener = "/static_resources/listeners/0";
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0";
        match (patch["applyTo"].as_str().unwrap(), operation) {
            ("CLUSTER", "ADD") => {
                let clusters = bootstrap.pointer_mut("/static_resources/clusters").unwrap();
                clusters.as_array_mut().unwrap().push(value.clone());
            }
            ("LISTENER", "MERGE") => merge(bootstrap.pointer_mut(listener).unwrap(), value),
            ("NETWORK_FILTER", "MERGE") => merge(bootstrap.pointer_mut(manager).unwrap(), value),
            ("HTTP_FILTER", "INSERT_BEFORE") => {
                let manager = bootstrap.pointer_mut(manager).unwrap();
                let filters = manager["typed_config"]["http_filters"].as_array_mut().unwrap();
                let router = filters.iter().position(|f| f["name"] == "envoy.filters.http.router");
                filters.insert(router.unwrap(), value.clone());
            }
            other => panic!("{other:?}"),
        }
    }
    bootstrap
}

#[tokio::test]
async fn envoyfilter_patches_make_an_envoy_that_delivers_an_event() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let mut bootstrap = patched();
    // Keen without TLS, on this machine.
    let cluster = bootstrap.pointer_mut("/static_resources/clusters/0").unwrap();
    let socket = cluster.as_object_mut().unwrap().remove("transport_socket").unwrap();
    assert_eq!(socket["typed_config"]["sni"], "api.keen.io");
    let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    *cluster.pointer_mut(address).unwrap() =
        json!({"address": "127.0.0.1", "port_value": keen.addr().port()});
    let listener = bootstrap.pointer_mut("/static_resources/listeners/0/address/socket_address");
    listener.unwrap()["port_value"] = json!(0);
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = json!(0);
    let text = with_local_addresses(&bootstrap.to_string(), keen.addr());
    let envoy = Envoy::start(&fresh_dir("istio-envoy"), &text).await;
    envoy.ready().await;
    let addr = envoy.listener("segment").await;
    // Larger than Envoy Gateway's and Envoy's smaller defaults, within limits.bodyBytes.
    let name = "x".repeat(300_000);
    let body =
        format!(r#"{{"userId": "u", "event": "Istio", "properties": {{"name": "{name}"}}}}"#);
    for (key, status) in [("writeKey", 200), ("unknown", 200)] {
        let call = reqwest::Client::new().post(format!("http://{addr}/v1/track"));
        let call = call.basic_auth(key, Some("")).body(body.clone()).send().await.unwrap();
        assert_eq!(call.status(), status);
    }
    assert_eq!(keen.events().len(), 1);
    envoy.assert_filter_is_well();
}
