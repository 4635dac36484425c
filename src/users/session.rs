//! One request's view of the users: what it looks up, what it learns, and the writing back.

use super::ledger::{Ledger, PARTITION_USERS, SHARDS};
use super::record::{Record, Said, Who};
use super::shard::{Moment, Shard, Weight};
use super::{SharedData, User};
use crate::config;
use crate::json::Cursor;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of a record, at most: half of what Segment takes as one call.
const RECORD_BYTES: usize = 16_384;
/// Bytes of a shard, at most, so that no choice of ids makes an event's read dear.
const SHARD_BYTES: usize = 262_144;
/// Bytes of an id, at most.
const ID_BYTES: usize = 512;
/// Up to this many users it is known to the moment who was heard of last; beyond, to the minute: that spares a write
/// for most events.
const EXACT_USERS: u64 = 1000;
const TOUCH: u64 = 60_000_000;
/// How often a write that others outran is tried.
const ATTEMPTS: usize = 100;
/// Says how many partitions there are: their number is part of every key.
const PARTITIONS: &str = "keen_edge.users";

/// What became of what a request said of users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Things remembered, those aside that only say that a user was heard of.
    pub written: u64,
    /// Records that had to go for them: the bound was reached.
    pub evicted: u64,
    /// Traits that were not remembered: too large, or other workers kept writing at the same place.
    pub refused: u64,
    /// Events that show their user without traits: those of the request had become too many bytes.
    pub not_shown: u64,
}

/// The users of all sources, as one request sees them.
#[derive(Debug)]
pub struct Users<'s, S> {
    shared: &'s mut S,
    settings: config::Users,
    now: u64,
    /// How many things this request has said: what it says later counts as later.
    said: u64,
    /// Bytes of traits that events have shown.
    shown: usize,
    open: BTreeMap<Place, Open>,
    kept: Kept,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    partition: u64,
    shard: usize,
}

/// A shard that has been read.
#[derive(Debug, Default)]
struct Open {
    shard: Shard,
    version: Option<u32>,
    /// What it weighed when it was read; known where it is to be written.
    weighed: Option<Weight>,
    said: Vec<(Who, Moment, Said)>,
}

impl<'s, S: SharedData> Users<'s, S> {
    /// The users as of `now`, in microseconds since 1970. Nothing is read before it is asked for.
    pub fn new(shared: &'s mut S, settings: config::Users, now: u64) -> Self {
        Self { shared, settings, now, said: 0, shown: 0, open: BTreeMap::new(), kept: Kept::default() }
    }

    /// Makes what is to be shared: once, before there are others. A value is only safe from those who come first where
    /// it is there before they come.
    pub fn prepare(shared: &mut S, settings: config::Users) {
        let count = partitions(settings);
        let (before, version) = shared.get(PARTITIONS);
        let before = before.try_into().map_or(0, u64::from_le_bytes);
        if before != count {
            shared.set(PARTITIONS, &count.to_le_bytes(), version);
            // Of another size there are other keys, and nobody finds the old ones again.
            every_key(before, |key| {
                shared.set(key, b"", None);
            });
        }
        every_key(count, |key| {
            if shared.get(key).1.is_none() {
                shared.set(key, b"", None);
            }
        });
    }

    /// What is remembered of the user `id` of a source.
    pub(super) fn user(&mut self, scope: u64, id: &str) -> Option<String> {
        self.known(&Who { scope, is_user: true, id: id.to_owned() })
    }

    /// What is remembered of the visitor `id` of a source, be it under the `userId` that the visitor has got since.
    pub(super) fn visitor(&mut self, scope: u64, id: &str) -> Option<User> {
        let who = Who { scope, is_user: false, id: id.to_owned() };
        match self.named(&who) {
            Some(user) => {
                let traits = self.user(scope, &text(&user)?)?;
                Some(User { id: Some(user), traits })
            }
            None => self.known(&who).map(|traits| User { id: None, traits }),
        }
    }

    /// The `userId`, as JSON, of whoever is behind an `anonymousId`.
    pub(super) fn user_of(&mut self, scope: u64, id: &str) -> Option<String> {
        self.named(&Who { scope, is_user: false, id: id.to_owned() })
    }

    /// Takes what is said of a user or visitor. What follows in this request sees it.
    pub(super) fn say(&mut self, who: Who, said: Said) {
        if who.id.len() > ID_BYTES {
            self.kept.refused = self.kept.refused.saturating_add(1);
            return;
        }
        self.said = self.said.saturating_add(1);
        let (moment, expired) = (Moment::of(self.now, self.said), self.expired());
        let open = self.open(self.place(&who));
        if open.weighed.is_none() {
            open.weighed = Some(open.shard.weight());
        }
        let fits = apply(&mut open.shard, &who, moment, &said, expired);
        open.said.push((who, moment, said));
        if !fits {
            self.kept.refused = self.kept.refused.saturating_add(1);
        }
    }

    /// Whether an event may show that many bytes more.
    pub(super) fn shows(&mut self, bytes: usize, most: usize) -> bool {
        let shown = self.shown.saturating_add(bytes);
        if shown <= most {
            self.shown = shown;
        } else {
            self.kept.not_shown = self.kept.not_shown.saturating_add(1);
        }
        shown <= most
    }

    /// Writes back what was said, within the bounds.
    pub fn keep(mut self) -> Kept {
        let mut changed: Vec<u64> = self.changed().map(|(place, _)| place.partition).collect();
        changed.dedup();
        for partition in changed {
            self.keep_in(partition);
        }
        self.kept
    }

    fn known(&mut self, who: &Who) -> Option<String> {
        let expired = self.expired();
        let entry = self.open(self.place(who)).shard.find(who).filter(|entry| entry.heard >= expired)?;
        let Some(Record::Known { traits, .. }) = entry.record() else { return None };
        let (traits, heard) = (traits.to_owned(), entry.heard);
        self.heard(who, heard);
        Some(traits)
    }

    fn named(&mut self, who: &Who) -> Option<String> {
        let expired = self.expired();
        let entry = self.open(self.place(who)).shard.find(who).filter(|entry| entry.heard >= expired)?;
        let Some(Record::Named(user)) = entry.record() else { return None };
        let (user, heard) = (user.to_owned(), entry.heard);
        self.heard(who, heard);
        Some(user)
    }

    /// An event of that user's came.
    fn heard(&mut self, who: &Who, last: Moment) {
        let exact = self.settings.max <= EXACT_USERS;
        let pause = if exact { 1 } else { TOUCH.min(self.expire() >> 3).max(1) };
        if self.now >= last.micros().saturating_add(pause) {
            self.say(who.clone(), Said::Heard);
        }
    }

    fn expired(&self) -> Moment {
        Moment::of(self.now.saturating_sub(self.expire()), 0)
    }

    fn expire(&self) -> u64 {
        self.settings.expire_ms.saturating_mul(1000)
    }

    fn place(&self, who: &Who) -> Place {
        let mut hasher = DefaultHasher::new();
        who.hash(&mut hasher);
        let (hash, count) = (hasher.finish(), partitions(self.settings));
        let (partition, rest) = (hash.checked_rem(count).unwrap_or(0), hash.checked_div(count).unwrap_or(0));
        // In 64 bits: the VM's `usize` has 32.
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        let shard = rest.checked_rem(shards).and_then(|shard| usize::try_from(shard).ok()).unwrap_or(0);
        Place { partition, shard }
    }

    fn open(&mut self, place: Place) -> &mut Open {
        let (shared, settings) = (&mut *self.shared, self.settings);
        self.open.entry(place).or_insert_with(|| read(shared, settings, place))
    }

    fn changed(&self) -> impl Iterator<Item = (&Place, &Open)> {
        self.open.iter().filter(|(_, open)| open.weighed.is_some())
    }

    fn keep_in(&mut self, partition: u64) {
        // What the ledger holds for us: room that nobody else takes before we have written.
        let mut reserved = Weight::default();
        for _ in 0..ATTEMPTS {
            if self.reserve(partition, &mut reserved) {
                self.write(partition, &mut reserved);
                if self.changed().all(|(place, _)| place.partition != partition) {
                    break;
                }
            }
        }
        let left: Vec<Place> = self.changed().map(|(place, _)| *place).filter(|p| p.partition == partition).collect();
        for place in left {
            let said = self.open.remove(&place).map_or(0, |open| open.said.len());
            self.kept.refused = self.kept.refused.saturating_add(u64::try_from(said).unwrap_or(0));
        }
        self.release(partition, reserved);
    }

    /// Enters into the ledger what is about to be written, and forgets the least recently used until it fits. False:
    /// another worker was quicker.
    fn reserve(&mut self, partition: u64, reserved: &mut Weight) -> bool {
        let mut need = self.growth(partition);
        if need.growth() == *reserved {
            return true;
        }
        let key = ledger_key(self.settings, partition);
        let (bytes, version) = self.shared.get(&key);
        let mut ledger = Ledger::of(&bytes);
        ledger.used = ledger.used.minus(*reserved);
        for (place, open) in self.changed().filter(|(place, _)| place.partition == partition) {
            ledger.set_oldest(
                place.shard,
                open.shard.oldest().map_or(Moment::of(self.now, u64::MAX), |entry| entry.heard),
            );
        }
        // Someone may be about to write to a shard that is empty: whoever that is was heard of just now.
        let (most, just_now) = (bound(self.settings), Moment::of(self.now.saturating_add(1_000_000), 0));
        let mut empty = 0;
        while ledger.used.plus(need).exceeds(most) && empty < SHARDS {
            let shard = ledger.oldest();
            let open = self.open(Place { partition, shard });
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
            ledger.used = Weight::default();
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
    fn write(&mut self, partition: u64, reserved: &mut Weight) {
        let mut changed: Vec<(Weight, Place)> = self
            .changed()
            .filter(|(place, _)| place.partition == partition)
            .map(|(place, open)| (open.growth(), *place))
            .collect();
        changed.sort_by_key(|(growth, _)| (growth.bytes, growth.users));
        let expired = self.expired();
        for (growth, place) in changed {
            let Some(open) = self.open.get_mut(&place) else { continue };
            if self.shared.set(&shard_key(self.settings, place), open.shard.bytes(), open.version) {
                let said = open.said.iter().filter(|(_, _, said)| *said != Said::Heard).count();
                self.kept.written = self.kept.written.saturating_add(u64::try_from(said).unwrap_or(0));
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
                    apply(&mut open.shard, &who, moment, &said, expired);
                    open.said.push((who, moment, said));
                }
                return;
            }
        }
    }

    fn release(&mut self, partition: u64, reserved: Weight) {
        let key = ledger_key(self.settings, partition);
        for _ in 0..ATTEMPTS {
            if reserved == Weight::default() {
                return;
            }
            let (bytes, version) = self.shared.get(&key);
            let mut ledger = Ledger::of(&bytes);
            ledger.used = ledger.used.minus(reserved);
            if self.shared.set(&key, &ledger.bytes(), version) {
                return;
            }
        }
    }

    fn growth(&self, partition: u64) -> Weight {
        let changed = self.changed().filter(|(place, _)| place.partition == partition);
        changed.fold(Weight::default(), |sum, (_, open)| sum.plus(open.growth()))
    }
}

impl Open {
    fn growth(&self) -> Weight {
        self.shard.weight().minus(self.weighed.unwrap_or_default())
    }
}

/// Says something of a user in a shard. False: it was too large, and something less is remembered.
fn apply(shard: &mut Shard, who: &Who, moment: Moment, said: &Said, expired: Moment) -> bool {
    let before = shard.find(who).filter(|entry| entry.heard >= expired).and_then(|entry| entry.record());
    let Some(mut after) = said.of(before) else { return true };
    let fits = after.len() <= RECORD_BYTES;
    if !fits {
        // Of traits that are too large only their user is remembered: the earlier ones are no longer true.
        let less = match said {
            Said::Traits(_) => Said::Traits(String::new()).of(before),
            _ => Said::Heard.of(before),
        };
        let Some(less) = less else { return false };
        after = less;
    }
    shard.put(who, moment, after.as_record(), expired);
    // Only ids chosen for it fill one shard before all.
    while shard.bytes().len() > SHARD_BYTES {
        shard.evict();
    }
    fits
}

fn read(shared: &mut impl SharedData, settings: config::Users, place: Place) -> Open {
    let (bytes, version) = shared.get(&shard_key(settings, place));
    Open { shard: Shard::of(bytes), version, ..Open::default() }
}

/// An id, as JSON, as text.
pub(super) fn text(json: &str) -> Option<String> {
    Cursor::new(json).value().ok()?.text().map(std::borrow::Cow::into_owned)
}

fn partitions(settings: config::Users) -> u64 {
    settings.max.div_ceil(PARTITION_USERS).max(1)
}

/// What one partition may hold.
fn bound(settings: config::Users) -> Weight {
    let share = |all: u64| i64::try_from(all.checked_div(partitions(settings)).unwrap_or(0)).unwrap_or(i64::MAX);
    Weight { users: share(settings.max), bytes: share(settings.max_bytes) }
}

fn ledger_key(settings: config::Users, partition: u64) -> String {
    format!("{PARTITIONS}.{}.{partition}", partitions(settings))
}

fn shard_key(settings: config::Users, place: Place) -> String {
    format!("{PARTITIONS}.{}.{}.{}", partitions(settings), place.partition, place.shard)
}

fn every_key(partitions: u64, mut act: impl FnMut(&str)) {
    for partition in 0..partitions {
        let ledger = format!("{PARTITIONS}.{partitions}.{partition}");
        act(&ledger);
        for shard in 0..SHARDS {
            act(&format!("{ledger}.{shard}"));
        }
    }
}
