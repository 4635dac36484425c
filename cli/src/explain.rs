//! `keen-edge explain`: shows what the filter would do with a call.

use crate::input::Call;
use crate::pretty;
use anstyle::{AnsiColor, Style};
use keen_edge::config::Config;
use keen_edge::mapping::{Client, EventBuffer, MessageOutcome, Request, RequestStats, map_request};
use keen_edge::segment::http::content_encoding;
use keen_edge::segment::http::initial_pageview::SettingsRequest;
use keen_edge::segment::http::{
    BadRequestReason, CallerSide, Endpoint, Overload, Response, pixel, write_key,
};
use keen_edge::segment::message::MessageType;
use keen_edge::users::UserTransaction;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The settings and the state with which calls are explained.
#[derive(Debug)]
pub(crate) struct Explainer {
    pub(crate) config: Config,
    /// The write key of calls that have none.
    pub(crate) write_key: Option<String>,
    /// The address of the client, as Envoy would determine it.
    pub(crate) address: String,
    /// The time at which the filter receives the call, in milliseconds since 1970.
    pub(crate) received_ms: i64,
    /// The user store that earlier `identify` calls filled, for `rememberUsers`.
    users: BTreeMap<String, (Vec<u8>, u32)>,
    tokens_made: u32,
}

/// The result of a call.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    method: String,
    path: String,
    /// The status of the response. `None` if the filter does not answer.
    pub(crate) status: Option<u16>,
    /// What the call is, or why it gets an error.
    summary: String,
    /// Number of names and values that are changed because Keen would reject them.
    sanitized: u64,
    messages: Vec<Message>,
}

/// The result of a message.
#[derive(Debug, Serialize)]
struct Message {
    #[serde(rename = "type")]
    message_type: Option<String>,
    /// The name of the message's source.
    source: Option<String>,
    /// The Keen project of that source.
    project: Option<String>,
    events: Vec<Event>,
    /// Number of events that are not sent, because Keen would reject them for their size.
    oversized: usize,
    /// The reason in the metrics, if the message becomes no event.
    skipped: Option<&'static str>,
    /// The reason as a sentence.
    because: Option<String>,
}

/// An event as Keen receives it.
#[derive(Debug, Serialize)]
struct Event {
    collection: String,
    event: Box<RawValue>,
}

impl Explainer {
    pub(crate) fn new(
        config: Config,
        write_key: Option<String>,
        address: String,
        received_ms: i64,
    ) -> Self {
        let mut users = BTreeMap::new();
        if config.any_source_stores_users() {
            UserTransaction::initialize(&mut users, config.users, 0);
        }
        Self { config, write_key, address, received_ms, users, tokens_made: 0 }
    }

    /// Explains a call. The users that it identifies are known in the next call.
    pub(crate) fn explain(&mut self, call: &Call) -> Explanation {
        let mut explanation = Explanation {
            method: call.method.clone(),
            path: call.path.clone(),
            status: Some(200),
            summary: String::new(),
            sanitized: 0,
            messages: Vec::new(),
        };
        let (method, path) = (call.method.as_bytes(), call.path.as_bytes());
        let prefix = self.config.path_prefix.clone();
        let mapped = match Endpoint::parse(method, path, prefix.as_deref()) {
            None => {
                explanation.status = None;
                explanation.summary =
                    "not one of Segment's paths: the request continues to its route".to_owned();
                return explanation;
            }
            Some(Endpoint::Ingest { message_type, side }) => {
                let encoding = call.header("content-encoding");
                let limit = self.config.max_body_bytes;
                content_encoding::decode(&call.body, encoding, limit)
                    .and_then(|body| self.map(call, message_type, side, &body))
            }
            Some(Endpoint::Pixel { message_type: Some(message_type), query }) => {
                let message = pixel::message(query);
                "a pixel: always 200 and an image".clone_into(&mut explanation.summary);
                // A pixel request is answered with an image, whatever its message is.
                let mapped = self.map(call, Some(message_type), CallerSide::Client, &message);
                Ok(mapped.unwrap_or_default())
            }
            Some(Endpoint::ProjectSettings { write_key }) => {
                "the settings document of an SDK".clone_into(&mut explanation.summary);
                Ok(self.initial_pageview(call, &write_key))
            }
            Some(Endpoint::MethodNotAllowed) => Err(BadRequestReason::MethodNotAllowed),
            Some(other) => {
                explanation.summary = match other {
                    Endpoint::Telemetry => "the SDK's own telemetry: answered and dropped",
                    Endpoint::Preflight => "a CORS preflight",
                    _ => "a pixel without a call: always 200 and an image",
                }
                .to_owned();
                return explanation;
            }
        };
        match mapped {
            Ok(mapped) if mapped.is_overflowed => {
                // Nothing of the request is kept. A client would get the same response again.
                explanation.status = Some(Response::TooManyRequests(Overload::QueueFull).status());
                "its events would be more than 32 times larger than the request: send smaller batches, \
                 or less in the batch's context and traits"
                    .clone_into(&mut explanation.summary);
            }
            Ok(mapped) => {
                explanation.messages = mapped.messages;
                explanation.sanitized = mapped.sanitized;
            }
            Err(reason) => {
                explanation.summary = self.describe(&reason);
                explanation.status = Some(Response::BadRequest(reason).status());
            }
        }
        explanation
    }

    /// Returns the page load that a request for the project settings implies.
    fn initial_pageview(&mut self, call: &Call, key: &str) -> Mapped {
        let source = self.config.source_index(key).and_then(|index| self.config.sources.get(index));
        if !source.is_some_and(|source| source.initial_pageview) {
            return Mapped::default();
        }
        let sec_purpose = [call.header("sec-purpose"), call.header("purpose")].concat();
        let request = SettingsRequest {
            method: call.method.as_bytes(),
            referer: call.header("referer"),
            origin: call.header("origin"),
            sec_purpose: &sec_purpose,
        };
        let Some(message) = request.page_message(key) else { return Mapped::default() };
        self.map(call, Some(MessageType::Page), CallerSide::Client, &message).unwrap_or_default()
    }

    fn map(
        &mut self,
        call: &Call,
        message_type: Option<MessageType>,
        side: CallerSide,
        body: &[u8],
    ) -> Result<Mapped, BadRequestReason> {
        let key = write_key::from_authorization(call.header("authorization"));
        let request = Request {
            message_type,
            side,
            header_write_key: key.as_deref().or(self.write_key.as_deref()),
            body,
            received_ms: self.received_ms,
        };
        let client = Client {
            source_address: self.address.as_bytes(),
            user_agent: call.header("user-agent"),
            referer: call.header("referer"),
        };
        let tokens_made = &mut self.tokens_made;
        let make_token = || {
            *tokens_made = tokens_made.saturating_add(1);
            format!("made-by-keen-edge-{tokens_made}")
        };
        let now_us = u64::try_from(self.received_ms).unwrap_or(0).saturating_mul(1000);
        let mut users = UserTransaction::new(&mut self.users, self.config.users, now_us);
        let mut buffer = EventBuffer::default();
        let stats =
            map_request(&self.config, request, |_| client, make_token, &mut users, &mut buffer)?;
        users.commit();
        Ok(Mapped { is_overflowed: buffer.is_overflowed(), ..self.messages(&stats, &buffer) })
    }

    fn messages(&self, stats: &RequestStats, buffer: &EventBuffer) -> Mapped {
        let mut events = buffer.events().map(|event| Event {
            collection: event.collection.to_owned(),
            event: raw_json(event.json),
        });
        let messages = stats.messages.iter().map(|outcome| {
            let source = outcome.source.and_then(|index| self.config.sources.get(index));
            let destination =
                source.and_then(|source| self.config.destinations.get(source.destination_index));
            Message {
                message_type: outcome.message_type.map(type_name),
                source: source.map(|source| source.name.clone()),
                project: destination.map(|destination| destination.project_id.clone()),
                events: events.by_ref().take(outcome.events).collect(),
                oversized: outcome.oversized,
                skipped: outcome.skipped.map(|reason| reason.label()),
                because: self.because(outcome),
            }
        });
        Mapped { messages: messages.collect(), sanitized: stats.sanitized, is_overflowed: false }
    }

    /// Returns the sentence for a skip reason.
    fn because(&self, outcome: &MessageOutcome) -> Option<String> {
        let source = outcome.source.and_then(|index| self.config.sources.get(index));
        let reason = outcome.skipped?.label();
        Some(match reason {
            "no_event_name" => "the track call has no event name".to_owned(),
            "no_page_setting" => "no page setting of the source matches: send a category or a name, or set \
                                  trackAllPages"
                .to_owned(),
            "integrations" => "its `integrations` exclude Keen IO".to_owned(),
            "bundled" => "the browser has sent it to Keen itself (`_metadata.bundled`)".to_owned(),
            "unknown_type" => "its type is none of track, page, screen, identify, group, alias".to_owned(),
            "no_effect" if source.is_some_and(|source| source.remember_users) => {
                "identify, group and alias give no event; the traits of identify go into the user's later events"
                    .to_owned()
            }
            "no_effect" => "identify, group and alias give no event".to_owned(),
            "unknown_write_key" => "no source of the configuration has its write key".to_owned(),
            "not_an_object" => "it is no JSON object".to_owned(),
            other => other.replace('_', " "),
        })
    }

    /// Returns the message of the response, and what to do about it.
    fn describe(&self, reason: &BadRequestReason) -> String {
        let mut text = reason.message().into_owned();
        if *reason == BadRequestReason::InvalidWriteKey && self.write_key.is_none() {
            let count = self.config.sources.len();
            text.push_str(&format!(
                ". The configuration has {count} sources: put a \"writeKey\" into the message, or use --write-key"
            ));
        }
        text
    }
}

/// The messages of a request, mapped.
#[derive(Debug, Default)]
struct Mapped {
    messages: Vec<Message>,
    sanitized: u64,
    /// Whether the events are many times larger than the request: see
    /// [`EventBuffer::is_overflowed`].
    is_overflowed: bool,
}

/// Returns an event's JSON, which is valid because the filter has written it.
fn raw_json(json: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(json).into_owned();
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn type_name(message_type: MessageType) -> String {
    format!("{message_type:?}").to_ascii_lowercase()
}

impl Explanation {
    /// Formats the explanation for people, in colour. The printer removes the colour if it is not
    /// wanted.
    pub(crate) fn render(&self) -> String {
        let bold = Style::new().bold();
        let color = if self.status.is_none_or(|status| status < 400) {
            AnsiColor::Green
        } else {
            AnsiColor::Red
        };
        let status_style = Style::new().bold().fg_color(Some(color.into()));
        let status = self.status.map_or_else(|| "→".to_owned(), |status| status.to_string());
        // Paths of pixels contain the message, and paths of project settings contain a key.
        let path = self.path.split('?').next().unwrap_or_default();
        let mut text =
            format!("{bold}{} {path}{bold:#} {status_style}{status}{status_style:#}", self.method);
        if !self.summary.is_empty() {
            text.push_str(&format!(" {}", self.summary));
        }
        text.push('\n');
        for (index, message) in self.messages.iter().enumerate() {
            message.render(index.saturating_add(1), &mut text);
        }
        if self.sanitized > 0 {
            let count = self.sanitized;
            text.push_str(&format!("  {count} names or values changed for Keen to accept them\n"));
        }
        text
    }
}

impl Message {
    fn render(&self, number: usize, text: &mut String) {
        let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
        let yellow = Style::new().fg_color(Some(AnsiColor::Yellow.into()));
        let message_type = self.message_type.as_deref().unwrap_or("message");
        text.push_str(&format!("  {number}. {bold}{message_type}{bold:#}"));
        if let (Some(source), Some(project)) = (&self.source, &self.project) {
            text.push_str(&format!(" {dim}source {source}, project {project}{dim:#}"));
        }
        match (&self.because, self.events.len()) {
            (Some(because), _) => {
                let label = self.skipped.unwrap_or_default();
                text.push_str(&format!(
                    " → {yellow}nothing{yellow:#}: {because} {dim}({label}){dim:#}"
                ));
            }
            (None, 0) => text.push_str(&format!(" → {yellow}nothing{yellow:#}")),
            (None, 1) => text.push_str(" → 1 event"),
            (None, count) => text.push_str(&format!(" → {count} events")),
        }
        text.push('\n');
        if self.oversized > 0 {
            let count = self.oversized;
            text.push_str(&format!(
                "     {yellow}{count} larger than Keen accepts, not sent{yellow:#}\n"
            ));
        }
        for event in &self.events {
            let green = Style::new().fg_color(Some(AnsiColor::Green.into()));
            text.push_str(&format!("     {green}{}{green:#} ", event.collection));
            pretty::push_json(text, event.event.get(), 5);
            text.push('\n');
        }
    }
}
