//! Name lookups in `properties` and `context`, as in Segment's facade (npm `obj-case`). They ignore
//! case, `_`, `-` and spaces.
//!
//! ```
//! use keen_edge::segment::message::key_match::NormalizedKey;
//!
//! assert_eq!(NormalizedKey::new(b"User-Agent").as_bytes(), b"useragent");
//! ```

use crate::json::Name;

/// Length of the longest normalized name that is looked up, plus one. Longer names match nothing.
const MAX_KEY_LEN: usize = 16;
/// Maximum length of a name, in bytes. Longer names match nothing; Keen would not accept them
/// either.
const MAX_RAW_LEN: usize = 256;

/// A name in lower case, without `_`, `-` and spaces. Empty if it is longer than every name looked
/// up.
#[derive(Debug, Clone, Copy)]
pub struct NormalizedKey {
    bytes: [u8; MAX_KEY_LEN],
    len: usize,
}

impl NormalizedKey {
    /// Normalizes a name.
    #[must_use]
    #[inline]
    pub fn new(name: &[u8]) -> Self {
        let mut key = Self { bytes: [0; MAX_KEY_LEN], len: 0 };
        if name.len() > MAX_RAW_LEN {
            return key;
        }
        for byte in significant_bytes(name) {
            let Some(slot) = key.bytes.get_mut(key.len) else {
                return Self { len: 0, ..key };
            };
            *slot = byte;
            key.len = key.len.wrapping_add(1);
        }
        key
    }

    /// Returns the normalized bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Returns the bytes of a name that are compared.
fn significant_bytes(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().filter(|b| !matches!(b, b'_' | b'-' | b' ')).map(u8::to_ascii_lowercase)
}

/// Whether a name matches `normalized`, which is lower case without punctuation.
#[must_use]
#[inline]
pub fn key_matches(name: &[u8], normalized: &[u8]) -> bool {
    // Most names differ in their first letter.
    match name.first() {
        Some(first)
            if first.is_ascii_alphabetic() && Some(&(first | 0x20)) != normalized.first() =>
        {
            false
        }
        _ => name.len() <= MAX_RAW_LEN && significant_bytes(name).eq(normalized.iter().copied()),
    }
}

/// Selects one of several matching names. Among different names the first one wins, among identical
/// names the last.
#[derive(Debug, Clone, Default)]
pub struct FirstMatch<'a> {
    name: Option<Name<'a>>,
}

impl<'a> FirstMatch<'a> {
    /// Whether a member with this matching name wins so far.
    pub fn claim(&mut self, name: &Name<'a>) -> bool {
        match &self.name {
            Some(first) => first == name,
            None => {
                self.name = Some(name.clone());
                true
            }
        }
    }

    /// Whether no name has matched yet.
    #[must_use]
    pub fn is_unclaimed(&self) -> bool {
        self.name.is_none()
    }

    /// Returns the winning name.
    #[must_use]
    pub fn into_name(self) -> Option<Name<'a>> {
        self.name
    }

    /// Returns the winning name.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_ref().map(|name| name.0.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn key_matches_case_and_punctuation_do_not_count() {
        for name in ["userAgent", "user_agent", "USER-AGENT", "User Agent", "_useragent_"] {
            assert!(key_matches(name.as_bytes(), b"useragent"), "{name}");
            assert_eq!(NormalizedKey::new(name.as_bytes()).as_bytes(), b"useragent");
        }
        let long = format!("{}useragent", "_".repeat(300));
        for name in [
            "userAgents",
            "user.agent",
            "",
            "us",
            "userAgentuserAgentuserAgent",
            "üserAgent",
            &long,
        ] {
            assert!(!key_matches(name.as_bytes(), b"useragent"), "{name}");
            assert_ne!(NormalizedKey::new(name.as_bytes()).as_bytes(), b"useragent");
        }
        assert!(key_matches(b"Page.URL", b"page.url"));
    }

    #[test]
    fn first_match_takes_the_first_of_matching_and_the_last_of_equal_names() {
        let mut first = FirstMatch::default();
        assert!(first.is_unclaimed());
        let claimed = [&b"Url"[..], b"url", b"Url", b"URL"]
            .map(|name| first.claim(&Name(Cow::Borrowed(name))));
        assert_eq!(claimed, [true, false, true, false]);
    }
}
