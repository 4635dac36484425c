//! Where users are kept: Envoy's shared data, which all workers see for as long as Envoy runs.

use super::hostcalls;
use crate::users::SharedData;
use std::collections::BTreeMap;

/// Where this worker keeps users.
#[derive(Debug)]
pub(super) enum Memory {
    /// Among all workers.
    Shared,
    /// By itself: the host has no shared data for us.
    Own(BTreeMap<String, (Vec<u8>, u32)>),
}

impl Memory {
    /// The host's shared data where it can be written to.
    pub(super) fn find() -> Self {
        let found = hostcalls::set_shared_data("keen_edge.probe", b"1", 0);
        if found.is_ok() { Self::Shared } else { Self::Own(BTreeMap::new()) }
    }
}

impl SharedData for Memory {
    fn get(&mut self, key: &str) -> (Vec<u8>, Option<u32>) {
        match self {
            Self::Shared => {
                let (value, version) = hostcalls::shared_data(key).unwrap_or_default();
                (value, (version != 0).then_some(version))
            }
            Self::Own(own) => SharedData::get(own, key),
        }
    }

    fn set(&mut self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        match self {
            Self::Shared => hostcalls::set_shared_data(key, value, version.unwrap_or(0)).is_ok(),
            Self::Own(own) => SharedData::set(own, key, value, version),
        }
    }
}
