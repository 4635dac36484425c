//! The record of one user, and how an update changes it.

use crate::json::{Value, read_value};
use crate::keen::sanitize::sanitize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::fmt;

/// The kind of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum IdKind {
    UserId,
    AnonymousId,
}

/// The id of a user, within one source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UserKey {
    /// A hash of the source's write key, which is the same in every configuration.
    pub(crate) key_hash: u64,
    pub(crate) kind: IdKind,
    pub(crate) id: String,
}

impl UserKey {
    pub(crate) fn user_id(key_hash: u64, id: impl Into<String>) -> Self {
        Self { key_hash, kind: IdKind::UserId, id: id.into() }
    }

    pub(crate) fn anonymous_id(key_hash: u64, id: impl Into<String>) -> Self {
        Self { key_hash, kind: IdKind::AnonymousId, id: id.into() }
    }
}

/// The record stored under an id. All texts are JSON that Keen accepts. An object without members
/// is an empty text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'b> {
    /// A user's traits.
    Profile {
        /// All traits, as events contain them.
        traits: &'b str,
        /// The traits among them that Segment's Engage computed. An identify does not replace them.
        computed: &'b str,
    },
    /// The `userId`, as JSON, that an identify gave to an `anonymousId`.
    Link(&'b str),
}

/// A change of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Update {
    /// Replaces all traits but the computed ones.
    ReplaceTraits(String),
    /// Adds computed traits.
    MergeComputed(String),
    /// Links an `anonymousId` to a `userId`, as JSON.
    LinkUserId(String),
    /// Only updates when the user was last seen.
    Touch,
}

/// A record that owns its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedRecord {
    Profile { traits: String, computed: String },
    Link(String),
}

impl Update {
    /// Returns the record after this update. `None`: there is nothing to store.
    pub(crate) fn apply(&self, before: Option<Record<'_>>) -> Option<OwnedRecord> {
        let (traits, computed) = match before {
            Some(Record::Profile { traits, computed }) => (traits, computed),
            _ => ("", ""),
        };
        Some(match (self, before) {
            (Self::ReplaceTraits(new), _) => OwnedRecord::Profile {
                traits: merge_objects(new, computed),
                computed: computed.to_owned(),
            },
            (Self::MergeComputed(new), _) => OwnedRecord::Profile {
                traits: merge_objects(traits, new),
                computed: merge_objects(computed, new),
            },
            (Self::LinkUserId(user_id), _) => OwnedRecord::Link(user_id.clone()),
            (Self::Touch, None) => return None,
            (Self::Touch, Some(Record::Profile { .. })) => {
                OwnedRecord::Profile { traits: traits.to_owned(), computed: computed.to_owned() }
            }
            (Self::Touch, Some(Record::Link(user_id))) => OwnedRecord::Link(user_id.to_owned()),
        })
    }
}

impl OwnedRecord {
    /// Returns the bytes of its texts.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Profile { traits, computed } => traits.len().saturating_add(computed.len()),
            Self::Link(user_id) => user_id.len(),
        }
    }

    pub(crate) fn as_record(&self) -> Record<'_> {
        match self {
            Self::Profile { traits, computed } => Record::Profile { traits, computed },
            Self::Link(user_id) => Record::Link(user_id),
        }
    }
}

/// Merges two JSON objects that Keen accepts. Of equal names the second object's member is kept. An
/// empty text is an object without members.
pub(crate) fn merge_objects(first: &str, second: &str) -> String {
    let (Members(first_members), Members(second_members)) = (members(first), members(second));
    if second_members.is_empty() {
        return if first_members.is_empty() { String::new() } else { first.to_owned() };
    }
    if first_members.is_empty() {
        return second.to_owned();
    }
    let mut overwritten = BTreeSet::new();
    overwritten.extend(second_members.iter().map(|(name, _)| name.as_str()));
    let mut merged = String::with_capacity(first.len().saturating_add(second.len()));
    let retained = first_members.iter().filter(|(name, _)| !overwritten.contains(name.as_str()));
    for (name, value) in retained.chain(&second_members) {
        merged.push(if merged.is_empty() { '{' } else { ',' });
        merged.push_str(&crate::json::quoted(name));
        merged.push(':');
        merged.push_str(value.get());
    }
    merged.push('}');
    merged
}

/// Returns a JSON object as Keen accepts it. Empty if it has no members or is not an object.
pub(crate) fn sanitize_object(object: &str) -> String {
    match read_value(object) {
        Some(value @ Value::Object(_)) => {
            let text = sanitize(value, 0).json.into_owned();
            if object_body(&text).is_empty() { String::new() } else { text }
        }
        _ => String::new(),
    }
}

fn object_body(object: &str) -> &str {
    object.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or("").trim()
}

fn members(object: &str) -> Members<'_> {
    serde_json::from_str(object).unwrap_or_default()
}

/// The members of a JSON object, in order. Values keep their text, so that numbers keep their
/// digits.
#[derive(Debug, Default)]
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(traits: &str, computed: &str) -> Option<OwnedRecord> {
        Some(OwnedRecord::Profile { traits: traits.to_owned(), computed: computed.to_owned() })
    }

    #[test]
    fn apply_replaces_traits_but_keeps_computed_ones() {
        let first = Update::ReplaceTraits(r#"{"a":1,"b":2}"#.to_owned()).apply(None);
        assert_eq!(first, profile(r#"{"a":1,"b":2}"#, ""));
        let second = Update::MergeComputed(r#"{"vip":true}"#.to_owned())
            .apply(first.as_ref().map(OwnedRecord::as_record));
        assert_eq!(second, profile(r#"{"a":1,"b":2,"vip":true}"#, r#"{"vip":true}"#));
        let third = Update::ReplaceTraits(r#"{"c":3,"vip":"no"}"#.to_owned())
            .apply(second.as_ref().map(OwnedRecord::as_record));
        assert_eq!(third, profile(r#"{"c":3,"vip":true}"#, r#"{"vip":true}"#));
        let fourth = Update::MergeComputed(r#"{"vip":false}"#.to_owned())
            .apply(third.as_ref().map(OwnedRecord::as_record));
        assert_eq!(fourth, profile(r#"{"c":3,"vip":false}"#, r#"{"vip":false}"#));
        let touched = Update::Touch.apply(fourth.as_ref().map(OwnedRecord::as_record));
        assert_eq!(touched, fourth);
        assert_eq!(Update::Touch.apply(None), None);
        assert_eq!(Update::ReplaceTraits(String::new()).apply(None), profile("", ""));
    }

    #[test]
    fn merge_objects_takes_second_of_equal_names_and_keeps_digits() {
        for (first, second, want) in [
            ("", "", ""),
            (r#"{"a":1}"#, "", r#"{"a":1}"#),
            ("", r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1,"b":2}"#, r#"{"\u0061":3}"#, r#"{"b":2,"a":3}"#),
            (
                r#"{"n":1.10e2}"#,
                r#"{"m":12345678901234567890}"#,
                r#"{"n":1.10e2,"m":12345678901234567890}"#,
            ),
            (r#"{"\"":{"x":[1]}}"#, r#"{"é":null}"#, r#"{"\"":{"x":[1]},"é":null}"#),
        ] {
            assert_eq!(merge_objects(first, second), want, "{first} {second}");
        }
    }

    #[test]
    fn sanitize_object_without_members_is_empty() {
        for text in ["{}", " { } ", "[1]", "\"x\"", "null", ""] {
            assert_eq!(sanitize_object(text), "", "{text}");
        }
        assert_eq!(sanitize_object(r#" {"a.b": {"c.d": 1}} "#), r#"{"a_b":{"c_d":1}}"#);
    }
}
