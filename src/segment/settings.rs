//! What an SDK asks for at start: `GET /v1/projects/{key}/settings`.

/// Its headers. A page asks at each load; what it gets changes with this filter's configuration only.
pub const HEADERS: [(&str, &str); 2] = [("content-type", "application/json"), ("cache-control", "public, max-age=300")];

/// The settings a browser or phone asks for at start, for the write key in the URL.
///
/// `Segment.io.apiKey` is the key SDKs then send with; a sample rate of 0 keeps their telemetry at home.
#[must_use]
pub fn json(key: &str, api_host: Option<&str>) -> Vec<u8> {
    let mut segment = serde_json::json!({
        "apiKey": key, "unbundledIntegrations": ["Keen IO"], "addBundledMetadata": true,
    });
    if let (Some(host), Some(segment)) = (api_host, segment.as_object_mut()) {
        segment.insert("apiHost".to_owned(), host.into());
    }
    let keen = serde_json::json!({
        "bundlingStatus": "unbundled", "type": "server", "versionSettings": {"componentTypes": ["server"]},
    });
    serde_json::json!({
        "integrations": {"Segment.io": segment, "Keen IO": keen},
        "metrics": {"sampleRate": 0}, "plan": {}, "analyticsNextEnabled": true,
    })
    .to_string()
    .into_bytes()
}
