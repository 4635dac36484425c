//! How a character reads in ASCII, as the crate `any_ascii` has it: its own tables would make up most of the module.

use flate2::read::DeflateDecoder;
use std::io::Read;
use std::ops::Range;
use std::sync::LazyLock;

/// The readings of U+0080 to U+FFFF but for those of Hangul's syllables, as `build.rs` packs them.
static TEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/readings.z"));
static PLACES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/places.z"));

/// Han characters: tens of thousands that share some hundred readings.
const HAN: Range<usize> = 0x3400..0xa000;
const FIRST: usize = 0x80;

static READINGS: LazyLock<Readings> = LazyLock::new(|| Readings::unpacked().unwrap_or_default());

#[derive(Default)]
struct Readings {
    /// One a line.
    text: String,
    /// Where the reading of each character starts in it.
    starts: Vec<u32>,
}

impl Readings {
    fn unpacked() -> Option<Self> {
        let text = String::from_utf8(inflate(TEXT)?).ok()?;
        let places = inflate(PLACES)?;
        let mut at = 0_u32;
        let mut lines = Vec::new();
        for line in text.split('\n') {
            lines.push(at);
            at = at.checked_add(u32::try_from(line.len()).ok()?)?.checked_add(1)?;
        }
        let (before, lines) = lines.split_at_checked(HAN.start.checked_sub(FIRST)?)?;
        let (after, of_han) = lines.split_at_checked(0x1_0000_usize.checked_sub(HAN.end)?)?;
        let (near, far) = places.split_at_checked(HAN.len())?;
        let mut far =
            far.as_chunks::<2>().0.iter().map(|place| usize::from(u16::from_le_bytes(*place)));
        let mut starts = before.to_vec();
        for &place in near {
            let place = if place == u8::MAX { far.next()? } else { usize::from(place) };
            starts.push(*of_han.get(place)?);
        }
        starts.extend_from_slice(after);
        Some(Self { text, starts })
    }
}

fn inflate(packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    DeflateDecoder::new(packed).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Appends the reading of `c`, which is not ASCII; nothing where it has none.
pub(super) fn write(out: &mut String, c: char) {
    if let Some(syllable) = u32::from(c).checked_sub(SYLLABLES).filter(|at| *at < SYLLABLES_COUNT) {
        return write_syllable(out, syllable);
    }
    let readings: &Readings = &READINGS;
    let place = usize::try_from(u32::from(c)).ok().and_then(|c| c.checked_sub(FIRST));
    let reading = place
        .and_then(|place| readings.starts.get(place))
        .and_then(|&start| readings.text.get(usize::try_from(start).ok()?..))
        .and_then(|rest| rest.split('\n').next());
    out.push_str(reading.unwrap_or_default());
}

/// Hangul's syllables: in order of their first letter, vowel, and last letter (The Unicode Standard, 3.12). Their readings are
/// put together likewise.
const SYLLABLES: u32 = 0xac00;
const SYLLABLES_COUNT: u32 = 11_172;
const FIRSTS: [&str; 19] = [
    "G", "Kk", "N", "D", "Tt", "L", "M", "B", "Pp", "S", "Ss", "", "J", "Jj", "Ch", "K", "T", "P",
    "H",
];
const VOWELS: [&str; 21] = [
    "a", "ae", "ya", "yae", "eo", "e", "yeo", "ye", "o", "wa", "wae", "oe", "yo", "u", "wo", "we",
    "wi", "yu", "eu", "ui", "i",
];
const LASTS: [&str; 28] = [
    "", "g", "kk", "gs", "n", "nj", "nh", "d", "l", "lg", "lm", "lb", "ls", "lt", "lp", "lh", "m",
    "b", "bs", "s", "ss", "ng", "j", "ch", "k", "t", "p", "h",
];

fn write_syllable(out: &mut String, syllable: u32) {
    let part = |parts: &[&'static str], at: u32| {
        usize::try_from(at).ok().and_then(|at| parts.get(at)).copied().unwrap_or_default()
    };
    let (pair, last) = (syllable / 28, syllable % 28);
    let (first, vowel) = (part(&FIRSTS, pair / 21), part(&VOWELS, pair % 21));
    out.push_str(first);
    // Each starts with a capital.
    let mut letters = vowel.chars();
    match letters.next() {
        Some(letter) if first.is_empty() => {
            out.push(letter.to_ascii_uppercase());
            out.push_str(letters.as_str());
        }
        _ => out.push_str(vowel),
    }
    out.push_str(part(&LASTS, last));
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_are_read_as_the_crate_reads_them() {
        for c in ('\u{80}'..='\u{ffff}').chain(['\u{1f600}', '\u{10ffff}']) {
            let mut read = String::new();
            super::write(&mut read, c);
            let want = if c <= '\u{ffff}' { any_ascii::any_ascii_char(c) } else { "" };
            assert_eq!(read, want, "{c:?}");
        }
    }
}
