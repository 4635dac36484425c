//! One event, written once, legal as it is written.
//!
//! Names lose their dots, values that Keen cannot hold become ones it can, and of equal names in one object the later
//! wins: Keen refuses the first two, and JSON readers disagree on the third.

use super::name;
use crate::json::{self, Cursor, Malformed, Read, Str, Value};

/// The largest event that Keen takes (its documentation of limits); a larger one would cost those beside it a call.
pub const MAX_BYTES: usize = 900_000;
/// A string must be shorter than this many characters.
const STRING_LIMIT: usize = 10_000;
/// Containers inside each other, at most; a deeper one is kept as its JSON text, in a string.
pub const MAX_DEPTH: usize = 512;

/// Writes one event into `out`: properties first, then fields of ours, which win over properties of the same name.
#[derive(Debug)]
pub struct EventWriter<'o> {
    out: &'o mut Vec<u8>,
    open: Vec<Container>,
    members: Vec<Member>,
    /// How many names and values had to be made legal.
    pub mended: u32,
}

#[derive(Debug)]
struct Container {
    object: bool,
    /// Where its first member stands in `out`.
    start: usize,
    /// Where its members start in `members`.
    members: usize,
}

/// A member as it stands in `out`: its name with quotes, and where it ends. It starts where its name does.
#[derive(Debug, Clone, Copy)]
struct Member {
    start: usize,
    name_end: usize,
    end: usize,
}

impl<'o> EventWriter<'o> {
    /// Starts an event at the end of `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        let start = out.len();
        Self {
            out,
            open: vec![Container { object: true, start, members: 0 }],
            members: Vec::with_capacity(32),
            mended: 0,
        }
    }

    /// Copies the members of `object`. `take` sees each of them first, and answers whether it is to be left out.
    ///
    /// # Errors
    /// `object` is no JSON object.
    pub fn properties<'a>(&mut self, object: &'a str, mut take: impl FnMut(Str<'a>, Value<'a>) -> bool) -> Read<()> {
        Cursor::new(object).object(|key, cursor| {
            let mut ahead = cursor.clone();
            let value = match ahead.peek() {
                Some(b'{' | b'[') => Value::Absent,
                _ => ahead.value()?,
            };
            // Containers are only walked when they are copied.
            if take(key, value) {
                cursor.skip()?;
                return Ok(());
            }
            self.name(key);
            if value == Value::Absent {
                self.copy(cursor)?;
            } else {
                *cursor = ahead;
                self.scalar(value);
            }
            self.member_ends();
            Ok(())
        })
    }

    /// Writes a field with a value from the message, made legal.
    pub fn field(&mut self, field: &str, value: Value<'_>) {
        match value {
            Value::Absent => {}
            Value::Array(text) | Value::Object(text) => {
                let before = (self.out.len(), self.members.len(), self.open.len());
                self.field_name(field);
                if self.copy(&mut Cursor::new(text)).is_err() {
                    self.out.truncate(before.0);
                    self.members.truncate(before.1);
                    self.open.truncate(before.2);
                    return;
                }
                self.member_ends();
            }
            scalar => {
                self.field_name(field);
                self.scalar(scalar);
                self.member_ends();
            }
        }
    }

    /// Writes a text field.
    pub fn text(&mut self, field: &str, text: &str) {
        self.field_name(field);
        self.long_string(text);
        self.member_ends();
    }

    /// Writes a field as `write` does. What it writes must be one legal JSON value.
    pub fn raw(&mut self, field: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.field_name(field);
        write(self.out);
        self.member_ends();
    }

    /// Whether the event has a member of that name by now.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        self.value_of(field).is_some()
    }

    /// Whether that member holds a string with something in it.
    #[must_use]
    pub fn filled(&self, field: &str) -> bool {
        self.string_of(field).is_some_and(|text| !text.is_empty())
    }

    /// The text of that member between its quotes, as it is written, where it is a string.
    #[must_use]
    pub fn string_of(&self, field: &str) -> Option<&str> {
        let value = self.value_of(field)?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        std::str::from_utf8(value).ok()
    }

    fn value_of(&self, field: &str) -> Option<&[u8]> {
        let named = |m: &&Member| {
            let name = self.out.get(m.start.saturating_add(1)..m.name_end.saturating_sub(1));
            name == Some(field.as_bytes())
        };
        let member = self.members.iter().rev().find(named)?;
        self.out.get(member.name_end.saturating_add(1)..member.end)
    }

    /// Ends the event.
    pub fn finish(mut self) -> u32 {
        self.close();
        self.out.push(b'}');
        self.mended
    }

    fn field_name(&mut self, field: &str) {
        self.comma();
        let start = self.out.len();
        json::write_string(self.out, field);
        self.member_starts(start);
    }

    fn name(&mut self, key: Str<'_>) {
        self.comma();
        let start = self.out.len();
        let plain = !key.escaped && !key.raw.is_empty() && key.raw.len() <= name::MAX_PROPERTY;
        if plain && !key.raw.contains('.') {
            self.quoted(key.raw);
        } else {
            let original = key.decode();
            let legal = name::property(&original);
            self.mended = self.mended.saturating_add(u32::from(legal != original));
            json::write_string(self.out, &legal);
        }
        self.member_starts(start);
    }

    fn member_starts(&mut self, start: usize) {
        let name_end = self.out.len();
        self.members.push(Member { start, name_end, end: name_end });
        self.out.push(b':');
    }

    fn member_ends(&mut self) {
        let end = self.out.len();
        if let Some(member) = self.members.last_mut() {
            member.end = end;
        }
    }

    fn comma(&mut self) {
        if self.open.last().is_some_and(|c| c.start < self.out.len()) {
            self.out.push(b',');
        }
    }

    fn quoted(&mut self, raw: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(raw.as_bytes());
        self.out.push(b'"');
    }

    fn scalar(&mut self, value: Value<'_>) {
        match value {
            Value::String(s) => self.string(s),
            Value::Number(n) => self.number(n),
            Value::Bool(true) => self.out.extend_from_slice(b"true"),
            Value::Bool(false) => self.out.extend_from_slice(b"false"),
            _ => self.out.extend_from_slice(b"null"),
        }
    }

    fn string(&mut self, s: Str<'_>) {
        if is_placeholder(s) {
            self.mended = self.mended.saturating_add(1);
            self.out.extend_from_slice(b"null");
            return;
        }
        // A surrogate may stand alone; only its pair has a character.
        let simple = s.raw.len() < STRING_LIMIT && !(s.escaped && (s.raw.contains("\\ud") || s.raw.contains("\\uD")));
        if simple {
            self.quoted(s.raw);
        } else {
            let text = s.decode();
            self.mended = self.mended.saturating_add(u32::from(s.escaped && text.contains('\u{fffd}')));
            self.long_string(&text);
        }
    }

    fn long_string(&mut self, text: &str) {
        let limit = STRING_LIMIT.saturating_sub(1);
        let cut = if text.len() <= limit { None } else { text.char_indices().nth(limit) };
        self.mended = self.mended.saturating_add(u32::from(cut.is_some()));
        json::write_string(self.out, cut.and_then(|(at, _)| text.get(..at)).unwrap_or(text));
    }

    fn number(&mut self, digits: &str) {
        if fits(digits) {
            self.out.extend_from_slice(digits.as_bytes());
        } else {
            self.mended = self.mended.saturating_add(1);
            self.long_string(digits);
        }
    }

    /// Copies one value of any depth.
    fn copy(&mut self, cursor: &mut Cursor<'_>) -> Read<()> {
        let outside = self.open.len();
        loop {
            match cursor.peek() {
                Some(opening @ (b'{' | b'[')) if self.open.len() < MAX_DEPTH => {
                    let object = opening == b'{';
                    let closing = if object { b'}' } else { b']' };
                    cursor.expect(opening)?;
                    self.out.push(opening);
                    if cursor.eat(closing) {
                        self.out.push(closing);
                    } else {
                        self.open.push(Container { object, start: self.out.len(), members: self.members.len() });
                        if object {
                            self.name(cursor.key()?);
                        }
                        continue;
                    }
                }
                Some(b'{' | b'[') => {
                    let text = cursor.skip()?;
                    self.mended = self.mended.saturating_add(1);
                    self.long_string(text);
                }
                _ => {
                    let value = cursor.value()?;
                    self.scalar(value);
                }
            }
            loop {
                if self.open.len() <= outside {
                    return Ok(());
                }
                let object = self.open.last().is_some_and(|c| c.object);
                if object {
                    self.member_ends();
                }
                if cursor.eat(b',') {
                    if object {
                        self.name(cursor.key()?);
                    } else {
                        self.out.push(b',');
                    }
                    break;
                }
                let closing = if object { b'}' } else { b']' };
                cursor.expect(closing)?;
                self.close();
                self.out.push(closing);
            }
        }
    }

    /// Ends the innermost container. Of equal names only the last stays.
    fn close(&mut self) {
        let Some(container) = self.open.pop() else { return };
        if container.object {
            let members = self.members.get(container.members..).unwrap_or_default();
            if let Some(kept) = last_of_equals(self.out, members) {
                let mut text = Vec::with_capacity(self.out.len().saturating_sub(container.start));
                for member in kept {
                    if !text.is_empty() {
                        text.push(b',');
                    }
                    text.extend_from_slice(self.out.get(member.start..member.end).unwrap_or_default());
                }
                self.out.truncate(container.start);
                self.out.append(&mut text);
            }
            self.members.truncate(container.members);
        }
    }
}

/// The members to keep, in order, or none where no two share a name.
fn last_of_equals(out: &[u8], members: &[Member]) -> Option<Vec<Member>> {
    let name = |m: &Member| out.get(m.start..m.name_end).unwrap_or_default();
    if members.len() <= 16 {
        let shared =
            |(i, m): (usize, &Member)| members.iter().skip(i.saturating_add(1)).any(|later| name(later) == name(m));
        if !members.iter().enumerate().any(shared) {
            return None;
        }
    }
    // Sorted rather than hashed: no choice of names makes it slow.
    let mut sorted = members.to_vec();
    sorted.sort_by(|a, b| name(a).cmp(name(b)).then(b.start.cmp(&a.start)));
    sorted.dedup_by(|next, first| name(next) == name(first));
    if sorted.len() == members.len() {
        return None;
    }
    sorted.sort_by_key(|m| m.start);
    Some(sorted)
}

/// Whether a string is one of those that Keen replaces by what it sees of the caller (keen.io/docs/streams, "IP to geo" and
/// "User agent"): through a proxy that is the proxy.
#[must_use]
pub fn is_placeholder(s: Str<'_>) -> bool {
    const LONGEST: usize = 128; // every character as a \u escape
    let may_be = s.raw.starts_with('$') || (s.escaped && s.raw.len() <= LONGEST);
    may_be && matches!(s.decode().as_ref(), "${keen.ip}" | "${keen.user_agent}")
}

/// Whether Keen can hold the number: from -2^63 to 2^63 - 1.
fn fits(digits: &str) -> bool {
    let integer = !digits.bytes().any(|b| matches!(b, b'.' | b'e' | b'E'));
    if integer {
        return digits.len() <= 18 || digits.parse::<i64>().is_ok();
    }
    // 2^63. A double at either edge may stand for a number beyond it.
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    digits.parse::<f64>().is_ok_and(|n| n.abs() < EDGE)
}

/// Writes `value` legally, alone. For values that stand inside a field of ours.
///
/// # Errors
/// `text` is not JSON.
pub fn write_legal(out: &mut Vec<u8>, text: &str) -> Result<u32, Malformed> {
    let mut writer = EventWriter { out, open: Vec::new(), members: Vec::new(), mended: 0 };
    writer.copy(&mut Cursor::new(text))?;
    Ok(writer.mended)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn legal(text: &str) -> String {
        let mut out = Vec::new();
        write_legal(&mut out, text).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn legal_text_is_not_touched() {
        for text in [
            r#"{"a":1,"b":[true,null,{"c":"\u00e9\n"}],"$d":-0.5e3}"#,
            "[]",
            "9223372036854775807",
            r#""\ud83d\ude00""#,
        ] {
            let want: serde_json::Value = serde_json::from_str(text).unwrap();
            let got: serde_json::Value = serde_json::from_str(&legal(text)).unwrap();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn every_dot_goes_and_the_later_of_equal_names_wins() {
        assert_eq!(legal(r#"{"a.b.c":1,"x":{"p.q":2,"p_q":3}}"#), r#"{"a_b_c":1,"x":{"p_q":3}}"#);
        let many: Vec<String> = (0..40).map(|i| format!("\"k{}\":{i}", i % 30)).collect();
        let got: serde_json::Value = serde_json::from_str(&legal(&format!("{{{}}}", many.join(",")))).unwrap();
        assert_eq!(got.as_object().unwrap().len(), 30);
        assert_eq!(got.get("k5").unwrap(), 35);
        assert_eq!(got.get("k15").unwrap(), 15);
    }

    #[test]
    fn values_keen_cannot_hold() {
        assert_eq!(
            legal("[9223372036854775808,1e400,-9223372036854775809]"),
            r#"["9223372036854775808","1e400","-9223372036854775809"]"#
        );
        assert_eq!(legal(r#""\ud800x""#), "\"\u{fffd}x\"");
        assert_eq!(legal(&format!("\"{}\"", "é".repeat(10_000))).chars().count(), 10_001);
        let deep = legal(&format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)));
        assert!(deep.contains('"'));
    }

    #[test]
    fn fields_win_over_properties() {
        let mut out = Vec::new();
        let mut event = EventWriter::new(&mut out);
        event.properties(r#"{"userId":"p","a":{"userId":1},"skip":[1]}"#, |key, _| key.is("skip")).unwrap();
        assert!(event.has("userId") && !event.has("traits"));
        event.text("userId", "u");
        event.finish();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":{"userId":1},"userId":"u"}"#);
    }
}
