//! Amazon SQS's JSON protocol: requests and replies of `SendMessage`, `ReceiveMessage` and
//! `DeleteMessage`.
//!
//! Each is a `POST /` with the content type [`CONTENT_TYPE`] and the action in the header
//! `X-Amz-Target` (Amazon SQS API Reference, "Making query API requests with the AWS JSON
//! protocol"). ElasticMQ and moto support it, too.

use crate::json::{self, Value};

/// The content type of a request.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.0";
/// Maximum number of messages that one `ReceiveMessage` may request.
pub const MAX_RECEIVED_MESSAGES: usize = 10;

/// An action of the queue's API.
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
    /// Returns the value of the header `X-Amz-Target`.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Self::SendMessage => "AmazonSQS.SendMessage",
            Self::ReceiveMessage => "AmazonSQS.ReceiveMessage",
            Self::DeleteMessage => "AmazonSQS.DeleteMessage",
        }
    }
}

/// Returns the body of a `SendMessage`.
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
    request(queue_url, "MessageBody", &json::quoted(message_body))
}

/// Returns the body of a `ReceiveMessage`. `wait_s`: how long the queue waits for a message.
/// `visibility_s`: how long it hides the returned messages.
#[must_use]
pub fn receive_message(
    queue_url: &str,
    max_messages: usize,
    wait_s: u64,
    visibility_s: u64,
) -> Vec<u8> {
    let max_messages = max_messages.clamp(1, MAX_RECEIVED_MESSAGES);
    let rest =
        format!("{max_messages},\"WaitTimeSeconds\":{wait_s},\"VisibilityTimeout\":{visibility_s}");
    request(queue_url, "MaxNumberOfMessages", &rest)
}

/// Returns the body of a `DeleteMessage`.
#[must_use]
pub fn delete_message(queue_url: &str, receipt_handle: &str) -> Vec<u8> {
    request(queue_url, "ReceiptHandle", &json::quoted(receipt_handle))
}

/// Returns the JSON of a request. `value`: the JSON of the member `name`, and further members.
fn request(queue_url: &str, name: &str, value: &str) -> Vec<u8> {
    let queue_url = json::quoted(queue_url);
    ["{\"QueueUrl\":", &queue_url, ",\"", name, "\":", value, "}"].concat().into_bytes()
}

/// Why a request has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqsError {
    /// The status. `None`: the callout ended without a reply.
    pub status: Option<u16>,
    /// The name of the error, without its namespace.
    pub name: Option<String>,
}

impl SqsError {
    /// Whether the queue refuses this message permanently.
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

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The handle to delete the message with.
    pub receipt_handle: String,
    /// The body that was sent.
    pub body: String,
}

/// Reads the reply to a `SendMessage`.
///
/// # Errors
/// The status is not 200, or the reply has no `MessageId`. The message then counts as not stored.
///
/// ```
/// use keen_edge::overflow::sqs;
///
/// assert!(sqs::parse_send_reply(Some(200), br#"{"MessageId":"1f","MD5OfMessageBody":"c4"}"#).is_ok());
/// assert!(sqs::parse_send_reply(Some(200), b"{}").is_err());
/// ```
pub fn parse_send_reply(status: Option<u16>, reply: &[u8]) -> Result<(), SqsError> {
    match (status, member(reply, "MessageId")) {
        (Some(200), Some(Value::String(id))) if !id.raw().is_empty() => Ok(()),
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
    let items = match (status, member(reply, "Messages")) {
        // There is no message.
        (Some(200), Some(Value::Absent | Value::Null)) => "[]",
        (Some(200), Some(Value::Array(items))) => items,
        _ => return Err(error(status, reply)),
    };
    let (mut messages, mut is_readable) = (Vec::new(), true);
    json::for_each_element(items, &mut |item| {
        let mut member = |name| match json::member(item.json(), name) {
            Value::String(text) => text.decode().into_owned(),
            _ => {
                is_readable = false;
                String::new()
            }
        };
        let receipt_handle = member("ReceiptHandle");
        messages.push(ReceivedMessage { receipt_handle, body: member("Body") });
    });
    if is_readable { Ok(messages) } else { Err(error(status, reply)) }
}

/// Reads the reply to a `DeleteMessage`.
///
/// # Errors
/// The status is not 200.
pub fn parse_delete_reply(status: Option<u16>, reply: &[u8]) -> Result<(), SqsError> {
    if status == Some(200) { Ok(()) } else { Err(error(status, reply)) }
}

/// Returns a member of a reply. `None`: the reply is not a JSON object.
fn member<'a>(reply: &'a [u8], name: &str) -> Option<Value<'a>> {
    match json::read_value(std::str::from_utf8(reply).ok()?)? {
        Value::Object(text) => Some(json::member(text, name)),
        _ => None,
    }
}

fn error(status: Option<u16>, reply: &[u8]) -> SqsError {
    let name = match member(reply, "__type") {
        Some(Value::String(name)) => name.raw(),
        _ => "",
    };
    let name = name.rsplit_once('#').map_or(name, |(_, name)| name);
    // An error message may echo what was sent. An error name is a single word.
    let is_word = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    SqsError { status, name: is_word.then(|| name.to_owned()) }
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
