//! `initialPageview`, and project settings with which pages send to Keen themselves.

use super::fixture::{PATIENCE, TestEnv, ok};
use serde_json::{Value, json};

const BROWSER: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36";

async fn ask(
    env: &TestEnv,
    key: &str,
    headers: &[(&str, &str)],
) -> (reqwest::header::HeaderMap, Value) {
    let mut request = env.client.get(env.envoy.url(&format!("/v1/projects/{key}/settings")));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = request.send().await.unwrap();
    assert_eq!(reply.status(), 200);
    let headers = reply.headers().clone();
    (headers, serde_json::from_str(&reply.text().await.unwrap()).unwrap())
}

fn config(settings: &Value) -> Value {
    let mut config = harness::default_config();
    let source = config["sources"]["writeKey"].as_object_mut().unwrap();
    source.extend(settings.as_object().unwrap().clone());
    config
}

#[tokio::test]
async fn settings_request_with_initial_pageview_becomes_page_event() {
    for mode in ["cloud", "device"] {
        let env = TestEnv::with(config(&json!({
            "mode": mode, "initialPageview": true, "trackAllPages": true, "ipAddon": true, "uaAddon": true, "urlAddon": true,
        })))
        .await;
        let page = "https://shop.example.com/cart?x=\"1\"";
        for n in 1..=2 {
            let (headers, _) =
                ask(&env, "writeKey", &[("referer", page), ("user-agent", BROWSER)]).await;
            assert_eq!(headers["cache-control"], "no-store");
            env.keen.wait_for_events(n, PATIENCE).await.unwrap();
        }
        ask(&env, "writeKey", &[("origin", "https://shop.example.com"), ("user-agent", BROWSER)])
            .await;
        env.keen.wait_for_events(3, PATIENCE).await.unwrap();
        // A phone, a server, a prefetch, and an unknown key.
        ask(&env, "writeKey", &[("user-agent", "Dalvik/2.1.0")]).await;
        ask(&env, "writeKey", &[("user-agent", "analytics-node/6.2.0")]).await;
        ask(
            &env,
            "writeKey",
            &[("referer", page), ("user-agent", BROWSER), ("sec-purpose", "prefetch")],
        )
        .await;
        ask(&env, "stranger", &[("referer", page), ("user-agent", BROWSER)]).await;
        assert_eq!(
            env.post("/v1/track", json!({"event": "last", "userId": "u"}).to_string()).await,
            ok()
        );
        env.keen.wait_for_events(4, PATIENCE).await.unwrap();
        let events: Vec<Value> = env
            .keen
            .events()
            .into_iter()
            .filter(|e| e.collection == "Loaded a Page")
            .map(|e| e.event)
            .collect();
        assert_eq!(events.len(), 3);
        let mut tokens = std::collections::BTreeSet::new();
        for (event, url) in events.iter().zip([page, page, "https://shop.example.com"]) {
            let fields: Vec<_> =
                ["page_url", "ip_address", "user_agent"].iter().map(|name| &event[*name]).collect();
            assert_eq!(fields, [url, "127.0.0.1", BROWSER], "{mode}");
            assert_eq!(event["keen"]["addons"].as_array().unwrap().len(), 3, "{mode}");
            tokens.insert(event["keen"]["uniqueness_token"].to_string());
        }
        assert_eq!(tokens.len(), 3);
        assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
        env.envoy.no_panic_in_log();
    }
}

#[tokio::test]
async fn settings_request_without_track_all_pages_becomes_no_event() {
    let env =
        TestEnv::with(config(&json!({"initialPageview": true, "trackAllPages": false}))).await;
    ask(&env, "writeKey", &[("referer", "https://shop.example.com/"), ("user-agent", BROWSER)])
        .await;
    assert_eq!(
        env.post("/v1/track", json!({"event": "last", "userId": "u"}).to_string()).await,
        ok()
    );
    assert_eq!(env.collections(), ["last"]);
}

#[tokio::test]
async fn bundled_source_gives_keys_and_skips_browser_messages() {
    let read_key = "B".repeat(64);
    let env = TestEnv::with(config(
        &json!({"mode": "device", "bundled": true, "readKey": read_key, "uaAddon": true}),
    ))
    .await;
    let (headers, settings) =
        ask(&env, "writeKey", &[("origin", "https://shop.example.com")]).await;
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example.com");
    let keen = &settings["integrations"]["Keen IO"];
    assert_eq!(keen["bundlingStatus"], "bundled");
    assert_eq!((&keen["readKey"], &keen["uaAddon"]), (&json!(read_key), &json!(true)));
    assert_eq!(keen["writeKey"], mock_keen::WRITE_KEY);
    let call = |event: &str, bundled: Value| {
        let metadata = json!({"bundled": bundled, "unbundled": [], "bundledIds": []});
        json!({"type": "track", "event": event, "anonymousId": "a", "_metadata": metadata})
    };
    let batch = json!({"batch": [call("sent by the page", json!(["Keen IO", "Segment.io"])), call("sent here", json!(["Segment.io"]))]});
    assert_eq!(env.post("/v1/batch", batch.to_string()).await, ok());
    assert_eq!(env.collections(), ["sent here"]);
    // Other sources do not get a key.
    let env = TestEnv::with(config(&json!({"mode": "device", "readKey": read_key}))).await;
    let text = ask(&env, "writeKey", &[]).await.1.to_string();
    assert!(!text.contains(mock_keen::WRITE_KEY) && !text.contains(&read_key), "{text}");
}
