//! The store of users: Envoy's shared data, which all workers see for as long as Envoy runs.

use super::{host, process_state};
use crate::config::UsersSettings;
use crate::users::{SharedData, UserTransaction, partition_count};

/// Envoy's shared data, under keys of a store of this size.
///
/// Two filters of one process may have bounds for users so different that their stores have different layouts: each has a
/// store of its own. Others share one, in which users are kept apart by their sources.
#[derive(Debug)]
pub(super) struct UserStore {
    key_prefix: String,
}

impl UserStore {
    pub(super) fn new(settings: UsersSettings) -> Self {
        Self { key_prefix: format!("{}.", partition_count(settings)) }
    }

    /// Creates the store, unless another worker has. Only for a configuration that is in use. `seed` must be a number that
    /// callers cannot know. Returns the one that all workers use: that of the first.
    pub(super) fn initialize(&mut self, settings: UsersSettings, seed: u64) -> u64 {
        process_state::with_lock(|| UserTransaction::initialize(self, settings, seed))
    }

    fn key(&self, key: &str) -> String {
        [self.key_prefix.as_str(), key].concat()
    }
}

impl SharedData for UserStore {
    fn get(&mut self, key: &str) -> (Vec<u8>, Option<u32>) {
        let (value, version) = host::shared_data(&self.key(key));
        (value.unwrap_or_default(), version)
    }

    fn set(&mut self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        host::set_shared_data(&self.key(key), value, version)
    }
}
