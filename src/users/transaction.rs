//! One request's view of the users: what it looks up, what it learns, and the writing back.

use super::record::{Record, Update, UserKey};
use super::shard::{SeenAt, Shard, Usage};
use super::sharding::{PARTITIONS, ShardId, every_key, partitions, shard_bytes};
use super::{SharedData, User};
use crate::config;
use crate::json::read_value;
use std::collections::BTreeMap;

/// Bytes of a record, at most: half of what Segment takes as one call.
const RECORD_BYTES: usize = 16_384;
/// Things that one request may say, at most: as many as a moment can tell apart. Segment takes 2,500 calls a batch.
const SAID: u64 = 0x1fff;
/// Bytes of an id, at most.
const ID_BYTES: usize = 512;
/// Up to this many users it is known to the moment who was heard of last; beyond, to the minute: that spares a write
/// for most events.
const EXACT_USERS: u64 = 1000;
const TOUCH: u64 = 60_000_000;

/// What became of what a request said of users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitReport {
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
pub struct UserTransaction<'s, S> {
    pub(super) shared: &'s mut S,
    pub(super) settings: config::UsersSettings,
    pub(super) now: u64,
    /// How many things this request has said: what it says later counts as later.
    said: u64,
    /// Bytes of traits that events have shown.
    shown: usize,
    pub(super) open: BTreeMap<ShardId, LoadedShard>,
    pub(super) kept: CommitReport,
}

/// A shard that has been read.
#[derive(Debug, Default)]
pub(super) struct LoadedShard {
    pub(super) shard: Shard,
    pub(super) version: Option<u32>,
    /// What it weighed when it was read; known where it is to be written.
    pub(super) weighed: Option<Usage>,
    pub(super) said: Vec<(UserKey, SeenAt, Update)>,
}

impl<'s, S: SharedData> UserTransaction<'s, S> {
    /// The users as of `now`, in microseconds since 1970. Nothing is read before it is asked for.
    pub fn new(shared: &'s mut S, settings: config::UsersSettings, now: u64) -> Self {
        Self {
            shared,
            settings,
            now,
            said: 0,
            shown: 0,
            open: BTreeMap::new(),
            kept: CommitReport::default(),
        }
    }

    /// Makes what is to be shared: once, before there are others. A value is only safe from those who come first where
    /// it is there before they come.
    pub fn prepare(shared: &mut S, settings: config::UsersSettings) {
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
    pub(crate) fn user(&mut self, scope: u64, id: &str) -> Option<String> {
        self.known(&UserKey { scope, is_user: true, id: id.to_owned() })
    }

    /// What is remembered of the visitor `id` of a source, be it under the `userId` that the visitor has got since.
    pub(crate) fn visitor(&mut self, scope: u64, id: &str) -> Option<User> {
        let who = UserKey { scope, is_user: false, id: id.to_owned() };
        match self.named(&who) {
            Some(user) => {
                let traits = self.user(scope, &json_to_text(&user)?)?;
                Some(User { id: Some(user), traits })
            }
            None => self.known(&who).map(|traits| User { id: None, traits }),
        }
    }

    /// The `userId`, as JSON, of whoever is behind an `anonymousId`.
    pub(crate) fn user_of(&mut self, scope: u64, id: &str) -> Option<String> {
        self.named(&UserKey { scope, is_user: false, id: id.to_owned() })
    }

    /// Takes what is said of a user or visitor. What follows in this request sees it.
    pub(crate) fn say(&mut self, who: UserKey, said: Update) {
        if who.id.len() > ID_BYTES || self.said >= SAID {
            self.kept.refused = self.kept.refused.saturating_add(1);
            return;
        }
        self.said = self.said.saturating_add(1);
        let (moment, limits) = (SeenAt::of(self.now, self.said), self.limits());
        let open = self.open(ShardId::of(&who, self.settings));
        if open.weighed.is_none() {
            open.weighed = Some(open.shard.weight());
        }
        let fits = apply(&mut open.shard, &who, moment, &said, limits);
        open.said.push((who, moment, said));
        if !fits {
            self.kept.refused = self.kept.refused.saturating_add(1);
        }
    }

    /// Whether an event may show that many bytes more.
    pub(crate) fn shows(&mut self, bytes: usize, most: usize) -> bool {
        let shown = self.shown.saturating_add(bytes);
        if shown <= most {
            self.shown = shown;
        } else {
            self.kept.not_shown = self.kept.not_shown.saturating_add(1);
        }
        shown <= most
    }

    fn known(&mut self, who: &UserKey) -> Option<String> {
        let expired = self.expired();
        let entry = self
            .open(ShardId::of(who, self.settings))
            .shard
            .find(who)
            .filter(|entry| entry.heard >= expired)?;
        let Some(Record::Profile { traits, .. }) = entry.record() else { return None };
        let (traits, heard) = (traits.to_owned(), entry.heard);
        self.heard(who, heard);
        Some(traits)
    }

    fn named(&mut self, who: &UserKey) -> Option<String> {
        let expired = self.expired();
        let entry = self
            .open(ShardId::of(who, self.settings))
            .shard
            .find(who)
            .filter(|entry| entry.heard >= expired)?;
        let Some(Record::Link(user)) = entry.record() else { return None };
        let (user, heard) = (user.to_owned(), entry.heard);
        self.heard(who, heard);
        Some(user)
    }

    /// An event of that user's came.
    fn heard(&mut self, who: &UserKey, last: SeenAt) {
        let exact = self.settings.max_users <= EXACT_USERS;
        let pause = if exact { 1 } else { TOUCH.min(self.expire() >> 3).max(1) };
        if self.now >= last.micros().saturating_add(pause) {
            self.say(who.clone(), Update::Touch);
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { expired: self.expired(), shard_bytes: shard_bytes(self.settings) }
    }

    fn expired(&self) -> SeenAt {
        SeenAt::of(self.now.saturating_sub(self.expire()), 0)
    }

    fn expire(&self) -> u64 {
        self.settings.ttl_ms.saturating_mul(1000)
    }

    pub(super) fn open(&mut self, place: ShardId) -> &mut LoadedShard {
        let (shared, settings) = (&mut *self.shared, self.settings);
        self.open.entry(place).or_insert_with(|| read(shared, settings, place))
    }
}

impl LoadedShard {
    pub(super) fn growth(&self) -> Usage {
        self.shard.weight().minus(self.weighed.unwrap_or_default())
    }
}

/// What a shard may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Whoever was not heard of since is forgotten.
    expired: SeenAt,
    shard_bytes: usize,
}

/// Says something of a user in a shard. False: it was too large, and something less is remembered.
pub(super) fn apply(
    shard: &mut Shard,
    who: &UserKey,
    moment: SeenAt,
    said: &Update,
    limits: Limits,
) -> bool {
    let before = shard
        .find(who)
        .filter(|entry| entry.heard >= limits.expired)
        .and_then(|entry| entry.record());
    let Some(mut after) = said.of(before) else { return true };
    let fits = after.len() <= RECORD_BYTES;
    if !fits {
        // Of traits that are too large only their user is remembered: the earlier ones are no longer true.
        let less = match said {
            Update::ReplaceTraits(_) => Update::ReplaceTraits(String::new()).of(before),
            _ => Update::Touch.of(before),
        };
        let Some(less) = less else { return false };
        after = less;
    }
    shard.put(who, moment, after.as_record(), limits.expired);
    // Only ids chosen for it fill one shard before all.
    while shard.bytes().len() > limits.shard_bytes {
        shard.evict();
    }
    fits
}

pub(super) fn read(
    shared: &mut impl SharedData,
    settings: config::UsersSettings,
    place: ShardId,
) -> LoadedShard {
    let (bytes, version) = shared.get(&place.key(settings));
    LoadedShard { shard: Shard::of(bytes), version, ..LoadedShard::default() }
}

/// An id, as JSON, as text.
pub(crate) fn json_to_text(json: &str) -> Option<String> {
    read_value(json)?.scalar_text().map(std::borrow::Cow::into_owned)
}
