//! `sources`: a Segment source and its Keen destination.

use super::reader::Section;
use super::schema as settings;
use crate::keen::names;
use std::fmt;

/// A Segment source and its Keen destination's settings, under Segment's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of Segment's")]
pub struct Source {
    /// The name in metrics and logs: `name`, else the first four characters of the write key.
    pub name: String,
    /// Index of the destination in [`super::Config::destinations`].
    pub destination_index: usize,
    /// A hash of the write key, which is the same in every configuration. It is part of the keys of
    /// stored users.
    pub key_hash: u64,
    /// `mode`
    pub mode: Mode,
    /// `rememberUsers`
    pub remember_users: bool,
    /// `audienceEvents`
    pub audience_events: bool,
    /// `initialPageview`
    pub initial_pageview: bool,
    /// `bundled`: the Keen keys for pages that send to Keen themselves.
    pub bundled: Option<BrowserKeys>,
    /// `ipAddon`
    pub ip_addon: bool,
    /// `uaAddon`
    pub ua_addon: bool,
    /// `urlAddon`
    pub url_addon: bool,
    /// `referrerAddon`
    pub referrer_addon: bool,
    /// `trackAllPages`
    pub track_all_pages: bool,
    /// `trackCategorizedPages`
    pub track_categorized_pages: bool,
    /// `trackNamedPages`
    pub track_named_pages: bool,
}

/// The Segment integration whose events a source produces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// The server-side integration.
    #[default]
    Cloud,
    /// The browser integration.
    Device,
}

/// A Keen project, its write key, and the cluster that reaches it. Sources share equal
/// destinations.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// 24 hexadecimal characters.
    pub project_id: String,
    /// The Keen write key. `None`: Envoy adds `Authorization` (credential injector).
    pub write_key: Option<String>,
    /// The Envoy cluster that reaches Keen.
    pub cluster: String,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("project_id", &self.project_id)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// Keen keys for pages.
#[derive(Clone, PartialEq, Eq)]
pub struct BrowserKeys {
    /// `projectId`
    pub project_id: String,
    /// `writeKey`
    pub write_key: String,
    /// `readKey`
    pub read_key: Option<String>,
}

impl fmt::Debug for BrowserKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrowserKeys").field("project_id", &self.project_id).finish_non_exhaustive()
    }
}

/// Number of characters of the write key that form the default name of a source.
const KEY_CHARS_IN_NAME: usize = 4;

/// Parses the source with the write key `key`. `cluster`: `keen.cluster`.
pub(super) fn parse(section: &Section<'_>, key: &str, cluster: &str) -> (Source, Destination) {
    section.deny_unknown();
    let device = section.is(&settings::MODE, "device");
    let destination = Destination {
        project_id: section.text(&settings::PROJECT_ID),
        write_key: section.optional_text(&settings::WRITE_KEY),
        cluster: section
            .optional_text(&settings::SOURCE_CLUSTER)
            .unwrap_or_else(|| cluster.to_owned()),
    };
    let source = Source {
        name: section.optional_text(&settings::NAME).unwrap_or_else(|| default_name(key)),
        destination_index: 0,
        key_hash: names::sha256_u64(key.as_bytes()),
        mode: if device { Mode::Device } else { Mode::Cloud },
        remember_users: section.optional_flag(&settings::REMEMBER_USERS).unwrap_or(device),
        audience_events: section.flag(&settings::AUDIENCE_EVENTS),
        initial_pageview: section.flag(&settings::INITIAL_PAGEVIEW),
        bundled: parse_bundled(section, device, &destination),
        ip_addon: section.flag(&settings::IP_ADDON),
        ua_addon: section.flag(&settings::UA_ADDON),
        url_addon: section.flag(&settings::URL_ADDON),
        referrer_addon: section.flag(&settings::REFERRER_ADDON),
        track_all_pages: section.flag(&settings::TRACK_ALL_PAGES),
        track_categorized_pages: section.flag(&settings::TRACK_CATEGORIZED_PAGES),
        track_named_pages: section.flag(&settings::TRACK_NAMED_PAGES),
    };
    (source, destination)
}

/// Returns the first four characters of a key, but never more than half of it.
fn default_name(key: &str) -> String {
    let shown = key.chars().count().checked_div(2).unwrap_or(0).clamp(1, KEY_CHARS_IN_NAME);
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '_' };
    key.chars().take(shown).map(printable).collect()
}

/// Parses the keys for pages, which require `bundled: true`.
fn parse_bundled(
    section: &Section<'_>,
    device: bool,
    destination: &Destination,
) -> Option<BrowserKeys> {
    let read_key = section.optional_text(&settings::READ_KEY);
    if !section.flag(&settings::BUNDLED) {
        return None;
    }
    if !device {
        let message = "needs \"mode\": \"device\", found \"cloud\"";
        section.refuse_setting(&settings::BUNDLED, message);
    }
    if !section.has(&settings::WRITE_KEY) {
        let message = "needs a writeKey, which pages are given, found none";
        section.refuse_setting(&settings::BUNDLED, message);
    }
    let (project_id, write_key) = (destination.project_id.clone(), destination.write_key.clone()?);
    Some(BrowserKeys { project_id, write_key, read_key })
}
