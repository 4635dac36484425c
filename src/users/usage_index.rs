//! How much all shards of a partition hold, and where the oldest lies.

use super::shard::{SeenAt, Usage};

/// Shards of a partition.
pub(super) const SHARDS: usize = 512;
/// UserTransaction a partition is made for: some 32 a shard.
pub(super) const PARTITION_USERS: u64 = 16_384;

/// The ledger of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionUsage {
    /// What the shards hold, and what is about to be written to them.
    pub(super) used: Usage,
    /// For each shard a time before which nobody in it was heard of last. It may lie too early, and is put right by
    /// whoever looks.
    oldest: Vec<SeenAt>,
}

impl PartitionUsage {
    /// Reads a ledger. Bytes that are none are an empty one.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut numbers =
            bytes.chunks_exact(8).map(|chunk| chunk.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || numbers.next().unwrap_or(0);
        let count = |n: u64| i64::try_from(n).unwrap_or(0);
        Self {
            used: Usage { users: count(next()), bytes: count(next()) },
            oldest: (0..SHARDS).map(|_| SeenAt(next())).collect(),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let count = |n: i64| u64::try_from(n).unwrap_or(0).to_le_bytes();
        let mut bytes = Vec::with_capacity(SHARDS.saturating_add(2).saturating_mul(8));
        bytes.extend_from_slice(&count(self.used.users));
        bytes.extend_from_slice(&count(self.used.bytes));
        for moment in &self.oldest {
            bytes.extend_from_slice(&moment.0.to_le_bytes());
        }
        bytes
    }

    pub(super) fn set_oldest(&mut self, shard: usize, oldest: SeenAt) {
        if let Some(place) = self.oldest.get_mut(shard) {
            *place = oldest;
        }
    }

    /// The shard to look in for the least recently used.
    pub(super) fn oldest(&self) -> usize {
        let oldest = self.oldest.iter().enumerate().min_by_key(|(_, moment)| **moment);
        oldest.map_or(0, |(shard, _)| shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut ledger = PartitionUsage::of(b"");
        assert_eq!(ledger.used, Usage::default());
        ledger.used = Usage { users: 3, bytes: 400 };
        for shard in 0..SHARDS {
            ledger.set_oldest(shard, SeenAt::of(1_000_000 - u64::try_from(shard).unwrap_or(0), 0));
        }
        assert_eq!(PartitionUsage::of(&ledger.bytes()), ledger);
        assert_eq!(ledger.oldest(), SHARDS - 1);
        assert_eq!(PartitionUsage::of(&[1, 2, 3]).used, Usage::default());
    }
}
