//! A request's headers, read where they lie: one look tells where those stand that are asked for.

/// Headers that each request is asked for, and more than once.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name {
    Method,
    Path,
    Authorization,
    ContentEncoding,
    ContentLength,
    Origin,
    Referer,
    RequestId,
    UserAgent,
}

impl Name {
    const COUNT: usize = 9;

    /// Envoy's names are lower case.
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":method" => Self::Method,
            b":path" => Self::Path,
            b"authorization" => Self::Authorization,
            b"content-encoding" => Self::ContentEncoding,
            b"content-length" => Self::ContentLength,
            b"origin" => Self::Origin,
            b"referer" => Self::Referer,
            b"x-request-id" => Self::RequestId,
            b"user-agent" => Self::UserAgent,
            _ => return None,
        })
    }
}

/// Headers in the ABI's form, as Envoy handed them over: see [`super::hostcalls::header_pairs`].
#[derive(Debug, Default)]
pub(super) struct Headers {
    pairs: Vec<u8>,
    /// Where the first value of each [`Name`] starts and ends.
    named: [Option<(usize, usize)>; Name::COUNT],
}

impl Headers {
    pub(super) fn new(pairs: Vec<u8>) -> Self {
        let mut named = [None; Name::COUNT];
        for (name, value, at) in each(&pairs) {
            let slot = Name::of(name).and_then(|name| named.get_mut(name as usize));
            if let Some(slot @ None) = slot {
                *slot = Some((at, at.wrapping_add(value.len())));
            }
        }
        Self { pairs, named }
    }

    /// The first value of a header; empty where there is none.
    pub(super) fn get(&self, name: Name) -> &[u8] {
        let place = self.named.get(name as usize).copied().flatten();
        place.and_then(|(from, to)| self.pairs.get(from..to)).unwrap_or_default()
    }

    /// The same where it is text.
    pub(super) fn text(&self, name: Name) -> Option<&str> {
        std::str::from_utf8(self.get(name)).ok()
    }

    /// The first value of a header that few requests are asked for.
    pub(super) fn rare(&self, name: &str) -> &[u8] {
        each(&self.pairs)
            .find(|(found, _, _)| *found == name.as_bytes())
            .map_or(&[], |(_, value, _)| value)
    }
}

/// Name and value of each header, and where the value stands among the pairs.
fn each(pairs: &[u8]) -> impl Iterator<Item = (&[u8], &[u8], usize)> {
    let number =
        |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).unwrap_or(usize::MAX);
    let count = pairs.first_chunk::<4>().map_or(0, number);
    let sizes =
        count.checked_mul(8).and_then(|length| pairs.get(4..)?.get(..length)).unwrap_or_default();
    let mut at = sizes.len().saturating_add(4);
    sizes.as_chunks::<8>().0.iter().map_while(move |size| {
        let (name_size, value_size) =
            (number(size.first_chunk::<4>()?), number(size.last_chunk::<4>()?));
        // Each ends in NUL.
        let name_end = at.checked_add(name_size)?;
        let value_start = name_end.checked_add(1)?;
        let value_end = value_start.checked_add(value_size)?;
        let found = (pairs.get(at..name_end)?, pairs.get(value_start..value_end)?, value_start);
        at = value_end.checked_add(1)?;
        Some(found)
    })
}
