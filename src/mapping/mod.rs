//! A Segment message and its source -> Keen events: Segment's own Keen integrations, with their errors mended.
//!
//! `mode: cloud` is the server-side one, `mode: device` the browser's, which says less of the client.

mod addons;
mod audience_events;
mod client;
mod event_buffer;
pub mod identity;
pub mod pipeline;

pub use client::{Client, bare_address};
pub use event_buffer::EventBuffer;

use crate::config::{Mode, Source};
use crate::json::{Cursor, Members, Value, write_string};
use crate::keen::event_writer::{EventWriter, Notes, is_placeholder};
use crate::keen::names;
use crate::segment::message::Message;
use crate::segment::message::MessageType;
use crate::segment::message::key_match::{First, alike};
use crate::segment::message::timestamp;
use crate::users::User;
use std::borrow::Cow;

/// Why a message gives no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// identify, group and alias have no effect on Keen.
    NoEffect,
    /// A `type` Segment does not know, or none.
    UnknownType,
    /// A track call without an event name.
    NoEventName,
    /// No page setting matches.
    NoPageSetting,
    /// `integrations` keeps it from Keen.
    Disabled,
    /// The browser has sent it to Keen itself.
    Bundled,
}

/// What goes to Keen of a message.
#[derive(Debug)]
pub struct Mapped {
    /// How many events were written.
    pub events: usize,
    /// How many are larger than Keen takes.
    pub too_large: usize,
    /// Names and values that had to be made legal.
    pub mended: u32,
}

/// Where events are written to, one after the other.
pub trait Sink {
    /// Takes an event: its collection, and what writes it. False where it is larger than Keen takes.
    fn event(&mut self, collection: &str, write: &mut Write<'_>) -> bool;
}

/// Writes an event at the end of a buffer, with room for its notes, and tells how much it mended.
pub type Write<'w> = dyn FnMut(&mut Vec<u8>, &mut Notes) -> u32 + 'w;

/// Maps the messages of one request, one after the other.
#[derive(Debug)]
pub struct Mapper<'c> {
    /// Of whom they are.
    client: Client<'c>,
    /// When they came, in milliseconds since 1970.
    now: i64,
}

impl<'c> Mapper<'c> {
    /// For messages of `client`, received at `now` (milliseconds since 1970).
    #[must_use]
    pub fn new(client: Client<'c>, now: i64) -> Self {
        Self { client, now }
    }

    /// Maps `message`, whose `properties` have these members.
    ///
    /// `token` makes a uniqueness token where the message has no id. `user` is whom the event shows, where that is known.
    ///
    /// # Errors
    /// Why nothing goes to Keen.
    pub fn map(
        &self,
        message: &Message<'_>,
        properties: Members<'_>,
        source: &Source,
        token: impl FnOnce() -> String,
        user: Option<&User>,
        sink: &mut impl Sink,
    ) -> Result<Mapped, Dropped> {
        let kind = message.kind.ok_or(Dropped::UnknownType)?;
        if !message.integrations.enabled(&message.context) {
            return Err(Dropped::Disabled);
        }
        if message.bundled {
            return Err(Dropped::Bundled);
        }
        let collections = collections(kind, message, source)?;
        let facts = Facts::of(message, properties, source, &self.client, self.now, token, user);
        let (mut events, mut mended, mut too_large) = (0_usize, 0_u32, 0_usize);
        for original in collections.into_iter().flatten() {
            let collection = names::collection_name(&original);
            let taken = sink.event(&collection, &mut |out, notes| {
                let changed =
                    facts.write(out, notes, (collection != original).then_some(original.as_ref()));
                mended = mended.saturating_add(changed);
                changed
            });
            let count = if taken { &mut events } else { &mut too_large };
            *count = count.saturating_add(1);
        }
        Ok(Mapped { events, too_large, mended })
    }
}

/// The collections a message goes to, as Segment names them. `Viewed {category} Page` and its like stand beside each other.
fn collections<'a>(
    kind: MessageType,
    message: &Message<'a>,
    source: &Source,
) -> Result<[Option<Cow<'a, str>>; 3], Dropped> {
    let noun = match kind {
        MessageType::Track => {
            let event = name_text(message.event).ok_or(Dropped::NoEventName)?;
            return Ok([Some(event), None, None]);
        }
        MessageType::Page => "Page",
        MessageType::Screen => "Screen",
        MessageType::Identify | MessageType::Group | MessageType::Alias => {
            return Err(Dropped::NoEffect);
        }
    };
    let named = |value: Value<'a>| if value.truthy() { name_text(value) } else { None };
    let (name, category) = (named(message.name), named(message.category));
    let all = source.track_all_pages.then(|| Cow::Owned(format!("Loaded a {noun}")));
    let categorized = category.as_ref().filter(|_| source.track_categorized_pages);
    let categorized = categorized.map(|category| Cow::Owned(format!("Viewed {category} {noun}")));
    let named = name.as_ref().filter(|_| source.track_named_pages).map(|name| {
        Cow::Owned(match &category {
            Some(category) => format!("Viewed {category} {name} {noun}"),
            None => format!("Viewed {name} {noun}"),
        })
    });
    let found = [all, categorized, named];
    if found.iter().all(Option::is_none) { Err(Dropped::NoPageSetting) } else { Ok(found) }
}

/// A name as Segment reads it: a text that is not empty, or a number as JavaScript writes it where it is a whole one.
fn name_text(name: Value<'_>) -> Option<Cow<'_, str>> {
    /// Whole numbers below are written with all their digits.
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    match name {
        Value::Number(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(Cow::Borrowed(digits))
        }
        Value::Number(digits) => {
            let number: f64 = digits.parse().unwrap_or(f64::NAN);
            let whole = number.fract() == 0.0 && number.abs() < EXACT;
            #[allow(clippy::cast_possible_truncation, reason = "it is whole, and below 2^53")]
            Some(if whole {
                Cow::Owned((number as i64).to_string())
            } else {
                Cow::Borrowed(digits)
            })
        }
        other => other.text(),
    }
}

/// What all events of a message share.
struct Facts<'m> {
    message: &'m Message<'m>,
    properties: Members<'m>,
    source: &'m Source,
    ip: Value<'m>,
    /// The connection's address, or the message's without its port.
    bare_ip: Option<String>,
    user_agent: Value<'m>,
    header_user_agent: Option<Cow<'m, str>>,
    referer: Option<Cow<'m, str>>,
    at: i64,
    token: Cow<'m, str>,
    user: Option<&'m User>,
}

impl<'m> Facts<'m> {
    fn of(
        message: &'m Message<'m>,
        properties: Members<'m>,
        source: &'m Source,
        client: &'m Client<'m>,
        now: i64,
        token: impl FnOnce() -> String,
        user: Option<&'m User>,
    ) -> Self {
        let context = &message.context;
        // Asked only where it counts: most messages say all of their client, or are a server's.
        let visitor = || client.is_visitor(context);
        let original = timestamp::read(message.original_timestamp)
            .or_else(|| timestamp::read(message.timestamp));
        let id = match message.message_id {
            Value::String(id) if !id.raw.is_empty() => id.decode(),
            Value::Number(id) => Cow::Borrowed(id),
            _ => Cow::Owned(token()),
        };
        let token = match names::uniqueness_token(&id) {
            Cow::Borrowed(_) => id.clone(),
            Cow::Owned(hashed) => Cow::Owned(hashed),
        };
        let (ip, user_agent) =
            (without_placeholder(context.ip), without_placeholder(context.user_agent));
        let bare_ip = match ip {
            ip if ip.is_given() => ip.as_str().and_then(|text| without_port(&text)),
            _ if source.ip_addon && visitor() => client.address(),
            _ => None,
        };
        let fills_agent = source.ua_addon && !user_agent.is_given() && visitor();
        Self {
            message,
            properties,
            source,
            ip,
            bare_ip,
            user_agent,
            header_user_agent: if fills_agent { client.user_agent() } else { None },
            referer: if !context.page && !client.referer.is_empty() && visitor() {
                client.referer()
            } else {
                None
            },
            at: timestamp::corrected(original, timestamp::read(message.sent_at), now),
            token,
            user,
        }
    }

    /// Writes one event. `renamed`: the event's own name, where its collection bears another.
    fn write(&self, out: &mut Vec<u8>, notes: &mut Notes, renamed: Option<&str>) -> u32 {
        let message = self.message;
        let mut event = EventWriter::new(out, notes);
        let mut own_keen = Value::Absent;
        let mut url = Value::Absent;
        match message.properties {
            Value::Object(_) => {
                let (mut keen_name, mut url_name) = (First::default(), First::default());
                event.properties(self.properties, |key, value| {
                    if alike(key, "url") && url_name.takes(key) {
                        url = if matches!(value, Value::Array(_) | Value::Object(_)) {
                            Value::Absent
                        } else {
                            value
                        };
                    }
                    let keen = alike(key, "keen") && keen_name.takes(key);
                    if keen {
                        own_keen = value;
                    }
                    keen
                });
            }
            other if other.is_given() => event.field("segment_properties", other),
            _ => {}
        }
        if matches!(message.kind, Some(MessageType::Page | MessageType::Screen)) {
            for (field, value) in [("category", message.category), ("name", message.name)] {
                if value.truthy() {
                    event.field(field, value);
                }
            }
        }
        if let Some(original) = renamed {
            event.text("segment_event", original);
        }
        if own_keen.is_given() && !matches!(own_keen, Value::Object(_)) {
            event.field("segment_keen", own_keen);
        }
        match self.source.mode {
            Mode::Cloud => self.cloud_fields(&mut event, url),
            Mode::Device => self.device_fields(&mut event, url),
        }
        self.user(&mut event);
        let addons = addons::Addons::backed(self.source, &event);
        event.raw("keen", |out| self.keen(out, own_keen, &addons));
        event.finish()
    }

    /// Who the visitor is, and all that is known of the client, whatever the add-ons.
    fn cloud_fields(&self, event: &mut EventWriter<'_>, url: Value<'_>) {
        let message = self.message;
        let ids = [message.user_id, message.anonymous_id, message.session_id];
        if let Some(id) = ids.into_iter().find(Value::truthy) {
            event.field("userId", id);
        }
        self.page_url(event, [url, message.context.page_url]);
        overlay(event, "referrer_url", message.context.page_referrer);
        self.user_agent(event);
        self.ip_address(event);
        let traits = message.integrations.traits(&message.context);
        if traits.truthy() && !addons::is_empty(traits) {
            event.field("traits", traits);
        }
    }

    /// What the add-ons that are on read. The browser integration's `page_url` is the page's own, whatever a property says.
    fn device_fields(&self, event: &mut EventWriter<'_>, url: Value<'_>) {
        let (source, context) = (self.source, &self.message.context);
        if source.url_addon || source.referrer_addon {
            self.page_url(event, [context.page_url, url]);
        }
        if source.referrer_addon {
            overlay(event, "referrer_url", context.page_referrer);
        }
        if source.ua_addon {
            self.user_agent(event);
        }
        if source.ip_addon {
            self.ip_address(event);
        }
    }

    /// In a browser the properties of an event win over what identify said, and so `user` over the user.
    fn user(&self, event: &mut EventWriter<'_>) {
        let own = self.source.mode == Mode::Device && event.has("user");
        if let Some(user) = self.user.filter(|user| !own && !user.is_empty()) {
            event.raw("user", |out| user.write(out));
        }
    }

    fn page_url(&self, event: &mut EventWriter<'_>, given: [Value<'_>; 2]) {
        if let Some(url) = given.into_iter().find(Value::truthy) {
            event.field("page_url", url);
            return;
        }
        match &self.referer {
            // A caller's own property says more than the header, which browsers cut to the origin.
            Some(referer) if !event.filled("page_url") => event.text("page_url", referer),
            _ => overlay(event, "page_url", self.message.context.page_url),
        }
    }

    fn user_agent(&self, event: &mut EventWriter<'_>) {
        match &self.header_user_agent {
            Some(agent) => event.text("user_agent", agent),
            None => overlay(event, "user_agent", self.user_agent),
        }
    }

    fn ip_address(&self, event: &mut EventWriter<'_>) {
        match &self.bare_ip {
            Some(ip) => event.text("ip_address", ip),
            None => overlay(event, "ip_address", self.ip),
        }
    }

    fn keen(&self, out: &mut Vec<u8>, own: Value<'_>, addons: &addons::Addons) {
        out.extend_from_slice(b"{\"timestamp\":\"");
        timestamp::write(out, self.at);
        out.push(b'"');
        addons.write(out);
        out.extend_from_slice(b",\"uniqueness_token\":");
        write_string(out, &self.token);
        if let Value::Object(own) = own {
            addons::location(out, own);
        }
        out.push(b'}');
    }
}

/// The value, unless it is one of Keen's placeholders: Keen would fill in what it sees, which is Envoy.
fn without_placeholder(value: Value<'_>) -> Value<'_> {
    match value {
        Value::String(text) if is_placeholder(text) => Value::Absent,
        other => other,
    }
}

/// The bare address of an address with a port, or in brackets.
fn without_port(text: &str) -> Option<String> {
    // As nearly all are.
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    if text.parse::<std::net::IpAddr>().is_ok() { None } else { bare_address(text) }
}

/// Ours wins where we have a value. A `null` of the context is written only where no property bears the name.
fn overlay(event: &mut EventWriter<'_>, field: &str, value: Value<'_>) {
    if matches!(value, Value::Null) && event.has(field) {
        return;
    }
    event.field(field, value);
}

/// Whether a text is a JSON object or array without members.
fn without_members(text: &str) -> bool {
    let mut cursor = Cursor::new(text);
    (cursor.eat(b'{') && cursor.eat(b'}')) || (cursor.eat(b'[') && cursor.eat(b']'))
}
