//! The command line: `mock-keen --port 8089`.

use clap::Parser;
use mock_keen::{MockKeen, Options, Project};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// A mock of Keen's write API, as strict as Keen.
///
/// Send events to http://ADDRESS:PORT/3.0/projects/ID/events and see them arrive on the page
/// at http://ADDRESS:PORT/.
#[derive(Parser)]
#[command(version, after_long_help = MORE, after_help = MORE)]
struct Arguments {
    /// The port to listen on; 0 picks a free one.
    #[arg(long, env = "KEEN_PORT", default_value_t = 8089)]
    port: u16,

    /// The address to listen on.
    #[arg(long, env = "KEEN_ADDRESS", default_value = "127.0.0.1")]
    address: IpAddr,

    /// A project and its write key; repeat it for several. Without it there is one project with
    /// a fixed id and key.
    #[arg(long = "project", value_name = "ID:WRITEKEY", value_parser = project)]
    projects: Vec<Project>,

    /// Also refuse collection names with a leading `_`, or a leading or trailing `.`, which only
    /// Keen's 2014 guide forbids.
    #[arg(long)]
    strict_names: bool,

    /// Close the connection after each reply, as in every recording of Keen.
    #[arg(long)]
    connection_close: bool,
}

const MORE: &str = "\
Over HTTP:
  GET    /                the page: events as they arrive
  GET    /_mock/events    the stored events (?project=ID&collection=NAME&limit=N)
  GET    /_mock/calls     the calls to the write API
  GET    /_mock/refusals  what was refused, and why
  GET    /_mock/counts    totals, and counts by collection
  GET    /_mock/stream    the same as server-sent events
  GET    /_mock/faults    the pending faults
  POST   /_mock/faults    add a fault, or an array of them
  DELETE /_mock/faults    remove all faults; hanging calls continue
  POST   /_mock/reset     remove events, tokens, calls, refusals and faults
  GET    /_mock/healthz   200 once the mock is ready

Faults. Optional in each: \"project\": \"ID\", \"times\": N or \"forever\", \"after_ms\": N.
  {\"kind\": \"status\", \"status\": 503, \"retry_after\": \"2\"}
  {\"kind\": \"delay\", \"ms\": 500}
  {\"kind\": \"cut_before\"}       {\"kind\": \"cut_after\"}        {\"kind\": \"truncated\"}
  {\"kind\": \"wrong_json\"}       {\"kind\": \"missing_results\"}  {\"kind\": \"short_results\"}
  {\"kind\": \"huge\", \"bytes\": 40000000}
  {\"kind\": \"refuse_collection\", \"collection\": \"signups\", \"name\": \"InvalidEventError\"}
  {\"kind\": \"refuse_property\", \"property\": \"user.id\", \"value\": 7, \"name\": \"InvalidEventError\"}
  {\"kind\": \"poison\", \"property\": \"user.id\", \"value\": 7, \"status\": 500}
  {\"kind\": \"hang\"}             {\"kind\": \"chaos\", \"seed\": 1, \"rate\": 0.3}";

fn project(text: &str) -> Result<Project, String> {
    match text.split_once(':') {
        Some((id, key)) if !id.is_empty() && !key.is_empty() => Ok(Project::new(id, key)),
        _ => Err("expected ID:WRITEKEY".to_owned()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mock-keen: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut options = Options {
        addr: SocketAddr::new(arguments.address, arguments.port),
        strict_names: arguments.strict_names,
        connection_close: arguments.connection_close,
        ..Options::default()
    };
    options.limits.events = 50_000;
    if !arguments.projects.is_empty() {
        options.projects = arguments.projects;
    }
    let projects: Vec<String> = options.projects.iter().map(|project| project.id.clone()).collect();
    let addr = options.addr;
    let mock = MockKeen::start(options).await.map_err(|error| explain(error, addr))?;
    println!("mock Keen: http://{}/", mock.addr());
    println!("projects:  {}", projects.join(", "));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    mock.stop().await;
    Ok(())
}

/// Adds what to do about the error.
fn explain(error: io::Error, addr: SocketAddr) -> io::Error {
    let port = addr.port();
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {port} is in use; choose another with KEEN_PORT=<port> or --port <port>")
        }
        io::ErrorKind::PermissionDenied => format!(
            "not allowed to listen on port {port}; choose another with KEEN_PORT=<port> or \
             --port <port>"
        ),
        _ => format!("cannot listen on {addr}: {error}"),
    };
    io::Error::new(error.kind(), why)
}
