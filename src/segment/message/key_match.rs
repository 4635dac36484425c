//! Look-ups inside `properties` and `context`, as Segment's facade makes them (npm `obj-case`): a name counts whatever its
//! case and whatever `_`, `-` and spaces stand in it.

use crate::json::Str;

/// Longest name that is looked up, and one more: longer ones are none of them.
const ROOM: usize = 16;

/// A name without what does not count, in lower case. One that is longer than any name looked up is empty.
#[derive(Debug, Clone, Copy)]
pub struct Plain {
    letters: [u8; ROOM],
    length: usize,
}

impl Plain {
    /// The plain form of a name.
    #[must_use]
    #[inline]
    pub fn of(key: Str<'_>) -> Self {
        if key.escaped {
            Self::of_bytes(key.decode().as_bytes())
        } else {
            Self::of_bytes(key.raw.as_bytes())
        }
    }

    fn of_bytes(name: &[u8]) -> Self {
        let mut plain = Self { letters: [0; ROOM], length: 0 };
        for letter in letters(name) {
            let Some(slot) = plain.letters.get_mut(plain.length) else {
                return Self { length: 0, ..plain };
            };
            *slot = letter;
            plain.length = plain.length.wrapping_add(1);
        }
        plain
    }

    /// Its letters.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.letters.get(..self.length).unwrap_or_default()
    }
}

/// What counts of a name.
fn letters(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().filter(|b| !matches!(b, b'_' | b'-' | b' ')).map(u8::to_ascii_lowercase)
}

/// Whether a name is `plain` (lower case, no punctuation) but for what does not count.
#[must_use]
#[inline]
pub fn alike(key: Str<'_>, plain: &str) -> bool {
    // Most names are told apart by their first letter.
    match (key.escaped, key.raw.as_bytes().first()) {
        (false, Some(first))
            if first.is_ascii_alphabetic() && Some(&(first | 0x20)) != plain.as_bytes().first() =>
        {
            false
        }
        _ => letters_alike(key, plain),
    }
}

fn letters_alike(key: Str<'_>, plain: &str) -> bool {
    let name = key.decode();
    let mut letters = letters(name.as_bytes());
    plain.bytes().all(|b| letters.next() == Some(b)) && letters.next().is_none()
}

/// Of names that are alike the first counts, and of equal names the last.
#[derive(Debug, Clone, Copy, Default)]
pub struct First<'a> {
    name: Option<Str<'a>>,
}

impl<'a> First<'a> {
    /// Whether a member of this name, alike to what is looked up, is the one.
    pub fn takes(&mut self, key: Str<'a>) -> bool {
        let first = *self.name.get_or_insert(key);
        first.raw == key.raw || ((first.escaped || key.escaped) && first.decode() == key.decode())
    }

    /// Whether none has been found yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.name.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn str(raw: &str) -> Str<'_> {
        Str { raw, escaped: raw.contains('\\') }
    }

    #[test]
    fn case_and_punctuation_do_not_count() {
        for name in [
            "userAgent",
            "user_agent",
            "USER-AGENT",
            "User Agent",
            "\\u0075serAgent",
            "_useragent_",
        ] {
            assert!(alike(str(name), "useragent"), "{name}");
        }
        for name in
            ["userAgents", "user.agent", "", "us", "userAgentuserAgentuserAgent", "üserAgent"]
        {
            assert!(!alike(str(name), "useragent"), "{name}");
        }
        assert!(alike(str("Page.URL"), "page.url"));
    }

    #[test]
    fn the_first_of_alike_and_the_last_of_equal_names() {
        let mut first = First::default();
        assert!(first.is_open());
        let taken = ["Url", "url", "Url", "URL", "\\u0055rl"].map(|name| first.takes(str(name)));
        assert_eq!(taken, [true, false, true, false, true]);
    }
}
