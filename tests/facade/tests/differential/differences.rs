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
        what: "`Keen` means `Keen IO` in `integrations`",
        reason: "Segment's page on the destination has both names; its servers only know the second",
        explains: |case| matches!(case.field, "sent" | "traits") && case.names("Keen"),
    },
    Difference {
        what: "a missing time, or null, becomes the time of receipt",
        reason: "the facade uses its own clock, and reads null as 1970",
        explains: |case| case.field == "timestamp" && case.is_received() && case.time().is_null(),
    },
    Difference {
        what: "an unreadable time becomes the time of receipt",
        reason: "the facade returns null, which Keen rejects",
        explains: |case| {
            case.field == "timestamp" && case.is_received() && case.facade == Some(&Value::Null)
        },
    },
    Difference {
        what: "a date that does not exist counts as unreadable",
        reason: "the facade moves it into the next month",
        explains: |case| case.is_received() && case.time_is_iso(),
    },
    Difference {
        what: "a time in any other form than those above counts as unreadable",
        reason: "the facade passes it to JavaScript's Date, which ignores unknown words",
        explains: |case| case.field == "timestamp" && case.is_received() && !case.time_is_iso(),
    },
    Difference {
        what: "a time with a space keeps its offset",
        reason: "the facade uses the time zone of its machine instead",
        explains: |case| {
            case.field == "timestamp" && case.time_is_iso() && case.time().to_string().contains(' ')
        },
    },
    Difference {
        what: "a number of seconds keeps its fraction, rounded to milliseconds",
        reason: "the facade truncates it, and removes it from a text",
        explains: |case| {
            case.field == "timestamp"
                && case.time().to_string().contains('.')
                && !case.time_is_iso()
        },
    },
    Difference {
        what: "strings that look like dates are not changed",
        reason: "the facade rewrites them everywhere in the message; properties belong to the caller",
        explains: |case| {
            case.facade.is_some_and(|value| {
                let text = value.to_string();
                text.contains("2014-01-02T00:00:00.000Z") || text.contains("Thu Jan 02 2014")
            })
        },
    },
    Difference {
        what: "only texts and numbers are names",
        reason: "JavaScript would also convert true, {} and [] to a name",
        explains: |case| case.field == "names" && case.has_odd_name(),
    },
    Difference {
        what: "look-ups ignore only case, `_`, `-` and spaces in a name",
        reason: "the facade ignores every sign, so it reads `$ip` as `ip`",
        explains: |case| match case.field {
            "ip_address" => case.message.text.contains("\"$ip\""),
            "page_url" => case.message.text.contains("\"$url\""),
            _ => false,
        },
    },
    Difference {
        what: "Keen's placeholders count as absent",
        reason: "Keen would replace them by Envoy's address and Envoy's user agent",
        explains: |case| case.facade.is_some_and(|v| v.to_string().contains("${keen.")),
    },
    Difference {
        what: "the port of an address is removed",
        reason: "Keen looks up addresses without ports",
        explains: |case| {
            case.field == "ip_address"
                && case.facade.is_some_and(|v| {
                    v.to_string().contains(":80") || v.to_string().contains("]:443")
                })
        },
    },
    Difference {
        what: "a time with an hour and no minutes is readable",
        reason: "ISO 8601 allows it; the facade returns null, which Keen rejects",
        explains: |case| {
            case.field == "timestamp" && case.time() == "2014-01-02T03" && !case.is_received()
        },
    },
    Difference {
        what: "a `url` that is an object is ignored",
        reason: "no add-on reads it; `context.page` has the address",
        explains: |case| {
            case.field == "page_url" && case.facade == Some(&json!({})) && case.ours != case.facade
        },
    },
    Difference {
        what: "`options` that is not an object does not replace `context`",
        reason: "it has no fields to read",
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
