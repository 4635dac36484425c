//! One request's view of the users: its lookups and updates, until
//! [`commit`](UserTransaction::commit).

use super::record::{Record, Update, UserKey};
use super::shard::{MAX_UPDATES_PER_REQUEST, SeenAt, Shard, Usage};
use super::sharding::{
    LAYOUT_KEY, Layout, ShardId, for_each_key, max_shard_bytes, partition_count,
};
use super::{SharedData, User};
use crate::config::UsersSettings;
use std::collections::BTreeMap;

/// Maximum size of a record's texts, in bytes: half of what Segment accepts as one message.
const MAX_RECORD_BYTES: usize = 16_384;
/// Longest id, in bytes.
const MAX_ID_BYTES: usize = 512;
/// Up to this many users, each event updates `last_seen`, so that eviction is in exact order. With
/// more users `last_seen` is exact to [`TOUCH_INTERVAL_US`], which saves a write for most events.
const EXACT_LRU_MAX_USERS: u64 = 1000;
const TOUCH_INTERVAL_US: u64 = 60_000_000;

/// The outcome of a request's updates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// Updates that were stored, except those that only change `last_seen`.
    pub written: u64,
    /// Records that were evicted to store them.
    pub evicted: u64,
    /// Updates that were not stored: they were too large or too many, or other workers kept writing
    /// to the same shard.
    pub rejected: u64,
    /// Events that contain their user without traits, because the traits of the request had too
    /// many bytes.
    pub traits_omitted: u64,
}

/// One request's view of the users of all sources.
#[derive(Debug)]
pub struct UserTransaction<'s, S> {
    pub(super) shared: &'s mut S,
    pub(super) settings: UsersSettings,
    /// Microseconds since 1970.
    pub(super) now_us: u64,
    /// The seed of the shard hash, once it is known.
    seed: Option<u64>,
    /// Updates of this request so far. A later one counts as seen later.
    update_count: u64,
    /// Bytes of traits in the events of this request so far.
    trait_bytes_used: usize,
    pub(super) loaded: BTreeMap<ShardId, LoadedShard>,
    pub(super) report: CommitReport,
}

/// A shard that this request has read.
#[derive(Debug, Default)]
pub(super) struct LoadedShard {
    pub(super) shard: Shard,
    pub(super) version: Option<u32>,
    /// Its usage when it was read. `None`: the shard is unchanged.
    pub(super) usage_at_load: Option<Usage>,
    /// The updates that changed it, to be applied again if another worker writes first.
    pub(super) updates: Vec<(UserKey, SeenAt, Update)>,
}

impl<'s, S: SharedData> UserTransaction<'s, S> {
    /// Begins a transaction at `now_us`, in microseconds since 1970. Does not read shared data yet.
    pub fn new(shared: &'s mut S, settings: UsersSettings, now_us: u64) -> Self {
        Self {
            shared,
            settings,
            now_us,
            seed: None,
            update_count: 0,
            trait_bytes_used: 0,
            loaded: BTreeMap::new(),
            report: CommitReport::default(),
        }
    }

    /// Uses the seed that [`initialize`](Self::initialize) returned. Otherwise the first lookup
    /// reads it.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// Creates the keys of the store that do not exist. Each worker calls it once, before its first
    /// transaction, and only for a configuration that is in use, because a store of another size is
    /// emptied.
    ///
    /// `seed` must be a number that clients cannot know. Returns the seed that all workers of the
    /// process use, which is the first worker's. Compare-and-swap only protects keys that exist, so
    /// two workers must not run this concurrently.
    pub fn initialize(shared: &mut S, settings: UsersSettings, seed: u64) -> u64 {
        let count = partition_count(settings);
        let (before, version) = Layout::load(shared);
        let is_new = before.partition_count == 0;
        let seed = if is_new { seed } else { before.seed };
        if before.partition_count != count {
            let layout = Layout { partition_count: count, seed };
            shared.set(LAYOUT_KEY, &layout.to_bytes(), version);
            // The keys contain the partition count, so the old values would never be read again.
            for_each_key(before.partition_count, |key| {
                shared.set(key, b"", None);
            });
        }
        for_each_key(count, |key| {
            if shared.get(key).1.is_none() {
                shared.set(key, b"", None);
            }
        });
        seed
    }

    /// Returns the traits of the user with this `userId`.
    pub(crate) fn profile_for_user_id(&mut self, key_hash: u64, id: &str) -> Option<String> {
        self.load_profile(&UserKey::user_id(key_hash, id))
    }

    /// Returns the user with this `anonymousId`: the linked user, else the anonymous visitor.
    pub(crate) fn profile_for_anonymous_id(&mut self, key_hash: u64, id: &str) -> Option<User> {
        let visitor = UserKey::anonymous_id(key_hash, id);
        match self.load_link(&visitor) {
            Some(user_id) => {
                let traits = self.profile_for_user_id(key_hash, &json_to_text(&user_id)?)?;
                Some(User { id: Some(user_id), traits })
            }
            None => self.load_profile(&visitor).map(|traits| User { id: None, traits }),
        }
    }

    /// Returns the `userId`, as JSON, that an `anonymousId` is linked to.
    pub(crate) fn resolve_link(&mut self, key_hash: u64, id: &str) -> Option<String> {
        self.load_link(&UserKey::anonymous_id(key_hash, id))
    }

    /// Records an update. Later lookups of this request see it.
    pub(crate) fn record_update(&mut self, user: UserKey, update: Update) {
        if user.id.len() > MAX_ID_BYTES || self.update_count >= MAX_UPDATES_PER_REQUEST {
            self.report.rejected = self.report.rejected.saturating_add(1);
            return;
        }
        self.update_count = self.update_count.saturating_add(1);
        let (seen_at, limits) = (SeenAt::new(self.now_us, self.update_count), self.limits());
        let loaded = self.load_shard_of(&user);
        if loaded.usage_at_load.is_none() {
            loaded.usage_at_load = Some(loaded.shard.usage());
        }
        let fits = apply(&mut loaded.shard, &user, seen_at, &update, limits);
        loaded.updates.push((user, seen_at, update));
        if !fits {
            self.report.rejected = self.report.rejected.saturating_add(1);
        }
    }

    /// Charges the bytes of an event's traits. Returns false if one request would exceed `max`.
    pub(crate) fn charge_trait_bytes(&mut self, bytes: usize, max: usize) -> bool {
        let used = self.trait_bytes_used.saturating_add(bytes);
        if used <= max {
            self.trait_bytes_used = used;
        } else {
            self.report.traits_omitted = self.report.traits_omitted.saturating_add(1);
        }
        used <= max
    }

    fn load_profile(&mut self, user: &UserKey) -> Option<String> {
        self.load_record(user, |record| match record {
            Record::Profile { traits, .. } => Some(traits.to_owned()),
            Record::Link(_) => None,
        })
    }

    fn load_link(&mut self, visitor: &UserKey) -> Option<String> {
        self.load_record(visitor, |record| match record {
            Record::Link(user_id) => Some(user_id.to_owned()),
            Record::Profile { .. } => None,
        })
    }

    /// Returns what `select` extracts from an unexpired record. Notes that the user was seen.
    fn load_record<T>(
        &mut self,
        user: &UserKey,
        select: impl FnOnce(Record<'_>) -> Option<T>,
    ) -> Option<T> {
        let cutoff = self.cutoff();
        let entry = self.load_shard_of(user).shard.find(user)?;
        if entry.last_seen < cutoff {
            return None;
        }
        let (selected, last_seen) = (select(entry.record()?)?, entry.last_seen);
        self.touch(user, last_seen);
        Some(selected)
    }

    fn touch(&mut self, user: &UserKey, last_seen: SeenAt) {
        let is_exact = self.settings.max_users <= EXACT_LRU_MAX_USERS;
        let interval_us =
            if is_exact { 1 } else { TOUCH_INTERVAL_US.min(self.ttl_us() >> 3).max(1) };
        if self.now_us >= last_seen.unix_us().saturating_add(interval_us) {
            self.record_update(user.clone(), Update::Touch);
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { cutoff: self.cutoff(), shard_bytes: max_shard_bytes(self.settings) }
    }

    /// Records last seen before this have expired.
    fn cutoff(&self) -> SeenAt {
        SeenAt::new(self.now_us.saturating_sub(self.ttl_us()), 0)
    }

    fn ttl_us(&self) -> u64 {
        self.settings.ttl_ms.saturating_mul(1000)
    }

    fn load_shard_of(&mut self, user: &UserKey) -> &mut LoadedShard {
        let shared = &mut *self.shared;
        let seed = *self.seed.get_or_insert_with(|| Layout::load(shared).0.seed);
        self.load(ShardId::new(user, self.settings, seed))
    }

    pub(super) fn load(&mut self, shard_id: ShardId) -> &mut LoadedShard {
        let (shared, settings) = (&mut *self.shared, self.settings);
        self.loaded.entry(shard_id).or_insert_with(|| LoadedShard::read(shared, settings, shard_id))
    }
}

impl LoadedShard {
    pub(super) fn read(
        shared: &mut impl SharedData,
        settings: UsersSettings,
        shard_id: ShardId,
    ) -> Self {
        let (bytes, version) = shared.get(&shard_id.key(settings));
        Self { shard: Shard::from_bytes(bytes), version, ..Self::default() }
    }

    /// Returns the change of its usage since it was read.
    pub(super) fn delta(&self) -> Usage {
        self.shard.usage().saturating_sub(self.usage_at_load.unwrap_or_default())
    }
}

/// Bounds of one shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Records last seen before this have expired.
    cutoff: SeenAt,
    shard_bytes: usize,
}

/// Applies an update to a shard. Returns false if the update is too large and only a part of it is
/// stored.
pub(super) fn apply(
    shard: &mut Shard,
    user: &UserKey,
    seen_at: SeenAt,
    update: &Update,
    limits: Limits,
) -> bool {
    let before = shard
        .find(user)
        .filter(|entry| entry.last_seen >= limits.cutoff)
        .and_then(|entry| entry.record());
    let Some(mut after) = update.apply(before) else { return true };
    let fits = after.len() <= MAX_RECORD_BYTES;
    if !fits {
        // Traits that are too large are dropped together with the earlier ones, which are outdated.
        let less = match update {
            Update::ReplaceTraits(_) => Update::ReplaceTraits(String::new()).apply(before),
            _ => Update::Touch.apply(before),
        };
        let Some(less) = less else { return false };
        after = less;
    }
    shard.put(user, seen_at, after.as_record(), limits.cutoff);
    while shard.bytes().len() > limits.shard_bytes {
        shard.evict();
    }
    fits
}

/// Returns the text of an id from JSON that Keen accepts: the characters of a string, or the digits
/// of a number.
pub(crate) fn json_to_text(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b'-' | b'0'..=b'9' => Some(json.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_to_text_of_string_or_number_is_its_text() {
        for (json, want) in [
            (r#""u\u0041\n""#, Some("uA\n")),
            ("\"\"", Some("")),
            ("12345678901234567890123", Some("12345678901234567890123")),
            ("-1.50", Some("-1.50")),
            ("true", None),
            ("null", None),
            ("{}", None),
            ("\"cut", None),
            ("", None),
        ] {
            assert_eq!(json_to_text(json).as_deref(), want, "{json}");
        }
    }
}
