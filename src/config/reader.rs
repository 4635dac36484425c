//! Reads a configuration according to the table of settings. A mistake is recorded, and reading
//! continues with the default.

use super::error::{ConfigError, push_name, quoted};
use super::origin::{OriginPattern, is_host_byte};
use super::schema::{Default, Kind, SETTINGS, Setting};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;

/// Maximum bytes of a name, of a host, and of a path or URL.
const MAX_NAME_BYTES: usize = 128;
const MAX_HOST_BYTES: usize = 255;
const MAX_URL_BYTES: usize = 1024;
/// Maximum bytes of a source's write key. A longer key in a request counts as absent.
const MAX_WRITE_KEY_BYTES: usize = 512;

/// A section of a configuration.
#[derive(Debug)]
pub(super) struct Section<'v> {
    /// Its JSON pointer, for errors.
    pointer: String,
    /// Its pointer in the table of settings.
    schema_pointer: &'static str,
    /// `None`: the section is absent or not an object.
    members: Option<&'v Map<String, Value>>,
    /// The errors of the whole configuration.
    errors: &'v RefCell<Vec<ConfigError>>,
}

impl<'v> Section<'v> {
    /// Returns the root section of a configuration.
    pub(super) fn root(value: &'v Value, errors: &'v RefCell<Vec<ConfigError>>) -> Self {
        Self::new(String::new(), "", Some(value), errors)
    }

    /// Returns a section without settings.
    pub(super) fn absent(section: &Setting, errors: &'v RefCell<Vec<ConfigError>>) -> Self {
        Self::new(section.pointer.to_owned(), section.pointer, None, errors)
    }

    fn new(
        pointer: String,
        schema_pointer: &'static str,
        value: Option<&'v Value>,
        errors: &'v RefCell<Vec<ConfigError>>,
    ) -> Self {
        let members = value.and_then(Value::as_object);
        let section = Self { pointer, schema_pointer, members, errors };
        if let Some(value) = value.filter(|value| !value.is_object()) {
            section.refuse(format!("must be an object, found {}", type_name(value)));
        }
        section
    }

    /// Records a mistake in the section as a whole.
    pub(super) fn refuse(&self, message: impl Into<String>) {
        self.errors.borrow_mut().push(ConfigError::new(&self.pointer, message));
    }

    /// Records a mistake in a setting.
    pub(super) fn refuse_setting(&self, setting: &Setting, message: impl Into<String>) {
        let error = ConfigError::new(&self.child_pointer(setting.name()), message);
        self.errors.borrow_mut().push(error);
    }

    /// Whether the section is present and has no members.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_some_and(Map::is_empty)
    }

    /// Whether a setting is present, valid or not.
    pub(super) fn has(&self, setting: &Setting) -> bool {
        self.members.is_some_and(|members| members.contains_key(setting.name()))
    }

    /// Records each member that is not in the table of settings, and suggests the closest name in
    /// the table.
    pub(super) fn deny_unknown(&self) {
        let known = || SETTINGS.iter().filter(|setting| setting.section() == self.schema_pointer);
        for name in self.members.iter().flat_map(|members| members.keys()) {
            if known().any(|setting| !setting.pointer.is_empty() && setting.name() == name) {
                continue;
            }
            let mut message = "unknown setting; ".to_owned();
            if let Some(closest) = closest(name, known()) {
                message.push_str(&format!("did you mean {}?", closest.name()));
            } else if let Some(elsewhere) = SETTINGS.iter().find(|other| other.name() == name) {
                let pointer = elsewhere.pointer.replace('*', "<write key>");
                message.push_str(&format!("did you mean {pointer}?"));
            } else {
                let names: Vec<&str> = known().map(Setting::name).collect();
                message.push_str(&format!("known settings: {}", names.join(", ")));
            }
            self.errors.borrow_mut().push(ConfigError::new(&self.child_pointer(name), message));
        }
    }

    /// Returns a subsection.
    pub(super) fn section(&self, section: &Setting) -> Self {
        let value = self.value(section);
        Self::new(self.child_pointer(section.name()), section.pointer, value, self.errors)
    }

    /// Returns a subsection if it is present.
    pub(super) fn optional_section(&self, section: &Setting) -> Option<Self> {
        self.has(section).then(|| self.section(section))
    }

    /// Returns the sections of sources, by write key.
    pub(super) fn sources(&self, source: &'static Setting) -> Vec<(&'v str, Self)> {
        let members = self.members.into_iter().flatten();
        members
            .map(|(key, value)| {
                let pointer = self.child_pointer(key);
                let section = Self::new(pointer, source.pointer, Some(value), self.errors);
                if let Some(rule) = write_key_rule(key) {
                    section.refuse(rule);
                }
                (key.as_str(), section)
            })
            .collect()
    }

    /// Returns the value of a [`Kind::Bool`].
    pub(super) fn flag(&self, setting: &Setting) -> bool {
        let default = setting.default == Default::Bool(true);
        self.optional_flag(setting).unwrap_or(default)
    }

    /// Returns the value of a [`Kind::Bool`] whose default is decided elsewhere.
    pub(super) fn optional_flag(&self, setting: &Setting) -> Option<bool> {
        let value = self.value(setting)?;
        let flag = value.as_bool();
        if flag.is_none() {
            let found = type_name(value);
            self.refuse_setting(setting, format!("must be true or false, found {found}"));
        }
        flag
    }

    /// Returns the value of a [`Kind::Integer`].
    pub(super) fn integer(&self, setting: &Setting) -> u64 {
        let default = if let Default::Integer(number) = setting.default { number } else { 0 };
        let (Some(value), Kind::Integer { min, max }) = (self.value(setting), setting.kind) else {
            return default;
        };
        let number = whole_number(value).filter(|number| (min..=max).contains(number));
        number.unwrap_or_else(|| {
            let found =
                if let Value::Number(n) = value { number_text(n) } else { type_name(value).into() };
            let rule = format!("must be a whole number from {min} to {max}, found {found}");
            self.refuse_setting(setting, rule);
            default
        })
    }

    /// Returns the value of a [`Kind::Integer`] that is a size in memory.
    pub(super) fn size(&self, setting: &Setting) -> usize {
        usize::try_from(self.integer(setting)).unwrap_or(usize::MAX)
    }

    /// Returns the value of a text setting, or its default. Empty if a required one is missing.
    pub(super) fn text(&self, setting: &Setting) -> String {
        let default = if let Default::Text(text) = setting.default { text } else { "" };
        self.optional_text(setting).unwrap_or_else(|| default.to_owned())
    }

    /// Whether a [`Kind::OneOf`] has this value.
    pub(super) fn is(&self, setting: &Setting, word: &str) -> bool {
        self.text(setting) == word
    }

    /// Returns the value of a text setting.
    pub(super) fn optional_text(&self, setting: &Setting) -> Option<String> {
        match self.value(setting)? {
            Value::String(text) => match text_rule(setting.kind, text) {
                None => Some(text.clone()),
                Some(rule) => {
                    self.refuse_setting(setting, rule);
                    None
                }
            },
            other => {
                let found = type_name(other);
                self.refuse_setting(setting, format!("must be a string, found {found}"));
                None
            }
        }
    }

    /// Returns the value of a [`Kind::Origins`].
    pub(super) fn origins(&self, setting: &Setting) -> Vec<OriginPattern> {
        let Some(value) = self.value(setting) else {
            let Default::ListOf(text) = setting.default else { return Vec::new() };
            return OriginPattern::parse(text).into_iter().collect();
        };
        let Value::Array(elements) = value else {
            let found = type_name(value);
            self.refuse_setting(setting, format!("must be an array, found {found}"));
            return Vec::new();
        };
        let mut patterns = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            let found = match element {
                Value::String(text) => match OriginPattern::parse(text) {
                    Some(pattern) => {
                        patterns.push(pattern);
                        continue;
                    }
                    None => quoted(text),
                },
                other => type_name(other).to_owned(),
            };
            let mut pointer = self.child_pointer(setting.name());
            push_name(&mut pointer, &index.to_string());
            let rule = "must be \"*\", or a scheme and a host in lower case such as https://www.example.com";
            let error = ConfigError::new(&pointer, format!("{rule}, found {found}"));
            self.errors.borrow_mut().push(error);
        }
        patterns
    }

    /// Returns the value of a setting, or `None` if it is absent. Records a mistake if it is
    /// required.
    fn value(&self, setting: &Setting) -> Option<&'v Value> {
        let members = self.members?;
        let value = members.get(setting.name());
        if value.is_none() && setting.default == Default::Required {
            self.refuse_setting(setting, "is required");
        }
        value
    }

    fn child_pointer(&self, name: &str) -> String {
        let mut pointer = self.pointer.clone();
        push_name(&mut pointer, name);
        pointer
    }
}

/// Returns the setting with the closest name, if at most a third of the letters differ.
fn closest<'s>(name: &str, known: impl Iterator<Item = &'s Setting>) -> Option<&'s Setting> {
    // All setting names are shorter than half this length.
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let distance = |known: &str| strsim::osa_distance(&lower, &known.to_ascii_lowercase());
    known
        .map(|setting| (distance(setting.name()), setting))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, setting)| distance.saturating_mul(3) <= setting.name().len())
        .map(|(_, setting)| setting)
}

/// Returns the rule that a source's write key violates.
fn write_key_rule(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        Some("a write key must not be empty")
    } else if key.contains(':') {
        Some("a write key must not contain a colon")
    } else if key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("a write key must not contain blanks or control characters")
    } else if key.len() > MAX_WRITE_KEY_BYTES {
        Some("a write key must be at most 512 bytes")
    } else {
        None
    }
}

/// Returns the rule that a text violates, and the value found. Never shows Keen keys.
fn text_rule(kind: Kind, text: &str) -> Option<String> {
    let count = text.chars().count();
    match kind {
        Kind::OneOf(words) if !words.contains(&text) => {
            let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            Some(format!("must be one of {}, found {}", words.join(", "), quoted(text)))
        }
        Kind::Name => {
            let rule = "must be 1 to 128 characters of printable ASCII without blanks";
            if text.is_empty() || text.len() > MAX_NAME_BYTES {
                Some(format!("{rule}, found {count} characters"))
            } else {
                (!text.bytes().all(|b| b.is_ascii_graphic()))
                    .then(|| format!("{rule}, found {}", quoted(text)))
            }
        }
        Kind::Host if !is_host(text) => {
            Some(format!("must be a host without scheme and path, found {}", quoted(text)))
        }
        Kind::HostAndPath if !is_host_and_path(text) => {
            let rule = "must be a host, with or without a path, without a scheme";
            Some(format!("{rule}, found {}", quoted(text)))
        }
        Kind::PathPrefix if !is_path_prefix(text) => {
            let rule = "must be a path such as /segment, which does not end with a slash";
            Some(format!("{rule}, found {}", quoted(text)))
        }
        Kind::Url if host_of_url(text).is_none() => {
            let rule = "must be a URL such as https://host/path, without a query";
            Some(format!("{rule}, found {}", quoted(text)))
        }
        Kind::ProjectId => {
            let rule = "must be 24 hexadecimal characters";
            if count != 24 {
                Some(format!("{rule}, found {count}"))
            } else {
                (!text.bytes().all(|b| b.is_ascii_hexdigit()))
                    .then(|| format!("{rule}, contains a non-hexadecimal character"))
            }
        }
        Kind::KeenKey => {
            let rule = "must be 32 or more letters and digits";
            if !(32..=4096).contains(&count) {
                Some(format!("{rule}, found {count}"))
            } else {
                (!text.bytes().all(|b| b.is_ascii_alphanumeric()))
                    .then(|| format!("{rule}, contains another character"))
            }
        }
        _ => None,
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_HOST_BYTES && text.bytes().all(is_host_byte)
}

fn is_host_and_path(text: &str) -> bool {
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    let is_path = !path.starts_with('/') && path.len() <= MAX_URL_BYTES;
    is_host(host) && is_path && path.bytes().all(is_path_byte)
}

fn is_path_byte(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'?' | b'#')
}

fn is_path_prefix(text: &str) -> bool {
    let Some(segments) = text.strip_prefix('/') else { return false };
    text.len() <= MAX_HOST_BYTES
        && segments
            .split('/')
            .all(|segment| !segment.is_empty() && segment.bytes().all(is_path_byte))
}

/// Returns the host of an `http` or `https` URL that has a path.
pub(super) fn host_of_url(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let (host, path) = rest.split_once('/')?;
    let is_path = !path.is_empty() && path.len() <= MAX_URL_BYTES && path.bytes().all(is_path_byte);
    (is_host(host) && is_path).then_some(host)
}

/// Formats a number for an error, with at most three decimals. The standard library's formatting of
/// doubles would add 20 KB to the module.
fn number_text(number: &Number) -> String {
    /// Thousandths of larger numbers are not exact.
    const MAX_EXACT: f64 = 1e12;
    if let Some(integer) = number.as_i64() {
        return integer.to_string();
    }
    let number = number.as_f64().unwrap_or(0.0);
    if number.abs() > MAX_EXACT {
        return if number < 0.0 { "a large negative number" } else { "a larger number" }.to_owned();
    }
    #[allow(clippy::cast_possible_truncation, reason = "far below the largest i64")]
    let thousandths = (number * 1000.0) as i64;
    let sign = if number < 0.0 { "-" } else { "" };
    let thousandths = thousandths.unsigned_abs();
    let text = format!("{sign}{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns a whole number. A whole double counts, because Structs only have doubles.
fn whole_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float's cast saturates"
        )]
        let number = number as u64;
        Some(number)
    })
}

/// Returns the name of a value's type, for an error.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_with_three_decimals_at_most() {
        for (number, want) in [
            ("1.5", "1.5"),
            ("-0.25", "-0.25"),
            ("7000.0", "7000"),
            ("0.12345", "0.123"),
            ("9223372036854775807", "9223372036854775807"),
            ("18446744073709551615", "a larger number"),
            ("1e300", "a larger number"),
            ("-1e300", "a large negative number"),
        ] {
            assert_eq!(number_text(&serde_json::from_str(number).unwrap()), want);
        }
    }
}
