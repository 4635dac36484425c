//! ASCII transliteration with any_ascii's data, repacked by `build.rs` to 50 KB. The tables of the
//! crate `any_ascii` have 590 KB and would be most of the module.

use std::ops::Range;
use std::sync::LazyLock;
use zlib_rs::{Inflate, InflateFlush, Status};

/// The readings of U+0080 to U+FFFF except Hangul syllables, deflated.
static PACKED_TEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/readings.z"));
/// The index of the reading of each Han character, deflated.
static PACKED_HAN_INDEXES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/han_indexes.z"));

/// Upper bound of the size of each table, unpacked.
const MAX_UNPACKED_BYTES: usize = 1 << 18;
/// zlib's window size for deflate: 2^15 bytes (zlib manual, `inflateInit2`).
const DEFLATE_WINDOW_BITS: u8 = 15;

/// Han characters: tens of thousands of characters that share a few hundred readings.
const HAN: Range<usize> = 0x3400..0xa000;
const FIRST_CODE_POINT: usize = 0x80;

/// Constant data, unpacked on first use. Most clients never send a name that is not ASCII, and
/// unpacking takes 500 KB of memory.
static ASCII_TABLE: LazyLock<AsciiTable> =
    LazyLock::new(|| AsciiTable::unpack().unwrap_or_default());

#[derive(Default)]
struct AsciiTable {
    /// All readings, one per line.
    text: String,
    /// The offset in `text` of the reading of each character, from U+0080 on.
    offsets: Vec<u32>,
}

impl AsciiTable {
    fn unpack() -> Option<Self> {
        let text = String::from_utf8(inflate(PACKED_TEXT)?).ok()?;
        let han_indexes = inflate(PACKED_HAN_INDEXES)?;
        let mut offset = 0_u32;
        let mut lines = Vec::new();
        for line in text.split('\n') {
            lines.push(offset);
            offset = offset.checked_add(u32::try_from(line.len()).ok()?)?.checked_add(1)?;
        }
        let (before_han, lines) =
            lines.split_at_checked(HAN.start.checked_sub(FIRST_CODE_POINT)?)?;
        let (after_han, of_han) = lines.split_at_checked(0x1_0000_usize.checked_sub(HAN.end)?)?;
        let (short, long) = han_indexes.split_at_checked(HAN.len())?;
        let mut long =
            long.as_chunks::<2>().0.iter().map(|index| usize::from(u16::from_le_bytes(*index)));
        let mut offsets = before_han.to_vec();
        for &index in short {
            let index = if index == u8::MAX { long.next()? } else { usize::from(index) };
            offsets.push(*of_han.get(index)?);
        }
        offsets.extend_from_slice(after_han);
        Some(Self { text, offsets })
    }

    /// Returns the reading of a character. `None`: it has none.
    fn get(&self, c: char) -> Option<&str> {
        let index = usize::try_from(u32::from(c)).ok()?.checked_sub(FIRST_CODE_POINT)?;
        let offset = usize::try_from(*self.offsets.get(index)?).ok()?;
        self.text.get(offset..)?.split('\n').next()
    }
}

fn inflate(packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; MAX_UNPACKED_BYTES];
    let mut inflate = Inflate::new(false, DEFLATE_WINDOW_BITS);
    let status = inflate.decompress(packed, &mut bytes, InflateFlush::Finish).ok()?;
    bytes.truncate(usize::try_from(inflate.total_out()).ok()?);
    (status == Status::StreamEnd).then_some(bytes)
}

/// Appends the reading of `c`, which is not ASCII. Appends nothing if it has none.
pub(super) fn push(out: &mut String, c: char) {
    match u32::from(c).checked_sub(HANGUL_FIRST).filter(|index| *index < HANGUL_COUNT) {
        Some(syllable) => push_hangul(out, syllable),
        None => out.push_str(ASCII_TABLE.get(c).unwrap_or_default()),
    }
}

/// Hangul syllables are ordered by initial consonant, vowel, and final consonant (The Unicode
/// Standard, section 3.12), and their readings are composed of these.
const HANGUL_FIRST: u32 = 0xac00;
const HANGUL_COUNT: u32 = 11_172;
const INITIALS: [&str; 19] = [
    "G", "Kk", "N", "D", "Tt", "L", "M", "B", "Pp", "S", "Ss", "", "J", "Jj", "Ch", "K", "T", "P",
    "H",
];
const VOWELS: [&str; 21] = [
    "a", "ae", "ya", "yae", "eo", "e", "yeo", "ye", "o", "wa", "wae", "oe", "yo", "u", "wo", "we",
    "wi", "yu", "eu", "ui", "i",
];
const FINALS: [&str; 28] = [
    "", "g", "kk", "gs", "n", "nj", "nh", "d", "l", "lg", "lm", "lb", "ls", "lt", "lp", "lh", "m",
    "b", "bs", "s", "ss", "ng", "j", "ch", "k", "t", "p", "h",
];

fn push_hangul(out: &mut String, syllable: u32) {
    let part = |parts: &[&'static str], index: u32| {
        usize::try_from(index).ok().and_then(|index| parts.get(index)).copied().unwrap_or_default()
    };
    let (pair, last) = (syllable / 28, syllable % 28);
    let (initial, vowel) = (part(&INITIALS, pair / 21), part(&VOWELS, pair % 21));
    out.push_str(initial);
    // Each reading begins with a capital.
    let mut letters = vowel.chars();
    match letters.next() {
        Some(letter) if initial.is_empty() => {
            out.push(letter.to_ascii_uppercase());
            out.push_str(letters.as_str());
        }
        _ => out.push_str(vowel),
    }
    out.push_str(part(&FINALS, last));
}

#[cfg(test)]
mod tests {
    #[test]
    fn push_appends_any_asciis_reading_of_each_character() {
        for c in ('\u{80}'..='\u{ffff}').chain(['\u{1f600}', '\u{10ffff}']) {
            let mut reading = String::new();
            super::push(&mut reading, c);
            let want = if c <= '\u{ffff}' { any_ascii::any_ascii_char(c) } else { "" };
            assert_eq!(reading, want, "{c:?}");
        }
    }
}
