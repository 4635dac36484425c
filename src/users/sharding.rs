//! Which partition and shard a user belongs to, and the keys of both in shared data.

use super::SharedData;
use super::record::UserKey;
use super::shard::Usage;
use super::usage_index::{PARTITION_USERS, SHARDS};
use crate::config::UsersSettings;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The key of the [`Layout`]. All other keys begin with it.
pub(super) const LAYOUT_KEY: &str = "keen_edge.users";

/// Minimum size of a shard, in bytes. Some of the largest records fit.
const MIN_SHARD_BYTES: usize = 65_536;

/// The layout that all workers of a process use. Encoded as `partition_count: u64 | seed: u64`,
/// little-endian.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Number of partitions. The keys of partitions and shards contain it.
    pub(super) partition_count: u64,
    /// Seeds the hash that assigns ids to shards. A client that knew it could choose ids in one
    /// shard and evict the other users of that shard.
    pub(super) seed: u64,
}

impl Layout {
    /// Reads the layout and its version. All zeros if there is none.
    pub(super) fn load(shared: &mut impl SharedData) -> (Self, Option<u32>) {
        let (bytes, version) = shared.get(LAYOUT_KEY);
        let mut numbers = bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let mut next = || numbers.next().unwrap_or(0);
        (Self { partition_count: next(), seed: next() }, version)
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [self.partition_count.to_le_bytes(), self.seed.to_le_bytes()].concat()
    }
}

/// A shard of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShardId {
    pub(super) partition: u64,
    pub(super) shard: usize,
}

impl ShardId {
    /// Returns the shard of a user.
    pub(super) fn new(user: UserKey<'_>, settings: UsersSettings, seed: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        user.hash(&mut hasher);
        let (hash, partitions) = (hasher.finish(), partition_count(settings));
        let partition = hash.checked_rem(partitions).unwrap_or(0);
        let rest = hash.checked_div(partitions).unwrap_or(0);
        // Compute in 64 bits, since `usize` has 32 bits in the VM.
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        let shard = rest.checked_rem(shards).and_then(|shard| usize::try_from(shard).ok());
        Self { partition, shard: shard.unwrap_or(0) }
    }

    /// Returns the key of the shard in shared data.
    pub(super) fn key(self, settings: UsersSettings) -> String {
        format!("{}.{}", usage_key(settings, self.partition), self.shard)
    }
}

/// Returns the number of partitions of a store with these settings. Stores with different counts
/// have no key in common.
pub(crate) fn partition_count(settings: UsersSettings) -> u64 {
    settings.max_users.div_ceil(PARTITION_USERS).max(1)
}

/// Returns the maximum usage of one partition.
pub(super) fn partition_quota(settings: UsersSettings) -> Usage {
    let share = |all: u64| {
        i64::try_from(all.checked_div(partition_count(settings)).unwrap_or(0)).unwrap_or(i64::MAX)
    };
    Usage { users: share(settings.max_users), bytes: share(settings.max_bytes) }
}

/// Returns the maximum bytes of one shard: four times its share of all bytes. This bounds how much
/// one lookup reads.
pub(super) fn max_shard_bytes(settings: UsersSettings) -> usize {
    let shards = u64::try_from(SHARDS).unwrap_or(1).saturating_mul(partition_count(settings));
    let share = settings.max_bytes.checked_div(shards).unwrap_or(0).saturating_mul(4);
    usize::try_from(share).unwrap_or(usize::MAX).max(MIN_SHARD_BYTES)
}

/// Returns the key of a partition's usage in shared data.
pub(super) fn usage_key(settings: UsersSettings, partition: u64) -> String {
    format!("{LAYOUT_KEY}.{}.{partition}", partition_count(settings))
}

/// Calls `act` with the keys of all usages and shards of a store with that many partitions.
pub(super) fn for_each_key(partition_count: u64, mut act: impl FnMut(&str)) {
    for partition in 0..partition_count {
        let usage_key = format!("{LAYOUT_KEY}.{partition_count}.{partition}");
        act(&usage_key);
        for shard in 0..SHARDS {
            act(&format!("{usage_key}.{shard}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn shard_id_of_ids_chosen_for_one_shard_differs_with_another_seed() {
        let settings = UsersSettings { max_users: 10_000, max_bytes: 8_388_608, ttl_ms: 1_000 };
        let shard = |id: &String, seed| ShardId::new(UserKey::user_id(7, id), settings, seed);
        let ids = (0..100_000).map(|n| format!("u{n}"));
        let first = ShardId { partition: 0, shard: 0 };
        let chosen: Vec<String> = ids.filter(|id| shard(id, 1) == first).collect();
        assert!(chosen.len() > 100, "{}", chosen.len());
        let shards: BTreeSet<ShardId> = chosen.iter().map(|id| shard(id, 2)).collect();
        assert!(shards.len() > 80, "{}", shards.len());
    }
}
