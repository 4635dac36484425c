//! What is remembered of one user, and how an identify changes it.

use crate::json::{Value, read_value};
use crate::keen::sanitize::sanitize;

/// UserKey is meant: an id of one source's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UserKey {
    /// The source, by a hash of its write key: it stays the same over configurations.
    pub(crate) scope: u64,
    /// Whether `id` is a `userId`; else it is an `anonymousId`.
    pub(crate) is_user: bool,
    pub(crate) id: String,
}

/// What is remembered under an id. JSON texts here are such as Keen accepts; an object without members is an empty text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'b> {
    /// A user's properties.
    Profile {
        /// All of them, as events show them.
        traits: &'b str,
        /// Those of them that Engage computed: they outlast the next identify.
        computed: &'b str,
    },
    /// An `anonymousId` that identify has named: the `userId`, as JSON.
    Link(&'b str),
}

/// What a call says of the user behind an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Update {
    /// These are the user's traits, and no others.
    ReplaceTraits(String),
    /// Engage has computed these, beside whatever else is known.
    MergeComputed(String),
    /// This `anonymousId` is that user's (`userId` as JSON).
    LinkUserId(String),
    /// They were heard of.
    Touch,
}

/// A record after a call. Its texts are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedRecord {
    Profile { traits: String, computed: String },
    Link(String),
}

impl Update {
    /// The record after this was said of it. `None`: there is nothing to remember.
    pub(crate) fn of(&self, before: Option<Record<'_>>) -> Option<OwnedRecord> {
        let (traits, computed) = match before {
            Some(Record::Profile { traits, computed }) => (traits, computed),
            _ => ("", ""),
        };
        Some(match (self, before) {
            (Self::ReplaceTraits(said), _) => OwnedRecord::Profile {
                traits: merge_objects(said, computed),
                computed: computed.to_owned(),
            },
            (Self::MergeComputed(said), _) => OwnedRecord::Profile {
                traits: merge_objects(traits, said),
                computed: merge_objects(computed, said),
            },
            (Self::LinkUserId(user), _) => OwnedRecord::Link(user.clone()),
            (Self::Touch, None) => return None,
            (Self::Touch, Some(Record::Profile { .. })) => {
                OwnedRecord::Profile { traits: traits.to_owned(), computed: computed.to_owned() }
            }
            (Self::Touch, Some(Record::Link(user))) => OwnedRecord::Link(user.to_owned()),
        })
    }
}

impl OwnedRecord {
    /// Bytes of its texts.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Profile { traits, computed } => traits.len().saturating_add(computed.len()),
            Self::Link(user) => user.len(),
        }
    }

    pub(crate) fn as_record(&self) -> Record<'_> {
        match self {
            Self::Profile { traits, computed } => Record::Profile { traits, computed },
            Self::Link(user) => Record::Link(user),
        }
    }
}

/// The members of two JSON objects in one; of equal names the second's wins.
pub(crate) fn merge_objects(first: &str, second: &str) -> String {
    let (inner_first, inner_second) = (object_body(first), object_body(second));
    if inner_second.is_empty() {
        return if inner_first.is_empty() { String::new() } else { first.to_owned() };
    }
    if inner_first.is_empty() {
        return second.to_owned();
    }
    sanitize_object(&format!("{{{inner_first},{inner_second}}}"))
}

/// A JSON object as Keen accepts it. Empty where it has no members, or is no object.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn known(traits: &str, computed: &str) -> Option<OwnedRecord> {
        Some(OwnedRecord::Profile { traits: traits.to_owned(), computed: computed.to_owned() })
    }

    #[test]
    fn identify_replaces_and_what_engage_computed_stays() {
        let first = Update::ReplaceTraits(r#"{"a":1,"b":2}"#.to_owned()).of(None);
        assert_eq!(first, known(r#"{"a":1,"b":2}"#, ""));
        let second = Update::MergeComputed(r#"{"vip":true}"#.to_owned())
            .of(first.as_ref().map(OwnedRecord::as_record));
        assert_eq!(second, known(r#"{"a":1,"b":2,"vip":true}"#, r#"{"vip":true}"#));
        let third = Update::ReplaceTraits(r#"{"c":3,"vip":"no"}"#.to_owned())
            .of(second.as_ref().map(OwnedRecord::as_record));
        assert_eq!(third, known(r#"{"c":3,"vip":true}"#, r#"{"vip":true}"#));
        let left = Update::MergeComputed(r#"{"vip":false}"#.to_owned())
            .of(third.as_ref().map(OwnedRecord::as_record));
        assert_eq!(left, known(r#"{"c":3,"vip":false}"#, r#"{"vip":false}"#));
        let heard = Update::Touch.of(left.as_ref().map(OwnedRecord::as_record));
        assert_eq!(heard, left);
        assert_eq!(Update::Touch.of(None), None);
        assert_eq!(Update::ReplaceTraits(String::new()).of(None), known("", ""));
    }

    #[test]
    fn only_objects_with_members_are_traits() {
        for text in ["{}", " { } ", "[1]", "\"x\"", "null", ""] {
            assert_eq!(sanitize_object(text), "", "{text}");
        }
        assert_eq!(sanitize_object(r#" {"a.b": {"c.d": 1}} "#), r#"{"a_b":{"c_d":1}}"#);
    }
}
