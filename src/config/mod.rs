//! The filter's configuration: what a person writes, checked whole, into what the filter runs on.
//!
//! A wrong configuration is refused with the JSON pointer of what is wrong, the rule, and what was found. Keys of
//! sources are shown by their first characters only; Keen keys never.

mod protobuf_struct;
mod reader;
mod source;

use crate::tree::{Tree, Wrong};
use reader::Node;

pub use reader::ConfigError;
pub use source::{BrowserKeys, Destination, Mode, Source};

/// Settings, ready to run on.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sources, found by [`Config::source`].
    pub sources: Vec<Source>,
    /// Write keys in order, and where their sources stand.
    by_key: Vec<(Box<str>, usize)>,
    /// Keen projects that sources write to: one for each project, key and cluster.
    pub destinations: Vec<Destination>,
    /// `keen.authority`: the Host of calls to Keen.
    pub authority: String,
    /// `keen.timeoutMs`: one call to Keen, start to end.
    pub timeout_ms: u64,
    /// `unknownSource: reject`: a call with an unknown write key gets 400.
    pub reject_unknown: bool,
    /// `intercept: forward`: Keen gets its copy, and the call goes on to the route.
    pub forward: bool,
    /// How events get to Keen.
    pub delivery: DeliverySettings,
    /// `users`: what `rememberUsers` may hold.
    pub users: UsersSettings,
    /// `limits.bodyBytes`: a body, after decompression.
    pub body_bytes: usize,
    /// `cors.allowOrigins`
    pub allow_origins: Vec<String>,
    /// `settings.apiHost`
    pub api_host: Option<String>,
}

/// `users`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsersSettings {
    /// UsersSettings, of all sources together.
    pub max: u64,
    /// Bytes of what is remembered of them.
    pub max_bytes: u64,
    /// A user not heard of for that long is forgotten, in milliseconds.
    pub expire_ms: u64,
}

/// `delivery`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliverySettings {
    /// `ack: accepted`: callers are answered at once, their events delivered from memory.
    pub accepted: bool,
    /// The longest a caller waits, in milliseconds.
    pub hold_ms: u64,
    /// Further attempts at Keen.
    pub retries: u32,
    /// Calls to Keen at once, per worker.
    pub max_in_flight: usize,
    /// Events in one call.
    pub max_batch_events: usize,
    /// Bytes of events in one call.
    pub max_batch_bytes: usize,
    /// Bytes of events held, per worker.
    pub max_pending_bytes: usize,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            accepted: false,
            hold_ms: 7000,
            retries: 3,
            max_in_flight: 4,
            max_batch_events: 1000,
            max_batch_bytes: 1_000_000,
            max_pending_bytes: 16_777_216,
        }
    }
}

impl Config {
    /// Reads a configuration: JSON, or a `google.protobuf.Struct` in its wire form.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn read(text: &[u8]) -> Result<Self, ConfigError> {
        if text.is_empty() {
            return Err(ConfigError::new("", "a configuration is required", "none"));
        }
        let value = tree(text)?;
        let root = Node::root(&value);
        root.only(&[
            "keen",
            "sources",
            "unknownSource",
            "intercept",
            "delivery",
            "limits",
            "users",
            "cors",
            "settings",
        ])?;
        let keen = root.required("keen")?;
        keen.only(&["cluster", "authority", "timeoutMs"])?;
        let cluster = keen.required("cluster")?.name()?;
        let mut config = Self {
            sources: Vec::new(),
            by_key: Vec::new(),
            destinations: Vec::new(),
            authority: keen
                .opt("authority", |n| n.header())?
                .unwrap_or_else(|| "api.keen.io".to_owned()),
            timeout_ms: keen.opt("timeoutMs", |n| n.integer(1, 600_000))?.unwrap_or(5000),
            reject_unknown: root.opt("unknownSource", |n| n.one_of(&["accept", "reject"], &[]))?
                == Some("reject"),
            forward: root.opt("intercept", |n| n.one_of(&["respond", "forward"], &[]))?
                == Some("forward"),
            delivery: read_delivery(&root)?,
            users: read_users(&root)?,
            body_bytes: read_limits(&root)?,
            allow_origins: read_cors(&root)?,
            api_host: read_settings(&root)?,
        };
        config.read_sources(&root.required("sources")?, &cluster)?;
        Ok(config)
    }

    /// Whether any source remembers users.
    #[must_use]
    pub fn remembers_users(&self) -> bool {
        self.sources.iter().any(|source| source.remember_users)
    }

    /// The place in [`Config::sources`] of the source with this write key.
    #[must_use]
    pub fn source(&self, write_key: &str) -> Option<usize> {
        let found = self.by_key.binary_search_by(|(key, _)| key.as_ref().cmp(write_key)).ok()?;
        self.by_key.get(found).map(|(_, place)| *place)
    }

    fn read_sources(&mut self, sources: &Node<'_>, cluster: &str) -> Result<(), ConfigError> {
        for (key, node) in sources.entries()? {
            let (source, destination) = source::read(&node, key, cluster)?;
            let place =
                self.destinations.iter().position(|d| *d == destination).unwrap_or_else(|| {
                    self.destinations.push(destination);
                    self.destinations.len().saturating_sub(1)
                });
            let at = self.by_key.partition_point(|(before, _)| before.as_ref() < key);
            self.by_key.insert(at, (key.into(), self.sources.len()));
            self.sources.push(Source { destination: place, ..source });
        }
        if self.sources.is_empty() {
            Err(sources.wrong("must name at least one source", "none"))
        } else {
            Ok(())
        }
    }
}

/// The configuration as it is written.
fn tree(text: &[u8]) -> Result<Tree, ConfigError> {
    let read = match std::str::from_utf8(text) {
        Ok(text) => Tree::read(text),
        Err(error) => Err(Wrong::Malformed(error.valid_up_to())),
    };
    read.or_else(|wrong| match wrong {
        Wrong::Twice(names) => {
            Err(Node::root(&Tree::Null).at(&names).wrong("must stand once", "twice"))
        }
        Wrong::Malformed(at) => protobuf_struct::structure(text, 0).ok_or_else(|| {
            let before = text.get(..at).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count().saturating_add(1);
            let column = before
                .rsplit(|byte| *byte == b'\n')
                .next()
                .unwrap_or_default()
                .len()
                .saturating_add(1);
            let found = format!("an error in line {line}, column {column}");
            ConfigError::new("", "must be JSON or a google.protobuf.Struct", &found)
        }),
    })
}

fn read_delivery(root: &Node<'_>) -> Result<DeliverySettings, ConfigError> {
    let mut delivery = DeliverySettings::default();
    root.opt("delivery", |node| {
        node.only(&[
            "ack",
            "holdMs",
            "retries",
            "maxInFlight",
            "maxBatchEvents",
            "maxBatchBytes",
            "maxPendingBytes",
        ])?;
        delivery.accepted =
            node.opt("ack", |n| n.one_of(&["confirmed", "accepted"], &[]))? == Some("accepted");
        let size = |name: &str, low, high, default: usize| -> Result<usize, ConfigError> {
            let found = node.opt(name, |n| n.integer(low, high))?;
            Ok(found.and_then(|n| usize::try_from(n).ok()).unwrap_or(default))
        };
        delivery.hold_ms =
            node.opt("holdMs", |n| n.integer(1, 600_000))?.unwrap_or(delivery.hold_ms);
        let retries = node.opt("retries", |n| n.integer(0, 100))?;
        delivery.retries = retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(delivery.retries);
        delivery.max_in_flight = size("maxInFlight", 1, 1000, delivery.max_in_flight)?;
        delivery.max_batch_events = size("maxBatchEvents", 1, 100_000, delivery.max_batch_events)?;
        // Keen refuses a body over 10,000,000 bytes; what surrounds the events needs room.
        delivery.max_batch_bytes = size("maxBatchBytes", 1, 9_000_000, delivery.max_batch_bytes)?;
        delivery.max_pending_bytes =
            size("maxPendingBytes", 1, 536_870_912, delivery.max_pending_bytes)?;
        Ok(())
    })?;
    Ok(delivery)
}

fn read_limits(root: &Node<'_>) -> Result<usize, ConfigError> {
    let bytes = root.opt("limits", |node| {
        node.only(&["bodyBytes"])?;
        node.opt("bodyBytes", |n| n.integer(1, 67_108_864))
    })?;
    Ok(bytes.flatten().and_then(|n| usize::try_from(n).ok()).unwrap_or(524_288))
}

fn read_users(root: &Node<'_>) -> Result<UsersSettings, ConfigError> {
    let mut users = UsersSettings { max: 10_000, max_bytes: 8_388_608, expire_ms: 2_592_000_000 };
    root.opt("users", |node| {
        node.only(&["max", "maxBytes", "expireMs"])?;
        users.max = node.opt("max", |n| n.integer(1, 10_000_000))?.unwrap_or(users.max);
        users.max_bytes =
            node.opt("maxBytes", |n| n.integer(1, 536_870_912))?.unwrap_or(users.max_bytes);
        users.expire_ms =
            node.opt("expireMs", |n| n.integer(1, 3_153_600_000_000))?.unwrap_or(users.expire_ms);
        Ok(())
    })?;
    Ok(users)
}

fn read_cors(root: &Node<'_>) -> Result<Vec<String>, ConfigError> {
    let origins = root.opt("cors", |node| {
        node.only(&["allowOrigins"])?;
        node.opt("allowOrigins", |n| {
            n.elements()?.iter().map(Node::origin).collect::<Result<Vec<_>, _>>()
        })
    })?;
    Ok(origins.flatten().unwrap_or_else(|| vec!["*".to_owned()]))
}

fn read_settings(root: &Node<'_>) -> Result<Option<String>, ConfigError> {
    let host = root.opt("settings", |node| {
        node.only(&["apiHost"])?;
        node.opt("apiHost", |n| n.header())
    })?;
    Ok(host.flatten())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const KEY: &str = "ABCDEF0123456789ABCDEF0123456789";

    fn base() -> Value {
        json!({"keen": {"cluster": "keen"}, "sources": {"wk_4f1c00112233": {"projectId": "9181bcd23843312d87000000", "writeKey": KEY}}})
    }

    fn read(value: &Value) -> Result<Config, String> {
        Config::read(value.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let config = read(&base()).unwrap();
        assert_eq!(config.source("wk_4f1c00112233"), Some(0));
        assert_eq!(config.authority, "api.keen.io");
        assert_eq!(
            (config.timeout_ms, config.body_bytes, config.reject_unknown),
            (5000, 524_288, false)
        );
        let source = config.sources.first().unwrap();
        assert!(
            source.track_categorized_pages && source.track_named_pages && !source.track_all_pages
        );
        // A Struct's numbers are doubles.
        let mut float = base();
        float["delivery"] = json!({"holdMs": 7000.0});
        assert_eq!(read(&float).unwrap().delivery.hold_ms, 7000);
    }

    #[test]
    fn sources_of_one_project_share_a_destination() {
        let mut config = base();
        config["sources"]["b"] = json!({"projectId": "9181bcd23843312d87000000", "writeKey": KEY});
        config["sources"]["c"] = json!({"projectId": "9181bcd23843312d87000001", "writeKey": KEY});
        assert_eq!(read(&config).unwrap().destinations.len(), 2);
    }

    #[test]
    fn errors_point_and_keep_secrets() {
        let source = |value: Value| {
            let mut config = base();
            for (key, value) in value.as_object().unwrap() {
                config["sources"]["wk_4f1c00112233"][key] = value.clone();
            }
            config
        };
        let root = |key: &str, value: Value| {
            let mut config = base();
            config[key] = value;
            config
        };
        for (config, want) in [
            (
                source(json!({"projectId": "9181bcd23843312d8700000"})),
                "/sources/wk_4f1c…/projectId: must be 24 hexadecimal characters, found 23",
            ),
            (
                source(json!({"projectId": "9181bcd23843312d8700000g"})),
                "/sources/wk_4f1c…/projectId: must be 24 hexadecimal characters, found another character among them",
            ),
            (
                source(json!({"readKey": format!("{KEY}-")})),
                "/sources/wk_4f1c…/readKey: must be 32 or more letters and digits, found another character among them",
            ),
            (
                source(json!({"writeKey": null})),
                "/sources/wk_4f1c…/writeKey: must be a string, found null",
            ),
            (
                source(json!({"bundled": true})),
                "/sources/wk_4f1c…/bundled: needs \"mode\": \"device\", found cloud",
            ),
            (
                source(json!({"ipAddon": "yes"})),
                "/sources/wk_4f1c…/ipAddon: must be true or false, found a string",
            ),
            (source(json!({"ipAdon": true})), "/sources/wk_4f1c…/ipAdon: is not a setting"),
            (
                source(json!({"writeKey": "short"})),
                "/sources/wk_4f1c…/writeKey: must be 32 or more letters and digits, found 5",
            ),
            (
                source(json!({"mode": "server"})),
                "/sources/wk_4f1c…/mode: must be one of \"cloud\", \"device\", found \"server\"",
            ),
            (
                root("delivery", json!({"holdMs": 0})),
                "/delivery/holdMs: must be a whole number from 1 to 600000, found 0",
            ),
            (
                root("delivery", json!({"holdMs": 1.5})),
                "/delivery/holdMs: must be a whole number from 1 to 600000, found 1.5",
            ),
            (root("delivery", json!([])), "/delivery: must be an object, found an array"),
            (
                root("unknownSource", json!("drop")),
                "/unknownSource: must be one of \"accept\", \"reject\", found \"drop\"",
            ),
            (root("sources", json!({})), "/sources: must name at least one source, found none"),
            (root("keen", json!({})), "/keen/cluster: is required, found nothing"),
            (
                root("cors", json!({"allowOrigins": ["a\nb"]})),
                "/cors/allowOrigins/0: must be printable ASCII, found something else",
            ),
            (
                root("cors", json!({"allowOrigins": ["*", "https://a.example/"]})),
                "/cors/allowOrigins/1: must be \"*\", or a scheme and a host such as https://www.example.com, found \"https://a.example/\"",
            ),
            (root("extra", json!(1)), "/extra: is not a setting"),
            (root("a/b\n~c", json!(1)), "/a~1b\u{fffd}~0c: is not a setting"),
            (root(&"x".repeat(65), json!(1)), &format!("/{}…: is not a setting", "x".repeat(64))),
        ] {
            let error = read(&config).unwrap_err();
            assert!(error.starts_with(want), "{error}");
            assert!(!error.contains(KEY) && !error.contains("00112233"), "{error}");
        }
        assert_eq!(
            Config::read(b"").unwrap_err().to_string(),
            ": a configuration is required, found none"
        );
        let twice = format!(r#"{{"sources": {{"{KEY}": {{}}, "b": [{{}}], "{KEY}": {{}}}}}}"#);
        let error = Config::read(twice.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "/sources/ABCDEF0…: must stand once, found twice");
        let twice = br#"{"delivery": {"holdMs": 1, "ack": "accepted", "hold\u004ds": 2}}"#;
        assert_eq!(
            Config::read(twice).unwrap_err().to_string(),
            "/delivery/holdMs: must stand once, found twice"
        );
        let cut = b"{\"keen\":\n {\"cluster\": keen}}";
        assert!(
            Config::read(cut)
                .unwrap_err()
                .to_string()
                .ends_with("found an error in line 2, column 14")
        );
        assert!(Config::read(b"[]").unwrap_err().to_string().starts_with(": must be an object"));
    }
}
