//! The records of many users as bytes, the most recently used first.
//!
//! A lookup skips other records without allocating, and a change copies them unchanged. A record:
//!
//! ```text
//! last_seen: u64 | key_hash: u64 | tag: u8 | is_user_id: u8
//! id length: u32 | traits length: u32 | computed length: u32          (all little-endian)
//! id | traits | computed                                              (UTF-8)
//! ```
//!
//! The traits of a link (`tag` 2) are the `userId` as JSON; it has no computed traits.

use super::record::{IdKind, Record, UserKey};

/// Maximum number of updates in one request, which is the number that a [`SeenAt`] can order.
/// Segment accepts 2,500 messages per batch.
pub(super) const MAX_UPDATES_PER_REQUEST: u64 = 0x1fff;

/// When a user was last seen: microseconds since 1970, and in the lower 13 bits the index within a
/// request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeenAt(pub(super) u64);

impl SeenAt {
    pub(super) fn new(unix_us: u64, index: u64) -> Self {
        Self((unix_us << 13) | index.min(MAX_UPDATES_PER_REQUEST))
    }

    pub(super) fn unix_us(self) -> u64 {
        self.0 >> 13
    }
}

/// Users and bytes of records, as counted against the bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Number of profiles. Links do not count.
    pub(super) users: i64,
    /// Bytes, overhead included.
    pub(super) bytes: i64,
}

impl Usage {
    pub(super) fn saturating_add(self, other: Self) -> Self {
        Self {
            users: self.users.saturating_add(other.users),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(super) fn saturating_sub(self, other: Self) -> Self {
        Self {
            users: self.users.saturating_sub(other.users),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether users or bytes are above those of `limit`.
    pub(super) fn exceeds(self, limit: Self) -> bool {
        self.users > limit.users || self.bytes > limit.bytes
    }

    /// Replaces negative numbers by 0.
    pub(super) fn clamp_positive(self) -> Self {
        Self { users: self.users.max(0), bytes: self.bytes.max(0) }
    }
}

/// A record in a shard. Its texts are decoded on demand, since a lookup skips many records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'b> {
    pub(super) last_seen: SeenAt,
    key_hash: u64,
    tag: u8,
    id_kind: IdKind,
    id: &'b [u8],
    traits: &'b [u8],
    computed: &'b [u8],
    /// Its position in the shard.
    pub(super) offset: usize,
    /// The whole record.
    bytes: &'b [u8],
}

/// Bytes that a record costs in addition to its own: its part of a shard's key, version and map
/// node, and of the partition's usage.
const RECORD_OVERHEAD: usize = 32;
/// Sizes are rounded up to a multiple of this. A small change then leaves the usage unchanged,
/// which saves a write.
const SIZE_QUANTUM: usize = 32;

impl<'b> Entry<'b> {
    pub(super) fn record(&self) -> Option<Record<'b>> {
        let traits = std::str::from_utf8(self.traits).ok()?;
        let computed = std::str::from_utf8(self.computed).ok()?;
        match self.tag {
            TAG_PROFILE => Some(Record::Profile { traits, computed }),
            TAG_LINK => Some(Record::Link(traits)),
            _ => None,
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let bytes = self
            .bytes
            .len()
            .saturating_add(RECORD_OVERHEAD)
            .checked_next_multiple_of(SIZE_QUANTUM)
            .unwrap_or(usize::MAX);
        let users = i64::from(self.tag == TAG_PROFILE);
        Usage { users, bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }

    fn is_of(&self, user: UserKey<'_>) -> bool {
        self.id == user.id.as_bytes() && self.id_kind == user.kind && self.key_hash == user.key_hash
    }
}

/// A shard's bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shard {
    bytes: Vec<u8>,
    /// When each record was last seen, its usage and its offset. `None` until a record is evicted.
    index: Option<Vec<(SeenAt, Usage, usize)>>,
}

const TAG_PROFILE: u8 = 1;
const TAG_LINK: u8 = 2;

impl Shard {
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes, index: None }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the records, the most recently used first. Stops at the first bytes that are not a
    /// record.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut offset = 0;
        std::iter::from_fn(move || {
            let entry = self.entry_at(offset)?;
            offset = offset.saturating_add(entry.bytes.len());
            Some(entry)
        })
    }

    pub(super) fn entry_at(&self, offset: usize) -> Option<Entry<'_>> {
        decode(self.bytes.get(offset..)?, offset)
    }

    pub(super) fn find(&self, user: UserKey<'_>) -> Option<Entry<'_>> {
        self.entries().find(|entry| entry.is_of(user))
    }

    pub(super) fn usage(&self) -> Usage {
        self.entries().fold(Usage::default(), |sum, entry| sum.saturating_add(entry.usage()))
    }

    /// Returns the shard with `records` before its own, without its own records at the offsets
    /// `replaced` and those last seen before `cutoff`. Records that would end after `max_bytes`
    /// are left out.
    pub(super) fn rewritten<'r>(
        &self,
        records: impl Iterator<Item = (UserKey<'r>, SeenAt, Record<'r>)>,
        replaced: &[usize],
        cutoff: SeenAt,
        max_bytes: usize,
    ) -> Self {
        let mut bytes = Vec::with_capacity(self.bytes.len().saturating_add(256));
        for (user, last_seen, record) in records {
            let end = bytes.len();
            encode(&mut bytes, user, last_seen, record);
            if bytes.len() > max_bytes {
                bytes.truncate(end);
                return Self::from_bytes(bytes);
            }
        }
        let kept = self
            .entries()
            .filter(|entry| entry.last_seen >= cutoff && !replaced.contains(&entry.offset));
        for entry in kept {
            if bytes.len().saturating_add(entry.bytes.len()) > max_bytes {
                break;
            }
            bytes.extend_from_slice(entry.bytes);
        }
        Self::from_bytes(bytes)
    }

    /// Returns when the least recently used record was last seen, and its usage.
    pub(super) fn oldest(&mut self) -> Option<(SeenAt, Usage)> {
        let (last_seen, usage, _) = self.index().last()?;
        Some((*last_seen, *usage))
    }

    /// Removes the least recently used record.
    pub(super) fn evict(&mut self) {
        if let Some((_, _, offset)) = self.index().pop() {
            self.bytes.truncate(offset);
        }
    }

    fn index(&mut self) -> &mut Vec<(SeenAt, Usage, usize)> {
        let index = self.index.take().unwrap_or_else(|| {
            self.entries().map(|entry| (entry.last_seen, entry.usage(), entry.offset)).collect()
        });
        self.index.insert(index)
    }
}

fn encode(out: &mut Vec<u8>, user: UserKey<'_>, last_seen: SeenAt, record: Record<'_>) {
    let (tag, traits, computed) = match record {
        Record::Profile { traits, computed } => (TAG_PROFILE, traits, computed),
        Record::Link(user_id) => (TAG_LINK, user_id, ""),
    };
    out.extend_from_slice(&last_seen.0.to_le_bytes());
    out.extend_from_slice(&user.key_hash.to_le_bytes());
    out.push(tag);
    out.push(u8::from(user.kind == IdKind::UserId));
    for text in [user.id, traits, computed] {
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    }
    for text in [user.id, traits, computed] {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Bytes before the texts of a record.
const HEADER_BYTES: usize = 30;

/// Decodes the first record of `bytes`, which is at `offset` in its shard.
#[inline]
fn decode(bytes: &[u8], offset: usize) -> Option<Entry<'_>> {
    let (header, texts) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (numbers, rest) = header.split_at(16);
    let mut numbers = numbers.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let (flags, lengths) = rest.split_at(2);
    let mut lengths = lengths.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let mut length = || usize::try_from(lengths.next().unwrap_or(0)).ok();
    let (id, rest) = texts.split_at_checked(length()?)?;
    let (traits, rest) = rest.split_at_checked(length()?)?;
    let (computed, rest) = rest.split_at_checked(length()?)?;
    let &[tag @ (TAG_PROFILE | TAG_LINK), is_user_id] = flags else { return None };
    Some(Entry {
        last_seen: SeenAt(numbers.next().unwrap_or(0)),
        key_hash: numbers.next().unwrap_or(0),
        tag,
        id_kind: if is_user_id == 1 { IdKind::UserId } else { IdKind::AnonymousId },
        id,
        traits,
        computed,
        offset,
        bytes: bytes.get(..bytes.len().saturating_sub(rest.len()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserKey<'_> {
        UserKey::user_id(7, id)
    }

    impl Shard {
        /// Puts a record first, and removes the user's old one.
        fn put(
            &mut self,
            user: UserKey<'_>,
            last_seen: SeenAt,
            record: Record<'_>,
            cutoff: SeenAt,
        ) {
            let old: Vec<usize> = self.find(user).map(|entry| entry.offset).into_iter().collect();
            let new = std::iter::once((user, last_seen, record));
            *self = self.rewritten(new, &old, cutoff, usize::MAX);
        }
    }

    fn id(entry: Entry<'_>) -> &str {
        std::str::from_utf8(entry.id).unwrap_or_default()
    }

    fn profile(traits: &str) -> Record<'_> {
        Record::Profile { traits, computed: "" }
    }

    #[test]
    fn put_and_evict_order_records_by_last_use() {
        let mut shard = Shard::default();
        for (at, id) in [(1, "a"), (2, "b"), (3, "c"), (4, "a")] {
            shard.put(
                user(id),
                SeenAt::new(at, 0),
                profile(&format!("{{\"at\":{at}}}")),
                SeenAt::default(),
            );
        }
        let ids: Vec<&str> = shard.entries().map(id).collect();
        assert_eq!(ids, ["a", "c", "b"]);
        assert_eq!(shard.find(user("a")).and_then(|e| e.record()), Some(profile("{\"at\":4}")));
        assert_eq!(shard.usage().users, 3);
        shard.evict();
        assert_eq!(shard.find(user("b")), None);
        assert_eq!(shard.oldest().map(|(at, _)| at), Some(SeenAt::new(3, 0)));
        assert_eq!(shard.entries().map(id).collect::<Vec<_>>(), ["a", "c"]);
        // Records last seen before the cutoff are removed.
        shard.put(user("d"), SeenAt::new(5, 0), profile(""), SeenAt::new(4, 0));
        assert_eq!(shard.entries().map(id).collect::<Vec<_>>(), ["d", "a"]);
    }

    #[test]
    fn rewritten_ends_before_the_record_over_the_bound() {
        let mut shard = Shard::default();
        for (at, id) in [(1, "a"), (2, "b"), (3, "c")] {
            shard.put(user(id), SeenAt::new(at, 0), profile("{\"x\":1}"), SeenAt::default());
        }
        let record = shard.bytes().len() / 3;
        for (max, new, want) in [
            (3 * record, "m", "mcb"),
            (3 * record - 1, "m", "mc"),
            (3 * record - 1, "mn", "mn"),
            (record, "mn", "m"),
            (record - 1, "m", ""),
        ] {
            let new = new.split("").filter(|id| !id.is_empty());
            let new = new.map(|id| (user(id), SeenAt::new(4, 0), profile("{\"x\":1}")));
            let rewritten = shard.rewritten(new, &[], SeenAt::default(), max);
            assert_eq!(rewritten.entries().map(id).collect::<String>(), want, "{max}");
        }
    }

    #[test]
    fn find_of_other_source_or_kind_is_none() {
        let mut shard = Shard::default();
        shard.put(user("a"), SeenAt::new(1, 0), profile("{\"x\":1}"), SeenAt::default());
        assert_eq!(shard.find(UserKey::user_id(8, "a")), None);
        assert_eq!(shard.find(UserKey::anonymous_id(7, "a")), None);
        assert_eq!(shard.find(user("A")), None);
    }

    #[test]
    fn entries_of_cut_or_arbitrary_bytes_end() {
        let mut shard = Shard::default();
        for id in ["a", "b"] {
            shard.put(user(id), SeenAt::new(1, 0), profile("{\"x\":1}"), SeenAt::default());
        }
        for cut in 0..shard.bytes().len() {
            let cut = Shard::from_bytes(shard.bytes().iter().copied().take(cut).collect());
            assert!(cut.entries().count() < 2);
        }
        assert_eq!(Shard::from_bytes(vec![0xff; 100]).entries().count(), 0);
    }
}
