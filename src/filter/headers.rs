//! A request's headers, read where they lie: a header that nobody asks for costs nothing.

/// Headers in the ABI's form, as Envoy handed them over: see [`super::hostcalls::header_pairs`].
#[derive(Debug, Default)]
pub(super) struct Headers(Vec<u8>);

impl Headers {
    pub(super) fn new(pairs: Vec<u8>) -> Self {
        Self(pairs)
    }

    /// The first value of a name; empty where there is none. Envoy's names are lower case.
    pub(super) fn get(&self, name: &str) -> &[u8] {
        self.find(name).unwrap_or_default()
    }

    /// The same where it is text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)).ok()
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        let (count, rest) = self.0.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let (sizes, mut text) = rest.split_at_checked(count.checked_mul(8)?)?;
        for size in sizes.chunks_exact(8) {
            let (name_size, value_size) = size.split_first_chunk::<4>()?;
            let name_size = usize::try_from(u32::from_le_bytes(*name_size)).ok()?;
            let value_size = usize::try_from(u32::from_le_bytes(*value_size.first_chunk::<4>()?)).ok()?;
            let (header, rest) = text.split_at_checked(name_size)?;
            let (value, rest) = rest.get(1..)?.split_at_checked(value_size)?;
            if header == name.as_bytes() {
                return Some(value);
            }
            text = rest.get(1..)?;
        }
        None
    }
}
