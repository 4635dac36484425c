//! Segment's own answers. No other status is ever given: SDKs retry a 401, 404 or 413, and loop on a 202.

/// What a caller of Segment's gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 200: taken.
    Taken,
    /// 400: no SDK sends it again.
    Refused(Refusal),
    /// 429: over our bounds; every SDK sends it again.
    TooMany,
    /// 503: Keen has not confirmed; every SDK sends it again.
    Unavailable,
}

/// Why a call is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The body, or the call itself, is not what Segment reads.
    Malformed,
    /// There is no write key anywhere, or none that is known where `unknownSource` is `reject`.
    WriteKey,
    /// The body is larger than `limits.bodyBytes`.
    TooLarge,
    /// The body's encoding is unknown, cut or corrupt.
    Encoding,
}

impl Answer {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Taken => 200,
            Self::Refused(_) => 400,
            Self::TooMany => 429,
            Self::Unavailable => 503,
        }
    }

    /// The body: a JSON object, spaced as Segment spaces it. Clients read `success`, `message` and `code`.
    #[must_use]
    pub fn body(self) -> &'static str {
        match self {
            Self::Taken => "{\n  \"success\": true\n}",
            Self::Refused(Refusal::Malformed) => refused!("malformed JSON"),
            Self::Refused(Refusal::WriteKey) => refused!("An invalid write key was provided"),
            Self::Refused(Refusal::TooLarge) => refused!("Exceed payload limit"),
            Self::Refused(Refusal::Encoding) => refused!("malformed content encoding"),
            Self::TooMany => {
                "{\n  \"success\": false,\n  \"message\": \"too many requests\",\n  \"code\": \"rate_limited\"\n}"
            }
            Self::Unavailable => {
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
            Self::Taken | Self::Refused(_) => &[JSON],
            Self::TooMany => &[JSON, ("retry-after", "1"), ("x-ratelimit-reset", "1")],
            Self::Unavailable => &[JSON, ("retry-after", "5")],
        }
    }

    /// What is said in place of an answer of Envoy's own, while a request is read or waits: 413 over its buffer, 408 and
    /// 504 over its patience. SDKs send a 413 again for ever, and drop a call for a 408.
    #[must_use]
    pub fn in_place_of(status: Option<u16>) -> Self {
        match status {
            Some(413) => Self::Refused(Refusal::TooLarge),
            Some(429) => Self::TooMany,
            Some(status @ 400..500) if status != 408 => Self::Refused(Refusal::Malformed),
            _ => Self::Unavailable,
        }
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

macro_rules! refused {
    ($message:literal) => {
        concat!("{\n  \"success\": false,\n  \"message\": \"", $message, "\",\n  \"code\": \"invalid_request\"\n}")
    };
}
use refused;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_objects_with_what_clients_read() {
        for answer in [Answer::TooMany, Answer::Unavailable, Answer::Refused(Refusal::WriteKey)] {
            let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
            assert_eq!(body["success"], false);
            assert!(body["message"].is_string() && body["code"].is_string());
        }
        // What helps when sent again is never refused for good, and the reverse.
        for (status, want) in [(400, 400), (408, 503), (413, 400), (431, 400), (429, 429), (500, 503), (504, 503)] {
            assert_eq!(Answer::in_place_of(Some(status)).status(), want, "{status}");
        }
        assert_eq!(Answer::in_place_of(None).status(), 503);
        // As recorded from Segment: 21 bytes.
        assert_eq!(Answer::Taken.body().len(), 21);
    }
}
