//! Generates the documentation of the settings from their table: the JSON Schema, the README's
//! table, and `docs/configuration.md`.

use super::schema::{Default, Kind, SENTENCES, SETTINGS, Setting};
use serde_json::{Map, Value, json};

/// A setting with its sentence.
type Documented = (&'static Setting, &'static str);

/// Returns every setting with its sentence, sections included, in the order of the documentation.
pub fn documented() -> impl Iterator<Item = Documented> {
    SETTINGS.iter().zip(SENTENCES.iter().map(|sentence| sentence.trim()))
}

/// Returns the JSON Schema (draft 2020-12) of a configuration.
///
/// ```
/// let schema = keen_edge::config::reference::json_schema();
/// assert_eq!(schema["properties"]["delivery"]["properties"]["retries"]["maximum"], 100);
/// ```
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), "keen-edge".into());
    schema.insert("description".into(), "The configuration of the filter.".into());
    schema.append(&mut section_schema(""));
    let mut schema = Value::from(schema);
    // The result must not depend on serde_json's feature `preserve_order`.
    schema.sort_all_objects();
    schema
}

fn section_schema(pointer: &str) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    for (setting, sentence) in documented() {
        if setting.section() != pointer {
            continue;
        }
        let mut property = kind_schema(setting);
        property.insert("description".into(), sentence.into());
        match setting.default {
            Default::Bool(flag) => property.insert("default".into(), flag.into()),
            Default::Integer(number) => property.insert("default".into(), number.into()),
            Default::Text(text) => property.insert("default".into(), text.into()),
            Default::ListOf(text) => property.insert("default".into(), json!([text])),
            Default::Required | Default::Described(_) => None,
        };
        if setting.name() == "*" {
            schema.insert("minProperties".into(), 1.into());
            schema.insert("propertyNames".into(), json!({"pattern": r"^[^\s:\p{Cc}]{1,512}$"}));
            schema.insert("additionalProperties".into(), property.into());
            return schema;
        }
        if setting.default == Default::Required {
            required.push(Value::from(setting.name()));
        }
        properties.insert(setting.name().into(), property.into());
    }
    schema.insert("additionalProperties".into(), false.into());
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    schema.insert("properties".into(), properties.into());
    if pointer == "/sources/*" {
        let bundled = json!({"properties": {"bundled": {"const": true}}, "required": ["bundled"]});
        schema.insert("if".into(), bundled);
        let device =
            json!({"properties": {"mode": {"const": "device"}}, "required": ["mode", "writeKey"]});
        schema.insert("then".into(), device);
    }
    schema
}

fn kind_schema(setting: &Setting) -> Map<String, Value> {
    let pattern = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let schema = match setting.kind {
        Kind::Section => section_schema(setting.pointer).into(),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::OneOf(words) => json!({"type": "string", "enum": words}),
        Kind::Name => pattern("^[!-~]{1,128}$"),
        Kind::Host => pattern(r"^[A-Za-z0-9._:\[\]-]{1,255}$"),
        Kind::HostAndPath => {
            pattern(r##"^[A-Za-z0-9._:\[\]-]{1,255}(/([!-"$-.0->@-~][!-"$->@-~]{0,1023})?)?$"##)
        }
        Kind::PathPrefix => pattern(r##"^(?=.{1,255}$)(/[!-"$-.0->@-~]+)+$"##),
        Kind::Url => pattern(r##"^https?://[A-Za-z0-9._:\[\]-]{1,255}/[!-"$->@-~]{1,1024}$"##),
        Kind::ProjectId => pattern("^[0-9A-Fa-f]{24}$"),
        Kind::KeenKey => pattern("^[0-9A-Za-z]{32,4096}$"),
        Kind::Origins => json!({
            "type": "array",
            "items": pattern(r"^(\*|null|[a-z0-9+.-]+://(\*\.)?[a-z0-9._:\[\]-]+)$"),
        }),
    };
    if let Value::Object(schema) = schema { schema } else { Map::new() }
}

/// Returns the README's table: the settings that most users change.
#[must_use]
pub fn readme_table() -> String {
    let mut table = "| setting | default | meaning |\n|---|---|---|\n".to_owned();
    for (setting, sentence) in documented().filter(|(setting, _)| setting.common) {
        let name = key_path(setting).replace("sources.<write key>.", "sources.*.");
        table.push_str(&format!("| `{name}` | {} | {sentence} |\n", default_text(setting)));
    }
    table
}

/// Returns the body of `docs/configuration.md`: every setting, section by section.
#[must_use]
pub fn reference_tables() -> String {
    let mut text = String::new();
    let root = documented().filter(|(setting, _)| is_in(setting, ""));
    push_section(&mut text, "Top level", "Settings that belong to no section.", root);
    for (section, sentence) in documented() {
        let mut members = documented().filter(|(s, _)| is_in(s, section.pointer)).peekable();
        if section.kind == Kind::Section && members.peek().is_some() {
            let required = match section.default {
                Default::Required => " Required.",
                _ => " Optional.",
            };
            let title = format!("`{}`", key_path(section));
            push_section(&mut text, &title, &format!("{sentence}{required}"), members);
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Whether a setting belongs to a section and is not a section itself.
fn is_in(setting: &Setting, section: &str) -> bool {
    setting.kind != Kind::Section && setting.section() == section
}

fn push_section(
    text: &mut String,
    title: &str,
    sentence: &str,
    settings: impl Iterator<Item = Documented>,
) {
    text.push_str(&format!("## {title}\n\n{sentence}\n\n"));
    text.push_str("| setting | value | default | meaning |\n|---|---|---|---|\n");
    for (setting, sentence) in settings {
        let (name, value, default) = (setting.name(), value_text(setting), default_text(setting));
        text.push_str(&format!("| `{name}` | {value} | {default} | {sentence} |\n"));
    }
    text.push('\n');
}

/// `delivery.holdMs`
fn key_path(setting: &Setting) -> String {
    setting.pointer.trim_start_matches('/').replace('/', ".").replace('*', "<write key>")
}

fn default_text(setting: &Setting) -> String {
    match setting.default {
        Default::Required => "required".to_owned(),
        Default::Bool(flag) => format!("`{flag}`"),
        Default::Integer(number) => format!("`{number}`"),
        Default::Text(text) => format!("`{text}`"),
        Default::ListOf(text) => format!("`[\"{text}\"]`"),
        Default::Described(words) => words.to_owned(),
    }
}

fn value_text(setting: &Setting) -> String {
    match setting.kind {
        Kind::Section => "section".to_owned(),
        Kind::Bool => "`true`, `false`".to_owned(),
        Kind::Integer { min, max } => format!("{} to {}", grouped(min), grouped(max)),
        Kind::OneOf(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Name => "up to 128 printable ASCII characters".to_owned(),
        Kind::Host => "host, or host and port".to_owned(),
        Kind::HostAndPath => "host and path".to_owned(),
        Kind::PathPrefix => "path that does not end with `/`".to_owned(),
        Kind::Url => "`http` or `https` URL".to_owned(),
        Kind::ProjectId => "24 hexadecimal characters".to_owned(),
        Kind::KeenKey => "32 to 4,096 letters and digits".to_owned(),
        Kind::Origins => "array of origins".to_owned(),
    }
}

/// `600,000`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let left = digits.len().saturating_sub(index);
        if index > 0 && left.is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
