//! One message, its parts borrowed from the body.

use super::endpoint::Kind;
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
    /// `library.name`
    pub library: Value<'a>,
    /// `direct`: the caller is the visitor.
    pub direct: Value<'a>,
}

/// Which destinations a message is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Integrations<'a> {
    /// The first boolean called `all`, in any case.
    pub all: Option<bool>,
    /// `Keen IO`, to the letter.
    pub keen_io: Value<'a>,
    /// `Keen`, the documented other name.
    pub keen: Value<'a>,
    /// `keenIo`, `keen_io`, …: carries options, never a flag.
    pub alike: Value<'a>,
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
                "writeKey" => &mut message.write_key,
                "context" => {
                    message.context = Context::read(cursor)?;
                    return Ok(());
                }
                "options" => {
                    let object = cursor.peek() == Some(b'{');
                    let read = Context::read(cursor)?;
                    options = object.then_some(read).or(options);
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
        self.sent_at = self.sent_at.or(batch.sent_at);
        self.write_key = self.write_key.or(batch.write_key);
        self.context.inherit(&batch.context);
        self.integrations.inherit(&batch.integrations);
    }
}

impl<'a> Context<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Read<Self> {
        let mut context = Self::default();
        let mut library_seen = false;
        members(cursor, |key, cursor| {
            if alike(key, "ip") && context.ip == Value::Absent {
                context.ip = cursor.value()?;
            } else if alike(key, "useragent") && context.user_agent == Value::Absent {
                context.user_agent = cursor.value()?;
            } else if alike(key, "direct") && context.direct == Value::Absent {
                context.direct = cursor.value()?;
            } else if alike(key, "page") && !context.page {
                context.page = cursor.peek() == Some(b'{');
                members(cursor, |key, cursor| {
                    if alike(key, "url") && context.page_url == Value::Absent {
                        context.page_url = cursor.value()?;
                    } else if alike(key, "referrer") && context.page_referrer == Value::Absent {
                        context.page_referrer = cursor.value()?;
                    } else {
                        cursor.skip()?;
                    }
                    Ok(())
                })?;
            } else if alike(key, "library") && !library_seen {
                library_seen = true;
                members(cursor, |key, cursor| {
                    if alike(key, "name") && context.library == Value::Absent {
                        context.library = cursor.value()?;
                    } else {
                        cursor.skip()?;
                    }
                    Ok(())
                })?;
            } else {
                cursor.skip()?;
            }
            Ok(())
        })?;
        Ok(context)
    }

    fn inherit(&mut self, batch: &Self) {
        self.ip = self.ip.or(batch.ip);
        self.user_agent = self.user_agent.or(batch.user_agent);
        self.library = self.library.or(batch.library);
        self.direct = self.direct.or(batch.direct);
        if !self.page {
            self.page = batch.page;
            self.page_url = batch.page_url;
            self.page_referrer = batch.page_referrer;
        }
    }
}

impl<'a> Integrations<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Read<Self> {
        let mut integrations = Self::default();
        members(cursor, |key, cursor| {
            let value = cursor.value()?;
            if key.is("Keen IO") {
                integrations.keen_io = value;
            } else if key.is("Keen") {
                integrations.keen = value;
            } else if alike(key, "keenio") {
                integrations.alike = integrations.alike.or(value);
            } else if alike(key, "all")
                && let Value::Bool(all) = value
            {
                integrations.all = integrations.all.or(Some(all));
            }
            Ok(())
        })?;
        Ok(integrations)
    }

    fn inherit(&mut self, batch: &Self) {
        self.all = self.all.or(batch.all);
        self.keen_io = self.keen_io.or(batch.keen_io);
        self.keen = self.keen.or(batch.keen);
        self.alike = self.alike.or(batch.alike);
    }

    /// Whether Keen gets the message: its own flag where it is named (`Keen IO` before `Keen`), else `All`, else yes.
    #[must_use]
    pub fn enabled(&self) -> bool {
        match self.keen_io.or(self.keen) {
            Value::Absent => self.all.unwrap_or(true),
            Value::Bool(flag) => flag,
            _ => true,
        }
    }

    /// `traits` among the options for Keen.
    #[must_use]
    pub fn traits(&self) -> Value<'a> {
        let options = [self.keen_io, self.keen, self.alike].into_iter().find(|v| matches!(v, Value::Object(_)));
        let mut traits = Value::Absent;
        if let Some(Value::Object(text)) = options {
            // The text has been read once: it is an object.
            let _ = Cursor::new(text).object(|key, cursor| {
                let value = cursor.value()?;
                if key.is("traits") {
                    traits = value;
                }
                Ok(())
            });
        }
        traits
    }
}

/// Reads the members where an object comes, and skips anything else.
fn members<'a>(cursor: &mut Cursor<'a>, member: impl FnMut(Str<'a>, &mut Cursor<'a>) -> Read<()>) -> Read<()> {
    if cursor.peek() == Some(b'{') { cursor.object(member) } else { cursor.skip().map(drop) }
}

/// `_metadata.bundled` holds `Keen IO`.
fn bundled(cursor: &mut Cursor<'_>) -> Read<bool> {
    let mut found = false;
    members(cursor, |key, cursor| {
        if key.is("bundled") && cursor.peek() == Some(b'[') {
            return cursor.array(|cursor| {
                let value = cursor.value()?;
                found |= matches!(value, Value::String(name) if name.is("Keen IO"));
                Ok(())
            });
        }
        cursor.skip().map(drop)
    })?;
    Ok(found)
}

/// Whether a name is `plain` (lower case, no punctuation) but for case and `_`, `-`, space: how Segment's facade looks
/// names up in properties and context.
#[must_use]
pub fn alike(key: Str<'_>, plain: &str) -> bool {
    let name = key.decode();
    let mut letters = name.bytes().filter(|b| !matches!(b, b'_' | b'-' | b' ')).map(|b| b.to_ascii_lowercase());
    plain.bytes().all(|b| letters.next() == Some(b)) && letters.next().is_none()
}
