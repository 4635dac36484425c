//! The intended differences between keen-edge and the facade, and their reasons.

use crate::messages::Message;
use serde_json::{Value, json};

/// A field of a message that keen-edge and the facade read differently.
pub(crate) struct Case<'c> {
    pub(crate) message: &'c Message,
    pub(crate) field: &'c str,
    pub(crate) facade: Option<&'c Value>,
    pub(crate) ours: Option<&'c Value>,
    pub(crate) received: &'c str,
}

/// An intended difference.
pub(crate) struct Difference {
    pub(crate) what: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) explains: fn(&Case<'_>) -> bool,
}

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        what: "`Keen` is `Keen IO`",
        reason: "Segment's page on the destination gives it both names; its servers know the second",
        explains: |case| matches!(case.field, "sent" | "traits") && case.names("Keen"),
    },
    Difference {
        what: "no time, or null: when the request came",
        reason: "the facade takes its own clock, and null for 1970",
        explains: |case| case.field == "timestamp" && case.is_received() && case.time().is_null(),
    },
    Difference {
        what: "a time that cannot be read: when the request came",
        reason: "the facade gives null, which Keen rejects",
        explains: |case| {
            case.field == "timestamp" && case.is_received() && case.facade == Some(&Value::Null)
        },
    },
    Difference {
        what: "a date that does not exist is no time",
        reason: "the facade lets it roll over into another month",
        explains: |case| case.is_received() && case.time_is_iso(),
    },
    Difference {
        what: "a time in none of the forms above is none",
        reason: "the facade hands it to JavaScript's Date, which ignores words that it does not know",
        explains: |case| case.field == "timestamp" && case.is_received() && !case.time_is_iso(),
    },
    Difference {
        what: "a time with a space keeps its offset",
        reason: "the facade then takes the zone of the machine it runs on",
        explains: |case| {
            case.field == "timestamp" && case.time_is_iso() && case.time().to_string().contains(' ')
        },
    },
    Difference {
        what: "a count of seconds keeps its fraction, to the nearest millisecond",
        reason: "the facade cuts it, and drops it from a text",
        explains: |case| {
            case.field == "timestamp"
                && case.time().to_string().contains('.')
                && !case.time_is_iso()
        },
    },
    Difference {
        what: "strings that look like dates stay",
        reason: "the facade rewrites them all over the message; a property is the caller's",
        explains: |case| {
            case.facade.is_some_and(|value| {
                let text = value.to_string();
                text.contains("2014-01-02T00:00:00.000Z") || text.contains("Thu Jan 02 2014")
            })
        },
    },
    Difference {
        what: "a name is a text or a number",
        reason: "JavaScript would make one of true, {} and []",
        explains: |case| case.field == "names" && case.has_odd_name(),
    },
    Difference {
        what: "only case, `_`, `-` and spaces do not count in a name",
        reason: "the facade ignores every sign, and so takes `$ip` for `ip`",
        explains: |case| match case.field {
            "ip_address" => case.message.text.contains("\"$ip\""),
            "page_url" => case.message.text.contains("\"$url\""),
            _ => false,
        },
    },
    Difference {
        what: "a placeholder of Keen's is no value",
        reason: "Keen would fill in what it sees: Envoy's address, and Envoy's name",
        explains: |case| case.facade.is_some_and(|v| v.to_string().contains("${keen.")),
    },
    Difference {
        what: "an address loses its port",
        reason: "Keen looks up addresses, not sockets",
        explains: |case| {
            case.field == "ip_address"
                && case.facade.is_some_and(|v| {
                    v.to_string().contains(":80") || v.to_string().contains("]:443")
                })
        },
    },
    Difference {
        what: "an hour without minutes is a time",
        reason: "ISO 8601 allows it; the facade gives null, which Keen rejects",
        explains: |case| {
            case.field == "timestamp" && case.time() == "2014-01-02T03" && !case.is_received()
        },
    },
    Difference {
        what: "a url that has members is none",
        reason: "no add-on reads it; the context's page says where it was",
        explains: |case| {
            case.field == "page_url" && case.facade == Some(&json!({})) && case.ours != case.facade
        },
    },
    Difference {
        what: "options that are no object replace no context",
        reason: "nothing can be read from them",
        explains: |case| {
            case.message.value.get("options").is_some_and(|options| !options.is_object())
        },
    },
];

impl Case<'_> {
    fn is_received(&self) -> bool {
        self.ours.and_then(Value::as_str) == Some(self.received)
    }

    fn time(&self) -> &Value {
        self.message.value.get("timestamp").unwrap_or(&Value::Null)
    }

    /// Whether a text matches the facade's own pattern for ISO 8601.
    fn time_is_iso(&self) -> bool {
        let text = self.time().as_str().unwrap_or_default();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        self.field == "timestamp" && matches!(digits, 4 | 6 | 8) && !text.contains("-2-")
    }

    /// Whether flags anywhere in the message name this destination.
    fn names(&self, name: &str) -> bool {
        let value = &self.message.value;
        let places =
            ["integrations", "context", "options"].into_iter().filter_map(|place| value.get(place));
        places
            .flat_map(|place| [Some(place), place.get("providers")])
            .flatten()
            .any(|flags| flags.get(name).is_some())
    }

    fn has_odd_name(&self) -> bool {
        let odd =
            |value: &Value| matches!(value, Value::Bool(true) | Value::Object(_) | Value::Array(_));
        ["name", "category"].iter().filter_map(|name| self.message.value.get(name)).any(odd)
    }
}
