//! Which pages may read our answers (the CORS protocol of the Fetch standard).
//!
//! A browser takes an answer without these headers for a failure of the network: it sends an event again that Keen has,
//! and does not hear of `Retry-After`. So every answer carries them, refusals too.

use crate::config::OriginPattern;

/// Headers of an answer.
pub type Headers<'a> = Vec<(&'static str, &'a str)>;

/// What analytics-next asks for, where a preflight does not say.
const USUAL_HEADERS: &str = "authorization, content-type, x-retry-count";
/// The longest value that is sent back.
const LONGEST: usize = 4096;

/// The headers of an answer to a request from `origin`, if any.
///
/// Nothing is sent back that could split a header.
#[must_use]
pub fn headers<'a>(origin: Option<&'a str>, allowed: &[OriginPattern]) -> Headers<'a> {
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
pub fn preflight<'a>(
    origin: Option<&'a str>,
    asked: &'a str,
    allowed: &[OriginPattern],
) -> Headers<'a> {
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

fn is_allowed(origin: &str, allowed: &[OriginPattern]) -> bool {
    is_plain(origin) && allowed.iter().any(|pattern| pattern.matches(origin))
}

fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.len() <= LONGEST && value.bytes().all(|b| (0x20..0x7f).contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [(&str, &str); 1] = [("vary", "Origin")];

    #[test]
    fn nothing_splits_a_header() {
        let any = [OriginPattern::Any];
        assert_eq!(headers(Some("https://a.b\r\nx: y"), &any), NONE);
        let headers = preflight(Some("https://a.b"), "authorization\r\nx: y", &any);
        assert!(headers.contains(&("access-control-allow-headers", USUAL_HEADERS)));
    }

    #[test]
    fn request_without_origin_gets_vary_alone() {
        assert_eq!(headers(None, &[OriginPattern::Any]), NONE);
    }
}
