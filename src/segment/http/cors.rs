//! CORS: which pages may read our responses (fetch.spec.whatwg.org, section 3.2).
//!
//! To a browser, a response without these headers is a network failure: it retries events that Keen
//! has already stored, and cannot read `Retry-After`. Therefore every response carries them,
//! including errors.
//!
//! ```
//! use keen_edge::config::OriginPattern;
//! use keen_edge::segment::http::cors;
//!
//! let allowed: Vec<_> = OriginPattern::parse("https://*.shop.example").into_iter().collect();
//! let origin = "https://www.shop.example";
//! let headers = cors::headers(Some(origin), &allowed);
//! assert!(headers.contains(&("access-control-allow-origin", origin)));
//! ```

use crate::config::OriginPattern;

/// Response headers.
pub type Headers<'a> = Vec<(&'static str, &'a str)>;

/// The request headers that analytics-next sends. They are allowed if a preflight does not name
/// any.
const DEFAULT_ALLOW_HEADERS: &str = "authorization, content-type, x-retry-count";
/// Maximum length of a header value that is sent back, in bytes.
const MAX_ECHOED_LEN: usize = 4096;

/// Returns the headers of a response to a request with this `Origin`.
///
/// A value that could split a header is never sent back.
#[must_use]
pub fn headers<'a>(origin: Option<&'a str>, allowed: &[OriginPattern]) -> Headers<'a> {
    // Also without an origin: a cache must not serve one page's response to another.
    let mut headers = vec![("vary", "Origin")];
    if let Some(origin) = origin.filter(|origin| is_allowed(origin, allowed)) {
        headers.push(("access-control-allow-origin", origin));
        headers.push(("access-control-allow-credentials", "true"));
        headers.push(("access-control-expose-headers", "Retry-After, X-RateLimit-Reset"));
    }
    headers
}

/// Returns the headers of the response to a preflight. `requested_headers`: its
/// `Access-Control-Request-Headers`, which is sent back to allow custom headers.
#[must_use]
pub fn preflight<'a>(
    origin: Option<&'a str>,
    requested_headers: &'a str,
    allowed: &[OriginPattern],
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

fn is_allowed(origin: &str, allowed: &[OriginPattern]) -> bool {
    is_printable_ascii(origin) && allowed.iter().any(|pattern| pattern.matches(origin))
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

    #[test]
    fn headers_with_line_break_are_not_sent_back() {
        let any = [OriginPattern::Any];
        assert_eq!(headers(Some("https://a.b\r\nx: y"), &any), NOT_ALLOWED);
        let headers = preflight(Some("https://a.b"), "authorization\r\nx: y", &any);
        assert!(headers.contains(&("access-control-allow-headers", DEFAULT_ALLOW_HEADERS)));
    }

    #[test]
    fn headers_for_origin_over_length_limit_are_not_sent_back() {
        let any = [OriginPattern::Any];
        let origin = |length: usize| format!("https://{}", "a".repeat(length - "https://".len()));
        let longest = origin(MAX_ECHOED_LEN);
        assert!(headers(Some(&longest), &any).contains(&("access-control-allow-origin", &longest)));
        assert_eq!(headers(Some(&origin(MAX_ECHOED_LEN + 1)), &any), NOT_ALLOWED);
        assert_eq!(headers(Some(""), &any), NOT_ALLOWED);
        let requested = "x".repeat(MAX_ECHOED_LEN + 1);
        let preflight = preflight(Some("https://a.b"), &requested, &any);
        assert!(preflight.contains(&("access-control-allow-headers", DEFAULT_ALLOW_HEADERS)));
    }

    #[test]
    fn headers_without_origin_are_vary_alone() {
        assert_eq!(headers(None, &[OriginPattern::Any]), NOT_ALLOWED);
    }
}
