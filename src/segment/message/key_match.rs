//! Look-ups inside `properties` and `context`, as Segment's facade makes them (npm `obj-case`): a
//! name matches whatever its case and whatever `_`, `-` and spaces are in it.
//!
//! ```
//! use keen_edge::segment::message::key_match::NormalizedKey;
//!
//! assert_eq!(NormalizedKey::new(b"User-Agent").as_bytes(), b"useragent");
//! ```

use crate::json::Name;

/// Longest normalized name that is looked up, and one more: longer ones match nothing.
const MAX_KEY_LEN: usize = 16;
/// A name of more bytes matches nothing, whatever is in it: Keen would not take it either.
const MAX_RAW_LEN: usize = 256;

/// A name in lower case, without `_`, `-` and spaces. One that is longer than any name looked up is
/// empty.
#[derive(Debug, Clone, Copy)]
pub struct NormalizedKey {
    bytes: [u8; MAX_KEY_LEN],
    len: usize,
}

impl NormalizedKey {
    /// The normalized form of a name.
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

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The bytes of a name that decide whether it matches.
fn significant_bytes(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().filter(|b| !matches!(b, b'_' | b'-' | b' ')).map(u8::to_ascii_lowercase)
}

/// Whether a name matches `normalized` (lower case, no punctuation).
#[must_use]
#[inline]
pub fn key_matches(name: &[u8], normalized: &[u8]) -> bool {
    // Most names are told apart by their first letter.
    match name.first() {
        Some(first)
            if first.is_ascii_alphabetic() && Some(&(first | 0x20)) != normalized.first() =>
        {
            false
        }
        _ => name.len() <= MAX_RAW_LEN && significant_bytes(name).eq(normalized.iter().copied()),
    }
}

/// Of names that match the first counts, and of equal names the last.
#[derive(Debug, Clone, Default)]
pub struct FirstMatch<'a> {
    name: Option<Name<'a>>,
}

impl<'a> FirstMatch<'a> {
    /// Whether a member of this name, which matches, is the one that counts.
    pub fn claim(&mut self, name: &Name<'a>) -> bool {
        match &self.name {
            Some(first) => first == name,
            None => {
                self.name = Some(name.clone());
                true
            }
        }
    }

    /// Whether none has been found yet.
    #[must_use]
    pub fn is_unclaimed(&self) -> bool {
        self.name.is_none()
    }

    /// The name that counts, taken out.
    #[must_use]
    pub fn into_name(self) -> Option<Name<'a>> {
        self.name
    }

    /// The name that counts.
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
