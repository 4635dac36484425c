//! Keen's data-enrichment add-ons, each only where its setting is on and its inputs stand in the event.

use super::without_members;
use crate::config::Source;
use crate::json::{Cursor, Value};
use crate::keen::event_writer::{EventWriter, write_legal};
use std::net::IpAddr;

const IP: &str = r#"{"name":"keen:ip_to_geo","input":{"ip":"ip_address"},"output":"ip_geo_info"}"#;
const UA: &str =
    r#"{"name":"keen:ua_parser","input":{"ua_string":"user_agent"},"output":"parsed_user_agent"}"#;
const URL: &str =
    r#"{"name":"keen:url_parser","input":{"url":"page_url"},"output":"parsed_page_url"}"#;
const REFERRER: &str = r#"{"name":"keen:referrer_parser","input":{"referrer_url":"referrer_url","page_url":"page_url"},"output":"referrer_info"}"#;

/// The add-ons of an event, in Segment's order.
pub(super) struct Addons([Option<&'static str>; 4]);

impl Addons {
    /// Those whose inputs the event has, be they ours or properties of the caller's.
    pub(super) fn backed(source: &Source, event: &EventWriter<'_>) -> Self {
        let page = (source.url_addon || source.referrer_addon) && event.filled("page_url");
        Self([
            (source.ip_addon && is_address(event)).then_some(IP),
            (source.ua_addon && event.filled("user_agent")).then_some(UA),
            (source.url_addon && page).then_some(URL),
            (source.referrer_addon && page && event.filled("referrer_url")).then_some(REFERRER),
        ])
    }

    /// Writes `,"addons":[…]`, or nothing where there are none.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut before: &[u8] = b",\"addons\":[";
        for addon in self.0.into_iter().flatten() {
            out.extend_from_slice(before);
            out.extend_from_slice(addon.as_bytes());
            before = b",";
        }
        if before == b"," {
            out.push(b']');
        }
    }
}

/// The event's `ip_address` is one: Keen looks up nothing else.
fn is_address(event: &EventWriter<'_>) -> bool {
    event.string_of("ip_address").is_some_and(|text| text.parse::<IpAddr>().is_ok())
}

/// Whether a value is an object or array without members.
pub(super) fn is_empty(value: Value<'_>) -> bool {
    matches!(value, Value::Object(text) | Value::Array(text) if without_members(text))
}

/// Writes `,"location":{…}` where the caller's own `keen` object has one that Keen takes: `coordinates` as an array of
/// longitude and latitude. Nothing else of that object is a caller's to set.
pub(super) fn location(out: &mut Vec<u8>, own: &str) {
    let Value::Object(location) = exact(own, "location") else { return };
    let Value::Array(coordinates) = exact(location, "coordinates") else { return };
    let mut numbers = Vec::new();
    let read = Cursor::new(coordinates).array(|cursor| {
        numbers.push(match cursor.value()? {
            Value::Number(digits) => digits.parse::<f64>().unwrap_or(f64::INFINITY),
            _ => f64::INFINITY,
        });
        Ok(())
    });
    let on_earth =
        matches!(numbers.as_slice(), [lng, lat] if lng.abs() <= 180.0 && lat.abs() <= 90.0);
    if read.is_ok() && on_earth {
        out.extend_from_slice(b",\"location\":");
        let before = out.len();
        if write_legal(out, location).is_err() {
            out.truncate(before);
            out.extend_from_slice(b"{}");
        }
    }
}

fn exact<'a>(object: &'a str, name: &str) -> Value<'a> {
    let mut found = Value::Absent;
    let _ = Cursor::new(object).object(|key, cursor| {
        let value = cursor.value()?;
        if key.is(name) {
            found = value;
        }
        Ok(())
    });
    found
}
