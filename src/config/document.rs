//! A configuration as JSON: the text itself, or a `google.protobuf.Struct` in its wire form.

use super::error::{ConfigError, push_name};
use super::protobuf_struct;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Parses a document. A duplicate member is reported in `errors`, and the later one counts.
///
/// A Struct's wire form begins with 0x0a, which is white space in JSON, and its length byte may be
/// a digit. After any JSON error the bytes may therefore be a Struct.
pub(super) fn parse(bytes: &[u8], errors: &mut Vec<ConfigError>) -> Result<Value, ConfigError> {
    let mut duplicates = Vec::new();
    let mut pointer = String::new();
    // Up to the first byte that is not UTF-8, where the JSON error is then reported.
    let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let seed = UniqueNames { pointer: &mut pointer, duplicates: &mut duplicates };
    let parsed =
        seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match parsed {
        Ok(value) => {
            errors.append(&mut duplicates);
            Ok(value)
        }
        Err(error) => protobuf_struct::decode(bytes).ok_or_else(|| {
            let (line, column) = (error.line(), error.column());
            let rule = "must be JSON or a google.protobuf.Struct";
            ConfigError::new("", format!("{rule}, found an error in line {line}, column {column}"))
        }),
    }
}

/// Builds a [`Value`], and records duplicate names in objects. serde_json bounds its depth.
struct UniqueNames<'p> {
    /// The JSON pointer of the value.
    pointer: &'p mut String,
    duplicates: &'p mut Vec<ConfigError>,
}

impl UniqueNames<'_> {
    fn child(&mut self) -> UniqueNames<'_> {
        UniqueNames { pointer: self.pointer, duplicates: self.duplicates }
    }
}

impl<'de> DeserializeSeed<'de> for UniqueNames<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueNames<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        let end = self.pointer.len();
        loop {
            push_name(self.pointer, &array.len().to_string());
            let element = elements.next_element_seed(self.child())?;
            self.pointer.truncate(end);
            match element {
                Some(element) => array.push(element),
                None => return Ok(Value::Array(array)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let end = self.pointer.len();
        while let Some(name) = members.next_key::<String>()? {
            push_name(self.pointer, &name);
            let value = members.next_value_seed(self.child())?;
            if object.insert(name, value).is_some() {
                self.duplicates.push(ConfigError::new(self.pointer, "appears twice"));
            }
            self.pointer.truncate(end);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Maximum depth that serde_json reads.
    const MAX_DEPTH: usize = 127;

    fn parsed(text: &str) -> (Value, Vec<String>) {
        let mut errors = Vec::new();
        let value = parse(text.as_bytes(), &mut errors).unwrap();
        (value, errors.iter().map(ToString::to_string).collect())
    }

    fn error(text: &str) -> String {
        parse(text.as_bytes(), &mut Vec::new()).unwrap_err().to_string()
    }

    #[test]
    fn document_equals_what_serde_json_reads() {
        for text in [
            r#"{"a":[1,-2.5e3,{"b":null}],"c":"\"\\\nü","d":{},"e":[],"f":true,"g":false}"#,
            "\"x\"",
            "0.10",
        ] {
            assert_eq!(parsed(text), (serde_json::from_str(text).unwrap(), Vec::new()));
        }
    }

    #[test]
    fn duplicate_names_are_all_noted() {
        let (value, errors) = parsed(r#"{"a": [0, {"b": 1, "\u0062": 2}], "c": 1, "c": 2}"#);
        assert_eq!(value, serde_json::json!({"a": [0, {"b": 2}], "c": 2}));
        assert_eq!(errors, ["/a/1/b: appears twice", "/c: appears twice"]);
    }

    #[test]
    fn malformed_json_has_a_position() {
        assert!(error("{\"a\": tru}").ends_with("found an error in line 1, column 10"));
        assert!(error("[1] 2").ends_with("found an error in line 1, column 5"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(parsed(&nested(MAX_DEPTH)).1, Vec::<String>::new());
        error(&nested(MAX_DEPTH + 1));
        error(&"[".repeat(1_000_000));
    }
}
