//! `deploy/helm/keen-edge`: the chart, its values and the objects that it renders.

use deploy::generated::read;
use deploy::{
    Background, Finished, Ports, assert_delivers, fresh_dir, keen_edge_program, kubernetes, run,
    tool, wait_until_live,
};
use mock_keen::{MockKeen, Options, PROJECT, Project, WRITE_KEY};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command, time::Duration};

const CHART: &str = "deploy/helm/keen-edge";
const EXAMPLE: &str = "deploy/helm/keen-edge/ci/example-values.yaml";

fn helm(dir: &Path, args: &[&str]) -> Finished {
    let mut command = Command::new(tool("helm"));
    command.current_dir(harness::root()).args(args);
    // Helm's own files stay in the test's directory.
    for (name, place) in
        [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
    {
        command.env(name, dir.join(place));
    }
    run(&mut command)
}

/// Runs `helm template` with these values.
fn template(dir: &Path, values: &Value) -> Finished {
    let file = dir.join("values.json");
    fs::write(&file, values.to_string()).unwrap();
    helm(dir, &["template", "edge", CHART, "--namespace", "edge", "-f", &file.to_string_lossy()])
}

fn example() -> Value {
    harness::yaml(&read(EXAMPLE))
}

/// Returns Envoy's configuration in the rendered ConfigMap.
fn envoy_configuration(rendered: &str) -> String {
    let objects = kubernetes::documents(rendered);
    let map = kubernetes::object(&objects, "ConfigMap", "edge-keen-edge");
    map["data"]["envoy.yaml"].as_str().unwrap().to_owned()
}

#[test]
fn chart_version_is_the_version_of_the_package() {
    let chart = harness::yaml(&read(&format!("{CHART}/Chart.yaml")));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn chart_has_no_findings_of_helm_lint() {
    let dir = fresh_dir("helm-lint");
    let lint = helm(&dir, &["lint", "--strict", CHART, "-f", EXAMPLE]);
    assert!(lint.expect_success().contains("0 chart(s) failed"));
}

#[test]
fn wrong_values_are_refused_by_name() {
    let dir = fresh_dir("helm-values");
    let source = "/sources/writeKey";
    let cases = [
        ("", "sources", json!({}), "sources"),
        (source, "ipAddon", json!("yes"), "ipAddon"),
        (source, "ipAddOn", json!(true), "ipAddOn"),
        (source, "projectId", json!("123"), "projectId"),
        // A Keen write key must not be in the values.
        (source, "writeKey", json!(WRITE_KEY), "writeKey"),
        (source, "secretKey", json!("../other"), "secretKey"),
        ("/filter", "delivery", json!({"holdMs": "7s"}), "holdMs"),
        ("/filter", "pathPrefix", json!("segment"), "pathPrefix"),
        ("/filter", "overflow", json!({"cluster": "sqs"}), "queueUrl"),
        ("", "extraRoutes", json!({}), "extraRoutes"),
        ("/keen", "port", json!(0), "port"),
        ("/service", "type", json!("Public"), "type"),
        ("", "concurency", json!(2), "concurency"),
    ];
    for (place, name, value, mentioned) in cases {
        let mut values = example();
        values["keen"] = json!({});
        values.pointer_mut(place).unwrap()[name] = value.clone();
        let refused = template(&dir, &values).expect_failure();
        assert!(refused.contains("values don't meet the specifications"), "{name}: {refused}");
        assert!(refused.contains(mentioned), "{place}/{name} {value}: {refused}");
    }
    let _ = template(&dir, &example()).expect_success();
}

#[test]
fn rendered_objects_meet_the_schemas_of_kubernetes() {
    let dir = fresh_dir("helm-objects");
    for values in [example(), json!({"sources": example()["sources"]})] {
        let rendered = template(&dir, &values).expect_success();
        kubernetes::validate(&dir, &rendered).unwrap();
        let objects = kubernetes::documents(&rendered);
        let deployment = kubernetes::object(&objects, "Deployment", "edge-keen-edge");
        let pod = &deployment["spec"]["template"]["spec"];
        let budget = kubernetes::object(&objects, "PodDisruptionBudget", "edge-keen-edge");
        assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
        let service = kubernetes::object(&objects, "Service", "edge-keen-edge");
        assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > 25, "the drain takes 25 s");
    }
}

#[test]
fn changed_source_starts_new_pods() {
    let dir = fresh_dir("helm-checksum");
    let checksum = |values: &Value| {
        let objects = kubernetes::documents(&template(&dir, values).expect_success());
        let deployment = kubernetes::object(&objects, "Deployment", "edge-keen-edge");
        deployment["spec"]["template"]["metadata"]["annotations"]["checksum/envoy"].clone()
    };
    let mut changed = example();
    changed["sources"]["writeKey"]["ipAddon"] = json!(false);
    assert_eq!(checksum(&example()), checksum(&example()));
    assert_ne!(checksum(&example()), checksum(&changed));
}

#[test]
fn rendered_configuration_passes_envoy_and_keen_edge_check() {
    let dir = fresh_dir("helm-envoy");
    let keys = dir.join("keys");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("keen_write_key"), WRITE_KEY).unwrap();
    fs::write(keys.join("shop-eu"), WRITE_KEY).unwrap();
    let mut without_tls = example();
    without_tls["listener"]["tlsSecret"] = json!("");
    without_tls["keen"] = json!({"host": "keen.internal", "port": 80, "tls": false});
    let minimal = json!({"sources": example()["sources"]});
    let queue = harness::yaml(&read("deploy/envoy-sqs.yaml"));
    let mut overflow = minimal.clone();
    overflow["filter"] = json!({"overflow": {
        "cluster": "sqs",
        "queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/keen-edge"
    }});
    overflow["extraClusters"] = queue["static_resources"]["clusters"].clone();
    overflow["env"] = json!([{"name": "AWS_REGION", "value": "eu-west-1"}]);
    let mut forward = minimal.clone();
    forward["filter"] = json!({"intercept": "forward"});
    forward["extraClusters"] = json!([cluster("site", 80)]);
    forward["extraRoutes"] = json!([{"match": {"prefix": "/"}, "route": {"cluster": "site"}}]);
    let variants = [
        ("example", example()),
        ("plain", without_tls),
        ("minimal", minimal),
        ("overflow", overflow),
        ("forward", forward),
    ];
    for (name, values) in variants {
        let rendered = template(&dir, &values).expect_success();
        kubernetes::validate(&dir, &rendered).unwrap();
        let text = envoy_configuration(&rendered);
        let file = dir.join(format!("{name}.yaml"));
        fs::write(&file, &text).unwrap();
        let check = run(Command::new(keen_edge_program()).args(["check", "--strict"]).arg(&file));
        assert!(check.succeeded(), "{name}: {}", check.all_output());
        let mut bootstrap = harness::yaml(&local_files(&text, &keys));
        if name == "example" {
            let chain = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
            let tls = chain.as_object_mut().unwrap().remove("transport_socket").unwrap();
            let files = &tls["typed_config"]["common_tls_context"]["tls_certificates"][0];
            assert_eq!(files["private_key"]["filename"], "/etc/keen-edge/tls/tls.key");
        }
        fs::write(&file, bootstrap.to_string()).unwrap();
        let mut validate = Command::new(harness::envoy_path().unwrap());
        let validated = run(validate.args(["--mode", "validate", "-c"]).arg(&file));
        assert!(validated.succeeded(), "{name}: {}", validated.all_output());
    }
}

/// Returns an Envoy cluster for `extraClusters`.
fn cluster(name: &str, port: u16) -> Value {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let endpoint = json!({"endpoint": {"address": address}});
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    })
}

#[test]
fn values_of_the_document_render_a_valid_configuration() {
    let document = read("docs/deploying.md");
    let (_, section) = document.split_once("\n## Helm\n").unwrap();
    let (_, block) = section.split_once("```yaml\n").unwrap();
    let values = harness::yaml(block.split_once("```").unwrap().0);
    let dir = fresh_dir("helm-document");
    let file = dir.join("envoy.yaml");
    fs::write(&file, envoy_configuration(&template(&dir, &values).expect_success())).unwrap();
    let check = run(Command::new(keen_edge_program()).args(["check", "--strict"]).arg(&file));
    assert!(check.succeeded(), "{}", check.all_output());
}

/// Replaces the paths in the pod by paths on this machine.
fn local_files(text: &str, keys: &Path) -> String {
    text.replace("/etc/envoy/keen_edge.wasm", &harness::wasm_path().unwrap().to_string_lossy())
        .replace("/etc/keen-edge/keys", &keys.to_string_lossy())
}

#[tokio::test]
async fn rendered_configuration_delivers_with_the_key_of_each_source() {
    let dir = fresh_dir("helm-run");
    let keys = dir.join("keys");
    fs::create_dir_all(&keys).unwrap();
    let other_key = "C0FFEE".repeat(10);
    let other_project = "5181bcd23843312d87000001";
    fs::write(keys.join("keen_write_key"), WRITE_KEY).unwrap();
    fs::write(keys.join("shop-eu"), &other_key).unwrap();
    let keen = MockKeen::start(Options::default()).await.unwrap();
    keen.add_project(Project::new(other_project, &other_key));
    let ports = Ports::free(keen.addr());
    let values = json!({
        "sources": example()["sources"],
        "keen": {"host": "127.0.0.1", "port": ports.keen, "tls": false}
    });
    let text = envoy_configuration(&template(&dir, &values).expect_success());
    let mut bootstrap = harness::yaml(&local_files(&text, &keys));
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = json!(ports.admin);
    let listeners = &mut bootstrap["static_resources"]["listeners"];
    listeners[0]["address"]["socket_address"]["port_value"] = json!(ports.listener);
    listeners[1]["address"]["socket_address"]["port_value"] = json!(0);
    let file = dir.join("envoy.json");
    fs::write(&file, bootstrap.to_string()).unwrap();
    let mut command = Command::new(harness::envoy_path().unwrap());
    command.arg("-c").arg(&file).args(["--disable-hot-restart", "--concurrency", "1"]);
    let mut envoy = Background::start(&command, &dir.join("envoy.log"));
    wait_until_live(&mut envoy, ports.admin).await;
    assert_delivers(ports.listener, &keen).await;
    let answer = reqwest::Client::new()
        .post(format!("http://127.0.0.1:{}/v1/track", ports.listener))
        .basic_auth("shopWriteKey", Some(""))
        .timeout(Duration::from_secs(20))
        .body(r#"{"userId": "u1", "event": "Bought"}"#)
        .send()
        .await;
    assert_eq!(answer.unwrap().status().as_u16(), 200);
    let key_of = |project: &str| {
        let calls = keen.calls();
        let call = calls.iter().find(|call| call.path.contains(project)).unwrap();
        call.header("authorization").map(str::to_owned)
    };
    assert_eq!(key_of(PROJECT).as_deref(), Some(WRITE_KEY));
    assert_eq!(key_of(other_project), Some(other_key));
}
