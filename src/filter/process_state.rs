//! State that all workers of an Envoy process share, in Envoy's shared data.
//!
//! Compare-and-swap protects only keys that exist. [`create_keys`] creates them while the filter is
//! configured, which Envoy does on its main thread before a worker has the filter. The values have
//! no meaning until a worker in use changes them, so a configuration that is only being checked has
//! no effect.

use super::host;
use crate::overflow::lease;

/// The last id that [`next_process_unique_id`] returned.
const LAST_ID: &str = "keen_edge.last_id";
/// The [`Entry`]s of all workers that have pending bytes.
const PENDING: &str = "keen_edge.pending_bytes";
/// When [`with_lock`] was entered, in milliseconds since 1970. 0 if the lock is free.
const LOCK: &str = "keen_edge.lock";
const KEYS: [&str; 3] = [LAST_ID, PENDING, LOCK];
/// Maximum attempts at a compare-and-swap. Each failure means that another worker succeeded.
const MAX_CAS_ATTEMPTS: usize = 1_000;
/// A lock held longer belongs to a VM that failed. The protected sections take less than a
/// millisecond.
const LOCK_TIMEOUT_MS: u64 = 1_000;
/// Maximum attempts to take a lock before it is ignored.
const MAX_LOCK_ATTEMPTS: usize = 100_000;

/// How often a worker with pending bytes refreshes its entry.
const REFRESH_MS: u64 = 500;
/// An entry that is not refreshed for this long belongs to a VM that failed.
const STALE_MS: u64 = 3_000;

/// Creates the keys of this module that do not exist.
pub(super) fn create_keys() {
    KEYS.into_iter().for_each(create_key);
}

/// Creates the key of [`claim_drain_lease`] for a queue, if it does not exist.
pub(super) fn create_drain_lease(queue_url: &str) {
    create_key(&drain_lease_key(queue_url));
}

fn create_key(key: &str) {
    let (value, version) = host::shared_data(key);
    if value.is_none() {
        host::set_shared_data(key, &[], version);
    }
}

/// Returns an id that is unique in this process.
pub(super) fn next_process_unique_id() -> u64 {
    let mut id = 0;
    let updated = update(LAST_ID, |value| {
        id = to_number(&value).wrapping_add(1);
        id.to_le_bytes().to_vec()
    });
    if updated { id } else { host::unix_us() }
}

/// Returns true for the first worker of the process that uses the Keen project.
pub(super) fn claim_project(project_id: &str) -> bool {
    let key = ["keen_edge.project.", project_id].concat();
    let is_new = host::shared_data(&key).1.is_none();
    create_key(&key);
    is_new
}

fn rejected_key(hash: u64) -> String {
    format!("keen_edge.rejected_key.{hash:x}")
}

/// Whether Keen rejects the write key with this hash, as the worker found that used it last.
pub(super) fn is_key_rejected(hash: u64) -> bool {
    host::shared_data(&rejected_key(hash)).0.is_some_and(|value| !value.is_empty())
}

/// Tells all workers whether Keen rejects the write key with this hash.
pub(super) fn set_key_rejected(hash: u64, is_rejected: bool) {
    if is_key_rejected(hash) != is_rejected {
        let value: &[u8] = if is_rejected { b"1" } else { b"" };
        host::set_shared_data(&rejected_key(hash), value, None);
    }
}

fn drain_lease_key(queue_url: &str) -> String {
    ["keen_edge.drain_lease.", queue_url].concat()
}

/// Claims or renews the lease to drain the queue. Returns whether this worker holds it. One worker
/// of the process holds it at a time.
pub(super) fn claim_drain_lease(queue_url: &str, worker_id: u64) -> bool {
    let key = drain_lease_key(queue_url);
    let (value, version) = host::shared_data(&key);
    let claimed = lease::claim(value.as_deref(), worker_id, host::unix_ms());
    claimed.is_some_and(|value| host::set_shared_data(&key, &value, version))
}

/// Gives up the lease, which this worker holds, so that the next configuration drains at once.
pub(super) fn release_drain_lease(queue_url: &str) {
    host::set_shared_data(&drain_lease_key(queue_url), &[], None);
}

/// Runs `act` under the process-wide lock. `act` must be short, since other workers wait.
pub(super) fn with_lock<T>(act: impl FnOnce() -> T) -> T {
    for _ in 0..MAX_LOCK_ATTEMPTS {
        let (value, version) = host::shared_data(LOCK);
        let (entered_ms, now_ms) = (to_number(&value.unwrap_or_default()), host::unix_ms());
        let is_free = entered_ms == 0 || now_ms.abs_diff(entered_ms) > LOCK_TIMEOUT_MS;
        if is_free && host::set_shared_data(LOCK, &now_ms.to_le_bytes(), version) {
            break;
        }
    }
    let result = act();
    host::set_shared_data(LOCK, &0_u64.to_le_bytes(), None);
    result
}

/// The pending bytes of one worker, as its share of a gauge for all workers.
///
/// Envoy keeps gauges when a VM fails, and the VM's successor does not know what it had reported.
/// Therefore each worker stores what it has reported as an [`Entry`] in shared data, and refreshes
/// it. A stale entry belongs to a VM that failed: the next worker that reports subtracts its bytes
/// from the gauge.
#[derive(Debug, Default)]
pub(super) struct PendingBytes {
    worker_id: u64,
    reported: u64,
    reported_ms: u64,
    others_pending: bool,
}

/// The result of a report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PendingReport {
    /// Change to add to the gauge.
    pub(super) gauge_change: i64,
    /// Pending bytes of VMs that failed.
    pub(super) lost_bytes: u64,
    /// Another worker has pending bytes. Its VM may have failed, so report again in [`STALE_MS`].
    pub(super) others_pending: bool,
}

impl PendingBytes {
    /// `worker_id` is unique in the process.
    pub(super) fn activate(&mut self, worker_id: u64) {
        self.worker_id = worker_id;
        // There may be entries of a VM that failed.
        self.others_pending = true;
    }

    /// Reports that this worker has `bytes` pending.
    pub(super) fn report(&mut self, bytes: usize, now_ms: u64) -> PendingReport {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let has_changed = bytes != self.reported;
        let is_due = now_ms.abs_diff(self.reported_ms) >= REFRESH_MS;
        if !has_changed && !(is_due && (bytes > 0 || self.others_pending)) {
            return PendingReport { others_pending: self.others_pending, ..Default::default() };
        }
        let own = Entry { worker_id: self.worker_id, bytes, refreshed_ms: now_ms };
        let mut report = PendingReport::default();
        let updated = update(PENDING, |table| {
            let (table, found) = refresh(&table, own);
            report = found;
            table
        });
        if !updated {
            return PendingReport { others_pending: true, ..Default::default() };
        }
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        report.gauge_change = signed(bytes)
            .saturating_sub(signed(self.reported))
            .saturating_sub(signed(report.lost_bytes));
        self.reported = bytes;
        self.reported_ms = now_ms;
        self.others_pending = report.others_pending;
        report
    }
}

/// A worker's entry in the table: three little-endian 64-bit numbers, 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    worker_id: u64,
    bytes: u64,
    refreshed_ms: u64,
}

/// Returns the table with `own` in place of that worker's old entry, and without stale entries.
fn refresh(table: &[u8], own: Entry) -> (Vec<u8>, PendingReport) {
    let mut report = PendingReport::default();
    let mut new = Vec::with_capacity(table.len().saturating_add(24));
    let mut push = |entry: Entry| {
        for number in [entry.worker_id, entry.bytes, entry.refreshed_ms] {
            new.extend_from_slice(&number.to_le_bytes());
        }
    };
    for entry in table.as_chunks::<24>().0 {
        let [worker_id, bytes, refreshed_ms] =
            [0..8, 8..16, 16..24].map(|part| to_number(entry.get(part).unwrap_or_default()));
        if worker_id == own.worker_id {
            continue;
        }
        if own.refreshed_ms.abs_diff(refreshed_ms) > STALE_MS {
            report.lost_bytes = report.lost_bytes.saturating_add(bytes);
        } else {
            report.others_pending = true;
            push(Entry { worker_id, bytes, refreshed_ms });
        }
    }
    if own.bytes > 0 {
        push(own);
    }
    (new, report)
}

/// Replaces the value under `key` by the result of `change`. Returns false if other workers were
/// always faster.
fn update(key: &str, mut change: impl FnMut(Vec<u8>) -> Vec<u8>) -> bool {
    (0..MAX_CAS_ATTEMPTS).any(|_| {
        let (value, version) = host::shared_data(key);
        host::set_shared_data(key, &change(value.unwrap_or_default()), version)
    })
}

/// Decodes a little-endian 64-bit number. Returns 0 if there are not 8 bytes.
fn to_number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(worker_id: u64, bytes: u64, refreshed_ms: u64) -> Entry {
        Entry { worker_id, bytes, refreshed_ms }
    }

    #[test]
    fn refresh_replaces_own_entry_and_keeps_others() {
        let (table, _) = refresh(&[], entry(1, 100, 10_000));
        let (table, report) = refresh(&table, entry(2, 50, 11_000));
        assert!(report.others_pending && report.lost_bytes == 0);
        let (table, _) = refresh(&table, entry(2, 60, 11_500));
        assert_eq!(table.len(), 48);
        let (table, report) = refresh(&table, entry(2, 0, 11_600));
        assert_eq!((table.len(), report.others_pending), (24, true));
        let (table, report) = refresh(&table, entry(1, 0, 11_700));
        assert_eq!((table.len(), report), (0, PendingReport::default()));
    }

    #[test]
    fn refresh_removes_stale_entries_and_counts_their_bytes() {
        let (table, _) = refresh(&[], entry(1, 100, 10_000));
        let (table, report) = refresh(&table, entry(2, 0, 10_000 + STALE_MS + 1));
        assert_eq!((table.len(), report.lost_bytes, report.others_pending), (0, 100, false));
    }

    #[test]
    fn refresh_of_any_bytes_does_not_fail() {
        let (table, report) = refresh(&[0xff; 30], entry(1, 1, 0));
        assert_eq!((table.len(), report.lost_bytes), (24, u64::MAX));
    }
}
