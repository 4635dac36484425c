//! Survives outages of any length: events that Keen does not accept go to a queue, and are
//! delivered from it later.
//!
//! A pure state machine that complements [`Delivery`], which decides what is handed over. It makes
//! [calls](Overflow::next_call) to the queue, and to Keen for events from the queue. The embedder
//! dispatches them, and passes it the [responses](Overflow::on_response). The queue uses Amazon
//! SQS's JSON protocol ([`sqs`]). A message contains one project's events ([`message`]).
//!
//! - An event is acknowledged only after the queue has confirmed its message.
//! - A message is deleted only after Keen has given a final result for each of its events.
//! - One worker of a process drains the queue at a time ([`lease`]).
//!
//! ```
//! use keen_edge::config::{DeliverySettings, OverflowSettings};
//! use keen_edge::delivery::{CalloutResponse, Delivery};
//! use keen_edge::overflow::{Overflow, Target, sqs::Action};
//!
//! let settings = OverflowSettings {
//!     cluster: "sqs".into(),
//!     authority: "sqs.example".into(),
//!     queue_url: "https://sqs.example/1/keen".into(),
//!     after_ms: 3_000,
//!     max_message_bytes: 262_144,
//!     drain: true,
//!     reject_misconfigured: false,
//! };
//! let projects = vec!["9181bcd23843312d87000000".to_owned()];
//! let mut overflow = Overflow::new(&settings, projects, 5_000);
//! let mut delivery = Delivery::new(DeliverySettings::default(), 5_000, 1, 42);
//! delivery.enable_overflow(overflow.policy());
//!
//! // The worker with the lease reads the queue.
//! assert!(overflow.is_lease_due(0));
//! overflow.on_lease(true, 0);
//! let call = overflow.next_call(&mut delivery, 0).unwrap();
//! assert_eq!(call.target, Target::Queue(Action::ReceiveMessage));
//! // The queue is empty.
//! let response = CalloutResponse { status: Some(200), reply: b"{}", retry_after: b"" };
//! assert_eq!(overflow.on_response(call.id, response, &mut delivery, 20).queue_up, Some(true));
//! ```

mod drain;
pub mod lease;
pub mod message;
pub mod sqs;

use crate::config::OverflowSettings;
use crate::delivery::classify::classify;
use crate::delivery::{
    CalloutId, CalloutResponse, Delivery, HandoverOutcome, OverflowPolicy, Rejection,
};
use drain::{Drain, IDLE_RECEIVE_MS, Sending};
use sqs::{Action, SqsError};

/// The id of a call in flight.
pub type CallId = u32;

/// Time limit of one `SendMessage` or `DeleteMessage`.
const QUEUE_TIMEOUT_MS: u64 = 3_000;
/// Time limit of one `ReceiveMessage`, in addition to the time that the queue waits.
const RECEIVE_MARGIN_MS: u64 = 5_000;
/// Maximum bytes of messages received at once. They are in memory until they are sent, and with the
/// escapes of JSON the reply must not exceed the 4 MiB that the filter reads of one.
const MAX_RECEIVED_BYTES: usize = 1_048_576;
/// The queue hides a received message for the time limits of this many callouts, since its parts
/// are sent one by one.
const VISIBLE_AFTER_CALLOUTS: u64 = 12;
/// Interval at which a worker without the lease tries to claim it.
const LEASE_RETRY_MS: u64 = 10_000;

/// The target of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `POST /` to the queue, with [`sqs::CONTENT_TYPE`] and the action's [target](Action::target).
    Queue(Action),
    /// A bulk request to the project of a destination, as delivery makes them.
    Keen {
        /// Index of the configuration's destination.
        destination_index: usize,
    },
}

/// A call to make.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// The id to pass with its response.
    pub id: CallId,
    /// Its target.
    pub target: Target,
    /// The request's body.
    pub body: Vec<u8>,
    /// Its time limit.
    pub timeout_ms: u64,
}

/// The result of a call, for metrics and logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OverflowReport {
    /// Index of the configuration's destination whose events are counted. `None` for other calls.
    pub destination_index: Option<usize>,
    /// Number of events that the queue has stored.
    pub overflowed: u64,
    /// Number of events that the queue did not store, and that wait for Keen again.
    pub returned: u64,
    /// Number of events from the queue that Keen has confirmed.
    pub drained: u64,
    /// Events from the queue that Keen rejected for their content.
    pub rejected: Vec<Rejection>,
    /// Number of messages that stay in the queue: Keen did not accept all of their events, their
    /// project is not configured, or they are unreadable.
    pub left: u64,
    /// Whether Keen accepts events for this destination. `None`: the call does not show it.
    pub destination_up: Option<bool>,
    /// Whether the queue can be reached. `None`: the call was not to the queue.
    pub queue_up: Option<bool>,
    /// Why the queue rejected a request.
    pub error: Option<SqsError>,
    /// Projects of received messages that are not configured, each reported once. The messages stay
    /// in the queue.
    pub unknown_projects: Vec<String>,
    /// Number of received messages that are unreadable. They stay in the queue.
    pub malformed: u64,
}

#[derive(Debug)]
enum InFlight {
    Send { handover: CalloutId },
    Receive { hidden_s: u64 },
    Delete { receipt_handle: String, attempts: u32 },
    Keen(Box<Sending>),
}

/// The state machine.
#[derive(Debug)]
pub struct Overflow {
    queue_url: String,
    policy: OverflowPolicy,
    max_received: usize,
    visibility_s: u64,
    keen_timeout_ms: u64,
    /// Project ids, by index of the configuration's destination.
    projects: Vec<String>,
    /// `None`: this filter does not drain the queue.
    drain: Option<Drain>,
    /// There are only a few.
    in_flight: Vec<(CallId, InFlight)>,
    last_id: CallId,
    next_lease_check_ms: u64,
    /// Next parts of messages that are being sent.
    continued: Vec<(Sending, Vec<u8>)>,
}

impl Overflow {
    /// Creates the state machine. `projects`: the project ids of the configuration's destinations.
    /// `keen_timeout_ms`: time limit of a callout to Keen.
    #[must_use]
    pub fn new(settings: &OverflowSettings, projects: Vec<String>, keen_timeout_ms: u64) -> Self {
        let visibility_ms = keen_timeout_ms.saturating_mul(VISIBLE_AFTER_CALLOUTS);
        let max_received = MAX_RECEIVED_BYTES.checked_div(settings.max_message_bytes).unwrap_or(1);
        Self {
            queue_url: settings.queue_url.clone(),
            policy: OverflowPolicy {
                after_ms: settings.after_ms,
                max_body_bytes: settings.max_message_bytes.saturating_sub(message::ENVELOPE_BYTES),
                timeout_ms: QUEUE_TIMEOUT_MS,
                reject_misconfigured: settings.reject_misconfigured,
            },
            max_received: max_received.clamp(1, sqs::MAX_RECEIVED_MESSAGES),
            visibility_s: visibility_ms.checked_div(1_000).unwrap_or(0).clamp(30, 43_200),
            keen_timeout_ms,
            drain: settings.drain.then(|| Drain::new(projects.len())),
            projects,
            in_flight: Vec::new(),
            last_id: 0,
            next_lease_check_ms: 0,
            continued: Vec::new(),
        }
    }

    /// Returns the policy for [`Delivery::enable_overflow`].
    #[must_use]
    pub fn policy(&self) -> OverflowPolicy {
        self.policy
    }

    // === lease ===

    /// Whether to claim or renew the lease now: see [`lease::claim`]. Pass the result to
    /// [`Overflow::on_lease`].
    pub fn is_lease_due(&mut self, now: u64) -> bool {
        let Some(drain) = self.drain.as_ref().filter(|drain| !drain.is_stopped()) else {
            return false;
        };
        let half = lease::LEASE_MS >> 1;
        let is_due =
            now >= self.next_lease_check_ms && now.saturating_add(half) >= drain.leased_until_ms();
        if is_due {
            self.next_lease_check_ms = now.saturating_add(LEASE_RETRY_MS);
        }
        is_due
    }

    /// Notes whether this worker holds the lease now.
    pub fn on_lease(&mut self, is_held: bool, now: u64) {
        if let Some(drain) = &mut self.drain {
            drain.set_lease(if is_held { now.saturating_add(lease::LEASE_MS) } else { 0 });
        }
    }

    // === calls ===

    /// Returns the next call to make now, if any. Call it until there is none.
    pub fn next_call(&mut self, delivery: &mut Delivery, now: u64) -> Option<Call> {
        while let Some(handover) = delivery.next_handover(now) {
            let project = self.projects.get(handover.destination_index);
            let text = project.and_then(|project| message::encode(project, &handover.body));
            let Some(text) = text else {
                delivery.settle_handover(handover.id, HandoverOutcome::Refused, now);
                continue;
            };
            let body = sqs::send_message(&self.queue_url, &text);
            let in_flight = InFlight::Send { handover: handover.id };
            let target = Target::Queue(Action::SendMessage);
            return Some(self.call(in_flight, target, body, handover.timeout_ms));
        }
        self.next_drain_call(delivery, now)
    }

    fn next_drain_call(&mut self, delivery: &Delivery, now: u64) -> Option<Call> {
        let drain = self.drain.as_mut()?;
        if let Some((receipt_handle, attempts)) = drain.next_delete() {
            let body = sqs::delete_message(&self.queue_url, &receipt_handle);
            let in_flight = InFlight::Delete { receipt_handle, attempts };
            let target = Target::Queue(Action::DeleteMessage);
            return Some(self.call(in_flight, target, body, QUEUE_TIMEOUT_MS));
        }
        let next = self.continued.pop().or_else(|| {
            drain.next_send(|destination_index| delivery.is_caught_up(destination_index, now), now)
        });
        if let Some((sending, body)) = next {
            let destination_index = sending.pending.destination_index;
            let in_flight = InFlight::Keen(Box::new(sending));
            let target = Target::Keen { destination_index };
            return Some(self.call(in_flight, target, body, self.keen_timeout_ms));
        }
        if !drain.is_receive_due(|index| delivery.is_caught_up(index, now), now) {
            return None;
        }
        drain.on_receiving(now);
        let wait_s = IDLE_RECEIVE_MS.checked_div(1_000).unwrap_or(0);
        let (max_messages, hidden_s) =
            drain.receive_size(self.max_received, self.visibility_s, now);
        let body = sqs::receive_message(&self.queue_url, max_messages, wait_s, hidden_s);
        let target = Target::Queue(Action::ReceiveMessage);
        let timeout_ms = IDLE_RECEIVE_MS.saturating_add(RECEIVE_MARGIN_MS);
        Some(self.call(InFlight::Receive { hidden_s }, target, body, timeout_ms))
    }

    fn call(
        &mut self,
        in_flight: InFlight,
        target: Target,
        body: Vec<u8>,
        timeout_ms: u64,
    ) -> Call {
        self.last_id = self.last_id.wrapping_add(1);
        self.in_flight.push((self.last_id, in_flight));
        Call { id: self.last_id, target, body, timeout_ms }
    }

    /// Handles a call that could not be dispatched.
    pub fn on_dispatch_failed(
        &mut self,
        call: CallId,
        delivery: &mut Delivery,
        now: u64,
    ) -> OverflowReport {
        self.on_response(call, CalloutResponse::default(), delivery, now)
    }

    /// Handles the response to a call.
    pub fn on_response(
        &mut self,
        call: CallId,
        response: CalloutResponse<'_>,
        delivery: &mut Delivery,
        now: u64,
    ) -> OverflowReport {
        let CalloutResponse { status, reply, .. } = response;
        let mut report = OverflowReport::default();
        let index = self.in_flight.iter().position(|(id, _)| *id == call);
        match index.map(|index| self.in_flight.swap_remove(index).1) {
            None => {}
            Some(InFlight::Send { handover }) => {
                let result = sqs::parse_send_reply(status, reply);
                let outcome = match &result {
                    Ok(()) => HandoverOutcome::Stored,
                    Err(error) if error.is_refusal() => HandoverOutcome::Refused,
                    Err(_) => HandoverOutcome::Failed,
                };
                report.queue_up = Some(outcome != HandoverOutcome::Failed);
                report.error = result.err();
                let settled = delivery.settle_handover(handover, outcome, now);
                report.destination_index = Some(settled.destination_index);
                report.overflowed = settled.overflowed;
                report.returned = settled.returned;
            }
            Some(InFlight::Receive { hidden_s }) => {
                self.on_received(status, reply, hidden_s, &mut report, now);
            }
            Some(InFlight::Delete { receipt_handle, attempts }) => {
                let result = sqs::parse_delete_reply(status, reply);
                report.queue_up = Some(result.is_ok());
                if let Some(drain) = &mut self.drain {
                    drain.on_deleted(receipt_handle, attempts, result.is_ok());
                }
                report.error = result.err();
            }
            Some(InFlight::Keen(sending)) => {
                self.on_sent(*sending, response, &mut report, now);
                if let (Some(true), Some(index)) = (report.destination_up, report.destination_index)
                {
                    delivery.on_destination_up(index, now);
                }
            }
        }
        report
    }

    fn on_received(
        &mut self,
        status: Option<u16>,
        reply: &[u8],
        hidden_s: u64,
        report: &mut OverflowReport,
        now: u64,
    ) {
        let Some(drain) = &mut self.drain else { return };
        let result = sqs::parse_receive_reply(status, reply);
        report.queue_up = Some(result.is_ok());
        let (messages, error) = match result {
            Ok(messages) => (Some(messages), None),
            Err(error) => (None, Some(error)),
        };
        report.error = error;
        // A callout that begins just before this time ends before the queue gives the message to
        // another reader.
        let hidden_ms = hidden_s.saturating_mul(1_000);
        let reserve_ms = self.keen_timeout_ms.saturating_add(RECEIVE_MARGIN_MS);
        let send_before_ms = now.saturating_add(hidden_ms.saturating_sub(reserve_ms));
        let projects = &self.projects;
        let destination = |id: &str| projects.iter().position(|project| project == id);
        let received = drain.on_received(messages, destination, send_before_ms, now);
        report.unknown_projects = received.unknown_projects;
        report.malformed = received.malformed;
        report.left = received.left;
    }

    fn on_sent(
        &mut self,
        sending: Sending,
        response: CalloutResponse<'_>,
        report: &mut OverflowReport,
        now: u64,
    ) {
        let Some(drain) = &mut self.drain else { return };
        report.destination_index = Some(sending.pending.destination_index);
        let expected = sending.part.expected_results();
        let outcome = classify(response, &expected, 0);
        let (progress, next) = drain.on_sent(sending, outcome, now);
        report.drained = progress.drained;
        report.rejected = progress.rejected;
        report.left = u64::from(progress.is_left);
        report.destination_up = progress.is_destination_up.then_some(true);
        self.continued.extend(next);
    }

    // === state ===

    /// Begins a graceful shutdown: stops receiving messages, and finishes those that are being
    /// sent. Returns whether this worker holds the lease, which it then gives up.
    pub fn begin_drain(&mut self, now: u64) -> bool {
        let Some(drain) = &mut self.drain else { return false };
        let is_held = drain.has_lease(now);
        drain.stop();
        is_held
    }

    /// Whether no call is in flight whose result is needed. Handovers are tracked by delivery.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.continued.is_empty() && self.drain.as_ref().is_none_or(Drain::is_idle)
    }

    /// Whether this filter drains the queue, so that a timer must run even if nothing is pending. A
    /// period of one second is enough.
    #[must_use]
    pub fn needs_timer(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| !drain.is_stopped())
    }
}
