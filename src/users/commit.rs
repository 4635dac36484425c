//! Writes a request's updates to shared data, within the bounds and concurrently with other
//! workers.
//!
//! A request reserves capacity in the partition's usage before a shard grows, and releases it after
//! a shard has shrunk. The shards therefore never exceed the bound, in any order of writes.

use super::SharedData;
use super::shard::{SeenAt, Usage};
use super::sharding::{ShardId, partition_quota, usage_key};
use super::transaction::{CommitReport, LoadedShard, UserTransaction};
use super::usage_index::{PartitionUsage, SHARDS};
use std::collections::BinaryHeap;

/// Maximum attempts at a write while other workers write first.
const MAX_CAS_ATTEMPTS: usize = 100;
/// How far in the future an empty shard counts as last used, in microseconds, because a worker may
/// be about to write to it.
const EMPTY_SHARD_LEAD_US: u64 = 1_000_000;

impl<S: SharedData> UserTransaction<'_, S> {
    /// Writes the updates, within the bounds.
    pub fn commit(mut self) -> CommitReport {
        if !self.loaded.is_empty() {
            self.commit_shards();
        }
        self.report.rejected = self.report.rejected.saturating_add(self.budget.rejected);
        self.report.traits_omitted = self.budget.traits_omitted;
        self.report
    }

    fn commit_shards(&mut self) {
        let limits = self.limits();
        for loaded in self.loaded.values_mut() {
            loaded.apply_changes(limits, &mut self.budget);
        }
        let mut partitions: Vec<u64> =
            self.dirty_shards().map(|(shard_id, _)| shard_id.partition).collect();
        partitions.dedup();
        for partition in partitions {
            self.commit_partition(partition);
        }
    }

    fn commit_partition(&mut self, partition: u64) {
        // Usage reserved in the partition for this request's writes.
        let mut reserved = Usage::default();
        for _ in 0..MAX_CAS_ATTEMPTS {
            if self.reserve(partition, &mut reserved) {
                self.write(partition, &mut reserved);
                if self.dirty_shards_of(partition).next().is_none() {
                    break;
                }
            }
        }
        let left: Vec<ShardId> =
            self.dirty_shards_of(partition).map(|(shard_id, _)| *shard_id).collect();
        for shard_id in left {
            let updates = self.loaded.remove(&shard_id).map_or(0, |loaded| loaded.update_count());
            self.report.rejected = self.report.rejected.saturating_add(updates);
        }
        self.release(partition, reserved);
    }

    /// Reserves capacity for the dirty shards, and evicts the least recently used records until
    /// they fit. Returns false if another worker has written first.
    fn reserve(&mut self, partition: u64, reserved: &mut Usage) -> bool {
        let mut need = self.pending_delta(partition);
        if need.clamp_positive() == *reserved {
            return true;
        }
        let key = usage_key(self.settings, partition);
        let (bytes, version) = self.shared.get(&key);
        let mut usage = PartitionUsage::from_bytes(&bytes);
        usage.used = usage.used.saturating_sub(*reserved);
        let dirty = self.loaded.iter_mut().filter(|(shard_id, loaded)| {
            shard_id.partition == partition && loaded.usage_at_load.is_some()
        });
        for (shard_id, loaded) in dirty {
            let oldest = loaded.shard.oldest().map(|(last_seen, _)| last_seen);
            let oldest = oldest.unwrap_or(SeenAt::new(self.now_us, u64::MAX));
            usage.set_oldest(shard_id.shard, oldest);
        }
        let quota = partition_quota(self.settings);
        let just_now = SeenAt::new(self.now_us.saturating_add(EMPTY_SHARD_LEAD_US), 0);
        let (mut empty_shards, mut evicted) = (0, 0_u64);
        while usage.used.saturating_add(need).exceeds(quota) && empty_shards < SHARDS {
            let (shard, recorded) = usage.oldest_shard();
            let loaded = self.load(ShardId { partition, shard });
            let Some((last_seen, freed)) = loaded.shard.oldest() else {
                usage.set_oldest(shard, just_now);
                empty_shards = empty_shards.saturating_add(1);
                continue;
            };
            if last_seen <= recorded {
                if loaded.usage_at_load.is_none() {
                    loaded.usage_at_load = Some(loaded.shard.usage());
                }
                loaded.shard.evict();
                need = need.saturating_sub(freed);
                evicted = evicted.saturating_add(1);
            }
            let oldest = loaded.shard.oldest().map_or(just_now, |(last_seen, _)| last_seen);
            usage.set_oldest(shard, oldest);
        }
        self.report.evicted = self.report.evicted.saturating_add(evicted);
        if usage.used.saturating_add(need).exceeds(quota) {
            // All shards are empty, so the rest was reserved by a VM that has ended.
            usage.used = Usage::default();
        }
        usage.used = usage.used.saturating_add(need.clamp_positive());
        let is_written = self.shared.set(&key, &usage.to_bytes(), version);
        if is_written {
            *reserved = need.clamp_positive();
        }
        is_written
    }

    /// Writes the dirty shards of a partition. Shards that shrink come first, since they free
    /// capacity for the others. Stops if another worker has written first: that shard is then read
    /// again, and its updates are reapplied.
    fn write(&mut self, partition: u64, reserved: &mut Usage) {
        let deltas: BinaryHeap<(i64, i64, ShardId)> = self
            .dirty_shards_of(partition)
            .map(|(shard_id, loaded)| (loaded.delta().bytes, loaded.delta().users, *shard_id))
            .collect();
        let limits = self.limits();
        for (bytes, users, shard_id) in deltas.into_sorted_vec() {
            let Some(loaded) = self.loaded.get_mut(&shard_id) else { continue };
            let key = shard_id.key(self.settings);
            if self.shared.set(&key, loaded.shard.bytes(), loaded.version) {
                self.report.written = self.report.written.saturating_add(loaded.update_count());
                *reserved = reserved.saturating_sub(Usage { users, bytes });
                // Its new version is unknown, so it is read again if it is needed again.
                self.loaded.remove(&shard_id);
            } else {
                loaded.reload(self.shared, self.settings, shard_id, limits);
                return;
            }
        }
    }

    /// Releases capacity that was reserved and not used.
    fn release(&mut self, partition: u64, reserved: Usage) {
        let key = usage_key(self.settings, partition);
        for _ in 0..MAX_CAS_ATTEMPTS {
            if reserved == Usage::default() {
                return;
            }
            let (bytes, version) = self.shared.get(&key);
            let mut usage = PartitionUsage::from_bytes(&bytes);
            usage.used = usage.used.saturating_sub(reserved);
            if self.shared.set(&key, &usage.to_bytes(), version) {
                return;
            }
        }
    }

    /// Returns the shards to write.
    fn dirty_shards(&self) -> impl Iterator<Item = (&ShardId, &LoadedShard)> {
        self.loaded.iter().filter(|(_, loaded)| loaded.usage_at_load.is_some())
    }

    fn dirty_shards_of(&self, partition: u64) -> impl Iterator<Item = (&ShardId, &LoadedShard)> {
        self.dirty_shards().filter(move |(shard_id, _)| shard_id.partition == partition)
    }

    /// Returns the change in usage of a partition's dirty shards since they were read.
    fn pending_delta(&self, partition: u64) -> Usage {
        self.dirty_shards_of(partition)
            .fold(Usage::default(), |sum, (_, loaded)| sum.saturating_add(loaded.delta()))
    }
}
