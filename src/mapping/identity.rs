//! Messages as they concern users: what an identify says of whom, and whom an event shows.

use crate::config::{Mode, Source};
use crate::json::Value;
use crate::keen::event_writer::write_legal;
use crate::segment::message::Message;
use crate::segment::message::computed_traits::engage;
use crate::users::{
    SharedData, Update, User, UserKey, UserTransaction, json_to_text, merge_objects,
    sanitize_object,
};

/// Bytes of remembered traits that the events of one request show, at most: a short event must not be worth a long one
/// a thousand times.
const SHOWN_BYTES: usize = 4_194_304;

/// What the browser integration calls its global properties: the identify without a `userId` that holds for a page.
///
/// It knows no visitors: whatever `anonymousId` the page's later calls bear, they show these traits. Of a page's calls we
/// only know that those of one batch are of one page.
#[derive(Debug, Default)]
pub struct PageTraits(Option<(u64, String)>);

impl<S: SharedData> UserTransaction<'_, S> {
    /// Takes an identify call. `page`: the page that it and the calls beside it are of, where they are of one.
    pub fn identify(
        &mut self,
        source: &Source,
        message: &Message<'_>,
        page: Option<&mut PageTraits>,
    ) {
        let scope = source.key_hash;
        let anonymous = message.anonymous_id.text();
        let mut user = json(message.user_id);
        let computed = engage(message);
        if let (Some(page), None) = (page, &computed) {
            let traits = if user.is_none() { traits(message.traits) } else { String::new() };
            page.0 = (!traits.is_empty()).then_some((scope, traits));
        }
        if let (Some(user), Some(anonymous)) = (&user, &anonymous) {
            self.record_update(
                UserKey::anonymous_id(scope, anonymous.as_ref()),
                Update::LinkUserId(user.clone()),
            );
        }
        if let (None, Some(_), Some(anonymous)) = (&user, &computed, &anonymous) {
            user = self.resolve_link(scope, anonymous);
        }
        let id = user.as_deref().and_then(json_to_text).or(anonymous.map(|id| id.into_owned()));
        let Some(id) = id else { return };
        let said = match computed {
            Some(engage) if engage.traits.is_empty() => return,
            Some(engage) => Update::MergeComputed(with_id(
                source,
                user.as_deref(),
                sanitize_object(&engage.traits),
            )),
            None => Update::ReplaceTraits(with_id(source, user.as_deref(), traits(message.traits))),
        };
        let key = match user {
            Some(_) => UserKey::user_id(scope, id),
            None => UserKey::anonymous_id(scope, id),
        };
        self.record_update(key, said);
    }

    /// The user whom an event shows: who is remembered, else who the message itself says it is (`context.traits`), else
    /// whom its page has identified.
    pub fn user_for_event(
        &mut self,
        source: &Source,
        message: &Message<'_>,
        page: Option<&PageTraits>,
    ) -> Option<User> {
        let scope = source.key_hash;
        let user = message.user_id.text();
        let remembered = match (&user, message.anonymous_id.text()) {
            (Some(id), _) => self
                .profile_for_user_id(scope, id)
                .map(|traits| User { id: json(message.user_id), traits }),
            (None, Some(id)) => self.profile_for_anonymous_id(scope, &id),
            (None, None) => None,
        };
        if let Some(mut user) = remembered {
            if !self.charge_trait_bytes(user.traits.len(), SHOWN_BYTES) {
                user.traits.clear();
            }
            return Some(user);
        }
        let own = traits(message.context.traits);
        if !own.is_empty() {
            let id = json(message.user_id);
            return Some(User { traits: with_id(source, id.as_deref(), own), id });
        }
        let page =
            page.and_then(|page| page.0.as_ref()).filter(|(of, _)| *of == scope && user.is_none());
        page.filter(|(_, traits)| self.charge_trait_bytes(traits.len(), SHOWN_BYTES))
            .map(|(_, traits)| User { id: None, traits: traits.clone() })
    }
}

/// The browser integration's traits hold the user's id, as `id`.
fn with_id(source: &Source, user: Option<&str>, traits: String) -> String {
    match (source.mode, user) {
        (Mode::Device, Some(id)) => merge_objects(&traits, &format!("{{\"id\":{id}}}")),
        _ => traits,
    }
}

fn traits(value: Value<'_>) -> String {
    if let Value::Object(text) = value { sanitize_object(text) } else { String::new() }
}

/// An id as JSON that Keen accepts, where there is one.
fn json(id: Value<'_>) -> Option<String> {
    let text = id.text()?;
    let mut quoted = Vec::new();
    match id {
        Value::Number(digits) => quoted.extend_from_slice(digits.as_bytes()),
        _ => crate::json::write_string(&mut quoted, &text),
    }
    let mut out = Vec::new();
    write_legal(&mut out, std::str::from_utf8(&quoted).ok()?).ok()?;
    String::from_utf8(out).ok()
}
