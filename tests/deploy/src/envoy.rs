//! An Envoy that runs a file of `deploy/`. Only ports and paths are replaced.

use crate::Background;
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Time limit of every wait in a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns a configuration with free ports for `8080` and `9901`, Keen at `keen`, and the module of
/// this build.
#[must_use]
pub fn with_local_addresses(text: &str, keen: SocketAddr) -> String {
    let wasm = harness::wasm_path().unwrap_or_else(|error| panic!("{error}"));
    text.replace("port_value: 8080", "port_value: 0")
        .replace("port_value: 9901", "port_value: 0")
        .replace("port_value: 8089", &format!("port_value: {}", keen.port()))
        .replace(crate::generated::WASM_PATH, &wasm.to_string_lossy())
        .replace(crate::generated::WASM_PATH_IN_VOLUME, &wasm.to_string_lossy())
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Background,
    admin: SocketAddr,
    client: reqwest::Client,
}

impl Envoy {
    /// Starts Envoy in `dir` with this configuration, and waits for its admin interface.
    ///
    /// # Panics
    /// Panics if Envoy does not start.
    pub async fn start(dir: &Path, config: &str) -> Self {
        let file = dir.join("envoy.yaml");
        fs::write(&file, config).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self::start_file(dir, &file).await
    }

    async fn start_file(dir: &Path, config: &Path) -> Self {
        let program = harness::envoy_path().unwrap_or_else(|error| panic!("{error}"));
        let admin = dir.join("admin-address");
        let _ = fs::remove_file(&admin);
        let mut command = Command::new(program);
        command.arg("--config-path").arg(config).arg("--admin-address-path").arg(&admin);
        command.args(["--concurrency", "2", "--disable-hot-restart"]);
        command.args(["--file-flush-interval-msec", "50"]);
        let mut process = Background::start(&command, &dir.join("envoy.log"));
        let address = until("Envoy's admin interface listens", async || {
            assert!(!process.has_ended(), "Envoy has ended:\n{}", process.log());
            fs::read_to_string(&admin).ok()?.trim().parse().ok()
        });
        let address = address.await;
        Self { process, admin: address, client: reqwest::Client::new() }
    }

    /// Waits until `/ready` of the admin interface is 200.
    pub async fn ready(&self) {
        until("Envoy is ready", async || self.is_ready().await.then_some(())).await;
    }

    /// Whether `/ready` of the admin interface is 200.
    pub async fn is_ready(&self) -> bool {
        self.admin_get("/ready").await.is_some_and(|(status, _)| status == 200)
    }

    /// Returns the address of the admin interface.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Returns the address of a listener. Waits until the listener exists.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        until("the listener is there", async || {
            let (_, body) = self.admin_get("/listeners?format=json").await?;
            let listeners: Value = serde_json::from_str(&body).ok()?;
            let listeners = listeners["listener_statuses"].as_array()?;
            let address = &listeners.iter().find(|listener| listener["name"] == name)?["local_address"]
                ["socket_address"];
            let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
            Some(SocketAddr::new(address["address"].as_str()?.parse().ok()?, port))
        })
        .await
    }

    /// Returns a counter or gauge; 0 if it does not exist.
    pub async fn stat(&self, name: &str) -> u64 {
        let body = self.admin_get("/stats").await.map(|(_, body)| body).unwrap_or_default();
        let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Returns the status and the body of `GET path` at the admin interface. `None`: it does not
    /// respond.
    pub async fn admin_get(&self, path: &str) -> Option<(u16, String)> {
        let response = self.client.get(format!("http://{}{path}", self.admin)).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// Returns Envoy's output so far, without its list of extensions.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self.process.log();
        log.split_once("all clusters initialized").map_or(log.as_str(), |(_, log)| log).to_owned()
    }

    /// Whether Envoy has exited.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// Asserts that the filter did not fail.
    ///
    /// # Panics
    /// Panics if Envoy's log has lines about a failure.
    #[track_caller]
    pub fn assert_filter_is_well(&self) {
        let log = self.log();
        let bad = ["panicked", "Function: proxy_on_", "[backtrace]"];
        let bad: Vec<_> = log.lines().filter(|line| bad.iter().any(|b| line.contains(b))).collect();
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    }
}

/// Polls until there is a result.
///
/// # Panics
/// Panics if there is none within [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            if let Some(result) = poll().await {
                return result;
            }
            assert!(start.elapsed() < PATIENCE, "{place}: not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Replaces a file in one step: writes another file beside it, and moves that one over it.
///
/// # Panics
/// Panics if the file cannot be written.
pub fn move_into_place(file: &Path, text: &str) {
    let next: PathBuf = file.with_extension("next");
    fs::write(&next, text)
        .and_then(|()| fs::rename(&next, file))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
