//! Request bodies as they were before `Content-Encoding`.

use super::answer::Refusal;
use flate2::read::MultiGzDecoder;
use std::borrow::Cow;
use std::io::Read;

/// The body, inflated where `encoding` says so, at most `limit` bytes of it.
///
/// # Errors
/// `TooLarge` over `limit`; `Encoding` where it is unknown, or the gzip is cut or corrupt.
pub fn inflate<'a>(body: &'a [u8], encoding: &[u8], limit: usize) -> Result<Cow<'a, [u8]>, Refusal> {
    let encoding = encoding.trim_ascii();
    let plain = encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity");
    let gzip = encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip");
    let inflated = match (plain, gzip) {
        (true, _) => Cow::Borrowed(body),
        (_, true) => {
            let mut inflated = Vec::new();
            let stop = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            MultiGzDecoder::new(body).take(stop).read_to_end(&mut inflated).map_err(|_| Refusal::Encoding)?;
            Cow::Owned(inflated)
        }
        _ => return Err(Refusal::Encoding),
    };
    if inflated.len() > limit { Err(Refusal::TooLarge) } else { Ok(inflated) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
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
        assert_eq!(inflate(&packed[..packed.len() - 3], b"gzip", 100), Err(Refusal::Encoding));
        let mut corrupt = packed.clone();
        corrupt[12] ^= 0xff;
        assert_eq!(inflate(&corrupt, b"gzip", 100), Err(Refusal::Encoding));
        assert_eq!(inflate(&gzip(&vec![b' '; 10_000_000]), b"GZIP", 1000), Err(Refusal::TooLarge));
        assert_eq!(inflate(b"", b"gzip", 100), Err(Refusal::Encoding));
        assert_eq!(inflate(b"x", b"br", 100), Err(Refusal::Encoding));
        assert_eq!(inflate(b"x", b"", 100).unwrap().as_ref(), b"x");
    }
}
