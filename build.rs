//! Packs `any_ascii`'s readings of the Basic Multilingual Plane into 50 KB, for
//! `src/keen/transliterate.rs`. The readings of Hangul syllables are left out, because that file
//! composes them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::{env, fs, path::Path};

/// Han characters: tens of thousands that share a few hundred readings.
const HAN: Range<u32> = 0x3400..0xa000;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let dir = env::var("OUT_DIR").unwrap_or_default();
    let (text, han_indexes) = readings();
    for (name, bytes) in [("readings.z", text), ("han_indexes.z", han_indexes)] {
        let mut packed = Vec::new();
        let format = zopfli::Format::Deflate;
        let written = zopfli::compress(zopfli::Options::default(), format, &bytes[..], &mut packed)
            .and_then(|()| fs::write(Path::new(&dir).join(name), packed));
        if let Err(error) = written {
            println!("cargo:warning={name}: {error}");
            std::process::exit(1);
        }
    }
}

/// Returns two texts to compress.
///
/// The first has one reading per line: the readings of all characters except Han, in order, then
/// the readings of Han characters, the most frequent first.
///
/// The second has the index of each Han character's reading: one byte, 255 for larger ones. The
/// larger indexes follow as two bytes each, little-endian.
fn readings() -> (Vec<u8>, Vec<u8>) {
    let reading = |c: u32| match char::from_u32(c) {
        Some('\u{ac00}'..='\u{d7a3}') | None => "",
        Some(c) => any_ascii::any_ascii_char(c),
    };
    let mut counts = BTreeMap::new();
    for c in HAN {
        let count = counts.entry(reading(c)).or_insert(0_usize);
        *count = count.saturating_add(1);
    }
    let mut of_han: Vec<&str> = counts.keys().copied().collect();
    of_han.sort_by_key(|reading| std::cmp::Reverse(counts.get(reading)));
    let others = (0x80..HAN.start).chain(HAN.end..0x1_0000).map(reading);
    let lines: Vec<&str> = others.chain(of_han.iter().copied()).collect();
    let (mut short, mut long) = (Vec::new(), Vec::new());
    for c in HAN {
        let index = of_han
            .iter()
            .position(|each| *each == reading(c))
            .and_then(|index| u16::try_from(index).ok());
        let index = index.unwrap_or_default();
        short.push(u8::try_from(index).unwrap_or(u8::MAX));
        if index >= u16::from(u8::MAX) {
            long.extend(index.to_le_bytes());
        }
    }
    (lines.join("\n").into_bytes(), [short, long].concat())
}
