//! A lease in a value that all workers of a process share: one worker at a time brings events from the queue to Keen.
//!
//! The embedder reads the value, asks [`claim`] for the new one, and writes it with compare-and-swap. Times are of the wall
//! clock. A lease that is held twice, because the clock was set, does no harm: the queue gives a message to one reader, and
//! Keen recognizes duplicates.

/// How long a lease lasts. Its holder renews it after half of that time.
pub const LEASE_MS: u64 = 30_000;

/// The size of the shared value: the owner and the end of the lease, as little-endian 64-bit numbers.
pub const LEASE_BYTES: usize = 16;

/// The value to write if `owner` may hold the lease from now on. None if another holds it. `current`: the value that is
/// shared now.
///
/// ```
/// use keen_edge::overflow::lease::{LEASE_MS, claim};
///
/// let value = claim(None, 7, 1_000).unwrap();
/// assert_eq!(claim(Some(&value), 8, 2_000), None);
/// assert!(claim(Some(&value), 7, 2_000).is_some());
/// assert!(claim(Some(&value), 8, 1_000 + LEASE_MS).is_some());
/// ```
#[must_use]
pub fn claim(current: Option<&[u8]>, owner: u64, unix_ms: u64) -> Option<[u8; LEASE_BYTES]> {
    let latest = unix_ms.saturating_add(LEASE_MS);
    if let Some((holder, end)) = current.and_then(parse) {
        // An end beyond a whole lease is of a clock that was ahead.
        let is_valid = end > unix_ms && end <= latest;
        if is_valid && holder != owner {
            return None;
        }
    }
    let value = u128::from(owner) | (u128::from(latest) << 64);
    Some(value.to_le_bytes())
}

fn parse(value: &[u8]) -> Option<(u64, u64)> {
    let value: [u8; LEASE_BYTES] = value.try_into().ok()?;
    let value = u128::from_le_bytes(value);
    Some((u64::try_from(value & u128::from(u64::MAX)).ok()?, u64::try_from(value >> 64).ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn claim_of_an_unreadable_or_expired_lease_succeeds() {
        let value = claim(None, 7, 1_000).unwrap();
        assert_eq!(parse(&value), Some((7, 1_000 + LEASE_MS)));
        assert!(claim(Some(b""), 8, 1_000).is_some());
        assert!(claim(Some(b"seventeen bytes!!"), 8, 1_000).is_some());
        assert!(claim(Some(&value), 8, 1_000 + LEASE_MS - 1).is_none());
        assert!(claim(Some(&value), 8, 1_000 + LEASE_MS).is_some());
        // The clock was set back: nobody waits for hours.
        assert!(claim(Some(&value), 8, 999).is_some());
        assert!(claim(Some(&claim(None, u64::MAX, u64::MAX).unwrap()), 8, 0).is_some());
    }
}
