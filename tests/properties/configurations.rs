//! Whatever stands for a setting, the configuration is taken, or refused with the place of that setting.

use super::arbitrary;
use keen_edge::config::Config;
use proptest::prelude::*;
use serde_json::{Value, json};

const KEEN_KEY: &str = "ABCDEF0123456789ABCDEF0123456789";
const SOURCE_KEY: &str = "wk_4f1c00112233";

/// Every setting, by its JSON pointer.
const SETTINGS: [&str; 38] = [
    "/keen",
    "/keen/cluster",
    "/keen/authority",
    "/keen/timeoutMs",
    "/sources",
    "/sources/wk_4f1c00112233",
    "/sources/wk_4f1c00112233/projectId",
    "/sources/wk_4f1c00112233/writeKey",
    "/sources/wk_4f1c00112233/readKey",
    "/sources/wk_4f1c00112233/mode",
    "/sources/wk_4f1c00112233/ipAddon",
    "/sources/wk_4f1c00112233/uaAddon",
    "/sources/wk_4f1c00112233/urlAddon",
    "/sources/wk_4f1c00112233/referrerAddon",
    "/sources/wk_4f1c00112233/trackAllPages",
    "/sources/wk_4f1c00112233/trackCategorizedPages",
    "/sources/wk_4f1c00112233/trackNamedPages",
    "/sources/wk_4f1c00112233/initialPageview",
    "/sources/wk_4f1c00112233/rememberUsers",
    "/sources/wk_4f1c00112233/audienceEvents",
    "/sources/wk_4f1c00112233/cluster",
    "/sources/wk_4f1c00112233/name",
    "/unknownSource",
    "/intercept",
    "/delivery",
    "/delivery/ack",
    "/delivery/holdMs",
    "/delivery/retries",
    "/delivery/maxInFlight",
    "/delivery/maxBatchEvents",
    "/delivery/maxBatchBytes",
    "/delivery/maxPendingBytes",
    "/limits",
    "/limits/bodyBytes",
    "/users/max",
    "/users/maxBytes",
    "/cors/allowOrigins",
    "/settings/apiHost",
];

fn base() -> Value {
    json!({
        "keen": {"cluster": "keen"},
        "sources": {SOURCE_KEY: {"projectId": "9181bcd23843312d87000000", "writeKey": KEEN_KEY}},
        "delivery": {}, "limits": {}, "users": {}, "cors": {}, "settings": {}
    })
}

fn with(pointer: &str, value: Value) -> String {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let mut config = base();
    config.pointer_mut(parent).unwrap()[name] = value;
    config.to_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_error_names_its_place(pointer in prop::sample::select(SETTINGS.to_vec()), value in arbitrary::json()) {
        let Ok(value) = serde_json::from_str::<Value>(&value.text()) else { return Ok(()) };
        let shown = pointer.replace(SOURCE_KEY, "wk_4f1c…");
        let text = with(pointer, value);
        // Too deep to be read at all.
        if serde_json::from_str::<Value>(&text).is_err() { return Ok(()) }
        if let Err(error) = Config::read(text.as_bytes()) {
            let error = error.to_string();
            prop_assert!(error.starts_with(&shown), "{} for {}", error, pointer);
            prop_assert!(!error.contains(KEEN_KEY) && !error.contains("00112233"), "{}", error);
            prop_assert!(error.chars().count() < 1000, "{}", error);
        }
    }

    #[test]
    fn bytes_that_are_no_configuration_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Config::read(&bytes).is_err());
    }

    #[test]
    fn a_cut_configuration_is_refused(end in 0_usize..200) {
        let text = base().to_string();
        prop_assert!(Config::read(&text.as_bytes()[..end.min(text.len() - 1)]).is_err());
    }
}

/// A default of a setting is what stands in the README: taken, and of no effect.
#[test]
fn every_setting_is_known() {
    for (pointer, value) in [
        ("/keen/authority", json!("api.keen.io")),
        ("/keen/timeoutMs", json!(5000)),
        ("/sources/wk_4f1c00112233/readKey", json!(KEEN_KEY)),
        ("/sources/wk_4f1c00112233/mode", json!("cloud")),
        ("/sources/wk_4f1c00112233/ipAddon", json!(false)),
        ("/sources/wk_4f1c00112233/uaAddon", json!(false)),
        ("/sources/wk_4f1c00112233/urlAddon", json!(false)),
        ("/sources/wk_4f1c00112233/referrerAddon", json!(false)),
        ("/sources/wk_4f1c00112233/trackAllPages", json!(false)),
        ("/sources/wk_4f1c00112233/trackCategorizedPages", json!(true)),
        ("/sources/wk_4f1c00112233/trackNamedPages", json!(true)),
        ("/sources/wk_4f1c00112233/initialPageview", json!(false)),
        ("/sources/wk_4f1c00112233/rememberUsers", json!(false)),
        ("/sources/wk_4f1c00112233/audienceEvents", json!(false)),
        ("/sources/wk_4f1c00112233/cluster", json!("keen")),
        ("/unknownSource", json!("accept")),
        ("/intercept", json!("respond")),
        ("/delivery/ack", json!("confirmed")),
        ("/delivery/holdMs", json!(7000)),
        ("/delivery/retries", json!(3)),
        ("/delivery/maxInFlight", json!(4)),
        ("/delivery/maxBatchEvents", json!(1000)),
        ("/delivery/maxBatchBytes", json!(1_000_000)),
        ("/delivery/maxPendingBytes", json!(16_777_216)),
        ("/limits/bodyBytes", json!(524_288)),
        ("/users/max", json!(10_000)),
        ("/users/maxBytes", json!(8_388_608)),
        ("/cors/allowOrigins", json!(["*"])),
    ] {
        let plain = Config::read(base().to_string().as_bytes()).unwrap();
        let explicit =
            Config::read(with(pointer, value).as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(format!("{explicit:?}"), format!("{plain:?}"), "{pointer}");
    }
}
