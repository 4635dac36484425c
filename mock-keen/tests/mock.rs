//! The mock for tests: records, faults, stop and restart, the control API, and the program.

mod common;

use common::*;
use mock_keen::{
    Fault, FaultKind, Limits, MockKeen, Options, PROJECT, Project, SegmentEndpoint, TimedOut,
    Times, WRITE_KEY,
};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const EVENT: &str = "{\"n\": 1}";
const BATCH: &str = "{\"a\": [{\"n\": 1}, {\"n\": 2}], \"b\": [{}]}";

// Records.

#[tokio::test]
async fn call_is_recorded() {
    let keen = keen().await;
    let head = format!("{}?modified=1", bulk_head());
    call(&keen, &head, &[AUTH, ("X-Mine", "yes")], BATCH);
    call(&keen, "POST /nowhere", &[], "");
    let calls = keen.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].project, PROJECT);
    assert_eq!(calls[0].method, "POST");
    assert_eq!(calls[0].path, format!("/3.0/projects/{PROJECT}/events?modified=1"));
    assert_eq!(calls[0].header("x-mine"), Some("yes"));
    assert_eq!((calls[0].events, calls[0].bytes, calls[0].status), (3, BATCH.len(), Some(200)));
    assert_eq!((&*calls[1].project, calls[1].events, calls[1].status), ("", 0, Some(404)));
}

#[tokio::test]
async fn refusal_is_recorded() {
    let keen = keen().await;
    post_bulk(&keen, "{\"a\": [{\"b.c\": 1}, {}]}");
    call(&keen, &single_head("a"), &[], EVENT);
    let refusals = keen.refusals();
    assert_eq!(refusals.len(), 2);
    assert_eq!((&*refusals[0].collection, refusals[0].status), ("a", 200));
    assert_eq!(refusals[0].name, "InvalidPropertyNameError");
    assert_eq!(refusals[0].event, "{\"b.c\": 1}");
    assert_eq!((&*refusals[1].name, refusals[1].status), ("InvalidApiKeyError", 401));
    let counts = keen.counts();
    assert_eq!((counts.stored, counts.refused, counts.duplicates), (1, 2, 0));
}

#[tokio::test]
async fn store_stays_within_limits() {
    let limits = Limits { events: 10, event_bytes: 1_000, calls: 5, tokens: 3 };
    let keen = MockKeen::start(Options { limits, ..Options::default() }).await.unwrap();
    for n in 0..30 {
        post(&keen, "a", &format!("{{\"n\": {n}, \"keen\": {{\"uniqueness_token\": \"{n}\"}}}}"));
        post(&keen, "a", "{\"b.c\": 1}");
    }
    let stored: Vec<_> =
        keen.events().iter().map(|stored| stored.event["n"].as_u64().unwrap()).collect();
    assert_eq!(stored, (20..30).collect::<Vec<u64>>());
    assert_eq!((keen.calls().len(), keen.refusals().len()), (5, 5));
    assert_eq!((keen.counts().stored, keen.counts().refused), (30, 30));
    // The last three tokens are kept, older ones are not.
    for (n, duplicates) in [(29, 1), (27, 2), (1, 2)] {
        post(&keen, "a", &format!("{{\"keen\": {{\"uniqueness_token\": \"{n}\"}}}}"));
        assert_eq!(keen.duplicates(), duplicates, "{n}");
    }
    post(&keen, "a", &format!("{{\"s\": \"{}\"}}", "x".repeat(900)));
    assert!(keen.events().len() < 10);
    assert_eq!(keen.events().last().unwrap().event["s"].as_str().unwrap().len(), 900);
}

#[tokio::test]
async fn wait_for_events_returns_on_event_or_timeout() {
    let keen = keen().await;
    let late = keen.wait_for_events(1, Duration::from_millis(20)).await;
    assert_eq!(late, Err(TimedOut { wanted: 1, stored: 0, refused: 0 }));
    let addr = keen.addr();
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        Connection::open(addr).call(&single_head("a"), &[AUTH], b"{}").unwrap().status
    });
    keen.wait_for_events(1, Duration::from_secs(5)).await.unwrap();
    assert_eq!(sender.join().unwrap(), 201);
}

#[tokio::test]
async fn reset_clears_everything() {
    let keen = keen().await;
    let event = "{\"keen\": {\"uniqueness_token\": \"t\"}}";
    post(&keen, "a", event);
    post(&keen, "a", "[]");
    keen.fault(Fault::status(503).forever());
    keen.reset();
    assert_eq!((keen.events().len(), keen.calls().len(), keen.refusals().len()), (0, 0, 0));
    assert_eq!(keen.faults(), []);
    assert_eq!(post(&keen, "a", event).status, 201);
    assert_eq!((keen.events().len(), keen.duplicates()), (1, 0));
}

// Faults.

#[tokio::test]
async fn status_fault_answers_keens_body_and_stores_nothing() {
    let keen = keen().await;
    for status in [400, 401, 402, 403, 404, 413, 429, 500] {
        keen.fault(Fault::status(status));
        let reply = post_bulk(&keen, BATCH);
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("content-type"), Some("application/json"), "{status}");
        assert!(
            reply.json()["message"].is_string() && reply.json()["error_code"].is_string(),
            "{status}"
        );
    }
    for status in [502, 503, 504, 408, 418] {
        keen.fault(Fault::status(status));
        let reply = post_bulk(&keen, BATCH);
        assert_eq!((reply.status, reply.header("content-type")), (status, Some("text/html")));
        assert!(reply.text().contains(&format!("<title>{status} ")));
    }
    keen.fault(Fault::status(204));
    assert_eq!(post_bulk(&keen, BATCH).status, 204);
    keen.fault(Fault::status(301));
    assert!(post_bulk(&keen, BATCH).header("location").is_some());
    assert_eq!(keen.events(), []);
    assert_eq!(post_bulk(&keen, BATCH).status, 200);
}

#[tokio::test]
async fn status_fault_401_echoes_key() {
    let keen = keen().await;
    keen.fault(Fault::status(401));
    assert!(post_bulk(&keen, BATCH).text().contains(WRITE_KEY));
}

#[tokio::test]
async fn status_fault_takes_body_and_retry_after() {
    let keen = keen().await;
    keen.fault(Fault::status(429).retry_after("2").body("{}"));
    let reply = post_bulk(&keen, BATCH);
    assert_eq!((reply.status, reply.header("retry-after"), reply.text()), (429, Some("2"), "{}"));
}

#[tokio::test]
async fn faults_apply_in_order_and_count() {
    let keen = keen().await;
    keen.fault(Fault::status(503).times(2));
    keen.fault(Fault::status(500));
    let statuses: Vec<_> = (0..4).map(|_| post(&keen, "a", EVENT).status).collect();
    assert_eq!(statuses, [503, 503, 500, 201]);
    keen.fault(Fault::status(502).forever());
    keen.fault(Fault::status(500));
    assert!((0..10).all(|_| post(&keen, "a", EVENT).status == 502));
    keen.clear_faults();
    assert_eq!(post(&keen, "a", EVENT).status, 201);
}

#[tokio::test]
async fn fault_for_project_spares_others() {
    let keen = keen().await;
    keen.add_project(Project::new("p", "WRITE"));
    keen.fault(Fault::status(503).project("p"));
    assert_eq!(post(&keen, "a", EVENT).status, 201);
    let ours = || {
        call(&keen, "POST /3.0/projects/p/events/a", &[("authorization", "WRITE")], EVENT).status
    };
    assert_eq!((ours(), ours()), (503, 201));
}

#[tokio::test]
async fn delay_fault_then_stores() {
    let keen = keen().await;
    keen.fault(Fault::delay(150));
    let since = Instant::now();
    assert_eq!(post(&keen, "a", EVENT).status, 201);
    assert!(since.elapsed() >= Duration::from_millis(150));
    assert_eq!(keen.events().len(), 1);
}

#[tokio::test]
async fn delayed_event_is_stored_after_disconnect() {
    let keen = keen().await;
    keen.fault(Fault::delay(100));
    let mut connection = Connection::open(keen.addr());
    connection.send(&single_head("a"), &[AUTH], EVENT.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    drop(connection);
    assert_eq!(keen.events().len(), 0);
    keen.wait_for_events(1, Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn fault_with_after_ms_is_delayed() {
    let keen = keen().await;
    keen.fault(Fault::status(503).after_ms(100));
    let since = Instant::now();
    assert_eq!(post(&keen, "a", EVENT).status, 503);
    assert!(since.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn cut_fault_stores_only_when_after() {
    let keen = keen().await;
    keen.fault(Fault::cut_before());
    assert!(try_call(&keen, &single_head("a"), &[AUTH], EVENT).is_err());
    assert_eq!(keen.events().len(), 0);
    keen.fault(Fault::cut_after());
    assert!(try_call(&keen, &single_head("a"), &[AUTH], EVENT).is_err());
    assert_eq!(keen.events().len(), 1);
    assert_eq!(keen.calls().iter().map(|call| call.status).collect::<Vec<_>>(), [None, None]);
}

#[tokio::test]
async fn truncated_fault_closes_mid_reply() {
    let keen = keen().await;
    keen.fault(Fault::truncated());
    let mut connection = Connection::open(keen.addr());
    connection.send(&bulk_head(), &[AUTH], BATCH.as_bytes()).unwrap();
    // The head arrives, the body does not end.
    let error = connection.read().err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(keen.events().len(), 3);
    assert_eq!(keen.calls()[0].status, Some(200));
}

#[tokio::test]
async fn wrong_reply_faults_answer_200_and_store() {
    let keen = keen().await;
    keen.fault(Fault::wrong_json());
    keen.fault(Fault::missing_results());
    keen.fault(Fault::short_results());
    let [wrong, missing, short] = [(); 3].map(|()| post_bulk(&keen, BATCH));
    assert_eq!(wrong.status, 200);
    assert!(serde_json::from_slice::<Value>(&wrong.body).is_err());
    assert_eq!((missing.status, missing.text()), (200, "{}"));
    assert_eq!((short.status, short.text()), (200, "{\"a\": [{\"success\": true}], \"b\": []}"));
    assert_eq!(keen.events().len(), 9);
}

#[tokio::test]
async fn huge_fault_pads_reply() {
    let keen = keen().await;
    keen.fault(Fault::huge(40_000_000));
    let reply = post_bulk(&keen, BATCH);
    assert_eq!((reply.status, reply.body.len()), (200, 40_000_000));
    assert!(reply.text().trim_end().ends_with("]}"));
}

#[tokio::test]
async fn reply_fault_leaves_refusal_unchanged() {
    let keen = keen().await;
    keen.fault(Fault::wrong_json());
    assert_eq!(call(&keen, &bulk_head(), &[], BATCH).code(), "InvalidApiKeyError");
}

#[tokio::test]
async fn refuse_collection_fault_refuses_its_events() {
    let keen = keen().await;
    keen.fault(Fault::refuse_collection("a", "SomeError").times(2));
    let reply = post_bulk(&keen, BATCH);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["a"][0]["error"]["name"], "SomeError");
    assert_eq!(reply.json()["a"][1]["success"], false);
    assert_eq!(reply.json()["b"], json!([{"success": true}]));
    // A call without such an event does not count. A call with several counts once.
    assert_eq!(post(&keen, "b", EVENT).status, 201);
    let reply = post(&keen, "a", EVENT);
    assert_eq!((reply.status, &*reply.code()), (400, "SomeError"));
    assert_eq!(post(&keen, "a", EVENT).status, 201);
}

#[tokio::test]
async fn refuse_property_fault_refuses_matching_events() {
    let keen = keen().await;
    keen.fault(Fault::refuse_property("user.id", 7, "SomeError").forever());
    let reply = post_bulk(&keen, "{\"a\": [{\"user\": {\"id\": 7}}, {\"user\": {\"id\": 8}}, {}]}");
    let failures: Vec<_> =
        (0..3).map(|place| reply.json()["a"][place]["success"].clone()).collect();
    assert_eq!(failures, [json!(false), json!(true), json!(true)]);
}

#[tokio::test]
async fn poison_fault_answers_calls_with_that_event() {
    let keen = keen().await;
    keen.fault(Fault::poison("n", 2, 500).forever());
    let reply = post_bulk(&keen, "{\"a\": [{\"n\": 1}, {\"n\": 2}], \"b\": [{}]}");
    assert_eq!((reply.status, &*reply.code()), (500, "InternalServerError"));
    assert_eq!(keen.events(), []);
    assert_eq!(post_bulk(&keen, "{\"a\": [{\"n\": 1}]}").status, 200);
}

#[tokio::test]
async fn refusal_and_status_faults_combine() {
    let keen = keen().await;
    keen.fault(Fault::refuse_collection("a", "SomeError").forever());
    keen.fault(Fault::status(503));
    assert_eq!(post(&keen, "a", EVENT).status, 503);
    assert_eq!(post(&keen, "a", EVENT).status, 400);
}

#[tokio::test]
async fn hang_fault_ends_when_cleared() {
    let keen = keen().await;
    keen.fault(Fault::hang());
    let mut connection = Connection::open(keen.addr());
    connection.send(&single_head("a"), &[AUTH], EVENT.as_bytes()).unwrap();
    connection.set_timeout(Duration::from_millis(150));
    assert!(connection.read().is_err());
    assert_eq!((keen.calls()[0].status, keen.events().len()), (None, 0));
    connection.set_timeout(Duration::from_secs(10));
    keen.clear_faults();
    assert_eq!(connection.read().unwrap().status, 201);
}

#[tokio::test]
async fn chaos_fault_is_deterministic_and_recoverable() {
    async fn run(seed: u64) -> Vec<Option<u16>> {
        let keen = keen().await;
        keen.fault(Fault::chaos(seed, 0.5));
        let mut ends = Vec::new();
        for n in 0..60 {
            let event = format!("{{\"keen\": {{\"uniqueness_token\": \"{n}\"}}}}");
            loop {
                let reply =
                    try_call(&keen, &bulk_head(), &[AUTH], &format!("{{\"a\": [{event}]}}"));
                ends.push(reply.as_ref().ok().map(|reply| reply.status));
                if reply.is_ok_and(|reply| reply.text() == "{\"a\": [{\"success\": true}]}") {
                    break;
                }
            }
        }
        assert_eq!(keen.events().len(), 60);
        ends
    }
    let (one, again, other) = (run(1).await, run(1).await, run(2).await);
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert!(one.iter().any(|end| end.is_none()) && one.contains(&Some(503)), "{one:?}");
}

#[test]
fn fault_json_matches_docs() {
    let written = |fault: Fault| serde_json::to_value(fault).unwrap();
    assert_eq!(
        written(Fault::status(503).times(3)),
        json!({"kind": "status", "status": 503, "times": 3})
    );
    assert_eq!(
        written(Fault::delay(5).forever().project("p").after_ms(1)),
        json!({"kind": "delay", "ms": 5, "times": "forever", "project": "p", "after_ms": 1})
    );
    // The help and the rustdoc show every fault.
    let help = Command::new(env!("CARGO_BIN_EXE_mock-keen")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let docs = include_str!("../src/lib.rs");
    for text in [&*help, docs] {
        let faults: Vec<&str> =
            text.split("{\"kind\"").skip(1).map(|rest| rest.split_once('}').unwrap().0).collect();
        assert!(faults.len() >= 13, "{faults:?}");
        for fault in faults {
            let fault = format!("{{\"kind\"{fault}}}");
            serde_json::from_str::<Fault>(&fault)
                .unwrap_or_else(|error| panic!("{fault}: {error}"));
        }
    }
    let chaos: Fault = serde_json::from_value(json!({"kind": "hang"})).unwrap();
    assert_eq!((chaos.kind, chaos.times), (FaultKind::Hang, Times::Count(1)));
}

// Over HTTP.

#[tokio::test]
async fn control_api_reports_everything() {
    let keen = keen().await;
    let request = |head: &str, body: &str| call(&keen, head, &[], body);
    assert_eq!(request("GET /_mock/healthz", "").text(), "ok\n");
    assert_eq!(request("GET /_mock/events", "").json(), json!([]));
    post_bulk(&keen, "{\"a b\": [{\"n\": 9223372036854775807}, {\"b.c\": 1}], \"b\": [{}]}");
    let events = request("GET /_mock/events?collection=a%20b", "");
    assert!(events.text().contains("{\"n\": 9223372036854775807}"));
    assert_eq!(events.json().as_array().unwrap().len(), 1);
    assert_eq!(request("GET /_mock/events?project=none", "").json(), json!([]));
    assert_eq!(request("GET /_mock/events?limit=1", "").json()[0]["collection"], "b");
    assert_eq!(request("GET /_mock/calls", "").json()[0]["events"], 3);
    assert_eq!(request("GET /_mock/refusals", "").json()[0]["name"], "InvalidPropertyNameError");
    let counts = request("GET /_mock/counts", "").json();
    assert_eq!((&counts["stored"], &counts["refused"]), (&json!(2), &json!(1)));
    assert_eq!(counts["collections"][0]["collection"], "a b");
    assert_eq!(request("POST /_mock/reset", "").status, 204);
    assert_eq!(request("GET /_mock/counts", "").json()["stored"], 0);
}

#[tokio::test]
async fn control_api_accepts_faults() {
    let keen = keen().await;
    let add = |body: &str| call(&keen, "POST /_mock/faults", &[], body);
    assert_eq!(add("{\"kind\": \"status\", \"status\": 503}").status, 200);
    assert_eq!(add("[{\"kind\": \"cut_before\"}, {\"kind\": \"delay\", \"ms\": 1}]").status, 200);
    assert_eq!(keen.faults().len(), 3);
    assert_eq!(post(&keen, "a", EVENT).status, 503);
    let faults = call(&keen, "GET /_mock/faults", &[], "").json();
    assert_eq!(
        faults,
        json!([{"kind": "cut_before", "times": 1}, {"kind": "delay", "ms": 1, "times": 1}])
    );
    for wrong in [
        "{",
        "{\"kind\": \"none\"}",
        "{\"kind\": \"status\", \"status\": 503, \"times\": \"twice\"}",
    ] {
        let reply = add(wrong);
        assert_eq!(reply.status, 400);
        assert!(reply.json()["error"].as_str().unwrap().starts_with("invalid fault: "));
    }
    assert_eq!(call(&keen, "DELETE /_mock/faults", &[], "").json(), json!([]));
    assert_eq!(post(&keen, "a", EVENT).status, 201);
}

/// Returns the next message of a stream: id and data.
fn message(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> (String, Value) {
    let mut id = String::new();
    for line in lines {
        let line = line.unwrap();
        if let Some(rest) = line.strip_prefix("id: ") {
            id = rest.to_owned();
        }
        if let Some(data) = line.strip_prefix("data: ") {
            return (id, serde_json::from_str(data).unwrap());
        }
    }
    panic!("the stream ended");
}

fn stream(
    keen: &MockKeen,
    last: Option<&str>,
) -> impl Iterator<Item = std::io::Result<String>> + use<> {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(keen.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
    write!(stream, "GET /_mock/stream HTTP/1.1\r\nhost: k\r\n{last}\r\n").unwrap();
    BufReader::new(stream).lines()
}

#[tokio::test]
async fn stream_sends_history_and_resumes() {
    let keen = keen().await;
    post(&keen, "a", EVENT);
    let mut lines = stream(&keen, None);
    let (_, update) = message(&mut lines);
    assert_eq!((&update["fresh"], &update["items"][0]["text"]), (&json!(true), &json!(EVENT)));
    post(&keen, "b", "{\"b.c\": 1}");
    let (id, update) = message(&mut lines);
    assert_eq!((&update["fresh"], update["items"].as_array().unwrap().len()), (&json!(false), 1));
    assert_eq!(update["items"][0]["kind"], "refused");
    assert_eq!(update["collections"].as_array().unwrap().len(), 1);
    drop(lines);
    post(&keen, "a", EVENT);
    let (_, update) = message(&mut stream(&keen, Some(&id)));
    assert_eq!((&update["fresh"], update["items"].as_array().unwrap().len()), (&json!(false), 1));
    // After a reset the page starts over.
    keen.reset();
    let (_, update) = message(&mut stream(&keen, Some(&id)));
    assert_eq!((&update["fresh"], &update["items"]), (&json!(true), &json!([])));
}

#[tokio::test]
async fn stream_with_many_events_is_bounded() {
    let keen = keen().await;
    let mut lines = stream(&keen, None);
    message(&mut lines);
    let batch = format!("{{\"a\": [{}]}}", vec!["{}"; 5_000].join(","));
    post_bulk(&keen, &batch);
    let mut stored = Value::Null;
    while stored != json!(5_000) {
        let (_, update) = message(&mut lines);
        assert!(update["items"].as_array().unwrap().len() <= 500);
        stored = update["totals"]["stored"].clone();
    }
}

#[tokio::test]
async fn stream_hint_has_segment_endpoint() {
    let segment = SegmentEndpoint {
        url: "http://127.0.0.1:8080".to_owned(),
        write_key: "sourceKey".to_owned(),
    };
    let options = Options { segment: Some(segment), ..Options::default() };
    let keen = MockKeen::start(options).await.unwrap();
    let (_, update) = message(&mut stream(&keen, None));
    let expected = json!({"url": "http://127.0.0.1:8080", "write_key": "sourceKey"});
    assert_eq!(update["hint"]["segment"], expected);
}

// Stop and restart.

#[tokio::test]
async fn restart_keeps_events() {
    let keen = keen().await;
    let addr = keen.addr();
    let mut connection = Connection::open(addr);
    let event = b"{\"keen\": {\"uniqueness_token\": \"t\"}}";
    assert_eq!(connection.call(&single_head("a"), &[AUTH], event).unwrap().status, 201);
    keen.fault(Fault::hang());
    let mut hanging = Connection::open(addr);
    hanging.send(&single_head("a"), &[AUTH], b"{}").unwrap();
    let mut open = stream(&keen, None);
    while !keen.faults().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    keen.stop().await;
    assert!(connection.is_closed());
    assert!(hanging.is_closed());
    assert!(open.by_ref().last().is_some());
    assert!(Connection::try_open(addr).is_err());
    assert_eq!(keen.events().len(), 1);
    keen.start_again().await.unwrap();
    assert_eq!(keen.addr(), addr);
    assert_eq!(Connection::open(addr).call(&single_head("a"), &[AUTH], event).unwrap().status, 201);
    assert_eq!((keen.events().len(), keen.duplicates()), (1, 1));
    // Stopping twice, and starting a running mock, are allowed.
    keen.stop().await;
    keen.stop().await;
    keen.start_again().await.unwrap();
    keen.start_again().await.unwrap();
    assert_eq!(Connection::open(addr).call(&single_head("a"), &[AUTH], b"{}").unwrap().status, 201);
}

#[tokio::test]
async fn drop_stops_mock() {
    let keen = keen().await;
    let addr = keen.addr();
    let mut connection = Connection::open(addr);
    drop(keen);
    assert!(connection.is_closed());
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        Connection::try_open(addr).is_err()
    });
    assert!(gone);
}

// The program.

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mock-keen"));
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_remove("KEEN_PORT")
        .env_remove("KEEN_ADDRESS");
    command
}

#[test]
fn program_prints_address_and_stops_on_signal() {
    for signal in ["-INT", "-TERM"] {
        let mut child = program()
            .args(["--port", "0", "--project", "p1:K1", "--project", "p2:K2"])
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let addr = first.split_once("http://").unwrap().1.trim_end_matches('/').parse().unwrap();
        let mut connection = Connection::open(addr);
        let reply =
            connection.call("POST /3.0/projects/p2/events/a", &[("authorization", "K2")], b"{}");
        assert_eq!(reply.unwrap().status, 201);
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn program_with_port_in_use_names_port_and_setting() {
    let in_use = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = in_use.local_addr().unwrap().port().to_string();
    let mut child = program().env("KEEN_PORT", &port).spawn().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(!child.wait().unwrap().success());
    for part in [&*port, "KEEN_PORT", "--port"] {
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn program_with_invalid_project_explains_format() {
    let output = program().args(["--project", "nokey"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("ID:WRITEKEY"));
}
