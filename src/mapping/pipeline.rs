//! One request -> the events of all its messages, each for its own source's destination.

use super::audience_events::audience_change;
use super::client::RequestClient;
use super::event::{
    EventContext, MessageEvents, collections, uniqueness_token, without_placeholder,
};
use super::identity::{self, Ids, PageTraits};
use super::{BatchValues, Client, EventBuffer, Pushed};
use crate::config::{Config, Mode, Source};
use crate::json::{Value, read_value};
use crate::keen::names;
use crate::segment::http::response::BadRequestReason;
use crate::segment::http::route::CallerSide;
use crate::segment::message::body::{Body, BodyError};
use crate::segment::message::computed_traits::ComputedTraits;
use crate::segment::message::{Message, MessageType};
use crate::users::{SharedData, UserTransaction};
use std::borrow::Cow;
use std::cell::OnceCell;

/// A request as the mapping sees it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The type of its one message, by its path. `None`: a batch.
    pub message_type: Option<MessageType>,
    /// Whether its path is one that devices use, or one for servers.
    pub side: CallerSide,
    /// The write key of its `Authorization`.
    pub header_write_key: Option<&'a str>,
    /// Its body, decompressed.
    pub body: &'a [u8],
    /// When it came, in milliseconds since 1970.
    pub received_ms: i64,
}

/// Why a message gives no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// A track message without an event name.
    NoEventName,
    /// No page setting matches.
    NoPageSetting,
    /// `integrations` keeps it from Keen.
    Integrations,
    /// The browser has sent it to Keen itself.
    Bundled,
    /// A `type` that Segment does not know, or none.
    UnknownType,
    /// identify, group and alias have no effect on Keen.
    NoEffect,
    /// Its write key belongs to no source, or it has none.
    UnknownWriteKey,
    /// An element of a batch that is no object.
    NotAnObject,
}

impl SkipReason {
    /// Its name in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoEventName => "no_event_name",
            Self::NoPageSetting => "no_page_setting",
            Self::Integrations => "integrations",
            Self::Bundled => "bundled",
            Self::UnknownType => "unknown_type",
            Self::NoEffect => "no_effect",
            Self::UnknownWriteKey => "unknown_write_key",
            Self::NotAnObject => "not_an_object",
        }
    }
}

/// What became of one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageOutcome {
    /// Its source, by its index in [`Config::sources`].
    pub source: Option<usize>,
    /// Its type, where Segment knows it.
    pub message_type: Option<MessageType>,
    /// Events written for it, in the buffer's order.
    pub events: usize,
    /// Events that are larger than Keen takes, and were left out.
    pub oversized: usize,
    /// Why there are none.
    pub skipped: Option<SkipReason>,
}

/// What became of a request's messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestStats {
    /// Each message, in the body's order; then what is no object. Where the event buffer overflows, only those before.
    pub messages: Vec<MessageOutcome>,
    /// Names and values that were changed for Keen to take them.
    pub sanitized: u64,
}

/// The events of a request are at most so many times as large as its body, and some more: what a batch says of all its
/// messages is written into each event. SDKs' bodies grow fivefold at most.
const MAX_GROWTH: usize = 32;
const MAX_GROWTH_BYTES: usize = 65_536;
/// A write key is at most this long.
const MAX_WRITE_KEY_BYTES: usize = 512;
/// Of each so many bytes of a body one audience at most becomes an event, beside the first one of each message: one
/// identify may tell of thousands.
const BYTES_PER_AUDIENCE_EVENT: usize = 600;
/// Of each so many bytes of a body one trait that Engage computed is read; a message of Engage's has one, in some 400 bytes.
const BYTES_PER_COMPUTED_TRAIT: usize = 100;
/// Traits that any body may hold.
const MIN_COMPUTED_TRAITS: usize = 64;
/// Audiences that any body may hold.
const MIN_AUDIENCE_EVENTS: usize = 8;

/// Maps a request.
///
/// `client` gives what the request tells of the client, and is called once; its argument says whether the address is wanted.
/// `token` makes a uniqueness token for a message without an id. `users` are those of sources that remember them: what the
/// request says of them is in there afterwards, still to be committed.
///
/// # Errors
/// The request is answered 400.
pub fn map_request<'c>(
    config: &Config,
    request: Request<'_>,
    client: impl FnOnce(bool) -> Client<'c>,
    token: impl FnMut() -> String,
    users: &mut UserTransaction<'_, impl SharedData>,
    events: &mut EventBuffer,
) -> Result<RequestStats, BadRequestReason> {
    let text = decode_text(request.body);
    let limit = config.max_messages;
    let mut body =
        Body::parse(request.message_type, &text, limit).map_err(|error| match error {
            BodyError::Malformed => BadRequestReason::MalformedJson,
            BodyError::NoBatch => BadRequestReason::NoBatch,
            BodyError::TooManyMessages { messages } => {
                BadRequestReason::TooManyMessages { messages, limit }
            }
        })?;
    let sources = sources(config, request.header_write_key, &body)?;
    let batch = BatchValues::new(&body.batch);
    body.apply_batch_defaults();
    let wants_address = body.messages.iter().zip(&sources).any(|(message, source)| {
        source.and_then(|index| config.sources.get(index)).is_some_and(|source| source.ip_addon)
            && !without_placeholder(message.context.ip).is_present()
    });
    let client = RequestClient::new(client(wants_address), request.side);
    let is_batch = request.message_type.is_none();
    events.limit_request(
        request.body.len().saturating_mul(MAX_GROWTH).saturating_add(MAX_GROWTH_BYTES),
    );
    let mut mapper = RequestMapper {
        config,
        batch_page: (is_batch && client.is_browser).then(PageTraits::default),
        client,
        batch: &batch,
        body_is_lossy: matches!(text, Cow::Owned(_)),
        body_hash: OnceCell::new(),
        request,
        computed_traits_left: request
            .body
            .len()
            .checked_div(BYTES_PER_COMPUTED_TRAIT)
            .unwrap_or(0)
            .saturating_add(MIN_COMPUTED_TRAITS),
        audience_events_left: request
            .body
            .len()
            .checked_div(BYTES_PER_AUDIENCE_EVENT)
            .unwrap_or(0)
            .saturating_add(MIN_AUDIENCE_EVENTS),
        token,
        users,
        events,
        stats: RequestStats { messages: Vec::new(), sanitized: u64::from(batch.sanitized) },
    };
    let mut names = Vec::new();
    for (index, (message, source)) in body.messages.iter().zip(&sources).enumerate() {
        mapper.map_message(message, index, *source, &mut names);
        if mapper.events.is_overflowed() {
            return Ok(mapper.stats);
        }
    }
    let no_object =
        MessageOutcome { skipped: Some(SkipReason::NotAnObject), ..MessageOutcome::default() };
    mapper.stats.messages.extend(std::iter::repeat_n(no_object, body.non_object_elements));
    Ok(mapper.stats)
}

/// A body as text: a byte order mark goes, and bytes that are not UTF-8 become U+FFFD, as in Go's JSON decoders.
fn decode_text(body: &[u8]) -> Cow<'_, str> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match simdutf8::basic::from_utf8(body) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(String::from_utf8_lossy(body).into_owned()),
    }
}

/// The mapping of one request, message by message.
struct RequestMapper<'r, 's, T, S> {
    config: &'r Config,
    client: RequestClient,
    batch: &'r BatchValues<'r>,
    /// Bytes of the body were not UTF-8.
    body_is_lossy: bool,
    /// A hash of such a body.
    body_hash: OnceCell<String>,
    request: Request<'r>,
    /// The browser's page that all messages are of.
    batch_page: Option<PageTraits>,
    /// Traits of Engage's identify messages that are still read.
    computed_traits_left: usize,
    /// Audiences in identify messages that may still become events.
    audience_events_left: usize,
    token: T,
    users: &'r mut UserTransaction<'s, S>,
    events: &'r mut EventBuffer,
    stats: RequestStats,
}

impl<T: FnMut() -> String, S: SharedData> RequestMapper<'_, '_, T, S> {
    /// Maps the message at `index` of the body.
    fn map_message<'m>(
        &mut self,
        message: &Message<'m>,
        index: usize,
        source_index: Option<usize>,
        names: &mut Vec<&'m [u8]>,
    ) {
        let mut outcome = MessageOutcome {
            source: source_index,
            message_type: message.message_type,
            ..MessageOutcome::default()
        };
        let config = self.config;
        let mapped = match source_index.and_then(|index| config.sources.get(index)) {
            Some(source) => self.map_for_source(message, index, source, names, &mut outcome),
            None => Err(SkipReason::UnknownWriteKey),
        };
        outcome.skipped = mapped.err();
        self.stats.messages.push(outcome);
    }

    fn map_for_source<'m>(
        &mut self,
        message: &Message<'m>,
        index: usize,
        source: &Source,
        names: &mut Vec<&'m [u8]>,
        outcome: &mut MessageOutcome,
    ) -> Result<(), SkipReason> {
        let message_type = message.message_type.ok_or(SkipReason::UnknownType)?;
        if !message.integrations.enabled(&message.context) {
            return Err(SkipReason::Integrations);
        }
        if message.sent_by_browser {
            return Err(SkipReason::Bundled);
        }
        if message_type == MessageType::Identify {
            self.identify(message, index, source, outcome);
            return if outcome.events > 0 || outcome.oversized > 0 {
                Ok(())
            } else {
                Err(SkipReason::NoEffect)
            };
        }
        let collections = collections(message_type, message, source)?;
        let ids = Ids::for_event(message, source, self.body_is_lossy);
        let page = self.batch_page.as_ref().filter(|_| {
            source.mode == Mode::Device && self.client.is_end_user_request(&message.context)
        });
        let user = if source.remember_users {
            identity::user_for_event(self.users, source, message, &ids, self.batch, page)
        } else {
            None
        };
        let token = self.own_token(message, index).unwrap_or_else(|| Cow::Owned((self.token)()));
        let context = EventContext {
            source,
            client: &self.client,
            batch: self.batch,
            ids: &ids,
            user: user.as_ref(),
            token: &token,
            received_ms: self.request.received_ms,
        };
        let mut events = MessageEvents::new(message, context, names);
        self.stats.sanitized = self.stats.sanitized.saturating_add(u64::from(events.sanitized()));
        for original in collections.into_iter().flatten() {
            push(self.events, &mut events, source, &original, outcome);
        }
        Ok(())
    }

    /// Takes an identify message: what it says of its user, and the audiences in it.
    fn identify(
        &mut self,
        message: &Message<'_>,
        index: usize,
        source: &Source,
        outcome: &mut MessageOutcome,
    ) {
        if !source.remember_users && !source.audience_events {
            return;
        }
        let computed = ComputedTraits::parse(message, self.computed_traits_left);
        let count = computed.as_ref().map_or(0, |computed| computed.count);
        self.computed_traits_left = self.computed_traits_left.saturating_sub(count);
        let ids = Ids::new(message, self.body_is_lossy);
        if source.remember_users {
            let is_of_page =
                source.mode == Mode::Device && self.client.is_end_user_request(&message.context);
            let page = self.batch_page.as_mut().filter(|_| is_of_page);
            identity::identify(self.users, source, message, computed.as_ref(), &ids, page);
        }
        let audiences = computed.map(|computed| computed.audiences).unwrap_or_default();
        if !source.audience_events || audiences.is_empty() {
            return;
        }
        let user = if source.remember_users {
            let page = self.batch_page.as_ref().filter(|_| source.mode == Mode::Device);
            identity::user_for_event(self.users, source, message, &ids, self.batch, page)
        } else {
            None
        };
        let own_token = self.own_token(message, index);
        for (position, (name, entered)) in audiences.into_iter().enumerate() {
            // `limits.messages` bounds the first one of each message. Engage sends one a message.
            if position > 0 {
                let Some(left) = self.audience_events_left.checked_sub(1) else { return };
                self.audience_events_left = left;
            }
            let change = audience_change(&name, entered);
            let track = Message {
                message_type: Some(MessageType::Track),
                properties: read_value(&change.properties).unwrap_or_default(),
                ..*message
            };
            // One identify may tell of several.
            let token = match &own_token {
                Some(token) => names::uniqueness_token(&format!("{token} {name}")).into_owned(),
                None => (self.token)(),
            };
            let context = EventContext {
                source,
                client: &self.client,
                batch: self.batch,
                ids: &ids,
                user: user.as_ref(),
                token: &token,
                received_ms: self.request.received_ms,
            };
            let mut events = MessageEvents::new(&track, context, &mut Vec::new());
            self.stats.sanitized =
                self.stats.sanitized.saturating_add(u64::from(events.sanitized()));
            push(self.events, &mut events, source, change.event, outcome);
            if self.events.is_overflowed() {
                return;
            }
        }
    }

    fn own_token<'m>(&self, message: &Message<'m>, index: usize) -> Option<Cow<'m, str>> {
        uniqueness_token(message, || {
            let hash = || names::sha256_hex(self.request.body, names::MAX_TOKEN);
            self.body_is_lossy.then(|| format!("{} {index}", self.body_hash.get_or_init(hash)))
        })
    }
}

/// Adds the event of a message whose name is `original`.
fn push(
    buffer: &mut EventBuffer,
    events: &mut MessageEvents<'_>,
    source: &Source,
    original: &str,
    outcome: &mut MessageOutcome,
) {
    let collection = names::collection_name(original);
    events.set_original_name((collection != original).then_some(original));
    let count = match buffer.push(source.destination_index, &collection, |out| events.write(out)) {
        Pushed::Written => &mut outcome.events,
        Pushed::Oversized => &mut outcome.oversized,
        Pushed::Overflowed => return,
    };
    *count = count.saturating_add(1);
}

/// The source of each message. A message's own key is before the body's, the body's before the header's.
fn sources(
    config: &Config,
    header: Option<&str>,
    body: &Body<'_>,
) -> Result<Vec<Option<usize>>, BadRequestReason> {
    let header = header.map(str::trim).filter(|key| !key.is_empty());
    let of_body = write_key(body.batch.write_key);
    let mut has_key = header.is_some() || of_body.is_some();
    let default = of_body.as_deref().or(header).and_then(|key| config.source_index(key));
    let mut sources = Vec::with_capacity(body.messages.len());
    for message in &body.messages {
        sources.push(match write_key(message.write_key) {
            Some(key) => {
                has_key = true;
                config.source_index(&key)
            }
            None => default,
        });
    }
    let is_known = sources.is_empty() || sources.iter().any(Option::is_some);
    if !has_key || (config.reject_unknown_write_key && !is_known) {
        return Err(BadRequestReason::InvalidWriteKey);
    }
    Ok(sources)
}

/// A write key, its surrounding blanks trimmed.
fn write_key(value: Value<'_>) -> Option<Cow<'_, str>> {
    let key = match value.short_str(MAX_WRITE_KEY_BYTES)? {
        Cow::Borrowed(key) => Cow::Borrowed(key.trim()),
        Cow::Owned(key) => Cow::Owned(key.trim().to_owned()),
    };
    (!key.is_empty()).then_some(key)
}
