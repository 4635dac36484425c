//! What a call's end means. The statuses are Keen's and Envoy's own (a call Envoy fails ends as a 503 or 504, or with no
//! status at all).

use crate::json_cursor::{Cursor, Value};
use crate::keen::bulk::{self, EventResult};

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalloutOutcome {
    /// Keen's word on each event.
    Results(Vec<EventResult>),
    /// Keen will not have anything of this destination: key, project or payment. The callers send again.
    Misconfigured,
    /// Send the same again, this many milliseconds from now at the soonest: Keen may have it, or be able to later.
    RetryAfter(u64),
    /// Keen failed over it, or said what cannot be read. One event may be the cause: should it happen again, in halves.
    ServerError,
    /// Larger than Keen takes.
    PayloadTooLarge,
    /// The request as a whole was refused; with Keen's error name, where Keen gave one.
    Rejected(Option<String>),
}

/// How a call ended, as the filter sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CalloutResponse<'a> {
    /// The status; none where the call broke off.
    pub status: Option<u16>,
    /// The reply's body, or its beginning.
    pub reply: &'a [u8],
    /// The value of `Retry-After`.
    pub retry_after: &'a [u8],
}

/// Reads a call's end. `asked`: the request's collections, and how many events each had.
#[must_use]
pub fn read(ended: CalloutResponse<'_>, asked: &[(&str, usize)]) -> CalloutOutcome {
    match ended.status {
        Some(200 | 201) => bulk::verdicts(ended.reply, asked)
            .map_or(CalloutOutcome::ServerError, CalloutOutcome::Results),
        Some(500) => CalloutOutcome::ServerError,
        Some(413) => CalloutOutcome::PayloadTooLarge,
        Some(400 | 422) => CalloutOutcome::Rejected(error_code(ended.reply)),
        Some(408 | 429) => CalloutOutcome::RetryAfter(seconds(ended.retry_after)),
        // A redirect too: events go to Keen, and nowhere that somebody else names.
        Some(300..=499) => CalloutOutcome::Misconfigured,
        _ => CalloutOutcome::RetryAfter(seconds(ended.retry_after)),
    }
}

/// `Retry-After` in milliseconds, where it gives seconds; a date says nothing that a bounded pause could use.
fn seconds(retry_after: &[u8]) -> u64 {
    let text = std::str::from_utf8(retry_after).unwrap_or_default();
    text.trim().parse::<u64>().unwrap_or(0).saturating_mul(1000)
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
    let word =
        !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    word.then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status() {
        let asked = [("a", 1)];
        for (status, want) in [
            (Some(401), CalloutOutcome::Misconfigured),
            (Some(402), CalloutOutcome::Misconfigured),
            (Some(403), CalloutOutcome::Misconfigured),
            (Some(404), CalloutOutcome::Misconfigured),
            (Some(405), CalloutOutcome::Misconfigured),
            (Some(301), CalloutOutcome::Misconfigured),
            (Some(408), CalloutOutcome::RetryAfter(0)),
            (Some(413), CalloutOutcome::PayloadTooLarge),
            (Some(429), CalloutOutcome::RetryAfter(0)),
            (Some(500), CalloutOutcome::ServerError),
            (Some(502), CalloutOutcome::RetryAfter(0)),
            (Some(503), CalloutOutcome::RetryAfter(0)),
            (Some(504), CalloutOutcome::RetryAfter(0)),
            (Some(204), CalloutOutcome::RetryAfter(0)),
            (Some(200), CalloutOutcome::ServerError),
            (Some(400), CalloutOutcome::Rejected(None)),
            (None, CalloutOutcome::RetryAfter(0)),
        ] {
            let ended = CalloutResponse { status, reply: b"<html>", retry_after: b"" };
            assert_eq!(read(ended, &asked), want, "{status:?}");
        }
        let reply = br#"{"message": "no", "error_code": "InvalidBatchError"}"#;
        let ended = CalloutResponse { status: Some(400), reply, ..CalloutResponse::default() };
        assert_eq!(
            read(ended, &asked),
            CalloutOutcome::Rejected(Some("InvalidBatchError".to_owned()))
        );
        let ended = CalloutResponse {
            status: Some(200),
            reply: br#"{"a": [{"success": true}]}"#,
            ..CalloutResponse::default()
        };
        assert_eq!(read(ended, &asked), CalloutOutcome::Results(vec![EventResult::Recorded]));
    }

    #[test]
    fn retry_after_in_seconds() {
        for (value, want) in
            [("2", 2000), (" 1 ", 1000), ("", 0), ("-1", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)]
        {
            let ended = CalloutResponse {
                status: Some(503),
                retry_after: value.as_bytes(),
                ..CalloutResponse::default()
            };
            assert_eq!(read(ended, &[]), CalloutOutcome::RetryAfter(want), "{value}");
        }
        let most = CalloutResponse {
            status: Some(429),
            retry_after: b"18446744073709551615",
            ..CalloutResponse::default()
        };
        assert_eq!(read(most, &[]), CalloutOutcome::RetryAfter(u64::MAX));
    }
}
