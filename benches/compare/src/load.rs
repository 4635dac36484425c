//! One round of load: runs `wrk` against a server and measures the CPU time of its processes.

use serde::{Deserialize, Serialize};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A request that the load generator repeats.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) path: &'static str,
    pub(crate) body: PathBuf,
    /// Events in the body.
    pub(crate) events: u64,
}

/// Measurements of one round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Responses other than 2xx, and failed connections.
    pub(crate) errors: u64,
    /// CPU time of the server's processes, user and kernel.
    pub(crate) cpu_us_per_request: f64,
    pub(crate) rss_mb: f64,
}

#[derive(Deserialize)]
struct WrkReport {
    requests: u64,
    us: f64,
    p50: f64,
    p99: f64,
    errors: u64,
}

/// Sends requests for `seconds` over `connections`, without a warm-up.
pub(crate) fn round(
    address: SocketAddr,
    pids: &[u32],
    case: &Case,
    connections: u32,
    seconds: u32,
) -> Result<Round, String> {
    let before = cpu_ns(pids);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua/post.lua");
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            "--timeout",
            "10s",
            "-s",
        ])
        .arg(script)
        .arg(format!("http://{address}{}", case.path))
        .env("BODY", &case.body)
        .output()
        .map_err(|error| format!("wrk: {error}"))?;
    let after = cpu_ns(pids);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = text
        .lines()
        .find_map(|line| serde_json::from_str::<WrkReport>(line.strip_prefix("report ")?).ok());
    let report =
        report.ok_or_else(|| format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    if report.requests == 0 {
        return Err("no request was answered".to_owned());
    }
    Ok(Round {
        requests: report.requests,
        per_second: report.requests as f64 * 1e6 / report.us,
        p50_us: report.p50,
        p99_us: report.p99,
        errors: report.errors,
        cpu_us_per_request: after.saturating_sub(before) as f64 / 1000.0 / report.requests as f64,
        rss_mb: rss_mb(pids),
    })
}

/// CPU time of processes so far in nanoseconds, from the scheduler's statistics of each thread.
pub(crate) fn cpu_ns(pids: &[u32]) -> u64 {
    let tasks = pids
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Resident memory of processes in MB.
pub(crate) fn rss_mb(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| rss_kb(*pid)).sum::<u64>() as f64 / 1024.0
}

fn rss_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// Pins a process and all its threads to one core.
pub(crate) fn pin(pid: u32, core: u32) -> Result<(), String> {
    pin_to(pid, &core.to_string())
}

/// Pins a process and all its threads to a list of cores, as `taskset` writes it.
pub(crate) fn pin_to(pid: u32, cores: &str) -> Result<(), String> {
    let output = Command::new("taskset").args(["-a", "-c", "-p", cores, &pid.to_string()]).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("taskset: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("taskset: {error}")),
    }
}
