//! Programs that use an SDK as an application does.

use serde::Deserialize;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Semaphore;

/// Programs at once: each waits more than it works.
static AT_ONCE: Semaphore = Semaphore::const_new(6);
/// The slowest waits for a browser to start and for a `Retry-After`.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where the SDKs of a group are installed, by `scripts/clients.sh`, which installs what is missing.
///
/// # Panics
/// With what the script said, where it could not.
pub async fn home(group: &str) -> PathBuf {
    let script = harness::root().join("scripts/clients.sh");
    // Its progress is for whoever waits.
    let output = Command::new(&script).arg(group).stderr(Stdio::inherit()).output().await;
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(
        output.status.success(),
        "{} {group} failed; what it said stands above",
        script.display()
    );
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A sdk_process, and how to start it.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The SDK and its version.
    pub name: String,
    /// What is run, and its arguments.
    pub command: Vec<String>,
    /// What its environment holds besides `EDGE` and `WRITE_KEY`.
    pub environment: Vec<(String, String)>,
}

/// The SDK's own view of how it went.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Report {
    /// Calls that it counts as delivered.
    pub delivered: usize,
    /// What it told its error handler, or threw.
    #[serde(default)]
    pub errors: Vec<String>,
    /// Requests that it says it made; not every SDK says.
    #[serde(default)]
    pub requests: Option<usize>,
}

/// How a sdk_process ended.
#[derive(Debug)]
pub(crate) struct CalloutResponse {
    pub(crate) report: Report,
    /// Its standard error: SDKs log there.
    pub(crate) log: String,
}

impl Program {
    /// Runs it to its end.
    pub(crate) async fn run(
        &self,
        edge: &str,
        write_key: &str,
        more: &[(String, String)],
    ) -> CalloutResponse {
        let _turn = AT_ONCE.acquire().await;
        let name = &self.name;
        let (sdk_process, arguments) =
            self.command.split_first().unwrap_or_else(|| panic!("{name}: no command"));
        let mut command = Command::new(sdk_process);
        command
            .args(arguments)
            .env("EDGE", edge)
            .env("WRITE_KEY", write_key)
            .envs(self.environment.iter().cloned())
            .envs(more.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("{name} has not ended after {} s", PATIENCE.as_secs()));
        let output = output.unwrap_or_else(|error| panic!("{name}: {sdk_process}: {error}"));
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name} ended with {}:\n{said}{log}", output.status);
        let last = said.lines().last().unwrap_or_default();
        let report = serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("{name}: {error}:\n{said}{log}"));
        CalloutResponse { report, log }
    }
}
