//! Configuration errors, in a form that is safe for Envoy's log.

use std::fmt;

/// One mistake in a configuration, with its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pointer: String,
    message: String,
}

impl ConfigError {
    pub(super) fn new(pointer: &str, message: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), message: message.into() }
    }

    /// Returns the JSON pointer of the setting. Write keys are shortened, and control characters
    /// are replaced.
    #[must_use]
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Returns the rule and the value found.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.message)
    }
}

/// All mistakes in a configuration. Displays one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    /// Returns the mistakes. There is at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Maximum characters of a name in a pointer.
const MAX_NAME_SHOWN: usize = 64;
/// Maximum characters of a value in an error.
const MAX_VALUE_SHOWN: usize = 40;
/// Minimum length of a word of letters and digits that may be a key.
const MIN_KEY_LENGTH: usize = 20;

/// Appends a member's name to a JSON pointer (RFC 6901), in a form that is safe to log.
pub(super) fn push_name(pointer: &mut String, name: &str) {
    // The names of /sources are write keys.
    let redacted =
        if pointer == "/sources" { redact_key(name) } else { shortened(name, MAX_NAME_SHOWN) };
    pointer.push('/');
    pointer.push_str(&redacted.replace('~', "~0").replace('/', "~1"));
}

/// Returns a value for an error: in quotes, and shortened if it may be a key.
pub(super) fn quoted(text: &str) -> String {
    let is_word = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let may_be_key = is_word && text.len() >= MIN_KEY_LENGTH;
    let shown = if may_be_key { redact_key(text) } else { shortened(text, MAX_VALUE_SHOWN) };
    format!("\"{shown}\"")
}

/// Returns the beginning of a write key: at most 7 characters, and never more than half.
fn redact_key(key: &str) -> String {
    let shown = key.chars().count().checked_div(2).unwrap_or(0).min(7);
    let mut short = without_control_chars(key, shown);
    short.push('…');
    short
}

fn shortened(text: &str, max_chars: usize) -> String {
    let mut short = without_control_chars(text, max_chars);
    if text.chars().nth(max_chars).is_some() {
        short.push('…');
    }
    short
}

fn without_control_chars(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
