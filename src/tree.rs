//! Small documents as trees: a configuration, a message made of a query, the settings an SDK asks for. No body that an SDK
//! sends ever becomes one.

use crate::json_cursor::{self as json, Cursor, Malformed, Read};
use std::collections::BTreeMap;

/// Values inside each other, at most. A configuration has five levels.
pub const DEPTH: usize = 128;

/// Members of an object, in the order of their names.
pub type Members = BTreeMap<String, Tree>;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, and how it is written.
    Number(f64, String),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Tree>),
    /// An object.
    Object(Members),
}

/// Why a text is not read.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not JSON, or too deep, behind so many bytes.
    Malformed(usize),
    /// A member stands twice, and a reader would take one of the two: the names that lead to it, places in arrays among
    /// them, the outermost first.
    Twice(Vec<String>),
}

impl Tree {
    /// Reads a JSON text.
    ///
    /// # Errors
    /// See [`Wrong`].
    pub fn read(text: &str) -> Result<Self, Wrong> {
        let mut cursor = Cursor::new(text);
        let mut twice = Vec::new();
        let read = read(&mut cursor, 0, &mut twice).and_then(|tree| cursor.end().map(|()| tree));
        read.map_err(|Malformed| {
            twice.reverse();
            if twice.is_empty() { Wrong::Malformed(cursor.at()) } else { Wrong::Twice(twice) }
        })
    }

    /// An object of these members.
    #[must_use]
    pub fn object<const N: usize>(members: [(&str, Self); N]) -> Self {
        Self::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The members of an object.
    #[must_use]
    pub fn members(&self) -> Option<&Members> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    /// A member of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.members()?.get(name)
    }

    /// Appends it as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
            Self::Number(_, digits) => out.extend_from_slice(digits.as_bytes()),
            Self::Text(text) => json::write_string(out, text),
            Self::List(list) => {
                out.push(b'[');
                for (place, value) in list.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    value.write(out);
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                for (place, (name, value)) in members.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    json::write_string(out, name);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

impl From<bool> for Tree {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<&str> for Tree {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn read(cursor: &mut Cursor<'_>, depth: usize, twice: &mut Vec<String>) -> Read<Tree> {
    let inner = depth.checked_add(1).filter(|inner| *inner <= DEPTH).ok_or(Malformed)?;
    match cursor.peek() {
        Some(b'{') => {
            let mut members = Members::new();
            cursor.object(|name, cursor| {
                let name = name.decode().into_owned();
                let value = read(cursor, inner, twice);
                if value.is_err() && !twice.is_empty() {
                    twice.push(name);
                    return Err(Malformed);
                }
                if members.insert(name.clone(), value?).is_some() {
                    twice.push(name);
                    return Err(Malformed);
                }
                Ok(())
            })?;
            Ok(Tree::Object(members))
        }
        Some(b'[') => {
            let mut list = Vec::new();
            cursor.array(|cursor| {
                let value = read(cursor, inner, twice);
                if value.is_err() && !twice.is_empty() {
                    twice.push(list.len().to_string());
                }
                list.push(value?);
                Ok(())
            })?;
            Ok(Tree::List(list))
        }
        _ => Ok(match cursor.value()? {
            json::Value::Bool(flag) => Tree::Bool(flag),
            json::Value::Number(digits) => {
                Tree::Number(digits.parse().map_err(|_| Malformed)?, digits.to_owned())
            }
            json::Value::String(text) => Tree::Text(text.decode().into_owned()),
            _ => Tree::Null,
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_as_it_was() {
        for text in [
            r#"{"a":[1,-2.5e3,{"b":null}],"c":"\"\\\nü","d":{},"e":[],"f":true,"g":false}"#,
            "\"x\"",
            "0.10",
        ] {
            let mut out = Vec::new();
            Tree::read(text).unwrap().write(&mut out);
            let (out, text): (serde_json::Value, serde_json::Value) =
                (serde_json::from_slice(&out).unwrap(), serde_json::from_str(text).unwrap());
            assert_eq!(out, text);
        }
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        assert_eq!(Tree::read("{\"a\": tru}"), Err(Wrong::Malformed(6)));
        assert_eq!(Tree::read("[1] 2"), Err(Wrong::Malformed(4)));
        let names = |names: &[&str]| {
            Err(Wrong::Twice(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        assert_eq!(Tree::read(r#"{"a": [0, {"b": 1, "\u0062": 2}]}"#), names(&["a", "1", "b"]));
        assert_eq!(Tree::read(r#"{"a": 1, "b": 2, "a": 3}"#), names(&["a"]));
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Tree::read(&deep(DEPTH)).is_ok());
        assert!(matches!(Tree::read(&deep(DEPTH + 1)), Err(Wrong::Malformed(_))));
        assert!(matches!(Tree::read(&"[".repeat(1_000_000)), Err(Wrong::Malformed(_))));
    }
}
