//! Computes the expected event of a track message, member by member, from docs/mapping.md alone.

use super::arbitrary::{Json, Text};
use super::json_value::JsonValue;

/// Maximum nesting of an event. The event itself is the first level.
const DEPTH: usize = 512;

/// Returns a value as Keen can store it, `depth` levels deep in the event.
pub fn legal(json: &Json, depth: usize) -> JsonValue {
    let container = matches!(json, Json::Array(..) | Json::Object(..) | Json::Deep(..));
    if container && depth >= DEPTH {
        return JsonValue::String(cut(&json.text(), 9_999));
    }
    match json {
        Json::Null => JsonValue::Null,
        Json::Bool(flag) => JsonValue::Bool(*flag),
        Json::Number(digits) if holds(digits) => JsonValue::Number(digits.clone()),
        Json::Number(digits) => JsonValue::String(cut(digits, 9_999)),
        Json::String(text) => match text.decoded().as_str() {
            "${keen.ip}" | "${keen.user_agent}" => JsonValue::Null,
            text => JsonValue::String(cut(text, 9_999)),
        },
        Json::Array(items, _) => {
            JsonValue::Array(items.iter().map(|item| legal(item, depth + 1)).collect())
        }
        Json::Object(members, _) => JsonValue::Object(later_wins(
            members
                .iter()
                .map(|(name, value)| (legal_name(name), legal(value, depth + 1)))
                .collect(),
        )),
        Json::Deep(1, inside) => JsonValue::Array(vec![legal(inside, depth + 1)]),
        Json::Deep(levels, inside) => JsonValue::Array(vec![legal(
            &Json::Deep(levels - 1, Box::new((**inside).clone())),
            depth + 1,
        )]),
    }
}

fn legal_name(name: &Text) -> String {
    match name.decoded().as_str() {
        "" => "_".to_owned(),
        name => cut(name, 256).replace('.', "_"),
    }
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Whether Keen can store a number: -2^63 to 2^63 - 1. A number with a fraction or an exponent is a
/// double to Keen.
fn holds(digits: &str) -> bool {
    if digits.contains(['.', 'e', 'E']) {
        digits.parse::<f64>().is_ok_and(|n| n > -(2_f64.powi(63)) && n < 2_f64.powi(63))
    } else {
        digits.parse::<i128>().is_ok_and(|n| i64::try_from(n).is_ok())
    }
}

pub fn later_wins(members: Vec<(String, JsonValue)>) -> Vec<(String, JsonValue)> {
    let mut kept: Vec<(String, JsonValue)> = Vec::new();
    for (name, value) in members {
        kept.retain(|(n, _)| *n != name);
        kept.push((name, value));
    }
    kept
}

/// Whether JavaScript treats the value as true.
pub fn truthy(json: &Json) -> bool {
    match json {
        Json::Null => false,
        Json::Bool(flag) => *flag,
        Json::Number(digits) => {
            !digits.split(['e', 'E']).next().unwrap().chars().all(|c| "-0.".contains(c))
        }
        Json::String(text) => !text.decoded().is_empty(),
        Json::Array(..) | Json::Object(..) | Json::Deep(..) => true,
    }
}

/// Returns the member that a look-up finds: the first with a similar name, and of equal names the
/// last.
pub fn look_up<'j>(members: &'j [(Text, Json)], plain: &str) -> Option<(String, &'j Json)> {
    let is_similar = |name: &Text| {
        let letters: String = name.decoded().chars().filter(|c| !"_- ".contains(*c)).collect();
        letters.to_ascii_lowercase() == plain
    };
    let first = members.iter().find(|(name, _)| is_similar(name))?.0.decoded();
    let last = members.iter().rev().find(|(name, _)| name.decoded() == first)?;
    Some((first, &last.1))
}
