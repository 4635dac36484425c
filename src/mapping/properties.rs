//! The `properties` of one message, checked once for all of its events.

use super::own_field::{MAX_NAME_BYTES, OwnField, PerField};
use crate::json::{Name, ReadMember, Value, for_each_member, read_object, write_string};
use crate::keen::sanitize::{
    SeenNames, ValidSeed, is_placeholder, is_valid, rewrite_object, valid_name,
};
use crate::segment::message::key_match::{FirstMatch, key_matches};
use serde::de::MapAccess;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The properties of a message, as its events contain them.
#[derive(Debug, Default)]
pub(super) struct Properties<'a> {
    /// A valid object, or empty.
    object: Cow<'a, str>,
    /// Number of names and values that were changed.
    pub(super) sanitized: u32,
    /// The member that a lookup of `url` finds, unless it is an object or array.
    pub(super) url: Value<'a>,
    /// The member that a lookup of `keen` finds. Events do not contain it.
    pub(super) keen: Value<'a>,
    /// The name of the `keen` member, if `object` still contains it.
    keen_name: Option<Name<'a>>,
    /// Members whose names are those of [`OwnField`]s.
    own: PerField<Value<'a>>,
    /// Bit mask of the members in `own`.
    own_mask: u32,
    /// Cached members without the overridden fields of a mask.
    remaining: Option<(u32, String)>,
}

impl<'a> Properties<'a> {
    /// Checks an object. `names` is a scratch buffer.
    pub(super) fn parse(object: &'a str, names: &mut Vec<&'a [u8]>) -> Self {
        let mut reader = Reader::new(names, true);
        if read_object(object, &mut reader).is_err() {
            // The check stops at the first invalid value. A second pass skips values and only does
            // the lookups.
            reader = Reader::new(names, false);
            let _ = read_object(object, &mut reader);
        }
        let Reader { found: mut properties, is_valid, keen_match, .. } = reader;
        if is_valid {
            properties.object = Cow::Borrowed(object);
            properties.keen_name = keen_match.into_name();
        } else {
            let rewritten = rewrite_object(object, 0, keen_match.name());
            properties.object = rewritten.json;
            properties.sanitized = rewritten.changes;
        }
        properties
    }

    /// Returns the property that has the name of `field`.
    pub(super) fn get(&self, field: OwnField) -> Value<'a> {
        self.own.get(field as usize).copied().unwrap_or_default()
    }

    /// Whether a property has the name of `field`.
    pub(super) fn has(&self, field: OwnField) -> bool {
        self.own_mask & mask(field) != 0
    }

    /// Returns the members except the `overridden` fields. They are a slice of the object if
    /// nothing has to be removed.
    pub(super) fn members(&mut self, overridden: impl Iterator<Item = OwnField>) -> &str {
        let overridden = overridden.fold(0, |all, field| all | mask(field)) & self.own_mask;
        if overridden == 0 && self.keen_name.is_none() {
            let inside = self.object.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
            return inside.unwrap_or_default().trim_ascii();
        }
        if self.remaining.as_ref().is_none_or(|(mask, _)| *mask != overridden) {
            self.remaining = Some((overridden, self.without(overridden)));
        }
        self.remaining.as_ref().map(|(_, members)| members.as_str()).unwrap_or_default()
    }

    fn without(&self, overridden: u32) -> String {
        let mut out = Vec::with_capacity(self.object.len());
        for_each_member(&self.object, &mut |name, value| {
            let is_overridden =
                OwnField::from_name(&name.0).is_some_and(|field| overridden & mask(field) != 0);
            if is_overridden || self.keen_name.as_ref() == Some(name) {
                return;
            }
            if !out.is_empty() {
                out.push(b',');
            }
            // The object is valid, so it has no lone surrogates.
            write_string(&mut out, &String::from_utf8_lossy(&name.0));
            out.push(b':');
            out.extend_from_slice(value.json().as_bytes());
        });
        String::from_utf8(out).unwrap_or_default()
    }
}

/// Returns the field that a property's name will equal once its dots have become underscores.
fn own_field_once_sanitized(name: &[u8]) -> Option<OwnField> {
    if name.len() > MAX_NAME_BYTES || !name.contains(&b'.') {
        return OwnField::from_name(name);
    }
    let sanitized: Vec<u8> =
        name.iter().map(|byte| if *byte == b'.' { b'_' } else { *byte }).collect();
    OwnField::from_name(&sanitized)
}

fn mask(field: OwnField) -> u32 {
    1_u32.checked_shl(field as u32).unwrap_or_default()
}

/// Reads the properties of a message one by one.
struct Reader<'n, 'a> {
    found: Properties<'a>,
    names: &'n mut Vec<&'a [u8]>,
    seen: SeenNames,
    /// Whether everything read so far is valid. Once false, nothing more is checked.
    is_valid: bool,
    url_match: FirstMatch<'a>,
    keen_match: FirstMatch<'a>,
}

impl<'n, 'a> Reader<'n, 'a> {
    fn new(names: &'n mut Vec<&'a [u8]>, is_valid: bool) -> Self {
        names.clear();
        Self {
            found: Properties::default(),
            names,
            seen: SeenNames::default(),
            is_valid,
            url_match: FirstMatch::default(),
            keen_match: FirstMatch::default(),
        }
    }
}

impl<'a> ReadMember<'a> for Reader<'_, 'a> {
    fn member<A: MapAccess<'a>>(&mut self, name: Name<'a>, map: &mut A) -> Result<(), A::Error> {
        let valid = if self.is_valid { valid_name(&name) } else { None };
        self.is_valid = valid.is_some_and(|name| self.seen.insert(self.names, 0, name));
        let own = match valid {
            Some(name) => OwnField::from_name(name),
            // Use the name that the event will contain.
            None => own_field_once_sanitized(&name.0),
        };
        let is_url = key_matches(&name.0, b"url");
        let is_keen = key_matches(&name.0, b"keen");
        if self.is_valid && own.is_none() && !is_url && !is_keen {
            return map.next_value_seed(ValidSeed(self.names));
        }
        let value: Value<'a> = map.next_value::<&RawValue>()?.into();
        if is_keen && self.keen_match.claim(&name) {
            // Events do not contain it.
            self.found.keen = value;
            return Ok(());
        }
        self.is_valid = self.is_valid && is_valid(value);
        if is_url && self.url_match.claim(&name) {
            self.found.url = if value.is_container() { Value::Absent } else { value };
        }
        if let Some(field) = own
            && let Some(slot) = self.found.own.get_mut(field as usize)
        {
            // Placeholders are never sent to Keen.
            let is_placeholder = matches!(value, Value::String(text) if is_placeholder(text));
            *slot = if is_placeholder { Value::Null } else { value };
            self.found.own_mask |= mask(field);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(object: &str, overridden: &[OwnField]) -> String {
        Properties::parse(object, &mut Vec::new()).members(overridden.iter().copied()).to_owned()
    }

    #[test]
    fn members_of_valid_properties_are_one_piece() {
        assert_eq!(
            members(r#"{ "a" : 1.10, "b": [ ] }"#, &[OwnField::Name]),
            r#""a" : 1.10, "b": [ ]"#
        );
        assert_eq!(members("{}", &[]), "");
    }

    #[test]
    fn members_overridden_and_keen_are_left_out() {
        let object = r#"{"name": "x", "KEEN": {"a.b": 1}, "b": [ 1], "userId": 2}"#;
        assert_eq!(members(object, &[OwnField::Name]), r#""b":[ 1],"userId":2"#);
        assert_eq!(members(object, &[]), r#""name":"x","b":[ 1],"userId":2"#);
    }

    #[test]
    fn members_sanitized_names_give_way_too() {
        let object = r#"{"page.url": "x", "\u006been": 1, "a.b": 1, "a_b": 1e400}"#;
        let mut properties = Properties::parse(object, &mut Vec::new());
        assert!(properties.has(OwnField::PageUrl));
        assert_eq!(properties.members([OwnField::PageUrl].into_iter()), r#""a_b":"1e400""#);
        assert_eq!(properties.sanitized, 3);
    }

    #[test]
    fn members_with_other_overridden_fields_are_others() {
        let object = r#"{"name":"x","keen":1,"userId":2}"#;
        let mut properties = Properties::parse(object, &mut Vec::new());
        for (overridden, want) in [
            (OwnField::Name, r#""userId":2"#),
            (OwnField::UserId, r#""name":"x""#),
            (OwnField::UserId, r#""name":"x""#),
            (OwnField::Name, r#""userId":2"#),
        ] {
            assert_eq!(properties.members([overridden].into_iter()), want);
        }
    }

    #[test]
    fn has_the_longest_field_with_a_dot() {
        let properties = Properties::parse(r#"{"segment.properties":1}"#, &mut Vec::new());
        assert!(properties.has(OwnField::SegmentProperties));
        assert!(!properties.has(OwnField::SegmentEvent));
    }
}
