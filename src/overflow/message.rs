//! Messages of the overflow queue: one project's events, as a bulk body with their uniqueness
//! tokens.
//!
//! ```json
//! {"v":1,"project":"9181bcd23843312d87000000","events":{"Purchased":[{"total":7,"keen":{…}}]}}
//! ```
//!
//! The tokens make a replay harmless: Keen recognizes the events. The project is named by its id,
//! so that a message outlives a change of the configuration. A message contains only characters
//! that SQS accepts (Amazon SQS API Reference, `SendMessage`):
//! `#x9 | #xA | #xD | #x20-#xD7FF | #xE000-#xFFFD | #x10000-#x10FFFF`.

use crate::json::{self, Value};
use std::borrow::Cow;

/// The version that is written, and the only one that is read.
const VERSION: &str = "1";
/// Maximum bytes of a message in addition to its bulk body. A project id has 24 characters.
pub const ENVELOPE_BYTES: usize = 128;

/// Writes a message. `None` if `bulk_body` is not JSON text, or has a character that SQS does not
/// accept and that JSON cannot escape there.
///
/// ```
/// use keen_edge::overflow::message;
///
/// let text = message::encode("9181bcd23843312d87000000", br#"{"Purchased":[{"total":7}]}"#).unwrap();
/// let project_id = message::parse(&text, &mut |collection, event| {
///     assert_eq!((collection, event), ("Purchased", r#"{"total":7}"#));
/// });
/// assert_eq!(project_id.unwrap(), "9181bcd23843312d87000000");
/// ```
#[must_use]
pub fn encode(project_id: &str, bulk_body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(bulk_body).ok()?;
    let is_accepted = |b: u8| b >= 0x20 || matches!(b, b'\t' | b'\n' | b'\r');
    if !body.bytes().all(is_accepted) {
        return None;
    }
    let mut events = Cow::Borrowed(body);
    if body.contains(['\u{fffe}', '\u{ffff}']) {
        // They occur only in strings, where the escaped form means the same.
        let escaped = body.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff");
        events = Cow::Owned(escaped);
    }
    json::read_value(&events)?;
    let project_id = json::quoted(project_id);
    Some(["{\"v\":", VERSION, ",\"project\":", &project_id, ",\"events\":", &events, "}"].concat())
}

/// Reads a message. Returns the id of the Keen project. `event` is called with the collection and
/// the JSON of each event. `None`: the text is not a message that [`encode`] writes, or it has
/// another version. Then the events are not all of the message.
pub fn parse<'a>(text: &'a str, event: &mut dyn FnMut(&str, &'a str)) -> Option<Cow<'a, str>> {
    let Some(Value::Object(text)) = json::read_value(text) else { return None };
    if json::member(text, "v") != Value::Number(VERSION) {
        return None;
    }
    let (Value::String(project_id), Value::Object(collections)) =
        (json::member(text, "project"), json::member(text, "events"))
    else {
        return None;
    };
    let (mut events, mut is_valid) = (0_usize, true);
    json::for_each_member(collections, &mut |name, of_collection| {
        let name = std::str::from_utf8(&name.0);
        is_valid &= matches!(of_collection, Value::Array(_)) && name.is_ok();
        json::for_each_element(of_collection.json(), &mut |value| match (name, value) {
            (Ok(name), Value::Object(text)) => {
                events = events.saturating_add(1);
                event(name, text);
            }
            _ => is_valid = false,
        });
    });
    (is_valid && events > 0).then(|| project_id.decode())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PROJECT: &str = "9181bcd23843312d87000000";

    fn events(text: &str) -> Option<Vec<(String, String)>> {
        let mut events = Vec::new();
        parse(text, &mut |name, event| events.push((name.to_owned(), event.to_owned())))
            .map(|_| events)
    }

    #[test]
    fn encode_wraps_the_bulk_body_within_its_bound() {
        let body = br#"{"b \" x":[{"n":1.0},{"n":2}],"a":[{}]}"#;
        let text = encode(PROJECT, body).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"project":"9181bcd23843312d87000000","events":{"b \" x":[{"n":1.0},{"n":2}],"a":[{}]}}"#
        );
        assert!(text.len() <= body.len() + ENVELOPE_BYTES);
        let want = [("b \" x", "{\"n\":1.0}"), ("b \" x", "{\"n\":2}"), ("a", "{}")];
        let want = want.map(|(name, event)| (name.to_owned(), event.to_owned()));
        assert_eq!(events(&text).unwrap(), want);
        assert_eq!(parse(&text, &mut |_, _| {}).unwrap(), PROJECT);
    }

    #[test]
    fn encode_escapes_what_sqs_does_not_accept() {
        let body = "{\"a\":[{\"x\":\"\u{fffe}\u{ffff}\u{fffd}\u{10ffff}\u{7f}\\u0000\"}]}";
        let text = encode(PROJECT, body.as_bytes()).unwrap();
        assert!(!text.contains(['\u{fffe}', '\u{ffff}']));
        let event = &events(&text).unwrap()[0].1;
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(same(event)["x"], "\u{fffe}\u{ffff}\u{fffd}\u{10ffff}\u{7f}\0");
        assert_eq!(encode(PROJECT, b"{\"a\":[{\"x\":\"\x01\"}]}"), None);
        assert_eq!(encode(PROJECT, b"{\"a\":[{\"x\":\"\xff\"}]}"), None);
        assert_eq!(encode(PROJECT, b"{\"a\":[{}]"), None);
    }

    #[test]
    fn parse_of_other_texts_is_an_error() {
        for text in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"v":1}"#,
            r#"{"v":"1","project":"p","events":{"a":[{}]}}"#,
            r#"{"v":1,"project":"p","events":{}}"#,
            r#"{"v":1,"project":"p","events":{"a":[]}}"#,
            r#"{"v":1,"project":"p","events":{"a":[1]}}"#,
            r#"{"v":1,"project":"p","events":{"a":{}}}"#,
            r#"{"v":1,"project":"p","events":[]}"#,
            r#"{"v":1,"project":7,"events":{"a":[{}]}}"#,
            r#"{"v":1,"project":"p","events":{"a":[{}]}} x"#,
            r#"{"v":2,"project":"p","events":{"a":[{}]}}"#,
            r#"{"v":1.0,"project":"p","events":{"a":[{}]}}"#,
        ] {
            assert_eq!(events(text), None, "{text}");
        }
    }
}
