//! A mock Keen and a real Envoy with `envoy.yaml`, until Ctrl-C. `make run` brings what it needs and starts it.

use harness::Envoy;
use mock_keen::{MockKeen, Options};
use std::{
    env,
    error::Error,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match until_a_signal().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn until_a_signal() -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
        result = run() => result,
    }
}

/// Returns only with an error. Dropped at any point, it takes along what it started.
async fn run() -> Result<()> {
    let ports = Ports::from_environment()?;
    ports.check()?;

    let keen = MockKeen::start(Options { addr: local(ports.keen), ..Options::default() }).await?;
    let envoy = Envoy::builder()
        .keen(keen.addr())
        .port(ports.envoy)
        .admin_port(ports.admin)
        .start()
        .await?;
    println!("{}", what_to_try(&envoy, &keen));

    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Some(status) = envoy.exited() {
            return Err(format!(
                "Envoy ended ({status}); the end of its log:\n{}",
                envoy.log_tail(20)
            )
            .into());
        }
    }
}

fn what_to_try(envoy: &Envoy, keen: &MockKeen) -> String {
    let (segment, keen, admin, log) =
        (envoy.addr(), keen.addr(), envoy.admin_addr(), envoy.log_path().display());
    format!(
        r#"
Envoy with keen-edge   http://{segment}/        where SDKs send to; write key: writeKey
mock Keen              http://{keen}/        events as they arrive
Envoy's admin          http://{admin}/        statistics: /stats?filter=keen_edge
Envoy's log            {log}

Send a track, and see it at http://{keen}/

  curl -u writeKey: http://{segment}/v1/track -H 'Content-Type: application/json' \
    -d '{{"userId": "u1", "event": "Purchased", "properties": {{"item": "T-Shirt", "revenue": 19.99}}}}'

Ctrl-C ends both."#
    )
}

struct Ports {
    envoy: u16,
    keen: u16,
    admin: u16,
}

impl Ports {
    fn from_environment() -> Result<Self> {
        Ok(Self {
            envoy: port("PORT", 8080)?,
            keen: port("KEEN_PORT", 8089)?,
            admin: port("ADMIN_PORT", 9901)?,
        })
    }

    /// Envoy shares a port with another Envoy without a word, so whether each is free is asked here, of all at once.
    fn check(&self) -> Result<()> {
        let mut held = Vec::new();
        for (name, port) in
            [("PORT", self.envoy), ("KEEN_PORT", self.keen), ("ADMIN_PORT", self.admin)]
        {
            let listener = TcpListener::bind(local(port)).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!("port {port} is taken; choose another: make run {name}=<port>")
                }
                _ => format!("port {port}: {error}; choose another: make run {name}=<port>"),
            })?;
            held.push(listener);
        }
        Ok(())
    }
}

fn port(name: &str, default: u16) -> Result<u16> {
    match env::var(name) {
        Ok(text) => {
            text.parse().map_err(|_| format!("{name} must be a port number, not {text}").into())
        }
        Err(_) => Ok(default),
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
