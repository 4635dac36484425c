//! Names Keen accepts.

use super::transliterate;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Keen's limit for a collection's name, in characters.
pub const MAX_COLLECTION: usize = 64;
/// Keen's limit for a property's name, in characters.
pub const MAX_PROPERTY: usize = 256;
/// Keen's limit for a uniqueness token, in characters.
pub const MAX_TOKEN: usize = 64;

/// A collection's name as Keen takes it: at most 64 ASCII characters, no line break, no `_` in front, no `.` at an edge.
///
/// A legal name stays as it is. Any other is transliterated and ends in `-` and the first 8 hexadecimal digits of the
/// SHA-256 of the original, so that two originals never share a collection.
#[must_use]
pub fn collection(original: &str) -> Cow<'_, str> {
    if is_legal_collection(original) {
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
            _ => transliterate::write(&mut name, c),
        }
    }
    let readable = name.trim_start_matches(['_', '.', ' ']).trim_end_matches(['.', ' ']);
    let room = MAX_COLLECTION.saturating_sub(9);
    let readable = readable.get(..room).unwrap_or(readable).trim_end();
    let readable = if readable.is_empty() { "event" } else { readable };
    Cow::Owned(format!("{readable}-{}", hex(original.as_bytes(), 8)))
}

fn is_legal_collection(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_COLLECTION
        && name.bytes().all(|b| b.is_ascii() && b != b'\r' && b != b'\n')
        && !name.starts_with(['_', '.'])
        && !name.ends_with('.')
}

/// A property's name as Keen takes it: 1 to 256 characters, no `.` (each becomes `_`).
#[must_use]
pub fn property(original: &str) -> Cow<'_, str> {
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

/// A uniqueness token: the message's id, or the SHA-256 of it (64 hexadecimal digits) where it is longer than 64 characters.
#[must_use]
pub fn token(message_id: &str) -> Cow<'_, str> {
    if message_id.len() <= MAX_TOKEN || message_id.chars().count() <= MAX_TOKEN {
        Cow::Borrowed(message_id)
    } else {
        Cow::Owned(hex(message_id.as_bytes(), MAX_TOKEN))
    }
}

/// The first `digits` hexadecimal digits of the SHA-256 of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8], digits: usize) -> String {
    let mut text = String::with_capacity(MAX_TOKEN);
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

/// A number out of `bytes`: the first of their SHA-256.
#[must_use]
pub fn number(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_collections_stay() {
        for name in ["Purchased", "Viewed Docs Page", "a.b", "$x", "a/b?c#d", "x_", &"a".repeat(64)]
        {
            assert_eq!(collection(name), name);
        }
    }

    #[test]
    fn illegal_collections_become_legal_readable_and_distinct() {
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
            let legal = collection(name);
            assert!(is_legal_collection(&legal), "{name} -> {legal}");
            assert!(legal.starts_with(start), "{name} -> {legal}");
            assert!(legal.ends_with(&format!("-{}", hex(name.as_bytes(), 8))));
        }
        assert_ne!(collection("Café"), collection("Cafê"));
    }

    #[test]
    fn property_names() {
        assert_eq!(property("a.b.c"), "a_b_c");
        assert_eq!(property(""), "_");
        assert_eq!(property(&"é".repeat(256)), "é".repeat(256));
        assert_eq!(property(&"é".repeat(257)), "é".repeat(256));
    }

    #[test]
    fn tokens() {
        assert_eq!(token("m-1"), "m-1");
        assert_eq!(token(&"m".repeat(65)).len(), 64);
        // `printf abc | sha256sum`
        assert_eq!(hex(b"abc", 8), "ba7816bf");
    }
}
