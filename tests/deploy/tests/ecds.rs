//! Configuration from files that Envoy reads again: ECDS and LDS. Runs the commands of
//! docs/operating.md.

use deploy::document::commands;
use deploy::envoy::{Envoy, PATIENCE, move_into_place, until, with_local_addresses};
use deploy::generated::read;
use deploy::load::Load;
use deploy::{fresh_dir, run};
use mock_keen::{MockKeen, Options};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, process::Command, process::Stdio, time::Duration};

/// A file of `deploy/` with which Envoy reads a part of its configuration from another file.
struct Discovery {
    bootstrap: &'static str,
    resource: &'static str,
    /// The directory of the resource on a production machine.
    directory: &'static str,
    /// The names of Envoy's counters.
    applied: &'static str,
    rejected: &'static str,
    /// The status of a call with an unknown key, on a connection that was opened before such calls
    /// were answered 400.
    open_connection_after_edit: u16,
}

const ECDS: Discovery = Discovery {
    bootstrap: "deploy/ecds/envoy.yaml",
    resource: "deploy/ecds/filter/keen_edge.yaml",
    directory: "/etc/envoy/filter",
    applied: "extension_config_discovery.http_filter.keen_edge.config_reload",
    rejected: "extension_config_discovery.http_filter.keen_edge.config_fail",
    open_connection_after_edit: 400,
};

const LDS: Discovery = Discovery {
    bootstrap: "deploy/lds/envoy.yaml",
    resource: "deploy/lds/listeners/segment.yaml",
    directory: "/etc/envoy/listeners",
    applied: "listener_manager.lds.update_success",
    rejected: "listener_manager.lds.update_rejected",
    open_connection_after_edit: 200,
};

struct TestEnv {
    envoy: Envoy,
    keen: MockKeen,
    addr: SocketAddr,
    dir: PathBuf,
    resource: PathBuf,
}

impl TestEnv {
    /// Starts Envoy with the files of `deploy/`. `change` changes the resource.
    async fn start(
        name: &str,
        discovery: &Discovery,
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let dir = fresh_dir(name);
        let keen = MockKeen::start(Options::default()).await.unwrap();
        let watched = dir.join("watched");
        fs::create_dir(&watched).unwrap();
        let resource = watched.join(Path::new(discovery.resource).file_name().unwrap());
        let mut text = with_local_addresses(&read(discovery.resource), keen.addr());
        if discovery.bootstrap == LDS.bootstrap {
            // For Envoy a listener with another port is another listener. It updates one on port 0.
            let port = format!("port_value: {}", deploy::free_port());
            text = text.replacen("port_value: 0", &port, 1);
        }
        fs::write(&resource, change(text)).unwrap();
        let bootstrap = with_local_addresses(&read(discovery.bootstrap), keen.addr())
            .replace(discovery.directory, &watched.to_string_lossy());
        let envoy = Envoy::start(&dir, &bootstrap).await;
        let addr = envoy.listener("segment").await;
        Self { envoy, keen, addr, dir, resource }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.resource).unwrap()
    }

    /// Returns the status of a track call on a new connection.
    async fn track(&self, key: &str, event: &str) -> u16 {
        self.track_with(&reqwest::Client::new(), key, event).await
    }

    /// Returns the status of a track call of this client, which keeps its connection.
    async fn track_with(&self, client: &reqwest::Client, key: &str, event: &str) -> u16 {
        let body = format!(r#"{{"userId": "u", "event": "{event}"}}"#);
        let url = format!("http://{}/v1/track", self.addr);
        let call = client.post(url).basic_auth(key, Some("")).body(body);
        call.send().await.map_or(0, |response| response.status().as_u16())
    }

    /// Waits until all workers reject a write key that is not configured.
    async fn in_force(&self) {
        until("the new configuration is in force", async || {
            for _ in 0..8 {
                if self.track("unknown", "x").await != 400 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Runs the commands of docs/operating.md that edit the file. `sed` is the editor's command.
    async fn edit_as_documented(&self, sed: &str) -> (bool, String) {
        let editor = self.dir.join("editor");
        fs::write(&editor, format!("#!/bin/sh\nexec sed -i -E '{sed}' \"$1\"\n")).unwrap();
        let _ = run(Command::new("chmod").arg("+x").arg(&editor)).expect_success();
        let name = self.resource.file_name().unwrap().to_string_lossy();
        let script = commands("docs/operating.md", "### Changing the configuration")
            .replace(ECDS.directory, &self.resource.parent().unwrap().to_string_lossy())
            .replace("keen_edge.yaml", &name)
            .replace("127.0.0.1:9901", &self.envoy.admin().to_string());
        assert!(script.contains(&*name));
        let path = format!("{}:{}", keen_edge().display(), std::env::var("PATH").unwrap());
        let mut command = tokio::process::Command::new("bash");
        command
            .args(["-e", "-o", "pipefail", "-c", &script])
            .env("EDITOR", &editor)
            .env("PATH", path);
        let output = command.stdin(Stdio::null()).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

/// Returns the directory of the program `keen-edge`. Builds it if needed, with the features of
/// `make test`, so that its build is reused.
fn keen_edge() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--workspace", "--bin", "keen-edge"]);
    build.args(["clients", "deploy", "facade"].map(|name| format!("--exclude={name}")));
    let _ = run(build.current_dir(harness::root())).expect_success();
    let test = std::env::current_exe().unwrap();
    // target/debug/deps/<this test>
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

const REJECT_UNKNOWN: &str = "s/unknownSource: accept/unknownSource: reject/";
const WRONG_PROJECT: &str = "s/5181bcd23843312d87000000/5181bcd2/";

async fn edit_takes_effect_without_a_failed_call(name: &str, discovery: &Discovery) {
    let env = TestEnv::start(name, discovery, |text| text).await;
    let load = Load::start(env.addr);
    load.further(50).await;
    assert_eq!(env.track("unknown", "x").await, 200);
    let connected = reqwest::Client::new();
    assert_eq!(env.track_with(&connected, "unknown", "x").await, 200);

    let (succeeded, output) = env.edit_as_documented(REJECT_UNKNOWN).await;
    assert!(succeeded, "{output}");
    env.in_force().await;
    assert_eq!(
        env.track_with(&connected, "unknown", "x").await,
        discovery.open_connection_after_edit
    );
    load.further(200).await;

    // The check names the mistake, and the file is not replaced.
    let (succeeded, output) = env.edit_as_documented(WRONG_PROJECT).await;
    assert!(!succeeded && output.contains("/projectId"), "{output}");
    // If the file is replaced anyway, Envoy rejects it.
    let good = env.text();
    let rejected = env.envoy.stat(discovery.rejected).await;
    move_into_place(&env.resource, &good.replace("5181bcd23843312d87000000", "5181bcd2"));
    until("Envoy rejects the configuration", async || {
        (env.envoy.stat(discovery.rejected).await > rejected).then_some(())
    })
    .await;
    let reason = "/sources/writ…/projectId: must be 24 hexadecimal characters, found 8";
    assert!(env.envoy.log().contains(reason), "{}", env.envoy.log());
    load.further(200).await;
    assert_eq!(env.track("unknown", "x").await, 400, "the old configuration is in force");

    // A correct file takes effect afterwards.
    let applied = env.envoy.stat(discovery.applied).await;
    move_into_place(&env.resource, &good.replace("name: example", "name: renamed"));
    until("Envoy applies the configuration", async || {
        (env.envoy.stat(discovery.applied).await > applied).then_some(())
    })
    .await;
    load.further(200).await;
    let calls = load.stop().await;
    env.envoy.assert_filter_is_well();
    until("Keen has each call's event", async || {
        (env.keen.events().len() as u64 == calls).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ecds_edit_under_load_takes_effect_without_a_failed_call() {
    edit_takes_effect_without_a_failed_call("ecds-edit", &ECDS).await;
}

#[tokio::test]
async fn lds_edit_under_load_takes_effect_without_a_failed_call() {
    edit_takes_effect_without_a_failed_call("lds-edit", &LDS).await;
}

/// Kubernetes replaces the link `..data` when a ConfigMap changes; the file itself is never moved.
#[tokio::test]
async fn ecds_file_of_a_configmap_takes_effect_when_the_link_is_replaced() {
    let env = TestEnv::start("ecds-configmap", &ECDS, |text| text).await;
    let watched = env.resource.parent().unwrap();
    // The volume as the kubelet lays it out: file -> ..data/file, ..data -> ..<time>.
    let publish = |version: &str, text: &str| {
        fs::create_dir(watched.join(version)).unwrap();
        fs::write(watched.join(version).join("keen_edge.yaml"), text).unwrap();
        std::os::unix::fs::symlink(version, watched.join("..data_tmp")).unwrap();
        fs::rename(watched.join("..data_tmp"), watched.join("..data")).unwrap();
    };
    let text = env.text();
    publish("..2026_01_01", &text);
    fs::remove_file(&env.resource).unwrap();
    std::os::unix::fs::symlink("..data/keen_edge.yaml", &env.resource).unwrap();
    let load = Load::start(env.addr);
    load.further(20).await;
    publish("..2026_01_02", &text.replace("unknownSource: accept", "unknownSource: reject"));
    env.in_force().await;
    load.further(20).await;
    load.stop().await;
    env.envoy.assert_filter_is_well();
}

/// With ECDS, Envoy starts although the filter rejects its configuration, and answers 500 until
/// there is a correct one.
#[tokio::test]
async fn ecds_file_that_is_wrong_at_start_answers_500_until_it_is_corrected() {
    let wrong = |text: String| text.replace("5181bcd23843312d87000000", "5181bcd2");
    let env = TestEnv::start("ecds-wrong", &ECDS, wrong).await;
    env.envoy.ready().await;
    assert_eq!(env.track("writeKey", "early").await, 500);
    assert!(
        env.envoy.log().contains("/sources/writ…/projectId: must be 24 hexadecimal characters")
    );
    move_into_place(&env.resource, &env.text().replace("5181bcd2", "5181bcd23843312d87000000"));
    until("calls are answered", async || {
        (env.track("writeKey", "late").await == 200).then_some(())
    })
    .await;
    env.envoy.assert_filter_is_well();
}

/// With LDS, Envoy starts without the listener. Clients are refused until there is a correct file.
#[tokio::test]
async fn lds_file_that_is_wrong_at_start_refuses_connections_until_it_is_corrected() {
    let dir = fresh_dir("lds-wrong");
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let resource = dir.join("watched/segment.yaml");
    fs::create_dir(dir.join("watched")).unwrap();
    let good = with_local_addresses(&read(LDS.resource), keen.addr());
    fs::write(&resource, good.replace("5181bcd23843312d87000000", "5181bcd2")).unwrap();
    let watched = resource.parent().unwrap().to_string_lossy();
    let bootstrap = read(LDS.bootstrap).replace(LDS.directory, &watched);
    let envoy = Envoy::start(&dir, &with_local_addresses(&bootstrap, keen.addr())).await;
    envoy.ready().await;
    assert!(envoy.log().contains("/sources/writ…/projectId: must be 24 hexadecimal characters"));
    let (_, listeners) = envoy.admin_get("/listeners").await.unwrap();
    assert_eq!(listeners.trim(), "");
    move_into_place(&resource, &good);
    let addr = envoy.listener("segment").await;
    assert_eq!(track(addr).await, 200);
}

/// A new module is a new file with a new name. The configuration then has the new name.
#[tokio::test]
async fn ecds_new_module_takes_effect_without_a_failed_call() {
    let env = TestEnv::start("ecds-module", &ECDS, |text| text).await;
    let load = Load::start(env.addr);
    load.further(50).await;
    let old = harness::wasm_path().unwrap();
    let mut module = fs::read(&old).unwrap();
    // An empty custom section gives the module another checksum: id, size, length of its name,
    // name.
    module.extend([0, 2, 1, b'x']);
    let new = env.dir.join("keen_edge-2.wasm");
    fs::write(&new, module).unwrap();
    let text = env.text().replace(&*old.to_string_lossy(), &new.to_string_lossy());
    move_into_place(&env.resource, &text.replace("unknownSource: accept", "unknownSource: reject"));
    env.in_force().await;
    load.further(100).await;
    load.stop().await;
    assert_eq!(env.envoy.stat(ECDS.rejected).await, 0);
    env.envoy.assert_filter_is_well();
}

/// A server with one file, which does not exist before `release`.
struct FileServer {
    addr: SocketAddr,
    body: std::sync::Arc<std::sync::Mutex<Option<Vec<u8>>>>,
}

impl FileServer {
    async fn start(body: Option<Vec<u8>>) -> Self {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let body = std::sync::Arc::new(std::sync::Mutex::new(body));
        let served = body.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let body = served.lock().unwrap().clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let read = stream.read(&mut request).await.unwrap_or(0);
                    let asked = request[..read].starts_with(b"GET /keen_edge.wasm ");
                    let (status, body) = match body {
                        Some(body) if asked => ("200 OK", body),
                        _ => ("404 Not Found", Vec::new()),
                    };
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
                });
            }
        });
        Self { addr, body }
    }
}

async fn remote(name: &str, server: &FileServer, sha256: &str) -> (Envoy, MockKeen, SocketAddr) {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let address = format!("address: {}, port_value: {}", server.addr.ip(), server.addr.port());
    let text = with_local_addresses(&read("deploy/remote-code/envoy.yaml"), keen.addr())
        .replace(&"0".repeat(64), sha256)
        // Waits less long than in production.
        .replace("num_retries: 10", "num_retries: 3")
        .replace("base_interval: 1s", "base_interval: 0.5s")
        .replace("address: artifacts.example.com, port_value: 80", &address);
    let envoy = Envoy::start(&fresh_dir(name), &text).await;
    let addr = envoy.listener("segment").await;
    (envoy, keen, addr)
}

async fn track(addr: SocketAddr) -> u16 {
    let call = reqwest::Client::new().post(format!("http://{addr}/v1/track"));
    let call = call.basic_auth("writeKey", Some("")).body(r#"{"userId": "u", "event": "Remote"}"#);
    let call = call.timeout(Duration::from_secs(5)).send().await;
    call.map_or(0, |response| response.status().as_u16())
}

fn sha256_of(module: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(module).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn remote_code_is_fetched_and_delivers_an_event() {
    let module = fs::read(harness::wasm_path().unwrap()).unwrap();
    let sha256 = sha256_of(&module);
    let server = FileServer::start(Some(module)).await;
    let (envoy, keen, addr) = remote("remote-code", &server, &sha256).await;
    envoy.ready().await;
    until("the call is answered", async || (track(addr).await == 200).then_some(())).await;
    keen.wait_for_events(1, PATIENCE).await.unwrap();
    assert_eq!(envoy.stat("wasm.remote_load_fetch_successes").await, 1);
    envoy.assert_filter_is_well();
}

/// Envoy loads the module when the server has it. Until then no call passes without the filter.
#[tokio::test]
async fn remote_code_that_is_late_is_fetched_later() {
    let module = fs::read(harness::wasm_path().unwrap()).unwrap();
    let server = FileServer::start(None).await;
    let (envoy, keen, addr) = remote("remote-late", &server, &sha256_of(&module)).await;
    until("Envoy has tried", async || {
        (envoy.stat("cluster.artifacts.upstream_rq_404").await > 0).then_some(())
    })
    .await;
    assert_ne!(track(addr).await, 200);
    *server.body.lock().unwrap() = Some(module);
    until("the call is answered", async || (track(addr).await == 200).then_some(())).await;
    keen.wait_for_events(1, PATIENCE).await.unwrap();
}

/// Envoy does not listen until it stops trying; then it answers 503. No call passes without the
/// filter.
#[tokio::test]
async fn remote_code_with_another_checksum_is_not_loaded() {
    let module = fs::read(harness::wasm_path().unwrap()).unwrap();
    let server = FileServer::start(Some(module)).await;
    let (envoy, keen, addr) = remote("remote-wrong", &server, &"1".repeat(64)).await;
    until("Envoy has fetched the module", async || {
        (envoy.stat("cluster.artifacts.upstream_rq_200").await > 0).then_some(())
    })
    .await;
    assert!(!envoy.is_ready().await);
    until("Envoy has given up", async || envoy.is_ready().await.then_some(())).await;
    for _ in 0..5 {
        assert_eq!(track(addr).await, 503, "{}", envoy.log());
    }
    assert!(envoy.log().contains("Retry limit exceeded for fetching data"), "{}", envoy.log());
    assert_eq!(keen.calls().len(), 0);
}
