//! Makes values acceptable to Keen. Valid values keep their text; others are rewritten.
//!
//! In a name each dot becomes an underscore, and characters after the 256th are cut. Of equal names
//! in one object the last one wins. A string is cut to fewer than 10,000 characters. A number that
//! Keen cannot store becomes a string. Keen's placeholders become `null`. [`is_valid`] checks a
//! value in one pass; [`sanitize`] rewrites it only if it is invalid.
//!
//! ```
//! use keen_edge::json::read_value;
//! use keen_edge::keen::sanitize::sanitize;
//!
//! let value = read_value(r#"{"a.b": 1, "a_b": 2}"#).unwrap();
//! assert_eq!(sanitize(value, 1).json, r#"{"a_b":2}"#);
//! ```

use super::names;
use crate::json::{self, RawStr, Value};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

/// A string must be shorter than this many characters.
const STRING_LIMIT: usize = 10_000;
/// Maximum nesting depth of containers in an event. A deeper container becomes a string with its
/// JSON text.
pub const MAX_DEPTH: usize = 512;
/// Levels of containers that are read by recursion. Deeper levels are read from their text by a new
/// deserializer, because serde_json stops at 127 levels.
const LEVELS_PER_ROUND: usize = 125;
/// Maximum number of an object's names that are compared pairwise. The hashes of more names go into
/// a tree.
const MAX_PAIRWISE_NAMES: usize = 16;

/// A value that Keen accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sanitized<'a> {
    /// The value as JSON.
    pub json: Cow<'a, str>,
    /// Number of names and values that were changed.
    pub changes: u32,
}

/// Whether Keen accepts the value unchanged.
#[must_use]
pub fn is_valid(value: Value<'_>) -> bool {
    match value {
        Value::String(text) => is_valid_string(text),
        Value::Number(digits) => is_valid_number(digits),
        Value::Array(text) | Value::Object(text) => is_valid_container(text),
        Value::Absent | Value::Null | Value::Bool(_) => true,
    }
}

/// Returns the value as Keen accepts it. `depth`: the number of containers around it in its event.
#[must_use]
pub fn sanitize(value: Value<'_>, depth: usize) -> Sanitized<'_> {
    if is_valid(value) {
        return Sanitized { json: Cow::Borrowed(value.json()), changes: 0 };
    }
    rewrite(value, depth, None)
}

/// Rewrites an invalid object as Keen accepts it, without members named `left_out`.
#[must_use]
pub fn rewrite_object<'a>(object: &'a str, depth: usize, left_out: Option<&[u8]>) -> Sanitized<'a> {
    rewrite(Value::Object(object), depth, left_out)
}

/// Whether a string is one of Keen's placeholders, which it replaces by its client's address or
/// user agent (keen.io/docs/streams, "IP to geo" and "User agent"). Here Keen's client is the
/// proxy.
#[must_use]
#[inline]
pub fn is_placeholder(text: RawStr<'_>) -> bool {
    const MAX_BYTES: usize = 128; // every character as a \u escape
    let raw = text.raw();
    let possible = matches!(raw.as_bytes().first(), Some(b'$' | b'\\')) && raw.len() <= MAX_BYTES;
    possible && is_placeholder_text(&text.decode())
}

/// [`is_placeholder`] for decoded text.
#[must_use]
pub fn is_placeholder_text(text: &str) -> bool {
    matches!(text, "${keen.ip}" | "${keen.user_agent}")
}

/// Whether a string is short enough, is not a placeholder, and has no escaped surrogate (`\ud…`). A
/// valid surrogate pair counts as invalid too, and is rewritten as its character.
#[inline]
fn is_valid_string(text: RawStr<'_>) -> bool {
    let raw = text.raw();
    if raw.len() >= STRING_LIMIT {
        return false;
    }
    let is_surrogate = |escape: &[u8]| matches!(escape, b"\\ud" | b"\\uD");
    let surrogate = raw.as_bytes().contains(&b'\\') && raw.as_bytes().windows(3).any(is_surrogate);
    !surrogate && !is_placeholder(text)
}

/// Whether Keen can store the number: -2^63 to 2^63 - 1.
fn is_valid_number(digits: &str) -> bool {
    /// 2^63. A double at either bound may be the rounded form of a number beyond it.
    const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
    let is_integer = !digits.bytes().any(|b| matches!(b, b'.' | b'e' | b'E'));
    match (is_integer, digits.len()) {
        (true, ..=18) => true,
        (true, _) => digits.parse::<i64>().is_ok(),
        (false, _) => json::parse_f64(digits).is_some_and(|number| number.abs() < TWO_POW_63),
    }
}

fn is_valid_container(text: &str) -> bool {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    ValidSeed(&mut Vec::new()).deserialize(&mut deserializer).is_ok()
}

/// Returns a hash that replaces a name if many names are compared. It is SipHash, for which many
/// names with one hash are hard to find. The hashes are kept in ordered containers, so similar
/// hashes cost nothing extra.
fn name_hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish()
}

/// Detects the first name that may be a duplicate in one object.
#[derive(Debug, Default)]
pub struct SeenNames {
    many: BTreeSet<u64>,
}

impl SeenNames {
    /// Adds a name. `few` is the name stack; the object's names begin at `start`. Returns false if
    /// the name may be a duplicate.
    #[inline]
    pub fn insert<'de>(&mut self, few: &mut Vec<&'de [u8]>, start: usize, name: &'de [u8]) -> bool {
        let seen = few.get(start..).unwrap_or_default();
        if seen.len() < MAX_PAIRWISE_NAMES {
            let new = !seen.contains(&name);
            few.push(name);
            return new;
        }
        if self.many.is_empty() {
            self.many.extend(seen.iter().map(|name| name_hash(name)));
        }
        self.many.insert(name_hash(name))
    }
}

/// Checks the next value; an error means that it is invalid. The stack contains the names of the
/// open objects.
#[derive(Debug)]
pub struct ValidSeed<'s, 'de>(pub &'s mut Vec<&'de [u8]>);

impl<'de> DeserializeSeed<'de> for ValidSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Returns a member's name if Keen accepts it. A name with escapes counts as invalid.
#[must_use]
pub fn valid_name<'de>(name: &json::Name<'de>) -> Option<&'de [u8]> {
    match name.0 {
        Cow::Borrowed(name)
            if !name.is_empty() && name.len() <= names::MAX_PROPERTY && !name.contains(&b'.') =>
        {
            Some(name)
        }
        _ => None,
    }
}

fn require<E: de::Error>(valid: bool) -> Result<(), E> {
    if valid { Ok(()) } else { Err(E::custom("not valid in Keen")) }
}

impl<'de> Visitor<'de> for ValidSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that Keen accepts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let start = self.0.len();
        let mut seen = SeenNames::default();
        while let Some(name) = map.next_key()? {
            let valid = valid_name(&name).is_some_and(|name| seen.insert(self.0, start, name));
            require(valid)?;
            map.next_value_seed(ValidSeed(self.0))?;
        }
        self.0.truncate(start);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(ValidSeed(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        require(i64::try_from(number).is_ok())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        // 2^62. Near 2^63 the digits are checked instead of the nearest double.
        require(number.abs() < 4_611_686_018_427_387_904.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        require(text.len() < STRING_LIMIT && !(text.starts_with('$') && is_placeholder_text(text)))
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

fn rewrite<'a>(value: Value<'a>, depth: usize, left_out: Option<&[u8]>) -> Sanitized<'a> {
    let mut sanitizer = Sanitizer { left_out, ..Sanitizer::default() };
    // serde_json has already checked the text, so this cannot fail.
    let written = sanitizer.value(value, depth).is_ok();
    sanitizer.remove_overwritten();
    let json =
        if written { String::from_utf8(sanitizer.out).unwrap_or_default() } else { String::new() };
    let json = if json.is_empty() { Cow::Borrowed("null") } else { Cow::Owned(json) };
    Sanitized { json, changes: sanitizer.changes }
}

/// Writes values in a form that Keen accepts.
#[derive(Debug, Default)]
struct Sanitizer<'l> {
    out: Vec<u8>,
    /// Members of the open objects.
    members: Vec<WrittenMember>,
    /// Ranges of `out` that later members of the same name overwrite. They are removed in one pass
    /// at the end, whatever their nesting.
    overwritten: Vec<Range<usize>>,
    /// Name of the members of the outermost object that are not written.
    left_out: Option<&'l [u8]>,
    changes: u32,
}

/// The position of a member in `Sanitizer::out`: its start, and the end of its name.
#[derive(Debug, Clone, Copy)]
struct WrittenMember {
    start: usize,
    name_end: usize,
}

/// A text and the offset read so far. It is needed because serde_json does not tell the type of the
/// next value: scalars are read as raw text, containers member by member.
struct Position<'t> {
    text: &'t str,
    offset: usize,
}

impl Position<'_> {
    /// Returns the first byte of the next name, value or closing bracket.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.offset..)?;
        let skipped =
            rest.iter().position(|b| !matches!(b, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':'))?;
        self.offset = self.offset.saturating_add(skipped);
        rest.get(skipped).copied()
    }

    fn advance(&mut self, bytes: usize) {
        self.offset = self.offset.saturating_add(bytes);
    }
}

impl<'l> Sanitizer<'l> {
    /// Writes a value. `depth`: the number of containers around it.
    fn value(&mut self, value: Value<'_>, depth: usize) -> serde_json::Result<()> {
        match value {
            Value::Array(text) | Value::Object(text) if depth < MAX_DEPTH => {
                let mut deserializer = serde_json::Deserializer::from_str(text);
                let position = &mut Position { text, offset: 0 };
                let seed =
                    ContainerSeed { sanitizer: self, position, depth, levels: LEVELS_PER_ROUND };
                seed.deserialize(&mut deserializer)
            }
            Value::Array(text) | Value::Object(text) => {
                self.changes = self.changes.saturating_add(1);
                self.string(text);
                Ok(())
            }
            Value::String(text) => {
                if is_valid_string(text) {
                    self.out.extend_from_slice(text.quoted().as_bytes());
                } else if is_placeholder(text) {
                    self.changes = self.changes.saturating_add(1);
                    self.out.extend_from_slice(b"null");
                } else {
                    let (text, lossy) = text.decode_noting_loss();
                    self.changes = self.changes.saturating_add(u32::from(lossy));
                    self.string(&text);
                }
                Ok(())
            }
            Value::Number(digits) if !is_valid_number(digits) => {
                self.changes = self.changes.saturating_add(1);
                self.string(digits);
                Ok(())
            }
            scalar => {
                self.out.extend_from_slice(scalar.json().as_bytes());
                Ok(())
            }
        }
    }

    /// Writes a string, cut to the length limit.
    fn string(&mut self, text: &str) {
        let limit = STRING_LIMIT.saturating_sub(1);
        let cut = if text.len() <= limit { None } else { text.char_indices().nth(limit) };
        self.changes = self.changes.saturating_add(u32::from(cut.is_some()));
        let text = cut.and_then(|(end, _)| text.get(..end)).unwrap_or(text);
        json::write_string(&mut self.out, text);
    }

    /// Writes a member's name.
    fn name(&mut self, raw: RawStr<'_>, name: &str) {
        let start = self.out.len();
        let is_short = !name.is_empty() && name.len() <= names::MAX_PROPERTY;
        if is_short && raw.raw().len() == name.len() {
            // Without escapes, only dots may have to change.
            let has_dots = name.contains('.');
            self.changes = self.changes.saturating_add(u32::from(has_dots));
            let underscored = |byte| if byte == b'.' { b'_' } else { byte };
            self.out.extend(raw.quoted().bytes().map(underscored));
        } else {
            let valid = names::property_name(name);
            self.changes = self.changes.saturating_add(u32::from(valid != name));
            json::write_string(&mut self.out, &valid);
        }
        self.members.push(WrittenMember { start, name_end: self.out.len() });
        self.out.push(b':');
    }

    /// Ends an object whose members begin at index `first`. Of equal names only the last one stays.
    fn end_object(&mut self, first: usize) {
        let members = self.members.get(first..).unwrap_or_default();
        if members.len() > 1 {
            let mut by_name = BTreeMap::new();
            for (index, member) in members.iter().enumerate() {
                let name = self.out.get(member.start..member.name_end).unwrap_or_default();
                // The range includes the comma after the member.
                if let Some(earlier) = by_name.insert(name_hash(name), index)
                    && let (Some(from), Some(to)) =
                        (members.get(earlier), members.get(earlier.saturating_add(1)))
                    && self.out.get(from.start..from.name_end) == Some(name)
                {
                    self.overwritten.push(from.start..to.start);
                }
            }
        }
        self.members.truncate(first);
    }

    /// Removes the overwritten members.
    fn remove_overwritten(&mut self) {
        let mut ranges = std::mem::take(&mut self.overwritten);
        if ranges.is_empty() {
            return;
        }
        let starts = ranges.drain(..).map(|range| (range.start, range.end));
        // A heap sorts with less code in the module than the standard library's sort.
        let ranges = BinaryHeap::from_iter(starts).into_sorted_vec();
        let mut kept = Vec::with_capacity(self.out.len());
        let mut offset = 0_usize;
        for (start, end) in ranges {
            // A range inside an already removed one adds nothing.
            kept.extend_from_slice(self.out.get(offset..start).unwrap_or_default());
            offset = offset.max(end);
        }
        kept.extend_from_slice(self.out.get(offset..).unwrap_or_default());
        self.out = kept;
    }
}

/// Writes the next container.
struct ContainerSeed<'s, 'l, 't> {
    sanitizer: &'s mut Sanitizer<'l>,
    position: &'s mut Position<'t>,
    depth: usize,
    /// Levels that this deserializer may still read.
    levels: usize,
}

impl<'l, 't> ContainerSeed<'_, 'l, 't> {
    /// Returns a seed for the next child if it is a container. `None`: the child is a scalar, or
    /// too deep for this deserializer.
    fn child(&mut self) -> Option<ContainerSeed<'_, 'l, 't>> {
        let next = self.position.peek();
        let depth = self.depth.saturating_add(1);
        let levels = self.levels.checked_sub(1).filter(|levels| *levels > 0)?;
        let is_container = matches!(next, Some(b'{' | b'[')) && depth < MAX_DEPTH;
        is_container.then_some(ContainerSeed {
            sanitizer: &mut *self.sanitizer,
            position: &mut *self.position,
            depth,
            levels,
        })
    }

    /// Writes a child from its raw text.
    fn raw_child<E: de::Error>(&mut self, raw: &RawValue) -> Result<(), E> {
        self.position.advance(raw.get().len());
        let depth = self.depth.saturating_add(1);
        self.sanitizer.value(raw.into(), depth).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for ContainerSeed<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContainerSeed<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.position.peek();
        self.position.advance(1);
        self.sanitizer.out.push(b'{');
        let first = self.sanitizer.members.len();
        let left_out = self.sanitizer.left_out.take();
        while let Some(raw) = map.next_key::<&RawValue>()? {
            self.position.peek();
            self.position.advance(raw.get().len());
            let Value::String(raw) = raw.into() else { continue };
            let name = raw.decode();
            if left_out == Some(name.as_bytes()) {
                self.position.peek();
                let value = map.next_value::<&RawValue>()?;
                self.position.advance(value.get().len());
                continue;
            }
            if self.sanitizer.members.len() > first {
                self.sanitizer.out.push(b',');
            }
            self.sanitizer.name(raw, &name);
            match self.child() {
                Some(child) => map.next_value_seed(child)?,
                None => {
                    let raw = map.next_value()?;
                    self.raw_child(raw)?;
                }
            }
        }
        self.position.peek();
        self.position.advance(1);
        self.sanitizer.end_object(first);
        self.sanitizer.out.push(b'}');
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.position.peek();
        self.position.advance(1);
        self.sanitizer.left_out = None;
        self.sanitizer.out.push(b'[');
        let mut first = true;
        // Peek before each child: the closing bracket must not be passed to a child's seed.
        while !matches!(self.position.peek(), None | Some(b']')) {
            if !std::mem::take(&mut first) {
                self.sanitizer.out.push(b',');
            }
            let more = match self.child() {
                Some(child) => seq.next_element_seed(child)?.is_some(),
                None => match seq.next_element()? {
                    Some(raw) => {
                        self.raw_child(raw)?;
                        true
                    }
                    None => false,
                },
            };
            if !more {
                break;
            }
        }
        let _ = seq.next_element::<de::IgnoredAny>()?;
        self.position.advance(1);
        self.sanitizer.out.push(b']');
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::json::read_value;

    fn sanitized(text: &str) -> String {
        sanitize(read_value(text).unwrap(), 0).json.into_owned()
    }

    #[test]
    fn sanitize_valid_text_is_not_touched() {
        for text in [
            r#"{"a":1,"b":[true, null,{"c":"\u00e9\n"}],"$d":-0.5e3}"#,
            "[]",
            "9223372036854775807",
            "0.10",
            r#""\u00e9\n""#,
            r#"[ "$x", "${keen.ip} " ]"#,
        ] {
            assert_eq!(sanitized(text), text);
        }
        assert_eq!(sanitized(r#""\ud83d\ude00""#), "\"😀\"");
    }

    #[test]
    fn sanitize_dots_and_equal_names_later_wins() {
        assert_eq!(
            sanitized(r#"{"a.b.c":1,"x":{"p.q":2,"p_q":3}}"#),
            r#"{"a_b_c":1,"x":{"p_q":3}}"#
        );
        let many: Vec<String> = (0..40).map(|i| format!("\"k{}\":{i}", i % 30)).collect();
        let got: serde_json::Value =
            serde_json::from_str(&sanitized(&format!("{{{}}}", many.join(",")))).unwrap();
        assert_eq!(got.as_object().unwrap().len(), 30);
        assert_eq!(got.get("k5").unwrap(), 35);
        assert_eq!(got.get("k15").unwrap(), 15);
    }

    #[test]
    fn sanitize_equal_names_inside_each_other_all_go() {
        assert_eq!(
            sanitized(r#"{"a":{"b":1,"b":2},"c":{"d":3,"d":4,"e":{"f":5,"f":6}},"a":7}"#),
            r#"{"c":{"d":4,"e":{"f":6}},"a":7}"#
        );
        let (twice, once) =
            (r#"{"a":[1,{"x":1}],"b":2,"a":"#.repeat(400), r#"{"b":2,"a":"#.repeat(400));
        let close = "}".repeat(400);
        assert_eq!(sanitized(&format!("{twice}0{close}")), format!("{once}0{close}"));
    }

    #[test]
    fn sanitize_values_keen_cannot_hold_become_ones_it_can() {
        assert_eq!(
            sanitized("[9223372036854775808,1e400,-9223372036854775809, 1.10]"),
            r#"["9223372036854775808","1e400","-9223372036854775809",1.10]"#
        );
        assert_eq!(sanitized(r#""\ud800x""#), "\"\u{fffd}x\"");
        assert_eq!(sanitized(&format!("\"{}\"", "é".repeat(10_000))).chars().count(), 10_001);
        assert_eq!(sanitized(r#"["${keen.ip}","$\u007bkeen.user_agent}"]"#), "[null,null]");
        let deep = sanitized(&format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)));
        assert!(deep.contains('"'));
    }

    #[test]
    fn sanitize_placeholder_escaped_to_the_last_character_is_null() {
        for placeholder in ["${keen.ip}", "${keen.user_agent}"] {
            let escaped: String = placeholder.bytes().map(|b| format!("\\u{b:04x}")).collect();
            assert_eq!(sanitized(&format!("\"{escaped}\"")), "null");
            assert_eq!(sanitized(&format!("[\"{escaped}\"]")), "[null]");
        }
    }

    #[test]
    fn sanitize_containers_deeper_than_a_round_keep_their_white_space_out_and_values_in() {
        for levels in [99, 100, 101, 127, 128, 129, 200, 300, 511] {
            let text = format!(
                "{}[1e400, {{}}, [ ]]{}",
                "{\"o\": [ ".repeat(levels / 2),
                "]}".repeat(levels / 2)
            );
            let want = format!(
                "{}[\"1e400\",{{}},[]]{}",
                "{\"o\":[".repeat(levels / 2),
                "]}".repeat(levels / 2)
            );
            assert_eq!(sanitized(&text), want, "{levels}");
        }
    }

    #[test]
    fn sanitize_number_at_the_bound_becomes_a_string() {
        for (number, is_valid) in [
            ("9223372036854774784.0", true),
            ("9223372036854775808.0", false),
            ("-9223372036854775808", true),
            ("-9223372036854775808.0", false),
            ("-1e19", false),
        ] {
            let want = if is_valid { number.to_owned() } else { format!("\"{number}\"") };
            assert_eq!(sanitized(number), want);
            assert_eq!(sanitized(&format!("[{number}]")), format!("[{want}]"));
        }
    }

    #[test]
    fn sanitize_string_at_the_limit_is_cut() {
        for (bytes, want) in [(9_999, 9_999), (10_000, 9_999)] {
            let (text, want) = (format!("\"{}\"", "x".repeat(bytes)), "x".repeat(want));
            assert_eq!(sanitized(&text), format!("\"{want}\""));
            assert_eq!(sanitized(&format!("[{text}]")), format!("[\"{want}\"]"));
        }
    }

    #[test]
    fn sanitize_container_at_the_depth_limit_is_a_string() {
        for (text, depth, want) in [
            ("[1e400]", MAX_DEPTH - 1, r#"["1e400"]"#),
            ("[1e400]", MAX_DEPTH, r#""[1e400]""#),
            ("[[1e400]]", MAX_DEPTH - 2, r#"[["1e400"]]"#),
            ("[[1e400]]", MAX_DEPTH - 1, r#"["[1e400]"]"#),
            (r#"{"a":[1e400]}"#, MAX_DEPTH - 1, r#"{"a":"[1e400]"}"#),
        ] {
            assert_eq!(sanitize(read_value(text).unwrap(), depth).json, want, "{text} {depth}");
        }
    }

    #[test]
    fn sanitize_counts_the_names_and_values_that_it_changes() {
        let (long, longer) = ("n".repeat(256), "n".repeat(257));
        for (name, want, changes) in [
            ("a", "a", 0),
            (r"\u0061", "a", 0),
            ("a.b", "a_b", 1),
            (r"\u0061.b", "a_b", 1),
            ("", "_", 1),
            (long.as_str(), long.as_str(), 0),
            (longer.as_str(), long.as_str(), 1),
        ] {
            // The value makes the object invalid, and is one more change.
            let object = format!("{{\"{name}\":1e400}}");
            let got = sanitize(read_value(&object).unwrap(), 0);
            assert_eq!(got.json, format!("{{\"{want}\":\"1e400\"}}"));
            assert_eq!(got.changes, 1 + changes, "{name}");
        }
    }
}
