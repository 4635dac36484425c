//! Packs `any_ascii`'s readings of the Basic Multilingual Plane: 86 KB in the module instead of 590.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let readings: Vec<&str> =
        (0x80..=0xffff_u32).map(|c| char::from_u32(c).map_or("", any_ascii::any_ascii_char)).collect();
    let packed = miniz_oxide::deflate::compress_to_vec_zlib(readings.join("\n").as_bytes(), 10);
    let dir = env::var("OUT_DIR").unwrap_or_default();
    if let Err(error) = fs::write(Path::new(&dir).join("readings.z"), packed) {
        println!("cargo:warning=readings.z: {error}");
        std::process::exit(1);
    }
}
