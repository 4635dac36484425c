//! Group commit, retry and back-pressure, as a pure state machine: no clock, no I/O.
//!
//! Callers are *waiters*. What a caller sends is [submitted](Delivery::submit); events of many callers leave together in
//! one [call](Delivery::next_callout) to Keen; its [outcome](Delivery::settle) answers them all. Where no call for a project is
//! in flight the first event leaves at once; while one is, events gather. Callers who were answered this moment are
//! waited for, a few milliseconds at most. Times are milliseconds of any one clock.
//!
//! Events may also come without a waiter: their caller has been answered, and nobody is left who would send them again.
//! They are tried until Keen has them, for as long as they fit.

mod batch;
pub mod classify;
mod monotonic_clock;

pub use classify::{CalloutOutcome, CalloutResponse};
pub use monotonic_clock::MonotonicClock;

use crate::by_id::ById;
use crate::config;
use crate::keen::bulk::{self, Event, EventResult};
use batch::Batch;
use std::collections::VecDeque;
use std::iter::{repeat, repeat_n};
use std::mem::take;

/// Who waits: the filter's name for a paused stream.
pub type WaiterId = u32;
/// A call to Keen that is under way.
pub type CalloutId = u32;

/// While a call is in flight, another leaves only with events that have gathered this long: one fuller call costs less
/// than two, and a hung one must not hold up the rest.
const GATHER_MS: u64 = 10;
/// … and longer where Keen is slow, so that its calls are spread over the time that one takes: an event that came just
/// after the last of them left would otherwise wait for a whole one to end, and then for its own.
const GATHER_MOST_MS: u64 = 2_000;
/// Callers whom Keen's answer sets free are likely to send again at once. For this long after it, what comes waits until
/// as many callers have come as there were: else those who are first would leave by themselves, and make two calls of one.
const ROUND_MS: u64 = 4;
/// The first pause before a further attempt; each next one is twice as long.
const BACKOFF_MS: u64 = 100;
const BACKOFF_MOST_MS: u64 = 5_000;
/// Splits of batches that Keen failed over, one after the other without a success between. They find the one event that
/// is the cause among 2^12; a Keen that fails over everything must not get its batches one by one.
const SPLITS_IN_VAIN: u32 = 12;
/// Room that is kept from one batch to a later one, at most.
const SPARE_BYTES: usize = 2_000_000;
/// What a queued event costs beside its bytes.
const EVENT_OVERHEAD: usize = 64;

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Nothing to deliver: answer now.
    Empty,
    /// Taken; the waiter, if any, is answered later. There may be a [call](Delivery::next_callout) to make now.
    Admitted,
    /// Over the bound: nothing of it is kept.
    Rejected,
}

/// What a waiter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Keen has a result for each of its events.
    Delivered,
    /// Keen has not confirmed all of its events: the client retries.
    Unconfirmed,
}

/// A call to make.
#[derive(Debug, PartialEq, Eq)]
pub struct Callout {
    /// Give it back with the outcome.
    pub id: CalloutId,
    /// Place in the configuration's destinations.
    pub destination: usize,
    /// The bulk request's body.
    pub body: Vec<u8>,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// What a call came to, for metrics and logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SettleReport {
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

/// What waited to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpiryReport {
    /// Callers told to send again.
    pub callers: u64,
    /// Events without a waiter that were given up, as the machine [closes](Delivery::begin_drain).
    pub dropped: u64,
}

#[derive(Debug)]
struct Waiter {
    deadline: u64,
    /// Events of its that Keen has not answered for.
    left: usize,
    /// One of its events has failed: it is told when the others have come to their end, which they do all the same. A
    /// project that fails does not keep events from another.
    failed: bool,
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
    /// Events that nobody waits for and that were tried in vain: they stand aside, in order, not before that time.
    aside: VecDeque<Batch>,
    aside_until: u64,
    splits_in_vain: u32,
    /// How long its calls take, of late.
    call_ms: u64,
    round: Round,
}

/// Callers who are likely to send in a moment, or have.
#[derive(Debug, Default)]
struct Round {
    callers: usize,
    /// They are waited for until then.
    until: u64,
}

impl Round {
    /// `free`: callers who have been answered at `now`; `waiting`: those who have sent already. A few more or less make
    /// no difference to a call.
    fn begin(&mut self, free: usize, waiting: usize, now: u64) {
        let all = free.saturating_add(waiting);
        *self = Self { callers: all.saturating_sub(all >> 3), until: now.saturating_add(ROUND_MS) };
    }

    fn is_short_of(&self, callers: usize, now: u64) -> bool {
        callers < self.callers && now < self.until
    }
}

impl Project {
    /// Whether a call is to be made now. `slots`: calls that the worker may make at once, and whether one more fits; a
    /// project's first call is never kept waiting by the calls of others.
    fn due(&self, now: u64, slots: Slots) -> bool {
        let alone = self.in_flight == 0;
        (alone || slots.free) && (self.aside_due(now) || self.fresh_due(now, alone, slots.all))
    }

    fn fresh_due(&self, now: u64, alone: bool, slots: usize) -> bool {
        let gathered = match alone {
            true => !self.round.is_short_of(self.open.callers(), now),
            false => now >= self.open_since.saturating_add(self.gather_ms(slots)),
        };
        now >= self.not_before && (!self.ready.is_empty() || (gathered && !self.open.is_empty()))
    }

    /// Whether what has come leaves in a moment, though nothing else may happen until then.
    fn gathers(&self, now: u64) -> bool {
        !self.open.is_empty()
            && self.in_flight == 0
            && self.round.is_short_of(self.open.callers(), now)
    }

    /// The fewer slots are left, the longer events gather: up to a slot's share of the time that a call takes.
    fn gather_ms(&self, slots: usize) -> u64 {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let whole = number(slots).saturating_mul(number(slots.saturating_sub(1)));
        let share =
            self.call_ms.saturating_mul(number(self.in_flight)).checked_div(whole).unwrap_or(0);
        share.clamp(GATHER_MS, GATHER_MOST_MS)
    }

    fn aside_due(&self, now: u64) -> bool {
        now >= self.aside_until && !self.aside.is_empty()
    }

    /// The batch to send, where one is [due](Self::due). What stands aside is older, and held to its own pauses.
    fn next(&mut self, now: u64) -> Batch {
        if self.aside_due(now) {
            // One at a time, until Keen has taken one.
            self.aside_until = now.saturating_add(BACKOFF_MOST_MS);
            return self.aside.pop_front().unwrap_or_default();
        }
        self.ready.pop_front().unwrap_or_else(|| take(&mut self.open))
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.ready.is_empty() && self.aside.is_empty()
    }
}

/// Calls at once: how many there may be, and whether one more may.
#[derive(Debug, Clone, Copy)]
struct Slots {
    all: usize,
    free: bool,
}

/// A call under way.
#[derive(Debug)]
struct UnderWay {
    destination: usize,
    batch: Batch,
    since: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Delivery {
    settings: config::DeliverySettings,
    timeout_ms: u64,
    projects: Vec<Project>,
    waiters: ById<Waiter>,
    /// Deadlines in order: all callers wait equally long.
    deadlines: VecDeque<(u64, WaiterId)>,
    calls: ById<UnderWay>,
    next_call: CalloutId,
    /// Where the search for the next call begins, so that no project is always first.
    turn: usize,
    /// Someone looks again in a moment, where a call is to leave then.
    timed: bool,
    /// What has come to some project leaves in a moment.
    gathers: bool,
    pending_bytes: usize,
    answers: VecDeque<(WaiterId, Ack)>,
    /// One that has been delivered: the next batch is written where it stood.
    spare: Batch,
    jitter: u64,
    /// From then on nothing is tried again: the machine is to come to its end.
    closes: Option<u64>,
}

impl Delivery {
    /// A machine for `destinations` projects. `seed` scatters its pauses.
    #[must_use]
    pub fn new(
        settings: config::DeliverySettings,
        timeout_ms: u64,
        destinations: usize,
        seed: u64,
    ) -> Self {
        Self {
            settings,
            timeout_ms,
            projects: (0..destinations).map(|_| Project::default()).collect(),
            waiters: ById::default(),
            deadlines: VecDeque::new(),
            calls: ById::default(),
            next_call: 1,
            turn: 0,
            timed: false,
            gathers: false,
            pending_bytes: 0,
            answers: VecDeque::new(),
            spare: Batch::default(),
            jitter: seed | 1,
            closes: None,
        }
    }

    /// Takes all events of a caller, or none. Without a `waiter` nobody is told of their end.
    pub fn submit<'e>(
        &mut self,
        waiter: Option<WaiterId>,
        events: impl Iterator<Item = Event<'e>> + Clone,
        now: u64,
    ) -> Admission {
        let (mut count, mut cost) = (0_usize, 0_usize);
        for event in events.clone() {
            count = count.saturating_add(1);
            let bytes = event.collection.len().saturating_add(event.json.len());
            cost = cost.saturating_add(bytes).saturating_add(EVENT_OVERHEAD);
        }
        if count == 0 {
            return Admission::Empty;
        }
        if self.pending_bytes.saturating_add(cost) > self.settings.max_pending_bytes {
            return Admission::Rejected;
        }
        self.pending_bytes = self.pending_bytes.saturating_add(cost);
        for Event { destination, collection, json: event } in events {
            let Some(project) = self.projects.get_mut(destination) else { continue };
            let too_many = project.open.len() >= self.settings.max_batch_events;
            let too_large =
                project.open.bytes().saturating_add(event.len()) > self.settings.max_batch_bytes;
            if !project.open.is_empty() && (too_many || too_large) {
                project.ready.push_back(take(&mut project.open));
            }
            if project.open.is_empty() {
                project.open_since = now;
                if !project.open.has_room() {
                    project.open = take(&mut self.spare);
                }
            }
            project.open.push(waiter, collection, event);
        }
        if let Some(waiter) = waiter {
            let deadline = now.saturating_add(self.settings.max_wait_ms);
            self.waiters
                .insert(waiter, Waiter { deadline, left: count, failed: false, connected: true });
            self.deadlines.push_back((deadline, waiter));
            if self.deadlines.len() > self.waiters.len().saturating_mul(2).saturating_add(1024) {
                // One that waits long stands in front of many that have been answered.
                self.deadlines.retain(|(_, waiter)| self.waiters.contains_key(waiter));
            }
        }
        Admission::Admitted
    }

    /// The next call to make now, if any. Ask until there is none.
    pub fn next_callout(&mut self, now: u64) -> Option<Callout> {
        self.gathers = false;
        let count = self.projects.len();
        for offset in 0..count {
            let destination = self.turn.saturating_add(offset).checked_rem(count)?;
            if let Some(call) = self.next_callout_for(destination, now) {
                self.turn = destination.saturating_add(1);
                return Some(call);
            }
        }
        None
    }

    fn slots(&self) -> Slots {
        let all = self.settings.max_in_flight;
        Slots { all, free: self.calls.len() < all }
    }

    fn next_callout_for(&mut self, destination: usize, now: u64) -> Option<Callout> {
        let slots = self.slots();
        let waiters = &self.waiters;
        let project = self.projects.get_mut(destination)?;
        while project.due(now, slots) {
            let mut batch = project.next(now);
            // Whoever got a 503 sends these again.
            let cost =
                batch.keep(|waiter| waiter.is_none_or(|waiter| waiters.contains_key(&waiter)));
            self.pending_bytes = self.pending_bytes.saturating_sub(cost);
            let Some(latest) = latest_deadline(&batch, waiters) else { continue };
            project.in_flight = project.in_flight.saturating_add(1);
            let timeout_ms = latest.saturating_sub(now).clamp(1, self.timeout_ms);
            let body = batch.request();
            let id = self.next_call;
            self.next_call = self.next_call.wrapping_add(1);
            self.calls.insert(id, UnderWay { destination, batch, since: now });
            return Some(Callout { id, destination, body, timeout_ms });
        }
        self.gathers |= project.gathers(now);
        None
    }

    /// Reads how a call ended: needs to know what was asked.
    #[must_use]
    pub fn classify(&self, call: CalloutId, ended: CalloutResponse<'_>) -> CalloutOutcome {
        let asked = self.calls.get(&call).map(|call| call.batch.asked()).unwrap_or_default();
        classify::read(ended, &asked)
    }

    /// Takes what became of a call. Answers follow from [`Delivery::pop_ack`].
    pub fn settle(&mut self, call: CalloutId, outcome: CalloutOutcome, now: u64) -> SettleReport {
        let Some(UnderWay { destination, mut batch, since }) = self.calls.remove(&call) else {
            return SettleReport::default();
        };
        let mut settled = SettleReport { destination, ..SettleReport::default() };
        if let Some(project) = self.projects.get_mut(destination) {
            project.in_flight = project.in_flight.saturating_sub(1);
            // A quarter of what is new: three or four calls tell how Keen is.
            let took = now.saturating_sub(since);
            project.call_ms = project.call_ms.saturating_mul(3).saturating_add(took) >> 2;
            if !matches!(
                outcome,
                CalloutOutcome::RetryAfter(_)
                    | CalloutOutcome::ServerError
                    | CalloutOutcome::Misconfigured
            ) {
                project.not_before = 0;
                project.aside_until = 0;
                project.splits_in_vain = 0;
            }
        }
        match outcome {
            CalloutOutcome::Results(verdicts) => {
                let answers = self.answers.len();
                let all = self.verdicts(&mut batch, verdicts, &mut settled);
                if let (true, Some(project)) = (self.timed, self.projects.get_mut(destination)) {
                    project.round.begin(
                        self.answers.len().saturating_sub(answers),
                        project.open.callers(),
                        now,
                    );
                }
                if all {
                    self.spare = batch.emptied(SPARE_BYTES);
                    return settled;
                }
                self.again(destination, batch, &CalloutOutcome::RetryAfter(0), now, &mut settled);
            }
            CalloutOutcome::PayloadTooLarge | CalloutOutcome::Rejected(_) if batch.len() > 1 => {
                self.halves(destination, &batch);
                settled.retried = true;
            }
            CalloutOutcome::PayloadTooLarge => self.refused(&batch, "TooLarge", &mut settled),
            CalloutOutcome::Rejected(Some(name)) => self.refused(&batch, &name, &mut settled),
            CalloutOutcome::Rejected(None)
            | CalloutOutcome::Misconfigured
            | CalloutOutcome::RetryAfter(_)
            | CalloutOutcome::ServerError => {
                self.again(destination, batch, &outcome, now, &mut settled);
            }
        }
        settled
    }

    /// Sends a batch again after a pause, without those that are not to be tried again.
    fn again(
        &mut self,
        destination: usize,
        mut batch: Batch,
        why: &CalloutOutcome,
        now: u64,
        settled: &mut SettleReport,
    ) {
        if batch.is_empty() {
            return;
        }
        batch.attempts = batch.attempts.saturating_add(1);
        let asked_for =
            if let CalloutOutcome::RetryAfter(ms) = why { (*ms).min(BACKOFF_MOST_MS) } else { 0 };
        let at = now.saturating_add(self.pause(batch.attempts).max(asked_for));
        let passing = matches!(why, CalloutOutcome::RetryAfter(_) | CalloutOutcome::ServerError);
        let tries_left = batch.attempts <= self.settings.max_retries;
        let in_time = latest_deadline(&batch, &self.waiters).is_some_and(|latest| latest > at);
        if !(passing && tries_left && in_time) {
            // Whoever waits is told, and sends again.
            for (waiter, _, count) in batch.runs().filter(|(waiter, _, _)| waiter.is_some()) {
                settled.failed =
                    settled.failed.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                self.ended(waiter, count, false);
            }
            self.forget(&mut batch, |waiter| waiter.is_none());
        }
        // An event that Keen refuses without a word would be refused for ever.
        let hopeless = matches!(why, CalloutOutcome::Rejected(_)) && !tries_left;
        if hopeless || self.closes.is_some_and(|closes| closes <= at) {
            settled.dropped = settled.dropped.saturating_add(unanswered(&batch));
            self.forget(&mut batch, |waiter| waiter.is_some());
        }
        let Some(project) = self.projects.get_mut(destination) else { return };
        if batch.is_empty() {
            return;
        }
        settled.retried = true;
        if !tries_left {
            project.aside_until = at;
            project.aside.push_back(batch);
            return;
        }
        project.not_before = project.not_before.max(at);
        let twice = *why == CalloutOutcome::ServerError && batch.attempts > 1;
        if twice && batch.len() > 1 && project.splits_in_vain < SPLITS_IN_VAIN {
            project.splits_in_vain = project.splits_in_vain.saturating_add(1);
            batch.attempts = 1;
            self.halves(destination, &batch);
        } else {
            project.ready.push_front(batch);
        }
    }

    /// The two halves of a batch are the next to leave.
    fn halves(&mut self, destination: usize, batch: &Batch) {
        let (first, second) = batch.split();
        if let Some(project) = self.projects.get_mut(destination) {
            project.ready.push_front(second);
            project.ready.push_front(first);
        }
    }

    fn forget(&mut self, batch: &mut Batch, stays: impl Fn(Option<WaiterId>) -> bool) {
        let cost = batch.keep(stays);
        self.pending_bytes = self.pending_bytes.saturating_sub(cost);
    }

    /// A call that could not be made, and so was never seen by Keen: as if Keen had not answered.
    pub fn on_dispatch_failed(&mut self, call: CalloutId, now: u64) -> SettleReport {
        self.settle(call, CalloutOutcome::RetryAfter(0), now)
    }

    /// Leaves in the batch what Keen failed over. True where that is nothing, and the batch is as it was.
    fn verdicts(
        &mut self,
        batch: &mut Batch,
        verdicts: Vec<EventResult>,
        settled: &mut SettleReport,
    ) -> bool {
        let mut failed = Vec::with_capacity(batch.len());
        let mut verdicts = verdicts.into_iter().chain(repeat(EventResult::Failed));
        for (waiter, collection, count) in batch.runs() {
            let mut ended = 0_usize;
            for verdict in verdicts.by_ref().take(count) {
                failed.push(verdict == EventResult::Failed);
                match verdict {
                    EventResult::Recorded => settled.recorded = settled.recorded.saturating_add(1),
                    EventResult::Rejected(name) => {
                        settled.refused.push((collection.to_owned(), name))
                    }
                    EventResult::Failed => continue,
                }
                ended = ended.saturating_add(1);
            }
            self.ended(waiter, ended, true);
        }
        let all = !failed.contains(&true);
        let cost = if all { batch.cost() } else { batch.keep_flagged(&failed) };
        self.pending_bytes = self.pending_bytes.saturating_sub(cost);
        all
    }

    fn refused(&mut self, batch: &Batch, name: &str, settled: &mut SettleReport) {
        for (waiter, collection, count) in batch.runs() {
            settled.refused.extend(repeat_n((collection.to_owned(), name.to_owned()), count));
            self.ended(waiter, count, true);
        }
        self.pending_bytes = self.pending_bytes.saturating_sub(batch.cost());
    }

    /// Events of the waiter's have come to their end: Keen has spoken, or (`done` false) their caller is to send them again.
    fn ended(&mut self, waiter: Option<WaiterId>, events: usize, done: bool) {
        let Some((waiter, state)) = waiter.and_then(|w| Some((w, self.waiters.get_mut(&w)?)))
        else {
            return;
        };
        state.failed |= !done;
        state.left = state.left.saturating_sub(events);
        if state.left == 0 {
            let answer = if state.failed { Ack::Unconfirmed } else { Ack::Delivered };
            self.answer(waiter, answer);
        }
    }

    fn answer(&mut self, waiter: WaiterId, answer: Ack) {
        if self.waiters.remove(&waiter).is_some_and(|state| state.connected) {
            self.answers.push_back((waiter, answer));
        }
    }

    /// Answers those who have waited to the end. `ahead`: how long until the next look, so that nobody waits longer.
    pub fn expire(&mut self, now: u64, ahead: u64) -> ExpiryReport {
        let mut expired = ExpiryReport::default();
        while let Some(&(deadline, waiter)) = self.deadlines.front() {
            let waits = self.waiters.get(&waiter).is_some_and(|state| state.deadline == deadline);
            if waits && deadline > now.saturating_add(ahead) {
                break;
            }
            self.deadlines.pop_front();
            if waits {
                expired.callers = expired.callers.saturating_add(1);
                self.answer(waiter, Ack::Unconfirmed);
            }
        }
        if self.closes.is_some_and(|closes| closes <= now) {
            let queues = self.projects.iter_mut();
            let queued = queues.flat_map(|p| {
                p.aside.drain(..).chain(p.ready.drain(..)).chain([take(&mut p.open)])
            });
            for batch in queued {
                expired.dropped = expired.dropped.saturating_add(unanswered(&batch));
                self.pending_bytes = self.pending_bytes.saturating_sub(batch.cost());
            }
        }
        expired
    }

    /// The waiter has hung up. Its events still go.
    pub fn disconnect(&mut self, waiter: WaiterId) {
        if let Some(state) = self.waiters.get_mut(&waiter) {
            state.connected = false;
        }
    }

    /// Whether the waiter is still to be answered.
    #[must_use]
    pub fn is_waiting(&self, waiter: WaiterId) -> bool {
        self.waiters.contains_key(&waiter)
    }

    /// The next answer to give.
    pub fn pop_ack(&mut self) -> Option<(WaiterId, Ack)> {
        self.answers.pop_front()
    }

    /// Whether answers are waiting to be given.
    #[must_use]
    pub fn has_acks(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Comes to an end: what nobody waits for is tried for as long as a caller would wait, and no longer.
    pub fn begin_drain(&mut self, now: u64) {
        self.closes = Some(now.saturating_add(self.settings.max_wait_ms));
    }

    /// Whether nothing is held, under way or owed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let nothing_queued = self.projects.iter().all(Project::is_empty);
        self.waiters.is_empty()
            && self.calls.is_empty()
            && self.answers.is_empty()
            && nothing_queued
    }

    /// Whether more than half of what may be pending is.
    #[must_use]
    pub fn is_above_watermark(&self) -> bool {
        self.pending_bytes > self.settings.max_pending_bytes >> 1
    }

    /// There is a timer: from now on callers may be waited for, and whoever [gathers](Self::is_lingering) is looked after.
    pub fn enable_timer(&mut self) {
        self.timed = true;
    }

    /// Whether a call is due within milliseconds of when it was last asked for, though nothing else may happen until then.
    #[must_use]
    pub fn is_lingering(&self) -> bool {
        self.gathers
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
fn latest_deadline(batch: &Batch, waiters: &ById<Waiter>) -> Option<u64> {
    let deadline = |waiter: Option<WaiterId>| {
        waiter.map_or(Some(u64::MAX), |w| waiters.get(&w).map(|w| w.deadline))
    };
    batch.runs().filter_map(|(waiter, _, _)| deadline(waiter)).max()
}

/// How many of a batch's events nobody waits for.
fn unanswered(batch: &Batch) -> u64 {
    let counts = batch.runs().filter(|(waiter, _, _)| waiter.is_none()).map(|(_, _, count)| count);
    u64::try_from(counts.fold(0, usize::saturating_add)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
