//! Requests that have come whole, until they are mapped: in the root context's next turn, all that came in this one.
//!
//! What Envoy does for a request, from its first byte to its end, is more code than a processor's cache holds. Mapped one
//! after the other, only the first of the requests waits for the mapping's own code; the others find it there.

use super::host;
use super::request_head::Head;
use super::user_store::Memory;
use crate::config::Config;
use crate::keen::names;
use crate::mapping::Client;
use crate::mapping::EventBuffer;
use crate::mapping::{RequestStats, map_request};
use crate::segment::http::{BadRequestReason, write_key};
use crate::users::{CommitReport, UserTransaction};
use std::cell::OnceCell;

/// Requests that wait to be mapped, at most, and bytes of their bodies: over it they are mapped at once.
const MOST: usize = 64;
const MOST_BYTES: usize = 262_144;

/// A request that has come whole.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: u32,
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    /// Keen gets a copy, and the caller hears nothing of it.
    pub(super) copied: bool,
}

/// The place of a request among all that a root context takes.
pub(super) type Number = u64;

/// What has come, and what mapping it takes.
#[derive(Debug)]
pub(super) struct Intake {
    arrivals: Vec<Arrival>,
    bytes: usize,
    /// How many have been mapped: the number of the first that waits.
    mapped: Number,
    offer: EventBuffer,
    memory: Memory,
    /// The seed of the user store.
    seed: u64,
    /// Some source remembers users.
    remembers: bool,
    token_prefix: String,
    tokens_made: u64,
    /// The last `Authorization` that was read, and the write key in it: most callers bear the same.
    authorization: Vec<u8>,
    key: Option<String>,
}

impl Intake {
    /// `root`: a number that no other root context of this process has.
    pub(super) fn new(config: &Config, root: u64) -> Self {
        let (memory, seed) = memory(config);
        Self {
            arrivals: Vec::new(),
            bytes: 0,
            mapped: 0,
            offer: EventBuffer::new(config.delivery.max_pending_bytes),
            memory,
            seed,
            remembers: config.any_source_stores_users(),
            token_prefix: String::new(),
            tokens_made: root << 40,
            authorization: Vec::new(),
            key: None,
        }
    }

    /// Takes a request.
    pub(super) fn add(&mut self, arrival: Arrival) -> Number {
        let number = self.mapped.wrapping_add(u64::try_from(self.arrivals.len()).unwrap_or(0));
        self.bytes = self.bytes.saturating_add(arrival.body.len());
        self.arrivals.push(arrival);
        number
    }

    /// Whether no more should be waiting.
    pub(super) fn is_full(&self) -> bool {
        self.arrivals.len() >= MOST || self.bytes >= MOST_BYTES
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Whether that request is still to be mapped.
    pub(super) fn holds(&self, number: Number) -> bool {
        number >= self.mapped
    }

    /// All that has come, in order, to be mapped now.
    pub(super) fn take(&mut self) -> Vec<Arrival> {
        let arrivals = std::mem::replace(&mut self.arrivals, Vec::with_capacity(MOST));
        self.bytes = 0;
        self.mapped = self.mapped.wrapping_add(u64::try_from(arrivals.len()).unwrap_or(0));
        arrivals
    }

    /// Maps a request, received at `now` (milliseconds since 1970). Its events are the [offer](Intake::offer) then.
    ///
    /// `effective` is the context that host calls act on, before and after: another, where Envoy was asked for an address.
    pub(super) fn map(
        &mut self,
        arrival: &Arrival,
        config: &Config,
        now: u64,
        effective: &mut u32,
    ) -> Result<(RequestStats, CommitReport), BadRequestReason> {
        let Arrival { stream, head, body, .. } = arrival;
        self.offer.clear();
        let body = head.messages(body, config.max_body_bytes)?;
        if self.token_prefix.is_empty() {
            // Envoy's request ids are random, its clock differs from host to host: together nobody else has them.
            let seed =
                [head.request_id(), &now.to_le_bytes(), &self.tokens_made.to_le_bytes(), &body]
                    .concat();
            self.token_prefix = names::sha256_hex(&seed, 40);
        }
        // Finer than the request's own time: identifies of one millisecond have an order.
        let micros = if self.remembers { host::now_micros() } else { 0 };
        let mut users =
            UserTransaction::new(&mut self.memory, config.users, micros).with_seed(self.seed);
        let address = OnceCell::new();
        if self.authorization != head.authorization() {
            self.authorization.clear();
            self.authorization.extend_from_slice(head.authorization());
            self.key = write_key::from_authorization(head.authorization());
        }
        let tally = map_request(
            config,
            head.request(self.key.as_deref(), &body, now),
            |wants_address| {
                let ask = || {
                    *effective = *stream;
                    if host::act_for(*stream) { host::source_address() } else { Vec::new() }
                };
                let source_address = if wants_address { address.get_or_init(ask) } else { &[][..] };
                Client { source_address, ..head.client() }
            },
            || {
                self.tokens_made = self.tokens_made.wrapping_add(1);
                format!("{}-{:x}", self.token_prefix, self.tokens_made)
            },
            &mut users,
            &mut self.offer,
        );
        let kept = users.commit();
        tally.map(|tally| (tally, kept))
    }

    /// The events of the request that was mapped last.
    pub(super) fn offer(&self) -> &EventBuffer {
        &self.offer
    }
}

/// Where users are kept, made ready where some source remembers them.
fn memory(config: &Config) -> (Memory, u64) {
    if !config.any_source_stores_users() {
        return (Memory::Shared, 0);
    }
    let mut memory = Memory::find();
    if matches!(memory, Memory::Own(_)) {
        log::warn!(
            "Envoy's shared data is closed to the filter: each worker remembers users by itself"
        );
    }
    let seed = UserTransaction::initialize(&mut memory, config.users, host::now_micros());
    (memory, seed)
}
