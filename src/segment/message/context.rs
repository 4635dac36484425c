//! `context`: client details, and the older locations of destination flags.
//!
//! ```
//! use keen_edge::segment::message::{Body, MessageType};
//!
//! let text = r#"{"context": {"user_agent": "curl/8.5", "page": {"URL": "https://shop.example/"}}}"#;
//! let body = Body::parse(Some(MessageType::Page), text, 1).unwrap();
//! let context = &body.messages[0].context;
//! assert_eq!(context.user_agent.json(), "\"curl/8.5\"");
//! assert_eq!(context.page_url.json(), "\"https://shop.example/\"");
//! ```

use super::destination_flags::DestinationFlags;
use super::key_match::{FirstMatch, NormalizedKey, key_matches};
use crate::json::{Name, ReadMember, Value, for_each_member, member};
use serde::de::{IgnoredAny, MapAccess};
use serde_json::value::RawValue;

/// The parts of `context` that the mapping needs. Names are matched as in Segment's facade.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context<'a> {
    /// `ip`
    pub ip: Value<'a>,
    /// `userAgent`
    pub user_agent: Value<'a>,
    /// Whether `page` is present.
    pub has_page: bool,
    /// `page.url`
    pub page_url: Value<'a>,
    /// `page.referrer`
    pub page_referrer: Value<'a>,
    /// `library.name`, or `library` itself if it is only a name.
    pub library_name: Value<'a>,
    /// `direct`: the request comes from the end user's device.
    pub direct: Value<'a>,
    /// `traits`: the user's traits, which mobile SDKs repeat in every message.
    pub traits: Value<'a>,
    /// `personas`: present if the message is from Engage.
    pub personas: Personas<'a>,
    /// Destination flags directly in `context`, where clients put them before `integrations`.
    pub(super) flags: DestinationFlags<'a>,
    /// `providers`: destination flags one level deeper.
    pub(super) providers: Option<DestinationFlags<'a>>,
}

/// `context.personas`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Personas<'a> {
    /// The member is absent.
    #[default]
    Absent,
    /// The member is not an object.
    NoObject,
    /// The message is from Engage.
    Object {
        /// `computation_key`: name of the trait or audience.
        computation_key: Value<'a>,
    },
}

impl<'a> Context<'a> {
    /// Copies the values of the batch's `context` that this one does not set.
    pub fn apply_batch_defaults(&mut self, batch: &Self) {
        self.ip = self.ip.or(batch.ip);
        self.user_agent = self.user_agent.or(batch.user_agent);
        self.library_name = self.library_name.or(batch.library_name);
        self.direct = self.direct.or(batch.direct);
        self.traits = self.traits.or(batch.traits);
        if self.personas == Personas::Absent {
            self.personas = batch.personas;
        }
        self.has_page |= batch.has_page;
        self.page_url = self.page_url.or(batch.page_url);
        self.page_referrer = self.page_referrer.or(batch.page_referrer);
        self.flags.apply_batch_defaults(&batch.flags);
        self.providers = match (self.providers, batch.providers) {
            (Some(mut own), Some(batch)) => {
                own.apply_batch_defaults(&batch);
                Some(own)
            }
            (own, batch) => own.or(batch),
        };
    }

    /// Reads `page`. A URL already found under a dotted name is kept.
    fn set_page(&mut self, page: Value<'a>) {
        self.has_page = matches!(page, Value::Object(_));
        // As in the facade, the members of `null` are `null`.
        let outside = if page == Value::Null { Value::Null } else { Value::Absent };
        let (mut page_url, mut page_referrer) = (outside, outside);
        let (mut url, mut referrer) = <(FirstMatch<'_>, FirstMatch<'_>)>::default();
        if let Value::Object(text) = page {
            for_each_member(
                text,
                &mut |name, value| match NormalizedKey::new(&name.0).as_bytes() {
                    b"url" if url.claim(name) => page_url = value,
                    b"referrer" if referrer.claim(name) => page_referrer = value,
                    _ => {}
                },
            );
        }
        self.page_url = self.page_url.or(page_url);
        self.page_referrer = self.page_referrer.or(page_referrer);
    }
}

/// Reads the members of a `context`.
#[derive(Debug, Default)]
pub(super) struct ContextReader<'a> {
    pub(super) context: Context<'a>,
    ip: FirstMatch<'a>,
    user_agent: FirstMatch<'a>,
    direct: FirstMatch<'a>,
    traits: FirstMatch<'a>,
    personas: FirstMatch<'a>,
    page: FirstMatch<'a>,
    /// Matches dotted names such as `page.url`.
    dotted_url: FirstMatch<'a>,
    dotted_referrer: FirstMatch<'a>,
    library: FirstMatch<'a>,
    providers: FirstMatch<'a>,
}

impl<'a> ReadMember<'a> for ContextReader<'a> {
    fn member<A: MapAccess<'a>>(&mut self, name: Name<'a>, map: &mut A) -> Result<(), A::Error> {
        let key = NormalizedKey::new(&name.0);
        let context = &mut self.context;
        let mut value = || map.next_value::<&RawValue>().map(Value::from);
        match key.as_bytes() {
            b"ip" if self.ip.claim(&name) => context.ip = value()?,
            b"useragent" if self.user_agent.claim(&name) => context.user_agent = value()?,
            b"direct" if self.direct.claim(&name) => context.direct = value()?,
            b"traits" if self.traits.claim(&name) => context.traits = value()?,
            b"personas" if self.personas.claim(&name) => {
                context.personas = match value()? {
                    Value::Object(text) => {
                        Personas::Object { computation_key: member(text, "computation_key") }
                    }
                    _ => Personas::NoObject,
                };
            }
            b"page" if self.page.claim(&name) => {
                // Of equal names the last one wins. Only a dotted name before the first `page` is
                // kept.
                if self.dotted_url.is_unclaimed() {
                    context.page_url = Value::Absent;
                }
                if self.dotted_referrer.is_unclaimed() {
                    context.page_referrer = Value::Absent;
                }
                context.set_page(value()?);
            }
            // A name with a dot is a path, unless a `page` came before it.
            b"page.url" if self.page.is_unclaimed() && self.dotted_url.claim(&name) => {
                context.page_url = value()?;
            }
            b"page.referrer" if self.page.is_unclaimed() && self.dotted_referrer.claim(&name) => {
                context.page_referrer = value()?;
            }
            b"library" if self.library.claim(&name) => {
                context.library_name = match value()? {
                    Value::Object(text) => library_name(text),
                    name @ Value::String(_) => name,
                    _ => Value::Absent,
                };
            }
            b"providers" if self.providers.claim(&name) => {
                let providers = value()?;
                let is_object = matches!(providers, Value::Object(_));
                context.providers = is_object.then(|| DestinationFlags::parse(providers));
            }
            flag if DestinationFlags::is_flag(flag) => {
                let value = value()?;
                context.flags.member(&name, flag, value);
            }
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// Returns the name in a `library` object.
fn library_name(library: &str) -> Value<'_> {
    let (mut found, mut first) = (Value::Absent, FirstMatch::default());
    for_each_member(library, &mut |name, value| {
        if key_matches(&name.0, b"name") && first.claim(name) {
            found = value;
        }
    });
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::segment::message::integrations::Integrations;
    use crate::segment::message::{Body, MessageType};

    /// Reads a value of a context.
    type Get = fn(&Context<'_>) -> String;

    /// Returns what `get` finds in a context with these members.
    fn found(members: &str, get: Get) -> String {
        let text = format!(r#"{{"context":{{{members}}}}}"#);
        let body = Body::parse(Some(MessageType::Track), &text, 1).unwrap();
        get(&body.messages[0].context)
    }

    #[test]
    fn context_takes_the_first_of_matching_names_and_the_last_of_equal_ones() {
        let cases: [(&str, &str, Get); 12] = [
            ("ip", "?", |c| c.ip.json().to_owned()),
            ("userAgent", "?", |c| c.user_agent.json().to_owned()),
            ("direct", "?", |c| c.direct.json().to_owned()),
            ("traits", "?", |c| c.traits.json().to_owned()),
            ("page.url", "?", |c| c.page_url.json().to_owned()),
            ("page.referrer", "?", |c| c.page_referrer.json().to_owned()),
            ("page", r#"{"url":?}"#, |c| c.page_url.json().to_owned()),
            ("page", r#"{"referrer":?}"#, |c| c.page_referrer.json().to_owned()),
            ("library", r#"{"name":?}"#, |c| c.library_name.json().to_owned()),
            ("library", r#""?""#, |c| c.library_name.json().trim_matches('"').to_owned()),
            ("personas", r#"{"computation_key":?}"#, |c| match c.personas {
                Personas::Object { computation_key } => computation_key.json().to_owned(),
                _ => String::new(),
            }),
            ("providers", r#"{"Keen IO":{"traits":?}}"#, |c| {
                Integrations::default().traits(c).json().to_owned()
            }),
        ];
        for (name, value, get) in cases {
            let other = name.to_uppercase();
            let member =
                |name: &str, number: &str| format!("\"{name}\":{}", value.replace('?', number));
            for (members, want) in [
                ([member(name, "1"), member(&other, "2")], "1"),
                ([member(&other, "1"), member(name, "2")], "1"),
                ([member(name, "1"), member(name, "2")], "2"),
            ] {
                assert_eq!(found(&members.join(","), get), want, "{members:?}");
            }
        }
    }

    #[test]
    fn page_takes_the_first_of_matching_names_and_the_last_of_equal_ones() {
        for (members, want) in [
            (r#""url":1,"URL":2,"referrer":3,"Referrer":4"#, "1 3"),
            (r#""URL":1,"url":2,"Referrer":3,"referrer":4"#, "1 3"),
            (r#""url":1,"url":2,"referrer":3,"referrer":4"#, "2 4"),
        ] {
            let page = format!("\"page\":{{{members}}}");
            let urls =
                |c: &Context<'_>| format!("{} {}", c.page_url.json(), c.page_referrer.json());
            assert_eq!(found(&page, urls), want, "{page}");
        }
        assert_eq!(
            found(r#""library":{"name":1,"Name":2}"#, |c| c.library_name.json().to_owned()),
            "1"
        );
    }

    #[test]
    fn page_before_a_dotted_name_counts_and_after_it_does_not() {
        let urls = |c: &Context<'_>| format!("{} {}", c.page_url.json(), c.page_referrer.json());
        let page = r#""page":{"url":1,"referrer":2}"#;
        let dotted = r#""page.url":3,"page.referrer":4"#;
        assert_eq!(found(&format!("{page},{dotted}"), urls), "1 2");
        assert_eq!(found(&format!("{dotted},{page}"), urls), "3 4");
        assert_eq!(found(&format!("\"page.url\":3,{page}"), urls), "3 2");
        assert_eq!(found(&format!("\"page.referrer\":4,{page}"), urls), "1 4");
        // The last page replaces the first one.
        assert_eq!(found(&format!("{page},\"page\":{{}}"), urls), "null null");
    }
}
