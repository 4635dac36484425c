//! Maps whole requests and checks the events and the outcomes of the messages.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::config::Config;
use crate::keen::names;
use crate::segment::http::BadRequestReason;
use crate::segment::http::route::CallerSide;
use crate::segment::message::MessageType;
use crate::users::UserTransaction;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const RECEIVED_MS: i64 = 1_795_471_392_908;
const RECEIVED: &str = "2026-11-23T22:03:12.908Z";
const BROWSER: &[u8] = b"Mozilla/5.0 (X11; Linux x86_64)";

/// Maps requests for the source `k`, and for other sources that a test names.
struct Fixture {
    config: Config,
    message_type: Option<MessageType>,
    side: CallerSide,
    header_write_key: Option<&'static str>,
    client: Client<'static>,
    store: BTreeMap<String, (Vec<u8>, u32)>,
    max_bytes: usize,
}

struct Mapped {
    stats: RequestStats,
    events: Vec<(usize, String, Value)>,
    overflowed: bool,
}

impl Mapped {
    fn event(&self) -> &Value {
        let [(_, _, event)] = self.events.as_slice() else { panic!("{:?}", self.events) };
        event
    }

    fn tokens(&self) -> Vec<&str> {
        let tokens = self.events.iter();
        tokens.map(|(_, _, event)| event["keen"]["uniqueness_token"].as_str().unwrap()).collect()
    }

    fn skipped(&self) -> Vec<Option<SkipReason>> {
        self.stats.messages.iter().map(|message| message.skipped).collect()
    }
}

fn fixture(settings: Value) -> Fixture {
    fixture_of(json!({"k": settings}))
}

fn fixture_of(mut sources: Value) -> Fixture {
    for (index, source) in sources.as_object_mut().unwrap().values_mut().enumerate() {
        source["projectId"] = json!(format!("{index:024}"));
    }
    let config = json!({"keen": {"cluster": "keen"}, "sources": sources}).to_string();
    Fixture {
        config: Config::parse(config.as_bytes()).unwrap(),
        message_type: None,
        side: CallerSide::Server,
        header_write_key: Some("k"),
        client: Client { source_address: b"203.0.113.7:4711", ..Client::default() },
        store: BTreeMap::new(),
        max_bytes: usize::MAX,
    }
}

impl Fixture {
    fn track(self) -> Self {
        Self { message_type: Some(MessageType::Track), ..self }
    }

    fn browser(self) -> Self {
        let client = Client { user_agent: BROWSER, ..self.client };
        Self { side: CallerSide::Client, client, ..self }
    }

    fn try_map(&mut self, body: impl AsRef<[u8]>) -> Result<Mapped, BadRequestReason> {
        let mut events = EventBuffer::new(self.max_bytes);
        let mut users = UserTransaction::new(&mut self.store, self.config.users, 1);
        let mut made = 0;
        let request = Request {
            message_type: self.message_type,
            side: self.side,
            header_write_key: self.header_write_key,
            body: body.as_ref(),
            received_ms: RECEIVED_MS,
        };
        let token = || {
            made += 1;
            format!("made {made}")
        };
        let stats =
            map_request(&self.config, request, |_| self.client, token, &mut users, &mut events)?;
        let parsed = |event: crate::keen::bulk::Event<'_>| {
            let json = serde_json::from_slice(event.json).unwrap();
            (event.destination, event.collection.to_owned(), json)
        };
        Ok(Mapped {
            stats,
            events: events.events().map(parsed).collect(),
            overflowed: events.is_overflowed(),
        })
    }

    fn map(&mut self, body: impl AsRef<[u8]>) -> Mapped {
        self.try_map(body).unwrap()
    }
}

#[test]
fn write_key_of_a_message_is_before_the_bodys_and_that_before_the_headers() {
    let mut three = fixture_of(json!({"header": {}, "body": {}, "message": {}}));
    three.header_write_key = Some("header");
    let destination = |three: &mut Fixture, body: Value| {
        let name = |key: &str| {
            three.config.sources[three.config.source_index(key).unwrap()].destination_index
        };
        let [header, of_body, message] = ["header", "body", "message"].map(name);
        let found = three.map(body.to_string()).events[0].0;
        (found == header, found == of_body, found == message)
    };
    let track = json!({"type": "track", "event": "e"});
    let keyed = json!({"type": "track", "event": "e", "writeKey": "message"});
    assert_eq!(destination(&mut three, json!({"batch": [track]})), (true, false, false));
    let body = json!({"batch": [track], "writeKey": "body"});
    assert_eq!(destination(&mut three, body), (false, true, false));
    let body = json!({"batch": [keyed], "writeKey": "body"});
    assert_eq!(destination(&mut three, body), (false, false, true));
    three.message_type = Some(MessageType::Track);
    assert_eq!(destination(&mut three, keyed), (false, false, true));
}

#[test]
fn write_key_is_trimmed_and_a_blank_one_is_none() {
    let mut shop = fixture(json!({})).track();
    for key in [" k ", "", " ", "\u{a0}"] {
        assert_eq!(shop.map(json!({"event": "e", "writeKey": key}).to_string()).events.len(), 1);
    }
    for key in ["k:", "k:k", ":k", "other"] {
        let mapped = shop.map(json!({"event": "e", "writeKey": key}).to_string());
        assert_eq!(mapped.skipped(), [Some(SkipReason::UnknownWriteKey)], "{key}");
    }
    shop.header_write_key = None;
    for key in [json!(" "), json!("x".repeat(513)), json!(7)] {
        let body = json!({"event": "e", "writeKey": key}).to_string();
        assert_eq!(shop.try_map(body).err(), Some(BadRequestReason::InvalidWriteKey));
    }
}

#[test]
fn map_request_body_without_messages_says_why() {
    let mut shop = fixture(json!({}));
    assert_eq!(shop.try_map("{").err(), Some(BadRequestReason::MalformedJson));
    let other = json!({"messages": [{"type": "track", "event": "e"}]}).to_string();
    assert_eq!(shop.try_map(other).err(), Some(BadRequestReason::NoBatch));
    let many = json!({"batch": vec![json!({}); 2_501]}).to_string();
    let error = BadRequestReason::TooManyMessages { messages: 2_501, limit: 2_500 };
    assert_eq!(shop.try_map(many).err(), Some(error));
}

#[test]
fn map_request_every_message_has_an_outcome() {
    let mut shop = fixture_of(json!({"k": {"trackAllPages": true}, "none": {}}));
    let mapped = shop.map(
        json!({"batch": [
            {"type": "track", "event": "e"},
            {"type": "track"},
            {"type": "page", "name": "n", "category": "c"},
            {"type": "page", "writeKey": "none"},
            {"type": "track", "event": "e", "integrations": {"All": false}},
            {"type": "track", "event": "e", "_metadata": {"bundled": ["Keen IO"]}},
            {"type": "other"},
            {"type": "group"},
            {"type": "track", "event": "e", "writeKey": "?"},
            null,
        ]})
        .to_string(),
    );
    let labels: Vec<&str> =
        mapped.skipped().into_iter().map(|skipped| skipped.map_or("", SkipReason::label)).collect();
    assert_eq!(
        labels,
        [
            "",
            "no_event_name",
            "",
            "no_page_setting",
            "integrations",
            "bundled",
            "unknown_type",
            "no_effect",
            "unknown_write_key",
            "not_an_object"
        ]
    );
    let events: Vec<usize> = mapped.stats.messages.iter().map(|message| message.events).collect();
    assert_eq!(events, [1, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    let page = mapped.stats.messages[2];
    assert_eq!((page.source, page.message_type), (Some(0), Some(MessageType::Page)));
}

#[test]
fn decode_text_bytes_that_are_not_utf8_lose_no_message() {
    let mut shop = fixture(json!({}));
    let mut body = b"\xef\xbb\xbf{\"batch\":[{\"type\":\"track\",\"event\":\"A\",\"userId\":\"caf?\"},{\"type\":\"track\",\"event\":\"B\"}]}".to_vec();
    let bad = body.iter().position(|byte| *byte == b'?').unwrap();
    body[bad] = 0xe9;
    let mapped = shop.map(&body);
    assert_eq!(mapped.events.len(), 2);
    assert_eq!(mapped.events[0].2["userId"], "caf\u{fffd}");
}

#[test]
fn uniqueness_token_blank_and_placeholder_ids_are_none() {
    let mut shop = fixture(json!({}));
    let ids = ["", " ", "\t\u{0}", "${keen.ip}", "${keen.user_agent}"];
    let batch: Vec<Value> =
        ids.iter().map(|id| json!({"type": "track", "event": "e", "messageId": id})).collect();
    let mapped = shop.map(json!({"batch": batch}).to_string());
    assert_eq!(mapped.tokens(), ["made 1", "made 2", "made 3", "made 4", "made 5"]);
}

#[test]
fn uniqueness_token_replaced_characters_make_no_two_messages_one() {
    let mut shop = fixture(json!({}));
    let body = |ids: &[&str]| {
        let messages = ids.iter();
        let messages: Vec<String> = messages
            .map(|id| format!(r#"{{"type":"track","event":"e","messageId":"{id}"}}"#))
            .collect();
        format!("{{\"batch\":[{}]}}", messages.join(","))
    };
    let escaped = body(&["m\\ud800", "m\\ud801", "m\u{fffd}"]);
    let mut raw = body(&["m?", "m?"]).into_bytes();
    for (place, bad) in [0xe8, 0xe9].into_iter().enumerate() {
        let at = raw.iter().position(|byte| *byte == b'?').unwrap();
        raw[at] = bad;
        assert!(place < 2);
    }
    for body in [escaped.into_bytes(), raw] {
        let first = shop.map(&body);
        let mut tokens = first.tokens();
        // A retry has the same tokens.
        assert_eq!(shop.map(&body).tokens(), tokens);
        let count = tokens.len();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), count);
    }
}

#[test]
fn user_id_blank_and_placeholder_fall_back_to_the_anonymous_id() {
    let mut shop = fixture(json!({})).track();
    for id in [" ", "\u{1}", "${keen.ip}"] {
        let body = json!({"event": "e", "userId": id, "anonymousId": "a"}).to_string();
        assert_eq!(shop.map(body).event()["userId"], "a", "{id:?}");
    }
}

#[test]
fn placeholder_escaped_to_the_last_character_is_never_sent() {
    for placeholder in ["${keen.ip}", "${keen.user_agent}"] {
        let escaped: String = placeholder.bytes().map(|b| format!("\\u{b:04x}")).collect();
        let mut shop = fixture(json!({"ipAddon": true})).track();
        let body = format!(
            r#"{{"event":"e","properties":{{"p":"{escaped}","ip_address":"{escaped}"}},"context":{{"ip":"{escaped}","userAgent":"{escaped}"}}}}"#
        );
        let mapped = shop.map(body);
        let event = mapped.event();
        assert_eq!((&event["p"], &event["ip_address"]), (&Value::Null, &Value::Null));
        assert_eq!((&event["user_agent"], &event["keen"]["addons"]), (&Value::Null, &Value::Null));
    }
}

#[test]
fn context_second_replaces_the_first() {
    let mut shop = fixture(json!({})).track();
    let body =
        r#"{"event":"e","context":{"ip":"1.1.1.1","userAgent":"a"},"context":{"ip":"2.2.2.2"}}"#;
    let mapped = shop.map(body);
    assert_eq!(mapped.event()["ip_address"], "2.2.2.2");
    assert!(mapped.event().get("user_agent").is_none());
}

#[test]
fn sent_at_null_or_before_2000_falls_back_to_the_batchs() {
    let mut shop = fixture(json!({}));
    for own in [
        json!(null),
        json!("0001-01-01T00:00:00Z"),
        json!("soon"),
        json!("1999-12-31T23:59:59.999Z"),
    ] {
        let body = json!({
            "sentAt": "2014-01-01T01:00:00Z",
            "batch": [{"type": "track", "event": "e", "timestamp": "2014-01-01T00:00:00Z", "sentAt": own}],
        });
        let mapped = shop.map(body.to_string());
        assert_eq!(mapped.event()["keen"]["timestamp"], "2026-11-23T21:03:12.908Z", "{own}");
    }
    // Without a valid `sentAt` nothing is corrected.
    let body = json!({"sentAt": "1999-12-31T23:59:59Z", "batch": [
        {"type": "track", "event": "e", "timestamp": "2014-01-01T00:00:00Z", "sentAt": null},
        {"type": "track", "event": "e"},
    ]});
    let mapped = shop.map(body.to_string());
    assert_eq!(mapped.events[0].2["keen"]["timestamp"], "2014-01-01T00:00:00.000Z");
    assert_eq!(mapped.events[1].2["keen"]["timestamp"], RECEIVED);
}

#[test]
fn batch_page_is_the_page_of_each_message_and_of_its_addons() {
    let mut shop = fixture(json!({"urlAddon": true})).browser();
    shop.client.referer = b"https://referer.example/";
    let body = json!({
        "context": {"page": {"url": "https://batch.example/", "referrer": "https://from.example/"}},
        "batch": [
            {"type": "track", "event": "e"},
            {"type": "track", "event": "e", "context": {"page": {"url": "https://own.example/"}}},
            {"type": "track", "event": "e", "context": {"page": {}}},
        ],
    });
    let mapped = shop.map(body.to_string());
    let urls: Vec<&Value> = mapped.events.iter().map(|(_, _, event)| &event["page_url"]).collect();
    assert_eq!(urls, ["https://batch.example/", "https://own.example/", "https://batch.example/"]);
    for (_, _, event) in &mapped.events {
        assert_eq!(event["referrer_url"], "https://from.example/");
        assert_eq!(event["keen"]["addons"][0]["name"], "keen:url_parser");
    }
    // A page without a URL is a page, too: the header is not used in place of it.
    let body = json!({
        "context": {"page": {"title": "t"}}, "batch": [{"type": "track", "event": "e"}],
    });
    assert_eq!(shop.map(body.to_string()).event().get("page_url"), None);
}

#[test]
fn batch_of_a_server_shares_no_visitors_traits() {
    let body = json!({"batch": [
        {"type": "identify", "anonymousId": "a", "traits": {"x": 1}},
        {"type": "track", "event": "e", "anonymousId": "b"},
    ]})
    .to_string();
    let settings = json!({"mode": "device", "rememberUsers": true});
    let mapped = fixture(settings.clone()).browser().map(&body);
    assert_eq!(mapped.event()["user"], json!({"traits": {"x": 1}}));
    // A browser's `User-Agent`, forwarded by a server.
    let mut server = fixture(settings.clone()).browser();
    let handed_on = body.replace(
        "\"anonymousId\":\"b\"",
        "\"anonymousId\":\"b\",\"context\":{\"library\":{\"name\":\"analytics-go\"}}",
    );
    assert_eq!(server.map(&handed_on).event().get("user"), None);
    // The same for the identify alone.
    let mut server = fixture(settings.clone()).browser();
    let handed_on = body.replace(
        "\"anonymousId\":\"a\"",
        "\"anonymousId\":\"a\",\"context\":{\"library\":{\"name\":\"analytics-go\"}}",
    );
    assert_ne!(handed_on, body);
    assert_eq!(server.map(&handed_on).event().get("user"), None);
    // A phone is an end user's device, but its messages are not of one page.
    for agent in [&b"analytics-node/6"[..], b"analytics-ios/4"] {
        let mut other = fixture(settings.clone());
        other.client.user_agent = agent;
        assert_eq!(other.map(&body).event().get("user"), None);
    }
}

#[test]
fn location_off_the_earth_is_left_out() {
    let mut shop = fixture(json!({})).track();
    for (coordinates, kept) in [
        ("[13.4,52.5]", true),
        ("[-180,90]", true),
        ("[180,-90]", true),
        ("[13.4,90.1]", false),
        ("[13.4,-91]", false),
        ("[180.5,1]", false),
        ("[1]", false),
        ("[1,2,3]", false),
        ("[\"1\",2]", false),
        ("[1e400,2]", false),
        ("{}", false),
        (&format!("[1,2],\"a\":\"{}\"", "x".repeat(4_050)), true),
        (&format!("[1,2],\"a\":\"{}\"", "x".repeat(4_096)), false),
    ] {
        let body = format!(
            r#"{{"event":"e","properties":{{"keen":{{"location":{{"coordinates":{coordinates}}}}}}}}}"#
        );
        let mapped = shop.map(body);
        assert_eq!(mapped.event()["keen"].get("location").is_some(), kept, "{coordinates}");
    }
}

#[test]
fn audience_events_have_tokens_of_their_own() {
    let mut shop = fixture(json!({"audienceEvents": true}));
    let body = json!({"batch": [{
        "type": "identify", "userId": "u", "messageId": "m-1",
        "context": {"personas": {"computation_class": "audience"}},
        "traits": {"Big Spender": true, "VIP": false, "age": 7},
    }]});
    let mapped = shop.map(body.to_string());
    let names: Vec<&str> = mapped.events.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["Audience Entered", "Audience Exited"]);
    assert_eq!(mapped.tokens(), ["m-1 big_spender", "m-1 vip"]);
    assert_eq!(mapped.events[0].2["audience_key"], "big_spender");
    assert_eq!((mapped.stats.messages[0].events, mapped.skipped()[0]), (2, None));
    // A long id is hashed, and the token still depends on the audience.
    let long = body.to_string().replace("m-1", &"m".repeat(100));
    let mapped = shop.map(long);
    let id = names::sha256_hex("m".repeat(100).as_bytes(), 64);
    assert_eq!(mapped.tokens()[1], names::sha256_hex(format!("{id} vip").as_bytes(), 64));
}

#[test]
fn audience_events_are_bounded_by_the_bodys_size() {
    let mut shop = fixture(json!({"audienceEvents": true}));
    let traits: BTreeMap<String, bool> = (0..5_000).map(|i| (format!("a{i}"), true)).collect();
    let body =
        json!({"type": "identify", "userId": "u", "context": {"personas": {}}, "traits": traits});
    let body = body.to_string();
    let mapped = shop.map(&body);
    assert!(mapped.events.len() <= body.len() / 600 + 9, "{} events", mapped.events.len());
    assert!(mapped.events.len() > 50);
}

/// Engage sends an audience's members in batches, with one identify of about 330 bytes per member.
#[test]
fn each_identify_of_a_batch_gives_its_audience_event() {
    let mut shop = fixture(json!({"audienceEvents": true}));
    let personas = json!({
        "computation_class": "audience", "computation_key": "vip", "computation_id": "aud_2Gm4kZ",
        "namespace": "spa_7yUkLm", "space_id": "spa_7yUkLm",
    });
    let batch: Vec<Value> = (0..500)
        .map(|user| {
            json!({
                "type": "identify", "messageId": format!("personas_{user:032}"),
                "userId": format!("u{user}"), "context": {"personas": personas},
                "traits": {"vip": true},
            })
        })
        .collect();
    assert_eq!(shop.map(json!({"batch": batch}).to_string()).events.len(), 500);
}

#[test]
fn computed_traits_of_a_batch_are_bounded_by_its_size() {
    let mut shop = fixture(json!({"audienceEvents": true}));
    let batch: Vec<Value> = (0..500)
        .map(|user| json!({"type": "identify", "userId": format!("u{user}"), "context": {"personas": {}}, "traits": {"vip": true}}))
        .collect();
    let body = json!({"batch": batch}).to_string();
    let mapped = shop.map(&body);
    assert_eq!(mapped.events.len(), body.len() / 128 + 64);
}

#[test]
fn map_request_stops_where_the_buffer_is_full() {
    let mut shop = fixture(json!({}));
    shop.max_bytes = 1_000;
    let agent = "x".repeat(400);
    let batch = vec![json!({"type": "track", "event": "e"}); 1_000];
    let mapped = shop.map(json!({"context": {"userAgent": agent}, "batch": batch}).to_string());
    assert!(mapped.overflowed);
    assert!(mapped.stats.messages.len() < 5, "{} messages", mapped.stats.messages.len());
}

#[test]
fn map_request_stops_where_events_are_many_times_the_body() {
    let mut shop = fixture(json!({}));
    let agent = "x".repeat(9_000);
    let batch = vec![json!({"type": "track", "event": "e"}); 500];
    let body = json!({"context": {"userAgent": agent}, "batch": batch}).to_string();
    let mapped = shop.map(&body);
    assert!(mapped.overflowed);
    let written: usize = mapped.events.iter().map(|(_, _, event)| event.to_string().len()).sum();
    assert!(written < body.len() * 32 + 65_536 + 10_000, "{written} bytes of {}", body.len());
}

#[test]
fn client_address_short_path_and_known_libraries_only() {
    let of = |side, library: &str| {
        let mut shop = fixture(json!({"ipAddon": true, "uaAddon": true}));
        shop.side = side;
        shop.client.user_agent = b"Ruby";
        let body = json!({"batch": [
            {"type": "track", "event": "e", "context": {"library": {"name": library}}},
        ]});
        let mapped = shop.map(body.to_string());
        let event = mapped.event();
        (event.get("ip_address").is_some(), event.get("user_agent").is_some())
    };
    assert_eq!(of(CallerSide::Client, "Analytics-CSharp"), (true, true));
    assert_eq!(of(CallerSide::Server, "simple_segment"), (false, false));
    assert_eq!(of(CallerSide::Client, "@customerio/cdp-analytics-node"), (false, false));
    assert_eq!(of(CallerSide::Server, "analytics-ios"), (true, true));
}

#[test]
fn failed_initialization_of_keen_is_mapped() {
    let mut shop = fixture(json!({"mode": "device"})).track().browser();
    let metadata =
        json!({"bundled": ["Keen IO", "Segment.io"], "failedInitializations": ["Keen IO"]});
    let mapped = shop.map(json!({"event": "e", "_metadata": metadata}).to_string());
    assert_eq!(mapped.events.len(), 1);
}

#[test]
fn audience_events_are_as_many_as_the_bound_and_one() {
    let mut shop = fixture(json!({"audienceEvents": true}));
    let traits: BTreeMap<String, bool> = (0..20).map(|i| (format!("a{i}"), true)).collect();
    let body =
        json!({"type": "identify", "userId": "u", "context": {"personas": {}}, "traits": traits});
    let body = body.to_string();
    assert!(body.len() < 600);
    assert_eq!(shop.map(&body).events.len(), 9);
}

#[test]
fn identify_has_an_effect_if_it_has_an_event_of_any_size() {
    let mut shop = fixture(json!({"audienceEvents": true}));
    let of_audience = json!({
        "type": "identify", "userId": "u", "context": {"personas": {}}, "traits": {"vip": true},
    });
    let mut oversized = of_audience.clone();
    oversized["integrations"] = json!({"Keen IO": {"traits": {"x": vec![1; 500_000]}}});
    let plain = json!({"type": "identify", "userId": "u", "traits": {"vip": true}});
    for (body, events, oversized, skipped) in [
        (of_audience, 1, 0, None),
        (oversized, 0, 1, None),
        (plain, 0, 0, Some(SkipReason::NoEffect)),
    ] {
        let outcome = shop.map(json!({"batch": [body]}).to_string()).stats.messages[0];
        let found = (outcome.events, outcome.oversized, outcome.skipped);
        assert_eq!(found, (events, oversized, skipped));
    }
}

#[test]
fn client_address_is_wanted_for_its_addon_and_messages_without_an_ip() {
    let wants = |settings: Value, ip: Value| {
        let shop = fixture(settings);
        let body = json!({"event": "e", "context": {"ip": ip}}).to_string();
        let request = Request {
            message_type: Some(MessageType::Track),
            side: shop.side,
            header_write_key: shop.header_write_key,
            body: body.as_bytes(),
            received_ms: RECEIVED_MS,
        };
        let mut store = BTreeMap::new();
        let mut users = UserTransaction::new(&mut store, shop.config.users, 1);
        let mut wanted = None;
        let client = |wants_address| {
            wanted = Some(wants_address);
            shop.client
        };
        let mut events = EventBuffer::default();
        map_request(&shop.config, request, client, String::new, &mut users, &mut events).unwrap();
        wanted.unwrap()
    };
    for (settings, ip, wanted) in [
        (json!({"ipAddon": true}), Value::Null, true),
        (json!({"ipAddon": true}), json!("${keen.ip}"), true),
        (json!({"ipAddon": true}), json!("1.2.3.4"), false),
        (json!({}), Value::Null, false),
        (json!({}), json!("1.2.3.4"), false),
    ] {
        assert_eq!(wants(settings.clone(), ip.clone()), wanted, "{settings} {ip}");
    }
}

#[test]
fn ip_address_that_is_too_long_is_left_out() {
    for bytes in [64, 65] {
        let mut shop = fixture(json!({"ipAddon": true})).track().browser();
        let ip = "x".repeat(bytes);
        let body = json!({"event": "e", "context": {"ip": ip}}).to_string();
        let want = if bytes == 64 { ip.as_str() } else { "203.0.113.7" };
        assert_eq!(shop.map(body).event()["ip_address"], want);
    }
}

#[test]
fn event_name_that_is_a_whole_number_has_no_fraction() {
    let mut shop = fixture(json!({})).track();
    for (name, collection) in [
        ("7", "7"),
        ("7.0", "7"),
        ("-7.0", "-7"),
        ("1.5", "1.5"),
        ("-1.50", "-1.50"),
        ("9007199254740991.0", "9007199254740991"),
        ("-9007199254740991.0", "-9007199254740991"),
        ("9007199254740992.0", "9007199254740992.0"),
        ("1e400", "1e400"),
    ] {
        let mapped = shop.map(format!("{{\"event\":{name}}}"));
        assert_eq!(mapped.events[0].1, collection, "{name}");
    }
}

#[test]
fn audience_events_are_off_unless_they_are_wanted() {
    let mut shop = fixture(json!({"rememberUsers": true}));
    let body = json!({"batch": [{
        "type": "identify", "userId": "u", "context": {"personas": {}}, "traits": {"vip": true},
    }]});
    let mapped = shop.map(body.to_string());
    assert_eq!((mapped.events.len(), mapped.skipped()), (0, vec![Some(SkipReason::NoEffect)]));
}

#[test]
fn user_is_left_out_if_it_has_neither_id_nor_traits() {
    for (identify, want) in [
        (json!({"anonymousId": "a", "traits": {}}), None),
        (json!({"anonymousId": "a", "traits": {"n": 1}}), Some(json!({"traits": {"n": 1}}))),
        (json!({"anonymousId": "a", "userId": "u"}), Some(json!({"userId": "u"}))),
    ] {
        let mut shop = fixture(json!({"rememberUsers": true}));
        let mut identify = identify;
        identify["type"] = json!("identify");
        let track = json!({"type": "track", "event": "e", "anonymousId": "a"});
        let mapped = shop.map(json!({"batch": [identify, track]}).to_string());
        assert_eq!(mapped.event().get("user"), want.as_ref());
    }
}

#[test]
fn traits_of_a_page_are_bounded_by_the_body() {
    let mut shop = fixture(json!({"mode": "device", "rememberUsers": true})).browser();
    let traits = json!({"x": "y".repeat(9_000)});
    let bytes = traits.to_string().len();
    let mut batch = vec![json!({"type": "track", "event": "e", "anonymousId": "b"}); 100];
    batch.insert(0, json!({"type": "identify", "anonymousId": "a", "traits": traits}));
    let body = json!({"batch": batch}).to_string();
    let mapped = shop.map(&body);
    let with_user = mapped.events.iter().filter(|(_, _, event)| event.get("user").is_some());
    assert_eq!(with_user.count(), (65_536 + 3 * body.len()) / bytes);
}

#[test]
fn sanitized_counts_each_changed_name_and_value_once() {
    let mut shop = fixture(json!({"trackAllPages": true, "trackNamedPages": true}));
    let agent = json!({"a.b": "x".repeat(100)});
    for (body, events, sanitized) in [
        (json!({"batch": [{"type": "track", "event": "e", "properties": {"a": 1}}]}), 1, 0),
        (
            json!({"batch": [{"type": "track", "event": "e", "properties": {"a.b": {"c.d": 1}}}]}),
            1,
            2,
        ),
        // A page has several events.
        (json!({"batch": [{"type": "page", "name": "n", "properties": {"a.b": 1}}]}), 2, 1),
        (json!({"batch": [{"type": "track", "event": "e", "properties": [{"a.b": 1}]}]}), 1, 1),
        (json!({"batch": [{"type": "track", "event": "e", "userId": {"a.b": 1}}]}), 1, 1),
        // A value of the batch is in several events.
        (
            json!({"context": {"userAgent": agent}, "batch": vec![json!({"type": "track", "event": "e"}); 3]}),
            3,
            1,
        ),
    ] {
        let mapped = shop.map(body.to_string());
        assert_eq!((mapped.events.len(), mapped.stats.sanitized), (events, sanitized), "{body}");
    }
}

#[test]
fn ip_address_with_escapes_has_its_addon() {
    let mut shop = fixture(json!({"ipAddon": true})).track();
    for (ip, has_addon) in [(r"\u0031.2.3.4", true), (r"\u0061.2.3.4", false)] {
        let mapped = shop.map(format!(r#"{{"event":"e","context":{{"ip":"{ip}"}}}}"#));
        assert_eq!(mapped.event()["keen"].get("addons").is_some(), has_addon, "{ip}");
    }
}

#[test]
fn user_of_a_property_is_before_the_stored_one_in_device_mode_only() {
    for (mode, want) in [
        ("cloud", json!({"userId": "u", "traits": {"n": 1}})),
        ("device", json!("of the property")),
    ] {
        let mut shop = fixture(json!({"mode": mode, "rememberUsers": true}));
        let identify = json!({"type": "identify", "userId": "u", "traits": {"n": 1}});
        let properties = json!({"user": "of the property"});
        let track = json!({"type": "track", "event": "e", "userId": "u", "properties": properties});
        let mapped = shop.map(json!({"batch": [identify, track]}).to_string());
        assert_eq!(mapped.event()["user"], want, "{mode}");
    }
}

#[test]
fn write_key_that_is_unknown_is_rejected_if_no_message_has_a_known_one() {
    let mut shop = fixture(json!({}));
    shop.config.reject_unknown_write_key = true;
    let track = json!({"type": "track", "event": "e"});
    let keyed = json!({"type": "track", "event": "e", "writeKey": "other"});
    for (header, batch, events) in [
        (Some("k"), vec![track.clone()], Some(1)),
        (Some("k"), vec![], Some(0)),
        (Some("k"), vec![track.clone(), keyed.clone()], Some(1)),
        (Some("k"), vec![keyed.clone()], None),
        (Some("other"), vec![track.clone()], None),
        (Some("other"), vec![], Some(0)),
        (None, vec![], None),
    ] {
        shop.header_write_key = header;
        let mapped = shop.try_map(json!({"batch": batch}).to_string());
        let want = events.ok_or(BadRequestReason::InvalidWriteKey);
        assert_eq!(mapped.map(|mapped| mapped.events.len()), want, "{header:?} {batch:?}");
    }
}

#[test]
fn addons_are_those_of_the_settings_and_device_events_have_their_inputs() {
    let inputs = ["page_url", "referrer_url", "user_agent", "ip_address"];
    let context = json!({
        "page": {"url": "https://a.example/", "referrer": "https://b.example/"},
        "userAgent": "Mozilla/5.0", "ip": "1.2.3.4",
    });
    for (setting, addon, wanted) in [
        ("urlAddon", "keen:url_parser", &inputs[..1]),
        ("referrerAddon", "keen:referrer_parser", &inputs[..2]),
        ("uaAddon", "keen:ua_parser", &inputs[2..3]),
        ("ipAddon", "keen:ip_to_geo", &inputs[3..]),
        ("trackAllPages", "", &[]),
    ] {
        for (mode, fields) in [("cloud", &inputs[..]), ("device", wanted)] {
            let mut shop = fixture(json!({"mode": mode, setting: true})).track();
            let found = |context: &Value, shop: &mut Fixture| {
                let mapped = shop.map(json!({"event": "e", "context": context}).to_string());
                let event = mapped.event().clone();
                let fields: Vec<&str> =
                    inputs.into_iter().filter(|name| event.get(name).is_some()).collect();
                let addons = event["keen"]["addons"].as_array().cloned().unwrap_or_default();
                let addons: Vec<Value> = addons.iter().map(|addon| addon["name"].clone()).collect();
                (fields.join(" "), addons)
            };
            let want =
                (fields.join(" "), wanted.first().map(|_| json!(addon)).into_iter().collect());
            assert_eq!(found(&context, &mut shop), want, "{mode} {setting}");
            // Without one of its inputs there is no add-on.
            for missing in ["page", "userAgent", "ip"] {
                let mut context = context.clone();
                context.as_object_mut().unwrap().remove(missing);
                let is_input = match setting {
                    "urlAddon" | "referrerAddon" => missing == "page",
                    "uaAddon" => missing == "userAgent",
                    "ipAddon" => missing == "ip",
                    _ => true,
                };
                assert_eq!(
                    found(&context, &mut shop).1.is_empty(),
                    is_input,
                    "{setting} {missing}"
                );
            }
        }
    }
}
