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
                "{\n  \"success\": false,\n  \"message\": \"the destination has not confirmed\",\n  \"code\": \"unavailable\"\n}"
            }
        }
    }

    /// `Retry-After` in seconds, where sending again helps.
    #[must_use]
    pub fn retry_after(self) -> Option<&'static str> {
        match self {
            Self::TooMany => Some("1"),
            Self::Unavailable => Some("5"),
            _ => None,
        }
    }
}

macro_rules! refused {
    ($message:literal) => {
        concat!("{\n  \"success\": false,\n  \"message\": \"", $message, "\",\n  \"code\": \"invalid_request\"\n}")
    };
}
use refused;

/// The CORS headers of a reply to a request with `origin` (Fetch standard, "CORS protocol").
///
/// `asked` is the preflight's `Access-Control-Request-Headers`, echoed so that a customer's own headers pass.
/// Values that could split a header are not echoed.
#[must_use]
pub fn cors<'a>(origin: &'a str, asked: Option<&'a str>, allowed: &[String]) -> Vec<(&'static str, &'a str)> {
    let any = allowed.iter().any(|o| o == "*");
    if !printable(origin) || !(any || allowed.iter().any(|o| o == origin)) {
        return vec![("vary", "Origin")];
    }
    let mut headers = vec![
        ("access-control-allow-origin", origin),
        ("vary", "Origin"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "Retry-After, X-RateLimit-Reset"),
    ];
    if let Some(asked) = asked {
        let asked = if printable(asked) { asked } else { "authorization, content-type, x-retry-count" };
        headers.push(("access-control-allow-methods", "GET, POST, OPTIONS"));
        headers.push(("access-control-allow-headers", asked));
        headers.push(("access-control-max-age", "86400"));
    }
    headers
}

fn printable(value: &str) -> bool {
    !value.is_empty() && value.len() <= 4096 && value.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// The settings a browser or phone asks for at start, for the write key in the URL.
///
/// `Segment.io.apiKey` is the key SDKs then send with; a sample rate of 0 keeps their telemetry at home.
#[must_use]
pub fn settings(key: &str, api_host: Option<&str>) -> Vec<u8> {
    let mut segment = serde_json::json!({
        "apiKey": key, "unbundledIntegrations": ["Keen IO"], "addBundledMetadata": true,
    });
    if let (Some(host), Some(segment)) = (api_host, segment.as_object_mut()) {
        segment.insert("apiHost".to_owned(), host.into());
    }
    let keen = serde_json::json!({
        "bundlingStatus": "unbundled", "type": "server", "versionSettings": {"componentTypes": ["server"]},
    });
    serde_json::json!({
        "integrations": {"Segment.io": segment, "Keen IO": keen},
        "metrics": {"sampleRate": 0}, "plan": {}, "analyticsNextEnabled": true,
    })
    .to_string()
    .into_bytes()
}

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
        // As recorded from Segment: 21 bytes.
        assert_eq!(Answer::Taken.body().len(), 21);
    }

    #[test]
    fn cors_never_splits_a_header() {
        let any = ["*".to_owned()];
        assert_eq!(cors("https://a.b\r\nx: y", None, &any), [("vary", "Origin")]);
        let headers = cors("https://a.b", Some("authorization\r\nx: y"), &any);
        assert!(headers.iter().all(|(_, value)| !value.contains('\n')));
        assert_eq!(cors("https://a.b", None, &["https://c.d".to_owned()]), [("vary", "Origin")]);
    }
}
