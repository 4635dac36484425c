//! Decodes the `Content-Encoding` of request bodies.
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
use std::borrow::Cow;
use zlib_rs::{Inflate, InflateFlush, Status};

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
/// zlib's window size for gzip: 2^15 bytes, and 16 for gzip's header and trailer (zlib manual,
/// `inflateInit2`).
const GZIP_WINDOW_BITS: u8 = 15 + 16;
/// Shortest deflate block with Huffman tables of its own, in bytes (RFC 1951, section 3.2.7).
const MIN_TABLE_BYTES: usize = 11;
/// Cost of a block that may have such tables, in bytes of messages that take as long to map.
const TABLE_COST: usize = 512;
/// Cost of any shorter step in the same unit: another block, a member's header or trailer.
const SHORT_STEP_COST: usize = 64;
/// Cost allowed for a body of any size.
const MIN_COST: usize = 16 * TABLE_COST;

/// Decodes a body of at most `max_bytes` decoded bytes.
///
/// A name that is not a content coding (`identity`, `UTF-8`, or none) is ignored. The body is then
/// gzip if it begins with gzip's magic bytes, and otherwise used unchanged.
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

/// Inflates a gzip file of one or more members (RFC 1952, section 2.2).
///
/// A client can put tens of thousands of empty members or blocks into a body, each of which costs
/// as much as a whole message. Therefore inflating stops at each block (which flate2 cannot do, so
/// this uses zlib-rs directly), and a file whose blocks cost more than its bytes is rejected as
/// corrupt. Encoders end a block after thousands of bytes, or on a flush.
fn gunzip(mut packed: &[u8], max_bytes: usize) -> Result<Vec<u8>, BadRequestReason> {
    // One more byte than allowed, to detect a body over the limit.
    let max_room = max_bytes.saturating_add(1);
    let input_bytes = packed.len();
    let mut out = vec![0; input_bytes.saturating_mul(4).max(64).min(max_room)];
    let (mut written, mut cost) = (0_usize, 0_usize);
    loop {
        let mut member = Inflate::new(true, GZIP_WINDOW_BITS);
        loop {
            if written == out.len() {
                out.resize(written.saturating_mul(2).min(max_room), 0);
            }
            let unused = out.get_mut(written..).unwrap_or_default();
            let before = (member.total_in(), member.total_out());
            let status = member.decompress(packed, unused, InflateFlush::Block);
            let read = usize::try_from(member.total_in().saturating_sub(before.0)).unwrap_or(0);
            let more = usize::try_from(member.total_out().saturating_sub(before.1)).unwrap_or(0);
            packed = packed.get(read..).unwrap_or_default();
            written = written.saturating_add(more);
            if written > max_bytes {
                return Err(BadRequestReason::BodyTooLarge { bytes: None, limit: max_bytes });
            }
            let step_cost = if read < MIN_TABLE_BYTES { SHORT_STEP_COST } else { TABLE_COST };
            cost = cost.saturating_add(step_cost);
            if cost > input_bytes.max(written).saturating_add(MIN_COST) {
                return Err(BadRequestReason::CorruptEncoding);
            }
            match status {
                Ok(Status::StreamEnd) => break,
                Ok(Status::Ok) => {}
                // The file is truncated, or is not gzip.
                Ok(Status::BufError) | Err(_) => return Err(BadRequestReason::CorruptEncoding),
            }
        }
        if packed.is_empty() {
            out.truncate(written);
            return Ok(out);
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]
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
        // The length in the trailer is also checked.
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
        // With a header checksum.
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

    /// Appends bits, the least significant first, as deflate requires (RFC 1951, section 3.1.1).
    #[derive(Default)]
    struct Bits {
        bytes: Vec<u8>,
        count: usize,
    }

    impl Bits {
        fn push(&mut self, value: u32, bits: usize) {
            for bit in 0..bits {
                if self.count.is_multiple_of(8) {
                    self.bytes.push(0);
                }
                if let Some(last) = self.bytes.last_mut() {
                    *last |= ((value >> bit & 1) as u8) << (self.count % 8);
                }
                self.count += 1;
            }
        }

        /// Returns a gzip file of these blocks, which must be empty: checksum and length are 0.
        fn into_gzip(self) -> Vec<u8> {
            [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255][..], &self.bytes, &[0; 8]].concat()
        }
    }

    /// Returns `count` empty blocks, each with the standard Huffman tables.
    fn empty_fixed_blocks(count: usize) -> Vec<u8> {
        let mut bits = Bits::default();
        for index in 1..=count {
            bits.push(u32::from(index == count), 1);
            bits.push(1, 2);
            bits.push(0, 7);
        }
        bits.into_gzip()
    }

    /// Returns `count` empty blocks, each with the smallest Huffman tables of its own.
    fn empty_dynamic_blocks(count: usize) -> Vec<u8> {
        let mut bits = Bits::default();
        for index in 1..=count {
            bits.push(u32::from(index == count), 1);
            bits.push(2, 2);
            bits.push(0, 10);
            bits.push(14, 4);
            // Code lengths 18 (a run of zeros) and 1 have codes of one bit.
            for length in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1] {
                bits.push(u32::from(matches!(length, 18 | 1)), 3);
            }
            // 256 zeros, a code for the end of the block, a code for a distance; the end.
            for run in [138, 118] {
                bits.push(1, 1);
                bits.push(run - 11, 7);
            }
            bits.push(0, 3);
        }
        bits.into_gzip()
    }

    #[test]
    fn decode_few_empty_members_and_blocks_is_empty() {
        for packed in [gzip(b"").repeat(8), empty_fixed_blocks(50), empty_dynamic_blocks(10)] {
            assert_eq!(decode(&packed, b"gzip", 100).unwrap().as_ref(), b"");
        }
    }

    #[test]
    fn decode_members_and_blocks_by_the_ten_thousand_is_corrupt() {
        let smallest = empty_dynamic_blocks(1).len() - 18;
        assert!(smallest >= MIN_TABLE_BYTES);
        for packed in [
            gzip(b"").repeat(10_000),
            empty_fixed_blocks(1).repeat(10_000),
            empty_fixed_blocks(400_000),
            empty_dynamic_blocks(40_000),
            [empty_dynamic_blocks(1000), gzip(&[b' '; 1000])].concat(),
        ] {
            assert_eq!(decode(&packed, b"gzip", 524_288), CORRUPT);
        }
    }

    #[test]
    fn decode_flushed_and_concatenated_gzip_is_inflated() {
        // A flush after each of 800 events, as streaming encoders may do.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut members = Vec::new();
        let mut plain = Vec::new();
        for index in 0..800_u64 {
            let event = format!(
                r#"{{"type":"track","event":"Order {index}","userId":"{}","properties":{{"text":"{}"}}}},"#,
                index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                "lorem ipsum dolor sit amet ".repeat(20),
            );
            encoder.write_all(event.as_bytes()).unwrap();
            encoder.flush().unwrap();
            plain.extend_from_slice(event.as_bytes());
            members.extend(gzip(event.repeat(4).as_bytes()));
        }
        let flushed = encoder.finish().unwrap();
        assert_eq!(decode(&flushed, b"gzip", 1_000_000).unwrap().as_ref(), plain);
        assert_eq!(decode(&members, b"gzip", 4_000_000).unwrap().len(), 4 * plain.len());
    }
}
