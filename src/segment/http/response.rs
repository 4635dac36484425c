//! Segment's own responses. No other status is ever sent: SDKs retry a 401, 404 or 413, and loop on
//! a 202.
//!
//! ```
//! use keen_edge::segment::http::{BadRequestReason, Response};
//!
//! let too_large = BadRequestReason::BodyTooLarge { bytes: Some(600_211), limit: 524_288 };
//! let response = Response::BadRequest(too_large);
//! assert_eq!(response.status(), 400);
//! let message = "Exceed payload limit: body is 600,211 bytes, the limit is 524,288";
//! assert!(response.body().contains(message));
//! ```

use std::borrow::Cow;

/// A response to an SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// 200: accepted.
    Ok,
    /// 400: SDKs do not retry it.
    BadRequest(BadRequestReason),
    /// 429: a limit of the filter is reached. SDKs retry it.
    TooManyRequests(Overload),
    /// 503: SDKs retry it.
    ServiceUnavailable(Unavailable),
}

/// Why a request is rejected permanently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequestReason {
    /// The body is not JSON, or not in Segment's format.
    MalformedJson,
    /// The batch has `messages`, the name that other vendors use, instead of `batch`.
    NoBatch,
    /// The write key is missing, or unknown and `unknownSource` is `reject`.
    InvalidWriteKey,
    /// The body is larger than `limits.bodyBytes`.
    BodyTooLarge {
        /// The bytes of the body. `None`: decoding stopped at the limit.
        bytes: Option<usize>,
        /// `limits.bodyBytes`
        limit: usize,
    },
    /// The body is larger than Envoy's own buffer limit.
    BufferLimit,
    /// The body has more messages than `limits.messages`.
    TooManyMessages {
        /// Number of messages in the body.
        messages: usize,
        /// `limits.messages`
        limit: usize,
    },
    /// `Content-Encoding` names an encoding other than gzip.
    UnsupportedEncoding,
    /// The gzip file is truncated or corrupt.
    CorruptEncoding,
    /// The path is one of Segment's, but the method is wrong.
    MethodNotAllowed,
}

/// Which limit of the filter is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// The request's events do not fit into `delivery.maxPendingBytes`.
    QueueFull,
    /// The requests that are read or wait hold too many bytes.
    HeldBytes,
}

/// Why a request should be retried later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Keen has not confirmed the events in time.
    Unconfirmed,
    /// Keen rejects the project as a whole: wrong key, no such project, no quota.
    DestinationRejected,
}

impl BadRequestReason {
    /// Returns the name of the reason in metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::NoBatch => "no_batch",
            Self::InvalidWriteKey => "invalid_write_key",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BufferLimit => "buffer_limit",
            Self::TooManyMessages { .. } => "too_many_messages",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::CorruptEncoding => "corrupt_encoding",
            Self::MethodNotAllowed => "method_not_allowed",
        }
    }

    /// Returns a sentence for the client. It begins with Segment's own message, if Segment has one.
    #[must_use]
    pub fn message(&self) -> Cow<'static, str> {
        Cow::Borrowed(match *self {
            Self::MalformedJson => "malformed JSON",
            Self::NoBatch => "the body has \"messages\"; Segment's API reads \"batch\"",
            Self::InvalidWriteKey => "An invalid write key was provided",
            Self::BodyTooLarge { bytes, limit } => {
                let (bytes, limit) = (bytes.map(grouped), grouped(limit));
                return Cow::Owned(match bytes {
                    Some(bytes) => {
                        format!("Exceed payload limit: body is {bytes} bytes, the limit is {limit}")
                    }
                    None => format!("Exceed payload limit: body is over {limit} bytes, the limit"),
                });
            }
            Self::BufferLimit => "Exceed payload limit: body is larger than Envoy's buffer limit",
            Self::TooManyMessages { messages, limit } => {
                return Cow::Owned(format!(
                    "Exceed payload limit: body has {} messages, the limit is {}",
                    grouped(messages),
                    grouped(limit)
                ));
            }
            Self::UnsupportedEncoding => "only gzip is supported",
            Self::CorruptEncoding => "malformed content encoding: the gzip is cut or corrupt",
            Self::MethodNotAllowed => "malformed JSON: POST only",
        })
    }
}

impl Response {
    /// Returns the name of the reason in metrics and in the access log. `None`: the response is 200.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Ok => return None,
            Self::BadRequest(reason) => reason.label(),
            Self::TooManyRequests(Overload::QueueFull) => "queue_full",
            Self::TooManyRequests(Overload::HeldBytes) => "overloaded",
            Self::ServiceUnavailable(Unavailable::Unconfirmed) => "unconfirmed",
            Self::ServiceUnavailable(Unavailable::DestinationRejected) => "destination_rejected",
        })
    }

    /// Returns the HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::BadRequest(_) => 400,
            Self::TooManyRequests(_) => 429,
            Self::ServiceUnavailable(_) => 503,
        }
    }

    /// Returns the body: a JSON object with the members that SDKs read, with the same white space
    /// as Segment's.
    #[must_use]
    pub fn body(&self) -> Cow<'static, str> {
        let (message, code) = match self {
            // As recorded from Segment.
            Self::Ok => return Cow::Borrowed("{\n  \"success\": true\n}"),
            Self::BadRequest(reason) => (reason.message(), "invalid_request"),
            Self::TooManyRequests(Overload::QueueFull) => (
                Cow::Borrowed("too many requests: the queue is full (delivery.maxPendingBytes)"),
                "rate_limited",
            ),
            Self::TooManyRequests(Overload::HeldBytes) => {
                (Cow::Borrowed("too many requests: too many bytes are being read"), "rate_limited")
            }
            Self::ServiceUnavailable(Unavailable::Unconfirmed) => {
                (Cow::Borrowed("not confirmed in time"), "unavailable")
            }
            Self::ServiceUnavailable(Unavailable::DestinationRejected) => {
                (Cow::Borrowed("destination rejected the call"), "unavailable")
            }
        };
        let message = crate::json::quoted(&message);
        Cow::Owned(format!(
            "{{\n  \"success\": false,\n  \"message\": {message},\n  \"code\": \"{code}\"\n}}"
        ))
    }

    /// Returns the headers: the content type, and after how many seconds to retry.
    ///
    /// `X-RateLimit-Reset` is Segment's older name for `Retry-After` on a 429. analytics-next read
    /// it before it read `Retry-After`.
    #[must_use]
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ok | Self::BadRequest(_) => &[JSON],
            Self::TooManyRequests(_) => &[JSON, ("retry-after", "1"), ("x-ratelimit-reset", "1")],
            Self::ServiceUnavailable(_) => &[JSON, ("retry-after", "5")],
        }
    }

    /// Returns the response that replaces one of Envoy's own while a request is read or awaits
    /// delivery: a 413 for its buffer limit, a 408 or 504 for its timeouts. SDKs would retry a 413
    /// forever, and drop the events of a 408.
    #[must_use]
    pub fn replacing_local_reply(status: Option<u16>) -> Self {
        match status {
            Some(413) => Self::BadRequest(BadRequestReason::BufferLimit),
            Some(429) => Self::TooManyRequests(Overload::HeldBytes),
            Some(status @ 400..500) if status != 408 => {
                Self::BadRequest(BadRequestReason::MalformedJson)
            }
            _ => Self::ServiceUnavailable(Unavailable::Unconfirmed),
        }
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// Formats a number with thousands separators.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && digits.len().saturating_sub(index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const REASONS: [BadRequestReason; 10] = [
        BadRequestReason::MalformedJson,
        BadRequestReason::NoBatch,
        BadRequestReason::InvalidWriteKey,
        BadRequestReason::BodyTooLarge { bytes: Some(600_211), limit: 524_288 },
        BadRequestReason::BodyTooLarge { bytes: None, limit: 1_048_576 },
        BadRequestReason::BufferLimit,
        BadRequestReason::TooManyMessages { messages: 2501, limit: 2500 },
        BadRequestReason::UnsupportedEncoding,
        BadRequestReason::CorruptEncoding,
        BadRequestReason::MethodNotAllowed,
    ];

    #[test]
    fn body_ok_is_segments_21_bytes() {
        assert_eq!(Response::Ok.body().len(), 21);
        let body: Value = serde_json::from_str(&Response::Ok.body()).unwrap();
        assert_eq!(body, json!({"success": true}));
    }

    #[test]
    fn body_bad_request_has_message_and_segments_code() {
        for (reason, want) in REASONS.into_iter().zip([
            "malformed JSON",
            "the body has \"messages\"; Segment's API reads \"batch\"",
            "An invalid write key was provided",
            "Exceed payload limit: body is 600,211 bytes, the limit is 524,288",
            "Exceed payload limit: body is over 1,048,576 bytes, the limit",
            "Exceed payload limit: body is larger than Envoy's buffer limit",
            "Exceed payload limit: body has 2,501 messages, the limit is 2,500",
            "only gzip is supported",
            "malformed content encoding: the gzip is cut or corrupt",
            "malformed JSON: POST only",
        ]) {
            let response = Response::BadRequest(reason);
            let body: Value = serde_json::from_str(&response.body()).unwrap();
            assert_eq!(body, json!({"success": false, "message": want, "code": "invalid_request"}));
            assert_eq!((response.status(), response.headers().len()), (400, 1));
        }
    }

    #[test]
    fn body_of_retryable_response_has_message_and_code() {
        for (response, message) in [
            (
                Response::TooManyRequests(Overload::QueueFull),
                "too many requests: the queue is full (delivery.maxPendingBytes)",
            ),
            (
                Response::TooManyRequests(Overload::HeldBytes),
                "too many requests: too many bytes are being read",
            ),
            (Response::ServiceUnavailable(Unavailable::Unconfirmed), "not confirmed in time"),
            (
                Response::ServiceUnavailable(Unavailable::DestinationRejected),
                "destination rejected the call",
            ),
        ] {
            let body: Value = serde_json::from_str(&response.body()).unwrap();
            assert_eq!((&body["success"], &body["message"]), (&json!(false), &json!(message)));
            assert!(body["code"].is_string());
            assert!(response.headers().iter().any(|(name, _)| *name == "retry-after"));
        }
    }

    #[test]
    fn replacing_local_reply_keeps_retryable_statuses_retryable() {
        for (status, want) in
            [(400, 400), (408, 503), (413, 400), (431, 400), (429, 429), (500, 503), (504, 503)]
        {
            assert_eq!(Response::replacing_local_reply(Some(status)).status(), want, "{status}");
        }
        assert_eq!(Response::replacing_local_reply(None).status(), 503);
    }

    #[test]
    fn label_is_distinct_snake_case() {
        let mut labels: Vec<_> = REASONS.iter().map(BadRequestReason::label).collect();
        labels.dedup();
        assert_eq!(labels.len(), 9);
        assert!(labels.iter().all(|l| l.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    #[test]
    fn grouped_puts_commas() {
        for (number, want) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (524_288, "524,288"), (1 << 20, "1,048,576")]
        {
            assert_eq!(grouped(number), want);
        }
    }
}
