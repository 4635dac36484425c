//! Traits of identify calls, shared among workers.

use super::fixture::{TestEnv, ok};
use harness::{Dynamic, Envoy};
use mock_keen::{MockKeen, Options};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Starts Envoy with two workers. The source `writeKey` has these settings; `other` writes to the
/// same project.
async fn test_env(source: Value, users: Value) -> TestEnv {
    let mut config = harness::default_config();
    for (name, value) in source.as_object().unwrap() {
        config["sources"]["writeKey"][name] = value.clone();
    }
    config["sources"]["other"] = config["sources"]["writeKey"].clone();
    config["users"] = users;
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let envoy =
        Envoy::builder().keen(keen.addr()).config(config).concurrency(2).start().await.unwrap();
    // Each request has its own connection. The kernel assigns it to one of the workers.
    TestEnv {
        envoy,
        keen,
        client: reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap(),
    }
}

async fn post(env: &TestEnv, path: &str, key: &str, body: Value) {
    let request =
        env.client.post(env.envoy.url(path)).basic_auth(key, Some("")).body(body.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
}

/// Returns the `user` of the events by collection.
fn users(env: &TestEnv, collection: &str) -> Vec<Value> {
    env.keen
        .events()
        .into_iter()
        .filter(|e| e.collection == collection)
        .map(|e| e.event["user"].clone())
        .collect()
}

async fn stat(env: &TestEnv, name: &str) -> u64 {
    let url = format!("http://{}/stats?filter={name}", env.envoy.admin_addr());
    let text = env.client.get(url).send().await.unwrap().text().await.unwrap();
    text.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn traits_from_one_worker_reach_events_on_another() {
    for (mode, id) in [("cloud", Value::Null), ("device", json!("u-1"))] {
        let env = test_env(json!({"mode": mode, "rememberUsers": true}), json!({})).await;
        let traits = json!({"plan": "pro", "address": {"zip.code": "10115"}});
        let identify = json!({"userId": "u-1", "anonymousId": "a-1", "traits": traits});
        post(&env, "/v1/identify", "writeKey", identify).await;
        for i in 0..40 {
            let event = |name: &str, ids: Value| {
                let mut event = json!({"event": name, "messageId": format!("{mode}-{name}-{i}")});
                event.as_object_mut().unwrap().extend(ids.as_object().unwrap().clone());
                event
            };
            post(
                &env,
                "/v1/track",
                "writeKey",
                event("by both", json!({"userId": "u-1", "anonymousId": "a-1"})),
            )
            .await;
            post(&env, "/v1/track", "writeKey", event("by visitor", json!({"anonymousId": "a-1"})))
                .await;
            post(
                &env,
                "/v1/track",
                "writeKey",
                event("after reset", json!({"anonymousId": "a-2"})),
            )
            .await;
            post(
                &env,
                "/v1/track",
                "writeKey",
                event("of another", json!({"userId": "u-2", "anonymousId": "a-1"})),
            )
            .await;
            post(&env, "/v1/track", "other", event("of another source", json!({"userId": "u-1"})))
                .await;
        }
        for worker in ["worker_0.downstream_cx_total", "worker_1.downstream_cx_total"] {
            assert!(stat(&env, worker).await > 0, "{worker} saw nothing");
        }
        let mut traits = json!({"plan": "pro", "address": {"zip_code": "10115"}});
        if !id.is_null() {
            traits["id"] = id;
        }
        for name in ["by both", "by visitor"] {
            assert_eq!(
                users(&env, name),
                vec![json!({"userId": "u-1", "traits": traits}); 40],
                "{mode}: {name}"
            );
        }
        for name in ["after reset", "of another", "of another source"] {
            assert_eq!(users(&env, name), vec![Value::Null; 40], "{mode}: {name}");
        }
        assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
        env.envoy.no_panic_in_log();
    }
}

#[tokio::test]
async fn source_without_remember_users_stores_no_traits() {
    let env = test_env(json!({}), json!({})).await;
    let batch = json!({"batch": [
        {"type": "identify", "userId": "u", "traits": {"plan": "pro"}},
        {"type": "track", "userId": "u", "event": "e", "context": {"traits": {"plan": "pro"}}},
    ]});
    assert_eq!(env.post("/v1/batch", batch.to_string()).await, ok());
    assert_eq!(users(&env, "e"), [Value::Null]);
}

#[tokio::test]
async fn audience_of_ten_thousand_users_is_stored() {
    let source = json!({"rememberUsers": true, "audienceEvents": true});
    let env = test_env(source, json!({"max": 10_000})).await;
    let sync = |name: &str, value: bool, from: usize, to: usize| {
        let batch: Vec<Value> = (from..to)
            .map(|i| {
                json!({
                    "type": "identify", "userId": format!("user-{i}"), "messageId": format!("{name}-{value}-{i}"),
                    "context": {"personas": {"computation_class": "audience", "computation_key": name,
                                             "namespace": "spa_1", "space_id": "spa_1"}},
                    "traits": {name: value}, "integrations": {"All": false, "Keen IO": true},
                })
            })
            .collect();
        json!({"batch": batch})
    };
    for from in (0..10_000).step_by(500) {
        post(
            &env,
            "/v1/batch",
            "writeKey",
            sync("Order Completed Last 30days", true, from, from + 500),
        )
        .await;
    }
    // An SDK that gets no response retries the same events.
    post(&env, "/v1/batch", "writeKey", sync("Order Completed Last 30days", true, 0, 100)).await;
    post(&env, "/v1/batch", "writeKey", sync("order_completed_last_30days", false, 0, 100)).await;
    for i in [0, 99, 100, 4_321, 9_999] {
        post(
            &env,
            "/v1/track",
            "writeKey",
            json!({"event": "Purchased", "userId": format!("user-{i}")}),
        )
        .await;
    }
    let mut shown: Vec<Value> = users(&env, "Purchased");
    shown.sort_by_key(|user| user["userId"].to_string());
    let user = |i: usize, member: bool| json!({"userId": format!("user-{i}"), "traits": {"order_completed_last_30days": member}});
    assert_eq!(
        shown,
        [user(0, false), user(100, true), user(4_321, true), user(99, false), user(9_999, true)]
    );
    assert_eq!(stat(&env, "keen_edge_users_evicted").await, 0);
    let entered: Vec<_> =
        env.keen.events().into_iter().filter(|e| e.collection == "Audience Entered").collect();
    let ids: BTreeSet<String> = entered.iter().map(|e| e.event["userId"].to_string()).collect();
    assert_eq!((entered.len(), ids.len()), (10_000, 10_000));
    assert_eq!(entered[0].event["audience_key"], "order_completed_last_30days");
    assert_eq!(entered[0].event["order_completed_last_30days"], true);
    let exited: Vec<_> =
        env.keen.events().into_iter().filter(|e| e.collection == "Audience Exited").collect();
    assert_eq!(exited.len(), 100);
    assert_eq!(exited[0].event["order_completed_last_30days"], false);
    assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn concurrent_workers_lose_no_user_update() {
    let env = test_env(json!({"rememberUsers": true}), json!({})).await;
    // The two calls of each user arrive at the same time: one from Engage, one from the
    // application.
    let calls = (0..600).flat_map(|i| {
        let said = json!({"userId": format!("u-{i}"), "traits": {"n": i}});
        let mut computed = json!({"userId": format!("u-{i}"), "traits": {"vip": true}});
        computed["context"] = json!({"personas": {"computation_key": "vip"}});
        [said, computed]
    });
    let calls: Vec<_> = calls.collect();
    for calls in calls.chunks(60) {
        let sent: Vec<_> = calls
            .iter()
            .map(|call| {
                let request =
                    env.client.post(env.envoy.url("/v1/identify")).basic_auth("writeKey", Some(""));
                tokio::spawn(request.body(call.to_string()).send())
            })
            .collect();
        for reply in sent {
            assert_eq!(reply.await.unwrap().unwrap().status(), 200);
        }
    }
    let events =
        (0..600).map(|i| json!({"type": "track", "event": "e", "userId": format!("u-{i}"), "properties": {"i": i}}));
    post(&env, "/v1/batch", "writeKey", json!({"batch": events.collect::<Vec<_>>()})).await;
    let events: Vec<Value> = env.keen.events().into_iter().map(|stored| stored.event).collect();
    assert_eq!(events.len(), 600);
    for event in events {
        assert_eq!(event["user"]["traits"], json!({"n": event["i"], "vip": true}), "{event}");
    }
    assert_eq!(stat(&env, "keen_edge_user_updates_rejected").await, 0);
}

#[tokio::test]
async fn user_store_stays_within_max_users() {
    let env = test_env(json!({"rememberUsers": true}), json!({"max": 50})).await;
    for i in 0..300 {
        let identify = json!({"userId": format!("u-{i}"), "anonymousId": format!("a-{i}"), "traits": {"n": i}});
        post(&env, "/v1/identify", "writeKey", identify).await;
    }
    for i in 0..300 {
        let event =
            json!({"event": "e", "userId": format!("u-{i}"), "messageId": format!("m-{i}")});
        assert_eq!(env.post("/v1/track", event.to_string()).await, ok());
    }
    let mut shown: Vec<u64> =
        users(&env, "e").iter().filter_map(|user| user["traits"]["n"].as_u64()).collect();
    shown.sort_unstable();
    assert_eq!(shown, (250..300).collect::<Vec<u64>>());
}

#[tokio::test]
async fn any_traits_are_stored_as_sent() {
    let env = test_env(json!({"mode": "device"}), json!({})).await;
    let deep = format!("{}1{}", "{\"a\":".repeat(3_000), "}".repeat(3_000));
    let texts = [
        r#"{"a.b": 1, "": 2, "$c": {"d.e": [{"f.g": null}]}}"#.to_owned(),
        format!(r#"{{"deep": {deep}}}"#),
        format!(r#"{{"long": "{}"}}"#, "x".repeat(200_000)),
        format!(r#"{{"{}": 1}}"#, "n".repeat(5_000)),
        r#"{"big": 1e400, "surrogate": "\ud800", "nul": "\u0000"}"#.to_owned(),
        r#"{"a": 1, "a": 2, "keen": {"id": 1}, "id": "x", "user": {}}"#.to_owned(),
        r#"[1, 2]"#.to_owned(),
        r#""text""#.to_owned(),
        "null".to_owned(),
        "17".to_owned(),
    ];
    for (i, traits) in texts.iter().enumerate() {
        for user in [
            format!("\"u-{i}\""),
            format!("\"u\\u0000-\\ud800-{i}\""),
            "1e400".to_owned(),
            "{}".to_owned(),
        ] {
            let body = format!(
                r#"{{"batch": [{{"type": "identify", "userId": {user}, "anonymousId": "a-{i}", "traits": {traits}}},
                    {{"type": "track", "event": "e", "userId": {user}, "properties": {{"n": {i}}}}},
                    {{"type": "track", "event": "e", "anonymousId": "a-{i}", "context": {{"traits": {traits}}}}}]}}"#
            );
            assert_eq!(env.post("/v1/batch", body).await, ok(), "{traits:.60} {user}");
        }
    }
    assert_eq!(env.keen.events().len(), texts.len() * 4 * 2);
    assert!(env.keen.refusals().is_empty(), "{:?}", env.keen.refusals());
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn users_survive_configuration_update() {
    let mut config = harness::default_config();
    config["sources"]["writeKey"]["rememberUsers"] = json!(true);
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let builder =
        Envoy::builder().keen(keen.addr()).config(config.clone()).from_file(Dynamic::Filter);
    let envoy = builder.start().await.unwrap_or_else(|error| panic!("{error:?}"));
    let env = TestEnv {
        envoy,
        keen,
        client: reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap(),
    };
    post(&env, "/v1/identify", "writeKey", json!({"userId": "u", "traits": {"plan": "pro"}})).await;
    config["users"] = json!({"max": 50});
    config["sources"]["second"] = config["sources"]["writeKey"].clone();
    config["unknownSource"] = json!("reject");
    env.envoy.update(&config).unwrap();
    env.until("the new configuration is in force", async || {
        let request =
            env.client.post(env.envoy.url("/v1/track")).basic_auth("nobody", Some("")).body("{}");
        request.send().await.unwrap().status() == 400
    })
    .await;
    post(&env, "/v1/track", "writeKey", json!({"event": "e", "userId": "u"})).await;
    post(&env, "/v1/track", "second", json!({"event": "of another source", "userId": "u"})).await;
    assert_eq!(users(&env, "e"), [json!({"userId": "u", "traits": {"plan": "pro"}})]);
    assert_eq!(users(&env, "of another source"), [Value::Null]);
    env.envoy.no_panic_in_log();
}
