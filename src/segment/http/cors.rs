//! Which pages may read our answers (the CORS protocol of the Fetch standard).
//!
//! A browser takes an answer without these headers for a failure of the network: it sends an event again that Keen has,
//! and does not hear of `Retry-After`. So every answer carries them, refusals too.

/// Headers of an answer.
pub type Headers<'a> = Vec<(&'static str, &'a str)>;

/// What analytics-next asks for, where a preflight does not say.
const USUAL_HEADERS: &str = "authorization, content-type, x-retry-count";
/// The longest value that is sent back.
const LONGEST: usize = 4096;

/// The headers of an answer to a request from `origin`, if any.
///
/// `allowed`: origins, `*` for any, or `https://*.example.com` for the hosts below one. Nothing is sent back that could
/// split a header.
#[must_use]
pub fn headers<'a>(origin: Option<&'a str>, allowed: &[String]) -> Headers<'a> {
    // Also without an origin: what a cache keeps for one page is not another's.
    let mut headers = vec![("vary", "Origin")];
    if let Some(origin) = origin.filter(|origin| is_allowed(origin, allowed)) {
        headers.push(("access-control-allow-origin", origin));
        headers.push(("access-control-allow-credentials", "true"));
        headers.push(("access-control-expose-headers", "Retry-After, X-RateLimit-Reset"));
    }
    headers
}

/// The headers of the answer to a preflight. `asked`: its `Access-Control-Request-Headers`, sent back so that a
/// customer's own headers pass.
#[must_use]
pub fn preflight<'a>(origin: Option<&'a str>, asked: &'a str, allowed: &[String]) -> Headers<'a> {
    let mut headers = headers(origin, allowed);
    if headers.len() > 1 {
        headers.push(("access-control-allow-methods", "GET, POST, OPTIONS"));
        headers.push((
            "access-control-allow-headers",
            if is_plain(asked) { asked } else { USUAL_HEADERS },
        ));
        headers.push(("access-control-max-age", "86400"));
    }
    headers
}

/// Whether `text` can stand in `cors.allowOrigins`: `*`, `null`, or scheme and host, as browsers send them.
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
    is_plain(origin) && allowed.iter().any(|pattern| matches(origin, pattern))
}

fn matches(origin: &str, pattern: &str) -> bool {
    if let Some((scheme, host)) = pattern.split_once("*.") {
        let label =
            origin.strip_prefix(scheme).and_then(|rest| rest.strip_suffix(host)?.strip_suffix('.'));
        return label.is_some_and(|label| !label.is_empty() && label.bytes().all(is_host));
    }
    pattern == "*" || pattern == origin
}

/// Host and port, IPv6 in its brackets included.
fn is_host(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
}

fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.len() <= LONGEST && value.bytes().all(|b| (0x20..0x7f).contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [(&str, &str); 1] = [("vary", "Origin")];

    fn allows(origin: &str, pattern: &str) -> bool {
        headers(Some(origin), &[pattern.to_owned()])
            .contains(&("access-control-allow-origin", origin))
    }

    #[test]
    fn nothing_splits_a_header() {
        let any = ["*".to_owned()];
        assert_eq!(headers(Some("https://a.b\r\nx: y"), &any), NONE);
        let headers = preflight(Some("https://a.b"), "authorization\r\nx: y", &any);
        assert!(headers.contains(&("access-control-allow-headers", USUAL_HEADERS)));
    }

    #[test]
    fn origins_are_exact_or_below_a_host() {
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
        assert_eq!(headers(None, &["*".to_owned()]), NONE);
    }

    #[test]
    fn what_is_no_origin_is_no_setting() {
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
