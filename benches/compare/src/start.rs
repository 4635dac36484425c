//! Measures what keen-edge adds to Envoy's start-up time, and its memory per worker.

use crate::load::{self, Case};
use crate::scenarios::{Row, floor, keen_edge_with};
use harness::root;
use serde_json::json;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::time::Instant;

/// One way to start Envoy, and the measurements of its rounds.
struct StartScenario {
    name: &'static str,
    /// Number of workers with the filter; `None` is Envoy without it.
    workers: Option<u32>,
    /// Cores that Envoy may use, as `taskset` writes them. V8 compiles on all of them.
    cores: &'static str,
    start_ms: Vec<f64>,
    rss_mb: Vec<f64>,
    /// Resident memory after load.
    used_mb: Vec<f64>,
}

/// Starts Envoy with and without the filter in turns. Prints a table; writes `target/start.json`.
pub(crate) async fn run(upstream: SocketAddr, rounds: usize) -> Result<(), Box<dyn Error>> {
    let body = root().join("benches/data/track.json");
    let track = Case { name: "track", path: "/v1/track", body, events: 1 };
    let scenario = |name, workers, cores| StartScenario {
        name,
        workers,
        cores,
        start_ms: vec![],
        rss_mb: vec![],
        used_mb: vec![],
    };
    let mut runs = [
        scenario("Envoy alone", None, "1"),
        scenario("1 worker", Some(1), "1"),
        scenario("2 workers", Some(2), "1"),
        scenario("4 workers", Some(4), "1"),
        scenario("1 worker, both cores", Some(1), "0,1"),
    ];
    for _ in 0..rounds {
        for scenario in &mut runs {
            // Envoy inherits the affinity of this process.
            load::pin_to(std::process::id(), scenario.cores)?;
            let began = Instant::now();
            let row: Row = match scenario.workers {
                None => floor(upstream).await?,
                Some(workers) => keen_edge_with(upstream, workers, |_| {}).await?,
            };
            scenario.start_ms.push(began.elapsed().as_secs_f64() * 1000.0);
            load::pin(std::process::id(), 1)?;
            scenario.rss_mb.push(load::rss_mb(&row.pids));
            let round = load::round(row.address, &row.pids, &track, 64, 1)?;
            scenario.used_mb.push(round.rss_mb);
        }
    }
    println!("{:<20} {:>9} {:>12} {:>12}", "", "start ms", "RSS MB", "after load");
    let mut found = json!({});
    for scenario in &runs {
        let [start, rss, used] = [&scenario.start_ms, &scenario.rss_mb, &scenario.used_mb]
            .map(|figures| median(figures));
        println!("{:<20} {start:>9.0} {rss:>12.1} {used:>12.1}", scenario.name);
        found[scenario.name] = json!({"start_ms": start, "rss_mb": rss, "rss_after_load_mb": used});
    }
    let file = root().join("target/start.json");
    fs::write(&file, format!("{:#}\n", found))?;
    println!("\n{}", file.display());
    Ok(())
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
