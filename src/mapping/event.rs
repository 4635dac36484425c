//! The events of one message: their collections and their fields.

use super::addons::Addons;
use super::client::{MAX_IP_BYTES, RequestClient, strip_port};
use super::fields::EventFields;
use super::identity::Ids;
use super::own_field::OwnField;
use super::properties::Properties;
use super::{BatchValues, SkipReason, is_empty_container};
use crate::config::{Mode, Source};
use crate::json::{Value, for_each_element, member, parse_f64, quoted};
use crate::keen::event_writer::EventWriter;
use crate::keen::names;
use crate::keen::sanitize::{Sanitized, is_placeholder, is_placeholder_text, sanitize};
use crate::segment::message::{Message, MessageType, is_blank};
use crate::timestamp;
use crate::users::User;
use std::borrow::Cow;

/// Inputs of a message's events, apart from the message itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventContext<'r> {
    pub(super) source: &'r Source,
    pub(super) client: &'r RequestClient<'r>,
    pub(super) batch: &'r BatchValues<'r>,
    pub(super) ids: &'r Ids<'r>,
    /// The user that the events contain, if known.
    pub(super) user: Option<&'r User>,
    /// The uniqueness token.
    pub(super) token: &'r str,
    /// When the request was received, in milliseconds since 1970.
    pub(super) received_ms: i64,
}

/// The events of one message, ready to be written.
#[derive(Debug)]
pub(super) struct MessageEvents<'m> {
    properties: Properties<'m>,
    fields: EventFields<'m>,
    /// `keen.timestamp`, in milliseconds since 1970.
    keen_timestamp: i64,
    /// `keen.location`
    location: Option<Cow<'m, str>>,
    source: &'m Source,
    token: &'m str,
}

/// Returns the names of the collections that a message goes to, such as `Viewed {category} Page`.
/// One page can go to several.
pub(super) fn collections<'a>(
    message_type: MessageType,
    message: &Message<'a>,
    source: &Source,
) -> Result<[Option<Cow<'a, str>>; 3], SkipReason> {
    let (noun, loaded) = match message_type {
        MessageType::Track => {
            let event = event_name_text(message.event).ok_or(SkipReason::NoEventName)?;
            return Ok([Some(event), None, None]);
        }
        MessageType::Page => ("Page", "Loaded a Page"),
        MessageType::Screen => ("Screen", "Loaded a Screen"),
        MessageType::Identify | MessageType::Group | MessageType::Alias => {
            return Err(SkipReason::NoEffect);
        }
    };
    let named = |value: Value<'a>| if value.truthy() { event_name_text(value) } else { None };
    let (name, category) = (named(message.name), named(message.category));
    let joined = |words: &[&str]| Cow::Owned(words.join(" "));
    let all = source.track_all_pages.then_some(Cow::Borrowed(loaded));
    let categorized = category.as_ref().filter(|_| source.track_categorized_pages);
    let categorized = categorized.map(|category| joined(&["Viewed", category, noun]));
    let named = name.as_ref().filter(|_| source.track_named_pages).map(|name| match &category {
        Some(category) => joined(&["Viewed", category, name, noun]),
        None => joined(&["Viewed", name, noun]),
    });
    let found = [all, categorized, named];
    if found.iter().all(Option::is_none) { Err(SkipReason::NoPageSetting) } else { Ok(found) }
}

/// Returns a name as Segment reads it: a non-empty string, or a number. A whole number is formatted
/// as JavaScript formats it.
fn event_name_text(name: Value<'_>) -> Option<Cow<'_, str>> {
    /// 2^53. Smaller whole numbers are formatted with all their digits.
    const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_992.0;
    match name {
        Value::Number(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(Cow::Borrowed(digits))
        }
        Value::Number(digits) => {
            let number = parse_f64(digits).unwrap_or(f64::NAN);
            let whole = number.fract() == 0.0 && number.abs() < MAX_SAFE_INTEGER;
            #[allow(clippy::cast_possible_truncation, reason = "it is whole, and below 2^53")]
            Some(if whole {
                Cow::Owned((number as i64).to_string())
            } else {
                Cow::Borrowed(digits)
            })
        }
        other => other.scalar_text(),
    }
}

/// Returns the uniqueness token of a message: its `messageId`, hashed if it is long. `None`: the id
/// is missing, blank, or a placeholder. `position`, if the request contained bytes that are not UTF-8,
/// returns a hash of the request and the message's index in it.
pub(super) fn uniqueness_token<'a>(
    message: &Message<'a>,
    position: Option<impl FnOnce() -> String>,
) -> Option<Cow<'a, str>> {
    let (id, raw, lossy) = match message.message_id {
        Value::String(text) => {
            let (id, lossy) = text.decode_noting_loss();
            (id, text.raw(), lossy)
        }
        // 0 is the default of a field that was never set.
        Value::Number(digits) if message.message_id.truthy() => {
            (Cow::Borrowed(digits), digits, false)
        }
        _ => return None,
    };
    if is_blank(&id) || is_placeholder_text(&id) {
        return None;
    }
    // Two ids that differ only in replaced characters must not have the same token.
    if lossy {
        return Some(Cow::Owned(names::sha256_hex(raw.as_bytes(), names::MAX_TOKEN)));
    }
    if let Some(position) = position
        && id.contains('\u{fffd}')
    {
        let unique = format!("{} {id}", position());
        return Some(Cow::Owned(names::sha256_hex(unique.as_bytes(), names::MAX_TOKEN)));
    }
    Some(match names::uniqueness_token(&id) {
        Cow::Owned(hash) => Cow::Owned(hash),
        Cow::Borrowed(_) => id,
    })
}

impl<'m> MessageEvents<'m> {
    /// Computes what all events of a message have in common. `names` is a scratch buffer.
    pub(super) fn new<'b: 'm>(
        message: &'m Message<'b>,
        context: EventContext<'m>,
        names: &mut Vec<&'b [u8]>,
    ) -> Self {
        let EventContext { source, batch, received_ms, token, .. } = context;
        let mut fields = EventFields::default();
        let mut properties = match message.properties {
            Value::Object(object) => Properties::parse(object, names),
            other => {
                if other.is_present() {
                    fields.set(OwnField::SegmentProperties, sanitize(other, 1));
                }
                Properties::default()
            }
        };
        fields.sanitized = fields.sanitized.saturating_add(properties.sanitized);
        if matches!(message.message_type, Some(MessageType::Page | MessageType::Screen)) {
            for (field, value) in
                [(OwnField::Category, message.category), (OwnField::Name, message.name)]
            {
                if value.truthy() {
                    fields.set(field, sanitize(value, 1));
                }
            }
        }
        let location = match properties.keen {
            Value::Object(keen) => location(keen),
            keen => {
                if keen.is_present() {
                    fields.set(OwnField::SegmentKeen, sanitize(keen, 1));
                }
                None
            }
        };
        let mut builder = FieldsBuilder { message, context, fields, properties: &properties };
        match source.mode {
            Mode::Cloud => builder.set_cloud_fields(),
            Mode::Device => builder.set_device_fields(),
        }
        builder.set_user();
        let fields = builder.fields;
        let original = timestamp::parse(message.original_timestamp)
            .or_else(|| timestamp::parse(message.timestamp));
        let sent_at = timestamp::parse_sent_at(message.sent_at).or(batch.sent_at);
        properties.url = Value::Absent;
        Self {
            properties,
            fields,
            keen_timestamp: timestamp::correct_clock_skew(original, sent_at, received_ms),
            location,
            source,
            token,
        }
    }

    /// Number of names and values that were changed for these events.
    pub(super) fn sanitized(&self) -> u32 {
        self.fields.sanitized
    }

    /// Sets `segment_event`, since the collection's name differs from the event's. It stays set: the
    /// name of a page's next collection contains what could not stay in this one.
    pub(super) fn set_original_name(&mut self, original: &str) {
        self.fields.set_text(OwnField::SegmentEvent, original);
    }

    /// Writes one event.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        let addons = Addons::available(self.source, &self.fields, &self.properties);
        let mut event = EventWriter::new(out);
        let overridden = self.fields.iter().map(|(field, _)| field);
        event.members(self.properties.members(overridden.chain([OwnField::Keen])));
        for (field, json) in self.fields.iter() {
            event.field(field.key(), json);
        }
        event.raw(OwnField::Keen.key(), |out| {
            out.extend_from_slice(b"{\"timestamp\":\"");
            timestamp::format(out, self.keen_timestamp);
            out.push(b'"');
            addons.write(out);
            out.extend_from_slice(b",\"uniqueness_token\":");
            crate::json::write_string(out, self.token);
            if let Some(location) = &self.location {
                out.extend_from_slice(b",\"location\":");
                out.extend_from_slice(location.as_bytes());
            }
            out.push(b'}');
        });
        event.finish();
    }
}

/// Sets the mapping's own fields one by one.
struct FieldsBuilder<'b, 'm> {
    message: &'m Message<'m>,
    context: EventContext<'m>,
    fields: EventFields<'m>,
    properties: &'b Properties<'m>,
}

impl<'m> FieldsBuilder<'_, 'm> {
    /// Sets the user and everything known about the client, regardless of the add-ons.
    fn set_cloud_fields(&mut self) {
        let context = &self.message.context;
        if let Some(id) = self.context.ids.of_event() {
            self.fields.set(OwnField::UserId, id.json.clone());
        }
        self.set_page_url([self.properties.url, context.page_url]);
        self.overlay(OwnField::ReferrerUrl, context.page_referrer);
        self.set_user_agent();
        self.set_ip_address();
        let traits = self.message.integrations.traits(context);
        if traits.truthy() {
            let traits = self.context.batch.get(traits);
            if !is_empty_container(&traits.json) {
                self.fields.set(OwnField::Traits, traits);
            }
        }
    }

    /// Sets the inputs of the enabled add-ons. As in the browser integration, `page_url` is the
    /// page's URL even if a property has that name.
    fn set_device_fields(&mut self) {
        let (source, context) = (self.context.source, &self.message.context);
        if source.url_addon || source.referrer_addon {
            self.set_page_url([context.page_url, self.properties.url]);
        }
        if source.referrer_addon {
            self.overlay(OwnField::ReferrerUrl, context.page_referrer);
        }
        if source.ua_addon {
            self.set_user_agent();
        }
        if source.ip_addon {
            self.set_ip_address();
        }
    }

    /// Sets `user`. In `mode: device` a property of that name overrides the stored user, because
    /// the browser integration prefers properties to identified traits.
    fn set_user(&mut self) {
        let own = self.context.source.mode == Mode::Device && self.properties.has(OwnField::User);
        if let Some(user) = self.context.user.filter(|user| !own && !user.is_empty()) {
            self.fields.set_json(OwnField::User, user.to_json());
        }
    }

    fn set_page_url(&mut self, candidates: [Value<'m>; 2]) {
        if let Some(url) = candidates.into_iter().find(Value::truthy) {
            let url = self.context.batch.get(url);
            self.fields.set(OwnField::PageUrl, url);
            return;
        }
        let context = &self.message.context;
        // A property of the client is more specific than the header, which browsers cut to the
        // origin.
        let wanted =
            !context.has_page && !self.fields.is_filled(OwnField::PageUrl, self.properties);
        match self.of_request(wanted, RequestClient::referer_json) {
            Some(referer) => self.fields.set_json(OwnField::PageUrl, referer),
            None => self.overlay(OwnField::PageUrl, context.page_url),
        }
    }

    fn set_user_agent(&mut self) {
        let agent = without_placeholder(self.message.context.user_agent);
        let wanted = self.context.source.ua_addon && !agent.is_present();
        match self.of_request(wanted, RequestClient::user_agent_json) {
            Some(agent) => self.fields.set_json(OwnField::UserAgent, agent),
            None => self.overlay(OwnField::UserAgent, agent),
        }
    }

    fn set_ip_address(&mut self) {
        let ip = without_placeholder(self.message.context.ip);
        let ip = match ip {
            Value::String(text) if text.raw().len() > MAX_IP_BYTES => Value::Absent,
            other => other,
        };
        if ip.is_present() {
            return match ip.short_str(MAX_IP_BYTES).and_then(|ip| port_stripped(&ip)) {
                Some(ip) => self.fields.set_json(OwnField::IpAddress, quoted(&ip)),
                None => self.overlay(OwnField::IpAddress, ip),
            };
        }
        match self.of_request(self.context.source.ip_addon, RequestClient::address_json) {
            Some(address) => self.fields.set_json(OwnField::IpAddress, address),
            None => self.overlay(OwnField::IpAddress, ip),
        }
    }

    /// Returns a detail of the request's client if it is wanted and the client is the end user's
    /// device.
    fn of_request(
        &self,
        wanted: bool,
        detail: fn(&'m RequestClient<'m>) -> Option<&'m str>,
    ) -> Option<&'m str> {
        let client = self.context.client;
        let detail = if wanted { detail(client) } else { None }?;
        client.is_end_user_request(&self.message.context).then_some(detail)
    }

    /// Sets a field unless `value` is absent. A `null` is written only if no property has the
    /// field's name.
    fn overlay(&mut self, field: OwnField, value: Value<'m>) {
        let value = (value != Value::Absent).then(|| self.context.batch.get(value));
        self.fields.overlay(field, value, self.properties);
    }
}

/// Returns the value, or [`Value::Absent`] if it is one of Keen's placeholders. Keen would replace
/// it with the values of its own client, which is Envoy.
pub(super) fn without_placeholder(value: Value<'_>) -> Value<'_> {
    match value {
        Value::String(text) if is_placeholder(text) => Value::Absent,
        other => other,
    }
}

/// Returns the address without its port or brackets. `None`: it has neither.
fn port_stripped(text: &str) -> Option<String> {
    // Fast path: nearly all addresses are plain IPv4.
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    if text.parse::<std::net::IpAddr>().is_ok() { None } else { strip_port(text) }
}

/// Maximum length of a `location`, in bytes. Two coordinates take some fifty.
const MAX_LOCATION_BYTES: usize = 4_096;

/// Returns the `location` of the `keen` object in the properties, if Keen accepts it: `coordinates`
/// is an array of longitude and latitude. Clients cannot set any other member of `keen`.
fn location(keen: &str) -> Option<Cow<'_, str>> {
    let Value::Object(location) = member(keen, "location") else { return None };
    if location.len() > MAX_LOCATION_BYTES {
        return None;
    }
    let Value::Array(coordinates) = member(location, "coordinates") else { return None };
    let mut numbers = [f64::INFINITY; 2];
    let mut count = 0_usize;
    for_each_element(coordinates, &mut |value| {
        if let (Value::Number(digits), Some(slot)) = (value, numbers.get_mut(count)) {
            *slot = parse_f64(digits).unwrap_or(f64::INFINITY);
        }
        count = count.saturating_add(1);
    });
    let [longitude, latitude] = numbers;
    let on_earth = count == 2 && longitude.abs() <= 180.0 && latitude.abs() <= 90.0;
    on_earth.then(|| {
        let Sanitized { json, .. } = sanitize(Value::Object(location), 2);
        json
    })
}
