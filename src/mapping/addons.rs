//! Keen's data enrichment add-ons. An event requests an add-on if its setting is on and the event
//! has its inputs.

use super::client::MAX_IP_BYTES;
use super::fields::EventFields;
use super::own_field::OwnField;
use super::properties::Properties;
use crate::config::Source;
use std::net::IpAddr;

const IP_TO_GEO: &str =
    r#"{"name":"keen:ip_to_geo","input":{"ip":"ip_address"},"output":"ip_geo_info"}"#;
const UA_PARSER: &str =
    r#"{"name":"keen:ua_parser","input":{"ua_string":"user_agent"},"output":"parsed_user_agent"}"#;
const URL_PARSER: &str =
    r#"{"name":"keen:url_parser","input":{"url":"page_url"},"output":"parsed_page_url"}"#;
const REFERRER_PARSER: &str = r#"{"name":"keen:referrer_parser","input":{"referrer_url":"referrer_url","page_url":"page_url"},"output":"referrer_info"}"#;

/// The add-ons of an event, in Segment's order.
pub(super) struct Addons([Option<&'static str>; 4]);

impl Addons {
    /// Returns the add-ons whose inputs the event has, as fields of ours or as properties.
    pub(super) fn available(
        source: &Source,
        fields: &EventFields<'_>,
        properties: &Properties<'_>,
    ) -> Self {
        let has = |field| fields.is_filled(field, properties);
        let has_page = (source.url_addon || source.referrer_addon) && has(OwnField::PageUrl);
        // Keen can only look up IP addresses.
        let ip = || fields.short_text(OwnField::IpAddress, properties, MAX_IP_BYTES);
        let has_ip = source.ip_addon && ip().is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
        Self([
            has_ip.then_some(IP_TO_GEO),
            (source.ua_addon && has(OwnField::UserAgent)).then_some(UA_PARSER),
            (source.url_addon && has_page).then_some(URL_PARSER),
            (source.referrer_addon && has_page && has(OwnField::ReferrerUrl))
                .then_some(REFERRER_PARSER),
        ])
    }

    /// Writes `,"addons":[…]`, or nothing if there are no add-ons.
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
