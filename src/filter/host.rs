//! Host calls, none of which panics on what a peer sends: bytes only, and every failure a value.

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType, Status};
use std::time::{Duration, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let time = hostcalls::get_current_time().unwrap_or(UNIX_EPOCH);
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The filter's configuration.
pub(super) fn configuration() -> Vec<u8> {
    buffer(BufferType::PluginConfiguration, usize::MAX)
}

/// The request's headers, in one call.
pub(super) fn request_headers() -> Vec<(String, Vec<u8>)> {
    hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default()
}

/// The request's body as far as Envoy has it.
pub(super) fn request_body() -> Vec<u8> {
    buffer(BufferType::HttpRequestBody, usize::MAX)
}

/// The status of the callout's answer; none where the call broke off.
pub(super) fn call_status() -> Option<u16> {
    std::str::from_utf8(&call_header(":status")).ok()?.parse().ok()
}

/// A header of the callout's answer; empty where it has none.
pub(super) fn call_header(name: &str) -> Vec<u8> {
    hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, name).ok().flatten().unwrap_or_default()
}

/// The first `most` bytes of the callout's answer.
pub(super) fn call_body(most: usize) -> Vec<u8> {
    buffer(BufferType::HttpCallResponseBody, most)
}

fn buffer(which: BufferType, most: usize) -> Vec<u8> {
    hostcalls::get_buffer(which, 0, most).ok().flatten().unwrap_or_default()
}

/// `source.address`: the client, as Envoy's listener settings vouch for it.
pub(super) fn source_address() -> Vec<u8> {
    hostcalls::get_property(vec!["source", "address"]).ok().flatten().unwrap_or_default()
}

/// Replaces a header of the answer that passes by; an empty value removes it.
pub(super) fn set_response_header(name: &str, value: &str) {
    let value = (!value.is_empty()).then_some(value.as_bytes());
    let _ = hostcalls::set_map_value_bytes(MapType::HttpResponseHeaders, name, value);
}

/// Replaces `size` bytes of the answer's body that passes by.
pub(super) fn set_response_body(size: usize, body: &[u8]) {
    let _ = hostcalls::set_buffer(BufferType::HttpResponseBody, 0, size, body);
}

/// Answers the stream that is the effective context.
pub(super) fn respond(status: u16, headers: Vec<(&str, &str)>, body: &[u8]) {
    let _ = hostcalls::send_http_response(u32::from(status), headers, Some(body));
}

/// Makes `context` the one that [`respond`] answers. False where it is gone.
pub(super) fn act_for(context: u32) -> bool {
    hostcalls::set_effective_context(context).is_ok()
}

/// Starts a callout.
pub(super) fn call(cluster: &str, headers: Vec<(&str, &str)>, body: &[u8], timeout_ms: u64) -> Result<u32, Status> {
    hostcalls::dispatch_http_call(cluster, headers, Some(body), vec![], Duration::from_millis(timeout_ms))
}

/// Looks again every `ms` milliseconds; 0 is never.
pub(super) fn tick_every(ms: u64) {
    let _ = hostcalls::set_tick_period(Duration::from_millis(ms));
}

/// A number that no other caller in this process gets: workers share it.
pub(super) fn process_wide_number(key: &str) -> u64 {
    for _ in 0..10_000 {
        let (value, cas) = hostcalls::get_shared_data(key).unwrap_or((None, None));
        let last = value.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let next = last.wrapping_add(1);
        if hostcalls::set_shared_data(key, Some(&next.to_le_bytes()), cas).is_ok() {
            return next;
        }
    }
    now()
}

/// A queue that wakes this root context, and no other: Envoy calls back whoever registered the name last.
pub(super) fn doorbell(name: &str) -> Option<u32> {
    hostcalls::register_shared_queue(name).ok()
}

/// Wakes the root context in the next turn of the worker's event loop.
pub(super) fn ring(doorbell: u32) {
    let _ = hostcalls::enqueue_shared_queue(doorbell, Some(b"!"));
}

/// Empties the doorbell.
pub(super) fn silence(doorbell: u32) {
    while let Ok(Some(_)) = hostcalls::dequeue_shared_queue(doorbell) {}
}

/// Tells Envoy that this root context, asked to end, has ended.
pub(super) fn done() {
    let _ = hostcalls::done();
}

/// A metric's id.
pub(super) fn metric(kind: MetricType, name: &str) -> Option<u32> {
    hostcalls::define_metric(kind, name).ok()
}

/// Adds to a counter.
pub(super) fn count(metric: u32, by: u64) {
    if let Ok(by) = i64::try_from(by)
        && by > 0
    {
        let _ = hostcalls::increment_metric(metric, by);
    }
}

/// Sets a gauge.
pub(super) fn gauge(metric: u32, to: u64) {
    let _ = hostcalls::record_metric(metric, to);
}
