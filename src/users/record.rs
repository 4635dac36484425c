//! What is remembered of one user, and how an identify changes it.

use crate::keen::event::write_legal;

/// Who is meant: an id of one source's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Who {
    /// The source, by a hash of its write key: it stays the same over configurations.
    pub(super) scope: u64,
    /// Whether `id` is a `userId`; else it is an `anonymousId`.
    pub(super) is_user: bool,
    pub(super) id: String,
}

/// What is remembered under an id. JSON texts here are such as Keen accepts; an object without members is an empty text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'b> {
    /// A user's properties.
    Known {
        /// All of them, as events show them.
        traits: &'b str,
        /// Those of them that Engage computed: they outlast the next identify.
        computed: &'b str,
    },
    /// An `anonymousId` that identify has named: the `userId`, as JSON.
    Named(&'b str),
}

/// What a call says of the user behind an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// These are the user's traits, and no others.
    Traits(String),
    /// Engage has computed these, beside whatever else is known.
    Computed(String),
    /// This `anonymousId` is that user's (`userId` as JSON).
    Named(String),
    /// They were heard of.
    Heard,
}

/// A record after a call. Its texts are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Changed {
    Known { traits: String, computed: String },
    Named(String),
}

impl Said {
    /// The record after this was said of it. `None`: there is nothing to remember.
    pub(super) fn of(&self, before: Option<Record<'_>>) -> Option<Changed> {
        let (traits, computed) = match before {
            Some(Record::Known { traits, computed }) => (traits, computed),
            _ => ("", ""),
        };
        Some(match (self, before) {
            (Self::Traits(said), _) => Changed::Known { traits: join(said, computed), computed: computed.to_owned() },
            (Self::Computed(said), _) => Changed::Known { traits: join(traits, said), computed: join(computed, said) },
            (Self::Named(user), _) => Changed::Named(user.clone()),
            (Self::Heard, None) => return None,
            (Self::Heard, Some(Record::Known { .. })) => {
                Changed::Known { traits: traits.to_owned(), computed: computed.to_owned() }
            }
            (Self::Heard, Some(Record::Named(user))) => Changed::Named(user.to_owned()),
        })
    }
}

impl Changed {
    /// Bytes of its texts.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Known { traits, computed } => traits.len().saturating_add(computed.len()),
            Self::Named(user) => user.len(),
        }
    }

    pub(super) fn as_record(&self) -> Record<'_> {
        match self {
            Self::Known { traits, computed } => Record::Known { traits, computed },
            Self::Named(user) => Record::Named(user),
        }
    }
}

/// The members of two JSON objects in one; of equal names the second's wins.
pub(super) fn join(first: &str, second: &str) -> String {
    let (inner_first, inner_second) = (inner(first), inner(second));
    if inner_second.is_empty() {
        return if inner_first.is_empty() { String::new() } else { first.to_owned() };
    }
    if inner_first.is_empty() {
        return second.to_owned();
    }
    legal(&format!("{{{inner_first},{inner_second}}}"))
}

/// A JSON object as Keen accepts it. Empty where it has no members, or is no object.
pub(super) fn legal(object: &str) -> String {
    let mut out = Vec::with_capacity(object.len());
    let read = object.trim_start().starts_with('{') && write_legal(&mut out, object).is_ok();
    let text = if read { String::from_utf8(out).unwrap_or_default() } else { String::new() };
    if inner(&text).is_empty() { String::new() } else { text }
}

fn inner(object: &str) -> &str {
    object.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(traits: &str, computed: &str) -> Option<Changed> {
        Some(Changed::Known { traits: traits.to_owned(), computed: computed.to_owned() })
    }

    #[test]
    fn identify_replaces_and_what_engage_computed_stays() {
        let first = Said::Traits(r#"{"a":1,"b":2}"#.to_owned()).of(None);
        assert_eq!(first, known(r#"{"a":1,"b":2}"#, ""));
        let second = Said::Computed(r#"{"vip":true}"#.to_owned()).of(first.as_ref().map(Changed::as_record));
        assert_eq!(second, known(r#"{"a":1,"b":2,"vip":true}"#, r#"{"vip":true}"#));
        let third = Said::Traits(r#"{"c":3,"vip":"no"}"#.to_owned()).of(second.as_ref().map(Changed::as_record));
        assert_eq!(third, known(r#"{"c":3,"vip":true}"#, r#"{"vip":true}"#));
        let left = Said::Computed(r#"{"vip":false}"#.to_owned()).of(third.as_ref().map(Changed::as_record));
        assert_eq!(left, known(r#"{"c":3,"vip":false}"#, r#"{"vip":false}"#));
        let heard = Said::Heard.of(left.as_ref().map(Changed::as_record));
        assert_eq!(heard, left);
        assert_eq!(Said::Heard.of(None), None);
        assert_eq!(Said::Traits(String::new()).of(None), known("", ""));
    }

    #[test]
    fn only_objects_with_members_are_traits() {
        for text in ["{}", " { } ", "[1]", "\"x\"", "null", ""] {
            assert_eq!(legal(text), "", "{text}");
        }
        assert_eq!(legal(r#" {"a.b": {"c.d": 1}} "#), r#"{"a_b": {"c_d": 1}}"#);
    }
}
