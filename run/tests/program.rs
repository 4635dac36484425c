//! The program as `make run` starts it: a real Envoy, a mock Keen, and a line for each call.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

struct Program {
    child: Child,
    lines: Receiver<String>,
    port: u16,
}

impl Program {
    fn start() -> Self {
        let [port, keen, admin] = free_ports();
        let mut child = command([port, keen, admin]).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let program = Self { child, lines, port };
        program.wait_for_line("Ctrl-C stops both");
        program
    }

    /// Returns the next line that contains `text`.
    #[track_caller]
    fn wait_for_line(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with {text:?}: {seen:?}"),
            }
        }
    }

    fn send(&self, request_line: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{request_line} HTTP/1.1\r\nhost: e\r\nauthorization: Basic d3JpdGVLZXk6\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn command([port, keen, admin]: [u16; 3]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_run"));
    command.env("PORT", port.to_string());
    command.env("KEEN_PORT", keen.to_string());
    command.env("ADMIN_PORT", admin.to_string());
    command
}

#[test]
fn program_prints_line_for_each_call() {
    let program = Program::start();
    let track = r#"{"userId": "u1", "event": "Purchased"}"#;
    assert!(program.send("POST /v1/track", track).starts_with("HTTP/1.1 200"));
    let line = program.wait_for_line("POST /v1/track");
    assert!(line.contains("  200  "), "{line}");
    assert!(line.ends_with("track \"Purchased\" → 1 event"), "{line}");

    assert!(program.send("POST /v1/page", r#"{"userId": "u1"}"#).starts_with("HTTP/1.1 200"));
    let line = program.wait_for_line("POST /v1/page");
    assert!(line.ends_with("page → nothing: no page setting matches"), "{line}");

    let batch =
        format!(r#"{{"batch": [{}]}}"#, [r#"{"type": "track", "event": "A"}"#; 3].join(","));
    program.send("POST /v1/batch", &batch);
    let line = program.wait_for_line("POST /v1/batch");
    assert!(line.ends_with("3 × track \"A\" → 3 events"), "{line}");

    program.send("POST /v1/track", "{");
    assert!(program.wait_for_line("POST /v1/track").contains("  400"));
    program.send("GET /elsewhere", "");
    let line = program.wait_for_line("GET /elsewhere");
    assert!(line.contains("404 (not a Segment path)"), "{line}");
}

#[test]
fn program_with_port_in_use_names_port_and_setting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = listener.local_addr().unwrap().port();
    let [_, keen, admin] = free_ports();
    let output = command([in_use, keen, admin]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains(&format!("port {in_use} is in use")), "{stderr}");
    assert!(stderr.contains("make run PORT="), "{stderr}");
}
