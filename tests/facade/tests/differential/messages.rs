//! Messages of all the forms that the facade reads.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

/// A page or track message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) text: String,
    pub(crate) value: Value,
    pub(crate) page: bool,
}

/// Number of messages. The seed is fixed.
pub(crate) fn some(count: usize) -> Vec<Message> {
    let mut runner = TestRunner::deterministic();
    let strategy = message();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Selects one of these JSON texts.
fn one_of(texts: &[&str]) -> BoxedStrategy<String> {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    prop::sample::select(texts).boxed()
}

/// Generates an object with some of these members, in any order, each name at most once.
fn object(members: Vec<(&'static str, BoxedStrategy<String>)>) -> BoxedStrategy<String> {
    let member = |(name, value): (&'static str, BoxedStrategy<String>)| {
        let written = value.prop_map(move |value| format!("{name:?}:{value}"));
        // Names that the two libraries read differently are rare, so that they hide few other
        // differences.
        let often = if name.starts_with('$') { 0.02 } else { 0.3 };
        prop::option::weighted(often, written).boxed()
    };
    let members: Vec<BoxedStrategy<Option<String>>> = members.into_iter().map(member).collect();
    let written = members.prop_map(|members| members.into_iter().flatten().collect::<Vec<_>>());
    written.prop_shuffle().prop_map(|members| format!("{{{}}}", members.join(","))).boxed()
}

fn flag() -> BoxedStrategy<String> {
    let options = r#"{"traits":{"a":1}}"#;
    one_of(&[
        "true",
        "false",
        "\"false\"",
        "0",
        "null",
        "{}",
        options,
        r#"{"traits":{}}"#,
        r#"{"traits":"t"}"#,
        "[]",
    ])
}

fn flags() -> Vec<(&'static str, BoxedStrategy<String>)> {
    let all = || one_of(&["true", "false", "false", "\"false\"", "null", "1"]);
    vec![
        ("All", all()),
        ("all", all()),
        ("ALL", all()),
        ("Keen IO", flag()),
        ("Keen", flag()),
        ("keenIo", flag()),
        ("keen_io", flag()),
        ("keen io", flag()),
        ("Amplitude", flag()),
    ]
}

fn integrations() -> BoxedStrategy<String> {
    let mut members = flags();
    members.push(("providers", object(flags())));
    prop_oneof![8 => object(members), 1 => one_of(&["null", "true", "false", "\"Keen IO\"", "[]", "0"])].boxed()
}

fn value() -> BoxedStrategy<String> {
    one_of(&[
        "\"x\"",
        "\"y\"",
        "\"z\"",
        "\"http://x.example/\"",
        "\"http://y.example/\"",
        "\"\"",
        "null",
        "7",
        "0",
        "true",
        "{}",
        "\"2014-01-02\"",
        "\"${keen.ip}\"",
        "\"1.2.3.4\"",
        "\"1.2.3.4:80\"",
        "\"[2001:db8::1]:443\"",
        "\"2001:DB8::1\"",
        "\"${keen.user_agent}\"",
    ])
}

fn context() -> BoxedStrategy<String> {
    let page = vec![
        ("url", value()),
        ("URL", value()),
        ("u_rl", value()),
        ("referrer", value()),
        ("Referrer", value()),
        ("$url", value()),
    ];
    let page =
        || prop_oneof![6 => object(page.clone()), 1 => one_of(&["null", "\"url\"", "[]"])].boxed();
    let mut members = vec![
        ("ip", value()),
        ("IP", value()),
        ("i p", value()),
        ("$ip", value()),
        ("userAgent", value()),
        ("user_agent", value()),
        ("USER-AGENT", value()),
        ("page", page()),
        ("Page", page()),
        ("page.url", value()),
        ("page.referrer", value()),
        ("traits", value()),
    ];
    let mut legacy = members.clone();
    legacy.extend(flags());
    legacy.push((
        "providers",
        prop_oneof![5 => object(flags()), 1 => one_of(&["null", "true"])].boxed(),
    ));
    members.push((
        "library",
        one_of(&["{\"name\":\"analytics-node\"}", "\"analytics-node\"", "null"]),
    ));
    prop_oneof![6 => object(members), 2 => object(legacy), 1 => one_of(&["null"])].boxed()
}

fn name() -> BoxedStrategy<String> {
    one_of(&[
        "\"Home\"",
        "\"Home\"",
        "\"Docs\"",
        "\" Docs \"",
        "\"Caf\u{e9}\"",
        "\"\"",
        "null",
        "7",
        "7.0",
        "1e3",
        "0",
        "-1.5",
        "true",
        "false",
        "{}",
        "[]",
        "\"2014-01-02\"",
        "\"2014\"",
    ])
}

fn time() -> BoxedStrategy<String> {
    let two = |low: u32, high: u32| (low..high).prop_map(|n| format!("{n:02}"));
    let date = (1900_u32..2100, two(1, 13), two(1, 32))
        .prop_map(|(year, month, day)| format!("{year}-{month}-{day}"));
    let fraction = prop_oneof![Just(String::new()), "\\.[0-9]{1,9}", ",[0-9]{3}"];
    let zone = prop_oneof![
        Just("Z".to_owned()),
        Just(String::new()),
        "[-+](0[0-9]|1[0-4])(:?[0-5][0-9])?"
    ];
    let clock =
        (prop::sample::select(vec!["T", " "]), two(0, 24), two(0, 60), two(0, 60), fraction, zone);
    let clock =
        clock.prop_map(|(t, h, m, s, fraction, zone)| format!("{t}{h}:{m}:{s}{fraction}{zone}"));
    let iso = (date, prop::option::weighted(0.9, clock))
        .prop_map(|(date, clock)| format!("\"{date}{}\"", clock.unwrap_or_default()));
    prop_oneof![
        12 => iso,
        2 => (0_i64..4_000_000_000).prop_map(|seconds| seconds.to_string()),
        2 => (31_557_600_000_i64..4_000_000_000_000).prop_map(|milli| milli.to_string()),
        1 => (1_000_000_000_i64..4_000_000_000).prop_map(|seconds| format!("\"{seconds}\"")),
        1 => (1_000_000_000_000_i64..4_000_000_000_000).prop_map(|milli| format!("\"{milli}\"")),
        1 => (0.0_f64..4e9).prop_map(|seconds| format!("{seconds:?}")),
        4 => one_of(&[
            "\"2014\"", "\"2014-01\"", "\"20140102\"", "\"20140102T030405Z\"", "\"2014-01-02T03\"",
            "\"2014-01-02 03:04:05 +0100\"",
            "\"2014-01-02 03:04:05 -0530\"",
            "\"2014-01-02 03:04:05 UTC\"", "\"2014-01-02T03:04\"",
            "\"2014-13-45\"", "\"2015-2-02T00:30:12.984Z\"", "\"yesterday\"", "\"\"", "null", "true", "{}", "\"0\"",
            "\"Tue, 05 Nov 2013 08:15:30 GMT\"", "\"Wed Jan 01 2014 00:00:00 GMT+0000\"", "\"1388534400.5\"", "1e300",
            "\"2014-01-02T24:00:00Z\"", "\"2014-01-02T23:59:60Z\"", "-86400", "\" 2014-01-02 \"", "\"at 1388534400123\"",
        ]),
    ]
    .boxed()
}

fn message() -> BoxedStrategy<Message> {
    let properties =
        object(vec![("url", value()), ("Url", value()), ("U_R_L", value()), ("title", value())]);
    let parts = (
        any::<bool>(),
        prop::option::weighted(0.9, time()),
        prop::option::of(integrations()),
        prop::option::weighted(0.8, context()),
        prop::option::weighted(
            0.1,
            prop_oneof![5 => context(), 1 => one_of(&["\"x\"", "0", "[]", "true"])].boxed(),
        ),
        (prop::option::of(name()), prop::option::of(name())),
        (prop::option::of(value()), prop::option::of(value()), prop::option::of(value())),
        prop::option::of(prop_oneof![6 => properties, 1 => one_of(&["null"])]),
    );
    parts
        .prop_map(
            |(page, time, integrations, context, options, (name, category), ids, properties)| {
                let kind = if page { "page" } else { "track" };
                let mut text = format!("{{\"type\":{kind:?},\"event\":\"e\"");
                let mut put = |name: &str, value: Option<String>| {
                    if let Some(value) = value {
                        text.push_str(&format!(",{name:?}:{value}"));
                    }
                };
                put("timestamp", time);
                put("integrations", integrations);
                put("context", context);
                put("options", options);
                put("name", name.filter(|_| page));
                put("category", category.filter(|_| page));
                put("userId", ids.0);
                put("anonymousId", ids.1);
                put("sessionId", ids.2);
                put("properties", properties);
                text.push('}');
                let value =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                Message { text, value, page }
            },
        )
        .boxed()
}
