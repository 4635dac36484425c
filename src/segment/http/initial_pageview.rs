//! A page's load, as its question for the settings tells of it (`initialPageview`).

use crate::json::write_string;

/// What the headers of a question for the settings tell.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The request's method.
    pub method: &'a [u8],
    /// `Referer`
    pub referer: &'a [u8],
    /// `Origin`
    pub origin: &'a [u8],
    /// `Sec-Purpose`, or `Purpose`, its older name.
    pub purpose: &'a [u8],
}

/// The page call that stands for a page's load, as JSON, for the source with this write key. `None`: nobody looks at a
/// page.
///
/// A browser says which page asks, by `Referer` or at least by `Origin`; phones and servers say neither. What is fetched
/// in advance (`prefetch`, `prerender`) nobody has seen.
#[must_use]
pub fn message(write_key: &str, asked: Asked<'_>) -> Option<Vec<u8>> {
    let page = if asked.referer.is_empty() { asked.origin } else { asked.referer };
    let ahead = asked.purpose.windows(3).any(|letters| letters.eq_ignore_ascii_case(b"pre"));
    // Pages without an address of their own (`data:`, sandboxed frames) have this origin.
    if asked.method != b"GET" || page.is_empty() || page == b"null" || ahead {
        return None;
    }
    let mut message = b"{\"writeKey\":".to_vec();
    write_string(&mut message, write_key);
    message.extend_from_slice(b",\"properties\":{\"page_url\":");
    write_string(&mut message, &String::from_utf8_lossy(page));
    message.extend_from_slice(b"}}");
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_load_and_others_ask() {
        let asked = |method, referer, origin, purpose| {
            let message = message("k", Asked { method, referer, origin, purpose });
            message.map(|message| String::from_utf8_lossy(&message).into_owned())
        };
        let page =
            |url: &str| Some(format!(r#"{{"writeKey":"k","properties":{{"page_url":"{url}"}}}}"#));
        assert_eq!(asked(b"GET", b"https://a.b/c", b"https://a.b", b""), page("https://a.b/c"));
        assert_eq!(asked(b"GET", b"", b"https://a.b", b""), page("https://a.b"));
        assert_eq!(asked(b"GET", b"https://a.b/\"", b"", b""), page("https://a.b/\\\""));
        for other in [
            asked(b"GET", b"", b"", b""),
            asked(b"GET", b"", b"null", b""),
            asked(b"HEAD", b"https://a.b/", b"", b""),
            asked(b"GET", b"https://a.b/", b"", b"prefetch"),
            asked(b"GET", b"https://a.b/", b"", b"prefetch;prerender"),
        ] {
            assert_eq!(other, None);
        }
    }
}
