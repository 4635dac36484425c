//! One message, its parts borrowed from the body.

use super::MessageType;
use super::integrations::{Flags, Integrations};
use super::key_match::{First, Plain, alike};
use crate::json::{Cursor, Member as Property, Read, Str, Value};
use std::ops::Range;

/// A message as it came. What the mapping needs of it, and no more.
#[derive(Debug, Clone, Default)]
pub struct Message<'a> {
    /// Its kind: the path's, or in a batch its own `type`. `None`: a kind Segment does not know.
    pub kind: Option<MessageType>,
    /// `event` of a track call.
    pub event: Value<'a>,
    /// `name` of a page or screen.
    pub name: Value<'a>,
    /// `category` of a page or screen.
    pub category: Value<'a>,
    /// `userId`
    pub user_id: Value<'a>,
    /// `anonymousId`
    pub anonymous_id: Value<'a>,
    /// `sessionId`, of old libraries.
    pub session_id: Value<'a>,
    /// `messageId`
    pub message_id: Value<'a>,
    /// `timestamp`
    pub timestamp: Value<'a>,
    /// `originalTimestamp`
    pub original_timestamp: Value<'a>,
    /// `sentAt`, in a batch the batch's where it has none.
    pub sent_at: Value<'a>,
    /// `properties`
    pub properties: Value<'a>,
    /// Where its members stand among those of the whole body, where it is an object.
    pub members: Range<usize>,
    /// `traits` of an identify call.
    pub traits: Value<'a>,
    /// `writeKey`
    pub write_key: Value<'a>,
    /// `context`, or `options`, its older name, which replaces it.
    pub context: Context<'a>,
    /// `integrations`
    pub integrations: Integrations<'a>,
    /// `_metadata.bundled` names Keen: the browser has delivered this message itself.
    pub bundled: bool,
}

/// What the mapping needs of `context`. Names are found as Segment's facade finds them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    given: bool,
    /// `ip`
    pub ip: Value<'a>,
    /// `userAgent`
    pub user_agent: Value<'a>,
    /// Whether there is a `page`.
    pub page: bool,
    /// `page.url`
    pub page_url: Value<'a>,
    /// `page.referrer`
    pub page_referrer: Value<'a>,
    /// `library.name`, or a `library` that is no more than a name.
    pub library: Value<'a>,
    /// `direct`: the caller is the visitor.
    pub direct: Value<'a>,
    /// `traits`: who the user is, as mobile SDKs repeat it in every call.
    pub traits: Value<'a>,
    /// `personas`: the call is Engage's.
    pub personas: Value<'a>,
    /// What it says of destinations, as callers did before `integrations`.
    pub flags: Flags<'a>,
    /// `providers`: the same, one level deeper.
    pub providers: Option<Flags<'a>>,
}

impl<'a> Message<'a> {
    /// Reads the members of one message into this one, which is new; gives its `type`. The members of its `properties` are
    /// appended to `properties`. `other` gets the members that are none of a message's. Messages are large, and so read
    /// where they stay.
    ///
    /// # Errors
    /// It is no JSON object.
    pub fn read(
        &mut self,
        cursor: &mut Cursor<'a>,
        properties: &mut Vec<Property<'a>>,
        mut other: impl FnMut(Str<'a>, &mut Cursor<'a>) -> Read<()>,
    ) -> Read<Value<'a>> {
        let mut kind = Value::Absent;
        let mut options = None;
        cursor.object(|key, cursor| {
            let slot = match Member::of(key) {
                Member::Type => &mut kind,
                Member::Event => &mut self.event,
                Member::Name => &mut self.name,
                Member::Category => &mut self.category,
                Member::UserId => &mut self.user_id,
                Member::AnonymousId => &mut self.anonymous_id,
                Member::SessionId => &mut self.session_id,
                Member::MessageId => &mut self.message_id,
                Member::Timestamp => &mut self.timestamp,
                Member::OriginalTimestamp => &mut self.original_timestamp,
                Member::SentAt => &mut self.sent_at,
                Member::Properties => {
                    let from = properties.len();
                    self.properties = match cursor.peek() {
                        Some(b'{') => Value::Object(cursor.members(properties)?),
                        _ => cursor.value()?,
                    };
                    self.members = from..properties.len();
                    return Ok(());
                }
                Member::Traits => &mut self.traits,
                Member::WriteKey => &mut self.write_key,
                Member::Context => return self.context.read(cursor),
                Member::Options => {
                    let object = cursor.peek() == Some(b'{');
                    let mut read = Context::default();
                    read.read(cursor)?;
                    options = object.then_some(read);
                    return Ok(());
                }
                Member::Integrations => {
                    self.integrations = Integrations::read(cursor)?;
                    return Ok(());
                }
                Member::Metadata => {
                    self.bundled = bundled(cursor)?;
                    return Ok(());
                }
                Member::Other => return other(key, cursor),
            };
            *slot = cursor.value()?;
            Ok(())
        })?;
        if let Some(options) = options {
            self.context = options;
        }
        self.kind = match kind {
            Value::String(kind) if kind.escaped => MessageType::parse(&kind.decode()),
            Value::String(kind) => MessageType::parse(kind.raw),
            _ => None,
        };
        Ok(kind)
    }

    /// What the batch says of all its messages, under what the message says of itself.
    pub fn inherit(&mut self, batch: &Self) {
        if !self.sent_at.is_given() {
            self.sent_at = batch.sent_at;
        }
        if !matches!(self.write_key, Value::String(key) if !key.raw.is_empty()) {
            self.write_key = batch.write_key;
        }
        self.context.inherit(&batch.context);
        self.integrations.inherit(&batch.integrations);
    }
}

impl<'a> Context<'a> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Read<()> {
        // Of equal names the later wins, whole.
        if std::mem::replace(&mut self.given, true) {
            *self = Self { given: true, ..Self::default() };
        }
        let (mut ip, mut agent, mut direct, mut page) = <(First, First, First, First)>::default();
        let (mut url, mut referrer, mut library, mut providers) =
            <(First, First, First, First)>::default();
        let (mut traits, mut personas) = <(First, First)>::default();
        members(cursor, |key, cursor| {
            match Plain::of(key).as_bytes() {
                b"ip" if ip.takes(key) => self.ip = cursor.value()?,
                b"useragent" if agent.takes(key) => self.user_agent = cursor.value()?,
                b"direct" if direct.takes(key) => self.direct = cursor.value()?,
                b"traits" if traits.takes(key) => self.traits = cursor.value()?,
                b"personas" if personas.takes(key) => self.personas = cursor.value()?,
                b"page" if page.takes(key) => self.read_page(cursor)?,
                // Names with dots are paths, where no `page` came before them.
                b"page.url" if page.is_open() && url.takes(key) => {
                    self.page_url = cursor.value()?
                }
                b"page.referrer" if page.is_open() && referrer.takes(key) => {
                    self.page_referrer = cursor.value()?
                }
                b"library" if library.takes(key) => self.library = library_name(cursor)?,
                b"providers" if providers.takes(key) => {
                    let object = cursor.peek() == Some(b'{');
                    let flags = Flags::read(cursor)?;
                    self.providers = object.then_some(flags);
                }
                plain => self.flags.member(key, plain, cursor)?,
            }
            Ok(())
        })
    }

    fn read_page(&mut self, cursor: &mut Cursor<'a>) -> Read<()> {
        let (dotted_url, dotted_referrer) = (self.page_url, self.page_referrer);
        self.page = cursor.peek() == Some(b'{');
        // As the facade has it: what `null` holds is `null`.
        let outside = if cursor.peek() == Some(b'n') { Value::Null } else { Value::Absent };
        let (mut page_url, mut page_referrer) = (outside, outside);
        let (mut url, mut referrer) = <(First, First)>::default();
        members(cursor, |key, cursor| {
            match Plain::of(key).as_bytes() {
                b"url" if url.takes(key) => page_url = cursor.value()?,
                b"referrer" if referrer.takes(key) => page_referrer = cursor.value()?,
                _ => drop(cursor.skip()?),
            }
            Ok(())
        })?;
        self.page_url = dotted_url.or(page_url);
        self.page_referrer = dotted_referrer.or(page_referrer);
        Ok(())
    }

    fn inherit(&mut self, batch: &Self) {
        self.ip = self.ip.or(batch.ip);
        self.user_agent = self.user_agent.or(batch.user_agent);
        self.library = self.library.or(batch.library);
        self.direct = self.direct.or(batch.direct);
        self.traits = self.traits.or(batch.traits);
        self.personas = self.personas.or(batch.personas);
        self.page |= batch.page;
        self.page_url = self.page_url.or(batch.page_url);
        self.page_referrer = self.page_referrer.or(batch.page_referrer);
        self.flags.inherit(&batch.flags);
        self.providers = match (self.providers, batch.providers) {
            (Some(mut own), Some(batch)) => {
                own.inherit(&batch);
                Some(own)
            }
            (own, batch) => own.or(batch),
        };
    }
}

/// The members of a message that are read.
#[derive(Clone, Copy)]
enum Member {
    Type,
    Event,
    Name,
    Category,
    UserId,
    AnonymousId,
    SessionId,
    MessageId,
    Timestamp,
    OriginalTimestamp,
    SentAt,
    Properties,
    Traits,
    WriteKey,
    Context,
    Options,
    Integrations,
    Metadata,
    Other,
}

impl Member {
    #[inline(always)]
    fn of(key: Str<'_>) -> Self {
        if key.escaped {
            Self::named(key.decode().as_bytes())
        } else {
            Self::named(key.raw.as_bytes())
        }
    }

    // Bytes, as patterns of bytes are told apart letter by letter, and texts one after the other.
    fn named(name: &[u8]) -> Self {
        match name {
            b"type" => Self::Type,
            b"event" => Self::Event,
            b"name" => Self::Name,
            b"category" => Self::Category,
            b"userId" => Self::UserId,
            b"anonymousId" => Self::AnonymousId,
            b"sessionId" => Self::SessionId,
            b"messageId" => Self::MessageId,
            b"timestamp" => Self::Timestamp,
            b"originalTimestamp" => Self::OriginalTimestamp,
            b"sentAt" => Self::SentAt,
            b"properties" => Self::Properties,
            b"traits" => Self::Traits,
            b"writeKey" => Self::WriteKey,
            b"context" => Self::Context,
            b"options" => Self::Options,
            b"integrations" => Self::Integrations,
            b"_metadata" => Self::Metadata,
            _ => Self::Other,
        }
    }
}

/// The name in a `library`: `{"name": …}`, or a name alone.
fn library_name<'a>(cursor: &mut Cursor<'a>) -> Read<Value<'a>> {
    if cursor.peek() == Some(b'"') {
        return cursor.value();
    }
    let mut found = Value::Absent;
    let mut name = First::default();
    members(cursor, |key, cursor| {
        if alike(key, "name") && name.takes(key) {
            found = cursor.value()?;
            return Ok(());
        }
        cursor.skip().map(drop)
    })?;
    Ok(found)
}

/// Reads the members where an object comes, and skips anything else.
pub(super) fn members<'a>(
    cursor: &mut Cursor<'a>,
    member: impl FnMut(Str<'a>, &mut Cursor<'a>) -> Read<()>,
) -> Read<()> {
    if cursor.peek() == Some(b'{') { cursor.object(member) } else { cursor.skip().map(drop) }
}

/// `_metadata.bundled` holds `Keen IO`.
fn bundled(cursor: &mut Cursor<'_>) -> Read<bool> {
    let mut found = false;
    members(cursor, |key, cursor| {
        if key.is("bundled") && cursor.peek() == Some(b'[') {
            found = false;
            return cursor.array(|cursor| {
                let value = cursor.value()?;
                found |=
                    matches!(value, Value::String(name) if name.is("Keen IO") || name.is("Keen"));
                Ok(())
            });
        }
        cursor.skip().map(drop)
    })?;
    Ok(found)
}
