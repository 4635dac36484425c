//! The client address and the user agent in events: the end user's, as Envoy determines them, and
//! never a server's.

use super::fixture::{TestEnv, raw};
use base64::Engine;
use harness::Envoy;
use mock_keen::{MockKeen, Options};
use serde_json::{Value, json};

const CHROME: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

async fn behind(connection_manager: Value) -> TestEnv {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let envoy = Envoy::builder().keen(keen.addr()).patch(move |bootstrap| {
        let manager = bootstrap.pointer_mut(MANAGER).unwrap().as_object_mut().unwrap();
        manager.extend(connection_manager.as_object().unwrap().clone());
    });
    let envoy = envoy.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    TestEnv { envoy, keen, client: reqwest::Client::new() }
}

/// Returns the address in the event of a call with these headers.
async fn address(env: &TestEnv, headers: &[(&str, &str)]) -> Value {
    env.keen.reset();
    let body = json!({"userId": "u", "event": "seen"}).to_string();
    let mut all = vec![("user-agent", CHROME)];
    all.extend(headers);
    assert_eq!(env.post_with("/v1/track", body, &all).await.0, 200);
    let event = env.keen.events().pop().expect("an event").event;
    let geo = event["keen"]["addons"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|a| a["name"] == "keen:ip_to_geo");
    assert!(geo || event.get("ip_address").is_none(), "{event}");
    event["ip_address"].clone()
}

#[tokio::test]
async fn client_address_with_forged_x_forwarded_for_is_peer_address() {
    let env = behind(json!({"use_remote_address": true})).await;
    for forged in ["6.6.6.6", "6.6.6.6, 7.7.7.7", "2001:db8::6", "garbage", "127.0.0.2"] {
        assert_eq!(address(&env, &[("x-forwarded-for", forged)]).await, "127.0.0.1", "{forged}");
    }
    for header in
        ["x-real-ip", "forwarded", "true-client-ip", "x-envoy-external-address", "cf-connecting-ip"]
    {
        assert_eq!(address(&env, &[(header, "6.6.6.6")]).await, "127.0.0.1", "{header}");
    }
    assert_eq!(address(&env, &[]).await, "127.0.0.1");
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn client_address_behind_trusted_proxy_is_the_one_it_appended() {
    let env = behind(json!({"use_remote_address": true, "xff_num_trusted_hops": 1})).await;
    for (header, want) in [
        ("7.7.7.7", "7.7.7.7"),
        ("6.6.6.6, 7.7.7.7", "7.7.7.7"),
        ("6.6.6.6, 2001:db8::7", "2001:db8::7"),
        ("2001:DB8:0::7", "2001:db8::7"),
    ] {
        assert_eq!(address(&env, &[("x-forwarded-for", header)]).await, want, "{header}");
    }
    assert_eq!(address(&env, &[]).await, "127.0.0.1");
    env.envoy.no_panic_in_log();
}

/// The load balancer sends the client's address in the PROXY protocol, before the request.
#[tokio::test]
async fn client_address_behind_proxy_protocol_is_clients() {
    let keen = MockKeen::start(Options::default()).await.unwrap();
    let envoy = Envoy::builder().keen(keen.addr()).patch(|bootstrap| {
        bootstrap["static_resources"]["listeners"][0]["listener_filters"] = json!([{
            "name": "envoy.filters.listener.proxy_protocol",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
            },
        }]);
    });
    let envoy = envoy.start().await.unwrap_or_else(|e| panic!("{e:?}"));
    for (proxy, want) in [
        ("PROXY TCP4 198.51.100.7 127.0.0.1 4711 80", "198.51.100.7"),
        ("PROXY TCP6 2001:db8::7 ::1 4711 80", "2001:db8::7"),
        ("PROXY TCP6 ::ffff:198.51.100.8 ::1 4711 80", "198.51.100.8"),
    ] {
        keen.reset();
        let body = r#"{"event": "seen", "userId": "u"}"#;
        let request = format!(
            "{proxy}\r\nPOST /v1/track HTTP/1.1\r\nhost: edge\r\nauthorization: Basic d3JpdGVLZXk6\r\n\
             user-agent: {CHROME}\r\nx-forwarded-for: 6.6.6.6\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let reply = raw(envoy.addr(), request.into_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{proxy}: {reply}");
        let event = keen.events().pop().expect("an event").event;
        assert_eq!(
            (&event["ip_address"], &event["keen"]["addons"][0]["name"]),
            (&json!(want), &json!("keen:ip_to_geo"))
        );
    }
    envoy.no_panic_in_log();
}

#[tokio::test]
async fn server_library_in_either_field_gets_no_client_address() {
    let env = TestEnv::new().await;
    let post = async |agent: &str, context: Value| {
        env.keen.reset();
        let body = json!({"userId": "u", "event": "seen", "context": context}).to_string();
        assert_eq!(env.post_with("/v1/track", body, &[("user-agent", agent)]).await.0, 200);
        let event = env.keen.events().pop().expect("an event").event;
        (event.get("ip_address").is_some(), event.get("user_agent").cloned())
    };
    // `User-Agent` and `context.library.name`, as recorded or from the libraries' sources.
    for (agent, library) in [
        ("analytics-node-next/latest", "@segment/analytics-node"),
        ("analytics-node/6.2.0", "analytics-node"),
        ("analytics-python/2.4.0", "analytics-python"),
        ("analytics-ruby/2.5.0", "analytics-ruby"),
        ("analytics-go (version: 3.0.0)", "analytics-go"),
        ("analytics-java/3.5.2", "analytics-java"),
        ("analytics-php/3.8.2", "analytics-php"),
        ("Analytics.NET/3.8.1", "Analytics.NET"),
        ("RudderAnalytics/1", "RudderAnalytics"),
    ] {
        assert_eq!(post(agent, json!({})).await, (false, None), "by user agent: {agent}");
        for named in [json!({"library": {"name": library}}), json!({"library": library})] {
            assert_eq!(post(CHROME, named).await, (false, None), "by library: {library}");
        }
        let direct = json!({"library": {"name": library}, "direct": true});
        assert_eq!(post(agent, direct).await, (true, Some(json!(agent))), "{agent}, direct");
    }
    for (agent, library) in [
        (CHROME, "analytics.js"),
        ("okhttp/4.12.0", "analytics-kotlin"),
        ("MyApp/1 CFNetwork/1490 Darwin/23.2.0", "analytics-swift"),
        ("okhttp/4.9.2", "@segment/analytics-react-native"),
        ("Dalvik/2.1.0", "analytics-android"),
    ] {
        let visitor = post(agent, json!({"library": {"name": library}})).await;
        assert_eq!(visitor, (true, Some(json!(agent))), "{library}");
    }
    // Analytics-CSharp runs in Unity games, which use a short path, and on servers, which use a
    // long one.
    let unity = json!({"type": "track", "userId": "u", "event": "seen",
        "context": {"library": {"name": "Analytics-CSharp"}}});
    for (path, sees_address) in [("/v1/b", true), ("/v1/batch", false)] {
        env.keen.reset();
        let body = json!({"batch": [unity]}).to_string();
        let agent = ("user-agent", "Analytics-CSharp/2.5.4");
        assert_eq!(env.post_with(path, body, &[agent]).await.0, 200);
        let event = env.keen.events().pop().expect("an event").event;
        assert_eq!(event.get("ip_address").is_some(), sees_address, "{path}");
    }
    env.envoy.no_panic_in_log();
}

#[tokio::test]
async fn recorded_requests_get_client_address_only_from_browsers() {
    let mut config = harness::default_config();
    config["sources"]["WRITEKEY123"] = config["sources"]["writeKey"].clone();
    let env = TestEnv::with(config).await;
    let captures = std::fs::read_dir(harness::root().join("tests/captures")).unwrap();
    let (mut servers, mut browsers) = (0, 0);
    for path in captures.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let requests: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for request in requests
            .iter()
            .filter(|r| r["method"] == "POST" && r["path"].as_str().unwrap().starts_with("/v1/"))
        {
            env.keen.reset();
            let body = match request.get("body_base64").and_then(Value::as_str) {
                Some(text) => base64::engine::general_purpose::STANDARD.decode(text).unwrap(),
                None => request["body_text"].as_str().unwrap_or("").as_bytes().to_vec(),
            };
            let mut call =
                env.client.post(env.envoy.url(request["path"].as_str().unwrap())).body(body);
            for header in request["headers"].as_array().unwrap() {
                let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
                if ["authorization", "content-encoding", "user-agent"]
                    .iter()
                    .any(|n| name.eq_ignore_ascii_case(n))
                {
                    call = call.header(name, value);
                }
            }
            assert_eq!(call.send().await.unwrap().status(), 200, "{name}");
            for event in env.keen.events() {
                let (ip, agent) = (event.event.get("ip_address"), event.event.get("user_agent"));
                if name.starts_with("browser-") {
                    browsers += 1;
                    assert_eq!(ip, Some(&json!("127.0.0.1")), "{name}");
                    assert!(
                        agent.and_then(Value::as_str).is_some_and(|a| a.starts_with("Mozilla/5.0")),
                        "{name}"
                    );
                } else {
                    servers += 1;
                    // A server may set `context.ip` itself.
                    assert_ne!(ip, Some(&json!("127.0.0.1")), "{name}");
                    assert_eq!(agent, None, "{name}");
                }
            }
        }
    }
    assert!(servers > 60 && browsers >= 7, "{servers} events of servers, {browsers} of browsers");
    env.envoy.no_panic_in_log();
}
