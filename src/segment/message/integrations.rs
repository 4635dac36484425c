//! Whether a message is for Keen, and its options for Keen: `integrations` and its older forms.
//!
//! The rules are those of Segment's facade (npm `@segment/facade`, `enabled` and `options`), with
//! `Keen` as a second name of `Keen IO` (segment.com/docs/connections/destinations/catalog/keen).
//!
//! ```
//! use keen_edge::segment::message::{Body, MessageType};
//!
//! for (text, enabled) in [
//!     (r#"{}"#, true),
//!     (r#"{"integrations": {"All": false}}"#, false),
//!     (r#"{"integrations": {"All": false, "Keen IO": true}}"#, true),
//! ] {
//!     let body = Body::parse(Some(MessageType::Track), text, 1).unwrap();
//!     let message = &body.messages[0];
//!     assert_eq!(message.integrations.enabled(&message.context), enabled);
//! }
//! ```

use super::context::Context;
use super::destination_flags::{All, DestinationFlags};
use super::key_match::NormalizedKey;
use crate::json::{Value, for_each_member};

/// `integrations`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Integrations<'a> {
    /// Whether `integrations` is present. Otherwise `context` decides.
    is_present: bool,
    flags: DestinationFlags<'a>,
    /// Keen's flag in `providers`, an older location.
    provider_flag: Value<'a>,
}

impl<'a> Integrations<'a> {
    pub(super) fn parse(value: Value<'a>) -> Self {
        let Value::Object(text) = value else {
            return Self { is_present: value.truthy(), ..Self::default() };
        };
        let mut integrations = Self { is_present: true, ..Self::default() };
        for_each_member(text, &mut |name, value| {
            if *name.0 == *b"providers" {
                integrations.provider_flag = DestinationFlags::parse(value).keen_flag;
            } else {
                let key = NormalizedKey::new(&name.0);
                integrations.flags.member(name, key.as_bytes(), value);
            }
        });
        integrations
    }

    pub(super) fn apply_batch_defaults(&mut self, batch: &Self) {
        self.is_present |= batch.is_present;
        self.flags.apply_batch_defaults(&batch.flags);
        self.provider_flag = self.provider_flag.or(batch.provider_flag);
    }

    /// Whether a message with this `integrations` and this `context` goes to Keen. Keen's own flag
    /// decides (`Keen IO` before `Keen`), else `All`, else the message goes.
    #[must_use]
    pub fn enabled(&self, context: &Context<'_>) -> bool {
        match (self.effective_flags(context).keen_flag, self.provider_flag) {
            (Value::Bool(flag), _) => flag,
            (Value::Absent, Value::Absent) => self.all(context),
            (Value::Absent, provider) => provider.truthy(),
            _ => true,
        }
    }

    /// Returns `traits` from the options for Keen.
    #[must_use]
    pub fn traits(&self, context: &Context<'a>) -> Value<'a> {
        let flags = self.effective_flags(context);
        let of_context = if context.flags.alias_seen {
            context.flags.alias_options
        } else {
            context.flags.options()
        };
        flags.options().or(of_context).traits().or(flags.batch_traits)
    }

    /// Returns every value that [`Integrations::traits`] can return for a message without options
    /// of its own.
    pub(crate) fn every_traits(&self, context: &Context<'a>) -> [Value<'a>; 6] {
        let [a, b] = self.flags.every_traits();
        let [c, d] = context.flags.every_traits();
        let [e, f] = context.providers.map_or([Value::Absent; 2], |flags| flags.every_traits());
        [a, b, c, d, e, f]
    }

    fn all(&self, context: &Context<'_>) -> bool {
        let places =
            [context.providers.map_or(All::Absent, |p| p.all), context.flags.all, self.flags.all];
        places
            .into_iter()
            .find_map(|all| if let All::Bool(all) = all { Some(all) } else { None })
            .unwrap_or(true)
    }

    fn effective_flags<'b>(&self, context: &Context<'b>) -> DestinationFlags<'b>
    where
        'a: 'b,
    {
        if self.is_present { self.flags } else { context.providers.unwrap_or(context.flags) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use crate::segment::message::MessageType;
    use crate::segment::message::body;

    /// Returns whether the message goes to Keen, and its traits option.
    fn single(members: &str) -> (bool, String) {
        let text = format!("{{{members}}}");
        let body = body::Body::parse(Some(MessageType::Track), &text, usize::MAX).unwrap();
        keen_and_traits(body, 0)
    }

    fn keen_and_traits(mut body: body::Body<'_>, at: usize) -> (bool, String) {
        body.apply_batch_defaults();
        let message = &body.messages[at];
        let traits = match message.integrations.traits(&message.context) {
            crate::json::Value::Object(text) => text.to_owned(),
            other => format!("{other:?}"),
        };
        (message.integrations.enabled(&message.context), traits)
    }

    #[test]
    fn enabled_every_form_of_the_reference_is_read() {
        for (integrations, sent) in [
            ("{}", true),
            ("null", true),
            ("[]", true),
            ("\"Keen IO\"", true),
            ("false", true),
            (r#"{"All":true}"#, true),
            (r#"{"All":false}"#, false),
            (r#"{"all":false}"#, false),
            (r#"{"ALL":false}"#, false),
            (r#"{"All":"false"}"#, true),
            (r#"{"all":"x","All":false}"#, true),
            (r#"{"All":false,"Keen IO":true}"#, true),
            (r#"{"All":false,"Keen IO":{}}"#, true),
            (r#"{"All":true,"Keen IO":false}"#, false),
            (r#"{"Keen":false}"#, false),
            (r#"{"All":false,"Keen":true}"#, true),
            (r#"{"All":false,"Keen":{"traits":{}}}"#, true),
            (r#"{"Keen IO":true,"Keen":false}"#, true),
            (r#"{"keen io":false}"#, true),
            (r#"{"KeenIO":false}"#, true),
            (r#"{"keen":false}"#, true),
            (r#"{"All":false,"keen_io":true}"#, false),
            (r#"{"Keen IO":"false"}"#, true),
            (r#"{"Keen IO":0}"#, true),
            (r#"{"Keen IO":null}"#, true),
            (r#"{"Keen IO":false,"Keen IO":true}"#, true),
            (r#"{"providers":{"Keen IO":false}}"#, false),
            (r#"{"providers":{"Keen IO":false},"Keen IO":true}"#, true),
            (r#"{"All":false,"providers":{"Keen IO":{}}}"#, true),
        ] {
            assert_eq!(
                single(&format!(r#""integrations":{integrations}"#)).0,
                sent,
                "{integrations}"
            );
        }
    }

    #[test]
    fn enabled_forms_before_integrations_are_read() {
        for (members, sent) in [
            (r#""context":{"Keen IO":false}"#, false),
            (r#""context":{"all":false}"#, false),
            (r#""context":{"all":false},"integrations":{"All":true}"#, false),
            (r#""context":{"all":false},"integrations":{"Keen IO":true}"#, true),
            (r#""context":{"Keen IO":false},"integrations":{}"#, true),
            (r#""context":{"Keen IO":false},"integrations":[]"#, true),
            (r#""context":{"Keen IO":false},"integrations":true"#, true),
            (r#""context":{"Keen IO":false},"integrations":null"#, false),
            (r#""context":{"Keen IO":false},"integrations":false"#, false),
            (r#""context":{"providers":{"Keen IO":false}}"#, false),
            (r#""context":{"providers":{"all":false}}"#, false),
            (r#""context":{"providers":{"all":true},"all":false}"#, true),
            (r#""context":{"providers":{},"Keen IO":false}"#, true),
            (r#""options":{"Keen IO":false}"#, false),
            (r#""options":{},"context":{"Keen IO":false}"#, true),
            (r#""options":null,"context":{"Keen IO":false}"#, false),
        ] {
            assert_eq!(single(members).0, sent, "{members}");
        }
    }

    #[test]
    fn traits_of_options_are_found() {
        for (members, traits) in [
            (r#""integrations":{"Keen IO":{"traits":{"a":1}}}"#, r#"{"a":1}"#),
            (r#""integrations":{"Keen":{"traits":{"a":1}}}"#, r#"{"a":1}"#),
            (r#""integrations":{"keenIo":{"traits":{"a":1}}}"#, r#"{"a":1}"#),
            (r#""integrations":{"Keen IO":{},"keen_io":{"traits":{"a":1}}}"#, "Absent"),
            (r#""integrations":{"Keen IO":true,"keen_io":{"traits":{"a":1}}}"#, "Absent"),
            (r#""integrations":{"Keen IO":null,"keen_io":{"traits":{"a":1}}}"#, "Absent"),
            (r#""integrations":{"keen_io":{"traits":{"a":1}},"Keen IO":null}"#, r#"{"a":1}"#),
            (r#""integrations":{"keen_io":{"traits":{"a":1}},"Keen IO":true}"#, "Absent"),
            (r#""integrations":{"keen_io":{"traits":{"a":1}},"Keen":true}"#, r#"{"a":1}"#),
            (r#""integrations":{"Keen":true,"keen_io":{"traits":{"a":1}}}"#, r#"{"a":1}"#),
            (r#""integrations":{"Keen IO":[]},"context":{"keen_io":{"traits":{"a":1}}}"#, "Absent"),
            (
                r#""integrations":{"Keen IO":true},"context":{"keen_io":{"traits":{"a":1}}}"#,
                r#"{"a":1}"#,
            ),
            (r#""context":{"Keen IO":{"traits":{"a":1}}}"#, r#"{"a":1}"#),
            (r#""integrations":{"Keen IO":{"Traits":{"a":1}}}"#, "Absent"),
            (r#""integrations":{"Keen IO":null}"#, "Absent"),
        ] {
            assert_eq!(single(members), (true, traits.to_owned()), "{members}");
        }
    }

    #[test]
    fn batch_integrations_are_defaults_for_messages() {
        for (batch, own, sent, traits) in [
            (r#"{"All":false}"#, "{}", false, "Absent"),
            (r#"{"All":false}"#, "null", false, "Absent"),
            (r#"{"All":false}"#, r#"{"all":true}"#, true, "Absent"),
            (r#"{"All":false}"#, r#"{"Keen IO":true}"#, true, "Absent"),
            (r#"{"All":false,"Keen IO":true}"#, r#"{"Keen IO":false}"#, false, "Absent"),
            (r#"{"Keen IO":true}"#, r#"{"Keen":false}"#, false, "Absent"),
            (r#"{"Keen":false}"#, r#"{"Keen IO":true}"#, true, "Absent"),
            (r#"{"Keen":false}"#, r#"{"All":true}"#, false, "Absent"),
            (r#"{"Keen IO":{"traits":{"b":1}}}"#, "{}", true, r#"{"b":1}"#),
            (
                r#"{"Keen IO":{"traits":{"b":1}}}"#,
                r#"{"Keen IO":{"traits":{"m":1}}}"#,
                true,
                r#"{"m":1}"#,
            ),
            (r#"{"Keen IO":{"traits":{"b":1}}}"#, r#"{"Keen IO":{"other":1}}"#, true, r#"{"b":1}"#),
            (r#"{"Keen IO":{"traits":{"b":1}}}"#, r#"{"Keen IO":true}"#, true, "Absent"),
            (r#"{"Keen IO":{"traits":{"b":1}}}"#, r#"{"Keen IO":false}"#, false, "Absent"),
        ] {
            let text = format!(r#"{{"batch":[{{"integrations":{own}}}],"integrations":{batch}}}"#);
            let body = body::Body::parse(None, &text, usize::MAX).unwrap();
            assert_eq!(keen_and_traits(body, 0), (sent, traits.to_owned()), "{text}");
        }
    }
}
