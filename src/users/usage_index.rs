//! The usage of a partition's shards, and which shard may have the least recently used record.

use super::shard::{SeenAt, Usage};

/// Number of shards of a partition.
pub(super) const SHARDS: usize = 512;
/// Maximum number of users of a partition: about 32 per shard.
pub(super) const PARTITION_USERS: u64 = 16_384;

/// The usage of one partition, stored under one key:
///
/// ```text
/// users: u64 | bytes: u64 | oldest: u64, for each of the 512 shards      (little-endian, 4112 bytes)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionUsage {
    /// Usage of the shards, including what is reserved for writes in progress.
    pub(super) used: Usage,
    /// For each shard, a lower bound of its oldest `last_seen`. Corrected when the shard is loaded.
    oldest_by_shard: Vec<SeenAt>,
}

impl PartitionUsage {
    /// Decodes a stored usage. Bytes that are missing are 0.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut numbers =
            bytes.chunks_exact(8).map(|chunk| chunk.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || numbers.next().unwrap_or(0);
        let count = |n: u64| i64::try_from(n).unwrap_or(0);
        Self {
            used: Usage { users: count(next()), bytes: count(next()) },
            oldest_by_shard: (0..SHARDS).map(|_| SeenAt(next())).collect(),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let count = |n: i64| u64::try_from(n).unwrap_or(0).to_le_bytes();
        let mut bytes = Vec::with_capacity(SHARDS.saturating_add(2).saturating_mul(8));
        bytes.extend_from_slice(&count(self.used.users));
        bytes.extend_from_slice(&count(self.used.bytes));
        for seen_at in &self.oldest_by_shard {
            bytes.extend_from_slice(&seen_at.0.to_le_bytes());
        }
        bytes
    }

    pub(super) fn set_oldest(&mut self, shard: usize, oldest: SeenAt) {
        if let Some(slot) = self.oldest_by_shard.get_mut(shard) {
            *slot = oldest;
        }
    }

    /// Returns the shard that may have the least recently used record, and when that was last seen.
    pub(super) fn oldest_shard(&self) -> (usize, SeenAt) {
        let oldest = self.oldest_by_shard.iter().enumerate().min_by_key(|(_, seen_at)| **seen_at);
        oldest.map_or((0, SeenAt::default()), |(shard, seen_at)| (shard, *seen_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_bytes_of_to_bytes_is_equal() {
        let mut usage = PartitionUsage::from_bytes(b"");
        assert_eq!(usage.used, Usage::default());
        usage.used = Usage { users: 3, bytes: 400 };
        for shard in 0..SHARDS {
            let seen_at = SeenAt::new(1_000_000 - u64::try_from(shard).unwrap_or(0), 0);
            usage.set_oldest(shard, seen_at);
        }
        assert_eq!(PartitionUsage::from_bytes(&usage.to_bytes()), usage);
        assert_eq!(usage.oldest_shard().0, SHARDS - 1);
        assert_eq!(PartitionUsage::from_bytes(&[1, 2, 3]).used, Usage::default());
    }
}
