//! Processes that use an SDK as an application does.

use serde::Deserialize;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Semaphore;

/// Number of processes that run at the same time. Each waits more than it computes.
static CONCURRENCY: Semaphore = Semaphore::const_new(6);
/// Time limit of a process. The slowest one starts a browser and waits for a `Retry-After`.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Installs the SDKs of a group with `scripts/clients.sh` if they are missing, and returns their
/// directory.
///
/// # Panics
/// Panics if the installation fails. The script's output is on stderr.
pub async fn install(group: &str) -> PathBuf {
    let script = harness::root().join("scripts/clients.sh");
    let output = Command::new(&script).arg(group).stderr(Stdio::inherit()).output().await;
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(output.status.success(), "{} {group} failed; see its output above", script.display());
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A process that uses an SDK, and how to start it.
#[derive(Clone, Debug, Default)]
pub struct SdkProcess {
    /// The SDK and its version.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment variables besides `EDGE` and `WRITE_KEY`.
    pub environment: Vec<(String, String)>,
}

/// The SDK's own view of its calls: the last line that the process prints, as JSON.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Report {
    /// Calls that the SDK counts as delivered.
    pub delivered: usize,
    /// Errors that the SDK passed to its error handler or threw.
    #[serde(default)]
    pub errors: Vec<String>,
}

/// The exit status and the output of a process.
#[derive(Debug)]
pub(crate) struct ProcessOutput {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    /// The directory in which SDKs log.
    pub(crate) stderr: String,
}

impl SdkProcess {
    /// Runs the process to its end.
    pub(crate) async fn run(
        &self,
        edge: &str,
        write_key: &str,
        more: &[(String, String)],
    ) -> ProcessOutput {
        let _permit = CONCURRENCY.acquire().await;
        let name = &self.name;
        let (program, arguments) =
            self.command.split_first().unwrap_or_else(|| panic!("{name}: no command"));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("EDGE", edge)
            .env("WRITE_KEY", write_key)
            .envs(self.environment.iter().cloned())
            .envs(more.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(TIMEOUT, command.output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("{name} still runs after {} s", TIMEOUT.as_secs()));
        let output = output.unwrap_or_else(|error| panic!("{name}: {program}: {error}"));
        ProcessOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl ProcessOutput {
    /// Returns the report of a process that succeeded.
    pub(crate) fn report(&self, name: &str) -> Report {
        let Self { status, stdout, stderr } = self;
        assert!(status.success(), "{name} exited with {status}:\n{stdout}{stderr}");
        let last = stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("{name}: {error}:\n{stdout}{stderr}"))
    }
}
