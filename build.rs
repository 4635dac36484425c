//! Packs `any_ascii`'s readings of the Basic Multilingual Plane: 50 KB in the module instead of 590. Hangul's syllables are left
//! out: `src/keen/readings.rs` puts theirs together, and reads what is packed here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::{env, fs, path::Path};

/// Han characters: tens of thousands that share some hundred readings.
const HAN: Range<u32> = 0x3400..0xa000;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let dir = env::var("OUT_DIR").unwrap_or_default();
    let (text, places) = readings();
    for (name, bytes, level) in [("readings.z", text, 10), ("places.z", places, 1)] {
        let packed = miniz_oxide::deflate::compress_to_vec(&bytes, level);
        if let Err(error) = fs::write(Path::new(&dir).join(name), packed) {
            println!("cargo:warning={name}: {error}");
            std::process::exit(1);
        }
    }
}

/// A line for the reading of each character but Han, in order, then one for each reading of Han, the most frequent first.
/// And for each of Han the place of its reading among those: a byte, or 255 where it is no less, and the places of these
/// behind, two bytes each, little-endian.
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
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for c in HAN {
        let place = of_han
            .iter()
            .position(|each| *each == reading(c))
            .and_then(|place| u16::try_from(place).ok());
        let place = place.unwrap_or_default();
        near.push(u8::try_from(place).unwrap_or(u8::MAX));
        if place >= u16::from(u8::MAX) {
            far.extend(place.to_le_bytes());
        }
    }
    (lines.join("\n").into_bytes(), [near, far].concat())
}
