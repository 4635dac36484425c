//! Runs `keen-edge explain` as a program: on the golden cases, on recorded requests, and on other
//! input.

#[path = "../../tests/golden/cases.rs"]
mod cases;

use cases::Received;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const ADDRESS: &str = "203.0.113.7";
const RECEIVED_AT: &str = "2026-11-23T22:03:12.908Z";
const KEEN_KEY: &str = "ABCDEF0123456789ABCDEF0123456789";

/// Returns an ECDS file with a filter that has these sources.
fn config_file(name: &str, sources: &Value) -> PathBuf {
    let settings = json!({"keen": {"cluster": "keen"}, "sources": sources});
    let configuration =
        json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": settings});
    let wasm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {"name": "keen_edge", "configuration": configuration},
    });
    let file = json!({"resources": [{"name": "keen_edge", "typed_config": wasm}]});
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("explain_{name}.yaml"));
    std::fs::write(&path, file.to_string()).unwrap();
    path
}

fn one_source(name: &str) -> PathBuf {
    let source = json!({"projectId": "9181bcd23843312d87000000", "name": "shop", "ipAddon": true});
    config_file(name, &json!({"wk_4f1c00112233": source}))
}

/// Runs `explain` with a call on its standard input.
fn explain(config: &Path, arguments: &[&str], call: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keen-edge"))
        .args(["explain", "--config", config.to_str().unwrap(), "-"])
        .args(["--received-at", RECEIVED_AT, "--address", ADDRESS])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments exits before it has read the call.
    let _ = child.stdin.take().unwrap().write_all(call.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(config: &Path, call: &str) -> (i32, String) {
    let output = explain(config, &[], call);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn in_json(config: &Path, call: &str) -> Value {
    let output = explain(config, &["--json"], call);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn golden_cases_become_their_events() {
    let received = Received { address: ADDRESS, between: [RECEIVED_AT, RECEIVED_AT] };
    let mut failed = Vec::new();
    let cases = cases::all();
    for case in &cases {
        let config = config_file("golden", &json!({"writeKey": case.settings}));
        let headers = json!(case.headers).to_string();
        // The raw JSON of the case. `Value` would lose digits and duplicate names.
        let path = json!(case.path);
        let call = format!(
            r#"{{"method":"POST","path":{path},"headers":{headers},"body":{}}}"#,
            case.body
        );
        let explained = in_json(&config, &call);
        let messages = explained[0]["messages"].as_array().unwrap();
        let events = messages.iter().flat_map(|message| message["events"].as_array().unwrap());
        let events = events.map(|event| {
            (event["collection"].as_str().unwrap().to_owned(), event["event"].clone())
        });
        if let Err(error) = case.judge(&events.collect::<Vec<_>>(), &received) {
            failed.push(error);
        }
        for message in messages {
            let events = message["events"].as_array().unwrap().len();
            let is_explained =
                events > 0 || message["oversized"] != 0 || message["because"].is_string();
            assert!(is_explained, "{}: {message}", case.id);
        }
    }
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn recorded_requests_are_explained() {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let source = json!({"projectId": "9181bcd23843312d87000000", "trackAllPages": true});
    let config = config_file("captures", &json!({"writeKey": source, "WRITEKEY123": source}));
    let mut events = 0;
    for file in std::fs::read_dir(captures).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let recorded: Vec<Value> = serde_json::from_str(&text).unwrap();
        let explained = in_json(&config, &text);
        assert_eq!(explained.as_array().unwrap().len(), recorded.len(), "{}", path.display());
        for call in explained.as_array().unwrap() {
            let messages = call["messages"].as_array().unwrap().iter();
            events += messages.map(|it| it["events"].as_array().unwrap().len()).sum::<usize>();
        }
    }
    assert!(events > 50, "{events} events");
}

#[test]
fn message_of_the_only_source_needs_no_key() {
    let call = r#"{"type": "track", "event": "Purchased", "userId": "u1", "messageId": "m1", "properties": {"n": 1.10}}"#;
    let (code, text) = text(&one_source("message"), call);
    assert_eq!(code, 0);
    assert_eq!(
        text,
        "POST /v1/track 200
  1. track source shop, project 9181bcd23843312d87000000 → 1 event
     Purchased {
       \"n\": 1.10,
       \"userId\": \"u1\",
       \"keen\": {
         \"timestamp\": \"2026-11-23T22:03:12.908Z\",
         \"uniqueness_token\": \"m1\"
       }
     }
"
    );
}

#[test]
fn each_message_of_a_batch_has_its_reason() {
    let batch = json!({"batch": [
        {"type": "page", "name": "Home", "userId": "u"},
        {"type": "page", "userId": "u"},
        {"type": "track", "userId": "u"},
        {"type": "identify", "userId": "u"},
        {"type": "buy", "userId": "u"},
        {"type": "track", "event": "x", "userId": "u", "integrations": {"Keen IO": false}},
        {"type": "track", "event": "x", "userId": "u", "writeKey": "other"},
    ]});
    let (code, text) = text(&one_source("batch"), &batch.to_string());
    assert_eq!(code, 0, "{text}");
    for want in [
        "POST /v1/batch 200\n",
        "  1. page source shop, project 9181bcd23843312d87000000 → 1 event\n     Viewed Home Page {",
        "  2. page source shop, project 9181bcd23843312d87000000 → nothing: no page setting of the source matches",
        "(no_page_setting)",
        "  3. track source shop, project 9181bcd23843312d87000000 → nothing: the track call has no event name (no_event_name)",
        "  4. identify source shop, project 9181bcd23843312d87000000 → nothing: identify, group and alias give no event (no_effect)",
        "→ nothing: its type is none of track, page, screen, identify, group, alias (unknown_type)",
        "→ nothing: its `integrations` exclude Keen IO (integrations)",
        "  7. track → nothing: no source of the configuration has its write key (unknown_write_key)",
    ] {
        assert!(text.contains(want), "{want}:\n{text}");
    }
}

#[test]
fn users_are_remembered_from_one_call_to_the_next() {
    let source = json!({"projectId": "9181bcd23843312d87000000", "rememberUsers": true});
    let config = config_file("users", &json!({"k": source}));
    let calls = json!([
        {"path": "/v1/identify", "body": {"userId": "u", "traits": {"plan": "pro"}}},
        {"path": "/v1/track", "body": {"userId": "u", "event": "x"}},
    ]);
    let explained = in_json(&config, &calls.to_string());
    let event = &explained[1]["messages"][0]["events"][0]["event"];
    assert_eq!(event["user"]["traits"]["plan"], "pro", "{explained}");
}

#[test]
fn recorded_request_with_browser_agent_has_client_address() {
    let call = json!({
        "method": "POST", "path": "/v1/t", "headers": {"User-Agent": "Mozilla/5.0"},
        "body": {"event": "x", "userId": "u"},
    });
    let explained = in_json(&one_source("client"), &call.to_string());
    assert_eq!(explained[0]["messages"][0]["events"][0]["event"]["ip_address"], ADDRESS);
}

#[test]
fn call_to_several_sources_requires_a_key() {
    let source = |project| json!({"projectId": project});
    let (first, second) = ("9181bcd23843312d87000000", "9181bcd23843312d87000001");
    let config = config_file("several", &json!({"a1": source(first), "b1": source(second)}));
    let call = r#"{"event": "x", "userId": "u"}"#;
    let (code, text) = text(&config, call);
    assert_eq!(code, 1);
    assert!(
        text.starts_with(
            "POST /v1/track 400 An invalid write key was provided. The configuration has 2 sources"
        ),
        "{text}"
    );
    let output = explain(&config, &["--json", "--write-key", "b1"], call);
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(explained[0]["messages"][0]["project"], second);
}

#[test]
fn requests_without_messages_are_explained() {
    let config = one_source("others");
    for (method, path, want) in [
        (
            "GET",
            "/healthz",
            "GET /healthz → not one of Segment's paths: the request continues to its route\n",
        ),
        ("POST", "/v1/m", "POST /v1/m 200 the SDK's own telemetry: answered and dropped\n"),
        ("OPTIONS", "/v1/t", "OPTIONS /v1/t 200 a CORS preflight\n"),
        ("GET", "/v1/projects/wk_4f1c00112233/settings", " 200 the settings document of an SDK\n"),
    ] {
        let (code, text) = text(&config, &json!({"method": method, "path": path}).to_string());
        assert_eq!(code, 0);
        assert!(text.ends_with(want), "{text}");
    }
    let (code, text) = text(&config, &json!({"method": "GET", "path": "/v1/track"}).to_string());
    assert_eq!((code, text.contains(" 400 ")), (1, true), "{text}");
}

#[test]
fn request_whose_events_outgrow_it_is_a_429() {
    let config = one_source("outgrown");
    let traits = json!({"Keen IO": {"traits": {"text": "t".repeat(9_000)}}});
    let messages = vec![json!({"type": "track", "event": "E", "userId": "u"}); 1_000];
    let (code, text) =
        text(&config, &json!({"batch": messages, "integrations": traits}).to_string());
    assert_eq!(code, 1);
    assert!(
        text.starts_with("POST /v1/batch 429 its events would be more than 32 times"),
        "{text}"
    );
}

#[test]
fn pixel_is_explained() {
    let path = "/v1/pixel/track?writeKey=wk_4f1c00112233&event=Opened&userId=u";
    let explained =
        in_json(&one_source("pixel"), &json!({"method": "GET", "path": path}).to_string());
    assert_eq!(explained[0]["messages"][0]["events"][0]["collection"], "Opened");
}

#[test]
fn output_is_coloured_only_on_a_terminal() {
    let config = one_source("colour");
    let call = r#"{"event": "x", "userId": "u"}"#;
    assert!(!text(&config, call).1.contains('\u{1b}'));
    let mut child = Command::new(env!("CARGO_BIN_EXE_keen-edge"))
        .args(["explain", "--config", config.to_str().unwrap(), "-"])
        .env("CLICOLOR_FORCE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(call.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains('\u{1b}'));
}

#[test]
fn unusable_input_is_refused_with_help() {
    let good = one_source("unusable");
    let wrong = config_file("wrong", &json!({"k": {"projectId": "x", "writeKey": KEEN_KEY}}));
    let missing = Path::new("missing.yaml");
    for (config, call, code, want) in [
        (good.as_path(), "{", 2, "-: not valid JSON"),
        (good.as_path(), "{}", 2, "a message has a \"type\""),
        (wrong.as_path(), "{}", 1, "the filter refuses this configuration"),
        (missing, "{}", 2, "missing.yaml: No such file"),
    ] {
        let output = explain(config, &[], call);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(want), "{error}");
        assert!(!error.contains(KEEN_KEY), "a key: {error}");
    }
}
