//! Bulk requests (`POST /3.0/projects/{id}/events`) and Keen's replies to them.

use crate::json::{self, Value};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// An event for a Keen project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Index of the configuration's destination.
    pub destination: usize,
    /// Name of the collection.
    pub collection: &'a str,
    /// The event as Keen accepts it.
    pub json: &'a [u8],
}

/// Keen's result for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventResult {
    /// Recorded, or recognized as a duplicate by its uniqueness token.
    Recorded,
    /// Rejected for its content, with the error's name.
    Rejected(String),
    /// Not recorded because Keen itself failed: the event can be retried.
    Failed,
}

/// Maximum size of one event that Keen accepts, in bytes. The same bound as
/// [`event_writer::MAX_BYTES`](super::event_writer::MAX_BYTES).
pub const MAX_EVENT_BYTES: usize = 900_000;

/// Keen's name for its own failure, in a reply's `error_code` and in the result of one event.
const INTERNAL_ERROR: &str = "InternalServerError";

/// Replaces an error name that is not a plain word.
const UNNAMED_ERROR: &str = "unnamed";

/// Longest error name that is repeated in metrics and logs.
const MAX_ERROR_NAME_BYTES: usize = 64;

/// Writes the body of a bulk request. `collections`: each collection's name, and the JSON of its
/// events, separated by commas. `capacity`: the expected size in bytes.
///
/// ```
/// use keen_edge::keen::bulk;
///
/// let collections: [(&str, &[u8]); 2] = [("Purchased", b"{\"total\":7},{}"), ("Loaded a Page", b"{}")];
/// let body = bulk::body(collections.into_iter(), 64);
/// assert_eq!(body, br#"{"Purchased":[{"total":7},{}],"Loaded a Page":[{}]}"#);
/// ```
#[must_use]
pub fn body<'a>(
    collections: impl Iterator<Item = (&'a str, &'a [u8])>,
    capacity: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.push(b'{');
    for (name, events) in collections {
        if out.len() > 1 {
            out.push(b',');
        }
        // Writing a string to a vector cannot fail.
        let _ = serde_json::to_writer(&mut out, name);
        out.extend_from_slice(b":[");
        out.extend_from_slice(events);
        out.push(b']');
    }
    out.push(b'}');
    out
}

/// Reads a bulk reply: one result for each event of the request. `expected`: the request's
/// collections and how many events each has, in order.
///
/// # Errors
/// The reply is not one JSON object, or does not have exactly one result for each event. Then it
/// confirms none of them.
///
/// ```
/// use keen_edge::keen::bulk::{EventResult, parse_reply};
///
/// let reply = br#"{"Purchased": [{"success": true}]}"#;
/// assert_eq!(parse_reply(reply, &[("Purchased", 1)]).unwrap(), [EventResult::Recorded]);
/// assert!(parse_reply(reply, &[("Purchased", 2)]).is_err());
/// ```
pub fn parse_reply(
    reply: &[u8],
    expected: &[(&str, usize)],
) -> Result<Vec<EventResult>, serde_json::Error> {
    let reply = std::str::from_utf8(reply).map_err(serde_json::Error::custom)?;
    let mut deserializer = serde_json::Deserializer::from_str(reply);
    let results = Reply { expected }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(results)
}

/// A reply to a request with the collections `expected`.
struct Reply<'a> {
    expected: &'a [(&'a str, usize)],
}

impl<'de> DeserializeSeed<'de> for Reply<'_> {
    type Value = Vec<EventResult>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reply<'_> {
    type Value = Vec<EventResult>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the results of each collection")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found: Vec<Option<Vec<EventResult>>> = vec![None; self.expected.len()];
        let mut next = 0_usize;
        while let Some(CollectionName(name)) = map.next_key()? {
            // Keen keeps the request's order, which makes the search short, but this is not
            // guaranteed.
            let in_order = self.expected.get(next).is_some_and(|(expected, _)| *expected == name);
            let index = if in_order {
                Some(next)
            } else {
                self.expected.iter().position(|(expected, _)| *expected == name)
            };
            let entry = index.and_then(|index| self.expected.get(index).zip(found.get_mut(index)));
            // Ignore results for collections we did not send.
            let Some(((_, count), slot)) = entry else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            next = index.unwrap_or(next).saturating_add(1);
            let results = map.next_value_seed(CollectionResults { expected: *count })?;
            if slot.replace(results).is_some() {
                return Err(A::Error::custom("two lists of results for one collection"));
            }
        }
        let found: Option<Vec<Vec<EventResult>>> = found.into_iter().collect();
        let found = found.ok_or_else(|| A::Error::custom("no results for a collection"))?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// A collection's name.
#[derive(Deserialize)]
struct CollectionName<'a>(#[serde(borrow)] Cow<'a, str>);

/// The results of one collection: exactly `expected` of them.
struct CollectionResults {
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for CollectionResults {
    type Value = Vec<EventResult>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for CollectionResults {
    type Value = Vec<EventResult>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} results", self.expected)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut results = Vec::with_capacity(self.expected);
        while let Some(item) = seq.next_element::<ResultItem<'_>>()? {
            if results.len() >= self.expected {
                return Err(A::Error::custom("more results than events"));
            }
            results.push(item.into_result());
        }
        if results.len() < self.expected {
            return Err(A::Error::custom("fewer results than events"));
        }
        Ok(results)
    }
}

/// One event's result, as Keen writes it.
#[derive(Deserialize)]
struct ResultItem<'a> {
    success: bool,
    /// An object with a name and a description. Another type here does not make the result
    /// unreadable.
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl ResultItem<'_> {
    fn into_result(self) -> EventResult {
        if self.success {
            return EventResult::Recorded;
        }
        match self.error.map(|error| json::member(error.get(), "name")) {
            Some(Value::String(name)) if name.is(INTERNAL_ERROR) => EventResult::Failed,
            Some(Value::String(name)) if is_error_name(&name.decode()) => {
                EventResult::Rejected(name.decode().into_owned())
            }
            _ => EventResult::Rejected(UNNAMED_ERROR.to_owned()),
        }
    }
}

/// Whether an error name is safe for metrics and logs. Keen's names are single words; anything else
/// may echo an event or a key.
#[must_use]
pub fn is_error_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_ERROR_NAME_BYTES
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn max_event_bytes_is_what_the_event_writer_bounds() {
        assert_eq!(MAX_EVENT_BYTES, crate::keen::event_writer::MAX_BYTES);
    }

    #[test]
    fn body_of_collections_groups_and_escapes() {
        let events: [(&str, &[u8]); 2] = [("a", b"{},{\"x\":1}"), ("b\"", b"{}")];
        assert_eq!(body(events.into_iter(), 0), br#"{"a":[{},{"x":1}],"b\"":[{}]}"#);
    }

    #[test]
    fn parse_reply_in_another_order_gives_the_requests_order() {
        let reply = br#"{"b": [{"success": false, "error": {"name": "InvalidPropertyNameError", "description": "x"}}], "a": [{"success": true}, {"success": true}]}"#;
        let got = parse_reply(reply, &[("a", 2), ("b", 1)]).unwrap();
        assert_eq!(
            got,
            [
                EventResult::Recorded,
                EventResult::Recorded,
                EventResult::Rejected("InvalidPropertyNameError".into())
            ]
        );
    }

    #[test]
    fn parse_reply_that_does_not_fit_the_request_confirms_nothing() {
        for reply in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"a":[{"success":true}"#,
            r#"{"a":[{"success":true}]"#,
            r#"{"a":[]}"#,
            r#"{"a":[{}]}"#,
            r#"{"a":{"success":true}}"#,
            r#"{"b":[{"success":true}]}"#,
            r#"{"a":[{"success":1}]}"#,
            r#"{"a":[{"success":null}]}"#,
            // Too many results, which cannot be assigned to events.
            r#"{"a":[{"success":true},{"success":true}]}"#,
            r#"{"a":[{"success":true}],"a":[{"success":true}]}"#,
            // Bytes after the reply.
            r#"{"a":[{"success":true}]} x"#,
            r#"{"a":[{"success":true}]}{}"#,
            r#"{"a":[{"success":true}]}]"#,
        ] {
            assert!(parse_reply(reply.as_bytes(), &[("a", 1)]).is_err(), "{reply}");
        }
        let cut = br#"{"a":[{"success":true}],"b":[{"success":true}]}"#;
        assert!(parse_reply(cut, &[("a", 1), ("b", 2)]).is_err());
        assert!(parse_reply(cut, &[("a", 1), ("b", 1), ("c", 1)]).is_err());
    }

    #[test]
    fn parse_reply_with_unknown_members_ignores_them() {
        for reply in [
            r#" {"a" : [ {"success":true} ] , "other": {"deep": [1, {"x": null}]}} "#,
            r#"{"\u0061":[{"success":true,"id":7}]}"#,
            r#"{"a":[{"success":true,"error":null}]}"#,
            r#"{"a":[{"success":true,"error":"text"}]}"#,
        ] {
            let got = parse_reply(reply.as_bytes(), &[("a", 1)]).unwrap();
            assert_eq!(got, [EventResult::Recorded], "{reply}");
        }
    }

    #[test]
    fn parse_reply_of_rejections_repeats_only_error_names() {
        let rejected = |name: &str| EventResult::Rejected(name.to_owned());
        let long = "x".repeat(65);
        for (error, want) in [
            (r#"{"name":"InvalidEventError"}"#, rejected("InvalidEventError")),
            (r#"{"name":"Invalid\u0045ventError"}"#, rejected("InvalidEventError")),
            (r#"{"name":"snake_case"}"#, rejected("snake_case")),
            (r#"{"name":"InternalServerError"}"#, EventResult::Failed),
            (r#"{"name":"has blanks"}"#, rejected("unnamed")),
            (&format!(r#"{{"name":"{long}"}}"#), rejected("unnamed")),
            (r#"{"name":7}"#, rejected("unnamed")),
            (r#"{}"#, rejected("unnamed")),
            (r#""text""#, rejected("unnamed")),
            ("null", rejected("unnamed")),
        ] {
            let reply = format!(r#"{{"a":[{{"success":false,"error":{error}}}]}}"#);
            let got = parse_reply(reply.as_bytes(), &[("a", 1)]).unwrap();
            assert_eq!(got, [want], "{error}");
        }
    }
}
