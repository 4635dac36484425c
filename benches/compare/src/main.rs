//! keen-edge and its alternatives, side by side: one machine, one run, the same calls, the same upstream.
//!
//! Servers are pinned to one core, the load generator and the upstream to the other. Rounds of all rows are interleaved,
//! so that what disturbs the machine disturbs all of them, and the figures are medians.

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
    /// Rounds of each row and case; the figures are their medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one round.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Connections of the load generator.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Other builds of the filter, each a row beside the others: `name=path/to.wasm`.
    #[arg(long, value_delimiter = ',')]
    builds: Vec<String>,
    /// How keen-edge's cost grows, in place of the rows: a table, and docs/growth.svg.
    #[arg(long)]
    growth: bool,
    /// What keen-edge adds to Envoy's start and memory, in place of the rows.
    #[arg(long)]
    start: bool,
    /// Where a track's time goes, by samples of `perf`, in place of the rows.
    #[arg(long)]
    profile: bool,
    /// Whether memory grows over this many events, in place of the rows.
    #[arg(long)]
    soak: Option<u64>,
    /// Only these cases.
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
    if options.growth {
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
            Err(error) => println!("left out: {name}: {error}"),
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
                    // A rival too slow for one round is not the end of the others.
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

/// A row that cannot answer a track is no row.
fn answers(row: &Row) -> Result<(), String> {
    let case = Case {
        name: "track",
        path: "/v1/track",
        body: harness::root().join("benches/data/track.json"),
        events: 1,
    };
    let round = load::round(row.address, &row.pids, &case, 1, 1)?;
    if round.errors > 0 {
        Err(format!("{} of {} answers are errors", round.errors, round.requests))
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
