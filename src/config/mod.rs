//! Parses and checks the filter's configuration.
//!
//! An invalid configuration is rejected as a whole. The error lists every mistake: the JSON pointer
//! of the setting, the rule, and the value found. Errors show only the first characters of write
//! keys, and nothing of Keen keys.
//!
//! Each setting is declared once, in [`schema`].

mod distinct;
mod document;
mod error;
mod origin;
mod protobuf_struct;
mod reader;
pub mod reference;
pub mod schema;
mod source;

use reader::Section;
use schema as settings;
use std::cell::RefCell;

pub(crate) use distinct::Distinct;
pub use error::{ConfigError, ConfigErrors};
pub use origin::OriginPattern;
pub use source::{BrowserKeys, Destination, Mode, Source};

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `keen.authority`: the `Host` of callouts to Keen.
    pub authority: String,
    /// `keen.timeoutMs`: the time limit of one callout to Keen, from start to end.
    pub timeout_ms: u64,
    /// `unknownSource: reject`: a request with an unknown write key gets a 400.
    pub reject_unknown_write_key: bool,
    /// `intercept: forward`: Keen gets a copy, and the request continues to its route.
    pub mirror: bool,
    /// `pathPrefix`: begins with `/` and does not end with it.
    pub path_prefix: Option<String>,
    /// `pauseAtHeaders: false`: Envoy's buffer filter, behind this one, holds a request's headers.
    pub pause_at_headers: bool,
    /// `delivery`
    pub delivery: DeliverySettings,
    /// `overflow`
    pub overflow: Option<OverflowSettings>,
    /// `users`
    pub users: UsersSettings,
    /// `limits.bodyBytes`: maximum bytes of a body after decompression.
    pub max_body_bytes: usize,
    /// `limits.messages`: maximum number of messages in a body.
    pub max_messages: usize,
    /// `cors.allowOrigins`
    pub allow_origins: Vec<OriginPattern>,
    /// `settings.apiHost`
    pub sdk_api_host: Option<String>,
    /// Sources, found by [`Config::source_index`].
    pub sources: Vec<Source>,
    /// Keen projects that sources write to: one per combination of project, key and cluster.
    pub destinations: Vec<Destination>,
    /// Write keys in order, each with its index in [`Config::sources`].
    write_keys: Vec<(String, usize)>,
}

/// `delivery`: how events are delivered to Keen. The defaults are the documented ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliverySettings {
    /// `ack: accepted`: requests are answered at once, and their events are delivered from memory.
    pub ack_on_receipt: bool,
    /// `holdMs`: the maximum time that a request waits, in milliseconds.
    pub max_wait_ms: u64,
    /// `retries`: maximum number of further attempts.
    pub max_retries: u32,
    /// Maximum number of concurrent callouts to Keen, per worker.
    pub max_in_flight: usize,
    /// Maximum number of events in one callout.
    pub max_batch_events: usize,
    /// Maximum bytes of events in one callout.
    pub max_batch_bytes: usize,
    /// Maximum bytes of pending events, per worker.
    pub max_pending_bytes: usize,
}

/// `overflow`: the queue for events that Keen does not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverflowSettings {
    /// The Envoy cluster that reaches the queue.
    pub cluster: String,
    /// The `Host` of calls to the queue.
    pub authority: String,
    /// The URL of the queue, which the bodies of calls contain.
    pub queue_url: String,
    /// How long an event waits for Keen before it is handed to the queue, in milliseconds.
    pub after_ms: u64,
    /// Maximum bytes of one message of the queue.
    pub max_message_bytes: usize,
    /// Whether to deliver events from the queue to Keen.
    pub drain: bool,
    /// `misconfigured: reject`: events that Keen refuses with 401, 402, 403 or 404 are not handed
    /// to the queue.
    pub reject_misconfigured: bool,
}

/// `users`: bounds of the store for `rememberUsers`. The defaults are the documented ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsersSettings {
    /// Maximum number of users of all sources.
    pub max_users: u64,
    /// Maximum bytes of their traits.
    pub max_bytes: u64,
    /// A user with no calls for this long is removed, in milliseconds.
    pub ttl_ms: u64,
}

impl Config {
    /// Parses a configuration: JSON, or a `google.protobuf.Struct` in its wire form.
    ///
    /// ```
    /// use keen_edge::config::Config;
    ///
    /// let config = Config::parse(
    ///     br#"{"keen": {"cluster": "keen"}, "sources": {"wk_4f1c": {"projectId": "9181bcd23843312d87000000"}}}"#,
    /// )?;
    /// assert_eq!(config.source_index("wk_4f1c"), Some(0));
    /// assert_eq!(config.delivery.max_wait_ms, 7000);
    ///
    /// let errors = Config::parse(br#"{"keen": {"cluster": "keen", "timeoutMs": 0}, "source": {}}"#).unwrap_err();
    /// assert_eq!(
    ///     errors.to_string(),
    ///     "/source: unknown setting; did you mean sources?\n\
    ///      /keen/timeoutMs: must be a whole number from 1 to 600000, found 0\n\
    ///      /sources: is required"
    /// );
    /// # Ok::<(), keen_edge::config::ConfigErrors>(())
    /// ```
    ///
    /// # Errors
    /// All mistakes in it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigErrors> {
        match Self::parse_with_defaults(bytes) {
            (Some(config), errors) if errors.is_empty() => Ok(config),
            (_, errors) => Err(ConfigErrors(errors)),
        }
    }

    /// Parses a configuration for further checks. A setting with a mistake gets its default, or is
    /// empty. `None`: the bytes are not a configuration at all.
    #[must_use]
    pub fn parse_with_defaults(bytes: &[u8]) -> (Option<Self>, Vec<ConfigError>) {
        if bytes.is_empty() {
            let error = ConfigError::new("", "a configuration is required, found none");
            return (None, vec![error]);
        }
        let mut errors = Vec::new();
        let document = match document::parse(bytes, &mut errors) {
            Ok(document) => document,
            Err(error) => return (None, vec![error]),
        };
        let errors = RefCell::new(errors);
        let config = Self::from_root(&Section::root(&document, &errors));
        (Some(config), errors.into_inner())
    }

    fn from_root(root: &Section<'_>) -> Self {
        root.deny_unknown();
        let keen = root.section(&settings::KEEN);
        keen.deny_unknown();
        let limits = root.section(&settings::LIMITS);
        limits.deny_unknown();
        let cors = root.section(&settings::CORS);
        cors.deny_unknown();
        let settings_document = root.section(&settings::SETTINGS_DOCUMENT);
        settings_document.deny_unknown();
        let mut config = Self {
            authority: keen.text(&settings::AUTHORITY),
            timeout_ms: keen.integer(&settings::TIMEOUT_MS),
            reject_unknown_write_key: root.is(&settings::UNKNOWN_SOURCE, "reject"),
            mirror: root.is(&settings::INTERCEPT, "forward"),
            path_prefix: root.optional_text(&settings::PATH_PREFIX),
            pause_at_headers: root.flag(&settings::PAUSE_AT_HEADERS),
            delivery: DeliverySettings::from_section(&root.section(&settings::DELIVERY)),
            overflow: None,
            users: UsersSettings::from_section(&root.section(&settings::USERS)),
            max_body_bytes: limits.size(&settings::BODY_BYTES),
            max_messages: limits.size(&settings::MESSAGES),
            allow_origins: cors.origins(&settings::ALLOW_ORIGINS),
            sdk_api_host: settings_document.optional_text(&settings::API_HOST),
            sources: Vec::new(),
            destinations: Vec::new(),
            write_keys: Vec::new(),
        };
        config.overflow = root.optional_section(&settings::OVERFLOW).map(|section| {
            // Requests wait for holdMs only if they are answered after Keen's reply.
            let callers_wait = !config.delivery.ack_on_receipt && !config.mirror;
            let max_after_ms = callers_wait.then_some(config.delivery.max_wait_ms);
            OverflowSettings::from_section(&section, max_after_ms)
        });
        config.parse_sources(root, &keen.text(&settings::KEEN_CLUSTER));
        config
    }

    fn parse_sources(&mut self, root: &Section<'_>, cluster: &str) {
        let sources = root.section(&settings::SOURCES);
        let mut destinations = Distinct::new();
        for (key, section) in sources.sources(&settings::SOURCE) {
            let (source, destination) = source::parse(&section, key, cluster);
            let destination_index = destinations.index_of(destination);
            let entry = (key.to_owned(), self.sources.len());
            match self.find_write_key(key) {
                Ok(at) | Err(at) => self.write_keys.insert(at, entry),
            }
            self.sources.push(Source { destination_index, ..source });
        }
        self.destinations = destinations.into_values();
        if sources.is_empty() {
            sources.refuse("must name at least one source, found none");
        }
    }

    /// Whether any source stores users.
    #[must_use]
    pub fn any_source_stores_users(&self) -> bool {
        self.sources.iter().any(|source| source.remember_users)
    }

    /// Returns the index in [`Config::sources`] of the source with this write key.
    #[must_use]
    pub fn source_index(&self, write_key: &str) -> Option<usize> {
        let at = self.find_write_key(write_key).ok()?;
        self.write_keys.get(at).map(|(_, index)| *index)
    }

    fn find_write_key(&self, write_key: &str) -> Result<usize, usize> {
        self.write_keys.binary_search_by(|(key, _)| key.as_str().cmp(write_key))
    }
}

impl DeliverySettings {
    fn from_section(section: &Section<'_>) -> Self {
        section.deny_unknown();
        Self {
            ack_on_receipt: section.is(&settings::ACK, "accepted"),
            max_wait_ms: section.integer(&settings::HOLD_MS),
            max_retries: u32::try_from(section.integer(&settings::RETRIES)).unwrap_or(u32::MAX),
            max_in_flight: section.size(&settings::MAX_IN_FLIGHT),
            max_batch_events: section.size(&settings::MAX_BATCH_EVENTS),
            max_batch_bytes: section.size(&settings::MAX_BATCH_BYTES),
            max_pending_bytes: section.size(&settings::MAX_PENDING),
        }
    }
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self::from_section(&Section::absent(&settings::DELIVERY, &RefCell::default()))
    }
}

impl OverflowSettings {
    /// `max_after_ms`: `delivery.holdMs`, if requests wait that long.
    fn from_section(section: &Section<'_>, max_after_ms: Option<u64>) -> Self {
        section.deny_unknown();
        let queue_url = section.text(&settings::QUEUE_URL);
        let after_ms = section.integer(&settings::AFTER_MS);
        if let Some(hold_ms) = max_after_ms.filter(|hold_ms| after_ms >= *hold_ms) {
            let default = if section.has(&settings::AFTER_MS) { "" } else { "the default " };
            let rule = format!("must be less than delivery.holdMs, {hold_ms}");
            section
                .refuse_setting(&settings::AFTER_MS, format!("{rule}, found {default}{after_ms}"));
        }
        let host = reader::host_of_url(&queue_url).unwrap_or_default().to_owned();
        Self {
            cluster: section.text(&settings::OVERFLOW_CLUSTER),
            authority: section.optional_text(&settings::OVERFLOW_AUTHORITY).unwrap_or(host),
            queue_url,
            after_ms,
            max_message_bytes: section.size(&settings::MAX_MESSAGE_BYTES),
            drain: section.flag(&settings::DRAIN),
            reject_misconfigured: section.is(&settings::MISCONFIGURED, "reject"),
        }
    }
}

impl UsersSettings {
    fn from_section(section: &Section<'_>) -> Self {
        section.deny_unknown();
        Self {
            max_users: section.integer(&settings::MAX_USERS),
            max_bytes: section.integer(&settings::MAX_USERS_BYTES),
            ttl_ms: section.integer(&settings::EXPIRE_MS),
        }
    }
}

impl Default for UsersSettings {
    fn default() -> Self {
        Self::from_section(&Section::absent(&settings::USERS, &RefCell::default()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const KEY: &str = "ABCDEF0123456789ABCDEF0123456789";
    const SOURCE: &str = "wk_4f1c00112233";

    fn base() -> Value {
        json!({"keen": {"cluster": "keen"}, "sources": {SOURCE: {"projectId": "9181bcd23843312d87000000", "writeKey": KEY}}})
    }

    fn parse(value: &Value) -> Result<Config, String> {
        Config::parse(value.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    fn with_source(settings: Value) -> Value {
        let mut config = base();
        for (key, value) in settings.as_object().unwrap() {
            config["sources"][SOURCE][key] = value.clone();
        }
        config
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = base();
        config[key] = value;
        config
    }

    fn overflow(settings: Value) -> Value {
        let mut overflow =
            json!({"cluster": "sqs", "queueUrl": "https://sqs.eu-west-1.amazonaws.com/1/q"});
        overflow.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        with("overflow", overflow)
    }

    #[test]
    fn defaults_are_what_the_documentation_says() {
        let config = parse(&base()).unwrap();
        assert_eq!(config.source_index(SOURCE), Some(0));
        assert_eq!(config.authority, "api.keen.io");
        assert_eq!(
            (config.timeout_ms, config.max_body_bytes, config.max_messages),
            (5000, 524_288, 2500)
        );
        assert!(!config.reject_unknown_write_key && !config.mirror && config.pause_at_headers);
        assert_eq!((config.overflow, config.path_prefix, config.sdk_api_host), (None, None, None));
        assert_eq!(config.allow_origins, [OriginPattern::Any]);
        assert_eq!(
            config.delivery,
            DeliverySettings {
                ack_on_receipt: false,
                max_wait_ms: 7000,
                max_retries: 3,
                max_in_flight: 4,
                max_batch_events: 1000,
                max_batch_bytes: 1_000_000,
                max_pending_bytes: 16_777_216,
            }
        );
        assert_eq!(
            config.users,
            UsersSettings { max_users: 10_000, max_bytes: 8_388_608, ttl_ms: 2_592_000_000 }
        );
        assert_eq!(config.delivery, DeliverySettings::default());
        assert_eq!(config.users, UsersSettings::default());
        let source = config.sources.first().unwrap();
        assert!(
            source.track_categorized_pages && source.track_named_pages && !source.track_all_pages
        );
        // A Struct's numbers are doubles.
        let float = with("delivery", json!({"holdMs": 7000.0}));
        assert_eq!(parse(&float).unwrap().delivery.max_wait_ms, 7000);
    }

    #[test]
    fn overflow_defaults_apply_where_it_is_configured() {
        assert_eq!(
            parse(&overflow(json!({}))).unwrap().overflow,
            Some(OverflowSettings {
                cluster: "sqs".to_owned(),
                authority: "sqs.eu-west-1.amazonaws.com".to_owned(),
                queue_url: "https://sqs.eu-west-1.amazonaws.com/1/q".to_owned(),
                after_ms: 3000,
                max_message_bytes: 262_144,
                drain: true,
                reject_misconfigured: false,
            })
        );
    }

    #[test]
    fn sources_of_one_project_share_a_destination() {
        let mut config = base();
        config["sources"]["b"] = json!({"projectId": "9181bcd23843312d87000000", "writeKey": KEY});
        config["sources"]["c"] = json!({"projectId": "9181bcd23843312d87000001", "writeKey": KEY});
        let config = parse(&config).unwrap();
        assert_eq!(config.destinations.len(), 2);
        for (key, project) in
            [(SOURCE, "9181bcd23843312d87000000"), ("c", "9181bcd23843312d87000001")]
        {
            let source = &config.sources[config.source_index(key).unwrap()];
            assert_eq!(config.destinations[source.destination_index].project_id, project);
        }
        assert_eq!(config.source_index("d"), None);
    }

    #[test]
    fn source_name_defaults_to_four_characters_of_its_key() {
        for (key, name) in [
            (SOURCE, "wk_4"),
            ("writeKey", "writ"),
            ("abcdef", "abc"),
            ("b", "b"),
            ("Schlüssel", "Schl"),
            ("äöüß1234", "____"),
        ] {
            let mut config = base();
            config["sources"] = json!({key: {"projectId": "9181bcd23843312d87000000"}});
            assert_eq!(parse(&config).unwrap().sources[0].name, name);
        }
        let named = with_source(json!({"name": "shop-eu"}));
        assert_eq!(parse(&named).unwrap().sources[0].name, "shop-eu");
    }

    #[test]
    fn errors_have_pointer_rule_and_value_and_no_keys() {
        for (config, want) in [
            (
                with_source(json!({"projectId": "9181bcd23843312d8700000"})),
                "/sources/wk_4f1c…/projectId: must be 24 hexadecimal characters, found 23",
            ),
            (
                with_source(json!({"projectId": "9181bcd23843312d8700000g"})),
                "/sources/wk_4f1c…/projectId: must be 24 hexadecimal characters, contains a non-hexadecimal character",
            ),
            (
                with_source(json!({"readKey": format!("{KEY}-")})),
                "/sources/wk_4f1c…/readKey: must be 32 or more letters and digits, contains another character",
            ),
            (
                with_source(json!({"writeKey": null})),
                "/sources/wk_4f1c…/writeKey: must be a string, found null",
            ),
            (
                with_source(json!({"bundled": true})),
                "/sources/wk_4f1c…/bundled: needs \"mode\": \"device\", found \"cloud\"",
            ),
            (
                with_source(json!({"ipAddon": "yes"})),
                "/sources/wk_4f1c…/ipAddon: must be true or false, found a string",
            ),
            (
                with_source(json!({"ipAdon": true})),
                "/sources/wk_4f1c…/ipAdon: unknown setting; did you mean ipAddon?",
            ),
            (
                with_source(json!({"ipAddOn": true})),
                "/sources/wk_4f1c…/ipAddOn: unknown setting; did you mean ipAddon?",
            ),
            (
                with_source(json!({"writeKey": "short"})),
                "/sources/wk_4f1c…/writeKey: must be 32 or more letters and digits, found 5",
            ),
            (
                with_source(json!({"mode": "server"})),
                "/sources/wk_4f1c…/mode: must be one of \"cloud\", \"device\", found \"server\"",
            ),
            (
                with_source(json!({"mode": KEY})),
                "/sources/wk_4f1c…/mode: must be one of \"cloud\", \"device\", found \"ABCDEF0…\"",
            ),
            (
                with("delivery", json!({"holdMs": 0})),
                "/delivery/holdMs: must be a whole number from 1 to 600000, found 0",
            ),
            (
                with("delivery", json!({"holdMs": 1.5})),
                "/delivery/holdMs: must be a whole number from 1 to 600000, found 1.5",
            ),
            (with("delivery", json!([])), "/delivery: must be an object, found an array"),
            (
                with("unknownSource", json!("drop")),
                "/unknownSource: must be one of \"accept\", \"reject\", found \"drop\"",
            ),
            (with("sources", json!({})), "/sources: must name at least one source, found none"),
            (with("keen", json!({})), "/keen/cluster: is required"),
            (
                with("keen", json!({"cluster": "keen", "timeoutMs": 0})),
                "/keen/timeoutMs: must be a whole number from 1 to 600000, found 0",
            ),
            (
                with("keen", json!({"cluster": "keen", "authority": "https://api.keen.io"})),
                "/keen/authority: must be a host without scheme and path, found \"https://api.keen.io\"",
            ),
            (
                with("keen", json!({"cluster": "keen", "authority": "api.keen.io/3.0"})),
                "/keen/authority: must be a host without scheme and path, found \"api.keen.io/3.0\"",
            ),
            (
                with("cors", json!({"allowOrigins": ["a\nb"]})),
                "/cors/allowOrigins/0: must be \"*\", or a scheme and a host in lower case such as https://www.example.com, found \"a\u{fffd}b\"",
            ),
            (
                with("cors", json!({"allowOrigins": ["*", "https://a.example/"]})),
                "/cors/allowOrigins/1: must be \"*\", or a scheme and a host in lower case such as https://www.example.com, found \"https://a.example/\"",
            ),
            (
                with("pathPrefix", json!("/segment/")),
                "/pathPrefix: must be a path such as /segment, which does not end with a slash, found \"/segment/\"",
            ),
            (
                with("settings", json!({"apiHost": "https://a.example/v1"})),
                "/settings/apiHost: must be a host, with or without a path, without a scheme, found \"https://a.example/v1\"",
            ),
            (
                with("limits", json!({"bodyBytes": 16_777_217})),
                "/limits/bodyBytes: must be a whole number from 1 to 16777216, found 16777217",
            ),
            (
                overflow(json!({"queueUrl": "keen-edge"})),
                "/overflow/queueUrl: must be a URL such as https://host/path, without a query, found \"keen-edge\"",
            ),
            (
                overflow(json!({"afterMs": 7000})),
                "/overflow/afterMs: must be less than delivery.holdMs, 7000, found 7000",
            ),
            (with("overflow", json!({"cluster": "sqs"})), "/overflow/queueUrl: is required"),
            (
                with("extra", json!(1)),
                "/extra: unknown setting; known settings: keen, sources, unknownSource, intercept, pathPrefix, pauseAtHeaders, ",
            ),
            (with("holdMs", json!(1)), "/holdMs: unknown setting; did you mean /delivery/holdMs?"),
            (
                with("ipAddon", json!(true)),
                "/ipAddon: unknown setting; did you mean /sources/<write key>/ipAddon?",
            ),
            (with("a/b\n~c", json!(1)), "/a~1b\u{fffd}~0c: unknown setting"),
            (with(&"x".repeat(65), json!(1)), &format!("/{}…: unknown setting", "x".repeat(64))),
        ] {
            let error = parse(&config).unwrap_err();
            assert!(error.starts_with(want), "{error}");
            assert!(!error.contains(KEY) && !error.contains("00112233"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn source_keys_that_no_caller_can_send_are_refused() {
        for (key, want) in [
            ("", "/sources/…: a write key must not be empty"),
            ("key:1234", "/sources/key:…: a write key must not contain a colon"),
            (
                " key1234",
                "/sources/ key…: a write key must not contain blanks or control characters",
            ),
            (
                "key1234\n",
                "/sources/key1…: a write key must not contain blanks or control characters",
            ),
            (
                "key\u{a0}1234",
                "/sources/key\u{a0}…: a write key must not contain blanks or control characters",
            ),
            (&"k".repeat(513), "/sources/kkkkkkk…: a write key must be at most 512 bytes"),
        ] {
            let mut config = base();
            config["sources"] = json!({key: {"projectId": "9181bcd23843312d87000000"}});
            assert_eq!(parse(&config).unwrap_err(), want);
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let text = format!(
            r#"{{"keen": {{"authority": "http://a", "timeoutMs": "5"}}, "deliveri": {{}},
               "sources": {{"{KEY}": {{"projectId": 1}}, "b:": {{"mode": 2, "name": ""}}, "{KEY}": {{}}}},
               "limits": {{"bodyBytes": -1}}, "limits": {{"bodyBytes": -2}}}}"#
        );
        let errors = Config::parse(text.as_bytes()).unwrap_err();
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "/sources/ABCDEF0…: appears twice",
                "/limits: appears twice",
                "/deliveri: unknown setting; did you mean delivery?",
                "/keen/authority: must be a host without scheme and path, found \"http://a\"",
                "/keen/timeoutMs: must be a whole number from 1 to 600000, found a string",
                "/limits/bodyBytes: must be a whole number from 1 to 16777216, found -2",
                "/keen/cluster: is required",
                "/sources/b…: a write key must not contain a colon",
                "/sources/ABCDEF0…/projectId: is required",
                "/sources/b…/mode: must be a string, found a number",
                "/sources/b…/projectId: is required",
                "/sources/b…/name: must be 1 to 128 characters of printable ASCII without blanks, found 0 characters",
            ]
        );
        assert_eq!(errors.to_string(), lines.join("\n"));
    }

    #[test]
    fn documents_that_are_no_configuration_are_refused() {
        let error = |bytes: &[u8]| Config::parse(bytes).unwrap_err().to_string();
        assert_eq!(error(b""), ": a configuration is required, found none");
        let cut = b"{\"keen\":\n {\"cluster\": keen}}";
        assert!(error(cut).ends_with("found an error in line 2, column 14"), "{}", error(cut));
        assert!(error(b"[]").starts_with(": must be an object, found an array"));
        let twice = br#"{"delivery": {"holdMs": 1, "ack": "accepted", "hold\u004ds": 2}}"#;
        assert!(error(twice).starts_with("/delivery/holdMs: appears twice\n"));
    }

    #[test]
    fn debug_output_has_no_keys() {
        let config = with_source(json!({"mode": "device", "bundled": true, "readKey": KEY}));
        let shown = format!("{:?}", parse(&config).unwrap().destinations);
        assert!(!shown.contains(KEY), "{shown}");
    }

    #[test]
    fn bundled_needs_a_write_key() {
        let mut config = with_source(json!({"mode": "device", "bundled": true}));
        config["sources"][SOURCE].as_object_mut().unwrap().remove("writeKey");
        assert_eq!(
            parse(&config).unwrap_err(),
            "/sources/wk_4f1c…/bundled: needs a writeKey, which pages are given, found none"
        );
    }

    #[test]
    fn after_ms_may_exceed_hold_ms_where_no_caller_waits() {
        let mut config = overflow(json!({"afterMs": 60_000}));
        config["delivery"] = json!({"ack": "accepted"});
        assert!(parse(&config).is_ok());
        config = overflow(json!({}));
        config["delivery"] = json!({"holdMs": 3000});
        assert_eq!(
            parse(&config).unwrap_err(),
            "/overflow/afterMs: must be less than delivery.holdMs, 3000, found the default 3000"
        );
    }
}
