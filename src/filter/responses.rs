//! Responses to paused requests.

use super::host;
use crate::delivery::{Ack, Delivery, WaiterId};
use crate::segment::http::cors;
use crate::segment::http::response::Response;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Responses that one callback sends, at most. Envoy nests them: some 300 overflow the VM's stack.
pub(super) const MAX_RESPONSES_PER_CALLBACK: usize = 64;

/// What the response to a request depends on beside its status.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientForm {
    /// `Origin` of a browser: the response carries CORS.
    pub(super) origin: Option<String>,
    /// See [`host::send_grpc_response`].
    pub(super) is_grpc: bool,
}

/// Responses that are due, and what the responses to waiting requests depend on.
#[derive(Debug, Default)]
pub(super) struct PendingResponses {
    /// Responses that do not depend on Keen.
    immediate: VecDeque<(WaiterId, Response)>,
    /// Of waiting requests whose form is not the default.
    forms: FxHashMap<WaiterId, ClientForm>,
}

impl PendingResponses {
    /// The response to `waiter` will have that form.
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

    /// The next response that is due: one of these, or one that follows from an ack.
    pub(super) fn pop(&mut self, delivery: &mut Delivery) -> Option<(WaiterId, Response)> {
        self.immediate.pop_front().or_else(|| {
            let (waiter, ack) = delivery.pop_ack()?;
            let response = match ack {
                Ack::Delivered => Response::Ok,
                Ack::Unconfirmed => Response::ServiceUnavailable,
            };
            Some((waiter, response))
        })
    }

    /// Whether a response to `waiter` is due that does not depend on Keen.
    pub(super) fn contains(&self, waiter: WaiterId) -> bool {
        self.immediate.iter().any(|(responded, _)| *responded == waiter)
    }

    /// Whether no response is due that does not depend on Keen.
    pub(super) fn is_empty(&self) -> bool {
        self.immediate.is_empty()
    }

    /// Forgets a waiter that has disconnected.
    pub(super) fn remove(&mut self, waiter: WaiterId) {
        self.immediate.retain(|(responded, _)| *responded != waiter);
        self.forms.remove(&waiter);
    }
}

/// Responds to the effective context.
pub(super) fn send(response: Response, form: &ClientForm, allow_origins: &[String]) {
    send_with(
        response.status(),
        response.headers(),
        response.body().as_bytes(),
        form,
        allow_origins,
    );
}

/// Responds to the effective context with that status, headers and body, and CORS.
pub(super) fn send_with(
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    form: &ClientForm,
    allow_origins: &[String],
) {
    let mut headers = headers.to_vec();
    let origin = form.origin.as_deref();
    if origin.is_some() {
        headers.extend(cors::headers(origin, allow_origins));
    }
    match form.is_grpc {
        false => host::send_response(status, headers, body),
        true => host::send_grpc_response(status, headers, body),
    }
}
