//! Bulk requests (`POST /3.0/projects/{id}/events`) and what Keen answers to them.

use crate::json_cursor::{self as json, Cursor, Malformed, Read, Value};

/// An event on its way to a Keen project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Index of the configuration's destination.
    pub destination: usize,
    /// Name of the collection.
    pub collection: &'a str,
    /// The event as Keen takes it.
    pub json: &'a [u8],
}

/// Keen's result for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventResult {
    /// Recorded, or known by its uniqueness token.
    Recorded,
    /// Refused for what it holds; the error's name.
    Rejected(String),
    /// Not recorded, and not for what it holds: Keen itself failed. It can be sent again.
    Failed,
}

/// Keen's name for a failure of its own, in whole replies and, where it fails over one event, in that event's place.
const OWN_FAILURE: &str = "InternalServerError";

/// The body of a bulk request. Each of `collections` has its name, and the text of its events with commas between them.
#[must_use]
pub fn body<'a>(collections: impl Iterator<Item = (&'a str, &'a [u8])>, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room);
    out.push(b'{');
    for (name, events) in collections {
        if out.len() > 1 {
            out.push(b',');
        }
        json::write_string(&mut out, name);
        out.extend_from_slice(b":[");
        out.extend_from_slice(events);
        out.push(b']');
    }
    out.push(b'}');
    out
}

/// Reads a bulk reply: a verdict for each event of `asked` (collections and how many events each had, in the order of
/// the request).
///
/// # Errors
/// The reply is not JSON, or does not speak of all these events: then nothing is known of any of them.
pub fn verdicts(reply: &[u8], asked: &[(&str, usize)]) -> Read<Vec<EventResult>> {
    let text = std::str::from_utf8(reply).map_err(|_| Malformed)?;
    let mut found: Vec<Option<Vec<EventResult>>> = vec![None; asked.len()];
    let mut cursor = Cursor::new(text);
    let mut next = 0_usize;
    cursor.object(|collection, cursor| {
        // Keen keeps the order, so the search is short; it need not keep it.
        let in_order = asked.get(next).is_some_and(|(name, _)| collection.is(name));
        let place = if in_order {
            Some(next)
        } else {
            asked.iter().position(|(name, _)| collection.is(name))
        };
        let of_place = place.and_then(|place| asked.get(place).zip(found.get_mut(place)));
        // A word on something else takes nothing from the words on these.
        let Some(((_, count), slot)) = of_place else { return cursor.skip().map(drop) };
        next = place.unwrap_or(next).saturating_add(1);
        let mut verdicts = Vec::with_capacity(*count);
        cursor.array(|cursor| {
            verdicts.push(verdict(cursor)?);
            Ok(())
        })?;
        if verdicts.len() != *count {
            return Err(Malformed);
        }
        *slot = Some(verdicts);
        Ok(())
    })?;
    cursor.end()?;
    let found: Option<Vec<Vec<EventResult>>> = found.into_iter().collect();
    Ok(found.ok_or(Malformed)?.into_iter().flatten().collect())
}

fn verdict(cursor: &mut Cursor<'_>) -> Read<EventResult> {
    // As Keen writes nearly all of them.
    if cursor.eat_text("{\"success\": true}") || cursor.eat_text("{\"success\":true}") {
        return Ok(EventResult::Recorded);
    }
    let mut success = None;
    let mut name = None;
    cursor.object(|key, cursor| {
        if key.is("success") {
            match cursor.value()? {
                Value::Bool(value) => success = Some(value),
                _ => return Err(Malformed),
            }
        } else if key.is("error") && cursor.peek() == Some(b'{') {
            cursor.object(|key, cursor| {
                let value = cursor.value()?;
                if key.is("name") {
                    name = value.as_str();
                }
                Ok(())
            })?;
        } else {
            cursor.skip()?;
        }
        Ok(())
    })?;
    match success {
        Some(true) => Ok(EventResult::Recorded),
        Some(false) if name.as_deref() == Some(OWN_FAILURE) => Ok(EventResult::Failed),
        Some(false) => {
            Ok(EventResult::Rejected(name.map_or_else(|| "unnamed".to_owned(), |n| label(&n))))
        }
        None => Err(Malformed),
    }
}

/// An error's name as metrics and logs may carry it: Keen's names are words, anything else is not repeated.
fn label(name: &str) -> String {
    let word = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if word { name.to_owned() } else { "unnamed".to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bodies_group_by_collection() {
        let events: [(&str, &[u8]); 2] = [("a", b"{},{\"x\":1}"), ("b\"", b"{}")];
        assert_eq!(body(events.into_iter(), 0), br#"{"a":[{},{"x":1}],"b\"":[{}]}"#);
    }

    #[test]
    fn verdicts_come_in_order() {
        let reply = br#"{"b": [{"success": false, "error": {"name": "InvalidPropertyNameError", "description": "x"}}], "a": [{"success": true}, {"success": true}]}"#;
        let got = verdicts(reply, &[("a", 2), ("b", 1)]).unwrap();
        assert_eq!(
            got,
            [
                EventResult::Recorded,
                EventResult::Recorded,
                EventResult::Rejected("InvalidPropertyNameError".into())
            ]
        );
    }

    #[test]
    fn a_reply_that_does_not_fit_says_nothing() {
        for reply in [
            "",
            "{}",
            "[]",
            r#"{"a":[{"success":true}"#,
            r#"{"a":[]}"#,
            r#"{"a":[{}]}"#,
            r#"{"b":[{"success":true}]}"#,
            r#"{"a":[{"success":1}]}"#,
        ] {
            assert_eq!(verdicts(reply.as_bytes(), &[("a", 1)]), Err(Malformed), "{reply}");
        }
    }
}
