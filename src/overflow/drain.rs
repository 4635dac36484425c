//! Brings messages from the queue to Keen: receives them, sends their events, and deletes what Keen
//! has confirmed.
//!
//! A message is sent only while its destination is healthy and caught up. A batch that Keen fails
//! on is split within its message. A message with an event that Keen does not accept is left to the
//! queue's redrive policy after its other events have been delivered.

use super::message;
use super::sqs::ReceivedMessage;
use crate::delivery::{Batch, CalloutOutcome, Rejection};
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
    /// Keen does not accept one of its events.
    has_failed: bool,
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
    /// Projects of messages that are not configured. The messages are left to the queue's redrive
    /// policy.
    pub(super) unknown_projects: Vec<String>,
    pub(super) malformed: u64,
}

/// A pause after failures, which grows with each further one.
#[derive(Debug, Clone, Default)]
struct Pause {
    failures: u32,
    until_ms: u64,
}

impl Pause {
    fn extend(&mut self, now: u64) {
        let pause = PAUSE_MIN_MS.saturating_mul(1_u64.wrapping_shl(self.failures.min(16)));
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
        let index = self.waiting.iter().position(|pending| is_ready(pending.destination_index))?;
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
            && self.waiting.is_empty()
            && now >= self.pause.until_ms
            && now >= self.next_receive_ms
            && (0..self.destination_pauses.len())
                .any(|index| !self.is_paused(index, now) && is_ready(index))
    }

    /// Returns how many messages to request. While Keen fails, a single message is enough to check
    /// whether it is up again, and each receipt of a message counts towards the queue's redrive
    /// policy.
    pub(super) fn receive_size(&self, max_messages: usize) -> usize {
        let is_failing = self.destination_pauses.iter().any(|pause| pause.failures > 0);
        if is_failing { 1 } else { max_messages }
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
        for ReceivedMessage { receipt_handle, body } in messages {
            let mut events = Batch::default();
            let project_id = message::parse(&body, &mut |collection, event| {
                events.push(None, collection, event.as_bytes());
            });
            let Some(project_id) = project_id else {
                received.malformed = received.malformed.saturating_add(1);
                continue;
            };
            let Some(destination_index) = destination(&project_id) else {
                received.unknown_projects.push(project_id.into_owned());
                continue;
            };
            if self.is_stopped || self.is_paused(destination_index, now) {
                continue;
            }
            self.waiting.push(Pending {
                receipt_handle,
                destination_index,
                parts: vec![events],
                send_before_ms,
                consecutive_splits: 0,
                has_failed: false,
            });
        }
        if !self.waiting.is_empty() {
            // There may be more messages. They are received once these are sent.
            self.next_receive_ms = now;
            self.pause = Pause::default();
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
        let is_single = part.len() <= 1;
        match outcome {
            CalloutOutcome::Results(results) => {
                pending.consecutive_splits = 0;
                progress.is_destination_up = true;
                if let Some(pause) = self.destination_pauses.get_mut(pending.destination_index) {
                    *pause = Pause::default();
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
            CalloutOutcome::Rejected(Some(error)) if is_single => {
                for (_, collection, _) in part.runs() {
                    let collection = collection.to_owned();
                    progress.rejected.push(Rejection { collection, error: error.clone() });
                }
            }
            CalloutOutcome::ServerError
            | CalloutOutcome::PayloadTooLarge
            | CalloutOutcome::Rejected(_)
                if is_single && pending.consecutive_splits < MAX_CONSECUTIVE_SPLITS =>
            {
                pending.has_failed = true;
                pending.consecutive_splits = pending.consecutive_splits.saturating_add(1);
            }
            CalloutOutcome::ServerError
            | CalloutOutcome::PayloadTooLarge
            | CalloutOutcome::Rejected(_)
                if pending.consecutive_splits < MAX_CONSECUTIVE_SPLITS =>
            {
                pending.consecutive_splits = pending.consecutive_splits.saturating_add(1);
                let (first, second) = part.split();
                pending.parts.extend([second, first]);
            }
            _ => {
                // The destination is unhealthy, so its messages are left for a while.
                self.waiting.retain(|other| other.destination_index != pending.destination_index);
                self.window = (self.window >> 1).max(1);
                if let Some(pause) = self.destination_pauses.get_mut(pending.destination_index) {
                    pause.extend(now);
                    if let CalloutOutcome::RetryAfter(ms) = outcome {
                        pause.until_ms =
                            pause.until_ms.max(now.saturating_add(ms.min(PAUSE_MAX_MS)));
                    }
                }
                progress.is_left = true;
                return (progress, None);
            }
        }
        if pending.parts.is_empty() {
            if pending.has_failed {
                progress.is_left = true;
            } else {
                self.deletes.push((pending.receipt_handle, 0));
            }
            self.window = self.window.saturating_add(1).min(MAX_WINDOW);
            return (progress, None);
        }
        if now >= pending.send_before_ms {
            progress.is_left = true;
            return (progress, None);
        }
        (progress, self.send(pending))
    }
}
