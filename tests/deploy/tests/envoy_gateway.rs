//! `deploy/envoy-gateway` in a real Envoy Gateway, which runs without Kubernetes and starts Envoy itself.
//!
//! Envoy Gateway's own ports are fixed, so everything runs in a network namespace of its own.

use deploy::envoy::until;
use deploy::generated::{WASM_PATH, read};
use deploy::{Background, fresh_dir, run, tool};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// A network namespace with its own loopback. Processes of it end with this value.
struct Namespace {
    process: Background,
    is_root: bool,
}

impl Namespace {
    async fn new(dir: &Path) -> Self {
        let mut unshare = Command::new("unshare");
        unshare.arg("--net");
        let is_root = run(Command::new("id").arg("-u")).expect_success().trim() == "0";
        if !is_root {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.args(["bash", "-c", "ip link set lo up && echo ready && exec sleep infinity"]);
        let mut process = Background::start(&unshare, &dir.join("namespace.log"));
        // It needs root, or a kernel that lets users make namespaces, and iproute2's `ip`.
        process.logs("ready", std::time::Duration::from_secs(30)).await;
        Self { process, is_root }
    }

    /// A command that runs inside.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        if !self.is_root {
            command.args(["--preserve-credentials", "--user"]);
        }
        command
            .args(["--net", "--target"])
            .arg(self.process.pid().to_string())
            .arg("--")
            .arg(program);
        command
    }

    /// The status and the body of a request. The status is 0 if there is no response.
    fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let mut command = self.command("curl");
        command.args(["--silent", "--max-time", "10", "--write-out", "\n%{http_code}"]);
        let output = run(command.args(arguments)).stdout();
        let (body, status) = output.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), body.to_owned())
    }
}

/// The documents of the files in `deploy/envoy-gateway`, with what differs on this machine.
fn resources() -> String {
    let wasm = harness::wasm_path().unwrap();
    let proxy = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {name: eg, namespace: default}\n\
                 spec: {provider: {type: Host, host: {envoyVersion: 1.40.0}}}\n";
    let gateway = read("deploy/envoy-gateway/gateway.yaml");
    let documents = gateway.split("\n---\n").map(|document| {
        let is_proxy = document.lines().any(|line| line == "kind: EnvoyProxy");
        if is_proxy { proxy } else { document }
    });
    let documents = documents.collect::<Vec<_>>().join("\n---\n");
    let policies = read("deploy/envoy-gateway/keen-edge.yaml");
    let (before, rest) = policies.split_once("          transport_socket:\n").expect("Keen's TLS");
    let (_, after) = rest.split_once("          typed_extension_protocol_options:").unwrap();
    let policies = format!("{before}          typed_extension_protocol_options:{after}")
        .replace("address: api.keen.io, port_value: 443", "address: 127.0.0.1, port_value: 8089")
        .replace(WASM_PATH, &wasm.to_string_lossy());
    format!("{documents}\n---\n{policies}")
}

/// Envoy Gateway's own configuration: docs/deploying.md's setting, and a provider without Kubernetes.
fn envoy_gateway_yaml(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\n\
         gateway: {{controllerName: gateway.envoyproxy.io/gatewayclass-controller}}\n\
         provider:\n  type: Custom\n  custom:\n    resource: {{type: File, file: {{paths: [\"{dir}/resources\"]}}}}\n    \
         infrastructure:\n      type: Host\n      host: {{configHome: {dir}/config, dataHome: {dir}/data, \
         stateHome: {dir}/state, runtimeDir: {dir}/run}}\n\
         extensionApis: {{enableEnvoyPatchPolicy: true}}\n"
    )
}

/// The admin address that Envoy Gateway's Envoy wrote below `runtimeDir`.
fn admin(dir: &Path) -> String {
    let runs = fs::read_dir(dir.join("run")).unwrap();
    let files = runs.map(|run| run.unwrap().path().join("admin-address.txt"));
    let texts: Vec<_> = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    texts.last().expect("Envoy's admin address").trim().to_owned()
}

#[tokio::test]
async fn envoy_gateway_with_the_patch_policy_delivers_an_event() {
    let envoy_gateway = tool("envoy-gateway");
    let dir = fresh_dir("envoy-gateway");
    for name in ["resources", "config", "state", "run", "data/envoy-versions/1.40.0/bin"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    // Where func-e, which Envoy Gateway uses, looks for an Envoy before it downloads one.
    let envoy = harness::envoy_path().unwrap();
    symlink(envoy, dir.join("data/envoy-versions/1.40.0/bin/envoy")).unwrap();
    fs::write(dir.join("resources/all.yaml"), resources()).unwrap();
    fs::write(dir.join("envoy-gateway.yaml"), envoy_gateway_yaml(&dir)).unwrap();

    let namespace = Namespace::new(&dir).await;
    let _keen = Background::start(
        &namespace.command(env!("CARGO_BIN_EXE_mock_keen_on_8089")),
        &dir.join("keen.log"),
    );
    let mut certgen = namespace.command(&envoy_gateway);
    certgen.args(["certgen", "--local", "--config-home"]).arg(dir.join("config"));
    let _ = run(&mut certgen).expect_success();
    let mut server = namespace.command(&envoy_gateway);
    server.args(["server", "--config-path"]).arg(dir.join("envoy-gateway.yaml"));
    // An address without a server, so that nothing is downloaded.
    server.env("ENVOY_VERSIONS_URL", "http://127.0.0.1:9/envoy-versions.json");
    let server = Background::start(&server, &dir.join("envoy-gateway.log"));

    let track = ["--user", "writeKey:", "http://127.0.0.1:8888/v1/track", "--data"];
    let event = r#"{"userId": "u", "event": "Gateway"}"#;
    until("Envoy Gateway's Envoy takes a call", async || {
        (namespace.curl(&[&track[..], &[event]].concat()).0 == 200).then_some(())
    })
    .await;
    let (_, events) = namespace.curl(&["http://127.0.0.1:8089/_mock/events"]);
    let events: Value = serde_json::from_str(&events).unwrap();
    assert_eq!(
        (events.as_array().unwrap().len(), &events[0]["collection"]),
        (1, &"Gateway".into())
    );
    // Larger than Envoy Gateway's default buffer of 32 KiB.
    let large = dir.join("large.json");
    let name = "x".repeat(300_000);
    let batch = format!(
        r#"{{"batch": [{{"type": "track", "userId": "u", "event": "Large", "properties": {{"n": "{name}"}}}}]}}"#
    );
    fs::write(&large, batch).unwrap();
    let data = format!("@{}", large.display());
    let batch = ["--user", "writeKey:", "http://127.0.0.1:8888/v1/batch", "--data-binary", &data];
    assert_eq!(namespace.curl(&batch).0, 200);
    // HTTP/1.0 and an offer of TLS, which Envoy refuses by default.
    let old = ["--http1.0", "--header", "Upgrade: TLS/1.2", "--header", "Connection: Upgrade"];
    assert_eq!(namespace.curl(&[&old[..1], &track[..], &[event]].concat()).0, 200);
    assert_eq!(namespace.curl(&[&old[1..], &track[..], &[event]].concat()).0, 200);
    // Everything else goes to the routes.
    assert_eq!(namespace.curl(&["http://127.0.0.1:8888/other"]), (404, "Not found\n".to_owned()));

    let dump = format!("http://{}/config_dump", admin(&dir));
    let (_, dump) = namespace.curl(&[&dump]);
    let listener = listener(&serde_json::from_str(&dump).unwrap());
    assert_eq!(listener["per_connection_buffer_limit_bytes"], 1_048_576);
    let manager = &listener["default_filter_chain"]["filters"][0]["typed_config"];
    assert_eq!(manager["use_remote_address"], true);
    assert_eq!(manager["stream_idle_timeout"], "15s");
    let filters = manager["http_filters"].as_array().unwrap();
    assert_eq!(filters[0]["name"], "keen_edge");
    let log = server.log();
    assert!(log.contains("Programmed") && !log.contains("panicked"), "{log}");
}

/// The listener of the Gateway in a config dump.
fn listener(dump: &Value) -> Value {
    let configs = dump["configs"].as_array().unwrap();
    let listeners = configs.iter().filter_map(|config| config["dynamic_listeners"].as_array());
    let mut listeners = listeners.flatten().map(|listener| &listener["active_state"]["listener"]);
    listeners.find(|listener| listener["name"] == "default/eg/http").expect("the listener").clone()
}
