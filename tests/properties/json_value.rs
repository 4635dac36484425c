//! A JSON value that keeps every digit and every member, with a parser of its own.

/// A JSON value. Numbers are kept as text.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonValue {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<JsonValue>),
    Object(Vec<(String, JsonValue)>),
}

impl JsonValue {
    pub fn get(&self, name: &str) -> Option<&JsonValue> {
        match self {
            JsonValue::Object(members) => {
                members.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<JsonValue> {
        let JsonValue::Object(members) = self else { return None };
        let at = members.iter().position(|(n, _)| n == name)?;
        Some(members.remove(at).1)
    }

    pub fn text(&self) -> Option<&str> {
        if let JsonValue::String(text) = self { Some(text) } else { None }
    }

    /// Sorts the members of every object by name.
    pub fn sorted(self) -> JsonValue {
        match self {
            JsonValue::Array(items) => {
                JsonValue::Array(items.into_iter().map(JsonValue::sorted).collect())
            }
            JsonValue::Object(members) => {
                let mut members: Vec<_> =
                    members.into_iter().map(|(n, v)| (n, v.sorted())).collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                JsonValue::Object(members)
            }
            other => other,
        }
    }
}

/// Parses strict JSON. Panics if an object has duplicate names or a string has lone surrogates.
pub fn parse(text: &str) -> JsonValue {
    let mut rest = text;
    let parsed = value(&mut rest);
    assert_eq!(rest.trim_start(), "", "text after the value");
    parsed
}

fn next(rest: &mut &str) -> char {
    *rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
    rest.chars().next().expect("the text is cut")
}

fn eat(rest: &mut &str, c: char) -> bool {
    let found = next(rest) == c;
    if found {
        *rest = &rest[c.len_utf8()..];
    }
    found
}

fn value(rest: &mut &str) -> JsonValue {
    match next(rest) {
        '{' => {
            eat(rest, '{');
            let mut members: Vec<(String, JsonValue)> = Vec::new();
            if eat(rest, '}') {
                return JsonValue::Object(members);
            }
            loop {
                assert_eq!(next(rest), '"');
                let name = string(rest);
                assert!(members.iter().all(|(n, _)| *n != name), "two members are called {name:?}");
                assert!(eat(rest, ':'));
                let value = value(rest);
                members.push((name, value));
                if !eat(rest, ',') {
                    assert!(eat(rest, '}'), "an object is not closed: {rest:.40}");
                    return JsonValue::Object(members);
                }
            }
        }
        '[' => {
            eat(rest, '[');
            let mut items = Vec::new();
            if eat(rest, ']') {
                return JsonValue::Array(items);
            }
            loop {
                items.push(value(rest));
                if !eat(rest, ',') {
                    assert!(eat(rest, ']'), "an array is not closed: {rest:.40}");
                    return JsonValue::Array(items);
                }
            }
        }
        '"' => JsonValue::String(string(rest)),
        _ => {
            let end = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            *rest = behind;
            match word {
                "null" => JsonValue::Null,
                "true" => JsonValue::Bool(true),
                "false" => JsonValue::Bool(false),
                number => {
                    assert!(
                        serde_json::from_str::<&serde_json::value::RawValue>(number).is_ok(),
                        "{number:?}"
                    );
                    JsonValue::Number(number.to_owned())
                }
            }
        }
    }
}

fn string(rest: &mut &str) -> String {
    let bytes = rest.as_bytes();
    let mut end = 1;
    while bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    let (literal, behind) = rest.split_at(end + 1);
    *rest = behind;
    serde_json::from_str(literal).unwrap_or_else(|error| panic!("{error}: {literal:.80}"))
}
