//! Request bodies before their `Content-Encoding`.
//!
//! ```
//! use keen_edge::segment::http::content_encoding::decode;
//!
//! assert_eq!(decode(b"{}", b"", 100).unwrap().as_ref(), b"{}");
//! // `UTF-8` is a charset, not an encoding, but some callers send it.
//! assert_eq!(decode(b"{}", b"UTF-8", 100).unwrap().as_ref(), b"{}");
//! assert!(decode(b"{}", b"br", 100).is_err());
//! ```

use super::response::BadRequestReason;
use flate2::bufread::GzDecoder;
use std::borrow::Cow;
use std::io::Read;

/// The content codings other than gzip that HTTP knows
/// (iana.org/assignments/http-parameters, "HTTP Content Coding Registry").
const UNSUPPORTED_CODINGS: [&[u8]; 10] = [
    b"aes128gcm",
    b"br",
    b"compress",
    b"dcb",
    b"dcz",
    b"deflate",
    b"exi",
    b"pack200-gzip",
    b"x-compress",
    b"zstd",
];
/// First bytes of a gzip file (RFC 1952, section 2.3.1). No JSON begins with them.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Gzip members that a body of any size may have.
const MIN_GZIP_MEMBERS: usize = 8;
/// Least bytes of a gzip member, on average, in a body of more members. Starting a member costs about
/// as much as mapping this many bytes of messages.
const MIN_MEMBER_BYTES: usize = 512;

/// Decodes a body of at most `max_bytes` decoded bytes.
///
/// A name that is no content coding (`identity`, `UTF-8`, none at all) says nothing: the body is gzip
/// where it begins as gzip does, otherwise it is taken as it is.
///
/// # Errors
/// `BodyTooLarge`, `UnsupportedEncoding` or `CorruptEncoding`.
pub fn decode<'a>(
    body: &'a [u8],
    content_encoding: &[u8],
    max_bytes: usize,
) -> Result<Cow<'a, [u8]>, BadRequestReason> {
    let mut gzip_codings = 0_usize;
    for coding in content_encoding.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if UNSUPPORTED_CODINGS.iter().any(|other| coding.eq_ignore_ascii_case(other)) {
            return Err(BadRequestReason::UnsupportedEncoding);
        }
        if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            gzip_codings = gzip_codings.saturating_add(1);
        }
    }
    match gzip_codings {
        0 if !body.starts_with(&GZIP_MAGIC) => {
            let bytes = Some(body.len());
            if body.len() > max_bytes {
                return Err(BadRequestReason::BodyTooLarge { bytes, limit: max_bytes });
            }
            Ok(Cow::Borrowed(body))
        }
        0 | 1 => gunzip(body, max_bytes).map(Cow::Owned),
        _ => Err(BadRequestReason::UnsupportedEncoding),
    }
}

/// Inflates a gzip file: one or more members, one after the other (RFC 1952, section 2.2).
fn gunzip(mut packed: &[u8], max_bytes: usize) -> Result<Vec<u8>, BadRequestReason> {
    let mut members =
        packed.len().checked_div(MIN_MEMBER_BYTES).unwrap_or(0).saturating_add(MIN_GZIP_MEMBERS);
    let mut out = Vec::with_capacity(packed.len().saturating_mul(4).min(max_bytes));
    loop {
        members = members.checked_sub(1).ok_or(BadRequestReason::CorruptEncoding)?;
        let capacity = max_bytes.saturating_sub(out.len()).saturating_add(1);
        let member = GzDecoder::new(&mut packed);
        member
            .take(u64::try_from(capacity).unwrap_or(u64::MAX))
            .read_to_end(&mut out)
            .map_err(|_| BadRequestReason::CorruptEncoding)?;
        if out.len() > max_bytes {
            return Err(BadRequestReason::BodyTooLarge { bytes: None, limit: max_bytes });
        }
        if packed.is_empty() {
            return Ok(out);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use flate2::{Compression, Crc, GzBuilder, write::GzEncoder};
    use std::io::Write;

    const CORRUPT: Result<Cow<'static, [u8]>, BadRequestReason> =
        Err(BadRequestReason::CorruptEncoding);

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn too_large(limit: usize) -> Result<Cow<'static, [u8]>, BadRequestReason> {
        Err(BadRequestReason::BodyTooLarge { bytes: None, limit })
    }

    #[test]
    fn decode_gzip_is_inflated_or_corrupt() {
        let packed = gzip(b"{\"a\":1}");
        for coding in ["gzip", "GZIP", " x-gzip ", "utf-8, gzip", "gzip, identity"] {
            let decoded = decode(&packed, coding.as_bytes(), 100);
            assert_eq!(decoded.unwrap().as_ref(), b"{\"a\":1}", "{coding}");
        }
        let mut corrupt = packed.clone();
        corrupt[12] ^= 0xff;
        assert_eq!(decode(&corrupt, b"gzip", 100), CORRUPT);
        assert_eq!(decode(b"", b"gzip", 100), CORRUPT);
        assert_eq!(decode(b"{}", b"gzip", 100), CORRUPT);
        for end in 0..packed.len() {
            assert_eq!(decode(&packed[..end], b"gzip", 100), CORRUPT, "{end}");
        }
        // The length at the end is checked, too.
        let mut wrong = packed.clone();
        *wrong.last_mut().unwrap() = 1;
        assert_eq!(decode(&wrong, b"gzip", 100), CORRUPT);
    }

    #[test]
    fn decode_over_limit_is_too_large() {
        assert_eq!(decode(&gzip(&vec![b' '; 10_000_000]), b"gzip", 1000), too_large(1000));
        let most = gzip(&vec![b' '; 1000]);
        assert_eq!(decode(&most, b"gzip", 1000).unwrap().len(), 1000);
        assert_eq!(decode(&most, b"gzip", 999), too_large(999));
        let two = [gzip(b"[1,"), gzip(b"2]")].concat();
        assert_eq!(decode(&two, b"gzip", 4), too_large(4));
        let plain = Err(BadRequestReason::BodyTooLarge { bytes: Some(3), limit: 2 });
        assert_eq!(decode(b"[1]", b"", 2), plain);
        assert_eq!(decode(b"[1]", b"", 3).unwrap().as_ref(), b"[1]");
    }

    #[test]
    fn decode_unsupported_encoding_is_rejected() {
        let packed = gzip(b"{}");
        for coding in
            ["br", "deflate", "Deflate", "zstd", "compress", "x-compress", "gzip, br", "gzip,gzip"]
        {
            let decoded = decode(&packed, coding.as_bytes(), 100);
            assert_eq!(decoded, Err(BadRequestReason::UnsupportedEncoding), "{coding}");
        }
    }

    #[test]
    fn decode_other_name_lets_body_decide() {
        for name in [&b""[..], b"identity", b"UTF-8", b"utf-8, identity", b"none", b"\xff", b","] {
            assert_eq!(decode(b"{}", name, 100).unwrap().as_ref(), b"{}");
            assert_eq!(decode(&gzip(b"{}"), name, 100).unwrap().as_ref(), b"{}");
            assert_eq!(decode(b"\x1f\x8b", name, 100), CORRUPT);
            assert_eq!(decode(b"\x1f", name, 100).unwrap().as_ref(), b"\x1f");
        }
    }

    #[test]
    fn decode_gzip_members_are_concatenated() {
        let packed = gzip(b"[1,");
        let mut two = [packed.clone(), gzip(b"2]")].concat();
        assert_eq!(decode(&two, b"gzip", 100).unwrap().as_ref(), b"[1,2]");
        for trailing in [0, b'{', 0x1f] {
            two.push(trailing);
            assert_eq!(decode(&two, b"gzip", 100), CORRUPT);
        }
    }

    #[test]
    fn decode_gzip_header_fields_are_skipped_and_checked() {
        let mut builder = GzBuilder::new()
            .filename("a")
            .comment("b")
            .extra(b"cd".to_vec())
            .write(Vec::new(), Compression::fast());
        builder.write_all(b"[1,").unwrap();
        let full = builder.finish().unwrap();
        assert_eq!(decode(&full, b"gzip", 100).unwrap().as_ref(), b"[1,");
        for end in 0..full.len() {
            assert_eq!(decode(&full[..end], b"gzip", 100), CORRUPT, "{end}");
        }
        // With the checksum of the header.
        let packed = gzip(b"[1,");
        let header = [&[0x1f, 0x8b, 8, 2], &packed[4..10]].concat();
        let mut crc = Crc::new();
        crc.update(&header);
        let checked = [&header, &crc.sum().to_le_bytes()[..2], &packed[10..]].concat();
        assert_eq!(decode(&checked, b"gzip", 100).unwrap().as_ref(), b"[1,");
        let mut wrong = checked.clone();
        wrong[10] ^= 1;
        assert_eq!(decode(&wrong, b"gzip", 100), CORRUPT);
        // A flag that RFC 1952 reserves.
        wrong = packed.clone();
        wrong[3] = 0x20;
        assert_eq!(decode(&wrong, b"gzip", 100), CORRUPT);
    }

    #[test]
    fn decode_gzip_bodies_of_every_size() {
        for size in (0..300).chain([4_000, 65_535, 65_536, 200_000]) {
            for body in
                [vec![b'a'; size], (0..size).map(|at| (at.wrapping_mul(at) >> 3) as u8).collect()]
            {
                let packed = gzip(&body);
                let decoded = decode(&packed, b"gzip", 200_000);
                assert_eq!(decoded.unwrap().as_ref(), body, "{size}");
            }
        }
    }

    #[test]
    fn decode_many_small_members_is_corrupt() {
        let empty = gzip(b"");
        let few = empty.repeat(MIN_GZIP_MEMBERS);
        assert_eq!(decode(&few, b"gzip", 100).unwrap().as_ref(), b"");
        assert_eq!(decode(&empty.repeat(10_000), b"gzip", 524_288), CORRUPT);
        // Members as large as a flushed buffer are fine, however many.
        let random: Vec<u8> =
            (0..900_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
        let large = gzip(&random);
        assert!(large.len() > MIN_MEMBER_BYTES);
        assert_eq!(decode(&large.repeat(500), b"gzip", 524_288).unwrap().len(), 450_000);
    }
}
