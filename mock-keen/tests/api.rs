//! The write API over HTTP: routes, keys, replies byte for byte, bulk calls, sizes. RULES.md has
//! the sources.

mod common;

use base64::Engine as _;
use common::*;
use mock_keen::{AccessKey, MockKeen, Options, PROJECT, Project, WRITE_KEY};
use serde_json::{Value, json};
use std::io::Read as _;
use std::time::Duration;

const CREATED: &str = "{\"created\": true}";

/// A recorded reply: its headers and its body.
fn recorded(text: &str) -> (Vec<(String, String)>, &str) {
    let (head, body) = text.split_once("\n\n").unwrap();
    let headers = head.lines().skip(1).map(|line| line.split_once(": ").unwrap());
    (headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), body)
}

/// Compares a reply with a recording: the body byte for byte, and the headers that do not depend on
/// time, connection or length.
fn assert_as_recorded(reply: &Reply, text: &str) {
    let (headers, body) = recorded(text);
    assert_eq!(reply.text(), body.trim_end_matches('\n'));
    for (name, value) in headers {
        if !["Server", "Date", "Connection", "Content-Length"].contains(&&*name) {
            assert_eq!(reply.header(&name), Some(&*value), "{name}");
        }
    }
}

// Routing and transport.

#[tokio::test]
async fn single_event_is_answered_201_as_recorded() {
    let keen = keen().await;
    let headers = [AUTH, ("content-type", "application/json")];
    let reply = call(&keen, &single_head("signups"), &headers, "{\"plan\": \"pro\"}");
    assert_eq!(reply.status, 201);
    assert_eq!(reply.text(), CREATED);
    assert_as_recorded(&reply, include_str!("replies/recorded-add-event.http"));
    let events = keen.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].project, PROJECT);
    assert_eq!(events[0].collection, "signups");
    assert_eq!(events[0].event, json!({"plan": "pro"}));
}

#[tokio::test]
async fn api_key_in_query_is_accepted() {
    let keen = keen().await;
    let head = format!("{}?api_key={WRITE_KEY}", single_head("a"));
    assert_eq!(call(&keen, &head, &[], "{}").status, 201);
    let head = format!("{}?modified=1&api_key={WRITE_KEY}", bulk_head());
    assert_eq!(call(&keen, &head, &[], "{\"a\": [{}]}").status, 200);
}

#[tokio::test]
async fn text_plain_body_is_accepted() {
    let keen = keen().await;
    let head = format!("{}?api_key={WRITE_KEY}", single_head("a"));
    let reply = call(&keen, &head, &[("content-type", "text/plain;charset=UTF-8")], "{\"a\": 1}");
    assert_eq!(reply.text(), CREATED);
}

#[tokio::test]
async fn collection_in_path_is_percent_decoded() {
    let keen = keen().await;
    assert_eq!(post(&keen, "a%20b%2Fc%3Fd%23e%26f%3Ag%25h", "{}").status, 201);
    assert_eq!(keen.events()[0].collection, "a b/c?d#e&f:g%h");
}

#[tokio::test]
async fn plus_in_path_is_literal() {
    let keen = keen().await;
    assert_eq!(post(&keen, "a+b%2B", "{}").status, 201);
    assert_eq!(keen.events()[0].collection, "a+b+");
}

#[tokio::test]
async fn raw_slash_in_collection_gets_nginx_404() {
    let keen = keen().await;
    let reply = post(&keen, "a/b", "{}");
    assert_eq!(reply.status, 404);
    assert_eq!(reply.header("content-type"), Some("text/html"));
    assert_eq!(reply.body, include_bytes!("replies/quoted-404.html"));
    assert_eq!(reply.body.len(), 162);
    assert_eq!(keen.events(), []);
}

#[tokio::test]
async fn raw_space_in_path_gets_nginx_400() {
    let keen = keen().await;
    let mut connection = Connection::open(keen.addr());
    // Also after a valid call on the same connection.
    assert_eq!(connection.call(&single_head("a"), &[AUTH], b"{}").unwrap().status, 201);
    let reply = connection.call(&single_head("a b"), &[AUTH], b"{}").unwrap();
    assert_eq!(reply.status, 400);
    assert_eq!(reply.header("content-type"), Some("text/html"));
    assert_eq!(reply.body, include_bytes!("replies/quoted-400.html"));
}

#[tokio::test]
async fn unknown_path_gets_nginx_404() {
    let keen = keen().await;
    for head in [
        "POST /".to_owned() + "3.0",
        "POST /3.0/projects".to_owned(),
        format!("POST /3.0/projects/{PROJECT}"),
        format!("POST /3.0/projects/{PROJECT}/events/"),
        format!("POST /3.0/projects/{PROJECT}/event/a"),
        format!("POST /2.0/projects/{PROJECT}/events/a"),
        "GET /favicon.ico".to_owned(),
    ] {
        let reply = call(&keen, &head, &[AUTH], "{}");
        assert_eq!(reply.status, 404, "{head}");
        assert_eq!(reply.header("content-type"), Some("text/html"), "{head}");
    }
}

#[tokio::test]
async fn preflight_is_answered_with_open_cors() {
    let keen = keen().await;
    let head = single_head("a").replace("POST", "OPTIONS");
    let reply = call(&keen, &head, &[("origin", "http://a")], "");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert!(reply.header("access-control-allow-headers").unwrap().contains("authorization"));
}

#[tokio::test]
async fn reply_is_gzipped_when_accepted() {
    let keen = keen().await;
    for (accept, zipped) in
        [("gzip", true), ("deflate, gzip;q=0.5", true), ("gzip;q=0", false), ("br", false)]
    {
        let reply = call(&keen, &single_head("a"), &[AUTH, ("accept-encoding", accept)], "{}");
        assert_eq!(reply.header("content-encoding"), zipped.then_some("gzip"), "{accept}");
        let mut text = String::new();
        if zipped {
            flate2::read::GzDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap();
        } else {
            text = reply.text().to_owned();
        }
        assert_eq!(text, CREATED);
    }
}

#[tokio::test]
async fn connection_is_kept_alive_by_default() {
    let keen = keen().await;
    let mut connection = Connection::open(keen.addr());
    for _ in 0..3 {
        let reply = connection.call(&single_head("a"), &[AUTH], b"{}").unwrap();
        assert_eq!(reply.header("connection"), None);
    }
}

#[tokio::test]
async fn connection_close_option_closes_after_reply() {
    let keen =
        MockKeen::start(Options { connection_close: true, ..Options::default() }).await.unwrap();
    let mut connection = Connection::open(keen.addr());
    let reply = connection.call(&single_head("a"), &[AUTH], b"{}").unwrap();
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(connection.is_closed());
}

#[tokio::test]
async fn gzip_body_is_refused() {
    let keen = keen().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, b"{}").unwrap();
    let body = gzip.finish().unwrap();
    for head in [single_head("a"), bulk_head()] {
        let headers = [AUTH, ("content-encoding", "gzip")];
        let reply = Connection::open(keen.addr()).call(&head, &headers, &body).unwrap();
        assert_eq!(reply.status, 400);
    }
    assert_eq!(keen.events(), []);
}

// An event in the query.

fn data(json: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(json)
}

#[tokio::test]
async fn get_with_any_base64_data_is_stored() {
    let keen = keen().await;
    let slash = data("{\"a\":\"ab?\"}");
    let plus = data("{\"a\":\"ab>>\"}");
    assert!(slash.contains('/') && slash.ends_with('=') && plus.contains('+'), "{slash} {plus}");
    let forms = [
        slash.clone(),
        slash.replace('/', "%2F").replace('=', "%3D"),
        slash.replace('/', "_"),
        slash.trim_end_matches('=').to_owned(),
        plus.replace('+', "%2B"),
        plus.replace('+', "-"),
    ];
    for form in &forms {
        let reply = get(&keen, "a", &format!("data={form}"));
        assert_eq!((reply.status, reply.text()), (200, CREATED), "{form}");
    }
    // A raw plus in a query is a space. PyPI's keen does not escape it.
    assert_eq!(get(&keen, "a", &format!("data={plus}")).status, 400);
    let stored: Vec<_> =
        keen.events().into_iter().map(|stored| stored.event["a"].clone()).collect();
    assert_eq!(stored, ["ab?", "ab?", "ab?", "ab?", "ab>>", "ab>>"]);
}

#[tokio::test]
async fn get_with_invalid_data_is_refused() {
    let keen = keen().await;
    assert_eq!(get(&keen, "a", "data=!").status, 400);
    assert_eq!(get(&keen, "a", &format!("data={}", data("{"))).status, 400);
    assert_eq!(
        get(&keen, "a", &format!("data={}", data("{\"a.b\":1}"))).code(),
        "InvalidPropertyNameError"
    );
    assert_eq!(keen.events(), []);
}

#[tokio::test]
async fn get_image_beacon_is_answered_with_image() {
    let keen = keen().await;
    let reply = get(&keen, "a", &format!("data={}&c=clv1", data("{}")));
    assert_eq!(reply.header("content-type"), Some("image/gif"));
    assert!(reply.body.starts_with(b"GIF89a"));
    assert_eq!(keen.events().len(), 1);
}

#[tokio::test]
async fn get_jsonp_is_answered_with_script() {
    let keen = keen().await;
    let reply = get(&keen, "a", &format!("data={}&jsonp=keenJSONPCallback1", data("{}")));
    assert_eq!(reply.text(), "keenJSONPCallback1({\"created\": true})");
    assert!(reply.header("content-type").unwrap().contains("javascript"));
}

#[tokio::test]
async fn get_redirect_is_answered_302() {
    let keen = keen().await;
    let reply = get(
        &keen,
        "a",
        &format!("data={}&redirect=http%3A%2F%2Fshop%2F%3Fa%3D1%26b%3D2", data("{}")),
    );
    assert_eq!(reply.status, 302);
    assert_eq!(reply.header("location"), Some("http://shop/?a=1&b=2"));
    assert_eq!(keen.events().len(), 1);
}

// Keys.

#[tokio::test]
async fn missing_key_is_refused_as_none() {
    let keen = keen().await;
    let quoted: Value =
        serde_json::from_str(include_str!("replies/quoted-401-no-key.json")).unwrap();
    for head in [single_head("a"), bulk_head()] {
        let reply = call(&keen, &head, &[], "{}");
        assert_eq!(reply.status, 401);
        assert_eq!(reply.json()["message"], quoted["message"]);
        assert_eq!(reply.code(), "InvalidApiKeyError");
    }
}

#[tokio::test]
async fn wrong_key_is_echoed_as_recorded() {
    let keen = keen().await;
    for head in [single_head("a"), bulk_head()] {
        let reply = call(&keen, &head, &[("authorization", "testApiKey")], "{\"a\": [{}]}");
        assert_eq!(reply.status, 401);
        assert_as_recorded(&reply, include_str!("replies/recorded-invalid-auth.http"));
        assert_eq!(reply.header("cache-control"), None);
    }
    assert_eq!(keen.events(), []);
}

#[tokio::test]
async fn read_key_is_forbidden() {
    let keen = keen().await;
    let key = Project::new(PROJECT, "").read_key;
    let reply = call(&keen, &single_head("a"), &[("authorization", &key)], "{}");
    let quoted: Value =
        serde_json::from_str(include_str!("replies/quoted-403-forbidden.json")).unwrap();
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json(), quoted);
}

#[tokio::test]
async fn unknown_project_is_refused_before_key_as_recorded() {
    let keen = keen().await;
    for path in ["/3.0/projects/none/events/a", "/3.0/projects/none/events"] {
        for headers in [&[AUTH][..], &[]] {
            let reply = call(&keen, &format!("POST {path}"), headers, "{}");
            assert_eq!(reply.status, 404);
            assert_as_recorded(&reply, include_str!("replies/recorded-invalid-project-id.http"));
        }
    }
}

#[tokio::test]
async fn key_with_scheme_is_refused() {
    let keen = keen().await;
    let key = format!("Bearer {WRITE_KEY}");
    let reply = call(&keen, &single_head("a"), &[("authorization", &key)], "{}");
    assert_eq!(reply.status, 401);
    assert!(reply.text().contains(&key));
}

#[tokio::test]
async fn master_key_may_write() {
    let keen = keen().await;
    let key = Project::new(PROJECT, "").master_key;
    assert_eq!(call(&keen, &single_head("a"), &[("authorization", &key)], "{}").status, 201);
}

#[tokio::test]
async fn access_key_adds_its_autofill() {
    let keen = keen().await;
    let writes = AccessKey {
        key: "MAYWRITE".to_owned(),
        permitted: vec!["writes".to_owned()],
        autofill: json!({"customer": 7}).as_object().unwrap().clone(),
    };
    let queries = AccessKey {
        key: "MAYREAD".to_owned(),
        permitted: vec!["queries".to_owned()],
        ..AccessKey::default()
    };
    let project = Project { access_keys: vec![writes, queries], ..Project::new("p", "WRITE") };
    keen.add_project(project);
    let send = |key| {
        call(
            &keen,
            "POST /3.0/projects/p/events",
            &[("authorization", key)],
            "{\"a\": [{\"b\": 1}]}",
        )
    };
    assert_eq!(send("MAYREAD").status, 403);
    assert_eq!(send("MAYWRITE").status, 200);
    assert_eq!(keen.events_in("p")[0].event, json!({"b": 1, "customer": 7}));
    assert_eq!(keen.events_in(PROJECT), []);
}

#[tokio::test]
async fn blocked_project_is_answered_402() {
    let keen = keen().await;
    keen.add_project(Project { blocked: true, ..Project::new("p", "WRITE") });
    let reply = call(&keen, "POST /3.0/projects/p/events/a", &[("authorization", "WRITE")], "{}");
    assert_eq!(reply.status, 402);
    assert!(reply.json()["message"].is_string());
}

// Names and properties over HTTP; tests/rules.rs tests the rules themselves.

#[tokio::test]
async fn invalid_collection_name_refuses_single_event() {
    let keen = keen().await;
    for collection in [
        "c".repeat(65),
        "caf%C3%A9".to_owned(),
        "a%0Ab".to_owned(),
        "a%0Db".to_owned(),
        "%FF".to_owned(),
    ] {
        let reply = post(&keen, &collection, "{}");
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "InvalidCollectionNameError"),
            "{collection}"
        );
    }
    assert_eq!(post(&keen, &"c".repeat(64), "{}").status, 201);
    // Python's JSON is ASCII only.
    assert!(post(&keen, "caf%C3%A9", "{}").text().contains("'caf\\u00e9'"));
}

#[tokio::test]
async fn strict_names_option_can_be_off() {
    let strict = keen().await;
    assert_eq!(post(&strict, "_a", "{}").status, 400);
    let lenient =
        MockKeen::start(Options { strict_names: false, ..Options::default() }).await.unwrap();
    assert_eq!(post(&lenient, "_a", "{}").status, 201);
}

#[tokio::test]
async fn invalid_property_name_reply_is_as_quoted() {
    let keen = keen().await;
    let reply = post(&keen, "a", "{\"broken.purchase\": 1}");
    assert_eq!(reply.status, 400);
    assert_eq!(reply.text(), include_str!("replies/quoted-400-property-name.json").trim_end());
}

#[tokio::test]
async fn duplicate_token_keeps_first_event() {
    let keen = keen().await;
    let event = |n: u32| format!("{{\"n\": {n}, \"keen\": {{\"uniqueness_token\": \"t\"}}}}");
    assert_eq!(post(&keen, "a", &event(1)).status, 201);
    assert_eq!(post(&keen, "a", &event(2)).text(), CREATED);
    let bulk = format!("{{\"a\": [{}], \"b\": [{}, {}]}}", event(3), event(4), event(5));
    assert_eq!(post_bulk(&keen, &bulk).text().matches("\"success\": true").count(), 3);
    let stored: Vec<_> = keen
        .events()
        .into_iter()
        .map(|stored| (stored.collection, stored.event["n"].clone()))
        .collect();
    assert_eq!(stored, [("a".to_owned(), json!(1)), ("b".to_owned(), json!(4))]);
    assert_eq!(keen.duplicates(), 3);
    keen.add_project(Project::new("p", "WRITE"));
    let other =
        call(&keen, "POST /3.0/projects/p/events/a", &[("authorization", "WRITE")], &event(6));
    assert_eq!((other.status, keen.events_in("p").len()), (201, 1));
}

#[tokio::test]
async fn refused_event_does_not_use_its_token() {
    let keen = keen().await;
    assert_eq!(
        post(&keen, "a", "{\"b.c\": 1, \"keen\": {\"uniqueness_token\": \"t\"}}").status,
        400
    );
    assert_eq!(post(&keen, "a", "{\"keen\": {\"uniqueness_token\": \"t\"}}").status, 201);
    assert_eq!((keen.events().len(), keen.duplicates()), (1, 0));
}

#[tokio::test]
async fn stored_event_keeps_addons_and_token() {
    let keen = keen().await;
    let event = json!({"at": "2026-01-01T00:00:00Z", "keen": {
        "timestamp": "2026-01-01T00:00:00.000Z", "uniqueness_token": "t",
        "addons": [{"name": "keen:date_time_parser", "input": {"date_time": "at"}, "output": "time"}],
    }});
    assert_eq!(post(&keen, "a", &event.to_string()).status, 201);
    assert_eq!(keen.events()[0].event, event);
}

// Bulk.

#[tokio::test]
async fn batch_is_answered_200_as_recorded() {
    let keen = keen().await;
    let reply = post_bulk(&keen, "{\"test\": [{\"a\": 1}, {\"a\": 2}]}");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.text(), "{\"test\": [{\"success\": true}, {\"success\": true}]}");
    assert_as_recorded(&reply, include_str!("replies/recorded-add-events.http"));
    assert_eq!(keen.events().len(), 2);
}

#[tokio::test]
async fn batch_results_keep_request_order() {
    let keen = keen().await;
    let reply = post_bulk(&keen, "{\"purchases\": [{}, {}], \"transactions\": [{}]}");
    assert_eq!(reply.text(), include_str!("replies/documented-200-bulk.json").trim_end());
    let reply = post_bulk(&keen, "{\"z\": [{}, {\"a.b\": 1}], \"a\": [1, {}], \"m\": []}");
    let failures: Vec<bool> = ["z", "a", "m"]
        .iter()
        .flat_map(|name| reply.json()[name].as_array().unwrap().clone())
        .map(|result| result["success"].as_bool().unwrap())
        .collect();
    assert_eq!(failures, [true, false, false, true]);
    let places: Vec<_> =
        ["\"z\"", "\"a\"", "\"m\": []"].map(|name| reply.text().find(name).unwrap()).into();
    assert!(places.is_sorted());
}

#[tokio::test]
async fn refused_event_in_batch_has_documented_shape() {
    let keen = keen().await;
    let reply = post_bulk(&keen, "{\"sign_ups\": [{}, {\"a.b\": 1}], \"purchases\": [{}, {}]}");
    let documented = include_str!("replies/documented-200-bulk-partial.json").trim_end();
    let error = reply.json()["sign_ups"][1]["error"].clone();
    let expected = documented
        .replace("some_error_name", error["name"].as_str().unwrap())
        .replace("some longer description", error["description"].as_str().unwrap());
    assert_eq!(reply.text(), expected);
    assert_eq!(error["name"], "InvalidPropertyNameError");
}

#[tokio::test]
async fn fully_refused_batch_is_answered_200() {
    let keen = keen().await;
    let reply = post_bulk(&keen, "{\"a\": [{\"b.c\": 1}, []]}");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["a"][0]["error"]["name"], "InvalidPropertyNameError");
    assert_eq!(reply.json()["a"][1]["error"]["name"], "InvalidEventError");
    assert_eq!(keen.events(), []);
}

#[tokio::test]
async fn invalid_collection_in_batch_refuses_each_event() {
    let keen = keen().await;
    let reply =
        post_bulk(&keen, &format!("{{\"{}\": [{{}}, {{}}], \"good\": [{{}}]}}", "c".repeat(65)));
    assert_eq!(reply.status, 200);
    for result in reply.json()["c".repeat(65)].as_array().unwrap() {
        assert_eq!(result["error"]["name"], "InvalidCollectionNameError");
    }
    assert_eq!(reply.json()["good"], json!([{"success": true}]));
    assert_eq!(keen.events().len(), 1);
}

#[tokio::test]
async fn empty_batch_is_answered_with_empty_object() {
    let keen = keen().await;
    let reply = post_bulk(&keen, "{}");
    assert_eq!((reply.status, reply.text()), (200, "{}"));
}

#[tokio::test]
async fn malformed_batch_is_refused() {
    let keen = keen().await;
    for body in [
        "[]",
        "[{}]",
        "1",
        "\"a\"",
        "null",
        "{\"a\": {}}",
        "{\"a\": null}",
        "{\"a\": [{}], \"b\": 1}",
    ] {
        let reply = post_bulk(&keen, body);
        assert_eq!((reply.status, &*reply.code()), (400, "InvalidBatchError"), "{body}");
    }
    assert_eq!(keen.events(), []);
}

#[tokio::test]
async fn duplicate_collection_last_wins() {
    let keen = keen().await;
    let reply = post_bulk(&keen, "{\"a\": [{\"n\": 1}, {}], \"b\": [], \"a\": [{\"n\": 2}]}");
    assert_eq!(reply.text(), "{\"a\": [{\"success\": true}], \"b\": []}");
    assert_eq!(keen.events()[0].event, json!({"n": 2}));
}

// Sizes and JSON.

/// A valid event of exactly this many bytes.
fn sized(bytes: usize) -> String {
    let mut event = String::from("{\"a\":[");
    while event.len() + 9_003 < bytes {
        event += &format!("\"{}\",", "x".repeat(9_000));
    }
    let rest = bytes - event.len() - 4;
    event += &format!("\"{}\"]}}", "x".repeat(rest));
    assert_eq!(event.len(), bytes);
    event
}

#[tokio::test]
async fn event_over_900000_bytes_is_answered_413() {
    let keen = keen().await;
    assert_eq!(post(&keen, "a", &sized(900_000)).status, 201);
    assert_eq!(post(&keen, "a", &sized(900_001)).status, 413);
    assert_eq!(post_bulk(&keen, &format!("{{\"a\": [{}]}}", sized(900_000))).status, 200);
    assert_eq!(post_bulk(&keen, &format!("{{\"a\": [{{}}, {}]}}", sized(900_001))).status, 413);
    assert_eq!(keen.events().len(), 2);
}

#[tokio::test]
async fn event_size_counts_bytes() {
    let keen = keen().await;
    let event = format!("{{\"a\": [\"{}\"]}}", vec!["é".repeat(9_000); 51].join("\",\""));
    assert!(event.chars().count() < 900_000 && event.len() > 900_000);
    assert_eq!(post(&keen, "a", &event).status, 413);
}

#[tokio::test]
async fn batch_over_10000000_bytes_is_answered_413() {
    let keen = keen().await;
    let events = vec![sized(800_000); 12].join(",");
    let batch = format!("{{\"a\": [{events}]}}");
    let fill = " ".repeat(10_000_000 - batch.len());
    assert_eq!(post_bulk(&keen, &format!("{batch}{fill}")).status, 200);
    let reply = post_bulk(&keen, &format!("{batch}{fill} "));
    assert_eq!(reply.status, 413);
    assert!(reply.json()["error_code"].is_string());
    assert_eq!(keen.events().len(), 12);
    assert_eq!(keen.calls()[1].bytes, 10_000_001);
}

#[tokio::test]
async fn invalid_json_is_answered_400() {
    let keen = keen().await;
    for body in [
        "",
        " ",
        "{",
        "{\"a\": }",
        "{\"a\": 1} x",
        "{'a': 1}",
        "{\"a\": NaN}",
        "{\"a\": 1e400}",
        "\u{feff}{}",
    ] {
        for reply in [post(&keen, "a", body), post_bulk(&keen, &format!("{{\"c\": [{body}"))] {
            assert_eq!(reply.status, 400, "{body}");
            assert!(reply.json()["message"].is_string());
        }
    }
    let invalid = Connection::open(keen.addr())
        .call(&single_head("a"), &[AUTH], b"{\"a\": \"\xff\"}")
        .unwrap();
    assert_eq!(invalid.status, 400);
    assert_eq!(keen.events(), []);
}

#[tokio::test]
async fn deep_event_is_stored_and_endless_one_refused() {
    let keen = keen().await;
    let deep = format!("{}1{}", "{\"a\":".repeat(1_000), "}".repeat(1_000));
    assert_eq!(post(&keen, "a", &deep).status, 201);
    assert_eq!(post_bulk(&keen, &format!("{{\"a\": [{deep}]}}")).status, 200);
    assert_eq!(keen.events().len(), 2);
    let open = "[".repeat(2_000_000);
    assert_eq!(post_bulk(&keen, &format!("{{\"a\": {open}")).status, 400);
    assert_eq!(post(&keen, "a", "{}").status, 201);
}

#[tokio::test]
async fn status_fault_500_is_as_quoted() {
    let keen = keen().await;
    keen.fault(mock_keen::Fault::status(500));
    let reply = post(&keen, "a", "{}");
    assert_eq!(reply.status, 500);
    assert_eq!(reply.text(), include_str!("replies/quoted-500-internal.json").trim_end());
}

#[tokio::test]
async fn chunked_body_is_accepted() {
    let keen = keen().await;
    let mut connection = Connection::open(keen.addr());
    let head = single_head("a");
    let text = format!(
        "{head} HTTP/1.1\r\nhost: k\r\nauthorization: {WRITE_KEY}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    connection.send_raw(text.as_bytes()).unwrap();
    connection.send_raw(b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n").unwrap();
    assert_eq!(connection.read().unwrap().status, 201);
}

#[tokio::test]
async fn concurrent_callers_are_all_answered() {
    let keen = keen().await;
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut connection = Connection::open(keen.addr());
                for _ in 0..20 {
                    let reply =
                        connection.call(&bulk_head(), &[AUTH], b"{\"a\": [{}, {}]}").unwrap();
                    assert_eq!(reply.status, 200);
                }
            });
        }
    });
    keen.wait_for_events(2_000, Duration::from_secs(1)).await.unwrap();
    assert_eq!(keen.events().len(), 2_000);
}
