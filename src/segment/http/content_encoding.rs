//! Request bodies as they were before `Content-Encoding`.

use super::response::BadRequestReason;
use crc::{CRC_32_ISO_HDLC, Crc, Table};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use std::borrow::Cow;

/// The body, inflated where `encoding` says so, at most `limit` bytes of it.
///
/// # Errors
/// `TooLarge` over `limit`; `Encoding` where it is unknown, or the gzip is cut or corrupt.
pub fn inflate<'a>(
    body: &'a [u8],
    encoding: &[u8],
    limit: usize,
) -> Result<Cow<'a, [u8]>, BadRequestReason> {
    let encoding = encoding.trim_ascii();
    let plain = encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity");
    let gzip = encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip");
    let inflated = match (plain, gzip) {
        (true, _) => Cow::Borrowed(body),
        (_, true) => Cow::Owned(gunzip(body, limit)?),
        _ => return Err(BadRequestReason::Encoding),
    };
    if inflated.len() > limit { Err(BadRequestReason::TooLarge) } else { Ok(inflated) }
}

/// gzip's checksum, from a table of 1 KB.
static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);

/// A gzip file: members, one behind the other (RFC 1952, 2.2).
fn gunzip(mut packed: &[u8], limit: usize) -> Result<Vec<u8>, BadRequestReason> {
    let mut out = Vec::new();
    loop {
        let deflated = behind_header(packed).ok_or(BadRequestReason::Encoding)?;
        let start = out.len();
        let behind = append(&mut out, deflated, limit)?;
        let (trailer, rest) = behind.split_first_chunk::<8>().ok_or(BadRequestReason::Encoding)?;
        let [a, b, c, d, e, f, g, h] = *trailer;
        let member = out.get(start..).unwrap_or_default();
        let right = CRC.checksum(member) == u32::from_le_bytes([a, b, c, d])
            && u32::try_from(member.len()) == Ok(u32::from_le_bytes([e, f, g, h]));
        if !right {
            return Err(BadRequestReason::Encoding);
        }
        if rest.is_empty() {
            return Ok(out);
        }
        packed = rest;
    }
}

/// What stands behind a member's header (RFC 1952, 2.3).
fn behind_header(packed: &[u8]) -> Option<&[u8]> {
    const TEXT: u8 = 1;
    const CHECKSUM: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let ([0x1f, 0x8b, 8, flags, ..], mut rest) = packed.split_first_chunk::<10>()? else {
        return None;
    };
    if flags & !(TEXT | CHECKSUM | EXTRA | NAME | COMMENT) != 0 {
        return None;
    }
    if flags & EXTRA != 0 {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        rest = behind.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = rest.get(end..)?.split_first()?.1;
        }
    }
    if flags & CHECKSUM != 0 {
        let header = packed.get(..packed.len().checked_sub(rest.len())?)?;
        let (found, behind) = rest.split_first_chunk::<2>()?;
        let [low, high, ..] = CRC.checksum(header).to_le_bytes();
        if *found != [low, high] {
            return None;
        }
        rest = behind;
    }
    Some(rest)
}

/// Inflates one member to the end of `out`; what stands behind it.
fn append<'a>(
    out: &mut Vec<u8>,
    mut deflated: &'a [u8],
    limit: usize,
) -> Result<&'a [u8], BadRequestReason> {
    let mut state = Box::<DecompressorOxide>::default();
    let start = out.len();
    let mut written = 0_usize;
    loop {
        // As much again each time: a small body need not pay for the largest.
        let room = written.max(deflated.len().saturating_mul(4)).max(64).saturating_add(written);
        let end = start.saturating_add(room).min(limit.saturating_add(1));
        out.resize(end, 0);
        let member = out.get_mut(start..).unwrap_or_default();
        let (status, read, more) = decompress(
            &mut state,
            deflated,
            member,
            written,
            TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
        );
        deflated = deflated.get(read..).unwrap_or_default();
        written = written.saturating_add(more);
        match status {
            TINFLStatus::Done => {
                out.truncate(start.saturating_add(written));
                return Ok(deflated);
            }
            TINFLStatus::HasMoreOutput if end > limit => return Err(BadRequestReason::TooLarge),
            TINFLStatus::HasMoreOutput => {}
            _ => return Err(BadRequestReason::Encoding),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use flate2::{Compression, GzBuilder, write::GzEncoder};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn whole_cut_corrupt_and_bomb() {
        let packed = gzip(b"{\"a\":1}");
        assert_eq!(inflate(&packed, b"gzip", 100).unwrap().as_ref(), b"{\"a\":1}");
        assert_eq!(
            inflate(&packed[..packed.len() - 3], b"gzip", 100),
            Err(BadRequestReason::Encoding)
        );
        let mut corrupt = packed.clone();
        corrupt[12] ^= 0xff;
        assert_eq!(inflate(&corrupt, b"gzip", 100), Err(BadRequestReason::Encoding));
        assert_eq!(
            inflate(&gzip(&vec![b' '; 10_000_000]), b"GZIP", 1000),
            Err(BadRequestReason::TooLarge)
        );
        assert_eq!(inflate(b"", b"gzip", 100), Err(BadRequestReason::Encoding));
        // Exactly as much as is allowed.
        let most = gzip(&vec![b' '; 1000]);
        assert_eq!(inflate(&most, b"gzip", 1000).unwrap().len(), 1000);
        assert_eq!(inflate(&most, b"gzip", 999), Err(BadRequestReason::TooLarge));
        assert_eq!(inflate(b"x", b"br", 100), Err(BadRequestReason::Encoding));
        assert_eq!(inflate(b"x", b"", 100).unwrap().as_ref(), b"x");
    }

    #[test]
    fn members_headers_and_what_follows() {
        let packed = gzip(b"[1,");
        let mut two = [packed.clone(), gzip(b"2]")].concat();
        assert_eq!(inflate(&two, b"gzip", 100).unwrap().as_ref(), b"[1,2]");
        assert_eq!(inflate(&two, b"gzip", 4), Err(BadRequestReason::TooLarge));
        two.push(0);
        assert_eq!(inflate(&two, b"gzip", 100), Err(BadRequestReason::Encoding));
        let mut builder = GzBuilder::new()
            .filename("a")
            .comment("b")
            .extra(b"cd".to_vec())
            .write(Vec::new(), Compression::fast());
        builder.write_all(b"[3]").unwrap();
        let full = builder.finish().unwrap();
        assert_eq!(inflate(&full, b"gzip", 100).unwrap().as_ref(), b"[3]");
        // The header's own checksum, right and wrong; a flag that nobody has defined.
        let header = [&[0x1f, 0x8b, 8, 2], &packed[4..10]].concat();
        let checksum = CRC.checksum(&header).to_le_bytes();
        let checked = [&header, &checksum[..2], &packed[10..]].concat();
        assert_eq!(inflate(&checked, b"gzip", 100).unwrap().as_ref(), b"[1,");
        let mut wrong = checked.clone();
        wrong[10] ^= 1;
        assert_eq!(inflate(&wrong, b"gzip", 100), Err(BadRequestReason::Encoding));
        wrong = packed.clone();
        wrong[3] = 0x20;
        assert_eq!(inflate(&wrong, b"gzip", 100), Err(BadRequestReason::Encoding));
        // The length counts, too.
        wrong = packed.clone();
        *wrong.last_mut().unwrap() = 1;
        assert_eq!(inflate(&wrong, b"gzip", 100), Err(BadRequestReason::Encoding));
        for end in 0..full.len() {
            assert_eq!(
                inflate(&full[..end], b"gzip", 100),
                Err(BadRequestReason::Encoding),
                "{end}"
            );
        }
    }

    #[test]
    fn bodies_of_every_size() {
        for size in (0..300).chain([4_000, 65_535, 65_536, 200_000]) {
            for body in
                [vec![b'a'; size], (0..size).map(|at| (at.wrapping_mul(at) >> 3) as u8).collect()]
            {
                assert_eq!(
                    inflate(&gzip(&body), b"gzip", 200_000).unwrap().as_ref(),
                    body,
                    "{size}"
                );
            }
        }
    }
}
