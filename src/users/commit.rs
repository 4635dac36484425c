//! Writing back what a request has learned, within the bounds, while other workers do the same.
//!
//! Room is reserved in the ledger before a shard grows, and given back after it has shrunk: what lies in the shards is never
//! more than the bound, whoever writes when.

use super::SharedData;
use super::record::Update;
use super::shard::{SeenAt, Usage};
use super::sharding::{ShardId, bound, ledger_key};
use super::transaction::{CommitReport, LoadedShard, UserTransaction, apply, read};
use super::usage_index::{PartitionUsage, SHARDS};
use std::collections::BinaryHeap;

/// How often a write that others outran is tried.
const ATTEMPTS: usize = 100;

impl<S: SharedData> UserTransaction<'_, S> {
    /// Writes back what was said, within the bounds.
    pub fn keep(mut self) -> CommitReport {
        let mut changed: Vec<u64> = self.changed().map(|(place, _)| place.partition).collect();
        changed.dedup();
        for partition in changed {
            self.keep_in(partition);
        }
        self.kept
    }

    fn keep_in(&mut self, partition: u64) {
        // What the ledger holds for us: room that nobody else takes before we have written.
        let mut reserved = Usage::default();
        for _ in 0..ATTEMPTS {
            if self.reserve(partition, &mut reserved) {
                self.write(partition, &mut reserved);
                if self.changed().all(|(place, _)| place.partition != partition) {
                    break;
                }
            }
        }
        let left: Vec<ShardId> =
            self.changed().map(|(place, _)| *place).filter(|p| p.partition == partition).collect();
        for place in left {
            let said = self.open.remove(&place).map_or(0, |open| open.said.len());
            self.kept.refused = self.kept.refused.saturating_add(u64::try_from(said).unwrap_or(0));
        }
        self.release(partition, reserved);
    }

    /// Enters into the ledger what is about to be written, and forgets the least recently used until it fits. False:
    /// another worker was quicker.
    fn reserve(&mut self, partition: u64, reserved: &mut Usage) -> bool {
        let mut need = self.growth(partition);
        if need.growth() == *reserved {
            return true;
        }
        let key = ledger_key(self.settings, partition);
        let (bytes, version) = self.shared.get(&key);
        let mut ledger = PartitionUsage::of(&bytes);
        ledger.used = ledger.used.minus(*reserved);
        for (place, open) in self.changed().filter(|(place, _)| place.partition == partition) {
            ledger.set_oldest(
                place.shard,
                open.shard.oldest().map_or(SeenAt::of(self.now, u64::MAX), |entry| entry.heard),
            );
        }
        // Someone may be about to write to a shard that is empty: whoever that is was heard of just now.
        let (most, just_now) =
            (bound(self.settings), SeenAt::of(self.now.saturating_add(1_000_000), 0));
        let mut empty = 0;
        while ledger.used.plus(need).exceeds(most) && empty < SHARDS {
            let shard = ledger.oldest();
            let open = self.open(ShardId { partition, shard });
            let found = open.shard.oldest().map(|entry| (entry.heard, entry.weight()));
            let Some((heard, weight)) = found else {
                ledger.set_oldest(shard, just_now);
                empty = empty.saturating_add(1);
                continue;
            };
            ledger.set_oldest(shard, heard);
            if ledger.oldest() != shard {
                continue;
            }
            if open.weighed.is_none() {
                open.weighed = Some(open.shard.weight());
            }
            open.shard.evict();
            ledger.set_oldest(shard, open.shard.oldest().map_or(just_now, |entry| entry.heard));
            need = need.minus(weight);
            self.kept.evicted = self.kept.evicted.saturating_add(1);
        }
        if ledger.used.plus(need).exceeds(most) {
            // Nothing is left anywhere: what the ledger holds was reserved by a VM that has died.
            ledger.used = Usage::default();
        }
        ledger.used = ledger.used.plus(need.growth());
        let taken = self.shared.set(&key, &ledger.bytes(), version);
        if taken {
            *reserved = need.growth();
        }
        taken
    }

    /// Writes the shards of a partition, those that shrink first: the room they leave is the others'. Ends where another
    /// worker was quicker; that shard is read again, and what was said is said again.
    fn write(&mut self, partition: u64, reserved: &mut Usage) {
        let changed = self.changed().filter(|(place, _)| place.partition == partition);
        let growth = |(place, open): (&ShardId, &LoadedShard)| {
            (open.growth().bytes, open.growth().users, *place)
        };
        let grown: BinaryHeap<(i64, i64, ShardId)> = changed.map(growth).collect();
        let limits = self.limits();
        for (bytes, users, place) in grown.into_sorted_vec() {
            let growth = Usage { users, bytes };
            let Some(open) = self.open.get_mut(&place) else { continue };
            if self.shared.set(&place.key(self.settings), open.shard.bytes(), open.version) {
                let said = open.said.iter().filter(|(_, _, said)| *said != Update::Touch).count();
                self.kept.written =
                    self.kept.written.saturating_add(u64::try_from(said).unwrap_or(0));
                *reserved = reserved.minus(growth);
                // Its version is not known: whoever wants it again reads it again.
                self.open.remove(&place);
            } else {
                let said = std::mem::take(&mut open.said);
                *open = read(self.shared, self.settings, place);
                if !said.is_empty() {
                    open.weighed = Some(open.shard.weight());
                }
                for (who, moment, said) in said {
                    apply(&mut open.shard, &who, moment, &said, limits);
                    open.said.push((who, moment, said));
                }
                return;
            }
        }
    }

    fn release(&mut self, partition: u64, reserved: Usage) {
        let key = ledger_key(self.settings, partition);
        for _ in 0..ATTEMPTS {
            if reserved == Usage::default() {
                return;
            }
            let (bytes, version) = self.shared.get(&key);
            let mut ledger = PartitionUsage::of(&bytes);
            ledger.used = ledger.used.minus(reserved);
            if self.shared.set(&key, &ledger.bytes(), version) {
                return;
            }
        }
    }

    fn changed(&self) -> impl Iterator<Item = (&ShardId, &LoadedShard)> {
        self.open.iter().filter(|(_, open)| open.weighed.is_some())
    }

    fn growth(&self, partition: u64) -> Usage {
        let changed = self.changed().filter(|(place, _)| place.partition == partition);
        changed.fold(Usage::default(), |sum, (_, open)| sum.plus(open.growth()))
    }
}
