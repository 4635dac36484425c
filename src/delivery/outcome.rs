//! What a call's end means. The statuses are Keen's and Envoy's own (a call Envoy fails ends as a 503 or 504, or with no
//! status at all).

use crate::json::{Cursor, Value};
use crate::keen::bulk::{self, Verdict};

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Keen's word on each event.
    Verdicts(Vec<Verdict>),
    /// Keen will not have anything of this destination: key, project or payment. The callers send again.
    Misconfigured,
    /// Send the same again: Keen may have it, or be able to later.
    Retry,
    /// Larger than Keen takes.
    TooLarge,
    /// The request as a whole was refused; with Keen's error name, where Keen gave one.
    Rejected(Option<String>),
}

/// Reads a call's end. `asked`: the request's collections, and how many events each had.
#[must_use]
pub fn read(status: Option<u16>, reply: &[u8], asked: &[(&str, usize)]) -> Outcome {
    match status {
        Some(200 | 201) => bulk::verdicts(reply, asked).map_or(Outcome::Retry, Outcome::Verdicts),
        Some(413) => Outcome::TooLarge,
        Some(401..=404 | 300..=399) => Outcome::Misconfigured,
        Some(408 | 429) => Outcome::Retry,
        Some(400..=499) => Outcome::Rejected(error_code(reply)),
        _ => Outcome::Retry,
    }
}

/// `error_code` of an error of Keen's. Only names: a message may echo a key.
fn error_code(reply: &[u8]) -> Option<String> {
    let mut found = Value::Absent;
    let text = std::str::from_utf8(reply).ok()?;
    Cursor::new(text)
        .object(|key, cursor| {
            let value = cursor.value()?;
            if key.is("error_code") {
                found = value;
            }
            Ok(())
        })
        .ok()?;
    let name = found.as_str()?;
    let word = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    word.then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status() {
        let asked = [("a", 1)];
        for (status, want) in [
            (Some(401), Outcome::Misconfigured),
            (Some(402), Outcome::Misconfigured),
            (Some(403), Outcome::Misconfigured),
            (Some(404), Outcome::Misconfigured),
            (Some(301), Outcome::Misconfigured),
            (Some(408), Outcome::Retry),
            (Some(413), Outcome::TooLarge),
            (Some(429), Outcome::Retry),
            (Some(500), Outcome::Retry),
            (Some(503), Outcome::Retry),
            (Some(504), Outcome::Retry),
            (Some(204), Outcome::Retry),
            (Some(200), Outcome::Retry),
            (Some(400), Outcome::Rejected(None)),
            (None, Outcome::Retry),
        ] {
            assert_eq!(read(status, b"<html>", &asked), want, "{status:?}");
        }
        let reply = br#"{"message": "no", "error_code": "InvalidBatchError"}"#;
        assert_eq!(read(Some(400), reply, &asked), Outcome::Rejected(Some("InvalidBatchError".to_owned())));
        let reply = br#"{"a": [{"success": true}]}"#;
        assert_eq!(read(Some(200), reply, &asked), Outcome::Verdicts(vec![Verdict::Recorded]));
    }
}
