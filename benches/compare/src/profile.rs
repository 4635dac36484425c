//! Samples where the time of a track request goes: the module's own code, its hostcalls, the rest
//! of Envoy, the kernel.

use crate::load::{self, Case};
use crate::scenarios::{Row, floor, keen_edge_row, minimal_filter};
use harness::root;
use serde_json::json;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

const CONNECTIONS: u32 = 64;
const SECONDS: u32 = 5;

/// Number of samples by the code that was running.
#[derive(Debug, Default)]
struct Samples {
    module: u64,
    hostcalls: u64,
    envoy: u64,
    kernel: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// Code that V8 compiled.
    Module,
    Kernel,
    Envoy,
}

/// Samples Envoy without a filter, with the minimal filter, and with keen-edge. Prints a table;
/// writes `target/profile.json`.
pub(crate) async fn run(upstream: SocketAddr) -> Result<(), Box<dyn Error>> {
    let body = root().join("benches/data/track.json");
    let track = Case { name: "track", path: "/v1/track", body, events: 1 };
    println!(
        "{:<12} {:>8} {:>8} {:>10} {:>8} {:>8}",
        "", "us/req", "module", "hostcalls", "Envoy", "kernel"
    );
    let mut found = json!({});
    for row in
        [floor(upstream).await?, minimal_filter(upstream).await?, keen_edge_row(upstream).await?]
    {
        // Sampling itself costs time, so the cost of a request is measured first and divided
        // afterwards.
        let cost =
            load::round(row.address, &row.pids, &track, CONNECTIONS, SECONDS)?.cpu_us_per_request;
        let samples = sampled(&row, &track)?;
        let all = samples.module + samples.hostcalls + samples.envoy + samples.kernel;
        let share = |count: u64| cost * count as f64 / all as f64;
        let [module, calls, envoy, kernel] =
            [samples.module, samples.hostcalls, samples.envoy, samples.kernel].map(share);
        println!(
            "{:<12} {cost:>8.1} {module:>8.1} {calls:>10.1} {envoy:>8.1} {kernel:>8.1}",
            row.name
        );
        found[&row.name] = json!({
            "cpu_us_per_request": cost, "samples": all,
            "module_us": module, "hostcalls_us": calls, "envoy_us": envoy, "kernel_us": kernel,
        });
    }
    let file = root().join("target/profile.json");
    fs::write(&file, format!("{found:#}\n"))?;
    println!("\n{}", file.display());
    Ok(())
}

fn sampled(row: &Row, track: &Case) -> Result<Samples, Box<dyn Error>> {
    let pid = row.pids.first().ok_or("no process")?.to_string();
    let data = root().join("target/perf.data");
    let mut perf = Command::new("perf")
        .args(["record", "-q", "-F", "4999", "-e", "cpu-clock", "-g", "-p", &pid, "-o"])
        .arg(&data)
        .args(["--", "sleep", &(SECONDS - 1).to_string()])
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("perf: {error}; install Debian's linux-perf"))?;
    let round = load::round(row.address, &row.pids, track, CONNECTIONS, SECONDS);
    if !perf.wait()?.success() {
        return Err("perf record failed; check kernel.perf_event_paranoid".into());
    }
    round?;
    let samples = read(&data);
    fs::remove_file(&data)?;
    samples
}

/// Parses `perf script` output: one line per frame, innermost first, an empty line after each
/// stack.
fn read(data: &Path) -> Result<Samples, Box<dyn Error>> {
    let mut script = Command::new("perf")
        .args(["script", "--no-inline", "-F", "ip,sym,dso", "-i"])
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut samples = Samples::default();
    let mut stack: Vec<Frame> = Vec::new();
    for line in
        BufReader::new(script.stdout.take().ok_or("perf script printed nothing")?).split(b'\n')
    {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if line.trim().is_empty() {
            count(&mut samples, &stack);
            stack.clear();
        } else {
            stack.push(frame(&line));
        }
    }
    count(&mut samples, &stack);
    if !script.wait()?.success() || samples.envoy == 0 {
        return Err("perf script has no samples of Envoy".into());
    }
    Ok(samples)
}

fn frame(line: &str) -> Frame {
    let object = line.rsplit_once('(').map_or("", |(_, object)| object);
    // JIT code belongs to no file: perf attributes it to a map file or to anonymous memory.
    match object {
        object if object.contains("[kernel") => Frame::Kernel,
        object if object.contains("/perf-") || object.contains("anon") => Frame::Module,
        _ => Frame::Envoy,
    }
}

fn count(samples: &mut Samples, stack: &[Frame]) {
    let Some(innermost) = stack.first() else { return };
    let counter = match (innermost, stack.contains(&Frame::Module)) {
        (Frame::Module, _) => &mut samples.module,
        (_, true) => &mut samples.hostcalls,
        (Frame::Kernel, false) => &mut samples.kernel,
        (Frame::Envoy, false) => &mut samples.envoy,
    };
    *counter += 1;
}
