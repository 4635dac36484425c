//! For any track message, Keen accepts the event, and values that were valid are unchanged.

use super::arbitrary::{self, Json, Text};
use super::json_value::{self, JsonValue};
use super::oracle::{later_wins, legal, look_up, truthy};
use keen_edge::config::Config;
use keen_edge::mapping::{Client, EventBuffer, Request, map_request};
use keen_edge::segment::http::CallerSide;
use keen_edge::segment::message::MessageType;
use keen_edge::users::UserTransaction;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const AGENT: &str = "Mozilla/5.0";
const ADDRESS: &str = "2001:db8::7";

fn config(settings: serde_json::Value) -> Config {
    let mut source = json!({"projectId": "5181bcd23843312d87000000", "trackAllPages": true});
    source.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let config = json!({"keen": {"cluster": "keen"}, "sources": {"k": source}});
    Config::parse(config.to_string().as_bytes()).unwrap()
}

fn mapped(config: &Config, message_type: Option<MessageType>, body: &str) -> Vec<(String, String)> {
    let request = Request {
        message_type,
        side: CallerSide::Client,
        header_write_key: Some("k"),
        body: body.as_bytes(),
        received_ms: 1_795_471_392_908,
    };
    let client = Client {
        source_address: b"[2001:db8::7]:4711",
        user_agent: AGENT.as_bytes(),
        referer: b"https://shop.example/cart",
    };
    let mut buffer = EventBuffer::default();
    let mut nobody = BTreeMap::new();
    let mut users = UserTransaction::new(&mut nobody, config.users, 0);
    map_request(config, request, |_| client, || "made".to_owned(), &mut users, &mut buffer)
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    buffer
        .events()
        .map(|keen_edge::keen::bulk::Event { collection, json: event, .. }| {
            (collection.to_owned(), text(event))
        })
        .collect()
}

/// Checks a bulk request with these events by Keen's rules, as the mock implements them.
fn keen_takes(events: &[(String, String)]) {
    for (collection, event) in events {
        let body = format!("{{{}:[{event}]}}", serde_json::to_string(collection).unwrap());
        let batch = mock_keen::rules::read_batch(body.as_bytes())
            .unwrap_or_else(|error| panic!("{error:?}"));
        mock_keen::rules::check_collection_name(collection).unwrap();
        for (_, events) in &batch {
            for event in events {
                mock_keen::rules::check_event(&event.value)
                    .unwrap_or_else(|error| panic!("{error}: {:.2000}", event.text));
            }
        }
    }
}

/// Runs a property in a thread with a stack that is large enough for the deepest events.
fn check<S: Strategy>(
    cases: u32,
    strategy: impl FnOnce() -> S + Send + 'static,
    property: impl Fn(S::Value) + Send + 'static,
) {
    let run = move || {
        let mut runner = TestRunner::new(Runs {
            cases: crate::cases(cases),
            failure_persistence: None,
            ..Runs::default()
        });
        let outcome = runner.run(&strategy(), |value| {
            property(value);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
    };
    let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(run).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A track message from parts that the oracle knows.
#[derive(Debug)]
struct Track {
    properties: Option<Json>,
    event: Text,
    user_id: Option<Json>,
    anonymous_id: Option<Json>,
    message_id: Option<Text>,
    traits: Option<Json>,
    ip: Option<Json>,
    agent: Option<Json>,
    page: Option<(Option<Json>, Option<Json>)>,
    add_ons: bool,
}

fn track() -> impl Strategy<Value = Track> {
    let properties = prop_oneof![12 => arbitrary::object(), 1 => arbitrary::json()];
    let event = prop_oneof![1 => Just(Text::from("Purchased")), 3 => arbitrary::text()];
    let scalar =
        || prop_oneof![3 => arbitrary::text().prop_map(Json::String), 1 => arbitrary::json()];
    let ip = prop_oneof![
        2 => prop::sample::select(vec!["1.2.3.4", "2001:DB8::1", "unknown", ""]).prop_map(|ip| Json::String(ip.into())),
        1 => arbitrary::json(),
    ];
    let page = (prop::option::of(scalar()), prop::option::of(scalar()));
    let ids = (
        prop::option::of(scalar()),
        prop::option::of(scalar()),
        prop::option::of(arbitrary::text()),
    );
    let context = (prop::option::of(ip), prop::option::of(scalar()), prop::option::of(page));
    (
        prop::option::weighted(0.9, properties),
        event,
        ids,
        prop::option::of(arbitrary::json()),
        context,
        any::<bool>(),
    )
        .prop_map(
            |(
                properties,
                event,
                (user_id, anonymous_id, message_id),
                traits,
                (ip, agent, page),
                add_ons,
            )| {
                Track {
                    properties,
                    event,
                    user_id,
                    anonymous_id,
                    message_id,
                    traits,
                    ip,
                    agent,
                    page,
                    add_ons,
                }
            },
        )
}

impl Track {
    fn body(&self) -> String {
        let mut members: Vec<(Text, Json)> =
            vec![("event".into(), Json::String(self.event.clone()))];
        let mut put = |name: &str, value: Option<Json>| {
            members.extend(value.map(|value| (name.into(), value)))
        };
        put("properties", self.properties.clone());
        put("userId", self.user_id.clone());
        put("anonymousId", self.anonymous_id.clone());
        put("messageId", self.message_id.clone().map(Json::String));
        let object = |members: Vec<(&str, Option<Json>)>| {
            let members =
                members.into_iter().filter_map(|(name, value)| Some((name.into(), value?)));
            Json::Object(members.collect(), "")
        };
        let page = self
            .page
            .clone()
            .map(|(url, referrer)| object(vec![("url", url), ("referrer", referrer)]));
        put(
            "context",
            Some(object(vec![
                ("ip", self.ip.clone()),
                ("userAgent", self.agent.clone()),
                ("page", page),
            ])),
        );
        put(
            "integrations",
            Some(object(vec![("Keen IO", Some(object(vec![("traits", self.traits.clone())])))])),
        );
        Json::Object(members, "").text()
    }

    /// Returns the expected event, without its `keen` object.
    fn expected(&self) -> Vec<(String, JsonValue)> {
        let mut event: Vec<(String, JsonValue)> = Vec::new();
        let none = Vec::new();
        let own =
            if let Some(Json::Object(members, _)) = &self.properties { members } else { &none };
        let own_keen = look_up(own, "keen");
        if let JsonValue::Object(members) =
            legal(&Json::Object(self.left(own, own_keen.as_ref()), ""), 0)
        {
            event.extend(members);
        }
        let put = |event: &mut Vec<(String, JsonValue)>, name: &str, value: JsonValue| {
            event.push((name.to_owned(), value))
        };
        match &self.properties {
            None | Some(Json::Null | Json::Object(..)) => {}
            Some(other) => put(&mut event, "segment_properties", legal(other, 1)),
        }
        let name = self.event.decoded();
        if mock_keen::rules::check_collection_name(&name).is_err() {
            put(&mut event, "segment_event", legal(&Json::String(self.event.clone()), 1));
        }
        match own_keen {
            None | Some((_, Json::Null | Json::Object(..))) => {}
            Some((_, other)) => put(&mut event, "segment_keen", legal(other, 1)),
        }
        if let Some(id) = [&self.user_id, &self.anonymous_id]
            .into_iter()
            .flatten()
            .find(|id| truthy(id) && !matches!(id, Json::String(id) if is_no_id(&id.decoded())))
        {
            put(&mut event, "userId", legal(id, 1));
        }
        let (page_url, referrer) = self.page.clone().unwrap_or_default();
        let url = look_up(own, "url").map(|(_, url)| url.clone());
        // An object or an array is not an address.
        let url = url.filter(|url| {
            truthy(url) && !matches!(url, Json::Array(..) | Json::Object(..) | Json::Deep(..))
        });
        let filled = |event: &[(String, JsonValue)], name: &str| {
            event.iter().any(|(n, v)| n == name && v.text().is_some_and(|text| !text.is_empty()))
        };
        match (url.or_else(|| page_url.clone().filter(truthy)), &self.page) {
            (Some(url), _) => put(&mut event, "page_url", legal(&url, 1)),
            (None, None) if !filled(&event, "page_url") => {
                put(&mut event, "page_url", JsonValue::String("https://shop.example/cart".into()));
            }
            (None, _) => overlay(&mut event, "page_url", page_url.as_ref()),
        }
        overlay(&mut event, "referrer_url", referrer.as_ref());
        let placeholder = |json: &Json| matches!(legal(json, 1), JsonValue::Null);
        let given = |json: &Option<Json>| json.clone().filter(|json| !placeholder(json));
        let ip = self.ip.as_ref().filter(|ip| match ip {
            Json::String(_) => ip.text().len() <= 64 + 2,
            _ => true,
        });
        match given(&self.agent) {
            None if self.add_ons => put(&mut event, "user_agent", JsonValue::String(AGENT.into())),
            _ => overlay(&mut event, "user_agent", without_placeholder(self.agent.as_ref())),
        }
        match given(&ip.cloned()) {
            None if self.add_ons => {
                put(&mut event, "ip_address", JsonValue::String(ADDRESS.into()))
            }
            _ => overlay(&mut event, "ip_address", without_placeholder(ip)),
        }
        match &self.traits {
            Some(Json::Array(items, _)) if items.is_empty() => {}
            Some(Json::Object(members, _)) if members.is_empty() => {}
            Some(traits) if truthy(traits) => put(&mut event, "traits", legal(traits, 1)),
            _ => {}
        }
        later_wins(event).into_iter().filter(|(name, _)| name != "keen").collect()
    }

    /// Returns the properties without the `keen` object.
    fn left(&self, own: &[(Text, Json)], keen: Option<&(String, &Json)>) -> Vec<(Text, Json)> {
        own.iter()
            .filter(|(name, _)| keen.is_none_or(|(keen, _)| name.decoded() != *keen))
            .cloned()
            .collect()
    }

    /// Returns the add-ons that the event's own fields allow.
    fn add_ons(&self, event: &JsonValue) -> Vec<&'static str> {
        let text =
            |name: &str| event.get(name).and_then(JsonValue::text).filter(|text| !text.is_empty());
        let mut names = Vec::new();
        names.extend(
            text("ip_address")
                .filter(|ip| ip.parse::<std::net::IpAddr>().is_ok())
                .map(|_| "keen:ip_to_geo"),
        );
        names.extend(text("user_agent").map(|_| "keen:ua_parser"));
        names.extend(text("page_url").map(|_| "keen:url_parser"));
        names.extend(text("page_url").and(text("referrer_url")).map(|_| "keen:referrer_parser"));
        if self.add_ons { names } else { Vec::new() }
    }
}

fn without_placeholder(json: Option<&Json>) -> Option<&Json> {
    json.filter(|json| matches!(json, Json::Null) || !matches!(legal(json, 1), JsonValue::Null))
}

/// Sets a value of the context. A `null` or a placeholder is set only if no other field has the
/// name.
fn overlay(event: &mut Vec<(String, JsonValue)>, name: &str, value: Option<&Json>) {
    match value {
        Some(value)
            if legal(value, 1) == JsonValue::Null && event.iter().any(|(n, _)| n == name) => {}
        Some(value) => event.push((name.to_owned(), legal(value, 1))),
        None => {}
    }
}

/// Invisible characters that are neither white space nor control characters.
const INVISIBLE: [(char, char); 13] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{e0000}', '\u{e0fff}'),
];

fn is_no_id(id: &str) -> bool {
    let invisible = |c: char| INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c));
    let blank = id.chars().all(|c| c.is_whitespace() || c.is_control() || invisible(c));
    blank || id == "${keen.ip}" || id == "${keen.user_agent}"
}

fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn track_message_becomes_the_documented_event() {
    let on = json!({"ipAddon": true, "uaAddon": true, "urlAddon": true, "referrerAddon": true});
    let (off, on) = (config(json!({})), config(on));
    check(500, track, move |track| {
        let body = track.body();
        let events =
            mapped(if track.add_ons { &on } else { &off }, Some(MessageType::Track), &body);
        let name = track.event.decoded();
        if name.is_empty() {
            assert!(events.is_empty());
            return;
        }
        keen_takes(&events);
        let [(collection, text)] = events.as_slice() else { panic!("{} events", events.len()) };
        if mock_keen::rules::check_collection_name(&name).is_ok() {
            assert_eq!(*collection, name);
        } else {
            assert!(
                collection.ends_with(&format!("-{}", &hex(&name)[..8])),
                "{name:?} -> {collection}"
            );
        }
        let mut event = json_value::parse(text);
        let keen = event.remove("keen").expect("keen");
        let token = keen.get("uniqueness_token").and_then(JsonValue::text).expect("a token");
        match track.message_id.as_ref().map(Text::decoded) {
            Some(id) if is_no_id(&id) => assert_eq!(token, "made"),
            // A replaced character may have been any character.
            Some(_) if track.message_id.as_ref().unwrap().has_lone_surrogate() => {
                assert!(token.len() == 64 && token != "made");
            }
            Some(id) if id.chars().count() > 64 => assert_eq!(token, hex(&id)),
            Some(id) => assert_eq!(token, id),
            None => assert_eq!(token, "made"),
        }
        let names: Vec<String> = match keen.get("addons") {
            Some(JsonValue::Array(addons)) => {
                addons.iter().map(|a| a.get("name").unwrap().text().unwrap().into()).collect()
            }
            _ => Vec::new(),
        };
        assert_eq!(names, track.add_ons(&event));
        assert_eq!(event.sorted(), JsonValue::Object(track.expected()).sorted());
    });
}

#[test]
fn message_of_any_content_becomes_events_that_keen_accepts() {
    const MEMBERS: [&str; 20] = [
        "event",
        "name",
        "category",
        "userId",
        "anonymousId",
        "sessionId",
        "messageId",
        "timestamp",
        "originalTimestamp",
        "sentAt",
        "properties",
        "context",
        "options",
        "integrations",
        "_metadata",
        "traits",
        "type",
        "writeKey",
        "keen",
        "batch",
    ];
    const INNER: [&str; 16] = [
        "ip",
        "userAgent",
        "user_agent",
        "page",
        "url",
        "referrer",
        "library",
        "name",
        "direct",
        "all",
        "Keen IO",
        "Keen",
        "keen_io",
        "traits",
        "providers",
        "page.url",
    ];
    let messages = || {
        let name = |names: &'static [&'static str]| {
            prop::sample::select(names.to_vec()).prop_map(Text::from)
        };
        let nested = prop::collection::vec((name(&INNER), arbitrary::json()), 0..6)
            .prop_map(|m| Json::Object(m, ""));
        let nested =
            prop::collection::vec((name(&INNER), prop_oneof![nested, arbitrary::json()]), 0..8);
        let value = prop_oneof![
            2 => arbitrary::json(),
            1 => arbitrary::object(),
            2 => nested.prop_map(|members| Json::Object(members, " ")),
            1 => prop::sample::select(vec!["track", "page", "screen", "identify"]).prop_map(|t| Json::String(t.into())),
        ];
        let message = prop::collection::vec((name(&MEMBERS), value), 0..16)
            .prop_map(|members| Json::Object(members, ""));
        (message, any::<bool>())
    };
    let on = json!({"ipAddon": true, "uaAddon": true, "urlAddon": true, "referrerAddon": true});
    let mut device = on.clone();
    device["mode"] = json!("device");
    let configs = [config(json!({})), config(on), config(device)];
    check(150, messages, move |(message, batch)| {
        let text = message.text();
        let body =
            if batch { format!("{{\"batch\":[{text},{text}],\"context\":{text}}}") } else { text };
        let kinds = [MessageType::Track, MessageType::Page, MessageType::Screen].map(Some);
        let types = if batch { &[None][..] } else { &kinds[..] };
        for config in &configs {
            for message_type in types {
                let events = mapped(config, *message_type, &body);
                keen_takes(&events);
                events.iter().for_each(|(_, event)| drop(json_value::parse(event)));
            }
        }
    });
}

#[test]
fn event_of_any_depth_is_mapped_without_stack_overflow() {
    let config = config(json!({}));
    for (levels, as_it_came) in [(500, true), (511, true), (512, false), (200_000, false)] {
        let deep = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let objects = format!("{}1{}", "{\"o\":".repeat(levels), "}".repeat(levels));
        for value in [deep, objects] {
            let events = mapped(
                &config,
                Some(MessageType::Track),
                &format!(r#"{{"event":"e","properties":{{"d":{value}}}}}"#),
            );
            let (_, event) = events.first().unwrap();
            assert_eq!(event.contains(&format!("\"d\":{value}")), as_it_came, "{levels} levels");
            std::thread::Builder::new()
                .stack_size(64 << 20)
                .spawn({
                    let events = events.clone();
                    move || keen_takes(&events)
                })
                .unwrap()
                .join()
                .unwrap();
        }
    }
}

#[test]
fn event_over_keens_size_limit_is_not_sent_and_its_neighbours_are() {
    let config = config(json!({"trackNamedPages": false}));
    // The limit of 900,000 bytes includes all other fields of the event.
    let padded = |bytes: usize| {
        let strings = vec!["x".repeat(9_000); bytes / 9_003];
        let used = 9_003 * strings.len();
        json!({"event": "big", "properties": {"s": strings, "rest": "y".repeat(bytes - used)}})
    };
    let small = json!({"type": "track", "event": "small"});
    let mut largest = 0;
    for (bytes, sent) in [(899_000, true), (899_870, true), (900_001, false), (2_000_000, false)] {
        let mut big = padded(bytes);
        big["type"] = json!("track");
        let body = json!({"batch": [small, big, small]}).to_string();
        let events = mapped(&config, None, &body);
        let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            if sent { vec!["small", "big", "small"] } else { vec!["small", "small"] },
            "{bytes}"
        );
        largest = events.iter().map(|(_, event)| event.len()).max().unwrap_or(0).max(largest);
        keen_takes(&events);
    }
    assert!((899_950..=900_000).contains(&largest), "{largest} is not at the edge");
}
