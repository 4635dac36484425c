//! The store of users: Envoy's shared data, which all workers see for as long as Envoy runs.

use super::host;
use crate::users::SharedData;

/// Envoy's shared data.
#[derive(Debug, Default)]
pub(super) struct UserStore;

impl SharedData for UserStore {
    fn get(&mut self, key: &str) -> (Vec<u8>, Option<u32>) {
        let (value, version) = host::shared_data(key);
        (value.unwrap_or_default(), version)
    }

    fn set(&mut self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        host::set_shared_data(key, value, version)
    }
}
