//! What a request's headers told, kept until it has come whole: then Envoy no longer has them.

use super::headers::{Headers, Name};
use crate::mapping::Client;
use crate::mapping::Request;
use crate::segment::http::{BadRequestReason, CallerSide, content_encoding};
use crate::segment::message::MessageType;
use std::borrow::Cow;

/// What is kept of a call that holds messages.
#[derive(Debug)]
pub(super) struct Head {
    /// The kind of its one message; none of a batch.
    pub(super) kind: Option<MessageType>,
    /// Who calls, by the form of the endpoint.
    pub(super) side: CallerSide,
    /// The message that the path brought: there is none in the body.
    pub(super) message: Option<Vec<u8>>,
    pub(super) headers: Headers,
}

impl Head {
    /// The JSON that holds the messages.
    pub(super) fn messages<'a>(
        &'a self,
        body: &'a [u8],
        limit: usize,
    ) -> Result<Cow<'a, [u8]>, BadRequestReason> {
        match &self.message {
            Some(message) => Ok(Cow::Borrowed(message)),
            None => content_encoding::decode(body, self.headers.get(Name::ContentEncoding), limit),
        }
    }

    pub(super) fn authorization(&self) -> &[u8] {
        self.headers.get(Name::Authorization)
    }

    pub(super) fn request_id(&self) -> &[u8] {
        self.headers.get(Name::RequestId)
    }

    /// `Content-Length`; 0 where the body comes without.
    pub(super) fn length(&self) -> usize {
        self.headers.text(Name::ContentLength).and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    /// `received`: when it came, in milliseconds since 1970.
    pub(super) fn request<'a>(
        &'a self,
        header_write_key: Option<&'a str>,
        body: &'a [u8],
        received: u64,
    ) -> Request<'a> {
        Request {
            message_type: self.kind,
            side: self.side,
            header_write_key,
            body,
            received_ms: i64::try_from(received).unwrap_or(0),
        }
    }

    pub(super) fn client(&self) -> Client<'_> {
        Client {
            source_address: &[],
            user_agent: self.headers.get(Name::UserAgent),
            referer: self.headers.get(Name::Referer),
        }
    }
}
