//! Messages in the URL of an image
//! (segment.com/docs/connections/sources/catalog/libraries/server/pixel-tracking-api).
//!
//! ```
//! use keen_edge::segment::http::pixel;
//!
//! let message = pixel::message(b"event=Opened&properties.subject=Hello");
//! assert_eq!(message, br#"{"event":"Opened","properties":{"subject":"Hello"}}"#);
//! ```

use super::write_key::decode_base64;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// A transparent image of one pixel.
pub const TRANSPARENT_GIF: &[u8] = &[
    0x47, 0x49, 0x46, 0x38, 0x39, 0x61, 0x01, 0x00, 0x01, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xff, 0xff, 0xff, 0x21, 0xf9, 0x04, 0x01, 0x00, 0x00, 0x00, 0x00, 0x2c, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x00, 0x01, 0x00, 0x00, 0x02, 0x01, 0x44, 0x00, 0x3b,
];

/// Headers of the image. Each display is a separate message, so caches must not store it.
pub const HEADERS: [(&str, &str); 2] = [
    ("content-type", "image/gif"),
    ("cache-control", "no-cache, no-store, must-revalidate, private"),
];

/// Maximum number of levels of a dotted name that become objects. The rest of a deeper name stays
/// one name.
const MAX_DEPTH: usize = 8;

/// Returns the message in a query, as the JSON that a POST would contain.
///
/// The parameter `data` contains it as JSON or base64: either alphabet, padded or not, with or
/// without line breaks. Without `data` each parameter is a field, and a dot in its name a level. A
/// message that cannot be parsed is empty. Bytes that are not UTF-8 become U+FFFD.
#[must_use]
pub fn message(query: &[u8]) -> Vec<u8> {
    let mut message = Map::new();
    for (name, value) in form_urlencoded::parse(query) {
        if name == "data" {
            return decode_data_param(value);
        }
        insert_path(&mut message, &name, &value);
    }
    serde_json::to_vec(&message).unwrap_or_default()
}

fn decode_data_param(value: Cow<'_, str>) -> Vec<u8> {
    let is_blank = |c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}';
    let text = value.trim_matches(is_blank);
    if text.starts_with('{') {
        return text.as_bytes().to_vec();
    }
    // A query's `+` arrives as a space, but a space can also be where a line was wrapped.
    let mut first = None;
    for space in [Some(b'+'), None] {
        // `-` and `_` are the URL-safe alphabet's `+` and `/`.
        let standard = text.bytes().filter_map(|byte| match byte {
            b'-' => Some(b'+'),
            b' ' => space,
            b'_' => Some(b'/'),
            other => Some(other).filter(|byte| !byte.is_ascii_control()),
        });
        let message = decode_base64(&standard.collect::<Vec<u8>>()).unwrap_or_default();
        if message.trim_ascii_end().ends_with(b"}") {
            return message;
        }
        first.get_or_insert(message);
    }
    first.unwrap_or_default()
}

fn insert_path(message: &mut Map<String, Value>, name: &str, value: &str) {
    let mut path: Vec<&str> = name.splitn(MAX_DEPTH, '.').collect();
    let Some(last) = path.pop() else { return };
    let mut object = message;
    for name in &path {
        if !object.get(*name).is_some_and(Value::is_object) {
            object.insert((*name).to_owned(), Value::Object(Map::new()));
        }
        let Some(Value::Object(inner)) = object.get_mut(*name) else { return };
        object = inner;
    }
    // A query only has strings, but `integrations` needs booleans.
    let value = match (path.first(), value) {
        (Some(&"integrations"), "true") => Value::Bool(true),
        (Some(&"integrations"), "false") => Value::Bool(false),
        _ => Value::String(value.to_owned()),
    };
    object.insert(last.to_owned(), value);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
    use serde_json::json;

    fn read(query: &str) -> Value {
        serde_json::from_slice(&message(query.as_bytes())).unwrap_or(Value::Null)
    }

    #[test]
    fn message_data_in_every_form_is_read() {
        let want = json!({"event": "Opened?>", "userId": "ü"});
        for data in [
            "eyJldmVudCI6ICJPcGVuZWQ/PiIsICJ1c2VySWQiOiAiw7wifQ==",
            "eyJldmVudCI6ICJPcGVuZWQ/PiIsICJ1c2VySWQiOiAiw7wifQ",
            "eyJldmVudCI6ICJPcGVuZWQ_PiIsICJ1c2VySWQiOiAiw7wifQ",
            "eyJldmVudCI6ICJPcGVuZWQ%2FPiIsICJ1c2VySWQiOiAiw7wifQ%3D%3D",
            "%7B%22event%22%3A%22Opened%3F%3E%22%2C%22userId%22%3A%22%C3%BC%22%7D",
            "eyJldmVudCI6ICJPcGVuZWQ/PiIs%0D%0AICJ1c2VySWQiOiAiw7wifQ==%0A",
            "eyJldmVudCI6ICJPcGVuZWQ_%0APiIsICJ1c2VySWQiOiAiw7wifQ",
            "%0D%0A%20eyJldmVudCI6%09ICJPcGVuZWQ%2FPiIs%0B%0CICJ1c2VySWQiOiAiw7wifQ%3D%3D%20%00",
            "%EF%BB%BF%7B%22event%22%3A%22Opened%3F%3E%22%2C%22userId%22%3A%22%C3%BC%22%7D",
        ] {
            assert_eq!(read(&format!("data={data}")), want, "{data}");
        }
    }

    #[test]
    fn message_with_byte_that_is_not_utf8_is_read() {
        for query in [&b"event=caf\xe9&userId=u"[..], b"event=caf%e9&userId=u"] {
            let message: Value = serde_json::from_slice(&message(query)).unwrap();
            assert_eq!(message, json!({"event": "caf\u{fffd}", "userId": "u"}));
        }
    }

    #[test]
    fn message_data_with_plus_or_space_is_read() {
        for data in [
            "eyJhIjoi4pi+In0=",
            "eyJhIjoi4pi%2BIn0=",
            "eyJhIjoi4pi%20In0=",
            "eyJhIjoi4pi%20%0D%0AIn0=",
            "eyJhIjoi4pi%0A%20In0=",
            "%20%20eyJhIjoi%0A%20%204pi%2BIn0=%0A",
            "eyJhIjo i4pi%2BIn0=",
            "eyJhIjo+i4pi-In0",
        ] {
            assert_eq!(read(&format!("data={data}")), json!({"a": "☾"}), "{data}");
        }
    }

    #[test]
    fn message_data_of_any_text_survives_both_alphabets() {
        for last in 0x20_u8..0x7f {
            let message = json!({"event": format!("~~>{}?", char::from(last))});
            let text = message.to_string();
            let wrapped: Vec<String> = BASE64_STANDARD
                .encode(&text)
                .as_bytes()
                .chunks(20)
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect();
            for data in [wrapped.join("%0D%0A"), BASE64_URL_SAFE_NO_PAD.encode(&text)] {
                assert_eq!(read(&format!("data={data}")), message, "{data}");
            }
        }
    }

    #[test]
    fn message_of_parameters_has_levels_by_dots() {
        let query = "userId=user_123&event=Email Opened&properties.subject=The+Electric%20Daily&properties.a.b=1\
            &integrations.Keen IO=false&writeKey=k&properties.a.c=true";
        let want = json!({
            "userId": "user_123", "event": "Email Opened", "writeKey": "k", "integrations": {"Keen IO": false},
            "properties": {"subject": "The Electric Daily", "a": {"b": "1", "c": "true"}},
        });
        assert_eq!(read(query), want);
    }

    #[test]
    fn message_of_malformed_query_is_bounded_and_empty() {
        assert_eq!(read("data=!!!"), Value::Null);
        assert_eq!(read("data=/w=="), Value::Null);
        assert_eq!(read(""), json!({}));
        assert_eq!(read("a=1&a.b=2"), json!({"a": {"b": "2"}}));
        let deep = read(&format!("{}=1", ["a"; 1000].join(".")));
        assert!(
            deep.to_string().len() < 3000 && deep.pointer("/a/a/a/a/a/a/a").unwrap().is_object()
        );
        assert!(message("%".repeat(60_000).as_bytes()).len() < 100_000);
    }

    #[test]
    fn transparent_gif_is_complete() {
        assert!(TRANSPARENT_GIF.starts_with(b"GIF89a\x01\x00\x01\x00"));
        assert!(TRANSPARENT_GIF.ends_with(b"\x3b"));
    }
}
