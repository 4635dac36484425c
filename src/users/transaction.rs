//! One request's view of the users: its lookups and updates, until
//! [`commit`](UserTransaction::commit).

use super::record::{IdKind, OwnedRecord, Record, Update, UserKey};
use super::shard::{MAX_UPDATES_PER_REQUEST, SeenAt, Shard, Usage};
use super::sharding::{
    LAYOUT_KEY, Layout, ShardId, for_each_key, max_shard_bytes, partition_count,
};
use super::{SharedData, User};
use crate::config::UsersSettings;
use std::collections::BTreeMap;

/// Longest id, in bytes.
const MAX_ID_BYTES: usize = 512;
/// A request may merge traits with stored ones of `MERGE_GROWTH` times the bytes of its body plus
/// [`MIN_MERGE_BYTES`].
const MERGE_GROWTH: usize = 1;
const MIN_MERGE_BYTES: usize = 65_536;
/// The events of a request may contain stored traits of `TRAIT_GROWTH` times the bytes of its body
/// plus [`MIN_TRAIT_BYTES`], and at most [`MAX_TRAIT_BYTES`]. Without a bound, a request of many
/// short events could expand into a thousand times its size.
const TRAIT_GROWTH: usize = 3;
const MIN_TRAIT_BYTES: usize = 65_536;
const MAX_TRAIT_BYTES: usize = 4_194_304;
/// A request's events look up stored users until the request has read this much of the store. Each
/// lookup in another shard reads the whole shard.
const EVENT_READS: ReadLimit = ReadLimit { growth: 4, min_bytes: 1_048_576 };
/// The same for a request's updates. They also write what they read.
const UPDATE_READS: ReadLimit = ReadLimit { growth: 40, min_bytes: 1_048_576 };
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
    /// Updates that were not stored: they were too large or too many, their request had read too
    /// much of the store, or other workers kept writing to the same shard.
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
    pub(super) budget: Budget,
    /// Bytes of the request's body. `None`: it may read any number of shards.
    body_bytes: Option<usize>,
    /// Bytes of the shards that this request has read.
    pub(super) read_bytes: usize,
    pub(super) loaded: BTreeMap<ShardId, LoadedShard>,
    pub(super) report: CommitReport,
}

/// What this request may still cost, and what it could not have for that reason.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Bytes of traits in events.
    trait_bytes: usize,
    /// Bytes of stored records that are merged with the request's own traits.
    merge_bytes: usize,
    /// Events without traits.
    pub(super) traits_omitted: u64,
    /// Rejected updates.
    pub(super) rejected: u64,
}

impl Budget {
    /// Allows the merging of any number of records.
    pub(super) const ANY_MERGES: Self = Self {
        trait_bytes: MAX_TRAIT_BYTES,
        merge_bytes: usize::MAX,
        traits_omitted: 0,
        rejected: 0,
    };

    /// Charges the bytes of an event's traits. Returns false if they exceed the bound.
    fn charge_traits(&mut self, bytes: usize) -> bool {
        let left = self.trait_bytes.checked_sub(bytes);
        match left {
            Some(left) => self.trait_bytes = left,
            None => self.traits_omitted = self.traits_omitted.saturating_add(1),
        }
        left.is_some()
    }
}

/// How many bytes of the store a request may read: `growth` times the bytes of its body plus
/// `min_bytes`.
#[derive(Debug, Clone, Copy)]
struct ReadLimit {
    growth: usize,
    min_bytes: usize,
}

impl ReadLimit {
    fn bytes(self, body_bytes: usize) -> usize {
        body_bytes.saturating_mul(self.growth).saturating_add(self.min_bytes)
    }
}

/// A shard that this request has read.
#[derive(Debug, Default)]
pub(super) struct LoadedShard {
    pub(super) shard: Shard,
    pub(super) version: Option<u32>,
    /// Its usage when it was read. `None`: the shard is unchanged.
    pub(super) usage_at_load: Option<Usage>,
    /// The users that this request has looked up, the most recently seen first.
    users: Vec<LoadedUser>,
}

/// A user that this request has looked up.
#[derive(Debug, Default)]
struct LoadedUser {
    key_hash: u64,
    kind: IdKind,
    id: String,
    /// Where its record is in the shard, unless it has expired.
    stored: Option<usize>,
    /// Its record after the first `applied` of `updates`.
    updated: Option<OwnedRecord>,
    last_seen: SeenAt,
    /// Whether this request has updated the user or seen it.
    is_changed: bool,
    /// The updates of this request, kept in case another worker writes the shard first.
    updates: Vec<Update>,
    applied: usize,
}

impl LoadedUser {
    fn key(&self) -> UserKey<'_> {
        UserKey { key_hash: self.key_hash, kind: self.kind, id: &self.id }
    }

    /// Finds its record in its shard.
    fn find(&mut self, shard: &Shard, cutoff: SeenAt) {
        let entry = shard.find(self.key()).filter(|entry| entry.last_seen >= cutoff);
        self.stored = entry.map(|entry| entry.offset);
        if !self.is_changed {
            self.last_seen = entry.map(|entry| entry.last_seen).unwrap_or_default();
        }
        (self.updated, self.applied) = (None, 0);
    }

    fn record<'b>(&'b self, shard: &'b Shard) -> Option<Record<'b>> {
        match &self.updated {
            Some(record) => Some(record.as_record()),
            None => shard.entry_at(self.stored?)?.record(),
        }
    }
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
            budget: Budget::ANY_MERGES,
            body_bytes: None,
            read_bytes: 0,
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

    /// Bounds what the request may cost, by the bytes of its body.
    pub(crate) fn limit_by_body(&mut self, body_bytes: usize) {
        self.budget.merge_bytes =
            body_bytes.saturating_mul(MERGE_GROWTH).saturating_add(MIN_MERGE_BYTES);
        let traits = body_bytes.saturating_mul(TRAIT_GROWTH).saturating_add(MIN_TRAIT_BYTES);
        self.budget.trait_bytes = traits.min(MAX_TRAIT_BYTES);
        self.body_bytes = Some(body_bytes);
    }

    /// Returns the traits of the user with this `userId`, for an event.
    pub(crate) fn profile_for_user_id(&mut self, key_hash: u64, id: &str) -> Option<String> {
        self.load_profile(UserKey::user_id(key_hash, id))
    }

    /// Returns the user with this `anonymousId`, for an event: the linked user, else the anonymous
    /// visitor.
    pub(crate) fn profile_for_anonymous_id(&mut self, key_hash: u64, id: &str) -> Option<User> {
        match self.resolve_link(key_hash, id) {
            Some(user_id) => {
                let traits = self.profile_for_user_id(key_hash, &json_to_text(&user_id)?)?;
                Some(User { id: Some(user_id), traits })
            }
            None => {
                let traits = self.load_profile(UserKey::anonymous_id(key_hash, id))?;
                Some(User { id: None, traits })
            }
        }
    }

    /// Returns the `userId`, as JSON, that an `anonymousId` is linked to.
    pub(crate) fn resolve_link(&mut self, key_hash: u64, id: &str) -> Option<String> {
        self.load_record(UserKey::anonymous_id(key_hash, id), |record, _| match record {
            Record::Link(user_id) => Some(user_id.to_owned()),
            Record::Profile { .. } => None,
        })
    }

    /// Records an update, which [`commit`](Self::commit) writes. Later lookups of this request see
    /// it.
    pub(crate) fn record_update(&mut self, user: UserKey<'_>, update: Update) {
        let is_allowed = user.id.len() <= MAX_ID_BYTES && self.may_load(user, UPDATE_READS);
        match self.next_seen_at().filter(|_| is_allowed) {
            Some(seen_at) => {
                let (loaded, index) = self.load_user(user);
                if let Some(user) = loaded.touch(index, seen_at) {
                    user.updates.push(update);
                }
            }
            None => self.budget.rejected = self.budget.rejected.saturating_add(1),
        }
    }

    /// Charges the bytes of an event's traits. Returns false if the request would exceed its bound.
    pub(crate) fn charge_trait_bytes(&mut self, bytes: usize) -> bool {
        self.budget.charge_traits(bytes)
    }

    /// Returns a user's traits, or none if those of the request exceed the bound.
    fn load_profile(&mut self, user: UserKey<'_>) -> Option<String> {
        self.load_record(user, |record, budget| match record {
            Record::Profile { traits, .. } if budget.charge_traits(traits.len()) => {
                Some(traits.to_owned())
            }
            Record::Profile { .. } => Some(String::new()),
            Record::Link(_) => None,
        })
    }

    /// Returns what `select` extracts from an unexpired record. Notes that the user was seen.
    fn load_record(
        &mut self,
        user: UserKey<'_>,
        select: impl FnOnce(Record<'_>, &mut Budget) -> Option<String>,
    ) -> Option<String> {
        if user.id.len() > MAX_ID_BYTES {
            return None;
        }
        if !self.may_load(user, EVENT_READS) {
            self.budget.traits_omitted = self.budget.traits_omitted.saturating_add(1);
            return None;
        }
        let mut budget = self.budget;
        let (loaded, index) = self.load_user(user);
        loaded.apply_updates(index, &mut budget);
        let found = loaded.users.get(index)?;
        let last_seen = found.last_seen;
        let selected = found.record(&loaded.shard).and_then(|record| select(record, &mut budget));
        self.budget = budget;
        if selected.is_some()
            && self.is_touch_due(last_seen)
            && let Some(seen_at) = self.next_seen_at()
        {
            let (loaded, index) = self.load_user(user);
            loaded.touch(index, seen_at);
        }
        selected
    }

    fn is_touch_due(&self, last_seen: SeenAt) -> bool {
        let is_exact = self.settings.max_users <= EXACT_LRU_MAX_USERS;
        let interval_us =
            if is_exact { 1 } else { TOUCH_INTERVAL_US.min(self.ttl_us() >> 3).max(1) };
        self.now_us >= last_seen.unix_us().saturating_add(interval_us)
    }

    /// Returns when the next update counts as seen. `None`: the request has too many.
    fn next_seen_at(&mut self) -> Option<SeenAt> {
        if self.update_count >= MAX_UPDATES_PER_REQUEST {
            return None;
        }
        self.update_count = self.update_count.saturating_add(1);
        Some(SeenAt::new(self.now_us, self.update_count))
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

    fn shard_id(&mut self, user: UserKey<'_>) -> ShardId {
        let shared = &mut *self.shared;
        let seed = *self.seed.get_or_insert_with(|| Layout::load(shared).0.seed);
        ShardId::new(user, self.settings, seed)
    }

    /// Whether this request has read the user's shard, or may read another one.
    fn may_load(&mut self, user: UserKey<'_>, limit: ReadLimit) -> bool {
        if self.body_bytes.is_none_or(|bytes| self.read_bytes < limit.bytes(bytes)) {
            return true;
        }
        let shard_id = self.shard_id(user);
        self.loaded.contains_key(&shard_id)
    }

    /// Looks up a user in its shard. Returns the shard, and the user's index in it.
    fn load_user(&mut self, user: UserKey<'_>) -> (&mut LoadedShard, usize) {
        let cutoff = self.cutoff();
        let shard_id = self.shard_id(user);
        let loaded = self.load(shard_id);
        let found = loaded.users.iter().position(|known| known.key() == user);
        let index = found.unwrap_or_else(|| {
            let UserKey { key_hash, kind, id } = user;
            let id = id.to_owned();
            let mut user = LoadedUser { key_hash, kind, id, ..LoadedUser::default() };
            user.find(&loaded.shard, cutoff);
            loaded.users.push(user);
            loaded.users.len().saturating_sub(1)
        });
        (loaded, index)
    }

    pub(super) fn load(&mut self, shard_id: ShardId) -> &mut LoadedShard {
        let (shared, settings) = (&mut *self.shared, self.settings);
        let read_bytes = &mut self.read_bytes;
        self.loaded.entry(shard_id).or_insert_with(|| {
            let loaded = LoadedShard::read(shared, settings, shard_id);
            *read_bytes = read_bytes.saturating_add(loaded.shard.bytes().len());
            loaded
        })
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

    /// Notes that a user was seen at `seen_at`, which is later than all other users.
    fn touch(&mut self, index: usize, seen_at: SeenAt) -> Option<&mut LoadedUser> {
        if index >= self.users.len() {
            return None;
        }
        let user = self.users.remove(index);
        self.users.insert(0, LoadedUser { last_seen: seen_at, is_changed: true, ..user });
        self.users.first_mut()
    }

    /// Applies the updates of a user that have not been applied.
    fn apply_updates(&mut self, index: usize, budget: &mut Budget) {
        let Some(user) = self.users.get_mut(index) else { return };
        let updates = user.updates.get(user.applied..).unwrap_or_default();
        if updates.is_empty() {
            return;
        }
        let before = user.record(&self.shard);
        let (record, rejected) = OwnedRecord::updated(before, updates, &mut budget.merge_bytes);
        user.applied = user.updates.len();
        if record.is_some() {
            user.updated = record;
        }
        budget.rejected = budget.rejected.saturating_add(rejected);
    }

    /// Rewrites the shard, once, if this request has changed any of its users.
    pub(super) fn apply_changes(&mut self, limits: Limits, budget: &mut Budget) {
        for index in 0..self.users.len() {
            self.apply_updates(index, budget);
        }
        let changed = || self.users.iter().filter(|user| user.is_changed);
        if changed().next().is_none() {
            return;
        }
        let replaced: Vec<usize> = changed().filter_map(|user| user.stored).collect();
        let records = changed()
            .filter_map(|user| Some((user.key(), user.last_seen, user.record(&self.shard)?)));
        let shard = self.shard.rewritten(records, &replaced, limits.cutoff, limits.shard_bytes);
        self.usage_at_load = Some(self.shard.usage());
        self.shard = shard;
    }

    /// Reads the shard again, because another worker has written it, and applies the changes again.
    pub(super) fn reload(
        &mut self,
        shared: &mut impl SharedData,
        settings: UsersSettings,
        shard_id: ShardId,
        limits: Limits,
    ) {
        let users = std::mem::take(&mut self.users);
        *self = Self::read(shared, settings, shard_id);
        for mut user in users {
            user.find(&self.shard, limits.cutoff);
            self.users.push(user);
        }
        self.apply_changes(limits, &mut Budget::ANY_MERGES.clone());
    }

    /// Returns the number of updates.
    pub(super) fn update_count(&self) -> u64 {
        let count = |sum: usize, user: &LoadedUser| sum.saturating_add(user.updates.len());
        u64::try_from(self.users.iter().fold(0, count)).unwrap_or(u64::MAX)
    }
}

/// Bounds of one shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Records last seen before this have expired.
    cutoff: SeenAt,
    shard_bytes: usize,
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
