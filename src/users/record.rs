//! The record of one user, and how the updates of a request change it.

use crate::json::{Value, for_each_member, quoted, read_value, write_string};
use crate::keen::sanitize::sanitize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Maximum size of a record's texts, in bytes: half of what Segment accepts as one message.
const MAX_RECORD_BYTES: usize = 16_384;

/// The kind of an id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum IdKind {
    #[default]
    UserId,
    AnonymousId,
}

/// The id of a user, within one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UserKey<'a> {
    /// A hash of the source's write key, which is the same in every configuration.
    pub(crate) key_hash: u64,
    pub(crate) kind: IdKind,
    pub(crate) id: &'a str,
}

impl<'a> UserKey<'a> {
    pub(crate) fn user_id(key_hash: u64, id: &'a str) -> Self {
        Self { key_hash, kind: IdKind::UserId, id }
    }

    pub(crate) fn anonymous_id(key_hash: u64, id: &'a str) -> Self {
        Self { key_hash, kind: IdKind::AnonymousId, id }
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
}

/// A record that owns its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedRecord {
    Profile { traits: String, computed: String },
    Link(String),
}

impl OwnedRecord {
    /// Returns the record after `updates`, which are applied together: the cost is linear in their
    /// bytes and those of the record. `None`: it stays as it was.
    ///
    /// Merging with the record costs its bytes of `merge_bytes_left`. An update is rejected if that
    /// is not enough, or if the record would be too large. Rejected traits remove the earlier ones,
    /// which are outdated. Returns the number of rejected updates, too.
    pub(crate) fn updated(
        before: Option<Record<'_>>,
        updates: &[Update],
        merge_bytes_left: &mut usize,
    ) -> (Option<Self>, u64) {
        let mut before = before;
        let mut link = None;
        let mut replacement = None;
        let mut merged = Vec::new();
        for update in updates {
            match update {
                Update::ReplaceTraits(traits) => replacement = Some(traits.as_str()),
                Update::MergeComputed(traits) => merged.push(traits.as_str()),
                Update::LinkUserId(user_id) => {
                    (before, replacement) = (None, None);
                    merged.clear();
                    link = Some(user_id);
                }
            }
        }
        let unchanged = || link.map(|user_id| Self::Link(user_id.clone()));
        if replacement.is_none() && merged.is_empty() {
            return (unchanged(), 0);
        }
        let (old_traits, old_computed) = match before {
            Some(Record::Profile { traits, computed }) => (traits, computed),
            _ => ("", ""),
        };
        let is_merge = !old_computed.is_empty() || !merged.is_empty();
        let cost = if is_merge { old_traits.len().saturating_add(old_computed.len()) } else { 0 };
        let is_affordable = cost <= *merge_bytes_left;
        if is_affordable {
            *merge_bytes_left = merge_bytes_left.saturating_sub(cost);
        }
        // The profile with these computed traits, unless it is too large.
        let profile = |new_computed: &str| {
            let computed = merge_objects(old_computed, new_computed);
            let traits = match replacement {
                Some(traits) => merge_objects(traits, &computed),
                // Engage alone knows the user.
                None if old_traits == old_computed => computed.clone(),
                None => merge_objects(old_traits, new_computed),
            };
            let fits = traits.len().saturating_add(computed.len()) <= MAX_RECORD_BYTES;
            fits.then_some(Self::Profile { traits, computed })
        };
        let count = u64::try_from(merged.len()).unwrap_or(0);
        let mut found = None;
        if is_affordable {
            found = profile(&merge_all(&merged)).map(|profile| (profile, 0));
            if found.is_none() && replacement.is_some() {
                found = profile("").map(|profile| (profile, count));
            }
        }
        match found {
            Some((profile, rejected)) => (Some(profile), rejected),
            None if replacement.is_none() => (unchanged(), count),
            None => {
                let computed = old_computed.to_owned();
                let profile = Self::Profile { traits: computed.clone(), computed };
                (Some(profile), count.saturating_add(1))
            }
        }
    }

    pub(crate) fn as_record(&self) -> Record<'_> {
        match self {
            Self::Profile { traits, computed } => Record::Profile { traits, computed },
            Self::Link(user_id) => Record::Link(user_id),
        }
    }
}

/// Members by name.
type Members<'a> = BTreeMap<Cow<'a, [u8]>, &'a str>;

/// Merges two JSON objects that Keen accepts. Of equal names the second object's member is kept. An
/// empty text is an object without members.
pub(crate) fn merge_objects(first: &str, second: &str) -> String {
    if second.is_empty() {
        return first.to_owned();
    }
    if first.is_empty() {
        return second.to_owned();
    }
    let mut overwritten = Members::new();
    add_members(&mut overwritten, second);
    let mut merged = Vec::with_capacity(first.len().saturating_add(second.len()));
    // Engage sends one trait at a time. To search for its name costs less than to read all members.
    if overwritten.len() == 1
        && overwritten.keys().all(|name| is_without_member(first, name))
        && let (Some(first), Some(second)) = (first.strip_suffix('}'), second.strip_prefix('{'))
    {
        return [first, second].join(",");
    }
    for_each_member(first, &mut |name, value| {
        if !overwritten.contains_key(&name.0) {
            write_member(&mut merged, &name.0, value.json());
        }
    });
    for_each_member(second, &mut |name, value| write_member(&mut merged, &name.0, value.json()));
    object_of(merged)
}

/// Whether an object cannot have a member with this name. False if that takes a parser to tell.
fn is_without_member(object: &str, name: &[u8]) -> bool {
    let name = std::str::from_utf8(name).map(quoted).unwrap_or_default();
    !object.contains('\\') && !name.is_empty() && !object.contains(&name)
}

/// Returns an object with the members of all `objects`. Of equal names the last is kept.
fn merge_all(objects: &[&str]) -> String {
    if let [object] = objects {
        return (*object).to_owned();
    }
    let mut members = Members::new();
    for object in objects {
        add_members(&mut members, object);
    }
    let mut merged = Vec::new();
    for (name, value) in &members {
        write_member(&mut merged, name, value);
    }
    object_of(merged)
}

fn add_members<'a>(members: &mut Members<'a>, object: &'a str) {
    for_each_member(object, &mut |name, value| {
        members.insert(name.0.clone(), value.json());
    });
}

/// Writes a member after those that `out` has.
fn write_member(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.push(if out.is_empty() { b'{' } else { b',' });
    write_string(out, std::str::from_utf8(name).unwrap_or_default());
    out.push(b':');
    out.extend_from_slice(value.as_bytes());
}

/// Ends the object whose members [`write_member`] wrote. Empty if there are none.
fn object_of(mut members: Vec<u8>) -> String {
    if !members.is_empty() {
        members.push(b'}');
    }
    String::from_utf8(members).unwrap_or_default()
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

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn profile(traits: &str, computed: &str) -> Option<OwnedRecord> {
        Some(OwnedRecord::Profile { traits: traits.to_owned(), computed: computed.to_owned() })
    }

    fn replace(traits: &str) -> Update {
        Update::ReplaceTraits(traits.to_owned())
    }

    fn merge(traits: &str) -> Update {
        Update::MergeComputed(traits.to_owned())
    }

    fn updated(before: Option<&OwnedRecord>, updates: &[Update]) -> (Option<OwnedRecord>, u64) {
        let record = before.map(OwnedRecord::as_record);
        let (after, rejected) = OwnedRecord::updated(record, updates, &mut usize::MAX.clone());
        (after.or_else(|| before.cloned()), rejected)
    }

    #[test]
    fn updated_replaces_traits_but_keeps_computed_ones() {
        let updates = [
            replace(r#"{"a":1,"b":2}"#),
            merge(r#"{"vip":true}"#),
            replace(r#"{"c":3,"vip":"no"}"#),
            merge(r#"{"vip":false}"#),
        ];
        let want = [
            profile(r#"{"a":1,"b":2}"#, ""),
            profile(r#"{"a":1,"b":2,"vip":true}"#, r#"{"vip":true}"#),
            profile(r#"{"c":3,"vip":true}"#, r#"{"vip":true}"#),
            profile(r#"{"c":3,"vip":false}"#, r#"{"vip":false}"#),
        ];
        let mut before = None;
        for (index, want) in want.iter().enumerate() {
            // One by one, and all together.
            let after = updated(before.as_ref(), &updates[index..=index]);
            assert_eq!(after, (want.clone(), 0));
            assert_eq!(updated(None, &updates[..=index]), (want.clone(), 0));
            before = after.0;
        }
        assert_eq!(updated(before.as_ref(), &[]), (before.clone(), 0));
        assert_eq!(updated(None, &[]), (None, 0));
        assert_eq!(updated(None, &[replace("")]), (profile("", ""), 0));
    }

    #[test]
    fn updated_link_forgets_what_was_before() {
        let link = |id: &str| Update::LinkUserId(id.to_owned());
        let before = profile(r#"{"a":1}"#, "");
        let updates = [merge(r#"{"b":1}"#), link("\"u\""), link("\"v\"")];
        let linked = updated(before.as_ref(), &updates);
        assert_eq!(linked, (Some(OwnedRecord::Link("\"v\"".to_owned())), 0));
        let updates = [link("\"u\""), merge(r#"{"c":1}"#)];
        let want = (profile(r#"{"c":1}"#, r#"{"c":1}"#), 0);
        assert_eq!(updated(before.as_ref(), &updates), want);
        assert_eq!(updated(linked.0.as_ref(), &updates[1..]), want);
        // A rejected update leaves the link as it is.
        let updates = [link("\"v\""), merge(&format!("{{\"b\":\"{}\"}}", "x".repeat(9_000)))];
        assert_eq!(updated(before.as_ref(), &updates), (linked.0, 1));
    }

    #[test]
    fn updated_over_the_size_or_the_budget_rejects_the_update() {
        let large = |name: &str| format!("{{\"{name}\":\"{}\"}}", "x".repeat(9_000));
        let before = profile(r#"{"a":1,"vip":true}"#, r#"{"vip":true}"#);
        let only_computed = profile(r#"{"vip":true}"#, r#"{"vip":true}"#);
        // Computed traits count twice, since they are traits too.
        let too_large = [merge(&large("b")), replace(r#"{"c":1}"#)];
        let want = profile(r#"{"c":1,"vip":true}"#, r#"{"vip":true}"#);
        assert_eq!(updated(before.as_ref(), &too_large), (want, 1));
        assert_eq!(updated(before.as_ref(), &too_large[..1]), (before.clone(), 1));
        let too_large = [replace(&format!("{{\"b\":\"{}\"}}", "x".repeat(16_400)))];
        assert_eq!(updated(before.as_ref(), &too_large), (only_computed.clone(), 1));
        assert_eq!(updated(None, &too_large), (profile("", ""), 1));
        let bytes = r#"{"a":1,"vip":true}{"vip":true}"#.len();
        for (mut left, updates, want, rejected) in [
            (
                bytes,
                [replace(r#"{"c":1}"#)],
                profile(r#"{"c":1,"vip":true}"#, r#"{"vip":true}"#),
                0,
            ),
            (bytes - 1, [replace(r#"{"c":1}"#)], only_computed, 1),
            (bytes - 1, [merge(r#"{"vip":false}"#)], before.clone(), 1),
        ] {
            let record = before.as_ref().map(OwnedRecord::as_record);
            let (after, found) = OwnedRecord::updated(record, &updates, &mut left);
            assert_eq!((after.or_else(|| before.clone()), found), (want, rejected));
            assert_eq!(left, if rejected == 0 { 0 } else { bytes - 1 });
        }
        // Without computed traits nothing is merged, so it costs nothing.
        let plain = profile(r#"{"a":1}"#, "");
        let after = OwnedRecord::updated(
            plain.as_ref().map(OwnedRecord::as_record),
            &[replace(r#"{"c":1}"#)],
            &mut 0,
        );
        assert_eq!(after, (profile(r#"{"c":1}"#, ""), 0));
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
            (r#"{"\u0061":1}"#, r#"{"a":2}"#, r#"{"a":2}"#),
            (r#"{"a b":1}"#, r#"{"a":2}"#, r#"{"a b":1,"a":2}"#),
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
