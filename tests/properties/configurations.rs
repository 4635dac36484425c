//! Configurations with every setting of the table, with every kind of value.

use super::arbitrary;
use keen_edge::config::schema::{Default, Kind, SETTINGS, Setting};
use keen_edge::config::{Config, reference};
use proptest::prelude::*;
use serde_json::{Value, json};

const KEEN_KEY: &str = "ABCDEF0123456789ABCDEF0123456789";
const SOURCE_KEY: &str = "wk_4f1c00112233";

/// Returns a configuration with the required settings only.
fn base() -> Value {
    json!({
        "keen": {"cluster": "keen"},
        "sources": {SOURCE_KEY: {"projectId": "9181bcd23843312d87000000", "writeKey": KEEN_KEY}},
        "overflow": {"cluster": "sqs", "queueUrl": "http://localhost:9324/queue/overflow"},
        "delivery": {}, "limits": {}, "users": {}, "cors": {}, "settings": {}
    })
}

/// Returns a configuration in which the setting has an effect, whatever its value is.
fn base_for(setting: &Setting) -> Value {
    let mut config = base();
    // With waiting callers, afterMs must be less than holdMs.
    config["delivery"]["ack"] = json!("accepted");
    // Keys for pages require device mode.
    if setting.name() != "mode" {
        config["sources"][SOURCE_KEY]["mode"] = json!("device");
        config["sources"][SOURCE_KEY]["bundled"] = json!(true);
    }
    config
}

fn with(mut config: Value, setting: &Setting, value: Value) -> Value {
    let pointer = setting.pointer.replace('*', SOURCE_KEY);
    let (section, name) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(section).unwrap()[name] = value;
    config
}

fn parse(config: &Value) -> Result<Config, String> {
    Config::parse(config.to_string().as_bytes()).map_err(|errors| errors.to_string())
}

/// Returns values at the edges of a setting's range: those it accepts, and those it refuses.
fn edges(setting: &Setting) -> (Vec<Value>, Vec<Value>) {
    let long = |count: usize| json!("a".repeat(count));
    match setting.kind {
        Kind::Section => (vec![], vec![json!([]), json!("x"), json!(null)]),
        Kind::Bool => (vec![json!(true), json!(false)], vec![json!(1), json!("true"), json!(null)]),
        Kind::Integer { min, max } => (
            // A Struct's numbers are doubles.
            vec![json!(min), json!(max), json!(max as f64)],
            vec![json!(min as i64 - 1), json!(max + 1), json!(min as f64 + 0.5), json!("1")],
        ),
        Kind::OneOf(words) => (
            words.iter().map(|word| json!(word)).collect(),
            vec![json!("other"), json!(words[0].to_uppercase()), json!("")],
        ),
        Kind::Name => (
            vec![long(1), long(128), json!("!~")],
            vec![long(0), long(129), json!("a b"), json!("ä")],
        ),
        Kind::Host => (
            vec![long(1), long(255), json!("[::1]:8080"), json!("a_b.c-d:1")],
            vec![long(0), long(256), json!("https://a"), json!("a/b"), json!("a@b"), json!("a b")],
        ),
        Kind::HostAndPath => (
            vec![long(1), json!("a.b/v1"), json!("a:1/"), json!(format!("a/{}", "b".repeat(1024)))],
            vec![
                long(256),
                json!("https://a/v1"),
                json!("/v1"),
                json!("a?b"),
                json!(format!("a/{}", "b".repeat(1025))),
            ],
        ),
        Kind::PathPrefix => (
            vec![json!("/a"), json!("/a/b~"), json!(format!("/{}", "a".repeat(254)))],
            vec![
                json!("/"),
                json!("a"),
                json!("/a/"),
                json!("/a//b"),
                json!("/a?b"),
                json!("/a b"),
                json!(format!("/{}", "a".repeat(255))),
            ],
        ),
        Kind::Url => (
            vec![json!("http://a/b"), json!("https://[::1]:1/b/c/")],
            vec![
                json!("a/b"),
                json!("ftp://a/b"),
                json!("https://a"),
                json!("https://a/"),
                json!("https:///b"),
                json!("http://a/b?c"),
            ],
        ),
        Kind::ProjectId => (
            vec![json!("0123456789abcdefABCDEF01")],
            vec![
                json!("0123456789abcdefABCDEF0"),
                json!("0123456789abcdefABCDEF012"),
                json!("0123456789abcdefABCDEF0g"),
            ],
        ),
        Kind::KeenKey => {
            (vec![long(32), long(4096)], vec![long(31), long(4097), json!(format!("{KEEN_KEY}-"))])
        }
        Kind::Origins => (
            vec![json!([]), json!(["*"]), json!(["null", "https://*.a.b:1"])],
            vec![
                json!("*"),
                json!([1]),
                json!(["https://A.b"]),
                json!(["a.b"]),
                json!(["https://*"]),
            ],
        ),
    }
}

#[test]
fn every_setting_accepts_its_edges_and_they_have_an_effect() {
    for setting in SETTINGS {
        let (accepted, _) = edges(setting);
        let mut configs = Vec::new();
        for value in accepted {
            let config = parse(&with(base_for(setting), setting, value.clone()))
                .unwrap_or_else(|error| panic!("{value}: {error}"));
            if let (Kind::Integer { .. }, Some(number)) = (setting.kind, value.as_u64()) {
                let shown = format!("{config:?}");
                assert!(shown.contains(&format!(": {number}")), "{}: {shown}", setting.pointer);
            }
            configs.push(config);
        }
        configs.push(parse(&base_for(setting)).unwrap());
        let differ = configs.iter().any(|config| *config != configs[0]);
        assert!(differ || setting.kind == Kind::Section, "{} has no effect", setting.pointer);
    }
}

#[test]
fn every_setting_refuses_what_is_beyond_its_edges() {
    for setting in SETTINGS {
        for value in edges(setting).1 {
            let error = parse(&with(base_for(setting), setting, value.clone())).unwrap_err();
            let pointer = setting.pointer.replace('*', "wk_4f1c…");
            assert!(error.starts_with(&pointer), "{pointer}: {value}: {error}");
        }
    }
}

#[test]
fn every_default_equals_the_setting_left_out() {
    let plain = parse(&base()).unwrap();
    for setting in SETTINGS {
        let value = match setting.default {
            Default::Bool(flag) => json!(flag),
            Default::Integer(number) => json!(number),
            Default::Text(text) => json!(text),
            Default::ListOf(text) => json!([text]),
            Default::Required | Default::Described(_) => continue,
        };
        assert_eq!(
            parse(&with(base(), setting, value)).as_ref(),
            Ok(&plain),
            "{}",
            setting.pointer
        );
    }
}

#[test]
fn required_settings_are_required() {
    for setting in SETTINGS.iter().filter(|setting| setting.default == Default::Required) {
        let mut config = base();
        let pointer = setting.pointer.replace('*', SOURCE_KEY);
        let (section, name) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(section).unwrap().as_object_mut().unwrap().remove(name);
        parse(&config).unwrap_err();
    }
}

/// Rules that the schema cannot express: settings that depend on each other across sections.
fn is_beyond_schema(errors: &str) -> bool {
    errors.lines().all(|error| error.starts_with("/overflow/afterMs: must be less than"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn errors_name_the_setting_and_agree_with_the_schema(
        setting in prop::sample::select(SETTINGS),
        value in arbitrary::json(),
        edge in any::<Option<prop::sample::Index>>(),
    ) {
        let (mut accepted, mut refused) = edges(&setting);
        accepted.append(&mut refused);
        let value = match edge {
            Some(index) => accepted.swap_remove(index.index(accepted.len())),
            None => {
                let Ok(value) = serde_json::from_str::<Value>(&value.text()) else { return Ok(()) };
                value
            }
        };
        let config = with(base(), &setting, value);
        let text = config.to_string();
        // Nests too deep to be read at all.
        if serde_json::from_str::<Value>(&text).is_err() { return Ok(()) }
        let parsed = parse(&config);
        let validator = crate::configurations::validator();
        match parsed {
            Ok(_) => prop_assert!(validator.is_valid(&config), "{}", text),
            Err(errors) => {
                prop_assert!(!validator.is_valid(&config) || is_beyond_schema(&errors), "{}: {}", text, errors);
                let shown = setting.pointer.replace('*', "wk_4f1c…");
                for error in errors.lines() {
                    let is_related = setting.pointer == "/delivery/holdMs" && is_beyond_schema(error);
                    prop_assert!(error.starts_with(&shown) || is_related, "{} for {}", error, shown);
                    prop_assert!(error.chars().count() < 1000, "{}", error);
                }
                prop_assert!(!errors.contains(KEEN_KEY) && !errors.contains("00112233"), "{}", errors);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Config::parse(&bytes).is_err());
    }

    #[test]
    fn truncated_configuration_is_refused(end in 0_usize..200) {
        let text = base().to_string();
        prop_assert!(Config::parse(&text.as_bytes()[..end.min(text.len() - 1)]).is_err());
    }
}

fn validator() -> &'static jsonschema::Validator {
    static VALIDATOR: std::sync::OnceLock<jsonschema::Validator> = std::sync::OnceLock::new();
    VALIDATOR.get_or_init(|| jsonschema::validator_for(&reference::json_schema()).unwrap())
}
