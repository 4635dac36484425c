//! Timestamps: parses the forms that clients send, corrects clock skew as Segment does, and formats
//! them for Keen.
//!
//! All timestamps are milliseconds since 1970-01-01T00:00:00Z.
//!
//! ```
//! use keen_edge::timestamp;
//!
//! let time = timestamp::parse_text("Mon, 23 Nov 2026 22:03:16 GMT").unwrap();
//! let mut out = Vec::new();
//! timestamp::format(&mut out, time);
//! assert_eq!(out, b"2026-11-23T22:03:16.000Z");
//! ```

use crate::json::{Value, parse_f64};
use std::ops::RangeInclusive;
use time::{Date, Month};

/// 1970-01-01 as a Julian day number.
const UNIX_EPOCH_JULIAN_DAY: i32 = 2_440_588;
const MS_PER_DAY: i64 = 86_400_000;
const MS_PER_HALF_DAY: i64 = 43_200_000;
const MS_PER_HOUR: i64 = 3_600_000;
/// Timestamps whose year has four digits: 0001-01-01 to the end of 9999.
const VALID_RANGE_MS: RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;
/// Smaller numbers are seconds, others milliseconds, as in Segment's `new-date`.
const FIRST_MILLISECONDS: f64 = 31_557_600_000.0;
/// Maximum length of a timestamp, in bytes. The longest form is JavaScript's `Date#toString` with a
/// long zone name.
const MAX_TEXT_BYTES: usize = 128;
/// 2000-01-01. Clocks that were never set, and Go's zero time, are earlier.
const FIRST_SENT_AT_MS: i64 = 946_684_800_000;

/// Returns `receivedAt - (sentAt - originalTimestamp)`: the client's clock may be wrong, but its
/// intervals are right (segment.com/docs/connections/spec/common, "Timestamps"). Without `sent`
/// nothing is corrected.
#[must_use]
pub fn correct_clock_skew(original: Option<i64>, sent: Option<i64>, received: i64) -> i64 {
    let time = match (original, sent) {
        (Some(original), Some(sent)) => {
            sent.checked_sub(original).and_then(|age| received.checked_sub(age))
        }
        (original, _) => original,
    };
    time.filter(|time| VALID_RANGE_MS.contains(time)).unwrap_or(received)
}

/// Parses a `sentAt`. One before the year 2000 is ignored.
#[must_use]
pub fn parse_sent_at(value: Value<'_>) -> Option<i64> {
    parse(value).filter(|sent| *sent >= FIRST_SENT_AT_MS)
}

/// Parses a timestamp as clients write it: a string that [`parse_text`] accepts, or seconds or
/// milliseconds since 1970 as a number. `None`: it is neither.
#[must_use]
pub fn parse(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Number(digits) if digits.len() <= MAX_TEXT_BYTES => parse_unix_time(digits),
        Value::String(text) => match parse_js_iso(text.raw().as_bytes()) {
            None => parse_text(&value.short_str(MAX_TEXT_BYTES)?),
            time => time,
        },
        _ => None,
    }
}

/// Parses a timestamp string. Accepts ISO 8601 with or without separators, with any fraction and
/// offset (UTC by default), and its variants in Go, Java and Ruby; seconds or milliseconds since
/// 1970 in 10 or 13 digits; and the other forms of JavaScript, Java and HTTP that V8 reads.
#[must_use]
pub fn parse_text(text: &str) -> Option<i64> {
    let mut text = text.trim();
    // Java's `ZonedDateTime#toString` ends in `[Europe/Berlin]`.
    if text.ends_with(']') {
        text = text.split_once('[')?.0;
    }
    match text.as_bytes().first()? {
        _ if looks_like_unix_time(text) => parse_unix_time(text),
        b'0'..=b'9' => parse_iso8601(text).or_else(|| parse_words(text)),
        _ => parse_words(text),
    }
}

/// Parses `YYYY-MM-DDThh:mm:ss.sssZ`, as JavaScript and most SDKs write it. [`parse_iso8601`]
/// parses other forms.
fn parse_js_iso(text: &[u8]) -> Option<i64> {
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b'.',
        f1,
        f2,
        f3,
        b'Z',
    ] = *text
    else {
        return None;
    };
    let digits = [y1, y2, y3, y4, m1, m2, d1, d2, h1, h2, n1, n2, s1, s2, f1, f2, f3];
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let two = |tens: u8, ones: u8| (tens & 15).wrapping_mul(10).wrapping_add(ones & 15);
    let [hour, minute, second] = [two(h1, h2), two(n1, n2), two(s1, s2)];
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let year = i32::from(two(y1, y2)).wrapping_mul(100).wrapping_add(i32::from(two(y3, y4)));
    let date =
        Date::from_calendar_date(year, Month::try_from(two(m1, m2)).ok()?, two(d1, d2)).ok()?;
    let days = i64::from(date.to_julian_day().wrapping_sub(UNIX_EPOCH_JULIAN_DAY));
    let minutes = days
        .wrapping_mul(1440)
        .wrapping_add(i64::from(hour).wrapping_mul(60))
        .wrapping_add(i64::from(minute));
    let milli = i64::from(two(f1, f2)).wrapping_mul(10).wrapping_add(i64::from(f3 & 15));
    Some(
        minutes
            .wrapping_mul(60)
            .wrapping_add(i64::from(second))
            .wrapping_mul(1000)
            .wrapping_add(milli),
    )
}

fn looks_like_unix_time(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    matches!(whole.len(), 10 | 13) && digits(whole) && digits(fraction)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a float's cast saturates, and what is out of range is refused"
)]
fn parse_unix_time(digits: &str) -> Option<i64> {
    // JSON numbers have no leading zeros, but digits in a string may.
    let significant = digits.trim_start_matches('0');
    let starts_with_digit = significant.starts_with(|c: char| c.is_ascii_digit());
    let number = parse_f64(if starts_with_digit { significant } else { digits })?;
    let at =
        if number.abs() < FIRST_MILLISECONDS { (number * 1000.0).round() } else { number.trunc() }
            as i64;
    VALID_RANGE_MS.contains(&at).then_some(at)
}

fn parse_iso8601(text: &str) -> Option<i64> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    let separated = skip(&mut rest, b"-");
    let more = |rest: &[u8]| separated || rest.first().is_some_and(u8::is_ascii_digit);
    let month = if more(rest) { digits(&mut rest, 2)? } else { 1 };
    let day =
        if skip(&mut rest, b"-") || (!separated && more(rest)) { digits(&mut rest, 2)? } else { 1 };
    let mut at = day_start(year, month, day)?;
    if skip(&mut rest, b"Tt ") {
        at = at.checked_add(parse_time_of_day(&mut rest)?)?.checked_sub(offset(&mut rest)?)?;
        skip_go_suffixes(&mut rest);
    }
    rest.is_empty().then_some(at)
}

/// Skips what Go's `time.String()` adds after an offset: the zone's name (or its offset again), and
/// the reading of the monotonic clock.
fn skip_go_suffixes(rest: &mut &[u8]) {
    if let Some(behind) = rest.strip_prefix(b" ") {
        let name =
            behind.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-'));
        let length = name.count();
        if length > 0 && behind.get(length) != Some(&b'=') {
            *rest = behind.get(length..).unwrap_or_default();
        }
    }
    if let Some(reading) = rest.strip_prefix(b" m=")
        && matches!(reading.first(), Some(b'+' | b'-'))
        && reading.iter().skip(1).all(|b| b.is_ascii_digit() || *b == b'.')
    {
        *rest = &[];
    }
}

/// Parses the forms that ISO 8601 does not have, as JavaScript's engine V8 reads them: with a
/// month's name or with slashes, of 12 or 24 hours, with an optional zone (UTC by default), such as
/// `Mon Nov 23 2026 22:03:16 GMT+0100 (Central European Standard Time)`,
/// `Mon, 23 Nov 2026 22:03:16 GMT`, `Monday, 23-Nov-26 22:03:16 UTC`, `11/23/2026, 10:03:16 PM`.
fn parse_words(text: &str) -> Option<i64> {
    /// The first three letters of words: months, halves of the day, zones (RFC 822).
    const WORDS: &[u8] = b"janfebmaraprmayjunjulaugsepoctnovdec\
        am pm gmtutcut z  estedtcstcdtmstmdtpstpdt";
    const ZONE_HOURS: [i64; 12] = [0, 0, 0, 0, -5, -4, -6, -5, -7, -6, -8, -7];
    let mut rest = text.as_bytes();
    let mut numbers = [0_i64; 3];
    let (mut count, mut month) = (0_usize, None);
    let (mut time, mut half_day, mut zone) = (None, None, None);
    while let Some((first, tail)) = rest.split_first() {
        let length = |is: fn(&u8) -> bool| rest.iter().take_while(|byte| is(byte)).count();
        match first {
            b'0'..=b'9' => {
                let length = length(u8::is_ascii_digit);
                if time.is_none() && length <= 2 && rest.get(length) == Some(&b':') {
                    time = Some(parse_time_of_day(&mut rest)?);
                } else {
                    let number = digits(&mut rest, length).filter(|_| length <= 4)?;
                    *numbers.get_mut(count)? = number;
                    count = count.saturating_add(1);
                }
                continue;
            }
            b'a'..=b'z' | b'A'..=b'Z' => {
                let (word, tail) = rest.split_at_checked(length(u8::is_ascii_alphabetic))?;
                rest = tail;
                let letter = |at: usize| word.get(at).map_or(b' ', u8::to_ascii_lowercase);
                let start = [letter(0), letter(1), letter(2)];
                let index = WORDS.chunks_exact(3).position(|word| word == start);
                match index {
                    Some(index @ 0..12) if month.is_none() => month = i64::try_from(index).ok(),
                    Some(12) => half_day = Some(0),
                    Some(13) => half_day = Some(MS_PER_HALF_DAY),
                    Some(index @ 14..) => {
                        let hours = ZONE_HOURS.get(index.saturating_sub(14))?;
                        zone = zone.or(hours.checked_mul(MS_PER_HOUR));
                    }
                    // A weekday, for example.
                    None if count == 0 => {}
                    _ => return None,
                }
                continue;
            }
            // An offset overrides a zone's name. In a date these characters separate.
            b'+' | b'-' if time.is_some() || zone.is_some() => {
                zone = Some(offset(&mut rest)?);
                continue;
            }
            // A comment.
            b'(' => break,
            _ => rest = tail,
        }
    }
    let is_day = |number: i64| (1..=31).contains(&number);
    let (year, month, day) = match (month, count, numbers) {
        (Some(month), 2, [day, year, _]) if is_day(day) => (year, month.checked_add(1)?, day),
        (Some(month), 2, [year, day, _]) => (year, month.checked_add(1)?, day),
        (None, 3, [month, day, year]) if is_day(month) => (year, month, day),
        (None, 3, [year, month, day]) => (year, month, day),
        _ => return None,
    };
    let century = match year {
        0..=49 => 2000,
        50..=99 => 1900,
        _ => 0,
    };
    let mut time: i64 = time.unwrap_or(0);
    if let Some(half_day) = half_day {
        if time >= MS_PER_HALF_DAY.saturating_add(MS_PER_HOUR) {
            return None;
        }
        time = (time % MS_PER_HALF_DAY).checked_add(half_day)?;
    }
    let day = day_start(year.checked_add(century)?, month, day)?;
    day.checked_add(time)?.checked_sub(zone.unwrap_or(0))
}

/// Returns the start of a day in UTC.
#[inline(never)]
fn day_start(year: i64, month: i64, day: i64) -> Option<i64> {
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date =
        Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let days = i64::from(date.to_julian_day().checked_sub(UNIX_EPOCH_JULIAN_DAY)?);
    days.checked_mul(MS_PER_DAY)
}

/// Parses `hh`, `hh:mm` or `hh:mm:ss` with any fraction, with or without colons. 24:00 is the end
/// of the day. A leap second is the second after it. V8 also reads parts of one digit.
#[inline(never)]
fn parse_time_of_day(rest: &mut &[u8]) -> Option<i64> {
    let hour = up_to_two_digits(rest)?;
    let next = |rest: &mut &[u8]| skip(rest, b":") || rest.first().is_some_and(u8::is_ascii_digit);
    let minute = if next(rest) { up_to_two_digits(rest).filter(|m| *m <= 59)? } else { 0 };
    let second = if next(rest) { up_to_two_digits(rest).filter(|s| *s <= 60)? } else { 0 };
    let milli = if skip(rest, b".,") { fraction(rest)? } else { 0 };
    let of_day =
        hour.checked_mul(3600)?.checked_add(minute.checked_mul(60)?)?.checked_add(second)?;
    let of_day = of_day.checked_mul(1000)?.checked_add(milli)?;
    (hour <= 23 || of_day == MS_PER_DAY).then_some(of_day)
}

/// Parses `Z`, `UTC`, `+hh`, `+hhmm` or `+hh:mm`. Returns milliseconds. Ruby and Go write a space
/// before it.
#[inline(never)]
fn offset(rest: &mut &[u8]) -> Option<i64> {
    skip(rest, b" ");
    if rest.is_empty() || skip(rest, b"Zz") {
        return Some(0);
    }
    if let Some(behind) = rest.strip_prefix(b"UTC").or_else(|| rest.strip_prefix(b"GMT")) {
        *rest = behind;
        return Some(0);
    }
    let west = skip(rest, b"-");
    if !west && !skip(rest, b"+") {
        return None;
    }
    let hours = up_to_two_digits(rest)?;
    skip(rest, b":");
    let minutes = digits(rest, 2).unwrap_or(0);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = hours.checked_mul(60)?.checked_add(minutes)?.checked_mul(60_000)?;
    Some(if west { offset.checked_neg()? } else { offset })
}

/// Parses a fraction of any number of digits. Returns milliseconds, truncated.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    let mut milli = 0_i64;
    let mut place = 100_i64;
    let mut any = false;
    while let Some((digit @ b'0'..=b'9', tail)) = rest.split_first() {
        milli = milli.checked_add(i64::from(digit & 15).checked_mul(place)?)?;
        place = place.checked_div(10)?;
        any = true;
        *rest = tail;
    }
    any.then_some(milli)
}

#[inline(never)]
fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    let number = head.iter().try_fold(0_i64, |number, byte| {
        let digit = byte.is_ascii_digit().then_some(i64::from(byte & 15))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    *rest = tail;
    Some(number)
}

fn up_to_two_digits(rest: &mut &[u8]) -> Option<i64> {
    digits(rest, 2).or_else(|| digits(rest, 1))
}

fn skip(rest: &mut &[u8], any_of: &[u8]) -> bool {
    match rest.split_first() {
        Some((first, tail)) if any_of.contains(first) => {
            *rest = tail;
            true
        }
        _ => false,
    }
}

/// Returns the date of a timestamp.
fn date(at: i64) -> Option<Date> {
    let day = i32::try_from(at.div_euclid(MS_PER_DAY)).ok()?.checked_add(UNIX_EPOCH_JULIAN_DAY)?;
    Date::from_julian_day(day).ok()
}

/// Writes `YYYY-MM-DDThh:mm:ss.sssZ`.
pub fn format(out: &mut Vec<u8>, at: i64) {
    let (year, month, day) = date(at).unwrap_or(Date::MIN).to_calendar_date();
    let (year, month, day) =
        (u32::try_from(year).unwrap_or(0), u32::from(u8::from(month)), u32::from(day));
    let of_day = u32::try_from(at.rem_euclid(MS_PER_DAY)).unwrap_or(0);
    let (hour, minute, second, milli) =
        (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
    let last = |number: u32| b'0' | u8::try_from(number % 10).unwrap_or(0);
    let two = |number: u32| [last(number / 10), last(number)];
    let ([y1, y2], [y3, y4], [m1, m2], [d1, d2]) =
        (two(year / 100), two(year), two(month), two(day));
    let ([h1, h2], [n1, n2], [s1, s2], [f1, f2]) =
        (two(hour), two(minute), two(second), two(milli / 10));
    out.extend_from_slice(&[
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b'.',
        f1,
        f2,
        last(milli),
        b'Z',
    ]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::json::read_value;

    fn rewritten(json: &str) -> Option<String> {
        let mut out = Vec::new();
        format(&mut out, parse(read_value(json).unwrap())?);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn parse_every_form_of_clients_is_read() {
        for (json, want) in [
            (r#""2014""#, "2014-01-01T00:00:00.000Z"),
            (r#""2014-02""#, "2014-02-01T00:00:00.000Z"),
            (r#""2012-12-02T00:30:12.984Z""#, "2012-12-02T00:30:12.984Z"),
            (r#""2026-11-23T22:03:16.385123456+01:00""#, "2026-11-23T21:03:16.385Z"),
            (r#""2026-11-23 22:03:16-0530""#, "2026-11-24T03:33:16.000Z"),
            (r#""2026-11-23T22:03:16.9""#, "2026-11-23T22:03:16.900Z"),
            ("1388534400", "2014-01-01T00:00:00.000Z"),
            ("1388534400123", "2014-01-01T00:00:00.123Z"),
            (r#""1388534400""#, "2014-01-01T00:00:00.000Z"),
            ("1388534400.5", "2014-01-01T00:00:00.500Z"),
            (r#""1969-12-31T23:59:59.999Z""#, "1969-12-31T23:59:59.999Z"),
            (r#""2024-02-29""#, "2024-02-29T00:00:00.000Z"),
            (r#""20121202T003012Z""#, "2012-12-02T00:30:12.000Z"),
            (r#""20121202T003012.5+0130""#, "2012-12-01T23:00:12.500Z"),
            (r#""20121202""#, "2012-12-02T00:00:00.000Z"),
            (r#""2012-12-02T24:00:00""#, "2012-12-03T00:00:00.000Z"),
            (r#""2016-12-31T23:59:60Z""#, "2017-01-01T00:00:00.000Z"),
            (r#""2026-11-23T22:03:16,5-03""#, "2026-11-24T01:03:16.500Z"),
            (r#""2026-11-23 22:03:16 +0100""#, "2026-11-23T21:03:16.000Z"),
            (r#""2026-11-23 22:03:16.25 UTC""#, "2026-11-23T22:03:16.250Z"),
            (r#""1388534400.25""#, "2014-01-01T00:00:00.250Z"),
            (r#""0001-01-01T00:00:00Z""#, "0001-01-01T00:00:00.000Z"),
            // Go's time.String() for zones with and without a name, and with the monotonic clock.
            (r#""2016-07-18 14:26:03.123456789 -0700 PDT""#, "2016-07-18T21:26:03.123Z"),
            (r#""2016-07-18 14:26:03 +0000 UTC""#, "2016-07-18T14:26:03.000Z"),
            (r#""2016-07-18 14:26:03.1 +0545 +0545 m=+0.000012345""#, "2016-07-18T08:41:03.100Z"),
            (r#""2016-07-18 14:26:03.123456789 -0700 PDT m=-12.5""#, "2016-07-18T21:26:03.123Z"),
            (r#""2026-11-23 22:03:16.5 +0530 IST""#, "2026-11-23T16:33:16.500Z"),
            (r#""0001-01-01 00:00:00 +0000 UTC""#, "0001-01-01T00:00:00.000Z"),
            // Java's ZonedDateTime.
            (r#""2026-11-23T22:03:16.385+01:00[Europe/Berlin]""#, "2026-11-23T21:03:16.385Z"),
            (r#""2026-11-23T22:03:16.385Z[UTC]""#, "2026-11-23T22:03:16.385Z"),
            // Java's Date#toString, and HTTP's dates.
            (r#""Mon Nov 23 22:03:16 UTC 2026""#, "2026-11-23T22:03:16.000Z"),
            (r#""Mon Nov 23 22:03:16 PST 2026""#, "2026-11-24T06:03:16.000Z"),
            (r#""Mon, 23 Nov 2026 22:03:16 +0100""#, "2026-11-23T21:03:16.000Z"),
        ] {
            assert_eq!(rewritten(json).as_deref(), Some(want), "{json}");
        }
        for json in [
            r#""2014-13-45""#,
            r#""2015-2-02T00:30:12.984Z""#,
            r#""yesterday""#,
            "null",
            "{}",
            "1e300",
            r#""2023-02-29""#,
            r#""2014-01-01T25:00""#,
            r#""2014-01-01T24:30""#,
            r#""2014-01-01T10:60""#,
            r#""2014-0101""#,
            r#""2014-01-01T10:00:00.""#,
            r#""2014-01-01T10:00:00Zulu""#,
            r#""2014-01-01T10:00:00 CET""#,
            r#""2014-01-01T10:00:00 +0100 CET m=""#,
            r#""2014-01-01T10:00:00 +0100 CET CET""#,
            r#""Mon Nov 23 22:03:16 CET 2026""#,
            r#""Nov 23 22:03:16""#,
            r#""Mon Nov Nov 23 2026""#,
            r#""Feb 30 2026""#,
            r#""Nov 23 2026 22:03:16 +0160""#,
            r#""1/2/3/2026""#,
            r#""1/2""#,
            r#""]""#,
            r#""Mon, 23 Nov 20266 22:03:16 GMT""#,
            r#""2014-01-01T10:00:00UTC+1""#,
            r#""2014-01-01T10:00:00+24:00""#,
            r#""1388534400000000""#,
            "1388534400000000",
            "true",
            "[1388534400]",
            r#""""#,
        ] {
            assert_eq!(rewritten(json), None, "{json}");
        }
    }

    #[test]
    fn correct_clock_skew_without_sent_at_history_stays() {
        assert_eq!(correct_clock_skew(Some(100), Some(150), 1_000), 950);
        assert_eq!(correct_clock_skew(Some(100), None, 1_000), 100);
        assert_eq!(correct_clock_skew(None, Some(150), 1_000), 1_000);
        assert_eq!(correct_clock_skew(Some(i64::MIN), Some(i64::MAX), 1_000), 1_000);
        // Years 0 and 10000, which Keen cannot store.
        assert_eq!(correct_clock_skew(Some(-62_135_596_800_001), None, 1_000), 1_000);
        assert_eq!(correct_clock_skew(Some(-62_135_596_800_000), None, 1_000), -62_135_596_800_000);
        assert_eq!(correct_clock_skew(Some(253_402_300_800_000), None, 1_000), 1_000);
        assert_eq!(correct_clock_skew(Some(253_402_300_799_999), None, 1_000), 253_402_300_799_999);
    }
}
