//! moto: a queue that checks the signatures of AWS requests.

use super::{Server, install};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// A running moto.
#[derive(Debug)]
pub struct Moto {
    /// The address of moto.
    pub addr: SocketAddr,
    /// The queue's URL.
    pub queue_url: String,
    /// The access key id of the user who may use the queue.
    pub access_key: String,
    /// The secret of that user.
    pub secret_key: String,
    _server: Server,
}

impl Moto {
    /// Starts a moto with a queue.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start() -> Self {
        let started = tokio::task::spawn_blocking(|| {
            let python = install("moto").join("venv/bin/python");
            let script = harness::root().join("tests/overflow-queues/queues/moto_queue.py");
            let mut command = Command::new(python);
            // The script watches its standard input, so that moto ends with this process.
            command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut server = Server(command.spawn().unwrap_or_else(|error| panic!("{error}")));
            let mut line = String::new();
            let out = server.0.stdout.take().unwrap_or_else(|| panic!("no output"));
            let read = BufReader::new(out).read_line(&mut line);
            read.unwrap_or_else(|error| panic!("{error}"));
            (server, line)
        });
        let (server, line) = started.await.unwrap_or_else(|error| panic!("{error}"));
        let found: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text =
            |name: &str| found[name].as_str().unwrap_or_else(|| panic!("{found}")).to_owned();
        let port = found["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], port.unwrap_or_else(|| panic!("{found}")))),
            queue_url: text("queueUrl"),
            access_key: text("accessKey"),
            secret_key: text("secretKey"),
            _server: server,
        }
    }
}
