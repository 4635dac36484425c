//! Starts a mock Keen and a real Envoy with `envoy.yaml`, prints one line for each call that
//! passes through Envoy, and stops on Ctrl-C. `make run` builds everything and starts it.

mod calls;
mod live;
mod ports;
mod terminal;

use harness::Envoy;
use live::LiveCalls;
use mock_keen::{MockKeen, Options, SegmentEndpoint};
use ports::Ports;
use std::{error::Error, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Interval at which the logs are read.
const POLL: Duration = Duration::from_millis(50);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run_until_signal().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run_until_signal() -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
        result = run() => result,
    }
}

/// Returns only with an error. Dropping the future stops the mock and Envoy.
async fn run() -> Result<()> {
    let ports = Ports::from_environment()?;
    ports.check()?;

    let config = harness::default_config();
    let sources = config["sources"].as_object();
    let write_key = sources.and_then(|sources| sources.keys().next()).cloned();
    let write_key = write_key.ok_or("envoy.yaml configures no source; add one under `sources`")?;
    let segment = SegmentEndpoint { url: format!("http://{}", ports.envoy()), write_key };

    let keen = Options { addr: ports.keen(), segment: Some(segment.clone()), ..Options::default() };
    let keen = MockKeen::start(keen).await?;
    let mut live = LiveCalls::new()?;
    let access_log = live.access_log_config();
    let envoy = Envoy::builder()
        .keen(keen.addr())
        .port(ports.envoy().port())
        .admin_port(ports.admin().port())
        .component_log_level("wasm:debug")
        .patch(move |bootstrap| harness::access_logs(bootstrap).push(access_log))
        .start()
        .await?;
    println!("{}", greeting(&envoy, &keen, &segment));

    let style = terminal::Style::from_environment();
    loop {
        tokio::time::sleep(POLL).await;
        for call in live.poll(envoy.log_path()) {
            println!("{}", call.line(style));
        }
        if let Some(status) = envoy.exited() {
            // `make drain` has stopped Envoy.
            if status.success() {
                println!("Envoy has stopped.");
                return Ok(());
            }
            let log = envoy.log_tail(20);
            return Err(format!("Envoy stopped ({status}); the end of its log:\n{log}").into());
        }
    }
}

fn greeting(envoy: &Envoy, keen: &MockKeen, segment: &SegmentEndpoint) -> String {
    let SegmentEndpoint { url, write_key } = segment;
    let (keen, admin, log) = (keen.addr(), envoy.admin_addr(), envoy.log_path().display());
    format!(
        r#"
Ready.

Envoy with keen-edge   {url}/   point an SDK here; write key: {write_key}
mock Keen              http://{keen}/   shows events as they arrive
Envoy's admin          http://{admin}/   metrics: /stats?filter=keen_edge
Envoy's log            {log}

Send a track call:

  curl -u {write_key}: {url}/v1/track -H 'Content-Type: application/json' \
    -d '{{"userId": "u1", "event": "Purchased", "properties": {{"item": "T-Shirt", "revenue": 19.99}},
         "context": {{"direct": true}}}}'

Ctrl-C stops both. Calls appear below.
"#
    )
}
