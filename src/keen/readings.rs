//! How a character reads in ASCII, as the crate `any_ascii` has it: its own tables would make up most of the module.

use std::sync::LazyLock;

/// The readings of U+0080 to U+FFFF, one a line, but for those of Hangul's syllables.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/readings.z"));

static READINGS: LazyLock<Readings> = LazyLock::new(|| {
    let text = miniz_oxide::inflate::decompress_to_vec(PACKED).unwrap_or_default();
    let text = String::from_utf8(text).unwrap_or_default();
    let mut at = 0_u32;
    let lines = text
        .split('\n')
        .map(|line| {
            let start = at;
            at = at.saturating_add(u32::try_from(line.len()).unwrap_or(0)).saturating_add(1);
            start
        })
        .collect();
    Readings { text, lines }
});

struct Readings {
    text: String,
    lines: Vec<u32>,
}

/// Appends the reading of `c`, which is not ASCII; nothing where it has none.
pub(super) fn write(out: &mut String, c: char) {
    if let Some(syllable) = u32::from(c).checked_sub(SYLLABLES).filter(|at| *at < SYLLABLES_COUNT) {
        return write_syllable(out, syllable);
    }
    let readings: &Readings = &READINGS;
    let line = u32::from(c).checked_sub(0x80).and_then(|line| usize::try_from(line).ok());
    let reading = line
        .and_then(|line| readings.lines.get(line))
        .and_then(|&start| readings.text.get(usize::try_from(start).ok()?..))
        .and_then(|rest| rest.split('\n').next());
    out.push_str(reading.unwrap_or_default());
}

/// Hangul's syllables: in order of their first letter, vowel, and last letter (The Unicode Standard, 3.12). Their readings are
/// put together likewise.
const SYLLABLES: u32 = 0xac00;
const SYLLABLES_COUNT: u32 = 11_172;
const FIRSTS: [&str; 19] =
    ["G", "Kk", "N", "D", "Tt", "L", "M", "B", "Pp", "S", "Ss", "", "J", "Jj", "Ch", "K", "T", "P", "H"];
const VOWELS: [&str; 21] = [
    "a", "ae", "ya", "yae", "eo", "e", "yeo", "ye", "o", "wa", "wae", "oe", "yo", "u", "wo", "we", "wi", "yu", "eu",
    "ui", "i",
];
const LASTS: [&str; 28] = [
    "", "g", "kk", "gs", "n", "nj", "nh", "d", "l", "lg", "lm", "lb", "ls", "lt", "lp", "lh", "m", "b", "bs", "s",
    "ss", "ng", "j", "ch", "k", "t", "p", "h",
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
