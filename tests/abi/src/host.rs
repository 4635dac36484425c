//! The hostcalls of the proxy-wasm ABI 0.2.1, with the statuses that Envoy 1.40 returns.

use crate::state::{Callout, Headers, LocalResponse, State, Status, Stream};
use wasmi::{Caller, Linker};

type Result<T> = std::result::Result<T, Status>;
type Call<'a> = Caller<'a, State>;

/// Defines a hostcall: counts it, lets a test make it fail, and returns its status.
macro_rules! hostcall {
    ($linker:expr, $name:literal, |$call:ident $(, $arg:ident)*| $body:expr) => {
        $linker.func_wrap("env", $name, |mut $call: Call<'_> $(, $arg: hostcall!(@ty $arg))*| -> u32 {
            if let Some(status) = entered(&mut $call, $name) {
                return status as u32;
            }
            #[allow(clippy::redundant_closure_call, reason = "the closure is where `?` returns to")]
            let result: Result<()> = (|| $body)();
            result.err().unwrap_or(Status::Ok) as u32
        })
    };
    (@ty wide) => { u64 };
    (@ty signed) => { i64 };
    (@ty $arg:ident) => { u32 };
}

fn entered(call: &mut Call<'_>, name: &'static str) -> Option<Status> {
    let state = call.data_mut();
    *state.usage.calls.entry(name).or_default() += 1;
    state.failing.get(name).copied()
}

fn read(call: &Call<'_>, at: u32, len: u32) -> Result<Vec<u8>> {
    let memory = call.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    let (at, len) = (at as usize, len as usize);
    memory
        .data(call)
        .get(at..at.saturating_add(len))
        .map(<[u8]>::to_vec)
        .ok_or(Status::InvalidMemoryAccess)
}

fn text(call: &Call<'_>, at: u32, len: u32) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(call, at, len)?).into_owned())
}

fn write(call: &mut Call<'_>, at: u32, bytes: &[u8]) -> Result<()> {
    let memory = call.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    memory.write(call, at as usize, bytes).map_err(|_| Status::InvalidMemoryAccess)
}

/// Writes bytes into memory that the module allocates, and returns their place and size to it.
fn return_bytes(call: &mut Call<'_>, bytes: &[u8], at: u32, len: u32) -> Result<()> {
    let place = if bytes.is_empty() {
        0
    } else {
        let allocate = call.data().allocate.ok_or(Status::InternalFailure)?;
        let size = u32::try_from(bytes.len()).map_err(|_| Status::BadArgument)?;
        let place = allocate.call(&mut *call, size).map_err(|_| Status::InternalFailure)?;
        write(call, place, bytes)?;
        place
    };
    write(call, at, &place.to_le_bytes())?;
    write(call, len, &u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes())
}

/// `u32 count, (u32 name, u32 value) * count, (name \0 value \0) * count`.
pub(crate) fn pairs(headers: &Headers) -> Vec<u8> {
    let size = |len: usize| u32::try_from(len).unwrap_or(0).to_le_bytes();
    let mut out = size(headers.len()).to_vec();
    for (name, value) in headers {
        out.extend(size(name.len()));
        out.extend(size(value.len()));
    }
    for (name, value) in headers {
        out.extend(name.as_bytes());
        out.push(0);
        out.extend(value);
        out.push(0);
    }
    out
}

fn unpaired(bytes: &[u8]) -> Option<Headers> {
    let number =
        |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    if bytes.is_empty() {
        return Some(Headers::new());
    }
    let count = number(0)?;
    let mut at = 4 + count * 8;
    let mut headers = Headers::new();
    for i in 0..count {
        let (name, value) = (number(4 + i * 8)?, number(8 + i * 8)?);
        let name_end = at.checked_add(name)?;
        let value_end = (name_end + 1).checked_add(value)?;
        let name = String::from_utf8_lossy(bytes.get(at..name_end)?).into_owned();
        headers.push((name, bytes.get(name_end + 1..value_end)?.to_vec()));
        at = value_end + 1;
    }
    Some(headers)
}

fn map(state: &mut State, which: u32) -> Result<&mut Headers> {
    if which == 6 {
        return state.call_headers.as_mut().ok_or(Status::BadArgument);
    }
    let stream = state.stream_mut().ok_or(Status::BadArgument)?;
    match which {
        0 => stream.request_headers.as_mut(),
        1 => stream.trailers.as_mut(),
        2 => stream.response_headers.as_mut(),
        _ => None,
    }
    .ok_or(Status::BadArgument)
}

fn buffer(state: &mut State, which: u32) -> Result<&mut Vec<u8>> {
    match which {
        0 => state.stream_mut().map(|stream| &mut stream.body).ok_or(Status::NotFound),
        1 => state.stream_mut().map(|stream| &mut stream.response_body).ok_or(Status::NotFound),
        4 => state.call_body.as_mut().ok_or(Status::NotFound),
        7 => Ok(&mut state.configuration),
        _ => Err(Status::NotFound),
    }
}

pub(crate) fn define(linker: &mut Linker<State>) -> std::result::Result<(), wasmi::Error> {
    define_general(linker)?;
    define_http(linker)?;
    define_shared(linker)?;
    define_metrics(linker)?;
    Ok(())
}

/// Defines the hostcalls for log, clock, properties and contexts.
fn define_general(linker: &mut Linker<State>) -> std::result::Result<(), wasmi::Error> {
    hostcall!(linker, "proxy_log", |call, level, data, size| {
        let line = text(&call, data, size)?;
        call.data_mut().logs.push((level, line));
        Ok(())
    })?;
    hostcall!(linker, "proxy_get_log_level", |call, out| write(
        &mut call,
        out,
        &2_u32.to_le_bytes()
    ))?;
    hostcall!(linker, "proxy_get_current_time_nanoseconds", |call, out| {
        let now = call.data().now_ns;
        write(&mut call, out, &now.to_le_bytes())
    })?;
    hostcall!(linker, "proxy_set_tick_period_milliseconds", |call, period| {
        call.data_mut().tick_ms = period;
        Ok(())
    })?;
    hostcall!(linker, "proxy_get_property", |call, path, size, out, out_size| {
        let path = text(&call, path, size)?.replace('\0', ".");
        let state = call.data();
        let stream = state.streams.get(&state.effective);
        let value = match (path.as_str(), stream) {
            // Only a stream has a connection.
            ("source.address", None) => None,
            ("plugin_root_id", _) => Some(b"keen_edge".to_vec()),
            ("source.address", Some(Stream { address: Some(own), .. })) => Some(own.clone()),
            _ => state.properties.get(&path).cloned(),
        };
        let value = value.ok_or(Status::NotFound)?;
        return_bytes(&mut call, &value, out, out_size)
    })?;
    hostcall!(linker, "proxy_set_property", |call, _path, _size, _value, _value_size| {
        let _ = call.data();
        Err(Status::NotFound)
    })?;
    hostcall!(linker, "proxy_set_effective_context", |call, context| {
        let state = call.data_mut();
        if context != state.root && !state.streams.contains_key(&context) {
            return Err(Status::BadArgument);
        }
        state.effective = context;
        Ok(())
    })?;
    hostcall!(linker, "proxy_done", |call| {
        let state = call.data_mut();
        // Envoy deletes the effective context if it has asked that context to finish.
        if state.effective != state.root {
            return Err(Status::NotFound);
        }
        state.done = true;
        Ok(())
    })?;
    hostcall!(linker, "proxy_call_foreign_function", |call, _n, _ns, _a, _as, _r, _rs| {
        let _ = call.data();
        Err(Status::NotFound)
    })?;
    hostcall!(linker, "proxy_get_status", |call, _code, _message, _size| {
        let _ = call.data();
        Err(Status::Unimplemented)
    })?;
    for (name, params) in [
        ("proxy_grpc_call", 12),
        ("proxy_grpc_stream", 9),
        ("proxy_grpc_send", 4),
        ("proxy_grpc_cancel", 1),
        ("proxy_grpc_close", 1),
    ] {
        let ty = wasmi::FuncType::new(vec![wasmi::ValType::I32; params], [wasmi::ValType::I32]);
        linker.func_new("env", name, ty, |_, _, results| {
            for result in results {
                *result = wasmi::Val::I32(Status::Unimplemented as i32);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Defines the hostcalls for headers, bodies, responses and callouts.
fn define_http(linker: &mut Linker<State>) -> std::result::Result<(), wasmi::Error> {
    hostcall!(linker, "proxy_get_header_map_pairs", |call, which, out, out_size| {
        // A map that does not exist is empty.
        let bytes =
            map(call.data_mut(), which).map_or_else(|_| pairs(&Headers::new()), |map| pairs(map));
        return_bytes(&mut call, &bytes, out, out_size)
    })?;
    hostcall!(linker, "proxy_set_header_map_pairs", |call, which, data, size| {
        let headers = unpaired(&read(&call, data, size)?).ok_or(Status::BadArgument)?;
        *map(call.data_mut(), which)? = headers;
        Ok(())
    })?;
    hostcall!(linker, "proxy_get_header_map_value", |call, which, name, size, out, out_size| {
        let name = text(&call, name, size)?;
        let headers = map(call.data_mut(), which)?;
        let found = headers.iter().find(|(header, _)| *header == name);
        let value = found.map(|(_, value)| value.clone()).ok_or(Status::NotFound)?;
        return_bytes(&mut call, &value, out, out_size)
    })?;
    for name in ["proxy_replace_header_map_value", "proxy_add_header_map_value"] {
        let add = name == "proxy_add_header_map_value";
        linker.func_wrap(
            "env",
            name,
            move |mut call: Call<'_>, which: u32, n: u32, ns: u32, v: u32, vs: u32| -> u32 {
                if let Some(status) = entered(&mut call, name) {
                    return status as u32;
                }
                let result = (|| {
                    let (name, value) = (text(&call, n, ns)?, read(&call, v, vs)?);
                    let headers = map(call.data_mut(), which)?;
                    if !add {
                        headers.retain(|(header, _)| *header != name);
                    }
                    headers.push((name, value));
                    Ok(())
                })();
                result.err().unwrap_or(Status::Ok) as u32
            },
        )?;
    }
    hostcall!(linker, "proxy_remove_header_map_value", |call, which, name, size| {
        let name = text(&call, name, size)?;
        map(call.data_mut(), which)?.retain(|(header, _)| *header != name);
        Ok(())
    })?;
    hostcall!(linker, "proxy_get_buffer_bytes", |call, which, start, most, out, out_size| {
        let bytes = buffer(call.data_mut(), which)?;
        let start = start as usize;
        let end = start.saturating_add(most as usize).min(bytes.len());
        let bytes = bytes.get(start..end).unwrap_or_default().to_vec();
        return_bytes(&mut call, &bytes, out, out_size)
    })?;
    hostcall!(linker, "proxy_set_buffer_bytes", |call, which, start, size, data, data_size| {
        let new = read(&call, data, data_size)?;
        let bytes = buffer(call.data_mut(), which)?;
        let start = (start as usize).min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        bytes.splice(start..end, new);
        Ok(())
    })?;
    hostcall!(
        linker,
        "proxy_send_local_response",
        |call, status, _details, _details_size, b, bs, h, hs, _grpc| {
            let (body, headers) =
                (read(&call, b, bs)?, unpaired(&read(&call, h, hs)?).ok_or(Status::BadArgument)?);
            // A root context has no stream to respond to, so nothing happens. Of two responses the
            // first counts.
            if let Some(stream) = call.data_mut().stream_mut() {
                stream.response.get_or_insert(LocalResponse { status, headers, body });
            }
            Ok(())
        }
    )?;
    hostcall!(linker, "proxy_continue_stream", |call, _which| {
        call.data_mut().stream_mut().ok_or(Status::BadArgument)?.resumed = true;
        Ok(())
    })?;
    hostcall!(linker, "proxy_close_stream", |call, _which| call
        .data()
        .stream()
        .map(drop)
        .ok_or(Status::BadArgument))?;
    hostcall!(linker, "proxy_http_call", |call, c, cs, h, hs, b, bs, _t, _ts, timeout_ms, out| {
        let headers = unpaired(&read(&call, h, hs)?).ok_or(Status::BadArgument)?;
        if ![":method", ":path", ":authority"]
            .iter()
            .all(|name| headers.iter().any(|(header, _)| header == name))
        {
            return Err(Status::BadArgument);
        }
        let (cluster, body) = (text(&call, c, cs)?, read(&call, b, bs)?);
        let state = call.data_mut();
        state.next_token += 1;
        let token = state.next_token;
        state.callouts.insert(token, Callout { token, cluster, headers, body, timeout_ms });
        write(&mut call, out, &token.to_le_bytes())
    })?;
    Ok(())
}

/// Defines the hostcalls for shared data, shared queues and metrics.
fn define_shared(linker: &mut Linker<State>) -> std::result::Result<(), wasmi::Error> {
    hostcall!(linker, "proxy_get_shared_data", |call, key, size, out, out_size, out_cas| {
        let key = read(&call, key, size)?;
        let (value, cas) = call.data().shared.get(&key).cloned().ok_or(Status::NotFound)?;
        write(&mut call, out_cas, &cas.to_le_bytes())?;
        return_bytes(&mut call, &value, out, out_size)
    })?;
    hostcall!(linker, "proxy_set_shared_data", |call, key, size, value, value_size, cas| {
        let (key, value) = (read(&call, key, size)?, read(&call, value, value_size)?);
        let shared = &mut call.data_mut().shared;
        let last = shared.get(&key).map_or(0, |(_, cas)| *cas);
        if cas != 0 && cas != last {
            return Err(Status::CasMismatch);
        }
        shared.insert(key, (value, last + 1));
        Ok(())
    })?;
    hostcall!(linker, "proxy_register_shared_queue", |call, name, size, out| {
        let name = read(&call, name, size)?;
        let queues = &mut call.data_mut().queues;
        let place = queues.iter().position(|(queue, _)| *queue == name).unwrap_or_else(|| {
            queues.push((name, std::collections::VecDeque::new()));
            queues.len() - 1
        });
        write(&mut call, out, &u32::try_from(place + 1).unwrap_or(0).to_le_bytes())
    })?;
    hostcall!(linker, "proxy_resolve_shared_queue", |call, _vm, _vm_size, name, size, out| {
        let name = read(&call, name, size)?;
        let place = call
            .data()
            .queues
            .iter()
            .position(|(queue, _)| *queue == name)
            .ok_or(Status::NotFound)?;
        write(&mut call, out, &u32::try_from(place + 1).unwrap_or(0).to_le_bytes())
    })?;
    hostcall!(linker, "proxy_enqueue_shared_queue", |call, queue, data, size| {
        let item = read(&call, data, size)?;
        let state = call.data_mut();
        let place = (queue as usize)
            .checked_sub(1)
            .and_then(|at| state.queues.get_mut(at))
            .ok_or(Status::NotFound)?;
        place.1.push_back(item);
        state.wakes.push(queue);
        Ok(())
    })?;
    hostcall!(linker, "proxy_dequeue_shared_queue", |call, queue, out, out_size| {
        let queues = &mut call.data_mut().queues;
        let place = (queue as usize)
            .checked_sub(1)
            .and_then(|at| queues.get_mut(at))
            .ok_or(Status::NotFound)?;
        let item = place.1.pop_front().ok_or(Status::Empty)?;
        return_bytes(&mut call, &item, out, out_size)
    })?;
    Ok(())
}

fn define_metrics(linker: &mut Linker<State>) -> std::result::Result<(), wasmi::Error> {
    hostcall!(linker, "proxy_define_metric", |call, _kind, name, size, out| {
        let name = text(&call, name, size)?;
        let metrics = &mut call.data_mut().metrics;
        metrics.push((name, 0));
        let id = u32::try_from(metrics.len()).unwrap_or(0);
        write(&mut call, out, &id.to_le_bytes())
    })?;
    hostcall!(linker, "proxy_increment_metric", |call, id, signed| {
        let metric =
            (id as usize).checked_sub(1).and_then(|at| call.data_mut().metrics.get_mut(at));
        let metric = metric.ok_or(Status::NotFound)?;
        metric.1 = metric
            .1
            .checked_add_signed(signed)
            .filter(|_| signed != 0)
            .ok_or(Status::BadArgument)?;
        Ok(())
    })?;
    hostcall!(linker, "proxy_record_metric", |call, id, wide| {
        let metric =
            (id as usize).checked_sub(1).and_then(|at| call.data_mut().metrics.get_mut(at));
        metric.ok_or(Status::NotFound)?.1 = wide;
        Ok(())
    })?;
    hostcall!(linker, "proxy_get_metric", |call, id, out| {
        let metric = (id as usize).checked_sub(1).and_then(|at| call.data().metrics.get(at));
        let value = metric.ok_or(Status::NotFound)?.1;
        write(&mut call, out, &value.to_le_bytes())
    })?;
    Ok(())
}
