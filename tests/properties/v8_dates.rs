//! Times as text, against what JavaScript's engine V8 reads (Node): the default forms of SDKs and languages.

use chrono::{DateTime, FixedOffset};
use keen_edge::segment::message::timestamp;
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

/// What Node prints for a program that reads JSON from its input.
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
fn parse_what_node_writes_is_read_as_it_was_meant() {
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

#[test]
fn parse_the_common_forms_are_read_as_v8_reads_them() {
    // Java's Date#toString and Instant, Ruby's Time#to_s, HTTP's and mail's dates, Go's RFC 3339 and time.String(), Python.
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
        // `NaN` is null in JSON: all of these forms are times to V8.
        let want = v8.as_i64().unwrap_or_else(|| panic!("V8 does not read {text}"));
        assert_eq!(timestamp::parse_text(text), Some(want), "{text}");
    }
}

#[test]
fn parse_what_v8_does_not_read_is_no_time() {
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
