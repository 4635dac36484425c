//! Measures how the cost scales with connections, events per body, bytes, sources and workers, and
//! whether memory grows over time.

use crate::load::{self, Case};
use crate::scenarios::{Row, keen_edge_with};
use harness::root;
use serde_json::{Value, json};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One panel of the plot: the variable, the unit of the cost, and the points (value, CPU us).
struct Line {
    name: &'static str,
    unit: &'static str,
    points: Vec<(f64, f64)>,
}

/// Returns the median CPU time of a request in microseconds.
fn point(row: &Row, case: &Case, connections: u32, rounds: usize) -> Result<f64> {
    let mut figures = Vec::new();
    for _ in 0..rounds {
        let round = load::round(row.address, &row.pids, case, connections, 1)?;
        if round.errors > 0 {
            return Err(format!("{}: {} errors", case.name, round.errors).into());
        }
        figures.push(round.cpu_us_per_request);
    }
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().ok_or_else(|| "no rounds".into())
}

fn body(name: &str, value: &Value) -> Result<PathBuf> {
    let file = root().join("target/tmp").join(name);
    fs::write(&file, value.to_string())?;
    Ok(file)
}

fn data(name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(root().join("benches/data").join(name))?)?)
}

/// Measures all lines. Prints a table; writes `target/scaling.json` and `docs/scaling.svg`.
pub(crate) async fn run(upstream: SocketAddr, rounds: usize) -> Result<()> {
    let track = data("track.json")?;
    let single =
        Case { name: "track", path: "/v1/track", body: body("track.json", &track)?, events: 1 };
    let mut lines = Vec::new();

    // A body of 1,000 events must fit.
    let row =
        keen_edge_with(upstream, 1, |config| config["limits"] = json!({"bodyBytes": 1_000_000}))
            .await?;
    let mut points = Vec::new();
    for connections in [1, 4, 16, 64, 256, 1000] {
        points.push((f64::from(connections), point(&row, &single, connections, rounds)?));
    }
    lines.push(Line { name: "connections", unit: "per request", points });

    let mut points = Vec::new();
    for events in [1_u32, 3, 10, 30, 100, 300, 1000] {
        let mut message = track.clone();
        message["type"] = json!("track");
        let batch = json!({"batch": vec![message; events as usize]});
        let case = Case {
            name: "batch",
            path: "/v1/batch",
            body: body("scaling-batch.json", &batch)?,
            events: events.into(),
        };
        points.push((f64::from(events), point(&row, &case, 4, rounds)? / f64::from(events)));
    }
    lines.push(Line { name: "events per body", unit: "per event", points });

    let mut points = Vec::new();
    for bytes in [200_usize, 600, 2000, 6000, 20_000, 60_000, 200_000] {
        let mut message =
            json!({"userId": "u", "event": "Sized", "messageId": "m", "properties": {}});
        let mut at = 0;
        while message.to_string().len() + 60 < bytes {
            message["properties"][format!("property{at}")] =
                json!("a value of about forty characters, as usual");
            at += 1;
        }
        let case = Case {
            name: "size",
            path: "/v1/track",
            body: body("scaling-size.json", &message)?,
            events: 1,
        };
        points.push((bytes as f64 / 1000.0, point(&row, &case, 4, rounds)?));
    }
    lines.push(Line { name: "KB per body", unit: "per request", points });
    drop(row);

    let mut points = Vec::new();
    for sources in [1_u32, 10, 100, 1000] {
        let row = keen_edge_with(upstream, 1, |config| {
            let source = config["sources"]["writeKey"].clone();
            for other in 1..sources {
                let mut source = source.clone();
                source["projectId"] = json!(format!("{other:024x}"));
                source["name"] = json!(format!("source{other}"));
                config["sources"][format!("key{other}")] = source;
            }
        })
        .await?;
        points.push((f64::from(sources), point(&row, &single, 64, rounds)?));
    }
    lines.push(Line { name: "sources", unit: "per request", points });

    let mut points = Vec::new();
    for workers in [1_u32, 2] {
        let row = keen_edge_with(upstream, workers, |_| {}).await?;
        points.push((f64::from(workers), point(&row, &single, 64, rounds)?));
    }
    lines.push(Line { name: "workers", unit: "per request", points });

    report(&lines)
}

fn report(lines: &[Line]) -> Result<()> {
    let mut found = json!({});
    for line in lines {
        println!("\n{:<18} us {}", line.name, line.unit);
        for (at, cpu) in &line.points {
            println!("{at:>18} {cpu:.2}");
        }
        found[line.name] = json!(line.points);
    }
    fs::write(root().join("target/scaling.json"), format!("{found:#}\n"))?;
    fs::create_dir_all(root().join("docs"))?;
    fs::write(root().join("docs/scaling.svg"), plot(lines))?;
    println!("\n{}", root().join("docs/scaling.svg").display());
    Ok(())
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 180.0;

/// Draws one panel per line: the variable on a logarithmic axis, microseconds from zero.
fn plot(lines: &[Line]) -> String {
    let columns = 3;
    let rows = lines.len().div_ceil(columns);
    let (wide, high) = (columns as f64 * (WIDTH + 70.0), rows as f64 * (HEIGHT + 80.0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{wide}\" height=\"{high}\" fill=\"#ffffff\"/>\n"
    );
    for (panel, line) in lines.iter().enumerate() {
        let left = (panel % columns) as f64 * (WIDTH + 70.0) + 50.0;
        let top = (panel / columns) as f64 * (HEIGHT + 80.0) + 36.0;
        let most = line.points.iter().map(|(_, cpu)| *cpu).fold(0.0, f64::max) * 1.15;
        let (first, last) = (line.points[0].0.ln(), line.points[line.points.len() - 1].0.ln());
        let x = |at: f64| left + (at.ln() - first) / (last - first) * WIDTH;
        let y = |cpu: f64| top + HEIGHT - cpu / most * HEIGHT;
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\" fill=\"#222\">{}: CPU µs {}</text>",
            top - 14.0,
            line.name,
            line.unit
        );
        for part in 0..=4 {
            let cpu = most * f64::from(part) / 4.0;
            let _ = writeln!(
                svg,
                "<line x1=\"{left}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{}\" \
                 text-anchor=\"end\" fill=\"#555\">{cpu:.0}</text>",
                left + WIDTH,
                left - 6.0,
                y(cpu) + 4.0,
                y = y(cpu)
            );
        }
        let path: Vec<String> =
            line.points.iter().map(|(at, cpu)| format!("{:.1},{:.1}", x(*at), y(*cpu))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#0b6e99\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (at, cpu) in &line.points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#0b6e99\"/><text x=\"{x:.1}\" y=\"{}\" \
                 text-anchor=\"middle\" fill=\"#555\">{at}</text>",
                y(*cpu),
                top + HEIGHT + 16.0,
                x = x(*at)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Sends `events` events in batches of 100 and prints the resident memory. Fails if it grows by
/// more than a tenth after the first round.
pub(crate) async fn soak(upstream: SocketAddr, events: u64) -> Result<()> {
    let row = keen_edge_with(upstream, 1, |_| {}).await?;
    let batch = Case {
        name: "batch",
        path: "/v1/batch",
        body: root().join("benches/data/batch.json"),
        events: 100,
    };
    let (mut sent, mut warm) = (0, 0.0);
    while sent < events {
        let round = load::round(row.address, &row.pids, &batch, 64, 2)?;
        if round.errors > 0 {
            return Err(format!("{} errors", round.errors).into());
        }
        sent += round.requests * batch.events;
        if warm == 0.0 {
            warm = round.rss_mb;
        }
        println!("{sent:>9} events, {:.1} MB resident", round.rss_mb);
        if round.rss_mb > warm * 1.1 {
            return Err(format!("memory grew from {warm:.1} to {:.1} MB", round.rss_mb).into());
        }
    }
    Ok(())
}
