//! `cors.allowOrigins`: patterns of the origins that may read responses.

/// An element of `cors.allowOrigins`.
///
/// ```
/// use keen_edge::config::OriginPattern;
///
/// let pattern = OriginPattern::parse("https://*.example.com").unwrap();
/// assert!(pattern.matches("https://shop.example.com"));
/// assert!(!pattern.matches("https://example.com"));
/// assert_eq!(OriginPattern::parse("https://example.com/path"), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`
    Any,
    /// One origin as browsers send it, or `null`.
    Exact(String),
    /// `https://*.example.com`: the subdomains of a host.
    Subdomains {
        /// `https://`
        scheme: String,
        /// `.example.com`, with its port if it has one.
        suffix: String,
    },
}

impl OriginPattern {
    /// Parses `*`, `null`, or a scheme and a host in lower case, as browsers send them. The host
    /// may begin with `*.`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => return Some(Self::Any),
            "null" => return Some(Self::Exact(text.to_owned())),
            _ => {}
        }
        let (scheme, rest) = text.split_once(':')?;
        let host = rest.strip_prefix("//")?;
        let suffix = host.strip_prefix('*');
        let plain_host = suffix.map_or(Some(host), |suffix| suffix.strip_prefix('.'))?;
        let is_scheme = !scheme.is_empty()
            && scheme
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        let is_host = !plain_host.is_empty()
            && plain_host.bytes().all(|b| is_host_byte(b) && !b.is_ascii_uppercase());
        (is_scheme && is_host).then(|| match suffix {
            Some(suffix) => {
                Self::Subdomains { scheme: format!("{scheme}://"), suffix: suffix.to_owned() }
            }
            None => Self::Exact(text.to_owned()),
        })
    }

    /// Whether a request's `Origin` matches.
    #[must_use]
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == origin,
            Self::Subdomains { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|host| host.strip_suffix(suffix.as_str()))
                .is_some_and(|label| !label.is_empty() && label.bytes().all(is_host_byte)),
        }
    }
}

/// Whether `b` may occur in a host with a port. IPv6 addresses are in brackets.
pub(super) fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matches(origin: &str, pattern: &str) -> bool {
        OriginPattern::parse(pattern).unwrap().matches(origin)
    }

    #[test]
    fn origins_match_exactly_or_below_a_host() {
        for (origin, pattern) in [
            ("https://a.b", "*"),
            ("null", "null"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("https://shop.a.b", "https://*.a.b"),
            ("https://x.y.a.b:8443", "https://*.a.b:8443"),
        ] {
            assert!(matches(origin, pattern), "{origin} {pattern}");
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
            assert!(!matches(origin, pattern), "{origin} {pattern}");
        }
    }

    #[test]
    fn invalid_origins_are_no_patterns() {
        for text in [
            "",
            "a.b",
            "https://",
            "https://a.b/",
            "https://A.b",
            "https://a.b/x",
            "https://*",
            "https://*.",
            "https://a.*.b",
            "*.a.b",
        ] {
            assert_eq!(OriginPattern::parse(text), None, "{text}");
        }
    }
}
