//! CORS: which pages may read our responses (fetch.spec.whatwg.org, section 3.2).
//!
//! To a browser, a response without these headers is a network failure: it retries events that Keen
//! has already stored, and cannot read `Retry-After`. So every response carries them, errors too.
//!
//! ```
//! use keen_edge::segment::http::cors;
//!
//! let allowed = ["https://*.shop.example".to_owned()];
//! let origin = "https://www.shop.example";
//! let headers = cors::headers(Some(origin), &allowed);
//! assert!(headers.contains(&("access-control-allow-origin", origin)));
//! ```

/// Response headers.
pub type Headers<'a> = Vec<(&'static str, &'a str)>;

/// The request headers that analytics-next sends, allowed where a preflight does not name any.
const DEFAULT_ALLOW_HEADERS: &str = "authorization, content-type, x-retry-count";
/// Longest header value, in bytes, that is sent back.
const MAX_ECHOED_LEN: usize = 4096;

/// The headers of a response to a request with this `Origin`.
///
/// `allowed`: origins, `*` for any, or `https://*.example.com` for all subdomains. A value that could
/// split a header is never sent back.
#[must_use]
pub fn headers<'a>(origin: Option<&'a str>, allowed: &[String]) -> Headers<'a> {
    // Without an origin too: a cache must not serve one page's response to another.
    let mut headers = vec![("vary", "Origin")];
    if let Some(origin) = origin.filter(|origin| is_allowed(origin, allowed)) {
        headers.push(("access-control-allow-origin", origin));
        headers.push(("access-control-allow-credentials", "true"));
        headers.push(("access-control-expose-headers", "Retry-After, X-RateLimit-Reset"));
    }
    headers
}

/// The headers of the response to a preflight. `requested_headers`: its
/// `Access-Control-Request-Headers`, sent back so that a customer's own headers are allowed.
#[must_use]
pub fn preflight<'a>(
    origin: Option<&'a str>,
    requested_headers: &'a str,
    allowed: &[String],
) -> Headers<'a> {
    let mut headers = headers(origin, allowed);
    if headers.len() > 1 {
        headers.push(("access-control-allow-methods", "GET, POST, OPTIONS"));
        headers.push((
            "access-control-allow-headers",
            if is_printable_ascii(requested_headers) {
                requested_headers
            } else {
                DEFAULT_ALLOW_HEADERS
            },
        ));
        headers.push(("access-control-max-age", "86400"));
    }
    headers
}

/// Whether `text` is a valid entry of `cors.allowOrigins`: `*`, `null`, or scheme and host in lower
/// case, as browsers send them.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    if matches!(text, "*" | "null") {
        return true;
    }
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let host = host.strip_prefix("*.").unwrap_or(host);
    let lower = |b: u8| !b.is_ascii_uppercase();
    !scheme.is_empty()
        && scheme
            .bytes()
            .all(|b| lower(b) && (b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')))
        && !host.is_empty()
        && host.bytes().all(|b| lower(b) && is_host(b))
}

fn is_allowed(origin: &str, allowed: &[String]) -> bool {
    is_printable_ascii(origin) && allowed.iter().any(|pattern| matches_pattern(origin, pattern))
}

fn matches_pattern(origin: &str, pattern: &str) -> bool {
    if let Some((scheme, host)) = pattern.split_once("*.") {
        let label =
            origin.strip_prefix(scheme).and_then(|rest| rest.strip_suffix(host)?.strip_suffix('.'));
        return label.is_some_and(|label| !label.is_empty() && label.bytes().all(is_host));
    }
    pattern == "*" || pattern == origin
}

/// A byte of host and port, or of an IPv6 address in brackets.
fn is_host(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
}

fn is_printable_ascii(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= MAX_ECHOED_LEN
        && value.bytes().all(|b| (0x20..0x7f).contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_ALLOWED: [(&str, &str); 1] = [("vary", "Origin")];

    fn allows(origin: &str, pattern: &str) -> bool {
        headers(Some(origin), &[pattern.to_owned()])
            .contains(&("access-control-allow-origin", origin))
    }

    #[test]
    fn headers_with_line_break_are_not_sent_back() {
        let any = ["*".to_owned()];
        assert_eq!(headers(Some("https://a.b\r\nx: y"), &any), NOT_ALLOWED);
        let headers = preflight(Some("https://a.b"), "authorization\r\nx: y", &any);
        assert!(headers.contains(&("access-control-allow-headers", DEFAULT_ALLOW_HEADERS)));
    }

    #[test]
    fn headers_for_origin_over_length_limit_are_not_sent_back() {
        let any = ["*".to_owned()];
        let origin = |length: usize| format!("https://{}", "a".repeat(length - "https://".len()));
        assert!(allows(&origin(MAX_ECHOED_LEN), "*"));
        assert_eq!(headers(Some(&origin(MAX_ECHOED_LEN + 1)), &any), NOT_ALLOWED);
        assert_eq!(headers(Some(""), &any), NOT_ALLOWED);
        let requested = "x".repeat(MAX_ECHOED_LEN + 1);
        let preflight = preflight(Some("https://a.b"), &requested, &any);
        assert!(preflight.contains(&("access-control-allow-headers", DEFAULT_ALLOW_HEADERS)));
    }

    #[test]
    fn headers_allow_exact_origins_and_subdomains() {
        for (origin, pattern) in [
            ("https://a.b", "*"),
            ("null", "null"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("https://shop.a.b", "https://*.a.b"),
            ("https://x.y.a.b:8443", "https://*.a.b:8443"),
        ] {
            assert!(allows(origin, pattern) && is_pattern(pattern), "{origin} {pattern}");
        }
        for (origin, pattern) in [
            ("https://a.b", "https://a.c"),
            ("http://a.b", "https://a.b"),
            ("https://a.b:1", "https://a.b"),
            ("https://a.b", "https://*.a.b"),
            ("https://.a.b", "https://*.a.b"),
            ("https://evila.b", "https://*.a.b"),
            ("https://evil.c/.a.b", "https://*.a.b"),
            ("null", "https://a.b"),
        ] {
            assert!(!allows(origin, pattern), "{origin} {pattern}");
        }
        assert_eq!(headers(None, &["*".to_owned()]), NOT_ALLOWED);
    }

    #[test]
    fn is_pattern_rejects_what_is_no_origin() {
        for text in [
            "",
            "a.b",
            "https://",
            "https://a.b/",
            "https://A.b",
            "https://a.b/x",
            "https://*",
            "https://a.*.b",
            "*.a.b",
        ] {
            assert!(!is_pattern(text), "{text}");
        }
    }
}
