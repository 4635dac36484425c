//! `deploy/envoy-gateway` in a real Envoy Gateway, which runs without Kubernetes and starts Envoy
//! itself.
//!
//! Envoy Gateway's own ports are fixed, so everything runs in a network namespace.

use deploy::envoy::{PATIENCE, until};
use deploy::generated::{self, WASM_PATH_IN_VOLUME, read};
use deploy::{Background, fresh_dir, run, tool};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A network namespace with its own loopback, and a mount namespace. The root directory is this
/// machine's, with `/certs` and another `/etc/hosts`. Dropping the value ends the processes in it.
struct Namespace {
    process: Background,
    is_root: bool,
}

/// Script that makes the root directory, with what Envoy Gateway only has in Kubernetes: the
/// certificates in `/certs`, and its own address.
const ENTER: &str = r#"
set -e
ip link set lo up
mkdir root certs
mount -t tmpfs none root
for entry in /*; do
  name="${entry#/}"
  if [ -L "$entry" ]; then cp -a "$entry" "root/$name"
  elif [ -d "$entry" ]; then mkdir "root/$name" && mount --rbind "$entry" "root/$name"
  fi
done
mkdir root/certs
mount --bind certs root/certs
cat /etc/hosts >hosts
echo "127.0.0.1 envoy-gateway.envoy-gateway-system.svc.cluster.local" >>hosts
mount --bind hosts root/etc/hosts
exec chroot root bash -c "echo ready; exec sleep infinity"
"#;

impl Namespace {
    async fn new(dir: &Path) -> Self {
        let is_root = run(Command::new("id").arg("-u")).expect_success().trim() == "0";
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount"]).current_dir(dir);
        if !is_root {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.args(["bash", "-c", ENTER]);
        let mut process = Background::start(&unshare, &dir.join("namespace.log"));
        // Namespaces need root, or a kernel that lets users make them, and iproute2's `ip`.
        process.logs("ready", Duration::from_secs(30)).await;
        Self { process, is_root }
    }

    /// Returns a command that runs in the namespace.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        if !self.is_root {
            command.args(["--preserve-credentials", "--user"]);
        }
        command
            .args(["--net", "--mount", "--root", "--target"])
            .arg(self.process.pid().to_string())
            .args(["--", "env", "--chdir=/"])
            .arg(program);
        command
    }

    /// Returns the status and the body of a response. The status is 0 if there is none.
    fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let mut command = self.command("curl");
        command.args(["--silent", "--max-time", "10", "--write-out", "\n%{http_code}"]);
        let output = run(command.args(arguments)).stdout();
        let (body, status) = output.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), body.to_owned())
    }
}

/// The registry of the test.
const REGISTRY: &str = "127.0.0.1:5000";

/// The provider of an EnvoyProxy for this machine instead of Kubernetes.
const HOST: &str = "    type: Host\n    host: {envoyVersion: 1.40.0}\n";

/// Returns the files with patches, changed for this machine.
fn patch_policy() -> String {
    let gateway = read("deploy/envoy-gateway/gateway.yaml");
    let (before, rest) = gateway.split_once("    type: Kubernetes\n").expect("the provider");
    let (_, after) = rest.split_once("---\n").expect("the next document");
    let policies = read("deploy/envoy-gateway/keen-edge.yaml");
    let keen = generated::block(&policies, "transport_socket:");
    let keen = generated::indented(&keen, 10);
    assert!(policies.contains(&keen), "{policies}");
    let policies = policies
        .replace(&keen, "")
        .replace("address: api.keen.io, port_value: 443", "address: 127.0.0.1, port_value: 8089")
        .replace(WASM_PATH_IN_VOLUME, &harness::wasm_path().unwrap().to_string_lossy());
    // The EnvoyProxy for Kubernetes has no effect here, but Envoy Gateway checks its fields.
    // Without Kubernetes it uses the last EnvoyProxy of a file.
    let kubernetes = gateway.split("---\n").find(|document| document.contains("envoyDeployment:"));
    let kubernetes = kubernetes.expect("the EnvoyProxy").replace("  name: eg\n", "  name: other\n");
    format!("{kubernetes}---\n{before}{HOST}---\n{after}---\n{policies}")
}

/// Returns the file without patches, changed for this machine: its registry and Keen.
fn extension_policy() -> String {
    let text = read("deploy/envoy-gateway/extension-policy.yaml");
    let keen = "    - fqdn: {hostname: api.keen.io, port: 443}\n";
    let tls = "  tls:\n    wellKnownCACertificates: System\n    sni: api.keen.io\n";
    assert!(text.contains(keen) && text.contains(tls), "{text}");
    text.replace("    type: Kubernetes\n", HOST)
        .replace("registry.example.com", REGISTRY)
        .replace(keen, "    - ip: {address: 127.0.0.1, port: 8089}\n")
        .replace(tls, "")
}

/// Pushes the image with only the filter, as deploy/container/Dockerfile.filter makes it.
fn push_filter(namespace: &Namespace, dir: &Path) {
    let files = dir.join("image");
    fs::create_dir(&files).unwrap();
    fs::copy(harness::wasm_path().unwrap(), files.join("plugin.wasm")).unwrap();
    let layer = dir.join("layer.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&layer).arg("-C").arg(&files).arg("plugin.wasm");
    let _ = run(&mut tar).expect_success();
    let mut crane = namespace.command(tool("crane"));
    let image = format!("{REGISTRY}/keen-edge-filter:0.1.0");
    crane
        .args(["append", "--oci-empty-base", "--new_layer"])
        .arg(layer)
        .args(["--new_tag", &image]);
    let _ = run(&mut crane).expect_success();
}

/// Creates the secret `envoy`. In Kubernetes `certgen` makes it; without Kubernetes only its files
/// exist.
fn secret(certificates: &Path) -> String {
    let file = |name: &str| {
        let base64 = run(Command::new("base64").args(["-w", "0"]).arg(certificates.join(name)));
        format!("{name}: {}", base64.expect_success().trim())
    };
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: envoy, namespace: envoy-gateway-system}}\n\
         type: kubernetes.io/tls\ndata: {{{}, {}, {}}}\n",
        file("ca.crt"),
        file("tls.crt"),
        file("tls.key")
    )
}

/// Returns Envoy Gateway's own configuration: the setting of docs/deploying.md, and a provider
/// without Kubernetes.
fn envoy_gateway_yaml(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\n\
         gateway: {{controllerName: gateway.envoyproxy.io/gatewayclass-controller}}\n\
         provider:\n  type: Custom\n  custom:\n    resource: {{type: File, file: {{paths: [\"{dir}/resources\"]}}}}\n    \
         infrastructure:\n      type: Host\n      host: {{configHome: {dir}/config, dataHome: {dir}/data, \
         stateHome: {dir}/state, runtimeDir: {dir}/run}}\n\
         extensionApis: {{enableEnvoyPatchPolicy: true, enableBackend: true}}\n"
    )
}

/// Returns the admin address that Envoy Gateway's Envoy wrote below `runtimeDir`.
fn admin(dir: &Path) -> String {
    let runs = fs::read_dir(dir.join("run")).unwrap();
    let files = runs.map(|run| run.unwrap().path().join("admin-address.txt"));
    let texts: Vec<_> = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    texts.last().expect("Envoy's admin address").trim().to_owned()
}

/// Envoy Gateway with its Envoy and the mock Keen, in a namespace.
struct Setup {
    dir: PathBuf,
    namespace: Namespace,
    server: Background,
    _others: [Background; 2],
}

impl Setup {
    /// Starts everything. `resources` gets the directory of the certificates.
    async fn start(name: &str, resources: impl FnOnce(&Path) -> String) -> Self {
        let envoy_gateway = tool("envoy-gateway");
        let dir = fresh_dir(name);
        for name in ["resources", "config", "state", "run", "data/envoy-versions/1.40.0/bin"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        // Envoy Gateway uses func-e, which looks for an Envoy here before it downloads one.
        let envoy = harness::envoy_path().unwrap();
        symlink(envoy, dir.join("data/envoy-versions/1.40.0/bin/envoy")).unwrap();
        fs::write(dir.join("envoy-gateway.yaml"), envoy_gateway_yaml(&dir)).unwrap();

        let namespace = Namespace::new(&dir).await;
        let keen = namespace.command(env!("CARGO_BIN_EXE_mock_keen_on_8089"));
        let keen = Background::start(&keen, &dir.join("keen.log"));
        let mut registry = namespace.command(tool("crane"));
        registry.args(["registry", "serve", "--address", REGISTRY]);
        let mut registry = Background::start(&registry, &dir.join("registry.log"));
        registry.logs("serving on", PATIENCE).await;
        push_filter(&namespace, &dir);
        let mut certgen = namespace.command(&envoy_gateway);
        certgen.args(["certgen", "--local", "--config-home"]).arg(dir.join("config"));
        let _ = run(&mut certgen).expect_success();
        let certificates = dir.join("config/certs/envoy");
        for name in ["ca.crt", "tls.crt", "tls.key"] {
            fs::copy(certificates.join(name), dir.join("certs").join(name)).unwrap();
        }
        fs::write(dir.join("resources/all.yaml"), resources(&certificates)).unwrap();
        let mut server = namespace.command(&envoy_gateway);
        server.args(["server", "--config-path"]).arg(dir.join("envoy-gateway.yaml"));
        // There is no server at this address, so nothing is downloaded.
        server.env("ENVOY_VERSIONS_URL", "http://127.0.0.1:9/envoy-versions.json");
        let server = Background::start(&server, &dir.join("envoy-gateway.log"));
        Self { dir, namespace, server, _others: [keen, registry] }
    }

    /// Sends calls of the kinds that the limits are for, and waits until Keen has their events.
    async fn assert_delivers(&self) {
        let Self { dir, namespace, .. } = self;
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
        let batch =
            ["--user", "writeKey:", "http://127.0.0.1:8888/v1/batch", "--data-binary", &data];
        assert_eq!(namespace.curl(&batch).0, 200);
        // HTTP/1.0 and an offer of TLS. Envoy refuses both by default.
        let old = ["--http1.0", "--header", "Upgrade: TLS/1.2", "--header", "Connection: Upgrade"];
        assert_eq!(namespace.curl(&[&old[..1], &track[..], &[event]].concat()).0, 200);
        assert_eq!(namespace.curl(&[&old[1..], &track[..], &[event]].concat()).0, 200);
        // All other paths go to the routes.
        assert_eq!(
            namespace.curl(&["http://127.0.0.1:8888/other"]),
            (404, "Not found\n".to_owned())
        );
    }

    /// Returns the HTTP connection manager of the Gateway's listener. Asserts its buffer limit.
    fn http_connection_manager(&self) -> Value {
        let url = format!("http://{}/config_dump", admin(&self.dir));
        let (_, dump) = self.namespace.curl(&[&url]);
        let listener = listener(&serde_json::from_str(&dump).unwrap());
        assert_eq!(listener["per_connection_buffer_limit_bytes"], 1_048_576);
        listener["default_filter_chain"]["filters"][0]["typed_config"].clone()
    }
}

fn filter_names(manager: &Value) -> Vec<&str> {
    let filters = manager["http_filters"].as_array().unwrap();
    filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn envoy_gateway_with_the_patch_policy_delivers_an_event() {
    let setup = Setup::start("envoy-gateway-patch", |_| patch_policy()).await;
    setup.assert_delivers().await;
    let manager = setup.http_connection_manager();
    assert_eq!(manager["use_remote_address"], true);
    assert_eq!(manager["stream_idle_timeout"], "15s");
    assert_eq!(filter_names(&manager), ["keen_edge", "envoy.filters.http.router"]);
    assert!(!setup.server.log().contains("panicked"), "{}", setup.server.log());
}

/// Without patches the filter cannot hold the headers of a request. Envoy's buffer filter after it
/// does.
#[tokio::test]
async fn envoy_gateway_with_the_extension_policy_alone_delivers_an_event() {
    let setup = Setup::start("envoy-gateway-extension", |certificates| {
        extension_policy() + &secret(certificates)
    });
    let setup = setup.await;
    setup.assert_delivers().await;
    let manager = setup.http_connection_manager();
    assert_eq!(manager["use_remote_address"], true);
    let [wasm, buffer, router] = filter_names(&manager)[..] else { panic!("{manager}") };
    assert!(wasm.starts_with("envoy.filters.http.wasm/"), "{wasm}");
    assert_eq!((buffer, router), ("envoy.filters.http.buffer", "envoy.filters.http.router"));
    assert!(!setup.server.log().contains("panicked"), "{}", setup.server.log());
}

/// Envoy Gateway checks each field, even in files that it does not use here.
#[tokio::test]
async fn envoy_gateway_refuses_files_with_a_misspelt_field() {
    let wrong = patch_policy().replace("volumeMounts:", "volumeMount:");
    let mut setup = Setup::start("envoy-gateway-wrong", |_| wrong).await;
    setup.server.logs("unknown field", PATIENCE).await;
}

/// Returns the listener of the Gateway in a config dump.
fn listener(dump: &Value) -> Value {
    let configs = dump["configs"].as_array().unwrap();
    let listeners = configs.iter().filter_map(|config| config["dynamic_listeners"].as_array());
    let mut listeners = listeners.flatten().map(|listener| &listener["active_state"]["listener"]);
    listeners.find(|listener| listener["name"] == "default/eg/http").expect("the listener").clone()
}
