//! A place in a configuration: its value, and its JSON pointer for errors.

use crate::segment::http::cors;
use crate::tree::Tree;
use std::fmt;

/// What is wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pointer: String,
    rule: String,
    found: String,
}

impl ConfigError {
    pub(super) fn new(pointer: &str, rule: &str, found: &str) -> Self {
        Self { pointer: pointer.to_owned(), rule: rule.to_owned(), found: found.to_owned() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, found {}", self.pointer, self.rule, self.found)
    }
}

impl std::error::Error for ConfigError {}

/// Characters of a name that a pointer shows.
const SHOWN: usize = 64;

type Checked<T> = Result<T, ConfigError>;

#[derive(Debug)]
pub(super) struct Node<'v> {
    pointer: String,
    value: &'v Tree,
}

impl<'v> Node<'v> {
    pub(super) fn root(value: &'v Tree) -> Self {
        Self { pointer: String::new(), value }
    }

    pub(super) fn wrong(&self, rule: &str, found: &str) -> ConfigError {
        ConfigError::new(&self.pointer, rule, found)
    }

    /// Refuses members of other names.
    pub(super) fn only(&self, names: &[&str]) -> Checked<()> {
        for (name, _) in self.entries()? {
            if !names.contains(&name) {
                let child = self.child(name, self.value);
                return Err(
                    child.wrong("is not a setting", &format!("beside {}", names.join(", ")))
                );
            }
        }
        Ok(())
    }

    /// The members of an object. `sources` has write keys for names: pointers show only their beginnings.
    pub(super) fn entries(&self) -> Checked<Vec<(&'v str, Self)>> {
        let object =
            self.value.members().ok_or_else(|| self.wrong("must be an object", self.kind()))?;
        Ok(object.iter().map(|(key, value)| (key.as_str(), self.member(key, value))).collect())
    }

    /// A member that may be a source, whose name is a write key.
    pub(super) fn member<'m>(&self, key: &str, value: &'m Tree) -> Node<'m> {
        if self.pointer == "/sources" {
            self.child(&shortened(key), value)
        } else {
            self.child(key, value)
        }
    }

    /// The place that names lead to.
    pub(super) fn at(self, names: &[String]) -> Self {
        names.iter().fold(self, |node, name| node.member(name, node.value))
    }

    pub(super) fn elements(&self) -> Checked<Vec<Self>> {
        let Tree::List(list) = self.value else {
            return Err(self.wrong("must be an array", self.kind()));
        };
        Ok(list.iter().enumerate().map(|(i, value)| self.child(&i.to_string(), value)).collect())
    }

    pub(super) fn required(&self, name: &str) -> Checked<Self> {
        let value = self.value.get(name);
        value
            .map(|value| self.child(name, value))
            .ok_or_else(|| self.child(name, self.value).wrong("is required", "nothing"))
    }

    /// `read` of the member, where there is one.
    pub(super) fn opt<T>(
        &self,
        name: &str,
        mut read: impl FnMut(&Self) -> Checked<T>,
    ) -> Checked<Option<T>> {
        self.value.get(name).map(|value| read(&self.child(name, value))).transpose()
    }

    pub(super) fn string(&self) -> Checked<&'v str> {
        if let Tree::Text(text) = self.value {
            Ok(text)
        } else {
            Err(self.wrong("must be a string", self.kind()))
        }
    }

    pub(super) fn boolean(&self) -> Checked<bool> {
        if let Tree::Bool(flag) = self.value {
            Ok(*flag)
        } else {
            Err(self.wrong("must be true or false", self.kind()))
        }
    }

    /// A whole number; a Struct's doubles count where they are whole.
    pub(super) fn integer(&self, low: u64, high: u64) -> Checked<u64> {
        let (number, found) = match self.value {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a float's cast saturates"
            )]
            Tree::Number(number, digits) => (
                (number.fract() == 0.0 && *number >= 0.0).then_some(*number as u64),
                digits.as_str(),
            ),
            _ => (None, self.kind()),
        };
        let rule = || format!("must be a whole number from {low} to {high}");
        number.filter(|n| (low..=high).contains(n)).ok_or_else(|| self.wrong(&rule(), found))
    }

    /// One of `known`. Those of `later` are named in the design and not built yet.
    pub(super) fn one_of(&self, known: &[&'static str], later: &[&str]) -> Checked<&'static str> {
        let word = self.string()?;
        if let Some(found) = known.iter().find(|k| **k == word) {
            return Ok(found);
        }
        let shown = format!("\"{}\"", printable(word, 32));
        if later.contains(&word) {
            return Err(self.wrong("is not supported yet", &shown));
        }
        let list: Vec<String> = known.iter().map(|k| format!("\"{k}\"")).collect();
        Err(self.wrong(&format!("must be one of {}", list.join(", ")), &shown))
    }

    /// A Keen key. What it is is never shown.
    pub(super) fn keen_key(&self) -> Checked<String> {
        let key = self.string()?;
        if key.len() >= 32 && key.len() <= 4096 && key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Ok(key.to_owned());
        }
        let found = match key.chars().count() {
            32..=4096 => "another character among them".to_owned(),
            count => count.to_string(),
        };
        Err(self.wrong("must be 32 or more letters and digits", &found))
    }

    /// A text that can stand in a header.
    pub(super) fn header(&self) -> Checked<String> {
        let text = self.string()?;
        let printable = !text.is_empty() && text.bytes().all(|b| (0x21..0x7f).contains(&b));
        if printable {
            Ok(text.to_owned())
        } else {
            Err(self.wrong("must be printable ASCII", "something else"))
        }
    }

    /// A page's origin, or a pattern of some.
    pub(super) fn origin(&self) -> Checked<String> {
        let origin = self.header()?;
        if cors::is_pattern(&origin) {
            return Ok(origin);
        }
        let shown = format!("\"{}\"", origin.chars().take(64).collect::<String>());
        Err(self
            .wrong("must be \"*\", or a scheme and a host such as https://www.example.com", &shown))
    }

    /// A name: for a cluster, a source.
    pub(super) fn name(&self) -> Checked<String> {
        let name = self.header()?;
        if name.len() <= 128 {
            Ok(name)
        } else {
            Err(self.wrong("must be at most 128 characters", &name.len().to_string()))
        }
    }

    fn child<'c>(&self, name: &str, value: &'c Tree) -> Node<'c> {
        // A log line holds it.
        let cut = if name.chars().nth(SHOWN).is_some() { "…" } else { "" };
        let short = printable(name, SHOWN).replace('~', "~0").replace('/', "~1");
        Node { pointer: format!("{}/{short}{cut}", self.pointer), value }
    }

    fn kind(&self) -> &'static str {
        match self.value {
            Tree::Null => "null",
            Tree::Bool(_) => "a boolean",
            Tree::Number(..) => "a number",
            Tree::Text(_) => "a string",
            Tree::List(_) => "an array",
            Tree::Object(_) => "an object",
        }
    }
}

/// The first characters of a text, as a log line may hold them.
fn printable(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(most).collect()
}

/// The beginning of a write key: at most 7 characters, and never more than half.
pub(super) fn shortened(key: &str) -> String {
    let shown = key.chars().count().checked_div(2).unwrap_or(0).min(7);
    let mut short: String = key.chars().take(shown).collect();
    short.push('…');
    short
}
