//! Group commit, retry and back-pressure, as a pure state machine: no clock, no I/O.
//!
//! Callers are *waiters*. What a caller sends is [offered](Delivery::offer); events of many callers leave together in
//! one [call](Delivery::take) to Keen; its [outcome](Delivery::settle) answers them all. Where no call for a project is
//! in flight the first event leaves at once; while one is, events gather. Times are milliseconds of any one clock.
//!
//! Events may also come without a waiter: their caller has been answered, and nobody is left who would send them again.
//! They are tried until Keen has them, for as long as they fit.

mod batch;
mod offer;
pub mod outcome;

pub use offer::Offer;
pub use outcome::Outcome;

use crate::config;
use crate::keen::bulk::{self, Verdict};
use crate::segment::answer::Answer;
use batch::Batch;
use std::collections::{BTreeMap, VecDeque};

/// Who waits: the filter's name for a paused stream.
pub type WaiterId = u32;
/// A call to Keen that is under way.
pub type CallId = u32;

/// While a call is in flight, another leaves only with events that have gathered this long: one fuller call costs less
/// than two, and a hung one must not hold up the rest.
const GATHER_MS: u64 = 10;
/// The first pause before a further attempt; each next one is twice as long.
const BACKOFF_MS: u64 = 100;
const BACKOFF_MOST_MS: u64 = 5_000;
/// What a queued event costs beside its bytes.
const EVENT_OVERHEAD: usize = 64;

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// Nothing to deliver: answer now.
    Nothing,
    /// Taken; the waiter, if any, is answered later. `due`: there is a call to make now.
    Taken {
        /// Ask [`Delivery::take`].
        due: bool,
    },
    /// Over the bound: nothing of it is kept.
    Full,
}

/// A call to make.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Give it back with the outcome.
    pub id: CallId,
    /// Place in the configuration's destinations.
    pub destination: usize,
    /// The bulk request's body.
    pub body: Vec<u8>,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// What a call came to, for metrics and logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Place in the configuration's destinations.
    pub destination: usize,
    /// Events Keen has.
    pub recorded: u64,
    /// Events Keen refused for what they hold: collection and error name.
    pub refused: Vec<(String, String)>,
    /// Events whose callers were told to send again.
    pub failed: u64,
    /// Events without a waiter that were given up.
    pub dropped: u64,
    /// The same events go again.
    pub retried: bool,
}

#[derive(Debug)]
struct Waiter {
    deadline: u64,
    /// Events of its that Keen has not answered for.
    left: usize,
    /// Someone listens. Events of those who left still go.
    connected: bool,
}

#[derive(Debug, Default)]
struct Project {
    /// Where events gather, and since when.
    open: Batch,
    open_since: u64,
    /// Full, split and failed batches, in order.
    ready: VecDeque<Batch>,
    in_flight: usize,
    /// Keen has failed: nothing leaves before.
    not_before: u64,
}

impl Project {
    /// Whether a call is to be made now. `slots`: the worker may make another beside those in flight; a project's first
    /// call is never kept waiting by the calls of others.
    fn due(&self, now: u64, slots: bool) -> bool {
        let alone = self.in_flight == 0;
        let gathered = !self.open.is_empty() && (alone || now >= self.open_since.saturating_add(GATHER_MS));
        now >= self.not_before && (alone || slots) && (gathered || !self.ready.is_empty())
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Delivery {
    settings: config::Delivery,
    timeout_ms: u64,
    projects: Vec<Project>,
    waiters: BTreeMap<WaiterId, Waiter>,
    /// Deadlines in order: all callers wait equally long.
    deadlines: VecDeque<(u64, WaiterId)>,
    calls: BTreeMap<CallId, (usize, Batch)>,
    next_call: CallId,
    /// Where the search for the next call begins, so that no project is always first.
    turn: usize,
    pending_bytes: usize,
    answers: VecDeque<(WaiterId, Answer)>,
    jitter: u64,
    /// From then on nothing is tried again: the machine is to come to its end.
    closes: Option<u64>,
}

impl Delivery {
    /// A machine for `destinations` projects. `seed` scatters its pauses.
    #[must_use]
    pub fn new(settings: config::Delivery, timeout_ms: u64, destinations: usize, seed: u64) -> Self {
        Self {
            settings,
            timeout_ms,
            projects: (0..destinations).map(|_| Project::default()).collect(),
            waiters: BTreeMap::new(),
            deadlines: VecDeque::new(),
            calls: BTreeMap::new(),
            next_call: 1,
            turn: 0,
            pending_bytes: 0,
            answers: VecDeque::new(),
            jitter: seed | 1,
            closes: None,
        }
    }

    /// Takes all events of a caller, or none. Without a `waiter` nobody is told of their end.
    pub fn offer(&mut self, waiter: Option<WaiterId>, offer: &Offer, now: u64) -> Offered {
        if offer.is_empty() {
            return Offered::Nothing;
        }
        let cost = offer.len().saturating_mul(EVENT_OVERHEAD).saturating_add(offer.bytes());
        if self.pending_bytes.saturating_add(cost) > self.settings.max_pending_bytes {
            return Offered::Full;
        }
        self.pending_bytes = self.pending_bytes.saturating_add(cost);
        let slots = self.calls.len() < self.settings.max_in_flight;
        let mut due = false;
        for (destination, collection, event) in offer.events() {
            let Some(project) = self.projects.get_mut(destination) else { continue };
            let too_many = project.open.len() >= self.settings.max_batch_events;
            let too_large = project.open.bytes().saturating_add(event.len()) > self.settings.max_batch_bytes;
            if !project.open.is_empty() && (too_many || too_large) {
                project.ready.push_back(std::mem::take(&mut project.open));
            }
            if project.open.is_empty() {
                project.open_since = now;
            }
            project.open.push(waiter, collection, event);
            due |= project.due(now, slots);
        }
        if let Some(waiter) = waiter {
            let deadline = now.saturating_add(self.settings.hold_ms);
            self.waiters.insert(waiter, Waiter { deadline, left: offer.len(), connected: true });
            self.deadlines.push_back((deadline, waiter));
        }
        Offered::Taken { due }
    }

    /// The next call to make now, if any. Ask until there is none.
    pub fn take(&mut self, now: u64) -> Option<Call> {
        let count = self.projects.len();
        for offset in 0..count {
            let destination = self.turn.saturating_add(offset).checked_rem(count)?;
            if let Some(call) = self.take_of(destination, now) {
                self.turn = destination.saturating_add(1);
                return Some(call);
            }
        }
        None
    }

    fn take_of(&mut self, destination: usize, now: u64) -> Option<Call> {
        let slots = self.calls.len() < self.settings.max_in_flight;
        let waiters = &self.waiters;
        let project = self.projects.get_mut(destination)?;
        while project.due(now, slots) {
            let mut batch = project.ready.pop_front().unwrap_or_else(|| std::mem::take(&mut project.open));
            // Whoever got a 503 sends these again.
            let cost = batch.keep(|waiter| waiter.is_none_or(|waiter| waiters.contains_key(&waiter)));
            self.pending_bytes = self.pending_bytes.saturating_sub(cost);
            let Some(latest) = latest_deadline(&batch, waiters) else { continue };
            project.in_flight = project.in_flight.saturating_add(1);
            let timeout_ms = latest.saturating_sub(now).clamp(1, self.timeout_ms);
            let body = batch.request();
            let id = self.next_call;
            self.next_call = self.next_call.wrapping_add(1);
            self.calls.insert(id, (destination, batch));
            return Some(Call { id, destination, body, timeout_ms });
        }
        None
    }

    /// Reads what Keen answered to a call: needs to know what was asked.
    #[must_use]
    pub fn outcome(&self, call: CallId, status: Option<u16>, reply: &[u8]) -> Outcome {
        let asked = self.calls.get(&call).map(|(_, batch)| batch.asked()).unwrap_or_default();
        outcome::read(status, reply, &asked)
    }

    /// Takes what became of a call. Answers follow from [`Delivery::answers`].
    pub fn settle(&mut self, call: CallId, outcome: Outcome, now: u64) -> Settled {
        let Some((destination, mut batch)) = self.calls.remove(&call) else { return Settled::default() };
        let mut settled = Settled { destination, ..Settled::default() };
        if let Some(project) = self.projects.get_mut(destination) {
            project.in_flight = project.in_flight.saturating_sub(1);
            if !matches!(outcome, Outcome::Retry) {
                project.not_before = 0;
            }
        }
        match outcome {
            Outcome::Verdicts(verdicts) => self.verdicts(&batch, verdicts, &mut settled),
            Outcome::TooLarge | Outcome::Rejected(_) if batch.len() > 1 => {
                let second = batch.split();
                if let Some(project) = self.projects.get_mut(destination) {
                    project.ready.push_front(second);
                    project.ready.push_front(batch);
                }
                settled.retried = true;
            }
            Outcome::TooLarge => self.refused(&batch, "TooLarge", &mut settled),
            Outcome::Rejected(Some(name)) => self.refused(&batch, &name, &mut settled),
            Outcome::Rejected(None) | Outcome::Misconfigured | Outcome::Retry => {
                self.again(destination, batch, &outcome, now, &mut settled);
            }
        }
        settled
    }

    /// Sends a batch again after a pause, without those that are not to be tried again.
    fn again(&mut self, destination: usize, mut batch: Batch, why: &Outcome, now: u64, settled: &mut Settled) {
        batch.attempts = batch.attempts.saturating_add(1);
        let at = now.saturating_add(self.pause(batch.attempts));
        let tries_left = batch.attempts <= self.settings.retries;
        let in_time = latest_deadline(&batch, &self.waiters).is_some_and(|latest| latest > at);
        if *why != Outcome::Retry || !tries_left || !in_time {
            // Whoever waits is told, and sends again.
            let waiting: Vec<WaiterId> = batch.waiters().flatten().collect();
            for waiter in waiting {
                settled.failed = settled.failed.saturating_add(1);
                self.answer(waiter, Answer::Unavailable);
            }
            self.forget(&mut batch, |waiter| waiter.is_none());
        }
        // An event that Keen refuses without a word would hold up all that come behind it.
        let hopeless = matches!(why, Outcome::Rejected(_)) && !tries_left;
        if hopeless || self.closes.is_some_and(|closes| closes <= at) {
            let unanswered = batch.waiters().filter(Option::is_none).count();
            settled.dropped = u64::try_from(unanswered).unwrap_or(u64::MAX);
            self.forget(&mut batch, |waiter| waiter.is_some());
        }
        if let (false, Some(project)) = (batch.is_empty(), self.projects.get_mut(destination)) {
            project.not_before = at;
            project.ready.push_front(batch);
            settled.retried = true;
        }
    }

    fn forget(&mut self, batch: &mut Batch, stays: impl Fn(Option<WaiterId>) -> bool) {
        let cost = batch.keep(stays);
        self.pending_bytes = self.pending_bytes.saturating_sub(cost);
    }

    /// A call that could not be made, and so was never seen by Keen: as if Keen had not answered.
    pub fn not_made(&mut self, call: CallId, now: u64) -> Settled {
        self.settle(call, Outcome::Retry, now)
    }

    fn verdicts(&mut self, batch: &Batch, verdicts: Vec<Verdict>, settled: &mut Settled) {
        for ((waiter, collection), verdict) in batch.sorted().zip(verdicts) {
            match verdict {
                Verdict::Recorded => settled.recorded = settled.recorded.saturating_add(1),
                Verdict::Refused(name) => settled.refused.push((collection.to_owned(), name)),
            }
            self.delivered(waiter);
        }
        self.release(batch);
    }

    fn refused(&mut self, batch: &Batch, name: &str, settled: &mut Settled) {
        for (waiter, collection) in batch.sorted() {
            settled.refused.push((collection.to_owned(), name.to_owned()));
            self.delivered(waiter);
        }
        self.release(batch);
    }

    /// One event of the waiter's is done with.
    fn delivered(&mut self, waiter: Option<WaiterId>) {
        let Some(waiter) = waiter else { return };
        if let Some(state) = self.waiters.get_mut(&waiter) {
            state.left = state.left.saturating_sub(1);
            if state.left == 0 {
                self.answer(waiter, Answer::Taken);
            }
        }
    }

    fn answer(&mut self, waiter: WaiterId, answer: Answer) {
        if self.waiters.remove(&waiter).is_some_and(|state| state.connected) {
            self.answers.push_back((waiter, answer));
        }
    }

    fn release(&mut self, batch: &Batch) {
        self.pending_bytes = self.pending_bytes.saturating_sub(batch.cost());
    }

    /// Answers those who have waited to the end. `ahead`: how long until the next look, so that nobody waits longer.
    pub fn expire(&mut self, now: u64, ahead: u64) -> u64 {
        let mut expired = 0_u64;
        while let Some(&(deadline, waiter)) = self.deadlines.front() {
            let waits = self.waiters.get(&waiter).is_some_and(|state| state.deadline == deadline);
            if waits && deadline > now.saturating_add(ahead) {
                break;
            }
            self.deadlines.pop_front();
            if waits {
                expired = expired.saturating_add(1);
                self.answer(waiter, Answer::Unavailable);
            }
        }
        expired
    }

    /// The waiter has hung up. Its events still go.
    pub fn gone(&mut self, waiter: WaiterId) {
        if let Some(state) = self.waiters.get_mut(&waiter) {
            state.connected = false;
        }
    }

    /// The next answer to give.
    pub fn answers(&mut self) -> Option<(WaiterId, Answer)> {
        self.answers.pop_front()
    }

    /// Whether answers are waiting to be given.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Comes to an end: what nobody waits for is tried for as long as a caller would wait, and no longer.
    pub fn close(&mut self, now: u64) {
        self.closes = Some(now.saturating_add(self.settings.hold_ms));
    }

    /// Whether nothing is held, under way or owed.
    #[must_use]
    pub fn idle(&self) -> bool {
        let queued = |p: &Project| !p.open.is_empty() || !p.ready.is_empty();
        self.waiters.is_empty() && self.calls.is_empty() && self.answers.is_empty() && !self.projects.iter().any(queued)
    }

    /// Bytes of events held, with their overhead.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Doubling, and between half and the whole of it.
    fn pause(&mut self, attempt: u32) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let doublings = attempt.saturating_sub(1).min(16);
        let whole = BACKOFF_MS.saturating_mul(1_u64.wrapping_shl(doublings)).min(BACKOFF_MOST_MS);
        let half = whole >> 1;
        half.saturating_add(self.jitter.checked_rem(half.max(1)).unwrap_or(0))
    }
}

/// When the last of a batch's callers gives up: never, where an event has no caller. None of an empty batch.
fn latest_deadline(batch: &Batch, waiters: &BTreeMap<WaiterId, Waiter>) -> Option<u64> {
    batch.waiters().filter_map(|waiter| waiter.map_or(Some(u64::MAX), |w| waiters.get(&w).map(|w| w.deadline))).max()
}

#[cfg(test)]
mod tests;
