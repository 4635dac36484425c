//! The users of messages: parses their ids, records identify messages, and selects the user that an
//! event contains.

use super::BatchValues;
use crate::config::{Mode, Source};
use crate::json::Value;
use crate::keen::sanitize::{Sanitized, is_placeholder_text, sanitize};
use crate::segment::message::Message;
use crate::segment::message::computed_traits::ComputedTraits;
use crate::segment::message::is_blank;
use crate::users::{
    SharedData, Update, User, UserKey, UserTransaction, json_to_text, merge_objects,
    sanitize_object,
};
use std::borrow::Cow;

/// An id of a message, parsed once for both the event and the user store.
#[derive(Debug, Clone)]
pub(super) struct Id<'a> {
    /// The id as events contain it.
    pub(super) json: Sanitized<'a>,
    /// The key of the user in the store. `None`: the id is ambiguous and is not stored.
    key: Option<Cow<'a, str>>,
}

impl<'a> Id<'a> {
    /// Parses an id. Returns `None` if it is empty, blank, or one of Keen's placeholders.
    /// `body_is_lossy`: the body contained bytes that are not UTF-8, which became U+FFFD.
    pub(super) fn new(value: Value<'a>, body_is_lossy: bool) -> Option<Self> {
        if !value.truthy() {
            return None;
        }
        let (text, lossy) = match value {
            Value::String(text) => text.decode_noting_loss(),
            Value::Number(digits) => (Cow::Borrowed(digits), false),
            _ => return Some(Self { json: sanitize(value, 1), key: None }),
        };
        if is_blank(&text) || is_placeholder_text(&text) {
            return None;
        }
        let is_ambiguous = lossy || (body_is_lossy && text.contains('\u{fffd}'));
        Some(Self { json: sanitize(value, 1), key: (!is_ambiguous).then_some(text) })
    }
}

/// The ids of a message.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids<'a> {
    pub(super) user: Option<Id<'a>>,
    pub(super) anonymous: Option<Id<'a>>,
    session: Option<Id<'a>>,
}

impl<'a> Ids<'a> {
    pub(super) fn new(message: &Message<'a>, body_is_lossy: bool) -> Self {
        let id = |value| Id::new(value, body_is_lossy);
        Self {
            user: id(message.user_id),
            anonymous: id(message.anonymous_id),
            session: id(message.session_id),
        }
    }

    /// Parses the ids that an event of `source` needs: all of them if `remember_users` is on,
    /// otherwise the first one that identifies the user.
    pub(super) fn for_event(message: &Message<'a>, source: &Source, body_is_lossy: bool) -> Self {
        if source.remember_users {
            return Self::new(message, body_is_lossy);
        }
        let mut ids = Self { user: Id::new(message.user_id, body_is_lossy), ..Self::default() };
        if ids.user.is_none() {
            ids.anonymous = Id::new(message.anonymous_id, body_is_lossy);
        }
        if ids.of_event().is_none() {
            ids.session = Id::new(message.session_id, body_is_lossy);
        }
        ids
    }

    /// The id that the event contains as `userId`: `userId`, else `anonymousId`, else `sessionId`.
    pub(super) fn of_event(&self) -> Option<&Id<'a>> {
        self.user.as_ref().or(self.anonymous.as_ref()).or(self.session.as_ref())
    }

    /// The key of the anonymous visitor.
    fn anonymous_key(&self) -> Option<&str> {
        self.anonymous.as_ref()?.key.as_deref()
    }
}

/// The traits of an identify without a `userId`, which apply to the rest of a page. The browser
/// integration calls them global properties.
///
/// Later events of the page contain these traits regardless of their `anonymousId`. Only the
/// messages of one batch are known to come from one page.
#[derive(Debug, Default)]
pub(crate) struct PageTraits(Option<(u64, String)>);

/// Records an identify message in the store. `page`: the traits of the page that the batch comes
/// from, if it comes from one page.
pub(super) fn identify(
    users: &mut UserTransaction<'_, impl SharedData>,
    source: &Source,
    message: &Message<'_>,
    computed: Option<&ComputedTraits>,
    ids: &Ids<'_>,
    page: Option<&mut PageTraits>,
) {
    let scope = source.key_hash;
    if let (Some(page), None) = (page, &computed) {
        let traits = if ids.user.is_none() { traits(message.traits) } else { String::new() };
        page.0 = (!traits.is_empty()).then_some((scope, traits));
    }
    let anonymous = ids.anonymous_key();
    // The user's key, and the id as JSON.
    let mut user = match &ids.user {
        Some(Id { key: Some(key), json }) => Some((key.to_string(), json.json.to_string())),
        // An ambiguous user is not stored.
        Some(_) => return,
        None => None,
    };
    if let (Some((_, json)), Some(anonymous)) = (&user, anonymous) {
        let visitor = UserKey::anonymous_id(scope, anonymous);
        users.record_update(visitor, Update::LinkUserId(json.clone()));
    }
    if let (None, Some(_), Some(anonymous)) = (&user, &computed, anonymous) {
        user = users
            .resolve_link(scope, anonymous)
            .and_then(|json| json_to_text(&json).map(|key| (key, json)));
    }
    let json = user.as_ref().map(|(_, json)| json.as_str());
    let update = match computed {
        Some(computed) if computed.traits.is_empty() => return,
        Some(computed) => {
            Update::MergeComputed(add_id_trait(source, json, sanitize_object(&computed.traits)))
        }
        None => Update::ReplaceTraits(add_id_trait(source, json, traits(message.traits))),
    };
    let key = match (&user, anonymous) {
        (Some((key, _)), _) => UserKey::user_id(scope, key),
        (None, Some(anonymous)) => UserKey::anonymous_id(scope, anonymous),
        (None, None) => return,
    };
    users.record_update(key, update);
}

/// Returns the user that an event contains: the stored user, else the message's own
/// `context.traits`, else the traits of its page.
pub(super) fn user_for_event(
    users: &mut UserTransaction<'_, impl SharedData>,
    source: &Source,
    message: &Message<'_>,
    ids: &Ids<'_>,
    batch: &BatchValues<'_>,
    page: Option<&PageTraits>,
) -> Option<User> {
    let scope = source.key_hash;
    let remembered = match (&ids.user, ids.anonymous_key()) {
        (Some(Id { key: Some(key), json }), _) => users
            .profile_for_user_id(scope, key)
            .map(|traits| User { id: Some(json.json.to_string()), traits }),
        (Some(_), _) | (None, None) => None,
        (None, Some(anonymous)) => users.profile_for_anonymous_id(scope, anonymous),
    };
    if remembered.is_some() {
        return remembered;
    }
    let own = match message.context.traits {
        Value::Object(_) => batch.get(message.context.traits).json,
        _ => Cow::Borrowed(""),
    };
    if !super::is_empty_container(&own) {
        let id = ids.user.as_ref().map(|id| id.json.json.to_string());
        return Some(User { traits: add_id_trait(source, id.as_deref(), own.into_owned()), id });
    }
    let page =
        page.and_then(|page| page.0.as_ref()).filter(|(of, _)| *of == scope && ids.user.is_none());
    page.filter(|(_, traits)| users.charge_trait_bytes(traits.len()))
        .map(|(_, traits)| User { id: None, traits: traits.clone() })
}

/// Adds the user's id to `traits` as `id`, as the browser integration does.
fn add_id_trait(source: &Source, user: Option<&str>, traits: String) -> String {
    match (source.mode, user) {
        (Mode::Device, Some(id)) => merge_objects(&traits, &format!("{{\"id\":{id}}}")),
        _ => traits,
    }
}

/// Returns the traits as a JSON object that Keen accepts. Empty if there are none.
fn traits(value: Value<'_>) -> String {
    if let Value::Object(text) = value { sanitize_object(text) } else { String::new() }
}

/// For tests of the store, which pass whole messages.
#[cfg(test)]
impl<S: SharedData> UserTransaction<'_, S> {
    pub(crate) fn identify(
        &mut self,
        source: &Source,
        message: &Message<'_>,
        page: Option<&mut PageTraits>,
    ) {
        let computed = ComputedTraits::parse(message, usize::MAX);
        identify(self, source, message, computed.as_ref(), &Ids::new(message, false), page);
    }

    pub(crate) fn user_for_event(
        &mut self,
        source: &Source,
        message: &Message<'_>,
        page: Option<&PageTraits>,
    ) -> Option<User> {
        let ids = Ids::new(message, false);
        user_for_event(self, source, message, &ids, &BatchValues::default(), page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{quoted, read_value};

    #[test]
    fn id_blank_and_placeholder_are_none() {
        for json in [
            "\"\"",
            "\" \"",
            r#""\t\u0000""#,
            r#""\u001f\u007f\u0085\u00a0\u3000""#,
            r#""\u200b\ufeff\u2060\u00ad""#,
            "\"\u{200b}\u{feff}\u{2800}\u{e0020}\"",
            "null",
            "0",
            "false",
            r#""${keen.ip}""#,
            r#""\u0024{keen.user_agent}""#,
        ] {
            assert!(Id::new(read_value(json).unwrap_or_default(), false).is_none(), "{json}");
        }
    }

    #[test]
    fn id_with_replaced_characters_is_shown_but_names_no_user() {
        let lone = Id::new(read_value(r#""u\ud800""#).unwrap_or_default(), false);
        let lone = lone.map(|id| (id.json.json.into_owned(), id.key));
        assert_eq!(lone, Some((quoted("u\u{fffd}"), None)));
        for (lossy, named) in [(false, true), (true, false)] {
            let id = Id::new(read_value("\"u\u{fffd}\"").unwrap_or_default(), lossy);
            assert_eq!(id.and_then(|id| id.key).is_some(), named);
        }
    }
}
