//! The headers that are stored for a request, each with a maximum length.
//!
//! Envoy drops the headers before the body is complete. Ten thousand streams may wait at once, so
//! nothing else is kept.

use crate::mapping::{Client, Request};
use crate::segment::http::{BadRequestReason, CallerSide, content_encoding};
use crate::segment::message::MessageType;
use std::borrow::Cow;

/// A longer `Origin` is ignored: a browser's is a scheme, a host of at most 253 bytes and a port.
const MAX_ORIGIN: usize = 4_096;
/// Length to which `Referer` is cut, in bytes. Keen's URL parser gets about as much as browsers
/// show of an address.
const MAX_REFERER: usize = 2_048;
/// Length to which `User-Agent` is cut, in bytes.
const MAX_USER_AGENT: usize = 1_024;
/// A longer `Authorization` cannot contain a configured write key, which has at most 512 bytes.
const MAX_AUTHORIZATION: usize = 1_024;
/// Length to which `X-Request-Id` is cut, in bytes. Envoy's has 36.
const MAX_REQUEST_ID: usize = 128;
/// Length to which `Content-Encoding` is cut, in bytes.
const MAX_CONTENT_ENCODING: usize = 128;
/// Length to which `Access-Control-Request-Headers`, `Sec-Purpose` and `Purpose` are cut, in bytes.
const MAX_OTHER: usize = 1_024;

/// The headers that the filter reads, available only during the header callback.
#[derive(Debug, Default)]
pub(super) struct RequestHeaders {
    pub(super) method: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) authorization: Vec<u8>,
    pub(super) content_encoding: Vec<u8>,
    /// `Content-Length`. 0 if there is none.
    pub(super) content_length: usize,
    pub(super) origin: Option<String>,
    pub(super) referer: Vec<u8>,
    pub(super) request_id: Vec<u8>,
    pub(super) user_agent: Vec<u8>,
    pub(super) access_control_request_headers: Vec<u8>,
    pub(super) sec_purpose: Vec<u8>,
    pub(super) purpose: Vec<u8>,
    /// `Content-Type` is a gRPC type. Envoy converts local responses to such a request to gRPC's
    /// form.
    pub(super) is_grpc: bool,
    /// For the test build, in which a request can cause a panic.
    #[cfg(feature = "panic-switch")]
    pub(super) panics: bool,
}

impl RequestHeaders {
    /// Picks the known headers. Of a repeated header the first one counts.
    pub(super) fn new(headers: Vec<(String, Vec<u8>)>) -> Self {
        let mut known = Self::default();
        for (name, value) in headers {
            let (field, max) = match name.as_str() {
                ":method" => (&mut known.method, usize::MAX),
                ":path" => (&mut known.path, usize::MAX),
                "authorization" if value.len() <= MAX_AUTHORIZATION => {
                    (&mut known.authorization, MAX_AUTHORIZATION)
                }
                "content-encoding" => (&mut known.content_encoding, MAX_CONTENT_ENCODING),
                "referer" => (&mut known.referer, MAX_REFERER),
                "x-request-id" => (&mut known.request_id, MAX_REQUEST_ID),
                "user-agent" => (&mut known.user_agent, MAX_USER_AGENT),
                "access-control-request-headers" => {
                    (&mut known.access_control_request_headers, MAX_OTHER)
                }
                "sec-purpose" => (&mut known.sec_purpose, MAX_OTHER),
                "purpose" => (&mut known.purpose, MAX_OTHER),
                "content-length" => {
                    let length =
                        std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                    known.content_length = length.unwrap_or(0);
                    continue;
                }
                "content-type" => {
                    known.is_grpc |= value.starts_with(b"application/grpc");
                    continue;
                }
                "origin" if (1..=MAX_ORIGIN).contains(&value.len()) && known.origin.is_none() => {
                    known.origin = String::from_utf8(value).ok();
                    continue;
                }
                #[cfg(feature = "panic-switch")]
                "x-keen-edge-panic" => {
                    known.panics = true;
                    continue;
                }
                _ => continue,
            };
            if field.is_empty() {
                // Copy a value that is cut, since a truncated vector keeps its memory.
                *field = match value.get(..max) {
                    Some(cut) if cut.len() < value.len() => cut.to_vec(),
                    _ => value,
                };
            }
        }
        known
    }

    /// Returns the headers to store until the body is complete. `message`: the message in the path,
    /// if there is one.
    pub(super) fn into_head(
        self,
        message_type: Option<MessageType>,
        side: CallerSide,
        message: Option<Vec<u8>>,
    ) -> RequestHead {
        RequestHead {
            message_type,
            side,
            message,
            authorization: self.authorization,
            content_encoding: self.content_encoding,
            referer: self.referer,
            request_id: self.request_id,
            user_agent: self.user_agent,
        }
    }
}

/// The headers of a request with messages, kept until its body is complete and its messages are
/// mapped.
#[derive(Debug)]
pub(super) struct RequestHead {
    /// The type of the single message. `None`: the request is a batch.
    message_type: Option<MessageType>,
    side: CallerSide,
    /// The message in the path. If set, the body is not read.
    message: Option<Vec<u8>>,
    pub(super) authorization: Vec<u8>,
    content_encoding: Vec<u8>,
    referer: Vec<u8>,
    pub(super) request_id: Vec<u8>,
    user_agent: Vec<u8>,
}

impl RequestHead {
    /// Returns the bytes that are stored for the request.
    pub(super) fn heap_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, Vec::len);
        [&self.authorization, &self.content_encoding, &self.referer, &self.request_id]
            .into_iter()
            .chain([&self.user_agent])
            .fold(message, |bytes, field| bytes.saturating_add(field.len()))
    }

    /// Returns the JSON with the messages: the message in the path, or the decoded body.
    pub(super) fn decode_body<'a>(
        &'a self,
        body: &'a [u8],
        max_bytes: usize,
    ) -> Result<Cow<'a, [u8]>, BadRequestReason> {
        match &self.message {
            Some(message) => Ok(Cow::Borrowed(message)),
            None => content_encoding::decode(body, &self.content_encoding, max_bytes),
        }
    }

    /// Returns the input of the mapping. `received_ms`: when the request was complete, in
    /// milliseconds since 1970.
    pub(super) fn request<'a>(
        &self,
        header_write_key: Option<&'a str>,
        body: &'a [u8],
        received_ms: u64,
    ) -> Request<'a> {
        Request {
            message_type: self.message_type,
            side: self.side,
            header_write_key,
            body,
            received_ms: i64::try_from(received_ms).unwrap_or(0),
        }
    }

    /// Returns the client details in the headers.
    pub(super) fn client(&self) -> Client<'_> {
        Client { source_address: &[], user_agent: &self.user_agent, referer: &self.referer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &[u8])]) -> RequestHeaders {
        RequestHeaders::new(pairs.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect())
    }

    #[test]
    fn headers_over_their_length_are_cut_or_none() {
        let long = vec![b'x'; 54_000];
        let found = headers(&[
            ("authorization", &long),
            ("content-encoding", &long),
            ("origin", &long),
            ("referer", &long),
            ("user-agent", &long),
            ("x-request-id", &long),
            ("x-other", &long),
        ]);
        assert_eq!((found.origin.as_deref(), found.authorization.len()), (None, 0));
        let head = found.into_head(None, CallerSide::Server, None);
        assert_eq!(
            head.heap_bytes(),
            MAX_CONTENT_ENCODING + MAX_REFERER + MAX_REQUEST_ID + MAX_USER_AGENT
        );
        assert!(head.referer.capacity() == MAX_REFERER, "a cut value keeps no spare capacity");
    }

    #[test]
    fn headers_repeated_first_counts() {
        let found = headers(&[
            ("user-agent", b"a"),
            ("user-agent", b"b"),
            ("origin", b"c"),
            ("origin", b"d"),
        ]);
        assert_eq!((found.user_agent.as_slice(), found.origin.as_deref()), (&b"a"[..], Some("c")));
    }

    #[test]
    fn headers_not_utf8_are_bytes() {
        let found =
            headers(&[("user-agent", b"\xff"), ("origin", b"\xff"), ("content-length", b"\xff")]);
        assert_eq!(
            (found.user_agent.as_slice(), found.origin, found.content_length),
            (&b"\xff"[..], None, 0)
        );
    }
}
