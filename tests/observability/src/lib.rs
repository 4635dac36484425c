//! Starts a Prometheus and an OpenTelemetry Collector, and queries them.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Time limit for the start of a program.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Returns the output of `scripts/observability.sh what`, which installs the tool first.
///
/// # Panics
/// Panics if the script fails.
#[must_use]
pub fn tool(what: &str) -> String {
    let script = harness::root().join("scripts/observability.sh");
    let output = Command::new(&script).arg(what).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns an empty directory in `target/tmp`.
///
/// # Panics
/// Panics if the directory cannot be created.
#[must_use]
pub fn empty_dir(name: &str) -> PathBuf {
    let dir = harness::root().join(format!("target/tmp/{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    dir
}

/// A running program. Dropping it stops the program.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `program` with its output in `dir`.
    ///
    /// # Panics
    /// Panics if the program cannot be started.
    #[must_use]
    pub fn start(program: &Path, args: &[String], dir: &Path) -> Self {
        let log = dir.join("log");
        let child = harness::spawn(program, args, &log);
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self { child, log }
    }

    /// Returns the output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Waits until `find` finds something in the log.
    ///
    /// # Panics
    /// Panics if the program ends, or if nothing is found in a minute.
    pub async fn until_logged<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let log = self.log();
            if let Some(found) = find(&log) {
                return found;
            }
            let ended = self.child.try_wait().ok().flatten();
            assert!(ended.is_none() && start.elapsed() < START_LIMIT, "{ended:?}:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Labels of a series, without `__name__`.
pub type Labels = BTreeMap<String, String>;

/// A Prometheus that scrapes every two seconds.
#[derive(Debug)]
pub struct Prometheus {
    _program: Program,
    url: String,
    client: reqwest::Client,
}

impl Prometheus {
    /// Starts Prometheus with these rules and targets. A target's key is the value of the label
    /// `instance`.
    ///
    /// # Panics
    /// Panics if Prometheus does not start.
    pub async fn start(targets: &[(&str, SocketAddr)], rules: &str) -> Self {
        let dir = empty_dir("prometheus");
        let targets: Vec<Value> = targets
            .iter()
            .map(|(instance, addr)| {
                serde_json::json!({"targets": [addr.to_string()], "labels": {"instance": instance}})
            })
            .collect();
        // JSON is YAML.
        let config = serde_json::json!({
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{
                "job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": targets,
            }],
        });
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            path.display().to_string()
        };
        write("rules.yaml", rules);
        let args = [
            format!("--config.file={}", write("prometheus.yaml", &config.to_string())),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            "--web.listen-address=127.0.0.1:0".to_owned(),
        ];
        let path = Path::new(tool("prometheus").trim()).join("prometheus");
        let mut program = Program::start(&path, &args, &dir);
        let listening = |log: &str| {
            let line = log.lines().find(|line| line.contains("msg=\"Listening on\""))?;
            Some(line.split("address=").nth(1)?.split_whitespace().next()?.to_owned())
        };
        let url = format!("http://{}", program.until_logged(listening).await);
        program
            .until_logged(|log| {
                log.contains("Server is ready to receive web requests").then_some(())
            })
            .await;
        Self { _program: program, url, client: reqwest::Client::new() }
    }

    /// Returns the result of an instant query.
    ///
    /// # Panics
    /// Panics if Prometheus does not answer or refuses the query.
    pub async fn query(&self, expr: &str) -> Vec<(Labels, f64)> {
        let request = self.client.post(format!("{}/api/v1/query", self.url));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let query: String = expr.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let reply = request.body(format!("query={query}")).send().await;
        let reply = reply.unwrap_or_else(|error| panic!("{error}"));
        let text = reply.text().await.unwrap_or_else(|error| panic!("{error}"));
        let reply: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(reply["status"], "success", "{expr}: {text}");
        let series = reply["data"]["result"].as_array().cloned().unwrap_or_default();
        let series = series.iter().map(|each| {
            let labels = each["metric"].as_object().cloned().unwrap_or_default();
            let labels = labels.into_iter().filter(|(name, _)| name != "__name__");
            let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
            let value = each["value"][1].as_str().and_then(|value| value.parse().ok());
            let labels = labels.map(|(name, value)| (name, text(value))).collect();
            (labels, value.unwrap_or_else(|| panic!("{expr}: {each}")))
        });
        series.collect()
    }

    /// Returns the result of a query with one series; 0 if there is none.
    ///
    /// # Panics
    /// Same errors as [`Self::query`]; also fails for several series.
    pub async fn value(&self, expr: &str) -> f64 {
        let series = self.query(expr).await;
        assert!(series.len() < 2, "{expr}: {series:?}");
        series.first().map_or(0.0, |(_, value)| *value)
    }
}
