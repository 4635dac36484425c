//! Packs `any_ascii`'s readings of the Basic Multilingual Plane: 62 KB in the module instead of 590. Hangul's syllables are left
//! out: `src/keen/readings.rs` puts theirs together.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let reading = |c: u32| match char::from_u32(c) {
        Some('\u{ac00}'..='\u{d7a3}') | None => "",
        Some(c) => any_ascii::any_ascii_char(c),
    };
    let readings: Vec<&str> = (0x80..=0xffff_u32).map(reading).collect();
    let packed = miniz_oxide::deflate::compress_to_vec(readings.join("\n").as_bytes(), 10);
    let dir = env::var("OUT_DIR").unwrap_or_default();
    if let Err(error) = fs::write(Path::new(&dir).join("readings.z"), packed) {
        println!("cargo:warning=readings.z: {error}");
        std::process::exit(1);
    }
}
