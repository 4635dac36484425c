//! Amazon SQS's JSON protocol: requests and replies of `SendMessage`, `ReceiveMessage` and `DeleteMessage`.
//!
//! Each is a `POST /` with the content type [`CONTENT_TYPE`] and the action in the header `X-Amz-Target` (Amazon SQS API
//! Reference, "Making query API requests with the AWS JSON protocol"). ElasticMQ and moto speak it, too.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The content type of a request.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.0";
/// Messages that one `ReceiveMessage` may ask for.
pub const MAX_RECEIVED_MESSAGES: usize = 10;

/// What a request asks of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stores a message.
    SendMessage,
    /// Reads messages, and hides them from other readers for a while.
    ReceiveMessage,
    /// Deletes a message that was received.
    DeleteMessage,
}

impl Action {
    /// The value of the header `X-Amz-Target`.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Self::SendMessage => "AmazonSQS.SendMessage",
            Self::ReceiveMessage => "AmazonSQS.ReceiveMessage",
            Self::DeleteMessage => "AmazonSQS.DeleteMessage",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessage<'a> {
    queue_url: &'a str,
    message_body: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveMessage<'a> {
    queue_url: &'a str,
    max_number_of_messages: usize,
    wait_time_seconds: u64,
    visibility_timeout: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteMessage<'a> {
    queue_url: &'a str,
    receipt_handle: &'a str,
}

/// The body of a `SendMessage`.
///
/// ```
/// use keen_edge::overflow::sqs;
///
/// let body = sqs::send_message("https://sqs.eu-west-1.amazonaws.com/123456789012/keen", "{\"v\":1}");
/// assert_eq!(
///     body,
///     br#"{"QueueUrl":"https://sqs.eu-west-1.amazonaws.com/123456789012/keen","MessageBody":"{\"v\":1}"}"#
/// );
/// ```
#[must_use]
pub fn send_message(queue_url: &str, message_body: &str) -> Vec<u8> {
    to_json(&SendMessage { queue_url, message_body })
}

/// The body of a `ReceiveMessage`. `wait_s`: how long the queue waits for a message. `visibility_s`: how long it hides what
/// it gives.
#[must_use]
pub fn receive_message(
    queue_url: &str,
    max_messages: usize,
    wait_s: u64,
    visibility_s: u64,
) -> Vec<u8> {
    to_json(&ReceiveMessage {
        queue_url,
        max_number_of_messages: max_messages.clamp(1, MAX_RECEIVED_MESSAGES),
        wait_time_seconds: wait_s,
        visibility_timeout: visibility_s,
    })
}

/// The body of a `DeleteMessage`.
#[must_use]
pub fn delete_message(queue_url: &str, receipt_handle: &str) -> Vec<u8> {
    to_json(&DeleteMessage { queue_url, receipt_handle })
}

/// Serializing strings and numbers cannot fail.
fn to_json(request: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(request).unwrap_or_default()
}

/// Why a request has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqsError {
    /// The status. None if the callout broke off.
    pub status: Option<u16>,
    /// The name of the error, without its namespace.
    pub name: Option<String>,
}

impl SqsError {
    /// Whether the queue does not accept this message, and never will.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let is_of_message = |name: &str| {
            ["InvalidMessageContents", "InvalidParameterValue", "MessageTooLong"]
                .iter()
                .any(|refusal| name.starts_with(refusal))
        };
        self.status == Some(400) && self.name.as_deref().is_some_and(is_of_message)
    }
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Deletes the message.
    pub receipt_handle: String,
    /// What was sent.
    pub body: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendReply<'a> {
    #[serde(borrow)]
    message_id: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveReply {
    /// Absent or null if there is no message.
    #[serde(default)]
    messages: Option<Vec<ReceivedItem>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedItem {
    receipt_handle: String,
    body: String,
}

#[derive(Deserialize)]
struct ErrorReply<'a> {
    #[serde(borrow, rename = "__type")]
    name: Cow<'a, str>,
}

/// Reads the reply to a `SendMessage`.
///
/// # Errors
/// The status is not 200, or the reply has no `MessageId`: then the message counts as not stored.
///
/// ```
/// use keen_edge::overflow::sqs;
///
/// assert!(sqs::parse_send_reply(Some(200), br#"{"MessageId":"1f","MD5OfMessageBody":"c4"}"#).is_ok());
/// assert!(sqs::parse_send_reply(Some(200), b"{}").is_err());
/// ```
pub fn parse_send_reply(status: Option<u16>, reply: &[u8]) -> Result<(), SqsError> {
    match (status, serde_json::from_slice::<SendReply<'_>>(reply)) {
        (Some(200), Ok(stored)) if !stored.message_id.is_empty() => Ok(()),
        _ => Err(error(status, reply)),
    }
}

/// Reads the reply to a `ReceiveMessage`.
///
/// # Errors
/// The status is not 200, or the reply is unreadable.
pub fn parse_receive_reply(
    status: Option<u16>,
    reply: &[u8],
) -> Result<Vec<ReceivedMessage>, SqsError> {
    match (status, serde_json::from_slice::<ReceiveReply>(reply)) {
        (Some(200), Ok(received)) => {
            let messages = received.messages.unwrap_or_default().into_iter();
            let message = |item: ReceivedItem| ReceivedMessage {
                receipt_handle: item.receipt_handle,
                body: item.body,
            };
            Ok(messages.map(message).collect())
        }
        _ => Err(error(status, reply)),
    }
}

/// Reads the reply to a `DeleteMessage`.
///
/// # Errors
/// The status is not 200.
pub fn parse_delete_reply(status: Option<u16>, reply: &[u8]) -> Result<(), SqsError> {
    if status == Some(200) { Ok(()) } else { Err(error(status, reply)) }
}

fn error(status: Option<u16>, reply: &[u8]) -> SqsError {
    let named = serde_json::from_slice::<ErrorReply<'_>>(reply).ok();
    let name = named.map(|reply| reply.name.rsplit('#').next().unwrap_or_default().to_owned());
    // A message may echo what was sent. A name is a word.
    let is_word =
        |name: &String| name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    SqsError { status, name: name.filter(is_word) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const URL: &str = "http://localhost/q";

    #[test]
    fn requests_are_json_with_escapes() {
        assert_eq!(
            send_message(URL, "{\"a\":\"\\u0001 é\"}"),
            "{\"QueueUrl\":\"http://localhost/q\",\"MessageBody\":\"{\\\"a\\\":\\\"\\\\u0001 é\\\"}\"}"
                .as_bytes()
        );
        assert_eq!(
            receive_message(URL, 99, 20, 80),
            br#"{"QueueUrl":"http://localhost/q","MaxNumberOfMessages":10,"WaitTimeSeconds":20,"VisibilityTimeout":80}"#
        );
        assert_eq!(
            delete_message(URL, "A/b="),
            br#"{"QueueUrl":"http://localhost/q","ReceiptHandle":"A/b="}"#
        );
    }

    #[test]
    fn send_reply_without_a_message_id_is_a_failure() {
        let stored = br#"{"MD5OfMessageBody":"c4","MessageId":"1f","SequenceNumber":null}"#;
        assert_eq!(parse_send_reply(Some(200), stored), Ok(()));
        for (status, reply) in [
            (Some(200), "{}"),
            (Some(200), ""),
            (Some(200), r#"{"MessageId":""}"#),
            (Some(200), r#"{"MessageId":null}"#),
            (Some(200), r#"{"MessageId":7}"#),
            (Some(200), r#"{"MessageId":"1f"}x"#),
            (Some(200), "<SendMessageResponse/>"),
            (Some(201), r#"{"MessageId":"1f"}"#),
            (Some(500), r#"{"MessageId":"1f"}"#),
            (None, ""),
        ] {
            let error = parse_send_reply(status, reply.as_bytes()).unwrap_err();
            assert_eq!(error, SqsError { status, name: None }, "{reply}");
            assert!(!error.is_refusal());
        }
    }

    #[test]
    fn error_name_of_a_reply_has_no_namespace() {
        for (status, name, want, is_refusal) in [
            (400, "com.amazonaws.sqs#QueueDoesNotExist", Some("QueueDoesNotExist"), false),
            (400, "com.amazonaws.sqs#InvalidMessageContents", Some("InvalidMessageContents"), true),
            (400, "MessageTooLong", Some("MessageTooLong"), true),
            (
                400,
                "com.amazon.coral.service#InvalidParameterValueException",
                Some("InvalidParameterValueException"),
                true,
            ),
            (400, "com.amazonaws.sqs#RequestThrottled", Some("RequestThrottled"), false),
            (403, "InvalidMessageContents", Some("InvalidMessageContents"), false),
            (403, "a secret, perhaps", None, false),
        ] {
            let reply = format!(r#"{{"__type":"{name}","message":"text"}}"#);
            let error = parse_send_reply(Some(status), reply.as_bytes()).unwrap_err();
            assert_eq!(error.name.as_deref(), want);
            assert_eq!(error.is_refusal(), is_refusal, "{name}");
        }
    }

    #[test]
    fn receive_reply_of_an_empty_queue_has_no_messages() {
        for reply in ["{}", r#"{"Messages":[]}"#, r#"{"Messages":null}"#] {
            assert_eq!(parse_receive_reply(Some(200), reply.as_bytes()), Ok(Vec::new()));
        }
        let reply = br#"{"Messages":[{"MessageId":"1","ReceiptHandle":"r","MD5OfBody":"c","Body":"{\"v\":1}","Attributes":{}}]}"#;
        let message =
            ReceivedMessage { receipt_handle: "r".to_owned(), body: "{\"v\":1}".to_owned() };
        assert_eq!(parse_receive_reply(Some(200), reply), Ok(vec![message]));
        assert!(parse_receive_reply(Some(200), b"").is_err());
        assert!(parse_receive_reply(Some(200), br#"{"Messages":[{"Body":"x"}]}"#).is_err());
        assert!(parse_receive_reply(Some(503), b"{}").is_err());
    }

    #[test]
    fn delete_reply_is_judged_by_its_status() {
        assert_eq!(parse_delete_reply(Some(200), b""), Ok(()));
        assert_eq!(parse_delete_reply(Some(200), b"{}"), Ok(()));
        assert!(parse_delete_reply(Some(400), b"{}").is_err());
        assert!(parse_delete_reply(None, b"").is_err());
    }
}
