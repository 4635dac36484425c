//! A call through Envoy, and the line that is printed for it.

use crate::terminal::{Colour, Style};
use serde_json::Value;

/// Maximum number of different outcomes in one line. A batch may have thousands of messages.
const MAX_OUTCOMES_SHOWN: usize = 5;

/// The outcome of one message, read from the filter's debug log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The request's `x-request-id`, if the filter logs it.
    pub(crate) request_id: Option<String>,
    pub(crate) message_type: String,
    pub(crate) outcome: Outcome,
}

/// The end of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The collections of its events.
    Events(Vec<String>),
    /// Why it became no event: a label of the metric `messages_skipped`.
    Skipped(String),
}

impl Message {
    /// Reads a line of Envoy's log:
    /// `… message [request=<id>] source=<name> type=<type> events=<collection>|<collection>…`
    /// or `… message … skipped=<reason>`. Returns `None` for every other line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.split_once("message ").filter(|(_, fields)| {
            fields.starts_with("source=") || fields.starts_with("request=")
        })?;
        let (request_id, fields) = match fields.strip_prefix("request=") {
            Some(rest) => {
                let (id, fields) = rest.split_once(' ')?;
                (Some(id.to_owned()), fields)
            }
            None => (None, fields),
        };
        // A source's name may contain blanks, a collection any character.
        let (_, fields) = fields.split_once(" type=")?;
        let (message_type, outcome) = fields.split_once(' ')?;
        let outcome = if let Some(collections) = outcome.strip_prefix("events=") {
            let collections = collections.trim_end().split('|').filter(|name| !name.is_empty());
            Outcome::Events(collections.map(str::to_owned).collect())
        } else {
            let reason = outcome.strip_prefix("skipped=")?;
            Outcome::Skipped(reason.split_whitespace().next().unwrap_or("").to_owned())
        };
        Some(Self { request_id, message_type: message_type.to_owned(), outcome })
    }

    fn describe(&self) -> Description {
        let message_type = match self.message_type.as_str() {
            "-" => "message",
            known => known,
        };
        match &self.outcome {
            Outcome::Events(collections) => match collections.as_slice() {
                [collection] if message_type == "track" => Description {
                    subject: format!("track \"{collection}\""),
                    events: 1,
                    detail: String::new(),
                },
                _ => Description {
                    subject: message_type.to_owned(),
                    events: collections.len(),
                    detail: quoted(collections),
                },
            },
            Outcome::Skipped(reason) => Description {
                subject: message_type.to_owned(),
                events: 0,
                detail: skip_sentence(reason),
            },
        }
    }
}

/// Equal messages of a batch are shown once, with their number.
#[derive(PartialEq, Eq)]
struct Description {
    subject: String,
    events: usize,
    detail: String,
}

impl Description {
    fn text(&self, count: usize, style: Style) -> String {
        let Self { subject, events, detail } = self;
        let repeated = if count > 1 { format!("{count} × ") } else { String::new() };
        let total = events * count;
        let result = match total {
            0 => style.paint(Colour::Yellow, format!("nothing: {detail}")),
            1 if detail.is_empty() => style.paint(Colour::Green, "1 event"),
            1 => style.paint(Colour::Green, format!("1 event: {detail}")),
            _ if detail.is_empty() => style.paint(Colour::Green, format!("{total} events")),
            _ => style.paint(Colour::Green, format!("{total} events: {detail}")),
        };
        format!("{repeated}{subject} → {result}")
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// The reason as a sentence. A reason without one is shown as it is.
fn skip_sentence(reason: &str) -> String {
    match reason {
        "no_event_name" => "it has no event name",
        "no_page_setting" => "no page setting matches",
        "integrations" => "`integrations` excludes Keen",
        "bundled" => "the browser sends it to Keen itself",
        "unknown_type" => "its type is unknown",
        "no_effect" => "calls of this type become no event",
        "unknown_write_key" => "no source has this write key",
        "not_an_object" => "it is not a JSON object",
        "" => "the filter gives no reason",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

/// A call that Envoy has answered, read from its access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) request_id: String,
    method: String,
    path: String,
    status: u16,
    reason: String,
    duration_ms: u64,
    pub(crate) messages: Vec<Message>,
}

impl Call {
    /// Returns the access log's JSON format for Envoy's configuration.
    pub(crate) fn access_log_format() -> Value {
        serde_json::json!({
            "request": "%REQ(X-REQUEST-ID)%",
            "method": "%REQ(:METHOD)%",
            "path": "%REQ(:PATH)%",
            "status": "%RESPONSE_CODE%",
            "details": "%RESPONSE_CODE_DETAILS%",
            "flags": "%RESPONSE_FLAGS_LONG%",
            "ms": "%DURATION%",
        })
    }

    /// Parses a line of that access log.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        // Envoy writes null or "-" for missing values.
        let text = |name: &str| {
            let value = line[name].as_str().filter(|value| *value != "-");
            value.unwrap_or_default().to_owned()
        };
        let number = |name: &str| line[name].as_u64().unwrap_or(0);
        let status = u16::try_from(number("status")).unwrap_or(0);
        Some(Self {
            request_id: text("request"),
            method: text("method"),
            path: shorten_path(&text("path")),
            status,
            reason: reason(status, &text("details"), &text("flags")),
            duration_ms: number("ms"),
            messages: Vec::new(),
        })
    }

    /// Returns the message type that the path names. `None` for batches and other paths.
    pub(crate) fn message_type(&self) -> Option<&'static str> {
        let last = self.path.trim_end_matches('/').rsplit('/').next()?;
        match last {
            "track" | "t" => Some("track"),
            "page" | "p" => Some("page"),
            "screen" | "s" => Some("screen"),
            "identify" | "i" => Some("identify"),
            "group" | "g" => Some("group"),
            "alias" | "a" => Some("alias"),
            _ => None,
        }
    }

    /// Whether the path is that of a batch.
    pub(crate) fn is_batch(&self) -> bool {
        let last = self.path.trim_end_matches('/').rsplit('/').next();
        matches!(last, Some("batch" | "import" | "b"))
    }

    /// Returns the line to print.
    pub(crate) fn line(&self, style: Style) -> String {
        let Self { method, path, status, reason, duration_ms, .. } = self;
        let colour = match status {
            200..400 => Colour::Green,
            400..500 => Colour::Yellow,
            _ => Colour::Red,
        };
        let status = match status {
            0 => style.paint(colour, "no response"),
            _ => style.paint(colour, status),
        };
        let mut line = format!("{method} {}  {status}", style.paint(Colour::Cyan, path));
        if !reason.is_empty() {
            line.push_str(&format!(" ({reason})"));
        }
        line.push_str(&format!("  {duration_ms} ms"));
        let described = self.describe_messages(style);
        if !described.is_empty() {
            line.push_str(&format!("  {described}"));
        }
        line
    }

    fn describe_messages(&self, style: Style) -> String {
        let mut counted: Vec<(Description, usize)> = Vec::new();
        for description in self.messages.iter().map(Message::describe) {
            match counted.iter_mut().find(|(known, _)| *known == description) {
                Some((_, count)) => *count += 1,
                None => counted.push((description, 1)),
            }
        }
        let shown = counted.iter().take(MAX_OUTCOMES_SHOWN);
        let mut parts: Vec<String> =
            shown.map(|(description, count)| description.text(*count, style)).collect();
        let rest: usize = counted.iter().skip(MAX_OUTCOMES_SHOWN).map(|(_, count)| count).sum();
        if rest > 0 {
            parts.push(format!("and {rest} more messages"));
        }
        parts.join("; ")
    }
}

/// Returns why a call failed: the filter's own reason, or Envoy's if Envoy has ended the call.
fn reason(status: u16, details: &str, flags: &str) -> String {
    match (status, flags) {
        (0, _) => "the client disconnected".to_owned(),
        (200..400, _) => String::new(),
        (_, "") if details == "direct_response" => "not a Segment path".to_owned(),
        (_, _) if details.starts_with("wasm_") => String::new(),
        _ => details.replace('_', " "),
    }
}

/// Removes the query, and all but the start of the write key in a settings path.
fn shorten_path(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
    for index in 1..segments.len() {
        if segments[index - 1] == "projects" && segments[index].chars().count() > 4 {
            segments[index] = segments[index].chars().take(4).chain(['…']).collect();
        }
    }
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: &str = r#"{"request":"r1","method":"POST","path":"/v1/track?a=b","status":200,
        "details":"via_upstream","flags":null,"ms":7}"#;

    fn call(messages: &[&str]) -> Call {
        let messages = messages.iter().map(|line| Message::parse(line).unwrap()).collect();
        Call { messages, ..Call::parse(ACCESS).unwrap() }
    }

    #[test]
    fn message_with_events_is_parsed() {
        let line = "[2026-01-01][1][debug][wasm] wasm log keen_edge: message source=my shop \
                    type=page events=Loaded a Page|Viewed Home Page";
        let message = Message::parse(line).unwrap();
        assert_eq!(message.message_type, "page");
        let collections = vec!["Loaded a Page".to_owned(), "Viewed Home Page".to_owned()];
        assert_eq!(message.outcome, Outcome::Events(collections));
        assert_eq!(message.request_id, None);
    }

    #[test]
    fn message_with_request_id_and_skip_reason_is_parsed() {
        let line = "message request=abc-1 source=- type=- skipped=unknown_write_key";
        let message = Message::parse(line).unwrap();
        assert_eq!(message.request_id.as_deref(), Some("abc-1"));
        assert_eq!(message.outcome, Outcome::Skipped("unknown_write_key".to_owned()));
    }

    #[test]
    fn unrelated_log_line_is_ignored() {
        for line in ["", "message", "message of the day", "message source=a", "received message x"]
        {
            assert_eq!(Message::parse(line), None, "{line}");
        }
    }

    #[test]
    fn track_line_names_event() {
        let call = call(&["message source=a type=track events=Purchased"]);
        let line = call.line(Style::Plain);
        assert_eq!(line, "POST /v1/track  200  7 ms  track \"Purchased\" → 1 event");
    }

    #[test]
    fn skipped_page_line_says_why() {
        let call = call(&["message source=a type=page skipped=no_page_setting"]);
        let line = call.line(Style::Plain);
        assert!(line.ends_with("page → nothing: no page setting matches"), "{line}");
    }

    #[test]
    fn unknown_skip_reason_is_shown_as_it_is() {
        let call = call(&["message source=a type=page skipped=some_new_reason"]);
        assert!(call.line(Style::Plain).ends_with("nothing: some new reason"));
    }

    #[test]
    fn equal_messages_are_counted() {
        let track = "message source=a type=track events=A";
        let call = call(&[track, "message source=a type=identify skipped=no_effect", track]);
        let line = call.line(Style::Plain);
        let expected = "2 × track \"A\" → 2 events; identify → nothing: \
                        calls of this type become no event";
        assert!(line.ends_with(expected), "{line}");
    }

    #[test]
    fn large_batch_line_is_bounded() {
        let lines: Vec<String> =
            (0..100).map(|n| format!("message source=a type=track events=E{n}")).collect();
        let call = call(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let line = call.line(Style::Plain);
        assert!(line.ends_with("; and 95 more messages") && line.len() < 300, "{line}");
    }

    #[test]
    fn line_without_messages_has_method_path_and_status() {
        assert_eq!(call(&[]).line(Style::Plain), "POST /v1/track  200  7 ms");
    }

    #[test]
    fn coloured_line_has_the_same_text() {
        let call = call(&["message source=a type=track events=A"]);
        let mut line = call.line(Style::Coloured);
        assert!(line.contains("\x1b[32m200\x1b[0m"), "{line}");
        for code in ["\x1b[32m", "\x1b[36m", "\x1b[0m"] {
            line = line.replace(code, "");
        }
        assert_eq!(line, call.line(Style::Plain));
    }

    #[test]
    fn settings_path_hides_write_key() {
        assert_eq!(shorten_path("/v1/projects/abcdefgh/settings"), "/v1/projects/abcd…/settings");
        assert_eq!(shorten_path("/v1/pixel/track?data=e30"), "/v1/pixel/track");
    }

    #[test]
    fn path_gives_message_type() {
        let of = |path: &str| Call { path: path.to_owned(), ..call(&[]) };
        assert_eq!(of("/v1/t").message_type(), Some("track"));
        assert_eq!(of("/v1/page/").message_type(), Some("page"));
        assert_eq!(of("/v1/batch").message_type(), None);
        assert!(of("/v1/batch").is_batch() && of("/v1/b").is_batch());
    }
}
