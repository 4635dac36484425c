//! Compares keen-edge with its alternatives on one machine, in one run, with the same requests and
//! the same upstream.
//!
//! Servers are pinned to one core, the load generator and the upstream to the other. The rounds of
//! all scenarios are interleaved, so that noise on the machine affects all of them equally. Figures
//! are medians of the rounds.

mod baselines;
mod load;
mod profile;
mod scaling;
mod scenarios;
mod start;
mod upstream;

use clap::Parser;
use load::{Case, Round};
use scenarios::Row;
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about)]
struct Options {
    /// Rounds of each scenario and case; the figures are medians over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one round in seconds.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Connections that the load generator keeps open.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Run only these scenarios (comma-separated names of the table's first column).
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Other builds of the filter to measure in the same run: `name=path/to.wasm`.
    #[arg(long, value_delimiter = ',')]
    builds: Vec<String>,
    /// Measure how the cost scales instead: a table, and docs/scaling.svg.
    #[arg(long)]
    scaling: bool,
    /// Measure start-up time and memory instead.
    #[arg(long)]
    start: bool,
    /// Sample with `perf` where the time of a track request goes instead.
    #[arg(long)]
    profile: bool,
    /// Send this many events instead, and fail if memory grows.
    #[arg(long)]
    soak: Option<u64>,
    /// Run only these cases: track, batch.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    load::pin(std::process::id(), 1)?;
    let (address, seen) = upstream::start(Duration::ZERO)?;
    if options.scaling {
        return scaling::run(address, options.rounds).await;
    }
    if options.start {
        return start::run(address, options.rounds).await;
    }
    if options.profile {
        return profile::run(address).await;
    }
    if let Some(events) = options.soak {
        return scaling::soak(address, events).await;
    }
    let wanted = |name: &str| options.rows.is_empty() || options.rows.iter().any(|row| row == name);
    let mut all = Vec::new();
    if wanted("floor") {
        all.push(scenarios::floor(address).await?);
    }
    if wanted("proxy") {
        all.push(scenarios::proxy(address).await?);
    }
    if wanted("wasm-reply") {
        all.push(scenarios::minimal_filter(address).await?);
    }
    if wanted("wasm-call") {
        all.push(scenarios::minimal_filter_call(address).await?);
    }
    for name in scenarios::STEPS.into_iter().filter(|name| wanted(name)) {
        all.push(scenarios::step(name, address).await?);
    }
    if wanted("keen-edge") {
        all.push(scenarios::keen_edge_row(address).await?);
    }
    if wanted("keen-edge-users") {
        all.push(scenarios::remembering(address).await?);
    }
    for build in &options.builds {
        all.push(scenarios::another_build(address, build).await?);
    }
    for name in baselines::ALL.into_iter().filter(|name| wanted(name)) {
        match baselines::start(name, address).await.and_then(|row| answers(&row).map(|()| row)) {
            Ok(row) => all.push(row),
            Err(error) => println!("skipped: {name}: {error}"),
        }
    }
    let data = harness::root().join("benches/data");
    let mut cases = vec![
        Case { name: "track", path: "/v1/track", body: data.join("track.json"), events: 1 },
        Case { name: "batch", path: "/v1/batch", body: data.join("batch.json"), events: 100 },
    ];
    cases.retain(|case| {
        options.cases.is_empty() || options.cases.iter().any(|name| name == case.name)
    });

    let mut results = Vec::new();
    for case in &cases {
        let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); all.len()];
        let mut calls = vec![0_u64; all.len()];
        for turn in 0..options.rounds {
            for (at, row) in all.iter().enumerate() {
                let (before, _) = seen.so_far();
                let round = match load::round(
                    row.address,
                    &row.pids,
                    case,
                    options.connections,
                    options.seconds,
                ) {
                    Ok(round) => round,
                    // A baseline that fails one round does not stop the others.
                    Err(error) => {
                        eprintln!("{} round {}: {}: {error}", case.name, turn + 1, row.name);
                        continue;
                    }
                };
                calls[at] += seen.so_far().0 - before;
                eprintln!(
                    "{} round {} of {}: {:<14} {:7.1} us a request, {:6.0} a second",
                    case.name,
                    turn + 1,
                    options.rounds,
                    row.name,
                    round.cpu_us_per_request,
                    round.per_second
                );
                rounds[at].push(round);
            }
        }
        results.extend(
            all.iter()
                .zip(rounds)
                .zip(calls)
                .map(|((row, rounds), calls)| summary(row, case, &rounds, calls)),
        );
    }
    for case in &cases {
        print_table(case, &results);
    }
    let file = harness::root().join("target/bench.json");
    write(&file, options, &results)?;
    println!("\n{}", file.display());
    Ok(())
}

/// Checks that a server answers a track request before it is measured.
fn answers(row: &Row) -> Result<(), String> {
    let case = Case {
        name: "track",
        path: "/v1/track",
        body: harness::root().join("benches/data/track.json"),
        events: 1,
    };
    let round = load::round(row.address, &row.pids, &case, 1, 1)?;
    if round.errors > 0 {
        Err(format!("{} of {} responses are errors", round.errors, round.requests))
    } else {
        Ok(())
    }
}

fn median(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn summary(row: &Row, case: &Case, rounds: &[Round], calls: u64) -> Value {
    let requests: u64 = rounds.iter().map(|round| round.requests).sum();
    let cpu = median(rounds, |round| round.cpu_us_per_request);
    json!({
        "row": row.name,
        "about": row.about,
        "case": case.name,
        "confirmed": row.confirmed,
        "cpu_us_per_request": cpu,
        "cpu_us_per_request_least": rounds.iter().map(|round| round.cpu_us_per_request).fold(f64::NAN, f64::min),
        "cpu_us_per_event": cpu / case.events as f64,
        "requests_per_second": median(rounds, |round| round.per_second),
        "p50_us": median(rounds, |round| round.p50_us),
        "p99_us": median(rounds, |round| round.p99_us),
        "rss_mb": median(rounds, |round| round.rss_mb),
        "requests_per_upstream_call": if calls == 0 { Value::Null } else { json!(requests as f64 / calls as f64) },
        "errors": rounds.iter().map(|round| round.errors).sum::<u64>(),
        "rounds": rounds,
    })
}

fn print_table(case: &Case, results: &[Value]) {
    let of = |row: &str, figure: &str| {
        let found =
            results.iter().find(|result| result["row"] == row && result["case"] == case.name);
        found.and_then(|result| result[figure].as_f64()).unwrap_or(f64::NAN)
    };
    let (proxy, floor) = (of("proxy", "cpu_us_per_request"), of("floor", "cpu_us_per_request"));
    println!("\n{}: {} event(s) a request", case.name, case.events);
    println!(
        "{:<15} {:>8} {:>8} {:>8} {:>7} {:>7} {:>9} {:>8} {:>8} {:>7} {:>7}  ",
        "",
        "us/req",
        "least",
        "us/event",
        "xproxy",
        "xfloor",
        "req/s",
        "p50 us",
        "p99 us",
        "RSS MB",
        "errors"
    );
    for result in results.iter().filter(|result| result["case"] == case.name) {
        let figure = |name: &str| result[name].as_f64().unwrap_or(f64::NAN);
        let cpu = figure("cpu_us_per_request");
        println!(
            "{:<15} {:>8.1} {:>8.1} {:>8.2} {:>7.2} {:>7.2} {:>9.0} {:>8.0} {:>8.0} {:>7.0} {:>7}  {}",
            result["row"].as_str().unwrap_or_default(),
            cpu,
            figure("cpu_us_per_request_least"),
            figure("cpu_us_per_event"),
            cpu / proxy,
            cpu / floor,
            figure("requests_per_second"),
            figure("p50_us"),
            figure("p99_us"),
            figure("rss_mb"),
            result["errors"],
            result["about"].as_str().unwrap_or_default(),
        );
    }
}

fn write(file: &Path, options: &Options, results: &[Value]) -> Result<(), Box<dyn Error>> {
    let wasm = harness::wasm_path()?;
    let all = json!({
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": options.connections,
        "module_bytes": std::fs::metadata(wasm)?.len(),
        "results": results,
    });
    std::fs::write(file, format!("{all:#}\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options that docs/performance.md shows.
    #[test]
    fn options_of_the_document_are_read() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut read = 0;
        for line in page.lines().filter_map(|line| line.strip_prefix("make bench BENCH_ARGS=\"")) {
            let (options, _) = line.split_once('"').unwrap();
            let words = ["bench"].into_iter().chain(options.split(' '));
            Options::try_parse_from(words).unwrap_or_else(|error| panic!("{options}: {error}"));
            read += 1;
        }
        assert!(read >= 5, "{read} commands");
    }
}
