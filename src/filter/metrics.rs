//! Declares each metric once, counts in the VM, and flushes to Envoy on the tick.
//!
//! A metric with labels is one Envoy stat per combination of their values:
//! `keen_edge_responses.code.200`. `stats_tags` of envoy.yaml turns these suffixes back into
//! labels: `keen_edge_responses{code="200"}`. Flushing takes one hostcall per changed stat instead
//! of one per request.

use super::host;
use proxy_wasm::types::MetricType;

/// Maximum length of a label value, in bytes.
const MAX_LABEL_VALUE: usize = 64;

/// A metric as `docs/operating.md` lists it.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
    /// One or two sentences for the document. The module does not contain them.
    #[cfg(test)]
    description: &'static str,
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $description:literal;)+) => {
        $(pub(super) static $constant: Family = Family {
            name: $name,
            kind: MetricType::$kind,
            labels: &[$($label),*],
            #[cfg(test)]
            description: $description,
        };)+

        /// All metrics, in the order of the document.
        pub(super) static FAMILIES: &[&Family] = &[$(&$constant),+];
    };
}

families! {
    REQUESTS = Counter "requests" []
        "Requests on Segment's paths.";
    RESPONSES = Counter "responses" ["code"]
        "Responses by status code.";
    REQUESTS_REJECTED = Counter "requests_rejected" ["reason"]
        "Requests answered 400, 429 or 503, by reason. 400: `malformed_json`, `no_batch`, `invalid_write_key`, \
         `body_too_large`, `buffer_limit`, `too_many_messages`, `unsupported_encoding`, `corrupt_encoding`, \
         `method_not_allowed`. 429: `queue_full` (`maxPendingBytes`), `overloaded` (too many bytes of requests held). \
         503: `unconfirmed`, `destination_rejected`.";
    REQUESTS_MIRROR_DROPPED = Counter "requests_mirror_dropped" []
        "Requests of `intercept: forward`, images and page loads without a copy for Keen: unreadable, too large, or over \
         a bound.";
    MESSAGES = Counter "messages" ["source"]
        "Messages in request bodies. `unknown` is the source of a write key that is not configured.";
    MESSAGES_SKIPPED = Counter "messages_skipped" ["source", "reason"]
        "Messages that became no event, by reason.";
    EVENTS = Counter "events" ["source"]
        "Events admitted for delivery. Each is pending, or ends in exactly one of delivered, rejected, unconfirmed, dropped \
         and overflowed.";
    EVENTS_DELIVERED = Counter "events_delivered" ["project"]
        "Events that Keen has confirmed.";
    EVENTS_REJECTED = Counter "events_rejected" ["project", "error"]
        "Events that Keen rejected for their content, by Keen's error name, and `TooLarge` for events over Keen's size \
         limit. Each project has 32 names at most, then `other`.";
    EVENTS_UNCONFIRMED = Counter "events_unconfirmed" ["project"]
        "Events whose clients got 503 in order to retry.";
    EVENTS_DROPPED = Counter "events_dropped" ["project", "reason"]
        "Events given up with no client to retry them: `no_capacity` (`maxPendingBytes`), `rejected` (Keen \
         rejects them without a name), `drain` (Envoy stopped or replaced the configuration).";
    EVENTS_OVERFLOWED = Counter "events_overflowed" []
        "Events sent to the overflow queue.";
    EVENTS_OVERFLOW_FAILED = Counter "events_overflow_failed" []
        "Events that the overflow queue did not take. They wait for Keen again.";
    EVENTS_DRAINED = Counter "events_drained" []
        "Events brought from the overflow queue to Keen.";
    EVENTS_DRAINED_REJECTED = Counter "events_drained_rejected" ["project", "error"]
        "Events from the overflow queue that Keen rejected for their content.";
    OVERFLOW_MESSAGES_LEFT = Counter "overflow_messages_left" []
        "Messages left to the redrive policy of the overflow queue, each time they are received: Keen \
         does not accept one of their events, their project is not configured, or keen-edge did not \
         write them.";
    OVERFLOW_UP = Gauge "overflow_up" []
        "0 when the last request to the overflow queue failed, else 1.";
    VALUES_SANITIZED = Counter "values_sanitized" []
        "Names and values that were changed because Keen would have rejected them.";
    CALLOUTS = Counter "callouts" ["project"]
        "Callouts to Keen.";
    CALLOUTS_RETRIED = Counter "callouts_retried" ["project"]
        "Callouts whose events are sent again.";
    CALLOUT_MS = Histogram "callout_ms" []
        "Duration of a callout, in milliseconds.";
    DELIVERY_MS = Histogram "delivery_ms" []
        "Time from the admission of an event until Keen has confirmed it, retries included, in milliseconds. A callout \
         counts once, with its oldest event.";
    BATCH_EVENTS = Histogram "batch_events" []
        "Events in a callout.";
    PENDING_BYTES = Gauge "pending_bytes" []
        "Bytes of pending events, all workers together.";
    PENDING_BYTES_LIMIT = Gauge "pending_bytes_limit" []
        "`delivery.maxPendingBytes`: the pending bytes that one worker admits.";
    PENDING_BYTES_LOST = Counter "pending_bytes_lost" []
        "Bytes of events that were pending in a VM that failed. Waiting clients retry theirs.";
    DESTINATION_UP = Gauge "destination_up" ["project"]
        "0 while Keen rejects everything sent with one of the project's write keys, else 1.";
    BUILD_INFO = Gauge "build_info" ["version"]
        "1. The label is the version of the filter.";
    USER_UPDATES_WRITTEN = Counter "user_updates_written" []
        "Updates written to the user store: one for an identify, and one for its anonymous id.";
    USERS_EVICTED = Counter "users_evicted" []
        "Users and visitors removed because `users.max` or `users.maxBytes` was reached.";
    USER_UPDATES_REJECTED = Counter "user_updates_rejected" []
        "Updates that were not stored because they, or those of one request, were too large or too many.";
    EVENTS_TRAITS_OMITTED = Counter "events_traits_omitted" []
        "Events that contain their user without traits, because the request exceeded a bound of traits or of bytes read.";
}

/// A stat: a metric with the values of its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StatId(usize);

#[derive(Debug)]
struct Stat {
    name: String,
    kind: MetricType,
    /// Envoy's id. `None` until the first flush.
    envoy_id: Option<u32>,
    /// What a counter has counted since the last flush.
    unflushed: u64,
}

/// The stats of a root context.
#[derive(Debug, Default)]
pub(super) struct Registry {
    stats: Vec<Stat>,
    /// All stats, ordered by name.
    by_name: Vec<StatId>,
    /// Counters to flush.
    changed: Vec<StatId>,
}

impl Registry {
    /// Returns the stat of a metric with these label values.
    pub(super) fn stat(&mut self, family: &Family, values: &[&str]) -> StatId {
        let mut name = format!("keen_edge_{}", family.name);
        for (label, value) in family.labels.iter().zip(values) {
            name.push('.');
            name.push_str(label);
            name.push('.');
            name.push_str(value);
        }
        let name_of = |id: &StatId| self.stats.get(id.0).map_or("", |stat| stat.name.as_str());
        let index = match self.by_name.binary_search_by(|id| name_of(id).cmp(&name)) {
            Ok(index) => return self.by_name.get(index).copied().unwrap_or(StatId(0)),
            Err(index) => index,
        };
        let id = StatId(self.stats.len());
        self.by_name.insert(index, id);
        self.stats.push(Stat { name, kind: family.kind, envoy_id: None, unflushed: 0 });
        id
    }

    /// Adds to a counter.
    pub(super) fn add(&mut self, id: StatId, by: u64) {
        let Some(stat) = self.stats.get_mut(id.0) else { return };
        if stat.unflushed == 0 && by > 0 {
            self.changed.push(id);
        }
        stat.unflushed = stat.unflushed.saturating_add(by);
    }

    /// Sets a gauge, or records a value in a histogram, at once.
    pub(super) fn record(&mut self, id: StatId, value: u64) {
        if let Some(envoy_id) = self.define(id) {
            host::record_metric(envoy_id, value);
        }
    }

    /// Adds to a gauge at once.
    pub(super) fn add_to_gauge(&mut self, id: StatId, by: i64) {
        if let Some(envoy_id) = self.define(id) {
            host::add_to_gauge(envoy_id, by);
        }
    }

    /// Makes a stat visible in Envoy.
    pub(super) fn define(&mut self, id: StatId) -> Option<u32> {
        let stat = self.stats.get_mut(id.0)?;
        if stat.envoy_id.is_none() {
            stat.envoy_id = host::define_metric(stat.kind, &stat.name);
        }
        stat.envoy_id
    }

    /// Reports the counters that have changed.
    pub(super) fn flush(&mut self) {
        for id in std::mem::take(&mut self.changed) {
            let envoy_id = self.define(id);
            if let (Some(stat), Some(envoy_id)) = (self.stats.get_mut(id.0), envoy_id) {
                host::increment_counter(envoy_id, std::mem::take(&mut stat.unflushed));
            }
        }
    }
}

/// Returns `text` as a label value. Dots are replaced, since they separate the parts of Envoy's
/// stat names.
pub(super) fn label_value(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let value: String = text.chars().take(MAX_LABEL_VALUE).map(safe).collect();
    if value.is_empty() { "_".to_owned() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md");

    fn row(family: &Family) -> String {
        let labels = match family.labels {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let kind = match family.kind {
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            _ => "counter",
        };
        format!("| `keen_edge_{}{labels}` | {kind} | {} |\n", family.name, family.description)
    }

    /// `UPDATE_DOCS=1` writes the table.
    #[test]
    fn families_are_the_table_of_operating_md() {
        let text = fs::read_to_string(DOCUMENT).unwrap();
        let (before, rest) = text.split_once("<!-- metrics:start -->\n").unwrap();
        let (found, after) = rest.split_once("<!-- metrics:end -->\n").unwrap();
        let rows: String = FAMILIES.iter().copied().map(row).collect();
        let table = format!("| metric | type | meaning |\n|---|---|---|\n{rows}");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let markers = ["<!-- metrics:start -->\n", "<!-- metrics:end -->\n"];
            fs::write(DOCUMENT, [before, markers[0], &table, markers[1], after].concat()).unwrap();
            return;
        }
        assert_eq!(found, table, "UPDATE_DOCS=1 cargo test --lib filter::metrics writes it");
    }

    #[test]
    fn families_have_distinct_names_and_one_label_order() {
        let names: std::collections::BTreeSet<_> = FAMILIES.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
    }

    #[test]
    fn stat_name_has_labels_and_values() {
        let mut registry = Registry::default();
        let id = registry.stat(&MESSAGES_SKIPPED, &["shop", "no_event_name"]);
        assert_eq!(registry.stat(&MESSAGES_SKIPPED, &["shop", "no_event_name"]), id);
        let name = &registry.stats.first().unwrap().name;
        assert_eq!(name, "keen_edge_messages_skipped.source.shop.reason.no_event_name");
    }

    #[test]
    fn label_value_of_any_text_is_one_part_of_a_name() {
        for (text, want) in
            [("shop-eu", "shop-eu"), ("shop.eu/1", "shop_eu_1"), ("", "_"), ("é\n", "__")]
        {
            assert_eq!(label_value(text), want);
        }
        assert_eq!(label_value(&"x".repeat(1_000)).len(), MAX_LABEL_VALUE);
    }
}
