//! The host calls of proxy-wasm's ABI (version 0.2.1), each total: any status a host may give is a value.
//!
//! The filter declares them itself instead of taking the `proxy-wasm` crate, whose host calls panic on a status they do
//! not expect (a capability that Envoy does not grant is enough), and whose traits import a dozen calls that nothing
//! here makes. What is imported here is what the filter needs.

#![allow(unsafe_code, reason = "host calls take and give pointers")]

use std::fmt;
use std::ptr::null_mut;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, len: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(
        which: u32,
        start: usize,
        most: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        key: *const u8,
        len: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_property(path: *const u8, len: usize, data: *mut *mut u8, size: *mut usize)
    -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        len: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        len: usize,
        value: *const u8,
        size: usize,
        cas: u32,
    ) -> u32;
    fn proxy_register_shared_queue(name: *const u8, len: usize, id: *mut u32) -> u32;
    fn proxy_enqueue_shared_queue(id: u32, value: *const u8, len: usize) -> u32;
    fn proxy_dequeue_shared_queue(id: u32, data: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_len: usize,
        body: *const u8,
        body_len: usize,
        headers: *const u8,
        headers_len: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_http_call(
        upstream: *const u8,
        upstream_len: usize,
        headers: *const u8,
        headers_len: usize,
        body: *const u8,
        body_len: usize,
        trailers: *const u8,
        trailers_len: usize,
        timeout_ms: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_done() -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, len: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
}

/// Why a host call did nothing: the ABI's status.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(u32);

impl Status {
    /// Somebody else was faster.
    pub(super) const CAS_MISMATCH: Self = Self(8);
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("NotFound"),
            2 => f.write_str("BadArgument"),
            7 => f.write_str("Empty"),
            8 => f.write_str("CasMismatch"),
            10 => f.write_str("InternalFailure"),
            other => write!(f, "status {other}"),
        }
    }
}

/// What a host call gave.
pub(super) type Given<T> = Result<T, Status>;

/// Buffers of the ABI.
#[derive(Debug, Clone, Copy)]
pub(super) enum Buffer {
    RequestBody = 0,
    CallResponseBody = 4,
    PluginConfiguration = 7,
}

/// Header maps of the ABI.
#[derive(Debug, Clone, Copy)]
pub(super) enum Map {
    Request = 0,
    Response = 2,
    CallResponse = 6,
}

/// Kinds of metrics of the ABI.
#[derive(Debug, Clone, Copy)]
pub(super) enum Metric {
    Counter = 0,
    Gauge = 1,
}

fn check(status: u32) -> Given<()> {
    if status == 0 { Ok(()) } else { Err(Status(status)) }
}

/// Runs a call that hands bytes over: the host has allocated them by [`malloc`](super::dispatcher).
fn bytes(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Given<Vec<u8>> {
    let (mut data, mut len) = (null_mut(), 0);
    check(call(&raw mut data, &raw mut len))?;
    if data.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: the host has asked `malloc` for just these `len` bytes, filled them, and keeps no pointer to them.
    Ok(unsafe { Vec::from_raw_parts(data, len, len) })
}

/// Logs a line.
pub(super) fn log(level: u32, text: &str) {
    // SAFETY: the host reads the text during the call.
    unsafe { proxy_log(level, text.as_ptr(), text.len()) };
}

/// Nanoseconds since 1970.
pub(super) fn current_time() -> Given<u64> {
    let mut time = 0;
    // SAFETY: the host writes one number.
    check(unsafe { proxy_get_current_time_nanoseconds(&raw mut time) })?;
    Ok(time)
}

/// Calls the root context back every `ms` milliseconds; 0 is never.
pub(super) fn set_tick_period(ms: u32) -> Given<()> {
    // SAFETY: numbers only.
    check(unsafe { proxy_set_tick_period_milliseconds(ms) })
}

/// The first `most` bytes of a buffer.
pub(super) fn buffer(which: Buffer, most: usize) -> Given<Vec<u8>> {
    // SAFETY: see `bytes`.
    bytes(|data, len| unsafe { proxy_get_buffer_bytes(which as u32, 0, most, data, len) })
}

/// All pairs of a header map, in the ABI's form: `u32 count, (u32 name, u32 value) * count, (name \0 value \0) * count`,
/// numbers little-endian, names in lower case.
pub(super) fn header_pairs(map: Map) -> Given<Vec<u8>> {
    // SAFETY: see `bytes`.
    bytes(|data, len| unsafe { proxy_get_header_map_pairs(map as u32, data, len) })
}

/// The first value of a header.
pub(super) fn header(map: Map, name: &str) -> Given<Vec<u8>> {
    // SAFETY: the host reads the name during the call; see `bytes`.
    bytes(|data, len| unsafe {
        proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, len)
    })
}

/// A property; the parts of `path` are separated by NUL.
pub(super) fn property(path: &str) -> Given<Vec<u8>> {
    // SAFETY: the host reads the path during the call; see `bytes`.
    bytes(|data, len| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, len) })
}

/// A value that all VMs of this process share, and its version.
pub(super) fn shared_data(key: &str) -> Given<(Vec<u8>, u32)> {
    let mut cas = 0;
    // SAFETY: the host reads the key during the call and writes one number; see `bytes`.
    let value = bytes(|data, len| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, len, &raw mut cas)
    })?;
    Ok((value, cas))
}

/// Sets it, where its version still is `cas`; 0 sets it whatever it is.
pub(super) fn set_shared_data(key: &str, value: &[u8], cas: u32) -> Given<()> {
    // SAFETY: the host reads both during the call.
    check(unsafe {
        proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas)
    })
}

/// Makes a queue that wakes this root context.
pub(super) fn register_queue(name: &str) -> Given<u32> {
    let mut id = 0;
    // SAFETY: the host reads the name during the call and writes one number.
    check(unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(id)
}

/// Appends to a queue.
pub(super) fn enqueue(id: u32, value: &[u8]) -> Given<()> {
    // SAFETY: the host reads the value during the call.
    check(unsafe { proxy_enqueue_shared_queue(id, value.as_ptr(), value.len()) })
}

/// Takes from a queue.
pub(super) fn dequeue(id: u32) -> Given<Vec<u8>> {
    // SAFETY: see `bytes`.
    bytes(|data, len| unsafe { proxy_dequeue_shared_queue(id, data, len) })
}

/// Answers the request of the effective context.
pub(super) fn send_local_response(status: u32, headers: &Pairs, body: &[u8]) -> Given<()> {
    let headers = &headers.0;
    // SAFETY: the host reads all of it during the call.
    check(unsafe {
        proxy_send_local_response(
            status,
            null_mut(),
            0,
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            -1,
        )
    })
}

/// Starts a callout of the root context; its token.
pub(super) fn http_call(
    upstream: &str,
    headers: &Pairs,
    body: &[u8],
    timeout_ms: u32,
) -> Given<u32> {
    let headers = &headers.0;
    let mut token = 0;
    // SAFETY: the host reads all of it during the call and writes one number.
    check(unsafe {
        proxy_http_call(
            upstream.as_ptr(),
            upstream.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            null_mut(),
            0,
            timeout_ms,
            &raw mut token,
        )
    })?;
    Ok(token)
}

/// Makes another context the one that calls act on.
pub(super) fn set_effective_context(context: u32) -> Given<()> {
    // SAFETY: numbers only.
    check(unsafe { proxy_set_effective_context(context) })
}

/// Tells that a context which was asked to end has ended.
pub(super) fn done() -> Given<()> {
    // SAFETY: no arguments.
    check(unsafe { proxy_done() })
}

/// A metric's id.
pub(super) fn define_metric(kind: Metric, name: &str) -> Given<u32> {
    let mut id = 0;
    // SAFETY: the host reads the name during the call and writes one number.
    check(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(id)
}

/// Adds to a counter.
pub(super) fn increment_metric(id: u32, by: i64) -> Given<()> {
    // SAFETY: numbers only.
    check(unsafe { proxy_increment_metric(id, by) })
}

/// Sets a gauge.
pub(super) fn record_metric(id: u32, value: u64) -> Given<()> {
    // SAFETY: numbers only.
    check(unsafe { proxy_record_metric(id, value) })
}

/// Headers in the form that [`header_pairs`] has them in.
#[derive(Debug)]
pub(super) struct Pairs(Vec<u8>);

impl Pairs {
    pub(super) fn new(headers: &[(&str, &str)]) -> Self {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = Vec::with_capacity(512);
        out.extend(number(headers.len()));
        for (name, value) in headers {
            out.extend(number(name.len()));
            out.extend(number(value.len()));
        }
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        Self(out)
    }
}
