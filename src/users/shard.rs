//! The records of many users as bytes, the most recently used first.
//!
//! Bytes stay bytes: looking one user up reads over the others without an allocation, and a change copies them as they are.

use super::record::{Record, UserKey};

/// When a user was last heard of: microseconds since 1970, and in the lower 13 bits the place within a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeenAt(pub(super) u64);

impl SeenAt {
    pub(super) fn of(micros: u64, place: u64) -> Self {
        Self((micros << 13) | place.min(0x1fff))
    }

    pub(super) fn micros(self) -> u64 {
        self.0 >> 13
    }
}

/// What records weigh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// UserTransaction: an `anonymousId` that only names one is none.
    pub(super) users: i64,
    /// Bytes, with what a record costs beside its own.
    pub(super) bytes: i64,
}

impl Usage {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            users: self.users.saturating_add(other.users),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            users: self.users.saturating_sub(other.users),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether there is more of either than of `most`.
    pub(super) fn exceeds(self, most: Self) -> bool {
        self.users > most.users || self.bytes > most.bytes
    }

    /// Its negative parts as nothing.
    pub(super) fn growth(self) -> Self {
        Self { users: self.users.max(0), bytes: self.bytes.max(0) }
    }
}

/// A record as it lies in a shard. Its texts are read when they are asked for: an event passes by those of many others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'b> {
    pub(super) heard: SeenAt,
    scope: u64,
    kind: u8,
    is_user: bool,
    id: &'b [u8],
    first: &'b [u8],
    second: &'b [u8],
    /// All of it.
    bytes: &'b [u8],
}

/// What a record costs beside its bytes: its part of a shard's key, version and map node, and of the ledger.
const OVERHEAD: usize = 32;
/// Weights are rounded up to this: small changes weigh nothing, and leave the ledger alone.
const GRAIN: usize = 32;

impl<'b> Entry<'b> {
    pub(super) fn record(&self) -> Option<Record<'b>> {
        let (first, second) =
            (std::str::from_utf8(self.first).ok()?, std::str::from_utf8(self.second).ok()?);
        match self.kind {
            KNOWN => Some(Record::Profile { traits: first, computed: second }),
            NAMED => Some(Record::Link(first)),
            _ => None,
        }
    }

    pub(super) fn weight(&self) -> Usage {
        let bytes = self
            .bytes
            .len()
            .saturating_add(OVERHEAD)
            .checked_next_multiple_of(GRAIN)
            .unwrap_or(usize::MAX);
        let users = i64::from(self.kind == KNOWN);
        Usage { users, bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }

    fn is(&self, who: &UserKey) -> bool {
        self.scope == who.scope && self.is_user == who.is_user && self.id == who.id.as_bytes()
    }
}

/// A shard's bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shard(Vec<u8>);

const KNOWN: u8 = 1;
const NAMED: u8 = 2;

impl Shard {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The records, the most recently used first. Bytes that are none end them.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (entry, after) = read(rest)?;
            rest = after;
            Some(entry)
        })
    }

    pub(super) fn find(&self, who: &UserKey) -> Option<Entry<'_>> {
        self.entries().find(|entry| entry.is(who))
    }

    /// The least recently used.
    pub(super) fn oldest(&self) -> Option<Entry<'_>> {
        self.entries().last()
    }

    pub(super) fn weight(&self) -> Usage {
        self.entries().fold(Usage::default(), |sum, entry| sum.plus(entry.weight()))
    }

    /// Puts a record in front, in place of the one of the same id. Those not heard of since `expired` go.
    pub(super) fn put(
        &mut self,
        who: &UserKey,
        heard: SeenAt,
        record: Record<'_>,
        expired: SeenAt,
    ) {
        let mut bytes = Vec::with_capacity(self.0.len().saturating_add(256));
        write(&mut bytes, who, heard, record);
        for entry in self.entries().filter(|entry| !entry.is(who) && entry.heard >= expired) {
            bytes.extend_from_slice(entry.bytes);
        }
        self.0 = bytes;
    }

    /// Forgets the least recently used.
    pub(super) fn evict(&mut self) {
        let length = self.oldest().map_or(0, |entry| entry.bytes.len());
        let kept =
            self.entries().map(|entry| entry.bytes.len()).fold(0_usize, usize::saturating_add);
        self.0.truncate(kept.saturating_sub(length));
    }
}

fn write(out: &mut Vec<u8>, who: &UserKey, heard: SeenAt, record: Record<'_>) {
    let (kind, first, second) = match record {
        Record::Profile { traits, computed } => (KNOWN, traits, computed),
        Record::Link(user) => (NAMED, user, ""),
    };
    out.extend_from_slice(&heard.0.to_le_bytes());
    out.extend_from_slice(&who.scope.to_le_bytes());
    out.push(kind);
    out.push(u8::from(who.is_user));
    for text in [who.id.as_str(), first, second] {
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    }
    for text in [who.id.as_str(), first, second] {
        out.extend_from_slice(text.as_bytes());
    }
}

fn read(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (heard, rest) = bytes.split_first_chunk::<8>()?;
    let (scope, rest) = rest.split_first_chunk::<8>()?;
    let (&[kind, is_user], rest) = rest.split_first_chunk::<2>()?;
    let length = |rest: &mut &[u8]| {
        let (length, after) = rest.split_first_chunk::<4>().map(|(l, after)| (*l, after))?;
        *rest = after;
        usize::try_from(u32::from_le_bytes(length)).ok()
    };
    let mut rest = rest;
    let lengths = [length(&mut rest)?, length(&mut rest)?, length(&mut rest)?];
    let mut text = |length: usize| {
        let (text, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(text)
    };
    let [id, first, second] = lengths;
    let (id, first, second) = (text(id)?, text(first)?, text(second)?);
    let entry = Entry {
        heard: SeenAt(u64::from_le_bytes(*heard)),
        scope: u64::from_le_bytes(*scope),
        kind: (kind == KNOWN || kind == NAMED).then_some(kind)?,
        is_user: is_user == 1,
        id,
        first,
        second,
        bytes: bytes.get(..bytes.len().saturating_sub(rest.len()))?,
    };
    Some((entry, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(id: &str) -> UserKey {
        UserKey { scope: 7, is_user: true, id: id.to_owned() }
    }

    fn id(entry: Entry<'_>) -> &str {
        std::str::from_utf8(entry.id).unwrap_or_default()
    }

    fn known(traits: &str) -> Record<'_> {
        Record::Profile { traits, computed: "" }
    }

    #[test]
    fn the_latest_is_first_and_the_oldest_goes() {
        let mut shard = Shard::default();
        for (at, id) in [(1, "a"), (2, "b"), (3, "c"), (4, "a")] {
            shard.put(
                &who(id),
                SeenAt::of(at, 0),
                known(&format!("{{\"at\":{at}}}")),
                SeenAt::default(),
            );
        }
        let ids: Vec<&str> = shard.entries().map(id).collect();
        assert_eq!(ids, ["a", "c", "b"]);
        assert_eq!(shard.find(&who("a")).and_then(|e| e.record()), Some(known("{\"at\":4}")));
        assert_eq!(shard.weight().users, 3);
        shard.evict();
        assert_eq!(shard.find(&who("b")), None);
        assert_eq!(shard.oldest().map(id), Some("c"));
        // Whoever was not heard of since goes when another comes.
        shard.put(&who("d"), SeenAt::of(5, 0), known(""), SeenAt::of(4, 0));
        assert_eq!(shard.entries().map(id).collect::<Vec<_>>(), ["d", "a"]);
    }

    #[test]
    fn ids_of_other_kinds_and_sources_are_others() {
        let mut shard = Shard::default();
        shard.put(&who("a"), SeenAt::of(1, 0), known("{\"x\":1}"), SeenAt::default());
        assert_eq!(shard.find(&UserKey { scope: 8, ..who("a") }), None);
        assert_eq!(shard.find(&UserKey { is_user: false, ..who("a") }), None);
        assert_eq!(shard.find(&who("A")), None);
    }

    #[test]
    fn bytes_of_any_kind_are_read() {
        let mut shard = Shard::default();
        for id in ["a", "b"] {
            shard.put(&who(id), SeenAt::of(1, 0), known("{\"x\":1}"), SeenAt::default());
        }
        for cut in 0..shard.bytes().len() {
            let cut = Shard::of(shard.bytes().iter().copied().take(cut).collect());
            assert!(cut.entries().count() < 2);
        }
        assert_eq!(Shard::of(vec![0xff; 100]).entries().count(), 0);
    }
}
