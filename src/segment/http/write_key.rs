//! Segment write keys, and the one in `Authorization`.
//!
//! ```
//! use keen_edge::segment::http::write_key::from_authorization;
//!
//! // `writeKey:` in base64. The password, after the colon, means nothing to Segment.
//! assert_eq!(from_authorization(b"Basic d3JpdGVLZXk6").as_deref(), Some("writeKey"));
//! assert_eq!(from_authorization(b"Bearer d3JpdGVLZXk6"), None);
//! ```

use crate::segment::message::is_blank;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};

/// Maximum length of a write key, in bytes. Segment's have 32 characters.
pub const MAX_BYTES: usize = 512;
/// Maximum length of the base64 text of user name and password, in bytes.
const MAX_CREDENTIALS_BYTES: usize = 4096;

/// Returns a write key without surrounding white space. `None`: it is blank, or longer than
/// [`MAX_BYTES`].
#[must_use]
pub fn normalize(text: &str) -> Option<&str> {
    let key = text.trim();
    (key.len() <= MAX_BYTES && !is_blank(key)).then_some(key)
}

/// Whether a normalized text can be a write key: it has no white space, no colon, no control
/// character, and no replaced bytes that were not UTF-8.
#[must_use]
pub fn is_well_formed(key: &str) -> bool {
    let is_valid =
        |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | '\u{fffd}');
    normalize(key) == Some(key) && key.chars().all(is_valid)
}

/// Returns the user name of a Basic authorization: everything before its first colon.
///
/// `None`: the scheme is different (requests with an OAuth `Bearer` token have the key in the
/// body), the text is not base64, or the key is missing or not UTF-8.
#[must_use]
pub fn from_authorization(value: &[u8]) -> Option<String> {
    let (scheme, credentials) = value.trim_ascii().split_at_checked(6)?;
    let credentials = credentials.trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"basic ") || credentials.len() > MAX_CREDENTIALS_BYTES {
        return None;
    }
    let text = decode_base64(credentials)?;
    let user = std::str::from_utf8(text.split(|byte| *byte == b':').next()?).ok()?;
    normalize(user).map(str::to_owned)
}

/// Accepts padded and unpadded text, and ignores bits left over at its end.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes base64 of the standard alphabet.
pub(super) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    LENIENT.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::BASE64_STANDARD;

    fn basic(credentials: &str) -> Option<String> {
        from_authorization(format!("Basic {}", BASE64_STANDARD.encode(credentials)).as_bytes())
    }

    #[test]
    fn from_authorization_basic_in_all_spellings_is_key() {
        for value in [
            "Basic d3JpdGVLZXk6",
            "basic d3JpdGVLZXk6",
            "BASIC d3JpdGVLZXk",
            "Basic d3JpdGVLZXk",
            " Basic  d3JpdGVLZXk6cGFzcw== ",
        ] {
            let key = from_authorization(value.as_bytes());
            assert_eq!(key.as_deref(), Some("writeKey"), "{value}");
        }
    }

    #[test]
    fn from_authorization_anything_else_is_none() {
        for value in
            ["", "Basic", "Basic ", "Basic Og==", "Basic !!", "Bearer tok", "Basic /w==", "\u{e9}"]
        {
            assert_eq!(from_authorization(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn from_authorization_key_ends_at_first_colon() {
        assert_eq!(basic("writeKey:pass:word").as_deref(), Some("writeKey"));
        assert_eq!(basic(":writeKey"), None);
        let bytes = BASE64_STANDARD.encode(b"writeKey:p\xe9ss");
        let key = from_authorization(format!("Basic {bytes}").as_bytes());
        assert_eq!(key.as_deref(), Some("writeKey"));
        assert_eq!(basic(&format!("k:{}", "p".repeat(3000))).as_deref(), Some("k"));
    }

    #[test]
    fn from_authorization_key_is_trimmed_and_bounded() {
        assert_eq!(basic(" writeKey\n:").as_deref(), Some("writeKey"));
        assert_eq!(basic(" \t:"), None);
        assert_eq!(basic("\0\u{7f}:"), None);
        assert_eq!(basic(&"k".repeat(MAX_BYTES)).map(|key| key.len()), Some(MAX_BYTES));
        assert_eq!(basic(&"k".repeat(MAX_BYTES + 1)), None);
        assert_eq!(basic(&format!("k:{}", "p".repeat(100_000))), None);
    }

    #[test]
    fn is_well_formed_rejects_what_no_key_holds() {
        for key in ["k", "wk_4f1c", "A-b.c~d/e+f=", "schlüssel"] {
            assert!(is_well_formed(key), "{key}");
        }
        for key in ["", " k", "a b", "a:b", "a\0b", "a\u{fffd}", &"k".repeat(MAX_BYTES + 1)] {
            assert!(!is_well_formed(key), "{key}");
        }
    }
}
