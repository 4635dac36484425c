//! HTTP requests to Keen that are in flight.

use super::host::{self, Status};
use crate::config::Destination;
use crate::delivery::{Callout, CalloutId};
use std::collections::VecDeque;

/// Maximum bytes of Keen's reply that are read. The results of 1,000 rejected events with their
/// descriptions fit.
const MAX_REPLY_BYTES: usize = 4_194_304;

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
    /// Delivery's id of the callout.
    pub(super) id: CalloutId,
    /// Number of events in it.
    pub(super) events: usize,
    /// When it was dispatched, on the worker's clock.
    pub(super) dispatched_ms: u64,
}

/// Keen's reply.
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
        let path = format!("/3.0/projects/{}/events", destination.project_id);
        let mut headers = vec![
            (":method", "POST"),
            (":path", path.as_str()),
            (":authority", authority),
            ("content-type", "application/json"),
            ("user-agent", concat!("keen-edge/", env!("CARGO_PKG_VERSION"))),
        ];
        headers.extend(destination.write_key.as_deref().map(|key| ("authorization", key)));
        let token = host::dispatch_http_call(
            &destination.cluster,
            headers,
            &callout.body,
            callout.timeout_ms,
        )?;
        self.in_flight.push_back(InFlight {
            token,
            id: callout.id,
            events: callout.events,
            dispatched_ms: now,
        });
        Ok(())
    }

    /// Removes a callout that has ended, and reads its reply.
    pub(super) fn take(&mut self, token: u32, has_headers: bool) -> Option<(InFlight, Reply)> {
        let index = self.in_flight.iter().position(|callout| callout.token == token)?;
        let callout = self.in_flight.remove(index)?;
        Some((callout, if has_headers { read_reply() } else { Reply::default() }))
    }
}

fn read_reply() -> Reply {
    let headers = host::callout_headers();
    let status = host::status(&headers);
    let body = if status.is_some() { host::callout_body(MAX_REPLY_BYTES) } else { Vec::new() };
    let retry_after = host::find(&headers, "retry-after").unwrap_or_default().to_vec();
    Reply { status, body, retry_after }
}
