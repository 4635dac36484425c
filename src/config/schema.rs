//! The table of settings. Each is declared once, here: pointer, type and range, default, and one
//! sentence.
//!
//! Reading ([`super::Config::parse`]), the JSON Schema, the README's table and
//! `docs/configuration.md` all come from this table ([`super::reference`]).
//!
//! To add a setting: a row here, a field of [`super::Config`] and the line that reads it, and its
//! use.
//!
//! ```
//! use keen_edge::config::schema::{Default, Kind, SETTINGS};
//!
//! let retries = SETTINGS.iter().find(|setting| setting.pointer == "/delivery/retries").unwrap();
//! assert_eq!((retries.section(), retries.name()), ("/delivery", "retries"));
//! assert_eq!(retries.kind, Kind::Integer { min: 0, max: 100 });
//! assert!(matches!(retries.default, Default::Integer(_)));
//! ```

/// What a setting accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An object of settings. Its settings' pointers begin with its own.
    Section,
    /// `true` or `false`.
    Bool,
    /// A whole number, bounds included.
    Integer {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Printable ASCII without blanks, at most 128 characters.
    Name,
    /// A host, with or without a port.
    Host,
    /// A host, with or without a port, and with or without a path.
    HostAndPath,
    /// The beginning of a path: `/`, not at its end.
    PathPrefix,
    /// An `http` or `https` URL with a path and without a query.
    Url,
    /// 24 hexadecimal characters.
    ProjectId,
    /// 32 or more letters and digits.
    KeenKey,
    /// An array of [`super::OriginPattern`].
    Origins,
}

/// What applies if a setting is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// The setting must be present.
    Required,
    /// This flag.
    Bool(bool),
    /// This number.
    Integer(u64),
    /// This text.
    Text(&'static str),
    /// An array of this text alone.
    ListOf(&'static str),
    /// Decided elsewhere: the words of the documentation.
    Described(&'static str),
}

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its JSON pointer. `*` stands for the write key of a source.
    pub pointer: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// What applies without it.
    pub default: Default,
    /// Whether the README's short table has it. `docs/configuration.md` has all.
    pub common: bool,
}

impl Setting {
    /// Its key.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.pointer.rsplit_once('/').map_or("", |(_, name)| name)
    }

    /// The pointer of the section that it belongs to.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.pointer.rsplit_once('/').map_or("", |(section, _)| section)
    }
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $pointer:literal, $kind:expr, $default:expr $(, $common:ident)?;)+) => {
        $(
            $(#[doc = $doc])+
            pub(super) const $name: Setting = Setting {
                pointer: $pointer,
                kind: $kind,
                default: $default,
                common: settings!(@is_common $($common)?),
            };
        )+

        /// Every setting, sections included, in the order of the documentation.
        pub const SETTINGS: &[Setting] = &[$($name),+];

        /// The sentence on each setting of [`SETTINGS`], in its order. It is a separate constant,
        /// so that the module does not contain it.
        pub(super) const SENTENCES: &[&str] = &[$(concat!($($doc),+)),+];
    };
    (@is_common common) => { true };
    (@is_common) => { false };
}

/// The linear memory that Envoy gives a VM (`PROXY_WASM_HOST_MAX_WASM_MEMORY_SIZE_BYTES`). An
/// allocation beyond it ends the VM.
const VM_BYTES: u64 = 1 << 30;
/// Maximum bytes of memory per byte of a body: the received body, inflated, decoded (three bytes
/// for one that is not UTF-8), and in a growing buffer; an index entry per member of 5 bytes
/// (`"":0,`); and the events.
const MEMORY_PER_BODY_BYTE: u64 = 32;
/// Maximum bytes of memory per message of a body.
const MEMORY_PER_MESSAGE: u64 = 2048;
/// Half of the VM for the body that is being processed: 16 MiB. `tests/memory.rs` measures both.
const MAX_BODY_BYTES: u64 = VM_BYTES / 2 / MEMORY_PER_BODY_BYTE;
/// A quarter of the VM for its messages, rounded down.
const MAX_MESSAGES: u64 = 100_000;
const _: () = assert!(MAX_MESSAGES * MEMORY_PER_MESSAGE <= VM_BYTES / 4);
/// A quarter of the VM for pending events, since a growing buffer may be twice as large as its
/// content.
const MAX_PENDING_BYTES: u64 = VM_BYTES / 4;
/// Ten minutes, in milliseconds.
const TEN_MINUTES: u64 = 600_000;

use self::Default::{Described, ListOf, Required, Text};
use Kind::{Bool, Integer, Name, OneOf, Section};

const OFF: Default = Default::Bool(false);
const ON: Default = Default::Bool(true);

const fn integer(min: u64, max: u64) -> Kind {
    Integer { min, max }
}

const fn number(number: u64) -> Default {
    Default::Integer(number)
}

settings! {
    /// How Keen is reached.
    KEEN: "/keen", Section, Required;
    /// The Envoy cluster that reaches Keen.
    KEEN_CLUSTER: "/keen/cluster", Name, Required, common;
    /// The `Host` of calls to Keen: a host, not a URL.
    AUTHORITY: "/keen/authority", Kind::Host, Text("api.keen.io");
    /// The time limit of one call to Keen, start to end, in milliseconds.
    TIMEOUT_MS: "/keen/timeoutMs", integer(1, TEN_MINUTES), number(5000);

    /// The sources: each Segment write key with its Keen destination, at least one.
    SOURCES: "/sources", Section, Required;
    /// One source. A write key has no blanks, no `:` and at most 512 bytes.
    SOURCE: "/sources/*", Section, Required;
    /// The Keen project: 24 hexadecimal characters.
    PROJECT_ID: "/sources/*/projectId", Kind::ProjectId, Required, common;
    /// The Keen write key: 32 or more letters and digits.
    WRITE_KEY: "/sources/*/writeKey", Kind::KeenKey, Described("Envoy adds it"), common;
    /// The Keen read key, which `bundled` gives to pages.
    READ_KEY: "/sources/*/readKey", Kind::KeenKey, Described("none");
    /// `cloud`: events as Segment's server-side integration writes them; `device`: as its browser
    /// integration does.
    MODE: "/sources/*/mode", OneOf(&["cloud", "device"]), Text("cloud"), common;
    /// Keen's IP to geo add-on.
    IP_ADDON: "/sources/*/ipAddon", Bool, OFF, common;
    /// Keen's user agent parser.
    UA_ADDON: "/sources/*/uaAddon", Bool, OFF, common;
    /// Keen's URL parser, for the page's address.
    URL_ADDON: "/sources/*/urlAddon", Bool, OFF;
    /// Keen's referrer parser.
    REFERRER_ADDON: "/sources/*/referrerAddon", Bool, OFF;
    /// `Loaded a Page` for every page call, `Loaded a Screen` for every screen call.
    TRACK_ALL_PAGES: "/sources/*/trackAllPages", Bool, OFF, common;
    /// `Viewed {category} Page` for page calls with a category.
    TRACK_CATEGORIZED_PAGES: "/sources/*/trackCategorizedPages", Bool, ON;
    /// `Viewed {name} Page` for page calls with a name; with a category too,
    /// `Viewed {category} {name} Page`.
    TRACK_NAMED_PAGES: "/sources/*/trackNamedPages", Bool, ON;
    /// With `trackAllPages`: `Loaded a Page` when a page loads analytics.js, before it calls
    /// anything.
    INITIAL_PAGEVIEW: "/sources/*/initialPageview", Bool, OFF;
    /// Adds the traits of a user's last `identify` call to that user's later events, as `user`.
    REMEMBER_USERS: "/sources/*/rememberUsers", Bool, Described("`true` in device mode");
    /// `Audience Entered` and `Audience Exited` for audiences that arrive as `identify`.
    AUDIENCE_EVENTS: "/sources/*/audienceEvents", Bool, OFF;
    /// In device mode: gives `projectId`, `writeKey` and `readKey` to every page, which then sends
    /// to Keen itself.
    BUNDLED: "/sources/*/bundled", Bool, OFF;
    /// Another Envoy cluster that reaches Keen, for this source.
    SOURCE_CLUSTER: "/sources/*/cluster", Name, Described("`keen.cluster`");
    /// The name of this source in metrics and logs.
    NAME: "/sources/*/name", Name, Described("the key's first four characters");

    /// A call with an unknown write key: `accept` answers 200 as Segment does and counts it,
    /// `reject` answers 400.
    UNKNOWN_SOURCE: "/unknownSource", OneOf(&["accept", "reject"]), Text("accept");
    /// `respond`: the filter answers calls; `forward`: Keen gets a copy, and the call continues to
    /// the route.
    INTERCEPT: "/intercept", OneOf(&["respond", "forward"]), Text("respond"), common;
    /// Serves `{pathPrefix}/v1/…` as well as `/v1/…`.
    PATH_PREFIX: "/pathPrefix", Kind::PathPrefix, Described("none");
    /// Pauses a request at its headers, which needs `allow_on_headers_stop_iteration`. `false`: at
    /// its body; then Envoy's buffer filter must be behind this one and hold the headers.
    PAUSE_AT_HEADERS: "/pauseAtHeaders", Bool, ON;

    /// How events get to Keen.
    DELIVERY: "/delivery", Section, Described("all defaults");
    /// `confirmed`: 200 after Keen has stored the events; `accepted`: 200 at once, and events that
    /// are not delivered when Envoy stops are lost.
    ACK: "/delivery/ack", OneOf(&["confirmed", "accepted"]), Text("confirmed"), common;
    /// The longest a caller waits, retries included, in milliseconds; then 503.
    HOLD_MS: "/delivery/holdMs", integer(1, TEN_MINUTES), number(7000);
    /// Further attempts at Keen within `holdMs`.
    RETRIES: "/delivery/retries", integer(0, 100), number(3);
    /// Concurrent calls to Keen, per worker; each project may always have one.
    MAX_IN_FLIGHT: "/delivery/maxInFlight", integer(1, 1000), number(4);
    /// Events in one call to Keen.
    MAX_BATCH_EVENTS: "/delivery/maxBatchEvents", integer(1, 100_000), number(1000);
    /// Bytes of events in one call to Keen, which refuses bodies over 10,000,000 bytes.
    MAX_BATCH_BYTES: "/delivery/maxBatchBytes", integer(1, 9_000_000), number(1_000_000);
    /// Bytes of events that wait, per worker, all projects; over it callers get 429.
    MAX_PENDING: "/delivery/maxPendingBytes", integer(1, MAX_PENDING_BYTES), number(16_777_216);

    /// A queue for what Keen does not take: Amazon SQS, or what speaks its JSON protocol.
    OVERFLOW: "/overflow", Section, Described("no queue"), common;
    /// The Envoy cluster that reaches the queue and signs the calls.
    OVERFLOW_CLUSTER: "/overflow/cluster", Name, Required;
    /// The `Host` of calls to the queue: a host, not a URL.
    OVERFLOW_AUTHORITY: "/overflow/authority", Kind::Host, Described("the host of `queueUrl`");
    /// The URL of the queue.
    QUEUE_URL: "/overflow/queueUrl", Kind::Url, Required;
    /// How long an event waits for Keen before it is handed to the queue, in milliseconds; less
    /// than `delivery.holdMs`.
    AFTER_MS: "/overflow/afterMs", integer(1, TEN_MINUTES), number(3000);
    /// Bytes of one message of the queue. SQS allows 1 MiB.
    MAX_MESSAGE_BYTES: "/overflow/maxMessageBytes", integer(1024, 1_048_576), number(262_144);
    /// Brings events from the queue to Keen when Keen answers again.
    DRAIN: "/overflow/drain", Bool, ON;
    /// Events that Keen refuses with 401, 402, 403 or 404: `hold` hands them to the queue, `reject`
    /// answers 503.
    MISCONFIGURED: "/overflow/misconfigured", OneOf(&["hold", "reject"]), Text("hold");

    /// Bounds of a request.
    LIMITS: "/limits", Section, Described("all defaults");
    /// Bytes of a body after decompression; over it 400. At most what fits the VM's memory while it
    /// is processed.
    BODY_BYTES: "/limits/bodyBytes", integer(1, MAX_BODY_BYTES), number(524_288);
    /// Messages of a body, as at Segment; over it 400.
    MESSAGES: "/limits/messages", integer(1, MAX_MESSAGES), number(2500);

    /// Bounds of what `rememberUsers` stores, per Envoy.
    USERS: "/users", Section, Described("all defaults");
    /// Users of all sources; beyond it the one without calls for longest is evicted.
    MAX_USERS: "/users/max", integer(1, 10_000_000), number(10_000);
    /// Bytes of their traits.
    MAX_USERS_BYTES: "/users/maxBytes", integer(1, 536_870_912), number(8_388_608);
    /// Users with no calls for this long are removed, in milliseconds. The default is 30 days.
    EXPIRE_MS: "/users/expireMs", integer(1, 3_153_600_000_000), number(2_592_000_000);

    /// Cross-origin requests.
    CORS: "/cors", Section, Described("all defaults");
    /// The origins that CORS allows: `*` for any, `https://www.example.com`,
    /// `https://*.example.com`, `null`.
    ALLOW_ORIGINS: "/cors/allowOrigins", Kind::Origins, ListOf("*"), common;

    /// The settings document that SDKs ask for.
    SETTINGS_DOCUMENT: "/settings", Section, Described("all defaults");
    /// The `apiHost` that it gives to SDKs: a host and a path, without a scheme.
    API_HOST: "/settings/apiHost", Kind::HostAndPath, Described("none");
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn settings_table_is_consistent() {
        let mut pointers = BTreeSet::from([""]);
        for (setting, sentence) in SETTINGS.iter().zip(SENTENCES) {
            assert!(pointers.insert(setting.pointer), "{} appears twice", setting.pointer);
            assert!(pointers.contains(setting.section()), "{} has no section", setting.pointer);
            assert!(sentence.trim().ends_with(['.', '`']), "{}: {sentence}", setting.pointer);
            match (setting.kind, setting.default) {
                (Integer { min, max }, Default::Integer(n)) => assert!((min..=max).contains(&n)),
                (OneOf(words), Text(word)) => assert!(words.contains(&word)),
                (Bool, Default::Bool(_))
                | (Kind::Host, Text(_))
                | (Kind::Origins, ListOf(_))
                | (_, Required | Described(_)) => {}
                (kind, default) => panic!("{}: {kind:?} with {default:?}", setting.pointer),
            }
        }
    }
}
