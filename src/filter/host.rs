//! Host calls, none of which panics on what a peer sends: bytes only, and every failure a value.

use super::headers::Headers;
use super::hostcalls::{self, Buffer, Map, Metric, Pairs, Status};

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    hostcalls::current_time().unwrap_or(0) / 1_000_000
}

/// Microseconds since 1970.
pub(super) fn now_micros() -> u64 {
    hostcalls::current_time().unwrap_or(0) / 1_000
}

/// The filter's configuration.
pub(super) fn configuration() -> Vec<u8> {
    buffer(Buffer::PluginConfiguration, usize::MAX)
}

/// The request's headers, in one call.
pub(super) fn request_headers() -> Headers {
    Headers::new(hostcalls::header_pairs(Map::Request).unwrap_or_default())
}

/// The request's body as far as Envoy has it.
pub(super) fn request_body() -> Vec<u8> {
    buffer(Buffer::RequestBody, usize::MAX)
}

/// The status of the callout's answer; none where the call broke off.
pub(super) fn call_status() -> Option<u16> {
    status_in(Map::CallResponse)
}

fn status_in(headers: Map) -> Option<u16> {
    let status = hostcalls::header(headers, ":status").ok()?;
    std::str::from_utf8(&status).ok()?.parse().ok()
}

/// A header of the callout's answer; empty where it has none.
pub(super) fn call_header(name: &str) -> Vec<u8> {
    hostcalls::header(Map::CallResponse, name).unwrap_or_default()
}

/// The first `most` bytes of the callout's answer.
pub(super) fn call_body(most: usize) -> Vec<u8> {
    buffer(Buffer::CallResponseBody, most)
}

fn buffer(which: Buffer, most: usize) -> Vec<u8> {
    hostcalls::buffer(which, most).unwrap_or_default()
}

/// `source.address`: the client, as Envoy's listener settings vouch for it.
pub(super) fn source_address() -> Vec<u8> {
    hostcalls::property("source\0address").unwrap_or_default()
}

/// The status of the answer that passes by.
pub(super) fn response_status() -> Option<u16> {
    status_in(Map::Response)
}

/// Answers the stream that is the effective context.
pub(super) fn respond(status: u16, headers: &Pairs, body: &[u8]) {
    let _ = hostcalls::send_local_response(u32::from(status), headers, body);
}

/// Makes `context` the one that [`respond`] answers. False where it is gone.
pub(super) fn act_for(context: u32) -> bool {
    hostcalls::set_effective_context(context).is_ok()
}

/// Starts a callout.
pub(super) fn call(
    cluster: &str,
    headers: &Pairs,
    body: &[u8],
    timeout_ms: u64,
) -> Result<u32, Status> {
    // Envoy takes 0 for never.
    let timeout_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX).max(1);
    hostcalls::http_call(cluster, headers, body, timeout_ms)
}

/// Looks again every `ms` milliseconds; 0 is never.
pub(super) fn tick_every(ms: u32) {
    let _ = hostcalls::set_tick_period(ms);
}

/// A number that no other caller in this process gets: workers share it.
pub(super) fn process_wide_number(key: &str) -> u64 {
    for _ in 0..10_000 {
        let (value, cas) = hostcalls::shared_data(key).unwrap_or_default();
        let last = value.try_into().map_or(0, u64::from_le_bytes);
        let next = last.wrapping_add(1);
        match hostcalls::set_shared_data(key, &next.to_le_bytes(), cas) {
            Ok(()) => return next,
            Err(Status::CAS_MISMATCH) => {}
            Err(_) => break,
        }
    }
    now()
}

/// A queue that wakes this root context, and no other: Envoy calls back whoever registered the name last.
pub(super) fn doorbell(name: &str) -> Option<u32> {
    hostcalls::register_queue(name).ok()
}

/// Wakes the root context once what Envoy has read by now has been handled. False where it cannot.
pub(super) fn ring(doorbell: u32) -> bool {
    hostcalls::enqueue(doorbell, b"").is_ok()
}

/// Takes one ring off the doorbell: Envoy calls back for each.
pub(super) fn silence(doorbell: u32) {
    let _ = hostcalls::dequeue(doorbell);
}

/// Tells Envoy that this root context, asked to end, has ended.
pub(super) fn done() {
    let _ = hostcalls::done();
}

/// A metric's id.
pub(super) fn metric(kind: Metric, name: &str) -> Option<u32> {
    hostcalls::define_metric(kind, name).ok()
}

/// Adds to a counter.
pub(super) fn count(metric: u32, by: u64) {
    adjust(metric, i64::try_from(by).unwrap_or(i64::MAX));
}

/// Adds to a gauge, or takes from it.
pub(super) fn adjust(metric: u32, by: i64) {
    if by != 0 {
        let _ = hostcalls::increment_metric(metric, by);
    }
}

/// Sets a gauge.
pub(super) fn gauge(metric: u32, to: u64) {
    let _ = hostcalls::record_metric(metric, to);
}
