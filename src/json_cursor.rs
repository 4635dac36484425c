//! JSON text read in one pass: borrowed, iterative, digits kept.
//!
//! A request body is walked once and its values are handed on as the text they came as. Nothing recurses, so nesting
//! costs heap and never stack, and a number keeps every digit (a tree of `f64` would not).

use std::borrow::Cow;

/// The text is not JSON (RFC 8259), or not of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A result of reading.
pub type Read<T> = Result<T, Malformed>;

/// A JSON string as it stands between its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Str<'a> {
    /// The text between the quotes, escapes untouched.
    pub raw: &'a str,
    /// Whether `raw` holds a backslash.
    pub escaped: bool,
}

impl<'a> Str<'a> {
    /// The string it stands for. A lone surrogate becomes U+FFFD: no Unicode text can hold it.
    #[must_use]
    pub fn decode(&self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }

    /// Whether it stands for `other`.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        if self.escaped { self.decode() == other } else { self.raw == other }
    }
}

/// One value. Containers are kept as their text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Value<'a> {
    /// No such member.
    #[default]
    Absent,
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, digit by digit as it came.
    Number(&'a str),
    /// A string.
    String(Str<'a>),
    /// An array, brackets included.
    Array(&'a str),
    /// An object, braces included.
    Object(&'a str),
}

impl<'a> Value<'a> {
    /// JavaScript's truth, which Segment's own code decides by.
    #[must_use]
    #[inline]
    pub fn truthy(&self) -> bool {
        match self {
            Self::Absent | Self::Null => false,
            Self::Bool(b) => *b,
            Self::Number(n) => n
                .bytes()
                .take_while(|b| !matches!(b, b'e' | b'E'))
                .any(|b| matches!(b, b'1'..=b'9')),
            Self::String(s) => !s.raw.is_empty(),
            Self::Array(_) | Self::Object(_) => true,
        }
    }

    /// Whether there is a value, and not `null`: clients write `null` for what they do not know.
    #[must_use]
    pub fn is_given(&self) -> bool {
        !matches!(self, Self::Absent | Self::Null)
    }

    /// The string, where it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::String(s) => Some(s.decode()),
            _ => None,
        }
    }

    /// A string or a number as text, where it is truthy.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            _ if !self.truthy() => None,
            Self::String(s) => Some(s.decode()),
            Self::Number(n) => Some(Cow::Borrowed(n)),
            _ => None,
        }
    }

    /// `self`, or `other` where `self` is absent.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if matches!(self, Self::Absent) { other } else { self }
    }
}

/// A member of an object, and where it stands in the text that it was read from.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its name.
    pub name: Str<'a>,
    /// Its value.
    pub value: Value<'a>,
    /// The first byte of its name, the quote.
    pub start: usize,
    /// The first byte of its value.
    pub value_start: usize,
    /// The first byte behind its value.
    pub end: usize,
}

impl Member<'_> {
    /// The first byte behind its name, quotes included.
    #[must_use]
    pub fn name_end(&self) -> usize {
        self.start.wrapping_add(self.name.raw.len()).wrapping_add(2)
    }
}

/// Members of one object.
#[derive(Debug, Clone, Copy, Default)]
pub struct Members<'a> {
    /// The text that their places are in: the object, or more.
    pub text: &'a str,
    /// In order.
    pub list: &'a [Member<'a>],
}

/// A place in a JSON text.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The start of `text`.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// A place in `text`, so many bytes behind its start.
    #[must_use]
    pub fn within(text: &'a str, at: usize) -> Self {
        Self { text, at }
    }

    /// How far into the text it is, in bytes.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space, unread.
    #[inline(always)]
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(byte) if *byte > b' ' => return Some(*byte),
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.step(1),
                other => return other.copied(),
            }
        }
    }

    /// Reads `byte` if it comes next.
    #[inline(always)]
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.step(1);
        }
        found
    }

    /// Reads `text` if just that comes next.
    pub fn eat_text(&mut self, text: &str) -> bool {
        self.peek();
        let found = self
            .text
            .as_bytes()
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(text.as_bytes()));
        if found {
            self.step(text.len());
        }
        found
    }

    /// Reads `byte`, which must come next.
    ///
    /// # Errors
    /// Something else comes.
    #[inline(always)]
    pub fn expect(&mut self, byte: u8) -> Read<()> {
        if self.eat(byte) { Ok(()) } else { Err(Malformed) }
    }

    /// Nothing but white space may follow.
    ///
    /// # Errors
    /// Something follows.
    pub fn end(&mut self) -> Read<()> {
        if self.peek().is_none() { Ok(()) } else { Err(Malformed) }
    }

    /// Reads a string.
    ///
    /// # Errors
    /// No string comes, or it is cut, or it holds a control character or an unknown escape.
    #[inline(always)]
    pub fn string(&mut self) -> Read<Str<'a>> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') && self.peek() != Some(b'"') {
            return Err(Malformed);
        }
        let start = self.at.wrapping_add(1);
        // Most strings are plain, and end in the first block.
        if let Some(end) = short_plain(self.text.as_bytes(), start) {
            self.at = end.wrapping_add(1);
            let raw = self.text.get(start..end).ok_or(Malformed)?;
            return Ok(Str { raw, escaped: false });
        }
        // What passes over text gives no slices back, here and below: those would go by way of the memory, and be waited
        // for there.
        let passed = self.pass_string(start);
        let raw = self.text.get(start..self.at.wrapping_sub(1)).ok_or(Malformed)?;
        match passed {
            Passed::Plain => Ok(Str { raw, escaped: false }),
            Passed::Escaped => Ok(Str { raw, escaped: true }),
            Passed::Malformed => Err(Malformed),
        }
    }

    /// Passes over a string whose text starts at `start`.
    #[inline(never)]
    fn pass_string(&mut self, start: usize) -> Passed {
        let bytes = self.text.as_bytes();
        self.at = plain_until(bytes, start);
        let plain = bytes.get(self.at) == Some(&b'"');
        if plain {
            self.step(1);
            return Passed::Plain;
        }
        if self.pass_escapes() { Passed::Escaped } else { Passed::Malformed }
    }

    /// Passes over the rest of a string, from the first byte that is not plain text and no quote. False where it is malformed.
    fn pass_escapes(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.step(1);
                    return true;
                }
                Some(b'\\') => {
                    self.step(1);
                    match bytes.get(self.at) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                            self.step(1)
                        }
                        Some(b'u') => {
                            self.step(1);
                            for _ in 0..4 {
                                match bytes.get(self.at) {
                                    Some(b) if b.is_ascii_hexdigit() => self.step(1),
                                    _ => return false,
                                }
                            }
                        }
                        _ => return false,
                    }
                }
                _ => return false,
            }
            self.at = plain_until(bytes, self.at);
        }
    }

    /// Reads a number, as its text.
    ///
    /// # Errors
    /// No number comes, or one that JSON does not know (`+1`, `01`, `.5`, `NaN`).
    pub fn number(&mut self) -> Read<&'a str> {
        self.peek();
        let start = self.at;
        if !self.pass_number() {
            return Err(Malformed);
        }
        self.text.get(start..self.at).ok_or(Malformed)
    }

    /// Passes over a number, which is to start here. False where none does.
    #[inline(never)]
    fn pass_number(&mut self) -> bool {
        if self.now() == Some(b'-') {
            self.step(1);
        }
        match self.now() {
            Some(b'0') => self.step(1),
            Some(b'1'..=b'9') => {
                self.pass_digits();
            }
            _ => return false,
        }
        if self.now() == Some(b'.') {
            self.step(1);
            if !self.pass_digits() {
                return false;
            }
        }
        if matches!(self.now(), Some(b'e' | b'E')) {
            self.step(1);
            if matches!(self.now(), Some(b'+' | b'-')) {
                self.step(1);
            }
            return self.pass_digits();
        }
        true
    }

    /// Reads one value.
    ///
    /// # Errors
    /// What comes is no JSON value.
    pub fn value(&mut self) -> Read<Value<'a>> {
        Ok(match self.peek() {
            Some(b'"') => Value::String(self.string()?),
            Some(b'{') => Value::Object(self.skip()?),
            Some(b'[') => Value::Array(self.skip()?),
            Some(b't') => self.literal("true", Value::Bool(true))?,
            Some(b'f') => self.literal("false", Value::Bool(false))?,
            Some(b'n') => self.literal("null", Value::Null)?,
            _ => Value::Number(self.number()?),
        })
    }

    /// Reads one value of any depth and gives its text.
    ///
    /// # Errors
    /// What comes is no JSON value.
    pub fn skip(&mut self) -> Read<&'a str> {
        self.peek();
        let start = self.at;
        self.pass_value()?;
        self.text.get(start..self.at).ok_or(Malformed)
    }

    /// Passes over a value of any depth.
    #[inline(never)]
    fn pass_value(&mut self) -> Read<()> {
        let mut nest = Nest::default();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.step(1);
                    if !self.eat(b'}') {
                        nest.push(true);
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.step(1);
                    if !self.eat(b']') {
                        nest.push(false);
                        continue;
                    }
                }
                Some(b'"') => drop(self.string()?),
                Some(b't' | b'f' | b'n') => drop(self.value()?),
                _ => drop(self.number()?),
            }
            loop {
                let Some(object) = nest.top() else { return Ok(()) };
                if self.eat(b',') {
                    if object {
                        self.key()?;
                    }
                    break;
                }
                self.expect(if object { b'}' } else { b']' })?;
                nest.pop();
            }
        }
    }

    /// Reads an object. `member` gets each name, and the cursor at its value, which it must read.
    ///
    /// # Errors
    /// What comes is no object, or `member` failed.
    pub fn object(&mut self, mut member: impl FnMut(Str<'a>, &mut Self) -> Read<()>) -> Read<()> {
        self.expect(b'{')?;
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            let name = self.key()?;
            member(name, self)?;
            if !self.eat(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// Reads an object, and appends its members to `found`; gives its text, braces included.
    ///
    /// # Errors
    /// What comes is no object.
    pub fn members(&mut self, found: &mut Vec<Member<'a>>) -> Read<&'a str> {
        self.peek();
        let from = self.at;
        self.expect(b'{')?;
        if !self.eat(b'}') {
            loop {
                self.peek();
                let start = self.at;
                let name = self.key()?;
                self.peek();
                let value_start = self.at;
                let value = self.value()?;
                found.push(Member { name, value, start, value_start, end: self.at });
                if !self.eat(b',') {
                    self.expect(b'}')?;
                    break;
                }
            }
        }
        self.text.get(from..self.at).ok_or(Malformed)
    }

    /// Reads an array. `element` gets the cursor at each value, which it must read.
    ///
    /// # Errors
    /// What comes is no array, or `element` failed.
    pub fn array(&mut self, mut element: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        self.expect(b'[')?;
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.eat(b',') {
                return self.expect(b']');
            }
        }
    }

    /// Reads a member's name and the colon behind it.
    ///
    /// # Errors
    /// No name or no colon comes.
    #[inline(always)]
    pub fn key(&mut self) -> Read<Str<'a>> {
        let name = self.string()?;
        self.expect(b':')?;
        Ok(name)
    }

    fn literal(&mut self, word: &str, value: Value<'a>) -> Read<Value<'a>> {
        let end = self.at.saturating_add(word.len());
        if self.text.as_bytes().get(self.at..end) == Some(word.as_bytes()) {
            self.at = end;
            return Ok(value);
        }
        Err(Malformed)
    }

    /// Passes over digits. False where none comes.
    fn pass_digits(&mut self) -> bool {
        let start = self.at;
        while matches!(self.now(), Some(b'0'..=b'9')) {
            self.step(1);
        }
        self.at != start
    }

    #[inline(always)]
    fn now(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    // It stays within the text: each step is over bytes that have been seen.
    #[inline(always)]
    fn step(&mut self, by: usize) {
        self.at = self.at.wrapping_add(by);
    }
}

/// Where a string's closing quote stands whose text starts at `start`, where it is plain and ends in the first block.
#[inline(always)]
fn short_plain(bytes: &[u8], start: usize) -> Option<usize> {
    let block = bytes.get(start..)?.first_chunk::<{ block::BYTES }>()?;
    let end = start.wrapping_add(block::first_special(block)?);
    (bytes.get(end) == Some(&b'"')).then_some(end)
}

/// Where the first byte from `at` on stands that is not a string's plain text: a quote, a backslash, a control character.
#[inline]
fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    let (blocks, rest) = bytes.get(at..).unwrap_or_default().as_chunks::<{ block::BYTES }>();
    for block in blocks {
        if let Some(place) = block::first_special(block) {
            return at.wrapping_add(place);
        }
        at = at.wrapping_add(block::BYTES);
    }
    let plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | 0x00..=0x1f);
    at.wrapping_add(rest.iter().position(|byte| !plain(byte)).unwrap_or(rest.len()))
}

/// Bytes looked at together: sixteen where the machine has vectors for it.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod block {
    use std::arch::wasm32::{i8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, u64x2, v128_or};

    pub(super) const BYTES: usize = 16;

    /// Where the first of them stands that is not a string's plain text.
    #[inline]
    pub(super) fn first_special(block: &[u8; BYTES]) -> Option<usize> {
        let word = u128::from_le_bytes(*block);
        #[allow(clippy::cast_possible_truncation, reason = "each takes its half")]
        let bytes = u64x2(word as u64, (word >> 64) as u64);
        let quote = u8x16_eq(bytes, u8x16_splat(b'"'));
        let backslash = u8x16_eq(bytes, u8x16_splat(b'\\'));
        let control = u8x16_lt(bytes, u8x16_splat(0x20));
        let found = i8x16_bitmask(v128_or(v128_or(quote, backslash), control));
        if found == 0 { None } else { usize::try_from(found.trailing_zeros()).ok() }
    }
}

/// Bytes looked at together: eight, in one register.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
mod block {
    pub(super) const BYTES: usize = 8;

    /// Where the first of them stands that is not a string's plain text.
    #[inline]
    pub(super) fn first_special(block: &[u8; BYTES]) -> Option<usize> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = 0x8080_8080_8080_8080;
        let word = u64::from_le_bytes(*block);
        // A byte's high bit where it is zero after the exclusive or (Mycroft), and where it is below 0x20. Bytes over
        // 0x7f are text. A borrow may mark a byte behind the first: only the first counts.
        let zero = |x: u64| x.wrapping_sub(ONES) & !x;
        let quote = zero(word ^ (ONES.wrapping_mul(0x22)));
        let backslash = zero(word ^ (ONES.wrapping_mul(0x5c)));
        let control = word.wrapping_sub(ONES.wrapping_mul(0x20)) & !word;
        let found = (quote | backslash | control) & HIGH;
        if found == 0 { None } else { usize::try_from(found.trailing_zeros() >> 3).ok() }
    }
}

/// What has been passed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passed {
    Plain,
    Escaped,
    Malformed,
}

/// The containers that are open, one bit each: 64 levels in place, deeper ones on the heap.
#[derive(Default)]
struct Nest {
    bits: u64,
    depth: usize,
    deeper: Vec<u64>,
}

impl Nest {
    fn push(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.deeper.push(self.bits);
        }
        self.bits = (self.bits << 1) | u64::from(object);
        self.depth = self.depth.saturating_add(1);
    }

    fn pop(&mut self) {
        self.bits >>= 1;
        self.depth = self.depth.saturating_sub(1);
        if self.depth > 0
            && self.depth.is_multiple_of(64)
            && let Some(bits) = self.deeper.pop()
        {
            self.bits = bits;
        }
    }

    fn top(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.bits & 1 == 1)
    }
}

/// Writes `text` as a JSON string, quotes included, with the fewest escapes.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(out, text);
    out.push(b'"');
}

/// Writes `text` as it stands inside a JSON string.
pub fn write_escaped(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let plain = plain_until(bytes, at);
        out.extend_from_slice(bytes.get(at..plain).unwrap_or_default());
        let Some(&byte) = bytes.get(plain) else { return };
        at = plain.saturating_add(1);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x00..=0x1f => {
                out.extend_from_slice(b"\\u00");
                out.extend(HEX.get(usize::from(byte >> 4)));
                out.extend(HEX.get(usize::from(byte & 15)));
            }
            _ => out.push(byte),
        }
    }
}

fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('u') => {
                let high = hex4(&mut chars);
                let mut ahead = chars.clone();
                let pair = (0xd800..0xdc00).contains(&high)
                    && ahead.next() == Some('\\')
                    && ahead.next() == Some('u');
                let low = if pair { hex4(&mut ahead) } else { 0 };
                if (0xdc00..0xe000).contains(&low) {
                    chars = ahead;
                    let c = (((high & 0x3ff) << 10) | (low & 0x3ff)).wrapping_add(0x1_0000);
                    text.push(char::from_u32(c).unwrap_or('\u{fffd}'));
                } else {
                    text.push(char::from_u32(high).unwrap_or('\u{fffd}'));
                }
            }
            Some(other) => text.push(other),
            None => {}
        }
    }
    text
}

fn hex4(chars: &mut std::str::Chars<'_>) -> u32 {
    let mut code = 0;
    for _ in 0..4 {
        code = (code << 4) | chars.next().and_then(|c| c.to_digit(16)).unwrap_or(0);
    }
    code
}
