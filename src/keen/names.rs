//! Names that Keen accepts (keen.io/docs/api/#event-collection-naming, "Property names").
//!
//! ```
//! use keen_edge::keen::names::{collection_name, property_name};
//!
//! assert_eq!(collection_name("Purchased"), "Purchased");
//! // The digits are of a hash of the original.
//! assert_eq!(collection_name("Café"), "Cafe-73473dcc");
//! assert_eq!(property_name("shipping.city"), "shipping_city");
//! ```

use super::transliterate;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Longest collection name, in characters.
pub const MAX_COLLECTION: usize = 64;
/// Longest property name, in characters.
pub const MAX_PROPERTY: usize = 256;
/// Longest uniqueness token, in characters.
pub const MAX_TOKEN: usize = 64;

/// Returns a collection name that Keen accepts: at most 64 ASCII characters, no line break, no `_`
/// at the start, no `.` at either end.
///
/// A valid name is unchanged. Any other name is transliterated, and gets a suffix of `-` and the
/// first 8 hex digits of the SHA-256 of the original, so that in practice two originals never share
/// a collection.
#[must_use]
pub fn collection_name(original: &str) -> Cow<'_, str> {
    if is_valid_collection_name(original) {
        return Cow::Borrowed(original);
    }
    let mut name = String::with_capacity(MAX_COLLECTION);
    for c in original.chars() {
        if name.len() >= MAX_COLLECTION {
            break;
        }
        match c {
            '\r' | '\n' => name.push(' '),
            _ if c.is_ascii() => name.push(c),
            _ => transliterate::push(&mut name, c),
        }
    }
    let readable = name.trim_start_matches(['_', '.', ' ']).trim_end_matches(['.', ' ']);
    let max_readable = MAX_COLLECTION.saturating_sub(9);
    let readable = readable.get(..max_readable).unwrap_or(readable).trim_end();
    let readable = if readable.is_empty() { "event" } else { readable };
    Cow::Owned(format!("{readable}-{}", sha256_hex(original.as_bytes(), 8)))
}

fn is_valid_collection_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_COLLECTION
        && name.bytes().all(|b| b.is_ascii() && b != b'\r' && b != b'\n')
        && !name.starts_with(['_', '.'])
        && !name.ends_with('.')
}

/// Returns a property name that Keen accepts: 1 to 256 characters, each `.` replaced by `_`.
#[must_use]
pub fn property_name(original: &str) -> Cow<'_, str> {
    if original.is_empty() {
        return Cow::Borrowed("_");
    }
    if !original.contains('.') && original.len() <= MAX_PROPERTY {
        return Cow::Borrowed(original);
    }
    let cut = original
        .char_indices()
        .nth(MAX_PROPERTY)
        .map_or(original, |(at, _)| original.get(..at).unwrap_or(original));
    if cut.contains('.') { Cow::Owned(cut.replace('.', "_")) } else { Cow::Borrowed(cut) }
}

/// Returns a uniqueness token: the `messageId`, or its SHA-256 (64 hex digits) if it is longer than
/// 64 characters.
#[must_use]
pub fn uniqueness_token(message_id: &str) -> Cow<'_, str> {
    if message_id.len() <= MAX_TOKEN || message_id.chars().count() <= MAX_TOKEN {
        Cow::Borrowed(message_id)
    } else {
        Cow::Owned(sha256_hex(message_id.as_bytes(), MAX_TOKEN))
    }
}

/// Returns the first `digits` hex digits of the SHA-256 of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8], digits: usize) -> String {
    let mut text = String::with_capacity(MAX_TOKEN);
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

/// Returns the first 64 bits of the SHA-256 of `bytes`.
#[must_use]
pub fn sha256_u64(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collection_name_valid_stays() {
        for name in ["Purchased", "Viewed Docs Page", "a.b", "$x", "a/b?c#d", "x_", &"a".repeat(64)]
        {
            assert_eq!(collection_name(name), name);
        }
    }

    #[test]
    fn collection_name_invalid_becomes_valid_readable_and_distinct() {
        let long = format!("{}.", "a".repeat(70));
        for (name, start) in [
            ("Café bestellt", "Cafe bestellt-"),
            ("Покупка", "Pokupka-"),
            ("_private", "private-"),
            ("a\nb", "a b-"),
            ("购买", "Gou"),
            ("😀", ""),
            (long.as_str(), "aaaa"),
            (".x.", "x-"),
            ("", "event-"),
        ] {
            let valid = collection_name(name);
            assert!(is_valid_collection_name(&valid), "{name} -> {valid}");
            assert!(valid.starts_with(start), "{name} -> {valid}");
            assert!(valid.ends_with(&format!("-{}", sha256_hex(name.as_bytes(), 8))));
        }
        assert_ne!(collection_name("Café"), collection_name("Cafê"));
    }

    #[test]
    fn property_name_is_cut_and_has_no_dots() {
        assert_eq!(property_name("a.b.c"), "a_b_c");
        assert_eq!(property_name(""), "_");
        assert_eq!(property_name(&"é".repeat(256)), "é".repeat(256));
        assert_eq!(property_name(&"é".repeat(257)), "é".repeat(256));
    }

    #[test]
    fn uniqueness_token_too_long_is_hashed() {
        assert_eq!(uniqueness_token("m-1"), "m-1");
        assert_eq!(uniqueness_token(&"m".repeat(65)).len(), 64);
        // The limit is in characters.
        assert_eq!(uniqueness_token(&"é".repeat(64)), "é".repeat(64));
        assert_eq!(uniqueness_token(&"é".repeat(65)).len(), 64);
        // `printf abc | sha256sum`
        assert_eq!(sha256_hex(b"abc", 8), "ba7816bf");
    }
}
