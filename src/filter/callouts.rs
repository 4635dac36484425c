//! HTTP requests to Keen and to the overflow queue that are in flight.

use super::host::{self, Status};
use crate::config::{Destination, OverflowSettings};
use crate::delivery::{Callout, CalloutId};
use crate::overflow::{self, Target, sqs};
use std::collections::VecDeque;

/// Maximum bytes of a reply that are read. The results of 1,000 rejected events with their
/// descriptions fit.
const MAX_REPLY_BYTES: usize = 4_194_304;
const USER_AGENT: (&str, &str) = ("user-agent", concat!("keen-edge/", env!("CARGO_PKG_VERSION")));

/// The callouts of one worker.
#[derive(Debug, Default)]
pub(super) struct Callouts {
    /// In dispatch order. There are only a few.
    in_flight: VecDeque<InFlight>,
}

/// A callout in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    /// Envoy's id of the callout.
    token: u32,
    pub(super) origin: Origin,
    /// When it was dispatched, on the worker's clock.
    pub(super) dispatched_ms: u64,
}

/// The state machine that requested a callout, and its id of the callout.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    Delivery { id: CalloutId, events: usize },
    Overflow { id: overflow::CallId },
}

/// The reply to a callout.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// The status. `None`: the callout ended without a reply.
    pub(super) status: Option<u16>,
    pub(super) body: Vec<u8>,
    /// `Retry-After`. Empty if the reply has none.
    pub(super) retry_after: Vec<u8>,
}

impl Callouts {
    /// Sends a bulk request to Keen. Only root callbacks may do so: see
    /// [`host::dispatch_http_call`].
    pub(super) fn dispatch(
        &mut self,
        callout: &Callout,
        destination: &Destination,
        authority: &str,
        now: u64,
    ) -> Result<(), Status> {
        let token = send_to_keen(destination, authority, &callout.body, callout.timeout_ms)?;
        let origin = Origin::Delivery { id: callout.id, events: callout.events };
        self.in_flight.push_back(InFlight { token, origin, dispatched_ms: now });
        Ok(())
    }

    /// Sends a call of [`overflow`]: a request to the queue, or events from the queue to
    /// `destination`.
    pub(super) fn dispatch_overflow(
        &mut self,
        call: &overflow::Call,
        settings: &OverflowSettings,
        destination: Option<&Destination>,
        authority: &str,
        now: u64,
    ) -> Result<(), Status> {
        let token = match (call.target, destination) {
            (Target::Queue(action), _) => {
                let headers = vec![
                    (":method", "POST"),
                    (":path", "/"),
                    (":authority", settings.authority.as_str()),
                    ("content-type", sqs::CONTENT_TYPE),
                    ("x-amz-target", action.target()),
                    USER_AGENT,
                ];
                host::dispatch_http_call(&settings.cluster, headers, &call.body, call.timeout_ms)?
            }
            (Target::Keen { .. }, Some(destination)) => {
                send_to_keen(destination, authority, &call.body, call.timeout_ms)?
            }
            (Target::Keen { .. }, None) => return Err(Status::NotFound),
        };
        let origin = Origin::Overflow { id: call.id };
        self.in_flight.push_back(InFlight { token, origin, dispatched_ms: now });
        Ok(())
    }

    /// Removes a callout that has ended, and reads its reply.
    pub(super) fn take(&mut self, token: u32, has_headers: bool) -> Option<(InFlight, Reply)> {
        let index = self.in_flight.iter().position(|callout| callout.token == token)?;
        let callout = self.in_flight.remove(index)?;
        Some((callout, if has_headers { read_reply() } else { Reply::default() }))
    }
}

fn send_to_keen(
    destination: &Destination,
    authority: &str,
    body: &[u8],
    timeout_ms: u64,
) -> Result<u32, Status> {
    let path = format!("/3.0/projects/{}/events", destination.project_id);
    let mut headers = vec![
        (":method", "POST"),
        (":path", path.as_str()),
        (":authority", authority),
        ("content-type", "application/json"),
        USER_AGENT,
    ];
    headers.extend(destination.write_key.as_deref().map(|key| ("authorization", key)));
    host::dispatch_http_call(&destination.cluster, headers, body, timeout_ms)
}

fn read_reply() -> Reply {
    let headers = host::callout_headers();
    let status = host::status(&headers);
    let body = if status.is_some() { host::callout_body(MAX_REPLY_BYTES) } else { Vec::new() };
    let retry_after = host::find(&headers, "retry-after").unwrap_or_default().to_vec();
    Reply { status, body, retry_after }
}
