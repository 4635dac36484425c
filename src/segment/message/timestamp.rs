//! Points in time: the forms clients send, the correction Segment makes, the form Keen gets.
//!
//! All are milliseconds since 1970-01-01T00:00:00Z.

use crate::json::Value;
use std::ops::RangeInclusive;
use time::{Date, Month};

/// 1970-01-01 as a Julian day number.
const EPOCH: i32 = 2_440_588;
const DAY: i64 = 86_400_000;
/// Points in time that have four digits for their year: from 0001-01-01 to the end of 9999.
const YEARS: RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;
/// Numbers below are seconds, others milliseconds (as Segment's `new-date` decides).
const MILLISECONDS_FROM: f64 = 31_557_600_000.0;

/// `receivedAt - (sentAt - originalTimestamp)`: the client's clock may be wrong, its intervals are right
/// (segment.com/docs/connections/spec/common, "Timestamps"). Without `sent` there is nothing to correct by.
#[must_use]
pub fn corrected(original: Option<i64>, sent: Option<i64>, received: i64) -> i64 {
    let at = match (original, sent) {
        (Some(original), Some(sent)) => {
            sent.checked_sub(original).and_then(|age| received.checked_sub(age))
        }
        (original, _) => original,
    };
    at.filter(|at| YEARS.contains(at)).unwrap_or(received)
}

/// A point in time as clients write it: ISO 8601, with or without its separators, with any fraction and offset (none is
/// UTC), or seconds or milliseconds since 1970 as a number or as a text of 10 or 13 digits. `None` where it is none of these.
#[must_use]
pub fn read(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Number(digits) => epoch(digits),
        Value::String(text) => {
            if let Some(at) = usual(text.raw.as_bytes()) {
                return Some(at);
            }
            let text = text.decode();
            let text = text.trim();
            if is_epoch(text) { epoch(text) } else { iso(text) }
        }
        _ => None,
    }
}

/// `YYYY-MM-DDThh:mm:ss.sssZ`, as JavaScript and most SDKs write it. Any other form is for [`iso`].
fn usual(text: &[u8]) -> Option<i64> {
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
    let days = i64::from(date.to_julian_day().wrapping_sub(EPOCH));
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

fn is_epoch(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    matches!(whole.len(), 10 | 13) && digits(whole) && digits(fraction)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a float's cast saturates, and what is out of range is refused"
)]
fn epoch(digits: &str) -> Option<i64> {
    let number: f64 = digits.parse().ok()?;
    let at =
        if number.abs() < MILLISECONDS_FROM { (number * 1000.0).round() } else { number.trunc() }
            as i64;
    YEARS.contains(&at).then_some(at)
}

fn iso(text: &str) -> Option<i64> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    let separated = skip(&mut rest, b"-");
    let more = |rest: &[u8]| separated || rest.first().is_some_and(u8::is_ascii_digit);
    let month = if more(rest) { digits(&mut rest, 2)? } else { 1 };
    let day =
        if skip(&mut rest, b"-") || (!separated && more(rest)) { digits(&mut rest, 2)? } else { 1 };
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date =
        Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let mut at = i64::from(date.to_julian_day().checked_sub(EPOCH)?).checked_mul(DAY)?;
    if skip(&mut rest, b"Tt ") {
        at = at.checked_add(of_day(&mut rest)?)?.checked_sub(offset(&mut rest)?)?;
    }
    rest.is_empty().then_some(at)
}

/// `hh`, `hh:mm`, `hh:mm:ss` with any fraction, or the same without colons. 24:00 is the end of the day, and a leap second
/// the second behind it.
fn of_day(rest: &mut &[u8]) -> Option<i64> {
    let hour = digits(rest, 2)?;
    let next = |rest: &mut &[u8]| skip(rest, b":") || rest.first().is_some_and(u8::is_ascii_digit);
    let minute = if next(rest) { digits(rest, 2).filter(|m| *m <= 59)? } else { 0 };
    let second = if next(rest) { digits(rest, 2).filter(|s| *s <= 60)? } else { 0 };
    let milli = if skip(rest, b".,") { fraction(rest)? } else { 0 };
    let of_day =
        hour.checked_mul(3600)?.checked_add(minute.checked_mul(60)?)?.checked_add(second)?;
    let of_day = of_day.checked_mul(1000)?.checked_add(milli)?;
    (hour <= 23 || of_day == DAY).then_some(of_day)
}

/// `Z`, `+hh`, `+hhmm` or `+hh:mm`, in milliseconds. Ruby and Go write a space before it, and `UTC`.
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
    let hours = digits(rest, 2).filter(|h| *h <= 23)?;
    skip(rest, b":");
    let minutes = if rest.is_empty() { 0 } else { digits(rest, 2).filter(|m| *m <= 59)? };
    let offset = hours.checked_mul(60)?.checked_add(minutes)?.checked_mul(60_000)?;
    Some(if west { offset.checked_neg()? } else { offset })
}

/// Any number of digits, cut to milliseconds.
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

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.iter().try_fold(0_i64, |number, byte| {
        let digit = byte.is_ascii_digit().then_some(i64::from(byte & 15))?;
        number.checked_mul(10)?.checked_add(digit)
    })
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

/// The day of a point in time.
fn date(at: i64) -> Option<Date> {
    let day = i32::try_from(at.div_euclid(DAY)).ok()?.checked_add(EPOCH)?;
    Date::from_julian_day(day).ok()
}

/// Writes `YYYY-MM-DDThh:mm:ss.sssZ`.
pub fn write(out: &mut Vec<u8>, at: i64) {
    let (year, month, day) = date(at).unwrap_or(Date::MIN).to_calendar_date();
    let (year, month, day) =
        (u32::try_from(year).unwrap_or(0), u32::from(u8::from(month)), u32::from(day));
    let of_day = u32::try_from(at.rem_euclid(DAY)).unwrap_or(0);
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
    use crate::json::Cursor;

    fn rewritten(json: &str) -> Option<String> {
        let mut out = Vec::new();
        write(&mut out, read(Cursor::new(json).value().unwrap())?);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_form_of_clients() {
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
    fn skew_is_corrected_and_history_stays() {
        assert_eq!(corrected(Some(100), Some(150), 1_000), 950);
        assert_eq!(corrected(Some(100), None, 1_000), 100);
        assert_eq!(corrected(None, Some(150), 1_000), 1_000);
        assert_eq!(corrected(Some(i64::MIN), Some(i64::MAX), 1_000), 1_000);
        // Years 0 and 10000, which Keen cannot hold.
        assert_eq!(corrected(Some(-62_135_596_800_001), None, 1_000), 1_000);
        assert_eq!(corrected(Some(-62_135_596_800_000), None, 1_000), -62_135_596_800_000);
        assert_eq!(corrected(Some(253_402_300_800_000), None, 1_000), 1_000);
        assert_eq!(corrected(Some(253_402_300_799_999), None, 1_000), 253_402_300_799_999);
    }
}
