//! One message, its parts borrowed from the body.

use super::endpoint::Kind;
use super::integrations::{Flags, Integrations};
use super::name_like::{First, Plain, alike};
use crate::json::{Cursor, Read, Str, Value};

/// A message as it came. What the mapping needs of it, and no more.
#[derive(Debug, Clone, Default)]
pub struct Message<'a> {
    /// Its kind: the path's, or in a batch its own `type`. `None`: a kind Segment does not know.
    pub kind: Option<Kind>,
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
    /// Reads the members of one message. `other` gets those that are none of a message's.
    ///
    /// # Errors
    /// It is no JSON object.
    pub fn read(
        cursor: &mut Cursor<'a>,
        mut other: impl FnMut(Str<'a>, &mut Cursor<'a>) -> Read<()>,
    ) -> Read<(Self, Value<'a>)> {
        let mut message = Self::default();
        let mut kind = Value::Absent;
        let mut options = None;
        cursor.object(|key, cursor| {
            let slot = match key.decode().as_ref() {
                "type" => &mut kind,
                "event" => &mut message.event,
                "name" => &mut message.name,
                "category" => &mut message.category,
                "userId" => &mut message.user_id,
                "anonymousId" => &mut message.anonymous_id,
                "sessionId" => &mut message.session_id,
                "messageId" => &mut message.message_id,
                "timestamp" => &mut message.timestamp,
                "originalTimestamp" => &mut message.original_timestamp,
                "sentAt" => &mut message.sent_at,
                "properties" => &mut message.properties,
                "traits" => &mut message.traits,
                "writeKey" => &mut message.write_key,
                "context" => {
                    message.context = Context::read(cursor)?;
                    return Ok(());
                }
                "options" => {
                    let object = cursor.peek() == Some(b'{');
                    let read = Context::read(cursor)?;
                    options = object.then_some(read);
                    return Ok(());
                }
                "integrations" => {
                    message.integrations = Integrations::read(cursor)?;
                    return Ok(());
                }
                "_metadata" => {
                    message.bundled = bundled(cursor)?;
                    return Ok(());
                }
                _ => return other(key, cursor),
            };
            *slot = cursor.value()?;
            Ok(())
        })?;
        message.context = options.unwrap_or(message.context);
        message.kind = kind.as_str().and_then(|kind| Kind::named(&kind));
        Ok((message, kind))
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
    fn read(cursor: &mut Cursor<'a>) -> Read<Self> {
        let mut context = Self::default();
        let (mut ip, mut agent, mut direct, mut page) = <(First, First, First, First)>::default();
        let (mut url, mut referrer, mut library, mut providers) = <(First, First, First, First)>::default();
        let (mut traits, mut personas) = <(First, First)>::default();
        members(cursor, |key, cursor| {
            match Plain::of(key).as_bytes() {
                b"ip" if ip.takes(key) => context.ip = cursor.value()?,
                b"useragent" if agent.takes(key) => context.user_agent = cursor.value()?,
                b"direct" if direct.takes(key) => context.direct = cursor.value()?,
                b"traits" if traits.takes(key) => context.traits = cursor.value()?,
                b"personas" if personas.takes(key) => context.personas = cursor.value()?,
                b"page" if page.takes(key) => context.read_page(cursor)?,
                // Names with dots are paths, where no `page` came before them.
                b"page.url" if page.is_open() && url.takes(key) => context.page_url = cursor.value()?,
                b"page.referrer" if page.is_open() && referrer.takes(key) => context.page_referrer = cursor.value()?,
                b"library" if library.takes(key) => context.library = library_name(cursor)?,
                b"providers" if providers.takes(key) => {
                    let object = cursor.peek() == Some(b'{');
                    let flags = Flags::read(cursor)?;
                    context.providers = object.then_some(flags);
                }
                plain => context.flags.member(key, plain, cursor)?,
            }
            Ok(())
        })?;
        Ok(context)
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
                found |= matches!(value, Value::String(name) if name.is("Keen IO") || name.is("Keen"));
                Ok(())
            });
        }
        cursor.skip().map(drop)
    })?;
    Ok(found)
}
