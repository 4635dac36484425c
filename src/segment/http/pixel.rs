//! Calls that come as the address of an image (segment.com/docs/connections/sources/catalog/libraries/server/pixel-tracking-api).

use super::base64;
use crate::tree::{Members, Tree};

/// The image: transparent, of one point.
pub const GIF: &[u8] = &[
    0x47, 0x49, 0x46, 0x38, 0x39, 0x61, 0x01, 0x00, 0x01, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xff, 0xff, 0xff, 0x21, 0xf9, 0x04, 0x01, 0x00, 0x00, 0x00, 0x00, 0x2c, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x00, 0x01, 0x00, 0x00, 0x02, 0x01, 0x44, 0x00, 0x3b,
];

/// Its headers: each time it is shown is a call.
pub const HEADERS: [(&str, &str); 2] = [
    ("content-type", "image/gif"),
    ("cache-control", "no-cache, no-store, must-revalidate, private"),
];

/// Levels of dotted names that become objects; a deeper rest stays a name.
const DEPTH: usize = 8;

/// The message, as the JSON that a POST would have brought.
///
/// `data` holds it in base64 of either alphabet, padded or not, or as it is; without `data` the query's own names do, with
/// dots for levels: `event=Email+Opened&properties.subject=Hello`.
#[must_use]
pub fn message(query: &str) -> Vec<u8> {
    let mut message = Members::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name == "data" {
            return data(&value);
        }
        put(&mut message, &name, &value);
    }
    let mut out = Vec::new();
    Tree::Object(message).write(&mut out);
    out
}

fn data(value: &str) -> Vec<u8> {
    let value = value.trim();
    if value.starts_with('{') {
        return value.as_bytes().to_vec();
    }
    base64::decode_any(value).unwrap_or_default()
}

fn put(message: &mut Members, name: &str, value: &str) {
    let mut names: Vec<&str> = name.splitn(DEPTH, '.').collect();
    let Some(last) = names.pop() else { return };
    let mut object = message;
    for name in &names {
        let member = object.entry((*name).to_owned()).or_insert(Tree::Null);
        if member.members().is_none() {
            *member = Tree::Object(Members::new());
        }
        let Tree::Object(inner) = member else { return };
        object = inner;
    }
    // A query knows only texts; which destinations a message is for is told by booleans.
    let value = match (names.first(), value) {
        (Some(&"integrations"), "true") => Tree::Bool(true),
        (Some(&"integrations"), "false") => Tree::Bool(false),
        _ => Tree::from(value),
    };
    object.insert(last.to_owned(), value);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(query: &str) -> Value {
        serde_json::from_slice(&message(query)).unwrap_or(Value::Null)
    }

    #[test]
    fn data_in_every_form() {
        let want = json!({"event": "Opened?>", "userId": "ü"});
        for data in [
            "eyJldmVudCI6ICJPcGVuZWQ/PiIsICJ1c2VySWQiOiAiw7wifQ==",
            "eyJldmVudCI6ICJPcGVuZWQ/PiIsICJ1c2VySWQiOiAiw7wifQ",
            "eyJldmVudCI6ICJPcGVuZWQ_PiIsICJ1c2VySWQiOiAiw7wifQ",
            "eyJldmVudCI6ICJPcGVuZWQ%2FPiIsICJ1c2VySWQiOiAiw7wifQ%3D%3D",
            "%7B%22event%22%3A%22Opened%3F%3E%22%2C%22userId%22%3A%22%C3%BC%22%7D",
        ] {
            assert_eq!(read(&format!("data={data}")), want, "{data}");
        }
        // A plus sign is a space in a query, and a letter of base64.
        assert_eq!(read("data=eyJhIjoi4pi+In0="), json!({"a": "☾"}));
    }

    #[test]
    fn a_query_of_its_own_names() {
        let query = "userId=user_123&event=Email Opened&properties.subject=The+Electric%20Daily&properties.a.b=1\
            &integrations.Keen IO=false&writeKey=k&properties.a.c=true";
        let want = json!({
            "userId": "user_123", "event": "Email Opened", "writeKey": "k", "integrations": {"Keen IO": false},
            "properties": {"subject": "The Electric Daily", "a": {"b": "1", "c": "true"}},
        });
        assert_eq!(read(query), want);
    }

    #[test]
    fn what_makes_no_sense_is_no_message_and_harms_nobody() {
        assert_eq!(read("data=!!!"), Value::Null);
        assert_eq!(read("data=/w=="), Value::Null);
        assert_eq!(read(""), json!({}));
        assert_eq!(read("a=1&a.b=2"), json!({"a": {"b": "2"}}));
        let deep = read(&format!("{}=1", ["a"; 1000].join(".")));
        assert!(
            deep.to_string().len() < 3000 && deep.pointer("/a/a/a/a/a/a/a").unwrap().is_object()
        );
        assert!(message(&"%".repeat(60_000)).len() < 100_000);
    }

    #[test]
    fn the_image_is_a_gif_to_its_end() {
        assert!(GIF.starts_with(b"GIF89a\x01\x00\x01\x00") && GIF.ends_with(b"\x3b"));
    }
}
