//! Classifies how a callout ended. The status may come from Keen, from a proxy before it, or from
//! Envoy: a callout that Envoy fails ends with 503, with 504, or without a status.

use crate::json::{self, Value};
use crate::keen::bulk::{self, EventResult};
use crate::timestamp;

/// The outcome of a callout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalloutOutcome {
    /// Keen's result for each event.
    Results(Vec<EventResult>),
    /// Keen rejects everything for this destination: a wrong key or project id, or no payment.
    Misconfigured,
    /// Keen is unavailable. Retry the same events after at least this many milliseconds.
    RetryAfter(u64),
    /// Keen failed on the batch, or its reply is unreadable. One event may be the cause, so the
    /// batch is retried in halves if that happens again.
    ServerError,
    /// The request is larger than Keen, or a proxy before it, accepts.
    PayloadTooLarge,
    /// The request was rejected as a whole, with Keen's error name if the reply has one.
    Rejected(Option<String>),
}

/// How a callout ended, as the filter sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CalloutResponse<'a> {
    /// The status. `None`: the callout ended without a reply.
    pub status: Option<u16>,
    /// The reply's body, or its beginning.
    pub reply: &'a [u8],
    /// The value of the header `Retry-After`.
    pub retry_after: &'a [u8],
}

/// Classifies a callout's response. `expected`: the request's collections, and how many events each
/// has. `unix_ms`: the wall clock, for a `Retry-After` that is a date.
///
/// ```
/// use keen_edge::delivery::classify::{CalloutOutcome, CalloutResponse, classify};
///
/// let response = CalloutResponse { status: Some(503), retry_after: b"2", ..Default::default() };
/// assert_eq!(classify(response, &[("Purchased", 1)], 0), CalloutOutcome::RetryAfter(2_000));
/// ```
#[must_use]
pub fn classify(
    response: CalloutResponse<'_>,
    expected: &[(&str, usize)],
    unix_ms: u64,
) -> CalloutOutcome {
    match response.status {
        Some(200 | 201) => bulk::parse_reply(response.reply, expected)
            .map_or(CalloutOutcome::ServerError, CalloutOutcome::Results),
        Some(500) => CalloutOutcome::ServerError,
        Some(413) => CalloutOutcome::PayloadTooLarge,
        Some(400 | 422) => CalloutOutcome::Rejected(error_code(response.reply)),
        Some(408 | 429) => {
            CalloutOutcome::RetryAfter(retry_after_ms(response.retry_after, unix_ms))
        }
        // Redirects are not followed: events are only sent to Keen.
        Some(300..=499) => CalloutOutcome::Misconfigured,
        _ => CalloutOutcome::RetryAfter(retry_after_ms(response.retry_after, unix_ms)),
    }
}

/// Parses a `Retry-After`: seconds or an HTTP date (RFC 9110 section 10.2.3). Returns milliseconds
/// from now, 0 if it is neither or in the past.
fn retry_after_ms(retry_after: &[u8], unix_ms: u64) -> u64 {
    let text = std::str::from_utf8(retry_after).unwrap_or_default().trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.saturating_mul(1000);
    }
    // A date begins with the name of its day. The longest form, that of RFC 850, has 33 bytes.
    if text.len() > 64 || !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return 0;
    }
    let date = timestamp::parse_text(text).and_then(|date| u64::try_from(date).ok());
    date.unwrap_or(0).saturating_sub(unix_ms)
}

/// Returns Keen's error name, if the reply has one. Its `message` may echo a key.
fn error_code(reply: &[u8]) -> Option<String> {
    let reply = std::str::from_utf8(reply).ok()?;
    let Value::Object(reply) = json::read_value(reply)? else { return None };
    let Value::String(name) = json::member(reply, "error_code") else { return None };
    Some(name.decode().into_owned()).filter(|name| bulk::is_error_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classify_each_status_gives_its_outcome() {
        let expected = [("a", 1)];
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
            (Some(201), CalloutOutcome::ServerError),
            (Some(400), CalloutOutcome::Rejected(None)),
            (Some(422), CalloutOutcome::Rejected(None)),
            (None, CalloutOutcome::RetryAfter(0)),
        ] {
            let response = CalloutResponse { status, reply: b"<html>", retry_after: b"" };
            assert_eq!(classify(response, &expected, 0), want, "{status:?}");
        }
    }

    #[test]
    fn classify_a_readable_success_gives_results() {
        for status in [200, 201] {
            let response = CalloutResponse {
                status: Some(status),
                reply: br#"{"a": [{"success": true}]}"#,
                ..CalloutResponse::default()
            };
            let want = CalloutOutcome::Results(vec![EventResult::Recorded]);
            assert_eq!(classify(response, &[("a", 1)], 0), want, "{status}");
        }
    }

    #[test]
    fn classify_a_rejection_takes_only_error_names() {
        for (reply, want) in [
            (r#"{"message": "no", "error_code": "InvalidBatchError"}"#, Some("InvalidBatchError")),
            (r#"{"error_code": "Invalid Batch"}"#, None),
            (r#"{"error_code": ""}"#, None),
            (r#"{"error_code": null}"#, None),
            (r#"{"error_code": 7}"#, None),
            (r#"{"message": "no"}"#, None),
            (r#"{"error_code": "InvalidBatchError"} <html>"#, None),
        ] {
            let reply = reply.as_bytes();
            let response = CalloutResponse { status: Some(400), reply, retry_after: b"" };
            let want = CalloutOutcome::Rejected(want.map(str::to_owned));
            assert_eq!(classify(response, &[("a", 1)], 0), want);
        }
    }

    #[test]
    fn retry_after_in_seconds_gives_milliseconds() {
        for (value, want) in [
            ("2", 2000),
            (" 1 ", 1000),
            ("", 0),
            ("-1", 0),
            ("soon", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            for status in [408, 429, 503] {
                let response = CalloutResponse {
                    status: Some(status),
                    retry_after: value.as_bytes(),
                    ..CalloutResponse::default()
                };
                assert_eq!(classify(response, &[], 0), CalloutOutcome::RetryAfter(want), "{value}");
            }
        }
    }

    #[test]
    fn retry_after_as_a_date_counts_from_the_wall_clock() {
        // 2015-10-21T07:28:00Z
        const DATE_MS: u64 = 1_445_412_480_000;
        for (value, unix_ms, want) in [
            ("Wed, 21 Oct 2015 07:28:00 GMT", DATE_MS - 90_000, 90_000),
            ("Wed, 21 Oct 2015 07:28:00 GMT", DATE_MS - 1, 1),
            ("Wed, 21 Oct 2015 07:28:00 GMT", DATE_MS + 1, 0),
            ("Wednesday, 21-Oct-15 07:28:00 GMT", DATE_MS - 1000, 1000),
            ("Wed Oct 21 07:28:00 2015", DATE_MS - 1000, 1000),
            ("Wed, 21 Oct 2015 07:28:00 CET", DATE_MS - 1000, 0),
            ("Wed, 99 Oct 2015 07:28:00 GMT", DATE_MS - 1000, 0),
            ("2015-10-21T07:28:00Z", DATE_MS - 1000, 0),
        ] {
            let got = retry_after_ms(value.as_bytes(), unix_ms);
            assert_eq!(got, want, "{value}");
        }
    }
}
