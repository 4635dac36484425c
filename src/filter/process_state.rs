//! State that all workers of an Envoy process share, in Envoy's shared data.
//!
//! Compare-and-swap protects only keys that exist: [`create_keys`] creates them while the filter is configured, which
//! Envoy does on its main thread before any worker has the filter. The values have no meaning until a worker in use
//! changes them, so a configuration that is only being checked has no effect.

use super::host;

/// The last id that [`next_process_unique_id`] returned.
const LAST_ID: &str = "keen_edge.last_id";
/// Attempts at a compare-and-swap before it is given up. Each failure means that another worker succeeded.
const MAX_CAS_ATTEMPTS: usize = 1_000;

/// Creates the keys of this module where they do not exist.
pub(super) fn create_keys() {
    let (value, version) = host::shared_data(LAST_ID);
    // Also where it exists: this is the trial of the capability. The value does not change.
    host::set_shared_data(LAST_ID, &value.unwrap_or_else(|| 0_u64.to_le_bytes().to_vec()), version);
}

/// An id that no other caller in this process gets.
pub(super) fn next_process_unique_id() -> u64 {
    let mut id = 0;
    let updated = update(LAST_ID, |value| {
        let last = value.try_into().map_or(0, u64::from_le_bytes);
        id = last.wrapping_add(1);
        id.to_le_bytes().to_vec()
    });
    if updated { id } else { host::unix_us() }
}

/// Replaces the value under `key` by what `change` makes of it. False where other workers were always faster.
fn update(key: &str, mut change: impl FnMut(Vec<u8>) -> Vec<u8>) -> bool {
    (0..MAX_CAS_ATTEMPTS).any(|_| {
        let (value, version) = host::shared_data(key);
        host::set_shared_data(key, &change(value.unwrap_or_default()), version)
    })
}
