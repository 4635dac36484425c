//! Responses to paused requests.

use super::host;
use crate::config::OriginPattern;
use crate::delivery::{Ack, Delivery, WaiterId};
use crate::segment::http::{Response, Unavailable, cors};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Maximum number of responses per callback. Envoy nests them, and about 300 overflow the VM's
/// stack.
pub(super) const MAX_RESPONSES_PER_CALLBACK: usize = 64;

/// Details of a request that its response depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientForm {
    /// `Origin` of a browser, for the CORS headers of the response.
    pub(super) origin: Option<String>,
    /// See [`host::send_grpc_response`].
    pub(super) is_grpc: bool,
}

/// Responses to send, and the [`ClientForm`]s of waiting requests.
#[derive(Debug, Default)]
pub(super) struct PendingResponses {
    /// Responses that do not depend on Keen.
    immediate: VecDeque<(WaiterId, Response)>,
    /// Forms of waiting requests that are not the default.
    forms: FxHashMap<WaiterId, ClientForm>,
}

impl PendingResponses {
    /// Sets the form of the response to `waiter`.
    pub(super) fn set_form(&mut self, waiter: WaiterId, form: ClientForm) {
        if form.origin.is_some() || form.is_grpc {
            self.forms.insert(waiter, form);
        }
    }

    /// Removes and returns the form of the response to `waiter`.
    pub(super) fn take_form(&mut self, waiter: WaiterId) -> ClientForm {
        if self.forms.is_empty() { None } else { self.forms.remove(&waiter) }.unwrap_or_default()
    }

    /// Adds a response that does not depend on Keen.
    pub(super) fn push(&mut self, waiter: WaiterId, response: Response) {
        self.immediate.push_back((waiter, response));
    }

    /// Removes and returns the next response to send: an immediate one, or one that follows from an
    /// ack.
    pub(super) fn pop(&mut self, delivery: &mut Delivery) -> Option<(WaiterId, Response)> {
        self.immediate.pop_front().or_else(|| {
            let (waiter, ack) = delivery.pop_ack()?;
            let response = match ack {
                Ack::Delivered => Response::Ok,
                Ack::Unconfirmed => Response::ServiceUnavailable(Unavailable::Unconfirmed),
                Ack::DestinationRejected => {
                    Response::ServiceUnavailable(Unavailable::DestinationRejected)
                }
            };
            Some((waiter, response))
        })
    }

    /// Whether an immediate response to `waiter` is queued.
    pub(super) fn contains(&self, waiter: WaiterId) -> bool {
        self.immediate.iter().any(|(responded, _)| *responded == waiter)
    }

    /// Whether no immediate response is queued.
    pub(super) fn is_empty(&self) -> bool {
        self.immediate.is_empty()
    }

    /// Removes the response to a waiter that has disconnected.
    pub(super) fn remove(&mut self, waiter: WaiterId) {
        self.immediate.retain(|(responded, _)| *responded != waiter);
        self.forms.remove(&waiter);
    }
}

/// Header with the reason for a response other than 200, for Envoy's access log.
const REASON_HEADER: &str = "x-keen-edge-reason";

/// Sends a Segment response to the effective context.
pub(super) fn send(response: Response, form: &ClientForm, allow_origins: &[OriginPattern]) {
    let reason = response.reason().map(|reason| (REASON_HEADER, reason));
    let headers = response.headers().iter().copied().chain(reason);
    send_with_cors(response.status(), headers, response.body().as_bytes(), form, allow_origins);
}

/// Sends a response with CORS headers to the effective context.
pub(super) fn send_with_cors<'h>(
    status: u16,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    body: &[u8],
    form: &'h ClientForm,
    allow_origins: &[OriginPattern],
) {
    let cors = cors::headers(form.origin.as_deref(), allow_origins);
    send_as_is(status, headers.into_iter().chain(cors).collect(), body, form);
}

/// Sends a response to the effective context.
pub(super) fn send_as_is(status: u16, headers: Vec<(&str, &str)>, body: &[u8], form: &ClientForm) {
    match form.is_grpc {
        false => host::send_response(status, headers, body),
        true => host::send_grpc_response(status, headers, body),
    }
}
