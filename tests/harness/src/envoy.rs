//! A running Envoy.

use crate::dynamic::{Dynamic, Resource};
use crate::{admin, bootstrap, envoy_path, process, root, wasm_path};
use hyper::Method;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    error::Error,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Maximum time until Envoy is ready. It takes half a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Envoy did not start.
#[derive(Debug)]
pub struct StartError {
    /// The reason in one line.
    pub reason: String,
    /// Envoy's whole log; empty if it was not started.
    pub log: String,
}

impl StartError {
    fn before_start(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), log: String::new() }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if !self.log.is_empty() {
            write!(f, "; the end of its log:\n{}", tail(&self.log, 20))?;
        }
        Ok(())
    }
}

impl Error for StartError {}

type Patch = Box<dyn FnOnce(&mut Value) + Send>;

enum Config {
    FromFile,
    Struct(Value),
    String(String),
}

/// Changes to `envoy.yaml`, and how to start Envoy.
#[must_use]
pub struct Builder {
    keen: Option<SocketAddr>,
    config: Config,
    as_string: bool,
    wasm: Option<PathBuf>,
    port: u16,
    admin_port: u16,
    concurrency: u32,
    log_level: String,
    component_log_level: Option<String>,
    envs: Vec<(String, String)>,
    patches: Vec<Patch>,
    dynamic: Option<Dynamic>,
}

impl Builder {
    /// The address of cluster `keen`.
    pub fn keen(mut self, keen: SocketAddr) -> Self {
        self.keen = Some(keen);
        self
    }

    /// Replaces the filter's configuration. [`crate::default_config`] is the one in the file.
    pub fn config(mut self, config: Value) -> Self {
        self.config = Config::Struct(config);
        self
    }

    /// Replaces the filter's configuration with this text, valid or not.
    pub fn raw_config(mut self, config: impl Into<String>) -> Self {
        self.config = Config::String(config.into());
        self
    }

    /// Passes the configuration as JSON in a `StringValue` instead of a `Struct`.
    pub fn string_config(mut self) -> Self {
        self.as_string = true;
        self
    }

    /// The module to load instead of `target/keen_edge.wasm`.
    pub fn wasm(mut self, path: impl Into<PathBuf>) -> Self {
        self.wasm = Some(path.into());
        self
    }

    /// Envoy's worker threads (default 1). Each has its own VM.
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// The port to listen on (default: a free one).
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The port of Envoy's admin interface (default: a free one).
    pub fn admin_port(mut self, port: u16) -> Self {
        self.admin_port = port;
        self
    }

    /// Envoy's log level (default `info`). It also applies to the filter's messages.
    pub fn log_level(mut self, level: impl Into<String>) -> Self {
        self.log_level = level.into();
        self
    }

    /// Log levels of Envoy's components, such as `wasm:debug`.
    pub fn component_log_level(mut self, levels: impl Into<String>) -> Self {
        self.component_log_level = Some(levels.into());
        self
    }

    /// Sets an environment variable of the Envoy process.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// Changes the bootstrap. Patches are applied after the other settings, in their order.
    pub fn patch(mut self, patch: impl FnOnce(&mut Value) + Send + 'static) -> Self {
        self.patches.push(Box::new(patch));
        self
    }

    /// Lets Envoy read the listener or the filter from a file; see [`Envoy::update`].
    pub fn from_file(mut self, what: Dynamic) -> Self {
        self.dynamic = Some(what);
        self
    }

    /// Starts Envoy and waits until it is ready.
    ///
    /// # Errors
    /// Something is missing, or Envoy stopped. Envoy stops if the filter rejects its configuration.
    pub async fn start(self) -> Result<Envoy, StartError> {
        let program = envoy_path().map_err(StartError::before_start)?;
        let files = Files::new()
            .map_err(|error| StartError::before_start(format!("target/tmp: {error}")))?;
        let (concurrency, log_level) = (self.concurrency, self.log_level.clone());
        let component_log_level = self.component_log_level.clone();
        let (dynamic, envs) = (self.dynamic, self.envs.clone());
        let mut bootstrap = self.bootstrap().map_err(StartError::before_start)?;
        let resource = dynamic.map(|what| {
            Resource::take(what, &mut bootstrap, files.config.with_extension("resource.json"))
        });
        let resource = resource.transpose().map_err(StartError::before_start)?;
        fs::write(&files.config, format!("{bootstrap:#}")).map_err(|error| {
            StartError::before_start(format!("{}: {error}", files.config.display()))
        })?;
        let (config_path, admin_path) =
            (files.config.to_string_lossy(), files.admin.to_string_lossy());
        let concurrency = concurrency.to_string();
        let mut args = vec![
            "--config-path",
            &config_path,
            "--admin-address-path",
            &admin_path,
            "--concurrency",
            &concurrency,
            "--log-level",
            &log_level,
            // Several Envoys would otherwise use the same shared memory.
            "--disable-hot-restart",
            // Tests read the access log while Envoy runs.
            "--file-flush-interval-msec",
            "50",
        ];
        if let Some(levels) = &component_log_level {
            args.extend(["--component-log-level", levels]);
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let child = process::spawn_with_env(&program, &args, &envs, &files.log)
            .map_err(|error| StartError::before_start(format!("{}: {error}", program.display())))?;
        let mut envoy = Envoy {
            pid: child.id(),
            child: Mutex::new(child),
            // Set when Envoy is ready.
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            resource,
            files,
        };
        match envoy.wait_until_ready().await {
            Ok(()) => Ok(envoy),
            Err(reason) => {
                envoy.kill();
                Err(StartError { reason, log: envoy.log() })
            }
        }
    }

    fn bootstrap(self) -> Result<Value, String> {
        let mut yaml = bootstrap::read()?;
        let wasm = self.wasm.map_or_else(wasm_path, Ok)?;
        bootstrap::set_wasm(&mut yaml, &wasm)?;
        bootstrap::set_ports(&mut yaml, self.port, self.admin_port)?;
        if let Some(keen) = self.keen {
            bootstrap::set_keen(&mut yaml, keen)?;
        }
        match self.config {
            Config::String(text) => bootstrap::set_string(&mut yaml, &text)?,
            Config::Struct(config) if self.as_string => {
                bootstrap::set_string(&mut yaml, &config.to_string())?
            }
            Config::Struct(config) => bootstrap::set_struct(&mut yaml, &config)?,
            Config::FromFile if self.as_string => {
                let config = bootstrap::default_config().to_string();
                bootstrap::set_string(&mut yaml, &config)?;
            }
            Config::FromFile => {}
        }
        for patch in self.patches {
            patch(&mut yaml);
        }
        Ok(yaml)
    }
}

/// A running Envoy. Dropping it kills the process.
#[derive(Debug)]
pub struct Envoy {
    child: Mutex<Child>,
    pid: u32,
    addr: SocketAddr,
    admin: SocketAddr,
    resource: Option<Resource>,
    files: Files,
}

impl Envoy {
    /// Starts from `envoy.yaml` on free ports.
    pub fn builder() -> Builder {
        Builder {
            keen: None,
            config: Config::FromFile,
            as_string: false,
            wasm: None,
            port: 0,
            admin_port: 0,
            concurrency: 1,
            log_level: "info".to_owned(),
            component_log_level: None,
            envs: Vec::new(),
            patches: Vec::new(),
            dynamic: None,
        }
    }

    /// Replaces the filter's configuration while Envoy runs. Envoy's metrics and log show the
    /// result.
    ///
    /// # Errors
    /// Envoy was not started with [`Builder::from_file`], or the file cannot be written.
    pub fn update(&self, config: &Value) -> Result<(), String> {
        self.update_patched(config, |_| {})
    }

    /// Like [`Envoy::update`]; `patch` also changes the listener or filter itself.
    ///
    /// # Errors
    /// Returns the errors of [`Envoy::update`].
    pub fn update_patched(
        &self,
        config: &Value,
        patch: impl FnOnce(&mut Value),
    ) -> Result<(), String> {
        self.resource.as_ref().ok_or("not started from_file")?.update(config, patch)
    }

    /// The address for SDKs.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of a path, which starts with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The address of the admin interface.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The address of a listener.
    pub async fn listener(&self, name: &str) -> Option<SocketAddr> {
        let listeners: Value =
            serde_json::from_str(&self.admin("/listeners?format=json").await).ok()?;
        let statuses = listeners["listener_statuses"].as_array()?;
        let address = &statuses.iter().find(|status| status["name"] == name)?["local_address"]["socket_address"];
        let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
        Some(SocketAddr::new(address["address"].as_str()?.parse().ok()?, port))
    }

    /// Returns the body of `GET path` at the admin interface; empty if it does not respond.
    pub async fn admin(&self, path: &str) -> String {
        self.admin_request(Method::GET, path).await
    }

    /// Returns the body of `POST path` at the admin interface, such as `/drain_listeners?graceful`.
    pub async fn admin_post(&self, path: &str) -> String {
        self.admin_request(Method::POST, path).await
    }

    /// Returns counters and gauges by name. Those of the filter begin with `wasmcustom.keen_edge_`.
    pub async fn stats(&self) -> BTreeMap<String, u64> {
        self.admin("/stats")
            .await
            .lines()
            .filter_map(|line| {
                let (name, value) = line.split_once(": ")?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect()
    }

    /// Returns one counter or gauge; 0 if it does not exist. Those of the filter exist after their
    /// first use.
    pub async fn stat(&self, name: &str) -> u64 {
        self.stats().await.get(name).copied().unwrap_or(0)
    }

    /// Returns a metric of the filter, named without `keen_edge_`: the sum over all label values,
    /// or over those with these labels (`error.InvalidEventError`).
    ///
    /// # Panics
    /// Panics if the admin interface does not respond.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let name = format!("wasmcustom.keen_edge_{name}");
        let stats = self.stats().await;
        let found = stats.iter().filter(|(stat, _)| {
            let Some(suffix) = stat.strip_prefix(&name) else { return false };
            let suffix = format!("{suffix}.");
            let has = |label: &&str| suffix.contains(&format!(".{label}."));
            suffix.starts_with('.') && labels.iter().all(has)
        });
        found.map(|(_, value)| value).sum()
    }

    /// Returns a metric of the filter, named without the prefix (`events_delivered`), summed over
    /// its labels.
    pub async fn total(&self, metric: &str) -> u64 {
        total(&self.stats().await, metric)
    }

    /// Returns the number of events by their end.
    pub async fn event_totals(&self) -> EventTotals {
        let stats = self.stats().await;
        EventTotals {
            admitted: total(&stats, "events"),
            delivered: total(&stats, "events_delivered"),
            rejected: total(&stats, "events_rejected"),
            unconfirmed: total(&stats, "events_unconfirmed"),
            dropped: total(&stats, "events_dropped"),
            overflowed: total(&stats, "events_overflowed"),
        }
    }

    /// Envoy's whole output: its log, the filter's log and the access log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.files.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The path of the log, in `target/tmp`.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.files.log
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    /// Asserts that the filter did not fail.
    ///
    /// # Panics
    /// Panics if the log has lines about a failure.
    #[track_caller]
    pub fn no_panic_in_log(&self) {
        let log = self.log();
        let bad: Vec<&str> = log
            .lines()
            .filter(|line| {
                line.contains("panicked")
                    || line.contains("Wasm VM failed")
                    || line.contains("Function: proxy_on_")
                    || line.contains("[critical][wasm]")
            })
            .collect();
        assert!(
            bad.is_empty(),
            "the filter failed ({}):\n{}",
            self.files.log.display(),
            bad.join("\n")
        );
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let kilobytes = status.lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        kilobytes.unwrap_or(0) * 1024
    }

    /// CPU time of all threads so far, user and kernel.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return Duration::ZERO;
        };
        let nanoseconds = threads.flatten().filter_map(|thread| {
            // The first field is the time on a CPU.
            let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            schedstat.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// The exit status, if Envoy has stopped.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Sends SIGTERM and waits for the exit. After 10 s Envoy is killed.
    pub async fn terminate(&self) {
        if self.exited().is_some() {
            return;
        }
        let _ = Command::new("kill").args(["-TERM", &self.pid.to_string()]).status();
        let limit = Instant::now() + Duration::from_secs(10);
        while self.exited().is_none() && Instant::now() < limit {
            tokio::time::sleep(POLL).await;
        }
        self.kill();
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(&self) {
        let mut child = self.child();
        // Both calls do nothing if the process has stopped.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn admin_request(&self, method: Method, path: &str) -> String {
        admin::request(self.admin, method, path)
            .await
            .map_or_else(|_| String::new(), |(_, body)| body)
    }

    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.exited() {
                return Err(format!("Envoy did not start ({status})"));
            }
            if let Some(addr) = self.is_ready().await {
                self.addr = addr;
                return Ok(());
            }
            if Instant::now() > limit {
                return Err(format!("Envoy was not ready after {} s", START_LIMIT.as_secs()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The listener's address, once it is ready.
    async fn is_ready(&mut self) -> Option<SocketAddr> {
        self.admin = fs::read_to_string(&self.files.admin).ok()?.trim().parse().ok()?;
        let (status, _) = admin::request(self.admin, Method::GET, "/ready").await.ok()?;
        if status != 200 {
            return None;
        }
        self.listener("segment").await
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // Envoy has nothing to save.
        self.kill();
    }
}

/// The files of one Envoy, in `target/tmp`. They are kept for debugging.
#[derive(Debug)]
struct Files {
    config: PathBuf,
    log: PathBuf,
    admin: PathBuf,
}

impl Files {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = root().join("target/tmp");
        fs::create_dir_all(&dir)?;
        let name =
            format!("envoy-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = |extension| dir.join(format!("{name}.{extension}"));
        let files = Self { config: file("json"), log: file("log"), admin: file("admin") };
        // Process ids are reused: an old file would contain another Envoy's port.
        match fs::remove_file(&files.admin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(files),
        }
    }
}

/// Numbers of events by their end, from the filter's metrics. Each admitted event is pending or
/// counted in exactly one of the ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTotals {
    /// Admitted for delivery.
    pub admitted: u64,
    /// Confirmed by Keen.
    pub delivered: u64,
    /// Rejected by Keen for their content.
    pub rejected: u64,
    /// Their clients got 503.
    pub unconfirmed: u64,
    /// Dropped without a client to retry them.
    pub dropped: u64,
    /// Sent to the overflow queue.
    pub overflowed: u64,
}

impl EventTotals {
    /// Returns the number of events that have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.delivered + self.rejected + self.unconfirmed + self.dropped + self.overflowed
    }
}

/// Sums the stats of one metric: the name alone, and the name with labels.
fn total(stats: &BTreeMap<String, u64>, metric: &str) -> u64 {
    let name = format!("wasmcustom.keen_edge_{metric}");
    let labelled = format!("{name}.");
    let stats = stats.iter().filter(|(stat, _)| **stat == name || stat.starts_with(&labelled));
    stats.map(|(_, value)| value).sum()
}

fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all.iter().skip(all.len().saturating_sub(lines)).copied().collect::<Vec<_>>().join("\n")
}
