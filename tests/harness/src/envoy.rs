//! One running Envoy.

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

/// How long Envoy may take to be ready. It takes half a second; a loaded machine takes longer.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Why Envoy is not running.
#[derive(Debug)]
pub struct StartError {
    /// What happened, in one line.
    pub reason: String,
    /// All that Envoy said; empty where it was not started.
    pub log: String,
}

impl StartError {
    fn before(reason: impl Into<String>) -> Self {
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
    OfTheFile,
    Struct(Value),
    String(String),
}

/// What to change in `envoy.yaml`, and how to start Envoy.
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
    patches: Vec<Patch>,
    dynamic: Option<Dynamic>,
}

impl Builder {
    /// Where Keen listens: the address of cluster `keen`.
    pub fn keen(mut self, keen: SocketAddr) -> Self {
        self.keen = Some(keen);
        self
    }

    /// The filter's configuration, whole. [`crate::default_config`] is the one in the file.
    pub fn config(mut self, config: Value) -> Self {
        self.config = Config::Struct(config);
        self
    }

    /// The filter's configuration as text, whatever it says.
    pub fn raw_config(mut self, config: impl Into<String>) -> Self {
        self.config = Config::String(config.into());
        self
    }

    /// Hands the configuration over as JSON in a `StringValue` instead of a `Struct`.
    pub fn string_config(mut self) -> Self {
        self.as_string = true;
        self
    }

    /// Another filter than `target/keen_edge.wasm`.
    pub fn wasm(mut self, path: impl Into<PathBuf>) -> Self {
        self.wasm = Some(path.into());
        self
    }

    /// Envoy's workers; 1 unless asked, as each has a filter of its own.
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// The port to listen on; a free one unless asked.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The port of Envoy's admin interface; a free one unless asked.
    pub fn admin_port(mut self, port: u16) -> Self {
        self.admin_port = port;
        self
    }

    /// Envoy's log level; `info` unless asked. The filter's own messages pass the same gate.
    pub fn log_level(mut self, level: impl Into<String>) -> Self {
        self.log_level = level.into();
        self
    }

    /// Log levels of Envoy's components, such as `wasm:debug`.
    pub fn component_log_level(mut self, levels: impl Into<String>) -> Self {
        self.component_log_level = Some(levels.into());
        self
    }

    /// Any change of the whole bootstrap, after the others and in the order given.
    pub fn patch(mut self, patch: impl FnOnce(&mut Value) + Send + 'static) -> Self {
        self.patches.push(Box::new(patch));
        self
    }

    /// Takes the listener or the filter from a file; see [`Envoy::update`].
    pub fn from_file(mut self, what: Dynamic) -> Self {
        self.dynamic = Some(what);
        self
    }

    /// Starts Envoy and waits until it is ready to take calls.
    ///
    /// # Errors
    /// Where a piece is missing, or Envoy ended: a configuration that the filter refuses ends it.
    pub async fn start(self) -> Result<Envoy, StartError> {
        let program = envoy_path().map_err(StartError::before)?;
        let files =
            Files::new().map_err(|error| StartError::before(format!("target/tmp: {error}")))?;
        let (concurrency, log_level) = (self.concurrency, self.log_level.clone());
        let component_log_level = self.component_log_level.clone();
        let dynamic = self.dynamic;
        let mut bootstrap = self.bootstrap().map_err(StartError::before)?;
        let resource = dynamic.map(|what| {
            Resource::take(what, &mut bootstrap, files.config.with_extension("resource.json"))
        });
        let resource = resource.transpose().map_err(StartError::before)?;
        fs::write(&files.config, format!("{bootstrap:#}"))
            .map_err(|error| StartError::before(format!("{}: {error}", files.config.display())))?;
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
            // No shared memory between Envoys: they would meet there.
            "--disable-hot-restart",
            // A test reads the access log as it is written.
            "--file-flush-interval-msec",
            "50",
        ];
        if let Some(levels) = &component_log_level {
            args.extend(["--component-log-level", levels]);
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let child = process::spawn(&program, &args, &files.log)
            .map_err(|error| StartError::before(format!("{}: {error}", program.display())))?;
        let mut envoy = Envoy {
            pid: child.id(),
            child: Mutex::new(child),
            // Read back below.
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
            Config::OfTheFile if self.as_string => {
                let config = bootstrap::default_config().to_string();
                bootstrap::set_string(&mut yaml, &config)?;
            }
            Config::OfTheFile => {}
        }
        for patch in self.patches {
            patch(&mut yaml);
        }
        Ok(yaml)
    }
}

/// A running Envoy. Dropped, it is killed.
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
    /// An Envoy with `envoy.yaml` as it is, on free ports.
    pub fn builder() -> Builder {
        Builder {
            keen: None,
            config: Config::OfTheFile,
            as_string: false,
            wasm: None,
            port: 0,
            admin_port: 0,
            concurrency: 1,
            log_level: "info".to_owned(),
            component_log_level: None,
            patches: Vec::new(),
            dynamic: None,
        }
    }

    /// Replaces the filter's configuration while Envoy runs. What becomes of it is in Envoy's counters and log.
    ///
    /// # Errors
    /// Nothing of this Envoy comes from a file, or the file cannot be written.
    pub fn update(&self, config: &Value) -> Result<(), String> {
        self.resource.as_ref().ok_or("not started from_file")?.update(config)
    }

    /// Where SDKs send to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL, with a path that begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Where the admin interface listens.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where the listener of that name takes calls.
    pub async fn listener(&self, name: &str) -> Option<SocketAddr> {
        let listeners: Value =
            serde_json::from_str(&self.admin("/listeners?format=json").await).ok()?;
        let statuses = listeners["listener_statuses"].as_array()?;
        let address = &statuses.iter().find(|status| status["name"] == name)?["local_address"]["socket_address"];
        let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
        Some(SocketAddr::new(address["address"].as_str()?.parse().ok()?, port))
    }

    /// What `GET path` at the admin interface answers; an empty text where it does not answer.
    pub async fn admin(&self, path: &str) -> String {
        self.admin_request(Method::GET, path).await
    }

    /// `POST path` at the admin interface, as for what changes something: `/drain_listeners?graceful`.
    pub async fn admin_post(&self, path: &str) -> String {
        self.admin_request(Method::POST, path).await
    }

    /// Counters and gauges by name; the filter's begin with `wasmcustom.keen_edge_`.
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

    /// One counter or gauge, 0 where it does not exist (Envoy makes the filter's when they are first used).
    pub async fn stat(&self, name: &str) -> u64 {
        self.stats().await.get(name).copied().unwrap_or(0)
    }

    /// All that Envoy has written: its log, the filter's and the access log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.files.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The log's file, under `target/tmp`.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.files.log
    }

    /// The end of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    /// Asserts that the filter has not failed.
    ///
    /// # Panics
    /// With the lines that say it has.
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

    /// Resident memory.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let kilobytes = status.lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        kilobytes.unwrap_or(0) * 1024
    }

    /// Processor time so far, in user and kernel, to 10 ms.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The program's name comes first, in brackets, and may hold anything.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|t| t.parse::<u64>().ok())
            .sum();
        // Linux counts in hundredths for user space, whatever its own clock.
        Duration::from_millis(ticks * 10)
    }

    /// How Envoy ended, where it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// SIGTERM, and waits for the end: 10 seconds, then it is killed.
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

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) {
        let mut child = self.child();
        // Both do nothing where it has ended already.
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

    /// The listener's address, once it takes calls.
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
        // Envoy keeps nothing that a gentler end would save.
        self.kill();
    }
}

/// The files of one Envoy, under `target/tmp`. They stay, for whoever looks into a test that failed.
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
        // Process ids come again: an old file would name another Envoy's port.
        match fs::remove_file(&files.admin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(files),
        }
    }
}

fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all.iter().skip(all.len().saturating_sub(lines)).copied().collect::<Vec<_>>().join("\n")
}
