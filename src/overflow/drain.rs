//! Brings messages from the queue to Keen: receives them, sends their events, and deletes what Keen
//! has confirmed.
//!
//! A message is sent only while its destination is healthy and caught up. A batch that Keen fails
//! on is split within its message. A message with an event that Keen does not accept is left to the
//! queue's redrive policy after its other events have been delivered. While Keen is away a received
//! message is held and sent again, since each receipt counts towards the redrive policy.

use super::message;
use super::sqs::ReceivedMessage;
use crate::delivery::{Batch, CalloutOutcome, Rejection, is_failure};
use crate::keen::bulk::EventResult;

/// Maximum number of messages sent to Keen concurrently. The first one is sent alone; each message
/// that Keen accepts adds one.
const MAX_WINDOW: usize = 8;
/// Poll interval of an empty queue. SQS waits at most this long for a message.
pub(super) const IDLE_RECEIVE_MS: u64 = 20_000;
/// The first pause after a failure. Each further failure doubles it.
const PAUSE_MIN_MS: u64 = 1_000;
const PAUSE_MAX_MS: u64 = 30_000;
/// Maximum number of consecutive splits within a message.
const MAX_CONSECUTIVE_SPLITS: u32 = 12;
/// Maximum attempts to delete a message. A message that is not deleted is received again, and Keen
/// recognizes its events as duplicates.
const MAX_DELETE_ATTEMPTS: u32 = 3;
/// Maximum number of concurrent `DeleteMessage` requests.
const MAX_DELETES: usize = 4;
/// Above this number of held messages no further ones of destinations that are down are held.
const MAX_HELD: usize = 10;
/// During an outage a received message is hidden for as long as the outage has lasted, but not
/// longer than this, in seconds: an outage of days does not use up the message's receipts.
const MAX_VISIBILITY_S: u64 = 3_600;
/// Consecutive requests of a single event that are rejected with an error name. After this many
/// without a success the upstream counts as rejecting everything, as in
/// [`delivery`](crate::delivery).
const MAX_CONSECUTIVE_REJECTIONS: u32 = 8;
/// Maximum number of projects that are remembered as not configured, so that each is reported once.
const MAX_UNKNOWN_PROJECTS: usize = 64;

/// A received message with unconfirmed events.
#[derive(Debug)]
pub(super) struct Pending {
    receipt_handle: String,
    pub(super) destination_index: usize,
    /// No part is sent after this time, since the queue then gives the message to another reader.
    send_before_ms: u64,
    /// Parts that are not sent yet, the next one last.
    parts: Vec<Batch>,
    consecutive_splits: u32,
    /// Single events that Keen has failed on since its last results.
    failed: Vec<Batch>,
    /// Keen does not accept one of its events.
    has_failed: bool,
    /// Keen has given results for one of its parts.
    has_results: bool,
}

/// A part of a message that is being sent to Keen.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) pending: Pending,
    pub(super) part: Batch,
}

/// The result of a reply from Keen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Number of events that Keen has confirmed.
    pub(super) drained: u64,
    /// Events that Keen rejected for their content.
    pub(super) rejected: Vec<Rejection>,
    /// Whether the message is left in the queue.
    pub(super) is_left: bool,
    /// Whether Keen has given results.
    pub(super) is_destination_up: bool,
}

/// The result of a `ReceiveMessage`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Projects of messages that are not configured and have not been reported before. The messages
    /// are left to the queue's redrive policy.
    pub(super) unknown_projects: Vec<String>,
    pub(super) malformed: u64,
    /// Number of messages that are left to the queue's redrive policy.
    pub(super) left: u64,
}

/// A pause after failures, which grows with each further one.
#[derive(Debug, Clone, Default)]
struct Pause {
    failures: u32,
    /// The first of the consecutive failures.
    since_ms: u64,
    until_ms: u64,
}

impl Pause {
    fn extend(&mut self, now: u64) {
        let pause = PAUSE_MIN_MS.saturating_mul(1_u64.wrapping_shl(self.failures.min(16)));
        if self.failures == 0 {
            self.since_ms = now;
        }
        self.failures = self.failures.saturating_add(1);
        self.until_ms = now.saturating_add(pause.min(PAUSE_MAX_MS));
    }
}

#[derive(Debug)]
pub(super) struct Drain {
    /// When this worker's lease ends.
    leased_until_ms: u64,
    next_receive_ms: u64,
    is_receiving: bool,
    /// Pause after the queue has failed, or has returned no usable message.
    pause: Pause,
    /// Pauses after Keen has failed, by destination index.
    destination_pauses: Vec<Pause>,
    /// Consecutive rejections of a single event, by destination index.
    rejections: Vec<u32>,
    unknown_projects: Vec<String>,
    /// Number of messages that may be sent concurrently.
    window: usize,
    waiting: Vec<Pending>,
    sending: usize,
    deletes: Vec<(String, u32)>,
    deleting: usize,
    is_stopped: bool,
}

impl Drain {
    pub(super) fn new(destinations: usize) -> Self {
        Self {
            leased_until_ms: 0,
            next_receive_ms: 0,
            is_receiving: false,
            pause: Pause::default(),
            destination_pauses: vec![Pause::default(); destinations],
            rejections: vec![0; destinations],
            unknown_projects: Vec::new(),
            window: 1,
            waiting: Vec::new(),
            sending: 0,
            deletes: Vec::new(),
            deleting: 0,
            is_stopped: false,
        }
    }

    pub(super) fn set_lease(&mut self, until_ms: u64) {
        self.leased_until_ms = until_ms;
    }

    pub(super) fn has_lease(&self, now: u64) -> bool {
        now < self.leased_until_ms && !self.is_stopped
    }

    /// Returns when the lease ends.
    pub(super) fn leased_until_ms(&self) -> u64 {
        self.leased_until_ms
    }

    /// Stops receiving messages. Messages that are being sent are finished.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        self.waiting.clear();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Whether nothing is in flight but a `ReceiveMessage`, which nothing depends on.
    pub(super) fn is_idle(&self) -> bool {
        self.sending == 0 && self.deleting == 0 && self.deletes.is_empty()
    }

    /// Returns the next message to delete, if any: its receipt handle, and the number of attempts
    /// so far.
    pub(super) fn next_delete(&mut self) -> Option<(String, u32)> {
        if self.deleting >= MAX_DELETES {
            return None;
        }
        let next = self.deletes.pop()?;
        self.deleting = self.deleting.saturating_add(1);
        Some(next)
    }

    pub(super) fn on_deleted(&mut self, receipt_handle: String, attempts: u32, deleted: bool) {
        self.deleting = self.deleting.saturating_sub(1);
        let attempts = attempts.saturating_add(1);
        if !deleted && attempts < MAX_DELETE_ATTEMPTS {
            self.deletes.push((receipt_handle, attempts));
        }
    }

    /// Returns the next part of a message to send to Keen, if any. `is_ready`: whether a
    /// destination is healthy and caught up.
    pub(super) fn next_send(
        &mut self,
        is_ready: impl Fn(usize) -> bool,
        now: u64,
    ) -> Option<(Sending, Vec<u8>)> {
        // The queue gives the other messages to another reader, or to this one later.
        self.waiting.retain(|pending| now < pending.send_before_ms);
        if self.sending >= self.window {
            return None;
        }
        let index = self.waiting.iter().position(|pending| {
            !self.is_paused(pending.destination_index, now) && is_ready(pending.destination_index)
        })?;
        let pending = self.waiting.remove(index);
        self.send(pending)
    }

    fn send(&mut self, mut pending: Pending) -> Option<(Sending, Vec<u8>)> {
        let part = pending.parts.pop()?;
        let body = part.to_bulk_body();
        self.sending = self.sending.saturating_add(1);
        Some((Sending { pending, part }, body))
    }

    /// Whether to receive messages now.
    pub(super) fn is_receive_due(&self, is_ready: impl Fn(usize) -> bool, now: u64) -> bool {
        self.has_lease(now)
            && !self.is_receiving
            && self.waiting.iter().all(|pending| self.is_paused(pending.destination_index, now))
            && now >= self.pause.until_ms
            && now >= self.next_receive_ms
            && (0..self.destination_pauses.len())
                .any(|index| !self.is_paused(index, now) && is_ready(index))
    }

    /// Returns how many messages to request, and for how many seconds to hide them. While Keen
    /// fails, a single message is enough to check whether it is up again, and each receipt of a
    /// message counts towards the queue's redrive policy.
    pub(super) fn receive_size(
        &self,
        max_messages: usize,
        visibility_s: u64,
        now: u64,
    ) -> (usize, u64) {
        let failing = self.destination_pauses.iter().filter(|pause| pause.failures > 0);
        let Some(since_ms) = failing.map(|pause| pause.since_ms).min() else {
            return (max_messages, visibility_s);
        };
        let outage_s = now.saturating_sub(since_ms).checked_div(1_000).unwrap_or(0);
        (1, outage_s.min(MAX_VISIBILITY_S).max(visibility_s))
    }

    fn is_paused(&self, destination_index: usize, now: u64) -> bool {
        self.destination_pauses.get(destination_index).is_none_or(|pause| now < pause.until_ms)
    }

    pub(super) fn on_receiving(&mut self, now: u64) {
        self.is_receiving = true;
        self.next_receive_ms = now.saturating_add(IDLE_RECEIVE_MS);
    }

    /// Handles the reply to a `ReceiveMessage`. `None`: the queue has failed. `send_before_ms`:
    /// until when the messages may be sent.
    pub(super) fn on_received(
        &mut self,
        messages: Option<Vec<ReceivedMessage>>,
        destination: impl Fn(&str) -> Option<usize>,
        send_before_ms: u64,
        now: u64,
    ) -> Received {
        self.is_receiving = false;
        let mut received = Received::default();
        let Some(messages) = messages else {
            self.pause.extend(now);
            return received;
        };
        let is_empty = messages.is_empty();
        let (mut is_usable, mut has_down) = (false, false);
        for ReceivedMessage { receipt_handle, body } in messages {
            let mut events = Batch::default();
            let project_id = message::parse(&body, &mut |collection, event| {
                events.push(None, collection, event.as_bytes());
            });
            let Some(project_id) = project_id else {
                received.malformed = received.malformed.saturating_add(1);
                received.left = received.left.saturating_add(1);
                continue;
            };
            let Some(destination_index) = destination(&project_id) else {
                received.left = received.left.saturating_add(1);
                let project_id = project_id.into_owned();
                if self.unknown_projects.len() < MAX_UNKNOWN_PROJECTS
                    && !self.unknown_projects.contains(&project_id)
                {
                    self.unknown_projects.push(project_id.clone());
                    received.unknown_projects.push(project_id);
                }
                continue;
            };
            let is_down = self.is_paused(destination_index, now);
            has_down |= is_down;
            if self.is_stopped || (is_down && self.waiting.len() >= MAX_HELD) {
                continue;
            }
            self.waiting.push(Pending {
                receipt_handle,
                destination_index,
                parts: vec![events],
                send_before_ms,
                consecutive_splits: 0,
                failed: Vec::new(),
                has_failed: false,
                has_results: false,
            });
            is_usable |= !is_down;
        }
        if is_usable {
            // There may be more messages. They are received once these are sent.
            self.next_receive_ms = now;
            self.pause = Pause::default();
        } else if has_down {
            // The next ones may be of destinations that are up.
            self.next_receive_ms = now.saturating_add(PAUSE_MIN_MS);
        } else if !is_empty {
            // No usable message: poll less and less often.
            self.pause.extend(now);
        }
        received
    }

    /// Settles a part of a message, and sends the next one.
    pub(super) fn on_sent(
        &mut self,
        sending: Sending,
        outcome: CalloutOutcome,
        now: u64,
    ) -> (Progress, Option<(Sending, Vec<u8>)>) {
        let Sending { mut pending, part } = sending;
        self.sending = self.sending.saturating_sub(1);
        let mut progress = Progress::default();
        let destination = pending.destination_index;
        let is_single = part.len() <= 1;
        match outcome {
            CalloutOutcome::Results(results) if !is_failure(&results) => {
                pending.consecutive_splits = 0;
                pending.has_results = true;
                // Keen accepts others.
                pending.has_failed |= !pending.failed.is_empty();
                pending.failed.clear();
                progress.is_destination_up = true;
                if let Some(pause) = self.destination_pauses.get_mut(destination) {
                    *pause = Pause::default();
                }
                if let Some(rejections) = self.rejections.get_mut(destination) {
                    *rejections = 0;
                }
                let mut results = results.into_iter();
                for (_, collection, count) in part.runs() {
                    for result in results.by_ref().take(count) {
                        match result {
                            EventResult::Recorded => {
                                progress.drained = progress.drained.saturating_add(1);
                            }
                            EventResult::Rejected(error) => progress
                                .rejected
                                .push(Rejection { collection: collection.to_owned(), error }),
                            EventResult::Failed => pending.has_failed = true,
                        }
                    }
                }
            }
            CalloutOutcome::Rejected(Some(error))
                if is_single && self.record_rejection(destination) =>
            {
                pending.has_results = true;
                for (_, collection, _) in part.runs() {
                    let collection = collection.to_owned();
                    progress.rejected.push(Rejection { collection, error: error.clone() });
                }
            }
            CalloutOutcome::Results(_)
            | CalloutOutcome::ServerError
            | CalloutOutcome::PayloadTooLarge
            | CalloutOutcome::Rejected(_)
                if pending.consecutive_splits < MAX_CONSECUTIVE_SPLITS =>
            {
                pending.consecutive_splits = pending.consecutive_splits.saturating_add(1);
                if is_single {
                    pending.failed.push(part);
                } else {
                    let (first, second) = part.split();
                    pending.parts.extend([second, first]);
                }
            }
            _ => {
                let retry_after_ms = match outcome {
                    CalloutOutcome::RetryAfter(ms) => ms.min(PAUSE_MAX_MS),
                    _ => 0,
                };
                self.pause_destination(destination, now.saturating_add(retry_after_ms), now);
                pending.parts.append(&mut pending.failed);
                pending.parts.push(part);
                progress.is_left = self.waiting.len() >= MAX_HELD.saturating_mul(2);
                if !progress.is_left && !self.is_stopped {
                    self.waiting.push(pending);
                }
                return (progress, None);
            }
        }
        if pending.parts.is_empty() {
            progress.is_left = pending.has_failed || !pending.failed.is_empty();
            if !progress.is_left {
                self.deletes.push((pending.receipt_handle, 0));
            }
            if pending.has_results {
                self.window = self.window.saturating_add(1).min(MAX_WINDOW);
            } else {
                // Keen fails on all of its events, and perhaps on those of all messages.
                self.pause_destination(destination, now, now);
            }
            return (progress, None);
        }
        if now >= pending.send_before_ms {
            progress.is_left = true;
            return (progress, None);
        }
        (progress, self.send(pending))
    }

    /// Counts a named rejection of a single event. Returns whether it is about that event.
    fn record_rejection(&mut self, destination_index: usize) -> bool {
        let Some(rejections) = self.rejections.get_mut(destination_index) else { return false };
        *rejections = rejections.saturating_add(1);
        *rejections <= MAX_CONSECUTIVE_REJECTIONS
    }

    /// Notes that a destination is down. Callouts that fail together count as one failure.
    fn pause_destination(&mut self, destination_index: usize, retry_at_ms: u64, now: u64) {
        self.window = (self.window >> 1).max(1);
        if let Some(pause) = self.destination_pauses.get_mut(destination_index) {
            if now >= pause.until_ms {
                pause.extend(now);
            }
            pause.until_ms = pause.until_ms.max(retry_at_ms);
        }
    }
}
