//! Maps one request to the events of all its messages. Each event goes to the destination of its
//! message's source.

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
use crate::segment::http::write_key;
use crate::segment::message::body::{Body, BodyError};
use crate::segment::message::computed_traits::ComputedTraits;
use crate::segment::message::{Message, MessageType};
use crate::users::{SharedData, User, UserTransaction};
use std::borrow::Cow;
use std::cell::OnceCell;

/// Input of the mapping: one request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The type of the single message, from the path. `None`: the request is a batch.
    pub message_type: Option<MessageType>,
    /// Whether the path is one for devices or one for servers.
    pub side: CallerSide,
    /// The write key in `Authorization`.
    pub header_write_key: Option<&'a str>,
    /// The decompressed body.
    pub body: &'a [u8],
    /// When the request was received, in milliseconds since 1970.
    pub received_ms: i64,
}

/// Why a message produces no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// A track message without an event name.
    NoEventName,
    /// No page setting matches.
    NoPageSetting,
    /// `integrations` disables Keen for the message.
    Integrations,
    /// The browser has already sent the message to Keen.
    Bundled,
    /// The `type` is missing or unknown to Segment.
    UnknownType,
    /// identify, group and alias have no effect on Keen.
    NoEffect,
    /// The write key is missing or not configured.
    UnknownWriteKey,
    /// The element of the batch is not an object.
    NotAnObject,
}

impl SkipReason {
    /// The name in metrics and logs.
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

/// The outcome of one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageOutcome {
    /// Index of its source in [`Config::sources`].
    pub source: Option<usize>,
    /// Its type, if Segment knows it.
    pub message_type: Option<MessageType>,
    /// Number of events written for it.
    pub events: usize,
    /// Number of events dropped because they exceed Keen's size limit.
    pub oversized: usize,
    /// Why there are no events.
    pub skipped: Option<SkipReason>,
}

/// The outcomes of a request's messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestStats {
    /// The outcomes in the order of the body, followed by those of elements that are not objects.
    /// If the event buffer overflows, later messages have no outcome.
    pub messages: Vec<MessageOutcome>,
    /// Number of names and values that were changed so that Keen accepts them.
    pub sanitized: u64,
}

/// The events of a request may take `MAX_GROWTH` times the bytes of its body plus
/// [`MAX_GROWTH_BYTES`]. Values of a batch are copied into each of its events; the bodies of SDKs
/// grow at most fivefold.
const MAX_GROWTH: usize = 32;
const MAX_GROWTH_BYTES: usize = 65_536;
/// At most one audience per this many bytes of the body becomes an event, in addition to the first
/// one of each message. One identify may contain thousands.
const BYTES_PER_AUDIENCE_EVENT: usize = 600;
/// At most one of Engage's traits per this many bytes of the body is read. A message from Engage
/// has one, in 330 bytes or more.
const BYTES_PER_COMPUTED_TRAIT: usize = 128;
/// Number of Engage's traits read from a body of any size.
const MIN_COMPUTED_TRAITS: usize = 64;
/// Number of audience events allowed for a body of any size.
const MIN_AUDIENCE_EVENTS: usize = 8;

/// Number of names of a message's properties that fit without growing the scratch buffer.
const TYPICAL_PROPERTIES: usize = 16;

/// Maps a request.
///
/// `client` returns the client's address and headers. It is called once; its argument is whether
/// the address is needed. `token` generates a uniqueness token for a message without an id. `users`
/// holds the stored users; the caller commits the updates that the request makes to them.
///
/// # Errors
/// The request gets a 400.
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
    users.limit_by_body(request.body.len());
    let mut mapper = RequestMapper {
        config,
        batch_page: (is_batch && client.is_browser).then(PageTraits::default),
        client: &client,
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
    let mut names = Vec::with_capacity(TYPICAL_PROPERTIES);
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

/// Decodes a body as text. A byte order mark is removed, and bytes that are not UTF-8 become
/// U+FFFD, as in Go's JSON decoders.
fn decode_text(body: &[u8]) -> Cow<'_, str> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match simdutf8::basic::from_utf8(body) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(String::from_utf8_lossy(body).into_owned()),
    }
}

/// Maps the messages of one request.
struct RequestMapper<'r, 's, T, S> {
    config: &'r Config,
    client: &'r RequestClient<'r>,
    batch: &'r BatchValues<'r>,
    /// The body contained bytes that are not UTF-8.
    body_is_lossy: bool,
    /// Hash of a lossy body, computed when first needed.
    body_hash: OnceCell<String>,
    request: Request<'r>,
    /// Traits of the page that all messages come from, if the request is a batch of a browser.
    batch_page: Option<PageTraits>,
    /// How many more traits of Engage's identify messages may be read.
    computed_traits_left: usize,
    /// How many more audiences may become events.
    audience_events_left: usize,
    token: T,
    users: &'r mut UserTransaction<'s, S>,
    events: &'r mut EventBuffer,
    stats: RequestStats,
}

impl<'r, T: FnMut() -> String, S: SharedData> RequestMapper<'r, '_, T, S> {
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
        let user = self.user_for_event(message, source, &ids);
        let token = self.own_token(message, index).unwrap_or_else(|| Cow::Owned((self.token)()));
        let context = self.event_context(source, &ids, user.as_ref(), &token);
        self.write_events(message, context, names, &collections, outcome);
        Ok(())
    }

    /// Processes an identify message: stores its user, and writes the events of its audiences.
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
            let shares_page = self.shares_page(message, source);
            let page = self.batch_page.as_mut().filter(|_| shares_page);
            identity::identify(self.users, source, message, computed.as_ref(), &ids, page);
        }
        let audiences = computed.map(|computed| computed.audiences).unwrap_or_default();
        if source.audience_events && !audiences.is_empty() {
            self.write_audience_events(message, index, source, &ids, audiences, outcome);
        }
    }

    fn write_audience_events(
        &mut self,
        message: &Message<'_>,
        index: usize,
        source: &Source,
        ids: &Ids<'_>,
        audiences: Vec<(String, bool)>,
        outcome: &mut MessageOutcome,
    ) {
        let user = self.user_for_event(message, source, ids);
        let own_token = self.own_token(message, index);
        for (position, (name, entered)) in audiences.into_iter().enumerate() {
            // `limits.messages` bounds the first audience of each message. Engage sends one per
            // message.
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
            // One identify may contain several audiences.
            let token = match &own_token {
                Some(token) => names::uniqueness_token(&format!("{token} {name}")).into_owned(),
                None => (self.token)(),
            };
            let context = self.event_context(source, ids, user.as_ref(), &token);
            let collections = [Some(Cow::Borrowed(change.event)), None, None];
            self.write_events(&track, context, &mut Vec::new(), &collections, outcome);
            if self.events.is_overflowed() {
                return;
            }
        }
    }

    /// Whether the message comes from the page that the batch is of.
    fn shares_page(&self, message: &Message<'_>, source: &Source) -> bool {
        source.mode == Mode::Device && self.client.is_end_user_request(&message.context)
    }

    /// Returns the stored user of a message, for its events.
    fn user_for_event(
        &mut self,
        message: &Message<'_>,
        source: &Source,
        ids: &Ids<'_>,
    ) -> Option<User> {
        if !source.remember_users {
            return None;
        }
        let page = self.batch_page.as_ref().filter(|_| self.shares_page(message, source));
        identity::user_for_event(self.users, source, message, ids, self.batch, page)
    }

    fn event_context<'e>(
        &self,
        source: &'e Source,
        ids: &'e Ids<'e>,
        user: Option<&'e User>,
        token: &'e str,
    ) -> EventContext<'e>
    where
        'r: 'e,
    {
        let received_ms = self.request.received_ms;
        EventContext {
            source,
            client: self.client,
            batch: self.batch,
            ids,
            user,
            token,
            received_ms,
        }
    }

    /// Adds a message's event to each of its collections.
    fn write_events<'m>(
        &mut self,
        message: &Message<'m>,
        context: EventContext<'_>,
        names: &mut Vec<&'m [u8]>,
        collections: &[Option<Cow<'_, str>>; 3],
        outcome: &mut MessageOutcome,
    ) {
        let source = context.source;
        let mut events = MessageEvents::new(message, context, names);
        self.stats.sanitized = self.stats.sanitized.saturating_add(u64::from(events.sanitized()));
        push_events(self.events, &mut events, source, collections, outcome);
    }

    fn own_token<'m>(&self, message: &Message<'m>, index: usize) -> Option<Cow<'m, str>> {
        let hash = || names::sha256_hex(self.request.body, names::MAX_TOKEN);
        let position = || format!("{} {index}", self.body_hash.get_or_init(hash));
        uniqueness_token(message, self.body_is_lossy.then_some(position))
    }
}

/// Adds a message's event to each of its collections, whose names are made valid for Keen.
fn push_events(
    buffer: &mut EventBuffer,
    events: &mut MessageEvents<'_>,
    source: &Source,
    collections: &[Option<Cow<'_, str>>; 3],
    outcome: &mut MessageOutcome,
) {
    let destination = source.destination_index;
    // The events differ only in `segment_event`. The last one can be added again if neither has it.
    let mut can_repeat = false;
    for original in collections.iter().flatten() {
        let collection = names::collection_name(original);
        let is_renamed = collection != *original;
        let pushed = if can_repeat && !is_renamed {
            buffer.push_last_again(destination, &collection)
        } else {
            if is_renamed {
                events.set_original_name(original);
            }
            buffer.push(destination, &collection, |out| events.write(out))
        };
        can_repeat = pushed == Pushed::Written && !is_renamed;
        let count = match pushed {
            Pushed::Written => &mut outcome.events,
            Pushed::Oversized => &mut outcome.oversized,
            Pushed::Overflowed => return,
        };
        *count = count.saturating_add(1);
    }
}

/// Returns the source of each message. The message's own write key takes precedence over the
/// body's, and the body's over the header's.
fn sources(
    config: &Config,
    header: Option<&str>,
    body: &Body<'_>,
) -> Result<Vec<Option<usize>>, BadRequestReason> {
    let header = header.and_then(write_key::normalize);
    let of_body = body_write_key(body.batch.write_key);
    let mut has_key = header.is_some() || of_body.is_some();
    let default = of_body.as_deref().or(header).and_then(|key| config.source_index(key));
    let mut sources = Vec::with_capacity(body.messages.len());
    for message in &body.messages {
        sources.push(match body_write_key(message.write_key) {
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

/// Returns a normalized write key.
fn body_write_key(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.short_str(write_key::MAX_BYTES)? {
        Cow::Borrowed(key) => write_key::normalize(key).map(Cow::Borrowed),
        Cow::Owned(key) => write_key::normalize(&key).map(|key| Cow::Owned(key.to_owned())),
    }
}
