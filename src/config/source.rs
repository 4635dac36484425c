//! `sources`: a Segment source and its Keen destination.

use super::ConfigError;
use super::reader::{self, Node};
use crate::keen::names;
use std::fmt;

/// A Segment source and its Keen destination's settings, under Segment's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of Segment's")]
pub struct Source {
    /// What metrics and logs call it.
    pub name: String,
    /// Its place in [`Config::destinations`].
    pub destination: usize,
    /// Tells it from other sources, over configurations: a hash of its write key.
    pub scope: u64,
    /// `mode`
    pub mode: Mode,
    /// `rememberUsers`
    pub remember_users: bool,
    /// `audienceEvents`
    pub audience_events: bool,
    /// `initialPageview`
    pub initial_pageview: bool,
    /// `bundled`: pages get these Keen keys, and send to Keen themselves.
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

/// Which of Segment's Keen integrations a source's events are written as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Its server-side integration.
    #[default]
    Cloud,
    /// Its browser integration.
    Device,
}

/// A Keen project as one source writes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// 24 hexadecimal characters.
    pub project_id: String,
    /// The Keen write key. Absent: Envoy adds `Authorization` (credential injector).
    pub write_key: Option<String>,
    /// The Envoy cluster that reaches Keen.
    pub cluster: String,
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

/// Reads the source with the write key `key`. `cluster`: where the configuration names no other.
pub(super) fn read(
    node: &Node<'_>,
    key: &str,
    cluster: &str,
) -> Result<(Source, Destination), ConfigError> {
    node.only(&[
        "projectId",
        "writeKey",
        "readKey",
        "mode",
        "ipAddon",
        "uaAddon",
        "urlAddon",
        "referrerAddon",
        "trackAllPages",
        "trackCategorizedPages",
        "trackNamedPages",
        "initialPageview",
        "rememberUsers",
        "cluster",
        "name",
        "audienceEvents",
        "bundled",
    ])?;
    if key.is_empty() {
        return Err(node.wrong("a write key must not be empty", "an empty one"));
    }
    let project = node.required("projectId")?;
    let project_id = project.string()?;
    if project_id.len() != 24 || !project_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        let found = match project_id.chars().count() {
            24 => "another character among them".to_owned(),
            count => count.to_string(),
        };
        return Err(project.wrong("must be 24 hexadecimal characters", &found));
    }
    let mode = node.opt("mode", |n| n.one_of(&["cloud", "device"], &[]))?;
    let mode = if mode == Some("device") { Mode::Device } else { Mode::Cloud };
    let flag = |name, default| Ok(node.opt(name, |n| n.boolean())?.unwrap_or(default));
    let source = Source {
        name: node.opt("name", |n| n.name())?.unwrap_or_else(|| reader::shortened(key)),
        destination: 0,
        scope: names::sha256_u64(key.as_bytes()),
        mode,
        remember_users: flag("rememberUsers", mode == Mode::Device)?,
        audience_events: flag("audienceEvents", false)?,
        initial_pageview: flag("initialPageview", false)?,
        bundled: read_bundled(node, mode, project_id)?,
        ip_addon: flag("ipAddon", false)?,
        ua_addon: flag("uaAddon", false)?,
        url_addon: flag("urlAddon", false)?,
        referrer_addon: flag("referrerAddon", false)?,
        track_all_pages: flag("trackAllPages", false)?,
        track_categorized_pages: flag("trackCategorizedPages", true)?,
        track_named_pages: flag("trackNamedPages", true)?,
    };
    let destination = Destination {
        project_id: project_id.to_owned(),
        write_key: node.opt("writeKey", |n| n.keen_key())?,
        cluster: node.opt("cluster", |n| n.name())?.unwrap_or_else(|| cluster.to_owned()),
    };
    Ok((source, destination))
}

/// Pages get Keen keys where that is asked for in so many words, and nowhere else.
fn read_bundled(
    node: &Node<'_>,
    mode: Mode,
    project_id: &str,
) -> Result<Option<BrowserKeys>, ConfigError> {
    let read_key = node.opt("readKey", |n| n.keen_key())?;
    let write_key = node.opt("writeKey", |n| n.keen_key())?;
    let keys = node.opt("bundled", |n| match (n.boolean()?, mode, &write_key) {
        (false, _, _) => Ok(None),
        (true, Mode::Cloud, _) => Err(n.wrong("needs \"mode\": \"device\"", "cloud")),
        (true, Mode::Device, None) => {
            Err(n.wrong("needs a writeKey, which pages are given", "none"))
        }
        (true, Mode::Device, Some(write_key)) => Ok(Some(BrowserKeys {
            project_id: project_id.to_owned(),
            write_key: write_key.clone(),
            read_key: read_key.clone(),
        })),
    })?;
    Ok(keys.flatten())
}
