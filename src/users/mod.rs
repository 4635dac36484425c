//! A bounded store of users' traits from identify messages, shared by all workers of a process. It
//! does not depend on messages: `mapping` extracts ids and traits from them.
//!
//! A user is found by `userId` or `anonymousId`, within one source. Records are stored in shards of
//! shared data, with many users per shard, so that an event costs one read. A usage index counts
//! what all shards hold, and has a lower bound of the oldest `last_seen` of each shard. When the
//! store is full, the least recently used records of all shards are evicted.
//!
//! | module | |
//! |---|---|
//! | `record` | the record of one user, and how an update changes it |
//! | `shard` | the records of many users as bytes, the most recently used first |
//! | `sharding` | which shard an id belongs to, and the keys in shared data |
//! | `usage_index` | usage of all shards, and which shard may have the oldest record |
//! | `transaction` | one request's look-ups and updates |
//! | `commit` | writes the updates by compare-and-swap, within the bounds |
//!
//! ```
//! use keen_edge::users::User;
//!
//! let user = User { id: Some("\"u1\"".to_owned()), traits: r#"{"plan":"pro"}"#.to_owned() };
//! assert_eq!(user.to_json(), r#"{"userId":"u1","traits":{"plan":"pro"}}"#);
//! ```

mod commit;
mod record;
mod shard;
mod sharding;
mod transaction;
mod usage_index;

use std::collections::BTreeMap;

pub(crate) use record::{Update, UserKey, merge_objects, sanitize_object};
pub(crate) use sharding::partition_count;
pub(crate) use transaction::json_to_text;
pub use transaction::{CommitReport, UserTransaction};

/// A versioned key-value store, such as Envoy's shared data.
pub trait SharedData {
    /// Returns the value under `key` and its version. Empty and `None` if there is none.
    fn get(&mut self, key: &str) -> (Vec<u8>, Option<u32>);

    /// Compare-and-swap: sets the value under `key` if `version` is its version. Otherwise returns
    /// false and keeps the value.
    ///
    /// Without a version it always sets the value.
    fn set(&mut self, key: &str, value: &[u8], version: Option<u32>) -> bool;
}

/// A store for a single worker, and for tests.
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
        let is_current = version.is_none() || version == before;
        if is_current {
            let next = before.unwrap_or(0).wrapping_add(1).max(1);
            self.insert(key.to_owned(), (value.to_vec(), next));
        }
        is_current
    }
}

/// A user as events contain it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `userId` as JSON, if the user has one.
    pub id: Option<String>,
    /// `traits` as a JSON object that Keen accepts. Empty if there are none.
    pub traits: String,
}

impl User {
    /// Returns the user as JSON: `{"userId":…,"traits":{…}}`, without empty members.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::with_capacity(self.traits.len().saturating_add(64));
        let mut separator = "{";
        if let Some(id) = &self.id {
            json.push_str("{\"userId\":");
            json.push_str(id);
            separator = ",";
        }
        if !self.traits.is_empty() {
            json.push_str(separator);
            json.push_str("\"traits\":");
            json.push_str(&self.traits);
            separator = ",";
        }
        json.push_str(if separator == "{" { "{}" } else { "}" });
        json
    }

    /// Whether the user has neither id nor traits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && self.traits.is_empty()
    }
}

#[cfg(test)]
mod tests;
