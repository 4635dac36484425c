//! Configuration updates of a running Envoy. A rejected update leaves the old one in force.

use super::fixture::{TestEnv, track};
use harness::{Dynamic, Envoy};
use mock_keen::{MockKeen, Options};
use serde_json::{Value, json};

async fn wrong_update_changes_nothing(what: Dynamic, refused: &str) {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let envoy = Envoy::builder()
        .keen(keen.addr())
        .from_file(what)
        .start()
        .await
        .unwrap_or_else(|e| panic!("{e:?}"));
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    // A connection keeps the configuration that it started with.
    let post = async |key: &str, event: &str| {
        let client = reqwest::Client::new();
        let request =
            client.post(env.envoy.url("/v1/track")).basic_auth(key, Some("")).body(track(event));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post("writeKey", "before").await, 200);

    let mut wrong = harness::default_config();
    wrong["sources"]["writeKey"]["projectId"] = json!("9181bcd2");
    env.envoy.update(&wrong).unwrap();
    env.until("Envoy refuses the configuration", async || env.envoy.stat(refused).await > 0).await;
    assert!(
        env.envoy
            .log()
            .contains("/sources/writ…/projectId: must be 24 hexadecimal characters, found 8")
    );
    assert_eq!(post("writeKey", "after").await, 200);
    assert_eq!(env.collections(), ["after", "before"]);

    let mut good = harness::default_config();
    good["sources"]["second"] = good["sources"]["writeKey"].clone();
    good["unknownSource"] = json!("reject");
    env.envoy.update(&good).unwrap();
    env.until("the new configuration is in force", async || post("nobody", "unknown").await == 400)
        .await;
    assert_eq!(post("second", "of the second source").await, 200);
    assert_eq!(env.collections(), ["after", "before", "of the second source"]);
    assert!(!env.envoy.log().contains("panicked"));
}

#[tokio::test]
async fn listener_update_from_file_takes_effect() {
    wrong_update_changes_nothing(Dynamic::Listener, "listener_manager.lds.update_rejected").await;
}

#[tokio::test]
async fn filter_update_from_file_takes_effect() {
    wrong_update_changes_nothing(
        Dynamic::Filter,
        "extension_config_discovery.http_filter.keen_edge.config_fail",
    )
    .await;
}

#[tokio::test]
async fn filter_with_hundreds_of_sources_delivers() {
    let (keen, europe) = (MockKeen::start(Options::default()), MockKeen::start(Options::default()));
    let (keen, europe) = (keen.await.unwrap(), europe.await.unwrap());
    let project = |n: u32| format!("5181bcd23843312d87{n:06}");
    let key = |letter: char| letter.to_string().repeat(64);
    for n in 1..=3 {
        keen.add_project(mock_keen::Project::new(
            &project(n),
            &key(char::from_digit(n, 10).unwrap()),
        ));
    }
    europe.add_project(mock_keen::Project::new(&project(1), &key('E')));
    let mut config = harness::default_config();
    config["sources"] = json!({
        "web": {"projectId": project(1), "writeKey": key('1'), "trackAllPages": true, "urlAddon": true},
        "app": {"projectId": project(2), "writeKey": key('2'), "trackNamedPages": false},
        "bare": {"projectId": project(3), "writeKey": key('3'), "trackCategorizedPages": false, "mode": "device"},
        "web-eu": {"projectId": project(1), "writeKey": key('E'), "cluster": "keen-eu"},
    });
    let europe_at = europe.addr();
    let envoy = Envoy::builder().keen(keen.addr()).config(config).patch(move |bootstrap| {
        let clusters = bootstrap.pointer_mut("/static_resources/clusters").unwrap().as_array_mut().unwrap();
        let mut second = clusters[0].clone();
        second["name"] = json!("keen-eu");
        second["load_assignment"]["cluster_name"] = json!("keen-eu");
        let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value";
        *second.pointer_mut(address).unwrap() = json!(europe_at.port());
        clusters.push(second);
    });
    let envoy = envoy.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    let env = TestEnv { envoy, keen, client: reqwest::Client::new() };
    let page = |key: &str| {
        json!({"type": "page", "writeKey": key, "userId": "u", "messageId": key, "category": "Docs", "name": "Index",
            "context": {"page": {"url": "https://shop.example/docs"}}})
    };
    let messages = ["web", "app", "bare", "web-eu", "nobody"].map(page);
    let batch = json!({"batch": messages});
    assert_eq!(env.post("/v1/batch", batch.to_string()).await.0, 200);
    let of = |keen: &MockKeen| -> Vec<(String, String, Value)> {
        let events = keen.events().into_iter().map(|e| (e.project, e.collection, e.event));
        let mut events: Vec<_> = events.collect();
        events.sort_by_key(|(project, collection, _)| format!("{project} {collection}"));
        events
    };
    let names = |events: &[(String, String, Value)]| -> Vec<String> {
        events
            .iter()
            .map(|(project, collection, _)| format!("{} {collection}", &project[23..]))
            .collect()
    };
    let (got, in_europe) = (of(&env.keen), of(&europe));
    assert_eq!(
        names(&got),
        [
            "1 Loaded a Page",
            "1 Viewed Docs Index Page",
            "1 Viewed Docs Page",
            "2 Viewed Docs Page",
            "3 Viewed Docs Index Page"
        ]
    );
    assert_eq!(names(&in_europe), ["1 Viewed Docs Index Page", "1 Viewed Docs Page"]);
    for (_, collection, event) in &got[..3] {
        assert_eq!(event["keen"]["uniqueness_token"], "web", "{collection}");
        assert_eq!(event["page_url"], "https://shop.example/docs", "{collection}");
        assert!(event.get("parsed_page_url").is_some() || env.keen.refusals().is_empty());
    }
    assert_eq!(
        (&got[3].2["userId"], &got[3].2["page_url"]),
        (&json!("u"), &json!("https://shop.example/docs"))
    );
    assert_eq!((got[4].2.get("userId"), got[4].2.get("page_url")), (None, None), "device mode");
    assert!(env.keen.refusals().is_empty() && europe.refusals().is_empty());
    env.envoy.no_panic_in_log();
}
