//! What identify calls said of users, for their later events: bounded, and shared by the workers of a host.
//!
//! A user is found by `userId` and by `anonymousId`, within one source. What is remembered lies in [shards](shard) of
//! shared data, many users a shard, so that an event costs one read. A [ledger](ledger) counts what all shards hold, and
//! knows how long ago the least recently used of each was heard of: whoever comes over the bound goes in that order,
//! wherever they lie.
//!
//! | file | |
//! |---|---|
//! | `record` | what is remembered of one user, and how an identify changes it |
//! | `shard` | the records of many users as bytes, the most recently used first |
//! | `ledger` | how much there is in all, and where the oldest lies |
//! | `layout` | which shard an id belongs to, and the keys of shards and ledgers |
//! | `session` | one request: looks users up, and gathers what it learns |
//! | `keep` | writes that back by compare-and-swap, within the bounds |
//! | `identity` | messages as they concern users: who is meant, what an audience is called |

mod commit;
mod record;
mod shard;
mod sharding;
mod transaction;
mod usage_index;

use std::collections::BTreeMap;

pub(crate) use record::{Update, UserKey, merge_objects, sanitize_object};
pub(crate) use transaction::json_to_text;
pub use transaction::{CommitReport, UserTransaction};

/// What users are kept in: values under keys, each with a version.
///
/// Envoy's shared data is one: all workers see it, and a value is only replaced where nobody else has replaced it since.
pub trait SharedData {
    /// The value under `key` and its version. Nothing and `None` where there is none.
    fn get(&mut self, key: &str) -> (Vec<u8>, Option<u32>);

    /// Replaces the value under `key` if `version` is still its version. False: it is not, and nothing has changed.
    ///
    /// Without a version it replaces whatever is there.
    fn set(&mut self, key: &str, value: &[u8], version: Option<u32>) -> bool;
}

/// One worker's own memory, where there is no other.
impl SharedData for BTreeMap<String, (Vec<u8>, u32)> {
    fn get(&mut self, key: &str) -> (Vec<u8>, Option<u32>) {
        let found = BTreeMap::get(self, key);
        (
            found.map(|(value, _)| value.clone()).unwrap_or_default(),
            found.map(|(_, version)| *version),
        )
    }

    fn set(&mut self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        let before = BTreeMap::get(self, key).map(|(_, version)| *version);
        let free = version.is_none() || version == before;
        if free {
            let next = before.unwrap_or(0).wrapping_add(1).max(1);
            self.insert(key.to_owned(), (value.to_vec(), next));
        }
        free
    }
}

/// A user as events show them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `userId` as JSON, where the user has one.
    pub id: Option<String>,
    /// `traits` as a JSON object that Keen accepts; empty where there are none.
    pub traits: String,
}

impl User {
    /// Writes the user as JSON: `{"userId":…,"traits":{…}}`, without what there is not.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut before: &[u8] = b"{";
        if let Some(id) = &self.id {
            out.extend_from_slice(b"{\"userId\":");
            out.extend_from_slice(id.as_bytes());
            before = b",";
        }
        if !self.traits.is_empty() {
            out.extend_from_slice(before);
            out.extend_from_slice(b"\"traits\":");
            out.extend_from_slice(self.traits.as_bytes());
            before = b",";
        }
        out.extend_from_slice(if before == b"{" { b"{}" } else { b"}" });
    }

    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && self.traits.is_empty()
    }
}

#[cfg(test)]
mod tests;
