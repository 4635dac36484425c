//! `scripts/drain.sh` stops Envoy under load, as docs/operating.md describes.

use deploy::document::commands;
use deploy::envoy::{Envoy, until, with_local_addresses};
use deploy::fresh_dir;
use deploy::generated::read;
use deploy::load::Load;
use mock_keen::{Fault, MockKeen, Options};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

async fn envoy(name: &str, keen: &MockKeen, change: impl FnOnce(String) -> String) -> Envoy {
    let text = read("envoy.yaml").replace("target/keen_edge.wasm", deploy::generated::WASM_PATH);
    let text = change(with_local_addresses(&text, keen.addr()));
    let envoy = Envoy::start(&fresh_dir(name), &text).await;
    envoy.ready().await;
    envoy
}

/// Runs a shell command of this repository. Returns its exit code and its messages.
async fn shell(command: &str) -> (i32, String) {
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["-e", "-c", command]).current_dir(harness::root()).stdin(Stdio::null());
    let output = bash.output().await.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("{text}");
    (output.status.code().unwrap(), text)
}

async fn drain(envoy: &Envoy, options: &str) -> (i32, String) {
    shell(&format!("scripts/drain.sh --admin {} {options}", envoy.admin())).await
}

async fn ended(envoy: &mut Envoy) {
    until("Envoy has ended", async || envoy.has_ended().then_some(())).await;
}

/// A load balancer: new connections go to `first` while its health check succeeds, then to
/// `second`.
async fn balancer(first: &Envoy, second: &Envoy) -> SocketAddr {
    let (a, b) = (first.listener("segment").await, second.listener("segment").await);
    let healthy = Arc::new(AtomicBool::new(true));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (seen, admin) = (healthy.clone(), first.admin());
    tokio::spawn(async move {
        loop {
            let ready = reqwest::get(format!("http://{admin}/ready")).await;
            seen.store(ready.is_ok_and(|response| response.status() == 200), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = if healthy.load(Ordering::Relaxed) { a } else { b };
            tokio::spawn(async move {
                if let Ok(mut upstream) = TcpStream::connect(to).await {
                    let _ = copy_bidirectional(&mut client, &mut upstream).await;
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn drain_under_load_fails_no_call() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    // Keen is slow enough that some requests always wait.
    keen.fault(Fault::delay(100).forever());
    let mut first = envoy("drain-first", &keen, |text| text).await;
    let second = envoy("drain-second", &keen, |text| text).await;
    let load = Load::start(balancer(&first, &second).await);
    load.further(50).await;
    assert!(first.stat("http.segment.downstream_rq_active").await > 0);

    let command = commands("docs/operating.md", "## Graceful shutdown")
        .replace("127.0.0.1:9901", &first.admin().to_string());
    let started = Instant::now();
    let (code, output) = shell(&command).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("drained after"), "{output}");
    ended(&mut first).await;
    println!("{:?}", started.elapsed());

    let at_the_end = load.calls();
    load.further(50).await;
    let calls = load.stop().await;
    assert!(at_the_end > 100, "{at_the_end} calls during the drain");
    until("Keen has each call's event", async || {
        (keen.events().len() as u64 == calls).then_some(())
    })
    .await;
    first.assert_filter_is_well();
}

/// Events of calls that were answered at once have no waiting client. The drain waits for their
/// delivery.
#[tokio::test]
async fn drain_with_accepted_events_waits_until_keen_has_them() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let accept = |text: String| text.replace("ack: confirmed", "ack: accepted");
    let mut envoy = envoy("drain-accepted", &keen, accept).await;
    let url = format!("http://{}/v1/track", envoy.listener("segment").await);
    keen.stop().await;
    for i in 0..20 {
        let body = format!(r#"{{"userId": "u", "event": "Accepted {i}"}}"#);
        let call = reqwest::Client::new().post(&url).basic_auth("writeKey", Some("")).body(body);
        assert_eq!(call.send().await.unwrap().status(), 200);
    }
    let back = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        keen.start_again().await.unwrap();
    };
    let ((code, output), ()) = tokio::join!(drain(&envoy, "--notice 1 --timeout 40"), back);
    assert_eq!(code, 0, "{output}");
    ended(&mut envoy).await;
    assert_eq!(keen.events().len(), 20);
}

/// The script reports what cannot be delivered in time, and Envoy stops anyway.
#[tokio::test]
async fn drain_at_its_timeout_reports_what_is_left() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let accept = |text: String| text.replace("ack: confirmed", "ack: accepted");
    let mut envoy = envoy("drain-timeout", &keen, accept).await;
    keen.fault(Fault::hang().forever());
    let url = format!("http://{}/v1/track", envoy.listener("segment").await);
    let call = reqwest::Client::new().post(&url).basic_auth("writeKey", Some(""));
    let call = call.body(r#"{"userId": "u", "event": "Left"}"#).send().await.unwrap();
    assert_eq!(call.status(), 200);
    let (code, output) = drain(&envoy, "--notice 0 --timeout 2").await;
    assert_eq!(code, 1, "{output}");
    let left = output.lines().find(|line| line.contains("not drained after")).unwrap();
    assert!(!left.ends_with("bytes of events: 0"), "{output}");
    ended(&mut envoy).await;
}

/// A client that keeps its connection open without a request does not keep Envoy from stopping.
#[tokio::test]
async fn drain_with_an_idle_connection_ends_at_its_timeout_with_success() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let mut envoy = envoy("drain-idle", &keen, |text| text).await;
    let mut idle = TcpStream::connect(envoy.listener("segment").await).await.unwrap();
    let request = b"GET /v1/projects/writeKey/settings HTTP/1.1\r\nHost: x\r\n\r\n";
    idle.write_all(request).await.unwrap();
    let mut response = [0; 4096];
    assert!(idle.read(&mut response).await.unwrap() > 0);
    let (code, output) = drain(&envoy, "--notice 0 --timeout 3").await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("requests: 0, connections: 1, bytes of events: 0"), "{output}");
    ended(&mut envoy).await;
}

/// A preStop hook needs this: Kubernetes stops Envoy itself.
#[tokio::test]
async fn drain_that_keeps_envoy_running_leaves_it_draining() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let mut envoy = envoy("drain-keep", &keen, |text| text).await;
    let port = envoy.admin().port();
    let make = format!("make drain ADMIN_PORT={port} DRAIN_ARGS='--notice 0 --keep-running'");
    let (code, output) = shell(&make).await;
    assert_eq!(code, 0, "{output}");
    assert!(!envoy.is_ready().await && !envoy.has_ended());
}

#[tokio::test]
async fn drain_without_an_envoy_or_with_a_wrong_option_fails_with_its_reason() {
    let nothing = format!("scripts/drain.sh --admin 127.0.0.1:{}", deploy::free_port());
    for (command, reason) in [
        (&*nothing, "no answer from Envoy's admin interface"),
        ("scripts/drain.sh --admin", "--admin needs a value"),
        ("scripts/drain.sh --admin localhost", "--admin needs HOST:PORT"),
        ("scripts/drain.sh --notice 5s", "'5s' is not a number of seconds"),
        ("scripts/drain.sh --force", "unknown option '--force'"),
    ] {
        let (code, output) = shell(command).await;
        assert_eq!((code, output.contains(reason)), (2, true), "{command}: {output}");
    }
}
