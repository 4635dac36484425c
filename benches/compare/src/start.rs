//! What keen-edge adds to Envoy's start, and what it keeps in memory for each worker.

use crate::load::{self, Case};
use crate::scenarios::{Row, floor, keen_edge_with};
use harness::root;
use serde_json::json;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::time::Instant;

/// One kind of start, and what its rounds came to.
struct MessageType {
    name: &'static str,
    /// With the filter; without it, Envoy alone.
    workers: Option<u32>,
    /// V8 compiles on all cores that it may have.
    cores: &'static str,
    start_ms: Vec<f64>,
    rss_mb: Vec<f64>,
    /// After calls to each worker.
    used_mb: Vec<f64>,
}

/// Starts Envoy with and without the filter, in turns; a table, and `target/start.json`.
pub(crate) async fn run(upstream: SocketAddr, rounds: usize) -> Result<(), Box<dyn Error>> {
    let body = root().join("benches/data/track.json");
    let track = Case { name: "track", path: "/v1/track", body, events: 1 };
    let kind = |name, workers, cores| MessageType {
        name,
        workers,
        cores,
        start_ms: vec![],
        rss_mb: vec![],
        used_mb: vec![],
    };
    let mut kinds = [
        kind("Envoy alone", None, "1"),
        kind("1 worker", Some(1), "1"),
        kind("2 workers", Some(2), "1"),
        kind("4 workers", Some(4), "1"),
        kind("1 worker, both cores", Some(1), "0,1"),
    ];
    for _ in 0..rounds {
        for kind in &mut kinds {
            // Envoy starts on the cores of whoever starts it.
            load::pin_to(std::process::id(), kind.cores)?;
            let began = Instant::now();
            let row: Row = match kind.workers {
                None => floor(upstream).await?,
                Some(workers) => keen_edge_with(upstream, workers, |_| {}).await?,
            };
            kind.start_ms.push(began.elapsed().as_secs_f64() * 1000.0);
            load::pin(std::process::id(), 1)?;
            kind.rss_mb.push(load::rss_mb(&row.pids));
            let round = load::round(row.address, &row.pids, &track, 64, 1)?;
            kind.used_mb.push(round.rss_mb);
        }
    }
    println!("{:<20} {:>9} {:>12} {:>12}", "", "start ms", "RSS MB", "after load");
    let mut found = json!({});
    for kind in &kinds {
        let [start, rss, used] =
            [&kind.start_ms, &kind.rss_mb, &kind.used_mb].map(|figures| median(figures));
        println!("{:<20} {start:>9.0} {rss:>12.1} {used:>12.1}", kind.name);
        found[kind.name] = json!({"start_ms": start, "rss_mb": rss, "rss_after_load_mb": used});
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
