//! What an SDK asks for at start: `GET /v1/projects/{key}/settings`.

use crate::config::Source;
use crate::tree::{Members, Tree};

/// Its headers. A page asks at each load; what it gets changes with this filter's configuration only. Where each load
/// counts (`initialPageview`) no cache may answer for us.
#[must_use]
pub fn headers(source: Option<&Source>) -> [(&'static str, &'static str); 2] {
    let every_load = source.is_some_and(|source| source.initial_pageview);
    let cache = if every_load { "no-store" } else { "public, max-age=300" };
    [("content-type", "application/json"), ("cache-control", cache)]
}

/// The settings a browser or phone asks for at start, for the write key in the URL.
///
/// `Segment.io.apiKey` is the key SDKs then send with; a sample rate of 0 keeps their telemetry at home. Keen is
/// *unbundled*: reached by way of here. It is not among `integrations` then: analytics-next fetches its loader of
/// integrations from Segment's CDN as soon as there is one beside `Segment.io`, and sends nothing before it has it. Where
/// the source says `bundled`, pages load Keen's integration themselves, and get all that it asks for.
#[must_use]
pub fn json(key: &str, source: Option<&Source>, api_host: Option<&str>) -> Vec<u8> {
    let bundled = source.and_then(|source| Some((source, source.bundled.as_ref()?)));
    let list = |texts: &[&str]| Tree::List(texts.iter().map(|text| Tree::from(*text)).collect());
    let mut segment = Members::from([
        ("apiKey".to_owned(), key.into()),
        (
            "unbundledIntegrations".to_owned(),
            list(if bundled.is_some() { &[] } else { &["Keen IO"] }),
        ),
        ("addBundledMetadata".to_owned(), true.into()),
    ]);
    segment.extend(api_host.map(|host| ("apiHost".to_owned(), host.into())));
    let mut integrations = Members::from([("Segment.io".to_owned(), Tree::Object(segment))]);
    if let Some((source, keys)) = bundled {
        let keen = Tree::object([
            ("projectId", keys.project_id.as_str().into()),
            ("writeKey", keys.write_key.as_str().into()),
            ("readKey", keys.read_key.as_deref().unwrap_or("").into()),
            ("ipAddon", source.ip_addon.into()),
            ("uaAddon", source.ua_addon.into()),
            ("urlAddon", source.url_addon.into()),
            ("referrerAddon", source.referrer_addon.into()),
            ("trackAllPages", source.track_all_pages.into()),
            ("trackNamedPages", source.track_named_pages.into()),
            ("trackCategorizedPages", source.track_categorized_pages.into()),
            ("bundlingStatus", "bundled".into()),
            ("type", "browser".into()),
            ("versionSettings", Tree::object([("componentTypes", list(&["browser", "server"]))])),
        ]);
        integrations.insert("Keen IO".to_owned(), keen);
    }
    let settings = Tree::object([
        ("integrations", Tree::Object(integrations)),
        ("metrics", Tree::object([("sampleRate", Tree::Number(0.0, "0".to_owned()))])),
        ("plan", Tree::object([])),
        ("analyticsNextEnabled", true.into()),
    ]);
    let mut out = Vec::new();
    settings.write(&mut out);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::config::{BrowserKeys, Mode};
    use serde_json::{Value, json};

    fn keen_io(source: Option<&Source>) -> Value {
        let settings: Value = serde_json::from_slice(&json("k", source, None)).unwrap();
        assert_eq!(settings["integrations"]["Segment.io"]["apiKey"], "k");
        settings["integrations"]["Keen IO"].clone()
    }

    #[test]
    fn keys_go_to_pages_only_where_they_are_bundled() {
        let keys = BrowserKeys {
            project_id: "p".to_owned(),
            write_key: "WRITE".to_owned(),
            read_key: Some("READ".to_owned()),
        };
        let bundled =
            Source { mode: Mode::Device, ip_addon: true, bundled: Some(keys), ..Source::default() };
        let keen = keen_io(Some(&bundled));
        assert_eq!(
            (&keen["writeKey"], &keen["readKey"], &keen["ipAddon"]),
            (&json!("WRITE"), &json!("READ"), &json!(true))
        );
        assert!(
            !format!("{bundled:?}").contains("WRITE") && !format!("{bundled:?}").contains("READ")
        );
        let served = Source { bundled: None, ..bundled };
        for source in [None, Some(&served)] {
            assert_eq!(keen_io(source), Value::Null);
        }
    }

    #[test]
    fn each_load_is_asked_for_where_it_counts() {
        let counted = Source { initial_pageview: true, ..Source::default() };
        assert_eq!(headers(Some(&counted))[1].1, "no-store");
        assert_eq!(headers(None)[1].1, "public, max-age=300");
    }
}
