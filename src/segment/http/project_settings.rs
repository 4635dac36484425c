//! The settings that an SDK requests when it starts: `GET /v1/projects/{key}/settings`.
//!
//! ```
//! use keen_edge::segment::http::project_settings;
//!
//! let body = project_settings::response_body("k", None, Some("edge.example/v1"));
//! let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
//! assert_eq!(body["integrations"]["Segment.io"]["apiKey"], "k");
//! assert_eq!(body["integrations"]["Segment.io"]["apiHost"], "edge.example/v1");
//! ```

use crate::config::{BrowserKeys, Source};
use serde::Serialize;

/// Returns the response's headers. Browsers request the settings on each page load, and they only
/// change with the filter's configuration. With `initialPageview` each request counts, so no cache
/// may answer it.
#[must_use]
pub fn response_headers(source: Option<&Source>) -> [(&'static str, &'static str); 2] {
    let is_counted = source.is_some_and(|source| source.initial_pageview);
    let cache = if is_counted { "no-store" } else { "public, max-age=300" };
    [("content-type", "application/json"), ("cache-control", cache)]
}

/// Returns the response's body for the write key in the path.
///
/// SDKs then use `Segment.io.apiKey` as their write key, and send to `api_host` if it is set. A
/// sample rate of 0 turns their telemetry off. Keen is *unbundled*: reached through this filter,
/// and therefore not among `integrations`. If there is any integration other than `Segment.io`,
/// analytics-next fetches its integration loader from Segment's CDN, and sends nothing until it is
/// loaded. With `bundled` pages load Keen's integration themselves, and get its settings here.
#[must_use]
pub fn response_body(write_key: &str, source: Option<&Source>, api_host: Option<&str>) -> Vec<u8> {
    let bundled = source.and_then(|source| Some((source, source.bundled.as_ref()?)));
    let settings = ProjectSettings {
        integrations: Integrations {
            segment_io: SegmentIo {
                api_key: write_key,
                unbundled_integrations: if bundled.is_some() { &[] } else { &["Keen IO"] },
                add_bundled_metadata: true,
                api_host,
            },
            keen_io: bundled.map(|(source, keys)| KeenIo::new(source, keys)),
        },
        metrics: Metrics { sample_rate: 0 },
        plan: Plan {},
        analytics_next_enabled: true,
    };
    serde_json::to_vec(&settings).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProjectSettings<'a> {
    integrations: Integrations<'a>,
    metrics: Metrics,
    plan: Plan,
    analytics_next_enabled: bool,
}

#[derive(Serialize)]
struct Integrations<'a> {
    #[serde(rename = "Segment.io")]
    segment_io: SegmentIo<'a>,
    #[serde(rename = "Keen IO", skip_serializing_if = "Option::is_none")]
    keen_io: Option<KeenIo<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SegmentIo<'a> {
    api_key: &'a str,
    unbundled_integrations: &'a [&'a str],
    add_bundled_metadata: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_host: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metrics {
    sample_rate: u8,
}

#[derive(Serialize)]
struct Plan {}

/// The settings of Keen's browser integration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "Segment's own settings")]
struct KeenIo<'a> {
    project_id: &'a str,
    write_key: &'a str,
    read_key: &'a str,
    ip_addon: bool,
    ua_addon: bool,
    url_addon: bool,
    referrer_addon: bool,
    track_all_pages: bool,
    track_named_pages: bool,
    track_categorized_pages: bool,
    bundling_status: &'a str,
    r#type: &'a str,
    version_settings: VersionSettings<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionSettings<'a> {
    component_types: &'a [&'a str],
}

impl<'a> KeenIo<'a> {
    fn new(source: &Source, keys: &'a BrowserKeys) -> Self {
        Self {
            project_id: &keys.project_id,
            write_key: &keys.write_key,
            read_key: keys.read_key.as_deref().unwrap_or_default(),
            ip_addon: source.ip_addon,
            ua_addon: source.ua_addon,
            url_addon: source.url_addon,
            referrer_addon: source.referrer_addon,
            track_all_pages: source.track_all_pages,
            track_named_pages: source.track_named_pages,
            track_categorized_pages: source.track_categorized_pages,
            bundling_status: "bundled",
            r#type: "browser",
            version_settings: VersionSettings { component_types: &["browser", "server"] },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use serde_json::{Value, json};

    fn body(source: Option<&Source>) -> Value {
        serde_json::from_slice(&response_body("k", source, None)).unwrap()
    }

    fn bundled_source() -> Source {
        let keys = BrowserKeys {
            project_id: "p".to_owned(),
            write_key: "WRITE".to_owned(),
            read_key: Some("READ".to_owned()),
        };
        Source { mode: Mode::Device, ip_addon: true, bundled: Some(keys), ..Source::default() }
    }

    #[test]
    fn response_body_bundled_has_keen_keys() {
        let bundled = bundled_source();
        let body = body(Some(&bundled));
        let keen = &body["integrations"]["Keen IO"];
        assert_eq!(
            (&keen["writeKey"], &keen["readKey"], &keen["ipAddon"]),
            (&json!("WRITE"), &json!("READ"), &json!(true))
        );
        assert_eq!(body["integrations"]["Segment.io"]["unbundledIntegrations"], json!([]));
        let debug = format!("{bundled:?}");
        assert!(!debug.contains("WRITE") && !debug.contains("READ"));
    }

    #[test]
    fn response_body_unbundled_has_segment_only() {
        let unbundled = Source { bundled: None, ..bundled_source() };
        for source in [None, Some(&unbundled)] {
            let want = json!({
                "integrations": {"Segment.io": {
                    "apiKey": "k", "unbundledIntegrations": ["Keen IO"], "addBundledMetadata": true,
                }},
                "metrics": {"sampleRate": 0}, "plan": {}, "analyticsNextEnabled": true,
            });
            assert_eq!(body(source), want);
        }
    }

    #[test]
    fn response_headers_with_initial_pageview_forbid_caches() {
        let counted = Source { initial_pageview: true, ..Source::default() };
        assert_eq!(response_headers(Some(&counted))[1].1, "no-store");
        assert_eq!(response_headers(None)[1].1, "public, max-age=300");
    }
}
