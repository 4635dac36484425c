//! Timestamps, compared with `chrono`'s parser and arithmetic.

use chrono::{DateTime, FixedOffset, SecondsFormat, TimeDelta, Utc};
use keen_edge::json::read_value;
use keen_edge::timestamp;
use proptest::prelude::*;

fn parsed(json: &str) -> Option<i64> {
    timestamp::parse(read_value(json).unwrap())
}

fn written(at: i64) -> String {
    let mut out = Vec::new();
    timestamp::format(&mut out, at);
    String::from_utf8(out).unwrap()
}

/// Generates instants from year 1 to year 9999, with nanoseconds.
fn instant() -> impl Strategy<Value = DateTime<Utc>> {
    let seconds =
        prop_oneof![-62_135_596_800_i64..253_402_300_800, 1_000_000_000_i64..2_000_000_000];
    (seconds, 0_u32..1_000_000_000).prop_map(|(s, ns)| DateTime::from_timestamp(s, ns).unwrap())
}

/// Generates offsets of real time zones, and others.
fn offset() -> impl Strategy<Value = FixedOffset> {
    (-23_i32 * 60..23 * 60).prop_map(|minutes| FixedOffset::east_opt(minutes * 60).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parse_iso_in_every_form_equals_chrono(at in instant(), offset in offset(), form in 0_usize..11, precision in 0_usize..10) {
        let there = at.with_timezone(&offset);
        let fraction = format!("{:09}", at.timestamp_subsec_nanos())[..precision].to_owned();
        let dotted = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
        let comma = dotted.replace('.', ",");
        let text = match form {
            0 => there.to_rfc3339_opts(SecondsFormat::Nanos, true),
            1 => there.to_rfc3339_opts(SecondsFormat::Millis, false),
            2 => there.to_rfc3339_opts(SecondsFormat::Secs, true),
            3 => format!("{}{dotted}{}", there.format("%Y-%m-%dT%H:%M:%S"), there.format("%z")),
            4 => format!("{}{comma}{}", there.format("%Y-%m-%d %H:%M:%S"), there.format("%:z")),
            5 => format!("{}{dotted}z", at.format("%Y-%m-%dt%H:%M:%S")),
            6 => format!("{}{dotted}", at.format("%Y-%m-%dT%H:%M:%S")),
            7 => format!("{}{dotted}Z", at.format("%Y%m%dT%H%M%S")),
            8 => at.format("%Y-%m-%dT%H:%MZ").to_string(),
            9 => at.format("%Y-%m-%d").to_string(),
            _ => at.format(" %Y-%m ").to_string(),
        };
        prop_assume!(there.format("%Y").to_string().len() == 4);
        let whole = |format: &str| {
            let text = at.format(format).to_string();
            DateTime::parse_from_rfc3339(&text).unwrap().timestamp_millis()
        };
        let want = match form {
            0 | 1 => at.timestamp_millis(),
            2 => at.timestamp() * 1000,
            3..=7 => {
                let milli: i64 = format!("{fraction:0<3}")[..3].parse().unwrap();
                at.timestamp() * 1000 + milli
            }
            8 => whole("%Y-%m-%dT%H:%M:00Z"),
            9 => whole("%Y-%m-%dT00:00:00Z"),
            _ => whole("%Y-%m-01T00:00:00Z"),
        };
        prop_assert_eq!(parsed(&format!("\"{text}\"")), Some(want), "{}", text);
    }

    #[test]
    fn parse_numbers_and_digits_are_seconds_or_milliseconds(at in instant()) {
        let (seconds, milli) = (at.timestamp(), at.timestamp_millis());
        prop_assume!(milli >= 31_557_600_000);
        prop_assert_eq!(parsed(&milli.to_string()), Some(milli));
        if seconds < 31_557_600_000 {
            prop_assert_eq!(parsed(&seconds.to_string()), Some(seconds * 1000));
            prop_assert_eq!(parsed(&format!("{seconds}.{:03}", milli - seconds * 1000)), Some(milli));
        }
        for (digits, want) in [(seconds.to_string(), seconds * 1000), (milli.to_string(), milli)] {
            let known = matches!(digits.len(), 10 | 13);
            // 10 digits are seconds, 13 are milliseconds.
            let want = if digits.len() == 13 { digits.parse().unwrap() } else { want };
            if known && (digits.len() == 10) == (digits.parse::<i64>().unwrap() < 31_557_600_000) {
                prop_assert_eq!(parsed(&format!("\"{digits}\"")), Some(want));
            }
        }
    }

    #[test]
    fn format_is_read_back(at in instant()) {
        prop_assert_eq!(written(at.timestamp_millis()), at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
        prop_assert_eq!(parsed(&format!("\"{}\"", written(at.timestamp_millis()))), Some(at.timestamp_millis()));
    }

    /// The corrected time is `receivedAt - (sentAt - originalTimestamp)`, whatever the client's
    /// clock shows.
    #[test]
    fn correct_clock_skew_wrong_clock_is_corrected(received in instant(), age in 0_i64..100_000_000_000, wrong in -10_000_000_000_i64..10_000_000_000) {
        let clock = |at: DateTime<Utc>| at.checked_add_signed(TimeDelta::milliseconds(wrong));
        let happened = received.checked_sub_signed(TimeDelta::milliseconds(age));
        let (Some(happened), Some(sent)) = (happened, clock(received)) else { return Ok(()) };
        let Some(original) = clock(happened) else { return Ok(()) };
        let keen_holds = |at: DateTime<Utc>| at.format("%Y").to_string().len() == 4 && at.timestamp() >= -62_135_596_800;
        prop_assume!(keen_holds(happened) && keen_holds(sent) && keen_holds(original));
        let text = |at: DateTime<Utc>| parsed(&format!("\"{}\"", at.to_rfc3339_opts(SecondsFormat::Millis, true)));
        let got = timestamp::correct_clock_skew(text(original), text(sent), received.timestamp_millis());
        prop_assert!((got - happened.timestamp_millis()).abs() <= 1, "{} {}", written(got), happened);
    }

    /// Without `sentAt` no clock is corrected, so historical times are unchanged.
    #[test]
    fn correct_clock_skew_without_sent_at_history_stays(at in instant(), received in instant()) {
        let milli = at.timestamp_millis();
        prop_assert_eq!(timestamp::correct_clock_skew(Some(milli), None, received.timestamp_millis()), milli);
        // An importer sends now what happened in the past.
        let sent = received.timestamp_millis();
        prop_assert_eq!(timestamp::correct_clock_skew(Some(milli), Some(sent), sent), milli);
    }

    #[test]
    fn parse_any_text_or_number_stays_in_range(text in "[-0-9T:Z+., ]{0,30}", number in any::<f64>()) {
        for json in [format!("\"{text}\""), format!("{number:?}")] {
            if let Some(value) = read_value(&json) {
                let at = timestamp::correct_clock_skew(timestamp::parse(value), None, 0);
                prop_assert!((-62_135_596_800_000..253_402_300_800_000).contains(&at), "{} {}", json, at);
                prop_assert_eq!(written(at).len(), 24);
            }
        }
    }
}
