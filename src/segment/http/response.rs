//! Segment's own answers. No other status is ever given: SDKs retry a 401, 404 or 413, and loop on a 202.

/// What a caller of Segment's gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// 200: taken.
    Ok,
    /// 400: no SDK sends it again.
    BadRequest(BadRequestReason),
    /// 429: over our bounds; every SDK sends it again.
    TooManyRequests,
    /// 503: Keen has not confirmed; every SDK sends it again.
    ServiceUnavailable,
}

/// Why a call is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequestReason {
    /// The body, or the call itself, is not what Segment reads.
    Malformed,
    /// There is no write key anywhere, or none that is known where `unknownSource` is `reject`.
    WriteKey,
    /// The body is larger than `limits.bodyBytes`.
    TooLarge,
    /// The body's encoding is unknown, cut or corrupt.
    Encoding,
}

impl Response {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::BadRequest(_) => 400,
            Self::TooManyRequests => 429,
            Self::ServiceUnavailable => 503,
        }
    }

    /// The body: a JSON object, spaced as Segment spaces it. Clients read `success`, `message` and `code`.
    #[must_use]
    pub fn body(self) -> &'static str {
        match self {
            Self::Ok => "{\n  \"success\": true\n}",
            Self::BadRequest(BadRequestReason::Malformed) => bad_request_body!("malformed JSON"),
            Self::BadRequest(BadRequestReason::WriteKey) => {
                bad_request_body!("An invalid write key was provided")
            }
            Self::BadRequest(BadRequestReason::TooLarge) => {
                bad_request_body!("Exceed payload limit")
            }
            Self::BadRequest(BadRequestReason::Encoding) => {
                bad_request_body!("malformed content encoding")
            }
            Self::TooManyRequests => {
                "{\n  \"success\": false,\n  \"message\": \"too many requests\",\n  \"code\": \"rate_limited\"\n}"
            }
            Self::ServiceUnavailable => {
                "{\n  \"success\": false,\n  \"message\": \"not confirmed in time\",\n  \"code\": \"unavailable\"\n}"
            }
        }
    }

    /// The headers: what the body is, and in how many seconds sending again helps.
    ///
    /// `X-RateLimit-Reset` is Segment's older name of that for a 429; analytics-next read it before it read `Retry-After`.
    #[must_use]
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ok | Self::BadRequest(_) => &[JSON],
            Self::TooManyRequests => &[JSON, ("retry-after", "1"), ("x-ratelimit-reset", "1")],
            Self::ServiceUnavailable => &[JSON, ("retry-after", "5")],
        }
    }

    /// What is said in place of an answer of Envoy's own, while a request is read or waits: 413 over its buffer, 408 and
    /// 504 over its patience. SDKs send a 413 again for ever, and drop a call for a 408.
    #[must_use]
    pub fn replacing_local_reply(status: Option<u16>) -> Self {
        match status {
            Some(413) => Self::BadRequest(BadRequestReason::TooLarge),
            Some(429) => Self::TooManyRequests,
            Some(status @ 400..500) if status != 408 => {
                Self::BadRequest(BadRequestReason::Malformed)
            }
            _ => Self::ServiceUnavailable,
        }
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

macro_rules! bad_request_body {
    ($message:literal) => {
        concat!(
            "{\n  \"success\": false,\n  \"message\": \"",
            $message,
            "\",\n  \"code\": \"invalid_request\"\n}"
        )
    };
}
use bad_request_body;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_objects_with_what_clients_read() {
        for answer in [
            Response::TooManyRequests,
            Response::ServiceUnavailable,
            Response::BadRequest(BadRequestReason::WriteKey),
        ] {
            let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
            assert_eq!(body["success"], false);
            assert!(body["message"].is_string() && body["code"].is_string());
        }
        // What helps when sent again is never refused for good, and the reverse.
        for (status, want) in
            [(400, 400), (408, 503), (413, 400), (431, 400), (429, 429), (500, 503), (504, 503)]
        {
            assert_eq!(Response::replacing_local_reply(Some(status)).status(), want, "{status}");
        }
        assert_eq!(Response::replacing_local_reply(None).status(), 503);
        // As recorded from Segment: 21 bytes.
        assert_eq!(Response::Ok.body().len(), 21);
    }
}
