//! State that all filters and workers of an Envoy process share.

use super::fixture::{TestEnv, ok, track};
use harness::{Dynamic, Envoy};
use mock_keen::{Fault, MockKeen, Options};
use serde_json::{Value, json};
use std::net::SocketAddr;

const HTTP_FILTERS: &str = "/filter_chains/0/filters/0/typed_config/http_filters";

/// An update that Envoy refuses: for a mistake in the filter's own configuration, and for another
/// filter of a listener whose configuration this filter accepts.
#[tokio::test]
async fn refused_update_changes_nothing() {
    let mut config = harness::default_config();
    config["sources"]["writeKey"]["rememberUsers"] = json!(true);
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let builder =
        Envoy::builder().keen(keen.addr()).config(config.clone()).from_file(Dynamic::Listener);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let s = TestEnv { envoy, keen, client: reqwest::Client::new() };
    let identify = json!({"userId": "u", "traits": {"plan": "pro"}}).to_string();
    assert_eq!(s.post("/v1/identify", identify).await, ok());
    s.keen.fault(Fault::status(403).times(1));
    assert_eq!(s.post("/v1/track", track("down")).await.0, 503);
    s.until("the destination is down", async || {
        s.envoy.total("callouts").await == 1 && s.envoy.total("destination_up").await == 0
    })
    .await;

    config["users"] = json!({"max": 40_000, "maxBytes": 1_000_000});
    config["sources"]["new"] = json!({"projectId": "9181bcd23843312d87000000"});
    let mut mistaken = config.clone();
    mistaken["sources"]["new"]["mode"] = json!("clowd");
    s.envoy.update_patched(&mistaken, |_| {}).unwrap();
    assert_update_was_refused(&s, 1).await;

    s.envoy
        .update_patched(&config, |listener| {
            let filters = listener.pointer_mut(HTTP_FILTERS).unwrap().as_array_mut().unwrap();
            // Envoy creates the filters in order. The validation rule of this one requires more
            // than 0 bytes.
            let invalid = json!({"name": "buffer", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                "max_request_bytes": 0,
            }});
            filters.insert(1, invalid);
        })
        .unwrap();
    assert_update_was_refused(&s, 2).await;

    let event = json!({"event": "known", "userId": "u"}).to_string();
    assert_eq!(s.post("/v1/track", event).await, ok());
    let known = s.keen.events().into_iter().find(|event| event.collection == "known").unwrap();
    assert_eq!(known.event["user"]["traits"]["plan"], "pro", "{}", known.event);
}

/// Waits for the `count`-th refusal. The gauges are as before, and the refused configuration's
/// project has none.
async fn assert_update_was_refused(s: &TestEnv, count: u64) {
    s.until("Envoy refuses the update", async || {
        s.envoy.stat("listener_manager.lds.update_rejected").await == count
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let project = "project.9181bcd23843312d87000000";
    let stats = s.envoy.stats().await;
    assert!(!stats.keys().any(|name| name.contains(project)), "{stats:?}");
    assert_eq!(s.envoy.total("destination_up").await, 0);
}

/// Starts two listeners with a filter each. `change` changes the plugin configuration of the second
/// filter.
async fn two_filters(change: impl Fn(&mut Value) + Send + 'static) -> (TestEnv, SocketAddr) {
    let two = move |yaml: &mut Value| {
        let listeners = yaml["static_resources"]["listeners"].as_array_mut().unwrap();
        let mut second = listeners[0].clone();
        second["name"] = json!("second");
        let plugin = format!("{HTTP_FILTERS}/0/typed_config/config");
        change(second.pointer_mut(&plugin).unwrap());
        listeners.push(second);
    };
    let mut config = harness::default_config();
    config["sources"]["writeKey"]["rememberUsers"] = json!(true);
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let builder = Envoy::builder().keen(keen.addr()).config(config).concurrency(2).patch(two);
    let envoy = builder.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let s = TestEnv { envoy, keen, client: reqwest::Client::new() };
    let second = s.envoy.listener("second").await.unwrap();
    (s, second)
}

async fn post_to(s: &TestEnv, addr: SocketAddr, path: &str, body: String) {
    let request = s.client.post(format!("http://{addr}{path}")).basic_auth("writeKey", Some(""));
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
}

/// Asserts that two filters have separate user stores: each stores its own identify messages. Both
/// count into the same metrics.
async fn assert_filters_keep_their_users(s: &TestEnv, second: SocketAddr) {
    let identify = |plan: &str| json!({"userId": "u", "traits": {"plan": plan}}).to_string();
    let event = |name: &str| json!({"event": name, "userId": "u"}).to_string();
    for i in 0..4 {
        assert_eq!(s.post("/v1/identify", identify("first")).await, ok());
        post_to(s, second, "/v1/identify", identify("second")).await;
        assert_eq!(s.post("/v1/track", event(&format!("first {i}"))).await, ok());
        post_to(s, second, "/v1/track", event(&format!("second {i}"))).await;
    }
    let events = s.keen.events();
    assert_eq!(events.len(), 8);
    for event in events {
        let plan = event.event["user"]["traits"]["plan"].as_str().unwrap_or_default();
        assert!(event.collection.starts_with(plan) && !plan.is_empty(), "{event:?}");
    }
    s.until("all is counted, and nothing is pending", async || {
        s.envoy.total("pending_bytes").await == 0
            && s.envoy.total("events").await == 8
            && s.envoy.total("events_delivered").await == 8
    })
    .await;
}

/// The filters share a VM. They have different bounds for users and the same source.
#[tokio::test]
async fn two_filters_with_different_users_settings_keep_their_users() {
    let (s, second) = two_filters(|plugin| {
        plugin["configuration"]["value"]["users"] = json!({"max": 40_000, "maxBytes": 1_000_000});
    })
    .await;
    assert_filters_keep_their_users(&s, second).await;
}

/// The filters have separate VMs and equal settings.
#[tokio::test]
async fn two_filters_with_different_vm_ids_do_not_disturb_each_other() {
    let (s, second) =
        two_filters(|plugin| plugin["vm_config"]["vm_id"] = json!("keen_edge_second")).await;
    assert_filters_keep_their_users(&s, second).await;
    // Both filters share the gauge of the destination. Each subtracts its own events from the
    // pending bytes.
    s.keen.fault(Fault::status(403).times(1));
    assert_eq!(s.post("/v1/track", track("down")).await.0, 503);
    s.until("the destination is down", async || s.envoy.total("destination_up").await == 0).await;
    post_to(&s, second, "/v1/track", track("up")).await;
    s.until("the destination is up, and nothing is pending", async || {
        s.envoy.total("destination_up").await == 1 && s.envoy.total("pending_bytes").await == 0
    })
    .await;
}

/// The filters share a VM and have equal settings, so they share the user store.
#[tokio::test]
async fn two_filters_with_equal_settings_share_their_users() {
    let (s, second) = two_filters(|_| {}).await;
    let identify = json!({"userId": "u", "traits": {"plan": "pro"}}).to_string();
    assert_eq!(s.post("/v1/identify", identify).await, ok());
    for name in ["a", "b"] {
        post_to(&s, second, "/v1/track", json!({"event": name, "userId": "u"}).to_string()).await;
    }
    for event in s.keen.events() {
        assert_eq!(event.event["user"]["traits"]["plan"], "pro", "{}", event.event);
    }
    s.until("nothing is pending", async || {
        s.envoy.total("pending_bytes").await == 0 && s.envoy.total("events_delivered").await == 2
    })
    .await;
}
