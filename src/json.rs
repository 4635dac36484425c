//! Helpers on top of serde_json: borrowed values, member names as bytes, and string output.
//!
//! A [`Value`] is the type of a JSON value and its text. Numbers keep every digit, and strings are
//! decoded only when needed. serde_json does all the parsing.
//!
//! ```
//! use keen_edge::json::{Value, read_value};
//!
//! let Some(Value::Number(digits)) = read_value("0.10") else { panic!() };
//! assert_eq!(digits, "0.10");
//! let Some(Value::String(text)) = read_value(r#""caf\u00e9""#) else { panic!() };
//! assert_eq!(text.decode(), "café");
//! ```

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A JSON string as written, quotes included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawStr<'a> {
    quoted: &'a str,
}

impl<'a> RawStr<'a> {
    /// Returns the text between the quotes, with its escapes.
    #[must_use]
    #[inline]
    pub fn raw(&self) -> &'a str {
        let end = self.quoted.len().wrapping_sub(1);
        self.quoted.get(1..end).unwrap_or_default()
    }

    /// Returns the text with its quotes.
    #[must_use]
    #[inline]
    pub fn quoted(&self) -> &'a str {
        self.quoted
    }

    /// Whether the text contains escapes.
    #[must_use]
    #[inline]
    pub fn has_escapes(&self) -> bool {
        self.quoted.as_bytes().contains(&b'\\')
    }

    /// Decodes the string. A lone surrogate becomes U+FFFD.
    #[must_use]
    pub fn decode(&self) -> Cow<'a, str> {
        self.decode_noting_loss().0
    }

    /// Decodes the string. Also returns whether a lone surrogate became U+FFFD.
    #[must_use]
    pub fn decode_noting_loss(&self) -> (Cow<'a, str>, bool) {
        if !self.has_escapes() {
            return (Cow::Borrowed(self.raw()), false);
        }
        // serde_json rejects a lone surrogate in a `str`, but decodes it to three bytes in a byte
        // string.
        let mut deserializer = serde_json::Deserializer::from_str(self.quoted);
        let bytes = Name::deserialize(&mut deserializer).map(|name| name.0.into_owned());
        match String::from_utf8(bytes.unwrap_or_default()) {
            Ok(text) => (Cow::Owned(text), false),
            Err(error) => (Cow::Owned(replace_surrogates(error.as_bytes())), true),
        }
    }

    /// Whether the decoded string equals `other`.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        self.raw() == other || (self.has_escapes() && self.decode() == other)
    }
}

/// Converts bytes to text. Each lone surrogate, which has three bytes, becomes one U+FFFD.
#[must_use]
pub fn replace_surrogates(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        // Only the first of the three bytes adds a character. The other two are chunks of their
        // own.
        if chunk.invalid().first() == Some(&0xed) {
            text.push('\u{fffd}');
        }
    }
    text
}

/// A JSON value. A container is its text, brackets included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Value<'a> {
    /// There is no value.
    #[default]
    Absent,
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The digits of a number.
    Number(&'a str),
    /// A string.
    String(RawStr<'a>),
    /// The text of an array.
    Array(&'a str),
    /// The text of an object.
    Object(&'a str),
}

impl<'a> From<&'a RawValue> for Value<'a> {
    fn from(raw: &'a RawValue) -> Self {
        Self::from_checked(raw.get())
    }
}

impl<'a> Value<'a> {
    /// Creates a value from text that serde_json has checked.
    #[inline]
    fn from_checked(text: &'a str) -> Self {
        match text.as_bytes().first() {
            Some(b'{') => Self::Object(text),
            Some(b'[') => Self::Array(text),
            Some(b'"') => Self::String(RawStr { quoted: text }),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') => Self::Null,
            _ => Self::Number(text),
        }
    }

    /// Whether the value is truthy in JavaScript, the language of Segment's integrations.
    #[must_use]
    #[inline]
    pub fn truthy(&self) -> bool {
        match self {
            Self::Absent | Self::Null => false,
            Self::Bool(b) => *b,
            Self::Number(digits) => digits
                .bytes()
                .take_while(|b| !matches!(b, b'e' | b'E'))
                .any(|b| matches!(b, b'1'..=b'9')),
            Self::String(text) => !text.raw().is_empty(),
            Self::Array(_) | Self::Object(_) => true,
        }
    }

    /// Whether the value is neither absent nor `null`. Clients send `null` for unknown values.
    #[must_use]
    pub fn is_present(&self) -> bool {
        !matches!(self, Self::Absent | Self::Null)
    }

    /// Whether the value is an object or an array.
    #[must_use]
    pub fn is_container(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Object(_))
    }

    /// Returns the string if its text has at most `max_bytes` bytes.
    #[must_use]
    pub fn short_str(&self, max_bytes: usize) -> Option<Cow<'a, str>> {
        match self {
            Self::String(text) if text.quoted.len() <= max_bytes.saturating_add(2) => {
                Some(text.decode())
            }
            _ => None,
        }
    }

    /// Returns a truthy string or number as text.
    #[must_use]
    pub fn scalar_text(&self) -> Option<Cow<'a, str>> {
        match self {
            _ if !self.truthy() => None,
            Self::String(text) => Some(text.decode()),
            Self::Number(digits) => Some(Cow::Borrowed(digits)),
            _ => None,
        }
    }

    /// Returns the JSON text. `null` if the value is absent.
    #[must_use]
    pub fn json(&self) -> &'a str {
        match self {
            Self::Absent | Self::Null => "null",
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::String(text) => text.quoted,
            Self::Number(text) | Self::Array(text) | Self::Object(text) => text,
        }
    }

    /// Returns `self`, or `other` if `self` is absent.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if matches!(self, Self::Absent) { other } else { self }
    }
}

/// Parses the digits of a JSON number. serde_json's conversion may differ from the nearest double
/// in the last bit, but adds nothing to the module. The standard library's tables would add 14 KB.
#[must_use]
pub fn parse_f64(digits: &str) -> Option<f64> {
    serde_json::from_str(digits).ok()
}

/// Parses a text that is one JSON value. `None`: it is not JSON.
#[must_use]
pub fn read_value(text: &str) -> Option<Value<'_>> {
    serde_json::from_str::<&RawValue>(text).ok().map(Value::from)
}

/// The decoded name of a member. It is bytes, because serde_json accepts lone surrogates in byte
/// strings only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name<'a>(pub Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(bytes.to_vec())))
            }
        }
        deserializer.deserialize_bytes(NameVisitor)
    }
}

/// Reads the members of an object one by one.
pub trait ReadMember<'de> {
    /// Reads the member `name`. Its value is the next one of `map` and must be consumed.
    ///
    /// # Errors
    /// The value is not JSON, or does not have the required type.
    fn member<A: MapAccess<'de>>(&mut self, name: Name<'de>, map: &mut A) -> Result<(), A::Error>;
}

/// Reads the next value if it is an object, otherwise skips it. Returns whether it was an object.
#[derive(Debug)]
pub struct ObjectSeed<'r, R>(pub &'r mut R);

impl<'de, R: ReadMember<'de>> DeserializeSeed<'de> for ObjectSeed<'_, R> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R: ReadMember<'de>> Visitor<'de> for ObjectSeed<'_, R> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while let Some(name) = map.next_key()? {
            self.0.member(name, &mut map)?;
        }
        Ok(true)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        while seq.next_element::<de::IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
}

/// Reads the members of an object.
///
/// # Errors
/// The text is not a JSON object, or `reader` failed.
pub fn read_object<'de>(
    text: &'de str,
    reader: &mut impl ReadMember<'de>,
) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    (&mut deserializer).deserialize_map(ObjectSeed(reader))?;
    deserializer.end()
}

/// Calls `member` for each member of an object, and never for any other value.
// Not generic: one copy of the code serves all callers.
pub fn for_each_member<'a>(object: &'a str, member: &mut dyn FnMut(&Name<'a>, Value<'a>)) {
    struct Each<'f, 'a>(&'f mut dyn FnMut(&Name<'a>, Value<'a>));
    impl<'a> ReadMember<'a> for Each<'_, 'a> {
        fn member<A: MapAccess<'a>>(
            &mut self,
            name: Name<'a>,
            map: &mut A,
        ) -> Result<(), A::Error> {
            let value = map.next_value::<&RawValue>()?;
            (self.0)(&name, value.into());
            Ok(())
        }
    }
    // The text has been checked: it fails only if it is not an object.
    let _ = read_object(object, &mut Each(member));
}

/// Calls `element` for each element of an array, and never for any other value.
pub fn for_each_element<'a>(array: &'a str, element: &mut dyn FnMut(Value<'a>)) {
    struct Each<'f, 'a>(&'f mut dyn FnMut(Value<'a>));
    impl<'a> Visitor<'a> for Each<'_, 'a> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: de::SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
            while let Some(raw) = seq.next_element::<&RawValue>()? {
                (self.0)(raw.into());
            }
            Ok(())
        }
    }
    // The text has been checked: it fails only if it is not an array.
    let _ = serde_json::Deserializer::from_str(array).deserialize_seq(Each(element));
}

/// Returns the last member of an object with exactly this name.
#[must_use]
pub fn member<'a>(object: &'a str, name: &str) -> Value<'a> {
    let mut found = Value::Absent;
    for_each_member(object, &mut |member, value| {
        if *member.0 == *name.as_bytes() {
            found = value;
        }
    });
    found
}

/// Writes `text` as a JSON string, quotes included.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Returns `text` as a JSON string, quotes included.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn decode_lone_surrogates_become_replacement_characters() {
        for (json, text, lost) in [
            (r#""a""#, "a", false),
            (r#""\u00e9\n""#, "é\n", false),
            (r#""\ud83d\ude00""#, "😀", false),
            (r#""\ud83dx""#, "\u{fffd}x", true),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}", true),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀", true),
            (r#""\ufffd""#, "\u{fffd}", false),
        ] {
            let Some(Value::String(found)) = read_value(json) else { panic!("{json}") };
            assert_eq!(found.decode_noting_loss(), (Cow::Borrowed(text), lost), "{json}");
        }
    }

    #[test]
    fn truthy_values_are_javascripts() {
        for (json, truthy) in [
            ("0", false),
            ("-0.0e9", false),
            ("0.1", true),
            ("\"\"", false),
            ("[]", true),
            ("null", false),
        ] {
            assert_eq!(read_value(json).unwrap().truthy(), truthy, "{json}");
        }
    }

    #[test]
    fn member_of_equal_names_is_the_last() {
        assert_eq!(member(r#"{"a":1,"b":{"a":3},"\u0061":2}"#, "a"), Value::Number("2"));
        assert_eq!(member("[1]", "a"), Value::Absent);
    }
}
