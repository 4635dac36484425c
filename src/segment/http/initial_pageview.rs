//! The page message implied by a browser's settings request (`initialPageview`).
//!
//! ```
//! use keen_edge::segment::http::initial_pageview::SettingsRequest;
//!
//! let request = SettingsRequest {
//!     method: b"GET",
//!     referer: b"https://shop.example/cart",
//!     ..SettingsRequest::default()
//! };
//! let message = request.page_message("k").unwrap();
//! let want = br#"{"properties":{"page_url":"https://shop.example/cart"},"writeKey":"k"}"#;
//! assert_eq!(message, want);
//! ```

use crate::json::quoted;

/// Headers of a settings request.
#[derive(Debug, Clone, Copy, Default)]
pub struct SettingsRequest<'a> {
    /// The request's method.
    pub method: &'a [u8],
    /// `Referer`
    pub referer: &'a [u8],
    /// `Origin`
    pub origin: &'a [u8],
    /// `Sec-Purpose`, or its older name `Purpose`.
    pub sec_purpose: &'a [u8],
}

impl SettingsRequest<'_> {
    /// Returns the page message for a loaded page, as JSON, for the source with this write key.
    /// `None`: no page was loaded.
    ///
    /// A browser sends the page in `Referer`, or at least its origin in `Origin`. Phones and
    /// servers send neither. A prefetched page (`prefetch`, `prerender`) does not count, since no
    /// user has seen it.
    #[must_use]
    pub fn page_message(&self, write_key: &str) -> Option<Vec<u8>> {
        let page = if self.referer.is_empty() { self.origin } else { self.referer };
        // Pages without a URL of their own (`data:`, sandboxed frames) have the origin `null`.
        let is_page = !page.is_empty() && page != b"null";
        if self.method != b"GET" || !is_page || self.is_prefetch() {
            return None;
        }
        let url = String::from_utf8_lossy(page);
        let (url, write_key) = (quoted(&url), quoted(write_key));
        let message = format!(r#"{{"properties":{{"page_url":{url}}},"writeKey":{write_key}}}"#);
        Some(message.into_bytes())
    }

    fn is_prefetch(&self) -> bool {
        self.sec_purpose.windows(3).any(|letters| letters.eq_ignore_ascii_case(b"pre"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn page_url(method: &[u8], referer: &[u8], origin: &[u8], sec_purpose: &[u8]) -> Option<Value> {
        let message = SettingsRequest { method, referer, origin, sec_purpose }.page_message("k")?;
        let message: Value = serde_json::from_slice(&message).ok()?;
        assert_eq!(message.get("writeKey"), Some(&json!("k")));
        message.pointer("/properties/page_url").cloned()
    }

    #[test]
    fn page_message_of_browser_has_page() {
        for (referer, origin, want) in [
            ("https://a.b/c", "https://a.b", "https://a.b/c"),
            ("", "https://a.b", "https://a.b"),
            ("https://a.b/\"", "", "https://a.b/\""),
        ] {
            let found = page_url(b"GET", referer.as_bytes(), origin.as_bytes(), b"");
            assert_eq!(found, Some(json!(want)));
        }
        assert_eq!(
            page_url(b"GET", b"https://a.b/\xe9", b"", b""),
            Some(json!("https://a.b/\u{fffd}"))
        );
    }

    #[test]
    fn page_message_without_loaded_page_is_none() {
        for found in [
            page_url(b"GET", b"", b"", b""),
            page_url(b"GET", b"", b"null", b""),
            page_url(b"HEAD", b"https://a.b/", b"", b""),
            page_url(b"GET", b"https://a.b/", b"", b"prefetch"),
            page_url(b"GET", b"https://a.b/", b"", b"Prefetch;prerender"),
        ] {
            assert_eq!(found, None);
        }
    }
}
