//! What Envoy calls, and the contexts it speaks of: one root context a configuration, one stream context a request.
//!
//! A callback that is not exported costs nothing: Envoy does not enter the filter for it. A context that is unknown is
//! passed over, as anything else would be a panic.

#![allow(unsafe_code, missing_docs, reason = "the names, unmangled, are what the ABI is")]

use super::http_context::{Action, Stream};
use super::root_context::Root;
use crate::by_id::ById;
use std::cell::RefCell;
use std::hash::BuildHasherDefault;

thread_local! {
    static CONTEXTS: RefCell<Contexts> = const {
        RefCell::new(Contexts {
            roots: Vec::new(),
            streams: ById::with_hasher(BuildHasherDefault::new()),
        })
    };
}

struct Contexts {
    /// One a configuration: two while a new one takes over.
    roots: Vec<(u32, Root)>,
    streams: ById<Stream>,
}

impl Contexts {
    fn root(&mut self, id: u32) -> Option<&mut Root> {
        self.roots.iter_mut().find(|(root, _)| *root == id).map(|(_, root)| root)
    }
}

fn contexts<T>(act: impl FnOnce(&mut Contexts) -> Option<T>) -> Option<T> {
    CONTEXTS.with(|contexts| act(&mut *contexts.try_borrow_mut().ok()?))
}

fn root<T>(id: u32, act: impl FnOnce(&mut Root) -> T) -> Option<T> {
    contexts(|contexts| contexts.root(id).map(act))
}

fn stream(id: u32, act: impl FnOnce(&mut Stream) -> Action) -> u32 {
    contexts(|contexts| contexts.streams.get_mut(&id).map(act)).unwrap_or(Action::Continue) as u32
}

fn end_root(id: u32) {
    contexts(|contexts| {
        contexts.roots.retain(|(root, _)| *root != id);
        Some(())
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    super::logger::start();
}

/// Room for what the host hands over; [`hostcalls`](super::hostcalls) owns it then.
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut u8 {
    Box::into_raw(Box::<[u8]>::new_uninit_slice(size)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, root: u32) {
    contexts(|contexts| {
        if root == 0 {
            contexts.roots.push((id, Root::new(id)));
        } else if let Some(stream) = contexts.root(root).and_then(|root| root.stream(id)) {
            contexts.streams.insert(id, stream);
        }
        Some(())
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(id: u32, _size: usize) -> u32 {
    root(id, Root::on_configure).unwrap_or(false).into()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32, _count: usize, end_of_stream: u32) -> u32 {
    stream(id, |stream| stream.on_request_headers(end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(id: u32, size: usize, end_of_stream: u32) -> u32 {
    stream(id, |stream| stream.on_request_body(size, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(id: u32, _count: usize) -> u32 {
    stream(id, Stream::on_request_trailers)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: u32, _count: usize, _end_of_stream: u32) -> u32 {
    stream(id, Stream::on_response_headers)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    id: u32,
    token: u32,
    headers: usize,
    _body: usize,
    _trailers: usize,
) {
    root(id, |root| root.on_http_call_response(token, headers > 0));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(id: u32, _queue: u32) {
    root(id, Root::on_queue_ready);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(id: u32) {
    if root(id, Root::on_tick) == Some(true) {
        end_root(id);
    }
}

// Envoy asks each context to end before it deletes it: `proxy_on_delete` would be an entry more for each request.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(id: u32) -> u32 {
    if contexts(|contexts| contexts.streams.remove(&id).map(Stream::end)).is_some() {
        return true.into();
    }
    let ended = root(id, Root::on_done).unwrap_or(true);
    if ended {
        end_root(id);
    }
    ended.into()
}
