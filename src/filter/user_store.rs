//! The store of users: Envoy's shared data, which all workers share until Envoy stops.

use super::{host, process_state};
use crate::config::UsersSettings;
use crate::users::{SharedData, UserTransaction, partition_count};

/// Envoy's shared data, under keys of a store of this size.
///
/// If the `users` bounds of two filters in one process require different layouts, each filter has
/// its own store. Otherwise the filters share a store, in which users are separated by source.
#[derive(Debug)]
pub(super) struct UserStore {
    key_prefix: String,
}

impl UserStore {
    pub(super) fn new(settings: UsersSettings) -> Self {
        Self { key_prefix: format!("{}.", partition_count(settings)) }
    }

    /// Creates the store unless another worker has. Call it only for a configuration that is in
    /// use. `seed` must be a number that clients cannot know. Returns the seed that all workers
    /// use, which is the first worker's.
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
