//! Where users lie: a partition, and a shard in it, under keys of their own.

use super::record::UserKey;
use super::shard::Usage;
use super::usage_index::{PARTITION_USERS, SHARDS};
use crate::config;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Says how many partitions there are: their number is part of every key.
pub(super) const PARTITIONS: &str = "keen_edge.users";

/// A few of the largest records fit any shard.
const LEAST_SHARD_BYTES: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShardId {
    pub(super) partition: u64,
    pub(super) shard: usize,
}

impl ShardId {
    pub(super) fn of(who: &UserKey, settings: config::UsersSettings) -> Self {
        let mut hasher = DefaultHasher::new();
        who.hash(&mut hasher);
        let (hash, count) = (hasher.finish(), partitions(settings));
        let (partition, rest) =
            (hash.checked_rem(count).unwrap_or(0), hash.checked_div(count).unwrap_or(0));
        // In 64 bits: the VM's `usize` has 32.
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        let shard =
            rest.checked_rem(shards).and_then(|shard| usize::try_from(shard).ok()).unwrap_or(0);
        Self { partition, shard }
    }

    /// The key of its shard.
    pub(super) fn key(self, settings: config::UsersSettings) -> String {
        format!("{PARTITIONS}.{}.{}.{}", partitions(settings), self.partition, self.shard)
    }
}

pub(super) fn partitions(settings: config::UsersSettings) -> u64 {
    settings.max_users.div_ceil(PARTITION_USERS).max(1)
}

/// What one partition may hold.
pub(super) fn bound(settings: config::UsersSettings) -> Usage {
    let share = |all: u64| {
        i64::try_from(all.checked_div(partitions(settings)).unwrap_or(0)).unwrap_or(i64::MAX)
    };
    Usage { users: share(settings.max_users), bytes: share(settings.max_bytes) }
}

/// Bytes of one shard, at most: four times its share, so that no choice of ids makes an event's read dear.
pub(super) fn shard_bytes(settings: config::UsersSettings) -> usize {
    let shards = u64::try_from(SHARDS).unwrap_or(1).saturating_mul(partitions(settings));
    let share = settings.max_bytes.checked_div(shards).unwrap_or(0).saturating_mul(4);
    usize::try_from(share).unwrap_or(usize::MAX).max(LEAST_SHARD_BYTES)
}

pub(super) fn ledger_key(settings: config::UsersSettings, partition: u64) -> String {
    format!("{PARTITIONS}.{}.{partition}", partitions(settings))
}

/// The keys of all ledgers and shards where there are so many partitions.
pub(super) fn every_key(partitions: u64, mut act: impl FnMut(&str)) {
    for partition in 0..partitions {
        let ledger = format!("{PARTITIONS}.{partitions}.{partition}");
        act(&ledger);
        for shard in 0..SHARDS {
            act(&format!("{ledger}.{shard}"));
        }
    }
}
