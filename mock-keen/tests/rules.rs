//! Keen's rules for names, values, the `keen` object and add-ons. RULES.md has their sources.

use mock_keen::rules::{
    MAX_DEPTH, check_collection_name, check_collection_name_lenient, check_event, read_event,
};
use serde_json::{Value, json};

/// Returns the name of the refusal; empty if the event is accepted.
fn refusal_name(event: Value) -> String {
    check_event(&event).map_or_else(|refusal| refusal.name, |()| String::new())
}

/// Returns the same for an event as text, which keeps the digits of numbers.
fn refusal_name_of_text(text: &str) -> String {
    match read_event(text.as_bytes()) {
        Ok(event) => refusal_name(event.value),
        Err(rejection) => rejection.refusal.name,
    }
}

fn keen(keen: Value) -> String {
    refusal_name(
        json!({"ip": "1.2.3.4", "ua": "", "url": "http://a/", "ref": null, "at": {"when": "2026"}, "keen": keen}),
    )
}

fn addon(name: &str, input: Value, output: &str) -> String {
    keen(json!({"addons": [{"name": name, "input": input, "output": output}]}))
}

const ACCEPTED: &str = "";
const NAME: &str = "InvalidPropertyNameError";
const VALUE: &str = "InvalidPropertyValueError";
const NAMESPACE: &str = "InvalidKeenNamespaceProperty";
const ADDON: &str = "InvalidAddonError";

// Collection names.

#[test]
fn collection_name_of_64_characters_is_accepted() {
    assert_eq!(check_collection_name(&"c".repeat(64)), Ok(()));
    assert_eq!(check_collection_name(" a/b?c#d&e:f%g+h "), Ok(()));
}

#[test]
fn collection_name_of_65_characters_is_refused_in_keens_words() {
    let name = "get-post-put-head-delete-options-trace-copy-lock-mkcol-move-purge-propfind-proppatch-unlock-report-\
                mkactivity-checkout-merge-m-search-notify-subscribe-unsubscribe-patch-search-connect-*";
    let refusal = check_collection_name(name).unwrap_err();
    let quoted: Value =
        serde_json::from_str(include_str!("replies/quoted-400-collection-name.json")).unwrap();
    assert_eq!(refusal.description, quoted["message"]);
    assert_eq!(refusal.name, "InvalidCollectionNameError");
    assert!(check_collection_name(&"c".repeat(65)).is_err());
}

#[test]
fn non_ascii_collection_name_is_refused() {
    assert!(check_collection_name("café").is_err());
    assert!(check_collection_name_lenient("café").is_err());
}

#[test]
fn collection_name_with_line_break_is_refused() {
    assert!(check_collection_name("a\nb").is_err());
    assert!(check_collection_name("a\rb").is_err());
    assert_eq!(check_collection_name("a\tb"), Ok(()));
}

#[test]
fn collection_name_with_leading_dollar_is_accepted() {
    assert_eq!(check_collection_name("$signups"), Ok(()));
}

#[test]
fn empty_collection_name_is_refused() {
    assert!(check_collection_name_lenient("").is_err());
}

#[test]
fn strict_collection_name_follows_2014_guide() {
    for name in ["_a", ".a", "a.", ".", "_"] {
        assert!(check_collection_name(name).is_err(), "{name}");
        assert_eq!(check_collection_name_lenient(name), Ok(()), "{name}");
    }
    assert_eq!(check_collection_name("a_.b"), Ok(()));
}

// Properties.

#[test]
fn property_name_with_dot_is_refused_in_keens_words() {
    let refusal = check_event(&json!({"broken.purchase": 1})).unwrap_err();
    let quoted: Value =
        serde_json::from_str(include_str!("replies/quoted-400-property-name.json")).unwrap();
    assert_eq!(refusal.description, quoted["message"]);
    assert_eq!(refusal.name, quoted["error_code"]);
}

#[test]
fn nested_property_name_with_dot_is_refused() {
    assert_eq!(refusal_name(json!({"a": {"b": {"c.d": 1}}})), NAME);
    assert_eq!(
        refusal_name(json!({"keen": {"location": {"coordinates": [1, 2], "a.b": 1}}})),
        NAME
    );
}

#[test]
fn property_name_of_257_characters_is_refused() {
    assert_eq!(refusal_name(json!({"n".repeat(257): 1})), NAME);
    assert_eq!(refusal_name(json!({"é".repeat(257): 1})), NAME);
}

#[test]
fn property_name_of_255_characters_is_accepted() {
    assert_eq!(refusal_name(json!({"n".repeat(255): 1})), ACCEPTED);
    assert_eq!(refusal_name(json!({"é".repeat(255): 1})), ACCEPTED);
}

#[test]
fn property_name_with_leading_dollar_is_accepted() {
    assert_eq!(refusal_name(json!({"$referrer": 1})), ACCEPTED);
}

#[test]
fn string_of_10001_characters_is_refused() {
    assert_eq!(refusal_name(json!({"a": "x".repeat(10_001)})), VALUE);
    assert_eq!(refusal_name(json!({"a": "é".repeat(10_001)})), VALUE);
}

#[test]
fn string_of_9999_characters_is_accepted() {
    assert_eq!(refusal_name(json!({"a": "x".repeat(9_999)})), ACCEPTED);
    assert_eq!(refusal_name(json!({"a": "é".repeat(9_999)})), ACCEPTED);
}

#[test]
fn number_at_bound_is_accepted() {
    for number in
        ["-9223372036854775808", "9223372036854775807", "0", "-0.0", "1.5e18", "1e-400", "9.2e18"]
    {
        assert_eq!(refusal_name_of_text(&format!("{{\"a\": {number}}}")), ACCEPTED, "{number}");
    }
}

#[test]
fn number_past_bound_is_refused() {
    let past = [
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "1e19",
        "-1e19",
        "9223372036854775808.0",
    ];
    for number in past {
        assert_eq!(refusal_name_of_text(&format!("{{\"a\": {number}}}")), VALUE, "{number}");
    }
    for number in ["1e400", "-1e400"] {
        assert_ne!(refusal_name_of_text(&format!("{{\"a\": {number}}}")), ACCEPTED, "{number}");
    }
}

#[test]
fn property_rules_apply_inside_lists_and_objects() {
    assert_eq!(refusal_name(json!({"a": [{"b.c": 1}]})), NAME);
    assert_eq!(refusal_name(json!({"a": [["x".repeat(10_001)]]})), VALUE);
    assert_eq!(refusal_name(json!({"a": [u64::MAX]})), VALUE);
    assert_eq!(refusal_name(json!({"a": {"b": [u64::MAX]}})), VALUE);
}

#[test]
fn null_empty_bool_and_float_are_accepted() {
    assert_eq!(
        refusal_name(json!({"a": null, "b": {}, "c": [], "d": true, "e": 1.5, "f": ""})),
        ACCEPTED
    );
}

#[test]
fn list_of_objects_is_accepted() {
    assert_eq!(refusal_name(json!({"a": [{"b": 1}, {"b": 2}]})), ACCEPTED);
}

#[test]
fn non_object_event_is_refused() {
    for event in [json!([]), json!("a"), json!(1), json!(null)] {
        assert_eq!(refusal_name(event), "InvalidEventError");
    }
}

#[test]
fn deep_event_is_accepted() {
    for depth in [500, 1_000, MAX_DEPTH] {
        let text = format!("{}{{}}{}", "{\"a\":".repeat(depth - 1), "}".repeat(depth - 1));
        assert_eq!(refusal_name_of_text(&text), ACCEPTED, "{depth}");
    }
}

#[test]
fn event_over_depth_limit_is_refused() {
    assert_eq!(refusal_name_of_text(&"{\"a\":".repeat(100_000)), "InvalidJSONError");
    assert_eq!(
        refusal_name_of_text(&format!("{{\"a\":{}{}}}", "[".repeat(400_000), "]".repeat(400_000))),
        "InvalidJSONError"
    );
}

#[test]
fn brackets_in_strings_do_not_count_as_depth() {
    assert_eq!(
        refusal_name_of_text(&format!("{{\"a\": \"\\\"{}\"}}", "[".repeat(9_000))),
        ACCEPTED
    );
}

#[test]
fn deep_rule_violation_is_refused() {
    let text = format!("{}{{\"b.c\": 1}}{}", "{\"a\":".repeat(1_000), "}".repeat(1_000));
    assert_eq!(refusal_name_of_text(&text), NAME);
}

#[test]
fn duplicate_property_name_last_wins() {
    assert_eq!(read_event(b"{\"a\": 1, \"a\": 2}").unwrap().value, json!({"a": 2}));
    assert_eq!(refusal_name_of_text("{\"a\": 9223372036854775808, \"a\": 2}"), ACCEPTED);
}

// The `keen` object.

#[test]
fn documented_timestamp_forms_are_accepted() {
    for fraction in ["", ".123", ".123456"] {
        for zone in ["", "Z", "+01:00", "-0800", "+0530", "-00:00"] {
            let timestamp = format!("2026-02-28T23:59:59{fraction}{zone}");
            assert_eq!(keen(json!({"timestamp": timestamp})), ACCEPTED, "{timestamp}");
        }
    }
}

#[test]
fn missing_timestamp_is_accepted() {
    assert_eq!(keen(json!({})), ACCEPTED);
}

#[test]
fn timestamp_leap_day_is_checked() {
    for (day, accepted) in
        [("2024-02-29", true), ("2000-02-29", true), ("2023-02-29", false), ("1900-02-29", false)]
    {
        let refusal = keen(json!({"timestamp": format!("{day}T00:00:00Z")}));
        assert_eq!(refusal == ACCEPTED, accepted, "{day}");
    }
}

#[test]
fn undocumented_timestamp_form_is_refused() {
    let wrong = [
        "",
        "yesterday",
        "2026-01-01",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00.1Z",
        "2026-01-01T00:00:00.1234567Z",
        "2026-01-01T00:00:00z",
        "2026-01-01T00:00:00+1",
        "2026-01-01T00:00:00+01",
        "2026-01-01T00:00:00+01:60",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00Z ",
        "２026-01-01T00:00:00Z",
        "+026-01-01T00:00:00Z",
    ];
    for timestamp in wrong {
        assert_eq!(keen(json!({"timestamp": timestamp})), VALUE, "{timestamp}");
    }
    for timestamp in [json!(1_700_000_000), json!(null), json!({})] {
        assert_eq!(keen(json!({"timestamp": timestamp})), VALUE);
    }
}

#[test]
fn non_object_keen_is_refused() {
    for wrong in [json!(null), json!("a"), json!([]), json!(1)] {
        assert_eq!(keen(wrong), "NamespaceTypeError");
    }
}

#[test]
fn unknown_key_in_keen_is_refused() {
    assert_eq!(keen(json!({"name": "a"})), NAMESPACE);
    assert_eq!(refusal_name(json!({"a": {"keen": {"name": "a"}}})), ACCEPTED);
}

#[test]
fn keen_id_and_created_at_are_refused() {
    assert_eq!(keen(json!({"id": "a"})), NAMESPACE);
    assert_eq!(keen(json!({"created_at": "2026-01-01T00:00:00Z"})), NAMESPACE);
}

#[test]
fn location_must_be_longitude_and_latitude() {
    assert_eq!(keen(json!({"location": {"coordinates": [-122.42005, 37.77479]}})), ACCEPTED);
    assert_eq!(keen(json!({"location": {"coordinates": [180, -90]}})), ACCEPTED);
    let wrong = [
        json!({}),
        json!(null),
        json!([1, 2]),
        json!({"coordinates": "1,2"}),
        json!({"coordinates": ["1", "2"]}),
        json!({"coordinates": [1]}),
        json!({"coordinates": [1, 2, 3]}),
        json!({"coordinates": [37.0, 122.0]}),
        json!({"coordinates": {"0": 1, "1": 2}}),
    ];
    for location in wrong {
        assert_eq!(keen(json!({"location": location})), VALUE, "{location}");
    }
}

#[test]
fn uniqueness_token_of_64_characters_is_accepted() {
    assert_eq!(keen(json!({"uniqueness_token": "t".repeat(64)})), ACCEPTED);
    assert_eq!(keen(json!({"uniqueness_token": "é".repeat(64)})), ACCEPTED);
}

#[test]
fn invalid_uniqueness_token_is_refused() {
    assert_eq!(keen(json!({"uniqueness_token": "t".repeat(65)})), VALUE);
    for wrong in [json!(""), json!(7), json!(null)] {
        assert_eq!(keen(json!({"uniqueness_token": wrong})), VALUE);
    }
}

// Add-ons.

#[test]
fn addon_with_its_input_is_accepted() {
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": "ip"}), "geo"), ACCEPTED);
    assert_eq!(
        addon("keen:ip_to_geo", json!({"ip": "ip", "remove_ip_property": true}), "geo"),
        ACCEPTED
    );
    assert_eq!(addon("keen:ua_parser", json!({"ua_string": "ua"}), "tech"), ACCEPTED);
    assert_eq!(addon("keen:url_parser", json!({"url": "url"}), "a.b"), ACCEPTED);
    assert_eq!(addon("keen:date_time_parser", json!({"date_time": "at.when"}), "time"), ACCEPTED);
}

#[test]
fn addon_input_without_property_is_refused() {
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": "${keen.ip}"}), "geo"), ADDON);
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": "absent"}), "geo"), ADDON);
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": "ip.address"}), "geo"), ADDON);
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": "at.absent"}), "geo"), ADDON);
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": "1.2.3.4"}), "geo"), ADDON);
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": ""}), "geo"), ADDON);
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": 1}), "geo"), ADDON);
}

#[test]
fn non_list_addons_are_refused_in_keens_words() {
    let quoted: Value =
        serde_json::from_str(include_str!("replies/quoted-400-addons-not-array.json")).unwrap();
    for wrong in [
        json!({"name": "keen:date_time_parser"}),
        json!("a"),
        json!(null),
        json!(["a"]),
        json!([{}, 1]),
    ] {
        let refusal = check_event(&json!({"keen": {"addons": wrong}})).unwrap_err();
        assert!(refusal.description.starts_with(quoted["message"].as_str().unwrap()), "{refusal}");
    }
}

#[test]
fn addon_input_keen_timestamp_is_accepted_without_timestamp() {
    assert_eq!(
        addon("keen:date_time_parser", json!({"date_time": "keen.timestamp"}), "time"),
        ACCEPTED
    );
}

#[test]
fn referrer_parser_needs_both_inputs() {
    assert_eq!(
        addon("keen:referrer_parser", json!({"referrer_url": "ref", "page_url": "url"}), "r"),
        ACCEPTED
    );
    assert_eq!(addon("keen:referrer_parser", json!({"referrer_url": "ref"}), "r"), ADDON);
    assert_eq!(addon("keen:referrer_parser", json!({"page_url": "url"}), "r"), ADDON);
    assert_eq!(
        addon("keen:referrer_parser", json!({"referrer_url": "absent", "page_url": "url"}), "r"),
        ADDON
    );
}

#[test]
fn addon_with_empty_input_value_is_accepted() {
    assert_eq!(addon("keen:ua_parser", json!({"ua_string": "ua"}), "tech"), ACCEPTED);
    assert_eq!(addon("keen:url_parser", json!({"url": "ref"}), "u"), ACCEPTED);
}

#[test]
fn unknown_addon_is_refused() {
    assert_eq!(addon("keen:weather", json!({"ip": "ip"}), "w"), ADDON);
    assert_eq!(addon("ip_to_geo", json!({"ip": "ip"}), "w"), ADDON);
    assert_eq!(keen(json!({"addons": [{}]})), ADDON);
    assert_eq!(keen(json!({"addons": [{"name": "keen:ua_parser", "output": "a"}]})), ADDON);
}

#[test]
fn empty_addons_list_is_accepted() {
    assert_eq!(keen(json!({"addons": []})), ACCEPTED);
}

#[test]
fn addon_with_extra_input_is_refused() {
    assert_eq!(addon("keen:ua_parser", json!({"ua_string": "ua", "ip": "ip"}), "tech"), ADDON);
    assert_eq!(
        addon("keen:ip_to_geo", json!({"ip": "ip", "remove_ip_property": "yes"}), "geo"),
        ADDON
    );
}

#[test]
fn addon_output_inside_keen_is_refused() {
    for output in ["keen", "keen.geo", "", ".", "a..b"] {
        assert_eq!(addon("keen:ip_to_geo", json!({"ip": "ip"}), output), ADDON, "{output}");
    }
    assert_eq!(addon("keen:ip_to_geo", json!({"ip": "ip"}), "keenness"), ACCEPTED);
    assert_eq!(keen(json!({"addons": [{"name": "keen:ip_to_geo", "input": {"ip": "ip"}}]})), ADDON);
}

#[test]
fn second_addon_is_checked() {
    let good = json!({"name": "keen:ip_to_geo", "input": {"ip": "ip"}, "output": "geo"});
    let bad = json!({"name": "keen:ip_to_geo", "input": {"ip": "none"}, "output": "geo"});
    assert_eq!(keen(json!({"addons": [good, good]})), ACCEPTED);
    assert_eq!(keen(json!({"addons": [good, bad]})), ADDON);
}
