//! Values that a batch sets for all its messages, sanitized once per request.

use crate::json::Value;
use crate::keen::sanitize::{Sanitized, sanitize};
use crate::segment::message::Message;
use crate::timestamp;
use std::borrow::Cow;

/// Minimum size of a shared value, in bytes. A shorter one costs less to sanitize than to find.
const MIN_SHARED_BYTES: usize = 64;

/// The values of a batch that its events may contain, sanitized once.
#[derive(Debug, Default)]
pub(super) struct BatchValues<'a> {
    /// `sentAt`
    pub(super) sent_at: Option<i64>,
    values: Vec<(Value<'a>, Sanitized<'a>)>,
    /// Number of names and values that were changed.
    pub(super) sanitized: u32,
}

impl<'a> BatchValues<'a> {
    pub(super) fn new(batch: &Message<'a>) -> Self {
        let context = &batch.context;
        let of_context = [
            context.ip,
            context.user_agent,
            context.page_url,
            context.page_referrer,
            context.traits,
        ];
        let traits = batch.integrations.every_traits(context);
        let mut found =
            Self { sent_at: timestamp::parse_sent_at(batch.sent_at), ..Self::default() };
        for value in of_context.into_iter().chain(traits) {
            if value.json().len() >= MIN_SHARED_BYTES && found.find(value).is_none() {
                let sanitized = sanitize(value, 1);
                found.sanitized = found.sanitized.saturating_add(sanitized.changes);
                found.values.push((value, sanitized));
            }
        }
        found
    }

    /// Returns a message's value, sanitized. A value inherited from the batch is not sanitized
    /// again.
    pub(super) fn get<'m>(&'m self, value: Value<'m>) -> Sanitized<'m> {
        match self.find(value) {
            Some(shared) => Sanitized { json: Cow::Borrowed(&shared.json), changes: 0 },
            None => sanitize(value, 1),
        }
    }

    /// Returns the batch's value that is the same slice of the body.
    fn find(&self, value: Value<'_>) -> Option<&Sanitized<'a>> {
        let same = |shared: &&(Value<'_>, _)| std::ptr::eq(shared.0.json(), value.json());
        self.values.iter().find(same).map(|(_, sanitized)| sanitized)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::segment::message::Body;

    #[test]
    fn get_values_of_the_batch_are_shared_and_those_of_a_message_are_not() {
        let agent = format!("{{\"a.b\":\"{}\"}}", "x".repeat(100));
        let text = format!(
            r#"{{"context":{{"userAgent":{agent}}},"batch":[{{}},{{"context":{{"userAgent":{agent}}}}}]}}"#
        );
        let mut body = Body::parse(None, &text, 9).unwrap();
        body.apply_batch_defaults();
        let values = BatchValues::new(&body.batch);
        assert_eq!(values.sanitized, 1);
        let of = |index: usize| values.get(body.messages[index].context.user_agent);
        assert_eq!(of(0).json, of(1).json);
        assert!(matches!(of(0).json, Cow::Borrowed(_)) && matches!(of(1).json, Cow::Owned(_)));
    }

    #[test]
    fn get_traits_of_the_batchs_options_are_shared_wherever_they_are() {
        let traits = format!("{{\"a.b\":\"{}\"}}", "x".repeat(100));
        for place in [r#""integrations":{_}"#, r#""context":{_}"#, r#""context":{"providers":{_}}"#]
        {
            for name in ["Keen IO", "Keen", "keen_io"] {
                let options = format!("\"{name}\":{{\"traits\":{traits}}}");
                let text = format!("{{{},\"batch\":[{{}}]}}", place.replace('_', &options));
                let mut body = Body::parse(None, &text, 9).unwrap();
                body.apply_batch_defaults();
                let values = BatchValues::new(&body.batch);
                let message = &body.messages[0];
                let found = values.get(message.integrations.traits(&message.context));
                assert!(found.json.starts_with("{\"a_b\""), "{text}");
                assert!(matches!(found.json, Cow::Borrowed(_)), "{text}");
                assert_eq!((values.sanitized, found.changes), (1, 0), "{text}");
            }
        }
    }
}
