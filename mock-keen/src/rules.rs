//! Keen's rules as pure functions. `RULES.md` lists them with their sources.
//!
//! Where Keen's behaviour is not known, the stricter one is chosen, so that a client that passes
//! here relies only on what Keen promises.
//!
//! ```
//! use mock_keen::rules::check_event;
//! use serde_json::json;
//!
//! assert!(check_event(&json!({"plan": "pro"})).is_ok());
//! let refusal = check_event(&json!({"plan.name": "pro"})).unwrap_err();
//! assert_eq!(refusal.name, "InvalidPropertyNameError");
//! ```

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use std::fmt;

/// The longest collection name, in characters (server text quoted in express-keenio #39).
pub const MAX_COLLECTION_CHARS: usize = 64;
/// The longest property name, in characters (server text in KeenClient-PHP's README).
pub const MAX_NAME_CHARS: usize = 256;
/// A string value has fewer characters than this (Keen's data modeling guide).
pub const STRING_CHARS_BOUND: usize = 10_000;
/// The longest uniqueness token, in characters (Keen's blog on uniqueness tokens).
pub const MAX_TOKEN_CHARS: usize = 64;
/// The largest event, in bytes of JSON (Keen's docs on limits).
pub const MAX_EVENT_BYTES: usize = 900_000;
/// The largest bulk body, in bytes (Keen's docs on limits).
pub const MAX_BATCH_BYTES: usize = 10_000_000;
/// Deeper nesting is refused as invalid JSON. Keen documents no limit; this one bounds the stack
/// that parsing and dropping an event need.
pub const MAX_DEPTH: usize = 1_500;

/// Why Keen refuses an event: the `error_code` of a single call, the `name` in a bulk result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Keen's error name, such as `InvalidPropertyNameError`.
    pub name: String,
    /// Error text.
    pub description: String,
}

impl Refusal {
    /// Creates a refusal.
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self { name: name.into(), description: description.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.description)
    }
}

impl std::error::Error for Refusal {}

/// Why Keen refuses a whole call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The HTTP status of the reply.
    pub status: u16,
    /// Its `error_code` and `message`.
    pub refusal: Refusal,
}

impl Rejection {
    /// Creates a rejection.
    pub fn new(status: u16, name: &str, message: impl Into<String>) -> Self {
        Self { status, refusal: Refusal::new(name, message) }
    }
}

/// Checks a collection name, including what only Keen's 2014 guide forbids: a leading `_`, and a
/// leading or trailing `.`.
///
/// # Errors
/// Keen's refusal of the name.
pub fn check_collection_name(name: &str) -> Result<(), Refusal> {
    check_collection_name_lenient(name)?;
    if name.starts_with(['_', '.']) || name.ends_with('.') {
        return Err(invalid_collection_name(name));
    }
    Ok(())
}

/// Checks a collection name by the server's error text of 2015 only.
///
/// # Errors
/// Keen's refusal of the name.
pub fn check_collection_name_lenient(name: &str) -> Result<(), Refusal> {
    let legal = !name.is_empty()
        && name.chars().count() <= MAX_COLLECTION_CHARS
        && name.is_ascii()
        && !name.contains(['\n', '\r']);
    if legal { Ok(()) } else { Err(invalid_collection_name(name)) }
}

fn invalid_collection_name(name: &str) -> Refusal {
    // Keen's text has no space after "CR.".
    Refusal::new(
        "InvalidCollectionNameError",
        format!(
            "Collection name is invalid. Must be <= 64 characters, cannot contain a newline or \
             CR.It also cannot contain non-ascii characters. You specified: '{name}'."
        ),
    )
}

/// Checks the properties, the `keen` object and the add-ons of an event.
///
/// # Errors
/// The first rule that the event breaks.
pub fn check_event(event: &Value) -> Result<(), Refusal> {
    let Value::Object(properties) = event else {
        return Err(Refusal::new("InvalidEventError", "An event must be a JSON object."));
    };
    check_properties(event)?;
    match properties.get("keen") {
        None => Ok(()),
        Some(Value::Object(keen)) => check_keen(keen, properties),
        Some(_) => {
            Err(Refusal::new("NamespaceTypeError", "The 'keen' property must be a JSON object."))
        }
    }
}

/// Checks names and values at every depth. Iterative, because an event may nest deeper than the
/// stack allows.
fn check_properties(event: &Value) -> Result<(), Refusal> {
    let mut pending = vec![event];
    while let Some(value) = pending.pop() {
        match value {
            Value::Object(properties) => {
                for name in properties.keys() {
                    check_property_name(name)?;
                }
                pending.extend(properties.values());
            }
            Value::Array(items) => pending.extend(items),
            Value::String(text) => check_string(text)?,
            Value::Number(number) => check_number(number)?,
            Value::Null | Value::Bool(_) => {}
        }
    }
    Ok(())
}

fn check_property_name(name: &str) -> Result<(), Refusal> {
    if !name.is_empty() && name.chars().count() <= MAX_NAME_CHARS && !name.contains('.') {
        return Ok(());
    }
    Err(Refusal::new(
        "InvalidPropertyNameError",
        format!(
            "Property name is invalid. Must be <= 256 characters, cannot contain the '.' symbol \
             anywhere. You specified: '{name}'."
        ),
    ))
}

fn check_string(text: &str) -> Result<(), Refusal> {
    // A string has at most as many characters as bytes, so most need no count.
    if text.len() < STRING_CHARS_BOUND || text.chars().count() < STRING_CHARS_BOUND {
        return Ok(());
    }
    Err(invalid_value("String property values must be less than 10,000 characters long."))
}

/// Checks that a number is within -2^63 to 2^63-1. A float at -2^63 is refused too: the integer
/// -2^63 - 1 is parsed as the same float.
fn check_number(number: &Number) -> Result<(), Refusal> {
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    let fits = number.as_i64().is_some()
        || (number.as_u64().is_none() && number.as_f64().is_some_and(|n| n.abs() < EDGE));
    if fits {
        return Ok(());
    }
    Err(invalid_value(&format!(
        "Numeric property values must be between -2^63 and 2^63-1. You specified: '{number}'."
    )))
}

fn invalid_value(description: &str) -> Refusal {
    Refusal::new("InvalidPropertyValueError", description)
}

fn check_keen(keen: &Map<String, Value>, event: &Map<String, Value>) -> Result<(), Refusal> {
    for (name, value) in keen {
        match name.as_str() {
            "timestamp" => check_timestamp(value)?,
            "location" => check_location(value)?,
            "uniqueness_token" => check_token(value)?,
            "addons" => check_addons(value, event)?,
            // Includes `id` and `created_at`, which only Keen sets.
            _ => {
                return Err(Refusal::new(
                    "InvalidKeenNamespaceProperty",
                    format!("The 'keen' object cannot contain the property '{name}'."),
                ));
            }
        }
    }
    Ok(())
}

/// Checks for `YYYY-MM-DDThh:mm:ss`, then no fraction or one of 3 or 6 digits, then `Z`,
/// `+hh:mm`, `-hhmm` or nothing (Keen's data modeling guide).
fn check_timestamp(value: &Value) -> Result<(), Refusal> {
    if value.as_str().is_some_and(is_timestamp) {
        return Ok(());
    }
    Err(invalid_value(&format!(
        "The 'keen.timestamp' property must be an ISO-8601 date. You specified: '{}'.",
        value.as_str().unwrap_or("(not a string)")
    )))
}

fn is_timestamp(text: &str) -> bool {
    read_timestamp(text.as_bytes()).is_some()
}

fn read_timestamp(text: &[u8]) -> Option<()> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix(b"-")?, 2)?;
    let (day, rest) = digits(rest.strip_prefix(b"-")?, 2)?;
    let (hour, rest) = digits(rest.strip_prefix(b"T")?, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(b":")?, 2)?;
    let (second, rest) = digits(rest.strip_prefix(b":")?, 2)?;
    let rest = match rest.strip_prefix(b".") {
        None => rest,
        Some(fraction) => {
            let length = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            if length != 3 && length != 6 {
                return None;
            }
            digits(fraction, length)?.1
        }
    };
    let legal = (1..=days_in_month(year, month)?).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && is_zone(rest);
    legal.then_some(())
}

fn digits(text: &[u8], count: usize) -> Option<(u32, &[u8])> {
    let (head, rest) = text.split_at_checked(count)?;
    if !head.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(head).ok()?.parse().ok()?;
    Some((number, rest))
}

fn days_in_month(year: u32, month: u32) -> Option<u32> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 => Some(if leap { 29 } else { 28 }),
        _ => None,
    }
}

fn is_zone(text: &[u8]) -> bool {
    if text.is_empty() || text == b"Z" {
        return true;
    }
    let Some(offset) = text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"-")) else {
        return false;
    };
    let Some((hours, rest)) = digits(offset, 2) else {
        return false;
    };
    let minutes = digits(rest.strip_prefix(b":").unwrap_or(rest), 2);
    matches!(minutes, Some((minutes, [])) if hours < 24 && minutes < 60)
}

/// Checks for a JSON array of longitude and latitude (Keen's data modeling guide).
fn check_location(value: &Value) -> Result<(), Refusal> {
    let coordinates = value.get("coordinates").and_then(Value::as_array);
    let pair = match coordinates.map(Vec::as_slice) {
        Some([longitude, latitude]) => longitude.as_f64().zip(latitude.as_f64()),
        _ => None,
    };
    match pair {
        Some((longitude, latitude)) if longitude.abs() <= 180.0 && latitude.abs() <= 90.0 => Ok(()),
        _ => Err(invalid_value(
            "The 'keen.location.coordinates' property must be an array of longitude and latitude.",
        )),
    }
}

/// Checks for a string of 1 to 64 characters.
fn check_token(value: &Value) -> Result<(), Refusal> {
    match value.as_str().map(|token| token.chars().count()) {
        Some(1..=MAX_TOKEN_CHARS) => Ok(()),
        _ => Err(invalid_value(
            "The 'keen.uniqueness_token' property must be a string of at most 64 characters.",
        )),
    }
}

/// The `keen.uniqueness_token` of an event that passed [`check_event`].
pub fn uniqueness_token(event: &Value) -> Option<&str> {
    event.get("keen")?.get("uniqueness_token")?.as_str()
}

/// Checks add-ons by Keen's pages on data enrichment.
fn check_addons(value: &Value, event: &Map<String, Value>) -> Result<(), Refusal> {
    let addons = match value.as_array() {
        Some(addons) if addons.iter().all(Value::is_object) => addons,
        _ => {
            // Keen's text is known up to "You sent a valu"; the rest is a guess.
            return Err(invalid_value(&format!(
                "Your event contains an invalid value for 'keen.addons'. It must be a JSON array \
                 of objects! You sent a value of type {}.",
                type_name(value)
            )));
        }
    };
    addons.iter().try_for_each(|addon| check_addon(addon, event))
}

fn check_addon(addon: &Value, event: &Map<String, Value>) -> Result<(), Refusal> {
    let name = addon.get("name").and_then(Value::as_str).unwrap_or_default();
    let inputs: &[&str] = match name {
        "keen:ip_to_geo" => &["ip"],
        "keen:ua_parser" => &["ua_string"],
        "keen:url_parser" => &["url"],
        "keen:referrer_parser" => &["referrer_url", "page_url"],
        "keen:date_time_parser" => &["date_time"],
        _ => return Err(invalid_addon(name, "there is no add-on of this name")),
    };
    let given = addon
        .get("input")
        .and_then(Value::as_object)
        .ok_or_else(|| invalid_addon(name, "its input must be a JSON object"))?;
    for input in inputs {
        let path = given
            .get(*input)
            .and_then(Value::as_str)
            .ok_or_else(|| invalid_addon(name, &format!("its input has no '{input}'")))?;
        if !names_a_property(path, event) {
            let why = format!("its input '{path}' is not a property of the event");
            return Err(invalid_addon(name, &why));
        }
    }
    for (key, value) in given {
        let known = inputs.contains(&key.as_str())
            || (name == "keen:ip_to_geo" && key == "remove_ip_property" && value.is_boolean());
        if !known {
            return Err(invalid_addon(
                name,
                &format!("its input has an unknown or invalid '{key}'"),
            ));
        }
    }
    check_output(name, addon.get("output"))
}

fn check_output(name: &str, output: Option<&Value>) -> Result<(), Refusal> {
    let output = output.and_then(Value::as_str).unwrap_or_default();
    if output.split('.').any(str::is_empty) {
        return Err(invalid_addon(name, "its output must name a property"));
    }
    if output.split('.').next() == Some("keen") {
        return Err(invalid_addon(name, "its output cannot be in the keen namespace"));
    }
    Ok(())
}

/// Whether the dotted path leads to a property, whatever its value. `keen.timestamp` always exists:
/// Keen sets it before the add-ons run.
fn names_a_property(path: &str, event: &Map<String, Value>) -> bool {
    if path == "keen.timestamp" {
        return true;
    }
    let mut object = Some(event);
    let mut found = false;
    for name in path.split('.') {
        let Some(value) = object.and_then(|properties| properties.get(name)) else {
            return false;
        };
        found = true;
        object = value.as_object();
    }
    found
}

fn invalid_addon(name: &str, why: &str) -> Refusal {
    Refusal::new("InvalidAddonError", format!("The add-on '{name}' is invalid: {why}."))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Parses the body of a single call as an event. [`check_event`] checks it afterwards.
///
/// # Errors
/// 413 for a body over [`MAX_EVENT_BYTES`], 400 for one that is not JSON.
pub fn read_event(body: &[u8]) -> Result<ReadEvent<'_>, Rejection> {
    check_size(body.len(), MAX_EVENT_BYTES)?;
    let text = read_text(body)?;
    Ok(ReadEvent { text: text.trim_ascii(), value: parse(text)? })
}

/// An event of a call.
#[derive(Clone, Debug)]
pub struct ReadEvent<'a> {
    /// The event's JSON text.
    pub text: &'a str,
    /// The parsed event. Of equal names the last wins.
    pub value: Value,
}

/// A bulk body: the collections in their order, each with its events.
pub type Batch<'a> = Vec<(String, Vec<ReadEvent<'a>>)>;

/// Parses the body of a bulk call. [`check_event`] checks its events afterwards.
///
/// # Errors
/// 413 for a body over [`MAX_BATCH_BYTES`] or an event over [`MAX_EVENT_BYTES`], 400 for one
/// that is not JSON or not an object of arrays.
pub fn read_batch(body: &[u8]) -> Result<Batch<'_>, Rejection> {
    check_size(body.len(), MAX_BATCH_BYTES)?;
    let text = read_text(body)?;
    let whole: &RawValue = serde_json::from_str(text).map_err(invalid_json)?;
    let invalid = || {
        Rejection::new(
            400,
            "InvalidBatchError",
            "A batch must be a JSON object of collections, each an array of events.",
        )
    };
    if !whole.get().starts_with('{') {
        return Err(invalid());
    }
    let Collections(collections) = serde_json::from_str(text).map_err(invalid_json)?;
    let mut batch = Batch::new();
    for (name, events) in collections {
        if !events.get().starts_with('[') {
            return Err(invalid());
        }
        let events: Vec<&RawValue> = serde_json::from_str(events.get()).map_err(invalid_json)?;
        let events: Result<Vec<_>, _> = events.into_iter().map(read_batch_event).collect();
        batch.push((name, events?));
    }
    Ok(batch)
}

fn read_batch_event(raw: &RawValue) -> Result<ReadEvent<'_>, Rejection> {
    check_size(raw.get().len(), MAX_EVENT_BYTES)?;
    Ok(ReadEvent { text: raw.get(), value: parse(raw.get())? })
}

fn check_size(bytes: usize, limit: usize) -> Result<(), Rejection> {
    if bytes <= limit { Ok(()) } else { Err(too_large(bytes, limit)) }
}

pub(crate) fn too_large(bytes: usize, limit: usize) -> Rejection {
    Rejection::new(
        413,
        "RequestEntityTooLargeError",
        format!("The request is too large: {bytes} bytes, and at most {limit} are allowed."),
    )
}

fn read_text(body: &[u8]) -> Result<&str, Rejection> {
    let text = std::str::from_utf8(body).map_err(|_| bad_json("it is not UTF-8"))?;
    if depth(body) > MAX_DEPTH {
        return Err(bad_json("it nests too deep"));
    }
    Ok(text)
}

/// The maximum nesting of JSON text, without parsing it.
fn depth(json: &[u8]) -> usize {
    let (mut current, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                current += 1;
                deepest = deepest.max(current);
            }
            b'}' | b']' if !in_string => current = current.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Parses JSON that nests at most [`MAX_DEPTH`] deep.
pub(crate) fn parse(text: &str) -> Result<Value, Rejection> {
    // serde_json's own limit of 128 levels fits any stack; deeper text gets a stack of its own.
    const DEEP_STACK_BYTES: usize = 64 << 20;
    if depth(text.as_bytes()) < 128 {
        return serde_json::from_str(text).map_err(invalid_json);
    }
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().stack_size(DEEP_STACK_BYTES);
        let parsed = parser.spawn_scoped(scope, || {
            let mut reader = serde_json::Deserializer::from_str(text);
            reader.disable_recursion_limit();
            let value = Value::deserialize(&mut reader)?;
            reader.end()?;
            Ok(value)
        });
        let parsed = parsed.map_err(|_| bad_json("there is no thread to parse it"))?;
        let parsed = parsed.join().map_err(|_| bad_json("it cannot be parsed"))?;
        parsed.map_err(invalid_json)
    })
}

fn invalid_json(error: serde_json::Error) -> Rejection {
    bad_json(&error.to_string())
}

fn bad_json(why: &str) -> Rejection {
    Rejection::new(400, "InvalidJSONError", format!("The request body is not valid JSON: {why}."))
}

/// The members of a JSON object in their order. Of equal names the last wins.
struct Collections<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Collections<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CollectionsVisitor)
    }
}

struct CollectionsVisitor;

impl<'de> Visitor<'de> for CollectionsVisitor {
    type Value = Collections<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of collections")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(String, &'de RawValue)> = Vec::new();
        let mut indices = std::collections::HashMap::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            match indices.get(&name) {
                Some(&index) => {
                    let member: &mut (String, &'de RawValue) = &mut members[index];
                    member.1 = value;
                }
                None => {
                    indices.insert(name.clone(), members.len());
                    members.push((name, value));
                }
            }
        }
        Ok(Collections(members))
    }
}
