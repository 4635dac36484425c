//! `func-e run -c envoy.yaml`, as the README shows it.

use deploy::{
    Background, Ports, assert_delivers, fresh_dir, generated::read, run, tool, wait_until_live,
};
use mock_keen::{MockKeen, Options};
use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Returns the version in `.envoy-version`, which func-e reads in the directory where it runs.
fn pinned_version() -> String {
    read(".envoy-version").trim().to_owned()
}

/// Serves `json` to every request, as the server of Envoy's releases does.
async fn serve_versions(json: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                json.len()
            );
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(format!("{head}{json}").as_bytes()).await;
        }
    });
    format!("http://{addr}/envoy-versions.json")
}

/// Makes a directory with the files that `func-e run -c envoy.yaml` finds in the root of the
/// repository. Ports are free ones.
fn checkout(dir: &Path, ports: Ports) {
    fs::create_dir_all(dir.join("target")).unwrap();
    fs::write(dir.join("envoy.yaml"), ports.replace_in(&read("envoy.yaml"))).unwrap();
    fs::write(dir.join(".envoy-version"), pinned_version()).unwrap();
    symlink(harness::wasm_path().unwrap(), dir.join("target/keen_edge.wasm")).unwrap();
}

/// Returns func-e with its own home, in which Envoy is already installed.
fn func_e(dir: &Path, versions_url: &str) -> Command {
    let bin = dir.join("data/envoy-versions").join(pinned_version()).join("bin");
    fs::create_dir_all(&bin).unwrap();
    symlink(harness::envoy_path().unwrap(), bin.join("envoy")).unwrap();
    let mut command = Command::new(tool("func-e"));
    command
        .current_dir(dir)
        .env_remove("ENVOY_VERSION")
        .env_remove("ENVOY_PATH")
        .env("FUNC_E_CONFIG_HOME", dir.join("config"))
        .env("FUNC_E_DATA_HOME", dir.join("data"))
        .env("FUNC_E_STATE_HOME", dir.join("state"))
        .env("FUNC_E_RUNTIME_DIR", dir.join("runtime"))
        .env("ENVOY_VERSIONS_URL", versions_url);
    command
}

fn versions_json() -> String {
    let version = pinned_version();
    format!(
        r#"{{"latestVersion": "{version}", "versions": {{"{version}": {{"releaseDate": "2026-10-01", "tarballs": {{}}}}}}, "sha256sums": {{}}}}"#
    )
}

#[tokio::test]
async fn func_e_run_with_envoy_yaml_delivers_an_event() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let ports = Ports::free(keen.addr());
    let dir = fresh_dir("func-e");
    checkout(&dir, ports);
    let versions = serve_versions(versions_json()).await;
    let mut command = func_e(&dir, &versions);
    command.args(["run", "-c", "envoy.yaml"]);
    for document in ["README.md", "docs/deploying.md"] {
        assert!(read(document).contains("func-e run -c envoy.yaml"), "{document}");
    }
    let mut func_e = Background::start(&command, &dir.join("func-e.log"));
    wait_until_live(&mut func_e, ports.admin).await;
    assert_delivers(ports.listener, &keen).await;

    // SIGTERM to func-e also stops Envoy.
    func_e.terminate();
    let client = reqwest::Client::new();
    let ready = format!("http://127.0.0.1:{}/ready", ports.admin);
    let answer = client.get(ready).timeout(Duration::from_secs(2)).send().await;
    assert!(answer.is_err(), "Envoy still runs:\n{}", func_e.log());
}

#[tokio::test]
async fn func_e_which_prints_the_pinned_version() {
    let dir = fresh_dir("func-e-which");
    fs::write(dir.join(".envoy-version"), pinned_version()).unwrap();
    let versions = serve_versions(versions_json()).await;
    let mut command = func_e(&dir, &versions);
    // The server of this test runs on the runtime of this thread, and func-e sends requests to it.
    let found = tokio::task::spawn_blocking(move || run(command.arg("which"))).await.unwrap();
    let expected = format!("/data/envoy-versions/{}/bin/envoy", pinned_version());
    let found = found.expect_success();
    assert!(found.trim().ends_with(&expected), "{found}");
}

#[test]
fn pinned_version_equals_the_tested_version() {
    let version = run(Command::new(harness::envoy_path().unwrap()).arg("--version"));
    let version = version.expect_success();
    assert!(version.contains(&format!("/{}/", pinned_version())), "{version}");
}
