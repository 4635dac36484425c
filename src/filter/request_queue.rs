//! Complete requests that wait to be mapped: all that completed in one turn of Envoy's event loop
//! are mapped together when the root context wakes.
//!
//! Envoy's own work on a request touches more code than fits into a processor's cache. If requests
//! are mapped one after the other, only the first one has to load the mapping's code.

use super::host;
use super::request_head::RequestHead;
use super::user_store::UserStore;
use crate::config::Config;
use crate::keen::names;
use crate::mapping::{Client, EventBuffer, RequestStats, map_request};
use crate::segment::http::{BadRequestReason, write_key};
use crate::users::{CommitReport, UserTransaction};
use std::cell::OnceCell;

/// Maximum number of queued requests. When it is reached, they are mapped at once.
const MAX_QUEUED: usize = 64;
/// Maximum bytes of the queued bodies.
const MAX_QUEUED_BYTES: usize = 262_144;
/// Hexadecimal digits in the prefix of generated uniqueness tokens: 160 bits.
const TOKEN_PREFIX_DIGITS: usize = 40;

/// A complete request.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) stream_id: u32,
    pub(super) head: RequestHead,
    pub(super) body: Vec<u8>,
    /// The request has been answered, or continues to its route. Its client does not wait for Keen.
    pub(super) mirrored: bool,
}

/// Sequence number of a request within its root context.
pub(super) type RequestSeq = u64;

/// The queue of one root context.
#[derive(Debug, Default)]
pub(super) struct RequestQueue {
    requests: Vec<QueuedRequest>,
    body_bytes: usize,
    /// Sequence number of the first request in the queue, which equals the number of processed
    /// requests.
    first_seq: RequestSeq,
}

impl RequestQueue {
    /// Adds a request. Returns its sequence number.
    pub(super) fn push(&mut self, request: QueuedRequest) -> RequestSeq {
        let seq = self.first_seq.wrapping_add(to_u64(self.requests.len()));
        self.body_bytes = self.body_bytes.saturating_add(request.body.len());
        self.requests.push(request);
        seq
    }

    /// Whether the queue must be processed at once.
    pub(super) fn is_full(&self) -> bool {
        self.requests.len() >= MAX_QUEUED || self.body_bytes >= MAX_QUEUED_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether the request with this sequence number is still in the queue.
    pub(super) fn contains(&self, seq: RequestSeq) -> bool {
        seq >= self.first_seq
    }

    /// Empties the queue and returns its requests.
    pub(super) fn drain(&mut self) -> Vec<QueuedRequest> {
        let requests = std::mem::replace(&mut self.requests, Vec::with_capacity(MAX_QUEUED));
        self.body_bytes = 0;
        self.first_seq = self.first_seq.wrapping_add(to_u64(requests.len()));
        requests
    }
}

/// Maps requests to events.
#[derive(Debug)]
pub(super) struct RequestMapper {
    buffer: EventBuffer,
    users: UserStore,
    /// Whether any source stores users.
    users_enabled: bool,
    /// The seed of the store's hash. 0 until the first request.
    users_seed: u64,
    tokens: TokenGenerator,
    write_keys: WriteKeyCache,
}

impl RequestMapper {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            buffer: EventBuffer::new(config.delivery.max_pending_bytes),
            users: UserStore::new(config.users),
            users_enabled: config.any_source_stores_users(),
            users_seed: 0,
            tokens: TokenGenerator::default(),
            write_keys: WriteKeyCache::default(),
        }
    }

    /// Starts to use the configuration. `worker_id` is unique in the process.
    pub(super) fn activate(&mut self, worker_id: u64) {
        self.tokens.worker_id = worker_id;
    }

    /// Maps a request that was complete at `received_ms` (milliseconds since 1970). Its
    /// [events](Self::events) follow.
    ///
    /// `effective_context` is the context that hostcalls act on. Reading the client's address from
    /// Envoy changes it to the context of the request.
    pub(super) fn map(
        &mut self,
        request: &QueuedRequest,
        config: &Config,
        received_ms: u64,
        effective_context: &mut u32,
    ) -> Result<(RequestStats, CommitReport), BadRequestReason> {
        let QueuedRequest { stream_id, head, body, .. } = request;
        self.buffer.clear();
        let body = head.decode_body(body, config.max_body_bytes)?;
        self.tokens.seed(&head.request_id, received_ms, &body);
        if self.users_enabled && self.users_seed == 0 {
            let seed = [self.tokens.prefix.as_bytes(), &host::unix_ns().to_le_bytes()].concat();
            self.users_seed = self.users.initialize(config.users, names::sha256_u64(&seed));
        }
        // Finer than `received_ms`, so that identify messages of the same millisecond have an
        // order.
        let now_us = if self.users_enabled { host::unix_us() } else { 0 };
        let mut users =
            UserTransaction::new(&mut self.users, config.users, now_us).with_seed(self.users_seed);
        let write_key = self.write_keys.parse(&head.authorization);
        let address = OnceCell::new();
        let stats = map_request(
            config,
            head.request(write_key, &body, received_ms),
            |wants_address| {
                let source_address = || {
                    *effective_context = *stream_id;
                    let exists = host::set_effective_context(*stream_id);
                    if exists { host::source_address() } else { Vec::new() }
                };
                let source_address: &[u8] =
                    if wants_address { address.get_or_init(source_address) } else { &[] };
                Client { source_address, ..head.client() }
            },
            || self.tokens.next(),
            &mut users,
            &mut self.buffer,
        );
        let committed = users.commit();
        stats.map(|stats| (stats, committed))
    }

    /// Returns the events of the request that was mapped last.
    pub(super) fn events(&self) -> &EventBuffer {
        &self.buffer
    }
}

/// Generates uniqueness tokens for messages without an id.
#[derive(Debug, Default)]
struct TokenGenerator {
    worker_id: u64,
    /// Empty until the first request.
    prefix: String,
    count: u64,
}

impl TokenGenerator {
    /// Generates the prefix, once. Envoy's request ids are random, times differ between hosts, and
    /// the process-wide ids differ between workers, so no two workers have the same prefix.
    fn seed(&mut self, request_id: &[u8], now_ms: u64, body: &[u8]) {
        if self.prefix.is_empty() {
            let worker_id = self.worker_id.to_le_bytes();
            let seed = [request_id, &now_ms.to_le_bytes(), &worker_id, body].concat();
            self.prefix = names::sha256_hex(&seed, TOKEN_PREFIX_DIGITS);
        }
    }

    fn next(&mut self) -> String {
        self.count = self.count.wrapping_add(1);
        format!("{}-{:x}", self.prefix, self.count)
    }
}

/// Caches the last parsed `Authorization`. Most requests of a worker have the same one.
#[derive(Debug, Default)]
struct WriteKeyCache {
    authorization: Vec<u8>,
    write_key: Option<String>,
}

impl WriteKeyCache {
    fn parse(&mut self, authorization: &[u8]) -> Option<&str> {
        if self.authorization != authorization {
            self.authorization.clear();
            self.authorization.extend_from_slice(authorization);
            self.write_key = write_key::from_authorization(authorization);
        }
        self.write_key.as_deref()
    }
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
