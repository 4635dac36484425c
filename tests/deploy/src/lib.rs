//! Shared code of the tests of `deploy/`: tools, processes, free ports.
//!
//! `scripts/deploy-tools.sh` builds the tools in `target/deploy-tools`. Each test works in its own
//! directory in `target/tmp`.

pub mod chart_schema;
pub mod container_config;
pub mod document;
pub mod envoy;
pub mod generated;
pub mod kubernetes;
pub mod load;

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Returns the path of a tool, which is built if it is missing. The script reports its progress on
/// stderr.
///
/// # Panics
/// Panics if the tool cannot be built.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let script = harness::root().join("scripts/deploy-tools.sh");
    let output = Command::new(&script).arg(name).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(output.status.success(), "scripts/deploy-tools.sh {name} failed; see above");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Returns the path of the program `keen-edge`, which is built if needed.
///
/// # Panics
/// Panics if it cannot be built.
#[must_use]
pub fn keen_edge_program() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "keen-edge-cli", "--message-format", "json"]);
    let built = run(build.current_dir(harness::root())).expect_success();
    let messages = built.lines().filter_map(|line| serde_json::from_str(line).ok());
    let executable =
        |message: serde_json::Value| Some(PathBuf::from(message["executable"].as_str()?));
    messages
        .filter_map(executable)
        .next_back()
        .unwrap_or_else(|| panic!("no executable in\n{built}"))
}

/// Returns an empty directory `target/tmp/deploy-<name>`. It is kept for debugging.
///
/// # Panics
/// Panics if it cannot be created.
#[must_use]
pub fn fresh_dir(name: &str) -> PathBuf {
    let dir = harness::root().join("target/tmp").join(format!("deploy-{name}"));
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            panic!("{}: {error}", dir.display())
        }
        _ => {}
    }
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    dir
}

/// Returns a port on 127.0.0.1 that was free a moment ago.
///
/// # Panics
/// Panics if the system has none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// The ports of a copy of `envoy.yaml`.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The listener for SDKs.
    pub listener: u16,
    /// Envoy's admin interface.
    pub admin: u16,
    /// Keen.
    pub keen: u16,
}

impl Ports {
    /// Returns free ports for Envoy, and the port of a running mock of Keen.
    #[must_use]
    pub fn free(keen: SocketAddr) -> Self {
        Self { listener: free_port(), admin: free_port(), keen: keen.port() }
    }

    /// Replaces the three ports in the text of `envoy.yaml`, or of a file with the same ports.
    ///
    /// # Panics
    /// Panics if the text does not have each of them once.
    #[must_use]
    pub fn replace_in(&self, yaml: &str) -> String {
        let ports = [("8080", self.listener), ("9901", self.admin), ("8089", self.keen)];
        ports.iter().fold(yaml.to_owned(), |text, (shipped, port)| {
            let shipped = format!("port_value: {shipped}");
            assert_eq!(text.matches(&shipped).count(), 1, "{shipped} in\n{text}");
            text.replace(&shipped, &format!("port_value: {port}"))
        })
    }
}

/// Sends a track call of source `writeKey`, and waits until the mock of Keen has its event.
///
/// # Panics
/// Panics if the response is not 200, or if Keen does not get the event.
pub async fn assert_delivers(port: u16, keen: &mock_keen::MockKeen) {
    let events = keen.events().len();
    let sent = reqwest::Client::new()
        .post(format!("http://127.0.0.1:{port}/v1/track"))
        .basic_auth("writeKey", Some(""))
        .timeout(Duration::from_secs(20))
        .body(r#"{"userId": "u1", "event": "Deployed", "properties": {"n": 1}}"#)
        .send()
        .await;
    let answer = sent.unwrap_or_else(|error| panic!("port {port}: {error}"));
    assert_eq!(answer.status().as_u16(), 200);
    let stored = keen.wait_for_events(events + 1, Duration::from_secs(5)).await;
    stored.unwrap_or_else(|_| panic!("no event in Keen"));
    assert_eq!(keen.events()[events].collection, "Deployed");
}

/// Starts an image registry on loopback, and returns its address.
///
/// # Panics
/// Panics if it does not start.
pub async fn start_registry(dir: &Path) -> (Background, String) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let disk = dir.join("registry");
    fs::create_dir_all(&disk).unwrap_or_else(|error| panic!("{}: {error}", disk.display()));
    let mut command = Command::new(tool("crane"));
    command.args(["registry", "serve", "--address", &address, "--disk"]).arg(disk);
    let mut registry = Background::start(&command, &dir.join("registry.log"));
    registry.listens(port, Duration::from_secs(20)).await;
    (registry, address)
}

/// Waits until Envoy's admin interface reports that it is live.
///
/// # Panics
/// Panics if the process ends, or after 60 s.
pub async fn wait_until_live(process: &mut Background, admin_port: u16) {
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{admin_port}/ready");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = client.get(&url).timeout(Duration::from_secs(2)).send().await;
        if answer.is_ok_and(|answer| answer.status().as_u16() == 200) {
            return;
        }
        process.assert_running();
        assert!(Instant::now() < deadline, "Envoy is not live:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a command to its end.
///
/// # Panics
/// Panics if the command cannot be started.
#[must_use]
pub fn run(command: &mut Command) -> Finished {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Finished { shown: format!("{command:?}"), output }
}

/// The output of a command that has ended.
#[derive(Debug)]
pub struct Finished {
    shown: String,
    output: Output,
}

impl Finished {
    /// Whether the exit code is 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.output.status.success()
    }

    /// Returns standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Returns standard output and standard error.
    #[must_use]
    pub fn all_output(&self) -> String {
        format!("{}{}", self.stdout(), String::from_utf8_lossy(&self.output.stderr))
    }

    /// Returns standard output of a command that must succeed.
    ///
    /// # Panics
    /// Panics if the exit code is not 0.
    #[track_caller]
    #[must_use]
    pub fn expect_success(self) -> String {
        assert!(self.succeeded(), "{}: {}\n{}", self.shown, self.output.status, self.all_output());
        self.stdout()
    }

    /// Returns standard output and standard error of a command that must fail.
    ///
    /// # Panics
    /// Panics if the exit code is 0.
    #[track_caller]
    #[must_use]
    pub fn expect_failure(self) -> String {
        assert!(!self.succeeded(), "{} succeeded:\n{}", self.shown, self.all_output());
        self.all_output()
    }
}

/// A process in the background with its output in a file. It is killed when this value is dropped,
/// and when the test process ends.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts `command` with its output in `log`.
    ///
    /// # Panics
    /// Panics if it cannot be started.
    #[must_use]
    pub fn start(command: &Command, log: &Path) -> Self {
        let out =
            fs::File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let err = out.try_clone().expect("a second handle of the log");
        // util-linux's setpriv lets the kernel end the process with this one.
        let mut started = Command::new("setpriv");
        started.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program());
        started.args(command.get_args());
        if let Some(dir) = command.get_current_dir() {
            started.current_dir(dir);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => started.env(name, value),
                None => started.env_remove(name),
            };
        }
        started.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = started.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until something listens on a port of 127.0.0.1.
    ///
    /// # Panics
    /// Panics if the process ends before that, or after `limit`.
    pub async fn listens(&mut self, port: u16, limit: Duration) {
        let deadline = Instant::now() + limit;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            self.assert_running();
            assert!(Instant::now() < deadline, "nothing listens on {addr}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the output contains `text`.
    ///
    /// # Panics
    /// Panics if the process ends before that, or after `limit`.
    pub async fn logs(&mut self, text: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.log().contains(text) {
            self.assert_running();
            assert!(Instant::now() < deadline, "no {text:?} in the output:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends SIGTERM and waits for the end. After 15 s sends SIGKILL.
    pub fn terminate(&mut self) {
        if self.has_ended() {
            return;
        }
        let _ = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(15);
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().ok().flatten().is_some()
    }

    fn assert_running(&mut self) {
        assert!(!self.has_ended(), "the process has ended:\n{}", self.log());
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.terminate();
    }
}
