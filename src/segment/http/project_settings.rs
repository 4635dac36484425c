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
use serde_json::{Value, json};

/// The response's headers. Browsers request the settings on each page load, and they change with
/// the filter's configuration only. With `initialPageview` each request counts, so that no cache may
/// answer it.
#[must_use]
pub fn response_headers(source: Option<&Source>) -> [(&'static str, &'static str); 2] {
    let is_counted = source.is_some_and(|source| source.initial_pageview);
    let cache = if is_counted { "no-store" } else { "public, max-age=300" };
    [("content-type", "application/json"), ("cache-control", cache)]
}

/// The response's body, for the write key in the path.
///
/// SDKs send with `Segment.io.apiKey` from then on, to `api_host` where it is set. A sample rate of 0
/// turns their telemetry off. Keen is *unbundled*: reached through this filter, and therefore not
/// among `integrations`. analytics-next fetches its integration loader from Segment's CDN as soon as
/// there is another integration than `Segment.io`, and sends nothing before it has it. With `bundled`
/// pages load Keen's integration themselves, and get its settings here.
#[must_use]
pub fn response_body(write_key: &str, source: Option<&Source>, api_host: Option<&str>) -> Vec<u8> {
    let bundled = source.and_then(|source| Some((source, source.bundled.as_ref()?)));
    let unbundled: &[&str] = if bundled.is_some() { &[] } else { &["Keen IO"] };
    let mut segment_io = json!({
        "apiKey": write_key,
        "unbundledIntegrations": unbundled,
        "addBundledMetadata": true,
    });
    if let (Some(host), Some(settings)) = (api_host, segment_io.as_object_mut()) {
        settings.insert("apiHost".to_owned(), host.into());
    }
    let mut body = json!({
        "integrations": {"Segment.io": segment_io},
        "metrics": {"sampleRate": 0},
        "plan": {},
        "analyticsNextEnabled": true,
    });
    if let Some((source, keys)) = bundled
        && let Some(integrations) = body.get_mut("integrations").and_then(Value::as_object_mut)
    {
        integrations.insert("Keen IO".to_owned(), bundled_keen(source, keys));
    }
    body.to_string().into_bytes()
}

/// The settings of Keen's browser integration.
fn bundled_keen(source: &Source, keys: &BrowserKeys) -> Value {
    json!({
        "projectId": keys.project_id,
        "writeKey": keys.write_key,
        "readKey": keys.read_key.as_deref().unwrap_or_default(),
        "ipAddon": source.ip_addon,
        "uaAddon": source.ua_addon,
        "urlAddon": source.url_addon,
        "referrerAddon": source.referrer_addon,
        "trackAllPages": source.track_all_pages,
        "trackNamedPages": source.track_named_pages,
        "trackCategorizedPages": source.track_categorized_pages,
        "bundlingStatus": "bundled",
        "type": "browser",
        "versionSettings": {"componentTypes": ["browser", "server"]},
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::config::Mode;

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
