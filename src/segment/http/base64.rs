//! Base64 as callers write it.

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};

/// Padded or not; bits left over at the end do not matter.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes the standard alphabet.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    LENIENT.decode(text).ok()
}

/// Decodes either alphabet, of a query: there a `+` has become a space.
pub(super) fn decode_any(text: &str) -> Option<Vec<u8>> {
    let standard = text.bytes().map(|byte| match byte {
        b'-' | b' ' => b'+',
        b'_' => b'/',
        other => other,
    });
    decode(&standard.collect::<Vec<u8>>())
}
