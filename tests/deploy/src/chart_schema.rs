//! The JSON Schema of the chart's values. The filter's own settings come from `config.schema.json`.

use serde_json::{Value, json};

/// Settings of a source that the chart does not have: the chart makes the cluster, and keys are not
/// in the values.
const LEFT_OUT: [&str; 4] = ["writeKey", "readKey", "cluster", "bundled"];

/// The filter's settings that are in the value `filter`.
const FILTER: [&str; 9] = [
    "unknownSource",
    "intercept",
    "pathPrefix",
    "delivery",
    "overflow",
    "limits",
    "users",
    "cors",
    "settings",
];

/// Makes `values.schema.json` from `config.schema.json`.
///
/// # Panics
/// Panics if a setting is missing in `config.schema.json`.
#[must_use]
pub fn from_config_schema(config: &Value) -> Value {
    let settings = &config["properties"];
    let mut sources = settings["sources"].clone();
    let source = &mut sources["additionalProperties"];
    let fields = source.as_object_mut().expect("a source is an object");
    for condition in ["if", "then"] {
        // `bundled` requires a `writeKey`.
        let _ = fields.remove(condition);
    }
    let properties = source["properties"].as_object_mut().expect("a source has settings");
    for name in LEFT_OUT {
        assert!(properties.remove(name).is_some(), "config.schema.json has no {name}");
    }
    properties.insert(
        "secretKey".to_owned(),
        json!({
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]{1,120}$",
            "default": "keen_write_key",
            "description": "The entry of keen.existingSecret with this source's Keen write key."
        }),
    );
    let filter = FILTER.map(|name| (name.to_owned(), settings[name].clone()));
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart keen-edge",
        "description": "Generated: UPDATE_DEPLOY=1 cargo test -p deploy --test generated",
        "type": "object",
        "additionalProperties": false,
        "required": ["sources"],
        "properties": {
            // These values are Helm's own.
            "global": {"type": "object"},
            "image": object(json!({
                "repository": text("^[a-z0-9._:/-]{1,255}$"),
                "tag": text("^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$"),
                "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]}
            })),
            "imagePullSecrets": {"type": "array", "items": object(json!({"name": {"type": "string"}}))},
            "sources": sources,
            "keen": object(json!({
                "host": text("^[A-Za-z0-9.-]{1,255}$"),
                "port": integer(1, 65535),
                "tls": {"type": "boolean"},
                "timeoutMs": settings["keen"]["properties"]["timeoutMs"],
                "existingSecret": text("^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
            })),
            "filter": object(Value::Object(filter.into_iter().collect())),
            "listener": object(json!({
                "xffNumTrustedHops": integer(0, 100),
                "tlsSecret": text("^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$")
            })),
            "extraClusters": objects(),
            "extraRoutes": objects(),
            "env": objects(),
            "serviceAccountName": text("^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$"),
            "service": object(json!({
                "type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                "port": integer(1, 65535),
                "annotations": text_map()
            })),
            "replicas": integer(0, 10000),
            "concurrency": integer(1, 512),
            "resources": {"type": "object"},
            "autoscaling": object(json!({
                "enabled": {"type": "boolean"},
                "minReplicas": integer(1, 10000),
                "maxReplicas": integer(1, 10000),
                "targetCPUUtilizationPercentage": integer(1, 1000)
            })),
            "podDisruptionBudget": object(json!({
                "maxUnavailable": {"anyOf": [integer(0, 10000), text("^(100|[0-9]{1,2})%$")]}
            })),
            "drain": object(json!({
                "noticeSeconds": integer(0, 3600),
                "timeoutSeconds": integer(1, 3600)
            })),
            "podAnnotations": text_map(),
            "podLabels": text_map(),
            "nodeSelector": text_map(),
            "tolerations": objects(),
            "affinity": {"type": "object"}
        }
    });
    patterns_for_go(&mut schema);
    schema
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn text(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

fn integer(minimum: u32, maximum: u32) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": maximum})
}

fn objects() -> Value {
    json!({"type": "array", "items": {"type": "object"}})
}

fn text_map() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

/// Removes what Go's regular expressions, which Helm uses, do not support: look-ahead, and
/// repetition over 1,000. The filter checks these lengths itself.
fn patterns_for_go(schema: &mut Value) {
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        let pattern = without_large_bounds(&pattern.replacen("(?=.{1,255}$)", "", 1));
        assert!(!pattern.contains("(?="), "a look-ahead in {pattern}");
        schema["pattern"] = json!(pattern);
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(patterns_for_go),
        Value::Array(items) => items.iter_mut().for_each(patterns_for_go),
        _ => {}
    }
}

/// `{1,1024}` becomes `{1,}`.
fn without_large_bounds(pattern: &str) -> String {
    let mut parts = pattern.split('{');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (bounds, rest) = part.split_once('}').unwrap_or((part, ""));
        let (low, high) = bounds.split_once(',').unwrap_or((bounds, bounds));
        match high.parse::<u32>() {
            Ok(high) if high > 1000 => out.push_str(&format!("{{{low},}}{rest}")),
            _ => out.push_str(&format!("{{{part}")),
        }
    }
    out
}
