//! Computed traits and audiences in the identify messages of Engage (formerly Personas).
//!
//! Such a message has `context.personas` with `computation_class` and `computation_key`. The value
//! is in `traits` (segment.com/docs/engage/audiences, "Identify events").
//!
//! ```
//! use keen_edge::segment::message::computed_traits::ComputedTraits;
//! use keen_edge::segment::message::{Body, MessageType};
//!
//! let text = r#"{
//!     "context": {"personas": {"computation_class": "audience", "computation_key": "big_spender"}},
//!     "traits": {"bigSpender": true}
//! }"#;
//! let body = Body::parse(Some(MessageType::Identify), text, 1).unwrap();
//! let computed = ComputedTraits::parse(&body.messages[0], 100).unwrap();
//! assert_eq!(computed.traits, r#"{"big_spender":true}"#);
//! assert_eq!(computed.audiences, [("big_spender".to_owned(), true)]);
//! ```

use super::context::Personas;
use super::{Message, MessageType};
use crate::json::{Value, for_each_member, replace_surrogates, write_string};
use heck::ToSnakeCase;
use std::borrow::Cow;

/// Maximum length of a `computation_key`, in bytes. A longer one is ignored, since Keen would not
/// accept it as a name.
const MAX_KEY_BYTES: usize = 1024;

/// The contents of an identify message from Engage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComputedTraits {
    /// The traits as a JSON object. Computed traits have their names in snake_case.
    pub traits: String,
    /// Audiences by their snake_case name, and whether the user is in them.
    pub audiences: Vec<(String, bool)>,
    /// Number of traits that were read.
    pub count: usize,
}

impl ComputedTraits {
    /// Parses an identify message. `None`: it is not from Engage.
    ///
    /// A trait is computed if `computation_key` names it or its value is a boolean. Engage's other
    /// traits are ids. At most `max_traits` are read; the rest is ignored.
    #[must_use]
    pub fn parse(message: &Message<'_>, max_traits: usize) -> Option<Self> {
        let (Some(MessageType::Identify), Personas::Object { computation_key }) =
            (message.message_type, message.context.personas)
        else {
            return None;
        };
        let key = match computation_key {
            Value::Number(digits) if digits.len() <= MAX_KEY_BYTES => Some(Cow::Borrowed(digits)),
            value => value.short_str(MAX_KEY_BYTES).filter(|key| !key.is_empty()),
        };
        let key = key.map(|key| snake_case(&key));
        let mut computed = Self::default();
        let mut out = Vec::new();
        if let Value::Object(traits) = message.traits {
            for_each_member(traits, &mut |name, value| {
                if computed.count >= max_traits {
                    return;
                }
                computed.count = computed.count.saturating_add(1);
                let name = replace_surrogates(&name.0);
                let snake = snake_case(&name);
                let audience = if let Value::Bool(member) = value { Some(member) } else { None };
                let is_computed = audience.is_some() || key.as_ref() == Some(&snake);
                out.push(if out.is_empty() { b'{' } else { b',' });
                write_string(&mut out, if is_computed { &snake } else { &name });
                out.push(b':');
                out.extend_from_slice(value.json().as_bytes());
                computed.audiences.extend(audience.map(|member| (snake, member)));
            });
        }
        if !out.is_empty() {
            out.push(b'}');
            computed.traits = String::from_utf8(out).unwrap_or_default();
        }
        Some(computed)
    }
}

/// Returns the snake_case form of a name: `Order Completed Last 30days` becomes
/// `order_completed_last_30days`. A name without letters and digits is unchanged.
#[must_use]
pub fn snake_case(name: &str) -> String {
    let snake = name.to_snake_case();
    if snake.is_empty() { name.to_owned() } else { snake }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::segment::message::Body;

    fn identify(text: &str) -> Message<'_> {
        *Body::parse(Some(MessageType::Identify), text, 1).unwrap().messages.first().unwrap()
    }

    #[test]
    fn snake_case_names_of_engage_are_its_own() {
        for (name, want) in [
            ("order_completed_last_30days", "order_completed_last_30days"),
            ("Order Completed Last 30days", "order_completed_last_30days"),
            ("First-Time Shopper", "first_time_shopper"),
            ("BigSpenders", "big_spenders"),
            ("VIP", "vip"),
            ("Größe.ändern", "größe_ändern"),
            ("!?", "!?"),
        ] {
            assert_eq!(snake_case(name), want);
        }
    }

    #[test]
    fn parse_audiences_and_computed_traits_get_snake_case() {
        let message = identify(
            r#"{"context": {"personas": {"computation_class": "trait", "computation_key": "Total Spend"}},
                "traits": {"total_spend": 12.50, "Big Spender": true, "firstName": "a\"b"}}"#,
        );
        let computed = ComputedTraits::parse(&message, 9).unwrap();
        assert_eq!(
            computed.traits,
            r#"{"total_spend":12.50,"big_spender":true,"firstName":"a\"b"}"#
        );
        assert_eq!(computed.audiences, [("big_spender".to_owned(), true)]);
    }

    #[test]
    fn parse_computation_key_names_its_trait_in_any_case() {
        for (key, name, want) in [
            (r#""Total Spend""#, "Total Spend", "total_spend"),
            (r#""total_spend""#, "Total Spend", "total_spend"),
            (r#""Last Order""#, "Total Spend", "Total Spend"),
            (r#""""#, "Total Spend", "Total Spend"),
            ("30", "30", "30"),
        ] {
            let text = format!(
                r#"{{"context":{{"personas":{{"computation_key":{key}}}}},"traits":{{"{name}":5}}}}"#
            );
            let computed = ComputedTraits::parse(&identify(&text), 9).unwrap();
            assert_eq!(computed.traits, format!("{{\"{want}\":5}}"), "{key}");
        }
    }

    #[test]
    fn parse_reads_as_many_traits_as_it_may() {
        let message =
            identify(r#"{"context":{"personas":{}},"traits":{"a":true,"b":1,"c":false}}"#);
        for (max_traits, count, audiences) in [(0, 0, 0), (2, 2, 1), (3, 3, 2), (4, 3, 2)] {
            let computed = ComputedTraits::parse(&message, max_traits).unwrap();
            assert_eq!((computed.count, computed.audiences.len()), (count, audiences));
        }
    }

    #[test]
    fn parse_computation_key_over_its_length_is_ignored() {
        for (bytes, is_computed) in [(MAX_KEY_BYTES, true), (MAX_KEY_BYTES + 1, false)] {
            let key = "K".repeat(bytes);
            let body = format!(
                r#"{{"context": {{"personas": {{"computation_key": "{key}"}}}}, "traits": {{"{key}": 1}}}}"#
            );
            let computed = ComputedTraits::parse(&identify(&body), 9).unwrap();
            assert_eq!(computed.traits.contains("kk"), is_computed, "{bytes}");
        }
    }

    #[test]
    fn parse_other_messages_say_nothing_of_audiences() {
        for body in [
            r#"{"traits": {"a": true}}"#,
            r#"{"context": {"personas": null}, "traits": {"a": true}}"#,
        ] {
            assert_eq!(ComputedTraits::parse(&identify(body), 9), None, "{body}");
        }
        let empty = identify(r#"{"context": {"personas": {}}, "traits": []}"#);
        assert_eq!(ComputedTraits::parse(&empty, 9), Some(ComputedTraits::default()));
    }
}
