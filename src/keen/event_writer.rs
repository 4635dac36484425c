//! One event, written once, legal as it is written.
//!
//! Names lose their dots, values that Keen cannot hold become ones it can, and of equal names in one object the later
//! wins: Keen refuses the first two, and JSON readers disagree on the third.

use super::duplicate_keys::{self, Table};
use super::names;
use crate::json::{self, Cursor, Malformed, Members, Read, Str, Value};
use std::collections::BinaryHeap;
use std::ops::Range;

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
    notes: &'o mut Notes,
    /// How many names and values had to be made legal.
    pub mended: u32,
}

/// What a writer notes of the event as it stands so far. Each event begins with none; their room is used again.
#[derive(Debug, Default)]
pub struct Notes {
    /// Containers that have not ended, the innermost last.
    open: Vec<Container>,
    /// Members of those that are objects.
    members: Vec<Member>,
    /// What later members overwrite: taken out at the end, in one go, however deep it nests.
    overwritten: Vec<Range<usize>>,
    table: Table,
}

impl Notes {
    /// Gives room back over some `most` bytes: one wide event must not hold it for ever.
    pub fn shrink(&mut self, most: usize) {
        if self.members.capacity().saturating_mul(size_of::<Member>()) > most {
            *self = Self::default();
        }
    }
}

#[derive(Debug)]
struct Container {
    object: bool,
    /// Where its first member stands in `out`.
    start: usize,
    /// Where its members start in `members`.
    members: usize,
}

/// A member as it stands in `out`: its name with quotes, where its value starts, and where it ends.
#[derive(Debug, Clone, Copy)]
struct Member {
    start: usize,
    name_end: usize,
    value: usize,
    end: usize,
}

/// Text on its way to `out`. What is legal as it came stays in the run, and the run is copied in one piece: most events
/// are a single one.
#[derive(Debug)]
struct Run<'t> {
    text: &'t str,
    /// The first byte that has not been copied.
    from: usize,
}

impl<'o> EventWriter<'o> {
    /// Starts an event at the end of `out`.
    pub fn new(out: &'o mut Vec<u8>, notes: &'o mut Notes) -> Self {
        out.push(b'{');
        let start = out.len();
        notes.members.clear();
        notes.overwritten.clear();
        notes.open.clear();
        notes.open.push(Container { object: true, start, members: 0 });
        Self { out, notes, mended: 0 }
    }

    /// Copies members. `take` sees each of them first, and answers whether it is to be left out.
    pub fn properties<'a>(
        &mut self,
        members: Members<'a>,
        mut take: impl FnMut(Str<'a>, Value<'a>) -> bool,
    ) {
        let mut run: Option<Run<'a>> = None;
        let mut copied = 0;
        for member in members.list {
            if take(member.name, member.value) {
                if let Some(run) = run.take() {
                    self.flush(run, copied);
                }
                continue;
            }
            let mut open = run.take().unwrap_or_else(|| {
                self.comma();
                Run { text: members.text, from: member.start }
            });
            self.name(&mut open, member.name, member.start, member.name_end());
            self.value_starts(&open, member.value_start);
            match member.value {
                // They have been read once, and so are whole.
                Value::Array(_) | Value::Object(_) => {
                    let _ =
                        self.copy(&mut open, &mut Cursor::within(members.text, member.value_start));
                }
                scalar => self.scalar_in(&mut open, scalar, member.value_start, member.end),
            }
            copied = member.end;
            self.member_ends(place(self.out, &open, copied));
            run = Some(open);
        }
        if let Some(run) = run {
            self.flush(run, copied);
        }
    }

    /// Writes a field with a value from the message, made legal.
    pub fn field(&mut self, field: &str, value: Value<'_>) {
        match value {
            Value::Absent => {}
            Value::Array(text) | Value::Object(text) => {
                let before = (self.out.len(), self.notes.members.len(), self.notes.open.len());
                self.field_name(field);
                if self.copy_whole(text).is_err() {
                    self.out.truncate(before.0);
                    self.notes.members.truncate(before.1);
                    self.notes.open.truncate(before.2);
                    self.notes.overwritten.retain(|range| range.end <= before.0);
                    return;
                }
                self.field_ends();
            }
            scalar => {
                self.field_name(field);
                self.scalar(scalar);
                self.field_ends();
            }
        }
    }

    /// Writes a text field.
    pub fn text(&mut self, field: &str, text: &str) {
        self.field_name(field);
        self.long_string(text);
        self.field_ends();
    }

    /// Writes a field as `write` does. What it writes must be one legal JSON value.
    pub fn raw(&mut self, field: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.field_name(field);
        write(self.out);
        self.field_ends();
    }

    /// Whether the event has a member of that name by now.
    #[must_use]
    #[inline(always)]
    pub fn has(&self, field: &str) -> bool {
        self.value_of(field).is_some()
    }

    /// Whether that member holds a string with something in it.
    #[must_use]
    #[inline(always)]
    pub fn filled(&self, field: &str) -> bool {
        self.value_of(field).is_some_and(|value| value.starts_with(b"\"") && value.len() > 2)
    }

    /// The text of that member between its quotes, as it is written, where it is a string.
    #[must_use]
    #[inline(always)]
    pub fn string_of(&self, field: &str) -> Option<&str> {
        let value = self.value_of(field)?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        std::str::from_utf8(value).ok()
    }

    #[inline(always)]
    fn value_of(&self, field: &str) -> Option<&[u8]> {
        let length = field.len().saturating_add(2);
        let named = |m: &&Member| {
            // Lengths first: they tell most names apart.
            m.name_end.wrapping_sub(m.start) == length
                && self.out.get(m.start.wrapping_add(1)..m.name_end.wrapping_sub(1))
                    == Some(field.as_bytes())
        };
        let member = self.notes.members.iter().rev().find(named)?;
        self.out.get(member.value..member.end)
    }

    /// Ends the event.
    pub fn finish(mut self) -> u32 {
        self.close();
        self.take_out();
        self.out.push(b'}');
        self.mended
    }

    /// Starts a field of ours: its name is legal.
    fn field_name(&mut self, field: &str) {
        self.comma();
        let start = self.out.len();
        self.quoted(field);
        let name_end = self.out.len();
        self.out.push(b':');
        self.notes.members.push(Member { start, name_end, value: self.out.len(), end: name_end });
    }

    fn field_ends(&mut self) {
        self.member_ends(self.out.len());
    }

    /// Takes a member's name, which stands from `start` to `end` in the run's text.
    fn name(&mut self, run: &mut Run<'_>, key: Str<'_>, start: usize, end: usize) {
        let plain = !key.escaped && !key.raw.is_empty() && key.raw.len() <= names::MAX_PROPERTY;
        let (start, name_end) = if plain && !key.raw.as_bytes().contains(&b'.') {
            (place(self.out, run, start), place(self.out, run, end))
        } else {
            let original = key.decode();
            let legal = names::property_name(&original);
            self.mended = self.mended.saturating_add(u32::from(legal != original));
            self.flush_to(run, start);
            let start = self.out.len();
            json::write_string(self.out, &legal);
            run.from = end;
            (start, self.out.len())
        };
        self.notes.members.push(Member { start, name_end, value: name_end, end: name_end });
    }

    fn value_starts(&mut self, run: &Run<'_>, at: usize) {
        let value = place(self.out, run, at);
        if let Some(member) = self.notes.members.last_mut() {
            member.value = value;
        }
    }

    fn member_ends(&mut self, end: usize) {
        if let Some(member) = self.notes.members.last_mut() {
            member.end = end;
        }
    }

    /// Copies the run as far as `to`.
    fn flush_to(&mut self, run: &mut Run<'_>, to: usize) {
        self.out.extend_from_slice(run.text.as_bytes().get(run.from..to).unwrap_or_default());
        run.from = to;
    }

    fn flush(&mut self, mut run: Run<'_>, to: usize) {
        self.flush_to(&mut run, to);
    }

    #[inline(always)]
    fn comma(&mut self) {
        if self.notes.open.last().is_some_and(|c| c.start < self.out.len()) {
            self.out.push(b',');
        }
    }

    #[inline(always)]
    fn quoted(&mut self, raw: &str) {
        self.out.reserve(raw.len().saturating_add(3));
        self.out.push(b'"');
        self.out.extend_from_slice(raw.as_bytes());
        self.out.push(b'"');
    }

    /// Takes a value that stands from `start` to `end` in the run's text.
    fn scalar_in(&mut self, run: &mut Run<'_>, value: Value<'_>, start: usize, end: usize) {
        let legal = match value {
            Value::String(s) => !is_placeholder(s) && is_simple(s),
            Value::Number(digits) => fits(digits),
            _ => true,
        };
        if !legal {
            self.flush_to(run, start);
            self.scalar(value);
            run.from = end;
        }
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
        if is_simple(s) {
            self.quoted(s.raw);
        } else {
            let text = s.decode();
            self.mended =
                self.mended.saturating_add(u32::from(s.escaped && text.contains('\u{fffd}')));
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

    /// Copies a text that is one value.
    fn copy_whole(&mut self, text: &str) -> Read<()> {
        let mut cursor = Cursor::new(text);
        cursor.peek();
        let mut run = Run { text, from: cursor.at() };
        self.copy(&mut run, &mut cursor)?;
        self.flush(run, cursor.at());
        Ok(())
    }

    /// Takes one value of any depth into the run.
    fn copy(&mut self, run: &mut Run<'_>, cursor: &mut Cursor<'_>) -> Read<()> {
        let outside = self.notes.open.len();
        loop {
            match cursor.peek() {
                Some(opening @ (b'{' | b'[')) if self.notes.open.len() < MAX_DEPTH => {
                    let object = opening == b'{';
                    cursor.expect(opening)?;
                    if !cursor.eat(if object { b'}' } else { b']' }) {
                        let start = place(self.out, run, cursor.at());
                        self.notes.open.push(Container {
                            object,
                            start,
                            members: self.notes.members.len(),
                        });
                        if object {
                            self.copy_name(run, cursor)?;
                        }
                        continue;
                    }
                }
                Some(b'{' | b'[') => {
                    let start = cursor.at();
                    let text = cursor.skip()?;
                    self.mended = self.mended.saturating_add(1);
                    self.flush_to(run, start);
                    self.long_string(text);
                    run.from = cursor.at();
                }
                _ => {
                    let start = cursor.at();
                    let value = cursor.value()?;
                    self.scalar_in(run, value, start, cursor.at());
                }
            }
            loop {
                if self.notes.open.len() <= outside {
                    return Ok(());
                }
                let object = self.notes.open.last().is_some_and(|c| c.object);
                if object {
                    self.member_ends(place(self.out, run, cursor.at()));
                }
                if cursor.eat(b',') {
                    if object {
                        self.copy_name(run, cursor)?;
                    }
                    break;
                }
                let end = cursor.at();
                cursor.expect(if object { b'}' } else { b']' })?;
                if object {
                    self.flush_to(run, end);
                }
                self.close();
            }
        }
    }

    fn copy_name(&mut self, run: &mut Run<'_>, cursor: &mut Cursor<'_>) -> Read<()> {
        cursor.peek();
        let start = cursor.at();
        let key = cursor.string()?;
        let end = cursor.at();
        self.name(run, key, start, end);
        cursor.expect(b':')
    }

    /// Ends the innermost container. Of equal names only the last stays.
    fn close(&mut self) {
        let Some(container) = self.notes.open.pop() else { return };
        if container.object {
            let Notes { members, overwritten, table, .. } = &mut *self.notes;
            let list = members.get(container.members..).unwrap_or_default();
            let name = |at: usize| {
                list.get(at).and_then(|m| self.out.get(m.start..m.name_end)).unwrap_or_default()
            };
            duplicate_keys::overwritten(list.len(), name, table, |at| {
                // One that is overwritten has another behind it: it goes with the comma between them.
                if let (Some(member), Some(behind)) = (list.get(at), list.get(at.saturating_add(1)))
                {
                    overwritten.push(member.start..behind.start);
                }
            });
            members.truncate(container.members);
        }
    }

    /// Takes out what is overwritten. What stands in another that is taken out goes with it.
    fn take_out(&mut self) {
        let ranges = self.notes.overwritten.drain(..).map(|range| (range.start, range.end));
        let ranges = BinaryHeap::from_iter(ranges).into_sorted_vec();
        let end = self.out.len();
        let Some(first) = ranges.first().map(|(start, _)| *start.min(&end)) else { return };
        let (mut to, mut from) = (first, first);
        for (start, behind) in ranges.into_iter().chain(std::iter::once((end, end))) {
            let start = start.min(end);
            if start >= from {
                self.out.copy_within(from..start, to);
                to = to.saturating_add(start.saturating_sub(from));
            }
            from = from.max(behind.min(end));
        }
        self.out.truncate(to);
    }
}

/// Where a place in the run's text will stand in `out`.
fn place(out: &[u8], run: &Run<'_>, at: usize) -> usize {
    out.len().wrapping_add(at.wrapping_sub(run.from))
}

/// Whether a string is short enough, and all of it is characters: a surrogate may stand alone, and only its pair has one.
#[inline]
fn is_simple(s: Str<'_>) -> bool {
    s.raw.len() < STRING_LIMIT && !(s.escaped && (s.raw.contains("\\ud") || s.raw.contains("\\uD")))
}

/// Whether a string is one of those that Keen replaces by what it sees of the caller (keen.io/docs/streams, "IP to geo" and
/// "User agent"): through a proxy that is the proxy.
#[must_use]
#[inline]
pub fn is_placeholder(s: Str<'_>) -> bool {
    const LONGEST: usize = 128; // every character as a \u escape
    let may_be = s.raw.as_bytes().first() == Some(&b'$') || (s.escaped && s.raw.len() <= LONGEST);
    may_be && names_a_placeholder(s)
}

#[inline(never)]
fn names_a_placeholder(s: Str<'_>) -> bool {
    matches!(s.decode().as_ref(), "${keen.ip}" | "${keen.user_agent}")
}

/// Whether Keen can hold the number: from -2^63 to 2^63 - 1.
fn fits(digits: &str) -> bool {
    // As nearly all are.
    if digits.len() <= 18 && !digits.bytes().any(|b| matches!(b, b'e' | b'E')) {
        return true;
    }
    let integer = !digits.bytes().any(|b| matches!(b, b'.' | b'e' | b'E'));
    if integer {
        return digits.parse::<i64>().is_ok();
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
    let mut writer = EventWriter { out, notes: &mut Notes::default(), mended: 0 };
    writer.copy_whole(text)?;
    writer.take_out();
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
        let got: serde_json::Value =
            serde_json::from_str(&legal(&format!("{{{}}}", many.join(",")))).unwrap();
        assert_eq!(got.as_object().unwrap().len(), 30);
        assert_eq!(got.get("k5").unwrap(), 35);
        assert_eq!(got.get("k15").unwrap(), 15);
    }

    #[test]
    fn equal_names_inside_each_other() {
        assert_eq!(
            legal(r#"{"a":{"b":1,"b":2},"c":{"d":3,"d":4,"e":{"f":5,"f":6}},"a":7}"#),
            r#"{"c":{"d":4,"e":{"f":6}},"a":7}"#
        );
        let (twice, once) =
            (r#"{"a":[1,{"x":1}],"b":2,"a":"#.repeat(400), r#"{"b":2,"a":"#.repeat(400));
        let close = "}".repeat(400);
        assert_eq!(legal(&format!("{twice}0{close}")), format!("{once}0{close}"));
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
        let mut notes = Notes::default();
        let mut event = EventWriter::new(&mut out, &mut notes);
        let (text, mut list) = (r#"{"userId":"p","a":{"userId":1},"skip":[1]}"#, Vec::new());
        Cursor::new(text).members(&mut list).unwrap();
        event.properties(Members { text, list: &list }, |key, _| key.is("skip"));
        assert!(event.has("userId") && !event.has("traits"));
        event.text("userId", "u");
        event.finish();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":{"userId":1},"userId":"u"}"#);
    }

    #[test]
    fn one_wide_event_keeps_no_room() {
        let mut notes = Notes::default();
        for (members, kept) in [(100, true), (50_000, false)] {
            let mut out = Vec::new();
            let mut event = EventWriter::new(&mut out, &mut notes);
            (0..members).for_each(|at| event.text(&format!("member{at}"), "x"));
            event.finish();
            notes.shrink(100_000);
            assert_eq!(notes.members.capacity() > 0, kept);
        }
    }
}
