//! The mock as a program.

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
    /// The port to listen on; 0 takes a free one.
    #[arg(long, env = "KEEN_PORT", default_value_t = 8089)]
    port: u16,

    /// The address to listen on.
    #[arg(long, env = "KEEN_ADDRESS", default_value = "127.0.0.1")]
    address: IpAddr,

    /// A project and its write key; may be given more than once. One project is there if none
    /// is given.
    #[arg(long = "project", value_name = "ID:WRITEKEY", value_parser = project)]
    projects: Vec<Project>,

    /// Also refuse a collection name with a leading `_`, a leading or a trailing `.`, which
    /// only Keen's guide of 2014 forbids.
    #[arg(long)]
    strict_names: bool,

    /// Close the connection after each reply, as Keen did in every recording.
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
  GET    /_mock/faults    the faults still to come
  POST   /_mock/faults    order a fault, or an array of them
  DELETE /_mock/faults    forget the faults; calls that hang go on
  POST   /_mock/reset     forget events, tokens, calls, refusals and faults
  GET    /_mock/healthz   200 once it serves

Faults, each with \"project\": \"ID\", \"times\": N or \"forever\", and \"after_ms\": N if wanted:
  {\"kind\": \"status\", \"status\": 503, \"retry_after\": \"2\"}
  {\"kind\": \"delay\", \"ms\": 500}
  {\"kind\": \"cut_before\"}       {\"kind\": \"cut_after\"}        {\"kind\": \"truncated\"}
  {\"kind\": \"wrong_json\"}       {\"kind\": \"missing_results\"}  {\"kind\": \"short_results\"}
  {\"kind\": \"huge\", \"bytes\": 40000000}
  {\"kind\": \"refuse_collection\", \"collection\": \"signups\", \"name\": \"InvalidEventError\"}
  {\"kind\": \"refuse_property\", \"property\": \"user.id\", \"value\": 7, \"name\": \"InvalidEventError\"}
  {\"kind\": \"hang\"}             {\"kind\": \"chaos\", \"seed\": 1, \"rate\": 0.3}";

fn project(text: &str) -> Result<Project, String> {
    match text.split_once(':') {
        Some((id, key)) if !id.is_empty() && !key.is_empty() => Ok(Project::new(id, key)),
        _ => Err("give it as ID:WRITEKEY".to_owned()),
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

/// Says what to do about it.
fn explain(error: io::Error, addr: SocketAddr) -> io::Error {
    let port = addr.port();
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {port} is taken; choose another with KEEN_PORT=<port> or --port <port>")
        }
        io::ErrorKind::PermissionDenied => format!(
            "not allowed to listen on port {port}; choose another with KEEN_PORT=<port> or \
             --port <port>"
        ),
        _ => format!("cannot listen on {addr}: {error}"),
    };
    io::Error::new(error.kind(), why)
}
