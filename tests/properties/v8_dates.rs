//! Times as text, compared with JavaScript's engine V8 (Node): the default forms of SDKs and
//! languages.

use chrono::{DateTime, FixedOffset};
use keen_edge::timestamp;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// Instants in milliseconds: before 1970, in a leap year, at the turns of months and years.
const INSTANTS: [i64; 9] = [
    -1,
    0,
    951_782_400_000,
    1_388_534_399_999,
    1_388_534_400_000,
    1_468_877_163_123,
    1_795_471_392_908,
    1_798_761_599_000,
    4_102_444_800_001,
];
const OFFSET_MINUTES: [i32; 6] = [0, 60, -420, 330, 345, -210];

/// Returns Node's output for a program that reads JSON from its input.
fn node(program: &str, zone: &str, input: &Value) -> Value {
    let mut child = Command::new("node")
        .args(["-e", program])
        .env("TZ", zone)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is on the PATH");
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "node failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn parse_dates_printed_by_node_equals_the_original() {
    let program = "const ms = JSON.parse(require('fs').readFileSync(0)); \
        const dates = ms.map(m => new Date(m)); \
        console.log(JSON.stringify(dates.map(d => [d.toISOString(), d.toJSON(), d.toUTCString(), d.toString()])))";
    for zone in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "America/St_Johns"] {
        let written = node(program, zone, &json!(INSTANTS));
        for (instant, forms) in INSTANTS.iter().zip(written.as_array().unwrap()) {
            let whole = instant.div_euclid(1000) * 1000;
            for (form, want) in
                forms.as_array().unwrap().iter().zip([*instant, *instant, whole, whole])
            {
                let text = form.as_str().unwrap();
                assert_eq!(timestamp::parse_text(text), Some(want), "{zone}: {text}");
            }
        }
    }
}

/// The texts that Node prints for people are read in the zone UTC, as V8 reads them.
#[test]
fn parse_locale_dates_of_node_equals_v8() {
    let program = "const ms = JSON.parse(require('fs').readFileSync(0)); \
        const forms = [d => d.toDateString(), d => d.toLocaleString('en-US'), d => d.toLocaleDateString('en-US'), \
            d => d.toLocaleString('en-US', {timeZoneName: 'short'}), d => d.toLocaleString('en-CA'), \
            d => d.toLocaleString('en-US', {hour12: false}), d => d.toLocaleDateString('en-US', {dateStyle: 'full'}), \
            d => d.toLocaleDateString('en-US', {dateStyle: 'long'}), \
            d => d.toLocaleString('en-US', {dateStyle: 'medium', timeStyle: 'medium'})]; \
        const texts = ms.flatMap(m => forms.map(form => form(new Date(m)))); \
        console.log(JSON.stringify(texts.map(text => [text, Date.parse(text)])))";
    let mut read = 0;
    for pair in node(program, "UTC", &json!(INSTANTS)).as_array().unwrap() {
        let (text, want) = (pair[0].as_str().unwrap(), pair[1].as_i64());
        if want.is_some() {
            assert_eq!(timestamp::parse_text(text), want, "{text}");
            read += 1;
        }
    }
    assert!(read >= 7 * INSTANTS.len(), "{read} of the texts are times to V8");
}

/// Texts of other languages and formats. If V8 reads a text, the filter reads it as the same time.
const TEXTS: [&str; 60] = [
    // Java: Date, Instant, OffsetDateTime, LocalDateTime, Timestamp, and Gson's and DateFormat's
    // defaults.
    "Mon Nov 23 22:03:16 UTC 2026",
    "Mon Nov 23 22:03:16 EST 2026",
    "2026-11-23T22:03:16Z",
    "2026-11-23T22:03:16.385123Z",
    "2026-11-23T22:03:16.385123456Z",
    "2026-11-23T22:03+01:00",
    "2026-11-23T22:03",
    "2026-11-23T22:03:16.385",
    "2026-11-23 22:03:16.385",
    "Nov 23, 2026 10:03:16 PM",
    "Nov 23, 2026, 10:03:16 AM",
    "Nov 23, 2026, 10:03:16\u{202f}PM",
    "November 23, 2026, 12:03:16 AM",
    // Ruby: Time#to_s, #ctime, #httpdate, #rfc2822, ActiveSupport.
    "2026-11-23 22:03:16 +0100",
    "2026-11-23 22:03:16 UTC",
    "2026-11-23 22:03:16.385 +0100",
    "Mon Nov 23 22:03:16 2026",
    "Mon Nov  2 22:03:16 2026",
    "Mon, 23 Nov 2026 22:03:16 -0000",
    "Mon, 23 Nov 2026 22:03:16 UTC +00:00",
    // Go: the constants of package time.
    "Mon Nov 23 22:03:16 +0100 2026",
    "23 Nov 26 22:03 UTC",
    "23 Nov 26 22:03 -0700",
    "Monday, 23-Nov-26 22:03:16 UTC",
    "Mon, 23 Nov 2026 22:03:16 PST",
    "2026-11-23 22:03:16.385123456 +0000",
    // Python: str(), ctime(), email.utils.
    "2026-11-23 22:03:16.385123+00:00",
    "2026-11-23 22:03:16",
    "Mon, 23 Nov 2026 22:03:16 GMT",
    // PHP, C#, SQL.
    "Monday, 23-Nov-2026 22:03:16 UTC",
    "2026-11-23T22:03:16.3850000Z",
    "2026-11-23T22:03:16.3850000+01:00",
    "11/23/2026 10:03:16 PM",
    "11/23/2026 10:03:16 PM +01:00",
    "2026-11-23 22:03:16Z",
    "2026-11-23 10:03:16 PM",
    // JavaScript, old and new engines.
    "Mon Nov 23 2026",
    "Mon Nov 23 2026 22:03:16 GMT+0100 (CET)",
    "Mon Nov 23 2026 22:03:16 GMT-0800 (Pacific Standard Time)",
    "Mon Nov 23 2026 22:03:16 GMT+0300 (GMT+03:00)",
    "Mon Nov 23 22:03:16 UTC+0100 2026",
    "Mon, Nov 23, 2026, 10:03:16 PM GMT+1",
    "11/23/2026, 10:03:16 PM",
    "1/2/2026, 9:03:16 AM",
    "11/23/2026",
    "12/31/69",
    "2026/11/23 22:03:16",
    "2026/1/2",
    "2026-1-2 3:04:05",
    "2026-1-2 3:4:5",
    "1/2/2026 3:4",
    "23 November 2026",
    "NOV 23 2026 22:03:16 gmt",
    "Nov. 23, 2026",
    "1 Jan 99",
    "12:03:16 AM Nov 23 2026",
    // Texts that are not times.
    "Mon Nov 23 22:03:16 CET 2026",
    "23.11.2026 22:03:16",
    "23/11/2026",
    "13:03:16 PM Nov 23 2026",
];

#[test]
fn parse_dates_of_other_languages_equals_v8() {
    let program = "console.log(JSON.stringify(JSON.parse(require('fs').readFileSync(0)).map(t => Date.parse(t))))";
    let read = node(program, "UTC", &json!(TEXTS.to_vec()));
    for (text, v8) in TEXTS.iter().zip(read.as_array().unwrap()) {
        assert_eq!(timestamp::parse_text(text), v8.as_i64(), "{text}");
    }
    assert_eq!(read.as_array().unwrap().iter().filter(|v8| v8.is_null()).count(), 4);
}

#[test]
fn parse_common_date_forms_equals_v8() {
    // Java's Date#toString and Instant, Ruby's Time#to_s, HTTP's and mail's dates, Go's RFC 3339
    // and time.String(), Python.
    const FORMS: [&str; 16] = [
        "%Y-%m-%dT%H:%M:%S%.3fZ",
        "%Y-%m-%dT%H:%M:%S%.9f%:z",
        "%Y-%m-%dT%H:%M:%S%:z",
        "%Y-%m-%dT%H:%MZ",
        "%Y-%m-%d",
        "%Y-%m-%d %H:%M:%S %z",
        "%Y-%m-%d %H:%M:%S%.6f%:z",
        "%Y-%m-%d %H:%M:%S%.9f %z",
        "%a %b %d %H:%M:%S UTC %Y",
        "%a %b %d %H:%M:%S PST %Y",
        "%a %b %d %Y %H:%M:%S GMT%z",
        "%a, %d %b %Y %H:%M:%S GMT",
        "%a, %d %b %Y %H:%M:%S %z",
        "%d %b %Y %H:%M:%S %z",
        "%b %d, %Y",
        "%B %d, %Y %H:%M:%S",
    ];
    let mut texts = Vec::new();
    for instant in INSTANTS {
        for minutes in OFFSET_MINUTES {
            let offset = FixedOffset::east_opt(minutes * 60).unwrap();
            let there = DateTime::from_timestamp_millis(instant).unwrap().with_timezone(&offset);
            texts.extend(FORMS.map(|form| there.format(form).to_string()));
        }
    }
    let program = "console.log(JSON.stringify(JSON.parse(require('fs').readFileSync(0)).map(t => Date.parse(t))))";
    let read = node(program, "UTC", &json!(texts));
    for (text, v8) in texts.iter().zip(read.as_array().unwrap()) {
        // `NaN` becomes null in JSON. V8 reads all of these forms as times.
        let want = v8.as_i64().unwrap_or_else(|| panic!("V8 does not read {text}"));
        assert_eq!(timestamp::parse_text(text), Some(want), "{text}");
    }
}

#[test]
fn parse_text_that_v8_rejects_is_none() {
    let texts = [
        "yesterday",
        "Mon",
        "Nov",
        "23",
        "Mon Nov 23",
        "2014-13-45",
        "12:00:00",
        "GMT",
        "+0100",
        "",
    ];
    let program = "console.log(JSON.stringify(JSON.parse(require('fs').readFileSync(0)).map(t => Date.parse(t))))";
    let read = node(program, "UTC", &json!(texts));
    for (text, v8) in texts.iter().zip(read.as_array().unwrap()) {
        if v8.is_null() {
            assert_eq!(timestamp::parse_text(text), None, "{text}");
        }
    }
}
