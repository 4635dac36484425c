//! Hostcalls. Only this file uses `proxy_wasm::hostcalls`.
//!
//! The SDK panics on an unexpected status, and on header values that are not UTF-8. This module
//! avoids both. It only uses the functions that return bytes. It reads single headers from the
//! whole map, since a missing map is empty but a single value of a missing map is an error. It
//! tries every capability once when the filter is configured ([`check_capabilities`]), so that a
//! missing one stops Envoy at startup and does not fail a later request.

use log::LevelFilter;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) use proxy_wasm::types::Status;

/// An id that Envoy never assigns to a queue or a metric. Its last two bits mean "gauge" to Envoy.
const UNUSED_ID: u32 = 0xffff_fffd;

/// Tries each hostcall that the filter needs, without a visible effect.
///
/// A call whose capability is denied fails here: the SDK panics, or the name is returned as an
/// error. In both cases Envoy logs the name of the capability and rejects the configuration.
/// `proxy_done` cannot be tried. `proxy_set_header_map_pairs` can only be tried with the first
/// response: see [`check_response_capability`].
pub(super) fn check_capabilities(root_id: u32) -> Result<(), &'static str> {
    set_log_level();
    // Envoy does not write it unless trace logging is on.
    let _ = hostcalls::log(LogLevel::Trace, "keen-edge: checking the capabilities");
    let _ = hostcalls::get_current_time();
    let _ = hostcalls::set_tick_period(Duration::ZERO);
    let _ = hostcalls::set_effective_context(root_id);
    let _ = hostcalls::get_map_bytes(MapType::HttpRequestHeaders);
    let _ = hostcalls::get_buffer(BufferType::HttpRequestBody, 0, 0);
    // Has no effect without a stream.
    let _ = hostcalls::send_http_response(200, Vec::new(), None);
    let _ = hostcalls::get_shared_data("keen_edge.capability_check");
    let _ = hostcalls::set_shared_data("keen_edge.capability_check", None, None);
    let _ = hostcalls::register_shared_queue("keen_edge.capability_check");
    let _ = hostcalls::enqueue_shared_queue(UNUSED_ID, None);
    let _ = hostcalls::dequeue_shared_queue(UNUSED_ID);
    let _ = hostcalls::define_metric(MetricType::Counter, "keen_edge_requests");
    let _ = hostcalls::increment_metric(UNUSED_ID, 1);
    let _ = hostcalls::record_metric(UNUSED_ID, 1);
    if hostcalls::get_property(vec!["plugin_root_id"]).is_err() {
        return Err("proxy_get_property");
    }
    // The empty name is not a cluster: Envoy returns "bad argument" and sends nothing.
    let call = hostcalls::dispatch_http_call("", Vec::new(), None, Vec::new(), Duration::ZERO);
    if call != Err(Status::BadArgument) {
        return Err("proxy_http_call");
    }
    Ok(())
}

/// Sets the log level to that of Envoy's `wasm` logger, which an operator may change at run time.
pub(super) fn set_log_level() {
    let level = match hostcalls::get_log_level() {
        Ok(LogLevel::Trace) => LevelFilter::Trace,
        Ok(LogLevel::Debug) => LevelFilter::Debug,
        Ok(LogLevel::Warn) => LevelFilter::Warn,
        Ok(LogLevel::Error) => LevelFilter::Error,
        Ok(LogLevel::Critical) => LevelFilter::Off,
        Ok(LogLevel::Info) | Err(_) => LevelFilter::Info,
    };
    log::set_max_level(level);
}

/// Returns the time since 1970.
fn unix_time() -> Duration {
    let now = hostcalls::get_current_time().unwrap_or(UNIX_EPOCH);
    SystemTime::duration_since(&now, UNIX_EPOCH).unwrap_or_default()
}

/// Returns milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let now = unix_time();
    now.as_secs().saturating_mul(1_000).saturating_add(u64::from(now.subsec_millis()))
}

/// Returns microseconds since 1970.
pub(super) fn unix_us() -> u64 {
    let now = unix_time();
    now.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(now.subsec_micros()))
}

/// Returns nanoseconds since 1970.
pub(super) fn unix_ns() -> u64 {
    u64::try_from(unix_time().as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the filter's configuration.
pub(super) fn configuration() -> Vec<u8> {
    buffer(BufferType::PluginConfiguration, usize::MAX)
}

/// Returns the current request's headers.
pub(super) fn request_headers() -> Vec<(String, Vec<u8>)> {
    headers(MapType::HttpRequestHeaders)
}

/// Returns the part of the current request's body that Envoy has buffered.
pub(super) fn request_body() -> Vec<u8> {
    buffer(BufferType::HttpRequestBody, usize::MAX)
}

/// Returns the headers of the current callout's reply. Empty if the callout ended without a reply.
pub(super) fn callout_headers() -> Vec<(String, Vec<u8>)> {
    headers(MapType::HttpCallResponseHeaders)
}

/// Returns at most `max_size` bytes of the body of the current callout's reply.
pub(super) fn callout_body(max_size: usize) -> Vec<u8> {
    buffer(BufferType::HttpCallResponseBody, max_size)
}

/// Returns the status of the current stream's response.
pub(super) fn response_status() -> Option<u16> {
    status(&headers(MapType::HttpResponseHeaders))
}

/// Returns the value of `:status` in a header map.
pub(super) fn status(headers: &[(String, Vec<u8>)]) -> Option<u16> {
    std::str::from_utf8(find(headers, ":status")?).ok()?.parse().ok()
}

/// Returns the first value of the header `name`.
pub(super) fn find<'a>(headers: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice())
}

fn headers(map: MapType) -> Vec<(String, Vec<u8>)> {
    hostcalls::get_map_bytes(map).unwrap_or_default()
}

fn buffer(buffer: BufferType, max_size: usize) -> Vec<u8> {
    hostcalls::get_buffer(buffer, 0, max_size).ok().flatten().unwrap_or_default()
}

/// Returns `source.address` of the effective context: the client address as determined by Envoy's
/// listener settings.
pub(super) fn source_address() -> Vec<u8> {
    hostcalls::get_property(vec!["source", "address"]).ok().flatten().unwrap_or_default()
}

/// Responds to the stream that is the effective context.
pub(super) fn send_response(status: u16, headers: Vec<(&str, &str)>, body: &[u8]) {
    let _ = hostcalls::send_http_response(u32::from(status), headers, Some(body));
}

/// Header with the original status of a response to a gRPC request, which Envoy replaces by 200.
const STATUS_HEADER: &str = "x-keen-edge-status";

/// Responds to a gRPC request that is the effective context.
///
/// Envoy converts a local response to such a request to gRPC's form: status 200, the real status as
/// `grpc-status`, and no body. Segment's SDKs would take the 200 for "stored". Therefore the status
/// is also sent as a header, and [`restore_status`] restores it in the response callback.
pub(super) fn send_grpc_response(status: u16, headers: Vec<(&str, &str)>, body: &[u8]) {
    let text = status.to_string();
    let status_header = [(STATUS_HEADER, text.as_str())];
    send_response(status, headers.into_iter().chain(status_header).collect(), body);
}

/// Reverts the gRPC form of the current stream's response. The status is the one passed to
/// [`send_grpc_response`], or `other` if the response was not sent by it.
pub(super) fn restore_status(other: u16) {
    let headers = headers(MapType::HttpResponseHeaders);
    let other = other.to_string();
    let status = find(&headers, STATUS_HEADER).unwrap_or(other.as_bytes());
    let left_out = [":status", "content-type", "grpc-status", "grpc-message", STATUS_HEADER];
    let kept = headers.iter().filter(|(name, _)| !left_out.contains(&name.as_str()));
    let new = [(":status", status), ("content-type", b"application/json".as_slice())];
    let new = new.into_iter().chain(kept.map(|(name, value)| (name.as_str(), value.as_slice())));
    let _ = hostcalls::set_map_bytes(MapType::HttpResponseHeaders, new.collect());
}

/// Tries the hostcall of [`restore_status`] without changing anything. It cannot be tried in a
/// root context.
pub(super) fn check_response_capability() {
    let headers = headers(MapType::HttpResponseHeaders);
    let same = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let _ = hostcalls::set_map_bytes(MapType::HttpResponseHeaders, same);
}

/// Makes `context_id` the context that [`send_response`] and [`source_address`] act on. Returns
/// false if it no longer exists.
pub(super) fn set_effective_context(context_id: u32) -> bool {
    hostcalls::set_effective_context(context_id).is_ok()
}

/// Sends an HTTP request to an Envoy cluster. Returns its token.
///
/// Call it only from root callbacks: the SDK passes the reply to the context whose callback is
/// running, and discards the reply for a stream that has ended.
pub(super) fn dispatch_http_call(
    cluster: &str,
    headers: Vec<(&str, &str)>,
    body: &[u8],
    timeout_ms: u64,
) -> Result<u32, Status> {
    // 0 means "no timeout" to Envoy.
    let timeout = Duration::from_millis(timeout_ms.clamp(1, u64::from(u32::MAX)));
    hostcalls::dispatch_http_call(cluster, headers, Some(body), Vec::new(), timeout)
}

/// Sets the period of the root context's `on_tick`. 0 stops it.
pub(super) fn set_tick_period(ms: u32) {
    let _ = hostcalls::set_tick_period(Duration::from_millis(u64::from(ms)));
}

/// Returns the shared value under `key` and its version. `None` if there is no value.
pub(super) fn shared_data(key: &str) -> (Option<Vec<u8>>, Option<u32>) {
    match hostcalls::get_shared_data(key) {
        // The SDK returns no bytes for an empty value.
        Ok((value, Some(version))) => (Some(value.unwrap_or_default()), Some(version)),
        _ => (None, None),
    }
}

/// Replaces the value under `key` if `version` is still its version, or in any case without a
/// version. Returns whether it did.
pub(super) fn set_shared_data(key: &str, value: &[u8], version: Option<u32>) -> bool {
    hostcalls::set_shared_data(key, Some(value), version).is_ok()
}

/// Registers a queue that wakes this root context. Envoy calls back only the last root context that
/// registered a name.
pub(super) fn register_wake_queue(name: &str) -> Option<u32> {
    hostcalls::register_shared_queue(name).ok()
}

/// Asks Envoy to call the root context's `on_queue_ready` in the next turn of its event loop.
/// Returns whether it will.
pub(super) fn enqueue_wake(queue: u32) -> bool {
    hostcalls::enqueue_shared_queue(queue, None).is_ok()
}

/// Removes one item from the wake queue. Envoy calls back once per item.
pub(super) fn drain_wake_queue(queue: u32) {
    let _ = hostcalls::dequeue_shared_queue(queue);
}

/// Reports to Envoy that this root context has finished draining.
pub(super) fn done() {
    let _ = hostcalls::done();
}

/// Defines a metric. Returns its id.
pub(super) fn define_metric(kind: MetricType, name: &str) -> Option<u32> {
    hostcalls::define_metric(kind, name).ok()
}

/// Adds to a counter.
pub(super) fn increment_counter(id: u32, by: u64) {
    add_to_gauge(id, i64::try_from(by).unwrap_or(i64::MAX));
}

/// Adds to a gauge. `by` may be negative.
pub(super) fn add_to_gauge(id: u32, by: i64) {
    // Envoy rejects 0 as a bad argument.
    if by != 0 {
        let _ = hostcalls::increment_metric(id, by);
    }
}

/// Sets a gauge, or records a value in a histogram.
pub(super) fn record_metric(id: u32, value: u64) {
    let _ = hostcalls::record_metric(id, value);
}
