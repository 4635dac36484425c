//! Which destinations a message is for, and what it tells them: `integrations`, and the forms before it.
//!
//! Read as Segment's facade reads it (npm `@segment/facade`, `enabled` and `options`), and with the destination's second
//! name: `Keen` is `Keen IO` (segment.com/docs/connections/destinations/catalog/keen).

use super::fields::{Context, members};
use super::key_match::Plain;
use crate::json::{Cursor, Read, Str, Value};

/// What one object says of destinations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags<'a> {
    all: All,
    /// `Keen IO`, to the letter, else `Keen`.
    named: Value<'a>,
    /// It is `Keen IO` that is named.
    exactly: bool,
    /// What the first of all writings (`keenIo`, `keen_io`, `Keen IO`) carries: options, never a flag.
    alike: Told<'a>,
    /// One of those writings has been seen.
    seen: bool,
    /// The batch's options, under the message's own.
    batch: Option<&'a str>,
}

/// What Keen is told beside a flag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Told<'a> {
    /// Nothing here: another place may tell it something.
    #[default]
    Nothing,
    /// Something without members, and so nothing anywhere.
    Empty,
    /// Options.
    Options(&'a str),
}

impl<'a> Told<'a> {
    fn by(value: Value<'a>) -> Self {
        match value {
            Value::Object(options) => Self::Options(options),
            // JavaScript calls them objects too.
            Value::Null | Value::Array(_) => Self::Empty,
            _ => Self::Nothing,
        }
    }

    fn or(self, other: Self) -> Self {
        if self == Self::Nothing { other } else { self }
    }
}

/// `All`, in any case. Of several the first counts, and only where it is a boolean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum All {
    #[default]
    Absent,
    Other,
    Flag(bool),
}

/// `integrations`
#[derive(Debug, Clone, Copy, Default)]
pub struct Integrations<'a> {
    /// Whether there are any: without them `context` is asked.
    given: bool,
    flags: Flags<'a>,
    /// Keen's flag in its `providers`, an older place.
    provider: Value<'a>,
}

impl<'a> Flags<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Read<Self> {
        let mut flags = Self::default();
        members(cursor, |key, cursor| flags.member(key, Plain::of(key).as_bytes(), cursor))?;
        Ok(flags)
    }

    /// Reads a member's value, and keeps it where it tells something of Keen.
    pub(super) fn member(
        &mut self,
        key: Str<'a>,
        plain: &[u8],
        cursor: &mut Cursor<'a>,
    ) -> Read<()> {
        match plain {
            b"all" if self.all == All::Absent => {
                self.all = if let Value::Bool(all) = cursor.value()? {
                    All::Flag(all)
                } else {
                    All::Other
                };
            }
            b"keenio" => {
                let value = cursor.value()?;
                if !self.seen {
                    (self.alike, self.seen) = (Told::by(value), true);
                }
                if key.is("Keen IO") {
                    (self.named, self.exactly) = (value, true);
                }
            }
            b"keen" if !self.exactly && key.is("Keen") => self.named = cursor.value()?,
            _ => drop(cursor.skip()?),
        }
        Ok(())
    }

    pub(super) fn inherit(&mut self, batch: &Self) {
        if self.all == All::Absent {
            self.all = batch.all;
        }
        if self.named == Value::Absent {
            self.named = batch.named;
        } else if object(self.named).is_some() {
            self.batch = object(batch.named);
        }
        if !self.seen {
            (self.alike, self.seen) = (batch.alike, batch.seen);
        }
    }

    /// What it tells Keen beside the flag.
    fn told(&self) -> Told<'a> {
        match self.named {
            Value::Object(options) => Told::Options(options),
            value if self.exactly && value.truthy() => Told::by(value),
            _ => self.alike,
        }
    }
}

impl<'a> Integrations<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Read<Self> {
        let mut integrations = Self { given: true, ..Self::default() };
        if cursor.peek() != Some(b'{') {
            integrations.given = cursor.value()?.truthy();
            return Ok(integrations);
        }
        cursor.object(|key, cursor| {
            if key.is("providers") {
                integrations.provider = Flags::read(cursor)?.named;
                return Ok(());
            }
            integrations.flags.member(key, Plain::of(key).as_bytes(), cursor)
        })?;
        Ok(integrations)
    }

    pub(super) fn inherit(&mut self, batch: &Self) {
        self.given |= batch.given;
        self.flags.inherit(&batch.flags);
        self.provider = self.provider.or(batch.provider);
    }

    /// Whether Keen gets a message with these and that context: its own flag where it is named (`Keen IO` before `Keen`),
    /// else `All`, else yes.
    #[must_use]
    pub fn enabled(&self, context: &Context<'_>) -> bool {
        match (self.that_count(context).named, self.provider) {
            (Value::Bool(flag), _) => flag,
            (Value::Absent, Value::Absent) => self.all(context),
            (Value::Absent, provider) => provider.truthy(),
            _ => true,
        }
    }

    /// `traits` among the options for Keen.
    #[must_use]
    pub fn traits(&self, context: &Context<'a>) -> Value<'a> {
        let flags = self.that_count(context);
        let of_context =
            if context.flags.seen { context.flags.alike } else { context.flags.told() };
        let told = flags.told().or(of_context);
        let own =
            if let Told::Options(options) = told { traits_of(options) } else { Value::Absent };
        own.or(flags.batch.map_or(Value::Absent, traits_of))
    }

    fn all(&self, context: &Context<'_>) -> bool {
        let places =
            [context.providers.map_or(All::Absent, |p| p.all), context.flags.all, self.flags.all];
        places
            .into_iter()
            .find_map(|all| if let All::Flag(all) = all { Some(all) } else { None })
            .unwrap_or(true)
    }

    fn that_count<'b>(&self, context: &Context<'b>) -> Flags<'b>
    where
        'a: 'b,
    {
        if self.given { self.flags } else { context.providers.unwrap_or(context.flags) }
    }
}

fn object<'a>(value: Value<'a>) -> Option<&'a str> {
    if let Value::Object(text) = value { Some(text) } else { None }
}

fn traits_of<'a>(options: &'a str) -> Value<'a> {
    let mut traits = Value::Absent;
    // The text has been read once: it is an object.
    let _ = Cursor::new(options).object(|key, cursor| {
        let value = cursor.value()?;
        if key.is("traits") {
            traits = value;
        }
        Ok(())
    });
    traits
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use crate::segment::message::MessageType;
    use crate::segment::message::body;

    /// Whether Keen gets it, and the traits for it.
    fn single(members: &str) -> (bool, String) {
        let text = format!("{{{members}}}");
        let body = body::read(Some(MessageType::Track), text.as_bytes()).unwrap();
        told(&body, 0)
    }

    fn told(body: &body::Body<'_>, at: usize) -> (bool, String) {
        let message = &body.messages[at];
        let traits = match message.integrations.traits(&message.context) {
            crate::json::Value::Object(text) => text.to_owned(),
            other => format!("{other:?}"),
        };
        (message.integrations.enabled(&message.context), traits)
    }

    #[test]
    fn every_form_of_the_reference() {
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
    fn the_forms_before_integrations() {
        for (members, sent) in [
            (r#""context":{"Keen IO":false}"#, false),
            (r#""context":{"all":false}"#, false),
            (r#""context":{"all":false},"integrations":{"All":true}"#, false),
            (r#""context":{"all":false},"integrations":{"Keen IO":true}"#, true),
            (r#""context":{"Keen IO":false},"integrations":{}"#, true),
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
    fn options_carry_traits() {
        for (members, traits) in [
            (r#""integrations":{"Keen IO":{"traits":{"a":1}}}"#, r#"{"a":1}"#),
            (r#""integrations":{"Keen":{"traits":{"a":1}}}"#, r#"{"a":1}"#),
            (r#""integrations":{"keenIo":{"traits":{"a":1}}}"#, r#"{"a":1}"#),
            (r#""integrations":{"Keen IO":{},"keen_io":{"traits":{"a":1}}}"#, "Absent"),
            (r#""integrations":{"Keen IO":true,"keen_io":{"traits":{"a":1}}}"#, "Absent"),
            (r#""integrations":{"Keen IO":null,"keen_io":{"traits":{"a":1}}}"#, "Absent"),
            (r#""integrations":{"keen_io":{"traits":{"a":1}},"Keen IO":null}"#, r#"{"a":1}"#),
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
    fn the_batch_speaks_under_the_message() {
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
            let body = body::read(None, text.as_bytes()).unwrap();
            assert_eq!(told(&body, 0), (sent, traits.to_owned()), "{text}");
        }
    }
}
